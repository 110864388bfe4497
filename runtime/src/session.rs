//! Running a plan: [`Session::new`] once, then [`Session::run`] any number of times, from any number of threads.
//!
//! Must not know: ONNX, how plans are made.

mod bind;
#[cfg(feature = "cuda")]
mod cuda;
mod dense;
mod device;
mod error;
mod execute;
mod inputs;
#[cfg(feature = "cuda")]
mod on_cuda;
mod options;
mod outputs;
mod program;

use std::sync::{Arc, Mutex};
use std::time::Duration;

#[cfg(feature = "cuda")]
pub use cuda::{
    Because, CacheFolder, CallerStream, CudaOptions, CudaReport, DeviceTensor, LaunchTime, LaunchTimes, LaunchWork, PendingRun,
    ProductChoice, Rivals, TimingsFile, Tuning, UnknownTuning, VariantChoice, VariantMemory, WeightCounts, variant_memory,
};
pub use device::{Device, UnknownDevice};
pub use error::SessionError;

use crate::dim::Bindings;
use crate::op::{Op, TensorType};
use crate::plan::Plan;
use crate::plan::manifest::SymbolRange;
use crate::tensor::{Tensor, TensorView};
use bind::BoundCache;
use execute::ArenaPool;
use program::Program;

/// How sparse products run on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SparseForm {
    /// From the compressed weight as it is in the plan: slow, the reference.
    Compressed,
    /// The fast path: the lift is undone when the session is created, and dense kernels run on the packed weights. Integer accumulators are
    /// equal to those of [`SparseForm::Compressed`].
    #[default]
    Dense,
}

/// How a session runs: `SessionOptions::default()`, and what is to be otherwise.
///
/// ```
/// # use sliderun::session::SessionOptions;
/// let options = SessionOptions::default().with_threads(2).with_memory_limit(256 << 20);
/// assert_eq!(options.threads, Some(2));
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SessionOptions {
    /// Threads that one run uses; as many as there are processors when `None`.
    pub threads: Option<usize>,
    /// How sparse products run on the CPU.
    pub sparse_form: SparseForm,
    /// On the CPU, run the plan's program for CUDA devices instead of its own: the reference for what a GPU computes.
    pub cuda_program: bool,
    /// The variant of the plan's CUDA program that runs, whatever the shape; the one that suits a shape best when `None`, on the CPU the first.
    pub variant: Option<String>,
    /// Most bytes of working memory that one run may take; no limit when `None`. Set it for plans from strangers.
    pub memory_limit: Option<usize>,
    /// What it may do on a GPU.
    #[cfg(feature = "cuda")]
    pub cuda: CudaOptions,
}

/// Name and type of an input or output. Displays as `input_ids: i64[batch, seq]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The model's name for it.
    pub name: String,
    /// Element type and extents, which may mention the plan's symbols.
    pub ty: TensorType,
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.name, self.ty)
    }
}

/// A value that a step has computed.
#[derive(Clone, Copy, Debug)]
pub struct TracedValue<'a> {
    /// Its name in the plan.
    pub name: &'a str,
    /// Whether it stands for the model's tensor of that name.
    pub from_model: bool,
    /// Its data.
    pub view: TensorView<'a>,
}

/// What [`Session::run_traced`] tells of a step that has run.
#[derive(Clone, Copy, Debug)]
pub struct StepTrace<'a> {
    /// Position in the schedule.
    pub index: usize,
    /// The step's name.
    pub name: &'a str,
    /// What was computed, with concrete extents.
    pub op: &'a Op,
    /// Names of the model's nodes that went into it.
    pub origin: &'a [String],
    /// How long it took.
    pub duration: Duration,
    /// Its outputs, and the values that are the same elements under another name or shape.
    pub values: &'a [TracedValue<'a>],
}

/// Working memory of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaSize {
    /// Bytes of the arena.
    pub bytes: usize,
    /// The most bytes that live at one step: no layout can need less.
    pub lower_bound: usize,
}

/// A plan made ready for a device. Clones share everything. Runs may overlap on the CPU; on a GPU those of one session follow each other on
/// its stream, and sessions that [share](Session::share) their weights run side by side.
#[derive(Clone)]
pub struct Session {
    backend: Backend,
}

#[derive(Clone)]
enum Backend {
    Cpu(Arc<Cpu>),
    #[cfg(feature = "cuda")]
    Cuda(Arc<cuda::Runner>),
}

struct Cpu {
    program: Program,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    memory_limit: Option<usize>,
    threads: rayon::ThreadPool,
    bound: Mutex<BoundCache>,
    arenas: ArenaPool,
}

const _: () = {
    const fn shareable<T: Send + Sync>() {}
    shareable::<Session>();
    #[cfg(feature = "cuda")]
    shareable::<PendingRun>();
};

impl Session {
    /// Makes a plan ready: checks its steps and constants, undoes the lift where asked, packs weights.
    ///
    /// # Errors
    /// A device that is not there, damaged blobs, steps that do not fit their operands.
    pub fn new(plan: Arc<Plan>, device: Device, options: SessionOptions) -> Result<Session, SessionError> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(ordinal) = device {
            let runner = cuda::Runner::load(plan, ordinal, &options)?;
            return Ok(Session { backend: Backend::Cuda(Arc::new(runner)) });
        }
        #[cfg(not(feature = "cuda"))]
        if let Device::Cuda(_) = device {
            return Err(SessionError::NoCuda);
        }
        let threads = match options.threads {
            Some(0) => return Err(SessionError::NoThreads),
            Some(n) => n,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("sliderun-{i}"))
            .build()
            .map_err(|e| SessionError::Threads(e.to_string()))?;
        let program = threads.install(|| Program::new(plan, &options))?;
        let inputs = program.inputs.iter().map(|&v| program.port(v)).collect();
        let outputs =
            program.outputs.iter().map(|(name, v)| Port { name: name.clone(), ty: program.values[*v].ty.clone() }).collect();
        let cpu = Cpu {
            program,
            inputs,
            outputs,
            memory_limit: options.memory_limit,
            threads,
            bound: Mutex::default(),
            arenas: ArenaPool::default(),
        };
        Ok(Session { backend: Backend::Cpu(Arc::new(cpu)) })
    }

    /// The plan.
    pub fn plan(&self) -> &Arc<Plan> {
        match &self.backend {
            Backend::Cpu(cpu) => &cpu.program.plan,
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => &cuda.variants().base.plan,
        }
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[Port] {
        match &self.backend {
            Backend::Cpu(cpu) => &cpu.inputs,
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => &cuda.variants().inputs,
        }
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> &[Port] {
        match &self.backend {
            Backend::Cpu(cpu) => &cpu.outputs,
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => &cuda.variants().outputs,
        }
    }

    /// The symbols that extents mention, with the values for which the plan was compiled.
    pub fn symbols(&self) -> &[SymbolRange] {
        &self.plan().manifest().symbols
    }

    /// Threads that one run uses; 1 on a GPU, whose runs the host only starts.
    pub fn threads(&self) -> usize {
        match &self.backend {
            Backend::Cpu(cpu) => cpu.threads.current_num_threads(),
            #[cfg(feature = "cuda")]
            Backend::Cuda(_) => 1,
        }
    }

    /// Runs the plan. `inputs` are (name, data) pairs in any order; gives (name, data) in the order of [`Session::outputs`].
    ///
    /// # Errors
    /// Inputs that do not fit, and data that a step refuses.
    pub fn run(&self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<(String, Tensor)>, SessionError> {
        match &self.backend {
            Backend::Cpu(cpu) => cpu.execute(inputs, None),
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => cuda.run(inputs),
        }
    }

    /// As [`Session::run`], and calls `trace` after each step, on one of the session's threads.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_traced(
        &self,
        inputs: &[(&str, TensorView<'_>)],
        trace: &mut (dyn FnMut(StepTrace<'_>) + Send),
    ) -> Result<Vec<(String, Tensor)>, SessionError> {
        match &self.backend {
            Backend::Cpu(cpu) => cpu.execute(inputs, Some(trace)),
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => cuda.run_traced(inputs, trace),
        }
    }

    /// Working memory of a run with these values of the symbols.
    ///
    /// # Errors
    /// Symbols that have no value or one outside the range for which the plan was compiled.
    pub fn arena_size(&self, symbols: &Bindings) -> Result<ArenaSize, SessionError> {
        let shapes = inputs::shapes_of(self.inputs(), self.symbols(), symbols)?;
        let shapes: Vec<&[usize]> = shapes.iter().map(Vec::as_slice).collect();
        match &self.backend {
            Backend::Cpu(cpu) => {
                let bound = cpu.bind(&shapes)?;
                Ok(ArenaSize { bytes: bound.layout.total, lower_bound: bound.layout.lower_bound })
            }
            #[cfg(feature = "cuda")]
            Backend::Cuda(cuda) => {
                let (bytes, lower_bound) = cuda.arena(&shapes)?;
                Ok(ArenaSize { bytes, lower_bound })
            }
        }
    }
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
