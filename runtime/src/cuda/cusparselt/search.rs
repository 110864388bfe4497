//! The fastest of the library's kernels for a problem, by trying them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{CudaError, CusparseLt, DeviceBuffer, SparseAlgorithm, SparseMatmul, SparseOperands, SparseProblem, Stream};
use crate::cuda::driver::Event;
use crate::dtype::DType;

/// Runs of one measurement, at most.
const MOST_RUNS: u32 = 20;
/// Candidates that are measured a second time, longer: the first measurement is short.
const FINALISTS: usize = 4;

/// A configuration that was tried.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Which.
    pub algorithm: SparseAlgorithm,
    /// Device time of one run, the least of its measurements.
    pub time: Duration,
    /// The workspace that it needs.
    pub workspace_bytes: usize,
}

/// What a search found.
pub struct SearchResult {
    /// Planned with the best algorithm.
    pub matmul: SparseMatmul,
    /// What was tried, the fastest first.
    pub candidates: Vec<Candidate>,
    /// How many configurations the time did not suffice for.
    pub untried: usize,
}

impl SparseMatmul {
    /// Tries the library's configurations for a problem on these operands, which should hold values as they will occur (energy, and so
    /// speed, depends on them), and plans the product with the best. Takes about `budget` on top of the planning, a millisecond a
    /// configuration, and at least as long as two runs of the default. Configurations that need more workspace than is given, or that
    /// the library refuses, are left out.
    ///
    /// On compute capability 9.0 only the default is tried for f16: others there have executed illegal instructions, after which a process
    /// can no longer use the GPU.
    ///
    /// # Errors
    /// As [`SparseMatmul::new`] and [`SparseMatmul::run`] for the default configuration; a stream that is being captured.
    pub fn search(
        library: &CusparseLt,
        problem: &SparseProblem,
        bias: Option<Arc<DeviceBuffer>>,
        operands: &SparseOperands<'_>,
        stream: &Stream,
        budget: Duration,
    ) -> Result<SearchResult, CudaError> {
        let deadline = Instant::now() + budget;
        let timer = Timer { start: Event::timing(stream.context())?, end: Event::timing(stream.context())? };
        let default = SparseMatmul::new(library, problem, bias.clone(), None)?;
        let count = default.algorithms();
        // Half of the time is for the first measurements, half for the finalists.
        let share = budget / (2 * count.max(1)).unsigned_abs();
        let first = timer.measure(&default, operands, stream, share)?;
        let mut tried = vec![(first, default)];
        let guarded = problem.input == DType::F16 && stream.context().device().capability == (9, 0);
        let mut untried = 0;
        for config in (0..count).filter(|_| !guarded) {
            if tried[0].1.algorithm().config == config {
                continue;
            }
            if Instant::now() >= deadline {
                untried += 1;
                continue;
            }
            // A selection that is used for a second configuration makes the library crash: everything is made anew.
            let algorithm = SparseAlgorithm { config, split_k: 1 };
            let Ok(matmul) = SparseMatmul::new(library, problem, bias.clone(), Some(algorithm)) else { continue };
            if matmul.workspace_bytes() > operands.workspace.len() {
                continue;
            }
            let time = timer.measure(&matmul, operands, stream, share)?;
            tried.push((time, matmul));
        }
        tried.sort_by_key(|(time, _)| *time);
        for (time, matmul) in tried.iter_mut().take(FINALISTS) {
            let left = deadline.saturating_duration_since(Instant::now());
            *time = timer.measure(matmul, operands, stream, left / FINALISTS as u32)?.min(*time);
        }
        tried.sort_by_key(|(time, _)| *time);
        let candidates = tried
            .iter()
            .map(|(time, m)| Candidate { algorithm: m.algorithm(), time: *time, workspace_bytes: m.workspace_bytes() })
            .collect();
        let (_, matmul) = tried.swap_remove(0);
        Ok(SearchResult { matmul, candidates, untried })
    }
}

struct Timer {
    start: Event,
    end: Event,
}

impl Timer {
    /// The device time of one run, on average over as many as fit into `budget`, after some that are not counted.
    fn measure(
        &self,
        matmul: &SparseMatmul,
        operands: &SparseOperands<'_>,
        stream: &Stream,
        budget: Duration,
    ) -> Result<Duration, CudaError> {
        // The first run loads the kernel, which cannot be recorded.
        matmul.run(stream, operands)?;
        let once = self.time(1, matmul, operands, stream)?;
        let runs = (budget.as_nanos() / (2 * once.as_nanos()).max(1)).clamp(1, u128::from(MOST_RUNS)) as u32;
        if runs == 1 { Ok(once) } else { self.time(runs, matmul, operands, stream) }
    }

    /// The second of two replays: a run that the host starts takes a small product longer to start than to compute.
    fn time(
        &self,
        runs: u32,
        matmul: &SparseMatmul,
        operands: &SparseOperands<'_>,
        stream: &Stream,
    ) -> Result<Duration, CudaError> {
        let recorded = stream.capture(|stream| (0..runs).try_for_each(|_| matmul.run(stream, operands)))?.instantiate()?;
        let replay = || {
            stream.record(&self.start)?;
            // SAFETY: the operands and the plan are borrowed until the stream has been waited for, below.
            unsafe { recorded.launch(stream)? };
            stream.record(&self.end)
        };
        let replays = replay().and_then(|()| replay());
        stream.synchronize()?;
        replays?;
        Ok(self.end.since(&self.start)? / runs)
    }
}
