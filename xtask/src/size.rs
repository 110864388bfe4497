//! `cargo xtask size`: what a small program that embeds the runtime for CPUs carries, and limits that it must stay under.

use std::collections::BTreeSet;

use crate::shell::{self, Result, cargo, root};

/// The packages that the runtime may depend on, one name a line.
const DEPENDENCIES: &str = "runtime/dependencies.txt";

/// Most bytes of the stripped program of `samples/embed-rust`, which may only get smaller; 2.5 MiB is what is wanted.
const LIMIT: u64 = 3_900_000;

/// Builds the program as small as it gets and weighs it.
pub fn run() -> Result<()> {
    dependencies()?;
    shell::run(cargo().args(["build", "--profile", "small", "--package", "sliderun-embed-rust"]))?;
    let program = root().join("target/small").join(format!("embed-rust{}", std::env::consts::EXE_SUFFIX));
    let bytes = std::fs::metadata(&program).map_err(|e| format!("{}: {e}", program.display()))?.len();
    println!("{}: {bytes} bytes of at most {LIMIT}", program.display());
    if bytes > LIMIT { Err(format!("{} has grown past {LIMIT} bytes", program.display())) } else { Ok(()) }
}

/// Compares what the runtime depends on, without its default features, with the list of what it may.
pub fn dependencies() -> Result<()> {
    let tree = ["tree", "--package", "sliderun", "--no-default-features", "--edges", "normal", "--prefix", "none"];
    // The same list on every machine.
    let target = ["--target", "x86_64-unknown-linux-gnu"];
    let output = cargo().args(tree).args(target).args(["--format", "{p}"]).output().map_err(|e| format!("cargo tree: {e}"))?;
    if !output.status.success() {
        return Err(format!("cargo tree failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    let tree = String::from_utf8_lossy(&output.stdout).into_owned();
    let found: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).filter(|n| !n.is_empty()).collect();
    let list = std::fs::read_to_string(root().join(DEPENDENCIES)).map_err(|e| format!("{DEPENDENCIES}: {e}"))?;
    let allowed: BTreeSet<&str> = list.lines().filter(|line| !line.starts_with('#')).collect();
    let new: Vec<&str> = found.difference(&allowed).copied().collect();
    let gone: Vec<&str> = allowed.difference(&found).copied().collect();
    if !new.is_empty() {
        return Err(format!(
            "the small runtime has new dependencies: {}. Do without them, or say why not where {DEPENDENCIES} is changed",
            new.join(", ")
        ));
    }
    if !gone.is_empty() {
        return Err(format!("{DEPENDENCIES} lists what the runtime no longer needs: {}", gone.join(", ")));
    }
    println!("the small runtime depends on {} packages, as listed", found.len() - 1);
    Ok(())
}
