//! Cubins kept on disk between compilations. An entry is the BLAKE3 digest of the cubin, then the cubin; one that does not fit its digest
//! counts as absent.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use sliderun::atomic_file::write_atomically;

/// What a cubin was made from: a digest of the source, the headers, the options and NVRTC's version.
pub(crate) struct Key(blake3::Hash);

impl Key {
    pub(crate) fn new(source: &str, headers: &[(&str, &str)], options: &[String], version: (i32, i32)) -> Key {
        let mut hasher = blake3::Hasher::new();
        // Lengths before texts, so that no two lists of texts are hashed alike.
        let mut text = |text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        };
        text(source);
        text(&format!("{} headers, {} options, NVRTC {}.{}", headers.len(), options.len(), version.0, version.1));
        for (name, body) in headers {
            text(name);
            text(body);
        }
        for option in options {
            text(option);
        }
        Key(hasher.finalize())
    }
}

/// A folder of cubins.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// In this folder, which is made when the first cubin is kept.
    pub fn new(folder: impl Into<PathBuf>) -> Cache {
        Cache { folder: folder.into() }
    }

    /// In the folder that the environment says: `SLIDEC_CACHE`, or `slidec` in `XDG_CACHE_HOME`, or in `~/.cache`. None without any of them,
    /// or when `SLIDEC_CACHE` is empty.
    pub fn from_env() -> Option<Cache> {
        Cache::from(|name| env::var_os(name).map(PathBuf::from))
    }

    fn from(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<Cache> {
        let absolute = |p: &PathBuf| p.is_absolute();
        let root = match variable("SLIDEC_CACHE") {
            Some(folder) if folder.as_os_str().is_empty() => None,
            Some(folder) => Some(folder),
            None => {
                let base = variable("XDG_CACHE_HOME").filter(absolute);
                base.or_else(|| Some(variable("HOME").filter(absolute)?.join(".cache"))).map(|base| base.join("slidec"))
            }
        };
        root.map(|root| Cache::new(root.join("cubins")))
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(format!("{}.cubin", key.0.to_hex()))
    }

    /// The cubin kept under a key; none when there is none, or not whole.
    pub(crate) fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let mut entry = fs::read(self.path(key)).ok()?;
        let digest = *entry.first_chunk::<{ blake3::OUT_LEN }>()?;
        entry.drain(..blake3::OUT_LEN);
        (blake3::hash(&entry) == blake3::Hash::from_bytes(digest)).then_some(entry)
    }

    /// Keeps a cubin.
    pub(crate) fn put(&self, key: &Key, cubin: &[u8]) -> io::Result<()> {
        use std::io::Write;
        fs::create_dir_all(&self.folder)?;
        write_atomically(&self.path(key), |out| {
            out.write_all(blake3::hash(cubin).as_bytes())?;
            out.write_all(cubin)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(source: &str, headers: &[(&str, &str)], options: &[&str], version: (i32, i32)) -> String {
        let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
        Key::new(source, headers, &options, version).0.to_hex().to_string()
    }

    #[test]
    fn keys_tell_everything_apart() {
        let keys = [
            key("ab", &[("h", "x")], &["o"], (13, 0)),
            key("a", &[("h", "x")], &["o"], (13, 0)),
            key("ab", &[("h", "y")], &["o"], (13, 0)),
            key("ab", &[("hx", "")], &["o"], (13, 0)),
            key("ab", &[("h", "x")], &["p"], (13, 0)),
            key("ab", &[], &["h", "x", "o"], (13, 0)),
            key("ab", &[("h", "x")], &["o"], (13, 1)),
        ];
        assert_eq!(keys.iter().collect::<std::collections::HashSet<_>>().len(), keys.len());
        assert_eq!(keys[0], key("ab", &[("h", "x")], &["o"], (13, 0)));
    }

    #[test]
    fn what_is_not_whole_is_absent() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::new(root.path().join("a/b"));
        let key = Key::new("source", &[], &[], (13, 0));
        assert_eq!(cache.get(&key), None);
        cache.put(&key, b"cubin").unwrap();
        assert_eq!(cache.get(&key).as_deref(), Some(b"cubin".as_slice()));
        let whole = fs::read(cache.path(&key)).unwrap();
        let mut flipped = whole.clone();
        flipped[blake3::OUT_LEN] ^= 1;
        for entry in [&whole[..whole.len() - 1], &whole[..7], &[], &flipped] {
            fs::write(cache.path(&key), entry).unwrap();
            assert_eq!(cache.get(&key), None);
        }
        cache.put(&key, b"cubin").unwrap();
        assert_eq!(cache.get(&key).as_deref(), Some(b"cubin".as_slice()));
    }

    #[test]
    fn the_environment_says_where() {
        let folder = |variables: &[(&str, &str)]| {
            let found = Cache::from(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| PathBuf::from(value)));
            found.map(|cache| cache.folder().to_string_lossy().into_owned())
        };
        let both = [("XDG_CACHE_HOME", "/xdg"), ("HOME", "/home/me")];
        assert_eq!(folder(&both).as_deref(), Some("/xdg/slidec/cubins"));
        assert_eq!(folder(&both[1..]).as_deref(), Some("/home/me/.cache/slidec/cubins"));
        assert_eq!(folder(&[("XDG_CACHE_HOME", "relative"), both[1]]).as_deref(), Some("/home/me/.cache/slidec/cubins"));
        assert_eq!(folder(&[("SLIDEC_CACHE", "here"), both[0]]).as_deref(), Some("here/cubins"));
        assert_eq!(folder(&[("SLIDEC_CACHE", ""), both[0]]), None);
        assert_eq!(folder(&[]), None);
    }
}
