//! What the samples share: sentences to embeddings with a compiled sentence encoder.

pub mod embed;
