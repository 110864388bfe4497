//! Plans inside programs, and outputs in the caller's memory.

#[path = "../examples/perceptron.rs"]
mod perceptron;

use sliderun::dtype::DType;
use sliderun::plan::manifest::Manifest;
use sliderun::plan::{Plan, PlanError};
use sliderun::session::{Device, Session, SessionError, SessionOptions};
use sliderun::tensor::{ALIGN, Tensor, TensorViewMut};

static PLAN: &[u8] = sliderun::include_plan!("../examples/perceptron.slide");

fn session() -> Session {
    Session::new(Plan::from_bytes(PLAN).unwrap().into(), Device::Cpu, SessionOptions::default()).unwrap()
}

/// hidden and y of the perceptron, in f64.
fn expected(x: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut hidden, mut y) = (Vec::new(), Vec::new());
    for row in x.chunks(4) {
        let product = |j: usize| (0..4).map(|i| f64::from(row[i]) * f64::from(perceptron::W1[i * 3 + j])).sum::<f64>();
        let h: Vec<f64> = (0..3).map(|j| (product(j) + f64::from(perceptron::B[j])).max(0.0)).collect();
        y.extend((0..2).map(|j| (0..3).map(|i| h[i] * f64::from(perceptron::W2[i * 2 + j])).sum::<f64>() as f32));
        hidden.extend(h.into_iter().map(|v| v as f32));
    }
    (y, hidden)
}

#[test]
fn the_committed_plan_is_what_the_example_writes() {
    let advice = "write it anew: cargo run -p sliderun --example perceptron -- runtime/examples/perceptron.slide";
    let committed = Plan::from_bytes(PLAN).unwrap_or_else(|e| panic!("{e}; {advice}"));
    let (writer, manifest) = perceptron::perceptron();
    let written = Plan::from_bytes(writer.to_bytes(manifest).unwrap()).unwrap();
    let plain = |plan: &Plan| Manifest { blobs: Vec::new(), ..plan.manifest().clone() };
    assert_eq!(plain(&committed), plain(&written), "{advice}");
    committed.check().unwrap();
}

#[test]
fn embedded_plans_are_aligned_and_copied_ones_need_not_be() {
    assert!(PLAN.as_ptr().addr().is_multiple_of(ALIGN));
    let mut shifted = vec![0; PLAN.len() + 1];
    shifted[1..].copy_from_slice(PLAN);
    assert_eq!(Plan::copied(&shifted[1..]).unwrap().digest(), Plan::from_bytes(PLAN).unwrap().digest());
    assert!(matches!(Plan::copied(&shifted), Err(PlanError::NotAPlan)));
    assert!(matches!(Plan::copied(&[]), Err(PlanError::NotAPlan)));
}

#[test]
fn outputs_go_where_the_caller_wants_them() {
    let session = session();
    // Sums of few small multiples of a quarter: exact in f32, whatever the order.
    let x: Vec<f32> = (0..20).map(|i| (i * 7 % 11) as f32 * 0.25 - 1.0).collect();
    let (y, hidden) = expected(&x);
    assert_eq!(session.output_shapes(&[("x", &[5, 4])]).unwrap(), [[5, 2], [5, 3]]);
    let input = Tensor::from_slice(&[5, 4], &x).unwrap();
    let mut outputs = [Tensor::zeros(DType::F32, &[5, 3]).unwrap(), Tensor::zeros(DType::F32, &[5, 2]).unwrap()];
    let [first, second] = &mut outputs;
    session.run_into(&[("x", input.view())], &mut [("hidden", first.view_mut()), ("y", second.view_mut())]).unwrap();
    assert_eq!((outputs[1].as_slice::<f32>().unwrap(), outputs[0].as_slice::<f32>().unwrap()), (&y[..], &hidden[..]));
    for (name, tensor) in session.run(&[("x", input.view())]).unwrap() {
        assert_eq!(tensor.bytes(), outputs[if name == "y" { 1 } else { 0 }].bytes());
    }
    // One alone, and none.
    let mut alone = Tensor::zeros(DType::F32, &[5, 2]).unwrap();
    session.run_into(&[("x", input.view())], &mut [("y", alone.view_mut())]).unwrap();
    assert_eq!(alone.bytes(), outputs[1].bytes());
    session.run_into(&[("x", input.view())], &mut []).unwrap();
}

#[test]
fn outputs_that_do_not_fit_are_refused_before_anything_runs() {
    let session = session();
    let input = Tensor::zeros(DType::F32, &[5, 4]).unwrap();
    let into = |name: &str, dtype: DType, shape: &[usize], bytes: usize| {
        let mut tensor = Tensor::zeros(DType::U8, &[bytes]).unwrap();
        let place = TensorViewMut { dtype, shape, data: tensor.bytes_mut() };
        session.run_into(&[("x", input.view())], &mut [(name, place)]).unwrap_err()
    };
    assert!(matches!(into("z", DType::F32, &[5, 2], 40), SessionError::UnknownOutput { .. }));
    assert!(matches!(into("y", DType::F64, &[5, 2], 80), SessionError::InputType { .. }));
    assert!(matches!(into("y", DType::F32, &[4, 2], 32), SessionError::InputType { .. }));
    assert!(matches!(into("y", DType::F32, &[5, 2], 36), SessionError::InputData { .. }));
    let mut twice = [Tensor::zeros(DType::F32, &[5, 2]).unwrap(), Tensor::zeros(DType::F32, &[5, 2]).unwrap()];
    let [first, second] = &mut twice;
    let error = session.run_into(&[("x", input.view())], &mut [("y", first.view_mut()), ("y", second.view_mut())]);
    assert!(matches!(error, Err(SessionError::DuplicateOutput { .. })));

    assert!(matches!(session.output_shapes(&[("x", &[5, 5])]), Err(SessionError::InputType { .. })));
    assert!(matches!(session.output_shapes(&[("x", &[65, 4])]), Err(SessionError::SymbolRange { .. })));
    assert!(matches!(session.output_shapes(&[]), Err(SessionError::MissingInput { .. })));
}
