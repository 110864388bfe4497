//! Values that depend on nothing but a row and a column of scores, and how: what a causal mask is, however it is spelled.
//!
//! A value is followed to what it is made of, Range, Trilu, constants, with the row and the column that each of its axes stands for; from there
//! on its elements are known as a function of both.
//!
//! Must not know: what the value is a mask of.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::elementwise::{Binary, Unary};

use super::super::matching::splat;
use crate::ir::{Constant, Graph, ValueRef};

/// A step from one number to another along each row, one column later in each: `near` where column ≤ row + offset, else `far`.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub offset: Dim,
    pub near: f64,
    pub far: f64,
}

/// The elements of a value as a function of row and column.
#[derive(Clone, Debug, PartialEq)]
enum Elements {
    /// The same everywhere.
    Number(f64),
    /// `row · rows + column · columns + offset`.
    Line {
        rows: i64,
        columns: i64,
        offset: Dim,
    },
    Step(Step),
}

/// What an axis of a value stands for: an index of it is the row, or the column, plus this.
#[derive(Clone, Debug)]
enum Index {
    /// Of extent 1, or of something that is neither.
    None,
    Row(Dim),
    Column(Dim),
}

/// How far back a value is followed.
const DEPTH: usize = 32;

/// The step that a value is, its last two axes being rows and columns: one number everywhere is a step between equals.
pub fn step(graph: &Graph, value: ValueRef) -> Option<Step> {
    let shape = &graph.ty(value).shape;
    let axis = |(i, extent): (usize, &Dim)| match shape.len() - i {
        _ if extent.is_one() => Index::None,
        1 => Index::Column(0.into()),
        2 => Index::Row(0.into()),
        _ => Index::None,
    };
    match elements(graph, value, &shape.iter().enumerate().map(axis).collect::<Vec<_>>(), DEPTH)? {
        Elements::Step(step) => Some(step),
        Elements::Number(v) => Some(Step { offset: 0.into(), near: v, far: v }),
        Elements::Line { .. } => None,
    }
}

fn elements(graph: &Graph, value: ValueRef, axes: &[Index], depth: usize) -> Option<Elements> {
    let depth = depth.checked_sub(1)?;
    if let Some(number) = splat(graph, value).or_else(|| graph.constant(value).and_then(truth)) {
        return Some(Elements::Number(number));
    }
    if let Some(constant) = graph.constant(value) {
        return triangle(constant, axes);
    }
    let operand = |slot: usize| graph.operand(value.node, slot);
    let of = |slot: usize, axes: &[Index]| elements(graph, operand(slot)?, axes, depth);
    // Of an operand that broadcasts.
    let aligned = |slot: usize| {
        let shape = &graph.ty(operand(slot)?).shape;
        let own = &axes[axes.len().checked_sub(shape.len())?..];
        let own: Vec<Index> = own.iter().zip(shape).map(|(i, d)| if d.is_one() { Index::None } else { i.clone() }).collect();
        of(slot, &own)
    };
    let line = |rows, columns, offset| Some(Elements::Line { rows, columns, offset });
    match graph.producer(value)? {
        Op::Range(range) => {
            let step = range.step.as_const()?;
            let start = |at: &Dim| range.start.clone() + at.clone() * Dim::from(step);
            match &axes[0] {
                Index::None if range.len.is_one() => line(0, 0, range.start.clone()),
                Index::None => None,
                Index::Row(at) => line(step, 0, start(at)),
                Index::Column(at) => line(0, step, start(at)),
            }
        }
        Op::Extents(extents) => match &extents.values[..] {
            [one] => line(0, 0, one.clone()),
            _ => None,
        },
        Op::Reshape(_) => {
            let shape = |v: ValueRef| graph.ty(v).shape.clone();
            let from = shape(operand(0)?);
            let to = shape(value);
            // The same extents but for ones; that one pair of them looks different the number of elements rules out.
            let left: Vec<(&Index, &Dim)> = axes.iter().zip(&to).filter(|(_, extent)| !extent.is_one()).collect();
            let own: Vec<&Dim> = from.iter().filter(|extent| !extent.is_one()).collect();
            if left.len() != own.len() || left.iter().zip(&own).filter(|((_, a), b)| a != *b).count() > 1 {
                return None;
            }
            let mut left = left.into_iter();
            let axis = |extent: &Dim| if extent.is_one() { None } else { left.next().map(|(axis, _)| axis.clone()) };
            let inner: Vec<Index> = from.iter().map(axis).map(|axis| axis.unwrap_or(Index::None)).collect();
            of(0, &inner)
        }
        Op::Transpose(transpose) => {
            let mut inner = vec![Index::None; axes.len()];
            transpose.perm.iter().zip(axes).for_each(|(to, axis)| inner[*to] = axis.clone());
            of(0, &inner)
        }
        Op::Expand(_) => aligned(0),
        Op::Slice(slice) => {
            let mut inner = axes.to_vec();
            for cut in &slice.axes {
                if cut.step != 1 {
                    return None;
                }
                match &mut inner[cut.axis] {
                    Index::Row(at) | Index::Column(at) => *at = at.clone() + cut.start.clone(),
                    // Where one is left of several, which one matters.
                    Index::None if graph.ty(operand(0)?).shape[cut.axis].is_one() => {}
                    Index::None => return None,
                }
            }
            of(0, &inner)
        }
        Op::Trilu(trilu) => {
            let [.., Index::Row(row), Index::Column(column)] = axes else { return None };
            let diagonal = if trilu.upper { trilu.k - 1 } else { trilu.k };
            let (near, far) = if trilu.upper { (0.0, 1.0) } else { (1.0, 0.0) };
            let kept = Step { offset: Dim::from(diagonal) + row.clone() - column.clone(), near, far };
            // Not a product: what is cut away is 0 even of infinities.
            combined(graph, Elements::Step(kept), of(0, axes)?, |kept, x| if kept == 1.0 { x } else { 0.0 })
        }
        Op::Cast(cast) => match (aligned(0)?, cast.to) {
            (Elements::Line { .. }, to) if !matches!(to, DType::I32 | DType::I64 | DType::F32 | DType::F64) => None,
            (x, DType::Bool) => mapped(x, |x| f64::from(x != 0.0)),
            (x, to) if to.is_float() || matches!(to, DType::I32 | DType::I64) => Some(x),
            _ => None,
        },
        Op::Unary(function) => mapped(aligned(0)?, |x| match function {
            Unary::Neg => -x,
            Unary::Not => f64::from(x == 0.0),
            _ => f64::NAN,
        }),
        Op::Where(_) => {
            let (condition, then, other) = (aligned(0)?, aligned(1)?, aligned(2)?);
            let chosen = combined(graph, condition.clone(), then, |c, x| if c != 0.0 { x } else { 0.0 })?;
            let other = combined(graph, condition, other, |c, x| if c == 0.0 { x } else { 0.0 })?;
            combined(graph, chosen, other, |a, b| a + b)
        }
        Op::Binary(function) => binary(graph, *function, aligned(0)?, aligned(1)?),
        _ => None,
    }
}

fn binary(graph: &Graph, function: Binary, a: Elements, b: Elements) -> Option<Elements> {
    let truth = |holds: bool| f64::from(holds);
    let line = |x: &Elements| match x {
        Elements::Line { rows, columns, offset } => Some((*rows, *columns, offset.clone())),
        Elements::Number(v) if v.fract() == 0.0 && v.abs() < 1e15 => Some((0, 0, Dim::from(*v as i64))),
        _ => None,
    };
    let lines = line(&a).zip(line(&b)).filter(|_| matches!((&a, &b), (Elements::Line { .. }, _) | (_, Elements::Line { .. })));
    if let Some(((ar, ac, ao), (br, bc, bo))) = lines {
        let difference = (ar - br, ac - bc, ao.clone() - bo.clone());
        return match function {
            Binary::Add => Some(Elements::Line { rows: ar + br, columns: ac + bc, offset: ao + bo }),
            Binary::Sub => Some(Elements::Line { rows: difference.0, columns: difference.1, offset: difference.2 }),
            Binary::LessOrEqual => at_most(difference, 0),
            Binary::Less => at_most(difference, -1),
            Binary::Greater => mapped(at_most(difference, 0)?, |x| 1.0 - x),
            Binary::GreaterOrEqual => mapped(at_most(difference, -1)?, |x| 1.0 - x),
            _ => None,
        };
    }
    combined(graph, a, b, |a, b| match function {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div => a / b,
        Binary::Max => a.max(b),
        Binary::Min => a.min(b),
        Binary::And => truth(a != 0.0 && b != 0.0),
        Binary::Or => truth(a != 0.0 || b != 0.0),
        Binary::Equal => truth(a == b),
        Binary::Less => truth(a < b),
        Binary::LessOrEqual => truth(a <= b),
        Binary::Greater => truth(a > b),
        Binary::GreaterOrEqual => truth(a >= b),
        _ => f64::NAN,
    })
}

/// Where `row · rows + column · columns + offset ≤ most`, of columns minus rows or the other way round.
fn at_most((rows, columns, offset): (i64, i64, Dim), most: i64) -> Option<Elements> {
    match (rows, columns) {
        (-1, 1) => Some(Elements::Step(Step { offset: Dim::from(most) - offset, near: 1.0, far: 0.0 })),
        (1, -1) => Some(Elements::Step(Step { offset: offset - Dim::from(most + 1), near: 0.0, far: 1.0 })),
        _ => None,
    }
}

/// A function of each element; none that gives NaN.
fn mapped(x: Elements, f: impl Fn(f64) -> f64) -> Option<Elements> {
    let out = match x {
        Elements::Number(x) => Elements::Number(f(x)),
        Elements::Step(Step { offset, near, far }) => Elements::Step(Step { offset, near: f(near), far: f(far) }),
        Elements::Line { .. } => return None,
    };
    known(out)
}

/// A function of each two elements; none that gives NaN, or more than one step.
fn combined(graph: &Graph, a: Elements, b: Elements, f: impl Fn(f64, f64) -> f64) -> Option<Elements> {
    let (a, b) = match (a, b) {
        (Elements::Number(a), b) => return mapped(b, |b| f(a, b)),
        (a, Elements::Number(b)) => return mapped(a, |a| f(a, b)),
        (Elements::Step(a), Elements::Step(b)) => (a, b),
        _ => return None,
    };
    let range = |name: &str| graph.symbols.get(name).map(|s| (s.min, s.max));
    let apart = b.offset.clone() - a.offset.clone();
    // Between the two steps.
    let (first, second, between) = match apart.bounds(&range) {
        _ if apart.as_const() == Some(0) => (&a.offset, &a.offset, None),
        (Some(0..), _) => (&a.offset, &b.offset, Some(f(a.far, b.near))),
        (_, Some(..=0)) => (&b.offset, &a.offset, Some(f(a.near, b.far))),
        _ => return None,
    };
    let (near, far) = (f(a.near, b.near), f(a.far, b.far));
    let offset = match between {
        Some(v) if v == near => second,
        None => first,
        Some(v) if v == far => first,
        Some(_) => return None,
    };
    known(Elements::Step(Step { offset: offset.clone(), near, far }))
}

fn known(x: Elements) -> Option<Elements> {
    match &x {
        Elements::Number(v) if v.is_nan() => None,
        Elements::Step(Step { near, far, .. }) if near.is_nan() || far.is_nan() => None,
        Elements::Step(Step { near, far, .. }) if near == far => Some(Elements::Number(*near)),
        _ => Some(x),
    }
}

/// The number, 0 or 1, that all bools of a constant are.
fn truth(constant: &Constant) -> Option<f64> {
    let first = *constant.data.first().filter(|_| constant.dtype == DType::Bool)? != 0;
    constant.data.iter().all(|byte| (*byte != 0) == first).then_some(f64::from(first))
}

/// A constant of one matrix whose rows step from one number to another, each one column later than the row before.
fn triangle(constant: &Constant, axes: &[Index]) -> Option<Elements> {
    let [leading @ .., Index::Row(row), Index::Column(column)] = axes else { return None };
    if constant.data.is_empty() {
        return None;
    }
    let (size, columns) = (constant.dtype.size(), *constant.shape.last()?);
    let rows = constant.shape[constant.shape.len() - 2];
    if leading.iter().any(|axis| !matches!(axis, Index::None)) || constant.shape[..leading.len()].iter().any(|d| *d != 1) {
        return None;
    }
    let matrix: Vec<&[u8]> = constant.data.chunks_exact(size).collect();
    let number = |bytes: &[u8]| {
        let one = Constant { dtype: constant.dtype, shape: Vec::new(), data: bytes.to_vec().into() };
        truth(&one).or_else(|| super::super::matching::uniform(&one))
    };
    let (near, far) = (*matrix.get((rows - 1) * columns)?, *matrix.get(columns - 1)?);
    let diagonal = matrix[..columns].iter().take_while(|e| **e == near).count() as i64 - 1;
    let expected = |(i, e): (usize, &&[u8])| {
        let (row, column) = ((i / columns) as i64, (i % columns) as i64);
        *e == if column <= row + diagonal { near } else { far }
    };
    if near == far || !matrix.iter().enumerate().all(expected) {
        return None;
    }
    let offset = Dim::from(diagonal) + row.clone() - column.clone();
    known(Elements::Step(Step { offset, near: number(near)?, far: number(far)? }))
}
