//! Operands that must be known when compiling: axes, shapes, pads … as attributes or as tensors.

use std::collections::BTreeSet;

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::elementwise::Cast;
use sliderun::tensor::Tensor;

use super::context::NodeContext;
use super::error::Refusal;
use super::fold;
use crate::ir::{Constant, NodeId, NodeKind};

/// An axis, counted from the front.
///
/// # Errors
/// One that a tensor of `rank` axes does not have.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, Refusal> {
    let from_front = if axis < 0 { axis.checked_add_unsigned(rank as u64) } else { Some(axis) };
    from_front.and_then(|a| usize::try_from(a).ok()).filter(|a| *a < rank).ok_or_else(|| Refusal::axis(axis, rank))
}

/// Axes, counted from the front, sorted, without repeats.
///
/// # Errors
/// One that a tensor of `rank` axes does not have.
pub(super) fn axes(given: &[i64], rank: usize) -> Result<Vec<usize>, Refusal> {
    let mut out = given.iter().map(|&a| axis(a, rank)).collect::<Result<Vec<_>, _>>()?;
    out.sort_unstable();
    out.dedup();
    Ok(out)
}

/// A constant of another element type, from its elements.
///
/// # Errors
/// A type that numbers cannot be converted to, a shape of another size.
pub(super) fn constant_from_f64(dtype: DType, shape: &[usize], values: &[f64]) -> Result<Constant, Refusal> {
    let wide = Tensor::from_slice(shape, values).map_err(|e| Refusal::new(e.to_string()))?;
    if dtype == DType::F64 {
        return Ok(Constant::from_tensor(&wide));
    }
    fold::evaluate(&Cast { to: dtype }.into(), &[Some(wide.view())])
        .and_then(|out| out.first().map(Constant::from_tensor))
        .ok_or_else(|| Refusal::new(format!("a constant of type {dtype} is not supported")))
}

impl NodeContext<'_> {
    /// As the free function: an axis, counted from the front.
    pub fn axis(&self, given: i64, rank: usize) -> Result<usize, Refusal> {
        axis(given, rank)
    }

    /// An attribute that is an axis, counted from the front, or its default.
    pub fn axis_or(&self, name: &str, default: i64, rank: usize) -> Result<usize, Refusal> {
        axis(self.int_or(name, default)?, rank)
    }

    /// Integers that are attribute `name` before opset `since`, and optional operand `input` from then on.
    pub fn ints_attribute_or_input(&self, name: &str, since: i64, input: usize) -> Result<Option<Vec<i64>>, Refusal> {
        if self.opset() < since {
            return self.ints(name);
        }
        self.optional(input).map(|_| self.known_ints(input)).transpose()
    }

    /// The attribute or operand `axes` as [`NodeContext::ints_attribute_or_input`], counted from the front, sorted, without repeats.
    pub fn axes_attribute_or_input(&self, since: i64, input: usize, rank: usize) -> Result<Option<Vec<usize>>, Refusal> {
        self.ints_attribute_or_input("axes", since, input)?.map(|given| axes(&given, rank)).transpose()
    }

    /// The elements of operand `i`, an integer tensor of at most one axis, as extents.
    ///
    /// # Errors
    /// An absent operand, and one whose elements depend on data.
    pub fn known_dims_input(&self, i: usize) -> Result<Vec<Dim>, Refusal> {
        let value = self.input(i)?;
        self.known_dims(value).or_else(|| self.oracle_dims(i)).ok_or_else(|| self.unknown(i))
    }

    /// What tract knows of operand `i`, where our own propagation could not follow: its elements or, where they say the shape of the
    /// node's result, that shape.
    fn oracle_dims(&self, i: usize) -> Option<Vec<Dim>> {
        if self.frame.depth > 0 {
            return None;
        }
        self.building.oracle_elements(self.model, self.input_name(i)).or_else(|| match (self.op_type(), i) {
            ("Reshape" | "Expand", 1) | ("ConstantOfShape", 0) => {
                self.building.oracle_shape(self.model, self.node.output.first()?)
            }
            _ => None,
        })
    }

    /// The elements of operand `i`, an integer tensor of at most one axis.
    ///
    /// # Errors
    /// An absent operand, and one whose elements depend on data or on symbols.
    pub fn known_ints(&self, i: usize) -> Result<Vec<i64>, Refusal> {
        self.known_dims_input(i)?
            .iter()
            .map(|d| {
                d.as_const().ok_or_else(|| {
                    let name = self.input_name(i);
                    Refusal::new(format!("'{name}' is {d}, which is not known when compiling; fix its symbols with --shape"))
                })
            })
            .collect()
    }

    /// The only element of operand `i`, an integer.
    ///
    /// # Errors
    /// As [`NodeContext::known_ints`], and any other number of elements.
    pub fn known_int(&self, i: usize) -> Result<i64, Refusal> {
        self.single(i, self.known_ints(i)?)
    }

    /// The only element of operand `i`, an integer that may be symbolic.
    ///
    /// # Errors
    /// As [`NodeContext::known_dims_input`], and any other number of elements.
    pub fn known_dim(&self, i: usize) -> Result<Dim, Refusal> {
        let dims = self.known_dims_input(i)?;
        <[Dim; 1]>::try_from(dims)
            .map(|[one]| one)
            .map_err(|dims| Refusal::new(format!("'{}' has {} elements, one is expected", self.input_name(i), dims.len())))
    }

    /// The only element of operand `i`, an integer or a float that has an integer's value.
    ///
    /// # Errors
    /// As [`NodeContext::known_int`], and fractions.
    pub fn known_number(&self, i: usize) -> Result<i64, Refusal> {
        if !self.dtype(self.input(i)?).is_float() {
            return self.known_int(i);
        }
        let v = self.known_float(i)?;
        if v.fract() != 0.0 || v.abs() > i64::from(i32::MAX) as f64 {
            return Err(Refusal::new(format!("'{}' is {v}, an integer is expected", self.input_name(i))));
        }
        Ok(v as i64)
    }

    /// The elements of operand `i`, booleans.
    ///
    /// # Errors
    /// An absent operand, and one whose elements depend on data or on symbols.
    pub fn known_bools(&self, i: usize) -> Result<Vec<bool>, Refusal> {
        let value = self.input(i)?;
        let known = self.known_values(value).and_then(|k| k.ints()).ok_or_else(|| self.unknown(i))?;
        Ok(known.into_iter().map(|v| v != 0).collect())
    }

    /// The only element of operand `i`, a boolean.
    ///
    /// # Errors
    /// As [`NodeContext::known_bools`], and any other number of elements.
    pub fn known_bool(&self, i: usize) -> Result<bool, Refusal> {
        self.single(i, self.known_bools(i)?)
    }

    /// The elements of operand `i`, a constant float tensor.
    ///
    /// # Errors
    /// An absent operand, and one that is not a constant.
    pub fn known_floats(&self, i: usize) -> Result<Vec<f64>, Refusal> {
        let constant = self.constant(self.input(i)?).ok_or_else(|| self.unknown(i))?;
        fold::floats(constant)
            .ok_or_else(|| Refusal::new(format!("'{}' is {}, floats are expected", self.input_name(i), constant.dtype)))
    }

    /// The only element of operand `i`, a float.
    ///
    /// # Errors
    /// As [`NodeContext::known_floats`], and any other number of elements.
    pub fn known_float(&self, i: usize) -> Result<f64, Refusal> {
        self.single(i, self.known_floats(i)?)
    }

    /// The symbolic content of a value, when it is an integer tensor of at most one axis and does not depend on data.
    pub fn known_dims(&self, value: crate::ir::ValueRef) -> Option<Vec<Dim>> {
        let known = self.known_values(value)?;
        (known.dtype.is_int() && known.shape.len() <= 1).then(|| known.dims()).flatten()
    }

    fn single<T: Copy>(&self, i: usize, values: Vec<T>) -> Result<T, Refusal> {
        match values.as_slice() {
            [one] => Ok(*one),
            _ => Err(Refusal::new(format!("'{}' has {} elements, one is expected", self.input_name(i), values.len()))),
        }
    }

    /// Why an operand is not known: the graph inputs that it is computed from, or else its own name.
    fn unknown(&self, i: usize) -> Refusal {
        let name = self.input_name(i);
        let graph = &self.building.graph;
        let (mut sources, mut seen) = (BTreeSet::new(), BTreeSet::new());
        let mut stack: Vec<NodeId> = self.optional(i).map(|v| v.node).into_iter().collect();
        while let Some(id) = stack.pop() {
            if !seen.insert(id) {
                continue;
            }
            if graph.node(id).kind == NodeKind::Input {
                sources.insert(graph.node(id).name.clone());
            }
            stack.extend(graph.operands(id).into_iter().flatten().map(|v| v.node));
        }
        let Some(source) = sources.first() else {
            return Refusal::new(format!("'{name}' is not known when compiling; it must be constant"));
        };
        let computed = if source == name { String::new() } else { format!("'{name}' is computed from '{source}', and ") };
        Refusal::new(format!(
            "{computed}'{source}' is a graph input; its value must be known when compiling: make it an initializer or use \
             --freeze {source}=FILE.npy"
        ))
    }
}
