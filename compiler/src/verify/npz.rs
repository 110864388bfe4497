//! Reference tensors from a NumPy archive.

use ndarray::{ArrayD, IxDyn, OwnedRepr};
use ndarray_npy::{NpzReader, ReadNpyError, ReadNpzError, ReadableElement};
use sliderun::dtype::{Bool, Element};
use sliderun::tensor::Tensor;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::NamedTensors;

/// Why an archive could not be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum NpzError {
    #[error("cannot open '{path}'")]
    Open { path: String, source: std::io::Error },
    #[error("'{path}' is not a readable .npz archive")]
    Archive { path: String, source: ReadNpzError },
    #[error("'{name}' in '{path}' cannot be read")]
    Array { path: String, name: String, source: ReadNpzError },
}

type Reader = NpzReader<BufReader<File>>;
type Attempt = fn(&mut Reader, &str) -> Result<Tensor, ReadNpzError>;

/// One per element type, the usual ones first: the archive tells the type only when it is read as one.
const ATTEMPTS: &[Attempt] = &[
    read::<f32>,
    read::<f64>,
    read::<i64>,
    read::<i32>,
    read_bool,
    read::<i8>,
    read::<u8>,
    read::<i16>,
    read::<u16>,
    read::<u32>,
    read::<u64>,
];

/// Every array of an archive by its name (`numpy.savez(FILE, **{name: array})`).
///
/// # Errors
/// A file that is no archive, an array of an element type that tensors do not have.
pub fn read_npz(path: &Path) -> Result<NamedTensors, NpzError> {
    let shown = || path.display().to_string();
    let file = File::open(path).map_err(|source| NpzError::Open { path: shown(), source })?;
    let archive = |source| NpzError::Archive { path: shown(), source };
    let mut reader = NpzReader::new(BufReader::new(file)).map_err(archive)?;
    let names = reader.names().map_err(archive)?;
    let mut out = NamedTensors::new();
    for entry in names {
        let name = entry.strip_suffix(".npy").unwrap_or(&entry).to_owned();
        let tensor = read_any(&mut reader, &entry);
        out.insert(name.clone(), tensor.map_err(|source| NpzError::Array { path: shown(), name, source })?);
    }
    Ok(out)
}

fn read_any(reader: &mut Reader, entry: &str) -> Result<Tensor, ReadNpzError> {
    let mut attempts = ATTEMPTS.iter();
    loop {
        let attempt = attempts.next();
        match attempt.unwrap_or(&ATTEMPTS[0])(reader, entry) {
            Err(ReadNpzError::Npy(ReadNpyError::WrongDescriptor(_))) if attempt.is_some() => {}
            result => return result,
        }
    }
}

fn elements<T: ReadableElement>(reader: &mut Reader, entry: &str) -> Result<(Vec<usize>, Vec<T>), ReadNpzError> {
    let array: ArrayD<T> = reader.by_name::<OwnedRepr<T>, IxDyn>(entry)?;
    let shape = array.shape().to_vec();
    // Arrays in Fortran order come with strides; tensors are row-major.
    Ok((shape, array.into_iter().collect()))
}

fn read<T: ReadableElement + Element>(reader: &mut Reader, entry: &str) -> Result<Tensor, ReadNpzError> {
    let (shape, values) = elements::<T>(reader, entry)?;
    Ok(Tensor::from_slice(&shape, &values).expect("an array has as many elements as its shape says"))
}

fn read_bool(reader: &mut Reader, entry: &str) -> Result<Tensor, ReadNpzError> {
    let (shape, values) = elements::<bool>(reader, entry)?;
    let values: Vec<Bool> = values.into_iter().map(Bool::from).collect();
    Ok(Tensor::from_slice(&shape, &values).expect("an array has as many elements as its shape says"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, ShapeBuilder};
    use ndarray_npy::NpzWriter;

    #[test]
    fn arrays_of_any_type_and_order_are_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut writer = NpzWriter::new(file.reopen().unwrap());
        let fortran = Array2::from_shape_vec((2, 3).f(), vec![0f32, 3.0, 1.0, 4.0, 2.0, 5.0]).unwrap();
        writer.add_array("floats", &fortran).unwrap();
        writer.add_array("flags", &ndarray::arr1(&[true, false])).unwrap();
        writer.add_array("ids", &ndarray::arr1(&[7i64])).unwrap();
        writer.finish().unwrap();
        let tensors = read_npz(file.path()).unwrap();
        assert_eq!(tensors["floats"].as_slice::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(tensors["flags"].bytes(), [1, 0]);
        assert_eq!(tensors["ids"].as_slice::<i64>().unwrap(), [7]);
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"hello").unwrap();
        assert!(read_npz(file.path()).is_err());
    }
}
