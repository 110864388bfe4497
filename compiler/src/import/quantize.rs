//! ONNX's quantization operators.

use sliderun::dtype::DType;
use sliderun::op::elementwise::Cast;
use sliderun::op::quantize::{DequantizeLinear, DynamicQuantizeLinear, QuantizeLinear};

use super::operands;
use super::{Imported, Importer, NodeContext, Refusal, onnx};
use crate::ir::ValueRef;

pub(super) const IMPORTERS: &[Importer] =
    &[onnx("DequantizeLinear", dequantize), onnx("DynamicQuantizeLinear", dynamic_quantize), onnx("QuantizeLinear", quantize)];

/// The axis and block size; a scale for the whole tensor uses neither, so that the default axis may then be out of range.
fn granularity(cx: &NodeContext<'_>, x: ValueRef, scale: ValueRef) -> Result<(usize, usize), Refusal> {
    let block = cx.int_or("block_size", 0)?;
    let block = usize::try_from(block).map_err(|_| Refusal::attribute("block_size", block))?;
    let axis = cx.int_or("axis", 1)?;
    let per_tensor = block == 0 && cx.shape(scale).iter().all(|d| d.is_one());
    match operands::axis(axis, cx.rank(x)) {
        Ok(axis) => Ok((axis, block)),
        Err(_) if per_tensor => Ok((0, 0)),
        Err(e) => Err(e),
    }
}

fn quantize(cx: &mut NodeContext<'_>) -> Imported {
    let (x, scale, zero) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
    let asked = if cx.int_or("output_dtype", 0)? != 0 { Some(cx.dtype_attribute("output_dtype")?) } else { None };
    let to = match (zero.map(|z| cx.dtype(z)), asked) {
        (Some(z), Some(a)) if z != a => return Err(Refusal::new(format!("output_dtype is {a}, the zero point's type {z}"))),
        (z, a) => z.or(a).unwrap_or(DType::U8),
    };
    if cx.int_or("saturate", 1)? == 0 && matches!(to, DType::F8e4m3 | DType::F8e5m2) {
        return Err(Refusal::new("8-bit float quantization with saturate = 0 is not supported; use saturate = 1"));
    }
    if cx.int_or("precision", 0)? != 0 {
        let precision = cx.dtype_attribute("precision")?;
        if precision != DType::F32 && precision != cx.dtype(x) {
            return Err(Refusal::new(format!("division in {precision} is not supported; it is done in f32")));
        }
    }
    let (axis, block) = granularity(cx, x, scale)?;
    Ok(vec![cx.add_optional(QuantizeLinear { to, axis, block }, &[Some(x), Some(scale), zero])?])
}

fn dequantize(cx: &mut NodeContext<'_>) -> Imported {
    let (x, scale, zero) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
    let (axis, block) = granularity(cx, x, scale)?;
    let mut y = cx.add_optional(DequantizeLinear { axis, block }, &[Some(x), Some(scale), zero])?;
    if cx.int_or("output_dtype", 0)? != 0 {
        let to = cx.dtype_attribute("output_dtype")?;
        if to != cx.dtype(y) {
            y = cx.add(Cast { to }, &[y])?;
        }
    }
    Ok(vec![y])
}

fn dynamic_quantize(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    cx.add_all(DynamicQuantizeLinear {}, &[Some(x)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;

    #[test]
    fn granularity() {
        let (x, one, per_axis) = (Input(F32, &["n", "6"]), Input(F32, &[]), Input(F32, &["6"]));
        let quantized = |to: &str, ty: &str, axis, block| {
            format!("QuantizeLinear(QuantizeLinear {{ to: {to}, axis: {axis}, block: {block} }}) -> {ty}[n, 6]")
        };
        let op = || node("QuantizeLinear", &[], &[]);
        check(10, op(), &[x, one], &[&quantized("U8", "u8", 1, 0)]);
        check(13, op(), &[x, per_axis, Input(I8, &["6"])], &[&quantized("I8", "i8", 1, 0)]);
        check(21, op().attr("output_dtype", 3).attr("axis", -1), &[x, one], &[&quantized("I8", "i8", 1, 0)]);
        let blocks = [x, Input(F32, &["n", "3"])];
        check(21, op().attr("block_size", 2), &blocks, &[&quantized("U8", "u8", 1, 2)]);
        let back = "DequantizeLinear(DequantizeLinear { axis: 0, block: 0 }) -> f32[6]";
        check(13, node("DequantizeLinear", &[], &[]), &[Input(U8, &["6"]), one], &[back]);
        refused(13, node("DequantizeLinear", &[], &[]), &[Input(U8, &["6"]), per_axis], "axis 1 does not exist");
    }
}
