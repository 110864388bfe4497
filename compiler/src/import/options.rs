//! What the user may say about a model's shapes.

use std::collections::BTreeMap;

use crate::ir::Constant;

/// Largest value of a symbol that the user gives no range for.
pub(super) const LARGEST: i64 = i32::MAX as i64;

/// How to import a model.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Ranges of symbols, bounds included, by the model's name for them (`dim_param`) or, for a dimension without a name, by
    /// `INPUT_dimN`. A range of one value fixes the dimension. Other symbols may be anything from 1 on.
    pub symbols: BTreeMap<String, (i64, i64)>,
    /// Graph inputs that become constants, by name. A value fixes the dynamic dimensions of its input.
    pub freeze: BTreeMap<String, Constant>,
}

/// Shape options that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{entry}' is not a shape option: {reason}; write NAME=MIN..MAX or NAME=VALUE, such as batch=1..32,seq=128")]
pub struct ShapeOptionError {
    entry: String,
    reason: &'static str,
}

impl ImportOptions {
    /// Adds the ranges of a `--shape` option: `batch=1..32,seq=128`.
    ///
    /// # Errors
    /// Text of another form, an empty or negative range, a name given twice.
    pub fn with_shapes(mut self, text: &str) -> Result<Self, ShapeOptionError> {
        for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            let error = |reason| ShapeOptionError { entry: entry.to_owned(), reason };
            let (name, range) = entry.split_once('=').ok_or_else(|| error("'=' is missing"))?;
            let (min, max) = range.split_once("..").unwrap_or((range, range));
            let number = |s: &str| s.trim().parse::<i64>().map_err(|_| error("a bound is not an integer"));
            let (min, max) = (number(min)?, number(max.strip_prefix('=').unwrap_or(max))?);
            if min < 0 {
                return Err(error("an extent cannot be negative"));
            }
            if max < min {
                return Err(error("the range is empty"));
            }
            if self.symbols.insert(name.trim().to_owned(), (min, max)).is_some() {
                return Err(error("the name is given twice"));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let parse = |text| ImportOptions::default().with_shapes(text);
        let options = parse("batch=1..32, seq=128").unwrap();
        assert_eq!(options.symbols, BTreeMap::from([("batch".into(), (1, 32)), ("seq".into(), (128, 128))]));
        for bad in ["batch", "batch=", "batch=a..3", "batch=5..2", "batch=-1", "batch=1,batch=2"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
