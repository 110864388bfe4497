use super::super::Op;
use super::super::check::tests::infer;
use super::*;

fn dims(text: &str) -> Vec<Dim> {
    text.split(", ").filter(|s| !s.is_empty()).map(|s| s.parse().unwrap()).collect()
}

fn reshape(shape: &str) -> Op {
    Reshape { shape: dims(shape) }.into()
}

fn transpose(perm: &[usize]) -> Op {
    Transpose { perm: perm.to_vec() }.into()
}

fn expand(shape: &str) -> Op {
    Expand { shape: dims(shape) }.into()
}

fn split(axis: usize, sizes: &str) -> Op {
    Split { axis, sizes: dims(sizes) }.into()
}

fn slice(cuts: &[(usize, &str, &str, i64)]) -> Op {
    let cut = |&(axis, start, len, step): &(usize, &str, &str, i64)| SliceAxis {
        axis,
        start: start.parse().unwrap(),
        len: len.parse().unwrap(),
        step,
    };
    Slice { axes: cuts.iter().map(cut).collect() }.into()
}

fn pad(mode: PadMode, pads: &[(i64, i64)]) -> Op {
    Pad { mode, pads: pads.to_vec() }.into()
}

fn tile(repeats: &str) -> Op {
    Tile { repeats: dims(repeats) }.into()
}

#[test]
fn types() {
    let cases: &[(Op, &str, &str)] = &[
        (Identity {}.into(), "bool[]", "bool[]"),
        (reshape("batch, seq, 12, 32"), "f32[batch, seq, 384]", "f32[batch, seq, 12, 32]"),
        (reshape("batch*seq"), "f32[batch, seq]", "f32[batch*seq]"),
        (reshape("6"), "f32[n]", "f32[6]"),
        (reshape(""), "u8[1, 1]", "u8[]"),
        (transpose(&[0, 2, 1, 3]), "f32[b, s, 12, 32]", "f32[b, 12, s, 32]"),
        (transpose(&[]), "f32[]", "f32[]"),
        (expand("3, 1, n"), "i8[2, 1]", "i8[3, 2, n]"),
        (expand("1"), "i8[0, 4]", "i8[0, 4]"),
        (Concat { axis: 1 }.into(), "f32[b, 2] f32[4, s]", "f32[4, s+2]"),
        (Concat { axis: 0 }.into(), "f32[3]", "f32[3]"),
        (split(1, "1, n"), "f32[2, n+1]", "f32[2, 1] f32[2, n]"),
        (split(0, "0, 3"), "f32[3]", "f32[0] f32[3]"),
        (slice(&[(0, "0", "1", 1), (1, "s-1", "s", -1)]), "f32[b, s]", "f32[1, s]"),
        (slice(&[(0, "99", "0", 1)]), "f32[4]", "f32[0]"),
        (slice(&[(0, "3", "2", -3)]), "f32[4]", "f32[2]"),
        (slice(&[]), "f32[4]", "f32[4]"),
        (pad(PadMode::Constant, &[(1, 2), (-1, 0)]), "f32[n, 3] f32[]", "f32[n+3, 2]"),
        (pad(PadMode::Constant, &[(1, 2)]), "f32[0] -", "f32[3]"),
        (pad(PadMode::Reflect, &[(0, 0)]), "f32[0]", "f32[0]"),
        (tile("2, r"), "f32[3, 4]", "f32[6, 4*r]"),
        (DepthToSpace { block: 2, crd: true }.into(), "f32[n, 8, 2, w]", "f32[n, 2, 4, 2*w]"),
        (SpaceToDepth { block: 2 }.into(), "f32[n, 3, 4, 2*w]", "f32[n, 12, 2, w]"),
        (Trilu { upper: true, k: i64::MIN }.into(), "f32[2, n, 3]", "f32[2, n, 3]"),
        (ReverseSequence { time_axis: 0, batch_axis: 1 }.into(), "f32[t, 4, 5] i64[4]", "f32[t, 4, 5]"),
    ];
    for (op, inputs, expected) in cases {
        infer(op, inputs, expected);
    }
}

#[test]
fn refusals() {
    let max = i64::MAX.to_string();
    for (op, inputs, want) in [
        (Identity {}.into(), "", "input 0 is missing"),
        (Identity {}.into(), "f32[] f32[]", "at most 1"),
        (reshape("5"), "f32[2, 3]", "6 elements"),
        (reshape("n+1"), "f32[n]", "elements"),
        (reshape("-2, -3"), "f32[6]", "negative"),
        (reshape(&format!("{max}, {max}")), "f32[6]", "elements"),
        (transpose(&[0]), "f32[2, 3]", "1 entries"),
        (transpose(&[0, 0]), "f32[2, 3]", "twice"),
        (transpose(&[0, usize::MAX]), "f32[2, 3]", "axis"),
        (expand("2, 4"), "f32[3]", "broadcast"),
        (expand("-1"), "f32[1]", "negative"),
        (Concat { axis: 0 }.into(), "", "missing"),
        (Concat { axis: 0 }.into(), "f32[2] -", "missing"),
        (Concat { axis: 1 }.into(), "f32[2]", "axis 1"),
        (Concat { axis: 0 }.into(), "f32[2] f32[2, 1]", "join"),
        (Concat { axis: 0 }.into(), "f32[2, 3] f32[2, 4]", "join"),
        (Concat { axis: 0 }.into(), "f32[2] i32[2]", "type of input 0"),
        (split(0, "1, 1"), "f32[3]", "add up to 2"),
        (split(0, "4, -1"), "f32[3]", "negative"),
        (split(0, ""), "f32[0]", "no part"),
        (split(2, "1"), "f32[1]", "axis 2"),
        (slice(&[(0, "0", "5", 1)]), "f32[4]", "outside"),
        (slice(&[(0, "-1", "1", 1)]), "f32[4]", "outside"),
        (slice(&[(0, "1", "3", -1)]), "f32[4]", "outside"),
        (slice(&[(0, "0", "n+1", 1), (1, "m", "1", 1)]), "f32[n, m]", "outside"),
        (slice(&[(0, "0", "2", i64::MAX)]), "f32[4]", "outside"),
        (slice(&[(0, &max, &max, i64::MIN)]), "f32[4]", "outside"),
        (slice(&[(0, "0", "1", 0)]), "f32[4]", "step"),
        (slice(&[(0, "0", "-1", 1)]), "f32[4]", "negative"),
        (slice(&[(1, "0", "1", 1)]), "f32[4]", "axis 1"),
        (slice(&[(0, "0", "1", 1), (0, "0", "1", 1)]), "f32[4]", "twice"),
        (pad(PadMode::Constant, &[(0, 0)]), "f32[2, 2]", "1 entries"),
        (pad(PadMode::Constant, &[(-2, -1)]), "f32[2]", "leave nothing"),
        (pad(PadMode::Constant, &[(i64::MIN, i64::MAX)]), "f32[2]", "too large"),
        (pad(PadMode::Edge, &[(1, 0)]), "f32[0]", "leave nothing"),
        (pad(PadMode::Wrap, &[(-2, 3)]), "f32[2]", "leave nothing"),
        (pad(PadMode::Constant, &[(1, 0)]), "f32[2] f64[]", "type of input 0"),
        (pad(PadMode::Constant, &[(1, 0)]), "f32[2] f32[2]", "one element"),
        (tile("2"), "f32[2, 2]", "1 entries"),
        (tile("-2"), "f32[2]", "negative"),
        (DepthToSpace { block: 0, crd: false }.into(), "f32[1, 4, 2, 2]", "block"),
        (DepthToSpace { block: 2, crd: false }.into(), "f32[1, 6, 2, 2]", "multiple"),
        (DepthToSpace { block: 2, crd: false }.into(), "f32[4, 2, 2]", "rank of 4"),
        (DepthToSpace { block: usize::MAX, crd: false }.into(), "f32[1, 4, 2, 2]", "too large"),
        (SpaceToDepth { block: 1 << 32 }.into(), "f32[1, 4, 2, 2]", "too large"),
        (SpaceToDepth { block: 3 }.into(), "f32[1, 4, 3, 2]", "multiple"),
        (Trilu { upper: true, k: 0 }.into(), "f32[3]", "rank"),
        (ReverseSequence { time_axis: 1, batch_axis: 1 }.into(), "f32[3, 3] i64[3]", "axes 0 and 1"),
        (ReverseSequence { time_axis: 1, batch_axis: 0 }.into(), "f32[2, 3] i64[3]", "one length"),
        (ReverseSequence { time_axis: 1, batch_axis: 0 }.into(), "f32[2, 3] i32[2]", "i64"),
    ] {
        infer(&op, inputs, want);
    }
}

#[test]
fn every_extent_is_mapped() {
    let mut op = slice(&[(0, "h", "h", 1)]);
    op.map_dims(&mut |d| d.substitute(&|_| 3.into()));
    assert_eq!(op, slice(&[(0, "3", "3", 1)]));
    for (mut op, expected) in [
        (reshape("h, 2"), reshape("3, 2")),
        (expand("h"), expand("3")),
        (split(0, "h, 1"), split(0, "3, 1")),
        (tile("h"), tile("3")),
    ] {
        op.map_dims(&mut |d| d.substitute(&|_| 3.into()));
        assert_eq!(op, expected);
    }
}
