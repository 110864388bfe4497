//! How far a quantized product is from the exact one, on rows of its activation: multiplied in the arithmetic of plans, by the CPU's kernels.
//!
//! Must not know: graphs, where the rows come from, what is decided by the error.

use sliderun::cpu;
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::sparse::{DenseGemm, Dequant, QuantLift};
use sliderun::sparse::KLayout;
use sliderun::tensor::{Tensor, TensorView};

use super::Weight;
use super::quantize::quantize;
use super::scales::Scales;

/// Elements of an exact product that are kept at most: of wider ones fewer rows are looked at.
const ELEMENTS: usize = 1 << 25;

/// Output channels that are multiplied at a time.
const CHANNELS: usize = 2048;

/// A product on rows of its activation, in f32: what quantized ones are compared with.
pub struct Exact {
    /// Rows that are looked at.
    rows: usize,
    /// [rows, n] for each chunk of channels.
    chunks: Vec<Vec<f32>>,
    /// Sum of the squares of all.
    norm: f64,
}

impl Exact {
    /// Multiplies rows [T, K], row-major, with a weight.
    pub fn new(weight: &Weight, rows: &[f32]) -> Exact {
        let rows = &rows[..(rows.len() / weight.k).min((ELEMENTS / weight.n).max(1)) * weight.k];
        let multiply = |part: Weight| floats(&product(&lifted(rows, weight.k, DType::F32), &part, DType::F32, Scales::AbsMax));
        let chunks: Vec<Vec<f32>> = parts(weight, None).map(multiply).collect();
        let norm = chunks.iter().flatten().map(|v| f64::from(*v).powi(2)).sum();
        Exact { rows: rows.len() / weight.k, chunks, norm }
    }

    /// ‖y' − y‖ / ‖y‖ over all rows and channels, where y' is the product of the rows, divided by `factors` channel by channel and then converted
    /// to `to` as a plan does it, with the weight, multiplied by them and converted likewise, with scales as asked for; the weight's moments are
    /// of rows that are not divided. Infinite where the exact product is zeros and this is not.
    pub fn error(&self, weight: &Weight, rows: &[f32], factors: Option<&[f32]>, to: DType, scales: Scales<'_>) -> f64 {
        let k = weight.k;
        let mut rows = rows[..self.rows * k].to_vec();
        let mut own = Vec::new();
        let mut scales = scales;
        if let Some(factors) = factors {
            rows.chunks_exact_mut(k).for_each(|row| row.iter_mut().zip(factors).for_each(|(v, f)| *v /= f));
            if let Scales::LeastError(Some(moments)) = scales {
                own.extend(moments.iter().zip(factors).map(|(h, f)| h / (f * f)));
                scales = Scales::LeastError(Some(&own));
            }
        }
        let lift = lifted(&rows, k, to);
        let distance = |(part, exact): (Weight, &Vec<f32>)| {
            let found = floats(&product(&lift, &part, to, scales));
            found.iter().zip(exact).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>()
        };
        let distance: f64 = parts(weight, factors).zip(&self.chunks).map(distance).sum();
        if distance == 0.0 { 0.0 } else { (distance / self.norm).sqrt() }
    }
}

/// Some output channels at a time, with column k multiplied by factor k.
fn parts<'w>(weight: &'w Weight, factors: Option<&'w [f32]>) -> impl Iterator<Item = Weight> + 'w {
    weight.values.chunks(CHANNELS * weight.k).map(move |values| {
        let mut part = Weight { n: values.len() / weight.k, k: weight.k, values: values.to_vec() };
        if let Some(factors) = factors {
            part.values.chunks_exact_mut(weight.k).for_each(|row| row.iter_mut().zip(factors).for_each(|(w, f)| *w *= f));
        }
        part
    })
}

/// Rows [T, K] as QuantLift gives them, with their scales where there are any.
fn lifted(rows: &[f32], k: usize, to: DType) -> Vec<Tensor> {
    let x = TensorView { dtype: DType::F32, shape: &[rows.len() / k, k], data: bytemuck::cast_slice(rows) };
    run(QuantLift { to, layout: KLayout::dense(k) }, &[Some(x)])
}

fn product(lifted: &[Tensor], weight: &Weight, to: DType, scales: Scales<'_>) -> Tensor {
    let weight = quantize(weight, to, scales);
    let sums = run(DenseGemm::default(), &[Some(lifted[0].view()), Some(weight.values.view())]).swap_remove(0);
    let Some(scales) = weight.scales else { return sums };
    let scales = TensorView { dtype: DType::F32, shape: &[scales.len()], data: bytemuck::cast_slice(&scales) };
    let operands = [Some(sums.view()), Some(lifted[1].view()), Some(scales)];
    run(Dequant { to: DType::F32, activation: None }, &operands).swap_remove(0)
}

fn run(op: impl Into<Op>, operands: &[Option<TensorView<'_>>]) -> Vec<Tensor> {
    cpu::eval(&op.into(), operands).expect("rows and weights have the same K, and every type is one that products are made of")
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.as_slice::<f32>().expect("products are f32").to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sliderun::splitmix::SplitMix64;

    fn numbers(seed: u64, n: usize) -> Vec<f32> {
        let mut random = SplitMix64(seed);
        (0..n).map(|_| (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    /// Against loops in f64 that quantize by the definition.
    #[test]
    fn is_that_of_the_definition() {
        let (t, n, k) = (7, 5, 19);
        let (x, weight) = (numbers(1, t * k), Weight { n, k, values: numbers(2, n * k) });
        let factors: Vec<f32> = (0..k).map(|i| [0.5, 1.0, 4.0][i % 3]).collect();
        let scale = |row: &mut dyn Iterator<Item = f64>| row.fold(0.0f64, |m, v| m.max(v.abs())) / 127.0;
        let (mut distance, mut norm) = (0.0, 0.0);
        for row in x.chunks_exact(k) {
            let row: Vec<f64> = row.iter().zip(&factors).map(|(v, f)| f64::from(*v) / f64::from(*f)).collect();
            let own = scale(&mut row.iter().copied());
            for channel in weight.values.chunks_exact(k) {
                let channel: Vec<f64> = channel.iter().zip(&factors).map(|(v, f)| f64::from(*v) * f64::from(*f)).collect();
                let by = scale(&mut channel.iter().copied());
                let codes = row.iter().zip(&channel).map(|(x, w)| (x / own).round_ties_even() * (w / by).round_ties_even());
                let exact: f64 = row.iter().zip(&channel).map(|(x, w)| x * w).sum();
                distance += (codes.sum::<f64>() * own * by - exact).powi(2);
                norm += exact.powi(2);
            }
        }
        let found = Exact::new(&weight, &x).error(&weight, &x, Some(&factors), DType::I8, Scales::AbsMax);
        let expected = (distance / norm).sqrt();
        assert!((found - expected).abs() < 1e-3 * expected && expected > 1e-3, "{found} {expected}");
    }

    #[test]
    fn grows_as_types_shrink() {
        let (k, n) = (64, CHANNELS + 3);
        let (x, weight) = (numbers(3, 3 * k), Weight { n, k, values: numbers(4, n * k) });
        let exact = Exact::new(&weight, &x);
        let errors = [DType::F32, DType::F16, DType::Bf16, DType::I8, DType::F8e4m3]
            .map(|to| exact.error(&weight, &x, None, to, Scales::LeastError(None)));
        assert!(errors[0] == 0.0 && errors.is_sorted() && (0.02..0.06).contains(&errors[4]), "{errors:?}");
        let zeros = Weight { n: 2, k, values: vec![0.0; 2 * k] };
        assert_eq!(Exact::new(&zeros, &x).error(&zeros, &x, None, DType::I8, Scales::AbsMax), 0.0);
    }
}
