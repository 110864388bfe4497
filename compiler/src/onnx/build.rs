//! A small builder of ONNX models, for tests and for the samples' model generators.
//!
//! ```
//! use sliderun::dtype::DType;
//! use sliderun::tensor::Tensor;
//! use slidec::onnx::build::{ModelBuilder, node};
//!
//! let weight = Tensor::from_slice(&[3, 2], &[1f32, 2., 3., 4., 5., 6.]).unwrap();
//! let model = ModelBuilder::new(17)
//!     .input("x", DType::F32, &["batch", "3"])
//!     .initializer("w", &weight)
//!     .node(node("MatMul", &["x", "w"], &["h"]))
//!     .node(node("LeakyRelu", &["h"], &["y"]).attr("alpha", 0.1f32).name("act"))
//!     .output("y", DType::F32, &["batch", "2"])
//!     .model();
//! assert_eq!(model.graph().node.len(), 2);
//! ```

use bytes::Bytes;
use sliderun::dtype::DType;
use sliderun::tensor::Tensor;

use super::load::OnnxModel;
use super::proto::*;
use super::tensor::onnx_data_type;

/// Builds a model part by part.
#[derive(Clone, Debug)]
pub struct ModelBuilder {
    model: ModelProto,
}

/// Builds a node; made by [`node`].
#[derive(Clone, Debug)]
pub struct NodeBuilder {
    node: NodeProto,
}

/// A node of ONNX's own domain; an empty input or output name means absent.
pub fn node(op_type: &str, inputs: &[&str], outputs: &[&str]) -> NodeBuilder {
    let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    NodeBuilder {
        node: NodeProto { input: names(inputs), output: names(outputs), op_type: Some(op_type.into()), ..NodeProto::default() },
    }
}

impl NodeBuilder {
    /// Names the node.
    pub fn name(mut self, name: &str) -> Self {
        self.node.name = Some(name.into());
        self
    }

    /// Puts the operator in another domain.
    pub fn domain(mut self, domain: &str) -> Self {
        self.node.domain = Some(domain.into());
        self
    }

    /// Adds an attribute.
    pub fn attr(mut self, name: &str, value: impl Into<AttributeProto>) -> Self {
        self.node.attribute.push(AttributeProto { name: Some(name.into()), ..value.into() });
        self
    }

    /// Adds an attribute whose value is the enclosing function's attribute `of`; `kind` is its [`attribute_type`].
    pub fn attr_ref(mut self, name: &str, of: &str, kind: i32) -> Self {
        self.node.attribute.push(AttributeProto {
            name: Some(name.into()),
            ref_attr_name: Some(of.into()),
            r#type: Some(kind),
            ..AttributeProto::default()
        });
        self
    }

    /// The node.
    pub fn build(self) -> NodeProto {
        self.node
    }
}

macro_rules! attribute_from {
    ($($from:ty, $field:ident, $kind:ident, |$value:ident| $convert:expr;)*) => {$(
        impl From<$from> for AttributeProto {
            fn from($value: $from) -> Self {
                AttributeProto { $field: $convert, r#type: Some(attribute_type::$kind), ..AttributeProto::default() }
            }
        }
    )*};
}

attribute_from! {
    i64, i, INT, |v| Some(v);
    f32, f, FLOAT, |v| Some(v);
    &str, s, STRING, |v| Some(Bytes::copy_from_slice(v.as_bytes()));
    &[i64], ints, INTS, |v| v.to_vec();
    &[f32], floats, FLOATS, |v| v.to_vec();
    Vec<i64>, ints, INTS, |v| v;
    Vec<f32>, floats, FLOATS, |v| v;
    &Tensor, t, TENSOR, |v| Some(tensor("", v));
    TensorProto, t, TENSOR, |v| Some(v);
    GraphProto, g, GRAPH, |v| Some(v);
}

/// A tensor message with its elements in `raw_data`.
pub fn tensor(name: &str, t: &Tensor) -> TensorProto {
    TensorProto {
        name: (!name.is_empty()).then(|| name.to_owned()),
        dims: t.shape().iter().map(|&d| i64::try_from(d).expect("an extent in memory is below 2^63")).collect(),
        data_type: Some(onnx_data_type(t.dtype())),
        raw_data: Some(Bytes::copy_from_slice(t.bytes())),
        ..TensorProto::default()
    }
}

/// A tensor-typed graph input or output. An extent is a number, a symbol's name, or `?` for one without a name.
pub fn value_info(name: &str, dtype: DType, shape: &[&str]) -> ValueInfoProto {
    let dim = shape
        .iter()
        .map(|text| DimensionProto {
            value: match (text.parse(), *text) {
                (Ok(n), _) => Some(DimensionValue::DimValue(n)),
                (_, "?") => None,
                (_, name) => Some(DimensionValue::DimParam(name.into())),
            },
            ..DimensionProto::default()
        })
        .collect();
    let ty = TensorTypeProto { elem_type: Some(onnx_data_type(dtype)), shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { value: Some(TypeValue::Tensor(ty)), ..TypeProto::default() }),
        ..ValueInfoProto::default()
    }
}

/// A subgraph without inputs, as `If` has them; its outputs are untyped.
pub fn subgraph(nodes: impl IntoIterator<Item = NodeBuilder>, outputs: &[&str]) -> GraphProto {
    GraphProto {
        name: Some("subgraph".into()),
        node: nodes.into_iter().map(NodeBuilder::build).collect(),
        output: outputs.iter().map(|o| ValueInfoProto { name: Some((*o).into()), ..ValueInfoProto::default() }).collect(),
        ..GraphProto::default()
    }
}

/// A model-local function whose body uses version `opset` of ONNX's own operators.
pub fn function(
    (domain, name): (&str, &str),
    opset: i64,
    inputs: &[&str],
    outputs: &[&str],
    nodes: impl IntoIterator<Item = NodeBuilder>,
) -> FunctionProto {
    let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    FunctionProto {
        name: Some(name.into()),
        domain: Some(domain.into()),
        input: names(inputs),
        output: names(outputs),
        node: nodes.into_iter().map(NodeBuilder::build).collect(),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(opset) }],
        ..FunctionProto::default()
    }
}

impl ModelBuilder {
    /// A model without nodes that uses version `opset` of ONNX's own operators.
    pub fn new(opset: i64) -> Self {
        let graph = GraphProto { name: Some("model".into()), ..GraphProto::default() };
        let model = ModelProto { ir_version: Some(8), graph: Some(graph), ..ModelProto::default() };
        ModelBuilder { model }.opset("", opset)
    }

    fn graph(&mut self) -> &mut GraphProto {
        self.model.graph.get_or_insert_default()
    }

    /// Uses a version of another domain's operators.
    pub fn opset(mut self, domain: &str, version: i64) -> Self {
        self.model.opset_import.push(OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) });
        self
    }

    /// Adds an input; see [`value_info`] for the shape.
    pub fn input(mut self, name: &str, dtype: DType, shape: &[&str]) -> Self {
        self.graph().input.push(value_info(name, dtype, shape));
        self
    }

    /// Adds an output; see [`value_info`] for the shape.
    pub fn output(mut self, name: &str, dtype: DType, shape: &[&str]) -> Self {
        self.graph().output.push(value_info(name, dtype, shape));
        self
    }

    /// Adds an initializer.
    pub fn initializer(mut self, name: &str, t: &Tensor) -> Self {
        self.graph().initializer.push(tensor(name, t));
        self
    }

    /// Adds an initializer from its message.
    pub fn initializer_proto(mut self, t: TensorProto) -> Self {
        self.graph().initializer.push(t);
        self
    }

    /// Adds a node.
    pub fn node(mut self, node: NodeBuilder) -> Self {
        self.graph().node.push(node.build());
        self
    }

    /// Adds a model-local function.
    pub fn function(mut self, function: FunctionProto) -> Self {
        self.model.functions.push(function);
        self
    }

    /// The message.
    pub fn proto(self) -> ModelProto {
        self.model
    }

    /// The model, in memory.
    pub fn model(self) -> OnnxModel {
        OnnxModel::from_proto(self.model)
    }
}
