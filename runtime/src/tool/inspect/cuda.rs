//! What a plan says of its CUDA program: targets, cubins, launches.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;

use serde::Serialize;

use crate::plan::cuda::{CudaPlan, Form, Launch, Variant, Work, library_of};
use crate::plan::manifest::{Manifest, ValueId};
use crate::tool::ToolError;

/// One launch.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LaunchRow<'a> {
    /// The first of its steps in the CUDA program.
    pub first_step: usize,
    /// Its steps' names.
    pub steps: Vec<&'a str>,
    /// Their operators.
    pub operators: Vec<&'static str>,
    /// The kernel's name in the cubins; none for a product.
    pub kernel: Option<&'a str>,
    /// The library that does a product; none for a kernel.
    pub library: Option<&'static str>,
    /// Blocks of a kernel, which may mention the plan's symbols.
    pub blocks: Option<String>,
    /// Threads of a block.
    pub threads: Option<u32>,
    /// Dynamic shared memory of a block in bytes; what a kernel declares itself is not known before it is loaded.
    pub shared_bytes: Option<u32>,
    /// Other forms of a kernel, in the order in which they are asked whether they suit.
    pub forms: &'a [Form],
    /// Results that may lie in memory where an operand does, each with the operand.
    pub over: Vec<[&'a str; 2]>,
}

impl<'a> LaunchRow<'a> {
    fn new(cuda: &'a Variant, positions: Range<usize>, launch: &'a Launch) -> LaunchRow<'a> {
        let first_step = positions.start;
        let name = |id: ValueId| cuda.program.values.get(id.0 as usize).map_or("", |v| v.name.as_str());
        let steps = cuda.program.steps.get(positions).unwrap_or_default();
        let (kernel, product) = match &launch.work {
            Work::Kernel(kernel) => (Some(kernel), None),
            Work::Product => (None, steps.first().map(|s| &s.op)),
        };
        LaunchRow {
            first_step,
            steps: steps.iter().map(|s| s.name.as_str()).collect(),
            operators: steps.iter().map(|s| s.op.name()).collect(),
            kernel: kernel.map(|k| k.symbol.as_str()),
            library: product.map(library_of),
            blocks: kernel.map(|k| k.blocks.to_string()),
            threads: kernel.map(|k| k.threads),
            shared_bytes: kernel.map(|k| k.shared_bytes),
            forms: kernel.map_or(&[], |k| &k.forms),
            over: kernel.iter().flat_map(|k| &k.over).map(|o| [name(o.result), name(o.operand)]).collect(),
        }
    }
}

/// The launches, in order.
pub fn launches(cuda: &Variant) -> Vec<LaunchRow<'_>> {
    let row = |(positions, launch)| LaunchRow::new(cuda, positions, launch);
    cuda.launched().map(row).collect()
}

/// Everything, as JSON; null for a plan that is for the CPU alone.
pub fn describe(manifest: &Manifest) -> serde_json::Value {
    let Some(cuda) = &manifest.cuda else { return serde_json::Value::Null };
    let targets: Vec<serde_json::Value> = sizes(manifest, cuda)
        .map(|(architecture, bytes)| serde_json::json!({ "architecture": architecture, "cubin_bytes": bytes }))
        .collect();
    let variant = |v: &Variant| {
        serde_json::json!({
            "name": v.name, "range": cuda.range(v), "sparse": v.sparse_share(), "expanded_bytes": v.expanded_bytes(),
            "steps": v.program.steps.len(), "launches": launches(v),
        })
    };
    let variants: Vec<serde_json::Value> = cuda.variants.iter().map(variant).collect();
    serde_json::json!({ "targets": targets, "rows": cuda.rows.to_string(), "variants": variants })
}

fn sizes<'a>(manifest: &'a Manifest, cuda: &'a CudaPlan) -> impl Iterator<Item = (String, u64)> + 'a {
    let bytes = |id: u32| manifest.blobs.get(id as usize).map_or(0, |b| b.len);
    cuda.modules.iter().map(move |m| (m.architecture.to_string(), bytes(m.cubin.0)))
}

/// For people: targets, and how many launches of what kind; with `each`, a line on each.
///
/// # Errors
/// Those of `out`.
pub fn text(manifest: &Manifest, each: bool, out: &mut dyn Write) -> Result<(), ToolError> {
    let Some(cuda) = &manifest.cuda else { return Ok(()) };
    let targets: Vec<String> = sizes(manifest, cuda)
        .map(|(architecture, bytes)| format!("{architecture} (cubin of {:.0} KiB)", bytes as f64 / 1024.0))
        .collect();
    let targets = if targets.is_empty() { "no architecture".to_owned() } else { targets.join(", ") };
    let several = cuda.variants.len() > 1;
    let chosen =
        if several { format!(", {} variants chosen by rows = {}", cuda.variants.len(), cuda.rows) } else { String::new() };
    writeln!(out, "CUDA for {targets}{chosen}")?;
    for variant in &cuda.variants {
        if several {
            writeln!(out, "variant {}: {}", variant.name, preference(cuda, variant))?;
        }
        writeln!(out, "  {}", summary(variant))?;
        launched(variant, each, out)?;
    }
    Ok(())
}

/// For which numbers of rows the compiler's cost model prefers a variant.
pub fn preference(cuda: &CudaPlan, variant: &Variant) -> String {
    match cuda.range(variant) {
        None => "not preferred by estimates, only where measured faster".to_owned(),
        Some((0, None)) => "preferred by estimates for any rows".to_owned(),
        Some((0, Some(to))) => format!("preferred by estimates for rows < {to}"),
        Some((from, None)) => format!("preferred by estimates for rows ≥ {from}"),
        Some((from, Some(to))) => format!("preferred by estimates for {from} ≤ rows < {to}"),
    }
}

/// How large a variant of a CUDA program is and how much of it is sparse, in a line.
pub fn summary(variant: &Variant) -> String {
    let share = variant.sparse_share();
    let mut text = format!("{} launches for {} steps", variant.launches.len(), variant.program.steps.len());
    if share.products > 0 {
        text += &format!(
            ", {} of {} products sparse ({:.0}% of the multiplications)",
            share.sparse,
            share.products,
            100.0 * share.of_work
        );
    }
    let expanded = variant.expanded_bytes();
    if expanded > 0 {
        text += &format!(", {:.2} MiB of dense weights written out on the device", expanded as f64 / f64::from(1 << 20));
    }
    text
}

/// The launches of a variant.
fn launched(variant: &Variant, each: bool, out: &mut dyn Write) -> Result<(), ToolError> {
    let rows = launches(variant);
    if each {
        writeln!(out, "  {:>4} {:>5} {:>7} {:>7}  {:<44} OPERATORS", "#", "STEPS", "THREADS", "SHARED", "KERNEL OR LIBRARY")?;
        for (i, row) in rows.iter().enumerate() {
            let number = |n: Option<u32>| n.map_or("-".to_owned(), |n| n.to_string());
            let (threads, shared) = (number(row.threads), number(row.shared_bytes));
            let mut what = row.kernel.or(row.library).unwrap_or_default().to_owned();
            for form in row.forms {
                let only = form.architecture.map_or(String::new(), |a| format!(" for {a}"));
                what.push_str(&format!(", from {} blocks on {}{only}", form.least_blocks, form.symbol));
            }
            let in_place = if row.over.is_empty() { "" } else { ", in place" };
            let operators = row.operators.join(" ") + in_place;
            writeln!(out, "  {i:>4} {:>5} {threads:>7} {shared:>7}  {what:<44} {operators}", row.steps.len())?;
        }
        return Ok(());
    }
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for mut row in rows {
        row.operators.dedup();
        let library = row.library.map_or(String::new(), |library| format!(", {library}"));
        *kinds.entry(format!("{}{library}", row.operators.join(" "))).or_default() += 1;
    }
    for (kind, count) in kinds {
        writeln!(out, "  {count:>4} {kind}")?;
    }
    Ok(())
}
