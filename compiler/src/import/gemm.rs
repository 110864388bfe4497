//! Matrix products.

use std::collections::BTreeSet;

use sliderun::dtype::DType;
use sliderun::op::elementwise::{Binary, Cast};
use sliderun::op::gemm::{Einsum, Gemm, MatMul, MatMulInteger};
use sliderun::op::layout::{Reshape, Transpose};
use sliderun::op::quantize::QuantizeLinear;

use super::{Imported, Importer, NodeContext, Refusal, microsoft, onnx};
use crate::ir::ValueRef;

pub(super) const IMPORTERS: &[Importer] = &[
    onnx("Einsum", einsum),
    onnx("Gemm", gemm),
    onnx("MatMul", matmul),
    onnx("MatMulInteger", matmul_integer),
    onnx("QLinearMatMul", qlinear_matmul),
    microsoft("FusedMatMul", fused_matmul),
    microsoft("TransposeMatMul", fused_matmul),
];

fn matmul(cx: &mut NodeContext<'_>) -> Imported {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    Ok(vec![cx.add(MatMul::default(), &[a, b])?])
}

fn gemm(cx: &mut NodeContext<'_>) -> Imported {
    let (a, b, c) = (cx.input(0)?, cx.input(1)?, cx.optional(2));
    let op = Gemm {
        alpha: cx.float_or("alpha", 1.0)?,
        beta: cx.float_or("beta", 1.0)?,
        trans_a: cx.int_or("transA", 0)? != 0,
        trans_b: cx.int_or("transB", 0)? != 0,
    };
    Ok(vec![cx.add_optional(op, &[Some(a), Some(b), c])?])
}

/// Contrib: `alpha · op(a) · op(b)`, transposition of the last two axes.
fn fused_matmul(cx: &mut NodeContext<'_>) -> Imported {
    if cx.int_or("transBatchA", 0)? != 0 || cx.int_or("transBatchB", 0)? != 0 {
        return Err(Refusal::new("transposed batch axes are not supported"));
    }
    let mut operands = [cx.input(0)?, cx.input(1)?];
    for (v, attribute) in operands.iter_mut().zip(["transA", "transB"]) {
        let rank = cx.rank(*v);
        if cx.int_or(attribute, 0)? != 0 && rank >= 2 {
            let mut perm: Vec<usize> = (0..rank).collect();
            perm.swap(rank - 2, rank - 1);
            *v = cx.add(Transpose { perm }, &[*v])?;
        }
    }
    let mut y = cx.add(MatMul::default(), &operands)?;
    let alpha = cx.float_or("alpha", 1.0)?;
    if alpha != 1.0 {
        let dtype = cx.dtype(y);
        let alpha = cx.scalar(dtype, f64::from(alpha))?;
        y = cx.add(Binary::Mul, &[y, alpha])?;
    }
    Ok(vec![y])
}

fn matmul_integer(cx: &mut NodeContext<'_>) -> Imported {
    let (a, b) = (cx.input(0)?, cx.input(1)?);
    let (a_zero, b_zero) = (cx.optional(2), cx.optional(3));
    Ok(vec![cx.add_optional(MatMulInteger {}, &[Some(a), Some(b), a_zero, b_zero])?])
}

/// The integer product, exact, times the scales, quantized: `saturate(round(acc · a_scale · b_scale / y_scale) + y_zero)`.
fn qlinear_matmul(cx: &mut NodeContext<'_>) -> Imported {
    let (a, a_scale, a_zero) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (b, b_scale, b_zero) = (cx.input(3)?, cx.input(4)?, cx.input(5)?);
    let (y_scale, y_zero) = (cx.input(6)?, cx.input(7)?);
    let acc = cx.add(MatMulInteger {}, &[a, b, a_zero, b_zero])?;
    let acc = cx.add(Cast { to: DType::F32 }, &[acc])?;
    let f32_scale = |cx: &mut NodeContext<'_>, v: ValueRef| -> Result<ValueRef, Refusal> {
        if cx.dtype(v) == DType::F32 { Ok(v) } else { cx.add(Cast { to: DType::F32 }, &[v]) }
    };
    let (a_scale, b_scale, y_scale) = (f32_scale(cx, a_scale)?, f32_scale(cx, b_scale)?, f32_scale(cx, y_scale)?);
    // A per-row scale of `a` is a column of the result; a per-column scale of `b` already is a row.
    let a_scale = match cx.shape(a_scale).as_slice() {
        [n] if !n.is_one() => cx.add(Reshape { shape: vec![n.clone(), 1.into()] }, &[a_scale])?,
        _ => a_scale,
    };
    if [y_scale, y_zero].iter().any(|v| cx.shape(*v).iter().any(|d| !d.is_one())) {
        return Err(Refusal::new("only one scale and zero point for the whole result are supported"));
    }
    let scale = cx.add(Binary::Mul, &[a_scale, b_scale])?;
    let real = cx.add(Binary::Mul, &[acc, scale])?;
    let one = |cx: &mut NodeContext<'_>, v| cx.add(Reshape { shape: Vec::new() }, &[v]);
    let (y_scale, y_zero) = (one(cx, y_scale)?, one(cx, y_zero)?);
    let to = cx.dtype(y_zero);
    Ok(vec![cx.add(QuantizeLinear { to, axis: 0, block: 0 }, &[real, y_scale, y_zero])?])
}

/// The equation with the result's subscripts made explicit and each ellipsis spelled out in letters not used otherwise.
fn explicit_equation(equation: &str, ranks: &[usize]) -> Result<String, Refusal> {
    let wrong = |reason: &str| Refusal::new(format!("equation '{equation}': {reason}"));
    let compact: String = equation.chars().filter(|c| !c.is_whitespace()).collect();
    let (left, right) = match compact.split_once("->") {
        Some((left, right)) => (left.to_owned(), Some(right.to_owned())),
        None => (compact.clone(), None),
    };
    let terms: Vec<&str> = left.split(',').collect();
    if terms.len() != ranks.len() {
        return Err(wrong(&format!("{} operands are named, {} given", terms.len(), ranks.len())));
    }
    let labels = |term: &str| term.chars().filter(|c| *c != '.').count();
    for term in terms.iter().copied().chain(right.as_deref()) {
        let plain = term.replacen("...", "", 1);
        if !plain.chars().all(|c| c.is_ascii_alphabetic()) {
            return Err(wrong("subscripts are letters and '...'"));
        }
    }
    // Letters of the ellipsis' axes, the last ones used by operands of lower rank.
    let mut covered = 0;
    for (term, rank) in terms.iter().zip(ranks) {
        let named = labels(term);
        match (term.contains("..."), rank.checked_sub(named)) {
            (true, Some(more)) => covered = covered.max(more),
            (false, Some(0)) => {}
            _ => return Err(wrong(&format!("operand '{term}' has {rank} axes"))),
        }
    }
    let used: BTreeSet<char> = compact.chars().filter(char::is_ascii_alphabetic).collect();
    let free: String = ('a'..='z').chain('A'..='Z').filter(|c| !used.contains(c)).take(covered).collect();
    if free.len() < covered {
        return Err(wrong("there are more axes than letters"));
    }
    let spell = |term: &str, axes: usize| term.replacen("...", &free[free.len() - axes..], 1);
    let mut spelled = Vec::new();
    for (term, rank) in terms.iter().zip(ranks) {
        spelled.push(spell(term, rank - labels(term)));
    }
    let result = match right {
        Some(right) => spell(&right, covered),
        None => {
            let mut count = std::collections::BTreeMap::new();
            left.chars().filter(char::is_ascii_alphabetic).for_each(|c| *count.entry(c).or_insert(0) += 1);
            let once: String = count.iter().filter(|(_, n)| **n == 1).map(|(c, _)| *c).collect();
            free.clone() + &once
        }
    };
    Ok(format!("{}->{result}", spelled.join(",")))
}

fn einsum(cx: &mut NodeContext<'_>) -> Imported {
    let values = cx.inputs()?;
    let ranks: Vec<usize> = values.iter().map(|v| cx.rank(*v)).collect();
    let equation = explicit_equation(&cx.required_string("equation")?, &ranks)?;
    Ok(vec![cx.add(Einsum { equation }, &values)?])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::onnx::build::node;
    use sliderun::dtype::DType::*;

    #[test]
    fn equations_become_explicit() {
        for (given, ranks, expected) in [
            ("ij,jk", &[2, 2][..], "ij,jk->ik"),
            ("ij -> ji", &[2], "ij->ji"),
            ("...ii ->...i", &[3], "aii->ai"),
            ("bij, bjk -> bik", &[3, 3], "bij,bjk->bik"),
            ("i,i", &[1, 1], "i,i->"),
            ("...ij,...jk", &[4, 3], "abij,bjk->abik"),
            ("ba", &[2], "ba->ab"),
        ] {
            assert_eq!(explicit_equation(given, ranks).unwrap(), expected, "{given}");
        }
        for (given, ranks) in [("ij", &[3][..]), ("i,j", &[1]), ("i1", &[2]), ("......i", &[3])] {
            assert!(explicit_equation(given, ranks).is_err(), "{given}");
        }
    }

    #[test]
    fn products() {
        let (a, b) = (Input(F32, &["n", "3", "4"]), Input(F32, &["4", "5"]));
        check(13, node("MatMul", &[], &[]), &[a, b], &["MatMul(MatMul { activation: None }) -> f32[n, 3, 5]"]);
        let gemm = "Gemm(Gemm { alpha: 1.0, beta: 0.5, trans_a: false, trans_b: true }) -> f32[2, 5]";
        let op = node("Gemm", &[], &[]).attr("transB", 1).attr("beta", 0.5f32);
        check(13, op, &[Input(F32, &["2", "4"]), Input(F32, &["5", "4"])], &[gemm]);
        let fused = node("FusedMatMul", &[], &[]).domain("com.microsoft").attr("alpha", 0.5f32).attr("transB", 1);
        let transpose = "Transpose(Transpose { perm: [1, 0] }) -> f32[4, 5]";
        let product = ["MatMul(MatMul { activation: None }) -> f32[n, 3, 5]", "Binary(Mul) -> f32[n, 3, 5]"];
        check(13, fused, &[a, Input(F32, &["5", "4"])], &[transpose, product[0], product[1]]);
        let einsum = "Einsum(Einsum { equation: \"aij,jk->aik\" }) -> f32[n, 3, 5]";
        check(12, node("Einsum", &[], &[]).attr("equation", "...ij,jk->...ik"), &[a, b], &[einsum]);
        let integers = [Input(U8, &["2", "3"]), Input(I8, &["3", "4"])];
        check(10, node("MatMulInteger", &[], &[]), &integers, &["MatMulInteger(MatMulInteger) -> i32[2, 4]"]);
    }
}
