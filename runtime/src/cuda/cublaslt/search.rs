//! The fastest of the algorithms that the library proposes for a problem, by trying them.

use std::time::Duration;

use super::{CublasLt, CudaError, DenseAlgorithm, DenseMatmul, DenseOperands, DenseProblem, Stream};
use crate::cuda::contest::{Ranking, contest};

/// What a search found.
pub struct DenseSearch {
    /// Planned with the best algorithm.
    pub matmul: DenseMatmul,
    /// Device time of one run of what the others had to beat.
    pub first: Duration,
    /// Device time of one run of the best.
    pub best: Duration,
    /// How many were tried.
    pub tried: usize,
    /// How many the time did not suffice for.
    pub untried: usize,
}

impl DenseMatmul {
    /// Tries the algorithms that the library proposes for a problem, at most `most`, on these operands, and plans the product with the best;
    /// the first, which is what the library proposes first unless one is given, is preferred to what is hardly faster. Takes about `budget`
    /// for measuring, at least as long as a few runs of the first, and a few milliseconds for each kernel that the process has not loaded yet.
    ///
    /// # Errors
    /// As [`DenseMatmul::new`] and [`DenseMatmul::run`] for the first; a stream that cannot be captured.
    pub fn search(
        library: &CublasLt,
        problem: &DenseProblem,
        first: Option<DenseAlgorithm>,
        operands: &DenseOperands<'_>,
        stream: &Stream,
        most: usize,
        budget: Duration,
    ) -> Result<DenseSearch, CudaError> {
        let first = match first {
            Some(algorithm) => DenseMatmul::with_algorithm(library, problem, algorithm)?,
            None => DenseMatmul::new(library, problem)?,
        };
        let mut others = DenseMatmul::proposals(library, problem, most)?;
        others.retain(|algorithm| *algorithm != first.algorithm());
        let make = |algorithm: DenseAlgorithm| DenseMatmul::with_algorithm(library, problem, algorithm).ok();
        let run = |matmul: &DenseMatmul, stream: &Stream| matmul.run(stream, operands);
        let Ranking { mut tried, first, untried } = contest(stream, budget, first, others, make, run)?;
        let count = tried.len();
        let (best, matmul) = tried.swap_remove(0);
        Ok(DenseSearch { matmul, first, best, tried: count, untried })
    }
}
