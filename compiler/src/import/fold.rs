//! Computing small results when compiling: what attribute-like operands (axes, pads, scales …) are computed from.
//!
//! Weights are left alone: what is large stays as the model has it.

use sliderun::cpu;
use sliderun::dtype::DType;
use sliderun::op::elementwise::Cast;
use sliderun::op::{Op, TensorType};
use sliderun::tensor::{Tensor, TensorView};

use crate::ir::{Constant, Graph, ValueRef};

/// Most bytes that the operands, and the results, of a folded operator have.
const MOST_BYTES: usize = 1 << 14;

/// The results of an operator on constants, where they are small and can be computed.
pub(super) fn fold(graph: &Graph, op: &Op, inputs: &[Option<ValueRef>], types: &[TensorType]) -> Option<Vec<Constant>> {
    // Quantized weights keep their storage type.
    if matches!(op, Op::QuantizeLinear(_) | Op::DequantizeLinear(_)) {
        return None;
    }
    let operands: Vec<Option<&Constant>> =
        inputs.iter().map(|v| v.map_or(Some(None), |v| graph.constant(v).map(Some))).collect::<Option<_>>()?;
    let given: usize = operands.iter().flatten().map(|c| c.data.len()).sum();
    let made = types.iter().try_fold(0usize, |sum, ty| {
        let elements = sliderun::tensor::checked_elements(&ty.concrete_shape()?)?;
        sum.checked_add(elements.checked_mul(ty.dtype.size())?)
    })?;
    if given > MOST_BYTES || made > MOST_BYTES {
        return None;
    }
    let tensors: Vec<Option<Tensor>> = operands.iter().map(|c| c.map(Constant::to_tensor)).collect();
    let views: Vec<Option<TensorView<'_>>> = tensors.iter().map(|t| t.as_ref().map(Tensor::view)).collect();
    Some(evaluate(op, &views)?.iter().map(Constant::from_tensor).collect())
}

/// The operator's results, where the CPU has it for these operands. What it refuses is left for the run to report.
pub(super) fn evaluate(op: &Op, inputs: &[Option<TensorView<'_>>]) -> Option<Vec<Tensor>> {
    cpu::eval(op, inputs).ok()
}

/// The elements of a small constant as integers, where it has integers or booleans.
pub(super) fn ints(constant: &Constant) -> Option<Vec<i64>> {
    if constant.dtype.is_float() {
        return None;
    }
    converted(constant, DType::I64)?.as_slice::<i64>().map(<[i64]>::to_vec)
}

/// The elements of a small constant as floats, where it has floats.
pub(super) fn floats(constant: &Constant) -> Option<Vec<f64>> {
    if !constant.dtype.is_float() {
        return None;
    }
    converted(constant, DType::F64)?.as_slice::<f64>().map(<[f64]>::to_vec)
}

fn converted(constant: &Constant, to: DType) -> Option<Tensor> {
    let tensor = constant.to_tensor();
    if constant.dtype == to {
        return Some(tensor);
    }
    evaluate(&Cast { to }.into(), &[Some(tensor.view())])?.pop()
}
