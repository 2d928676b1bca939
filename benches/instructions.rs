//! Instructions per call, counted by valgrind's callgrind: the same on a busy machine as on a quiet
//! one, so a change of a percent shows that no timing would. It says nothing of cache misses.
//!
//! Runs itself under valgrind once for each stream and prints the counts beside those of
//! `instructions.txt`; `ONCEONLY_BLESS=1` writes that file anew. Counts differ by a percent or so
//! between runs, for each store hashes with seeds of its own, and with compilers and C libraries.

mod common;

use common::*;
use onceonly::{Durability, Fingerprint, Key, Replay, Store};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

/// Calls of each stream.
const CALLS: u64 = 50_000;
const KNOWN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

type Stream = fn(u64);

const STREAMS: [(&str, Stream); 7] = [
    ("claim and complete", cycles),
    ("claim and complete, Process", logged_cycles),
    ("claim of a known key", known),
    ("replay in place", replays),
    ("replay of 16, a key", batches),
    ("replay of an unknown key", misses),
    ("claim and release", releases),
];

/// What is counted: all that happens in here.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    std::hint::black_box(());
}

fn main() {
    let mut args = std::env::args().skip(1);
    let stream = args.next().filter(|arg| !arg.starts_with("--"));
    match stream {
        Some(name) => {
            let (_, run) = STREAMS
                .iter()
                .find(|(known, _)| *known == name)
                .expect("a stream");
            run(CALLS);
        }
        None if testing() => STREAMS.iter().for_each(|(_, run)| run(100)),
        None => compare(),
    }
}

/// Runs each stream under valgrind and compares.
fn compare() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("skipped: valgrind is not installed");
        return;
    }
    let known = std::fs::read_to_string(KNOWN).unwrap_or_default();
    let known: BTreeMap<_, u64> = known
        .lines()
        .filter_map(|line| line.rsplit_once(": "))
        .filter_map(|(name, count)| Some((name, count.parse().ok()?)))
        .collect();
    println!(
        "{:<30} {:>12} {:>8} {:>8}",
        "instructions a call", "now", "before", "change"
    );
    let mut text = String::new();
    for (name, _) in STREAMS {
        let now = count(name);
        let (before, change) = match known.get(name) {
            Some(before) => {
                let change = (now as f64 / *before as f64 - 1.0) * 100.0;
                (before.to_string(), format!("{change:+.1} %"))
            }
            None => Default::default(),
        };
        println!("{name:<30} {now:>12} {before:>8} {change:>8}");
        writeln!(text, "{name}: {now}").expect("strings take everything");
    }
    if std::env::var_os("ONCEONLY_BLESS").is_some() {
        std::fs::write(KNOWN, text).expect("the file can be written");
    }
}

fn count(name: &str) -> u64 {
    let program = std::env::current_exe().expect("a program has a path");
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(["--toggle-collect=instructions::counted", "--"])
        .arg(program)
        .arg(name)
        .output()
        .expect("valgrind runs");
    let text = String::from_utf8_lossy(&run.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected : "));
    let collected: Option<u64> = collected.and_then(|(_, count)| count.trim().parse().ok());
    match collected {
        Some(count) if run.status.success() => count / CALLS,
        _ => panic!("{text}"),
    }
}

/// No helper: it would run at moments of its own.
fn quiet(calls: u64) -> Store {
    let builder = builder(calls).helper_thread(false);
    builder.in_memory().expect("the options are good")
}

fn filled(calls: u64) -> Store {
    let store = quiet(calls);
    fill(&store, 0..calls);
    store
}

fn cycles(calls: u64) {
    let store = quiet(calls);
    counted(&mut || fill(&store, 0..calls));
}

fn logged_cycles(calls: u64) {
    let dir = std::env::temp_dir().join(format!("onceonly-instructions-{}", std::process::id()));
    let dir = Scratch(dir);
    let builder = builder(calls)
        .helper_thread(false)
        .durability(Durability::Process);
    let store = builder.open(&dir.0).expect("the directory can be made");
    counted(&mut || fill(&store, 0..calls));
}

/// Gone at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn known(calls: u64) {
    let store = filled(calls);
    counted(&mut || (0..calls).for_each(|n| claim_known(&store, &id(n))));
}

fn replays(calls: u64) {
    let store = filled(calls);
    counted(&mut || {
        for n in 0..calls {
            let id = id(n);
            let read = store.replay(Key::unscoped(&id), Fingerprint::NONE, |s| s.bytes().len());
            assert!(matches!(read, Ok(Replay::Hit(OUTCOME))));
        }
    });
}

fn batches(calls: u64) {
    let store = filled(calls);
    counted(&mut || {
        for first in (0..calls / 16 * 16).step_by(16) {
            let ids: [Id; 16] = std::array::from_fn(|i| id(first + i as u64));
            let keys = ids.each_ref().map(|id| (Key::unscoped(id), Fingerprint::NONE));
            let hits = store.replay_many(&keys, |_, stored| assert!(stored.bytes().len() == OUTCOME));
            assert!(matches!(hits, Ok(16)));
        }
    });
}

fn misses(calls: u64) {
    let store = filled(calls);
    counted(&mut || {
        for n in 0..calls {
            let id = id(ABSENT + n);
            let read = store.replay(Key::unscoped(&id), Fingerprint::NONE, |_| ());
            assert!(matches!(read, Ok(Replay::Miss)));
        }
    });
}

fn releases(calls: u64) {
    let store = quiet(calls);
    counted(&mut || {
        for n in 0..calls {
            let guard = acquire(&store, &id(n), Fingerprint::NONE);
            guard.release().expect("it is held");
        }
    });
}
