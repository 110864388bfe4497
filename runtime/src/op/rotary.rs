//! Rotary position embedding: pairs of each head's elements are turned by angles that grow with the token's position.

use serde::{Deserialize, Serialize};

use super::check::{NARROW_REAL, attribute, may_equal, typed};
use super::{InferError, InputTypes, Semantics, TensorType};
use crate::dim::Dim;
use crate::dtype::DType;

/// Inputs (x: [batch, tokens, heads·D] or [batch, heads, tokens, D], cos, sin: [batch or 1, tokens, rotated / 2]): of the first `rotated`
/// elements of each head the pair (a, b) number i becomes `(a·cos[i] − b·sin[i], b·cos[i] + a·sin[i])`; the rest stays. The pairs are
/// elements i and i + rotated / 2, or 2·i and 2·i + 1. Source: RoFormer, arXiv 2104.09864; ONNX RotaryEmbedding-23.
///
/// x is f16, bf16 or f32; cos and sin are both of its type, or both f32. Products and sums are rounded to f32 each, the result to x's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotary {
    /// Number of heads.
    pub heads: usize,
    /// So many elements of each head are turned: an even number.
    pub rotated: usize,
    /// Whether the elements of a pair are neighbours.
    pub interleaved: bool,
}

impl Rotary {
    /// Tokens and a head's elements of `x`, when it has the rank.
    pub fn tokens_and_depth(&self, x: &TensorType) -> Option<(Dim, Dim)> {
        match x.shape.as_slice() {
            [_, tokens, width] => Some((tokens.clone(), width.exact_div(&self.heads.into())?)),
            [_, _, tokens, depth] => Some((tokens.clone(), depth.clone())),
            _ => None,
        }
    }
}

impl Semantics for Rotary {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(3)?;
        let x = typed(inputs, 0, DType::computes_in_f32, NARROW_REAL)?;
        let cos = typed(inputs, 1, |d| d == x.dtype || d == DType::F32, "f32 or the type of input 0")?;
        let sin = typed(inputs, 2, |d| d == cos.dtype, "the type of input 1")?;
        if !matches!(x.rank(), 3 | 4) {
            return Err(InferError::Shape(format!("{x} has not 3 or 4 axes")));
        }
        if self.heads == 0 || x.rank() == 4 && !may_equal(&x.shape[1], &self.heads.into()) {
            return Err(attribute("heads", format!("{x} does not have {} heads", self.heads)));
        }
        let Some((tokens, depth)) = self.tokens_and_depth(x) else {
            return Err(attribute("heads", format!("{} heads do not part {x}", self.heads)));
        };
        let fits = depth.as_const().is_none_or(|d| usize::try_from(d).is_ok_and(|d| self.rotated <= d));
        if self.rotated == 0 || !self.rotated.is_multiple_of(2) || !fits {
            return Err(attribute(
                "rotated",
                format!("{} of the {depth} elements of a head cannot be turned in pairs", self.rotated),
            ));
        }
        let pairs = Dim::from(self.rotated / 2);
        for table in [cos, sin] {
            let [batch, positions, angles] = table.shape.as_slice() else {
                return Err(InferError::Shape(format!("{table} is not [batch, tokens, {pairs}]")));
            };
            if !(batch.is_one() || may_equal(batch, &x.shape[0])) || !may_equal(positions, &tokens) || !may_equal(angles, &pairs)
            {
                return Err(InferError::Shape(format!("{table} is not [1 or {}, {tokens}, {pairs}]", x.shape[0])));
            }
        }
        Ok(vec![x.clone()])
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::infer;
    use super::*;

    #[test]
    fn types() {
        let rotary = |heads, rotated| Rotary { heads, rotated, interleaved: false }.into();
        for (op, inputs, want) in [
            (rotary(4, 16), "f32[b, s, 64] f32[b, s, 8] f32[b, s, 8]", "f32[b, s, 64]"),
            (rotary(4, 8), "bf16[b, 4, s, 16] f32[1, s, 4] f32[b, s, 4]", "bf16[b, 4, s, 16]"),
            (rotary(4, 8), "bf16[b, 4, s, 16] bf16[1, s, 4] bf16[1, s, 4]", "bf16[b, 4, s, 16]"),
            (rotary(4, 8), "bf16[b, 4, s, 16] bf16[1, s, 4] f32[1, s, 4]", "input 2 is f32"),
            (rotary(4, 8), "f32[b, 4, s, 16] bf16[1, s, 4] bf16[1, s, 4]", "input 1 is bf16"),
            (rotary(4, 8), "f64[b, 4, s, 16] f64[1, s, 4] f64[1, s, 4]", "input 0 is f64"),
            (rotary(4, 16), "f32[s, 64] f32[s, 8] f32[s, 8]", "not 3 or 4 axes"),
            (rotary(3, 16), "f32[b, s, 64] f32[b, s, 8] f32[b, s, 8]", "3 heads do not part"),
            (rotary(3, 16), "f32[b, 4, s, 16] f32[b, s, 8] f32[b, s, 8]", "does not have 3 heads"),
            (rotary(0, 16), "f32[b, s, 64] f32[b, s, 8] f32[b, s, 8]", "does not have 0 heads"),
            (rotary(4, 15), "f32[b, s, 64] f32[b, s, 7] f32[b, s, 7]", "15 of the 16 elements"),
            (rotary(4, 18), "f32[b, s, 64] f32[b, s, 9] f32[b, s, 9]", "18 of the 16 elements"),
            (rotary(4, 16), "f32[b, s, 64] f32[b, s, 16] f32[b, s, 16]", "is not [1 or b, s, 8]"),
            (rotary(4, 16), "f32[2, 3, 64] f32[3, 3, 8] f32[2, 3, 8]", "is not [1 or 2, 3, 8]"),
            (rotary(4, 16), "f32[2, 3, 64] f32[2, 4, 8] f32[2, 3, 8]", "is not [1 or 2, 3, 8]"),
            (rotary(4, 16), "f32[2, 3, 64] f32[3, 8] f32[3, 8]", "is not [batch, tokens, 8]"),
        ] {
            infer(&op, inputs, want);
        }
    }
}
