//! `fuse-attention`: scaled dot-product attention spelled out becomes one operator.
//!
//! Per head `softmax(q·kᵀ·scale + mask)·v`, however heads are parted, transposed, repeated and joined (`axes.rs`, `operands.rs`), wherever the
//! scale is applied and whatever says which keys count (`scores.rs`, `masks.rs`): what provably is causality becomes the operator's own
//! (`steps.rs`).

use sliderun::dim::Dim;
use sliderun::op::attention::Attention;
use sliderun::op::layout::{Reshape, Transpose};
use sliderun::op::{InputTypes, Op, Semantics};

use super::rewrite::{Replacement, apply, emit};
use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, NodeId, ValueRef};
use axes::{Axis, View};
use masks::{Builder, Masks};
use operands::Operand;
use scores::{Probabilities, probabilities, product, scores};

mod axes;
mod masks;
mod operands;
mod scores;
mod steps;

/// The declaration. It comes after `choose`, whose verdicts cover all products.
pub const PASS: Pass =
    Pass { name: "fuse-attention", summary: "scaled dot-product attention spelled out becomes one operator", run };

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    let mut masks = Builder::default();
    for id in graph.schedule() {
        if !graph.contains(id) {
            continue;
        }
        let name = graph.node(id).name.clone();
        let found = match find(graph, id) {
            Ok(found) => found,
            Err(None) => continue,
            Err(Some(why)) => {
                context.report.declined(name, format!("no attention: {why}"));
                continue;
            }
        };
        let before = graph.next_serial();
        match build(graph, &mut masks, &name, found)? {
            Ok((target, value, what)) => apply(graph, context, target, Replacement::new(value, what), before),
            Err(why) => context.report.declined(name, format!("no attention: {why}")),
        }
    }
    Ok(())
}

struct Found {
    operands: [Operand; 3],
    masks: Masks,
    scale: f64,
    /// The product with the values, or what its heads were joined to.
    result: View,
}

/// The attention whose product with the values a node is.
///
/// # Errors
/// Why it is none; nothing where it does not look like one.
fn find(graph: &Graph, id: NodeId) -> Result<Found, Option<String>> {
    let root = ValueRef { node: id, slot: 0 };
    let [weights, values] = product(graph, root).ok_or(None)?;
    let Probabilities { softmax, view, guarded } = probabilities(graph, weights).ok_or(None)?;
    let scores = scores(graph, &view).map_err(|why| why.map(str::to_owned))?;
    if let Some(other) = used_elsewhere(graph, softmax, root) {
        return Err(Some(format!("its probabilities are used elsewhere too, by {other}")));
    }
    let unknown = || Some("its operands do not have the axes of heads, tokens and depth in a known order".to_owned());

    let [left, right] = product(graph, scores.product.value).ok_or(None)?;
    let rank = scores.product.axes.len();
    let rows = &scores.product.axes[rank - 2..];
    let only = |i: usize, axis| rows[i].iter().all(|f| f.axis == axis);
    let ((query, query_axes), (key, key_axes)) = if only(0, Axis::Row) && only(1, Axis::Key) {
        ((left, [Axis::Row, Axis::Depth]), (right, [Axis::Depth, Axis::Row]))
    } else if only(0, Axis::Key) && only(1, Axis::Row) {
        ((right, [Axis::Depth, Axis::Row]), (left, [Axis::Row, Axis::Depth]))
    } else {
        return Err(unknown());
    };
    let query = Operand::of(graph, query, query_axes, true).ok_or_else(unknown)?;
    let key = Operand::of(graph, key, key_axes, true).ok_or_else(unknown)?;
    let value = Operand::of(graph, values, [Axis::Row, Axis::Depth], false).ok_or_else(unknown)?;
    let masks = Masks::of(graph, &scores.terms, guarded, &query.rows, &key.rows).map_err(|why| Some(why.to_owned()))?;
    let scale = scores.scale * query.scale * key.scale;
    Ok(Found { operands: [query, key, value], masks, scale, result: joined(graph, root).ok_or_else(unknown)? })
}

/// A node that reads the probabilities, beside those on the way to the product.
fn used_elsewhere(graph: &Graph, softmax: ValueRef, root: ValueRef) -> Option<String> {
    let mut open = vec![softmax];
    while let Some(value) = open.pop() {
        if graph.is_output(value) {
            return Some("who runs the model".to_owned());
        }
        for (reader, slot) in graph.uses(value) {
            match graph.node(reader).op() {
                _ if reader == root.node && slot == 0 => {}
                Some(Op::Reshape(_) | Op::Transpose(_) | Op::Cast(_) | Op::Where(_) | Op::Unary(_)) => {
                    open.push(ValueRef { node: reader, slot: 0 });
                }
                _ => return Some(graph.node(reader).name.clone()),
            }
        }
    }
    None
}

/// The furthest on of what only reshapes and transposes the product with the values that has tokens before heads; else the product.
fn joined(graph: &Graph, root: ValueRef) -> Option<View> {
    let mut view = View::of_matrices(graph, root, [Axis::Row, Axis::Depth])?;
    let mut found = view.clone();
    while let Some((reader, 0)) = graph.single_use(view.value).filter(|_| !graph.is_output(view.value)) {
        let Some(next) = view.forth(graph, ValueRef { node: reader, slot: 0 }) else { break };
        view = next;
        let place = |axis: &Axis| match axis {
            Axis::Lead | Axis::Batch => 0,
            Axis::Row => 1,
            Axis::Head => 2,
            Axis::Group => 3,
            _ => 4,
        };
        if view.order().is_sorted_by_key(place) {
            found = view.clone();
        }
    }
    Some(found)
}

/// Builds the operator in place of the result: its node, the value, what was done; or why it cannot be.
fn build(
    graph: &mut Graph,
    masks_built: &mut Builder,
    name: &str,
    found: Found,
) -> Result<Result<(NodeId, ValueRef, String), String>, PassError> {
    let Found { operands, masks, scale, result } = found;
    let (heads, kv_heads) = (operands[0].heads, operands[1].heads);
    if operands[2].heads != kv_heads {
        return Ok(Err(format!("its keys have {kv_heads} heads and its values {}", operands[2].heads)));
    }
    let op = Attention { heads, kv_heads, scale: scale as f32, causal: masks.causal };
    let mut operands = operands::build(graph, name, operands)?.to_vec();
    let dtype = graph.ty(operands[0]).dtype;
    operands.extend(masks.operand(graph, masks_built, name, dtype)?);
    let types: Vec<_> = operands.iter().map(|v| Some(graph.ty(*v))).collect();
    let out = match op.infer(InputTypes(&types)) {
        Ok(mut out) => out.remove(0),
        Err(e) => return Ok(Err(e.to_string())),
    };
    let ty = graph.ty(result.value).clone();
    if out.dtype != ty.dtype {
        return Ok(Err(format!("its operands are {} and its result {}", out.dtype, ty.dtype)));
    }
    let order = result.order();
    let lead = order.contains(&Axis::Lead);
    let (batch, tokens) = (result.extent(Axis::Batch), result.extent(Axis::Row));
    let fits = |own: &Dim, wanted: Dim| *own == wanted || own.as_const().is_none();
    if !lead && (result.extent(Axis::Head) * result.extent(Axis::Group) != heads.into() || !fits(&out.shape[0], batch))
        || !fits(&out.shape[1], tokens)
    {
        return Ok(Err(format!("its queries broadcast to what is {ty}")));
    }
    let mut value = emit(graph, name, op, &operands)?;
    let place = |axes: &[Axis]| order.iter().position(|a| axes.contains(a));
    let parted = place(&[Axis::Head, Axis::Group]).is_some_and(|head| Some(head) < place(&[Axis::Row]));
    // Still as the product with the values has them: heads before tokens.
    if parted || lead && heads > 1 {
        let [batch, tokens, width] = &out.shape[..] else { unreachable!("attention has three axes") };
        let depth = width.exact_div(&heads.into()).unwrap_or_else(|| width.floor_div(&heads.into()));
        let shape = vec![batch.clone(), tokens.clone(), heads.into(), depth];
        value = emit(graph, &format!("{name}/heads"), Reshape { shape }, &[value])?;
        value = emit(graph, &format!("{name}/transposed"), Transpose { perm: vec![0, 2, 1, 3] }, &[value])?;
    }
    if graph.ty(value).shape != ty.shape {
        value = emit(graph, &format!("{name}/joined"), Reshape { shape: ty.shape }, &[value])?;
    }
    let causal = if op.causal { ", causal" } else { "" };
    let groups = if kv_heads == heads { String::new() } else { format!(" over {kv_heads} of keys") };
    let plural = if heads == 1 { "" } else { "s" };
    let what = format!("recognised attention of {heads} head{plural}{groups}{causal}");
    Ok(Ok((result.value.node, value, what)))
}
