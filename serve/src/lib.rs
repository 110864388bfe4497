//! `sliderun-serve`: plans over the Open Inference Protocol, by HTTP and gRPC. See `docs/serving.md`.
//!
//! A request goes from [`http`] or [`grpc`], which know wire forms, through [`service`] and [`registry`] to a [`model`], whose queue
//! ([`batcher`]) joins it with others. Threads of the model run batches; the answer comes back through a channel, and whoever waits for it may leave at any time.
//!
//! Invariants: every queue is bounded. Nothing that a client sends makes the process end. What one request is answered with does not depend on which
//! others share its batch.

#![deny(missing_docs)]

pub mod batcher;
pub mod config;
pub mod error;
pub mod grpc;
pub mod http;
pub mod metrics;
pub mod model;
pub mod protocol;
pub mod registry;
pub mod server;
pub mod service;
pub mod telemetry;
