//! Plans that nobody's compiler made: whatever a file says, an error or a result, never a panic, and no more memory than was allowed.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::tests::{ordered_product, sparse_product, two_variants};
use super::*;
use crate::dtype::DType;
use crate::op::attention::Attention;
use crate::op::conv::{Conv, Pool, PoolKind, Windows};
use crate::op::elementwise::{Binary, Cast, Clip, Unary, Where};
use crate::op::gemm::{Einsum, Gemm, MatMul, MatMulInteger};
use crate::op::generate::{Extents, EyeLike, Range};
use crate::op::index::{Gather, GatherElements, GatherNd, OneHot, Scatter, ScatterElements, ScatterNd};
use crate::op::layout::*;
use crate::op::norm::*;
use crate::op::quantize::{DequantizeLinear, DynamicQuantizeLinear, QuantizeLinear};
use crate::op::reduce::{ArgReduce, Cumulative, Reduce, ReduceKind, TopK};
use crate::op::resize::{Coordinates, Interpolation, NearestRounding, Resize};
use crate::op::rotary::Rotary;
use crate::op::sparse::{DenseGemm, Dequant, QuantLift, SparseGemm};
use crate::op::{InputTypes, Op, Semantics, TensorType, for_each_op};
use crate::plan::PlanWriter;
use crate::plan::manifest::{Manifest, Output, Program, Storage, SymbolRange, ValueId};
use crate::plan::tests::{dim, step, two_products, value, with_manifest};
use crate::sparse::KLayout;
use fuzz::targets::run_plan;

mod fuzz;

/// At least one use of every operator, on operands given as types. `n` and `m` are symbols.
fn operators() -> Vec<(Op, &'static str)> {
    let windows =
        |pad| Windows { kernel: vec![3, 2], strides: vec![2, 1], dilations: vec![1, 2], pads: vec![(pad, 0), (1, pad)] };
    let resize = |shape: &[&str], scales: Option<Vec<f32>>, interpolation, antialias| {
        let shape = shape.iter().map(|d| dim(d)).collect();
        Op::from(Resize { shape, scales, coordinates: Coordinates::HalfPixel, interpolation, antialias })
    };
    let cubic = Interpolation::Cubic { a: -0.75, exclude_outside: true };
    let layout = KLayout::sparse(8, "2:4".parse().unwrap());
    let cut = |axis, start: &str, len: &str, step| SliceAxis { axis, start: dim(start), len: dim(len), step };
    let pads = vec![(1, 0), (-1, 2)];
    let pad = |mode| Op::from(Pad { mode, pads: pads.clone() });
    let scatter = |reduction| ScatterElements { axis: 1, reduction }.into();
    vec![
        (Rotary { heads: 2, rotated: 4, interleaved: false }.into(), "f32[n,m,12] f32[n,m,2] f32[n,m,2]"),
        (Rotary { heads: 2, rotated: 6, interleaved: true }.into(), "bf16[n,2,m,6] f32[n,m,3] f32[n,m,3]"),
        (Unary::Gelu.into(), "f32[n,3]"),
        (Unary::Elu { alpha: 0.5 }.into(), "f16[n,3]"),
        (Unary::Neg.into(), "i8[n,3]"),
        (Binary::Add.into(), "f32[n,3] f32[3]"),
        (Binary::Div.into(), "i32[n,3] i32[n,1]"),
        (Binary::Pow.into(), "f32[n,3] i64[3]"),
        (Binary::Mod { fmod: false }.into(), "i64[n,3] i64[3]"),
        (Binary::ShiftLeft.into(), "u8[n] u8[n]"),
        (Where {}.into(), "bool[n,1] f32[3] f32[n,3]"),
        (Clip {}.into(), "f32[n,3] f32[] f32[]"),
        (Cast { to: DType::F8e4m3 }.into(), "f32[n,3]"),
        (Reduce { kind: ReduceKind::Mean, axes: vec![0, 2], keep_dims: true }.into(), "f32[n,3,4]"),
        (Reduce { kind: ReduceKind::LogSumExp, axes: vec![1], keep_dims: false }.into(), "i32[n,3,4]"),
        (ArgReduce { max: true, axis: 1, keep_dims: false, select_last: true }.into(), "f32[n,3,4]"),
        (Cumulative { product: false, axis: 1, exclusive: true, reverse: true }.into(), "i16[n,3,4]"),
        (TopK { k: dim("2"), axis: 1, largest: true }.into(), "f32[n,3,4]"),
        (Identity {}.into(), "f32[n,3]"),
        (Reshape { shape: vec![dim("3"), dim("2*n")] }.into(), "f32[n,6]"),
        (Transpose { perm: vec![2, 0, 1] }.into(), "f32[n,3,4]"),
        (Expand { shape: vec![dim("m"), dim("1"), dim("3")] }.into(), "f32[n,1]"),
        (Concat { axis: 1 }.into(), "f32[n,3] f32[n,m] f32[n,1]"),
        (Split { axis: 1, sizes: vec![dim("2"), dim("m-1")] }.into(), "f32[n,m+1]"),
        (Slice { axes: vec![cut(0, "n-1", "n", -1), cut(1, "1", "2", 2)] }.into(), "f32[n,5]"),
        (pad(PadMode::Constant), "f32[n,5] f32[]"),
        (pad(PadMode::Reflect), "f32[n,5]"),
        (pad(PadMode::Edge), "f32[n,5]"),
        (pad(PadMode::Wrap), "i64[n,5]"),
        (Tile { repeats: vec![dim("2"), dim("n")] }.into(), "f32[n,3]"),
        (DepthToSpace { block: 2, crd: true }.into(), "f32[n,8,3,2]"),
        (SpaceToDepth { block: 2 }.into(), "f32[n,2,4,6]"),
        (Trilu { upper: true, k: 1 }.into(), "f32[n,3,4]"),
        (ReverseSequence { time_axis: 0, batch_axis: 1 }.into(), "f32[n,m,2] i64[m]"),
        (Gather { axis: 1 }.into(), "f32[n,3,4] i64[2,m]"),
        (GatherElements { axis: 1 }.into(), "f32[n,3] i32[n,m]"),
        (GatherNd { batch_dims: 1 }.into(), "f32[n,3,4] i64[n,2,1]"),
        (scatter(Scatter::Replace), "f32[n,3] i64[n,m] f32[n,m]"),
        (scatter(Scatter::Max), "i8[n,3] i64[n,m] i8[n,m]"),
        (ScatterNd { reduction: Scatter::Add }.into(), "f32[4,3] i64[n,2] f32[n]"),
        (OneHot { axis: 1, depth: dim("m") }.into(), "i64[n,3] f32[2]"),
        (Extents { values: vec![dim("n"), dim("m")], shape: vec![2], dtype: DType::I64 }.into(), ""),
        (Range { start: dim("n"), step: dim("-2"), len: dim("m"), dtype: DType::I32 }.into(), ""),
        (EyeLike { rows: dim("n"), columns: dim("3"), k: 1, dtype: DType::F16 }.into(), ""),
        (Softmax { axis: 1, log: true }.into(), "f32[n,3,4]"),
        (Hardmax { axis: 1 }.into(), "f32[n,3,4]"),
        (LayerNorm { axis: 1, epsilon: 1e-5, stats: true }.into(), "f32[n,3,4] f32[3,4] f32[4]"),
        (Attention { heads: 2, kv_heads: 2, scale: 0.5, causal: false }.into(), "f32[n,m,4] f32[n,3,4] f32[n,3,6] f32[n,1,m,3]"),
        (Attention { heads: 6, kv_heads: 2, scale: 0.5, causal: true }.into(), "f32[n,6,m,4] f32[n,2,3,4] f32[n,3,6] bool[m,3]"),
        (RmsNorm { axis: 1, epsilon: 1e-5 }.into(), "f16[n,4] f32[4]"),
        (BatchNorm { epsilon: 1e-5 }.into(), "f32[n,3,4] f32[3] f32[3] f32[3] f32[3]"),
        (InstanceNorm { epsilon: 1e-5 }.into(), "f32[n,3,4] f32[3] f32[3]"),
        (GroupNorm { groups: 2, epsilon: 1e-5 }.into(), "f32[n,4,4] f32[4] f32[4]"),
        (LpNorm { p: 2, axis: 1 }.into(), "f32[n,3,4]"),
        (Lrn { alpha: 1e-4, beta: 0.75, bias: 1.0, size: 3 }.into(), "f32[n,3,4]"),
        (MatMul::default().into(), "f32[m,n,3] f32[3,2] f32[2]"),
        (MatMul::default().into(), "i32[m,n,3] i32[m,3,2]"),
        (Gemm { alpha: 0.5, beta: 2.0, trans_a: true, trans_b: true }.into(), "f32[3,n] f32[2,3] f32[n,1]"),
        (Einsum { equation: "aib,...bj->...aj".into() }.into(), "f32[n,2,3] f32[m,3,4]"),
        (MatMulInteger {}.into(), "u8[n,3] i8[3,2] u8[n] i8[2]"),
        (Conv { windows: windows(1), groups: 2 }.into(), "f32[n,4,5,6] f32[2,2,3,2] f32[2]"),
        (Conv { windows: windows(0), groups: 1 }.into(), "f64[n,2,5,6] f64[3,2,3,2]"),
        (Pool { kind: PoolKind::Max, windows: windows(1), ceil: true }.into(), "i8[n,2,5,6]"),
        (Pool { kind: PoolKind::Average { count_pads: true }, windows: windows(1), ceil: true }.into(), "f32[n,2,5,6]"),
        (Pool { kind: PoolKind::Lp { p: 3 }, windows: windows(0), ceil: false }.into(), "f32[n,2,5,6]"),
        (resize(&["n", "6", "2"], None, Interpolation::Nearest(NearestRounding::Floor), false), "i8[n,3,4]"),
        (resize(&["n", "6", "2"], Some(vec![1.0, 2.0, 0.5]), Interpolation::Linear, true), "f32[n,3,4]"),
        (resize(&["n", "6", "2"], None, cubic, true), "f32[n,3,4]"),
        (QuantizeLinear { to: DType::I8, axis: 1, block: 2 }.into(), "f32[n,4] f32[n,2] i8[n,2]"),
        (DequantizeLinear { axis: 1, block: 0 }.into(), "u8[n,4] f32[4] u8[4]"),
        (DynamicQuantizeLinear {}.into(), "f32[n,4]"),
        (QuantLift { to: DType::F8e4m3, layout: layout.clone() }.into(), "f32[n,8]"),
        (SparseGemm { layout, to: None }.into(), "i8[n,64] i8[2,32] u8[2,8]"),
        (DenseGemm::default().into(), "i8[n,8] i8[2,8]"),
        (Dequant { to: DType::Bf16, activation: None }.into(), "i32[n,2] f32[n,1] f32[2] f32[2]"),
    ]
}

fn types(text: &str) -> Vec<TensorType> {
    let parse = |ty: &str| {
        let (dtype, shape) = ty.trim_end_matches(']').split_once('[').unwrap();
        TensorType::new(dtype.parse().unwrap(), shape.split(',').filter(|d| !d.is_empty()).map(dim))
    };
    text.split_whitespace().map(parse).collect()
}

/// A plan of one step. Operands are inputs, or, with `constants`, zeros in the plan where their extents are known. The symbols come from
/// an input of their own.
fn plan_of(op: &Op, operands: &str, constants: bool) -> (PlanWriter<'static>, Manifest) {
    let operands = types(operands);
    let results = op.infer(InputTypes(&operands.iter().map(Some).collect::<Vec<_>>())).unwrap();
    let mut writer = PlanWriter::new();
    let mut values = vec![value("symbols", DType::U8, &["n", "m"], Storage::Input)];
    for (i, ty) in operands.into_iter().enumerate() {
        let bytes = ty.concrete_shape().filter(|_| constants).map(|s| s.iter().product::<usize>() * ty.dtype.size());
        let storage = bytes.map_or(Storage::Input, |len| Storage::Constant(writer.add_blob(vec![0u8; len])));
        values.push(crate::plan::manifest::Value { ty, ..value(&format!("operand{i}"), DType::U8, &[], storage) });
    }
    let (first, end) = (values.len() as u32, (values.len() + results.len()) as u32);
    for (i, ty) in results.into_iter().enumerate() {
        values.push(crate::plan::manifest::Value { ty, ..value(&format!("result{i}"), DType::U8, &[], Storage::Computed) });
    }
    let symbol = |name: &str| SymbolRange { name: name.into(), min: 0, max: 1 << 40 };
    let inputs = (0..first).map(ValueId).filter(|v| values[v.0 as usize].storage == Storage::Input).collect();
    let operands: Vec<u32> = (1..first).collect();
    let produced: Vec<u32> = (first..end).collect();
    let manifest = Manifest {
        symbols: vec![symbol("n"), symbol("m")],
        program: Program {
            values,
            inputs,
            outputs: produced.iter().map(|&v| Output { name: format!("y{v}"), value: ValueId(v) }).collect(),
            steps: vec![step("step", op.clone(), &operands, &produced)],
        },
        ..two_products().1
    };
    (writer, manifest)
}

/// Every scalar of a JSON tree, by the path of positions that leads to it, and every array.
fn places(json: &serde_json::Value) -> Vec<Vec<usize>> {
    let mut out = vec![vec![]];
    let children: Vec<&serde_json::Value> = match json {
        serde_json::Value::Array(items) => items.iter().collect(),
        serde_json::Value::Object(fields) => fields.values().collect(),
        _ => Vec::new(),
    };
    for (i, child) in children.into_iter().enumerate() {
        out.extend(places(child).into_iter().map(|rest| std::iter::once(i).chain(rest).collect()));
    }
    out
}

fn at<'a>(json: &'a mut serde_json::Value, place: &[usize]) -> &'a mut serde_json::Value {
    place.iter().fold(json, |json, &i| match json {
        serde_json::Value::Array(items) => &mut items[i],
        serde_json::Value::Object(fields) => fields.values_mut().nth(i).unwrap(),
        _ => unreachable!("paths come from the same tree"),
    })
}

fn mutate(json: &mut serde_json::Value, place: usize, kind: usize) {
    const NUMBERS: [i64; 12] = [0, 1, 2, 3, 5, 6, 255, 1 << 31, 1 << 40, -1, i64::MIN, i64::MAX];
    const STRINGS: [&str; 14] =
        ["0", "1", "3", "7", "4294967296", "9223372036854775807", "n", "m", "n*m+1", "div(m,n-1)", "i8", "f32", "i64", "bool"];
    let places = places(json);
    let node = at(json, &places[place % places.len()]);
    match node {
        serde_json::Value::Number(n) => *n = NUMBERS[kind % NUMBERS.len()].into(),
        serde_json::Value::String(s) => *s = STRINGS[kind % STRINGS.len()].to_owned(),
        serde_json::Value::Array(items) if !items.is_empty() => {
            let i = kind % items.len();
            match kind % 3 {
                0 => drop(items.remove(i)),
                1 => items.push(items[i].clone()),
                _ => items.swap(0, i),
            }
        }
        serde_json::Value::Bool(b) => *b = !*b,
        _ => *node = serde_json::Value::Null,
    }
}

/// Declares for each step the results that it has, so that a plan fails later than at the first check of types.
fn repair(manifest: &mut Manifest) {
    for step in &manifest.program.steps {
        let ty = |v: &ValueId| manifest.program.values.get(v.0 as usize).map(|v| &v.ty);
        let operands: Vec<Option<&TensorType>> = step.inputs.iter().map(|v| v.as_ref().and_then(ty)).collect();
        let Ok(results) = step.op.infer(InputTypes(&operands)) else { continue };
        for (id, ty) in step.outputs.iter().zip(results) {
            if let Some(value) = manifest.program.values.get_mut(id.0 as usize) {
                value.ty = ty;
            }
        }
    }
}

/// Loads and runs whatever plan a mutated manifest makes; all that counts is that nothing panics and memory stays small.
fn run_made_up(file: &[u8], mutations: &[(usize, usize)], repaired: bool, options: SessionOptions) {
    let manifest = Plan::from_bytes(file.to_vec()).unwrap().manifest().clone();
    let mut json = serde_json::to_value(&manifest).unwrap();
    mutations.iter().for_each(|&(place, kind)| mutate(&mut json, place, kind));
    let Ok(mut manifest) = serde_json::from_value::<Manifest>(json) else { return };
    if repaired {
        repair(&mut manifest);
    }
    let Ok(plan) = Plan::from_bytes(with_manifest(file, &manifest)) else { return };
    run_plan(plan, options);
}

#[test]
fn every_operator_is_tried_and_runs_unchanged() {
    macro_rules! names {
        ($($variant:ident($family:ident::$ty:ident)),* $(,)?) => { BTreeSet::from([$(stringify!($variant)),*]) };
    }
    let tried: BTreeSet<&str> = operators().iter().map(|(op, _)| op.name()).collect();
    assert_eq!(tried, for_each_op!(names), "operators without a case");
    for (op, operands) in operators() {
        let (writer, manifest) = plan_of(&op, operands, false);
        let plan = Plan::from_bytes(writer.to_bytes(manifest).unwrap()).unwrap();
        let session =
            Session::new(Arc::new(plan), Device::Cpu, SessionOptions { threads: Some(1), ..SessionOptions::default() }).unwrap();
        let symbols: Bindings = [("n", 2), ("m", 3)].map(|(name, v)| (name.to_owned(), v)).into();
        let tensors = crate::tool::random::inputs(session.inputs(), &symbols, 1).unwrap();
        let views: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
        if let Err(e) = session.run(&views) {
            // Random data may be a divisor of 0, or positions that no compressed weight has; everything else fits.
            let of_data = ["divided by zero", "not ascending"];
            assert!(of_data.iter().any(|what| e.to_string().contains(what)), "{op:?}: {e}");
        }
    }
}

proptest! {
    #[test]
    fn made_up_plans_never_panic(mutations in prop::collection::vec((any::<usize>(), any::<usize>()), 1..4)) {
        let (writer, manifest) = two_products();
        run_made_up(&writer.to_bytes(manifest).unwrap(), &mutations, false, SessionOptions::default());
    }

    #[test]
    fn made_up_sparse_plans_never_panic(mutations in prop::collection::vec((any::<usize>(), any::<usize>()), 1..4), dense: bool, ordered: bool) {
        let (writer, manifest) = if ordered { ordered_product(&[7, 6, 5, 4, 3, 2, 1, 0]) } else { sparse_product() };
        let sparse_form = if dense { SparseForm::Dense } else { SparseForm::Compressed };
        run_made_up(&writer.to_bytes(manifest).unwrap(), &mutations, false, SessionOptions { sparse_form, ..SessionOptions::default() });
    }

    #[test]
    fn made_up_variants_never_panic(mutations in prop::collection::vec((any::<usize>(), any::<usize>()), 1..4)) {
        let (writer, manifest) = two_variants();
        let variant = Some("dense".to_owned());
        let options = SessionOptions { cuda_program: true, variant, ..SessionOptions::default() };
        run_made_up(&writer.to_bytes(manifest).unwrap(), &mutations, false, options);
    }
}

proptest! {
    // Most plans fail at the first check; PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig::with_cases(ProptestConfig::default().cases.max(2048)))]

    #[test]
    fn made_up_plans_of_every_operator_never_panic(
        which in any::<usize>(),
        constants: bool,
        mutations in prop::collection::vec((any::<usize>(), any::<usize>()), 1..4),
    ) {
        let operators = operators();
        let (op, operands) = &operators[which % operators.len()];
        let (writer, manifest) = plan_of(op, operands, constants);
        run_made_up(&writer.to_bytes(manifest).unwrap(), &mutations, true, SessionOptions::default());
    }
}
