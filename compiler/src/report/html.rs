//! The report as one HTML page without anything beside it.

use std::fmt::{self, Display, Write};

use super::{Entry, PassEntry, Report, patterns};
use crate::budget::{Found, pareto::svg};

/// Text with the characters that HTML gives a meaning replaced.
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

const STYLE: &str = "\
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; }
th, td { text-align: left; padding: .25rem .7rem .25rem 0; border-bottom: 1px solid #8884; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
code { font-size: .92em; overflow-wrap: anywhere; }
.sparse { font-weight: 600; }
summary { cursor: pointer; }
";

/// One page: what was compiled, one line per matrix product, what each pass did and declined, times and memory.
pub fn html(report: &Report) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write_page(&mut page, report);
    page
}

fn write_page(out: &mut String, report: &Report) -> fmt::Result {
    let title = Escaped(&report.model.path);
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>slidec: {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    )?;
    write_summary(out, report)?;
    write_verdicts(out, report)?;
    if let Some(found) = &report.budget {
        write_budget(out, found)?;
    }
    writeln!(out, "<h2>Passes</h2>")?;
    report.passes.iter().try_for_each(|p| write_pass(out, p))?;
    writeln!(out, "<h2>Time</h2>\n<table>\n<tr><th>Stage</th><th class=\"n\">Milliseconds</th></tr>")?;
    for timing in &report.stages {
        writeln!(out, "<tr><td>{}</td><td class=\"n\">{:.1}</td></tr>", Escaped(&timing.stage), timing.seconds * 1e3)?;
    }
    writeln!(out, "</table>\n</body>\n</html>")
}

fn write_summary(out: &mut String, report: &Report) -> fmt::Result {
    let mut rows = vec![
        ("Plan", report.plan.path.clone()),
        ("Plan size", format!("{} bytes", report.plan.bytes)),
        ("Model size", format!("{} bytes", report.model.bytes)),
        ("Model digest", report.provenance.model_digest.clone()),
        ("Compiler", report.provenance.producer.clone()),
        ("Options", report.provenance.options.join(" ")),
        ("Time", format!("{:.2} s", report.seconds)),
    ];
    if let Some(recipe) = &report.provenance.recipe {
        rows.push(("Recipe digest", recipe.clone()));
    }
    if !report.symbols.is_empty() {
        let symbols: Vec<String> = report.symbols.iter().map(|s| format!("{}={}..{}", s.name, s.min, s.max)).collect();
        rows.push(("Symbols", symbols.join(", ")));
    }
    if let Some(peak) = report.peak_memory {
        rows.push(("Peak memory", format!("{peak} bytes")));
    }
    writeln!(out, "<table>")?;
    for (name, value) in rows {
        writeln!(out, "<tr><th>{name}</th><td><code>{}</code></td></tr>", Escaped(&value))?;
    }
    writeln!(out, "</table>")
}

fn write_verdicts(out: &mut String, report: &Report) -> fmt::Result {
    let sparse = report.verdicts.iter().filter(|v| v.sparse).count();
    writeln!(out, "<h2>Matrix products: {sparse} of {} sparse</h2>", report.verdicts.len())?;
    writeln!(out, "<table>\n<tr><th>Node</th><th class=\"n\">M×N×K</th><th>Patterns found</th><th>Chosen</th><th>Why</th></tr>")?;
    for v in &report.verdicts {
        writeln!(
            out,
            "<tr><td><code>{}</code></td><td class=\"n\">{}×{}×{}</td><td>{}</td><td{}>{}</td><td>{}</td></tr>",
            Escaped(&v.node),
            Escaped(&v.m.to_string()),
            Escaped(&v.n.to_string()),
            Escaped(&v.k.to_string()),
            patterns(v),
            if v.sparse { " class=\"sparse\"" } else { "" },
            Escaped(&v.choices()),
            Escaped(&v.reason)
        )?;
    }
    writeln!(out, "</table>")
}

fn write_budget(out: &mut String, found: &Found) -> fmt::Result {
    writeln!(out, "<h2>Budget {}</h2>\n{}", found.budget, svg(found))?;
    let header = "<tr><th>Plan</th><th class=\"n\">MACs</th><th class=\"n\">Cost</th><th class=\"n\">Cosine</th><th class=\"n\">Worst row</th><th class=\"n\">Relative error</th><th class=\"n\">Top-1 kept</th></tr>";
    writeln!(out, "<table>\n{header}")?;
    for (at, p) in found.points.iter().enumerate() {
        let f = &p.fidelity;
        writeln!(
            out,
            "<tr{}><td>{}</td><td class=\"n\">{:.1} %</td><td class=\"n\">{:.4e}</td><td class=\"n\">{:.5}</td><td class=\"n\">{:.5}</td><td class=\"n\">{:.4}</td><td class=\"n\">{:.4}</td></tr>",
            if at == found.chosen { " class=\"sparse\"" } else { "" },
            Escaped(&p.what),
            100.0 * p.macs,
            p.cost,
            f.cosine,
            f.worst_cosine,
            f.relative_error,
            f.kept_top1
        )?;
    }
    writeln!(out, "</table>\n<p>Costs are in {}.</p>", Escaped(&found.unit))?;
    writeln!(out, "<table>\n<tr><th>Chosen for</th><th>Form</th><th>Lost when it alone has a form</th></tr>")?;
    for group in &found.groups {
        let losses: Vec<String> = group.losses.iter().map(|(form, loss)| format!("{form}: {loss:.2e}")).collect();
        writeln!(
            out,
            "<tr><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
            Escaped(&group.nodes.join(", ")),
            Escaped(&group.chosen),
            Escaped(&losses.join(", "))
        )?;
    }
    writeln!(out, "</table>")
}

fn write_pass(out: &mut String, pass: &PassEntry) -> fmt::Result {
    let (did, declined) = (pass.did.len(), pass.declined.len());
    writeln!(
        out,
        "<details>\n<summary>{}: {did} done, {declined} declined, {:.1} ms</summary>",
        Escaped(&pass.pass),
        pass.seconds * 1e3
    )?;
    for (label, entries) in [("Done", &pass.did), ("Declined", &pass.declined)] {
        if !entries.is_empty() {
            writeln!(out, "<table>\n<tr><th>{label}</th><th>Nodes</th></tr>")?;
            for Entry { nodes, text } in entries {
                writeln!(out, "<tr><td>{}</td><td><code>{}</code></td></tr>", Escaped(text), Escaped(&nodes.join(", ")))?;
            }
            writeln!(out, "</table>")?;
        }
    }
    writeln!(out, "</details>")
}

#[cfg(test)]
mod tests {
    use super::super::{FileSize, Timing};
    use super::*;
    use sliderun::plan::manifest::{Provenance, Verdict};
    use std::time::Duration;

    #[test]
    fn names_from_a_model_cannot_become_markup() {
        let hostile = "<script>alert('x')</script>&\"".to_owned();
        let file = FileSize { path: hostile.clone(), bytes: 1 };
        let entry = Entry { nodes: vec![hostile.clone()], text: hostile.clone() };
        let page = html(&Report {
            model: file.clone(),
            plan: file,
            provenance: Provenance {
                producer: hostile.clone(),
                model_digest: hostile.clone(),
                options: vec![hostile.clone()],
                recipe: Some(hostile.clone()),
            },
            symbols: Vec::new(),
            stages: vec![Timing::new(hostile.clone(), Duration::ZERO)],
            seconds: 0.0,
            peak_memory: None,
            budget: None,
            variants: Vec::new(),
            verdicts: vec![Verdict {
                node: hostile.clone(),
                output: hostile.clone(),
                m: 1.into(),
                n: 1.into(),
                k: 1.into(),
                patterns: Vec::new(),
                nearest: None,
                chosen: hostile.clone(),
                sparse: true,
                reason: hostile.clone(),
                cuda: Some(hostile.clone()),
            }],
            passes: vec![PassEntry { pass: hostile, seconds: 0.0, did: vec![entry.clone()], declined: vec![entry] }],
        });
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&quot;"));
    }
}
