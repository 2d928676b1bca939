//! The tail: how long the longest calls take while the store grows, and while a million keys
//! expire.
//!
//! Beside each row stands a loop that does nothing but read the same timer, run alternately
//! with it for as long: what the machine (interrupts, other programs) adds by itself. It makes
//! many more readings in that time, so compare its longest, not its shares.
//!
//! A new key at a time, by one thread. Each number is the median of several rounds.
//! `ONCEONLY_BENCH_10M=1` lets it grow to ten million.

mod common;

use common::*;
use hdrhistogram::Histogram;
use onceonly::{Fingerprint, Store};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;

fn main() {
    println!(
        "{:<34} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "nanoseconds a call", "p50", "p99", "p99.9", "p99.99", "max"
    );
    for n in sizes() {
        for (with, helper) in [("", true), (", no helper", false)] {
            report(&format!("growth to {}{with}", short(n)), || {
                let store = builder(n).helper_thread(helper).in_memory();
                measured(&store.expect("the options are good"), 0, n)
            });
        }
    }
    let n = keys(1_000_000);
    report(&format!("{} expire", short(n)), || {
        measured(&expired(n), n, n / 2)
    });
    report(&format!("{} expire, beside maintain", short(n)), || {
        let store = expired(n);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    store.maintain(Duration::from_secs(1)).expect("the store is open");
                }
            });
            let times = measured(&store, n, n / 2);
            done.store(true, Ordering::Relaxed);
            times
        })
    });
}

struct Times {
    claim: Histogram<u64>,
    complete: Histogram<u64>,
    nothing: Histogram<u64>,
}

/// Claims and completes `n` new keys from number `from` on.
fn measured(store: &Store, from: u64, n: u64) -> Times {
    /// Turns in which the store and the empty loop alternate.
    const TURNS: u64 = 20;
    let mut times = Times {
        claim: histogram(),
        complete: histogram(),
        nothing: histogram(),
    };
    for turn in 0..TURNS {
        let began = Instant::now();
        for n in from + n * turn / TURNS..from + n * (turn + 1) / TURNS {
            let id = id(n);
            let outcome = outcome(&id);
            let start = Instant::now();
            let guard = acquire(store, &id, Fingerprint::NONE);
            let claimed = Instant::now();
            guard.complete(&outcome).expect("there is room");
            let completed = Instant::now();
            note(&mut times.claim, claimed - start);
            note(&mut times.complete, completed - claimed);
        }
        let until = Instant::now() + began.elapsed();
        let mut last = Instant::now();
        while last < until {
            let start = Instant::now();
            last = Instant::now();
            note(&mut times.nothing, last - start);
        }
    }
    times
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are good")
}

fn note(histogram: &mut Histogram<u64>, span: Duration) {
    histogram.saturating_record(span.as_nanos() as u64);
}

/// Runs the rounds and prints a row for each kind of call.
fn report(name: &str, mut round: impl FnMut() -> Times) {
    let rounds = if testing() { 1 } else { ROUNDS };
    let rounds: Vec<Times> = (0..rounds).map(|_| round()).collect();
    println!("{name}");
    let row = |kind: &str, of: fn(&Times) -> &Histogram<u64>| {
        let middle =
            |value: &dyn Fn(&Histogram<u64>) -> u64| median(rounds.iter().map(|t| value(of(t))).collect());
        let shares = [0.5, 0.99, 0.999, 0.9999].map(|share| middle(&|h| h.value_at_quantile(share)));
        print!("  {kind:<32}");
        shares.iter().for_each(|nanos| print!(" {nanos:>9}"));
        println!(" {:>9}", middle(&|h| h.max()));
    };
    row("claim", |t| &t.claim);
    row("complete", |t| &t.complete);
    row("empty loop", |t| &t.nothing);
}
