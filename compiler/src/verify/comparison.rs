//! How far one tensor is from another.

use serde::Serialize;
use sliderun::dtype::{Bool, DType, Element};
use sliderun::f8::{F8E4M3, F8E5M2};
use sliderun::tensor::TensorView;

/// How far a tensor is from its reference.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Largest |a − b|.
    pub max_abs: f64,
    /// ‖a − b‖₂ / ‖b‖₂; 0 when both are zero.
    pub rel: f64,
    /// a·b / (‖a‖₂ ‖b‖₂); 1 when both are zero.
    pub cosine: f64,
}

/// Tensors that cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its shape is {actual:?}, the reference's is {expected:?}")]
pub struct ShapeMismatch {
    actual: Vec<usize>,
    expected: Vec<usize>,
}

impl Comparison {
    /// Compares `actual` with the reference `expected`, element types converted to f64. Equal infinities and two NaNs at the same
    /// place count as equal; one that the other lacks makes every figure infinite or NaN.
    ///
    /// # Errors
    /// The shapes differ.
    pub fn new(actual: TensorView<'_>, expected: TensorView<'_>) -> Result<Comparison, ShapeMismatch> {
        if actual.shape != expected.shape {
            return Err(ShapeMismatch { actual: actual.shape.to_vec(), expected: expected.shape.to_vec() });
        }
        let (mut max_abs, mut diff, mut aa, mut bb, mut ab) = (0f64, 0f64, 0f64, 0f64, 0f64);
        for (a, b) in to_f64(actual).into_iter().zip(to_f64(expected)) {
            if a == b && a.is_infinite() || a.is_nan() && b.is_nan() {
                continue;
            }
            let d = (a - b).abs();
            // `max` would drop a NaN.
            max_abs = if d.is_nan() || d > max_abs { d } else { max_abs };
            diff += d * d;
            aa += a * a;
            bb += b * b;
            ab += a * b;
        }
        let rel = if diff == 0.0 { 0.0 } else { (diff / bb).sqrt() };
        let cosine = if aa == 0.0 && bb == 0.0 { 1.0 } else { ab / (aa.sqrt() * bb.sqrt()) };
        Ok(Comparison { max_abs, rel, cosine })
    }

    /// Whether the relative error is at most `limit`; NaN is not.
    pub fn within(&self, limit: f64) -> bool {
        self.rel <= limit
    }
}

/// The elements as f64, booleans as 0 and 1.
pub fn to_f64(t: TensorView<'_>) -> Vec<f64> {
    fn with<T: Element>(t: TensorView<'_>, f: impl Fn(T) -> f64) -> Vec<f64> {
        t.as_slice::<T>().map(|s| s.iter().map(|&x| f(x)).collect()).unwrap_or_default()
    }
    match t.dtype {
        DType::Bool => with(t, |x: Bool| f64::from(u8::from(bool::from(x)))),
        DType::I8 => with(t, |x: i8| x.into()),
        DType::I16 => with(t, |x: i16| x.into()),
        DType::I32 => with(t, |x: i32| x.into()),
        DType::I64 => with(t, |x: i64| x as f64),
        DType::U8 => with(t, |x: u8| x.into()),
        DType::U16 => with(t, |x: u16| x.into()),
        DType::U32 => with(t, |x: u32| x.into()),
        DType::U64 => with(t, |x: u64| x as f64),
        DType::F16 => with(t, |x: half::f16| x.into()),
        DType::Bf16 => with(t, |x: half::bf16| x.into()),
        DType::F32 => with(t, |x: f32| x.into()),
        DType::F64 => with(t, |x: f64| x),
        DType::F8e4m3 => with(t, |x: F8E4M3| x.to_f32().into()),
        DType::F8e5m2 => with(t, |x: F8E5M2| x.to_f32().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sliderun::tensor::Tensor;

    fn compare(a: &[f32], b: &[f32]) -> Comparison {
        let tensor = |x: &[f32]| Tensor::from_slice(&[x.len()], x).unwrap();
        Comparison::new(tensor(a).view(), tensor(b).view()).unwrap()
    }

    #[test]
    fn measures_what_it_says() {
        let c = compare(&[3.0, 4.0], &[0.0, 4.0]);
        assert_eq!((c.max_abs, c.rel, c.cosine), (3.0, 0.75, 0.8));
        let equal = compare(&[1.0, f32::INFINITY, f32::NAN], &[1.0, f32::INFINITY, f32::NAN]);
        assert_eq!((equal.max_abs, equal.rel, equal.cosine), (0.0, 0.0, 1.0));
        let zero = compare(&[0.0], &[0.0]);
        assert_eq!((zero.rel, zero.cosine), (0.0, 1.0));
    }

    #[test]
    fn what_is_not_a_number_is_never_within_a_limit() {
        for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN), (f32::INFINITY, 1.0), (1.0, 0.0)] {
            assert!(!compare(&[a], &[b]).within(1e6), "{a} for {b}");
        }
    }

    #[test]
    fn shapes_must_agree() {
        let (a, b) = (Tensor::zeros(DType::F32, &[2]).unwrap(), Tensor::zeros(DType::F32, &[2, 1]).unwrap());
        assert_eq!(Comparison::new(a.view(), b.view()).unwrap_err().to_string(), "its shape is [2], the reference's is [2, 1]");
    }
}
