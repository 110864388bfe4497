//! The operations on extents that a polynomial cannot express.

/// An operation on extents that is not a polynomial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DimOp {
    /// Division rounded towards negative infinity.
    Div,
    /// Remainder with the divisor's sign.
    Mod,
    /// The larger.
    Max,
    /// The smaller.
    Min,
    /// The common extent of two broadcast axes: both equal, or one of them 1.
    Broadcast,
}

impl DimOp {
    pub(super) fn name(self) -> &'static str {
        match self {
            DimOp::Div => "div",
            DimOp::Mod => "mod",
            DimOp::Max => "max",
            DimOp::Min => "min",
            DimOp::Broadcast => "bcast",
        }
    }

    pub(super) fn from_name(s: &str) -> Option<Self> {
        [DimOp::Div, DimOp::Mod, DimOp::Max, DimOp::Min, DimOp::Broadcast].into_iter().find(|op| op.name() == s)
    }

    /// Bounds of the result from those of the operands.
    pub(super) fn interval(self, a: (i64, i64), b: (i64, i64)) -> (i64, i64) {
        const ANY: (i64, i64) = (i64::MIN, i64::MAX);
        // A quotient has no bound where the dividend has none on that side.
        let div = |x: i64, y: i64, none: i64| if x == none { Some(none) } else { DimOp::Div.apply(x, y) };
        let (least, most) = ANY;
        match self {
            DimOp::Div if b.0 > 0 => match [div(a.0, b.0, least), div(a.0, b.1, least), div(a.1, b.0, most), div(a.1, b.1, most)]
            {
                [Some(p), Some(q), Some(r), Some(s)] => (p.min(q), r.max(s)),
                _ => ANY,
            },
            DimOp::Mod if b.0 > 0 && a.0 >= 0 => (0, a.1.min(b.1 - 1)),
            DimOp::Mod if b.0 > 0 => (0, b.1 - 1),
            DimOp::Div | DimOp::Mod => ANY,
            DimOp::Max => (a.0.max(b.0), a.1.max(b.1)),
            DimOp::Min => (a.0.min(b.0), a.1.min(b.1)),
            DimOp::Broadcast => (a.0.min(b.0), a.1.max(b.1)),
        }
    }

    pub(super) fn apply(self, a: i64, b: i64) -> Option<i64> {
        match self {
            DimOp::Div => {
                (b != 0).then(|| a.checked_div_euclid(b))?.map(|q| if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q })
            }
            DimOp::Mod => (b != 0).then(|| a.checked_rem_euclid(b))?.map(|r| if b < 0 && r != 0 { r + b } else { r }),
            DimOp::Max => Some(a.max(b)),
            DimOp::Min => Some(a.min(b)),
            DimOp::Broadcast => match (a, b) {
                (1, n) | (n, 1) => Some(n),
                (a, b) => (a == b).then_some(a),
            },
        }
    }
}
