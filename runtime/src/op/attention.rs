//! Scaled dot-product attention of heads that lie side by side along the last axis, as projections leave them, or one after the other.

use serde::{Deserialize, Serialize};

use super::check::{NARROW_REAL, attribute, broadcasts_to, optional_typed, same_extent, typed};
use super::{InferError, InputTypes, Semantics, TensorType};
use crate::dim::Dim;
use crate::dtype::DType;

/// Inputs (query, key, value, mask?): per head `softmax(scale · query · keyᵀ + mask) · value`, [batch, tokens, heads·E].
///
/// The query is [batch, tokens, heads·D] or [batch, heads, tokens, D], key and value [batch, total, kv_heads·D] and … E or
/// [batch, kv_heads, total, D] and … E: each operand's rank says how its heads lie. Query head h meets head h / (heads / kv_heads) of keys
/// and values. All are of one type; f16 and bf16 compute in f32. The scores are never wholly in memory.
///
/// The mask broadcasts to [batch, heads, tokens, total]: numbers, f32 or of the query's type, are added to the scores; of a bool mask, keys with
/// false take no part. A query to which no key is left by `causal` and a bool mask, or for which there is none at all, gives zeros; one
/// whose scores are all −∞ gives NaN.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Attention {
    /// Number of heads of the query.
    pub heads: usize,
    /// Number of heads of key and value; divides `heads`.
    pub kv_heads: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Whether query i sees key j only where j ≤ i + (total − tokens): the last query sees all.
    pub causal: bool,
}

/// As plans hold it: those of before there were grouped heads say nothing of them.
#[derive(Deserialize)]
struct Written {
    heads: usize,
    kv_heads: Option<usize>,
    scale: f32,
    #[serde(default)]
    causal: bool,
}

impl From<Written> for Attention {
    fn from(Written { heads, kv_heads, scale, causal }: Written) -> Attention {
        Attention { heads, kv_heads: kv_heads.unwrap_or(heads), scale, causal }
    }
}

const MASK: &str = "bool, f32 or the query's type";

/// What the axes of a query, key or value are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadsOf {
    /// Independent attentions.
    pub batch: Dim,
    /// Tokens of the query, or keys.
    pub rows: Dim,
    /// All heads of a row together: heads · depth.
    pub width: Dim,
}

impl HeadsOf {
    /// The axes of an operand with that many heads.
    ///
    /// # Errors
    /// Neither rank 3 nor 4; heads that do not part its width, or another number of them.
    pub fn of(ty: &TensorType, heads: usize) -> Result<HeadsOf, InferError> {
        match ty.shape.as_slice() {
            [batch, rows, width] => {
                if width.as_const().is_some_and(|w| w % heads as i64 != 0) {
                    return Err(attribute("heads", format!("{heads} heads do not part a width of {width}")));
                }
                Ok(HeadsOf { batch: batch.clone(), rows: rows.clone(), width: width.clone() })
            }
            [batch, axis, rows, depth] => {
                same_extent(axis, &heads.into(), || format!("{ty}: axis 1 is of {heads} heads"))?;
                Ok(HeadsOf { batch: batch.clone(), rows: rows.clone(), width: depth.clone() * Dim::from(heads) })
            }
            _ => Err(InferError::Shape(format!("{ty}: query, key and value of rank 3 or 4 expected"))),
        }
    }
}

impl Attention {
    /// Query heads that share a head of keys and values.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

impl Semantics for Attention {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(4)?;
        let Attention { heads, kv_heads, .. } = *self;
        if heads == 0 || kv_heads == 0 || heads % kv_heads != 0 || i64::try_from(heads).is_err() {
            return Err(attribute("kv_heads", format!("{heads} heads are no multiple of {kv_heads}")));
        }
        let query = typed(inputs, 0, DType::computes_in_f32, NARROW_REAL)?;
        let same = |dtype| dtype == query.dtype;
        let (key, value) = (typed(inputs, 1, same, query.dtype.name())?, typed(inputs, 2, same, query.dtype.name())?);
        let mask = optional_typed(inputs, 3, |dtype| same(dtype) || matches!(dtype, DType::Bool | DType::F32), MASK)?;
        let (q, k, v) = (HeadsOf::of(query, heads)?, HeadsOf::of(key, kv_heads)?, HeadsOf::of(value, kv_heads)?);
        let group = Dim::from(self.group());
        let pairs = [(&q.batch, &k.batch), (&q.batch, &v.batch), (&k.rows, &v.rows), (&q.width, &(k.width * group.clone()))];
        for (a, b) in pairs {
            same_extent(a, b, || format!("{query}, {key}, {value}: the extents {a} and {b} differ"))?;
        }
        if let Some(mask) = mask {
            broadcasts_to("the mask", &mask.shape, &[q.batch.clone(), heads.into(), q.rows.clone(), k.rows])?;
        }
        Ok(vec![TensorType::new(query.dtype, [q.batch, q.rows, v.width * group])])
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::infer;
    use super::*;

    #[test]
    fn types() {
        let check = |heads, kv_heads, inputs, want| {
            infer(&Attention { heads, kv_heads, scale: 1.0, causal: true }.into(), inputs, want);
        };
        check(2, 2, "f32[3, 5, 8] f32[3, 7, 8] f32[3, 7, 6] f32[3, 1, 1, 7]", "f32[3, 5, 6]");
        check(6, 2, "f16[b, 6, s, 8] f16[b, t, 16] f16[b, 2, t, 4] bool[s, t]", "f16[b, s, 24]");
        check(6, 2, "f16[b, s, 48] f16[b, 2, t, 8] f16[b, t, w] f16[t]", "f16[b, s, 3*w]");
        for (heads, kv_heads, inputs, want) in [
            (3, 3, "f32[3, 5, 8] f32[3, 7, 8] f32[3, 7, 6]", "3 heads do not part a width of 8"),
            (0, 0, "f32[3, 5, 8] f32[3, 7, 8] f32[3, 7, 6]", "0 heads"),
            (4, 3, "f32[3, 5, 8] f32[3, 7, 6] f32[3, 7, 6]", "4 heads are no multiple of 3"),
            (2, 2, "f32[3, 5, 8] f32[3, 7, 4] f32[3, 7, 6]", "8 and 4 differ"),
            (4, 2, "f32[3, 5, 8] f32[3, 7, 8] f32[3, 7, 6]", "8 and 16 differ"),
            (4, 2, "f32[3, 4, 5, 8] f32[3, 4, 7, 8] f32[3, 2, 7, 8]", "axis 1 is of 2 heads"),
            (2, 2, "f32[3, 5, 8] f32[3, 7, 8] f32[3, 6, 6]", "7 and 6 differ"),
            (2, 2, "f32[3, 5, 8] f32[3, 7, 8] f32[3, 7, 6] f32[3, 1, 1, 6]", "does not broadcast"),
            (2, 2, "f16[3, 5, 8] f16[3, 7, 8] f16[3, 7, 6] i64[7]", "bool, f32 or the query's type"),
            (2, 2, "f32[5, 8] f32[7, 8] f32[7, 6]", "rank 3 or 4"),
        ] {
            check(heads, kv_heads, inputs, want);
        }
    }

    #[test]
    fn plans_without_grouped_heads_are_read() {
        let op = Attention { heads: 2, kv_heads: 2, scale: 0.5, causal: false };
        assert_eq!(serde_json::from_str::<Attention>(r#"{"heads": 2, "scale": 0.5}"#).unwrap(), op);
        assert_eq!(serde_json::from_str::<Attention>(&serde_json::to_string(&op).unwrap()).unwrap(), op);
    }
}
