//! Operators that move elements without computing on them.

use serde::{Deserialize, Serialize};

use super::check::{self, attribute};
use super::{InferError, InputTypes, Semantics, TensorType, broadcast};
use crate::dim::Dim;
use crate::dtype::DType;

/// Most elements that a [`Pad`] may add or cut at one end of an axis: keeps its arithmetic far from overflow.
const LARGEST_PAD: u64 = 1 << 48;

/// The input unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {}

/// The same elements, row-major, under another shape. Squeeze, Unsqueeze and Flatten are this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reshape {
    /// The result's extents, all resolved (no 0 or -1).
    pub shape: Vec<Dim>,
}

/// Axis i of the result is axis `perm[i]` of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transpose {
    /// A permutation of the axes.
    pub perm: Vec<usize>,
}

/// The input broadcast with a shape, as ONNX Expand (both ways: an extent of 1 in `shape` keeps the input's).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expand {
    /// The shape to broadcast with.
    pub shape: Vec<Dim>,
}

/// Inputs, one or more, joined along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concat {
    /// The axis.
    pub axis: usize,
}

/// The input cut into consecutive parts along an axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The axis.
    pub axis: usize,
    /// Extent of each part; they add up to the axis.
    pub sizes: Vec<Dim>,
}

/// What a [`Slice`] takes of one axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceAxis {
    /// The axis.
    pub axis: usize,
    /// First element taken; within the axis when `len` is not 0.
    pub start: Dim,
    /// Elements taken.
    pub len: Dim,
    /// Distance between elements taken; negative walks backwards; never 0.
    pub step: i64,
}

/// Strided part of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// One entry per axis that is cut, sorted by axis.
    pub axes: Vec<SliceAxis>,
}

/// How a [`Pad`] fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PadMode {
    /// With the second input, a scalar of the same type; 0 without it.
    Constant,
    /// Mirrored about the edge element.
    Reflect,
    /// With the edge element.
    Edge,
    /// Periodically.
    Wrap,
}

/// The input extended (or, with negative pads, cut) at both ends of each axis. Inputs (x, value?).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pad {
    /// How to fill.
    pub mode: PadMode,
    /// Elements added before and after, one pair per axis.
    pub pads: Vec<(i64, i64)>,
}

/// The input repeated along each axis.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tile {
    /// Repeats, one per axis.
    pub repeats: Vec<Dim>,
}

/// [N, C, H, W] to [N, C/b², H·b, W·b].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DepthToSpace {
    /// The block size b.
    pub block: usize,
    /// Column-row-depth order instead of depth-column-row.
    pub crd: bool,
}

/// [N, C, H, W] to [N, C·b², H/b, W/b].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceToDepth {
    /// The block size b.
    pub block: usize,
}

/// The upper or lower triangle of each matrix of the last two axes; zeros elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trilu {
    /// Upper rather than lower.
    pub upper: bool,
    /// Diagonal: 0 the main one, positive above it.
    pub k: i64,
}

/// The first `lengths[b]` elements along the time axis reversed, for each b. Inputs (x, lengths: i64).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReverseSequence {
    /// Axis of time, 0 or 1.
    pub time_axis: usize,
    /// Axis of batch, 1 or 0.
    pub batch_axis: usize,
}

impl Semantics for Identity {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        Ok(vec![inputs.required(0)?.clone()])
    }
}

impl Semantics for Reshape {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = inputs.required(0)?;
        check::not_negative("shape", &self.shape)?;
        let out = TensorType { dtype: x.dtype, shape: self.shape.clone() };
        check::same_extent(&x.elements(), &out.elements(), || {
            format!("{x} has {} elements, {out} has {}", x.elements(), out.elements())
        })?;
        Ok(vec![out])
    }

    fn map_dims(&mut self, map: &mut dyn FnMut(&Dim) -> Dim) {
        self.shape.iter_mut().for_each(|d| *d = map(d));
    }
}

impl Semantics for Transpose {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = inputs.required(0)?;
        check::per_axis("perm", self.perm.len(), x.rank())?;
        let mut seen = vec![false; x.rank()];
        for &axis in &self.perm {
            check::named_axis("perm", axis, x.rank())?;
            if std::mem::replace(&mut seen[axis], true) {
                return Err(attribute("perm", format!("{:?} names axis {axis} twice", self.perm)));
            }
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: self.perm.iter().map(|&a| x.shape[a].clone()).collect() }])
    }
}

impl Semantics for Expand {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = inputs.required(0)?;
        check::not_negative("shape", &self.shape)?;
        Ok(vec![TensorType { dtype: x.dtype, shape: broadcast(&[&x.shape, &self.shape])? }])
    }

    fn map_dims(&mut self, map: &mut dyn FnMut(&Dim) -> Dim) {
        self.shape.iter_mut().for_each(|d| *d = map(d));
    }
}

impl Semantics for Concat {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        let xs = inputs.variadic()?;
        let mut out = xs[0].clone();
        check::named_axis("axis", self.axis, out.rank())?;
        for (i, x) in xs.iter().enumerate().skip(1) {
            check::dtype(i, x.dtype, x.dtype == out.dtype, "the type of input 0")?;
            let mismatch = || format!("input {i} is {x}, which does not join with {} along axis {}", xs[0], self.axis);
            if x.rank() != out.rank() {
                return Err(InferError::Shape(mismatch()));
            }
            for (axis, (o, d)) in out.shape.iter_mut().zip(&x.shape).enumerate() {
                if axis == self.axis {
                    *o = o.clone() + d.clone();
                } else {
                    check::same_extent(o, d, mismatch)?;
                    *o = check::known(o, d);
                }
            }
        }
        Ok(vec![out])
    }
}

impl Semantics for Split {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = inputs.required(0)?;
        check::named_axis("axis", self.axis, x.rank())?;
        if self.sizes.is_empty() {
            return Err(attribute("sizes", "there is no part"));
        }
        check::not_negative("sizes", &self.sizes)?;
        let sum = self.sizes.iter().fold(Dim::from(0), |n, d| n + d.clone());
        check::same_extent(&sum, &x.shape[self.axis], || {
            format!("parts of {:?} add up to {sum}, axis {} of {x} has {}", self.sizes, self.axis, x.shape[self.axis])
        })?;
        let part = |size: &Dim| {
            let mut part = x.clone();
            part.shape[self.axis] = size.clone();
            part
        };
        Ok(self.sizes.iter().map(part).collect())
    }

    fn map_dims(&mut self, map: &mut dyn FnMut(&Dim) -> Dim) {
        self.sizes.iter_mut().for_each(|d| *d = map(d));
    }
}

impl Semantics for Slice {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = inputs.required(0)?;
        let mut out = x.clone();
        if self.axes.windows(2).any(|pair| pair[0].axis >= pair[1].axis) {
            return Err(attribute("axes", "they are not sorted, or one comes twice"));
        }
        for cut in &self.axes {
            check::named_axis("axes", cut.axis, x.rank())?;
            if cut.step == 0 {
                return Err(attribute("axes", format!("the step along axis {} is 0", cut.axis)));
            }
            check::not_negative("axes", [&cut.len])?;
            // How many elements there are decides whether the first and the last must lie within the axis.
            if cut.len.as_const().is_some_and(|n| n > 0) {
                let extent = &x.shape[cut.axis];
                let last = cut.start.clone() + (cut.len.clone() - 1.into()) * cut.step.into();
                for position in [&cut.start, &last] {
                    if !check::may_fit(&0.into(), position) || !check::may_fit(position, &(extent.clone() - 1.into())) {
                        return Err(InferError::Shape(format!(
                            "{} elements from {} by {} reach outside axis {} of {x}",
                            cut.len, cut.start, cut.step, cut.axis
                        )));
                    }
                }
            }
            out.shape[cut.axis] = cut.len.clone();
        }
        Ok(vec![out])
    }

    fn map_dims(&mut self, map: &mut dyn FnMut(&Dim) -> Dim) {
        for cut in &mut self.axes {
            cut.start = map(&cut.start);
            cut.len = map(&cut.len);
        }
    }
}

impl Semantics for Pad {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(2)?;
        let x = inputs.required(0)?;
        if let Some(value) = inputs.optional(1) {
            check::dtype(1, value.dtype, value.dtype == x.dtype, "the type of input 0")?;
            check::same_extent(&value.elements(), &1.into(), || format!("input 1 is {value}, one element is needed"))?;
        }
        check::per_axis("pads", self.pads.len(), x.rank())?;
        let mut out = x.clone();
        for (d, &(before, after)) in out.shape.iter_mut().zip(&self.pads) {
            if before.unsigned_abs().max(after.unsigned_abs()) > LARGEST_PAD {
                return Err(attribute("pads", format!("({before}, {after}) is too large")));
            }
            // What is left of the axis after the cuts is what Reflect, Edge and Wrap repeat.
            let kept = d.clone() + (before.min(0) + after.min(0)).into();
            *d = d.clone() + (before + after).into();
            let nothing_to_repeat = !check::may_fit(&1.into(), &kept) && d.as_const() != Some(0);
            if !check::may_fit(&0.into(), d) || (self.mode != PadMode::Constant && nothing_to_repeat) {
                return Err(attribute("pads", format!("{:?} of {x} leave nothing of an axis", self.pads)));
            }
        }
        Ok(vec![out])
    }
}

impl Semantics for Tile {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = inputs.required(0)?;
        check::per_axis("repeats", self.repeats.len(), x.rank())?;
        check::not_negative("repeats", &self.repeats)?;
        let shape = x.shape.iter().zip(&self.repeats).map(|(d, r)| d.clone() * r.clone()).collect();
        Ok(vec![TensorType { dtype: x.dtype, shape }])
    }

    fn map_dims(&mut self, map: &mut dyn FnMut(&Dim) -> Dim) {
        self.repeats.iter_mut().for_each(|d| *d = map(d));
    }
}

/// The block size and its square, of an input that must be [N, C, H, W].
fn block_of(x: &TensorType, block: usize) -> Result<(Dim, Dim), InferError> {
    if x.rank() != 4 {
        return Err(InferError::Shape(format!("input 0 is {x}, a rank of 4 is needed")));
    }
    if block == 0 {
        return Err(attribute("block", "it is 0"));
    }
    let square = block.checked_mul(block).ok_or_else(|| attribute("block", format!("{block} is too large")))?;
    Ok((check::extent("block", block)?, check::extent("block", square)?))
}

/// `d` divided by `by`, which must leave no remainder.
fn divided(x: &TensorType, axis: usize, by: &Dim) -> Result<Dim, InferError> {
    let d = &x.shape[axis];
    if Dim::op(crate::dim::DimOp::Mod, d, by).as_const().is_some_and(|r| r != 0) {
        return Err(InferError::Shape(format!("axis {axis} of {x} is not a multiple of {by}")));
    }
    Ok(d.floor_div(by))
}

impl Semantics for DepthToSpace {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = inputs.required(0)?;
        let (block, square) = block_of(x, self.block)?;
        let [n, h, w] = [0, 2, 3].map(|i| x.shape[i].clone());
        Ok(vec![TensorType::new(x.dtype, [n, divided(x, 1, &square)?, h * block.clone(), w * block])])
    }
}

impl Semantics for SpaceToDepth {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = inputs.required(0)?;
        let (block, square) = block_of(x, self.block)?;
        let [n, c] = [0, 1].map(|i| x.shape[i].clone());
        Ok(vec![TensorType::new(x.dtype, [n, c * square, divided(x, 2, &block)?, divided(x, 3, &block)?])])
    }
}

impl Semantics for Trilu {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = inputs.required(0)?;
        check::rank_at_least(0, x, 2)?;
        Ok(vec![x.clone()])
    }
}

impl Semantics for ReverseSequence {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(2)?;
        let (x, lengths) = (inputs.required(0)?, inputs.required(1)?);
        check::rank_at_least(0, x, 2)?;
        if !matches!((self.time_axis, self.batch_axis), (0, 1) | (1, 0)) {
            return Err(attribute("time_axis", "time and batch must be axes 0 and 1, in either order"));
        }
        check::dtype(1, lengths.dtype, lengths.dtype == DType::I64, "i64")?;
        let [length] = lengths.shape.as_slice() else {
            return Err(InferError::Shape(format!("input 1 is {lengths}, a rank of 1 is needed")));
        };
        check::same_extent(length, &x.shape[self.batch_axis], || {
            format!("{lengths} does not give one length for each of axis {} of {x}", self.batch_axis)
        })?;
        Ok(vec![x.clone()])
    }
}

#[cfg(test)]
mod tests;
