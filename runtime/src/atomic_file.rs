//! Files that appear only when they are complete: written beside the target under a name of their own, then renamed.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes `path` through `write` and puts it in place when that has succeeded; what stood there before is replaced. After an error nothing
/// has changed.
///
/// # Errors
/// Those of the file system and of `write`.
pub fn write_atomically<T, E: From<io::Error>>(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<T, E>,
) -> Result<T, E> {
    let (partial, file) = create_beside(path)?;
    let mut guard = RemoveOnDrop(Some(partial));
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let result = write(&mut out)?;
    out.flush()?;
    drop(out);
    if let Some(partial) = &guard.0 {
        fs::rename(partial, path)?;
    }
    guard.0 = None;
    Ok(result)
}

fn create_beside(path: &Path) -> io::Result<(PathBuf, File)> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file"))?;
    loop {
        let mut partial = OsString::from(".");
        partial.push(name);
        partial.push(format!(".{}.{}.partial", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)));
        let partial = path.with_file_name(partial);
        match OpenOptions::new().write(true).create_new(true).open(&partial) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            result => return result.map(|file| (partial, file)),
        }
    }
}

struct RemoveOnDrop(Option<PathBuf>);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Best effort: the error that brought us here is the one to report.
            let _ = fs::remove_file(path);
        }
    }
}
