//! Sparse weights on the device: compressed by the library when a plan is loaded, or as an earlier load left them in the cache.
//!
//! What the library compresses to is good for one version of it and one kind of GPU, whatever the number of rows and the algorithm.

use std::sync::Arc;

use super::super::SessionError;
use super::super::program::{Program, Source, step_error};
use super::base::Base;
use super::device_error;
use super::plans::Plans;
use crate::cuda::CudaError;
use crate::cuda::cusparselt::SparseWeight;
use crate::cuda::driver::{DeviceBuffer, Stream};
use crate::op::sparse::SparseGemm;
use crate::plan::manifest::Step;
use crate::sparse::compressed::Compressed;

/// Where they are in the cache.
const KIND: &str = "weights";

/// The weight of a sparse product, whose kept values and positions are these constants.
pub fn load(
    program: &Program,
    step: &Step,
    op: &SparseGemm,
    (values, positions): (usize, usize),
    base: &Base,
    stream: &Stream,
) -> Result<Arc<SparseWeight>, SessionError> {
    let made = || make(program, step, op, (values, positions), &base.plans, stream);
    let blob = |v: usize| if let Source::Blob(id) = program.values[program.values[v].root].source { Some(id) } else { None };
    match (blob(values), blob(positions)) {
        (Some(of_values), Some(of_positions)) => {
            base.weight((of_values, of_positions, program.values[values].ty.dtype, op.layout.clone()), made)
        }
        _ => made().map(Arc::new),
    }
}

fn make(
    program: &Program,
    step: &Step,
    op: &SparseGemm,
    (values, positions): (usize, usize),
    plans: &Plans,
    stream: &Stream,
) -> Result<SparseWeight, SessionError> {
    let fail = |e: CudaError| device_error(step, e);
    let concrete = |v: usize| program.values[v].ty.concrete_shape().unwrap_or_default();
    let (values_shape, positions_shape) = (concrete(values), concrete(positions));
    let library = plans.need_sparse().map_err(fail)?;
    let key = key(program, &library.cache_key(), op, (values, positions));
    let dtype = program.values[values].ty.dtype;
    if let (Some(cache), Some(key), Some(&n)) = (plans.cache(), &key, values_shape.first())
        && let Some(bytes) = cache.get(KIND, key)
        && let Ok(weight) = SparseWeight::from_cached(library, (dtype, n, op.layout.lifted()), &bytes, stream)
    {
        plans.count_weight(true);
        return Ok(weight);
    }
    let constants = (program.constant(values, &values_shape)?, program.constant(positions, &positions_shape)?);
    let (Some(values), Some(positions)) = constants else {
        return Err(step_error(step, "its weight is computed; on CUDA it must be constant"));
    };
    let lifted =
        Compressed::new(&op.layout, values, positions).and_then(|c| c.expand_lifted()).map_err(|e| step_error(step, e))?;
    let [n, k] = [lifted.shape()[0], lifted.shape()[1]];
    let dense = DeviceBuffer::from_host(lifted.bytes(), stream).map_err(fail)?;
    let weight = SparseWeight::compress(library, (lifted.dtype(), n, k), dense.as_slice(), stream).map_err(fail)?;
    plans.count_weight(false);
    if let (Some(cache), Some(key)) = (plans.cache(), &key) {
        cache.keep(KIND, key, &weight.download(stream).map_err(fail)?);
    }
    Ok(weight)
}

/// What a compressed weight depends on; none when it is not made of the plan's blobs. The plan's digests stand for the blobs, which are not
/// read.
fn key(program: &Program, library: &str, op: &SparseGemm, (values, positions): (usize, usize)) -> Option<String> {
    let digest = |v: usize| match program.values[program.values[v].root].source {
        Source::Blob(id) => Some(program.plan.manifest().blobs.get(id.0 as usize)?.digest.to_hex()),
        _ => None,
    };
    let (values_digest, positions_digest) = (digest(values)?, digest(positions)?);
    let layout = blake3::hash(format!("{:?}", op.layout).as_bytes()).to_hex();
    let ty = &program.values[values].ty;
    Some(format!("{library}, weight {ty}, values {values_digest}, positions {positions_digest}, layout {layout}"))
}
