//! Graphs in graphviz's language.

use std::fmt::{self, Display};
use std::io::{self, Write};

/// Text as a quoted string of the language.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                c => write!(f, "{c}")?,
            }
        }
        f.write_str("\"")
    }
}

/// Writes one graph, node by node and edge by edge.
pub struct Dot<'a> {
    out: &'a mut dyn Write,
}

impl<'a> Dot<'a> {
    /// Opens the graph.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin(out: &'a mut dyn Write, name: &str) -> io::Result<Self> {
        writeln!(out, "digraph {} {{", Quoted(name))?;
        writeln!(out, "  node [shape=box, fontname=\"sans-serif\"];")?;
        Ok(Dot { out })
    }

    /// A node: its identifier, its lines, whether it is an input or output.
    ///
    /// # Errors
    /// Those of the output.
    pub fn node(&mut self, id: &str, lines: &[&str], terminal: bool) -> io::Result<()> {
        let shape = if terminal { ", shape=ellipse" } else { "" };
        writeln!(self.out, "  {} [label={}{shape}];", Quoted(id), Quoted(&lines.join("\n")))
    }

    /// An edge between identifiers.
    ///
    /// # Errors
    /// Those of the output.
    pub fn edge(&mut self, from: &str, to: &str, label: &str) -> io::Result<()> {
        writeln!(self.out, "  {} -> {} [label={}];", Quoted(from), Quoted(to), Quoted(label))
    }

    /// Closes the graph.
    ///
    /// # Errors
    /// Those of the output.
    pub fn end(self) -> io::Result<()> {
        writeln!(self.out, "}}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_quotes() {
        let mut out = Vec::new();
        let mut dot = Dot::begin(&mut out, "m").unwrap();
        dot.node("a\"b\\", &["x", "\"y"], true).unwrap();
        dot.edge("a", "b", "[2]").unwrap();
        dot.end().unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains(r#""a\"b\\" [label="x\n\"y", shape=ellipse];"#), "{text}");
    }
}
