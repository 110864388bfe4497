//! What can be wrong with a plan.

use std::io;
use std::path::PathBuf;

#[cfg(feature = "signatures")]
use super::signature::PublicKey;

/// Why a plan could not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum PlanError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("not a plan: it does not begin with the plan signature (a plan is what `slidec compile` writes)")]
    NotAPlan,
    #[error(
        "the plan is {actual} bytes long but says that it has {expected}: it is truncated or damaged, copy or compile it again"
    )]
    WrongLength { expected: u64, actual: u64 },
    #[error("the plan was made by a newer slidec (format {found}, this runtime reads {supported}): update sliderun or recompile")]
    NewerVersion { found: u32, supported: u32 },
    #[error("the plan was made by an older slidec (format {found}, this runtime reads {supported}): compile the model again")]
    OlderVersion { found: u32, supported: u32 },
    #[error("the plan has format {0}, which no slidec has ever written: it is damaged, copy or compile it again")]
    UnknownVersion(u32),
    #[error("the plan's manifest does not match its digest: the file is damaged, copy or compile it again")]
    ManifestDigest,
    #[error("the plan's manifest cannot be read: {0}")]
    Manifest(String),
    #[error("the plan is invalid: {place}: {reason}")]
    Invalid { place: String, reason: String },
    #[error("blob {0} does not match its digest: the file is damaged, copy or compile it again")]
    BlobDigest(u32),
    #[error("the plan has no blob {0}")]
    NoSuchBlob(u32),
    #[error("the plan does not fit in memory ({0} bytes)")]
    OutOfMemory(u64),
    #[error(
        "the plan is not signed, and a signature is required: sign it with `slidec sign`, or put its signature beside it, with .sig behind the plan's name"
    )]
    #[cfg(feature = "signatures")]
    NotSigned,
    #[error("the plan is signed by key {0}, which is none of those that are accepted: get it from who owns one of them")]
    #[cfg(feature = "signatures")]
    UnknownSigner(PublicKey),
    #[error(
        "the plan is not what key {0} signed: plan or signature were changed or belong to another, get both again from who signed it"
    )]
    #[cfg(feature = "signatures")]
    BadSignature(PublicKey),
    #[error("{} is no signature of a plan: make one with `slidec sign`", .0.display())]
    #[cfg(feature = "signatures")]
    NotASignature(PathBuf),
    #[error("{0} is more than a plan can hold")]
    TooLarge(&'static str),
}

impl PlanError {
    pub(super) fn invalid(place: impl Into<String>, reason: impl Into<String>) -> Self {
        PlanError::Invalid { place: place.into(), reason: reason.into() }
    }
}
