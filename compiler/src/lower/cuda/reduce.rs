//! Reductions over neighbouring axes.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::reduce::{Reduce, ReduceKind};
use sliderun::plan::manifest::{Program, Step};

use super::builder::{Generated, KernelBuilder, ceil_div, element_type};

/// Threads of a block.
const THREADS: usize = 128;
/// Where each warp takes every so-manieth element of the columns: there may be few columns, and waiting for elements is most of the work.
const COLUMN_THREADS: usize = 512;

/// The kernel of a Reduce step.
///
/// # Errors
/// What about the step has no kernel.
pub fn kernel(program: &Program, launch: usize, step: &Step, op: &Reduce) -> Result<Generated, String> {
    let mut b = KernelBuilder::new(program, launch, "reduce");
    let x = step.inputs[0].expect("Reduce has an operand");
    let ty = b.ty(x).clone();
    let value = match ty.dtype {
        DType::F32 | DType::F16 | DType::Bf16 => "float",
        DType::I32 | DType::I64 if matches!(op.kind, ReduceKind::Sum | ReduceKind::Max | ReduceKind::Min) => "long long",
        dtype => return Err(format!("Reduce {:?} of {dtype}", op.kind)),
    };
    let (Some(&first), Some(&last)) = (op.axes.first(), op.axes.last()) else {
        return Err("Reduce over no axis".into());
    };
    if !op.axes.iter().copied().eq(first..=last) {
        return Err("Reduce over axes that are not neighbours".into());
    }
    let (outer, axis, inner) =
        (Dim::product(&ty.shape[..first]), Dim::product(&ty.shape[first..=last]), Dim::product(&ty.shape[last + 1..]));
    let c = element_type(ty.dtype);
    let reduction = format!("slide::{:?}<{value}>", op.kind);
    let (from, to) = (b.input(x), b.output(step.outputs[0]));
    let sink = format!("slide::ReduceSink<{c}, {reduction}::Result>{{{to}}}");
    let axis_text = b.extent(&axis);
    let source = |stride: &str| format!("slide::ReduceSource<{c}, {value}>{{{from}, {stride}}}");
    let (call, blocks, threads) = if inner.is_one() {
        let outer_text = b.long_extent(&outer);
        let group = format!("slide::RowGroup<{THREADS}, 1>");
        (
            format!("slide::reduce_rows<{group}, {reduction}, 1>({}, {sink}, {outer_text}, {axis_text});", source(&axis_text)),
            outer,
            THREADS,
        )
    } else {
        let inner_text = b.extent(&inner);
        let warps = COLUMN_THREADS / 32;
        let call = format!(
            "slide::reduce_columns<{warps}, {reduction}, 1>({}, {sink}, {axis_text}, {inner_text});",
            source(&inner_text)
        );
        (call, outer * ceil_div(&inner, 32), COLUMN_THREADS)
    };
    Ok(b.finish(blocks, threads, 0, &format!("    {call}\n")))
}
