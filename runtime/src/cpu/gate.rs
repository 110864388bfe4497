//! The functions that models apply between products, vectorised: GELU, its approximation by tanh, SiLU and its like.
//!
//! `kernels/src/cuda/activation.cuh` does the same operations in the same order, about twenty for an element: fused multiply-adds, one
//! addition to an exponent, at most one division and no branch. Errors are below 2e-7 of the argument, and below 1e-15 far on the negative side.

use rten_simd::ops::{BitOps, FloatOps, IntOps, NumOps};
use rten_simd::{Isa, Simd, SimdUnaryOp};

/// 1.5 · 2²³: its unit in the last place is 1, so the addition rounds to an integer, which the low bits of the sum hold.
const ROUND: f32 = 12_582_912.0;

/// 2ᵏ · 2ᶠ for |f| ≤ ½, k = `z` - [`ROUND`] from -126 to 126: a minimax polynomial of relative error 9.2e-8.
#[inline(always)]
#[allow(clippy::approx_constant)] // a coefficient near ln 2, not that
fn power_of_two<I: Isa>(isa: I, z: I::F32, f: I::F32) -> I::F32 {
    let (ops, int) = (isa.f32(), isa.i32());
    let c = |v: f32| ops.splat(v);
    let y = ops.mul_add(c(1.326_472e-3), f, c(9.671_513e-3));
    let y = ops.mul_add(y, f, c(5.550_734e-2));
    let y = ops.mul_add(y, f, c(2.402_224_2e-1));
    let y = ops.mul_add(y, f, c(6.931_47e-1));
    let y = ops.mul_add(y, f, c(1.0));
    let (bits, exponent): (I::I32, I::I32) = (y.reinterpret_cast(), z.reinterpret_cast());
    int.add(bits, int.shift_left::<23>(exponent)).reinterpret_cast()
}

/// x · (1 / (1 + e)) for e ≥ 0.
#[inline(always)]
fn over_one_plus<I: Isa>(isa: I, x: I::F32, e: I::F32) -> I::F32 {
    let ops = isa.f32();
    ops.mul(x, ops.div(ops.one(), ops.add(ops.one(), e)))
}

/// `x · Φ(x)`, as max(x, 0) - |x| · Φ(-|x|): the logarithm of Φ(-t) to base 2 is nearly a polynomial.
pub struct Gelu {}

impl SimdUnaryOp<f32> for Gelu {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        let ops = isa.f32();
        let c = |v: f32| ops.splat(v);
        let t = ops.abs(x);
        // So that NaN stays.
        let t = ops.select(c(10.0), t, ops.gt(t, c(10.0)));
        let p = ops.mul_add(c(6.467_461_3e-6), t, c(-3.618_568_7e-5));
        let p = ops.mul_add(p, t, c(-4.794_575e-4));
        let p = ops.mul_add(p, t, c(7.477_530_3e-3));
        let p = ops.mul_add(p, t, c(-5.275_292e-2));
        let p = ops.mul_add(p, t, c(-4.591_362_5e-1));
        let p = ops.mul_add(p, t, c(-1.151_111_7));
        let p = ops.mul_add(p, t, c(-1.0));
        let z = ops.add(p, c(ROUND));
        let below = power_of_two(isa, z, ops.sub(p, ops.sub(z, c(ROUND))));
        ops.mul_add(ops.neg(t), below, ops.max(x, ops.zero()))
    }
}

/// `0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, which is x · σ(2·√(2/π)·(x + 0.044715·x³)).
pub struct GeluTanh {}

impl SimdUnaryOp<f32> for GeluTanh {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        let ops = isa.f32();
        let c = |v: f32| ops.splat(v);
        // Beyond these nothing changes in f32; NaN stays.
        let x = ops.select(c(-9.6), x, ops.lt(x, c(-9.6)));
        let u = ops.min(x, c(9.6));
        let w = ops.mul_add(ops.mul(u, u), c(-1.029_432_4e-1), c(-2.302_208_2));
        let z = ops.mul_add(u, w, c(ROUND));
        let e = power_of_two(isa, z, ops.mul_add(u, w, ops.sub(c(ROUND), z)));
        over_one_plus(isa, x, e)
    }
}

/// `x · σ(alpha·x)`: SiLU with alpha 1.
pub struct Swish {
    pub alpha: f32,
}

impl SimdUnaryOp<f32> for Swish {
    #[inline(always)]
    fn eval<I: Isa>(&self, isa: I, x: I::F32) -> I::F32 {
        let ops = isa.f32();
        let c = |v: f32| ops.splat(v);
        // The exponential and its reciprocal stay normal numbers; beyond, the result is nearly 0. NaN stays.
        let end = c(-87.0 / self.alpha);
        let beyond = if self.alpha < 0.0 { ops.gt(x, end) } else { ops.lt(x, end) };
        let x = ops.select(end, x, beyond);
        let u = ops.min(ops.mul(x, c(self.alpha)), c(87.0));
        let z = ops.mul_add(u, c(-std::f32::consts::LOG2_E), c(ROUND));
        let e = power_of_two(isa, z, ops.mul_add(u, c(-std::f32::consts::LOG2_E), ops.sub(c(ROUND), z)));
        over_one_plus(isa, x, e)
    }
}

#[cfg(test)]
mod tests {
    use super::super::erf::erf;
    use super::*;

    fn worst(f: impl SimdUnaryOp<f32>, reference: impl Fn(f64) -> f64) -> f64 {
        let x: Vec<f32> =
            (-400_000..=400_000).map(|i| i as f32 * 5.01e-5).chain([1e-30, -1e-10, 86.9, -88.0, 3e4, -3e4]).collect();
        let mut y = x.clone();
        f.map_mut(&mut y);
        let error = |(x, y): (&f32, &f32)| (f64::from(*y) - reference(f64::from(*x))).abs() / f64::from(x.abs());
        x.iter().zip(&y).filter(|(x, _)| **x != 0.0).map(error).fold(0.0, f64::max)
    }

    #[test]
    fn errors_are_a_few_units_in_the_argument_s_last_place() {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let tanh = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
        assert!(worst(Gelu {}, |x| 0.5 * x * (1.0 + erf(x / 2f64.sqrt()))) < 2e-7);
        assert!(worst(GeluTanh {}, tanh) < 2e-7);
        assert!(worst(Swish { alpha: 1.0 }, |x| x * sigmoid(x)) < 2e-7);
        // `alpha` times the argument is rounded first, and that of the exponential is where the function bends most.
        assert!(worst(Swish { alpha: 1.702 }, |x| x * sigmoid(f64::from(1.702f32) * x)) < 3e-7);
        assert!(worst(Swish { alpha: -0.5 }, |x| x * sigmoid(-0.5 * x)) < 2e-7);
    }

    #[test]
    fn what_is_not_finite() {
        fn ends(f: impl SimdUnaryOp<f32>) -> [f32; 3] {
            let mut y = [f32::NEG_INFINITY, f32::INFINITY, f32::NAN];
            f.map_mut(&mut y);
            y
        }
        for [minus, plus, nan] in [ends(Gelu {}), ends(GeluTanh {}), ends(Swish { alpha: 1.0 }), ends(Swish { alpha: 1.702 })] {
            assert!(minus.abs() < 1e-15 && plus == f32::INFINITY && nan.is_nan(), "{minus} {plus} {nan}");
        }
    }
}
