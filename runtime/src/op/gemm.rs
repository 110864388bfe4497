//! Matrix products in the data's own precision (f16 and bf16 accumulate in f32). Those of the sparse method are in
//! [`super::sparse`].

use serde::{Deserialize, Serialize};

use super::elementwise::Unary;
use super::{InferError, InputTypes, Semantics, TensorType, broadcast, may_equal};
use crate::dim::Dim;
use crate::dtype::DType;

/// Inputs (a, b, bias?): NumPy's matmul, batched and broadcast. The bias, [N], is added to every row, then the activation is applied;
/// both need a matrix b, and f32, f16 or bf16.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MatMul {
    /// Function of each element of the result; of the kind that gives floats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<Unary>,
}

/// Inputs (a, b, c?): `alpha·op(a)·op(b) + beta·c`, matrices, c broadcast.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Gemm {
    pub alpha: f32,
    pub beta: f32,
    pub trans_a: bool,
    pub trans_b: bool,
}

/// Einstein summation over any number of inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Einsum {
    /// As in NumPy, with the arrow and the result's subscripts always present, without spaces.
    pub equation: String,
}

/// Inputs (a, b, a_zero?, b_zero?): 8-bit integers, i32 result; ONNX MatMulInteger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MatMulInteger {}

/// Element types of a matrix product.
fn expect_number(input: usize, dtype: DType) -> Result<(), InferError> {
    match dtype {
        DType::Bool | DType::F8e4m3 | DType::F8e5m2 => {
            Err(InferError::DType { input, actual: dtype, expected: "a number of 16 bits or more, or an integer" })
        }
        _ => Ok(()),
    }
}

fn expect_same(input: usize, ty: &TensorType, first: &TensorType) -> Result<(), InferError> {
    if ty.dtype != first.dtype {
        return Err(InferError::DType { input, actual: ty.dtype, expected: first.dtype.name() });
    }
    Ok(())
}

/// A matmul operand's batch extents, rows (or columns) unless it is a vector, and the summed extent.
fn operand(input: usize, ty: &TensorType) -> Result<(&[Dim], Option<&Dim>, &Dim), InferError> {
    match (ty.shape.as_slice(), input) {
        ([batch @ .., rows, k], 0) => Ok((batch, Some(rows), k)),
        ([batch @ .., k, cols], _) => Ok((batch, Some(cols), k)),
        ([k], _) => Ok((&[], None, k)),
        ([], _) => Err(InferError::Shape(format!("input {input} is a scalar; a matrix product takes vectors and matrices"))),
    }
}

/// Shape of NumPy's matmul.
fn matmul_shape(a: &TensorType, b: &TensorType) -> Result<Vec<Dim>, InferError> {
    let ((a_batch, m, k), (b_batch, n, k_of_b)) = (operand(0, a)?, operand(1, b)?);
    if !may_equal(k, k_of_b) {
        return Err(InferError::Shape(format!("{a} · {b}: the summed extents {k} and {k_of_b} differ")));
    }
    let batch = broadcast(&[a_batch, b_batch])?;
    Ok(batch.into_iter().chain(m.cloned()).chain(n.cloned()).collect())
}

impl Semantics for MatMul {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(3)?;
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        expect_number(0, a.dtype)?;
        expect_same(1, b, a)?;
        let shape = matmul_shape(a, b)?;
        if let Some(bias) = inputs.optional(2) {
            expect_same(2, bias, a)?;
            if !a.dtype.computes_in_f32() {
                return Err(InferError::DType { input: 2, actual: bias.dtype, expected: "f32, f16 or bf16" });
            }
            let fits = b.rank() == 2 && bias.rank() == 1 && may_equal(&bias.shape[0], &b.shape[1]);
            if !fits {
                return Err(InferError::Shape(format!("a bias of {bias} does not fit the right-hand side {b}")));
            }
        }
        let product = TensorType::new(a.dtype, shape);
        if let Some(activation) = self.activation {
            expect_activation(activation, &product)?;
            if b.rank() != 2 {
                return Err(InferError::Shape(format!("an activation needs a matrix on the right, not {b}")));
            }
        }
        Ok(vec![product])
    }
}

/// Checks that a function gives f32, f16 or bf16 for the elements that it is applied to.
pub(super) fn expect_activation(activation: Unary, to: &TensorType) -> Result<(), InferError> {
    let same = activation.infer(InputTypes(&[Some(to)]))?[0] == *to;
    if same && to.dtype.computes_in_f32() {
        return Ok(());
    }
    Err(InferError::Attribute { name: "activation", reason: format!("{activation:?} of {} is no activation", to.dtype) })
}

impl Semantics for Gemm {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(3)?;
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        expect_number(0, a.dtype)?;
        expect_same(1, b, a)?;
        let matrix = |input: usize, ty: &TensorType, transposed: bool| match ty.shape.as_slice() {
            [rows, cols] if transposed => Ok((cols.clone(), rows.clone())),
            [rows, cols] => Ok((rows.clone(), cols.clone())),
            _ => Err(InferError::Shape(format!("input {input} is {ty}, a matrix was expected"))),
        };
        let ((m, k), (k_of_b, n)) = (matrix(0, a, self.trans_a)?, matrix(1, b, self.trans_b)?);
        if !may_equal(&k, &k_of_b) {
            return Err(InferError::Shape(format!("{a} · {b}: the summed extents {k} and {k_of_b} differ")));
        }
        if let Some(c) = inputs.optional(2) {
            expect_same(2, c, a)?;
            let fits = c.rank() <= 2 && c.shape.iter().rev().zip([&n, &m]).all(|(c, to)| c.is_one() || may_equal(c, to));
            if !fits {
                return Err(InferError::Shape(format!("c {c} does not broadcast to [{m}, {n}]")));
            }
        }
        Ok(vec![TensorType::new(a.dtype, [m, n])])
    }
}

/// The subscripts of an [`Einsum`], an ellipsis replaced by subscripts of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscripts {
    /// One label per axis of each input.
    pub inputs: Vec<Vec<char>>,
    /// One label per axis of the result.
    pub output: Vec<char>,
}

/// The label of the axis that an ellipsis stands for, counted from the last; outside of what an equation can name.
fn ellipsis_label(from_last: usize) -> char {
    char::from_u32(0xe000 + from_last as u32).unwrap_or(char::MAX)
}

impl Einsum {
    /// The labels of every axis, given the ranks of the inputs.
    ///
    /// # Errors
    /// An equation that is not one, or does not fit the ranks.
    pub fn subscripts(&self, ranks: &[usize]) -> Result<Subscripts, InferError> {
        let wrong = |reason: String| InferError::Attribute { name: "equation", reason };
        let bad = |what: &str| wrong(format!("'{}': {what}", self.equation));
        let (inputs, output) = self.equation.split_once("->").ok_or_else(|| bad("'->' is missing"))?;
        let terms: Vec<&str> = inputs.split(',').collect();
        if terms.len() != ranks.len() {
            return Err(bad(&format!("{} operands are named, {} are given", terms.len(), ranks.len())));
        }
        let mut widest = 0;
        let mut labels = |term: &str, rank: Option<usize>| -> Result<Vec<char>, InferError> {
            let (before, after) = term.split_once("...").map_or((term, None), |(before, after)| (before, Some(after)));
            let named = before.len() + after.map_or(0, str::len);
            if !before.chars().chain(after.unwrap_or_default().chars()).all(|c| c.is_ascii_alphabetic()) {
                return Err(bad(&format!("'{term}' is not made of letters")));
            }
            let fits = |rank: usize| if after.is_some() { named <= rank && rank - named <= 64 } else { named == rank };
            if rank.is_some_and(|rank| !fits(rank)) {
                return Err(bad(&format!("'{term}' does not name the axes of an operand of rank {}", rank.unwrap_or(0))));
            }
            let stands_for = match (after, rank) {
                (None, _) => 0,
                (Some(_), Some(rank)) => rank - named,
                (Some(_), None) => widest,
            };
            widest = widest.max(stands_for);
            let hidden = (0..stands_for).rev().map(ellipsis_label);
            Ok(before.chars().chain(hidden).chain(after.unwrap_or_default().chars()).collect())
        };
        let inputs: Vec<Vec<char>> =
            terms.iter().zip(ranks).map(|(term, &rank)| labels(term, Some(rank))).collect::<Result<_, _>>()?;
        let output = labels(output, None)?;
        for (i, label) in output.iter().enumerate() {
            if output[..i].contains(label) {
                return Err(bad("a subscript of the result is repeated"));
            }
            if !inputs.iter().any(|labels| labels.contains(label)) {
                return Err(bad("a subscript of the result is in no operand"));
            }
        }
        Ok(Subscripts { inputs, output })
    }
}

impl Semantics for Einsum {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        let types = inputs.variadic()?;
        for (i, ty) in types.iter().enumerate() {
            expect_number(i, ty.dtype)?;
            expect_same(i, ty, types[0])?;
        }
        let ranks: Vec<usize> = types.iter().map(|ty| ty.rank()).collect();
        let subscripts = self.subscripts(&ranks)?;
        let mut extents: Vec<(char, Dim)> = Vec::new();
        for (input, (labels, ty)) in subscripts.inputs.iter().zip(&types).enumerate() {
            for (i, (label, extent)) in labels.iter().zip(&ty.shape).enumerate() {
                if let Some(first) = labels[..i].iter().position(|l| l == label)
                    && !may_equal(&ty.shape[first], extent)
                {
                    let reason = format!("'{}': '{label}' names different extents of input {input}, {ty}", self.equation);
                    return Err(InferError::Shape(reason));
                }
                match extents.iter_mut().find(|(l, _)| l == label) {
                    Some((_, known)) => {
                        let common = broadcast(&[std::slice::from_ref(known), std::slice::from_ref(extent)])?;
                        common.into_iter().for_each(|d| *known = d);
                    }
                    None => extents.push((*label, extent.clone())),
                }
            }
        }
        let of = |label: &char| extents.iter().find(|(l, _)| l == label).map(|(_, d)| d.clone()).unwrap_or_default();
        Ok(vec![TensorType::new(types[0].dtype, subscripts.output.iter().map(of))])
    }
}

impl Semantics for MatMulInteger {
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
        inputs.at_most(4)?;
        let (a, b) = (inputs.required(0)?, inputs.required(1)?);
        for (i, ty) in [(0, a), (1, b)] {
            if !matches!(ty.dtype, DType::I8 | DType::U8) {
                return Err(InferError::DType { input: i, actual: ty.dtype, expected: "i8 or u8" });
            }
        }
        let shape = matmul_shape(a, b)?;
        let batch = broadcast(&[operand(0, a)?.0, operand(1, b)?.0])?;
        for (i, of) in [(2, a), (3, b)] {
            let Some(zero) = inputs.optional(i) else { continue };
            expect_same(i, zero, of)?;
            let extent = operand(i - 2, of)?.1;
            let fits = match (zero.shape.as_slice(), extent) {
                ([], _) => true,
                ([d], _) if d.is_one() => true,
                ([d], Some(extent)) => may_equal(d, extent),
                ([leading @ .., rows, cols], Some(extent)) => {
                    let (each, one) = if i == 2 { (rows, cols) } else { (cols, rows) };
                    let leading = leading.len() <= batch.len()
                        && leading.iter().rev().zip(batch.iter().rev()).all(|(d, to)| d.is_one() || may_equal(d, to));
                    leading && may_equal(one, &1.into()) && may_equal(each, extent)
                }
                _ => false,
            };
            if !fits {
                let axis = if i == 2 { "row of a" } else { "column of b" };
                return Err(InferError::Shape(format!("zero point {zero} is neither a scalar nor one per {axis}")));
            }
        }
        Ok(vec![TensorType::new(DType::I32, shape)])
    }
}
