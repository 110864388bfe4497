//! What `bench` tells of how a plan came onto a GPU.

use std::io::Write;

use crate::session::CudaReport;
use crate::tool::ToolError;

/// Where the time of loading went, and what was chosen.
pub fn write_loaded(report: &CudaReport, out: &mut dyn Write) -> Result<(), ToolError> {
    let parts: Vec<_> = report.load.iter().map(|(what, time)| format!("{what} {:.1}", time.as_secs_f64() * 1e3)).collect();
    writeln!(out, "  loading, ms: {}", parts.join(", "))?;
    let remembered = report.choices.iter().filter(|c| c.remembered).count();
    writeln!(
        out,
        "  weights: {} compressed, {} from the cache; products: {} plans, {} algorithms searched, {remembered} remembered",
        report.weights.compressed,
        report.weights.cached,
        report.plans,
        report.choices.len() - remembered,
    )?;
    Ok(())
}
