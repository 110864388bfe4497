//! The graph: nodes are inputs, constants or operators; an edge carries (output slot → input slot).

use bytes::Bytes;
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use sliderun::dtype::DType;
use sliderun::op::{InferError, InputTypes, Op, Semantics, TensorType};
use sliderun::plan::manifest::SymbolRange;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::form::WeightForm;

/// A node of a [`Graph`].
pub type NodeId = NodeIndex;

/// One output of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueRef {
    /// The node.
    pub node: NodeId,
    /// Which of its outputs.
    pub slot: usize,
}

/// Constant data in its storage type, row-major, little-endian. `data` may be part of a mapped file: it need not be aligned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Constant {
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Vec<usize>,
    /// The bytes; exactly as many as the type needs.
    pub data: Bytes,
}

impl Constant {
    /// A copy of a tensor.
    pub fn from_tensor(t: &sliderun::tensor::Tensor) -> Self {
        Constant { dtype: t.dtype(), shape: t.shape().to_vec(), data: Bytes::copy_from_slice(t.bytes()) }
    }

    /// An aligned copy.
    pub fn to_tensor(&self) -> sliderun::tensor::Tensor {
        sliderun::tensor::Tensor::from_bytes(self.dtype, &self.shape, &self.data)
            .expect("a constant has exactly the bytes that its type needs")
    }

    /// Its type.
    pub fn ty(&self) -> TensorType {
        TensorType::new(self.dtype, self.shape.iter().copied())
    }
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum NodeKind {
    Input,
    Constant(Constant),
    Op(Op),
}

/// One output of a node: its type and the name that values go by in dumps, plans and reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOutput {
    /// Unique among all values. The ONNX tensor's name where `from_model` holds.
    pub name: String,
    /// Element type and extents.
    pub ty: TensorType,
    /// Whether this value stands for the ONNX tensor of that name (exactly, or up to pruning and quantization).
    pub from_model: bool,
}

/// A node.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub kind: NodeKind,
    /// The ONNX node's name (unnamed ONNX nodes get `OpType_index`), an input's or a constant's tensor name.
    pub name: String,
    /// Its outputs, at least one.
    pub outputs: Vec<NodeOutput>,
    /// Names of the ONNX nodes that went into it; kept through every pass.
    pub origin: BTreeSet<String>,
    /// How the product's weight is to be compiled, once that is decided; only on products.
    pub form: Option<WeightForm>,
    /// Number of input slots, counting absent optional ones.
    arity: usize,
    /// Nodes are numbered in the order in which they are added; unlike indices, numbers are not reused.
    serial: u64,
}

impl Node {
    /// The operator, when it is one.
    pub fn op(&self) -> Option<&Op> {
        match &self.kind {
            NodeKind::Op(op) => Some(op),
            _ => None,
        }
    }

    /// Number of input slots, counting absent optional ones.
    pub fn arity(&self) -> usize {
        self.arity
    }

    /// The constant, when it is one.
    pub fn constant(&self) -> Option<&Constant> {
        match &self.kind {
            NodeKind::Constant(c) => Some(c),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) from_slot: usize,
    pub(super) to_slot: usize,
}

/// A graph output: the model's name for it and the value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct GraphOutput {
    pub name: String,
    pub value: ValueRef,
}

/// A typed dataflow graph.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    pub(super) nodes: StableDiGraph<Node, Edge>,
    pub(super) inputs: Vec<NodeId>,
    /// Graph outputs in the model's order.
    pub outputs: Vec<GraphOutput>,
    /// The symbols that extents mention, with their ranges.
    pub symbols: BTreeMap<String, SymbolRange>,
    /// Value names in use.
    names: BTreeSet<String>,
    next_serial: u64,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Graph::default()
    }

    /// Graph inputs in the model's order.
    pub fn inputs(&self) -> &[NodeId] {
        &self.inputs
    }

    /// Adds a graph input.
    pub fn add_input(&mut self, name: &str, ty: TensorType) -> ValueRef {
        let output = NodeOutput { name: self.unique_name(name), ty, from_model: true };
        let node = self.insert(NodeKind::Input, name, vec![output], 0);
        self.inputs.push(node);
        ValueRef { node, slot: 0 }
    }

    /// Adds a constant; `name` is made unique.
    pub fn add_constant(&mut self, name: &str, constant: Constant) -> ValueRef {
        let output = NodeOutput { name: self.unique_name(name), ty: constant.ty(), from_model: false };
        let name = output.name.clone();
        let node = self.insert(NodeKind::Constant(constant), &name, vec![output], 0);
        ValueRef { node, slot: 0 }
    }

    /// Adds an operator node; the types of its outputs are inferred. Outputs are named after the node until
    /// [`Graph::name_value`] says better.
    ///
    /// # Errors
    /// What [`Semantics::infer`] says of the inputs.
    pub fn add_op(&mut self, name: &str, op: impl Into<Op>, inputs: &[Option<ValueRef>]) -> Result<NodeId, InferError> {
        let op = op.into();
        let types: Vec<Option<&TensorType>> = inputs.iter().map(|v| v.map(|v| self.ty(v))).collect();
        let types = op.infer(InputTypes(&types))?;
        let output = |(slot, ty)| {
            let name = if slot == 0 { name.to_owned() } else { format!("{name}.{slot}") };
            NodeOutput { name, ty, from_model: false }
        };
        Ok(self.insert_op(name, op, inputs, types.into_iter().enumerate().map(output).collect()))
    }

    /// Adds an operator node with outputs of types known beforehand, which the verifier will check; their names are made unique.
    pub fn insert_op(&mut self, name: &str, op: Op, inputs: &[Option<ValueRef>], mut outputs: Vec<NodeOutput>) -> NodeId {
        for output in &mut outputs {
            output.name = self.unique_name(&output.name);
        }
        let node = self.insert(NodeKind::Op(op), name, outputs, inputs.len());
        for (to_slot, value) in inputs.iter().enumerate() {
            if let Some(v) = value {
                self.nodes.add_edge(v.node, node, Edge { from_slot: v.slot, to_slot });
            }
        }
        node
    }

    /// Gives a node another name.
    pub fn rename_node(&mut self, id: NodeId, name: &str) {
        self.nodes[id].name = name.to_owned();
    }

    fn insert(&mut self, kind: NodeKind, name: &str, outputs: Vec<NodeOutput>, arity: usize) -> NodeId {
        let serial = self.next_serial;
        self.next_serial += 1;
        self.nodes.add_node(Node { kind, name: name.to_owned(), outputs, origin: BTreeSet::new(), form: None, arity, serial })
    }

    /// The number that the next node to be added gets; see [`Graph::operators_since`].
    pub fn next_serial(&self) -> u64 {
        self.next_serial
    }

    /// The operator nodes added since [`Graph::next_serial`] gave `serial`, in the order in which they were.
    pub fn operators_since(&self, serial: u64) -> Vec<NodeId> {
        let new = |n: &NodeId| self.nodes[*n].serial >= serial && self.nodes[*n].op().is_some();
        let mut out: Vec<NodeId> = self.nodes.node_indices().filter(new).collect();
        out.sort_by_key(|n| self.nodes[*n].serial);
        out
    }

    /// `base`, or with a number after it when it is taken; the result is taken from then on.
    fn unique_name(&mut self, base: &str) -> String {
        let mut name = base.to_owned();
        let mut n = 1;
        while !self.names.insert(name.clone()) {
            name = format!("{base}.{n}");
            n += 1;
        }
        name
    }

    /// Gives a value a name (made unique if taken by another value).
    pub fn name_value(&mut self, value: ValueRef, name: &str, from_model: bool) {
        let old = self.nodes[value.node].outputs[value.slot].name.clone();
        self.names.remove(&old);
        let name = self.unique_name(name);
        let output = &mut self.nodes[value.node].outputs[value.slot];
        output.name = name;
        output.from_model = from_model;
    }

    /// Makes `to` stand for what `from` stood for: its name, its place as a graph output, and every use. `from` must not be
    /// needed to compute `to` beyond the nodes that `to` itself depends on through other inputs; its node is left for
    /// [`Graph::remove_dead`].
    pub fn replace(&mut self, from: ValueRef, to: ValueRef) {
        let old = self.nodes[from.node].outputs[from.slot].clone();
        // A value that stands for a model tensor itself keeps its own name.
        let target = &self.nodes[to.node];
        if !target.outputs[to.slot].from_model && matches!(target.kind, NodeKind::Op(_)) {
            self.name_value(from, &format!("{}.replaced", old.name), false);
            self.name_value(to, &old.name, old.from_model);
        }
        self.replace_uses(from, to);
    }

    /// Redirects every use of `from`, as operand and as graph output, to `to`.
    pub fn replace_uses(&mut self, from: ValueRef, to: ValueRef) {
        for (user, to_slot) in self.uses(from) {
            self.set_input(user, to_slot, Some(to));
        }
        for output in &mut self.outputs {
            if output.value == from {
                output.value = to;
            }
        }
    }

    /// Connects (or with `None` disconnects) an input slot. Types are not re-inferred.
    pub fn set_input(&mut self, node: NodeId, slot: usize, value: Option<ValueRef>) {
        let old = self.nodes.edges_directed(node, Direction::Incoming).find(|e| e.weight().to_slot == slot).map(|e| e.id());
        if let Some(edge) = old {
            self.nodes.remove_edge(edge);
        }
        if let Some(v) = value {
            self.nodes.add_edge(v.node, node, Edge { from_slot: v.slot, to_slot: slot });
        }
        let node = &mut self.nodes[node];
        node.arity = node.arity.max(slot + 1);
    }

    /// Removes operator and constant nodes that no graph output depends on. Returns how many went.
    pub fn remove_dead(&mut self) -> usize {
        let mut live: BTreeSet<NodeId> = self.inputs.iter().copied().collect();
        let mut stack: Vec<NodeId> = self.outputs.iter().map(|o| o.value.node).collect();
        while let Some(n) = stack.pop() {
            if live.insert(n) || self.inputs.contains(&n) {
                stack.extend(self.nodes.neighbors_directed(n, Direction::Incoming));
            }
        }
        let dead: Vec<NodeId> = self.nodes.node_indices().filter(|n| !live.contains(n)).collect();
        for &n in &dead {
            self.remove(n);
        }
        dead.len()
    }

    /// Removes a node that nothing uses, and then those of its operands (and theirs) that nothing uses any more. Graph inputs
    /// stay. Returns the nodes removed, the given one first; none when it is in use.
    pub fn remove_dead_above(&mut self, id: NodeId) -> Vec<Node> {
        let mut removed = Vec::new();
        let mut stack = vec![id];
        while let Some(n) = stack.pop() {
            let used = !self.contains(n)
                || matches!(self.nodes[n].kind, NodeKind::Input)
                || self.nodes.neighbors_directed(n, Direction::Outgoing).next().is_some()
                || self.outputs.iter().any(|o| o.value.node == n);
            if !used {
                stack.extend(self.operands(n).into_iter().flatten().map(|v| v.node));
                removed.push(self.remove(n));
            }
        }
        removed
    }

    fn remove(&mut self, id: NodeId) -> Node {
        let node = self.nodes.remove_node(id).expect("callers pass nodes of this graph");
        for output in &node.outputs {
            self.names.remove(&output.name);
        }
        node
    }

    /// A node.
    ///
    /// # Panics
    /// When `id` is not of this graph or has been removed.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    /// Adds names of ONNX nodes to a node's origin.
    pub fn add_origin<S: Into<String>>(&mut self, id: NodeId, names: impl IntoIterator<Item = S>) {
        self.nodes[id].origin.extend(names.into_iter().map(Into::into));
    }

    /// Decides how a product's weight is to be compiled.
    pub fn set_form(&mut self, id: NodeId, form: Option<WeightForm>) {
        self.nodes[id].form = form;
    }

    /// Whether `id` is (still) a node of this graph.
    pub fn contains(&self, id: NodeId) -> bool {
        self.nodes.contains_node(id)
    }

    /// Type of a value.
    pub fn ty(&self, value: ValueRef) -> &TensorType {
        &self.output(value).ty
    }

    /// Name and type of a value.
    pub fn output(&self, value: ValueRef) -> &NodeOutput {
        &self.nodes[value.node].outputs[value.slot]
    }

    /// The constant behind a value, when it is one.
    pub fn constant(&self, value: ValueRef) -> Option<&Constant> {
        self.nodes[value.node].constant()
    }

    /// The operator that computes a value, when one does.
    pub fn producer(&self, value: ValueRef) -> Option<&Op> {
        self.nodes[value.node].op()
    }

    /// The operands of a node by slot. Edges beyond its arity, which only an invalid graph has, are left out.
    pub fn operands(&self, id: NodeId) -> Vec<Option<ValueRef>> {
        let mut out = vec![None; self.nodes[id].arity];
        for e in self.nodes.edges_directed(id, Direction::Incoming) {
            if let Some(operand) = out.get_mut(e.weight().to_slot) {
                *operand = Some(ValueRef { node: e.source(), slot: e.weight().from_slot });
            }
        }
        out
    }

    /// Operand `slot` of a node, when present.
    pub fn operand(&self, id: NodeId, slot: usize) -> Option<ValueRef> {
        self.nodes
            .edges_directed(id, Direction::Incoming)
            .find(|e| e.weight().to_slot == slot)
            .map(|e| ValueRef { node: e.source(), slot: e.weight().from_slot })
    }

    /// The uses of a value as an operand, as (node, input slot), in a stable order.
    pub fn uses(&self, value: ValueRef) -> Vec<(NodeId, usize)> {
        let mut out: Vec<(NodeId, usize)> = self
            .nodes
            .edges_directed(value.node, Direction::Outgoing)
            .filter(|e| e.weight().from_slot == value.slot)
            .map(|e| (e.target(), e.weight().to_slot))
            .collect();
        out.sort_unstable();
        out
    }

    /// Whether a value is a graph output.
    pub fn is_output(&self, value: ValueRef) -> bool {
        self.outputs.iter().any(|o| o.value == value)
    }

    /// The only use of a value, when it has one and is no graph output.
    pub fn single_use(&self, value: ValueRef) -> Option<(NodeId, usize)> {
        match (self.uses(value).as_slice(), self.is_output(value)) {
            ([one], false) => Some(*one),
            _ => None,
        }
    }

    /// Every node, in the order in which they were added.
    pub fn node_ids(&self) -> Vec<NodeId> {
        let mut out: Vec<NodeId> = self.nodes.node_indices().collect();
        out.sort_by_key(|n| self.nodes[*n].serial);
        out
    }

    /// The operator nodes so that each comes after its operands, first added first among those that could come next; the same
    /// graph always gives the same order. `None` when there is a cycle.
    pub fn try_schedule(&self) -> Option<Vec<NodeId>> {
        let mut missing: BTreeMap<NodeId, usize> =
            self.nodes.node_indices().map(|n| (n, self.nodes.edges_directed(n, Direction::Incoming).count())).collect();
        let ticket = |n: NodeId| Reverse((self.nodes[n].serial, n));
        let mut ready: BinaryHeap<Reverse<(u64, NodeId)>> =
            missing.iter().filter(|(_, m)| **m == 0).map(|(n, _)| ticket(*n)).collect();
        let mut order = Vec::with_capacity(missing.len());
        while let Some(Reverse((_, n))) = ready.pop() {
            order.push(n);
            for e in self.nodes.edges_directed(n, Direction::Outgoing) {
                let left = missing.get_mut(&e.target()).expect("every node was counted");
                *left -= 1;
                if *left == 0 {
                    ready.push(ticket(e.target()));
                }
            }
        }
        let complete = order.len() == missing.len();
        order.retain(|n| self.nodes[*n].op().is_some());
        complete.then_some(order)
    }

    /// As [`Graph::try_schedule`].
    ///
    /// # Panics
    /// When there is a cycle, which the verifier excludes.
    pub fn schedule(&self) -> Vec<NodeId> {
        self.try_schedule().expect("a verified graph has no cycle")
    }
}
