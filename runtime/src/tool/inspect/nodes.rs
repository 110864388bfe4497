//! Which steps and launches each of the model's nodes went into.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use serde::Serialize;

use crate::plan::manifest::{Manifest, Step};
use crate::tool::ToolError;
use crate::tool::names::shortened;

/// A node of the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct NodeRow<'a> {
    /// Its name.
    pub node: &'a str,
    /// The steps of the CPU's program that do it, by position.
    pub steps: BTreeSet<usize>,
    /// The launches that do it, by position, for each variant of the CUDA program.
    pub launches: BTreeMap<&'a str, BTreeSet<usize>>,
}

/// The nodes that a plan's steps come from, in the order in which the steps do them. What became constants, or nothing, is not among them.
pub fn nodes(manifest: &Manifest) -> Vec<NodeRow<'_>> {
    let mut rows = Rows::default();
    for (at, step) in manifest.program.steps.iter().enumerate() {
        rows.each(step, |row| {
            row.steps.insert(at);
        });
    }
    for variant in manifest.cuda.iter().flat_map(|cuda| &cuda.variants) {
        for (number, (positions, _)) in variant.launched().enumerate() {
            for step in variant.program.steps.get(positions).unwrap_or_default() {
                rows.each(step, |row| {
                    row.launches.entry(&variant.name).or_default().insert(number);
                });
            }
        }
    }
    rows.rows
}

#[derive(Default)]
struct Rows<'a> {
    rows: Vec<NodeRow<'a>>,
    positions: BTreeMap<&'a str, usize>,
}

impl<'a> Rows<'a> {
    /// Calls `f` with the row of each node that a step comes from.
    fn each(&mut self, step: &'a Step, mut f: impl FnMut(&mut NodeRow<'a>)) {
        for node in &step.origin {
            let at = *self.positions.entry(node).or_insert(self.rows.len());
            if at == self.rows.len() {
                self.rows.push(NodeRow { node, ..NodeRow::default() });
            }
            f(&mut self.rows[at]);
        }
    }
}

/// For people: a line on each node.
///
/// # Errors
/// Those of `out`.
pub fn text(manifest: &Manifest, out: &mut dyn Write) -> Result<(), ToolError> {
    let rows = nodes(manifest);
    let variants: Vec<&str> = manifest.cuda.iter().flat_map(|cuda| &cuda.variants).map(|v| v.name.as_str()).collect();
    writeln!(out, "the model's nodes and what they went into")?;
    let names = shortened(rows.iter().map(|row| row.node));
    let width = names.iter().map(|n| n.chars().count()).max().unwrap_or(0);
    let list = |positions: Option<&BTreeSet<usize>>| {
        let numbers: Vec<String> = positions.into_iter().flatten().map(usize::to_string).collect();
        if numbers.is_empty() { "-".to_owned() } else { numbers.join(" ") }
    };
    for (row, name) in rows.iter().zip(names) {
        let on_gpu = |variant: &&str| match variants.len() {
            1 => format!(", launches {}", list(row.launches.get(variant))),
            _ => format!(", launches of {variant} {}", list(row.launches.get(variant))),
        };
        let launches: String = variants.iter().map(on_gpu).collect();
        writeln!(out, "  {name:<width$}  steps {}{launches}", list(Some(&row.steps)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dim::Dim;
    use crate::op::Op;
    use crate::op::layout::Identity;
    use crate::plan::cuda::{CudaPlan, Launch, Variant, Work};
    use crate::plan::manifest::{Program, Provenance};

    fn program(origins: &[&[&str]]) -> Program {
        let step = |origin: &&[&str]| Step {
            name: String::new(),
            op: Op::from(Identity {}),
            inputs: Vec::new(),
            outputs: Vec::new(),
            origin: origin.iter().map(|o| (*o).to_owned()).collect(),
        };
        Program { steps: origins.iter().map(step).collect(), ..Program::default() }
    }

    #[test]
    fn each_node_with_its_steps_and_launches() {
        let variant = Variant {
            name: "sparse".into(),
            from: None,
            program: program(&[&["q", "k"], &["add", "norm"], &["norm"], &["other"]]),
            launches: [1, 2, 1].map(|steps| Launch { steps, work: Work::Product }).into(),
        };
        let cuda = CudaPlan { variants: vec![variant], rows: Dim::from(1), modules: Vec::new() };
        let provenance = Provenance::default();
        let manifest = Manifest {
            provenance,
            symbols: Vec::new(),
            program: program(&[&["q"], &["k"], &["q", "norm"]]),
            blobs: Vec::new(),
            verdicts: Vec::new(),
            cuda: Some(cuda),
        };
        let mut out = Vec::new();
        text(&manifest, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let expected = [
            "the model's nodes and what they went into",
            "  q      steps 0 2, launches 0",
            "  k      steps 1, launches 0",
            "  norm   steps 2, launches 1",
            "  add    steps -, launches 1",
            "  other  steps -, launches 2",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
