//! Operands that must be known when compiling: axes, shapes, pads … as attributes or as tensors.

use sliderun::dim::Dim;
use sliderun::dtype::DType;

use super::context::NodeContext;
use super::error::Refusal;

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
        self.known_dims(value).ok_or_else(|| self.unknown(i))
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

    /// The only element of operand `i`, a boolean.
    ///
    /// # Errors
    /// An absent operand, one whose elements depend on data or on symbols, and any other number of elements.
    pub fn known_bool(&self, i: usize) -> Result<bool, Refusal> {
        let value = self.input(i)?;
        let known = self.known_values(value).and_then(|k| k.ints()).ok_or_else(|| self.unknown(i))?;
        Ok(self.single(i, known)? != 0)
    }

    /// The elements of operand `i`, a constant float tensor.
    ///
    /// # Errors
    /// An absent operand, and one that is not a constant.
    pub fn known_floats(&self, i: usize) -> Result<Vec<f64>, Refusal> {
        let constant = self.constant(self.input(i)?).ok_or_else(|| self.unknown(i))?;
        super::fold::floats(constant)
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

    fn unknown(&self, i: usize) -> Refusal {
        let name = self.input_name(i);
        match self.optional(i).map(|v| self.dtype(v)) {
            Some(dtype) if dtype != DType::Bool && dtype.is_int() => {
                Refusal::new(format!("its shape depends on the data of '{name}', which is not known when compiling"))
            }
            _ => Refusal::new(format!(
                "it depends on the data of '{name}', which is not known when compiling; it must be constant"
            )),
        }
    }
}
