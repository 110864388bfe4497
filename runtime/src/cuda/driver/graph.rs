//! CUDA graphs: recorded work that is launched as one.

use std::ptr;

use super::context::Context;
use super::ffi::{
    CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC, CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, CUgraph, CUgraphEdgeData, CUgraphExec,
    CUgraphExecUpdateResultInfo,
};
use super::stream::Stream;
use super::{CudaError, call};

/// Recorded work: what [`Stream::capture`] gives.
#[derive(Debug)]
pub struct Graph {
    context: Context,
    handle: CUgraph,
}

// SAFETY: graphs may move between threads. Two threads must not use one at once, so that it is not Sync.
unsafe impl Send for Graph {}

impl Graph {
    pub(super) fn new(context: &Context, handle: CUgraph) -> Graph {
        Graph { context: context.clone(), handle }
    }

    /// The number of kernels, copies and fills in it.
    ///
    /// # Errors
    /// A failing driver.
    pub fn node_count(&self) -> Result<usize, CudaError> {
        let current = self.context.enter()?;
        let mut count = 0;
        // SAFETY: the graph is alive; without a place for the nodes the driver only counts.
        unsafe { call!(current.driver(), cuGraphGetNodes(self.handle, ptr::null_mut(), &mut count))? };
        Ok(count)
    }

    /// The number of kernels in it that may start before the kernel ahead of them has ended.
    ///
    /// # Errors
    /// A failing driver.
    pub fn overlap_count(&self) -> Result<usize, CudaError> {
        let current = self.context.enter()?;
        let mut count = 0;
        // SAFETY: the graph is alive; without places for the edges the driver only counts.
        unsafe {
            let none = ptr::null_mut();
            call!(current.driver(), cuGraphGetEdges_v2(self.handle, none, none, ptr::null_mut(), &mut count))?;
        }
        let (mut from, mut to) = (vec![ptr::null_mut(); count], vec![ptr::null_mut(); count]);
        let mut edges = vec![CUgraphEdgeData::default(); count];
        // SAFETY: the graph is alive and not changed meanwhile; places for as many edges as it has.
        unsafe {
            let (from, to) = (from.as_mut_ptr(), to.as_mut_ptr());
            call!(current.driver(), cuGraphGetEdges_v2(self.handle, from, to, edges.as_mut_ptr(), &mut count))?;
        }
        Ok(edges.iter().filter(|edge| edge.kind == CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC).count())
    }

    /// Makes it ready to launch.
    ///
    /// # Errors
    /// A failing driver.
    pub fn instantiate(&self) -> Result<GraphExec, CudaError> {
        let current = self.context.enter()?;
        let mut handle = ptr::null_mut();
        // SAFETY: the graph is alive; a place for the result.
        unsafe { call!(current.driver(), cuGraphInstantiateWithFlags(&mut handle, self.handle, 0))? };
        Ok(GraphExec { context: self.context.clone(), handle })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if let Ok(current) = self.context.enter() {
            // SAFETY: given to us by the capture; what was instantiated of it stays.
            let _ = unsafe { (current.driver().api.cuGraphDestroy)(self.handle) };
        }
    }
}

/// A graph that is ready to launch. Memory, modules and library workspaces that the recorded work uses must outlive its launches: it
/// holds their addresses only.
#[derive(Debug)]
pub struct GraphExec {
    context: Context,
    handle: CUgraphExec,
}

// SAFETY: as for Graph.
unsafe impl Send for GraphExec {}

impl GraphExec {
    /// Puts the work into a stream.
    ///
    /// # Errors
    /// A failing driver.
    ///
    /// # Safety
    /// What the recorded work reads and writes is still there, until the stream has passed it.
    pub unsafe fn launch(&self, stream: &Stream) -> Result<(), CudaError> {
        let current = self.context.enter()?;
        // SAFETY: graph and stream are alive; the caller keeps the memory.
        unsafe { call!(current.driver(), cuGraphLaunch(self.handle, stream.raw())) }
    }

    /// Takes over the addresses and sizes of a graph of the same structure, cheaper than a new instantiation. `false` when the
    /// structure differs: then nothing has changed.
    ///
    /// # Errors
    /// A failing driver.
    pub fn update(&mut self, graph: &Graph) -> Result<bool, CudaError> {
        let current = self.context.enter()?;
        let mut info = CUgraphExecUpdateResultInfo { result: 0, error_node: ptr::null_mut(), error_from_node: ptr::null_mut() };
        // SAFETY: both are alive; a place for the reason.
        match unsafe { (current.driver().api.cuGraphExecUpdate_v2)(self.handle, graph.handle, &mut info) } {
            CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE => Ok(false),
            code => current.driver().check("cuGraphExecUpdate", code).map(|()| true),
        }
    }
}

impl Drop for GraphExec {
    fn drop(&mut self) {
        if let Ok(current) = self.context.enter() {
            // SAFETY: instantiated by us; the driver lets launches under way end.
            let _ = unsafe { (current.driver().api.cuGraphExecDestroy)(self.handle) };
        }
    }
}
