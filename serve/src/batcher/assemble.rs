//! Tensors of several requests as one, and back: rows behind each other, other axes filled up to common extents.

use sliderun::tensor::{Tensor, TensorError};

/// One tensor of `shape` that holds the rows of all `parts` behind each other, each part in the corner of its rows. What no part reaches is
/// `pad`, one element's bytes; rows behind the last part's are copies of the last row, so that they are as valid as that one.
///
/// Each part has the element type of the first and extents that are, apart from the first, no larger than `shape`'s.
///
/// # Errors
/// Shapes that do not fit in memory.
pub fn join(parts: &[&Tensor], shape: &[usize], pad: Option<&[u8]>) -> Result<Tensor, TensorError> {
    let Some(first) = parts.first() else { return Tensor::zeros(sliderun::dtype::DType::U8, &[0]) };
    if let [one] = parts
        && one.shape() == shape
    {
        return Ok((*one).clone());
    }
    let mut joined = Tensor::zeros(first.dtype(), shape)?;
    let size = first.dtype().size();
    let reaches = |part: &&Tensor| part.shape().get(1..) == shape.get(1..);
    if let Some(pad) = pad
        && !parts.iter().all(reaches)
        && pad.iter().any(|b| *b != 0)
    {
        joined.bytes_mut().chunks_exact_mut(size).for_each(|element| element.copy_from_slice(pad));
    }
    let row = row_bytes(shape, size);
    let mut at = 0;
    for part in parts {
        copy_corner(part.bytes(), part.shape(), &mut joined.bytes_mut()[at..], shape, part.shape(), size);
        at += part.shape().first().map_or(1, |rows| *rows) * row;
    }
    let bytes = joined.bytes_mut();
    while row > 0 && at >= row && at < bytes.len() {
        bytes.copy_within(at - row..at, at);
        at += row;
    }
    Ok(joined)
}

/// What belongs to a request whose first row is `row`: the corner of that `shape`.
///
/// # Errors
/// Shapes that do not fit in memory.
pub fn cut(joined: &Tensor, row: usize, shape: &[usize]) -> Result<Tensor, TensorError> {
    let size = joined.dtype().size();
    let mut part = Tensor::zeros(joined.dtype(), shape)?;
    let from = row * row_bytes(joined.shape(), size);
    copy_corner(&joined.bytes()[from..], joined.shape(), part.bytes_mut(), shape, shape, size);
    Ok(part)
}

/// Bytes of a step along the first axis.
fn row_bytes(shape: &[usize], size: usize) -> usize {
    shape.iter().skip(1).product::<usize>() * size
}

/// Copies the elements with coordinates below `extents` from one row-major tensor to another. The first extents of the shapes do not matter.
fn copy_corner(from: &[u8], from_shape: &[usize], to: &mut [u8], to_shape: &[usize], extents: &[usize], size: usize) {
    if extents.contains(&0) {
        return;
    }
    // Axes that are whole on both sides are one run of bytes with the axis before them.
    let whole = |axis: usize| from_shape[axis] == extents[axis] && to_shape[axis] == extents[axis];
    let mut axis = extents.len();
    while axis > 1 && whole(axis - 1) {
        axis -= 1;
    }
    let outer = &extents[..axis.saturating_sub(1)];
    let strides =
        |shape: &[usize]| -> Vec<usize> { (0..outer.len()).map(|i| shape[i + 1..].iter().product::<usize>() * size).collect() };
    let (from_strides, to_strides) = (strides(from_shape), strides(to_shape));
    let run = extents[outer.len()..].iter().product::<usize>() * size;
    let mut index = vec![0; outer.len()];
    loop {
        let offset = |strides: &[usize]| index.iter().zip(strides).map(|(i, s)| i * s).sum::<usize>();
        let (source, target) = (offset(&from_strides), offset(&to_strides));
        to[target..target + run].copy_from_slice(&from[source..source + run]);
        // The next coordinates; done when the first axis runs over.
        let Some(advance) = (0..outer.len()).rev().find(|&i| index[i] + 1 < outer[i]) else { return };
        index[advance] += 1;
        index[advance + 1..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(shape: &[usize], values: &[i32]) -> Tensor {
        Tensor::from_slice(shape, values).unwrap()
    }

    #[test]
    fn parts_are_padded_behind_each_other() {
        let a = tensor(&[1, 2, 2], &[1, 2, 3, 4]);
        let b = tensor(&[2, 1, 2], &[5, 6, 7, 8]);
        let joined = join(&[&a, &b], &[4, 3, 2], Some(&(-1i32).to_le_bytes())).unwrap();
        let expected = [[1, 2, 3, 4, -1, -1], [5, 6, -1, -1, -1, -1], [7, 8, -1, -1, -1, -1], [7, 8, -1, -1, -1, -1]].concat();
        assert_eq!(joined.as_slice::<i32>(), Some(&expected[..]));
        assert_eq!(cut(&joined, 0, &[1, 2, 2]).unwrap().bytes(), a.bytes());
        assert_eq!(cut(&joined, 1, &[2, 1, 2]).unwrap().bytes(), b.bytes());
    }

    /// Every way to place small parts in a larger tensor, by coordinates.
    #[test]
    fn corners_are_what_coordinates_say() {
        for (b, c, d) in (0..64usize).map(|i| (i / 16, i / 4 % 4, i % 4)) {
            let rows = 2;
            let part = tensor(&[rows, b, c, d], &(0..(rows * b * c * d) as i32).collect::<Vec<_>>());
            let shape = [rows + 1, 3, 3, 3];
            let joined = join(&[&part], &shape, Some(&7i32.to_le_bytes())).unwrap();
            let (given, found) = (part.as_slice::<i32>().unwrap(), joined.as_slice::<i32>().unwrap());
            for (i, element) in found.iter().enumerate() {
                let (row, j, k, l) = (i / 27, i / 9 % 3, i / 3 % 3, i % 3);
                let row = row.min(rows - 1);
                let inside = j < b && k < c && l < d;
                let expected = if inside { given[((row * b + j) * c + k) * d + l] } else { 7 };
                assert_eq!(*element, expected, "{b} {c} {d}: {i}");
            }
            assert_eq!(cut(&joined, 0, part.shape()).unwrap().bytes(), part.bytes());
        }
    }

    #[test]
    fn a_whole_part_is_itself() {
        for shape in [&[][..], &[0], &[2, 3]] {
            let part = Tensor::zeros(sliderun::dtype::DType::F32, shape).unwrap();
            assert_eq!(join(&[&part], shape, None).unwrap().shape(), shape);
            assert_eq!(cut(&part, 0, shape).unwrap().shape(), shape);
        }
    }
}
