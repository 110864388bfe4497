//! `turns`: a plan that stays loaded and is measured when it is told to, so that several engines can take their turns in one run.
//!
//! Reads a command a line and answers each with a line of JSON; what a command failed of is its `error`, and the next may follow.
//! Before the first it says what was loaded.
//!
//! ```text
//! inputs DIR        takes each input from DIR/NAME.npy, and makes their shape ready
//! outputs DIR       runs once and writes the outputs there
//! burst SECONDS     runs that are waited for one by one, on a GPU replays of the graph by the device's clock
//! steady SECONDS    runs that follow each other without a wait
//! launches          on a GPU each launch by itself, and what the device can do (as `bench --json` has them)
//! ```

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::latency::{Latency, micros, ms};
use super::run::{file_name, read_input, save};
use super::{Target, ToolError};
#[cfg(feature = "cuda")]
use crate::session::Device;
use crate::session::Session;
use crate::tensor::{Tensor, TensorView};

/// Fewest runs that are timed, and those from which is guessed how many fill a time.
const FEWEST: usize = 5;

/// Most runs of one command.
const MOST: usize = 1 << 20;

/// A plan on a device, and inputs.
struct Turns {
    session: Session,
    target: Target,
    inputs: Vec<(String, Tensor)>,
    /// Of one run, roughly.
    each: Duration,
}

/// Answers the commands of `commands` until they end.
///
/// # Errors
/// A plan that cannot be loaded, commands that cannot be read, answers that cannot be written.
pub fn turns(target: &Target, commands: &mut dyn BufRead, out: &mut dyn Write) -> Result<(), ToolError> {
    let start = Instant::now();
    let session = target.open()?;
    let inputs: Vec<_> = session.inputs().iter().map(ToString::to_string).collect();
    let loaded = json!({ "device": target.device.to_string(), "load_ms": ms(start.elapsed()), "inputs": inputs });
    let mut turns = Turns { session, target: target.clone(), inputs: Vec::new(), each: Duration::ZERO };
    answer(out, &loaded)?;
    for line in commands.lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        answer(out, &turns.command(&line).unwrap_or_else(|error| json!({ "error": error })))?;
    }
    Ok(())
}

fn answer(out: &mut dyn Write, answer: &Json) -> Result<(), ToolError> {
    writeln!(out, "{answer}")?;
    Ok(out.flush()?)
}

impl Turns {
    fn command(&mut self, line: &str) -> Result<Json, String> {
        let (command, argument) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let folder = Path::new(argument);
        let result = match command {
            "inputs" if !argument.is_empty() => self.read(folder),
            "outputs" if !argument.is_empty() => self.write(folder),
            "burst" => self.burst(seconds(argument)?),
            "steady" => self.steady(seconds(argument)?),
            "launches" => self.launches(),
            _ => {
                return Err(format!(
                    "'{line}' is no command: inputs DIR, outputs DIR, burst SECONDS, steady SECONDS or launches"
                ));
            }
        };
        result.map_err(|e| e.to_string())
    }

    fn views(&self) -> Vec<(&str, TensorView<'_>)> {
        self.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.view())).collect()
    }

    fn read(&mut self, folder: &Path) -> Result<Json, ToolError> {
        let read = |port: &crate::session::Port| {
            let file = folder.join(file_name(&port.name));
            Ok((port.name.clone(), read_input(&file, Some(port.ty.dtype))?))
        };
        self.inputs = self.session.inputs().iter().map(read).collect::<Result<_, ToolError>>()?;
        let start = Instant::now();
        self.session.run(&self.views())?;
        let first = start.elapsed();
        let mut times = self.times(FEWEST)?;
        times.sort();
        self.each = times[times.len() / 2].max(Duration::from_nanos(1));
        #[cfg(feature = "cuda")]
        let variant = match self.target.device {
            Device::Cuda(_) => Some(self.session.variant_of(&self.views())?),
            Device::Cpu => None,
        };
        #[cfg(not(feature = "cuda"))]
        let variant: Option<String> = None;
        Ok(json!({ "first_run_ms": ms(first), "run_us": micros(self.each), "variant": variant }))
    }

    fn write(&self, folder: &Path) -> Result<Json, ToolError> {
        let outputs = self.session.run(&self.views())?;
        Ok(json!({ "files": save(&outputs, folder)? }))
    }

    /// How many runs fill a time.
    fn filling(&self, time: Duration) -> usize {
        let runs = time.as_secs_f64() / self.each.max(Duration::from_nanos(1)).as_secs_f64();
        (runs.ceil() as usize).clamp(FEWEST, MOST)
    }

    fn burst(&self, time: Duration) -> Result<Json, ToolError> {
        Ok(json!({ "latency": Latency::of(&self.times(self.filling(time))?) }))
    }

    fn steady(&self, time: Duration) -> Result<Json, ToolError> {
        let runs = self.filling(time);
        let each = match self.target.device {
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => self.session.steady_replay_time(&self.views(), u32::try_from(runs).unwrap_or(u32::MAX))?,
            _ => self.times(runs)?.iter().sum::<Duration>() / runs as u32,
        };
        Ok(json!({ "runs": runs, "run_us": micros(each) }))
    }

    /// Times of runs that are waited for.
    fn times(&self, runs: usize) -> Result<Vec<Duration>, ToolError> {
        let views = self.views();
        let run = || {
            let start = Instant::now();
            self.session.run(&views)?;
            Ok(start.elapsed())
        };
        match self.target.device {
            #[cfg(feature = "cuda")]
            Device::Cuda(_) => Ok(self.session.replay_times(&views, runs)?),
            _ => (0..runs).map(|_| run()).collect(),
        }
    }

    fn launches(&self) -> Result<Json, ToolError> {
        match self.target.device {
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => {
                let context = crate::cuda::driver::Context::new(ordinal).map_err(crate::session::SessionError::from)?;
                let breakdown = super::bench::breakdown::Breakdown::measure(&self.session, &context, &self.views())?;
                Ok(json!({ "launches": breakdown.json(), "ceilings": breakdown.ceilings }))
            }
            _ => Ok(json!({ "launches": [] })),
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.ok_or_else(|| format!("'{text}' is no number of seconds"))
}
