//! The sparse operators against naive definitions, and the forms of a weight against each other.

use half::{bf16, f16};
use proptest::prelude::*;

use super::undo_lift;
use crate::cpu::{Context, EvalError, Kernel, KernelError, eval};
use crate::dtype::{DType, Element};
use crate::f8::F8E4M3;
use crate::op::sparse::{DenseGemm, Dequant, QuantLift, SparseGemm};
use crate::op::{InferError, InputTypes, Op, Semantics, TensorType};
use crate::sparse::compressed::{Weight, compress};
use crate::sparse::{KLayout, Pattern};
use crate::tensor::{Tensor, TensorView};

/// Deterministic 32-bit noise.
fn noise(seed: u64, i: usize) -> u32 {
    let mut z = (seed << 32 ^ i as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z >> 32) as u32
}

/// A weight [n, k] with at most 2N-2 non-zeros in every block, made of `value`s.
fn patterned<T: Weight>(n: usize, k: usize, pattern: Pattern, seed: u64, value: impl Fn(u32) -> T) -> Vec<T> {
    let mut w: Vec<T> = (0..n * k).map(|i| value(noise(seed, i))).collect();
    for (r, row) in w.chunks_exact_mut(k).enumerate() {
        for (b, block) in row.chunks_mut(pattern.block()).enumerate() {
            let mut at = noise(seed + 1, r * k + b) as usize;
            while block.iter().filter(|v| !v.is_zero()).count() > pattern.kept() {
                block[at % pattern.block() % block.len()] = T::zeroed();
                at += 1;
            }
        }
    }
    w
}

/// The lifted 2:4 row of each row: windows from left to right, each takes the first two non-zeros of its span not yet taken.
fn decomposed<T: Weight>(w: &[T], k: usize, pattern: Pattern, lifted: usize) -> Vec<T> {
    let mut out = Vec::new();
    for row in w.chunks_exact(k) {
        let start = out.len();
        for block in row.chunks(pattern.block()) {
            let mut left: Vec<T> = block.to_vec();
            left.resize(pattern.block(), T::zeroed());
            for window in 0..pattern.windows() {
                let mut taken = 0;
                for v in &mut left[2 * window..2 * window + 4] {
                    let take = !v.is_zero() && taken < 2;
                    taken += usize::from(take);
                    out.push(if take { std::mem::replace(v, T::zeroed()) } else { T::zeroed() });
                }
            }
            assert!(left.iter().all(|v| v.is_zero()), "every non-zero finds a window");
        }
        out.resize(start + lifted, T::zeroed());
    }
    out
}

fn run(op: impl Into<Op>, inputs: &[&Tensor]) -> Vec<Tensor> {
    let views: Vec<Option<TensorView<'_>>> = inputs.iter().map(|t| Some(t.view())).collect();
    eval(&op.into(), &views).unwrap()
}

/// [`DenseGemm`] as it is and with its weight packed.
fn dense(x: &Tensor, w: &Tensor) -> [Tensor; 2] {
    let plain = run(DenseGemm::default(), &[x, w]).remove(0);
    let prepared = DenseGemm::default().prepare(&[None, Some(w.view())]).unwrap();
    let mut out = Tensor::zeros(plain.dtype(), plain.shape()).unwrap();
    let inputs = [Some(x.view()), Some(w.view())];
    DenseGemm::default().run(Context { prepared: prepared.as_ref() }, &inputs, &mut [out.view_mut()]).unwrap();
    [plain, out]
}

/// A weight in its three forms and an activation, lifted and not.
struct Case {
    w: Tensor,
    values: Tensor,
    positions: Tensor,
    x: Tensor,
    lifted_x: Tensor,
    layout: KLayout,
}

fn forms<T: Weight>(shape: [usize; 3], pattern: Pattern, w: Vec<T>, x: Vec<T>) -> Case {
    let [m, n, k] = shape;
    let layout = KLayout::sparse(k, pattern);
    let lifted = layout.lifted();
    let lifted_w = Tensor::from_slice(&[n, lifted], &decomposed(&w, k, pattern, lifted)).unwrap();
    let (values, positions) = compress(lifted_w.view()).unwrap();
    let sources = layout.sources();
    let lifted_x: Vec<T> = x.chunks_exact(k).flat_map(|row| sources.iter().map(|s| s.map_or(T::zeroed(), |s| row[s]))).collect();
    Case {
        w: Tensor::from_slice(&[n, k], &w).unwrap(),
        values,
        positions,
        x: Tensor::from_slice(&[m, k], &x).unwrap(),
        lifted_x: Tensor::from_slice(&[m, lifted], &lifted_x).unwrap(),
        layout,
    }
}

impl Case {
    fn sparse(&self) -> Tensor {
        let op = SparseGemm { layout: self.layout.clone(), to: None };
        assert!(op.prepare(&[None, Some(self.values.view()), Some(self.positions.view())]).unwrap().is_none());
        run(op, &[&self.lifted_x, &self.values, &self.positions]).remove(0)
    }

    fn undone(&self) -> Tensor {
        undo_lift(&SparseGemm { layout: self.layout.clone(), to: None }, self.values.view(), self.positions.view()).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// The compressed form, the dense one and a loop in i64 give the same accumulators.
    #[test]
    fn int8_accumulators_are_equal(pattern in 2usize..=8, m in 1usize..40, n in 1usize..20, k in 1usize..200, seed in any::<u32>(), extreme: bool) {
        let pattern = Pattern::from_n(pattern).unwrap();
        let byte = |r: u32| if extreme { [127, -128, 127, -127, -128, 0][r as usize % 6] } else { r as i8 };
        let w = patterned(n, k, pattern, seed.into(), byte);
        let x: Vec<i8> = (0..m * k).map(|i| byte(noise(u64::from(seed) + 2, i))).collect();
        let expected: Vec<i32> = (0..m * n)
            .map(|o| (0..k).map(|p| i64::from(x[o / n * k + p]) * i64::from(w[o % n * k + p])).sum::<i64>() as i32)
            .collect();
        let case = forms([m, n, k], pattern, w, x);
        let undone = case.undone();
        prop_assert_eq!(undone.bytes(), case.w.bytes());
        for out in dense(&case.x, &undone).iter().chain([&case.sparse()]) {
            prop_assert_eq!(out.as_slice::<i32>().unwrap(), &expected);
        }
        let rounded: Vec<u16> = expected.iter().map(|&sum| bf16::from_f32(sum as f32).to_bits()).collect();
        let to = Some(DType::Bf16);
        let sparse = run(SparseGemm { layout: case.layout.clone(), to }, &[&case.lifted_x, &case.values, &case.positions]).remove(0);
        for out in [sparse, run(DenseGemm { to }, &[&case.x, &undone]).remove(0)] {
            prop_assert_eq!(out.as_slice::<bf16>().unwrap().iter().map(|v| v.to_bits()).collect::<Vec<_>>(), rounded.clone());
        }
    }

    /// The float types within 1e-5 of the sum of magnitudes in f64.
    #[test]
    fn float_products_agree(pattern in 2usize..=8, m in 1usize..12, n in 1usize..12, k in 1usize..200, seed in any::<u32>()) {
        let pattern = Pattern::from_n(pattern).unwrap();
        let unit = |r: u32| f32::from_bits(0x3f80_0000 | r >> 9) * 2.0 - 3.0;
        macro_rules! check {
            ($($ty:ty: $from:expr, $to:expr);*) => {$(
                let w: Vec<$ty> = patterned(n, k, pattern, seed.into(), |r| $from(unit(r)));
                let x: Vec<$ty> = (0..m * k).map(|i| $from(unit(noise(u64::from(seed) + 2, i)))).collect();
                let products = |o: usize| (0..k).map(|p| f64::from($to(x[o / n * k + p])) * f64::from($to(w[o % n * k + p]))).collect::<Vec<f64>>();
                let expected: Vec<Vec<f64>> = (0..m * n).map(products).collect();
                let case = forms([m, n, k], pattern, w, x);
                for out in dense(&case.x, &case.undone()).iter().chain([&case.sparse()]) {
                    for (a, products) in out.as_slice::<f32>().unwrap().iter().zip(&expected) {
                        let (b, size): (f64, f64) = (products.iter().sum(), products.iter().map(|p| p.abs()).sum());
                        prop_assert!((f64::from(*a) - b).abs() <= 1e-5 * size, "{}: {a} {b}", stringify!($ty));
                    }
                }
            )*};
        }
        check!(f32: |v| v, |v: f32| v; bf16: bf16::from_f32, bf16::to_f32; f16: f16::from_f32, f16::to_f32; F8E4M3: F8E4M3::from_f32, F8E4M3::to_f32);
    }
}

/// [`QuantLift`] by its definition: value by value, in the order of `sources`.
fn naive_quant_lift(x: &[f32], layout: &KLayout, limit: f32, code: impl Fn(f32) -> u8) -> (Vec<u8>, Vec<f32>) {
    let (mut q, mut scales) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(layout.k()) {
        let max = row.iter().fold(0.0f32, |max, v| if v.is_nan() || max.is_nan() { f32::NAN } else { max.max(v.abs()) });
        let scale = if !max.is_finite() {
            f32::NAN
        } else if max < 1e-30 {
            1.0
        } else {
            max / limit
        };
        let zero = scale.is_nan() || max < 1e-30;
        q.extend(layout.sources().iter().map(|s| s.map_or(0, |s| if zero { 0 } else { code(row[s] * (1.0 / scale)) })));
        scales.push(scale);
    }
    (q, scales)
}

fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect()
}

#[test]
fn quant_lift_is_its_definition() {
    for (n, k) in (2..=8).flat_map(|n| [1, 2, 7, 16, 37, 96, 111, 240].map(|k| (n, k))) {
        let rows = 13;
        let mut x: Vec<f32> =
            (0..rows * k).map(|i| (noise(5, i) as f32 / 2f32.powi(31) - 1.0) * 10f32.powi((i / k) as i32 - 6)).collect();
        let row = |r: usize| r * k..(r + 1) * k;
        x[row(1)].fill(0.0);
        x[row(2)].fill(-9e-31);
        x[row(3)][0] = f32::NAN;
        x[row(4)][k - 1] = f32::NEG_INFINITY;
        // A largest value of 127 makes the scale 1: halves are ties.
        x[row(5)].iter_mut().enumerate().for_each(|(i, v)| *v = i as f32 % 9.0 - 4.5);
        x[row(5)][0] = 127.0;
        x[row(6)].iter_mut().enumerate().for_each(|(i, v)| *v = [1.5, -2.5, 0.5, -0.5, 126.5][i % 5]);
        x[row(6)][k / 2] = -127.0;
        // A largest value of 448 makes the scale of e4m3 1: ties between codes, and subnormals.
        x[row(7)].iter_mut().enumerate().for_each(|(i, v)| *v = [17.0, -19.0, 0.0029296875, 0.0009765625, 432.0][i % 5]);
        x[row(7)][0] = 448.0;
        x[row(8)].fill(f32::MAX);
        x[row(9)].fill(1e-30);

        let sparse = KLayout::sparse(k, Pattern::from_n(n).unwrap());
        for layout in [sparse, KLayout::dense(k)] {
            macro_rules! check {
                ($($ty:ty: $from:expr, $to:expr);*) => {$(
                    let narrow: Vec<$ty> = x.iter().map(|&v| $from(v)).collect();
                    let wide: Vec<f32> = narrow.iter().map(|&v| $to(v)).collect();
                    let input = Tensor::from_slice(&[rows, k], &narrow).unwrap();
                    for (to, limit) in [(DType::I8, 127.0), (DType::F8e4m3, 448.0)] {
                        let code = |v: f32| if to == DType::I8 { v.round_ties_even() as i8 as u8 } else { F8E4M3::from_f32(v).0 };
                        let (q, scales) = naive_quant_lift(&wide, &layout, limit, code);
                        let outputs = run(QuantLift { to, layout: layout.clone() }, &[&input]);
                        assert_eq!(outputs[0].shape(), [rows, layout.lifted()]);
                        assert_eq!(outputs[1].shape(), [rows, 1]);
                        assert!(outputs[0].bytes() == q, "{to} from {} {layout:?}", input.dtype());
                        assert_eq!(bits(outputs[1].as_slice().unwrap()), bits(&scales));
                    }
                )*};
            }
            check!(f32: |v| v, |v: f32| v; bf16: bf16::from_f32, bf16::to_f32; f16: f16::from_f32, f16::to_f32);

            let input = Tensor::from_slice(&[rows, k], &x).unwrap();
            let lift_only = |to| run(QuantLift { to, layout: layout.clone() }, &[&input]);
            fn lifted<T: Element>(x: &[f32], layout: &KLayout, to: impl Fn(f32) -> T) -> Vec<u8> {
                let row = |row: &[f32]| layout.sources().iter().map(|s| to(s.map_or(0.0, |s| row[s]))).collect::<Vec<T>>();
                x.chunks_exact(layout.k()).flat_map(|r| bytemuck::cast_slice::<T, u8>(&row(r)).to_vec()).collect()
            }
            assert_eq!(lift_only(DType::F32).len(), 1, "no scale");
            assert!(lift_only(DType::F32)[0].bytes() == lifted(&x, &layout, |v| v));
            assert!(lift_only(DType::Bf16)[0].bytes() == lifted(&x, &layout, bf16::from_f32));
            assert!(lift_only(DType::F16)[0].bytes() == lifted(&x, &layout, f16::from_f32));
        }
    }
}

#[test]
fn layouts_of_several_segments_are_lifted() {
    let segment = |k, n| crate::sparse::Segment { k, pattern: Pattern::from_n(n) };
    let layout = KLayout { segments: vec![segment(5, 0), segment(13, 4), segment(7, 0), segment(9, 2)] };
    let x: Vec<f32> = (1..=2 * layout.k()).map(|i| i as f32).collect();
    let out = run(QuantLift { to: DType::F32, layout: layout.clone() }, &[&Tensor::from_slice(&[2, layout.k()], &x).unwrap()]);
    let row = |row: &[f32]| layout.sources().iter().map(|s| s.map_or(0.0, |s| row[s])).collect::<Vec<f32>>();
    let expected: Vec<f32> = x.chunks_exact(layout.k()).flat_map(row).collect();
    assert_eq!(out[0].as_slice::<f32>().unwrap(), expected);
}

#[test]
fn rows_are_put_in_order_before_they_are_lifted() {
    let (rows, k) = (7, 29);
    let x: Vec<f32> = (0..rows * k).map(|i| noise(1, i) as f32 / 1e9 - 2.0).collect();
    let order: Vec<i32> = (0..k as i32).map(|p| p * 12 % k as i32).collect();
    let gathered: Vec<f32> = x.chunks(k).flat_map(|row| order.iter().map(|c| row[*c as usize])).collect();
    let [x, gathered] = [x, gathered].map(|x| Tensor::from_slice(&[rows, k], &x).unwrap());
    let order = Tensor::from_slice(&[k], &order).unwrap();
    for layout in [KLayout::dense(k), KLayout::sparse(k, Pattern::from_n(4).unwrap())] {
        for to in [DType::I8, DType::F8e4m3, DType::Bf16, DType::F32] {
            let op = QuantLift { to, layout: layout.clone() };
            for (a, b) in run(op.clone(), &[&x, &order]).iter().zip(&run(op, &[&gathered])) {
                assert_eq!(a.bytes(), b.bytes(), "{to} {layout:?}");
            }
        }
    }
    let bad = Tensor::from_slice(&[k], &vec![0i32; k]).unwrap();
    let op = QuantLift { to: DType::I8, layout: KLayout::dense(k) };
    assert!(crate::cpu::eval(&op.into(), &[Some(x.view()), Some(bad.view())]).is_err());
}

#[test]
fn the_lift_and_its_undoing_meet() {
    let pattern = Pattern::from_n(4).unwrap();
    let (m, n, k) = (3, 5, 29);
    let x: Vec<f32> = (0..m * k).map(|i| noise(1, i) as f32 / 1e9 - 2.0).collect();
    let x = Tensor::from_slice(&[m, k], &x).unwrap();
    let case = forms([m, n, k], pattern, patterned(n, k, pattern, 3, |r| r as i8), vec![0; m * k]);
    let op = QuantLift { to: DType::I8, layout: case.layout.clone() };
    let (lifted, twin) = (run(op.clone(), &[&x]), run(op.dense_twin(), &[&x]));
    assert_eq!(lifted[1].bytes(), twin[1].bytes());
    let sparse = run(SparseGemm { layout: case.layout.clone(), to: None }, &[&lifted[0], &case.values, &case.positions]);
    for out in dense(&twin[0], &case.undone()) {
        assert_eq!(sparse[0].bytes(), out.bytes());
    }
}

#[test]
fn dequant_scales_in_order() {
    let (mut acc, token, channel, bias) =
        ([7, -3, 1 << 25 | 1, 0, 5, -8], [0.1f32, f32::NAN], [0.3f32, -1.7, 1e-3], [0.25f32, 1e9, -0.5]);
    let token = Tensor::from_slice(&[2, 1], &token).unwrap();
    let (channel_t, bias_t) = (Tensor::from_slice(&[3], &channel).unwrap(), Tensor::from_slice(&[3], &bias).unwrap());
    let int = Tensor::from_slice(&[2, 3], &acc).unwrap();
    let float = Tensor::from_slice(&[2, 3], &acc.map(|v| v as f32)).unwrap();
    // What bf16 holds exactly.
    acc[2] = 1 << 25;
    let narrow = Tensor::from_slice(&[2, 3], &acc.map(|v| bf16::from_f32(v as f32))).unwrap();
    for acc_t in [&int, &float, &narrow] {
        let plain = run(Dequant { to: DType::F32, activation: None }, &[acc_t, &token, &channel_t]).remove(0);
        let biased = run(Dequant { to: DType::F32, activation: None }, &[acc_t, &token, &channel_t, &bias_t]).remove(0);
        for i in 0..6 {
            let y = if i < 3 { acc[i] as f32 * 0.1 * channel[i % 3] } else { f32::NAN };
            assert_eq!(bits(&plain.as_slice::<f32>().unwrap()[i..=i]), bits(&[y]));
            assert_eq!(bits(&biased.as_slice::<f32>().unwrap()[i..=i]), bits(&[y + bias[i % 3]]));
        }
        let half = run(Dequant { to: DType::Bf16, activation: None }, &[acc_t, &token, &channel_t]).remove(0);
        for (h, w) in half.as_slice::<bf16>().unwrap().iter().zip(plain.as_slice::<f32>().unwrap()) {
            assert!(h.to_bits() == bf16::from_f32(*w).to_bits() || h.is_nan() && w.is_nan());
        }
    }
}

#[test]
fn a_hostile_weight_is_an_error() {
    let pattern = Pattern::from_n(3).unwrap();
    let mut case = forms([1, 2, 12], pattern, patterned(2, 12, pattern, 3, |r| r as i8 | 1), vec![1; 12]);
    case.positions.bytes_mut()[3] = 0x55;
    let op = SparseGemm { layout: case.layout.clone(), to: None };
    let (values, positions) = (Some(case.values.view()), Some(case.positions.view()));
    assert!(matches!(op.prepare(&[None, values, positions]), Err(KernelError::Data(_))));
    let error = eval(&op.into(), &[Some(case.lifted_x.view()), values, positions]).unwrap_err();
    assert!(matches!(&error, EvalError::Kernel(KernelError::Data(m)) if m.contains("not ascending")), "{error}");
}

#[test]
fn types_and_shapes_that_do_not_fit_are_refused() {
    let ty = |dtype: DType, shape: &[usize]| TensorType::new(dtype, shape.iter().copied());
    let layout = KLayout::sparse(12, Pattern::from_n(3).unwrap());
    let gemm = Op::from(SparseGemm { layout: layout.clone(), to: None });
    let (x, values, positions) = (ty(DType::I8, &[4, 64]), ty(DType::I8, &[5, 32]), ty(DType::U8, &[5, 8]));
    let lift = |to| Op::from(QuantLift { to, layout: layout.clone() });
    let (acc, token, channel) = (ty(DType::I32, &[4, 5]), ty(DType::F32, &[4, 1]), ty(DType::F32, &[5]));
    let dequant = |to| Op::from(Dequant { to, activation: None });
    let cases = [
        (lift(DType::I8), vec![ty(DType::F32, &[4, 13])], "is not the layout's K, 12"),
        (lift(DType::I8), vec![ty(DType::F64, &[4, 12])], "input 0 is f64"),
        (lift(DType::I32), vec![ty(DType::F32, &[4, 12])], "attribute to"),
        (lift(DType::I8), vec![ty(DType::F32, &[])], "scalar"),
        (gemm.clone(), vec![ty(DType::I8, &[4, 12]), values.clone(), positions.clone()], "is not the layout's K', 64"),
        (gemm.clone(), vec![x.clone(), ty(DType::F32, &[5, 32]), positions.clone()], "input 1 is f32"),
        (gemm.clone(), vec![x.clone(), values.clone(), ty(DType::U8, &[4, 8])], "input 2 is"),
        (gemm, vec![x.clone(), ty(DType::I8, &[5, 64]), positions.clone()], "input 1 is"),
        (SparseGemm { layout: KLayout::dense(64), to: None }.into(), vec![x, values, positions], "one sparse segment"),
        (DenseGemm::default().into(), vec![ty(DType::I8, &[4, 12]), ty(DType::I8, &[5, 13])], "input 1 is"),
        (DenseGemm::default().into(), vec![ty(DType::F64, &[4, 12]), ty(DType::F64, &[5, 12])], "input 0 is f64"),
        (dequant(DType::I8), vec![acc.clone(), token.clone(), channel.clone()], "attribute to"),
        (dequant(DType::F32), vec![acc.clone(), channel.clone(), channel.clone()], "input 1 is"),
        (dequant(DType::F32), vec![acc, token.clone(), channel, token], "input 3 is"),
    ];
    for (op, types, expected) in cases {
        let types: Vec<Option<&TensorType>> = types.iter().map(Some).collect();
        let error = op.infer(InputTypes(&types)).unwrap_err();
        assert!(error.to_string().contains(expected), "{op:?} {types:?}: {error}");
        assert!(!matches!(error, InferError::MissingInput(_)));
    }
}
