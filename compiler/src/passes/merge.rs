//! `merge`: products that read one activation and have one form (Q/K/V, gate/up) become one product, whose result is split.
//!
//! Kernels for GPUs read through the Split, so that dense 16-bit products without a form gain from it too: one launch in place of several, over
//! an activation that is read once. The CPU would copy. It merges those only in a plan for GPUs as well, so that the plan has their weights once.
//! What is an output of the graph would have to be copied out, and stays apart.

use bytes::Bytes;
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::gemm::MatMul;
use sliderun::op::layout::Split;
use std::collections::BTreeMap;

use super::product::Product;
use super::{Pass, PassContext, PassError};
use crate::ir::{Constant, Graph, ValueRef, WeightForm};

/// The pass.
pub const PASS: Pass = Pass {
    name: "merge",
    summary: "join the quantized, sparse or, for GPUs, 16-bit products that read one activation (Q/K/V, gate/up) into one",
    run,
};

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    let mut groups: BTreeMap<(ValueRef, Option<WeightForm>), Vec<Product>> = BTreeMap::new();
    for product in Product::all(graph) {
        let form = graph.node(product.node).form;
        // The CPU's graph of a plan for GPUs has them among its targets too.
        let with_gpus = context.options.architectures().next().is_some();
        let merges = form.is_some() || with_gpus && is_dense_16_bit(graph, product);
        if merges && product.function.is_none() {
            groups.entry((product.activation, form)).or_default().push(product);
        }
    }
    // In schedule order of their first members, whatever the keys' order.
    let mut groups: Vec<_> = groups.into_iter().filter(|(_, members)| members.len() > 1).collect();
    groups.sort_by_key(|(_, members)| members[0].node);
    for ((_, form), members) in groups {
        // Read anew: a merge before may have replaced what these read.
        let members: Vec<Product> = members.iter().filter_map(|p| Product::of(graph, p.node)).collect();
        merge(graph, context, form, &members)?;
    }
    Ok(())
}

/// Whether a product without a form multiplies 16-bit floats with a constant, and its sums go on through the graph.
fn is_dense_16_bit(graph: &Graph, product: Product) -> bool {
    let dtype = graph.ty(product.result()).dtype;
    matches!(dtype, DType::F16 | DType::Bf16) && product.ineligible(graph).is_none() && !graph.is_output(product.result())
}

fn merge(
    graph: &mut Graph,
    context: &mut PassContext<'_>,
    form: Option<WeightForm>,
    members: &[Product],
) -> Result<(), PassError> {
    let names: Vec<String> = members.iter().map(|p| graph.node(p.node).name.clone()).collect();
    let name = format!("{} (merged)", names.join(" + "));
    let constant = |v: ValueRef| graph.constant(v).expect("what is merged has constant operands");
    let weights: Vec<&Constant> = members.iter().map(|p| constant(p.weight)).collect();
    if weights.iter().any(|w| w.dtype != weights[0].dtype) {
        context.report.declined(names[0].clone(), format!("the weights of {} differ in element type", names.join(", ")));
        return Ok(());
    }
    let widths: Vec<usize> = weights.iter().map(|w| w.shape[1]).collect();
    let weight = join_columns(&weights);
    let bias = members.iter().any(|p| p.bias.is_some()).then(|| {
        let dtype = weights[0].dtype;
        // A product without a bias adds zeros, of which every element type is all zero bytes.
        let parts = members.iter().zip(&widths).map(|(p, n)| match p.bias {
            Some(b) => constant(b).data.clone(),
            None => Bytes::from(vec![0; n * dtype.size()]),
        });
        Constant { dtype, shape: vec![widths.iter().sum()], data: parts.collect::<Vec<_>>().concat().into() }
    });
    let weight = graph.add_constant(&format!("{name}.weight"), weight);
    let bias = bias.map(|b| graph.add_constant(&format!("{name}.bias"), b));
    let add = |graph: &mut Graph, name: &str, op: Op, operands: &[Option<ValueRef>]| {
        graph.add_op(name, op, operands).map_err(PassError::infer(name))
    };
    let operands = [Some(members[0].activation), Some(weight), bias];
    let product = add(graph, &name, MatMul::default().into(), &operands[..2 + usize::from(bias.is_some())])?;
    graph.set_form(product, form);
    let axis = graph.ty(ValueRef { node: product, slot: 0 }).rank() - 1;
    let split = Split { axis, sizes: widths.iter().map(|n| (*n).into()).collect() };
    let split = add(graph, &format!("{name}/split"), split.into(), &[Some(ValueRef { node: product, slot: 0 })])?;
    for (slot, member) in members.iter().enumerate() {
        let origin = graph.node(member.node).origin.clone();
        graph.add_origin(product, origin);
        graph.replace(member.result(), ValueRef { node: split, slot });
    }
    context.report.did(names, format!("one product of {} output channels", widths.iter().sum::<usize>()));
    Ok(())
}

/// Matrices [K, N₀], [K, N₁] … side by side.
fn join_columns(parts: &[&Constant]) -> Constant {
    let (dtype, k) = (parts[0].dtype, parts[0].shape[0]);
    let rows: Vec<usize> = parts.iter().map(|p| p.shape[1] * dtype.size()).collect();
    let mut data = Vec::with_capacity(k * rows.iter().sum::<usize>());
    for row in 0..k {
        for (part, width) in parts.iter().zip(&rows) {
            data.extend_from_slice(&part.data[row * width..(row + 1) * width]);
        }
    }
    Constant { dtype, shape: vec![k, parts.iter().map(|p| p.shape[1]).sum()], data: data.into() }
}
