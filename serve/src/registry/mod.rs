//! The models by name: loaded, replaced while requests run, unloaded.
//!
//! A plan that is loaded anew takes the old one's place in one step. The old one answers the requests that it has and then ends; a request that
//! finds it closed goes to the new one.

mod load;
mod source;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use crate::config::Config;
use crate::error::InferError;
use crate::metrics::Metrics;
use crate::model::{Declined, Model};
use crate::protocol::messages::IndexEntry;
use crate::protocol::{InferRequest, InferResponse};
use source::{Location, Source};

/// How often a request may find that the model it was given to has been replaced.
const MAX_REPLACED: usize = 8;

/// See the module documentation.
pub struct Registry {
    config: Config,
    source: Source,
    slots: RwLock<BTreeMap<String, Slot>>,
    /// Held while a plan is loaded: one at a time.
    loading: tokio::sync::Mutex<()>,
    draining: AtomicBool,
    metrics: Arc<Metrics>,
}

/// What is known of a model.
#[derive(Default)]
struct Slot {
    model: Option<Arc<Model>>,
    /// The file that was loaded last, or tried.
    location: Option<Location>,
    /// Why there is no model, or why the last load failed.
    reason: String,
}

impl Registry {
    /// Loads all plans that the command line names.
    ///
    /// # Errors
    /// The first plan that cannot be loaded, two of one name, none at all.
    pub fn open(config: Config, metrics: Arc<Metrics>) -> Result<Registry, String> {
        let source = Source::new(&config.plans)?;
        let registry = Registry {
            source,
            slots: RwLock::default(),
            loading: tokio::sync::Mutex::default(),
            draining: AtomicBool::new(false),
            metrics,
            config,
        };
        let locations = registry.source.all()?;
        if locations.is_empty() {
            return Err("there is no plan in these folders: FOLDER/NAME/VERSION/model.slide was expected".to_owned());
        }
        for (name, location) in locations {
            registry.install(&name, location)?;
        }
        let unknown = |input: &&String| !registry.models().iter().any(|m| m.inputs().iter().any(|p| p.name == **input));
        if let Some(input) = registry.config.pad.iter().map(|(name, _)| name).find(unknown) {
            return Err(format!("--pad {input}: no model has an input of that name"));
        }
        Ok(registry)
    }

    /// The metrics of all models.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The model of that name and version, where it is loaded. An empty version is the one that is there.
    ///
    /// # Errors
    /// [`InferError::NotFound`], and [`InferError::Unavailable`] for a model that was unloaded.
    pub fn model(&self, name: &str, version: &str) -> Result<Arc<Model>, InferError> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = slots.get(name) else {
            let known = slots.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(InferError::NotFound(format!("there is no model '{name}': there are {known}")));
        };
        match &slot.model {
            None => Err(InferError::Unavailable(format!("model '{name}' is not loaded: {}", slot.reason))),
            Some(model) if !version.is_empty() && version != model.version() => {
                let found = model.version();
                Err(InferError::NotFound(format!("model '{name}' has no version '{version}': it has {found}")))
            }
            Some(model) => Ok(model.clone()),
        }
    }

    /// All models that are loaded.
    pub fn models(&self) -> Vec<Arc<Model>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.values().filter_map(|slot| slot.model.clone()).collect()
    }

    /// Whether all models that are loaded take requests, and the program is not about to end.
    pub fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed) && self.models().iter().all(|m| m.is_ready())
    }

    /// From now on the server is not ready. Requests are answered none the less.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Runs a request that came at `start`.
    ///
    /// # Errors
    /// See [`InferError`].
    pub async fn infer(
        &self,
        name: &str,
        version: &str,
        mut request: InferRequest,
        start: Instant,
        deadline: Option<Instant>,
    ) -> Result<InferResponse, InferError> {
        for _ in 0..MAX_REPLACED {
            match self.model(name, version)?.infer(request, start, deadline).await {
                Ok(response) => return Ok(response),
                Err(Declined::Failed(error)) => return Err(error),
                Err(Declined::Closed(back)) => request = back,
            }
        }
        Err(InferError::Unavailable(format!("model '{name}' is being replaced: try again")))
    }

    /// Loads a model, or loads it anew.
    ///
    /// # Errors
    /// A name that is unknown, a plan that cannot be loaded: what was there before stays.
    pub async fn load(self: &Arc<Self>, name: &str) -> Result<(), InferError> {
        self.controlled()?;
        let location = self.source.find(name).map_err(InferError::NotFound)?;
        self.replace(name, location).await.map_err(InferError::Invalid)
    }

    /// Takes a model out of service. Requests that it has accepted are answered.
    ///
    /// # Errors
    /// A name that is unknown.
    pub async fn unload(self: &Arc<Self>, name: &str) -> Result<(), InferError> {
        self.controlled()?;
        let _one_at_a_time = self.loading.lock().await;
        let old = {
            let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
            let Some(slot) = slots.get_mut(name) else {
                return Err(InferError::NotFound(format!("there is no model '{name}'")));
            };
            slot.reason = "unloaded".to_owned();
            slot.model.take()
        };
        tracing::info!(model = name, "unloaded");
        old.into_iter().for_each(retire);
        Ok(())
    }

    /// What there is and in which state.
    pub fn index(&self, ready: bool) -> Vec<IndexEntry> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let entry = |(name, slot): (&String, &Slot)| {
            let state = if slot.model.as_ref().is_some_and(|m| m.is_ready()) { "READY" } else { "UNAVAILABLE" };
            let version = slot.model.as_ref().map_or_else(String::new, |m| m.version().to_owned());
            IndexEntry { name: name.clone(), version, state, reason: slot.reason.clone() }
        };
        slots.iter().map(entry).filter(|e| !ready || e.state == "READY").collect()
    }

    /// Loads anew each plan whose file is another one than the one that was loaded, until dropped.
    pub async fn watch(self: Arc<Self>) {
        if self.config.watch.is_zero() {
            return;
        }
        loop {
            tokio::time::sleep(self.config.watch).await;
            for (name, location) in self.changed() {
                tracing::info!(model = name, file = %location.path.display(), "the plan has been replaced");
                // The old plan stays where the new one cannot be loaded; the reason has been logged.
                let _ = self.replace(&name, location).await;
            }
        }
    }

    /// Models in service whose file has been replaced.
    fn changed(&self) -> Vec<(String, Location)> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let changed = |(name, slot): (&String, &Slot)| {
            let found = self.source.find(name).ok()?;
            (slot.model.is_some() && slot.location.as_ref() != Some(&found)).then(|| (name.clone(), found))
        };
        slots.iter().filter_map(changed).collect()
    }

    /// Writes what is read at the time into the metrics, and gives all of them.
    pub fn metrics_text(&self) -> String {
        for model in self.models() {
            self.metrics.set_depth(model.name(), model.queued());
            for (device, count) in model.instances() {
                self.metrics.set_instances(model.name(), &device.to_string(), count);
            }
        }
        load::gpu_memory(&self.config.device, &self.metrics);
        self.metrics.encode()
    }

    fn controlled(&self) -> Result<(), InferError> {
        match self.config.no_control {
            true => Err(InferError::Unsupported("models are not loaded and unloaded on request here (--no-control)".to_owned())),
            false => Ok(()),
        }
    }

    async fn replace(self: &Arc<Self>, name: &str, location: Location) -> Result<(), String> {
        let _one_at_a_time = self.loading.lock().await;
        let (registry, owned) = (self.clone(), name.to_owned());
        let loading = tokio::task::spawn_blocking(move || registry.install(&owned, location));
        loading.await.unwrap_or_else(|e| Err(format!("loading has ended early: {e}")))
    }

    /// Loads a plan and puts it in the old one's place. Blocks.
    fn install(&self, name: &str, location: Location) -> Result<(), String> {
        let start = Instant::now();
        let loaded = load::load(name, &location, &self.config, &self.metrics);
        self.metrics.loaded(name, loaded.is_ok());
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        let slot = slots.entry(name.to_owned()).or_default();
        let file = location.path.display().to_string();
        slot.location = Some(location);
        match loaded {
            Ok(model) => {
                tracing::info!(model = name, file, digest = model.digest(), seconds = start.elapsed().as_secs_f64(), "loaded");
                slot.reason = String::new();
                let old = slot.model.replace(Arc::new(model));
                drop(slots);
                old.into_iter().for_each(retire);
                Ok(())
            }
            Err(reason) => {
                tracing::error!(model = name, file, reason, "the plan cannot be loaded");
                slot.reason = reason.clone();
                Err(format!("model '{name}': {reason}"))
            }
        }
    }
}

/// Lets a model answer what it has accepted and end.
fn retire(model: Arc<Model>) {
    model.close();
    // Requests that still hold the model keep it; its threads end on their own.
    std::thread::spawn(move || {
        model.join();
        tracing::info!(model = model.name(), digest = model.digest(), "the old plan has answered its last request");
    });
}
