//! The products that read one activation: statistics of its rows once, then each weight.
//!
//! Must not know: what came before, what comes after.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Checkpoint, Key, Layer, Pending, PruningError, Setting, Task, constant_of};
use crate::calibration::CalibrationError;
use crate::calibration::held::Samples;
use crate::ir::{Constant, Graph, ValueRef};
use crate::options::PruneMethod;
use crate::sparsity::Weight;
use crate::sparsity::prune::hessian::{DAMPING, Factor, Hessian, HessianError};
use crate::sparsity::prune::wanda::Norms;
use crate::sparsity::prune::{Pruned, magnitude, sparsegpt, wanda};

/// Rows whose results are compared at once.
const ROWS: usize = 256;

/// Multiplications that pruning a task's weight takes, about, in units of 2^20.
pub fn work(graph: &Graph, task: &Task) -> u64 {
    let [k, n] = shape(graph, task);
    let each = match task.method {
        PruneMethod::None | PruneMethod::Magnitude | PruneMethod::Wanda => 64,
        // Every row goes through the triangle.
        PruneMethod::SparseGpt => k,
    };
    1 + ((n * k).saturating_mul(each) >> 20)
}

/// Those that the tasks of one activation share.
pub fn work_together<'t>(graph: &Graph, tasks: impl Iterator<Item = &'t Task>) -> u64 {
    let mut factors = tasks.filter(|t| t.method == PruneMethod::SparseGpt).map(|t| shape(graph, t)[0]);
    // A factor takes a third of K³, its inverse another.
    factors.next().map_or(0, |k| (k.saturating_mul(k).saturating_mul(k) * 2 / 3) >> 20)
}

/// K and N; of what is no matrix, nothing.
fn shape(graph: &Graph, task: &Task) -> [u64; 2] {
    let shape = graph.constant(task.product.weight).and_then(|c| <[usize; 2]>::try_from(c.shape.as_slice()).ok());
    shape.unwrap_or_default().map(|extent| extent as u64)
}

/// Prunes the weights of one activation's products; those that the checkpoint knows come from there.
///
/// # Errors
/// As [`super::prune`].
pub fn prune(
    graph: &Graph,
    activation: ValueRef,
    pending: Vec<Pending>,
    mut samples: Option<&mut Samples<'_>>,
    setting: &Setting<'_>,
) -> Result<Vec<(Key, Constant, Layer)>, PruningError> {
    let mut out = Vec::new();
    let mut rest = Vec::new();
    for pending in pending {
        match setting.checkpoint.and_then(|c| known(c, graph, &pending.task)) {
            Some((constant, layer)) => {
                setting.progress.advance(work(graph, &pending.task));
                out.push((pending.key, constant, layer));
            }
            None => rest.push(pending),
        }
    }
    if rest.is_empty() {
        return Ok(out);
    }
    let name = |task: &Task| graph.node(task.product.node).name.as_str();
    setting.progress.say(&rest.iter().map(|p| name(&p.task)).collect::<Vec<_>>().join(", "));
    let statistics = match &mut samples {
        Some(samples) => Statistics::collect(graph, activation, &rest, samples)?,
        None => Statistics::default(),
    };
    let mut pruned = Vec::new();
    for Pending { key, task, weight } in rest {
        let mut after = weight.clone();
        let (total, done) = (work(graph, &task), AtomicU64::new(0));
        let rows_done = |rows: usize| {
            let part = total * rows as u64 / weight.n as u64;
            done.fetch_add(part, Ordering::Relaxed);
            setting.progress.advance(part);
        };
        let (method, note) = statistics.apply(&task, &mut after, &rows_done);
        setting.progress.advance(total - done.into_inner());
        let layer = Layer { method, pruned: Pruned::between(&weight, &after), output_error: None, note };
        pruned.push((key, task, weight, after, layer));
    }
    if let Some(samples) = samples {
        let pairs: Vec<(&Weight, &Weight)> = pruned.iter().map(|(_, _, before, after, _)| (before, after)).collect();
        let errors = output_errors(graph, activation, &pairs, samples)?;
        pruned.iter_mut().zip(errors).for_each(|((.., layer), error)| layer.output_error = Some(error));
    }
    for (key, task, _, after, layer) in pruned {
        let constant = constant_of(graph, &task, &after);
        if let (Some(checkpoint), Some(before)) = (setting.checkpoint, graph.constant(task.product.weight)) {
            checkpoint.store(name(&task), before, &constant, &layer)?;
        }
        out.push((key, constant, layer));
    }
    Ok(out)
}

fn known(checkpoint: &Checkpoint, graph: &Graph, task: &Task) -> Option<(Constant, Layer)> {
    checkpoint.load(&graph.node(task.product.node).name, graph.constant(task.product.weight)?)
}

/// What is known of an activation.
#[derive(Default)]
struct Statistics {
    norms: Option<Norms>,
    factor: Option<Result<Factor, HessianError>>,
}

impl Statistics {
    fn collect(
        graph: &Graph,
        activation: ValueRef,
        pending: &[Pending],
        samples: &mut Samples<'_>,
    ) -> Result<Self, CalibrationError> {
        let wanted = |method| pending.iter().any(|p| p.task.method == method);
        if !wanted(PruneMethod::Wanda) && !wanted(PruneMethod::SparseGpt) {
            return Ok(Statistics::default());
        }
        let k = pending[0].weight.k;
        let mut norms = Norms::new(k);
        samples.rows(graph, activation, &mut |rows| norms.add(rows))?;
        let mut factor = None;
        if wanted(PruneMethod::SparseGpt) {
            // The matrix is gone when it has no factor: it is added up once more.
            for damping in DAMPING {
                factor = Some(factor_of(graph, activation, k, damping, samples)?);
                if !matches!(factor, Some(Err(HessianError::Singular(..)))) {
                    break;
                }
            }
        }
        Ok(Statistics { norms: Some(norms), factor })
    }

    /// Prunes a weight; gives the method that was possible, and what there is to say.
    fn apply(&self, task: &Task, weight: &mut Weight, rows_done: &(dyn Fn(usize) + Sync)) -> (PruneMethod, Option<String>) {
        let Task { pattern, method, .. } = *task;
        let by_norms = |weight: &mut Weight| match &self.norms {
            Some(norms) if !norms.are_zero() => {
                wanda::prune(weight, pattern, norms);
                (PruneMethod::Wanda, None)
            }
            _ => {
                magnitude::prune(weight, pattern);
                (PruneMethod::Magnitude, Some("its inputs are all zero on the calibration data: pruned by magnitude".to_owned()))
            }
        };
        match (method, &self.factor) {
            (PruneMethod::SparseGpt, Some(Ok(factor))) => {
                sparsegpt::prune(weight, pattern, factor, rows_done);
                (method, remarks(factor))
            }
            (PruneMethod::SparseGpt, Some(Err(error))) => {
                let (method, note) = by_norms(weight);
                (method, note.or_else(|| Some(format!("{error}: pruned by {method}"))))
            }
            (PruneMethod::Wanda | PruneMethod::SparseGpt, _) => by_norms(weight),
            (PruneMethod::None | PruneMethod::Magnitude, _) => {
                magnitude::prune(weight, pattern);
                (PruneMethod::Magnitude, None)
            }
        }
    }
}

fn factor_of(
    graph: &Graph,
    activation: ValueRef,
    k: usize,
    damping: f64,
    samples: &mut Samples<'_>,
) -> Result<Result<Factor, HessianError>, CalibrationError> {
    let mut hessian = match Hessian::new(k) {
        Ok(hessian) => hessian,
        Err(error) => return Ok(Err(error)),
    };
    samples.rows(graph, activation, &mut |rows| hessian.add(rows))?;
    Ok(hessian.factor(damping))
}

/// What is unusual about a factor.
fn remarks(factor: &Factor) -> Option<String> {
    let mut out = Vec::new();
    if factor.is_hard() {
        out.push(format!("the Hessian was singular until its diagonal was raised by {} of its mean", factor.damping));
    }
    if factor.dead > 0 {
        out.push(format!("{} of {} inputs are zero on the calibration data", factor.dead, factor.width()));
    }
    (!out.is_empty()).then(|| out.join("; "))
}

/// ‖x·(w - v)ᵀ‖ / ‖x·wᵀ‖ over all rows x, for each pair of a weight w and what it was pruned to, v.
fn output_errors(
    graph: &Graph,
    activation: ValueRef,
    pairs: &[(&Weight, &Weight)],
    samples: &mut Samples<'_>,
) -> Result<Vec<f64>, CalibrationError> {
    let differences: Vec<Vec<f32>> =
        pairs.iter().map(|(before, after)| before.values.iter().zip(&after.values).map(|(b, a)| b - a).collect()).collect();
    let mut sums = vec![(0.0, 0.0); pairs.len()];
    let mut results = Vec::new();
    samples.rows(graph, activation, &mut |rows| {
        for (((before, _), difference), (lost, all)) in pairs.iter().zip(&differences).zip(&mut sums) {
            for rows in rows.chunks(ROWS * before.k) {
                *lost += squares(rows, difference, before, &mut results);
                *all += squares(rows, &before.values, before, &mut results);
            }
        }
    })?;
    Ok(sums.into_iter().map(|(lost, all): (f64, f64)| if lost > 0.0 { (lost / all).sqrt() } else { 0.0 }).collect())
}

/// ‖x·wᵀ‖² of rows x and the elements of a weight of a shape.
fn squares(rows: &[f32], weight: &[f32], shape: &Weight, results: &mut Vec<f32>) -> f64 {
    let (n, k) = (shape.n, shape.k);
    let count = rows.len() / k;
    results.resize(count * n, 0.0);
    let to = MatMut::from_row_major_slice_mut(&mut results[..count * n], count, n);
    let (rows, weight) = (MatRef::from_row_major_slice(rows, count, k), MatRef::from_row_major_slice(weight, n, k));
    matmul(to, Accum::Replace, rows, weight.transpose(), 1.0, Par::rayon(0));
    results[..count * n].iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
}
