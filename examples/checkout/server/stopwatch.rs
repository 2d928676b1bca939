//! How long calls into the engine take.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use hdrhistogram::Histogram;

use crate::wire::Timing;

/// Longer calls count as this long, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// Significant digits kept.
const DIGITS: u8 = 2;

/// A histogram of durations.
pub(crate) struct Stopwatch(Mutex<Histogram<u64>>);

impl Stopwatch {
    pub(crate) fn new() -> Stopwatch {
        let empty = Histogram::new_with_max(LONGEST, DIGITS).expect("the bounds are valid");
        Stopwatch(Mutex::new(empty))
    }

    /// Does `call` and notes how long it took. The noting itself is not measured.
    pub(crate) fn time<T>(&self, call: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let result = call();
        let took = u64::try_from(started.elapsed().as_nanos()).unwrap_or(LONGEST);
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.saturating_record(took);
        result
    }

    pub(crate) fn timing(&self) -> Timing {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Timing {
            calls: seen.len(),
            p50: seen.value_at_quantile(0.50),
            p99: seen.value_at_quantile(0.99),
        }
    }
}
