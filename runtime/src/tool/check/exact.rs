//! What a GPU computes with the CPU's numbers, to the bit: where a launch keeps such values in registers and quantizes them, no quantized value
//! may differ.

use crate::op::Op;
use crate::op::elementwise::{Binary, Unary};

/// The functions whose kernels for GPUs (`activation.cuh`) do the CPU's operations in the CPU's order, with examples of their attributes.
pub const EXACT: [Unary; 24] = [
    Unary::Abs,
    Unary::Ceil,
    Unary::Erf,
    Unary::Exp,
    Unary::Floor,
    Unary::Gelu,
    Unary::GeluTanh,
    Unary::HardSigmoid { alpha: 0.2, beta: 0.5 },
    Unary::HardSwish,
    Unary::LeakyRelu { alpha: 0.01 },
    Unary::Neg,
    Unary::Reciprocal,
    Unary::Relu,
    Unary::Round,
    Unary::Shrink { bias: 0.1, lambda: 0.5 },
    Unary::Sigmoid,
    Unary::Sign,
    Unary::Softsign,
    Unary::Sqrt,
    // The CPU has SiLU by itself.
    Unary::Swish { alpha: 1.0 },
    Unary::Swish { alpha: 1.702 },
    Unary::Swish { alpha: -0.5 },
    Unary::Tanh,
    Unary::ThresholdedRelu { alpha: 1.0 },
];

/// Whether the CPU's vectorised functions have fused multiply-adds, as the GPU's have. Without they round more often.
pub fn has_fused_multiply_add() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    return cfg!(target_arch = "aarch64");
}

/// Whether a step of a launch gives the CPU's numbers for the CPU's operands: it moves elements, or does to each what IEEE 754 leaves no choice
/// in. Not so are sums along rows, whose order differs, and functions from other libraries.
pub fn is_exact(op: &Op) -> bool {
    let function = |f: &Unary| EXACT.iter().any(|e| std::mem::discriminant(e) == std::mem::discriminant(f));
    match op {
        Op::Dequant(op) => op.activation.as_ref().is_none_or(function),
        Op::Unary(f) => function(f),
        Op::Binary(f) => {
            matches!(f, Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Max | Binary::Min | Binary::PRelu)
        }
        Op::Cast(op) => op.to.computes_in_f32(),
        Op::Where(_) | Op::Clip(_) | Op::QuantLift(_) => true,
        op => op.moves_elements(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::op::elementwise::Cast;
    use crate::op::norm::RmsNorm;
    use crate::op::sparse::Dequant;

    #[test]
    fn sums_and_foreign_functions_are_not_exact() {
        let dequant = |activation| Op::from(Dequant { to: DType::Bf16, activation });
        for exact in [dequant(None), dequant(Some(Unary::Swish { alpha: 3.0 })), Binary::Add.into(), Unary::Gelu.into()] {
            assert!(is_exact(&exact), "{exact:?}");
        }
        let norm = RmsNorm { axis: 1, epsilon: 1e-5 };
        for other in [dequant(Some(Unary::Mish)), Binary::Pow.into(), Cast { to: DType::I8 }.into(), norm.into()] {
            assert!(!is_exact(&other), "{other:?}");
        }
    }
}
