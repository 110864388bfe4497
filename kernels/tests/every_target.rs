//! Every header, instantiated broadly (`instances/*.cu`), compiles for every architecture. What the kernels compute is checked on GPUs.

use std::fs;
use std::path::Path;

use slidec_kernels::{Cache, CompileError, Compiler, HEADERS};
use sliderun::cuda::library::LibraryError;
use sliderun::disk_cache::DiskCache;
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
    let entries: Vec<_> = fs::read_dir(root.path().join("cubins")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    // Bytes that no compiler makes, under the same key: they come back, so the cache was asked.
    let entry = fs::read(&entries[0]).unwrap();
    let key = std::str::from_utf8(entry.split(|&b| b == b'\n').nth(1).unwrap()).unwrap();
    DiskCache::new(root.path()).put("cubins", key, b"kept").unwrap();
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

/// Rows are loaded by 16 bytes at a time; the compiler takes them apart where it loses sight of their alignment, and the kernel is right and
/// half as fast.
#[test]
fn rows_are_loaded_in_whole_vectors() {
    let Some(compiler) = compiler(None) else { return };
    let source = r#"
        #include "dequant.cuh"
        #include "norm.cuh"
        #include "quant_lift.cuh"
        using namespace slide;
        using bf16 = __nv_bfloat16;
        extern "C" __global__ void quantized(const bf16* x, signed char* to, float* scale, long long rows) {
            quant_lift<bf16, signed char, 4, 3584, 5376, RowTile<128, 1>>(x, to, scale, rows);
        }
        extern "C" __global__ void scaled(const int* x, const float* token, const float* channel, bf16* to, long long rows) {
            dequant<int, bf16, 3584, false, 64>(x, token, channel, nullptr, to, rows, Activate<Identity>{{}});
        }
        extern "C" __global__ void scaled_narrow(const bf16* x, const float* token, const float* channel, bf16* to, long long rows) {
            dequant<bf16, bf16, 3584, false, 64>(x, token, channel, nullptr, to, rows, Activate<Identity>{{}});
        }
        extern "C" __global__ void normal(const bf16* x, const bf16* scale, bf16* y, long long rows) {
            using Row = RegisterRow<RowGroup<224, 1>, 3584, 8>;
            normalize<Row, Norm::LAYER>(MatrixRows<bf16>{x, 3584}, SameRow<bf16>{scale}, NoBias{}, MatrixSink<bf16>{y, 3584}, rows, 3584, 1e-5f);
        }"#;
    let ptx = compiler.ptx(source, "sm_90a".parse().unwrap()).unwrap_or_else(|e| panic!("{e}"));
    let kernels: Vec<&str> = ptx.split(".visible .entry ").skip(1).collect();
    assert_eq!(kernels.len(), 4);
    for kernel in kernels {
        let name = kernel.split('(').next().unwrap();
        let loads = |width: &str| kernel.matches(&format!("ld.global{width}")).count();
        assert!(loads(".v4.u32") + loads(".v4.b32") >= 1, "{name} loads no vectors");
        assert_eq!(loads(".u8") + loads(".b8") + loads(".u16") + loads(".b16"), 0, "{name} loads single elements");
    }
}
