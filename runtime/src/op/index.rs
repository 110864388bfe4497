//! Operators that read or write at positions given by an integer tensor. Indices may be negative (from the end); one out of
//! range is an error at run time, never a wrong value.

use serde::{Deserialize, Serialize};

use super::check::{self, attribute};
use super::{InferError, InputTypes, Semantics, TensorType};
use crate::dim::Dim;
use crate::dtype::DType;

/// Inputs (data, indices): slices of `data` along an axis; ONNX Gather.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gather {
    /// The axis.
    pub axis: usize,
}

/// Inputs (data, indices): ONNX GatherElements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatherElements {
    /// The axis.
    pub axis: usize,
}

/// Inputs (data, indices): ONNX GatherND.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatherNd {
    /// Leading axes shared by data and indices.
    pub batch_dims: usize,
}

/// How a scatter combines an update with what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Scatter {
    Replace,
    Add,
    Mul,
    Max,
    Min,
}

/// Inputs (data, indices, updates): ONNX ScatterElements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScatterElements {
    /// The axis.
    pub axis: usize,
    /// How updates combine.
    pub reduction: Scatter,
}

/// Inputs (data, indices, updates): ONNX ScatterND.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScatterNd {
    /// How updates combine.
    pub reduction: Scatter,
}

/// Inputs (indices, values: [off, on]): a new axis of `depth` elements, `on` at the index and `off` elsewhere; an index out of
/// range gives `off` everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneHot {
    /// Position of the new axis.
    pub axis: usize,
    /// Its extent.
    pub depth: Dim,
}

impl Semantics for Gather {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(2)?;
        let (data, indices) = (inputs.required(0)?, inputs.required(1)?);
        check::named_axis("axis", self.axis, data.rank())?;
        check::indices(1, indices)?;
        let mut shape = data.shape.clone();
        shape.splice(self.axis..=self.axis, indices.shape.iter().cloned());
        Ok(vec![TensorType { dtype: data.dtype, shape }])
    }
}

/// Checks that `indices` has the rank of `data` and no more elements along the axes other than `axis`.
fn elements_within(data: &TensorType, indices: &TensorType, axis: usize) -> Result<(), InferError> {
    check::named_axis("axis", axis, data.rank())?;
    check::indices(1, indices)?;
    let fits = |(i, (n, d)): (usize, (&Dim, &Dim))| i == axis || check::may_fit(n, d);
    if indices.rank() != data.rank() || !indices.shape.iter().zip(&data.shape).enumerate().all(fits) {
        return Err(InferError::Shape(format!("indices {indices} do not fit within {data} beside axis {axis}")));
    }
    Ok(())
}

impl Semantics for GatherElements {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(2)?;
        let (data, indices) = (inputs.required(0)?, inputs.required(1)?);
        elements_within(data, indices, self.axis)?;
        Ok(vec![TensorType { dtype: data.dtype, shape: indices.shape.clone() }])
    }
}

/// The leading axes of `indices` and the trailing axes of `data` that positions of GatherND and ScatterND address.
fn addressed(data: &TensorType, indices: &TensorType, batch_dims: usize) -> Result<Vec<Dim>, InferError> {
    check::indices(1, indices)?;
    let Some((coordinates, leading)) = indices.shape.split_last() else {
        return Err(InferError::Shape("the indices have no axis of coordinates".to_owned()));
    };
    if batch_dims > leading.len() || batch_dims >= data.rank() {
        return Err(attribute("batch_dims", format!("{batch_dims} for {data} and {indices}")));
    }
    for (a, b) in leading[..batch_dims].iter().zip(&data.shape) {
        check::same_extent(a, b, || format!("{data} and {indices} differ in their first {batch_dims} axes"))?;
    }
    let addressable = data.rank() - batch_dims;
    let count = coordinates.as_usize().filter(|k| (1..=addressable).contains(k)).ok_or_else(|| {
        InferError::Shape(format!("the last axis of {indices} must be a number of coordinates from 1 to {addressable}"))
    })?;
    Ok(leading.iter().chain(&data.shape[batch_dims + count..]).cloned().collect())
}

impl Semantics for GatherNd {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(2)?;
        let (data, indices) = (inputs.required(0)?, inputs.required(1)?);
        Ok(vec![TensorType { dtype: data.dtype, shape: addressed(data, indices, self.batch_dims)? }])
    }
}

/// Checks the updates of a scatter.
fn updates_fit(data: &TensorType, updates: &TensorType, shape: &[Dim], reduction: Scatter) -> Result<(), InferError> {
    check::dtype(2, updates.dtype, updates.dtype == data.dtype, "the type of input 0")?;
    check::dtype(0, data.dtype, reduction == Scatter::Replace || data.dtype != DType::Bool, "a number to combine with")?;
    if updates.rank() != shape.len() || !updates.shape.iter().zip(shape).all(|(a, b)| check::may_equal(a, b)) {
        return Err(InferError::Shape(format!("updates are {updates}, the indices need {shape:?}")));
    }
    Ok(())
}

impl Semantics for ScatterElements {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(3)?;
        let (data, indices, updates) = (inputs.required(0)?, inputs.required(1)?, inputs.required(2)?);
        elements_within(data, indices, self.axis)?;
        updates_fit(data, updates, &indices.shape, self.reduction)?;
        Ok(vec![data.clone()])
    }
}

impl Semantics for ScatterNd {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(3)?;
        let (data, indices, updates) = (inputs.required(0)?, inputs.required(1)?, inputs.required(2)?);
        updates_fit(data, updates, &addressed(data, indices, 0)?, self.reduction)?;
        Ok(vec![data.clone()])
    }
}

impl Semantics for OneHot {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(2)?;
        let (indices, values) = (inputs.required(0)?, inputs.required(1)?);
        check::dtype(0, indices.dtype, indices.dtype != DType::Bool, "a number")?;
        check::named_axis("axis", self.axis, indices.rank() + 1)?;
        check::not_negative("depth", [&self.depth])?;
        if values.rank() != 1 || !check::may_equal(&values.shape[0], &2.into()) {
            return Err(InferError::Shape(format!("input 1 is {values}, two values are needed: off and on")));
        }
        let mut shape = indices.shape.clone();
        shape.insert(self.axis, self.depth.clone());
        Ok(vec![TensorType { dtype: values.dtype, shape }])
    }

    fn map_dims(&mut self, map: &mut dyn FnMut(&Dim) -> Dim) {
        self.depth = map(&self.depth);
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::infer;
    use super::*;

    #[test]
    fn types() {
        let i = |op: super::super::Op, inputs: &str, want: &str| infer(&op, inputs, want);
        let nd = |b| GatherNd { batch_dims: b }.into();
        i(Gather { axis: 0 }.into(), "f32[30522, 384] i64[batch, seq]", "f32[batch, seq, 384]");
        i(Gather { axis: 1 }.into(), "u8[2, 3, 4] i32[]", "u8[2, 4]");
        i(GatherElements { axis: 1 }.into(), "f32[b, 3] i64[b, s]", "f32[b, s]");
        i(nd(0), "f32[2, 2] i64[5, 2]", "f32[5]");
        i(nd(0), "f32[2, 2, 7] i64[n, 1]", "f32[n, 2, 7]");
        i(nd(1), "f32[2, 3, 4] i64[2, 5, 1]", "f32[2, 5, 4]");
        let scatter = ScatterElements { axis: 0, reduction: Scatter::Add };
        i(scatter.into(), "f32[b, 3] i64[9, 2] f32[9, 2]", "f32[b, 3]");
        let scatter = ScatterNd { reduction: Scatter::Max };
        i(scatter.into(), "i32[4, 5] i64[n, 1] i32[n, 5]", "i32[4, 5]");
        let hot = |axis| OneHot { axis, depth: "h".parse().unwrap() }.into();
        i(hot(1), "f32[2, 3] u8[2]", "u8[2, h, 3]");
        i(hot(0), "i64[] f64[2]", "f64[h]");
    }

    #[test]
    fn refusals() {
        let scatter = |axis, reduction| ScatterElements { axis, reduction }.into();
        let scatter_nd = || ScatterNd { reduction: Scatter::Add }.into();
        let hot = |axis, depth: i64| OneHot { axis, depth: depth.into() }.into();
        let nd = |b| GatherNd { batch_dims: b }.into();
        for (op, inputs, want) in [
            (Gather { axis: 2 }.into(), "f32[2, 3] i64[1]", "axis 2"),
            (Gather { axis: usize::MAX }.into(), "f32[] i64[1]", "axis"),
            (Gather { axis: 0 }.into(), "f32[2, 3] f32[1]", "i32 or i64"),
            (Gather { axis: 0 }.into(), "f32[2, 3]", "input 1 is missing"),
            (GatherElements { axis: 0 }.into(), "f32[2, 3] i64[2, 4]", "do not fit"),
            (GatherElements { axis: 0 }.into(), "f32[2, 3] i64[2]", "do not fit"),
            (nd(0), "f32[2, 2] i64[5, 3]", "from 1 to 2"),
            (nd(0), "f32[2, 2] i64[5, n]", "from 1 to 2"),
            (nd(0), "f32[2, 2] i64[5, 0]", "from 1 to 2"),
            (nd(usize::MAX), "f32[2, 2] i64[5, 1]", "batch_dims"),
            (nd(1), "f32[2, 2] i64[5, 1]", "differ"),
            (nd(0), "f32[2, 2] i64[]", "no axis"),
            (scatter(0, Scatter::Add), "f32[2, 3] i64[1, 3] f32[1, 2]", "updates"),
            (scatter(0, Scatter::Add), "bool[2, 3] i64[1, 3] bool[1, 3]", "a number"),
            (scatter(0, Scatter::Replace), "f32[2, 3] i64[1, 3] f64[1, 3]", "the type of input 0"),
            (scatter_nd(), "f32[4, 5] i64[2, 1] f32[2, 4]", "updates"),
            (hot(3, 1), "i64[2, 3] f32[2]", "axis 3"),
            (hot(0, -1), "i64[2, 3] f32[2]", "negative"),
            (hot(0, 1), "i64[2, 3] f32[3]", "off and on"),
            (hot(0, 1), "bool[2, 3] f32[2]", "a number"),
        ] {
            infer(&op, inputs, want);
        }
    }
}
