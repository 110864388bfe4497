//! Matrix products by cuSPARSELt and cuBLASLt: what a step's operands are, as the libraries want them.

use std::sync::Arc;

use super::super::SessionError;
use super::super::program::{Program, index, step_error};
use super::plans::Plans;
use super::{device_error, is_sparse, weights};
use crate::cpu::batched_matmul;
use crate::cuda::cublaslt::{DenseMatmul, DenseOperands, DenseProblem, Strides};
use crate::cuda::cusparselt::{Alpha, SparseMatmul, SparseOperands, SparseProblem, SparseWeight};
use crate::cuda::driver::{DeviceSlice, Stream};
use crate::cuda::{CudaError, m_bucket};
use crate::op::Op;
use crate::plan::manifest::Step;

/// One step's product.
pub struct Product {
    step: usize,
    x: usize,
    /// The right side, unless it is compressed.
    rhs: Option<usize>,
    out: usize,
    /// Neither it nor the right side is there where the session leaves products out.
    weight: Option<SparseWeight>,
}

/// A product on concrete extents.
pub enum Planned {
    /// Nothing to compute.
    Empty,
    /// The session leaves products out.
    LeftOut,
    Sparse(Arc<SparseMatmul>),
    Dense(Arc<DenseMatmul>),
}

impl Planned {
    pub fn workspace_bytes(&self) -> usize {
        match self {
            Planned::Empty | Planned::LeftOut => 0,
            Planned::Sparse(p) => p.workspace_bytes(),
            Planned::Dense(p) => p.workspace_bytes(),
        }
    }
}

impl Product {
    /// Loads the library and compresses the weight where it is sparse.
    pub fn new(program: &Program, step: usize, plans: &mut Plans, stream: &Stream) -> Result<Product, SessionError> {
        let s = &program.steps[step];
        let fail = |e: CudaError| device_error(s, e);
        let mut product = Product::left_out(program, step)?;
        let Op::SparseGemm(op) = &s.op else {
            plans.need_dense().map_err(fail)?;
            product.rhs = Some(operand(s, 1)?);
            return Ok(product);
        };
        let (values, positions) = (operand(s, 1)?, operand(s, 2)?);
        product.weight = Some(weights::load(program, s, op, (values, positions), plans, stream)?);
        Ok(product)
    }

    /// The product of a session that leaves products out: it has a place for its result, nothing else.
    pub fn left_out(program: &Program, step: usize) -> Result<Product, SessionError> {
        let s = &program.steps[step];
        Ok(Product { step, x: operand(s, 0)?, rhs: None, out: index(s.outputs[0]), weight: None })
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
    pub fn plan(&self, program: &Program, plans: &Plans, shapes: &[Vec<usize>]) -> Result<Planned, SessionError> {
        let step = &program.steps[self.step];
        let fail = |e: CudaError| device_error(step, e);
        let (x, out) = (&shapes[self.x], &shapes[self.out]);
        if out.contains(&0) {
            return Ok(Planned::Empty);
        }
        let dtype = |v: usize| program.values[v].ty.dtype;
        let rows: usize = x[..x.len() - 1].iter().product();
        if let Some(weight) = &self.weight {
            let problem = SparseProblem {
                input: weight.dtype(),
                output: dtype(self.out),
                m: m_bucket(rows),
                n: weight.n(),
                k: weight.k(),
                alpha_vector: false,
                bias: false,
            };
            return plans.sparse(problem, weight).map(Planned::Sparse).map_err(fail);
        }
        let Some(rhs) = self.rhs else { return Ok(Planned::LeftOut) };
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
        plans.dense(problem).map(Planned::Dense).map_err(fail)
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
            Planned::LeftOut => Err(step_error(step, "the session leaves products out, for its kernels only")),
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

fn operand(step: &Step, i: usize) -> Result<usize, SessionError> {
    step.inputs.get(i).copied().flatten().map(index).ok_or_else(|| step_error(step, format!("operand {i} is missing")))
}
