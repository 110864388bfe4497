//! `permute`: K of products that are about to be pruned comes in an order in which the pattern keeps more. Runs only with `--permute`.
//!
//! All products that read one activation share its order. It costs nothing where the constants of what computes the activation can be in
//! that order ([`fold`]); else the activation is gathered by an index, which later passes make part of its quantization.

mod fold;

use sliderun::dtype::DType;
use sliderun::op::index::Gather;
use sliderun::sparse::Pattern;
use sliderun::tensor::Tensor;
use std::collections::BTreeMap;

use super::product::Product;
use super::{Pass, PassContext, PassError};
use crate::calibration::{Calibration, Engine, activations};
use crate::ir::{Constant, Graph, NodeId, ValueRef};
use crate::options::{Permute, PruneMethod, SparsityRequest};
use crate::sparsity::permute::{Found, Permutation, Scores, search};
use crate::sparsity::{Weight, holds};
pub(crate) use fold::{Fold, Part};

/// The pass.
pub const PASS: Pass =
    Pass { name: "permute", summary: "with --permute: put K into an order in which the pattern asked for keeps more", run };

/// An order must save this share of what pruning takes.
const WORTH: f64 = 0.01;

/// An order of K that is worth it.
pub(crate) struct Order {
    activation: ValueRef,
    /// The products that are pruned in this order.
    pub products: Vec<NodeId>,
    /// The order.
    pub permutation: Permutation,
    /// The constants that come in this order; or why that is not possible, and an index is needed.
    pub fold: Result<Fold, String>,
    /// What it gains, and how.
    pub told: String,
}

/// What is asked of a product by its node's name.
pub(crate) type Ask<'a> = dyn Fn(&str) -> (PruneMethod, SparsityRequest) + 'a;

/// Is told of a node why nothing is done for it.
pub(crate) type Declined<'a> = dyn FnMut(String, String) + 'a;

/// The products to be pruned to one pattern that read one activation.
struct Group {
    activation: ValueRef,
    pattern: Pattern,
    /// Whether activations have a say in what is pruned.
    weighs_activations: bool,
    products: Vec<NodeId>,
}

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    let options = context.options;
    if options.permute == Permute::None {
        return Ok(());
    }
    let asked = |node: &str| {
        let asked = options.asked(node);
        (asked.prune, asked.sparsity)
    };
    let calibration = options.calibration.as_deref().map(|calibration| (calibration, &*options.engine));
    let found = orders(graph, options.permute, calibration, &asked, &mut |node, why| context.report.declined(node, why));
    for order in found {
        let names: Vec<String> = order.products.iter().map(|node| graph.node(*node).name.clone()).collect();
        match &order.fold {
            Ok(fold) => fold.apply(graph, &order.permutation),
            Err(_) => index(graph, &order, &names[0])?,
        }
        context.report.did(names, order.told);
    }
    Ok(())
}

/// The orders that are worth it, for all groups of products that are about to be pruned. None changes what another one takes.
pub(crate) fn orders(
    graph: &Graph,
    wanted: Permute,
    calibration: Option<(&Calibration, &Engine)>,
    asked: &Ask<'_>,
    declined: &mut Declined<'_>,
) -> Vec<Order> {
    let groups = groups(graph, asked, declined);
    let norms = norms(graph, calibration, &groups, declined);
    let mut out = Vec::new();
    for group in &groups {
        let rival = groups.iter().any(|other| other.activation == group.activation && other.pattern != group.pattern);
        let norms = norms.get(&group.activation).filter(|_| group.weighs_activations).map(Vec::as_slice);
        match order(graph, wanted, group, rival, norms) {
            Ok(order) => out.push(order),
            Err(reason) => declined(graph.node(group.products[0]).name.clone(), reason),
        }
    }
    out
}

/// In the graph's order.
fn groups(graph: &Graph, asked: &Ask<'_>, declined: &mut Declined<'_>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for product in Product::all(graph) {
        let name = graph.node(product.node).name.clone();
        let (method, SparsityRequest::Pattern(pattern)) = asked(&name) else {
            declined(name, "no pattern is asked for by name".to_owned());
            continue;
        };
        if method == PruneMethod::None {
            declined(name, "it is not pruned".to_owned());
            continue;
        }
        if let Some(reason) = product.ineligible(graph) {
            declined(name, reason);
            continue;
        }
        match product.read_weight(graph) {
            Err(error) => declined(name, error.to_string()),
            Ok(weight) if holds(&weight, pattern) => declined(name, format!("the weight satisfies {pattern} as it is")),
            Ok(_) => {
                let activation = product.activation;
                let weighs_activations = method != PruneMethod::Magnitude;
                match groups.iter_mut().find(|g| g.activation == activation && g.pattern == pattern) {
                    None => groups.push(Group { activation, pattern, weighs_activations, products: vec![product.node] }),
                    Some(group) => group.products.push(product.node),
                }
            }
        }
    }
    groups
}

/// For methods that look at activations, the root of the mean square of each channel.
fn norms(
    graph: &Graph,
    calibration: Option<(&Calibration, &Engine)>,
    groups: &[Group],
    declined: &mut Declined<'_>,
) -> BTreeMap<ValueRef, Vec<f32>> {
    let mut sums: BTreeMap<ValueRef, (f64, Vec<f64>)> = BTreeMap::new();
    let values: Vec<ValueRef> = groups.iter().filter(|g| g.weighs_activations).map(|g| g.activation).collect();
    let Some((calibration, engine)) = calibration.filter(|_| !values.is_empty()) else {
        return BTreeMap::new();
    };
    let seen = activations(graph, &values, calibration, engine, &mut |value, rows, k| {
        let (count, squares) = sums.entry(value).or_insert_with(|| (0.0, vec![0.0; k]));
        for row in rows.chunks_exact(k) {
            *count += 1.0;
            squares.iter_mut().zip(row).for_each(|(sum, v)| *sum += f64::from(*v).powi(2));
        }
    });
    if let Err(error) = seen {
        declined("calibration".to_owned(), format!("orders go by weights alone: {error}"));
        return BTreeMap::new();
    }
    let root =
        |(count, squares): (f64, Vec<f64>)| squares.into_iter().map(|s| (s / f64::max(count, 1.0)).sqrt() as f32).collect();
    sums.into_iter().map(|(value, sums)| (value, root(sums))).collect()
}

/// The order of one group, or why there is none.
fn order(graph: &Graph, wanted: Permute, group: &Group, rival: bool, norms: Option<&[f32]>) -> Result<Order, String> {
    let products: Vec<Product> = group.products.iter().filter_map(|node| Product::of(graph, *node)).collect();
    let weights: Vec<Weight> = products.iter().filter_map(|p| p.read_weight(graph).ok()).collect();
    let k = weights[0].k;
    let fold = match rival {
        true => Err("products that read this activation take different patterns".to_owned()),
        false => Fold::of(graph, group.activation, k, &readers(graph, group.activation)),
    };
    if let (Err(reason), Permute::Free) = (&fold, wanted) {
        return Err(format!("an order of K would cost an index: {reason}"));
    }
    let heads = fold.as_ref().ok().and_then(|fold| fold.heads);
    let classes: Vec<usize> = heads.map_or(Vec::new(), |heads| (0..k).map(|channel| channel / (k / heads)).collect());
    let scores = Scores::squares(&weights.iter().collect::<Vec<_>>(), norms);
    let found = search(&scores, group.pattern, &classes);
    let shares = shares(&found, group.pattern, norms.is_some());
    if found.permutation.is_identity() || 1.0 - found.after > (1.0 - WORTH) * (1.0 - found.before) {
        return Err(format!("no order of K is worth it: {shares}"));
    }
    let told = match &fold {
        Ok(fold) => {
            let within = heads.map_or(String::new(), |heads| format!(", within {heads} heads"));
            let producers: Vec<String> = fold.producers.iter().map(|n| format!("'{}'", graph.node(*n).name)).collect();
            format!("{shares}{within}; the order is that of the outputs of {}, for nothing", producers.join(" and "))
        }
        Err(reason) => format!("{shares}; by an index of {} bytes, since {reason}", k * DType::I32.size()),
    };
    let Group { activation, ref products, .. } = *group;
    Ok(Order { activation, products: products.clone(), permutation: found.permutation, fold, told })
}

/// Every product with a constant weight [K, N] that reads an activation.
fn readers(graph: &Graph, activation: ValueRef) -> Vec<NodeId> {
    let reads = |node: NodeId| {
        let product = Product::of(graph, node)?;
        let matrix = graph.constant(product.weight).is_some_and(|c| c.shape.len() == 2);
        (product.activation == activation && matrix).then_some(node)
    };
    graph.uses(activation).into_iter().filter(|(_, slot)| *slot == 0).filter_map(|(node, _)| reads(node)).collect()
}

fn shares(found: &Found, pattern: Pattern, with_activations: bool) -> String {
    let what = if with_activations { "energy, with activations," } else { "energy" };
    format!("{:.2} % of the {what} stays at {pattern} where {:.2} % did", 100.0 * found.after, 100.0 * found.before)
}

/// Lets the products of a group read an activation that is gathered by an index.
fn index(graph: &mut Graph, order: &Order, name: &str) -> Result<(), PassError> {
    // K of a weight is far below 2³¹: layouts of more elements do not exist.
    let indices: Vec<i32> = order.permutation.order().iter().map(|channel| *channel as i32).collect();
    let indices = Tensor::from_slice(&[indices.len()], &indices).expect("one index for each channel");
    let indices = graph.add_constant(&format!("{name}.order"), Constant::from_tensor(&indices));
    let axis = graph.ty(order.activation).rank() - 1;
    let gather = format!("{name}/permute");
    let node =
        graph.add_op(&gather, Gather { axis }, &[Some(order.activation), Some(indices)]).map_err(PassError::infer(&gather))?;
    for product in &order.products {
        let origin = graph.node(*product).origin.clone();
        graph.add_origin(node, origin);
        graph.set_input(*product, 0, Some(ValueRef { node, slot: 0 }));
        Part { node: *product, slot: 1, axis: 0, start: 0 }.apply(graph, &order.permutation);
    }
    Ok(())
}
