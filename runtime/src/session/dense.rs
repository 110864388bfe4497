//! The fast path of sparse products on the CPU: undo the lift when the session is created.
//!
//! QuantLift → SparseGemm becomes QuantLift without a lift → DenseGemm, with the weight written out. Both give the same integer
//! accumulators. Where K comes in another order, the weight written out is in the activation's own. A lifted activation that anything but such products reads (or that is an output) stays lifted, and so do its products.

use crate::cpu::undo_lift;
use crate::op::sparse::{DenseGemm, SparseGemm};
use crate::op::{InputTypes, Op, Semantics, TensorType};
use crate::plan::manifest::ValueId;
use crate::tensor::{Tensor, TensorError};

use super::SessionError;
use super::program::{Program, Source, Value, index, step_error};

/// Rewrites every activation whose readers allow it.
pub(super) fn undo_lifts(program: &mut Program) -> Result<(), SessionError> {
    let readers = readers(program);
    for lift in 0..program.steps.len() {
        let Op::QuantLift(op) = &program.steps[lift].op else { continue };
        if op.layout.is_dense() {
            continue;
        }
        let lifted = program.steps[lift].outputs[0];
        let Some(products) = products_of(program, lifted, &readers[index(lifted)]) else { continue };
        let twin = Op::from(op.dense_twin());
        let order = program.order(&program.steps[lift])?.map(<[i32]>::to_vec);
        program.steps[lift].inputs.truncate(1);
        let step = &program.steps[lift];
        let operands: Vec<Option<&TensorType>> = step.inputs.iter().map(|v| v.map(|v| &program.values[index(v)].ty)).collect();
        let types = twin.infer(InputTypes(&operands)).map_err(|e| step_error(step, e))?;
        for product in products {
            undo(program, product, lifted, order.as_deref())?;
        }
        program.steps[lift].op = twin;
        for (v, ty) in program.steps[lift].outputs.clone().into_iter().zip(types) {
            program.values[index(v)].ty = ty;
        }
    }
    Ok(())
}

/// For each value, the steps that read it or an alias of it; `None` for one that cannot change its shape because it is an output or has
/// aliases.
fn readers(program: &Program) -> Vec<Option<Vec<usize>>> {
    let mut readers = vec![Some(Vec::new()); program.values.len()];
    for (i, value) in program.values.iter().enumerate() {
        if value.root != i {
            readers[value.root] = None;
        }
    }
    for (_, v) in &program.outputs {
        readers[*v] = None;
    }
    for (at, step) in program.steps.iter().enumerate() {
        for v in step.inputs.iter().flatten() {
            if let Some(list) = &mut readers[index(*v)] {
                list.push(at);
            }
        }
    }
    readers
}

/// The steps that read `lifted`, when each is a sparse product of it with constants.
fn products_of(program: &Program, lifted: ValueId, readers: &Option<Vec<usize>>) -> Option<Vec<usize>> {
    let readers = readers.as_ref()?;
    let constant = |v: Option<ValueId>| v.is_some_and(|v| program.is_constant(index(v)));
    let fits = |&at: &usize| {
        let step = &program.steps[at];
        matches!(step.op, Op::SparseGemm(_))
            && matches!(step.inputs[..], [Some(x), values, positions] if x == lifted && constant(values) && constant(positions))
    };
    readers.iter().all(fits).then(|| readers.clone())
}

/// Makes one product dense.
fn undo(program: &mut Program, product: usize, lifted: ValueId, order: Option<&[i32]>) -> Result<(), SessionError> {
    let step = &program.steps[product];
    let (Op::SparseGemm(op), [_, Some(values), Some(positions)]) = (&step.op, &step.inputs[..]) else { return Ok(()) };
    let (to, weight) = (op.to, weight(program, product, op, [*values, *positions])?);
    let weight = match order {
        None => weight,
        Some(order) => in_place(&weight, order).map_err(|e| step_error(step, e))?,
    };
    let name = format!("{}.dense", program.values[index(*values)].name);
    let ty = TensorType::new(weight.dtype(), weight.shape().iter().copied());
    let root = program.values.len();
    let dense = ValueId(u32::try_from(root).map_err(|_| step_error(step, "the plan has too many values"))?);
    program.values.push(Value { name, ty, from_model: false, source: Source::Owned(weight), root });
    let step = &mut program.steps[product];
    step.op = DenseGemm { to }.into();
    step.inputs = vec![Some(lifted), Some(dense)];
    Ok(())
}

/// A weight [N, K] whose position k is channel `order[k]`, by channels.
fn in_place(weight: &Tensor, order: &[i32]) -> Result<Tensor, TensorError> {
    let size = weight.dtype().size();
    let mut data = vec![0; weight.bytes().len()];
    let rows = weight.bytes().chunks_exact(size * order.len()).zip(data.chunks_exact_mut(size * order.len()));
    for (from, to) in rows {
        for (element, &channel) in from.chunks_exact(size).zip(order) {
            to[channel as usize * size..][..size].copy_from_slice(element);
        }
    }
    Tensor::from_bytes(weight.dtype(), weight.shape(), &data)
}

fn weight(program: &Program, at: usize, op: &SparseGemm, operands: [ValueId; 2]) -> Result<Tensor, SessionError> {
    let step = &program.steps[at];
    let missing = || step_error(step, "its weight is not constant");
    let shapes = operands.map(|v| program.values[index(v)].ty.concrete_shape());
    let [Some(first), Some(second)] = &shapes else { return Err(missing()) };
    let values = program.constant(index(operands[0]), first)?.ok_or_else(missing)?;
    let positions = program.constant(index(operands[1]), second)?.ok_or_else(missing)?;
    undo_lift(op, values, positions).map_err(|e| step_error(step, e))
}
