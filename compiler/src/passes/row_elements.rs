//! Rows element by element: what each element of a value's trailing axes is made of, whatever slices, joins, reshapes and repetitions it came
//! about by. `build` makes values of such elements.
//!
//! Two elements are equal where they are known to be computed alike from the same, so what exporters spell in many ways compares alike.
//!
//! Must not know: what is looked for.

mod build;

use bytes::Bytes;
use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::elementwise::Binary;
use std::collections::HashMap;

use super::matching::splat;
use crate::ir::{Constant, Graph, ValueRef};
pub use build::Built;

/// Rows beyond which nothing is looked into.
const LONGEST: usize = 1024;
/// Operators behind each other that are followed.
const DEEPEST: usize = 32;

/// An element of a row; equal ones are known to be equal in every row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element(usize);

/// How an element is computed. `lead` are the extents in front of a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expression {
    /// Element `index` of the rows behind `lead` axes of a value that is not looked into.
    Of { value: ValueRef, lead: usize, index: usize },
    /// Of a constant, likewise; `index` is the first of those that are equal in all rows.
    Column { value: ValueRef, lead: usize, index: usize },
    /// What all elements of a constant are, as the bits of an f64.
    Number(u64, DType),
    /// A function of one or two elements.
    Apply { op: usize, lead: Vec<Dim>, of: Vec<Element> },
    /// Rows chosen among those of an operand with this `lead`; `others` are the operator's other operands.
    Rows { op: usize, others: Vec<ValueRef>, lead: Vec<Dim>, of: Element },
    /// Rows with this `lead`, broadcast.
    Spread { lead: Vec<Dim>, of: Element },
}

/// What is known of the rows of one graph.
#[derive(Default)]
pub struct RowElements {
    /// For the data of a constant and the bytes of its rows, the first of the columns that equal each; the data, which stays there.
    columns: HashMap<(usize, usize), (Bytes, Vec<usize>)>,
    expressions: Vec<Expression>,
    elements: HashMap<Expression, Element>,
    ops: Vec<Op>,
    known: HashMap<(ValueRef, usize), Vec<Element>>,
    /// The value furthest up whose rows these are, and the axes in front of its rows.
    values: HashMap<Vec<Element>, (ValueRef, usize)>,
}

impl RowElements {
    /// Forgets what a change of the graph makes void.
    pub fn forget(&mut self) {
        *self = RowElements { columns: std::mem::take(&mut self.columns), ..RowElements::default() };
    }

    /// The elements of a value's rows behind `lead` axes; `None` where their number is not known or too large.
    pub fn of(&mut self, graph: &Graph, value: ValueRef, lead: usize) -> Option<Vec<Element>> {
        self.follow(graph, value, lead, 0)
    }

    /// How an element is computed.
    pub fn expression(&self, element: Element) -> &Expression {
        &self.expressions[element.0]
    }

    /// The operator of an [`Expression::Apply`].
    pub fn operator(&self, op: usize) -> &Op {
        &self.ops[op]
    }

    fn intern(&mut self, expression: Expression) -> Element {
        let next = Element(self.expressions.len());
        *self.elements.entry(expression).or_insert_with_key(|expression| {
            self.expressions.push(expression.clone());
            next
        })
    }

    fn intern_op(&mut self, op: &Op) -> usize {
        self.ops.iter().position(|known| known == op).unwrap_or_else(|| {
            self.ops.push(op.clone());
            self.ops.len() - 1
        })
    }

    fn follow(&mut self, graph: &Graph, value: ValueRef, lead: usize, depth: usize) -> Option<Vec<Element>> {
        if let Some(known) = self.known.get(&(value, lead)) {
            return Some(known.clone());
        }
        let row = extents(graph.ty(value).shape.get(lead..)?)?;
        let count = row.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| (1..=LONGEST).contains(n))?;
        let inside = if depth < DEEPEST { self.inside(graph, value, lead, &row, depth + 1) } else { None };
        let elements =
            inside.unwrap_or_else(|| (0..count).map(|index| self.intern(Expression::Of { value, lead, index })).collect());
        self.values.entry(elements.clone()).or_insert((value, lead));
        self.known.insert((value, lead), elements.clone());
        Some(elements)
    }

    /// The elements by what computes the value; `None` where that tells nothing.
    fn inside(&mut self, graph: &Graph, value: ValueRef, lead: usize, row: &[usize], depth: usize) -> Option<Vec<Element>> {
        if let Some(constant) = graph.constant(value) {
            return Some(self.constant(graph, value, constant, lead, row));
        }
        let op = graph.producer(value)?;
        let ty = graph.ty(value);
        let operand = graph.operand(value.node, 0)?;
        let before = graph.ty(operand);
        match op {
            Op::Unary(_) | Op::Cast(_) => {
                let of = self.follow(graph, operand, lead, depth)?;
                let (op, lead) = (self.intern_op(op), ty.shape[..lead].to_vec());
                Some(of.into_iter().map(|e| self.intern(Expression::Apply { op, lead: lead.clone(), of: vec![e] })).collect())
            }
            Op::Binary(Binary::Add | Binary::Sub | Binary::Mul | Binary::Div) => {
                let second = graph.operand(value.node, 1)?;
                let a = self.broadcast(graph, operand, &ty.shape, lead, depth)?;
                let b = self.broadcast(graph, second, &ty.shape, lead, depth)?;
                let (op, lead) = (self.intern_op(op), ty.shape[..lead].to_vec());
                let apply = |(a, b)| self.intern(Expression::Apply { op, lead: lead.clone(), of: vec![a, b] });
                Some(a.into_iter().zip(b).map(apply).collect())
            }
            Op::Expand(_) | Op::Tile(_) => {
                // Each extent stays, or was 1.
                let stretched = |(from, to): (&Dim, &Dim)| from == to || from.is_one();
                let fits = before.rank() == ty.rank() && before.shape.iter().zip(&ty.shape).all(stretched);
                if fits { self.broadcast(graph, operand, &ty.shape, lead, depth) } else { None }
            }
            Op::Reshape(_) => {
                let count: usize = row.iter().product();
                let lead = (0..=before.rank())
                    .find(|&l| extents(&before.shape[l..]).is_some_and(|r| r.iter().product::<usize>() == count))?;
                self.follow(graph, operand, lead, depth)
            }
            Op::Transpose(t) if t.perm[..lead].iter().copied().eq(0..lead) => {
                let (from, old) = (self.follow(graph, operand, lead, depth)?, extents(&before.shape[lead..])?);
                Some(
                    places(row)
                        .map(|at| {
                            let mut place = vec![0; at.len()];
                            t.perm[lead..].iter().zip(&at).for_each(|(axis, i)| place[axis - lead] = *i);
                            from[number(&place, &old)]
                        })
                        .collect(),
                )
            }
            Op::Slice(slice) if slice.axes.iter().all(|a| a.axis >= lead) => {
                let (from, old) = (self.follow(graph, operand, lead, depth)?, extents(&before.shape[lead..])?);
                let mut elements = Vec::new();
                for mut place in places(row) {
                    for cut in &slice.axes {
                        let at = i64::try_from(place[cut.axis - lead])
                            .ok()?
                            .checked_mul(cut.step)?
                            .checked_add(cut.start.as_const()?)?;
                        place[cut.axis - lead] = usize::try_from(at).ok().filter(|at| *at < old[cut.axis - lead])?;
                    }
                    elements.push(from[number(&place, &old)]);
                }
                Some(elements)
            }
            Op::Concat(concat) if concat.axis >= lead => {
                let mut parts = Vec::new();
                for part in graph.operands(value.node).into_iter().flatten() {
                    parts.push((self.follow(graph, part, lead, depth)?, extents(&graph.ty(part).shape[lead..])?));
                }
                let axis = concat.axis - lead;
                let at = |mut place: Vec<usize>| {
                    for (from, old) in &parts {
                        if place[axis] < old[axis] {
                            return Some(from[number(&place, old)]);
                        }
                        place[axis] -= old[axis];
                    }
                    None
                };
                places(row).map(at).collect()
            }
            Op::Split(split) if split.axis >= lead => {
                let (from, old) = (self.follow(graph, operand, lead, depth)?, extents(&before.shape[lead..])?);
                let start: usize = extents(&split.sizes[..value.slot])?.iter().sum();
                Some(
                    places(row)
                        .map(|mut place| {
                            place[split.axis - lead] += start;
                            from[number(&place, &old)]
                        })
                        .collect(),
                )
            }
            Op::Slice(slice) if slice.axes.iter().all(|a| a.axis < lead) => {
                self.chosen(graph, op, operand, Vec::new(), lead, depth)
            }
            Op::Gather(gather) => {
                let indices = graph.operand(value.node, 1)?;
                let lead = (lead + 1).checked_sub(graph.ty(indices).rank()).filter(|lead| gather.axis < *lead)?;
                self.chosen(graph, op, operand, vec![indices], lead, depth)
            }
            _ => None,
        }
    }

    /// Of rows that an operator takes from an operand, whose own rows are behind `lead` axes.
    fn chosen(
        &mut self,
        graph: &Graph,
        op: &Op,
        operand: ValueRef,
        others: Vec<ValueRef>,
        lead: usize,
        depth: usize,
    ) -> Option<Vec<Element>> {
        let of = self.follow(graph, operand, lead, depth)?;
        let (op, lead) = (self.intern_op(op), graph.ty(operand).shape[..lead].to_vec());
        let rows = |of| Expression::Rows { op, others: others.clone(), lead: lead.clone(), of };
        Some(of.into_iter().map(|of| self.intern(rows(of))).collect())
    }

    fn constant(&mut self, graph: &Graph, value: ValueRef, constant: &Constant, lead: usize, row: &[usize]) -> Vec<Element> {
        let count: usize = row.iter().product();
        if let Some(number) = splat(graph, value) {
            return vec![self.intern(Expression::Number(number.to_bits(), constant.dtype)); count];
        }
        let find = || {
            let mut first: HashMap<Vec<u8>, usize> = HashMap::new();
            (0..count).map(|index| *first.entry(column(constant, count, index)).or_insert(index)).collect()
        };
        let key = (constant.data.as_ptr() as usize, count * constant.dtype.size());
        let (_, columns) = self.columns.entry(key).or_insert_with(|| (constant.data.clone(), find()));
        let columns = columns.clone();
        columns.into_iter().map(|index| self.intern(Expression::Column { value, lead, index })).collect()
    }

    /// The elements of an operand where it is broadcast to a shape, whose rows are behind `lead` axes.
    fn broadcast(&mut self, graph: &Graph, operand: ValueRef, shape: &[Dim], lead: usize, depth: usize) -> Option<Vec<Element>> {
        let own = graph.ty(operand).shape.clone();
        let missing = shape.len().checked_sub(own.len())?;
        let own_lead = lead.saturating_sub(missing);
        let (from, row) = (self.follow(graph, operand, own_lead, depth)?, extents(&shape[lead..])?);
        let old = extents(&own[own_lead..])?;
        let skipped = row.len() - old.len();
        if old.iter().zip(&row[skipped..]).any(|(from, to)| from != to && *from != 1) {
            return None;
        }
        let mut rows = vec![Dim::from(1); lead - own_lead];
        rows.extend_from_slice(&own[..own_lead]);
        let spread = rows != shape[..lead];
        let at = |place: Vec<usize>| {
            let place: Vec<usize> =
                place[skipped..].iter().zip(&old).map(|(i, extent)| if *extent == 1 { 0 } else { *i }).collect();
            let of = from[number(&place, &old)];
            match self.expression(of) {
                Expression::Number(..) | Expression::Spread { .. } => of,
                _ if !spread => of,
                _ => self.intern(Expression::Spread { lead: rows.clone(), of }),
            }
        };
        Some(places(&row).map(at).collect())
    }

    /// Elements that are broadcast alike, as they are before, and the axes in front of those.
    pub fn unspread(&self, elements: &[Element]) -> Option<(Vec<Dim>, Vec<Element>)> {
        let Expression::Spread { lead, .. } = self.expression(*elements.first()?) else { return None };
        let same = |e: &Element| {
            if let Expression::Spread { lead: l, of } = self.expression(*e) { (l == lead).then_some(*of) } else { None }
        };
        Some((lead.clone(), elements.iter().map(same).collect::<Option<_>>()?))
    }
}

/// Extents, when none is symbolic.
fn extents(shape: &[Dim]) -> Option<Vec<usize>> {
    shape.iter().map(Dim::as_usize).collect()
}

/// All coordinates in a shape, in order.
fn places(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    let shape = shape.to_vec();
    (0..shape.iter().product()).map(move |number: usize| {
        let mut rest = number;
        let mut place = vec![0; shape.len()];
        for (i, extent) in place.iter_mut().zip(&shape).rev() {
            *i = rest % extent;
            rest /= extent;
        }
        place
    })
}

/// The number of the element at coordinates in a shape.
fn number(place: &[usize], shape: &[usize]) -> usize {
    place.iter().zip(shape).fold(0, |number, (i, extent)| number * extent + i)
}

/// The bytes of element `index` of all rows of `count`.
fn column(constant: &Constant, count: usize, index: usize) -> Vec<u8> {
    let size = constant.dtype.size();
    let mut bytes = Vec::with_capacity(constant.data.len() / count);
    for row in constant.data.chunks_exact(count * size) {
        bytes.extend_from_slice(&row[index * size..][..size]);
    }
    bytes
}
