//! What a session on a GPU tells of itself.

use std::fmt;
use std::time::Duration;

use super::plans::ProductChoice;
use crate::timings::VariantTimes;

/// What a session has loaded, chosen and made on a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CudaReport {
    /// Where the time of loading went. `products` is finding the libraries and bringing sparse weights onto the device.
    pub load: Vec<(&'static str, Duration)>,
    /// How the sparse weights came onto the device.
    pub weights: WeightCounts,
    /// Plans that the libraries have made for matrix products.
    pub plans: usize,
    /// The algorithms that were chosen for them, in the order in which they were needed.
    pub choices: Vec<ProductChoice>,
    /// The variants that have been made ready, in that order.
    pub variants: Vec<String>,
    /// The variants that were chosen, by rows.
    pub variant_choices: Vec<VariantChoice>,
    /// Bytes of constants and weights on the device, of all variants that have been made ready.
    pub constant_bytes: u64,
    /// What the user should know, such as timings that are not for this GPU.
    pub warnings: Vec<String>,
}

/// A variant of the plan that was chosen for so many rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariantChoice {
    /// Rows of the products' activations, as they are padded; see [`CudaPlan::rows`](crate::plan::cuda::CudaPlan::rows).
    pub rows: u64,
    /// Its name.
    pub variant: String,
    /// Why.
    pub because: Because,
    /// Device time of a replay of each variant that was measured.
    pub times: Vec<(String, Duration)>,
}

impl VariantChoice {
    /// What was measured, as timings of a plan keep it.
    pub fn timed(&self, plan: &str) -> VariantTimes {
        let micros = self.times.iter().map(|(name, time)| (name.clone(), time.as_secs_f64() * 1e6)).collect();
        VariantTimes { plan: plan.to_owned(), rows: self.rows, fastest: self.variant.clone(), micros }
    }
}

/// Why a variant runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    /// The compiler's cost model prefers it for so many rows.
    Estimated,
    /// It was measured now.
    Measured,
    /// It was measured earlier, and remembered.
    Remembered,
}

/// `estimated`, `measured` or `measured before`.
impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Because::Estimated => "estimated",
            Because::Measured => "measured",
            Because::Remembered => "measured before",
        })
    }
}

/// How the sparse weights of a plan came onto the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightCounts {
    /// Compressed by the library.
    pub compressed: usize,
    /// Found in the cache.
    pub cached: usize,
}
