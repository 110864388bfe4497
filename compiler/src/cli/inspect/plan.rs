//! What a plan is made of.

use sliderun::plan::Plan;
use sliderun::plan::manifest::{Manifest, Storage, ValueId};
use sliderun::session::{ArenaSize, Device, Session, SessionOptions, VariantMemory, variant_memory};
use sliderun::tool::inspect::{describe, text};
use sliderun::tool::symbols;
use std::io::Write;
use std::sync::Arc;

use super::Inspect;
use super::dot::Dot;
use crate::cli::failure::{Failure, Result};
use crate::cli::inputs::finish;
use crate::cli::output::{Column, bytes, json, table};
use crate::lower::{Missed, missed};

/// Prints it as asked.
///
/// # Errors
/// Those of the output; symbols that the plan does not have; with `--check`, damaged data.
pub fn inspect(args: &Inspect, what: &str, plan: Plan, out: &mut dyn Write) -> Result {
    if args.check {
        plan.check().map_err(|e| Failure::because(what, &e))?;
    }
    if args.dot {
        return Ok(dot(plan.manifest(), &args.file.display().to_string(), out)?);
    }
    let plan = Arc::new(plan);
    let memory = args.shape.is_some().then(|| memory(args, what, &plan)).transpose()?;
    if args.json {
        let mut described = describe(&plan, args.check);
        if let (Some(Memory { shape, cpu, gpus }), Some(object)) = (memory, described.as_object_mut()) {
            let gpus: Vec<_> = gpus
                .iter()
                .map(|gpu| {
                    let VariantMemory { variant, size, apart } = gpu;
                    serde_json::json!({ "variant": variant, "bytes": size.bytes, "lower_bound": size.lower_bound, "apart": apart })
                })
                .collect();
            let memory = serde_json::json!({ "shape": shape, "bytes": cpu.bytes, "lower_bound": cpu.lower_bound, "cuda": gpus });
            object.insert("memory".to_owned(), memory);
        }
        return json(out, &described);
    }
    finish(what, text(&plan, args.check, args.steps, out))?;
    if let Some(Memory { shape, cpu, gpus }) = memory {
        let size =
            |size: ArenaSize| format!("{}, at least {} by liveness", bytes(size.bytes as u64), bytes(size.lower_bound as u64));
        writeln!(out, "working memory for {shape}: {}", size(cpu))?;
        for gpu in gpus {
            let apart = bytes(gpu.apart as u64);
            writeln!(out, "on GPUs, variant {}: {}; {apart} if no result took an operand's place", gpu.variant, size(gpu.size))?;
        }
    }
    if args.steps {
        not_fused(plan.manifest(), out)?;
        writeln!(out)?;
        steps(plan.manifest(), out)?;
    }
    Ok(())
}

/// The launches that could have been part of others, by reason.
fn not_fused(manifest: &Manifest, out: &mut dyn Write) -> std::io::Result<()> {
    for variant in manifest.cuda.iter().flat_map(|cuda| &cuda.variants) {
        let mut reasons: Vec<(String, Vec<String>)> = Vec::new();
        for Missed { step, why } in missed(&variant.program, &variant.launches) {
            match reasons.iter_mut().find(|(known, _)| *known == why) {
                Some((_, steps)) => steps.push(step),
                None => reasons.push((why, vec![step])),
            }
        }
        for (why, steps) in reasons {
            writeln!(out, "not fused on GPUs ({}): {why}: {}", variant.name, steps.join(", "))?;
        }
    }
    Ok(())
}

/// Working memory of a shape.
struct Memory {
    shape: String,
    cpu: ArenaSize,
    gpus: Vec<VariantMemory>,
}

fn memory(args: &Inspect, what: &str, plan: &Arc<Plan>) -> Result<Memory> {
    let given = args.shape.clone().unwrap_or_default();
    let shape = finish(what, symbols::complete(&given, &plan.manifest().symbols).map_err(Into::into))?;
    let session = Session::new(plan.clone(), Device::Cpu, SessionOptions::default());
    let cpu = finish(what, session.and_then(|s| s.arena_size(&shape)).map_err(Into::into))?;
    let gpus = finish(what, variant_memory(plan, &shape).map_err(Into::into))?;
    Ok(Memory { shape: symbols::format(&shape), cpu, gpus })
}

fn steps(manifest: &Manifest, out: &mut dyn Write) -> Result {
    let describe = |id: &ValueId| manifest.program.values.get(id.0 as usize).map_or(String::new(), |v| v.ty.to_string());
    let rows = manifest.program.steps.iter().enumerate().map(|(i, step)| {
        let inputs: Vec<String> = step.inputs.iter().flatten().map(describe).collect();
        let outputs: Vec<String> = step.outputs.iter().map(describe).collect();
        vec![i.to_string(), step.name.clone(), step.op.name().to_owned(), inputs.join(" "), outputs.join(" ")]
    });
    let columns =
        [Column::Number("#"), Column::Text("STEP"), Column::Text("OPERATOR"), Column::Text("OPERANDS"), Column::Text("RESULTS")];
    table(out, &columns, rows)
}

fn dot(manifest: &Manifest, name: &str, out: &mut dyn Write) -> std::io::Result<()> {
    let mut dot = Dot::begin(out, name)?;
    let mut producers: Vec<Option<String>> = vec![None; manifest.program.values.len()];
    // Validation made every index one of the list.
    let value = |id: ValueId| &manifest.program.values[id.0 as usize];
    for &id in &manifest.program.inputs {
        let node = format!("input {}", value(id).name);
        dot.node(&node, &[&value(id).name, &value(id).ty.to_string()], true)?;
        producers[id.0 as usize] = Some(node);
    }
    for (i, step) in manifest.program.steps.iter().enumerate() {
        let node = format!("step {i}");
        dot.node(&node, &[step.op.name(), &step.name], false)?;
        for id in &step.outputs {
            producers[id.0 as usize] = Some(node.clone());
        }
    }
    // Constants have no producer: they would hide the structure.
    let producer = |id: ValueId| match value(id).storage {
        Storage::Alias(of) => producers[of.0 as usize].as_deref(),
        _ => producers[id.0 as usize].as_deref(),
    };
    for (i, step) in manifest.program.steps.iter().enumerate() {
        for &id in step.inputs.iter().flatten() {
            if let Some(from) = producer(id) {
                dot.edge(from, &format!("step {i}"), &value(id).ty.to_string())?;
            }
        }
    }
    for output in &manifest.program.outputs {
        let node = format!("output {}", output.name);
        dot.node(&node, &[&output.name, &value(output.value).ty.to_string()], true)?;
        if let Some(from) = producer(output.value) {
            dot.edge(from, &node, "")?;
        }
    }
    dot.end()
}
