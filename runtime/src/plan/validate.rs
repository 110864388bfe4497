//! What must hold of a manifest before anything else looks at it. After this, ids are in range, every value is written once and before it is
//! read, constants have the bytes that their types need, blobs lie in the data section, and every symbol follows from the inputs' shapes.
//!
//! Not checked here, because it takes concrete extents: that steps fit the types of their operands (the session does, for each shape).

use std::collections::BTreeSet;
use std::ops::Range;

use super::PlanError;
use super::cuda::{Argument, CudaPlan, Kernel, Over, Variant, Work};
use super::file::{BLOB_ALIGN, HEADER_LEN};
use super::manifest::{Blob, BlobId, Expanded, Manifest, Program, Storage, Value, ValueId};
use crate::dim::Dim;
use crate::op::{Op, Semantics, TensorType};
use crate::tensor::checked_elements;

/// Most axes that a value may have.
const MAX_RANK: usize = 64;
/// Most threads of a block that any device has.
const MAX_THREADS: u32 = 1024;

/// Checks a manifest whose blobs lie before `data_end`.
pub(super) fn validate(manifest: &Manifest, data_end: u64) -> Result<(), PlanError> {
    check_count("blobs", manifest.blobs.len())?;
    check_blobs(manifest, data_end)?;
    check_inputs(&manifest.program)?;
    let symbols = check_symbols(manifest)?;
    check_program(&manifest.program, &manifest.blobs, &symbols)?;
    if let Some(cuda) = &manifest.cuda {
        check_cuda(manifest, cuda, &symbols)?;
    }
    Ok(())
}

/// Checks what [`check_inputs`] does not.
fn check_program(program: &Program, blobs: &[Blob], symbols: &BTreeSet<String>) -> Result<(), PlanError> {
    check_count("values", program.values.len())?;
    check_count("steps", program.steps.len())?;
    check_values(program, blobs, symbols)?;
    let known = check_steps(program, symbols)?;
    check_outputs(program, &known)
}

/// Checks what GPUs run: that it is clear which variant is preferred, and each variant.
fn check_cuda(manifest: &Manifest, cuda: &CudaPlan, symbols: &BTreeSet<String>) -> Result<(), PlanError> {
    check_extents("rows of the CUDA program", [&cuda.rows], symbols)?;
    for module in &cuda.modules {
        if module.cubin.0 as usize >= manifest.blobs.len() {
            let reason = format!("there is no blob {}", module.cubin.0);
            return Err(PlanError::invalid(format!("module {}", module.architecture), reason));
        }
    }
    let (mut names, mut starts) = (BTreeSet::new(), BTreeSet::new());
    for variant in &cuda.variants {
        let place = format!("variant '{}'", variant.name);
        if !names.insert(&variant.name) {
            return Err(PlanError::invalid(place, "another variant has the same name"));
        }
        if variant.from.is_some_and(|from| !starts.insert(from)) {
            return Err(PlanError::invalid(place, "another variant is preferred from the same number of rows on"));
        }
        check_variant(manifest, variant, symbols).map_err(|e| match e {
            PlanError::Invalid { place: inner, reason } => PlanError::invalid(format!("{place}: {inner}"), reason),
            other => other,
        })?;
    }
    if !starts.contains(&0) {
        return Err(PlanError::invalid("CUDA program", "no variant is preferred for few rows"));
    }
    Ok(())
}

/// Checks that a program for GPUs is called as the CPU's is, and that its launches do all of its steps.
fn check_variant(manifest: &Manifest, cuda: &Variant, symbols: &BTreeSet<String>) -> Result<(), PlanError> {
    check_inputs(&cuda.program)?;
    check_program(&cuda.program, &manifest.blobs, symbols)?;
    let fail = |place: String, reason: String| Err(PlanError::invalid(place, reason));
    let ports = |p: &Program| {
        let value = |id: ValueId| p.values[id.0 as usize].clone();
        let inputs = p.inputs.iter().map(|id| (value(*id).name, value(*id).ty));
        let outputs = p.outputs.iter().map(|o| (o.name.clone(), value(o.value).ty));
        inputs.chain(outputs).collect::<Vec<_>>()
    };
    if ports(&manifest.program) != ports(&cuda.program) {
        return fail("CUDA program".into(), "its inputs and outputs are not those of the CPU's program".into());
    }
    let mut done = 0usize;
    for (i, launch) in cuda.launches.iter().enumerate() {
        let place = format!("launch {i}");
        let steps = launch.steps as usize;
        done = done.saturating_add(steps);
        if steps == 0 || done > cuda.program.steps.len() {
            return fail(place, format!("it does {steps} steps"));
        }
        match &launch.work {
            Work::Product if steps > 1 => return fail(place, "a product by a library is one step".into()),
            Work::Product => {}
            Work::Kernel(kernel) => {
                let forms = kernel.forms.iter().map(|f| (f.threads, &f.blocks));
                for (threads, blocks) in forms.chain([(kernel.threads, &kernel.blocks)]) {
                    if threads == 0 || threads > MAX_THREADS {
                        return fail(place, format!("blocks of {threads} threads"));
                    }
                    check_extents(&place, [blocks], symbols)?;
                }
                for argument in &kernel.arguments {
                    match argument {
                        Argument::Integer(d) => check_extents(&place, [d], symbols)?,
                        Argument::Fault => {}
                        Argument::Value(id) if cuda.program.values.get(id.0 as usize).is_some_and(|v| !is_expanded(v)) => {}
                        Argument::Value(id) if (id.0 as usize) < cuda.program.values.len() => {
                            return fail(place, EXPANDED.into());
                        }
                        Argument::Value(id) => return fail(place, format!("there is no value {}", id.0)),
                    }
                }
                let own = done - steps..done;
                kernel.over.iter().try_for_each(|over| {
                    check_over(&cuda.program, kernel, own.clone(), over).map_err(|reason| PlanError::invalid(&place, reason))
                })?;
            }
        }
    }
    if done != cuda.program.steps.len() {
        return fail("launches".into(), format!("they do {done} of {} steps", cuda.program.steps.len()));
    }
    Ok(())
}

/// Checks that a kernel's result may take the memory of its operand: that one is computed there and the other one before, both take the same
/// bytes, and nobody reads the operand later.
fn check_over(program: &Program, kernel: &Kernel, own: Range<usize>, over: &Over) -> Result<(), String> {
    let fail = |reason: &str| Err(format!("result {} over operand {}: {reason}", over.result.0, over.operand.0));
    let written = |id: ValueId| program.steps[own.clone()].iter().any(|s| s.outputs.contains(&id));
    let given = |id: ValueId| kernel.values().any(|v| v == id);
    if !given(over.result) || !given(over.operand) {
        return fail("the kernel is not given both");
    }
    let [result, operand] = [over.result, over.operand].map(|id| &program.values[id.0 as usize]);
    if !written(over.result) || written(over.operand) || !matches!(operand.storage, Storage::Computed) {
        return fail("the one must be computed by the launch, the other by one before");
    }
    if result.ty.dtype.size() != operand.ty.dtype.size() || result.ty.elements() != operand.ty.elements() {
        return fail("they are not of one size");
    }
    let is_it = |id: ValueId| match program.values[id.0 as usize].storage {
        Storage::Alias(of) => of == over.operand,
        _ => id == over.operand,
    };
    let later = program.steps[own.end..].iter().flat_map(|s| s.inputs.iter().flatten().copied());
    if later.chain(program.outputs.iter().map(|o| o.value)).any(is_it) {
        return fail("the operand is read later");
    }
    Ok(())
}

/// What is said of an expanded weight that anything but a DenseGemm would read.
const EXPANDED: &str = "only the right side of a DenseGemm is written out from compressed blobs";

fn is_expanded(value: &Value) -> bool {
    matches!(value.storage, Storage::Expanded(_))
}

/// Checks that the blobs of an expanded weight have the bytes that its type needs in compressed form.
fn check_expanded(ty: &TensorType, expanded: &Expanded, blobs: &[Blob]) -> Result<(), String> {
    let parts = ty.concrete_shape().and_then(|shape| expanded.shapes(&shape));
    let Some((_, values, positions)) = parts else {
        return Err(format!("{ty} is no weight that blobs could hold in compressed form"));
    };
    for (what, BlobId(id), shape, size) in
        [("values", expanded.values, values, ty.dtype.size()), ("positions", expanded.positions, positions, 1)]
    {
        let Some(blob) = blobs.get(id as usize) else { return Err(format!("there is no blob {id}")) };
        let bytes = checked_elements(&shape).and_then(|n| n.checked_mul(size)).and_then(|n| u64::try_from(n).ok());
        if bytes != Some(blob.len) {
            return Err(format!(
                "blob {id} has {} bytes, which is not what the {what} of {ty} at {} need",
                blob.len, expanded.pattern
            ));
        }
    }
    Ok(())
}

fn check_count(what: &str, count: usize) -> Result<(), PlanError> {
    match u32::try_from(count) {
        Ok(_) => Ok(()),
        Err(_) => Err(PlanError::invalid(what, "more than 2^32")),
    }
}

fn check_blobs(manifest: &Manifest, data_end: u64) -> Result<(), PlanError> {
    for (i, blob) in manifest.blobs.iter().enumerate() {
        let fail = |reason: &str| Err(PlanError::invalid(format!("blob {i}"), reason));
        if !blob.offset.is_multiple_of(BLOB_ALIGN) {
            return fail("it is not aligned");
        }
        if blob.offset < HEADER_LEN as u64 || blob.offset.checked_add(blob.len).is_none_or(|end| end > data_end) {
            return fail("it lies outside the data section");
        }
    }
    Ok(())
}

/// The declared symbols, checked to follow from the inputs' shapes where anything mentions them.
fn check_symbols(manifest: &Manifest) -> Result<BTreeSet<String>, PlanError> {
    let mut declared = BTreeSet::new();
    for s in &manifest.symbols {
        let fail = |reason: &str| Err(PlanError::invalid(format!("symbol '{}'", s.name), reason));
        if Dim::symbol(&s.name).to_string().parse::<Dim>().ok().as_ref().and_then(Dim::as_symbol) != Some(&s.name) {
            return fail("it is not a name");
        }
        if s.min < 0 || s.min > s.max {
            return fail("its range is empty or negative");
        }
        if !declared.insert(s.name.clone()) {
            return fail("it is declared twice");
        }
    }
    let mut given = BTreeSet::new();
    for id in &manifest.program.inputs {
        if let Some(value) = manifest.program.values.get(id.0 as usize) {
            value.ty.shape.iter().for_each(|d| d.symbols(&mut given));
        }
    }
    Ok(declared.intersection(&given).cloned().collect())
}

fn check_extents<'a>(place: &str, dims: impl IntoIterator<Item = &'a Dim>, symbols: &BTreeSet<String>) -> Result<(), PlanError> {
    let mut used = BTreeSet::new();
    dims.into_iter().for_each(|d| d.symbols(&mut used));
    match used.difference(symbols).next() {
        Some(s) => {
            Err(PlanError::invalid(place, format!("symbol '{s}' is not declared, or does not follow from the inputs' shapes")))
        }
        None => Ok(()),
    }
}

/// Bytes of a type without symbols.
fn concrete_bytes(ty: &TensorType) -> Option<u64> {
    let bytes = checked_elements(&ty.concrete_shape()?)?.checked_mul(ty.dtype.size())?;
    u64::try_from(bytes).ok()
}

fn check_values(program: &Program, blobs: &[Blob], symbols: &BTreeSet<String>) -> Result<(), PlanError> {
    let mut names = BTreeSet::new();
    for (i, value) in program.values.iter().enumerate() {
        let place = format!("value '{}'", value.name);
        let fail = |reason: String| Err(PlanError::invalid(place.clone(), reason));
        if !names.insert(&value.name) {
            return fail("another value has the same name".into());
        }
        if value.ty.rank() > MAX_RANK {
            return fail(format!("it has {} axes, at most {MAX_RANK} are possible", value.ty.rank()));
        }
        if value.ty.shape.iter().any(|d| d.as_const().is_some_and(|v| v < 0)) {
            return fail(format!("it has a negative extent: {}", value.ty));
        }
        check_extents(&place, &value.ty.shape, symbols)?;
        match value.storage {
            Storage::Input | Storage::Computed => {}
            Storage::Constant(BlobId(id)) => {
                let Some(blob) = blobs.get(id as usize) else {
                    return fail(format!("there is no blob {id}"));
                };
                if concrete_bytes(&value.ty) != Some(blob.len) {
                    return fail(format!("blob {id} has {} bytes, which is not what {} needs", blob.len, value.ty));
                }
            }
            Storage::Expanded(expanded) => check_expanded(&value.ty, &expanded, blobs).or_else(fail)?,
            Storage::Alias(ValueId(of)) => {
                let Some(target) = program.values[..i].get(of as usize) else {
                    return fail(format!("it is an alias of value {of}, which does not come before it"));
                };
                if is_expanded(target) {
                    return fail(EXPANDED.into());
                }
                let (a, b) = (value.ty.elements(), target.ty.elements());
                let differ = a.as_const().zip(b.as_const()).is_some_and(|(a, b)| a != b);
                if value.ty.dtype != target.ty.dtype || differ {
                    return fail(format!("{} cannot be an alias of '{}', which is {}", value.ty, target.name, target.ty));
                }
            }
        }
    }
    Ok(())
}

fn check_inputs(program: &Program) -> Result<(), PlanError> {
    let mut listed = BTreeSet::new();
    for id in &program.inputs {
        match program.values.get(id.0 as usize) {
            Some(value) if value.storage == Storage::Input => {}
            Some(value) => return Err(PlanError::invalid(format!("input '{}'", value.name), "it is not stored as an input")),
            None => return Err(PlanError::invalid("inputs", format!("there is no value {}", id.0))),
        }
        if !listed.insert(*id) {
            return Err(PlanError::invalid("inputs", format!("value {} is listed twice", id.0)));
        }
    }
    let stored = program.values.iter().enumerate().filter(|(_, v)| v.storage == Storage::Input);
    for (i, value) in stored {
        if !u32::try_from(i).is_ok_and(|i| listed.contains(&ValueId(i))) {
            return Err(PlanError::invalid(format!("value '{}'", value.name), "it is stored as an input but not listed as one"));
        }
    }
    Ok(())
}

/// For each value, whether its data is there at this point of the schedule.
struct Available {
    root: Vec<usize>,
    ready: Vec<bool>,
}

impl Available {
    fn new(program: &Program) -> Self {
        let mut root = Vec::with_capacity(program.values.len());
        for (i, value) in program.values.iter().enumerate() {
            root.push(match value.storage {
                // Aliases point backwards: the target's root is known.
                Storage::Alias(of) => root[of.0 as usize],
                _ => i,
            });
        }
        let ready = program
            .values
            .iter()
            .map(|v| matches!(v.storage, Storage::Input | Storage::Constant(_) | Storage::Expanded(_)))
            .collect::<Vec<_>>();
        Available { root, ready }
    }

    fn has(&self, id: ValueId) -> Option<bool> {
        self.root.get(id.0 as usize).map(|&r| self.ready[r])
    }
}

fn check_steps(program: &Program, symbols: &BTreeSet<String>) -> Result<Available, PlanError> {
    let mut known = Available::new(program);
    let mut names = BTreeSet::new();
    for step in &program.steps {
        let place = format!("step '{}'", step.name);
        let fail = |reason: String| Err(PlanError::invalid(place.clone(), reason));
        if !names.insert(&step.name) {
            return fail("another step has the same name".into());
        }
        let mut dims = Vec::new();
        step.op.clone().map_dims(&mut |d| {
            dims.push(d.clone());
            d.clone()
        });
        check_extents(&place, &dims, symbols)?;
        for (slot, id) in step.inputs.iter().enumerate().filter_map(|(slot, id)| Some((slot, id.as_ref()?))) {
            match known.has(*id) {
                Some(true)
                    if is_expanded(&program.values[id.0 as usize]) && (slot != 1 || !matches!(step.op, Op::DenseGemm(_))) =>
                {
                    return fail(EXPANDED.into());
                }
                Some(true) => {}
                Some(false) => {
                    return fail(format!("it reads '{}' before that is written", program.values[id.0 as usize].name));
                }
                None => return fail(format!("there is no value {}", id.0)),
            }
        }
        if step.outputs.is_empty() {
            return fail("it has no output".into());
        }
        for id in &step.outputs {
            let index = id.0 as usize;
            let Some(value) = program.values.get(index) else {
                return fail(format!("there is no value {}", id.0));
            };
            if value.storage != Storage::Computed {
                return fail(format!("it writes '{}', which is not a computed value", value.name));
            }
            if std::mem::replace(&mut known.ready[index], true) {
                return fail(format!("it writes '{}', which is already written", value.name));
            }
        }
    }
    match (0..program.values.len()).find(|&i| !known.ready[known.root[i]]) {
        Some(i) => Err(PlanError::invalid(format!("value '{}'", program.values[i].name), "no step writes it")),
        None => Ok(known),
    }
}

fn check_outputs(program: &Program, known: &Available) -> Result<(), PlanError> {
    let mut names = BTreeSet::new();
    for output in &program.outputs {
        let place = format!("output '{}'", output.name);
        if known.has(output.value) != Some(true) {
            return Err(PlanError::invalid(place, format!("there is no value {}", output.value.0)));
        }
        if is_expanded(&program.values[output.value.0 as usize]) {
            return Err(PlanError::invalid(place, EXPANDED));
        }
        if !names.insert(&output.name) {
            return Err(PlanError::invalid(place, "another output has the same name"));
        }
    }
    Ok(())
}
