//! CPU kernels of [`crate::op::elementwise`]: selection, bounds and conversion here, functions of one and two elements in
//! their own files.

pub(super) use unary::Activation;

use super::broadcast::Broadcast;
use super::convert::convert;
use super::dispatch::{dispatch, input, optional, output, view};
use super::parallel;
use super::promote::{promote, to_word};
use super::{Context, Kernel, KernelError};
use crate::dtype::Bool;
use crate::op::elementwise::{Cast, Clip, Where};
use crate::tensor::{TensorView, TensorViewMut};

mod binary;
mod unary;

impl Kernel for Where {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (condition, a, b) = (view(inputs, 0)?, view(inputs, 1)?, view(inputs, 2)?);
        let out = &mut outputs[0];
        let plan = Broadcast::new(out.shape, [condition.shape, a.shape, b.shape]);
        let condition = input::<Bool>(inputs, 0)?;
        // Only the elements' size matters.
        match out.dtype.size() {
            1 => select(&plan, condition, a.data, b.data, out.data),
            2 => select::<u16>(&plan, condition, words(a.data)?, words(b.data)?, words_mut(out.data)?),
            4 => select::<u32>(&plan, condition, words(a.data)?, words(b.data)?, words_mut(out.data)?),
            _ => select::<u64>(&plan, condition, words(a.data)?, words(b.data)?, words_mut(out.data)?),
        }
        Ok(())
    }
}

fn words<T: bytemuck::Pod>(bytes: &[u8]) -> Result<&[T], KernelError> {
    bytemuck::try_cast_slice(bytes).map_err(|e| KernelError::Data(format!("operand: {e}")))
}

fn words_mut<T: bytemuck::Pod>(bytes: &mut [u8]) -> Result<&mut [T], KernelError> {
    bytemuck::try_cast_slice_mut(bytes).map_err(|e| KernelError::Data(format!("result: {e}")))
}

fn select<T: bytemuck::Pod + Sync>(plan: &Broadcast<3>, condition: &[Bool], a: &[T], b: &[T], out: &mut [T]) {
    let [varies, advance_a, advance_b] = plan.advances;
    plan.for_each(out, &|[c, i, j], out| {
        let n = out.len();
        if !varies {
            let (from, at, advances) = if condition[c].into() { (a, i, advance_a) } else { (b, j, advance_b) };
            if advances {
                out.copy_from_slice(&from[at..][..n]);
            } else {
                out.fill(from[at]);
            }
            return;
        }
        let condition = condition[c..][..n].iter().map(|&c| bool::from(c));
        match (advance_a, advance_b) {
            (true, true) => {
                for (((o, c), &x), &y) in out.iter_mut().zip(condition).zip(&a[i..][..n]).zip(&b[j..][..n]) {
                    *o = if c { x } else { y };
                }
            }
            (true, false) => {
                out.iter_mut().zip(condition).zip(&a[i..][..n]).for_each(|((o, c), &x)| *o = if c { x } else { b[j] })
            }
            (false, true) => {
                out.iter_mut().zip(condition).zip(&b[j..][..n]).for_each(|((o, c), &y)| *o = if c { a[i] } else { y })
            }
            (false, false) => out.iter_mut().zip(condition).for_each(|(o, c)| *o = if c { a[i] } else { b[j] }),
        }
    });
}

impl Kernel for Clip {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_word);
        dispatch!(word, "Clip", outputs[0].dtype, T => {
            let bound = |i| Ok::<_, KernelError>(optional::<T>(inputs, i)?.and_then(|b| b.first().copied()));
            let (low, high) = (bound(1)?.unwrap_or(T::MIN), bound(2)?.unwrap_or(T::MAX));
            // Without a bound infinities stay: T::MIN of a float is finite.
            let (has_low, has_high) = (bound(1)?.is_some(), bound(2)?.is_some());
            parallel::zip(input::<T>(inputs, 0)?, output::<T>(outputs, 0)?, &|x, y| {
                for (y, &x) in y.iter_mut().zip(x) {
                    let above = if has_low && x < low { low } else { x };
                    *y = if has_high && above > high { high } else { above };
                }
            });
            Ok(())
        })
    }
}

impl Kernel for Cast {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        convert(view(inputs, 0)?, &mut outputs[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::eval;
    use crate::dtype::{DType, Element};
    use crate::tensor::Tensor;
    use half::f16;

    #[test]
    fn where_selects_any_type_and_shape() {
        let condition = Tensor::from_slice(&[2, 1], &[Bool(1), Bool(0)]).unwrap();
        let per_element = Tensor::from_slice(&[3], &[Bool(1), Bool(0), Bool(2)]).unwrap();
        let a = Tensor::from_slice(&[3], &[1i64, 2, 3]).unwrap();
        let b = Tensor::from_slice(&[2, 3], &[10i64, 20, 30, 40, 50, 60]).unwrap();
        let scalar = Tensor::scalar(-1i64);
        for (c, x, y, want) in [
            (&condition, &a, &b, &[1i64, 2, 3, 40, 50, 60][..]),
            (&condition, &scalar, &b, &[-1, -1, -1, 40, 50, 60]),
            (&per_element, &a, &b, &[1, 20, 3, 1, 50, 3]),
            (&per_element, &scalar, &b, &[-1, 20, -1, -1, 50, -1]),
            (&per_element, &b, &scalar, &[10, -1, 30, 40, -1, 60]),
            (&per_element, &scalar, &scalar, &[-1, -1, -1]),
        ] {
            for dtype in DType::ALL {
                // −1 and the like survive a round trip through the types that have them; here only equality counts.
                let cast = |t: &Tensor| eval(&Cast { to: dtype }.into(), &[Some(t.view())]).unwrap().remove(0);
                let (x, y) = (cast(x), cast(y));
                let out = eval(&Where {}.into(), &[Some(c.view()), Some(x.view()), Some(y.view())]).unwrap().remove(0);
                let want = cast(&Tensor::from_slice(out.shape(), want).unwrap());
                assert_eq!(out.bytes(), want.bytes(), "{dtype}");
            }
        }
    }

    #[test]
    fn clip_keeps_nan_and_missing_bounds() {
        fn clip<T: Element>(x: &[T], low: Option<T>, high: Option<T>) -> Vec<T> {
            let x = Tensor::from_slice(&[x.len()], x).unwrap();
            let (low, high) = (low.map(Tensor::scalar), high.map(Tensor::scalar));
            let inputs = [Some(x.view()), low.as_ref().map(Tensor::view), high.as_ref().map(Tensor::view)];
            eval(&Clip {}.into(), &inputs).unwrap()[0].as_slice().unwrap().to_vec()
        }
        let x = [-2.0f32, 0.5, 9.0, f32::NEG_INFINITY];
        assert_eq!(clip(&x, Some(-1.0), Some(1.0)), [-1.0, 0.5, 1.0, -1.0]);
        assert_eq!(clip(&x, None, Some(1.0)), [-2.0, 0.5, 1.0, f32::NEG_INFINITY]);
        assert_eq!(clip(&x, None, None), x);
        // The high bound wins.
        assert_eq!(clip(&x, Some(3.0), Some(1.0)), [1.0; 4]);
        assert!(clip(&[f32::NAN], Some(0.0), Some(1.0))[0].is_nan());
        assert_eq!(clip(&[-128i8, 5, 127], Some(-3), Some(4)), [-3, 4, 4]);
        assert_eq!(clip(&[f16::from_f32(0.1), f16::ONE], None, Some(f16::from_f32(0.1))), [f16::from_f32(0.1); 2]);
    }
}
