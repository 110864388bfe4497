//! Graphs in files: the text form in FILE and the data of large constants beside it, in the folder FILE.d, one file
//! DIGEST.bin per constant. Equal constants are stored once; what is there already is not written again.

use bytes::Bytes;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::graph::Graph;
use super::parse::{ParseError, parse};
use super::print::{digest, is_large, print};

/// Why a graph could not be read from a file.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[allow(missing_docs)]
pub enum ReadError {
    #[error("cannot read '{}': {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    #[diagnostic(transparent)]
    Parse(#[from] ParseError),
}

/// The folder of a dump's constants.
pub fn folder(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".d");
    name.into()
}

/// Writes a graph. The text file appears last and complete, or not at all.
///
/// # Errors
/// Those of the file system.
pub fn write(graph: &Graph, path: &Path) -> io::Result<()> {
    let folder = folder(path);
    for id in graph.node_ids() {
        if let Some(c) = graph.node(id).constant().filter(|c| is_large(c)) {
            let target = folder.join(format!("{}.bin", digest(c)));
            if fs::metadata(&target).is_ok_and(|m| m.len() == c.data.len() as u64) {
                continue;
            }
            fs::create_dir_all(&folder)?;
            write_whole(&target, &c.data)?;
        }
    }
    write_whole(path, print(graph).as_bytes())
}

/// Written aside and then renamed, so that a reader sees all of it or nothing.
fn write_whole(path: &Path, data: &[u8]) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(parent)?;
    file.write_all(data)?;
    file.persist(path).map(drop).map_err(|e| e.error)
}

/// Reads a graph.
///
/// # Errors
/// See [`ReadError`].
pub fn read(path: &Path) -> Result<Graph, ReadError> {
    let text = fs::read_to_string(path).map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
    let folder = folder(path);
    let constants = |digest: &str| {
        // The digest comes from the file: it must not lead out of the folder.
        if !digest.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(io::Error::other("a digest has hexadecimal digits only"));
        }
        fs::read(folder.join(format!("{digest}.bin"))).map(Bytes::from)
    };
    Ok(parse(&path.display().to_string(), &text, &constants)?)
}
