//! Operators whose result depends on extents alone.

use serde::{Deserialize, Serialize};

use super::check::{self, attribute};
use super::{InferError, InputTypes, Semantics, TensorType};
use crate::dim::Dim;
use crate::dtype::DType;

/// The values of extents as an integer tensor: what is left of shape arithmetic whose result is used as data. No input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extents {
    /// The elements, row-major.
    pub values: Vec<Dim>,
    /// The result's shape; `[]` or `[values.len()]`.
    pub shape: Vec<usize>,
    /// I64 or I32.
    pub dtype: DType,
}

/// `start + i·step` for i in 0..len, one axis. No input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First element.
    pub start: Dim,
    /// Distance between elements.
    pub step: Dim,
    /// Number of elements.
    pub len: Dim,
    /// An integer type.
    pub dtype: DType,
}

/// A matrix with ones on a diagonal. No input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EyeLike {
    /// Rows.
    pub rows: Dim,
    /// Columns.
    pub columns: Dim,
    /// Diagonal: 0 the main one, positive above it.
    pub k: i64,
    /// Element type.
    pub dtype: DType,
}

impl Semantics for Extents {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(0)?;
        if !matches!(self.dtype, DType::I32 | DType::I64) {
            return Err(attribute("dtype", format!("{} is neither i32 nor i64", self.dtype)));
        }
        let count = match self.shape.as_slice() {
            [] => 1,
            [n] => *n,
            _ => return Err(attribute("shape", format!("{:?} has more than one axis", self.shape))),
        };
        if count != self.values.len() {
            return Err(attribute("shape", format!("{:?} for {} values", self.shape, self.values.len())));
        }
        Ok(vec![TensorType::new(self.dtype, self.shape.iter().copied())])
    }

    fn map_dims(&mut self, map: &mut dyn FnMut(&Dim) -> Dim) {
        self.values.iter_mut().for_each(|d| *d = map(d));
    }
}

impl Semantics for Range {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(0)?;
        if !self.dtype.is_int() {
            return Err(attribute("dtype", format!("{} is not an integer type", self.dtype)));
        }
        check::not_negative("len", [&self.len])?;
        Ok(vec![TensorType::new(self.dtype, [self.len.clone()])])
    }

    fn map_dims(&mut self, map: &mut dyn FnMut(&Dim) -> Dim) {
        for d in [&mut self.start, &mut self.step, &mut self.len] {
            *d = map(d);
        }
    }
}

impl Semantics for EyeLike {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(0)?;
        check::not_negative("rows", [&self.rows])?;
        check::not_negative("columns", [&self.columns])?;
        Ok(vec![TensorType::new(self.dtype, [self.rows.clone(), self.columns.clone()])])
    }

    fn map_dims(&mut self, map: &mut dyn FnMut(&Dim) -> Dim) {
        for d in [&mut self.rows, &mut self.columns] {
            *d = map(d);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::infer;
    use super::*;

    fn extents(values: &str, shape: &[usize], dtype: DType) -> super::super::Op {
        Extents { values: values.split_whitespace().map(|v| v.parse().unwrap()).collect(), shape: shape.to_vec(), dtype }.into()
    }

    fn range(len: &str, dtype: DType) -> super::super::Op {
        Range { start: 0.into(), step: 1.into(), len: len.parse().unwrap(), dtype }.into()
    }

    #[test]
    fn types() {
        infer(&extents("batch -1", &[2], DType::I64), "", "i64[2]");
        infer(&extents("2*seq", &[], DType::I32), "", "i32[]");
        infer(&extents("", &[0], DType::I64), "", "i64[0]");
        infer(&range("seq", DType::I16), "", "i16[seq]");
        let eye = EyeLike { rows: "n".parse().unwrap(), columns: 3.into(), k: i64::MIN, dtype: DType::Bool };
        infer(&eye.into(), "", "bool[n, 3]");
    }

    #[test]
    fn refusals() {
        for (op, inputs, want) in [
            (extents("1", &[2], DType::I64), "", "1 values"),
            (extents("1", &[1, 1], DType::I64), "", "more than one axis"),
            (extents("1", &[usize::MAX], DType::I64), "", "1 values"),
            (extents("1", &[1], DType::F32), "", "neither"),
            (extents("1", &[1], DType::I64), "f32[]", "at most 0"),
            (range("3", DType::F32), "", "integer"),
            (range("-3", DType::I64), "", "negative"),
            (EyeLike { rows: (-1).into(), columns: 3.into(), k: 0, dtype: DType::F32 }.into(), "", "negative"),
        ] {
            infer(&op, inputs, want);
        }
    }
}
