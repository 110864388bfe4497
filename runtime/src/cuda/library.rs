//! Finding and loading CUDA's shared libraries.
//!
//! Knows file names and folders; must not know what is in a library.

#![allow(unsafe_code)]

mod search;

use std::ffi::CStr;
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

pub use search::Search;

/// A library to look for.
#[derive(Clone, Copy, Debug)]
pub struct LibrarySpec {
    /// What it is called in messages.
    pub what: &'static str,
    /// File names that will do, the preferred one first: exact names with the major version, `libnvrtc.so.13`.
    pub files: &'static [&'static str],
    /// What the file names in the same folder begin with that the library itself loads by bare name: these are loaded first, because
    /// the loader does not look in that folder by itself.
    pub companions: &'static [&'static str],
    /// How to get it: a command.
    pub install: &'static str,
    /// Whether only the loader may find it: the driver's libraries belong to the machine, and a toolkit brings stubs of them.
    pub system_only: bool,
}

/// The driver.
pub const DRIVER: LibrarySpec = LibrarySpec {
    what: "the NVIDIA driver",
    files: &["libcuda.so.1"],
    companions: &[],
    install: "install the NVIDIA driver of this machine (in a container: run it with the NVIDIA container runtime)",
    system_only: true,
};

/// NVML, which reads clocks, power and temperature.
pub const NVML: LibrarySpec = LibrarySpec {
    what: "NVML",
    files: &["libnvidia-ml.so.1"],
    companions: &[],
    install: "install the NVIDIA driver of this machine (in a container: with the capability 'utility')",
    system_only: true,
};

/// cuSPARSELt, for structured sparse products.
pub const CUSPARSELT: LibrarySpec = LibrarySpec {
    what: "cuSPARSELt",
    files: &["libcusparseLt.so.0"],
    companions: &[],
    install: "python3 -m pip install nvidia-cusparselt-cu13",
    system_only: false,
};

/// cuBLASLt, for dense products.
pub const CUBLASLT: LibrarySpec = LibrarySpec {
    what: "cuBLASLt",
    files: &["libcublasLt.so.13"],
    companions: &[],
    install: "python3 -m pip install nvidia-cublas",
    system_only: false,
};

/// NVRTC, which compiles CUDA C++. The runtime does not use it.
pub const NVRTC: LibrarySpec = LibrarySpec {
    what: "NVRTC",
    files: &["libnvrtc.so.13"],
    companions: &["libnvrtc-builtins.so."],
    install: "python3 -m pip install 'nvidia-cuda-nvrtc==13.0.*' 'nvidia-cuda-runtime==13.0.*'",
    system_only: false,
};

/// Why a library cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[allow(missing_docs)]
pub enum LibraryError {
    #[error(
        "{what} ({}) was not found. Looked in:\n{}\nTo get it: {install}{}",
        files.join(" or "), looked.iter().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n"), hint(*system_only)
    )]
    Missing { what: &'static str, files: &'static [&'static str], looked: Vec<String>, install: &'static str, system_only: bool },
    #[error("{what} at {} has no function {symbol}: it is too old, or not what its name says. To get a newer one: {install}", path.display())]
    Symbol { what: &'static str, path: PathBuf, symbol: String, install: &'static str },
    #[error("the header {header} was not found. Looked in:\n{}\nTo get it: {install}{}", looked.iter().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n"), hint(false))]
    Header { header: String, looked: Vec<String>, install: &'static str },
}

fn hint(system_only: bool) -> &'static str {
    if system_only {
        ""
    } else {
        "\nOr set SLIDERUN_CUDA_PATH to a folder that holds it, at any depth up to four (colons part several)"
    }
}

/// A loaded library. It stays loaded until the process ends: CUDA's libraries start threads and register exit handlers, and are not
/// made for being unloaded. So functions taken from it stay valid.
pub struct Library {
    spec: LibrarySpec,
    path: PathBuf,
    handle: ManuallyDrop<libloading::Library>,
}

impl Library {
    /// Finds and loads a library where the process's environment says: see [`Search`].
    ///
    /// # Errors
    /// [`LibraryError::Missing`], with every place looked at and why a file found there could not be loaded.
    pub fn load(spec: LibrarySpec) -> Result<Library, LibraryError> {
        Library::load_from(spec, &Search::from_env())
    }

    /// [`Library::load`] with the places given.
    ///
    /// # Errors
    /// Likewise.
    pub fn load_from(spec: LibrarySpec, search: &Search) -> Result<Library, LibraryError> {
        let mut looked = Vec::new();
        for place in search.places(&spec) {
            let mut failures = Vec::new();
            for candidate in place.candidates(spec.files) {
                for companion in search::beside(&candidate, spec.companions) {
                    // A companion that does not load shows by the library's own error, if it matters.
                    if let Ok(loaded) = open(&companion) {
                        let _ = ManuallyDrop::new(loaded);
                    }
                }
                match open(&candidate) {
                    Ok(handle) => return Ok(Library { spec, path: candidate, handle: ManuallyDrop::new(handle) }),
                    // The loader says no more than "not found" about a bare name, which the line of the place says anyway.
                    Err(_) if candidate.parent() == Some(Path::new("")) => {}
                    Err(e) => failures.push(format!("{} cannot be loaded: {e}", candidate.display())),
                }
            }
            looked.push(place.to_string());
            looked.append(&mut failures);
        }
        let LibrarySpec { what, files, install, system_only, .. } = spec;
        Err(LibraryError::Missing { what, files, looked, install, system_only })
    }

    /// Where it was found; a bare file name where the loader found it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A function of the library.
    ///
    /// # Errors
    /// [`LibraryError::Symbol`] when there is none of that name.
    ///
    /// # Safety
    /// `F` is the function pointer type that the C declaration of `name` says.
    pub unsafe fn function<F: Copy>(&self, name: &CStr) -> Result<F, LibraryError> {
        const { assert!(size_of::<F>() == size_of::<*const ()>(), "a function pointer") };
        // SAFETY: the caller says that F is the function's type; the library is never unloaded, so that a copy stays valid.
        match unsafe { self.handle.get::<F>(name.to_bytes_with_nul()) } {
            Ok(symbol) => Ok(*symbol),
            Err(_) => Err(LibraryError::Symbol {
                what: self.spec.what,
                path: self.path.clone(),
                symbol: name.to_string_lossy().into_owned(),
                install: self.spec.install,
            }),
        }
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Library").field("what", &self.spec.what).field("path", &self.path).finish()
    }
}

fn open(path: &Path) -> Result<libloading::Library, libloading::Error> {
    // SAFETY: loading runs the library's initialisers. Candidates have the exact file names of NVIDIA's libraries and lie where the
    // user or the system keeps these; their initialisers ask nothing of the process.
    unsafe { libloading::Library::new(path) }
}

/// The folder with a header of CUDA's (`cuda_fp16.h`), for whoever compiles: the same places as for libraries, `include` for `lib`.
///
/// # Errors
/// [`LibraryError::Header`], with every place looked at.
pub fn find_header(header: &str, install: &'static str) -> Result<PathBuf, LibraryError> {
    Search::from_env().header(header, install)
}

/// A struct of functions that are all taken from a library when it is loaded: `NAME::load(Library)`.
///
/// The declarations are the C ones; that they are is what makes calling them sound, so they are kept in files of their own, `ffi.rs`.
#[macro_export]
macro_rules! foreign_functions {
    ($(#[$meta:meta])* $vis:vis struct $Table:ident { $(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)* }) => {
        $(#[$meta])*
        #[allow(non_snake_case, missing_docs)]
        $vis struct $Table {
            /// What the functions were taken from.
            #[allow(dead_code)]
            pub library: $crate::cuda::library::Library,
            $(pub $name: unsafe extern "C" fn($($arg: $ty),*) $(-> $ret)?,)*
        }

        impl $Table {
            /// Takes every function from the library.
            ///
            /// # Errors
            /// The first function that it has not.
            $vis fn load(library: $crate::cuda::library::Library) -> Result<$Table, $crate::cuda::library::LibraryError> {
                Ok($Table {
                    $(
                        // SAFETY: the type is the C declaration's, transcribed above.
                        $name: unsafe {
                            library.function::<unsafe extern "C" fn($($ty),*) $(-> $ret)?>(
                                match ::std::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                                    Ok(name) => name,
                                    Err(_) => unreachable!(),
                                },
                            )?
                        },
                    )*
                    library,
                })
            }
        }
    };
}
pub use foreign_functions;

#[cfg(test)]
mod tests;
