//! Sessions: plans made ready for a device, and what they say of themselves.

use std::ffi::c_char;

use sliderun::session::SessionOptions;

use crate::failure::{Failure, Status, guard};
use crate::plan::Plan;
use crate::pointer;
use crate::port::{Port, Ports, Symbol};

/// A plan made ready for a device. Any number of threads may use one at the same time, save for freeing it.
pub struct Session {
    pub(crate) session: sliderun::session::Session,
    ports: Ports,
}

/// How a session runs. Begin with SLIDERUN_OPTIONS_DEFAULT, so that programs still compile when there are more fields.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Options {
    /// sizeof(sliderun_options).
    pub struct_size: usize,
    /// Threads that one run uses on the CPU; 0: as many as there are processors.
    pub threads: usize,
    /// Most bytes of working memory that one run may take; 0: no limit. Set it for plans from strangers.
    pub memory_limit: usize,
    /// The variant of the plan's program for GPUs that runs, whatever the shape; null: the one that suits a shape best.
    pub variant: *const c_char,
}

/// # Safety
/// The header's rules for options.
unsafe fn options(options: *const Options) -> Result<SessionOptions, Failure> {
    if options.is_null() {
        return Ok(SessionOptions::default());
    }
    // SAFETY: as the caller promises.
    let given = unsafe { pointer::sized(options) }?;
    let mut made = SessionOptions::default()
        .with_threads((given.threads > 0).then_some(given.threads))
        .with_memory_limit((given.memory_limit > 0).then_some(given.memory_limit));
    if !given.variant.is_null() {
        // SAFETY: as the caller promises.
        made = made.with_variant(unsafe { pointer::text(given.variant, "variant") }?.to_owned());
    }
    Ok(made)
}

/// Makes a plan ready. `device`: "cpu", "cuda" or "cuda:N". `options`: null for the defaults. `session`: where the session goes, null after a
/// failure. The plan may be freed while the session lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_session_new(
    plan: *const Plan,
    device: *const c_char,
    options: *const Options,
    session: *mut *mut Session,
) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            pointer::make(session, "session", || {
                let plan = pointer::shared(plan, "plan")?.plan.clone();
                let device = pointer::text(device, "device")?;
                let device = device.parse().map_err(|e| Failure::argument(format!("{e}")))?;
                let session = sliderun::session::Session::new(plan, device, self::options(options)?)?;
                let ports = Ports::of(&session)?;
                Ok(Session { session, ports })
            })
        }
    })
}

/// Frees a session; does nothing with null. No run may be under way.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_session_free(session: *mut Session) {
    // SAFETY: as the caller promises.
    unsafe { pointer::free(session) }
}

/// Number of inputs; 0 for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_session_input_count(session: *const Session) -> usize {
    // SAFETY: as the caller promises.
    unsafe { session.as_ref() }.map_or(0, |s| s.ports.inputs.len())
}

/// Number of outputs; 0 for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_session_output_count(session: *const Session) -> usize {
    // SAFETY: as the caller promises.
    unsafe { session.as_ref() }.map_or(0, |s| s.ports.outputs.len())
}

/// Number of symbols; 0 for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_session_symbol_count(session: *const Session) -> usize {
    // SAFETY: as the caller promises.
    unsafe { session.as_ref() }.map_or(0, |s| s.ports.symbols.len())
}

/// Describes the input at `index`, in the model's order.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_session_input(session: *const Session, index: usize, port: *mut Port) -> Status {
    // SAFETY: as the caller promises.
    unsafe { entry(session, |ports| &ports.inputs, index, port, "input") }
}

/// Describes the output at `index`, in the model's order.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_session_output(session: *const Session, index: usize, port: *mut Port) -> Status {
    // SAFETY: as the caller promises.
    unsafe { entry(session, |ports| &ports.outputs, index, port, "output") }
}

/// Describes the symbol at `index`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sliderun_session_symbol(session: *const Session, index: usize, symbol: *mut Symbol) -> Status {
    // SAFETY: as the caller promises.
    unsafe { entry(session, |ports| &ports.symbols, index, symbol, "symbol") }
}

/// # Safety
/// `session` is null or a session, `place` null or to be written.
unsafe fn entry<T: Copy>(session: *const Session, list: fn(&Ports) -> &[T], index: usize, place: *mut T, what: &str) -> Status {
    guard(|| {
        // SAFETY: as the caller promises.
        unsafe {
            let list = list(&pointer::shared(session, "session")?.ports);
            let none = || Failure::argument(format!("there is no {what} {index}: there are {}", list.len()));
            pointer::store(place, *list.get(index).ok_or_else(none)?, what)
        }
    })
}
