use super::walk::Walk;
use super::*;
use crate::import::{ImportOptions, import};
use crate::onnx::build::{ModelBuilder, node};
use ndarray::{Array2, ArrayBase, Data, Dimension, arr2};
use ndarray_npy::{NpzWriter, WritableElement};
use std::fs::File;

/// h = x·w, y = table[ids] + h², with w = [[1, 2], [3, 4]] and table = [[10, 20], [30, 40]].
fn graph() -> Graph {
    let matrix = |values: [f32; 4]| Tensor::from_slice(&[2, 2], &values).unwrap();
    let model = ModelBuilder::new(17)
        .input("x", DType::F32, &["n", "2"])
        .input("ids", DType::I64, &["n"])
        .initializer("w", &matrix([1., 2., 3., 4.]))
        .initializer("table", &matrix([10., 20., 30., 40.]))
        .node(node("MatMul", &["x", "w"], &["h"]))
        .node(node("Mul", &["h", "h"], &["s"]))
        .node(node("Gather", &["table", "ids"], &["rows"]))
        .node(node("Add", &["rows", "s"], &["y"]))
        .output("y", DType::F32, &["n", "2"])
        .model();
    import(&model, &ImportOptions::default()).unwrap()
}

fn value(graph: &Graph, name: &str) -> ValueRef {
    let all = graph.node_ids().into_iter().map(|node| ValueRef { node, slot: 0 });
    all.into_iter().find(|v| graph.output(*v).name == name).unwrap()
}

fn sample(x: &[f32], ids: &[i64]) -> NamedTensors {
    let x = Tensor::from_slice(&[x.len() / 2, 2], x).unwrap();
    [("x", x), ("ids", Tensor::from_slice(&[ids.len()], ids).unwrap())].map(|(n, t)| (n.to_owned(), t)).into()
}

fn one(inputs: NamedTensors) -> Result<Calibration, CalibrationError> {
    Calibration::new(vec![("a".to_owned(), inputs)])
}

#[test]
fn rows_come_sample_by_sample_in_the_graphs_order() {
    let graph = graph();
    let values = ["y", "x", "h"].map(|name| value(&graph, name));
    let samples = [sample(&[1., 1.], &[1]), sample(&[0., 1., 2., 0.], &[0, 1])];
    let calibration = Calibration::new(samples.map(|s| (String::new(), s)).into()).unwrap();
    let mut seen = Vec::new();
    activations(&graph, &values, &calibration, &Engine::default(), &mut |v, rows, k| {
        assert_eq!(k, 2);
        seen.push((graph.output(v).name.clone(), rows.to_vec()));
    })
    .unwrap();
    let expected: [(&str, &[f32]); 6] = [
        ("x", &[1., 1.]),
        ("h", &[4., 6.]),
        ("y", &[46., 76.]),
        ("x", &[0., 1., 2., 0.]),
        ("h", &[3., 4., 2., 4.]),
        ("y", &[19., 36., 34., 56.]),
    ];
    assert_eq!(seen, expected.map(|(name, rows)| (name.to_owned(), rows.to_vec())));
}

/// What is read no more is not kept, what is not asked for not computed.
#[test]
fn walks_hold_what_is_still_read() {
    let graph = graph();
    let walk = Walk::to(&graph, &[value(&graph, "s")]);
    assert_eq!(walk.steps().len(), 2, "neither the lookup nor the sum leads to it");
    let mut live = Walk::begin(&graph, &sample(&[1., 1.], &[1])).unwrap();
    let constants = walk.constants(&graph, 0..1);
    walk.advance::<StepError>(&graph, 0..1, &constants, &mut live, |_, _| Ok(())).unwrap();
    let held: Vec<&str> = live.values.keys().map(|v| graph.output(*v).name.as_str()).collect();
    assert_eq!(held, ["ids", "h"]);
}

#[test]
fn what_does_not_fit_is_named() {
    let graph = graph();
    let with = |name: &str, tensor: Tensor| {
        let mut inputs = sample(&[1., 1.], &[1]);
        inputs.insert(name.to_owned(), tensor);
        inputs
    };
    let without = |name: &str| {
        let mut inputs = sample(&[1., 1.], &[1]);
        inputs.remove(name);
        inputs
    };
    let floats = |shape: &[usize], values: &[f32]| Tensor::from_slice(shape, values).unwrap();
    let cases = [
        (with("z", floats(&[1], &[1.])), "calibration sample 'a' has 'z', which is no input of the model"),
        (without("ids"), "calibration sample 'a' does not fit the model: input 'ids' is missing"),
        (with("ids", floats(&[1], &[1.])), "input 'ids' is f32[1], i64[1] was expected"),
        (with("x", floats(&[1, 3], &[1., 1., 1.])), "input 'x' is f32[1, 3], f32[1, 2] was expected"),
        (with("x", floats(&[2], &[1., 1.])), "input 'x' is f32[2]"),
        (with("ids", Tensor::from_slice(&[2], &[1i64, 1]).unwrap()), "input 'ids' is i64[2], i64[1] was expected"),
        (with("x", floats(&[1, 2], &[1., f32::NAN])), "calibration sample 'a': 'x' contains NaN or an infinity (element 1)"),
        (with("x", floats(&[0, 2], &[])), "calibration sample 'a': 'x' has no elements"),
    ];
    for (inputs, expected) in cases {
        let error = one(inputs).and_then(|c| c.check(&graph)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let run = |inputs, name| {
        activations(&graph, &[value(&graph, name)], &one(inputs).unwrap(), &Engine::default(), &mut |_, _, _| {})
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        run(sample(&[1e30, 1e30], &[1]), "s"),
        "on calibration sample 'a', 's' contains NaN or an infinity",
        "what overflows is told"
    );
    assert!(run(sample(&[1., 1.], &[2]), "y").starts_with("the model cannot be run on calibration sample 'a': node"));
    assert_eq!(run(sample(&[1., 1.], &[1]), "ids"), "'ids' is i64; statistics are kept of f32, f16 and bf16");
}

fn write<T: WritableElement, D: Dimension>(file: &Path, name: &str, array: &ArrayBase<impl Data<Elem = T>, D>) {
    let mut writer = NpzWriter::new(File::create(file).unwrap());
    writer.add_array(name, array).unwrap();
    writer.finish().unwrap();
}

#[test]
fn folders_give_their_archives_in_the_order_of_names() {
    let folder = tempfile::tempdir().unwrap();
    let open = || Calibration::read(folder.path());
    assert!(open().unwrap_err().to_string().ends_with("has no .npz file"));
    write(&folder.path().join("b.npz"), "x", &arr2(&[[2f32]]));
    write(&folder.path().join("a.npz"), "x", &arr2(&[[1f32]]));
    std::fs::write(folder.path().join("notes.txt"), "not a sample").unwrap();
    let both = open().unwrap();
    let values: Vec<f32> = both.samples().map(|(_, inputs)| inputs["x"].as_slice::<f32>().unwrap()[0]).collect();
    assert_eq!(values, [1.0, 2.0]);
    let first = Calibration::read(&folder.path().join("a.npz")).unwrap();
    assert!(first.samples().len() == 1 && first.digest() != both.digest());
    std::fs::write(folder.path().join("c.npz"), "no archive").unwrap();
    assert!(open().unwrap_err().to_string().contains("c.npz"));
    write(&folder.path().join("c.npz"), "x", &Array2::<f32>::from_elem((1, 1), f32::INFINITY));
    assert!(open().unwrap_err().to_string().contains("contains NaN or an infinity"));
}

#[test]
fn every_fourth_sample_is_held_apart_where_there_are_enough() {
    let samples = |count: usize| {
        let inputs = |i| [("x".to_owned(), Tensor::from_slice(&[1], &[i as f32]).unwrap())].into();
        Calibration::new((0..count).map(|i| (i.to_string(), inputs(i))).collect()).unwrap()
    };
    let names = |c: &Calibration| c.samples().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
    let (by, on) = samples(9).split();
    assert_eq!((names(&by).concat(), names(&on).concat()), ("0124568".to_owned(), "37".to_owned()));
    assert!(by != on && by != samples(9));
    let few = samples(7);
    assert_eq!(few.split(), (few.clone(), few));
}

#[test]
fn synthetic_samples_fit_and_repeat() {
    let graph = graph();
    let calibration = Calibration::synthetic(&graph, 3).unwrap();
    assert!(calibration.is_synthetic() && calibration == Calibration::synthetic(&graph, 3).unwrap());
    assert!(calibration != Calibration::synthetic(&graph, 4).unwrap());
    let mut tokens = 0;
    activations(&graph, &[value(&graph, "y")], &calibration, &Engine::default(), &mut |_, rows, k| tokens += rows.len() / k)
        .unwrap();
    assert!(tokens >= 16, "{tokens}");
}

/// What waits in files is what would have been in memory.
#[test]
fn samples_may_wait_in_files() {
    let graph = graph();
    let names = ["h", "y", "x"].map(|name| value(&graph, name));
    let samples = [sample(&[1., 1.], &[1]), sample(&[0., 1., 2., 0.], &[0, 1])];
    let calibration = Calibration::new(samples.map(|s| (String::new(), s)).into()).unwrap();
    let walk = Walk::to(&graph, &names).holding(&names);
    let seen = |limit: usize| {
        let mut samples = held::Samples::begin(&graph, &calibration, limit).unwrap();
        let mut out = Vec::new();
        for step in 0..walk.steps().len() {
            samples.advance(&Engine::default(), &graph, &walk, step..step + 1).unwrap();
        }
        for name in names {
            samples.rows(&graph, name, &mut |rows| out.push(rows.to_vec())).unwrap();
        }
        samples.drop_value(names[0]).unwrap();
        samples.rows(&graph, names[1], &mut |rows| out.push(rows.to_vec())).unwrap();
        out
    };
    let in_memory = seen(usize::MAX);
    assert_eq!(in_memory[..2], [vec![4., 6.], vec![3., 4., 2., 4.]]);
    for limit in [0, 40, 100] {
        assert_eq!(seen(limit), in_memory, "at most {limit} bytes");
    }
}
