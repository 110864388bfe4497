//! Softmax and normalisations over the last axis, and what else takes whole rows: the sparse method's own kernels.

use sliderun::dim::Dim;
use sliderun::op::Op;
use sliderun::op::sparse::{Dequant, QuantLift};
use sliderun::plan::manifest::{Program, Step, ValueId};

use slidec_kernels::functor;
use slidec_kernels::launch::{DEQUANT_ROWS, DequantTile, RowTile};

use super::builder::{Form, Generated, KernelBuilder, Other, ceil_div, element_type, float, rows_of};

/// How a row is held: the C++ type, threads per block and rows per block.
struct Held {
    row: String,
    threads: usize,
    rows: usize,
}

impl Held {
    /// For rows of this extent, read from a `source` of that C++ type.
    fn new(length: &Dim, source: &str) -> Held {
        // Registers hold up to 32 elements per thread.
        const PER_THREAD: usize = 32;
        const BLOCK: usize = 128;
        match length.as_usize().filter(|n| (1..=PER_THREAD * 1024).contains(n)) {
            Some(n) => {
                let width = 1 << n.trailing_zeros().min(2);
                let warps = n.div_ceil(32 * PER_THREAD).next_power_of_two();
                let (threads, rows) = if warps == 1 { (32, BLOCK / 32) } else { (32 * warps, 1) };
                Held { row: format!("slide::RegisterRow<slide::RowGroup<{threads}, {rows}>, {n}, {width}>"), threads, rows }
            }
            None => {
                let row = format!("slide::ReloadedRow<slide::RowGroup<{BLOCK}, 1>, slide::AT_LAUNCH, 4, {source}>");
                Held { row, threads: BLOCK, rows: 1 }
            }
        }
    }
}

fn operand(step: &Step, i: usize) -> ValueId {
    step.inputs[i].expect("the type rules demand this operand")
}

/// What `norm.cuh` calls a normalisation, and its epsilon; `None` for other operators.
pub fn norm(op: &Op) -> Option<(&'static str, f32)> {
    match op {
        Op::LayerNorm(op) => Some(("LAYER", op.epsilon)),
        Op::RmsNorm(op) => Some(("RMS", op.epsilon)),
        _ => None,
    }
}

/// Softmax, LayerNorm or RmsNorm over the last axis.
///
/// # Errors
/// What about the step has no kernel.
pub fn rows(program: &Program, launch: usize, step: &Step) -> Result<Generated, String> {
    let mut b = KernelBuilder::new(program, launch, step.op.name());
    let x = operand(step, 0);
    let ty = b.ty(x).clone();
    let last = ty.rank().saturating_sub(1);
    if !ty.dtype.computes_in_f32() {
        return Err(format!("{} of {}", step.op.name(), ty.dtype));
    }
    let axis = match &step.op {
        Op::Softmax(op) => op.axis,
        Op::LayerNorm(op) => op.axis,
        Op::RmsNorm(op) => op.axis,
        op => return Err(op.name().to_owned()),
    };
    if axis != last {
        return Err(format!("{} over axes other than the last one", step.op.name()));
    }
    let (c, length) = (element_type(ty.dtype), &ty.shape[last]);
    let source = format!("slide::MatrixRows<{c}>");
    let held = Held::new(length, &source);
    let (from, rows) = (b.input(x), b.long_extent(&rows_of(&ty.shape)));
    let n = b.extent(length);
    let to = b.output(step.outputs[0]);
    let (source, sink) = (format!("{source}{{{from}, {n}}}"), format!("slide::MatrixSink<{c}>{{{to}, {n}}}"));
    let call = match &step.op {
        Op::Softmax(op) => format!("slide::softmax<{}, {}>({source}, {sink}, {rows}, {n});", held.row, op.log),
        op => {
            let (norm, epsilon) = norm(op).expect("only norms are left");
            let bias = step.inputs.get(2).copied().flatten();
            let mut same_row = |id: ValueId| {
                let ty = b.ty(id);
                if ty.elements() != *length {
                    return Err(format!("a scale or bias of {ty}, where one row is expected"));
                }
                Ok(format!("slide::SameRow<{}>{{{}}}", element_type(ty.dtype), b.input(id)))
            };
            let scale = same_row(operand(step, 1))?;
            let bias = bias.map_or(Ok("slide::NoBias{}".to_owned()), &mut same_row)?;
            if matches!(op, Op::LayerNorm(op) if op.stats) {
                return Err("the statistics of LayerNorm as results".into());
            }
            format!(
                "slide::normalize<{}, slide::Norm::{norm}>({source}, {scale}, {bias}, {sink}, {rows}, {n}, {});",
                held.row,
                float(epsilon)
            )
        }
    };
    let blocks = ceil_div(&rows_of(&ty.shape), held.rows);
    Ok(b.finish(blocks, held.threads * held.rows, 0, &format!("    {call}\n")))
}

/// QuantLift.
///
/// # Errors
/// What about the step has no kernel.
pub fn quant_lift(program: &Program, launch: usize, step: &Step, op: &QuantLift) -> Result<Generated, String> {
    let [segment] = op.layout.segments.as_slice() else { return Err("a layout of several segments".into()) };
    let mut b = KernelBuilder::new(program, launch, "quant_lift");
    let x = operand(step, 0);
    let ty = b.ty(x).clone();
    let n = segment.pattern.map_or(1, |p| p.n());
    let [tile, bulk] = [RowTile::for_row, RowTile::bulk].map(|tile| tile(op.layout.k(), ty.dtype.size()));
    let (from, to) = (b.input(x), b.output(step.outputs[0]));
    let scale = match step.outputs.get(1) {
        Some(&scale) => b.output(scale),
        None => "nullptr".into(),
    };
    let rows = b.long_extent(&rows_of(&ty.shape));
    let order = step.inputs.get(1).copied().flatten().map(|order| b.input(order));
    let (permuted, order) = order.map_or(("", String::new()), |order| (", true", format!(", {order}")));
    let form = |tile: RowTile| Form {
        blocks: ceil_div(&rows_of(&ty.shape), tile.rows),
        threads: tile.block(),
        shared_bytes: 0,
        at_once: 0,
        body: format!(
            "    slide::quant_lift<{}, {}, {n}, {}, {}, slide::RowTile<{}, {}>{permuted}>({from}, {to}, {scale}, {rows}{order});\n",
            element_type(ty.dtype),
            element_type(op.to),
            op.layout.k(),
            op.layout.lifted(),
            tile.threads,
            tile.rows
        ),
    };
    Ok(b.finish_forms(form(tile), (bulk != tile).then(|| Other::bulk(form(bulk))).into_iter().collect()))
}

/// Dequant.
///
/// # Errors
/// What about the step has no kernel.
pub fn dequant(program: &Program, launch: usize, step: &Step, op: &Dequant) -> Result<Generated, String> {
    let mut b = KernelBuilder::new(program, launch, "dequant");
    let acc = operand(step, 0);
    let ty = b.ty(acc).clone();
    let columns = ty.shape.last().and_then(Dim::as_usize).filter(|n| *n > 0).ok_or("rows of unknown length")?;
    let tile = DequantTile::for_row(columns, ty.dtype.size());
    let [from, token, channel] = [0, 1, 2].map(|i| b.input(operand(step, i)));
    let bias = step.inputs.get(3).copied().flatten().map(|v| b.input(v));
    let to = b.output(step.outputs[0]);
    let rows = b.long_extent(&rows_of(&ty.shape));
    let activation = op.activation.map_or("slide::Identity{}".to_owned(), functor);
    let name = activation.split('{').next().unwrap_or_default().to_owned();
    let call = format!(
        "    slide::dequant<{}, {}, {columns}, {}, {}>({from}, {token}, {channel}, {}, {to}, {rows}, slide::Activate<{name}>{{{activation}}});\n",
        element_type(ty.dtype),
        element_type(op.to),
        bias.is_some(),
        tile.threads,
        bias.unwrap_or_else(|| "nullptr".into()),
    );
    let blocks = ceil_div(&rows_of(&ty.shape), DEQUANT_ROWS) * Dim::from(tile.across);
    Ok(b.finish(blocks, tile.threads, 0, &call))
}
