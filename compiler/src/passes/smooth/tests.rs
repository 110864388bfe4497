use super::*;
use crate::ir::eval::{Evaluation, evaluate};
use crate::ir::parse::{no_constants, parse};
use crate::sparsity::satisfied;
use sliderun::splitmix::SplitMix64;

fn graph(text: &str) -> Graph {
    parse("test.ir", &format!("symbols {{ n: 1..8 }}\n{text}"), &no_constants)
        .unwrap_or_else(|e| panic!("{:?}", miette::Report::new(e)))
}

/// A graph's values on roughly uniform inputs, n = 5.
fn values(graph: &Graph) -> Evaluation {
    let mut random = SplitMix64(11);
    let input = |id: &crate::ir::NodeId| {
        let output = &graph.node(*id).outputs[0];
        let shape: Vec<usize> = output.ty.shape.iter().map(|d| d.as_usize().unwrap_or(5)).collect();
        let numbers: Vec<f32> =
            (0..shape.iter().product()).map(|_| (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect();
        (output.name.clone(), Tensor::from_slice(&shape, &numbers).unwrap())
    };
    evaluate(graph, &graph.inputs().iter().map(input).collect()).unwrap()
}

fn int8_groups(graph: &Graph, report: &mut PassReport) -> Vec<Group> {
    groups(graph, report, &|_| Some(DType::I8))
}

fn floats(tensor: &Tensor) -> &[f32] {
    tensor.as_slice().unwrap()
}

/// Powers of two from 1/4 to 8.
fn some_factors(k: usize) -> Vec<f32> {
    (0..k).map(|i| [1.0, 8.0, 0.25, 2.0, 0.5][i % 5]).collect()
}

const NORM: &str = r#"
    input %x: f32[n, 16]
    const %s: f32[16] = random(seed: 1)
    const %b: f32[16] = random(seed: 2)
    const %w: f32[16, 6] = random(seed: 3, pattern: "2:4")
    const %v: f32[16, 3] = random(seed: 4, pattern: "6:8")
    %a! = LayerNorm(%x, %s, %b) {axis: 1, epsilon: 1e-5, stats: false} node "norm" origin self
    %p! = MatMul(%a, %w) origin self
    %q! = MatMul(%a, %v) origin self
    output "p" = %p
    output "q" = %q"#;

const GATED: &str = r#"
    input %x: f32[2, n, 8]
    const %g: f32[8] = random(seed: 1)
    const %wg: f32[8, 12] = random(seed: 2)
    const %wu: f32[8, 12] = random(seed: 3)
    const %wd: f32[12, 8] = random(seed: 4)
    %a! = RmsNorm(%x, %g) {axis: 2, epsilon: 1e-5} node "norm" origin self
    %gate! = MatMul(%a, %wg) node "gate" origin self
    %up! = MatMul(%a, %wu) node "up" origin self
    %act! = Swish(%gate) {alpha: 1.0} origin self
    %h! = Mul(%act, %up) origin self
    %y! = MatMul(%h, %wd) node "down" origin self
    output "y" = %y"#;

/// Values whose heads are mixed and put side by side.
const ATTENTION: &str = r#"
    input %x: f32[2, n, 8]
    input %scores: f32[2, 2, n, n]
    const %wv: f32[8, 6] = random(seed: 1)
    const %bv: f32[6] = random(seed: 2)
    const %wo: f32[6, 8] = random(seed: 3)
    %v! = MatMul(%x, %wv, %bv) node "value" origin self
    %v4! = Reshape(%v) {shape: [2, "n", 2, 3]} origin self
    %vt! = Transpose(%v4) {perm: [0, 2, 1, 3]} origin self
    %p! = Softmax(%scores) {axis: 3, log: false} origin self
    %c! = MatMul(%p, %vt) origin self
    %ct! = Transpose(%c) {perm: [0, 2, 1, 3]} origin self
    %cr! = Reshape(%ct) {shape: [2, "n", 6]} origin self
    %o! = MatMul(%cr, %wo) node "out" origin self
    output "o" = %o"#;

const RECTIFIED: &str = r#"
    input %x: f32[n, 8]
    const %c: f32[1] = [0.5]
    const %w1: f32[8, 4] = random(seed: 1)
    const %b1: f32[4] = random(seed: 2)
    const %w2: f32[4, 5] = random(seed: 3)
    %a! = Mul(%c, %x) node "times" origin self
    %h! = MatMul(%a, %w1, %b1) node "first" origin self
    %r! = Relu(%h) origin self
    %y! = MatMul(%r, %w2) origin self
    output "y" = %y"#;

/// Whatever the factors, every activation is what it was divided by them, and the outputs are the same to the last bit.
#[test]
fn scaling_changes_no_bit() {
    for (text, folded) in
        [(NORM, &["norm"][..]), (GATED, &["norm", "up"]), (ATTENTION, &["value"]), (RECTIFIED, &["times", "first"])]
    {
        let before = graph(text);
        let found = int8_groups(&before, &mut PassReport::default());
        assert_eq!(found.iter().map(|g| before.node(g.fold.node).name.as_str()).collect::<Vec<_>>(), folded);
        let mut after = before.clone();
        let mut factors = BTreeMap::new();
        for group in &found {
            let k = group.products[0].0.read_weight(&before).unwrap().k;
            factors.insert(group.activation, some_factors(k));
            group.scale(&mut after, &factors[&group.activation]).unwrap();
        }
        after.remove_dead();
        crate::ir::verify::verify(&after).unwrap();
        let (old, new) = (values(&before), values(&after));
        for (activation, factors) in factors {
            let divided = floats(&old.values[&activation]).iter().zip(factors.iter().cycle()).map(|(v, f)| v / f);
            assert!(divided.eq(floats(&new.values[&activation]).iter().copied()), "{folded:?}");
            assert!(!after.output(activation).from_model && before.output(activation).from_model);
        }
        for ((name, was), (_, is)) in old.outputs(&before).zip(new.outputs(&after)) {
            assert_eq!(was.bytes(), is.bytes(), "{name}");
        }
    }
}

#[test]
fn patterns_still_hold() {
    let mut graph = graph(NORM);
    let group = int8_groups(&graph, &mut PassReport::default()).remove(0);
    let patterns = |graph: &Graph| {
        let read = |p: Product| satisfied(&p.read_weight(graph).unwrap());
        Product::all(graph).into_iter().map(read).collect::<Vec<_>>()
    };
    let before = patterns(&graph);
    group.scale(&mut graph, &some_factors(16)).unwrap();
    assert_eq!(patterns(&graph), before);
    assert!(before[0].len() > before[1].len() && !before[1].is_empty());
}

#[test]
fn what_cannot_take_factors_says_why() {
    let norm = |rest: &str| NORM.replace("output \"p\" = %p", rest);
    let cases = [
        (norm("%r! = Add(%x, %a) node \"residual\" origin self\n output \"r\" = %r"), "read by 'residual' too"),
        (norm("output \"a\" = %a"), "is an output"),
        (RECTIFIED.replace("Relu(", "Gelu("), "'r', which makes what it reads, does not take factors per channel"),
        (
            RECTIFIED.replace("output \"y\" = %y", "output \"y\" = %y\n output \"h\" = %h"),
            "what 'first' makes is read elsewhere too",
        ),
        (
            ATTENTION.replace("{perm: [0, 2, 1, 3]} origin self\n    %cr", "{perm: [0, 1, 2, 3]} origin self\n    %cr"),
            "does not take factors",
        ),
        (
            "input %x: f32[n, 4]\n const %w: f32[4, 2] = random(seed: 1)\n %y! = MatMul(%x, %w) origin self\n output \"y\" = %y"
                .into(),
            ", which it reads, is not computed",
        ),
    ];
    for (text, why) in cases {
        let mut report = PassReport::default();
        int8_groups(&graph(&text), &mut report);
        assert!(report.declined.iter().any(|d| d.why.contains(why)), "{why}: {report}");
    }
}

/// Subnormal numbers of f16 lose digits when they are divided.
#[test]
fn what_would_lose_digits_is_left_alone() {
    let text = NORM.replace("f32", "f16");
    let tiny = text.replace("%b: f16[16] = random(seed: 2)", "%b: f16[16] = random(seed: 2, low: 6e-6, high: 7e-6)");
    for (text, possible) in [(text, true), (tiny, false)] {
        let mut graph = graph(&text);
        let before = graph.to_string();
        let group = int8_groups(&graph, &mut PassReport::default()).remove(0);
        match group.scale(&mut graph, &some_factors(16)) {
            Ok(()) => assert!(possible),
            Err(why) => {
                assert!(!possible && why.contains("'b' is f16 and would lose digits") && graph.to_string() == before, "{why}")
            }
        }
    }
}

/// Two channels that stand out fifty times, as in large language models: products lose several times less with factors. Where nothing stands out
/// nothing is done.
#[test]
fn outliers_are_shared() {
    let plain = graph(
        r#"
        input %x: f32[n, 64]
        const %s: f32[64] = random(seed: 1, low: 0.9, high: 1.1)
        const %w: f32[64, 48] = random(seed: 3)
        %a! = RmsNorm(%x, %s) {axis: 1, epsilon: 1e-5} node "norm" origin self
        %p! = MatMul(%a, %w) node "product" origin self
        output "p" = %p"#,
    );
    for outliers in [false, true] {
        let mut graph = plain.clone();
        if outliers {
            let mut scale = vec![1.0f32; 64];
            (scale[7], scale[40]) = (50.0, 64.0);
            let scale = Constant::from_tensor(&Tensor::from_slice(&[64], &scale).unwrap());
            let scale = graph.add_constant("large", scale);
            let norm = int8_groups(&graph, &mut PassReport::default())[0].fold.node;
            graph.set_input(norm, 1, Some(scale));
        }
        let mut report = PassReport::default();
        let group = int8_groups(&graph, &mut report).remove(0);
        let before = values(&graph);
        let mut rows = RowStatistics::new(64);
        rows.add(floats(&before.values[&group.activation]));
        let choice = choose(&graph, &group, &rows).unwrap();
        let rows = BTreeMap::from([(group.activation, rows)]);
        smooth(&mut graph, &mut report, &[group], &rows);
        if outliers {
            assert!(choice.best < choice.plain / 3.0, "{} {}", choice.best, choice.plain);
            assert!(report.did.len() == 1 && report.declined.is_empty(), "{report}");
            let after = values(&graph);
            assert_eq!(after.values[&graph.outputs[0].value].bytes(), before.values[&graph.outputs[0].value].bytes());
        } else {
            assert!(report.did.is_empty() && report.declined[0].why.contains("loses"), "{report}");
        }
    }
}
