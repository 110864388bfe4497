//! Clocks, power and temperature of a GPU while something runs on it.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use crate::cuda::nvml::{Monitor, Reading};

/// Time between two readings.
const PERIOD: Duration = Duration::from_millis(20);

/// What was read, as smallest, median and largest; none of what NVML does not tell.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Clocks {
    /// Readings.
    pub readings: usize,
    /// Clock of the multiprocessors, MHz.
    pub sm_mhz: Option<[f64; 3]>,
    /// Clock of the memory, MHz.
    pub memory_mhz: Option<[f64; 3]>,
    /// Power, W.
    pub watts: Option<[f64; 3]>,
    /// Temperature, °C.
    pub celsius: Option<[f64; 3]>,
    /// The most that the first three may reach.
    pub limits: [Option<f64>; 3],
}

/// Reads until it is stopped.
pub struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Vec<Reading>>,
    limits: Reading,
}

impl Watch {
    /// Starts to read, on a thread of its own.
    pub fn start(monitor: Monitor) -> Watch {
        let (stop, stopped) = channel();
        Watch { stop, thread: std::thread::spawn(move || read(monitor, &stopped)), limits: monitor.limits() }
    }

    /// What was read since.
    pub fn stop(self) -> Clocks {
        drop(self.stop);
        let readings = self.thread.join().unwrap_or_default();
        let of = |get: fn(&Reading) -> Option<f64>| spread(readings.iter().filter_map(get).collect());
        Clocks {
            readings: readings.len(),
            sm_mhz: of(|r| r.sm_mhz.map(f64::from)),
            memory_mhz: of(|r| r.memory_mhz.map(f64::from)),
            watts: of(|r| r.watts.map(f64::from)),
            celsius: of(|r| r.celsius.map(f64::from)),
            limits: [self.limits.sm_mhz.map(f64::from), self.limits.memory_mhz.map(f64::from), self.limits.watts.map(f64::from)],
        }
    }
}

fn read(monitor: Monitor, stopped: &Receiver<()>) -> Vec<Reading> {
    let mut readings = vec![monitor.read()];
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(PERIOD) {
        readings.push(monitor.read());
    }
    readings
}

/// Smallest, median and largest.
fn spread(mut values: Vec<f64>) -> Option<[f64; 3]> {
    values.sort_by(f64::total_cmp);
    Some([*values.first()?, values[values.len() / 2], *values.last()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_smallest_median_largest() {
        assert_eq!(spread(vec![]), None);
        assert_eq!(spread(vec![3.0, 1.0, 2.0, 9.0, 1.5]), Some([1.0, 2.0, 9.0]));
    }
}
