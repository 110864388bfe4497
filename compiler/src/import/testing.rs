//! For the importers' tests: a single node imported, and what became of it as text.

use sliderun::dtype::DType;

use super::{ImportOptions, import};
use crate::ir::Graph;
use crate::onnx::build::{ModelBuilder, NodeBuilder};

/// An operand of the node under test.
#[derive(Clone, Copy)]
pub(super) enum Given<'a> {
    /// A graph input: element type and extents.
    Input(DType, &'a [&'a str]),
    /// An initializer of i64, of one axis.
    Ints(&'a [i64]),
    /// An initializer of f32, of one axis.
    Floats(&'a [f32]),
    /// An initializer of one i64 element without axes.
    Int(i64),
    /// Absent.
    Absent,
}

pub(super) use Given::*;

/// Imports one node of version `opset` whose operands are as given and whose outputs are `outputs` many.
pub(super) fn import_node(opset: i64, node: NodeBuilder, given: &[Given<'_>], outputs: usize) -> Result<Graph, String> {
    use sliderun::tensor::Tensor;
    let mut node = node.build();
    let mut model = ModelBuilder::new(opset).opset("com.microsoft", 1);
    for (i, operand) in given.iter().enumerate() {
        let name = format!("in{i}");
        let vector = |t: Result<Tensor, _>| t.expect("one axis holds any number of elements");
        model = match operand {
            Input(dtype, shape) => model.input(&name, *dtype, shape),
            Ints(v) => model.initializer(&name, &vector(Tensor::from_slice(&[v.len()], v))),
            Floats(v) => model.initializer(&name, &vector(Tensor::from_slice(&[v.len()], v))),
            Int(v) => model.initializer(&name, &Tensor::scalar(*v)),
            Absent => {
                node.input.push(String::new());
                continue;
            }
        };
        node.input.push(name);
    }
    for i in 0..outputs {
        node.output.push(format!("out{i}"));
        model = model.output(&format!("out{i}"), DType::F32, &[]);
    }
    let mut proto = model.proto();
    let graph = proto.graph.get_or_insert_default();
    for output in &mut graph.output {
        // What the model claims of its outputs is not what is under test.
        output.r#type = None;
    }
    graph.node.push(node);
    import(&crate::onnx::OnnxModel::from_proto(proto), &ImportOptions::default()).map_err(|e| e.to_string())
}

/// The operators in schedule order, one a line: `Op { attributes } -> types`.
pub(super) fn ops(graph: &Graph) -> Vec<String> {
    let line = |id| {
        let node = graph.node(id);
        let types: Vec<String> = node.outputs.iter().map(|o| o.ty.to_string()).collect();
        format!("{:?} -> {}", node.op().expect("schedules hold operators"), types.join(", "))
    };
    graph.schedule().into_iter().map(line).collect()
}

/// Checks what one node with one output becomes.
#[track_caller]
pub(super) fn check(opset: i64, node: NodeBuilder, given: &[Given<'_>], expected: &[&str]) {
    match import_node(opset, node.clone(), given, 1) {
        Ok(graph) => assert_eq!(ops(&graph), expected, "{node:?}"),
        Err(e) => panic!("{node:?}: {e}"),
    }
}

/// Checks that one node is refused for a reason that contains `expected`.
#[track_caller]
pub(super) fn refused(opset: i64, node: NodeBuilder, given: &[Given<'_>], expected: &str) {
    match import_node(opset, node.clone(), given, 1) {
        Ok(graph) => panic!("{node:?} became {:?}", ops(&graph)),
        Err(e) => assert!(e.contains(expected), "{node:?}: {e}"),
    }
}
