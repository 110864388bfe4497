//! Which patterns a weight already satisfies. Each is tested by itself: patterns are not nested (4:6 does not imply 6:8,
//! because the blocks of the two lie differently).

use rayon::prelude::*;
use sliderun::sparse::Pattern;

use super::Weight;

/// How a weight stands to one pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Detection {
    /// The pattern.
    pub pattern: Pattern,
    /// Blocks with more non-zeros than the pattern allows; 0: the pattern holds.
    pub offending: usize,
    /// Blocks in all.
    pub blocks: usize,
}

impl Detection {
    /// Whether the pattern holds.
    pub fn holds(&self) -> bool {
        self.offending == 0
    }
}

/// Tests every pattern, sparsest first. Rows end in a block padded with zeros.
pub fn detect(weight: &Weight) -> [Detection; Pattern::ALL.len()] {
    let offending = weight
        .rows()
        .map(|row| Pattern::ALL.map(|p| row.chunks(p.block()).filter(|b| non_zeros(b) > p.kept()).count()))
        .reduce(|| [0; Pattern::ALL.len()], |a, b| std::array::from_fn(|i| a[i] + b[i]));
    std::array::from_fn(|i| {
        let pattern = Pattern::ALL[i];
        Detection { pattern, offending: offending[i], blocks: weight.n * weight.k.div_ceil(pattern.block()) }
    })
}

/// The patterns that hold, sparsest first.
pub fn satisfied(weight: &Weight) -> Vec<Pattern> {
    detect(weight).iter().filter(|d| d.holds()).map(|d| d.pattern).collect()
}

/// Whether one pattern holds.
pub fn holds(weight: &Weight, pattern: Pattern) -> bool {
    weight.rows().all(|row| row.chunks(pattern.block()).all(|b| non_zeros(b) <= pattern.kept()))
}

fn non_zeros(block: &[f32]) -> usize {
    block.iter().filter(|v| **v != 0.0).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weight(rows: &[&str]) -> Weight {
        let k = rows[0].len();
        Weight { n: rows.len(), k, values: rows.iter().flat_map(|r| r.bytes().map(|c| f32::from(c == b'x'))).collect() }
    }

    #[test]
    fn every_pattern_by_itself() {
        for (rows, expected) in [
            (&["xx..xx..xx..xx.."][..], "2:4 4:6 6:8 8:10 10:12 12:14 14:16"),
            // 4:6 holds and 6:8 does not: the second block of eight is full.
            (&["xxxx....xxxxxxxx.."], "4:6 8:10 10:12 12:14 14:16"),
            (&["xxxx..xx..xx..xxxx"], "4:6 6:8 8:10 10:12 12:14 14:16"),
            (&["xxxxxx.."], "6:8 8:10 10:12 12:14 14:16"),
            (&["xxxxxxxxxxxxxxxx"], ""),
            // The padding at the end counts as zeros.
            (&["xxxxxxxx..xxx"], "8:10 10:12 12:14 14:16"),
            (&["xx..", "xxxx"], "4:6 6:8 8:10 10:12 12:14 14:16"),
            (&["xx..", "x.x."], "2:4 4:6 6:8 8:10 10:12 12:14 14:16"),
        ] {
            for pattern in Pattern::ALL {
                assert_eq!(holds(&weight(rows), pattern), expected.split(' ').any(|p| p == pattern.to_string()), "{rows:?}");
            }
            let found: Vec<String> = satisfied(&weight(rows)).iter().map(Pattern::to_string).collect();
            assert_eq!(found.join(" "), expected, "{rows:?}");
        }
    }

    #[test]
    fn counts_offending_blocks() {
        let d = detect(&weight(&["xxxxxxxx", "xx..xxx."]));
        assert_eq!((d[0].offending, d[0].blocks), (3, 4));
        assert_eq!((d[2].offending, d[2].blocks), (1, 2));
    }
}
