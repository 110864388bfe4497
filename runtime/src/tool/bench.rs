//! `bench`: latency of a plan on random inputs.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::json;

use super::latency::Latency;
use super::{Target, ToolError, random, symbols};
use crate::dim::Bindings;
use crate::op::Op;
use crate::plan::manifest::Manifest;
use crate::session::StepTrace;
use crate::tensor::TensorView;

/// Runs that are not counted: they fill caches and bind the shapes.
const WARM_UP: usize = 3;

/// Replays of the graph that are timed on a GPU.
#[cfg(feature = "cuda")]
const REPLAYS: usize = 200;

/// How long a bench without a given end goes on.
const DEFAULT_DURATION: Duration = Duration::from_secs(3);

/// What to measure.
#[derive(Clone, Debug, Default)]
pub struct BenchOptions {
    /// The plan.
    pub target: Target,
    /// Values of symbols; see [`symbols::complete`].
    pub symbols: Bindings,
    /// What the random inputs start from.
    pub seed: u64,
    /// Counted runs; without, as many as fit in `duration`.
    pub iterations: Option<usize>,
    /// How long to go on; three seconds when neither is given.
    pub duration: Option<Duration>,
    /// Also tell where the time goes, by operator.
    pub operators: bool,
    /// Also tell the time of each step, and for matrix products the rate.
    pub steps: bool,
    /// Results as JSON.
    pub json: bool,
}

/// Measures a plan.
///
/// # Errors
/// Everything that can go wrong with the plan and the shapes.
pub fn bench(options: &BenchOptions, out: &mut dyn Write) -> Result<(), ToolError> {
    let start = Instant::now();
    let session = options.target.open()?;
    let load_ms = start.elapsed().as_secs_f64() * 1e3;
    let shape = symbols::complete(&options.symbols, session.symbols())?;
    let tensors = random::inputs(session.inputs(), &shape, options.seed)?;
    let views: Vec<(&str, TensorView<'_>)> = tensors.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
    for _ in 0..WARM_UP {
        session.run(&views)?;
    }

    let limit = match (options.iterations, options.duration) {
        (None, None) => Some(DEFAULT_DURATION),
        (_, duration) => duration,
    };
    let mut latencies = Vec::new();
    let start = Instant::now();
    while options.iterations.is_none_or(|n| latencies.len() < n) && limit.is_none_or(|d| start.elapsed() < d)
        || latencies.is_empty()
    {
        let start = Instant::now();
        session.run(&views)?;
        latencies.push(start.elapsed());
    }

    let mut operators: BTreeMap<&str, (usize, Duration)> = BTreeMap::new();
    let mut steps = Vec::new();
    if options.operators || options.steps {
        let manifest = session.plan().manifest();
        session.run_traced(&views, &mut |step: StepTrace<'_>| {
            if options.steps {
                let operations = product_operations(manifest, &step, &shape);
                let rate = operations.map(|n| n / step.duration.as_secs_f64().max(1e-9) / 1e9);
                steps.push((step.name.to_owned(), step.op.name(), step.duration.as_secs_f64() * 1e3, rate));
            }
            let (count, time) = operators.entry(step.op.name()).or_default();
            *count += 1;
            *time += step.duration;
        })?;
    }
    let mut operators: Vec<_> = operators.into_iter().collect();
    operators.sort_by_key(|(name, (_, time))| (std::cmp::Reverse(*time), *name));

    #[cfg(feature = "cuda")]
    let replays = match options.target.device {
        crate::session::Device::Cuda(_) => Latency::of(&session.replay_times(&views, REPLAYS)?),
        crate::session::Device::Cpu => None,
    };
    #[cfg(not(feature = "cuda"))]
    let replays: Option<Latency> = None;
    let arena = session.arena_size(&shape)?;
    let Some(latency) = Latency::of(&latencies) else { return Ok(()) };
    if options.json {
        let operators: Vec<_> = operators
            .iter()
            .map(|(name, (count, time))| json!({ "operator": name, "steps": count, "milliseconds": time.as_secs_f64() * 1e3 }))
            .collect();
        let report = json!({
            "device": options.target.device.to_string(), "threads": session.threads(), "shape": shape, "latency": latency,
            "replay": replays, "load_ms": load_ms, "arena_bytes": arena.bytes, "arena_lower_bound": arena.lower_bound, "operators": operators,
            "steps": steps
                .iter()
                .map(|(name, op, ms, rate)| json!({ "step": name, "operator": op, "milliseconds": ms, "gop_per_s": rate }))
                .collect::<Vec<_>>(),
        });
        return Ok(writeln!(out, "{report:#}")?);
    }
    let l = latency;
    writeln!(out, "{}, {} threads, {}", options.target.device, session.threads(), symbols::format(&shape))?;
    writeln!(
        out,
        "{} runs: median {:.3} ms, mean {:.3}, min {:.3}, p90 {:.3}, p99 {:.3}, max {:.3}",
        l.runs, l.p50_ms, l.mean_ms, l.min_ms, l.p90_ms, l.p99_ms, l.max_ms
    )?;
    if let Some(r) = replays {
        writeln!(
            out,
            "graph replayed, device to device: median {:.1} µs, min {:.1}, p90 {:.1}, p99 {:.1}",
            r.p50_ms * 1e3,
            r.min_ms * 1e3,
            r.p90_ms * 1e3,
            r.p99_ms * 1e3
        )?;
    }
    writeln!(out, "loaded in {load_ms:.1} ms, working memory {:.1} MiB", arena.bytes as f64 / f64::from(1 << 20))?;
    if options.operators {
        for (name, (count, time)) in operators {
            writeln!(out, "  {name:<24} {count:>5} steps {:>10.3} ms", time.as_secs_f64() * 1e3)?;
        }
    }
    for (name, op, ms, rate) in steps {
        write!(out, "  {ms:>10.3} ms  {op:<16} {name}")?;
        match rate {
            Some(rate) => writeln!(out, "  {rate:.1} GOP/s")?,
            None => writeln!(out)?,
        }
    }
    Ok(())
}

/// Multiplications and additions of a matrix product over its source K, 2·M·N·K; `None` for other steps.
fn product_operations(manifest: &Manifest, step: &StepTrace<'_>, symbols: &Bindings) -> Option<f64> {
    let k = match step.op {
        Op::SparseGemm(gemm) => gemm.layout.k(),
        Op::MatMul(_) | Op::DenseGemm(_) => {
            let lhs = (*manifest.program.steps.get(step.index)?.inputs.first()?)?;
            manifest.program.values.get(lhs.0 as usize)?.ty.shape.last()?.eval_usize(symbols).ok()?
        }
        _ => return None,
    };
    let elements = step.values.first()?.view.elements();
    Some(2.0 * elements as f64 * k as f64)
}
