//! A second opinion on types: tract's inference over a copy of the model without its weights.
//!
//! The IR's own `infer` is the source of truth; the oracle serves where it needs a shape that our own propagation could not follow,
//! and as an independent check in tests. It knows neither element types that tract lacks nor other domains than ONNX's own (tract ignores
//! domains, so those operators are hidden from it).

use prost::Message;
use sliderun::dim::{Dim, DimOp};
use sliderun::dtype::DType;
use sliderun::op::TensorType;
use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tract_onnx::prelude::{DatumType, TDim};
use tract_onnx::tract_hir::infer::{Factoid, InferenceFact, InferenceModelExt};

use super::translate::normal_domain;
use crate::onnx::OnnxModel;
use crate::onnx::onnx_data_type;
use crate::onnx::proto::*;

/// Initializers with more elements than this are hidden: weights, not shapes.
const MOST_ELEMENTS: i64 = 1024;

/// What tract knows of a model's tensors, by name.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Types, where element type and every extent are known. bf16 appears as f16.
    pub types: HashMap<String, TensorType>,
    /// Elements of integer tensors that do not depend on data.
    pub values: HashMap<String, Vec<Dim>>,
}

impl Oracle {
    /// Asks tract about the main graph of a model with inputs of the types given. `None` when it cannot say anything.
    pub fn ask(model: &OnnxModel, inputs: &[(String, TensorType)]) -> Option<Self> {
        let stripped = stripped(model, inputs).encode_to_vec();
        // tract panics on some models: then it has no opinion.
        catch_unwind(AssertUnwindSafe(|| analyse(&stripped))).ok()?
    }
}

fn analyse(model: &[u8]) -> Option<Oracle> {
    use tract_onnx::prelude::Framework;
    let onnx = tract_onnx::onnx().with_ignore_output_shapes(true).with_ignore_output_types(true).with_ignore_value_info(true);
    let proto = onnx.proto_model_for_read(&mut &*model).ok()?;
    let mut parsed = onnx.parse(&proto, None).ok()?;
    // What it finds before it fails still holds.
    let _ = parsed.model.analyse(true);
    let mut oracle = Oracle::default();
    for (name, outlet) in &parsed.outlets_by_name {
        let Ok(fact) = parsed.model.outlet_fact(*outlet) else { continue };
        if let Some(ty) = tensor_type(fact) {
            oracle.types.insert(name.clone(), ty);
        }
        if let Some(values) = elements(fact) {
            oracle.values.insert(name.clone(), values);
        }
    }
    Some(oracle)
}

fn tensor_type(fact: &InferenceFact) -> Option<TensorType> {
    let dtype = dtype(fact.datum_type.concretize()?)?;
    let shape = fact.shape.concretize()?.iter().map(dim).collect::<Option<_>>()?;
    Some(TensorType { dtype, shape })
}

fn elements(fact: &InferenceFact) -> Option<Vec<Dim>> {
    let tensor = fact.value.concretize()?;
    if tensor.rank() > 1 || tensor.len() > MOST_ELEMENTS as usize {
        return None;
    }
    let view = tensor.cast_to::<TDim>().ok()?;
    // Floats and booleans convert, too, but are no extents.
    let integer = matches!(tensor.datum_type(), DatumType::TDim | DatumType::I64 | DatumType::I32);
    integer.then(|| view.try_as_plain_ram().ok()?.as_slice::<TDim>().ok()?.iter().map(dim).collect())?
}

fn dtype(tract: DatumType) -> Option<DType> {
    Some(match tract {
        DatumType::Bool => DType::Bool,
        DatumType::I8 => DType::I8,
        DatumType::I16 => DType::I16,
        DatumType::I32 => DType::I32,
        // tract's own type of shape arithmetic.
        DatumType::I64 | DatumType::TDim => DType::I64,
        DatumType::U8 => DType::U8,
        DatumType::U16 => DType::U16,
        DatumType::U32 => DType::U32,
        DatumType::U64 => DType::U64,
        DatumType::F16 => DType::F16,
        DatumType::F32 => DType::F32,
        DatumType::F64 => DType::F64,
        _ => return None,
    })
}

/// tract's expression as ours.
fn dim(tract: &TDim) -> Option<Dim> {
    let all = |terms: &[TDim]| terms.iter().map(dim).collect::<Option<Vec<_>>>();
    let chain = |op: DimOp, terms: &[TDim]| all(terms)?.into_iter().reduce(|a, b| Dim::op(op, &a, &b));
    Some(match tract {
        TDim::Val(v) => Dim::from(*v),
        TDim::Sym(s) => Dim::symbol(&s.to_string()),
        TDim::Add(terms) => all(terms)?.into_iter().fold(0.into(), |a, b| a + b),
        TDim::Mul(terms) => all(terms)?.into_iter().fold(1.into(), |a, b| a * b),
        TDim::MulInt(n, a) => Dim::from(*n) * dim(a)?,
        TDim::Div(a, by) => dim(a)?.floor_div(&i64::try_from(*by).ok()?.into()),
        TDim::Broadcast(terms) => chain(DimOp::Broadcast, terms)?,
        TDim::Min(terms) => chain(DimOp::Min, terms)?,
        TDim::Max(terms) => chain(DimOp::Max, terms)?,
        TDim::Ge(..) | TDim::Eq(..) => return None,
    })
}

/// The model for tract: large initializers are inputs, bf16 is f16, operators that it would take for others are hidden, and so is what
/// the model claims of its tensors.
fn stripped(model: &OnnxModel, inputs: &[(String, TensorType)]) -> ModelProto {
    let mut graph = model.graph().clone();
    graph.value_info.clear();
    graph.sparse_initializer.clear();
    graph.quantization_annotation.clear();
    graph.input = inputs.iter().map(|(name, ty)| input(name, onnx_data_type(ty.dtype), &ty.shape)).collect();
    for t in std::mem::take(&mut graph.initializer) {
        let elements = t.dims.iter().try_fold(1i64, |n, d| n.checked_mul(*d)).unwrap_or(i64::MAX);
        let hidden = elements > MOST_ELEMENTS || t.data_type() == data_type::BFLOAT16;
        match model.constant(&t) {
            Ok(constant) if !hidden => graph.initializer.push(TensorProto {
                name: t.name,
                dims: t.dims,
                data_type: t.data_type,
                raw_data: Some(constant.data),
                ..TensorProto::default()
            }),
            _ => {
                let shape: Vec<Dim> = t.dims.iter().copied().map(Dim::from).collect();
                graph.input.push(input(t.name(), t.data_type(), &shape));
            }
        }
    }
    let local: BTreeSet<(&str, &str)> = model.proto().functions.iter().map(|f| (f.domain(), f.name())).collect();
    for node in &mut graph.node {
        if !normal_domain(node.domain()).is_empty() || local.contains(&(node.domain(), node.op_type())) {
            node.op_type = Some(format!("{}::{}", node.domain(), node.op_type()));
        }
        if let Some(to) = node.attribute.iter_mut().filter(|a| a.name() == "to").find_map(|a| a.i.as_mut())
            && *to == i64::from(data_type::BFLOAT16)
        {
            *to = i64::from(data_type::FLOAT16);
        }
    }
    ModelProto {
        ir_version: model.proto().ir_version,
        opset_import: model.proto().opset_import.clone(),
        graph: Some(graph),
        ..ModelProto::default()
    }
}

fn input(name: &str, elem_type: i32, shape: &[Dim]) -> ValueInfoProto {
    let elem_type = if elem_type == data_type::BFLOAT16 { data_type::FLOAT16 } else { elem_type };
    let dim = |d: &Dim| DimensionProto {
        value: Some(match d.as_const() {
            Some(n) => DimensionValue::DimValue(n),
            None => DimensionValue::DimParam(d.to_string()),
        }),
        ..DimensionProto::default()
    };
    let shape = TensorShapeProto { dim: shape.iter().map(dim).collect() };
    let ty = TensorTypeProto { elem_type: Some(elem_type), shape: Some(shape) };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto { value: Some(TypeValue::Tensor(ty)), denotation: None }),
        ..ValueInfoProto::default()
    }
}
