//! `slidec`: an ahead-of-time compiler from ONNX to sparse execution plans.
//!
//! Invariants: the compiler never needs a GPU and makes no CUDA call. Import mirrors ONNX faithfully; what a backend cannot do is
//! refused in lowering, with every offending node named at once. ONNX → `import` → `ir` → `passes` → `lower` → plan; each part
//! knows only the next.

pub mod budget;
pub mod calibration;
pub mod cli;
pub mod compile;
pub mod cost;
pub mod import;
pub mod ir;
pub mod lower;
pub mod onnx;
pub mod options;
pub mod passes;
pub mod prune;
pub mod pruning;
pub mod recipe;
pub mod report;
pub mod sparsity;
pub mod verify;
