//! Running a kernel in wider element types than its operands': f16 and bf16 arithmetic is done in f32 and rounded once, and
//! small integers in larger ones, whose results wrap to the same values.

use super::convert::convert;
use super::{Context, Kernel, KernelError};
use crate::dtype::DType;
use crate::tensor::{Tensor, TensorView, TensorViewMut};

/// The type of at least 32 bits to calculate in.
pub fn to_word(dtype: DType) -> DType {
    match dtype {
        DType::I8 | DType::I16 => DType::I32,
        DType::U8 | DType::U16 => DType::U32,
        _ => to_real(dtype),
    }
}

/// The type to calculate in of those with the most general arithmetic: 64-bit integers, f32 and f64.
pub fn to_wide(dtype: DType) -> DType {
    match dtype {
        DType::Bool | DType::I8 | DType::I16 | DType::I32 => DType::I64,
        DType::U8 | DType::U16 | DType::U32 => DType::U64,
        _ => to_real(dtype),
    }
}

/// F32 for the floats narrower than it; other types stay.
pub fn to_real(dtype: DType) -> DType {
    match dtype {
        DType::F16 | DType::Bf16 | DType::F8e4m3 | DType::F8e5m2 => DType::F32,
        other => other,
    }
}

/// The one type for operands of several float types: F64 where one of them has it, else F32.
pub fn to_common(inputs: &[Option<TensorView<'_>>]) -> impl Fn(DType) -> DType + use<> {
    let double = inputs.iter().flatten().any(|v| v.dtype == DType::F64);
    move |dtype| if double && dtype.is_float() { DType::F64 } else { to_real(dtype) }
}

/// `promote!(self, inputs, outputs, wider);` as a kernel's first statement: where `wider` changes an operand's type, the kernel
/// returns what it gives on converted copies; what follows sees only types that `wider` leaves as they are.
macro_rules! promote {
    ($kernel:expr, $inputs:expr, $outputs:expr, $wider:expr) => {
        if let Some(result) = $crate::cpu::promote::promoted($kernel, $inputs, $outputs, $wider) {
            return result;
        }
    };
}
pub(super) use promote;

/// What [`promote!`] does: runs `kernel` on converted copies when `wider` changes the type of an operand, else gives `None`.
pub fn promoted<K: Kernel>(
    kernel: &K,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
    wider: impl Fn(DType) -> DType,
) -> Option<Result<(), KernelError>> {
    let changes = |dtype| wider(dtype) != dtype;
    if !inputs.iter().flatten().any(|v| changes(v.dtype)) {
        return None;
    }
    Some(run(kernel, inputs, outputs, &wider))
}

fn run<K: Kernel>(
    kernel: &K,
    inputs: &[Option<TensorView<'_>>],
    outputs: &mut [TensorViewMut<'_>],
    wider: &dyn Fn(DType) -> DType,
) -> Result<(), KernelError> {
    let zeros = |dtype, shape: &[usize]| Tensor::zeros(dtype, shape).map_err(|e| KernelError::Data(e.to_string()));
    let wide_inputs = inputs
        .iter()
        .map(|input| {
            let Some(view) = input.filter(|v| wider(v.dtype) != v.dtype) else { return Ok(None) };
            let mut wide = zeros(wider(view.dtype), view.shape)?;
            convert(view, &mut wide.view_mut())?;
            Ok(Some(wide))
        })
        .collect::<Result<Vec<_>, KernelError>>()?;
    let mut wide_outputs = outputs
        .iter()
        .map(|o| (wider(o.dtype) != o.dtype).then(|| zeros(wider(o.dtype), o.shape)).transpose())
        .collect::<Result<Vec<_>, KernelError>>()?;

    let inputs: Vec<_> = inputs.iter().zip(&wide_inputs).map(|(v, wide)| wide.as_ref().map(Tensor::view).or(*v)).collect();
    let mut targets: Vec<TensorViewMut<'_>> = outputs
        .iter_mut()
        .zip(&mut wide_outputs)
        .map(|(o, wide)| match wide {
            Some(wide) => wide.view_mut(),
            None => TensorViewMut { dtype: o.dtype, shape: o.shape, data: &mut *o.data },
        })
        .collect();
    kernel.run(Context::default(), &inputs, &mut targets)?;
    drop(targets);
    for (output, wide) in outputs.iter_mut().zip(&wide_outputs) {
        if let Some(wide) = wide {
            convert(wide.view(), output)?;
        }
    }
    Ok(())
}
