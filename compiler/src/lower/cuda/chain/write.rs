//! The body of a kernel that works along rows.

use slidec_kernels::functor;
use sliderun::op::Op;
use sliderun::op::sparse::QuantLift;
use sliderun::plan::manifest::{Step, ValueId};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::ops::Range;

use super::super::builder::{KernelBuilder, element_type, float};
use super::super::rows::norm;
use super::super::{Readers, pointwise};
use super::rows::{Operand, Rows};
use super::tile::Tile;

pub struct Writer<'p> {
    b: KernelBuilder<'p>,
    rows: &'p Rows,
    /// The values that are held, and the variables with their rows.
    held: BTreeMap<ValueId, String>,
    /// Whether there is a row already as it is quantized: its elements as memory would hold them.
    packed: bool,
    /// Calls of this kernel that reduce rows, so far.
    reductions: usize,
    body: String,
}

/// Steps by element that are written together: all that happens to a thread's vector before its next one.
struct Group<'p> {
    /// The steps by what they calculate.
    producers: HashMap<ValueId, &'p Step>,
    /// Arrays of a vector's elements, by value and the column that its row's part begins at.
    known: HashMap<(ValueId, usize), String>,
    /// What is rounded when it is packed.
    packed: Vec<ValueId>,
    text: String,
}

/// How often rows in memory are read.
#[derive(Clone, Copy)]
enum Source {
    /// One row for all.
    Same,
    /// Each once.
    Once,
    /// Each for several of the kernel's rows.
    Again,
}

impl Group<'_> {
    fn line(&mut self, text: &str) {
        writeln!(self.text, "        {text}").expect("text takes any text");
    }
}

impl<'p> Writer<'p> {
    pub fn new(mut b: KernelBuilder<'p>, rows: &'p Rows, tile: &Tile) -> Self {
        let (count, length) = (b.long_extent(&rows.count), rows.length);
        let Tile { threads, per_block, width, .. } = tile;
        let mut writer = Writer { b, rows, held: BTreeMap::new(), packed: false, reductions: 0, body: String::new() };
        writer.line(&format!("using Row = slide::RegisterRow<slide::RowGroup<{threads}, {per_block}>, {length}, {width}>;"));
        writer.line("constexpr int WIDTH = Row::WIDTH;");
        writer.line(&format!("const Row walk({length}, nullptr);"));
        writer.line(&format!("const bool stores = Row::Group::row() < {count};"));
        writer.line(&format!("const long long row = stores ? Row::Group::row() : {count} - 1;"));
        writer
    }

    pub fn finish(self) -> (KernelBuilder<'p>, String) {
        (self.b, self.body)
    }

    fn line(&mut self, text: &str) {
        writeln!(self.body, "    {text}").expect("text takes any text");
    }

    /// A variable for a value's rows.
    fn hold(&mut self, id: ValueId) -> String {
        let name = format!("v{}", self.held.len());
        self.line(&format!("Row {name}({}, nullptr);", self.rows.length));
        self.held.insert(id, name.clone());
        name
    }

    /// The source of `rows.cuh` for rows of an operand in memory, from a column on.
    fn source(&mut self, rows: &Rows, id: ValueId, from: Source, start: usize) -> String {
        let (pointer, ty) = (self.b.input(id), element_type(self.b.ty(self.b.root(id)).dtype));
        let pointer = if start == 0 { pointer } else { format!("{pointer} + {start}") };
        match from {
            Source::Same => format!("slide::SameRow<{ty}>{{{pointer}}}"),
            Source::Once => format!("slide::RowsOnce<{ty}>{{{pointer}, {}}}", rows.length),
            Source::Again => format!("slide::MatrixRows<{ty}>{{{pointer}, {}}}", rows.length),
        }
    }

    /// The first row, whose element `i` is calculated by itself.
    pub fn first(&mut self, step: &Step, body: &str, value: &str) {
        let ty = element_type(self.b.ty(step.outputs[0]).dtype);
        let row = self.hold(step.outputs[0]);
        self.line(&format!("{row}.each([&](int, int first, float (&y)[WIDTH]) {{"));
        self.line("#pragma unroll");
        self.line("for (int j = 0; j < WIDTH; ++j) {");
        self.line(&format!("const int i = static_cast<int>(row) * {} + first + j;", self.rows.length));
        self.body.push_str(body);
        self.line(&format!("y[j] = slide::rounded<{ty}>({value});"));
        self.line("}");
        self.line("});");
    }

    /// Steps by element, of all that the kernel does. Nothing is stored before all is calculated: what is loaded for the next vector might
    /// be what is stored, as far as the compiler knows.
    pub fn elements(&mut self, readers: &Readers, group: Range<usize>, all: &Range<usize>) {
        let program = self.b.program();
        let steps = &program.steps[group.clone()];
        let producers = steps.iter().flat_map(|s| s.outputs.iter().map(move |o| (*o, s))).collect();
        let kept = steps.iter().flat_map(|s| &s.outputs).copied().filter(|id| readers.beyond(*id, &group));
        let (packed, kept): (Vec<_>, Vec<_>) = kept.partition(|id| self.is_packed(readers, *id, all));
        let mut written = Group { producers, known: HashMap::new(), packed: packed.clone(), text: String::new() };
        let mut keeps = String::new();
        for &id in &kept {
            let from = self.eval(&mut written, id, 0);
            let row = self.hold(id);
            writeln!(keeps, "        for (int j = 0; j < WIDTH; ++j) {row}.values[slot][j] = {from}[j];")
                .expect("text takes any text");
        }
        for &id in &packed {
            let from = self.eval(&mut written, id, 0);
            self.pack(id);
            let ty = element_type(self.b.ty(id).dtype);
            writeln!(keeps, "        packed.vector[slot] = slide::from_floats<{ty}>({from});").expect("text takes any text");
        }
        self.line("walk.each_slot([&](int slot, int i) {");
        self.body.push_str(&written.text);
        self.body.push_str(&keeps);
        self.line("});");
        kept.iter().for_each(|id| self.store_for(readers, *id, all));
    }

    /// Whether only the quantization that a kernel ends with reads a value.
    fn is_packed(&self, readers: &Readers, id: ValueId, all: &Range<usize>) -> bool {
        let quantizes = |at: &usize| matches!(self.b.program().steps.get(*at).map(|s| &s.op), Some(Op::QuantLift(_)));
        matches!(readers.of(id), [at] if all.contains(at) && quantizes(at))
    }

    /// A variable for a value's elements as they are quantized.
    fn pack(&mut self, id: ValueId) {
        self.line(&format!("slide::PackedRow<{}, Row> packed;", element_type(self.b.ty(id).dtype)));
        self.packed = true;
    }

    /// The array with a vector of a value, from the column `start` of its rows on.
    fn eval(&mut self, group: &mut Group<'p>, id: ValueId, start: usize) -> String {
        let root = self.b.root(id);
        if let Some(known) = group.known.get(&(root, start)) {
            return known.clone();
        }
        if let Some(held) = self.held.get(&root) {
            return format!("{held}.values[slot]");
        }
        let step = group.producers[&root];
        let name = match self.rows.parts(self.b.program(), step) {
            Some(starts) => {
                let part = step.outputs.iter().position(|o| *o == root).expect("a step has its own results");
                let source = step.inputs[0].expect("the operator has this operand");
                let whole = &self.rows.whole.as_ref().expect("there are parts").rows;
                if group.producers.contains_key(&self.b.root(source)) {
                    self.eval(group, source, starts[part])
                } else {
                    let source = self.source(whole, source, Source::Once, starts[part]);
                    self.load(group, &source, "row")
                }
            }
            None => self.calculate(group, step, start),
        };
        group.known.insert((root, start), name.clone());
        name
    }

    /// A new array.
    fn array(group: &mut Group<'_>) -> String {
        // Each array is declared on its own line.
        let name = format!("a{}", group.text.matches("float a").count());
        group.line(&format!("float {name}[WIDTH];"));
        name
    }

    fn load(&mut self, group: &mut Group<'_>, source: &str, row: &str) -> String {
        let name = Self::array(group);
        group.line(&format!("{source}.load({row}, i, {name});"));
        name
    }

    /// The rows that a step's results are on: these, or the longer ones.
    fn rows_of(&self, step: &Step) -> &'p Rows {
        let whole = self.rows.whole.as_ref().filter(|whole| whole.values.contains(&step.outputs[0]));
        whole.map_or(self.rows, |whole| &whole.rows)
    }

    /// Element j of an operand's vector, from a column on.
    fn operand(&mut self, group: &mut Group<'p>, step: &Step, slot: usize, start: usize) -> String {
        let id = step.inputs[slot].expect("the operator has this operand");
        let root = self.b.root(id);
        if group.producers.contains_key(&root) || self.held.contains_key(&root) {
            return format!("{}[j]", self.eval(group, id, start));
        }
        let rows = self.rows_of(step);
        let shape = self.b.ty(step.outputs[0]).shape.clone();
        let (from, row) = match rows.operand(self.b.program(), id, &shape, &[]) {
            // Sums of a product lie as its result does, whatever shape they have.
            None if slot == 0 && matches!(step.op, Op::Dequant(_)) => (Source::Once, "row".to_owned()),
            Some(Operand::Matrix) => (Source::Once, "row".to_owned()),
            Some(Operand::Same) => (Source::Same, "row".to_owned()),
            Some(Operand::Repeated(count)) => (Source::Again, format!("row % {}", self.b.long_extent(&count))),
            Some(Operand::Each) => return format!("slide::element({}, row)", self.b.input(id)),
            Some(Operand::One) => return format!("slide::element({}, 0)", self.b.input(id)),
            Some(Operand::Held) | None => unreachable!("the step was said to be supported"),
        };
        let source = self.source(rows, id, from, start);
        format!("{}[j]", self.load(group, &source, &row))
    }

    fn calculate(&mut self, group: &mut Group<'p>, step: &Step, start: usize) -> String {
        let ty = self.b.ty(step.outputs[0]).dtype;
        let mut operand = |slot: usize| self.operand(group, step, slot, start);
        let value = match &step.op {
            Op::Unary(f) => pointwise::unary(*f, ty, &operand(0)),
            Op::Cast(_) => operand(0),
            Op::Binary(f) => {
                let (a, b) = (operand(0), operand(1));
                pointwise::binary(*f, &a, &b)
            }
            Op::Dequant(op) => {
                let [acc, token, channel] = [0, 1, 2].map(&mut operand);
                // Never fused to a multiply-add, which rounds differently.
                let mut value = format!("__fmul_rn(__fmul_rn({acc}, {token}), {channel})");
                if step.inputs.get(3).copied().flatten().is_some() {
                    value = format!("__fadd_rn({value}, {})", operand(3));
                }
                op.activation.map_or(value.clone(), |f| format!("{}({value})", functor(f)))
            }
            op => unreachable!("{} was not said to be supported", op.name()),
        };
        let name = Self::array(group);
        group.line("#pragma unroll");
        group.line(&format!("for (int j = 0; j < WIDTH; ++j) {name}[j] = {value};"));
        if ty.size() < 4 && !group.packed.contains(&step.outputs[0]) {
            group.line(&format!("slide::round_elements<{}>({name});", element_type(ty)));
        }
        name
    }

    /// A normalised row.
    pub fn norm(&mut self, step: &Step) {
        let (norm, epsilon) = norm(&step.op).expect("only normalisations are left");
        let x = step.inputs[0].expect("the operator has this operand");
        let ty = element_type(self.b.ty(step.outputs[0]).dtype);
        let from = self.held.get(&self.b.root(x)).cloned();
        let row = self.hold(step.outputs[0]);
        match from {
            Some(from) => self.line(&format!("{row} = {from};")),
            None => {
                let source = self.source(self.rows, x, Source::Once, 0);
                self.line(&format!("{row}.fill({source}, row);"));
            }
        }
        let scale = self.source(self.rows, step.inputs[1].expect("the operator has this operand"), Source::Same, 0);
        let bias = step.inputs.get(2).copied().flatten();
        let bias = bias.map_or("slide::NoBias{}".to_owned(), |id| self.source(self.rows, id, Source::Same, 0));
        self.line(&format!(
            "slide::normalize_held<slide::Norm::{norm}, {}>({row}, {scale}, {bias}, row, {});",
            self.reductions,
            float(epsilon)
        ));
        self.reductions += 2;
        self.line(&format!("{row}.each([&](int, int, float (&y)[WIDTH]) {{ slide::round_elements<{ty}>(y); }});"));
    }

    /// Writes a held row where any but these steps read it.
    pub fn store_for(&mut self, readers: &Readers, id: ValueId, steps: &Range<usize>) {
        if !readers.beyond(id, steps) {
            return;
        }
        let row = self.held[&id].clone();
        let (to, ty) = (self.b.output(id), element_type(self.b.ty(id).dtype));
        let sink = format!("slide::MatrixSink<{ty}>{{{to}, {}}}", self.rows.length);
        self.line(&format!("if (stores) {row}.each([&](int, int i, const float (&y)[WIDTH]) {{ {sink}.store(row, i, y); }});"));
    }

    pub fn quant_lift(&mut self, step: &Step, op: &QuantLift) {
        let x = step.inputs[0].expect("the operator has this operand");
        if !self.packed {
            let (from, ty) = (self.held[&self.b.root(x)].clone(), element_type(self.b.ty(x).dtype));
            self.pack(x);
            self.line(&format!(
                "walk.each_slot([&](int slot, int) {{ packed.vector[slot] = slide::from_floats<{ty}>({from}.values[slot]); }});"
            ));
        }
        let to = self.b.output(step.outputs[0]);
        let scale = step.outputs.get(1).map_or("nullptr".to_owned(), |&scale| self.b.output(scale));
        let n = op.layout.segments[0].pattern.map_or(1, |p| p.n());
        // Rows of one block are of whole warps each, so that those past the end can leave.
        self.line("if (!stores) return;");
        self.line(&format!(
            "slide::quant_lift_held<{}, {n}, {}, {}>(packed, row, {to}, {scale});",
            element_type(op.to),
            op.layout.k(),
            op.layout.lifted()
        ));
    }
}
