//! A program on concrete extents: shapes of all values, operators without symbols, the arena's layout. Made once per shape and kept.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use super::program::{Program, Source, index, step_error};
use super::{Cpu, SessionError, inputs};
use crate::dim::{Bindings, Dim};
use crate::op::{InputTypes, Op, Semantics, TensorType};
use crate::plan::arena::{self, Layout, Lifetime};

/// Most shapes that a session keeps ready.
const MAX_BOUND: usize = 32;

/// See the module documentation.
pub(super) struct Bound {
    /// Extents of each value.
    pub shapes: Vec<Vec<usize>>,
    /// Operator of each step.
    pub ops: Vec<Op>,
    /// Where each value lies in the arena; empty for those that are elsewhere.
    pub ranges: Vec<Range<usize>>,
    pub layout: Layout,
}

/// The shapes that are ready, the one used last at the end.
#[derive(Default)]
pub(super) struct BoundCache(Vec<(Vec<Vec<usize>>, Arc<Bound>)>);

impl BoundCache {
    fn get(&mut self, shapes: &[&[usize]]) -> Option<Arc<Bound>> {
        let at = self.0.iter().rposition(|(key, _)| key.iter().map(Vec::as_slice).eq(shapes.iter().copied()))?;
        let entry = self.0.remove(at);
        let bound = entry.1.clone();
        self.0.push(entry);
        Some(bound)
    }

    fn insert(&mut self, shapes: &[&[usize]], bound: Arc<Bound>) {
        if self.get(shapes).is_some() {
            // Another run with the same shapes was faster.
            return;
        }
        if self.0.len() == MAX_BOUND {
            self.0.remove(0);
        }
        self.0.push((shapes.iter().map(|s| s.to_vec()).collect(), bound));
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl Cpu {
    /// The program on these input shapes, whose ranks fit.
    pub(super) fn bind(&self, shapes: &[&[usize]]) -> Result<Arc<Bound>, SessionError> {
        let cache = &self.bound;
        if let Some(bound) = cache.lock().unwrap_or_else(PoisonError::into_inner).get(shapes) {
            return Ok(bound);
        }
        let symbols = inputs::unify(&self.inputs, shapes, &self.program.plan.manifest().symbols)?;
        let bound = Arc::new(Bound::new(&self.program, &symbols)?);
        if self.memory_limit.is_some_and(|limit| bound.layout.total > limit) {
            return Err(SessionError::Memory { bytes: bound.layout.total, why: "over the limit of this session" });
        }
        cache.lock().unwrap_or_else(PoisonError::into_inner).insert(shapes, bound.clone());
        Ok(bound)
    }
}

impl Bound {
    fn new(program: &Program, symbols: &Bindings) -> Result<Bound, SessionError> {
        let (shapes, ops) = concrete(program, symbols)?;
        let bytes = |v: usize| shapes[v].iter().product::<usize>() * program.values[v].ty.dtype.size();
        let buffers = lifetimes(program, bytes);
        let lifetimes: Vec<Lifetime> = buffers.values().copied().collect();
        let layout =
            arena::plan(&lifetimes).ok_or(SessionError::Memory { bytes: usize::MAX, why: "more than can be addressed" })?;
        let offsets: BTreeMap<usize, usize> = buffers.keys().copied().zip(layout.offsets.iter().copied()).collect();
        let range = |v: usize| match offsets.get(&program.values[v].root) {
            Some(&offset) => offset..offset + bytes(v),
            None => 0..0,
        };
        let ranges = (0..program.values.len()).map(range).collect();
        Ok(Bound { shapes, ops, ranges, layout })
    }
}

/// Extents of every value, and the steps' operators without symbols, checked against the types of their operands.
pub(super) fn concrete(program: &Program, symbols: &Bindings) -> Result<(Vec<Vec<usize>>, Vec<Op>), SessionError> {
    let shapes = concrete_shapes(program, symbols)?;
    let types: Vec<TensorType> =
        program.values.iter().zip(&shapes).map(|(value, shape)| TensorType::new(value.ty.dtype, shape.iter().copied())).collect();
    let ops = check_steps(program, symbols, &types)?;
    Ok((shapes, ops))
}

/// Extents of every value. The bytes that each needs fit in an `isize`, even with its empty axes left out.
fn concrete_shapes(program: &Program, symbols: &Bindings) -> Result<Vec<Vec<usize>>, SessionError> {
    let mut shapes: Vec<Vec<usize>> = Vec::with_capacity(program.values.len());
    for value in &program.values {
        let fail = |reason: String| SessionError::Value { value: value.name.clone(), ty: value.ty.clone(), reason };
        let extent = |d: &Dim| d.eval_usize(symbols).map_err(|e| fail(e.to_string()));
        let shape = value.ty.shape.iter().map(extent).collect::<Result<Vec<_>, _>>()?;
        let bytes = shape.iter().try_fold(value.ty.dtype.size(), |n, &d| n.checked_mul(d.max(1)));
        if bytes.is_none_or(|n| isize::try_from(n).is_err()) {
            return Err(fail(format!("a tensor of shape {shape:?} does not fit in memory")));
        }
        if let Source::Alias = value.source {
            let of = &shapes[value.root];
            if of.iter().product::<usize>() != shape.iter().product::<usize>() {
                let name = &program.values[value.root].name;
                return Err(fail(format!(
                    "it is an alias of '{name}', but {shape:?} and {of:?} differ in their number of elements"
                )));
            }
        }
        shapes.push(shape);
    }
    Ok(shapes)
}

/// The steps' operators without symbols, checked against the types of their operands.
fn check_steps(program: &Program, symbols: &Bindings, types: &[TensorType]) -> Result<Vec<Op>, SessionError> {
    let mut ops = Vec::with_capacity(program.steps.len());
    for step in &program.steps {
        let mut op = step.op.clone();
        let mut failed = None;
        op.map_dims(&mut |d| match d.eval(symbols) {
            Ok(v) => v.into(),
            Err(e) => {
                failed.get_or_insert(e);
                Dim::from(0)
            }
        });
        if let Some(e) = failed {
            return Err(step_error(step, e));
        }
        let operands: Vec<Option<&TensorType>> = step.inputs.iter().map(|v| v.map(|v| &types[index(v)])).collect();
        let results = op.infer(InputTypes(&operands)).map_err(|e| step_error(step, e))?;
        if !results.iter().eq(step.outputs.iter().map(|v| &types[index(*v)])) {
            let declared: Vec<_> = step.outputs.iter().map(|v| &types[index(*v)]).collect();
            return Err(step_error(step, format!("it gives {results:?}, the plan says {declared:?}")));
        }
        ops.push(op);
    }
    Ok(ops)
}

/// When each value in the arena is written and last read, by value. Graph outputs live to the end.
fn lifetimes(program: &Program, bytes: impl Fn(usize) -> usize) -> BTreeMap<usize, Lifetime> {
    let mut buffers = BTreeMap::new();
    for (i, value) in program.values.iter().enumerate() {
        if let Source::Computed(step) = value.source {
            buffers.insert(i, Lifetime { bytes: bytes(i), first: step, last: step });
        }
    }
    let mut read = |value: usize, at: usize| {
        if let Some(buffer) = buffers.get_mut(&program.values[value].root) {
            buffer.last = buffer.last.max(at);
        }
    };
    for (at, step) in program.steps.iter().enumerate() {
        step.inputs.iter().flatten().for_each(|v| read(index(*v), at));
    }
    program.outputs.iter().for_each(|(_, v)| read(*v, program.steps.len()));
    buffers
}
