//! Element-wise operators: functions of one element, of two broadcast elements, and conversions.

use sliderun::dtype::DType;
use sliderun::op::elementwise::{Binary, Cast, Clip, Unary, Where};
use sliderun::op::layout::{Expand, Identity};

use super::{Imported, Importer, NodeContext, Refusal, onnx};
use crate::ir::ValueRef;

pub(super) const IMPORTERS: &[Importer] = &[
    onnx("Abs", simple),
    onnx("Acos", simple),
    onnx("Acosh", simple),
    onnx("Asin", simple),
    onnx("Asinh", simple),
    onnx("Atan", simple),
    onnx("Atanh", simple),
    onnx("BitwiseNot", simple),
    onnx("Ceil", simple),
    onnx("Cos", simple),
    onnx("Cosh", simple),
    onnx("Erf", simple),
    onnx("Exp", simple),
    onnx("Floor", simple),
    onnx("HardSwish", simple),
    onnx("IsNaN", simple),
    onnx("Log", simple),
    onnx("Mish", simple),
    onnx("Neg", simple),
    onnx("Not", simple),
    onnx("Reciprocal", simple),
    onnx("Relu", simple),
    onnx("Round", simple),
    onnx("Sigmoid", simple),
    onnx("Sign", simple),
    onnx("Sin", simple),
    onnx("Sinh", simple),
    onnx("Softplus", simple),
    onnx("Softsign", simple),
    onnx("Sqrt", simple),
    onnx("Tan", simple),
    onnx("Tanh", simple),
    onnx("Celu", parametric),
    onnx("Elu", parametric),
    onnx("Gelu", parametric),
    onnx("HardSigmoid", parametric),
    onnx("IsInf", parametric),
    onnx("LeakyRelu", parametric),
    onnx("Selu", parametric),
    onnx("Shrink", parametric),
    onnx("Swish", parametric),
    onnx("ThresholdedRelu", parametric),
    onnx("Add", binary),
    onnx("And", binary),
    onnx("BitShift", binary),
    onnx("BitwiseAnd", binary),
    onnx("BitwiseOr", binary),
    onnx("BitwiseXor", binary),
    onnx("Div", binary),
    onnx("Equal", binary),
    onnx("Greater", binary),
    onnx("GreaterOrEqual", binary),
    onnx("Less", binary),
    onnx("LessOrEqual", binary),
    onnx("Mod", binary),
    onnx("Mul", binary),
    onnx("Or", binary),
    onnx("PRelu", binary),
    onnx("Pow", binary),
    onnx("Sub", binary),
    onnx("Xor", binary),
    onnx("Max", variadic),
    onnx("Mean", variadic),
    onnx("Min", variadic),
    onnx("Sum", variadic),
    onnx("BitCast", bit_cast),
    onnx("Cast", cast),
    onnx("CastLike", cast_like),
    onnx("Clip", clip),
    onnx("Dropout", dropout),
    onnx("Where", where_),
];

/// Functions without attributes.
fn simple(cx: &mut NodeContext<'_>) -> Imported {
    let op = match cx.op_type() {
        "Abs" => Unary::Abs,
        "Acos" => Unary::Acos,
        "Acosh" => Unary::Acosh,
        "Asin" => Unary::Asin,
        "Asinh" => Unary::Asinh,
        "Atan" => Unary::Atan,
        "Atanh" => Unary::Atanh,
        "BitwiseNot" => Unary::BitNot,
        "Ceil" => Unary::Ceil,
        "Cos" => Unary::Cos,
        "Cosh" => Unary::Cosh,
        "Erf" => Unary::Erf,
        "Exp" => Unary::Exp,
        "Floor" => Unary::Floor,
        "HardSwish" => Unary::HardSwish,
        "IsNaN" => Unary::IsNan,
        "Log" => Unary::Log,
        "Mish" => Unary::Mish,
        "Neg" => Unary::Neg,
        "Not" => Unary::Not,
        "Reciprocal" => Unary::Reciprocal,
        "Relu" => Unary::Relu,
        "Round" => Unary::Round,
        "Sigmoid" => Unary::Sigmoid,
        "Sign" => Unary::Sign,
        "Sin" => Unary::Sin,
        "Sinh" => Unary::Sinh,
        "Softplus" => Unary::Softplus,
        "Softsign" => Unary::Softsign,
        "Sqrt" => Unary::Sqrt,
        "Tan" => Unary::Tan,
        "Tanh" => Unary::Tanh,
        other => return Err(Refusal::unsupported(other)),
    };
    let x = cx.input(0)?;
    Ok(vec![cx.add(op, &[x])?])
}

/// Functions with attributes; the defaults are ONNX's.
fn parametric(cx: &mut NodeContext<'_>) -> Imported {
    let op = match cx.op_type() {
        "Celu" => Unary::Celu { alpha: cx.float_or("alpha", 1.0)? },
        "Elu" => Unary::Elu { alpha: cx.float_or("alpha", 1.0)? },
        "Gelu" => match cx.string_or("approximate", "none")?.as_str() {
            "none" => Unary::Gelu,
            "tanh" => Unary::GeluTanh,
            other => return Err(Refusal::attribute("approximate", other)),
        },
        "HardSigmoid" => Unary::HardSigmoid { alpha: cx.float_or("alpha", 0.2)?, beta: cx.float_or("beta", 0.5)? },
        "IsInf" => {
            Unary::IsInf { negative: cx.int_or("detect_negative", 1)? != 0, positive: cx.int_or("detect_positive", 1)? != 0 }
        }
        "LeakyRelu" => Unary::LeakyRelu { alpha: cx.float_or("alpha", 0.01)? },
        "Selu" => Unary::Selu { alpha: cx.float_or("alpha", 1.673_263_2)?, gamma: cx.float_or("gamma", 1.050_701)? },
        "Shrink" => Unary::Shrink { bias: cx.float_or("bias", 0.0)?, lambda: cx.float_or("lambd", 0.5)? },
        "Swish" => Unary::Swish { alpha: cx.float_or("alpha", 1.0)? },
        "ThresholdedRelu" => Unary::ThresholdedRelu { alpha: cx.float_or("alpha", 1.0)? },
        other => return Err(Refusal::unsupported(other)),
    };
    let x = cx.input(0)?;
    Ok(vec![cx.add(op, &[x])?])
}

fn binary(cx: &mut NodeContext<'_>) -> Imported {
    let op = match cx.op_type() {
        "Add" => Binary::Add,
        "And" => Binary::And,
        "BitShift" => match cx.required_string("direction")?.as_str() {
            "LEFT" => Binary::ShiftLeft,
            "RIGHT" => Binary::ShiftRight,
            other => return Err(Refusal::attribute("direction", other)),
        },
        "BitwiseAnd" => Binary::BitAnd,
        "BitwiseOr" => Binary::BitOr,
        "BitwiseXor" => Binary::BitXor,
        "Div" => Binary::Div,
        "Equal" => Binary::Equal,
        "Greater" => Binary::Greater,
        "GreaterOrEqual" => Binary::GreaterOrEqual,
        "Less" => Binary::Less,
        "LessOrEqual" => Binary::LessOrEqual,
        "Mod" => Binary::Mod { fmod: cx.int_or("fmod", 0)? != 0 },
        "Mul" => Binary::Mul,
        "Or" => Binary::Or,
        "PRelu" => Binary::PRelu,
        "Pow" => Binary::Pow,
        "Sub" => Binary::Sub,
        "Xor" => Binary::Xor,
        other => return Err(Refusal::unsupported(other)),
    };
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    Ok(vec![cx.add(op, &[a, b])?])
}

/// Sum, Mean, Max and Min of any number of operands: a chain from the left.
fn variadic(cx: &mut NodeContext<'_>) -> Imported {
    let op = match cx.op_type() {
        "Max" => Binary::Max,
        "Min" => Binary::Min,
        _ => Binary::Add,
    };
    let mut value = cx.input(0)?;
    let count = cx.arity();
    for i in 1..count {
        let next = cx.input(i)?;
        value = cx.add(op, &[value, next])?;
    }
    if cx.op_type() == "Mean" && count > 1 {
        let dtype = cx.dtype(value);
        let divisor = cx.scalar(dtype, count as f64)?;
        value = cx.add(Binary::Div, &[value, divisor])?;
    }
    if count == 1 {
        value = cx.add(Identity {}, &[value])?;
    }
    Ok(vec![value])
}

/// A bit-preserving conversion between types of one width; only the trivial one has an operator.
fn bit_cast(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let to = cx.dtype_attribute("to")?;
    if to != cx.dtype(x) {
        return Err(Refusal::new(format!("reinterpreting {} as {to} is not supported", cx.dtype(x))));
    }
    Ok(vec![cx.add(Identity {}, &[x])?])
}

fn convert(cx: &mut NodeContext<'_>, x: ValueRef, to: DType) -> Imported {
    if cx.int_or("saturate", 1)? == 0 && matches!(to, DType::F8e4m3 | DType::F8e5m2) {
        return Err(Refusal::new("8-bit float conversion with saturate = 0 is not supported; use saturate = 1"));
    }
    Ok(vec![cx.add(Cast { to }, &[x])?])
}

fn cast(cx: &mut NodeContext<'_>) -> Imported {
    let to = cx.dtype_attribute("to")?;
    let x = cx.input(0)?;
    convert(cx, x, to)
}

fn cast_like(cx: &mut NodeContext<'_>) -> Imported {
    let (x, like) = (cx.input(0)?, cx.input(1)?);
    let to = cx.dtype(like);
    convert(cx, x, to)
}

/// Bounds are attributes before opset 11, optional operands from then on.
fn clip(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    let (low, high) = if cx.opset() < 11 {
        let dtype = cx.dtype(x);
        let mut bound = |name| -> Result<Option<ValueRef>, Refusal> {
            match cx.float(name)? {
                Some(v) => Ok(Some(cx.scalar(dtype, f64::from(v))?)),
                None => Ok(None),
            }
        };
        (bound("min")?, bound("max")?)
    } else {
        (cx.optional(1), cx.optional(2))
    };
    if low.is_none() && high.is_none() {
        return Ok(vec![cx.add(Identity {}, &[x])?]);
    }
    Ok(vec![cx.add_optional(Clip {}, &[Some(x), low, high])?])
}

/// At inference the input itself, with a mask of ones.
fn dropout(cx: &mut NodeContext<'_>) -> Imported {
    let x = cx.input(0)?;
    if cx.opset() >= 12 && cx.optional(2).is_some() && cx.known_bool(2)? {
        let ratio = if cx.optional(1).is_some() { cx.known_float(1)? } else { 0.5 };
        if ratio != 0.0 {
            return Err(Refusal::new(format!(
                "training_mode is true with ratio {ratio}, so the result is random; export the model for inference"
            )));
        }
    }
    let y = cx.add(Identity {}, &[x])?;
    if cx.wants_output(1) {
        let dtype = if cx.opset() < 10 { cx.dtype(x) } else { DType::Bool };
        let one = cx.scalar(dtype, 1.0)?;
        let shape = cx.shape(x);
        let mask = cx.add(Expand { shape }, &[one])?;
        return Ok(vec![y, mask]);
    }
    Ok(vec![y])
}

fn where_(cx: &mut NodeContext<'_>) -> Imported {
    let (condition, a, b) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    Ok(vec![cx.add(Where {}, &[condition, a, b])?])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;

    const X: Given<'_> = Input(F32, &["n", "3"]);

    #[test]
    fn functions() {
        let op = |name| node(name, &[], &[]);
        check(13, op("Erf"), &[X], &["Unary(Erf) -> f32[n, 3]"]);
        check(9, op("LeakyRelu"), &[X], &["Unary(LeakyRelu { alpha: 0.01 }) -> f32[n, 3]"]);
        check(9, op("Elu").attr("alpha", 2f32), &[X], &["Unary(Elu { alpha: 2.0 }) -> f32[n, 3]"]);
        check(20, op("Gelu").attr("approximate", "tanh"), &[X], &["Unary(GeluTanh) -> f32[n, 3]"]);
        check(
            10,
            op("IsInf").attr("detect_negative", 0),
            &[X],
            &["Unary(IsInf { negative: false, positive: true }) -> bool[n, 3]"],
        );
        refused(20, op("Gelu").attr("approximate", "sin"), &[X], "attribute approximate = sin is not supported");
    }

    #[test]
    fn operands_broadcast() {
        let op = |name| node(name, &[], &[]);
        check(14, op("Add"), &[X, Input(F32, &["3"])], &["Binary(Add) -> f32[n, 3]"]);
        check(13, op("Less"), &[X, Input(F32, &["1"])], &["Binary(Less) -> bool[n, 3]"]);
        check(11, op("BitShift").attr("direction", "LEFT"), &[Input(U8, &["2"]); 2], &["Binary(ShiftLeft) -> u8[2]"]);
        check(10, op("Mod").attr("fmod", 1), &[X, X], &["Binary(Mod { fmod: true }) -> f32[n, 3]"]);
        check(16, op("Where"), &[Input(Bool, &["n", "1"]), X, X], &["Where(Where) -> f32[n, 3]"]);
        refused(14, op("Add"), &[X, Input(F32, &["4"])], "do not broadcast");
    }

    #[test]
    fn any_number_of_operands() {
        let op = |name| node(name, &[], &[]);
        check(13, op("Max"), &[X], &[]);
        check(13, op("Sum"), &[X, X, X], &["Binary(Add) -> f32[n, 3]", "Binary(Add) -> f32[n, 3]"]);
        check(13, op("Mean"), &[X, X], &["Binary(Add) -> f32[n, 3]", "Binary(Div) -> f32[n, 3]"]);
    }

    #[test]
    fn conversions() {
        let op = |name| node(name, &[], &[]);
        check(13, op("Cast").attr("to", 10), &[X], &["Cast(Cast { to: F16 }) -> f16[n, 3]"]);
        check(19, op("CastLike"), &[X, Input(I32, &[])], &["Cast(Cast { to: I32 }) -> i32[n, 3]"]);
        refused(13, op("Cast").attr("to", 8), &[X], "string");
        refused(19, op("Cast").attr("to", 17).attr("saturate", 0), &[X], "saturate = 0");
    }

    #[test]
    fn clip_bounds_are_attributes_then_operands() {
        let op = || node("Clip", &[], &[]);
        check(10, op().attr("min", 0f32), &[X], &["Clip(Clip) -> f32[n, 3]"]);
        check(13, op(), &[X, Absent, Input(F32, &[])], &["Clip(Clip) -> f32[n, 3]"]);
        check(13, op(), &[X], &[]);
    }

    #[test]
    fn dropout_is_the_identity() {
        check(10, node("Dropout", &[], &[]).attr("ratio", 0.5f32), &[X], &[]);
    }
}
