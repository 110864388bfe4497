//! The libraries' plans of matrix products: made once for each problem, with the algorithm that was found fastest, which is remembered.
//!
//! Must not know: steps, and what the products are for.

mod choice;
mod operands;
mod rivals;

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

pub use choice::ProductChoice;
pub use rivals::Rivals;

use super::lock;
use super::options::Tuning;
use super::report::WeightCounts;
use crate::cuda::cublaslt::{self, CublasLt, DenseAlgorithm, DenseMatmul, DenseOperands, DenseProblem};
use crate::cuda::cusparselt::{Alpha, CusparseLt, SparseAlgorithm, SparseMatmul, SparseOperands, SparseProblem, SparseWeight};
use crate::cuda::driver::{Context, DeviceBuffer, Stream};
use crate::cuda::{CudaError, m_bucket};
use crate::disk_cache::DiskCache;
use crate::timings::ProductKey;
use operands::random_operand;

/// Most plans of dense products that are kept: those of attention depend on every extent, not on a bucket. Making one takes microseconds.
const MAX_DENSE: usize = 1024;
/// Most algorithms of cuBLASLt that are tried for a problem, unless all are.
const QUICK_PROPOSALS: usize = 16;
/// Where choices are in the cache.
const KIND: &str = "algorithms";

/// See the module documentation.
pub struct Plans {
    context: Context,
    tuning: Tuning,
    cache: Option<DiskCache>,
    sparse: OnceLock<CusparseLt>,
    dense: OnceLock<CublasLt>,
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    sparse: HashMap<SparseProblem, Arc<SparseMatmul>>,
    dense: HashMap<DenseProblem, Arc<DenseMatmul>>,
    /// By the problem that stands for others of about its size; none where the library's first proposal is best.
    dense_choices: HashMap<DenseProblem, Option<DenseAlgorithm>>,
    choices: Vec<ProductChoice>,
    plans: usize,
    weights: WeightCounts,
}

impl Plans {
    pub fn new(context: &Context, tuning: Tuning, cache: Option<DiskCache>) -> Self {
        Plans { context: context.clone(), tuning, cache, sparse: OnceLock::new(), dense: OnceLock::new(), made: Mutex::default() }
    }

    /// Loads the library of dense products, unless it is.
    pub fn need_dense(&self) -> Result<&CublasLt, CudaError> {
        loaded(&self.dense, || CublasLt::new(&self.context))
    }

    /// The library of sparse products, loaded when it is first asked for.
    pub fn need_sparse(&self) -> Result<&CusparseLt, CudaError> {
        loaded(&self.sparse, || CusparseLt::new(&self.context))
    }

    /// Says how a sparse weight has come onto the device.
    pub fn count_weight(&self, cached: bool) {
        let mut made = self.made();
        made.weights.cached += usize::from(cached);
        made.weights.compressed += usize::from(!cached);
    }

    /// How the sparse weights have come onto the device.
    pub fn weights(&self) -> WeightCounts {
        self.made().weights
    }

    /// Where results are kept.
    pub fn cache(&self) -> Option<&DiskCache> {
        self.cache.as_ref()
    }

    /// How many plans have been made, and the algorithms that were chosen, in the order in which they were needed.
    pub fn made_so_far(&self) -> (usize, Vec<ProductChoice>) {
        let made = self.made();
        (made.plans, made.choices.clone())
    }

    fn made(&self) -> MutexGuard<'_, Made> {
        lock(&self.made)
    }

    /// The plan of a sparse product; `weight` is one that it is for.
    pub fn sparse(&self, problem: SparseProblem, weight: &SparseWeight) -> Result<Arc<SparseMatmul>, CudaError> {
        let library = self.sparse.get().ok_or_else(|| not_loaded(&problem))?;
        let mut made = self.made();
        if let Some(known) = made.sparse.get(&problem) {
            return Ok(known.clone());
        }
        let key = format!("{}, {problem}", library.cache_key());
        let with = |algorithm| SparseMatmul::new(library, &problem, None, algorithm);
        let mut matmul = None;
        if let Some(choice) = self.remembered::<SparseAlgorithm>(&key, &problem, sparse_product(&problem)) {
            matmul = with(choice.0).ok();
            made.choices.extend(matmul.is_some().then_some(choice.1));
        }
        if let (None, Some(budget)) = (&matmul, self.tuning.budget())
            && let Ok((found, choice)) = self.search_sparse(library, &problem, weight, budget)
        {
            self.remember(&key, &choice);
            made.choices.push(choice);
            matmul = Some(found);
        }
        let matmul = Arc::new(matmul.map_or_else(|| with(None), Ok)?);
        made.plans += 1;
        made.sparse.insert(problem, matmul.clone());
        Ok(matmul)
    }

    /// The plan of a dense product.
    pub fn dense(&self, problem: DenseProblem) -> Result<Arc<DenseMatmul>, CudaError> {
        let library = self.dense.get().ok_or_else(|| not_loaded(&problem))?;
        let mut made = self.made();
        if let Some(known) = made.dense.get(&problem) {
            return Ok(known.clone());
        }
        let class = class(&problem);
        let algorithm = match made.dense_choices.get(&class) {
            Some(known) => *known,
            None => {
                let choice = self.choose_dense(library, &class);
                let algorithm = choice.as_ref().and_then(|(algorithm, _)| *algorithm);
                made.choices.extend(choice.map(|(_, choice)| choice));
                made.dense_choices.insert(class, algorithm);
                algorithm
            }
        };
        let chosen = algorithm.and_then(|algorithm| DenseMatmul::with_algorithm(library, &problem, algorithm).ok());
        let matmul = Arc::new(chosen.map_or_else(|| DenseMatmul::new(library, &problem), Ok)?);
        if made.dense.len() >= MAX_DENSE {
            made.dense.clear();
        }
        made.plans += 1;
        made.dense.insert(problem, matmul.clone());
        Ok(matmul)
    }

    fn choose_dense(&self, library: &CublasLt, problem: &DenseProblem) -> Option<(Option<DenseAlgorithm>, ProductChoice)> {
        let key = format!("{}, {}", library.cache_key(), dense_key(problem));
        let remembered = self.remembered::<DenseAlgorithm>(&key, problem, dense_product(problem));
        if remembered
            .as_ref()
            .is_some_and(|(algorithm, _)| algorithm.is_none_or(|a| DenseMatmul::with_algorithm(library, problem, a).is_ok()))
        {
            return remembered;
        }
        let (algorithm, choice) = self.search_dense(library, problem, self.tuning.budget()?).ok()?;
        self.remember(&key, &choice);
        Some((algorithm, choice))
    }

    /// What is in the cache; no algorithm where the library's own choice is best.
    fn remembered<A: FromStr>(
        &self,
        key: &str,
        problem: &dyn std::fmt::Display,
        product: Option<ProductKey>,
    ) -> Option<(Option<A>, ProductChoice)> {
        let cache = self.cache.as_ref().filter(|_| self.tuning.remembers())?;
        let choice = ProductChoice::parse(&problem.to_string(), product, std::str::from_utf8(&cache.get(KIND, key)?).ok()?)?;
        let algorithm = match &choice.algorithm {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        Some((algorithm, choice))
    }

    fn remember(&self, key: &str, choice: &ProductChoice) {
        if let Some(cache) = &self.cache {
            cache.keep(KIND, key, choice.text().as_bytes());
        }
    }

    fn search_sparse(
        &self,
        library: &CusparseLt,
        problem: &SparseProblem,
        weight: &SparseWeight,
        budget: Duration,
    ) -> Result<(SparseMatmul, ProductChoice), CudaError> {
        let stream = Stream::new(&self.context)?;
        let x = random_operand(&stream, problem.input, problem.m * problem.k * problem.input.size())?;
        let out = DeviceBuffer::new(&self.context, problem.m * problem.n * problem.output.size())?;
        let workspace = DeviceBuffer::new(&self.context, cublaslt::MAX_WORKSPACE)?;
        let operands = SparseOperands {
            weight,
            x: x.as_slice(),
            out: out.as_slice(),
            alpha: Alpha::Scalar(1.0),
            workspace: workspace.as_slice(),
        };
        let found = SparseMatmul::search(library, problem, None, None, &operands, &stream, budget)?;
        let best = found.candidates.first().map_or(found.first, |c| c.time);
        let choice = ProductChoice {
            problem: problem.to_string(),
            product: sparse_product(problem),
            algorithm: Some(found.matmul.algorithm().to_string()),
            default: found.first,
            best,
            tried: found.candidates.len(),
            untried: found.untried,
            remembered: false,
        };
        Ok((found.matmul, choice))
    }

    fn search_dense(
        &self,
        library: &CublasLt,
        problem: &DenseProblem,
        budget: Duration,
    ) -> Result<(Option<DenseAlgorithm>, ProductChoice), CudaError> {
        let stream = Stream::new(&self.context)?;
        let [lhs, rhs, out] = problem.bytes()?;
        let (lhs, rhs) = (random_operand(&stream, problem.input, lhs)?, random_operand(&stream, problem.input, rhs)?);
        let bias = || random_operand(&stream, problem.output, problem.n * problem.output.size());
        let bias = problem.epilogue.bias.then(bias).transpose()?;
        let out = DeviceBuffer::new(&self.context, out)?;
        let workspace = DeviceBuffer::new(&self.context, cublaslt::MAX_WORKSPACE)?;
        let operands = DenseOperands {
            lhs: lhs.as_slice(),
            rhs: rhs.as_slice(),
            out: out.as_slice(),
            bias: bias.as_ref().map(DeviceBuffer::as_slice),
            alpha: 1.0,
            workspace: workspace.as_slice(),
        };
        let most = if self.tuning == Tuning::Exhaustive { usize::MAX } else { QUICK_PROPOSALS };
        let found = DenseMatmul::search(library, problem, None, &operands, &stream, most, budget)?;
        let algorithm = (found.best < found.first).then(|| found.matmul.algorithm());
        let choice = ProductChoice {
            problem: problem.to_string(),
            product: dense_product(problem),
            algorithm: algorithm.map(|a| a.to_string()),
            default: found.first,
            best: found.best,
            tried: found.tried,
            untried: found.untried,
            remembered: false,
        };
        Ok((algorithm, choice))
    }
}

/// A problem as timings know it.
fn sparse_product(problem: &SparseProblem) -> Option<ProductKey> {
    let SparseProblem { input, m, n, k, .. } = *problem;
    Some(ProductKey { sparse: true, input, m, n, k })
}

/// Likewise; none of what is no product with a weight.
fn dense_product(problem: &DenseProblem) -> Option<ProductKey> {
    let DenseProblem { input, m, n, k, .. } = *problem;
    (problem.rhs_transposed && problem.batch == 1).then_some(ProductKey { sparse: false, input, m, n, k })
}

/// A library, loaded when it is first asked for.
fn loaded<L>(place: &OnceLock<L>, load: impl FnOnce() -> Result<L, CudaError>) -> Result<&L, CudaError> {
    if let Some(library) = place.get() {
        return Ok(library);
    }
    let library = load()?;
    Ok(place.get_or_init(|| library))
}

fn not_loaded(problem: &dyn std::fmt::Display) -> CudaError {
    CudaError::Problem { problem: problem.to_string(), reason: "its library is not loaded".to_owned() }
}

/// The problem whose best algorithm is used for this one: of about its size and equally aligned, so that shapes without number need few
/// searches.
fn class(problem: &DenseProblem) -> DenseProblem {
    // As many rows as a bucket has, but no better aligned.
    let about = |extent: usize| match 1 << extent.trailing_zeros().min(4) {
        16 => m_bucket(extent),
        aligned => m_bucket(extent) - 16 + aligned,
    };
    let contiguous = |batch, extents| {
        let types = (problem.input, problem.output);
        let mut of = DenseProblem::contiguous(types, batch, extents, problem.rhs_transposed);
        for (of, own) in [(&mut of.lhs, &problem.lhs), (&mut of.rhs, &problem.rhs)] {
            if own.batch == 0 {
                of.batch = 0;
            }
        }
        DenseProblem { alignment: problem.alignment, epilogue: problem.epilogue, ..of }
    };
    let DenseProblem { m, n, k, batch, .. } = *problem;
    if contiguous(batch, [m, n, k]) != *problem || i32::try_from(m.max(n).max(k).max(batch)).is_err() {
        return problem.clone();
    }
    // A transposed right side is a weight, whose extents are always the same.
    if problem.rhs_transposed {
        contiguous(batch, [about(m), n, k])
    } else {
        contiguous(batch.next_power_of_two(), [about(m), about(n), about(k)])
    }
}

/// A problem with everything that a choice depends on.
fn dense_key(problem: &DenseProblem) -> String {
    let DenseProblem { lhs, rhs, out, rhs_transposed, alignment, .. } = problem;
    let strides = [lhs, rhs, out].map(|s| format!("{}/{}", s.row, s.batch)).join(" ");
    format!("{problem}, strides {strides}, right side {}, aligned to {alignment}", if *rhs_transposed { "N K" } else { "K N" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;

    #[test]
    fn problems_of_about_the_same_size_and_alignment_share_a_choice() {
        let gemm = |m| DenseProblem::contiguous((DType::Bf16, DType::Bf16), 1, [m, 18944, 3584], true);
        assert_eq!(class(&gemm(128)), gemm(128));
        assert_eq!(class(&gemm(1000)), class(&gemm(1016)));
        assert_ne!(class(&gemm(1000)), class(&gemm(1001)));
        let attention = |batch, seq| DenseProblem::contiguous((DType::F32, DType::F32), batch, [seq, seq, 32], false);
        assert_eq!(class(&attention(12, 100)), class(&attention(16, 108)));
        assert_ne!(class(&attention(12, 100)), class(&attention(12, 101)));
        let mut classes = std::collections::HashSet::new();
        for seq in 1..=512 {
            let class = class(&attention(12, seq));
            class.check().unwrap();
            classes.insert(class);
        }
        assert!(classes.len() <= 5 * 16, "{}", classes.len());
        let apart = DenseProblem { out: crate::cuda::cublaslt::Strides { row: 64, batch: 32 * 64 }, ..attention(2, 32) };
        assert_eq!(class(&apart), apart);
    }
}
