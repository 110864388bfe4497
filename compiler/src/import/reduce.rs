//! Reductions, arg-reductions, scans and TopK.

use sliderun::op::layout::Identity;
use sliderun::op::reduce::{ArgReduce, Cumulative, Reduce, ReduceKind, TopK};

use super::{Imported, Importer, NodeContext, Refusal, onnx};

pub(super) const IMPORTERS: &[Importer] = &[
    onnx("ReduceL1", reduce),
    onnx("ReduceL2", reduce),
    onnx("ReduceLogSum", reduce),
    onnx("ReduceLogSumExp", reduce),
    onnx("ReduceMax", reduce),
    onnx("ReduceMean", reduce),
    onnx("ReduceMin", reduce),
    onnx("ReduceProd", reduce),
    onnx("ReduceSum", reduce),
    onnx("ReduceSumSquare", reduce),
    onnx("ArgMax", arg),
    onnx("ArgMin", arg),
    onnx("CumProd", cumulative),
    onnx("CumSum", cumulative),
    onnx("TopK", top_k),
];

/// Axes are an attribute before opset 18 (ReduceSum: 13), an optional operand from then on; none given means all, unless
/// `noop_with_empty_axes` says none.
fn reduce(cx: &mut NodeContext<'_>) -> Imported {
    let (kind, as_input) = match cx.op_type() {
        "ReduceL1" => (ReduceKind::L1, 18),
        "ReduceL2" => (ReduceKind::L2, 18),
        "ReduceLogSum" => (ReduceKind::LogSum, 18),
        "ReduceLogSumExp" => (ReduceKind::LogSumExp, 18),
        "ReduceMax" => (ReduceKind::Max, 18),
        "ReduceMean" => (ReduceKind::Mean, 18),
        "ReduceMin" => (ReduceKind::Min, 18),
        "ReduceProd" => (ReduceKind::Prod, 18),
        "ReduceSum" => (ReduceKind::Sum, 13),
        "ReduceSumSquare" => (ReduceKind::SumSquare, 18),
        other => return Err(Refusal::unsupported(other)),
    };
    let x = cx.input(0)?;
    let rank = cx.rank(x);
    let keep_dims = cx.int_or("keepdims", 1)? != 0;
    let axes = cx.axes_attribute_or_input(as_input, 1, rank)?.unwrap_or_default();
    let noop = cx.opset() >= as_input && cx.int_or("noop_with_empty_axes", 0)? != 0;
    let axes = if axes.is_empty() && !noop { (0..rank).collect() } else { axes };
    Ok(vec![cx.add(Reduce { kind, axes, keep_dims }, &[x])?])
}

fn arg(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let op = ArgReduce {
        max: cx.op_type() == "ArgMax",
        axis: cx.axis_or("axis", 0, cx.rank(x))?,
        keep_dims: cx.int_or("keepdims", 1)? != 0,
        select_last: cx.int_or("select_last_index", 0)? != 0,
    };
    Ok(vec![cx.add(op, &[x])?])
}

fn cumulative(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let axis = cx.known_int(1)?;
    let op = Cumulative {
        product: cx.op_type() == "CumProd",
        axis: super::operands::axis(axis, cx.rank(x))?,
        exclusive: cx.int_or("exclusive", 0)? != 0,
        reverse: cx.int_or("reverse", 0)? != 0,
    };
    if cx.rank(x) == 0 {
        return Ok(vec![cx.add(Identity {}, &[x])?]);
    }
    Ok(vec![cx.add(op, &[x])?])
}

/// `k` is an attribute before opset 10, an operand from then on. Sorted results serve `sorted = 0` as well.
fn top_k(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let k = if cx.opset() < 10 { cx.required_int("k")?.into() } else { cx.known_dim(1)? };
    let op = TopK { k, axis: cx.axis_or("axis", -1, cx.rank(x))?, largest: cx.int_or("largest", 1)? != 0 };
    cx.add_all(op, &[Some(x)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;

    const X: Given<'_> = Input(F32, &["n", "3", "4"]);

    #[test]
    fn axes_are_attributes_then_operands() {
        let op = || node("ReduceMean", &[], &[]);
        let expected = ["Reduce(Reduce { kind: Mean, axes: [2], keep_dims: true }) -> f32[n, 3, 1]"];
        check(13, op().attr("axes", vec![-1]), &[X], &expected);
        check(18, op(), &[X, Ints(&[-1])], &expected);
        check(18, op().attr("keepdims", 0), &[X], &["Reduce(Reduce { kind: Mean, axes: [0, 1, 2], keep_dims: false }) -> f32[]"]);
        let none = ["Reduce(Reduce { kind: Mean, axes: [], keep_dims: true }) -> f32[n, 3, 4]"];
        check(18, op().attr("noop_with_empty_axes", 1), &[X], &none);
        refused(13, op().attr("axes", vec![3]), &[X], "axis 3 does not exist");
        refused(18, op(), &[X, Input(I64, &["1"])], "--freeze");
    }

    #[test]
    fn reduce_sum_changed_at_13() {
        let expected = ["Reduce(Reduce { kind: Sum, axes: [1], keep_dims: true }) -> f32[n, 1, 4]"];
        check(11, node("ReduceSum", &[], &[]).attr("axes", vec![1]), &[X], &expected);
        check(13, node("ReduceSum", &[], &[]), &[X, Ints(&[1])], &expected);
    }

    #[test]
    fn selections_and_scans() {
        let arg = "ArgReduce(ArgReduce { max: true, axis: 0, keep_dims: true, select_last: false }) -> i64[1, 3, 4]";
        check(13, node("ArgMax", &[], &[]), &[X], &[arg]);
        let sum = "Cumulative(Cumulative { product: false, axis: 2, exclusive: false, reverse: true }) -> f32[n, 3, 4]";
        check(14, node("CumSum", &[], &[]).attr("reverse", 1), &[X, Int(-1)], &[sum]);
        let top = "TopK(TopK { k: 2, axis: 2, largest: true }) -> f32[n, 3, 2], i64[n, 3, 2]";
        check(9, node("TopK", &[], &[]).attr("k", 2), &[X], &[top]);
        check(11, node("TopK", &[], &[]), &[X, Ints(&[2])], &[top]);
    }
}
