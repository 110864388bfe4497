//! A cubin for this GPU, by the NVRTC that is found.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

use sliderun::cuda::library::{Library, NVRTC};

type Program = *mut c_void;

sliderun::foreign_functions! {
    struct Api {
        fn nvrtcCreateProgram(
            program: *mut Program, source: *const c_char, name: *const c_char,
            headers: c_int, sources: *const *const c_char, names: *const *const c_char,
        ) -> c_int;
        fn nvrtcCompileProgram(program: Program, count: c_int, options: *const *const c_char) -> c_int;
        fn nvrtcGetCUBINSize(program: Program, bytes: *mut usize) -> c_int;
        fn nvrtcGetCUBIN(program: Program, cubin: *mut c_char) -> c_int;
        fn nvrtcDestroyProgram(program: *mut Program) -> c_int;
        fn nvrtcGetErrorString(code: c_int) -> *const c_char;
    }
}

/// Compiles CUDA C++ for a compute capability such as `90`; none, with the reason printed, without NVRTC.
pub fn compile(source: &CStr, capability: &str) -> Option<Vec<u8>> {
    let api = crate::support::present(Library::load(NVRTC).and_then(Api::load).map_err(Into::into))?;
    let check = |code| {
        // SAFETY: any code may be asked for; the text is a constant.
        assert_eq!(code, 0, "{:?}", unsafe { CStr::from_ptr((api.nvrtcGetErrorString)(code)) });
    };
    let option = CString::new(format!("--gpu-architecture=sm_{capability}")).unwrap();
    let mut program = ptr::null_mut();
    let mut len = 0;
    // SAFETY: C strings that live through the calls, and places for the results, of the lengths that are told.
    unsafe {
        check((api.nvrtcCreateProgram)(&mut program, source.as_ptr(), c"test.cu".as_ptr(), 0, ptr::null(), ptr::null()));
        check((api.nvrtcCompileProgram)(program, 1, [option.as_ptr()].as_ptr()));
        check((api.nvrtcGetCUBINSize)(program, &mut len));
        let mut cubin = vec![0u8; len];
        check((api.nvrtcGetCUBIN)(program, cubin.as_mut_ptr().cast()));
        check((api.nvrtcDestroyProgram)(&mut program));
        Some(cubin)
    }
}
