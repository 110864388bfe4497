//! Results that are worth keeping from one process to the next, each in a small file of its own.
//!
//! A file begins with three lines of text: what it is, its key, and the BLAKE3 digest of the rest, which is what is kept. It appears only
//! when it is complete. One that is damaged, or that another program put there, counts as absent and is written anew. Files may be removed at
//! any time; nothing here removes them. The folder is trusted like the plans are: whoever may write there can make a GPU compute something
//! else.
//!
//! Must not know: what is kept, and when it is out of date: that is in the keys.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::atomic_file::write_atomically;

/// The first line of every file.
const MAGIC: &str = "sliderun cache 1";

/// A variable of the environment, for [`DiskCache::of`].
pub fn environment(name: &str) -> Option<PathBuf> {
    env::var_os(name).map(PathBuf::from)
}

/// A folder with results that are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskCache {
    folder: PathBuf,
}

impl DiskCache {
    /// In this folder, which is made when the first result is kept.
    pub fn new(folder: impl Into<PathBuf>) -> DiskCache {
        DiskCache { folder: folder.into() }
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
        let mut file = fs::read(self.path(kind, key)).ok()?;
        let mut lines = file.splitn(4, |&b| b == b'\n');
        let mut line = || lines.next();
        let (magic, found, digest, kept) = (line()?, line()?, line()?, line()?);
        let whole = magic == MAGIC.as_bytes() && found == key.as_bytes() && digest == blake3::hash(kept).to_hex().as_bytes();
        let start = file.len() - kept.len();
        whole.then(|| {
            file.drain(..start);
            file
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_whole_or_of_another_key_is_absent() {
        let root = tempfile::tempdir().unwrap();
        let cache = DiskCache::new(root.path().join("a/b"));
        assert_eq!(cache.get("kind", "key"), None);
        cache.put("kind", "key", b"line\nline\n\0").unwrap();
        assert_eq!(cache.get("kind", "key").as_deref(), Some(b"line\nline\n\0".as_slice()));
        assert_eq!((cache.get("kind", "other"), cache.get("other", "key")), (None, None));
        let path = cache.path("kind", "key");
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for bad in [&whole[..whole.len() - 1], &whole[..20], &whole[1..], &[], &flipped] {
            fs::write(&path, bad).unwrap();
            assert_eq!(cache.get("kind", "key"), None);
        }
        // A file that belongs under another name.
        fs::write(cache.path("kind", "other"), &whole).unwrap();
        assert_eq!(cache.get("kind", "other"), None);
        cache.put("kind", "key", b"").unwrap();
        assert_eq!(cache.get("kind", "key").as_deref(), Some(b"".as_slice()));
        assert!(cache.put("kind", "a\nb", b"").is_err());
    }

    #[test]
    fn the_environment_says_where() {
        let folder = |variables: &[(&str, &str)]| {
            let variable = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| PathBuf::from(v.1));
            DiskCache::of("SLIDERUN_CACHE", "sliderun", variable).map(|c| c.folder.display().to_string())
        };
        let (own, xdg, home) = (("SLIDERUN_CACHE", "here"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h"));
        assert_eq!(folder(&[own, xdg, home]).as_deref(), Some("here"));
        assert_eq!(folder(&[xdg, home]).as_deref(), Some("/x/sliderun"));
        assert_eq!(folder(&[("XDG_CACHE_HOME", "x"), home]).as_deref(), Some("/h/.cache/sliderun"));
        assert_eq!(folder(&[("SLIDERUN_CACHE", ""), home]), None);
        assert_eq!(folder(&[]), None);
    }
}
