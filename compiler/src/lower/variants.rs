//! Which variants of its CUDA program a plan has: all products sparse that may be, all dense, and between them sparse where the
//! cost model says that it pays; and from how many rows on each is preferred.
//!
//! Must not know: how steps are launched.

use sliderun::dim::{Bindings, Dim};
use sliderun::plan::Architecture;
use sliderun::plan::manifest::{Program, SymbolRange, Verdict};
use std::collections::BTreeSet;

use super::twin::{Group, dense, groups};
use crate::cost::{Measured, Shape};

/// Rows for which sparsity is to pay where there are many.
const MANY: u64 = 8192;
/// Rows that are looked at for where few end.
const ROWS: [u64; 10] = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, MANY];
/// What an extent is, in its range, to see how the rows of products compare.
const SAMPLE: i64 = 64;

/// A variant before it is scheduled.
pub struct Proposal {
    /// Its name.
    pub name: &'static str,
    /// From how many rows on it is preferred, if at all.
    pub from: Option<u64>,
    /// What is computed.
    pub program: Program,
}

/// The variants of a program, the one as it was asked for first.
pub struct Proposals {
    /// At least one, of which one is preferred for few rows.
    pub variants: Vec<Proposal>,
    /// The rows by which one is chosen.
    pub rows: Dim,
}

/// Products that become sparse or dense together, and what is known of them.
struct Candidate {
    group: Group,
    /// How many rows it has where the plan's rows are 1.
    per_row: f64,
}

/// What a candidate's products take.
struct Times {
    dense: f64,
    sparse: f64,
    /// Whether all were measured.
    measured: bool,
}

impl Candidate {
    /// Microseconds of products and what lifts their activation, for so many rows of the plan's: as they were measured, or
    /// estimated.
    fn times(&self, rows: u64, costs: &Costs) -> Times {
        let (group, m) = (&self.group, rows as f64 * self.per_row);
        let shape = |n: usize| Shape { input: group.input, n, k: group.k };
        let lift = |pattern| shape(1).lift_micros(m, pattern, costs.on);
        let mut times = Times { dense: lift(None), sparse: lift(Some(group.pattern)), measured: true };
        for shape in group.n.iter().map(|&n| shape(n)) {
            let [dense, sparse] = [None, Some(group.pattern)].map(|pattern| shape.micros(m, pattern, costs.on));
            let speed_up = costs.measured.speed_up(shape, group.pattern, m);
            times.measured &= speed_up.is_some();
            times.dense += dense;
            times.sparse += speed_up.map_or(sparse, |speed_up| dense / speed_up);
        }
        times
    }
}

/// What products cost.
pub struct Costs {
    /// The GPU.
    pub on: Architecture,
    /// What is known better than by estimates.
    pub measured: Measured,
}

impl Times {
    fn speed_up(&self) -> f64 {
        self.dense / self.sparse
    }
}

/// The variants of a program for GPUs of an architecture; says in the verdicts where sparsity is estimated to pay. With `one`,
/// the program as it is.
pub fn propose(program: Program, costs: &Costs, one: bool, symbols: &[SymbolRange], verdicts: &mut [Verdict]) -> Proposals {
    let groups = groups(&program);
    let work = |g: &Group| g.n.iter().sum::<usize>() * g.k;
    let Some(rows) = groups.iter().max_by_key(|g| work(g)).map(|g| g.m.clone()).filter(|_| !one) else {
        let sparse = program.steps.iter().any(|s| matches!(s.op, sliderun::op::Op::SparseGemm(_)));
        let name = if sparse { "sparse" } else { "dense" };
        return Proposals { variants: vec![Proposal { name, from: Some(0), program }], rows: Dim::from(1) };
    };
    let sample = sample(symbols);
    let value = |d: &Dim| d.eval(&sample).ok().filter(|v| *v > 0).map_or(1.0, |v| v as f64);
    let of_rows = value(&rows);
    let candidates: Vec<Candidate> =
        groups.into_iter().map(|group| Candidate { per_row: value(&group.m) / of_rows, group }).collect();
    let many = rows.as_const().and_then(|rows| u64::try_from(rows).ok()).unwrap_or(MANY);
    let pays: Vec<bool> = candidates.iter().map(|c| c.times(many, costs).speed_up() > 1.0).collect();
    let from = pays.contains(&true).then(|| threshold(&candidates, &pays, many, costs));
    for (candidate, pays) in candidates.iter().zip(&pays) {
        tell(&program, candidate, from.filter(|_| *pays), (many, costs), verdicts);
    }
    let twin = |dense_ones: &dyn Fn(bool) -> bool| {
        let chosen: Vec<&Group> =
            candidates.iter().zip(&pays).filter(|(_, pays)| dense_ones(**pays)).map(|(c, _)| &c.group).collect();
        dense(&program, &chosen)
    };
    let all = pays.iter().all(|pays| *pays);
    let mut variants = Vec::new();
    if !all && from.is_some() {
        variants.push(Proposal { name: "mixed", from, program: twin(&|pays| !pays) });
    }
    variants.push(Proposal { name: "dense", from: (from != Some(0)).then_some(0), program: twin(&|_| true) });
    variants.insert(0, Proposal { name: "sparse", from: from.filter(|_| all), program });
    Proposals { variants, rows }
}

/// The least number of rows that is looked at, of those no more than `many`, from which on products that are sparse where it pays
/// are faster than all dense; 0 where they always are.
fn threshold(candidates: &[Candidate], pays: &[bool], many: u64, costs: &Costs) -> u64 {
    let faster = |rows: u64| {
        let times = candidates.iter().zip(pays).filter(|(_, pays)| **pays).map(|(c, _)| c.times(rows, costs));
        let [dense, sparse] = times.fold([0.0, 0.0], |[dense, sparse], t| [dense + t.dense, sparse + t.sparse]);
        sparse < dense
    };
    let looked_at = || ROWS.into_iter().filter(|rows| *rows <= many);
    match looked_at().filter(|rows| !faster(*rows)).max() {
        None => 0,
        Some(last) => looked_at().find(|rows| *rows > last).unwrap_or(many),
    }
}

/// Values of the symbols that tell rows of one kind from rows of another.
fn sample(symbols: &[SymbolRange]) -> Bindings {
    symbols.iter().map(|s| (s.name.clone(), SAMPLE.min(s.max).max(s.min))).collect()
}

/// Says in the verdicts on what a candidate's products are made of where they are sparse on GPUs: from so many rows on, or never.
fn tell(program: &Program, candidate: &Candidate, from: Option<u64>, (many, costs): (u64, &Costs), verdicts: &mut [Verdict]) {
    let steps = candidate.group.products.iter().map(|at| &program.steps[*at]);
    let nodes: BTreeSet<&str> = steps.flat_map(|s| s.origin.iter().map(String::as_str)).collect();
    let Group { pattern, input, .. } = candidate.group;
    let times = candidate.times(many, costs);
    let how = if times.measured { "measured" } else { "estimated" };
    let known = format!("{pattern} {how} {:.2}× at {many} rows", times.speed_up());
    for verdict in verdicts.iter_mut().filter(|v| nodes.contains(v.node.as_str())) {
        let (chosen, why) = match from {
            None => (format!("{input} dense"), format!("dense: {known}")),
            Some(0) => (format!("{input} {pattern}"), known.clone()),
            Some(from) => (format!("{input} {pattern} from {from} rows"), format!("dense for M < {from}: {known}")),
        };
        verdict.cuda = Some(chosen);
        verdict.reason = format!("{}; on GPUs {why}", verdict.reason);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::parse::{no_constants, parse};
    use crate::lower::{Lowered, lower, lower_cuda};
    use crate::options::{CompileOptions, Precision, SparsityRequest, Target, Variants};
    use crate::passes::run_pipeline;
    use sliderun::plan::Plan;
    use sliderun::plan::cuda::Variant;
    use sliderun::plan::manifest::{Provenance, Storage};
    use sliderun::session::{Device, Session, SessionOptions, SparseForm};
    use sliderun::tool::random;
    use std::sync::Arc;

    /// One activation for two products, and a product of their sum, whose K cuBLASLt does not take.
    const MODEL: &str = r#"
symbols { n: 1..64 }
input %x: f32[n, 96]
const %a: f32[96, 64] = random(seed: 1, pattern: "6:8")
const %b: f32[96, 64] = random(seed: 2, pattern: "6:8")
const %c: f32[64, 32] = random(seed: 3, pattern: "6:8")
%p = MatMul(%x, %a) node "p" origin self
%q = MatMul(%x, %b) node "q" origin self
%r = Mul(%p, %q) node "r" origin self
%s = MatMul(%r, %c) node "s" origin self
output "s" = %s
output "r" = %r
"#;

    fn lowered(text: &str, precision: Precision, variants: Variants) -> Lowered {
        lowered_to(text, "6:8", precision, variants)
    }

    fn lowered_to(text: &str, pattern: &str, precision: Precision, variants: Variants) -> Lowered {
        let on: Architecture = "sm_90a".parse().unwrap();
        let options = |target| CompileOptions {
            sparsity: SparsityRequest::Pattern(pattern.parse().unwrap()),
            precision,
            targets: vec![target],
            ..CompileOptions::default()
        };
        let imported = parse("test.ir", text, &no_constants).unwrap();
        let passed = |target| {
            let mut graph = imported.clone();
            let outcome = run_pipeline(&mut graph, &options(target), &mut |_, _| Ok(())).unwrap();
            (graph, outcome.verdicts)
        };
        let (graph, verdicts) = passed(Target::Cpu);
        let mut lowered = lower(&graph, Provenance::default(), verdicts).unwrap();
        lower_cuda(&passed(Target::Cuda(on)).0, &mut lowered, &Costs { on, measured: Measured::default() }, variants).unwrap();
        lowered
    }

    fn names(lowered: &Lowered) -> Vec<(&str, Option<u64>, usize)> {
        let describe = |v: &Variant| (v.name.clone(), v.from, v.sparse_share().sparse);
        let cuda = lowered.manifest.cuda.as_ref().unwrap();
        cuda.variants.iter().map(|v| (v.name.as_str(), v.from, describe(v).2)).collect()
    }

    #[test]
    fn all_variants_compute_the_same_from_weights_that_are_there_once() {
        for precision in [Precision::Int8, Precision::Fp8, Precision::Bf16] {
            let one = lowered(MODEL, precision, Variants::One);
            assert_eq!(names(&one), [("sparse", Some(0), 2)]);
            let both = lowered(MODEL, precision, Variants::Auto);
            assert_eq!(names(&both), [("sparse", None, 2), ("dense", Some(0), 0)], "small products are faster dense");
            let sizes = [one, both].map(|l| {
                let bytes = l.writer.to_bytes(l.manifest).unwrap();
                let plan = Arc::new(Plan::from_bytes(bytes).unwrap());
                (plan.manifest().blobs.len(), plan)
            });
            assert_eq!(sizes[0].0, sizes[1].0);
            let plan = &sizes[1].1;
            let run = |variant: &str| {
                let options = SessionOptions::default()
                    .with_threads(1)
                    .with_cuda_program(true)
                    .with_variant(variant.to_owned())
                    .with_sparse_form(SparseForm::Compressed);
                let session = Session::new(plan.clone(), Device::Cpu, options).unwrap();
                let tensors = random::inputs(session.inputs(), &[("n".to_owned(), 5)].into(), 1).unwrap();
                let views: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
                session.run(&views).unwrap()
            };
            for ((name, sparse), (_, dense)) in run("sparse").iter().zip(&run("dense")) {
                let (a, b) = (sparse.as_slice::<f32>().unwrap(), dense.as_slice::<f32>().unwrap());
                let norm = b.iter().map(|v| f64::from(v * v)).sum::<f64>();
                let off = a.iter().zip(b).map(|(a, b)| f64::from((a - b) * (a - b))).sum::<f64>();
                // Sums that are rounded to bf16 on one side.
                assert!(norm > 0.0 && (off / norm).sqrt() < 1.5e-2, "{precision} {name}: {}", (off / norm).sqrt());
            }
        }
    }

    #[test]
    fn variants_follow_the_estimates() {
        let layer = |k: usize, n: usize, pattern: &str, rows: &str| {
            let weight = format!("const %w: f32[{k}, {n}] = random(seed: 1, pattern: \"{pattern}\")");
            format!(
                "symbols {{ n: 1..20000 }}\ninput %x: f32[{rows}, {k}]\n{weight}\n%y = MatMul(%x, %w) node \"y\" origin self\noutput \"y\" = %y\n"
            )
        };
        // A 2:4 weight satisfies 6:8; what was asked for is made of it.
        let lowered = lowered(&layer(512, 512, "2:4", "n"), Precision::Int8, Variants::Auto);
        let cuda = lowered.manifest.cuda.as_ref().unwrap();
        assert_eq!(cuda.rows.to_string(), "n");
        let [verdict] = &lowered.manifest.verdicts[..] else { panic!("one product") };
        assert_eq!(verdict.cuda.as_deref(), Some("i8 dense"));
        assert!(verdict.reason.contains("so the sparse form is exact; on GPUs dense: 6:8 estimated 0."), "{}", verdict.reason);
        for rows in [1, 64, 1 << 20] {
            assert_eq!(cuda.variants[cuda.preferred(rows)].name, "dense");
        }
    }

    #[test]
    fn some_products_are_sparse_where_only_those_gain() {
        const MODEL: &str = r#"
symbols { n: 1..20000 }
input %x: f32[n, 1024]
input %u: f32[n, 80]
const %a: f32[1024, 512] = random(seed: 1, pattern: "2:4")
const %b: f32[80, 32] = random(seed: 2, pattern: "2:4")
%y = MatMul(%x, %a) node "large" origin self
%v = MatMul(%u, %b) node "small" origin self
output "y" = %y
output "v" = %v
"#;
        let lowered = lowered_to(MODEL, "2:4", Precision::Int8, Variants::Auto);
        let cuda = lowered.manifest.cuda.as_ref().unwrap();
        let named: Vec<(&str, usize)> = names(&lowered).iter().map(|(name, _, sparse)| (*name, *sparse)).collect();
        assert_eq!(named, [("sparse", 2), ("mixed", 1), ("dense", 0)]);
        assert_eq!(cuda.variants[cuda.preferred(MANY)].name, "mixed");
        let chosen: Vec<(&str, Option<&str>)> =
            lowered.manifest.verdicts.iter().map(|v| (v.node.as_str(), v.cuda.as_deref())).collect();
        assert!(chosen.contains(&("small", Some("i8 dense"))), "{chosen:?}");
        assert!(
            chosen.iter().any(|(node, cuda)| *node == "large" && cuda.is_some_and(|c| c.starts_with("i8 2:4"))),
            "{chosen:?}"
        );
        lowered.writer.to_bytes(lowered.manifest).unwrap();
    }

    /// A group whose products are so many times as wide as K.
    fn candidate(k: usize, wide: usize) -> Candidate {
        let group = Group {
            lift: 0,
            products: vec![0],
            n: vec![k * wide],
            k,
            m: Dim::from(1),
            input: sliderun::dtype::DType::I8,
            pattern: "4:6".parse().unwrap(),
        };
        Candidate { group, per_row: 1.0 }
    }

    #[test]
    fn few_rows_end_where_sparse_products_become_faster_for_good() {
        let on = "sm_90a".parse().unwrap();
        let candidates = [candidate(3584, 10), candidate(256, 1)];
        let costs = Costs { on, measured: Measured::default() };
        let speed_up = |at: usize, rows| candidates[at].times(rows, &costs).speed_up();
        assert!(speed_up(0, MANY) > 1.05 && speed_up(1, MANY) < 1.0);
        let from = threshold(&candidates, &[true, false], MANY, &costs);
        for rows in ROWS {
            if rows >= from {
                assert!(speed_up(0, rows) > 1.0, "{rows} {from}");
            }
        }
        assert_eq!(threshold(&[candidate(3584, 10)], &[true], 16, &costs), if speed_up(0, 16) > 1.0 { 0 } else { 16 });
    }

    #[test]
    fn dense_weights_are_made_of_the_compressed_ones() {
        let lowered = lowered(MODEL, Precision::Int8, Variants::Auto);
        let dense = &lowered.manifest.cuda.as_ref().unwrap().variants[1];
        let expanded: Vec<String> =
            dense.program.values.iter().filter(|v| matches!(v.storage, Storage::Expanded(_))).map(|v| v.ty.to_string()).collect();
        assert_eq!(expanded, ["i8[128, 96]", "i8[32, 64]"]);
        assert_eq!(dense.expanded_bytes(), 128 * 96 + 32 * 64);
    }
}
