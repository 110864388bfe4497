//! Exceptions.

use std::path::Path;

use pyo3::PyErr;
use pyo3::create_exception;
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyValueError};

create_exception!(
    sliderun,
    PlanError,
    PyValueError,
    "A plan that cannot be used: damaged, invalid or of another format version."
);
create_exception!(sliderun, SessionError, PyRuntimeError, "A session that cannot be made, or a run that failed.");

/// What a plan's error is in Python: OSError for files, MemoryError, PlanError for everything else.
pub fn of_plan(error: sliderun::plan::PlanError) -> PyErr {
    use sliderun::plan::PlanError as E;
    match &error {
        E::Io { path, source } => match source.raw_os_error() {
            // With the number, Python makes it the subclass that it is: FileNotFoundError …
            Some(number) => PyOSError::new_err((number, source.to_string(), path.display().to_string())),
            None => PyOSError::new_err(error.to_string()),
        },
        E::OutOfMemory(_) => PyMemoryError::new_err(error.to_string()),
        _ => PlanError::new_err(error.to_string()),
    }
}

/// As [`of_plan`], of a plan's file, which the message names.
pub fn of_plan_file(path: &Path, error: sliderun::plan::PlanError) -> PyErr {
    use sliderun::plan::PlanError as E;
    match &error {
        E::Io { .. } | E::OutOfMemory(_) => of_plan(error),
        _ => PlanError::new_err(format!("{}: {error}", path.display())),
    }
}

/// What a session's error is in Python: ValueError for inputs that do not fit, SessionError for most else.
pub fn of_session(error: sliderun::session::SessionError) -> PyErr {
    use sliderun::session::SessionError as E;
    match error {
        E::Plan(error) => of_plan(error),
        E::UnknownInput { .. }
        | E::MissingInput { .. }
        | E::DuplicateInput { .. }
        | E::InputType { .. }
        | E::InputData { .. }
        | E::InputExtent { .. }
        | E::UnknownOutput { .. }
        | E::UnknownVariant { .. }
        | E::NoThreads
        | E::SymbolConflict { .. }
        | E::SymbolRange { .. } => PyValueError::new_err(error.to_string()),
        E::Memory { .. } => PyMemoryError::new_err(error.to_string()),
        _ => SessionError::new_err(error.to_string()),
    }
}
