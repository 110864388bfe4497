//! Operators that read or write at positions given by an integer tensor, and those whose result's extents depend on data, which
//! are refused.

use sliderun::dim::Dim;
use sliderun::op::index::{Gather, GatherElements, GatherNd, OneHot, Scatter, ScatterElements, ScatterNd};
use sliderun::op::layout::Reshape;
use sliderun::tensor::Tensor;

use super::operands;
use super::{Imported, Importer, NodeContext, Refusal, onnx};
use crate::ir::Constant;

pub(super) const IMPORTERS: &[Importer] = &[
    onnx("Compress", compress),
    onnx("Gather", gather),
    onnx("GatherElements", gather_elements),
    onnx("GatherND", gather_nd),
    onnx("OneHot", one_hot),
    onnx("Scatter", scatter_elements),
    onnx("ScatterElements", scatter_elements),
    onnx("ScatterND", scatter_nd),
    onnx("NonMaxSuppression", data_dependent),
    onnx("NonZero", data_dependent),
    onnx("Unique", data_dependent),
];

fn data_dependent(cx: &mut NodeContext<'_>) -> Imported {
    Err(Refusal::new(format!(
        "the extents of {}'s result depend on the data, so no memory can be planned for it; cut the model before it",
        cx.op_type()
    )))
}

fn gather(cx: &mut NodeContext<'_>) -> Imported {
    let (data, indices) = (cx.input(0)?, cx.input(1)?);
    let axis = cx.axis_or("axis", 0, cx.rank(data))?;
    Ok(vec![cx.add(Gather { axis }, &[data, indices])?])
}

fn gather_elements(cx: &mut NodeContext<'_>) -> Imported {
    let (data, indices) = (cx.input(0)?, cx.input(1)?);
    let axis = cx.axis_or("axis", 0, cx.rank(data))?;
    Ok(vec![cx.add(GatherElements { axis }, &[data, indices])?])
}

fn gather_nd(cx: &mut NodeContext<'_>) -> Imported {
    let (data, indices) = (cx.input(0)?, cx.input(1)?);
    let batch_dims = cx.int_or("batch_dims", 0)?;
    let batch_dims = usize::try_from(batch_dims).map_err(|_| Refusal::attribute("batch_dims", batch_dims))?;
    Ok(vec![cx.add(GatherNd { batch_dims }, &[data, indices])?])
}

fn reduction(cx: &NodeContext<'_>) -> Result<Scatter, Refusal> {
    Ok(match cx.string_or("reduction", "none")?.as_str() {
        "none" => Scatter::Replace,
        "add" => Scatter::Add,
        "mul" => Scatter::Mul,
        "max" => Scatter::Max,
        "min" => Scatter::Min,
        other => return Err(Refusal::attribute("reduction", other)),
    })
}

fn scatter_elements(cx: &mut NodeContext<'_>) -> Imported {
    let operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    let op = ScatterElements { axis: cx.axis_or("axis", 0, cx.rank(operands[0]))?, reduction: reduction(cx)? };
    Ok(vec![cx.add(op, &operands)?])
}

fn scatter_nd(cx: &mut NodeContext<'_>) -> Imported {
    let operands = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    let reduction = reduction(cx)?;
    Ok(vec![cx.add(ScatterNd { reduction }, &operands)?])
}

fn one_hot(cx: &mut NodeContext<'_>) -> Imported {
    let (indices, values) = (cx.input(0)?, cx.input(2)?);
    let depth = cx.known_number(1)?;
    let axis = cx.axis_or("axis", -1, cx.rank(indices) + 1)?;
    Ok(vec![cx.add(OneHot { axis, depth: Dim::from(depth) }, &[indices, values])?])
}

/// With a condition that is known, the positions where it holds are known too.
fn compress(cx: &mut NodeContext<'_>) -> Imported {
    let mut data = cx.input(0)?;
    let condition = cx.known_bools(1)?;
    let axis = match cx.int("axis")? {
        Some(axis) => operands::axis(axis, cx.rank(data))?,
        None => {
            let elements = Dim::product(&cx.shape(data));
            data = cx.add(Reshape { shape: vec![elements] }, &[data])?;
            0
        }
    };
    let positions: Vec<i64> = (0..).zip(&condition).filter(|(_, keep)| **keep).map(|(i, _)| i).collect();
    let indices = Tensor::from_slice(&[positions.len()], &positions).map_err(|e| Refusal::new(e.to_string()))?;
    let indices = cx.add_constant(Constant::from_tensor(&indices));
    Ok(vec![cx.add(Gather { axis }, &[data, indices])?])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;

    #[test]
    fn positions() {
        let data = Input(F32, &["n", "4"]);
        let op = |name| node(name, &[], &[]);
        check(
            13,
            op("Gather").attr("axis", -1),
            &[data, Input(I64, &["2", "s"])],
            &["Gather(Gather { axis: 1 }) -> f32[n, 2, s]"],
        );
        let elements = "GatherElements(GatherElements { axis: 0 }) -> f32[2, 4]";
        check(13, op("GatherElements"), &[data, Input(I64, &["2", "4"])], &[elements]);
        check(13, op("GatherND"), &[data, Input(I64, &["3", "2"])], &["GatherNd(GatherNd { batch_dims: 0 }) -> f32[3]"]);
        let scatter = "ScatterElements(ScatterElements { axis: 1, reduction: Add }) -> f32[n, 4]";
        let update = [data, Input(I64, &["1", "4"]), Input(F32, &["1", "4"])];
        check(16, op("ScatterElements").attr("axis", 1).attr("reduction", "add"), &update, &[scatter]);
        let scatter = "ScatterNd(ScatterNd { reduction: Replace }) -> f32[n, 4]";
        check(13, op("ScatterND"), &[data, Input(I64, &["1", "1"]), Input(F32, &["1", "4"])], &[scatter]);
        let one_hot = "OneHot(OneHot { axis: 1, depth: 5 }) -> f32[n, 5]";
        check(11, op("OneHot"), &[Input(I64, &["n"]), Int(5), Floats(&[0., 1.])], &[one_hot]);
        refused(13, op("NonZero"), &[Input(F32, &["n"])], "depend on the data");
    }
}
