//! Checks by tools that not every machine has: each is skipped, with the reason printed, where its tool is missing.

use crate::shell::{self, Result, cargo, succeeds};

/// Parts of the runtime without files, threads and vector instructions, which miri can follow.
const PURE: [&str; 4] = ["dim::tests::bounds_hold", "dtype::", "f8::", "plan::architecture::"];

/// cargo-deny: licences, advisories, bans and sources of all dependencies, by `deny.toml`.
pub fn dependencies() -> Result<()> {
    if !succeeds(cargo().args(["deny", "--version"])) {
        println!("skipped: cargo-deny is not installed (cargo install cargo-deny)");
        return Ok(());
    }
    // The database of advisories is fetched; where that is impossible the rest is still checked.
    if !succeeds(cargo().args(["deny", "fetch", "db"])) {
        println!("skipped: the advisories, whose database cannot be fetched here");
        return shell::run(cargo().args(["deny", "check", "bans", "licenses", "sources"]));
    }
    shell::run(cargo().args(["deny", "check"]))
}

/// miri on the runtime's pure parts.
pub fn miri() -> Result<()> {
    // By rustup's cargo, which knows of toolchains.
    let miri = |arguments: &[&str]| {
        let mut command = shell::command("cargo");
        command.args(["+nightly", "miri"]).args(arguments);
        command
    };
    if !succeeds(&mut miri(&["--version"])) {
        println!("skipped: miri is not installed (rustup +nightly component add miri)");
        return Ok(());
    }
    let package = ["test", "--package", "sliderun", "--lib", "--no-default-features", "--features", "cli"];
    shell::run(miri(&package).args(["--target-dir", "target/miri", "--"]).args(PURE))
}
