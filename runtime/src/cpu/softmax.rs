//! Softmax of one row of f32, vectorised.
//!
//! Written out here since rten-vecmath's finds the largest element in a loop that is compiled without the vector instructions: on rows of
//! 128 it takes three times as long.

use rten_simd::ops::{BitOps, NumOps};
use rten_simd::{Isa, Simd, SimdOp, SimdUnaryOp};
use rten_vecmath::Exp;

/// What is added to a row before its softmax is taken.
#[derive(Clone, Copy)]
pub enum Mask<'a> {
    None,
    /// One number for the whole row.
    Uniform(f32),
    /// One number per element.
    PerElement(&'a [f32]),
}

/// `row ← softmax(row + mask)`.
pub fn softmax(row: &mut [f32], mask: Mask<'_>) {
    MaskedSoftmax { row, mask }.dispatch();
}

struct MaskedSoftmax<'a, 'm> {
    row: &'a mut [f32],
    mask: Mask<'m>,
}

impl SimdOp for MaskedSoftmax<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn eval<I: Isa>(self, isa: I) {
        let ops = isa.f32();
        let lanes = ops.len();
        let MaskedSoftmax { row, mask } = self;
        let (body, tail) = row.split_at_mut(row.len() / lanes * lanes);

        // Row plus mask and its largest element; NaN is found by the sum.
        let mut max = ops.splat(f32::MIN);
        let mut tail_max = f32::MIN;
        match mask {
            Mask::None => {
                for x in body.chunks_exact(lanes) {
                    max = ops.max(max, ops.load(x));
                }
            }
            Mask::Uniform(offset) => {
                let offsets = ops.splat(offset);
                for x in body.chunks_exact_mut(lanes) {
                    let v = ops.add(ops.load(x), offsets);
                    max = ops.max(max, v);
                    ops.store(v, x);
                }
                tail.iter_mut().for_each(|x| *x += offset);
            }
            Mask::PerElement(offsets) => {
                let (body_offsets, tail_offsets) = offsets.split_at(body.len());
                for (x, offset) in body.chunks_exact_mut(lanes).zip(body_offsets.chunks_exact(lanes)) {
                    let v = ops.add(ops.load(x), ops.load(offset));
                    max = ops.max(max, v);
                    ops.store(v, x);
                }
                tail.iter_mut().zip(tail_offsets).for_each(|(x, offset)| *x += offset);
            }
        }
        for &x in tail.iter() {
            tail_max = tail_max.max(x);
        }
        for x in max.to_array() {
            tail_max = tail_max.max(x);
        }
        let max = ops.splat(tail_max);

        let mut sum = ops.zero();
        for x in body.chunks_exact_mut(lanes) {
            let v = Exp::apply(isa, ops.sub(ops.load(x), max));
            sum = ops.add(sum, v);
            ops.store(v, x);
        }
        let mut total: f32 = sum.to_array().into_iter().sum();
        if !tail.is_empty() {
            let (x, _) = ops.load_pad(tail);
            let v = Exp::apply(isa, ops.sub(x, max));
            for (to, v) in tail.iter_mut().zip(v.to_array()) {
                *to = v;
                total += v;
            }
        }

        let factor = 1.0 / total;
        let factors = ops.splat(factor);
        for x in body.chunks_exact_mut(lanes) {
            ops.store(ops.mul(ops.load(x), factors), x);
        }
        tail.iter_mut().for_each(|x| *x *= factor);
    }
}
