//! What the launches of a variant hold in the arena, and for how long: known without a device.
//!
//! A result takes the memory of an operand that nobody reads later where the kernel allows it ([`crate::plan::cuda::Over`]). The two are one
//! buffer to the planner, and so they are in the least that any layout needs.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::super::program::{Program, Source, index};
use super::super::{ArenaSize, SessionError, bind};
use super::is_sparse;
use crate::cuda::m_bucket;
use crate::dim::Bindings;
use crate::plan::Plan;
use crate::plan::arena::{self, Layout, Lifetime};
use crate::plan::cuda::Work;
use crate::plan::manifest::Step;

/// What a launch does with the arena's values, as positions in the program.
pub struct Traffic {
    pub reads: Vec<usize>,
    pub writes: Vec<usize>,
    /// Results, and operands whose memory they may take.
    over: Vec<(usize, usize)>,
    /// The step of a product by a library.
    product: Option<usize>,
}

impl Traffic {
    /// That of the launch of these steps.
    pub fn of(program: &Program, steps: &Range<usize>, work: &Work) -> Traffic {
        let own: &[Step] = &program.steps[steps.clone()];
        let written: Vec<usize> = own.iter().flat_map(|s| s.outputs.iter().map(|v| index(*v))).collect();
        let (mentioned, over): (Vec<usize>, _) = match work {
            Work::Kernel(kernel) => {
                let over = kernel.over.iter().map(|o| (index(o.result), index(o.operand))).collect();
                (kernel.values().map(index).collect(), over)
            }
            Work::Product => {
                (own.iter().flat_map(|s| s.inputs.iter().flatten().chain(&s.outputs)).map(|v| index(*v)).collect(), Vec::new())
            }
        };
        let in_arena = |v: &usize| matches!(program.values[*v].source, Source::Computed(_) | Source::Input(_));
        let roots = mentioned.into_iter().map(|v| program.values[v].root);
        let (reads, writes) = roots.filter(in_arena).partition(|v| !written.contains(v));
        Traffic { reads, writes, over, product: matches!(work, Work::Product).then_some(steps.start) }
    }
}

/// The buffers of an arena.
pub struct Buffers {
    /// How large each is, and when it is in use.
    pub spans: Vec<Lifetime>,
    /// By value, the buffer that holds it.
    pub of: BTreeMap<usize, usize>,
}

impl Buffers {
    /// Those of a program on concrete extents. Inputs are there from the start, graph outputs to the end.
    pub fn new(program: &Program, launches: &[&Traffic], shapes: &[Vec<usize>]) -> Buffers {
        let bytes = |v: usize| shapes[v].iter().product::<usize>() * program.values[v].ty.dtype.size();
        let (mut last, mut padded) = (BTreeMap::new(), BTreeMap::new());
        for (at, traffic) in launches.iter().enumerate() {
            last.extend(traffic.writes.iter().chain(&traffic.reads).map(|v| (*v, at)));
            if let Some(step) = traffic.product {
                padded.extend(padded_operands(program, step, shapes));
            }
        }
        last.extend(program.outputs.iter().map(|(_, v)| (program.values[*v].root, launches.len())));
        let until = |v: usize| last.get(&v).copied().unwrap_or(0);
        let room = |v: usize| padded.get(&v).map_or(bytes(v), |padded: &usize| bytes(v).max(*padded));

        let mut buffers = Buffers { spans: Vec::new(), of: BTreeMap::new() };
        for &v in &program.inputs {
            buffers.add(v, Lifetime { bytes: room(v), first: 0, last: until(v) });
        }
        for (at, traffic) in launches.iter().enumerate() {
            let mut taken = Vec::new();
            for &v in traffic.writes.iter().filter(|v| matches!(program.values[**v].source, Source::Computed(_))) {
                let ends_here =
                    |u: usize| until(u) == at && bytes(u) == bytes(v) && matches!(program.values[u].source, Source::Computed(_));
                let operands = traffic.over.iter().filter(|(result, u)| *result == v && ends_here(*u));
                let mut free = operands.filter_map(|(_, u)| buffers.of.get(u).copied()).filter(|b| !taken.contains(b));
                match free.next() {
                    Some(buffer) => {
                        taken.push(buffer);
                        let span = &mut buffers.spans[buffer];
                        (span.bytes, span.last) = (span.bytes.max(room(v)), until(v));
                        buffers.of.insert(v, buffer);
                    }
                    None => buffers.add(v, Lifetime { bytes: room(v), first: at, last: until(v) }),
                }
            }
        }
        buffers
    }

    fn add(&mut self, value: usize, span: Lifetime) {
        self.of.insert(value, self.spans.len());
        self.spans.push(span);
    }

    /// Where they lie.
    ///
    /// # Errors
    /// Sizes that overflow.
    pub fn layout(&self) -> Result<Layout, SessionError> {
        arena::plan(&self.spans).ok_or(SessionError::Memory { bytes: usize::MAX, why: "more than can be addressed" })
    }
}

/// The rows of a product's activation and of its result, and to how many they are padded; `None` where they are not.
pub fn padded_rows(program: &Program, step: usize, shapes: &[Vec<usize>]) -> Option<(usize, usize)> {
    let s = &program.steps[step];
    let x = index(s.inputs.first().copied().flatten()?);
    let byte = program.values[x].ty.dtype.size() == 1;
    (byte || is_sparse(&s.op)).then(|| {
        let rows: usize = shapes[x].split_last().map_or(1, |(_, rows)| rows.iter().product());
        (rows, m_bucket(rows))
    })
}

/// The bytes that a product's activation and result take with their padded rows, by the values that hold them.
fn padded_operands(program: &Program, step: usize, shapes: &[Vec<usize>]) -> Vec<(usize, usize)> {
    let Some((rows, bucket)) = padded_rows(program, step, shapes) else { return Vec::new() };
    let s = &program.steps[step];
    let operands = s.inputs.first().copied().flatten().into_iter().chain(s.outputs.first().copied()).map(index);
    let bytes = |v: usize| shapes[v].iter().product::<usize>() * program.values[v].ty.dtype.size();
    operands.map(|v| (program.values[v].root, bytes(v).checked_div(rows).unwrap_or(0) * bucket)).collect()
}

/// What a variant of a plan for GPUs takes of memory beside its constants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariantMemory {
    /// The variant's name.
    pub variant: String,
    /// Of the arena.
    pub size: ArenaSize,
    /// What lives at once where no result takes an operand's memory.
    pub apart: usize,
}

/// The working memory of each variant for GPUs with these values of the symbols; needs no GPU.
///
/// # Errors
/// Symbols that have no value, and programs that do not fit their types.
pub fn variant_memory(plan: &Arc<Plan>, symbols: &Bindings) -> Result<Vec<VariantMemory>, SessionError> {
    let mut found = Vec::new();
    for variant in plan.manifest().cuda.iter().flat_map(|cuda| &cuda.variants) {
        let program = Program::for_cuda(plan, &variant.program)?;
        let (shapes, _) = bind::concrete(&program, symbols)?;
        let mut traffic: Vec<Traffic> = variant.launched().map(|(steps, l)| Traffic::of(&program, &steps, &l.work)).collect();
        let layout = |traffic: &[Traffic]| Buffers::new(&program, &traffic.iter().collect::<Vec<_>>(), &shapes).layout();
        let Layout { total, lower_bound, .. } = layout(&traffic)?;
        traffic.iter_mut().for_each(|t| t.over.clear());
        let apart = layout(&traffic)?.lower_bound;
        found.push(VariantMemory { variant: variant.name.clone(), size: ArenaSize { bytes: total, lower_bound }, apart });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::two_variants;
    use super::*;
    use crate::plan::cuda::{Argument, Over};
    use crate::plan::manifest::ValueId;

    /// Sums and what they are scaled to, which may lie over them. Where the sums are an output no plan may say so.
    #[test]
    fn a_result_takes_the_memory_of_an_operand_that_nobody_reads_later() {
        const SUMS: usize = 6;
        const SCALED: usize = 7;
        for in_place in [false, true] {
            let (writer, mut manifest) = two_variants();
            manifest.program.outputs.truncate(1);
            for variant in &mut manifest.cuda.as_mut().unwrap().variants {
                variant.program.outputs.truncate(1);
                let given = [vec![0, 4, 5], vec![SUMS, 5, 3, SCALED]];
                for (launch, given) in [0, 2].into_iter().zip(given) {
                    let Work::Kernel(kernel) = &mut variant.launches[launch].work else { panic!("a kernel") };
                    kernel.arguments = given.into_iter().map(|v| Argument::Value(ValueId(v as u32))).collect();
                    if in_place && launch == 2 {
                        kernel.over = vec![Over { result: ValueId(SCALED as u32), operand: ValueId(SUMS as u32) }];
                    }
                }
            }
            let plan = Arc::new(Plan::from_bytes(writer.to_bytes(manifest).unwrap()).unwrap());
            let symbols: Bindings = [("rows".to_owned(), 3)].into();
            for variant in &plan.manifest().cuda.as_ref().unwrap().variants {
                let program = Program::for_cuda(&plan, &variant.program).unwrap();
                let (shapes, _) = bind::concrete(&program, &symbols).unwrap();
                let traffic: Vec<_> = variant.launched().map(|(steps, l)| Traffic::of(&program, &steps, &l.work)).collect();
                let buffers = Buffers::new(&program, &traffic.iter().collect::<Vec<_>>(), &shapes);
                let [sums, scaled] = [SUMS, SCALED].map(|v| buffers.of[&v]);
                assert_eq!(sums == scaled, in_place);
                // The product pads its rows; what is scaled is there to the end.
                let until = if in_place { 3 } else { 2 };
                assert_eq!(buffers.spans[sums], Lifetime { bytes: m_bucket(3) * 2 * 4, first: 1, last: until });
                assert_eq!(buffers.spans[scaled].last, 3);
            }
            for memory in variant_memory(&plan, &symbols).unwrap() {
                assert!(memory.size.lower_bound <= memory.apart && memory.size.lower_bound <= memory.size.bytes, "{memory:?}");
            }
        }
    }
}
