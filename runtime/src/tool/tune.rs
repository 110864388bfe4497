//! `tune`: the fastest algorithms of a plan's matrix products on a GPU, found by trying all, and kept for later sessions.

use std::io::Write;
use std::time::Duration;

use super::{Target, ToolError, symbols};
use crate::dim::Bindings;
use crate::disk_cache::DiskCache;
use crate::session::{CacheFolder, Device, ProductChoice, SessionError, Tuning};

/// What to tune.
#[derive(Clone, Debug, Default)]
pub struct TuneOptions {
    /// The plan and the GPU.
    pub target: Target,
    /// Values of symbols, for each shape that is to be fast; see [`symbols::complete`]. One with nothing given where there is none.
    pub shapes: Vec<Bindings>,
}

/// Tries everything for the products of these shapes, keeps what is best, and prints a line for each.
///
/// # Errors
/// A device that is no GPU, no place to keep anything, and everything that can go wrong with the plan and the shapes.
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
    let session = target.open()?;
    let nothing = [Bindings::new()];
    let shapes = if options.shapes.is_empty() { &nothing[..] } else { &options.shapes };
    writeln!(out, "  {:>10} {:>10} {:>6}  {:<10} PRODUCT", "DEFAULT µs", "BEST µs", "TRIED", "ALGORITHM")?;
    let mut printed = 0;
    for shape in shapes {
        let shape = symbols::complete(shape, session.symbols())?;
        session.arena_size(&shape)?;
        let choices = session.cuda_report().choices;
        for choice in &choices[printed..] {
            writeln!(out, "{}", line(choice))?;
        }
        printed = choices.len();
    }
    Ok(writeln!(out, "{printed} choices are kept in {}", folder.display())?)
}

/// A line of the table.
pub fn line(choice: &ProductChoice) -> String {
    let us = |d: Duration| d.as_secs_f64() * 1e6;
    let algorithm: String = choice.algorithm.as_deref().unwrap_or("default").chars().take(10).collect();
    let (default, best, tried) = (us(choice.default), us(choice.best), choice.tried);
    format!("  {default:>10.2} {best:>10.2} {tried:>6}  {algorithm:<10} {}", choice.problem)
}
