//! Plans.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use sliderun::plan::PlanOptions;
use sliderun::plan::signature::Signers;

use crate::error::{of_plan, of_plan_file};

/// A plan that has been read and checked.
#[pyclass(frozen, module = "sliderun")]
pub struct Plan {
    pub plan: Arc<sliderun::plan::Plan>,
}

#[pymethods]
impl Plan {
    /// Opens a plan's file, by mapping it into memory or by reading it. signers: public Ed25519 keys as the text of a PEM file; a plan that
    /// none of them has signed is refused.
    #[staticmethod]
    #[pyo3(signature = (path, *, mmap = true, signers = None))]
    fn open(py: Python<'_>, path: PathBuf, mmap: bool, signers: Option<&str>) -> PyResult<Plan> {
        let options = options(signers)?.with_no_mmap(!mmap);
        let plan = py.detach(|| sliderun::plan::Plan::open_with(&path, &options));
        plan.map(|plan| Plan { plan: plan.into() }).map_err(|e| of_plan_file(&path, e))
    }

    /// A plan from bytes, which are copied. signers: as for open.
    #[staticmethod]
    #[pyo3(signature = (data, *, signers = None))]
    fn from_bytes(data: &[u8], signers: Option<&str>) -> PyResult<Plan> {
        let plan = sliderun::plan::Plan::copied_with(data, &options(signers)?);
        plan.map(|plan| Plan { plan: plan.into() }).map_err(of_plan)
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

    /// The key that signed it, in hexadecimal, where it was opened with signers.
    #[getter]
    fn signer(&self) -> Option<String> {
        self.plan.signer().map(|key| key.to_string())
    }

    fn __repr__(&self) -> String {
        format!("Plan(size={}, digest='{}…')", self.plan.size(), &self.digest()[..12])
    }
}

fn options(signers: Option<&str>) -> PyResult<PlanOptions> {
    let signers = signers.map(Signers::from_pem).transpose();
    Ok(PlanOptions::default().with_signers(signers.map_err(|e| PyValueError::new_err(format!("signers: {e}")))?))
}
