//! CPU kernel of [`QuantLift`]: one pass over each row to find its scale, one to convert and lift it.

use bytemuck::Zeroable;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::cpu::gemm::required;
use crate::cpu::gemm::widen::Widen;
use crate::cpu::{Context, Kernel, KernelError};
use crate::dtype::{DType, Element};
use crate::f8::F8E4M3;
use crate::op::sparse::QuantLift;
use crate::sparse::compressed::{GROUP, with_weight};
use crate::sparse::{KLayout, Pattern, check_order, symmetric_scale};
use crate::tensor::{TensorView, TensorViewMut};

/// Elements that a parallel task should convert at least.
const GRAIN: usize = 1 << 14;

/// An element type that activations are converted to.
trait Target: Element {
    /// Largest magnitude after scaling; `None` for types that are only rounded.
    const LIMIT: Option<f32>;

    /// Rounds each element times `factor`, half to even; scaled ones lie within the limit but for their last bit.
    fn round(from: &[f32], factor: f32, to: &mut [Self]);
}

impl Target for i8 {
    const LIMIT: Option<f32> = Some(127.0);

    fn round(from: &[f32], factor: f32, to: &mut [i8]) {
        // 1.5 · 2²³: its unit in the last place is 1, so the addition rounds half to even and leaves the integer in the low bits.
        const ROUND: f32 = 12_582_912.0;
        for (to, &x) in to.iter_mut().zip(from) {
            *to = (x * factor + ROUND).to_bits() as i8;
        }
    }
}

impl Target for F8E4M3 {
    const LIMIT: Option<f32> = Some(F8E4M3::MAX);

    fn round(from: &[f32], factor: f32, to: &mut [F8E4M3]) {
        for (to, &x) in to.iter_mut().zip(from) {
            *to = F8E4M3::from_f32(x * factor);
        }
    }
}

impl Target for f16 {
    const LIMIT: Option<f32> = None;

    fn round(from: &[f32], _factor: f32, to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
}

impl Target for bf16 {
    const LIMIT: Option<f32> = None;

    fn round(from: &[f32], _factor: f32, to: &mut [bf16]) {
        to.convert_from_f32_slice(from);
    }
}

impl Target for f32 {
    const LIMIT: Option<f32> = None;

    fn round(from: &[f32], _factor: f32, to: &mut [f32]) {
        to.copy_from_slice(from);
    }
}

/// The largest magnitude of a row; not finite when any element is not. Magnitudes compare as their bits do, NaN above all others.
fn absmax(row: &[f32]) -> f32 {
    f32::from_bits(row.iter().fold(0, |max, x| max.max(x.to_bits() & 0x7fff_ffff)))
}

/// A row's scale, or as an error the reported scale of a row that becomes 0 as a whole.
fn scale(row: &[f32], limit: f32) -> Result<f32, f32> {
    match absmax(row) {
        max if !max.is_finite() => Err(f32::NAN),
        max => symmetric_scale(max, limit).ok_or(1.0),
    }
}

/// Copies the windows of whole blocks of B source and L lifted elements; gives back what remains of both.
fn lift_blocks<'a, 'b, T: Copy, const B: usize, const L: usize>(source: &'a [T], out: &'b mut [T]) -> (&'a [T], &'b mut [T]) {
    let (blocks, rest) = source.as_chunks::<B>();
    let (lifted, out_rest) = out.split_at_mut(blocks.len() * L);
    for (block, lifted) in blocks.iter().zip(lifted.as_chunks_mut::<L>().0) {
        for (window, to) in lifted.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
            to.copy_from_slice(&block[2 * window..2 * window + GROUP]);
        }
    }
    (rest, out_rest)
}

/// The block's source and lifted sizes as constants, so that the copies unroll.
fn lift_pattern<'a, 'b, T: Copy>(pattern: Pattern, source: &'a [T], out: &'b mut [T]) -> (&'a [T], &'b mut [T]) {
    match pattern.n() {
        2 => lift_blocks::<T, 4, 4>(source, out),
        3 => lift_blocks::<T, 6, 8>(source, out),
        4 => lift_blocks::<T, 8, 12>(source, out),
        5 => lift_blocks::<T, 10, 16>(source, out),
        6 => lift_blocks::<T, 12, 20>(source, out),
        7 => lift_blocks::<T, 14, 24>(source, out),
        _ => lift_blocks::<T, 16, 28>(source, out),
    }
}

/// Writes a row of K elements in lifted order, K' elements.
fn lift<T: Copy + Zeroable>(layout: &KLayout, mut row: &[T], mut out: &mut [T]) {
    for segment in &layout.segments {
        let (source, next) = row.split_at(segment.k);
        row = next;
        match segment.pattern {
            None => {
                let (to, next) = out.split_at_mut(segment.k);
                to.copy_from_slice(source);
                out = next;
            }
            Some(pattern) => {
                let (tail, next) = lift_pattern(pattern, source, out);
                out = next;
                if !tail.is_empty() {
                    let mut block = [T::zeroed(); 16];
                    block[..tail.len()].copy_from_slice(tail);
                    out = lift_pattern(pattern, &block[..pattern.block()], out).1;
                }
            }
        }
    }
    out.fill(T::zeroed());
}

/// Converts one row into `out`, through `flat` where it is lifted. Gives the scale, 1 when there is none.
fn convert<T: Target>(layout: &KLayout, row: &[f32], flat: &mut Vec<T>, out: &mut [T]) -> f32 {
    let scale = match T::LIMIT.map_or(Ok(1.0), |limit| scale(row, limit)) {
        Ok(scale) => scale,
        Err(reported) => {
            out.fill(T::zeroed());
            return reported;
        }
    };
    let factor = scale.recip();
    if layout.is_dense() {
        T::round(row, factor, out);
    } else {
        flat.resize(row.len(), T::zeroed());
        T::round(row, factor, flat);
        lift(layout, flat, out);
    }
    scale
}

fn run_rows<S: Widen, T: Target>(layout: &KLayout, order: Option<&[i32]>, x: &[S], out: &mut [T], scales: Option<&mut [f32]>) {
    let (k, lifted) = (layout.k(), layout.lifted());
    if k == 0 {
        scales.into_iter().for_each(|s| s.fill(1.0));
        return;
    }
    let mut unused = Vec::new();
    let scales = scales.unwrap_or_else(|| {
        unused.resize(x.len() / k, 0.0);
        &mut unused
    });
    let rows = out.par_chunks_exact_mut(lifted).zip(x.par_chunks_exact(k)).zip(scales.par_iter_mut());
    rows.with_min_len((GRAIN / k).max(1)).for_each_init(
        || (Vec::new(), Vec::new(), Vec::new()),
        |(wide, ordered, flat), ((out, row), scale)| {
            let mut row = S::as_wide(row, wide);
            if let Some(order) = order {
                ordered.clear();
                ordered.extend(order.iter().map(|&channel| row[channel as usize]));
                row = ordered;
            }
            *scale = convert(layout, row, flat, out);
        },
    );
}

/// The order of K that an operand is.
fn order(view: TensorView<'_>) -> Result<&[i32], KernelError> {
    let order = view.as_slice::<i32>().ok_or(KernelError::UnsupportedType("QuantLift", view.dtype))?;
    check_order(order).map_err(|e| KernelError::Data(e.to_string()))?;
    Ok(order)
}

impl Kernel for QuantLift {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let x = required(inputs, 0)?;
        let unsupported = |dtype| KernelError::UnsupportedType("QuantLift", dtype);
        let order = inputs.get(1).copied().flatten().map(order).transpose()?;
        let (out, rest) = outputs.split_first_mut().ok_or_else(|| KernelError::Data("QuantLift has no output".into()))?;
        let scales = rest.first_mut().and_then(|scale| scale.as_mut_slice::<f32>());
        with_weight!(self.to, T => {
            let out = out.as_mut_slice::<T>().ok_or_else(|| unsupported(self.to))?;
            match x.dtype {
                DType::F32 => x.as_slice::<f32>().map(|x| run_rows(&self.layout, order, x, out, scales)),
                DType::F16 => x.as_slice::<f16>().map(|x| run_rows(&self.layout, order, x, out, scales)),
                DType::Bf16 => x.as_slice::<bf16>().map(|x| run_rows(&self.layout, order, x, out, scales)),
                _ => None,
            }.ok_or_else(|| unsupported(x.dtype))
        }, else Err(unsupported(self.to)))
    }
}
