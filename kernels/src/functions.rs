//! How `activation.cuh` spells functions of floats.

use sliderun::op::elementwise::Unary;

/// The function object of `activation.cuh` for a function of floats: it has the operator's name and attributes in the same order.
pub fn functor(f: Unary) -> String {
    let attributes: &[f32] = &match f {
        Unary::Celu { alpha }
        | Unary::Elu { alpha }
        | Unary::LeakyRelu { alpha }
        | Unary::Swish { alpha }
        | Unary::ThresholdedRelu { alpha } => vec![alpha],
        Unary::HardSigmoid { alpha, beta } => vec![alpha, beta],
        Unary::Selu { alpha, gamma } => vec![alpha, gamma],
        Unary::Shrink { bias, lambda } => vec![bias, lambda],
        _ => Vec::new(),
    };
    let name = format!("{f:?}");
    let name = name.split(' ').next().unwrap_or_default();
    let attributes: Vec<String> = attributes.iter().map(|v| format!("__int_as_float({:#x})", v.to_bits())).collect();
    format!("slide::{name}{{{}}}", attributes.join(", "))
}
