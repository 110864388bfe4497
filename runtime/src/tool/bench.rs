//! `bench`: latency of a plan on random inputs, and where the time goes.

#[cfg(feature = "cuda")]
pub mod breakdown;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(feature = "cuda")]
mod loaded;

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

#[cfg(feature = "cuda")]
use gpu::GpuBench;
use serde_json::json;

use super::latency::Latency;
use super::{Target, ToolError, random, symbols};
use crate::dim::Bindings;
use crate::op::Op;
use crate::plan::manifest::Manifest;
#[cfg(feature = "cuda")]
use crate::session::Device;
use crate::session::{Session, StepTrace};
use crate::tensor::TensorView;

/// Runs that are not counted: they fill caches and bind the shapes.
const WARM_UP: usize = 3;

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
    /// Also tell where the time goes, by operator; on a GPU by kind of launch, against what the GPU can do.
    pub operators: bool,
    /// Also tell the time of each step, on a GPU of each launch, and for matrix products the rate.
    pub steps: bool,
    /// On a GPU, also run each matrix product with all of its library's algorithms, which takes seconds for each.
    pub algorithms: bool,
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

    let arena = session.arena_size(&shape)?;
    let Some(latency) = Latency::of(&latencies) else { return Ok(()) };
    let mut report = json!({
        "device": options.target.device.to_string(), "threads": session.threads(), "shape": shape, "latency": latency,
        "load_ms": load_ms, "arena_bytes": arena.bytes, "arena_lower_bound": arena.lower_bound,
    });
    let mut text = Vec::new();
    writeln!(text, "{}, {} threads, {}", options.target.device, session.threads(), symbols::format(&shape))?;
    writeln!(text, "loaded in {load_ms:.1} ms, working memory {:.1} MiB", arena.bytes as f64 / f64::from(1 << 20))?;
    match options.target.device {
        #[cfg(feature = "cuda")]
        Device::Cuda(ordinal) => {
            let launches = options.operators || options.steps || options.json;
            let wanted = gpu::Wanted { launches: launches || options.algorithms, algorithms: options.algorithms };
            let measured = GpuBench::measure(&session, ordinal, &views, wanted, limit)?;
            report["replay"] = json!(measured.replay);
            report["gpu"] = measured.json();
            let loaded = session.cuda_report();
            loaded::write_loaded(&loaded, &mut text)?;
            report["session"] = loaded::json_loaded(&loaded);
            let name = session.variant_of(&views)?;
            let cuda = session.plan().manifest().cuda.as_ref();
            if let Some(variant) = cuda.and_then(|cuda| cuda.variants.get(cuda.position(&name)?)) {
                writeln!(text, "variant {name}: {}", super::inspect::summary(variant))?;
                report["variant"] = json!({ "name": name, "sparse": variant.sparse_share() });
            }
            measured.heading(&mut text)?;
            write_latencies(&[("run with host copies", Some(latency)), ("graph replayed", measured.replay)], &mut text)?;
            measured.write_steady(&mut text)?;
            measured.table(options.steps, &mut text)?;
            measured.algorithms(&mut text)?;
        }
        _ => {
            write_latencies(&[("run", Some(latency))], &mut text)?;
            if options.operators || options.steps {
                let steps = step_times(&session, &views, &shape)?;
                let operators = by_operator(&steps);
                if options.operators {
                    report["operators"] = operators
                        .iter()
                        .map(|(name, (count, ms))| json!({ "operator": name, "steps": count, "milliseconds": ms }))
                        .collect();
                    for (name, (count, ms)) in operators {
                        writeln!(text, "  {name:<24} {count:>5} steps {ms:>10.3} ms")?;
                    }
                }
                if options.steps {
                    report["steps"] = steps.iter().map(StepTime::json).collect();
                    steps.iter().try_for_each(|step| step.text(&mut text))?;
                }
            }
        }
    }
    if options.json {
        writeln!(out, "{report:#}")?
    } else {
        out.write_all(&text)?
    }
    Ok(())
}

fn write_latencies(rows: &[(&str, Option<Latency>)], out: &mut dyn Write) -> Result<(), ToolError> {
    writeln!(
        out,
        "{:<20} {:>8} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
        "µs", "RUNS", "MEDIAN", "MEAN", "MIN", "P90", "P99", "MAX"
    )?;
    for (what, latency) in rows {
        let Some(l) = latency else { continue };
        write!(out, "{what:<20} {:>8}", l.runs)?;
        for ms in [l.p50_ms, l.mean_ms, l.min_ms, l.p90_ms, l.p99_ms, l.max_ms] {
            write!(out, " {:>10.1}", ms * 1e3)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// What one step took on the CPU.
struct StepTime {
    name: String,
    operator: &'static str,
    ms: f64,
    /// Of a matrix product, 10⁹ operations per second.
    rate: Option<f64>,
}

impl StepTime {
    fn json(&self) -> serde_json::Value {
        json!({ "step": self.name, "operator": self.operator, "milliseconds": self.ms, "gop_per_s": self.rate })
    }

    fn text(&self, out: &mut dyn Write) -> Result<(), ToolError> {
        write!(out, "  {:>10.3} ms  {:<16} {}", self.ms, self.operator, self.name)?;
        match self.rate {
            Some(rate) => writeln!(out, "  {rate:.1} GOP/s")?,
            None => writeln!(out)?,
        }
        Ok(())
    }
}

fn step_times(session: &Session, inputs: &[(&str, TensorView<'_>)], symbols: &Bindings) -> Result<Vec<StepTime>, ToolError> {
    let manifest = session.plan().manifest();
    let mut steps = Vec::new();
    session.run_traced(inputs, &mut |step: StepTrace<'_>| {
        let operations = product_operations(manifest, &step, symbols);
        let rate = operations.map(|n| n / step.duration.as_secs_f64().max(1e-9) / 1e9);
        let ms = step.duration.as_secs_f64() * 1e3;
        steps.push(StepTime { name: step.name.to_owned(), operator: step.op.name(), ms, rate });
    })?;
    Ok(steps)
}

/// How many steps of an operator there are and how long they take, those that take longest first.
fn by_operator(steps: &[StepTime]) -> Vec<(&'static str, (usize, f64))> {
    let mut operators: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for step in steps {
        let (count, ms) = operators.entry(step.operator).or_default();
        *count += 1;
        *ms += step.ms;
    }
    let mut operators: Vec<_> = operators.into_iter().collect();
    operators.sort_by(|(_, (_, a)), (_, (_, b))| b.total_cmp(a));
    operators
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
