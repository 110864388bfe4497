//! NumPy's `.npy` files (format versions 1 to 3), for every element type.
//!
//! NumPy has no name for bf16 and the 8-bit floats: as its extension `ml_dtypes` does, they are stored as raw elements of two bytes and
//! of one. Reading those takes the expected type to tell which one byte means; two bytes mean bf16 unless f16 is expected.

use std::io::{self, Write};

use crate::dtype::DType;
use crate::tensor::{Tensor, TensorView, checked_elements};

const MAGIC: &[u8; 6] = b"\x93NUMPY";

/// Why a file is not a tensor.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum NpyError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("not a .npy file")]
    NotNpy,
    #[error("the .npy header is damaged: {0}")]
    Header(&'static str),
    #[error("elements of NumPy type '{0}' are not supported")]
    Type(String),
    #[error("the .npy file has {actual} bytes of data where its shape {shape:?} needs {expected}")]
    Length { shape: Vec<usize>, expected: usize, actual: usize },
    #[error("a tensor of shape {0:?} does not fit in memory")]
    TooLarge(Vec<usize>),
}

/// Kind and size of an element as in NumPy's type strings; the byte order is apart.
fn descriptor(dtype: DType) -> &'static str {
    match dtype {
        DType::Bool => "b1",
        DType::I8 => "i1",
        DType::I16 => "i2",
        DType::I32 => "i4",
        DType::I64 => "i8",
        DType::U8 => "u1",
        DType::U16 => "u2",
        DType::U32 => "u4",
        DType::U64 => "u8",
        DType::F16 => "f2",
        DType::Bf16 => "V2",
        DType::F32 => "f4",
        DType::F64 => "f8",
        DType::F8e4m3 | DType::F8e5m2 => "V1",
    }
}

/// Writes a tensor as version 1.0.
///
/// # Errors
/// Those of the writer.
pub fn write(tensor: TensorView<'_>, out: &mut dyn Write) -> io::Result<()> {
    let order = if tensor.dtype.size() == 1 { '|' } else { '<' };
    let extents: Vec<String> = tensor.shape.iter().map(|n| format!("{n},")).collect();
    let descr = descriptor(tensor.dtype);
    let mut header = format!("{{'descr': '{order}{descr}', 'fortran_order': False, 'shape': ({}), }}", extents.join(" "));
    // The data starts at a multiple of 64; the header ends in a newline.
    let unpadded = MAGIC.len() + 4 + header.len() + 1;
    header.extend(std::iter::repeat_n(' ', unpadded.next_multiple_of(64) - unpadded));
    header.push('\n');
    let len = u16::try_from(header.len()).map_err(|_| io::Error::other("the shape has too many axes for a .npy file"))?;
    out.write_all(MAGIC)?;
    out.write_all(&[1, 0])?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    out.write_all(tensor.data)
}

/// Reads a tensor from the bytes of a file. `expected` tells types apart that NumPy has one name for.
///
/// # Errors
/// See [`NpyError`].
pub fn read(file: &[u8], expected: Option<DType>) -> Result<Tensor, NpyError> {
    let rest = file.strip_prefix(MAGIC).ok_or(NpyError::NotNpy)?;
    let short = NpyError::Header("it is truncated");
    let (len, rest) = match rest {
        [1, _, a, b, rest @ ..] => (usize::from(u16::from_le_bytes([*a, *b])), rest),
        [2 | 3, _, a, b, c, d, rest @ ..] => (u32::from_le_bytes([*a, *b, *c, *d]) as usize, rest),
        [1..=3, ..] | [] => return Err(short),
        _ => return Err(NpyError::Header("its version is not known")),
    };
    let (header, data) = rest.split_at_checked(len).ok_or(short)?;
    let header = Header::parse(std::str::from_utf8(header).map_err(|_| NpyError::Header("it is not text"))?)?;

    let (dtype, big_endian) = element_type(&header.descr, expected)?;
    let bytes = checked_elements(&header.shape)
        .and_then(|n| n.checked_mul(dtype.size()))
        .ok_or_else(|| NpyError::TooLarge(header.shape.clone()))?;
    if bytes != data.len() {
        return Err(NpyError::Length { shape: header.shape, expected: bytes, actual: data.len() });
    }
    let mut tensor = Tensor::from_bytes(dtype, &header.shape, data).map_err(|_| NpyError::TooLarge(header.shape.clone()))?;
    if big_endian {
        tensor.bytes_mut().chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
    if dtype == DType::Bool {
        tensor.bytes_mut().iter_mut().for_each(|b| *b = u8::from(*b != 0));
    }
    Ok(if header.fortran_order { row_major(&tensor) } else { tensor })
}

/// The element type, and whether it is stored in big-endian order.
fn element_type(descr: &str, expected: Option<DType>) -> Result<(DType, bool), NpyError> {
    let unknown = || NpyError::Type(descr.to_owned());
    let order = descr.chars().next().filter(|c| "<>|=".contains(*c)).ok_or_else(unknown)?;
    let kind = &descr[1..];
    // `ml_dtypes` has called one-byte floats f1 as well as V1.
    let kind = if kind == "f1" { "V1" } else { kind };
    let candidates = || DType::ALL.into_iter().filter(|d| descriptor(*d) == kind);
    let dtype = match (kind, expected) {
        ("V2", Some(DType::F16)) => DType::F16,
        ("V1", None) => return Err(unknown()),
        (_, Some(wanted)) if candidates().any(|d| d == wanted) => wanted,
        _ => candidates().next().ok_or_else(unknown)?,
    };
    Ok((dtype, order == '>'))
}

/// The elements of a tensor whose bytes are in column-major order, row-major.
fn row_major(columns: &Tensor) -> Tensor {
    let (shape, size) = (columns.shape(), columns.dtype().size());
    let mut out = columns.clone();
    let mut at = vec![0usize; shape.len()];
    for element in out.bytes_mut().chunks_exact_mut(size) {
        let from = at.iter().zip(shape).rev().fold(0, |sum, (i, n)| sum * n + i);
        element.copy_from_slice(&columns.bytes()[from * size..][..size]);
        for axis in (0..shape.len()).rev() {
            at[axis] += 1;
            if at[axis] < shape[axis] {
                break;
            }
            at[axis] = 0;
        }
    }
    out
}

/// The dictionary at the head of the file.
struct Header {
    descr: String,
    fortran_order: bool,
    shape: Vec<usize>,
}

impl Header {
    /// Reads a Python literal like `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`.
    fn parse(text: &str) -> Result<Header, NpyError> {
        let mut rest = text.trim().strip_prefix('{').ok_or(NpyError::Header("it is not a dictionary"))?.trim_start();
        let (mut descr, mut fortran_order, mut shape) = (None, None, None);
        while !rest.starts_with('}') {
            let (key, after) = string(rest)?;
            let value = after.trim_start().strip_prefix(':').ok_or(NpyError::Header("':' is missing"))?.trim_start();
            rest = match key {
                "descr" if value.starts_with('[') => return Err(NpyError::Type("structured".to_owned())),
                "descr" => {
                    let (text, after) = string(value)?;
                    descr = Some(text.to_owned());
                    after
                }
                "fortran_order" => {
                    let (flag, after) = match (value.strip_prefix("True"), value.strip_prefix("False")) {
                        (Some(after), _) => (true, after),
                        (_, Some(after)) => (false, after),
                        _ => return Err(NpyError::Header("fortran_order is not a boolean")),
                    };
                    fortran_order = Some(flag);
                    after
                }
                "shape" => {
                    let inner = value.strip_prefix('(').ok_or(NpyError::Header("the shape is not a tuple"))?;
                    let (inner, after) = inner.split_once(')').ok_or(NpyError::Header("the shape is not a tuple"))?;
                    let extents = inner.split(',').map(str::trim).filter(|e| !e.is_empty());
                    // Python 2 wrote long integers with an L.
                    let extents = extents.map(|e| e.trim_end_matches('L').parse::<usize>());
                    shape = Some(extents.collect::<Result<_, _>>().map_err(|_| NpyError::Header("an extent is not a number"))?);
                    after
                }
                _ => return Err(NpyError::Header("it has an unknown key")),
            };
            rest = rest.trim_start();
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
        }
        match (descr, fortran_order, shape) {
            (Some(descr), Some(fortran_order), Some(shape)) => Ok(Header { descr, fortran_order, shape }),
            _ => Err(NpyError::Header("descr, fortran_order or shape is missing")),
        }
    }
}

fn string(text: &str) -> Result<(&str, &str), NpyError> {
    let fail = NpyError::Header("a string was expected");
    let Some(quote @ ('\'' | '"')) = text.chars().next() else { return Err(fail) };
    text[1..].split_once(quote).ok_or(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend([1, 0]);
        out.extend((header.len() as u16).to_le_bytes());
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    #[test]
    fn every_type_round_trips() {
        for dtype in DType::ALL {
            for shape in [&[][..], &[3], &[2, 0], &[2, 3, 1]] {
                let count: usize = shape.iter().product::<usize>() * dtype.size();
                let bytes: Vec<u8> = (0..count).map(|i| if dtype == DType::Bool { i % 2 } else { i } as u8).collect();
                let tensor = Tensor::from_bytes(dtype, shape, &bytes).unwrap();
                let mut out = Vec::new();
                write(tensor.view(), &mut out).unwrap();
                assert_eq!((out.len() - count) % 64, 0);
                let read = read(&out, Some(dtype)).unwrap();
                assert_eq!((read.dtype(), read.shape(), read.bytes()), (dtype, shape, &bytes[..]));
            }
        }
    }

    #[test]
    fn what_numpy_writes() {
        // np.save of np.array([[1, 2, 3], [4, 5, 6]], '>i2'), in both orders, version 2.0's longer header length.
        let rows = file("{'descr': '>i2', 'fortran_order': False, 'shape': (2, 3), }\n", &[0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6]);
        let columns = file("{'descr': '<i2', 'fortran_order': True, 'shape': (2, 3), }", &[1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6, 0]);
        let mut version2 = columns.clone();
        version2[6] = 2;
        version2.splice(10..10, [0, 0]);
        for bytes in [rows, columns, version2] {
            assert_eq!(read(&bytes, None).unwrap().as_slice::<i16>().unwrap(), [1, 2, 3, 4, 5, 6]);
        }
        assert_eq!(read(&file("{'descr': '|b1', 'fortran_order': False, 'shape': (), }", &[9]), None).unwrap().bytes(), [1]);
    }

    #[test]
    fn bad_files() {
        let good = file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", &[0; 8]);
        for len in 0..good.len() {
            assert!(read(&good[..len], None).is_err(), "{len}");
        }
        for header in [
            "",
            "{",
            "{'descr': '<f4'}",
            "{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}",
            "{'descr': 'é', 'fortran_order': False, 'shape': (1,)}",
            "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}",
            "{'descr': '|V1', 'fortran_order': False, 'shape': (8,)}",
            "{'descr': '<f4', 'fortran_order': maybe, 'shape': (2,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9)}",
        ] {
            assert!(read(&file(header, &[0; 8]), None).is_err(), "{header}");
        }
    }
}
