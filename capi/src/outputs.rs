//! Outputs that the library owns.

use std::ffi::{CString, c_void};

use crate::failure::{Failure, Status, guard};
use crate::pointer;
use crate::tensor::{Dtype, Tensor};

/// What a run gave. It does not need its session.
pub struct Outputs {
    tensors: Vec<(CString, sliderun::tensor::Tensor)>,
}

impl Outputs {
    pub(crate) fn new(tensors: Vec<(String, sliderun::tensor::Tensor)>) -> Result<Outputs, Failure> {
        let named = |(name, tensor)| Some((CString::new::<String>(name).ok()?, tensor));
        let tensors = tensors.into_iter().map(named).collect::<Option<_>>();
        // A session whose names have one cannot be made.
        tensors
            .map(|tensors| Outputs { tensors })
            .ok_or_else(|| Failure::new(Status::BadPlan, "an output's name has a NUL in it"))
    }
}

/// Number of outputs; 0 for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_outputs_count(outputs: *const Outputs) -> usize {
    // SAFETY: as the caller promises.
    unsafe { outputs.as_ref() }.map_or(0, |o| o.tensors.len())
}

/// The output at `index`, in the model's order. What it points to lives as long as `outputs`; its data is aligned to 64 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_outputs_get(outputs: *const Outputs, index: usize, tensor: *mut Tensor) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            let tensors = &pointer::shared(outputs, "outputs")?.tensors;
            let none = || Failure::argument(format!("there is no output {index}: there are {}", tensors.len()));
            let (name, data) = tensors.get(index).ok_or_else(none)?;
            let given = Tensor {
                name: name.as_ptr(),
                dtype: Dtype::of(data.dtype()),
                rank: data.shape().len(),
                shape: data.shape().as_ptr(),
                data: data.bytes().as_ptr().cast::<c_void>(),
                bytes: data.bytes().len(),
            };
            pointer::store(tensor, given, "tensor")
        }
    })
}

/// Frees outputs; does nothing with null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_outputs_free(outputs: *mut Outputs) {
    // SAFETY: as the caller promises.
    unsafe { pointer::free(outputs) }
}
