//! Rows that steps have in common, and how their operands lie beside them.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::elementwise::Binary;
use sliderun::plan::manifest::{Program, Step, ValueId};

use super::super::builder::rows_of;
use super::super::root;
use super::tile::Tile;

/// The longest row that is held.
const LONGEST: usize = 24 * 1024;
/// The longest row of which parts are held.
const LONGEST_WHOLE: usize = 128 * 1024;
/// Shared memory that a block's lifted rows may take: what `quant_lift.cuh` lifts in one segment.
const SHARED_BYTES: usize = 47 * 1024;

/// The rows that a kernel's steps have in common.
pub struct Rows {
    pub length: usize,
    pub count: Dim,
    /// The longer rows that these are parts of, where they are.
    pub whole: Option<Whole>,
}

/// Rows of which the steps that follow take parts.
pub struct Whole {
    pub rows: Box<Rows>,
    /// What is on such rows: what the kernel's first steps calculate, or what is read.
    pub values: Vec<ValueId>,
}

/// How an operand lies beside the rows.
pub enum Operand {
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

/// Whether rows of such elements are held.
pub fn is_held_type(dtype: DType) -> bool {
    dtype.computes_in_f32()
}

/// Whether a step calculates each element of a row from the same places of others.
pub fn by_element(op: &Op) -> bool {
    matches!(op, Op::Unary(_) | Op::Binary(_) | Op::Cast(_) | Op::Dequant(_))
}

/// The parts of equal length that a Split, or a Slice of every element from one to another, takes of rows: where each result begins, and
/// their length.
pub fn cuts(program: &Program, step: &Step) -> Option<(Vec<usize>, usize)> {
    let rank = program.values[step.inputs.first().copied().flatten()?.0 as usize].ty.rank();
    match &step.op {
        Op::Split(split) if split.axis + 1 == rank => {
            let sizes = split.sizes.iter().map(Dim::as_usize).collect::<Option<Vec<_>>>()?;
            let length = *sizes.first()?;
            sizes.iter().all(|size| *size == length).then(|| ((0..sizes.len()).map(|i| i * length).collect(), length))
        }
        Op::Slice(slice) => match slice.axes.as_slice() {
            [cut] if cut.axis + 1 == rank && cut.step == 1 => Some((vec![cut.start.as_usize()?], cut.len.as_usize()?)),
            _ => None,
        },
        _ => None,
    }
}

impl Rows {
    /// Those of a step's results.
    ///
    /// # Errors
    /// Why they are not held.
    pub fn of(program: &Program, step: &Step) -> Result<Rows, String> {
        Rows::up_to(program, step.outputs.first().copied(), LONGEST)
    }

    fn up_to(program: &Program, value: Option<ValueId>, longest: usize) -> Result<Rows, String> {
        let shape = value.map_or(&[][..], |id| program.values[id.0 as usize].ty.shape.as_slice());
        let last = shape.last().ok_or("a scalar has no rows")?;
        let length =
            last.as_usize().filter(|n| *n > 0).ok_or_else(|| format!("its rows have {last} elements, known only in runs"))?;
        if length > longest {
            return Err(format!("its rows of {length} elements are longer than the {longest} that are held"));
        }
        Ok(Rows { length, count: rows_of(shape), whole: None })
    }

    /// Those of a value of which parts are taken.
    ///
    /// # Errors
    /// Why parts of them are not held.
    pub fn whole(program: &Program, value: ValueId) -> Result<Rows, String> {
        Rows::up_to(program, Some(value), LONGEST_WHOLE)
    }

    /// What all places that vectors begin at are a multiple of.
    pub fn alignment(&self) -> usize {
        // Parts begin at multiples of their length: `part` sees to it.
        self.length
    }

    /// Whether a step's rows, element by element along these, can be calculated where those of `held` are.
    ///
    /// # Errors
    /// Why not.
    pub fn supports(&self, program: &Program, step: &Step, held: &[ValueId]) -> Result<(), String> {
        let ty = |id: ValueId| &program.values[id.0 as usize].ty;
        let out = ty(step.outputs[0]);
        let last = out.rank().saturating_sub(1);
        let result = || match () {
            () if !is_held_type(out.dtype) => Err(format!("it calculates {}", out.dtype)),
            () if out.shape.last().and_then(Dim::as_usize) != Some(self.length) || rows_of(&out.shape) != self.count => {
                Err("its result is of another shape".to_owned())
            }
            () => Ok(()),
        };
        let along = |id: &ValueId| match self.operand(program, *id, &out.shape, held) {
            Some(_) => Ok(()),
            None => {
                Err(format!("'{}' {} is broadcast in a way that rows do not have", program.values[id.0 as usize].name, ty(*id)))
            }
        };
        let floats = || {
            let other = step.inputs.iter().flatten().find(|id| !is_held_type(ty(**id).dtype));
            other.map_or(Ok(()), |id| Err(format!("it reads {}", ty(*id).dtype)))?;
            step.inputs.iter().flatten().try_for_each(along)
        };
        let norm = |axis: usize, parameters: &[Option<ValueId>]| {
            floats()?;
            result()?;
            if axis != last {
                return Err("it normalises over other axes than the last one".to_owned());
            }
            let row = |id: &ValueId| ty(*id).elements() == Dim::from(self.length);
            if parameters.iter().flatten().all(row) { Ok(()) } else { Err("its scale or bias is not one row".to_owned()) }
        };
        match &step.op {
            Op::Binary(Binary::Mod { .. }) => Err("rows have no Mod".to_owned()),
            Op::Unary(_) | Op::Cast(_) | Op::Binary(_) => floats().and_then(|()| result()),
            Op::Dequant(_) => {
                result()?;
                step.inputs[1..].iter().flatten().try_for_each(along)?;
                match step.inputs[0].map(|id| ty(id).dtype) {
                    Some(dtype) if dtype == DType::I32 || is_held_type(dtype) => Ok(()),
                    _ => Err("its sums are of another type".to_owned()),
                }
            }
            Op::LayerNorm(op) if op.stats => Err("its statistics are results too".to_owned()),
            Op::LayerNorm(op) => norm(op.axis, &step.inputs[1..]),
            Op::RmsNorm(op) => norm(op.axis, &step.inputs[1..]),
            Op::QuantLift(op) => {
                let x = step.inputs[0].expect("the type rules demand this operand");
                let per_block = Tile::new(self, 4).per_block.max(Tile::new(self, 2).per_block);
                let bytes = op.layout.lifted() * op.to.size() * per_block;
                match () {
                    () if !held.contains(&root(program, x)) => Err("what it quantizes is not held".to_owned()),
                    () if ty(x).elements() != self.elements() || op.layout.k() != self.length => {
                        Err(format!("it quantizes rows of {} elements, and {} are held", op.layout.k(), self.length))
                    }
                    () if step.inputs.len() > 1 => Err("it puts K into another order".to_owned()),
                    () if op.layout.segments.len() != 1 => Err("its layout has several segments".to_owned()),
                    () if bytes > SHARED_BYTES => {
                        Err(format!("its lifted rows take {bytes} bytes of shared memory, more than {SHARED_BYTES}"))
                    }
                    () => Ok(()),
                }
            }
            Op::Split(_) | Op::Slice(_) => self.parts(program, step).map(|_| ()).ok_or_else(|| "it moves elements".to_owned()),
            op if op.moves_elements() => Err("it moves elements".to_owned()),
            op => Err(format!("{} is not done along rows", op.name())),
        }
    }

    /// Where in the whole rows a step's results begin, which are parts of them as long as these rows.
    pub fn parts(&self, program: &Program, step: &Step) -> Option<Vec<usize>> {
        let whole = self.whole.as_ref()?;
        let source = root(program, step.inputs.first().copied().flatten()?);
        let along = program.values[step.inputs[0]?.0 as usize].ty.shape.last()?.as_usize() == Some(whole.rows.length);
        let (starts, length) = cuts(program, step)?;
        let aligned = starts.iter().all(|start| start.is_multiple_of(length)) && whole.rows.length.is_multiple_of(length);
        let count = rows_of(&program.values[step.outputs[0].0 as usize].ty.shape);
        let same = length == self.length && count == self.count && count == whole.rows.count;
        (along && aligned && same && whole.values.contains(&source)).then_some(starts)
    }

    pub fn elements(&self) -> Dim {
        self.count.clone() * Dim::from(self.length)
    }

    /// Whether a value is another row for each row, of these or of those that they are parts of.
    pub fn is_matrix(&self, program: &Program, id: ValueId) -> bool {
        let elements = program.values[id.0 as usize].ty.elements();
        let matrix = |rows: &Rows| elements == rows.elements();
        matrix(self) || self.whole.as_ref().is_some_and(|whole| matrix(&whole.rows))
    }

    /// How an operand of a step with results of this shape lies beside the rows, if it does.
    pub fn operand(&self, program: &Program, id: ValueId, shape: &[Dim], held: &[ValueId]) -> Option<Operand> {
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
