//! Cost against size: nanoseconds for each kind of call and bytes for each key, from ten thousand
//! keys to a million (`ONCEONLY_BENCH_10M=1` adds ten million), by one thread and by two.
//!
//! Each row is the median of rounds in processes of their own, so that none finds memory another has
//! left. Times are wall time for each call, with two threads until both are done, divided by the
//! calls of both. Bytes are over key and outcome, as in `footprint`.

mod common;

use common::*;
use onceonly::{Fingerprint, Key, Replay, Store};
use std::process::Command;
use std::time::Duration;

const ROUNDS: usize = 5;
/// Says that this process measures one row: the number of keys, and of threads.
const ROW: &str = "--row";
const COLUMNS: [&str; 6] = [
    "new key",
    "replay",
    "miss",
    "16 replays, each",
    "reserved",
    "resident",
];

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == ROW) {
        let n = args[at + 1].parse().expect("a number of keys");
        let threads = args[at + 2].parse().expect("a number of threads");
        return row(n, threads).iter().for_each(|value| println!("{value}"));
    }
    print!("{:<18}", "keys, threads");
    COLUMNS.iter().for_each(|column| print!(" {column:>17}"));
    println!("\n{:<18} {:>17} ...{:>51} ...", "", "ns", "bytes a key");
    let sizes = match testing() {
        true => sizes(),
        false => [vec![10_000], sizes()].concat(),
    };
    for n in sizes {
        for threads in [1, 2] {
            let rounds = if testing() { 1 } else { ROUNDS };
            let rounds: Vec<_> = (0..rounds).map(|_| round(n, threads)).collect();
            print!("{:<18}", format!("{}, {threads}", short(n)));
            for column in 0..COLUMNS.len() {
                let values = rounds.iter().map(|values| values[column]).collect();
                print!(" {:>17.1}", median(values) as f64 / 10.0);
            }
            println!();
        }
    }
}

/// One round in a process of its own; tenths of what the columns say.
fn round(n: u64, threads: usize) -> Vec<i64> {
    let this = std::env::current_exe().expect("the benchmark knows itself");
    let mode = if testing() { "--test" } else { "--bench" };
    let output = Command::new(this)
        .args([ROW, &n.to_string(), &threads.to_string(), mode])
        .output()
        .expect("the benchmark starts again");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| line.parse().expect("a number")).collect()
}

fn row(n: u64, threads: usize) -> [i64; COLUMNS.len()] {
    let before = memory("VmRSS:");
    let store = store(n);
    let part = n / threads as u64;
    let n = part * threads as u64;
    let new = together(threads, |t| fill(&store, part * t as u64..part * (t as u64 + 1)));
    let stats = store.stats();
    assert_eq!(stats.keys_live, n);
    let over = |bytes: u64| (bytes as i64 - (PAYLOAD * n) as i64) * 10 / n as i64;
    let resident = memory("VmRSS:")
        .zip(before)
        .map(|(now, before)| now.saturating_sub(before));

    let draws = n.clamp(keys(200_000), 2_000_000);
    let each = |work: fn(&Store, u64, &mut Rng)| {
        let took = together(threads, |_| {
            let mut rng = Rng::new();
            (0..draws / 16).for_each(|_| work(&store, n, &mut rng));
        });
        tenths(took, draws / 16 * 16 * threads as u64)
    };
    [
        tenths(new, n),
        each(|store, n, rng| (0..16).for_each(|_| replay(store, &id(rng.below(n))))),
        each(|store, _, rng| (0..16).for_each(|_| miss(store, &id(ABSENT | rng.next() >> 8)))),
        each(|store, n, rng| batch(store, std::array::from_fn(|_| id(rng.below(n))))),
        over(stats.bytes_reserved),
        resident.map_or(0, over),
    ]
}

fn tenths(took: Duration, calls: u64) -> i64 {
    (took.as_nanos() * 10 / u128::from(calls)) as i64
}

fn replay(store: &Store, id: &Id) {
    let read = store.replay(Key::unscoped(id), Fingerprint::NONE, |stored| {
        check(stored.bytes(), id)
    });
    assert!(matches!(read, Ok(Replay::Hit(()))));
}

fn miss(store: &Store, id: &Id) {
    let read = store.replay(Key::unscoped(id), Fingerprint::NONE, |_| ());
    assert!(matches!(read, Ok(Replay::Miss)));
}

fn batch(store: &Store, ids: [Id; 16]) {
    let items = ids.each_ref().map(|id| (Key::unscoped(id), Fingerprint::NONE));
    let hits = store.replay_many(&items, |i, stored| check(stored.bytes(), &ids[i]));
    assert!(matches!(hits, Ok(16)));
}
