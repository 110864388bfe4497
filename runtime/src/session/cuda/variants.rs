//! The variants of a plan on a GPU: each made ready when a shape first needs it, and which one that is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::program::named_variant;
use super::super::{Port, SessionError, SessionOptions};
use super::Gpu;
use super::base::Base;
use super::report::{Because, CudaReport, VariantChoice};
use crate::cuda::m_bucket;
use crate::dim::Bindings;
use crate::plan::Plan;
use crate::plan::manifest::{Program, ValueId};

/// See the module documentation.
pub struct Variants {
    pub base: Base,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    /// The one that always runs, where that is certain.
    only: Option<usize>,
    /// By position.
    ready: Mutex<Vec<Ready>>,
    chosen: Mutex<BTreeMap<u64, VariantChoice>>,
}

/// A variant, perhaps made ready.
type Ready = (usize, Arc<Gpu>);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

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
        let variants = Variants { base, inputs, outputs, only, ready: Mutex::default(), chosen: Mutex::default() };
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
    pub fn rows(&self, symbols: &Bindings) -> Result<u64, SessionError> {
        let rows = &self.base.cuda().rows;
        let fail = |e: crate::dim::DimError| SessionError::Rows { rows: rows.to_string(), reason: e.to_string() };
        Ok(m_bucket(rows.eval_usize(symbols).map_err(fail)?) as u64)
    }

    /// The variant for so many rows.
    pub fn choose(&self, rows: u64) -> usize {
        if let Some(only) = self.only {
            return only;
        }
        let position = self.base.cuda().preferred(rows);
        let name = self.base.variant(position).name.clone();
        let choice = || VariantChoice { rows, variant: name, because: Because::Estimated, times: Vec::new() };
        let mut chosen = lock(&self.chosen);
        let choice = chosen.entry(rows).or_insert_with(choice);
        self.base.cuda().position(&choice.variant).unwrap_or(position)
    }

    pub fn report(&self) -> CudaReport {
        let (plans, choices) = self.base.plans.made_so_far();
        let name = |(position, _): &Ready| self.base.variant(*position).name.clone();
        CudaReport {
            load: self.base.load_times(),
            weights: self.base.plans.weights(),
            plans,
            choices,
            variants: lock(&self.ready).iter().map(name).collect(),
            variant_choices: lock(&self.chosen).values().cloned().collect(),
            constant_bytes: self.base.constant_bytes(),
            warnings: Vec::new(),
        }
    }
}

/// A program's inputs and outputs.
fn ports(program: &Program) -> (Vec<Port>, Vec<Port>) {
    let ty = |v: ValueId| program.values[v.0 as usize].ty.clone();
    let input = |v: &ValueId| Port { name: program.values[v.0 as usize].name.clone(), ty: ty(*v) };
    let inputs = program.inputs.iter().map(input).collect();
    (inputs, program.outputs.iter().map(|o| Port { name: o.name.clone(), ty: ty(o.value) }).collect())
}
