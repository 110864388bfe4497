//! `cargo xtask gpu-bench`: a folder that measures whole models, ours and torch.compile's, on a GPU machine, which needs neither Rust nor a
//! network there; and its logs as tables and plots.

mod plot;
mod records;
mod tables;

use std::path::PathBuf;

use crate::gpu_folder::{GpuFolder, Program};
use crate::shell::{self, Result, cache, cargo, command, root, succeeds};
use records::Results;

/// What the folder holds, or which logs to show.
#[derive(clap::Args)]
pub struct Options {
    /// Where the folder is made; what is in it is replaced.
    #[arg(long, default_value = "target/gpu-bench")]
    out: PathBuf,
    /// Profile of the programs: dev is built already where one develops, and slower on the host.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Make no folder, but run the scripts here, on the CPU with tiny models, as `cargo xtask test` does.
    #[arg(long)]
    rehearse: bool,
    /// Make no folder, but print the tables of these logs as Markdown.
    #[arg(long, value_name = "LOG", num_args = 1..)]
    tables: Vec<PathBuf>,
    /// With --tables: also write a roofline plot of each model into this folder.
    #[arg(long, value_name = "FOLDER", requires = "tables")]
    plots: Option<PathBuf>,
}

/// The programs.
const PROGRAMS: [Program; 3] =
    [("sliderun", "--bin", "sliderun"), ("slidec", "--bin", "slidec"), ("slidec-samples", "--bin", "generate")];

/// The scripts.
const SCRIPTS: [&str; 9] = [
    "tests/gpu/bench/gpu_bench.py",
    "tests/gpu/bench/monitor.py",
    "tests/gpu/bench/networks.py",
    "tests/gpu/bench/onnx_file.py",
    "tests/gpu/bench/ours.py",
    "tests/gpu/bench/peers.py",
    "tests/gpu/bench/prepare.py",
    "tests/gpu/bench/suite.py",
    "tests/gpu/bench/tensors.py",
];

/// Builds the folder, rehearses, or shows logs.
pub fn run(options: &Options) -> Result<()> {
    match options {
        Options { rehearse: true, .. } => rehearse(),
        Options { tables, .. } if !tables.is_empty() => show(options),
        _ => build(options),
    }
}

fn build(options: &Options) -> Result<()> {
    let folder = GpuFolder::create(&options.out, &options.profile, &[])?;
    folder.programs(&PROGRAMS)?;
    folder.files(&SCRIPTS)?;
    println!("{} is ready, {:.0} MiB: on the GPU machine, run python3 gpu_bench.py in it", folder.path.display(), folder.size()?);
    let archive = folder.path.with_extension("tar.gz");
    let (parent, name) = (folder.path.parent(), folder.path.file_name());
    if let (Some(parent), Some(name)) = (parent, name)
        && succeeds(command("tar").arg("-czf").arg(&archive).arg("-C").arg(parent).arg(name))
    {
        println!("{} is the same, packed", archive.display());
    }
    Ok(())
}

fn show(options: &Options) -> Result<()> {
    let mut logs = Vec::new();
    for path in &options.tables {
        logs.push(std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))?);
    }
    let results = Results::read(logs.iter().map(String::as_str))?;
    print!("{}", tables::markdown(&results));
    if let Some(folder) = &options.plots {
        std::fs::create_dir_all(folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
        for model in &results.models {
            let Some(svg) = plot::roofline(model) else { continue };
            let file = folder.join(format!("roofline-{}.svg", model.name));
            std::fs::write(&file, svg).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
            eprintln!("{}", file.display());
        }
    }
    Ok(())
}

/// What needs no GPU, on this machine: the scripts measure tiny models on the CPU, and their log becomes tables. Without PyTorch only ours.
pub fn rehearse() -> Result<()> {
    for (package, kind, name) in PROGRAMS {
        shell::run(cargo().args(["build", "--package", package, kind, name]))?;
    }
    let parse = "import ast, sys\nfor file in sys.argv[1:]: ast.parse(open(file).read(), file)";
    shell::run(command("python3").args(["-c", parse, "tests/gpu/bench/torch_compile.py"]).args(SCRIPTS))?;
    shell::run(command("bash").args(["-n", "tests/gpu/run.sh"]))?;
    if !succeeds(command("python3").args(["-c", "import torch"])) {
        println!("PyTorch is not installed: the benchmark is rehearsed without its peers and without comparing outputs");
    }
    let folder = cache().join("gpu-bench-rehearsal");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(|e| format!("cannot remove {}: {e}", folder.display()))?;
    }
    let log = folder.with_extension("log");
    let mut script = command("python3");
    script.args(["-B", SCRIPTS[0], "--device", "cpu", "--model", "tiny-decoder,tiny-encoder,tiny-vit"]);
    script.args(["--engines", "bf16,int8,int8 6:8,torch bf16,torch fp8", "--rounds", "2", "--steady-from", "1"]);
    script.args(["--burst", "0.01", "--pause", "0", "--settle", "0", "--steady", "0.01"]);
    script.arg("--programs").arg(root().join("target/debug")).arg("--folder").arg(&folder).arg("--log").arg(&log);
    shell::run(&mut script)?;
    let text = std::fs::read_to_string(&log).map_err(|e| format!("cannot read {}: {e}", log.display()))?;
    let results = Results::read([text.as_str()])?;
    let tables = tables::markdown(&results);
    let missing = results.models.iter().filter(|m| m.shapes.values().any(|s| s.turns.is_empty())).count();
    if results.models.len() != 3 || missing > 0 || !tables.contains("int8 6:8") {
        return Err(format!("the rehearsal's log {} does not hold what was measured", log.display()));
    }
    Ok(())
}
