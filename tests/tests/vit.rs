//! A vision model from ONNX to plans: a ViT-S whose patch embedding is a convolution, whose normalisations are spelled out, and whose decoder
//! is made of transposed convolutions and a Resize.

use slidec::compile::compile;
use slidec::options::{CompileOptions, Precision, PruneMethod};
use slidec::verify::{self, NamedTensors, reference};
use slidec_tests::{VIT, cached};
use sliderun::op::Op;
use sliderun::op::elementwise::Unary;
use sliderun::plan::Plan;
use sliderun::session::{Device, Session, SessionOptions};
use sliderun::tensor::{Tensor, TensorView};
use std::path::Path;
use std::sync::Arc;

const LAYERS: usize = 12;

/// Products with constant weights: six in each layer, and the patch embedding.
const WEIGHTS: usize = 6 * LAYERS + 1;

/// Transposed convolutions of the decoder, which are products where a narrow type or a pattern asks for them.
const DECODER: usize = 3;

fn plan(model: &Path, options: &CompileOptions) -> Arc<Plan> {
    Arc::new(Plan::from_bytes(compile(model, options, &mut ()).unwrap().to_bytes().unwrap()).unwrap())
}

fn count(plan: &Plan, wanted: fn(&Op) -> bool) -> usize {
    plan.manifest().program.steps.iter().filter(|s| wanted(&s.op)).count()
}

/// Images of waves of several lengths, as a camera's values are after normalisation.
fn images(batch: usize) -> NamedTensors {
    let wave = |i: usize| (i as f32 * 0.37).sin() + (i as f32 * 0.011).cos() + ((i / 224) as f32 * 0.05).sin();
    let values: Vec<f32> = (0..batch * 3 * 224 * 224).map(wave).collect();
    [("input_image".to_owned(), Tensor::from_slice(&[batch, 3, 224, 224], &values).unwrap())].into()
}

fn views(inputs: &NamedTensors) -> Vec<(&str, TensorView<'_>)> {
    inputs.iter().map(|(name, t)| (name.as_str(), t.view())).collect()
}

#[test]
fn dense_plan_agrees_with_tract() {
    let Some(model) = cached(VIT) else { return };
    let plan = plan(&model, &CompileOptions::default());
    assert_eq!(count(&plan, |op| matches!(op, Op::Attention(_))), LAYERS);
    assert_eq!(count(&plan, |op| matches!(op, Op::LayerNorm(_))), 2 * LAYERS + 1);
    assert_eq!(count(&plan, |op| matches!(op, Op::MatMul(m) if m.activation == Some(Unary::Gelu))), LAYERS);
    assert_eq!(count(&plan, |op| matches!(op, Op::MatMul(_))), WEIGHTS);
    assert_eq!(count(&plan, |op| matches!(op, Op::Conv(_))), DECODER + 1);
    assert_eq!(count(&plan, |op| matches!(op, Op::Softmax(_) | Op::Reduce(_))), 0, "nothing is left spelled out");

    let session = Session::new(plan, Device::Cpu, SessionOptions::default()).unwrap();
    let wanted = verify::observed(session.plan().manifest());
    let inputs = images(1);
    let expected = reference::evaluate(&model, &inputs, &wanted).unwrap();
    let verification = verify::verify(&session, &views(&inputs), &expected, None).unwrap();
    assert!(verification.within(1e-4), "{:.2e}", verification.worst());
    assert!(verification.layers.iter().all(|l| l.plan.within(1e-4)));
    for batch in [1, 3, 32] {
        let size = session.arena_size(&[("batch_size".to_owned(), batch)].into()).unwrap();
        assert!(size.bytes as f64 <= 1.05 * size.lower_bound as f64, "{batch} images: {size:?}");
    }
}

#[test]
fn every_weight_is_rewritten() {
    let Some(model) = cached(VIT) else { return };
    let options = CompileOptions {
        sparsity: "6:8".parse().unwrap(),
        precision: Precision::Int8,
        prune: PruneMethod::Magnitude,
        ..CompileOptions::default()
    };
    let plan = plan(&model, &options);
    assert_eq!(plan.manifest().verdicts.iter().filter(|v| v.chosen == "i8 6:8").count(), WEIGHTS + DECODER);
    // Q, K and V are one product.
    assert_eq!(count(&plan, |op| matches!(op, Op::SparseGemm(_))), WEIGHTS - 2 * LAYERS + DECODER);
    assert_eq!(count(&plan, |op| matches!(op, Op::MatMul(_))), 0, "no product is left as it was");
}
