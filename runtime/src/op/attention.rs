//! Scaled dot-product attention, heads interleaved along the last axis as projections leave them.

use serde::{Deserialize, Serialize};

use super::check::{broadcasts_to, may_equal, optional_typed, typed};
use super::{InferError, InputTypes, Semantics, TensorType};
use crate::dim::Dim;
use crate::dtype::DType;

/// Inputs (query: [batch, tokens, heads·D], key: [batch, total, heads·D], value: [batch, total, heads·E], mask?): per head,
/// `softmax(scale · query · keyᵀ + mask) · value`, [batch, tokens, heads·E]. The mask broadcasts to [batch, heads, tokens, total].
/// All are of one type; f16 and bf16 compute in f32. The scores are never wholly in memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attention {
    /// Number of heads.
    pub heads: usize,
    /// Factor of the scores.
    pub scale: f32,
}

const FLOAT: &str = "f16, bf16 or f32";

fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F16 | DType::Bf16 | DType::F32)
}

impl Semantics for Attention {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(4)?;
        let query = typed(inputs, 0, is_float, FLOAT)?;
        let same = |dtype| dtype == query.dtype;
        let (key, value) = (typed(inputs, 1, same, query.dtype.name())?, typed(inputs, 2, same, query.dtype.name())?);
        let mask = optional_typed(inputs, 3, same, query.dtype.name())?;
        let ([batch, tokens, width], [key_batch, total, key_width], [value_batch, value_total, value_width]) =
            (query.shape.as_slice(), key.shape.as_slice(), value.shape.as_slice())
        else {
            return Err(InferError::Shape(format!("{query}, {key}, {value}: query, key and value of rank 3 expected")));
        };
        let pairs = [(batch, key_batch), (batch, value_batch), (total, value_total), (width, key_width)];
        if let Some((a, b)) = pairs.into_iter().find(|(a, b)| !may_equal(a, b)) {
            return Err(InferError::Shape(format!("{query}, {key}, {value}: the extents {a} and {b} differ")));
        }
        let divides = |d: &Dim| d.as_const().is_none_or(|d| self.heads > 0 && d % self.heads as i64 == 0);
        if self.heads == 0 || !divides(width) || !divides(value_width) {
            let reason = format!("{} heads do not part widths of {width} and {value_width}", self.heads);
            return Err(InferError::Attribute { name: "heads", reason });
        }
        if let Some(mask) = mask {
            broadcasts_to("the mask", &mask.shape, &[batch.clone(), self.heads.into(), tokens.clone(), total.clone()])?;
        }
        Ok(vec![TensorType::new(query.dtype, [batch, tokens, value_width].map(Clone::clone))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        let ty = |shape: &[i64]| TensorType::new(DType::F32, shape.iter().copied());
        let check = |heads, q: &[i64], k: &[i64], v: &[i64], mask: Option<&[i64]>| {
            let (q, k, v, mask) = (ty(q), ty(k), ty(v), mask.map(ty));
            let inputs = [Some(&q), Some(&k), Some(&v), mask.as_ref()];
            match (Attention { heads, scale: 1.0 }.infer(InputTypes(&inputs))) {
                Ok(out) => out[0].to_string(),
                Err(e) => e.to_string(),
            }
        };
        assert_eq!(check(2, &[3, 5, 8], &[3, 7, 8], &[3, 7, 6], Some(&[3, 1, 1, 7])), "f32[3, 5, 6]");
        assert!(check(3, &[3, 5, 8], &[3, 7, 8], &[3, 7, 6], None).contains("3 heads do not part"));
        assert!(check(0, &[3, 5, 8], &[3, 7, 8], &[3, 7, 6], None).contains("0 heads"));
        assert!(check(2, &[3, 5, 8], &[3, 7, 4], &[3, 7, 6], None).contains("8 and 4 differ"));
        assert!(check(2, &[3, 5, 8], &[3, 7, 8], &[3, 6, 6], None).contains("7 and 6 differ"));
        assert!(check(2, &[3, 5, 8], &[3, 7, 8], &[3, 7, 6], Some(&[3, 1, 1, 6])).contains("does not broadcast"));
        assert!(check(2, &[5, 8], &[7, 8], &[7, 6], None).contains("rank 3"));
    }
}
