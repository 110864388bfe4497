//! Why a request is not answered with tensors, and what each protocol calls that.

use axum::http::StatusCode;
use tonic::Code;

/// What a client is told; see each message.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InferError {
    /// What was asked for makes no sense: the client has to ask otherwise.
    #[error("{0}")]
    Invalid(String),
    /// The protocol has it, this server does not.
    #[error("{0}")]
    Unsupported(String),
    /// No such model or version.
    #[error("{0}")]
    NotFound(String),
    /// A model that is there but cannot run now.
    #[error("{0}")]
    Unavailable(String),
    /// The model's queue is full.
    #[error("model '{model}' has {queued} requests waiting, as many as it may: try again later")]
    Busy {
        /// The model.
        model: String,
        /// How many wait.
        queued: usize,
    },
    /// The deadline came first.
    #[error("the deadline of the request has passed before it was run")]
    Deadline,
    /// A body over the limit.
    #[error("the request is larger than {limit} bytes, the limit of this server (--max-request-bytes)")]
    TooLarge {
        /// Most bytes of a request.
        limit: usize,
    },
    /// A body that does not come.
    #[error("the request did not arrive in time")]
    Slow,
    /// No token, or another one.
    #[error("a token is needed: the header 'Authorization: Bearer TOKEN'")]
    Unauthenticated,
    /// Something failed that is not the client's fault.
    #[error("{0}")]
    Internal(String),
}

impl InferError {
    /// The status of an HTTP answer.
    pub fn http(&self) -> StatusCode {
        self.codes().0
    }

    /// The status of a gRPC answer.
    pub fn grpc(&self) -> Code {
        self.codes().1
    }

    /// What it is called in metrics and logs.
    pub fn kind(&self) -> &'static str {
        self.codes().2
    }

    fn codes(&self) -> (StatusCode, Code, &'static str) {
        match self {
            InferError::Invalid(_) => (StatusCode::BAD_REQUEST, Code::InvalidArgument, "invalid"),
            InferError::Unsupported(_) => (StatusCode::NOT_IMPLEMENTED, Code::Unimplemented, "unsupported"),
            InferError::NotFound(_) => (StatusCode::NOT_FOUND, Code::NotFound, "not_found"),
            InferError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, "unavailable"),
            InferError::Busy { .. } => (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, "busy"),
            InferError::Deadline => (StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded, "deadline"),
            InferError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, "too_large"),
            InferError::Slow => (StatusCode::REQUEST_TIMEOUT, Code::Cancelled, "slow"),
            InferError::Unauthenticated => (StatusCode::UNAUTHORIZED, Code::Unauthenticated, "unauthenticated"),
            InferError::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, "internal"),
        }
    }
}

impl From<InferError> for tonic::Status {
    fn from(error: InferError) -> tonic::Status {
        tonic::Status::new(error.grpc(), error.to_string())
    }
}
