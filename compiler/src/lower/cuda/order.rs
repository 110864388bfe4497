//! The order of a program's steps for GPUs: what one kernel can do comes together.
//!
//! Must not know: how kernels are written.

use sliderun::op::Op;
use sliderun::plan::manifest::{Program, Step};

use super::Readers;
use super::pointwise;

/// Orders a program's steps anew. What one depends on still comes before it.
pub fn order(program: &mut Program) {
    late(program);
    early(program);
}

/// Moves what normalises or quantizes rows right behind the step that computes them.
fn early(program: &mut Program) {
    let mut at = 0;
    while at < program.steps.len() {
        let step = &program.steps[at];
        if matches!(step.op, Op::LayerNorm(_) | Op::RmsNorm(_) | Op::QuantLift(_)) {
            let operands: Vec<_> = step.inputs.iter().flatten().map(|id| super::root(program, *id)).collect();
            let computes = |step: &Step| step.outputs.iter().any(|o| operands.contains(o));
            if let Some(behind) = program.steps[..at].iter().rposition(computes) {
                program.steps[behind + 1..=at].rotate_right(1);
            }
        }
        at += 1;
    }
}

/// Moves every element-wise step that a single other one reads right before that one.
fn late(program: &mut Program) {
    let readers = Readers::new(program);
    let mut producer = vec![None; program.values.len()];
    for (at, step) in program.steps.iter().enumerate() {
        step.outputs.iter().for_each(|o| producer[o.0 as usize] = Some(at));
    }
    // The step that a step moves to.
    let moves = |at: usize| -> Option<usize> {
        let step = &program.steps[at];
        let [output] = step.outputs[..] else { return None };
        match readers.of(output) {
            [reader] if *reader != Readers::OUTPUT && pointwise::supports(program, step).is_ok() => Some(*reader),
            _ => None,
        }
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
            moved.sort_unstable();
            moved.dedup();
            open.extend(moved);
        }
    }
    let mut steps: Vec<Option<Step>> = std::mem::take(&mut program.steps).into_iter().map(Some).collect();
    program.steps = order.iter().rev().filter_map(|at| steps[*at].take()).collect();
}
