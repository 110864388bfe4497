//! From element types known at run time to Rust types, and from operands to typed slices.

use super::KernelError;
use crate::dtype::Element;
use crate::tensor::{TensorView, TensorViewMut};

/// `dispatch!(group, "Operator", dtype, T => body)`: `body`, a `Result<_, KernelError>`, with `T` the Rust type of `dtype`; a
/// type outside the group is [`KernelError::UnsupportedType`]. Groups: `real` (f32, f64), `wide` (and 64-bit integers),
/// `word` (and 32-bit ones), `native` (every type with arithmetic in hardware, and bool), `narrow` (the other floats), `all`.
macro_rules! dispatch {
    (real, $name:expr, $dtype:expr, $T:ident => $body:expr) => {
        dispatch!(@ $name, $dtype, $T, $body, F32 f32, F64 f64)
    };
    (wide, $name:expr, $dtype:expr, $T:ident => $body:expr) => {
        dispatch!(@ $name, $dtype, $T, $body, I64 i64, U64 u64, F32 f32, F64 f64)
    };
    (word, $name:expr, $dtype:expr, $T:ident => $body:expr) => {
        dispatch!(@ $name, $dtype, $T, $body, I32 i32, U32 u32, I64 i64, U64 u64, F32 f32, F64 f64)
    };
    (native, $name:expr, $dtype:expr, $T:ident => $body:expr) => {
        dispatch!(@ $name, $dtype, $T, $body, Bool crate::dtype::Bool, I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32,
            U64 u64, F32 f32, F64 f64)
    };
    (narrow, $name:expr, $dtype:expr, $T:ident => $body:expr) => {
        dispatch!(@ $name, $dtype, $T, $body, F16 half::f16, Bf16 half::bf16, F8e4m3 crate::f8::F8E4M3, F8e5m2 crate::f8::F8E5M2)
    };
    (all, $name:expr, $dtype:expr, $T:ident => $body:expr) => {
        dispatch!(@ $name, $dtype, $T, $body, Bool crate::dtype::Bool, I8 i8, I16 i16, I32 i32, I64 i64, U8 u8, U16 u16, U32 u32,
            U64 u64, F16 half::f16, Bf16 half::bf16, F32 f32, F64 f64, F8e4m3 crate::f8::F8E4M3, F8e5m2 crate::f8::F8E5M2)
    };
    (@ $name:expr, $dtype:expr, $T:ident, $body:expr, $($variant:ident $ty:ty),*) => {
        match $dtype {
            $($crate::dtype::DType::$variant => { type $T = $ty; $body })*
            #[allow(unreachable_patterns)]
            other => Err($crate::cpu::KernelError::UnsupportedType($name, other)),
        }
    };
}
pub(super) use dispatch;

/// Operand `i`.
///
/// # Errors
/// [`KernelError::Data`] when it is absent; type checking has excluded that.
pub fn view<'a>(inputs: &[Option<TensorView<'a>>], i: usize) -> Result<TensorView<'a>, KernelError> {
    inputs.get(i).copied().flatten().ok_or_else(|| KernelError::Data(format!("input {i} is missing")))
}

/// The elements of operand `i`.
///
/// # Errors
/// [`KernelError::Data`] when it is absent or of another type; type checking has excluded that.
pub fn input<'a, T: Element>(inputs: &[Option<TensorView<'a>>], i: usize) -> Result<&'a [T], KernelError> {
    let view = view(inputs, i)?;
    view.as_slice().ok_or_else(|| KernelError::Data(format!("input {i} is {}, not {}", view.dtype, T::DTYPE)))
}

/// The elements of operand `i`, when present.
///
/// # Errors
/// As [`input`], except for an absent operand.
pub fn optional<'a, T: Element>(inputs: &[Option<TensorView<'a>>], i: usize) -> Result<Option<&'a [T]>, KernelError> {
    if inputs.get(i).copied().flatten().is_none() { Ok(None) } else { input(inputs, i).map(Some) }
}

/// The elements of output `i`, writable.
///
/// # Errors
/// [`KernelError::Data`] when it is absent or of another type; type checking has excluded that.
pub fn output<'a, T: Element>(outputs: &'a mut [TensorViewMut<'_>], i: usize) -> Result<&'a mut [T], KernelError> {
    let view = outputs.get_mut(i).ok_or_else(|| KernelError::Data(format!("output {i} is missing")))?;
    let dtype = view.dtype;
    view.as_mut_slice().ok_or_else(|| KernelError::Data(format!("output {i} is {dtype}, not {}", T::DTYPE)))
}
