//! The workloads with a disk.
//!
//! Rates are wall time. Runs of cycles end at a number of keys or after some seconds, whichever is
//! first, so that a slow peer does not hold up the others. After each the directory is opened anew
//! and what was acknowledged is looked up.

use super::histogram;
use crate::cell::{per, rate, report};
use crate::common::{Hands, Id, PAYLOAD, Rng, check, id, testing, together};
use crate::durable::{self, Batching, Mode, Peer};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A directory of this measurement, gone at its end.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let root = std::env::var_os("ONCEONLY_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = root.join(format!("onceonly-peers-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory can be made");
        Scratch(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn run<P: Peer>(workload: &str, n: u64, dir: Option<&String>) {
    match (workload, dir) {
        ("D1", _) => [1, 2]
            .into_iter()
            .for_each(|threads| cycles::<P>(Mode::Process, n, threads)),
        ("D2", _) => {
            for mode in [Mode::Both, Mode::Outcomes] {
                [1, 64]
                    .into_iter()
                    .for_each(|threads| cycles::<P>(mode, n, threads));
            }
        }
        ("D3+D5", _) => replays::<P>(n),
        ("D4", None) => reopen::<P>(n),
        ("D4", Some(dir)) => fill_and_crash::<P>(Path::new(dir), n),
        ("D5", _) => written::<P>(n),
        ("D6", _) => expiry::<P>(n),
        ("D7", _) => tail::<P>(n),
        other => panic!("no workload is called {other:?}"),
    }
}

/// No run of cycles takes longer.
fn limit() -> Duration {
    Duration::from_millis(if testing() { 200 } else { 2_000 })
}

/// Each thread's keys, apart from the others'.
fn number(thread: usize, k: u64) -> u64 {
    (thread as u64) << 40 | k
}

/// What one thread did: its keys, and what it noted about them.
struct Made<T> {
    keys: u64,
    notes: T,
}

/// Calls `cycle` for one new key after another on so many threads, to the limit.
fn repeat<T: Send>(
    threads: usize,
    each: u64,
    notes: impl Fn() -> T + Sync,
    cycle: impl Fn(&Id, &mut T) + Sync,
) -> (Duration, Vec<Made<T>>) {
    let made: Vec<_> = (0..threads).map(|_| Mutex::new(None)).collect();
    let took = together(threads, |t| {
        let until = Instant::now() + limit();
        let (mut keys, mut notes) = (0, notes());
        // The clock is looked at now and then only: fast peers would feel it.
        while keys < each && (keys % 16 != 0 || Instant::now() < until) {
            cycle(&id(number(t, keys)), &mut notes);
            keys += 1;
        }
        *made[t].lock() = Some(Made { keys, notes });
    });
    (took, made.into_iter().filter_map(Mutex::into_inner).collect())
}

/// What was acknowledged is there after a reopen: some thousand keys of each thread, and its last.
fn verify<P: Peer, T>(dir: &Path, mode: Mode, keys: u64, made: &[Made<T>]) {
    let peer = P::open(dir, mode, keys, None);
    for (t, made) in made.iter().enumerate() {
        let step = (made.keys / 1_000).max(1) as usize;
        let sample = (0..made.keys).step_by(step).chain(made.keys.checked_sub(1));
        sample.for_each(|k| known(&peer, number(t, k)));
    }
}

#[inline]
fn known<P: Peer>(peer: &P, n: u64) {
    let id = id(n);
    peer.replay(&id, |bytes| check(bytes, &id))
        .expect("the key is completed");
}

/// D1 and D2: cycles a second.
fn cycles<P: Peer>(mode: Mode, n: u64, threads: usize) {
    if P::able(mode).is_err() {
        return;
    }
    let scratch = Scratch::new();
    let each = n / threads as u64;
    let peer = P::open(scratch.path(), mode, n, None);
    let (took, made) = if P::WANTS_BATCHING && threads > 2 {
        let batching = Batching::new(&peer);
        repeat(threads, each, || (), |id, ()| batching.cycle(id))
    } else {
        repeat(threads, each, || (), |id, ()| peer.cycle(id, || ()))
    };
    drop(peer);
    verify::<P, _>(scratch.path(), mode, n, &made);
    let row = match mode {
        Mode::Process => format!("d1.{threads}t"),
        Mode::Both => format!("d2.both.{threads}"),
        Mode::Outcomes => format!("d2.outcome.{threads}"),
    };
    report(&row, rate(took, made.iter().map(|made| made.keys).sum()));
}

/// Claims and completes keys, in batches where the peer has them.
fn fill<P: Peer>(peer: &P, n: u64) {
    for from in (0..n).step_by(1_000) {
        let ids: Vec<Id> = (from..n.min(from + 1_000)).map(id).collect();
        peer.fill(&ids);
    }
}

/// D3: replays of known keys in random order. D5: what the files take.
fn replays<P: Peer>(n: u64) {
    let scratch = Scratch::new();
    let peer = P::open(scratch.path(), Mode::Process, n, None);
    fill(&peer, n);
    for threads in [1, 2] {
        let made = Mutex::new(0);
        let took = together(threads, |_| {
            let mut rng = Rng::new();
            let until = Instant::now() + limit();
            let mut k = 0;
            while k < n && (k % 16 != 0 || Instant::now() < until) {
                known(&peer, rng.below(n));
                k += 1;
            }
            *made.lock() += k;
        });
        report(&format!("d3.{threads}t"), rate(took, made.into_inner()) / 1e6);
    }
    peer.sync();
    report("d5.disk", size(scratch.path()) as f64 / n as f64);
}

/// Bytes that the files of a directory take on the disk.
fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("it is there").flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => 512 * meta.blocks(),
            // Removed meanwhile.
            Err(_) => 0,
        })
        .sum()
}

/// D4: from a killed process to the first replay; files in the page cache.
fn reopen<P: Peer>(n: u64) {
    let scratch = Scratch::new();
    let this = std::env::current_exe().expect("the benchmark knows itself");
    let mode = if testing() { "--test" } else { "--bench" };
    let status = Command::new(this)
        .args(["--cell", "D4", P::NAME, &n.to_string(), "--dir"])
        .arg(scratch.path())
        .args([mode, "--bench"])
        .status()
        .expect("the benchmark starts again");
    let killed = status.signal() == Some(libc::SIGKILL) || status.success();
    assert!(killed, "it was to be killed: {status}");
    let began = Instant::now();
    let peer = P::open(scratch.path(), Mode::Process, n, None);
    known(&peer, n / 2);
    report("d4", began.elapsed().as_secs_f64() * 1e3);
    (0..n)
        .step_by((n as usize / 1_000).max(1))
        .for_each(|k| known(&peer, k));
    known(&peer, n - 1);
}

fn fill_and_crash<P: Peer>(dir: &Path, n: u64) {
    let peer = P::open(dir, Mode::Process, n, None);
    fill(&peer, n);
    peer.crash()
}

/// D5: bytes sent to the device for each byte of key and outcome, with a sync of all at the end.
fn written<P: Peer>(n: u64) {
    let n = n / 10;
    let scratch = Scratch::new();
    let peer = P::open(scratch.path(), Mode::Process, n, None);
    let before = sent(peer.writer());
    for n in 0..n {
        peer.cycle(&id(n), || ());
    }
    peer.sync();
    let sent = sent(peer.writer()) - before;
    report("d5.device", sent as f64 / (n * PAYLOAD) as f64);
}

/// Bytes a process has caused to be sent to disks.
fn sent(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/io")).expect("this is Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes:"));
    line.and_then(|n| n.trim().parse().ok()).expect("it says so")
}

/// D6: everything expires, and is removed.
fn expiry<P: Peer>(n: u64) {
    let scratch = Scratch::new();
    let peer = P::open(scratch.path(), Mode::Process, n, Some(Hands::default()));
    fill(&peer, n);
    let began = Instant::now();
    if peer.sweep(durable::now() + 2 * durable::TTL) {
        report("d6", per(began.elapsed(), n));
        assert!(peer.replay(&id(n / 2), |_| ()).is_none(), "nothing is left");
    }
}

/// D7: the longest of claims and completions, by two callers, without syncs.
fn tail<P: Peer>(n: u64) {
    let scratch = Scratch::new();
    let peer = P::open(scratch.path(), Mode::Process, n, None);
    let both = || [histogram(), histogram()];
    let (_, made) = repeat(2, n / 2, both, |id, [claims, completes]| {
        let began = Instant::now();
        let mut claimed = began;
        peer.cycle(id, || claimed = Instant::now());
        completes.saturating_record(claimed.elapsed().as_nanos() as u64);
        claims.saturating_record((claimed - began).as_nanos() as u64);
    });
    let mut all = both();
    for made in &made {
        for (all, notes) in all.iter_mut().zip(&made.notes) {
            all.add(notes).expect("their bounds are the same");
        }
    }
    let worst = |of: &dyn Fn(&Histogram<u64>) -> u64| all.iter().map(of).max().unwrap_or(0) as f64 / 1e3;
    report("d7.p999", worst(&|h| h.value_at_quantile(0.999)));
    report("d7.max", worst(&|h| h.max()));
}
