//! The dense twin of a program's sparse products: the same weights written out, on activations that are not lifted.
//!
//! Products that read one lifted activation become dense together or not at all. Sums are the same: a twin's int8 accumulators
//! are those of the sparse product, which its library rounds and cuBLASLt gives whole.
//!
//! Must not know: what products cost, who wants which.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::sparse::DenseGemm;
use sliderun::plan::cuda::library_multiple;
use sliderun::plan::manifest::{Expanded, Program, Storage, Value, ValueId};
use sliderun::sparse::Pattern;
use std::collections::BTreeSet;

/// A lifted activation and the sparse products that read it, as positions of steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The step that lifts.
    pub lift: usize,
    /// The products' steps.
    pub products: Vec<usize>,
    /// Their output channels.
    pub n: Vec<usize>,
    /// Source K.
    pub k: usize,
    /// Rows of the activation.
    pub m: Dim,
    /// What is multiplied.
    pub input: DType,
    /// The pattern.
    pub pattern: Pattern,
}

/// The sparse products of a program that have a dense twin, by activation, in order.
pub fn groups(program: &Program) -> Vec<Group> {
    let outputs: BTreeSet<ValueId> = program.outputs.iter().map(|o| o.value).collect();
    // Values that must stay what they are: outputs, and what has another name.
    let aliased = program.values.iter().filter_map(|v| if let Storage::Alias(of) = v.storage { Some(of) } else { None });
    let fixed: BTreeSet<ValueId> = outputs.into_iter().chain(aliased).collect();
    (0..program.steps.len()).filter_map(|at| group(program, at, &fixed)).collect()
}

/// The positions of the steps that read a value, each with the operand's position.
fn readers(program: &Program, value: ValueId) -> impl Iterator<Item = (usize, usize)> + '_ {
    let operands =
        program.steps.iter().enumerate().flat_map(|(at, s)| s.inputs.iter().enumerate().map(move |(slot, v)| (at, slot, *v)));
    operands.filter(move |(.., v)| *v == Some(value)).map(|(at, slot, _)| (at, slot))
}

fn group(program: &Program, at: usize, fixed: &BTreeSet<ValueId>) -> Option<Group> {
    let step = &program.steps[at];
    let Op::QuantLift(lift) = &step.op else { return None };
    let pattern = lift.layout.single_pattern()?;
    let lifted = *step.outputs.first()?;
    let products: Vec<usize> = readers(program, lifted).map(|(reader, _)| reader).collect();
    let twins = products.iter().map(|&product| twin_extents(program, product, lifted, fixed)).collect::<Option<Vec<_>>>()?;
    let ty = &program.values[lifted.0 as usize].ty;
    let k = lift.layout.k();
    let fits = k.is_multiple_of(library_multiple(false, lift.to)) && !fixed.contains(&lifted) && !products.is_empty();
    let m = Dim::product(&ty.shape[..ty.rank().saturating_sub(1)]);
    fits.then_some(Group { lift: at, products, n: twins, k, m, input: lift.to, pattern })
}

/// The output channels of a product that can be dense: of a constant weight, of a size that cuBLASLt multiplies, whose sums,
/// where their type changes, are only scaled back.
fn twin_extents(program: &Program, product: usize, lifted: ValueId, fixed: &BTreeSet<ValueId>) -> Option<usize> {
    let step = &program.steps[product];
    let (Op::SparseGemm(op), [Some(x), Some(values), Some(positions)]) = (&step.op, &step.inputs[..]) else { return None };
    let constant = |v: &ValueId| matches!(program.values[v.0 as usize].storage, Storage::Constant(_));
    let input = program.values[lifted.0 as usize].ty.dtype;
    let n = program.values[values.0 as usize].ty.shape.first()?.as_usize()?;
    let out = *step.outputs.first()?;
    let scaled_back =
        || readers(program, out).all(|(reader, slot)| slot == 0 && matches!(program.steps[reader].op, Op::Dequant(_)));
    let whole = input != DType::I8 || op.to.is_none() || !fixed.contains(&out) && scaled_back();
    let fits = *x == lifted && constant(values) && constant(positions) && n.is_multiple_of(library_multiple(false, input));
    (fits && whole).then_some(n)
}

/// The program with the products of these groups dense.
pub fn dense(program: &Program, groups: &[&Group]) -> Program {
    let mut twin = program.clone();
    let mut names: BTreeSet<String> = twin.values.iter().map(|v| v.name.clone()).collect();
    let mut dropped = BTreeSet::new();
    for group in groups {
        for &product in &group.products {
            make_dense(&mut twin, product, group, &mut names);
        }
        let step = &mut twin.steps[group.lift];
        let ordered = step.inputs.get(1).copied().flatten().is_some();
        let (x, lifted) = (step.inputs[0].filter(|_| !ordered), step.outputs[0].0 as usize);
        if let Op::QuantLift(op) = &mut step.op {
            *op = op.dense_twin();
        }
        twin.values[lifted].ty.shape.pop();
        twin.values[lifted].ty.shape.push(group.k.into());
        // Nothing is left to do where it would round to the type that its operand has, in the order that this is in.
        if let Some(x) = x
            && twin.values[x.0 as usize].ty.dtype == group.input
        {
            let root = super::cuda::root(&twin, x);
            twin.values[lifted].storage = Storage::Alias(root);
            dropped.insert(group.lift);
        }
    }
    let mut at = 0;
    twin.steps.retain(|_| {
        at += 1;
        !dropped.contains(&(at - 1))
    });
    twin
}

/// Makes one product dense.
fn make_dense(program: &mut Program, at: usize, group: &Group, names: &mut BTreeSet<String>) {
    let step = &program.steps[at];
    let (Op::SparseGemm(op), [x, Some(values), Some(positions)]) = (&step.op, &step.inputs[..]) else { return };
    let (x, to, out) = (*x, op.to.filter(|_| group.input != DType::I8), step.outputs[0]);
    let [values, positions] = [values, positions].map(|v| &program.values[v.0 as usize]);
    let (Storage::Constant(of_values), Storage::Constant(of_positions)) = (values.storage, positions.storage) else { return };
    let mut weight = Value {
        name: format!("{}.expanded", values.name),
        ty: values.ty.clone(),
        storage: Storage::Expanded(Expanded { values: of_values, positions: of_positions, pattern: group.pattern }),
        from_model: false,
    };
    weight.ty.shape[1] = group.k.into();
    while !names.insert(weight.name.clone()) {
        weight.name.push('\'');
    }
    let id = ValueId(u32::try_from(program.values.len()).expect("a program in memory has fewer than 2^32 values"));
    program.values.push(weight);
    program.steps[at].op = DenseGemm { to }.into();
    program.steps[at].inputs = vec![x, Some(id)];
    if group.input == DType::I8 {
        program.values[out.0 as usize].ty.dtype = DType::I32;
    }
}
