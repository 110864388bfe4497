//! Walks a model's nodes and builds the graph: names and scopes, dispatch to the importers, what is known when compiling.

use sliderun::dim::Dim;
use sliderun::op::elementwise::Cast;
use sliderun::op::generate::Extents;
use sliderun::op::{InferError, InputTypes, Op, Semantics};
use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::context::NodeContext;
use super::error::{ImportErrors, Operand, Problem, Refusal, Unsupported};
use super::inputs::Input;
use super::oracle::Oracle;
use super::shape_values::{Known, evaluate};
use super::{ImportOptions, Imported, find_importer, fold, inline, inputs};
use crate::ir::{Constant, Graph, GraphOutput, ValueRef};
use crate::onnx::OnnxModel;
use crate::onnx::proto::{NodeProto, OperatorSetIdProto};

/// Most nodes that a model may have once its functions are inlined: functions that call functions can be written to explode.
const MOST_NODES: usize = 1 << 20;

/// Versions by domain.
pub(super) type Opsets = BTreeMap<String, i64>;

/// Where nodes are: in the main graph, a branch or a function's body.
#[derive(Clone)]
pub(super) struct Frame {
    /// What names from here start with in the IR; empty in the main graph.
    prefix: String,
    /// The operator sets in force.
    pub opsets: Opsets,
    /// The functions being inlined.
    pub calls: Vec<String>,
    /// Levels below the main graph.
    pub depth: usize,
}

impl Frame {
    /// The frame of what replaces a node.
    pub fn nested(&self, node: &str) -> Frame {
        Frame { prefix: format!("{node}/"), depth: self.depth + 1, ..self.clone() }
    }

    /// A tensor's name in the IR.
    pub fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// What a tensor name stands for.
#[derive(Clone, Copy)]
pub(super) enum Slot {
    Value(ValueRef),
    /// An initializer of the main graph that nothing has used yet, by position.
    Initializer(usize),
    /// An optional input of a function that the call leaves out.
    Absent,
    /// What a refused node computes.
    Poisoned,
}

/// What a use of a tensor name finds.
pub(super) enum Lookup {
    Value(ValueRef),
    Absent,
    Poisoned,
    Undefined,
}

#[derive(Default)]
struct Scope {
    slots: HashMap<String, Slot>,
    /// Whether names outside are out of reach.
    isolated: bool,
}

/// The graph being built, and what is known of it.
#[derive(Default)]
pub(super) struct Building {
    pub graph: Graph,
    /// Values that do not depend on data but are neither constants nor [`Extents`].
    known: HashMap<ValueRef, Known>,
    /// Values of operators that no tensor of the model has given its name to yet.
    unnamed: HashSet<ValueRef>,
    scopes: Vec<Scope>,
    problems: Vec<Problem>,
    node_names: HashSet<String>,
    /// Names of the main graph's tensors: kept for the values that stand for them.
    reserved: HashSet<String>,
    nodes_seen: usize,
    /// tract's opinion, once it has been asked.
    oracle: OnceCell<Option<Oracle>>,
}

/// Versions by domain; ONNX's own domain is the empty one.
pub(super) fn opsets(imports: &[OperatorSetIdProto]) -> Opsets {
    imports.iter().map(|o| (normal_domain(o.domain()).to_owned(), o.version())).collect()
}

pub(super) fn normal_domain(domain: &str) -> &str {
    if domain == "ai.onnx" { "" } else { domain }
}

pub(super) fn translate(model: &OnnxModel, options: &ImportOptions) -> Result<Graph, ImportErrors> {
    let proto = model.graph();
    let mut b = Building { reserved: proto.node.iter().flat_map(|n| &n.output).cloned().collect(), ..Building::default() };
    b.push_scope(true);
    b.graph_inputs(model, options);
    for (i, t) in proto.initializer.iter().enumerate() {
        if !b.define(t.name(), Slot::Initializer(i)) {
            b.model_problem(format!("initializer '{}'", t.name()), "another initializer or input has the same name");
        }
    }
    for t in &proto.sparse_initializer {
        let name = t.values.as_ref().map_or("", |v| v.name());
        b.model_problem(format!("initializer '{name}'"), "sparse initializers are not supported; store it as a dense one");
        b.define(name, Slot::Poisoned);
    }
    let frame = Frame { prefix: String::new(), opsets: opsets(&model.proto().opset_import), calls: Vec::new(), depth: 0 };
    b.nodes(model, &frame, &proto.node);
    for output in &proto.output {
        let name = output.name();
        match b.lookup(model, name) {
            Lookup::Value(value) => b.graph.outputs.push(GraphOutput { name: name.to_owned(), value }),
            Lookup::Poisoned => {}
            Lookup::Absent | Lookup::Undefined => b.model_problem(format!("output '{name}'"), "nothing computes it"),
        }
    }
    if proto.output.is_empty() {
        b.model_problem("graph".into(), "it has no output");
    }
    if !b.problems.is_empty() {
        return Err(ImportErrors(b.problems));
    }
    b.graph.remove_dead();
    Ok(b.graph)
}

impl Building {
    fn graph_inputs(&mut self, model: &OnnxModel, options: &ImportOptions) {
        for (name, input) in inputs::input_types(model, options, &mut self.graph, &mut self.problems) {
            let slot = match input {
                Input::Typed(ty) => Slot::Value(self.graph.add_input(&name, ty)),
                Input::Frozen(constant) => Slot::Value(self.graph.add_constant(&name, constant)),
                Input::Unsupported(reason) => {
                    self.model_problem(format!("input '{name}'"), reason);
                    Slot::Poisoned
                }
            };
            if !self.define(&name, slot) {
                self.model_problem(format!("input '{name}'"), "another input has the same name");
            }
        }
    }

    pub(super) fn model_problem(&mut self, subject: String, reason: impl ToString) {
        self.problems.push(Problem::Model { subject, reason: reason.to_string() });
    }

    pub(super) fn push_scope(&mut self, isolated: bool) {
        self.scopes.push(Scope { isolated, ..Scope::default() });
    }

    pub(super) fn pop_scope(&mut self) {
        self.scopes.pop();
    }

    /// Gives a name a meaning in the innermost scope; `false` when it has one there already.
    pub(super) fn define(&mut self, name: &str, slot: Slot) -> bool {
        let scope = self.scopes.last_mut().expect("a scope is open while nodes are imported");
        scope.slots.insert(name.to_owned(), slot).is_none()
    }

    pub(super) fn lookup(&mut self, model: &OnnxModel, name: &str) -> Lookup {
        for scope in self.scopes.iter_mut().rev() {
            let Some(slot) = scope.slots.get_mut(name) else {
                if scope.isolated {
                    break;
                }
                continue;
            };
            if let Slot::Initializer(i) = *slot {
                let t = &model.graph().initializer[i];
                *slot = match model.constant(t) {
                    Ok(constant) => Slot::Value(self.graph.add_constant(name, constant)),
                    Err(e) => {
                        let subject = format!("initializer '{name}'");
                        self.problems.push(Problem::Model { subject, reason: e.to_string() });
                        Slot::Poisoned
                    }
                };
            }
            return match *slot {
                Slot::Value(v) => Lookup::Value(v),
                Slot::Absent => Lookup::Absent,
                Slot::Poisoned | Slot::Initializer(_) => Lookup::Poisoned,
            };
        }
        Lookup::Undefined
    }

    /// Imports nodes in their order, into the innermost scope.
    pub(super) fn nodes(&mut self, model: &OnnxModel, frame: &Frame, nodes: &[NodeProto]) {
        let computed: BTreeSet<&str> = nodes.iter().flat_map(|n| &n.output).map(String::as_str).collect();
        for (index, node) in nodes.iter().enumerate() {
            self.nodes_seen += 1;
            let name = self.node_name(frame, node, index);
            let mut operands = Vec::with_capacity(node.input.len());
            let mut poisoned = false;
            let mut undefined = None;
            for input in &node.input {
                operands.push(match input.as_str() {
                    "" => None,
                    input => match self.lookup(model, input) {
                        Lookup::Value(v) => Some(v),
                        Lookup::Absent => None,
                        Lookup::Poisoned => {
                            poisoned = true;
                            None
                        }
                        Lookup::Undefined => {
                            undefined = Some(input);
                            None
                        }
                    },
                });
            }
            let outcome = if self.nodes_seen > MOST_NODES {
                Err(Refusal::new("the model has too many nodes once its functions are inlined"))
            } else if let Some(input) = undefined {
                Err(Refusal::new(match computed.contains(input) {
                    true => format!(
                        "it uses '{input}' before the node that computes it; nodes must be in topological order, without cycles"
                    ),
                    false => format!("nothing computes its input '{input}'"),
                }))
            } else {
                self.node(model, frame, node, &name, &operands, poisoned)
            };
            let outcome = outcome.and_then(|values| self.define_outputs(frame, node, values));
            if let Err(refusal) = outcome {
                if let Some(reason) = refusal.reason {
                    self.report(frame, node, name, &operands, reason);
                }
                for output in node.output.iter().filter(|o| !o.is_empty()) {
                    self.define(output, Slot::Poisoned);
                }
                if self.nodes_seen > MOST_NODES {
                    return;
                }
            }
        }
    }

    fn node(
        &mut self,
        model: &OnnxModel,
        frame: &Frame,
        node: &NodeProto,
        name: &str,
        operands: &[Option<ValueRef>],
        poisoned: bool,
    ) -> Imported {
        let domain = normal_domain(node.domain());
        if let Some(function) = inline::find_function(model, node) {
            if poisoned {
                return Err(Refusal::reported());
            }
            return self.inline_function(model, frame, node, name, function, operands);
        }
        let opset = *frame
            .opsets
            .get(domain)
            .ok_or_else(|| Refusal::new(format!("the model imports no version of the operator domain '{domain}'")))?;
        // Also when operands are missing: one run tells everything that is not supported.
        let importer = find_importer(domain, node.op_type(), opset).map_err(Refusal::new)?;
        if poisoned {
            return Err(Refusal::reported());
        }
        let mut context =
            NodeContext { model, building: self, frame, node, name, opset, inputs: operands, read: RefCell::default(), added: 0 };
        let values = (importer.build)(&mut context)?;
        if let Some(attribute) = context.unread().first() {
            return Err(Refusal::new(format!("attribute {attribute} is not supported")));
        }
        Ok(values)
    }

    fn define_outputs(&mut self, frame: &Frame, node: &NodeProto, values: Vec<ValueRef>) -> Result<(), Refusal> {
        for (i, output) in node.output.iter().enumerate().filter(|(_, o)| !o.is_empty()) {
            let value = *values.get(i).ok_or_else(|| Refusal::new(format!("output {i} ('{output}') is not supported")))?;
            if self.unnamed.remove(&value) {
                // Only tensors of the main graph are tensors that others see, too.
                let from_model = frame.depth == 0 && self.graph.constant(value).is_none();
                self.graph.name_value(value, &frame.full_name(output), from_model);
            }
            if !self.define(output, Slot::Value(value)) {
                return Err(Refusal::new(format!("its output '{output}' has the name of another tensor")));
            }
        }
        Ok(())
    }

    /// Lets the value be named again.
    pub(super) fn forget_name(&mut self, value: ValueRef) {
        let output = self.graph.output(value);
        if !output.from_model && self.graph.producer(value).is_some() {
            self.unnamed.insert(value);
        }
    }

    fn node_name(&mut self, frame: &Frame, node: &NodeProto, index: usize) -> String {
        let named = frame.full_name(node.name());
        if !node.name().is_empty() && self.node_names.insert(named.clone()) {
            return named;
        }
        let base = frame.full_name(&format!("{}_{index}", node.op_type()));
        let mut name = base.clone();
        let mut n = 1;
        while !self.node_names.insert(name.clone()) {
            name = format!("{base}_{n}");
            n += 1;
        }
        name
    }

    fn report(&mut self, frame: &Frame, node: &NodeProto, name: String, operands: &[Option<ValueRef>], reason: String) {
        let domain = normal_domain(node.domain());
        let inputs = node
            .input
            .iter()
            .zip(operands)
            .map(|(name, value)| Operand { name: name.clone(), ty: value.map(|v| self.graph.ty(v).clone()) })
            .collect();
        self.problems.push(Problem::Node(Unsupported {
            node: name,
            op: node.op_type().to_owned(),
            domain: domain.to_owned(),
            opset: frame.opsets.get(domain).copied(),
            inputs,
            reason,
        }));
    }

    /// Adds an operator that comes from node `origin`, or what it is known to compute.
    pub(super) fn add(
        &mut self,
        name: &str,
        origin: &str,
        op: Op,
        inputs: &[Option<ValueRef>],
    ) -> Result<Vec<ValueRef>, InferError> {
        let operand_types: Vec<_> = inputs.iter().map(|v| v.map(|v| self.graph.ty(v))).collect();
        let types = op.infer(InputTypes(&operand_types))?;
        if let [Some(x), ..] = inputs {
            let same = match &op {
                Op::Identity(_) => true,
                Op::Cast(Cast { to }) => *to == self.graph.ty(*x).dtype,
                Op::Reshape(_) | Op::Expand(_) => types.first() == Some(self.graph.ty(*x)),
                _ => false,
            };
            if same {
                return Ok(vec![*x]);
            }
        }
        if let Some(constants) = fold::fold(&self.graph, &op, inputs, &types) {
            return Ok(constants.into_iter().map(|c| self.add_constant(name, c)).collect());
        }
        let operands: Vec<Option<Known>> = inputs.iter().map(|v| v.and_then(|v| self.known(v))).collect();
        let complete = inputs.iter().zip(&operands).all(|(v, k)| v.is_none() || k.is_some());
        let known = if complete { evaluate(&op, &operands, &types, &|d| self.bounds(d)) } else { None };
        let op = match known.as_deref() {
            Some([one]) => match one.as_constant() {
                Some(constant) => return Ok(vec![self.add_constant(name, constant)]),
                None => one.as_extents().map_or(op, Op::Extents),
            },
            _ => op,
        };
        let inputs = if matches!(op, Op::Extents(_)) { &[] } else { inputs };
        let node = self.graph.add_op(name, op, inputs)?;
        self.graph.add_origin(node, [origin]);
        let outputs: Vec<ValueRef> = (0..self.graph.node(node).outputs.len()).map(|slot| ValueRef { node, slot }).collect();
        for (i, &value) in outputs.iter().enumerate() {
            self.unnamed.insert(value);
            if let Some(known) = known.as_ref().and_then(|k| k.get(i)) {
                self.known.insert(value, known.clone());
            }
            let taken = &self.graph.output(value).name;
            if self.reserved.contains(taken) {
                let name = format!("{taken}/{i}");
                self.graph.name_value(value, &name, false);
            }
        }
        Ok(outputs)
    }

    pub(super) fn add_constant(&mut self, name: &str, constant: Constant) -> ValueRef {
        let name = if self.reserved.contains(name) { format!("{name}/value") } else { name.to_owned() };
        let value = self.graph.add_constant(&name, constant);
        self.unnamed.insert(value);
        value
    }

    /// The elements of a small tensor, where they do not depend on data.
    pub(super) fn known(&self, value: ValueRef) -> Option<Known> {
        if let Some(known) = self.known.get(&value) {
            return Some(known.clone());
        }
        match self.graph.producer(value) {
            Some(Op::Extents(Extents { values, shape, dtype })) => Some(Known::from_dims(*dtype, shape, values)),
            _ => Known::from_constant(self.graph.constant(value)?),
        }
    }

    /// The elements of a tensor of the main graph as tract knows them.
    pub(super) fn oracle_elements(&self, model: &OnnxModel, tensor: &str) -> Option<Vec<Dim>> {
        self.oracle(model)?.values.get(tensor).filter(|dims| self.speaks_of(dims)).cloned()
    }

    /// The extents of a tensor of the main graph as tract knows them.
    pub(super) fn oracle_shape(&self, model: &OnnxModel, tensor: &str) -> Option<Vec<Dim>> {
        self.oracle(model)?.types.get(tensor).map(|ty| &ty.shape).filter(|dims| self.speaks_of(dims)).cloned()
    }

    /// Whether extents mention nothing but the graph's symbols: tract makes up others.
    fn speaks_of(&self, dims: &[Dim]) -> bool {
        let mut mentioned = BTreeSet::new();
        dims.iter().for_each(|d| d.symbols(&mut mentioned));
        mentioned.iter().all(|s| self.graph.symbols.contains_key(s))
    }

    fn oracle(&self, model: &OnnxModel) -> Option<&Oracle> {
        let ask = || {
            let inputs = self.graph.inputs().iter().map(|&node| {
                let output = &self.graph.node(node).outputs[0];
                (output.name.clone(), output.ty.clone())
            });
            Oracle::ask(model, &inputs.collect::<Vec<_>>())
        };
        self.oracle.get_or_init(ask).as_ref()
    }

    /// The least and the largest value of an expression within the ranges of its symbols, as far as that is known.
    pub(super) fn bounds(&self, dim: &Dim) -> (Option<i64>, Option<i64>) {
        dim.bounds(&|symbol| self.graph.symbols.get(symbol).map(|r| (r.min, r.max)))
    }
}
