//! Where CUDA's libraries and headers may lie.
//!
//! In this order: `SLIDERUN_CUDA_PATH` (folders parted by colons, each searched four levels deep), what the loader knows
//! (`LD_LIBRARY_PATH`, `ld.so.conf`), the `nvidia` packages of pip in `VIRTUAL_ENV`, of each `python3` on `PATH` and of the user,
//! and `/usr/local/cuda*`. Python is not run: its `site-packages` follow from where it lies.

use std::collections::VecDeque;
use std::env;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::{LibraryError, LibrarySpec};

/// How deep a folder of `SLIDERUN_CUDA_PATH` is searched: `site-packages/nvidia/cu13/lib` is three levels down.
const DEPTH: usize = 4;
/// How many folders of one entry of `SLIDERUN_CUDA_PATH` are looked into: a `site-packages` full of packages has some ten thousand.
const MAX_FOLDERS: usize = 50_000;

/// What the search depends on.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// `SLIDERUN_CUDA_PATH`.
    pub cuda_path: Option<OsString>,
    /// `VIRTUAL_ENV`.
    pub virtual_env: Option<OsString>,
    /// `PATH`, for `python3`.
    pub path: Option<OsString>,
    /// `HOME`, for the user's own packages.
    pub home: Option<OsString>,
    /// The folder in which toolkits lie as `cuda` and `cuda-VERSION`; none to leave them out.
    pub toolkits: Option<PathBuf>,
    /// Whether to ask the loader for bare names.
    pub loader: bool,
}

impl Search {
    /// As the environment of the process says.
    pub fn from_env() -> Self {
        Search {
            cuda_path: env::var_os("SLIDERUN_CUDA_PATH"),
            virtual_env: env::var_os("VIRTUAL_ENV"),
            path: env::var_os("PATH"),
            home: env::var_os("HOME"),
            toolkits: Some("/usr/local".into()),
            loader: true,
        }
    }

    pub(super) fn places(&self, spec: &LibrarySpec) -> Vec<Place> {
        let loader = self.loader.then_some(Place::Loader);
        if spec.system_only {
            return loader.into_iter().collect();
        }
        let named = self.named().map(Place::Below);
        named.chain(loader).chain(self.installed("lib").into_iter().map(Place::In)).collect()
    }

    /// The folders of `SLIDERUN_CUDA_PATH`.
    fn named(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.cuda_path.iter().flat_map(env::split_paths).filter(|p| !p.as_os_str().is_empty())
    }

    /// Folders called `kind` (`lib` or `include`) of pip's packages and of toolkits, those that exist; of a `site-packages` without an
    /// `nvidia` folder, that folder, so that a message can say where it was looked for.
    fn installed(&self, kind: &str) -> Vec<PathBuf> {
        let mut places = Vec::new();
        for site in self.site_packages() {
            let nvidia = site.join("nvidia");
            let found = subfolders(&nvidia).into_iter().map(|package| package.join(kind)).filter(|p| p.is_dir());
            let before = places.len();
            places.extend(found);
            if places.len() == before {
                places.push(nvidia);
            }
        }
        if let Some(root) = &self.toolkits {
            let mut toolkits = subfolders(root);
            toolkits.retain(|p| p.file_name().is_some_and(|n| n == "cuda" || n.as_encoded_bytes().starts_with(b"cuda-")));
            // `cuda` is the one in use; of the others the newest comes first.
            toolkits.sort_by_key(|p| (p.file_name() != Some(OsStr::new("cuda")), std::cmp::Reverse(p.clone())));
            if toolkits.is_empty() {
                toolkits.push(root.join("cuda"));
            }
            places.extend(toolkits.iter().map(|t| t.join(if kind == "lib" { "lib64" } else { kind })));
        }
        let mut seen = std::collections::HashSet::new();
        places.retain(|p| seen.insert(p.clone()));
        places
    }

    /// The package folders of the Pythons that `VIRTUAL_ENV`, `PATH` and `HOME` lead to.
    fn site_packages(&self) -> Vec<PathBuf> {
        let mut prefixes: Vec<PathBuf> = self.virtual_env.iter().map(PathBuf::from).collect();
        let pythons = self.path.iter().flat_map(env::split_paths).map(|p| p.join("python3")).filter(|p| p.is_file());
        for python in pythons {
            // A virtual environment's python3 is a link: packages lie beside the link, more of them perhaps beside what it leads to.
            let target = fs::canonicalize(&python).ok();
            for python in [Some(python), target].into_iter().flatten() {
                if let Some(prefix) = python.parent().and_then(Path::parent) {
                    prefixes.extend([prefix.to_owned(), prefix.join("local")]);
                    // pyenv's python3 is a script, the Pythons among which it chooses lie here.
                    prefixes.extend(subfolders(&prefix.join("versions")));
                }
            }
        }
        prefixes.extend(self.home.iter().map(|home| Path::new(home).join(".local")));

        let mut sites = Vec::new();
        for prefix in prefixes {
            for lib in ["lib", "lib64"] {
                for version in subfolders(&prefix.join(lib)) {
                    if version.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"python3")) {
                        sites.extend(
                            ["site-packages", "dist-packages"].map(|s| version.join(s)).into_iter().filter(|s| s.is_dir()),
                        );
                    }
                }
            }
        }
        sites
    }

    pub(super) fn header(&self, header: &str, install: &'static str) -> Result<PathBuf, LibraryError> {
        let places: Vec<Place> =
            self.named().map(Place::Below).chain(self.installed("include").into_iter().map(Place::In)).collect();
        for place in &places {
            if let Some(folder) = place.candidates(&[header]).iter().find_map(|file| file.parent()) {
                return Ok(folder.to_owned());
            }
        }
        Err(LibraryError::Header { header: header.to_owned(), looked: places.iter().map(Place::to_string).collect(), install })
    }
}

/// One place to look at.
pub(super) enum Place {
    /// A folder and what is below it.
    Below(PathBuf),
    /// The folder alone.
    In(PathBuf),
    /// Wherever the dynamic loader looks.
    Loader,
}

impl Place {
    /// Files of these names here: in one folder in the order of the names, folders nearer the top first. Bare names for the loader.
    pub(super) fn candidates(&self, names: &[&str]) -> Vec<PathBuf> {
        match self {
            Place::Loader => names.iter().map(PathBuf::from).collect(),
            Place::In(folder) => files(folder, names),
            Place::Below(root) => {
                // A full site-packages takes a while to search, and where pip puts libraries and headers is known.
                let packages = subfolders(&root.join("nvidia"));
                let known = packages.iter().flat_map(|package| ["lib", "include"].map(|kind| package.join(kind)));
                let mut found: Vec<PathBuf> = known.flat_map(|folder| files(&folder, names)).collect();
                if !found.is_empty() {
                    return found;
                }
                let mut queue = VecDeque::from([(root.clone(), 0)]);
                let mut visited = 0;
                while let Some((folder, depth)) = queue.pop_front() {
                    visited += 1;
                    if visited > MAX_FOLDERS {
                        break;
                    }
                    found.extend(files(&folder, names));
                    if depth < DEPTH {
                        queue.extend(subfolders(&folder).into_iter().filter(|f| !is_skipped(f)).map(|f| (f, depth + 1)));
                    }
                }
                found
            }
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = |p: &Path| if p.is_dir() { "" } else { " (no such folder)" };
        match self {
            Place::Below(root) => write!(f, "{}{}, from SLIDERUN_CUDA_PATH", root.display(), missing(root)),
            Place::In(folder) => write!(f, "{}{}", folder.display(), missing(folder)),
            Place::Loader => f.write_str("the loader's path (LD_LIBRARY_PATH, /etc/ld.so.conf)"),
        }
    }
}

/// Folders that hold no library to load: a toolkit's stubs load, and then do nothing.
fn is_skipped(folder: &Path) -> bool {
    folder.file_name().is_none_or(|n| n == "stubs" || n == "__pycache__" || n.as_encoded_bytes().starts_with(b"."))
}

fn files(folder: &Path, names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(|name| folder.join(name)).filter(|file| file.is_file()).collect()
}

/// The folders in a folder, sorted, so that the same machine gives the same library every time; none when it cannot be read.
fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir() || t.is_symlink() && e.path().is_dir()))
        .map(|e| e.path())
        .collect();
    found.sort();
    found
}

/// Files beside `library` whose names begin with one of `prefixes`.
pub(super) fn beside(library: &Path, prefixes: &[&str]) -> Vec<PathBuf> {
    let folder = match library.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !prefixes.is_empty() => folder,
        _ => return Vec::new(),
    };
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let wanted = |name: &OsStr| prefixes.iter().any(|p| name.as_encoded_bytes().starts_with(p.as_bytes()));
    let mut found: Vec<PathBuf> = entries.filter(|e| wanted(&e.file_name())).map(|e| e.path()).collect();
    found.sort();
    found
}
