//! NumPy broadcasting as a walk over the output in contiguous runs.
//!
//! Axes over which every operand moves alike are joined first, so that equal shapes, scalars, a bias `[N]` over `[.., N]` and a
//! mask `[B, 1, 1, S]` over `[B, H, T, S]` all become few, long runs, within which an operand either advances with the output or
//! stays where it is.

use bytemuck::Pod;

use super::parallel::{CHUNK, THRESHOLD, pieces};

struct Axis<const N: usize> {
    extent: usize,
    strides: [usize; N],
}

/// How `N` operands are read along a common shape.
pub struct Broadcast<const N: usize> {
    outer: Vec<Axis<N>>,
    /// Elements per run.
    run: usize,
    /// Which operands advance with the output within a run; the others stay.
    pub advances: [bool; N],
}

impl<const N: usize> Broadcast<N> {
    /// A plan for operands that broadcast to `shape`.
    pub fn new(shape: &[usize], operands: [&[usize]; N]) -> Self {
        let mut axes: Vec<Axis<N>> = Vec::new();
        let mut step = [1usize; N];
        // Innermost first, then reversed.
        for (i, &extent) in shape.iter().rev().enumerate() {
            let mut strides = [0; N];
            for (n, operand) in operands.iter().enumerate() {
                let own = operand.len().checked_sub(i + 1).map_or(1, |axis| operand[axis]);
                strides[n] = if own == 1 { 0 } else { step[n] };
                step[n] *= own;
            }
            if extent == 1 {
                continue;
            }
            match axes.last_mut() {
                Some(last) if (0..N).all(|n| strides[n] == last.strides[n] * last.extent) => last.extent *= extent,
                _ => axes.push(Axis { extent, strides }),
            }
        }
        axes.reverse();
        let (run, advances) = axes.pop().map_or((1, [false; N]), |a| (a.extent, a.strides.map(|s| s != 0)));
        Broadcast { outer: axes, run, advances }
    }

    /// Calls `body` with each piece of `out` and the operands' offsets at its start. `out` has the plan's shape.
    pub fn for_each<O: Pod>(&self, out: &mut [O], body: &(dyn Fn([usize; N], &mut [O]) + Sync)) {
        if out.len() < THRESHOLD {
            self.walk(0, out, body);
        } else {
            pieces(out, CHUNK, &|i, piece| self.walk(i * CHUNK, piece, body));
        }
    }

    fn walk<O>(&self, start: usize, mut out: &mut [O], body: &(dyn Fn([usize; N], &mut [O]) + Sync)) {
        if out.is_empty() {
            return;
        }
        let (mut position, mut rest) = (start % self.run, start / self.run);
        let mut index = vec![0; self.outer.len()];
        let mut base = [0usize; N];
        for (i, axis) in index.iter_mut().zip(&self.outer).rev() {
            *i = rest % axis.extent;
            rest /= axis.extent;
            (0..N).for_each(|n| base[n] += *i * axis.strides[n]);
        }
        loop {
            let length = out.len().min(self.run - position);
            let (piece, tail) = out.split_at_mut(length);
            body(std::array::from_fn(|n| base[n] + if self.advances[n] { position } else { 0 }), piece);
            if tail.is_empty() {
                return;
            }
            out = tail;
            position = 0;
            for (i, axis) in index.iter_mut().zip(&self.outer).rev() {
                *i += 1;
                (0..N).for_each(|n| base[n] += axis.strides[n]);
                if *i < axis.extent {
                    break;
                }
                *i = 0;
                (0..N).for_each(|n| base[n] -= axis.extent * axis.strides[n]);
            }
        }
    }
}

/// Writes `f` of each pair of elements of two broadcast operands.
pub fn zip2<A: Copy + Sync, B: Copy + Sync, O: Pod>(
    plan: &Broadcast<2>,
    a: &[A],
    b: &[B],
    out: &mut [O],
    f: impl Fn(A, B) -> O + Sync,
) {
    // One loop for each way to advance, so that the compiler can vectorise it.
    match plan.advances {
        [true, true] => plan.for_each(out, &|[i, j], out| {
            let n = out.len();
            for ((o, &x), &y) in out.iter_mut().zip(&a[i..][..n]).zip(&b[j..][..n]) {
                *o = f(x, y);
            }
        }),
        [true, false] => plan.for_each(out, &|[i, j], out| {
            let (n, y) = (out.len(), b[j]);
            for (o, &x) in out.iter_mut().zip(&a[i..][..n]) {
                *o = f(x, y);
            }
        }),
        [false, _] => plan.for_each(out, &|[i, j], out| {
            let x = a[i];
            if plan.advances[1] {
                let n = out.len();
                for (o, &y) in out.iter_mut().zip(&b[j..][..n]) {
                    *o = f(x, y);
                }
            } else {
                out.iter_mut().for_each(|o| *o = f(x, b[j]));
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The element of an operand that belongs to the output's element `at`, by plain index arithmetic.
    fn naive(shape: &[usize], operand: &[usize], at: usize) -> usize {
        let (mut rest, mut offset, mut step) = (at, 0, 1);
        for (i, &extent) in shape.iter().rev().enumerate() {
            let index = rest % extent;
            rest /= extent;
            if i < operand.len() {
                let own = operand[operand.len() - 1 - i];
                offset += if own == 1 { 0 } else { index * step };
                step *= own;
            }
        }
        offset
    }

    fn check(shape: &[usize], a: &[usize], b: &[usize]) {
        let count = |s: &[usize]| s.iter().product::<usize>();
        let (x, y): (Vec<usize>, Vec<usize>) = ((0..count(a)).collect(), (0..count(b)).collect());
        let mut out = vec![[usize::MAX; 2]; count(shape)];
        zip2(&Broadcast::new(shape, [a, b]), &x, &y, &mut out, |x, y| [x, y]);
        for (i, &got) in out.iter().enumerate() {
            assert_eq!(got, [naive(shape, a, i), naive(shape, b, i)], "{shape:?} {a:?} {b:?} at {i}");
        }
    }

    #[test]
    fn joins_axes_into_long_runs() {
        for (shape, a, b, run, outer) in [
            (&[2usize, 3, 4][..], &[2usize, 3, 4][..], &[2usize, 3, 4][..], 24, 0),
            (&[2, 3, 4], &[2, 3, 4], &[], 24, 0),
            (&[2, 3, 4], &[2, 3, 4], &[4], 4, 1),
            (&[2, 3, 4], &[2, 3, 4], &[3, 4], 12, 1),
            (&[2, 3, 5, 4], &[2, 3, 5, 4], &[2, 1, 1, 4], 4, 2),
            (&[2, 3, 5, 4], &[2, 3, 5, 4], &[3, 1, 1], 20, 2),
            (&[1, 1], &[1, 1], &[1], 1, 0),
        ] {
            let plan = Broadcast::new(shape, [a, b]);
            assert_eq!((plan.run, plan.outer.len()), (run, outer), "{a:?} {b:?}");
            check(shape, a, b);
        }
        check(&[0, 3], &[0, 3], &[3]);
        // Enough elements for several tasks, whose borders fall inside runs.
        check(&[7, 5, 1001, 3], &[7, 1, 1001, 1], &[5, 1, 3]);
        check(&[3, 50_001], &[3, 1], &[50_001]);
    }

    proptest! {
        #[test]
        fn agrees_with_index_arithmetic(
            axes in proptest::collection::vec((1usize..5, any::<bool>(), any::<bool>()), 0..6),
            (drop_a, drop_b) in (0usize..3, 0usize..3),
        ) {
            let operand = |keep: &dyn Fn(&(usize, bool, bool)) -> bool, drop: usize| -> Vec<usize> {
                axes.iter().map(|d| if keep(d) { d.0 } else { 1 }).skip(drop.min(axes.len())).collect()
            };
            let (a, b) = (operand(&|d| d.1, drop_a), operand(&|d| d.2, drop_b));
            let rank = a.len().max(b.len());
            let extent = |s: &[usize], i: usize| (i + s.len()).checked_sub(rank).map_or(1, |k| s[k]);
            let shape: Vec<usize> = (0..rank).map(|i| extent(&a, i).max(extent(&b, i))).collect();
            check(&shape, &a, &b);
        }
    }
}
