//! Statuses, the message of a thread's last failure, and the guard that keeps panics on this side.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use sliderun::plan::PlanError;
use sliderun::session::SessionError;

/// What a call came to. sliderun_last_error says more.
#[repr(i32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// A null pointer, text that is not UTF-8, an index or an option that does not exist.
    InvalidArgument = 1,
    /// A file that cannot be read.
    Io = 2,
    /// A file or memory that holds no valid plan, one of another format version, damaged data, or no signature where one is required.
    BadPlan = 3,
    /// A device that is not there, that this build or the plan does not support, or that failed.
    Device = 4,
    /// An input or output that is missing, unknown or given twice, or whose element type, shape, size or address does not fit.
    BadTensor = 5,
    /// Not enough memory, or more than the limit that was set.
    OutOfMemory = 6,
    /// A step of the plan refused its data, such as an index out of range.
    RunFailed = 7,
    /// A defect of the library. The session that was used must only be freed.
    Panicked = 8,
}

/// Why a call failed.
pub(crate) struct Failure {
    status: Status,
    message: String,
}

impl Failure {
    pub fn new(status: Status, message: impl Into<String>) -> Failure {
        Failure { status, message: message.into() }
    }

    pub fn argument(message: impl Into<String>) -> Failure {
        Failure::new(Status::InvalidArgument, message)
    }
}

impl Failure {
    /// Why a plan's file could not be opened; says which.
    pub fn of_file(path: &Path, error: PlanError) -> Failure {
        let names_it = matches!(error, PlanError::Io { .. });
        let message = if names_it { error.to_string() } else { format!("{}: {error}", path.display()) };
        Failure::new(plan_status(&error), message)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Failure {
        Failure::new(plan_status(&error), error.to_string())
    }
}

fn plan_status(error: &PlanError) -> Status {
    match error {
        PlanError::Io { .. } => Status::Io,
        PlanError::OutOfMemory(_) => Status::OutOfMemory,
        _ => Status::BadPlan,
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Failure {
        use SessionError as E;
        let status = match &error {
            E::Plan(error) => plan_status(error),
            E::NoCuda | E::NotForCuda | E::NoModule { .. } | E::NotOnCuda => Status::Device,
            #[cfg(feature = "cuda")]
            E::Cuda(_) => Status::Device,
            E::UnknownVariant { .. } | E::NoThreads => Status::InvalidArgument,
            E::UnknownInput { .. }
            | E::MissingInput { .. }
            | E::DuplicateInput { .. }
            | E::InputType { .. }
            | E::InputData { .. }
            | E::InputExtent { .. }
            | E::UnknownOutput { .. }
            | E::DuplicateOutput { .. }
            | E::DeviceAddress { .. }
            | E::SymbolConflict { .. }
            | E::SymbolRange { .. } => Status::BadTensor,
            E::Memory { .. } | E::Threads(_) => Status::OutOfMemory,
            _ => Status::RunFailed,
        };
        Failure::new(status, error.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Runs what a function does: what it panics with becomes a status, and why it failed is remembered for [`sliderun_last_error`].
pub(crate) fn guard(call: impl FnOnce() -> Result<(), Failure>) -> Status {
    // Nothing of the caller's is looked at again after a panic, and the runtime's own state is behind locks that are taken again.
    let result = catch_unwind(AssertUnwindSafe(call));
    let failure = match result {
        Ok(Ok(())) => return Status::Ok,
        Ok(Err(failure)) => failure,
        Err(panic) => Failure::new(Status::Panicked, format!("sliderun panicked: {}", panic_message(&*panic))),
    };
    remember(failure.message);
    failure.status
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

fn remember(message: String) {
    let mut bytes = message.into_bytes();
    bytes.retain(|&b| b != 0);
    let message = CString::new(bytes).unwrap_or_default();
    // A thread that is ending has no message any more.
    let _ = LAST.try_with(|last| last.replace(message));
}

/// Why the last call that failed on this thread did: UTF-8, valid until the next call that fails on this thread or the thread's end; empty
/// where none has failed. Never null.
#[unsafe(no_mangle)]
pub extern "C" fn sliderun_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}
