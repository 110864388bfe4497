//! Reading plans: mapped, read into memory or embedded in a program.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
#[cfg(feature = "signatures")]
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::file::{HEADER_LEN, Header};
use super::manifest::{BlobId, Manifest};
#[cfg(feature = "signatures")]
use super::signature::{PrivateKey, PublicKey, Signature};
use super::validate::validate;
use super::{PlanError, PlanOptions};
use crate::tensor::{ALIGN, AlignedBytes};

/// A validated plan. Its blobs' digests are checked when each is first used.
pub struct Plan {
    data: Data,
    manifest: Manifest,
    digest: blake3::Hash,
    path: Option<PathBuf>,
    intact: Vec<OnceLock<bool>>,
    #[cfg(feature = "signatures")]
    signer: Option<PublicKey>,
}

enum Data {
    Mapped(memmap2::Mmap),
    Owned(AlignedBytes),
    Borrowed(&'static [u8]),
}

impl Data {
    fn map(path: &Path) -> Result<Data, PlanError> {
        let io = |source| PlanError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() < HEADER_LEN as u64 {
            // Also keeps empty files, which cannot be mapped, away from the mapping.
            return Data::read(path);
        }
        // SAFETY: the map is only read, as bytes, and what is read is validated before it is used. Another process that truncates the file
        // while it is mapped makes reads fail with SIGBUS, and one that rewrites it in place changes the bytes under us: the documentation
        // of `Plan::open` asks the caller to exclude both, and offers `open_unmapped` where that is not possible.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Ok(Data::Mapped(map))
    }

    fn read(path: &Path) -> Result<Data, PlanError> {
        let io = |source| PlanError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(PlanError::NotAPlan);
        }
        let len = usize::try_from(metadata.len()).map_err(|_| PlanError::OutOfMemory(metadata.len()))?;
        let mut bytes = AlignedBytes::try_zeroed(len).ok_or(PlanError::OutOfMemory(metadata.len()))?;
        file.read_exact(bytes.as_mut_slice()).map_err(io)?;
        Ok(Data::Owned(bytes))
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Data::Mapped(map) => map,
            Data::Owned(bytes) => bytes.as_slice(),
            Data::Borrowed(bytes) => bytes,
        }
    }
}

impl Plan {
    /// Maps a file. While the plan lives, no other process may shorten or change the file (replacing it by a rename, as the compiler does,
    /// is fine); where that cannot be had, use [`Plan::open_unmapped`].
    ///
    /// # Errors
    /// Those of the file system, and everything that can be wrong with a plan but damaged blobs.
    pub fn open(path: &Path) -> Result<Plan, PlanError> {
        Plan::open_with(path, &PlanOptions::default())
    }

    /// Reads a file into memory.
    ///
    /// # Errors
    /// As [`Plan::open`].
    pub fn open_unmapped(path: &Path) -> Result<Plan, PlanError> {
        Plan::open_with(path, &PlanOptions::default().with_no_mmap(true))
    }

    /// Opens a file as the options say.
    ///
    /// # Errors
    /// As [`Plan::open`]; where a signature is required, that there is none that fits, and damaged blobs.
    pub fn open_with(path: &Path, options: &PlanOptions) -> Result<Plan, PlanError> {
        let data = if options.no_mmap { Data::read(path)? } else { Data::map(path)? };
        Ok(Plan { path: Some(path.to_owned()), ..Plan::new(data, Some(path), options)? })
    }

    /// A plan in memory: a `Vec<u8>`, or a `&'static [u8]` from `include_bytes!`. Static bytes aligned to 64 are used in place, others are
    /// copied.
    ///
    /// # Errors
    /// As [`Plan::open`].
    pub fn from_bytes(bytes: impl Into<Cow<'static, [u8]>>) -> Result<Plan, PlanError> {
        match bytes.into() {
            Cow::Borrowed(bytes) if bytes.as_ptr().addr().is_multiple_of(ALIGN) => {
                Plan::new(Data::Borrowed(bytes), None, &PlanOptions::default())
            }
            bytes => Plan::copied(&bytes),
        }
    }

    /// A copy of a plan in memory, for bytes that do not live as long as the program.
    ///
    /// # Errors
    /// As [`Plan::open`].
    pub fn copied(bytes: &[u8]) -> Result<Plan, PlanError> {
        Plan::copied_with(bytes, &PlanOptions::default())
    }

    /// As [`Plan::copied`], as far as the options are not about files. A signature that is required must be behind the plan.
    ///
    /// # Errors
    /// As [`Plan::open_with`].
    pub fn copied_with(bytes: &[u8], options: &PlanOptions) -> Result<Plan, PlanError> {
        // What is no plan is not worth a copy.
        Header::decode(bytes)?;
        let mut copy = AlignedBytes::try_zeroed(bytes.len()).ok_or(PlanError::OutOfMemory(bytes.len() as u64))?;
        copy.as_mut_slice().copy_from_slice(bytes);
        Plan::new(Data::Owned(copy), None, options)
    }

    /// `beside`: the file beside which a signature may lie.
    #[cfg_attr(not(feature = "signatures"), allow(unused_variables))]
    fn new(data: Data, beside: Option<&Path>, options: &PlanOptions) -> Result<Plan, PlanError> {
        let file = data.bytes();
        let (header, header_bytes) = Header::decode(file)?;
        #[cfg(feature = "signatures")]
        let signer = match &options.signers {
            Some(signers) => Some(signers.verify(header_bytes, &signatures(file, &header, beside)?)?),
            None => None,
        };
        let start = usize::try_from(header.manifest_offset).map_err(|_| PlanError::OutOfMemory(header.manifest_offset))?;
        // The header's check put the manifest inside the file.
        let manifest = &file[start..start + header.manifest_len as usize];
        let digest = blake3::Hash::from_bytes(header.digest);
        if blake3::hash(manifest) != digest {
            return Err(PlanError::ManifestDigest);
        }
        let manifest: Manifest = rmp_serde::from_slice(manifest).map_err(|e| PlanError::Manifest(e.to_string()))?;
        validate(&manifest, header.manifest_offset)?;
        let intact = manifest.blobs.iter().map(|_| OnceLock::new()).collect();
        let plan = Plan {
            data,
            manifest,
            digest,
            path: None,
            intact,
            #[cfg(feature = "signatures")]
            signer,
        };
        #[cfg(feature = "signatures")]
        if let Some(signer) = signer {
            plan.check()?;
            if !plan.padding_is_zero() {
                return Err(PlanError::BadSignature(signer));
            }
        }
        Ok(plan)
    }

    /// What the plan says.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// BLAKE3 of the manifest, which holds the digests of all blobs: that of the plan.
    pub fn digest(&self) -> blake3::Hash {
        self.digest
    }

    /// The file that it was opened from; none where it was in memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.data.bytes().len() as u64
    }

    /// The bytes of a blob, aligned to 64.
    ///
    /// # Errors
    /// Bytes that do not match their digest, and a blob that does not exist.
    pub fn blob(&self, id: BlobId) -> Result<&[u8], PlanError> {
        let index = id.0 as usize;
        let missing = || PlanError::NoSuchBlob(id.0);
        let blob = self.manifest.blobs.get(index).ok_or_else(missing)?;
        // Validation put every blob inside the file, whose length is a usize.
        let (start, len) = (blob.offset as usize, blob.len as usize);
        let bytes = self.data.bytes().get(start..start + len).ok_or_else(missing)?;
        let intact = self.intact.get(index).ok_or_else(missing)?;
        if *intact.get_or_init(|| blake3::hash(bytes) == blob.digest) { Ok(bytes) } else { Err(PlanError::BlobDigest(id.0)) }
    }

    /// Checks every blob against its digest.
    ///
    /// # Errors
    /// The first blob that is damaged.
    pub fn check(&self) -> Result<(), PlanError> {
        (0..self.intact.len()).try_for_each(|i| self.blob(BlobId(i as u32)).map(|_| ()))
    }
}

#[cfg(feature = "signatures")]
impl Plan {
    /// Who signed the plan, where it was opened with [`Signers`](super::signature::Signers).
    pub fn signer(&self) -> Option<PublicKey> {
        self.signer
    }

    /// Signs a plan, all of which is checked first.
    ///
    /// # Errors
    /// Damaged blobs, and bytes between blobs that a compiler would not have written.
    pub fn sign(&self, key: &PrivateKey) -> Result<Signature, PlanError> {
        self.check()?;
        if !self.padding_is_zero() {
            return Err(PlanError::invalid("padding", "it is not zero"));
        }
        let (_, header) = Header::decode(self.data.bytes())?;
        Ok(Signature::new(header, key))
    }

    /// Writes the plan's file with this signature in the place of what signature it has.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_signed(&self, signature: &Signature, out: &mut dyn Write) -> io::Result<()> {
        let file = self.data.bytes();
        let (header, _) = Header::decode(file).map_err(io::Error::other)?;
        out.write_all(&file[..header.file_end()])?;
        out.write_all(&signature.to_bytes())
    }

    /// Whether there is nothing in what is neither header, blob nor manifest.
    fn padding_is_zero(&self) -> bool {
        let file = self.data.bytes();
        // Validation put every blob behind the header and before the manifest.
        let mut blobs: Vec<(usize, usize)> =
            self.manifest.blobs.iter().map(|b| (b.offset as usize, (b.offset + b.len) as usize)).collect();
        blobs.sort_unstable();
        let Ok((header, _)) = Header::decode(file) else { return false };
        blobs.push((header.manifest_offset as usize, file.len()));
        let mut end = HEADER_LEN;
        blobs.into_iter().all(|(start, stop)| {
            let zero = file.get(end..start).is_none_or(|padding| padding.iter().all(|&b| b == 0));
            end = end.max(stop);
            zero
        })
    }
}

/// The signatures that come with a file: the one behind the plan, then the one beside the file.
#[cfg(feature = "signatures")]
fn signatures(file: &[u8], header: &Header, beside: Option<&Path>) -> Result<Vec<Signature>, PlanError> {
    let behind = Signature::decode(&file[header.file_end()..]);
    let beside = beside.map(Signature::read_beside).transpose()?.flatten();
    Ok(behind.into_iter().chain(beside).collect())
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("size", &self.size())
            .field("steps", &self.manifest.program.steps.len())
            .finish_non_exhaustive()
    }
}
