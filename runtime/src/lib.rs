//! `sliderun`: the minimal runtime that replays compiled plans.
//!
//! A plan is what `slidec compile` makes of an ONNX model. [`Plan`](plan::Plan) opens one, from a file or from memory, and
//! [`Session`](session::Session) makes it ready for a device and runs it, from any number of threads:
//!
//! ```
//! use sliderun::plan::Plan;
//! use sliderun::session::{Device, Session, SessionOptions};
//! use sliderun::tensor::Tensor;
//!
//! // y = relu(x·w1 + b)·w2, embedded in the program; `Plan::open` takes a file.
//! static PLAN: &[u8] = sliderun::include_plan!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/perceptron.slide"));
//!
//! let session = Session::new(Plan::from_bytes(PLAN)?.into(), Device::Cpu, SessionOptions::default())?;
//! assert_eq!(session.inputs()[0].to_string(), "x: f32[batch, 4]");
//!
//! let x = Tensor::from_slice(&[1, 4], &[1f32, 2.0, 3.0, 4.0])?;
//! let outputs = session.run(&[("x", x.view())])?;
//! assert_eq!((outputs[0].0.as_str(), outputs[0].1.as_slice::<f32>()), ("y", Some(&[-2.5, 7.75][..])));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Outputs can be written to memory of the caller's, so that a run allocates nothing for them:
//!
//! ```
//! # use sliderun::{dtype::DType, plan::Plan, session::{Device, Session, SessionOptions}, tensor::Tensor};
//! # static PLAN: &[u8] = sliderun::include_plan!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/perceptron.slide"));
//! # let session = Session::new(Plan::from_bytes(PLAN)?.into(), Device::Cpu, SessionOptions::default())?;
//! let shapes = session.output_shapes(&[("x", &[2, 4])])?;
//! let mut y = Tensor::zeros(DType::F32, &shapes[0])?;
//! let x = Tensor::zeros(DType::F32, &[2, 4])?;
//! session.run_into(&[("x", x.view())], &mut [("y", y.view_mut())])?;
//! assert_eq!(y.as_slice::<f32>(), Some(&[0.5, 1.0, 0.5, 1.0][..]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Features: `cuda` (NVIDIA GPUs, whose libraries are looked for at run time and never linked) and `cli` (what the `sliderun` program is made of)
//! are on by default; without them the crate is for CPUs, small, and has few dependencies.
//!
//! What may grow is `#[non_exhaustive]`: errors and options. The modules [`op`], [`cpu`](mod@cpu) and [`plan::manifest`] show a plan's insides, and
//! change with its format.
//!
//! Invariants: this crate never parses ONNX and never compiles code. It has no protobuf, no graph library and no other
//! inference engine among its dependencies. It trusts no plan: whatever a file says is validated before it is used.

#![deny(missing_docs)]

// The fuzz targets, which name the crate, are among its tests.
#[cfg(test)]
extern crate self as sliderun;

pub mod atomic_file;
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dim;
#[cfg(feature = "cuda")]
pub mod disk_cache;
pub mod dtype;
pub mod f8;
pub mod op;
pub mod plan;
pub mod session;
pub mod sparse;
#[cfg(any(feature = "cli", feature = "cuda"))]
pub mod splitmix;
pub mod tensor;
#[cfg(feature = "cuda")]
pub mod timings;
#[cfg(feature = "cli")]
pub mod tool;
