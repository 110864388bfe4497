//! Cubins kept on disk between compilations.

use std::path::PathBuf;

use sliderun::disk_cache::{DiskCache, environment};

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
pub struct Cache(DiskCache);

/// Where they are in the cache.
const KIND: &str = "cubins";

impl Cache {
    /// In this folder, which is made when the first cubin is kept.
    pub fn new(folder: impl Into<PathBuf>) -> Cache {
        Cache(DiskCache::new(folder))
    }

    /// In the folder that the environment says: `SLIDEC_CACHE`, or `slidec` in `XDG_CACHE_HOME`, or in `~/.cache`. None without any of them,
    /// or when `SLIDEC_CACHE` is empty.
    pub fn from_env() -> Option<Cache> {
        Cache::from(environment)
    }

    fn from(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<Cache> {
        DiskCache::of("SLIDEC_CACHE", "slidec", variable).map(Cache)
    }

    /// The folder that the cubins are in.
    pub fn folder(&self) -> PathBuf {
        self.0.folder().join(KIND)
    }

    /// The cubin kept under a key; none when there is none, or not whole.
    pub(crate) fn get(&self, key: &Key) -> Option<Vec<u8>> {
        self.0.get(KIND, &key.0.to_hex())
    }

    /// Keeps a cubin, if that is possible.
    pub(crate) fn keep(&self, key: &Key, cubin: &[u8]) {
        self.0.keep(KIND, &key.0.to_hex(), cubin);
    }

    /// What could not be read or written so far.
    pub(crate) fn troubles(&self) -> Vec<String> {
        self.0.troubles()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

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
        cache.keep(&key, b"cubin");
        assert_eq!(cache.get(&key).as_deref(), Some(b"cubin".as_slice()));
        let path = cache.0.path(KIND, &key.0.to_hex());
        let whole = fs::read(&path).unwrap();
        let mut flipped = whole.clone();
        flipped[blake3::OUT_LEN] ^= 1;
        for entry in [&whole[..whole.len() - 1], &whole[..7], &[], &flipped] {
            fs::write(&path, entry).unwrap();
            assert_eq!(cache.get(&key), None);
        }
        cache.keep(&key, b"cubin");
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
