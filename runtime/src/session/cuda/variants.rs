//! The variants of a plan on a GPU: each made ready when a shape first needs it, and which one that is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::super::program::named_variant;
use super::super::{Port, SessionError, SessionOptions};
use super::base::Base;
use super::options::{CudaOptions, TimingsFile, Tuning};
use super::report::{Because, CudaReport, VariantChoice};
use super::trial;
use super::{Gpu, lock};
use crate::cuda::m_bucket;
use crate::dim::Bindings;
use crate::plan::Plan;
use crate::plan::manifest::{Program, ValueId};
use crate::timings::{Timings, VariantTimes};

/// Where choices are in the cache.
const KIND: &str = "variants";

/// See the module documentation.
pub struct Variants {
    pub base: Base,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// The one that always runs, where that is certain.
    only: Option<usize>,
    tuning: Tuning,
    /// What was measured before, as the plan came with it.
    timings: Timings,
    warnings: Mutex<Vec<String>>,
    ready: Mutex<Vec<Ready>>,
    /// By rows.
    chosen: Mutex<BTreeMap<u64, VariantChoice>>,
    measuring: Mutex<()>,
}

/// What is known of the variant for a shape.
pub enum Decision {
    /// The variant at this position runs.
    Certain(usize),
    /// The variants are to be measured for so many rows; the one at `preferred` has to run, others may be left out.
    Measure { rows: u64, preferred: usize, budget: Duration },
}

/// A variant's position, and the variant made ready.
type Ready = (usize, Arc<Gpu>);

impl Variants {
    /// For the device of this ordinal. Where it is certain which variant runs, that is made ready.
    ///
    /// # Errors
    /// As [`Base::new`] and [`Gpu::new`]; a variant that the plan does not have.
    pub fn new(plan: Arc<Plan>, ordinal: usize, options: &SessionOptions) -> Result<Variants, SessionError> {
        let base = Base::new(plan, ordinal, &options.cuda)?;
        let cuda = base.cuda();
        let named = named_variant(cuda, options.variant.as_deref())?;
        let only = named.or_else(|| (cuda.variants.len() == 1).then_some(0));
        // All variants are called alike.
        let (inputs, outputs) = ports(&base.plan.manifest().program);
        let (timings, warnings) = if only.is_none() { timings(&base, &options.cuda) } else { Default::default() };
        let variants = Variants {
            base,
            inputs,
            outputs,
            only,
            tuning: options.cuda.tuning,
            timings,
            warnings: Mutex::new(warnings),
            ready: Mutex::default(),
            chosen: Mutex::default(),
            measuring: Mutex::default(),
        };
        if let Some(only) = only {
            variants.get(only)?;
        }
        Ok(variants)
    }

    /// A variant, made ready when it is first asked for.
    ///
    /// # Errors
    /// As [`Gpu::new`].
    pub fn get(&self, position: usize) -> Result<Arc<Gpu>, SessionError> {
        let mut ready = lock(&self.ready);
        if let Some((_, gpu)) = ready.iter().find(|(at, _)| *at == position) {
            return Ok(gpu.clone());
        }
        let gpu = Arc::new(Gpu::new(&self.base, position)?);
        ready.push((position, gpu.clone()));
        Ok(gpu)
    }

    /// The rows by which a variant is chosen for these values of the symbols, as products pad them.
    fn rows(&self, symbols: &Bindings) -> Result<u64, SessionError> {
        let rows = &self.base.cuda().rows;
        let fail = |e: crate::dim::DimError| SessionError::Rows { rows: rows.to_string(), reason: e.to_string() };
        Ok(m_bucket(rows.eval_usize(symbols).map_err(fail)?) as u64)
    }

    /// Which variant runs for these values of the symbols, or that it has to be measured.
    ///
    /// # Errors
    /// Rows that have no value.
    pub fn decide(&self, symbols: &Bindings) -> Result<Decision, SessionError> {
        if let Some(only) = self.only {
            return Ok(Decision::Certain(only));
        }
        let (rows, cuda) = (self.rows(symbols)?, self.base.cuda());
        if let Some(position) = lock(&self.chosen).get(&rows).and_then(|c| cuda.position(&c.variant)) {
            return Ok(Decision::Certain(position));
        }
        if self.tuning.remembers()
            && let Some(times) = self.remembered(rows)
            && let Some(position) = cuda.position(&times.fastest)
        {
            let micros = |(name, micros): (&String, &f64)| Some((name.clone(), Duration::try_from_secs_f64(micros / 1e6).ok()?));
            let times = times.micros.iter().filter_map(micros).collect();
            return Ok(Decision::Certain(self.settle(rows, position, Because::Remembered, times)));
        }
        let preferred = cuda.preferred(rows);
        Ok(match self.tuning.trial() {
            Some(budget) if !self.base.kernels_only => Decision::Measure { rows, preferred, budget },
            _ => Decision::Certain(self.settle(rows, preferred, Because::Estimated, Vec::new())),
        })
    }

    /// Held while variants are measured.
    pub fn alone(&self) -> MutexGuard<'_, ()> {
        lock(&self.measuring)
    }

    /// Says that a variant is left out of what is measured: what cannot run, for want of memory or of a library, is not the
    /// fastest.
    pub fn leave_out(&self, position: usize, because: &SessionError) {
        let warning = format!("variant {} is left out: {because}", self.base.variant(position).name);
        let mut warnings = lock(&self.warnings);
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Decides on the fastest of the variants at these positions, and remembers; gives its place in the list.
    pub fn settle_measured(&self, rows: u64, measured: Vec<(usize, Duration)>) -> usize {
        let variant = |position: usize| self.base.variant(position);
        let sparse = |(position, time): &(usize, Duration)| (variant(*position).sparse_share().sparse, *time);
        let fastest = trial::fastest(&measured.iter().map(sparse).collect::<Vec<_>>());
        let position = measured[fastest].0;
        let times: Vec<_> = measured.iter().map(|(at, time)| (variant(*at).name.clone(), *time)).collect();
        let choice = VariantChoice { rows, variant: variant(position).name.clone(), because: Because::Measured, times };
        let kept = choice.timed(&self.base.plan.digest().to_hex());
        if let (Some(cache), Ok(text)) = (self.base.plans.cache(), serde_json::to_vec(&kept)) {
            cache.keep(KIND, &self.key(rows), &text);
        }
        lock(&self.chosen).insert(rows, choice);
        fastest
    }

    fn settle(&self, rows: u64, position: usize, because: Because, times: Vec<(String, Duration)>) -> usize {
        let variant = self.base.variant(position).name.clone();
        lock(&self.chosen).insert(rows, VariantChoice { rows, variant, because, times });
        position
    }

    /// What was measured before for so many rows, beside the plan or on this machine.
    fn remembered(&self, rows: u64) -> Option<VariantTimes> {
        let plan = self.base.plan.digest().to_hex();
        if let Some(known) = self.timings.variants(self.base.machine(), &plan, rows) {
            return Some(known.clone());
        }
        serde_json::from_slice(&self.base.plans.cache()?.get(KIND, &self.key(rows))?).ok()
    }

    /// What a choice depends on.
    fn key(&self, rows: u64) -> String {
        format!("{}, plan {}, {rows} rows", self.base.machine(), self.base.plan.digest().to_hex())
    }

    pub fn report(&self) -> CudaReport {
        let (plans, choices) = self.base.plans.made_so_far();
        let name = |(position, _): &Ready| self.base.variant(*position).name.clone();
        let mut warnings = lock(&self.warnings).clone();
        warnings.extend(self.base.plans.cache().into_iter().flat_map(|cache| cache.troubles()));
        CudaReport {
            load: self.base.load_times(),
            weights: self.base.plans.weights(),
            plans,
            choices,
            variants: lock(&self.ready).iter().map(name).collect(),
            variant_choices: lock(&self.chosen).values().cloned().collect(),
            constant_bytes: self.base.constant_bytes(),
            warnings,
        }
    }
}

/// The timings that the options name, and what the user should know of them.
fn timings(base: &Base, options: &CudaOptions) -> (Timings, Vec<String>) {
    let path = match &options.timings {
        TimingsFile::Beside => base.plan.path().map(Timings::beside).filter(|path| path.exists()),
        TimingsFile::File(path) => Some(path.clone()),
        TimingsFile::Nowhere => None,
    };
    let Some(path) = path.filter(|_| options.tuning.remembers()) else { return Default::default() };
    match Timings::read(&path) {
        Ok(timings) => {
            let warning = timings.foreign(base.machine()).map(|what| format!("{}: {what}", path.display()));
            (timings, warning.into_iter().collect())
        }
        Err(e) => (Timings::default(), vec![format!("timings are not used: {e}")]),
    }
}

/// A program's inputs and outputs.
fn ports(program: &Program) -> (Vec<Port>, Vec<Port>) {
    let ty = |v: ValueId| program.values[v.0 as usize].ty.clone();
    let input = |v: &ValueId| Port { name: program.values[v.0 as usize].name.clone(), ty: ty(*v) };
    let inputs = program.inputs.iter().map(input).collect();
    (inputs, program.outputs.iter().map(|o| Port { name: o.name.clone(), ty: ty(o.value) }).collect())
}
