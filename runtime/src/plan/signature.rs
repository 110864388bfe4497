//! Signatures of plans: Ed25519 (RFC 8032) over the plan's header.
//!
//! The header has the manifest's digest and place, and the manifest the digest and place of every blob: who signs the header signs all that a
//! run reads. What is in neither, the padding between blobs, must be zero where a signature is required, so that no byte of a signed plan can
//! be changed unnoticed.
//!
//! A signature is 104 bytes: `SLIDESIG`, the signer's public key (32), the signature (64). It is behind the plan in its file, or in a file of
//! its own beside it. Keys are PEM files as OpenSSL writes them.
//!
//! Must not know: where keys come from and who is to be trusted.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::PlanError;
use super::file::{HEADER_LEN, SIGNATURE_LEN, SIGNATURE_MAGIC};

/// What is signed begins with this, so that a signature of a plan is none of anything else.
const PURPOSE: &[u8] = b"sliderun plan, signature 1\n";
const END_OF_KEY: &str = "-----END PUBLIC KEY-----";

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
#[non_exhaustive]
pub enum KeyError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: Box<KeyError> },
    #[error("no public Ed25519 key: a PEM file was expected, as `slidec keygen` writes or `openssl pkey -pubout`")]
    NoPublicKey,
    #[error("no private Ed25519 key: a PEM file was expected, as `slidec keygen` writes or `openssl genpkey -algorithm ed25519`")]
    NoPrivateKey,
}

/// A signer's public key. Displays as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(ed25519_compact::PublicKey);

impl PublicKey {
    /// The key as a PEM file (SubjectPublicKeyInfo).
    pub fn to_pem(&self) -> String {
        self.0.to_pem()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// The public keys of which one must have signed a plan; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signers(Vec<PublicKey>);

impl Signers {
    /// The keys of PEM text, one block each.
    ///
    /// # Errors
    /// Text without a key, and a key that is no public Ed25519 key.
    pub fn from_pem(text: &str) -> Result<Signers, KeyError> {
        let mut keys = Vec::new();
        // A block without a marker is what stands behind the last key.
        for block in text.split_inclusive(END_OF_KEY).filter(|block| block.contains("-----")) {
            let key = ed25519_compact::PublicKey::from_pem(block).ok().filter(|key| key.validate().is_ok());
            keys.push(PublicKey(key.ok_or(KeyError::NoPublicKey)?));
        }
        if keys.is_empty() { Err(KeyError::NoPublicKey) } else { Ok(Signers(keys)) }
    }

    /// The keys of a PEM file.
    ///
    /// # Errors
    /// As [`Signers::from_pem`], and those of the file system.
    pub fn read(path: &Path) -> Result<Signers, KeyError> {
        of_file(path, Signers::from_pem)
    }

    /// The keys.
    pub fn keys(&self) -> &[PublicKey] {
        &self.0
    }

    /// The first of these signatures that is by one of the keys and fits the header.
    pub(super) fn verify(&self, header: &[u8; HEADER_LEN], signatures: &[Signature]) -> Result<PublicKey, PlanError> {
        let mut error = PlanError::NotSigned;
        for signature in signatures {
            let known = self.0.contains(&signature.signer);
            if known && signature.signer.0.verify(message(header), &signature.bytes).is_ok() {
                return Ok(signature.signer);
            }
            // What is wrong with a key that is accepted says more than that there is another.
            if known || !matches!(error, PlanError::BadSignature(_)) {
                let because = if known { PlanError::BadSignature } else { PlanError::UnknownSigner };
                error = because(signature.signer);
            }
        }
        Err(error)
    }
}

impl From<PublicKey> for Signers {
    fn from(key: PublicKey) -> Self {
        Signers(vec![key])
    }
}

/// A signer's private key.
pub struct PrivateKey(ed25519_compact::KeyPair);

impl PrivateKey {
    /// The key that follows from 32 random bytes.
    ///
    /// # Errors
    /// Bytes that are all zero.
    pub fn from_seed(seed: [u8; 32]) -> Result<PrivateKey, KeyError> {
        let pair = ed25519_compact::KeyPair::try_from_seed(seed.into()).map_err(|_| KeyError::NoPrivateKey)?;
        Ok(PrivateKey(pair))
    }

    /// The key of PEM text (PKCS #8).
    ///
    /// # Errors
    /// Text that is no private Ed25519 key.
    pub fn from_pem(text: &str) -> Result<PrivateKey, KeyError> {
        ed25519_compact::KeyPair::from_pem(text).map(PrivateKey).map_err(|_| KeyError::NoPrivateKey)
    }

    /// The key of a PEM file.
    ///
    /// # Errors
    /// As [`PrivateKey::from_pem`], and those of the file system.
    pub fn read(path: &Path) -> Result<PrivateKey, KeyError> {
        of_file(path, PrivateKey::from_pem)
    }

    /// The key as a PEM file.
    pub fn to_pem(&self) -> String {
        self.0.sk.to_pem()
    }

    /// Its public key.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.pk)
    }
}

fn of_file<T>(path: &Path, parse: impl FnOnce(&str) -> Result<T, KeyError>) -> Result<T, KeyError> {
    let text = std::fs::read_to_string(path).map_err(|source| KeyError::Io { path: path.to_owned(), source })?;
    parse(&text).map_err(|source| KeyError::File { path: path.to_owned(), source: Box::new(source) })
}

/// A signature of a plan.
#[derive(Clone, Debug)]
pub struct Signature {
    signer: PublicKey,
    bytes: ed25519_compact::Signature,
}

impl Signature {
    /// Signs a header; the caller has made sure that the plan is whole.
    pub(super) fn new(header: &[u8; HEADER_LEN], key: &PrivateKey) -> Signature {
        Signature { signer: key.public(), bytes: key.0.sk.sign(message(header), None) }
    }

    /// Reads a signature, which must be all that there is.
    pub(super) fn decode(bytes: &[u8]) -> Option<Signature> {
        let bytes: &[u8; SIGNATURE_LEN] = bytes.try_into().ok()?;
        let (magic, rest) = bytes.split_at(SIGNATURE_MAGIC.len());
        let (signer, signature) = rest.split_at(ed25519_compact::PublicKey::BYTES);
        let signer = PublicKey(ed25519_compact::PublicKey::from_slice(signer).ok()?);
        let bytes = ed25519_compact::Signature::from_slice(signature).ok()?;
        (magic == SIGNATURE_MAGIC).then_some(Signature { signer, bytes })
    }

    /// The file that the signature of a plan's file is looked for in: the plan's name with `.sig` behind it.
    pub fn beside(plan: &Path) -> PathBuf {
        let mut name = plan.as_os_str().to_owned();
        name.push(".sig");
        name.into()
    }

    /// Reads the signature beside a plan; none where there is no such file.
    pub(super) fn read_beside(plan: &Path) -> Result<Option<Signature>, PlanError> {
        let path = Signature::beside(plan);
        let file = match std::fs::File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file,
        };
        let mut bytes = Vec::new();
        match file.and_then(|file| file.take(SIGNATURE_LEN as u64 + 1).read_to_end(&mut bytes)) {
            Err(source) => Err(PlanError::Io { path, source }),
            Ok(_) => Signature::decode(&bytes).map(Some).ok_or(PlanError::NotASignature(path)),
        }
    }

    /// Who says to have signed. Only a plan that was opened with [`Signers`] is known to be signed by them.
    pub fn signer(&self) -> PublicKey {
        self.signer
    }

    /// The bytes of a file with this signature, or of the end of a plan's.
    pub fn to_bytes(&self) -> [u8; SIGNATURE_LEN] {
        let mut out = [0; SIGNATURE_LEN];
        let mut rest = &mut out[..];
        for part in [&SIGNATURE_MAGIC[..], &*self.signer.0, &*self.bytes] {
            // The parts are as long as the whole.
            let _ = rest.write_all(part);
        }
        out
    }
}

fn message(header: &[u8; HEADER_LEN]) -> Vec<u8> {
    [PURPOSE, header].concat()
}

#[cfg(test)]
mod tests;
