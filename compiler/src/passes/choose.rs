//! `choose`: for every product, which pattern and precision its weight takes, and the verdict that says why.

use sliderun::dim::Dim;
use sliderun::dtype::DType;
use sliderun::op::TensorType;
use sliderun::plan::cuda::library_multiple;
use sliderun::plan::manifest::{NearMiss, Verdict};
use sliderun::sparse::{KLayout, Pattern};

use super::narrow::held_as;
use super::product::{Product, check_recipe};
use super::{Pass, PassContext, PassError, Refusal};
use crate::ir::{Graph, WeightForm};
use crate::options::{CompileOptions, PruneMethod, SparsityRequest};
use crate::recipe::Asked;
use crate::sparsity::{Detection, detect, nearest};

/// The pass.
pub const PASS: Pass =
    Pass { name: "choose", summary: "decide pattern and precision for every product with a constant weight, and say why", run };

/// The patterns that a weight satisfies, and the sparser one that it nearly does.
struct Found {
    patterns: Vec<Pattern>,
    near: Option<NearMiss>,
}

/// What was decided for a product: `None` leaves it a MatMul in the model's own precision.
struct Decision {
    form: Option<WeightForm>,
    reason: String,
    /// Whether a pattern that was asked for by name was not given.
    refused: bool,
}

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    let mut refusals = Vec::new();
    check_recipe(graph, context.options)?;
    for product in Product::all(graph) {
        let node = graph.node(product.node).name.clone();
        let asked = context.options.asked(&node);
        let mut near = None;
        let (patterns, mut decision) = match product.ineligible(graph) {
            Some(reason) => (Vec::new(), Decision { form: None, reason, refused: false }),
            None => match product.read_weight(graph) {
                Err(error) => (Vec::new(), Decision { form: None, reason: error.to_string(), refused: false }),
                Ok(weight) => {
                    let detections = detect(&weight);
                    let holding = detections.iter().filter(|d| d.holds()).map(|d| d.pattern).collect();
                    near = nearest(&weight, &detections);
                    let decision = decide(&detections, graph.ty(product.result()).dtype, asked, context.options);
                    context.choices.insert(node.clone(), asked);
                    (holding, if context.options.for_cuda() { within_libraries(decision, graph, product) } else { decision })
                }
            },
        };
        if let Some(near) = &near {
            decision.reason = format!("{}; nearly {near}", decision.reason);
        }
        if decision.refused {
            refusals.push(Refusal { node: node.clone(), reason: decision.reason.clone() });
        }
        let found = Found { patterns, near };
        context.verdicts.push(verdict(graph, product, node.clone(), found, &decision, held_as(context.options)));
        match decision.form {
            Some(form) => context.report.did([node], format!("{form}: {}", decision.reason)),
            None => context.report.declined(node, decision.reason),
        }
        graph.set_form(product.node, decision.form);
    }
    if context.options.strict && !refusals.is_empty() {
        let help = match context.options.prune {
            PruneMethod::None => {
                "--prune magnitude, or better sparsegpt with --calib, makes the pattern hold; without --strict such layers stay dense"
            }
            _ => "without --strict such layers stay dense",
        };
        return Err(PassError::Refused { nodes: refusals, help: help.into() });
    }
    Ok(())
}

fn decide(detections: &[Detection], model: DType, asked: Asked, options: &CompileOptions) -> Decision {
    let for_cuda = options.for_cuda();
    let to = match asked.precision.element_type(model) {
        DType::F32 => held_as(options).unwrap_or(DType::F32),
        to => to,
    };
    let exact = |p: Pattern| {
        let blocks = detections.iter().find(|d| d.pattern == p).map_or(0, |d| d.blocks);
        format!(" in each of {blocks} blocks, so the sparse form is exact")
    };
    let holds = |p: Pattern| detections.iter().any(|d| d.pattern == p && d.holds());
    let (pattern, reason, refused) = match asked.sparsity {
        SparsityRequest::Dense => (None, "dense was asked for".to_owned(), false),
        SparsityRequest::Pattern(p) if holds(p) => (Some(p), format!("{p} was asked for and holds{}", exact(p)), false),
        SparsityRequest::Pattern(p) => {
            let d = detections.iter().find(|d| d.pattern == p).expect("every pattern is tested");
            (
                None,
                format!("{p} does not hold: {} of {} blocks have more than {} non-zeros", d.offending, d.blocks, p.kept()),
                true,
            )
        }
        SparsityRequest::Auto => match detections.iter().find(|d| d.holds()) {
            None => (None, "no pattern holds".to_owned(), false),
            Some(d) if for_cuda && to != DType::F32 => {
                (Some(d.pattern), format!("{} holds already{}", d.pattern, exact(d.pattern)), false)
            }
            Some(d) if for_cuda => {
                (None, format!("{} holds, but {to} gains no speed from it on CUDA (other precisions do)", d.pattern), false)
            }
            Some(d) => {
                let reason = format!("{p} holds, but the CPU gains no speed from it (--sparsity {p} keeps it)", p = d.pattern);
                (None, reason, false)
            }
        },
    };
    let form = (pattern.is_some() || to != model).then_some(WeightForm { to, pattern });
    Decision { form, reason, refused }
}

/// For CUDA devices: what the libraries do not multiply, since their tensor cores take so many elements of K and N at a time, becomes dense,
/// and 16-bit where 8 bits are not possible either.
fn within_libraries(decision: Decision, graph: &Graph, product: Product) -> Decision {
    let Some(WeightForm { to, pattern }) = decision.form else { return decision };
    let extent = |value| graph.ty(value).shape.last().and_then(Dim::as_usize);
    let (Some(k), Some(n)) = (extent(product.activation), extent(product.weight)) else { return decision };
    let misfit = |to: DType, pattern: Option<Pattern>| {
        let k = pattern.map_or(k, |p| KLayout::sparse(k, p).lifted());
        let multiple = library_multiple(pattern.is_some(), to);
        (!n.is_multiple_of(multiple) || !k.is_multiple_of(multiple))
            .then(|| format!("multiples of {multiple}, and K is {k}, N {n}"))
    };
    let Some(why) = misfit(to, pattern) else { return decision };
    let dense = WeightForm { to, pattern: None };
    let form = if misfit(to, None).is_some() { WeightForm { to: DType::Bf16, ..dense } } else { dense };
    let reason = format!("{to}{} wants {why}", pattern.map_or_else(String::new, |p| format!(" {p}")));
    Decision { form: Some(form), reason, refused: true }
}

fn verdict(
    graph: &Graph,
    product: Product,
    node: String,
    Found { patterns, near }: Found,
    decision: &Decision,
    held: Option<DType>,
) -> Verdict {
    let result = graph.output(product.result());
    let (activation, weight): (&TensorType, &TensorType) = (graph.ty(product.activation), graph.ty(product.weight));
    // Products of vectors have fewer axes; what is missing is 1.
    let axis = |ty: &TensorType, from_end: usize| {
        ty.rank().checked_sub(from_end).map_or_else(|| 1.into(), |axis| ty.shape[axis].clone())
    };
    let n = if weight.rank() > 1 { axis(weight, 1) } else { 1.into() };
    let k = axis(activation, 1);
    let computed = held.filter(|_| result.ty.dtype == DType::F32).unwrap_or(result.ty.dtype);
    Verdict {
        node,
        output: result.name.clone(),
        m: result.ty.elements().floor_div(&n),
        n,
        k,
        patterns,
        nearest: near,
        chosen: decision.form.map_or_else(|| format!("{computed} dense"), |f| f.to_string()),
        sparse: decision.form.is_some_and(|f| f.pattern.is_some()),
        reason: decision.reason.clone(),
        cuda: None,
    }
}
