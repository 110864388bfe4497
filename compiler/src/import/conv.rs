//! Convolution and pooling.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::conv::{Conv, Pool, PoolKind, Windows};
use sliderun::op::elementwise::{Binary, Cast};
use sliderun::op::layout::{Expand, Pad, PadMode, Reshape, Slice, SliceAxis, Transpose};
use sliderun::op::reduce::{Reduce, ReduceKind};

use super::{Imported, Importer, NodeContext, Refusal, onnx};
use crate::ir::ValueRef;

pub(super) const IMPORTERS: &[Importer] = &[
    onnx("AveragePool", pool),
    onnx("Conv", conv),
    onnx("ConvInteger", conv_integer),
    onnx("ConvTranspose", conv_transpose),
    onnx("GlobalAveragePool", global_pool),
    onnx("GlobalLpPool", global_pool),
    onnx("GlobalMaxPool", global_pool),
    onnx("LpPool", pool),
    onnx("MaxPool", pool),
];

/// One number per spatial axis, `default` where the attribute is absent.
fn per_axis(cx: &NodeContext<'_>, name: &'static str, axes: usize, default: i64) -> Result<Vec<usize>, Refusal> {
    let values = cx.ints(name)?.unwrap_or_else(|| vec![default; axes]);
    if values.len() != axes {
        return Err(Refusal::new(format!("{name} has {} values for {axes} spatial axes", values.len())));
    }
    values.iter().map(|&v| usize::try_from(v).ok().filter(|&v| v > 0).ok_or_else(|| Refusal::attribute(name, v))).collect()
}

/// Windows over the spatial axes of `shape`, [N, C, …]. `auto_pad` SAME needs known extents.
fn windows(cx: &NodeContext<'_>, shape: &[Dim], kernel: Vec<usize>) -> Result<Windows, Refusal> {
    let spatial = shape.get(2..).unwrap_or_default();
    if kernel.len() != spatial.len() || spatial.is_empty() {
        return Err(Refusal::new(format!("a kernel {kernel:?} over {} spatial axes", spatial.len())));
    }
    let n = spatial.len();
    let strides = per_axis(cx, "strides", n, 1)?;
    let dilations = per_axis(cx, "dilations", n, 1)?;
    let auto_pad = cx.string_or("auto_pad", "NOTSET")?;
    let pads = match auto_pad.as_str() {
        "NOTSET" => {
            let pads = cx.ints("pads")?.unwrap_or_else(|| vec![0; 2 * n]);
            if pads.len() != 2 * n {
                return Err(Refusal::new(format!(
                    "pads has {} values for {n} spatial axes; two for each are expected",
                    pads.len()
                )));
            }
            let pad = |v: i64| usize::try_from(v).map_err(|_| Refusal::attribute("pads", v));
            (0..n).map(|i| Ok((pad(pads[i])?, pad(pads[n + i])?))).collect::<Result<_, Refusal>>()?
        }
        "VALID" => {
            cx.ignore(&["pads"]);
            vec![(0, 0); n]
        }
        "SAME_UPPER" | "SAME_LOWER" => {
            cx.ignore(&["pads"]);
            let mut pads = Vec::new();
            for i in 0..n {
                let span = dilations[i]
                    .checked_mul(kernel[i] - 1)
                    .ok_or_else(|| Refusal::new(format!("a window of {} elements, {} apart", kernel[i], dilations[i])))?;
                // With stride 1 the padding does not depend on the extent.
                let total = if strides[i] == 1 {
                    span
                } else {
                    let extent = spatial[i].as_usize().ok_or_else(|| {
                        Refusal::new(format!(
                            "auto_pad {auto_pad} with stride {} depends on extent {}, which is not known when compiling; fix the \
                             extent or give pads",
                            strides[i], spatial[i]
                        ))
                    })?;
                    let count = extent.div_ceil(strides[i]);
                    (count.saturating_sub(1) * strides[i] + span + 1).saturating_sub(extent)
                };
                let less = total / 2;
                pads.push(if auto_pad == "SAME_UPPER" { (less, total - less) } else { (total - less, less) });
            }
            pads
        }
        other => return Err(Refusal::attribute("auto_pad", other)),
    };
    Ok(Windows { kernel, strides, dilations, pads })
}

/// The spatial extents of a weight.
fn kernel_of(weight: &[Dim]) -> Result<Vec<usize>, Refusal> {
    let extent = |d: &Dim| {
        d.as_usize()
            .filter(|&k| k > 0)
            .ok_or_else(|| Refusal::new(format!("the kernel's extent {d} must be known when compiling")))
    };
    weight.get(2..).unwrap_or_default().iter().map(extent).collect()
}

fn groups(cx: &NodeContext<'_>) -> Result<usize, Refusal> {
    let groups = cx.int_or("group", 1)?;
    usize::try_from(groups).ok().filter(|&g| g > 0).ok_or_else(|| Refusal::attribute("group", groups))
}

fn conv_op(cx: &NodeContext<'_>, x: ValueRef, w: ValueRef) -> Result<Conv, Refusal> {
    let weight = cx.shape(w);
    let kernel = match cx.ints("kernel_shape")? {
        Some(_) => per_axis(cx, "kernel_shape", weight.len().saturating_sub(2), 1)?,
        None => kernel_of(&weight)?,
    };
    Ok(Conv { windows: windows(cx, &cx.shape(x), kernel)?, groups: groups(cx)? })
}

fn conv(cx: &mut NodeContext<'_>) -> Imported {
    let (x, w, bias) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
    let op = conv_op(cx, x, w)?;
    Ok(vec![cx.add_optional(op, &[Some(x), Some(w), bias])?])
}

/// Through f64, which holds every sum of 8-bit products exactly.
fn conv_integer(cx: &mut NodeContext<'_>) -> Imported {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    let op = conv_op(cx, x, w)?;
    let mut operands = [(x, cx.optional(2)), (w, cx.optional(3))];
    for (is_weight, (value, zero)) in operands.iter_mut().enumerate() {
        let rank = cx.rank(*value);
        *value = cx.add(Cast { to: DType::F64 }, &[*value])?;
        if let Some(zero) = zero {
            let zero = cx.add(Cast { to: DType::F64 }, &[*zero])?;
            // A weight's zero points are per output channel, its first axis.
            let zero = if is_weight == 1 && cx.rank(zero) == 1 {
                let mut shape = cx.shape(zero);
                shape.resize(rank, 1.into());
                cx.add(Reshape { shape }, &[zero])?
            } else {
                zero
            };
            *value = cx.add(Binary::Sub, &[*value, zero])?;
        }
    }
    let y = cx.add(op, &[operands[0].0, operands[1].0])?;
    Ok(vec![cx.add(Cast { to: DType::I32 }, &[y])?])
}

/// A convolution with the kernel turned around: either by phases ([`by_phases`]) or of the input spread out with zeros between its elements.
fn conv_transpose(cx: &mut NodeContext<'_>) -> Imported {
    let (x, w, bias) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
    let (shape, weight) = (cx.shape(x), cx.shape(w));
    let spatial = shape.get(2..).unwrap_or_default();
    let n = spatial.len();
    if n == 0 || weight.len() != shape.len() {
        return Err(Refusal::new(format!(
            "an input {shape:?} and a weight {weight:?}; [N, C, …] and [C, M/groups, …] are expected"
        )));
    }
    cx.ignore(&["kernel_shape"]);
    let kernel = kernel_of(&weight)?;
    let (strides, dilations) = (per_axis(cx, "strides", n, 1)?, per_axis(cx, "dilations", n, 1)?);
    let list = |name: &'static str, len: usize| -> Result<Option<Vec<i64>>, Refusal> {
        match cx.ints(name)? {
            Some(v) if v.len() != len || v.iter().any(|v| !(0..=i64::from(i32::MAX)).contains(v)) => {
                Err(Refusal::new(format!("{name} = {v:?} for {n} spatial axes")))
            }
            v => Ok(v),
        }
    };
    let extra = list("output_padding", n)?.unwrap_or_else(|| vec![0; n]);
    let (given_pads, wanted) = (list("pads", 2 * n)?, list("output_shape", n)?);
    let auto_pad = cx.string_or("auto_pad", "NOTSET")?;
    let same = auto_pad.starts_with("SAME");
    let mut axes = Vec::new();
    for i in 0..n {
        let (k, stride, dilation) = (kernel[i] as i64, strides[i] as i64, dilations[i] as i64);
        let reach = (k - 1)
            .checked_mul(dilation)
            .filter(|&r| r <= i64::from(i32::MAX))
            .ok_or_else(|| Refusal::new(format!("a window of {k} elements, {dilation} apart")))?;
        let full = (spatial[i].clone() - 1.into()) * stride.into() + Dim::from(extra[i] + reach + 1);
        let out = match &wanted {
            Some(wanted) => Some(Dim::from(wanted[i])),
            None => same.then(|| spatial[i].clone() * stride.into()),
        };
        let (before, after) = match (out, &given_pads) {
            (Some(out), _) => {
                let total = (full.clone() - out.clone()).as_const().ok_or_else(|| {
                    Refusal::new(format!("the padding {full} - {out} must be known when compiling; fix the extents or give pads"))
                })?;
                let total = if wanted.is_none() { total.max(0) } else { total };
                // Rounded down also where more is asked for than there is: the first element stays where it is.
                let half = total.div_euclid(2);
                if auto_pad == "SAME_UPPER" { (half, total - half) } else { (total - half, half) }
            }
            (None, Some(pads)) => (pads[i], pads[n + i]),
            (None, None) => (0, 0),
        };
        let length = full - (before + after).into();
        axes.push(Transposed { kernel: kernel[i], stride: strides[i], reach, before, after: after - extra[i], length });
    }

    let groups = groups(cx)?;
    let inner = weight[0]
        .exact_div(&groups.into())
        .ok_or_else(|| Refusal::new(format!("{} channels are not a multiple of {groups} groups", weight[0])))?;
    let outer = weight[1].clone() * groups.into();
    let mut grouped = vec![groups.into(), inner.clone()];
    grouped.extend_from_slice(&weight[1..]);
    let mut perm: Vec<usize> = (0..grouped.len()).collect();
    perm.swap(1, 2);
    let mut turned = cx.add(Reshape { shape: grouped }, &[w])?;
    turned = cx.add(Transpose { perm }, &[turned])?;
    let mut joined = vec![outer, inner];
    joined.extend_from_slice(&weight[2..]);
    turned = cx.add(Reshape { shape: joined }, &[turned])?;

    let dilated = dilations.iter().zip(&kernel).any(|(d, k)| *d > 1 && *k > 1);
    if strides.iter().any(|&s| s > 1) && !dilated && axes.iter().all(|a| a.before >= 0) {
        return by_phases(cx, &axes, groups, x, turned, bias);
    }
    let mut pads: Vec<(i64, i64)> =
        axes.iter().map(|a| (a.reach - a.before, a.reach - a.after - (a.stride as i64 - 1))).collect();
    let mut spread = x;
    if strides.iter().any(|&s| s > 1) {
        let (mut columns, mut gaps, mut joined) = (shape[..2].to_vec(), vec![(0, 0); 2], shape[..2].to_vec());
        for (d, &stride) in spatial.iter().zip(&strides) {
            columns.extend([d.clone(), 1.into()]);
            gaps.extend([(0, 0), (0, stride as i64 - 1)]);
            joined.push(d.clone() * stride.into());
        }
        spread = cx.add(Reshape { shape: columns }, &[spread])?;
        spread = cx.add(Pad { mode: PadMode::Constant, pads: gaps }, &[spread])?;
        spread = cx.add(Reshape { shape: joined }, &[spread])?;
    }
    pads.splice(0..0, [(0, 0), (0, 0)]);
    spread = cx.add(Pad { mode: PadMode::Constant, pads }, &[spread])?;

    turned = cx.add(backwards(&kernel), &[turned])?;
    let windows = Windows { kernel, strides: vec![1; n], dilations, pads: vec![(0, 0); n] };
    Ok(vec![cx.add_optional(Conv { windows, groups }, &[Some(spread), Some(turned), bias])?])
}

/// A spatial axis of a transposed convolution.
struct Transposed {
    kernel: usize,
    stride: usize,
    /// From the kernel's first element to its last.
    reach: i64,
    /// What is cut off of the full result at its ends; the latter negative where it is padded.
    before: i64,
    after: i64,
    /// The result's extent.
    length: Dim,
}

/// The spatial axes of a weight [O, C, …] in reverse order.
fn backwards(kernel: &[usize]) -> Slice {
    let axis = |(i, &k): (usize, &usize)| SliceAxis { axis: i + 2, start: (k - 1).into(), len: k.into(), step: -1 };
    Slice { axes: kernel.iter().enumerate().map(axis).collect() }
}

/// With stride s, results s apart read the same elements of the kernel: one convolution of the input as it is, with ⌈kernel/s⌉ elements per
/// window, gives all s phases as channels, [groups, phases…, filters], and they are interleaved. w: [O, C/groups, kernel…].
fn by_phases(
    cx: &mut NodeContext<'_>,
    axes: &[Transposed],
    groups: usize,
    x: ValueRef,
    w: ValueRef,
    bias: Option<ValueRef>,
) -> Imported {
    let (n, shape, weight) = (axes.len(), cx.shape(x), cx.shape(w));
    let taps: Vec<usize> = axes.iter().map(|a| a.kernel.div_ceil(a.stride)).collect();
    let strides: Vec<Dim> = axes.iter().map(|a| a.stride.into()).collect();
    let channels = weight[0].clone() * Dim::product(&strides);
    let filters = weight[0]
        .exact_div(&groups.into())
        .ok_or_else(|| Refusal::new(format!("{} filters are not a multiple of {groups} groups", weight[0])))?;

    let (mut growth, mut parted) = (vec![(0, 0); 2], vec![groups.into(), filters.clone(), weight[1].clone()]);
    for ((axis, stride), &taps) in axes.iter().zip(&strides).zip(&taps) {
        growth.push((0, (taps * axis.stride - axis.kernel) as i64));
        parted.extend([taps.into(), stride.clone()]);
    }
    let mut kernel = w;
    if growth.iter().any(|g| *g != (0, 0)) {
        kernel = cx.add(Pad { mode: PadMode::Constant, pads: growth }, &[kernel])?;
    }
    kernel = cx.add(Reshape { shape: parted }, &[kernel])?;
    let perm = [0].into_iter().chain((0..n).map(|i| 4 + 2 * i)).chain([1, 2]).chain((0..n).map(|i| 3 + 2 * i)).collect();
    kernel = cx.add(Transpose { perm }, &[kernel])?;
    let joined = [channels.clone(), weight[1].clone()].into_iter().chain(taps.iter().map(|t| Dim::from(*t))).collect();
    kernel = cx.add(Reshape { shape: joined }, &[kernel])?;
    kernel = cx.add(backwards(&taps), &[kernel])?;
    let bias = match bias {
        None => None,
        Some(bias) => {
            let row = cx.add(Reshape { shape: vec![groups.into(), 1.into(), filters.clone()] }, &[bias])?;
            let repeated = cx.add(Expand { shape: vec![groups.into(), Dim::product(&strides), filters.clone()] }, &[row])?;
            Some(cx.add(Reshape { shape: vec![channels] }, &[repeated])?)
        }
    };

    // Windows from the one that reads the first element last to the one that reads the last element first, and more where the result is longer.
    let windows = |(axis, &taps): (&Transposed, &usize)| {
        let beyond = (axis.kernel as i64 - axis.after - (taps * axis.stride) as i64).max(0) as usize;
        (taps - 1, taps - 1 + beyond.div_ceil(axis.stride))
    };
    let pads = axes.iter().zip(&taps).map(windows).collect();
    let windows = Windows { kernel: taps, strides: vec![1; n], dilations: vec![1; n], pads };
    let y = cx.add_optional(Conv { windows, groups }, &[Some(x), Some(kernel), bias])?;

    let counts = cx.shape(y)[2..].to_vec();
    let mut split = vec![shape[0].clone(), groups.into()];
    split.extend_from_slice(&strides);
    split.push(filters);
    split.extend_from_slice(&counts);
    let y = cx.add(Reshape { shape: split }, &[y])?;
    let perm = [0, 1, 2 + n].into_iter().chain((0..n).flat_map(|i| [3 + n + i, 2 + i])).collect();
    let y = cx.add(Transpose { perm }, &[y])?;
    let mut interleaved = vec![shape[0].clone(), weight[0].clone()];
    interleaved.extend(counts.iter().zip(&strides).map(|(d, s)| d.clone() * s.clone()));
    let y = cx.add(Reshape { shape: interleaved }, &[y])?;
    let cut = |(i, a): (usize, &Transposed)| SliceAxis { axis: i + 2, start: a.before.into(), len: a.length.clone(), step: 1 };
    Ok(vec![cx.add(Slice { axes: axes.iter().enumerate().map(cut).collect() }, &[y])?])
}

fn pool(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let shape = cx.shape(x);
    let kind = match cx.op_type() {
        "MaxPool" => PoolKind::Max,
        "AveragePool" => PoolKind::Average { count_pads: cx.int_or("count_include_pad", 0)? != 0 },
        _ => {
            let p = cx.int_or("p", 2)?;
            PoolKind::Lp { p: u32::try_from(p).ok().filter(|&p| p > 0).ok_or_else(|| Refusal::attribute("p", p))? }
        }
    };
    // The order in which the indices of the maxima count elements.
    cx.ignore(&["storage_order"]);
    if cx.wants_output(1) {
        return Err(Refusal::new("the indices of the maxima as a further output are not supported"));
    }
    let kernel = per_axis(cx, "kernel_shape", shape.len().saturating_sub(2), 0)?;
    let op = Pool { kind, windows: windows(cx, &shape, kernel)?, ceil: cx.int_or("ceil_mode", 0)? != 0 };
    Ok(vec![cx.add(op, &[x])?])
}

fn global_pool(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let rank = cx.rank(x);
    if rank < 3 {
        return Err(Refusal::new(format!("the input has {rank} axes; batch, channels and at least one more are expected")));
    }
    let kind = match (cx.op_type(), cx.int_or("p", 2)?) {
        ("GlobalAveragePool", _) => ReduceKind::Mean,
        ("GlobalMaxPool", _) => ReduceKind::Max,
        (_, 1) => ReduceKind::L1,
        (_, 2) => ReduceKind::L2,
        (_, other) => return Err(Refusal::attribute("p", other)),
    };
    Ok(vec![cx.add(Reduce { kind, axes: (2..rank).collect(), keep_dims: true }, &[x])?])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;

    const X: Given<'_> = Input(F32, &["n", "2", "7", "h"]);

    #[test]
    fn windows() {
        let conv = |attributes: &str, ty: &str| {
            format!("Conv(Conv {{ windows: Windows {{ {attributes} }}, groups: 1 }}) -> f32[n, 5, {ty}]")
        };
        let op = || node("Conv", &[], &[]);
        let w = Input(F32, &["5", "2", "3", "3"]);
        let plain = "kernel: [3, 3], strides: [1, 1], dilations: [1, 1], pads: [(0, 0), (0, 0)]";
        check(11, op(), &[X, w], &[&conv(plain, "5, h-2")]);
        check(11, op().attr("auto_pad", "VALID"), &[X, w], &[&conv(plain, "5, h-2")]);
        let padded = "kernel: [3, 3], strides: [1, 1], dilations: [1, 2], pads: [(1, 0), (2, 3)]";
        let given = op().attr("pads", vec![1, 2, 0, 3]).attr("dilations", vec![1, 2]);
        check(11, given, &[X, w], &[&conv(padded, "6, h+1")]);
        // The padding that keeps the extent does not depend on it at stride 1, and does at others.
        let same = "kernel: [3, 3], strides: [1, 1], dilations: [1, 1], pads: [(1, 1), (1, 1)]";
        check(11, op().attr("auto_pad", "SAME_UPPER"), &[X, w], &[&conv(same, "7, h")]);
        let fixed = Input(F32, &["n", "2", "7", "6"]);
        let same = "kernel: [3, 3], strides: [2, 2], dilations: [1, 1], pads: [(1, 1), (1, 0)]";
        let strided = || op().attr("strides", vec![2, 2]);
        check(11, strided().attr("auto_pad", "SAME_LOWER"), &[fixed, w], &[&conv(same, "4, 3")]);
        refused(11, strided().attr("auto_pad", "SAME_UPPER"), &[X, w], "not known when compiling");
        refused(11, op().attr("strides", vec![0, 1]), &[X, w], "attribute strides = 0");
    }

    #[test]
    fn pools() {
        let pool = |kind: &str| {
            let windows = "Windows { kernel: [2, 2], strides: [2, 2], dilations: [1, 1], pads: [(0, 0), (0, 0)] }";
            format!("Pool(Pool {{ kind: {kind}, windows: {windows}, ceil: false }}) -> f32[n, 2, 3, 2]")
        };
        let x = || Input(F32, &["n", "2", "7", "4"]);
        let op = |name| node(name, &[], &[]).attr("kernel_shape", vec![2, 2]).attr("strides", vec![2, 2]);
        check(12, op("MaxPool"), &[x()], &[&pool("Max")]);
        check(11, op("AveragePool").attr("count_include_pad", 1), &[x()], &[&pool("Average { count_pads: true }")]);
        check(11, op("LpPool").attr("p", 3), &[x()], &[&pool("Lp { p: 3 }")]);
        let global = "Reduce(Reduce { kind: Mean, axes: [2, 3], keep_dims: true }) -> f32[n, 2, 1, 1]";
        check(1, node("GlobalAveragePool", &[], &[]), &[X], &[global]);
        refused(12, node("MaxPool", &[], &[]), &[X], "kernel_shape");
    }

    #[test]
    fn transposed_convolution_has_the_extents_of_onnx() {
        let w = || Input(F32, &["2", "3", "3", "3"]);
        let extents = |op, x| {
            let graph = import_node(11, op, &[x, w()], 1).unwrap();
            graph.ty(graph.outputs[0].value).to_string()
        };
        let op = || node("ConvTranspose", &[], &[]).attr("strides", vec![3, 2]);
        let x = || Input(F32, &["1", "2", "3", "3"]);
        assert_eq!(extents(op(), x()), "f32[1, 3, 9, 7]");
        assert_eq!(extents(op().attr("output_shape", vec![10, 8]), x()), "f32[1, 3, 10, 8]");
        assert_eq!(extents(op().attr("output_padding", vec![1, 1]), x()), "f32[1, 3, 10, 8]");
        assert_eq!(extents(op().attr("pads", vec![1, 2, 1, 2]), x()), "f32[1, 3, 7, 3]");
        assert_eq!(extents(op(), X), "f32[n, 3, 21, 2*h+1]");
    }
}
