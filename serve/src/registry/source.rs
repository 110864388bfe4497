//! Where models come from: files that the command line names, and folders laid out as model repositories.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The file of a version in a model repository.
const PLAN: &str = "model.slide";

/// A plan's file as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The file.
    pub path: PathBuf,
    /// What clients call it.
    pub version: String,
    /// What tells it from another file of that name.
    stamp: Option<Stamp>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    len: u64,
    inode: u64,
}

impl Location {
    fn new(path: PathBuf, version: &str) -> Location {
        let stamp = std::fs::metadata(&path).ok().map(|metadata| {
            #[cfg(unix)]
            let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
            #[cfg(not(unix))]
            let inode = 0;
            Stamp { modified: metadata.modified().ok(), len: metadata.len(), inode }
        });
        Location { path, version: version.to_owned(), stamp }
    }
}

/// See the module documentation.
pub struct Source {
    files: BTreeMap<String, PathBuf>,
    folders: Vec<PathBuf>,
}

impl Source {
    /// Reads arguments: FILE, NAME=FILE or FOLDER.
    ///
    /// # Errors
    /// Two files of one name, names that are none.
    pub fn new(arguments: &[String]) -> Result<Source, String> {
        let (mut files, mut folders) = (BTreeMap::new(), Vec::new());
        for argument in arguments {
            let named = argument.split_once('=').filter(|(name, _)| is_name(name));
            let (name, path) = match named {
                Some((name, path)) => (name.to_owned(), PathBuf::from(path)),
                None if Path::new(argument).is_dir() => {
                    folders.push(PathBuf::from(argument));
                    continue;
                }
                None => {
                    let path = PathBuf::from(argument);
                    let stem = path.file_stem().and_then(|s| s.to_str()).filter(|s| is_name(s));
                    let name =
                        stem.ok_or_else(|| format!("{argument}: its name is no name of a model: give one by NAME=FILE"))?;
                    (name.to_owned(), path)
                }
            };
            if let Some(first) = files.insert(name.clone(), path) {
                return Err(format!("two plans are called '{name}', one is {}: name them by NAME=FILE", first.display()));
            }
        }
        Ok(Source { files, folders })
    }

    /// All models, by name.
    ///
    /// # Errors
    /// Folders that cannot be read, models of one name.
    pub fn all(&self) -> Result<BTreeMap<String, Location>, String> {
        let mut all: BTreeMap<_, _> =
            self.files.iter().map(|(name, path)| (name.clone(), Location::new(path.clone(), "1"))).collect();
        for folder in &self.folders {
            let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).filter(|name| is_name(name));
            for name in names {
                let Some(location) = newest(&folder.join(&name)) else { continue };
                if let Some(first) = all.insert(name.clone(), location) {
                    return Err(format!("two plans are called '{name}', one is {}", first.path.display()));
                }
            }
        }
        Ok(all)
    }

    /// The file of a model now.
    ///
    /// # Errors
    /// A name that is unknown.
    pub fn find(&self, name: &str) -> Result<Location, String> {
        let file = self.files.get(name).map(|path| Location::new(path.clone(), "1"));
        // A name with separators would lead out of the folder.
        let folders = self.folders.iter().filter(|_| is_name(name));
        file.or_else(|| folders.into_iter().find_map(|folder| newest(&folder.join(name))))
            .ok_or_else(|| format!("there is no plan for a model '{name}'"))
    }
}

/// Names go into paths and URLs.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && name.chars().all(|c| c.is_alphanumeric() || "._-".contains(c))
}

/// The highest version of a model in a repository.
fn newest(model: &Path) -> Option<Location> {
    let versions = std::fs::read_dir(model).ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    let version = versions.filter(|v| model.join(v.to_string()).join(PLAN).is_file()).max()?.to_string();
    Some(Location::new(model.join(&version).join(PLAN), &version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "plan").unwrap();
    }

    #[test]
    fn files_and_folders_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        for path in ["a.slide", "repository/b/1/model.slide", "repository/b/10/model.slide", "repository/b/9/model.slide"] {
            touch(&at(path));
        }
        for path in ["repository/c/1/model.plan", "repository/README.md", "repository/d/latest/model.slide"] {
            touch(&at(path));
        }
        let text = |path: &str| at(path).to_str().unwrap().to_owned();
        let source = Source::new(&[text("a.slide"), format!("again={}", text("a.slide")), text("repository")]).unwrap();
        let all = source.all().unwrap();
        let found: Vec<_> = all.iter().map(|(name, l)| (name.as_str(), l.version.as_str())).collect();
        assert_eq!(found, [("a", "1"), ("again", "1"), ("b", "10")]);
        assert_eq!(source.find("b").unwrap().path, at("repository/b/10/model.slide"));
        for unknown in ["c", "d", "../a", "", "."] {
            assert!(source.find(unknown).is_err(), "{unknown}");
        }
    }

    #[test]
    fn a_replaced_file_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let (file, new) = (folder.path().join("a.slide"), folder.path().join("new"));
        touch(&file);
        let source = Source::new(&[file.to_str().unwrap().to_owned()]).unwrap();
        let first = source.find("a").unwrap();
        assert_eq!(source.find("a").unwrap(), first);
        touch(&new);
        std::fs::rename(&new, &file).unwrap();
        assert_ne!(source.find("a").unwrap(), first);
    }

    #[test]
    fn names_must_differ_and_be_names() {
        let error = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
            Source::new(&arguments).map(|_| ()).unwrap_err()
        };
        assert!(error(&["x/a.slide", "y/a.slide"]).contains("two plans are called 'a'"));
        assert!(error(&["a b.slide"]).contains("NAME=FILE"));
    }
}
