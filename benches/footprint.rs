//! Bytes per key over the payload (16 bytes of key, 128 of outcome).
//!
//! - reserved: what the store counts against `max_bytes`, from `Stats`
//! - resident: what the process has more than before the store was made, from /proc/self/status
//!   (Linux only; elsewhere the column stays empty)
//! - peak: the same at its highest while the store was filled
//!
//! Each row is measured in a process of its own, so that no freed memory of the row before is
//! used again. `ONCEONLY_BENCH_10M=1` adds ten million keys.

mod common;

use common::*;
use std::process::Command;

/// Says that this process measures one row: the number of keys, and if they have fingerprints.
const ROW: &str = "--row";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == ROW) {
        let n = args[at + 1].parse().expect("a number of keys");
        return row(n, args[at + 2] == "true");
    }
    println!(
        "{:<28} {:>9} {:>9} {:>9}   bytes per key over the payload of {PAYLOAD}",
        "keys", "reserved", "resident", "peak"
    );
    let this = std::env::current_exe().expect("the benchmark knows itself");
    for n in sizes() {
        for fingerprints in [false, true] {
            let status = Command::new(&this)
                .args([ROW, &n.to_string(), &fingerprints.to_string()])
                .status()
                .expect("the benchmark starts again");
            assert!(status.success());
        }
    }
}

fn row(n: u64, fingerprints: bool) {
    let before = memory("VmRSS:");
    let store = store(n);
    if fingerprints {
        fill_with_fingerprints(&store, 0..n);
    } else {
        fill(&store, 0..n);
    }
    let (resident, peak) = (memory("VmRSS:"), memory("VmHWM:"));
    let stats = store.stats();
    assert_eq!(stats.keys_live, n);
    let per_key = |bytes: u64| bytes as f64 / n as f64 - PAYLOAD as f64;
    let cell = |bytes: Option<u64>| {
        let grown = bytes.zip(before).map(|(now, before)| now.saturating_sub(before));
        grown.map_or("-".into(), |bytes| format!("{:.1}", per_key(bytes)))
    };
    let kind = if fingerprints {
        "with fingerprints"
    } else {
        "without"
    };
    println!(
        "{:<28} {:>9.1} {:>9} {:>9}",
        format!("{} {kind}", short(n)),
        per_key(stats.bytes_reserved),
        cell(resident),
        cell(peak),
    );
}
