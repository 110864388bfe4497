//! NVRTC, NVIDIA's run-time compiler of CUDA C++, as a safe function. It needs no GPU.
//!
//! Source of the declarations: `nvrtc.h` of CUDA 13.0.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::ptr;

use sliderun::cuda::library::{Library, LibraryError, NVRTC, foreign_functions};

/// `nvrtcProgram`: an opaque pointer.
type Program = *mut std::ffi::c_void;

/// `NVRTC_ERROR_COMPILATION` and `NVRTC_ERROR_INVALID_OPTION`: failures that the log explains.
const EXPLAINED: [c_int; 2] = [6, 5];

foreign_functions! {
    struct Functions {
        fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int;
        fn nvrtcGetErrorString(result: c_int) -> *const c_char;
        fn nvrtcCreateProgram(
            program: *mut Program,
            source: *const c_char,
            name: *const c_char,
            header_count: c_int,
            headers: *const *const c_char,
            include_names: *const *const c_char,
        ) -> c_int;
        fn nvrtcCompileProgram(program: Program, option_count: c_int, options: *const *const c_char) -> c_int;
        fn nvrtcGetProgramLogSize(program: Program, size: *mut usize) -> c_int;
        fn nvrtcGetProgramLog(program: Program, log: *mut c_char) -> c_int;
        fn nvrtcGetCUBINSize(program: Program, size: *mut usize) -> c_int;
        fn nvrtcGetCUBIN(program: Program, cubin: *mut c_char) -> c_int;
        fn nvrtcGetPTXSize(program: Program, size: *mut usize) -> c_int;
        fn nvrtcGetPTX(program: Program, ptx: *mut c_char) -> c_int;
        fn nvrtcDestroyProgram(program: *mut Program) -> c_int;
    }
}

/// Why NVRTC gave no cubin.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum NvrtcError {
    #[error("{log}")]
    Rejected { log: String },
    #[error("{call} failed: {reason}")]
    Call { call: &'static str, reason: String },
    #[error("a text for NVRTC has a zero byte in it")]
    ZeroByte(#[from] std::ffi::NulError),
}

/// What a source is compiled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Machine code.
    Cubin,
    /// The assembly language that it is made from, ending with a zero byte.
    Ptx,
}

/// The loaded library.
pub struct Nvrtc {
    functions: Functions,
}

impl Nvrtc {
    /// Finds and loads it.
    ///
    /// # Errors
    /// A library that is not there, or one without its functions.
    pub fn load() -> Result<Nvrtc, LibraryError> {
        Ok(Nvrtc { functions: Functions::load(Library::load(NVRTC)?)? })
    }

    /// Where it was found; a bare name where the loader found it.
    pub fn path(&self) -> &Path {
        self.functions.library.path()
    }

    /// Its version, major and minor.
    ///
    /// # Errors
    /// Whatever it reports.
    pub fn version(&self) -> Result<(i32, i32), NvrtcError> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: two valid pointers to ints.
        self.check("nvrtcVersion", unsafe { (self.functions.nvrtcVersion)(&mut major, &mut minor) })?;
        Ok((major, minor))
    }

    /// Compiles `source`, which may include `headers` (name and text).
    ///
    /// # Errors
    /// Errors in the source or the options, with the compiler's log.
    pub fn compile(&self, source: &str, headers: &[(&str, &str)], options: &[String], to: Output) -> Result<Vec<u8>, NvrtcError> {
        let source = CString::new(source)?;
        let options = options.iter().map(|o| CString::new(o.as_str())).collect::<Result<Vec<_>, _>>()?;
        let names = headers.iter().map(|(name, _)| CString::new(*name)).collect::<Result<Vec<_>, _>>()?;
        let texts = headers.iter().map(|(_, text)| CString::new(*text)).collect::<Result<Vec<_>, _>>()?;
        let (options, names, texts) = (pointers(&options), pointers(&names), pointers(&texts));

        let functions = &self.functions;
        let mut program = Guard { functions, program: ptr::null_mut() };
        // SAFETY: zero-terminated texts that outlive the call, two arrays of as many of them as is said.
        let created = unsafe {
            (functions.nvrtcCreateProgram)(
                &mut program.program,
                source.as_ptr(),
                c"plan.cu".as_ptr(),
                headers.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        self.check("nvrtcCreateProgram", created)?;
        // SAFETY: a program that was created, and an array of zero-terminated texts of the length given.
        let compiled = unsafe { (functions.nvrtcCompileProgram)(program.program, options.len() as c_int, options.as_ptr()) };
        if EXPLAINED.contains(&compiled) {
            let log = self.fetch(
                &program,
                ("nvrtcGetProgramLogSize", functions.nvrtcGetProgramLogSize),
                ("nvrtcGetProgramLog", functions.nvrtcGetProgramLog),
            )?;
            let log = String::from_utf8_lossy(log.strip_suffix(&[0]).unwrap_or(&log)).trim_end().to_owned();
            return Err(NvrtcError::Rejected { log });
        }
        self.check("nvrtcCompileProgram", compiled)?;
        let (size, get) = match to {
            Output::Cubin => (("nvrtcGetCUBINSize", functions.nvrtcGetCUBINSize), ("nvrtcGetCUBIN", functions.nvrtcGetCUBIN)),
            Output::Ptx => (("nvrtcGetPTXSize", functions.nvrtcGetPTXSize), ("nvrtcGetPTX", functions.nvrtcGetPTX)),
        };
        self.fetch(&program, size, get)
    }

    /// Bytes that NVRTC gives by two calls: their number, then themselves.
    fn fetch(
        &self,
        program: &Guard<'_>,
        (size_call, get_size): (&'static str, unsafe extern "C" fn(Program, *mut usize) -> c_int),
        (call, get): (&'static str, unsafe extern "C" fn(Program, *mut c_char) -> c_int),
    ) -> Result<Vec<u8>, NvrtcError> {
        let mut size = 0;
        // SAFETY: a live program and a valid pointer.
        self.check(size_call, unsafe { get_size(program.program, &mut size) })?;
        let mut bytes = vec![0u8; size];
        // SAFETY: a live program and as many bytes as it said that it writes.
        self.check(call, unsafe { get(program.program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    fn check(&self, call: &'static str, result: c_int) -> Result<(), NvrtcError> {
        if result == 0 {
            return Ok(());
        }
        // SAFETY: any number may be asked about; the answer is a constant text of the library.
        let text = unsafe { (self.functions.nvrtcGetErrorString)(result) };
        // SAFETY: as above, zero-terminated.
        let reason =
            if text.is_null() { format!("error {result}") } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into() };
        Err(NvrtcError::Call { call, reason })
    }
}

/// Destroys its program.
struct Guard<'a> {
    functions: &'a Functions,
    program: Program,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if !self.program.is_null() {
            // SAFETY: a program that was created and is not used afterwards. Its result changes nothing.
            unsafe { (self.functions.nvrtcDestroyProgram)(&mut self.program) };
        }
    }
}

fn pointers(texts: &[CString]) -> Vec<*const c_char> {
    texts.iter().map(|t| t.as_ptr()).collect()
}
