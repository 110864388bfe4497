//! The decision about a product's weight, carried on its node from the pass that decides to the one that acts.

use sliderun::dtype::{DType, UnknownDType};
use sliderun::sparse::{Pattern, UnknownPattern};
use std::fmt;
use std::str::FromStr;

/// How a product's weight is to be compiled: the element type that it is multiplied in, and the sparsity pattern that it takes. Text form:
/// `i8 6:8`, `bf16 dense`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WeightForm {
    /// I8, F8e4m3, Bf16, F16 or F32.
    pub to: DType,
    /// The pattern; dense without.
    pub pattern: Option<Pattern>,
}

impl fmt::Display for WeightForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pattern {
            Some(pattern) => write!(f, "{} {pattern}", self.to),
            None => write!(f, "{} dense", self.to),
        }
    }
}

impl FromStr for WeightForm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (to, pattern) = text.split_once(' ').ok_or("an element type and a pattern or 'dense' were expected")?;
        let to: DType = to.parse().map_err(|e: UnknownDType| e.to_string())?;
        if !matches!(to, DType::I8 | DType::F8e4m3 | DType::Bf16 | DType::F16 | DType::F32) {
            return Err(format!("no product multiplies weights of type {to}"));
        }
        let pattern = match pattern {
            "dense" => None,
            _ => Some(pattern.parse().map_err(|e: UnknownPattern| e.to_string())?),
        };
        Ok(WeightForm { to, pattern })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips() {
        for text in ["i8 6:8", "bf16 dense", "f8e4m3 2:4", "f32 14:16"] {
            assert_eq!(text.parse::<WeightForm>().unwrap().to_string(), text);
        }
        for bad in ["", "i8", "i64 dense", "i8 3:8", "i8  dense"] {
            assert!(bad.parse::<WeightForm>().is_err(), "{bad}");
        }
    }
}
