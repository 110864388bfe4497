//! Parameters of requests, inputs and outputs: those that mean something here, those that are refused, and those that may be ignored.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

/// A parameter's value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs)]
pub enum Parameter {
    Bool(bool),
    Int(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
}

/// Parameters by name.
pub type Parameters = BTreeMap<String, Parameter>;

/// What a server that ignored them would answer wrongly.
const REFUSED: [(&str, &str); 4] = [
    ("shared_memory_region", "tensors in shared memory"),
    ("classification", "classification of outputs"),
    ("sequence_id", "sequences of requests"),
    ("sequence_start", "sequences of requests"),
];

/// Refuses parameters that ask for something that this server does not do.
///
/// # Errors
/// Such a parameter.
pub fn check(parameters: &Parameters) -> Result<(), String> {
    for (name, what) in REFUSED {
        let asked = match parameters.get(name) {
            None | Some(Parameter::Bool(false)) | Some(Parameter::Int(0)) | Some(Parameter::Unsigned(0)) => false,
            Some(Parameter::Text(text)) => !text.is_empty(),
            Some(_) => true,
        };
        if asked {
            return Err(format!("parameter '{name}': this server does not have {what}"));
        }
    }
    Ok(())
}

/// A flag.
///
/// # Errors
/// A value that is none.
pub fn flag(parameters: &Parameters, name: &str) -> Result<Option<bool>, String> {
    match parameters.get(name) {
        None => Ok(None),
        Some(Parameter::Bool(value)) => Ok(Some(*value)),
        Some(other) => Err(format!("parameter '{name}': true or false was expected, {other:?} given")),
    }
}

/// A number that is not negative.
///
/// # Errors
/// A value that is none.
pub fn count(parameters: &Parameters, name: &str) -> Result<Option<u64>, String> {
    let wrong = |other: &Parameter| format!("parameter '{name}': a number from 0 on was expected, {other:?} given");
    match parameters.get(name) {
        None => Ok(None),
        Some(Parameter::Unsigned(value)) => Ok(Some(*value)),
        Some(value @ Parameter::Int(n)) => u64::try_from(*n).map(Some).map_err(|_| wrong(value)),
        // Some clients send every parameter as text.
        Some(value @ Parameter::Text(text)) => text.parse().map(Some).map_err(|_| wrong(value)),
        Some(other) => Err(wrong(other)),
    }
}

/// How long a request may take: `timeout` in microseconds, where 0 means without end.
///
/// # Errors
/// A value that is no number.
pub fn timeout(parameters: &Parameters) -> Result<Option<Duration>, String> {
    Ok(count(parameters, "timeout")?.filter(|&us| us > 0).map(Duration::from_micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Parameters {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn timeouts_are_microseconds() {
        for (json, expected) in [
            ("{}", Ok(None)),
            (r#"{"timeout": 0}"#, Ok(None)),
            (r#"{"timeout": 1500}"#, Ok(Some(Duration::from_micros(1500)))),
            (r#"{"timeout": "20"}"#, Ok(Some(Duration::from_micros(20)))),
            (r#"{"timeout": 18446744073709551615}"#, Ok(Some(Duration::from_micros(u64::MAX)))),
        ] {
            assert_eq!(timeout(&parse(json)), expected, "{json}");
        }
        for json in [r#"{"timeout": -1}"#, r#"{"timeout": 0.5}"#, r#"{"timeout": true}"#, r#"{"timeout": "soon"}"#] {
            assert!(timeout(&parse(json)).unwrap_err().contains("'timeout'"), "{json}");
        }
    }

    #[test]
    fn what_would_be_answered_wrongly_is_refused() {
        for json in [r#"{"shared_memory_region": "a"}"#, r#"{"classification": 2}"#, r#"{"sequence_id": 7}"#] {
            assert!(check(&parse(json)).unwrap_err().contains("does not have"), "{json}");
        }
        assert_eq!(check(&parse(r#"{"sequence_id": 0, "sequence_start": false, "priority": 3, "whatever": "x"}"#)), Ok(()));
    }
}
