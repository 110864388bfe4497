//! What all variants of a plan have in common on a GPU: the cubin, the libraries and their plans, and constants and weights, each
//! there once however many variants read it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, OnceLock};

use super::super::SessionError;
use super::super::program::{Program, Source};
use super::options::CudaOptions;
use super::plans::Plans;
use super::{Laps, LoadTimes, lock};
use crate::cuda::cusparselt::SparseWeight;
use crate::cuda::driver::{Context, DeviceBuffer, Driver, Function, Module, Stream};
use crate::cuda::nvml::driver_version;
use crate::cuda::{CudaError, cublaslt, cusparselt};
use crate::dtype::DType;
use crate::plan::cuda::{Argument, CudaPlan, Variant, Work};
use crate::plan::manifest::{BlobId, Expanded};
use crate::plan::{Architecture, Plan};
use crate::sparse::KLayout;
use crate::timings::Machine;

/// See the module documentation.
pub struct Base {
    pub plan: Arc<Plan>,
    pub context: Context,
    pub architecture: Architecture,
    /// Whether the session leaves products out.
    pub kernels_only: bool,
    pub plans: Arc<Plans>,
    module: Module,
    overlap: bool,
    constants: Kept<Constant, DeviceBuffer>,
    weights: Kept<WeightKey, SparseWeight>,
    load: Mutex<LoadTimes>,
    machine: OnceLock<Machine>,
}

/// What a constant on the device is made of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Constant {
    Blob(BlobId),
    Expanded(DType, Expanded),
}

/// What a compressed weight is made of: values and positions, and what they mean.
type WeightKey = (BlobId, BlobId, DType, KLayout);

/// Things by what they are made of, each made once.
struct Kept<K, T>(Mutex<HashMap<K, Arc<T>>>);

impl<K: Eq + Hash, T> Kept<K, T> {
    fn get<E>(&self, key: K, make: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let mut kept = lock(&self.0);
        if let Some(known) = kept.get(&key) {
            return Ok(known.clone());
        }
        let made = Arc::new(make()?);
        kept.insert(key, made.clone());
        Ok(made)
    }
}

impl<K, T> Default for Kept<K, T> {
    fn default() -> Self {
        Kept(Mutex::default())
    }
}

impl Base {
    /// For the device of this ordinal.
    ///
    /// # Errors
    /// A plan without a CUDA program or without cubins for this GPU, and whatever fails on the device.
    pub fn new(plan: Arc<Plan>, ordinal: usize, options: &CudaOptions) -> Result<Base, SessionError> {
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
        let best = Architecture::best_for(major, minor, available.clone());
        let Some(found) = best.and_then(|best| cuda.modules.iter().find(|m| m.architecture == best)) else {
            let available = available.map(|a| a.to_string()).collect::<Vec<_>>().join(", ");
            return Err(SessionError::NoModule { device: context.device().name.clone(), major, minor, available });
        };
        laps.end("driver");
        let plans = Arc::new(Plans::new(&context, options.tuning, options.cache.open()));
        let architecture = found.architecture;
        let module = Module::load(&context, &architecture.to_string(), plan.blob(found.cubin)?)?;
        laps.end("kernels");
        Ok(Base {
            architecture,
            kernels_only: options.kernels_only,
            plans,
            module,
            overlap: !options.no_overlap && architecture.has_waiting_kernels(),
            constants: Kept::default(),
            weights: Kept::default(),
            load: Mutex::new(laps.laps),
            machine: OnceLock::new(),
            context,
            plan,
        })
    }

    /// What the plan says for GPUs.
    pub fn cuda(&self) -> &CudaPlan {
        self.plan.manifest().cuda.as_ref().expect("`new` has found it")
    }

    pub fn variant(&self, position: usize) -> &Variant {
        &self.cuda().variants[position]
    }

    /// Whether any kernel may note a fault in data.
    pub fn notes_faults(&self) -> bool {
        let notes = |work: &Work| matches!(work, Work::Kernel(kernel) if kernel.arguments.contains(&Argument::Fault));
        self.cuda().variants.iter().flat_map(|v| &v.launches).any(|launch| notes(&launch.work))
    }

    /// A kernel of the plan's.
    pub fn function(&self, symbol: &str, shared_bytes: u32, waits: bool) -> Result<Function, CudaError> {
        Ok(self.module.function(symbol, shared_bytes)?.overlapping(self.overlap && waits))
    }

    /// A constant on the device; none of what is none.
    pub fn constant(&self, program: &Program, root: usize, stream: &Stream) -> Result<Option<Arc<DeviceBuffer>>, SessionError> {
        let made = match program.values[root].source {
            Source::Blob(blob) => self
                .constants
                .get(Constant::Blob(blob), || Ok::<_, SessionError>(DeviceBuffer::from_host(self.plan.blob(blob)?, stream)?)),
            Source::Expanded(expanded) => {
                let key = Constant::Expanded(program.values[root].ty.dtype, expanded);
                self.constants.get(key, || Ok(DeviceBuffer::from_host(program.expanded(root, &expanded)?.bytes(), stream)?))
            }
            _ => return Ok(None),
        };
        made.map(Some)
    }

    /// A compressed weight: one that another product reads too, or a new one.
    pub fn weight(
        &self,
        key: WeightKey,
        make: impl FnOnce() -> Result<SparseWeight, SessionError>,
    ) -> Result<Arc<SparseWeight>, SessionError> {
        self.weights.get(key, make)
    }

    /// Bytes of constants and compressed weights on the device.
    pub fn constant_bytes(&self) -> u64 {
        let constants: u64 = lock(&self.constants.0).values().map(|b| b.len() as u64).sum();
        constants + lock(&self.weights.0).values().map(|w| w.as_slice().len() as u64).sum::<u64>()
    }

    /// The GPU and its libraries.
    pub fn machine(&self) -> &Machine {
        self.machine.get_or_init(|| {
            let device = self.context.device();
            let (major, minor) = device.capability;
            let missing = || "missing".to_owned();
            let sparse = cusparselt::version().map(|(major, minor, patch)| format!("{major}.{minor}.{patch}"));
            Machine {
                gpu: device.name.clone(),
                capability: format!("{major}.{minor}"),
                driver: driver_version().unwrap_or_else(|_| "unknown".to_owned()),
                cublaslt: cublaslt::version().map_or_else(|_| missing(), |v| v.to_string()),
                cusparselt: sparse.unwrap_or_else(|_| missing()),
            }
        })
    }

    /// Where the time of loading went.
    pub fn load_times(&self) -> LoadTimes {
        lock(&self.load).clone()
    }

    pub(super) fn add_laps(&self, laps: Laps) {
        let mut load = lock(&self.load);
        for (what, time) in laps.laps {
            match load.iter_mut().find(|(known, _)| *known == what) {
                Some((_, sum)) => *sum += time,
                None => load.push((what, time)),
            }
        }
    }
}
