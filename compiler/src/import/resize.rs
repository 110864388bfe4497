//! Resampling.

use sliderun::dim::Dim;
use sliderun::op::resize::{Coordinates, Interpolation, NearestRounding, Resize};

use super::operands;
use super::{Imported, Importer, NodeContext, Refusal, onnx};

pub(super) const IMPORTERS: &[Importer] = &[onnx("Resize", resize), onnx("Upsample", upsample)];

/// `floor(extent · scale)`, also for symbolic extents where the scale is a whole number or the inverse of one.
fn scaled(extent: &Dim, scale: f32) -> Result<Dim, Refusal> {
    if !(scale > 0.0 && scale.is_finite()) {
        return Err(Refusal::new(format!("a scale of {scale}")));
    }
    if let Some(n) = extent.as_usize() {
        let scaled = (n as f64 * f64::from(scale)).floor();
        if scaled > f64::from(u32::MAX) {
            return Err(Refusal::new(format!("extent {extent} scaled by {scale} is too large")));
        }
        return Ok((scaled as i64).into());
    }
    let inverse = 1.0 / scale;
    if scale.fract() == 0.0 && scale < 1e9 {
        Ok(extent.clone() * Dim::from(scale as i64))
    } else if inverse.fract() == 0.0 && 1.0 / inverse == scale {
        Ok(extent.floor_div(&(inverse as i64).into()))
    } else {
        Err(Refusal::new(format!("extent {extent}, not known when compiling, scaled by {scale}; fix the extent or give sizes")))
    }
}

fn known_scales(cx: &NodeContext<'_>, input: usize) -> Result<Vec<f32>, Refusal> {
    Ok(cx.known_floats(input)?.into_iter().map(|s| s as f32).collect())
}

/// Upsample 7 and 9: nearest or linear, positions divided by the scale and rounded down.
fn upsample(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let scales = if cx.opset() < 9 { cx.floats("scales")?.unwrap_or_default() } else { known_scales(cx, 1)? };
    let interpolation = match cx.string_or("mode", "nearest")?.as_str() {
        "nearest" => Interpolation::Nearest(NearestRounding::Floor),
        "linear" => Interpolation::Linear,
        other => return Err(Refusal::attribute("mode", other)),
    };
    let op = by_scales(&shape, scales, Coordinates::Asymmetric, interpolation, false)?;
    Ok(vec![cx.add(op, &[x])?])
}

fn by_scales(
    shape: &[Dim],
    scales: Vec<f32>,
    coordinates: Coordinates,
    interpolation: Interpolation,
    antialias: bool,
) -> Result<Resize, Refusal> {
    if scales.len() != shape.len() {
        return Err(Refusal::new(format!("{} scales for {} axes", scales.len(), shape.len())));
    }
    let out = shape.iter().zip(&scales).map(|(d, s)| scaled(d, *s)).collect::<Result<_, _>>()?;
    Ok(Resize { shape: out, scales: Some(scales), coordinates, interpolation, antialias })
}

fn resize(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let rank = shape.len();
    let old = cx.opset() < 11;
    let coordinates =
        match cx.string_or("coordinate_transformation_mode", if old { "asymmetric" } else { "half_pixel" })?.as_str() {
            "half_pixel" => Coordinates::HalfPixel,
            "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
            "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
            "align_corners" => Coordinates::AlignCorners,
            "asymmetric" => Coordinates::Asymmetric,
            other => return Err(Refusal::attribute("coordinate_transformation_mode", other)),
        };
    let mut interpolation = match cx.string_or("mode", "nearest")?.as_str() {
        "nearest" => Interpolation::Nearest(
            match cx.string_or("nearest_mode", if old { "floor" } else { "round_prefer_floor" })?.as_str() {
                "round_prefer_floor" => NearestRounding::RoundPreferFloor,
                "round_prefer_ceil" => NearestRounding::RoundPreferCeil,
                "floor" => NearestRounding::Floor,
                "ceil" => NearestRounding::Ceil,
                other => return Err(Refusal::attribute("nearest_mode", other)),
            },
        ),
        "linear" => Interpolation::Linear,
        "cubic" => Interpolation::Cubic {
            a: cx.float_or("cubic_coeff_a", -0.75)?,
            exclude_outside: cx.int_or("exclude_outside", 0)? != 0,
        },
        other => return Err(Refusal::attribute("mode", other)),
    };
    let antialias = cx.int_or("antialias", 0)? != 0;
    let policy = cx.string_or("keep_aspect_ratio_policy", "stretch")?;
    // What only other modes look at.
    cx.ignore(&["cubic_coeff_a", "exclude_outside", "extrapolation_value", "nearest_mode"]);
    let axes = match cx.ints("axes")? {
        Some(axes) => axes.iter().map(|&a| operands::axis(a, rank)).collect::<Result<Vec<_>, _>>()?,
        None => (0..rank).collect(),
    };
    let (scales_input, sizes_input) = if old { (1, usize::MAX) } else { (2, 3) };
    // An empty tensor stands for an absent one.
    let given = |cx: &NodeContext<'_>, i| cx.optional(i).is_some_and(|v| cx.shape(v).iter().all(|d| d.as_const() != Some(0)));
    if given(cx, scales_input) {
        let some = known_scales(cx, scales_input)?;
        if old && interpolation == Interpolation::Nearest(NearestRounding::Floor) && some.iter().any(|&s| s < 1.0) {
            // Opset 10 leaves the rounding open; its own tests round up where an axis shrinks.
            if some.iter().any(|&s| s > 1.0) {
                return Err(Refusal::new("shrinking and growing axes in one nearest Resize are not supported before opset 11"));
            }
            interpolation = Interpolation::Nearest(NearestRounding::Ceil);
        }
        if some.len() != axes.len() {
            return Err(Refusal::new(format!("{} scales for {} axes", some.len(), axes.len())));
        }
        let mut scales = vec![1.0; rank];
        for (&a, s) in axes.iter().zip(some) {
            scales[a] = s;
        }
        let op = by_scales(&shape, scales, coordinates, interpolation, antialias)?;
        return Ok(vec![cx.add(op, &[x])?]);
    }
    if !given(cx, sizes_input) {
        return Err(Refusal::new("neither scales nor sizes are given"));
    }
    let sizes = cx.known_dims_input(sizes_input)?;
    if sizes.len() != axes.len() {
        return Err(Refusal::new(format!("{} sizes for {} axes", sizes.len(), axes.len())));
    }
    let mut out = shape.clone();
    for (&a, size) in axes.iter().zip(&sizes) {
        out[a] = size.clone();
    }
    let larger = match policy.as_str() {
        "stretch" => return Ok(vec![cx.add(Resize { shape: out, scales: None, coordinates, interpolation, antialias }, &[x])?]),
        "not_larger" => false,
        "not_smaller" => true,
        other => return Err(Refusal::attribute("keep_aspect_ratio_policy", other)),
    };
    // One scale for all the axes: the smallest (or largest) that the sizes ask for.
    let extent = |d: &Dim| {
        d.as_usize()
            .filter(|&n| n > 0)
            .ok_or_else(|| Refusal::new(format!("keep_aspect_ratio_policy {policy} needs extents known when compiling, not {d}")))
    };
    let mut scale: Option<f64> = None;
    for (&a, size) in axes.iter().zip(&sizes) {
        let wanted = extent(size)? as f64 / extent(&shape[a])? as f64;
        scale = Some(scale.map_or(wanted, |s| if larger { s.max(wanted) } else { s.min(wanted) }));
    }
    let scale = scale.unwrap_or(1.0);
    let mut scales = vec![1.0; rank];
    for &a in &axes {
        out[a] = ((scale * extent(&shape[a])? as f64 + 0.5).floor() as i64).into();
        scales[a] = scale as f32;
    }
    Ok(vec![cx.add(Resize { shape: out, scales: Some(scales), coordinates, interpolation, antialias }, &[x])?])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;

    const X: Given<'_> = Input(F32, &["1", "2", "3", "h"]);

    #[test]
    fn extents_of_the_result() {
        let extents = |opset, op, given: &[Given<'_>]| {
            let graph = import_node(opset, op, given, 1).unwrap();
            graph.ty(graph.outputs[0].value).to_string()
        };
        let op = || node("Resize", &[], &[]);
        assert_eq!(extents(13, op(), &[X, Absent, Floats(&[1., 1., 1.5, 2.])]), "f32[1, 2, 4, 2*h]");
        assert_eq!(extents(13, op(), &[X, Absent, Floats(&[1., 1., 1., 0.5])]), "f32[1, 2, 3, div(h,2)]");
        assert_eq!(extents(10, op(), &[X, Floats(&[1., 1., 2., 2.])]), "f32[1, 2, 6, 2*h]");
        assert_eq!(extents(13, op(), &[X, Absent, Absent, Ints(&[1, 2, 9, 8])]), "f32[1, 2, 9, 8]");
        let axes = op().attr("axes", vec![-2]);
        assert_eq!(extents(18, axes, &[X, Absent, Absent, Ints(&[5])]), "f32[1, 2, 5, h]");
        let square = Input(F32, &["1", "1", "4", "4"]);
        let policy = |p| op().attr("axes", vec![2, 3]).attr("keep_aspect_ratio_policy", p);
        assert_eq!(extents(18, policy("not_larger"), &[square, Absent, Absent, Ints(&[7, 8])]), "f32[1, 1, 7, 7]");
        assert_eq!(extents(18, policy("not_smaller"), &[square, Absent, Absent, Ints(&[7, 8])]), "f32[1, 1, 8, 8]");
        assert_eq!(extents(9, node("Upsample", &[], &[]), &[X, Floats(&[1., 1., 2., 3.])]), "f32[1, 2, 6, 3*h]");
        refused(13, op(), &[X, Absent, Floats(&[1., 1., 1., 0.7])], "not known when compiling");
        let crop = op().attr("coordinate_transformation_mode", "tf_crop_and_resize");
        refused(13, crop, &[X, Absent, Floats(&[1., 1., 1., 1.])], "tf_crop_and_resize");
    }
}
