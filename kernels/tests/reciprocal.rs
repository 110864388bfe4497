//! The claim of `ReciprocalDivisor` in quantize.cuh, tried exhaustively: for 16-bit floats x and any scale s, the approximation of x / s
//! quantizes to the same int8 or E4M3 as the quotient.
//!
//! The two f32 numbers differ only when the exact quotient is within a relative 2⁻⁴⁶ of the middle m between two neighbouring f32 numbers,
//! and the quantized results only if these lie on two sides of, or one on, a boundary between quantized values. So m is half a unit in
//! the last place beside a boundary, and for each x and m only the scales next to x / m can matter. Powers of two change nothing
//! while all numbers are normal, so one binade of x is enough.

use sliderun::f8::F8E4M3;

/// As the kernel computes it.
fn approximate(x: f32, s: f32) -> f32 {
    let high = 1.0 / s;
    let error = (-s).mul_add(high, 1.0);
    let low = error.mul_add(high * error, error * high);
    x.mul_add(high, x * low)
}

/// Tries every x of `bits` significant bits against all boundaries.
fn check(bits: u32, boundaries: &[f32], quantize: impl Fn(f32) -> u8) {
    for mantissa in 1u32 << (bits - 1)..1 << bits {
        let x = mantissa as f32;
        for &boundary in boundaries {
            for neighbour in [boundary.next_down(), boundary.next_up()] {
                let middle = (f64::from(boundary) + f64::from(neighbour)) / 2.0;
                let nearest = (f64::from(x) / middle) as f32;
                for s in [nearest.next_down(), nearest, nearest.next_up()] {
                    let (exact, fast) = (x / s, approximate(x, s));
                    assert_eq!(quantize(exact), quantize(fast), "{x:e} / {s:e} = {exact:e}, not {fast:e}");
                }
            }
        }
    }
}

#[test]
fn the_quotient_quantizes_alike() {
    let halves: Vec<f32> = (0..127).map(|i| i as f32 + 0.5).collect();
    let round = |x: f32| x.round_ties_even() as i8 as u8;
    let codes: Vec<f32> = (0..0x7e).map(|code| (F8E4M3(code).to_f32() + F8E4M3(code + 1).to_f32()) / 2.0).collect();
    let e4m3 = |x: f32| F8E4M3::from_f32(x).0;
    // bf16 and f16.
    for bits in [8, 11] {
        check(bits, &halves, round);
        check(bits, &codes, e4m3);
    }
}
