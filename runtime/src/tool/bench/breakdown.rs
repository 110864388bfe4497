//! Where the time of a plan goes on a GPU: each launch by itself, against what the GPU can do.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::cuda::driver::Context;
use crate::dtype::DType;
use crate::session::{LaunchTime, LaunchTimes, LaunchWork, Rivals, Session, SessionError};
use crate::tensor::TensorView;
use crate::tool::ToolError;
use crate::tool::gpu::ceilings::Ceilings;
use crate::tool::latency::micros;

/// See the module documentation. Empty where it was not measured.
#[derive(Default)]
pub struct Breakdown {
    /// In the plan's order.
    pub launches: Vec<LaunchTime>,
    /// All of them, one behind the other.
    pub whole: Duration,
    /// For each launch, or none at all.
    pub rivals: Vec<Option<Rivals>>,
    /// Of the same run.
    pub ceilings: Ceilings,
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

impl Breakdown {
    /// Measures each launch, then the ceilings for the types of the products' operands, i8 and bf16; no rivals.
    ///
    /// # Errors
    /// Whatever fails on the device.
    pub fn measure(session: &Session, context: &Context, inputs: &[(&str, TensorView<'_>)]) -> Result<Breakdown, ToolError> {
        let LaunchTimes { launches, whole } = session.launch_times(inputs)?;
        let products = launches.iter().filter(|l| l.operations.is_some()).filter_map(|l| l.input);
        let mut types: Vec<DType> = products.chain([DType::I8, DType::Bf16]).collect();
        types.sort_unstable();
        types.dedup();
        let ceilings = Ceilings::measure(context, &types).map_err(SessionError::from)?;
        Ok(Breakdown { launches, whole, rivals: Vec::new(), ceilings })
    }

    /// The launches' times added up.
    pub fn sum(&self) -> Duration {
        self.launches.iter().map(|l| l.time).sum()
    }

    /// Each launch.
    pub fn json(&self) -> Vec<Json> {
        self.launches
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
            .collect()
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
        let of_whole = sum.as_secs_f64() / self.whole.as_secs_f64().max(1e-12);
        let (count, sum_us, whole) = (self.launches.len(), micros(sum), micros(self.whole));
        writeln!(
            out,
            "{count} launches added up: {sum_us:.1} µs, {of_whole:.3} of what all take one behind the other ({whole:.1} µs)"
        )?;
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
