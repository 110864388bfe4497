use super::*;
use crate::import::{ImportOptions, import};
use crate::ir::eval::evaluate;
use crate::onnx::build::{ModelBuilder, NodeBuilder, node};
use crate::prune::{PruneOptions, prune_model};
use sliderun::dtype::DType;
use sliderun::splitmix::SplitMix64;
use sliderun::tensor::Tensor;

const K: usize = 16;

fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut random = SplitMix64(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect();
    Tensor::from_slice(shape, &values).unwrap()
}

fn model(nodes: Vec<NodeBuilder>) -> OnnxModel {
    let mut builder = ModelBuilder::new(17).input("x", DType::F32, &["m", "16"]);
    for (seed, name) in (1..).zip(["w1", "w2", "w3"]) {
        builder = builder.initializer(name, &noise(&[K, K], seed));
    }
    builder = builder.initializer("b", &noise(&[K], 9));
    nodes.into_iter().fold(builder, ModelBuilder::node).output("y", DType::F32, &["?", "?"]).model()
}

fn output(model: &OnnxModel) -> Vec<f32> {
    let graph = import(model, &ImportOptions::default()).unwrap();
    let inputs = [("x".to_owned(), noise(&[3, K], 7))].into();
    let results = evaluate(&graph, &inputs).unwrap();
    results.outputs(&graph).next().unwrap().1.as_slice::<f32>().unwrap().to_vec()
}

fn options() -> PruneOptions {
    PruneOptions { permute: true, ..PruneOptions::magnitude("2:4".parse().unwrap()) }
}

#[test]
fn the_file_computes_the_same_in_another_order() {
    let matmul = |a: &str, b: &str, c: &str| node("MatMul", &[a, b], &[c]).name(c);
    let chain = |second: NodeBuilder| {
        vec![matmul("x", "w1", "h"), node("Add", &["h", "b"], &["hb"]), node("Relu", &["hb"], &["r"]), second]
    };
    let gemm = node("Gemm", &["r", "w2"], &["y"]).attr("transB", 1i64).name("y");
    let twice = [matmul("r", "w1", "s"), matmul("s", "w3", "y")];
    let shared = vec![matmul("x", "w1", "h"), node("Add", &["h", "b"], &["hb"]), node("Relu", &["hb"], &["r"])];
    // The tensors that an order moves, or why there is none.
    type Expected<'a> = Result<&'a [&'a str], &'a str>;
    let cases: Vec<(Vec<NodeBuilder>, Expected<'_>)> = vec![
        (chain(matmul("r", "w2", "y")), Ok(&["w1", "b", "w2"])),
        (chain(gemm), Ok(&["w1", "b", "w2"])),
        (chain(matmul("r", "w1", "y")), Err("'w1' is read at 2 places")),
        (shared.into_iter().chain(twice).collect(), Err("'w1' is read at 2 places")),
        (vec![node("Softmax", &["x"], &["s"]), matmul("s", "w2", "y")], Err("computed by")),
    ];
    for (nodes, expected) in cases {
        let original = model(nodes);
        let mut reordered = OnnxModel::from_proto(original.proto().clone());
        let told = reorder(&mut reordered, &options()).unwrap();
        let of_last = &told["y"];
        let moved: Vec<&str> =
            ["w1", "b", "w2", "w3"].into_iter().filter(|t| original.weight(t).unwrap() != reordered.weight(t).unwrap()).collect();
        match expected {
            Ok(tensors) => assert_eq!(moved, tensors, "{told:?}"),
            Err(reason) => assert!(of_last.contains(reason) || told.values().any(|t| t.contains(reason)), "{told:?}"),
        }
        let (a, b) = (output(&reordered), output(&original));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1.0)), "{a:?} {b:?}");
    }
}

#[test]
fn pruning_keeps_more_in_that_order() {
    let matmul = |a: &str, b: &str, c: &str| node("MatMul", &[a, b], &[c]).name(c);
    let nodes = || vec![matmul("x", "w1", "h"), node("Tanh", &["h"], &["t"]), matmul("t", "w2", "y")];
    let kept = |permute: bool| {
        let weights = prune_model(&mut model(nodes()), &PruneOptions { permute, ..options() }, &()).unwrap();
        weights.into_iter().map(|w| (w.layer.unwrap().pruned.kept_energy, w.order)).collect::<Vec<_>>()
    };
    let (plain, ordered) = (kept(false), kept(true));
    assert_eq!(plain[0].0, ordered[0].0, "K of the first product is the input's");
    assert!(ordered[1].0 > plain[1].0 + 0.005, "{plain:?} {ordered:?}");
    assert!(plain[1].1.is_none() && ordered[1].1.as_ref().is_some_and(|what| what.contains("'h'")), "{ordered:?}");
}
