//! What an importer sees of its node, and how it adds to the graph.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::{Op, TensorType};
use std::cell::RefCell;
use std::collections::BTreeSet;

use super::Imported;
use super::error::Refusal;
use super::operands::constant_from_f64;
use super::shape_values::Known;
use super::translate::{Building, Frame};
use crate::ir::{Constant, ValueRef};
use crate::onnx::OnnxModel;
use crate::onnx::proto::{GraphProto, NodeProto};

/// One node being imported: its operands and attributes, and the graph to add to.
pub struct NodeContext<'a> {
    pub(super) model: &'a OnnxModel,
    pub(super) building: &'a mut Building,
    pub(super) frame: &'a Frame,
    pub(super) node: &'a NodeProto,
    pub(super) name: &'a str,
    pub(super) opset: i64,
    pub(super) inputs: &'a [Option<ValueRef>],
    /// Positions of the attributes that were asked for.
    pub(super) read: RefCell<BTreeSet<usize>>,
    /// Operators added so far.
    pub(super) added: usize,
}

impl NodeContext<'_> {
    /// The operator's name in its domain.
    pub fn op_type(&self) -> &str {
        self.node.op_type()
    }

    /// The version of the operator's domain.
    pub fn opset(&self) -> i64 {
        self.opset
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Number of operands that the node lists, counting absent ones.
    pub fn arity(&self) -> usize {
        self.inputs.len()
    }

    /// Operand `i`.
    ///
    /// # Errors
    /// When it is absent.
    pub fn input(&self, i: usize) -> Result<ValueRef, Refusal> {
        self.optional(i).ok_or_else(|| Refusal::new(format!("input {i} is missing")))
    }

    /// Operand `i`, when present.
    pub fn optional(&self, i: usize) -> Option<ValueRef> {
        self.inputs.get(i).copied().flatten()
    }

    /// Every operand.
    ///
    /// # Errors
    /// When one is absent.
    pub fn inputs(&self) -> Result<Vec<ValueRef>, Refusal> {
        (0..self.arity()).map(|i| self.input(i)).collect()
    }

    /// The model's name of operand `i`.
    pub fn input_name(&self, i: usize) -> &str {
        self.node.input.get(i).map_or("", String::as_str)
    }

    /// Number of outputs that the node lists, counting absent ones.
    pub fn output_count(&self) -> usize {
        self.node.output.len()
    }

    /// Whether the node has output `i`.
    pub fn wants_output(&self, i: usize) -> bool {
        self.node.output.get(i).is_some_and(|name| !name.is_empty())
    }

    /// Type of a value.
    pub fn ty(&self, value: ValueRef) -> &TensorType {
        self.building.graph.ty(value)
    }

    /// Extents of a value.
    pub fn shape(&self, value: ValueRef) -> Vec<Dim> {
        self.ty(value).shape.clone()
    }

    /// Number of axes of a value.
    pub fn rank(&self, value: ValueRef) -> usize {
        self.ty(value).rank()
    }

    /// Element type of a value.
    pub fn dtype(&self, value: ValueRef) -> DType {
        self.ty(value).dtype
    }

    /// The constant behind a value, when it is one.
    pub fn constant(&self, value: ValueRef) -> Option<&Constant> {
        self.building.graph.constant(value)
    }

    /// The symbolic elements of a small tensor, when they do not depend on data.
    pub(super) fn known_values(&self, value: ValueRef) -> Option<Known> {
        self.building.known(value)
    }

    /// The least and the largest value that an expression can have within the ranges of its symbols, as far as that is known.
    pub fn bounds(&self, dim: &Dim) -> (Option<i64>, Option<i64>) {
        self.building.bounds(dim)
    }

    /// Adds an operator of one result whose operands are all present.
    ///
    /// # Errors
    /// Operands that the operator cannot have.
    pub fn add(&mut self, op: impl Into<Op>, inputs: &[ValueRef]) -> Result<ValueRef, Refusal> {
        let inputs: Vec<Option<ValueRef>> = inputs.iter().copied().map(Some).collect();
        self.add_optional(op, &inputs)
    }

    /// Adds an operator of one result.
    ///
    /// # Errors
    /// Operands that the operator cannot have.
    pub fn add_optional(&mut self, op: impl Into<Op>, inputs: &[Option<ValueRef>]) -> Result<ValueRef, Refusal> {
        let outputs = self.add_all(op, inputs)?;
        outputs.first().copied().ok_or_else(|| Refusal::new("the operator has no output"))
    }

    /// Adds an operator; gives all its results. What is known when compiling is computed right away: the results may be constants, or
    /// operands of the operator itself where it changes nothing.
    ///
    /// # Errors
    /// Operands that the operator cannot have.
    pub fn add_all(&mut self, op: impl Into<Op>, inputs: &[Option<ValueRef>]) -> Imported {
        let name = match self.added {
            0 => self.name.to_owned(),
            n => format!("{}.{n}", self.name),
        };
        self.added += 1;
        Ok(self.building.add(&name, self.name, op.into(), inputs)?)
    }

    /// Adds a constant.
    pub fn add_constant(&mut self, constant: Constant) -> ValueRef {
        self.building.add_constant(self.name, constant)
    }

    /// Adds a constant of rank 0, converted to `dtype`.
    ///
    /// # Errors
    /// A type that numbers cannot be converted to.
    pub fn scalar(&mut self, dtype: DType, value: f64) -> Result<ValueRef, Refusal> {
        let constant = constant_from_f64(dtype, &[], &[value])?;
        Ok(self.add_constant(constant))
    }

    /// Imports a subgraph that runs unconditionally, with the names of the graphs around it in scope; gives its outputs.
    ///
    /// # Errors
    /// When something in it is not supported (which has been reported then).
    pub fn inline(&mut self, graph: &GraphProto) -> Imported {
        self.building.inline_graph(self.model, self.frame, self.name, graph)
    }
}
