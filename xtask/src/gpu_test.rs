//! `cargo xtask gpu-test`: a folder that tests plans on a GPU machine, which needs neither Rust nor a network there.

use std::path::{Path, PathBuf};

use crate::packages;
use crate::shell::{self, Result, cargo, command, root, succeeds};

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

/// Programs: package, kind of target, name.
const PROGRAMS: [(&str, &str, &str); 3] =
    [("sliderun", "--bin", "sliderun"), ("slidec", "--bin", "slidec"), ("slidec-tests", "--example", "gpu_models")];

/// Builds the folder.
pub fn run(options: &Options) -> Result<()> {
    let out = root().join(&options.out);
    if out.exists() {
        std::fs::remove_dir_all(&out).map_err(|e| format!("cannot remove {}: {e}", out.display()))?;
    }
    for folder in ["bin", "models"] {
        let folder = out.join(folder);
        std::fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    }
    programs(options, &out)?;
    let list = list(options)?;
    write(&out.join("plans.txt"), &list)?;
    write(&out.join("commit.txt"), &commit())?;
    for file in ["tests/gpu/run.sh", "tests/bench/torch_compile.py"] {
        copy(&root().join(file), &out)?;
    }
    models(options, &list, &out)?;
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

/// Builds the programs and puts them into `bin`, without what only debuggers read.
fn programs(options: &Options, out: &Path) -> Result<()> {
    for (package, kind, name) in PROGRAMS {
        shell::run(cargo().args(["build", "--profile", &options.profile, "--package", package, kind, name]))?;
        let folder = if options.profile == "dev" { "debug" } else { &options.profile };
        let folder = root().join("target").join(folder).join(if kind == "--example" { "examples" } else { "" });
        copy(&folder.join(name), &out.join("bin"))?;
        if !succeeds(command("strip").arg(out.join("bin").join(name))) {
            println!("strip is not there: bin/{name} keeps its symbols");
        }
    }
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
            None => copy_as(&model, &to)?,
        }
    }
    if needed("vit") {
        copy_as(&packages::VIT.fetch()?, &out.join("models/vit.onnx"))?;
    }
    Ok(())
}

/// The commit, and whether the working tree differs from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = command("git").args(arguments).output().ok().filter(|o| o.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let head = git(&["rev-parse", "--short", "HEAD"]).map_or("unknown".to_owned(), |head| head.trim().to_owned());
    let changed = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    format!("{head}{}\n", if changed { " with changes" } else { "" })
}

fn copy(file: &Path, folder: &Path) -> Result<()> {
    copy_as(file, &folder.join(file.file_name().unwrap_or_default()))
}

fn copy_as(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map(drop).map_err(|e| format!("cannot copy {} to {}: {e}", from.display(), to.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))
}
