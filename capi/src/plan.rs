//! Plans: from files and from memory.

use std::ffi::{c_char, c_void};
use std::path::Path;
use std::sync::Arc;

use crate::failure::{Failure, Status, guard};
use crate::pointer;

/// A plan that has been read and checked. Several sessions may be made of one; it may be freed while they live.
pub struct Plan {
    pub(crate) plan: Arc<sliderun::plan::Plan>,
}

/// The alignment of bytes that sliderun_plan_from_static_bytes uses in place.
pub const SLIDERUN_PLAN_ALIGNMENT: usize = 64;
const _: () = assert!(SLIDERUN_PLAN_ALIGNMENT == sliderun::tensor::ALIGN);

/// Opens a plan's file by mapping it into memory. Until the plan and all its sessions are freed nobody may shorten or rewrite the file
/// (replacing it by a rename is fine); where that cannot be had use sliderun_plan_open_unmapped.
/// `path`: UTF-8. `plan`: where the plan goes, null after a failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_plan_open(path: *const c_char, plan: *mut *mut Plan) -> Status {
    // SAFETY: as the caller promises.
    unsafe { open(plan, || sliderun::plan::Plan::open(Path::new(pointer::text(path, "path")?)).map_err(Failure::from)) }
}

/// As sliderun_plan_open, but reads the file into memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_plan_open_unmapped(path: *const c_char, plan: *mut *mut Plan) -> Status {
    // SAFETY: as the caller promises.
    unsafe { open(plan, || sliderun::plan::Plan::open_unmapped(Path::new(pointer::text(path, "path")?)).map_err(Failure::from)) }
}

/// A plan whose `len` bytes are copied: they may be freed when the call is back.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_plan_from_bytes(bytes: *const c_void, len: usize, plan: *mut *mut Plan) -> Status {
    // SAFETY: as the caller promises.
    unsafe {
        open(plan, || {
            let bytes = pointer::many(bytes.cast::<u8>(), len, "bytes")?;
            sliderun::plan::Plan::copied(bytes).map_err(Failure::from)
        })
    }
}

/// A plan whose `len` bytes are used where they are: they must stay as they are until the plan and all its sessions are freed, as those of a
/// constant array do. Bytes that are not aligned to SLIDERUN_PLAN_ALIGNMENT are copied.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_plan_from_static_bytes(bytes: *const c_void, len: usize, plan: *mut *mut Plan) -> Status {
    // SAFETY: as the caller promises; that the bytes outlive all that is made of them is what 'static is for.
    unsafe {
        open(plan, || {
            let bytes: &'static [u8] = pointer::many(bytes.cast::<u8>(), len, "bytes")?;
            sliderun::plan::Plan::from_bytes(bytes).map_err(Failure::from)
        })
    }
}

/// Reads all of a plan and compares it with its digests. Otherwise each part is checked when a session first uses it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_plan_check(plan: *const Plan) -> Status {
    // SAFETY: as the caller promises.
    guard(|| Ok(unsafe { pointer::shared(plan, "plan") }?.plan.check()?))
}

/// Frees a plan; does nothing with null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_plan_free(plan: *mut Plan) {
    // SAFETY: as the caller promises.
    unsafe { pointer::free(plan) }
}

/// # Safety
/// `plan` is null or may be written.
unsafe fn open(plan: *mut *mut Plan, read: impl FnOnce() -> Result<sliderun::plan::Plan, Failure>) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe { pointer::make(plan, "plan", || Ok(Plan { plan: Arc::new(read()?) })) }
    })
}
