//! The portable compressed form of a 2:4 weight: kept values and their positions.
//!
//! A lifted weight row of K' elements is cut into groups of four. Each group keeps exactly two values, in ascending order of their
//! positions i0 < i1 within the group, and one nibble `i0 | i1 << 2`; two groups share a byte, the lower one in the low nibble. A group
//! with one non-zero v at i keeps (v, 0) at (i, 3), or (0, v) at (0, 3) when i = 3; an empty one keeps (0, 0) at (0, 1). This is
//! the order in which NVIDIA's sparse tensor cores take 8-bit operands.
//!
//! Must not know: how the lifted row came about (the compiler's business), how a device multiplies with it.

use half::{bf16, f16};

use super::KLayout;
use crate::dtype::{DType, Element};
use crate::f8::F8E4M3;
use crate::tensor::{Tensor, TensorError, TensorView};

/// Lifted positions in a group.
pub const GROUP: usize = 4;

/// An element type that compressed weights are stored in.
pub trait Weight: Element {
    /// Whether the value is zero, of either sign.
    fn is_zero(self) -> bool;
}

impl Weight for i8 {
    fn is_zero(self) -> bool {
        self == 0
    }
}

impl Weight for F8E4M3 {
    fn is_zero(self) -> bool {
        self.0 & 0x7f == 0
    }
}

impl Weight for f16 {
    fn is_zero(self) -> bool {
        self.to_bits() & 0x7fff == 0
    }
}

impl Weight for bf16 {
    fn is_zero(self) -> bool {
        self.to_bits() & 0x7fff == 0
    }
}

impl Weight for f32 {
    fn is_zero(self) -> bool {
        self == 0.0
    }
}

/// Evaluates `$body` with `$T` bound to the [`Weight`] type of `$dtype`, or `$other` when there is none.
macro_rules! with_weight {
    ($dtype:expr, $T:ident => $body:expr, else $other:expr) => {
        match $dtype {
            $crate::dtype::DType::I8 => {
                type $T = i8;
                $body
            }
            $crate::dtype::DType::F8e4m3 => {
                type $T = $crate::f8::F8E4M3;
                $body
            }
            $crate::dtype::DType::F16 => {
                type $T = half::f16;
                $body
            }
            $crate::dtype::DType::Bf16 => {
                type $T = half::bf16;
                $body
            }
            $crate::dtype::DType::F32 => {
                type $T = f32;
                $body
            }
            _ => $other,
        }
    };
}
pub(crate) use with_weight;

/// Why a weight is not, or cannot be, in compressed form.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CompressedError {
    #[error("a compressed weight has a K layout of exactly one sparse segment")]
    Layout,
    #[error("weights of the sparse method are i8, f8e4m3, f16, bf16 or f32, not {0}")]
    DType(DType),
    #[error("the {what} of a compressed weight are {actual:?}, {expected} expected")]
    Shape { what: &'static str, actual: Vec<usize>, expected: String },
    #[error("row {row}, group {group}: the kept positions {first} and {second} are not ascending")]
    Positions { row: usize, group: usize, first: u8, second: u8 },
    #[error("row {row}: a non-zero is kept at lifted position {position}, which reads only padding")]
    Padding { row: usize, position: usize },
    #[error("row {row}: the weight at k = {k} is kept twice")]
    Duplicate { row: usize, k: usize },
    #[error("group {group} of a lifted row has more than two non-zeros")]
    TooDense { group: usize },
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// The two positions in a nibble.
#[inline]
pub(crate) fn decode(nibble: u8) -> (usize, usize) {
    (usize::from(nibble & 3), usize::from(nibble >> 2 & 3))
}

/// Whether both nibbles of a byte hold ascending positions.
const ASCENDING: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = byte & 3 < byte >> 2 & 3 && byte >> 4 & 3 < byte >> 6;
        byte += 1;
    }
    table
};

/// A checked view of a weight in compressed form: its sizes fit its layout and every group's positions are ascending.
#[derive(Clone, Copy, Debug)]
pub struct Compressed<'a> {
    layout: &'a KLayout,
    n: usize,
    lifted: usize,
    values: TensorView<'a>,
    positions: &'a [u8],
}

impl<'a> Compressed<'a> {
    /// Checks values [N, K'/2] and positions u8 [N, K'/8] against a layout of one sparse segment. Reads every position once.
    ///
    /// # Errors
    /// Whatever does not fit; see [`CompressedError`].
    pub fn new(layout: &'a KLayout, values: TensorView<'a>, positions: TensorView<'a>) -> Result<Self, CompressedError> {
        if layout.segments.len() != 1 || layout.is_dense() {
            return Err(CompressedError::Layout);
        }
        with_weight!(values.dtype, T => values.as_slice::<T>().map(|_| ()), else None)
            .ok_or(CompressedError::DType(values.dtype))?;
        let lifted = layout.lifted();
        let wrong = |what, actual: &[usize], expected| Err(CompressedError::Shape { what, actual: actual.to_vec(), expected });
        let n = match *values.shape {
            [n, kept] if kept == lifted / 2 => n,
            _ => return wrong("values", values.shape, format!("[N, {}]", lifted / 2)),
        };
        if positions.shape != [n, lifted / 8] {
            return wrong("positions", positions.shape, format!("[{n}, {}]", lifted / 8));
        }
        let positions = positions.as_slice::<u8>().ok_or(CompressedError::DType(positions.dtype))?;
        let compressed = Compressed { layout, n, lifted, values, positions };
        match positions.iter().position(|&byte| !ASCENDING[usize::from(byte)]) {
            None => Ok(compressed),
            Some(at) => {
                let (row, byte) = (at / (lifted / 8), at % (lifted / 8));
                let high = ASCENDING[usize::from(positions[at] & 0xf | 0x40)];
                let (first, second) = decode(if high { positions[at] >> 4 } else { positions[at] });
                let group = 2 * byte + usize::from(high);
                Err(CompressedError::Positions { row, group, first: first as u8, second: second as u8 })
            }
        }
    }

    /// How K is laid out.
    pub fn layout(&self) -> &'a KLayout {
        self.layout
    }

    /// Rows: output channels.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Lifted extent K'.
    pub fn lifted(&self) -> usize {
        self.lifted
    }

    /// The kept values, [N, K'/2].
    pub fn values(&self) -> TensorView<'a> {
        self.values
    }

    /// The nibbles, [N, K'/8].
    pub fn positions(&self) -> &'a [u8] {
        self.positions
    }

    /// Calls `keep(position, value)` for both kept values of every group of row `n`, in ascending order of position.
    fn for_each_kept<T: Weight, E>(
        &self,
        values: &[T],
        n: usize,
        mut keep: impl FnMut(usize, T) -> Result<(), E>,
    ) -> Result<(), E> {
        let values = &values[n * self.lifted / 2..][..self.lifted / 2];
        let positions = &self.positions[n * self.lifted / 8..][..self.lifted / 8];
        for (group, pair) in values.chunks_exact(2).enumerate() {
            let (i0, i1) = decode(positions[group / 2] >> (4 * (group % 2)));
            keep(GROUP * group + i0, pair[0])?;
            keep(GROUP * group + i1, pair[1])?;
        }
        Ok(())
    }

    /// The dense lifted weight, [N, K'].
    ///
    /// # Errors
    /// A result that does not fit in memory.
    pub fn expand_lifted(&self) -> Result<Tensor, CompressedError> {
        with_weight!(self.values.dtype, T => self.expand_lifted_as::<T>(), else Err(CompressedError::DType(self.values.dtype)))
    }

    fn expand_lifted_as<T: Weight>(&self) -> Result<Tensor, CompressedError> {
        let mut out = Tensor::zeros(T::DTYPE, &[self.n, self.lifted])?;
        let values = self.values.as_slice::<T>().ok_or(CompressedError::DType(self.values.dtype))?;
        let rows = out.as_mut_slice::<T>().ok_or(CompressedError::DType(T::DTYPE))?;
        for (n, row) in rows.chunks_exact_mut(self.lifted.max(1)).enumerate() {
            self.for_each_kept(values, n, |position, value| {
                row[position] = value;
                Ok::<(), CompressedError>(())
            })?;
        }
        Ok(out)
    }

    /// The dense weight before the lift, [N, K]: each kept value put back at its source.
    ///
    /// # Errors
    /// A non-zero kept where the layout reads only padding, or two non-zeros for one source: no decomposition gives those.
    pub fn undo_lift(&self) -> Result<Tensor, CompressedError> {
        with_weight!(self.values.dtype, T => self.undo_lift_as::<T>(), else Err(CompressedError::DType(self.values.dtype)))
    }

    fn undo_lift_as<T: Weight>(&self) -> Result<Tensor, CompressedError> {
        let k = self.layout.k();
        let mut out = Tensor::zeros(T::DTYPE, &[self.n, k])?;
        let values = self.values.as_slice::<T>().ok_or(CompressedError::DType(self.values.dtype))?;
        let rows = out.as_mut_slice::<T>().ok_or(CompressedError::DType(T::DTYPE))?;
        let sources = self.layout.sources();
        for (row, dense) in rows.chunks_exact_mut(k.max(1)).enumerate() {
            self.for_each_kept(values, row, |position, value| {
                if value.is_zero() {
                    return Ok(());
                }
                let k = sources[position].ok_or(CompressedError::Padding { row, position })?;
                if !dense[k].is_zero() {
                    return Err(CompressedError::Duplicate { row, k });
                }
                dense[k] = value;
                Ok(())
            })?;
        }
        Ok(out)
    }
}

/// Compresses one lifted row of K' elements, at most two of each group of four non-zero, into its K'/2 kept values and K'/8 bytes of
/// positions. K' is a multiple of 8.
///
/// # Errors
/// [`CompressedError::TooDense`].
///
/// # Panics
/// When the lengths do not fit each other.
pub fn compress_row<T: Weight>(lifted: &[T], values: &mut [T], positions: &mut [u8]) -> Result<(), CompressedError> {
    assert!(lifted.len() == 2 * values.len() && lifted.len() == 8 * positions.len(), "K', K'/2 and K'/8 elements");
    positions.fill(0);
    for (index, (group, pair)) in lifted.chunks_exact(GROUP).zip(values.chunks_exact_mut(2)).enumerate() {
        let mut kept = group.iter().enumerate().filter(|(_, v)| !v.is_zero());
        let zero = T::zeroed();
        let (first, second) = (kept.next(), kept.next());
        let [(i0, v0), (i1, v1)] = match (first, second, kept.next()) {
            (_, _, Some(_)) => return Err(CompressedError::TooDense { group: index }),
            (Some(a), Some(b), None) => [(a.0, *a.1), (b.0, *b.1)],
            (Some((3, v)), None, None) => [(0, zero), (3, *v)],
            (Some((i, v)), None, None) => [(i, *v), (3, zero)],
            _ => [(0, zero), (1, zero)],
        };
        pair.copy_from_slice(&[v0, v1]);
        positions[index / 2] |= ((i0 | i1 << 2) as u8) << (4 * (index % 2));
    }
    Ok(())
}

/// Compresses a lifted weight [N, K'], K' a multiple of 8, into values [N, K'/2] and positions u8 [N, K'/8].
///
/// # Errors
/// An element type or shape that has no compressed form, or a group with more than two non-zeros.
pub fn compress(lifted: TensorView<'_>) -> Result<(Tensor, Tensor), CompressedError> {
    let (n, k) = match *lifted.shape {
        [n, k] if k % 8 == 0 => (n, k),
        _ => {
            let (actual, expected) = (lifted.shape.to_vec(), "[N, K'] with K' a multiple of 8".to_owned());
            return Err(CompressedError::Shape { what: "lifted rows", actual, expected });
        }
    };
    let mut values = Tensor::zeros(lifted.dtype, &[n, k / 2])?;
    let mut positions = Tensor::zeros(DType::U8, &[n, k / 8])?;
    if k > 0 {
        with_weight!(lifted.dtype, T => {
            let rows = lifted.as_slice::<T>().ok_or(CompressedError::DType(lifted.dtype))?.chunks_exact(k);
            let values = values.as_mut_slice::<T>().into_iter().flat_map(|v| v.chunks_exact_mut(k / 2));
            for ((row, values), positions) in rows.zip(values).zip(positions.bytes_mut().chunks_exact_mut(k / 8)) {
                compress_row(row, values, positions)?;
            }
        }, else return Err(CompressedError::DType(lifted.dtype)));
    }
    Ok((values, positions))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sparse::Pattern;

    fn group(lifted: [i8; 4]) -> Result<([i8; 2], u8), CompressedError> {
        let mut row = [0; 8];
        row[..4].copy_from_slice(&lifted);
        let (mut values, mut positions) = ([0; 4], [0]);
        compress_row(&row, &mut values, &mut positions)?;
        assert_eq!((values[2], values[3], positions[0] >> 4), (0, 0, 0b0100), "the empty group");
        Ok(([values[0], values[1]], positions[0] & 0xf))
    }

    #[test]
    fn groups_are_kept_in_the_hardware_order() {
        let cases = [
            ([0, 0, 0, 0], [0, 0], 0b0100),
            ([5, 0, 0, 0], [5, 0], 0b1100),
            ([0, 5, 0, 0], [5, 0], 0b1101),
            ([0, 0, 5, 0], [5, 0], 0b1110),
            ([0, 0, 0, 5], [0, 5], 0b1100),
            ([0, 6, 0, 5], [6, 5], 0b1101),
            ([7, 6, 0, 0], [7, 6], 0b0100),
            ([0, 0, 6, 5], [6, 5], 0b1110),
        ];
        for (lifted, values, nibble) in cases {
            assert_eq!(group(lifted).unwrap(), (values, nibble), "{lifted:?}");
        }
        assert!(matches!(group([1, 2, 3, 0]), Err(CompressedError::TooDense { group: 0 })));
    }

    /// A weight of one row, K = 6 of pattern 4:6: windows over 0..4 and 2..6, K' = 64.
    fn one_row(values: &[(usize, i8)]) -> (KLayout, Tensor, Tensor) {
        let layout = KLayout::sparse(6, Pattern::from_n(3).unwrap());
        let mut lifted = vec![0i8; layout.lifted()];
        for &(position, value) in values {
            lifted[position] = value;
        }
        let (values, positions) = compress(Tensor::from_slice(&[1, lifted.len()], &lifted).unwrap().view()).unwrap();
        (layout, values, positions)
    }

    #[test]
    fn expands_and_undoes_the_lift() {
        let (layout, values, positions) = one_row(&[(0, 1), (3, -2), (5, 3), (7, 4)]);
        let compressed = Compressed::new(&layout, values.view(), positions.view()).unwrap();
        let lifted = compressed.expand_lifted().unwrap();
        assert_eq!(lifted.as_slice::<i8>().unwrap()[..8], [1, 0, 0, -2, 0, 3, 0, 4]);
        let err = compressed.undo_lift().unwrap_err().to_string();
        assert_eq!(err, "row 0: the weight at k = 3 is kept twice");

        let (layout, values, positions) = one_row(&[(0, 1), (3, -2), (4, 3), (7, 4)]);
        let dense = Compressed::new(&layout, values.view(), positions.view()).unwrap().undo_lift().unwrap();
        assert_eq!(dense.as_slice::<i8>().unwrap(), [1, 0, 3, -2, 0, 4]);
    }

    #[test]
    fn hostile_forms_are_refused() {
        let (layout, values, positions) = one_row(&[(9, 1)]);
        let err = Compressed::new(&layout, values.view(), positions.view()).unwrap().undo_lift().unwrap_err();
        assert!(matches!(err, CompressedError::Padding { row: 0, position: 9 }), "{err}");

        for (byte, nibble, ok) in
            (0..8).flat_map(|b| (0..256).map(move |n| (b, n as u8, (n & 3) < (n >> 2 & 3) && (n >> 4 & 3) < (n >> 6))))
        {
            let mut bad = positions.clone();
            bad.bytes_mut()[byte] = nibble;
            let result = Compressed::new(&layout, values.view(), bad.view());
            assert_eq!(result.is_ok(), ok, "{nibble:#x}");
            if let Err(CompressedError::Positions { row, group, first, second }) = result {
                assert!(row == 0 && group / 2 == byte && first >= second);
            }
        }

        let short = Tensor::zeros(DType::I8, &[1, 31]).unwrap();
        assert!(matches!(Compressed::new(&layout, short.view(), positions.view()), Err(CompressedError::Shape { .. })));
        let rows = Tensor::zeros(DType::U8, &[2, 8]).unwrap();
        assert!(matches!(Compressed::new(&layout, values.view(), rows.view()), Err(CompressedError::Shape { .. })));
        let wide = Tensor::zeros(DType::I32, &[1, 32]).unwrap();
        assert!(matches!(Compressed::new(&layout, wide.view(), positions.view()), Err(CompressedError::DType(DType::I32))));
        let dense = KLayout::dense(6);
        assert!(matches!(Compressed::new(&dense, values.view(), positions.view()), Err(CompressedError::Layout)));
    }

    #[test]
    fn layouts_from_files_are_bounded() {
        let read = |segments: Vec<crate::sparse::Segment>| KLayout::try_from(segments).is_ok();
        let segment = |k| crate::sparse::Segment { k, pattern: None };
        assert!(read(vec![segment(3), segment(4)]));
        assert!(!read(vec![segment(0)]));
        assert!(!read(vec![segment(usize::MAX), segment(2)]));
        assert!(!read(vec![segment(1 << 40)]));
    }
}
