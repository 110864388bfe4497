//! Operators that move elements: reshaping, cutting, joining, padding.

use sliderun::dim::{Dim, DimOp};
use sliderun::op::layout::{
    Concat, DepthToSpace, Expand, Identity, Pad, PadMode, Reshape, ReverseSequence, Slice, SliceAxis, SpaceToDepth, Split, Tile,
    Transpose, Trilu,
};

use super::operands;
use super::{Imported, Importer, NodeContext, Refusal, onnx};

pub(super) const IMPORTERS: &[Importer] = &[
    onnx("CenterCropPad", center_crop_pad),
    onnx("Concat", concat),
    onnx("DepthToSpace", depth_to_space),
    onnx("Expand", expand),
    onnx("Flatten", flatten),
    onnx("Identity", identity),
    onnx("Pad", pad),
    onnx("Reshape", reshape),
    onnx("ReverseSequence", reverse_sequence),
    onnx("Slice", slice),
    onnx("SpaceToDepth", space_to_depth),
    onnx("Split", split),
    onnx("Squeeze", squeeze),
    onnx("Tile", tile),
    onnx("Transpose", transpose),
    onnx("Trilu", trilu),
    onnx("Unsqueeze", unsqueeze),
];

fn identity(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    Ok(vec![cx.add(Identity {}, &[x])?])
}

/// 0 copies the input's extent (unless `allowzero`), one -1 takes what is left.
fn reshape(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let input = cx.shape(x);
    let mut shape = cx.known_dims_input(1)?;
    let copy_zero = cx.int_or("allowzero", 0)? == 0;
    let mut rest = None;
    for (i, d) in shape.iter_mut().enumerate() {
        match d.as_const() {
            Some(0) if copy_zero => {
                *d = input.get(i).cloned().ok_or_else(|| {
                    Refusal::new(format!(
                        "shape[{i}] is 0, which copies the input's axis {i}, but the input has {} axes",
                        input.len()
                    ))
                })?;
            }
            Some(-1) if rest.is_none() => rest = Some(i),
            Some(v) if v < 0 => {
                return Err(Refusal::new(format!("shape[{i}] is {v}; at most one -1 is allowed and nothing below")));
            }
            _ => {}
        }
    }
    if let Some(rest) = rest {
        let known = Dim::product(shape.iter().enumerate().filter(|(i, _)| *i != rest).map(|(_, d)| d));
        if known.as_const() == Some(0) {
            return Err(Refusal::new("shape has -1 beside an extent of 0, so -1 has no value"));
        }
        let elements = Dim::product(&input);
        shape[rest] = match elements.exact_div(&known) {
            Some(d) => d,
            None if elements.as_const().is_some() && known.as_const().is_some() => {
                return Err(Refusal::new(format!("{elements} elements are not a multiple of {known}, so -1 has no value")));
            }
            None => elements.floor_div(&known),
        };
    }
    Ok(vec![cx.add(Reshape { shape }, &[x])?])
}

fn flatten(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let axis = cx.int_or("axis", 1)?;
    // Here the rank itself is a valid axis too.
    let at = if axis < 0 { axis + shape.len() as i64 } else { axis };
    let at = usize::try_from(at).ok().filter(|&a| a <= shape.len()).ok_or_else(|| Refusal::axis(axis, shape.len()))?;
    let shape = vec![Dim::product(&shape[..at]), Dim::product(&shape[at..])];
    Ok(vec![cx.add(Reshape { shape }, &[x])?])
}

/// Axes are an attribute before opset 13, an optional operand from then on; none given means every axis of extent 1.
fn squeeze(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let mut shape = cx.shape(x);
    let axes = match cx.axes_attribute_or_input(13, 1, shape.len())? {
        Some(axes) => axes,
        None => {
            if let Some(d) = shape.iter().find(|d| d.as_const().is_none()) {
                return Err(Refusal::new(format!(
                    "without axes every extent of 1 is removed, but extent {d} is not known when compiling; give the axes"
                )));
            }
            (0..shape.len()).filter(|&a| shape[a].is_one()).collect()
        }
    };
    for &a in axes.iter().rev() {
        let d = shape.remove(a);
        if d.as_const().is_some_and(|v| v != 1) {
            return Err(Refusal::new(format!("axis {a} has extent {d} and cannot be squeezed")));
        }
    }
    Ok(vec![cx.add(Reshape { shape }, &[x])?])
}

fn unsqueeze(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let mut shape = cx.shape(x);
    let given = cx.ints_attribute_or_input("axes", 13, 1)?.ok_or_else(|| Refusal::new("axes are missing"))?;
    let axes = operands::axes(&given, shape.len() + given.len())?;
    if axes.len() != given.len() {
        return Err(Refusal::new(format!("axes {given:?} repeat one")));
    }
    for a in axes {
        shape.insert(a, 1.into());
    }
    Ok(vec![cx.add(Reshape { shape }, &[x])?])
}

fn transpose(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let rank = cx.rank(x);
    let perm = match cx.ints("perm")? {
        Some(perm) => perm.iter().map(|&a| operands::axis(a, rank)).collect::<Result<_, _>>()?,
        None => (0..rank).rev().collect(),
    };
    Ok(vec![cx.add(Transpose { perm }, &[x])?])
}

fn expand(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let shape = cx.known_dims_input(1)?;
    Ok(vec![cx.add(Expand { shape }, &[x])?])
}

fn concat(cx: &mut NodeContext<'_>) -> Imported {
    let values = cx.inputs()?;
    let first = cx.input(0)?;
    let axis = cx.required_int("axis")?;
    let axis = operands::axis(axis, cx.rank(first))?;
    Ok(vec![cx.add(Concat { axis }, &values)?])
}

/// Sizes are an attribute before opset 13, an optional operand from then on; without them the parts are equal, from opset 18 on
/// with a smaller last one where the axis does not divide.
fn split(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let axis = cx.axis_or("axis", 0, shape.len())?;
    let extent = &shape[axis];
    let sizes = if cx.opset() < 13 {
        cx.ints("split")?.map(|sizes| sizes.into_iter().map(Dim::from).collect())
    } else if cx.optional(1).is_some() {
        Some(cx.known_dims_input(1)?)
    } else {
        None
    };
    let sizes: Vec<Dim> = match sizes {
        Some(sizes) => sizes,
        None => {
            let parts = cx.output_count();
            if let Some(n) = cx.int("num_outputs")?
                && usize::try_from(n).ok() != Some(parts)
            {
                return Err(Refusal::new(format!("num_outputs is {n}, but the node has {parts} outputs")));
            }
            let parts = parts as i64;
            match extent.exact_div(&parts.into()) {
                Some(part) => vec![part; parts as usize],
                None if cx.opset() >= 18 => {
                    let n = extent.as_const().ok_or_else(|| {
                        Refusal::new(format!("extent {extent} is not a known multiple of {parts} parts; give the sizes"))
                    })?;
                    let part = (n + parts - 1) / parts;
                    (0..parts).map(|i| (n - i * part).clamp(0, part).into()).collect()
                }
                None => return Err(Refusal::new(format!("extent {extent} is not a multiple of {parts} parts"))),
            }
        }
    };
    if sizes.len() == 1 {
        return Ok(vec![cx.add(Identity {}, &[x])?]);
    }
    cx.add_all(Split { axis, sizes }, &[Some(x)])
}

/// A bound of a slice: negative counts from the end; then clamped to [low, high].
fn bound(cx: &NodeContext<'_>, value: &Dim, extent: &Dim, low: &Dim, high: &Dim) -> Dim {
    let value = match value.as_const() {
        // Beyond any extent: ONNX's way to say "to the end".
        Some(v) if v >= i64::from(i32::MAX) => return high.clone(),
        Some(v) if v <= i64::from(i32::MIN) => return low.clone(),
        Some(v) if v < 0 => extent.clone() + Dim::from(v),
        // A symbolic bound that counts from the end, such as `-n`.
        None if cx.bounds(value).1.is_some_and(|most| most < 0) => extent.clone() + value.clone(),
        _ => value.clone(),
    };
    smaller(cx, &larger(cx, &value, low), high)
}

/// The larger of two extents, without a `max` where one is known to be.
fn larger(cx: &NodeContext<'_>, a: &Dim, b: &Dim) -> Dim {
    match cx.bounds(&(a.clone() - b.clone())) {
        (Some(least), _) if least >= 0 => a.clone(),
        (_, Some(most)) if most <= 0 => b.clone(),
        _ => Dim::op(DimOp::Max, a, b),
    }
}

/// The smaller of two extents, without a `min` where one is known to be.
fn smaller(cx: &NodeContext<'_>, a: &Dim, b: &Dim) -> Dim {
    match cx.bounds(&(a.clone() - b.clone())) {
        (Some(least), _) if least >= 0 => b.clone(),
        (_, Some(most)) if most <= 0 => a.clone(),
        _ => Dim::op(DimOp::Min, a, b),
    }
}

fn slice(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let dims = |values: Vec<i64>| values.into_iter().map(Dim::from).collect::<Vec<_>>();
    let (starts, ends, axes, steps) = if cx.opset() < 10 {
        let required = |v: Option<Vec<i64>>, name: &str| v.ok_or_else(|| Refusal::new(format!("attribute {name} is missing")));
        let starts = dims(required(cx.ints("starts")?, "starts")?);
        let ends = dims(required(cx.ints("ends")?, "ends")?);
        (starts, ends, cx.ints("axes")?, None)
    } else {
        let starts = cx.known_dims_input(1)?;
        let ends = cx.known_dims_input(2)?;
        let axes = if cx.optional(3).is_some() { Some(cx.known_ints(3)?) } else { None };
        let steps = if cx.optional(4).is_some() { Some(cx.known_ints(4)?) } else { None };
        (starts, ends, axes, steps)
    };
    let axes = axes.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = steps.unwrap_or_else(|| vec![1; starts.len()]);
    if ends.len() != starts.len() || axes.len() != starts.len() || steps.len() != starts.len() {
        return Err(Refusal::new(format!(
            "starts, ends, axes and steps have {}, {}, {} and {} elements; they must agree",
            starts.len(),
            ends.len(),
            axes.len(),
            steps.len()
        )));
    }
    let mut out = Vec::new();
    for (((start, end), axis), step) in starts.iter().zip(&ends).zip(axes).zip(steps) {
        let axis = operands::axis(axis, shape.len())?;
        let extent = &shape[axis];
        let zero = Dim::from(0);
        let (start, span) = match step {
            0 => return Err(Refusal::new("a step of 0")),
            1.. => {
                let start = bound(cx, start, extent, &zero, extent);
                let end = bound(cx, end, extent, &zero, extent);
                (start.clone(), end - start)
            }
            _ => {
                let last = extent.clone() - 1.into();
                let start = bound(cx, start, extent, &zero, &last);
                let end = bound(cx, end, extent, &(-1).into(), &last);
                (start.clone(), start - end)
            }
        };
        let stride = i64::try_from(step.unsigned_abs()).map_err(|_| Refusal::new(format!("a step of {step}")))?;
        let len = if stride == 1 { span } else { span.ceil_div(stride) };
        let len = larger(cx, &len, &zero);
        let start = if len == zero { zero } else { start };
        if !(step == 1 && start.as_const() == Some(0) && &len == extent) {
            out.push(SliceAxis { axis, start, len, step });
        }
    }
    out.sort_by_key(|a| a.axis);
    if let Some(twice) = out.windows(2).find(|w| w[0].axis == w[1].axis) {
        return Err(Refusal::new(format!("axis {} is sliced twice", twice[0].axis)));
    }
    if out.is_empty() {
        return Ok(vec![cx.add(Identity {}, &[x])?]);
    }
    Ok(vec![cx.add(Slice { axes: out }, &[x])?])
}

/// Pads are an attribute before opset 11, an operand from then on; axes exist from opset 18 on.
fn pad(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let rank = cx.rank(x);
    let mode = match cx.string_or("mode", "constant")?.as_str() {
        "constant" => PadMode::Constant,
        "reflect" => PadMode::Reflect,
        "edge" => PadMode::Edge,
        "wrap" => PadMode::Wrap,
        other => return Err(Refusal::attribute("mode", other)),
    };
    let given = cx.ints_attribute_or_input("pads", 11, 1)?.ok_or_else(|| Refusal::new("pads are missing"))?;
    let axes = if cx.opset() >= 18 && cx.optional(3).is_some() {
        let axes = cx.known_ints(3)?;
        axes.iter().map(|&a| operands::axis(a, rank)).collect::<Result<Vec<_>, _>>()?
    } else {
        (0..rank).collect()
    };
    if given.len() != 2 * axes.len() {
        return Err(Refusal::new(format!("{} pads for {} axes; two for each are expected", given.len(), axes.len())));
    }
    let mut pads = vec![(0, 0); rank];
    for (i, &a) in axes.iter().enumerate() {
        pads[a] = (given[i], given[axes.len() + i]);
    }
    let value = if mode != PadMode::Constant {
        None
    } else if cx.opset() < 11 {
        match cx.float("value")? {
            Some(v) => {
                let dtype = cx.dtype(x);
                Some(cx.scalar(dtype, f64::from(v))?)
            }
            None => None,
        }
    } else {
        match cx.optional(2) {
            // A single element of any rank serves.
            Some(v) if cx.rank(v) > 0 => Some(cx.add(Reshape { shape: Vec::new() }, &[v])?),
            other => other,
        }
    };
    Ok(vec![cx.add_optional(Pad { mode, pads }, &[Some(x), value])?])
}

fn tile(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let repeats = cx.known_dims_input(1)?;
    Ok(vec![cx.add(Tile { repeats }, &[x])?])
}

fn block(cx: &NodeContext<'_>) -> Result<usize, Refusal> {
    let block = cx.required_int("blocksize")?;
    usize::try_from(block).ok().filter(|&b| b > 0).ok_or_else(|| Refusal::attribute("blocksize", block))
}

fn depth_to_space(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let crd = match cx.string_or("mode", "DCR")?.as_str() {
        "DCR" => false,
        "CRD" => true,
        other => return Err(Refusal::attribute("mode", other)),
    };
    let block = block(cx)?;
    Ok(vec![cx.add(DepthToSpace { block, crd }, &[x])?])
}

fn space_to_depth(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let block = block(cx)?;
    Ok(vec![cx.add(SpaceToDepth { block }, &[x])?])
}

fn trilu(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let upper = cx.int_or("upper", 1)? != 0;
    let k = if cx.optional(1).is_some() { cx.known_int(1)? } else { 0 };
    Ok(vec![cx.add(Trilu { upper, k }, &[x])?])
}

fn reverse_sequence(cx: &mut NodeContext<'_>) -> Imported {
    let (x, lengths) = (cx.input(0)?, cx.input(1)?);
    let rank = cx.rank(x);
    let op = ReverseSequence { time_axis: cx.axis_or("time_axis", 0, rank)?, batch_axis: cx.axis_or("batch_axis", 1, rank)? };
    Ok(vec![cx.add(op, &[x, lengths])?])
}

/// Each axis cropped or zero-padded around its centre to the extent asked for.
fn center_crop_pad(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let wanted = cx.known_ints(1)?;
    let axes = match cx.ints("axes")? {
        Some(axes) => axes.iter().map(|&a| operands::axis(a, shape.len())).collect::<Result<Vec<_>, _>>()?,
        None => (0..shape.len()).collect(),
    };
    if wanted.len() != axes.len() {
        return Err(Refusal::new(format!("{} extents for {} axes", wanted.len(), axes.len())));
    }
    let mut pads = vec![(0, 0); shape.len()];
    for (&a, want) in axes.iter().zip(wanted) {
        let have = shape[a]
            .as_const()
            .ok_or_else(|| Refusal::new(format!("extent {} of axis {a} must be known when compiling", shape[a])))?;
        let more = want - have;
        // The odd element goes after when padding; cropping starts at the rounded-down half of what goes.
        let before = if more >= 0 { more / 2 } else { -((have - want) / 2) };
        pads[a] = (before, more - before);
    }
    Ok(vec![cx.add(Pad { mode: PadMode::Constant, pads }, &[x])?])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;

    const X: Given<'_> = Input(F32, &["n", "6", "4"]);

    #[test]
    fn reshape() {
        let op = || node("Reshape", &[], &[]);
        check(14, op(), &[X, Ints(&[0, -1])], &["Reshape(Reshape { shape: [n, 24] }) -> f32[n, 24]"]);
        check(14, op(), &[X, Ints(&[-1, 8])], &["Reshape(Reshape { shape: [3*n, 8] }) -> f32[3*n, 8]"]);
        refused(14, op(), &[Input(F32, &["2", "3"]), Ints(&[-1, 4])], "not a multiple of 4");
        refused(14, op(), &[X, Ints(&[-1, -1])], "at most one -1");
        refused(14, op().attr("allowzero", 1), &[X, Ints(&[0, -1])], "-1 beside an extent of 0");
        refused(14, op(), &[X, Input(I64, &["2"])], "'in1' is a graph input; its value must be known when compiling");
        check(11, node("Flatten", &[], &[]), &[X], &["Reshape(Reshape { shape: [n, 24] }) -> f32[n, 24]"]);
        check(11, node("Flatten", &[], &[]).attr("axis", -1), &[X], &["Reshape(Reshape { shape: [6*n, 4] }) -> f32[6*n, 4]"]);
    }

    #[test]
    fn squeeze_and_unsqueeze() {
        let one = Input(F32, &["1", "3", "1"]);
        let (squeeze, unsqueeze) = (|| node("Squeeze", &[], &[]), || node("Unsqueeze", &[], &[]));
        check(13, squeeze(), &[one, Ints(&[-1])], &["Reshape(Reshape { shape: [1, 3] }) -> f32[1, 3]"]);
        check(11, squeeze().attr("axes", vec![0]), &[one], &["Reshape(Reshape { shape: [3, 1] }) -> f32[3, 1]"]);
        check(13, squeeze(), &[one], &["Reshape(Reshape { shape: [3] }) -> f32[3]"]);
        refused(13, squeeze(), &[X], "give the axes");
        refused(13, squeeze(), &[X, Ints(&[1])], "cannot be squeezed");
        check(13, unsqueeze(), &[X, Ints(&[0, -1])], &["Reshape(Reshape { shape: [1, n, 6, 4, 1] }) -> f32[1, n, 6, 4, 1]"]);
        check(11, unsqueeze().attr("axes", vec![1]), &[X], &["Reshape(Reshape { shape: [n, 1, 6, 4] }) -> f32[n, 1, 6, 4]"]);
    }

    #[test]
    fn slices() {
        let op = || node("Slice", &[], &[]);
        let slice = |axes: &str, ty: &str| format!("Slice(Slice {{ axes: [{axes}] }}) -> f32[{ty}]");
        let axis =
            |a, start: &str, len: &str, step| format!("SliceAxis {{ axis: {a}, start: {start}, len: {len}, step: {step} }}");
        for (starts, ends, axes, steps, cut, ty) in [
            ([1], [3], [1], [1], axis(1, "1", "2", 1), "n, 2, 4"),
            ([-2], [i64::MAX], [1], [1], axis(1, "4", "2", 1), "n, 2, 4"),
            ([0], [-1], [0], [1], axis(0, "0", "n-1", 1), "n-1, 6, 4"),
            ([1], [100], [2], [2], axis(2, "1", "2", 2), "n, 6, 2"),
            ([-1], [i64::MIN], [1], [-1], axis(1, "5", "6", -1), "n, 6, 4"),
            ([-1], [i64::MIN], [0], [-1], axis(0, "n-1", "n", -1), "n, 6, 4"),
            ([1], [i64::MAX], [0], [1], axis(0, "1", "n-1", 1), "n-1, 6, 4"),
            ([0], [2], [0], [1], axis(0, "0", "min(2,n)", 1), "min(2,n), 6, 4"),
            ([5], [2], [1], [1], axis(1, "0", "0", 1), "n, 0, 4"),
        ] {
            check(13, op(), &[X, Ints(&starts), Ints(&ends), Ints(&axes), Ints(&steps)], &[&slice(&cut, ty)]);
        }
        check(13, op(), &[X, Ints(&[0]), Ints(&[i64::from(i32::MAX)])], &[]);
        let old = op().attr("starts", vec![2]).attr("ends", vec![4]).attr("axes", vec![1]);
        check(9, old, &[X], &[&slice(&axis(1, "2", "2", 1), "n, 2, 4")]);
        refused(13, op(), &[X, Ints(&[0, 0]), Ints(&[1])], "must agree");
    }

    #[test]
    fn parts() {
        let op = || node("Split", &[], &[]).attr("axis", 1);
        let expected =
            |sizes: &str, a, b| format!("Split(Split {{ axis: 1, sizes: [{sizes}] }}) -> f32[n, {a}, 4], f32[n, {b}, 4]");
        let parts = |opset, node, given: &[Given<'_>]| ops(&import_node(opset, node, given, 2).unwrap());
        assert_eq!(parts(11, op().attr("split", vec![2, 4]), &[X]), [expected("2, 4", 2, 4)]);
        assert_eq!(parts(13, op(), &[X, Ints(&[2, 4])]), [expected("2, 4", 2, 4)]);
        assert_eq!(parts(13, op(), &[X]), [expected("3, 3", 3, 3)]);
        let odd = Input(F32, &["n", "7", "4"]);
        assert_eq!(parts(18, op().attr("num_outputs", 2), &[odd]), [expected("4, 3", 4, 3)]);
        check(13, node("Concat", &[], &[]).attr("axis", -2), &[X, X], &["Concat(Concat { axis: 1 }) -> f32[n, 12, 4]"]);
    }

    #[test]
    fn pads() {
        let op = || node("Pad", &[], &[]);
        let constant = "Pad(Pad { mode: Constant, pads: [(0, 0), (1, 3), (2, 4)] }) -> f32[n, 10, 10]";
        check(10, op().attr("pads", vec![0, 1, 2, 0, 3, 4]), &[X], &[constant]);
        check(13, op(), &[X, Ints(&[0, 1, 2, 0, 3, 4])], &[constant]);
        check(18, op(), &[X, Ints(&[1, 2, 3, 4]), Absent, Ints(&[-2, -1])], &[constant]);
        let edge = "Pad(Pad { mode: Edge, pads: [(0, 0), (0, 0), (1, 1)] }) -> f32[n, 6, 6]";
        check(13, op().attr("mode", "edge"), &[X, Ints(&[0, 0, 1, 0, 0, 1])], &[edge]);
        refused(13, op(), &[X, Ints(&[1])], "two for each are expected");
    }

    #[test]
    fn the_rest() {
        check(13, node("Transpose", &[], &[]), &[X], &["Transpose(Transpose { perm: [2, 1, 0] }) -> f32[4, 6, n]"]);
        let expand = "Expand(Expand { shape: [2, 1, 1, 1] }) -> f32[2, n, 6, 4]";
        check(13, node("Expand", &[], &[]), &[X, Ints(&[2, 1, 1, 1])], &[expand]);
        check(13, node("Tile", &[], &[]), &[X, Ints(&[1, 2, 1])], &["Tile(Tile { repeats: [1, 2, 1] }) -> f32[n, 12, 4]"]);
        let image = Input(F32, &["n", "8", "2", "2"]);
        let depth = node("DepthToSpace", &[], &[]).attr("blocksize", 2).attr("mode", "CRD");
        check(13, depth, &[image], &["DepthToSpace(DepthToSpace { block: 2, crd: true }) -> f32[n, 2, 4, 4]"]);
        check(14, node("Trilu", &[], &[]), &[X, Int(-1)], &["Trilu(Trilu { upper: true, k: -1 }) -> f32[n, 6, 4]"]);
        let reverse = "ReverseSequence(ReverseSequence { time_axis: 0, batch_axis: 1 }) -> f32[n, 6, 4]";
        check(10, node("ReverseSequence", &[], &[]), &[X, Input(I64, &["6"])], &[reverse]);
        let crop = "Pad(Pad { mode: Constant, pads: [(0, 0), (-1, -2), (0, 1)] }) -> f32[n, 3, 5]";
        check(18, node("CenterCropPad", &[], &[]).attr("axes", vec![1, 2]), &[X, Ints(&[3, 5])], &[crop]);
    }
}
