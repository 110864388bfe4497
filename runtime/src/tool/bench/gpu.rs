//! What `bench` measures on a GPU alone: replays of the graph, each launch by itself, and the ceilings and clocks to compare them with.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::cuda::driver::Context;
use crate::cuda::nvml::{Monitor, driver_version};
use crate::dtype::DType;
use crate::session::{LaunchTime, LaunchWork, Rivals, Session};
use crate::tensor::TensorView;
use crate::tool::ToolError;
use crate::tool::gpu::ceilings::Ceilings;
use crate::tool::gpu::clocks::{Clocks, Watch};
use crate::tool::latency::Latency;

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
    launches: Vec<LaunchTime>,
    /// For each launch, or none at all.
    rivals: Vec<Option<Rivals>>,
    ceilings: Ceilings,
}

/// A line of the table: one launch, or all that do the same.
struct Row<'a> {
    what: String,
    count: usize,
    time: Duration,
    bytes: u64,
    operations: Option<f64>,
    input: Option<DType>,
    name: &'a str,
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
        let context = Context::new(ordinal).map_err(crate::session::SessionError::from)?;
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
        let (launches, ceilings) = if wanted.launches {
            let launches = session.launch_times(inputs)?;
            let products = launches.iter().filter(|l| l.operations.is_some()).filter_map(|l| l.input);
            let mut types: Vec<DType> = products.chain([DType::I8, DType::Bf16]).collect();
            types.sort_unstable();
            types.dedup();
            let ceilings = Ceilings::measure(&context, &types).map_err(crate::session::SessionError::from)?;
            (launches, ceilings)
        } else {
            (Vec::new(), Ceilings::default())
        };
        let name = context.device().name.clone();
        Ok(GpuBench { name, driver, replay: Latency::of(&times), steady, clocks, launches, rivals, ceilings })
    }

    /// The launches' times added up.
    fn sum(&self) -> Duration {
        self.launches.iter().map(|l| l.time).sum()
    }

    /// Everything.
    pub fn json(&self) -> Json {
        let launches: Vec<Json> = self
            .launches
            .iter()
            .enumerate()
            .map(|(at, l)| {
                let row = Row::of(l);
                let rivals = self.rivals.get(at).copied().flatten();
                let (tflops, gb) = (row.tflops(), row.gb_per_s());
                json!({
                    "step": l.name, "operators": l.operators, "first_step": l.steps.start, "steps": l.steps.len(),
                    "kernel": if let LaunchWork::Kernel(k) = &l.work { Some(k) } else { None },
                    "library": if let LaunchWork::Product(library) = &l.work { Some(library) } else { None },
                    "input": l.input, "microseconds": micros(l.time), "bytes": l.bytes, "operations": l.operations,
                    "gb_per_s": gb, "of_copy": self.of_copy(gb), "tflops": tflops, "of_dense": self.of_dense(&row),
                    "own_algorithm_us": rivals.map(|r| micros(r.own)), "best_algorithm_us": rivals.map(|r| micros(r.best)),
                })
            })
            .collect();
        let (clocks, missing) = match &self.clocks {
            Ok(clocks) => (Some(clocks), None),
            Err(e) => (None, Some(e)),
        };
        json!({
            "name": self.name, "driver": self.driver, "clocks": clocks, "clocks_missing": missing, "ceilings": self.ceilings,
            "steady_replay_us": micros(self.steady), "launches": launches, "launches_sum_us": micros(self.sum()),
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

    /// The launches, each by itself or those that do the same together.
    pub fn table(&self, each: bool, out: &mut dyn Write) -> Result<(), ToolError> {
        if self.launches.is_empty() {
            return Ok(());
        }
        let c = &self.ceilings;
        write!(out, "ceilings:")?;
        if let Some(rate) = c.copy_gb_per_s {
            write!(out, " copy {rate:.0} GB/s,")?;
        }
        let products: Vec<String> = c.products.iter().map(|(dtype, rate)| format!("{dtype} {rate:.0}")).collect();
        writeln!(out, " dense products in TFLOPS: {}", products.join(", "))?;
        for missing in &c.missing {
            writeln!(out, "  not measured: {missing}")?;
        }
        let sum = self.sum();
        let of_steady = sum.as_secs_f64() / self.steady.as_secs_f64().max(1e-12);
        let count = self.launches.len();
        writeln!(out, "{count} launches added up: {:.1} µs, {of_steady:.3} of a replay among many", micros(sum))?;
        let rows: Vec<Row<'_>> = if each { self.launches.iter().map(Row::of).collect() } else { self.grouped() };
        writeln!(
            out,
            "{:>6} {:>10} {:>6} {:>8} {:>8} {:>8} {:>7}  WORK",
            "COUNT", "TIME µs", "SHARE", "TFLOPS", "OF DENSE", "GB/s", "OF COPY"
        )?;
        for row in rows {
            let share = row.time.as_secs_f64() / sum.as_secs_f64().max(1e-12);
            let (tflops, gb) = (row.tflops(), row.gb_per_s());
            let number = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{x:.0}"));
            let percent = |x: Option<f64>| x.map_or("-".to_owned(), |x| format!("{:.0}%", x * 100.0));
            writeln!(
                out,
                "{:>6} {:>10.2} {:>6} {:>8} {:>8} {:>8} {:>7}  {}{}{}",
                row.count,
                micros(row.time),
                percent(Some(share)),
                number(tflops),
                percent(self.of_dense(&row)),
                number(Some(gb)),
                percent(self.of_copy(gb)),
                row.what,
                if each { "  " } else { "" },
                row.name
            )?;
        }
        Ok(())
    }

    /// What the algorithms of products were measured beside, where they were.
    pub fn algorithms(&self, out: &mut dyn Write) -> Result<(), ToolError> {
        let measured: Vec<(&Rivals, &LaunchTime)> =
            self.rivals.iter().zip(&self.launches).filter_map(|(r, l)| Some((r.as_ref()?, l))).collect();
        if measured.is_empty() {
            return Ok(());
        }
        writeln!(
            out,
            "{:>10} {:>10} {:>6} {:>6}  PRODUCT, with the session's algorithm and with the fastest",
            "OWN µs", "BEST µs", "RATIO", "TRIED"
        )?;
        for (Rivals { own, best, tried, untried }, launch) in measured {
            let ratio = own.as_secs_f64() / best.as_secs_f64().max(1e-12);
            let missing = if *untried == 0 { String::new() } else { format!(", {untried} not tried for lack of time") };
            writeln!(out, "{:>10.2} {:>10.2} {ratio:>6.3} {tried:>6}  {}{missing}", micros(*own), micros(*best), launch.name)?;
        }
        Ok(())
    }

    /// Launches that do the same added up, those that take longest first.
    fn grouped(&self) -> Vec<Row<'_>> {
        let mut groups: BTreeMap<String, Row<'_>> = BTreeMap::new();
        for launch in &self.launches {
            let row = Row::of(launch);
            match groups.get_mut(&row.what) {
                Some(group) => {
                    group.count += 1;
                    group.time += row.time;
                    group.bytes += row.bytes;
                    group.operations = group.operations.zip(row.operations).map(|(a, b)| a + b);
                }
                None => drop(groups.insert(row.what.clone(), Row { name: "", ..row })),
            }
        }
        let mut rows: Vec<Row<'_>> = groups.into_values().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.time));
        rows
    }

    fn of_copy(&self, gb_per_s: f64) -> Option<f64> {
        self.ceilings.copy_gb_per_s.map(|most| gb_per_s / most)
    }

    /// Of what a large dense product of the same operands does: above 1 is where sparsity pays.
    fn of_dense(&self, row: &Row<'_>) -> Option<f64> {
        row.tflops().zip(row.input.and_then(|dtype| self.ceilings.product(dtype))).map(|(rate, most)| rate / most)
    }
}

impl Row<'_> {
    fn of(launch: &LaunchTime) -> Row<'_> {
        let mut operators = launch.operators.clone();
        operators.dedup();
        let mut what = operators.join(" ");
        if let LaunchWork::Product(library) = &launch.work {
            let input = launch.input.map_or(String::new(), |dtype| format!(" {dtype}"));
            what = format!("{what}{input}, {library}");
        }
        let LaunchTime { time, bytes, operations, input, name, .. } = launch;
        Row { what, count: 1, time: *time, bytes: *bytes, operations: *operations, input: *input, name }
    }

    fn tflops(&self) -> Option<f64> {
        self.operations.map(|n| n / self.time.as_secs_f64().max(1e-9) / 1e12)
    }

    fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / self.time.as_secs_f64().max(1e-9) / 1e9
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

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
            launches: vec![
                launch("a", kernel(), 100, 100_000_000, None),
                launch("b", LaunchWork::Product("cuSPARSELt"), 200, 2_000_000, Some(4e11)),
                launch("c", kernel(), 100, 300_000_000, None),
            ],
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
            "3 launches added up: 400.0 µs, 1.250 of a replay among many",
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
