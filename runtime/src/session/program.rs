//! A plan as a session runs it: references resolved, sparse products in the form that was asked for, constants packed.

use std::sync::Arc;

use super::{Port, SessionError, SessionOptions, SparseForm, dense};
use crate::cpu::{Kernel, Prepared};
use crate::dtype::DType;
use crate::op::{InputTypes, Op, Semantics, TensorType};
use crate::plan::cuda::CudaPlan;
use crate::plan::manifest::{self, BlobId, Expanded, Step, Storage, ValueId};
use crate::plan::{Plan, PlanError};
use crate::sparse::check_order;
use crate::sparse::compressed::Compressed;
use crate::tensor::{Tensor, TensorView};

/// Where the data of a value, or of the value that it is an alias of, comes from.
pub(super) enum Source {
    /// This position among the inputs.
    Input(usize),
    Blob(BlobId),
    /// A weight to be written out from these blobs.
    Expanded(Expanded),
    /// Made when the session was created.
    Owned(Tensor),
    /// Written by this step, in the arena.
    Computed(usize),
    /// Same as another value.
    Alias,
}

pub(super) struct Value {
    pub name: String,
    pub ty: TensorType,
    pub from_model: bool,
    pub source: Source,
    /// The value that holds the data: itself unless it is an alias.
    pub root: usize,
}

pub(super) struct Program {
    pub plan: Arc<Plan>,
    pub values: Vec<Value>,
    pub steps: Vec<Step>,
    /// What the kernels made of the constant operands, by step.
    pub prepared: Vec<Option<Prepared>>,
    pub inputs: Vec<usize>,
    pub outputs: Vec<(String, usize)>,
    /// For each step, the values that it brings: its outputs and their aliases.
    pub brings: Vec<Vec<usize>>,
}

pub(super) fn index(id: ValueId) -> usize {
    id.0 as usize
}

pub(super) fn step_error(step: &Step, reason: impl ToString) -> SessionError {
    SessionError::Step { step: step.name.clone(), op: step.op.name(), reason: reason.to_string() }
}

/// The position of the variant that is asked for by name, if one is.
///
/// # Errors
/// A name that no variant has.
pub(super) fn named_variant(cuda: &CudaPlan, name: Option<&str>) -> Result<Option<usize>, SessionError> {
    let Some(name) = name else { return Ok(None) };
    let known = || cuda.variants.iter().map(|v| v.name.as_str()).collect::<Vec<_>>().join(", ");
    cuda.position(name).map(Some).ok_or_else(|| SessionError::UnknownVariant { name: name.to_owned(), known: known() })
}

impl Program {
    /// The program that runs on the CPU.
    pub fn new(plan: Arc<Plan>, options: &SessionOptions) -> Result<Program, SessionError> {
        let manifest = plan.manifest();
        let read = if options.cuda_program {
            let cuda = manifest.cuda.as_ref().ok_or(SessionError::NotForCuda)?;
            &cuda.variants[named_variant(cuda, options.variant.as_deref())?.unwrap_or(0)].program
        } else {
            &manifest.program
        };
        let mut program = Program::read(&plan, read);
        program.find_what_steps_bring();
        program.check_types()?;
        program.check_orders()?;
        program.expand_weights()?;
        if options.sparse_form == SparseForm::Dense {
            dense::undo_lifts(&mut program)?;
            program.check_types()?;
        }
        program.prepare()?;
        Ok(program)
    }

    /// The plan's program for CUDA devices, with its steps checked against their operands.
    #[cfg(feature = "cuda")]
    pub fn for_cuda(plan: &Arc<Plan>, read: &manifest::Program) -> Result<Program, SessionError> {
        let mut program = Program::read(plan, read);
        program.find_what_steps_bring();
        program.check_types()?;
        program.check_orders()?;
        Ok(program)
    }

    fn read(plan: &Arc<Plan>, read: &manifest::Program) -> Program {
        let mut values: Vec<Value> = Vec::with_capacity(read.values.len());
        for (i, v) in read.values.iter().enumerate() {
            let (source, root) = match v.storage {
                Storage::Constant(blob) => (Source::Blob(blob), i),
                Storage::Expanded(expanded) => (Source::Expanded(expanded), i),
                // Aliases point backwards.
                Storage::Alias(of) => (Source::Alias, values[index(of)].root),
                // The positions are filled in below.
                Storage::Input => (Source::Input(0), i),
                Storage::Computed => (Source::Computed(0), i),
            };
            values.push(Value { name: v.name.clone(), ty: v.ty.clone(), from_model: v.from_model, source, root });
        }
        let inputs: Vec<usize> = read.inputs.iter().copied().map(index).collect();
        for (position, &v) in inputs.iter().enumerate() {
            values[v].source = Source::Input(position);
        }
        for (position, step) in read.steps.iter().enumerate() {
            for &v in &step.outputs {
                values[index(v)].source = Source::Computed(position);
            }
        }
        let outputs = read.outputs.iter().map(|o| (o.name.clone(), index(o.value))).collect();
        let steps = read.steps.clone();
        Program { values, steps, prepared: Vec::new(), inputs, outputs, brings: Vec::new(), plan: plan.clone() }
    }

    fn find_what_steps_bring(&mut self) {
        self.brings = vec![Vec::new(); self.steps.len()];
        for (i, value) in self.values.iter().enumerate() {
            if let Source::Computed(step) = self.values[value.root].source {
                self.brings[step].push(i);
            }
        }
    }

    /// Checks each step against the declared types of its operands before any kernel sees its constants. Extents that symbols leave open
    /// are checked again when they are bound.
    fn check_types(&self) -> Result<(), SessionError> {
        for step in &self.steps {
            let operands: Vec<Option<&TensorType>> = step.inputs.iter().map(|v| v.map(|v| &self.values[index(v)].ty)).collect();
            let results = step.op.infer(InputTypes(&operands)).map_err(|e| step_error(step, e))?;
            let fits = |(v, ty): (&ValueId, &TensorType)| {
                let declared = &self.values[index(*v)].ty;
                declared.dtype == ty.dtype && declared.rank() == ty.rank()
            };
            if results.len() != step.outputs.len() || !step.outputs.iter().zip(&results).all(fits) {
                let declared: Vec<_> = step.outputs.iter().map(|v| &self.values[index(*v)].ty).collect();
                return Err(step_error(step, format!("it gives {results:?}, the plan says {declared:?}")));
            }
        }
        Ok(())
    }

    /// Checks the order of K of every activation that has one.
    fn check_orders(&self) -> Result<(), SessionError> {
        self.steps.iter().try_for_each(|step| self.order(step).map(|_| ()))
    }

    /// The order of K in which a step quantizes and lifts an activation, if it has one.
    ///
    /// # Errors
    /// One that is not constant, or does not name each channel once.
    pub fn order<'a>(&'a self, step: &Step) -> Result<Option<&'a [i32]>, SessionError> {
        let (Op::QuantLift(op), Some(Some(order))) = (&step.op, step.inputs.get(1)) else { return Ok(None) };
        let view = self.constant(index(*order), &[])?;
        let order = view.and_then(|view| bytemuck::try_cast_slice::<u8, i32>(view.data).ok());
        let order = order.ok_or_else(|| step_error(step, "the order of K is not constant"))?;
        check_order(order).map_err(|e| step_error(step, e))?;
        if order.len() != op.layout.k() {
            return Err(step_error(step, format!("the order of K has {} channels, K is {}", order.len(), op.layout.k())));
        }
        Ok(Some(order))
    }

    fn prepare(&mut self) -> Result<(), SessionError> {
        let mut prepared = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let shapes: Vec<Option<Vec<usize>>> =
                step.inputs.iter().map(|v| v.and_then(|v| self.values[index(v)].ty.concrete_shape())).collect();
            let mut constants = Vec::with_capacity(step.inputs.len());
            for (v, shape) in step.inputs.iter().zip(&shapes) {
                constants.push(match (v, shape) {
                    (Some(v), Some(shape)) => self.constant(index(*v), shape)?,
                    _ => None,
                });
            }
            prepared.push(step.op.prepare(&constants).map_err(|e| step_error(step, e))?);
        }
        self.prepared = prepared;
        Ok(())
    }

    /// Writes out every weight that blobs hold in compressed form.
    fn expand_weights(&mut self) -> Result<(), SessionError> {
        for at in 0..self.values.len() {
            if let Source::Expanded(expanded) = self.values[at].source {
                self.values[at].source = Source::Owned(self.expanded(at, &expanded)?);
            }
        }
        Ok(())
    }

    /// The dense weight [N, K] that blobs hold in compressed form.
    ///
    /// # Errors
    /// Blobs that no compressed weight has, and a weight that does not fit in memory.
    pub fn expanded(&self, value: usize, expanded: &Expanded) -> Result<Tensor, SessionError> {
        let Value { name, ty, .. } = &self.values[value];
        let fail = |reason: String| SessionError::Value { value: name.clone(), ty: ty.clone(), reason };
        let shapes = ty.concrete_shape().and_then(|shape| expanded.shapes(&shape));
        let (layout, values, positions) = shapes.ok_or_else(|| fail("it is no weight".into()))?;
        let values = TensorView { dtype: ty.dtype, shape: &values, data: self.plan.blob(expanded.values)? };
        let positions = TensorView { dtype: DType::U8, shape: &positions, data: self.plan.blob(expanded.positions)? };
        Compressed::new(&layout, values, positions).and_then(|c| c.undo_lift()).map_err(|e| fail(e.to_string()))
    }

    /// A constant value under a shape, or `None` for a value that is not constant.
    pub fn constant<'a>(&'a self, value: usize, shape: &'a [usize]) -> Result<Option<TensorView<'a>>, PlanError> {
        let data = match &self.values[self.values[value].root].source {
            Source::Blob(id) => self.plan.blob(*id)?,
            Source::Owned(tensor) => tensor.bytes(),
            Source::Expanded(_) | Source::Input(_) | Source::Computed(_) | Source::Alias => return Ok(None),
        };
        Ok(Some(TensorView { dtype: self.values[value].ty.dtype, shape, data }))
    }

    pub fn is_constant(&self, value: usize) -> bool {
        matches!(self.values[self.values[value].root].source, Source::Blob(_) | Source::Owned(_))
    }

    pub fn port(&self, value: usize) -> Port {
        Port { name: self.values[value].name.clone(), ty: self.values[value].ty.clone() }
    }
}
