//! Finished weights in a folder, so that a pruning that was interrupted goes on where it was.
//!
//! One file per weight, which appears only when it is complete: a line of JSON, then the constant's bytes. Its name stands for all that the
//! weight depends on: model, options, calibration, version of the compiler, and the weight as it was; anything else is not found.
//!
//! Must not know: how weights are pruned.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sliderun::atomic_file::write_atomically;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::Layer;
use crate::ir::Constant;

/// A folder of finished weights.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    key: blake3::Hash,
}

#[derive(Serialize, Deserialize)]
struct Header {
    node: String,
    layer: Layer,
    /// Of the bytes that follow.
    digest: String,
}

impl Checkpoint {
    /// A folder, made where it is not there; `about` is what all of the weights depend on.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(folder: &Path, about: &[&str]) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let mut hasher = blake3::Hasher::new();
        for part in [env!("CARGO_PKG_VERSION")].iter().chain(about) {
            hasher.update(&part.len().to_le_bytes()).update(part.as_bytes());
        }
        Ok(Checkpoint { folder: folder.to_owned(), key: hasher.finalize() })
    }

    fn path(&self, node: &str, before: &Constant) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.key.as_bytes()).update(node.as_bytes()).update(blake3::hash(&before.data).as_bytes());
        self.folder.join(format!("{}.pruned", &hasher.finalize().to_hex()[..32]))
    }

    /// What a product's weight was pruned to, when that is known. A file that is damaged counts as none.
    pub fn load(&self, node: &str, before: &Constant) -> Option<(Constant, Layer)> {
        let mut file = Bytes::from(std::fs::read(self.path(node, before)).ok()?);
        let line = file.split_to(file.iter().position(|b| *b == b'\n')? + 1);
        let header: Header = serde_json::from_slice(&line).ok()?;
        let intact = header.node == node && header.digest == blake3::hash(&file).to_hex().as_str();
        (intact && file.len() == before.data.len()).then(|| (Constant { data: file, ..before.clone() }, header.layer))
    }

    /// Keeps what a product's weight was pruned to.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn store(&self, node: &str, before: &Constant, after: &Constant, layer: &Layer) -> io::Result<()> {
        let digest = blake3::hash(&after.data).to_hex().to_string();
        let header = Header { node: node.to_owned(), layer: layer.clone(), digest };
        write_atomically(&self.path(node, before), |file| {
            serde_json::to_writer(&mut *file, &header)?;
            file.write_all(b"\n")?;
            file.write_all(&after.data)
        })
    }
}
