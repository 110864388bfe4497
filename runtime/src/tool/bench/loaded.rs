//! What `bench` tells of how a plan came onto a GPU.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value as Json, json};

use crate::session::{CudaReport, ProductChoice, VariantChoice};
use crate::tool::ToolError;
use crate::tool::latency::{micros, ms};
use crate::tool::tune::write_variants;

/// Where the time of loading went, and what was chosen.
pub fn write_loaded(report: &CudaReport, out: &mut dyn Write) -> Result<(), ToolError> {
    let parts: Vec<_> = report.load.iter().map(|(what, time)| format!("{what} {:.1}", ms(*time))).collect();
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
    let mib = report.constant_bytes as f64 / f64::from(1 << 20);
    writeln!(out, "  variants made ready: {}; constants and weights on the device: {mib:.1} MiB", report.variants.join(", "))?;
    write_variants(&report.variant_choices, out)?;
    report.warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))?;
    Ok(())
}

/// The same as JSON.
pub fn json_loaded(report: &CudaReport) -> Json {
    let choice = |c: &ProductChoice| {
        json!({
            "product": c.problem, "algorithm": c.algorithm, "default_us": micros(c.default), "best_us": micros(c.best),
            "tried": c.tried, "untried": c.untried, "remembered": c.remembered,
        })
    };
    let chosen = |c: &VariantChoice| {
        let times: BTreeMap<&str, f64> = c.times.iter().map(|(name, time)| (name.as_str(), micros(*time))).collect();
        json!({ "rows": c.rows, "variant": c.variant, "because": c.because.to_string(), "times_us": times })
    };
    json!({
        "loading_ms": report.load.iter().map(|(what, time)| (*what, ms(*time))).collect::<BTreeMap<_, _>>(),
        "weights_compressed": report.weights.compressed, "weights_cached": report.weights.cached, "plans": report.plans,
        "variants": report.variants, "constant_bytes": report.constant_bytes, "warnings": report.warnings,
        "variant_choices": report.variant_choices.iter().map(chosen).collect::<Vec<_>>(),
        "products": report.choices.iter().map(choice).collect::<Vec<_>>(),
    })
}
