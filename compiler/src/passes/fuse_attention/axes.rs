//! What the axes of values around an attention mean, followed through what only moves elements: Reshape, Transpose, the Expand that repeats
//! heads, the Slice, Split or Gather that takes one of several operands.
//!
//! Must not know: products, masks, what is built of what is found.

use sliderun::dim::Dim;
use sliderun::op::Op;

use crate::ir::{Graph, ValueRef};

/// What an axis, or a factor of one, counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Batch and heads together, as long as nothing parted them.
    Lead,
    Batch,
    Head,
    /// Query heads of one head of keys.
    Group,
    /// Tokens of an operand; of scores, the query's.
    Row,
    /// Keys of scores.
    Key,
    /// Elements of a head's row.
    Depth,
    /// Several operands of which the one at `at` is meant.
    Part {
        at: i64,
    },
}

/// A factor of an axis: how many of what. Those of extent 1 are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Factor {
    pub axis: Axis,
    pub extent: Dim,
}

/// A value and the factors of each of its axes, outermost first.
#[derive(Clone, Debug)]
pub struct View {
    pub value: ValueRef,
    pub axes: Vec<Vec<Factor>>,
}

impl View {
    /// A value whose axes are these, one each.
    pub fn new(graph: &Graph, value: ValueRef, axes: &[Axis]) -> View {
        let one = |(axis, extent): (&Axis, &Dim)| {
            let factor = Factor { axis: *axis, extent: extent.clone() };
            if extent.is_one() { Vec::new() } else { vec![factor] }
        };
        View { value, axes: axes.iter().zip(&graph.ty(value).shape).map(one).collect() }
    }

    /// A matrix per batch and head: what axes before the last two mean follows from their number.
    pub fn of_matrices(graph: &Graph, value: ValueRef, [rows, columns]: [Axis; 2]) -> Option<View> {
        let lead: &[Axis] = match graph.ty(value).rank() {
            3 => &[Axis::Lead],
            4 => &[Axis::Batch, Axis::Head],
            5 => &[Axis::Batch, Axis::Head, Axis::Group],
            _ => return None,
        };
        Some(View::new(graph, value, &[lead, &[rows, columns]].concat()))
    }

    /// The order of elements, whatever the axes.
    pub fn order(&self) -> Vec<Axis> {
        self.axes.iter().flatten().map(|f| f.axis).collect()
    }

    /// How many of this there are.
    pub fn extent(&self, axis: Axis) -> Dim {
        Dim::product(self.axes.iter().flatten().filter(|f| f.axis == axis).map(|f| &f.extent))
    }

    /// Whether each axis is of no more than this.
    pub fn is(&self, axes: &[&[Axis]]) -> bool {
        let within = |(own, allowed): (&Vec<Factor>, &&[Axis])| own.iter().all(|f| allowed.contains(&f.axis));
        self.axes.len() == axes.len() && self.axes.iter().zip(axes).all(within)
    }

    /// The view of the operand that this one's value is made of, if it only moves elements.
    pub fn back(&self, graph: &Graph) -> Option<View> {
        let value = graph.operand(self.value.node, 0)?;
        let shape = &graph.ty(value).shape;
        let axes = match graph.producer(self.value)? {
            Op::Reshape(_) => self.regrouped(shape)?,
            Op::Transpose(transpose) => {
                let mut axes = vec![Vec::new(); transpose.perm.len()];
                transpose.perm.iter().zip(&self.axes).for_each(|(to, own)| axes[*to].clone_from(own));
                axes
            }
            Op::Expand(_) => {
                let added = self.axes.len().checked_sub(shape.len())?;
                if self.axes[..added].iter().any(|own| !own.is_empty()) {
                    return None;
                }
                let result = &graph.ty(self.value).shape[added..];
                let repeats = |((own, from), to): ((&Vec<Factor>, &Dim), &Dim)| match from == to {
                    true => Some(own.clone()),
                    false => (from.is_one() && own.iter().all(|f| f.axis == Axis::Group)).then(Vec::new),
                };
                self.axes[added..].iter().zip(shape).zip(result).map(repeats).collect::<Option<_>>()?
            }
            Op::Slice(slice) => match &slice.axes[..] {
                [cut] if cut.step == 1 => self.part(cut.axis, &shape[cut.axis], &cut.start, &cut.len)?,
                _ => return None,
            },
            Op::Split(split) => {
                let start = split.sizes[..self.value.slot].iter().fold(Dim::from(0), |sum, size| sum + size.clone());
                self.part(split.axis, &shape[split.axis], &start, &split.sizes[self.value.slot])?
            }
            Op::Gather(gather) => {
                let indices = graph.operand(self.value.node, 1)?;
                let at = super::super::matching::splat(graph, indices).filter(|_| graph.ty(indices).rank() == 0)? as i64;
                let extent = shape[gather.axis].as_const()?;
                let mut axes = self.axes.clone();
                axes.insert(gather.axis, Vec::new());
                let whole = View { value: self.value, axes };
                whole.part(gather.axis, &extent.into(), &(if at < 0 { at + extent } else { at }).into(), &1.into())?
            }
            _ => return None,
        };
        Some(View { value, axes })
    }

    /// The view of what an operator makes of the value, if it reshapes or transposes it.
    pub fn forth(&self, graph: &Graph, result: ValueRef) -> Option<View> {
        let axes = match graph.producer(result)? {
            Op::Reshape(_) => self.regrouped(&graph.ty(result).shape)?,
            Op::Transpose(transpose) => transpose.perm.iter().map(|from| self.axes[*from].clone()).collect(),
            _ => return None,
        };
        Some(View { value: result, axes })
    }

    /// The axes of `whole` elements, of which those from `start` on are the ones of this axis.
    fn part(&self, axis: usize, whole: &Dim, start: &Dim, len: &Dim) -> Option<Vec<Vec<Factor>>> {
        let mut axes = self.axes.clone();
        let parts = whole.exact_div(len)?;
        let at = start.exact_div(len)?.as_const()?;
        if !parts.is_one() {
            axes[axis].insert(0, Factor { axis: Axis::Part { at }, extent: parts });
        }
        Some(axes)
    }

    /// The factors as the axes of another shape of as many elements: an axis takes some, and parts one when the next axis has the rest.
    fn regrouped(&self, shape: &[Dim]) -> Option<Vec<Vec<Factor>>> {
        let mut open: Vec<Factor> = self.axes.iter().flatten().rev().cloned().collect();
        let mut axes = Vec::with_capacity(shape.len());
        for extent in shape {
            let (mut own, mut taken) = (Vec::new(), Dim::from(1));
            while taken != *extent {
                let factor = open.pop()?;
                let rest = extent.exact_div(&taken)?;
                if rest.exact_div(&factor.extent).is_none() {
                    let inner = match factor.axis {
                        Axis::Lead => Axis::Head,
                        Axis::Head => Axis::Group,
                        _ => return None,
                    };
                    let outer = if factor.axis == Axis::Lead { Axis::Batch } else { factor.axis };
                    open.push(Factor { axis: inner, extent: factor.extent.exact_div(&rest)? });
                    own.push(Factor { axis: outer, extent: rest });
                    break;
                }
                taken = taken * factor.extent.clone();
                own.push(factor);
            }
            axes.push(own);
        }
        open.is_empty().then_some(axes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::parse::{no_constants, parse};

    /// Follows the operand "x" of a text back as far as it goes and gives the axes there.
    fn origin(text: &str, axes: [Axis; 2]) -> String {
        let graph = parse("test.ir", text, &no_constants).unwrap();
        let x = graph
            .node_ids()
            .into_iter()
            .flat_map(|node| (0..graph.node(node).outputs.len()).map(move |slot| ValueRef { node, slot }));
        let x = x.into_iter().find(|v| graph.output(*v).name == "x").unwrap();
        let mut view = View::of_matrices(&graph, x, axes).unwrap();
        while let Some(before) = view.back(&graph) {
            view = before;
        }
        let text = |axis: &Vec<Factor>| axis.iter().map(|f| format!("{:?} {}", f.axis, f.extent)).collect::<Vec<_>>().join(" × ");
        view.axes.iter().map(text).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn axes_are_followed() {
        let symbols = "symbols { b: 1..8, s: 1..8 }\n";
        for (text, want) in [
            // Split into heads; keys transposed as three-dimensional matrices.
            (
                r#"input %i: f32[b, s, 12]
                %a = Reshape(%i) {shape: ["b", "s", 3, 4]}
                %h = Transpose(%a) {perm: [0, 2, 1, 3]}
                %m = Reshape(%h) {shape: ["3*b", "s", 4]}
                %x = Transpose(%m) {perm: [0, 2, 1]}"#,
                "Batch b, Row s, Head 3 × Depth 4",
            ),
            // One of three in a fused product, as timm takes it.
            (
                r#"input %i: f32[b, s, 36]
                %a = Reshape(%i) {shape: ["b", "s", 3, 3, 4]}
                %t = Transpose(%a) {perm: [2, 0, 3, 1, 4]}
                %c = Slice(%t) {axes: [(axis: 0, start: 1, len: 1, step: 1)]}
                %h = Reshape(%c) {shape: ["b", 3, "s", 4]}
                %x = Transpose(%h) {perm: [0, 1, 3, 2]}"#,
                "Batch b, Row s, Part { at: 1 } 3 × Head 3 × Depth 4",
            ),
            // Heads repeated; then those that are repeated the other way round, which is not followed.
            (
                r#"input %i: f32[b, 2, s, 4]
                %u = Reshape(%i) {shape: ["b", 2, 1, "s", 4]}
                %e = Expand(%u) {shape: ["b", 2, 3, "s", 4]}
                %h = Reshape(%e) {shape: ["b", 6, "s", 4]}
                %x = Transpose(%h) {perm: [0, 1, 3, 2]}"#,
                "Batch b, Head 2, Row s, Depth 4",
            ),
            (
                r#"input %i: f32[b, 2, s, 4]
                %u = Reshape(%i) {shape: ["b", 1, 2, "s", 4]}
                %e = Expand(%u) {shape: ["b", 3, 2, "s", 4]}
                %h = Reshape(%e) {shape: ["b", 6, "s", 4]}
                %x = Transpose(%h) {perm: [0, 1, 3, 2]}"#,
                "Batch b, Head 3, Group 2, Row s, Depth 4",
            ),
        ] {
            assert_eq!(origin(&format!("{symbols}{text}\noutput \"x\" = %x"), [Axis::Depth, Axis::Row]), want, "{text}");
        }
    }
}
