//! Operators whose result is known from attributes and extents alone.

use sliderun::dim::{Dim, DimOp};
use sliderun::dtype::DType;
use sliderun::op::generate::{EyeLike, Range};
use sliderun::op::layout::Expand;
use sliderun::tensor::Tensor;

use super::operands;
use super::{Imported, Importer, NodeContext, Refusal, onnx};
use crate::ir::Constant;

pub(super) const IMPORTERS: &[Importer] = &[
    onnx("BlackmanWindow", window),
    onnx("ConstantOfShape", constant_of_shape),
    onnx("EyeLike", eye_like),
    onnx("HammingWindow", window),
    onnx("HannWindow", window),
    onnx("Range", range),
    onnx("Bernoulli", random),
    onnx("Multinomial", random),
    onnx("RandomNormal", random),
    onnx("RandomNormalLike", random),
    onnx("RandomUniform", random),
    onnx("RandomUniformLike", random),
];

fn random(_: &mut NodeContext<'_>) -> Imported {
    Err(Refusal::new("random results are not reproducible; export the model for inference, or make the values an input"))
}

fn constant_of_shape(cx: &mut NodeContext<'_>) -> Imported {
    let shape = cx.known_dims_input(0)?;
    let value = match cx.tensor("value")? {
        Some(c) if c.shape.iter().product::<usize>() == 1 => Constant { shape: Vec::new(), ..c },
        Some(c) => return Err(Refusal::new(format!("value has shape {:?}; one element is expected", c.shape))),
        None => Constant::from_tensor(&Tensor::scalar(0f32)),
    };
    let value = cx.add_constant(value);
    Ok(vec![cx.add(Expand { shape }, &[value])?])
}

/// Integers may be symbolic; other types must be known and become a constant.
fn range(cx: &mut NodeContext<'_>) -> Imported {
    let first = cx.input(0)?;
    let dtype = cx.dtype(first);
    if !dtype.is_int() {
        let (start, limit, delta) = (cx.known_float(0)?, cx.known_float(1)?, cx.known_float(2)?);
        let len = ((limit - start) / delta).ceil().max(0.0);
        // Bounds what a file can make us allocate.
        if len.is_nan() || len > 1e8 {
            return Err(Refusal::new(format!("a range of {len} elements")));
        }
        let values: Vec<f64> = (0..len as usize).map(|i| start + i as f64 * delta).collect();
        let value = operands::constant_from_f64(dtype, &[values.len()], &values)?;
        return Ok(vec![cx.add_constant(value)]);
    }
    let (start, limit) = (cx.known_dim(0)?, cx.known_dim(1)?);
    let delta = cx.known_int(2)?;
    if delta == 0 {
        return Err(Refusal::new("delta is 0"));
    }
    let span = if delta > 0 { limit - start.clone() } else { start.clone() - limit };
    let stride = i64::try_from(delta.unsigned_abs()).map_err(|_| Refusal::new(format!("delta is {delta}")))?;
    let len = if stride == 1 { span } else { span.ceil_div(stride) };
    let len = if cx.bounds(&len).0.is_some_and(|least| least >= 0) { len } else { Dim::op(DimOp::Max, &len, &0.into()) };
    Ok(vec![cx.add(Range { start, step: delta.into(), len, dtype }, &[])?])
}

fn eye_like(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let dtype = cx.dtype_attribute_opt("dtype")?.unwrap_or_else(|| cx.dtype(x));
    let [rows, columns] = <[Dim; 2]>::try_from(cx.shape(x))
        .map_err(|shape| Refusal::new(format!("the input has {} axes; a matrix is expected", shape.len())))?;
    let k = cx.int_or("k", 0)?;
    Ok(vec![cx.add(EyeLike { rows, columns, k, dtype }, &[])?])
}

/// Cosine windows of a known size: `a0 − a1·cos(2πi/n) + a2·cos(4πi/n)`, n the size, or one less when symmetric.
fn window(cx: &mut NodeContext<'_>) -> Imported {
    let size = cx.known_int(0)?;
    let size = usize::try_from(size)
        .ok()
        .filter(|&s| s <= 1 << 24)
        .ok_or_else(|| Refusal::new(format!("a window of {size} elements")))?;
    let dtype = cx.dtype_attribute_opt("output_datatype")?.unwrap_or(DType::F32);
    let periodic = cx.int_or("periodic", 1)? != 0;
    let [a0, a1, a2] = match cx.op_type() {
        "BlackmanWindow" => [0.42, 0.5, 0.08],
        "HammingWindow" => [25.0 / 46.0, 21.0 / 46.0, 0.0],
        _ => [0.5, 0.5, 0.0],
    };
    let n = if periodic { size } else { size.saturating_sub(1).max(1) } as f64;
    let values: Vec<f64> = (0..size)
        .map(|i| {
            let phase = 2.0 * std::f64::consts::PI * i as f64 / n;
            a0 - a1 * phase.cos() + a2 * (2.0 * phase).cos()
        })
        .collect();
    let value = operands::constant_from_f64(dtype, &[size], &values)?;
    Ok(vec![cx.add_constant(value)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;
    use sliderun::tensor::Tensor;

    const X: Given<'_> = Input(F32, &["n", "6"]);

    #[test]
    fn by_extents() {
        let value = Tensor::from_slice(&[1], &[2f32]).unwrap();
        let op = node("ConstantOfShape", &[], &[]).attr("value", &value);
        check(9, op, &[Ints(&[3000, 20])], &["Expand(Expand { shape: [3000, 20] }) -> f32[3000, 20]"]);
        let eye = "EyeLike(EyeLike { rows: n, columns: 6, k: 1, dtype: F16 }) -> f16[n, 6]";
        check(9, node("EyeLike", &[], &[]).attr("k", 1).attr("dtype", 10), &[X], &[eye]);
        let range = "Range(Range { start: 1, step: 3, len: 4000, dtype: I64 }) -> i64[4000]";
        check(11, node("Range", &[], &[]), &[Int(1), Int(12_000), Int(3)], &[range]);
        refused(11, node("Range", &[], &[]), &[Int(1), Int(11), Int(0)], "delta is 0");
        refused(1, node("RandomNormal", &[], &[]).attr("shape", vec![2]), &[], "random");
    }
}
