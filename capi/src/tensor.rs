//! Element types, and the tensors of a call.

use std::ffi::{c_char, c_void};

use sliderun::dtype::DType;
use sliderun::tensor::{TensorView, TensorViewMut};

use crate::failure::{Failure, Status};
use crate::pointer;

/// Types of elements. Numbers are little-endian, as on every machine that sliderun runs on.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// One byte, 0 or 1.
    Bool = 0,
    I8 = 1,
    I16 = 2,
    I32 = 3,
    I64 = 4,
    U8 = 5,
    U16 = 6,
    U32 = 7,
    U64 = 8,
    /// IEEE 754 half precision.
    F16 = 9,
    /// The upper half of an F32.
    Bf16 = 10,
    F32 = 11,
    F64 = 12,
    /// OCP FP8 E4M3 without infinities.
    F8e4m3 = 13,
    /// OCP FP8 E5M2.
    F8e5m2 = 14,
}

/// What each number of the header is.
const DTYPES: [(Dtype, DType, &str); 15] = [
    (Dtype::Bool, DType::Bool, "bool\0"),
    (Dtype::I8, DType::I8, "i8\0"),
    (Dtype::I16, DType::I16, "i16\0"),
    (Dtype::I32, DType::I32, "i32\0"),
    (Dtype::I64, DType::I64, "i64\0"),
    (Dtype::U8, DType::U8, "u8\0"),
    (Dtype::U16, DType::U16, "u16\0"),
    (Dtype::U32, DType::U32, "u32\0"),
    (Dtype::U64, DType::U64, "u64\0"),
    (Dtype::F16, DType::F16, "f16\0"),
    (Dtype::Bf16, DType::Bf16, "bf16\0"),
    (Dtype::F32, DType::F32, "f32\0"),
    (Dtype::F64, DType::F64, "f64\0"),
    (Dtype::F8e4m3, DType::F8e4m3, "f8e4m3\0"),
    (Dtype::F8e5m2, DType::F8e5m2, "f8e5m2\0"),
];

impl Dtype {
    pub fn of(dtype: DType) -> u32 {
        DTYPES[DType::ALL.iter().position(|d| *d == dtype).expect("ALL has every element type")].0 as u32
    }
}

fn dtype(number: u32) -> Option<(DType, &'static str)> {
    DTYPES.iter().find(|(c, _, _)| *c as u32 == number).map(|(_, dtype, name)| (*dtype, *name))
}

/// Bytes per element; 0 for a number that is no element type.
#[unsafe(no_mangle)]
pub extern "C" fn sliderun_dtype_size(dtype: u32) -> usize {
    self::dtype(dtype).map_or(0, |(dtype, _)| dtype.size())
}

/// The name of an element type, "f32"; null for a number that is none. Never to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn sliderun_dtype_name(dtype: u32) -> *const c_char {
    self::dtype(dtype).map_or(std::ptr::null(), |(_, name)| name.as_ptr().cast())
}

/// A tensor to be read: elements lie behind each other, the last axis fastest, in memory that is aligned to the element type.
#[repr(C)]
pub struct Tensor {
    /// The name of the input or output.
    pub name: *const c_char,
    /// A sliderun_dtype.
    pub dtype: u32,
    /// Number of axes.
    pub rank: usize,
    /// `rank` extents, outermost first; may be null where `rank` is 0.
    pub shape: *const usize,
    /// The elements; may be null where there are none.
    pub data: *const c_void,
    /// Size of `data`: exactly what element type and shape need.
    pub bytes: usize,
}

/// A tensor to be written; as sliderun_tensor otherwise. Its memory need not be initialised, and overlaps no other tensor of the call.
#[repr(C)]
pub struct TensorMut {
    /// The name of the output.
    pub name: *const c_char,
    /// A sliderun_dtype.
    pub dtype: u32,
    /// Number of axes.
    pub rank: usize,
    /// `rank` extents, outermost first; may be null where `rank` is 0.
    pub shape: *const usize,
    /// Where the elements go; may be null where there are none.
    pub data: *mut c_void,
    /// Size of `data`: exactly what element type and shape need.
    pub bytes: usize,
}

impl Tensor {
    /// Its name and extents.
    ///
    /// # Safety
    /// The header's rules for tensors, as long as what is made of it lives.
    pub unsafe fn named_shape<'a>(&self) -> Result<(&'a str, &'a [usize]), Failure> {
        // SAFETY: as the caller promises.
        unsafe { named_shape(self.name, self.shape, self.rank) }
    }

    /// Its name and what it holds.
    ///
    /// # Safety
    /// As [`Tensor::named_shape`].
    pub unsafe fn view<'a>(&self) -> Result<(&'a str, TensorView<'a>), Failure> {
        // SAFETY: as the caller promises.
        unsafe {
            let (name, shape) = self.named_shape()?;
            let data = pointer::many(self.data.cast::<u8>(), self.bytes, &format!("the data of '{name}'"))?;
            Ok((name, TensorView { dtype: known(name, self.dtype)?, shape, data }))
        }
    }
}

impl TensorMut {
    /// Its name and what it holds.
    ///
    /// # Safety
    /// As [`Tensor::named_shape`].
    pub unsafe fn view<'a>(&mut self) -> Result<(&'a str, TensorViewMut<'a>), Failure> {
        // SAFETY: as the caller promises.
        unsafe {
            let (name, shape) = named_shape(self.name, self.shape, self.rank)?;
            let data = pointer::many_mut(self.data.cast::<u8>(), self.bytes, &format!("the data of '{name}'"))?;
            Ok((name, TensorViewMut { dtype: known(name, self.dtype)?, shape, data }))
        }
    }
}

unsafe fn named_shape<'a>(name: *const c_char, shape: *const usize, rank: usize) -> Result<(&'a str, &'a [usize]), Failure> {
    // SAFETY: as the caller promises.
    unsafe {
        let name = pointer::text(name, "the name of a tensor")?;
        Ok((name, pointer::many(shape, rank, &format!("the shape of '{name}'"))?))
    }
}

fn known(name: &str, number: u32) -> Result<DType, Failure> {
    match dtype(number) {
        Some((dtype, _)) => Ok(dtype),
        None => Err(Failure::new(Status::BadTensor, format!("{name}: {number} is no element type"))),
    }
}
