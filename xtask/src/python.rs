//! The Python package: its wheel built, installed into an environment of its own, and tested beside ONNX Runtime.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::demo::binary;
use crate::shell::{self, Result, cache, command, root, succeeds};

/// What the wheel and its tests need. CMake is for the C sample, which needs one.
const REQUIREMENTS: [&str; 5] = ["maturin>=1.9,<2", "numpy>=1.26", "ml_dtypes", "onnxruntime", "cmake"];

/// A small encoder layer as an exporter wrote it.
const MODEL: &str = "tests/fixtures/recognition/bert_layer_sdpa.ts.onnx";

/// An environment with [`REQUIREMENTS`], or `None`, with the reason printed, where pip cannot get them.
pub fn environment() -> Result<Option<PathBuf>> {
    let folder = cache().join("venv");
    let stamp = folder.join("installed.txt");
    let wanted = REQUIREMENTS.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|s| s == wanted) {
        return Ok(Some(folder));
    }
    if !succeeds(command("python3").args(["-c", "import sys; sys.exit(sys.version_info < (3, 11))"])) {
        println!("skipped: the Python package needs Python 3.11 or newer");
        return Ok(None);
    }
    shell::run(command("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    if let Err(error) = shell::run(python(&folder).args(["-m", "pip", "install", "--quiet"]).args(REQUIREMENTS)) {
        println!("skipped: the Python package needs {} from a package index: {error}", REQUIREMENTS.join(", "));
        return Ok(None);
    }
    std::fs::write(&stamp, wanted).map_err(|e| format!("cannot write {}: {e}", stamp.display()))?;
    Ok(Some(folder))
}

/// `PATH` with the environment's programs after all others.
pub fn path(environment: &Path) -> Result<OsString> {
    let given = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&given).chain([environment.join("bin")]);
    std::env::join_paths(all).map_err(|e| format!("the cache folder cannot be part of PATH: {e}"))
}

/// Builds the wheel, installs it and runs the package's tests and sample. Needs `slidec` beside the running program.
pub fn test(environment: &Path) -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--check", "--manifest-path", "python/Cargo.toml"]))?;
    let wheels = cache().join("wheels");
    if wheels.exists() {
        std::fs::remove_dir_all(&wheels).map_err(|e| format!("cannot remove {}: {e}", wheels.display()))?;
    }
    // The development profile: the tests' models are tiny.
    shell::run(
        python(environment)
            .args(["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"])
            .arg(&wheels)
            .arg(root().join("python"))
            .env("PATH", path(environment)?)
            .env("MATURIN_PEP517_ARGS", "--profile dev")
            .env("CARGO_TARGET_DIR", root().join("target/python")),
    )?;
    let wheel = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--force-reinstall", "--find-links"];
    shell::run(python(environment).args(wheel).arg(&wheels).arg("sliderun"))?;
    let perceptron = root().join("runtime/examples/perceptron.slide");
    let [key, signed] = ["owner.key", "signed.slide"].map(|name| wheels.join(name));
    shell::run(command(binary("slidec")).arg("keygen").arg(&key))?;
    shell::run(command(binary("slidec")).arg("sign").arg(&perceptron).arg("--key").arg(&key).arg("-o").arg(&signed))?;
    let tests = root().join("python/tests/test_sliderun.py");
    shell::run(python(environment).arg(tests).arg(perceptron).arg(wheels.join("owner.key.pub")).arg(signed))?;

    let plan = cache().join("wheels/bert_layer.slide");
    shell::run(command(binary("slidec")).args(["compile", MODEL, "-o"]).arg(&plan))?;
    shell::run(python(environment).arg(root().join("samples/python/run_plan.py")).arg(&plan).args([
        "--shape",
        "batch=3,seq=7",
        "--runs",
        "5",
        "--limit",
        "1e-4",
        "--model",
        MODEL,
    ]))
}

fn python(environment: &Path) -> Command {
    command(environment.join("bin/python"))
}
