//! What values of a graph are on the samples of a calibration.

use half::{bf16, f16};
use sliderun::dtype::DType;
use sliderun::tensor::TensorView;
use std::borrow::Cow;
use std::collections::BTreeSet;

use super::walk::{StepError, Walk};
use super::{Calibration, CalibrationError, Engine};
use crate::ir::{Graph, ValueRef};

/// A value's rows: `values` is [tokens, `width`], row-major.
pub struct Rows<'a> {
    /// The elements, widened exactly.
    pub values: Cow<'a, [f32]>,
    /// The last extent, K; 1 for a value without axes.
    pub width: usize,
}

impl<'a> Rows<'a> {
    /// The rows of an f32, f16 or bf16 tensor, whose leading axes become one. `None` for other types.
    pub fn of(view: TensorView<'a>) -> Option<Self> {
        Some(Rows { values: widened(view)?, width: view.shape.last().copied().unwrap_or(1) })
    }

    /// Whether no element is NaN or an infinity.
    pub fn are_finite(&self) -> bool {
        self.values.iter().all(|v| v.is_finite())
    }
}

/// The elements of an f32, f16 or bf16 tensor.
pub(super) fn widened(view: TensorView<'_>) -> Option<Cow<'_, [f32]>> {
    Some(match view.dtype {
        DType::F32 => Cow::Borrowed(view.as_slice::<f32>()?),
        DType::F16 => view.as_slice::<f16>()?.iter().map(|v| v.to_f32()).collect(),
        DType::Bf16 => view.as_slice::<bf16>()?.iter().map(|v| v.to_f32()).collect(),
        _ => return None,
    })
}

/// Why the walk through a sample ends early.
enum Stop {
    Step(StepError),
    Diverges(ValueRef),
    NotFloat(ValueRef),
}

impl From<StepError> for Stop {
    fn from(error: StepError) -> Self {
        Stop::Step(error)
    }
}

/// Runs the graph on each sample and hands out the rows of `values`, [tokens, K], as soon as they are computed: sample by sample, within a
/// sample in the graph's order, graph inputs first. Nothing is computed that no value depends on, nothing kept that is not read any more;
/// numbers are those of the kernels that run plans on the engine's device.
///
/// # Errors
/// Samples that do not fit, values that are not f32, f16 or bf16, values that are NaN or infinite, and a device that fails.
///
/// # Panics
/// For values that are not of the graph.
pub fn activations(
    graph: &Graph,
    values: &[ValueRef],
    calibration: &Calibration,
    engine: &Engine,
    visit: &mut dyn FnMut(ValueRef, &[f32], usize),
) -> Result<(), CalibrationError> {
    let walk = Walk::to(graph, values);
    let wanted: BTreeSet<ValueRef> = values.iter().copied().collect();
    let ready = engine.ready(graph, &walk, 0..walk.steps().len(), &wanted)?;
    for (sample, inputs) in calibration.samples() {
        let mut see = |value: ValueRef, view: TensorView<'_>| -> Result<(), Stop> {
            if !wanted.contains(&value) {
                return Ok(());
            }
            let rows = Rows::of(view).ok_or(Stop::NotFloat(value))?;
            if !rows.are_finite() {
                return Err(Stop::Diverges(value));
            }
            visit(value, &rows.values, rows.width);
            Ok(())
        };
        let result = Walk::begin(graph, inputs).map_err(|e| Stop::Step(e.into())).and_then(|mut live| {
            live.values.iter().try_for_each(|(value, tensor)| see(*value, tensor.view()))?;
            ready.advance(graph, &walk, &mut live, see)
        });
        result.map_err(|stop| {
            let (sample, name) = (sample.to_owned(), |v| graph.output(v).name.clone());
            match stop {
                Stop::Step(source) => CalibrationError::Run { sample, source: source.into() },
                Stop::Diverges(v) => CalibrationError::Diverges { sample, value: name(v) },
                Stop::NotFloat(v) => CalibrationError::NotFloat { value: name(v), dtype: graph.ty(v).dtype },
            }
        })?;
    }
    Ok(())
}
