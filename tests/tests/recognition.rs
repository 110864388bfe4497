//! What the compiler makes of graphs as exporters really write them: `fixtures/recognition`.
//!
//! Every fixture is compiled and run, and must give what the framework that it was exported from computed. Beside that a snapshot lists the
//! operators that are left of each, so that what is recognised, and what is not yet, is seen in one place and only gets better knowingly.

use sliderun::cpu::eval;
use sliderun::dtype::DType;
use sliderun::op::elementwise::Cast;
use sliderun::plan::Plan;
use sliderun::session::{Device, Session, SessionOptions};
use sliderun::tensor::{Tensor, TensorView};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slidec::compile::{CompileError, compile};
use slidec::options::CompileOptions;
use slidec::verify::{Comparison, NamedTensors, read_npz};

/// Relative error of an output that models in f32 may have, and those that compute in bf16.
const LIMIT: f64 = 1e-5;
const NARROW_LIMIT: f64 = 1e-2;

fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/recognition");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "onnx"));
    files.sort();
    files
}

/// The arrays of `NAME.npz`, for all of `NAME.MAKER.onnx`, whose names begin with this.
fn arrays(model: &Path, prefix: &str) -> NamedTensors {
    let name = model.file_name().unwrap().to_str().unwrap().split('.').next().unwrap();
    let all = read_npz(&model.with_file_name(format!("{name}.npz"))).unwrap();
    all.into_iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t))).collect()
}

fn cast(tensor: &Tensor, to: DType) -> Tensor {
    if tensor.dtype() == to { tensor.clone() } else { eval(&Cast { to }.into(), &[Some(tensor.view())]).unwrap().remove(0) }
}

/// Runs a plan on a fixture's inputs and says the first output that is not what was expected.
fn run(plan: Arc<Plan>, model: &Path) -> Result<(), String> {
    let session = Session::new(plan, Device::Cpu, SessionOptions::default()).map_err(|e| e.to_string())?;
    let given = arrays(model, "in.");
    let inputs: Vec<(&str, Tensor)> =
        session.inputs().iter().map(|port| (port.name.as_str(), cast(&given[&port.name], port.ty.dtype))).collect();
    let views: Vec<(&str, TensorView<'_>)> = inputs.iter().map(|(name, t)| (*name, t.view())).collect();
    let outputs = session.run(&views).map_err(|e| e.to_string())?;
    let narrow = model.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains("bf16"));
    let expected = arrays(model, "out.");
    if expected.is_empty() {
        return Err("nothing is expected of it".to_owned());
    }
    for (name, expected) in expected {
        let (_, got) = outputs.iter().find(|(n, _)| *n == name).ok_or_else(|| format!("there is no output '{name}'"))?;
        let comparison = Comparison::new(cast(got, expected.dtype()).view(), expected.view()).map_err(|e| e.to_string())?;
        if !comparison.within(if narrow { NARROW_LIMIT } else { LIMIT }) {
            return Err(format!("output '{name}' is {:.1e} off", comparison.rel));
        }
    }
    Ok(())
}

/// How often each operator occurs, or what the compiler refuses.
fn operators(compiled: &Result<Arc<Plan>, CompileError>) -> String {
    match compiled {
        Ok(plan) => {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for step in &plan.manifest().program.steps {
                *counts.entry(step.op.name()).or_default() += 1;
            }
            let one = |(name, count): (&str, usize)| if count == 1 { name.to_owned() } else { format!("{count} {name}") };
            counts.into_iter().map(one).collect::<Vec<_>>().join(", ")
        }
        Err(e) => {
            let refused = e.to_string();
            let operator = |line: &str| line.contains("(domain").then(|| line.trim().trim_start_matches("node ").to_owned());
            let nodes: Vec<String> = refused.lines().filter_map(operator).collect();
            format!("REFUSED {}", if nodes.is_empty() { refused } else { nodes.join("; ") })
        }
    }
}

#[test]
fn exports_are_recognised_and_compute_the_same() {
    let (mut table, mut wrong) = (String::new(), String::new());
    for model in fixtures() {
        let compiled = compile(&model, &CompileOptions::default(), &mut ())
            .map(|compiled| Arc::new(Plan::from_bytes(compiled.to_bytes().unwrap()).unwrap()));
        let name = model.file_stem().unwrap().to_str().unwrap();
        writeln!(table, "{name}: {}", operators(&compiled)).unwrap();
        if let Ok(plan) = compiled
            && let Err(what) = run(plan, &model)
        {
            writeln!(wrong, "{name}: {what}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    insta::assert_snapshot!(table);
}
