//! Matrix products by cuSPARSELt and cuBLASLt: what a step's operands are, as the libraries want them.

use std::sync::Arc;

use super::super::SessionError;
use super::super::program::{Program, index, step_error};
use super::base::Base;
use super::plans::{Plans, Rivals};
use super::{device_error, weights};
use crate::cpu::batched_matmul;
use crate::cuda::cublaslt::{DenseMatmul, DenseOperands, DenseProblem, Epilogue, Function, Strides};
use crate::cuda::cusparselt::{Alpha, SparseMatmul, SparseOperands, SparseProblem, SparseWeight};
use crate::cuda::driver::{DeviceSlice, Stream};
use crate::cuda::{CudaError, m_bucket};
use crate::op::Op;
use crate::op::elementwise::Unary;
use crate::plan::manifest::Step;

/// One step's product.
pub struct Product {
    step: usize,
    x: usize,
    /// The right side, unless it is compressed.
    rhs: Option<usize>,
    /// What is added to each row, if anything is.
    bias: Option<usize>,
    out: usize,
    /// Neither it nor the right side is there where the session leaves products out.
    weight: Option<Arc<SparseWeight>>,
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
    pub fn new(program: &Program, step: usize, base: &Base, stream: &Stream) -> Result<Product, SessionError> {
        let s = &program.steps[step];
        let fail = |e: CudaError| device_error(s, e);
        let mut product = Product::left_out(program, step)?;
        let Op::SparseGemm(op) = &s.op else {
            base.plans.need_dense().map_err(fail)?;
            product.rhs = Some(operand(s, 1)?);
            product.bias = s.inputs.get(2).copied().flatten().map(index);
            return Ok(product);
        };
        let (values, positions) = (operand(s, 1)?, operand(s, 2)?);
        product.weight = Some(weights::load(program, s, op, (values, positions), base, stream)?);
        Ok(product)
    }

    /// The product of a session that leaves products out: it has a place for its result, nothing else.
    pub fn left_out(program: &Program, step: usize) -> Result<Product, SessionError> {
        let s = &program.steps[step];
        Ok(Product { step, x: operand(s, 0)?, rhs: None, bias: None, out: index(s.outputs[0]), weight: None })
    }

    /// Operands in device memory that are the program's values.
    pub fn operands(&self) -> Vec<usize> {
        [self.x].into_iter().chain(self.rhs).chain(self.bias).collect()
    }

    pub fn out(&self) -> usize {
        self.out
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
            problem.epilogue = Epilogue { bias: self.bias.is_some(), function: function(step)? };
            problem
        };
        plans.dense(problem).map(Planned::Dense).map_err(fail)
    }

    /// Puts the product into a stream.
    pub fn launch(&self, planned: &Planned, stream: &Stream, places: &Places<'_>) -> Result<(), SessionError> {
        let step = &places.program.steps[self.step];
        let done = match planned {
            Planned::Empty => return Ok(()),
            Planned::LeftOut => return Err(step_error(step, "the session leaves products out, for its kernels only")),
            Planned::Sparse(matmul) => matmul.run(stream, &self.sparse_operands(matmul, places)?),
            Planned::Dense(matmul) => matmul.run(stream, &self.dense_operands(matmul, places)?),
        };
        done.map_err(|e| device_error(step, e))
    }

    /// The product's time beside those of all its library's algorithms; none where there is nothing to compute.
    pub fn rivals(
        &self,
        planned: &Planned,
        plans: &Plans,
        stream: &Stream,
        places: &Places<'_>,
    ) -> Result<Option<Rivals>, SessionError> {
        let found = match planned {
            Planned::Empty | Planned::LeftOut => return Ok(None),
            Planned::Sparse(matmul) => plans.sparse_rivals(matmul, &self.sparse_operands(matmul, places)?, stream),
            Planned::Dense(matmul) => plans.dense_rivals(matmul, &self.dense_operands(matmul, places)?, stream),
        };
        found.map(Some).map_err(|e| device_error(&places.program.steps[self.step], e))
    }

    fn sparse_operands<'p>(&'p self, matmul: &SparseMatmul, places: &Places<'p>) -> Result<SparseOperands<'p>, SessionError> {
        let p = matmul.problem();
        Ok(SparseOperands {
            weight: self.weight.as_ref().expect("a sparse plan has its weight"),
            x: places.slice(self.x, p.m * p.k * p.input.size())?,
            out: places.slice(self.out, p.m * p.n * p.output.size())?,
            alpha: Alpha::Scalar(1.0),
            workspace: places.workspace,
        })
    }

    fn dense_operands<'p>(&self, matmul: &DenseMatmul, places: &Places<'p>) -> Result<DenseOperands<'p>, SessionError> {
        let step = &places.program.steps[self.step];
        let [lhs, rhs, out] = matmul.problem().bytes().map_err(|e| device_error(step, e))?;
        Ok(DenseOperands {
            lhs: places.slice(self.x, lhs)?,
            rhs: places.slice(self.rhs.expect("a dense plan has its right side"), rhs)?,
            out: places.slice(self.out, out)?,
            bias: self.bias.map(|v| places.slice(v, matmul.problem().n * matmul.problem().output.size())).transpose()?,
            alpha: 1.0,
            workspace: places.workspace,
        })
    }
}

/// What the library applies to a MatMul's elements.
fn function(step: &Step) -> Result<Option<Function>, SessionError> {
    let Op::MatMul(op) = &step.op else { return Ok(None) };
    match op.activation {
        None => Ok(None),
        Some(Unary::Relu) => Ok(Some(Function::Relu)),
        Some(Unary::GeluTanh) => Ok(Some(Function::GeluTanh)),
        Some(other) => Err(step_error(step, format!("cuBLASLt does not apply {other:?}"))),
    }
}

/// Where a product's operands lie.
pub struct Places<'p> {
    pub program: &'p Program,
    /// Of a value, on the device.
    pub address: &'p dyn Fn(usize) -> Result<u64, SessionError>,
    pub workspace: DeviceSlice<'p>,
}

impl<'p> Places<'p> {
    fn slice(&self, value: usize, bytes: usize) -> Result<DeviceSlice<'p>, SessionError> {
        // SAFETY: the arena has room for the padded operands (`Bound`), and lasts longer than the stream's work.
        #[allow(unsafe_code)]
        Ok(unsafe { DeviceSlice::from_raw((self.address)(value)?, bytes) })
    }
}

fn operand(step: &Step, i: usize) -> Result<usize, SessionError> {
    step.inputs.get(i).copied().flatten().map(index).ok_or_else(|| step_error(step, format!("operand {i} is missing")))
}
