//! Models for the GPU test: matrix products of any size with random weights, and language models with a short vocabulary.
//!
//! Products of large models are larger than what one likes to carry to another machine, so this program goes there and makes them.

use std::path::Path;
use std::process::ExitCode;

use slidec::onnx::OnnxModel;
use slidec::onnx::build::{ModelBuilder, node};
use sliderun::dtype::DType;
use sliderun::tensor::Tensor;
use sliderun::tool::random;

const USAGE: &str = "\
Usage: gpu_models product N K TYPE OUT.onnx     y[m, N] = x[m, K] · w + b of type f32 or bf16, with random w and b
       gpu_models cut ROWS IN.onnx OUT.onnx     the model with the first rows only of its longest table that Gather reads";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["product", n, k, dtype, out] => match (n.parse(), k.parse(), *dtype) {
            (Ok(n), Ok(k), "f32") => product(n, k, DType::F32, Path::new(out)),
            (Ok(n), Ok(k), "bf16") => product(n, k, DType::Bf16, Path::new(out)),
            _ => Err(USAGE.to_owned()),
        },
        ["cut", rows, from, to] => match rows.parse() {
            Ok(rows) => cut(rows, Path::new(from), Path::new(to)),
            Err(_) => Err(USAGE.to_owned()),
        },
        _ => Err(USAGE.to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("gpu_models: {e}");
            ExitCode::FAILURE
        }
    }
}

fn product(n: usize, k: usize, dtype: DType, out: &Path) -> Result<(), String> {
    let tensor = |shape: &[usize], seed| -> Result<Tensor, String> {
        let mut tensor = Tensor::zeros(dtype, shape).map_err(|e| e.to_string())?;
        let bytes = random::operand(dtype, shape.iter().product(), seed);
        tensor.bytes_mut().copy_from_slice(&bytes);
        Ok(tensor)
    };
    let (columns, depth) = (n.to_string(), k.to_string());
    let model = ModelBuilder::new(17)
        .input("x", dtype, &["m", &depth])
        .initializer("w", &tensor(&[k, n], 1)?)
        .initializer("b", &tensor(&[n], 2)?)
        .node(node("MatMul", &["x", "w"], &["p"]).name("product"))
        .node(node("Add", &["p", "b"], &["y"]).name("bias"))
        .output("y", dtype, &["m", &columns])
        .model();
    model.save(out).map_err(|e| e.to_string())
}

fn cut(rows: usize, from: &Path, to: &Path) -> Result<(), String> {
    let mut model = OnnxModel::open(from).map_err(|e| e.to_string())?.proto().clone();
    let graph = model.graph.as_mut().ok_or("the model has no graph")?;
    let tables: Vec<String> =
        graph.node.iter().filter(|n| n.op_type.as_deref() == Some("Gather")).filter_map(|n| n.input.first().cloned()).collect();
    let table = graph
        .initializer
        .iter_mut()
        .filter(|t| t.dims.len() == 2 && t.raw_data.is_some() && t.name.as_ref().is_some_and(|name| tables.contains(name)))
        .max_by_key(|t| t.dims[0])
        .ok_or("no Gather reads a table that is a constant")?;
    let data = table.raw_data.take().unwrap_or_default();
    let whole = usize::try_from(table.dims[0]).unwrap_or(0).max(1);
    let kept = rows.min(whole);
    table.raw_data = Some(data.slice(..data.len() / whole * kept));
    table.dims[0] = kept as i64;
    OnnxModel::from_proto(model).save(to).map_err(|e| e.to_string())
}
