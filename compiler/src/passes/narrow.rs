//! `narrow`: on CUDA devices, f32 values are held in 16 bits where that costs no more than the precision asked for does.
//!
//! Kernels there compute in f32 whatever they load and store, and tensor cores multiply 16-bit floats. Beside 8-bit products every value is
//! held in 16 bits, which moves half the bytes. Beside 16-bit products only what tensor cores multiply is, what is moved about before that,
//! masks, and what operators give that have no other results (MatMul, Conv, Attention, sparse products): sums, residuals and norms would
//! otherwise be rounded as often again as the operands are, and the plan twice as far from the model (measured on a BERT: 1.2e-2 where
//! rounding the operands alone costs 5.8e-3). Always f32: graph inputs and outputs, scales, what an operator wants in f32, and angles and what
//! is compared or made an integer (positions), of which 16 bits would keep too little.

use half::{bf16, f16};
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::elementwise::{Cast, Unary};
use sliderun::op::sparse::{DenseGemm, Dequant, SparseGemm};
use std::collections::{BTreeMap, BTreeSet};

use super::rewrite::emit;
use super::{Pass, PassContext, PassError};
use crate::ir::{Constant, Graph, NodeId, ValueRef};
use crate::options::{CompileOptions, Precision};

/// The pass.
pub const PASS: Pass = Pass {
    name: "narrow",
    summary: "for CUDA devices alone: hold f32 values as bf16 (f16 with --precision fp16, f32 with f32)",
    run,
};

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    let Some(to) = held_as(context.options) else { return Ok(()) };
    let (angles, masks, compared) = (angles(graph), masks(graph), compared(graph));
    let of_multiplied = match context.options.precision {
        Precision::Int8 | Precision::Fp8 => None,
        _ => Some(multiplied(graph)),
    };
    let mut narrower = Narrower { graph, to, of_multiplied, masks, compared, known: BTreeMap::new() };
    let mut done = 0;
    for id in narrower.graph.schedule() {
        if narrower.graph.node(id).op().is_some() && !angles.contains(&id) && narrower.takes_part(id) && narrower.narrow(id)? {
            done += 1;
        }
    }
    if done > 0 {
        context.report.did(["the whole graph"], format!("{done} operators hold their results as {to}"));
    }
    Ok(())
}

/// What f32 values are held as; `None` where they stay what they are.
pub fn held_as(options: &CompileOptions) -> Option<DType> {
    match options.precision {
        _ if !options.for_cuda() => None,
        Precision::F32 => None,
        Precision::F16 => Some(DType::F16),
        Precision::Auto | Precision::Bf16 | Precision::Int8 | Precision::Fp8 => Some(DType::Bf16),
    }
}

/// The operators that angles are computed with: what leads to a sine or cosine, back to where numbers are of a model's making anyway.
fn angles(graph: &Graph) -> BTreeSet<NodeId> {
    let functions = |id: &NodeId| matches!(graph.node(*id).op(), Some(Op::Unary(Unary::Sin | Unary::Cos | Unary::Tan)));
    let mut open: Vec<NodeId> = graph.node_ids().into_iter().filter(functions).collect();
    for id in graph.node_ids() {
        if let Some(Op::Rotary(_)) = graph.node(id).op() {
            open.extend([1, 2].into_iter().filter_map(|slot| graph.operand(id, slot)).map(|v| v.node));
        }
    }
    leading_to(graph, open)
}

/// The operators that additive masks of scores are computed with: rounded from their constants on, the large negative numbers stay finite, where a
/// rounded sum would not.
fn masks(graph: &Graph) -> BTreeSet<NodeId> {
    let mask = |id: &NodeId| matches!(graph.node(*id).op(), Some(Op::Attention(_))).then(|| graph.operand(*id, 3)).flatten();
    let additive = |v: &ValueRef| graph.ty(*v).dtype == DType::F32;
    leading_to(graph, graph.node_ids().iter().filter_map(mask).filter(additive).map(|v| v.node).collect())
}

/// The operators that make truths or integers of f32 numbers, and those that such numbers (positions, say) are computed with where no product,
/// norm or attention comes in: equal numbers must stay equal and others apart, which rounding would not leave them beyond 256.
fn compared(graph: &Graph) -> BTreeSet<NodeId> {
    let dtypes = |values: Vec<ValueRef>| values.into_iter().map(|v| graph.ty(v).dtype).collect::<Vec<_>>();
    let compares = |id: &NodeId| {
        let read = dtypes(graph.operands(*id).into_iter().flatten().collect());
        let given = dtypes((0..graph.node(*id).outputs.len()).map(|slot| ValueRef { node: *id, slot }).collect());
        read.contains(&DType::F32) && !given.iter().any(|dtype| dtype.is_float())
    };
    let mut of_model = BTreeSet::new();
    for id in graph.schedule() {
        let multiplies = matches!(graph.node(id).op(), Some(Op::MatMul(_) | Op::Gemm(_) | Op::Einsum(_) | Op::Conv(_)));
        if multiplies || makes(graph, id) || graph.operands(id).into_iter().flatten().any(|v| of_model.contains(&v.node)) {
            of_model.insert(id);
        }
    }
    let comparisons: Vec<NodeId> = graph.node_ids().into_iter().filter(compares).collect();
    let mut found = leading_to(graph, comparisons.clone());
    found.retain(|id| !of_model.contains(id));
    found.extend(comparisons);
    found
}

/// These operators and what leads to them, back to where numbers are of a model's making.
fn leading_to(graph: &Graph, mut open: Vec<NodeId>) -> BTreeSet<NodeId> {
    let mut found = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !makes(graph, id) && found.insert(id) {
            open.extend(graph.operands(id).into_iter().flatten().map(|v| v.node));
        }
    }
    found
}

/// Whether an operator's results are numbers of a model's making, neither positions nor angles.
fn makes(graph: &Graph, id: NodeId) -> bool {
    matches!(
        graph.node(id).op(),
        Some(
            Op::LayerNorm(_)
                | Op::RmsNorm(_)
                | Op::Softmax(_)
                | Op::Attention(_)
                | Op::Dequant(_)
                | Op::SparseGemm(_)
                | Op::DenseGemm(_)
        )
    )
}

/// Whether an operator multiplies on tensor cores, or rounds its first operand for an operator that does.
fn multiplies(op: &Op) -> bool {
    match op {
        Op::QuantLift(lift) => matches!(lift.to, DType::F16 | DType::Bf16),
        op => matches!(op, Op::Attention(_) | Op::MatMul(_) | Op::Conv(_)),
    }
}

/// Whether an operator's results are elements of its operands, or padding.
fn moves(op: &Op) -> bool {
    op.moves_elements() || matches!(op, Op::Pad(_))
}

/// The operators whose results are read by nothing but operators that multiply, at once or after they were moved about.
fn multiplied(graph: &Graph) -> BTreeSet<NodeId> {
    let mut found = BTreeSet::new();
    for id in graph.schedule().into_iter().rev() {
        let reads = |&(reader, slot): &(NodeId, usize)| {
            let op = graph.node(reader).op();
            op.is_some_and(|op| !keeps(op, slot) && (multiplies(op) || moves(op) && found.contains(&reader)))
        };
        let fits = |slot: usize| {
            let (value, uses) = (ValueRef { node: id, slot }, graph.uses(ValueRef { node: id, slot }));
            !graph.is_output(value) && uses.iter().all(reads)
        };
        if (0..graph.node(id).outputs.len()).all(fits) {
            found.insert(id);
        }
    }
    found
}

struct Narrower<'g> {
    graph: &'g mut Graph,
    to: DType,
    /// See [`multiplied`]; `None` where everything is held in 16 bits.
    of_multiplied: Option<BTreeSet<NodeId>>,
    /// See [`masks`].
    masks: BTreeSet<NodeId>,
    /// See [`compared`].
    compared: BTreeSet<NodeId>,
    /// f32 values and what holds them in 16 bits.
    known: BTreeMap<ValueRef, ValueRef>,
}

impl Narrower<'_> {
    /// Whether an operator's results may be held in 16 bits.
    fn takes_part(&self, id: NodeId) -> bool {
        if self.compared.contains(&id) && !self.masks.contains(&id) {
            return false;
        }
        let (Some(of_multiplied), Some(op)) = (&self.of_multiplied, self.graph.node(id).op()) else { return true };
        match op {
            _ if self.masks.contains(&id) => true,
            // Its library rounds the sums to what it multiplied.
            Op::SparseGemm(_) => true,
            op if multiplies(op) => true,
            // What only moves 16-bit values, or reads nothing else and is rounded by its readers, loses nothing.
            op if moves(op) => of_multiplied.contains(&id) || self.reads_narrow(id, op),
            Op::Cast(_) | Op::DenseGemm(_) | Op::Dequant(_) => of_multiplied.contains(&id),
            op => of_multiplied.contains(&id) && self.reads_narrow(id, op),
        }
    }

    /// Whether all that an operator reads, but what it wants in f32, is held in 16 bits.
    fn reads_narrow(&self, id: NodeId, op: &Op) -> bool {
        let narrow = |(slot, v): (usize, Option<ValueRef>)| v.is_none_or(|v| keeps(op, slot) || self.known.contains_key(&v));
        self.graph.operands(id).into_iter().enumerate().all(narrow)
    }

    /// Puts an operator on 16-bit operands and results beside one on f32, whose users it leaves a Cast back; those that are narrowed
    /// later pass it by. Says whether there was anything to do.
    fn narrow(&mut self, id: NodeId) -> Result<bool, PassError> {
        let node = self.graph.node(id);
        let (name, origin, form) = (node.name.clone(), node.origin.clone(), node.form);
        let operands = self.graph.operands(id);
        let first = operands.first().copied().flatten().map(|v| self.graph.ty(v).dtype);
        let Some(op) = node.op().and_then(|op| self.narrowed(op, first)) else { return Ok(false) };
        let wide = |graph: &Graph, v: ValueRef| graph.ty(v).dtype == DType::F32;
        let reads = operands.iter().flatten().any(|v| wide(self.graph, *v) || self.known.contains_key(v));
        let outputs: Vec<ValueRef> = (0..self.graph.node(id).outputs.len()).map(|slot| ValueRef { node: id, slot }).collect();
        let gives = outputs.iter().any(|v| wide(self.graph, *v));
        if !reads && !gives && Some(&op) == self.graph.node(id).op() {
            return Ok(false);
        }
        let compared = self.compared.contains(&id);
        if compared && !gives {
            return Ok(false);
        }
        // It already rounds what it reads, and to this type.
        if let (Op::QuantLift(lift), Some(Some(x))) = (&op, operands.first())
            && lift.to == self.to
            && lift.layout.is_dense()
            && operands.len() == 1
        {
            let x = self.held(*x)?;
            self.graph.replace_uses(outputs[0], x);
            return Ok(true);
        }
        let mut held = Vec::with_capacity(operands.len());
        for (slot, operand) in operands.into_iter().enumerate() {
            held.push(match operand {
                Some(v) if keeps(&op, slot) => Some(v),
                // These read f32 as well as 16 bits.
                Some(v) if matches!(op, Op::QuantLift(_) | Op::Dequant(_)) => Some(self.known.get(&v).copied().unwrap_or(v)),
                Some(v) if wide(self.graph, v) => Some(self.held(v)?),
                v => v,
            });
        }
        // Not every operator takes every type: those stay.
        let Ok(new) = self.graph.add_op(&name, op, &held) else { return Ok(false) };
        self.graph.add_origin(new, origin);
        self.graph.set_form(new, form);
        for old in outputs {
            let value = ValueRef { node: new, slot: old.slot };
            // A mask that is compared too: those who compare go on reading the f32 one.
            if compared {
                self.known.insert(old, value);
                continue;
            }
            let before = self.graph.output(old).clone();
            self.graph.name_value(old, &format!("{}.f32", before.name), false);
            self.graph.name_value(value, &before.name, before.from_model);
            if self.graph.ty(value).dtype == before.ty.dtype {
                self.graph.replace_uses(old, value);
                continue;
            }
            let back = emit(self.graph, &format!("{name}/f32"), Cast { to: before.ty.dtype }, &[value])?;
            self.graph.add_origin(back.node, self.graph.node(new).origin.clone());
            self.graph.replace_uses(old, back);
            self.known.insert(back, value);
        }
        Ok(true)
    }

    /// The operator with 16-bit results where it decides on their type, given that of its first operand; `None` where f32 it must be.
    fn narrowed(&self, op: &Op, first: Option<DType>) -> Option<Op> {
        let to = self.to;
        let narrow = |dtype: DType| if dtype == DType::F32 { to } else { dtype };
        let byte = matches!(first, Some(DType::I8 | DType::F8e4m3));
        Some(match op {
            Op::Cast(cast) => Cast { to: narrow(cast.to) }.into(),
            Op::Dequant(dequant) => Dequant { to: narrow(dequant.to), ..*dequant }.into(),
            // Sums of numbers that are not scaled back yet are beyond the range of f16, and cuBLASLt gives those of integers whole.
            Op::SparseGemm(_) | Op::DenseGemm(_) if byte && to == DType::F16 => return None,
            Op::DenseGemm(_) if first == Some(DType::I8) => return None,
            Op::SparseGemm(gemm) => SparseGemm { to: Some(to), ..gemm.clone() }.into(),
            Op::DenseGemm(_) => DenseGemm { to: Some(to) }.into(),
            Op::Range(_) | Op::Extents(_) => return None,
            op => op.clone(),
        })
    }

    /// A value in 16 bits.
    fn held(&mut self, value: ValueRef) -> Result<ValueRef, PassError> {
        if let Some(known) = self.known.get(&value) {
            return Ok(*known);
        }
        let name = self.graph.output(value).name.clone();
        let held = match self.graph.constant(value) {
            Some(constant) => {
                let constant = narrow_constant(constant, self.to);
                self.graph.add_constant(&format!("{name}.{}", self.to), constant)
            }
            None => emit(self.graph, &format!("{name}.{}", self.to), Cast { to: self.to }, &[value])?,
        };
        self.known.insert(value, held);
        Ok(held)
    }
}

/// Whether an operator wants this operand in f32.
fn keeps(op: &Op, slot: usize) -> bool {
    match op {
        Op::Dequant(_) => slot > 0,
        // Cosines and sines.
        Op::Resize(_) | Op::Rotary(_) => slot > 0,
        _ => false,
    }
}

/// Rounded half to even; what is finite stays so, as the large negative numbers of masks want.
fn narrow_constant(constant: &Constant, to: DType) -> Constant {
    let elements = constant.data.chunks_exact(4).map(bytemuck::pod_read_unaligned::<f32>);
    let within = |v: f32, limit: f32| if v.is_finite() { v.clamp(-limit, limit) } else { v };
    let data: Vec<u8> = if to == DType::F16 {
        elements.flat_map(|v| f16::from_f32(within(v, f16::MAX.to_f32())).to_le_bytes()).collect()
    } else {
        elements.flat_map(|v| bf16::from_f32(within(v, bf16::MAX.to_f32())).to_le_bytes()).collect()
    };
    Constant { dtype: to, shape: constant.shape.clone(), data: data.into() }
}
