//! Values of command-line arguments that more than one command takes.

use sliderun::dim::Bindings;
use sliderun::plan::manifest::SymbolRange;
use sliderun::tool::run::read_input;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use super::failure::{Complaint, Failure};
use super::inputs::finish;
use super::output::Spinner;
use crate::calibration::{Calibration, CalibrationDevice, Engine};
use crate::ir::Constant;
use crate::options::PruneMethod;

/// `NAME=FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// The tensor.
    pub name: String,
    /// The file.
    pub file: PathBuf,
}

impl FromStr for NamedFile {
    type Err = String;

    /// The first `=` splits the two.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, file)) if !name.is_empty() && !file.is_empty() => {
                Ok(NamedFile { name: name.to_owned(), file: file.into() })
            }
            _ => Err("NAME=FILE was expected, like input_ids=ids.npy".to_owned()),
        }
    }
}

/// The tensors in files, by name.
///
/// # Errors
/// A file that is no readable `.npy` file, a name given twice.
pub fn load_all(files: &[NamedFile]) -> super::Result<BTreeMap<String, Constant>> {
    let mut out = BTreeMap::new();
    for NamedFile { name, file } in files {
        let tensor = finish(&format!("'{name}' was not read"), read_input(file, None))?;
        if out.insert(name.clone(), Constant::from_tensor(&tensor)).is_some() {
            return Err(Failure::usage(format!("'{name}' is given twice"), "give each name one file"));
        }
    }
    Ok(out)
}

/// Calibration data, where it is given.
///
/// # Errors
/// Files that cannot be read or cannot be data of any model.
pub fn calibration(path: Option<&Path>) -> super::Result<Option<Arc<Calibration>>> {
    let read = |path: &Path| {
        let what = || format!("the calibration data '{}' was not read", path.display());
        Calibration::read(path).map(Arc::new).map_err(|e| Failure::because(what(), Complaint::of_diagnostic(&e)))
    };
    path.map(read).transpose()
}

/// What runs the model on calibration data; says on stderr which device it took.
pub fn engine(device: CalibrationDevice, spinner: &Arc<Spinner>) -> Arc<Engine> {
    let spinner = spinner.clone();
    Arc::new(Engine::new(device, move |what| spinner.leave(format_args!("note: {what}"))))
}

/// Says on stderr that a method goes by made-up inputs, where it does.
pub fn warn_without_calibration(methods: impl IntoIterator<Item = PruneMethod>, calibration: Option<&Calibration>) {
    let needy = methods.into_iter().find(|method| method.needs_calibration());
    if let (Some(method), None) = (needy, calibration) {
        // Warnings go on without a reader.
        let _ = writeln!(
            io::stderr(),
            "warning: {method} goes by what the model's inputs are like, and none are given: random ones say little; --calib takes real ones"
        );
    }
}

/// `NAME=MIN..MAX` or `NAME=VALUE`.
///
/// # Errors
/// Other text, bounds below 0 or the wrong way around.
pub fn symbol_range(text: &str) -> Result<SymbolRange, String> {
    let expected = || format!("'{text}' is not of the form NAME=MIN..MAX or NAME=VALUE, like batch=1..32");
    let (name, range) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(expected)?;
    let (min, max) = range.split_once("..").unwrap_or((range, range));
    let number = |s: &str| s.trim().parse::<i64>().ok().filter(|v| *v >= 0).ok_or_else(expected);
    let (min, max) = (number(min)?, number(max)?);
    if min > max {
        return Err(format!("the range of {name} is empty: {min} is above {max}"));
    }
    Ok(SymbolRange { name: name.trim().to_owned(), min, max })
}

/// A number of threads.
///
/// # Errors
/// Text that is not a number above 0 and within reason.
pub fn threads(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|n| (1..=4096).contains(n)).ok_or_else(|| "a number from 1 to 4096 was expected".to_owned())
}

/// Values of symbols, like `batch=2,seq=64`.
///
/// # Errors
/// Other text.
pub fn symbols(text: &str) -> Result<Bindings, String> {
    sliderun::tool::symbols::parse(text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_symbols() {
        let range = |name: &str, min, max| Ok(SymbolRange { name: name.into(), min, max });
        assert_eq!(symbol_range("batch=1..32"), range("batch", 1, 32));
        assert_eq!(symbol_range("seq=128"), range("seq", 128, 128));
        for bad in ["", "batch", "=1", "batch=", "batch=a..b", "batch=-1", "batch=8..1", "batch=1..2..3"] {
            assert!(symbol_range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn named_files() {
        let named = |name: &str, file: &str| Ok(NamedFile { name: name.into(), file: file.into() });
        assert_eq!("x=a/b.npy".parse(), named("x", "a/b.npy"));
        assert_eq!("x=a=b.npy".parse(), named("x", "a=b.npy"));
        for bad in ["x", "=a", "x="] {
            assert!(bad.parse::<NamedFile>().is_err(), "{bad}");
        }
    }
}
