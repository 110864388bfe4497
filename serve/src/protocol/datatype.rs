//! Element types by the protocol's names.

use sliderun::dtype::DType;

const NAMES: [(DType, &str); 13] = [
    (DType::Bool, "BOOL"),
    (DType::U8, "UINT8"),
    (DType::U16, "UINT16"),
    (DType::U32, "UINT32"),
    (DType::U64, "UINT64"),
    (DType::I8, "INT8"),
    (DType::I16, "INT16"),
    (DType::I32, "INT32"),
    (DType::I64, "INT64"),
    (DType::F16, "FP16"),
    (DType::Bf16, "BF16"),
    (DType::F32, "FP32"),
    (DType::F64, "FP64"),
];

/// The protocol's name; none for 8-bit floats, which it does not have.
pub fn datatype(dtype: DType) -> Option<&'static str> {
    NAMES.iter().find(|(d, _)| *d == dtype).map(|(_, name)| *name)
}

/// The element type of that name.
///
/// # Errors
/// A name that is none, or BYTES, which tensors here do not hold.
pub fn from_datatype(name: &str) -> Result<DType, String> {
    NAMES.iter().find(|(_, n)| *n == name).map(|(d, _)| *d).ok_or_else(|| {
        let known: Vec<_> = NAMES.iter().map(|(_, n)| *n).collect();
        format!("'{name}' is no datatype of this server: it has {}", known.join(", "))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways() {
        for dtype in DType::ALL {
            match datatype(dtype) {
                Some(name) => assert_eq!(from_datatype(name), Ok(dtype)),
                None => assert_eq!(dtype.size(), 1, "{dtype}"),
            }
        }
        for name in ["", "fp32", "BYTES", "F32"] {
            assert!(from_datatype(name).unwrap_err().contains("is no datatype"), "{name}");
        }
    }
}
