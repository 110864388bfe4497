//! Tensors: the library's own, and those whose memory another object holds.

// The boundary to Python's buffer protocol and DLPack.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::sync::Arc;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use sliderun::dtype::DType;
use sliderun::tensor::TensorView;

use crate::dlpack::{self, Imported};

/// Elements behind each other in host memory, the last axis fastest.
#[pyclass(frozen, module = "sliderun")]
pub struct Tensor {
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub memory: Arc<Memory>,
}

/// Bytes, and what keeps them alive.
pub struct Memory {
    /// Null only where there are no bytes.
    pub address: *mut u8,
    pub bytes: usize,
    pub writable: bool,
    _holder: Holder,
}

#[expect(dead_code, reason = "held for what dropping them does")]
enum Holder {
    Tensor(Box<sliderun::tensor::Tensor>),
    Buffer(PyBuffer<u8>),
    DlPack(Imported),
}

// SAFETY: the bytes may be read by any thread; that nobody writes them during a run is the caller's part, as with every library that takes arrays.
unsafe impl Send for Memory {}
// SAFETY: likewise.
unsafe impl Sync for Memory {}

impl Tensor {
    /// One that a run gave.
    pub fn owned(tensor: sliderun::tensor::Tensor) -> Tensor {
        let mut tensor = Box::new(tensor);
        let (dtype, shape) = (tensor.dtype(), tensor.shape().to_vec());
        // From here on the bytes are only used through this address.
        let data = tensor.bytes_mut();
        let (address, bytes) = (data.as_mut_ptr(), data.len());
        let memory = Memory { address, bytes, writable: true, _holder: Holder::Tensor(tensor) };
        Tensor { dtype, shape, memory: memory.into() }
    }

    /// What the runtime reads.
    pub fn view(&self) -> TensorView<'_> {
        let data = match self.memory.bytes {
            0 => &[],
            // SAFETY: the holder keeps this many bytes there as long as the tensor lives.
            bytes => unsafe { std::slice::from_raw_parts(self.memory.address, bytes) },
        };
        TensorView { dtype: self.dtype, shape: &self.shape, data }
    }
}

#[pymethods]
impl Tensor {
    /// A tensor in the memory of an object with the buffer protocol, whose bytes are the elements.
    #[staticmethod]
    fn from_buffer(buffer: &Bound<'_, PyAny>, dtype: &str, shape: Vec<usize>) -> PyResult<Tensor> {
        let dtype = dtype.parse::<DType>().map_err(|e| PyValueError::new_err(e.to_string()))?;
        let buffer = PyBuffer::<u8>::get(buffer)?;
        if !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err("the elements of the array do not lie behind each other"));
        }
        let (address, bytes) = (buffer.buf_ptr().cast::<u8>(), buffer.len_bytes());
        let memory = Memory { address, bytes, writable: !buffer.readonly(), _holder: Holder::Buffer(buffer) };
        Ok(Tensor { dtype, shape, memory: memory.into() })
    }

    /// A tensor in the memory of an object with `__dlpack__`, in host memory and contiguous.
    #[staticmethod]
    fn from_dlpack(tensor: &Bound<'_, PyAny>) -> PyResult<Tensor> {
        let imported = Imported::new(tensor)?;
        let (dtype, shape) = (imported.dtype, imported.shape.clone());
        let memory =
            Memory { address: imported.address, bytes: imported.bytes, writable: true, _holder: Holder::DlPack(imported) };
        Ok(Tensor { dtype, shape, memory: memory.into() })
    }

    /// Element type: "f32", "i64" …
    #[getter]
    fn dtype(&self) -> &'static str {
        self.dtype.name()
    }

    /// Extents, outermost first.
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.shape)
    }

    /// Size in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.memory.bytes
    }

    /// Where DLPack says that the tensor is: host memory.
    fn __dlpack_device__(&self) -> (i32, i32) {
        (dlpack::CPU, 0)
    }

    /// The tensor as a DLPack capsule, which shares its memory.
    #[pyo3(signature = (**options))]
    fn __dlpack__(&self, py: Python<'_>, options: Option<&Bound<'_, PyDict>>) -> PyResult<Py<PyAny>> {
        let option = |name: &str| -> PyResult<Option<Bound<'_, PyAny>>> {
            Ok(options.map(|o| o.get_item(name)).transpose()?.flatten().filter(|value| !value.is_none()))
        };
        if option("stream")?.is_some() {
            return Err(PyBufferError::new_err("a tensor in host memory has no stream"));
        }
        if let Some(device) = option("dl_device")?
            && device.extract::<(i32, i32)>()? != (dlpack::CPU, 0)
        {
            return Err(PyBufferError::new_err("the tensor is in host memory, and goes to no device by itself"));
        }
        if let Some(copy) = option("copy")?
            && copy.is_truthy()?
        {
            return Err(PyBufferError::new_err("the tensor is given as it is: copy what is made of it"));
        }
        dlpack::export(py, self)
    }

    /// The bytes of the elements.
    ///
    /// # Safety
    /// As Python's buffer protocol has it.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let memory = &slf.get().memory;
        let (address, bytes) = (memory.address.cast(), memory.bytes as ffi::Py_ssize_t);
        // SAFETY: `view` is Python's to be filled; the tensor, which it then holds, keeps the bytes there.
        let result = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), address, bytes, c_int::from(!memory.writable), flags) };
        if result == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }

    fn __repr__(&self) -> String {
        format!("Tensor({}{:?})", self.dtype, self.shape)
    }
}
