//! What was chosen for a product, as it is told and as it is remembered.

use std::time::Duration;

use crate::timings::ProductKey;

/// The algorithm that a product runs with, and what it was chosen from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProductChoice {
    /// The product.
    pub problem: String,
    /// The same for timings, where it is a product with a weight.
    pub product: Option<ProductKey>,
    /// The library's name for the algorithm; none where the library's own choice is best.
    pub algorithm: Option<String>,
    /// Device time of one run of the library's own choice.
    pub default: Duration,
    /// Device time of one run of what was chosen.
    pub best: Duration,
    /// Algorithms that were tried.
    pub tried: usize,
    /// Algorithms that the time did not suffice for.
    pub untried: usize,
    /// Whether it was found in the cache.
    pub remembered: bool,
}

impl ProductChoice {
    /// As it is remembered: one line.
    pub(super) fn text(&self) -> String {
        let ProductChoice { algorithm, default, best, tried, untried, .. } = self;
        let algorithm = algorithm.as_deref().unwrap_or("default");
        let (default, best) = (default.as_nanos(), best.as_nanos());
        format!("algorithm={algorithm} default_ns={default} best_ns={best} tried={tried} untried={untried}\n")
    }

    /// What was remembered; none when it is something else.
    pub(super) fn parse(problem: &str, product: Option<ProductKey>, text: &str) -> Option<ProductChoice> {
        let mut fields = text.split_whitespace();
        let mut field = |name: &str| fields.next()?.strip_prefix(name)?.strip_prefix('=');
        let algorithm = field("algorithm").filter(|a| !a.is_empty())?;
        let mut number = |name| field(name)?.parse::<u64>().ok();
        let (default, best) = (number("default_ns")?, number("best_ns")?);
        let mut count = |name| usize::try_from(number(name)?).ok();
        Some(ProductChoice {
            problem: problem.to_owned(),
            product,
            algorithm: (algorithm != "default").then(|| algorithm.to_owned()),
            default: Duration::from_nanos(default),
            best: Duration::from_nanos(best),
            tried: count("tried")?,
            untried: count("untried")?,
            remembered: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_one_readable_line() {
        let choice = ProductChoice {
            problem: "p".into(),
            product: None,
            algorithm: Some("16/1".into()),
            default: Duration::from_nanos(8400),
            best: Duration::from_nanos(4625),
            tried: 27,
            untried: 0,
            remembered: true,
        };
        assert_eq!(choice.text(), "algorithm=16/1 default_ns=8400 best_ns=4625 tried=27 untried=0\n");
        let own = ProductChoice { algorithm: None, ..choice.clone() };
        for choice in [choice, own] {
            assert_eq!(ProductChoice::parse("p", None, &choice.text()), Some(choice));
        }
        for bad in
            ["", "algorithm= default_ns=1 best_ns=1 tried=1 untried=0", "algorithm=1 best_ns=1", "algorithm=1 default_ns=-1"]
        {
            assert_eq!(ProductChoice::parse("p", None, bad), None, "{bad}");
        }
    }
}
