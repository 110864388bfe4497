//! `run`: a plan on files or random inputs, its outputs to files, a line on each.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use half::{bf16, f16};
use serde_json::json;

use super::npy::{self, NpyError};
use super::{Target, ToolError, random, symbols};
use crate::atomic_file::write_atomically;
use crate::dim::Bindings;
use crate::dtype::{Bool, DType};
use crate::f8::{F8E4M3, F8E5M2};
use crate::session::Port;
use crate::tensor::{Tensor, TensorView};

/// What to run.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// The plan.
    pub target: Target,
    /// Inputs from `.npy` files, by name.
    pub inputs: Vec<(String, PathBuf)>,
    /// Draw the inputs that are not given.
    pub random: bool,
    /// What random inputs start from.
    pub seed: u64,
    /// Values of symbols for random inputs; see [`symbols::complete`].
    pub symbols: Bindings,
    /// Folder for the outputs, one `.npy` file each; made if need be.
    pub output: Option<PathBuf>,
    /// Results as JSON.
    pub json: bool,
}

/// Runs a plan once.
///
/// # Errors
/// Everything that can go wrong with the plan, its inputs and the files.
pub fn run(options: &RunOptions, out: &mut dyn Write) -> Result<(), ToolError> {
    let session = options.target.open()?;
    let tensors = inputs(session.inputs(), session.symbols(), options)?;
    let views: Vec<(&str, TensorView<'_>)> = tensors.iter().map(|(name, t)| (name.as_str(), t.view())).collect();
    let start = Instant::now();
    let outputs = session.run(&views)?;
    #[cfg(feature = "cuda")]
    let warnings = session.cuda_report().warnings;
    #[cfg(not(feature = "cuda"))]
    let warnings: Vec<String> = Vec::new();
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    let files = match &options.output {
        Some(folder) => save(&outputs, folder)?,
        None => vec![None; outputs.len()],
    };
    let lines = outputs.iter().zip(files);
    if options.json {
        let outputs: Vec<_> = lines
            .map(|((name, tensor), file)| {
                let s = Summary::of(tensor);
                json!({
                    "name": name, "dtype": tensor.dtype(), "shape": tensor.shape(), "min": s.min, "max": s.max, "mean": s.mean,
                    "not_finite": s.not_finite, "digest": digest(tensor.view()).to_hex().as_str(), "file": file,
                })
            })
            .collect();
        let report =
            json!({ "milliseconds": milliseconds, "threads": session.threads(), "outputs": outputs, "warnings": warnings });
        return Ok(writeln!(out, "{report:#}")?);
    }
    warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))?;
    for ((name, tensor), file) in lines {
        let s = Summary::of(tensor);
        write!(out, "{name}: {}{:?}  min {:.6}  max {:.6}  mean {:.6}", tensor.dtype(), tensor.shape(), s.min, s.max, s.mean)?;
        if s.not_finite > 0 {
            write!(out, "  not finite: {}", s.not_finite)?;
        }
        write!(out, "  digest {}", &digest(tensor.view()).to_hex()[..16])?;
        match file {
            Some(file) => writeln!(out, "  -> {}", file.display())?,
            None => writeln!(out)?,
        }
    }
    writeln!(out, "{milliseconds:.2} ms, {} threads", session.threads())?;
    Ok(())
}

/// Reads one input's file.
///
/// # Errors
/// A file that cannot be read or is no `.npy` file.
pub fn read_input(path: &std::path::Path, expected: Option<DType>) -> Result<Tensor, ToolError> {
    let fail = |source: NpyError| ToolError::Npy { path: path.to_owned(), source };
    npy::read(&std::fs::read(path).map_err(|e| fail(e.into()))?, expected).map_err(fail)
}

/// The inputs of a plan or model: those from files, and where asked random ones whose extents agree with them.
///
/// # Errors
/// Files that cannot be read, inputs that are neither given nor to be drawn.
pub fn inputs(
    ports: &[Port],
    ranges: &[crate::plan::manifest::SymbolRange],
    options: &RunOptions,
) -> Result<Vec<(String, Tensor)>, ToolError> {
    let port = |name: &str| ports.iter().find(|p| p.name == name);
    let mut tensors = Vec::with_capacity(ports.len());
    // The shapes of files come before what the user wished for random inputs.
    let mut wished = options.symbols.clone();
    for (name, path) in &options.inputs {
        let tensor = read_input(path, port(name).map(|p| p.ty.dtype))?;
        if let Some(port) = port(name) {
            for (dim, &n) in port.ty.shape.iter().zip(tensor.shape()) {
                if let (Some(symbol), Ok(n)) = (dim.as_symbol(), i64::try_from(n)) {
                    wished.insert(symbol.to_owned(), n);
                }
            }
        }
        tensors.push((name.clone(), tensor));
    }
    let rest: Vec<Port> = ports.iter().filter(|p| !tensors.iter().any(|(name, _)| *name == p.name)).cloned().collect();
    if !options.random && !rest.is_empty() {
        return Err(ToolError::MissingInputs(rest.iter().map(Port::to_string).collect::<Vec<_>>().join(", ")));
    }
    tensors.extend(random::inputs(&rest, &symbols::complete(&wished, ranges)?, options.seed)?);
    Ok(tensors)
}

/// The file that a tensor of this name is written to.
pub fn file_name(tensor: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' };
    format!("{}.npy", tensor.chars().map(plain).collect::<String>())
}

/// Writes tensors into a folder, made if need be, and gives their files.
///
/// # Errors
/// Names that become the same file, and files that cannot be written.
pub fn save(outputs: &[(String, Tensor)], folder: &std::path::Path) -> Result<Vec<Option<PathBuf>>, ToolError> {
    let at = |path: &std::path::Path| {
        let path = path.to_owned();
        move |source| ToolError::File { path, source }
    };
    let mut taken = BTreeSet::new();
    let mut files = Vec::with_capacity(outputs.len());
    for (name, _) in outputs {
        let file = folder.join(file_name(name));
        if !taken.insert(file.clone()) {
            return Err(ToolError::SameFile(file));
        }
        files.push(Some(file));
    }
    std::fs::create_dir_all(folder).map_err(at(folder))?;
    for ((_, tensor), file) in outputs.iter().zip(files.iter().flatten()) {
        write_atomically(file, |out| npy::write(tensor.view(), out)).map_err(at(file))?;
    }
    Ok(files)
}

/// What a line says of a tensor. Extremes and mean are of the finite elements; 0 where there is none.
struct Summary {
    min: f64,
    max: f64,
    mean: f64,
    not_finite: usize,
}

impl Summary {
    fn of(tensor: &Tensor) -> Summary {
        let values = elements(tensor.view());
        let finite: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        let extreme = |pick: fn(f64, f64) -> f64| finite.iter().copied().reduce(pick).unwrap_or(0.0);
        Summary {
            min: extreme(f64::min),
            max: extreme(f64::max),
            mean: finite.iter().sum::<f64>() / finite.len().max(1) as f64,
            not_finite: values.len() - finite.len(),
        }
    }
}

/// BLAKE3 of the element type's name, the rank and the extents as little-endian u64, and the bytes.
pub fn digest(view: TensorView<'_>) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(view.dtype.to_string().as_bytes());
    for n in std::iter::once(view.shape.len()).chain(view.shape.iter().copied()) {
        hasher.update(&(n as u64).to_le_bytes());
    }
    hasher.update(view.data);
    hasher.finalize()
}

/// The elements as f64, whatever their type (64-bit integers are rounded).
pub fn elements(view: TensorView<'_>) -> Vec<f64> {
    macro_rules! convert {
        ($($dtype:ident: $ty:ty => $f:expr),* $(,)?) => {
            match view.dtype {
                $(DType::$dtype => view.as_slice::<$ty>().unwrap_or_default().iter().copied().map($f).collect(),)*
            }
        };
    }
    convert! {
        Bool: Bool => |v| f64::from(u8::from(v.0 != 0)),
        I8: i8 => f64::from, I16: i16 => f64::from, I32: i32 => f64::from, I64: i64 => |v| v as f64,
        U8: u8 => f64::from, U16: u16 => f64::from, U32: u32 => f64::from, U64: u64 => |v| v as f64,
        F16: f16 => f64::from, Bf16: bf16 => f64::from, F32: f32 => f64::from, F64: f64 => f64::from,
        F8e4m3: F8E4M3 => |v| f64::from(v.to_f32()), F8e5m2: F8E5M2 => |v| f64::from(v.to_f32()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_type_shape_and_values() {
        let digest = |t: Tensor| digest(t.view());
        let ints = |shape: &[usize]| Tensor::from_slice(shape, &[1i32, 2, 3, 4]).unwrap();
        assert_eq!(
            digest(ints(&[4])),
            blake3::hash(b"i32\x01\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0")
        );
        let different = [
            digest(ints(&[4])),
            digest(ints(&[2, 2])),
            digest(Tensor::from_slice(&[4], &[1u32, 2, 3, 4]).unwrap()),
            digest(Tensor::from_slice(&[4], &[1i32, 2, 3, 5]).unwrap()),
        ];
        assert!((1..4).all(|i| !different[..i].contains(&different[i])), "{different:?}");
    }
}
