//! DLPack (<https://dmlc.github.io/dlpack/latest/>): tensors from and to other libraries without a copy. Host memory only.

// The boundary to DLPack's C structs.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use sliderun::dtype::DType;

use crate::tensor::{Memory, Tensor};

/// DLPack's number for host memory.
pub const CPU: i32 = 1;

const NAME: &CStr = c"dltensor";
const USED: &CStr = c"used_dltensor";

#[repr(C)]
struct DlDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct DlTensor {
    data: *mut c_void,
    device: [i32; 2],
    ndim: i32,
    dtype: DlDataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

#[repr(C)]
struct DlManagedTensor {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut DlManagedTensor)>,
}

/// DLPack's code of each element type; the bits follow from its size.
const CODES: [(DType, u8); 15] = [
    (DType::I8, 0),
    (DType::I16, 0),
    (DType::I32, 0),
    (DType::I64, 0),
    (DType::U8, 1),
    (DType::U16, 1),
    (DType::U32, 1),
    (DType::U64, 1),
    (DType::F16, 2),
    (DType::F32, 2),
    (DType::F64, 2),
    (DType::Bf16, 4),
    (DType::Bool, 6),
    (DType::F8e4m3, 10),
    (DType::F8e5m2, 12),
];

fn bits(dtype: DType) -> u8 {
    8 * dtype.size() as u8
}

/// Another library's tensor.
pub struct Imported {
    managed: *mut DlManagedTensor,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub address: *mut u8,
    pub bytes: usize,
}

// SAFETY: DLPack's deleters may be called from any thread.
unsafe impl Send for Imported {}
// SAFETY: nothing is changed but by dropping.
unsafe impl Sync for Imported {}

impl Drop for Imported {
    fn drop(&mut self) {
        // SAFETY: the capsule was taken over, so this is ours to delete, once.
        unsafe { delete(self.managed) }
    }
}

/// # Safety
/// `managed` is DLPack's, and not used again.
unsafe fn delete(managed: *mut DlManagedTensor) {
    // SAFETY: as the caller promises.
    unsafe {
        if let Some(deleter) = (*managed).deleter {
            deleter(managed);
        }
    }
}

impl Imported {
    /// Takes over what `__dlpack__` gives.
    pub fn new(tensor: &Bound<'_, PyAny>) -> PyResult<Imported> {
        let (device, _): (i32, i32) = tensor.call_method0("__dlpack_device__")?.extract()?;
        if device != CPU {
            return Err(PyBufferError::new_err(format!(
                "the tensor is not in host memory (DLPack device {device}): copy it there, sessions on GPUs take host tensors too"
            )));
        }
        let capsule = tensor.call_method0("__dlpack__")?;
        // SAFETY: the capsule is alive, and holds a managed tensor when it has DLPack's name.
        let managed = unsafe {
            if ffi::PyCapsule_IsValid(capsule.as_ptr(), NAME.as_ptr()) == 0 {
                return Err(PyTypeError::new_err("__dlpack__ did not give a capsule named 'dltensor'"));
            }
            let managed = ffi::PyCapsule_GetPointer(capsule.as_ptr(), NAME.as_ptr()).cast::<DlManagedTensor>();
            // From here on it is ours to delete.
            if ffi::PyCapsule_SetName(capsule.as_ptr(), USED.as_ptr()) != 0 {
                return Err(PyErr::fetch(tensor.py()));
            }
            managed
        };
        let mut imported = Imported { managed, dtype: DType::U8, shape: Vec::new(), address: std::ptr::null_mut(), bytes: 0 };
        // SAFETY: alive as long as `imported`, which deletes it.
        imported.read(unsafe { &(*managed).tensor })?;
        Ok(imported)
    }

    fn read(&mut self, tensor: &DlTensor) -> PyResult<()> {
        let DlDataType { code, bits: width, lanes } = tensor.dtype;
        let known = CODES.iter().find(|(dtype, c)| *c == code && bits(*dtype) == width && lanes == 1);
        self.dtype = known.map(|(dtype, _)| *dtype).ok_or_else(|| {
            PyTypeError::new_err(format!("no element type for DLPack's code {code} with {width} bits, {lanes} lanes"))
        })?;
        let rank = usize::try_from(tensor.ndim).map_err(|_| PyBufferError::new_err("a tensor of negative rank"))?;
        // SAFETY: DLPack has `ndim` extents, and as many strides where there are any.
        let list = |pointer: *const i64| match rank {
            0 => &[][..],
            _ => unsafe { std::slice::from_raw_parts(pointer, rank) },
        };
        let shape: Result<Vec<usize>, _> = list(tensor.shape).iter().map(|&n| usize::try_from(n)).collect();
        self.shape = shape.map_err(|_| PyBufferError::new_err("a tensor of negative extents"))?;
        if !tensor.strides.is_null() && !is_contiguous(&self.shape, list(tensor.strides)) {
            return Err(PyBufferError::new_err("the tensor's elements do not lie behind each other: make it contiguous"));
        }
        let elements = sliderun::tensor::checked_elements(&self.shape);
        let bytes = elements.and_then(|n| n.checked_mul(self.dtype.size()));
        self.bytes = bytes.ok_or_else(|| PyBufferError::new_err("a tensor larger than memory"))?;
        if self.bytes > 0 {
            self.address = tensor.data.cast::<u8>().wrapping_add(tensor.byte_offset as usize);
        }
        Ok(())
    }
}

/// Elements from one to the next along each axis of a contiguous tensor.
fn strides(shape: &[usize]) -> Vec<i64> {
    let inner = |axis: usize| shape[axis + 1..].iter().fold(1i64, |step, &n| step.saturating_mul(n as i64));
    (0..shape.len()).map(inner).collect()
}

fn is_contiguous(shape: &[usize], given: &[i64]) -> bool {
    // Nobody steps along an axis of one element.
    shape.contains(&0) || shape.iter().zip(strides(shape)).zip(given).all(|((&n, wanted), &stride)| n == 1 || stride == wanted)
}

/// What an exported tensor holds.
struct Exported {
    managed: DlManagedTensor,
    shape: Vec<i64>,
    strides: Vec<i64>,
    _memory: Arc<Memory>,
}

/// A capsule that shares a tensor's memory.
pub fn export(py: Python<'_>, tensor: &Tensor) -> PyResult<Py<PyAny>> {
    let code = CODES.iter().find(|(dtype, _)| *dtype == tensor.dtype).map_or(0, |(_, code)| *code);
    let dtype = DlDataType { code, bits: bits(tensor.dtype), lanes: 1 };
    let mut exported = Box::new(Exported {
        managed: DlManagedTensor {
            tensor: DlTensor {
                data: tensor.memory.address.cast(),
                device: [CPU, 0],
                ndim: tensor.shape.len() as i32,
                dtype,
                shape: std::ptr::null_mut(),
                strides: std::ptr::null_mut(),
                byte_offset: 0,
            },
            context: std::ptr::null_mut(),
            deleter: Some(delete_exported),
        },
        shape: tensor.shape.iter().map(|&n| n as i64).collect(),
        strides: strides(&tensor.shape),
        _memory: tensor.memory.clone(),
    });
    exported.managed.tensor.shape = exported.shape.as_mut_ptr();
    exported.managed.tensor.strides = exported.strides.as_mut_ptr();
    let exported = Box::into_raw(exported);
    // SAFETY: `managed` lives in the box until `delete_exported` takes that back, which the consumer or the capsule's destructor calls once.
    unsafe {
        (*exported).managed.context = exported.cast();
        let managed = &raw mut (*exported).managed;
        let capsule = ffi::PyCapsule_New(managed.cast(), NAME.as_ptr(), Some(destroy_capsule));
        if capsule.is_null() {
            drop(Box::from_raw(exported));
            return Err(PyErr::fetch(py));
        }
        Ok(Bound::from_owned_ptr(py, capsule).unbind())
    }
}

/// # Safety
/// `managed` came from [`export`] and is not used again.
unsafe extern "C" fn delete_exported(managed: *mut DlManagedTensor) {
    // SAFETY: as the caller promises: the context is the box.
    unsafe { drop(Box::from_raw((*managed).context.cast::<Exported>())) }
}

/// # Safety
/// Python calls it with a capsule from [`export`], once.
unsafe extern "C" fn destroy_capsule(capsule: *mut ffi::PyObject) {
    // SAFETY: as Python promises; a capsule that somebody has taken over has another name.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) != 0 {
            delete(ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr()).cast());
        }
    }
}
