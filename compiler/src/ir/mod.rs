//! The graph IR: typed operators and constants on a `petgraph::StableDiGraph`, kept at ONNX's level.
//!
//! Must not know: protobufs (import's business), plans (lowering's), devices.

pub mod graph;

pub use graph::{Constant, Graph, GraphOutput, Node, NodeId, NodeKind, ValueRef};
