//! Matrix products by cuSPARSELt and cuBLASLt, planned once for each bucket of M.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::SessionError;
use super::super::program::{Program, index, step_error};
use super::{device_error, is_sparse};
use crate::cpu::batched_matmul;
use crate::cuda::cublaslt::{CublasLt, DenseMatmul, DenseOperands, DenseProblem, Strides};
use crate::cuda::cusparselt::{Alpha, CusparseLt, SparseMatmul, SparseOperands, SparseProblem, SparseWeight};
use crate::cuda::driver::{Context, DeviceBuffer, DeviceSlice, Stream};
use crate::cuda::{CudaError, m_bucket};
use crate::op::Op;
use crate::sparse::compressed::Compressed;

/// The libraries, loaded when the first product needs them.
pub struct Libraries {
    context: Context,
    dense: Option<CublasLt>,
    sparse: Option<CusparseLt>,
}

impl Libraries {
    pub fn new(context: &Context) -> Self {
        Libraries { context: context.clone(), dense: None, sparse: None }
    }

    fn dense(&mut self) -> Result<&CublasLt, CudaError> {
        if self.dense.is_none() {
            self.dense = Some(CublasLt::new(&self.context)?);
        }
        Ok(self.dense.as_ref().expect("just loaded"))
    }

    fn sparse(&mut self) -> Result<&CusparseLt, CudaError> {
        if self.sparse.is_none() {
            self.sparse = Some(CusparseLt::new(&self.context)?);
        }
        Ok(self.sparse.as_ref().expect("just loaded"))
    }
}

/// One step's product.
pub struct Product {
    step: usize,
    x: usize,
    /// The right side, unless it is compressed.
    rhs: Option<usize>,
    out: usize,
    weight: Option<SparseWeight>,
    plans: Mutex<Plans>,
}

#[derive(Default)]
struct Plans {
    sparse: HashMap<usize, Arc<SparseMatmul>>,
    dense: HashMap<DenseProblem, Arc<DenseMatmul>>,
}

/// A product on concrete extents.
pub enum Planned {
    /// Nothing to compute.
    Empty,
    Sparse(Arc<SparseMatmul>),
    Dense(Arc<DenseMatmul>),
}

impl Planned {
    pub fn workspace_bytes(&self) -> usize {
        match self {
            Planned::Empty => 0,
            Planned::Sparse(p) => p.workspace_bytes(),
            Planned::Dense(p) => p.workspace_bytes(),
        }
    }
}

impl Product {
    /// Loads the library and compresses the weight where it is sparse.
    pub fn new(program: &Program, step: usize, libraries: &mut Libraries, stream: &Stream) -> Result<Product, SessionError> {
        let s = &program.steps[step];
        let fail = |e: CudaError| device_error(s, e);
        let operand = |i: usize| {
            s.inputs.get(i).copied().flatten().map(index).ok_or_else(|| step_error(s, format!("operand {i} is missing")))
        };
        let (x, out) = (operand(0)?, index(s.outputs[0]));
        let mut product = Product { step, x, rhs: None, out, weight: None, plans: Mutex::default() };
        let Op::SparseGemm(op) = &s.op else {
            libraries.dense().map_err(fail)?;
            product.rhs = Some(operand(1)?);
            return Ok(product);
        };
        let concrete = |v: usize| program.values[v].ty.concrete_shape().unwrap_or_default();
        let (values, positions) = (operand(1)?, operand(2)?);
        let (values_shape, positions_shape) = (concrete(values), concrete(positions));
        let constants = (program.constant(values, &values_shape)?, program.constant(positions, &positions_shape)?);
        let (Some(values), Some(positions)) = constants else {
            return Err(step_error(s, "its weight is computed; on CUDA it must be constant"));
        };
        let lifted =
            Compressed::new(&op.layout, values, positions).and_then(|c| c.expand_lifted()).map_err(|e| step_error(s, e))?;
        let [n, k] = [lifted.shape()[0], lifted.shape()[1]];
        let dense = DeviceBuffer::from_host(lifted.bytes(), stream).map_err(fail)?;
        let library = libraries.sparse().map_err(fail)?;
        product.weight = Some(SparseWeight::compress(library, (lifted.dtype(), n, k), dense.as_slice(), stream).map_err(fail)?);
        Ok(product)
    }

    /// Operands in device memory that are the program's values.
    pub fn operands(&self) -> Vec<usize> {
        [self.x].into_iter().chain(self.rhs).collect()
    }

    pub fn out(&self) -> usize {
        self.out
    }

    /// The rows of the activation and of the result, and to how many they are padded; `None` where they are not.
    pub fn padded(&self, program: &Program, shapes: &[Vec<usize>]) -> Option<(usize, usize)> {
        let byte = program.values[self.x].ty.dtype.size() == 1;
        (byte || is_sparse(&program.steps[self.step].op)).then(|| {
            let rows: usize = shapes[self.x].split_last().map_or(1, |(_, rows)| rows.iter().product());
            (rows, m_bucket(rows))
        })
    }

    /// The product's plan for these shapes.
    pub fn plan(&self, program: &Program, libraries: &Libraries, shapes: &[Vec<usize>]) -> Result<Planned, SessionError> {
        let step = &program.steps[self.step];
        let fail = |e: CudaError| device_error(step, e);
        let (x, out) = (&shapes[self.x], &shapes[self.out]);
        if out.contains(&0) {
            return Ok(Planned::Empty);
        }
        let dtype = |v: usize| program.values[v].ty.dtype;
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let rows: usize = x[..x.len() - 1].iter().product();
        if let (Some(weight), Some(library)) = (&self.weight, &libraries.sparse) {
            let m = m_bucket(rows);
            if let Some(known) = plans.sparse.get(&m) {
                return Ok(Planned::Sparse(known.clone()));
            }
            let problem = SparseProblem {
                input: weight.dtype(),
                output: dtype(self.out),
                m,
                n: weight.n(),
                k: weight.k(),
                alpha_vector: false,
                bias: false,
            };
            let made = Arc::new(SparseMatmul::new(library, &problem, None, None).map_err(fail)?);
            plans.sparse.insert(m, made.clone());
            return Ok(Planned::Sparse(made));
        }
        let (Some(rhs), Some(library)) = (self.rhs, &libraries.dense) else {
            return Err(step_error(step, "its library is not loaded"));
        };
        let types = (dtype(self.x), dtype(self.out));
        let problem = if let Op::DenseGemm(_) = step.op {
            let m = if types.0.size() == 1 { m_bucket(rows) } else { rows };
            DenseProblem::contiguous(types, 1, [m, shapes[rhs][0], shapes[rhs][1]], true)
        } else {
            let Some(b) = batched_matmul(x, &shapes[rhs]) else {
                return Err(step_error(step, "its batches broadcast in a way that libraries do not multiply"));
            };
            if b.k == 0 {
                return Err(step_error(step, "it sums over nothing, which libraries do not"));
            }
            let mut problem = DenseProblem::contiguous(types, b.batch, [b.m, b.n, b.k], false);
            problem.lhs = Strides { row: b.k, batch: b.lhs_stride };
            problem.rhs = Strides { row: b.n, batch: b.rhs_stride };
            problem
        };
        if let Some(known) = plans.dense.get(&problem) {
            return Ok(Planned::Dense(known.clone()));
        }
        let made = Arc::new(DenseMatmul::new(library, &problem).map_err(fail)?);
        plans.dense.insert(problem, made.clone());
        Ok(Planned::Dense(made))
    }

    /// Puts the product into a stream.
    pub fn launch(
        &self,
        planned: &Planned,
        stream: &Stream,
        address: &dyn Fn(usize) -> Result<u64, SessionError>,
        workspace: DeviceSlice<'_>,
        program: &Program,
    ) -> Result<(), SessionError> {
        let step = &program.steps[self.step];
        // SAFETY: the arena has room for the padded operands (`Bound`), and lasts longer than the stream's work.
        #[allow(unsafe_code)]
        let slice = |v: usize, bytes: usize| Ok::<_, SessionError>(unsafe { DeviceSlice::from_raw(address(v)?, bytes) });
        match planned {
            Planned::Empty => Ok(()),
            Planned::Sparse(matmul) => {
                let p = matmul.problem();
                let operands = SparseOperands {
                    weight: self.weight.as_ref().expect("a sparse plan has its weight"),
                    x: slice(self.x, p.m * p.k * p.input.size())?,
                    out: slice(self.out, p.m * p.n * p.output.size())?,
                    alpha: Alpha::Scalar(1.0),
                    workspace,
                };
                matmul.run(stream, &operands).map_err(|e| device_error(step, e))
            }
            Planned::Dense(matmul) => {
                let [lhs, rhs, out] = matmul.problem().bytes().map_err(|e| device_error(step, e))?;
                let operands = DenseOperands {
                    lhs: slice(self.x, lhs)?,
                    rhs: slice(self.rhs.expect("a dense plan has its right side"), rhs)?,
                    out: slice(self.out, out)?,
                    alpha: 1.0,
                    workspace,
                };
                matmul.run(stream, &operands).map_err(|e| device_error(step, e))
            }
        }
    }
}
