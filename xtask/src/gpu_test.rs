//! `cargo xtask gpu-test`: a folder that tests plans on a GPU machine, which needs neither Rust nor a network there.

use std::path::{Path, PathBuf};

use crate::gpu_folder::{GpuFolder, Program, copy};
use crate::packages;
use crate::shell::{self, Result, command, root};

/// What the folder holds.
#[derive(clap::Args)]
pub struct Options {
    /// Where it is made; what is in it is replaced.
    #[arg(long, default_value = "target/gpu-test")]
    out: PathBuf,
    /// Only the plans of these names (tests/gpu/plans.txt), for several small folders in place of a large one.
    #[arg(long, value_delimiter = ',')]
    plans: Vec<String>,
    /// Compile the plans on the GPU machine, which needs NVRTC there: the folder then holds one model in place of many plans.
    #[arg(long)]
    there: bool,
    /// Cut the vocabulary of MiniLM to so many rows, 1000 or more: it is most of the model, and random tokens stay below 1000.
    #[arg(long)]
    rows: Option<usize>,
    /// The GPU's architecture.
    #[arg(long, default_value = "sm_90a")]
    target: String,
    /// Profile of the programs: dev is built already where one develops, and slower on the host.
    #[arg(long, default_value = "release")]
    profile: String,
}

/// The programs.
const PROGRAMS: [Program; 3] =
    [("sliderun", "--bin", "sliderun"), ("slidec", "--bin", "slidec"), ("slidec-tests", "--example", "gpu_models")];

/// Builds the folder.
pub fn run(options: &Options) -> Result<()> {
    let folder = GpuFolder::create(&options.out, &options.profile, &["models"])?;
    folder.programs(&PROGRAMS)?;
    let list = list(options)?;
    folder.write("plans.txt", &list)?;
    folder.files(&["tests/gpu/run.sh", "tests/gpu/bench/torch_compile.py", "tests/gpu/bench/onnx_file.py"])?;
    models(options, &list, &folder.path)?;
    let out = folder.path;
    if !options.there {
        let mut prepare = command(out.join("run.sh"));
        prepare.args(["--prepare", "check", "kernel"]).env("GPU_TEST_TARGET", &options.target);
        if let Some(path) = packages::cuda()? {
            prepare.env("SLIDERUN_CUDA_PATH", path);
        }
        shell::run(&mut prepare)?;
    }
    println!("{} is ready: on the GPU machine, run run.sh in it (--quick for some minutes)", out.display());
    Ok(())
}

/// The list of plans, without those that were not asked for.
fn list(options: &Options) -> Result<String> {
    let file = root().join("tests/gpu/plans.txt");
    let text = std::fs::read_to_string(&file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    let name = |line: &str| line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let names: Vec<String> = text.lines().filter(|line| !line.starts_with('#')).map(name).collect();
    if let Some(unknown) = options.plans.iter().find(|plan| !names.contains(plan)) {
        return Err(format!("there is no plan '{unknown}': there are {}", names.join(", ")));
    }
    let wanted = |line: &&str| options.plans.is_empty() || line.starts_with('#') || options.plans.contains(&name(line));
    Ok(text.lines().filter(wanted).map(|line| format!("{line}\n")).collect())
}

/// The models that the listed plans are made of, fetched.
fn models(options: &Options, list: &str, out: &Path) -> Result<()> {
    let needed = |model: &str| list.lines().any(|line| line.split_whitespace().nth(2) == Some(model));
    if needed("minilm") {
        let (model, to) = (packages::minilm()?, out.join("models/minilm.onnx"));
        match options.rows {
            Some(rows) => {
                let mut cut = command(out.join("bin/gpu_models"));
                shell::run(cut.args(["cut", &rows.to_string()]).arg(&model).arg(&to))?;
            }
            None => copy(&model, &to)?,
        }
    }
    if needed("vit") {
        copy(&packages::VIT.fetch()?, &out.join("models/vit.onnx"))?;
    }
    Ok(())
}
