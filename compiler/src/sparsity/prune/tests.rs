//! The methods against each other and against what they are by definition.

use super::hessian::Hessian;
use super::wanda::Norms;
use super::*;
use crate::sparsity::satisfied;
use sliderun::splitmix::SplitMix64;

fn random(seed: u64) -> impl FnMut() -> f64 {
    let mut state = SplitMix64(seed);
    move || (state.next() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// `tokens` rows of K inputs that are mixed from a third as many sources and differ in size.
fn inputs(tokens: usize, k: usize, seed: u64) -> Vec<f32> {
    let mut next = random(seed);
    let sources = k.div_ceil(3);
    let mix: Vec<f64> = (0..sources * k).map(|i| next() * (1.0 + (i % k % 7) as f64)).collect();
    let mut rows = Vec::with_capacity(tokens * k);
    for _ in 0..tokens {
        let source: Vec<f64> = (0..sources).map(|_| next()).collect();
        rows.extend((0..k).map(|j| {
            let mixed: f64 = source.iter().enumerate().map(|(s, v)| v * mix[s * k + j]).sum();
            (mixed + 0.3 * next()) as f32
        }));
    }
    rows
}

fn weight(n: usize, k: usize, seed: u64) -> Weight {
    let mut next = random(seed);
    Weight { n, k, values: (0..n * k).map(|_| next() as f32).collect() }
}

fn sparsegpt(weight: &Weight, pattern: Pattern, rows: &[f32]) -> Weight {
    let mut hessian = Hessian::new(weight.k).unwrap();
    rows.chunks(weight.k * 17).for_each(|r| hessian.add(r));
    let mut out = weight.clone();
    super::sparsegpt::prune(&mut out, pattern, &hessian.factor(0.01).unwrap(), &|_| ());
    out
}

/// The inverse of the first `size` rows and columns of a matrix of width `k`, by elimination.
fn inverse(matrix: &[f64], k: usize, size: usize) -> Vec<f64> {
    let wide = 2 * size;
    let at = |i: usize| {
        if i % wide < size { matrix[i / wide * k + i % wide] } else { f64::from(u8::from(i % wide - size == i / wide)) }
    };
    let mut rows: Vec<f64> = (0..size * wide).map(at).collect();
    for p in 0..size {
        let pivot = rows[p * wide + p];
        rows[p * wide..(p + 1) * wide].iter_mut().for_each(|v| *v /= pivot);
        for other in (0..size).filter(|o| *o != p) {
            let factor = rows[other * wide + p];
            (0..wide).for_each(|c| rows[other * wide + c] -= factor * rows[p * wide + c]);
        }
    }
    (0..size * size).map(|i| rows[i / size * wide + size + i % size]).collect()
}

/// Optimal brain surgery by its own formula, from the last column to the first: removing weight m, of those up to m, costs w_m² / [H⁻¹]_mm
/// and moves the others by -w_m / [H⁻¹]_mm · [H⁻¹]_m, with H of the columns up to m alone. Each block takes what costs least in all.
fn by_definition(weight: &Weight, pattern: Pattern, rows: &[f32]) -> Weight {
    let k = weight.k;
    let mut h = vec![0.0; k * k];
    for row in rows.chunks(k) {
        (0..k * k).for_each(|i| h[i] += f64::from(row[i / k]) * f64::from(row[i % k]));
    }
    let mean = (0..k).map(|i| h[i * k + i]).sum::<f64>() / k as f64;
    (0..k).for_each(|i| h[i * k + i] += 0.01 * mean);
    let inverses: Vec<Vec<f64>> = (0..k).map(|m| inverse(&h, k, m + 1)).collect();
    let remove = |row: &mut Vec<f64>, m: usize| {
        let inverse = &inverses[m][m * (m + 1)..];
        let by = row[m] / inverse[m];
        let cost = by * row[m];
        row.iter_mut().zip(inverse).for_each(|(w, i)| *w -= by * i);
        row[m] = 0.0;
        cost
    };
    let mut out = weight.clone();
    for row in out.values.chunks_mut(k) {
        let mut best: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
        for start in (0..k).step_by(pattern.block()).rev() {
            let end = k.min(start + pattern.block());
            let choices: Vec<Vec<usize>> = match (end - start).saturating_sub(pattern.kept()) {
                0 => continue,
                1 => (start..end).map(|m| vec![m]).collect(),
                _ => (start..end).flat_map(|m| (start..m).map(move |l| vec![m, l])).collect(),
            };
            let tried = choices.iter().map(|choice| {
                let mut row = best.clone();
                (choice.iter().map(|m| remove(&mut row, *m)).sum::<f64>(), row)
            });
            best = tried.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap().1;
        }
        row.iter_mut().zip(best).for_each(|(to, from)| *to = from as f32);
    }
    out
}

#[test]
fn sparsegpt_is_optimal_brain_surgery() {
    // K of whole blocks and not, smaller than a block, and larger than the columns that are finished together.
    for (n, k, pattern) in
        [(5, 24, "4:6"), (7, 16, "6:8"), (3, 23, "6:8"), (3, 13, "2:4"), (4, 7, "6:8"), (4, 5, "6:8"), (1, 130, "2:4")]
    {
        let pattern: Pattern = pattern.parse().unwrap();
        let rows = inputs(2 * k, k, 1);
        let weight = weight(n, k, 2);
        let (ours, expected) = (sparsegpt(&weight, pattern, &rows), by_definition(&weight, pattern, &rows));
        assert!(satisfied(&ours).contains(&pattern), "{pattern} of {k}");
        for (i, (a, b)) in ours.values.iter().zip(&expected.values).enumerate() {
            assert!(
                (a - b).abs() <= 1e-5 * (1.0 + b.abs()) && (*a == 0.0) == (*b == 0.0),
                "{pattern} of {k}, element {i}: {a}, not {b}"
            );
        }
        // Nothing has to go from a row that is shorter than what a block may keep.
        assert_eq!(ours == weight, k <= pattern.kept());
    }
}

/// ‖x·(w - v)ᵀ‖ / ‖x·wᵀ‖.
fn output_error(rows: &[f32], weight: &Weight, pruned: &Weight) -> f64 {
    let output = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
    let (mut lost, mut all) = (0.0, 0.0);
    for x in rows.chunks(weight.k) {
        for (w, v) in weight.values.chunks(weight.k).zip(pruned.values.chunks(weight.k)) {
            lost += (output(x, w) - output(x, v)).powi(2);
            all += output(x, w).powi(2);
        }
    }
    (lost / all).sqrt()
}

#[test]
fn what_knows_more_loses_less() {
    let (n, k) = (24, 144);
    let rows = inputs(400, k, 5);
    let weight = weight(n, k, 6);
    for pattern in ["2:4", "4:6", "6:8", "14:16"] {
        let pattern: Pattern = pattern.parse().unwrap();
        let mut norms = Norms::new(k);
        norms.add(&rows);
        let (mut by_magnitude, mut by_wanda) = (weight.clone(), weight.clone());
        magnitude::prune(&mut by_magnitude, pattern);
        wanda::prune(&mut by_wanda, pattern, &norms);
        let compensated = sparsegpt(&weight, pattern, &rows);
        for pruned in [&by_magnitude, &by_wanda, &compensated] {
            assert!(satisfied(pruned).contains(&pattern));
        }
        let [a, b, c] = [&by_magnitude, &by_wanda, &compensated].map(|pruned| output_error(&rows, &weight, pruned));
        assert!(c < 0.7 * b && b < 0.97 * a, "{pattern}: magnitude {a:.4}, Wanda {b:.4}, SparseGPT {c:.4}");
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let (n, k) = (300, 330);
    let (rows, weight) = (inputs(700, k, 8), weight(n, k, 9));
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| sparsegpt(&weight, "6:8".parse().unwrap(), &rows))
    };
    let one = with(1);
    for threads in [2, 5] {
        assert!(one == with(threads), "{threads} threads");
    }
}
