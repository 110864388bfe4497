//! What an ONNX model is made of.

use serde::Serialize;
use sliderun::plan::manifest::NearMiss;
use sliderun::sparse::Pattern;
use std::collections::BTreeMap;
use std::io::Write;

use super::Inspect;
use super::dot::Dot;
use crate::cli::failure::{Complaint, Failure, Result};
use crate::cli::output::{Column, bytes, json, table};
use crate::onnx::proto::{DimensionValue, TypeValue, ValueInfoProto};
use crate::onnx::{OnnxModel, data_type_name};
use crate::passes::product::ORIENTATION;
use crate::prune::{ModelProduct, products};
use crate::sparsity::{Weight, detect, nearest};

#[derive(Serialize)]
struct Summary {
    digest: String,
    producer: String,
    opsets: BTreeMap<String, i64>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    nodes: usize,
    operators: BTreeMap<String, usize>,
    parameters: u64,
    parameter_bytes: u64,
    weights: Vec<WeightSummary>,
    /// Why the weights are not known, if they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    weights_unknown: Option<String>,
}

#[derive(Serialize)]
struct Port {
    name: String,
    #[serde(rename = "type")]
    ty: String,
}

/// The constant weight of a matrix product.
#[derive(Serialize)]
struct WeightSummary {
    node: String,
    weight: String,
    n: usize,
    k: usize,
    zeros: f64,
    patterns: Vec<Pattern>,
    /// The sparser pattern that it nearly satisfies, and what it lacks.
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<NearMiss>,
}

/// Prints it as asked.
///
/// # Errors
/// Those of the output; with `--check`, data that cannot be read.
pub fn inspect(args: &Inspect, what: &str, model: &OnnxModel, out: &mut dyn Write) -> Result {
    if args.check {
        check(model, what)?;
    }
    if args.dot {
        return Ok(dot(model, out)?);
    }
    let summary = summary(model);
    if args.json {
        return json(out, &summary);
    }
    writeln!(out, "ONNX model {}", summary.digest)?;
    if !summary.producer.is_empty() {
        writeln!(out, "made by {}", summary.producer)?;
    }
    for (domain, version) in &summary.opsets {
        writeln!(out, "opset {domain} {version}")?;
    }
    for (kind, ports) in [("input ", &summary.inputs), ("output", &summary.outputs)] {
        for port in ports {
            writeln!(out, "{kind} {}: {}", port.name, port.ty)?;
        }
    }
    writeln!(out, "{} parameters, {}", summary.parameters, bytes(summary.parameter_bytes))?;
    writeln!(out, "{} nodes", summary.nodes)?;
    for (name, count) in &summary.operators {
        writeln!(out, "  {name:<28} {count:>5}")?;
    }
    if !summary.weights.is_empty() {
        writeln!(out)?;
        let columns = ["MATMUL", "WEIGHT"].map(Column::Text).into_iter();
        let mut columns: Vec<Column> =
            columns.chain(["N×K", "ZEROS"].map(Column::Number)).chain([Column::Text("PATTERNS")]).collect();
        if summary.weights.iter().any(|w| w.nearest.is_some()) {
            columns.push(Column::Text("NEARLY"));
        }
        table(out, &columns, summary.weights.iter().map(weight_row))?;
        let held = summary.weights.iter().filter(|w| !w.patterns.is_empty()).count();
        if held > 0 {
            let of = summary.weights.len();
            writeln!(out, "\n{held} of {of} weights satisfy patterns in each of their blocks: their sparse forms are exact")?;
        }
    }
    if let Some(reason) = &summary.weights_unknown {
        writeln!(out, "\nthe weights of matrix products are not known: {reason}")?;
    }
    if args.check {
        writeln!(out, "all constant data is there")?;
    }
    Ok(())
}

fn weight_row(w: &WeightSummary) -> Vec<String> {
    let patterns: Vec<String> = w.patterns.iter().map(ToString::to_string).collect();
    let patterns = if patterns.is_empty() { "-".to_owned() } else { patterns.join(" ") };
    let nearly = w.nearest.map_or_else(String::new, |n| n.to_string());
    vec![w.node.clone(), w.weight.clone(), format!("{}×{}", w.n, w.k), format!("{:.1} %", w.zeros * 100.0), patterns, nearly]
}

fn summary(model: &OnnxModel) -> Summary {
    let (proto, graph) = (model.proto(), model.graph());
    let domain = |d: &str| if d.is_empty() { "ai.onnx".to_owned() } else { d.to_owned() };
    let mut operators: BTreeMap<String, usize> = BTreeMap::new();
    for node in &graph.node {
        let name = match node.domain() {
            "" | "ai.onnx" => node.op_type().to_owned(),
            domain => format!("{domain}.{}", node.op_type()),
        };
        *operators.entry(name).or_default() += 1;
    }
    let initialized = |name: &str| graph.initializer.iter().any(|t| t.name() == name);
    let elements = |dims: &[i64]| dims.iter().fold(1u64, |n, &d| n.saturating_mul(u64::try_from(d).unwrap_or(0)));
    let constants: Vec<_> = graph.initializer.iter().filter_map(|t| model.constant(t).ok()).collect();
    let (products, weights_unknown) = match products(model) {
        Ok(products) => (products, None),
        Err(e) => (Vec::new(), Some(e.to_string())),
    };
    Summary {
        digest: model.digest().to_hex().to_string(),
        producer: format!("{} {}", proto.producer_name(), proto.producer_version()).trim().to_owned(),
        opsets: proto.opset_import.iter().map(|o| (domain(o.domain()), o.version())).collect(),
        inputs: graph.input.iter().filter(|i| !initialized(i.name())).map(port).collect(),
        outputs: graph.output.iter().map(port).collect(),
        nodes: graph.node.len(),
        operators,
        parameters: graph.initializer.iter().fold(0, |n, t| n.saturating_add(elements(&t.dims))),
        parameter_bytes: constants.iter().map(|c| c.data.len() as u64).sum(),
        weights: products.into_iter().filter_map(weight).collect(),
        weights_unknown,
    }
}

fn port(info: &ValueInfoProto) -> Port {
    let value = info.r#type.as_ref().and_then(|t| t.value.as_ref());
    let ty = match value {
        Some(TypeValue::Tensor(tensor)) => {
            let extents: Option<Vec<String>> = tensor.shape.as_ref().map(|s| {
                let extent = |v: &Option<DimensionValue>| match v {
                    Some(DimensionValue::DimValue(n)) => n.to_string(),
                    Some(DimensionValue::DimParam(name)) => name.clone(),
                    None => "?".to_owned(),
                };
                s.dim.iter().map(|d| extent(&d.value)).collect()
            });
            format!("{}{}", data_type_name(tensor.elem_type()), extents.map_or(String::new(), |e| format!("[{}]", e.join(", "))))
        }
        Some(_) => "not a tensor".to_owned(),
        None => "unknown".to_owned(),
    };
    Port { name: info.name().to_owned(), ty }
}

fn weight(product: ModelProduct) -> Option<WeightSummary> {
    let weight = Weight::read(&product.constant, ORIENTATION).ok()?;
    let detections = detect(&weight);
    let zeros = weight.values.iter().filter(|v| **v == 0.0).count();
    Some(WeightSummary {
        node: product.node,
        weight: product.weight,
        n: weight.n,
        k: weight.k,
        zeros: zeros as f64 / weight.values.len() as f64,
        patterns: detections.iter().filter(|d| d.holds()).map(|d| d.pattern).collect(),
        nearest: nearest(&weight, &detections),
    })
}

fn check(model: &OnnxModel, what: &str) -> Result {
    for t in &model.graph().initializer {
        model
            .constant(t)
            .map_err(|e| Failure::Failed(Complaint::of(&e).while_doing(format!("tensor '{}'", t.name())).while_doing(what)))?;
    }
    Ok(())
}

fn dot(model: &OnnxModel, out: &mut dyn Write) -> std::io::Result<()> {
    let graph = model.graph();
    let mut dot = Dot::begin(out, graph.name())?;
    let mut producers: BTreeMap<&str, String> = BTreeMap::new();
    for input in &graph.input {
        let id = format!("input {}", input.name());
        dot.node(&id, &[input.name(), &port(input).ty], true)?;
        producers.insert(input.name(), id);
    }
    for (i, node) in graph.node.iter().enumerate() {
        let id = format!("node {i}");
        dot.node(&id, &[node.op_type(), node.name()], false)?;
        for name in node.output.iter().filter(|o| !o.is_empty()) {
            producers.insert(name, id.clone());
        }
    }
    // Nodes come in no order that is guaranteed, so edges wait for all of them. Constants are left out: they hide the structure.
    for (i, node) in graph.node.iter().enumerate() {
        for name in &node.input {
            if let Some(from) = producers.get(name.as_str()) {
                dot.edge(from, &format!("node {i}"), name)?;
            }
        }
    }
    for output in &graph.output {
        let id = format!("output {}", output.name());
        dot.node(&id, &[output.name(), &port(output).ty], true)?;
        if let Some(from) = producers.get(output.name()) {
            dot.edge(from, &id, "")?;
        }
    }
    dot.end()
}
