//! Checks that the type rules of many operators share. Extents are compared only as far as they are known: what depends on
//! symbols is accepted here and checked again on concrete extents before a step runs.

use super::{InferError, InputTypes, TensorType};
use crate::dim::Dim;
use crate::dtype::DType;

/// What a predicate on element types is called in errors.
pub const NUMBER: &str = "an integer or a float of 16 bits or more";
/// As [`NUMBER`], for [`DType::is_real`].
pub const REAL: &str = "f16, bf16, f32 or f64";
/// As [`NUMBER`], for [`DType::computes_in_f32`].
pub const NARROW_REAL: &str = "f16, bf16 or f32";

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

/// Whether two extents may be equal: their difference is 0 or not known.
pub fn may_equal(a: &Dim, b: &Dim) -> bool {
    a == b || (a.clone() - b.clone()).as_const().is_none_or(|d| d == 0)
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

/// Whether `a` may be at most `b`.
pub fn may_fit(a: &Dim, b: &Dim) -> bool {
    a == b || (b.clone() - a.clone()).as_const().is_none_or(|d| d >= 0)
}

/// An attribute's error.
pub fn attribute(name: &'static str, reason: impl Into<String>) -> InferError {
    InferError::Attribute { name, reason: reason.into() }
}

/// An unsigned attribute as an extent.
///
/// # Errors
/// A value that no extent can have.
pub fn extent(name: &'static str, value: usize) -> Result<Dim, InferError> {
    i64::try_from(value).map(Dim::from).map_err(|_| attribute(name, format!("{value} is too large")))
}

/// Checks that an axis is one of a tensor's.
///
/// # Errors
/// An axis at or above `rank`.
pub fn named_axis(name: &'static str, axis: usize, rank: usize) -> Result<(), InferError> {
    if axis >= rank {
        return Err(attribute(name, format!("axis {axis} of a tensor of rank {rank}")));
    }
    Ok(())
}

/// Checks that an attribute has one entry per axis.
///
/// # Errors
/// Another number of entries.
pub fn per_axis(name: &'static str, entries: usize, axes: usize) -> Result<(), InferError> {
    if entries != axes {
        return Err(attribute(name, format!("{entries} entries for {axes} axes")));
    }
    Ok(())
}

/// Checks that no extent is known to be negative.
///
/// # Errors
/// One that is.
pub fn not_negative<'a>(name: &'static str, extents: impl IntoIterator<Item = &'a Dim>) -> Result<(), InferError> {
    for d in extents {
        if d.as_const().is_some_and(|v| v < 0) {
            return Err(attribute(name, format!("extent {d} is negative")));
        }
    }
    Ok(())
}

/// Checks an input's rank.
///
/// # Errors
/// A smaller one.
pub fn rank_at_least(input: usize, ty: &TensorType, least: usize) -> Result<(), InferError> {
    if ty.rank() < least {
        return Err(InferError::Shape(format!("input {input} is {ty}, a rank of at least {least} is needed")));
    }
    Ok(())
}

/// Checks an input's element type.
///
/// # Errors
/// [`InferError::DType`] when `ok` is false.
pub fn dtype(input: usize, actual: DType, ok: bool, expected: &'static str) -> Result<(), InferError> {
    if ok { Ok(()) } else { Err(InferError::DType { input, actual, expected }) }
}

/// Checks that an input holds positions: i32 or i64.
///
/// # Errors
/// [`InferError::DType`].
pub fn indices(input: usize, ty: &TensorType) -> Result<(), InferError> {
    dtype(input, ty.dtype, matches!(ty.dtype, DType::I32 | DType::I64), "i32 or i64")
}

/// Checks that two extents may be equal.
///
/// # Errors
/// What `message` says, when they are known to differ.
pub fn same_extent(a: &Dim, b: &Dim, message: impl FnOnce() -> String) -> Result<(), InferError> {
    if may_equal(a, b) { Ok(()) } else { Err(InferError::Shape(message())) }
}

/// Of two extents that are equal, the one that says more: a constant rather than an expression.
pub fn known(a: &Dim, b: &Dim) -> Dim {
    if a.as_const().is_none() && b.as_const().is_some() { b.clone() } else { a.clone() }
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
