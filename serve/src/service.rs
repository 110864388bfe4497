//! What both protocols do: check the token, run a request, count and log it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use subtle::ConstantTimeEq;

use crate::error::InferError;
use crate::model;
use crate::protocol::messages::{ModelMetadata, ServerMetadata, TensorMetadata};
use crate::protocol::{self, InferRequest, InferResponse};
use crate::registry::Registry;

/// What the server calls itself.
pub const SERVER: ServerMetadata =
    ServerMetadata { name: "sliderun", version: env!("CARGO_PKG_VERSION"), extensions: &protocol::EXTENSIONS };

/// See the module documentation.
pub struct Service {
    /// The models.
    pub registry: Arc<Registry>,
    /// What clients must send.
    pub token: Option<String>,
    /// Most bytes of a request.
    pub max_request_bytes: usize,
    /// How long a client may take to send one.
    pub read_timeout: Duration,
}

impl Service {
    /// Whether a request may be answered.
    ///
    /// # Errors
    /// [`InferError::Unauthenticated`].
    pub fn authorize(&self, headers: &HeaderMap) -> Result<(), InferError> {
        let Some(token) = &self.token else { return Ok(()) };
        let given = headers.get(AUTHORIZATION).and_then(|v| v.as_bytes().strip_prefix(b"Bearer "));
        // As long for a token that is nearly right as for any other.
        match given.is_some_and(|given| given.ct_eq(token.as_bytes()).into()) {
            true => Ok(()),
            false => Err(InferError::Unauthenticated),
        }
    }

    /// Runs a request that came at `start` by `protocol`. `timeout`: what the protocol itself says beside the request's parameter.
    ///
    /// # Errors
    /// See [`InferError`].
    pub async fn infer(
        &self,
        protocol: &'static str,
        (name, version): (&str, &str),
        request: InferRequest,
        start: Instant,
        timeout: Option<Duration>,
    ) -> Result<InferResponse, InferError> {
        let timeout = [request.timeout, timeout].into_iter().flatten().min();
        let id = request.id.clone();
        let answer = self.registry.infer(name, version, request, start, model::deadline(start, timeout)).await;
        self.record(protocol, name, &id, start, answer.as_ref().err());
        answer
    }

    /// Counts and logs an answer.
    pub fn record(&self, protocol: &'static str, model: &str, id: &str, start: Instant, error: Option<&InferError>) {
        let known = !matches!(error, Some(InferError::NotFound(_) | InferError::Unauthenticated));
        let result = error.map_or("ok", InferError::kind);
        // Names that clients make up do not become labels.
        self.registry.metrics().answered(if known { model } else { "" }, protocol, result);
        let us = start.elapsed().as_micros() as u64;
        match error {
            None => tracing::debug!(protocol, model, id, us, "answered"),
            Some(error @ (InferError::Internal(_) | InferError::Unavailable(_))) => {
                tracing::warn!(protocol, model, id, us, %error, "failed");
            }
            Some(error) => tracing::debug!(protocol, model, id, us, %error, "refused"),
        }
    }

    /// A model's metadata.
    ///
    /// # Errors
    /// A model that is not there.
    pub fn metadata(&self, name: &str, version: &str) -> Result<ModelMetadata, InferError> {
        let model = self.registry.model(name, version)?;
        let tensors = |ports: &[sliderun::session::Port]| {
            let tensor = |p: &sliderun::session::Port| TensorMetadata {
                name: p.name.clone(),
                // Models with other types are not loaded.
                datatype: protocol::datatype(p.ty.dtype).unwrap_or_default(),
                shape: protocol::shape(p),
            };
            ports.iter().map(tensor).collect()
        };
        Ok(ModelMetadata {
            name: model.name().to_owned(),
            versions: vec![model.version().to_owned()],
            platform: protocol::PLATFORM,
            inputs: tensors(model.inputs()),
            outputs: tensors(model.outputs()),
        })
    }
}
