//! `cargo xtask bench`: our plans and ONNX Runtime on the CPU, in one interleaved run.

use std::path::Path;

use crate::demo::binary;
use crate::packages;
use crate::shell::{self, Result, cache, cargo, command, root};

/// What to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Shape of the inputs.
    #[arg(long, default_value = "batch_size=4,sequence_length=128")]
    shape: String,
    /// Threads for every engine.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Times that each engine takes its turn.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
}

/// The plans compared: name and compiler options.
const PLANS: [(&str, &[&str]); 4] = [
    ("f32", &["--sparsity", "dense", "--precision", "f32"]),
    ("int8", &["--sparsity", "dense", "--precision", "int8"]),
    ("6:8-f32", &["--sparsity", "6:8", "--prune", "magnitude", "--precision", "f32"]),
    ("6:8-int8", &["--sparsity", "6:8", "--prune", "magnitude", "--precision", "int8"]),
];

/// Builds the runtime in release mode, compiles the plans and runs the comparison.
pub fn run(options: &Options) -> Result<()> {
    let model = packages::minilm()?;
    let python = packages::python_packages("python", &["onnxruntime==1.32.0", "numpy"])?;
    // The compiler's speed is not measured: it need not be built once more in release mode.
    shell::run(cargo().args(["build", "--package", "slidec", "--bins"]))?;
    shell::run(cargo().args(["build", "--release", "--package", "sliderun"]))?;
    let folder = cache().join("bench");
    std::fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;

    let mut script = command("python3");
    script.env("PYTHONPATH", python).arg("tests/bench/cpu_vs_onnxruntime.py").arg("--model").arg(&model);
    script.arg("--sliderun").arg(root().join("target/release/sliderun")).args(["--shape", &options.shape]);
    script.args(["--threads", &options.threads.to_string(), "--rounds", &options.rounds.to_string()]);
    for (name, arguments) in PLANS {
        let plan = folder.join(format!("{}.slide", name.replace(':', "x")));
        compile(&model, &plan, arguments)?;
        script.arg("--plan").arg(format!("{name}={}", plan.display()));
    }
    shell::run(&mut script)
}

fn compile(model: &Path, plan: &Path, arguments: &[&str]) -> Result<()> {
    shell::run(
        command(binary("slidec"))
            .arg("compile")
            .arg(model)
            .arg("-o")
            .arg(plan)
            .args(arguments)
            .stdout(std::process::Stdio::null()),
    )
}
