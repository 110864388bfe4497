//! Element-wise operators.

use sliderun::op::elementwise::Unary;

use super::{Imported, Importer, NodeContext, Refusal, onnx};

pub(super) const IMPORTERS: &[Importer] = &[onnx("LeakyRelu", parametric), onnx("Relu", simple), onnx("Sqrt", simple)];

fn simple(cx: &mut NodeContext<'_>) -> Imported {
    let op = match cx.op_type() {
        "Relu" => Unary::Relu,
        "Sqrt" => Unary::Sqrt,
        other => return Err(Refusal::unsupported(other)),
    };
    let x = cx.input(0)?;
    Ok(vec![cx.add(op, &[x])?])
}

fn parametric(cx: &mut NodeContext<'_>) -> Imported {
    let op = Unary::LeakyRelu { alpha: cx.float_or("alpha", 0.01)? };
    let x = cx.input(0)?;
    Ok(vec![cx.add(op, &[x])?])
}
