//! Convolutions that no pass has made a matrix product.

use sliderun::dim::Dim;
use sliderun::op::conv::Conv;
use sliderun::plan::manifest::{Program, Step};

use super::builder::{Generated, KernelBuilder, ceil_div, element_type};

/// Threads of a block, as in `conv.cuh`.
const THREADS: usize = 256;

/// Filters and pixels that a block calculates, where there are many filters and where there are few.
const TILES: [(usize, usize); 2] = [(64, 64), (8, 128)];

/// The kernel of a Conv step.
///
/// # Errors
/// What about the step has no kernel.
pub fn kernel(program: &Program, launch: usize, step: &Step, op: &Conv) -> Result<Generated, String> {
    let mut b = KernelBuilder::new(program, launch, "conv");
    let operand = |i: usize| step.inputs.get(i).copied().flatten();
    let (Some(x), Some(w)) = (operand(0), operand(1)) else { return Err("Conv without its operands".into()) };
    let (from, weights, result) = (b.ty(x).clone(), b.ty(w).clone(), b.ty(step.outputs[0]).clone());
    if !from.dtype.computes_in_f32() {
        return Err(format!("Conv of {}", from.dtype));
    }
    let (Some(filters), Some(channels)) = (weights.shape[0].as_usize(), weights.shape[1].as_usize()) else {
        return Err(format!("Conv with weights of {weights}, whose extents must be known"));
    };
    let filters = filters / op.groups.max(1);
    let (across_filters, across_pixels) = if filters > TILES[1].0 { TILES[0] } else { TILES[1] };

    let mut list = |dims: &[Dim]| dims.iter().map(|d| b.extent(d)).collect::<Vec<_>>().join(", ");
    let (input, output) = (list(&from.shape[2..]), list(&result.shape[2..]));
    let numbers = |values: &[usize]| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let windows = &op.windows;
    let before: Vec<usize> = windows.pads.iter().map(|(before, _)| *before).collect();
    let (kernel, strides, dilations) = (numbers(&windows.kernel), numbers(&windows.strides), numbers(&windows.dilations));
    let c = element_type(from.dtype);
    let (x, w) = (b.input(x), b.input(w));
    let bias = operand(2).map_or(format!("static_cast<const {c}*>(nullptr)"), |bias| b.input(bias));
    let to = b.output(step.outputs[0]);
    let body = format!(
        "    const slide::ConvShape<{}> shape{{{{{input}}}, {{{output}}}, {{{kernel}}}, {{{strides}}}, {{{dilations}}}, {{{}}}, {}, {channels}, \
         {filters}}};\n    slide::convolve<{across_filters}, {across_pixels}>({x}, {w}, {bias}, {to}, shape);\n",
        windows.kernel.len(),
        numbers(&before),
        op.groups,
    );
    let tiles = ceil_div(&Dim::product(&result.shape[2..]), across_pixels) * filters.div_ceil(across_filters).into();
    Ok(b.finish(result.shape[0].clone() * op.groups.into() * tiles, THREADS, 0, &body))
}
