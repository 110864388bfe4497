//! The service, which is a workspace of its own: its tests, Triton's client against it, and its load test.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::demo::binary;
use crate::packages;
use crate::shell::{self, Result, cache, cargo, command, root};

/// Triton's client and what its test needs.
const CLIENT: [&str; 3] = ["tritonclient[http,grpc]==2.73.0", "numpy", "pyyaml"];

/// What to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Clients that wait for one answer before they ask again.
    #[arg(long, default_value_t = 32)]
    clients: usize,
    /// Tokens of each request.
    #[arg(long, default_value_t = 64)]
    tokens: usize,
    /// Most rows of a batch.
    #[arg(long, default_value_t = 16)]
    max_batch: usize,
    /// Seconds for each measurement.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

fn serve_cargo(arguments: &[&str]) -> Command {
    let mut cargo = cargo();
    cargo.args(arguments).args(["--manifest-path", "serve/Cargo.toml"]).env("CARGO_TARGET_DIR", target());
    cargo
}

fn target() -> PathBuf {
    root().join("target/serve")
}

/// Format, lints and tests of the service, and Triton's client against it. Needs `slidec` and `sliderun` beside the running program.
pub fn test() -> Result<()> {
    shell::run(serve_cargo(&["fmt"]).arg("--check"))?;
    shell::run(serve_cargo(&["clippy", "--all-targets"]).args(["--", "-D", "warnings"]))?;
    shell::run(&mut serve_cargo(&["test", "--no-fail-fast"]))?;
    let python = match packages::python_packages("tritonclient", &CLIENT) {
        Ok(python) => python,
        Err(error) => {
            println!("skipped: Triton's client cannot be had from a package index: {error}");
            return Ok(());
        }
    };
    shell::run(&mut serve_cargo(&["build"]))?;
    let plan = plan(&packages::minilm()?)?;
    let mut script = command("python3");
    script.env("PYTHONPATH", python).arg("tests/serving/test_tritonclient.py").arg("--plan").arg(plan);
    shell::run(script.arg("--serve").arg(target().join("debug/sliderun-serve")).arg("--sliderun").arg(binary("sliderun")))
}

/// `cargo xtask serve-bench`: throughput of single batches beside that of the service, its latencies, and three times too many requests.
pub fn bench(options: &Options) -> Result<()> {
    shell::run(cargo().args(["build", "--package", "slidec", "--bins"]))?;
    shell::run(cargo().args(["build", "--release", "--package", "sliderun"]))?;
    shell::run(serve_cargo(&["build", "--release"]).args(["--bins", "--examples"]))?;
    let plan = plan(&packages::minilm()?)?;
    for batch in [1, 2, 4, 8, 16, 32] {
        let shape = format!("batch_size={batch},sequence_length={}", options.tokens);
        let mut bench = command(root().join("target/release/sliderun"));
        shell::run(bench.arg("bench").arg(&plan).args(["--shape", &shape, "--duration", "5"]))?;
    }
    let mut load = command(target().join("release/examples/load"));
    load.arg(target().join("release/sliderun-serve")).arg(&plan);
    for (name, value) in [
        ("--clients", options.clients.to_string()),
        ("--tokens", options.tokens.to_string()),
        ("--max-batch", options.max_batch.to_string()),
        ("--seconds", options.seconds.to_string()),
    ] {
        load.args([name, &value]);
    }
    shell::run(&mut load)
}

/// MiniLM-L3 as a dense f32 plan.
fn plan(model: &Path) -> Result<PathBuf> {
    let plan = cache().join("serving/minilm.slide");
    std::fs::create_dir_all(cache().join("serving")).map_err(|e| format!("cannot create {}: {e}", plan.display()))?;
    shell::run(command(binary("slidec")).arg("compile").arg(model).arg("-o").arg(&plan).args([
        "--sparsity",
        "dense",
        "--precision",
        "f32",
    ]))?;
    Ok(plan)
}
