//! The independent reference: the model as tract runs it.
//!
//! Must not know: plans, our own operators.

use half::f16;
use sliderun::dtype::{Bool, DType, Element};
use sliderun::tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use tract_onnx::prelude as tract;
use tract_onnx::prelude::{Framework, InferenceModelExt, IntoRunnable};

/// Why the reference gave nothing.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ReferenceError {
    #[error("{0}")]
    Refused(String),
    #[error("the model has operators outside the standard domain, which the reference does not know: {}", .0.join(", "))]
    ForeignOperators(Vec<String>),
    #[error("input '{0}' is missing")]
    MissingInput(String),
    #[error("input '{0}' is of type {1}, which the reference does not have")]
    UnsupportedType(String, DType),
}

/// Tensors by their names in the model.
pub type NamedTensors = BTreeMap<String, Tensor>;

/// Runs the model at `path` on `inputs` through tract and returns the graph's outputs and those of `values` that the model
/// computes, by name. External data is read from the model's folder.
///
/// # Errors
/// Whatever tract refuses, an input that is missing or of a type that tract does not have. A panic inside tract is an error too.
pub fn evaluate(path: &Path, inputs: &NamedTensors, values: &BTreeSet<String>) -> Result<NamedTensors, ReferenceError> {
    match catch_unwind(AssertUnwindSafe(|| evaluate_unprotected(path, inputs, values))) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(ReferenceError::Refused(text.unwrap_or("it stopped for an unknown reason").to_owned()))
        }
    }
}

fn refused(error: tract::TractError) -> ReferenceError {
    ReferenceError::Refused(format!("{error:#}"))
}

fn evaluate_unprotected(path: &Path, inputs: &NamedTensors, values: &BTreeSet<String>) -> Result<NamedTensors, ReferenceError> {
    // Extents written into the model as symbols would contradict the concrete ones of the inputs.
    let framework = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_value_info(true);
    let proto = framework.proto_model_for_path(path).map_err(refused)?;
    let graph = proto.graph.as_ref().ok_or_else(|| ReferenceError::Refused("the model has no graph".to_owned()))?;
    // tract's operator registry goes by the name alone and would take such an operator for another.
    let foreign: BTreeSet<String> = graph
        .node
        .iter()
        .filter(|n| !matches!(n.domain.as_str(), "" | "ai.onnx"))
        .map(|n| format!("{}.{}", n.domain, n.op_type))
        .collect();
    if !foreign.is_empty() {
        return Err(ReferenceError::ForeignOperators(foreign.into_iter().collect()));
    }
    let parsed = framework.parse(&proto, path.parent().and_then(Path::to_str)).map_err(refused)?;
    let mut model = parsed.model;

    // Distinct outlets only: two graph outputs may be one tensor.
    let mut names: Vec<Vec<String>> = Vec::new();
    let mut outlets = Vec::new();
    let wanted: BTreeSet<&String> = graph.output.iter().map(|o| &o.name).chain(values).collect();
    for name in wanted {
        let Some(&outlet) = parsed.outlets_by_name.get(name) else { continue };
        match outlets.iter().position(|&o| o == outlet) {
            Some(at) => names[at].push(name.clone()),
            None => {
                outlets.push(outlet);
                names.push(vec![name.clone()]);
            }
        }
    }
    model.select_output_outlets(&outlets).map_err(refused)?;

    let mut arguments = tract::TVec::new();
    for i in 0..model.inputs.len() {
        let name = model.node(model.inputs[i].node).name.clone();
        let tensor = inputs.get(&name).ok_or_else(|| ReferenceError::MissingInput(name.clone()))?;
        let tensor = to_tract(tensor).ok_or(ReferenceError::UnsupportedType(name, tensor.dtype()))?;
        let fact = tract::InferenceFact::dt_shape(tensor.datum_type(), tensor.shape());
        model.set_input_fact(i, fact).map_err(refused)?;
        arguments.push(tract::TValue::from(tensor));
    }
    let runnable = model.into_optimized().and_then(IntoRunnable::into_runnable).map_err(refused)?;
    let results = runnable.run(arguments).map_err(refused)?;
    let mut out = NamedTensors::new();
    for (names, result) in names.into_iter().zip(results) {
        // A tensor of a type of tract's own, such as a string, cannot be compared; its absence says so.
        let Some(tensor) = from_tract(&result) else { continue };
        out.extend(names.into_iter().map(|n| (n, tensor.clone())));
    }
    Ok(out)
}

fn to_tract(t: &Tensor) -> Option<tract::Tensor> {
    fn plain<T: Element + tract::Datum + Copy>(t: &Tensor) -> Option<tract::Tensor> {
        tract::Tensor::from_shape::<T>(t.shape(), t.as_slice::<T>()?).ok()
    }
    match t.dtype() {
        DType::Bool => {
            let flags: Vec<bool> = t.as_slice::<Bool>()?.iter().map(|&b| b.into()).collect();
            tract::Tensor::from_shape(t.shape(), &flags).ok()
        }
        DType::I8 => plain::<i8>(t),
        DType::I16 => plain::<i16>(t),
        DType::I32 => plain::<i32>(t),
        DType::I64 => plain::<i64>(t),
        DType::U8 => plain::<u8>(t),
        DType::U16 => plain::<u16>(t),
        DType::U32 => plain::<u32>(t),
        DType::U64 => plain::<u64>(t),
        DType::F16 => plain::<f16>(t),
        DType::F32 => plain::<f32>(t),
        DType::F64 => plain::<f64>(t),
        DType::Bf16 | DType::F8e4m3 | DType::F8e5m2 => None,
    }
}

fn from_tract(t: &tract::Tensor) -> Option<Tensor> {
    use tract::DatumType as D;
    fn plain<T: Element + tract::Datum + Copy>(t: &tract::Tensor) -> Option<Tensor> {
        let view = t.try_as_plain_ram().ok()?;
        Tensor::from_slice(t.shape(), view.as_slice::<T>().ok()?).ok()
    }
    match t.datum_type() {
        D::Bool => {
            let view = t.try_as_plain_ram().ok()?;
            let flags: Vec<Bool> = view.as_slice::<bool>().ok()?.iter().map(|&b| b.into()).collect();
            Tensor::from_slice(t.shape(), &flags).ok()
        }
        D::TDim => plain::<i64>(&*t.cast_to::<i64>().ok()?),
        D::I8 | D::QI8(_) => plain::<i8>(t),
        D::I16 => plain::<i16>(t),
        D::I32 | D::QI32(_) => plain::<i32>(t),
        D::I64 => plain::<i64>(t),
        D::U8 | D::QU8(_) => plain::<u8>(t),
        D::U16 => plain::<u16>(t),
        D::U32 => plain::<u32>(t),
        D::U64 => plain::<u64>(t),
        D::F16 => plain::<f16>(t),
        D::F32 => plain::<f32>(t),
        D::F64 => plain::<f64>(t),
        _ => None,
    }
}
