//! Named tensors in NumPy archives: references, calibration data.

use ndarray::{ArrayD, ArrayViewD, IxDyn, OwnedRepr};
use ndarray_npy::{NpzReader, NpzWriter, ReadNpyError, ReadNpzError, ReadableElement, WritableElement, WriteNpzError};
use sliderun::atomic_file::write_atomically;
use sliderun::dtype::{Bool, DType, Element};
use sliderun::tensor::Tensor;
use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::Path;

use super::NamedTensors;

/// Why an archive could not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum NpzError {
    #[error("cannot open '{path}'")]
    Open { path: String, source: std::io::Error },
    #[error("'{path}' is not a readable .npz archive")]
    Archive { path: String, source: ReadNpzError },
    #[error("'{name}' in '{path}' cannot be read")]
    Array { path: String, name: String, source: Box<ReadNpzError> },
    #[error("'{path}' was not written")]
    Write { path: String, source: WriteNpzError },
    #[error("'{name}' was not written to '{path}': NumPy has no element type like {dtype}")]
    Type { path: String, name: String, dtype: DType },
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
        out.insert(name.clone(), tensor.map_err(|source| NpzError::Array { path: shown(), name, source: source.into() })?);
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

type Writer<'a> = NpzWriter<&'a mut BufWriter<File>>;
type Attempted = Option<Result<(), WriteNpzError>>;

/// One per element type of [`ATTEMPTS`]: each writes a tensor that is of its type.
const WRITERS: &[fn(&mut Writer<'_>, &str, &Tensor) -> Attempted] = &[
    write::<f32>,
    write::<f64>,
    write::<i64>,
    write::<i32>,
    write_bool,
    write::<i8>,
    write::<u8>,
    write::<i16>,
    write::<u16>,
    write::<u32>,
    write::<u64>,
];

/// Writes tensors as an archive that [`read_npz`] and NumPy read; the file appears only when it is complete.
///
/// # Errors
/// A tensor of an element type that NumPy does not have; those of the file system.
pub fn write_npz(path: &Path, tensors: &NamedTensors) -> Result<(), NpzError> {
    enum Failed {
        Archive(WriteNpzError),
        Type(String, DType),
    }
    impl From<io::Error> for Failed {
        fn from(e: io::Error) -> Self {
            Failed::Archive(WriteNpzError::from(ndarray_npy::WriteNpyError::Io(e)))
        }
    }
    let shown = || path.display().to_string();
    write_atomically(path, |file| {
        let mut writer = NpzWriter::new(file);
        for (name, tensor) in tensors {
            let attempt = WRITERS.iter().find_map(|write| write(&mut writer, name, tensor));
            attempt.ok_or_else(|| Failed::Type(name.clone(), tensor.dtype()))?.map_err(Failed::Archive)?;
        }
        writer.finish().map(|_| ()).map_err(Failed::Archive)
    })
    .map_err(|e| match e {
        Failed::Archive(source) => NpzError::Write { path: shown(), source },
        Failed::Type(name, dtype) => NpzError::Type { path: shown(), name, dtype },
    })
}

fn add<T: WritableElement>(writer: &mut Writer<'_>, name: &str, shape: &[usize], values: &[T]) -> Result<(), WriteNpzError> {
    let array = ArrayViewD::from_shape(shape, values).expect("a tensor has as many elements as its shape says");
    writer.add_array(name, &array)
}

fn write<T: WritableElement + Element>(writer: &mut Writer<'_>, name: &str, tensor: &Tensor) -> Attempted {
    tensor.as_slice::<T>().map(|values| add(writer, name, tensor.shape(), values))
}

fn write_bool(writer: &mut Writer<'_>, name: &str, tensor: &Tensor) -> Attempted {
    let values: Vec<bool> = tensor.as_slice::<Bool>()?.iter().map(|b| (*b).into()).collect();
    Some(add(writer, name, tensor.shape(), &values))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;
    use ndarray::{Array2, ShapeBuilder};

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

    /// That NumPy's own order of bytes is meant is up to the crate; here it is that names, types, shapes and elements come back.
    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("batch.npz");
        let tensors: NamedTensors = [
            ("ids".to_owned(), Tensor::from_slice(&[2, 2], &[1i64, -2, 3, i64::MAX]).unwrap()),
            ("mask".to_owned(), Tensor::from_slice(&[3], &[Bool::from(true), Bool::from(false), Bool::from(true)]).unwrap()),
            ("image".to_owned(), Tensor::from_slice(&[1, 2, 1], &[0.5f32, -1.5]).unwrap()),
            ("none".to_owned(), Tensor::from_slice(&[0, 3], &[0u8; 0]).unwrap()),
        ]
        .into();
        write_npz(&path, &tensors).unwrap();
        let read = read_npz(&path).unwrap();
        assert_eq!(read.keys().collect::<Vec<_>>(), tensors.keys().collect::<Vec<_>>());
        for (name, tensor) in &tensors {
            let again = &read[name];
            assert_eq!((again.dtype(), again.shape(), again.bytes()), (tensor.dtype(), tensor.shape(), tensor.bytes()), "{name}");
        }

        let half: NamedTensors = [("half".to_owned(), Tensor::from_slice(&[1], &[f16::ONE]).unwrap())].into();
        let other = folder.path().join("half.npz");
        assert!(write_npz(&other, &half).unwrap_err().to_string().starts_with("'half' was not written"));
        assert!(!other.exists());
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"hello").unwrap();
        assert!(read_npz(file.path()).is_err());
    }
}
