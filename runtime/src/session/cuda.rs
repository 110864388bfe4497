//! A variant of a plan's CUDA program made ready for a GPU: kernels found, constants uploaded, sparse weights compressed.
//!
//! What all variants of a plan have in common is in [`base`], which of them runs, in [`variants`]. Sessions that share these each have a [`runner`], whose runs follow each other on one
//! stream. What depends on shapes is in [`bound`]; what libraries multiply, in [`products`], and how they do, in [`plans`].
//!
//! Must not know: how kernels are written.

mod base;
mod bound;
mod measure;
mod memory;
mod options;
mod pending;
mod plans;
mod products;
mod report;
mod run;
mod runner;
mod staging;
mod trial;
mod variants;
mod weights;

pub use measure::{LaunchTime, LaunchTimes, LaunchWork};
pub use memory::{VariantMemory, variant_memory};

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::SessionError;
use super::program::{Program, Source, index, step_error};
use crate::cuda::CudaError;
use crate::cuda::driver::{Context, DeviceBuffer, Function, Stream};
use crate::op::Op;
use crate::plan::cuda::{Form, Work};
use crate::plan::manifest::Step;
use crate::tensor::TensorView;
use base::Base;
use memory::Traffic;
pub use options::{CacheFolder, CallerStream, CudaOptions, TimingsFile, Tuning, UnknownTuning};
pub use pending::{DeviceTensor, PendingRun};
use plans::Plans;
pub use plans::{ProductChoice, Rivals};
use products::Product;
pub use report::{Because, CudaReport, VariantChoice, WeightCounts};
pub use runner::Runner;

/// A launch and what its steps are.
struct Loaded {
    /// Positions of its steps in the program.
    steps: std::ops::Range<usize>,
    work: LoadedWork,
    traffic: Traffic,
}

enum LoadedWork {
    /// With those of its forms that the module has.
    Kernel {
        function: Function,
        forms: Vec<(Function, Form)>,
        launch: crate::plan::cuda::Kernel,
    },
    Product(Product),
}

/// A variant of the plan, made ready; see the module documentation.
pub struct Gpu {
    /// The variant's name.
    pub name: String,
    program: Program,
    context: Context,
    launches: Vec<Loaded>,
    /// Constants by the value that holds them.
    constants: BTreeMap<usize, Arc<DeviceBuffer>>,
    plans: Arc<Plans>,
    /// Whether any kernel of the plan may note a fault: otherwise the word for them stays 0.
    notes_faults: bool,
}

impl Gpu {
    /// Makes a variant of the plan ready.
    ///
    /// # Errors
    /// Whatever fails on the device.
    pub fn new(base: &Base, position: usize) -> Result<Gpu, SessionError> {
        let mut laps = Laps::start();
        let variant = base.variant(position);
        let program = Program::for_cuda(&base.plan, &variant.program)?;
        laps.end("program");
        let stream = Stream::new(&base.context)?;
        let mut launches = Vec::with_capacity(variant.launches.len());
        for (steps, launch) in variant.launched() {
            let traffic = Traffic::of(&program, &steps, &launch.work);
            let work = match &launch.work {
                Work::Kernel(launch) => {
                    let there = launch.forms.iter().filter(|f| f.architecture.is_none_or(|a| a == base.architecture));
                    let function = |symbol: &str, shared_bytes| base.function(symbol, shared_bytes, launch.waits);
                    let forms =
                        there.map(|f| Ok((function(&f.symbol, f.shared_bytes)?, f.clone()))).collect::<Result<_, CudaError>>()?;
                    let function = function(&launch.symbol, launch.shared_bytes)?;
                    LoadedWork::Kernel { function, forms, launch: launch.clone() }
                }
                Work::Product if base.kernels_only => LoadedWork::Product(Product::left_out(&program, steps.start)?),
                Work::Product => LoadedWork::Product(Product::new(&program, steps.start, base, &stream)?),
            };
            launches.push(Loaded { steps, work, traffic });
        }
        laps.end("products");
        let constants = read_constants(base, &program, &launches, &stream)?;
        laps.end("constants");
        base.add_laps(laps);
        Ok(Gpu {
            name: variant.name.clone(),
            program,
            context: base.context.clone(),
            launches,
            constants,
            plans: base.plans.clone(),
            notes_faults: base.notes_faults(),
        })
    }

    /// What the word in which kernels note faults says.
    fn check_fault(&self, word: u32) -> Result<(), SessionError> {
        match (word as usize).checked_sub(1).and_then(|at| self.launches.get(at)) {
            Some(loaded) => Err(step_error(&self.program.steps[loaded.steps.end - 1], "an index is out of range")),
            None => Ok(()),
        }
    }

    /// A value that no step computes: as the caller gave it, when that is on the host, or as it is in the plan.
    fn never_computed<'a>(
        &'a self,
        value: usize,
        shape: &'a [usize],
        given: &[TensorView<'a>],
    ) -> Result<Option<TensorView<'a>>, SessionError> {
        let v = &self.program.values[value];
        match self.program.values[v.root].source {
            Source::Input(position) => Ok(given.get(position).map(|g| TensorView { dtype: v.ty.dtype, shape, data: g.data })),
            Source::Computed(_) => Ok(None),
            _ => Ok(self.program.constant(value, shape)?),
        }
    }
}

/// What a mutex holds, also where a thread has panicked that held it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What took how long.
type LoadTimes = Vec<(&'static str, Duration)>;

/// Where time goes.
struct Laps {
    last: Instant,
    laps: LoadTimes,
}

impl Laps {
    fn start() -> Laps {
        Laps { last: Instant::now(), laps: Vec::new() }
    }

    fn end(&mut self, what: &'static str) {
        let now = Instant::now();
        self.laps.push((what, now - self.last));
        self.last = now;
    }
}

/// The constants that launches read, on the device. Weights that products have compressed are not among them.
fn read_constants(
    base: &Base,
    program: &Program,
    launches: &[Loaded],
    stream: &Stream,
) -> Result<BTreeMap<usize, Arc<DeviceBuffer>>, SessionError> {
    let mut constants = BTreeMap::new();
    for loaded in launches {
        let read: Vec<usize> = match &loaded.work {
            LoadedWork::Kernel { launch, .. } => launch.values().map(|v| program.values[index(v)].root).collect(),
            LoadedWork::Product(product) => product.operands().into_iter().map(|v| program.values[v].root).collect(),
        };
        for root in read {
            if let Entry::Vacant(place) = constants.entry(root)
                && let Some(buffer) = base.constant(program, root, stream)?
            {
                place.insert(buffer);
            }
        }
    }
    Ok(constants)
}

/// An error about a step that a library's or the driver's error explains.
fn device_error(step: &Step, error: CudaError) -> SessionError {
    SessionError::Step { step: step.name.clone(), op: step.op.name(), reason: error.to_string() }
}

/// Whether a product's weight is one that cuSPARSELt compresses.
fn is_sparse(op: &Op) -> bool {
    matches!(op, Op::SparseGemm(_))
}
