//! The graph IR: typed operators and constants on a `petgraph::StableDiGraph`, kept at ONNX's level.
//!
//! Must not know: protobufs (import's business), plans (lowering's), devices.

mod attributes;
mod elements;
pub mod eval;
pub mod form;
pub mod graph;
pub mod parse;
pub mod print;
mod random;
pub mod sidecar;
mod syntax;
pub mod verify;

pub use form::WeightForm;
pub use graph::{Constant, Graph, GraphOutput, Node, NodeId, NodeKind, NodeOutput, ValueRef};
