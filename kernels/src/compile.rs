//! From CUDA C++ to cubins: options, the registered headers, CUDA's own headers, the cache.

use std::path::{Path, PathBuf};

use sliderun::cuda::library::{LibraryError, NVRTC, find_header};
use sliderun::plan::Architecture;

use crate::HEADERS;
use crate::cache::{Cache, Key};
use crate::nvrtc::{Nvrtc, NvrtcError, Output};

/// The CUDA header by which the folder of all of them is found.
const CUDA_HEADER: &str = "cuda_fp16.h";

/// Why there is no cubin.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CompileError {
    #[error(transparent)]
    Library(#[from] LibraryError),
    #[error("NVRTC {}.{} cannot compile kernels for {architecture}:\n{log}", version.0, version.1)]
    Rejected { architecture: Architecture, version: (i32, i32), log: String },
    #[error("NVRTC at {} failed: {reason}", path.display())]
    Nvrtc { path: PathBuf, reason: String },
}

/// NVRTC with what it needs beside a source, found once.
pub struct Compiler {
    nvrtc: Nvrtc,
    version: (i32, i32),
    include: PathBuf,
    cache: Option<Cache>,
}

impl Compiler {
    /// Finds NVRTC and CUDA's headers where [`sliderun::cuda::library`] looks; cubins are cached in `cache`.
    ///
    /// # Errors
    /// What is missing, where it was looked for and how to get it.
    pub fn new(cache: Option<Cache>) -> Result<Compiler, CompileError> {
        let nvrtc = Nvrtc::load()?;
        let version = nvrtc.version().map_err(|e| failed(&nvrtc, &e))?;
        // The headers beside the library are of its version.
        let beside = nvrtc.path().parent().and_then(Path::parent).map(|root| root.join("include"));
        let include = match beside.filter(|folder| folder.join(CUDA_HEADER).is_file()) {
            Some(folder) => folder,
            None => find_header(CUDA_HEADER, NVRTC.install)?,
        };
        Ok(Compiler { nvrtc, version, include, cache })
    }

    /// NVRTC's version, major and minor.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// What the cache could not read or write so far: it costs time and nothing else.
    pub fn warnings(&self) -> Vec<String> {
        self.cache.as_ref().map(Cache::troubles).unwrap_or_default()
    }

    /// Compiles a CUDA C++ source, which may include the registered headers and CUDA's own, to a cubin. The same source gives the same
    /// bytes.
    ///
    /// # Errors
    /// Errors in the source, or an architecture that this NVRTC does not know, with its log.
    pub fn compile(&self, source: &str, architecture: Architecture) -> Result<Vec<u8>, CompileError> {
        let key = Key::new(source, HEADERS, &options(architecture), self.version);
        if let Some(cubin) = self.cache.as_ref().and_then(|cache| cache.get(&key)) {
            return Ok(cubin);
        }
        let cubin = self.translate(source, architecture, Output::Cubin)?;
        if let Some(cache) = &self.cache {
            cache.keep(&key, &cubin);
        }
        Ok(cubin)
    }

    /// Compiles a source to PTX, for people and tests to read.
    ///
    /// # Errors
    /// As [`Compiler::compile`].
    pub fn ptx(&self, source: &str, architecture: Architecture) -> Result<String, CompileError> {
        let ptx = self.translate(source, architecture, Output::Ptx)?;
        Ok(String::from_utf8_lossy(ptx.strip_suffix(&[0]).unwrap_or(&ptx)).into_owned())
    }

    fn translate(&self, source: &str, architecture: Architecture, to: Output) -> Result<Vec<u8>, CompileError> {
        let mut options = options(architecture);
        options.push(format!("--include-path={}", self.include.display()));
        self.nvrtc.compile(source, HEADERS, &options, to).map_err(|e| match e {
            NvrtcError::Rejected { log } => CompileError::Rejected { architecture, version: self.version, log },
            e => failed(&self.nvrtc, &e),
        })
    }
}

/// Options that the result depends on.
fn options(architecture: Architecture) -> Vec<String> {
    vec![
        format!("--gpu-architecture={architecture}"),
        "--std=c++17".to_owned(),
        // `constexpr` functions are called on the device.
        "--device-as-default-execution-space".to_owned(),
    ]
}

fn failed(nvrtc: &Nvrtc, error: &NvrtcError) -> CompileError {
    CompileError::Nvrtc { path: nvrtc.path().to_owned(), reason: error.to_string() }
}
