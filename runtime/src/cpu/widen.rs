//! Floats narrower than f32, computed through f32: widening is exact, narrowing rounds half to even.

use std::borrow::Cow;

use half::{bf16, f16};

use super::KernelError;
use crate::dtype::DType;
use crate::f8::{F8E4M3, F8E5M2};
use crate::tensor::{TensorView, TensorViewMut};

/// The elements as f32.
pub(super) fn widened<'a>(op: &'static str, x: &TensorView<'a>) -> Result<Cow<'a, [f32]>, KernelError> {
    macro_rules! widen {
        ($t:ty) => {
            Ok(Cow::Owned(bytemuck::cast_slice::<u8, $t>(x.data).iter().map(|v| v.to_f32()).collect()))
        };
    }
    match x.dtype {
        DType::F32 => Ok(Cow::Borrowed(bytemuck::cast_slice(x.data))),
        DType::F16 => widen!(f16),
        DType::Bf16 => widen!(bf16),
        DType::F8e4m3 => widen!(F8E4M3),
        DType::F8e5m2 => widen!(F8E5M2),
        other => Err(KernelError::UnsupportedType(op, other)),
    }
}

/// Lets `compute` write the result in f32, then rounds it to the output's type.
pub(super) fn narrowed(
    op: &'static str,
    out: &mut TensorViewMut<'_>,
    compute: impl FnOnce(&mut [f32]) -> Result<(), KernelError>,
) -> Result<(), KernelError> {
    if out.dtype == DType::F32 {
        return compute(bytemuck::cast_slice_mut(out.data));
    }
    let mut wide = vec![0f32; out.elements()];
    compute(&mut wide)?;
    macro_rules! narrow {
        ($t:ty) => {
            for (o, v) in bytemuck::cast_slice_mut::<u8, $t>(out.data).iter_mut().zip(wide) {
                *o = <$t>::from_f32(v);
            }
        };
    }
    match out.dtype {
        DType::F16 => narrow!(f16),
        DType::Bf16 => narrow!(bf16),
        DType::F8e4m3 => narrow!(F8E4M3),
        DType::F8e5m2 => narrow!(F8E5M2),
        other => return Err(KernelError::UnsupportedType(op, other)),
    }
    Ok(())
}
