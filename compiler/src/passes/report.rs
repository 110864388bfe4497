//! What passes say of their work: what was done, what was declined and why, how long it took.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

pub use sliderun::plan::manifest::Verdict;

/// Something that a pass did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// The model's nodes that it was done to.
    pub nodes: BTreeSet<String>,
    /// What.
    pub what: String,
}

/// Something that a pass looked at and left alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declined {
    /// The node.
    pub node: String,
    /// The reason.
    pub why: String,
}

/// The report of one pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PassReport {
    /// The pass.
    pub pass: &'static str,
    /// Wall time.
    pub time: Duration,
    /// What it did, in order.
    pub did: Vec<Done>,
    /// What it declined, in order; each node and reason once.
    pub declined: Vec<Declined>,
}

impl PassReport {
    /// Notes something done to nodes.
    pub fn did<S: Into<String>>(&mut self, nodes: impl IntoIterator<Item = S>, what: impl Into<String>) {
        self.did.push(Done { nodes: nodes.into_iter().map(Into::into).collect(), what: what.into() });
    }

    /// Notes something left alone. Saying the same again, as a rule does that is tried several times, has no effect.
    pub fn declined(&mut self, node: impl Into<String>, why: impl Into<String>) {
        let entry = Declined { node: node.into(), why: why.into() };
        if !self.declined.contains(&entry) {
            self.declined.push(entry);
        }
    }
}

/// One line per entry, without the time: the same input gives the same text.
impl fmt::Display for PassReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for done in &self.did {
            let nodes: Vec<&str> = done.nodes.iter().map(String::as_str).collect();
            writeln!(f, "did: {}: {}", nodes.join(", "), done.what)?;
        }
        for declined in &self.declined {
            writeln!(f, "declined: {}: {}", declined.node, declined.why)?;
        }
        Ok(())
    }
}
