//! One workload, one peer: what the child process does, and how it says what it found.
//!
//! It prints lines of a row's name, a tab and a number; the parent reads them. Nothing else is
//! said on standard output.

use crate::{durable, memory, work};
use std::time::Duration;

/// Measures, or panics with what went wrong.
pub(crate) fn run(workload: &str, peer: &str, n: u64, dir: Option<&String>) {
    if memory::NAMES.contains(&peer) && workload.starts_with('W') {
        memory::each!(peer, P => work::memory::run::<P>(workload, n));
    } else if peer == FLOOR {
        work::floor::run(workload, n);
    } else {
        durable::each!(peer, P => work::durable::run::<P>(workload, n, dir));
    }
}

/// Not a peer: what the machine itself takes for the least that anyone would have to do.
pub(crate) const FLOOR: &str = "floor";

pub(crate) fn report(row: &str, value: f64) {
    println!("{row}\t{value}");
}

/// Nanoseconds for each of `ops`.
pub(crate) fn per(took: Duration, ops: u64) -> f64 {
    took.as_nanos() as f64 / ops as f64
}

/// Operations in a second.
pub(crate) fn rate(took: Duration, ops: u64) -> f64 {
    ops as f64 / took.as_secs_f64()
}

/// The CPU time that `work` takes on this thread.
pub(crate) fn cpu(work: impl FnOnce()) -> Duration {
    let began = cpu_clock(libc::CLOCK_THREAD_CPUTIME_ID);
    work();
    cpu_clock(libc::CLOCK_THREAD_CPUTIME_ID) - began
}

/// The CPU time that this process has taken, on all its threads.
pub(crate) fn process_cpu() -> Duration {
    cpu_clock(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn cpu_clock(which: libc::clockid_t) -> Duration {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a timespec to write to, and lives through the call.
    let answer = unsafe { libc::clock_gettime(which, &mut now) };
    assert_eq!(answer, 0, "the clock is there");
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
