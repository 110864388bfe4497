//! Results that are worth keeping from one process to the next, each in a small file of its own.
//!
//! A file begins with three lines of text: what it is, its key, and the BLAKE3 digest of the rest, which is what is kept. It appears only
//! when it is complete. One that is damaged, or that another program put there, counts as absent and is written anew. Any number of processes may
//! use a folder at once: each reads what one of them has written whole. Files may be removed at any time; nothing here removes them. A cache that
//! cannot be read or written, as on a full disk, is one less and no failure: [`DiskCache::troubles`] tells. The folder is trusted like the plans
//! are: whoever may write there can make a GPU compute something else.
//!
//! Must not know: what is kept, and when it is out of date: that is in the keys.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::atomic_file::write_atomically;

/// The first line of every file.
const MAGIC: &str = "sliderun cache 1";

/// A variable of the environment, for [`DiskCache::of`].
pub fn environment(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from)
}

/// Most troubles that are told.
const MAX_TROUBLES: usize = 16;

/// A folder with results that are kept.
#[derive(Clone, Debug)]
pub struct DiskCache {
    folder: PathBuf,
    troubles: Arc<Mutex<Vec<String>>>,
}

impl DiskCache {
    /// In this folder, which is made when the first result is kept.
    pub fn new(folder: impl Into<PathBuf>) -> DiskCache {
        DiskCache { folder: folder.into(), troubles: Arc::default() }
    }

    /// In the folder that the environment says: `SLIDERUN_CACHE`, or `sliderun` in `XDG_CACHE_HOME`, or in `~/.cache`. None without any of
    /// them, or when `SLIDERUN_CACHE` is empty.
    pub fn from_env() -> Option<DiskCache> {
        DiskCache::of("SLIDERUN_CACHE", "sliderun", environment)
    }

    /// In the folder that variables say: `own`, or the program's in `XDG_CACHE_HOME`, or in `.cache` in `HOME`. None without any of them, or
    /// when `own` is empty.
    pub fn of(own: &str, program: &str, variable: impl Fn(&str) -> Option<PathBuf>) -> Option<DiskCache> {
        let absolute = |p: &PathBuf| p.is_absolute();
        match variable(own) {
            Some(folder) if folder.as_os_str().is_empty() => None,
            Some(folder) => Some(DiskCache::new(folder)),
            None => {
                let base = variable("XDG_CACHE_HOME").filter(absolute);
                let base = base.or_else(|| Some(variable("HOME").filter(absolute)?.join(".cache")))?;
                Some(DiskCache::new(base.join(program)))
            }
        }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the result of a kind (a folder's name) under a key lies.
    pub fn path(&self, kind: &str, key: &str) -> PathBuf {
        self.folder.join(kind).join(&blake3::hash(key.as_bytes()).to_hex()[..32])
    }

    /// What is kept under a key, a line of text; none when there is nothing, or nothing whole.
    pub fn get(&self, kind: &str, key: &str) -> Option<Vec<u8>> {
        let path = self.path(kind, key);
        let mut file = match fs::read(&path) {
            Ok(file) => file,
            Err(e) => {
                if e.kind() != io::ErrorKind::NotFound {
                    self.trouble(format!("the cache {} cannot be read ({e}): it is not used", self.folder.display()));
                }
                return None;
            }
        };
        match kept(&file, key) {
            Some(len) => {
                file.drain(..file.len() - len);
                Some(file)
            }
            None => {
                self.trouble(format!("{} is damaged or of another program: it is not used, and replaced", path.display()));
                None
            }
        }
    }

    /// As [`DiskCache::put`]; what cannot be written is a [trouble](DiskCache::troubles) and no failure.
    pub fn keep(&self, kind: &str, key: &str, kept: &[u8]) {
        if let Err(e) = self.put(kind, key, kept) {
            self.trouble(format!("the cache {} cannot be written ({e}): nothing is kept for next time", self.folder.display()));
        }
    }

    /// What this cache and its clones could not read or write so far, each once.
    pub fn troubles(&self) -> Vec<String> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn trouble(&self, what: String) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if troubles.len() < MAX_TROUBLES && !troubles.contains(&what) {
            troubles.push(what);
        }
    }

    /// Keeps something under a key, a line of text.
    ///
    /// # Errors
    /// A key of several lines, and those of the file system.
    pub fn put(&self, kind: &str, key: &str, kept: &[u8]) -> io::Result<()> {
        if key.contains('\n') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a key is one line"));
        }
        let path = self.path(kind, key);
        fs::create_dir_all(self.folder.join(kind))?;
        write_atomically(&path, |out| {
            write!(out, "{MAGIC}\n{key}\n{}\n", blake3::hash(kept).to_hex())?;
            out.write_all(kept)
        })
    }
}

/// How many bytes at the end of a file are what was kept under this key; none when it is not whole.
fn kept(file: &[u8], key: &str) -> Option<usize> {
    let mut lines = file.splitn(4, |&b| b == b'\n');
    let mut line = || lines.next();
    let (magic, found, digest, kept) = (line()?, line()?, line()?, line()?);
    let whole = magic == MAGIC.as_bytes() && found == key.as_bytes() && digest == blake3::hash(kept).to_hex().as_bytes();
    whole.then_some(kept.len())
}

#[cfg(test)]
mod tests;
