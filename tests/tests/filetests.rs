//! File tests of passes: `filetests/PASS/CASE.ir` goes in, the graph after the pass and the pass's report come out, as a snapshot
//! beside the input. Every case also runs the graph with and without the pass on random inputs and compares the outputs.
//!
//! Directives in comments: `# tolerance: X` (relative, 1e-5 unless given); `# options: sparsity=6:8 precision=int8
//! prune=magnitude permute=all max-layer-error=0.05 strict` for the pass; `# calibration: synthetic` gives it random samples; the lines of
//! `# recipe: …` are one.

use slidec::calibration::Calibration;
use slidec::ir::Graph;
use slidec::ir::eval::evaluate;
use slidec::ir::parse::{no_constants, parse};
use slidec::options::CompileOptions;
use slidec::passes::{Pass, ignore, run_passes};
use sliderun::dim::Bindings;
use sliderun::dtype::DType;
use sliderun::tensor::Tensor;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

fn directive<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|l| l.trim().strip_prefix('#')?.trim().strip_prefix(name)?.trim().strip_prefix(':').map(str::trim))
}

fn options(text: &str) -> CompileOptions {
    let mut options = CompileOptions::default();
    for word in directive(text, "options").unwrap_or_default().split_whitespace() {
        match word.split_once('=') {
            Some(("sparsity", v)) => options.sparsity = v.parse().unwrap(),
            Some(("precision", v)) => options.precision = v.parse().unwrap(),
            Some(("prune", v)) => options.prune = v.parse().unwrap(),
            Some(("permute", v)) => options.permute = v.parse().unwrap(),
            Some(("max-layer-error", v)) => options.max_layer_error = Some(v.parse().unwrap()),
            Some(("target", v)) => options.targets = vec![v.parse().unwrap()],
            None if word == "strict" => options.strict = true,
            _ => panic!("unknown option '{word}'"),
        }
    }
    let recipe: Vec<&str> = text.lines().filter_map(|l| l.trim().strip_prefix("# recipe:")).collect();
    if recipe.is_empty() { options } else { options.with_recipe(recipe.join("\n").parse().unwrap()) }
}

/// Inputs of small numbers, integers 0 or 1, the same for the same graph.
fn inputs(graph: &Graph) -> BTreeMap<String, Tensor> {
    let bindings: Bindings =
        graph.symbols.values().enumerate().map(|(i, s)| (s.name.clone(), s.max.min(s.min + 2 + i as i64))).collect();
    let mut state = 1u64;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let mut out = BTreeMap::new();
    for id in graph.inputs() {
        let output = &graph.node(*id).outputs[0];
        let shape: Vec<usize> = output.ty.shape.iter().map(|d| d.eval_usize(&bindings).unwrap()).collect();
        let n = shape.iter().product();
        let tensor = match output.ty.dtype {
            DType::F32 => Tensor::from_slice(&shape, &(0..n).map(|_| 4.0 * next() - 2.0).collect::<Vec<f32>>()),
            DType::I64 => Tensor::from_slice(&shape, &(0..n).map(|_| i64::from(next() > 0.5)).collect::<Vec<i64>>()),
            DType::I32 => Tensor::from_slice(&shape, &(0..n).map(|_| i32::from(next() > 0.5)).collect::<Vec<i32>>()),
            other => panic!("no random inputs of type {other}"),
        };
        out.insert(output.name.clone(), tensor.unwrap());
    }
    out
}

/// ‖a - b‖ / ‖b‖, or 0 where both are equal.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()));
    if a.bytes() == b.bytes() {
        return 0.0;
    }
    let (Some(a), Some(b)) = (a.as_slice::<f32>(), b.as_slice::<f32>()) else { return f64::INFINITY };
    let sum = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    sum(&mut a.iter().zip(b).map(|(a, b)| a - b)) / sum(&mut b.iter().copied())
}

fn check(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap();
    let folder = path.parent().unwrap();
    let name = folder.file_name().unwrap().to_str().unwrap();
    let pass = Pass::by_name(name).unwrap_or_else(|| panic!("there is no pass '{name}'"));
    let before =
        parse(&path.display().to_string(), &text, &no_constants).unwrap_or_else(|e| panic!("{:?}", miette::Report::new(e)));
    let mut after = before.clone();
    let mut options = options(&text);
    if directive(&text, "calibration") == Some("synthetic") {
        options.calibration = Some(Arc::new(Calibration::synthetic(&before, 0).unwrap()));
    }
    let outcome = run_passes(&mut after, [pass], &options, &mut ignore).unwrap();

    let tolerance: f64 = directive(&text, "tolerance").map_or(1e-5, |t| t.parse().unwrap());
    let inputs = inputs(&before);
    let (old, new) = (evaluate(&before, &inputs).unwrap(), evaluate(&after, &inputs).unwrap());
    for ((name, expected), (_, actual)) in old.outputs(&before).zip(new.outputs(&after)) {
        let d = distance(actual, expected);
        assert!(d <= tolerance, "{}: output '{name}' moves by {d}", path.display());
    }

    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder);
    settings.set_prepend_module_to_snapshot(false);
    settings.remove_snapshot_suffix();
    settings.set_omit_expression(true);
    let stem = path.file_stem().unwrap().to_str().unwrap();
    settings.bind(|| insta::assert_snapshot!(stem, format!("{after}\n{}", outcome.reports[0])));
}

#[test]
fn passes() {
    insta::glob!("../filetests", "*/*.ir", check);
}
