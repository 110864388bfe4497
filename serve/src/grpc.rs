//! The protocol over gRPC: the service `inference.GRPCInferenceService`, and what KServe's and Triton's clients call beside it.
//!
//! Must not know: how requests are queued and run.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::post;
use prost::Message;
use tonic::Status;
use tonic::server::Grpc;
use tonic_prost::ProstCodec;

use crate::error::InferError;
use crate::protocol::messages;
use crate::protocol::proto::{
    Empty, Flag, ModelIndex, ModelInferRequest, ModelInferResponse, ModelMetadataResponse, ModelRequest, RepositoryIndexRequest,
    RepositoryIndexResponse, RepositoryModelRequest, ServerMetadataResponse, TensorMetadata, read_request, write_response,
};
use crate::service::{SERVER, Service};

type Shared = Arc<Service>;

/// All methods.
pub fn router(service: Shared) -> Router {
    let path = |method: &str| format!("/inference.GRPCInferenceService/{method}");
    let open = Router::new()
        .route(&path("ServerLive"), unary(|_, _, _: Empty| async { Ok(Flag { value: true }) }))
        .route(&path("ServerReady"), unary(server_ready))
        .with_state(service.clone());
    let guarded = Router::new()
        .route(&path("ModelReady"), unary(model_ready))
        .route(&path("ServerMetadata"), unary(server_metadata))
        .route(&path("ModelMetadata"), unary(model_metadata))
        .route(&path("ModelInfer"), unary(infer))
        .route(&path("RepositoryIndex"), unary(index))
        .route(&path("RepositoryModelLoad"), unary(load))
        .route(&path("RepositoryModelUnload"), unary(unload))
        .fallback(|request: Request| async move {
            failed(Status::unimplemented(format!("there is no method {}", request.uri().path())))
        })
        .layer(from_fn_with_state(service.clone(), authorize))
        .with_state(service);
    open.merge(guarded)
}

/// A method that takes one message and gives one.
fn unary<Q, A, F, T>(method: F) -> axum::routing::MethodRouter<Shared>
where
    Q: Message + Default + 'static,
    A: Message + 'static,
    F: Fn(Shared, HeaderMap, Q) -> T + Clone + Send + Sync + 'static,
    T: Future<Output = Result<A, InferError>> + Send + 'static,
{
    post(move |State(service): State<Shared>, request: Request| async move {
        let headers = request.headers().clone();
        let limit = service.max_request_bytes;
        let call = tower::service_fn(move |request: tonic::Request<Q>| {
            let answer = method(service.clone(), headers.clone(), request.into_inner());
            async move { answer.await.map(tonic::Response::new).map_err(Status::from) }
        });
        let mut grpc =
            Grpc::new(ProstCodec::<A, Q>::default()).max_decoding_message_size(limit).max_encoding_message_size(usize::MAX);
        grpc.unary(call, request).await.map(Body::new)
    })
}

fn failed(status: Status) -> Response {
    status.into_http()
}

async fn authorize(State(service): State<Shared>, request: Request, next: Next) -> Response {
    match service.authorize(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(error) => failed(error.into()),
    }
}

async fn server_ready(service: Shared, _: HeaderMap, _: Empty) -> Result<Flag, InferError> {
    Ok(Flag { value: service.registry.is_ready() })
}

async fn model_ready(service: Shared, _: HeaderMap, request: ModelRequest) -> Result<Flag, InferError> {
    Ok(Flag { value: service.registry.model(&request.name, &request.version).is_ok_and(|m| m.is_ready()) })
}

async fn server_metadata(_: Shared, _: HeaderMap, _: Empty) -> Result<ServerMetadataResponse, InferError> {
    let extensions = SERVER.extensions.iter().map(|e| (*e).to_owned()).collect();
    Ok(ServerMetadataResponse { name: SERVER.name.to_owned(), version: SERVER.version.to_owned(), extensions })
}

async fn model_metadata(service: Shared, _: HeaderMap, request: ModelRequest) -> Result<ModelMetadataResponse, InferError> {
    let metadata = service.metadata(&request.name, &request.version)?;
    let tensor = |t: messages::TensorMetadata| TensorMetadata { name: t.name, datatype: t.datatype.to_owned(), shape: t.shape };
    Ok(ModelMetadataResponse {
        name: metadata.name,
        versions: metadata.versions,
        platform: metadata.platform.to_owned(),
        inputs: metadata.inputs.into_iter().map(tensor).collect(),
        outputs: metadata.outputs.into_iter().map(tensor).collect(),
    })
}

async fn infer(service: Shared, headers: HeaderMap, request: ModelInferRequest) -> Result<ModelInferResponse, InferError> {
    let start = Instant::now();
    let (name, version) = (request.model_name.clone(), request.model_version.clone());
    let read = || {
        service.registry.model(&name, &version)?.admit()?;
        let timeout = headers.get("grpc-timeout").map(|v| v.to_str().ok().and_then(timeout).ok_or(())).transpose();
        let timeout = timeout.map_err(|()| InferError::Invalid("grpc-timeout is no time".to_owned()))?;
        Ok((read_request(request).map_err(InferError::Invalid)?, timeout))
    };
    let (request, timeout) = read().inspect_err(|error| service.record("grpc", &name, "", start, Some(error)))?;
    let response = service.infer("grpc", (&name, &version), request, start, timeout).await?;
    write_response(response).map_err(InferError::Internal)
}

/// The time that the header `grpc-timeout` says: at most 8 digits and a unit.
fn timeout(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 =
        number.parse().ok().filter(|_| (1..=8).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit()))?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

async fn index(service: Shared, _: HeaderMap, request: RepositoryIndexRequest) -> Result<RepositoryIndexResponse, InferError> {
    let entry =
        |e: messages::IndexEntry| ModelIndex { name: e.name, version: e.version, state: e.state.to_owned(), reason: e.reason };
    Ok(RepositoryIndexResponse { models: service.registry.index(request.ready).into_iter().map(entry).collect() })
}

async fn load(service: Shared, _: HeaderMap, request: RepositoryModelRequest) -> Result<Empty, InferError> {
    service.registry.load(&request.model_name).await.map(|()| Empty {})
}

async fn unload(service: Shared, _: HeaderMap, request: RepositoryModelRequest) -> Result<Empty, InferError> {
    service.registry.unload(&request.model_name).await.map(|()| Empty {})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_those_of_the_grpc_specification() {
        for (text, expected) in [
            ("1S", Some(Duration::from_secs(1))),
            ("100m", Some(Duration::from_millis(100))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("2H", Some(Duration::from_secs(7200))),
            ("", None),
            ("S", None),
            ("1", None),
            ("+1S", None),
            ("100000000u", None),
            ("1é", None),
        ] {
            assert_eq!(timeout(text), expected, "{text}");
        }
    }
}
