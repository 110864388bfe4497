//! Steps that are ready to be run on samples, in parts: each by the CPU's kernels one step after the other, or as a plan.
//!
//! Must not know: how it is decided what runs where.

use sliderun::dtype::DType;
use sliderun::session::{Session, SessionError};
use sliderun::tensor::{Tensor, TensorView};
use std::ops::Range;

use super::engine::Engine;
use super::walk::{Constants, Live, StepError, Walk};
use crate::ir::{Graph, ValueRef};

/// See the module documentation.
pub(super) struct Ready<'e> {
    pub engine: &'e Engine,
    pub parts: Vec<Part>,
}

pub(super) struct Part {
    /// The steps.
    pub range: Range<usize>,
    pub by: By,
}

pub(super) enum By {
    Steps(Constants),
    Plan(Box<Planned>),
}

/// A plan of steps.
pub(super) struct Planned {
    pub session: Session,
    /// What it reads, with the names of its inputs.
    pub inputs: Vec<(ValueRef, String)>,
    /// Symbols, with the names of inputs of one extent, which is the symbol.
    pub extents: Vec<(String, String)>,
    /// What it gives.
    pub outputs: Vec<ValueRef>,
}

impl Ready<'_> {
    /// Runs the steps on a sample that has come to the first of them, and hands out what they compute: at least what was asked for.
    ///
    /// # Errors
    /// What a kernel finds wrong in data, a device that fails, and those of `seen`.
    pub fn advance<E: From<StepError>>(
        &self,
        graph: &Graph,
        walk: &Walk,
        live: &mut Live,
        mut seen: impl FnMut(ValueRef, TensorView<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        for Part { range, by } in &self.parts {
            let by_steps =
                |constants: &Constants, live: &mut Live, seen: &mut dyn FnMut(ValueRef, TensorView<'_>) -> Result<(), E>| {
                    walk.advance(graph, range.clone(), constants, live, seen)
                };
            let planned = match by {
                By::Steps(constants) => {
                    by_steps(constants, live, &mut seen)?;
                    continue;
                }
                By::Plan(planned) => planned,
            };
            match planned.run(live) {
                Ok(results) => {
                    for (&value, tensor) in planned.outputs.iter().zip(results) {
                        seen(value, tensor.view())?;
                        live.values.insert(value, tensor);
                    }
                    live.values.retain(|value, _| walk.outlives(*value, range.end));
                }
                Err(error) if self.engine.may_change_device() => {
                    by_steps(&walk.constants(graph, range.clone()), live, &mut seen)?;
                    self.engine.tell(&format!("samples run in part on the CPU: {error}"));
                }
                Err(error) => return Err(StepError::Plan(error).into()),
            }
        }
        Ok(())
    }
}

impl Planned {
    /// The outputs.
    fn run(&self, live: &Live) -> Result<Vec<Tensor>, SessionError> {
        let extent = |(symbol, name): &(String, String)| {
            let extent = usize::try_from(live.bindings[symbol]).expect("samples have no negative extents");
            (name.clone(), Tensor::zeros(DType::Bool, &[extent]).expect("an extent of a tensor fits in memory"))
        };
        let extents: Vec<(String, Tensor)> = self.extents.iter().map(extent).collect();
        let read = self.inputs.iter().map(|(value, name)| (name.as_str(), live.values[value].view()));
        let inputs: Vec<(&str, TensorView<'_>)> =
            read.chain(extents.iter().map(|(name, tensor)| (name.as_str(), tensor.view()))).collect();
        Ok(self.session.run(&inputs)?.into_iter().map(|(_, tensor)| tensor).collect())
    }
}
