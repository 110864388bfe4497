//! From a caller's pointers to references, as far as they can be checked.

use std::ffi::{CStr, c_char};

use crate::failure::{Failure, guard};

/// A string.
///
/// # Safety
/// `text` is null, or ends in a NUL and lives as long as what is made of it.
pub(crate) unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(null(what));
    }
    // SAFETY: not null, otherwise as the caller promises.
    unsafe { CStr::from_ptr(text) }.to_str().map_err(|_| Failure::argument(format!("{what} is not UTF-8")))
}

/// What a handle or a struct of the caller's is.
///
/// # Safety
/// `pointer` is null or points to a `T` that nobody changes as long as the reference lives.
pub(crate) unsafe fn shared<'a, T>(pointer: *const T, what: &str) -> Result<&'a T, Failure> {
    // SAFETY: as the caller promises.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(what))
}

/// Where a result goes.
///
/// # Safety
/// `pointer` is null or may be written.
pub(crate) unsafe fn store<T>(pointer: *mut T, value: T, what: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(null(what));
    }
    // SAFETY: as the caller promises; what was there is no value that would have to be dropped.
    unsafe { pointer.write(value) };
    Ok(())
}

/// A struct of options, whose first field is its size as the caller's header has it.
///
/// # Safety
/// `options` points to a struct that begins with a `usize` and is as large as that says.
pub(crate) unsafe fn sized<T: Copy>(options: *const T) -> Result<T, Failure> {
    // SAFETY: as the caller promises: at least the size is there.
    let size = unsafe { options.cast::<usize>().read() };
    if size != size_of::<T>() {
        let message = format!("struct_size is {size} where this library has options of {} bytes", size_of::<T>());
        return Err(Failure::argument(format!("{message}: header and library are of different versions, or it was not set")));
    }
    // SAFETY: as the caller promises, of the size that it says.
    Ok(unsafe { options.read() })
}

/// `len` things behind each other; the pointer may be null where there are none.
///
/// # Safety
/// `pointer` is null or points to `len` things that nobody changes as long as the reference lives.
pub(crate) unsafe fn many<'a, T>(pointer: *const T, len: usize, what: &str) -> Result<&'a [T], Failure> {
    check(pointer, len, what)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: not null, aligned and no larger than memory can be; otherwise as the caller promises.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// As [`many`], to be written.
///
/// # Safety
/// As [`many`], and nobody else reads or writes them either.
pub(crate) unsafe fn many_mut<'a, T>(pointer: *mut T, len: usize, what: &str) -> Result<&'a mut [T], Failure> {
    check(pointer, len, what)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `many`.
    Ok(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
}

fn check<T>(pointer: *const T, len: usize, what: &str) -> Result<(), Failure> {
    if len == 0 {
        return Ok(());
    }
    if pointer.is_null() {
        return Err(null(what));
    }
    if !pointer.is_aligned() {
        return Err(Failure::argument(format!("{what} is not aligned to {} bytes", align_of::<T>())));
    }
    match len.checked_mul(size_of::<T>()) {
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(()),
        _ => Err(Failure::argument(format!("{what} has more elements than memory can hold: {len}"))),
    }
}

fn null(what: &str) -> Failure {
    Failure::argument(format!("{what} is null"))
}

/// Puts a new handle where the caller wants it, and null there when it cannot be made.
///
/// # Safety
/// `place` is null or may be written.
pub(crate) unsafe fn make<T>(place: *mut *mut T, what: &str, new: impl FnOnce() -> Result<T, Failure>) -> Result<(), Failure> {
    // SAFETY: as the caller promises.
    unsafe {
        store(place, std::ptr::null_mut(), what)?;
        store(place, Box::into_raw(Box::new(new()?)), what)
    }
}

/// Frees a handle; null is none.
///
/// # Safety
/// `handle` is null or came from [`make`] and is not used again.
pub(crate) unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        // A panic while freeing leaves memory behind and is no reason to end the caller's process.
        guard(|| {
            // SAFETY: as the caller promises.
            drop(unsafe { Box::from_raw(handle) });
            Ok(())
        });
    }
}
