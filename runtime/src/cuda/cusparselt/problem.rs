//! What cuSPARSELt can be asked for.

use std::fmt;

use super::CudaError;
use crate::cuda::dtype::{cuda_type, extent};
use crate::dtype::DType;

/// Element types of weight and activations, of the output, and of the bias: the output's, and f32 beside integers.
const TYPES: &[(DType, DType, DType)] = &[
    (DType::I8, DType::I32, DType::F32),
    (DType::I8, DType::Bf16, DType::Bf16),
    (DType::I8, DType::F16, DType::F16),
    (DType::F8e4m3, DType::F32, DType::F32),
    (DType::F8e4m3, DType::Bf16, DType::Bf16),
    (DType::F8e4m3, DType::F16, DType::F16),
    (DType::Bf16, DType::Bf16, DType::Bf16),
    (DType::F16, DType::F16, DType::F16),
];

/// `out[M, N] = alpha · x[M, K'] · weight[N, K']ᵀ (+ bias[N])`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SparseProblem {
    /// Of weight and x: i8, f8e4m3, bf16 or f16.
    pub input: DType,
    /// Of the output: i32, bf16 or f16 for i8; f32, bf16 or f16 for f8e4m3; the input's for bf16 and f16.
    pub output: DType,
    /// Rows of x and out: a bucket of M.
    pub m: usize,
    /// Columns of the output.
    pub n: usize,
    /// K', the lifted axis.
    pub k: usize,
    /// Whether alpha is a vector of N factors. For i8 only.
    pub alpha_vector: bool,
    /// Whether a bias is added.
    pub bias: bool,
}

/// What extents must be multiples of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granularity {
    /// Of M.
    pub m: usize,
    /// Of N.
    pub n: usize,
    /// Of K'.
    pub k: usize,
}

impl SparseProblem {
    /// What the extents of a problem of this input type must be multiples of, or none when there is no such problem. The library wants rows
    /// of 32 bytes in the structured matrix and of 16 bytes in dense ones.
    pub fn granularity(input: DType) -> Option<Granularity> {
        TYPES.iter().any(|t| t.0 == input).then(|| {
            let (structured, dense) = (32 / input.size(), 16 / input.size());
            Granularity { m: dense, n: structured, k: structured }
        })
    }

    /// The element type of the bias.
    ///
    /// # Errors
    /// Types that there is no product of.
    pub fn bias_type(&self) -> Result<DType, CudaError> {
        let known = TYPES.iter().find(|t| (t.0, t.1) == (self.input, self.output));
        known.map(|t| t.2).ok_or_else(|| self.refused("cuSPARSELt has no product of these types".to_owned()))
    }

    fn refused(&self, reason: String) -> CudaError {
        CudaError::Problem { problem: self.to_string(), reason }
    }

    /// Whether there is such a problem, before the library is asked.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn check(&self) -> Result<(), CudaError> {
        let Some(granularity) = SparseProblem::granularity(self.input) else {
            return Err(self.refused(format!("cuSPARSELt multiplies i8, f8e4m3, bf16 and f16, not {}", self.input)));
        };
        let outputs: Vec<DType> = TYPES.iter().filter(|t| t.0 == self.input).map(|t| t.1).collect();
        if !outputs.contains(&self.output) || cuda_type(self.output).is_none() {
            let outputs = outputs.iter().map(|d| d.name()).collect::<Vec<_>>().join(", ");
            return Err(self.refused(format!("products of {} are given as {outputs}, not as {}", self.input, self.output)));
        }
        if self.alpha_vector && self.input != DType::I8 {
            return Err(self.refused("a factor for each column is possible for i8 only".to_owned()));
        }
        for (name, extent, multiple) in
            [("M", self.m, granularity.m), ("N", self.n, granularity.n), ("K'", self.k, granularity.k)]
        {
            if extent == 0 || !extent.is_multiple_of(multiple) || i32::try_from(extent).is_err() {
                return Err(self.refused(format!("{name} must be a positive multiple of {multiple} below 2³¹: pad it")));
            }
        }
        for (dtype, rows, cols) in [(self.input, self.m, self.k), (self.input, self.n, self.k), (self.output, self.m, self.n)] {
            extent(&self.to_string(), dtype, [rows, cols, cols], [1, 0])?;
        }
        Ok(())
    }

    /// Bytes of x; the problem is checked.
    pub(super) fn x_bytes(&self) -> usize {
        self.m * self.k * self.input.size()
    }

    /// Bytes of out; the problem is checked.
    pub(super) fn out_bytes(&self) -> usize {
        self.m * self.n * self.output.size()
    }
}

impl fmt::Display for SparseProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SparseProblem { input, output, m, n, k, .. } = self;
        write!(f, "sparse product M {m}, N {n}, K' {k}, {input} to {output}")?;
        f.write_str(if self.alpha_vector { ", a factor per column" } else { "" })?;
        f.write_str(if self.bias { ", bias" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_with_the_way_out() {
        let good = SparseProblem { input: DType::I8, output: DType::I32, m: 32, n: 64, k: 96, alpha_vector: true, bias: true };
        good.check().unwrap();
        let refusals = [
            (SparseProblem { input: DType::F32, ..good.clone() }, "not f32"),
            (SparseProblem { output: DType::F32, ..good.clone() }, "i32, bf16, f16"),
            (SparseProblem { input: DType::Bf16, output: DType::Bf16, ..good.clone() }, "for i8 only"),
            (SparseProblem { m: 40, ..good.clone() }, "M must be a positive multiple of 16"),
            (SparseProblem { n: 1000, ..good.clone() }, "N must be a positive multiple of 32"),
            (SparseProblem { k: 0, ..good.clone() }, "K' must be"),
            (SparseProblem { k: 1 << 33, ..good.clone() }, "below 2³¹"),
        ];
        for (problem, reason) in refusals {
            let error = problem.check().unwrap_err().to_string();
            assert!(error.contains(reason) && error.starts_with("sparse product M"), "{error}");
        }
    }
}
