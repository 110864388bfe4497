//! What a session on a GPU tells of itself.

use std::time::Duration;

use super::plans::ProductChoice;

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
}

/// How the sparse weights of a plan came onto the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightCounts {
    /// Compressed by the library.
    pub compressed: usize,
    /// Found in the cache.
    pub cached: usize,
}
