//! Every family's tiny model goes through the compiler and agrees with tract; decoders agree with a naive f64 layer too, so that not only the
//! compiler is right about the graph but also the graph about the architecture.

use super::*;
use slidec::compile::compile;
use slidec::cost::Measured;
use slidec::import::{ImportOptions, import};
use slidec::lower::{Costs, lower, lower_cuda};
use slidec::onnx::OnnxModel;
use slidec::options::{CompileOptions, Precision, Target, Variants};
use slidec::passes::{ignore, run_pipeline};
use slidec::verify::{self, Comparison, NamedTensors, reference, to_f64};
use sliderun::dim::Bindings;
use sliderun::plan::Plan;
use sliderun::plan::manifest::Provenance;
use sliderun::session::{Device, Session, SessionOptions, VariantMemory, variant_memory};
use sliderun::tensor::Tensor;
use sliderun::tool::random;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// Batch, tokens, earlier tokens.
const SHAPE: [usize; 3] = [2, 6, 5];

fn generated(name: &str, options: &Options) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    Architecture::by_name(name).unwrap().generate(&path, options).unwrap();
    (folder, path)
}

fn session(model: &Path) -> Session {
    let plan = Plan::from_bytes(compile(model, &CompileOptions::default(), &mut ()).unwrap().to_bytes().unwrap()).unwrap();
    Session::new(plan.into(), Device::Cpu, SessionOptions::default()).unwrap()
}

fn bindings(extents: [usize; 3]) -> Bindings {
    let names = ["batch_size", "sequence_length", "past_sequence_length"];
    names.iter().zip(extents).map(|(name, size)| ((*name).to_owned(), size as i64)).collect()
}

fn random_inputs(session: &Session) -> NamedTensors {
    let mut inputs: NamedTensors = random::inputs(session.inputs(), &bindings(SHAPE), 1).unwrap().into_iter().collect();
    if let Some(positions) = inputs.get_mut("position_ids") {
        *positions = self::positions(SHAPE[0], 3, SHAPE[1]);
    }
    inputs
}

/// Positions `first`, `first + 1` …, [batch, tokens].
fn positions(batch: usize, first: i64, tokens: usize) -> Tensor {
    let values: Vec<i64> = (0..batch).flat_map(|_| first..first + tokens as i64).collect();
    Tensor::from_slice(&[batch, tokens], &values).unwrap()
}

fn run(session: &Session, inputs: &NamedTensors) -> NamedTensors {
    let views: Vec<_> = inputs.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
    session.run(&views).unwrap().into_iter().collect()
}

#[test]
fn every_family_compiles_and_agrees_with_tract() {
    let plain = Options::default();
    let past = Options { past: true, layers: Some(2), ..plain.clone() };
    let decomposed = Options { opset: 14, ..plain.clone() };
    let embeddings = Options { embeddings: true, ..plain.clone() };
    let half = Options { dtype: DType::F16, ..plain.clone() };
    for (name, options, limit) in [
        ("tiny-decoder", &plain, 1e-5),
        ("tiny-decoder", &past, 1e-5),
        ("tiny-decoder", &decomposed, 1e-5),
        ("tiny-llama", &plain, 1e-5),
        ("tiny-bitnet", &past, 1e-5),
        ("tiny-encoder", &plain, 1e-5),
        ("tiny-encoder", &embeddings, 1e-5),
        ("tiny-encoder", &decomposed, 1e-5),
        ("tiny-vit", &plain, 1e-5),
        ("tiny-vit", &decomposed, 1e-5),
        ("tiny-decoder", &half, 5e-3),
    ] {
        let (_folder, model) = generated(name, options);
        let session = session(&model);
        // Every extent is known from the inputs': no symbol is made up for one.
        for symbol in &session.plan().manifest().symbols {
            assert!(["batch_size", "sequence_length", "past_sequence_length"].contains(&symbol.name.as_str()), "{symbol:?}");
        }
        let inputs = random_inputs(&session);
        let expected = reference::evaluate(&model, &inputs, &verify::observed(session.plan().manifest())).unwrap();
        let views: Vec<_> = inputs.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
        let verification = verify::verify(&session, &views, &expected, None).unwrap();
        assert!(verification.within(limit), "{name}, {options:?}: {:.1e}", verification.worst());
        assert!(!verification.outputs.is_empty());
        for extents in [SHAPE, [1, 1, 1], [1, 32, 300], [16, 27, 1]] {
            let size = session.arena_size(&bindings(extents)).unwrap();
            assert!(size.bytes as f64 <= 1.05 * size.lower_bound as f64, "{name}, {options:?}, {extents:?}: {size:?}");
        }
    }
}

/// A plan with launches for GPUs and without the kernels that these would be.
fn launched(model: &Path, precision: Precision) -> Arc<Plan> {
    let on: Target = "sm_90a".parse().unwrap();
    let options = CompileOptions { precision, targets: vec![on], ..CompileOptions::default() };
    let imported = import(&OnnxModel::open(model).unwrap(), &ImportOptions::default()).unwrap();
    let (mut for_cpu, mut for_gpus) = (imported.clone(), imported);
    run_pipeline(&mut for_cpu, &CompileOptions { targets: vec![Target::Cpu, on], ..options.clone() }, &mut ignore).unwrap();
    run_pipeline(&mut for_gpus, &options, &mut ignore).unwrap();
    let mut lowered = lower(&for_cpu, Provenance::default(), Vec::new()).unwrap();
    let costs = Costs { on: "sm_90a".parse().unwrap(), measured: Measured::default() };
    lower_cuda(&for_gpus, &mut lowered, &costs, Variants::Auto).unwrap();
    Arc::new(Plan::from_bytes(lowered.writer.to_bytes(lowered.manifest).unwrap()).unwrap())
}

#[test]
fn arenas_on_gpus_are_little_larger_than_what_lives_at_once() {
    for name in ["tiny-decoder", "tiny-encoder", "tiny-vit"] {
        let (_folder, model) = generated(name, &Options { dtype: DType::Bf16, ..Options::default() });
        for precision in [Precision::Bf16, Precision::Int8] {
            let plan = launched(&model, precision);
            for extents in [SHAPE, [4, 128, 1], [1, 300, 1]] {
                let known = |(name, _): &(String, i64)| plan.manifest().symbols.iter().any(|s| s.name == *name);
                for memory in variant_memory(&plan, &bindings(extents).into_iter().filter(known).collect()).unwrap() {
                    let VariantMemory { size, apart, .. } = &memory;
                    assert!(size.bytes as f64 <= 1.05 * size.lower_bound as f64, "{name}, {precision}, {extents:?}: {memory:?}");
                    assert!(size.lower_bound <= *apart, "{name}, {precision}, {extents:?}: {memory:?}");
                }
            }
        }
    }
}

#[test]
fn bf16_is_the_same_model_in_lower_precision() {
    for name in ["tiny-decoder", "tiny-encoder", "tiny-vit"] {
        let (_single_folder, single) = generated(name, &Options::default());
        let (_half_folder, half) = generated(name, &Options { dtype: DType::Bf16, ..Options::default() });
        let (single, half) = (session(&single), session(&half));
        let inputs = random_inputs(&half);
        let widened = inputs.iter().map(|(name, t)| (name.clone(), if t.dtype() == DType::Bf16 { widen(t) } else { t.clone() }));
        let expected = run(&single, &widened.collect());
        for (output, actual) in run(&half, &inputs) {
            let far = Comparison::new(actual.view(), expected[&output].view()).unwrap();
            assert!(actual.dtype() == DType::Bf16 && far.within(0.03), "{name}, {output}: {far:?}");
        }
    }
}

fn widen(t: &Tensor) -> Tensor {
    let values: Vec<f32> = to_f64(t.view()).into_iter().map(|v| v as f32).collect();
    Tensor::from_slice(t.shape(), &values).unwrap()
}

#[test]
fn with_past_is_without_past_on_the_whole_sequence() {
    let [batch, tokens, past] = SHAPE;
    for name in ["tiny-decoder", "tiny-llama", "tiny-bitnet"] {
        let options = Options { layers: Some(2), ..Options::default() };
        let (_whole_folder, whole) = generated(name, &options);
        let (_past_folder, with_past) = generated(name, &Options { past: true, ..options });
        let (whole, with_past) = (session(&whole), session(&with_past));
        let states = run_of(&[batch, past + tokens, 64]);
        let run_whole = |states: Tensor| {
            let tokens = states.shape()[1];
            run(&whole, &[("hidden_states".to_owned(), states), ("position_ids".to_owned(), positions(batch, 0, tokens))].into())
        };
        let expected = run_whole(states.clone());
        let first = run_whole(slice_tokens(&states, 1, 0, past));
        let mut inputs: NamedTensors = first
            .into_iter()
            .filter_map(|(name, t)| Some((name.strip_prefix("present.").map(|rest| format!("past_key_values.{rest}"))?, t)))
            .collect();
        inputs.insert("hidden_states".to_owned(), slice_tokens(&states, 1, past, past + tokens));
        inputs.insert("position_ids".to_owned(), positions(batch, past as i64, tokens));
        for (output, actual) in run(&with_past, &inputs) {
            let wanted = match output.as_str() {
                "last_hidden_state" => slice_tokens(&expected[&output], 1, past, past + tokens),
                _ => expected[&output].clone(),
            };
            let far = Comparison::new(actual.view(), wanted.view()).unwrap();
            assert!(far.within(1e-4), "{name}, {output}: {far:?}");
        }
    }
}

fn run_of(shape: &[usize]) -> Tensor {
    Tensor::from_bytes(DType::F32, shape, &random::operand(DType::F32, shape.iter().product(), 5)).unwrap()
}

/// The part of an f32 tensor from `from` to `to` along an axis.
fn slice_tokens(t: &Tensor, axis: usize, from: usize, to: usize) -> Tensor {
    let inner: usize = t.shape()[axis + 1..].iter().product();
    let rows = t.as_slice::<f32>().unwrap().chunks_exact(t.shape()[axis] * inner);
    let values: Vec<f32> = rows.flat_map(|row| row[from * inner..to * inner].iter().copied()).collect();
    let mut shape = t.shape().to_vec();
    shape[axis] = to - from;
    Tensor::from_slice(&shape, &values).unwrap()
}

/// Parameters of one layer, by the module's last name: weights of linear layers as `[K, N]`.
fn parameters(path: &Path) -> BTreeMap<String, Vec<f64>> {
    let model = OnnxModel::open(path).unwrap();
    let last = |name: &str, split: char| name.rsplit(split).nth(1).unwrap_or_default().to_owned();
    let mut out = BTreeMap::new();
    for t in &model.graph().initializer {
        let module = match t.name().starts_with("onnx::") {
            true => {
                let reader = model.graph().node.iter().find(|n| n.input.iter().any(|i| i == t.name())).unwrap();
                last(reader.name(), '/')
            }
            false => t.name().rsplit_once('.').map(|(path, kind)| (path.rsplit('.').next().unwrap(), kind)).map_or_else(
                String::new,
                |(module, kind)| if kind == "bias" { format!("{module}.bias") } else { module.to_owned() },
            ),
        };
        let values = to_f64(model.weight(t.name()).unwrap().to_tensor().view());
        assert!(out.insert(module, values).is_none(), "{}", t.name());
    }
    out
}

/// One decoder layer in f64 as the papers define it, of one sequence: the result, and rotated K, [kv_heads, tokens, head].
fn naive_layer(d: &Decoder, p: &BTreeMap<String, Vec<f64>>, x: &[f64], positions: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let tokens = positions.len();
    let linear = |name: &str, x: &[f64], k: usize| -> Vec<f64> {
        let (w, n) = (&p[name], p[name].len() / k);
        let bias = p.get(&format!("{name}.bias"));
        let one = |row: &[f64], j: usize| (0..k).map(|i| row[i] * w[i * n + j]).sum::<f64>() + bias.map_or(0.0, |b| b[j]);
        x.chunks(k).flat_map(|row| (0..n).map(|j| one(row, j)).collect::<Vec<_>>()).collect()
    };
    let norm = |name: &str, x: &[f64]| -> Vec<f64> {
        let w = &p[name];
        let row = |row: &[f64]| -> Vec<f64> {
            let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
            row.iter().zip(w).map(|(v, w)| v / (mean + f64::from(d.epsilon)).sqrt() * w).collect()
        };
        x.chunks(w.len()).flat_map(row).collect()
    };
    // [tokens, heads · D] → [heads][tokens][D]; pairs (i, i + D/2) turn by the position's angle.
    let head_of = |x: &[f64], heads: usize, h: usize, t: usize, i: usize| x[(t * heads + h) * d.head + i];
    let rotated = |x: &[f64], heads: usize| -> Vec<f64> {
        let half = d.head / 2;
        let mut out = Vec::new();
        for h in 0..heads {
            for (t, position) in positions.iter().enumerate() {
                for i in 0..d.head {
                    let (sin, cos) = (position / d.theta.powf((i % half) as f64 / half as f64)).sin_cos();
                    let other = head_of(x, heads, h, t, (i + half) % d.head);
                    out.push(head_of(x, heads, h, t, i) * cos + if i < half { -other } else { other } * sin);
                }
            }
        }
        out
    };
    let normal = norm("input_layernorm", x);
    let query = rotated(&linear("q_proj", &normal, d.hidden), d.heads);
    let key = rotated(&linear("k_proj", &normal, d.hidden), d.kv_heads);
    let value = linear("v_proj", &normal, d.hidden);
    let mut attended = vec![0.0; tokens * d.heads * d.head];
    for h in 0..d.heads {
        let group = h / (d.heads / d.kv_heads);
        for t in 0..tokens {
            let dot = |s: usize| -> f64 {
                (0..d.head).map(|i| query[(h * tokens + t) * d.head + i] * key[(group * tokens + s) * d.head + i]).sum()
            };
            let weights: Vec<f64> = (0..=t).map(|s| (dot(s) / (d.head as f64).sqrt()).exp()).collect();
            let total: f64 = weights.iter().sum();
            for i in 0..d.head {
                let sum: f64 = weights.iter().enumerate().map(|(s, w)| w * head_of(&value, d.kv_heads, group, s, i)).sum();
                attended[(t * d.heads + h) * d.head + i] = sum / total;
            }
        }
    }
    let bitnet = d.flavour == Flavour::BitNet;
    if bitnet {
        attended = norm("attn_sub_norm", &attended);
    }
    let x: Vec<f64> = linear("o_proj", &attended, d.heads * d.head).iter().zip(x).map(|(a, x)| a + x).collect();
    let normal = norm("post_attention_layernorm", &x);
    let activation = |g: f64| if bitnet { g.max(0.0).powi(2) } else { g / (1.0 + (-g).exp()) };
    let gate = linear("gate_proj", &normal, d.hidden);
    let up = linear("up_proj", &normal, d.hidden);
    let mut gated: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| activation(*g) * u).collect();
    if bitnet {
        gated = norm("ffn_sub_norm", &gated);
    }
    let result = linear("down_proj", &gated, d.intermediate).iter().zip(&x).map(|(a, x)| a + x).collect();
    (result, key)
}

#[test]
fn decoders_are_what_their_papers_say() {
    for name in ["tiny-decoder", "tiny-llama", "tiny-bitnet"] {
        let Family::Decoder(decoder) = &Architecture::by_name(name).unwrap().family else { panic!("{name} is a decoder") };
        let (_folder, path) = generated(name, &Options::default());
        let parameters = parameters(&path);
        let states = run_of(&[1, 7, decoder.hidden]);
        let inputs = [("hidden_states".to_owned(), states.clone()), ("position_ids".to_owned(), positions(1, 3, 7))];
        let outputs = run(&session(&path), &inputs.into());
        let places: Vec<f64> = (3..10).map(f64::from).collect();
        let (result, key) = naive_layer(decoder, &parameters, &to_f64(states.view()), &places);
        for (output, expected) in [("last_hidden_state", result), ("present.0.key", key)] {
            let actual = to_f64(outputs[output].view());
            let near = |(a, b): (&f64, &f64)| (a - b).abs() < 1e-5;
            assert!(actual.len() == expected.len() && actual.iter().zip(&expected).all(near), "{name}, {output}");
        }
    }
}

#[test]
fn pruned_models_satisfy_the_pattern_in_every_linear_layer() {
    let pattern: Pattern = "6:8".parse().unwrap();
    for (name, linear) in [("tiny-decoder", 7), ("tiny-encoder", 12), ("tiny-vit", 9)] {
        let (_folder, path) = generated(name, &Options { prune: Some(pattern), ..Options::default() });
        let compiled = compile(&path, &CompileOptions::default(), &mut ()).unwrap();
        assert_eq!(compiled.verdicts().iter().filter(|v| v.patterns.contains(&pattern)).count(), linear, "{name}");
    }
}

#[test]
fn the_same_seed_gives_the_same_files() {
    let bytes = |seed| {
        let (_folder, path) = generated("tiny-decoder", &Options { seed, ..Options::default() });
        [path.clone(), path.with_extension("onnx.data")].map(|p| std::fs::read(p).unwrap())
    };
    assert_eq!(bytes(1), bytes(1));
    assert_ne!(bytes(1)[1], bytes(2)[1]);
}

#[test]
fn what_an_architecture_does_not_have_is_refused() {
    let plain = Options::default();
    for (name, options, expected) in [
        ("tiny-vit", Options { past: true, ..plain.clone() }, "'tiny-vit' has no past; only decoders have"),
        ("tiny-decoder", Options { embeddings: true, ..plain.clone() }, "'tiny-decoder' has no embeddings; only encoders have"),
        ("tiny-decoder", Options { layers: Some(0), ..plain.clone() }, "one layer at least"),
        ("tiny-decoder", Options { opset: 18, ..plain.clone() }, "opset 18 is not written; 14 to 17 are"),
        ("tiny-decoder", Options { dtype: DType::I8, ..plain.clone() }, "type i8 are not generated"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let error = Architecture::by_name(name).unwrap().generate(&folder.path().join("m.onnx"), &options).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
    }
    assert!(Architecture::by_name("gpt-5").unwrap_err().to_string().contains("--list"));
}
