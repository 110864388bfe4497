//! Which results of a kernel may lie in memory where one of its operands does.
//!
//! Kernels by element and along rows give each place of a row to one thread, which reads its elements of every operand before it writes its
//! element of a result, and never again afterwards. A result may then take the memory of an operand with as many elements of that size, in
//! the same rows, that nobody else reads later. Along rows this holds for every result, since what is read stays in registers; by element
//! for the last one, since what is stored before may be calculated anew for it.
//!
//! Must not know: how kernels are written, beyond that.

use sliderun::dim::Dim;
use sliderun::op::Op;
use sliderun::plan::cuda::{Kernel, Over};
use sliderun::plan::manifest::{Program, Step, Storage, ValueId};
use std::collections::BTreeSet;
use std::ops::Range;

use super::{Readers, root};

/// The results of the kernel of these steps, which goes along rows or by element, each with the operands whose memory it may take: none that
/// is read afterwards.
pub fn over(program: &Program, readers: &Readers, positions: &Range<usize>, kernel: &Kernel, along_rows: bool) -> Vec<Over> {
    let steps = &program.steps[positions.clone()];
    let given: BTreeSet<ValueId> = kernel.values().collect();
    let computed: BTreeSet<ValueId> = steps.iter().flat_map(|s| s.outputs.iter().copied()).collect();
    let dies = |id: &ValueId| {
        let here = matches!(program.values[id.0 as usize].storage, Storage::Computed) && !computed.contains(id);
        here && readers.of(*id).iter().all(|reader| *reader < positions.end)
    };
    let operands: Vec<ValueId> = given.iter().copied().filter(dies).collect();
    let mut found = Vec::new();
    let last = steps.len().saturating_sub(1);
    for (at, step) in steps.iter().enumerate().filter(|(at, _)| along_rows || *at == last) {
        let keeps = |result: ValueId| steps[..=at].iter().all(|s| keeps_places(program, s, result));
        for &result in step.outputs.iter().filter(|o| given.contains(o) && keeps(**o)) {
            let read_later = |id: ValueId| steps[at + 1..].iter().any(|s| reads(program, s, id));
            let fits = |id: &&ValueId| alike(program, **id, result) && !read_later(**id);
            found.extend(operands.iter().filter(fits).map(|operand| Over { result, operand: *operand }));
        }
    }
    found
}

fn reads(program: &Program, step: &Step, id: ValueId) -> bool {
    step.inputs.iter().flatten().any(|operand| root(program, *operand) == id)
}

/// Whether a step calculates each element from those at the same place, or its whole row, and its results are rows as another value's are.
fn keeps_places(program: &Program, step: &Step, result: ValueId) -> bool {
    let by_element = matches!(step.op, Op::Unary(_) | Op::Binary(_) | Op::Cast(_) | Op::Where(_) | Op::Clip(_) | Op::Dequant(_));
    let by_row = matches!(step.op, Op::LayerNorm(_) | Op::RmsNorm(_) | Op::Softmax(_));
    (by_element || by_row) && step.outputs.iter().all(|o| same_rows(program, *o, result))
}

/// Whether two values have the same number of elements in rows of the same length.
fn same_rows(program: &Program, a: ValueId, b: ValueId) -> bool {
    let [a, b] = [a, b].map(|id| &program.values[id.0 as usize].ty);
    let row = |shape: &[Dim]| shape.last().cloned();
    a.elements() == b.elements() && row(&a.shape) == row(&b.shape)
}

/// Whether two values take the same bytes for the same places.
fn alike(program: &Program, a: ValueId, b: ValueId) -> bool {
    let size = |id: ValueId| program.values[id.0 as usize].ty.dtype.size();
    size(a) == size(b) && same_rows(program, a, b)
}

#[cfg(test)]
mod tests {
    use sliderun::plan::PlanWriter;
    use sliderun::plan::cuda::Work;

    use super::*;
    use crate::ir::parse::{no_constants, parse};
    use crate::lower::cuda::Schedule;

    /// Which results may lie over which operands, by launch, as "result over operand".
    fn found(text: &str) -> Vec<Vec<String>> {
        let symbols = "symbols { b: 1..8, s: 1..512 }\ninput %given: bf16[b, s, 256]\nconst %w: bf16[256, 256] = random(seed: 1)\n\
                       const %row: bf16[256] = random(seed: 2)\n%x = MatMul(%given, %w)\n%y = MatMul(%x, %w)\n";
        let graph = parse("test.ir", &format!("{symbols}{text}"), &no_constants).unwrap();
        let program = crate::lower::program(&graph, &mut PlanWriter::new()).unwrap();
        let name = |id: ValueId| program.values[id.0 as usize].name.clone();
        let launches = Schedule::default().add(&program).unwrap();
        let over = launches.iter().filter_map(|l| if let Work::Kernel(kernel) = &l.work { Some(&kernel.over) } else { None });
        over.map(|over| over.iter().map(|o| format!("{} over {}", name(o.result), name(o.operand))).collect()).collect()
    }

    #[test]
    fn results_take_the_memory_of_operands_that_are_read_for_the_last_time() {
        let cases: [(&str, &[&[&str]]); 9] = [
            ("%z = Gelu(%y)\noutput \"z\" = %z", &[&["z over y"]]),
            // Read elsewhere, a graph output, a graph input.
            ("%z = Gelu(%y)\n%m = MatMul(%y, %w)\noutput \"z\" = %z\noutput \"m\" = %m", &[&[]]),
            ("%z = Gelu(%y)\noutput \"z\" = %z\noutput \"y\" = %y", &[&[]]),
            ("%z = Gelu(%given)\noutput \"z\" = %z\noutput \"y\" = %y", &[&[]]),
            // A residual is kept beside its norm: each has its operand.
            (
                "%sum = Add(%y, %x)\n%n = LayerNorm(%sum, %row, %row) {axis: 2, epsilon: 1e-5, stats: false}\n%m = MatMul(%n, %w)\n\
                 output \"sum\" = %sum\noutput \"m\" = %m",
                &[&["sum over x", "sum over y", "n over x", "n over y"]],
            ),
            // Elements of another size, or at other places.
            ("%z = Cast(%y) {to: f32}\noutput \"z\" = %z", &[&[]]),
            ("%e = Gelu(%y)\n%z = Transpose(%e) {perm: [0, 2, 1]}\noutput \"z\" = %z", &[&[]]),
            ("%a, %b = Split(%y) {axis: 2, sizes: [128, 128]}\n%z = Mul(%a, %b)\noutput \"z\" = %z", &[&[]]),
            ("%z = Softmax(%y) {axis: 2, log: false}\noutput \"z\" = %z", &[&["z over y"]]),
        ];
        for (text, expected) in cases {
            assert_eq!(found(text), expected, "{text}");
        }
    }
}
