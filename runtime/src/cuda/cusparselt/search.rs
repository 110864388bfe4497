//! The fastest of the library's kernels for a problem, by trying them.

use std::sync::Arc;
use std::time::Duration;

use super::{CudaError, CusparseLt, DeviceBuffer, SparseAlgorithm, SparseMatmul, SparseOperands, SparseProblem, Stream};
use crate::cuda::contest::{Ranking, contest};
use crate::dtype::DType;

/// A configuration that was tried.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Which.
    pub algorithm: SparseAlgorithm,
    /// Device time of one run: of the fastest few the median of many, of the others what a short measurement gave.
    pub time: Duration,
    /// The workspace that it needs.
    pub workspace_bytes: usize,
}

/// What a search found.
pub struct SearchResult {
    /// Planned with the best algorithm.
    pub matmul: SparseMatmul,
    /// Device time of one run of what the others had to beat.
    pub first: Duration,
    /// What was tried, the best first.
    pub candidates: Vec<Candidate>,
    /// How many configurations the time did not suffice for.
    pub untried: usize,
}

impl SparseMatmul {
    /// Tries the library's configurations for a problem on these operands, which should hold values as they will occur (energy, and so
    /// speed, depends on them), and plans the product with the best; the first, which is the library's default unless one is given, is
    /// preferred to what is hardly faster. Takes about `budget` for measuring, at least as long as a few runs of the first, and a few
    /// milliseconds for each kernel that the process has not loaded yet. Configurations that need more workspace than is given, or that the library refuses, are left out.
    ///
    /// On compute capability 9.0 only the first is tried for f16: others there have executed illegal instructions, after which a process
    /// can no longer use the GPU.
    ///
    /// # Errors
    /// As [`SparseMatmul::new`] and [`SparseMatmul::run`] for the first configuration; a stream that cannot be captured.
    pub fn search(
        library: &CusparseLt,
        problem: &SparseProblem,
        bias: Option<Arc<DeviceBuffer>>,
        first: Option<SparseAlgorithm>,
        operands: &SparseOperands<'_>,
        stream: &Stream,
        budget: Duration,
    ) -> Result<SearchResult, CudaError> {
        let first = SparseMatmul::new(library, problem, bias.clone(), first)?;
        let guarded = problem.input == DType::F16 && stream.context().device().capability == (9, 0);
        let count = if guarded { 0 } else { first.algorithms() };
        let others = (0..count).filter(|config| *config != first.algorithm().config).collect();
        // A selection that is used for a second configuration makes the library crash: everything is made anew.
        let make = |config| {
            let algorithm = SparseAlgorithm { config, split_k: 1 };
            let matmul = SparseMatmul::new(library, problem, bias.clone(), Some(algorithm)).ok()?;
            (matmul.workspace_bytes() <= operands.workspace.len()).then_some(matmul)
        };
        let run = |matmul: &SparseMatmul, stream: &Stream| matmul.run(stream, operands);
        let Ranking { mut tried, first, untried } = contest(stream, budget, first, others, make, run)?;
        let candidates = tried
            .iter()
            .map(|(time, m)| Candidate { algorithm: m.algorithm(), time: *time, workspace_bytes: m.workspace_bytes() })
            .collect();
        Ok(SearchResult { matmul: tried.swap_remove(0).1, first, candidates, untried })
    }
}
