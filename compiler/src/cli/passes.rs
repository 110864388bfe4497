//! `slidec passes`: the passes in the order in which they run.

use clap::Args;
use serde::Serialize;
use std::io::Write;

use super::failure::Result;
use super::output::{Column, json, table};
use crate::passes::PIPELINE;

const EXAMPLES: &str = "\
Examples:
  slidec passes
  slidec passes --json";

/// List the passes in the order in which a compilation runs them
///
/// `slidec compile --emit-after PASS` writes the graph as it is after one of them, `slidec opt --pass PASS` runs one on such a file.
#[derive(Args)]
#[command(after_help = EXAMPLES)]
pub struct Passes {
    /// Prints JSON instead of the table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    summary: &'static str,
}

impl Passes {
    /// Runs the command.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn run(self, out: &mut dyn Write) -> Result {
        if self.json {
            let entries: Vec<Entry> = PIPELINE.iter().map(|p| Entry { name: p.name, summary: p.summary }).collect();
            return json(out, &entries);
        }
        let rows = PIPELINE.iter().map(|p| vec![p.name.to_owned(), p.summary.to_owned()]);
        table(out, &[Column::Text("PASS"), Column::Text("WHAT IT DOES")], rows)
    }
}
