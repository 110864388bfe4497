//! `decompose`: a product with a form becomes QuantLift → SparseGemm (or DenseGemm) → Dequant.
//!
//! The weight is quantized per output channel, and, for a sparse form, rewritten as overlapping 2:4 windows in the portable
//! compressed form. In the float types there is nothing to dequantize: QuantLift only rounds and lifts. An activation that is only put into
//! another order of K before a sparse product is so by the QuantLift; before a dense one the weight is put back instead.

use sliderun::dtype::DType;
use sliderun::op::Op;
use sliderun::op::elementwise::{Binary, Cast};
use sliderun::op::index::Gather;
use sliderun::op::sparse::{DenseGemm, Dequant, QuantLift, SparseGemm};
use sliderun::sparse::KLayout;
use sliderun::tensor::Tensor;
use std::collections::BTreeSet;

use super::fold_constants::evaluate;
use super::product::Product;
use super::{Pass, PassContext, PassError};
use crate::ir::{Constant, Graph, ValueRef, WeightForm};
use crate::sparsity::permute::Permutation;
use crate::sparsity::quantize::quantize;
use crate::sparsity::scales::Scales;
use crate::sparsity::{Decomposed, decompose};

/// The pass.
pub const PASS: Pass = Pass {
    name: "decompose",
    summary: "rewrite products with a chosen form as QuantLift, SparseGemm or DenseGemm, and Dequant",
    run,
};

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    for id in graph.schedule() {
        // Read here and not for all at once: what is rewritten may be what the next one reads.
        let (Some(product), Some(form)) = (Product::of(graph, id), graph.node(id).form) else {
            continue;
        };
        let name = graph.node(product.node).name.clone();
        let ordered = Ordered::of(graph, product.activation);
        let scales = context.scales(graph, product.activation);
        let weight = match encode(graph, product, form, scales, ordered.as_ref()) {
            Ok(weight) => weight,
            Err(reason) => {
                context.report.declined(name, reason);
                continue;
            }
        };
        let origin = graph.node(product.node).origin.clone();
        let result = Rewriter { graph, name: &name, origin }.product(product, form, weight, ordered)?;
        graph.replace(product.result(), result);
        context.report.did([name], form.to_string());
    }
    Ok(())
}

/// A weight as the product's form wants it.
struct Encoded {
    weight: EncodedWeight,
    /// Scale per output channel, f32 [N]; none for the float types.
    scales: Option<Tensor>,
}

enum EncodedWeight {
    /// [N, K].
    Dense(Tensor),
    Sparse(Decomposed),
}

/// An activation whose channels are those of another in a constant order.
struct Ordered {
    source: ValueRef,
    order: ValueRef,
    permutation: Permutation,
}

impl Ordered {
    fn of(graph: &Graph, activation: ValueRef) -> Option<Ordered> {
        let Op::Gather(Gather { axis }) = graph.producer(activation)? else { return None };
        let (source, order) = (graph.operand(activation.node, 0)?, graph.operand(activation.node, 1)?);
        let indices = graph.constant(order).filter(|c| c.dtype == DType::I32 && c.shape.len() == 1)?.to_tensor();
        let k = graph.ty(source).shape.last()?.as_usize();
        let channels = indices.as_slice::<i32>()?.iter().map(|c| usize::try_from(*c).ok()).collect::<Option<Vec<_>>>()?;
        let permutation = Permutation::new(channels).filter(|p| Some(p.order().len()) == k)?;
        (*axis + 1 == graph.ty(source).rank()).then_some(Ordered { source, order, permutation })
    }
}

fn encode(
    graph: &Graph,
    product: Product,
    form: WeightForm,
    scales: Scales<'_>,
    ordered: Option<&Ordered>,
) -> Result<Encoded, String> {
    let weight = product.read_weight(graph).map_err(|e| e.to_string())?;
    let quantized = quantize(&weight, form.to, scales);
    let scales = quantized.scales.map(|s| Tensor::from_slice(&[s.len()], &s).expect("one scale per output channel"));
    let weight = match form.pattern {
        None => EncodedWeight::Dense(match ordered {
            None => quantized.values,
            Some(ordered) => ordered.permutation.inverse().apply(&Constant::from_tensor(&quantized.values), 1, 0).to_tensor(),
        }),
        Some(pattern) => EncodedWeight::Sparse(decompose(&quantized.values, pattern).map_err(|e| e.to_string())?),
    };
    Ok(Encoded { weight, scales })
}

/// Adds nodes that are named after the product that they replace and have its origin.
struct Rewriter<'g> {
    graph: &'g mut Graph,
    name: &'g str,
    origin: BTreeSet<String>,
}

impl Rewriter<'_> {
    fn product(
        &mut self,
        product: Product,
        form: WeightForm,
        encoded: Encoded,
        ordered: Option<Ordered>,
    ) -> Result<ValueRef, PassError> {
        let to = self.graph.ty(product.result()).dtype;
        let layout = match &encoded.weight {
            EncodedWeight::Dense(weight) => KLayout::dense(weight.shape()[1]),
            EncodedWeight::Sparse(decomposed) => decomposed.layout.clone(),
        };
        let operands = match ordered {
            None => vec![Some(product.activation)],
            Some(Ordered { source, .. }) if layout.is_dense() => vec![Some(source)],
            Some(Ordered { source, order, .. }) => vec![Some(source), Some(order)],
        };
        let lift = self.add("quant_lift", QuantLift { to: form.to, layout: layout.clone() }, &operands)?;
        let accumulator = match encoded.weight {
            EncodedWeight::Dense(weight) => {
                let weight = self.constant("weight", &weight);
                self.add("dense_gemm", DenseGemm::default(), &[Some(lift), Some(weight)])?
            }
            EncodedWeight::Sparse(d) => {
                let (values, positions) = (self.constant("values", &d.values), self.constant("positions", &d.positions));
                self.add("sparse_gemm", SparseGemm { layout, to: None }, &[Some(lift), Some(values), Some(positions)])?
            }
        };
        let Some(scales) = encoded.scales else {
            return self.finish_float(accumulator, to, product);
        };
        let token_scale = ValueRef { node: lift.node, slot: 1 };
        let channel_scale = self.constant("scales", &scales);
        let bias = product.bias.map(|b| self.as_f32(b)).transpose()?;
        self.add(
            "dequant",
            Dequant { to, activation: product.function },
            &[Some(accumulator), Some(token_scale), Some(channel_scale), bias],
        )
    }

    /// What follows a product of floats: rounding to the model's type, the bias, and the activation.
    fn finish_float(&mut self, accumulator: ValueRef, to: DType, product: Product) -> Result<ValueRef, PassError> {
        let rounded = match to {
            DType::F32 => accumulator,
            _ => self.add("cast", Cast { to }, &[Some(accumulator)])?,
        };
        let sum = match product.bias {
            None => rounded,
            bias => self.add("bias", Binary::Add, &[Some(rounded), bias])?,
        };
        match product.function {
            None => Ok(sum),
            Some(function) => self.add("activation", function, &[Some(sum)]),
        }
    }

    /// A bias in f32. It is constant, and so is what comes of it: nothing is left to do in runs.
    fn as_f32(&mut self, value: ValueRef) -> Result<ValueRef, PassError> {
        if self.graph.ty(value).dtype == DType::F32 {
            return Ok(value);
        }
        let wide = self.add("bias_f32", Cast { to: DType::F32 }, &[Some(value)])?;
        Ok(match evaluate(self.graph, wide) {
            Some(known) => self.constant("bias", &known),
            None => wide,
        })
    }

    fn add(&mut self, part: &str, op: impl Into<Op>, operands: &[Option<ValueRef>]) -> Result<ValueRef, PassError> {
        let name = format!("{}/{part}", self.name);
        let node = self.graph.add_op(&name, op, operands).map_err(PassError::infer(&name))?;
        self.graph.add_origin(node, self.origin.iter().cloned());
        Ok(ValueRef { node, slot: 0 })
    }

    fn constant(&mut self, part: &str, tensor: &Tensor) -> ValueRef {
        self.graph.add_constant(&format!("{}.{part}", self.name), Constant::from_tensor(tensor))
    }
}
