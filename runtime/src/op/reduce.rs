//! Reductions, scans and selections along axes.

use serde::{Deserialize, Serialize};

use super::check::{NUMBER, axis, typed};
use super::{InferError, InputTypes, Semantics, TensorType};
use crate::dim::Dim;
use crate::dtype::DType;

/// What a [`Reduce`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ReduceKind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
    L1,
    L2,
    LogSum,
    LogSumExp,
    SumSquare,
}

/// Reduction over axes. Floats accumulate in f64, integers exactly; the result is rounded, wrapped (integers) or truncated (the mean
/// and the roots and logarithms of integers) to the input's type. NaN anywhere gives NaN. Of no elements: the operation's neutral element (for
/// Max the lowest value), for the mean NaN. Max of bool is "or", Min "and".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reduce {
    /// What is computed.
    pub kind: ReduceKind,
    /// The axes reduced, sorted, without repeats. Empty: no axis (a reduction of each element by itself).
    pub axes: Vec<usize>,
    /// Whether reduced axes stay, with extent 1.
    pub keep_dims: bool,
}

/// Index of the largest (or smallest) element along an axis, as i64. The first NaN counts as the extreme.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArgReduce {
    /// Largest rather than smallest.
    pub max: bool,
    /// The axis.
    pub axis: usize,
    /// Whether the axis stays, with extent 1.
    pub keep_dims: bool,
    /// Among equal elements, the last rather than the first.
    pub select_last: bool,
}

/// Running sum or product along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cumulative {
    /// Product rather than sum.
    pub product: bool,
    /// The axis.
    pub axis: usize,
    /// Element i excludes input i.
    pub exclusive: bool,
    /// From the end.
    pub reverse: bool,
}

/// The k largest (or smallest) elements along an axis: outputs (values, indices: i64). Ties: the lower index first.
/// NaN counts as larger than every number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopK {
    /// How many.
    pub k: Dim,
    /// The axis.
    pub axis: usize,
    /// Largest rather than smallest.
    pub largest: bool,
}

/// The shape without an axis, or with it at extent 1.
fn without(shape: &[Dim], axes: &[usize], keep_dims: bool) -> Vec<Dim> {
    let kept = |i: &usize| !axes.contains(i);
    (0..shape.len()).filter(|i| keep_dims || kept(i)).map(|i| if kept(&i) { shape[i].clone() } else { 1.into() }).collect()
}

impl Semantics for Reduce {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = match self.kind {
            ReduceKind::Max | ReduceKind::Min => {
                typed(inputs, 0, |d| d.is_number() || d == DType::Bool, "bool, an integer or a float of 16 bits or more")?
            }
            _ => typed(inputs, 0, DType::is_number, NUMBER)?,
        };
        if !self.axes.is_sorted_by(|a, b| a < b) {
            return Err(InferError::Attribute { name: "axes", reason: format!("{:?} is not sorted or has repeats", self.axes) });
        }
        if let Some(&last) = self.axes.last() {
            axis(last, x.rank())?;
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: without(&x.shape, &self.axes, self.keep_dims) }])
    }
}

impl Semantics for ArgReduce {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = typed(inputs, 0, DType::is_number, NUMBER)?;
        axis(self.axis, x.rank())?;
        if x.shape[self.axis].as_const() == Some(0) {
            return Err(InferError::Shape(format!("axis {} of {x} has no element to choose", self.axis)));
        }
        Ok(vec![TensorType { dtype: DType::I64, shape: without(&x.shape, &[self.axis], self.keep_dims) }])
    }
}

impl Semantics for Cumulative {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = typed(inputs, 0, DType::is_number, NUMBER)?;
        axis(self.axis, x.rank())?;
        Ok(vec![x.clone()])
    }
}

impl Semantics for TopK {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = typed(inputs, 0, DType::is_number, NUMBER)?;
        axis(self.axis, x.rank())?;
        let extent = &x.shape[self.axis];
        let missing = (self.k.clone() - extent.clone()).as_const().is_some_and(|d| d > 0);
        if missing || self.k.as_const().is_some_and(|k| k < 0) {
            let reason = format!("{} elements asked for of an axis of {extent}", self.k);
            return Err(InferError::Attribute { name: "k", reason });
        }
        let mut shape = x.shape.clone();
        shape[self.axis] = self.k.clone();
        Ok(vec![TensorType { dtype: x.dtype, shape: shape.clone() }, TensorType { dtype: DType::I64, shape }])
    }

    fn map_dims(&mut self, map: &mut dyn FnMut(&Dim) -> Dim) {
        self.k = map(&self.k);
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::infer;
    use super::*;

    #[test]
    fn infers_types() {
        let reduce = |kind, axes: &[usize], keep_dims| Reduce { kind, axes: axes.to_vec(), keep_dims }.into();
        let arg = |axis, keep_dims| ArgReduce { max: true, axis, keep_dims, select_last: false }.into();
        let top = |k: &str| TopK { k: k.parse().unwrap(), axis: 1, largest: true }.into();
        for (op, inputs, want) in [
            (reduce(ReduceKind::Mean, &[1, 2], false), "f16[batch, seq, 4]", "f16[batch]"),
            (reduce(ReduceKind::Mean, &[1], true), "f32[batch, seq, 4]", "f32[batch, 1, 4]"),
            (reduce(ReduceKind::SumSquare, &[], false), "i8[n]", "i8[n]"),
            (reduce(ReduceKind::Max, &[0], false), "bool[n]", "bool[]"),
            (reduce(ReduceKind::Sum, &[0], false), "bool[n]", "input 0 is bool"),
            (reduce(ReduceKind::Sum, &[2], false), "f32[n, 2]", "2 is not an axis of a tensor of rank 2"),
            (reduce(ReduceKind::Sum, &[1, 0], false), "f32[n, 2]", "not sorted"),
            (arg(1, true), "f32[n, m]", "i64[n, 1]"),
            (arg(0, false), "u8[n, m]", "i64[m]"),
            (arg(0, false), "u8[0, m]", "has no element to choose"),
            (Cumulative { product: false, axis: 0, exclusive: true, reverse: false }.into(), "i32[n]", "i32[n]"),
            (Cumulative { product: false, axis: 1, exclusive: true, reverse: false }.into(), "i32[n]", "attribute axis"),
            (top("3"), "f32[n, 7]", "f32[n, 3] i64[n, 3]"),
            (top("k"), "f32[n, m]", "f32[n, k] i64[n, k]"),
            (top("8"), "f32[n, 7]", "8 elements asked for of an axis of 7"),
            (top("m+1"), "f32[n, m]", "attribute k"),
        ] {
            infer(&op, inputs, want);
        }
        let mut op = TopK { k: "k".parse().unwrap(), axis: 0, largest: true };
        op.map_dims(&mut |_| 2.into());
        assert_eq!(op.k, 2.into());
    }
}
