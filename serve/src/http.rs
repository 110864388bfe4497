//! The protocol over HTTP: routes, bodies, statuses.
//!
//! Must not know: how requests are queued and run.

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;

use crate::error::InferError;
use crate::metrics;
use crate::protocol::http::{JSON_LENGTH, read_request, write_response};
use crate::protocol::messages::{Failure, IndexRequest};
use crate::protocol::{InferRequest, InferResponse};
use crate::service::{SERVER, Service};

/// From this many bytes on, requests are read and answers written by threads for what takes long.
const LONG: usize = 1 << 18;

type Shared = State<Arc<Service>>;

/// All routes.
pub fn router(service: Arc<Service>) -> Router {
    let open = Router::new()
        .route("/v2/health/live", get(|| async { StatusCode::OK }))
        .route("/v2/health/ready", get(ready))
        .with_state(service.clone());
    let guarded = Router::new()
        .route("/v2", get(|| async { Json(SERVER) }))
        .route("/v2/models/{name}", get(metadata))
        .route("/v2/models/{name}/versions/{version}", get(metadata))
        .route("/v2/models/{name}/ready", get(model_ready))
        .route("/v2/models/{name}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{name}/infer", post(infer))
        .route("/v2/models/{name}/versions/{version}/infer", post(infer))
        .route("/v2/repository/index", post(index))
        .route("/v2/repository/models/{name}/load", post(load))
        .route("/v2/repository/models/{name}/unload", post(unload))
        .route("/metrics", get(prometheus))
        .fallback(|| async { InferError::NotFound("there is nothing here: paths begin with /v2".to_owned()) })
        .layer(from_fn_with_state(service.clone(), authorize))
        .with_state(service);
    open.merge(guarded)
}

#[derive(Deserialize)]
struct Target {
    name: String,
    #[serde(default)]
    version: String,
}

impl IntoResponse for InferError {
    fn into_response(self) -> Response {
        let status = self.http();
        let mut response = (status, Json(Failure { error: self.to_string() })).into_response();
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

async fn authorize(State(service): Shared, request: Request, next: Next) -> Response {
    match service.authorize(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    }
}

fn health(ready: bool) -> StatusCode {
    // What the specification calls false is any 4xx or 5xx.
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn ready(State(service): Shared) -> StatusCode {
    health(service.registry.is_ready())
}

async fn model_ready(State(service): Shared, Path(Target { name, version }): Path<Target>) -> Result<StatusCode, InferError> {
    Ok(health(service.registry.model(&name, &version)?.is_ready()))
}

async fn metadata(State(service): Shared, Path(Target { name, version }): Path<Target>) -> Result<Response, InferError> {
    Ok(Json(service.metadata(&name, &version)?).into_response())
}

async fn prometheus(State(service): Shared) -> impl IntoResponse {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], service.registry.metrics_text())
}

async fn index(State(service): Shared, request: Request) -> Result<Response, InferError> {
    let body = body(&service, request).await?;
    let wanted: IndexRequest = match body.is_empty() {
        true => IndexRequest::default(),
        false => serde_json::from_slice(&body).map_err(|e| InferError::Invalid(e.to_string()))?,
    };
    Ok(Json(service.registry.index(wanted.ready)).into_response())
}

async fn load(State(service): Shared, Path(Target { name, .. }): Path<Target>) -> Result<StatusCode, InferError> {
    service.registry.load(&name).await.map(|()| StatusCode::OK)
}

async fn unload(State(service): Shared, Path(Target { name, .. }): Path<Target>) -> Result<StatusCode, InferError> {
    service.registry.unload(&name).await.map(|()| StatusCode::OK)
}

async fn infer(State(service): Shared, Path(target): Path<Target>, request: Request) -> Response {
    let came = Instant::now();
    let headers = request.headers().clone();
    let read = read(&service, &target, &headers, request).await;
    let (request, start) = match read {
        Ok(read) => read,
        Err(error) => {
            service.record("http", &target.name, "", came, Some(&error));
            return error.into_response();
        }
    };
    match service.infer("http", (&target.name, &target.version), request, start, None).await {
        Ok(response) => write(response).await.unwrap_or_else(IntoResponse::into_response),
        Err(error) => error.into_response(),
    }
}

/// The request, and when its last byte came.
async fn read(
    service: &Service,
    target: &Target,
    headers: &HeaderMap,
    request: Request,
) -> Result<(InferRequest, Instant), InferError> {
    if headers.get("content-encoding").is_some_and(|e| e != "identity") {
        return Err(InferError::Unsupported("compressed requests are not supported: send them as they are".to_owned()));
    }
    let length = match headers.get(JSON_LENGTH).map(HeaderValue::to_str) {
        None => None,
        Some(Ok(length)) => Some(length.to_owned()),
        Some(Err(_)) => return Err(InferError::Invalid(format!("{JSON_LENGTH} is no length"))),
    };
    let body = body(service, request).await?;
    let start = Instant::now();
    // What will be refused is not looked at.
    service.registry.model(&target.name, &target.version)?.admit()?;
    let long = body.len() >= LONG;
    let read = move || read_request(&body, length.as_deref());
    let request = if long { blocking(read).await? } else { read() };
    Ok((request.map_err(InferError::Invalid)?, start))
}

async fn write(response: InferResponse) -> Result<Response, InferError> {
    let bytes: usize = response.outputs.iter().map(|(_, tensor, _)| tensor.bytes().len()).sum();
    let write = move || write_response(&response);
    let (body, json) = if bytes >= LONG { blocking(write).await? } else { write() }.map_err(InferError::Invalid)?;
    let kind = if json.is_some() { "application/octet-stream" } else { "application/json" };
    let mut response = ([(CONTENT_TYPE, kind)], Body::from(body)).into_response();
    if let Some(length) = json {
        response.headers_mut().insert(HeaderName::from_static(JSON_LENGTH), length.into());
    }
    Ok(response)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, InferError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| InferError::Internal(e.to_string()))
}

/// A request's body, within the limits of size and time.
async fn body(service: &Service, request: Request) -> Result<Bytes, InferError> {
    let limit = service.max_request_bytes;
    let too_large = || InferError::TooLarge { limit };
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > limit as u64) {
        return Err(too_large());
    }
    let collected = tokio::time::timeout(service.read_timeout, Limited::new(request.into_body(), limit).collect());
    match collected.await.map_err(|_| InferError::Slow)? {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => Err(InferError::Invalid(format!("the request ends early: {error}"))),
    }
}
