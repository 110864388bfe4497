//! The semantic operators: what a step of a plan, and a node of the compiler's IR, computes.
//!
//! An operator is a plain value with typed attributes and nothing else; what it does to types is its [`Semantics`], what it
//! does to numbers is in `cpu/` (and `cuda/`). Operators mirror ONNX with everything version-dependent already resolved:
//! axes are non-negative, attributes that ONNX passes as tensors (axes, pads, slice bounds …) are attributes here, as
//! [`Dim`]s where they may depend on symbols. Every output an operator declares is always computed.
//!
//! Adding an operator: one line in [`for_each_op!`], its struct and `impl Semantics` in the file of its family here, its
//! `impl Kernel` in the file of the same name under `cpu/`, and its importer in the compiler's `import/`.
//!
//! Must not know: ONNX protobufs, graphs, devices.

use serde::{Deserialize, Serialize};

use crate::dim::Dim;
use crate::dtype::DType;

pub mod attention;
mod check;
pub mod conv;
pub mod elementwise;
pub mod gemm;
pub mod generate;
pub mod index;
pub mod layout;
pub mod norm;
pub mod quantize;
pub mod reduce;
pub mod resize;
pub mod rotary;
pub mod sparse;

/// Calls `$callback! { Variant(path::Type), … }` with the one table of operators.
macro_rules! for_each_op {
    ($callback:ident) => {
        $callback! {
            Unary(elementwise::Unary),
            Binary(elementwise::Binary),
            Where(elementwise::Where),
            Clip(elementwise::Clip),
            Cast(elementwise::Cast),
            Reduce(reduce::Reduce),
            ArgReduce(reduce::ArgReduce),
            Cumulative(reduce::Cumulative),
            TopK(reduce::TopK),
            Identity(layout::Identity),
            Reshape(layout::Reshape),
            Transpose(layout::Transpose),
            Expand(layout::Expand),
            Concat(layout::Concat),
            Split(layout::Split),
            Slice(layout::Slice),
            Pad(layout::Pad),
            Tile(layout::Tile),
            DepthToSpace(layout::DepthToSpace),
            SpaceToDepth(layout::SpaceToDepth),
            Trilu(layout::Trilu),
            ReverseSequence(layout::ReverseSequence),
            Gather(index::Gather),
            GatherElements(index::GatherElements),
            GatherNd(index::GatherNd),
            ScatterElements(index::ScatterElements),
            ScatterNd(index::ScatterNd),
            OneHot(index::OneHot),
            Extents(generate::Extents),
            Range(generate::Range),
            EyeLike(generate::EyeLike),
            Softmax(norm::Softmax),
            Hardmax(norm::Hardmax),
            LayerNorm(norm::LayerNorm),
            RmsNorm(norm::RmsNorm),
            BatchNorm(norm::BatchNorm),
            InstanceNorm(norm::InstanceNorm),
            GroupNorm(norm::GroupNorm),
            LpNorm(norm::LpNorm),
            Lrn(norm::Lrn),
            MatMul(gemm::MatMul),
            Gemm(gemm::Gemm),
            Einsum(gemm::Einsum),
            MatMulInteger(gemm::MatMulInteger),
            Rotary(rotary::Rotary),
            Attention(attention::Attention),
            Conv(conv::Conv),
            Pool(conv::Pool),
            Resize(resize::Resize),
            QuantizeLinear(quantize::QuantizeLinear),
            DequantizeLinear(quantize::DequantizeLinear),
            DynamicQuantizeLinear(quantize::DynamicQuantizeLinear),
            QuantLift(sparse::QuantLift),
            SparseGemm(sparse::SparseGemm),
            DenseGemm(sparse::DenseGemm),
            Dequant(sparse::Dequant),
        }
    };
}
pub(crate) use for_each_op;

/// Element type and extents of a value.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TensorType {
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub shape: Vec<Dim>,
}

impl TensorType {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: impl IntoIterator<Item = impl Into<Dim>>) -> Self {
        TensorType { dtype, shape: shape.into_iter().map(Into::into).collect() }
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Number of elements.
    pub fn elements(&self) -> Dim {
        Dim::product(&self.shape)
    }

    /// The extents, when none is symbolic.
    pub fn concrete_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(Dim::as_usize).collect()
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            write!(f, "{}{d}", if i > 0 { ", " } else { "" })?;
        }
        f.write_str("]")
    }
}

impl std::fmt::Debug for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

/// Why an operator cannot have inputs of the given types.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum InferError {
    #[error("input {0} is missing")]
    MissingInput(usize),
    #[error("{actual} inputs given, at most {most} expected")]
    TooManyInputs { actual: usize, most: usize },
    #[error("input {input} is {actual}, which is not supported here ({expected} expected)")]
    DType { input: usize, actual: DType, expected: &'static str },
    #[error("{0}")]
    Shape(String),
    #[error("attribute {name}: {reason}")]
    Attribute { name: &'static str, reason: String },
}

/// The types of an operator's inputs; an optional input that is absent is `None`.
#[derive(Clone, Copy)]
pub struct InputTypes<'a>(pub &'a [Option<&'a TensorType>]);

impl<'a> InputTypes<'a> {
    /// Input `i`, when present.
    pub fn optional(&self, i: usize) -> Option<&'a TensorType> {
        self.0.get(i).copied().flatten()
    }

    /// Input `i`.
    ///
    /// # Errors
    /// [`InferError::MissingInput`].
    pub fn required(&self, i: usize) -> Result<&'a TensorType, InferError> {
        self.optional(i).ok_or(InferError::MissingInput(i))
    }

    /// Checks that there are no inputs beyond the first `most`.
    ///
    /// # Errors
    /// [`InferError::TooManyInputs`].
    pub fn at_most(&self, most: usize) -> Result<(), InferError> {
        if self.0.len() > most {
            return Err(InferError::TooManyInputs { actual: self.0.len(), most });
        }
        Ok(())
    }

    /// All inputs of an operator that takes any number of them, none absent.
    ///
    /// # Errors
    /// [`InferError::MissingInput`], also when there is no input at all.
    pub fn variadic(&self) -> Result<Vec<&'a TensorType>, InferError> {
        if self.0.is_empty() {
            return Err(InferError::MissingInput(0));
        }
        (0..self.0.len()).map(|i| self.required(i)).collect()
    }
}

/// What an operator does to types. Works alike on symbolic and on concrete extents: the compiler's verifier runs it on the
/// former, the runtime on the latter before it runs a step, so that no kernel sees shapes that do not fit.
pub trait Semantics {
    /// Types of the outputs, from the types of the inputs.
    ///
    /// # Errors
    /// Inputs that the operator cannot have: their number, element types or extents.
    fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError>;

    /// Replaces every extent among the attributes. Operators without extents leave this alone.
    fn map_dims(&mut self, _map: &mut dyn FnMut(&Dim) -> Dim) {}
}

macro_rules! declare_op {
    ($($variant:ident($family:ident::$ty:ident)),* $(,)?) => {
        /// A semantic operator; see the module documentation and each payload's own.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[allow(missing_docs)]
        pub enum Op {
            $($variant($family::$ty),)*
        }

        impl Op {
            /// The operator's name, without its attributes.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Op::$variant(_) => stringify!($variant),)*
                }
            }
        }

        impl Semantics for Op {
            fn infer(&self, inputs: InputTypes<'_>) -> Result<Vec<TensorType>, InferError> {
                match self {
                    $(Op::$variant(op) => op.infer(inputs),)*
                }
            }

            fn map_dims(&mut self, map: &mut dyn FnMut(&Dim) -> Dim) {
                match self {
                    $(Op::$variant(op) => op.map_dims(map),)*
                }
            }
        }

        $(impl From<$family::$ty> for Op {
            fn from(op: $family::$ty) -> Op {
                Op::$variant(op)
            }
        })*
    };
}
for_each_op!(declare_op);

impl Op {
    /// Whether every element of the results is one of the first operand's (of a Concat, of any's), unchanged.
    pub fn moves_elements(&self) -> bool {
        matches!(
            self,
            Op::Reshape(_)
                | Op::Transpose(_)
                | Op::Expand(_)
                | Op::Slice(_)
                | Op::Concat(_)
                | Op::Split(_)
                | Op::Tile(_)
                | Op::Gather(_)
                | Op::GatherElements(_)
                | Op::GatherNd(_)
        )
    }
}

/// Whether two extents can be equal: only constants that differ cannot. Concrete extents settle the rest at run time.
pub(crate) fn may_equal(a: &Dim, b: &Dim) -> bool {
    !matches!((a.as_const(), b.as_const()), (Some(a), Some(b)) if a != b)
}

/// The common shape of operands broadcast as in NumPy.
///
/// # Errors
/// Extents that are known and differ, neither being 1.
pub fn broadcast(shapes: &[&[Dim]]) -> Result<Vec<Dim>, InferError> {
    let rank = shapes.iter().map(|s| s.len()).max().unwrap_or(0);
    let mut out = vec![Dim::from(1); rank];
    for shape in shapes {
        for (i, d) in shape.iter().rev().enumerate() {
            let o = &mut out[rank - 1 - i];
            if let (Some(a), Some(b)) = (o.as_const(), d.as_const())
                && a != b
                && a != 1
                && b != 1
            {
                return Err(InferError::Shape(format!("shapes {shapes:?} do not broadcast")));
            }
            *o = Dim::op(crate::dim::DimOp::Broadcast, o, d);
        }
    }
    Ok(out)
}
