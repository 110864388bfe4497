//! The command line: one file per subcommand, which reads its arguments, calls the library and prints.
//!
//! Results go to stdout, progress and logs to stderr. Exit codes: 0 done, 1 what was asked for failed, 2 the arguments make no sense. A
//! reader that closes the pipe early ends a command quietly.
//!
//! Must not know: how anything is done.

mod bench;
mod compile;
mod failure;
mod inputs;
mod inspect;
mod keygen;
mod opt;
mod output;
mod passes;
mod prune;
mod run;
mod sign;
mod tune;
mod values;
mod verify;

use clap::{Parser, Subcommand};
use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use failure::{Complaint, Failure, Result};

const EXAMPLES: &str = "\
Examples:
  slidec compile model.onnx -o model.slide --sparsity 6:8 --prune magnitude --precision int8
  slidec run model.slide --random --shape batch=2,seq=64
  slidec verify model.onnx model.slide
Each command has more under `slidec COMMAND --help`.";

/// Compiles ONNX models ahead of time into sparse execution plans, and runs and checks them
#[derive(Parser)]
#[command(name = "slidec", version, after_help = EXAMPLES)]
struct Cli {
    /// Threads to use; as many as there are processors by default
    #[arg(long, global = true, value_name = "N", value_parser = values::threads)]
    threads: Option<usize>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Compile(compile::Compile),
    Run(run::Run),
    Verify(verify::Verify),
    Prune(prune::Prune),
    Inspect(inspect::Inspect),
    Bench(bench::Bench),
    Tune(tune::Tune),
    Opt(opt::Opt),
    Passes(passes::Passes),
    Keygen(keygen::Keygen),
    Sign(sign::Sign),
}

/// Runs the program on its arguments.
pub fn main() -> ExitCode {
    let Cli { threads, command } = Cli::parse();
    let mut out = BufWriter::new(io::stdout().lock());
    let result = run(command, threads, &mut out).and_then(|()| Ok(out.flush()?));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // What was found before the failure is still worth reading; whether it arrives no longer matters.
            let _ = out.flush();
            failure.report()
        }
    }
}

fn run(command: Command, threads: Option<usize>, out: &mut dyn Write) -> Result {
    if let Some(n) = threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(n)
            .build_global()
            .map_err(|e| Failure::because("the threads cannot be started", Complaint::of(&e)))?;
    }
    match command {
        Command::Compile(c) => c.run(out),
        Command::Run(c) => c.run(threads, out),
        Command::Verify(c) => c.run(threads, out),
        Command::Prune(c) => c.run(out),
        Command::Inspect(c) => c.run(out),
        Command::Bench(c) => c.run(threads, out),
        Command::Tune(c) => c.run(out),
        Command::Opt(c) => c.run(out),
        Command::Passes(c) => c.run(out),
        Command::Keygen(c) => c.run(out),
        Command::Sign(c) => c.run(out),
    }
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_declared_without_contradiction() {
        Cli::command().debug_assert();
    }
}
