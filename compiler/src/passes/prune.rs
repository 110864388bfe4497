//! `prune`: the weights of products get the pattern that was asked for. Runs only where the options or a recipe ask for pruning; numbers change nowhere else.

use std::collections::BTreeMap;

use super::product::{ORIENTATION, Product, check_recipe};
use super::{Pass, PassContext, PassError};
use crate::ir::Graph;
use crate::options::{PruneMethod, SparsityRequest};
use crate::sparsity::prune::prune_by_magnitude;

/// The pass.
pub const PASS: Pass =
    Pass { name: "prune", summary: "with --prune: zero the smallest weights so that the pattern asked for holds", run };

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    check_recipe(graph, context.options)?;
    // A weight that several products share is pruned once.
    let mut pruned = BTreeMap::new();
    for product in Product::all(graph) {
        let name = graph.node(product.node).name.clone();
        let asked = context.options.asked(&name);
        let (PruneMethod::Magnitude, SparsityRequest::Pattern(pattern)) = (asked.prune, asked.sparsity) else {
            continue;
        };
        if let Some(reason) = product.ineligible(graph) {
            context.report.declined(name, reason);
            continue;
        }
        let replacement = match pruned.get(&(product.weight, pattern)) {
            Some(known) => *known,
            None => {
                let constant = graph.constant(product.weight).expect("an eligible product has a constant weight");
                match prune_by_magnitude(constant, ORIENTATION, pattern) {
                    Err(error) => {
                        context.report.declined(name, error.to_string());
                        continue;
                    }
                    Ok((_, report)) if report.removed == 0 => {
                        context.report.declined(name, format!("the weight satisfies {pattern} as it is"));
                        continue;
                    }
                    Ok((constant, report)) => {
                        let share = 100.0 * report.removed as f64 / report.elements as f64;
                        let energy = 100.0 * report.kept_energy;
                        let what = format!(
                            "pruned to {pattern} by magnitude: {share:.1} % of the weights went, {energy:.2} % of their energy stays"
                        );
                        context.report.did([name], what);
                        let weight_name = format!("{}.pruned", graph.output(product.weight).name);
                        let new = graph.add_constant(&weight_name, constant);
                        pruned.insert((product.weight, pattern), new);
                        new
                    }
                }
            }
        };
        graph.set_input(product.node, 1, Some(replacement));
    }
    Ok(())
}
