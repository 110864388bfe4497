//! Convolution and pooling over [N, C, spatial…].

use serde::{Deserialize, Serialize};

use super::check::{self, attribute};
use super::{InferError, InputTypes, Semantics, TensorType};
use crate::dim::{Dim, DimOp};
use crate::dtype::DType;

/// Largest kernel extent, stride, dilation and padding: keeps products of two of them within 63 bits.
const LARGEST: usize = 1 << 31;

/// Where windows lie on the spatial axes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Extent of the window, one per spatial axis.
    pub kernel: Vec<usize>,
    /// Distance between windows.
    pub strides: Vec<usize>,
    /// Distance between elements of a window.
    pub dilations: Vec<usize>,
    /// Elements of padding before and after, one pair per spatial axis.
    pub pads: Vec<(usize, usize)>,
}

/// Inputs (x: [N, C, …], w: [O, C/groups, …], bias?: [O]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv {
    /// Where windows lie.
    pub windows: Windows,
    /// Groups of channels.
    pub groups: usize,
}

/// What a [`Pool`] computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum PoolKind {
    Max,
    /// `count_pads`: divide by the whole window rather than by the elements inside the input.
    Average {
        count_pads: bool,
    },
    /// The p-norm of each window.
    Lp {
        p: u32,
    },
}

/// Pooling of each channel. A window with no element inside the input gives the type's least value for `Max`, and 0 for the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// What is computed.
    pub kind: PoolKind,
    /// Where windows lie.
    pub windows: Windows,
    /// Round the number of windows up: the last may start inside the input and reach past the padding.
    pub ceil: bool,
}

impl Windows {
    /// Number of windows along each spatial axis of `x`: [N, C, spatial…].
    fn count(&self, x: &TensorType, ceil: bool) -> Result<Vec<Dim>, InferError> {
        check::rank_at_least(0, x, 3)?;
        let spatial = &x.shape[2..];
        for (name, values) in [("kernel", &self.kernel), ("strides", &self.strides), ("dilations", &self.dilations)] {
            check::per_axis(name, values.len(), spatial.len())?;
            if let Some(v) = values.iter().find(|v| !(1..=LARGEST).contains(v)) {
                return Err(attribute(name, format!("{v} is not between 1 and {LARGEST}")));
            }
        }
        check::per_axis("pads", self.pads.len(), spatial.len())?;
        let mut out = Vec::with_capacity(spatial.len());
        for (i, d) in spatial.iter().enumerate() {
            let (before, after) = self.pads[i];
            if before.max(after) > LARGEST {
                return Err(attribute("pads", format!("({before}, {after}) is above {LARGEST}")));
            }
            // All of these are at most 2^31, their products and sums at most 2^63 - 1.
            let [stride, reach] = [self.strides[i] as i64, self.dilations[i] as i64 * (self.kernel[i] as i64 - 1) + 1];
            let left = d.clone() + (before as i64).into();
            let room = left.clone() + (after as i64 - reach).into();
            if !check::may_fit(&0.into(), &room) {
                return Err(InferError::Shape(format!(
                    "a window of {reach} does not fit in axis {} of {x} with its padding",
                    i + 2
                )));
            }
            let count = if ceil {
                // The last window must start inside the input or the padding before it.
                Dim::op(DimOp::Min, &(room.ceil_div(stride) + 1.into()), &left.ceil_div(stride))
            } else {
                room.floor_div(&stride.into()) + 1.into()
            };
            out.push(count);
        }
        Ok(out)
    }
}

impl Semantics for Conv {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(3)?;
        let (x, w) = (inputs.required(0)?, inputs.required(1)?);
        check::dtype(0, x.dtype, x.dtype.is_float(), "a float type")?;
        check::dtype(1, w.dtype, w.dtype == x.dtype, "the type of input 0")?;
        let spatial = self.windows.count(x, false)?;
        if w.rank() != x.rank() {
            return Err(InferError::Shape(format!("weights are {w}, a rank of {} is needed", x.rank())));
        }
        for (d, &k) in w.shape[2..].iter().zip(&self.windows.kernel) {
            check::same_extent(d, &check::extent("kernel", k)?, || {
                format!("weights {w} for a kernel of {:?}", self.windows.kernel)
            })?;
        }
        if self.groups == 0 {
            return Err(attribute("groups", "there is none"));
        }
        let groups = check::extent("groups", self.groups)?;
        check::same_extent(&(w.shape[1].clone() * groups.clone()), &x.shape[1], || {
            format!("weights {w} in {groups} groups do not fit the channels of {x}")
        })?;
        if Dim::op(DimOp::Mod, &w.shape[0], &groups).as_const().is_some_and(|r| r != 0) {
            return Err(attribute("groups", format!("{groups} groups do not divide the {} channels of the result", w.shape[0])));
        }
        if let Some(bias) = inputs.optional(2) {
            check::dtype(2, bias.dtype, bias.dtype == x.dtype, "the type of input 0")?;
            if bias.rank() != 1 || !check::may_equal(&bias.shape[0], &w.shape[0]) {
                return Err(InferError::Shape(format!("the bias is {bias}, [{}] is needed", w.shape[0])));
            }
        }
        let shape = [x.shape[0].clone(), w.shape[0].clone()].into_iter().chain(spatial).collect();
        Ok(vec![TensorType { dtype: x.dtype, shape }])
    }
}

impl Semantics for Pool {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = inputs.required(0)?;
        match self.kind {
            PoolKind::Max => check::dtype(0, x.dtype, x.dtype != DType::Bool, "a number")?,
            PoolKind::Average { .. } => check::dtype(0, x.dtype, x.dtype.is_float(), "a float type")?,
            PoolKind::Lp { p } => {
                check::dtype(0, x.dtype, x.dtype.is_float(), "a float type")?;
                if p == 0 {
                    return Err(attribute("p", "there is no 0-norm"));
                }
            }
        }
        let spatial = self.windows.count(x, self.ceil)?;
        Ok(vec![TensorType { dtype: x.dtype, shape: x.shape[..2].iter().cloned().chain(spatial).collect() }])
    }
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::super::check::tests::infer;
    use super::*;

    fn windows(kernel: &[usize], stride: usize, dilation: usize, pad: usize) -> Windows {
        let n = kernel.len();
        Windows { kernel: kernel.to_vec(), strides: vec![stride; n], dilations: vec![dilation; n], pads: vec![(pad, pad); n] }
    }

    fn conv(windows: Windows, groups: usize) -> Op {
        Conv { windows, groups }.into()
    }

    fn pool(windows: Windows, ceil: bool) -> Op {
        Pool { kind: PoolKind::Max, windows, ceil }.into()
    }

    #[test]
    fn types() {
        let i = |op: Op, inputs: &str, want: &str| infer(&op, inputs, want);
        let patch = conv(windows(&[16, 16], 16, 1, 0), 1);
        i(patch, "f32[batch, 3, 224, 224] f32[384, 3, 16, 16] f32[384]", "f32[batch, 384, 14, 14]");
        let same = conv(windows(&[3, 3], 1, 1, 1), 2);
        i(same.clone(), "f16[1, 4, h, w] f16[6, 2, 3, 3]", "f16[1, 6, h, w]");
        i(conv(windows(&[2], 2, 3, 0), 1), "f64[1, 1, 9] f64[1, 1, 2]", "f64[1, 1, 3]");
        i(pool(windows(&[3, 3], 2, 1, 0), true), "i8[1, 1, 4, 4]", "i8[1, 1, 2, 2]");
        // A last window that would start in the padding after the input is dropped.
        i(pool(windows(&[1, 1], 2, 1, 0), true), "f32[1, 1, 2, 3]", "f32[1, 1, 1, 2]");
        i(pool(windows(&[3], 3, 1, 1), true), "f32[1, 1, 2]", "f32[1, 1, 1]");
        i(pool(windows(&[2], 2, 1, 0), false), "f32[1, 1, w]", "f32[1, 1, div(w-2,2)+1]");
    }

    #[test]
    fn refusals() {
        let w33 = || windows(&[3, 3], 1, 1, 0);
        for (op, inputs, want) in [
            (conv(w33(), 0), "f32[1, 4, 8, 8] f32[4, 4, 3, 3]", "groups"),
            (conv(w33(), usize::MAX), "f32[1, 4, 8, 8] f32[4, 4, 3, 3]", "too large"),
            (conv(w33(), 3), "f32[1, 4, 8, 8] f32[4, 4, 3, 3]", "3 groups"),
            (conv(w33(), 2), "f32[1, 4, 8, 8] f32[3, 2, 3, 3]", "do not divide"),
            (conv(w33(), 1), "f32[1, 4, 8, 8] f32[4, 4, 3, 2]", "kernel"),
            (conv(w33(), 1), "f32[1, 4, 8, 8] f32[4, 4, 3]", "rank"),
            (conv(w33(), 1), "f32[1, 4, 8, 8] f64[4, 4, 3, 3]", "type of input 0"),
            (conv(w33(), 1), "i8[1, 4, 8, 8] i8[4, 4, 3, 3]", "float"),
            (conv(w33(), 1), "f32[1, 4, 8, 8] f32[4, 4, 3, 3] f32[5]", "bias"),
            (conv(w33(), 1), "f32[1, 4] f32[4, 4]", "rank"),
            (conv(windows(&[3], 1, 1, 0), 1), "f32[1, 4, 8, 8] f32[4, 4, 3, 3]", "1 entries for 2 axes"),
            (pool(windows(&[0, 3], 1, 1, 0), false), "f32[1, 4, 8, 8]", "kernel"),
            (pool(windows(&[3, 3], 0, 1, 0), false), "f32[1, 4, 8, 8]", "strides"),
            (pool(windows(&[3, 3], 1, 0, 0), false), "f32[1, 4, 8, 8]", "dilations"),
            (pool(windows(&[9, 9], 1, 1, 0), false), "f32[1, 4, 8, 8]", "does not fit"),
            (pool(windows(&[usize::MAX, 3], 1, 1, 0), true), "f32[1, 4, 8, 8]", "kernel"),
            (pool(windows(&[LARGEST, LARGEST], LARGEST, LARGEST, LARGEST), true), "f32[1, 4, 8, 8]", "does not fit"),
            (pool(windows(&[3, 3], 1, 1, usize::MAX), true), "f32[1, 4, 8, 8]", "pads"),
            (Pool { kind: PoolKind::Lp { p: 0 }, windows: w33(), ceil: false }.into(), "f32[1, 4, 8, 8]", "0-norm"),
            (
                Pool { kind: PoolKind::Average { count_pads: true }, windows: w33(), ceil: false }.into(),
                "u8[1, 1, 9, 9]",
                "float",
            ),
        ] {
            infer(&op, inputs, want);
        }
    }
}
