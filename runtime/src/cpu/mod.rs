//! The CPU device: one [`Kernel`] per semantic operator.
//!
//! Kernels are called with operands whose types have been checked by [`crate::op::Semantics::infer`] on concrete extents, so they need not check
//! shapes again; what they find wrong in *data* (an index out of range, an integer divided by zero) is a [`KernelError`]. They
//! write every element of every output and use the current rayon pool.
//!
//! Must not know: plans, sessions, files.

use crate::dtype::DType;
use crate::op::{InferError, InputTypes, Op, Semantics, TensorType, for_each_op};
use crate::tensor::{Tensor, TensorError, TensorView, TensorViewMut};

mod attention;
mod axis_map;
mod broadcast;
mod conv;
mod convert;
mod dispatch;
mod elementwise;
mod erf;
mod gate;
mod gemm;
mod generate;
mod index;
mod layout;
mod norm;
mod parallel;
mod pool;
mod promote;
mod quantize;
mod reduce;
mod resize;
mod rotary;
mod scatter;
mod softmax;
mod sparse;
mod strided;
mod windows;

#[cfg(feature = "cuda")]
pub(crate) use gemm::matrix::batched_matmul;
pub use sparse::undo_lift;

/// Why a kernel gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum KernelError {
    #[error("{0} is not implemented for {1} on the CPU")]
    UnsupportedType(&'static str, DType),
    #[error("index {index} is out of range for an axis of {extent}")]
    IndexOutOfRange { index: i64, extent: usize },
    #[error("{0}")]
    Data(String),
}

/// What a kernel made of its constant operands when the session was created: right-hand matrices packed for this machine. Sessions of
/// one plan can share it.
pub enum Prepared {
    /// For a product in f32.
    F32(gemm::float::PackedF32),
    /// For an exact 8-bit product.
    I8(gemm::int8::PackedI8),
}

/// What a kernel gets beside its operands.
#[derive(Clone, Copy, Default)]
pub struct Context<'a> {
    /// What [`Kernel::prepare`] made for this step.
    pub prepared: Option<&'a Prepared>,
}

/// An operator on the CPU.
pub trait Kernel {
    /// Called once per step of a session, with the operands that are constant (the others are `None`).
    ///
    /// # Errors
    /// Constant data that the operator cannot have.
    fn prepare(&self, _constants: &[Option<TensorView<'_>>]) -> Result<Option<Prepared>, KernelError> {
        Ok(None)
    }

    /// Computes the outputs. Operands that `prepare` consumed are still given.
    ///
    /// # Errors
    /// See [`KernelError`].
    fn run(
        &self,
        context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError>;
}

macro_rules! declare_kernels {
    ($($variant:ident($family:ident::$ty:ident)),* $(,)?) => {
        impl Kernel for Op {
            fn prepare(&self, constants: &[Option<TensorView<'_>>]) -> Result<Option<Prepared>, KernelError> {
                match self {
                    $(Op::$variant(op) => op.prepare(constants),)*
                }
            }

            fn run(&self, context: Context<'_>, inputs: &[Option<TensorView<'_>>], outputs: &mut [TensorViewMut<'_>]) -> Result<(), KernelError> {
                match self {
                    $(Op::$variant(op) => op.run(context, inputs, outputs),)*
                }
            }
        }
    };
}
for_each_op!(declare_kernels);

/// Why an operator could not be evaluated on given tensors.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EvalError {
    #[error(transparent)]
    Infer(#[from] InferError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error("the result's extents are not known: {0}")]
    Symbolic(TensorType),
}

/// Evaluates one operator outside any plan: constant folding, tests.
///
/// # Errors
/// Inputs that the operator cannot have, or data that its kernel refuses.
pub fn eval(op: &Op, inputs: &[Option<TensorView<'_>>]) -> Result<Vec<Tensor>, EvalError> {
    let types: Vec<Option<TensorType>> =
        inputs.iter().map(|v| v.map(|v| TensorType::new(v.dtype, v.shape.iter().copied()))).collect();
    let types: Vec<Option<&TensorType>> = types.iter().map(Option::as_ref).collect();
    let mut outputs = Vec::new();
    for ty in op.infer(InputTypes(&types))? {
        let shape = ty.concrete_shape().ok_or_else(|| EvalError::Symbolic(ty.clone()))?;
        outputs.push(Tensor::zeros(ty.dtype, &shape)?);
    }
    let mut views: Vec<TensorViewMut<'_>> = outputs.iter_mut().map(Tensor::view_mut).collect();
    op.run(Context::default(), inputs, &mut views)?;
    Ok(outputs)
}
