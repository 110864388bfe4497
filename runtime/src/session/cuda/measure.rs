//! What each launch costs where it stands.
//!
//! Kernels of a few microseconds are shorter than what an event or a launch from the host costs, so each launch is recorded many times in a
//! graph of its own, whose replays are timed. A launch that follows itself starts sooner and finds more in the caches than one that follows
//! another. So pairs of neighbours are timed too, and each pair's time is shared out by what its two launches take by themselves: over a plan
//! whose replays follow each other that adds up to half of all pairs, in which each launch is twice. All of it is done in turns, so that what
//! clocks do meanwhile is in every figure alike.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::super::SessionError;
use super::super::program::index;
use super::bound::Bound;
use super::plans::Rivals;
use super::run::read_fault;
use super::runner::Runner;
use super::{Gpu, Loaded, LoadedWork};
use crate::cuda::driver::Stream;
use crate::cuda::timer::Timer;
use crate::dtype::DType;
use crate::op::Op;
use crate::plan::cuda::library_of;
use crate::tensor::TensorView;

/// How often a launch is recorded to learn how long it takes.
const FIRST_GUESS: u32 = 8;

/// How long a replay of one launch's graph should take, so that the events around it do not matter.
const REPLAY: Duration = Duration::from_micros(400);

/// Most times that a launch is recorded.
const MAX_RECORDED: u32 = 256;

/// Turns in which everything is measured, and replays a turn: the median counts of both.
const TURNS: usize = 5;
const REPLAYS: usize = 5;

/// What one launch of a plan's CUDA program costs.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchTime {
    /// The steps of the CUDA program that it does.
    pub steps: Range<usize>,
    /// The last step's name.
    pub name: String,
    /// The steps' operators.
    pub operators: Vec<&'static str>,
    /// What is launched.
    pub work: LaunchWork,
    /// Element type of the last step's first operand.
    pub input: Option<DType>,
    /// How long it takes on the device behind the launch that is before it in the plan, or behind the last one where it is the first; where
    /// kernels may start early, each begins while the one before ends, as it does in the plan.
    pub time: Duration,
    /// Bytes of device memory that it must read and write, each once.
    pub bytes: u64,
    /// Of a product: multiplications and additions over its source K, which a dense product would do.
    pub operations: Option<f64>,
}

/// What the launches of a plan's CUDA program cost, measured in one go.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LaunchTimes {
    /// Each.
    pub launches: Vec<LaunchTime>,
    /// All, one behind the other, measured as each is: what their times should add up to.
    pub whole: Duration,
}

/// What is launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LaunchWork {
    /// The kernel of this name in the plan's cubin.
    Kernel(String),
    /// A matrix product by this library.
    Product(&'static str),
}

impl LaunchWork {
    /// What the launch's work is on the device. `op`: the operator of its one step, when it is a product; `form`: which of its
    /// kernel's forms, if any.
    fn of(work: &LoadedWork, op: &Op, form: Option<usize>) -> LaunchWork {
        match work {
            LoadedWork::Kernel { launch, forms, .. } => {
                LaunchWork::Kernel(form.map_or(&launch.symbol, |at| &forms[at].1.symbol).clone())
            }
            LoadedWork::Product(_) => LaunchWork::Product(library_of(op)),
        }
    }
}

impl Runner {
    /// The time of each launch, on what the launches before it have computed.
    pub fn launch_times(&self, given: &[(&str, TensorView<'_>)]) -> Result<LaunchTimes, SessionError> {
        self.with_bound(given, |gpu, bound, stream, fault, arranged| {
            let count = gpu.launches.len();
            // The launches in the order in which each follows its neighbour, up to one, so that its operands are what they should be.
            let prepare = |last: usize| -> Result<(), SessionError> {
                gpu.upload(bound, stream, arranged)?;
                (0..=last).try_for_each(|at| bound.launch(gpu, at, stream))?;
                Ok(stream.synchronize()?)
            };
            let Some(last) = count.checked_sub(1) else { return Ok(LaunchTimes::default()) };
            fault.as_slice().fill(0, stream)?;
            // Libraries load kernels at their first use, which a capture does not allow.
            prepare(last)?;
            gpu.check_fault(read_fault(fault, stream)?)?;
            let before = |at: usize| at.checked_sub(1).unwrap_or(last);
            let all: Vec<usize> = (0..count).collect();
            let (mut whole, mut alone, mut behind) = (Vec::new(), vec![Vec::new(); count], vec![Vec::new(); count]);
            for _ in 0..TURNS {
                whole.push(settled_time(gpu, bound, &all, stream)?);
                for at in 0..count {
                    prepare(at)?;
                    alone[at].push(settled_time(gpu, bound, &[at], stream)?);
                    // The pair may overwrite its own operands, whose memory is free by then: that may change values, and nothing else.
                    behind[at].push(settled_time(gpu, bound, &[before(at), at], stream)?);
                }
            }
            let alone: Vec<Duration> = alone.into_iter().map(median).collect();
            let behind: Vec<Duration> = behind.into_iter().map(median).collect();
            let time = |at: usize| (behind[at] + alone[at]).saturating_sub(alone[before(at)]) / 2;
            let launches = (0..count).map(|at| describe(gpu, bound, at, time(at))).collect();
            Ok(LaunchTimes { launches, whole: median(whole) })
        })
    }

    /// How each product's algorithm does beside its library's others on what the launches before it have computed; none for other launches.
    pub fn rivals(&self, given: &[(&str, TensorView<'_>)]) -> Result<Vec<Option<Rivals>>, SessionError> {
        self.with_bound(given, |gpu, bound, stream, fault, arranged| {
            gpu.upload(bound, stream, arranged)?;
            fault.as_slice().fill(0, stream)?;
            (0..gpu.launches.len())
                .map(|at| {
                    bound.launch(gpu, at, stream)?;
                    stream.synchronize()?;
                    bound.rivals(gpu, at, stream)
                })
                .collect()
        })
    }

    /// The time of a replay of the graph when `times` of them follow each other without a wait, so that what the host does to start one is hidden.
    pub fn steady_time(&self, given: &[(&str, TensorView<'_>)], times: u32) -> Result<Duration, SessionError> {
        self.with_bound(given, |gpu, bound, stream, fault, arranged| {
            gpu.upload(bound, stream, arranged)?;
            let timer = Timer::new(stream)?;
            let mut replay = |times: u32| (0..times).try_for_each(|_| bound.replay(gpu, stream, stream, fault));
            // The first replays are not timed: the device falls idle between them and the upload.
            replay(2)?;
            Ok(timer.time(|| replay(times))? / times.max(1))
        })
    }
}

/// The time of these launches one after the other, recorded so often that what surrounds a replay does not matter.
fn settled_time(gpu: &Gpu, bound: &Bound, launches: &[usize], stream: &Stream) -> Result<Duration, SessionError> {
    let guess = replay_time(gpu, bound, launches, stream, FIRST_GUESS, 2)?.max(Duration::from_nanos(100));
    let times = (REPLAY.as_secs_f64() / guess.as_secs_f64()).ceil() as u32;
    replay_time(gpu, bound, launches, stream, times.clamp(2, MAX_RECORDED), REPLAYS)
}

/// The time of these launches, from `replays` replays of a graph that holds them `recorded` times: their median.
fn replay_time(
    gpu: &Gpu,
    bound: &Bound,
    launches: &[usize],
    stream: &Stream,
    recorded: u32,
    replays: usize,
) -> Result<Duration, SessionError> {
    let all = |stream: &Stream| launches.iter().try_for_each(|at| bound.launch(gpu, *at, stream));
    let graph = stream.capture(|stream| (0..recorded).try_for_each(|_| all(stream)))?.instantiate()?;
    let timer = Timer::new(stream)?;
    // SAFETY: the graph's memory is the bound's arena and workspace, the session's constants and modules: all outlive the stream's work,
    // which is waited for.
    #[allow(unsafe_code)]
    let replay = || timer.time(|| unsafe { graph.launch(stream) });
    // The first replay uploads the graph.
    replay()?;
    let times = (0..replays).map(|_| replay()).collect::<Result<Vec<_>, _>>()?;
    Ok(median(times) / recorded)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn describe(gpu: &Gpu, bound: &Bound, at: usize, time: Duration) -> LaunchTime {
    let (program, loaded) = (&gpu.program, &gpu.launches[at]);
    let steps = &program.steps[loaded.steps.clone()];
    let last = &steps[steps.len() - 1];
    let first_operand = last.inputs.first().copied().flatten().map(index);
    LaunchTime {
        steps: loaded.steps.clone(),
        name: last.name.clone(),
        operators: steps.iter().map(|s| s.op.name()).collect(),
        input: first_operand.map(|v| program.values[v].ty.dtype),
        time,
        bytes: bytes(gpu, bound, loaded),
        operations: if matches!(loaded.work, LoadedWork::Product(_)) { operations(gpu, bound, loaded) } else { None },
        work: LaunchWork::of(&loaded.work, &last.op, bound.form(at)),
    }
}

/// What a launch reads and writes in device memory, each byte once. Of what it picks rows from, as much as it picks.
fn bytes(gpu: &Gpu, bound: &Bound, loaded: &Loaded) -> u64 {
    let program = &gpu.program;
    let steps = &program.steps[loaded.steps.clone()];
    let mentioned: Vec<usize> = match &loaded.work {
        LoadedWork::Kernel { launch, .. } => launch.values().map(index).collect(),
        // A compressed weight is as large on the device as it is in the plan.
        LoadedWork::Product(product) => steps[0].inputs.iter().flatten().map(|v| index(*v)).chain([product.out()]).collect(),
    };
    let mut moved: BTreeMap<usize, u64> = BTreeMap::new();
    for v in mentioned {
        let root = program.values[v].root;
        moved.insert(root, bound.bytes(gpu, root) as u64);
    }
    for step in steps {
        let (Op::Gather(_) | Op::GatherElements(_) | Op::GatherNd(_) | Op::Slice(_)) = &step.op else { continue };
        let (Some(Some(from)), Some(to)) = (step.inputs.first(), step.outputs.first()) else { continue };
        if let Some(whole) = moved.get_mut(&program.values[index(*from)].root) {
            *whole = (*whole).min(bound.bytes(gpu, index(*to)) as u64);
        }
    }
    moved.values().sum()
}

/// Multiplications and additions of a matrix product over its source K, 2·M·N·K: what the sparse and the dense product have in common.
fn operations(gpu: &Gpu, bound: &Bound, loaded: &Loaded) -> Option<f64> {
    let step = loaded.steps.end - 1;
    let k = match &bound.ops[step] {
        Op::SparseGemm(gemm) => gemm.layout.k(),
        _ => *bound.shapes[index((*gpu.program.steps[step].inputs.first()?)?)].last()?,
    };
    let out = &bound.shapes[index(*gpu.program.steps[step].outputs.first()?)];
    Some(2.0 * out.iter().product::<usize>() as f64 * k as f64)
}
