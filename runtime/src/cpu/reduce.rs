//! CPU kernels of [`crate::op::reduce`]: reductions and running sums here, selections in their own file.

use super::dispatch::{dispatch, input, output, view};
use super::parallel::{AxisView, along_axis, rows};
use super::promote::{promote, to_wide};
use super::{Context, Kernel, KernelError};
use crate::dtype::{Bool, DType, Element};
use crate::op::reduce::{Cumulative, Reduce, ReduceKind};
use crate::tensor::{TensorView, TensorViewMut};

mod select;

impl Kernel for Reduce {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let x = view(inputs, 0)?;
        let extreme = matches!(self.kind, ReduceKind::Max | ReduceKind::Min);
        if x.data.is_empty() && extreme && !x.dtype.is_float() {
            // The neutral element is that of the type itself, not of the wider one it is calculated in.
            return fill_neutral(self.kind == ReduceKind::Max, &mut outputs[0]);
        }
        promote!(self, inputs, outputs, to_wide);
        let walk = Walk::new(x.shape, &self.axes);
        dispatch!(wide, "Reduce", x.dtype, T => {
            T::reduce(self.kind, &walk, input(inputs, 0)?, output(outputs, 0)?);
            Ok(())
        })
    }
}

fn fill_neutral(lowest: bool, out: &mut TensorViewMut<'_>) -> Result<(), KernelError> {
    if let Some(out) = out.as_mut_slice::<Bool>() {
        out.fill(Bool::from(!lowest));
        return Ok(());
    }
    dispatch!(native, "Reduce", out.dtype, T => {
        // Bool is done above; here it only has to compile.
        if T::DTYPE == DType::Bool {
            return Ok(());
        }
        if let Some(out) = out.as_mut_slice::<T>() {
            out.fill(<T as Neutral>::extreme(lowest));
        }
        Ok(())
    })
}

/// The ends of an element type's range.
trait Neutral: Element {
    fn extreme(lowest: bool) -> Self;
}

macro_rules! neutral {
    ($($t:ty),*) => {$(
        impl Neutral for $t {
            fn extreme(lowest: bool) -> $t {
                if lowest { <$t>::MIN } else { <$t>::MAX }
            }
        }
    )*};
}
neutral!(i8, i16, i32, i64, u8, u16, u32, u64, f32, f64);

impl Neutral for Bool {
    fn extreme(lowest: bool) -> Bool {
        Bool::from(!lowest)
    }
}

/// How the elements behind each result are reached: an offset per result, then `offsets`, each the start of `run` contiguous
/// elements. Or, when the innermost axis is kept, of `lanes` elements that belong to as many results.
struct Walk {
    /// Kept axes but for the lanes, outermost first: (extent, stride).
    kept: Vec<(usize, usize)>,
    offsets: Vec<usize>,
    run: usize,
    lanes: usize,
    /// Elements behind one result.
    count: usize,
}

impl Walk {
    fn new(shape: &[usize], axes: &[usize]) -> Self {
        // (extent, stride, reduced), innermost first, neighbours of one kind joined.
        let mut groups: Vec<(usize, usize, bool)> = Vec::new();
        let mut stride = 1;
        for (i, &extent) in shape.iter().enumerate().rev() {
            let reduced = axes.contains(&i);
            match groups.last_mut() {
                Some(last) if last.2 == reduced => last.0 *= extent,
                _ if extent == 1 => {}
                _ => groups.push((extent, stride, reduced)),
            }
            stride *= extent;
        }
        let (mut run, mut lanes) = (1, 1);
        if let Some(&(extent, _, reduced)) = groups.first() {
            *(if reduced { &mut run } else { &mut lanes }) = extent;
            groups.remove(0);
        }
        groups.reverse();
        // Of an empty input nothing is read, and its other axes may have any extent.
        let mut offsets = if shape.contains(&0) { Vec::new() } else { vec![0] };
        for &(extent, stride, _) in groups.iter().filter(|g| g.2) {
            offsets = offsets.iter().flat_map(|o| (0..extent).map(move |i| o + i * stride)).collect();
        }
        let kept = groups.iter().filter(|g| !g.2).map(|g| (g.0, g.1)).collect();
        Walk { kept, count: offsets.len() * run, offsets, run, lanes }
    }

    fn start(&self, mut result: usize) -> usize {
        let mut offset = 0;
        for &(extent, stride) in self.kept.iter().rev() {
            offset += result % extent * stride;
            result /= extent;
        }
        offset
    }

    /// Folds the elements behind each result. `merge` joins partial results, of which `neutral` is the neutral one.
    fn fold<T: Element, A: Copy + Send + Sync>(
        &self,
        x: &[T],
        out: &mut [T],
        neutral: A,
        fold: impl Fn(A, T) -> A + Sync,
        merge: impl Fn(A, A) -> A + Sync,
        finish: impl Fn(A) -> T + Sync,
    ) {
        if self.lanes > 1 {
            rows(out, self.lanes, self.lanes * self.count, &|i, out| {
                let start = self.start(i);
                let mut partial = [neutral; LANES];
                for (block, out) in out.chunks_mut(LANES).enumerate() {
                    let partial = &mut partial[..out.len()];
                    partial.fill(neutral);
                    for offset in &self.offsets {
                        for (a, &v) in partial.iter_mut().zip(&x[start + offset + block * LANES..]) {
                            *a = fold(*a, v);
                        }
                    }
                    out.iter_mut().zip(partial).for_each(|(o, a)| *o = finish(*a));
                }
            });
            return;
        }
        rows(out, 1, self.count, &|i, out| {
            let start = self.start(i);
            let mut total = neutral;
            for offset in &self.offsets {
                let run = &x[start + offset..][..self.run];
                if self.run < 2 * WAYS {
                    total = run.iter().fold(total, |a, &v| fold(a, v));
                    continue;
                }
                // Several independent chains, for the vector units and for accuracy.
                let mut partial = [neutral; WAYS];
                let mut blocks = run.chunks_exact(WAYS);
                for block in blocks.by_ref() {
                    for (a, &v) in partial.iter_mut().zip(block) {
                        *a = fold(*a, v);
                    }
                }
                total = partial.into_iter().fold(total, &merge);
                total = blocks.remainder().iter().fold(total, |a, &v| fold(a, v));
            }
            out[0] = finish(total);
        });
    }
}

/// Results folded side by side.
const LANES: usize = 128;
/// Independent chains along a run.
const WAYS: usize = 8;

/// Element types that reductions are calculated on.
trait Reducible: Element {
    fn reduce(kind: ReduceKind, walk: &Walk, x: &[Self], out: &mut [Self]);
}

/// `log Σ exp`, as the largest element and the sum of exponentials relative to it.
type LogSum = (f64, f64);
const LOG_ZERO: LogSum = (f64::NEG_INFINITY, 0.0);

fn log_add((max, sum): LogSum, (other, more): LogSum) -> LogSum {
    if other > max {
        (other, sum * (max - other).exp() + more)
    } else if other == max {
        // Also of two infinities, whose difference is NaN.
        (max, sum + more)
    } else {
        (max, sum + more * (other - max).exp())
    }
}

fn log_of((max, sum): LogSum) -> f64 {
    max + sum.ln()
}

macro_rules! reals {
    ($($t:ident),*) => {$(
        impl Reducible for $t {
            fn reduce(kind: ReduceKind, walk: &Walk, x: &[$t], out: &mut [$t]) {
                let add = |a: f64, b: f64| a + b;
                let sum = |a: f64, v: $t| a + v as f64;
                let squares = |a: f64, v: $t| a + v as f64 * v as f64;
                let max = |a: $t, v: $t| if v > a || v.is_nan() { v } else { a };
                let min = |a: $t, v: $t| if v < a || v.is_nan() { v } else { a };
                let round = |a: f64| a as $t;
                let count = walk.count as f64;
                match kind {
                    ReduceKind::Sum => walk.fold(x, out, 0.0, sum, add, round),
                    ReduceKind::Mean => walk.fold(x, out, 0.0, sum, add, move |a| (a / count) as $t),
                    ReduceKind::Max => walk.fold(x, out, $t::NEG_INFINITY, max, max, |a| a),
                    ReduceKind::Min => walk.fold(x, out, $t::INFINITY, min, min, |a| a),
                    ReduceKind::Prod => walk.fold(x, out, 1.0, |a, v| a * v as f64, |a, b| a * b, round),
                    ReduceKind::L1 => walk.fold(x, out, 0.0, |a, v| a + v.abs() as f64, add, round),
                    ReduceKind::L2 => walk.fold(x, out, 0.0, squares, add, |a| a.sqrt() as $t),
                    ReduceKind::LogSum => walk.fold(x, out, 0.0, sum, add, |a| a.ln() as $t),
                    ReduceKind::LogSumExp => {
                        walk.fold(x, out, LOG_ZERO, |a, v| log_add(a, (v as f64, 1.0)), log_add, |a| log_of(a) as $t);
                    }
                    ReduceKind::SumSquare => walk.fold(x, out, 0.0, squares, add, round),
                }
            }
        }
    )*};
}
reals!(f32, f64);

macro_rules! integers {
    ($($t:ident),*) => {$(
        impl Reducible for $t {
            fn reduce(kind: ReduceKind, walk: &Walk, x: &[$t], out: &mut [$t]) {
                // 128 bits: sums are exact, products right modulo 2^64.
                let add = |a: i128, b: i128| a.wrapping_add(b);
                let sum = |a: i128, v: $t| a.wrapping_add(v as i128);
                let squares = |a: i128, v: $t| a.wrapping_add((v as i128).wrapping_mul(v as i128));
                let wrap = |a: i128| a as $t;
                let count = (walk.count as i128).max(1);
                match kind {
                    ReduceKind::Sum => walk.fold(x, out, 0, sum, add, wrap),
                    ReduceKind::Mean => walk.fold(x, out, 0, sum, add, move |a| (a / count) as $t),
                    ReduceKind::Max => walk.fold(x, out, $t::MIN, |a, v| a.max(v), |a, b| a.max(b), |a| a),
                    ReduceKind::Min => walk.fold(x, out, $t::MAX, |a, v| a.min(v), |a, b| a.min(b), |a| a),
                    ReduceKind::Prod => {
                        walk.fold(x, out, 1, |a: i128, v| a.wrapping_mul(v as i128), |a, b| a.wrapping_mul(b), wrap);
                    }
                    ReduceKind::L1 => walk.fold(x, out, 0, |a: i128, v| a + (v as i128).abs(), add, wrap),
                    ReduceKind::L2 => walk.fold(x, out, 0, squares, add, |a| (a as f64).sqrt() as $t),
                    ReduceKind::LogSum => walk.fold(x, out, 0, sum, add, |a| (a as f64).ln() as $t),
                    ReduceKind::LogSumExp => {
                        walk.fold(x, out, LOG_ZERO, |a, v| log_add(a, (v as f64, 1.0)), log_add, |a| log_of(a) as $t);
                    }
                    ReduceKind::SumSquare => walk.fold(x, out, 0, squares, add, wrap),
                }
            }
        }
    )*};
}
integers!(i64, u64);

impl Kernel for Cumulative {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        promote!(self, inputs, outputs, to_wide);
        let x = view(inputs, 0)?;
        let axis = AxisView::new(x.shape, self.axis);
        dispatch!(wide, "Cumulative", x.dtype, T => {
            along_axis(input::<T>(inputs, 0)?, output::<T>(outputs, 0)?, axis, &|line| T::accumulate(*self, line));
            Ok(())
        })
    }
}

trait Cumulate: Element {
    fn accumulate(op: Cumulative, line: &mut [Self]);
}

macro_rules! cumulate {
    ($($t:ident as $wide:ident: $add:expr, $mul:expr);*) => {$(
        impl Cumulate for $t {
            fn accumulate(op: Cumulative, line: &mut [$t]) {
                let (mut total, join): ($wide, fn($wide, $wide) -> $wide) =
                    if op.product { (1 as $wide, $mul) } else { (0 as $wide, $add) };
                let mut step = |v: &mut $t| {
                    let next = join(total, *v as $wide);
                    *v = if op.exclusive { total } else { next } as $t;
                    total = next;
                };
                if op.reverse { line.iter_mut().rev().for_each(&mut step) } else { line.iter_mut().for_each(&mut step) }
            }
        }
    )*};
}
cumulate! {
    f32 as f64: |a, b| a + b, |a, b| a * b;
    f64 as f64: |a, b| a + b, |a, b| a * b;
    i64 as i64: i64::wrapping_add, i64::wrapping_mul;
    u64 as u64: u64::wrapping_add, u64::wrapping_mul
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::eval;
    use crate::tensor::Tensor;
    use half::f16;

    const KINDS: [ReduceKind; 10] = [
        ReduceKind::Sum,
        ReduceKind::Mean,
        ReduceKind::Max,
        ReduceKind::Min,
        ReduceKind::Prod,
        ReduceKind::L1,
        ReduceKind::L2,
        ReduceKind::LogSum,
        ReduceKind::LogSumExp,
        ReduceKind::SumSquare,
    ];

    /// The definitions, in f64.
    fn reference(kind: ReduceKind, x: &[f64]) -> f64 {
        let sum = |f: &dyn Fn(f64) -> f64| x.iter().map(|&v| f(v)).sum::<f64>();
        match kind {
            ReduceKind::Sum => sum(&|v| v),
            ReduceKind::Mean => sum(&|v| v) / x.len() as f64,
            ReduceKind::Max => x.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            ReduceKind::Min => x.iter().copied().fold(f64::INFINITY, f64::min),
            ReduceKind::Prod => x.iter().product(),
            ReduceKind::L1 => sum(&f64::abs),
            ReduceKind::L2 => sum(&|v| v * v).sqrt(),
            ReduceKind::LogSum => sum(&|v| v).ln(),
            ReduceKind::LogSumExp => sum(&f64::exp).ln(),
            ReduceKind::SumSquare => sum(&|v| v * v),
        }
    }

    fn reduce<T: Element>(kind: ReduceKind, shape: &[usize], axes: &[usize], x: &[T]) -> Vec<T> {
        let x = Tensor::from_slice(shape, x).unwrap();
        let op = Reduce { kind, axes: axes.to_vec(), keep_dims: true };
        eval(&op.into(), &[Some(x.view())]).unwrap()[0].as_slice().unwrap().to_vec()
    }

    /// Groups the elements by the result they belong to, by plain index arithmetic.
    fn grouped(shape: &[usize], axes: &[usize], x: &[f64]) -> Vec<Vec<f64>> {
        let mut groups = std::collections::BTreeMap::<Vec<usize>, Vec<f64>>::new();
        for (i, &v) in x.iter().enumerate() {
            let (mut rest, mut index) = (i, vec![0; shape.len()]);
            for axis in (0..shape.len()).rev() {
                index[axis] = if axes.contains(&axis) { 0 } else { rest % shape[axis] };
                rest /= shape[axis];
            }
            groups.entry(index).or_default().push(v);
        }
        groups.into_values().collect()
    }

    #[test]
    fn every_kind_over_every_set_of_axes() {
        for shape in [&[3usize, 4, 5, 6][..], &[2, 1, 37, 1], &[150, 2], &[4, 9000], &[300, 300], &[1, 7], &[]] {
            let single: Vec<f32> = (0..shape.iter().product()).map(|i: usize| 0.5 + ((i * 7919) % 101) as f32 / 100.0).collect();
            let x: Vec<f64> = single.iter().map(|&v| v.into()).collect();
            for set in 0..1usize << shape.len() {
                let axes: Vec<usize> = (0..shape.len()).filter(|a| set >> a & 1 == 1).collect();
                let groups = grouped(shape, &axes, &x);
                for kind in KINDS {
                    let got = reduce(kind, shape, &axes, &single);
                    assert_eq!(got.len(), groups.len());
                    for (got, group) in got.iter().zip(&groups) {
                        let want = reference(kind, group);
                        let close = (f64::from(*got) - want).abs() <= 1.2e-7 * want.abs() + 1e-12;
                        let in_range = (1e-30..1e38).contains(&want.abs());
                        assert!(close || !in_range, "{kind:?} {shape:?} {axes:?}: {got}, not {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn edges() {
        const INF: f32 = f32::INFINITY;
        for (kind, x, want) in [
            (ReduceKind::LogSumExp, &[1000.0f32, 1000.0][..], 1000.0 + 2f32.ln()),
            (ReduceKind::LogSumExp, &[-1000.0, -1001.0], -1000.0 + (-1f32).exp().ln_1p()),
            (ReduceKind::LogSumExp, &[-INF, -INF], -INF),
            (ReduceKind::LogSumExp, &[-INF, 1.0], 1.0),
            (ReduceKind::LogSumExp, &[INF, 1.0, INF], INF),
            (ReduceKind::LogSumExp, &[1.0, f32::NAN, 3.0], f32::NAN),
            (ReduceKind::Max, &[1.0, f32::NAN, 3.0], f32::NAN),
            (ReduceKind::Min, &[f32::NAN, 3.0], f32::NAN),
            (ReduceKind::Sum, &[INF, -INF], f32::NAN),
            (ReduceKind::Sum, &[], 0.0),
            (ReduceKind::Prod, &[], 1.0),
            (ReduceKind::Max, &[], -INF),
            (ReduceKind::Min, &[], INF),
            (ReduceKind::Mean, &[], f32::NAN),
            (ReduceKind::LogSum, &[], -INF),
            (ReduceKind::LogSumExp, &[], -INF),
        ] {
            let got = reduce(kind, &[x.len()], &[0], x)[0];
            assert!(got == want || got.is_nan() && want.is_nan(), "{kind:?} {x:?}: {got}, not {want}");
        }
        // Sums stay accurate where f32 accumulation would not.
        assert_eq!(reduce(ReduceKind::Sum, &[1_000_001], &[0], &[0.1f32; 1_000_001])[0], 100_000.1);
        assert_eq!(reduce(ReduceKind::Sum, &[0, 3], &[0], &[0f32; 0]), [0.0; 3]);
        assert!(reduce(ReduceKind::Sum, &[0, 3], &[1], &[0f32; 0]).is_empty());
        assert_eq!(reduce(ReduceKind::Sum, &[1 << 40, 3, 0], &[0, 2], &[0f32; 0]), [0.0; 3]);
    }

    #[test]
    fn integers_bool_and_half() {
        assert_eq!(reduce(ReduceKind::Sum, &[2, 2], &[1], &[100i8, 100, -1, 4]), [-56, 3]);
        assert_eq!(reduce(ReduceKind::Max, &[2, 0], &[1], &[0i8; 0]), [i8::MIN; 2]);
        assert_eq!(reduce(ReduceKind::Min, &[0], &[0], &[0u16; 0]), [u16::MAX]);
        assert_eq!(reduce(ReduceKind::Mean, &[3], &[0], &[-7i32, -7, -6]), [-6]);
        assert_eq!(reduce(ReduceKind::Mean, &[2], &[0], &[u64::MAX, u64::MAX - 2]), [u64::MAX - 1]);
        assert_eq!(reduce(ReduceKind::L2, &[2], &[0], &[3i32, -4]), [5]);
        assert_eq!(reduce(ReduceKind::Prod, &[3], &[0], &[1i64 << 40, 1 << 30, 3]), [0]);
        assert_eq!(reduce(ReduceKind::SumSquare, &[2], &[], &[3u8, 20]), [9, 144]);
        let truth = [Bool(1), Bool(0), Bool(1), Bool(1), Bool(0), Bool(0)];
        assert_eq!(reduce(ReduceKind::Max, &[3, 2], &[1], &truth), [Bool(1), Bool(1), Bool(0)]);
        assert_eq!(reduce(ReduceKind::Min, &[3, 2], &[1], &truth), [Bool(0), Bool(1), Bool(0)]);
        assert_eq!(reduce(ReduceKind::Min, &[0], &[0], &truth[..0]), [Bool(1)]);
        // 4096 halves of 1/8 and one of 512 in f16: its own accumulator would stop counting.
        let mut x = vec![f16::from_f32(0.125); 4096];
        x.push(f16::from_f32(512.0));
        assert_eq!(reduce(ReduceKind::Sum, &[4097], &[0], &x), [f16::from_f32(1024.0)]);
    }

    #[test]
    fn cumulative_sums_and_products() {
        let x = [1i64, 2, 3, 4];
        for (product, exclusive, reverse, want) in [
            (false, false, false, [1i64, 3, 6, 10]),
            (false, true, false, [0, 1, 3, 6]),
            (false, false, true, [10, 9, 7, 4]),
            (false, true, true, [9, 7, 4, 0]),
            (true, false, false, [1, 2, 6, 24]),
            (true, true, true, [24, 12, 4, 1]),
        ] {
            let run = |shape: &[usize], axis, x: &Tensor| {
                let op = Cumulative { product, axis, exclusive, reverse };
                eval(&op.into(), &[Some(x.clone().reshaped(shape).unwrap().view())]).unwrap().remove(0)
            };
            let flat = Tensor::from_slice(&[4], &x).unwrap();
            assert_eq!(run(&[4], 0, &flat).as_slice::<i64>().unwrap(), want);
            let doubled = Tensor::from_slice(&[4, 2], &x.map(|v| [v as f32; 2]).concat()).unwrap();
            let wide: Vec<f32> = want.iter().flat_map(|&v| [v as f32; 2]).collect();
            assert_eq!(run(&[4, 2], 0, &doubled).as_slice::<f32>().unwrap(), wide);
        }
    }
}
