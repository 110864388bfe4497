//! Random constants of the text form: `random(seed: 7, pattern: "6:8")` in a test's IR stands for a weight.
//!
//! The bytes depend on the options alone, so that tests can be repeated.

use serde::Deserialize;
use sliderun::dtype::DType;
use sliderun::sparse::Pattern;
use sliderun::splitmix::SplitMix64;

use super::{attributes, elements};

/// How to fill a constant.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Random {
    seed: u64,
    /// Values are uniform in low ≤ v < high. Integers are rounded.
    #[serde(default = "minus_one")]
    low: f32,
    #[serde(default = "one")]
    high: f32,
    /// Zeros at random places so that the pattern holds along `axis`.
    #[serde(default)]
    pattern: Option<Pattern>,
    /// The K axis: the last but one unless given, as in the right-hand side of a MatMul.
    #[serde(default)]
    axis: Option<usize>,
}

fn minus_one() -> f32 {
    -1.0
}

fn one() -> f32 {
    1.0
}

/// The options between the parentheses.
pub(super) fn parse(text: &str) -> Result<Random, String> {
    attributes::ron().from_str(&format!("({text})")).map_err(|e| e.code.to_string())
}

struct Generator(SplitMix64);

impl Generator {
    /// Uniform in 0 ≤ v < 1.
    fn unit(&mut self) -> f32 {
        (self.0.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    fn below(&mut self, n: usize) -> usize {
        (self.0.next() % n as u64) as usize
    }
}

impl Random {
    /// The bytes of a constant of this type; its size has been checked.
    pub(super) fn generate(&self, dtype: DType, shape: &[usize]) -> Vec<u8> {
        let mut generator = Generator(SplitMix64(self.seed));
        let len: usize = shape.iter().product();
        let mut values: Vec<f32> = (0..len).map(|_| self.low + (self.high - self.low) * generator.unit()).collect();
        if let (Some(pattern), false) = (self.pattern, shape.is_empty()) {
            let axis = self.axis.unwrap_or(shape.len().saturating_sub(2)).min(shape.len() - 1);
            let (k, stride) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
            for first in (0..len).filter(|i| (i / stride).is_multiple_of(k)) {
                for block in (0..k).step_by(pattern.block()) {
                    let mut places: Vec<usize> = (block..block + pattern.block()).collect();
                    for _ in 0..pattern.block() - pattern.kept() {
                        let place = places.swap_remove(generator.below(places.len()));
                        if place < k {
                            values[first + place * stride] = 0.0;
                        }
                    }
                }
            }
        }
        elements::from_numbers(dtype, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_hold_along_the_axis() {
        for (text, shape, axis) in
            [(r#"seed: 1, pattern: "6:8""#, [20, 5], 0), (r#"seed: 1, pattern: "2:4", axis: 1"#, [3, 10], 1)]
        {
            let random = parse(text).unwrap();
            let bytes = random.generate(DType::F32, &shape);
            let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
            let pattern = random.pattern.unwrap();
            let at = |k: usize, other: usize| if axis == 0 { values[k * shape[1] + other] } else { values[other * shape[1] + k] };
            for other in 0..shape[1 - axis] {
                for block in (0..shape[axis]).step_by(pattern.block()) {
                    let end = (block + pattern.block()).min(shape[axis]);
                    assert!((block..end).filter(|k| at(*k, other) != 0.0).count() <= pattern.kept());
                }
            }
            assert!(values.iter().any(|v| *v != 0.0));
        }
    }

    #[test]
    fn integers_stay_in_range() {
        let bytes = parse("seed: 3, low: 0, high: 4").unwrap().generate(DType::I64, &[100]);
        let values: Vec<i64> = bytemuck::pod_collect_to_vec(&bytes);
        assert!(values.iter().all(|v| (0..=4).contains(v)) && values.iter().any(|v| *v > 1));
        assert!(parse("seed: 3, hight: 4").is_err());
    }
}
