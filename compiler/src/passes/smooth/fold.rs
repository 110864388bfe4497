//! Where the division of an activation's channels by factors can be folded: into constants that what makes the activation multiplies by, followed
//! back through what only moves elements or lets a positive factor through.
//!
//! Must not know: which factors, why.

use sliderun::cpu;
use sliderun::dim::Dim;
use sliderun::op::elementwise::{Binary, Cast, Unary};
use sliderun::op::gemm::MatMul;
use sliderun::op::layout::{Expand, Reshape, Transpose};
use sliderun::op::{Op, TensorType};
use sliderun::tensor::Tensor;

use crate::ir::{Graph, NodeId, ValueRef};

/// Values passed on the way back at most.
const MAX_STEPS: usize = 16;

/// How a division gets from an activation to constants.
#[derive(Clone, Debug)]
pub(super) struct Fold {
    /// What is done to the factors, [K] in the beginning, so that they broadcast to the values further back.
    moves: Vec<Op>,
    /// The node that takes them in the end, and which of its operands, all constants, are divided.
    pub node: NodeId,
    slots: Vec<usize>,
    /// Everything computed that is divided by them: the activation first.
    pub values: Vec<ValueRef>,
}

/// The extents of the factors, which broadcast to a value of as many axes: each the value's own, or 1.
type Extents = Vec<usize>;

/// Finds where to fold the division of a value's last axis, of `k` elements.
///
/// # Errors
/// Why there is no such place.
pub(super) fn find(graph: &Graph, activation: ValueRef, k: usize) -> Result<Fold, String> {
    let rank = graph.ty(activation).rank();
    let mut extents: Extents = vec![1; rank];
    *extents.last_mut().ok_or("the activation is a scalar")? = k;
    let mut moves = vec![Reshape { shape: extents.iter().map(|d| Dim::from(*d)).collect() }.into()];
    let mut values = vec![activation];
    while let Some(value) = values.last().copied().filter(|_| values.len() <= MAX_STEPS) {
        let name = graph.node(value.node).name.as_str();
        let op = graph.producer(value).ok_or_else(|| format!("'{name}', which it reads, is not computed"))?;
        if value != activation && graph.single_use(value).is_none() {
            return Err(format!("what '{name}' makes is read elsewhere too"));
        }
        if value.slot > 0 {
            return Err(format!("it reads a further output of '{name}'"));
        }
        let constant = |slot: usize| graph.operand(value.node, slot).is_some_and(|v| graph.constant(v).is_some());
        let present = |slot: &usize| graph.operand(value.node, *slot).is_some();
        let end = |slots: &[usize]| {
            let slots: Vec<usize> = slots.iter().copied().filter(present).collect();
            let computed = slots.iter().any(|slot| !constant(*slot));
            if computed { Err(format!("what '{name}' scales by is computed")) } else { Ok(slots) }
        };
        let slots = match op {
            Op::LayerNorm(_) => end(&[1, 2])?,
            Op::RmsNorm(_) => end(&[1])?,
            Op::MatMul(MatMul { activation: None | Some(Unary::Relu) }) if constant(1) => {
                if !only_last(&extents) {
                    return Err(format!("the factors are not one per output channel of '{name}'"));
                }
                end(&[1, 2])?
            }
            Op::Binary(Binary::Mul) if constant(0) || constant(1) => end(&[usize::from(constant(1))])?,
            _ => {
                let back = step(graph, value, op, &extents)
                    .ok_or_else(|| format!("'{name}', which makes what it reads, does not take factors per channel"))?;
                moves.extend(back.moves);
                extents = back.extents;
                values.push(back.value);
                continue;
            }
        };
        return Ok(Fold { moves, node: value.node, slots, values });
    }
    Err("what makes it is too far back".to_owned())
}

/// One step further back.
struct Back {
    value: ValueRef,
    moves: Vec<Op>,
    extents: Extents,
}

fn step(graph: &Graph, value: ValueRef, op: &Op, extents: &Extents) -> Option<Back> {
    let same = |slot: usize| {
        let operand = graph.operand(value.node, slot)?;
        covers(graph.ty(operand), extents).then(|| Back { value: operand, moves: Vec::new(), extents: extents.clone() })
    };
    match op {
        Op::Unary(Unary::Relu) => same(0),
        // Of gate and what it lets through, that which itself is but a product.
        Op::Binary(Binary::Mul) => {
            let linear = |slot: &usize| {
                let made_by = graph.operand(value.node, *slot).and_then(|v| graph.producer(v));
                !matches!(made_by, Some(Op::Unary(_) | Op::Binary(_)))
            };
            let slot = [1, 0].into_iter().find(linear)?;
            same(slot)
        }
        Op::Binary(Binary::Div) => same(0),
        Op::Transpose(Transpose { perm }) => {
            let mut before = vec![1; perm.len()];
            perm.iter().zip(extents).for_each(|(axis, extent)| before[*axis] = *extent);
            let mut inverse = vec![0; perm.len()];
            perm.iter().enumerate().for_each(|(i, axis)| inverse[*axis] = i);
            Some(Back { value: graph.operand(value.node, 0)?, moves: vec![Transpose { perm: inverse }.into()], extents: before })
        }
        Op::Reshape(_) => reshape(graph, value, extents),
        // Sums over the rows of the right-hand side: what its columns are divided by, in each matrix of the batch, is a factor of the sums'.
        Op::MatMul(MatMul { activation: None }) if graph.operand(value.node, 2).is_none() => {
            let along_rows = extents.len().checked_sub(2).is_some_and(|axis| extents[axis] == 1);
            along_rows.then(|| same(1)).flatten()
        }
        _ => None,
    }
}

/// Back through a Reshape whose last axes, with all that factors differ along, have the same elements before and after.
fn reshape(graph: &Graph, value: ValueRef, extents: &Extents) -> Option<Back> {
    let from = graph.operand(value.node, 0)?;
    let (after, before) = (&graph.ty(value).shape, &graph.ty(from).shape);
    let needed = extents.len() - extents.iter().position(|d| *d > 1).unwrap_or(extents.len() - 1);
    let concrete = |shape: &[Dim], last: usize| shape[shape.len() - last..].iter().map(Dim::as_usize).collect::<Option<Vec<_>>>();
    for last in needed..=after.len() {
        let whole = concrete(after, last)?;
        let elements: usize = whole.iter().product();
        let fits =
            (1..=before.len()).find_map(|last| concrete(before, last).filter(|own| own.iter().product::<usize>() == elements));
        let Some(own) = fits else { continue };
        let lead = |rank: usize, tail: &[usize]| [&vec![1; rank - tail.len()][..], tail].concat();
        let dims = |extents: &[usize]| extents.iter().map(|d| Dim::from(*d)).collect::<Vec<_>>();
        let (spread, extents) = (lead(after.len(), &whole), lead(before.len(), &own));
        let moves = vec![Expand { shape: dims(&spread) }.into(), Reshape { shape: dims(&extents) }.into()];
        return Some(Back { value: from, moves, extents });
    }
    None
}

/// Whether factors differ along the last axis alone.
fn only_last(extents: &Extents) -> bool {
    extents.iter().rev().skip(1).all(|d| *d == 1)
}

/// Whether a value has all the elements that factors of these extents differ along.
fn covers(ty: &TensorType, extents: &Extents) -> bool {
    ty.rank() == extents.len() && ty.shape.iter().zip(extents).all(|(own, d)| *d == 1 || own.as_usize() == Some(*d))
}

impl Fold {
    /// The operands of [`Fold::node`] divided by `factors`, [K], which are powers of two. The graph is as it was when this was found.
    ///
    /// # Errors
    /// See [`scaled`].
    pub fn divided(&self, graph: &Graph, factors: &[f32]) -> Result<Vec<(usize, Tensor)>, String> {
        let mut by = Tensor::from_slice(&[factors.len()], factors).expect("K factors");
        for op in &self.moves {
            by = evaluated(op, &[&by]);
        }
        // The axes that a constant need not have.
        let shape = by.shape().iter().skip_while(|d| **d == 1).map(|d| Dim::from(*d)).collect();
        by = evaluated(&Reshape { shape }.into(), &[&by]);
        let divided = |slot: &usize| {
            let operand = graph.operand(self.node, *slot).expect("the graph is as it was");
            Ok((*slot, scaled(graph, operand, Binary::Div, &by)?))
        };
        self.slots.iter().map(divided).collect()
    }
}

/// A constant times, or divided by, factors that broadcast with it and are powers of two.
///
/// # Errors
/// Its name and element type, when that does not hold the result: when undoing it does not give the constant back.
pub(super) fn scaled(graph: &Graph, constant: ValueRef, how: Binary, factors: &Tensor) -> Result<Tensor, String> {
    let tensor = graph.constant(constant).expect("what is scaled is constant").to_tensor();
    let undo = if how == Binary::Div { Binary::Mul } else { Binary::Div };
    let factors = evaluated(&Cast { to: tensor.dtype() }.into(), &[factors]);
    let result = evaluated(&how.into(), &[&tensor, &factors]);
    let back = evaluated(&undo.into(), &[&result, &factors]);
    // It may have been broadcast.
    let spread = Expand { shape: back.shape().iter().map(|d| Dim::from(*d)).collect() }.into();
    if evaluated(&spread, &[&tensor]).bytes() != back.bytes() {
        return Err(format!("'{}' is {} and would lose digits", graph.output(constant).name, tensor.dtype()));
    }
    Ok(result)
}

fn evaluated(op: &Op, operands: &[&Tensor]) -> Tensor {
    let views: Vec<_> = operands.iter().map(|t| Some(t.view())).collect();
    cpu::eval(op, &views).expect("extents were compared, and the types are floats").swap_remove(0)
}
