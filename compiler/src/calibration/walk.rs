//! Running a graph step by step for many samples: what a step has computed lives until its last reader has run.
//!
//! All samples can be taken to the same step before any goes on, so that what comes later may be changed by what was seen so far.
//!
//! Must not know: why.

use sliderun::dim::Bindings;
use sliderun::session::SessionError;
use sliderun::tensor::{Tensor, TensorView};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::ir::eval::{EvaluateError, bind, step};
use crate::ir::{Constant, Graph, NodeId, ValueRef};
use crate::verify::NamedTensors;

/// Why a sample does not get on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StepError {
    #[error(transparent)]
    Evaluate(#[from] EvaluateError),
    /// A plan of several steps.
    #[error(transparent)]
    Plan(#[from] SessionError),
}

/// The steps that lead to some values, in the order of the graph's schedule.
pub struct Walk {
    steps: Vec<NodeId>,
    /// After which step nobody reads a value any more.
    last: BTreeMap<ValueRef, usize>,
    /// Values that live on until somebody removes them.
    held: BTreeSet<ValueRef>,
}

/// One sample on its way.
pub struct Live {
    /// What has been computed and will still be read.
    pub values: BTreeMap<ValueRef, Tensor>,
    /// The symbols' values.
    pub(super) bindings: Bindings,
}

impl Walk {
    /// The steps that `values` depend on.
    pub fn to(graph: &Graph, values: &[ValueRef]) -> Walk {
        let mut needed = BTreeSet::new();
        let mut stack: Vec<NodeId> = values.iter().map(|v| v.node).collect();
        while let Some(node) = stack.pop() {
            if needed.insert(node) {
                stack.extend(graph.operands(node).into_iter().flatten().map(|v| v.node));
            }
        }
        let steps: Vec<NodeId> = graph.schedule().into_iter().filter(|n| needed.contains(n)).collect();
        let mut last = BTreeMap::new();
        for (at, &node) in steps.iter().enumerate() {
            last.extend((0..graph.node(node).outputs.len()).map(|slot| (ValueRef { node, slot }, at)));
            last.extend(graph.operands(node).into_iter().flatten().map(|v| (v, at)));
        }
        Walk { steps, last, held: BTreeSet::new() }
    }

    /// The same, with values that stay when nobody reads them any more.
    pub fn holding(mut self, values: &[ValueRef]) -> Walk {
        self.held.extend(values);
        self
    }

    /// Whether no step from `step` on reads a value.
    pub fn is_last(&self, value: ValueRef, step: usize) -> bool {
        self.last.get(&value).is_none_or(|at| *at < step)
    }

    /// Whether a value is still wanted once all steps before `step` have run.
    pub(super) fn outlives(&self, value: ValueRef, step: usize) -> bool {
        !self.is_last(value, step) || self.held.contains(&value)
    }

    /// The steps.
    pub fn steps(&self) -> &[NodeId] {
        &self.steps
    }

    /// What a step computes.
    pub(super) fn results(&self, step: usize) -> impl Iterator<Item = ValueRef> {
        let node = self.steps[step];
        let first = ValueRef { node, slot: 0 };
        self.last.range(first..=ValueRef { slot: usize::MAX, ..first }).map(|(value, _)| *value)
    }

    /// A sample before the first step.
    ///
    /// # Errors
    /// Inputs that are missing or do not fit.
    pub fn begin(graph: &Graph, inputs: &NamedTensors) -> Result<Live, EvaluateError> {
        let bindings = bind(graph, inputs)?;
        let value = |id: &NodeId| (ValueRef { node: *id, slot: 0 }, inputs[&graph.node(*id).outputs[0].name].clone());
        Ok(Live { values: graph.inputs().iter().map(value).collect(), bindings })
    }

    /// Runs a range of steps on a sample that has come to the first of them, and hands out what each computes. The constants are those
    /// of [`Walk::constants`] for these steps.
    ///
    /// # Errors
    /// What a kernel finds wrong in data, and those of `seen`.
    pub fn advance<E: From<StepError>>(
        &self,
        graph: &Graph,
        range: Range<usize>,
        constants: &Constants,
        live: &mut Live,
        mut seen: impl FnMut(ValueRef, TensorView<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for at in range {
            let node = self.steps[at];
            let results = step(graph, node, &live.bindings, |v| match graph.constant(v) {
                Some(constant) => constants.view(v, constant),
                None => live.values[&v].view(),
            })
            .map_err(StepError::from)?;
            for (value, tensor) in self.results(at).zip(results) {
                seen(value, tensor.view())?;
                live.values.insert(value, tensor);
            }
            let finished = |v: &ValueRef| self.last.get(v) == Some(&at) && !self.held.contains(v);
            let operands = graph.operands(node).into_iter().flatten();
            for value in operands.chain(self.results(at)).filter(finished) {
                live.values.remove(&value);
            }
        }
        Ok(())
    }

    /// The constants that a range of steps reads.
    pub fn constants(&self, graph: &Graph, range: Range<usize>) -> Constants {
        let operands = self.steps[range].iter().flat_map(|n| graph.operands(*n)).flatten();
        let unaligned = operands.filter_map(|v| Some((v, graph.constant(v).filter(|c| !is_aligned(c))?.to_tensor())));
        Constants(unaligned.collect())
    }
}

/// Constants as kernels read them: aligned. Those that lie so in the model are not copied.
pub struct Constants(BTreeMap<ValueRef, Tensor>);

impl Constants {
    fn view<'c>(&'c self, value: ValueRef, constant: &'c Constant) -> TensorView<'c> {
        let as_it_is = || TensorView { dtype: constant.dtype, shape: &constant.shape, data: &constant.data };
        self.0.get(&value).map_or_else(as_it_is, Tensor::view)
    }
}

fn is_aligned(constant: &Constant) -> bool {
    !constant.data.is_empty() && constant.data.as_ptr().addr().is_multiple_of(constant.dtype.size())
}
