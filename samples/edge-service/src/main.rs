//! Semantic search over a folder of text: type, and see the passages that mean the same. One file to deploy: the plan, the tokenizer and the
//! page are part of the program.
//!
//! ```text
//! EDGE_PLAN=minilm.slide EDGE_TOKENIZER=tokenizer.json cargo build --release
//! edge-service FOLDER [--address 127.0.0.1:8080]
//! ```

mod embedder;
mod passages;
mod web;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use embedder::Embedder;
use passages::Passages;

/// Anything that can go wrong, as a message for the user.
type Error = Box<dyn std::error::Error + Send + Sync>;

static PLAN: &[u8] = sliderun::include_plan!(env!("EDGE_PLAN", "EDGE_PLAN must name a compiled plan of a sentence encoder"));
static TOKENIZER: &[u8] = include_bytes!(env!("EDGE_TOKENIZER", "EDGE_TOKENIZER must name the encoder's tokenizer.json"));

/// Search a folder of text by meaning, in a web page.
#[derive(Parser)]
struct Arguments {
    /// Folder whose .txt and .md files are searched, with those of its folders.
    folder: PathBuf,
    /// Where to serve the page; port 0 is any that is free.
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: SocketAddr,
    /// Threads of a run.
    #[arg(long)]
    threads: Option<std::num::NonZero<usize>>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("edge-service: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Error> {
    let embedder = Embedder::new(PLAN, TOKENIZER, arguments.threads)?;
    let start = Instant::now();
    let passages = Passages::read(&arguments.folder, &embedder)?;
    eprintln!("{} passages of {} files in {:.1} s", passages.len(), passages.files(), start.elapsed().as_secs_f64());
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(web::serve(arguments.address, embedder, passages))
}
