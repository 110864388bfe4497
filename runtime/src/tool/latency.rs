//! Latencies of repeated runs.

use std::time::Duration;

/// A time in microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A time in milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// A summary of latencies in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
#[allow(missing_docs)]
pub struct Latency {
    pub runs: usize,
    pub mean_ms: f64,
    pub min_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Latency {
    /// The summary; `None` of no runs. A percentile is the smallest latency that at least so many of a hundred runs do not exceed.
    pub fn of(latencies: &[Duration]) -> Option<Latency> {
        let mut ms: Vec<f64> = latencies.iter().copied().map(ms).collect();
        ms.sort_by(f64::total_cmp);
        let (first, last) = (*ms.first()?, *ms.last()?);
        let percentile = |p: usize| ms[(ms.len() * p).div_ceil(100).max(1) - 1];
        Some(Latency {
            runs: ms.len(),
            mean_ms: ms.iter().sum::<f64>() / ms.len() as f64,
            min_ms: first,
            p50_ms: percentile(50),
            p90_ms: percentile(90),
            p99_ms: percentile(99),
            max_ms: last,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        assert_eq!(Latency::of(&[]), None);
        let latencies: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        let l = Latency::of(&latencies).unwrap();
        let found = [l.mean_ms, l.min_ms, l.p50_ms, l.p90_ms, l.p99_ms, l.max_ms];
        for (found, expected) in found.into_iter().zip([100.5, 1.0, 100.0, 180.0, 198.0, 200.0]) {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
        assert_eq!(Latency::of(&latencies[..1]).unwrap().p99_ms, 200.0);
    }
}
