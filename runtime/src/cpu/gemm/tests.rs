//! Products of every kind against naive loops in f64 and i64.

use half::{bf16, f16};

use super::*;
use crate::cpu::eval;
use crate::dtype::Element;
use crate::op::elementwise::Cast;
use crate::op::gemm::{Einsum, MatMulInteger};
use crate::op::{InputTypes, Op, Semantics, TensorType};
use crate::tensor::Tensor;

/// Shapes of two operands, and their subscripts and the result's.
type Product<'a> = (&'a [usize], &'a [usize], &'a str, &'a str, &'a str);

/// The same with the shapes of the zero points.
type IntegerProduct<'a> = (&'a [usize], &'a [usize], &'a str, &'a str, &'a str, &'a [usize], &'a [usize]);

/// Small values of mixed sign, exact in every type.
fn value(seed: usize, i: usize) -> i64 {
    ((i * 31 + seed * 17) % 13) as i64 - 6
}

fn tensor<T: Element>(shape: &[usize], seed: usize, from: impl Fn(i64) -> T) -> Tensor {
    let n = shape.iter().product();
    Tensor::from_slice(shape, &(0..n).map(|i| from(value(seed, i))).collect::<Vec<_>>()).unwrap()
}

/// Runs `op` twice: as it is, and with what `prepare` makes of the operands at `constants`.
fn run(op: impl Into<Op>, inputs: &[&Tensor], constants: &[usize]) -> Tensor {
    let op = op.into();
    let views: Vec<Option<TensorView<'_>>> = inputs.iter().map(|t| Some(t.view())).collect();
    let plain = eval(&op, &views).unwrap().remove(0);
    let known: Vec<Option<TensorView<'_>>> =
        views.iter().enumerate().map(|(i, v)| v.filter(|_| constants.contains(&i))).collect();
    let prepared = op.prepare(&known).unwrap();
    let mut again = Tensor::zeros(plain.dtype(), plain.shape()).unwrap();
    op.run(Context { prepared: prepared.as_ref() }, &views, &mut [again.view_mut()]).unwrap();
    assert_eq!(plain.bytes(), again.bytes(), "prepared and not");
    plain
}

fn floats(t: &Tensor) -> Vec<f64> {
    match t.dtype() {
        DType::F64 => t.as_slice::<f64>().unwrap().to_vec(),
        DType::I8 => t.as_slice::<i8>().unwrap().iter().map(|&v| v.into()).collect(),
        DType::U8 => t.as_slice::<u8>().unwrap().iter().map(|&v| v.into()).collect(),
        DType::I32 => t.as_slice::<i32>().unwrap().iter().map(|&v| v.into()).collect(),
        DType::U32 => t.as_slice::<u32>().unwrap().iter().map(|&v| (v as i32).into()).collect(),
        DType::I64 => t.as_slice::<i64>().unwrap().iter().map(|&v| v as f64).collect(),
        _ => widened("test", t.view()).unwrap().iter().map(|&v| v.into()).collect(),
    }
}

/// Sum over everything that is not in the result, by brute force over all subscripts.
fn naive_einsum(labels: &[&str], output: &str, operands: &[&Tensor]) -> (Vec<usize>, Vec<f64>) {
    let mut extents: Vec<(char, usize)> = Vec::new();
    for (labels, t) in labels.iter().zip(operands) {
        for (l, &d) in labels.chars().zip(t.shape()) {
            match extents.iter_mut().find(|(k, _)| *k == l) {
                Some((_, e)) => *e = (*e).max(d),
                None => extents.push((l, d)),
            }
        }
    }
    let extent = |l: char| extents.iter().find(|(k, _)| *k == l).unwrap().1;
    let shape: Vec<usize> = output.chars().map(extent).collect();
    let mut out = vec![0.0; shape.iter().product()];
    let values: Vec<Vec<f64>> = operands.iter().map(|t| floats(t)).collect();
    for index in 0..extents.iter().map(|e| e.1).product::<usize>() {
        let mut rest = index;
        let coordinates: Vec<(char, usize)> = extents
            .iter()
            .map(|&(l, d)| {
                let at = rest % d;
                rest /= d;
                (l, at)
            })
            .collect();
        let at = |l: char| coordinates.iter().find(|(k, _)| *k == l).unwrap().1;
        let offset = |labels: &str, shape: &[usize]| {
            labels.chars().zip(shape).fold(0, |o, (l, &d)| o * d + if d == 1 { 0 } else { at(l) })
        };
        let product: f64 = labels.iter().zip(operands).zip(&values).map(|((l, t), v)| v[offset(l, t.shape())]).product();
        out[offset(output, &shape)] += product;
    }
    (shape, out)
}

#[test]
fn matmul_broadcasts_like_numpy() {
    // Shapes and the same product as subscripts.
    let cases: [Product<'_>; 14] = [
        (&[3, 4], &[4, 5], "mk", "kn", "mn"),
        (&[1, 70], &[70, 5], "mk", "kn", "mn"),
        (&[4], &[4, 5], "k", "kn", "n"),
        (&[3, 4], &[4], "mk", "k", "m"),
        (&[4], &[4], "k", "k", ""),
        (&[2, 3, 4], &[4, 5], "amk", "kn", "amn"),
        (&[3, 4], &[2, 4, 5], "mk", "akn", "amn"),
        (&[2, 1, 3, 4], &[6, 4, 5], "abmk", "bkn", "abmn"),
        (&[2, 3, 4], &[1, 4, 5], "amk", "akn", "amn"),
        (&[4], &[2, 3, 4, 5], "k", "abkn", "abn"),
        (&[2, 3, 33, 64], &[2, 3, 64, 35], "abmk", "abkn", "abmn"),
        (&[8, 130], &[130, 300], "mk", "kn", "mn"),
        (&[2, 0, 4], &[4, 5], "amk", "kn", "amn"),
        (&[2, 3, 0], &[0, 5], "amk", "kn", "amn"),
    ];
    for (a_shape, b_shape, a_labels, b_labels, out_labels) in cases {
        macro_rules! check {
            ($($ty:ty: $from:expr),*) => {$(
                let (a, b) = (tensor::<$ty>(a_shape, 1, $from), tensor::<$ty>(b_shape, 2, $from));
                let out = run(MatMul::default(), &[&a, &b], &[1]);
                let (shape, expected) = naive_einsum(&[a_labels, b_labels], out_labels, &[&a, &b]);
                assert_eq!(out.shape(), shape, "{a_shape:?} · {b_shape:?}");
                let narrow = matches!(out.dtype(), DType::F16 | DType::Bf16);
                for (x, y) in floats(&out).iter().zip(&expected) {
                    assert!((x - y).abs() <= if narrow { y.abs() / 256.0 } else { 0.0 }, "{a_shape:?} · {b_shape:?} {}: {x} {y}", out.dtype());
                }
            )*};
        }
        check!(f32: |v| v as f32, f64: |v| v as f64, f16: |v| f16::from_f64(v as f64), bf16: |v| bf16::from_f64(v as f64), i32: |v| v as i32, i64: |v| v, u32: |v| v as u32);
    }
}

#[test]
fn half_products_are_rounded_once() {
    // 2048 + 1 + 1 in f16 is 2050; added in f16 it would stay 2048.
    let a = Tensor::from_slice(&[1, 3], &[2048.0, 1.0, 1.0].map(f16::from_f32)).unwrap();
    let b = Tensor::from_slice(&[3, 1], &[1.0; 3].map(f16::from_f32)).unwrap();
    assert_eq!(run(MatMul::default(), &[&a, &b], &[1]).as_slice::<f16>().unwrap(), [f16::from_f32(2050.0)]);
}

#[test]
fn gemm_transposes_scales_and_adds() {
    let (m, k, n) = (5, 7, 6);
    for (trans_a, trans_b, c_shape) in [
        (false, false, None),
        (true, false, Some(vec![n])),
        (false, true, Some(vec![1, n])),
        (true, true, Some(vec![m, 1])),
        (false, false, Some(vec![m, n])),
        (false, true, Some(vec![])),
        (false, true, Some(vec![1])),
    ] {
        let a_shape = if trans_a { [k, m] } else { [m, k] };
        let b_shape = if trans_b { [n, k] } else { [k, n] };
        for (alpha, beta) in [(1.0, 1.0), (0.5, 2.0), (2.0, 0.0)] {
            let op = Gemm { alpha, beta, trans_a, trans_b };
            macro_rules! check {
                ($($ty:ty: $from:expr),*) => {$(
                    let (a, b) = (tensor::<$ty>(&a_shape, 1, $from), tensor::<$ty>(&b_shape, 2, $from));
                    let c = c_shape.as_ref().map(|s| tensor::<$ty>(s, 3, $from));
                    let inputs: Vec<&Tensor> = [&a, &b].into_iter().chain(&c).collect();
                    let out = floats(&run(op, &inputs, &[1]));
                    let labels = [if trans_a { "km" } else { "mk" }, if trans_b { "nk" } else { "kn" }];
                    let (_, product) = naive_einsum(&labels, "mn", &[&a, &b]);
                    for (i, (x, p)) in out.iter().zip(product).enumerate() {
                        let at = |s: &[usize]| match *s {
                            [rows, cols] => (if rows == 1 { 0 } else { i / n }) * cols + if cols == 1 { 0 } else { i % n },
                            [cols] if cols > 1 => i % n,
                            _ => 0,
                        };
                        let c = c.as_ref().map_or(0.0, |c| floats(c)[at(c.shape())]);
                        let y = f64::from(alpha) * p + f64::from(beta) * c;
                        assert!((x - y).abs() < 1e-5, "{op:?} {c_shape:?} at {i}: {x} {y}");
                    }
                )*};
            }
            check!(f32: |v| v as f32, f64: |v| v as f64);
            if alpha == 1.0 {
                check!(i32: |v| v as i32);
            }
        }
    }
}

#[test]
fn einsum_contracts_anything() {
    let cases: [(&str, &[&[usize]]); 22] = [
        ("ij->ji", &[&[3, 4]]),
        ("ij->", &[&[3, 4]]),
        ("ii->i", &[&[4, 4]]),
        ("iij->j", &[&[3, 3, 5]]),
        ("i,j->ij", &[&[3], &[4]]),
        ("i,i->", &[&[5], &[5]]),
        ("ij,jk->ik", &[&[3, 4], &[4, 5]]),
        ("bij,bjk->bik", &[&[2, 33, 40], &[2, 40, 35]]),
        ("bhqd,bhkd->bhqk", &[&[2, 3, 9, 8], &[2, 3, 11, 8]]),
        ("bqhd,bkhd->bhqk", &[&[2, 9, 3, 8], &[2, 11, 3, 8]]),
        ("ijk,jil->kl", &[&[3, 4, 5], &[4, 3, 6]]),
        ("ij,ij->ij", &[&[3, 4], &[3, 4]]),
        ("ij,kl->jl", &[&[3, 4], &[5, 2]]),
        ("ij,jk,kl->il", &[&[3, 4], &[4, 5], &[5, 2]]),
        ("ij,jk,ik->", &[&[3, 4], &[4, 5], &[3, 5]]),
        ("ijj,jk->ki", &[&[3, 4, 4], &[4, 5]]),
        ("ijk,ljm,kn->lmin", &[&[2, 3, 4], &[5, 3, 2], &[4, 6]]),
        ("ij,jk->ik", &[&[3, 1], &[4, 5]]),
        ("aij,ajk->aik", &[&[1, 3, 4], &[6, 4, 5]]),
        (",i->i", &[&[], &[4]]),
        ("ij,j->i", &[&[0, 4], &[4]]),
        ("ij,jk->ik", &[&[2, 0], &[0, 3]]),
    ];
    for (equation, shapes) in cases {
        let (inputs, output) = equation.split_once("->").unwrap();
        let labels: Vec<&str> = inputs.split(',').collect();
        macro_rules! check {
            ($($ty:ty: $from:expr),*) => {$(
                let operands: Vec<Tensor> = shapes.iter().enumerate().map(|(i, s)| tensor::<$ty>(s, i, $from)).collect();
                let operands: Vec<&Tensor> = operands.iter().collect();
                let out = run(Einsum { equation: equation.into() }, &operands, &[]);
                let (shape, expected) = naive_einsum(&labels, output, &operands);
                assert_eq!((out.shape(), floats(&out)), (shape.as_slice(), expected), "{equation}");
            )*};
        }
        check!(f32: |v| v as f32, f64: |v| v as f64, i64: |v| v);
    }
}

#[test]
fn einsum_expands_an_ellipsis() {
    for (equation, plain, shapes) in [
        ("...ii->...i", "abii->abi", vec![vec![2, 3, 4, 4]]),
        ("...ij,...jk->...ik", "abij,abjk->abik", vec![vec![2, 3, 4, 5], vec![2, 3, 5, 6]]),
        ("i...,...j->...ij", "iab,bj->abij", vec![vec![4, 2, 3], vec![3, 5]]),
    ] {
        let operands: Vec<Tensor> = shapes.iter().enumerate().map(|(i, s)| tensor::<f32>(s, i, |v| v as f32)).collect();
        let operands: Vec<&Tensor> = operands.iter().collect();
        let (a, b) =
            (run(Einsum { equation: equation.into() }, &operands, &[]), run(Einsum { equation: plain.into() }, &operands, &[]));
        assert_eq!((a.shape(), a.bytes()), (b.shape(), b.bytes()), "{equation}");
    }
}

#[test]
fn integer_products_subtract_their_zero_points() {
    let extreme = |i: i64| [-128, -127, -1, 0, 1, 2, 127, 126, 64, -64, 99, -3, 5][(i + 6) as usize];
    let cases: [IntegerProduct<'_>; 9] = [
        (&[4, 3], &[3, 2], "mk", "kn", "mn", &[], &[]),
        (&[4, 3], &[3, 2], "mk", "kn", "mn", &[1], &[1]),
        (&[4, 65], &[65, 40], "mk", "kn", "mn", &[4], &[40]),
        (&[2, 4, 65], &[65, 40], "amk", "kn", "amn", &[2, 4, 1], &[1, 40]),
        (&[2, 4, 9], &[2, 9, 70], "amk", "akn", "amn", &[4, 1], &[2, 1, 70]),
        (&[3, 2, 4, 9], &[2, 9, 5], "camk", "akn", "camn", &[2, 4, 1], &[]),
        (&[9], &[9, 5], "k", "kn", "n", &[], &[5]),
        (&[4, 9], &[9], "mk", "k", "m", &[4], &[]),
        (&[4, 0], &[0, 5], "mk", "kn", "mn", &[4], &[5]),
    ];
    for (a_shape, b_shape, a_labels, b_labels, out_labels, a_zero, b_zero) in cases {
        macro_rules! check {
            ($($a:ty, $b:ty);*) => {$(
                let (a, b) = (tensor::<$a>(a_shape, 1, |v| extreme(v) as $a), tensor::<$b>(b_shape, 2, |v| extreme(v) as $b));
                let (az, bz) = (tensor::<$a>(a_zero, 3, |v| extreme(v) as $a), tensor::<$b>(b_zero, 4, |v| extreme(v) as $b));
                let out = run(MatMulInteger {}, &[&a, &b, &az, &bz], &[1]);
                let zeros = |t: &Tensor, shape: &[usize], row: bool| -> Tensor {
                    // The zero points spread over the whole operand.
                    let zero = floats(t);
                    let (last, before) = (shape[shape.len() - 1], if shape.len() > 1 { shape[shape.len() - 2] } else { 1 });
                    let at = |i: usize| match (zero.len(), row) {
                        (1, _) => 0,
                        (len, true) => i / last % len,
                        (len, false) => i % last + (i / (last * before) * last) % len,
                    };
                    let of = |i: usize| zero[at(i)];
                    Tensor::from_slice(shape, &(0..shape.iter().product()).map(of).collect::<Vec<f64>>()).unwrap()
                };
                let less = |t: &Tensor, z: &Tensor| {
                    let v: Vec<f64> = floats(t).iter().zip(floats(z)).map(|(a, b)| a - b).collect();
                    Tensor::from_slice(t.shape(), &v).unwrap()
                };
                let (a, b) = (less(&a, &zeros(&az, a_shape, true)), less(&b, &zeros(&bz, b_shape, false)));
                let (shape, expected) = naive_einsum(&[a_labels, b_labels], out_labels, &[&a, &b]);
                assert_eq!((out.shape(), floats(&out)), (shape.as_slice(), expected), "{a_shape:?} · {b_shape:?}, {a_zero:?}, {b_zero:?}");
            )*};
        }
        check!(u8, i8; u8, u8; i8, i8; i8, u8);
    }
    let (a, b) = (tensor::<u8>(&[2, 3], 1, |v| v as u8), tensor::<i8>(&[3, 2], 2, |v| v as i8));
    let (_, expected) = naive_einsum(&["mk", "kn"], "mn", &[&a, &b]);
    assert_eq!(floats(&run(MatMulInteger {}, &[&a, &b], &[1])), expected, "without zero points");
}

#[test]
fn a_product_ends_with_its_bias_and_activation() {
    let (m, k, n) = (201, 24, 37);
    let operands = |from: fn(i64) -> f32| [tensor(&[m, k], 1, from), tensor(&[k, n], 2, from), tensor(&[n], 3, from)];
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        // So small that a step of bf16 at the result is, too.
        let [a, b, bias] =
            operands(|v| v as f32 / 64.0).map(|x| eval(&Cast { to: dtype }.into(), &[Some(x.view())]).unwrap().remove(0));
        let (_, products) = naive_einsum(&["mk", "kn"], "mn", &[&a, &b]);
        let bias_of = floats(&bias);
        for (function, reference) in [
            (Unary::Relu, (|v| v.max(0.0)) as fn(f64) -> f64),
            (Unary::Sigmoid, |v| 1.0 / (1.0 + (-v).exp())),
            (Unary::Softplus, |v| (1.0 + v.exp()).ln()),
        ] {
            let got = floats(&run(MatMul { activation: Some(function) }, &[&a, &b, &bias], &[1, 2]));
            for (i, (got, product)) in got.iter().zip(&products).enumerate() {
                let want = reference(product + bias_of[i % n]);
                let tolerance = if dtype == DType::F32 { 1e-6 } else { 4e-3 };
                assert!((got - want).abs() <= tolerance * (1.0 + want.abs()), "{function:?} {dtype}: {got}, not {want}");
            }
        }
    }
}

#[test]
fn types_and_shapes_that_do_not_fit_are_refused() {
    let ty = |dtype: DType, shape: &[usize]| TensorType::new(dtype, shape.iter().copied());
    let einsum = |e: &str| Op::from(Einsum { equation: e.into() });
    let gemm = Op::from(Gemm { alpha: 1.0, beta: 1.0, trans_a: false, trans_b: false });
    let (relu, is_nan) = (MatMul { activation: Some(Unary::Relu) }, MatMul { activation: Some(Unary::IsNan) });
    let (f32s, u8s) = (|s: &[usize]| ty(DType::F32, s), |s: &[usize]| ty(DType::U8, s));
    let cases = [
        (Op::from(MatMul::default()), vec![f32s(&[2, 3]), f32s(&[4, 5])], "summed extents 3 and 4 differ"),
        (relu.into(), vec![f32s(&[2, 3]), f32s(&[2, 3, 5])], "an activation needs a matrix"),
        (relu.into(), vec![ty(DType::F64, &[2, 3]), ty(DType::F64, &[3, 5])], "activation"),
        (is_nan.into(), vec![f32s(&[2, 3]), f32s(&[3, 5])], "IsNan of f32 is no activation"),
        (MatMul::default().into(), vec![f32s(&[2, 2, 3]), f32s(&[3, 3, 5])], "do not broadcast"),
        (MatMul::default().into(), vec![f32s(&[]), f32s(&[3])], "input 0 is a scalar"),
        (MatMul::default().into(), vec![f32s(&[3]), ty(DType::F64, &[3])], "input 1 is f64"),
        (MatMul::default().into(), vec![ty(DType::Bool, &[3]), ty(DType::Bool, &[3])], "input 0 is bool"),
        (gemm.clone(), vec![f32s(&[2, 3]), f32s(&[3, 5]), f32s(&[4])], "does not broadcast"),
        (gemm, vec![f32s(&[2, 3, 1]), f32s(&[3, 5])], "a matrix was expected"),
        (einsum("ij,jk"), vec![f32s(&[2, 3]), f32s(&[3, 5])], "'->' is missing"),
        (einsum("ij->i"), vec![f32s(&[2, 3]), f32s(&[3, 5])], "1 operands are named, 2 are given"),
        (einsum("ij->ik"), vec![f32s(&[2, 3])], "in no operand"),
        (einsum("ij->ii"), vec![f32s(&[2, 3])], "repeated"),
        (einsum("i->i"), vec![f32s(&[2, 3])], "does not name the axes"),
        (einsum("i1->i"), vec![f32s(&[2, 3])], "not made of letters"),
        (einsum("ii->i"), vec![f32s(&[2, 3])], "different extents"),
        (MatMulInteger {}.into(), vec![u8s(&[2, 3]), u8s(&[3, 4]), u8s(&[3])], "nor one per row"),
        (MatMulInteger {}.into(), vec![u8s(&[2, 3]), u8s(&[3, 4]), u8s(&[]), u8s(&[4, 1])], "nor one per column"),
        (MatMulInteger {}.into(), vec![f32s(&[2, 3]), u8s(&[3, 4])], "input 0 is f32"),
    ];
    for (op, types, expected) in cases {
        let types: Vec<Option<&TensorType>> = types.iter().map(Some).collect();
        let error = op.infer(InputTypes(&types)).unwrap_err().to_string();
        assert!(error.contains(expected), "{op:?} {types:?}: {error}");
    }
}

#[test]
fn symbolic_extents_carry_through() {
    let ty = |shape: &[&str]| TensorType::new(DType::F32, shape.iter().map(|d| d.parse::<crate::dim::Dim>().unwrap()));
    let infer = |op: Op, a: &[&str], b: &[&str]| op.infer(InputTypes(&[Some(&ty(a)), Some(&ty(b))])).unwrap()[0].to_string();
    assert_eq!(
        infer(MatMul::default().into(), &["batch", "12", "seq", "32"], &["batch", "12", "32", "seq"]),
        "f32[batch, 12, seq, seq]"
    );
    assert_eq!(infer(MatMul::default().into(), &["batch", "seq", "384"], &["384", "1536"]), "f32[batch, seq, 1536]");
    let op = Einsum { equation: "bqhd,bkhd->bhqk".into() };
    assert_eq!(infer(op.into(), &["batch", "seq", "12", "32"], &["batch", "past", "12", "32"]), "f32[batch, 12, seq, past]");
}

#[test]
fn packed_matrices_can_be_shared_between_threads() {
    fn shareable<T: Send + Sync>() {}
    shareable::<Prepared>();
}
