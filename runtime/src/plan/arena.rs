//! Where buffers lie in the arena: one deterministic planner, run for each shape.
//!
//! Greedy by size: the largest buffer first, each into the smallest gap between the buffers that live at the same time. Where that takes
//! more than what lives at once, the buffer that sticks out at the end goes to the front of the order, some dozens of times.

use crate::tensor::ALIGN;

/// A buffer to place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Size.
    pub bytes: usize,
    /// The step that writes it.
    pub first: usize,
    /// The last step that reads it (or `first`).
    pub last: usize,
}

impl Lifetime {
    fn meets(&self, other: &Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Where buffers lie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Offset of each buffer in bytes, a multiple of [`ALIGN`].
    pub offsets: Vec<usize>,
    /// Size of the arena in bytes.
    pub total: usize,
    /// The most bytes, alignment included, that live at one step: no layout can need less.
    pub lower_bound: usize,
}

/// Work, in pairs of buffers, that looking for a smaller arena may take beside the first placement.
const SEARCH: usize = 1 << 20;
/// Most placements that are tried.
const MOST_TRIES: usize = 64;

/// Places buffers so that no two that live at the same step overlap; `None` when the sizes overflow.
pub fn plan(buffers: &[Lifetime]) -> Option<Layout> {
    let sizes = buffers.iter().map(|b| b.bytes.checked_next_multiple_of(ALIGN)).collect::<Option<Vec<_>>>()?;
    let lower_bound = lower_bound(buffers, &sizes)?;
    let mut order = largest_first(&sizes);
    let mut placed = place(buffers, &sizes, &order)?;
    let mut best = (placed.total, placed.offsets);
    let tries = (SEARCH / order.len().pow(2).max(1)).min(MOST_TRIES);
    for _ in 0..tries {
        if best.0 == lower_bound {
            break;
        }
        // What sticks out at the end found no place below: it chooses first the next time.
        let Some(at) = order.iter().position(|i| Some(*i) == placed.highest) else { break };
        order[..=at].rotate_right(1);
        placed = place(buffers, &sizes, &order)?;
        if placed.total < best.0 {
            best = (placed.total, placed.offsets);
        }
    }
    Some(Layout { offsets: best.1, total: best.0, lower_bound })
}

/// The buffers that have a size, the largest first.
fn largest_first(sizes: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..sizes.len()).filter(|&i| sizes[i] > 0).collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(sizes[i]), i));
    order
}

/// Where buffers lie by one order.
struct Placed {
    offsets: Vec<usize>,
    total: usize,
    /// The buffer that ends last.
    highest: Option<usize>,
}

/// Each buffer, in this order, in the smallest gap that has room for it.
fn place(buffers: &[Lifetime], sizes: &[usize], order: &[usize]) -> Option<Placed> {
    let mut offsets = vec![0; buffers.len()];
    let (mut total, mut highest) = (0usize, None);
    // Placed buffers as (offset, end, index), sorted.
    let mut placed: Vec<(usize, usize, usize)> = Vec::with_capacity(order.len());
    for &i in order {
        let mut best: Option<(usize, usize)> = None;
        let mut end_so_far = 0;
        for &(offset, end, other) in &placed {
            if !buffers[i].meets(&buffers[other]) {
                continue;
            }
            let gap = offset.saturating_sub(end_so_far);
            if gap >= sizes[i] && best.is_none_or(|(smallest, _)| gap < smallest) {
                best = Some((gap, end_so_far));
            }
            end_so_far = end_so_far.max(end);
        }
        let offset = best.map_or(end_so_far, |(_, at)| at);
        let end = offset.checked_add(sizes[i])?;
        offsets[i] = offset;
        if end > total {
            (total, highest) = (end, Some(i));
        }
        let entry = (offset, end, i);
        let at = placed.partition_point(|p| *p < entry);
        placed.insert(at, entry);
    }
    Some(Placed { offsets, total, highest })
}

fn lower_bound(buffers: &[Lifetime], sizes: &[usize]) -> Option<usize> {
    // (step, is a birth, bytes): deaths of the step before sort before births.
    let mut events: Vec<(usize, bool, usize)> = Vec::with_capacity(2 * buffers.len());
    for (b, &size) in buffers.iter().zip(sizes) {
        events.push((b.first, true, size));
        events.push((b.last.checked_add(1)?, false, size));
    }
    events.sort_unstable();
    let (mut live, mut most) = (0usize, 0);
    for (_, birth, size) in events {
        live = if birth { live.checked_add(size)? } else { live - size };
        most = most.max(live);
    }
    Some(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn disjoint_lifetimes_share_memory() {
        let chain: Vec<_> = (0..6).map(|i| Lifetime { bytes: 1000, first: i, last: i + 1 }).collect();
        let layout = plan(&chain).unwrap();
        assert_eq!((layout.total, layout.lower_bound), (2048, 2048));
        assert_eq!(layout.offsets, [0, 1024, 0, 1024, 0, 1024]);
    }

    #[test]
    fn empty_buffers_and_overflow() {
        assert_eq!(plan(&[]).unwrap(), Layout::default());
        assert_eq!(plan(&[Lifetime { bytes: 0, first: 0, last: 9 }]).unwrap().total, 0);
        let huge = Lifetime { bytes: usize::MAX / 2 + 1, first: 0, last: 0 };
        assert_eq!(plan(&[huge, huge]), None);
        assert_eq!(plan(&[Lifetime { bytes: usize::MAX, first: 0, last: 0 }]), None);
    }

    #[test]
    fn a_second_order_finds_what_the_first_does_not() {
        let spec = [(9, 3, 3), (8, 1, 4), (7, 5, 6), (6, 4, 6)];
        let buffers: Vec<_> = spec.iter().map(|&(kib, first, last)| Lifetime { bytes: kib << 10, first, last }).collect();
        let sizes: Vec<usize> = buffers.iter().map(|b| b.bytes).collect();
        let greedy = place(&buffers, &sizes, &largest_first(&sizes)).unwrap();
        let layout = plan(&buffers).unwrap();
        assert_eq!((greedy.total, layout.total, layout.lower_bound), (23 << 10, 17 << 10, 17 << 10));
    }

    proptest! {
        #[test]
        fn live_buffers_never_overlap(spec in prop::collection::vec((0usize..5000, 0usize..20, 0usize..6), 0..40)) {
            let buffers: Vec<_> = spec.iter().map(|&(bytes, first, n)| Lifetime { bytes, first, last: first + n }).collect();
            let layout = plan(&buffers).unwrap();
            prop_assert_eq!(&layout, &plan(&buffers).unwrap());
            for (i, a) in buffers.iter().enumerate() {
                prop_assert!(layout.offsets[i].is_multiple_of(ALIGN) && layout.offsets[i] + a.bytes <= layout.total);
                for (j, b) in buffers.iter().enumerate().skip(i + 1) {
                    let (x, y) = (layout.offsets[i], layout.offsets[j]);
                    prop_assert!(!a.meets(b) || x + a.bytes <= y || y + b.bytes <= x, "{i} and {j}");
                }
            }
            let live = (0..30).map(|s| buffers.iter().filter(|b| b.first <= s && s <= b.last).map(|b| b.bytes.next_multiple_of(ALIGN)).sum());
            prop_assert_eq!(layout.lower_bound, live.max().unwrap_or(0));
            prop_assert!(layout.total >= layout.lower_bound);
        }
    }
}
