//! All samples of a calibration on their way through a graph. What they carry across a cut stays in memory up to a limit, the rest waits in
//! files of a temporary folder.
//!
//! Must not know: why the graph is cut where it is.

use sliderun::dtype::DType;
use sliderun::tensor::Tensor;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::ops::Range;
use std::path::PathBuf;
use tempfile::TempDir;

use super::activations::Rows;
use super::walk::{Live, StepError, Walk};
use super::{Calibration, CalibrationError, Engine};
use crate::ir::{Graph, ValueRef};

/// Bytes of values that samples may hold in memory between two steps, all together.
pub const LIMIT: usize = 1 << 30;

/// The samples, all at the same step.
pub struct Samples<'c> {
    samples: Vec<(&'c str, Held)>,
    limit: usize,
    in_memory: usize,
    folder: Option<TempDir>,
}

/// What a sample carries.
enum Held {
    Memory(Live),
    File(Filed),
    /// While it is being worked on, or after an error.
    Nothing,
}

/// Values in a file, one after the other.
struct Filed {
    path: PathBuf,
    /// The sample without its values.
    rest: Live,
    values: Vec<(ValueRef, DType, Vec<usize>)>,
}

impl<'c> Samples<'c> {
    /// Every sample before the graph's first step. At most `limit` bytes of what they carry are held in memory.
    ///
    /// # Errors
    /// Samples that do not fit the graph, a temporary folder that cannot be written.
    pub fn begin(graph: &Graph, calibration: &'c Calibration, limit: usize) -> Result<Self, CalibrationError> {
        let mut out = Samples { samples: Vec::new(), limit, in_memory: 0, folder: None };
        for (name, inputs) in calibration.samples() {
            let live = Walk::begin(graph, inputs)
                .map_err(|source| CalibrationError::Run { sample: name.to_owned(), source: Box::new(source.into()) })?;
            let held = out.hold(out.samples.len(), live)?;
            out.samples.push((name, held));
        }
        Ok(out)
    }

    /// Takes every sample through a range of steps.
    ///
    /// # Errors
    /// What a kernel finds wrong in data, a device that fails, a temporary folder that cannot be written.
    pub fn advance(&mut self, engine: &Engine, graph: &Graph, walk: &Walk, range: Range<usize>) -> Result<(), CalibrationError> {
        if range.is_empty() {
            return Ok(());
        }
        let ready = engine.ready(graph, walk, range, &BTreeSet::new())?;
        for at in 0..self.samples.len() {
            let mut live = self.take(at)?;
            ready
                .advance::<StepError>(graph, walk, &mut live, |_, _| Ok(()))
                .map_err(|source| CalibrationError::Run { sample: self.samples[at].0.to_owned(), source: Box::new(source) })?;
            self.samples[at].1 = self.hold(at, live)?;
        }
        Ok(())
    }

    /// Hands out a value's rows, [tokens, K], sample by sample.
    ///
    /// # Errors
    /// A value that is NaN or infinite, files that cannot be read.
    ///
    /// # Panics
    /// For a value that no sample carries, or that is not f32, f16 or bf16.
    pub fn rows(&mut self, graph: &Graph, value: ValueRef, visit: &mut dyn FnMut(&[f32])) -> Result<(), CalibrationError> {
        for (sample, held) in &self.samples {
            let read;
            let tensor = match held {
                Held::Memory(live) => &live.values[&value],
                Held::File(filed) => {
                    read = filed.one(value).map_err(CalibrationError::Spill)?;
                    &read
                }
                Held::Nothing => unreachable!("an error has ended the walk"),
            };
            let rows = Rows::of(tensor.view()).expect("callers ask for floats");
            if !rows.are_finite() {
                return Err(CalibrationError::Diverges { sample: (*sample).to_owned(), value: graph.output(value).name.clone() });
            }
            visit(&rows.values);
        }
        Ok(())
    }

    /// Lets go of a value.
    ///
    /// # Errors
    /// Files that cannot be read or written.
    pub fn drop_value(&mut self, value: ValueRef) -> Result<(), CalibrationError> {
        for at in 0..self.samples.len() {
            let mut live = self.take(at)?;
            live.values.remove(&value);
            self.samples[at].1 = self.hold(at, live)?;
        }
        Ok(())
    }

    fn take(&mut self, at: usize) -> Result<Live, CalibrationError> {
        match std::mem::replace(&mut self.samples[at].1, Held::Nothing) {
            Held::Memory(live) => {
                self.in_memory -= bytes(&live);
                Ok(live)
            }
            Held::File(filed) => filed.all().map_err(CalibrationError::Spill),
            Held::Nothing => unreachable!("an error has ended the walk"),
        }
    }

    fn hold(&mut self, at: usize, live: Live) -> Result<Held, CalibrationError> {
        let size = bytes(&live);
        if self.in_memory + size <= self.limit {
            self.in_memory += size;
            return Ok(Held::Memory(live));
        }
        if self.folder.is_none() {
            self.folder = Some(tempfile::tempdir().map_err(CalibrationError::Spill)?);
        }
        let folder = self.folder.as_ref().expect("it was made just now");
        Filed::write(folder.path().join(at.to_string()), live).map(Held::File).map_err(CalibrationError::Spill)
    }
}

fn bytes(live: &Live) -> usize {
    live.values.values().map(|t| t.bytes().len()).sum()
}

impl Filed {
    fn write(path: PathBuf, mut live: Live) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(&path)?);
        let mut values = Vec::with_capacity(live.values.len());
        for (value, tensor) in std::mem::take(&mut live.values) {
            file.write_all(tensor.bytes())?;
            values.push((value, tensor.dtype(), tensor.shape().to_vec()));
        }
        file.flush()?;
        Ok(Filed { path, rest: live, values })
    }

    fn read(&self, wanted: impl Fn(ValueRef) -> bool) -> io::Result<Vec<(ValueRef, Tensor)>> {
        let mut file = BufReader::new(File::open(&self.path)?);
        let mut out = Vec::new();
        for (value, dtype, shape) in &self.values {
            let mut tensor = Tensor::zeros(*dtype, shape).map_err(io::Error::other)?;
            if wanted(*value) {
                file.read_exact(tensor.bytes_mut())?;
                out.push((*value, tensor));
            } else {
                file.seek_relative(i64::try_from(tensor.bytes().len()).map_err(io::Error::other)?)?;
            }
        }
        Ok(out)
    }

    fn one(&self, value: ValueRef) -> io::Result<Tensor> {
        let mut found = self.read(|v| v == value)?;
        Ok(found.pop().expect("callers ask for what samples carry").1)
    }

    fn all(self) -> io::Result<Live> {
        let values = self.read(|_| true)?;
        let mut live = self.rest;
        live.values.extend(values);
        Ok(live)
    }
}
