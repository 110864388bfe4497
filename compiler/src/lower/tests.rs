use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::TensorType;
use sliderun::op::gemm::MatMul;
use sliderun::op::layout::{Identity, Reshape};
use sliderun::op::sparse::QuantLift;
use sliderun::plan::Plan;
use sliderun::plan::manifest::{Provenance, Storage, SymbolRange, ValueId};
use sliderun::sparse::{KLayout, Segment};
use sliderun::tensor::Tensor;

use super::lower;
use crate::ir::{Constant, Graph, GraphOutput, NodeId, ValueRef};

fn value(node: NodeId) -> ValueRef {
    ValueRef { node, slot: 0 }
}

fn constant(shape: &[usize], fill: f32) -> Constant {
    Constant::from_tensor(&Tensor::from_slice(shape, &vec![fill; shape.iter().product()]).unwrap())
}

fn symbolic_graph() -> (Graph, ValueRef) {
    let mut g = Graph::new();
    g.symbols.insert("batch".into(), SymbolRange { name: "batch".into(), min: 1, max: 32 });
    let x = g.add_input("x", TensorType::new(DType::F32, [Dim::symbol("batch"), 4.into()]));
    (g, x)
}

#[test]
fn reshapes_and_identities_become_aliases_of_the_value_that_holds_the_elements() {
    let (mut g, x) = symbolic_graph();
    let w = g.add_constant("w", constant(&[4, 4], 1.0));
    let y = value(g.add_op("mm", MatMul::default(), &[Some(x), Some(w)]).unwrap());
    let r = value(g.add_op("r", Reshape { shape: vec![Dim::symbol("batch"), 2.into(), 2.into()] }, &[Some(y)]).unwrap());
    let i = value(g.add_op("i", Identity {}, &[Some(r)]).unwrap());
    g.outputs.push(GraphOutput { name: "out".into(), value: i });
    let plan = lower(&g, Provenance::default(), Vec::new()).unwrap().manifest;
    let storages: Vec<_> = plan.program.values.iter().map(|v| (v.name.as_str(), v.storage)).collect();
    let Storage::Constant(blob) = storages[1].1 else { panic!("w is a constant") };
    assert_eq!(
        storages,
        [
            ("x", Storage::Input),
            ("w", Storage::Constant(blob)),
            ("mm", Storage::Computed),
            ("r", Storage::Alias(ValueId(2))),
            ("i", Storage::Alias(ValueId(2))),
        ]
    );
    assert_eq!(plan.program.steps.len(), 1);
    assert_eq!(plan.symbols, [SymbolRange { name: "batch".into(), min: 1, max: 32 }]);
}

#[test]
fn dead_constants_stay_behind_and_equal_ones_share_a_blob() {
    let (mut g, x) = symbolic_graph();
    g.add_constant("dead", constant(&[8], 3.0));
    let a = g.add_constant("a", constant(&[4, 4], 2.0));
    let b = g.add_constant("b", constant(&[4, 4], 2.0));
    let y = value(g.add_op("mm", MatMul::default(), &[Some(x), Some(a)]).unwrap());
    let z = value(g.add_op("mm", MatMul::default(), &[Some(y), Some(b)]).unwrap());
    for (name, value) in [("z", z), ("x_again", x), ("weight", b)] {
        g.outputs.push(GraphOutput { name: name.into(), value });
    }
    let lowered = lower(&g, Provenance::default(), Vec::new()).unwrap();
    let names: Vec<&str> = lowered.manifest.program.steps.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["mm", "mm.1"], "step names are unique");
    let of_outputs: Vec<Storage> =
        lowered.manifest.program.outputs.iter().map(|o| lowered.manifest.program.values[o.value.0 as usize].storage).collect();
    assert!(matches!(of_outputs[..], [Storage::Computed, Storage::Input, Storage::Constant(_)]));
    let plan = Plan::from_bytes(lowered.writer.to_bytes(lowered.manifest).unwrap()).unwrap();
    assert_eq!(plan.manifest().blobs.len(), 1);
}

#[test]
fn every_node_that_cannot_be_lowered_is_named() {
    let (mut g, x) = symbolic_graph();
    let layout = KLayout { segments: vec![Segment { k: 2, pattern: None }; 2] };
    for name in ["first", "second"] {
        let lift = QuantLift { to: DType::F32, layout: layout.clone() };
        let v = value(g.add_op(name, lift, &[Some(x)]).unwrap());
        g.outputs.push(GraphOutput { name: name.into(), value: v });
    }
    let shape = vec![Dim::symbol("unknown"), 4.into()];
    let v = value(g.add_op("third", sliderun::op::layout::Expand { shape }, &[Some(x)]).unwrap());
    g.outputs.push(GraphOutput { name: "third".into(), value: v });
    let error = lower(&g, Provenance::default(), Vec::new()).err().unwrap();
    let names: Vec<(&str, &str)> = error.0.iter().map(|r| (r.node.as_str(), r.operator)).collect();
    assert_eq!(names, [("first", "QuantLift"), ("second", "QuantLift"), ("third", "Expand")]);
    assert!(error.0[0].reason.contains("2 segments"), "{error}");
    assert!(error.0[2].reason.contains("'unknown'"), "{error}");
}
