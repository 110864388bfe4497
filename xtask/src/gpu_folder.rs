//! What folders for GPU machines have in common: programs without what only debuggers read, scripts, the commit.

use std::path::{Path, PathBuf};

use crate::shell::{self, Result, cargo, command, root, succeeds};

/// A program of the workspace: package, kind of target, name.
pub type Program = (&'static str, &'static str, &'static str);

/// A folder in the making.
pub struct GpuFolder {
    /// Where it is.
    pub path: PathBuf,
    profile: String,
}

impl GpuFolder {
    /// An empty folder with empty folders in it; what was there is removed. `profile`: of the programs.
    pub fn create(path: &Path, profile: &str, folders: &[&str]) -> Result<GpuFolder> {
        let path = root().join(path);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(|e| format!("cannot remove {}: {e}", path.display()))?;
        }
        for folder in folders.iter().chain(&["bin"]) {
            let folder = path.join(folder);
            std::fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
        }
        let folder = GpuFolder { path, profile: profile.to_owned() };
        folder.write("commit.txt", &commit())?;
        Ok(folder)
    }

    /// Builds programs and puts them into `bin`.
    pub fn programs(&self, programs: &[Program]) -> Result<()> {
        for (package, kind, name) in programs {
            shell::run(cargo().args(["build", "--profile", &self.profile, "--package", package, kind, name]))?;
            let profile = if self.profile == "dev" { "debug" } else { &self.profile };
            let built = root().join("target").join(profile).join(if *kind == "--example" { "examples" } else { "" });
            let program = self.path.join("bin").join(name);
            copy(&built.join(name), &program)?;
            if !succeeds(command("strip").arg(&program)) {
                println!("strip is not there: bin/{name} keeps its symbols");
            }
        }
        Ok(())
    }

    /// Copies files of the repository into the folder itself.
    pub fn files(&self, files: &[&str]) -> Result<()> {
        for file in files {
            let from = root().join(file);
            copy(&from, &self.path.join(from.file_name().unwrap_or_default()))?;
        }
        Ok(())
    }

    /// Writes a file.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.path.join(name);
        std::fs::write(&file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))
    }

    /// Its size in MiB, with everything in it.
    pub fn size(&self) -> Result<f64> {
        fn bytes(folder: &Path) -> std::io::Result<u64> {
            std::fs::read_dir(folder)?.try_fold(0, |sum, entry| {
                let entry = entry?;
                let kind = entry.metadata()?;
                Ok(sum + if kind.is_dir() { bytes(&entry.path())? } else { kind.len() })
            })
        }
        let bytes = bytes(&self.path).map_err(|e| format!("cannot list {}: {e}", self.path.display()))?;
        Ok(bytes as f64 / f64::from(1 << 20))
    }
}

/// Copies a file.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::copy(from, to).map(drop).map_err(|e| format!("cannot copy {} to {}: {e}", from.display(), to.display()))
}

/// The commit, and whether the working tree differs from it.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = command("git").args(arguments).output().ok().filter(|o| o.status.success())?;
        String::from_utf8(output.stdout).ok()
    };
    let head = git(&["rev-parse", "--short", "HEAD"]).map_or("unknown".to_owned(), |head| head.trim().to_owned());
    let changed = git(&["status", "--porcelain"]).is_some_and(|changes| !changes.is_empty());
    format!("{head}{}\n", if changed { " with changes" } else { "" })
}
