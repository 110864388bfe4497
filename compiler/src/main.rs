//! The `slidec` program; see [`slidec::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    slidec::cli::main()
}
