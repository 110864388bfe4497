//! What the samples share: sentences to embeddings with a compiled sentence encoder, and models of well-known architectures with random weights.

pub mod embed;
pub mod models;
