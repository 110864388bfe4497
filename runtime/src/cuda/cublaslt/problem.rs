//! What cuBLASLt can be asked for.

use std::fmt;

use super::CudaError;
use crate::cuda::dtype::extent;
use crate::dtype::DType;

/// Element types of the operands and of the output.
const TYPES: &[(DType, DType)] = &[
    (DType::I8, DType::I32),
    (DType::F8e4m3, DType::F32),
    (DType::F8e4m3, DType::Bf16),
    (DType::F8e4m3, DType::F16),
    (DType::Bf16, DType::Bf16),
    (DType::Bf16, DType::F32),
    (DType::F16, DType::F16),
    (DType::F16, DType::F32),
    (DType::F32, DType::F32),
];

/// How a matrix of a batch lies in memory, in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Strides {
    /// From one row to the next; columns are contiguous.
    pub row: usize,
    /// From one matrix of the batch to the next; 0 when all read the same.
    pub batch: usize,
}

/// What is done to the f32 sums before they are rounded to the output's type. Integers have none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epilogue {
    /// Whether a vector of N elements of the output's type is added to each row.
    pub bias: bool,
    /// What is applied to each element last.
    pub function: Option<Function>,
}

/// A function that the library applies to the elements of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// `max(x, 0)`.
    Relu,
    /// GELU by its tanh approximation: what the library calls GELU.
    GeluTanh,
}

/// `out[b, M, N] = epilogue(alpha · lhs[b, M, K] · rhs[b, K, N])`, row-major; the right side may lie transposed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DenseProblem {
    /// Of both operands: i8, f8e4m3, bf16, f16 or f32.
    pub input: DType,
    /// Of the output: i32 for i8; f32, bf16 or f16 for f8e4m3; f32 or the input's for the others.
    pub output: DType,
    /// Rows of the left side.
    pub m: usize,
    /// Columns of the right side.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// Whether the right side lies as [N, K]. It must for i8 and f8e4m3.
    pub rhs_transposed: bool,
    /// Matrices in the batch.
    pub batch: usize,
    /// Of the left side.
    pub lhs: Strides,
    /// Of the right side, as it lies.
    pub rhs: Strides,
    /// Of the output.
    pub out: Strides,
    /// What the addresses of the first matrices are multiples of, in bytes: a power of two from the size of an element to 256. More gives more kernels to choose
    /// from.
    pub alignment: usize,
    /// What is done to the sums.
    pub epilogue: Epilogue,
}

impl DenseProblem {
    /// Contiguous matrices, one or a batch of them one behind the other, at addresses that are multiples of 16.
    pub fn contiguous(
        (input, output): (DType, DType),
        batch: usize,
        [m, n, k]: [usize; 3],
        rhs_transposed: bool,
    ) -> DenseProblem {
        let strides = |rows: usize, cols: usize| Strides { row: cols, batch: rows.saturating_mul(cols) };
        let (lhs, rhs, out) = (strides(m, k), if rhs_transposed { strides(n, k) } else { strides(k, n) }, strides(m, n));
        let epilogue = Epilogue::default();
        DenseProblem { input, output, m, n, k, rhs_transposed, batch, lhs, rhs, out, alignment: 16, epilogue }
    }

    /// What M, N and K must be multiples of for these operands.
    pub fn granularity(input: DType) -> [usize; 3] {
        match input {
            // Tensor cores take 8-bit operands 16 bytes at a time. Rows of fp8 activations are free.
            DType::I8 => [16, 16, 16],
            DType::F8e4m3 => [1, 16, 16],
            _ => [1, 1, 1],
        }
    }

    fn refused(&self, reason: String) -> CudaError {
        CudaError::Problem { problem: self.to_string(), reason }
    }

    /// Whether there is such a problem, before the library is asked.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn check(&self) -> Result<(), CudaError> {
        if !TYPES.contains(&(self.input, self.output)) {
            let known = TYPES.iter().map(|(i, o)| format!("{i} to {o}")).collect::<Vec<_>>().join(", ");
            return Err(self.refused(format!("dense products are {known}")));
        }
        if self.output == DType::I32 && self.epilogue != Epilogue::default() {
            return Err(self.refused("sums of integers are given as they are".to_owned()));
        }
        let bytes = self.input.size() == 1;
        if bytes && !self.rhs_transposed {
            return Err(
                self.refused(format!("{} operands must both be contiguous along K: transpose the right side", self.input))
            );
        }
        for ((name, extent), multiple) in
            [("M", self.m), ("N", self.n), ("K", self.k)].into_iter().zip(DenseProblem::granularity(self.input))
        {
            if extent == 0 || !extent.is_multiple_of(multiple) || i32::try_from(extent).is_err() {
                return Err(self.refused(format!("{name} must be a positive multiple of {multiple} below 2³¹: pad it")));
            }
        }
        if self.batch == 0 || i32::try_from(self.batch).is_err() {
            return Err(self.refused("the batch must be from 1 to 2³¹-1".to_owned()));
        }
        if !self.alignment.is_power_of_two() || !(self.input.size().max(self.output.size())..=256).contains(&self.alignment) {
            return Err(self.refused(format!("addresses are multiples of a power of two up to 256, not of {}", self.alignment)));
        }
        for (name, strides, [_, cols], dtype) in self.operands() {
            if strides.row < cols {
                return Err(self.refused(format!("rows of {name} have {cols} elements and are only {} apart", strides.row)));
            }
            if bytes && !(strides.row * dtype.size()).is_multiple_of(16) {
                return Err(self.refused(format!("rows of {name} must be a multiple of 16 bytes apart, not {}", strides.row)));
            }
        }
        // Either matrix behind matrix, or side by side as the heads of an attention are.
        let (rows, matrices) = ((self.m, self.out.row), (self.batch, self.out.batch));
        let apart = |(count, stride): (usize, usize), each: usize| {
            (count == 1 || stride >= each).then(|| (count - 1).saturating_mul(stride).saturating_add(each))
        };
        let nested = |inner, outer| apart(inner, self.n).and_then(|each| apart(outer, each)).is_some();
        if !nested(rows, matrices) && !nested(matrices, rows) {
            return Err(self.refused("the matrices of the output overlap".to_owned()));
        }
        self.bytes().map(|_| ())
    }

    /// What the addresses of all matrices of the batch are multiples of, in bytes.
    pub(super) fn common_alignment(&self) -> usize {
        let strides = self.operands().map(|(_, strides, _, dtype)| strides.batch.wrapping_mul(dtype.size()));
        strides.into_iter().filter(|&s| self.batch > 1 && s > 0).fold(self.alignment, |a, s| a.min(1 << s.trailing_zeros()))
    }

    /// Name, strides, rows and columns as they lie, element type.
    fn operands(&self) -> [(&'static str, Strides, [usize; 2], DType); 3] {
        let rhs = if self.rhs_transposed { [self.n, self.k] } else { [self.k, self.n] };
        [
            ("the left side", self.lhs, [self.m, self.k], self.input),
            ("the right side", self.rhs, rhs, self.input),
            ("the output", self.out, [self.m, self.n], self.output),
        ]
    }

    /// Bytes from the first to the last element of the left side, the right side and the output.
    ///
    /// # Errors
    /// Sizes that overflow.
    pub fn bytes(&self) -> Result<[usize; 3], CudaError> {
        let mut bytes = [0; 3];
        for (bytes, (_, strides, [rows, cols], dtype)) in bytes.iter_mut().zip(self.operands()) {
            *bytes = extent(&self.to_string(), dtype, [rows, cols, strides.row], [self.batch, strides.batch])?;
        }
        Ok(bytes)
    }
}

impl fmt::Display for DenseProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DenseProblem { input, output, m, n, k, batch, .. } = self;
        write!(f, "dense product M {m}, N {n}, K {k}, {input} to {output}")?;
        if *batch != 1 {
            write!(f, ", batch {batch}")?;
        }
        if self.epilogue.bias {
            f.write_str(", plus bias")?;
        }
        self.epilogue.function.map_or(Ok(()), |function| write!(f, ", then {function:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_with_the_way_out() {
        let int8 = DenseProblem::contiguous((DType::I8, DType::I32), 1, [32, 48, 64], true);
        let bf16 = DenseProblem::contiguous((DType::Bf16, DType::Bf16), 3, [5, 8, 16], false);
        int8.check().unwrap();
        bf16.check().unwrap();
        assert_eq!(bf16.bytes().unwrap(), [3 * 5 * 16 * 2, 3 * 16 * 8 * 2, 3 * 5 * 8 * 2]);
        assert_eq!(bf16.common_alignment(), 16);
        let odd = DenseProblem { lhs: Strides { row: 16, batch: 82 }, ..bf16.clone() };
        assert_eq!((odd.common_alignment(), DenseProblem { batch: 1, ..odd }.common_alignment()), (4, 16));
        DenseProblem { out: Strides { row: 24, batch: 8 }, ..bf16.clone() }.check().unwrap();
        let refusals = [
            (DenseProblem { out: Strides { row: 23, batch: 8 }, ..bf16.clone() }, "overlap"),
            (DenseProblem { output: DType::Bf16, ..int8.clone() }, "f8e4m3 to bf16"),
            (DenseProblem { rhs_transposed: false, ..int8.clone() }, "transpose the right side"),
            (DenseProblem { m: 33, ..int8.clone() }, "M must be a positive multiple of 16"),
            (DenseProblem { lhs: Strides { row: 72, batch: 0 }, ..int8.clone() }, "multiple of 16 bytes apart"),
            (DenseProblem { n: 0, ..bf16.clone() }, "N must be a positive multiple of 1"),
            (DenseProblem { batch: 0, ..bf16.clone() }, "batch"),
            (DenseProblem { alignment: 3, ..bf16.clone() }, "power of two"),
            (DenseProblem { epilogue: Epilogue { bias: true, function: None }, ..int8.clone() }, "sums of integers"),
            (DenseProblem { rhs: Strides { row: 7, batch: 128 }, ..bf16.clone() }, "only 7 apart"),
            (DenseProblem { out: Strides { row: 8, batch: 32 }, ..bf16.clone() }, "overlap"),
            (DenseProblem { lhs: Strides { row: usize::MAX, batch: 0 }, ..bf16.clone() }, "overflow"),
        ];
        for (problem, reason) in refusals {
            let error = problem.check().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
