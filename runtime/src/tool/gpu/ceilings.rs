//! The most that a GPU gives here and now: large copies within its memory, and large dense products.

use std::time::Duration;

use serde::Serialize;

use crate::cuda::CudaError;
use crate::cuda::cublaslt::{CublasLt, DenseMatmul, DenseOperands, DenseProblem};
use crate::cuda::driver::{Context, DeviceBuffer, Stream};
use crate::cuda::timer::Timer;
use crate::dtype::DType;
use crate::tool::random;

/// Sizes of the copies: some chips copy a gigabyte faster than a quarter of one, some the other way round.
const COPIES: [usize; 6] = [64 << 20, 128 << 20, 256 << 20, 512 << 20, 1 << 30, 2 << 30];

/// M, N and K of the products.
const PRODUCT: usize = 8192;

/// Times that each is done before it counts.
const WARM_UP: usize = 2;

/// Counted times, of which the best counts.
const COUNTED: usize = 8;

/// Random elements that operands are made of, by repetition: no divisor of a row, so that rows differ.
const PATTERN: usize = 1_000_003;

/// See the module documentation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Ceilings {
    /// Bytes read and written per second by the best copy, in GB/s; none when no copy fits into memory.
    pub copy_gb_per_s: Option<f64>,
    /// By type of the operands: operations per second of a dense product by cuBLASLt, in 10¹² (TFLOPS, or TOPS for integers).
    pub products: Vec<(DType, f64)>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

impl Ceilings {
    /// Measures on a device, products of operands of these types.
    ///
    /// # Errors
    /// A device that is not there or fails. What does not fit into memory, and products that cuBLASLt cannot do, are only
    /// [`Ceilings::missing`].
    pub fn measure(context: &Context, types: &[DType]) -> Result<Ceilings, CudaError> {
        let stream = Stream::new(context)?;
        let mut ceilings = Ceilings::default();
        for bytes in COPIES {
            match copy(&stream, bytes) {
                Ok(time) => {
                    let rate = 2.0 * bytes as f64 / time.as_secs_f64() / 1e9;
                    ceilings.copy_gb_per_s = Some(ceilings.copy_gb_per_s.unwrap_or(0.0).max(rate));
                }
                Err(e @ CudaError::OutOfMemory { .. }) => ceilings.missing.push(format!("copy of {bytes} bytes: {e}")),
                Err(e) => return Err(e),
            }
        }
        let library = CublasLt::new(context);
        for &dtype in types {
            let measured = library.as_ref().map_err(Clone::clone).and_then(|library| product(library, &stream, dtype));
            match measured {
                Ok(time) => {
                    let operations = 2.0 * (PRODUCT as f64).powi(3);
                    ceilings.products.push((dtype, operations / time.as_secs_f64() / 1e12));
                }
                Err(e) => ceilings.missing.push(format!("product of {dtype}: {e}")),
            }
        }
        Ok(ceilings)
    }

    /// The products' rate for operands of a type, in 10¹² operations per second.
    pub fn product(&self, dtype: DType) -> Option<f64> {
        self.products.iter().find(|(of, _)| *of == dtype).map(|(_, rate)| *rate)
    }
}

fn copy(stream: &Stream, bytes: usize) -> Result<Duration, CudaError> {
    let (from, to) = (DeviceBuffer::new(stream.context(), bytes)?, DeviceBuffer::new(stream.context(), bytes)?);
    from.as_slice().fill(0x5a, stream)?;
    best(stream, || to.as_slice().copy_from(from.as_slice(), stream))
}

fn product(library: &CublasLt, stream: &Stream, dtype: DType) -> Result<Duration, CudaError> {
    let out = match dtype {
        DType::I8 => DType::I32,
        DType::F8e4m3 => DType::Bf16,
        other => other,
    };
    let matmul = DenseMatmul::new(library, &DenseProblem::contiguous((dtype, out), 1, [PRODUCT; 3], true))?;
    // Not zeros: on these a chip draws less power and runs faster.
    let operand =
        |seed| DeviceBuffer::repeating(&random::operand(dtype, PATTERN, seed), PRODUCT * PRODUCT * dtype.size(), stream);
    let (lhs, rhs) = (operand(1)?, operand(2)?);
    let out = DeviceBuffer::new(stream.context(), PRODUCT * PRODUCT * out.size())?;
    let workspace = DeviceBuffer::new(stream.context(), matmul.workspace_bytes())?;
    let operands = DenseOperands {
        lhs: lhs.as_slice(),
        rhs: rhs.as_slice(),
        out: out.as_slice(),
        bias: None,
        alpha: 1.0,
        workspace: workspace.as_slice(),
    };
    best(stream, || matmul.run(stream, &operands))
}

/// The shortest time of some work on the device.
fn best(stream: &Stream, mut work: impl FnMut() -> Result<(), CudaError>) -> Result<Duration, CudaError> {
    for _ in 0..WARM_UP {
        work()?;
    }
    let timer = Timer::new(stream)?;
    let mut best = Duration::MAX;
    for _ in 0..COUNTED {
        best = best.min(timer.time(&mut work)?);
    }
    Ok(best.max(Duration::from_nanos(1)))
}
