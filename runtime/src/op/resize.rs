//! Resampling.

use serde::{Deserialize, Serialize};

use super::check::{self, attribute};
use super::{InferError, InputTypes, Semantics, TensorType};
use crate::dim::Dim;

/// How a position of the result maps to one of the input (ONNX Resize `coordinate_transformation_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Coordinates {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
}

/// Interpolation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Interpolation {
    Nearest(NearestRounding),
    Linear,
    Cubic { a: f32, exclude_outside: bool },
}

/// Which neighbour `Nearest` takes (ONNX Resize `nearest_mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum NearestRounding {
    RoundPreferFloor,
    RoundPreferCeil,
    Floor,
    Ceil,
}

/// The input resampled to other extents; ONNX Resize.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resize {
    /// The result's extents, one per axis.
    pub shape: Vec<Dim>,
    /// Result extent over input extent per axis, where the model gives scales rather than sizes (it need not be the exact
    /// quotient).
    pub scales: Option<Vec<f32>>,
    /// Position mapping.
    pub coordinates: Coordinates,
    /// Interpolation.
    pub interpolation: Interpolation,
    /// Low-pass filter when shrinking.
    pub antialias: bool,
}

impl Semantics for Resize {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(1)?;
        let x = inputs.required(0)?;
        check::per_axis("shape", self.shape.len(), x.rank())?;
        check::not_negative("shape", &self.shape)?;
        match self.interpolation {
            Interpolation::Nearest(_) if self.antialias => {
                return Err(attribute("antialias", "only linear and cubic interpolation have one"));
            }
            Interpolation::Nearest(_) => {}
            Interpolation::Linear => check::dtype(0, x.dtype, x.dtype.is_float(), "a float type")?,
            Interpolation::Cubic { a, .. } => {
                check::dtype(0, x.dtype, x.dtype.is_float(), "a float type")?;
                if !a.is_finite() {
                    return Err(attribute("interpolation", format!("the cubic coefficient is {a}")));
                }
            }
        }
        if let Some(scales) = &self.scales {
            check::per_axis("scales", scales.len(), x.rank())?;
            if let Some(s) = scales.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
                return Err(attribute("scales", format!("{s} is not a positive number")));
            }
        }
        for (axis, (from, to)) in x.shape.iter().zip(&self.shape).enumerate() {
            let (Some(from), Some(to)) = (from.as_usize(), to.as_usize()) else { continue };
            if from == 0 && to != 0 {
                return Err(InferError::Shape(format!("axis {axis} of {x} has no element to make {to} of")));
            }
            // The extent that a scale gives, rounded either way. This also bounds the support of the low-pass filter.
            if let Some(scales) = &self.scales {
                let exact = from as f64 * f64::from(scales[axis]);
                if (exact - to as f64).abs() > 1.0 || (to > 0 && exact < 0.5) {
                    return Err(attribute("scales", format!("{} does not take axis {axis} of {x} to {to}", scales[axis])));
                }
            }
        }
        Ok(vec![TensorType { dtype: x.dtype, shape: self.shape.clone() }])
    }

    fn map_dims(&mut self, map: &mut dyn FnMut(&Dim) -> Dim) {
        self.shape.iter_mut().for_each(|d| *d = map(d));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Op;
    use super::super::check::tests::infer;
    use super::*;

    fn resize(shape: &str, scales: Option<&[f32]>, interpolation: Interpolation, antialias: bool) -> Op {
        Resize {
            shape: shape.split(", ").map(|d| d.parse().unwrap()).collect(),
            scales: scales.map(<[f32]>::to_vec),
            coordinates: Coordinates::HalfPixel,
            interpolation,
            antialias,
        }
        .into()
    }

    #[test]
    fn types() {
        let nearest = Interpolation::Nearest(NearestRounding::Floor);
        infer(&resize("1, c, 2*h", None, nearest, false), "u8[1, c, h]", "u8[1, c, 2*h]");
        infer(&resize("2", Some(&[0.6]), Interpolation::Linear, true), "f16[4]", "f16[2]");
    }

    #[test]
    fn refusals() {
        let (linear, nearest) = (Interpolation::Linear, Interpolation::Nearest(NearestRounding::Floor));
        let x = "f32[4]";
        for (op, inputs, want) in [
            (resize("2, 2", None, linear, false), x, "2 entries for 1 axes"),
            (resize("-2", None, linear, false), x, "negative"),
            (resize("2", None, nearest, true), x, "antialias"),
            (resize("2", None, linear, false), "u8[4]", "float"),
            (resize("2", None, Interpolation::Cubic { a: f32::NAN, exclude_outside: false }, false), x, "NaN"),
            (resize("2", Some(&[0.0]), linear, false), x, "positive"),
            (resize("2", Some(&[f32::INFINITY]), linear, false), x, "positive"),
            (resize("2", Some(&[2.0]), linear, false), x, "to 2"),
            (resize("1", Some(&[1e-30]), linear, true), x, "to 1"),
            (resize("2", None, linear, false), "f32[0]", "no element"),
        ] {
            infer(&op, inputs, want);
        }
    }
}
