//! A loaded plan that answers requests: what it takes, the queue before it, and the instances that run its batches.
//!
//! Must not know: protocols' wire forms, where plans come from.

pub mod axes;
pub mod execute;
mod instance;

use std::sync::Arc;
use std::time::{Duration, Instant};

use sliderun::session::{Device, Port, Session, SessionError};
use sliderun::tensor::Tensor;
use tokio::sync::oneshot;

use crate::batcher::queue::{Entry, Limits, Refused};
use crate::error::InferError;
use crate::metrics::Metrics;
use crate::protocol::{self, InferRequest, InferResponse};
use axes::{Axes, Padding};
use execute::Execute;
use instance::{Job, Shared};

/// How requests for a model are queued and joined.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What bounds the queue.
    pub limits: Limits,
    /// What may be filled up.
    pub padding: Padding,
}

/// An instance to be: a device, and what runs batches there; nothing where the device has failed already.
pub type Instance = (Device, Option<Box<dyn Execute>>);

/// See the module documentation.
pub struct Model {
    name: String,
    version: String,
    digest: String,
    session: Session,
    shared: Arc<Shared>,
}

/// Why a request has no answer here.
#[derive(Debug)]
pub enum Declined {
    /// The model takes no more requests; another may have taken its place. The request comes back.
    Closed(InferRequest),
    /// What the client is told.
    Failed(InferError),
}

impl From<InferError> for Declined {
    fn from(error: InferError) -> Self {
        Declined::Failed(error)
    }
}

impl Model {
    /// Starts `instances`. `session` says what the plan takes; it need not run anything.
    ///
    /// # Errors
    /// Element types that the protocol does not have, padding that does not fit, threads that cannot be started.
    pub fn start(
        name: &str,
        version: &str,
        session: Session,
        instances: Vec<Instance>,
        policy: &Policy,
        metrics: Arc<Metrics>,
    ) -> Result<Model, String> {
        let ports = || session.inputs().iter().chain(session.outputs());
        if let Some(port) = ports().find(|p| protocol::datatype(p.ty.dtype).is_none()) {
            return Err(format!("{port} cannot be served: the protocol has no name for {}", port.ty.dtype));
        }
        let axes = Axes::new(session.inputs(), session.outputs(), session.symbols(), &policy.padding)?;
        let mut limits = policy.limits;
        match axes.batch() {
            Ok(symbol) => {
                let most = session.symbols().iter().find(|s| s.name == symbol).and_then(|s| usize::try_from(s.max).ok());
                limits.max_rows = limits.max_rows.min(most.unwrap_or(usize::MAX)).max(1);
                tracing::info!(model = name, batch = symbol, max_rows = limits.max_rows, "requests are joined along this axis");
            }
            Err(reason) => {
                limits.max_rows = 1;
                tracing::info!(model = name, reason, "requests run one by one");
            }
        }
        for (symbol, sizes) in axes.padded() {
            tracing::info!(model = name, symbol, ?sizes, "extents are filled up");
        }
        let inputs = session.inputs().iter().map(|p| p.name.clone()).collect();
        let shared = Arc::new(Shared::new(name, limits, axes, inputs, metrics));
        Shared::start(&shared, instances)?;
        let digest = session.plan().digest().to_string();
        Ok(Model { name: name.to_owned(), version: version.to_owned(), digest, session, shared })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The digest of its plan.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What it takes.
    pub fn inputs(&self) -> &[Port] {
        self.session.inputs()
    }

    /// What it gives.
    pub fn outputs(&self) -> &[Port] {
        self.session.outputs()
    }

    /// Whether some instance runs and new requests are taken.
    pub fn is_ready(&self) -> bool {
        self.shared.is_ready()
    }

    /// Instances that run, by device; devices that have failed are there with 0.
    pub fn instances(&self) -> Vec<(Device, usize)> {
        self.shared.instances()
    }

    /// How many requests wait.
    pub fn queued(&self) -> usize {
        self.shared.queued()
    }

    /// Says at once what a full queue will say: before a request is read.
    ///
    /// # Errors
    /// [`InferError::Busy`].
    pub fn admit(&self) -> Result<(), InferError> {
        self.shared.admit()
    }

    /// Takes no more requests, and ends when those that it has are answered.
    pub fn close(&self) {
        self.shared.close();
    }

    /// Waits, blocking, until all instances have ended, after [`Model::close`].
    pub fn join(&self) {
        self.shared.join();
    }

    /// Runs a request, which came at `start`, in a batch with others. Who drops the future cancels the request.
    ///
    /// # Errors
    /// See [`Declined`].
    pub async fn infer(
        &self,
        request: InferRequest,
        start: Instant,
        deadline: Option<Instant>,
    ) -> Result<InferResponse, Declined> {
        let (reply, answer) = oneshot::channel();
        let wanted = self.wanted(&request)?;
        let (outputs, shapes) = self.check(&request.inputs)?;
        let placement = self.shared.axes().place(&shapes.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let InferRequest { id, inputs, outputs: requested, binary, timeout } = request;
        let job = Job { inputs: self.arrange(inputs), outputs, reply, attempts: 0 };
        let entry = Entry { key: placement.key, rows: placement.rows, enqueued: start, deadline, item: job };
        match self.shared.push(entry) {
            Ok(()) => {}
            Err(Refused::Full(_)) => return Err(self.shared.busy().into()),
            Err(Refused::Closed(entry)) => {
                let named = self.inputs().iter().map(|p| p.name.clone()).zip(entry.item.inputs).collect();
                return Err(Declined::Closed(InferRequest { id, inputs: named, outputs: requested, binary, timeout }));
            }
        }
        let answered = match deadline {
            None => answer.await,
            Some(at) => tokio::time::timeout_at(at.into(), answer).await.map_err(|_| InferError::Deadline)?,
        };
        let tensors = answered.map_err(|_| InferError::Internal("the instance that ran the request has gone".to_owned()))??;
        self.shared.metrics().latency(&self.name, start.elapsed());
        let mut tensors: Vec<Option<Tensor>> = tensors.into_iter().map(Some).collect();
        let named = wanted.into_iter().filter_map(|(at, binary)| {
            let tensor = tensors.get_mut(at)?.take()?;
            Some((self.outputs()[at].name.clone(), tensor, binary))
        });
        Ok(InferResponse { model: self.name.clone(), version: self.version.clone(), id, outputs: named.collect() })
    }

    /// Positions of the outputs that are wanted, each once, and whether in binary form.
    fn wanted(&self, request: &InferRequest) -> Result<Vec<(usize, bool)>, InferError> {
        if request.outputs.is_empty() {
            return Ok((0..self.outputs().len()).map(|at| (at, request.binary)).collect());
        }
        let known = || self.outputs().iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
        let mut wanted: Vec<(usize, bool)> = Vec::with_capacity(request.outputs.len());
        for output in &request.outputs {
            let position = self.outputs().iter().position(|p| p.name == output.name);
            let at = position
                .ok_or_else(|| InferError::Invalid(format!("there is no output '{}': there are {}", output.name, known())))?;
            if wanted.iter().any(|(other, _)| *other == at) {
                return Err(InferError::Invalid(format!("output '{}' is asked for twice", output.name)));
            }
            wanted.push((at, output.binary.unwrap_or(request.binary)));
        }
        Ok(wanted)
    }

    /// The shapes of outputs and of inputs in the plan's order, for inputs that fit the plan.
    #[allow(clippy::type_complexity)]
    fn check(&self, inputs: &[(String, Tensor)]) -> Result<(Vec<Vec<usize>>, Vec<Vec<usize>>), InferError> {
        let invalid = |e: SessionError| InferError::Invalid(e.to_string());
        let shapes: Vec<(&str, &[usize])> = inputs.iter().map(|(name, t)| (name.as_str(), t.shape())).collect();
        let outputs = self.session.output_shapes(&shapes).map_err(invalid)?;
        let mut arranged = Vec::with_capacity(self.inputs().len());
        for port in self.inputs() {
            // That each is there, once, has just been checked.
            let Some((_, tensor)) = inputs.iter().find(|(name, _)| *name == port.name) else { continue };
            if tensor.dtype() != port.ty.dtype {
                let given = protocol::datatype(tensor.dtype()).unwrap_or("?");
                let expected = protocol::datatype(port.ty.dtype).unwrap_or("?");
                return Err(InferError::Invalid(format!("input '{}': {expected} expected, {given} given", port.name)));
            }
            arranged.push(tensor.shape().to_vec());
        }
        Ok((outputs, arranged))
    }

    fn arrange(&self, mut inputs: Vec<(String, Tensor)>) -> Vec<Tensor> {
        let position = |name: &str| self.inputs().iter().position(|p| p.name == name);
        inputs.sort_by_key(|(name, _)| position(name));
        inputs.into_iter().map(|(_, tensor)| tensor).collect()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        self.close();
    }
}

/// When a request that came at `start` is of no use any more.
pub fn deadline(start: Instant, timeout: Option<Duration>) -> Option<Instant> {
    // One that is farther away than clocks go is none.
    timeout.and_then(|t| start.checked_add(t))
}
