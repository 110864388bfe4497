//! What a compilation has to say for itself, as JSON or as one HTML page.
//!
//! Must not know: the graph, how verdicts are reached.

mod html;
mod memory;

use serde::Serialize;
use sliderun::plan::cuda::{SparseShare, Variant};
use sliderun::plan::manifest::{Provenance, SymbolRange, Verdict};
use std::time::Duration;

pub use html::{Escaped, html};
pub use memory::peak_memory;

use crate::budget::Found;
use crate::passes::PassReport;

/// Everything that is told of one compilation.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The model, as it was given.
    pub model: FileSize,
    /// The plan, as it was written.
    pub plan: FileSize,
    /// Compiler, model digest and options.
    pub provenance: Provenance,
    /// The symbols of the plan's shapes.
    pub symbols: Vec<SymbolRange>,
    /// Wall time of each stage, in order.
    pub stages: Vec<Timing>,
    /// Wall time in all, in seconds.
    pub seconds: f64,
    /// Most memory that the process has held, in bytes; not known on every system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_memory: Option<u64>,
    /// One per matrix product with a constant weight.
    pub verdicts: Vec<Verdict>,
    /// How these came about, where there was a budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Found>,
    /// One per variant of the program for GPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<VariantEntry>,
    /// One per pass, in order.
    pub passes: Vec<PassEntry>,
}

/// A variant of the program for GPUs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VariantEntry {
    /// Its name.
    pub name: String,
    /// From how many rows on the cost model prefers it; none where it never does.
    pub from: Option<u64>,
    /// What is launched for a run.
    pub launches: usize,
    /// How much of it is sparse.
    pub sparse: SparseShare,
    /// Bytes of dense weights that are written out on the device.
    pub expanded_bytes: u64,
}

impl From<&Variant> for VariantEntry {
    fn from(v: &Variant) -> Self {
        let (sparse, expanded_bytes) = (v.sparse_share(), v.expanded_bytes());
        VariantEntry { name: v.name.clone(), from: v.from, launches: v.launches.len(), sparse, expanded_bytes }
    }
}

/// A file and its size.
#[derive(Clone, Debug, Serialize)]
pub struct FileSize {
    /// Its path as the user gave it.
    pub path: String,
    /// Its size; for a model, external data included.
    pub bytes: u64,
}

/// How long a stage took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timing {
    /// The stage.
    pub stage: String,
    /// Wall time in seconds.
    pub seconds: f64,
}

impl Timing {
    /// From a stage's name and its time.
    pub fn new(stage: impl Into<String>, time: Duration) -> Self {
        Timing { stage: stage.into(), seconds: time.as_secs_f64() }
    }
}

/// What one pass did and declined.
#[derive(Clone, Debug, Serialize)]
pub struct PassEntry {
    /// The pass.
    pub pass: String,
    /// Wall time in seconds.
    pub seconds: f64,
    /// What it did: the model's nodes, and what was done to them.
    pub did: Vec<Entry>,
    /// What it declined: the node, and why.
    pub declined: Vec<Entry>,
}

/// A line of a pass's report.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// Names of the model's nodes.
    pub nodes: Vec<String>,
    /// What was done, or why nothing was.
    pub text: String,
}

impl From<&PassReport> for PassEntry {
    fn from(report: &PassReport) -> Self {
        let did = report.did.iter().map(|d| Entry { nodes: d.nodes.iter().cloned().collect(), text: d.what.clone() });
        let declined = report.declined.iter().map(|d| Entry { nodes: vec![d.node.clone()], text: d.why.clone() });
        PassEntry {
            pass: report.pass.to_owned(),
            seconds: report.time.as_secs_f64(),
            did: did.collect(),
            declined: declined.collect(),
        }
    }
}

/// The patterns of a verdict in one word: `6:8`, `4:6 8:10`, or `-` without any.
pub fn patterns(verdict: &Verdict) -> String {
    match verdict.patterns.as_slice() {
        [] => "-".to_owned(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    }
}
