//! The order of a program's steps for GPUs: what one kernel can do comes together.
//!
//! Must not know: how kernels are written.

use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::plan::manifest::{Program, Step, ValueId};
use std::collections::BTreeSet;

use super::Readers;
use super::heads::Heads;
use super::pointwise;

/// Orders a program's steps anew. What one depends on still comes before it.
pub fn order(program: &mut Program) {
    late(program);
    early(program);
    tables(program);
    heads(program);
}

/// Puts together what only computes the cosines and sines that heads are turned by.
fn tables(program: &mut Program) {
    let readers = Readers::new(program);
    let operands = |step: &Step| -> Vec<ValueId> { step.inputs.iter().flatten().map(|id| super::root(program, *id)).collect() };
    let mut tables: Vec<[ValueId; 2]> = Vec::new();
    for step in &program.steps {
        if let (Op::Rotary(_), [_, cos, sin]) = (&step.op, &operands(step)[..])
            && !tables.contains(&[*cos, *sin])
        {
            tables.push([*cos, *sin]);
        }
    }
    let mut together = Vec::new();
    for values in tables {
        let mut members = BTreeSet::new();
        for (at, step) in program.steps.iter().enumerate().rev() {
            let [out] = step.outputs[..] else { continue };
            let inside = readers.of(out).iter().all(|r| members.contains(r));
            if (values.contains(&out) || inside) && pointwise::supports(program, step).is_ok() {
                members.insert(at);
            }
        }
        together.push(members.into_iter().map(|at| program.steps[at].outputs[0]).collect::<Vec<_>>());
    }
    for values in together {
        let positions: Vec<usize> =
            (0..program.steps.len()).filter(|at| program.steps[*at].outputs.iter().any(|o| values.contains(o))).collect();
        gather(program, &positions);
    }
}

/// Puts what goes with each Split behind the product of queries, keys and values right behind it, and with each Rotary that is none of that.
fn heads(program: &mut Program) {
    let first = |step: &Step| step.outputs.first().copied();
    let mut taken = BTreeSet::new();
    for splits in [true, false] {
        let starts = |s: &&Step| if splits { matches!(s.op, Op::Split(_)) } else { matches!(s.op, Op::Rotary(_)) };
        let starts: Vec<ValueId> = program.steps.iter().filter(starts).filter_map(first).collect();
        for start in starts.into_iter().filter(|v| !taken.contains(v)).collect::<Vec<_>>() {
            let readers = Readers::new(program);
            let at = program.steps.iter().position(|s| first(s) == Some(start));
            if let Some(heads) = at.and_then(|at| Heads::around(program, &readers, at)) {
                taken.extend(heads.steps.iter().filter_map(|at| first(&program.steps[*at])));
                gather(program, &heads.steps);
            }
        }
    }
}

/// Moves the steps at these positions, in order, next to each other: what they depend on before them, what depends on them behind. Where
/// one depends on another by way of a step that is none of them, nothing is moved.
fn gather(program: &mut Program, positions: &[usize]) {
    let ([first, ..], Some(last)) = (positions, positions.last()) else { return };
    let mut results: BTreeSet<ValueId> = BTreeSet::new();
    let (mut before, mut members, mut behind) = (Vec::new(), Vec::new(), Vec::new());
    let mut of_members: BTreeSet<ValueId> = BTreeSet::new();
    for at in *first..=*last {
        let step = &program.steps[at];
        let reads =
            |values: &BTreeSet<ValueId>| step.inputs.iter().flatten().any(|id| values.contains(&super::root(program, *id)));
        if positions.contains(&at) {
            if reads(&results) {
                return;
            }
            of_members.extend(&step.outputs);
            members.push(at);
        } else if reads(&results) || reads(&of_members) {
            results.extend(&step.outputs);
            behind.push(at);
        } else {
            before.push(at);
        }
    }
    let order = before.into_iter().chain(members).chain(behind);
    let moved: Vec<Step> = order.map(|at| program.steps[at].clone()).collect();
    program.steps[*first..=*last].clone_from_slice(&moved);
}

/// Moves what normalises, quantizes or rounds rows right behind the step that computes them.
fn early(program: &mut Program) {
    let mut at = 0;
    while at < program.steps.len() {
        let step = &program.steps[at];
        if matches!(step.op, Op::LayerNorm(_) | Op::RmsNorm(_) | Op::QuantLift(_)) || rounds(program, step) {
            let operands: Vec<_> = step.inputs.iter().flatten().map(|id| super::root(program, *id)).collect();
            let computes = |step: &Step| step.outputs.iter().any(|o| operands.contains(o));
            if let Some(behind) = program.steps[..at].iter().rposition(computes) {
                program.steps[behind + 1..=at].rotate_right(1);
            }
        }
        at += 1;
    }
}

/// Whether a step makes 16-bit floats of f32.
fn rounds(program: &Program, step: &Step) -> bool {
    let dtype = |id: &ValueId| program.values[id.0 as usize].ty.dtype;
    matches!(step.op, Op::Cast(_))
        && step.inputs.iter().flatten().all(|id| dtype(id) == DType::F32)
        && step.outputs.iter().all(|id| dtype(id).size() == 2)
}

/// Moves every element-wise step, and every Split, that a single other one reads right before that one.
fn late(program: &mut Program) {
    let readers = Readers::new(program);
    let mut producer = vec![None; program.values.len()];
    for (at, step) in program.steps.iter().enumerate() {
        step.outputs.iter().for_each(|o| producer[o.0 as usize] = Some(at));
    }
    // The step that a step moves to.
    let moves = |at: usize| -> Option<usize> {
        let step = &program.steps[at];
        let [reader] = *readers.of(*step.outputs.first()?) else { return None };
        let moved = matches!(step.op, Op::Split(_)) || step.outputs.len() == 1 && pointwise::supports(program, step).is_ok();
        (reader != Readers::OUTPUT && moved && readers.only(step, reader)).then_some(reader)
    };
    let mut order = Vec::with_capacity(program.steps.len());
    let mut open = Vec::new();
    // From the end: a step, then what moves to it, which is then looked at in the same way.
    for at in (0..program.steps.len()).rev().filter(|at| moves(*at).is_none()) {
        open.push(at);
        while let Some(at) = open.pop() {
            order.push(at);
            let operands = program.steps[at].inputs.iter().flatten();
            let producers = operands.filter_map(|id| producer[super::root(program, *id).0 as usize]);
            let mut moved: Vec<usize> = producers.filter(|p| moves(*p) == Some(at)).collect();
            // A Split comes last: an Attention reads through the one before it.
            moved.sort_unstable_by_key(|p| (matches!(program.steps[*p].op, Op::Split(_)), *p));
            moved.dedup();
            open.extend(moved);
        }
    }
    let mut steps: Vec<Option<Step>> = std::mem::take(&mut program.steps).into_iter().map(Some).collect();
    program.steps = order.iter().rev().filter_map(|at| steps[*at].take()).collect();
}
