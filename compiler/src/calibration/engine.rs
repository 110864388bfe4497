//! On what samples run: the CPU's kernels step by step, or plans on a GPU, which are made of the steps.
//!
//! Must not know: why values are wanted.

use slidec_kernels::{Cache, Compiler};
use sliderun::cuda::CudaError;
use sliderun::cuda::cublaslt::CublasLt;
use sliderun::cuda::driver::Context;
use sliderun::op::Op;
use sliderun::plan::manifest::Provenance;
use sliderun::plan::{Architecture, Plan, PlanError};
use sliderun::session::{CudaOptions, Device, Session, SessionError, SessionOptions, TimingsFile, Tuning};
use sliderun::timings::Timings;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::CalibrationError;
use super::cut::Cut;
use super::ready::{By, Part, Planned, Ready};
use super::walk::Walk;
use crate::cost::Measured;
use crate::ir::{Graph, ValueRef};
use crate::lower::{Costs, LowerErrors, Lowered, lower, lower_cuda};
use crate::options::{CompileOptions, Target, UnknownOption, Variants};
use crate::passes::{PIPELINE, PipelineError, ignore, run_passes};

/// On what samples are to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CalibrationDevice {
    /// The first GPU where everything that it takes is there, else the CPU.
    #[default]
    Auto,
    /// This one.
    On(Device),
}

impl FromStr for CalibrationDevice {
    type Err = UnknownOption;

    fn from_str(s: &str) -> Result<Self, UnknownOption> {
        if s == "auto" {
            return Ok(CalibrationDevice::Auto);
        }
        let unknown = |_| UnknownOption::new(s, "calibration device", "auto, cpu, cuda or cuda:N");
        s.parse().map(CalibrationDevice::On).map_err(unknown)
    }
}

impl fmt::Display for CalibrationDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CalibrationDevice::Auto => f.pad("auto"),
            CalibrationDevice::On(device) => device.fmt(f),
        }
    }
}

/// Why a GPU does not run samples.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum EngineError {
    #[error(transparent)]
    Cuda(#[from] CudaError),
    #[error(transparent)]
    Kernels(#[from] slidec_kernels::CompileError),
    #[error(transparent)]
    Pass(#[from] Box<PipelineError>),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error("{name} has compute capability {major}.{minor}; 8.0 or later is needed")]
    TooOld { name: String, major: u32, minor: u32 },
}

/// Runs the steps of graphs on samples. What it takes is looked for when a sample first has to run.
pub struct Engine {
    wanted: CalibrationDevice,
    plans: OnceLock<Result<Option<Plans>, Arc<EngineError>>>,
    tell: Box<dyn Fn(&str) + Send + Sync>,
    /// Of what something was told: nothing is told twice.
    told: Mutex<BTreeSet<String>>,
}

/// What turns steps into sessions.
struct Plans {
    device: Device,
    options: SessionOptions,
    architecture: Architecture,
    /// None where nothing is launched on a GPU.
    gpu: Option<Gpu>,
}

struct Gpu {
    compiler: Compiler,
    /// Kept, so that what is loaded into it stays there between two sessions.
    _context: Context,
}

impl Default for Engine {
    /// The CPU.
    fn default() -> Self {
        Engine::new(CalibrationDevice::On(Device::Cpu), |_| ())
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({})", self.wanted)
    }
}

/// What is asked for the same device.
impl PartialEq for Engine {
    fn eq(&self, other: &Self) -> bool {
        self.wanted == other.wanted
    }
}

impl Engine {
    /// For a device; `tell` gets a line for each thing that a user should know: which device was taken, what the CPU does in its place.
    pub fn new(wanted: CalibrationDevice, tell: impl Fn(&str) + Send + Sync + 'static) -> Engine {
        Engine { wanted, plans: OnceLock::new(), tell: Box::new(tell), told: Mutex::default() }
    }

    /// The GPU that samples have run on, if one has.
    pub fn used(&self) -> Option<Device> {
        self.plans.get()?.as_ref().ok()?.as_ref().map(|plans| plans.device)
    }

    /// Makes a range of a walk's steps ready to be run. Beside what outlives it, values that are not in `seen` may never be seen.
    ///
    /// # Errors
    /// A device that was asked for and is not there, or that fails.
    pub(super) fn ready<'e>(
        &'e self,
        graph: &Graph,
        walk: &Walk,
        range: Range<usize>,
        seen: &BTreeSet<ValueRef>,
    ) -> Result<Ready<'e>, CalibrationError> {
        let mut parts = Vec::new();
        match self.plans()? {
            None => parts.push(steps(graph, walk, range)),
            Some(plans) => {
                // Values that are seen leave the device there and then, and need not be there all at once.
                let ends = |at: &usize| walk.results(*at).any(|value| seen.contains(&value));
                let mut start = range.start;
                for end in range.clone().filter(ends).map(|at| at + 1).chain([range.end]) {
                    self.place(plans, graph, walk, start..end, seen, &mut parts)?;
                    start = end;
                }
            }
        }
        Ok(Ready { engine: self, parts })
    }

    /// Whether the CPU may do what a GPU fails at.
    pub(super) fn may_change_device(&self) -> bool {
        self.wanted == CalibrationDevice::Auto
    }

    /// Tells something, once.
    pub(super) fn tell(&self, what: &str) {
        self.tell_of(what, what);
    }

    /// Tells something, once of each subject.
    fn tell_of(&self, subject: &str, what: &str) {
        if self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(subject.to_owned()) {
            (self.tell)(what);
        }
    }

    fn plans(&self) -> Result<Option<&Plans>, CalibrationError> {
        let opened = self.plans.get_or_init(|| match self.wanted {
            CalibrationDevice::On(Device::Cpu) => Ok(None),
            CalibrationDevice::On(Device::Cuda(ordinal)) => self.open(ordinal).map(Some).map_err(Arc::new),
            CalibrationDevice::Auto => Ok(self.open(0).map_or_else(
                |_| {
                    self.tell("samples run on the CPU: no GPU can be used, and `--calib-device cuda` says why");
                    None
                },
                Some,
            )),
        });
        match opened {
            Ok(plans) => Ok(plans.as_ref()),
            Err(error) => Err(self.failed(error.clone())),
        }
    }

    fn failed(&self, source: Arc<EngineError>) -> CalibrationError {
        CalibrationError::Device { device: self.wanted.to_string(), source }
    }

    /// A GPU and all that it takes.
    fn open(&self, ordinal: usize) -> Result<Plans, EngineError> {
        let context = Context::new(ordinal)?;
        let (major, minor) = context.device().capability;
        let name = context.device().name.clone();
        let known = Architecture::best_for(major, minor, Architecture::SUPPORTED);
        let own = || format!("sm_{major}{minor}").parse().ok();
        let architecture = known.or_else(own).ok_or(EngineError::TooOld { name: name.clone(), major, minor })?;
        CublasLt::new(&context)?;
        let compiler = Compiler::new(Cache::from_env())?;
        let device = Device::Cuda(ordinal);
        self.tell(&format!("samples run on {device} ({name})"));
        // A plan runs a few times on each shape: no search for the best algorithm pays.
        let cuda = CudaOptions::default().with_tuning(Tuning::Off).with_timings(TimingsFile::Nowhere);
        let options = SessionOptions::default().with_cuda(cuda);
        Ok(Plans { device, options, architecture, gpu: Some(Gpu { compiler, _context: context }) })
    }

    /// Plans for a range of steps; those that GPUs cannot run are left to the CPU.
    fn place(
        &self,
        plans: &Plans,
        graph: &Graph,
        walk: &Walk,
        range: Range<usize>,
        seen: &BTreeSet<ValueRef>,
        parts: &mut Vec<Part>,
    ) -> Result<(), CalibrationError> {
        let op = |at: usize| graph.node(walk.steps()[at]).op();
        if range.clone().all(|at| matches!(op(at), Some(Op::Reshape(_) | Op::Identity(_)))) {
            // Nothing would be launched.
            parts.extend((!range.is_empty()).then(|| steps(graph, walk, range)));
            return Ok(());
        }
        let mut cut = Cut::new(graph, walk, range.clone(), seen);
        if cut.outputs.is_empty() {
            parts.push(steps(graph, walk, range));
            return Ok(());
        }
        plans.prepare(&mut cut.graph).map_err(|e| self.failed(Arc::new(e)))?;
        match plans.lower(&cut) {
            Ok((lowered, source)) => match plans.session(lowered, &source) {
                Ok(session) => {
                    let Cut { inputs, extents, outputs, .. } = cut;
                    parts.push(Part { range, by: By::Plan(Box::new(Planned { session, inputs, extents, outputs })) });
                }
                Err(error) if self.may_change_device() => {
                    self.tell(&format!("samples run in part on the CPU: {error}"));
                    parts.push(steps(graph, walk, range));
                }
                Err(error) => return Err(self.failed(Arc::new(error))),
            },
            Err(LowerErrors(refusals)) => {
                let operators: BTreeMap<&str, &str> = refusals.iter().map(|r| (r.operator, r.node.as_str())).collect();
                for (operator, node) in operators {
                    self.tell_of(
                        operator,
                        &format!("{operator} runs on the CPU, as in '{node}': there is no kernel of its kind for GPUs"),
                    );
                }
                let refused = |at: usize| refusals.iter().any(|r| r.node == graph.node(walk.steps()[at]).name);
                let all: Vec<usize> = range.clone().collect();
                for run in all.chunk_by(|a, b| refused(*a) == refused(*b)) {
                    let part = run[0]..run[0] + run.len();
                    if refused(part.start) || part == range {
                        parts.push(steps(graph, walk, part));
                    } else {
                        self.place(plans, graph, walk, part, seen, parts)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Plans as a GPU would run them, on the CPU.
    #[cfg(test)]
    pub(crate) fn rehearsing(tell: impl Fn(&str) + Send + Sync + 'static) -> Engine {
        let options = SessionOptions::default().with_cuda_program(true);
        let plans = Plans { device: Device::Cpu, options, architecture: Architecture::SUPPORTED[0], gpu: None };
        let engine = Engine::new(CalibrationDevice::On(Device::Cpu), tell);
        assert!(engine.plans.set(Ok(Some(plans))).is_ok());
        engine
    }
}

fn steps(graph: &Graph, walk: &Walk, range: Range<usize>) -> Part {
    Part { by: By::Steps(walk.constants(graph, range.clone())), range }
}

impl Plans {
    /// Gives a cut the form that GPUs run: products without what follows them.
    fn prepare(&self, graph: &mut Graph) -> Result<(), EngineError> {
        let passes = PIPELINE.iter().filter(|pass| pass.name == "split-epilogues");
        let options = CompileOptions { targets: vec![Target::Cuda(self.architecture)], ..CompileOptions::default() };
        run_passes(graph, passes, &options, &mut ignore).map_err(Box::new)?;
        Ok(())
    }

    /// A plan of a cut, but for its kernels, and their source.
    fn lower(&self, cut: &Cut) -> Result<(Lowered, String), LowerErrors> {
        let costs = Costs { on: self.architecture, measured: Measured::new(&Timings::default(), self.architecture) };
        let mut lowered = lower(&cut.graph, Provenance::default(), Vec::new())?;
        let source = lower_cuda(&cut.graph, &mut lowered, &costs, Variants::One)?;
        Ok((lowered, source))
    }

    fn session(&self, mut lowered: Lowered, source: &str) -> Result<Session, EngineError> {
        if let Some(gpu) = &self.gpu {
            lowered.add_kernels(&gpu.compiler, source, &[self.architecture])?;
        }
        let plan = Plan::from_bytes(lowered.writer.to_bytes(lowered.manifest)?)?;
        Ok(Session::new(Arc::new(plan), self.device, self.options.clone())?)
    }
}

#[cfg(test)]
mod tests;
