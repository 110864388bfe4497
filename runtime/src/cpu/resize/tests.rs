use super::super::eval;
use super::*;
use crate::op::resize::{Coordinates::*, NearestRounding::*};
use crate::tensor::Tensor;

const LINEAR: Interpolation = Interpolation::Linear;
const CUBIC: Interpolation = Interpolation::Cubic { a: -0.75, exclude_outside: false };

fn nearest(rounding: NearestRounding) -> Interpolation {
    Interpolation::Nearest(rounding)
}

/// Resizes 1, 2, 3 … of the given extents.
fn resize(
    from: &[usize],
    to: &[usize],
    scales: Option<f32>,
    coordinates: Coordinates,
    how: Interpolation,
    antialias: bool,
) -> Vec<f32> {
    let values: Vec<f32> = (0..from.iter().product::<usize>()).map(|i| i as f32 + 1.0).collect();
    let x = Tensor::from_slice(from, &values).unwrap();
    let op = Resize {
        shape: to.iter().map(|&d| d.into()).collect(),
        scales: scales.map(|s| vec![s; from.len()]),
        coordinates,
        interpolation: how,
        antialias,
    };
    eval(&op.into(), &[Some(x.view())]).unwrap()[0].as_slice::<f32>().unwrap().to_vec()
}

/// The results that the ONNX backend tests of Resize write down.
#[test]
fn documented_examples() {
    type Case = (&'static [usize], &'static [usize], Option<f32>, Coordinates, Interpolation, bool, &'static [f32]);
    let outside = Interpolation::Cubic { a: -0.5, exclude_outside: true };
    let cases: &[Case] = &[
        (&[2, 4], &[1, 2], Some(0.6), HalfPixel, nearest(RoundPreferFloor), false, &[1., 3.]),
        (&[2, 4], &[1, 3], None, HalfPixel, nearest(RoundPreferFloor), false, &[1., 2., 4.]),
        (&[2], &[8], None, HalfPixel, nearest(RoundPreferFloor), false, &[1., 1., 1., 1., 2., 2., 2., 2.]),
        (&[4], &[8], None, AlignCorners, nearest(Floor), false, &[1., 1., 1., 2., 2., 3., 3., 4.]),
        (&[4], &[8], None, Asymmetric, nearest(RoundPreferCeil), false, &[1., 2., 2., 3., 3., 4., 4., 4.]),
        (&[4], &[8], None, HalfPixel, nearest(Ceil), false, &[1., 2., 2., 3., 3., 4., 4., 4.]),
        (
            &[2, 2],
            &[4, 4],
            Some(2.0),
            HalfPixel,
            LINEAR,
            false,
            &[1., 1.25, 1.75, 2., 1.5, 1.75, 2.25, 2.5, 2.5, 2.75, 3.25, 3.5, 3., 3.25, 3.75, 4.],
        ),
        (
            &[2, 2],
            &[4, 4],
            Some(2.0),
            AlignCorners,
            LINEAR,
            false,
            &[
                1., 1.333_333, 1.666_667, 2., 1.666_667, 2., 2.333_333, 2.666_667, 2.333_333, 2.666_667, 3., 3.333_333, 3.,
                3.333_333, 3.666_667, 4.,
            ],
        ),
        (&[2, 4], &[1, 2], Some(0.6), HalfPixel, LINEAR, false, &[2.666_666_5, 4.333_333]),
        (&[2, 4], &[1, 2], Some(0.6), AlignCorners, LINEAR, false, &[1., 3.142_857]),
        (&[4, 4], &[3, 1], None, PytorchHalfPixel, LINEAR, false, &[1.666_667, 7., 12.333_333]),
        (&[4], &[2], Some(0.6), HalfPixelSymmetric, LINEAR, false, &[1.666_667, 3.333_333]),
        (&[2], &[5], Some(2.94), HalfPixelSymmetric, LINEAR, false, &[1., 1.159_864, 1.5, 1.840_136, 2.]),
        (&[4, 4], &[2, 2], Some(0.6), HalfPixel, LINEAR, true, &[2.875, 4.5, 9.375, 11.]),
        (
            &[4, 4],
            &[3, 3],
            None,
            HalfPixel,
            LINEAR,
            true,
            &[2.363_636, 3.590_909, 4.818_182, 7.272_727, 8.5, 9.727_273, 12.181_818, 13.409_091, 14.636_364],
        ),
        (
            &[4, 4],
            &[3, 3],
            Some(0.8),
            HalfPixel,
            CUBIC,
            false,
            &[1.471_191, 2.781_25, 4.082_52, 6.711_426, 8.021_484, 9.322_754, 11.916_504, 13.226_563, 14.527_832],
        ),
        (
            &[4, 4],
            &[3, 3],
            Some(0.8),
            AlignCorners,
            CUBIC,
            false,
            &[1., 2.395_192, 3.790_383, 6.580_766, 7.975_958, 9.371_15, 12.161_533, 13.556_724, 14.951_916],
        ),
        (
            &[4],
            &[8],
            Some(2.0),
            AlignCorners,
            CUBIC,
            false,
            &[1., 1.341_108, 1.800_292, 2.329_446, 2.670_554, 3.199_708, 3.658_892, 4.],
        ),
        (&[4], &[8], Some(2.0), Asymmetric, CUBIC, false, &[1., 1.406_25, 2., 2.5, 3., 3.593_75, 4., 4.093_75]),
        (
            &[4, 4],
            &[3, 3],
            Some(0.8),
            HalfPixel,
            outside,
            false,
            &[1.368_127, 2.669_501, 4.013_337, 6.573_625, 7.875, 9.218_835, 11.948_967, 13.250_341, 14.594_176],
        ),
        (&[4, 4], &[2, 2], Some(0.6), HalfPixel, CUBIC, true, &[2.518_072, 4.285_886, 9.589_329, 11.357_142]),
        (
            &[4, 4],
            &[3, 3],
            None,
            HalfPixel,
            CUBIC,
            true,
            &[1.775_009, 3.120_007, 4.465_005, 7.155_002, 8.5, 9.844_998, 12.534_994, 13.879_993, 15.224_991],
        ),
    ];
    for &(from, to, scales, coordinates, how, antialias, expected) in cases {
        let got = resize(from, to, scales, coordinates, how, antialias);
        let close = got.len() == expected.len() && got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 2e-6 * b.abs().max(1.0));
        assert!(close, "{from:?} to {to:?} by {scales:?}, {coordinates:?}, {how:?}, {antialias}: {got:?}, not {expected:?}");
    }
}

/// Growing one axis and shrinking another takes no more memory than input and result.
#[test]
fn axes_that_grow_come_last() {
    for (from, to) in [([1, 60_000], [60_000, 1]), ([60_000, 1], [1, 60_000])] {
        let out = resize(&from, &to, None, HalfPixel, LINEAR, false);
        // Both elements in the middle, half each.
        assert!(out.len() == 60_000 && out.iter().all(|v| *v == 30_000.5));
    }
}

#[test]
fn types_and_edges() {
    let op = |shape: &[i64], interpolation| Resize {
        shape: shape.iter().map(|&d| d.into()).collect(),
        scales: None,
        coordinates: Asymmetric,
        interpolation,
        antialias: false,
    };
    let run = |op: Resize, x: &Tensor| eval(&op.into(), &[Some(x.view())]).unwrap().remove(0);
    let bytes = Tensor::from_slice(&[2, 2], &[1u8, 2, 3, 4]).unwrap();
    let out = run(op(&[4, 2], nearest(Floor)), &bytes);
    assert_eq!(out.as_slice::<u8>(), Some(&[1, 2, 1, 2, 3, 4, 3, 4][..]));
    let out = run(op(&[4], LINEAR), &Tensor::from_slice(&[2], &[1f64, 2.]).unwrap());
    assert_eq!(out.as_slice::<f64>(), Some(&[1., 1.5, 2., 2.][..]));
    let half =
        |v: &[f32]| Tensor::from_slice(&[v.len()], &v.iter().map(|v| half::f16::from_f32(*v)).collect::<Vec<_>>()).unwrap();
    assert_eq!(run(op(&[4], LINEAR), &half(&[1., 2.])).bytes(), half(&[1., 1.5, 2., 2.]).bytes());
    for (from, to) in [(0, 0), (3, 0)] {
        let x = Tensor::zeros(DType::F32, &[from as usize]).unwrap();
        assert_eq!(run(op(&[to], CUBIC), &x).shape(), &[to as usize]);
    }
    // An axis that changes beside one that has no element.
    assert_eq!(run(op(&[0, 4], LINEAR), &Tensor::zeros(DType::F32, &[0, 2]).unwrap()).shape(), &[0, 4]);
    assert_eq!(run(op(&[], LINEAR), &Tensor::scalar(7f32)).as_slice::<f32>(), Some(&[7f32][..]));
    // The filter of a shrinkage to one element is as wide as the input.
    let mean = resize(&[1000], &[1], Some(0.0006), HalfPixel, LINEAR, true);
    assert!((mean[0] - 500.5).abs() < 200.0, "{mean:?}");
}
