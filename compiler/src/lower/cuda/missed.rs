//! What was not fused, and why: launches that read what another one has just calculated.
//!
//! Must not know: how kernels are written.

use sliderun::op::Op;
use sliderun::plan::cuda::{Launch, Work};
use sliderun::plan::manifest::{Program, Step, ValueId};

use super::chain::{along, parts};
use super::{Readers, pointwise, root};

/// A launch that could have been part of the one that calculates what it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The first step of the launch.
    pub step: String,
    /// What it is a launch of its own for, and the reason.
    pub why: String,
}

/// The fusions that the launches of a program miss, in order.
///
/// What follows a product alone is not among them: a library does those.
pub fn missed(program: &Program, launches: &[Launch]) -> Vec<Missed> {
    let readers = Readers::new(program);
    let mut launch_of = Vec::with_capacity(program.steps.len());
    for (number, launch) in launches.iter().enumerate() {
        launch_of.extend(std::iter::repeat_n(number, launch.steps as usize));
    }
    let mut producer = vec![None; program.values.len()];
    let mut found = Vec::new();
    for (at, step) in program.steps.iter().enumerate() {
        let operands = step.inputs.iter().flatten().map(|id| root(program, *id));
        // Where it would have had to join.
        let before = operands.filter_map(|id| producer[id.0 as usize].map(|from: usize| (from, id))).max();
        step.outputs.iter().for_each(|o| producer[o.0 as usize] = Some(at));
        let Some(number) = launch_of.get(at).copied() else { break };
        let first = at == 0 || launch_of[at - 1] != number;
        let Some((from, value)) = before.filter(|_| first && launches[number].work != Work::Product && joins(program, step))
        else {
            continue;
        };
        if launches[launch_of[from]].work != Work::Product {
            let last = program.steps[at..].iter().zip(&launch_of[at..]).take_while(|(_, n)| **n == number).last();
            let scales =
                |n: usize| program.steps.iter().zip(&launch_of).any(|(s, of)| *of == n && matches!(s.op, Op::Dequant(_)));
            let what = match (last.map(|(s, _)| &s.op), &step.op) {
                (Some(Op::QuantLift(_)), _) if scales(launch_of[from]) => "scaling back and quantizing take two launches",
                (_, Op::QuantLift(_)) => "quantizing is a launch of its own",
                (_, Op::LayerNorm(_) | Op::RmsNorm(_)) => "normalising begins a launch",
                (_, op) if op.moves_elements() => "moving elements begins a launch",
                _ => "calculating elements begins a launch",
            };
            let why = reason(program, &readers, (from, value), at);
            found.push(Missed { step: step.name.clone(), why: format!("{what}: {why}") });
        }
    }
    found
}

/// Whether a kernel that does a step may do others before it.
fn joins(program: &Program, step: &Step) -> bool {
    matches!(step.op, Op::Dequant(_) | Op::LayerNorm(_) | Op::RmsNorm(_) | Op::QuantLift(_))
        || pointwise::supports(program, step).is_ok()
}

fn reason(program: &Program, readers: &Readers, (from, value): (usize, ValueId), to: usize) -> String {
    let (producer, step) = (&program.steps[from], &program.steps[to]);
    if !joins(program, producer) || matches!(producer.op, Op::QuantLift(_)) {
        return format!("{} before it has a kernel of its own", producer.op.name());
    }
    let name = &program.values[value.0 as usize].name;
    let elsewhere = readers.of(value).iter().any(|r| *r != to);
    let reason = match parts(program, step) {
        Some(Err(reason)) => Err(reason),
        Some(Ok(())) if elsewhere => Ok(()),
        Some(Ok(())) => along(program, producer, producer),
        _ => along(program, producer, step),
    };
    match (reason, elsewhere) {
        (Err(reason), false) => reason,
        (Err(reason), true) => format!("{reason}, and '{name}' is read elsewhere too"),
        (Ok(()), true) => format!("'{name}' is read elsewhere too"),
        (Ok(()), false) => "other steps come between".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use sliderun::plan::PlanWriter;

    use super::*;
    use crate::ir::parse::{no_constants, parse};
    use crate::lower::cuda::Schedule;

    fn reasons(text: &str) -> Vec<String> {
        let graph = parse("test.ir", text, &no_constants).unwrap();
        let program = crate::lower::program(&graph, &mut PlanWriter::new()).unwrap();
        let launches = Schedule::default().add(&program).unwrap();
        missed(&program, &launches).into_iter().map(|m| m.why).collect()
    }

    /// A graph for each reason.
    #[test]
    fn every_launch_that_might_have_been_fused_has_its_reason() {
        let quantized = |rest: &str, k: usize, to: &str, pattern: &str| {
            let scale = if to == "bf16" { "" } else { ", %scale" };
            format!(
                r#"
                symbols {{ b: 1..8, s: 1..512 }}
                input %x: bf16[b, s, {k}]
                input %y: bf16[b, s, {}]
                input %acc: i32[b, s, {}]
                input %token: f32[b, s, 1]
                input %one: bf16[b, 1, {k}]
                const %channel: f32[{}] = random(seed: 1)
                {rest}
                %q{scale} = QuantLift(%m) {{to: {to}, layout: [(k: {k}, pattern: {pattern})]}}
                output "q" = %q"#,
                2 * k,
                2 * k,
                2 * k
            )
        };
        let swish = "%m = Swish(%x) {alpha: 1.0}";
        for (text, expected) in [
            (quantized(swish, 320, "i8", "\"6:8\""), None),
            (
                quantized(swish, 32768, "i8", "None"),
                Some(
                    "quantizing is a launch of its own: Unary before it: its rows of 32768 elements are longer than the 24576 that are held",
                ),
            ),
            (
                quantized(swish, 18944, "bf16", "\"6:8\""),
                Some("quantizing is a launch of its own: its lifted rows take 56832 bytes of shared memory, more than 48128"),
            ),
            (
                quantized("%e = Swish(%x) {alpha: 1.0}\n%m = Add(%e, %one)\noutput \"e\" = %e", 320, "i8", "None"),
                Some(
                    "calculating elements begins a launch: 'one' bf16[b, 1, 320] is broadcast in a way that rows do not have, \
                     and 'e' is read elsewhere too",
                ),
            ),
            (
                quantized("%m = Attention(%x, %x, %x) {heads: 2, scale: 0.1}", 128, "i8", "None"),
                Some("quantizing is a launch of its own: Attention before it has a kernel of its own"),
            ),
            (
                quantized(
                    "%t = Dequant(%acc, %token, %channel) {to: bf16}\n%g, %u = Split(%t) {axis: 2, sizes: [\"320\", \"320\"]}\n\
                     %m = Mul(%g, %u)\noutput \"t\" = %t",
                    320,
                    "i8",
                    "None",
                ),
                Some("scaling back and quantizing take two launches: 't' is read elsewhere too"),
            ),
            (
                quantized(
                    "%z = Exp(%y)\n%g, %m, %u = Split(%z) {axis: 2, sizes: [\"100\", \"320\", \"220\"]}\noutput \"g\" = %g\noutput \"u\" = %u",
                    320,
                    "i8",
                    "None",
                ),
                Some("quantizing is a launch of its own: Split before it: it moves elements"),
            ),
        ] {
            assert_eq!(reasons(&text).last().map(String::as_str), expected, "{text}");
        }
    }
}
