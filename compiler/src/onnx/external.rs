//! Tensor data in files beside the model: mapped, range-checked, and confined to the model's folder.

use bytes::Bytes;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;

use super::load::map_file;
use super::proto::TensorProto;

/// Why external data cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ExternalError {
    #[error("its data is in another file, but the model was not opened from a folder")]
    NoFolder,
    #[error("its external data has no location")]
    NoLocation,
    #[error("its data file '{0}' is outside the model's folder; only files in that folder are read")]
    Outside(String),
    #[error("its data file '{location}' cannot be read: {reason}; put it beside the model")]
    Unreadable { location: String, reason: String },
    #[error("`{key}` of its external data is '{value}', which is not a size")]
    BadNumber { key: &'static str, value: String },
    #[error("bytes {offset}..{end} of its data file '{location}' are asked for, which has {size}")]
    OutOfRange { location: String, offset: u64, end: u64, size: u64 },
}

/// The data files of a model, mapped when first used.
#[derive(Debug, Default)]
pub(super) struct ExternalFiles {
    folder: Option<PathBuf>,
    mapped: Mutex<HashMap<String, Bytes>>,
}

impl ExternalFiles {
    /// The files beside a model in `folder`.
    pub(super) fn beside(folder: PathBuf) -> Self {
        ExternalFiles { folder: Some(folder), mapped: Mutex::default() }
    }

    /// The bytes of an external tensor that needs `expected` of them when the model does not say.
    pub(super) fn read(&self, t: &TensorProto, expected: usize) -> Result<Bytes, ExternalError> {
        let entry = |key: &str| t.external_data.iter().find(|e| e.key() == key).map(|e| e.value());
        let number = |key: &'static str| {
            entry(key)
                .map(|value| value.trim().parse::<u64>().map_err(|_| ExternalError::BadNumber { key, value: value.to_owned() }))
                .transpose()
        };
        let location = entry("location").filter(|l| !l.is_empty()).ok_or(ExternalError::NoLocation)?;
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(expected as u64);
        let file = self.map(location)?;
        let out_of_range = || ExternalError::OutOfRange {
            location: location.to_owned(),
            offset,
            end: offset.saturating_add(length),
            size: file.len() as u64,
        };
        let end = offset.checked_add(length).filter(|&end| end <= file.len() as u64).ok_or_else(out_of_range)?;
        let (Ok(start), Ok(end)) = (usize::try_from(offset), usize::try_from(end)) else {
            return Err(out_of_range());
        };
        Ok(file.slice(start..end))
    }

    fn map(&self, location: &str) -> Result<Bytes, ExternalError> {
        let mut mapped = self.mapped.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(file) = mapped.get(location) {
            return Ok(file.clone());
        }
        let folder = self.folder.as_deref().ok_or(ExternalError::NoFolder)?;
        let file = map_file(&confined(folder, location)?)
            .map_err(|e| ExternalError::Unreadable { location: location.to_owned(), reason: e.to_string() })?;
        mapped.insert(location.to_owned(), file.clone());
        Ok(file)
    }
}

/// The path of a data file, when it really lies within `folder`: no absolute path, no `..`, no link that leads out.
fn confined(folder: &Path, location: &str) -> Result<PathBuf, ExternalError> {
    let outside = || ExternalError::Outside(location.to_owned());
    let unreadable = |e: std::io::Error| ExternalError::Unreadable { location: location.to_owned(), reason: e.to_string() };
    let relative = Path::new(location);
    // Backslashes are separators to those who write models on Windows.
    if location.contains('\\') || !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(outside());
    }
    let folder = folder.canonicalize().map_err(unreadable)?;
    let path = folder.join(relative).canonicalize().map_err(unreadable)?;
    if path.starts_with(&folder) { Ok(path) } else { Err(outside()) }
}
