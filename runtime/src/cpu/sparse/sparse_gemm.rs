//! CPU kernel of [`SparseGemm`], the reference of every device: it reads the compressed form itself.
//!
//! Which activations a kept value meets depends on the weight alone, so a block of tokens is transposed and each kept value is multiplied
//! with one vector of them.

use rayon::prelude::*;

use crate::cpu::gemm::required;
use crate::cpu::gemm::widen::{rounded, rounded_sums, widened};
use crate::cpu::{Context, Kernel, KernelError, Prepared};
use crate::dtype::{DType, Element};
use crate::op::sparse::SparseGemm;
use crate::sparse::compressed::{Compressed, decode};
use crate::tensor::{TensorView, TensorViewMut};

/// Tokens that are multiplied together, and as many when there are only few.
const TOKENS: usize = 32;
const FEW_TOKENS: usize = 8;

/// Output channels that a parallel task computes at least.
const CHANNELS: usize = 16;

/// What activations and weights are widened to before they are multiplied.
trait Lane: Copy + Default + Send + Sync {
    type Accumulator: Element + Default;

    fn add_product<const T: usize>(sum: &mut [Self::Accumulator; T], weight: Self, x: &[Self; T]);
}

impl Lane for i16 {
    type Accumulator = i32;

    #[inline(always)]
    fn add_product<const T: usize>(sum: &mut [i32; T], weight: i16, x: &[i16; T]) {
        for (sum, &x) in sum.iter_mut().zip(x) {
            *sum = sum.wrapping_add(i32::from(weight).wrapping_mul(i32::from(x)));
        }
    }
}

impl Lane for f32 {
    type Accumulator = f32;

    #[inline(always)]
    fn add_product<const T: usize>(sum: &mut [f32; T], weight: f32, x: &[f32; T]) {
        for (sum, &x) in sum.iter_mut().zip(x) {
            *sum += weight * x;
        }
    }
}

/// One output channel for T tokens: `values` are its K'/2 kept values, `x` the K' vectors of activations.
fn channel<L: Lane, const T: usize>(values: &[L], positions: &[u8], x: &[[L; T]]) -> [L::Accumulator; T] {
    let mut sum = [L::Accumulator::default(); T];
    let groups = values.as_chunks::<4>().0.iter().zip(x.as_chunks::<8>().0);
    for (&byte, (kept, x)) in positions.iter().zip(groups) {
        let ((l0, l1), (h0, h1)) = (decode(byte & 0xf), decode(byte >> 4));
        L::add_product(&mut sum, kept[0], &x[l0]);
        L::add_product(&mut sum, kept[1], &x[l1]);
        L::add_product(&mut sum, kept[2], &x[4 + h0]);
        L::add_product(&mut sum, kept[3], &x[4 + h1]);
    }
    sum
}

/// `out[m, n] = Σ x[m, ..] · w[n, ..]` in blocks of T tokens.
fn multiply<L: Lane, const T: usize>(weight: &Compressed<'_>, values: &[L], x: &[L], out: &mut [L::Accumulator]) {
    let (n, lifted) = (weight.n(), weight.lifted());
    out.par_chunks_mut(T * n).zip(x.par_chunks(T * lifted)).for_each(|(out, x)| {
        let mut by_position = vec![[L::default(); T]; lifted];
        for (token, row) in x.chunks_exact(lifted).enumerate() {
            for (vector, &v) in by_position.iter_mut().zip(row) {
                vector[token] = v;
            }
        }
        let mut sums = vec![[L::Accumulator::default(); T]; n];
        let rows = values.par_chunks_exact(lifted / 2).zip(weight.positions().par_chunks_exact(lifted / 8));
        sums.par_iter_mut().zip(rows).with_min_len(CHANNELS).for_each(|(sum, (values, positions))| {
            *sum = channel(values, positions, &by_position);
        });
        for (token, row) in out.chunks_exact_mut(n).enumerate() {
            for (to, sum) in row.iter_mut().zip(&sums) {
                *to = sum[token];
            }
        }
    });
}

fn run_as<L: Lane>(weight: &Compressed<'_>, values: &[L], x: &[L], out: &mut [L::Accumulator]) {
    if weight.lifted() == 0 {
        out.fill(L::Accumulator::default());
    } else if !out.is_empty() {
        if x.len() / weight.lifted() <= FEW_TOKENS {
            multiply::<L, FEW_TOKENS>(weight, values, x, out);
        } else {
            multiply::<L, TOKENS>(weight, values, x, out);
        }
    }
}

/// i8 elements as i16.
fn widened_i8(view: TensorView<'_>) -> Result<Vec<i16>, KernelError> {
    let elements = view.as_slice::<i8>().ok_or(KernelError::UnsupportedType("SparseGemm", view.dtype))?;
    Ok(elements.iter().map(|&v| v.into()).collect())
}

impl Kernel for SparseGemm {
    fn prepare(&self, constants: &[Option<TensorView<'_>>]) -> Result<Option<Prepared>, KernelError> {
        if let [_, Some(values), Some(positions)] = *constants {
            Compressed::new(&self.layout, values, positions)?;
        }
        Ok(None)
    }

    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let (x, values) = (required(inputs, 0)?, required(inputs, 1)?);
        let weight = Compressed::new(&self.layout, values, required(inputs, 2)?)?;
        let out = &mut outputs[0];
        if x.dtype == DType::I8 {
            let (values, x) = (widened_i8(values)?, widened_i8(x)?);
            return rounded_sums("SparseGemm", out, |out| {
                run_as(&weight, &values, &x, out);
                Ok(())
            });
        }
        let (values, x) = (widened("SparseGemm", values)?, widened("SparseGemm", x)?);
        rounded("SparseGemm", out, |out| {
            run_as(&weight, &values, &x, out);
            Ok(())
        })
    }
}
