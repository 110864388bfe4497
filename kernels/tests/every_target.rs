//! Every header, instantiated broadly (`instances/*.cu`), compiles for every architecture. What the kernels compute is checked on GPUs.

use std::fs;
use std::path::Path;

use slidec_kernels::{Cache, CompileError, Compiler, HEADERS};
use sliderun::cuda::library::LibraryError;
use sliderun::plan::Architecture;

/// NVRTC, or none with a printed reason when this machine has none.
fn compiler(cache: Option<Cache>) -> Option<Compiler> {
    match Compiler::new(cache) {
        Ok(compiler) => Some(compiler),
        Err(CompileError::Library(e @ (LibraryError::Missing { .. } | LibraryError::Header { .. }))) => {
            println!("skipped: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

fn check(architecture: &str) {
    let architecture: Architecture = architecture.parse().unwrap();
    let Some(compiler) = compiler(None) else { return };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/instances");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 3);
    for file in files {
        let source = fs::read_to_string(&file).unwrap();
        let cubin = compiler.compile(&source, architecture).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        assert_eq!(cubin[..4], *b"\x7fELF", "{}", file.display());
    }
}

#[test]
fn all_headers_go_into_one_source() {
    let Some(compiler) = compiler(None) else { return };
    let source: String = HEADERS.iter().map(|(name, _)| format!("#include \"{name}\"\n")).collect();
    compiler.compile(&source, Architecture::SUPPORTED[0]).unwrap_or_else(|e| panic!("{e}"));
}

macro_rules! architectures {
    ($($name:ident),*) => {
        $(#[test] fn $name() { check(stringify!($name)); })*

        #[test]
        fn none_is_left_out() {
            assert_eq!([$(stringify!($name)),*], Architecture::SUPPORTED.map(|a| a.to_string())[..]);
        }
    };
}

architectures!(sm_80, sm_86, sm_87, sm_89, sm_90a, sm_100a, sm_120);

#[test]
fn a_cubin_comes_from_the_cache_the_second_time() {
    let root = tempfile::tempdir().unwrap();
    let Some(compiler) = compiler(Some(Cache::new(root.path()))) else { return };
    let source = "#include \"vector.cuh\"\nextern \"C\" __global__ void nothing() {}";
    let architecture = Architecture::SUPPORTED[0];
    let cubin = compiler.compile(source, architecture).unwrap();
    let entries: Vec<_> = fs::read_dir(root.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    // Bytes that no compiler makes, under a digest that fits: they come back, so the cache was asked.
    fs::write(&entries[0], [blake3::hash(b"kept").as_bytes(), b"kept".as_slice()].concat()).unwrap();
    assert_eq!(compiler.compile(source, architecture).unwrap(), b"kept");
    fs::write(&entries[0], b"damaged").unwrap();
    assert_eq!(compiler.compile(source, architecture).unwrap(), cubin);
}

#[test]
fn errors_carry_the_log() {
    let Some(compiler) = compiler(None) else { return };
    let message =
        |source: &str, architecture: &str| compiler.compile(source, architecture.parse().unwrap()).unwrap_err().to_string();
    let wrong = message("__global__ void k() { undeclared(); }", "sm_80");
    assert!(wrong.contains("cannot compile kernels for sm_80:\n") && wrong.contains("\"undeclared\" is undefined"), "{wrong}");
    let unknown = message("", "sm_999");
    assert!(unknown.contains("sm_999") && unknown.contains("gpu-architecture"), "{unknown}");
}
