//! The C interface of sliderun. `include/sliderun.h` is made of these files: what a C program may do is said there, in the words of the
//! documentation here.
//!
//! Invariants: no panic leaves a function, no function keeps a caller's pointer but where it says so, and what a caller can get wrong in a way
//! that can be seen (null, sizes, names, types) is a status and not undefined behaviour. Everything else belongs to the runtime: this crate
//! converts and must not know how plans are read or run.

// This is the boundary to C: every function takes raw pointers, and what each asks of them is said once, in the header's introduction
// (`cbindgen.toml`).
#![allow(unsafe_code, clippy::missing_safety_doc)]

mod failure;
mod outputs;
mod plan;
mod pointer;
mod port;
mod run;
mod session;
mod tensor;

use std::ffi::c_char;

/// Grows when a change of the header would break programs that were compiled with an earlier one.
pub const SLIDERUN_ABI_VERSION: u32 = 1;

/// The library's version, such as "0.1.0".
#[unsafe(no_mangle)]
pub extern "C" fn sliderun_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// The SLIDERUN_ABI_VERSION that the library was built with: compare it with the header's where the library is a shared one.
#[unsafe(no_mangle)]
pub extern "C" fn sliderun_abi_version() -> u32 {
    SLIDERUN_ABI_VERSION
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
