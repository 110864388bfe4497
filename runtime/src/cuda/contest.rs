//! Which of several ways to compute the same is the fastest on the device, by trying.

use std::time::{Duration, Instant};

use super::driver::{GraphExec, Stream};
use super::error::CudaError;
use super::timer::Timer;

/// Runs of one recording, at most.
const MOST_RUNS: u32 = 50;
/// What a recording should take, so that the start of it and the resolution of the clock do not matter.
const RECORDING: Duration = Duration::from_micros(200);
/// Runs of a recording by which a small product is estimated, and replays of such a recording.
const FEW_RUNS: u32 = 5;
const ESTIMATES: u32 = 3;
/// Candidates that are measured against each other at the end.
const FINALISTS: usize = 4;
/// Rounds of that, each with a replay of every finalist, in turn, so that what disturbs one disturbs all.
const ROUNDS: usize = 9;
/// By how much another must be faster than the first in hundredths, so that noise does not decide.
const MARGIN: u128 = 1;

/// What a contest has found.
pub(super) struct Ranking<T> {
    /// Device time of one run and what ran, the best first; the others in the order of their time.
    pub tried: Vec<(Duration, T)>,
    /// Device time of one run of what was first.
    pub first: Duration,
    /// How many the time did not suffice for.
    pub untried: usize,
}

/// Measures `first` and what `make` gives for each of `others`, for about `budget` beyond what it takes to run each of them a few times, were
/// they as fast as the first; what cannot be made or does not run is left out. The budget is for measuring: making a candidate and loading its
/// kernel, which happens once in a process, take a few milliseconds more. Runs are recorded many at a time and replayed: the host takes longer
/// to start a small product than the device to compute it.
///
/// # Errors
/// What `first` fails with, a device that fails, and a stream that is being captured or is the default stream.
pub(super) fn contest<C, T>(
    stream: &Stream,
    budget: Duration,
    first: T,
    others: Vec<C>,
    make: impl Fn(C) -> Option<T>,
    run: impl Fn(&T, &Stream) -> Result<(), CudaError>,
) -> Result<Ranking<T>, CudaError> {
    let watch = Stopwatch { stream, timer: Timer::new(stream)? };
    watch.load(&|stream| run(&first, stream))?;
    let time = watch.estimate(FEW_RUNS, &|stream| run(&first, stream))?;
    let runs = if time > RECORDING { 1 } else { FEW_RUNS };
    let each = time * (1 + runs * ESTIMATES);
    let mut deadline = Instant::now() + budget + each * u32::try_from(others.len()).unwrap_or(u32::MAX);
    let mut tried = vec![(time, 0, first)];
    let mut untried = 0;
    for (position, other) in others.into_iter().enumerate() {
        let start = Instant::now();
        if start >= deadline {
            untried += 1;
            continue;
        }
        let Some(other) = make(other) else { continue };
        let loaded = watch.load(&|stream| run(&other, stream));
        deadline += start.elapsed();
        match loaded.and_then(|()| watch.estimate(runs, &|stream| run(&other, stream))) {
            Ok(time) => tried.push((time, position + 1, other)),
            // Refused; a device that has failed says so here.
            Err(_) => stream.synchronize()?,
        }
    }
    // The first is always measured again: it is what the others must beat.
    tried[1..].sort_by_key(|(time, position, _)| (*time, *position));
    let finalists = tried.len().min(FINALISTS);
    let mut recordings = Vec::with_capacity(finalists);
    for (time, _, candidate) in &tried[..finalists] {
        let runs = (RECORDING.as_nanos() / time.as_nanos().max(1)).clamp(1, u128::from(MOST_RUNS)) as u32;
        recordings.push((runs, watch.record(runs, &|stream| run(candidate, stream))?));
    }
    let mut times = vec![Vec::with_capacity(ROUNDS); finalists];
    for round in 0..ROUNDS {
        if round > 0 && Instant::now() >= deadline {
            break;
        }
        for ((runs, recording), times) in recordings.iter().zip(&mut times) {
            times.push(watch.replay(recording)? / *runs);
        }
    }
    for ((time, ..), times) in tried.iter_mut().zip(&mut times) {
        times.sort();
        *time = times[times.len() / 2];
    }
    let first = tried[0].0;
    let best = (0..finalists).min_by_key(|&at| tried[at].0).unwrap_or(0);
    let best = if tried[best].0.as_nanos() * 100 <= first.as_nanos() * (100 - MARGIN) { best } else { 0 };
    let best = tried.remove(best);
    tried.sort_by_key(|(time, ..)| *time);
    let tried = std::iter::once(best).chain(tried).map(|(time, _, candidate)| (time, candidate)).collect();
    Ok(Ranking { tried, first, untried })
}

struct Stopwatch<'a> {
    stream: &'a Stream,
    timer: Timer<'a>,
}

type Work<'a> = &'a dyn Fn(&Stream) -> Result<(), CudaError>;

impl Stopwatch<'_> {
    /// The first run, which loads the kernel: that cannot be recorded.
    fn load(&self, work: Work<'_>) -> Result<(), CudaError> {
        work(self.stream)?;
        self.stream.synchronize()
    }

    /// The device time of one run, from a recording of so many.
    fn estimate(&self, runs: u32, work: Work<'_>) -> Result<Duration, CudaError> {
        let recording = self.record(runs, work)?;
        // The first replay brings the recording to the device.
        self.replay(&recording)?;
        let mut least = Duration::MAX;
        for _ in 1..ESTIMATES {
            least = least.min(self.replay(&recording)?);
        }
        Ok(least / runs)
    }

    fn record(&self, runs: u32, work: Work<'_>) -> Result<GraphExec, CudaError> {
        self.stream.capture(|stream| (0..runs).try_for_each(|_| work(stream)))?.instantiate()
    }

    fn replay(&self, recording: &GraphExec) -> Result<Duration, CudaError> {
        // SAFETY: what was recorded is borrowed by the contest, and the stream is waited for here.
        #[allow(unsafe_code)]
        self.timer.time(|| unsafe { recording.launch(self.stream) })
    }
}
