//! The printer of the text form; `syntax` has the grammar.
//!
//! Nodes come in schedule order and constants in the order of their first use, so that a graph printed, parsed and printed
//! again gives the same text. Constants above [`INLINE`] elements are named by digest; their bytes go elsewhere (`sidecar`).

use sliderun::op::Op;
use sliderun::tensor::checked_elements;
use std::collections::BTreeSet;
use std::fmt::{self, Write};

use super::attributes;
use super::elements;
use super::graph::{Constant, Graph, Node, NodeId, NodeKind, NodeOutput, ValueRef};

/// Constants of at most this many elements print their values.
pub const INLINE: usize = 16;

/// BLAKE3 of a constant's bytes, in hexadecimal: its name in dumps.
pub fn digest(constant: &Constant) -> String {
    blake3::hash(&constant.data).to_hex().to_string()
}

/// Whether a constant prints by digest rather than by value.
pub fn is_large(constant: &Constant) -> bool {
    checked_elements(&constant.shape).is_none_or(|n| n > INLINE)
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self))
    }
}

/// The whole graph. A graph with a cycle prints its nodes in the order in which they were added, which does not parse.
pub fn print(graph: &Graph) -> String {
    let mut out = String::new();
    if !graph.symbols.is_empty() {
        let ranges: Vec<String> =
            graph.symbols.iter().map(|(name, range)| format!("{name}: {}..{}", range.min, range.max)).collect();
        let _ = writeln!(out, "symbols {{ {} }}", ranges.join(", "));
    }
    let operators = graph.try_schedule().unwrap_or_else(|| graph.node_ids());
    let listed: BTreeSet<NodeId> = operators.iter().copied().collect();
    let mut constants: Vec<NodeId> = Vec::new();
    let used = operators.iter().flat_map(|n| graph.operands(*n)).flatten().map(|v| v.node);
    let mut seen = BTreeSet::new();
    for node in graph.inputs().iter().copied().chain(used).chain(graph.node_ids()) {
        if graph.contains(node) && !listed.contains(&node) && seen.insert(node) {
            constants.push(node);
        }
    }
    for node in constants.into_iter().chain(operators) {
        out += &print_node(graph, node);
        out.push('\n');
    }
    for output in &graph.outputs {
        let _ = writeln!(out, "output {} = {}", quoted(&output.name), value(graph, output.value));
    }
    out
}

/// One node, without a line end.
pub fn print_node(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    // Inputs stand for the model's tensors without saying so.
    let is_input = matches!(node.kind, NodeKind::Input);
    let results: Vec<String> = node.outputs.iter().map(|o| result(o, o.from_model && !is_input)).collect();
    let results = results.join(", ");
    let mut out = match &node.kind {
        NodeKind::Input => format!("input {results}"),
        NodeKind::Constant(c) => format!("const {results} = {}", constant(c)),
        NodeKind::Op(op) => format!("{results} = {}", application(graph, id, op)),
    };
    out += &trailer(node);
    out
}

fn result(output: &NodeOutput, mark: bool) -> String {
    format!("{}{}: {}", name(&output.name), if mark { "!" } else { "" }, output.ty)
}

fn application(graph: &Graph, id: NodeId, op: &Op) -> String {
    let (name, attributes) = attributes::print(op);
    let operands: Vec<String> =
        graph.operands(id).into_iter().map(|v| v.map_or_else(|| "_".to_owned(), |v| value(graph, v))).collect();
    let attributes = if attributes.is_empty() { String::new() } else { format!(" {{{attributes}}}") };
    format!("{name}({}){attributes}", operands.join(", "))
}

fn constant(c: &Constant) -> String {
    if is_large(c) {
        return format!("digest \"{}\"", digest(c));
    }
    match elements::print(c.dtype, &c.data) {
        Some(texts) => format!("[{}]", texts.join(", ")),
        None => format!("hex \"{}\"", c.data.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    }
}

/// The node's name where it is not its first value's, and its origin.
fn trailer(node: &Node) -> String {
    let mut out = String::new();
    if node.outputs.first().is_none_or(|o| o.name != node.name) {
        let _ = write!(out, " node {}", quoted(&node.name));
    }
    if let Some(form) = node.form {
        let _ = write!(out, " form \"{form}\"");
    }
    if node.origin.len() == 1 && node.origin.contains(&node.name) {
        out += " origin self";
    } else if !node.origin.is_empty() {
        let names: Vec<String> = node.origin.iter().map(|n| quoted(n)).collect();
        let _ = write!(out, " origin [{}]", names.join(", "));
    }
    out
}

fn value(graph: &Graph, v: ValueRef) -> String {
    match graph.contains(v.node).then(|| graph.node(v.node).outputs.get(v.slot)).flatten() {
        Some(output) => name(&output.name),
        // Only an invalid graph has this; the verifier prints it.
        None => format!("%<missing {}.{}>", v.node.index(), v.slot),
    }
}

fn name(text: &str) -> String {
    if !text.is_empty() && text.chars().all(is_plain) { format!("%{text}") } else { format!("%{}", quoted(text)) }
}

/// Whether a value name of such characters goes unquoted.
pub(super) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '.'
}

/// A string in quotes, with escapes that the parser undoes.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out += "\\n",
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
