//! Why a plan could not be made ready or run.

use crate::op::TensorType;
use crate::plan::PlanError;

/// See each message.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum SessionError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("this build of sliderun has no CUDA device support: use the device cpu")]
    NoCuda,
    #[error(
        "the plan was compiled for the CPU alone: compile it with --target sm_90a or whatever the GPU is (slidec compile --help)"
    )]
    NotForCuda,
    #[error(
        "the plan has no kernels for {device}, of compute capability {major}.{minor}, only for {available}: compile it with --target sm_{major}{minor}"
    )]
    NoModule { device: String, major: u32, minor: u32, available: String },
    #[error("the plan has no variant '{name}': its variants are {known}")]
    UnknownVariant { name: String, known: String },
    #[error("the rows by which a variant is chosen, {rows}: {reason}")]
    Rows { rows: String, reason: String },
    #[error("this is possible on a CUDA device only")]
    NotOnCuda,
    #[cfg(feature = "cuda")]
    #[error(transparent)]
    Cuda(#[from] crate::cuda::CudaError),
    #[error("a session needs at least one thread")]
    NoThreads,
    #[error("the threads cannot be started: {0}")]
    Threads(String),
    #[error("the plan has no input '{name}': its inputs are {known}")]
    UnknownInput { name: String, known: String },
    #[error("input '{name}' is missing: the plan's inputs are {known}")]
    MissingInput { name: String, known: String },
    #[error("input '{name}' is given twice: the plan's inputs are {known}")]
    DuplicateInput { name: String, known: String },
    #[error("{name}: {expected} expected, {given} given")]
    InputType { name: String, expected: TensorType, given: TensorType },
    #[error("{name}: {given} needs {expected} bytes, aligned to its element type; {actual} bytes were given")]
    InputData { name: String, given: TensorType, expected: usize, actual: usize },
    #[error("the plan has no output '{name}': its outputs are {known}")]
    UnknownOutput { name: String, known: String },
    #[error("output '{name}' is asked for twice: the plan's outputs are {known}")]
    DuplicateOutput { name: String, known: String },
    #[error("{name}: {pointer:#x} is no address in device memory of elements that are aligned to {alignment} bytes")]
    DeviceAddress { name: String, pointer: u64, alignment: usize },
    #[error("{name}: the axis {expression} must be {expected} here, {given} given")]
    InputExtent { name: String, expression: String, expected: i64, given: usize },
    #[error("{symbol} is {first} by input '{first_input}' but {second} by input '{second_input}'")]
    SymbolConflict { symbol: String, first: i64, first_input: String, second: i64, second_input: String },
    #[error(
        "{symbol} = {value} is outside {min}..{max}, for which this plan was compiled: recompile with --shape {symbol}={}..{}",
        min.min(value), max.max(value)
    )]
    SymbolRange { symbol: String, value: i64, min: i64, max: i64 },
    #[error("symbol '{symbol}' has no value: give it by --shape {symbol}={min}..{max} (one value of that range)")]
    SymbolMissing { symbol: String, min: i64, max: i64 },
    #[error("symbol '{0}' cannot be derived from the shapes of the inputs")]
    SymbolUnknown(String),
    #[error("value '{value}' ({ty}): {reason}")]
    Value { value: String, ty: TensorType, reason: String },
    #[error("step '{step}' ({op}): {reason}")]
    Step { step: String, op: &'static str, reason: String },
    #[error("a run on these shapes needs {bytes} bytes of working memory, which is {why}")]
    Memory { bytes: usize, why: &'static str },
}
