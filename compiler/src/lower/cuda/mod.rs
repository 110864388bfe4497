//! Launches for NVIDIA GPUs: a program's steps become kernels, of which this writes the CUDA C++, and matrix products that libraries do.
//!
//! One translation unit holds a plan's kernels: thin functions that call the templates of the project's headers with everything that the
//! plan fixes as template arguments. What varies from run to run, they are given.
//!
//! Must not know: graphs, cubins, how the source is compiled.

mod attention;
mod builder;
mod chain;
mod conv;
mod heads;
mod in_place;
mod missed;
mod order;
mod pointwise;
mod reduce;
mod resize;
mod rows;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::plan::cuda::{Kernel, Launch, Work, library_applies, library_multiple, library_of};
use sliderun::plan::manifest::{Program, Step, Storage, ValueId};

use super::refusal::Refusal;
use builder::Generated;
use chain::Chain;
use heads::Heads;
pub use missed::{Missed, missed};
pub use order::order;

/// What the generated code includes.
const HEADERS: [&str; 14] = [
    "activation.cuh",
    "attention.cuh",
    "attention_f32.cuh",
    "attention_hopper.cuh",
    "conv.cuh",
    "dequant.cuh",
    "element.cuh",
    "norm.cuh",
    "overlap.cuh",
    "quant_lift.cuh",
    "reduce.cuh",
    "resize.cuh",
    "rotary.cuh",
    "softmax.cuh",
];

/// The launches of programs that share their kernels.
#[derive(Debug, Default)]
pub struct Schedule {
    /// The kernels' definitions: CUDA C++.
    definitions: String,
    /// What was defined, without its name, and the name: layers repeat, and so do variants, and compiling takes time.
    known: HashMap<String, String>,
    /// How many programs there are.
    programs: usize,
}

impl Schedule {
    /// The kernels' source: CUDA C++.
    pub fn source(&self) -> String {
        HEADERS.map(|h| format!("#include \"{h}\"\n")).concat() + &self.definitions
    }

    /// The name of a kernel with this definition: a known one's, or, where it is new, its own, which no other program's kernel has.
    fn define(&mut self, kernel: &mut Kernel, source: String) {
        match self.known.entry(source.replace(&kernel.symbol, "")) {
            Entry::Occupied(known) => kernel.rename(known.get()),
            Entry::Vacant(new) => {
                let symbol = match self.programs {
                    1 => kernel.symbol.clone(),
                    n => format!("{}_v{n}", kernel.symbol),
                };
                self.definitions.push_str(&source.replace(&kernel.symbol, &symbol));
                kernel.rename(&symbol);
                new.insert(symbol);
            }
        }
    }

    /// Adds launches for all steps of a program, in order.
    ///
    /// # Errors
    /// Every step that has no kernel, all at once.
    pub fn add(&mut self, program: &Program) -> Result<Vec<Launch>, Vec<Refusal>> {
        self.programs += 1;
        schedule(program, self)
    }
}

fn schedule(program: &Program, kernels: &mut Schedule) -> Result<Vec<Launch>, Vec<Refusal>> {
    let mut launches = Vec::new();
    let mut refusals = Vec::new();
    let readers = Readers::new(program);
    let mut rest = program.steps.as_slice();
    let mut at = 0;
    while let Some(step) = rest.first() {
        let position = launches.len();
        let elements = if pointwise::supports(program, step).is_ok() { fusible(program, &readers, at) } else { 0 };
        let mut along_rows = false;
        let (count, generated) = if let Some(heads) = Heads::at(program, &readers, at) {
            (heads.steps.len(), Ok(Some(heads.kernel(program, &readers, position))))
        } else if let Some(chain) = Chain::at(program, &readers, at, elements) {
            along_rows = true;
            (chain.steps, Ok(Some(chain.kernel(program, &readers, position, at))))
        } else if reads_through(program, &readers, at) {
            (2, launch(program, position, &rest[..2]))
        } else if elements > 1 {
            (elements, Ok(Some(pointwise::kernel(program, &readers, position, at..at + elements))))
        } else {
            (1, launch(program, position, &rest[..1]))
        };
        let work = match generated {
            Ok(None) => Some(Work::Product),
            Ok(Some(Generated { mut kernel, source })) => {
                kernel.over = in_place::over(program, &readers, &(at..at + count), &kernel, along_rows);
                kernels.define(&mut kernel, source);
                Some(Work::Kernel(kernel))
            }
            Err(reason) => {
                let ty = |id: &ValueId| program.values[id.0 as usize].ty.clone();
                refusals.push(Refusal {
                    node: step.name.clone(),
                    operator: step.op.name(),
                    inputs: step.inputs.iter().flatten().map(ty).collect(),
                    reason: format!(
                        "CUDA devices cannot run it yet ({reason}); leave --target away to compile for the CPU alone"
                    ),
                });
                None
            }
        };
        launches.extend(work.map(|work| Launch { steps: u32::try_from(count).expect("steps are counted in u32"), work }));
        (rest, at) = (&rest[count..], at + count);
    }
    if refusals.is_empty() { Ok(launches) } else { Err(refusals) }
}

/// The kernel of steps that are launched together; `None` for a product that a library does.
fn launch(program: &Program, position: usize, steps: &[Step]) -> Result<Option<Generated>, String> {
    if let [split, step] = steps
        && let Op::Attention(op) = &step.op
    {
        return attention::kernel(program, position, Some(split), step, op).map(Some);
    }
    let [step] = steps else { unreachable!("a step, or a Split and the Attention that reads through it") };
    match &step.op {
        Op::SparseGemm(_) | Op::DenseGemm(_) => library_product(program, step).map(|()| None),
        Op::MatMul(op) => {
            let dtype = program.values[step.outputs[0].0 as usize].ty.dtype;
            match op.activation {
                _ if !dtype.computes_in_f32() => Err(format!("MatMul of {dtype}")),
                Some(function) if !library_applies(function, dtype) => Err(format!("MatMul with {function:?}")),
                _ => Ok(None),
            }
        }
        Op::Softmax(_) | Op::LayerNorm(_) | Op::RmsNorm(_) => rows::rows(program, position, step).map(Some),
        Op::QuantLift(op) => rows::quant_lift(program, position, step, op).map(Some),
        Op::Dequant(op) => rows::dequant(program, position, step, op).map(Some),
        Op::Attention(op) => attention::kernel(program, position, None, step, op).map(Some),
        Op::Reduce(op) => reduce::kernel(program, position, step, op).map(Some),
        Op::Conv(op) => conv::kernel(program, position, step, op).map(Some),
        _ => {
            pointwise::supports(program, step)?;
            Ok(Some(pointwise::of_step(program, position, step)))
        }
    }
}

/// Whether the step is a Split that only the Attention after it reads, and which need not be done for it.
fn reads_through(program: &Program, readers: &Readers, at: usize) -> bool {
    let [split, next, ..] = &program.steps[at..] else { return false };
    readers.only(split, at + 1) && attention::reads_through(program, split, next)
}

/// Whether cuSPARSELt or cuBLASLt has the product of a SparseGemm or DenseGemm, which is [.., K] · [N, K]ᵀ.
fn library_product(program: &Program, step: &Step) -> Result<(), String> {
    let ty = |id: ValueId| &program.values[id.0 as usize].ty;
    let x = ty(step.inputs[0].ok_or("an activation is missing")?);
    let sparse = matches!(step.op, Op::SparseGemm(_));
    let out = ty(step.outputs[0]).dtype;
    // cuSPARSELt rounds sums of 16-bit floats to what it multiplied.
    let sums = matches!(x.dtype, DType::I8 | DType::F8e4m3) || matches!(x.dtype, DType::Bf16 | DType::F16) && out == x.dtype;
    if sparse && !sums {
        return Err(format!("sparse products of {} to {out}; --precision int8, fp8, bf16 or fp16 is possible", x.dtype));
    }
    let (name, multiple) = (library_of(&step.op), library_multiple(sparse, x.dtype));
    let fits = |d: Option<&Dim>| d.and_then(Dim::as_usize).is_some_and(|d| d > 0 && d.is_multiple_of(multiple));
    let (k, n) = (x.shape.last(), ty(step.outputs[0]).shape.last());
    if !fits(k) || !fits(n) {
        let text = |d: Option<&Dim>| d.map_or("none".to_owned(), Dim::to_string);
        return Err(format!("{name} wants multiples of {multiple}, and K is {}, N {}", text(k), text(n)));
    }
    Ok(())
}

/// Who reads each value's elements.
struct Readers {
    /// By root: the steps, in order, and [`Readers::OUTPUT`] for a graph output.
    steps: Vec<Vec<usize>>,
}

impl Readers {
    /// In place of a step.
    const OUTPUT: usize = usize::MAX;

    fn new(program: &Program) -> Self {
        let root = |id: ValueId| root(program, id).0 as usize;
        let mut steps = vec![Vec::new(); program.values.len()];
        for (at, step) in program.steps.iter().enumerate() {
            step.inputs.iter().flatten().for_each(|id| steps[root(*id)].push(at));
        }
        program.outputs.iter().for_each(|o| steps[root(o.value)].push(Readers::OUTPUT));
        steps.iter_mut().for_each(Vec::dedup);
        Readers { steps }
    }

    /// Those of a value that a step computes.
    fn of(&self, value: ValueId) -> &[usize] {
        &self.steps[value.0 as usize]
    }

    /// Whether anything but these steps reads a value.
    fn beyond(&self, value: ValueId, steps: &std::ops::Range<usize>) -> bool {
        self.steps[value.0 as usize].iter().any(|r| !steps.contains(r))
    }

    /// Whether only this step reads what another one computes.
    fn only(&self, step: &Step, reader: usize) -> bool {
        step.outputs.iter().all(|o| self.steps[o.0 as usize].iter().all(|r| *r == reader))
    }
}

/// The value that holds the elements of another.
pub fn root(program: &Program, id: ValueId) -> ValueId {
    match program.values[id.0 as usize].storage {
        Storage::Alias(of) => of,
        _ => id,
    }
}

/// How many steps from this one on one kernel can do element by element: nobody else reads what all but the last compute, and they compute
/// as many elements as the last, or what costs nothing to compute for each of its elements. Cosines and sines that heads are turned by come
/// together, several results of one shape.
fn fusible(program: &Program, readers: &Readers, first: usize) -> usize {
    const MOST: usize = 16;
    let ty = |step: &Step| &program.values[step.outputs[0].0 as usize].ty;
    let mut count = 1;
    for end in first + 1..program.steps.len().min(first + MOST) {
        let last = &program.steps[end];
        if last.outputs.len() != 1 || program.steps[first].outputs.len() != 1 || pointwise::supports(program, last).is_err() {
            break;
        }
        let inside = |step: &Step| readers.of(step.outputs[0]).iter().all(|r| (first..=end).contains(r));
        let tables = |step: &Step| ty(step).shape == ty(last).shape && [step, last].iter().all(|s| is_table(program, readers, s));
        let fits = |step: &Step| {
            inside(step) && (ty(step).elements() == ty(last).elements() || pointwise::is_cheap(&step.op)) || tables(step)
        };
        if program.steps[first..end].iter().all(fits) {
            count = end + 1 - first;
        }
    }
    count
}

/// Whether all that read what a step computes turn heads by it.
fn is_table(program: &Program, readers: &Readers, step: &Step) -> bool {
    let turns = |reader: &usize| {
        program.steps.get(*reader).is_some_and(|s| {
            let tables = s.inputs.iter().skip(1).flatten().map(|id| root(program, *id));
            matches!(s.op, Op::Rotary(_)) && tables.clone().any(|id| id == step.outputs[0])
        })
    };
    let readers = readers.of(step.outputs[0]);
    !readers.is_empty() && readers.iter().all(turns)
}

#[cfg(test)]
mod tests;
