//! Where an order of a value's last axis comes from for nothing: the constants of what computes it, put into that order.
//!
//! A value is followed to what computes it, through what treats channels alike or moves them as a whole, up to products with constant weights,
//! whose output channels can come in any order. Everything on the way must be read by nothing but that way.
//!
//! Heads of attention lie side by side in the value and apart before, so that channels may only move within their head.
//!
//! Must not know: patterns, how an order is found.

use sliderun::dim::Dim;
use sliderun::op::layout::{Split, Transpose};
use sliderun::op::norm::{LayerNorm, RmsNorm};
use sliderun::op::{Op, TensorType};
use std::collections::{BTreeMap, BTreeSet};

use crate::ir::{Graph, NodeId, ValueRef};
use crate::sparsity::permute::Permutation;

/// Where a value has the channels of K.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Along {
    /// On one axis, from a position on.
    Axis { axis: usize, start: usize },
    /// Channel `h · depth + d` at h of one axis and d of another.
    Apart { heads: usize, depth: usize },
}

/// A constant operand with an axis to be put in order, from a position on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Who reads it.
    pub node: NodeId,
    /// As which operand.
    pub slot: usize,
    /// The axis.
    pub axis: usize,
    /// The first place of the axis that moves.
    pub start: usize,
}

impl Part {
    /// Puts it into an order, in a constant of its own.
    pub fn apply(&self, graph: &mut Graph, permutation: &Permutation) {
        let operand = graph.operand(self.node, self.slot).expect("the operand was seen");
        let constant = graph.constant(operand).expect("it was a constant");
        let name = format!("{}.permuted", graph.output(operand).name);
        let permuted = graph.add_constant(&name, permutation.apply(constant, self.axis, self.start));
        graph.set_input(self.node, self.slot, Some(permuted));
    }
}

/// What an order of a value's last axis takes.
#[derive(Clone, Debug)]
pub(crate) struct Fold {
    parts: Vec<Part>,
    /// Values whose channels come in the new order then.
    values: Vec<ValueRef>,
    /// The products whose output channels do.
    pub producers: Vec<NodeId>,
    /// Channels move within so many heads only.
    pub heads: Option<usize>,
}

impl Fold {
    /// What an order of the last axis of `value`, of extent `k`, takes, when nothing but these products with constant weights [K, N] reads it;
    /// or why that is not possible.
    pub fn of(graph: &Graph, value: ValueRef, k: usize, readers: &[NodeId]) -> Result<Fold, String> {
        let mut trace = Trace {
            graph,
            k,
            reads: readers.iter().map(|node| (*node, 0)).collect(),
            values: BTreeMap::new(),
            parts: readers.iter().map(|node| Part { node: *node, slot: 1, axis: 0, start: 0 }).collect(),
            producers: Vec::new(),
            heads: None,
        };
        let axis = graph.ty(value).rank().checked_sub(1).ok_or("the activation has no axis")?;
        trace.visit(value, Along::Axis { axis, start: 0 })?;
        for value in trace.values.keys() {
            if graph.is_output(*value) {
                return Err(format!("'{}' is an output of the model", graph.output(*value).name));
            }
            if let Some((user, _)) = graph.uses(*value).into_iter().find(|read| !trace.reads.contains(read)) {
                let node = graph.node(user);
                let op = node.op().map_or("", |op| op.name());
                return Err(format!("'{}' is read by '{}' ({op}) too", graph.output(*value).name, node.name));
            }
        }
        let Trace { parts, values, producers, heads, .. } = trace;
        Ok(Fold { parts, values: values.into_keys().collect(), producers, heads })
    }

    /// The constants, those of the readers among them.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Puts the constants, and so the value, into an order. Values on the way stand for no tensor of the model any more.
    pub fn apply(&self, graph: &mut Graph, permutation: &Permutation) {
        self.parts.iter().for_each(|part| part.apply(graph, permutation));
        for value in &self.values {
            let name = format!("{}.permuted", graph.output(*value).name);
            graph.name_value(*value, &name, false);
        }
    }
}

struct Trace<'g> {
    graph: &'g Graph,
    k: usize,
    /// The operands at which values of the new order are read and may be.
    reads: BTreeSet<(NodeId, usize)>,
    values: BTreeMap<ValueRef, Vec<Along>>,
    parts: Vec<Part>,
    producers: Vec<NodeId>,
    heads: Option<usize>,
}

fn extent(ty: &TensorType, axis: usize) -> Option<usize> {
    ty.shape.get(axis).and_then(Dim::as_usize)
}

impl<'g> Trace<'g> {
    /// Follows a value to what computes it.
    fn visit(&mut self, value: ValueRef, along: Along) -> Result<(), String> {
        let (graph, k) = (self.graph, self.k);
        let known = self.values.entry(value).or_default();
        if known.contains(&along) {
            return Ok(());
        }
        let apart = |other: &Along| match (along, *other) {
            (Along::Axis { axis: a, start: s }, Along::Axis { axis: b, start: t }) => a == b && s.abs_diff(t) >= k,
            _ => false,
        };
        if !known.iter().all(apart) {
            return Err(format!("'{}' would have to be in two orders at once", graph.output(value).name));
        }
        known.push(along);
        let node = graph.node(value.node);
        let ty = graph.ty(value).clone();
        let last = ty.rank() - 1;
        let stops = |what: &str| Err(format!("'{}' is {what}", graph.output(value).name));
        let Some(op) = node.op() else { return stops("an input of the model") };
        let operand = |slot: usize| graph.operand(value.node, slot).ok_or_else(|| format!("'{}' lacks an operand", node.name));
        match op {
            Op::Identity(_) => self.read(value.node, 0, along),
            Op::Unary(_) | Op::Binary(_) | Op::Where(_) | Op::Clip(_) | Op::Cast(_) => {
                (0..node.arity()).try_for_each(|slot| self.element_wise(value.node, slot, &ty, along))
            }
            Op::LayerNorm(LayerNorm { axis, .. }) | Op::RmsNorm(RmsNorm { axis, .. })
                if *axis == last && value.slot == 0 && matches!(along, Along::Axis { axis, .. } if axis == last) =>
            {
                (1..node.arity()).try_for_each(|slot| self.element_wise(value.node, slot, &ty, along))?;
                self.read(value.node, 0, along)
            }
            Op::MatMul(_) => self.product(value, operand(1)?, last, along),
            Op::Attention(op) if op.heads == op.kv_heads && graph.ty(operand(2)?).rank() == 3 => {
                self.within(op.heads)?;
                self.read(value.node, 2, along)
            }
            Op::Transpose(Transpose { perm }) => {
                let along = match along {
                    Along::Axis { axis, start } => Along::Axis { axis: perm[axis], start },
                    Along::Apart { heads, depth } => Along::Apart { heads: perm[heads], depth: perm[depth] },
                };
                self.read(value.node, 0, along)
            }
            Op::Reshape(_) => {
                let along = self.reshaped(graph.ty(operand(0)?), &ty, along)?;
                self.read(value.node, 0, along)
            }
            Op::Split(Split { axis, sizes }) => match along {
                Along::Axis { axis: of, start } if of == *axis => {
                    let before = sizes[..value.slot].iter().map(Dim::as_usize).sum::<Option<usize>>();
                    let before = before.ok_or_else(|| format!("'{}' cuts at places that are not known", node.name))?;
                    self.read(value.node, 0, Along::Axis { axis: *axis, start: before + start })
                }
                _ => stops("cut from heads"),
            },
            op => stops(&format!("computed by '{}' ({})", node.name, op.name())),
        }
    }

    /// An operand that comes in the same order.
    fn read(&mut self, node: NodeId, slot: usize, along: Along) -> Result<(), String> {
        let Some(value) = self.graph.operand(node, slot) else { return Ok(()) };
        self.reads.insert((node, slot));
        match (self.graph.constant(value), along) {
            (None, _) => self.visit(value, along),
            (Some(_), Along::Axis { axis, start }) => {
                self.parts.push(Part { node, slot, axis, start });
                Ok(())
            }
            (Some(_), Along::Apart { .. }) => Err(format!("'{}' is another number for each head", self.graph.output(value).name)),
        }
    }

    /// An operand broadcast to a result of type `ty`.
    fn element_wise(&mut self, node: NodeId, slot: usize, ty: &TensorType, along: Along) -> Result<(), String> {
        let graph = self.graph;
        let Some(value) = graph.operand(node, slot) else { return Ok(()) };
        let operand = graph.ty(value);
        let missing = ty.rank() - operand.rank();
        // The operand's axis, unless it is the same along it.
        let own = |axis: usize| -> Result<Option<usize>, String> {
            match axis.checked_sub(missing).map(|own| (own, extent(operand, own))) {
                None | Some((_, Some(1))) => Ok(None),
                Some((own, Some(n))) if extent(ty, axis) == Some(n) => Ok(Some(own)),
                Some(_) => Err(format!("extents of '{}' are not known", graph.output(value).name)),
            }
        };
        let along = match along {
            Along::Axis { axis, start } => own(axis)?.map(|axis| Along::Axis { axis, start }),
            Along::Apart { heads, depth } => match (own(heads)?, own(depth)?) {
                (_, None) => None,
                (Some(heads), Some(depth)) => Some(Along::Apart { heads, depth }),
                (None, Some(_)) => return Err(format!("'{}' is the same for all heads", graph.output(value).name)),
            },
        };
        along.map_or(Ok(()), |along| self.read(node, slot, along))
    }

    fn product(&mut self, value: ValueRef, rhs: ValueRef, last: usize, along: Along) -> Result<(), String> {
        let graph = self.graph;
        let (node, of_rhs) = (value.node, graph.ty(rhs));
        match along {
            Along::Axis { axis, start } if axis == last && graph.constant(rhs).is_some() && of_rhs.rank() == 2 => {
                let bias = graph.operand(node, 2);
                if bias.is_some_and(|bias| graph.constant(bias).is_none_or(|c| c.shape.len() != 1)) {
                    return Err(format!("the bias of '{}' is computed", graph.node(node).name));
                }
                if !self.producers.contains(&node) {
                    self.producers.push(node);
                }
                self.parts.push(Part { node, slot: 1, axis: 1, start });
                self.parts.extend(bias.map(|_| Part { node, slot: 2, axis: 0, start }));
                Ok(())
            }
            // Each head's rows of numbers times its own values.
            Along::Apart { heads, depth }
                if depth == last && of_rhs.rank() == last + 1 && heads + 2 <= last && graph.operand(node, 2).is_none() =>
            {
                let ty = graph.ty(value);
                if extent(of_rhs, heads).is_none() || extent(of_rhs, heads) != extent(ty, heads) {
                    return Err(format!("heads share values in '{}'", graph.node(node).name));
                }
                self.read(node, 1, along)
            }
            _ => Err(format!("'{}' multiplies computed values", graph.node(node).name)),
        }
    }

    /// Where an operand has what its reshaped value has.
    fn reshaped(&mut self, from: &TensorType, to: &TensorType, along: Along) -> Result<Along, String> {
        let unknown = || format!("a reshape from {from} to {to} moves the channels");
        let split = |ty: &TensorType| {
            let rank = ty.rank();
            Some((extent(ty, rank.checked_sub(2)?)?, extent(ty, rank - 1)?))
        };
        match along {
            // Only what is before the last axis changes.
            Along::Axis { axis, start } if axis + 1 == to.rank() => {
                let (length, rank) = (extent(to, axis).ok_or_else(unknown)?, from.rank());
                match split(from) {
                    _ if rank > 0 && extent(from, rank - 1) == Some(length) => Ok(Along::Axis { axis: rank - 1, start }),
                    Some((heads, depth)) if start == 0 && heads * depth == self.k && length == self.k => {
                        self.within(heads)?;
                        Ok(Along::Apart { heads: rank - 2, depth: rank - 1 })
                    }
                    _ => Err(unknown()),
                }
            }
            Along::Apart { heads, depth } if depth + 1 == to.rank() && heads + 1 == depth => {
                let rank = from.rank();
                let whole = rank > 0 && extent(from, rank - 1) == Some(self.k) && split(to).is_some_and(|(h, d)| h * d == self.k);
                if whole { Ok(Along::Axis { axis: rank - 1, start: 0 }) } else { Err(unknown()) }
            }
            _ => Err(unknown()),
        }
    }

    /// Channels move within heads from here on.
    fn within(&mut self, heads: usize) -> Result<(), String> {
        match self.heads.replace(heads) {
            Some(other) if other != heads => Err(format!("channels are {other} heads and {heads} heads")),
            _ if !self.k.is_multiple_of(heads) => Err(format!("{heads} heads do not divide {} channels", self.k)),
            _ => Ok(()),
        }
    }
}
