use proptest::prelude::*;

use super::super::eval;
use super::*;
use crate::op::Op;
use crate::op::layout::SliceAxis;
use crate::tensor::Tensor;

/// 0, 1, 2 … as i32.
fn iota(shape: &[usize]) -> Tensor {
    let values: Vec<i32> = (0..shape.iter().product::<usize>() as i32).collect();
    Tensor::from_slice(shape, &values).unwrap()
}

fn run(op: impl Into<Op>, inputs: &[&Tensor]) -> Vec<Tensor> {
    let views: Vec<_> = inputs.iter().map(|t| Some(t.view())).collect();
    eval(&op.into(), &views).unwrap()
}

/// The result as the compiler wrote it down: shape and values.
fn expect(op: impl Into<Op>, inputs: &[&Tensor], shape: &[usize], values: &[i32]) {
    let op = op.into();
    let out = run(op.clone(), inputs);
    assert_eq!((out[0].shape(), out[0].as_slice::<i32>().unwrap()), (shape, values), "{op:?}");
}

/// The result of `op` on 0, 1, 2 … must be what `source` says element by element: the index into the input, or none for 0.
fn expect_positions(op: impl Into<Op>, shape: &[usize], source: impl Fn(&[usize]) -> Option<Vec<usize>>) {
    let op = op.into();
    let out = &run(op.clone(), &[&iota(shape)])[0];
    let want: Vec<i32> = (0..out.shape().iter().product())
        .map(|flat| {
            source(&index_of(flat, out.shape())).map_or(0, |at| at.iter().zip(shape).fold(0, |n, (i, d)| n * d + i) as i32)
        })
        .collect();
    assert_eq!(out.as_slice::<i32>().unwrap(), want, "{op:?} of {shape:?}");
}

fn index_of(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<usize> = shape
        .iter()
        .rev()
        .map(|d| {
            let i = flat % d;
            flat /= d;
            i
        })
        .collect();
    index.reverse();
    index
}

fn dims(values: &[usize]) -> Vec<Dim> {
    values.iter().map(|&v| v.into()).collect()
}

proptest! {
    #[test]
    fn transpose(shape in prop::collection::vec(0usize..7, 0..5), seed: u64) {
        let mut perm: Vec<usize> = (0..shape.len()).collect();
        perm.sort_by_key(|&i| seed.rotate_left(13 * i as u32) % 97);
        expect_positions(Transpose { perm: perm.clone() }, &shape, |at| {
            let mut from = vec![0; at.len()];
            perm.iter().zip(at).for_each(|(&p, &i)| from[p] = i);
            Some(from)
        });
    }

    #[test]
    fn slice(axes in prop::collection::vec((1usize..8, 0usize..8, 0usize..8, prop_oneof![-3i64..0, 1i64..4]), 1..4)) {
        let shape: Vec<usize> = axes.iter().map(|a| a.0).collect();
        let cuts: Vec<(usize, usize, i64)> = axes
            .iter()
            .map(|&(n, start, len, step)| {
                let start = start % n;
                let room = if step > 0 { n - 1 - start } else { start };
                (start, len.min(room / step.unsigned_abs() as usize + 1), step)
            })
            .collect();
        let attribute = |(axis, &(start, len, step)): (usize, &(usize, usize, i64))| SliceAxis { axis, start: start.into(), len: len.into(), step };
        let op = Slice { axes: cuts.iter().enumerate().map(attribute).collect() };
        expect_positions(op, &shape, |at| {
            Some(at.iter().zip(&cuts).map(|(&i, &(start, _, step))| (start as i64 + i as i64 * step) as usize).collect())
        });
    }

    #[test]
    fn pad_with_zeros(axes in prop::collection::vec((0usize..5, -2i64..4, -2i64..4), 1..4)) {
        prop_assume!(axes.iter().all(|&(n, b, a)| n as i64 + b + a >= 0));
        let shape: Vec<usize> = axes.iter().map(|a| a.0).collect();
        let pads: Vec<(i64, i64)> = axes.iter().map(|a| (a.1, a.2)).collect();
        expect_positions(Pad { mode: PadMode::Constant, pads: pads.clone() }, &shape, |at| {
            at.iter().zip(&pads).zip(&shape).map(|((&i, p), &n)| usize::try_from(i as i64 - p.0).ok().filter(|&i| i < n)).collect()
        });
    }

    #[test]
    fn tile_and_expand(axes in prop::collection::vec((1usize..4, 0usize..4), 1..4)) {
        let shape: Vec<usize> = axes.iter().map(|a| a.0).collect();
        let repeats: Vec<usize> = axes.iter().map(|a| a.1).collect();
        expect_positions(Tile { repeats: dims(&repeats) }, &shape, |at| Some(at.iter().zip(&shape).map(|(i, n)| i % n).collect()));
        let ones: Vec<usize> = axes.iter().map(|a| if a.1 % 2 == 0 { 1 } else { a.0 }).collect();
        let target: Vec<usize> = std::iter::once(2).chain(axes.iter().map(|a| if a.1 == 3 { 1 } else { a.0 })).collect();
        expect_positions(Expand { shape: dims(&target) }, &ones, |at| {
            Some(at[1..].iter().zip(&ones).map(|(&i, &n)| if n == 1 { 0 } else { i }).collect())
        });
    }

    #[test]
    fn split_then_concat(shape in prop::collection::vec(0usize..6, 1..4), axis in 0usize..3, cut in 0usize..6) {
        let axis = axis % shape.len();
        let first = cut.min(shape[axis]);
        let x = iota(&shape);
        let parts = run(Split { axis, sizes: dims(&[first, 0, shape[axis] - first]) }, &[&x]);
        let mut expected = Vec::new();
        for flat in 0..shape.iter().product() {
            if index_of(flat, &shape)[axis] < first {
                expected.push(flat as i32);
            }
        }
        prop_assert_eq!(parts[0].as_slice::<i32>().unwrap(), expected);
        let joined = run(Concat { axis }, &parts.iter().collect::<Vec<_>>());
        prop_assert_eq!(joined[0].bytes(), x.bytes());
    }
}

#[test]
fn other_element_sizes() {
    let transpose = || Transpose { perm: vec![1, 0] };
    let out = run(transpose(), &[&Tensor::from_slice(&[2, 3], &[1u8, 2, 3, 4, 5, 6]).unwrap()]);
    assert_eq!(out[0].as_slice::<u8>(), Some(&[1, 4, 2, 5, 3, 6][..]));
    let out = run(transpose(), &[&Tensor::from_slice(&[2, 3], &[1i16, 2, 3, 4, 5, 6]).unwrap()]);
    assert_eq!(out[0].as_slice::<i16>(), Some(&[1, 4, 2, 5, 3, 6][..]));
    let out = run(transpose(), &[&Tensor::from_slice(&[2, 3], &[1f64, 2., 3., 4., 5., 6.]).unwrap()]);
    assert_eq!(out[0].as_slice::<f64>(), Some(&[1., 4., 2., 5., 3., 6.][..]));
}

#[test]
fn padding() {
    let x = iota(&[4]);
    let pad = |mode, before, after| Pad { mode, pads: vec![(before, after)] };
    let nine = Tensor::scalar(9i32);
    expect(pad(PadMode::Constant, 1, 2), &[&x, &nine], &[7], &[9, 0, 1, 2, 3, 9, 9]);
    expect(pad(PadMode::Constant, -3, 4), &[&iota(&[2]), &nine], &[3], &[9, 9, 9]);
    expect(pad(PadMode::Constant, 2, 0), &[&iota(&[0]), &nine], &[2], &[9, 9]);
    expect(pad(PadMode::Reflect, 2, 1), &[&x], &[7], &[2, 1, 0, 1, 2, 3, 2]);
    expect(pad(PadMode::Reflect, 5, 0), &[&x], &[9], &[1, 2, 3, 2, 1, 0, 1, 2, 3]);
    expect(pad(PadMode::Reflect, 1, 1), &[&iota(&[1])], &[3], &[0, 0, 0]);
    expect(pad(PadMode::Edge, 2, 1), &[&x], &[7], &[0, 0, 0, 1, 2, 3, 3]);
    expect(pad(PadMode::Edge, -2, 1), &[&x], &[3], &[2, 3, 3]);
    expect(pad(PadMode::Wrap, 2, 5), &[&x], &[11], &[2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0]);
    expect(Pad { mode: PadMode::Constant, pads: vec![] }, &[&Tensor::scalar(7i32)], &[], &[7]);
}

/// The examples of the ONNX operator documentation.
#[test]
fn depth_and_space() {
    let x = Tensor::from_slice(&[1, 8, 2, 3], &(0..48).map(|i| (i / 6) * 9 + i % 6).collect::<Vec<i32>>()).unwrap();
    let dcr = [
        0, 18, 1, 19, 2, 20, 36, 54, 37, 55, 38, 56, 3, 21, 4, 22, 5, 23, 39, 57, 40, 58, 41, 59, 9, 27, 10, 28, 11, 29, 45, 63,
        46, 64, 47, 65, 12, 30, 13, 31, 14, 32, 48, 66, 49, 67, 50, 68,
    ];
    expect(DepthToSpace { block: 2, crd: false }, &[&x], &[1, 2, 4, 6], &dcr);
    let crd = [
        0, 9, 1, 10, 2, 11, 18, 27, 19, 28, 20, 29, 3, 12, 4, 13, 5, 14, 21, 30, 22, 31, 23, 32, 36, 45, 37, 46, 38, 47, 54, 63,
        55, 64, 56, 65, 39, 48, 40, 49, 41, 50, 57, 66, 58, 67, 59, 68,
    ];
    expect(DepthToSpace { block: 2, crd: true }, &[&x], &[1, 2, 4, 6], &crd);
    let y = Tensor::from_slice(
        &[1, 1, 4, 6],
        &[0, 6, 1, 7, 2, 8, 12, 18, 13, 19, 14, 20, 3, 9, 4, 10, 5, 11, 15, 21, 16, 22, 17, 23],
    )
    .unwrap();
    expect(SpaceToDepth { block: 2 }, &[&y], &[1, 4, 2, 3], &(0..24).collect::<Vec<_>>());
}

#[test]
fn triangles() {
    for (k, upper) in [(0, true), (0, false), (2, true), (-1, false), (9, true), (-9, true), (9, false), (-9, false)] {
        expect_positions(Trilu { upper, k }, &[2, 3, 4], |at| {
            let above = at[2] as i64 - at[1] as i64;
            (if upper { above >= k } else { above <= k }).then(|| at.to_vec())
        });
    }
    for (k, upper, kept) in [(i64::MIN, true, true), (i64::MAX, true, false), (i64::MIN, false, false), (i64::MAX, false, true)] {
        expect_positions(Trilu { upper, k }, &[3, 2], |at| kept.then(|| at.to_vec()));
    }
}

/// The examples of the ONNX operator documentation.
#[test]
fn reversed_sequences() {
    let x = iota(&[4, 4]);
    let time = ReverseSequence { time_axis: 0, batch_axis: 1 };
    let lengths = Tensor::from_slice(&[4], &[4i64, 3, 2, 1]).unwrap();
    expect(time, &[&x, &lengths], &[4, 4], &[12, 9, 6, 3, 8, 5, 2, 7, 4, 1, 10, 11, 0, 13, 14, 15]);
    let batch = ReverseSequence { time_axis: 1, batch_axis: 0 };
    let lengths = Tensor::from_slice(&[4], &[1i64, 2, 3, 4]).unwrap();
    expect(batch, &[&x, &lengths], &[4, 4], &[0, 1, 2, 3, 5, 4, 6, 7, 10, 9, 8, 11, 15, 14, 13, 12]);
    for length in [-1, 5, i64::MIN] {
        let lengths = Tensor::from_slice(&[4], &[0, 1, 2, length]).unwrap();
        assert!(eval(&batch.into(), &[Some(x.view()), Some(lengths.view())]).is_err());
    }
}

#[test]
fn no_elements() {
    let x = iota(&[0, 3]);
    expect(Reshape { shape: dims(&[3, 0]) }, &[&x], &[3, 0], &[]);
    expect(Transpose { perm: vec![1, 0] }, &[&x], &[3, 0], &[]);
    expect(Expand { shape: dims(&[2, 1, 1]) }, &[&x], &[2, 0, 3], &[]);
    expect(Tile { repeats: dims(&[2, 2]) }, &[&x], &[0, 6], &[]);
    expect(Tile { repeats: dims(&[0]) }, &[&iota(&[3])], &[0], &[]);
    expect(Concat { axis: 0 }, &[&x, &iota(&[1, 3]), &x], &[1, 3], &[0, 1, 2]);
    expect(Trilu { upper: true, k: 0 }, &[&iota(&[2, 0])], &[2, 0], &[]);
    expect(DepthToSpace { block: 2, crd: true }, &[&iota(&[0, 4, 1, 1])], &[0, 1, 2, 2], &[]);
    let huge = Tensor::zeros(crate::dtype::DType::I32, &[0, 1 << 30, 1 << 30]).unwrap();
    expect(Transpose { perm: vec![0, 2, 1] }, &[&huge], &[0, 1 << 30, 1 << 30], &[]);
}
