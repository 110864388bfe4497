//! `fuse-gelu`: GELU spelled out in element-wise operators becomes one operator.
//!
//! Both forms, however products and sums are associated and wherever the factor ½ is:
//! `½·x·(1 + erf(x/√2))` and `½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.

use sliderun::op::elementwise::{Binary, Unary};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use super::matching::{Product, binary, close, constant_plus, either_order, parts, tolerance, unary};
use super::rewrite::{Replacement, emit, rewrite};
use super::{Pass, PassContext, PassError};
use crate::ir::{Graph, ValueRef};

/// The declaration.
pub const PASS: Pass = Pass { name: "fuse-gelu", summary: "GELU spelled out (erf or tanh form) becomes one operator", run };

/// The cubic term's coefficient in the tanh form.
const CUBIC: f64 = 0.044715;

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    rewrite(graph, context, |graph, id, _| {
        let Some((x, function)) = find(graph, ValueRef { node: id, slot: 0 }) else { return Ok(None) };
        let name = graph.node(id).name.clone();
        let fused = emit(graph, &name, function, &[x])?;
        let what = if function == Unary::Gelu { "recognised GELU, erf form" } else { "recognised GELU, tanh form" };
        Ok(Some(Replacement::new(fused, what)))
    })
}

/// The x of a GELU that `root` is, and its form.
fn find(graph: &Graph, root: ValueRef) -> Option<(ValueRef, Unary)> {
    binary(graph, root, Binary::Mul).or_else(|| binary(graph, root, Binary::Div))?;
    let ty = graph.ty(root);
    let tolerance = tolerance(ty.dtype);
    for x in parts(graph, root) {
        if graph.ty(x) != ty {
            continue;
        }
        // root = scale·x·(offset + factor·f(…)), where scale·offset = scale·factor = ½.
        let product = Product::of(graph, root, Some(x));
        let Some(gate) = product.beside(x) else { continue };
        let Some((offset, term)) = constant_plus(graph, gate) else { continue };
        let term = Product::of(graph, term, Some(x));
        let [f] = term.factors[..] else { continue };
        if !close(product.scale * offset, 0.5, tolerance) || !close(product.scale * term.scale, 0.5, tolerance) {
            continue;
        }
        if let Some(argument) = unary(graph, f, Unary::Erf)
            && Product::of(graph, argument, Some(x)).is(FRAC_1_SQRT_2, &[x], tolerance)
        {
            return Some((x, Unary::Gelu));
        }
        if let Some(argument) = unary(graph, f, Unary::Tanh)
            && is_tanh_argument(graph, argument, x, tolerance)
        {
            return Some((x, Unary::GeluTanh));
        }
    }
    None
}

/// Whether a value is `√(2/π)·(x + 0.044715·x³)` or `√(2/π)·x·(1 + 0.044715·x²)`.
fn is_tanh_argument(graph: &Graph, argument: ValueRef, x: ValueRef, tolerance: f64) -> bool {
    let product = Product::of(graph, argument, Some(x));
    // √(2/π) = (2/√π)·(1/√2)
    if !close(product.scale, FRAC_2_SQRT_PI * FRAC_1_SQRT_2, tolerance) {
        return false;
    }
    if let [sum] = product.factors[..]
        && let Some(operands) = binary(graph, sum, Binary::Add)
    {
        return either_order(operands)
            .into_iter()
            .any(|[linear, cubic]| linear == x && Product::of(graph, cubic, Some(x)).is(CUBIC, &[x, x, x], tolerance));
    }
    product
        .beside(x)
        .and_then(|gate| constant_plus(graph, gate))
        .is_some_and(|(one, term)| close(one, 1.0, tolerance) && Product::of(graph, term, Some(x)).is(CUBIC, &[x, x], tolerance))
}
