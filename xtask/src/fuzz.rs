//! `cargo xtask fuzz`: the fuzz targets for as long as asked, by the driver that is among the runtime's tests.

use clap::Args;

use crate::shell::{self, Result, cargo, root};

/// What to do.
#[derive(Args)]
pub struct Options {
    /// Executions in all, shared out among the targets by what each costs
    #[arg(long, default_value_t = 50_000_000)]
    executions: u64,
    /// What the mutations start from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Threads
    #[arg(long, default_value_t = 2)]
    threads: u64,
    /// Writes folders of seeds to fuzz/corpus, for `cargo fuzz run TARGET`, and does nothing else
    #[arg(long)]
    corpus: bool,
}

/// Runs the driver; a finding is a failure and printed.
pub fn run(options: &Options) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--package", "sliderun", "--lib", "--", "--ignored", "--exact", "--nocapture"]);
    if options.corpus {
        command.arg("session::hostile::fuzz::write_corpora").env("SLIDERUN_CORPUS", root().join("fuzz/corpus"));
    } else {
        let asked = format!("{},{},{}", options.executions, options.seed, options.threads);
        command.arg("session::hostile::fuzz::for_long").env("SLIDERUN_FUZZ", asked);
    }
    shell::run(&mut command)
}
