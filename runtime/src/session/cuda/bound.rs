//! The CUDA program on concrete extents: the arena's layout, the launches' arguments, the products' plans, and the graph that replays them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::SessionError;
use super::super::bind;
use super::super::program::{index, step_error};
use super::memory::{Buffers, Traffic};
use super::plans::Rivals;
use super::products::{Places, Planned};
use super::{Gpu, Loaded, LoadedWork};
use crate::cuda::driver::{Args, DeviceBuffer, DeviceSlice, Function, GraphExec, LaunchShape, Stream};
use crate::dim::{Bindings, Dim};
use crate::op::Op;
use crate::plan::arena::Layout;
use crate::plan::cuda::{Argument, Form};
use crate::plan::manifest::Step;

/// Most shapes that a session keeps ready.
const MAX_BOUND: usize = 32;

/// See the module documentation.
pub struct Bound {
    /// Extents of each value.
    pub shapes: Vec<Vec<usize>>,
    /// Operators without symbols.
    pub ops: Vec<Op>,
    pub layout: Layout,
    offsets: BTreeMap<usize, usize>,
    launches: Vec<Bindable>,
    /// Kept since the graph holds its address; all shapes share it.
    arena: Arc<DeviceBuffer>,
    workspace: Arc<DeviceBuffer>,
    graph: Option<GraphExec>,
}

enum Bindable {
    /// Which of its forms, if not the kernel itself.
    Kernel {
        form: Option<usize>,
        shape: LaunchShape,
        args: Args,
    },
    Product(Planned),
}

/// The shapes that are ready, the one used last at the end, and the memory that they share.
#[derive(Default)]
pub struct BoundCache {
    entries: Vec<Entry>,
    arena: Option<Arc<DeviceBuffer>>,
    workspace: Option<Arc<DeviceBuffer>>,
}

/// A shape that is ready.
struct Entry {
    shapes: Vec<Vec<usize>>,
    ready: OnShape,
}

/// A variant and its program on a shape.
pub struct OnShape {
    pub gpu: Arc<Gpu>,
    pub bound: Bound,
    /// Whether it is the variant for the shape; without inputs that is not found out.
    pub settled: bool,
}

impl BoundCache {
    /// What is ready for these input shapes, `settled` or in any case; made by `make` when it is not there yet.
    pub fn get(
        &mut self,
        shapes: &[&[usize]],
        settled: bool,
        make: impl FnOnce(&mut BoundCache) -> Result<OnShape, SessionError>,
    ) -> Result<&mut OnShape, SessionError> {
        let at = self.entries.iter().rposition(|e| e.shapes.iter().map(Vec::as_slice).eq(shapes.iter().copied()));
        let known = at.map(|at| self.entries.remove(at)).filter(|e| e.ready.settled || !settled);
        let entry = match known {
            Some(entry) => entry,
            None => {
                if self.entries.len() == MAX_BOUND {
                    self.entries.remove(0);
                }
                Entry { ready: make(self)?, shapes: shapes.iter().map(|s| s.to_vec()).collect() }
            }
        };
        self.entries.push(entry);
        Ok(&mut self.entries.last_mut().expect("just pushed").ready)
    }

    /// Whether a program's memory is what the cache holds now, and not what was there before it grew.
    pub fn holds(&self, bound: &Bound) -> bool {
        let same = |kept: &Option<Arc<DeviceBuffer>>, own: &Arc<DeviceBuffer>| kept.as_ref().is_some_and(|k| Arc::ptr_eq(k, own));
        same(&self.arena, &bound.arena) && same(&self.workspace, &bound.workspace)
    }

    /// Memory of at least so many bytes: `place`'s, or larger in its place. What was made ready with the smaller is made anew when it is needed
    /// again, so that there is never more than one of a kind; and there is some room to grow, so that it does not happen often.
    fn at_least(
        &mut self,
        gpu: &Gpu,
        place: fn(&mut BoundCache) -> &mut Option<Arc<DeviceBuffer>>,
        bytes: usize,
        limit: Option<usize>,
    ) -> Result<Arc<DeviceBuffer>, SessionError> {
        if let Some(buffer) = place(self)
            && buffer.len() >= bytes
        {
            return Ok(buffer.clone());
        }
        let before = place(self).as_ref().map_or(0, |b| b.len());
        self.entries.clear();
        *place(self) = None;
        let roomy = before.saturating_add(before / 4).min(limit.unwrap_or(usize::MAX)).max(bytes).max(1);
        let buffer = DeviceBuffer::new(&gpu.context, roomy).or_else(|_| DeviceBuffer::new(&gpu.context, bytes.max(1)));
        let buffer = Arc::new(buffer?);
        *place(self) = Some(buffer.clone());
        Ok(buffer)
    }
}

impl Bound {
    /// The program for these values of the symbols, in memory that `cache` holds, at most `limit` bytes of it.
    pub fn new(
        gpu: &Gpu,
        symbols: &Bindings,
        cache: &mut BoundCache,
        fault: DeviceSlice<'_>,
        limit: Option<usize>,
    ) -> Result<Bound, SessionError> {
        let program = &gpu.program;
        let (shapes, ops) = bind::concrete(program, symbols)?;
        let traffic: Vec<&Traffic> = gpu.launches.iter().map(|loaded| &loaded.traffic).collect();
        let buffers = Buffers::new(program, &traffic, &shapes);
        let layout = buffers.layout()?;
        let offsets = buffers.of.iter().map(|(value, buffer)| (*value, layout.offsets[*buffer])).collect();
        if limit.is_some_and(|limit| layout.total > limit) {
            return Err(SessionError::Memory { bytes: layout.total, why: "over the limit of this session" });
        }
        let arena = cache.at_least(gpu, |cache| &mut cache.arena, layout.total, limit)?;
        let mut planned = Vec::with_capacity(gpu.launches.len());
        for loaded in &gpu.launches {
            planned.push(match &loaded.work {
                LoadedWork::Kernel { .. } => None,
                LoadedWork::Product(p) => Some(p.plan(program, &gpu.plans, &shapes)?),
            });
        }
        let needed = planned.iter().flatten().map(Planned::workspace_bytes).max().unwrap_or(0);
        let workspace = cache.at_least(gpu, |cache| &mut cache.workspace, needed, None)?;
        let mut bound = Bound { shapes, ops, layout, offsets, launches: Vec::new(), arena, workspace, graph: None };
        for (loaded, planned) in gpu.launches.iter().zip(planned) {
            let bindable = match (&loaded.work, planned) {
                (LoadedWork::Product(_), Some(planned)) => Bindable::Product(planned),
                (LoadedWork::Kernel { launch, forms, .. }, _) => bound.kernel(gpu, loaded, (launch, forms), symbols, fault)?,
                (LoadedWork::Product(_), None) => unreachable!("every product was planned"),
            };
            bound.launches.push(bindable);
        }
        Ok(bound)
    }

    fn kernel(
        &self,
        gpu: &Gpu,
        loaded: &Loaded,
        (launch, forms): (&crate::plan::cuda::Kernel, &[(Function, Form)]),
        symbols: &Bindings,
        fault: DeviceSlice<'_>,
    ) -> Result<Bindable, SessionError> {
        let step = &gpu.program.steps[loaded.steps.end - 1];
        let fail = |reason: String| step_error(step, reason);
        let grid = |blocks: &Dim| {
            let blocks = blocks.eval(symbols).map_err(|e| fail(e.to_string()))?;
            u32::try_from(blocks).ok().filter(|b| *b <= i32::MAX as u32).ok_or_else(|| fail(format!("{blocks} blocks")))
        };
        let shape = |blocks, threads, shared_bytes| LaunchShape { grid: [blocks, 1, 1], block: [threads, 1, 1], shared_bytes };
        let multiprocessors = gpu.context.device().multiprocessors;
        let mut chosen = None;
        for (at, (_, form)) in forms.iter().enumerate() {
            if let Some(blocks) = form.grid(grid(&form.blocks)?, multiprocessors) {
                chosen = Some((at, shape(blocks, form.threads, form.shared_bytes)));
                break;
            }
        }
        let (form, chosen) = match chosen {
            Some((at, shape)) => (Some(at), shape),
            None => (None, shape(grid(&launch.blocks)?, launch.threads, launch.shared_bytes)),
        };
        let mut args = Args::new();
        for argument in &launch.arguments {
            match argument {
                Argument::Integer(d) => {
                    args.i64(d.eval(symbols).map_err(|e| fail(e.to_string()))?);
                }
                Argument::Fault => {
                    args.pointer(fault);
                }
                Argument::Value(v) => {
                    let v = index(*v);
                    let elements = self.shapes[v].iter().product::<usize>();
                    if i32::try_from(elements).is_err() {
                        return Err(fail(format!(
                            "'{}' has {elements} elements; 2³¹ are too many for it",
                            gpu.program.values[v].name
                        )));
                    }
                    args.address(self.address(gpu, v).ok_or_else(|| fail("a value has no memory".into()))?);
                }
            }
        }
        Ok(Bindable::Kernel { form, shape: chosen, args })
    }

    /// Which of a kernel's loaded forms a launch is, if not the kernel itself.
    pub fn form(&self, at: usize) -> Option<usize> {
        if let Bindable::Kernel { form, .. } = self.launches[at] { form } else { None }
    }

    /// Whether a launch is a product that the session leaves out.
    pub fn is_left_out(&self, at: usize) -> bool {
        matches!(self.launches[at], Bindable::Product(Planned::LeftOut))
    }

    /// Where a value lies on the device.
    pub fn address(&self, gpu: &Gpu, value: usize) -> Option<u64> {
        let root = gpu.program.values[value].root;
        match gpu.constants.get(&root) {
            Some(buffer) => Some(buffer.as_slice().pointer()),
            None => self.offsets.get(&root).map(|offset| self.arena.as_slice().pointer() + *offset as u64),
        }
    }

    /// Whether a launch's result lies where one of its operands does.
    pub fn is_in_place(&self, loaded: &Loaded, result: usize) -> bool {
        let at = self.offsets.get(&result);
        at.is_some() && loaded.traffic.reads.iter().any(|v| self.offsets.get(v) == at && !self.shapes[*v].contains(&0))
    }

    /// Its memory, when it is in the arena.
    pub fn slice(&self, gpu: &Gpu, value: usize) -> Option<DeviceSlice<'_>> {
        let bytes = self.bytes(gpu, value);
        let offset = *self.offsets.get(&gpu.program.values[value].root)?;
        self.arena.as_slice().slice(offset, bytes).ok()
    }

    pub fn bytes(&self, gpu: &Gpu, value: usize) -> usize {
        self.shapes[value].iter().product::<usize>() * gpu.program.values[value].ty.dtype.size()
    }

    /// Puts the whole program into the stream: launch by launch the first time, since libraries load kernels then, afterwards as a graph.
    /// `recorder` is a stream that can be captured.
    pub fn replay(&mut self, gpu: &Gpu, stream: &Stream, recorder: &Stream, fault: &DeviceBuffer) -> Result<(), SessionError> {
        if let Some(graph) = &self.graph {
            // SAFETY: the graph's memory is this arena and workspace, the session's constants and modules: all outlive the stream's work,
            // since freeing memory waits for the device.
            #[allow(unsafe_code)]
            return unsafe { graph.launch(stream) }.map_err(SessionError::from);
        }
        let all = |stream: &Stream| -> Result<(), SessionError> {
            if gpu.notes_faults {
                fault.as_slice().fill(0, stream)?;
            }
            (0..gpu.launches.len()).try_for_each(|at| self.launch(gpu, at, stream))
        };
        all(stream)?;
        let graph = recorder.capture(all)?.instantiate()?;
        self.graph = Some(graph);
        Ok(())
    }

    /// Puts one launch into the stream.
    pub fn launch(&self, gpu: &Gpu, at: usize, stream: &Stream) -> Result<(), SessionError> {
        let loaded = &gpu.launches[at];
        let step = &gpu.program.steps[loaded.steps.end - 1];
        match (&loaded.work, &self.launches[at]) {
            (LoadedWork::Kernel { function, forms, .. }, Bindable::Kernel { form, shape, args }) => {
                let function = form.map_or(function, |at| &forms[at].0);
                // SAFETY: the arguments are values in the arena and constants, as large as the program's types say, which outlive the
                // stream's work; that the kernel stays within them, and waits where the plan says so, is what a plan with cubins is trusted for.
                #[allow(unsafe_code)]
                unsafe { function.launch(stream, *shape, args) }.map_err(|e| super::device_error(step, e))
            }
            (LoadedWork::Product(product), Bindable::Product(planned)) => {
                self.with_places(gpu, step, |places| product.launch(planned, stream, places))
            }
            _ => unreachable!("bound in the order of the launches"),
        }
    }

    /// How the algorithm of a product does beside its library's others; none of what is no product or has nothing to compute.
    pub fn rivals(&self, gpu: &Gpu, at: usize, stream: &Stream) -> Result<Option<Rivals>, SessionError> {
        let loaded = &gpu.launches[at];
        let (LoadedWork::Product(product), Bindable::Product(planned)) = (&loaded.work, &self.launches[at]) else {
            return Ok(None);
        };
        let step = &gpu.program.steps[loaded.steps.end - 1];
        self.with_places(gpu, step, |places| product.rivals(planned, &gpu.plans, stream, places))
    }

    fn with_places<R>(
        &self,
        gpu: &Gpu,
        step: &Step,
        work: impl FnOnce(&Places<'_>) -> Result<R, SessionError>,
    ) -> Result<R, SessionError> {
        let address = |v: usize| self.address(gpu, v).ok_or_else(|| step_error(step, "a value has no memory"));
        work(&Places { program: &gpu.program, address: &address, workspace: self.workspace.as_slice() })
    }
}
