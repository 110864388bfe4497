//! Orders of K in a model's file: its constants in the order in which pruning keeps more, where that changes nothing that the model computes
//! but the order of sums.
//!
//! Must not know: how an order is found, how weights are pruned.

use std::collections::BTreeMap;

use super::{ModelProduct, PruneError, PruneOptions, StoredWeight, Traced};
use crate::ir::{Graph, NodeId};
use crate::onnx::OnnxModel;
use crate::onnx::proto::GraphProto;
use crate::options::{Permute, SparsityRequest};
use crate::passes::permute::{Order, Part, orders};
use crate::sparsity::Orientation;

/// An axis of a tensor of the file.
struct Stored {
    tensor: String,
    axis: usize,
    start: usize,
}

/// Puts what is stored in the file into orders that cost nothing. Gives for each product, by its node's name, what was done or why nothing
/// was.
///
/// # Errors
/// As [`super::products`].
pub fn reorder(model: &mut OnnxModel, options: &PruneOptions) -> Result<BTreeMap<String, String>, PruneError> {
    let Traced { graph, products } = Traced::new(model)?;
    let stored: BTreeMap<NodeId, &ModelProduct> = products.iter().map(|(product, told)| (product.node, told)).collect();
    let asked = |_: &str| (options.method, SparsityRequest::Pattern(options.pattern));
    let mut told = BTreeMap::new();
    let calibration = options.calibration.as_deref().map(|calibration| (calibration, &*options.engine));
    let found = orders(&graph, Permute::Free, calibration, &asked, &mut |node, why| {
        told.insert(node, why);
    });
    for order in found {
        let what = match apply(model, &graph, &stored, &order)? {
            Ok(()) => order.told.clone(),
            Err(reason) => format!("K stays in its order: {reason}"),
        };
        order.products.iter().for_each(|node| drop(told.insert(graph.node(*node).name.clone(), what.clone())));
    }
    Ok(told)
}

/// Puts every constant that an order takes into it, or says why one of them cannot be.
fn apply(
    model: &mut OnnxModel,
    graph: &Graph,
    products: &BTreeMap<NodeId, &ModelProduct>,
    order: &Order,
) -> Result<Result<(), String>, PruneError> {
    let Ok(fold) = &order.fold else { return Ok(Err("it would take an index, which the file has none of".to_owned())) };
    let places: Result<Vec<Stored>, String> = fold.parts().iter().map(|part| place(model, graph, products, part)).collect();
    let places = match places {
        Ok(places) => places,
        Err(reason) => return Ok(Err(reason)),
    };
    for Stored { tensor, axis, start } in places {
        let constant = order.permutation.apply(&model.weight(&tensor)?, axis, start);
        model.set_initializer(&tensor, constant.data)?;
    }
    Ok(Ok(()))
}

/// Where the file stores a constant, when nothing else reads it there.
fn place(model: &OnnxModel, graph: &Graph, products: &BTreeMap<NodeId, &ModelProduct>, part: &Part) -> Result<Stored, String> {
    let value = graph.operand(part.node, part.slot).ok_or("an operand is missing")?;
    let constant = graph.constant(value).ok_or("an operand is computed")?;
    let (tensor, axis) = match products.get(&part.node).filter(|_| part.slot == 1) {
        Some(product) => {
            let StoredWeight { tensor, orientation } = product.stored.as_ref().map_err(Clone::clone)?;
            // The graph's weights are [K, N]; leading axes of 1 are the tensor's own business.
            let axis = if *orientation == Orientation::KN { part.axis } else { 1 - part.axis };
            let rank = model.weight(tensor).map_err(|e| e.to_string())?.shape.len();
            (tensor.clone(), rank.checked_sub(2).ok_or("a weight has two axes")? + axis)
        }
        None => (graph.output(value).name.clone(), part.axis),
    };
    let same = |stored: crate::ir::Constant| part.slot == 1 && products.contains_key(&part.node) || stored == *constant;
    if !model.weight(&tensor).is_ok_and(same) {
        return Err(format!("'{tensor}' is computed from the model's constants"));
    }
    match readers(model.graph(), &tensor) {
        1 => Ok(Stored { tensor, axis, start: part.start }),
        n => Err(format!("'{tensor}' is read at {n} places of the model")),
    }
}

/// How often a graph, its subgraphs and outputs included, reads a tensor.
fn readers(graph: &GraphProto, tensor: &str) -> usize {
    let of_nodes = graph.node.iter().map(|node| {
        let inputs = node.input.iter().filter(|input| *input == tensor).count();
        let graphs = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
        inputs + graphs.map(|g| readers(g, tensor)).sum::<usize>()
    });
    of_nodes.sum::<usize>() + graph.output.iter().filter(|output| output.name() == tensor).count()
}

#[cfg(test)]
mod tests;
