//! Sessions: results, wrong inputs, many shapes, many threads.

mod variants;

use std::sync::Arc;

use super::*;
use crate::dtype::DType;
use crate::op::sparse::{Dequant, QuantLift, SparseGemm};
use crate::plan::PlanWriter;
use crate::plan::manifest::{Manifest, Output, Program, Storage, ValueId};
use crate::plan::tests::{W1, W2, dim, step, two_products, value};
use crate::sparse::KLayout;
use crate::sparse::compressed::compress;
pub(super) use variants::two_variants;

fn session_of(change: impl FnOnce(&mut Manifest)) -> Result<Session, SessionError> {
    let (writer, mut manifest) = two_products();
    change(&mut manifest);
    let plan = Plan::from_bytes(writer.to_bytes(manifest)?)?;
    Session::new(Arc::new(plan), Device::Cpu, SessionOptions { threads: Some(2), ..SessionOptions::default() })
}

fn inputs(batch: usize, seq: usize) -> (Tensor, Tensor) {
    let x: Vec<f32> = (0..4 * batch).map(|i| (i % 7) as f32 - 3.0).collect();
    (Tensor::from_slice(&[batch, 4], &x).unwrap(), Tensor::from_slice(&[batch, seq], &vec![0i64; batch * seq]).unwrap())
}

/// (x·W1)·W2 and x·W1 by definition, in f64. The data are small integers and halves, so that f32 is exact.
fn reference(x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let product = |a: &[f32], b: &[f32], k: usize, n: usize| -> Vec<f32> {
        let element = |row: &[f32], j: usize| (0..k).map(|i| f64::from(row[i]) * f64::from(b[i * n + j])).sum::<f64>() as f32;
        a.chunks(k).flat_map(|row| (0..n).map(move |j| element(row, j))).collect()
    };
    let y = product(x, &W1, 4, 3);
    (product(&y, &W2, 3, 2), y)
}

fn check_run(session: &Session, batch: usize, seq: usize) {
    let (x, ids) = inputs(batch, seq);
    let outputs = session.run(&[("ids", ids.view()), ("x", x.view())]).unwrap();
    let (z, y) = reference(x.as_slice().unwrap());
    let found: Vec<_> = outputs.iter().map(|(name, t)| (name.as_str(), t.shape(), t.as_slice::<f32>().unwrap())).collect();
    assert_eq!(found, [("z", &[batch, 2][..], &z[..]), ("first", &[batch * 3][..], &y[..])]);
}

fn cpu(session: &Session) -> &Cpu {
    match &session.backend {
        Backend::Cpu(cpu) => cpu,
        #[cfg(feature = "cuda")]
        Backend::Cuda(_) => panic!("a session on the CPU"),
    }
}

#[test]
fn a_plan_runs() {
    let session = session_of(|_| {}).unwrap();
    assert_eq!(session.inputs()[1].to_string(), "ids: i64[batch, seq]");
    assert_eq!(session.outputs()[1].to_string(), "first: f32[3*batch]");
    assert_eq!(session.threads(), 2);
    check_run(&session, 3, 5);
    let size = session.arena_size(&[("batch", 8), ("seq", 1)].map(|(k, v)| (k.to_owned(), v)).into()).unwrap();
    assert_eq!((size.bytes, size.lower_bound), (192, 192));
}

#[test]
fn a_trace_tells_each_step_and_the_names_of_its_results() {
    let session = session_of(|_| {}).unwrap();
    let (x, ids) = inputs(2, 1);
    let mut seen = Vec::new();
    session
        .run_traced(&[("x", x.view()), ("ids", ids.view())], &mut |step: StepTrace<'_>| {
            let values: Vec<_> = step.values.iter().map(|v| (v.name.to_owned(), v.view.to_tensor())).collect();
            seen.push((step.index, step.name.to_owned(), step.op.name(), step.origin.to_vec(), values));
        })
        .unwrap();
    let (z, y) = reference(x.as_slice().unwrap());
    let [first, second] = &seen[..] else { panic!("two steps: {seen:?}") };
    assert_eq!((first.0, &first.1[..], first.2, &first.3[..]), (0, "first", "MatMul", &["/model/first".to_owned()][..]));
    let values: Vec<_> = first.4.iter().map(|(n, t)| (n.as_str(), t.shape(), t.as_slice::<f32>().unwrap())).collect();
    assert_eq!(values, [("y", &[2, 3][..], &y[..]), ("flat", &[6][..], &y[..])]);
    assert_eq!((&second.4[0].0[..], second.4[0].1.as_slice::<f32>().unwrap()), ("z", &z[..]));
}

#[test]
fn wrong_inputs_are_named() {
    let session = session_of(|_| {}).unwrap();
    let (x, ids) = inputs(2, 3);
    let (wide, wide_ids) = inputs(9, 1);
    let (_, long) = inputs(2, 600);
    let (_, other_batch) = inputs(4, 3);
    let (x, ids) = (x.view(), ids.view());
    let short = TensorView { data: &x.data[..8], ..x };
    let narrow = TensorView { shape: &[4, 2], ..x };
    let cases: &[(&[(&str, TensorView<'_>)], &str)] = &[
        (&[], "input 'x' is missing: the plan's inputs are x, ids"),
        (&[("x", x)], "input 'ids' is missing: the plan's inputs are x, ids"),
        (&[("x", x), ("ids", ids), ("y", x)], "the plan has no input 'y': its inputs are x, ids"),
        (&[("x", x), ("ids", ids), ("x", x)], "input 'x' is given twice: the plan's inputs are x, ids"),
        (&[("x", x), ("ids", x)], "ids: i64[batch, seq] expected, f32[2, 4] given"),
        (&[("x", narrow), ("ids", ids)], "x: f32[batch, 4] expected, f32[4, 2] given"),
        (&[("x", short), ("ids", ids)], "x: f32[2, 4] needs 32 bytes, aligned to its element type; 8 bytes were given"),
        (&[("x", x), ("ids", other_batch.view())], "batch is 2 by input 'x' but 4 by input 'ids'"),
        (
            &[("x", x), ("ids", long.view())],
            "seq = 600 is outside 1..512, for which this plan was compiled: recompile with --shape seq=1..600",
        ),
        (&[("x", wide.view()), ("ids", wide_ids.view())], "batch = 9 is outside 1..8"),
    ];
    for (given, message) in cases {
        let error = session.run(given).unwrap_err().to_string();
        assert!(error.starts_with(message), "{message}: {error}");
    }
    check_run(&session, 2, 3);
}

#[test]
fn misaligned_and_empty_inputs() {
    let session = session_of(|m| m.symbols.iter_mut().for_each(|s| s.min = 0)).unwrap();
    let (x, ids) = inputs(2, 3);
    let mut shifted = vec![0u64; 5];
    let shifted: &mut [u8] = bytemuck::cast_slice_mut(&mut shifted);
    shifted[1..33].copy_from_slice(x.bytes());
    let misaligned = TensorView { data: &shifted[1..33], ..x.view() };
    let error = session.run(&[("x", misaligned), ("ids", ids.view())]).unwrap_err();
    assert!(matches!(error, SessionError::InputData { .. }), "{error}");
    check_run(&session, 0, 3);
    let nothing = TensorView { dtype: DType::F32, shape: &[0, 4], data: &[] };
    assert_eq!(session.run(&[("x", nothing), ("ids", inputs(0, 1).1.view())]).unwrap()[0].1.shape(), [0, 2]);
}

#[test]
fn expressions_among_the_inputs() {
    // `half` follows from an expression alone.
    let session = session_of(|m| {
        m.program.values[6].ty.shape = vec![dim("2*half+1"), dim("batch*half")];
        m.symbols[1].name = "half".into();
    })
    .unwrap();
    let (x, _) = inputs(2, 1);
    for (shape, message) in [
        ([7, 6], None),
        ([7, 5], Some("ids: the axis batch*half must be 6 here, 5 given")),
        ([8, 6], Some("ids: the axis 2*half+1 must be 7 here, 8 given")),
        ([1, 0], Some("half = 0 is outside 1..512")),
    ] {
        let ids = Tensor::zeros(DType::I64, &shape).unwrap();
        let result = session.run(&[("x", x.view()), ("ids", ids.view())]).map(|_| ());
        match message {
            None => result.unwrap(),
            Some(m) => assert!(result.as_ref().unwrap_err().to_string().starts_with(m), "{m}: {result:?}"),
        }
    }
}

#[test]
fn steps_that_do_not_fit_are_named() {
    type Change = fn(&mut Manifest);
    let cases: &[(Change, &str)] = &[
        (
            |m| m.program.values[2].ty.shape.push(1.into()),
            "step 'first' (MatMul): it gives [f32[batch, 3]], the plan says [f32[batch, 3, 1]]",
        ),
        (|m| m.program.values[0].ty.dtype = DType::Bool, "step 'first' (MatMul): "),
        (|m| m.program.values[0].ty.shape[1] = 5.into(), "step 'first' (MatMul): "),
        (|m| m.program.steps[0].inputs[1] = None, "step 'first' (MatMul): input 1 is missing"),
    ];
    for (change, message) in cases {
        let error = session_of(change).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{message}: {error}");
    }
    // What symbols leave open is found when they are bound.
    for (value, extent) in [(5, "batch+1"), (3, "batch+4")] {
        let session = session_of(|m| m.program.values[value].ty.shape[0] = dim(extent)).unwrap();
        let (x, ids) = inputs(3, 1);
        assert!(session.run(&[("x", x.view()), ("ids", ids.view())]).is_err());
    }
}

#[test]
fn devices_and_options() {
    let plan = || {
        let (writer, manifest) = two_products();
        Arc::new(Plan::from_bytes(writer.to_bytes(manifest).unwrap()).unwrap())
    };
    for (text, device) in [("cpu", Device::Cpu), ("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))] {
        assert_eq!(text.parse(), Ok(device));
    }
    for text in ["", "gpu", "cpu:0", "cuda:", "cuda:x"] {
        assert!(text.parse::<Device>().is_err(), "{text}");
    }
    let error = |device, options| Session::new(plan(), device, options).map(|_| ()).unwrap_err().to_string();
    assert!(error(Device::Cuda(0), SessionOptions::default()).contains("compiled for the CPU alone"));
    assert!(error(Device::Cpu, SessionOptions { threads: Some(0), ..SessionOptions::default() }).contains("at least one thread"));
    let options = SessionOptions { memory_limit: Some(100), ..SessionOptions::default() };
    let session = Session::new(plan(), Device::Cpu, options).unwrap();
    let (x, ids) = inputs(8, 1);
    let error = session.run(&[("x", x.view()), ("ids", ids.view())]).unwrap_err().to_string();
    assert!(error.contains("192 bytes of working memory, which is over the limit"), "{error}");
}

#[test]
fn runs_may_overlap() {
    let session = session_of(|_| {}).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let session = session.clone();
            scope.spawn(move || (0..50).for_each(|i| check_run(&session, 1 + (i + thread) % 8, 1 + i % 3)));
        }
    });
    assert!(cpu(&session).arenas.sizes().len() <= 4);
}

#[test]
fn memory_is_bounded_under_shape_churn() {
    let session = session_of(|_| {}).unwrap();
    for i in 0..200 {
        check_run(&session, 1 + i % 8, 1 + i);
    }
    assert_eq!(cpu(&session).bound.lock().unwrap().len(), 32);
    assert_eq!(cpu(&session).arenas.sizes(), [192], "one arena, of the largest shape's size");
}

#[test]
fn outputs_may_be_inputs_constants_and_repeated() {
    let session = session_of(|m| {
        m.program.values.push(value("x.flat", DType::F32, &["4*batch"], Storage::Alias(ValueId(0))));
        let named = |name: &str, v| Output { name: name.into(), value: ValueId(v) };
        m.program.outputs = vec![named("a", 7), named("b", 1), named("c", 5), named("d", 5)];
    })
    .unwrap();
    let (x, ids) = inputs(2, 1);
    let outputs = session.run(&[("x", x.view()), ("ids", ids.view())]).unwrap();
    let (z, _) = reference(x.as_slice().unwrap());
    let expected = [x.as_slice::<f32>().unwrap(), &W1, &z, &z];
    for ((_, tensor), expected) in outputs.iter().zip(expected) {
        assert_eq!(tensor.as_slice::<f32>().unwrap(), expected);
    }
}

/// The dense weight, [2, 8]: two non-zeros in every four.
const W24: [i8; 16] = [5, 0, -3, 0, 0, 0, 7, 127, 0, 0, 0, 0, -128, 1, 0, 0];

/// x: f32[rows, 8] → QuantLift → SparseGemm (2:4, lifted to 64) → Dequant. The accumulator is an output too.
pub(super) fn sparse_product() -> (PlanWriter<'static>, Manifest) {
    let layout = KLayout::sparse(8, "2:4".parse().unwrap());
    let mut lifted = vec![0i8; 2 * 64];
    // Lifting to 2:4 keeps the order; the rest of K' is padding.
    W24.chunks(8).zip(lifted.chunks_mut(64)).for_each(|(w, row)| row[..8].copy_from_slice(w));
    let (kept, positions) = compress(Tensor::from_slice(&[2, 64], &lifted).unwrap().view()).unwrap();
    let mut writer = PlanWriter::new();
    let blobs = [kept.bytes(), positions.bytes(), bytemuck::cast_slice::<f32, u8>(&[0.5, 2.0])]
        .map(|b| writer.add_blob(Box::<[u8]>::from(b)));
    let manifest = Manifest {
        symbols: vec![crate::plan::manifest::SymbolRange { name: "rows".into(), min: 1, max: 64 }],
        program: Program {
            values: vec![
                value("x", DType::F32, &["rows", "8"], Storage::Input),
                value("kept", DType::I8, &["2", "32"], Storage::Constant(blobs[0])),
                value("positions", DType::U8, &["2", "8"], Storage::Constant(blobs[1])),
                value("channels", DType::F32, &["2"], Storage::Constant(blobs[2])),
                value("q", DType::I8, &["rows", "64"], Storage::Computed),
                value("tokens", DType::F32, &["rows", "1"], Storage::Computed),
                value("acc", DType::I32, &["rows", "2"], Storage::Computed),
                value("y", DType::F32, &["rows", "2"], Storage::Computed),
            ],
            inputs: vec![ValueId(0)],
            outputs: [("y", 7), ("acc", 6)].map(|(n, v)| Output { name: n.into(), value: ValueId(v) }).into(),
            steps: vec![
                step("lift", QuantLift { to: DType::I8, layout: layout.clone() }, &[0], &[4, 5]),
                step("product", SparseGemm { layout, to: None }, &[4, 1, 2], &[6]),
                step("scale", Dequant { to: DType::F32, activation: None }, &[6, 5, 3], &[7]),
            ],
        },
        ..two_products().1
    };
    (writer, manifest)
}

/// [`sparse_product`] on the channels of x in an order.
pub(super) fn ordered_product(order: &[i32; 8]) -> (PlanWriter<'static>, Manifest) {
    let (mut writer, mut manifest) = sparse_product();
    let blob = writer.add_blob(Box::<[u8]>::from(bytemuck::cast_slice::<i32, u8>(order)));
    manifest.program.values.push(value("order", DType::I32, &["8"], Storage::Constant(blob)));
    manifest.program.steps[0].inputs.push(Some(ValueId(8)));
    (writer, manifest)
}

fn session_with((writer, manifest): (PlanWriter<'static>, Manifest), form: SparseForm) -> Result<Session, SessionError> {
    let plan = Plan::from_bytes(writer.to_bytes(manifest).unwrap()).unwrap();
    Session::new(Arc::new(plan), Device::Cpu, SessionOptions { threads: Some(1), sparse_form: form, ..SessionOptions::default() })
}

#[test]
fn an_order_of_k_is_that_of_the_activation() {
    const ORDER: [i32; 8] = [3, 0, 7, 5, 1, 2, 6, 4];
    let rows = 5;
    let x: Vec<f32> = (0..rows * 8).map(|i| ((i * 37 + 11) % 101) as f32 - 50.0).collect();
    let gathered: Vec<f32> = x.chunks(8).flat_map(|row| ORDER.map(|k| row[k as usize])).collect();
    let run = |session: &Session, x: &[f32]| session.run(&[("x", Tensor::from_slice(&[rows, 8], x).unwrap().view())]).unwrap();
    let expected = run(&session_with(sparse_product(), SparseForm::Compressed).unwrap(), &gathered);
    for form in [SparseForm::Compressed, SparseForm::Dense] {
        let session = session_with(ordered_product(&ORDER), form).unwrap();
        // Written out, the weight takes the activation as it is.
        assert_eq!(cpu(&session).program.steps[0].inputs.len(), if form == SparseForm::Dense { 1 } else { 2 });
        for ((name, a), (_, b)) in run(&session, &x).iter().zip(&expected) {
            assert_eq!(a.bytes(), b.bytes(), "{name}");
        }
    }
}

#[test]
fn orders_of_k_that_are_none_are_refused() {
    let refusal = |product, form| session_with(product, form).err().map(|e| e.to_string()).unwrap_or_default();
    for form in [SparseForm::Compressed, SparseForm::Dense] {
        for (order, at) in [([0, 1, 2, 3, 4, 5, 6, 8], "8 at position 7"), ([-1, 1, 2, 3, 4, 5, 6, 7], "-1 at position 0")] {
            assert!(refusal(ordered_product(&order), form).contains(at));
        }
        assert!(refusal(ordered_product(&[0, 1, 2, 3, 3, 5, 6, 7]), form).contains("3 at position 4"));
        let (writer, mut manifest) = ordered_product(&[0; 8]);
        manifest.program.values[8].storage = Storage::Input;
        manifest.program.inputs.push(ValueId(8));
        assert!(refusal((writer, manifest), form).contains("the order of K is not constant"));
    }
}

fn sparse_session(form: SparseForm, change: impl FnOnce(&mut Manifest)) -> Session {
    let (writer, mut manifest) = sparse_product();
    change(&mut manifest);
    let plan = Plan::from_bytes(writer.to_bytes(manifest).unwrap()).unwrap();
    let options = SessionOptions { threads: Some(1), sparse_form: form, ..SessionOptions::default() };
    Session::new(Arc::new(plan), Device::Cpu, options).unwrap()
}

#[test]
fn the_lift_is_undone_where_only_products_read_it() {
    let ops = |session: &Session| cpu(session).program.steps.iter().map(|s| s.op.name()).collect::<Vec<_>>();
    let dense = sparse_session(SparseForm::Dense, |_| {});
    assert_eq!(ops(&dense), ["QuantLift", "DenseGemm", "Dequant"]);
    let values = &cpu(&dense).program.values;
    assert_eq!(values[4].ty.to_string(), "i8[rows, 8]");
    let weight = cpu(&dense).program.constant(8, &[2, 8]).unwrap().unwrap();
    assert_eq!(weight.as_slice::<i8>().unwrap(), W24);
    let sparse = ["QuantLift", "SparseGemm", "Dequant"];
    assert_eq!(ops(&sparse_session(SparseForm::Compressed, |_| {})), sparse);
    let with_output = |m: &mut Manifest| m.program.outputs.push(Output { name: "q".into(), value: ValueId(4) });
    assert_eq!(ops(&sparse_session(SparseForm::Dense, with_output)), sparse);
    let with_alias =
        |m: &mut Manifest| m.program.values.push(value("q.flat", DType::I8, &["64*rows"], Storage::Alias(ValueId(4))));
    assert_eq!(ops(&sparse_session(SparseForm::Dense, with_alias)), sparse);
}

#[test]
fn both_forms_of_a_sparse_product_accumulate_the_same() {
    let rows = 5;
    let x: Vec<f32> = (0..rows * 8).map(|i| ((i * 37 + 11) % 101) as f32 - 50.0).collect();
    let x = Tensor::from_slice(&[rows, 8], &x).unwrap();
    let expected: Vec<i32> = x
        .as_slice::<f32>()
        .unwrap()
        .chunks(8)
        .flat_map(|row| {
            let absmax = row.iter().fold(0f32, |m, v| m.max(v.abs()));
            let q = move |v: f32| (v / (absmax / 127.0)).round_ties_even() as i32;
            W24.chunks(8).map(move |w| row.iter().zip(w).map(|(&v, &w)| q(v) * i32::from(w)).sum())
        })
        .collect();
    let [compressed, dense] =
        [SparseForm::Compressed, SparseForm::Dense].map(|form| sparse_session(form, |_| {}).run(&[("x", x.view())]).unwrap());
    assert_eq!(compressed[1].1.as_slice::<i32>().unwrap(), expected);
    for ((_, a), (_, b)) in compressed.iter().zip(&dense) {
        assert_eq!(a.bytes(), b.bytes());
    }
}
