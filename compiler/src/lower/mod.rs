//! Lowering: a graph becomes the steps, values and constants of a plan.
//!
//! Steps come in the graph's own deterministic schedule, so that the same graph always gives the same plan. Reshapes and
//! identities become aliases, not steps; constants keep their storage type, and those that nothing reads stay behind. What the
//! device cannot do is refused here, every offending node named at once.
//!
//! Must not know: ONNX, files, how the graph was optimised.

mod cuda;
mod refusal;
mod twin;
mod variants;

use slidec_kernels::{CompileError, Compiler};
use sliderun::op::Op;
use sliderun::plan::cuda::{CudaPlan, Module, Variant};
use sliderun::plan::manifest::{Manifest, Output, Program, Provenance, Step, Storage, SymbolRange, Value, ValueId, Verdict};
use sliderun::plan::{Architecture, PlanWriter};
use std::collections::{BTreeSet, HashMap};

use crate::ir::{Graph, NodeId, NodeKind, ValueRef};
use crate::options::Variants;
use cuda::Schedule;
pub use cuda::{Missed, missed};
pub(crate) use refusal::attribute_symbols;
pub use refusal::{LowerErrors, Refusal};
pub use variants::Costs;
use variants::{Proposal, Proposals, propose};

/// A plan before it is written.
pub struct Lowered {
    /// Everything but the blobs' places and digests, which the writer knows.
    pub manifest: Manifest,
    /// The constant data; equal constants are stored once.
    pub writer: PlanWriter<'static>,
}

impl Lowered {
    /// Compiles the kernels of the program for GPUs, whose source [`lower_cuda`] gave, for each architecture.
    ///
    /// # Errors
    /// What NVRTC does not compile, which is a defect of the kernels, and architectures that it does not know.
    pub fn add_kernels(&mut self, compiler: &Compiler, source: &str, architectures: &[Architecture]) -> Result<(), CompileError> {
        for &architecture in architectures {
            let cubin = self.writer.add_blob(bytes::Bytes::from(compiler.compile(source, architecture)?));
            if let Some(cuda) = &mut self.manifest.cuda {
                cuda.modules.push(Module { architecture, cubin });
            }
        }
        Ok(())
    }
}

/// Lowers a verified graph for the CPU device.
///
/// # Errors
/// Every node that the device cannot run and every extent that no input determines, all at once.
pub fn lower(graph: &Graph, provenance: Provenance, verdicts: Vec<Verdict>) -> Result<Lowered, LowerErrors> {
    let mut writer = PlanWriter::new();
    let program = program(graph, &mut writer)?;
    let symbols = symbols(graph, &program);
    Ok(Lowered { manifest: Manifest { provenance, symbols, program, blobs: Vec::new(), verdicts, cuda: None }, writer })
}

/// Adds the program that NVIDIA GPUs run to a plan, in the variants that are wanted; gives the source of its kernels, whose
/// cubins the plan still lacks.
///
/// # Errors
/// As [`lower`], of what the GPU's kernels cannot do.
pub fn lower_cuda(graph: &Graph, lowered: &mut Lowered, costs: &Costs, wanted: Variants) -> Result<String, LowerErrors> {
    let program = program(graph, &mut lowered.writer)?;
    let manifest = &mut lowered.manifest;
    let one = wanted == Variants::One;
    let Proposals { variants, rows } = propose(program, costs, one, &manifest.symbols, &mut manifest.verdicts);
    let mut schedule = Schedule::default();
    let schedule_one = |Proposal { name, from, mut program }: Proposal| {
        cuda::order(&mut program);
        let launches = schedule.add(&program).map_err(LowerErrors)?;
        Ok(Variant { name: name.to_owned(), from, program, launches })
    };
    let variants = variants.into_iter().map(schedule_one).collect::<Result<_, _>>()?;
    manifest.cuda = Some(CudaPlan { variants, rows, modules: Vec::new() });
    Ok(schedule.source())
}

/// A graph's steps, values and constants, the latter's data in `writer`.
fn program(graph: &Graph, writer: &mut PlanWriter<'static>) -> Result<Program, LowerErrors> {
    let live = live_nodes(graph);
    let refusals = refusal::refusals(graph, &live);
    if !refusals.is_empty() {
        return Err(LowerErrors(refusals));
    }
    let mut emitter = Emitter::new(graph, writer);
    for &input in graph.inputs() {
        let id = emitter.add_value(ValueRef { node: input, slot: 0 }, Storage::Input);
        emitter.inputs.push(id);
    }
    let schedule: Vec<NodeId> = graph.schedule().into_iter().filter(|n| live.contains(n)).collect();
    for &node in &schedule {
        for operand in graph.operands(node).into_iter().flatten() {
            emitter.place_constant(operand);
        }
        emitter.emit(node);
    }
    for output in &graph.outputs {
        emitter.place_constant(output.value);
        let value = emitter.ids[&output.value];
        emitter.outputs.push(Output { name: output.name.clone(), value });
    }
    Ok(Program { values: emitter.values, inputs: emitter.inputs, outputs: emitter.outputs, steps: emitter.steps })
}

/// The symbols that a program mentions, with their ranges.
fn symbols(graph: &Graph, program: &Program) -> Vec<SymbolRange> {
    let mut mentioned = BTreeSet::new();
    for dim in program.values.iter().flat_map(|v| &v.ty.shape) {
        dim.symbols(&mut mentioned);
    }
    for step in &program.steps {
        refusal::attribute_symbols(&step.op, &mut mentioned);
    }
    let range =
        |name: String| graph.symbols.get(&name).cloned().unwrap_or(SymbolRange { name, min: 1, max: i64::from(i32::MAX) });
    mentioned.into_iter().map(range).collect()
}

/// The nodes that the graph's outputs depend on, and the inputs.
fn live_nodes(graph: &Graph) -> BTreeSet<NodeId> {
    let mut live: BTreeSet<NodeId> = graph.inputs().iter().copied().collect();
    let mut stack: Vec<NodeId> = graph.outputs.iter().map(|o| o.value.node).collect();
    while let Some(node) = stack.pop() {
        if live.insert(node) {
            stack.extend(graph.operands(node).into_iter().flatten().map(|v| v.node));
        }
    }
    live
}

struct Emitter<'g> {
    graph: &'g Graph,
    writer: &'g mut PlanWriter<'static>,
    ids: HashMap<ValueRef, ValueId>,
    values: Vec<Value>,
    inputs: Vec<ValueId>,
    outputs: Vec<Output>,
    steps: Vec<Step>,
    step_names: BTreeSet<String>,
}

impl<'g> Emitter<'g> {
    fn new(graph: &'g Graph, writer: &'g mut PlanWriter<'static>) -> Self {
        Emitter {
            graph,
            writer,
            ids: HashMap::new(),
            values: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            steps: Vec::new(),
            step_names: BTreeSet::new(),
        }
    }

    fn add_value(&mut self, value: ValueRef, storage: Storage) -> ValueId {
        let id = ValueId(u32::try_from(self.values.len()).expect("a graph in memory has fewer than 2^32 values"));
        let output = self.graph.output(value);
        self.values.push(Value { name: output.name.clone(), ty: output.ty.clone(), storage, from_model: output.from_model });
        self.ids.insert(value, id);
        id
    }

    /// Gives a constant its value and blob when it is first read; other values are left alone.
    fn place_constant(&mut self, value: ValueRef) {
        let Some(constant) = self.graph.constant(value) else { return };
        if self.ids.contains_key(&value) {
            return;
        }
        let blob = self.writer.add_blob(constant.data.clone());
        self.add_value(value, Storage::Constant(blob));
    }

    fn emit(&mut self, id: NodeId) {
        let node = self.graph.node(id);
        let NodeKind::Op(op) = &node.kind else { return };
        let inputs: Vec<Option<ValueId>> = self.graph.operands(id).into_iter().map(|v| v.map(|v| self.ids[&v])).collect();
        if let (Op::Reshape(_) | Op::Identity(_), [Some(source), ..]) = (op, inputs.as_slice()) {
            self.add_value(ValueRef { node: id, slot: 0 }, Storage::Alias(self.root(*source)));
            return;
        }
        let outputs =
            (0..node.outputs.len()).map(|slot| self.add_value(ValueRef { node: id, slot }, Storage::Computed)).collect();
        let name = self.unique_step_name(&node.name);
        self.steps.push(Step { name, op: op.clone(), inputs, outputs, origin: node.origin.iter().cloned().collect() });
    }

    /// The value that holds the elements of `id`.
    fn root(&self, id: ValueId) -> ValueId {
        match self.values[id.0 as usize].storage {
            Storage::Alias(of) => of,
            _ => id,
        }
    }

    fn unique_step_name(&mut self, base: &str) -> String {
        let mut name = base.to_owned();
        let mut n = 1;
        while !self.step_names.insert(name.clone()) {
            name = format!("{base}.{n}");
            n += 1;
        }
        name
    }
}

#[cfg(test)]
mod tests;
