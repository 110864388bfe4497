//! `tune`: the fastest algorithms of a plan's matrix products and the fastest of its variants on a GPU, found by trying all, and
//! kept for later sessions.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::latency::micros;
use super::{Target, ToolError, random, symbols};
use crate::dim::Bindings;
use crate::disk_cache::DiskCache;
use crate::session::{Because, CacheFolder, CudaReport, Device, ProductChoice, SessionError, Tuning, VariantChoice};
use crate::tensor::TensorView;
use crate::timings::{ProductTime, Record, Timed, Timings};

/// What to tune.
#[derive(Clone, Debug, Default)]
pub struct TuneOptions {
    /// The plan and the GPU.
    pub target: Target,
    /// Values of symbols, for each shape that is to be fast; see [`symbols::complete`]. One with nothing given where there is
    /// none.
    pub shapes: Vec<Bindings>,
    /// Where timings are written; beside the plan where this is not said. What is there of other machines and shapes stays.
    pub timings: Option<PathBuf>,
}

/// Tries everything for the products of these shapes, replays each variant of the plan, keeps what is best for this machine and
/// in a file of timings, and prints a line for each.
///
/// # Errors
/// A device that is no GPU, no place to keep anything, a file of timings that is none, and everything that can go wrong with the
/// plan and the shapes.
pub fn tune(options: &TuneOptions, out: &mut dyn Write) -> Result<(), ToolError> {
    let mut target = options.target.clone();
    if target.device == Device::Cpu {
        return Err(SessionError::NotOnCuda.into());
    }
    target.options.cuda.tuning = Tuning::Exhaustive;
    let folder = match &target.options.cuda.cache {
        CacheFolder::Environment => DiskCache::from_env().ok_or(ToolError::NoCache)?.folder().to_owned(),
        CacheFolder::Folder(folder) => folder.clone(),
        CacheFolder::Nowhere => return Err(ToolError::NoCache),
    };
    let path = options.timings.clone().unwrap_or_else(|| Timings::beside(&target.plan));
    let mut timings = if path.exists() { Timings::read(&path)? } else { Timings::default() };
    let session = target.open()?;
    let nothing = [Bindings::new()];
    let shapes = if options.shapes.is_empty() { &nothing[..] } else { &options.shapes };
    writeln!(out, "  {:>10} {:>10} {:>6}  {:<10} PRODUCT", "DEFAULT µs", "BEST µs", "TRIED", "ALGORITHM")?;
    let mut printed = 0;
    for shape in shapes {
        let shape = symbols::complete(shape, session.symbols())?;
        let tensors = random::inputs(session.inputs(), &shape, 0)?;
        let views: Vec<(&str, TensorView<'_>)> = tensors.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
        session.variant_of(&views)?;
        let choices = session.cuda_report().choices;
        for choice in &choices[printed..] {
            writeln!(out, "{}", line(choice))?;
        }
        printed = choices.len();
    }
    let (report, machine) = (session.cuda_report(), session.machine()?);
    write_variants(&report.variant_choices, out)?;
    let plan = session.plan().digest().to_hex().to_string();
    for timed in records(&report, &plan) {
        timings.put(Record { machine: machine.clone(), timed });
    }
    timings.write(&path)?;
    Ok(writeln!(out, "{printed} choices are kept in {}, timings in {}", folder.display(), path.display())?)
}

/// What a session has measured.
fn records(report: &CudaReport, plan: &str) -> Vec<Timed> {
    let product = |c: &ProductChoice| Some(Timed::Product(ProductTime { product: c.product?, micros: micros(c.best) }));
    let variants = |c: &VariantChoice| (c.because == Because::Measured).then(|| Timed::Variants(c.timed(plan)));
    report.choices.iter().filter_map(product).chain(report.variant_choices.iter().filter_map(variants)).collect()
}

/// A line for each number of rows for which a variant was chosen: the variant, why, and what each takes.
///
/// # Errors
/// Those of `out`.
pub fn write_variants(choices: &[VariantChoice], out: &mut dyn Write) -> Result<(), ToolError> {
    for choice in choices {
        let time = |(name, time): &(String, Duration)| format!("{name} {:.1} µs", micros(*time));
        let times: Vec<String> = choice.times.iter().map(time).collect();
        let times = if times.is_empty() { String::new() } else { format!(": {}", times.join(", ")) };
        writeln!(out, "  variant {} for {} rows, {}{times}", choice.variant, choice.rows, choice.because)?;
    }
    Ok(())
}

/// A line of the table.
pub fn line(choice: &ProductChoice) -> String {
    let algorithm: String = choice.algorithm.as_deref().unwrap_or("default").chars().take(10).collect();
    let (default, best, tried) = (micros(choice.default), micros(choice.best), choice.tried);
    format!("  {default:>10.2} {best:>10.2} {tried:>6}  {algorithm:<10} {}", choice.problem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::timings::ProductKey;

    #[test]
    fn what_was_measured_now_is_kept() {
        let key = ProductKey { sparse: true, input: DType::I8, m: 512, n: 64, k: 96 };
        let micros = Duration::from_micros;
        let choice = |product| ProductChoice {
            problem: "p".into(),
            product,
            algorithm: None,
            default: micros(9),
            best: micros(8),
            tried: 1,
            untried: 0,
            remembered: false,
        };
        let times = vec![("sparse".to_owned(), micros(30)), ("dense".to_owned(), micros(20))];
        let variant = |rows, because| VariantChoice { rows, variant: "dense".into(), because, times: times.clone() };
        let report = CudaReport {
            choices: vec![choice(Some(key)), choice(None)],
            variant_choices: vec![variant(32, Because::Measured), variant(64, Because::Remembered)],
            ..CudaReport::default()
        };
        let [Timed::Product(product), Timed::Variants(variants)] = &records(&report, "ab")[..] else { panic!("two records") };
        assert_eq!(*product, ProductTime { product: key, micros: 8.0 });
        assert_eq!((variants.plan.as_str(), variants.rows, variants.fastest.as_str()), ("ab", 32, "dense"));
        assert_eq!(variants.micros["sparse"], 30.0);
        let mut out = Vec::new();
        write_variants(&report.variant_choices, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().next(), Some("  variant dense for 32 rows, measured: sparse 30.0 µs, dense 20.0 µs"));
    }
}
