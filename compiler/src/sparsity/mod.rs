//! Sparsity of constant weights: which patterns they satisfy, pruning them to one, the exact decomposition into overlapping 2:4
//! windows, and their quantization.
//!
//! Everything here works on a [`Weight`], the [N, K] matrix of a product with one row per output channel, whatever way the model
//! stores it. Must not know: graphs beyond their constants, plans, devices.
//!
//! Source: SlideSparse, arXiv 2603.05232.

pub mod decompose;
pub mod detect;
pub mod nearest;
pub mod output_error;
pub mod permute;
pub mod prune;
pub mod quantize;
pub mod scales;
pub mod smooth;
pub mod weight;

pub use decompose::{Decomposed, NotSparse, decompose};
pub use detect::{Detection, detect, holds, satisfied};
pub use nearest::nearest;
pub use weight::{Orientation, Weight, WeightError};
