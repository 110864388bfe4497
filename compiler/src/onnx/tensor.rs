//! `TensorProto` → constants: every way in which ONNX stores elements.

use bytes::Bytes;
use sliderun::dtype::DType;
use std::borrow::Cow;

use super::external::ExternalError;
use super::proto::{TensorProto, data_type};
use crate::ir::Constant;

/// Element types as ONNX numbers and names them, and ours where there is one.
const DATA_TYPES: [(i32, &str, Option<DType>); 26] = [
    (data_type::FLOAT, "float", Some(DType::F32)),
    (data_type::UINT8, "uint8", Some(DType::U8)),
    (data_type::INT8, "int8", Some(DType::I8)),
    (data_type::UINT16, "uint16", Some(DType::U16)),
    (data_type::INT16, "int16", Some(DType::I16)),
    (data_type::INT32, "int32", Some(DType::I32)),
    (data_type::INT64, "int64", Some(DType::I64)),
    (data_type::STRING, "string", None),
    (data_type::BOOL, "bool", Some(DType::Bool)),
    (data_type::FLOAT16, "float16", Some(DType::F16)),
    (data_type::DOUBLE, "double", Some(DType::F64)),
    (data_type::UINT32, "uint32", Some(DType::U32)),
    (data_type::UINT64, "uint64", Some(DType::U64)),
    (data_type::COMPLEX64, "complex64", None),
    (data_type::COMPLEX128, "complex128", None),
    (data_type::BFLOAT16, "bfloat16", Some(DType::Bf16)),
    (data_type::FLOAT8E4M3FN, "float8e4m3fn", Some(DType::F8e4m3)),
    (data_type::FLOAT8E4M3FNUZ, "float8e4m3fnuz", None),
    (data_type::FLOAT8E5M2, "float8e5m2", Some(DType::F8e5m2)),
    (data_type::FLOAT8E5M2FNUZ, "float8e5m2fnuz", None),
    (data_type::UINT4, "uint4", None),
    (data_type::INT4, "int4", None),
    (data_type::FLOAT4E2M1, "float4e2m1", None),
    (data_type::FLOAT8E8M0, "float8e8m0", None),
    (data_type::UINT2, "uint2", None),
    (data_type::INT2, "int2", None),
];

/// An element type that the IR does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum DataTypeError {
    #[error("element type {0} is not supported")]
    Unsupported(&'static str),
    #[error("{0} is not an ONNX element type")]
    Unknown(i32),
}

/// The element type that an ONNX `TensorProto.DataType` number stands for.
///
/// # Errors
/// Types that the IR does not have (strings, complex numbers, 4-bit types …), and numbers that ONNX does not define.
pub fn dtype_of(onnx: i32) -> Result<DType, DataTypeError> {
    match DATA_TYPES.iter().find(|(n, ..)| *n == onnx) {
        Some((_, _, Some(dtype))) => Ok(*dtype),
        Some((_, name, None)) => Err(DataTypeError::Unsupported(name)),
        None => Err(DataTypeError::Unknown(onnx)),
    }
}

/// ONNX's number for an element type.
pub fn onnx_data_type(dtype: DType) -> i32 {
    DATA_TYPES.iter().find(|(.., d)| *d == Some(dtype)).map(|(n, ..)| *n).expect("ONNX has every type that the IR has")
}

/// ONNX's name of an element type's number.
pub fn data_type_name(onnx: i32) -> &'static str {
    DATA_TYPES.iter().find(|(n, ..)| *n == onnx).map_or("undefined", |(_, name, _)| name)
}

/// Why a tensor of a model cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum TensorDataError {
    #[error(transparent)]
    DataType(#[from] DataTypeError),
    #[error("dimension {0} is negative")]
    NegativeDimension(i64),
    #[error("shape {0:?} does not fit in memory")]
    TooLarge(Vec<i64>),
    #[error("its {shape:?} elements of type {dtype} need {expected} bytes, the file has {actual}")]
    WrongSize { dtype: DType, shape: Vec<usize>, expected: usize, actual: usize },
    #[error("its shape {shape:?} needs {expected} elements, `{field}` has {actual}")]
    WrongCount { shape: Vec<usize>, field: &'static str, expected: usize, actual: usize },
    #[error("value {value} in `{field}` does not fit element type {dtype}")]
    OutOfRange { dtype: DType, field: &'static str, value: i64 },
    #[error("it is stored in segments, which is not supported")]
    Segmented,
    #[error(transparent)]
    External(#[from] ExternalError),
}

/// Element type and concrete shape of a tensor.
pub(super) fn header(t: &TensorProto) -> Result<(DType, Vec<usize>, usize), TensorDataError> {
    let dtype = dtype_of(t.data_type.unwrap_or_default())?;
    let shape = t
        .dims
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| TensorDataError::NegativeDimension(d)))
        .collect::<Result<Vec<_>, _>>()?;
    let bytes = sliderun::tensor::checked_elements(&shape)
        .and_then(|n| n.checked_mul(dtype.size()))
        .filter(|&b| isize::try_from(b).is_ok())
        .ok_or_else(|| TensorDataError::TooLarge(t.dims.clone()))?;
    Ok((dtype, shape, bytes))
}

/// The tensor's elements, where they are in the message itself.
pub(super) fn inline_constant(t: &TensorProto) -> Result<Constant, TensorDataError> {
    let (dtype, shape, expected) = header(t)?;
    if t.segment.is_some() {
        return Err(TensorDataError::Segmented);
    }
    let data = match &t.raw_data {
        // An empty `raw_data` beside typed data is how some writers spell "not set".
        Some(raw) if !raw.is_empty() || expected == 0 => raw.clone(),
        _ => typed_data(t, dtype, &shape, expected / dtype.size())?,
    };
    with_size(dtype, shape, expected, data)
}

/// A constant, after checking that it has the bytes it needs.
pub(super) fn with_size(dtype: DType, shape: Vec<usize>, expected: usize, data: Bytes) -> Result<Constant, TensorDataError> {
    if data.len() != expected {
        return Err(TensorDataError::WrongSize { dtype, shape, expected, actual: data.len() });
    }
    Ok(Constant { dtype, shape, data })
}

/// The bytes of `float_data`, `int32_data` …, whichever the element type uses.
fn typed_data(t: &TensorProto, dtype: DType, shape: &[usize], count: usize) -> Result<Bytes, TensorDataError> {
    let narrowed;
    let (field, actual, bytes): (_, _, Cow<'_, [u8]>) = match dtype {
        DType::F32 => ("float_data", t.float_data.len(), Cow::Borrowed(bytemuck::cast_slice(&t.float_data))),
        DType::F64 => ("double_data", t.double_data.len(), Cow::Borrowed(bytemuck::cast_slice(&t.double_data))),
        DType::I64 => ("int64_data", t.int64_data.len(), Cow::Borrowed(bytemuck::cast_slice(&t.int64_data))),
        DType::U64 => ("uint64_data", t.uint64_data.len(), Cow::Borrowed(bytemuck::cast_slice(&t.uint64_data))),
        DType::I32 => ("int32_data", t.int32_data.len(), Cow::Borrowed(bytemuck::cast_slice(&t.int32_data))),
        DType::U32 => {
            narrowed = narrow(&t.uint64_data, "uint64_data", dtype, |v| u32::try_from(v).ok().map(u32::to_le_bytes))?;
            ("uint64_data", t.uint64_data.len(), Cow::Borrowed(narrowed.as_slice()))
        }
        _ => {
            let data = &t.int32_data;
            let field = "int32_data";
            narrowed = match dtype {
                DType::I8 => narrow(data, field, dtype, |v| i8::try_from(v).ok().map(i8::to_le_bytes)),
                DType::I16 => narrow(data, field, dtype, |v| i16::try_from(v).ok().map(i16::to_le_bytes)),
                DType::Bool => narrow(data, field, dtype, |v| Some([u8::from(v != 0)])),
                _ if dtype.size() == 1 => narrow(data, field, dtype, |v| u8::try_from(v).ok().map(u8::to_le_bytes)),
                _ => narrow(data, field, dtype, |v| u16::try_from(v).ok().map(u16::to_le_bytes)),
            }?;
            (field, data.len(), Cow::Borrowed(narrowed.as_slice()))
        }
    };
    if actual != count {
        return Err(TensorDataError::WrongCount { shape: shape.to_vec(), field, expected: count, actual });
    }
    Ok(Bytes::copy_from_slice(&bytes))
}

fn narrow<T: Copy + Into<i128>, const N: usize>(
    values: &[T],
    field: &'static str,
    dtype: DType,
    convert: impl Fn(T) -> Option<[u8; N]>,
) -> Result<Vec<u8>, TensorDataError> {
    let mut out = Vec::with_capacity(values.len() * N);
    for &v in values {
        let bytes = convert(v).ok_or_else(|| {
            let value = i64::try_from(v.into()).unwrap_or(i64::MAX);
            TensorDataError::OutOfRange { dtype, field, value }
        })?;
        out.extend_from_slice(&bytes);
    }
    Ok(out)
}
