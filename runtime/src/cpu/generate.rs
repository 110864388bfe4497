//! CPU kernels of [`crate::op::generate`].

use half::{bf16, f16};

use super::layout::value;
use super::{Context, Kernel, KernelError};
use crate::dtype::DType;
use crate::f8::{F8E4M3, F8E5M2};
use crate::op::generate::{Extents, EyeLike, Range};
use crate::tensor::{TensorView, TensorViewMut};

/// Writes integers in the output's integer type.
fn write_integers(values: impl Iterator<Item = i64>, out: &mut TensorViewMut<'_>) -> Result<(), KernelError> {
    let dtype = out.dtype;
    macro_rules! write {
        ($($dtype:ident => $t:ty),*) => {
            match dtype {
                $(DType::$dtype => {
                    for (o, v) in bytemuck::cast_slice_mut::<u8, $t>(out.data).iter_mut().zip(values) {
                        *o = <$t>::try_from(v).map_err(|_| KernelError::Data(format!("{v} does not fit in {dtype}")))?;
                    }
                    Ok(())
                })*
                _ => Err(KernelError::UnsupportedType("Range", dtype)),
            }
        };
    }
    write!(I8 => i8, I16 => i16, I32 => i32, I64 => i64, U8 => u8, U16 => u16, U32 => u32, U64 => u64)
}

impl Kernel for Extents {
    fn run(
        &self,
        _: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let values = self.values.iter().map(value).collect::<Result<Vec<i64>, _>>()?;
        write_integers(values.into_iter(), &mut outputs[0])
    }
}

impl Kernel for Range {
    fn run(
        &self,
        _: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (start, step, len) = (value(&self.start)?, value(&self.step)?, value(&self.len)?);
        // The values lie between the first and the last.
        if len > 0 && step.checked_mul(len - 1).and_then(|d| start.checked_add(d)).is_none() {
            return Err(KernelError::Data(format!("{len} values from {start} by {step} overflow")));
        }
        write_integers((0..len).map(|i| start + i * step), &mut outputs[0])
    }
}

/// The bytes of 1 in an element type.
fn one(dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F16 => bytemuck::bytes_of(&f16::ONE).to_vec(),
        DType::Bf16 => bytemuck::bytes_of(&bf16::ONE).to_vec(),
        DType::F32 => bytemuck::bytes_of(&1f32).to_vec(),
        DType::F64 => bytemuck::bytes_of(&1f64).to_vec(),
        DType::F8e4m3 => vec![F8E4M3::from_f32(1.0).0],
        DType::F8e5m2 => vec![F8E5M2::from_f32(1.0).0],
        _ => 1u64.to_le_bytes()[..dtype.size()].to_vec(),
    }
}

impl Kernel for EyeLike {
    fn run(
        &self,
        _: Context<'_>,
        _inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let out = &mut outputs[0];
        out.data.fill(0);
        let (rows, columns) = (out.shape[0], out.shape[1]);
        let one = one(out.dtype);
        for row in 0..rows {
            let column = self.k.checked_add(row as i64).and_then(|c| usize::try_from(c).ok());
            if let Some(column) = column.filter(|c| *c < columns) {
                let at = (row * columns + column) * one.len();
                out.data[at..at + one.len()].copy_from_slice(&one);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::eval;
    use super::*;
    use crate::op::Op;

    fn range(start: i64, step: i64, len: i64, dtype: DType) -> Op {
        Range { start: start.into(), step: step.into(), len: len.into(), dtype }.into()
    }

    #[test]
    fn integers() {
        let out = eval(&Extents { values: vec![3.into(), (-1).into()], shape: vec![2], dtype: DType::I32 }.into(), &[]).unwrap();
        assert_eq!(out[0].as_slice::<i32>(), Some(&[3, -1][..]));
        let out = eval(&Extents { values: vec![i64::MIN.into()], shape: vec![], dtype: DType::I64 }.into(), &[]).unwrap();
        assert_eq!((out[0].shape(), out[0].as_slice::<i64>()), (&[][..], Some(&[i64::MIN][..])));
        let out = eval(&range(10, -3, 4, DType::I16), &[]).unwrap();
        assert_eq!(out[0].as_slice::<i16>(), Some(&[10, 7, 4, 1][..]));
        assert_eq!(eval(&range(i64::MAX, i64::MAX, 0, DType::I64), &[]).unwrap()[0].shape(), &[0]);
        let refused = [
            range(i64::MAX, 1, 2, DType::I64),
            range(i64::MIN, i64::MIN, 3, DType::I64),
            range(0, -1, 2, DType::U8),
            range(0, 1, 129, DType::I8),
            Extents { values: vec![(1i64 << 31).into()], shape: vec![], dtype: DType::I32 }.into(),
            Extents { values: vec!["n".parse().unwrap()], shape: vec![], dtype: DType::I64 }.into(),
        ];
        for op in refused {
            assert!(eval(&op, &[]).is_err(), "{op:?}");
        }
    }

    #[test]
    fn eye() {
        let eye = |k, dtype| eval(&EyeLike { rows: 2.into(), columns: 3.into(), k, dtype }.into(), &[]).unwrap().remove(0);
        assert_eq!(eye(0, DType::F32).as_slice::<f32>(), Some(&[1., 0., 0., 0., 1., 0.][..]));
        assert_eq!(eye(2, DType::I64).as_slice::<i64>(), Some(&[0, 0, 1, 0, 0, 0][..]));
        assert_eq!(eye(-1, DType::Bool).bytes(), &[0, 0, 0, 1, 0, 0]);
        for k in [i64::MIN, i64::MAX, 3, -2] {
            assert!(eye(k, DType::F64).bytes().iter().all(|&b| b == 0));
        }
        assert_eq!(eye(0, DType::F16).as_slice::<f16>().map(|v| v[4]), Some(f16::ONE));
        assert_eq!(eye(0, DType::F8e5m2).as_slice::<F8E5M2>().map(|v| v[4].to_f32()), Some(1.0));
    }
}
