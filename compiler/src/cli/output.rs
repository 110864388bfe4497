//! What commands print: tables and JSON on stdout, progress on stderr.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write};
use std::time::Duration;

use super::failure::Result;
use crate::passes::PassReport;
use crate::pruning::Progress;

/// Whether a column holds numbers, which line up on the right.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Text, from the left.
    Text(&'static str),
    /// Numbers, from the right.
    Number(&'static str),
}

/// Prints a table without borders: one header line, one line per row, nothing cut.
///
/// # Errors
/// Those of `out`.
pub fn table(out: &mut dyn Write, columns: &[Column], rows: impl IntoIterator<Item = Vec<String>>) -> Result {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let cell = |text: &str, column: &Column| {
        let alignment = if matches!(column, Column::Number(_)) { CellAlignment::Right } else { CellAlignment::Left };
        Cell::new(text).set_alignment(alignment)
    };
    table.set_header(columns.iter().map(|c| {
        let (Column::Text(name) | Column::Number(name)) = c;
        cell(name, c)
    }));
    for row in rows {
        table.add_row(row.iter().zip(columns).map(|(text, column)| cell(text, column)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for line in table.lines() {
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// What all names begin with, up to and with a separator of paths; nothing where there is only one name.
pub fn common_prefix<'a>(mut names: impl Iterator<Item = &'a str>) -> &'a str {
    let Some(first) = names.next() else { return "" };
    let mut shared = None;
    for name in names {
        let same = first.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
        // No name may become empty.
        shared =
            Some(shared.unwrap_or(usize::MAX).min(same).min(first.len().saturating_sub(1)).min(name.len().saturating_sub(1)));
    }
    // A separator is one byte, so what it ends is whole characters.
    let shared = &first.as_bytes()[..shared.unwrap_or(0)];
    let end = ['/', '.'].iter().find_map(|&s| shared.iter().rposition(|&b| char::from(b) == s));
    end.map_or("", |end| &first[..=end])
}

/// What each pass did and declined.
///
/// # Errors
/// Those of `log`.
pub fn log_passes(log: &mut dyn Write, reports: &[PassReport]) -> io::Result<()> {
    for report in reports {
        writeln!(log, "{} ({})", report.pass, duration(report.time))?;
        for line in report.to_string().lines() {
            writeln!(log, "  {line}")?;
        }
    }
    Ok(())
}

/// Prints a value as indented JSON and a newline.
///
/// # Errors
/// Those of `out`.
pub fn json(out: &mut dyn Write, value: &impl Serialize) -> Result {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

/// A spinner on stderr while the user waits, and a bar while it is known how long; nothing where stderr is no terminal.
pub struct Spinner(ProgressBar);

/// The spinner's look, and the bar's.
const SPINNER: &str = "{spinner} {msg}";
const BAR: &str = "{spinner} {bar:30} {percent}%, {eta} left: {msg}";

impl Spinner {
    /// Starts to spin.
    pub fn start() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.set_style(style(SPINNER));
        bar.enable_steady_tick(Duration::from_millis(100));
        Spinner(bar)
    }

    /// What is being done now.
    pub fn say(&self, what: impl Display) {
        self.0.set_message(what.to_string());
    }

    /// Writes a line on stderr, terminal or not, which stays.
    pub fn leave(&self, line: impl Display) {
        // Notes go on without a reader.
        self.0.suspend(|| drop(writeln!(io::stderr(), "{line}")));
    }

    /// Takes it away, before its time.
    pub fn stop(&self) {
        self.0.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates are constants")
}

impl Progress for Spinner {
    fn begin(&self, work: u64) {
        self.0.set_length(work);
        self.0.set_position(0);
        self.0.reset_eta();
        self.0.set_style(style(BAR));
    }

    fn say(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }

    fn advance(&self, work: u64) {
        self.0.inc(work);
    }

    fn end(&self) {
        self.0.set_style(style(SPINNER));
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A size in bytes for people: `69.2 MB`.
pub fn bytes(n: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (n as f64, 0);
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", units[unit]) }
}

/// A time for people: `1.24 s`, `35.1 ms`, `812 µs`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs_f64();
    match s {
        s if s >= 1.0 => format!("{s:.2} s"),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s => format!("{:.0} µs", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_for_people() {
        let sizes = [0, 999, 1000, 69_234_567, 4_000_000_000].map(bytes);
        assert_eq!(sizes, ["0 B", "999 B", "1.0 kB", "69.2 MB", "4.0 GB"]);
        let times = [12, 3_456, 1_240_000].map(|us| duration(Duration::from_micros(us)));
        assert_eq!(times, ["12 µs", "3.5 ms", "1.24 s"]);
    }

    #[test]
    fn names_share_whole_components_only() {
        for (names, expected) in [
            (&["/encoder/layer.0/query/MatMul", "/encoder/layer.1/key/MatMul"][..], "/encoder/"),
            (&["encoder.0.query", "encoder.0.key"], "encoder.0."),
            (&["ä/é", "ä/è"], "ä/"),
            (&["a/", "a/"], ""),
            (&["a/b", "a/"], ""),
            (&["first", "fifth"], ""),
            (&["", ""], ""),
            (&["/only/one"], ""),
            (&[], ""),
        ] {
            assert_eq!(common_prefix(names.iter().copied()), expected, "{names:?}");
        }
    }

    #[test]
    fn tables_are_plain_lines() {
        let mut out = Vec::new();
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long name".to_owned(), "1000".to_owned()]];
        table(&mut out, &[Column::Text("name"), Column::Number("n")], rows).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let words: Vec<Vec<&str>> = lines.iter().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(words, [vec!["name", "n"], vec!["a", "1"], vec!["long", "name", "1000"]]);
        let ends: Vec<usize> = lines.iter().map(|l| l.chars().count()).collect();
        assert_eq!(ends, [ends[0]; 3], "numbers line up on the right");
    }
}
