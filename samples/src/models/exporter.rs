//! A graph in the making, spelled as `torch.onnx.export` spells graphs (TorchScript-based, opset 14 to 17): nodes are named after the module
//! they come from, `/model/layers.0/self_attn/q_proj/MatMul`, their results `…_output_0`, parameters `model.layers.0.input_layernorm.weight`,
//! and the transposed weights of linear layers `onnx::MatMul_123`. Extents are computed where PyTorch computes them.
//!
//! Must not know: architectures.

use slidec::onnx::build::{NodeBuilder, node, value_info};
use slidec::onnx::proto::{GraphProto, ModelProto, OperatorSetIdProto};
use slidec::onnx::{StreamedModel, onnx_data_type};
use sliderun::dtype::DType;
use sliderun::tensor::Tensor;
use std::collections::HashMap;
use std::path::Path;

use super::weights::{Kind, Weights};
use super::{GenerateError, Options};

/// One extent of a shape that is computed.
#[derive(Clone, Copy, Debug)]
pub enum Extent<'a> {
    /// A number; -1 as Reshape and Expand understand it.
    Known(i64),
    /// A scalar value of the graph.
    Of(&'a str),
}

/// A graph in the making.
pub struct Exporter {
    graph: GraphProto,
    file: StreamedModel,
    weights: Weights,
    opset: i64,
    /// How often each node name was asked for.
    names: HashMap<String, usize>,
    /// Number of parameters.
    parameters: u64,
}

/// A number as a scalar of a float type.
fn scalar(dtype: DType, value: f64) -> Tensor {
    match dtype {
        DType::Bf16 => Tensor::scalar(half::bf16::from_f64(value)),
        DType::F16 => Tensor::scalar(half::f16::from_f64(value)),
        _ => Tensor::scalar(value as f32),
    }
}

impl Exporter {
    /// An empty graph that will be at `path`.
    ///
    /// # Errors
    /// A path without a file name.
    pub fn new(path: &Path, options: &Options) -> Result<Self, GenerateError> {
        Ok(Exporter {
            graph: GraphProto { name: Some("main_graph".into()), ..GraphProto::default() },
            file: StreamedModel::create(path)?,
            weights: Weights { dtype: options.dtype, seed: options.seed, prune: options.prune },
            opset: options.opset,
            names: HashMap::new(),
            parameters: 0,
        })
    }

    /// Version of ONNX's operators.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// Element type of the model.
    pub fn dtype(&self) -> DType {
        self.weights.dtype
    }

    /// Adds an input; extents as [`value_info`] reads them. Gives its name.
    pub fn input(&mut self, name: &str, dtype: DType, shape: &[&str]) -> String {
        self.graph.input.push(value_info(name, dtype, shape));
        name.to_owned()
    }

    /// Makes a value that a node computes an output, under its own name.
    pub fn output(&mut self, value: &str, name: &str, dtype: DType, shape: &[&str]) {
        for node in &mut self.graph.node {
            for used in node.input.iter_mut().chain(&mut node.output).filter(|used| *used == value) {
                name.clone_into(used);
            }
        }
        self.graph.output.push(value_info(name, dtype, shape));
    }

    /// Adds a node that belongs to the module `scope` and gives the names of its results. The builder's own name and outputs are not used.
    pub fn add_many(&mut self, scope: &str, builder: NodeBuilder, results: usize) -> Vec<String> {
        let mut node = builder.build();
        let base = format!("{scope}/{}", node.op_type());
        let count = self.names.entry(base.clone()).or_default();
        let name = if *count == 0 { base } else { format!("{base}_{count}") };
        *count += 1;
        node.output = (0..results).map(|i| format!("{name}_output_{i}")).collect();
        node.name = Some(name);
        let outputs = node.output.clone();
        self.graph.node.push(node);
        outputs
    }

    /// Adds a node with one result.
    pub fn add(&mut self, scope: &str, builder: NodeBuilder) -> String {
        self.add_many(scope, builder, 1).swap_remove(0)
    }

    /// Adds a node without attributes.
    pub fn op(&mut self, scope: &str, op_type: &str, inputs: &[&str]) -> String {
        self.add(scope, node(op_type, inputs, &[]))
    }

    /// A Constant node.
    pub fn constant(&mut self, scope: &str, value: &Tensor) -> String {
        self.add(scope, node("Constant", &[], &[]).attr("value", value))
    }

    /// A scalar of the model's element type.
    pub fn number(&mut self, scope: &str, value: f64) -> String {
        self.constant(scope, &scalar(self.dtype(), value))
    }

    /// A scalar f32.
    pub fn f32(&mut self, scope: &str, value: f32) -> String {
        self.constant(scope, &Tensor::scalar(value))
    }

    /// A scalar i64.
    pub fn int(&mut self, scope: &str, value: i64) -> String {
        self.constant(scope, &Tensor::scalar(value))
    }

    /// Integers, i64 [n].
    pub fn ints(&mut self, scope: &str, values: &[i64]) -> String {
        let values = Tensor::from_slice(&[values.len()], values).expect("one axis of as many elements as there are");
        self.constant(scope, &values)
    }

    /// A parameter of the model's element type, written to the model's files at once.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn parameter(&mut self, name: &str, kind: Kind, shape: &[usize]) -> Result<String, GenerateError> {
        self.store(name, name.to_owned(), kind, shape)
    }

    /// The weight of a linear layer as a product's right-hand side, [K, N], under the name that constant folding gives it.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn transposed_weight(&mut self, name: &str, [k, n]: [usize; 2]) -> Result<String, GenerateError> {
        let stored = format!("onnx::MatMul_{}", self.graph.node.len());
        self.store(name, stored, Kind::Linear(slidec::sparsity::Orientation::KN), &[k, n])
    }

    fn store(&mut self, name: &str, stored: String, kind: Kind, shape: &[usize]) -> Result<String, GenerateError> {
        let elements = self.weights.elements(name, kind, shape)?;
        self.parameters += shape.iter().product::<usize>() as u64;
        let message = self.file.tensor(&stored, self.dtype(), shape, elements)?;
        self.graph.initializer.push(message);
        Ok(stored)
    }

    /// An extent, scalar i64.
    pub fn extent(&mut self, scope: &str, of: &str, axis: i64) -> String {
        let shape = self.op(scope, "Shape", &[of]);
        let axis = self.int(scope, axis);
        self.add(scope, node("Gather", &[&shape, &axis], &[]).attr("axis", 0i64))
    }

    /// Extents put together, i64 [n].
    pub fn shape(&mut self, scope: &str, extents: &[Extent<'_>]) -> String {
        let parts: Vec<String> = extents
            .iter()
            .map(|extent| match *extent {
                Extent::Known(n) => self.ints(scope, &[n]),
                Extent::Of(value) => self.unsqueeze(scope, value, 0),
            })
            .collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        self.concat(scope, &parts, 0)
    }

    /// `torch.Tensor.view` and `reshape`.
    pub fn reshape(&mut self, scope: &str, x: &str, extents: &[Extent<'_>]) -> String {
        let shape = self.shape(scope, extents);
        self.op(scope, "Reshape", &[x, &shape])
    }

    /// `torch.Tensor.expand`, which knows -1 where ONNX's Expand does not: the exporter replaces it by 1.
    pub fn expand(&mut self, scope: &str, x: &str, extents: &[Extent<'_>]) -> String {
        let shape = self.shape(scope, extents);
        let rank = self.ints(scope, &[extents.len() as i64]);
        let one = Tensor::from_slice(&[1], &[1i64]).expect("one element");
        let ones = self.add(scope, node("ConstantOfShape", &[&rank], &[]).attr("value", &one));
        let minus_one = self.int(scope, -1);
        let kept = self.op(scope, "Mul", &[&ones, &minus_one]);
        let is_kept = self.op(scope, "Equal", &[&shape, &kept]);
        let shape = self.op(scope, "Where", &[&is_kept, &ones, &shape]);
        self.op(scope, "Expand", &[x, &shape])
    }

    /// A new axis of 1.
    pub fn unsqueeze(&mut self, scope: &str, x: &str, axis: i64) -> String {
        let axes = self.ints(scope, &[axis]);
        self.op(scope, "Unsqueeze", &[x, &axes])
    }

    /// Values put behind each other along an axis.
    pub fn concat(&mut self, scope: &str, parts: &[&str], axis: i64) -> String {
        self.add(scope, node("Concat", parts, &[]).attr("axis", axis))
    }

    /// Axes in another order.
    pub fn transpose(&mut self, scope: &str, x: &str, perm: &[i64]) -> String {
        self.add(scope, node("Transpose", &[x], &[]).attr("perm", perm))
    }

    /// Elements of another type; a node even where the type is the same already, as the exporter has it.
    pub fn cast(&mut self, scope: &str, x: &str, to: DType) -> String {
        self.add(scope, node("Cast", &[x], &[]).attr("to", i64::from(onnx_data_type(to))))
    }

    /// The smallest finite number of the model's element type (`torch.finfo(dtype).min`).
    pub fn smallest(&mut self, scope: &str) -> String {
        let least = match self.dtype() {
            DType::Bf16 => half::bf16::MIN.to_f64(),
            DType::F16 => half::f16::MIN.to_f64(),
            _ => f64::from(f32::MIN),
        };
        self.number(scope, least)
    }

    /// Writes the model and gives its number of parameters.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn finish(self) -> Result<u64, GenerateError> {
        let model = ModelProto {
            ir_version: Some(8),
            producer_name: Some(env!("CARGO_PKG_NAME").into()),
            producer_version: Some(env!("CARGO_PKG_VERSION").into()),
            opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(self.opset) }],
            graph: Some(self.graph),
            ..ModelProto::default()
        };
        self.file.finish(&model)?;
        Ok(self.parameters)
    }
}
