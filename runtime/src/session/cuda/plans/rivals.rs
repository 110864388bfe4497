//! How a product's algorithm does beside all others of its library, on the operands that it has in a plan.

use std::time::Duration;

use super::{Plans, not_loaded};
use crate::cuda::CudaError;
use crate::cuda::cublaslt::{DenseMatmul, DenseOperands};
use crate::cuda::cusparselt::{SparseMatmul, SparseOperands};
use crate::cuda::driver::Stream;

/// Enough to try everything.
const BUDGET: Duration = Duration::from_secs(10);

/// Times of one contest, in which each algorithm takes its turn in each round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rivals {
    /// Of one run with the algorithm that the session uses.
    pub own: Duration,
    /// Of one run with the fastest: the session's own, unless another is faster by a hundredth.
    pub best: Duration,
    /// How many ran, the session's own included.
    pub tried: usize,
    /// How many the time did not suffice for.
    pub untried: usize,
}

impl Plans {
    pub fn sparse_rivals(&self, own: &SparseMatmul, operands: &SparseOperands<'_>, stream: &Stream) -> Result<Rivals, CudaError> {
        let library = self.sparse.get().ok_or_else(|| not_loaded(own.problem()))?;
        let found = SparseMatmul::search(library, own.problem(), None, Some(own.algorithm()), operands, stream, BUDGET)?;
        let best = found.candidates.first().map_or(found.first, |c| c.time);
        Ok(Rivals { own: found.first, best, tried: found.candidates.len(), untried: found.untried })
    }

    pub fn dense_rivals(&self, own: &DenseMatmul, operands: &DenseOperands<'_>, stream: &Stream) -> Result<Rivals, CudaError> {
        let library = self.dense.get().ok_or_else(|| not_loaded(own.problem()))?;
        let found = DenseMatmul::search(library, own.problem(), Some(own.algorithm()), operands, stream, usize::MAX, BUDGET)?;
        Ok(Rivals { own: found.first, best: found.best, tried: found.tried, untried: found.untried })
    }
}
