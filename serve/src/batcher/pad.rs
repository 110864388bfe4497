//! Values that stand where a request's tensors do not reach.

use half::{bf16, f16};
use sliderun::dtype::DType;
use sliderun::f8::{F8E4M3, F8E5M2};

/// The bytes of an element whose value is given as text.
///
/// # Errors
/// Text that is no value of that type.
pub fn element(dtype: DType, text: &str) -> Result<Vec<u8>, String> {
    fn parse<T: std::str::FromStr, const N: usize>(
        text: &str,
        dtype: DType,
        bytes: impl Fn(T) -> [u8; N],
    ) -> Result<Vec<u8>, String> {
        text.trim().parse().map(|v| bytes(v).to_vec()).map_err(|_| format!("'{text}' is no {dtype}"))
    }
    match dtype {
        DType::Bool => match text {
            "0" | "false" => Ok(vec![0]),
            "1" | "true" => Ok(vec![1]),
            _ => Err(format!("'{text}' is no bool: 0, 1, false or true was expected")),
        },
        DType::I8 => parse(text, dtype, i8::to_le_bytes),
        DType::I16 => parse(text, dtype, i16::to_le_bytes),
        DType::I32 => parse(text, dtype, i32::to_le_bytes),
        DType::I64 => parse(text, dtype, i64::to_le_bytes),
        DType::U8 => parse(text, dtype, u8::to_le_bytes),
        DType::U16 => parse(text, dtype, u16::to_le_bytes),
        DType::U32 => parse(text, dtype, u32::to_le_bytes),
        DType::U64 => parse(text, dtype, u64::to_le_bytes),
        DType::F16 => parse(text, dtype, |v: f32| f16::from_f32(v).to_le_bytes()),
        DType::Bf16 => parse(text, dtype, |v: f32| bf16::from_f32(v).to_le_bytes()),
        DType::F32 => parse(text, dtype, f32::to_le_bytes),
        DType::F64 => parse(text, dtype, f64::to_le_bytes),
        DType::F8e4m3 => parse(text, dtype, |v: f32| [F8E4M3::from_f32(v).0]),
        DType::F8e5m2 => parse(text, dtype, |v: f32| [F8E5M2::from_f32(v).0]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_of_the_type() {
        assert_eq!(element(DType::I64, "-1"), Ok(vec![255; 8]));
        assert_eq!(element(DType::F32, "1"), Ok(1f32.to_le_bytes().to_vec()));
        assert_eq!(element(DType::Bool, "true"), Ok(vec![1]));
        for (dtype, text) in [(DType::U8, "-1"), (DType::I8, "128"), (DType::I32, "0.5"), (DType::F32, "x"), (DType::Bool, "2")] {
            assert!(element(dtype, text).unwrap_err().contains(text), "{dtype} {text}");
        }
        for dtype in DType::ALL {
            assert_eq!(element(dtype, "0"), Ok(vec![0; dtype.size()]), "{dtype}");
        }
    }
}
