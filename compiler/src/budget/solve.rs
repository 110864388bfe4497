//! One candidate for each group so that losses add up to no more than a budget and costs to the least: the multiple-choice knapsack
//! problem.
//!
//! Solved for all budgets at once by dynamic programming over partial sums that no other beats in both loss and cost (Nemhauser and
//! Ullmann, 1969), which is exact. Where more than [`MOST`] of these are left, the range of losses is cut into as many cells and the
//! cheapest of each cell stays: what is found for a budget then costs no more than the best for that budget less one cell a group.
//!
//! Must not know: what is chosen.

/// Sums that are kept after each group.
pub const MOST: usize = 1 << 14;

/// What a choice costs, and what it loses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Not negative; what is not finite is never taken.
    pub loss: f64,
    /// Likewise.
    pub cost: f64,
}

/// One candidate for each group.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The sum of their losses.
    pub loss: f64,
    /// The sum of their costs.
    pub cost: f64,
    /// Which candidate, by group.
    pub picks: Vec<usize>,
}

/// A sum over the groups so far.
#[derive(Clone, Copy)]
struct Sum {
    loss: f64,
    cost: f64,
    /// The sum over the groups before that it extends.
    before: usize,
    pick: usize,
}

/// What no other solution beats in both loss and cost, by rising loss: the one of least loss, and then those that lose no more than
/// `within`. Of each budget up to `within`, the best is the last that is not above it.
///
/// # Panics
/// A group has no candidate of finite loss and cost.
pub fn front(groups: &[Vec<Candidate>], within: f64, most: usize) -> Vec<Solution> {
    let mut stages: Vec<Vec<Sum>> = vec![vec![Sum { loss: 0.0, cost: 0.0, before: 0, pick: 0 }]];
    for group in groups {
        let before = stages.last().expect("there is one to begin with");
        let mut sums = Vec::with_capacity(before.len() * group.len());
        for (pick, c) in group.iter().enumerate().filter(|(_, c)| c.loss.is_finite() && c.cost.is_finite()) {
            sums.extend(before.iter().enumerate().map(|(at, s)| Sum {
                loss: s.loss + c.loss,
                cost: s.cost + c.cost,
                before: at,
                pick,
            }));
        }
        stages.push(unbeaten(sums, within, most));
    }
    let (last, earlier) = stages.split_last().expect("there is one to begin with");
    let solution = |sum: &Sum| {
        let mut picks = Vec::with_capacity(groups.len());
        let mut at = *sum;
        for stage in earlier.iter().rev() {
            picks.push(at.pick);
            at = stage[at.before];
        }
        picks.reverse();
        Solution { loss: sum.loss, cost: sum.cost, picks }
    };
    last.iter().map(solution).collect()
}

/// The best of a [`front`] for a budget, if it has one.
pub fn best(front: &[Solution], budget: f64) -> Option<&Solution> {
    front.iter().take_while(|s| s.loss <= budget).last()
}

fn unbeaten(mut sums: Vec<Sum>, within: f64, most: usize) -> Vec<Sum> {
    sums.sort_by(|a, b| a.loss.total_cmp(&b.loss).then(a.cost.total_cmp(&b.cost)));
    let mut kept: Vec<Sum> = Vec::new();
    for sum in sums {
        let cheapest = kept.last().map_or(f64::INFINITY, |s| s.cost);
        if sum.cost < cheapest && (kept.is_empty() || sum.loss <= within) {
            kept.push(sum);
        }
    }
    assert!(!kept.is_empty(), "every group has a candidate of finite loss and cost");
    if kept.len() > most {
        let cell = |s: &Sum| (s.loss / within * most as f64) as usize;
        // The one of least loss, and what is last, thus cheapest, in each cell.
        let stays = |i: usize| i == 0 || kept.get(i + 1).is_none_or(|next| cell(next) != cell(&kept[i]));
        kept = (0..kept.len()).filter(|i| stays(*i)).map(|i| kept[i]).collect();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every choice there is.
    fn brute_force(groups: &[Vec<Candidate>], budget: f64) -> Option<f64> {
        let mut sums = vec![(0.0, 0.0)];
        for group in groups {
            sums = sums.iter().flat_map(|(l, c)| group.iter().map(move |g| (l + g.loss, c + g.cost))).collect();
        }
        sums.into_iter().filter(|(loss, _)| *loss <= budget).map(|(_, cost)| cost).min_by(f64::total_cmp)
    }

    /// Numbers whose sums are exact.
    fn groups() -> impl Strategy<Value = Vec<Vec<Candidate>>> {
        let number = || (0u32..64).prop_map(|n| f64::from(n) / 8.0);
        let candidate = (number(), number()).prop_map(|(loss, cost)| Candidate { loss, cost });
        prop::collection::vec(prop::collection::vec(candidate, 1..5), 1..6)
    }

    proptest! {
        #[test]
        fn as_good_as_every_choice_tried(groups in groups(), budget in (0u32..240).prop_map(|n| f64::from(n) / 8.0)) {
            let front = front(&groups, 30.0, MOST);
            let found = best(&front, budget);
            prop_assert_eq!(found.map(|s| s.cost), brute_force(&groups, budget));
            for s in &front {
                let picked = || groups.iter().zip(&s.picks).map(|(group, pick)| group[*pick]);
                prop_assert_eq!(picked().map(|c| c.loss).sum::<f64>(), s.loss);
                prop_assert_eq!(picked().map(|c| c.cost).sum::<f64>(), s.cost);
            }
            prop_assert!(front.windows(2).all(|w| w[0].loss < w[1].loss && w[0].cost > w[1].cost));
        }

        #[test]
        fn thinned_out_it_is_off_by_a_cell_a_group(groups in groups(), budget in (0u32..240).prop_map(|n| f64::from(n) / 8.0)) {
            let (within, most) = (30.0, 12);
            let front = front(&groups, within, most);
            let tighter = budget - groups.len() as f64 * within / most as f64;
            if let Some(least) = brute_force(&groups, tighter) {
                let found = best(&front, budget).map(|s| (s.loss <= budget, s.cost <= least));
                prop_assert_eq!(found, Some((true, true)));
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_never_taken_and_the_least_loss_always_there() {
        let c = |loss, cost| Candidate { loss, cost };
        let groups = [vec![c(f64::NAN, 0.0), c(5.0, 3.0), c(f64::INFINITY, 0.0), c(6.0, 2.0)]];
        let front = front(&groups, 1.0, MOST);
        assert_eq!(front, [Solution { loss: 5.0, cost: 3.0, picks: vec![1] }]);
        assert_eq!(best(&front, 1.0), None);
    }
}
