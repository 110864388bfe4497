//! Pruning the products of a graph, one after the other: each by what its inputs are once all products before it are pruned.
//!
//! Products that read one activation are pruned together, in the order in which activations are computed. All samples of the calibration are
//! taken from cut to cut through the graph, so that the whole costs one run of the model, not one for each product. What they carry
//! across a cut beyond a limit waits in files ([`crate::calibration::held`]).
//!
//! Must not know: ONNX, plans, the command line.

pub mod checkpoint;
mod group;
pub mod progress;

use serde::{Deserialize, Serialize};
use sliderun::sparse::Pattern;
use std::collections::BTreeMap;

pub use checkpoint::Checkpoint;
pub use progress::Progress;

use crate::calibration::held::{LIMIT, Samples};
use crate::calibration::walk::Walk;
use crate::calibration::{Calibration, CalibrationError, Engine};
use crate::ir::{Constant, Graph, ValueRef};
use crate::options::PruneMethod;
use crate::passes::product::{ORIENTATION, Product};
use crate::sparsity::prune::Pruned;
use crate::sparsity::{Weight, holds};

/// A product, and what is to be done to its weight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    /// The product.
    pub product: Product,
    /// The pattern that the weight is to have.
    pub pattern: Pattern,
    /// How it gets it.
    pub method: PruneMethod,
}

/// What was done to a weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Layer {
    /// How it was pruned in the end; not at all where the pattern held.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub method: PruneMethod,
    /// How much went.
    #[serde(flatten)]
    pub pruned: Pruned,
    /// ‖x·(w - v)ᵀ‖ / ‖x·wᵀ‖ over the calibration's rows x, for the weight w before and v after. Not known without calibration.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub output_error: Option<f64>,
    /// What differs from what was asked for, or is worth knowing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub note: Option<String>,
}

impl Layer {
    /// What is done to a weight that satisfies the pattern.
    fn unchanged(weight: &Weight, pattern: Pattern) -> Self {
        Layer {
            method: PruneMethod::None,
            pruned: Pruned::between(weight, weight),
            output_error: None,
            note: Some(format!("the weight satisfies {pattern} as it is")),
        }
    }

    /// Whether the weight is another now.
    pub fn is_changed(&self) -> bool {
        self.method != PruneMethod::None
    }
}

fn as_text<S: serde::Serializer>(method: &PruneMethod, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(method)
}

fn from_text<'de, D: serde::Deserializer<'de>>(from: D) -> Result<PruneMethod, D::Error> {
    String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
}

/// What pruning goes by beside the graph.
#[derive(Clone, Copy)]
pub(crate) struct Setting<'a> {
    /// What the model is run on; synthetic where a method needs something and `None` is given.
    pub calibration: Option<&'a Calibration>,
    /// What runs the model.
    pub engine: &'a Engine,
    /// Is told how far it is.
    pub progress: &'a dyn Progress,
    /// Where finished weights are kept, and found again.
    pub checkpoint: Option<&'a Checkpoint>,
}

/// Why nothing was pruned.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[allow(missing_docs)]
pub enum PruningError {
    #[error(transparent)]
    #[diagnostic(transparent)]
    Calibration(#[from] CalibrationError),
    #[error("finished weights cannot be kept: {0}")]
    #[diagnostic(help("give a folder that can be written and has room for the model's weights"))]
    Checkpoint(#[from] std::io::Error),
}

/// One pruning of one weight, however many products want it.
pub(crate) type Key = (ValueRef, Pattern, PruneMethod);

/// A weight that waits to be pruned.
pub(crate) struct Pending {
    key: Key,
    task: Task,
    weight: Weight,
}

/// Prunes the weights of products in place, each product's with a new constant; gives for each task what was done, or why nothing was. A
/// weight that several products share is pruned once, by the inputs of the first.
///
/// # Errors
/// A calibration that does not fit or on which the model overflows, folders that cannot be written.
pub(crate) fn prune(
    graph: &mut Graph,
    tasks: &[Task],
    setting: &Setting<'_>,
) -> Result<Vec<Result<Layer, String>>, PruningError> {
    let needed = tasks.iter().any(|t| t.method.needs_calibration());
    let calibration = match setting.calibration {
        None if !needed => None,
        given => Some(Calibration::or_synthetic(given, graph)?),
    };
    let activations: Vec<ValueRef> =
        if calibration.is_some() { tasks.iter().map(|t| t.product.activation).collect() } else { Vec::new() };
    let walk = Walk::to(graph, &activations).holding(&activations);
    let mut samples = calibration.as_deref().map(|c| Samples::begin(graph, c, LIMIT)).transpose()?;

    // By the step that computes what they read; products of constants and graph inputs come first.
    let mut groups: BTreeMap<(usize, ValueRef), Vec<usize>> = BTreeMap::new();
    for (at, task) in tasks.iter().enumerate() {
        let read = task.product.activation;
        let ready = walk.steps().iter().position(|n| *n == read.node).map_or(0, |step| step + 1);
        groups.entry((ready, read)).or_default().push(at);
    }
    let of_tasks: u64 = tasks.iter().map(|t| group::work(graph, t)).sum();
    let of_factors: u64 = groups.values().map(|members| group::work_together(graph, members.iter().map(|at| &tasks[*at]))).sum();
    setting.progress.begin(of_tasks + of_factors);
    let mut done: BTreeMap<Key, (Option<ValueRef>, Result<Layer, String>)> = BTreeMap::new();
    let mut out: Vec<Option<Result<Layer, String>>> = vec![None; tasks.len()];
    let mut step = 0;
    for ((ready, activation), members) in groups {
        if let Some(samples) = &mut samples {
            samples.advance(setting.engine, graph, &walk, step..ready)?;
        }
        step = ready;
        let mut pending: Vec<Pending> = Vec::new();
        for task in members.iter().map(|at| tasks[*at]) {
            let key = key(&task);
            if !done.contains_key(&key) && !pending.iter().any(|p| p.key == key) {
                match readable(graph, &task) {
                    Ok(weight) if holds(&weight, task.pattern) => {
                        done.insert(key, (None, Ok(Layer::unchanged(&weight, task.pattern))));
                    }
                    Ok(weight) => {
                        pending.push(Pending { key, task, weight });
                        continue;
                    }
                    Err(reason) => {
                        done.insert(key, (None, Err(reason)));
                    }
                }
            }
            setting.progress.advance(group::work(graph, &task));
        }
        let together = group::work_together(graph, members.iter().map(|at| &tasks[*at]));
        let finished = group::prune(graph, activation, pending, samples.as_mut(), setting)?;
        setting.progress.advance(together);
        for (key, constant, layer) in finished {
            let name = format!("{}.pruned", graph.output(key.0).name);
            let new = graph.add_constant(&name, constant);
            done.insert(key, (Some(new), Ok(layer)));
        }
        for at in members {
            let (new, result) = &done[&key(&tasks[at])];
            if new.is_some() {
                graph.set_input(tasks[at].product.node, 1, *new);
            }
            out[at] = Some(result.clone());
        }
        if let (Some(samples), true) = (&mut samples, walk.is_last(activation, step)) {
            samples.drop_value(activation)?;
        }
    }
    setting.progress.end();
    Ok(out.into_iter().map(|r| r.expect("every task is in a group")).collect())
}

fn key(task: &Task) -> Key {
    (task.product.weight, task.pattern, task.method)
}

/// The weight, or why there is none to prune.
fn readable(graph: &Graph, task: &Task) -> Result<Weight, String> {
    if let Some(reason) = task.product.ineligible(graph) {
        return Err(reason);
    }
    if graph.constant(task.product.activation).is_some() {
        return Err("both operands are constants".to_owned());
    }
    task.product.read_weight(graph).map_err(|e| e.to_string())
}

/// A pruned weight as the graph stores it.
fn constant_of(graph: &Graph, task: &Task, weight: &Weight) -> Constant {
    weight.to_constant(graph.ty(task.product.weight).dtype, ORIENTATION)
}

#[cfg(test)]
mod tests;
