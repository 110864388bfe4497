//! `prune`: the weights of products get the pattern that was asked for. Runs only where the options or a recipe ask for pruning; numbers change nowhere else.

use super::product::{Product, check_recipe};
use super::{Pass, PassContext, PassError};
use crate::ir::Graph;
use crate::options::{PruneMethod, SparsityRequest};
use crate::pruning::{Layer, Setting, Task, prune};

/// The pass.
pub const PASS: Pass =
    Pass { name: "prune", summary: "with --prune: zero the least important weights so that the pattern asked for holds", run };

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    check_recipe(graph, context.options)?;
    let task = |product: Product| {
        let asked = context.options.asked(&graph.node(product.node).name);
        match (asked.prune, asked.sparsity) {
            (PruneMethod::None, _) => None,
            (method, SparsityRequest::Pattern(pattern)) => Some(Task { product, pattern, method }),
            _ => None,
        }
    };
    let tasks: Vec<Task> = Product::all(graph).into_iter().filter_map(task).collect();
    if tasks.is_empty() {
        return Ok(());
    }
    let calibration = context.options.calibration.as_deref();
    let setting = Setting { calibration, engine: &context.options.engine, progress: context.progress, checkpoint: None };
    let results = prune(graph, &tasks, &setting).map_err(PassError::Pruning)?;
    for (task, result) in tasks.iter().zip(results) {
        let name = graph.node(task.product.node).name.clone();
        match result {
            Err(reason) => context.report.declined(name, reason),
            Ok(Layer { method: PruneMethod::None, note, .. }) => context.report.declined(name, note.unwrap_or_default()),
            Ok(layer) => context.report.did([name], told(&layer, task)),
        }
    }
    Ok(())
}

fn told(layer: &Layer, task: &Task) -> String {
    let (share, energy) = (100.0 * layer.pruned.share(), 100.0 * layer.pruned.kept_energy);
    let error = layer.output_error.map_or(String::new(), |e| format!(", output error {e:.4}"));
    let note = layer.note.as_ref().map_or(String::new(), |note| format!(" ({note})"));
    let Task { pattern, .. } = task;
    let by = layer.method;
    format!("pruned to {pattern} by {by}: {share:.1} % of the weights went, {energy:.2} % of their energy stays{error}{note}")
}
