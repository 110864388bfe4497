//! `cargo xtask test`: format, lints, all tests, those of the C and Python packages and of the service, and the GPU benchmark as far as it goes without a GPU.

use crate::checks;
use crate::gpu_bench;
use crate::packages;
use crate::python;
use crate::serving;
use crate::shell::{self, Result, cargo, succeeds};
use crate::size;

/// Runs everything; the first failure ends it.
pub fn run() -> Result<()> {
    shell::run(cargo().args(["fmt", "--all", "--check"]))?;
    shell::run(cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    packages::fetch_all()?;
    size::dependencies()?;
    checks::dependencies()?;
    let cuda = packages::cuda()?;
    let environment = python::environment()?;
    let path = environment.as_deref().map(python::path).transpose()?;
    let cargo = || {
        let mut cargo = cargo();
        if let Some(path) = &path {
            cargo.env("PATH", path);
        }
        if let Some(path) = &cuda {
            cargo.env("SLIDERUN_CUDA_PATH", path);
        }
        cargo
    };
    // The C library, which the tests of the C sample link.
    shell::run(cargo().args(["build", "--workspace", "--lib"]))?;
    if succeeds(cargo().args(["nextest", "--version"])) {
        shell::run(cargo().args(["nextest", "run", "--workspace", "--no-fail-fast"]))?;
    } else {
        println!("cargo-nextest is not installed: using cargo test");
        shell::run(cargo().args(["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"]))?;
    }
    shell::run(cargo().args(["test", "--workspace", "--doc"]))?;
    checks::miri()?;
    if let Some(environment) = &environment {
        python::test(environment)?;
    }
    serving::test()?;
    gpu_bench::rehearse()
}
