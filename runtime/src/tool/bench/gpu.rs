//! What `bench` measures on a GPU alone: replays of the graph, clocks and watts meanwhile, and where the time goes.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::breakdown::Breakdown;
use crate::cuda::driver::Context;
use crate::cuda::nvml::{Monitor, driver_version};
use crate::session::{Session, SessionError};
use crate::tensor::TensorView;
use crate::tool::ToolError;
use crate::tool::gpu::clocks::{Clocks, Watch};
use crate::tool::latency::{Latency, micros};

/// Fewest replays that are timed, and how many between two looks at the clock.
const REPLAYS: usize = 200;

/// How long replays go on, so that clocks and power settle and can be read.
const REPLAYING: Duration = Duration::from_secs(1);

/// What is measured beside replays of the whole graph.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Each launch, and the ceilings.
    pub launches: bool,
    /// Each product with all of its library's algorithms.
    pub algorithms: bool,
}

/// See the module documentation.
pub struct GpuBench {
    name: String,
    driver: String,
    /// Of the graph, from device memory to device memory.
    pub replay: Option<Latency>,
    /// Of a replay among many that follow each other without a wait.
    steady: Duration,
    /// While it was replayed; an error where NVML is missing.
    clocks: Result<Clocks, String>,
    breakdown: Breakdown,
}

impl GpuBench {
    /// Measures.
    ///
    /// # Errors
    /// Whatever fails on the device.
    pub fn measure(
        session: &Session,
        ordinal: usize,
        inputs: &[(&str, TensorView<'_>)],
        wanted: Wanted,
        limit: Option<Duration>,
    ) -> Result<GpuBench, ToolError> {
        let context = Context::new(ordinal).map_err(SessionError::from)?;
        let monitor = Monitor::new(context.device());
        let driver = driver_version().unwrap_or_else(|_| "unknown".to_owned());
        let watch = monitor.map(Watch::start).map_err(|e| e.to_string());
        let mut times = session.replay_times(inputs, REPLAYS)?;
        let (start, enough) = (Instant::now(), limit.map_or(REPLAYING, |limit| limit.min(REPLAYING)));
        while start.elapsed() < enough {
            times.extend(session.replay_times(inputs, REPLAYS)?);
        }
        let steady = session.steady_replay_time(inputs, REPLAYS as u32)?;
        let clocks = watch.map(Watch::stop);
        let rivals = if wanted.algorithms { session.rivals(inputs)? } else { Vec::new() };
        let breakdown = if wanted.launches { Breakdown::measure(session, &context, inputs)? } else { Breakdown::default() };
        let breakdown = Breakdown { rivals, ..breakdown };
        let name = context.device().name.clone();
        Ok(GpuBench { name, driver, replay: Latency::of(&times), steady, clocks, breakdown })
    }

    /// Everything.
    pub fn json(&self) -> Json {
        let (clocks, missing) = match &self.clocks {
            Ok(clocks) => (Some(clocks), None),
            Err(e) => (None, Some(e)),
        };
        json!({
            "name": self.name, "driver": self.driver, "clocks": clocks, "clocks_missing": missing, "ceilings": self.breakdown.ceilings,
            "steady_replay_us": micros(self.steady), "launches": self.breakdown.json(), "launches_sum_us": micros(self.breakdown.sum()),
            "launches_whole_us": micros(self.breakdown.whole),
        })
    }

    /// The time of a replay among many that follow each other.
    pub fn write_steady(&self, out: &mut dyn Write) -> Result<(), ToolError> {
        Ok(writeln!(out, "graph replayed again and again, without a wait between: {:.1} µs each", micros(self.steady))?)
    }

    /// What it says above the table of launches.
    pub fn heading(&self, out: &mut dyn Write) -> Result<(), ToolError> {
        writeln!(out, "{}, driver {}", self.name, self.driver)?;
        match &self.clocks {
            Ok(c) => {
                let text = |what: &str, values: Option<[f64; 3]>, limit: Option<f64>| {
                    let limit = limit.map_or(String::new(), |limit| format!(" of {limit:.0}"));
                    values.map(|[least, median, most]| format!("{what} {median:.0}{limit} ({least:.0} to {most:.0})"))
                };
                let parts = [
                    text("multiprocessors MHz", c.sm_mhz, c.limits[0]),
                    text("memory MHz", c.memory_mhz, c.limits[1]),
                    text("W", c.watts, c.limits[2]),
                    text("°C", c.celsius, None),
                ];
                let parts: Vec<String> = parts.into_iter().flatten().collect();
                writeln!(out, "while replaying, {} readings: {}", c.readings, parts.join(", "))?;
            }
            Err(e) => writeln!(out, "no clocks and watts: {e}")?,
        }
        Ok(())
    }

    /// The launches, each by itself or those that do the same together; nothing where they were not measured.
    pub fn table(&self, each: bool, out: &mut dyn Write) -> Result<(), ToolError> {
        self.breakdown.table(each, out)
    }

    /// What the algorithms of products were measured beside, where they were.
    pub fn algorithms(&self, out: &mut dyn Write) -> Result<(), ToolError> {
        self.breakdown.algorithms(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::session::{LaunchTime, LaunchWork, Rivals};
    use crate::tool::gpu::ceilings::Ceilings;

    fn launch(name: &str, work: LaunchWork, micros: u64, bytes: u64, operations: Option<f64>) -> LaunchTime {
        let (operators, input) = match work {
            LaunchWork::Kernel(_) => (vec!["Binary", "Binary", "QuantLift"], DType::Bf16),
            LaunchWork::Product(_) => (vec!["SparseGemm"], DType::I8),
        };
        let time = Duration::from_micros(micros);
        LaunchTime { steps: 0..1, name: name.into(), operators, work, input: Some(input), time, bytes, operations }
    }

    #[test]
    fn launches_are_set_against_ceilings() {
        let kernel = || LaunchWork::Kernel("k".into());
        let bench = GpuBench {
            name: "GPU".into(),
            driver: "1".into(),
            replay: Latency::of(&[Duration::from_micros(400)]),
            steady: Duration::from_micros(320),
            clocks: Err("no NVML".into()),
            breakdown: Breakdown {
                launches: vec![
                    launch("a", kernel(), 100, 100_000_000, None),
                    launch("b", LaunchWork::Product("cuSPARSELt"), 200, 2_000_000, Some(4e11)),
                    launch("c", kernel(), 100, 300_000_000, None),
                ],
                whole: Duration::from_micros(410),
                rivals: vec![
                    None,
                    Some(Rivals { own: Duration::from_micros(210), best: Duration::from_micros(200), tried: 27, untried: 0 }),
                    None,
                ],
                ceilings: Ceilings {
                    copy_gb_per_s: Some(4000.0),
                    products: vec![(DType::I8, 1000.0)],
                    missing: vec!["product of bf16: no library".into()],
                },
            },
        };
        let mut text = Vec::new();
        bench.heading(&mut text).unwrap();
        bench.write_steady(&mut text).unwrap();
        bench.table(false, &mut text).unwrap();
        bench.algorithms(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        for line in [
            "GPU, driver 1",
            "no clocks and watts: no NVML",
            "graph replayed again and again, without a wait between: 320.0 µs each",
            "ceilings: copy 4000 GB/s, dense products in TFLOPS: i8 1000",
            "  not measured: product of bf16: no library",
            "3 launches added up: 400.0 µs, 0.976 of what all take one behind the other (410.0 µs)",
            "     2     200.00    50%        -        -     2000     50%  Binary QuantLift",
            "     1     200.00    50%     2000     200%       10      0%  SparseGemm i8, cuSPARSELt",
            "    210.00     200.00  1.050     27  b",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        let json = bench.json();
        assert_eq!(json["launches"][1]["library"], "cuSPARSELt");
        assert_eq!(
            (&json["launches"][1]["best_algorithm_us"], &json["launches"][0]["best_algorithm_us"]),
            (&200.0.into(), &Json::Null)
        );
        assert_eq!((&json["launches"][2]["gb_per_s"], &json["launches_sum_us"]), (&3000.0.into(), &400.0.into()));
    }
}
