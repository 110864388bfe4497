//! The sparsity patterns, how a K axis is laid out under them, and the portable compressed form of a weight.
//!
//! A weight row is cut into blocks of 2N along K. Window w of a block covers its source positions 2w … 2w+3, w = 0 … N-2; the lifted
//! axis lists the windows one after the other, so that a (2N-2):2N weight becomes a 2:4 one of N-1 windows per block.
//! Lifted position `p = b·4(N-1) + 4w + j` reads source `b·2N + 2w + j`; a source ≥ K reads 0. K' is rounded up to [`LIFT_ALIGN`].
//!
//! Must not know: how a weight is decomposed or pruned (the compiler's business), devices.

pub mod compressed;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// Lifted extents are multiples of this many elements (what sparse GEMM libraries want of K).
pub const LIFT_ALIGN: usize = 64;

/// A row whose largest magnitude is below this quantizes to zeros with scale 1: its own scale would be near or among the
/// denormal numbers, where devices differ and precision is lost.
pub const TINY: f32 = 1e-30;

/// The scale of a row, activation or weight, that is quantized symmetrically: `absmax / limit`, where `limit` is the largest magnitude
/// of the quantized type (127 for int8, 448 for e4m3). `None` below [`TINY`]: the row becomes zeros and its scale is 1.
pub fn symmetric_scale(absmax: f32, limit: f32) -> Option<f32> {
    (absmax >= TINY).then(|| absmax / limit)
}

/// An order of K that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the order of K has {channel} at position {position}; each of 0 to {} must be there once", .k.saturating_sub(1))]
#[allow(missing_docs)]
pub struct InvalidOrder {
    pub position: usize,
    pub channel: i32,
    pub k: usize,
}

/// Checks that an order of K, for each position the channel that stands there, names each channel once.
///
/// # Errors
/// The first position with a channel that does not exist or has been named.
pub fn check_order(order: &[i32]) -> Result<(), InvalidOrder> {
    let mut seen = vec![false; order.len()];
    for (position, &channel) in order.iter().enumerate() {
        let place = usize::try_from(channel).ok().and_then(|channel| seen.get_mut(channel));
        if place.is_none_or(|seen| std::mem::replace(seen, true)) {
            return Err(InvalidOrder { position, channel, k: order.len() });
        }
    }
    Ok(())
}

/// A sparsity pattern: at most 2N-2 non-zeros in every 2N consecutive weights along K, N from 2 to 8. N = 2 is plain 2:4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(u8);

/// A pattern that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a sparsity pattern: one of 2:4, 4:6, 6:8, 8:10, 10:12, 12:14, 14:16 was expected")]
pub struct UnknownPattern(String);

impl Pattern {
    /// Every pattern, sparsest first.
    pub const ALL: [Pattern; 7] = [Pattern(2), Pattern(3), Pattern(4), Pattern(5), Pattern(6), Pattern(7), Pattern(8)];

    /// The pattern (2N-2):2N, for N from 2 to 8.
    pub fn from_n(n: usize) -> Option<Pattern> {
        Pattern::ALL.into_iter().find(|p| p.n() == n)
    }

    /// N.
    pub fn n(self) -> usize {
        self.0.into()
    }

    /// Source positions in a block: 2N.
    pub fn block(self) -> usize {
        2 * self.n()
    }

    /// Non-zeros that a block may have: 2N-2.
    pub fn kept(self) -> usize {
        2 * self.n() - 2
    }

    /// Windows in a block: N-1.
    pub fn windows(self) -> usize {
        self.n() - 1
    }

    /// Lifted positions in a block: 4(N-1).
    pub fn lifted_block(self) -> usize {
        4 * self.windows()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}:{}", self.kept(), self.block()))
    }
}

impl FromStr for Pattern {
    type Err = UnknownPattern;

    fn from_str(s: &str) -> Result<Self, UnknownPattern> {
        Pattern::ALL.into_iter().find(|p| p.to_string() == s).ok_or_else(|| UnknownPattern(s.to_owned()))
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A stretch of K that is dense or of one pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Segment {
    /// Source elements.
    pub k: usize,
    /// The pattern; dense without.
    pub pattern: Option<Pattern>,
}

impl Segment {
    /// Lifted elements before alignment.
    fn lifted(&self) -> usize {
        match self.pattern {
            None => self.k,
            Some(p) => self.k.div_ceil(p.block()) * p.lifted_block(),
        }
    }
}

/// Largest source extent of a layout read from a file: keeps the arithmetic on extents from overflowing, and the index maps made from it
/// (16 bytes an element) from filling the memory.
const MAX_K: usize = 1 << 24;

/// How a K axis is laid out: its segments in order. Lowering and the kernels take one segment today.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "Vec<Segment>", try_from = "Vec<Segment>")]
pub struct KLayout {
    /// The segments.
    pub segments: Vec<Segment>,
}

/// A layout whose source extent is not one that a weight can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a K layout covers at most {MAX_K} elements, in segments of at least one")]
pub struct InvalidLayout;

impl From<KLayout> for Vec<Segment> {
    fn from(layout: KLayout) -> Self {
        layout.segments
    }
}

impl TryFrom<Vec<Segment>> for KLayout {
    type Error = InvalidLayout;

    fn try_from(segments: Vec<Segment>) -> Result<Self, InvalidLayout> {
        let k = segments.iter().try_fold(0usize, |k, s| k.checked_add(s.k)).ok_or(InvalidLayout)?;
        if k > MAX_K || segments.iter().any(|s| s.k == 0) {
            return Err(InvalidLayout);
        }
        Ok(KLayout { segments })
    }
}

impl KLayout {
    /// One dense segment.
    pub fn dense(k: usize) -> Self {
        KLayout { segments: vec![Segment { k, pattern: None }] }
    }

    /// One segment of a pattern.
    pub fn sparse(k: usize, pattern: Pattern) -> Self {
        KLayout { segments: vec![Segment { k, pattern: Some(pattern) }] }
    }

    /// Source extent.
    pub fn k(&self) -> usize {
        self.segments.iter().map(|s| s.k).sum()
    }

    /// Whether nothing is lifted.
    pub fn is_dense(&self) -> bool {
        self.segments.iter().all(|s| s.pattern.is_none())
    }

    /// The pattern, when the layout is one sparse segment.
    pub fn single_pattern(&self) -> Option<Pattern> {
        match self.segments.as_slice() {
            [Segment { pattern, .. }] => *pattern,
            _ => None,
        }
    }

    /// Lifted extent K'; K when dense, else a multiple of [`LIFT_ALIGN`].
    pub fn lifted(&self) -> usize {
        let k: usize = self.segments.iter().map(Segment::lifted).sum();
        if self.is_dense() { k } else { k.next_multiple_of(LIFT_ALIGN) }
    }

    /// For each lifted position, the source position that it reads; `None` reads 0.
    pub fn sources(&self) -> Vec<Option<usize>> {
        let mut out = Vec::with_capacity(self.lifted());
        let mut start = 0;
        for segment in &self.segments {
            let end = start + segment.k;
            match segment.pattern {
                None => out.extend((start..end).map(Some)),
                Some(p) => {
                    for block in 0..segment.k.div_ceil(p.block()) {
                        for window in 0..p.windows() {
                            let first = start + block * p.block() + 2 * window;
                            out.extend((first..first + 4).map(|s| (s < end).then_some(s)));
                        }
                    }
                }
            }
            start = end;
        }
        out.resize(self.lifted(), None);
        out
    }
}
