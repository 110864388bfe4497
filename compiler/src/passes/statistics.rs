//! What normalisations are spelled out with: means that keep their axes or drop them, sums that are divided, variances, and quotients by a
//! deviation in any association.
//!
//! Must not know: what is built in place of what is found.

use sliderun::op::Op;
use sliderun::op::elementwise::{Binary, Unary};
use sliderun::op::reduce::{Reduce, ReduceKind};

use super::matching::{Product, binary, close, constant_plus, either_order, splat, unary};
use crate::ir::{Graph, ValueRef};

/// The mean of a value's elements, or of their squares, over axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mean<'g> {
    pub of: ValueRef,
    pub squared: bool,
    pub axes: &'g [usize],
}

/// The mean that a value is, whether or not it keeps its axes.
pub fn mean(graph: &Graph, value: ValueRef) -> Option<Mean<'_>> {
    let value = reshaped(graph, value);
    if let Op::Reduce(Reduce { kind: ReduceKind::Mean, axes, .. }) = graph.producer(value)? {
        return Some(Mean { of: graph.operand(value.node, 0)?, squared: false, axes });
    }
    let (sum, factor) = match binary(graph, value, Binary::Div) {
        Some([sum, count]) => (sum, 1.0 / splat(graph, count)?),
        None => {
            either_order(binary(graph, value, Binary::Mul)?).into_iter().find_map(|[sum, c]| Some((sum, splat(graph, c)?)))?
        }
    };
    let sum = reshaped(graph, sum);
    let Op::Reduce(Reduce { kind: kind @ (ReduceKind::Sum | ReduceKind::SumSquare), axes, .. }) = graph.producer(sum)? else {
        return None;
    };
    let of = graph.operand(sum.node, 0)?;
    let shape = &graph.ty(of).shape;
    let count = axes.iter().map(|axis| shape.get(*axis)?.as_usize()).product::<Option<usize>>()?;
    close(factor * count as f64, 1.0, 1e-6).then_some(Mean { of, squared: *kind == ReduceKind::SumSquare, axes })
}

/// What a value is but for its shape.
pub fn reshaped(graph: &Graph, mut value: ValueRef) -> ValueRef {
    while let (Some(Op::Reshape(_)), Some(from)) = (graph.producer(value), graph.operand(value.node, 0)) {
        value = from;
    }
    value
}

/// Whether a value lies beside `x` as what keeps these axes of it does.
pub fn keeps_axes(graph: &Graph, value: ValueRef, x: ValueRef, axes: &[usize]) -> bool {
    let (own, of) = (&graph.ty(value).shape, &graph.ty(x).shape);
    own.len() == of.len() && own.iter().zip(of).enumerate().all(|(i, (a, b))| if axes.contains(&i) { a.is_one() } else { a == b })
}

/// The x and the axes of `x - mean(x)`.
pub fn centred(graph: &Graph, value: ValueRef) -> Option<(ValueRef, &[usize])> {
    let [x, average] = binary(graph, value, Binary::Sub)?;
    let Mean { of, squared: false, axes } = mean(graph, average)? else { return None };
    (of == x && keeps_axes(graph, average, x, axes)).then_some((x, axes))
}

/// Whether a value is the mean of `x²` over axes.
pub fn is_mean_square(graph: &Graph, value: ValueRef, x: ValueRef) -> Option<&[usize]> {
    let Mean { of, squared, axes } = mean(graph, value)?;
    let square = if squared { of == x } else { Product::of(graph, of, Some(x)).is(1.0, &[x, x], 0.0) };
    square.then_some(axes)
}

/// Whether a value is the variance of x over these axes: the mean square of `x - mean(x)`, or `mean(x²) - mean(x)²`, which is perhaps kept
/// from falling below 0.
pub fn is_variance(graph: &Graph, value: ValueRef, x: ValueRef, axes: &[usize]) -> bool {
    let value = reshaped(graph, value);
    if let Some(operands) = binary(graph, value, Binary::Max) {
        let above_zero = |[zero, v]: [ValueRef; 2]| splat(graph, zero) == Some(0.0) && is_variance(graph, v, x, axes);
        return either_order(operands).into_iter().any(above_zero);
    }
    if let Some([square, of_mean]) = binary(graph, value, Binary::Sub) {
        let average = binary(graph, of_mean, Binary::Mul).or_else(|| binary(graph, of_mean, Binary::Pow)).map(|[m, _]| m);
        return is_mean_square(graph, square, x) == Some(axes)
            && average.is_some_and(|m| {
                Product::of(graph, of_mean, Some(m)).is(1.0, &[m, m], 0.0)
                    && mean(graph, m) == Some(Mean { of: x, squared: false, axes })
            });
    }
    let Some(Mean { of, squared, .. }) = mean(graph, value) else { return false };
    // The difference may be calculated several times.
    let difference = if squared {
        Some(of)
    } else {
        let factor = binary(graph, of, Binary::Mul).or_else(|| binary(graph, of, Binary::Pow)).map(|[c, _]| c);
        factor.filter(|c| Product::of(graph, of, Some(*c)).is(1.0, &[*c, *c], 0.0))
    };
    difference.is_some_and(|c| centred(graph, c) == Some((x, axes)) && is_mean_square(graph, value, c) == Some(axes))
}

/// `over · scale / √(squares + epsilon)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Quotient {
    pub over: ValueRef,
    /// A constant.
    pub scale: Option<ValueRef>,
    /// What is divided by.
    pub deviation: ValueRef,
    pub squares: ValueRef,
    pub epsilon: f32,
}

/// The ways to read a value as a quotient by a deviation: of one factor, then with a constant taken out of its factors.
pub fn quotients(graph: &Graph, root: ValueRef) -> Vec<Quotient> {
    let mut found = Vec::new();
    for constants in [false, true] {
        let mut factors = Factors::default();
        factors.add(graph, root, constants);
        if let Factors { over, constant, deviation: Some(deviation), excess: false } = factors
            && let (Some(over), Some((squares, epsilon))) = (over, variance(graph, deviation))
        {
            let quotient = Quotient { over, scale: constant, deviation, squares, epsilon };
            if !found.contains(&quotient) {
                found.push(quotient);
            }
        }
    }
    found
}

/// The factors of a product.
#[derive(Default)]
struct Factors {
    over: Option<ValueRef>,
    constant: Option<ValueRef>,
    deviation: Option<ValueRef>,
    /// Whether there are several of a kind.
    excess: bool,
}

impl Factors {
    /// `constants`: whether constants are factors of their own, wherever they are.
    fn add(&mut self, graph: &Graph, value: ValueRef, constants: bool) {
        let put = |place: &mut Option<ValueRef>, excess: &mut bool| *excess |= place.replace(value).is_some();
        let inverse = |value: ValueRef| {
            unary(graph, value, Unary::Reciprocal).or_else(|| {
                let [one, deviation] = binary(graph, value, Binary::Div)?;
                (splat(graph, one) == Some(1.0)).then_some(deviation)
            })
        };
        if let Some(deviation) = inverse(value).filter(|d| variance(graph, *d).is_some()) {
            self.excess |= self.deviation.replace(deviation).is_some();
        } else if let Some([over, deviation]) = binary(graph, value, Binary::Div).filter(|[_, d]| variance(graph, *d).is_some()) {
            self.excess |= self.deviation.replace(deviation).is_some();
            self.add(graph, over, constants);
        } else if let Some(operands) =
            binary(graph, value, Binary::Mul).filter(|operands| operands.iter().any(|v| is_factor(graph, *v, constants)))
        {
            operands.into_iter().for_each(|v| self.add(graph, v, constants));
        } else if constants && graph.constant(value).is_some() {
            put(&mut self.constant, &mut self.excess);
        } else {
            put(&mut self.over, &mut self.excess);
        }
    }
}

/// Whether a product with this factor is to be taken apart.
fn is_factor(graph: &Graph, value: ValueRef, constants: bool) -> bool {
    let mut factors = Factors::default();
    factors.add(graph, value, constants);
    factors.deviation.is_some() || factors.constant.is_some()
}

/// The v and ε of `sqrt(v + ε)`.
fn variance(graph: &Graph, deviation: ValueRef) -> Option<(ValueRef, f32)> {
    let sum = unary(graph, deviation, Unary::Sqrt).or_else(|| {
        let [sum, half] = binary(graph, deviation, Binary::Pow)?;
        (splat(graph, half) == Some(0.5)).then_some(sum)
    })?;
    let (epsilon, squares) = constant_plus(graph, sum)?;
    Some((squares, epsilon as f32))
}
