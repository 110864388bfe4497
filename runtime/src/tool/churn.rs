//! `churn`: many runs over many shapes on a GPU, after which nothing may have grown: device memory, the host's memory, the libraries' plans; and
//! each shape must give what it gave at first.

use std::collections::BTreeSet;
use std::io::Write;
use std::time::Instant;

use super::{Target, ToolError, random, symbols};
use crate::cuda::driver::Context;
use crate::dim::Bindings;
use crate::plan::manifest::SymbolRange;
use crate::session::{Device, Session, SessionError};
use crate::splitmix::SplitMix64;
use crate::tensor::{Tensor, TensorView};

/// By how much memory may differ between two looks at it, in bytes: drivers and allocators take and give back whole blocks.
const SLACK: usize = 16 << 20;
/// Looks at memory, after the warm-up.
const LOOKS: usize = 10;
/// How often every shape is run to warm up.
const WARM_UP: usize = 2;

/// What to do.
#[derive(Clone, Debug, Default)]
pub struct ChurnOptions {
    /// The plan and the GPU.
    pub target: Target,
    /// The largest values of symbols; 16 where there is none, or what is next to that in a symbol's range.
    pub largest: Bindings,
    /// Runs, besides the warm-up.
    pub runs: usize,
    /// Different shapes, as far as there are so many.
    pub shapes: usize,
    /// What shapes, their order and random inputs start from.
    pub seed: u64,
}

/// A look at what may grow.
struct Look {
    runs: usize,
    device: usize,
    host: Option<usize>,
    plans: usize,
}

/// Runs, and prints what memory did.
///
/// # Errors
/// [`ToolError::Grown`], a result that is not what the shape gave at first, and everything that can go wrong with the plan and the GPU.
pub fn churn(options: &ChurnOptions, out: &mut dyn Write) -> Result<(), ToolError> {
    let Device::Cuda(ordinal) = options.target.device else { return Err(SessionError::NotOnCuda.into()) };
    let session = options.target.open()?;
    let context = Context::new(ordinal).map_err(SessionError::from)?;
    let mut draw = SplitMix64(options.seed);
    let shapes = shapes(options, session.symbols(), &mut draw)?;
    let mut cases = Vec::with_capacity(shapes.len());
    for (at, shape) in shapes.iter().enumerate() {
        let inputs = random::inputs(session.inputs(), shape, options.seed + at as u64)?;
        let first = digest(&session, &inputs)?;
        cases.push((shape, inputs, first));
    }
    let run = |at: usize| -> Result<(), ToolError> {
        let (shape, inputs, first) = &cases[at];
        if digest(&session, inputs)? == *first {
            Ok(())
        } else {
            Err(ToolError::Grown(format!("{} gives another result than at first", symbols::format(shape))))
        }
    };
    for _ in 1..WARM_UP {
        (0..cases.len()).try_for_each(&run)?;
    }
    let look = |runs| -> Result<Look, ToolError> {
        let (free, total) = context.memory().map_err(SessionError::from)?;
        Ok(Look { runs, device: total - free, host: resident(), plans: session.cuda_report().plans })
    };
    writeln!(out, "{} shapes on {}, {WARM_UP} runs of each before the first line", cases.len(), options.target.device)?;
    writeln!(out, "  {:>8} {:>14} {:>12} {:>8}", "RUNS", "DEVICE MiB", "HOST MiB", "PLANS")?;
    let mut looks = Vec::with_capacity(LOOKS + 1);
    let start = Instant::now();
    for done in 0..=options.runs {
        if done % (options.runs / LOOKS).max(1) == 0 {
            let look = look(done)?;
            let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
            let host = look.host.map_or_else(|| "unknown".to_owned(), |bytes| format!("{:.1}", mib(bytes)));
            writeln!(out, "  {:>8} {:>14.1} {host:>12} {:>8}", look.runs, mib(look.device), look.plans)?;
            out.flush()?;
            looks.push(look);
        }
        if done < options.runs {
            run((draw.next() % cases.len() as u64) as usize)?;
        }
    }
    let each = start.elapsed().as_secs_f64() * 1e3 / options.runs.max(1) as f64;
    writeln!(out, "{} runs, {each:.3} ms each; every shape gives what it gave at first", options.runs)?;
    match grown(&looks) {
        None => Ok(()),
        Some(what) => Err(ToolError::Grown(what)),
    }
}

/// What has grown from the first look to the last.
fn grown(looks: &[Look]) -> Option<String> {
    let (first, last) = (looks.first()?, looks.last()?);
    let more = |what: &str, first: usize, last: usize, slack: usize| {
        (last > first + slack).then(|| format!("{what} grew from {first} to {last}"))
    };
    more("device memory, in bytes,", first.device, last.device, SLACK)
        .or_else(|| more("host memory, in bytes,", first.host?, last.host?, SLACK))
        .or_else(|| more("the number of library plans made", first.plans, last.plans, 0))
}

/// Different values of the symbols.
fn shapes(options: &ChurnOptions, ranges: &[SymbolRange], draw: &mut SplitMix64) -> Result<Vec<Bindings>, ToolError> {
    // Complains of symbols that the plan does not have.
    symbols::complete(&options.largest, ranges)?;
    let largest = |r: &SymbolRange| options.largest.get(&r.name).copied().unwrap_or(16).min(r.max).max(r.min);
    let mut found = BTreeSet::new();
    // Where there are hardly as many as are wanted, drawing them all takes long.
    for _ in 0..options.shapes.max(1) * 20 {
        let mut value = |r: &SymbolRange| r.min + (draw.next() % (largest(r) - r.min + 1) as u64) as i64;
        found.insert(ranges.iter().map(|r| (r.name.clone(), value(r))).collect::<Bindings>());
        if found.len() == options.shapes.max(1) {
            break;
        }
    }
    Ok(found.into_iter().collect())
}

fn digest(session: &Session, inputs: &[(String, Tensor)]) -> Result<blake3::Hash, ToolError> {
    let views: Vec<(&str, TensorView<'_>)> = inputs.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
    let mut hasher = blake3::Hasher::new();
    for (_, tensor) in session.run(&views)? {
        hasher.update(tensor.bytes());
    }
    Ok(hasher.finalize())
}

/// Bytes of this process that are in memory, where the system says.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_seen() {
        let look = |device, host, plans| Look { runs: 0, device, host, plans };
        let grown = |last| grown(&[look(SLACK, Some(SLACK), 7), last]).unwrap_or_default();
        assert_eq!(grown(look(2 * SLACK, Some(SLACK), 7)), "");
        assert_eq!(grown(look(0, None, 7)), "");
        assert!(grown(look(2 * SLACK + 1, Some(SLACK), 7)).contains("device"));
        assert!(grown(look(SLACK, Some(3 * SLACK), 7)).contains("host"));
        assert!(grown(look(SLACK, Some(SLACK), 8)).contains("plans"));
        #[cfg(target_os = "linux")]
        assert!(resident().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn shapes_are_different_and_within_their_ranges() {
        let ranges =
            [("batch", 1, 64), ("seq", 8, 512), ("w", 3, 3)].map(|(name, min, max)| SymbolRange { name: name.into(), min, max });
        let options = ChurnOptions { shapes: 200, largest: Bindings::from([("seq".into(), 40)]), ..ChurnOptions::default() };
        let found = shapes(&options, &ranges, &mut SplitMix64(1)).unwrap();
        assert_eq!(found.len(), 200);
        assert!(found.iter().all(|s| (1..=16).contains(&s["batch"]) && (8..=40).contains(&s["seq"]) && s["w"] == 3));
        let few = ChurnOptions { largest: Bindings::from([("batch".into(), 1), ("seq".into(), 9)]), ..options };
        assert_eq!(shapes(&few, &ranges, &mut SplitMix64(1)).unwrap().len(), 2);
        let unknown = ChurnOptions { largest: Bindings::from([("h".into(), 1)]), ..ChurnOptions::default() };
        assert!(shapes(&unknown, &ranges, &mut SplitMix64(1)).is_err());
    }
}
