//! GPU architectures that cubins are made for, and which devices each runs on.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// What a cubin is made for: `sm_89`, `sm_90a`.
///
/// Source: CUDA programming guide, "Binary compatibility": a cubin runs on devices of its own major version and the same or a later
/// minor one; one for an architecture with the suffix `a`, on devices of exactly its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Architecture {
    /// Major and minor version of the compute capability written together: 80, 89, 90, 120 …
    capability: u32,
    /// With the suffix `a`.
    exact: bool,
}

/// A text that names no architecture.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a GPU architecture: sm_80, sm_86, sm_87, sm_89, sm_90a, sm_100a, sm_120 or a later one was expected")]
pub struct UnknownArchitecture(String);

impl Architecture {
    /// The architectures that kernels are written and tested for, oldest first.
    pub const SUPPORTED: [Architecture; 7] = [
        Architecture { capability: 80, exact: false },
        Architecture { capability: 86, exact: false },
        Architecture { capability: 87, exact: false },
        Architecture { capability: 89, exact: false },
        Architecture { capability: 90, exact: true },
        Architecture { capability: 100, exact: true },
        Architecture { capability: 120, exact: false },
    ];

    /// Whether a device of compute capability `major`.`minor` runs a cubin made for this.
    pub fn runs_on(self, major: u32, minor: u32) -> bool {
        let (own_major, own_minor) = (self.capability / 10, self.capability % 10);
        own_major == major && if self.exact { own_minor == minor } else { own_minor <= minor }
    }

    /// The major version of its compute capability.
    pub fn major(self) -> u32 {
        self.capability / 10
    }

    /// Whether its kernels can wait by themselves for what was launched before them: compute capability 9.0 and later.
    pub fn has_waiting_kernels(self) -> bool {
        self.capability >= 90
    }

    /// The one among `available` that suits a device of compute capability `major`.`minor` best: the latest that runs on it, of two for
    /// one version the exact one.
    pub fn best_for(major: u32, minor: u32, available: impl IntoIterator<Item = Architecture>) -> Option<Architecture> {
        available.into_iter().filter(|a| a.runs_on(major, minor)).max()
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("sm_{}{}", self.capability, if self.exact { "a" } else { "" }))
    }
}

impl FromStr for Architecture {
    type Err = UnknownArchitecture;

    fn from_str(s: &str) -> Result<Self, UnknownArchitecture> {
        let number = s.strip_prefix("sm_");
        let parsed = number.and_then(|number| {
            let (digits, exact) = number.strip_suffix('a').map_or((number, false), |n| (n, true));
            let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
            let capability = digits.parse().ok().filter(|c| plain && (80..1000).contains(c))?;
            Some(Architecture { capability, exact })
        });
        parsed.ok_or_else(|| UnknownArchitecture(s.to_owned()))
    }
}

impl Serialize for Architecture {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Architecture {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn architecture(s: &str) -> Architecture {
        s.parse().unwrap()
    }

    #[test]
    fn text_forms_round_trip() {
        let names = ["sm_80", "sm_86", "sm_87", "sm_89", "sm_90a", "sm_100a", "sm_120"];
        assert_eq!(Architecture::SUPPORTED.map(|a| a.to_string()), names);
        assert_eq!(names.map(architecture), Architecture::SUPPORTED);
        for bad in ["", "80", "sm_", "sm_a", "sm_9x", "sm_75", "sm_+80", "sm_080", "sm_80aa", "compute_80", "sm_1000"] {
            assert!(bad.parse::<Architecture>().is_err(), "{bad}");
        }
    }

    #[test]
    fn cubins_run_where_cuda_says() {
        // Architecture, device, whether it runs.
        let cases = [
            ("sm_80", (8, 0), true),
            ("sm_80", (8, 9), true),
            ("sm_89", (8, 6), false),
            ("sm_80", (9, 0), false),
            ("sm_90a", (9, 0), true),
            ("sm_90", (9, 0), true),
            ("sm_100a", (10, 0), true),
            ("sm_100a", (10, 3), false),
            ("sm_120", (12, 1), true),
            ("sm_120", (10, 0), false),
        ];
        for (name, (major, minor), runs) in cases {
            assert_eq!(architecture(name).runs_on(major, minor), runs, "{name} on {major}.{minor}");
        }
    }

    #[test]
    fn kernels_wait_from_hopper_on() {
        let waiting: Vec<String> =
            Architecture::SUPPORTED.iter().filter(|a| a.has_waiting_kernels()).map(|a| a.to_string()).collect();
        assert_eq!(waiting, ["sm_90a", "sm_100a", "sm_120"]);
    }

    #[test]
    fn the_latest_that_runs_is_chosen() {
        let all = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_120"].map(architecture);
        let best = |major, minor| Architecture::best_for(major, minor, all).map(|a| a.to_string());
        assert_eq!(best(8, 0).as_deref(), Some("sm_80"));
        assert_eq!(best(8, 7).as_deref(), Some("sm_86"));
        assert_eq!(best(8, 9).as_deref(), Some("sm_89"));
        assert_eq!(best(9, 0).as_deref(), Some("sm_90a"));
        assert_eq!(best(12, 1).as_deref(), Some("sm_120"));
        assert_eq!(best(10, 0), None);
        assert_eq!(best(7, 5), None);
    }
}
