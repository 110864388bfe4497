//! Elements of tensors as JSON numbers: flat or nested as the shape says, both ways.

use std::fmt;

use half::{bf16, f16};
use serde::de::{DeserializeSeed, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeSeq, Serializer};
use sliderun::dtype::{Bool, DType};
use sliderun::tensor::{Tensor, checked_elements};

/// Most elements for which room is made before any has been read: the shape is what a client says.
const RESERVED: usize = 1 << 16;

/// Reads the elements of a tensor from JSON text: an array of all of them, or arrays nested as the shape says.
///
/// # Errors
/// Text that is no such array, elements that are not of the type, and too few or too many of them.
pub fn read(dtype: DType, shape: &[usize], json: &str) -> Result<Tensor, String> {
    let elements = checked_elements(shape).ok_or_else(|| format!("a tensor of shape {shape:?} does not fit in memory"))?;
    let mut bytes = Vec::with_capacity(elements.min(RESERVED) * dtype.size());
    let mut reader = serde_json::Deserializer::from_str(json);
    Elements { dtype, shape, elements, depth: 0, bytes: &mut bytes }.deserialize(&mut reader).map_err(|e| e.to_string())?;
    reader.end().map_err(|e| e.to_string())?;
    let given = bytes.len() / dtype.size();
    if given != elements {
        return Err(format!("{given} elements were given, a tensor of shape {shape:?} has {elements}"));
    }
    Tensor::from_bytes(dtype, shape, &bytes).map_err(|e| e.to_string())
}

/// Reads an array or an element into `bytes`.
struct Elements<'a> {
    dtype: DType,
    shape: &'a [usize],
    elements: usize,
    depth: usize,
    bytes: &'a mut Vec<u8>,
}

impl Elements<'_> {
    fn push<E: Error>(self, element: &[u8]) -> Result<(), E> {
        if self.depth != 1 && self.depth != self.shape.len() {
            return Err(E::custom(format!("an element stands among arrays: the shape is {:?}", self.shape)));
        }
        if self.bytes.len() / self.dtype.size() == self.elements {
            return Err(E::custom(format!("more elements than a tensor of shape {:?} has", self.shape)));
        }
        self.bytes.extend_from_slice(element);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Elements<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! integer {
    ($self:ident, $value:ident, $E:ident, [$($dtype:ident => $rust:ty),*]) => {
        match $self.dtype {
            $(DType::$dtype => {
                let element = <$rust>::try_from($value)
                    .map_err(|_| $E::custom(format!("{} is no {}", $value, $self.dtype)))?;
                $self.push(&element.to_le_bytes())
            })*
            DType::F64 => $self.push(&($value as f64).to_le_bytes()),
            DType::F32 => $self.push(&($value as f32).to_le_bytes()),
            DType::F16 => $self.push(&f16::from_f64($value as f64).to_le_bytes()),
            DType::Bf16 => $self.push(&bf16::from_f64($value as f64).to_le_bytes()),
            _ => Err($E::custom(format!("{} is no {}", $value, $self.dtype))),
        }
    };
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} elements in an array", self.dtype)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        if self.depth > 0 && self.depth >= self.shape.len() {
            return Err(A::Error::custom(format!("arrays are nested deeper than the shape {:?} says", self.shape)));
        }
        let before = self.bytes.len();
        let mut count = 0;
        loop {
            let inner = Elements {
                dtype: self.dtype,
                shape: self.shape,
                elements: self.elements,
                depth: self.depth + 1,
                bytes: &mut *self.bytes,
            };
            if sequence.next_element_seed(inner)?.is_none() {
                break;
            }
            count += 1;
        }
        // All of them may stand in one array; otherwise each array has as many parts as its axis is long.
        let flat = self.depth == 0 && (self.bytes.len() - before) / self.dtype.size() == count;
        match self.shape.get(self.depth) {
            Some(&extent) if !flat && count != extent => {
                Err(A::Error::custom(format!("an array of {count} stands where the shape {:?} says {extent}", self.shape)))
            }
            _ => Ok(()),
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.dtype {
            DType::Bool => self.push(&[value.into()]),
            _ => Err(E::custom(format!("{value} is no {}", self.dtype))),
        }
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        integer!(self, value, E, [I8 => i8, I16 => i16, I32 => i32, I64 => i64, U8 => u8, U16 => u16, U32 => u32, U64 => u64])
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        integer!(self, value, E, [I8 => i8, I16 => i16, I32 => i32, I64 => i64, U8 => u8, U16 => u16, U32 => u32, U64 => u64])
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match self.dtype {
            DType::F64 => self.push(&value.to_le_bytes()),
            DType::F32 => self.push(&(value as f32).to_le_bytes()),
            DType::F16 => self.push(&f16::from_f64(value).to_le_bytes()),
            DType::Bf16 => self.push(&bf16::from_f64(value).to_le_bytes()),
            _ => Err(E::custom(format!("{value} is no {}", self.dtype))),
        }
    }
}

/// Whether JSON can say every element: it has no NaN and no infinities.
pub fn expressible(tensor: &Tensor) -> bool {
    match tensor.dtype() {
        DType::F16 => all(tensor, |v: f16| v.is_finite()),
        DType::Bf16 => all(tensor, |v: bf16| v.is_finite()),
        DType::F32 => all(tensor, f32::is_finite),
        DType::F64 => all(tensor, f64::is_finite),
        _ => true,
    }
}

fn all<T: sliderun::dtype::Element>(tensor: &Tensor, holds: impl Fn(T) -> bool) -> bool {
    tensor.as_slice::<T>().is_some_and(|values| values.iter().all(|v| holds(*v)))
}

/// A tensor's elements as one flat JSON array.
pub struct Flat<'a>(pub &'a Tensor);

impl Serialize for Flat<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fn array<S: Serializer, T: sliderun::dtype::Element, J: Serialize>(
            serializer: S,
            tensor: &Tensor,
            number: impl Fn(T) -> J,
        ) -> Result<S::Ok, S::Error> {
            let values = tensor.as_slice::<T>().ok_or_else(|| serde::ser::Error::custom("a tensor of another type"))?;
            let mut sequence = serializer.serialize_seq(Some(values.len()))?;
            values.iter().try_for_each(|v| sequence.serialize_element(&number(*v)))?;
            sequence.end()
        }
        let tensor = self.0;
        match tensor.dtype() {
            DType::Bool => array(serializer, tensor, |v: Bool| bool::from(v)),
            DType::I8 => array(serializer, tensor, |v: i8| v),
            DType::I16 => array(serializer, tensor, |v: i16| v),
            DType::I32 => array(serializer, tensor, |v: i32| v),
            DType::I64 => array(serializer, tensor, |v: i64| v),
            DType::U8 => array(serializer, tensor, |v: u8| v),
            DType::U16 => array(serializer, tensor, |v: u16| v),
            DType::U32 => array(serializer, tensor, |v: u32| v),
            DType::U64 => array(serializer, tensor, |v: u64| v),
            DType::F16 => array(serializer, tensor, |v: f16| v.to_f32()),
            DType::Bf16 => array(serializer, tensor, |v: bf16| v.to_f32()),
            DType::F32 => array(serializer, tensor, |v: f32| v),
            DType::F64 => array(serializer, tensor, |v: f64| v),
            other => Err(serde::ser::Error::custom(format!("{other} has no JSON form"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_flat_or_nested() {
        let expected = Tensor::from_slice(&[2, 2, 1], &[1i32, -2, 3, 4]).unwrap();
        for json in ["[1,-2,3,4]", "[[[1],[-2]],[[3],[4]]]"] {
            assert_eq!(read(DType::I32, &[2, 2, 1], json).unwrap().bytes(), expected.bytes(), "{json}");
        }
        assert_eq!(read(DType::F32, &[2], "[1, 2.5]").unwrap().as_slice::<f32>(), Some(&[1.0, 2.5][..]));
        assert_eq!(read(DType::Bool, &[2], "[true,false]").unwrap().bytes(), [1, 0]);
        assert_eq!(read(DType::F16, &[1], "[0.5]").unwrap().as_slice::<f16>(), Some(&[f16::from_f32(0.5)][..]));
        assert_eq!(read(DType::U64, &[1], "[18446744073709551615]").unwrap().as_slice::<u64>(), Some(&[u64::MAX][..]));
        assert_eq!(read(DType::I64, &[0, 3], "[]").unwrap().shape(), [0, 3]);
        assert_eq!(read(DType::I64, &[], "[7]").unwrap().as_slice::<i64>(), Some(&[7][..]));
    }

    #[test]
    fn wrong_arrays_are_refused_with_a_reason() {
        for (dtype, shape, json, reason) in [
            (DType::I32, &[2, 2][..], "[[1,2],[3]]", "an array of 1 stands where"),
            (DType::I32, &[2, 2], "[[1],[2,3,4]]", "an array of 1 stands where"),
            (DType::I32, &[2, 2], "[1,2,[3,4]]", "an array of 3 stands where"),
            (DType::I32, &[2, 2], "[[[1,2]],[[3,4]]]", "nested deeper"),
            (DType::I32, &[1, 2, 2], "[[1,2,3,4]]", "an element stands among arrays"),
            (DType::I32, &[2], "[1]", "1 elements were given"),
            (DType::I32, &[1], "[1,2]", "more elements"),
            (DType::I32, &[1], "[1.5]", "1.5 is no i32"),
            (DType::I32, &[1], "[true]", "true is no i32"),
            (DType::Bool, &[1], "[1]", "1 is no bool"),
            (DType::U8, &[1], "[256]", "256 is no u8"),
            (DType::U8, &[1], "[-1]", "-1 is no u8"),
            (DType::F32, &[1], "[null]", "invalid type: null"),
            (DType::F32, &[1], "[\"1\"]", "invalid type: string"),
            (DType::F32, &[1], "[NaN]", "expected value"),
            (DType::F32, &[1], "3", "an element stands among arrays"),
            (DType::F32, &[1 << 40, 1 << 40], "[]", "does not fit in memory"),
        ] {
            let error = read(dtype, shape, json).unwrap_err();
            assert!(error.contains(reason), "{json}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let floats = Tensor::from_slice(&[3], &[0.1f32, -1e30, f32::MIN_POSITIVE]).unwrap();
        let json = serde_json::to_string(&Flat(&floats)).unwrap();
        assert_eq!(read(DType::F32, &[3], &json).unwrap().bytes(), floats.bytes());
        assert!(expressible(&floats));
        assert!(!expressible(&Tensor::from_slice(&[1], &[f64::NAN]).unwrap()));
        assert!(!expressible(&Tensor::from_slice(&[1], &[f16::INFINITY]).unwrap()));
    }
}
