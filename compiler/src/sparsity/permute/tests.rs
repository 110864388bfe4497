use super::*;
use crate::sparsity::Weight;
use crate::sparsity::prune::magnitude;

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap()
}

fn random(n: usize, k: usize, seed: u64) -> Weight {
    let mut random = SplitMix64(seed);
    let mut value = || (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
    // Channels of different size, as models have them.
    let sizes: Vec<f32> = (0..k).map(|_| value().powi(3)).collect();
    Weight { n, k, values: (0..n * k).map(|i| value() * sizes[i % k]).collect() }
}

fn scores(weight: &Weight) -> Scores {
    Scores::squares(&[weight], None)
}

/// The weight with K in an order.
fn in_order(weight: &Weight, order: &[usize]) -> Weight {
    let values = weight.values.chunks(weight.k).flat_map(|row| order.iter().map(|k| row[*k])).collect();
    Weight { values, ..weight.clone() }
}

/// Share of the squares that magnitude pruning keeps.
fn kept(weight: &Weight, pattern: Pattern) -> f64 {
    let squares = |weight: &Weight| weight.values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    let mut pruned = weight.clone();
    magnitude::prune(&mut pruned, pattern);
    squares(&pruned) / squares(weight)
}

#[test]
fn what_is_found_is_what_pruning_then_keeps() {
    for (p, n, k) in
        [("2:4", 9, 24), ("4:6", 20, 36), ("6:8", 7, 37), ("2:4", 5, 6), ("4:6", 5, 11), ("14:16", 3, 15), ("2:4", 3, 3)]
    {
        let (p, weight) = (pattern(p), random(n, k, 3 + k as u64));
        let found = search(&scores(&weight), p, &[]);
        let permuted = in_order(&weight, found.permutation.order());
        assert!((found.before - kept(&weight, p)).abs() < 1e-6, "{p} {n}×{k}: {found:?}");
        assert!((found.after - kept(&permuted, p)).abs() < 1e-6, "{p} {n}×{k}: {found:?}");
        assert!(found.after >= found.before);
        if k > 2 * p.block() {
            assert!(1.0 - found.after < 0.97 * (1.0 - found.before), "{p} {n}×{k}: {found:?}");
        }
    }
}

/// Channels that matter and channels that do not, the former all side by side: what is kept depends on who shares a block with whom.
#[test]
fn constructed_optima_are_found() {
    for (p, blocks) in [("2:4", 5), ("4:6", 7), ("6:8", 40)] {
        let p = pattern(p);
        let k = p.block() * blocks;
        // 2N-2 of 2N channels are large, and together they fill every block.
        let values = (0..2 * k).map(|i| if i % k < p.kept() * blocks { 10.0 } else { 1.0 }).collect();
        let weight = Weight { n: 2, k, values };
        let found = search(&scores(&weight), p, &[]);
        let large = 100.0 * p.kept() as f64;
        assert!((found.after - large / (large + 2.0)).abs() < 1e-6, "{p}: {found:?}");
        assert!(found.before < found.after - 1e-3, "{p}: {found:?}");
    }
}

#[test]
fn nothing_to_gain_is_the_identity() {
    let equal = Weight { n: 4, k: 16, values: vec![1.0; 64] };
    let zeros = Weight { n: 4, k: 16, values: vec![0.0; 64] };
    for weight in [equal, zeros, random(4, 4, 1), random(1, 1, 1)] {
        let found = search(&scores(&weight), pattern("2:4"), &[]);
        assert!(found.permutation.is_identity() && found.before == found.after, "{found:?}");
    }
}

/// The least loss of any partition of K into blocks: the block of the first channel that is left, and the best of the rest.
fn least(scores: &Scores, pattern: Pattern, left: &[usize], chosen: &mut Vec<usize>) -> f64 {
    let Some((first, others)) = left.split_first() else { return scores.loss(pattern, chosen) };
    let of_block = pattern.block() - 1;
    let mut best = f64::INFINITY;
    for mask in (0u32..1 << others.len()).filter(|m| m.count_ones() as usize == of_block) {
        let is_in = |i: &usize| mask >> i & 1 == 1;
        let (block, rest): (Vec<usize>, Vec<usize>) = (0..others.len()).partition(is_in);
        let length = chosen.len();
        chosen.push(*first);
        chosen.extend(block.into_iter().map(|i| others[i]));
        let rest: Vec<usize> = rest.into_iter().map(|i| others[i]).collect();
        best = best.min(least(scores, pattern, &rest, chosen));
        chosen.truncate(length);
    }
    best
}

#[test]
fn small_searches_find_the_best_of_all_orders() {
    for (p, k, n) in [("2:4", 8, 3), ("2:4", 12, 5), ("4:6", 12, 4), ("6:8", 16, 6)] {
        for seed in 0..3 {
            let (p, weight) = (pattern(p), random(n, k, seed));
            let scores = scores(&weight);
            let found = search(&scores, p, &[]);
            let best = least(&scores, p, &(0..k).collect::<Vec<_>>(), &mut Vec::new());
            let loss = scores.loss(p, found.permutation.order());
            assert!((loss - best).abs() <= 1e-6 * best, "{p} of {n}×{k}, seed {seed}: {loss} {best}");
        }
    }
}

#[test]
fn channels_stay_in_their_class() {
    for (p, heads, depth) in [("2:4", 3, 8), ("4:6", 4, 32)] {
        let (p, k) = (pattern(p), heads * depth);
        let weight = random(16, k, 5);
        let classes: Vec<usize> = (0..k).map(|c| c / depth).collect();
        let found = search(&scores(&weight), p, &classes);
        assert!(found.permutation.order().iter().enumerate().all(|(at, channel)| at / depth == channel / depth));
        assert!((found.after - kept(&in_order(&weight, found.permutation.order()), p)).abs() < 1e-6);
        let free = search(&scores(&weight), p, &[]);
        assert!(found.before < found.after && found.after < free.after, "{found:?} {free:?}");
    }
}

#[test]
fn scores_of_several_weights_and_of_activations() {
    let (a, b) = (Weight { n: 1, k: 2, values: vec![1.0, -2.0] }, Weight { n: 2, k: 2, values: vec![0.0, 4.0, 3.0, 2.0] });
    let scores = Scores::squares(&[&a, &b], Some(&[4.0, 1.0]));
    // By channel: 4·(1, 0, 3) and (2, 4, 2), of which the largest is 12.
    let expected = [16.0, 0.0, 144.0, 4.0, 16.0, 4.0].map(|v| v / 144.0);
    let close = |(a, b): (&f32, &f64)| (f64::from(*a) - b).abs() < 1e-7;
    assert!((0..2).all(|k| scores.channel(k).iter().zip(&expected[3 * k..]).all(close)), "{scores:?}");
}
