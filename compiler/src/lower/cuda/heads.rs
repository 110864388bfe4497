//! Steps between the product that gives queries, keys and values side by side and their readers, as one kernel: the sums are scaled back or
//! get their bias, are split, heads are turned (rotary position embedding), and each result goes where it is read: heads side by side,
//! or one after the other, in other types too. A rotary embedding by itself is done likewise.
//!
//! Values between the steps are rounded as memory would have rounded them, so that fusing changes no number.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::elementwise::{Binary, Cast};
use sliderun::op::layout::Transpose;
use sliderun::op::rotary::Rotary;
use sliderun::op::{Op, TensorType};
use sliderun::plan::manifest::{Program, Step, Storage, ValueId};

use super::builder::{Generated, KernelBuilder, ceil_div, element_type};
use super::{Readers, root};

/// Elements of one access at most: 16 bytes of 16-bit values.
const WIDEST: usize = 8;
/// Per block.
const THREADS: usize = 128;
/// Rows that a thread has under way at once.
const ROWS: usize = 4;

fn ty(program: &Program, id: ValueId) -> &TensorType {
    &program.values[id.0 as usize].ty
}

/// What is computed before the rows are split.
enum Source {
    /// Nothing but a conversion.
    Plain(ValueId),
    /// A row for all is added, in its type.
    Added(ValueId, ValueId),
    /// By a Dequant: the step's position.
    Scaled(usize),
}

/// A value that a part's columns are stored as.
struct Stored {
    value: ValueId,
    /// Heads and their depth, where heads come one after the other; side by side otherwise.
    heads_first: Option<(usize, usize)>,
    /// The types that elements go through, the value's own last.
    types: Vec<DType>,
}

/// Some columns: what one result of the Split has.
struct Part {
    start: usize,
    columns: usize,
    turned: Option<(Rotary, [ValueId; 2])>,
    /// The first is the part itself, turned where it is.
    values: Vec<Stored>,
}

/// See the module documentation.
pub struct Heads {
    source: Source,
    /// Extents of batch and tokens.
    rows: [Dim; 2],
    length: usize,
    parts: Vec<Part>,
    /// The steps' positions, in order.
    pub steps: Vec<usize>,
}

impl Heads {
    /// The steps that belong to a Split or Rotary, wherever they are in the program; `None` where there is nothing to gain.
    pub fn around(program: &Program, readers: &Readers, start: usize) -> Option<Heads> {
        let mut heads = Heads::of(program, readers, start)?;
        for at in start + 1..program.steps.len() {
            heads.take(program, readers, at);
        }
        heads.complete()
    }

    /// The consecutive steps from one on; `None` where there is nothing to gain.
    pub fn at(program: &Program, readers: &Readers, first: usize) -> Option<Heads> {
        const LONGEST_LEAD: usize = 4;
        let starts = |at: &usize| program.steps.get(*at).is_some_and(|s| matches!(s.op, Op::Split(_) | Op::Rotary(_)));
        let start = (first..=first + LONGEST_LEAD).find(starts)?;
        let mut heads = Heads::of(program, readers, start).filter(|h| h.steps.iter().copied().eq(first..=start))?;
        for at in start + 1..program.steps.len() {
            if !heads.take(program, readers, at) {
                break;
            }
        }
        heads.complete()
    }

    /// A Split, or a Rotary by itself, and what only it reads.
    fn of(program: &Program, readers: &Readers, start: usize) -> Option<Heads> {
        let step = &program.steps[start];
        let whole = step.inputs.first().copied().flatten()?;
        let whole_ty = ty(program, whole);
        let [batch, tokens, length] = whole_ty.shape.as_slice() else { return None };
        let (length, types) = (length.as_usize().filter(|n| *n > 0)?, vec![whole_ty.dtype]);
        let part = |start, columns, turned, value| {
            let stored = Stored { value, heads_first: None, types: types.clone() };
            Part { start, columns, turned, values: vec![stored] }
        };
        let mut parts = Vec::new();
        match (&step.op, &step.inputs[1..]) {
            (Op::Split(op), _) if op.axis == 2 => {
                let mut first = 0;
                for &value in &step.outputs {
                    let columns = ty(program, value).shape[2].as_usize().filter(|n| *n > 0)?;
                    parts.push(part(first, columns, None, value));
                    first = first.checked_add(columns)?;
                }
                (first == length).then_some(())?;
            }
            (&Op::Rotary(op), &[Some(cos), Some(sin)]) if op.heads > 0 && length.is_multiple_of(op.heads) => {
                parts.push(part(0, length, Some((op, [cos, sin])), step.outputs[0]));
            }
            _ => return None,
        }
        let (source, lead) = source(program, readers, start, root(program, whole));
        let (rows, steps) = ([batch.clone(), tokens.clone()], lead.into_iter().chain([start]).collect());
        whole_ty.dtype.computes_in_f32().then_some(Heads { source, rows, length, parts, steps })
    }

    /// Takes a step in, if it belongs to the others. Says whether it does.
    fn take(&mut self, program: &Program, readers: &Readers, at: usize) -> bool {
        let step = &program.steps[at];
        let ([out], Some(Some(x))) = (step.outputs.as_slice(), step.inputs.first()) else { return false };
        let (x_ty, out_ty, from) = (ty(program, *x), ty(program, *out), root(program, *x));
        if !out_ty.dtype.computes_in_f32() {
            return false;
        }
        let Some(part) = self.parts.iter().position(|p| p.values.iter().any(|v| v.value == from)) else { return false };
        let within = |id: ValueId| self.parts.iter().any(|p| p.values.iter().any(|v| v.value == root(program, id)));
        let tables = match step.inputs[1..] {
            [Some(cos), Some(sin)] if !within(cos) && !within(sin) => Some([cos, sin]),
            _ => None,
        };
        let part = &mut self.parts[part];
        let Some(stored) = part.values.iter().find(|v| v.value == from) else { return false };
        match (&step.op, tables) {
            (&Op::Rotary(op), Some(tables)) => {
                let alone = part.turned.is_none() && part.values.len() == 1 && readers.of(from) == [at];
                if !alone || x_ty.rank() != 3 || op.heads == 0 || !part.columns.is_multiple_of(op.heads) {
                    return false;
                }
                part.turned = Some((op, tables));
                part.values[0].value = *out;
            }
            (Op::Transpose(Transpose { perm }), _) => {
                let [batch, tokens, heads, depth] = x_ty.shape.as_slice() else { return false };
                let (Some(heads), Some(depth)) = (heads.as_usize(), depth.as_usize()) else { return false };
                let parts_rows =
                    [batch, tokens] == [&self.rows[0], &self.rows[1]] && heads.checked_mul(depth) == Some(part.columns);
                if *perm != [0, 2, 1, 3] || !parts_rows || stored.heads_first.is_some() {
                    return false;
                }
                let types = stored.types.clone();
                part.values.push(Stored { value: *out, heads_first: Some((heads, depth)), types });
            }
            (Op::Cast(Cast { to }), _) => {
                let types = stored.types.iter().copied().chain([*to]).collect();
                let heads_first = stored.heads_first;
                part.values.push(Stored { value: *out, heads_first, types });
            }
            _ => return false,
        }
        self.steps.push(at);
        true
    }

    /// Where there is more to do than to split and convert, and vectors fit.
    fn complete(self) -> Option<Heads> {
        let more = self.parts.iter().any(|p| p.turned.is_some() || p.values.iter().any(|v| v.heads_first.is_some()));
        (more && self.width() > 0).then_some(self)
    }

    /// Elements side by side that a thread does; 0 where pairs do not fit.
    fn width(&self) -> usize {
        let fits = |width: usize| {
            self.parts.iter().all(|part| {
                let apart = part.turned.is_none_or(|(op, _)| {
                    let depth = part.columns / op.heads;
                    let span = if op.interleaved { op.rotated } else { op.rotated / 2 };
                    span.is_multiple_of(width) && depth.is_multiple_of(width) && (!op.interleaved || width > 1)
                });
                let whole = |v: &Stored| v.heads_first.is_none_or(|(_, depth)| depth.is_multiple_of(width));
                apart && part.columns.is_multiple_of(width) && part.values.iter().all(whole)
            })
        };
        [WIDEST, 4, 2, 1].into_iter().find(|w| self.length.is_multiple_of(*w) && fits(*w)).unwrap_or(0)
    }

    /// The kernel; the steps are consecutive.
    pub fn kernel(&self, program: &Program, readers: &Readers, launch: usize) -> Generated {
        let mut b = KernelBuilder::new(program, launch, "heads");
        let (width, positions) = (self.width(), self.steps[0]..self.steps[self.steps.len() - 1] + 1);
        let sums = self.sums(&mut b);
        let (rows, tokens) = (self.rows[0].clone() * self.rows[1].clone(), b.extent(&self.rows[1]));
        let count = b.long_extent(&rows);
        let (mut units, mut parts) = (0, String::new());
        for part in &self.parts {
            let mut stores = String::new();
            for stored in part.values.iter().filter(|v| readers.beyond(v.value, &positions)) {
                let (to, last) = (b.output(stored.value), stored.types.len() - 1);
                // The last one's rounding is the store, the first one's is done.
                let between = stored.types.iter().take(last).skip(1);
                let types: Vec<&str> = [&stored.types[last]].into_iter().chain(between).map(|t| element_type(*t)).collect();
                let types = types.join(", ");
                let place = match stored.heads_first {
                    None => format!("at.row * {} + column", part.columns),
                    Some((heads, depth)) => format!("slide::heads_first<{heads}, {depth}>(at, column, {tokens})"),
                };
                stores += &format!(" slide::put_elements<{types}>({to} + {place}, y);");
            }
            let store = format!("[&](const slide::HeadRow& at, int column, const float (&y)[{width}]) {{{stores} }}");
            let (start, columns) = (part.start, part.columns);
            let call = match part.turned {
                None => {
                    units += columns / width;
                    format!("slide::straight_columns<{width}, {start}, {columns}>({store})")
                }
                Some((op, [cos, sin])) => {
                    let depth = columns / op.heads;
                    let spans = if op.interleaved { 1 } else { 2 };
                    units += op.heads * (op.rotated / (spans * width) + (depth - op.rotated) / width);
                    let ([c, s], [cos_batch, sin_batch]) =
                        ([cos, sin].map(|t| b.input(t)), [cos, sin].map(|t| self.of_batch(program, &mut b, t)));
                    format!(
                        "slide::turned_heads<{width}, {start}, {}, {depth}, {}, {}, {}>({{{c}, {s}, {cos_batch}, {sin_batch}}}, {store})",
                        op.heads,
                        op.rotated,
                        op.interleaved,
                        element_type(ty(program, cos).dtype)
                    )
                }
            };
            parts += &format!(",\n        {call}");
        }
        let body = format!("    const {sums};\n    slide::heads<{THREADS}, {ROWS}, {units}>(sums, {count}, {tokens}{parts});\n");
        b.finish(ceil_div(&rows, ROWS) * Dim::from(units.div_ceil(THREADS)), THREADS, 0, &body)
    }

    /// The definition of the rows that are split.
    fn sums(&self, b: &mut KernelBuilder<'_>) -> String {
        let (to, length) = (element_type(self.parts[0].values[0].types[0]), self.length);
        let c = |b: &KernelBuilder<'_>, id: ValueId| element_type(b.ty(id).dtype);
        match self.source {
            Source::Plain(x) => format!("slide::PlainSums<{}, {to}, {length}> sums{{{}}}", c(b, x), b.input(x)),
            Source::Added(x, row) => {
                let (x_type, row_type) = (c(b, x), c(b, row));
                format!("slide::AddedSums<{x_type}, {row_type}, {to}, {length}> sums{{{}, {}}}", b.input(x), b.input(row))
            }
            Source::Scaled(at) => {
                let step = &b.program().steps[at];
                let operand = |i: usize| step.inputs.get(i).copied().flatten();
                let pointer = |b: &mut KernelBuilder<'_>, id: Option<ValueId>| id.map_or("nullptr".to_owned(), |id| b.input(id));
                let acc = operand(0).map_or("float", |id| c(b, id));
                let [from, token, channel, bias] = [0, 1, 2, 3].map(|i| pointer(b, operand(i)));
                let biased = operand(3).is_some();
                format!("slide::ScaledSums<{acc}, {to}, {length}, {biased}> sums{{{from}, {token}, {channel}, {bias}}}")
            }
        }
    }

    /// Whether a table has angles of its own for each batch, in C++.
    fn of_batch(&self, program: &Program, b: &mut KernelBuilder<'_>, table: ValueId) -> String {
        let batch = &ty(program, table).shape[0];
        match batch.is_one() {
            true => "false".to_owned(),
            false if *batch == self.rows[0] => "true".to_owned(),
            false => format!("{} != 1", b.long_extent(batch)),
        }
    }
}

/// What computes the rows that the first reader takes, back from the value to what memory holds, and the steps' positions: those whose
/// results nobody else reads.
fn source(program: &Program, readers: &Readers, first: usize, whole: ValueId) -> (Source, Vec<usize>) {
    // The step that computes a value for one reader, if nothing moves in between.
    let only = |value: ValueId, reader: usize| {
        let computed = matches!(program.values[value.0 as usize].storage, Storage::Computed);
        let at = program.steps[..reader].iter().rposition(|s| s.outputs == [value])?;
        (computed && readers.of(value) == [reader]).then_some(at)
    };
    let converted = |value: ValueId, reader: usize| {
        let at = only(value, reader).filter(|at| matches!(program.steps[*at].op, Op::Cast(_)))?;
        let from = root(program, program.steps[at].inputs[0]?);
        ty(program, from).dtype.computes_in_f32().then_some((at, from))
    };
    if let Some(at) = only(whole, first)
        && matches!(program.steps[at].op, Op::Dequant(op) if op.activation.is_none())
    {
        return (Source::Scaled(at), vec![at]);
    }
    let (mut steps, mut value, mut reader) = (Vec::new(), whole, first);
    if let Some((at, from)) = converted(value, reader) {
        (value, reader) = (from, at);
        steps.push(at);
    }
    let added = |at: usize| {
        let step: &Step = &program.steps[at];
        let [Some(a), Some(b)] = step.inputs[..] else { return None };
        let row = |id: ValueId| {
            let ty = ty(program, id);
            let rest = ty
                .shape
                .split_last()
                .is_some_and(|(last, front)| *last == Dim::from(length_of(program, whole)) && front.iter().all(Dim::is_one));
            rest && matches!(program.values[root(program, id).0 as usize].storage, Storage::Constant(_))
        };
        let sum = ty(program, step.outputs[0]);
        let (x, row) = if row(b) {
            (a, b)
        } else if row(a) {
            (b, a)
        } else {
            return None;
        };
        let types = ty(program, row).dtype == sum.dtype && sum.dtype.computes_in_f32();
        (matches!(step.op, Op::Binary(Binary::Add)) && types && ty(program, x).elements() == sum.elements())
            .then_some((root(program, x), row))
    };
    if let Some(at) = only(value, reader)
        && let Some((x, row)) = added(at)
    {
        steps.push(at);
        let (mut from, mut reader) = (x, at);
        // Behind each other: what becomes f32 in between loses nothing by it.
        while let Some((cast, before)) = converted(from, reader)
            && (from == x || ty(program, from).dtype == DType::F32)
        {
            (from, reader) = (before, cast);
            steps.push(cast);
        }
        steps.reverse();
        return (Source::Added(from, row), steps);
    }
    steps.reverse();
    (Source::Plain(value), steps)
}

fn length_of(program: &Program, value: ValueId) -> usize {
    ty(program, value).shape.last().and_then(Dim::as_usize).unwrap_or(0)
}

#[cfg(test)]
mod tests;
