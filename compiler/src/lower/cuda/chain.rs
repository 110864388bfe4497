//! Steps along rows that one kernel does, each row held by its threads from the first step to the last: what follows a product (scaling
//! back, bias, residual, normalisation), and quantizing for the next one.
//!
//! Values between the steps are rounded as memory would have rounded them, so that fusing changes no number.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::elementwise::Binary;
use sliderun::op::sparse::QuantLift;
use sliderun::plan::manifest::{Program, Step, ValueId};
use std::fmt::Write;
use std::ops::Range;

use super::builder::{Generated, KernelBuilder, ceil_div, element_type, float, rows_of};
use super::pointwise;
use super::rows::norm;
use super::{Readers, root};

/// The shortest row that steps by element are done along.
const SHORTEST: usize = 128;
/// The longest row that is held.
const LONGEST: usize = 16 * 1024;
/// Shared memory that a block's lifted rows may take: what `quant_lift.cuh` lifts in one segment.
const SHARED_BYTES: usize = 47 * 1024;

/// Steps that one kernel does.
pub struct Chain {
    /// How many.
    pub steps: usize,
    /// So many of them are calculated element by element to make the first row that is held; 0 where rows are read.
    lead: usize,
    rows: Rows,
}

impl Chain {
    /// The steps from one on; `None` where there is nothing to gain. `elements`: as many from this one on another kernel can do element by
    /// element.
    pub fn at(program: &Program, first: usize, elements: usize) -> Option<Chain> {
        let lead = lead(program, first, elements);
        let rows = Rows::of(program, program.steps.get(first + lead.saturating_sub(1))?)?;
        let mut held: Vec<ValueId> = program.steps[first..first + lead].last().map(|root| root.outputs[0]).into_iter().collect();
        let mut steps = lead;
        let mut whole_rows = false;
        for step in &program.steps[first + lead..] {
            let joins = steps == 0 || step.inputs.iter().flatten().any(|id| held.contains(&root(program, *id)));
            if !joins || !rows.supports(program, step, &held) {
                break;
            }
            steps += 1;
            whole_rows |= !matches!(step.op, Op::Unary(_) | Op::Binary(_) | Op::Cast(_));
            if matches!(step.op, Op::QuantLift(_)) {
                break;
            }
            held.push(step.outputs[0]);
        }
        // Elements alone are worth whole vectors where the other kernel would not do more steps.
        let vectors = rows.length >= SHORTEST && rows.length.is_multiple_of(8) && steps >= elements;
        let gains = if whole_rows { steps > 1 } else { steps > 0 && lead == 0 && vectors };
        gains.then_some(Chain { steps, lead, rows })
    }

    /// The kernel; `first` is the first step's position.
    pub fn kernel(&self, program: &Program, readers: &Readers, launch: usize, first: usize) -> Generated {
        let Chain { lead, ref rows, .. } = *self;
        let positions = first..first + self.steps;
        let steps = &program.steps[positions.clone()];
        let tile = if lead > 0 { Tile::new(rows.length, 4) } else { rows.tile(program, steps) };
        let name = steps.last().map_or("", |s| s.op.name());
        let mut b = KernelBuilder::new(program, launch, &format!("rows_{name}"));
        let mut element = None;
        if lead > 0 {
            let (builder, body, value) = pointwise::element(b, &steps[..lead]);
            (b, element) = (builder, Some((body, value)));
        }
        let mut writer = Writer { b, rows, held: Vec::new(), body: String::new() };
        let count = writer.b.long_extent(&rows.count);
        let Tile { threads, per_block, width } = tile;
        writer
            .line(&format!("using Row = slide::RegisterRow<slide::RowGroup<{threads}, {per_block}>, {}, {width}>;", rows.length));
        writer.line("constexpr int WIDTH = Row::WIDTH;");
        writer.line(&format!("const bool stores = Row::Group::row() < {count};"));
        writer.line(&format!("const long long row = stores ? Row::Group::row() : {count} - 1;"));
        if let ([.., root], Some((body, value))) = (&steps[..lead], element) {
            writer.first(root, &body, &value);
            writer.store_for(readers, root, &positions);
        }
        for step in &steps[lead..] {
            match &step.op {
                Op::QuantLift(op) => writer.quant_lift(step, op),
                _ => {
                    writer.step(step);
                    writer.store_for(readers, step, &positions);
                }
            }
        }
        let Writer { b, body, .. } = writer;
        b.finish(ceil_div(&rows.count, per_block), threads * per_block, 0, &body)
    }
}

/// See [`Chain`].
fn lead(program: &Program, first: usize, elements: usize) -> usize {
    let step = &program.steps[first];
    let along = Rows::of(program, step).is_some_and(|rows| rows.supports(program, step, &[]));
    if along || elements == 0 || step.outputs.len() != 1 {
        return 0;
    }
    let root = program.steps[first + elements - 1].outputs[0];
    if is_held_type(program.values[root.0 as usize].ty.dtype) { elements } else { 0 }
}

fn is_held_type(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::Bf16)
}

/// The rows that a kernel's steps have in common.
struct Rows {
    length: usize,
    count: Dim,
}

/// How an operand lies beside the rows.
enum Operand {
    /// The kernel has calculated it.
    Held,
    /// A row for each row.
    Matrix,
    /// So many rows, again and again.
    Repeated(Dim),
    /// One row for all.
    Same,
    /// An element for each row.
    Each,
    /// One element for all.
    One,
}

impl Rows {
    fn of(program: &Program, step: &Step) -> Option<Rows> {
        let ty = &program.values[step.outputs.first()?.0 as usize].ty;
        let length = ty.shape.last()?.as_usize().filter(|n| (1..=LONGEST).contains(n))?;
        Some(Rows { length, count: rows_of(&ty.shape) })
    }

    fn supports(&self, program: &Program, step: &Step, held: &[ValueId]) -> bool {
        let ty = |id: ValueId| &program.values[id.0 as usize].ty;
        let out = ty(step.outputs[0]);
        let along = |id: &ValueId| self.operand(program, *id, out.shape.as_slice(), held);
        let floats = step.inputs.iter().flatten().all(|id| is_held_type(ty(*id).dtype) && along(id).is_some());
        let as_rows = out.shape.last().and_then(Dim::as_usize) == Some(self.length) && rows_of(&out.shape) == self.count;
        let result = is_held_type(out.dtype) && as_rows;
        let last = out.rank().saturating_sub(1);
        match &step.op {
            Op::Unary(_) | Op::Cast(_) => floats && result,
            Op::Binary(f) => floats && result && !matches!(f, Binary::Mod { .. }),
            Op::Dequant(_) => {
                let acc = step.inputs[0].map(|id| ty(id).dtype);
                let rest = step.inputs[1..].iter().flatten().all(|id| along(id).is_some());
                result && rest && acc.is_some_and(|dtype| dtype == DType::I32 || is_held_type(dtype))
            }
            Op::LayerNorm(op) => floats && result && op.axis == last && !op.stats && self.one_row(program, &step.inputs[1..]),
            Op::RmsNorm(op) => floats && result && op.axis == last && self.one_row(program, &step.inputs[1..]),
            Op::QuantLift(op) => {
                let x = step.inputs[0].expect("the type rules demand this operand");
                let bytes = op.layout.lifted()
                    * op.to.size()
                    * Tile::new(self.length, 4).per_block.max(Tile::new(self.length, 2).per_block);
                held.contains(&root(program, x))
                    && ty(x).elements() == self.elements()
                    && op.layout.k() == self.length
                    && op.layout.segments.len() == 1
                    && bytes <= SHARED_BYTES
            }
            _ => false,
        }
    }

    /// How they are shared out: loads are of at most 16 bytes.
    fn tile(&self, program: &Program, steps: &[Step]) -> Tile {
        let values = steps.iter().flat_map(|s| s.inputs.iter().flatten().chain(&s.outputs));
        let beside = values.map(|id| &program.values[id.0 as usize].ty).filter(|ty| ty.shape.last().is_some_and(|d| !d.is_one()));
        Tile::new(self.length, beside.map(|ty| ty.dtype.size()).max().unwrap_or(4))
    }

    fn elements(&self) -> Dim {
        self.count.clone() * Dim::from(self.length)
    }

    /// Whether these operands are one row each.
    fn one_row(&self, program: &Program, operands: &[Option<ValueId>]) -> bool {
        operands.iter().flatten().all(|id| program.values[id.0 as usize].ty.elements() == Dim::from(self.length))
    }

    /// How an operand of a step with results of this shape lies beside the rows, if it does.
    fn operand(&self, program: &Program, id: ValueId, shape: &[Dim], held: &[ValueId]) -> Option<Operand> {
        let ty = &program.values[id.0 as usize].ty;
        if held.contains(&root(program, id)) {
            return (ty.elements() == self.elements()).then_some(Operand::Held);
        }
        if ty.elements().is_one() {
            return Some(Operand::One);
        }
        let (last, leading) = ty.shape.split_last()?;
        let leading = &leading[leading.iter().take_while(|d| d.is_one()).count()..];
        let whole = shape.len().checked_sub(1).is_some_and(|rank| shape[..rank].ends_with(leading));
        let count = Dim::product(leading);
        match last.as_usize() {
            Some(n) if n == self.length && leading.is_empty() => Some(Operand::Same),
            Some(n) if n == self.length && whole && count == self.count => Some(Operand::Matrix),
            Some(n) if n == self.length && whole => Some(Operand::Repeated(count)),
            Some(1) if whole && count == self.count => Some(Operand::Each),
            _ => None,
        }
    }
}

/// How rows are shared out among threads.
struct Tile {
    /// Per row.
    threads: usize,
    /// Rows of a block.
    per_block: usize,
    /// Elements side by side.
    width: usize,
}

impl Tile {
    /// For rows of elements of so many bytes.
    fn new(length: usize, bytes: usize) -> Tile {
        const WARP: usize = 32;
        let width = (1 << length.trailing_zeros().min(3)).min(16 / bytes);
        let vectors = length / width;
        // One vector a thread as long as several blocks fit on a multiprocessor: rows are short, and waiting is most of the work.
        let each = match vectors {
            0..=256 => 1,
            257..=1024 => 2,
            _ => vectors.div_ceil(512),
        };
        let threads = vectors.div_ceil(each).next_multiple_of(WARP).min(1024);
        Tile { threads, per_block: if threads == WARP { 4 } else { 1 }, width }
    }
}

struct Writer<'p> {
    b: KernelBuilder<'p>,
    rows: &'p Rows,
    /// The values that are held, by the position of the step that calculates them.
    held: Vec<ValueId>,
    body: String,
}

impl Writer<'_> {
    fn line(&mut self, text: &str) {
        writeln!(self.body, "    {text}").expect("text takes any text");
    }

    fn position(&self, id: ValueId) -> Option<usize> {
        let root = self.b.root(id);
        self.held.iter().position(|h| *h == root)
    }

    /// The source of `rows.cuh` for rows of an operand.
    fn source(&mut self, id: ValueId, same: bool) -> String {
        let (pointer, ty) = (self.b.input(id), element_type(self.b.ty(self.b.root(id)).dtype));
        if same {
            format!("slide::SameRow<{ty}>{{{pointer}}}")
        } else {
            format!("slide::MatrixRows<{ty}>{{{pointer}, {}}}", self.rows.length)
        }
    }

    /// What loads an operand's elements, and element j of it.
    fn operand(&mut self, step: &Step, slot: usize) -> (String, String) {
        let id = step.inputs[slot].expect("the operator has this operand");
        if let Some(at) = self.position(id) {
            return (String::new(), format!("v{at}.values[slot][j]"));
        }
        let shape = self.b.ty(step.outputs[0]).shape.clone();
        let load = |source: &str, row: &str| {
            (format!("float a{slot}[WIDTH]; {source}.load({row}, i, a{slot}); "), format!("a{slot}[j]"))
        };
        match self.rows.operand(self.b.program(), id, &shape, &[]) {
            Some(Operand::Matrix) => load(&self.source(id, false), "row"),
            Some(Operand::Same) => load(&self.source(id, true), "row"),
            Some(Operand::Repeated(count)) => {
                let count = self.b.long_extent(&count);
                load(&self.source(id, false), &format!("row % {count}"))
            }
            Some(Operand::Each) => (String::new(), format!("slide::element({}, row)", self.b.input(id))),
            Some(Operand::One) => (String::new(), format!("slide::element({}, 0)", self.b.input(id))),
            Some(Operand::Held) | None => unreachable!("the step was said to be supported"),
        }
    }

    /// The first row, whose element `i` is calculated by itself.
    fn first(&mut self, step: &Step, body: &str, value: &str) {
        let (out, length) = (step.outputs[0], self.rows.length);
        let ty = element_type(self.b.ty(out).dtype);
        self.line(&format!("Row v0({length}, nullptr);"));
        self.line("v0.each([&](int, int first, float (&y)[WIDTH]) {");
        self.line("#pragma unroll");
        self.line("for (int j = 0; j < WIDTH; ++j) {");
        self.line(&format!("const int i = static_cast<int>(row) * {length} + first + j;"));
        self.body.push_str(body);
        self.line(&format!("y[j] = slide::rounded<{ty}>({value});"));
        self.line("}");
        self.line("});");
        self.held.push(out);
    }

    /// A step's row, as `v` and how many are held before it.
    fn step(&mut self, step: &Step) {
        let (at, out) = (self.held.len(), step.outputs[0]);
        let ty = self.b.ty(out).clone();
        let rounded = format!("slide::rounded<{}>", element_type(ty.dtype));
        if let Some((norm, epsilon)) = norm(&step.op) {
            let x = step.inputs[0].expect("the operator has this operand");
            match self.position(x) {
                Some(from) => self.line(&format!("Row v{at} = v{from};")),
                None => {
                    let source = self.source(x, false);
                    self.line(&format!("Row v{at}({}, nullptr);", self.rows.length));
                    self.line(&format!("v{at}.fill({source}, row);"));
                }
            }
            let scale = self.source(step.inputs[1].expect("the operator has this operand"), true);
            let bias = step.inputs.get(2).copied().flatten().map_or("slide::NoBias{}".to_owned(), |id| self.source(id, true));
            self.line(&format!(
                "slide::normalize_held<slide::Norm::{norm}, {}>(v{at}, {scale}, {bias}, row, {});",
                2 * at,
                float(epsilon)
            ));
            self.line(&format!(
                "v{at}.each([&](int, int, float (&y)[WIDTH]) {{ for (int j = 0; j < WIDTH; ++j) y[j] = {rounded}(y[j]); }});"
            ));
        } else {
            let (loads, value): (Vec<String>, String) = match &step.op {
                Op::Unary(f) => {
                    let (load, x) = self.operand(step, 0);
                    (vec![load], pointwise::unary(*f, ty.dtype, &x))
                }
                Op::Cast(_) => {
                    let (load, x) = self.operand(step, 0);
                    (vec![load], x)
                }
                Op::Binary(f) => {
                    let ((first, a), (second, b)) = (self.operand(step, 0), self.operand(step, 1));
                    (vec![first, second], pointwise::binary(*f, &a, &b))
                }
                Op::Dequant(op) => {
                    let id = step.inputs[0].expect("the operator has this operand");
                    let load = format!("float acc[WIDTH]; {}.load(row, i, acc); ", self.source(id, false));
                    let ((first, token), (second, channel)) = (self.operand(step, 1), self.operand(step, 2));
                    let mut loads = vec![load, first, second];
                    // Never fused to a multiply-add, which rounds differently.
                    let mut value = format!("__fmul_rn(__fmul_rn(acc[j], {token}), {channel})");
                    if step.inputs.get(3).copied().flatten().is_some() {
                        let (load, bias) = self.operand(step, 3);
                        loads.push(load);
                        value = format!("__fadd_rn({value}, {bias})");
                    }
                    (loads, op.activation.map_or(value.clone(), |f| format!("{}({value})", pointwise::functor(f))))
                }
                op => unreachable!("{} was not said to be supported", op.name()),
            };
            self.line(&format!("Row v{at}({}, nullptr);", self.rows.length));
            self.line(&format!("v{at}.each([&](int slot, int i, float (&y)[WIDTH]) {{"));
            let loads = loads.concat();
            if !loads.is_empty() {
                self.line(&format!("    {}", loads.trim_end()));
            }
            self.line("#pragma unroll");
            self.line(&format!("    for (int j = 0; j < WIDTH; ++j) y[j] = {rounded}({value});"));
            self.line("});");
        }
        self.held.push(out);
    }

    /// Writes the row that a step has calculated last, where any but these steps read it.
    fn store_for(&mut self, readers: &Readers, step: &Step, steps: &Range<usize>) {
        let (at, id) = (self.held.len() - 1, step.outputs[0]);
        if !readers.beyond(id, steps) {
            return;
        }
        let (to, ty) = (self.b.output(id), element_type(self.b.ty(id).dtype));
        let sink = format!("slide::MatrixSink<{ty}>{{{to}, {}}}", self.rows.length);
        self.line(&format!("if (stores) v{at}.each([&](int, int i, const float (&y)[WIDTH]) {{ {sink}.store(row, i, y); }});"));
    }

    fn quant_lift(&mut self, step: &Step, op: &QuantLift) {
        let x = step.inputs[0].expect("the operator has this operand");
        let from = self.position(x).expect("only a held row is quantized");
        let ty = element_type(self.b.ty(x).dtype);
        let to = self.b.output(step.outputs[0]);
        let scale = step.outputs.get(1).map_or("nullptr".to_owned(), |&scale| self.b.output(scale));
        let n = op.layout.segments[0].pattern.map_or(1, |p| p.n());
        // Rows of one block are of whole warps each, so that those past the end can leave.
        self.line("if (!stores) return;");
        self.line(&format!(
            "slide::quant_lift_held<{ty}, {}, {n}, {}, {}>(v{from}, row, {to}, {scale});",
            element_type(op.to),
            op.layout.k(),
            op.layout.lifted()
        ));
    }
}
