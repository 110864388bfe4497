//! From probabilities back to the product of queries and keys, with all that is done to it on the way.
//!
//! Must not know: where queries and keys come from, what masks mean.

use sliderun::op::Op;
use sliderun::op::elementwise::{Binary, Unary};
use sliderun::op::gemm::MatMul;
use sliderun::op::norm::Softmax;

use super::super::matching::{Product, binary, splat, unary};
use super::axes::{Axis, View};
use crate::ir::{Graph, ValueRef};

/// A softmax, and what it is of.
pub struct Probabilities {
    pub softmax: ValueRef,
    /// The softmax with the axes that it has there.
    pub view: View,
    /// Whether rows without a number, those of −∞ alone, are made zeros.
    pub guarded: bool,
}

/// Something that says which keys count.
#[derive(Clone, Debug)]
pub enum Term {
    /// Added to the scores, or taken away.
    Added { value: ValueRef, negated: bool },
    /// Where the condition (or its contrary) holds, the score is this number instead.
    Filled { condition: ValueRef, negated: bool, fill: f64 },
    /// What the scores are multiplied with, other than numbers.
    Multiplied { value: ValueRef },
}

impl Term {
    fn rank(&self, graph: &Graph) -> usize {
        let (Term::Added { value, .. } | Term::Filled { condition: value, .. } | Term::Multiplied { value }) = self;
        graph.ty(*value).rank()
    }
}

/// What a softmax is of.
pub struct Scores {
    /// The product, of queries and keys or the other way round.
    pub product: View,
    pub scale: f64,
    /// In the order in which they are applied, from the last on.
    pub terms: Vec<Term>,
}

/// Operands of a product without bias or function.
pub fn product(graph: &Graph, value: ValueRef) -> Option<[ValueRef; 2]> {
    let Op::MatMul(MatMul { activation: None }) = graph.producer(value)? else { return None };
    match graph.operand(value.node, 2) {
        Some(_) => None,
        None => Some([graph.operand(value.node, 0)?, graph.operand(value.node, 1)?]),
    }
}

/// Whether a value is its operand in another float type.
fn cast(graph: &Graph, value: ValueRef) -> Option<ValueRef> {
    let from = graph.operand(value.node, 0)?;
    let float = |v: ValueRef| graph.ty(v).dtype.computes_in_f32();
    (matches!(graph.producer(value)?, Op::Cast(_)) && float(value) && float(from)).then_some(from)
}

/// A value beside the same one with another value.
fn at(view: &View, value: ValueRef) -> View {
    View { value, axes: view.axes.clone() }
}

/// The softmax over keys that the operand of a product with values is.
pub fn probabilities(graph: &Graph, operand: ValueRef) -> Option<Probabilities> {
    let mut view = View::of_matrices(graph, operand, [Axis::Row, Axis::Key])?;
    let mut guarded = false;
    loop {
        if let Op::Softmax(Softmax { axis, log: false }) = graph.producer(view.value)? {
            let over_keys = view.axes[*axis].iter().all(|f| f.axis == Axis::Key);
            return if over_keys { Some(Probabilities { softmax: view.value, view, guarded }) } else { None };
        }
        view = if let Some(from) = cast(graph, view.value) {
            at(&view, from)
        } else if let Op::Where(_) = graph.producer(view.value)? {
            let [condition, then, other] = [0, 1, 2].map(|i| graph.operand(view.value.node, i));
            let (condition, other) = (condition?, other?);
            if splat(graph, then?) != Some(0.0) || unary(graph, condition, Unary::IsNan) != Some(other) {
                return None;
            }
            guarded = true;
            at(&view, other)
        } else {
            view.back(graph)?
        };
    }
}

/// What a softmax is of, down to the product.
///
/// # Errors
/// What stands between; nothing where it is no attention at all.
pub fn scores(graph: &Graph, softmax: &View) -> Result<Scores, Option<&'static str>> {
    let mut view = at(softmax, graph.operand(softmax.value.node, 0).ok_or(None)?);
    let (mut scale, mut terms) = (1.0, Vec::new());
    loop {
        let value = view.value;
        if product(graph, value).is_some() {
            return Ok(Scores { product: view, scale, terms });
        }
        if let Some(from) = cast(graph, value) {
            view = at(&view, from);
            continue;
        }
        let scaled = Product::of(graph, value, None);
        if let [factor] = scaled.factors[..]
            && factor != value
            && graph.ty(factor).shape == graph.ty(value).shape
        {
            scale *= scaled.scale;
            view = at(&view, factor);
            continue;
        }
        let leads = |v: ValueRef| leads_to_product(graph, v, 0);
        let (from, term) = if let Some(operands) = binary(graph, value, Binary::Add) {
            let [from, value] = ordered(operands, leads).ok_or(None)?;
            (from, Some(Term::Added { value, negated: false }))
        } else if let Some([from, value]) = binary(graph, value, Binary::Sub) {
            (from, Some(Term::Added { value, negated: true }))
        } else if let Some(operands) = binary(graph, value, Binary::Mul) {
            let [from, value] = ordered(operands, leads).ok_or(None)?;
            (from, Some(Term::Multiplied { value }))
        } else if let Some(Op::Where(_)) = graph.producer(value) {
            let [condition, then, other] = [0, 1, 2].map(|i| graph.operand(value.node, i));
            let (condition, then, other) = (condition.ok_or(None)?, then.ok_or(None)?, other.ok_or(None)?);
            match (splat(graph, then), splat(graph, other)) {
                (Some(fill), _) => (other, Some(Term::Filled { condition, negated: false, fill })),
                (_, Some(fill)) => (then, Some(Term::Filled { condition, negated: true, fill })),
                _ => return Err(Some("its scores are chosen from two tensors")),
            }
        } else if let Some(Op::Unary(Unary::Tanh)) = graph.producer(value) {
            return Err(Some("its scores are capped by a hyperbolic tangent"));
        } else {
            view = view.back(graph).ok_or(None)?;
            continue;
        };
        if let Some(term) = term {
            if scale != 1.0 {
                return Err(Some("its mask is applied before the scores are scaled"));
            }
            if graph.ty(from).shape.len() != graph.ty(value).shape.len() {
                return Err(Some("its mask has more axes than its scores"));
            }
            // Masks go where they are: heads and rows as the operator has them.
            let rows = view.is(&[&[Axis::Lead], &[Axis::Row], &[Axis::Key]]) && term.rank(graph) <= 2;
            if !rows && !view.is(&[&[Axis::Batch], &[Axis::Head, Axis::Group], &[Axis::Row], &[Axis::Key]]) {
                return Err(Some("its mask is applied to scores in another order than [batch, heads, tokens, keys]"));
            }
            terms.push(term);
        }
        view = at(&view, from);
    }
}

/// The operand that leads to a product of two computed values first.
fn ordered([a, b]: [ValueRef; 2], leads: impl Fn(ValueRef) -> bool) -> Option<[ValueRef; 2]> {
    match (leads(a), leads(b)) {
        (true, _) => Some([a, b]),
        (_, true) => Some([b, a]),
        _ => None,
    }
}

/// Whether a value is a product of two computed values with something done to it.
fn leads_to_product(graph: &Graph, value: ValueRef, depth: usize) -> bool {
    if let Some(operands) = product(graph, value) {
        return operands.iter().all(|v| graph.constant(*v).is_none());
    }
    let passes = matches!(
        graph.producer(value),
        Some(
            Op::Cast(_)
                | Op::Reshape(_)
                | Op::Transpose(_)
                | Op::Where(_)
                | Op::Unary(Unary::Tanh)
                | Op::Binary(Binary::Add | Binary::Sub | Binary::Mul | Binary::Div)
        )
    );
    passes && depth < 16 && graph.operands(value.node).into_iter().flatten().any(|v| leads_to_product(graph, v, depth + 1))
}
