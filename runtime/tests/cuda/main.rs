//! The CUDA wrappers. Without a GPU only the errors are tested, and every other test says `skipped: no CUDA device`; with
//! `SLIDERUN_TEST_GPU=require` in the environment that is a failure instead. The one binary can be carried to a machine with a GPU.

#![cfg(feature = "cuda")]

#[cfg(feature = "cli")]
mod activation;
mod dense;
mod driver;
#[cfg(feature = "cli")]
#[path = "../../../kernels/src/functions.rs"]
mod functions;
mod missing;
mod nvrtc;
#[cfg(feature = "cli")]
mod session;
mod sparse;
mod support;
#[cfg(feature = "cli")]
mod variants;
