//! Which of a plan's variants is fastest on a shape: each is replayed in its turn, on the inputs at hand, and timed on the
//! device.
//!
//! At a GPU's power limit a variant that draws more runs at lower clocks. So turns are as long as the time allows, and only the second half of
//! each counts, when the clocks have followed.

use std::sync::Arc;
use std::time::Duration;

use super::super::SessionError;
use super::Gpu;
use super::bound::Bound;
use crate::cuda::driver::{DeviceBuffer, Stream};
use crate::cuda::timer::Timer;

/// Turns of each variant.
const TURNS: u32 = 3;
/// By how much another must be faster than a dense variant, in hundredths, so that noise does not decide.
const MARGIN: u128 = 1;

/// A variant on a shape.
pub struct Entrant {
    /// Its position in the plan.
    pub position: usize,
    pub gpu: Arc<Gpu>,
    pub bound: Bound,
}

/// Puts a run's inputs where a variant reads them.
pub type Fill<'a> = &'a dyn Fn(&Gpu, &Bound, &Stream) -> Result<(), SessionError>;

/// The time of a replay of each entrant: the median over its turns, all of which together take about `budget`.
pub fn times(
    entrants: &mut [Entrant],
    fill: Fill<'_>,
    stream: &Stream,
    fault: &DeviceBuffer,
    budget: Duration,
) -> Result<Vec<Duration>, SessionError> {
    let timer = Timer::new(stream)?;
    let turn = budget / (TURNS * u32::try_from(entrants.len()).unwrap_or(u32::MAX).max(1));
    let mut halves = Vec::with_capacity(entrants.len());
    for Entrant { gpu, bound, .. } in &mut *entrants {
        // All variants share an arena. The first time a graph is made, the second it comes onto the device.
        for _ in 0..2 {
            fill(gpu, bound, stream)?;
            bound.replay(gpu, stream, stream, fault)?;
        }
        fill(gpu, bound, stream)?;
        let once = timer.time(|| bound.replay(gpu, stream, stream, fault))?;
        let replays = turn.as_nanos() / (2 * once.as_nanos().max(1));
        halves.push(u32::try_from(replays).unwrap_or(u32::MAX).max(1));
    }
    let mut times = vec![Vec::new(); entrants.len()];
    for _ in 0..TURNS {
        for ((Entrant { gpu, bound, .. }, times), &half) in entrants.iter_mut().zip(&mut times).zip(&halves) {
            fill(gpu, bound, stream)?;
            let mut replay = || (0..half).try_for_each(|_| bound.replay(gpu, stream, stream, fault));
            replay()?;
            times.push(timer.time(replay)? / half);
        }
    }
    Ok(times.into_iter().map(median).collect())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// The position of the fastest in a list of sparse products and times: the one with the fewest sparse products, unless another is
/// clearly faster.
pub fn fastest(measured: &[(usize, Duration)]) -> usize {
    let least_sparse = (0..measured.len()).min_by_key(|&at| measured[at]).unwrap_or(0);
    let best = (0..measured.len()).min_by_key(|&at| measured[at].1).unwrap_or(0);
    let clearly =
        measured.get(least_sparse).is_some_and(|(_, time)| measured[best].1.as_nanos() * 100 <= time.as_nanos() * (100 - MARGIN));
    if clearly { best } else { least_sparse }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dense_is_taken_unless_another_is_clearly_faster() {
        let micros = |times: &[(usize, u64)]| -> Vec<(usize, Duration)> {
            times.iter().map(|(sparse, time)| (*sparse, Duration::from_micros(*time))).collect()
        };
        // Sparse products and microseconds of each, and the position that is taken.
        let cases: [(&[(usize, u64)], usize); 6] = [
            (&[(4, 1000), (0, 1000)], 1),
            (&[(4, 995), (0, 1000)], 1),
            (&[(4, 990), (0, 1000)], 0),
            (&[(4, 980), (2, 970), (0, 1000)], 1),
            (&[(4, 1100), (2, 1050), (0, 1000)], 2),
            (&[(3, 7)], 0),
        ];
        for (times, expected) in cases {
            assert_eq!(fastest(&micros(times)), expected, "{times:?}");
        }
        assert_eq!(median(vec![Duration::from_micros(9), Duration::ZERO, Duration::from_micros(2)]), Duration::from_micros(2));
    }
}
