//! Dynamic batching: which requests run together, and how their tensors become one and come apart again.
//!
//! Must not know: protocols, sessions, threads, clocks.

pub mod assemble;
pub mod pad;
pub mod queue;
