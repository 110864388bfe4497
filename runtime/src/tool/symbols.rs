//! Values of symbols on the command line: `batch=2,seq=64`.

use crate::dim::Bindings;
use crate::plan::manifest::SymbolRange;

/// Text that does not give values of symbols, or values that the plan has no use for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum BadSymbols {
    #[error("'{0}' does not give values of symbols: NAME=NUMBER, separated by commas, was expected")]
    Syntax(String),
    #[error("'{0}' is given twice")]
    Twice(String),
    #[error("the plan has no symbol '{name}': it has {known}")]
    Unknown { name: String, known: String },
}

/// Parses `batch=2,seq=64`.
///
/// # Errors
/// See [`BadSymbols`].
pub fn parse(text: &str) -> Result<Bindings, BadSymbols> {
    let mut out = Bindings::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let syntax = || BadSymbols::Syntax(text.to_owned());
        let (name, value) = part.split_once('=').ok_or_else(syntax)?;
        let value: u32 = value.trim().parse().map_err(|_| syntax())?;
        if out.insert(name.trim().to_owned(), value.into()).is_some() {
            return Err(BadSymbols::Twice(name.trim().to_owned()));
        }
    }
    Ok(out)
}

/// The given values, and for each other symbol 1 when it is called like a batch, else 32, or what is next to that in its range.
///
/// # Errors
/// A value for a symbol that the plan does not have.
pub fn complete(given: &Bindings, ranges: &[SymbolRange]) -> Result<Bindings, BadSymbols> {
    if let Some(name) = given.keys().find(|name| !ranges.iter().any(|r| r.name == **name)) {
        let known: Vec<_> = ranges.iter().map(|r| r.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(BadSymbols::Unknown { name: name.clone(), known });
    }
    let default = |r: &SymbolRange| {
        let name = r.name.to_lowercase();
        let wish = if name.contains("batch") || name == "n" { 1 } else { 32 };
        // Not `clamp`, which panics on an empty range.
        wish.min(r.max).max(r.min)
    };
    Ok(ranges.iter().map(|r| (r.name.clone(), given.get(&r.name).copied().unwrap_or_else(|| default(r)))).collect())
}

/// `batch=2,seq=64`.
pub fn format(symbols: &Bindings) -> String {
    symbols.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_on_the_command_line() {
        let ranges =
            [("batch", 1, 8), ("seq", 1, 512), ("w", 64, 64)].map(|(name, min, max)| SymbolRange { name: name.into(), min, max });
        for (text, expected) in [
            ("", Ok("batch=1,seq=32,w=64")),
            ("seq=7", Ok("batch=1,seq=7,w=64")),
            (" batch=2, seq=600 ", Ok("batch=2,seq=600,w=64")),
            ("seq", Err(BadSymbols::Syntax("seq".into()))),
            ("seq=-1", Err(BadSymbols::Syntax("seq=-1".into()))),
            ("seq=1,seq=2", Err(BadSymbols::Twice("seq".into()))),
            ("h=1", Err(BadSymbols::Unknown { name: "h".into(), known: "batch, seq, w".into() })),
        ] {
            let result = parse(text).and_then(|given| complete(&given, &ranges)).map(|s| format(&s));
            assert_eq!(result, expected.map(str::to_owned), "{text}");
        }
    }
}
