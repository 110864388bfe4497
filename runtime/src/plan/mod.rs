//! Compiled plans: what they hold, the file that holds them, and where their buffers lie in memory.
//!
//! Must not know: ONNX, how plans are made, devices.

pub mod manifest;
