//! The threads that run a model's batches, and the state they share: the queue and which devices still work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use sliderun::session::Device;
use sliderun::tensor::Tensor;
use tokio::sync::oneshot;

use super::Instance;
use super::axes::Axes;
use super::execute::{Execute, Fault};
use crate::batcher::assemble;
use crate::batcher::queue::{Entry, Limits, Next, Queue, Refused, Waiting};
use crate::error::InferError;
use crate::metrics::Metrics;

/// How often a request may run again because the device failed under it. A request that brings devices down must not get all of them.
const MAX_ATTEMPTS: u32 = 1;

/// A request's tensors, and where the answer goes.
pub(super) struct Job {
    /// In the plan's order.
    pub inputs: Vec<Tensor>,
    /// Shapes of the outputs, in the plan's order.
    pub outputs: Vec<Vec<usize>>,
    pub reply: oneshot::Sender<Result<Vec<Tensor>, InferError>>,
    /// How often a device has failed under it.
    pub attempts: u32,
}

impl Waiting for Job {
    fn is_cancelled(&self) -> bool {
        self.reply.is_closed()
    }
}

type Batch = Vec<Entry<Job>>;

struct State {
    queue: Queue<Job>,
    /// Instances that run, by device.
    live: Vec<(Device, usize)>,
}

impl State {
    fn alive(&self) -> usize {
        self.live.iter().map(|(_, n)| n).sum()
    }

    fn count(&mut self, device: Device) -> Option<&mut usize> {
        self.live.iter_mut().find(|(d, _)| *d == device).map(|(_, n)| n)
    }
}

/// See the module documentation.
pub(super) struct Shared {
    name: String,
    limits: Limits,
    axes: Axes,
    inputs: Vec<String>,
    state: Mutex<State>,
    changed: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
    metrics: Arc<Metrics>,
}

impl Shared {
    pub fn new(name: &str, limits: Limits, axes: Axes, inputs: Vec<String>, metrics: Arc<Metrics>) -> Shared {
        Shared {
            name: name.to_owned(),
            limits,
            axes,
            inputs,
            state: Mutex::new(State { queue: Queue::new(limits), live: Vec::new() }),
            changed: Condvar::new(),
            threads: Mutex::default(),
            metrics,
        }
    }

    /// Starts a thread for each instance.
    pub fn start(shared: &Arc<Shared>, instances: Vec<Instance>) -> Result<(), String> {
        for (at, (device, executor)) in instances.into_iter().enumerate() {
            {
                let mut state = shared.state();
                let one = usize::from(executor.is_some());
                match state.count(device) {
                    Some(count) => *count += one,
                    None => state.live.push((device, one)),
                }
            }
            let Some(executor) = executor else { continue };
            let worker = shared.clone();
            let thread = std::thread::Builder::new()
                .name(format!("{}-{at}", shared.name))
                .spawn(move || worker.work(device, executor))
                .map_err(|e| format!("a thread for {device} cannot be started: {e}"))?;
            shared.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        }
        Ok(())
    }

    pub fn axes(&self) -> &Axes {
        &self.axes
    }

    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    pub fn is_ready(&self) -> bool {
        let state = self.state();
        state.alive() > 0 && !state.queue.is_closed()
    }

    pub fn instances(&self) -> Vec<(Device, usize)> {
        self.state().live.clone()
    }

    pub fn queued(&self) -> usize {
        self.state().queue.len()
    }

    pub fn busy(&self) -> InferError {
        InferError::Busy { model: self.name.clone(), queued: self.limits.capacity }
    }

    pub fn admit(&self) -> Result<(), InferError> {
        let mut state = self.state();
        if state.queue.is_full() {
            let of_no_use = state.queue.discard(Instant::now());
            let full = state.queue.is_full();
            drop(state);
            self.give_up(of_no_use);
            if full {
                return Err(self.busy());
            }
        }
        Ok(())
    }

    pub fn push(&self, entry: Entry<Job>) -> Result<(), Refused<Job>> {
        let mut state = self.state();
        if state.alive() == 0 && !state.queue.is_closed() {
            drop(state);
            self.answer(entry, Err(self.no_instance()));
            return Ok(());
        }
        let refused = state.queue.push(entry);
        drop(state);
        self.changed.notify_one();
        refused
    }

    pub fn close(&self) {
        self.state().queue.close();
        self.changed.notify_all();
    }

    pub fn join(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!(model = self.name, "an instance has panicked");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn no_instance(&self) -> InferError {
        InferError::Unavailable(format!("model '{}' has no instance left: its devices have failed", self.name))
    }

    /// Runs batches until the queue has ended or the device fails.
    fn work(&self, device: Device, mut executor: Box<dyn Execute>) {
        while let Some(batch) = self.next(device) {
            if let Err((fault, batch)) = self.run(&mut *executor, batch) {
                self.take_down(device, &fault, batch);
                return;
            }
        }
        if let Some(count) = self.state().count(device) {
            *count = count.saturating_sub(1);
        }
    }

    /// Waits for the next batch; none when there will be none for an instance on this device.
    fn next(&self, device: Device) -> Option<Batch> {
        let mut state = self.state();
        loop {
            // All instances on a device that has failed are gone.
            if state.count(device).is_none_or(|n| *n == 0) {
                return None;
            }
            let now = Instant::now();
            let of_no_use = state.queue.discard(now);
            if !of_no_use.is_empty() {
                drop(state);
                self.give_up(of_no_use);
                state = self.state();
                continue;
            }
            state = match state.queue.next(now) {
                Next::Batch(batch) => {
                    let more = !state.queue.is_empty();
                    drop(state);
                    if more {
                        self.changed.notify_one();
                    }
                    return Some(batch);
                }
                Next::End => return None,
                Next::Wait(None) => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Next::Wait(Some(until)) => {
                    let time = until.saturating_duration_since(now);
                    self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Runs a batch and answers its requests, or gives it back when the device has failed. What fails together is run one by one,
    /// so that nobody bears what is wrong with another's request.
    fn run(&self, executor: &mut dyn Execute, batch: Batch) -> Result<(), (Fault, Batch)> {
        let started = Instant::now();
        batch.iter().for_each(|e| self.metrics.queued(&self.name, started.saturating_duration_since(e.enqueued)));
        match self.execute(executor, &batch) {
            Ok(results) => {
                self.metrics.batch(&self.name, batch.iter().map(|e| e.rows).sum(), started.elapsed());
                batch.into_iter().zip(results).for_each(|(entry, result)| self.answer(entry, Ok(result)));
                Ok(())
            }
            Err(fault @ Fault::Device(_)) => Err((fault, batch)),
            Err(fault) if batch.len() > 1 => {
                tracing::warn!(model = self.name, %fault, requests = batch.len(), "a batch has failed: its requests run one by one");
                let mut rest = batch.into_iter();
                while let Some(entry) = rest.next() {
                    if let Err((fault, mut back)) = self.run(executor, vec![entry]) {
                        back.extend(rest);
                        return Err((fault, back));
                    }
                }
                Ok(())
            }
            Err(fault) => {
                let error = match fault {
                    Fault::Data(reason) => InferError::Invalid(reason),
                    Fault::Memory(reason) => InferError::Unavailable(reason),
                    Fault::Bug(reason) | Fault::Device(reason) => InferError::Internal(reason),
                };
                batch.into_iter().for_each(|entry| self.answer(entry, Err(error.clone())));
                Ok(())
            }
        }
    }

    /// The outputs of each request of a batch.
    fn execute(&self, executor: &mut dyn Execute, batch: &Batch) -> Result<Vec<Vec<Tensor>>, Fault> {
        let Some(first) = batch.first() else { return Ok(Vec::new()) };
        let memory = |e: sliderun::tensor::TensorError| Fault::Memory(e.to_string());
        let rows = batch.iter().map(|e| e.rows).sum();
        let shapes = self.axes.shapes(&first.key, rows, self.limits.max_rows);
        let mut inputs = Vec::with_capacity(shapes.len());
        for (at, shape) in shapes.iter().enumerate() {
            let parts: Vec<&Tensor> = batch.iter().filter_map(|e| e.item.inputs.get(at)).collect();
            inputs.push(assemble::join(&parts, shape, self.axes.pad(at)).map_err(memory)?);
        }
        let named: Vec<_> = self.inputs.iter().map(String::as_str).zip(inputs.iter().map(Tensor::view)).collect();
        // What a run leaves behind when it panics is dropped or written anew by the next one.
        let outputs = catch_unwind(AssertUnwindSafe(|| executor.run(&named)))
            .unwrap_or_else(|panic| Err(Fault::Bug(format!("the runtime has panicked: {}", message(&*panic)))))?;
        if let [only] = batch.as_slice()
            && outputs.iter().map(Tensor::shape).eq(only.item.outputs.iter().map(Vec::as_slice))
        {
            return Ok(vec![outputs]);
        }
        let mut row = 0;
        let mut results = Vec::with_capacity(batch.len());
        for entry in batch {
            let cut = |(output, shape): (&Tensor, &Vec<usize>)| {
                let within = output.shape().len() == shape.len()
                    && shape
                        .iter()
                        .zip(output.shape())
                        .enumerate()
                        .all(|(i, (s, o))| if i == 0 { row + s <= *o } else { s <= o });
                match within {
                    true => assemble::cut(output, row, shape).map_err(memory),
                    false => Err(Fault::Bug(format!("an output {:?} was computed where {shape:?} was promised", output.shape()))),
                }
            };
            results.push(outputs.iter().zip(&entry.item.outputs).map(cut).collect::<Result<Vec<_>, _>>()?);
            row += entry.rows;
        }
        Ok(results)
    }

    /// A device has failed: its instances end, what was running there goes back to the queue.
    fn take_down(&self, device: Device, fault: &Fault, batch: Batch) {
        tracing::error!(model = self.name, %device, %fault, "the device has failed: its instances are taken down");
        self.metrics.failed(&self.name, &device.to_string());
        let (again, given_up): (Vec<_>, Vec<_>) = batch.into_iter().partition(|e| e.item.attempts < MAX_ATTEMPTS);
        let mut state = self.state();
        if let Some(count) = state.count(device) {
            *count = 0;
        }
        for mut entry in again.into_iter().rev() {
            entry.item.attempts += 1;
            state.queue.put_back(entry);
        }
        let lost = if state.alive() == 0 { state.queue.drain() } else { Vec::new() };
        drop(state);
        self.changed.notify_all();
        lost.into_iter().for_each(|entry| self.answer(entry, Err(self.no_instance())));
        let error = InferError::Internal(format!("{device} has failed under the request, again: {fault}"));
        given_up.into_iter().for_each(|entry| self.answer(entry, Err(error.clone())));
    }

    /// Answers requests that are not run.
    fn give_up(&self, entries: Batch) {
        for entry in entries {
            self.metrics.discarded(&self.name, if entry.item.is_cancelled() { "cancelled" } else { "deadline" });
            self.answer(entry, Err(InferError::Deadline));
        }
    }

    fn answer(&self, entry: Entry<Job>, answer: Result<Vec<Tensor>, InferError>) {
        // Who waited may have gone.
        let _ = entry.item.reply.send(answer);
    }
}

/// What a panic says.
fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}
