//! Checks that the type rules of many operators share.

use super::{InferError, InputTypes, TensorType};
use crate::dim::Dim;
use crate::dtype::DType;

/// What a predicate on element types is called in errors.
pub const NUMBER: &str = "an integer or a float of 16 bits or more";
/// As [`NUMBER`], for [`DType::is_real`].
pub const REAL: &str = "f16, bf16, f32 or f64";

/// Input `i`, whose element type `accept` must take.
pub fn typed<'a>(
    inputs: InputTypes<'a>,
    i: usize,
    accept: impl Fn(DType) -> bool,
    expected: &'static str,
) -> Result<&'a TensorType, InferError> {
    check_dtype(inputs.required(i)?, i, accept, expected)
}

/// Input `i`, when present, whose element type `accept` must take.
pub fn optional_typed<'a>(
    inputs: InputTypes<'a>,
    i: usize,
    accept: impl Fn(DType) -> bool,
    expected: &'static str,
) -> Result<Option<&'a TensorType>, InferError> {
    inputs.optional(i).map(|ty| check_dtype(ty, i, accept, expected)).transpose()
}

fn check_dtype<'a>(
    ty: &'a TensorType,
    input: usize,
    accept: impl Fn(DType) -> bool,
    expected: &'static str,
) -> Result<&'a TensorType, InferError> {
    if accept(ty.dtype) { Ok(ty) } else { Err(InferError::DType { input, actual: ty.dtype, expected }) }
}

/// Whether two extents may be equal: they are not two different constants.
pub fn may_equal(a: &Dim, b: &Dim) -> bool {
    match (a.as_const(), b.as_const()) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

/// Checks that `axis` is one of `rank` axes.
pub fn axis(axis: usize, rank: usize) -> Result<(), InferError> {
    if axis < rank {
        return Ok(());
    }
    Err(InferError::Attribute { name: "axis", reason: format!("{axis} is not an axis of a tensor of rank {rank}") })
}

/// Checks that a shape broadcasts to `target` without changing it.
pub fn broadcasts_to(what: &str, shape: &[Dim], target: &[Dim]) -> Result<(), InferError> {
    let fits =
        shape.len() <= target.len() && shape.iter().rev().zip(target.iter().rev()).all(|(d, t)| d.is_one() || may_equal(d, t));
    if fits { Ok(()) } else { Err(InferError::Shape(format!("{what} {shape:?} does not broadcast to {target:?}"))) }
}

/// Checks that a shape is `[extent]`.
pub fn vector_of(what: &str, shape: &[Dim], extent: &Dim) -> Result<(), InferError> {
    match shape {
        [d] if may_equal(d, extent) => Ok(()),
        _ => Err(InferError::Shape(format!("{what} {shape:?} must be [{extent}]"))),
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::{InferError, InputTypes, Op, Semantics, TensorType};
    use crate::dim::Dim;

    /// Reads types as they print, `-` for an absent one: `f32[batch, 3] - i64[]`.
    fn parse(text: &str) -> Vec<Option<TensorType>> {
        let mut types = Vec::new();
        let mut rest = text.trim();
        while !rest.is_empty() {
            if let Some(tail) = rest.strip_prefix('-') {
                types.push(None);
                rest = tail.trim_start();
                continue;
            }
            let (dtype, tail) = rest.split_once('[').unwrap();
            let (shape, tail) = tail.split_once(']').unwrap();
            let shape = shape.split(", ").filter(|d| !d.is_empty()).map(|d| d.parse::<Dim>().unwrap());
            types.push(Some(TensorType::new(dtype.parse().unwrap(), shape)));
            rest = tail.trim_start();
        }
        types
    }

    /// Infers the outputs' types from the inputs', all in text, and compares with `want`: the types, or a part of the error.
    pub fn infer(op: &Op, inputs: &str, want: &str) {
        let types = parse(inputs);
        let types: Vec<_> = types.iter().map(Option::as_ref).collect();
        match op.infer(InputTypes(&types)) {
            Ok(out) => {
                let out: Vec<String> = out.iter().map(ToString::to_string).collect();
                assert_eq!(out.join(" "), want, "{op:?} of {inputs}");
            }
            Err(e) => assert!(e.to_string().contains(want), "{op:?} of {inputs}: {e}; expected {want}"),
        }
        // Whatever the types, an answer and never a panic.
        let _: Result<_, InferError> = op.infer(InputTypes(&types[..types.len().saturating_sub(1)]));
    }
}
