//! A range of a walk's steps as a graph of its own: what it reads of what was there before are inputs, what is wanted afterwards are outputs.
//!
//! Must not know: how such a graph is run.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::TensorType;
use sliderun::plan::manifest::SymbolRange;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::walk::Walk;
use crate::ir::{Graph, GraphOutput, NodeId, ValueRef};
use crate::lower::attribute_symbols;

/// See the module documentation. Operators, constants and types are those of the graph that it is cut from.
pub(super) struct Cut {
    pub graph: Graph,
    /// Values that it reads, with the names of its inputs.
    pub inputs: Vec<(ValueRef, String)>,
    /// Symbols that are no extent of these, with the names of inputs that have one extent, which is the symbol, and are not read.
    pub extents: Vec<(String, String)>,
    /// The values that its outputs stand for, in the order of the steps.
    pub outputs: Vec<ValueRef>,
}

impl Cut {
    /// The steps of a range. Outputs are those of its values that are wanted after it, and those that `seen` names.
    pub fn new(graph: &Graph, walk: &Walk, range: Range<usize>, seen: &BTreeSet<ValueRef>) -> Cut {
        let end = range.end;
        let mut cut = Cut { graph: Graph::new(), inputs: Vec::new(), extents: Vec::new(), outputs: Vec::new() };
        let mut places: BTreeMap<ValueRef, ValueRef> = BTreeMap::new();
        for at in range {
            let node = walk.steps()[at];
            let operands: Vec<Option<ValueRef>> =
                graph.operands(node).into_iter().map(|v| v.map(|v| cut.place(graph, &mut places, v))).collect();
            cut.add(graph, node, &operands, &mut places);
            for value in walk.results(at) {
                if walk.outlives(value, end) || seen.contains(&value) {
                    let name = cut.graph.output(places[&value]).name.clone();
                    cut.graph.outputs.push(GraphOutput { name, value: places[&value] });
                    cut.outputs.push(value);
                }
            }
        }
        cut.bind_extents();
        cut
    }

    /// Where an operand is in the cut: an input or a constant when no step of the range computes it.
    fn place(&mut self, graph: &Graph, places: &mut BTreeMap<ValueRef, ValueRef>, value: ValueRef) -> ValueRef {
        *places.entry(value).or_insert_with(|| {
            let output = graph.output(value);
            match graph.constant(value) {
                Some(constant) => self.graph.add_constant(&output.name, constant.clone()),
                None => {
                    let input = self.graph.add_input(&output.name, output.ty.clone());
                    self.inputs.push((value, self.graph.output(input).name.clone()));
                    input
                }
            }
        })
    }

    fn add(&mut self, graph: &Graph, id: NodeId, operands: &[Option<ValueRef>], places: &mut BTreeMap<ValueRef, ValueRef>) {
        let node = graph.node(id);
        let op = node.op().expect("walks have operators only").clone();
        let new = self.graph.insert_op(&node.name, op, operands, node.outputs.clone());
        places.extend((0..node.outputs.len()).map(|slot| (ValueRef { node: id, slot }, ValueRef { node: new, slot })));
    }

    /// Gives every symbol an input that tells its value: the range may read values whose extents do not.
    fn bind_extents(&mut self) {
        let (mut mentioned, mut told) = (BTreeSet::new(), BTreeSet::new());
        for id in self.graph.node_ids() {
            let node = self.graph.node(id);
            node.outputs.iter().flat_map(|o| &o.ty.shape).for_each(|d| d.symbols(&mut mentioned));
            node.op().into_iter().for_each(|op| attribute_symbols(op, &mut mentioned));
        }
        for id in self.graph.inputs() {
            let ty = self.graph.ty(ValueRef { node: *id, slot: 0 });
            told.extend(ty.shape.iter().filter_map(Dim::as_symbol).map(str::to_owned));
        }
        for symbol in &mentioned {
            // Samples need not keep to the range that the plan is compiled for.
            let range = SymbolRange { name: symbol.clone(), min: 1, max: i64::from(i32::MAX) };
            self.graph.symbols.insert(symbol.clone(), range);
        }
        for symbol in mentioned.difference(&told) {
            let ty = TensorType::new(DType::Bool, [Dim::symbol(symbol)]);
            let input = self.graph.add_input(&format!("extent {symbol}"), ty);
            self.extents.push((symbol.clone(), self.graph.output(input).name.clone()));
        }
    }
}
