//! The main job on a real model: MiniLM-L3 from ONNX to plans, compared with tract and with each other.

use slidec::compile::compile;
use slidec::import::oracle::Oracle;
use slidec::import::{ImportOptions, import};
use slidec::onnx::OnnxModel;
use slidec::options::{CompileOptions, Precision, PruneMethod, SparsityRequest};
use slidec::prune::{PruneOptions, prune_model};
use slidec::verify::{self, NamedTensors, reference};
use slidec_samples::embed;
use slidec_tests::{MINILM, TOKENIZER, cached};
use sliderun::op::{Op, TensorType};
use sliderun::plan::Plan;
use sliderun::session::{Device, Session, SessionOptions, SparseForm};
use sliderun::tensor::{Tensor, TensorView};
use std::path::Path;
use std::sync::Arc;

/// Matrix products with constant weights: six in each of three layers.
const WEIGHTS: usize = 18;

fn options(sparsity: &str, precision: Precision) -> CompileOptions {
    let sparsity: SparsityRequest = sparsity.parse().unwrap();
    let prune = match sparsity {
        SparsityRequest::Pattern(_) => PruneMethod::Magnitude,
        _ => PruneMethod::None,
    };
    CompileOptions { sparsity, precision, prune, ..CompileOptions::default() }
}

fn plan(model: &Path, options: &CompileOptions) -> Arc<Plan> {
    let compiled = compile(model, options, &mut ()).unwrap();
    Arc::new(Plan::from_bytes(compiled.to_bytes().unwrap()).unwrap())
}

fn session(plan: &Arc<Plan>, sparse_form: SparseForm) -> Session {
    Session::new(plan.clone(), Device::Cpu, SessionOptions::default().with_sparse_form(sparse_form)).unwrap()
}

/// Token ids and a mask whose last third of the last sentence is padding.
fn inputs(batch: usize, sequence: usize) -> NamedTensors {
    let ids: Vec<i64> = (0..batch * sequence).map(|i| 1000 + (i as i64 * 7919) % 20000).collect();
    let mask: Vec<i64> = (0..batch * sequence).map(|i| i64::from(i < batch * sequence - sequence / 3)).collect();
    let tensor = |values: &[i64]| Tensor::from_slice(&[batch, sequence], values).unwrap();
    [("input_ids".to_owned(), tensor(&ids)), ("attention_mask".to_owned(), tensor(&mask))].into()
}

fn views(inputs: &NamedTensors) -> Vec<(&str, TensorView<'_>)> {
    inputs.iter().map(|(name, t)| (name.as_str(), t.view())).collect()
}

fn relative_error(a: &Tensor, b: &Tensor) -> f64 {
    verify::Comparison::new(a.view(), b.view()).unwrap().rel
}

/// Every type that import infers is the one that tract infers, under several values of the symbols.
#[test]
fn import_agrees_with_the_shape_oracle() {
    let Some(file) = cached(MINILM) else { return };
    let model = OnnxModel::open(&file).unwrap();
    let graph = import(&model, &ImportOptions::default()).unwrap();
    let embedding = graph.outputs.iter().find(|o| o.name == "461").unwrap();
    assert_eq!(graph.ty(embedding.value).to_string(), "f32[batch_size, 384]");

    let inputs: Vec<_> =
        graph.inputs().iter().map(|n| (graph.node(*n).name.clone(), graph.node(*n).outputs[0].ty.clone())).collect();
    let oracle = Oracle::ask(&model, &inputs).expect("tract knows every operator of a BERT");
    let mut compared = 0;
    for node in graph.schedule() {
        for output in graph.node(node).outputs.iter().filter(|o| o.from_model) {
            let Some(theirs) = oracle.types.get(&output.name) else { continue };
            compared += 1;
            for (batch, sequence) in [(1, 7), (4, 128), (2, 300)] {
                let bindings = [("batch_size".to_owned(), batch), ("sequence_length".to_owned(), sequence)].into();
                let at = |ty: &TensorType| (ty.dtype, ty.shape.iter().map(|d| d.eval(&bindings).unwrap()).collect::<Vec<_>>());
                assert_eq!(at(&output.ty), at(theirs), "{}", output.name);
            }
        }
    }
    assert!(compared >= 100, "only {compared} tensors are known to both");
}

#[test]
fn dense_plan_agrees_with_tract() {
    let Some(model) = cached(MINILM) else { return };
    let session = session(&plan(&model, &CompileOptions::default()), SparseForm::Dense);
    let wanted = verify::observed(session.plan().manifest());
    for (batch, sequence) in [(1, 7), (4, 128), (2, 300)] {
        let inputs = inputs(batch, sequence);
        let expected = reference::evaluate(&model, &inputs, &wanted).unwrap();
        let verification = verify::verify(&session, &views(&inputs), &expected, None).unwrap();
        assert!(verification.within(1e-4), "{batch}×{sequence}: {:.2e}", verification.worst());
        assert_eq!(verification.layers.len(), WEIGHTS + 3, "every product is compared, attention whole");
        assert!(verification.layers.iter().all(|l| l.plan.within(1e-4)));
        let extents = [("batch_size".to_owned(), batch as i64), ("sequence_length".to_owned(), sequence as i64)];
        let size = session.arena_size(&extents.into()).unwrap();
        assert!(size.bytes as f64 <= 1.05 * size.lower_bound as f64, "{batch}×{sequence}: {size:?}");
    }
}

#[test]
fn every_weight_is_rewritten() {
    let Some(model) = cached(MINILM) else { return };
    for (sparsity, precision, chosen) in
        [("6:8", Precision::Int8, "i8 6:8"), ("4:6", Precision::Bf16, "bf16 4:6"), ("dense", Precision::Fp8, "f8e4m3 dense")]
    {
        let plan = plan(&model, &options(sparsity, precision));
        let manifest = plan.manifest();
        assert_eq!(manifest.verdicts.iter().filter(|v| v.chosen == chosen).count(), WEIGHTS, "{chosen}");
        let count = |wanted: fn(&Op) -> bool| manifest.program.steps.iter().filter(|s| wanted(&s.op)).count();
        // Q, K and V are one product; what reads one activation shares its lift.
        let products = count(|op| matches!(op, Op::SparseGemm(_) | Op::DenseGemm(_)));
        assert_eq!((products, count(|op| matches!(op, Op::QuantLift(_)))), (WEIGHTS - 6, WEIGHTS - 6), "{chosen}");
        assert_eq!(count(|op| matches!(op, Op::Attention(_))), 3);
        assert_eq!(count(|op| matches!(op, Op::MatMul(_))), 0, "no product is left as it was");
    }
}

#[test]
fn sparse_f32_equals_dense_f32_of_the_pruned_model() {
    let Some(file) = cached(MINILM) else { return };
    let folder = tempfile::tempdir().unwrap();
    let pruned = folder.path().join("pruned.onnx");
    let mut model = OnnxModel::open(&file).unwrap();
    prune_model(&mut model, &PruneOptions::magnitude("6:8".parse().unwrap()), &()).unwrap();
    model.save(&pruned).unwrap();

    let inputs = inputs(2, 33);
    let dense = session(&plan(&pruned, &options("dense", Precision::F32)), SparseForm::Dense).run(&views(&inputs)).unwrap();
    let sparse = plan(&file, &options("6:8", Precision::F32));
    assert_eq!(sparse.manifest().verdicts.iter().filter(|v| v.sparse).count(), WEIGHTS);
    for form in [SparseForm::Compressed, SparseForm::Dense] {
        for ((name, a), (_, b)) in session(&sparse, form).run(&views(&inputs)).unwrap().iter().zip(&dense) {
            let error = relative_error(a, b);
            assert!(error <= 1e-5, "{name} {form:?}: {error:.2e}");
        }
    }
}

#[test]
fn int8_accumulators_of_both_forms_are_equal() {
    let Some(model) = cached(MINILM) else { return };
    let plan = plan(&model, &options("6:8", Precision::Int8));
    let inputs = inputs(2, 19);
    let accumulators = |form| {
        let mut out = Vec::new();
        let keep = |op: &Op| matches!(op, Op::SparseGemm(_) | Op::DenseGemm(_));
        session(&plan, form)
            .run_traced(&views(&inputs), &mut |step| {
                if keep(step.op) {
                    out.push((step.name.to_owned(), step.values[0].view.to_tensor()));
                }
            })
            .unwrap();
        out
    };
    let (compressed, dense) = (accumulators(SparseForm::Compressed), accumulators(SparseForm::Dense));
    assert_eq!(compressed.len(), WEIGHTS - 6);
    for ((name, a), (_, b)) in compressed.iter().zip(&dense) {
        assert!(a.as_slice::<i32>().is_some() && a.bytes() == b.bytes(), "{name}");
    }
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let Some(model) = cached(MINILM) else { return };
    let bytes = || compile(&model, &options("6:8", Precision::Int8), &mut ()).unwrap().to_bytes().unwrap();
    assert_eq!(blake3::hash(&bytes()), blake3::hash(&bytes()));
}

/// Embeddings of the committed sentences against those of the dense f32 plan, mean cosine.
#[test]
fn fidelity_of_sentence_embeddings() {
    let (Some(model), Some(tokenizer)) = (cached(MINILM), cached(TOKENIZER)) else { return };
    let tokenizer = embed::tokenizer(&tokenizer, 128).unwrap();
    let sentences: Vec<&str> = include_str!("../../samples/data/sentences.txt").lines().collect();
    let batches: Vec<_> = sentences.chunks(32).map(|c| embed::tokenize(&tokenizer, c).unwrap()).collect();
    let embeddings = |options: &CompileOptions| -> Vec<Vec<f32>> {
        let session = session(&plan(&model, options), SparseForm::Dense);
        batches.iter().flat_map(|b| embed::embed(&session, b).unwrap()).collect()
    };
    let reference = embeddings(&CompileOptions::default());
    for (sparsity, precision, least) in
        [("6:8", Precision::F32, 0.96), ("dense", Precision::Int8, 0.999), ("dense", Precision::Bf16, 0.999)]
    {
        let ours = embeddings(&options(sparsity, precision));
        let mean = ours.iter().zip(&reference).map(|(a, b)| embed::cosine(a, b)).sum::<f64>() / sentences.len() as f64;
        println!("{sparsity} {precision}: mean cosine {mean:.5}");
        assert!(mean >= least, "{sparsity} {precision}: mean cosine {mean:.5}, at least {least} expected");
    }
}
