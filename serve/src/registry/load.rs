//! From a plan's file to a model: sessions on all devices that share the plan and, on each device, the weights.

use std::sync::Arc;

use sliderun::plan::{Plan, PlanOptions};
use sliderun::session::{Device, Session, SessionError, SessionOptions};

use super::source::Location;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::model::execute::Execute;
use crate::model::{Instance, Model};

/// Loads a plan and starts its instances. A device that fails leaves its instances out, unless it is the last one.
pub fn load(name: &str, location: &Location, config: &Config, metrics: &Arc<Metrics>) -> Result<Model, String> {
    let opening = PlanOptions::default().with_no_mmap(config.no_mmap).with_signers(config.require_signature.clone());
    let plan = Arc::new(Plan::open_with(&location.path, &opening).map_err(|e| e.to_string())?);
    let (mut instances, mut first, mut failed) = (Vec::<Instance>::new(), None, None);
    for &device in &config.device {
        match sessions(&plan, device, config) {
            Ok(sessions) => {
                first = first.or_else(|| sessions.first().cloned());
                instances.extend(sessions.into_iter().map(|s| (device, Some(Box::new(s) as Box<dyn Execute>))));
            }
            Err(error) => {
                tracing::error!(model = name, %device, %error, "the device cannot run the plan: its instances are left out");
                instances.push((device, None));
                failed = Some(error);
            }
        }
    }
    let session = first.ok_or_else(|| failed.map_or_else(|| "no device was given".to_owned(), |e| e.to_string()))?;
    Model::start(name, &location.version, session, instances, &config.policy(), metrics.clone())
}

fn sessions(plan: &Arc<Plan>, device: Device, config: &Config) -> Result<Vec<Session>, SessionError> {
    let options = SessionOptions::default().with_threads(config.threads).with_memory_limit(config.max_run_bytes);
    let first = Session::new(plan.clone(), device, options)?;
    let more = (1..config.instances).map(|_| first.share(None)).collect::<Result<Vec<_>, _>>()?;
    Ok(std::iter::once(first).chain(more).collect())
}

/// Reads the memory of the GPUs among these devices.
pub fn gpu_memory(devices: &[Device], metrics: &Metrics) {
    for device in devices {
        let Device::Cuda(ordinal) = *device else { continue };
        if let Some((free, total)) = memory(ordinal) {
            metrics.set_gpu_memory(&device.to_string(), total.saturating_sub(free) as u64, total as u64);
        }
    }
}

/// Free and total bytes of a GPU's memory.
fn memory(ordinal: usize) -> Option<(usize, usize)> {
    sliderun::cuda::driver::Context::new(ordinal).and_then(|context| context.memory()).ok()
}
