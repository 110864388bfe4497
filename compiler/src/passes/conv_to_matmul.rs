//! `conv-to-matmul`: a convolution whose windows lie side by side (the patch embedding of a vision model) becomes layout steps and a
//! product with a constant weight, which can be quantized and sparse and needs no convolution kernel.
//!
//! A window of one element is left alone: channels-first, it would have its whole input and output transposed for nothing.

use sliderun::dim::Dim;
use sliderun::op::Op;
use sliderun::op::conv::{Conv, Windows};
use sliderun::op::elementwise::Binary;
use sliderun::op::gemm::MatMul;
use sliderun::op::layout::{Pad, PadMode, Reshape, Slice, SliceAxis, Transpose};

use super::rewrite::{Replacement, emit, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::{Constant, Graph, NodeId, ValueRef};

/// The pass. It comes before `normalise`, which merges the layout steps with those around them.
pub const PASS: Pass = Pass {
    name: "conv-to-matmul",
    summary: "a convolution whose windows lie side by side (patch embedding) becomes a MatMul with a constant weight",
    run,
};

/// K is padded with zeros to a multiple of this, and N must be one: libraries want it of 8-bit products.
const ALIGN: usize = 16;

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    rewrite(graph, context, |graph, id, context| {
        let Some(Op::Conv(conv)) = graph.node(id).op().cloned() else { return Ok(None) };
        let (Some(x), Some(w)) = (graph.operand(id, 0), graph.operand(id, 1)) else { return Ok(None) };
        let name = graph.node(id).name.clone();
        match weight(graph, &conv, x, w) {
            Err(reason) => {
                context.report.declined(name, reason);
                Ok(None)
            }
            Ok(weight) => {
                let value = matmul(graph, id, &name, &conv.windows, x, &weight)?;
                Ok(Some(Replacement::new(value, "convolution became a product")))
            }
        }
    })
}

/// The weight of a convolution that is to become a product, or why it is not.
fn weight(graph: &Graph, conv: &Conv, x: ValueRef, w: ValueRef) -> Result<Constant, String> {
    let Conv { windows: Windows { kernel, strides, dilations, pads }, groups } = conv;
    let dilated = dilations.iter().zip(kernel).any(|(d, k)| *d != 1 && *k != 1);
    if kernel != strides || dilated || pads.iter().any(|p| *p != (0, 0)) {
        return Err("its windows do not lie side by side".into());
    }
    if kernel.iter().all(|k| *k == 1) {
        return Err("its windows are single elements".into());
    }
    let weight = graph.constant(w).ok_or("its weight is computed")?;
    if *groups != 1 {
        return Err(format!("it has {groups} groups"));
    }
    if graph.ty(x).shape[1].as_usize() != Some(weight.shape[1]) {
        return Err(format!("the channels of {} are not known", graph.ty(x)));
    }
    if weight.data.is_empty() || !weight.shape[0].is_multiple_of(ALIGN) {
        return Err(format!("its weight is {}, and a multiple of {ALIGN} filters is wanted", graph.ty(w)));
    }
    Ok(weight.clone())
}

/// x: [N, C, spatial…] cut into windows [N, windows, C·kernel], times [C·kernel, O], back to [N, O, windows…].
fn matmul(
    graph: &mut Graph,
    id: NodeId,
    name: &str,
    windows: &Windows,
    x: ValueRef,
    w: &Constant,
) -> Result<ValueRef, PassError> {
    let result = graph.ty(ValueRef { node: id, slot: 0 }).shape.clone();
    let (batch, counts) = (result[0].clone(), &result[2..]);
    let axes = counts.len();
    let k: usize = w.shape[1..].iter().product();
    let weight = matrix(w);
    let missing = weight.shape[0] - k;

    // What is past the last window is read by none.
    let ends: Vec<Dim> = counts.iter().zip(&windows.kernel).map(|(n, k)| n.clone() * (*k).into()).collect();
    let cut = |(i, end): (usize, &Dim)| SliceAxis { axis: i + 2, start: 0.into(), len: end.clone(), step: 1 };
    let mut patches = x;
    if graph.ty(x).shape[2..] != ends[..] {
        let slice = Slice { axes: ends.iter().enumerate().map(cut).collect() };
        patches = emit(graph, &format!("{name}/windows"), slice, &[patches])?;
    }
    // [N, C, n₀, k₀, n₁, k₁, …] to [N, n₀, n₁, …, C, k₀, k₁, …].
    let mut parted = graph.ty(x).shape[..2].to_vec();
    parted.extend(counts.iter().zip(&windows.kernel).flat_map(|(n, k)| [n.clone(), (*k).into()]));
    patches = emit(graph, &format!("{name}/parts"), Reshape { shape: parted }, &[patches])?;
    let perm = [0].into_iter().chain((0..axes).map(|i| 2 + 2 * i)).chain([1]).chain((0..axes).map(|i| 3 + 2 * i)).collect();
    patches = emit(graph, &format!("{name}/patches"), Transpose { perm }, &[patches])?;
    let flat = vec![batch, Dim::product(counts), k.into()];
    patches = emit(graph, &format!("{name}/rows"), Reshape { shape: flat }, &[patches])?;
    if missing > 0 {
        let pad = Pad { mode: PadMode::Constant, pads: vec![(0, 0), (0, 0), (0, missing as i64)] };
        patches = emit(graph, &format!("{name}/pad"), pad, &[patches])?;
    }
    let weight = graph.add_constant(&format!("{name}.weight"), weight);
    let mut product = emit(graph, name, MatMul::default(), &[patches, weight])?;
    if let Some(bias) = graph.operand(id, 2) {
        product = emit(graph, &format!("{name}.bias"), Binary::Add, &[product, bias])?;
    }
    let turned = emit(graph, &format!("{name}/channels"), Transpose { perm: vec![0, 2, 1] }, &[product])?;
    emit(graph, &format!("{name}/result"), Reshape { shape: result }, &[turned])
}

/// A weight [O, C, kernel…] as [C·kernel, O], with rows of zeros up to a multiple of [`ALIGN`].
fn matrix(weight: &Constant) -> Constant {
    let (filters, k, size) = (weight.shape[0], weight.shape[1..].iter().product::<usize>(), weight.dtype.size());
    let rows = k.next_multiple_of(ALIGN);
    let mut data = Vec::with_capacity(rows * filters * size);
    for row in 0..k {
        for filter in 0..filters {
            data.extend_from_slice(&weight.data[(filter * k + row) * size..][..size]);
        }
    }
    data.resize(rows * filters * size, 0);
    Constant { dtype: weight.dtype, shape: vec![rows, filters], data: data.into() }
}
