//! `devices`: the GPUs of this machine and the libraries for them, or what is missing and where it was looked for.

use std::io::Write;

use super::ToolError;
use crate::cuda::driver::{Driver, MINIMUM_VERSION};
use crate::cuda::{CudaError, cublaslt, cusparselt, nvml};

/// Prints a paragraph on each.
///
/// # Errors
/// Those of `out`: what is missing is part of the answer.
pub fn devices(out: &mut dyn Write) -> Result<(), ToolError> {
    let dotted = |version: i32| format!("{}.{}", version / 1000, version % 1000 / 10);
    paragraph(out, "driver", driver_text(dotted))?;
    let sparse = cusparselt::version().map(|(major, minor, patch)| format!("version {major}.{minor}.{patch}"));
    paragraph(out, "cuSPARSELt", sparse)?;
    let dense = cublaslt::version().map(|v| format!("version {}.{}.{}", v / 10_000, v / 100 % 100, v % 100));
    paragraph(out, "cuBLASLt", dense)?;
    paragraph(out, "NVML", nvml::driver_version().map(|v| format!("of driver {v}")))?;
    Ok(())
}

fn driver_text(dotted: impl Fn(i32) -> String) -> Result<String, CudaError> {
    let driver = Driver::get()?;
    let mut text = format!("for CUDA {} ({} is needed)", dotted(driver.version()), dotted(MINIMUM_VERSION));
    for ordinal in 0..driver.device_count()? {
        let d = driver.device(ordinal)?;
        let ((major, minor), gib) = (d.capability, |bytes: usize| bytes as f64 / f64::from(1 << 30));
        text += &format!(
            "\ncuda:{ordinal}: {}, compute capability {major}.{minor}, {} multiprocessors, {:.1} GiB, L2 cache {} MiB",
            d.name,
            d.multiprocessors,
            gib(d.memory),
            d.l2_bytes >> 20
        );
    }
    Ok(text)
}

fn paragraph(out: &mut dyn Write, what: &str, found: Result<String, CudaError>) -> Result<(), ToolError> {
    match found {
        Ok(text) => writeln!(out, "{what}: {text}")?,
        Err(e) => writeln!(out, "{what}: cannot be used: {e}")?,
    }
    Ok(())
}
