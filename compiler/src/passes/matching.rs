//! What rules look for: constants with one value, products and sums in any association.
//!
//! Must not know: what is built in place of what is found.

use half::{bf16, f16};
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::elementwise::{Binary, Unary};

use crate::ir::{Constant, Graph, ValueRef};

/// The value that all elements of a float constant share, when there is one. Any shape.
pub fn splat(graph: &Graph, value: ValueRef) -> Option<f64> {
    uniform(graph.constant(value)?)
}

/// The number that all elements are.
pub(super) fn uniform(constant: &Constant) -> Option<f64> {
    let size = constant.dtype.size();
    let first = constant.data.get(..size)?;
    if !constant.data.chunks_exact(size).all(|element| element == first) {
        return None;
    }
    Some(match constant.dtype {
        DType::F32 => f64::from(bytemuck::pod_read_unaligned::<f32>(first)),
        DType::F64 => bytemuck::pod_read_unaligned::<f64>(first),
        DType::F16 => bytemuck::pod_read_unaligned::<f16>(first).to_f64(),
        DType::Bf16 => bytemuck::pod_read_unaligned::<bf16>(first).to_f64(),
        DType::I32 => f64::from(bytemuck::pod_read_unaligned::<i32>(first)),
        // Exact for the small numbers that rules ask for.
        DType::I64 => bytemuck::pod_read_unaligned::<i64>(first) as f64,
        _ => return None,
    })
}

/// Operands of a value computed by this function of two elements.
pub fn binary(graph: &Graph, value: ValueRef, function: Binary) -> Option<[ValueRef; 2]> {
    match graph.producer(value)? {
        Op::Binary(b) if *b == function => Some([graph.operand(value.node, 0)?, graph.operand(value.node, 1)?]),
        _ => None,
    }
}

/// Operand of a value computed by this function of one element.
pub fn unary(graph: &Graph, value: ValueRef, function: Unary) -> Option<ValueRef> {
    match graph.producer(value)? {
        Op::Unary(u) if *u == function => graph.operand(value.node, 0),
        _ => None,
    }
}

/// Both orders of two operands, for functions that commute.
pub fn either_order([a, b]: [ValueRef; 2]) -> [[ValueRef; 2]; 2] {
    [[a, b], [b, a]]
}

/// `constant + term`, in either order.
pub fn constant_plus(graph: &Graph, value: ValueRef) -> Option<(f64, ValueRef)> {
    let operands = binary(graph, value, Binary::Add)?;
    either_order(operands).into_iter().find_map(|[c, term]| Some((splat(graph, c)?, term)))
}

/// A product: a number times values.
#[derive(Clone, Debug, PartialEq)]
pub struct Product {
    /// The number.
    pub scale: f64,
    /// The values, each as often as it is a factor, in the order of the expression.
    pub factors: Vec<ValueRef>,
}

/// Factors beyond which a tree of products is not followed.
const MAX_FACTORS: usize = 16;

impl Product {
    /// Multiplies out a tree of Mul, Div by a constant, Neg and Pow by 2 or 3, down to values that are none of these, or `atom`.
    pub fn of(graph: &Graph, value: ValueRef, atom: Option<ValueRef>) -> Product {
        let mut product = Product { scale: 1.0, factors: Vec::new() };
        product.multiply(graph, value, atom);
        product
    }

    fn multiply(&mut self, graph: &Graph, value: ValueRef, atom: Option<ValueRef>) {
        if Some(value) != atom && self.factors.len() < MAX_FACTORS {
            if let Some(number) = splat(graph, value) {
                self.scale *= number;
                return;
            }
            if let Some(operands) = binary(graph, value, Binary::Mul) {
                operands.into_iter().for_each(|v| self.multiply(graph, v, atom));
                return;
            }
            if let Some([v, by]) = binary(graph, value, Binary::Div)
                && let Some(number) = splat(graph, by)
            {
                self.scale /= number;
                self.multiply(graph, v, atom);
                return;
            }
            if let Some([v, exponent]) = binary(graph, value, Binary::Pow)
                && let Some(times @ (2.0 | 3.0)) = splat(graph, exponent)
            {
                (0..times as usize).for_each(|_| self.multiply(graph, v, atom));
                return;
            }
            if let Some(v) = unary(graph, value, Unary::Neg) {
                self.scale = -self.scale;
                self.multiply(graph, v, atom);
                return;
            }
        }
        self.factors.push(value);
    }

    /// Whether it is `scale` times exactly these values, in any order.
    pub fn is(&self, scale: f64, factors: &[ValueRef], tolerance: f64) -> bool {
        let mut own = self.factors.clone();
        let mut other = factors.to_vec();
        own.sort_unstable();
        other.sort_unstable();
        own == other && close(self.scale, scale, tolerance)
    }

    /// The other factor, when there are two and one of them is `factor`.
    pub fn beside(&self, factor: ValueRef) -> Option<ValueRef> {
        match self.factors[..] {
            [a, b] if a == factor => Some(b),
            [a, b] if b == factor => Some(a),
            _ => None,
        }
    }
}

/// Whether a number read from a model is meant to be `exact`.
pub fn close(number: f64, exact: f64, tolerance: f64) -> bool {
    (number - exact).abs() <= tolerance * exact.abs()
}

/// How far, relatively, a constant of this type may be from the number that it stands for.
pub fn tolerance(dtype: DType) -> f64 {
    match dtype {
        DType::F64 | DType::F32 => 1e-5,
        DType::F16 => 2e-3,
        _ => 1e-2,
    }
}

/// Every value that is part of the product that `value` is, itself excluded: the candidates for the one that a rule is about.
pub fn parts(graph: &Graph, value: ValueRef) -> Vec<ValueRef> {
    let mut out = Vec::new();
    let mut stack = vec![value];
    while let Some(v) = stack.pop() {
        if out.len() >= MAX_FACTORS {
            break;
        }
        if let Some(operands) = binary(graph, v, Binary::Mul).or_else(|| binary(graph, v, Binary::Div)) {
            let operands = operands.into_iter().filter(|o| graph.constant(*o).is_none());
            for o in operands {
                if !out.contains(&o) {
                    out.push(o);
                    stack.push(o);
                }
            }
        }
    }
    out
}
