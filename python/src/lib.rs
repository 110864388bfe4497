//! `sliderun._sliderun`: what the Python package is made of. It converts; the package's Python code is what people use.
//!
//! Must not know: NumPy, how plans are read or run.

mod dlpack;
mod error;
mod plan;
mod session;
mod tensor;

/// The native part of `sliderun`.
#[pyo3::pymodule]
mod _sliderun {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::error::{PlanError, SessionError};
    #[pymodule_export]
    use super::plan::Plan;
    #[pymodule_export]
    use super::session::{Port, Session};
    #[pymodule_export]
    use super::tensor::Tensor;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
