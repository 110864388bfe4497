//! Conversion between element types: truncating towards zero and saturating from float to integer, wrapping between
//! integers, and to floats rounded once, half to even (8-bit floats saturate).

use half::{bf16, f16, slice::HalfFloatSliceExt};

use super::dispatch::dispatch;
use super::{KernelError, parallel};
use crate::dtype::{Bool, DType, Element};
use crate::f8::{F8E4M3, F8E5M2};
use crate::tensor::{TensorView, TensorViewMut};

/// Rounds to f32 such that rounding the result again to a narrower float is the same as rounding `x` itself: an inexact
/// result gets an odd last bit ("round to odd"), so that it never lands on the midpoint of two narrower values.
fn round_to_odd(x: f64) -> f32 {
    let y = x as f32;
    let back = f64::from(y);
    if back == x || x.is_nan() || y.to_bits() & 1 == 1 {
        return y;
    }
    f32::from_bits(if back.abs() > x.abs() { y.to_bits() - 1 } else { y.to_bits() + 1 })
}

/// A type with arithmetic in hardware, or bool.
pub trait Native: Element {
    /// An f32 that rounds to every narrower float as this value does. (64-bit integers beyond 2^53 are rounded to f64 first.)
    fn to_f32_for_narrowing(self) -> f32;
}

/// Conversion as ONNX Cast defines it.
pub trait CastFrom<S> {
    /// The converted value.
    fn cast_from(v: S) -> Self;
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl CastFrom<Bool> for $t {
            fn cast_from(v: Bool) -> $t {
                u8::from(v.0 != 0) as $t
            }
        }
        impl CastFrom<$t> for Bool {
            fn cast_from(v: $t) -> Bool {
                (v != 0 as $t).into()
            }
        }
        numbers!(@ $t: i8, i16, i32, i64, u8, u16, u32, u64, f32, f64);
    )*};
    (@ $d:ty: $($s:ty),*) => {$(
        impl CastFrom<$s> for $d {
            fn cast_from(v: $s) -> $d {
                v as $d
            }
        }
    )*};
}
numbers!(i8, i16, i32, i64, u8, u16, u32, u64, f32, f64);

impl CastFrom<Bool> for Bool {
    fn cast_from(v: Bool) -> Bool {
        (v.0 != 0).into()
    }
}

macro_rules! native {
    ($($t:ty: $v:ident => $to:expr),* $(,)?) => {$(
        impl Native for $t {
            fn to_f32_for_narrowing(self) -> f32 {
                let $v = self;
                $to
            }
        }
    )*};
}
native! {
    Bool: v => f32::cast_from(v), i8: v => v.into(), u8: v => v.into(), i16: v => v.into(), u16: v => v.into(), f32: v => v,
    i32: v => round_to_odd(v.into()), u32: v => round_to_odd(v.into()), i64: v => round_to_odd(v as f64),
    u64: v => round_to_odd(v as f64), f64: v => round_to_odd(v),
}

/// A float narrower than f32.
pub trait Narrow: Element {
    /// Widens, exactly. Both slices have one length.
    fn widen(x: &[Self], y: &mut [f32]);
    /// Rounds half to even. Both slices have one length.
    fn narrow(x: &[f32], y: &mut [Self]);
}

macro_rules! half_floats {
    ($($t:ty),*) => {$(
        impl Narrow for $t {
            fn widen(x: &[Self], y: &mut [f32]) {
                x.convert_to_f32_slice(y);
            }
            fn narrow(x: &[f32], y: &mut [Self]) {
                y.convert_from_f32_slice(x);
            }
        }
    )*};
}
half_floats!(f16, bf16);

macro_rules! eighth_floats {
    ($($t:ty),*) => {$(
        impl Narrow for $t {
            fn widen(x: &[Self], y: &mut [f32]) {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = x.to_f32());
            }
            fn narrow(x: &[f32], y: &mut [Self]) {
                y.iter_mut().zip(x).for_each(|(y, x)| *y = <$t>::from_f32(*x));
            }
        }
    )*};
}
eighth_floats!(F8E4M3, F8E5M2);

/// Elements converted through one buffer at a time.
const BLOCK: usize = 512;

/// Calls `body` with corresponding blocks and a buffer of as many f32.
fn staged<S: Element, D: Element>(x: &[S], y: &mut [D], body: impl Fn(&[S], &mut [f32], &mut [D]) + Sync) {
    parallel::zip(x, y, &|x, y| {
        let mut buffer = [0f32; BLOCK];
        for (x, y) in x.chunks(BLOCK).zip(y.chunks_mut(BLOCK)) {
            body(x, &mut buffer[..x.len()], y);
        }
    });
}

fn is_narrow(dtype: DType) -> bool {
    dtype.is_float() && dtype.size() < 4
}

/// Converts every element of `x` to the element type of `y`, which has as many elements.
///
/// # Errors
/// None for views whose bytes fit their types.
pub fn convert(x: TensorView<'_>, y: &mut TensorViewMut<'_>) -> Result<(), KernelError> {
    const NAME: &str = "Cast";
    let misaligned = || KernelError::Data("an operand is not aligned to its element type".into());
    if x.dtype == y.dtype && x.dtype != DType::Bool {
        y.data.copy_from_slice(x.data);
        return Ok(());
    }
    let to = y.dtype;
    match (is_narrow(x.dtype), is_narrow(to)) {
        (false, false) => dispatch!(native, NAME, x.dtype, S => {
            let x = x.as_slice::<S>().ok_or_else(misaligned)?;
            dispatch!(native, NAME, to, D => {
                let y = y.as_mut_slice::<D>().ok_or_else(misaligned)?;
                parallel::zip(x, y, &|x, y| y.iter_mut().zip(x).for_each(|(y, x)| *y = D::cast_from(*x)));
                Ok(())
            })
        }),
        (true, false) => dispatch!(narrow, NAME, x.dtype, S => {
            let x = x.as_slice::<S>().ok_or_else(misaligned)?;
            dispatch!(native, NAME, to, D => {
                staged(x, y.as_mut_slice::<D>().ok_or_else(misaligned)?, |x, wide, y| {
                    S::widen(x, wide);
                    y.iter_mut().zip(&*wide).for_each(|(y, x)| *y = D::cast_from(*x));
                });
                Ok(())
            })
        }),
        (false, true) => dispatch!(native, NAME, x.dtype, S => {
            let x = x.as_slice::<S>().ok_or_else(misaligned)?;
            dispatch!(narrow, NAME, to, D => {
                staged(x, y.as_mut_slice::<D>().ok_or_else(misaligned)?, |x, wide, y| {
                    wide.iter_mut().zip(x).for_each(|(w, x)| *w = x.to_f32_for_narrowing());
                    D::narrow(wide, y);
                });
                Ok(())
            })
        }),
        (true, true) => dispatch!(narrow, NAME, x.dtype, S => {
            let x = x.as_slice::<S>().ok_or_else(misaligned)?;
            dispatch!(narrow, NAME, to, D => {
                staged(x, y.as_mut_slice::<D>().ok_or_else(misaligned)?, |x, wide, y| {
                    S::widen(x, wide);
                    D::narrow(wide, y);
                });
                Ok(())
            })
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::Tensor;

    fn cast<S: Element, D: Element>(x: &[S]) -> Vec<D> {
        let x = Tensor::from_slice(&[x.len()], x).unwrap();
        let mut y = Tensor::zeros(D::DTYPE, x.shape()).unwrap();
        convert(x.view(), &mut y.view_mut()).unwrap();
        y.as_slice().unwrap().to_vec()
    }

    #[test]
    fn follows_the_cast_rules() {
        assert_eq!(cast::<f32, i8>(&[1.9, -1.9, 300.0, -300.0, f32::NAN, f32::INFINITY]), [1, -1, 127, -128, 0, 127]);
        assert_eq!(cast::<i32, u8>(&[-1, 256, 511, 7]), [255, 0, 255, 7]);
        assert_eq!(cast::<f32, Bool>(&[0.0, -0.0, 0.1, f32::NAN]).iter().map(|b| b.0).collect::<Vec<_>>(), [0, 0, 1, 1]);
        assert_eq!(cast::<Bool, f64>(&[Bool(0), Bool(1), Bool(9)]), [0.0, 1.0, 1.0]);
        assert_eq!(cast::<Bool, Bool>(&[Bool(9)]), [Bool(1)]);
        assert_eq!(cast::<f32, f16>(&[65519.0, 65520.0, 1e-8]), [f16::MAX, f16::INFINITY, f16::ZERO]);
        assert_eq!(cast::<f32, F8E4M3>(&[1e9, -1e9, 1.0]).map_f32(), [448.0, -448.0, 1.0]);
        assert_eq!(cast::<F8E5M2, F8E4M3>(&[F8E5M2::from_f32(57344.0), F8E5M2::from_f32(0.5)]).map_f32(), [448.0, 0.5]);
        assert_eq!(cast::<bf16, i64>(&[bf16::from_f32(-3.5)]), [-3]);
        assert_eq!(cast::<i64, u64>(&[-1]), [u64::MAX]);
    }

    trait MapF32 {
        fn map_f32(&self) -> Vec<f32>;
    }
    impl MapF32 for Vec<F8E4M3> {
        fn map_f32(&self) -> Vec<f32> {
            self.iter().map(|v| v.to_f32()).collect()
        }
    }

    /// 1 + 2^-11 is halfway between two f16 values; a little more must round up, which rounding to f32 first would lose.
    #[test]
    fn rounds_once() {
        let above = 1.0 + 2f64.powi(-11) + 2f64.powi(-40);
        let below = 1.0 + 3.0 * 2f64.powi(-11) - 2f64.powi(-40);
        assert_eq!(cast::<f64, f16>(&[above, below, -above]).map_bits(), [0x3c01, 0x3c01, 0xbc01]);
        // 2^24 + 2^16 is halfway between two bf16 values.
        assert_eq!(cast::<i32, bf16>(&[(1 << 24) + (1 << 16) + 1]), [bf16::from_f32(16_908_288.0)]);
        assert_eq!(cast::<f64, f16>(&[1e300, f64::NEG_INFINITY]), [f16::INFINITY, f16::NEG_INFINITY]);
    }

    trait MapBits {
        fn map_bits(&self) -> Vec<u16>;
    }
    impl MapBits for Vec<f16> {
        fn map_bits(&self) -> Vec<u16> {
            self.iter().map(|v| v.to_bits()).collect()
        }
    }

    #[test]
    fn every_pair_keeps_small_integers() {
        for from in DType::ALL {
            for to in DType::ALL {
                let small = Tensor::from_slice(&[40_000], &[0i32, 1, 1, 0].repeat(10_000)).unwrap();
                let mut at = small.clone();
                for dtype in [from, to, DType::I32] {
                    let mut next = Tensor::zeros(dtype, small.shape()).unwrap();
                    convert(at.view(), &mut next.view_mut()).unwrap();
                    at = next;
                }
                assert_eq!(at.bytes(), small.bytes(), "{from} → {to}");
            }
        }
    }
}
