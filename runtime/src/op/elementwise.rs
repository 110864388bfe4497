//! Element-wise operators, with NumPy broadcasting where there are several operands.

use serde::{Deserialize, Serialize};

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

/// A function of two elements, broadcast. Both operands have one element type ([`Binary::Pow`]: the exponent's may differ).
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

impl super::Semantics for Unary {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Binary {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Where {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Clip {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}

impl super::Semantics for Cast {
    fn infer(&self, _inputs: super::InputTypes<'_>) -> Result<Vec<super::TensorType>, super::InferError> {
        unimplemented!()
    }
}
