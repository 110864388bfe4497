//! `smooth`: what stands out in the activations of 8-bit products is shared with their weights, where calibration shows that the products lose
//! less so.
//!
//! All products that read an activation take its factors on their weights; what makes the activation is divided by them where that costs
//! nothing ([`fold`]). How much is shared, if anything, is what gives the quantized products of the calibration rows the least error.

mod fold;
#[cfg(test)]
mod tests;

use sliderun::dtype::DType;
use sliderun::op::elementwise::Binary;
use sliderun::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

use super::product::Product;
use super::{Pass, PassContext, PassError, PassReport};
use crate::calibration::{RowStatistics, row_statistics};
use crate::ir::{Constant, Graph, ValueRef};
use crate::options::{Precision, Smoothing};
use crate::sparsity::output_error::Exact;
use crate::sparsity::scales::Scales;
use crate::sparsity::smooth::{STRENGTHS, column_absmax, factors};
use crate::sparsity::{Weight, WeightError};
use fold::Fold;

/// The pass.
pub const PASS: Pass = Pass {
    name: "smooth",
    summary: "with --calib: 8-bit products share what stands out in activations with their weights, where they lose less so",
    run,
};

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    let options = context.options;
    let (Some(calibration), Smoothing::Auto) = (&options.calibration, options.smooth) else { return Ok(()) };
    let element_type = |node: &str| match options.asked(node).precision {
        Precision::Int8 => Some(DType::I8),
        Precision::Fp8 => Some(DType::F8e4m3),
        _ => None,
    };
    let groups = groups(graph, &mut context.report, &element_type);
    let rows = row_statistics(graph, groups.iter().map(|g| g.activation), calibration, &context.options.engine)?;
    smooth(graph, &mut context.report, &groups, &rows);
    Ok(())
}

/// What the error with factors may be at most, of that without: less is not worth it, and may be chance.
const WORTH: f64 = 0.9;

/// The products that read one activation, and where it can be divided.
struct Group {
    activation: ValueRef,
    /// With the 8-bit element type that they are to multiply in; others take the factors along.
    products: Vec<(Product, Option<DType>)>,
    fold: Fold,
}

impl Group {
    fn names(&self, graph: &Graph) -> Vec<String> {
        self.products.iter().map(|(p, _)| graph.node(p.node).name.clone()).collect()
    }

    /// Multiplies the weights by the factors and divides the activation by them; all or nothing.
    ///
    /// # Errors
    /// The constant whose element type does not hold the result.
    fn scale(&self, graph: &mut Graph, factors: &[f32]) -> Result<(), String> {
        let rows = Tensor::from_slice(&[factors.len(), 1], factors).expect("K factors");
        let mut operands = Vec::new();
        for (product, _) in &self.products {
            // Groups before may have divided the columns.
            let weight = graph.operand(product.node, 1).expect("an eligible product has a weight");
            operands.push((product.node, 1, fold::scaled(graph, weight, Binary::Mul, &rows)?));
        }
        operands.extend(self.fold.divided(graph, factors)?.into_iter().map(|(slot, tensor)| (self.fold.node, slot, tensor)));
        for (node, slot, tensor) in operands {
            let name = graph.operand(node, slot).map(|v| graph.output(v).name.clone()).expect("it was scaled");
            let new = graph.add_constant(&format!("{name}.smoothed"), Constant::from_tensor(&tensor));
            graph.set_input(node, slot, Some(new));
        }
        // They are no longer the model's tensors of these names.
        for value in &self.fold.values {
            let name = format!("{}.smoothed", graph.output(*value).name);
            graph.name_value(*value, &name, false);
        }
        Ok(())
    }
}

/// The groups whose activations can be divided; for the others, why not.
fn groups(graph: &Graph, report: &mut PassReport, element_type: &dyn Fn(&str) -> Option<DType>) -> Vec<Group> {
    let products: Vec<Product> = Product::all(graph).into_iter().filter(|p| p.ineligible(graph).is_none()).collect();
    let mut seen = BTreeSet::new();
    let mut groups = Vec::new();
    for activation in products.iter().map(|p| p.activation).filter(|v| seen.insert(*v)) {
        let readers = products.iter().filter(|p| p.activation == activation);
        let readers: Vec<_> = readers.map(|p| (*p, element_type(&graph.node(p.node).name))).collect();
        if readers.iter().all(|(_, to)| to.is_none()) {
            continue;
        }
        let is_reader = |(node, slot): &(_, usize)| *slot == 0 && readers.iter().any(|(p, _)| p.node == *node);
        let other = graph.uses(activation).into_iter().find(|used| !is_reader(used)).map(|(node, _)| &graph.node(node).name);
        let k = graph.constant(readers[0].0.weight).map_or(0, |w| w.shape[0]);
        let fold = match other {
            Some(other) => Err(format!("what it reads is read by '{other}' too, which would have to take the factors")),
            None if graph.is_output(activation) => Err("what it reads is an output".to_owned()),
            None => fold::find(graph, activation, k),
        };
        match fold {
            Ok(fold) => groups.push(Group { activation, products: readers, fold }),
            Err(why) => report.declined(&graph.node(readers[0].0.node).name, why),
        }
    }
    groups
}

/// What a group's products lose: without factors, and with the best.
struct Choice {
    plain: f64,
    best: f64,
    strength: f32,
    factors: Vec<f32>,
}

/// Tries all strengths on the rows of a group's activation. Scales are by magnitude: others lower all errors alike, and are searched for long.
///
/// # Errors
/// A weight that cannot be read.
fn choose(graph: &Graph, group: &Group, rows: &RowStatistics) -> Result<Choice, WeightError> {
    let weights: Vec<Weight> = group.products.iter().map(|(p, _)| p.read_weight(graph)).collect::<Result<_, _>>()?;
    let quantized = weights.iter().zip(&group.products).filter_map(|(w, (_, to))| Some((w, (*to)?)));
    let exact: Vec<_> = quantized.map(|(w, to)| (w, to, Exact::new(w, rows.sample()))).collect();
    let error = |factors: Option<&[f32]>| {
        let each = exact.iter().map(|(w, to, exact)| exact.error(w, rows.sample(), factors, *to, Scales::AbsMax).powi(2));
        (each.sum::<f64>() / exact.len() as f64).sqrt()
    };
    let columns = column_absmax(rows.k(), &weights);
    let plain = error(None);
    let mut choice = Choice { plain, best: f64::INFINITY, strength: 0.0, factors: vec![1.0; rows.k()] };
    let mut tried = Vec::new();
    for strength in STRENGTHS {
        let factors = factors(rows.absmax(), &columns, strength);
        if factors.iter().all(|f| *f == factors[0]) || tried.contains(&factors) {
            continue;
        }
        let found = error(Some(&factors));
        if found < choice.best {
            choice = Choice { plain, best: found, strength, factors: factors.clone() };
        }
        tried.push(factors);
    }
    Ok(choice)
}

/// Decides and scales group after group.
fn smooth(graph: &mut Graph, report: &mut PassReport, groups: &[Group], rows: &BTreeMap<ValueRef, RowStatistics>) {
    for group in groups {
        let names = group.names(graph);
        let Some(rows) = rows.get(&group.activation).filter(|rows| rows.seen() > 0) else {
            report.declined(&names[0], "calibration shows no row of what it reads");
            continue;
        };
        let choice = match choose(graph, group, rows) {
            Ok(choice) => choice,
            Err(error) => {
                report.declined(&names[0], error.to_string());
                continue;
            }
        };
        let percent = |error: f64| format!("{:.2} %", 100.0 * error);
        if choice.best > WORTH * choice.plain {
            let best = if choice.best.is_finite() { percent(choice.best) } else { "the same".to_owned() };
            report.declined(&names[0], format!("quantized it loses {}, and {best} with factors at best", percent(choice.plain)));
            continue;
        }
        match group.scale(graph, &choice.factors) {
            Err(why) => report.declined(&names[0], why),
            Ok(()) => {
                let folded = &graph.node(group.fold.node).name;
                let what = format!(
                    "quantized they lose {} in place of {}, with '{folded}' divided channel by channel and the weights multiplied (strength {})",
                    percent(choice.best),
                    percent(choice.plain),
                    choice.strength,
                );
                report.did(names, what);
            }
        }
    }
}
