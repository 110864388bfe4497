//! What a plan says for NVIDIA GPUs: programs of the same operators, with values in the device's precision, and how their steps are launched.
//!
//! Each program is one that the CPU can run too, which is how the GPU's results are checked. Cubins are machine code: unlike the rest of a
//! plan they cannot be checked, so that a plan with cubins is to be trusted like a program.

use serde::{Deserialize, Serialize};
use std::ops::Range;

use super::Architecture;
use super::manifest::{BlobId, Program, Storage, Value, ValueId};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::op::Op;
use crate::op::elementwise::Unary;

/// See the module documentation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CudaPlan {
    /// Ways to compute the same, at least one, whose products are sparse or dense.
    pub variants: Vec<Variant>,
    /// By which a variant is chosen: the rows of the products' activations.
    pub rows: Dim,
    /// The kernels of all variants, the same for several architectures.
    pub modules: Vec<Module>,
}

impl CudaPlan {
    /// The position of the variant that the compiler's cost model prefers for so many rows.
    pub fn preferred(&self, rows: u64) -> usize {
        let fitting = self.variants.iter().enumerate().filter_map(|(at, v)| Some((v.from.filter(|from| *from <= rows)?, at)));
        fitting.max().map_or(0, |(_, at)| at)
    }

    /// The position of the variant of that name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.variants.iter().position(|v| v.name == name)
    }

    /// From how many rows up to below how many, if to any, the cost model prefers a variant; none that it never prefers.
    pub fn range(&self, variant: &Variant) -> Option<(u64, Option<u64>)> {
        let from = variant.from?;
        Some((from, self.variants.iter().filter_map(|v| v.from).filter(|other| *other > from).min()))
    }
}

/// One way to compute what the plan does. All variants have the same inputs, outputs and weights, which quantizing and pruning have made
/// what they are; a sparse product and its dense twin give the same sums.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Unique name.
    pub name: String,
    /// From so many rows on the cost model prefers it, up to where another's begins; never where this is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// What is computed.
    pub program: Program,
    /// How, in order. Each step of the program is part of exactly one launch.
    pub launches: Vec<Launch>,
}

/// How much of the products with constant weights is sparse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct SparseShare {
    /// Products by cuSPARSELt.
    pub sparse: usize,
    /// Products with constant weights, sparse or not.
    pub products: usize,
    /// Of their multiplications over the source K, for equal numbers of rows, the part that the sparse ones stand for; 0 without products.
    pub of_work: f64,
}

impl Variant {
    /// How much of it is sparse.
    pub fn sparse_share(&self) -> SparseShare {
        let (mut share, mut work) = (SparseShare::default(), [0.0f64; 2]);
        for step in &self.program.steps {
            let extents = |slot: usize| -> Option<[f64; 2]> {
                let value = self.program.values.get((*step.inputs.get(slot)?)?.0 as usize)?;
                let constant = matches!(value.storage, Storage::Constant(_) | Storage::Expanded(_));
                let shape = value.ty.concrete_shape().filter(|shape| constant && shape.len() == 2)?;
                Some([shape[0] as f64, shape[1] as f64])
            };
            let (sparse, size) = match &step.op {
                Op::SparseGemm(op) => (true, extents(1).map(|[n, _]| n * op.layout.k() as f64)),
                Op::DenseGemm(_) | Op::MatMul(_) => (false, extents(1).map(|[n, k]| n * k)),
                _ => continue,
            };
            let Some(size) = size else { continue };
            share.products += 1;
            share.sparse += usize::from(sparse);
            work[usize::from(sparse)] += size;
        }
        let all = work[0] + work[1];
        share.of_work = if all > 0.0 { work[1] / all } else { 0.0 };
        share
    }

    /// Bytes of dense weights that are written out from compressed ones where this variant is used.
    pub fn expanded_bytes(&self) -> u64 {
        let bytes = |v: &Value| v.ty.concrete_shape().map_or(0, |s| (s.iter().product::<usize>() * v.ty.dtype.size()) as u64);
        self.program.values.iter().filter(|v| matches!(v.storage, Storage::Expanded(_))).map(bytes).sum()
    }

    /// The launches in order, each with the positions of its steps in the program.
    pub fn launched(&self) -> impl Iterator<Item = (Range<usize>, &Launch)> {
        self.launches.iter().scan(0usize, |next, launch| {
            let first = *next;
            *next = first.saturating_add(launch.steps as usize);
            Some((first..*next, launch))
        })
    }
}

/// The library that does a matrix product.
pub fn library_of(product: &Op) -> &'static str {
    if matches!(product, Op::SparseGemm(_)) { "cuSPARSELt" } else { "cuBLASLt" }
}

/// What K (of a sparse product, the lifted K') and N of a product with a constant weight must be multiples of for [`library_of`] it.
pub fn library_multiple(sparse: bool, input: DType) -> usize {
    match (sparse, input.size()) {
        (true, 1) => 32,
        (true, _) | (false, 1) => 16,
        (false, _) => 1,
    }
}

/// Whether cuBLASLt applies a function to a product's f32 sums before it rounds them to this type. Its GELU is the tanh approximation, by the
/// hardware's tanh, which is good enough for 16 bits.
pub fn library_applies(function: Unary, output: DType) -> bool {
    match function {
        Unary::Relu => output.computes_in_f32(),
        Unary::GeluTanh => output.computes_in_f32() && output.size() == 2,
        _ => false,
    }
}

/// The kernels, compiled for one architecture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Module {
    pub architecture: Architecture,
    pub cubin: BlobId,
}

/// One piece of work for the GPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// How many of the program's next steps it does. Of what these compute, only what later launches and the graph's outputs read comes
    /// into memory.
    pub steps: u32,
    /// What is launched.
    pub work: Work,
}

/// What is launched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A kernel of the plan's own.
    Kernel(Kernel),
    /// A matrix product, which its one step describes, by cuSPARSELt or cuBLASLt.
    Product,
}

/// A kernel's launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// Its name in the modules.
    pub symbol: String,
    /// Blocks, all in x. None are launched where it is 0.
    pub blocks: Dim,
    /// Threads of a block, all in x.
    pub threads: u32,
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
    /// Arguments, in order.
    pub arguments: Vec<Argument>,
    /// Where it is compiled for compute capability 9.0 or later, it waits for what was launched before it, before it touches memory
    /// (`griddepcontrol.wait`): it may be started before that has ended.
    #[serde(default)]
    pub waits: bool,
    /// Other ways to do the same, with the same arguments: the first that suits the device and the shapes takes the kernel's place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forms: Vec<Form>,
    /// Results that may lie in memory where an operand does: what holds an operand's element is written by the thread that has read it, and
    /// nobody reads the operand afterwards.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub over: Vec<Over>,
}

/// A result of a kernel and an operand whose memory it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Over {
    pub result: ValueId,
    pub operand: ValueId,
}

impl Kernel {
    /// Gives it and its forms the names that they have where the kernel's own is `symbol`.
    pub fn rename(&mut self, symbol: &str) {
        for form in &mut self.forms {
            form.symbol = form.symbol.replacen(&self.symbol, symbol, 1);
        }
        symbol.clone_into(&mut self.symbol);
    }

    /// The values that it is given.
    pub fn values(&self) -> impl Iterator<Item = ValueId> {
        self.arguments.iter().filter_map(|a| if let Argument::Value(v) = a { Some(*v) } else { None })
    }
}

/// Launched in place of a kernel where it has enough blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Form {
    pub symbol: String,
    pub blocks: Dim,
    pub threads: u32,
    pub shared_bytes: u32,
    /// Enough blocks.
    pub least_blocks: u32,
    /// The one architecture whose module has it; all have it where this is not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub architecture: Option<Architecture>,
    /// Its blocks share out among themselves what there is to do: no more are launched than the device has multiprocessors.
    #[serde(default)]
    pub resident: bool,
}

impl Form {
    /// How many blocks are launched where there would be `blocks` on a device of so many multiprocessors; none where these are not enough for
    /// the form.
    pub fn grid(&self, blocks: u32, multiprocessors: u32) -> Option<u32> {
        let most = if self.resident { multiprocessors.max(1) } else { u32::MAX };
        (blocks >= self.least_blocks).then_some(blocks.min(most))
    }
}

/// An argument of a kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Argument {
    /// The address of a value.
    Value(ValueId),
    /// A 64-bit integer.
    Integer(Dim),
    /// The address of a 32-bit integer, which a kernel that finds a fault in data (an index out of range) sets to its launch's position plus 1.
    Fault,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_take_over_where_there_is_enough_to_do() {
        let form = |least_blocks, resident| Form {
            symbol: "k".into(),
            blocks: Dim::from(1),
            threads: 32,
            shared_bytes: 0,
            least_blocks,
            architecture: None,
            resident,
        };
        // Enough blocks, whether they share out the work, blocks, what is launched on 132 multiprocessors.
        let cases = [
            (48, true, 47, None),
            (48, true, 48, Some(48)),
            (48, true, 1792, Some(132)),
            (512, false, 511, None),
            (512, false, 1792, Some(1792)),
        ];
        for (least, resident, blocks, expected) in cases {
            assert_eq!(form(least, resident).grid(blocks, 132), expected, "{least} {resident} {blocks}");
        }
    }

    #[test]
    fn kernels_are_renamed_with_their_forms() {
        let form = serde_json::json!({"symbol": "a_bulk", "blocks": "n", "threads": 32, "shared_bytes": 0, "least_blocks": 512});
        let kernel = serde_json::json!({
            "symbol": "a", "blocks": "n", "threads": 32, "shared_bytes": 0, "arguments": [], "forms": [form],
        });
        let mut kernel: Kernel = rmp_serde::from_slice(&rmp_serde::to_vec_named(&kernel).unwrap()).unwrap();
        assert!(kernel.forms[0].architecture.is_none() && !kernel.forms[0].resident);
        kernel.rename("other");
        assert_eq!((kernel.symbol.as_str(), kernel.forms[0].symbol.as_str()), ("other", "other_bulk"));
    }

    #[test]
    fn kernels_of_older_plans_do_not_wait() {
        let older = serde_json::json!({"symbol": "k", "blocks": "n", "threads": 32, "shared_bytes": 0, "arguments": ["fault"]});
        let kernel: Kernel = rmp_serde::from_slice(&rmp_serde::to_vec_named(&older).unwrap()).unwrap();
        assert!(!kernel.waits && kernel.forms.is_empty());
        let newer = Kernel { waits: true, ..kernel };
        assert_eq!(rmp_serde::from_slice::<Kernel>(&rmp_serde::to_vec_named(&newer).unwrap()).unwrap(), newer);
    }
}
