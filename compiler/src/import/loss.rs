//! Losses over classes, as compositions of primitives.

use sliderun::op::elementwise::{Binary, Unary, Where};
use sliderun::op::index::{Gather, GatherElements};
use sliderun::op::layout::Reshape;
use sliderun::op::norm::Softmax;
use sliderun::op::reduce::{Reduce, ReduceKind};

use super::{Imported, Importer, NodeContext, Refusal, onnx};
use crate::ir::ValueRef;

pub(super) const IMPORTERS: &[Importer] =
    &[onnx("NegativeLogLikelihoodLoss", negative_log_likelihood), onnx("SoftmaxCrossEntropyLoss", softmax_cross_entropy)];

fn negative_log_likelihood(cx: &mut NodeContext<'_>) -> Imported {
    let log_probabilities = cx.input(0)?;
    Ok(vec![loss(cx, log_probabilities)?])
}

fn softmax_cross_entropy(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let log_probabilities = cx.add(Softmax { axis: 1, log: true }, &[x])?;
    Ok(vec![loss(cx, log_probabilities)?, log_probabilities])
}

/// `-weight[t]·x[t]` at each target t, [N, …] for x [N, C, …], then reduced. Targets equal to `ignore_index` count for nothing.
fn loss(cx: &mut NodeContext<'_>, x: ValueRef) -> Result<ValueRef, Refusal> {
    let target = cx.input(1)?;
    let (dtype, shape) = (cx.dtype(x), cx.shape(target));
    if cx.rank(x) != shape.len() + 1 || shape.is_empty() {
        return Err(Refusal::new(format!(
            "{} axes of targets for {} axes of scores; one less is expected",
            shape.len(),
            cx.rank(x)
        )));
    }
    let mut class = target;
    let mut ignored = None;
    if let Some(index) = cx.int("ignore_index")? {
        let target_type = cx.dtype(target);
        let (index, zero) = (cx.scalar(target_type, index as f64)?, cx.scalar(target_type, 0.0)?);
        let mask = cx.add(Binary::Equal, &[target, index])?;
        class = cx.add(Where {}, &[mask, zero, target])?;
        ignored = Some(mask);
    }
    let mut column = shape.clone();
    column.insert(1, 1.into());
    let index = cx.add(Reshape { shape: column }, &[class])?;
    let picked = cx.add(GatherElements { axis: 1 }, &[x, index])?;
    let picked = cx.add(Reshape { shape: shape.clone() }, &[picked])?;
    let mut loss = cx.add(Unary::Neg, &[picked])?;
    let zero = cx.scalar(dtype, 0.0)?;
    let mut weight = match cx.optional(2) {
        Some(weights) => Some(cx.add(Gather { axis: 0 }, &[weights, class])?),
        None if ignored.is_some() => Some(cx.scalar(dtype, 1.0)?),
        None => None,
    };
    if let (Some(mask), Some(w)) = (ignored, weight) {
        weight = Some(cx.add(Where {}, &[mask, zero, w])?);
        loss = cx.add(Where {}, &[mask, zero, loss])?;
    }
    if let Some(w) = weight {
        loss = cx.add(Binary::Mul, &[loss, w])?;
    }
    let axes: Vec<usize> = (0..shape.len()).collect();
    let all = |kind| Reduce { kind, axes: axes.clone(), keep_dims: false };
    match (cx.string_or("reduction", "mean")?.as_str(), weight) {
        ("none", _) => Ok(loss),
        ("sum", _) => cx.add(all(ReduceKind::Sum), &[loss]),
        ("mean", None) => cx.add(all(ReduceKind::Mean), &[loss]),
        ("mean", Some(w)) => {
            let (loss, weight) = (cx.add(all(ReduceKind::Sum), &[loss])?, cx.add(all(ReduceKind::Sum), &[w])?);
            cx.add(Binary::Div, &[loss, weight])
        }
        (other, _) => Err(Refusal::attribute("reduction", other)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;

    #[test]
    fn extents_of_losses() {
        let given = [Input(F32, &["n", "5", "d"]), Input(I64, &["n", "d"]), Input(F32, &["5"])];
        let extents = |name, reduction, outputs| {
            let op = node(name, &[], &[]).attr("reduction", reduction).attr("ignore_index", 2);
            let graph = import_node(13, op, &given, outputs).unwrap();
            graph.outputs.iter().map(|o| graph.ty(o.value).to_string()).collect::<Vec<_>>()
        };
        assert_eq!(extents("NegativeLogLikelihoodLoss", "none", 1), ["f32[n, d]"]);
        assert_eq!(extents("SoftmaxCrossEntropyLoss", "mean", 2), ["f32[]", "f32[n, 5, d]"]);
    }
}
