//! Instructions per call, counted by valgrind's callgrind: the same on a busy machine as on a quiet
//! one, so a change of a percent shows that no timing would. It says nothing of cache misses.
//!
//! Runs itself under valgrind once for each stream and prints the counts beside those of
//! `instructions.txt`; `ONCEONLY_BLESS=1` writes that file anew. Counts differ by a percent or so
//! between runs, for each store hashes with seeds of its own, and with compilers and C libraries.
//!
//! Then, by valgrind's lackey, which cache lines replays of the same keys by two threads store to:
//! none may be stored to by both, or more processors would not read faster than one. (Once in 128
//! calls of a thread the epoch is moved on, which all share; the replays looked at lie between.)

mod common;

use common::*;
use onceonly::{Durability, Fingerprint, Key, Replay, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

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
        Some(name) if name == TRACED => traced(),
        Some(name) => {
            let (_, run) = STREAMS
                .iter()
                .find(|(known, _)| *known == name)
                .expect("a stream");
            run(CALLS);
        }
        None if testing() => {
            STREAMS.iter().for_each(|(_, run)| run(100));
            traced();
        }
        None => compare(),
    }
}

/// Names the run whose stores are traced.
const TRACED: &str = "traced";
/// Replays of each thread that are looked at, and those before, which include its first move of the
/// epoch.
const REPLAYS: u64 = 100;
const BEFORE: u64 = 130;

/// Stored to before a thread's replays and after them.
#[repr(align(128))]
struct Mark(AtomicU64);
static MARK: Mark = Mark(AtomicU64::new(0));

/// Two threads, one after the other, replay the same keys. Prints where the mark is, and each
/// thread's stack.
fn traced() {
    let store = filled(1_000);
    println!("{:x}", MARK.0.as_ptr().addr());
    for _ in 0..2 {
        thread::scope(|scope| {
            scope.spawn(|| {
                let here = 0_u8;
                println!("{:x}", (&raw const here).addr());
                replay_all(&store, BEFORE);
                MARK.0.store(1, Ordering::Relaxed);
                replay_all(&store, REPLAYS);
                MARK.0.store(2, Ordering::Relaxed);
            });
        });
    }
}

/// Runs that under valgrind and compares the two threads' lines.
fn lines() {
    let program = std::env::current_exe().expect("a program has a path");
    let mut run = Command::new("valgrind")
        .args(["--tool=lackey", "--trace-mem=yes", "--log-fd=2", "--"])
        .arg(program)
        .arg(TRACED)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("valgrind runs");
    let mut all: Vec<u64> = Vec::new();
    let trace = BufReader::new(run.stderr.take().expect("it was asked for"));
    for line in trace.lines().map_while(Result::ok) {
        let Some(at) = line.strip_prefix(" S ").or(line.strip_prefix(" M ")) else {
            continue;
        };
        let at = at
            .split_once(',')
            .and_then(|(at, _)| u64::from_str_radix(at, 16).ok());
        all.extend(at);
    }
    let output = run.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stdout);
    let mut said = said.lines().filter_map(|at| u64::from_str_radix(at, 16).ok());
    let mark = said.next().expect("it says where the mark is");
    let stacks: Vec<u64> = said.collect();
    // What lies between the first two marks is one thread's, and between the next two the other's.
    let parts: Vec<&[u64]> = all.split(|at| *at == mark).collect();
    let off_stack = |at: &&u64| stacks.iter().all(|stack| stack.abs_diff(**at) > 1 << 20);
    let lines = |part: usize| parts[part].iter().filter(off_stack).map(|at| at / 64);
    let [one, other] = [1, 3].map(|part| lines(part).collect::<BTreeSet<_>>());
    println!(
        "\nlines stored to by a replay, off the stack: {} by one thread, {} by another, {} by both; {} stores a replay",
        one.len(),
        other.len(),
        one.intersection(&other).count(),
        lines(1).count() as u64 / REPLAYS,
    );
    assert!(!one.is_empty() && one.is_disjoint(&other), "no line is shared");
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
    lines();
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
    counted(&mut || replay_all(&store, calls));
}

fn replay_all(store: &Store, calls: u64) {
    for n in 0..calls {
        let id = id(n);
        let read = store.replay(Key::unscoped(&id), Fingerprint::NONE, |s| s.bytes().len());
        assert!(matches!(read, Ok(Replay::Hit(OUTCOME))));
    }
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
