//! The `sliderun` program: runs, inspects and measures plans without the compiler.
//!
//! Exit codes: 0 done (also when the reader of the results went away), 1 what was asked failed, 2 the command line was wrong.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
