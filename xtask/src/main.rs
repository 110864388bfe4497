//! Project tasks: `cargo xtask demo`, `cargo xtask test` and what they are made of.
//!
//! Needs Rust and Python 3 with pip, nothing else. What is optional is used when it is there and skipped with a printed reason.

mod bench;
mod checks;
mod demo;
mod fidelity;
mod fuzz;
mod gpu_bench;
mod gpu_folder;
mod gpu_test;
mod packages;
mod python;
mod serving;
mod shell;
mod size;
mod test;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Project tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Fetch MiniLM-L3, compile it to a 6:8 int8 plan, run it on sentences and verify it.
    Demo,
    /// Format, lints, all tests and a rehearsal of the GPU benchmark.
    Test,
    /// Fetch the models, test data and compilers that tests and benchmarks use, into .cache/.
    Fetch,
    /// CPU benchmark: our plans and ONNX Runtime, interleaved.
    Bench(bench::Options),
    /// The service under load, beside single batches.
    ServeBench(serving::Options),
    /// Weigh a small program that embeds the runtime, and list what it depends on; fails past their limits.
    Size,
    /// Run the fuzz targets on mutated seeds, without a fuzzer; 50 million times unless told otherwise.
    Fuzz(fuzz::Options),
    /// What pruning and quantization cost: embeddings, maps and labelled digits, for every pattern, method and precision.
    Fidelity(fidelity::Options),
    /// A folder of programs, models and plans that tests them on a GPU machine without Rust and network.
    GpuTest(gpu_test::Options),
    /// A folder that measures whole models and their peers on such a machine; with --tables, Markdown of its logs.
    GpuBench(gpu_bench::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Demo => demo::run(),
        Task::Test => test::run(),
        Task::Fetch => packages::fetch_all(),
        Task::Bench(options) => bench::run(&options),
        Task::ServeBench(options) => serving::bench(&options),
        Task::Size => size::run(),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Fidelity(options) => fidelity::run(&options),
        Task::GpuTest(options) => gpu_test::run(&options),
        Task::GpuBench(options) => gpu_bench::run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
