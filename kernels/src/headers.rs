//! The registry of CUDA C++ headers: what a source may include by name.

macro_rules! headers {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("cuda/", $name)))),*]
    };
}

/// Every header of `src/cuda`: its name, as it is included, and its text.
pub const HEADERS: &[(&str, &str)] = headers![
    "absmax.cuh",
    "activation.cuh",
    "attention.cuh",
    "attention_common.cuh",
    "attention_f32.cuh",
    "attention_hopper.cuh",
    "barrier.cuh",
    "conv.cuh",
    "convert.cuh",
    "dequant.cuh",
    "element.cuh",
    "lift.cuh",
    "limits.cuh",
    "norm.cuh",
    "overlap.cuh",
    "quant_lift.cuh",
    "quantize.cuh",
    "reduce.cuh",
    "reduction.cuh",
    "resize.cuh",
    "rotary.cuh",
    "rows.cuh",
    "softmax.cuh",
    "tensor_core.cuh",
    "vector.cuh",
    "wgmma.cuh",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_registered() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda");
        let mut files: Vec<String> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        let names: Vec<&str> = HEADERS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, files);
    }
}
