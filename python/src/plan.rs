//! Plans.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;

use crate::error::of_plan;

/// A plan that has been read and checked.
#[pyclass(frozen, module = "sliderun")]
pub struct Plan {
    pub plan: Arc<sliderun::plan::Plan>,
}

#[pymethods]
impl Plan {
    /// Opens a plan's file, by mapping it into memory or by reading it.
    #[staticmethod]
    #[pyo3(signature = (path, *, mmap = true))]
    fn open(py: Python<'_>, path: PathBuf, mmap: bool) -> PyResult<Plan> {
        let open = if mmap { sliderun::plan::Plan::open } else { sliderun::plan::Plan::open_unmapped };
        py.detach(|| open(&path)).map(|plan| Plan { plan: plan.into() }).map_err(of_plan)
    }

    /// A plan from bytes, which are copied.
    #[staticmethod]
    fn from_bytes(data: &[u8]) -> PyResult<Plan> {
        sliderun::plan::Plan::copied(data).map(|plan| Plan { plan: plan.into() }).map_err(of_plan)
    }

    /// Reads all of the plan and compares it with its digests.
    fn check(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| self.plan.check()).map_err(of_plan)
    }

    /// Size of the file in bytes.
    #[getter]
    fn size(&self) -> u64 {
        self.plan.size()
    }

    /// BLAKE3 of everything that the plan says, in hexadecimal.
    #[getter]
    fn digest(&self) -> String {
        self.plan.digest().to_string()
    }

    fn __repr__(&self) -> String {
        format!("Plan(size={}, digest='{}…')", self.plan.size(), &self.digest()[..12])
    }
}
