//! What matrix products cost on GPUs, sparse and dense: the model by which a compilation decides where sparsity pays, until it is
//! measured.
//!
//! A product takes a fixed time, and then as long as its arithmetic at a measured rate or its weight's bytes at the memory's,
//! whichever is longer; a sparse one also what lifting its activation moves beyond the dense one's. Rates are data: [`RATES`].
//!
//! Must not know: graphs, plans, how products are launched.

use sliderun::dtype::DType;
use sliderun::plan::Architecture;
use sliderun::sparse::{KLayout, Pattern};
use sliderun::timings::{ProductKey, Timings};
use std::collections::BTreeMap;

/// Rates of one library in one precision on one kind of GPU, in 10¹² multiplications and additions per second over what is
/// multiplied: over K' of a sparse product.
#[derive(Clone, Copy, Debug)]
struct Rates {
    /// Compute capability, major version.
    major: u32,
    /// Size in bytes of the elements that are multiplied.
    bytes: usize,
    /// Patterns of this many windows in a block or more, up to the next row's; dense where there are none.
    windows: usize,
    /// By M, for weights of fewer elements than [`LARGE`].
    small: &'static [(f64, f64)],
    /// For larger ones.
    large: &'static [(f64, f64)],
}

/// Elements N·K from which on a weight is large: its products keep a GPU busy long enough to meet its power limit.
const LARGE: f64 = 48e6;

/// One H200 at its power limit, cuBLASLt 13.1 and cuSPARSELt 0.8.0 after a search for the best algorithm, random operands:
/// `small` for Qwen2.5-7B's 4608×3584 and 3584×3584 in int8 (`docs/gpu-logs/2026-11-23-gemm.txt`; 2:4 in proportion to `large`,
/// and 4:6 so that it pays from 2048 rows on, as it was seen to), `large` for its four linear layers together, replayed for
/// seconds; for dense int8 there, fp8's. 16-bit sparse products were not measured: int8's in proportion to dense. Compute
/// capability 8: dense int8 at two thirds of an A100's peak, and 6:8 as the method's authors measured it against that, 1.32
/// times as fast. Compute capability 10 and 12 were not measured: 9.0 and 8.0 in proportion to their peaks.
#[rustfmt::skip]
const RATES: [Rates; 24] = [
    Rates { major: 9, bytes: 1, windows: 0, small: &[(512.0, 825.0), (2048.0, 1326.0), (8192.0, 1562.0)], large: &[(512.0, 1105.0), (8192.0, 1240.0)] },
    Rates { major: 9, bytes: 1, windows: 1, small: &[(512.0, 1230.0), (2048.0, 1830.0), (8192.0, 1960.0)], large: &[(512.0, 1473.0), (8192.0, 1854.0)] },
    Rates { major: 9, bytes: 1, windows: 2, small: &[(512.0, 1310.0), (2048.0, 1900.0), (8192.0, 2150.0)], large: &[(512.0, 1567.0), (8192.0, 1879.0)] },
    Rates { major: 9, bytes: 1, windows: 3, small: &[(512.0, 1340.0), (2048.0, 1900.0), (8192.0, 2040.0)], large: &[(512.0, 1605.0), (8192.0, 1929.0)] },
    Rates { major: 9, bytes: 2, windows: 0, small: &[(512.0, 430.0), (2048.0, 690.0), (8192.0, 720.0)], large: &[(512.0, 560.0), (8192.0, 653.0)] },
    Rates { major: 9, bytes: 2, windows: 1, small: &[(512.0, 640.0), (2048.0, 950.0), (8192.0, 900.0)], large: &[(512.0, 750.0), (8192.0, 976.0)] },
    Rates { major: 9, bytes: 2, windows: 2, small: &[(512.0, 680.0), (2048.0, 960.0), (8192.0, 920.0)], large: &[(512.0, 800.0), (8192.0, 990.0)] },
    Rates { major: 9, bytes: 2, windows: 3, small: &[(512.0, 700.0), (2048.0, 990.0), (8192.0, 940.0)], large: &[(512.0, 810.0), (8192.0, 1015.0)] },
    Rates { major: 8, bytes: 1, windows: 0, small: &[(512.0, 250.0), (2048.0, 400.0)], large: &[(512.0, 350.0), (2048.0, 416.0)] },
    Rates { major: 8, bytes: 1, windows: 1, small: &[(512.0, 430.0), (2048.0, 740.0)], large: &[(512.0, 640.0), (2048.0, 790.0)] },
    Rates { major: 8, bytes: 1, windows: 3, small: &[(512.0, 460.0), (2048.0, 780.0)], large: &[(512.0, 680.0), (2048.0, 824.0)] },
    Rates { major: 8, bytes: 2, windows: 0, small: &[(512.0, 130.0), (2048.0, 210.0)], large: &[(512.0, 190.0), (2048.0, 240.0)] },
    Rates { major: 8, bytes: 2, windows: 1, small: &[(512.0, 220.0), (2048.0, 390.0)], large: &[(512.0, 350.0), (2048.0, 456.0)] },
    Rates { major: 8, bytes: 2, windows: 3, small: &[(512.0, 240.0), (2048.0, 410.0)], large: &[(512.0, 370.0), (2048.0, 475.0)] },
    Rates { major: 10, bytes: 1, windows: 0, small: &[(512.0, 1500.0), (8192.0, 3500.0)], large: &[(512.0, 2400.0), (8192.0, 2800.0)] },
    Rates { major: 10, bytes: 1, windows: 1, small: &[(512.0, 2200.0), (8192.0, 4300.0)], large: &[(512.0, 3200.0), (8192.0, 4170.0)] },
    Rates { major: 10, bytes: 1, windows: 3, small: &[(512.0, 2400.0), (8192.0, 4500.0)], large: &[(512.0, 3500.0), (8192.0, 4340.0)] },
    Rates { major: 10, bytes: 2, windows: 0, small: &[(512.0, 800.0), (8192.0, 1600.0)], large: &[(512.0, 1250.0), (8192.0, 1470.0)] },
    Rates { major: 10, bytes: 2, windows: 1, small: &[(512.0, 1150.0), (8192.0, 2050.0)], large: &[(512.0, 1700.0), (8192.0, 2190.0)] },
    Rates { major: 10, bytes: 2, windows: 3, small: &[(512.0, 1250.0), (8192.0, 2100.0)], large: &[(512.0, 1800.0), (8192.0, 2280.0)] },
    Rates { major: 12, bytes: 1, windows: 0, small: &[(512.0, 300.0), (2048.0, 500.0)], large: &[(512.0, 430.0), (2048.0, 540.0)] },
    Rates { major: 12, bytes: 1, windows: 1, small: &[(512.0, 520.0), (2048.0, 930.0)], large: &[(512.0, 780.0), (2048.0, 1050.0)] },
    Rates { major: 12, bytes: 2, windows: 0, small: &[(512.0, 150.0), (2048.0, 250.0)], large: &[(512.0, 210.0), (2048.0, 270.0)] },
    Rates { major: 12, bytes: 2, windows: 1, small: &[(512.0, 260.0), (2048.0, 460.0)], large: &[(512.0, 390.0), (2048.0, 520.0)] },
];

/// What memory moves, by the major version of the compute capability, in 10⁶ bytes per microsecond: what large copies read and
/// write on an H200 (4 260 GB/s), elsewhere nine tenths of what an A100, a B200 and an RTX 5090 are sold with.
const MEMORY: [(u32, f64); 4] = [(8, 1.4), (9, 4.26), (10, 7.2), (12, 1.6)];

/// What a product takes before and after its arithmetic, in microseconds.
const FIXED: f64 = 2.0;

/// A product with a constant weight, without its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// What is multiplied.
    pub input: DType,
    /// Output channels.
    pub n: usize,
    /// The source K.
    pub k: usize,
}

impl Shape {
    /// Microseconds that the product takes for `m` rows, dense or of a pattern, on GPUs of an architecture.
    pub fn micros(&self, m: f64, pattern: Option<Pattern>, on: Architecture) -> f64 {
        let rates = rates(self.input.size(), pattern, on.major());
        let (n, k, size) = (self.n as f64, self.k as f64, self.input.size() as f64);
        let lifted = pattern.map_or(self.k, |p| KLayout::sparse(self.k, p).lifted()) as f64;
        let rate = interpolate(if n * k < LARGE { rates.small } else { rates.large }, m) * 1e6;
        // Half of the elements, and a nibble for each two of these.
        let weight = n * lifted * if pattern.is_some() { size / 2.0 + 0.125 } else { size };
        FIXED + (2.0 * m * n * lifted / rate).max((weight + m * lifted * size) / memory(on))
    }

    /// Microseconds to write the activation of products of this K for `m` rows.
    pub fn lift_micros(&self, m: f64, pattern: Option<Pattern>, on: Architecture) -> f64 {
        let lifted = pattern.map_or(self.k, |p| KLayout::sparse(self.k, p).lifted());
        m * (lifted * self.input.size()) as f64 / memory(on)
    }
}

/// Bytes that memory moves in a microsecond.
fn memory(on: Architecture) -> f64 {
    MEMORY.iter().rev().find(|(major, _)| *major <= on.major()).unwrap_or(&MEMORY[0]).1 * 1e6
}

/// Products that were measured on GPUs like the one that is compiled for.
#[derive(Clone, Debug, Default)]
pub struct Measured(BTreeMap<ProductKey, f64>);

/// By how many times the rows may differ from those that were measured.
const NEAR: f64 = 4.0;

impl Measured {
    /// Those of the timings that an architecture's GPUs gave.
    pub fn new(timings: &Timings, on: Architecture) -> Measured {
        let fits = |capability: &str| {
            let number = |text: &str| text.parse::<u32>().ok();
            capability
                .split_once('.')
                .and_then(|(major, minor)| Some(on.runs_on(number(major)?, number(minor)?)))
                .unwrap_or(false)
        };
        Measured(timings.products(fits).map(|t| (t.product, t.micros)).collect())
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How much faster a product is with a pattern than dense, for about so many rows; none where not both were measured.
    pub fn speed_up(&self, shape: Shape, pattern: Pattern, m: f64) -> Option<f64> {
        let Shape { input, n, k } = shape;
        let key =
            |sparse, m| ProductKey { sparse, input, m, n, k: if sparse { KLayout::sparse(k, pattern).lifted() } else { k } };
        let both = self.0.range(key(false, 0)..=key(false, usize::MAX)).filter(|(found, _)| **found == key(false, found.m));
        let ratios = both.filter_map(|(found, dense)| Some((found.m as f64, dense / self.0.get(&key(true, found.m))?)));
        let far = |rows: f64| (m / rows).ln().abs();
        let near = ratios.min_by(|(a, _), (b, _)| far(*a).total_cmp(&far(*b)))?;
        (far(near.0) <= NEAR.ln()).then_some(near.1)
    }
}

/// The rates that stand for a product's: those of the next older kind of GPU where its own has none.
fn rates(bytes: usize, pattern: Option<Pattern>, major: u32) -> &'static Rates {
    let windows = pattern.map_or(0, Pattern::windows);
    let fits = |r: &&Rates| r.bytes == bytes.clamp(1, 2) && (r.windows == 0) == (windows == 0) && r.windows <= windows;
    let best = RATES.iter().filter(fits).filter(|r| r.major <= major.max(8)).max_by_key(|r| (r.major, r.windows));
    best.expect("capability 8 has dense rates, and those of one window, for both sizes")
}

/// Between the points that are next to `m`, straight in its logarithm; the first and last beyond them.
fn interpolate(points: &[(f64, f64)], m: f64) -> f64 {
    let (first, last) = (points[0], points[points.len() - 1]);
    let between = points.windows(2).find(|pair| (pair[0].0..pair[1].0).contains(&m));
    match between {
        Some(&[(m0, r0), (m1, r1)]) => r0 + (r1 - r0) * (m / m0).ln() / (m1 / m0).ln(),
        _ if m < first.0 => first.1,
        _ => last.1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sliderun::timings::{Machine, ProductTime, Record, Timed};

    fn speed_up(n: usize, k: usize, m: f64, pattern: &str, on: &str) -> f64 {
        let (shape, on) = (Shape { input: DType::I8, n, k }, on.parse().unwrap());
        shape.micros(m, None, on) / shape.micros(m, Some(pattern.parse().unwrap()), on)
    }

    #[test]
    fn measured_products_are_found_again() {
        let on: Architecture = "sm_90a".parse().unwrap();
        // N, K, M, pattern, microseconds in the log.
        for (n, k, m, pattern, measured) in [
            (4608, 3584, 8192.0, None, 173.2),
            (4608, 3584, 2048.0, None, 51.0),
            (4608, 3584, 512.0, None, 20.5),
            (4608, 3584, 8192.0, Some("6:8"), 205.0),
            (4608, 3584, 512.0, Some("6:8"), 19.0),
            (3584, 3584, 8192.0, Some("6:8"), 150.0),
        ] {
            let pattern = pattern.map(|p| p.parse().unwrap());
            let micros = Shape { input: DType::I8, n, k }.micros(m, pattern, on);
            assert!((micros / measured - 1.0).abs() < 0.12, "{n}x{k} M={m}: {micros} for {measured}");
        }
    }

    #[test]
    fn sparsity_pays_where_it_was_measured_to() {
        // Small layers are faster dense at 6:8, large ones sparse; 2:4 and 4:6 are faster everywhere with many rows.
        assert!(speed_up(4608, 3584, 8192.0, "6:8", "sm_90a") < 1.0);
        assert!(speed_up(37888, 3584, 8192.0, "6:8", "sm_90a") > 1.0);
        for m in [2048.0, 8192.0, 16384.0] {
            for (n, k) in [(4608, 3584), (37888, 3584), (3584, 18944)] {
                assert!(speed_up(n, k, m, "2:4", "sm_90a") > 1.1 && speed_up(n, k, m, "2:4", "sm_80") > 1.1, "{n}x{k} M={m}");
            }
            assert!(speed_up(37888, 3584, m, "4:6", "sm_90a") > 1.05);
            assert!(speed_up(4608, 3584, m, "4:6", "sm_90a") > 1.02);
        }
        assert!(speed_up(37888, 3584, 8192.0, "14:16", "sm_90a") < 1.0);
    }

    #[test]
    fn what_was_measured_on_such_a_gpu_is_found_for_about_as_many_rows() {
        let mut timings = Timings::default();
        let machine = |capability: &str| {
            let [gpu, driver, cublaslt, cusparselt] = ["G", "1", "2", "3"].map(str::to_owned);
            Machine { gpu, capability: capability.into(), driver, cublaslt, cusparselt }
        };
        // Capability, whether sparse, M, N, K, microseconds. 96 is lifted to 192 at 6:8, which is aligned.
        for (capability, sparse, m, n, k, micros) in [
            ("9.0", false, 8192, 64, 96, 30.0),
            ("9.0", true, 8192, 64, 192, 20.0),
            ("9.0", false, 512, 64, 96, 4.0),
            ("9.0", true, 512, 64, 192, 5.0),
            ("8.0", true, 8192, 32, 192, 1.0),
            ("9.0", false, 8192, 32, 96, 1.0),
        ] {
            let product = ProductKey { sparse, input: DType::I8, m, n, k };
            timings.put(Record { machine: machine(capability), timed: Timed::Product(ProductTime { product, micros }) });
        }
        let measured = Measured::new(&timings, "sm_90a".parse().unwrap());
        let speed_up = |n, m| measured.speed_up(Shape { input: DType::I8, n, k: 96 }, "6:8".parse().unwrap(), m);
        assert_eq!(KLayout::sparse(96, "6:8".parse().unwrap()).lifted(), 192);
        for (m, expected) in [(8192.0, Some(1.5)), (20000.0, Some(1.5)), (600.0, Some(0.8)), (64.0, None), (64e3, None)] {
            assert_eq!(speed_up(64, m), expected, "{m}");
        }
        assert_eq!(speed_up(32, 8192.0), None);
        assert!(Measured::new(&timings, "sm_100a".parse().unwrap()).is_empty());
    }

    #[test]
    fn every_gpu_and_precision_has_rates() {
        for on in Architecture::SUPPORTED {
            for input in [DType::I8, DType::F8e4m3, DType::Bf16, DType::F16] {
                for pattern in Pattern::ALL.map(Some).into_iter().chain([None]) {
                    let shape = Shape { input, n: 4096, k: 4096 };
                    let times = [1.0, 16.0, 500.0, 512.0, 5000.0, 1e6].map(|m| shape.micros(m, pattern, on));
                    assert!(times.is_sorted() && times[0] > FIXED, "{on} {input} {pattern:?}: {times:?}");
                }
            }
        }
        assert!((interpolate(&[(512.0, 10.0), (2048.0, 20.0)], 1024.0) - 15.0).abs() < 1e-9);
    }
}
