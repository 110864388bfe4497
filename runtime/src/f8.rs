//! The two OCP 8-bit float formats, converted to and from `f32` with round-half-even.
//!
//! Source: OCP 8-bit Floating Point Specification (OFP8) 1.0; ONNX "Float stored in 8 bits".

use bytemuck::{Pod, Zeroable};

/// FP8 E4M3 without infinities (ONNX FLOAT8E4M3FN).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct F8E4M3(pub u8);

/// FP8 E5M2 with infinities (ONNX FLOAT8E5M2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct F8E5M2(pub u8);

/// Rounds the magnitude `|x|` to a format with `mantissa` bits and exponent `bias`, without its sign; the result may
/// lie above the format's largest finite value. NaN must be handled before.
#[inline]
fn round_magnitude(x: f32, mantissa: u32, bias: i32) -> u32 {
    let bits = x.to_bits() & 0x7fff_ffff;
    let exponent = (bits >> 23) as i32 - 127;
    if exponent < 1 - bias {
        // Subnormal in the target: added to a power of two whose unit in the last place is the smallest subnormal, the value
        // is rounded half to even and left in the low bits as a count of those units.
        let unit = f32::from_bits(((127 + 24 - bias - mantissa as i32) as u32) << 23);
        return (f32::from_bits(bits) + unit).to_bits() - unit.to_bits();
    }
    let drop = 23 - mantissa;
    let half = (1u32 << (drop - 1)) - 1 + ((bits >> drop) & 1);
    let rounded = (bits + half) >> drop;
    rounded - (((127 - bias) as u32) << mantissa)
}

impl F8E4M3 {
    /// Largest finite value.
    pub const MAX: f32 = 448.0;

    /// Rounds half to even and saturates at ±448; NaN stays NaN (ONNX Cast with `saturate=1`).
    #[inline]
    pub fn from_f32(x: f32) -> Self {
        let sign = ((x.to_bits() >> 24) & 0x80) as u8;
        if x.is_nan() {
            return F8E4M3(sign | 0x7f);
        }
        F8E4M3(sign | round_magnitude(x, 3, 7).min(0x7e) as u8)
    }

    /// Exact.
    pub fn to_f32(self) -> f32 {
        let sign = if self.0 & 0x80 == 0 { 1.0 } else { -1.0 };
        let (e, m) = (i32::from((self.0 >> 3) & 0xf), f32::from(self.0 & 7));
        match (e, self.0 & 7) {
            (15, 7) => f32::NAN,
            (0, _) => sign * m * 2f32.powi(-9),
            _ => sign * (8.0 + m) * 2f32.powi(e - 10),
        }
    }
}

impl F8E5M2 {
    /// Rounds half to even and saturates at ±57344, infinities included; NaN stays NaN (ONNX Cast with `saturate=1`).
    #[inline]
    pub fn from_f32(x: f32) -> Self {
        let sign = ((x.to_bits() >> 24) & 0x80) as u8;
        if x.is_nan() {
            return F8E5M2(sign | 0x7f);
        }
        F8E5M2(sign | round_magnitude(x, 2, 15).min(0x7b) as u8)
    }

    /// Exact.
    pub fn to_f32(self) -> f32 {
        half::f16::from_bits(u16::from(self.0) << 8).to_f32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decode_matches_reference() {
        for b in 0..=255u8 {
            let (ours, theirs) = (F8E4M3(b).to_f32(), float8::F8E4M3::from_bits(b).to_f32());
            assert!(ours == theirs || ours.is_nan() && theirs.is_nan(), "e4m3 {b:#x}: {ours} {theirs}");
            let (ours, theirs) = (F8E5M2(b).to_f32(), float8::F8E5M2::from_bits(b).to_f32());
            assert!(ours == theirs || ours.is_nan() && theirs.is_nan(), "e5m2 {b:#x}: {ours} {theirs}");
        }
    }

    /// The nearest representable value, ties to the even code, found by search over all codes.
    fn nearest(x: f32, largest: u8, decode: impl Fn(u8) -> f32) -> f32 {
        let mut best = 0u8;
        for code in 0..=largest {
            let (d, b) =
                ((f64::from(decode(code)) - f64::from(x.abs())).abs(), (f64::from(decode(best)) - f64::from(x.abs())).abs());
            if d < b || (d == b && code % 2 == 0) {
                best = code;
            }
        }
        decode(best).copysign(x)
    }

    proptest::proptest! {
        #[test]
        fn encode_is_nearest_even(bits in proptest::prelude::any::<u32>()) {
            let x = f32::from_bits(bits);
            if x.is_nan() {
                proptest::prop_assert!(F8E4M3::from_f32(x).to_f32().is_nan() && F8E5M2::from_f32(x).to_f32().is_nan());
            } else {
                let x = x.clamp(-1e9, 1e9);
                proptest::prop_assert_eq!(F8E4M3::from_f32(x).to_f32(), nearest(x, 0x7e, |c| F8E4M3(c).to_f32()));
                proptest::prop_assert_eq!(F8E5M2::from_f32(x).to_f32(), nearest(x, 0x7b, |c| F8E5M2(c).to_f32()));
            }
        }

        #[test]
        fn encode_is_nearest_even_in_range(x in -500.0f32..500.0) {
            proptest::prop_assert_eq!(F8E4M3::from_f32(x).to_f32(), nearest(x, 0x7e, |c| F8E4M3(c).to_f32()));
            proptest::prop_assert_eq!(F8E4M3::from_f32(x / 4096.0).to_f32(), nearest(x / 4096.0, 0x7e, |c| F8E4M3(c).to_f32()));
        }
    }
}
