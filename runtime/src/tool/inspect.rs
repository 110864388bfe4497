//! `inspect`: what a plan says of itself.

mod cuda;
mod nodes;

pub use cuda::{preference, summary};

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::names::shortened;
use super::{ToolError, open_plan};
use crate::plan::manifest::{Expanded, Manifest, Program, Step, Storage, ValueId};
use crate::plan::{FORMAT_VERSION, Plan, PlanOptions};

/// What to show.
#[derive(Clone, Debug, Default)]
pub struct InspectOptions {
    /// The plan's file.
    pub plan: PathBuf,
    /// How it is opened.
    pub opening: PlanOptions,
    /// Check every blob against its digest.
    pub check: bool,
    /// List the launches of the CUDA program one by one, and the model's nodes with what they went into.
    pub steps: bool,
    /// Everything, as JSON.
    pub json: bool,
}

/// Shows a plan.
///
/// # Errors
/// A plan that is not valid; with `check`, damaged blobs.
pub fn inspect(options: &InspectOptions, out: &mut dyn Write) -> Result<(), ToolError> {
    let plan = open_plan(&options.plan, &options.opening)?;
    if options.check {
        plan.check().map_err(|source| ToolError::Plan { path: options.plan.clone(), source })?;
    }
    if options.json {
        return Ok(writeln!(out, "{:#}", describe(&plan, options.check))?);
    }
    text(&plan, options.check, options.steps, out)
}

/// Everything a plan says but its data, as JSON; `checked` tells whether the blobs have been.
pub fn describe(plan: &Plan, checked: bool) -> Json {
    let m = plan.manifest();
    let name = |id: &ValueId| m.program.values.get(id.0 as usize).map(|v| v.name.as_str());
    let steps: Vec<Json> = m.program.steps.iter().map(|s| describe_step(s, &name)).collect();
    let values: Vec<Json> = m
        .program
        .values
        .iter()
        .map(|v| json!({ "name": v.name, "type": v.ty.to_string(), "storage": v.storage, "from_model": v.from_model }))
        .collect();
    let blobs: Vec<Json> = m
        .blobs
        .iter()
        .zip(blob_uses(m))
        .map(|(b, uses)| json!({ "offset": b.offset, "bytes": b.len, "digest": b.digest.to_hex().as_str(), "used_by": uses }))
        .collect();
    let outputs: Vec<Json> = m.program.outputs.iter().map(|o| json!({ "name": o.name, "value": name(&o.value) })).collect();
    json!({
        "format": FORMAT_VERSION,
        "size": plan.size(),
        "constant_bytes": constant_bytes(m),
        "checked": checked,
        "signer": plan.signer().map(|key| key.to_string()),
        "provenance": m.provenance,
        "symbols": m.symbols,
        "inputs": m.program.inputs.iter().map(name).collect::<Vec<_>>(),
        "outputs": outputs,
        "values": values,
        "steps": steps,
        "blobs": blobs,
        "verdicts": m.verdicts,
        "cuda": cuda::describe(m),
        "nodes": nodes::nodes(m),
    })
}

fn describe_step<'a>(step: &Step, name: &dyn Fn(&ValueId) -> Option<&'a str>) -> Json {
    json!({
        "name": step.name,
        "op": step.op,
        "inputs": step.inputs.iter().map(|v| v.as_ref().and_then(name)).collect::<Vec<_>>(),
        "outputs": step.outputs.iter().map(name).collect::<Vec<_>>(),
        "origin": step.origin,
    })
}

/// For each blob the operators that read it, `output` where it is one, and `cubin` where it is one.
fn blob_uses(manifest: &Manifest) -> Vec<BTreeSet<&str>> {
    let mut uses = vec![BTreeSet::new(); manifest.blobs.len()];
    add_uses(&manifest.program, &mut uses);
    if let Some(cuda) = &manifest.cuda {
        cuda.variants.iter().for_each(|variant| add_uses(&variant.program, &mut uses));
        for module in &cuda.modules {
            if let Some(uses) = uses.get_mut(module.cubin.0 as usize) {
                uses.insert("cubin");
            }
        }
    }
    uses
}

fn add_uses<'a>(program: &'a Program, uses: &mut [BTreeSet<&'a str>]) {
    let mut blobs: Vec<Vec<usize>> = Vec::with_capacity(program.values.len());
    for value in &program.values {
        blobs.push(match value.storage {
            Storage::Constant(blob) => vec![blob.0 as usize],
            Storage::Expanded(Expanded { values, positions, .. }) => vec![values.0 as usize, positions.0 as usize],
            // What an alias is of comes before it.
            Storage::Alias(of) => blobs.get(of.0 as usize).cloned().unwrap_or_default(),
            Storage::Input | Storage::Computed => Vec::new(),
        });
    }
    let operands = program.steps.iter().flat_map(|s| s.inputs.iter().flatten().map(|id| (id, s.op.name())));
    for (id, user) in operands.chain(program.outputs.iter().map(|o| (&o.value, "output"))) {
        for blob in blobs.get(id.0 as usize).into_iter().flatten() {
            if let Some(uses) = uses.get_mut(*blob) {
                uses.insert(user);
            }
        }
    }
}

fn constant_bytes(manifest: &Manifest) -> u64 {
    // Validation put every blob inside the file, but they may overlap.
    manifest.blobs.iter().fold(0, |sum: u64, b| sum.saturating_add(b.len))
}

/// What a plan says, for people; `checked` tells whether its blobs have been, `steps` asks for a line on each launch on a GPU and
/// on each node of the model.
///
/// # Errors
/// Those of `out`.
pub fn text(plan: &Plan, checked: bool, steps: bool, out: &mut dyn Write) -> Result<(), ToolError> {
    let m = plan.manifest();
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    writeln!(out, "format {FORMAT_VERSION}, {:.2} MiB of which constants {:.2} MiB", mib(plan.size()), mib(constant_bytes(m)))?;
    if let Some(signer) = plan.signer() {
        writeln!(out, "signed by {signer}")?;
    }
    writeln!(out, "made by {} from model {}", m.provenance.producer, m.provenance.model_digest)?;
    if !m.provenance.options.is_empty() {
        writeln!(out, "options {}", m.provenance.options.join(" "))?;
    }
    if let Some(recipe) = &m.provenance.recipe {
        writeln!(out, "recipe {recipe}")?;
    }
    for s in &m.symbols {
        writeln!(out, "symbol {} = {}..{}", s.name, s.min, s.max)?;
    }
    let value = |id: &ValueId| m.program.values.get(id.0 as usize);
    for v in m.program.inputs.iter().filter_map(value) {
        writeln!(out, "input  {}: {}", v.name, v.ty)?;
    }
    for o in &m.program.outputs {
        if let Some(v) = value(&o.value) {
            writeln!(out, "output {}: {}", o.name, v.ty)?;
        }
    }
    let aliases = m.program.values.iter().filter(|v| matches!(v.storage, Storage::Alias(_))).count();
    writeln!(out, "{} steps, {} values of which {aliases} aliases", m.program.steps.len(), m.program.values.len())?;
    let mut operators: BTreeMap<&str, usize> = BTreeMap::new();
    m.program.steps.iter().for_each(|s| *operators.entry(s.op.name()).or_default() += 1);
    for (name, count) in operators {
        writeln!(out, "  {name:<24} {count:>5}")?;
    }
    let mut uses: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for (blob, users) in m.blobs.iter().zip(blob_uses(m)) {
        let users = if users.is_empty() { "nothing".to_owned() } else { Vec::from_iter(users).join(", ") };
        let (count, bytes) = uses.entry(users).or_default();
        (*count, *bytes) = (*count + 1, bytes.saturating_add(blob.len));
    }
    writeln!(out, "blobs of constants: {}, used by", m.blobs.len())?;
    for (users, (count, bytes)) in uses {
        writeln!(out, "  {users:<24} {count:>5} {:>9.2} MiB", mib(bytes))?;
    }
    for (v, node) in m.verdicts.iter().zip(shortened(m.verdicts.iter().map(|v| v.node.as_str()))) {
        let patterns: Vec<String> = v.patterns.iter().map(ToString::to_string).collect();
        let found = if patterns.is_empty() { "none".to_owned() } else { patterns.join(" ") };
        writeln!(out, "{node}: {}x{}x{}, patterns {found}, {}: {}", v.m, v.n, v.k, v.choices(), v.reason)?;
    }
    cuda::text(m, steps, out)?;
    if steps {
        nodes::text(m, out)?;
    }
    if checked {
        writeln!(out, "every blob matches its digest")?;
    }
    Ok(())
}
