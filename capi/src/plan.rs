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

/// How a plan is opened. Begin with SLIDERUN_PLAN_OPTIONS_DEFAULT, so that programs still compile when there are more fields.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PlanOptions {
    /// sizeof(sliderun_plan_options).
    pub struct_size: usize,
    /// 1: a file is read into memory, 0: it is mapped.
    pub no_mmap: u32,
    /// Public Ed25519 keys, as the text of a PEM file: a plan that none of them has signed is refused, and of one that is not, all data is
    /// checked. Null: no signature is required.
    pub signers: *const c_char,
}

/// # Safety
/// The header's rules for options.
unsafe fn options(options: *const PlanOptions) -> Result<sliderun::plan::PlanOptions, Failure> {
    if options.is_null() {
        return Ok(sliderun::plan::PlanOptions::default());
    }
    // SAFETY: as the caller promises.
    let given = unsafe { pointer::sized(options) }?;
    let made = sliderun::plan::PlanOptions::default().with_no_mmap(match given.no_mmap {
        0 => false,
        1 => true,
        other => return Err(Failure::argument(format!("no_mmap is {other}, which is neither 0 nor 1"))),
    });
    if given.signers.is_null() {
        return Ok(made);
    }
    // SAFETY: as the caller promises.
    let text = unsafe { pointer::text(given.signers, "signers") }?;
    #[cfg(feature = "signatures")]
    return match sliderun::plan::signature::Signers::from_pem(text) {
        Ok(signers) => Ok(made.with_signers(signers)),
        Err(e) => Err(Failure::argument(format!("signers: {e}"))),
    };
    #[cfg(not(feature = "signatures"))]
    Err(Failure::argument(format!("signers are {} bytes, but this library was built without signatures", text.len())))
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
    unsafe { open_file(path, plan, || Ok(sliderun::plan::PlanOptions::default())) }
}

/// As sliderun_plan_open, but reads the file into memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_plan_open_unmapped(path: *const c_char, plan: *mut *mut Plan) -> Status {
    // SAFETY: as the caller promises.
    unsafe { open_file(path, plan, || Ok(sliderun::plan::PlanOptions::default().with_no_mmap(true))) }
}

/// As sliderun_plan_open, as `given` says; null for the defaults. A signature that is required may also lie beside the file, with .sig behind
/// its name. A file that somebody may rewrite should not be mapped where a signature is required: it could change after it was checked.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_plan_open_with(path: *const c_char, given: *const PlanOptions, plan: *mut *mut Plan) -> Status {
    // SAFETY: as the caller promises.
    unsafe { open_file(path, plan, || options(given)) }
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

/// As sliderun_plan_from_bytes, as `given` says; null for the defaults. A signature that is required must be behind the plan.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_plan_from_bytes_with(
    bytes: *const c_void,
    len: usize,
    given: *const PlanOptions,
    plan: *mut *mut Plan,
) -> Status {
    // SAFETY: as the caller promises.
    unsafe {
        open(plan, || {
            let bytes = pointer::many(bytes.cast::<u8>(), len, "bytes")?;
            sliderun::plan::Plan::copied_with(bytes, &options(given)?).map_err(Failure::from)
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

/// # Safety
/// The header's rules for strings and options, and `plan` is null or may be written.
unsafe fn open_file(
    path: *const c_char,
    plan: *mut *mut Plan,
    options: impl FnOnce() -> Result<sliderun::plan::PlanOptions, Failure>,
) -> Status {
    // SAFETY: as the caller promises.
    unsafe {
        open(plan, || {
            let path = Path::new(pointer::text(path, "path")?);
            sliderun::plan::Plan::open_with(path, &options()?).map_err(|e| Failure::of_file(path, e))
        })
    }
}
