//! Stores with a log: cycles (a claim and its completion) a second in each durability, how many
//! calls share a sync, what it takes on the disk, how long a reopen takes, and the longest calls.
//!
//! Beside the rows stands what the same disk gives in the same run: one append and one
//! `fdatasync`, alone. The directory is one of the system's temporary ones, or
//! `ONCEONLY_BENCH_DIR`; it should be on a disk, not in memory.
//!
//! `ONCEONLY_BENCH_10M=1` lets recovery read ten million keys.

mod common;

use common::*;
use hdrhistogram::Histogram;
use onceonly::{Durability, Fingerprint, Store};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;

/// A directory of this run, gone at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let root = std::env::var_os("ONCEONLY_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = root.join(format!("onceonly-bench-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory can be made");
        Scratch(dir)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn main() {
    floor();
    cycles();
    sizes_on_disk();
    recovery();
    longest("Process", Durability::Process, keys(1_000_000));
    longest("Sync", Durability::Sync, keys(10_000));
}

fn open(dir: &Path, durability: [Durability; 2], keys: u64) -> Store {
    let [claims, outcomes] = durability;
    builder(keys)
        .durability(outcomes)
        .claim_durability(claims)
        .open(dir)
        .expect("the options are good")
}

/// One append and one sync at a time, into a file that was written before.
fn floor() {
    let scratch = Scratch::new();
    let path = scratch.path().join("floor");
    let mut file = File::create(&path).expect("a file can be made");
    for _ in 0..1_024 {
        file.write_all(&[0; 4_096]).expect("there is room");
    }
    file.sync_all().expect("the disk syncs");
    let mut file = OpenOptions::new().write(true).open(&path).expect("it is there");
    let mut times = histogram();
    let count = if testing() { 20 } else { 2_000 };
    for _ in 0..count {
        let began = Instant::now();
        file.write_all(&[7; 200]).expect("there is room");
        file.sync_data().expect("the disk syncs");
        times.saturating_record(began.elapsed().as_nanos() as u64);
    }
    println!(
        "floor: append 200 B and fdatasync: p50 {:.0} us, p99 {:.0} us\n",
        times.value_at_quantile(0.5) as f64 / 1e3,
        times.value_at_quantile(0.99) as f64 / 1e3
    );
}

/// Claim and complete by several threads at once.
fn cycles() {
    let process = [Durability::Process; 2];
    let interval = [Durability::Interval(Duration::from_millis(5)); 2];
    let outcomes = [Durability::Process, Durability::Sync];
    let sync = [Durability::Sync; 2];
    println!(
        "{:<34} {:>8} {:>12} {:>12} {:>12} {:>8}",
        "cycles a second", "threads", "median", "least", "most", "batch"
    );
    for (name, durability, each) in [
        ("Process", process, 300_000),
        ("Interval(5 ms)", interval, 300_000),
        ("claims Process, outcomes Sync", outcomes, 4_000),
        ("Sync", sync, 2_000),
    ] {
        for threads in [1, 2, 16, 64] {
            let each = if testing() {
                50
            } else {
                each / threads.min(8) as u64
            };
            let rounds = if testing() { 1 } else { ROUNDS };
            let mut rates = Vec::new();
            let mut batch = 0.0;
            for _ in 0..rounds {
                let scratch = Scratch::new();
                let total = each * threads as u64;
                let store = open(scratch.path(), durability, total);
                let before = store.stats();
                let took = together(threads, |thread| {
                    let first = thread as u64 * each;
                    fill(&store, first..first + each);
                });
                let after = store.stats();
                assert_eq!(after.keys_live, total);
                rates.push((total as f64 / took.as_secs_f64()) as u64);
                let syncs = after.syncs - before.syncs;
                batch = (after.synced_calls - before.synced_calls) as f64 / syncs.max(1) as f64;
                let id = id(total / 2);
                drop(store);
                // What was acknowledged is there after a reopen.
                let store = open(scratch.path(), durability, total);
                assert_eq!(store.recovery().completed, total);
                claim_known(&store, &id);
            }
            rates.sort_unstable();
            println!(
                "{name:<34} {threads:>8} {:>12} {:>12} {:>12} {batch:>8.1}",
                rates[rates.len() / 2],
                rates[0],
                rates[rates.len() - 1]
            );
        }
    }
    println!();
}

/// Bytes of the files for each key, and bytes the device wrote for each byte of payload.
fn sizes_on_disk() {
    let n = keys(1_000_000);
    println!("{:<34} {:>10} {:>14}", "on disk", "bytes/key", "device/payload");
    for (name, with) in [("without fingerprints", false), ("with fingerprints", true)] {
        let scratch = Scratch::new();
        let store = open(scratch.path(), [Durability::Process; 2], n);
        let before = written_by_this_process();
        if with {
            fill_with_fingerprints(&store, 0..n);
        } else {
            fill(&store, 0..n);
        }
        store.sync().expect("the disk syncs");
        let device = written_by_this_process()
            .zip(before)
            .map(|(now, then)| now - then);
        let stats = store.stats();
        let per_payload = device.map_or("-".into(), |d| format!("{:.2}", d as f64 / (n * PAYLOAD) as f64));
        println!(
            "{name:<34} {:>10.1} {per_payload:>14}",
            stats.bytes_used as f64 / n as f64
        );
    }
    println!();
}

/// Bytes this process has caused to be sent to disks (Linux).
fn written_by_this_process() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/io").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes:"))?;
    line.trim().parse().ok()
}

/// From a closed store to the first replay, files in the page cache.
fn recovery() {
    println!(
        "{:<34} {:>10} {:>10} {:>12} {:>14}",
        "recovery", "open ms", "scan ms", "ns a record", "resident B/key"
    );
    let mut sizes = vec![keys(1_000_000)];
    if !testing() && std::env::var_os("ONCEONLY_BENCH_10M").is_some_and(|v| v == "1") {
        sizes.push(10_000_000);
    }
    for n in sizes {
        let scratch = Scratch::new();
        let store = open(scratch.path(), [Durability::Process; 2], n);
        fill(&store, 0..n);
        drop(store);
        let rounds = if testing() { 1 } else { ROUNDS };
        let mut times = Vec::new();
        let mut scans = Vec::new();
        let mut resident = 0.0;
        for _ in 0..rounds {
            scans.push(read_all(scratch.path()));
            let before = resident_bytes().unwrap_or(0);
            let began = Instant::now();
            let store = open(scratch.path(), [Durability::Process; 2], n);
            claim_known(&store, &id(n / 2));
            times.push(began.elapsed());
            assert_eq!(store.recovery().completed, n);
            resident = resident_bytes().unwrap_or(0).saturating_sub(before) as f64 / n as f64;
        }
        let middle = median(times);
        println!(
            "{:<34} {:>10.0} {:>10.0} {:>12.0} {resident:>14.0}",
            format!("{} keys", short(n)),
            middle.as_secs_f64() * 1e3,
            median(scans).as_secs_f64() * 1e3,
            middle.as_nanos() as f64 / (2 * n) as f64,
        );
    }
    println!();
}

/// Reads every file once: what a scan costs at least.
fn read_all(dir: &Path) -> Duration {
    let began = Instant::now();
    let mut buffer = vec![0; 1 << 20];
    for entry in fs::read_dir(dir).expect("it is there").flatten() {
        let Ok(mut file) = File::open(entry.path()) else {
            continue;
        };
        file.rewind().expect("it is a file");
        while file.read(&mut buffer).is_ok_and(|n| n > 0) {}
    }
    began.elapsed()
}

/// The longest calls while segments fill and go.
fn longest(name: &str, durability: Durability, n: u64) {
    let scratch = Scratch::new();
    let (hands, store) = {
        let hands = Hands::default();
        let store = builder(n)
            .ttl(Duration::from_millis(TTL))
            .lease(Duration::from_millis(TTL))
            .clock(hands.clone())
            .durability(durability)
            .open(scratch.path())
            .expect("the options are good");
        (hands, store)
    };
    let mut claims = histogram();
    let mut completes = histogram();
    for n in 0..n {
        let id = id(n);
        let outcome = outcome(&id);
        let began = Instant::now();
        let guard = acquire(&store, &id, Fingerprint::NONE);
        let claimed = Instant::now();
        guard.complete(&outcome).expect("there is room");
        completes.saturating_record(claimed.elapsed().as_nanos() as u64);
        claims.saturating_record((claimed - began).as_nanos() as u64);
        if n % 200 == 0 {
            hands.advance(1);
        }
    }
    println!(
        "{:<34} {:>9} {:>9} {:>9} {:>9} {:>9}",
        format!("{name}, ns a call"),
        "p50",
        "p99",
        "p99.9",
        "p99.99",
        "max"
    );
    for (name, times) in [("claim", claims), ("complete", completes)] {
        print!("{name:<34}");
        for share in [0.5, 0.99, 0.999, 0.9999] {
            print!(" {:>9}", times.value_at_quantile(share));
        }
        println!(" {:>9}", times.max());
    }
    println!("{}", store.stats());
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are good")
}

/// Bytes of this process in memory, where the system tells.
fn resident_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
