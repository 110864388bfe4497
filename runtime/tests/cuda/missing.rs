//! Machines without a GPU or without libraries: errors that help, and never a panic.

use std::process::Command;

use sliderun::cuda::driver::{Context, Driver};
use sliderun::cuda::{cublaslt, cusparselt, nvml};

/// In the child process of the next test: prints what each library says.
#[test]
fn child() {
    if std::env::var_os("SLIDERUN_TEST_CHILD").is_none() {
        return;
    }
    let print = |name: &str, result: Result<String, sliderun::cuda::CudaError>| match result {
        Ok(found) => println!("{name}: found {found}"),
        Err(e) => println!("{name}: {e}"),
    };
    print("cusparselt", cusparselt::version().map(|v| format!("{v:?}")));
    print("cublaslt", cublaslt::version().map(|v| v.to_string()));
    print("nvml", nvml::driver_version());
    print("driver", Driver::get().map(|d| d.version().to_string()));
    print("ordinal", Context::new(1000).map(|_| String::new()));
}

#[test]
fn missing_libraries_are_errors_that_help() {
    let empty = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "missing::child", "--nocapture"])
        .env("SLIDERUN_TEST_CHILD", "1")
        .env("SLIDERUN_CUDA_PATH", empty.path())
        .env("PATH", empty.path())
        .env("HOME", empty.path())
        .env_remove("VIRTUAL_ENV")
        .env_remove("LD_LIBRARY_PATH")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let place = format!("{}, from SLIDERUN_CUDA_PATH", empty.path().display());
    // A machine may have any of them where the loader looks.
    for (name, file, install) in [
        ("cusparselt", "libcusparseLt.so.0", "pip install nvidia-cusparselt-cu13"),
        ("cublaslt", "libcublasLt.so.13", "pip install nvidia-cublas"),
    ] {
        let said = text.split(&format!("{name}: ")).nth(1).unwrap_or_else(|| panic!("{text}"));
        if !said.starts_with("found") {
            assert!(said.contains(file) && said.contains("was not found"), "{said}");
            assert!(said.contains(&place) && said.contains(install) && said.contains("SLIDERUN_CUDA_PATH to"), "{said}");
        }
    }
    let driver = text.split("driver: ").nth(1).unwrap_or_else(|| panic!("{text}"));
    if !driver.starts_with("found") {
        assert!(
            driver.contains("libcuda.so.1") || driver.contains("no CUDA device") || driver.contains("driver 580"),
            "{driver}"
        );
    }
    let ordinal = text.split("ordinal: ").nth(1).unwrap_or_else(|| panic!("{text}"));
    assert!(!ordinal.starts_with("found"), "{ordinal}");
}

#[test]
fn versions_of_libraries_that_are_there() {
    if let Some(version) = crate::support::present(cusparselt::version()) {
        println!("cuSPARSELt {version:?}");
        assert!(matches!(version, (0, 8..=10, _)));
    }
    if let Some(version) = crate::support::present(cublaslt::version()) {
        println!("cuBLASLt {version}");
        assert!(version >= 130_000, "{version}");
    }
}
