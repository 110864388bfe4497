//! A choice among the library's kernels, as it is remembered.

use std::fmt;
use std::str::FromStr;

/// A choice among the library's kernels, with their parameters, for one problem, version of the library and kind of GPU. Displays as
/// hexadecimal digits, from which it can be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DenseAlgorithm(pub(super) [u64; 8]);

impl fmt::Display for DenseAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

/// Text that is not a [`DenseAlgorithm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an algorithm of cuBLASLt is 128 hexadecimal digits")]
pub struct BadAlgorithm;

impl FromStr for DenseAlgorithm {
    type Err = BadAlgorithm;

    fn from_str(text: &str) -> Result<Self, BadAlgorithm> {
        let digits = text.as_bytes();
        if digits.len() != 128 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(BadAlgorithm);
        }
        let mut words = [0; 8];
        for (word, digits) in words.iter_mut().zip(text.as_bytes().chunks_exact(16)) {
            let digits = std::str::from_utf8(digits).map_err(|_| BadAlgorithm)?;
            *word = u64::from_str_radix(digits, 16).map_err(|_| BadAlgorithm)?;
        }
        Ok(DenseAlgorithm(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_are_written_and_read() {
        let algorithm = DenseAlgorithm(std::array::from_fn(|i| u64::MAX >> (8 * i)));
        assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
        for bad in ["", "0", &"g".repeat(128), &"é".repeat(64), &"0".repeat(129)] {
            assert_eq!(bad.parse::<DenseAlgorithm>(), Err(BadAlgorithm), "{bad}");
        }
    }
}
