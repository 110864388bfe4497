//! Constants, shapes as values, and control flow that is decided when compiling.

use bytes::Bytes;
use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::generate::Extents;
use sliderun::tensor::Tensor;

use super::{Imported, Importer, NodeContext, Refusal, onnx};
use crate::ir::Constant;

pub(super) const IMPORTERS: &[Importer] =
    &[onnx("Constant", constant), onnx("If", if_), onnx("Shape", shape), onnx("Size", size)];

fn constant(cx: &mut NodeContext<'_>) -> Imported {
    let tensor = |t: Result<Tensor, _>| {
        t.map(|t| Constant::from_tensor(&t)).map_err(|e: sliderun::tensor::TensorError| Refusal::new(e.to_string()))
    };
    let value = if let Some(value) = cx.tensor("value")? {
        value
    } else if let Some(v) = cx.float("value_float")? {
        Constant { dtype: DType::F32, shape: vec![], data: Bytes::copy_from_slice(&v.to_le_bytes()) }
    } else if let Some(v) = cx.int("value_int")? {
        Constant { dtype: DType::I64, shape: vec![], data: Bytes::copy_from_slice(&v.to_le_bytes()) }
    } else if let Some(v) = cx.floats("value_floats")? {
        tensor(Tensor::from_slice(&[v.len()], &v))?
    } else if let Some(v) = cx.ints("value_ints")? {
        tensor(Tensor::from_slice(&[v.len()], &v))?
    } else {
        return Err(Refusal::new("its value is missing or of a kind that is not supported (strings, sparse tensors)"));
    };
    Ok(vec![cx.add_constant(value)])
}

/// The branch that runs is imported in place; which one it is must be known.
fn if_(cx: &mut NodeContext<'_>) -> Imported {
    let (then_branch, else_branch) = (cx.required_graph("then_branch")?, cx.required_graph("else_branch")?);
    cx.inline(if cx.known_bool(0)? { then_branch } else { else_branch })
}

fn shape(cx: &mut NodeContext<'_>) -> Imported {
    let shape = cx.shape(cx.input(0)?);
    let rank = shape.len() as i64;
    let bound = |v: i64| (if v < 0 { v.saturating_add(rank) } else { v }).clamp(0, rank) as usize;
    let (start, end) = (bound(cx.int_or("start", 0)?), bound(cx.int_or("end", rank)?));
    let values = shape[start..end.max(start)].to_vec();
    let shape = vec![values.len()];
    Ok(vec![cx.add(Extents { values, shape, dtype: DType::I64 }, &[])?])
}

fn size(cx: &mut NodeContext<'_>) -> Imported {
    let elements = Dim::product(&cx.shape(cx.input(0)?));
    Ok(vec![cx.add(Extents { values: vec![elements], shape: vec![], dtype: DType::I64 }, &[])?])
}
