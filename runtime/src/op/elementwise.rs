//! Element-wise operators, with NumPy broadcasting where there are several operands.

use serde::{Deserialize, Serialize};

use super::check::{NUMBER, REAL, broadcasts_to, may_equal, optional_typed, typed};
use super::{InferError, InputTypes, Semantics, TensorType, broadcast};
use crate::dtype::DType;

/// A function of one element. Float arithmetic of f16 and bf16 is done in f32 and rounded once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Unary {
    Abs,
    Acos,
    Acosh,
    Asin,
    Asinh,
    Atan,
    Atanh,
    BitNot,
    Ceil,
    Celu {
        alpha: f32,
    },
    Cos,
    Cosh,
    Elu {
        alpha: f32,
    },
    Erf,
    Exp,
    Floor,
    /// `0.5·x·(1 + erf(x/√2))`.
    Gelu,
    /// The tanh approximation of GELU.
    GeluTanh,
    HardSigmoid {
        alpha: f32,
        beta: f32,
    },
    HardSwish,
    IsInf {
        negative: bool,
        positive: bool,
    },
    IsNan,
    LeakyRelu {
        alpha: f32,
    },
    Log,
    Mish,
    Neg,
    Not,
    Reciprocal,
    Relu,
    /// Round half to even.
    Round,
    Selu {
        alpha: f32,
        gamma: f32,
    },
    Shrink {
        bias: f32,
        lambda: f32,
    },
    Sigmoid,
    Sign,
    Sin,
    Sinh,
    Softplus,
    Softsign,
    Sqrt,
    /// `x·sigmoid(alpha·x)`; SiLU with alpha 1.
    Swish {
        alpha: f32,
    },
    Tan,
    Tanh,
    ThresholdedRelu {
        alpha: f32,
    },
}

/// A function of two elements, broadcast. Integers wrap; a divisor of 0 is an error. `Max` and `Min` give NaN where an operand is NaN. Both operands have one element type ([`Binary::Pow`]: the exponent's may differ).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Sub,
    Mul,
    /// Integers: truncated towards zero.
    Div,
    /// Result in the base's element type.
    Pow,
    /// `fmod`: the sign of the dividend (C's fmod); else that of the divisor (Python's %).
    Mod {
        fmod: bool,
    },
    Max,
    Min,
    And,
    Or,
    Xor,
    BitAnd,
    BitOr,
    BitXor,
    ShiftLeft,
    ShiftRight,
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    /// `x < 0 ? slope·x : x`, the slope broadcast to x.
    PRelu,
}

/// Inputs (condition: bool, then, else): elements of `then` where the condition holds. Broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Where {}

/// Inputs (x, low?, high?): `min(max(x, low), high)`; the bounds are scalars of x's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clip {}

/// Conversion of element type, as ONNX Cast-19 with `saturate = 1` for 8-bit floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cast {
    /// Element type of the result.
    pub to: DType,
}

impl Semantics for Unary {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = match self {
            Unary::Not => typed(inputs, 0, |d| d == DType::Bool, "bool")?,
            Unary::BitNot => typed(inputs, 0, DType::is_int, "an integer")?,
            Unary::IsInf { .. } | Unary::IsNan => typed(inputs, 0, DType::is_float, "a float")?,
            Unary::Abs | Unary::Sign | Unary::Shrink { .. } => typed(inputs, 0, DType::is_number, NUMBER)?,
            Unary::Neg | Unary::Relu => {
                typed(inputs, 0, |d| d.is_number() && !d.is_unsigned(), "a signed integer or a float of 16 bits or more")?
            }
            _ => typed(inputs, 0, DType::is_real, REAL)?,
        };
        let dtype = if matches!(self, Unary::IsInf { .. } | Unary::IsNan) { DType::Bool } else { x.dtype };
        Ok(vec![TensorType { dtype, shape: x.shape.clone() }])
    }
}

impl Semantics for Binary {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(2)?;
        let (accept, expected): (fn(DType) -> bool, _) = match self {
            Binary::And | Binary::Or | Binary::Xor => (|d| d == DType::Bool, "bool"),
            Binary::BitAnd | Binary::BitOr | Binary::BitXor => (DType::is_int, "an integer"),
            Binary::ShiftLeft | Binary::ShiftRight => (DType::is_unsigned, "an unsigned integer"),
            Binary::Equal => (|d| d.is_number() || d == DType::Bool, "bool, an integer or a float of 16 bits or more"),
            _ => (DType::is_number, NUMBER),
        };
        let (a, b) = (typed(inputs, 0, accept, expected)?, typed(inputs, 1, accept, expected)?);
        if a.dtype != b.dtype && *self != Binary::Pow {
            return Err(InferError::DType { input: 1, actual: b.dtype, expected: "the type of input 0" });
        }
        let shape = if *self == Binary::PRelu {
            broadcasts_to("the slope", &b.shape, &a.shape)?;
            a.shape.clone()
        } else {
            broadcast(&[&a.shape, &b.shape])?
        };
        let dtype = if self.compares() { DType::Bool } else { a.dtype };
        Ok(vec![TensorType { dtype, shape }])
    }
}

impl Binary {
    /// Whether the result is a truth value whatever the operands' type.
    fn compares(self) -> bool {
        matches!(self, Binary::Equal | Binary::Greater | Binary::GreaterOrEqual | Binary::Less | Binary::LessOrEqual)
    }
}

impl Semantics for Where {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(3)?;
        let condition = typed(inputs, 0, |d| d == DType::Bool, "bool")?;
        let (a, b) = (inputs.required(1)?, inputs.required(2)?);
        if a.dtype != b.dtype {
            return Err(InferError::DType { input: 2, actual: b.dtype, expected: "the type of input 1" });
        }
        Ok(vec![TensorType { dtype: a.dtype, shape: broadcast(&[&condition.shape, &a.shape, &b.shape])? }])
    }
}

impl Semantics for Clip {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(3)?;
        let x = typed(inputs, 0, DType::is_number, NUMBER)?;
        for i in [1, 2] {
            if let Some(bound) = optional_typed(inputs, i, |d| d == x.dtype, "the type of input 0")?
                && !bound.shape.iter().all(|d| may_equal(d, &1.into()))
            {
                return Err(InferError::Shape(format!("bound {bound} must be a scalar")));
            }
        }
        Ok(vec![x.clone()])
    }
}

impl Semantics for Cast {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        Ok(vec![TensorType { dtype: self.to, shape: inputs.required(0)?.shape.clone() }])
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::infer;
    use super::*;

    #[test]
    fn infers_types() {
        for (op, inputs, want) in [
            (Unary::Erf.into(), "f16[batch, 3]", "f16[batch, 3]"),
            (Unary::Neg.into(), "i8[2]", "i8[2]"),
            (Unary::IsNan.into(), "f8e4m3[n]", "bool[n]"),
            (Unary::Neg.into(), "u8[2]", "input 0 is u8, which is not supported here"),
            (Unary::Exp.into(), "i32[2]", "input 0 is i32, which is not supported here"),
            (Unary::Exp.into(), "", "input 0 is missing"),
            (Unary::Exp.into(), "f32[1] f32[1]", "2 inputs given, at most 1"),
            (Binary::Add.into(), "f32[batch, 1, 4] f32[seq, 1]", "f32[batch, seq, 4]"),
            (Binary::Add.into(), "f32[a, 4] f32[b, 4]", "f32[bcast(a,b), 4]"),
            (Binary::Add.into(), "f32[2] f32[3]", "do not broadcast"),
            (Binary::Add.into(), "f32[2] f64[2]", "input 1 is f64"),
            (Binary::Less.into(), "i64[n] i64[]", "bool[n]"),
            (Binary::Equal.into(), "bool[2] bool[2]", "bool[2]"),
            (Binary::Pow.into(), "f32[2] i64[]", "f32[2]"),
            (Binary::ShiftLeft.into(), "i32[2] i32[2]", "an unsigned integer expected"),
            (Binary::PRelu.into(), "f32[n, 3, 4] f32[3, 1]", "f32[n, 3, 4]"),
            (Binary::PRelu.into(), "f32[3] f32[2, 3]", "the slope [2, 3] does not broadcast to [3]"),
            (Where {}.into(), "bool[n, 1] f32[4] f32[]", "f32[n, 4]"),
            (Where {}.into(), "bool[1] f32[4] i8[4]", "input 2 is i8"),
            (Clip {}.into(), "i8[n] i8[] -", "i8[n]"),
            (Clip {}.into(), "i8[n] - i8[2]", "must be a scalar"),
            (Cast { to: DType::F8e4m3 }.into(), "bool[n, 2]", "f8e4m3[n, 2]"),
        ] {
            infer(&op, inputs, want);
        }
    }
}
