//! Sessions: plans made ready for a device.

use std::collections::BTreeMap;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use sliderun::session::SessionOptions;

use crate::error::of_session;
use crate::plan::Plan;
use crate::tensor::Tensor;

/// Name and type of an input or output.
#[pyclass(frozen, module = "sliderun")]
pub struct Port {
    port: sliderun::session::Port,
}

#[pymethods]
impl Port {
    /// The model's name for it.
    #[getter]
    fn name(&self) -> &str {
        &self.port.name
    }

    /// Element type: "f32", "i64" …
    #[getter]
    fn dtype(&self) -> &'static str {
        self.port.ty.dtype.name()
    }

    /// Extents: numbers, or text where they depend on symbols.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let extent = |dim: &sliderun::dim::Dim| match dim.as_const() {
            Some(n) => Ok(n.into_pyobject(py)?.into_any()),
            None => Ok(dim.to_string().into_pyobject(py)?.into_any()),
        };
        PyTuple::new(py, self.port.ty.shape.iter().map(extent).collect::<PyResult<Vec<_>>>()?)
    }

    fn __repr__(&self) -> String {
        format!("Port({})", self.port)
    }
}

/// A plan made ready for a device.
#[pyclass(frozen, module = "sliderun")]
pub struct Session {
    session: sliderun::session::Session,
}

#[pymethods]
impl Session {
    #[new]
    #[pyo3(signature = (plan, device = "cpu", *, threads = None, memory_limit = None, variant = None))]
    fn new(
        py: Python<'_>,
        plan: &Bound<'_, Plan>,
        device: &str,
        threads: Option<usize>,
        memory_limit: Option<usize>,
        variant: Option<String>,
    ) -> PyResult<Session> {
        let plan = plan.get().plan.clone();
        let device: sliderun::session::Device = device.parse().map_err(|e| PyValueError::new_err(format!("{e}")))?;
        py.detach(move || {
            let options = SessionOptions::default().with_threads(threads).with_memory_limit(memory_limit).with_variant(variant);
            sliderun::session::Session::new(plan, device, options)
        })
        .map(|session| Session { session })
        .map_err(of_session)
    }

    /// The inputs, in the model's order.
    #[getter]
    fn inputs(&self) -> Vec<Port> {
        ports(self.session.inputs())
    }

    /// The outputs, in the model's order.
    #[getter]
    fn outputs(&self) -> Vec<Port> {
        ports(self.session.outputs())
    }

    /// The symbols that extents mention, with the least and the largest value for which the plan was compiled.
    #[getter]
    fn symbols(&self) -> BTreeMap<String, (i64, i64)> {
        self.session.symbols().iter().map(|s| (s.name.clone(), (s.min, s.max))).collect()
    }

    /// Threads that one run uses.
    #[getter]
    fn threads(&self) -> usize {
        self.session.threads()
    }

    /// The extents of all outputs for inputs of these.
    fn output_shapes<'py>(
        &self,
        py: Python<'py>,
        inputs: BTreeMap<String, Vec<usize>>,
    ) -> PyResult<BTreeMap<String, Bound<'py, PyTuple>>> {
        let inputs: Vec<(&str, &[usize])> = inputs.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
        let shapes = self.session.output_shapes(&inputs).map_err(of_session)?;
        let named = self.session.outputs().iter().zip(shapes);
        named.map(|(port, shape)| Ok((port.name.clone(), PyTuple::new(py, shape)?))).collect()
    }

    /// Runs the plan on (name, tensor) pairs; gives (name, tensor) pairs in the order of the outputs. Other Python threads run meanwhile.
    fn run(&self, py: Python<'_>, inputs: Vec<(String, Py<Tensor>)>) -> PyResult<Vec<(String, Tensor)>> {
        let inputs: Vec<_> = inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.get().view())).collect();
        let outputs = py.detach(|| self.session.run(&inputs)).map_err(of_session)?;
        Ok(outputs.into_iter().map(|(name, tensor)| (name, Tensor::owned(tensor))).collect())
    }
}

fn ports(ports: &[sliderun::session::Port]) -> Vec<Port> {
    ports.iter().map(|port| Port { port: port.clone() }).collect()
}
