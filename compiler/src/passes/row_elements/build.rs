//! Values of which the rows are given elements: what computes them, built anew for these elements alone.

use bytes::Bytes;
use half::{bf16, f16};
use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::layout::{Reshape, Slice, SliceAxis};
use std::collections::HashMap;

use super::{Element, Expression, LONGEST, RowElements, extents};
use crate::ir::{Constant, Graph, ValueRef};
use crate::passes::PassError;
use crate::passes::rewrite::emit;

/// What was built already, and equal columns of constants; stays valid as the graph changes.
#[derive(Default)]
pub struct Built {
    operators: HashMap<(String, Vec<ValueRef>), ValueRef>,
    numbers: HashMap<(DType, u64), ValueRef>,
    /// By where the data is that they are of, its extents and how many are in front of rows, and which columns.
    columns: HashMap<(usize, Vec<usize>, Vec<usize>), Columns>,
}

/// A constant of columns of another.
struct Columns {
    /// The other's data, so that it stays where it is.
    _of: Bytes,
    data: Bytes,
    value: ValueRef,
}

impl RowElements {
    /// A value whose rows are these elements, behind the axes `lead`; `None` where there is no simple one.
    ///
    /// # Errors
    /// An operator that cannot be.
    pub fn build(
        &self,
        graph: &mut Graph,
        built: &mut Built,
        name: &str,
        elements: &[Element],
        lead: &[Dim],
    ) -> Result<Option<ValueRef>, PassError> {
        let shape: Vec<Dim> = lead.iter().cloned().chain([Dim::from(elements.len())]).collect();
        let Some(value) = self.value(graph, built, name, elements)? else { return Ok(None) };
        // The extents in front count the same rows, however they are spelled, or this is no such value.
        if Dim::product(&shape) != graph.ty(value).elements() {
            return Ok(None);
        }
        built.reshaped(graph, name, value, shape).map(Some)
    }

    fn value(
        &self,
        graph: &mut Graph,
        built: &mut Built,
        name: &str,
        elements: &[Element],
    ) -> Result<Option<ValueRef>, PassError> {
        if let Some(&(value, _)) = self.values.get(elements) {
            return Ok(Some(value));
        }
        let Some(first) = elements.first() else { return Ok(None) };
        let expressions = || elements.iter().map(|e| self.expression(*e));
        match self.expression(*first) {
            Expression::Of { value, lead, index } => {
                let same = |e: &Expression| {
                    if let Expression::Of { value: v, lead: l, index } = e {
                        (v == value && l == lead).then_some(*index)
                    } else {
                        None
                    }
                };
                let Some(indices) = expressions().map(same).collect::<Option<Vec<usize>>>() else { return Ok(None) };
                let step = indices.get(1).map_or(1, |second| second.wrapping_sub(*index));
                let regular = step > 0 && step <= LONGEST && indices.windows(2).all(|pair| pair[0] + step == pair[1]);
                if !regular {
                    return Ok(None);
                }
                let front = graph.ty(*value).shape[..*lead].to_vec();
                let Some(row) = extents(&graph.ty(*value).shape[*lead..]) else { return Ok(None) };
                let whole = front.into_iter().chain([Dim::from(row.iter().product::<usize>())]).collect();
                let whole = built.reshaped(graph, name, *value, whole)?;
                let cut = SliceAxis { axis: *lead, start: (*index).into(), len: indices.len().into(), step: step as i64 };
                built.emit(graph, &format!("{name}.part"), Slice { axes: vec![cut] }, &[whole]).map(Some)
            }
            Expression::Column { value, lead, .. } => {
                let same = |e: &Expression| {
                    if let Expression::Column { value: v, lead: l, index } = e {
                        (v == value && l == lead).then_some(*index)
                    } else {
                        None
                    }
                };
                let Some(columns) = expressions().map(same).collect::<Option<Vec<usize>>>() else { return Ok(None) };
                Ok(built.columns(graph, *value, *lead, columns))
            }
            Expression::Number(..) => Ok(None),
            Expression::Apply { op, lead, of } => {
                let arguments = |i: usize| -> Option<Vec<Element>> {
                    let same = |e: &Expression| {
                        if let Expression::Apply { op: o, lead: l, of } = e {
                            (o == op && l == lead).then(|| of[i])
                        } else {
                            None
                        }
                    };
                    expressions().map(same).collect()
                };
                let mut operands = Vec::new();
                for i in 0..of.len() {
                    let Some(arguments) = arguments(i) else { return Ok(None) };
                    let Some(operand) = self.operand(graph, built, name, &arguments, lead)? else { return Ok(None) };
                    operands.push(operand);
                }
                let op = self.ops[*op].clone();
                let name = format!("{name}.{}", function(&op));
                built.emit(graph, &name, op, &operands).map(Some)
            }
            Expression::Rows { op, others, lead, .. } => {
                let same = |e: &Expression| match e {
                    Expression::Rows { op: o, others: v, lead: l, of } if o == op && v == others && l == lead => Some(*of),
                    _ => None,
                };
                let Some(of) = expressions().map(same).collect::<Option<Vec<Element>>>() else { return Ok(None) };
                let Some(operand) = self.build(graph, built, name, &of, lead)? else { return Ok(None) };
                let operands: Vec<ValueRef> = [operand].into_iter().chain(others.iter().copied()).collect();
                let op = self.ops[*op].clone();
                let name = format!("{name}.{}", function(&op));
                built.emit(graph, &name, op, &operands).map(Some)
            }
            Expression::Spread { .. } => Ok(None),
        }
    }

    /// An operand of a function of rows behind the axes `lead`: these elements, broadcast if they are.
    fn operand(
        &self,
        graph: &mut Graph,
        built: &mut Built,
        name: &str,
        elements: &[Element],
        lead: &[Dim],
    ) -> Result<Option<ValueRef>, PassError> {
        match self.expression(elements[0]) {
            Expression::Number(bits, dtype) if elements.iter().all(|e| e == &elements[0]) => {
                Ok(built.number(graph, name, f64::from_bits(*bits), *dtype))
            }
            Expression::Spread { .. } => match self.unspread(elements) {
                Some((lead, of)) => self.build(graph, built, name, &of, &lead),
                None => Ok(None),
            },
            _ => self.build(graph, built, name, elements, lead),
        }
    }
}

impl Built {
    /// Adds an operator, or gives the one that was added before.
    ///
    /// # Errors
    /// [`PassError::Infer`].
    pub fn emit(
        &mut self,
        graph: &mut Graph,
        name: &str,
        op: impl Into<Op>,
        operands: &[ValueRef],
    ) -> Result<ValueRef, PassError> {
        let op = op.into();
        let key = (format!("{op:?}"), operands.to_vec());
        if let Some(&known) = self.operators.get(&key)
            && graph.contains(known.node)
            && graph.producer(known) == Some(&op)
            && graph.operands(known.node).into_iter().flatten().eq(operands.iter().copied())
        {
            return Ok(known);
        }
        let value = emit(graph, name, op, operands)?;
        self.operators.insert(key, value);
        Ok(value)
    }

    /// A value under another shape of as many elements, or what it was made of where that has it.
    ///
    /// # Errors
    /// [`PassError::Infer`].
    pub fn reshaped(&mut self, graph: &mut Graph, name: &str, value: ValueRef, shape: Vec<Dim>) -> Result<ValueRef, PassError> {
        let mut value = value;
        while graph.ty(value).shape != shape {
            match (graph.producer(value), graph.operand(value.node, 0)) {
                (Some(Op::Reshape(_)), Some(before)) => value = before,
                _ => return self.emit(graph, &format!("{name}.shaped"), Reshape { shape }, &[value]),
            }
        }
        Ok(value)
    }

    /// A constant of these columns of another.
    fn columns(&mut self, graph: &mut Graph, of: ValueRef, lead: usize, columns: Vec<usize>) -> Option<ValueRef> {
        let constant = graph.constant(of)?.clone();
        let extents = constant.shape.iter().copied().chain([lead]).collect();
        let key = (constant.data.as_ptr() as usize, extents, columns);
        if let Some(known) = self.columns.get(&key)
            && graph.contains(known.value.node)
            && graph.constant(known.value).is_some_and(|c| c.data.as_ptr() == known.data.as_ptr())
        {
            return Some(known.value);
        }
        let (size, count) = (constant.dtype.size(), constant.shape[lead..].iter().product::<usize>());
        let mut data = Vec::with_capacity(constant.data.len() / count.max(1) * key.2.len());
        for row in constant.data.chunks_exact(count * size) {
            key.2.iter().for_each(|at| data.extend_from_slice(&row[at * size..][..size]));
        }
        let (data, name) = (Bytes::from(data), format!("{}.part", graph.output(of).name));
        let shape = constant.shape[..lead].iter().copied().chain([key.2.len()]).collect();
        let value = graph.add_constant(&name, Constant { dtype: constant.dtype, shape, data: data.clone() });
        self.columns.insert(key, Columns { _of: constant.data, data, value });
        Some(value)
    }

    /// A scalar.
    fn number(&mut self, graph: &mut Graph, name: &str, number: f64, dtype: DType) -> Option<ValueRef> {
        let data = match dtype {
            DType::F64 => number.to_le_bytes().to_vec(),
            DType::F32 => (number as f32).to_le_bytes().to_vec(),
            DType::F16 => f16::from_f64(number).to_le_bytes().to_vec(),
            DType::Bf16 => bf16::from_f64(number).to_le_bytes().to_vec(),
            _ => return None,
        };
        let constant = Constant { dtype, shape: Vec::new(), data: data.into() };
        if let Some(&known) = self.numbers.get(&(dtype, number.to_bits()))
            && graph.contains(known.node)
            && graph.constant(known) == Some(&constant)
        {
            return Some(known);
        }
        let value = graph.add_constant(&format!("{name}.number"), constant);
        self.numbers.insert((dtype, number.to_bits()), value);
        Some(value)
    }
}

/// An operator's name, in a value's.
fn function(op: &Op) -> String {
    match op {
        Op::Unary(f) => format!("{f:?}").to_lowercase(),
        Op::Binary(f) => format!("{f:?}").to_lowercase(),
        op => op.name().to_lowercase(),
    }
}
