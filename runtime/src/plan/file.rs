//! The layout of a plan file: a 64-byte header, the blobs, the manifest.
//!
//! | bytes | what |
//! |---|---|
//! | 0..8 | the signature `SLIDEPLN` |
//! | 8..12 | format version, u32 |
//! | 12..16 | length of the manifest, u32 |
//! | 16..24 | where the manifest starts, u64 |
//! | 24..32 | length of the file, u64 |
//! | 32..64 | BLAKE3 of the manifest |
//!
//! Numbers are little-endian. Blobs start at multiples of [`BLOB_ALIGN`]; the manifest is the last thing in the file, but for a signature: 104
//! bytes (`SLIDESIG`, the signer's public key, the Ed25519 signature) that are not counted in the file's length and that nothing but the check of
//! signatures reads.

use super::PlanError;

/// The version that this crate writes, and the only one that it reads.
pub const FORMAT_VERSION: u32 = 2;

/// Alignment of blobs in the file, in bytes.
pub const BLOB_ALIGN: u64 = 256;

pub(super) const HEADER_LEN: usize = 64;
const MAGIC: [u8; 8] = *b"SLIDEPLN";

pub(super) const SIGNATURE_LEN: usize = 104;
pub(super) const SIGNATURE_MAGIC: [u8; 8] = *b"SLIDESIG";

/// The header's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub manifest_len: u32,
    pub manifest_offset: u64,
    pub digest: [u8; 32],
}

impl Header {
    pub fn file_len(&self) -> Option<u64> {
        self.manifest_offset.checked_add(self.manifest_len.into())
    }

    /// Where the plan ends in a file that [`Header::decode`] found long enough.
    #[cfg(feature = "signatures")]
    pub fn file_end(&self) -> usize {
        self.manifest_offset as usize + self.manifest_len as usize
    }

    pub fn encode(&self) -> Result<[u8; HEADER_LEN], PlanError> {
        let file_len = self.file_len().ok_or(PlanError::TooLarge("the file"))?;
        let mut out = [0; HEADER_LEN];
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.manifest_len.to_le_bytes());
        out[16..24].copy_from_slice(&self.manifest_offset.to_le_bytes());
        out[24..32].copy_from_slice(&file_len.to_le_bytes());
        out[32..].copy_from_slice(&self.digest);
        Ok(out)
    }

    /// Reads the header of a file and checks it against the file's length, without the signature that may be behind it.
    pub fn decode(file: &[u8]) -> Result<(Header, &[u8; HEADER_LEN]), PlanError> {
        let actual = file.len() as u64;
        let seen = file.len().min(MAGIC.len());
        if seen == 0 || file[..seen] != MAGIC[..seen] {
            return Err(PlanError::NotAPlan);
        }
        let Some(bytes) = file.first_chunk::<HEADER_LEN>() else {
            return Err(PlanError::WrongLength { expected: HEADER_LEN as u64, actual });
        };
        let u32_at = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let u64_at = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        match u32_at(8) {
            FORMAT_VERSION => {}
            0 => return Err(PlanError::UnknownVersion(0)),
            found if found < FORMAT_VERSION => return Err(PlanError::OlderVersion { found, supported: FORMAT_VERSION }),
            found => return Err(PlanError::NewerVersion { found, supported: FORMAT_VERSION }),
        }
        let header =
            Header { manifest_len: u32_at(12), manifest_offset: u64_at(16), digest: std::array::from_fn(|i| bytes[32 + i]) };
        let expected = u64_at(24);
        if expected != actual && !ends_in_signature(file, expected) {
            return Err(PlanError::WrongLength { expected, actual });
        }
        if header.file_len() != Some(expected) || header.manifest_offset < HEADER_LEN as u64 {
            return Err(PlanError::invalid("header", "the manifest is not the end of the file"));
        }
        Ok((header, bytes))
    }
}

/// Whether what comes behind the first `len` bytes of a file is a signature.
fn ends_in_signature(file: &[u8], len: u64) -> bool {
    let rest = usize::try_from(len).ok().and_then(|len| file.get(len..));
    rest.is_some_and(|rest| rest.len() == SIGNATURE_LEN && rest.starts_with(&SIGNATURE_MAGIC))
}
