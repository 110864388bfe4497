//! `check`: a GPU's results against the CPU's, launch by launch, and end to end.
//!
//! Each launch is given the operands that the CPU computed, on fresh random inputs, its outputs poisoned before; so that an error is found
//! where it is made, and the plan's own kernels can be checked without the libraries' products.

mod exact;

pub use exact::{EXACT, has_fused_multiply_add};

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;

use super::{Target, ToolError, open_plan, random, symbols};
use crate::cpu::eval;
use crate::dim::Bindings;
use crate::dtype::DType;
use crate::op::Op;
use crate::op::elementwise::Cast;
use crate::plan::Plan;
use crate::plan::cuda::{Variant, Work};
use crate::plan::manifest::{Program, Step, ValueId};
use crate::session::{Device, Session, SessionError, SessionOptions, SparseForm, StepTrace};
use crate::tensor::{Tensor, TensorView};

/// What to check.
#[derive(Clone, Debug, Default)]
pub struct CheckOptions {
    /// The plan and the GPU.
    pub target: Target,
    /// Values of symbols; see [`symbols::complete`].
    pub symbols: Bindings,
    /// What the first random inputs start from.
    pub seed: u64,
    /// Sets of random inputs.
    pub rounds: usize,
    /// Greatest relative error of a launch's f32 results; those of narrower floats, and what one launch computes by way of such, may be 1000
    /// times that, those of 8-bit float products [`f8_limit`]. Integers must be equal; where one launch computes floats and quantizes them,
    /// they must be what the CPU makes of its floats. Where these do not come into memory, floats and integers must be equal if the launch
    /// does the CPU's operations to each element ([`EXACT`]), else, as after sums along rows, integers may be 500 times the limit off.
    pub limit: f64,
    /// Only the plan's own kernels: the libraries' products are left out, and so is the run from end to end, which needs them.
    pub kernels_only: bool,
}

/// The worst of a kind of step.
#[derive(Clone, Copy, Default)]
struct Worst {
    values: usize,
    unequal: usize,
    rel: f64,
}

/// Checks a plan's CUDA program on a GPU: the variant that is asked for, or each.
///
/// # Errors
/// [`ToolError::Differs`] where a launch's results differ by more than the limit, and everything that can go wrong with the plan.
pub fn check(options: &CheckOptions, out: &mut dyn Write) -> Result<(), ToolError> {
    let plan = Arc::new(open_plan(&options.target.plan, &options.target.opening)?);
    let cuda = plan.manifest().cuda.as_ref().ok_or(SessionError::NotForCuda)?;
    let asked = options.target.options.variant.as_deref();
    let mut count = 0;
    let named: Vec<&Variant> = cuda.variants.iter().filter(|v| asked.is_none_or(|asked| v.name == asked)).collect();
    if let (Some(name), true) = (asked, named.is_empty()) {
        let known = cuda.variants.iter().map(|v| v.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(SessionError::UnknownVariant { name: name.to_owned(), known }.into());
    }
    for variant in named {
        if cuda.variants.len() > 1 {
            writeln!(out, "variant {}", variant.name)?;
        }
        count += check_variant(options, &plan, variant, out)?;
    }
    if count == 0 { Ok(()) } else { Err(ToolError::Differs { count }) }
}

/// Checks one variant; gives the number of results that differ by more than the limit.
fn check_variant(options: &CheckOptions, plan: &Arc<Plan>, variant: &Variant, out: &mut dyn Write) -> Result<usize, ToolError> {
    let mut target = options.target.options.clone();
    target.variant = Some(variant.name.clone());
    target.cuda.kernels_only = options.kernels_only;
    let gpu = Session::new(plan.clone(), options.target.device, target.clone())?;
    let reference = SessionOptions { cuda_program: true, sparse_form: SparseForm::Compressed, ..target };
    let cpu = Session::new(plan.clone(), Device::Cpu, reference)?;
    let shape = symbols::complete(&options.symbols, gpu.symbols())?;
    let launches = Launches::new(variant);
    let mut worst: BTreeMap<(&'static str, DType), Worst> = BTreeMap::new();
    let mut bad: BTreeMap<String, f64> = BTreeMap::new();
    let mut end_to_end: f64 = 0.0;
    for round in 0..options.rounds.max(1) as u64 {
        let tensors = random::inputs(gpu.inputs(), &shape, options.seed + round)?;
        let views: Vec<(&str, TensorView<'_>)> = tensors.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
        let mut known: BTreeMap<String, Tensor> = BTreeMap::new();
        let expected = cpu.run_traced(&views, &mut |step| {
            for value in step.values {
                known.insert(value.name.to_owned(), value.view.to_tensor());
            }
        })?;
        gpu.run_fed(&views, &|name| known.get(name).map(Tensor::view), &mut |step| {
            let quantized = launches.quantized_again(&step);
            for value in step.values {
                let again = quantized.as_ref().and_then(|made| made.get(value.name));
                let Some(want) = again.or_else(|| known.get(value.name)) else { continue };
                let dtype = value.view.dtype;
                let of_kind = worst.entry((step.op.name(), dtype)).or_default();
                of_kind.values += 1;
                let unequal = value.view.data != want.bytes();
                of_kind.unequal += usize::from(unequal);
                let rel = if unequal { relative_error(value.view, want.view()) } else { 0.0 };
                of_kind.rel = worse(of_kind.rel, rel);
                let limit = if again.is_some() { 0.0 } else { launches.limit(step.index, dtype, options.limit) };
                if rel.is_nan() || rel > limit {
                    let entry = bad.entry(format!("{} ({}): {}", step.name, step.op.name(), value.name)).or_default();
                    *entry = worse(*entry, rel);
                }
            }
        })?;
        if options.kernels_only {
            continue;
        }
        let got = gpu.run(&views)?;
        for ((_, got), (_, want)) in got.iter().zip(&expected) {
            end_to_end = worse(end_to_end, relative_error(got.view(), want.view()));
        }
    }
    writeln!(
        out,
        "{} against the CPU, {}, {} sets of inputs",
        options.target.device,
        symbols::format(&shape),
        options.rounds.max(1)
    )?;
    writeln!(out, "  {:<22} {:<7} {:>7} {:>9} {:>12}", "OPERATOR", "TYPE", "VALUES", "NOT EQUAL", "WORST ERROR")?;
    for ((op, dtype), w) in &worst {
        writeln!(out, "  {op:<22} {:<7} {:>7} {:>9} {:>12.2e}", dtype.name(), w.values, w.unequal, w.rel)?;
    }
    if options.kernels_only {
        writeln!(out, "  end to end: left out, as are {} products by libraries", launches.products())?;
    } else {
        writeln!(out, "  end to end: worst relative error {end_to_end:.2e}")?;
    }
    for (what, rel) in &bad {
        writeln!(out, "  WRONG {rel:.2e}  {what}")?;
    }
    Ok(bad.len())
}

/// How far products of 8-bit floats over K elements may be from those in f32: tensor cores of compute capability 9.0 keep sums in about 14
/// bits, and cut off what does not fit for each 32 elements along K.
pub fn f8_limit(k: usize) -> f64 {
    k.div_ceil(32) as f64 / f64::from(1 << 13)
}

/// What the launches of a CUDA program do, by the position of each one's last step.
struct Launches<'s> {
    variant: &'s Variant,
    /// The positions of the steps.
    steps: BTreeMap<usize, Range<usize>>,
}

impl<'s> Launches<'s> {
    fn new(variant: &'s Variant) -> Self {
        let steps = variant.launched().map(|(steps, _)| (steps.end.saturating_sub(1), steps)).collect();
        Launches { variant, steps }
    }

    /// How many launches are products by libraries.
    fn products(&self) -> usize {
        self.variant.launches.iter().filter(|launch| matches!(launch.work, Work::Product)).count()
    }

    fn program(&self) -> &'s Program {
        &self.variant.program
    }

    fn of(&self, last: usize) -> &'s [Step] {
        self.steps.get(&last).and_then(|range| self.program().steps.get(range.clone())).unwrap_or_default()
    }

    fn dtype(&self, value: ValueId) -> Option<DType> {
        Some(self.program().values.get(value.0 as usize)?.ty.dtype)
    }

    /// How far results of a type may be from the CPU's.
    fn limit(&self, last: usize, dtype: DType, limit: f64) -> f64 {
        let steps = self.of(last);
        let narrow = |step: &Step| {
            let results = step.outputs.iter().filter_map(|o| self.dtype(*o));
            results.into_iter().any(|dtype| matches!(dtype, DType::F16 | DType::Bf16))
        };
        let quantizes = steps.last().is_some_and(|step| matches!(step.op, Op::QuantLift(_)));
        match dtype {
            _ if quantizes && has_fused_multiply_add() && steps.iter().all(|step| exact::is_exact(&step.op)) => 0.0,
            DType::F16 | DType::Bf16 => 1000.0 * limit,
            DType::F32 | DType::F64 if steps.iter().any(narrow) => 1000.0 * limit,
            DType::F32 | DType::F64 => steps.iter().map(|step| self.f8_limit(step)).fold(limit, f64::max),
            DType::I8 | DType::F8e4m3 if steps.len() > 1 => 500.0 * limit,
            _ => 0.0,
        }
    }

    /// [`f8_limit`] for a step that multiplies 8-bit floats, 0 for all others.
    fn f8_limit(&self, step: &Step) -> f64 {
        let product = matches!(step.op, Op::SparseGemm(_) | Op::DenseGemm(_));
        let x = step.inputs.first().copied().flatten().and_then(|v| self.program().values.get(v.0 as usize));
        let k = x.filter(|x| product && x.ty.dtype == DType::F8e4m3).and_then(|x| x.ty.shape.last()?.as_usize());
        k.map_or(0.0, f8_limit)
    }

    /// What the CPU quantizes to what the launch has left in memory, where it quantizes that in the same launch.
    fn quantized_again(&self, trace: &StepTrace<'_>) -> Option<BTreeMap<String, Tensor>> {
        let steps = self.of(trace.index);
        let (last, program) = (steps.last().filter(|_| steps.len() > 1)?, self.program());
        let (Op::QuantLift(op), [Some(x)]) = (&last.op, &last.inputs[..]) else { return None };
        let name = |id: ValueId| &program.values[id.0 as usize].name;
        let made = trace.values.iter().find(|v| v.name == *name(*x))?;
        let results = eval(&op.clone().into(), &[Some(made.view)]).ok()?;
        Some(last.outputs.iter().map(|o| name(*o).clone()).zip(results).collect())
    }
}

fn worse(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// ‖a − b‖₂ / ‖b‖₂, where NaN equals NaN; NaN when one has it and the other has not.
fn relative_error(a: TensorView<'_>, b: TensorView<'_>) -> f64 {
    let wide = |x: TensorView<'_>| {
        eval(&Cast { to: DType::F64 }.into(), &[Some(x)]).ok().and_then(|t| t[0].as_slice::<f64>().map(<[f64]>::to_vec))
    };
    let (Some(a), Some(b)) = (wide(a), wide(b)) else { return f64::NAN };
    let (mut difference, mut norm) = (0.0, 0.0);
    for (a, b) in a.iter().zip(&b) {
        if a == b || a.is_nan() && b.is_nan() {
            norm += if b.is_finite() { b * b } else { 0.0 };
            continue;
        }
        difference += (a - b) * (a - b);
        norm += b * b;
    }
    if difference == 0.0 { 0.0 } else { (difference / norm.max(f64::MIN_POSITIVE)).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_and_nan_must_match() {
        let t = |v: &[f32]| Tensor::from_slice(&[v.len()], v).unwrap();
        let error = |a: &[f32], b: &[f32]| relative_error(t(a).view(), t(b).view());
        assert!((error(&[3.0, 4.5], &[3.0, 4.0]) - 0.1).abs() < 1e-12);
        assert_eq!(error(&[f32::NAN, 1.0], &[f32::NAN, 1.0]), 0.0);
        assert!(error(&[f32::NAN, 1.0], &[0.0, 1.0]).is_nan());
        assert!(error(&[0.0, 1.0], &[f32::INFINITY, 1.0]).is_nan());
    }
}
