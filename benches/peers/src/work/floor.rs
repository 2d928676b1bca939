//! What the machine takes by itself, beside the peers.

use super::histogram;
use crate::cell::report;
use crate::common::testing;
use crate::work::durable::Scratch;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::{Duration, Instant};

pub(crate) fn run(workload: &str, _n: u64) {
    match workload {
        "W5" => empty_loop(),
        "D2" => one_sync(),
        other => panic!("the machine has no {other} of its own"),
    }
}

/// Reads the timer and does nothing else: interrupts and other programs.
fn empty_loop() {
    let span = Duration::from_secs(if testing() { 0 } else { 2 });
    let mut times = histogram();
    let began = Instant::now();
    let mut last = began;
    while last - began <= span {
        let start = Instant::now();
        last = Instant::now();
        times.saturating_record((last - start).as_nanos() as u64);
    }
    super::memory::report_tail(&times);
}

/// One append of two records and one `fdatasync` a cycle, alone, in a file that was written before.
fn one_sync() {
    let scratch = Scratch::new();
    let path = scratch.path().join("floor");
    let mut file = File::create(&path).expect("a file can be made");
    file.write_all(&vec![0; 8 << 20]).expect("there is room");
    file.sync_all().expect("the disk syncs");
    let mut file = OpenOptions::new().write(true).open(&path).expect("it is there");
    let count = if testing() { 20 } else { 3_000 };
    let began = Instant::now();
    for _ in 0..count {
        file.write_all(&[7; 200]).expect("there is room");
        file.sync_data().expect("the disk syncs");
    }
    let syncs = f64::from(count) / began.elapsed().as_secs_f64();
    report("d2.outcome.1", syncs);
    report("d2.both.1", syncs / 2.0);
}
