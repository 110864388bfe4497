//! Normalisations and the softmax family.

use sliderun::dim::Dim;
use sliderun::op::Op;
use sliderun::op::elementwise::{Binary, Cast, Unary};
use sliderun::op::layout::{Expand, Reshape};
use sliderun::op::norm::{BatchNorm, GroupNorm, Hardmax, InstanceNorm, LayerNorm, LpNorm, Lrn, RmsNorm, Softmax};
use sliderun::op::reduce::{Reduce, ReduceKind};

use super::{Imported, Importer, NodeContext, Refusal, microsoft, onnx};

pub(super) const IMPORTERS: &[Importer] = &[
    onnx("Hardmax", softmax),
    onnx("LogSoftmax", softmax),
    onnx("Softmax", softmax),
    onnx("BatchNormalization", batch_norm),
    onnx("GroupNormalization", group_norm),
    onnx("InstanceNormalization", instance_norm),
    onnx("LayerNormalization", layer_norm),
    onnx("LRN", lrn),
    onnx("LpNormalization", lp_norm),
    onnx("MeanVarianceNormalization", mean_variance_norm),
    onnx("RMSNormalization", rms_norm),
    // Exporters put these contrib operators in the default domain too.
    onnx("SimplifiedLayerNormalization", rms_norm),
    microsoft("SimplifiedLayerNormalization", rms_norm),
    microsoft("LayerNormalization", layer_norm),
    microsoft("SkipLayerNormalization", skip_norm),
    microsoft("SkipSimplifiedLayerNormalization", skip_norm),
];

/// Before opset 13 the input is flattened to a matrix at `axis` (default 1) and normalised by rows.
fn softmax(cx: &mut NodeContext<'_>) -> Imported {
    let flattening = cx.opset() < 13;
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let axis = cx.axis_or("axis", if flattening { 1 } else { -1 }, shape.len())?;
    let kind = cx.op_type().to_owned();
    let op = |axis| -> Op {
        match kind.as_str() {
            "Hardmax" => Hardmax { axis }.into(),
            kind => Softmax { axis, log: kind == "LogSoftmax" }.into(),
        }
    };
    // Flattening to rows of the last axis alone changes nothing.
    if !flattening || axis + 1 == shape.len() {
        return Ok(vec![cx.add(op(axis), &[x])?]);
    }
    let matrix = vec![Dim::product(&shape[..axis]), Dim::product(&shape[axis..])];
    let rows = cx.add(Reshape { shape: matrix }, &[x])?;
    let rows = cx.add(op(1), &[rows])?;
    Ok(vec![cx.add(Reshape { shape }, &[rows])?])
}

fn check_stash_type(cx: &NodeContext<'_>) -> Result<(), Refusal> {
    match cx.int_or("stash_type", 1)? {
        1 => Ok(()),
        // f32 arithmetic is at least as precise as what the model asks for, but its stats have another type.
        other => Err(Refusal::new(format!("stash_type {other} is not supported; statistics are computed in f32 (stash_type 1)"))),
    }
}

fn layer_norm(cx: &mut NodeContext<'_>) -> Imported {
    check_stash_type(cx)?;
    let (x, scale, bias) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
    let stats = cx.wants_output(1) || cx.wants_output(2);
    let op = LayerNorm { axis: cx.axis_or("axis", -1, cx.rank(x))?, epsilon: cx.float_or("epsilon", 1e-5)?, stats };
    cx.add_all(op, &[Some(x), Some(scale), bias])
}

fn rms_norm(cx: &mut NodeContext<'_>) -> Imported {
    check_stash_type(cx)?;
    let (x, scale) = (cx.input(0)?, cx.input(1)?);
    if cx.wants_output(1) {
        return Err(Refusal::new("the inverse standard deviation as a further output is not supported"));
    }
    let op = RmsNorm { axis: cx.axis_or("axis", -1, cx.rank(x))?, epsilon: cx.float_or("epsilon", 1e-5)? };
    Ok(vec![cx.add(op, &[x, scale])?])
}

/// Contrib: normalises `input + skip + bias`; output 3 is that sum.
fn skip_norm(cx: &mut NodeContext<'_>) -> Imported {
    let rms = cx.op_type() == "SkipSimplifiedLayerNormalization";
    let (x, skip, scale) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (shift, bias) = if rms { (None, cx.optional(3)) } else { (cx.optional(3), cx.optional(4)) };
    let epsilon = cx.float_or("epsilon", 1e-12)?;
    if cx.wants_output(1) || cx.wants_output(2) {
        return Err(Refusal::new("the mean and the inverse standard deviation as further outputs are not supported"));
    }
    let mut sum = cx.add(Binary::Add, &[x, skip])?;
    if let Some(bias) = bias {
        sum = cx.add(Binary::Add, &[sum, bias])?;
    }
    let axis = cx.axis(-1, cx.rank(sum))?;
    let y = if rms {
        cx.add(RmsNorm { axis, epsilon }, &[sum, scale])?
    } else {
        cx.add_optional(LayerNorm { axis, epsilon, stats: false }, &[Some(sum), Some(scale), shift])?
    };
    // Outputs 1 and 2 are absent; their places are never read.
    Ok(if cx.wants_output(3) { vec![y, y, y, sum] } else { vec![y] })
}

fn batch_norm(cx: &mut NodeContext<'_>) -> Imported {
    let operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?, cx.input(4)?];
    let epsilon = cx.float_or("epsilon", 1e-5)?;
    if cx.int_or("training_mode", 0)? != 0 {
        return batch_norm_training(cx, epsilon);
    }
    if (1..5).any(|i| cx.wants_output(i)) {
        return Err(Refusal::new("outputs beyond the first exist only in training; export the model for inference"));
    }
    Ok(vec![cx.add(BatchNorm { epsilon }, &operands)?])
}

/// Training: statistics of the batch itself, and the running ones updated from them.
fn batch_norm_training(cx: &mut NodeContext<'_>, epsilon: f32) -> Imported {
    let (x, scale, bias) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let axes: Vec<usize> = (0..cx.rank(x)).filter(|&a| a != 1).collect();
    let mean = cx.add(Reduce { kind: ReduceKind::Mean, axes: axes.clone(), keep_dims: true }, &[x])?;
    let centred = cx.add(Binary::Sub, &[x, mean])?;
    let square = cx.add(Binary::Mul, &[centred, centred])?;
    let variance = cx.add(Reduce { kind: ReduceKind::Mean, axes, keep_dims: true }, &[square])?;
    let channels = vec![cx.shape(x)[1].clone()];
    let mean = cx.add(Reshape { shape: channels.clone() }, &[mean])?;
    let variance = cx.add(Reshape { shape: channels }, &[variance])?;
    let y = cx.add(BatchNorm { epsilon }, &[x, scale, bias, mean, variance])?;
    let momentum = f64::from(cx.float_or("momentum", 0.9)?);
    let mut out = vec![y];
    for (input, current) in [(3, mean), (4, variance)] {
        let running = cx.input(input)?;
        let dtype = cx.dtype(running);
        let current = if cx.dtype(current) == dtype { current } else { cx.add(Cast { to: dtype }, &[current])? };
        let (keep, take) = (cx.scalar(dtype, momentum)?, cx.scalar(dtype, 1.0 - momentum)?);
        let kept = cx.add(Binary::Mul, &[running, keep])?;
        let taken = cx.add(Binary::Mul, &[current, take])?;
        out.push(cx.add(Binary::Add, &[kept, taken])?);
    }
    Ok(out)
}

fn instance_norm(cx: &mut NodeContext<'_>) -> Imported {
    let operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    let epsilon = cx.float_or("epsilon", 1e-5)?;
    Ok(vec![cx.add(InstanceNorm { epsilon }, &operands)?])
}

/// Scale and bias are per channel from opset 21 on, per group in 18.
fn group_norm(cx: &mut NodeContext<'_>) -> Imported {
    check_stash_type(cx)?;
    let (x, mut scale, mut bias) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let groups = cx.required_int("num_groups")?;
    let groups = usize::try_from(groups).ok().filter(|&g| g > 0).ok_or_else(|| Refusal::attribute("num_groups", groups))?;
    if cx.opset() < 21 {
        let channels = cx.shape(x).get(1).cloned().ok_or_else(|| Refusal::new("the input has no channel axis"))?;
        let per_group = channels
            .exact_div(&groups.into())
            .ok_or_else(|| Refusal::new(format!("{channels} channels are not a multiple of {groups} groups")))?;
        for v in [&mut scale, &mut bias] {
            let column = cx.add(Reshape { shape: vec![groups.into(), 1.into()] }, &[*v])?;
            let wide = cx.add(Expand { shape: vec![groups.into(), per_group.clone()] }, &[column])?;
            *v = cx.add(Reshape { shape: vec![channels.clone()] }, &[wide])?;
        }
    }
    let epsilon = cx.float_or("epsilon", 1e-5)?;
    Ok(vec![cx.add(GroupNorm { groups, epsilon }, &[x, scale, bias])?])
}

fn lp_norm(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let p = match cx.int_or("p", 2)? {
        p @ (1 | 2) => p as u8,
        other => return Err(Refusal::attribute("p", other)),
    };
    let axis = cx.axis_or("axis", -1, cx.rank(x))?;
    Ok(vec![cx.add(LpNorm { p, axis }, &[x])?])
}

fn lrn(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let size = cx.required_int("size")?;
    let op = Lrn {
        alpha: cx.float_or("alpha", 1e-4)?,
        beta: cx.float_or("beta", 0.75)?,
        bias: cx.float_or("bias", 1.0)?,
        size: usize::try_from(size).ok().filter(|&s| s > 0).ok_or_else(|| Refusal::attribute("size", size))?,
    };
    Ok(vec![cx.add(op, &[x])?])
}

/// `(x − mean) / (√variance + 1e-9)`; the variance as the mean square of what is centred, which cannot go negative.
fn mean_variance_norm(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let axes = cx.ints("axes")?.unwrap_or_else(|| vec![0, 2, 3]);
    let op = Reduce { kind: ReduceKind::Mean, axes: super::operands::axes(&axes, cx.rank(x))?, keep_dims: true };
    let mean = cx.add(op.clone(), &[x])?;
    let centred = cx.add(Binary::Sub, &[x, mean])?;
    let square = cx.add(Binary::Mul, &[centred, centred])?;
    let variance = cx.add(op, &[square])?;
    let deviation = cx.add(Unary::Sqrt, &[variance])?;
    let dtype = cx.dtype(x);
    let epsilon = cx.scalar(dtype, 1e-9)?;
    let deviation = cx.add(Binary::Add, &[deviation, epsilon])?;
    Ok(vec![cx.add(Binary::Div, &[centred, deviation])?])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;

    const X: Given<'_> = Input(F32, &["n", "4", "5"]);

    #[test]
    fn softmax_flattens_before_13() {
        let op = || node("Softmax", &[], &[]);
        check(13, op(), &[X], &["Softmax(Softmax { axis: 2, log: false }) -> f32[n, 4, 5]"]);
        check(
            12,
            op(),
            &[X],
            &[
                "Reshape(Reshape { shape: [n, 20] }) -> f32[n, 20]",
                "Softmax(Softmax { axis: 1, log: false }) -> f32[n, 20]",
                "Reshape(Reshape { shape: [n, 4, 5] }) -> f32[n, 4, 5]",
            ],
        );
        let log = node("LogSoftmax", &[], &[]).attr("axis", 2);
        check(11, log, &[X], &["Softmax(Softmax { axis: 2, log: true }) -> f32[n, 4, 5]"]);
        check(13, node("Hardmax", &[], &[]).attr("axis", 0), &[X], &["Hardmax(Hardmax { axis: 0 }) -> f32[n, 4, 5]"]);
    }

    #[test]
    fn layers() {
        let weight = Input(F32, &["5"]);
        let op = "LayerNorm(LayerNorm { axis: 2, epsilon: 1e-5, stats: false }) -> f32[n, 4, 5]";
        check(17, node("LayerNormalization", &[], &[]), &[X, weight, weight], &[op]);
        let op = "RmsNorm(RmsNorm { axis: 2, epsilon: 1e-6 }) -> f32[n, 4, 5]";
        check(23, node("RMSNormalization", &[], &[]).attr("epsilon", 1e-6f32), &[X, weight], &[op]);
        let skip = node("SkipLayerNormalization", &[], &[]).domain("com.microsoft");
        let norm = "LayerNorm(LayerNorm { axis: 2, epsilon: 1e-12, stats: false }) -> f32[n, 4, 5]";
        check(17, skip, &[X, X, weight, weight], &["Binary(Add) -> f32[n, 4, 5]", norm]);
    }

    #[test]
    fn channels() {
        let c = || Input(F32, &["4"]);
        let op = "BatchNorm(BatchNorm { epsilon: 1e-5 }) -> f32[n, 4, 5]";
        check(9, node("BatchNormalization", &[], &[]).attr("momentum", 0.9f32), &[X, c(), c(), c(), c()], &[op]);
        let op = "InstanceNorm(InstanceNorm { epsilon: 1e-5 }) -> f32[n, 4, 5]";
        check(9, node("InstanceNormalization", &[], &[]), &[X, c(), c()], &[op]);
        let group = || node("GroupNormalization", &[], &[]).attr("num_groups", 2);
        let op = "GroupNorm(GroupNorm { groups: 2, epsilon: 1e-5 }) -> f32[n, 4, 5]";
        check(21, group(), &[X, c(), c()], &[op]);
        // Opset 18 gives scale and bias per group.
        let graph = import_node(18, group(), &[X, Input(F32, &["2"]), Input(F32, &["2"])], 1).unwrap();
        assert_eq!(ops(&graph).last().unwrap(), op);
        let op = "LpNorm(LpNorm { p: 1, axis: 1 }) -> f32[n, 4, 5]";
        check(9, node("LpNormalization", &[], &[]).attr("p", 1).attr("axis", 1), &[X], &[op]);
        let op = "Lrn(Lrn { alpha: 0.0001, beta: 0.75, bias: 1.0, size: 3 }) -> f32[n, 4, 5]";
        check(13, node("LRN", &[], &[]).attr("size", 3), &[X], &[op]);
    }
}
