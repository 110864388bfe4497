//! What second-order pruning knows of a product's inputs: H = XᵀX over all rows of the calibration, and the inverse of its Cholesky factor.
//!
//! One K×K matrix of f64 is all the memory there is: rows are added to its lower triangle, the factor takes its place, and the factor's
//! inverse that of the factor.
//!
//! Must not know: weights, patterns.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::cholesky::llt::factor::{LltRegularization, cholesky_in_place, cholesky_in_place_scratch};
use faer::linalg::matmul::triangular::{BlockStructure, matmul};
use faer::linalg::triangular_solve::{solve_lower_triangular_in_place, solve_upper_triangular_in_place};
use faer::prelude::{Reborrow, ReborrowMut};
use faer::{Accum, MatMut, MatRef, Par, Spec};

/// Rows that are added at once.
const ROWS: usize = 256;
/// What the diagonal is to be raised by, as a share of its mean: first as in the paper; the others in turn, where that is not enough.
pub const DAMPING: [f64; 4] = [0.01, 0.1, 1.0, 10.0];
/// Triangles up to this size are inverted by simple loops.
const SMALL: usize = 32;

/// Why there is no factor.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[allow(missing_docs)]
pub enum HessianError {
    #[error("its inputs are all zero on the calibration data")]
    Zero,
    #[error("the Hessian of its {0} inputs is singular, also with its diagonal raised by {1} times its mean")]
    Singular(usize, f64),
    #[error("the Hessian of its {0} inputs does not fit in memory ({1} bytes)")]
    Memory(usize, usize),
}

/// H as far as rows have been added.
pub struct Hessian {
    /// Column-major [K, K], the lower triangle.
    values: Vec<f64>,
    width: usize,
    /// Rows that wait to be added, row-major.
    waiting: Vec<f64>,
}

impl Hessian {
    /// That of no rows of `width` elements.
    ///
    /// # Errors
    /// [`HessianError::Memory`].
    pub fn new(width: usize) -> Result<Self, HessianError> {
        let bytes = width.saturating_mul(width).saturating_mul(size_of::<f64>());
        let mut values = Vec::new();
        values.try_reserve_exact(width.saturating_mul(width)).map_err(|_| HessianError::Memory(width, bytes))?;
        values.resize(width * width, 0.0);
        Ok(Hessian { values, width, waiting: Vec::new() })
    }

    /// Adds rows, row-major [tokens, K].
    pub fn add(&mut self, rows: &[f32]) {
        for rows in rows.chunks(ROWS * self.width) {
            self.waiting.extend(rows.iter().map(|v| f64::from(*v)));
            if self.waiting.len() >= ROWS * self.width {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let (k, count) = (self.width, self.waiting.len() / self.width);
        let rows = MatRef::from_row_major_slice(&self.waiting, count, k);
        let h = MatMut::from_column_major_slice_mut(&mut self.values, k, k);
        let (lower, full) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
        matmul(h, lower, Accum::Add, rows.transpose(), full, rows, full, 1.0, Par::rayon(0));
        self.waiting.clear();
    }

    /// The inverse of the Cholesky factor of H with its diagonal raised by `damping` times its mean.
    ///
    /// # Errors
    /// Inputs that were all zero, and a matrix that is not positive definite, by rounding, even so.
    pub fn factor(mut self, damping: f64) -> Result<Factor, HessianError> {
        self.flush();
        let k = self.width;
        let (sum, dead) =
            self.values.iter().step_by(k + 1).fold((0.0, 0), |(sum, dead), d| (sum + *d, dead + usize::from(*d == 0.0)));
        if sum <= 0.0 {
            return Err(HessianError::Zero);
        }
        self.values.iter_mut().step_by(k + 1).for_each(|d| *d += damping * sum / k as f64);
        let mut scratch = MemBuffer::new(cholesky_in_place_scratch::<f64>(k, Par::rayon(0), Spec::default()));
        let mut h = MatMut::from_column_major_slice_mut(&mut self.values, k, k);
        let (none, stack) = (LltRegularization::default(), MemStack::new(&mut scratch));
        cholesky_in_place(h.rb_mut(), none, Par::rayon(0), stack, Spec::default())
            .map_err(|_| HessianError::Singular(k, damping))?;
        invert(h);
        Ok(Factor { values: self.values, width: k, damping, dead })
    }
}

/// L⁻¹ of the damped H = L·Lᵀ.
pub struct Factor {
    values: Vec<f64>,
    width: usize,
    /// What the diagonal of H was raised by, as a share of its mean.
    pub damping: f64,
    /// Inputs that were zero in all rows.
    pub dead: usize,
}

impl Factor {
    /// K.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether H had to be damped more than usual.
    pub fn is_hard(&self) -> bool {
        self.damping > DAMPING[0]
    }

    /// L⁻¹ in the lower triangle. What is above it means nothing.
    pub fn inverse(&self) -> MatRef<'_, f64> {
        MatRef::from_column_major_slice(&self.values, self.width, self.width)
    }
}

/// Puts the inverse of a lower triangular matrix in its place: [A 0; B C]⁻¹ = [A⁻¹ 0; -C⁻¹·B·A⁻¹ C⁻¹], B first.
fn invert(l: MatMut<'_, f64>) {
    let k = l.nrows();
    if k <= SMALL {
        return invert_small(l);
    }
    let half = k / 2;
    let (a, _, mut b, c) = l.split_at_mut(half, half);
    solve_lower_triangular_in_place(c.rb(), b.rb_mut(), Par::rayon(0));
    solve_upper_triangular_in_place(a.rb().transpose(), b.rb_mut().transpose_mut(), Par::rayon(0));
    for column in 0..half {
        b.rb_mut().col_mut(column).iter_mut().for_each(|v| *v = -*v);
    }
    invert(a);
    invert(c);
}

/// Column by column: x[j, j] = 1 / l[j, j], x[i, j] = -Σ l[i, m]·x[m, j] / l[i, i] over j ≤ m < i. Columns behind are still those of l.
fn invert_small(mut l: MatMut<'_, f64>) {
    let k = l.nrows();
    // From the last: a column's inverse needs the diagonal and columns of l at and behind it, whose inverse takes their place; so a
    // column of l is multiplied by the inverse of what is behind it.
    for j in (0..k).rev() {
        let pivot = 1.0 / l[(j, j)];
        // x[j+1.., j] = -inverse(l[j+1.., j+1..]) · l[j+1.., j] · pivot, where that inverse is there already; from the last row, since
        // each needs those above it as they were.
        for i in (j + 1..k).rev() {
            let sum: f64 = (j + 1..=i).map(|m| l[(i, m)] * l[(m, j)]).sum();
            l[(i, j)] = -sum * pivot;
        }
        l[(j, j)] = pivot;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A symmetric matrix as it is after rows were added.
    fn hessian(k: usize, at: impl Fn(usize, usize) -> f64) -> Hessian {
        let values = (0..k * k).map(|i| if i % k >= i / k { at(i % k, i / k) } else { f64::NAN }).collect();
        Hessian { values, width: k, waiting: Vec::new() }
    }

    /// The largest element of (L⁻¹)ᵀ·L⁻¹·A - 1.
    fn residual(factor: &Factor, a: impl Fn(usize, usize) -> f64) -> f64 {
        let (k, l) = (factor.width(), factor.inverse());
        let inverse = |i: usize, j: usize| (i.max(j)..k).map(|m| l[(m, i)] * l[(m, j)]).sum::<f64>();
        let inverse: Vec<f64> = (0..k * k).map(|i| inverse(i / k, i % k)).collect();
        let product = |i: usize, j: usize| (0..k).map(|m| inverse[i * k + m] * a(m, j)).sum::<f64>();
        let error = |i: usize| (product(i / k, i % k) - f64::from(u8::from(i / k == i % k))).abs();
        (0..k * k).map(error).fold(0.0, f64::max)
    }

    #[test]
    fn rows_add_up() {
        let rows: Vec<f32> = (0..700 * 3).map(|i| ((i * i) % 11) as f32).collect();
        let mut h = Hessian::new(3).unwrap();
        rows.chunks(3 * 90).for_each(|r| h.add(r));
        h.flush();
        for (i, j) in [(0, 0), (1, 0), (2, 0), (1, 1), (2, 1), (2, 2)] {
            let expected: f32 = rows.chunks(3).map(|r| r[i] * r[j]).sum();
            assert_eq!(h.values[j * 3 + i], f64::from(expected));
        }
    }

    #[test]
    fn factors_are_inverted_in_place() {
        for k in [1, 5, 33, 100] {
            // Hilbert-like: close to singular before it is damped.
            let at = |i: usize, j: usize| 1.0 / (1 + i + j) as f64;
            let mean = (0..k).map(|i| at(i, i)).sum::<f64>() / k as f64;
            let factor = hessian(k, at).factor(0.01).unwrap();
            let damped = |i, j| at(i, j) + if i == j { 0.01 * mean } else { 0.0 };
            assert!(residual(&factor, damped) < 1e-11, "K = {k}");
        }
    }

    #[test]
    fn what_is_not_positive_definite_is_told() {
        for k in [2, 150] {
            // Pairs of inputs with a correlation of 2: no data has it, rounding could.
            let at = |i: usize, j: usize| if i == j { 1.0 } else { f64::from(u8::from(i / 2 == j / 2)) * 2.0 };
            assert_eq!(hessian(k, at).factor(0.1).err(), Some(HessianError::Singular(k, 0.1)));
            let factor = hessian(k, at).factor(10.0).unwrap();
            assert!(factor.is_hard() && residual(&factor, |i, j| at(i, j) + if i == j { 10.0 } else { 0.0 }) < 1e-12);
        }
        let mut zero = Hessian::new(4).unwrap();
        zero.add(&[0.0; 40]);
        assert_eq!(zero.factor(0.01).err(), Some(HessianError::Zero));
    }

    #[test]
    fn dead_inputs_are_counted() {
        let mut h = Hessian::new(3).unwrap();
        h.add(&[1.0, 0.0, 2.0, 3.0, 0.0, 1.0]);
        let factor = h.factor(0.01).unwrap();
        assert_eq!((factor.dead, factor.damping), (1, 0.01));
    }
}
