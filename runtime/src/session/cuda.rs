//! A plan's CUDA program made ready for a GPU: modules loaded, constants uploaded, sparse weights compressed.
//!
//! Sessions that share this each have a [`runner`], whose runs follow each other on one stream. What depends on shapes is in [`bound`]; what libraries multiply, in [`products`], and how
//! they do, in [`plans`].
//!
//! Must not know: how kernels are written.

mod bound;
mod measure;
mod options;
mod pending;
mod plans;
mod products;
mod report;
mod run;
mod runner;
mod staging;
mod weights;

pub use measure::{LaunchTime, LaunchWork};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::program::{Program, Source, index, step_error};
use super::{Port, SessionError};
use crate::cuda::CudaError;
use crate::cuda::driver::{Context, DeviceBuffer, Driver, Function, Module, Stream};
use crate::op::Op;
use crate::plan::cuda::{Form, Work};
use crate::plan::manifest::Step;
use crate::plan::{Architecture, Plan};
use crate::tensor::TensorView;
pub use options::{CacheFolder, CallerStream, CudaOptions, Tuning, UnknownTuning};
pub use pending::{DeviceTensor, PendingRun};
use plans::Plans;
pub use plans::{ProductChoice, Rivals};
use products::Product;
pub use report::{CudaReport, WeightCounts};
pub use runner::Runner;

/// A launch and what its steps are.
struct Loaded {
    /// Positions of its steps in the program.
    steps: std::ops::Range<usize>,
    work: LoadedWork,
    /// The arena's values that it reads, then those that it writes, as positions in the program.
    reads: Vec<usize>,
    writes: Vec<usize>,
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

/// See the module documentation.
pub struct Gpu {
    program: Program,
    context: Context,
    launches: Vec<Loaded>,
    /// Constants by the value that holds them.
    constants: BTreeMap<usize, DeviceBuffer>,
    plans: Plans,
    /// Where the time of loading went.
    load: Vec<(&'static str, Duration)>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
}

impl Gpu {
    /// Makes the plan ready for the device of this ordinal.
    ///
    /// # Errors
    /// A plan without a CUDA program or without cubins for this GPU, and whatever fails on the device.
    pub fn new(plan: Arc<Plan>, ordinal: usize, options: &CudaOptions) -> Result<Gpu, SessionError> {
        let mut laps = Laps::start();
        let cuda = plan.manifest().cuda.as_ref().ok_or(SessionError::NotForCuda)?;
        // What the machine lacks is said before what the plan lacks.
        Driver::get()?;
        let mut context = Context::new(ordinal)?;
        if let Some(allocator) = &options.allocator {
            context = context.with_allocator(allocator.clone());
        }
        let (major, minor) = context.device().capability;
        let available = cuda.modules.iter().map(|m| m.architecture);
        let Some(architecture) = Architecture::best_for(major, minor, available.clone()) else {
            let available = available.map(|a| a.to_string()).collect::<Vec<_>>().join(", ");
            return Err(SessionError::NoModule { device: context.device().name.clone(), major, minor, available });
        };
        laps.end("driver");
        let program = Program::for_cuda(&plan, &cuda.program)?;
        laps.end("program");
        let stream = Stream::new(&context)?;
        let mut plans = Plans::new(&context, options.tuning, options.cache.open());
        let mut module = None;
        if let Some(found) = cuda.modules.iter().find(|m| m.architecture == architecture) {
            module = Some(Module::load(&context, &architecture.to_string(), plan.blob(found.cubin)?)?);
        }
        laps.end("kernels");
        let overlap = !options.no_overlap && architecture.has_waiting_kernels();
        let mut launches = Vec::with_capacity(cuda.launches.len());
        for (steps, launch) in cuda.launched() {
            let work = match &launch.work {
                Work::Kernel(launch) => {
                    let module = module.as_ref().expect("an architecture was chosen among the modules");
                    let function = |symbol: &str, shared_bytes| -> Result<Function, CudaError> {
                        Ok(module.function(symbol, shared_bytes)?.overlapping(overlap && launch.waits))
                    };
                    let there = launch.forms.iter().filter(|f| f.architecture.is_none_or(|a| a == architecture));
                    let forms =
                        there.map(|f| Ok((function(&f.symbol, f.shared_bytes)?, f.clone()))).collect::<Result<_, CudaError>>()?;
                    let function = function(&launch.symbol, launch.shared_bytes)?;
                    LoadedWork::Kernel { function, forms, launch: launch.clone() }
                }
                Work::Product if options.kernels_only => LoadedWork::Product(Product::left_out(&program, steps.start)?),
                Work::Product => LoadedWork::Product(Product::new(&program, steps.start, &mut plans, &stream)?),
            };
            let (reads, writes) = operands(&program, &steps, &work);
            launches.push(Loaded { steps, work, reads, writes });
        }
        laps.end("products");
        let constants = upload_constants(&program, &launches, &stream)?;
        laps.end("constants");
        let inputs = program.inputs.iter().map(|&v| program.port(v)).collect();
        let port = |(name, v): &(String, usize)| Port { name: name.clone(), ty: program.values[*v].ty.clone() };
        let outputs = program.outputs.iter().map(port).collect();
        Ok(Gpu { program, context, launches, constants, plans, load: laps.laps, inputs, outputs })
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.program.plan
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

    pub fn report(&self) -> CudaReport {
        let (plans, choices) = self.plans.made_so_far();
        CudaReport { load: self.load.clone(), weights: self.plans.weights, plans, choices }
    }
}

/// Where time goes.
struct Laps {
    last: Instant,
    laps: Vec<(&'static str, Duration)>,
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

/// The values in the arena that a launch reads and writes.
fn operands(program: &Program, steps: &std::ops::Range<usize>, work: &LoadedWork) -> (Vec<usize>, Vec<usize>) {
    let steps: &[Step] = &program.steps[steps.clone()];
    let written: Vec<usize> = steps.iter().flat_map(|s| s.outputs.iter().map(|v| index(*v))).collect();
    let mentioned: Vec<usize> = match work {
        LoadedWork::Kernel { launch, .. } => launch.values().map(index).collect(),
        LoadedWork::Product(product) => {
            product.operands().into_iter().chain([product.out()]).map(|v| program.values[v].root).collect()
        }
    };
    let in_arena = |v: &usize| matches!(program.values[*v].source, Source::Computed(_) | Source::Input(_));
    mentioned.into_iter().map(|v| program.values[v].root).filter(in_arena).partition(|v| !written.contains(v))
}

/// The constants that launches read, each once. Weights that products have compressed are not among them.
fn upload_constants(
    program: &Program,
    launches: &[Loaded],
    stream: &Stream,
) -> Result<BTreeMap<usize, DeviceBuffer>, SessionError> {
    let mut read: Vec<usize> = Vec::new();
    for loaded in launches {
        match &loaded.work {
            LoadedWork::Kernel { launch, .. } => read.extend(launch.values().map(|v| program.values[index(v)].root)),
            LoadedWork::Product(product) => read.extend(product.operands().into_iter().map(|v| program.values[v].root)),
        }
    }
    let mut constants = BTreeMap::new();
    for root in read {
        let Source::Blob(blob) = program.values[root].source else { continue };
        if let std::collections::btree_map::Entry::Vacant(place) = constants.entry(root) {
            place.insert(DeviceBuffer::from_host(program.plan.blob(blob)?, stream)?);
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
