//! Calibration: inputs such as the model sees in use, and what its values are on them. Pruning and quantization weigh by these what they do
//! to a weight.
//!
//! A [`Calibration`] is a list of samples, each one batch of all of the model's inputs by name: one `.npz` file
//! (`numpy.savez("0.npz", input_ids=…, attention_mask=…)`), or a folder of them. An [`Engine`] runs the model on them, on the CPU or a GPU.
//!
//! Must not know: what is calibrated, the command line.

mod activations;
mod cut;
mod engine;
pub(crate) mod held;
mod ready;
mod row_statistics;
pub mod walk;

use sliderun::dim::Bindings;
use sliderun::dtype::DType;
use sliderun::op::TensorType;
use sliderun::plan::manifest::SymbolRange;
use sliderun::session::Port;
use sliderun::tensor::Tensor;
use sliderun::tool::{random, symbols};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use activations::{Rows, activations};
pub use engine::{CalibrationDevice, Engine, EngineError};
pub use row_statistics::{RowStatistics, row_statistics};

use crate::ir::eval::{EvaluateError, bind};
use crate::ir::{Graph, ValueRef};
use crate::verify::{NamedTensors, NpzError, read_npz};
use walk::StepError;

/// Samples of synthetic calibration.
const SYNTHETIC_SAMPLES: u64 = 16;

/// One sample of so many is held apart, where there are at least twice as many.
const HELD_APART: usize = 4;

/// Why a model cannot be calibrated.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[allow(missing_docs)]
pub enum CalibrationError {
    #[error("calibration data: {0}")]
    Archive(#[from] NpzError),
    #[error("the folder '{path}' of calibration data cannot be read")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("the folder '{0}' has no .npz file")]
    #[diagnostic(help("each .npz file in it is to hold one batch of all inputs of the model, by name"))]
    NoSamples(PathBuf),
    #[error("calibration sample '{sample}': '{input}' has no elements")]
    Empty { sample: String, input: String },
    #[error("calibration sample '{sample}': '{input}' contains NaN or an infinity (element {at})")]
    #[diagnostic(help("activations would be NaN too, and nothing could be decided by them; leave such samples out"))]
    NotFinite { sample: String, input: String, at: usize },
    #[error("calibration sample '{sample}' has '{input}', which is no input of the model")]
    Unknown {
        sample: String,
        input: String,
        #[help]
        expected: String,
    },
    #[error("calibration sample '{sample}' does not fit the model: {source}")]
    Input {
        sample: String,
        source: Box<EvaluateError>,
        #[help]
        expected: String,
    },
    #[error("the model cannot be run on calibration sample '{sample}': {source}")]
    Run { sample: String, source: Box<StepError> },
    #[error("samples cannot run on {device}: {source}")]
    #[diagnostic(help("`--calib-device cpu` takes the CPU, auto a GPU only where one can be used"))]
    Device { device: String, source: Arc<EngineError> },
    #[error("on calibration sample '{sample}', '{value}' contains NaN or an infinity")]
    #[diagnostic(help("the model itself overflows there; leave the sample out, or look for a wrong input in it"))]
    Diverges { sample: String, value: String },
    #[error("'{value}' is {dtype}; statistics are kept of f32, f16 and bf16")]
    NotFloat { value: String, dtype: DType },
    #[error("activations do not fit in memory, and the temporary folder does not hold them: {0}")]
    #[diagnostic(help("TMPDIR names another folder"))]
    Spill(std::io::Error),
    #[error("no synthetic inputs can be made for the model: {0}")]
    #[diagnostic(help("give calibration data: one .npz file, or a folder of them, with all inputs of the model by name"))]
    Synthetic(String),
}

/// A name for messages, and one batch of all inputs; calibrations that are split share it.
type Sample = (String, Arc<NamedTensors>);

/// Batches of a model's inputs.
#[derive(Clone, Debug)]
pub struct Calibration {
    samples: Vec<Sample>,
    digest: blake3::Hash,
    synthetic: bool,
}

/// The same samples under the same names.
impl PartialEq for Calibration {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Calibration {
    /// Samples from a `.npz` file or from all `.npz` files of a folder in the order of their names, checked against the graph's inputs.
    ///
    /// # Errors
    /// What [`Calibration::read`] and [`Calibration::check`] find.
    pub fn open(path: &Path, graph: &Graph) -> Result<Self, CalibrationError> {
        let calibration = Calibration::read(path)?;
        calibration.check(graph)?;
        Ok(calibration)
    }

    /// As [`Calibration::open`], while the model is not known yet.
    ///
    /// # Errors
    /// Files that cannot be read, a folder without any, arrays that are empty or not finite.
    pub fn read(path: &Path) -> Result<Self, CalibrationError> {
        let files = if path.is_dir() { archives(path)? } else { vec![path.to_owned()] };
        let samples = files.iter().map(|file| Ok((file.display().to_string(), read_npz(file)?)));
        Calibration::new(samples.collect::<Result<_, CalibrationError>>()?)
    }

    /// Samples, each with a name for messages.
    ///
    /// # Errors
    /// Tensors that are empty or not finite.
    pub fn new(samples: Vec<(String, NamedTensors)>) -> Result<Self, CalibrationError> {
        for (sample, inputs) in &samples {
            for (input, tensor) in inputs {
                if tensor.bytes().is_empty() {
                    return Err(CalibrationError::Empty { sample: sample.clone(), input: input.clone() });
                }
                if let Some(at) = not_finite(tensor) {
                    return Err(CalibrationError::NotFinite { sample: sample.clone(), input: input.clone(), at });
                }
            }
        }
        Ok(Calibration::of(samples.into_iter().map(|(name, inputs)| (name, Arc::new(inputs))).collect(), false))
    }

    fn of(samples: Vec<Sample>, synthetic: bool) -> Self {
        let mut hasher = blake3::Hasher::new();
        for (_, inputs) in &samples {
            for (input, tensor) in inputs.iter() {
                hasher.update(format!("{input:?} {}{:?}", tensor.dtype(), tensor.shape()).as_bytes()).update(tensor.bytes());
            }
            hasher.update(b";");
        }
        Calibration { samples, digest: hasher.finalize(), synthetic }
    }

    /// Samples to decide by, and others to measure on what was decided: every fourth is among the latter. Both are all of them where there are
    /// fewer than eight.
    pub fn split(&self) -> (Calibration, Calibration) {
        if self.samples.len() < 2 * HELD_APART {
            return (self.clone(), self.clone());
        }
        let (apart, rest): (Vec<_>, Vec<_>) =
            self.samples.iter().cloned().enumerate().partition(|(at, _)| at % HELD_APART == HELD_APART - 1);
        let of = |samples: Vec<(usize, Sample)>| Self::of(samples.into_iter().map(|(_, s)| s).collect(), self.synthetic);
        (of(rest), of(apart))
    }

    /// Random inputs, the same for the same seed, for when there is nothing better: token ids below 1000, masks of ones and then zeros, floats
    /// uniform with mean 0 and variance 1; a batch of 1, other symbols 32 where their range allows it. What is decided by them is only as good as they resemble what the model sees in use.
    ///
    /// # Errors
    /// Symbols that no input determines, extents beyond what fits in memory.
    pub fn synthetic(graph: &Graph, seed: u64) -> Result<Self, CalibrationError> {
        let port = |id: &_| graph.output(ValueRef { node: *id, slot: 0 });
        let ports: Vec<Port> = graph.inputs().iter().map(port).map(|o| Port { name: o.name.clone(), ty: o.ty.clone() }).collect();
        let mut mentioned = BTreeSet::new();
        ports.iter().flat_map(|p| &p.ty.shape).for_each(|d| d.symbols(&mut mentioned));
        let range =
            |name: String| graph.symbols.get(&name).cloned().unwrap_or(SymbolRange { name, min: 1, max: i64::from(i32::MAX) });
        let ranges: Vec<SymbolRange> = mentioned.into_iter().map(range).collect();
        let failed = |e: &dyn std::fmt::Display| CalibrationError::Synthetic(e.to_string());
        let bindings = symbols::complete(&Bindings::new(), &ranges).map_err(|e| failed(&e))?;
        let sample = |i| {
            let inputs = random::inputs(&ports, &bindings, seed.wrapping_add(i)).map_err(|e| failed(&e))?;
            Ok((format!("synthetic {i}"), inputs.into_iter().collect::<BTreeMap<String, Tensor>>()))
        };
        let samples = (0..SYNTHETIC_SAMPLES).map(sample).collect::<Result<_, CalibrationError>>()?;
        let calibration = Calibration { synthetic: true, ..Calibration::new(samples)? };
        calibration.check(graph)?;
        Ok(calibration)
    }

    /// What was given or, failing that, something synthetic.
    ///
    /// # Errors
    /// As [`Calibration::synthetic`].
    pub fn or_synthetic<'c>(given: Option<&'c Calibration>, graph: &Graph) -> Result<Cow<'c, Calibration>, CalibrationError> {
        given.map_or_else(|| Calibration::synthetic(graph, 0).map(Cow::Owned), |c| Ok(Cow::Borrowed(c)))
    }

    /// Whether every sample has the graph's inputs and nothing else, of the right types, with extents that agree.
    ///
    /// # Errors
    /// The first that does not fit.
    pub fn check(&self, graph: &Graph) -> Result<(), CalibrationError> {
        let inputs: BTreeMap<&str, &TensorType> = graph
            .inputs()
            .iter()
            .map(|id| graph.output(ValueRef { node: *id, slot: 0 }))
            .map(|o| (o.name.as_str(), &o.ty))
            .collect();
        let expected = || {
            let ports: Vec<String> = inputs.iter().map(|(name, ty)| format!("{name}: {ty}")).collect();
            format!("the model's inputs are {}", ports.join(", "))
        };
        for (sample, given) in self.samples() {
            if let Some(input) = given.keys().find(|name| !inputs.contains_key(name.as_str())) {
                return Err(CalibrationError::Unknown { sample: sample.to_owned(), input: input.clone(), expected: expected() });
            }
            bind(graph, given).map_err(|source| CalibrationError::Input {
                sample: sample.to_owned(),
                source: source.into(),
                expected: expected(),
            })?;
        }
        Ok(())
    }

    /// The samples with the names that messages give them.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = (&str, &NamedTensors)> {
        self.samples.iter().map(|(name, inputs)| (name.as_str(), &**inputs))
    }

    /// Stands for the samples: equal ones have equal digests.
    pub fn digest(&self) -> blake3::Hash {
        self.digest
    }

    /// Whether the samples were made up.
    pub fn is_synthetic(&self) -> bool {
        self.synthetic
    }
}

/// The `.npz` files of a folder in the order of their names.
fn archives(folder: &Path) -> Result<Vec<PathBuf>, CalibrationError> {
    let fail = |source| CalibrationError::Folder { path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(fail)?.collect::<Result<Vec<_>, _>>().map_err(fail)?;
    let mut files: Vec<PathBuf> =
        entries.into_iter().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "npz")).collect();
    files.sort();
    if files.is_empty() { Err(CalibrationError::NoSamples(folder.to_owned())) } else { Ok(files) }
}

/// The first element that is NaN or an infinity.
fn not_finite(tensor: &Tensor) -> Option<usize> {
    match tensor.as_slice::<f64>() {
        Some(values) => values.iter().position(|v| !v.is_finite()),
        None => activations::widened(tensor.view())?.iter().position(|v| !v.is_finite()),
    }
}

#[cfg(test)]
mod tests;
