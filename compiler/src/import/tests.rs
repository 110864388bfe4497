use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::tensor::Tensor;

use super::{ImportErrors, ImportOptions, import};
use crate::ir::Graph;
use crate::onnx::OnnxModel;
use crate::onnx::build::{ModelBuilder, function, node, subgraph};
use crate::onnx::proto::{
    ElementTypeProto, GraphProto, TensorTypeProto, TypeProto, TypeValue, ValueInfoProto, attribute_type, data_type,
};

fn run(builder: ModelBuilder) -> Result<Graph, ImportErrors> {
    import(&builder.model(), &ImportOptions::default())
}

/// The operators, one a line: `output = Op(inputs)`.
fn text(graph: &Graph) -> Vec<String> {
    let line = |id| {
        let node = graph.node(id);
        let inputs: Vec<&str> = graph.operands(id).into_iter().map(|v| v.map_or("", |v| graph.output(v).name.as_str())).collect();
        let op = node.op().expect("a schedule holds operators");
        format!("{} = {op:?}({})", node.outputs[0].name, inputs.join(", "))
    };
    graph.schedule().into_iter().map(line).collect()
}

fn fails(builder: ModelBuilder, expected: &str) {
    let error = run(builder).expect_err(expected).to_string();
    assert!(error.contains(expected), "{error}");
}

fn base() -> ModelBuilder {
    ModelBuilder::new(17).input("x", DType::F32, &["batch", "3"]).output("y", DType::F32, &["batch", "3"])
}

#[test]
fn nodes_keep_their_names() {
    let graph = run(base()
        .node(node("Relu", &["x"], &["a"]).name("first"))
        .node(node("Sqrt", &["a"], &["b"]))
        .node(node("LeakyRelu", &["b"], &["y"]).name("first").attr("alpha", 0.5f32)))
    .unwrap();
    assert_eq!(text(&graph), ["a = Unary(Relu)(x)", "b = Unary(Sqrt)(a)", "y = Unary(LeakyRelu { alpha: 0.5 })(b)"]);
    let names: Vec<_> = graph.schedule().iter().map(|&n| graph.node(n).name.clone()).collect();
    assert_eq!(names, ["first", "Sqrt_1", "LeakyRelu_2"]);
    assert!(graph.schedule().iter().all(|&n| graph.node(n).outputs[0].from_model && graph.node(n).origin.len() == 1));
    assert_eq!(graph.outputs[0].name, "y");
}

#[test]
fn a_node_named_like_a_later_tensor_does_not_take_its_name() {
    let graph = run(base().node(node("Relu", &["x"], &["a"]).name("y")).node(node("Sqrt", &["a"], &["y"]).name("a"))).unwrap();
    assert_eq!(text(&graph), ["a = Unary(Relu)(x)", "y = Unary(Sqrt)(a)"]);
}

#[test]
fn everything_unsupported_is_reported_at_once() {
    let sequence = TypeProto {
        value: Some(TypeValue::Sequence(Box::new(ElementTypeProto {
            elem_type: Some(Box::new(TypeProto {
                value: Some(TypeValue::Tensor(TensorTypeProto { elem_type: Some(data_type::FLOAT), shape: None })),
                denotation: None,
            })),
        }))),
        denotation: None,
    };
    let mut proto = base()
        .opset("com.example", 3)
        .input("words", DType::I64, &["?", "seq len"])
        .node(node("Frobnicate", &["x", "", "words"], &["a"]).name("frob"))
        .node(node("Relu", &["a"], &["b"]).name("only downstream"))
        .node(node("Widget", &["b"], &["c"]).domain("com.example"))
        .node(node("Gadget", &["x"], &["d"]).domain("org.unknown"))
        .node(node("LeakyRelu", &["x"], &["e"]).attr("alpha", "steep"))
        .node(node("Sqrt", &["x"], &["f"]).attr("precise", 1i64))
        .node(node("Relu", &["nowhere"], &["g"]))
        .node(node("Relu", &["y"], &["h"]))
        .node(node("Relu", &["x"], &["y", "second"]))
        .proto();
    let graph = proto.graph.as_mut().unwrap();
    graph.input.push(ValueInfoProto { name: Some("list".into()), r#type: Some(sequence), ..ValueInfoProto::default() });
    let error = import(&OnnxModel::from_proto(proto), &ImportOptions::default().with_shapes("seq=4").unwrap()).unwrap_err();
    insta::assert_snapshot!(error);
}

#[test]
fn names_that_mean_nothing_or_two_things() {
    fails(base().node(node("Relu", &["a"], &["y"])), "nothing computes its input 'a'");
    fails(
        base().node(node("Relu", &["b"], &["a"])).node(node("Relu", &["a"], &["b"])).node(node("Relu", &["x"], &["y"])),
        "it uses 'b' before the node that computes it; nodes must be in topological order, without cycles",
    );
    fails(
        base().node(node("Relu", &["x"], &["x"])).node(node("Relu", &["x"], &["y"])),
        "its output 'x' has the name of another tensor",
    );
    fails(base(), "output 'y'\n  reason: nothing computes it");
    fails(
        ModelBuilder::new(17).node(node("Relu", &["x"], &["y"])).input("x", DType::F32, &[]),
        "graph\n  reason: it has no output",
    );
    let w = Tensor::scalar(1f32);
    fails(base().initializer("w", &w).initializer("w", &w).node(node("Relu", &["x"], &["y"])), "initializer 'w'");
}

#[test]
fn opsets() {
    let old = |v| {
        ModelBuilder::new(v).input("x", DType::F32, &["3"]).output("y", DType::F32, &["3"]).node(node("Relu", &["x"], &["y"]))
    };
    assert!(run(old(9)).is_ok() && run(old(23)).is_ok() && run(old(super::NEWEST_OPSET)).is_ok());
    fails(old(super::NEWEST_OPSET + 1), "but the model uses opset");
    assert!(run(base().node(node("Relu", &["x"], &["y"]).domain("ai.onnx"))).is_ok());
}

#[test]
fn initializers_are_constants_also_when_listed_as_inputs() {
    let w = Tensor::from_slice(&[2], &[4f32, 9.]).unwrap();
    let graph = run(ModelBuilder::new(17)
        .input("x", DType::F32, &["n"])
        .input("w", DType::F32, &["2"])
        .initializer("w", &w)
        .initializer("unused", &w)
        .node(node("Sqrt", &["w"], &["r"]))
        .node(node("Relu", &["x"], &["y"]))
        .output("y", DType::F32, &["n"])
        .output("r", DType::F32, &["2"]))
    .unwrap();
    assert_eq!(graph.inputs().len(), 1);
    let folded = graph.constant(graph.outputs[1].value).expect("small constants are folded").to_tensor();
    assert_eq!(folded.as_slice::<f32>().unwrap(), [2., 3.]);
    assert_eq!(graph.node_ids().len(), 3);
}

#[test]
fn dynamic_dimensions_become_symbols() {
    let model = |options: &str| {
        let builder = ModelBuilder::new(17)
            .input("a", DType::F32, &["batch", "?", "seq len", "-1"])
            .input("b", DType::F32, &["batch", "past + 1", "past", "seq_len", "7"])
            .node(node("Relu", &["a"], &["y"]))
            .output("y", DType::F32, &[]);
        import(&builder.model(), &ImportOptions::default().with_shapes(options).unwrap())
    };
    let shape = |g: &Graph, i: usize| {
        let types: Vec<String> = g.node(g.inputs()[i]).outputs[0].ty.shape.iter().map(Dim::to_string).collect();
        types.join(" ")
    };
    let graph = model("").unwrap();
    assert_eq!(shape(&graph, 0), "batch a_dim1 seq_len_1 a_dim3");
    assert_eq!(shape(&graph, 1), "batch past+1 past seq_len 7");
    assert_eq!((graph.symbols["batch"].min, graph.symbols["batch"].max), (1, i64::from(i32::MAX)));
    let graph = model("batch=2..8,a_dim1=5,past=3,seq len=6").unwrap();
    assert_eq!(shape(&graph, 0), "batch 5 6 a_dim3");
    assert_eq!(shape(&graph, 1), "batch 4 3 seq_len 7");
    assert_eq!((graph.symbols["batch"].min, graph.symbols["batch"].max), (2, 8));
    assert!(!graph.symbols.contains_key("past"));
    let error = model("tokens=3").unwrap_err().to_string();
    assert!(error.contains("shape option 'tokens'") && error.contains("they are a_dim1, a_dim3, batch"), "{error}");
}

#[test]
fn functions_are_inlined() {
    let act = function(
        ("my", "Relu"),
        17,
        &["v", "unused"],
        &["out"],
        [
            node("Sqrt", &["v"], &["inner"]).name("root"),
            node("LeakyRelu", &["inner"], &["out"]).attr_ref("alpha", "slope", attribute_type::FLOAT),
        ],
    );
    let twice = function(
        ("my", "Twice"),
        17,
        &["v"],
        &["out"],
        [node("Relu", &["v"], &["mid"]).domain("my").attr("slope", 0.25f32), node("Relu", &["mid"], &["out"])],
    );
    let mut twice_imports = twice;
    twice_imports.opset_import.push(crate::onnx::proto::OperatorSetIdProto { domain: Some("my".into()), version: Some(1) });
    let graph = run(base()
        .opset("my", 1)
        .function(act.clone())
        .function(twice_imports)
        .node(node("Twice", &["x"], &["t"]).domain("my").name("call"))
        .node(node("Relu", &["t"], &["y"]).domain("my")))
    .unwrap();
    // Without the attribute, LeakyRelu has its own default; ONNX's Relu stays ONNX's.
    assert_eq!(
        text(&graph),
        [
            "call/Relu_0/inner = Unary(Sqrt)(x)",
            "call/mid = Unary(LeakyRelu { alpha: 0.25 })(call/Relu_0/inner)",
            "t = Unary(Relu)(call/mid)",
            "Relu_1/inner = Unary(Sqrt)(t)",
            "y = Unary(LeakyRelu { alpha: 0.01 })(Relu_1/inner)",
        ]
    );

    let recursive = function(("my", "Loop"), 17, &["v"], &["out"], [node("Loop", &["v"], &["out"]).domain("my")]);
    fails(
        base().opset("my", 1).function(recursive).node(node("Loop", &["x"], &["y"]).domain("my")),
        "function my::Loop calls itself",
    );
    fails(base().opset("my", 1).function(act).node(node("Add", &["x", "x"], &["y"]).domain("my")), "Add (domain my, opset 1)");
    // Each level doubles the calls of the one below.
    let mut bomb = base().opset("my", 1);
    for level in 0..60 {
        let below = format!("F{}", level + 1);
        let below = below.as_str();
        bomb = bomb.function(function(
            ("my", &format!("F{level}")),
            17,
            &["v"],
            &["out"],
            [node(below, &["v"], &["w"]).domain("my"), node(below, &["w"], &["out"]).domain("my")],
        ));
    }
    assert!(run(bomb.node(node("F0", &["x"], &["y"]).domain("my"))).is_err());
}

#[test]
fn if_with_a_known_condition_is_its_branch() {
    let model = |condition: u8| {
        base()
            .initializer("c", &Tensor::from_bytes(DType::Bool, &[], &[condition]).unwrap())
            .node(node("Relu", &["x"], &["outer"]))
            .node(
                node("If", &["c"], &["y"])
                    .name("choice")
                    .attr("then_branch", subgraph([node("Sqrt", &["outer"], &["s"])], &["s"]))
                    .attr("else_branch", subgraph([], &["outer"])),
            )
    };
    assert_eq!(text(&run(model(1)).unwrap()), ["outer = Unary(Relu)(x)", "y = Unary(Sqrt)(outer)"]);
    assert_eq!(text(&run(model(0)).unwrap()), ["outer = Unary(Relu)(x)"]);
    let branch = || -> GraphProto { subgraph([node("Frobnicate", &["x"], &["s"]).name("inside")], &["s"]) };
    let choice = |c: &str| node("If", &[c], &["y"]).name("choice").attr("then_branch", branch()).attr("else_branch", branch());
    let error = run(base().initializer("c", &Tensor::from_bytes(DType::Bool, &[], &[1]).unwrap()).node(choice("c"))).unwrap_err();
    assert_eq!(error.0.len(), 1, "{error}");
    assert!(error.to_string().contains("node 'choice/inside': Frobnicate"), "{error}");
    fails(base().input("c", DType::Bool, &[]).node(choice("c")), "'c' is a graph input; its value must be known when compiling");
}
