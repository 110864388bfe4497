//! An order of an axis.

use bytes::Bytes;

use crate::ir::Constant;

/// An order of K: position p of the new axis is channel `order()[p]` of the old one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Permutation {
    order: Vec<usize>,
}

impl Permutation {
    /// An order; `None` when it does not name each channel below its length once.
    pub fn new(order: Vec<usize>) -> Option<Permutation> {
        let mut seen = vec![false; order.len()];
        let fits = order.iter().all(|&channel| seen.get_mut(channel).is_some_and(|seen| !std::mem::replace(seen, true)));
        fits.then_some(Permutation { order })
    }

    /// The same blocks of 2N in a form of its own: channels ascending within blocks and, unless positions are `bound` to their classes,
    /// blocks by their first channels; a last block that is not whole stays last.
    pub(super) fn canonical(mut order: Vec<usize>, block: usize, bound: bool) -> Permutation {
        if !bound {
            let whole = order.len() / block * block;
            order.chunks_mut(block).for_each(<[usize]>::sort_unstable);
            let mut blocks: Vec<Vec<usize>> = order[..whole].chunks(block).map(<[usize]>::to_vec).collect();
            blocks.sort_unstable();
            let rest = order.split_off(whole);
            order = blocks.into_iter().flatten().chain(rest).collect();
        }
        Permutation::new(order).expect("exchanges keep every channel")
    }

    /// The channels in their order.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Whether nothing moves.
    pub fn is_identity(&self) -> bool {
        self.order.iter().copied().eq(0..self.order.len())
    }

    /// The order that undoes this one.
    pub fn inverse(&self) -> Permutation {
        let mut order = vec![0; self.order.len()];
        self.order.iter().enumerate().for_each(|(position, &channel)| order[channel] = position);
        Permutation { order }
    }

    /// A constant with one axis in this order, from a position on.
    ///
    /// # Panics
    /// When the constant has no such axis, or it ends before the order does.
    pub fn apply(&self, constant: &Constant, axis: usize, start: usize) -> Constant {
        let slice = constant.shape[axis + 1..].iter().product::<usize>() * constant.dtype.size();
        let places = start..start + self.order.len();
        assert!(places.end <= constant.shape[axis], "the axis has a place for every channel");
        let mut data = constant.data.to_vec();
        if !data.is_empty() {
            for (from, to) in
                constant.data.chunks(slice * constant.shape[axis]).zip(data.chunks_mut(slice * constant.shape[axis]))
            {
                for (place, channel) in places.clone().zip(&self.order) {
                    to[place * slice..(place + 1) * slice].copy_from_slice(&from[(start + channel) * slice..][..slice]);
                }
            }
        }
        Constant { data: Bytes::from(data), ..constant.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sliderun::dtype::DType;

    #[test]
    fn only_orders_of_all_channels_are_permutations() {
        for (order, fits) in [(vec![], true), (vec![2, 0, 1], true), (vec![0, 0, 1], false), (vec![0, 3, 1], false)] {
            assert_eq!(Permutation::new(order.clone()).is_some(), fits, "{order:?}");
        }
    }

    #[test]
    fn any_axis_is_put_in_order_and_back() {
        let constant = Constant { dtype: DType::I16, shape: vec![2, 3, 2], data: Bytes::from_iter(0..24) };
        let order = Permutation::new(vec![2, 0, 1]).unwrap();
        let turned = order.apply(&constant, 1, 0);
        assert_eq!(turned.data[..], [8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 16, 17, 18, 19]);
        assert_eq!(order.inverse().apply(&turned, 1, 0), constant);
        assert_eq!(Permutation::new(vec![1, 0]).unwrap().apply(&constant, 2, 0).data[..8], [2, 3, 0, 1, 6, 7, 4, 5]);
        assert_eq!(
            Permutation::new(vec![1, 0]).unwrap().apply(&constant, 1, 1).data[..12],
            [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7]
        );
    }

    #[test]
    fn the_canonical_form_keeps_blocks() {
        assert_eq!(Permutation::canonical(vec![6, 2, 4, 0, 5, 1, 3], 3, false).order(), [0, 1, 5, 2, 4, 6, 3]);
        assert_eq!(Permutation::canonical(vec![1, 0, 2], 3, true).order(), [1, 0, 2]);
    }
}
