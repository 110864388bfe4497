//! CPU kernel of [`Rotary`].

use rayon::prelude::*;

use super::gemm::required;
use super::gemm::widen::{rounded, widened};
use super::{Context, Kernel, KernelError};
use crate::op::rotary::Rotary;
use crate::tensor::{TensorView, TensorViewMut};

/// Elements that a parallel task should do at least.
const GRAIN: usize = 1 << 14;

/// Turns the pairs at the beginning of a head.
fn turn(head: &mut [f32], cos: &[f32], sin: &[f32], interleaved: bool) {
    let pairs = cos.len();
    for (i, (cos, sin)) in cos.iter().zip(sin).enumerate() {
        let (first, second) = if interleaved { (2 * i, 2 * i + 1) } else { (i, i + pairs) };
        let (a, b) = (head[first], head[second]);
        head[first] = a * cos - b * sin;
        head[second] = b * cos + a * sin;
    }
}

impl Kernel for Rotary {
    fn run(
        &self,
        _context: Context<'_>,
        inputs: &[Option<TensorView<'_>>],
        outputs: &mut [TensorViewMut<'_>],
    ) -> Result<(), KernelError> {
        let [x, cos, sin] = [0, 1, 2].map(|i| required(inputs, i));
        let (x, cos, sin) = (x?, cos?, sin?);
        if x.elements() == 0 {
            return Ok(());
        }
        // Rows of `heads` heads of one token, or of one head.
        let (tokens, heads_between, row) = match *x.shape {
            [_, tokens, width] => (tokens, 1, width),
            [_, heads, tokens, depth] => (tokens, heads, depth),
            _ => unreachable!("the type rules demand rank 3 or 4"),
        };
        let depth = if x.shape.len() == 3 { row / self.heads } else { row };
        let pairs = self.rotated / 2;
        let (cos_shape, sin_shape) = (cos.shape, sin.shape);
        let (elements, cos, sin) = (widened("Rotary", x)?, widened("Rotary", cos)?, widened("Rotary", sin)?);
        rounded("Rotary", &mut outputs[0], |out| {
            let rows = out.par_chunks_exact_mut(row).zip(elements.par_chunks_exact(row));
            rows.enumerate().with_min_len((GRAIN / row).max(1)).for_each(|(i, (out, x))| {
                let (batch, token) = (i / (tokens * heads_between), i % tokens);
                let angles = |shape: &[usize]| (if shape[0] == 1 { token } else { batch * tokens + token }) * pairs;
                let (cos, sin) = (&cos[angles(cos_shape)..][..pairs], &sin[angles(sin_shape)..][..pairs]);
                out.copy_from_slice(x);
                out.chunks_exact_mut(depth).for_each(|head| turn(head, cos, sin, self.interleaved));
            });
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::eval;
    use crate::dtype::DType;
    use crate::op::elementwise::Cast;
    use crate::tensor::Tensor;

    fn cast(x: &Tensor, to: DType) -> Tensor {
        eval(&Cast { to }.into(), &[Some(x.view())]).unwrap().remove(0)
    }

    /// Turned as complex numbers by `exp(i·angle)`, in f64.
    fn expected(op: Rotary, x: &Tensor, angle: impl Fn(usize, usize, usize) -> f64) -> Vec<f64> {
        let shape = x.shape().to_vec();
        let x: Vec<f64> = x.as_slice::<f32>().unwrap().iter().copied().map(f64::from).collect();
        let (tokens, depth) = if shape.len() == 3 { (shape[1], shape[2] / op.heads) } else { (shape[2], shape[3]) };
        let mut out = x.clone();
        for batch in 0..shape[0] {
            for head in 0..op.heads {
                for token in 0..tokens {
                    let start = match shape.len() {
                        3 => ((batch * tokens + token) * op.heads + head) * depth,
                        _ => ((batch * op.heads + head) * tokens + token) * depth,
                    };
                    for i in 0..op.rotated / 2 {
                        let (a, b) = if op.interleaved { (2 * i, 2 * i + 1) } else { (i, i + op.rotated / 2) };
                        let (a, b) = (start + a, start + b);
                        let (sin, cos) = angle(batch, token, i).sin_cos();
                        (out[a], out[b]) = (x[a] * cos - x[b] * sin, x[a] * sin + x[b] * cos);
                    }
                }
            }
        }
        out
    }

    #[test]
    fn turns_pairs_as_complex_numbers() {
        let (batches, tokens, heads, depth) = (2, 3, 4, 6);
        for (rank, rotated, interleaved, shared, dtype, tables) in [
            (3, 6, false, false, DType::F32, DType::F32),
            (3, 4, true, true, DType::F32, DType::F32),
            (4, 6, true, false, DType::F32, DType::F32),
            (4, 2, false, true, DType::F32, DType::F32),
            (4, 4, false, false, DType::Bf16, DType::F32),
            (3, 4, false, true, DType::F16, DType::F16),
        ] {
            let op = Rotary { heads, rotated, interleaved };
            let shape = if rank == 3 { vec![batches, tokens, heads * depth] } else { vec![batches, heads, tokens, depth] };
            let n: usize = shape.iter().product();
            let x: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 17.0).collect();
            let x = cast(&Tensor::from_slice(&shape, &x).unwrap(), dtype);
            let angle = |batch: usize, token: usize, i: usize| {
                let position = if shared { token } else { token + 5 * batch };
                position as f64 * 10f64.powf(-(i as f64))
            };
            let extent = if shared { 1 } else { batches };
            let table = |f: fn(f64) -> f64| {
                let at = |j: usize| f(angle(j / (tokens * (rotated / 2)), j / (rotated / 2) % tokens, j % (rotated / 2))) as f32;
                let values: Vec<f32> = (0..extent * tokens * rotated / 2).map(at).collect();
                cast(&Tensor::from_slice(&[extent, tokens, rotated / 2], &values).unwrap(), tables)
            };
            let (cos, sin) = (table(f64::cos), table(f64::sin));
            let got = eval(&op.into(), &[Some(x.view()), Some(cos.view()), Some(sin.view())]).unwrap().remove(0);
            assert_eq!(got.dtype(), dtype);
            let limit = if tables != DType::F32 || dtype == DType::F16 {
                3e-3
            } else if dtype == DType::Bf16 {
                8e-3
            } else {
                1e-6
            };
            let expected = expected(op, &cast(&x, DType::F32), angle);
            for (i, (got, want)) in cast(&got, DType::F32).as_slice::<f32>().unwrap().iter().zip(expected).enumerate() {
                assert!((f64::from(*got) - want).abs() <= limit * want.abs().max(1.0), "{op:?}, element {i}: {got}, not {want}");
            }
        }
    }

    #[test]
    fn nothing_is_nothing() {
        let op = Rotary { heads: 2, rotated: 2, interleaved: false };
        let (x, table) = (Tensor::zeros(DType::F32, &[0, 3, 4]).unwrap(), Tensor::zeros(DType::F32, &[1, 3, 1]).unwrap());
        assert_eq!(eval(&op.into(), &[Some(x.view()), Some(table.view()), Some(table.view())]).unwrap()[0].shape(), [0, 3, 4]);
    }
}
