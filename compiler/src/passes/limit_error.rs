//! `limit-error`: with calibration data, what every 8-bit product loses on it is measured, and one that loses more than it may stays in a higher
//! precision.
//!
//! The error is that of quantizing activation and weight alone: the product is compared with itself in f32, on the same activations and with the
//! weight as it is pruned. What calibration says of activations is left in the context for those who quantize weights.

use sliderun::dtype::DType;

use super::narrow::held_as;
use super::product::Product;
use super::{Pass, PassContext, PassError};
use crate::calibration::row_statistics;
use crate::ir::{Graph, WeightForm};
use crate::sparsity::output_error::Exact;

/// The pass.
pub const PASS: Pass = Pass {
    name: "limit-error",
    summary: "with --calib: measure what 8-bit products lose, and keep those that lose too much in a higher precision",
    run,
};

fn run(graph: &mut Graph, context: &mut PassContext<'_>) -> Result<(), PassError> {
    let Some(calibration) = context.options.calibration.clone() else { return Ok(()) };
    let quantized = |p: &Product| graph.node(p.node).form.filter(|f| matches!(f.to, DType::I8 | DType::F8e4m3)).map(|f| (*p, f));
    let products: Vec<(Product, WeightForm)> = Product::all(graph).iter().filter_map(quantized).collect();
    let statistics = row_statistics(graph, products.iter().map(|(p, _)| p.activation), &calibration, &context.options.engine)?;
    for (activation, rows) in &statistics {
        context.moments.insert(graph.output(*activation).name.clone(), rows.moments());
    }
    for (product, form) in products {
        let name = graph.node(product.node).name.clone();
        let rows = statistics.get(&product.activation).filter(|rows| rows.seen() > 0);
        let (Some(rows), Ok(weight)) = (rows, product.read_weight(graph)) else {
            context.report.declined(name, "calibration shows no row of what it reads");
            continue;
        };
        let scales = context.scales(graph, product.activation);
        let error = Exact::new(&weight, rows.sample()).error(&weight, rows.sample(), None, form.to, scales);
        let measured = format!("{} loses {:.2} % on calibration data", form.to, 100.0 * error);
        let mut chosen = form.to_string();
        let reason = match context.options.max_layer_error.filter(|limit| error > *limit) {
            None => measured,
            Some(limit) => {
                let own = graph.ty(product.result()).dtype;
                let to = Some(own).filter(|own| *own != DType::F32).or(held_as(context.options)).unwrap_or(own);
                let form = (form.pattern.is_some() || to != own).then_some(WeightForm { to, ..form });
                graph.set_form(product.node, form);
                chosen = form.map_or_else(|| format!("{to} dense"), |f| f.to_string());
                format!("{measured}, more than {:.2} %: {to} in its place", 100.0 * limit)
            }
        };
        if let Some(verdict) = context.verdicts.iter_mut().find(|v| v.node == name) {
            verdict.chosen = chosen;
            verdict.reason = format!("{}; {reason}", verdict.reason);
        }
        context.report.did([name], reason);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::Calibration;
    use crate::ir::Constant;
    use crate::ir::parse::{no_constants, parse};
    use crate::options::{CompileOptions, Precision, Target};
    use crate::passes::{Outcome, by_names, ignore, run_passes};
    use sliderun::tensor::Tensor;
    use std::sync::Arc;

    /// Two products; what the second reads is 64 times as large in one channel as in the others.
    const GRAPH: &str = r#"
        symbols { n: 1..64 }
        input %x: f32[n, 32]
        const %w: f32[32, 32] = random(seed: 1, pattern: "6:8")
        const %v: f32[32, 32] = random(seed: 2, pattern: "6:8")
        const %large: f32[32] = [64.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0,
            1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
        %p! = MatMul(%x, %w) node "even" origin self
        %y! = Mul(%x, %large) origin self
        %q! = MatMul(%y, %v) node "uneven" origin self
        output "p" = %p
        output "q" = %q"#;

    fn outcome(options: &CompileOptions) -> (Graph, Outcome) {
        let mut graph = parse("test.ir", GRAPH, &no_constants).unwrap();
        // That channel counts for nothing: all that is left of it is how coarse it makes the others.
        let uneven = Product::all(&graph)[1];
        let mut weight = graph.constant(uneven.weight).unwrap().to_tensor();
        weight.as_mut_slice::<f32>().unwrap()[..32].fill(0.0);
        let weight = graph.add_constant("without", Constant::from_tensor(&weight));
        graph.set_input(uneven.node, 1, Some(weight));
        let numbers: Vec<f32> = (0..40 * 32).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
        let x = Tensor::from_slice(&[40, 32], &numbers).unwrap();
        let sample = ("s".to_owned(), [("x".to_owned(), x)].into());
        let options = CompileOptions { calibration: Some(Arc::new(Calibration::new(vec![sample]).unwrap())), ..options.clone() };
        let passes = by_names(["choose", "limit-error"]).unwrap();
        let outcome = run_passes(&mut graph, passes, &options, &mut ignore).unwrap();
        (graph, outcome)
    }

    #[test]
    fn what_loses_too_much_stays() {
        let int8 = CompileOptions { precision: Precision::Int8, sparsity: "6:8".parse().unwrap(), ..CompileOptions::default() };
        let cuda = vec!["sm_90a".parse::<Target>().unwrap()];
        for (max_layer_error, targets, chosen) in [
            (None, vec![Target::Cpu], ["i8 6:8", "i8 6:8"]),
            (Some(0.05), vec![Target::Cpu], ["i8 6:8", "f32 6:8"]),
            (Some(0.0), vec![Target::Cpu], ["f32 6:8", "f32 6:8"]),
            (Some(0.05), cuda, ["i8 6:8", "bf16 6:8"]),
        ] {
            let (graph, outcome) = outcome(&CompileOptions { max_layer_error, targets, ..int8.clone() });
            for (verdict, chosen) in outcome.verdicts.iter().zip(chosen) {
                let node = graph.node_ids().into_iter().find(|n| graph.node(*n).name == verdict.node).unwrap();
                assert_eq!((verdict.chosen.as_str(), graph.node(node).form.unwrap().to_string().as_str()), (chosen, chosen));
                assert!(
                    verdict.reason.contains("i8 loses ") && verdict.reason.contains("6:8 was asked for"),
                    "{}",
                    verdict.reason
                );
                assert_eq!(verdict.reason.ends_with("in its place"), !chosen.starts_with("i8"), "{}", verdict.reason);
            }
        }
        let (graph, outcome) =
            outcome(&CompileOptions { sparsity: "dense".parse().unwrap(), max_layer_error: Some(0.0), ..int8 });
        assert!(outcome.verdicts.iter().all(|v| v.chosen == "f32 dense" && !v.sparse));
        assert!(graph.node_ids().into_iter().all(|n| graph.node(n).form.is_none()));
    }
}
