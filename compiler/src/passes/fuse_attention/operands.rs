//! Queries, keys and values: where they lie before they were parted, transposed, repeated and scaled.
//!
//! Must not know: scores, masks.

use sliderun::dim::Dim;
use sliderun::op::Op;
use sliderun::op::layout::{Reshape, Slice, SliceAxis, Split, Transpose};

use super::super::PassError;
use super::super::matching::Product;
use super::super::rewrite::emit;
use super::axes::{Axis, View};
use crate::ir::{Graph, ValueRef};

/// A query, key or value.
#[derive(Clone, Debug)]
pub struct Operand {
    value: ValueRef,
    /// [batch, rows, heads·depth], or [batch, heads, rows, depth].
    shape: Vec<Dim>,
    /// Which axes to transpose first.
    perm: Option<Vec<usize>>,
    /// Columns of the rows, where the value has more: the first and how many.
    columns: Option<(Dim, Dim)>,
    pub heads: usize,
    pub rows: Dim,
    /// What it was multiplied with.
    pub scale: f64,
}

impl Operand {
    /// The operand of a product that these are the last two axes of; the furthest back that lies as the operator reads it. Followed through
    /// scaling where `scaled`.
    pub fn of(graph: &Graph, value: ValueRef, axes: [Axis; 2], scaled: bool) -> Option<Operand> {
        let mut view = View::of_matrices(graph, value, axes)?;
        let mut scale = 1.0;
        let mut found = Operand::transposed(graph, &view);
        loop {
            if let Some(operand) = Operand::lying(graph, &view, scale) {
                found = Some(operand);
            }
            let product = Product::of(graph, view.value, None);
            view = match product.factors[..] {
                [factor] if scaled && factor != view.value && graph.ty(factor) == graph.ty(view.value) => {
                    scale *= product.scale;
                    View { value: factor, axes: view.axes }
                }
                _ => match view.back(graph) {
                    Some(before) => before,
                    None => return found,
                },
            };
        }
    }

    /// A view whose elements lie as the operator reads them.
    fn lying(graph: &Graph, view: &View, scale: f64) -> Option<Operand> {
        let order = view.order();
        let lead = order.iter().position(|a| *a == Axis::Lead);
        let heads = (view.extent(Axis::Head) * view.extent(Axis::Group)).as_usize()?;
        let (batch, rows, depth) =
            (view.extent(Axis::Batch) * view.extent(Axis::Lead), view.extent(Axis::Row), view.extent(Axis::Depth));
        let follows = |allowed: &[fn(Axis) -> bool]| {
            let mut at = allowed.iter();
            order.iter().all(|axis| at.by_ref().any(|accepts| accepts(*axis)))
        };
        let batches = |a| matches!(a, Axis::Batch | Axis::Lead);
        let part = |a| matches!(a, Axis::Part { .. });
        let (head, group) = (|a| a == Axis::Head, |a| a == Axis::Group);
        let (row, deep) = (|a| a == Axis::Row, |a| a == Axis::Depth);
        let width = depth.clone() * Dim::from(heads);
        let found = |shape: Vec<Dim>, columns| {
            Some(Operand { value: view.value, shape, perm: None, columns, heads, rows: rows.clone(), scale })
        };
        if follows(&[batches, row, part, head, group, deep]) {
            let part = view.axes.iter().flatten().find_map(|f| match f.axis {
                Axis::Part { at } => Some((at, f.extent.clone())),
                _ => None,
            });
            let whole = part.as_ref().map_or(width.clone(), |(_, parts)| width.clone() * parts.clone());
            let columns = part.map(|(at, _)| (width.clone() * Dim::from(at), width.clone()));
            return found(vec![batch, rows.clone(), whole], columns);
        }
        let apart = lead.is_none() && graph.ty(view.value).rank() >= 3 && follows(&[batches, head, group, row, deep]);
        apart.then(|| found(vec![batch, heads.into(), rows.clone(), depth], None)).flatten()
    }

    /// The operand itself, [.., depth, rows], to be transposed.
    fn transposed(graph: &Graph, view: &View) -> Option<Operand> {
        let rank = graph.ty(view.value).rank();
        let mut perm: Vec<usize> = (0..rank).collect();
        perm.swap(rank - 2, rank - 1);
        let mut axes = view.axes.clone();
        axes.swap(rank - 2, rank - 1);
        let turned = View { value: view.value, axes };
        Operand::lying(graph, &turned, 1.0).map(|operand| Operand { perm: Some(perm), ..operand })
    }

    /// The columns of another value's rows that this operand is: that value, its rows' width, the first and how many.
    fn columns_of(&self, graph: &Graph) -> Option<(ValueRef, Dim, Dim, Dim)> {
        if let Some((start, len)) = &self.columns {
            return Some((self.value, self.shape[2].clone(), start.clone(), len.clone()));
        }
        let Op::Slice(slice) = graph.producer(self.value)? else { return None };
        let whole = graph.operand(self.value.node, 0)?;
        match (&slice.axes[..], &graph.ty(whole).shape[..]) {
            ([SliceAxis { axis: 2, start, len, step: 1 }], [_, _, width]) if graph.ty(self.value).shape == self.shape => {
                Some((whole, width.clone(), start.clone(), len.clone()))
            }
            _ => None,
        }
    }

    fn build(self, graph: &mut Graph, name: &str) -> Result<ValueRef, PassError> {
        let mut value = self.value;
        if let Some(perm) = self.perm {
            value = emit(graph, &format!("{name}/transposed"), Transpose { perm }, &[value])?;
        }
        if graph.ty(value).shape != self.shape {
            value = emit(graph, &format!("{name}/heads"), Reshape { shape: self.shape }, &[value])?;
        }
        if let Some((start, len)) = self.columns {
            let slice = Slice { axes: vec![SliceAxis { axis: 2, start, len, step: 1 }] };
            value = emit(graph, &format!("{name}/part"), slice, &[value])?;
        }
        Ok(value)
    }
}

/// The values of query, key and value; those that share a value's columns become the parts of one Split.
///
/// # Errors
/// As [`emit`].
pub fn build(graph: &mut Graph, name: &str, operands: [Operand; 3]) -> Result<[ValueRef; 3], PassError> {
    if let Some((order, sizes)) = parts(graph, &operands) {
        let (whole, width, ..) = operands[0].columns_of(graph).expect("parts are columns");
        let shape = vec![operands[0].shape[0].clone(), operands[0].shape[1].clone(), width];
        let rows = if graph.ty(whole).shape == shape {
            whole
        } else {
            emit(graph, &format!("{name}/rows"), Reshape { shape }, &[whole])?
        };
        let split = Split { axis: 2, sizes };
        let node = graph.add_op(&format!("{name}/parts"), split, &[Some(rows)]).map_err(PassError::infer(name))?;
        return Ok(order.map(|slot| ValueRef { node, slot }));
    }
    let [query, key, value] = operands;
    Ok([query.build(graph, name)?, key.build(graph, name)?, value.build(graph, name)?])
}

/// Which part of a common value each operand is, and how wide the parts are.
fn parts(graph: &Graph, operands: &[Operand; 3]) -> Option<([usize; 3], Vec<Dim>)> {
    let columns: Vec<_> = operands.iter().map(|o| o.columns_of(graph)).collect::<Option<_>>()?;
    let (whole, width, ..) = &columns[0];
    if columns.iter().any(|(of, ..)| of != whole) {
        return None;
    }
    let start = |i: &usize| columns[*i].2.as_const();
    let mut order = [0, 1, 2];
    if order.iter().any(|i| start(i).is_none()) {
        return None;
    }
    order.sort_by_key(start);
    let mut end = Dim::from(0);
    for i in order {
        if columns[i].2 != end {
            return None;
        }
        end = end + columns[i].3.clone();
    }
    let mut slots = [0; 3];
    order.iter().enumerate().for_each(|(slot, i)| slots[*i] = slot);
    (end == *width).then(|| (slots, order.iter().map(|i| columns[*i].3.clone()).collect()))
}
