//! What the samples share: sentences to embeddings with a compiled sentence encoder, text to calibration data, and models of well-known
//! architectures with random weights.

pub mod calibration;
pub mod embed;
pub mod models;
