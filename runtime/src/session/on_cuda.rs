//! What sessions can do on GPUs alone: runs that are only started, tensors in device memory, shared weights, and measurements.

use std::sync::Arc;
use std::time::Duration;

use super::cuda::{CallerStream, CudaReport, DeviceTensor, LaunchTimes, PendingRun, Rivals, Runner};
use super::{Backend, Session, SessionError, StepTrace};
use crate::tensor::TensorView;
use crate::timings::Machine;

impl Session {
    fn on_cuda(&self) -> Result<&Arc<Runner>, SessionError> {
        match &self.backend {
            Backend::Cpu(_) => Err(SessionError::NotOnCuda),
            Backend::Cuda(runner) => Ok(runner),
        }
    }

    /// Starts a run on a GPU and comes back: inputs are copied to page-locked memory of the session's, everything else happens in its stream.
    /// A shape that is new is made ready first, which takes the host a while.
    ///
    /// ```no_run
    /// # use std::sync::Arc;
    /// # use sliderun::{plan::Plan, session::{Device, Session, SessionOptions}, tensor::TensorView};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let (first, second): (Vec<(&str, TensorView)>, Vec<(&str, TensorView)>) = Default::default();
    /// let plan = Arc::new(Plan::open("model.slide".as_ref())?);
    /// let session = Session::new(plan, Device::Cuda(0), SessionOptions::default())?;
    /// let (one, two) = (session.start(&first)?, session.start(&second)?);
    /// // The host is free meanwhile.
    /// let (one, two) = (one.wait()?, two.wait()?);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Session::run`], save what the device finds, which [`PendingRun::wait`] tells; a session on the CPU.
    pub fn start(&self, inputs: &[(&str, TensorView<'_>)]) -> Result<PendingRun, SessionError> {
        self.on_cuda()?.start(inputs)
    }

    /// Starts a run on inputs that lie in device memory, and writes outputs there: those that are given, in any order. Both are copied
    /// within the device, in the session's stream; elements lie behind each other, as in [`TensorView`].
    ///
    /// ```no_run
    /// # use sliderun::{dtype::DType, session::{DeviceTensor, Session}};
    /// # fn example(session: &Session, ids: u64, mask: u64, hidden: u64) -> Result<(), Box<dyn std::error::Error>> {
    /// let i64s = |pointer| DeviceTensor { dtype: DType::I64, shape: &[1, 128], pointer };
    /// let inputs = [("input_ids", i64s(ids)), ("attention_mask", i64s(mask))];
    /// let outputs = [("last_hidden_state", DeviceTensor { dtype: DType::F32, shape: &[1, 128, 384], pointer: hidden })];
    /// // SAFETY: the three addresses are cuMemAlloc'ed for these shapes, and nobody touches them until the run is done.
    /// let run = unsafe { session.start_on_device(&inputs, &outputs)? };
    /// run.wait()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Session::start`]; outputs of unknown names or other types or extents than the run gives; addresses that are not aligned to
    /// their element type.
    ///
    /// # Safety
    /// Each pointer is the address of device memory on the session's device, as large as its element type and shape say. What wrote the
    /// inputs is done, or before the run in the session's stream. Nobody writes the inputs or touches the outputs until the run is done:
    /// [`PendingRun::wait`] has returned, or what follows is ordered behind [`PendingRun::event`] or in the same stream.
    #[allow(unsafe_code)]
    pub unsafe fn start_on_device(
        &self,
        inputs: &[(&str, DeviceTensor<'_>)],
        outputs: &[(&str, DeviceTensor<'_>)],
    ) -> Result<PendingRun, SessionError> {
        // SAFETY: as the caller promises.
        unsafe { self.on_cuda()?.start_on_device(inputs, outputs) }
    }

    /// Another session on the same weights, kernels and library plans, with a stream, an arena and graphs of its own: so that runs happen side
    /// by side without the weights being there twice. `stream`: a caller's, or one of its own. On the CPU, where runs may overlap anyway,
    /// a clone.
    ///
    /// # Errors
    /// A failing device.
    pub fn share(&self, stream: Option<CallerStream>) -> Result<Session, SessionError> {
        match &self.backend {
            Backend::Cpu(_) => Ok(self.clone()),
            Backend::Cuda(runner) => Ok(Session { backend: Backend::Cuda(Arc::new(runner.share(stream)?)) }),
        }
    }

    /// As [`Session::run_traced`] on a GPU, but each launch reads, where `feed` has a value of that name, this and not what was computed before:
    /// what each launch by itself makes of given operands. Outputs are poisoned before each launch. With [`CudaOptions::kernels_only`] the
    /// libraries' products are left out.
    ///
    /// # Errors
    /// As [`Session::run`]; a session on the CPU, which has no launches; an operand that is not given where the product that computes it is
    /// left out.
    pub fn run_fed<'f>(
        &self,
        inputs: &[(&str, TensorView<'_>)],
        feed: &'f dyn Fn(&str) -> Option<TensorView<'f>>,
        trace: &mut dyn FnMut(StepTrace<'_>),
    ) -> Result<(), SessionError> {
        self.on_cuda()?.run_fed(inputs, feed, trace)
    }

    /// Times of `times` replays of the graph on a GPU, from device memory to device memory, by its own clock.
    ///
    /// # Errors
    /// As [`Session::run`]; a session on the CPU.
    pub fn replay_times(&self, inputs: &[(&str, TensorView<'_>)], times: usize) -> Result<Vec<Duration>, SessionError> {
        self.on_cuda()?.time(inputs, times)
    }

    /// The time of one replay of the graph on a GPU when `times` of them follow each other without a wait between them.
    ///
    /// # Errors
    /// As [`Session::run`]; a session on the CPU.
    pub fn steady_replay_time(&self, inputs: &[(&str, TensorView<'_>)], times: u32) -> Result<Duration, SessionError> {
        self.on_cuda()?.steady_time(inputs, times)
    }

    /// The time of each launch on a GPU, on what the launches before it make of the inputs.
    ///
    /// # Errors
    /// As [`Session::run`]; a session on the CPU.
    pub fn launch_times(&self, inputs: &[(&str, TensorView<'_>)]) -> Result<LaunchTimes, SessionError> {
        self.on_cuda()?.launch_times(inputs)
    }

    /// How the algorithm of each launch that is a product does beside all others of its library, on what the launches before it make of the
    /// inputs: in the order of [`Session::launch_times`], none for other launches. Seconds for each product.
    ///
    /// # Errors
    /// As [`Session::run`]; a session on the CPU.
    pub fn rivals(&self, inputs: &[(&str, TensorView<'_>)]) -> Result<Vec<Option<Rivals>>, SessionError> {
        self.on_cuda()?.rivals(inputs)
    }

    /// The GPU and its libraries, as timings name them.
    ///
    /// # Errors
    /// A session on the CPU.
    pub fn machine(&self) -> Result<Machine, SessionError> {
        Ok(self.on_cuda()?.variants().base.machine().clone())
    }

    /// The variant of the plan that runs on these inputs, by name; a shape that is new is made ready, and variants measured where
    /// the session's tuning says so.
    ///
    /// # Errors
    /// As [`Session::run`]; a session on the CPU.
    pub fn variant_of(&self, inputs: &[(&str, TensorView<'_>)]) -> Result<String, SessionError> {
        self.on_cuda()?.variant_of(inputs)
    }

    /// What the session has loaded, chosen and made so far, on a GPU; nothing on the CPU.
    pub fn cuda_report(&self) -> CudaReport {
        match &self.backend {
            Backend::Cpu(_) => CudaReport::default(),
            Backend::Cuda(cuda) => cuda.variants().report(),
        }
    }
}
