//! Writing plans. The same blobs and manifest give the same bytes.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

use super::PlanError;
use super::file::{BLOB_ALIGN, HEADER_LEN, Header};
use super::manifest::{Blob, BlobId, Manifest};
use super::validate::validate;
use crate::atomic_file::write_atomically;

/// Collects blobs, then writes the file. Blobs are held as given (borrowed, mapped, shared), not copied.
#[derive(Default)]
pub struct PlanWriter<'a> {
    blobs: Vec<Blob>,
    data: Vec<Box<dyn AsRef<[u8]> + 'a>>,
    by_digest: BTreeMap<[u8; 32], BlobId>,
}

impl<'a> PlanWriter<'a> {
    /// A writer without blobs.
    pub fn new() -> Self {
        PlanWriter::default()
    }

    /// Adds a blob; equal bytes are stored once.
    pub fn add_blob(&mut self, bytes: impl AsRef<[u8]> + 'a) -> BlobId {
        let data = bytes.as_ref();
        let digest = blake3::hash(data);
        let len = data.len() as u64;
        *self.by_digest.entry(*digest.as_bytes()).or_insert_with(|| {
            let start = self.blobs.last().map_or(HEADER_LEN as u64, |b| b.offset + b.len);
            self.blobs.push(Blob { offset: start.next_multiple_of(BLOB_ALIGN), len, digest });
            self.data.push(Box::new(bytes));
            BlobId(u32::try_from(self.blobs.len() - 1).expect("blobs that are in memory at once are fewer than 2^32"))
        })
    }

    /// Writes the plan beside `path` and renames it into place. `manifest.blobs` is replaced by the blobs that were added. Gives the size
    /// of the file in bytes.
    ///
    /// # Errors
    /// A manifest that is not valid, and those of the file system. After an error nothing has changed.
    pub fn finish(&self, manifest: Manifest, path: &Path) -> Result<u64, PlanError> {
        let (header, manifest) = self.encode(manifest)?;
        write_atomically(path, |out| self.write(&header, &manifest, out))
            .map_err(|source| PlanError::Io { path: path.to_owned(), source })?;
        Ok(header.manifest_offset + u64::from(header.manifest_len))
    }

    /// The bytes of the file that [`PlanWriter::finish`] would write.
    ///
    /// # Errors
    /// A manifest that is not valid.
    pub fn to_bytes(&self, manifest: Manifest) -> Result<Vec<u8>, PlanError> {
        let (header, manifest) = self.encode(manifest)?;
        let mut out = Vec::new();
        self.write(&header, &manifest, &mut out).map_err(|source| PlanError::Io { path: "memory".into(), source })?;
        Ok(out)
    }

    fn encode(&self, mut manifest: Manifest) -> Result<(Header, Vec<u8>), PlanError> {
        manifest.blobs = self.blobs.clone();
        let manifest_offset = self.blobs.last().map_or(HEADER_LEN as u64, |b| b.offset + b.len);
        validate(&manifest, manifest_offset)?;
        encode_manifest(&manifest, manifest_offset)
    }

    fn write(&self, header: &Header, manifest: &[u8], out: &mut dyn Write) -> io::Result<()> {
        out.write_all(&header.encode().map_err(io::Error::other)?)?;
        let mut at = HEADER_LEN as u64;
        for (blob, data) in self.blobs.iter().zip(&self.data) {
            write_zeros(out, blob.offset - at)?;
            let bytes = data.as_ref().as_ref();
            if bytes.len() as u64 != blob.len {
                return Err(io::Error::other("a blob changed its length while the plan was written"));
            }
            out.write_all(bytes)?;
            at = blob.offset + blob.len;
        }
        out.write_all(manifest)
    }
}

/// The header and the encoded manifest of a file whose manifest starts at `manifest_offset`.
pub(super) fn encode_manifest(manifest: &Manifest, manifest_offset: u64) -> Result<(Header, Vec<u8>), PlanError> {
    let bytes = rmp_serde::to_vec_named(manifest).map_err(|e| PlanError::Manifest(e.to_string()))?;
    let manifest_len = u32::try_from(bytes.len()).map_err(|_| PlanError::TooLarge("the manifest"))?;
    Ok((Header { manifest_len, manifest_offset, digest: *blake3::hash(&bytes).as_bytes() }, bytes))
}

fn write_zeros(out: &mut dyn Write, count: u64) -> io::Result<()> {
    const ZEROS: [u8; BLOB_ALIGN as usize] = [0; BLOB_ALIGN as usize];
    // Padding is always shorter than the alignment.
    out.write_all(&ZEROS[..count as usize])
}
