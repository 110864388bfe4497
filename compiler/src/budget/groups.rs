//! The products that are chosen for together: those that `merge` joins (Q/K/V, gate/up), which read one activation and so share its lift;
//! every other one by itself. What each may be, and what that costs.
//!
//! Costs are in multiply-accumulates that the sparse form stores, for each run of a sample: rows · N · K'/2 of a pattern, rows · N · K
//! dense; times the bytes of an element where precisions differ, as 8-bit units do as many more than wider ones. With a GPU among the
//! targets, in microseconds of [`crate::cost`].
//!
//! Must not know: what is lost.

use sliderun::dim::Bindings;
use sliderun::dtype::DType;
use sliderun::plan::Architecture;
use sliderun::plan::cuda::library_multiple;
use sliderun::sparse::{KLayout, Pattern};
use std::collections::BTreeMap;
use std::fmt;

use crate::cost::{Measured, Shape};
use crate::ir::{Graph, ValueRef};
use crate::options::{CompileOptions, Precision};
use crate::passes::product::Product;

/// Rows for which GPUs' times are compared, of the products that have most, where shapes leave it open.
const ROWS: f64 = 8192.0;

/// What a product may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// The arithmetic.
    pub precision: Precision,
    /// The pattern; dense without.
    pub pattern: Option<Pattern>,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precision = match self.precision {
            Precision::Auto if self.pattern.is_none() => return f.pad("as it was"),
            precision => precision.to_string(),
        };
        match self.pattern {
            Some(pattern) => write!(f, "{precision} {pattern}"),
            None => write!(f, "{precision} dense"),
        }
    }
}

/// Products that are chosen for together.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// The products.
    pub products: Vec<Product>,
    /// Their nodes' names.
    pub nodes: Vec<String>,
    /// Output channels of each.
    pub n: Vec<usize>,
    /// Their common K.
    pub k: usize,
    /// The model's element type.
    pub dtype: DType,
    /// Rows of the activation, in a sample's run, their mean.
    pub rows: f64,
    /// Whether the shapes leave the rows open.
    pub open: bool,
}

/// The groups of a graph, in schedule order. `bindings`: the symbols' values for each sample.
pub(crate) fn groups(graph: &Graph, bindings: &[Bindings]) -> Vec<Group> {
    let mut out: Vec<Group> = Vec::new();
    let mut by_activation: BTreeMap<ValueRef, usize> = BTreeMap::new();
    for product in Product::all(graph).into_iter().filter(|p| p.ineligible(graph).is_none() && p.read_weight(graph).is_ok()) {
        let node = graph.node(product.node).name.clone();
        let constant = graph.constant(product.weight).expect("an eligible product has a constant weight");
        let (k, n) = (constant.shape[0], constant.shape[1]);
        let alone = product.function.is_some();
        if let Some(at) = by_activation.get(&product.activation).filter(|_| !alone) {
            out[*at].products.push(product);
            out[*at].nodes.push(node);
            out[*at].n.push(n);
            continue;
        }
        let result = graph.ty(product.result());
        let rows = result.elements().floor_div(&n.into());
        let of_sample = |b: &Bindings| rows.eval(b).map_or(1.0, |rows| rows as f64);
        let mean = bindings.iter().map(of_sample).sum::<f64>() / bindings.len().max(1) as f64;
        if !alone {
            by_activation.insert(product.activation, out.len());
        }
        let open = rows.as_const().is_none();
        out.push(Group {
            products: vec![product],
            nodes: vec![node],
            n: vec![n],
            k,
            dtype: result.dtype,
            rows: mean.max(1.0),
            open,
        });
    }
    out
}

/// What groups may be: all patterns and dense in the precision that is asked for, int8 where none is; and dense in the model's own, for those
/// that lose too much in a narrow one.
pub(crate) fn forms(options: &CompileOptions) -> Vec<Form> {
    let narrow = match options.precision {
        Precision::Auto => Precision::Int8,
        precision => precision,
    };
    let wide = Form { precision: Precision::Auto, pattern: None };
    let same = match narrow {
        Precision::F32 => !options.for_cuda(),
        Precision::Bf16 => options.for_cuda(),
        _ => false,
    };
    let patterns = Pattern::ALL.into_iter().rev().map(Some);
    let narrow = [None].into_iter().chain(patterns).map(|pattern| Form { precision: narrow, pattern });
    Some(wide).filter(|_| !same).into_iter().chain(narrow).collect()
}

impl Group {
    /// Multiply-accumulates of a run, of what is stored.
    pub fn macs(&self, pattern: Option<Pattern>) -> f64 {
        self.rows * self.n.iter().sum::<usize>() as f64 * stored(self.k, pattern) as f64
    }
}

/// Weights of an output channel that are stored.
fn stored(k: usize, pattern: Option<Pattern>) -> usize {
    pattern.map_or(k, |p| KLayout::sparse(k, p).lifted() / 2)
}

/// What costs are counted in.
pub(crate) struct Costs {
    /// The GPU, and what was measured on such ones.
    gpu: Option<(Architecture, Measured)>,
    /// By how much the samples' rows are multiplied to be many.
    scale: f64,
}

impl Costs {
    /// The costs of a compilation's newest GPU, or multiply-accumulates.
    pub fn new(options: &CompileOptions, groups: &[Group]) -> Costs {
        let gpu = options.architectures().max().map(|on| (on, Measured::new(&options.timings, on)));
        let most = groups.iter().filter(|g| g.open).map(|g| g.rows).fold(0.0, f64::max);
        Costs { gpu, scale: if most > 0.0 { ROWS / most } else { 1.0 } }
    }

    /// The unit, for people.
    pub fn unit(&self) -> String {
        match &self.gpu {
            Some((on, _)) => format!("µs of products on {on}"),
            None => "multiply-accumulates × bytes".to_owned(),
        }
    }

    /// What a form of a group costs; none where GPUs' libraries do not have it.
    pub fn of(&self, group: &Group, form: Form) -> Option<f64> {
        let input = form.precision.element_type(group.dtype);
        let Some((on, measured)) = &self.gpu else { return Some(group.macs(form.pattern) * input.size() as f64) };
        let input = if form.precision == Precision::Auto && input == DType::F32 { DType::Bf16 } else { input };
        let n = group.n.iter().sum();
        let multiple = library_multiple(form.pattern.is_some(), input);
        let lifted = form.pattern.map_or(group.k, |p| KLayout::sparse(group.k, p).lifted());
        if form.pattern.is_some() && (!lifted.is_multiple_of(multiple) || group.n.iter().any(|n| !n.is_multiple_of(multiple))) {
            return None;
        }
        let m = if group.open { group.rows * self.scale } else { group.rows };
        let shape = Shape { input, n, k: group.k };
        let estimate = shape.micros(m, form.pattern, *on);
        let known = form.pattern.and_then(|p| Some(shape.micros(m, None, *on) / measured.speed_up(shape, p, m)?));
        Some(known.unwrap_or(estimate) + shape.lift_micros(m, form.pattern, *on))
    }
}
