//! How far a plan's outputs are from the dense model's, row by row, and what is asked of that.
//!
//! A row is the last axis of an output: an embedding, the scores of a token. Of several outputs, the worst counts.
//!
//! Must not know: plans, recipes.

use serde::{Serialize, Serializer};
use sliderun::tensor::TensorView;
use std::fmt;
use std::str::FromStr;

use crate::options::UnknownOption;
use crate::verify::to_f64;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Cosine of the rows of an output, their mean.
    Cosine,
    /// ‖a − b‖₂ / ‖b‖₂ of an output.
    RelativeError,
    /// Share of the rows of an output whose largest element stays the largest.
    KeptTop1,
}

impl Metric {
    const NAMES: [(&'static str, Metric); 3] =
        [("cos", Metric::Cosine), ("rel-err", Metric::RelativeError), ("keep-top1", Metric::KeptTop1)];
}

/// A bound on what is lost. Text form: `cos=0.985`, `rel-err=0.05`, `keep-top1=0.99`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// What is measured.
    pub metric: Metric,
    /// The least that is enough; for [`Metric::RelativeError`], the most.
    pub bound: f64,
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, _) = Metric::NAMES.iter().find(|(_, m)| *m == self.metric).expect("every metric has a name");
        write!(f, "{name}={}", self.bound)
    }
}

impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl FromStr for Budget {
    type Err = UnknownOption;

    fn from_str(text: &str) -> Result<Self, UnknownOption> {
        let parse = || {
            let (name, bound) = text.split_once('=')?;
            let (_, metric) = Metric::NAMES.into_iter().find(|(n, _)| *n == name)?;
            let bound: f64 = bound.parse().ok()?;
            (bound > 0.0 && bound < 1.0).then_some(Budget { metric, bound })
        };
        parse().ok_or_else(|| {
            UnknownOption::new(text, "budget", "cos=X, rel-err=X or keep-top1=X with X between 0 and 1, like cos=0.985,")
        })
    }
}

impl Budget {
    /// What a fidelity loses: nothing is 0, and losses of independent errors add up, more or less.
    pub fn loss(&self, fidelity: &Fidelity) -> f64 {
        match self.metric {
            Metric::Cosine => 1.0 - fidelity.cosine,
            Metric::RelativeError => fidelity.relative_error.powi(2),
            Metric::KeptTop1 => 1.0 - fidelity.kept_top1,
        }
    }

    /// What may be lost.
    pub fn allowance(&self) -> f64 {
        match self.metric {
            Metric::Cosine | Metric::KeptTop1 => 1.0 - self.bound,
            Metric::RelativeError => self.bound.powi(2),
        }
    }

    /// The figure that is bounded.
    pub fn figure(&self, fidelity: &Fidelity) -> f64 {
        match self.metric {
            Metric::Cosine => fidelity.cosine,
            Metric::RelativeError => fidelity.relative_error,
            Metric::KeptTop1 => fidelity.kept_top1,
        }
    }

    /// Whether a fidelity is within it; what is not a number never is.
    pub fn holds(&self, fidelity: &Fidelity) -> bool {
        match self.metric {
            Metric::Cosine | Metric::KeptTop1 => self.figure(fidelity) >= self.bound,
            Metric::RelativeError => self.figure(fidelity) <= self.bound,
        }
    }
}

/// How far outputs are from what is expected, of the worst output.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Fidelity {
    /// See [`Metric::Cosine`].
    pub cosine: f64,
    /// The cosine of the row that is farthest.
    pub worst_cosine: f64,
    /// See [`Metric::RelativeError`].
    pub relative_error: f64,
    /// See [`Metric::KeptTop1`].
    pub kept_top1: f64,
}

/// Sums over the rows of one output.
#[derive(Clone, Debug)]
pub struct Rows {
    rows: usize,
    cosines: f64,
    worst: f64,
    kept: usize,
    differences: f64,
    squares: f64,
}

impl Default for Rows {
    fn default() -> Self {
        Rows { rows: 0, cosines: 0.0, worst: 1.0, kept: 0, differences: 0.0, squares: 0.0 }
    }
}

impl Rows {
    /// Adds the rows of a tensor, beside the same ones of `expected`, which has its shape.
    pub fn add(&mut self, actual: TensorView<'_>, expected: TensorView<'_>) {
        let width = actual.shape.last().copied().unwrap_or(1).max(1);
        let (actual, expected) = (to_f64(actual), to_f64(expected));
        for (a, b) in actual.chunks_exact(width).zip(expected.chunks_exact(width)) {
            let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
            let (aa, bb) = (dot(a, a), dot(b, b));
            let cosine = if aa == 0.0 && bb == 0.0 { 1.0 } else { dot(a, b) / (aa.sqrt() * bb.sqrt()) };
            self.rows += 1;
            self.cosines += cosine;
            // `min` would drop a NaN.
            self.worst = if cosine.is_nan() || cosine < self.worst { cosine } else { self.worst };
            self.kept += usize::from(largest(a) == largest(b));
            self.differences += a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>();
            self.squares += bb;
        }
    }

    fn fidelity(&self) -> Fidelity {
        let share = |x: f64| if self.rows == 0 { 1.0 } else { x / self.rows as f64 };
        Fidelity {
            cosine: share(self.cosines),
            worst_cosine: self.worst,
            relative_error: if self.differences == 0.0 { 0.0 } else { (self.differences / self.squares).sqrt() },
            kept_top1: share(self.kept as f64),
        }
    }
}

/// Where the first of the largest elements is; none where one is not a number.
fn largest(row: &[f64]) -> Option<usize> {
    if row.iter().any(|v| v.is_nan()) {
        return None;
    }
    (0..row.len()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b]))
}

/// The worst of several outputs, figure by figure.
pub fn worst(outputs: &[Rows]) -> Fidelity {
    let least = |a: f64, b: f64| if a.is_nan() || a < b { a } else { b };
    let fidelities = outputs.iter().map(Rows::fidelity);
    fidelities.fold(Fidelity { cosine: 1.0, worst_cosine: 1.0, relative_error: 0.0, kept_top1: 1.0 }, |all, f| Fidelity {
        cosine: least(f.cosine, all.cosine),
        worst_cosine: least(f.worst_cosine, all.worst_cosine),
        relative_error: -least(-f.relative_error, -all.relative_error),
        kept_top1: least(f.kept_top1, all.kept_top1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sliderun::tensor::Tensor;

    fn fidelity(a: &[f32], b: &[f32], width: usize) -> Fidelity {
        let tensor = |x: &[f32]| Tensor::from_slice(&[x.len() / width, width], x).unwrap();
        let mut rows = Rows::default();
        rows.add(tensor(a).view(), tensor(b).view());
        worst(&[rows, Rows::default()])
    }

    #[test]
    fn measures_what_it_says() {
        // Cosines 0.8 and 1; the largest stays in the second row alone; ‖a − b‖² = 9, ‖b‖² = 25 + 16.
        let f = fidelity(&[3.0, 4.0, 0.0, 5.0], &[0.0, 4.0, 0.0, 5.0], 2);
        assert_eq!((f.cosine, f.worst_cosine, f.kept_top1), (0.9, 0.8, 1.0));
        assert!((f.relative_error - (9.0f64 / 41.0).sqrt()).abs() < 1e-15);
        assert_eq!(fidelity(&[1.0, 0.0], &[0.0, 1.0], 2).kept_top1, 0.0);
        let zero = fidelity(&[0.0, 0.0], &[0.0, 0.0], 2);
        assert_eq!((zero.cosine, zero.relative_error, zero.kept_top1), (1.0, 0.0, 1.0));
    }

    #[test]
    fn budgets_say_what_is_within_them() {
        let f = fidelity(&[3.0, 4.0, 0.0, 5.0], &[0.0, 4.0, 0.0, 5.0], 2);
        for (text, within) in
            [("cos=0.9", true), ("cos=0.91", false), ("rel-err=0.5", true), ("rel-err=0.4", false), ("keep-top1=0.999", true)]
        {
            let budget: Budget = text.parse().unwrap();
            assert_eq!((budget.holds(&f), budget.to_string().as_str()), (within, text));
            assert_eq!(budget.loss(&f) <= budget.allowance() + 1e-12, within, "{text}");
        }
        let nan = fidelity(&[f32::NAN, 1.0], &[0.5, 1.0], 2);
        for text in ["cos=0.1", "rel-err=0.9", "keep-top1=0.1"] {
            assert!(!text.parse::<Budget>().unwrap().holds(&nan), "{text}");
        }
        for bad in ["cos", "cos=", "cos=1", "cos=0", "cos=2", "cos=nan", "cosine=0.9", "rel-err=-1"] {
            assert!(bad.parse::<Budget>().is_err(), "{bad}");
        }
    }
}
