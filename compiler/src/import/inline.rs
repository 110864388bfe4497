//! Subgraphs and model-local functions, imported in place of the node that uses them.

use std::collections::BTreeMap;

use super::Imported;
use super::error::Refusal;
use super::translate::{Building, Frame, Lookup, Slot, opsets};
use crate::ir::ValueRef;
use crate::onnx::OnnxModel;
use crate::onnx::proto::{AttributeProto, FunctionProto, GraphProto, NodeProto, ValueInfoProto};

/// Deepest nesting of functions and subgraphs.
const MOST_DEPTH: usize = 64;

/// The model-local function that a node calls, when it does.
pub(super) fn find_function<'m>(model: &'m OnnxModel, node: &NodeProto) -> Option<&'m FunctionProto> {
    model
        .proto()
        .functions
        .iter()
        .find(|f| f.domain() == node.domain() && f.name() == node.op_type() && f.overload() == node.overload())
}

impl Building {
    /// Imports a subgraph with the names around it in scope; gives its outputs.
    pub(super) fn inline_graph(&mut self, model: &OnnxModel, frame: &Frame, node: &str, graph: &GraphProto) -> Imported {
        if !graph.input.is_empty() {
            return Err(Refusal::new("its subgraph has inputs"));
        }
        if frame.depth >= MOST_DEPTH {
            return Err(Refusal::new("subgraphs are nested too deeply"));
        }
        let frame = frame.nested(node);
        self.push_scope(false);
        for t in &graph.initializer {
            let slot = match model.constant(t) {
                Ok(constant) => Slot::Value(self.add_constant(&frame.full_name(t.name()), constant)),
                Err(e) => {
                    self.model_problem(format!("initializer '{}'", frame.full_name(t.name())), e);
                    Slot::Poisoned
                }
            };
            self.define(t.name(), slot);
        }
        self.nodes(model, &frame, &graph.node);
        let outputs = self.resolve(model, graph.output.iter().map(ValueInfoProto::name));
        self.pop_scope();
        outputs
    }

    /// Imports a function's body in place of a call.
    pub(super) fn inline_function(
        &mut self,
        model: &OnnxModel,
        frame: &Frame,
        call: &NodeProto,
        node: &str,
        function: &FunctionProto,
        inputs: &[Option<ValueRef>],
    ) -> Imported {
        let identity = format!("{}::{}", function.domain(), function.name());
        if frame.calls.contains(&identity) {
            return Err(Refusal::new(format!("function {identity} calls itself")));
        }
        if frame.depth >= MOST_DEPTH {
            return Err(Refusal::new("functions are nested too deeply"));
        }
        if inputs.len() > function.input.len() {
            return Err(Refusal::new(format!(
                "{} inputs are given, function {identity} takes {}",
                inputs.len(),
                function.input.len()
            )));
        }
        let mut body = frame.nested(node);
        body.calls.push(identity);
        if !function.opset_import.is_empty() {
            body.opsets = opsets(&function.opset_import);
        }
        let mut attributes: BTreeMap<&str, &AttributeProto> = function.attribute_proto.iter().map(|a| (a.name(), a)).collect();
        attributes.extend(call.attribute.iter().map(|a| (a.name(), a)));
        let nodes: Vec<NodeProto> = function.node.iter().map(|n| resolved(n, &attributes)).collect();

        self.push_scope(true);
        for (i, name) in function.input.iter().enumerate() {
            self.define(name, inputs.get(i).copied().flatten().map_or(Slot::Absent, Slot::Value));
        }
        self.nodes(model, &body, &nodes);
        let outputs = self.resolve(model, function.output.iter().map(String::as_str));
        self.pop_scope();
        outputs
    }

    /// The values that the innermost scope knows by these names.
    fn resolve<'n>(&mut self, model: &OnnxModel, names: impl Iterator<Item = &'n str>) -> Imported {
        let mut out = Vec::new();
        let mut missing = None;
        for name in names {
            match self.lookup(model, name) {
                Lookup::Value(v) => {
                    // The name outside is the one that others know.
                    self.forget_name(v);
                    out.push(v);
                }
                Lookup::Poisoned => return Err(Refusal::reported()),
                Lookup::Absent | Lookup::Undefined => missing = Some(name),
            }
        }
        match missing {
            Some(name) => Err(Refusal::new(format!("nothing computes its output '{name}'"))),
            None => Ok(out),
        }
    }
}

/// A node of a function's body with references to the function's attributes replaced by what the call gives for them, or the default;
/// attributes for which there is neither are left out.
fn resolved(node: &NodeProto, given: &BTreeMap<&str, &AttributeProto>) -> NodeProto {
    let attribute = node.attribute.iter().filter_map(|a| {
        if a.ref_attr_name().is_empty() {
            let mut a = a.clone();
            for graph in a.g.iter_mut().chain(&mut a.graphs) {
                graph.node = graph.node.iter().map(|n| resolved(n, given)).collect();
            }
            Some(a)
        } else {
            let value = *given.get(a.ref_attr_name())?;
            Some(AttributeProto { name: a.name.clone(), ..value.clone() })
        }
    });
    NodeProto { attribute: attribute.collect(), ..node.clone() }
}
