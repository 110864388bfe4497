//! The scale of a quantized row of weights that minimises `Σ h[k] · (w[k] − q[k] · scale)²`, where h is the second moment of the inputs as
//! calibration has seen it, or 1.
//!
//! A row is divided by each of a grid of divisors around `absmax / largest`: by less than that it is clipped, and all else becomes finer; by
//! more, which only floats gain from, its elements meet other numbers of the type. Whatever codes that gives, least squares says which scale
//! fits them best. The usual scale is among the candidates, so that none is worse.
//!
//! Must not know: where the moments come from.

use sliderun::f8::F8E4M3;
use sliderun::sparse::symmetric_scale;

/// How the scales of a quantized weight's output channels are found.
#[derive(Clone, Copy, Debug, Default)]
pub enum Scales<'a> {
    /// The largest magnitude of a row becomes the type's largest.
    #[default]
    AbsMax,
    /// That of least error, weighted by the second moment of each of the K inputs; all alike without.
    LeastError(Option<&'a [f32]>),
}

/// How a row is quantized: its elements divided by `divisor` are rounded to codes, which stand for themselves times `scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RowScale {
    pub divisor: f32,
    pub scale: f32,
}

/// A type that weights are quantized to.
pub(super) trait Code {
    /// Its largest magnitude.
    const LARGEST: f32;

    /// Divisors to try, relative to `absmax / LARGEST`.
    fn ratios() -> impl Iterator<Item = f32>;

    /// The nearest number of the type, half to even; magnitudes above the largest become that.
    fn round(x: f32) -> f32;
}

impl Code for i8 {
    /// −128 is no code: products negate and split weights.
    const LARGEST: f32 = 127.0;

    /// Close together near 1, where most rows have their best; far below it for those where one element of little weight stands out.
    fn ratios() -> impl Iterator<Item = f32> {
        let down = |from: f32, step: f32, n: u8| (1..=n).map(move |i| from - step * f32::from(i));
        down(1.0, 0.005, 20).chain(down(0.9, 0.025, 16)).chain(down(0.5, 0.05, 6))
    }

    #[inline(always)]
    fn round(x: f32) -> f32 {
        // The unit in the last place of 1.5 · 2²³ is 1. Unlike a call of a function this becomes vector instructions on every CPU.
        const INTEGERS: f32 = 12_582_912.0;
        (x.clamp(-Self::LARGEST, Self::LARGEST) + INTEGERS) - INTEGERS
    }
}

impl Code for F8E4M3 {
    const LARGEST: f32 = F8E4M3::MAX;

    /// From half to twice: scales by powers of two alike but for the ends of the range.
    fn ratios() -> impl Iterator<Item = f32> {
        (-16..=16i8).filter(|i| *i != 0).map(|i| (f32::from(i) / 16.0).exp2())
    }

    #[inline(always)]
    fn round(x: f32) -> f32 {
        let x = x.clamp(-Self::LARGEST, Self::LARGEST);
        // 1.5 · 2^(e + 20), whose unit in the last place is that of numbers with 3 bits of mantissa and x's exponent e, at least −6.
        let exponent = (x.to_bits() & 0x7f80_0000).max((127 - 6) << 23);
        let steps = f32::from_bits(exponent + (20 << 23)) * 1.5;
        (x + steps) - steps
    }
}

/// Elements whose squared errors are added up in f32 before they are in f64.
const CHUNK: usize = 512;
const LANES: usize = 8;

/// `Σ h · (w / divisor − q)²`, fast; in units of codes, so that it is in range whatever the weights' magnitude.
fn error_in_codes<T: Code>(row: &[f32], moments: &[f32], divisor: f32) -> f64 {
    let inverse = divisor.recip();
    let term = |w: f32, h: f32| {
        let x = w * inverse;
        let e = x - T::round(x);
        h * e * e
    };
    let chunk = |(row, moments): (&[f32], &[f32])| {
        let (rows, moments) = (row.as_chunks::<LANES>(), moments.as_chunks::<LANES>());
        let mut sums = [0.0f32; LANES];
        for (w, h) in rows.0.iter().zip(moments.0) {
            for lane in 0..LANES {
                sums[lane] += term(w[lane], h[lane]);
            }
        }
        let rest = rows.1.iter().zip(moments.1).map(|(w, h)| f64::from(term(*w, *h))).sum::<f64>();
        sums.iter().map(|s| f64::from(*s)).sum::<f64>() + rest
    };
    row.chunks(CHUNK).zip(moments.chunks(CHUNK)).map(chunk).sum()
}

/// The code of an element, as it is stored.
fn code<T: Code>(w: f32, divisor: f32) -> f64 {
    f64::from(T::round(w / divisor))
}

/// `Σ h · (w − q · scale)²`.
fn error<T: Code>(row: &[f32], moments: &[f32], by: RowScale) -> f64 {
    let scale = f64::from(by.scale);
    let term = |(w, h): (&f32, &f32)| f64::from(*h) * (f64::from(*w) - code::<T>(*w, by.divisor) * scale).powi(2);
    row.iter().zip(moments).map(term).sum()
}

/// The scale that fits the codes best: `Σ h·w·q / Σ h·q²`. Nothing where all codes that count are 0.
fn least_squares<T: Code>(row: &[f32], moments: &[f32], divisor: f32) -> Option<f32> {
    let (mut along, mut squares) = (0.0, 0.0);
    for (w, h) in row.iter().zip(moments) {
        let (q, h) = (code::<T>(*w, divisor), f64::from(*h));
        along += h * f64::from(*w) * q;
        squares += h * q * q;
    }
    let scale = (along / squares) as f32;
    (squares > 0.0 && scale.is_normal() && scale > 0.0).then_some(scale)
}

/// `absmax / largest` for codes and scale alike; `None` for a row of zeros.
pub(super) fn by_absmax<T: Code>(row: &[f32]) -> Option<RowScale> {
    let absmax = row.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    symmetric_scale(absmax, T::LARGEST).map(|scale| RowScale { divisor: scale, scale })
}

/// The candidate of least error; of equal ones the first, which is [`by_absmax`]. `moments` are as many as the row's elements.
pub(super) fn by_error<T: Code>(row: &[f32], moments: &[f32]) -> Option<RowScale> {
    let usual = by_absmax::<T>(row)?;
    let mut best = (error_in_codes::<T>(row, moments, usual.divisor) * f64::from(usual.divisor).powi(2), usual.divisor);
    for ratio in T::ratios() {
        let divisor = usual.divisor * ratio;
        let found = error_in_codes::<T>(row, moments, divisor) * f64::from(divisor).powi(2);
        if found < best.0 {
            best = (found, divisor);
        }
    }
    // What the fast sums point at is looked at exactly.
    let fitted = |divisor| least_squares::<T>(row, moments, divisor).map(|scale| RowScale { divisor, scale });
    let candidates = [fitted(usual.divisor), Some(RowScale { divisor: best.1, scale: best.1 }), fitted(best.1)];
    let mut chosen = (error::<T>(row, moments, usual), usual);
    for candidate in candidates.into_iter().flatten() {
        let found = error::<T>(row, moments, candidate);
        if found < chosen.0 {
            chosen = (found, candidate);
        }
    }
    Some(chosen.1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sliderun::splitmix::SplitMix64;

    /// What the codes and the scale make of a row, by the type's own conversions.
    fn restored<T: Code + 'static>(row: &[f32], by: RowScale) -> Vec<f64> {
        let int8 = T::LARGEST == 127.0;
        let code = |w: f32| match int8 {
            true => f64::from((w / by.divisor).round_ties_even().clamp(-127.0, 127.0)),
            false => f64::from(F8E4M3::from_f32(w / by.divisor).to_f32()),
        };
        row.iter().map(|w| code(*w) * f64::from(by.scale)).collect()
    }

    fn distance(row: &[f32], moments: &[f32], restored: &[f64]) -> f64 {
        row.iter().zip(moments).zip(restored).map(|((w, h), r)| f64::from(*h) * (f64::from(*w) - r).powi(2)).sum()
    }

    /// Roughly normal numbers.
    fn normal(random: &mut SplitMix64) -> f32 {
        (0..12).map(|_| (random.next() >> 40) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
    }

    #[test]
    fn rounding_is_that_of_the_types() {
        let mut random = SplitMix64(7);
        for i in 0..200_000 {
            // Every binade of the type, ties among them, and what is beyond both ends.
            let x = match i % 3 {
                0 => normal(&mut random) * 300.0,
                1 => f32::from_bits((random.next() as u32 & 0x8fff_ffff) | 0x3000_0000),
                _ => (random.next() % 4096) as f32 / 1024.0 - 2.0,
            };
            assert_eq!(<F8E4M3 as Code>::round(x), F8E4M3::from_f32(x).to_f32(), "{x}");
            assert_eq!(<i8 as Code>::round(x), x.round_ties_even().clamp(-127.0, 127.0), "{x}");
        }
    }

    /// Against a search of both divisors and scales, much finer: near the least error, which the search for one number of each row need not
    /// meet, and well below that of the usual scale where one element of no weight stands out.
    #[test]
    fn close_to_the_best_that_there_is() {
        fn check<T: Code + 'static>(seed: u64, outlier: Option<f32>) {
            let mut random = SplitMix64(seed);
            let mut row: Vec<f32> = (0..192).map(|_| normal(&mut random)).collect();
            let mut moments: Vec<f32> = (0..192).map(|_| 0.1 + (random.next() >> 40) as f32 / (1 << 24) as f32).collect();
            if let Some(v) = outlier {
                (row[5], moments[5]) = (v, 1e-5);
            }
            let usual = by_absmax::<T>(&row).unwrap();
            let found = distance(&row, &moments, &restored::<T>(&row, by_error::<T>(&row, &moments).unwrap()));
            let mut least = f64::INFINITY;
            for i in 0..800 {
                let divisor = usual.divisor * (0.15 + 1.85 * i as f32 / 800.0);
                for j in -4..=4 {
                    let by = RowScale { divisor, scale: divisor * (1.0 + 0.001 * j as f32) };
                    least = least.min(distance(&row, &moments, &restored::<T>(&row, by)));
                }
            }
            let before = distance(&row, &moments, &restored::<T>(&row, usual));
            assert!(found <= least * 1.25 && found < before, "found {found}, least {least}, usual {before}");
            if outlier.is_some() {
                assert!(found < 0.5 * before, "found {found}, usual {before}");
            }
        }
        for seed in 0..4 {
            check::<i8>(seed, None);
            check::<i8>(seed, Some(9.0));
            check::<F8E4M3>(seed, None);
        }
    }

    proptest! {
        #[test]
        fn never_worse(
            values in proptest::collection::vec((-4.0f32..4.0, 0u8..4, 0.0f32..3.0), 1..90),
            magnitude in -25i32..25,
        ) {
            // A quarter are zeros, some inputs are never anything.
            let row: Vec<f32> = values.iter().map(|(v, zero, _)| if *zero == 0 { 0.0 } else { v * 10f32.powi(magnitude) }).collect();
            let moments: Vec<f32> = values.iter().map(|(_, _, h)| (h - 0.5).max(0.0)).collect();
            fn check<T: Code + 'static>(row: &[f32], moments: &[f32]) -> Result<(), TestCaseError> {
                let (usual, found) = (by_absmax::<T>(row), by_error::<T>(row, moments));
                prop_assert_eq!(usual.is_none(), found.is_none());
                let (Some(usual), Some(found)) = (usual, found) else { return Ok(()) };
                let (before, after) = (restored::<T>(row, usual), restored::<T>(row, found));
                prop_assert!(distance(row, moments, &after) <= distance(row, moments, &before));
                prop_assert!(row.iter().zip(&after).all(|(w, r)| *w != 0.0 || *r == 0.0));
                prop_assert!(found.scale.is_normal() && found.divisor.is_normal());
                Ok(())
            }
            check::<i8>(&row, &moments)?;
            check::<F8E4M3>(&row, &moments)?;
        }
    }
}
