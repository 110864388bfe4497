//! One run on the CPU: a loop over the steps, whose operands are disjoint parts of one arena.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use super::bind::Bound;
use super::outputs::{Places, fill};
use super::program::{Source, index, step_error};
use super::{Cpu, SessionError, StepTrace, TracedValue, inputs};
use crate::cpu::{Context, Kernel};
use crate::plan::manifest::Step;
use crate::tensor::{AlignedBytes, Tensor, TensorView, TensorViewMut, no_bytes, no_bytes_mut};

/// Most arenas that are kept between runs.
const MAX_ARENAS: usize = 8;

/// What fills the arena before a run where assertions are on, so that a kernel that leaves elements unwritten is found.
const POISON: u8 = 0xA5;

/// Arenas kept between runs.
#[derive(Default)]
pub(super) struct ArenaPool(Mutex<Vec<AlignedBytes>>);

impl ArenaPool {
    fn take(&self, bytes: usize) -> Result<AlignedBytes, SessionError> {
        {
            let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let fitting = (0..pool.len()).filter(|&i| pool[i].len() >= bytes).min_by_key(|&i| pool[i].len());
            if let Some(i) = fitting {
                return Ok(pool.swap_remove(i));
            }
            // Too small for this shape: a larger one takes the place of one of them.
            pool.pop();
        }
        AlignedBytes::try_zeroed(bytes).ok_or(SessionError::Memory { bytes, why: "more than there is" })
    }

    fn put(&self, arena: AlignedBytes) {
        let mut pool = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pool.len() < MAX_ARENAS {
            pool.push(arena);
        }
    }

    #[cfg(test)]
    pub fn sizes(&self) -> Vec<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().map(AlignedBytes::len).collect()
    }
}

type Trace<'a> = Option<&'a mut (dyn FnMut(StepTrace<'_>) + Send)>;

impl Cpu {
    pub(super) fn execute(
        &self,
        given: &[(&str, TensorView<'_>)],
        trace: Trace<'_>,
    ) -> Result<Vec<(String, Tensor)>, SessionError> {
        self.execute_with(given, trace, |run, arena| {
            let outputs = self.program.outputs.iter();
            outputs.map(|(name, v)| Ok((name.clone(), run.view(*v, arena)?.to_tensor()))).collect()
        })
    }

    /// As [`Cpu::execute`], outputs copied to where the caller wants them.
    pub(super) fn execute_into(&self, given: &[(&str, TensorView<'_>)], places: Places<'_, '_>) -> Result<(), SessionError> {
        self.execute_with(given, None, |run, arena| {
            places
                .into_iter()
                .try_for_each(|(at, place)| fill(&self.outputs[at], place, run.view(self.program.outputs[at].1, arena)?))
        })
    }

    /// Runs all steps and lets `collect` take what it wants out of the arena.
    fn execute_with<R: Send>(
        &self,
        given: &[(&str, TensorView<'_>)],
        trace: Trace<'_>,
        collect: impl FnOnce(&Run<'_>, &[u8]) -> Result<R, SessionError> + Send,
    ) -> Result<R, SessionError> {
        let inputs = inputs::arrange(&self.inputs, given)?;
        let shapes: Vec<&[usize]> = inputs.iter().map(|v| v.shape).collect();
        let bound = self.bind(&shapes)?;
        let mut arena = self.arenas.take(bound.layout.total)?;
        let run = Run { shared: self, bound: &bound, inputs: &inputs };
        let result = self.threads.install(|| {
            let arena = &mut arena.as_mut_slice()[..bound.layout.total];
            run.all(arena, trace)?;
            collect(&run, arena)
        });
        self.arenas.put(arena);
        result
    }
}

struct Run<'a> {
    shared: &'a Cpu,
    bound: &'a Bound,
    /// In the plan's order.
    inputs: &'a [TensorView<'a>],
}

impl<'a> Run<'a> {
    fn all(&self, arena: &mut [u8], mut trace: Trace<'_>) -> Result<(), SessionError> {
        if cfg!(debug_assertions) {
            arena.fill(POISON);
        }
        let program = &self.shared.program;
        for (at, step) in program.steps.iter().enumerate() {
            let start = Instant::now();
            self.step(at, step, arena)?;
            if let Some(trace) = &mut trace {
                let duration = start.elapsed();
                let mut values = Vec::with_capacity(program.brings[at].len());
                for &v in &program.brings[at] {
                    let value = &program.values[v];
                    values.push(TracedValue { name: &value.name, from_model: value.from_model, view: self.view(v, arena)? });
                }
                let op = &self.bound.ops[at];
                trace(StepTrace { index: at, name: &step.name, op, origin: &step.origin, duration, values: &values });
            }
        }
        Ok(())
    }

    /// A value that has been computed.
    fn view<'b>(&'b self, value: usize, arena: &'b [u8]) -> Result<TensorView<'b>, SessionError> {
        match self.outside(value)? {
            Some(view) => Ok(view),
            None => Ok(self.typed(value, &arena[self.bound.ranges[value].clone()])),
        }
    }

    fn typed<'b>(&'b self, value: usize, data: &'b [u8]) -> TensorView<'b> {
        TensorView { dtype: self.shared.program.values[value].ty.dtype, shape: &self.bound.shapes[value], data }
    }

    /// A value that is not in the arena.
    fn outside(&self, value: usize) -> Result<Option<TensorView<'_>>, SessionError> {
        let program = &self.shared.program;
        match program.values[program.values[value].root].source {
            Source::Input(position) => Ok(Some(self.typed(value, self.inputs[position].data))),
            _ => Ok(program.constant(value, &self.bound.shapes[value])?),
        }
    }

    fn step(&self, at: usize, step: &Step, arena: &mut [u8]) -> Result<(), SessionError> {
        let mut parts = self.parts(step, arena);
        let mut outputs = Vec::with_capacity(step.outputs.len());
        for v in &step.outputs {
            let v = index(*v);
            let part = parts.iter_mut().find(|(root, _)| *root == v).and_then(|(_, part)| part.take());
            outputs.push(TensorViewMut {
                dtype: self.shared.program.values[v].ty.dtype,
                shape: &self.bound.shapes[v],
                // A value of no bytes has no part.
                data: part.unwrap_or_else(no_bytes_mut),
            });
        }
        let mut operands = Vec::with_capacity(step.inputs.len());
        for v in &step.inputs {
            operands.push(match v.map(index) {
                None => None,
                Some(v) => Some(match self.outside(v)? {
                    Some(view) => view,
                    None => {
                        let root = self.shared.program.values[v].root;
                        let part = parts.iter().find(|(r, _)| *r == root).and_then(|(_, part)| part.as_deref());
                        self.typed(v, part.unwrap_or_else(no_bytes))
                    }
                }),
            });
        }
        let context = Context { prepared: self.shared.program.prepared[at].as_ref() };
        self.bound.ops[at].run(context, &operands, &mut outputs).map_err(|e| step_error(step, e))
    }

    /// The parts of the arena that a step reads or writes, by the value that holds the data. The planner keeps them apart.
    fn parts<'b>(&self, step: &Step, arena: &'b mut [u8]) -> Vec<(usize, Option<&'b mut [u8]>)> {
        let values = &self.shared.program.values;
        let operands = step.inputs.iter().flatten().chain(&step.outputs);
        let mut roots: Vec<usize> = operands.map(|v| values[index(*v)].root).collect();
        roots.retain(|&root| !self.bound.ranges[root].is_empty());
        roots.sort_unstable_by_key(|&root| (self.bound.ranges[root].start, root));
        roots.dedup();
        let (mut rest, mut from) = (arena, 0);
        let mut parts = Vec::with_capacity(roots.len());
        for root in roots {
            let range = &self.bound.ranges[root];
            let (_, tail) = rest.split_at_mut(range.start - from);
            let (part, tail) = tail.split_at_mut(range.len());
            parts.push((root, Some(part)));
            (rest, from) = (tail, range.end);
        }
        parts
    }
}
