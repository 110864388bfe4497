//! Elements of constants as text.

use half::{bf16, f16};
use sliderun::dtype::{Bool, DType, Element};
use sliderun::f8::{F8E4M3, F8E5M2};

/// An element with a text form. Not every bit pattern has one (NaN payloads, booleans above 1).
trait ElementText: Element {
    fn print(self) -> String;
    fn parse(text: &str) -> Option<Self>;
}

macro_rules! through_rust {
    ($($ty:ty),*) => {$(
        impl ElementText for $ty {
            fn print(self) -> String {
                format!("{self:?}")
            }

            fn parse(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )*};
}
through_rust!(i8, i16, i32, i64, u8, u16, u32, u64, f32, f64);

macro_rules! through_f32 {
    ($($ty:ty),*) => {$(
        impl ElementText for $ty {
            fn print(self) -> String {
                format!("{:?}", self.to_f32())
            }

            fn parse(text: &str) -> Option<Self> {
                text.parse().ok().map(<$ty>::from_f32)
            }
        }
    )*};
}
through_f32!(f16, bf16, F8E4M3, F8E5M2);

impl ElementText for Bool {
    fn print(self) -> String {
        bool::from(self).to_string()
    }

    fn parse(text: &str) -> Option<Self> {
        text.parse::<bool>().ok().map(Bool::from)
    }
}

/// Evaluates `$body` with `$T` the Rust type of an element type.
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {
        with_element!(@ $dtype, $T, $body, Bool => Bool, I8 => i8, I16 => i16, I32 => i32, I64 => i64, U8 => u8, U16 => u16,
            U32 => u32, U64 => u64, F16 => f16, Bf16 => bf16, F32 => f32, F64 => f64, F8e4m3 => F8E4M3, F8e5m2 => F8E5M2)
    };
    (@ $dtype:expr, $T:ident, $body:expr, $($variant:ident => $ty:ty),*) => {
        match $dtype {
            $(DType::$variant => {
                type $T = $ty;
                $body
            })*
        }
    };
}

/// The elements, or `None` when their text would not give back the same bytes.
pub(super) fn print(dtype: DType, data: &[u8]) -> Option<Vec<String>> {
    let texts: Vec<String> = with_element!(dtype, T => {
        let element = |bytes: &[u8]| bytemuck::pod_read_unaligned::<T>(bytes).print();
        data.chunks_exact(dtype.size()).map(element).collect()
    });
    let back = parse(dtype, texts.iter().map(String::as_str)).ok()?;
    (back == data).then_some(texts)
}

/// The bytes of elements.
///
/// # Errors
/// The first text that is not an element of this type.
pub(super) fn parse<'t>(dtype: DType, texts: impl IntoIterator<Item = &'t str>) -> Result<Vec<u8>, &'t str> {
    with_element!(dtype, T => {
        let mut out = Vec::new();
        for text in texts {
            out.extend_from_slice(bytemuck::bytes_of(&T::parse(text).ok_or(text)?));
        }
        Ok(out)
    })
}

/// The bytes of elements given as numbers, rounded to the type (integers: to the nearest one in range).
pub(super) fn from_numbers(dtype: DType, numbers: impl IntoIterator<Item = f32>) -> Vec<u8> {
    let mut out = Vec::new();
    for v in numbers {
        match dtype {
            DType::Bool => out.push(u8::from(v > 0.0)),
            _ if dtype.is_float() => {
                with_element!(dtype, T => {
                    let element = T::parse(&format!("{v:?}")).expect("every float type has a text form for every number");
                    out.extend_from_slice(bytemuck::bytes_of(&element));
                });
            }
            _ => {
                let clamped = if dtype.name().starts_with('u') { v.max(0.0) } else { v };
                let text = (clamped.round() as i64).to_string();
                out.extend(parse(dtype, [text.as_str()]).unwrap_or_else(|_| vec![0; dtype.size()]));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_texts() {
        for (dtype, text) in [
            (DType::F32, "-0.0"),
            (DType::F32, "1e-12"),
            (DType::F16, "65504.0"),
            (DType::F32, "inf"),
            (DType::F32, "NaN"),
            (DType::I64, "-9223372036854775808"),
            (DType::Bool, "true"),
            (DType::F8e4m3, "448.0"),
        ] {
            let bytes = parse(dtype, [text]).unwrap();
            assert_eq!(print(dtype, &bytes).unwrap(), [text], "{dtype}");
        }
        assert_eq!(parse(DType::U8, ["1", "256"]), Err("256"));
        // A NaN with a payload and a boolean above 1 have no text.
        assert_eq!(print(DType::F32, &0x7fc0_0001u32.to_le_bytes()), None);
        assert_eq!(print(DType::Bool, &[2]), None);
    }

    proptest! {
        #[test]
        fn text_gives_back_the_bytes(bytes in proptest::collection::vec(any::<u8>(), 16), dtype in proptest::sample::select(&DType::ALL[..])) {
            if let Some(texts) = print(dtype, &bytes) {
                prop_assert_eq!(parse(dtype, texts.iter().map(String::as_str)).unwrap(), bytes);
            }
        }
    }
}
