//! A constant weight seen as [N, K], one row per output channel.

use bytes::Bytes;
use half::{bf16, f16};
use rayon::prelude::*;
use sliderun::cpu;
use sliderun::dtype::DType;
use sliderun::op::layout::Transpose;
use sliderun::tensor::{Tensor, TensorView};

use crate::ir::Constant;

/// How a two-dimensional constant stores a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Orientation {
    /// [K, N]: the right-hand side of a MatMul.
    KN,
    /// [N, K]: the right-hand side of a Gemm with `transB`.
    NK,
}

impl Orientation {
    /// That of the same weight when its storage is transposed.
    pub fn transposed(self) -> Self {
        match self {
            Orientation::KN => Orientation::NK,
            Orientation::NK => Orientation::KN,
        }
    }
}

/// Why a constant cannot be read as a weight.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum WeightError {
    #[error("the weight has {0} axes, 2 are needed")]
    Rank(usize),
    #[error("the weight is {0}; f32, f16 or bf16 is needed")]
    DType(DType),
    #[error("the weight has no elements")]
    Empty,
    #[error("the weight contains NaN or an infinity (output channel {channel}, input {input})")]
    NotFinite { channel: usize, input: usize },
}

/// The weight of a product `y[.., n] = Σ_k x[.., k] · w[n, k]`, widened exactly to f32.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// Output channels.
    pub n: usize,
    /// Inner extent.
    pub k: usize,
    /// Row-major [N, K].
    pub values: Vec<f32>,
}

impl Weight {
    /// Reads a constant stored as `orientation` says.
    ///
    /// # Errors
    /// A constant that is no finite, non-empty f32, f16 or bf16 matrix.
    pub fn read(constant: &Constant, orientation: Orientation) -> Result<Weight, WeightError> {
        let [rows, columns] = *constant.shape.as_slice() else {
            return Err(WeightError::Rank(constant.shape.len()));
        };
        if rows == 0 || columns == 0 {
            return Err(WeightError::Empty);
        }
        let stored = widen(constant)?;
        let weight = match orientation {
            Orientation::NK => Weight { n: rows, k: columns, values: stored },
            Orientation::KN => Weight { n: columns, k: rows, values: transpose(&stored, rows, columns) },
        };
        if let Some(at) = weight.values.iter().position(|v| !v.is_finite()) {
            return Err(WeightError::NotFinite { channel: at / weight.k, input: at % weight.k });
        }
        Ok(weight)
    }

    /// A constant that stores the weight as `orientation` says, rounded to `dtype`: F32, F16 or Bf16.
    ///
    /// # Panics
    /// For other element types, which no weight is read from.
    pub fn to_constant(&self, dtype: DType, orientation: Orientation) -> Constant {
        let turned;
        let (shape, stored) = match orientation {
            Orientation::NK => ([self.n, self.k], &self.values),
            Orientation::KN => {
                turned = transpose(&self.values, self.n, self.k);
                ([self.k, self.n], &turned)
            }
        };
        let data = match dtype {
            DType::F32 => Bytes::copy_from_slice(bytemuck::cast_slice(stored)),
            DType::F16 => stored.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
            DType::Bf16 => stored.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
            other => panic!("weights are read from f32, f16 and bf16, not from {other}"),
        };
        Constant { dtype, shape: shape.to_vec(), data }
    }

    /// The rows, one per output channel.
    pub fn rows(&self) -> impl IndexedParallelIterator<Item = &[f32]> {
        self.values.par_chunks_exact(self.k)
    }
}

/// Whether weights of this element type can be read.
pub fn is_weight_type(dtype: DType) -> bool {
    dtype.computes_in_f32()
}

fn widen(constant: &Constant) -> Result<Vec<f32>, WeightError> {
    let data = &constant.data;
    Ok(match constant.dtype {
        DType::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        DType::F16 => data.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        DType::Bf16 => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        other => return Err(WeightError::DType(other)),
    })
}

/// [rows, columns] to [columns, rows].
fn transpose(from: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let view = TensorView { dtype: DType::F32, shape: &[rows, columns], data: bytemuck::cast_slice(from) };
    let results = cpu::eval(&Transpose { perm: vec![1, 0] }.into(), &[Some(view)]);
    let [transposed]: [Tensor; 1] = results.expect("every matrix has a transpose").try_into().expect("Transpose has one result");
    transposed.as_slice::<f32>().expect("Transpose keeps the element type").to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn constant(dtype: DType, shape: &[usize], data: Vec<u8>) -> Constant {
        Constant { dtype, shape: shape.to_vec(), data: Bytes::from(data) }
    }

    #[test]
    fn orientations_and_types_agree() {
        let (k, n) = (37, 70);
        let at = |k: usize, n: usize| (k as f32) - (n as f32) / 2.0;
        let kn: Vec<f32> = (0..k * n).map(|i| at(i / n, i % n)).collect();
        let nk: Vec<f32> = (0..k * n).map(|i| at(i % k, i / k)).collect();
        let bytes = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let expected = Weight { n, k, values: nk.clone() };
        assert_eq!(Weight::read(&constant(DType::F32, &[k, n], bytes(&kn)), Orientation::KN), Ok(expected.clone()));
        assert_eq!(Weight::read(&constant(DType::F32, &[n, k], bytes(&nk)), Orientation::NK), Ok(expected.clone()));
        // Every value here is exact in both 16-bit types.
        let halves = nk.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
        assert_eq!(Weight::read(&constant(DType::F16, &[n, k], halves), Orientation::NK), Ok(expected.clone()));
        let brains = nk.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect();
        assert_eq!(Weight::read(&constant(DType::Bf16, &[n, k], brains), Orientation::NK), Ok(expected.clone()));
        for dtype in [DType::F32, DType::F16, DType::Bf16] {
            for orientation in [Orientation::KN, Orientation::NK] {
                assert_eq!(Weight::read(&expected.to_constant(dtype, orientation), orientation).as_ref(), Ok(&expected));
            }
        }
    }

    #[test]
    fn unreadable_constants_say_why() {
        let f32s = |v: &[f32]| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
        let cases = [
            (constant(DType::F32, &[2], f32s(&[1.0, 2.0])), WeightError::Rank(1)),
            (constant(DType::I8, &[1, 1], vec![1]), WeightError::DType(DType::I8)),
            (constant(DType::F32, &[0, 4], vec![]), WeightError::Empty),
            (constant(DType::F32, &[1, 2], f32s(&[0.0, f32::NAN])), WeightError::NotFinite { channel: 0, input: 1 }),
        ];
        for (constant, error) in cases {
            assert_eq!(Weight::read(&constant, Orientation::NK), Err(error));
        }
    }
}
