//! Conformance ratchet: every ONNX backend node test on the CPU device, against the checked-in list `conformance/node_tests.txt`.
//!
//! A line of the list is `NAME pass`, `NAME pass-frozen INPUT…` (passes with these graph inputs fixed when compiling, as `--freeze`
//! does) or `NAME refused REASON`. A test that does better than the list says fails until the list is updated
//! (`SLIDEC_UPDATE_RATCHET=1`), so that the list can only get better; a test that does worse, a wrong value and a panic always fail.
//!
//! The tests come from the PyPI package onnx 1.22.0, in the folder that `SLIDEC_ONNX_NODE_TESTS` names, by default
//! `.cache/onnx-1.22.0/onnx/backend/test/data/node` under the repository root.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use prost::Message;
use slidec::import::{ImportErrors, ImportOptions, Problem, import};
use slidec::ir::{Constant, Graph};
use slidec::lower::lower;
use slidec::onnx::OnnxModel;
use slidec::onnx::proto::TensorProto;
use sliderun::cpu;
use sliderun::dtype::DType;
use sliderun::plan::Plan;
use sliderun::plan::manifest::Provenance;
use sliderun::session::{Device, Session, SessionError, SessionOptions};
use sliderun::tensor::{Tensor, TensorView};

/// ONNX's own tolerances (`onnx.backend.test`).
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-7;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Pass,
    /// Passes with these inputs frozen.
    Frozen(Vec<String>),
    Refused(String),
    /// Never acceptable: a wrong value, a panic, an error on valid data.
    Wrong(String),
}

impl Outcome {
    /// Larger is better.
    fn rank(&self) -> u8 {
        match self {
            Outcome::Pass => 3,
            Outcome::Frozen(_) => 2,
            Outcome::Refused(_) => 1,
            Outcome::Wrong(_) => 0,
        }
    }

    fn parse(text: &str) -> Option<Outcome> {
        let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
        Some(match kind {
            "pass" => Outcome::Pass,
            "pass-frozen" => Outcome::Frozen(rest.split_whitespace().map(str::to_owned).collect()),
            "refused" => Outcome::Refused(rest.to_owned()),
            _ => return None,
        })
    }

    /// Whether the list's line still holds; the wording of a refusal may change.
    fn agrees(&self, listed: &Outcome) -> bool {
        matches!((self, listed), (Outcome::Refused(_), Outcome::Refused(_))) || self == listed
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Pass => f.write_str("pass"),
            Outcome::Frozen(inputs) => write!(f, "pass-frozen {}", inputs.join(" ")),
            Outcome::Refused(reason) => write!(f, "refused {reason}"),
            Outcome::Wrong(what) => write!(f, "WRONG {what}"),
        }
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_owned()
}

#[test]
fn node_tests_match_the_list() {
    let folder = match std::env::var_os("SLIDEC_ONNX_NODE_TESTS") {
        Some(folder) => PathBuf::from(folder),
        None => repository().join(".cache/onnx-1.22.0/onnx/backend/test/data/node"),
    };
    if !folder.is_dir() {
        println!("skipped: no ONNX node tests in {}; `cargo xtask test` fetches them", folder.display());
        return;
    }
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| folder.join(name).join("model.onnx").is_file())
        .collect();
    names.sort();

    let list = repository().join("tests/conformance/node_tests.txt");
    let update = std::env::var_os("SLIDEC_UPDATE_RATCHET").is_some();
    let listed: BTreeMap<String, Outcome> = std::fs::read_to_string(&list)
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .map(|(name, rest)| {
            (name.to_owned(), Outcome::parse(rest).unwrap_or_else(|| panic!("the list's line of {name}: {rest}")))
        })
        .collect();

    let only = std::env::var("SLIDEC_ONLY").unwrap_or_default();
    names.retain(|name| name.contains(&only));
    let outcomes = run_all(&folder, &names);
    let count = |rank| outcomes.values().filter(|o| o.rank() == rank).count();
    println!("{} pass, {} pass with frozen inputs, {} refused, {} WRONG", count(3), count(2), count(1), count(0));

    let mut problems = Vec::new();
    for (name, outcome) in &outcomes {
        let was = listed.get(name);
        match outcome {
            Outcome::Wrong(_) => problems.push(format!("{name}: {outcome}")),
            _ if was.is_some_and(|was| outcome.agrees(was)) => {}
            _ if was.is_some_and(|was| outcome.rank() < was.rank()) => {
                problems.push(format!("{name}: {outcome}; the list says {}", was.expect("just seen")));
            }
            _ if update => {}
            _ => problems.push(format!(
                "{name}: {outcome}; the list says {}; update the list: SLIDEC_UPDATE_RATCHET=1",
                was.map_or("nothing".into(), Outcome::to_string)
            )),
        }
    }
    if only.is_empty() {
        let gone: Vec<&String> = listed.keys().filter(|name| !outcomes.contains_key(*name)).collect();
        assert!(gone.is_empty(), "listed, but not among the node tests: {gone:?}");
    }
    if update && problems.is_empty() && only.is_empty() {
        let mut text = format!(
            "# ONNX 1.22.0 backend node tests on the CPU device: {} pass, {} pass with frozen inputs, {} refused.\n",
            count(3),
            count(2),
            count(1)
        );
        for (name, outcome) in &outcomes {
            text += &format!("{name} {outcome}\n");
        }
        std::fs::write(&list, text).unwrap();
    }
    assert!(problems.is_empty(), "{} node tests:\n{}", problems.len(), problems.join("\n"));
}

/// All tests, on as many threads as there are cores.
fn run_all(folder: &Path, names: &[String]) -> BTreeMap<String, Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(BTreeMap::new());
    // Panics are reported as outcomes.
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |n| n.get()) {
            scope.spawn(|| {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = catch_unwind(AssertUnwindSafe(|| run_case(&folder.join(name)))).unwrap_or_else(|panic| {
                        let text = panic.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default();
                        Outcome::Wrong(format!("panic: {text}"))
                    });
                    outcomes.lock().unwrap().insert(name.clone(), outcome);
                }
            });
        }
    });
    let _ = std::panic::take_hook();
    outcomes.into_inner().unwrap()
}

/// The model as it is; when it is refused because inputs must be known when compiling, with exactly those frozen.
fn run_case(folder: &Path) -> Outcome {
    let model = OnnxModel::open(&folder.join("model.onnx")).unwrap();
    let data = folder.join("test_data_set_0");
    let mut frozen: BTreeSet<String> = BTreeSet::new();
    loop {
        let mut options = ImportOptions::default();
        for name in &frozen {
            match operand(&model, &data, "input", input_index(&model, name)) {
                Ok(constant) => options.freeze.insert(name.clone(), constant),
                Err(reason) => return Outcome::Refused(reason),
            };
        }
        let graph = match import(&model, &options) {
            Ok(imported) => imported,
            Err(error) => {
                let more: Vec<String> = must_be_known(&error).into_iter().filter(|n| !frozen.contains(n)).collect();
                if more.is_empty() {
                    return Outcome::Refused(one_line(&error));
                }
                frozen.extend(more);
                continue;
            }
        };
        return match check(&graph, &model, &data) {
            Ok(()) if frozen.is_empty() => Outcome::Pass,
            Ok(()) => Outcome::Frozen(frozen.into_iter().collect()),
            Err(outcome) => outcome,
        };
    }
}

/// The graph inputs that the problems say must be known.
fn must_be_known(error: &ImportErrors) -> Vec<String> {
    let named = |reason: &str| {
        let (before, _) = reason.split_once("' is a graph input; its value must be known")?;
        Some(before.rsplit_once('\'')?.1.to_owned())
    };
    error.0.iter().filter_map(|p| named(reason(p))).collect()
}

fn reason(problem: &Problem) -> &str {
    match problem {
        Problem::Node(node) => &node.reason,
        Problem::Model { reason, .. } => reason,
    }
}

/// The first problem, and how many more there are.
fn one_line(error: &ImportErrors) -> String {
    let subject = match &error.0[0] {
        Problem::Node(node) if node.domain.is_empty() => node.op.clone(),
        Problem::Node(node) => format!("{}.{}", node.domain, node.op),
        Problem::Model { subject, .. } => subject.clone(),
    };
    let more = if error.0.len() > 1 { format!(" (and {} more)", error.0.len() - 1) } else { String::new() };
    format!("{subject}: {}{more}", reason(&error.0[0]).replace('\n', " "))
}

fn input_index(model: &OnnxModel, name: &str) -> usize {
    model.graph().input.iter().position(|i| i.name() == name).expect("only graph inputs can be frozen")
}

/// The tensor in `input_N.pb` or `output_N.pb`.
fn operand(model: &OnnxModel, data: &Path, kind: &str, index: usize) -> Result<Constant, String> {
    let bytes = std::fs::read(data.join(format!("{kind}_{index}.pb"))).map_err(|e| e.to_string())?;
    let proto = TensorProto::decode(bytes.as_slice()).map_err(|e| e.to_string())?;
    model.constant(&proto).map_err(|e| e.to_string())
}

/// Runs the graph on the test's inputs and compares all outputs.
fn check(graph: &Graph, model: &OnnxModel, data: &Path) -> Result<(), Outcome> {
    let mut inputs = BTreeMap::new();
    for &node in graph.inputs() {
        let name = &graph.node(node).name;
        let tensor = operand(model, data, "input", input_index(model, name)).map_err(Outcome::Refused)?.to_tensor();
        inputs.insert(name.clone(), tensor);
    }
    let results = evaluate(graph, &inputs)?;
    for (index, output) in model.graph().output.iter().enumerate() {
        let expected = operand(model, data, "output", index).map_err(Outcome::Refused)?.to_tensor();
        let actual = &results[output.name()];
        compare(actual, &expected).map_err(|what| Outcome::Wrong(format!("output '{}': {what}", output.name())))?;
    }
    Ok(())
}

/// Compiles the graph as it is to a plan, runs the plan, and gives its outputs by name.
fn evaluate(graph: &Graph, inputs: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>, Outcome> {
    let wrong = |e: &dyn fmt::Display| Outcome::Wrong(e.to_string());
    let lowered = lower(graph, Provenance::default(), Vec::new())
        .map_err(|e| Outcome::Refused(format!("{}: {}", e.0[0].operator, e.0[0].reason)))?;
    let file = lowered.writer.to_bytes(lowered.manifest).map_err(|e| wrong(&e))?;
    let plan = Plan::from_bytes(file).map_err(|e| wrong(&e))?;
    let options = SessionOptions::default().with_threads(1);
    let session = Session::new(Arc::new(plan), Device::Cpu, options).map_err(|e| wrong(&e))?;
    let views: Vec<(&str, TensorView<'_>)> = inputs.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
    match session.run(&views) {
        Ok(outputs) => Ok(outputs.into_iter().collect()),
        Err(SessionError::Step { op, reason, .. }) if reason.contains("is not implemented for") => {
            Err(Outcome::Refused(format!("{op}: {reason}")))
        }
        Err(e) => Err(wrong(&e)),
    }
}

/// Equal types and shapes, integers equal, floats within ONNX's tolerances.
fn compare(actual: &Tensor, expected: &Tensor) -> Result<(), String> {
    if actual.dtype() != expected.dtype() || actual.shape() != expected.shape() {
        return Err(format!("{actual:?} instead of {expected:?}"));
    }
    if !actual.dtype().is_float() {
        return match actual.bytes() == expected.bytes() {
            true => Ok(()),
            false => {
                Err(format!("other integers of {actual:?}: {:?} instead of {:?}", head(actual.bytes()), head(expected.bytes())))
            }
        };
    }
    let (a, e) = (floats(actual), floats(expected));
    let far = |(_, (a, e)): &(usize, (&f64, &f64))| {
        !(a == e || (a.is_nan() && e.is_nan()) || (*a - *e).abs() <= ABSOLUTE + RELATIVE * e.abs())
    };
    match a.iter().zip(&e).enumerate().find(far) {
        Some((i, (a, e))) => Err(format!("element {i} of {actual:?} is {a} instead of {e}")),
        None => Ok(()),
    }
}

fn head(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(32)]
}

fn floats(t: &Tensor) -> Vec<f64> {
    let to = sliderun::op::elementwise::Cast { to: DType::F64 };
    let wide = cpu::eval(&to.into(), &[Some(t.view())]).expect("every float type converts to f64").remove(0);
    wide.as_slice::<f64>().expect("the type asked for").to_vec()
}
