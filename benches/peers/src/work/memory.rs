//! The workloads in memory.
//!
//! Keys and outcomes are computed from numbers, so all cache misses are the peer's. One thread's
//! rows are CPU time of the calling thread, which a busy machine disturbs less than wall time; what
//! helpers of the peer took beside it stands in a row of its own. Rows of several threads are wall
//! time.

use super::histogram;
use crate::cell::{cpu, per, process_cpu, rate, report};
use crate::common::{Hands, OUTCOME, Rng, TTL, check, id, together};
use crate::memory::{Cycle, Peer, Setting};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

pub(crate) fn run<P: Peer>(workload: &str, n: u64) {
    match workload {
        "W1+W2" => one_thread::<P>(n),
        "W1+W2 2t" => two_threads::<P>(n),
        "W3" => [1, 2].into_iter().for_each(|threads| steady::<P>(n, threads)),
        "W4" => {
            [2, 8].into_iter().for_each(|threads| storm::<P>(n, threads));
            hot_key::<P>(n);
        }
        "W5" => tail::<P>(n),
        "W6 bytes" => bytes::<P>(n),
        "W6 expiry" => expiry::<P>(n),
        other => panic!("no workload is called {other}"),
    }
}

fn plain<P: Peer>(keys: u64) -> P {
    P::new(Setting {
        keys,
        hands: None,
        helper: true,
    })
}

fn fill<P: Peer>(peer: &P, numbers: std::ops::Range<u64>) {
    for n in numbers {
        assert_eq!(peer.cycle(&id(n)), Cycle::Won, "the key is new");
    }
}

/// Checks one key that is known.
#[inline]
fn owned<P: Peer>(peer: &P, n: u64) {
    let id = id(n);
    check(&peer.owned(&id).expect("the key is completed"), &id);
}

/// The same in place; the outcome's last byte.
#[inline]
fn lent<P: Peer>(peer: &P, n: u64) -> u64 {
    let id = id(n);
    let last = peer.lent(&id, |bytes| {
        check(bytes, &id);
        u64::from(bytes[OUTCOME - 1])
    });
    last.expect("the key is completed")
}

/// W1 and W2: new keys, growth and page faults included; then replays of them in random order.
fn one_thread<P: Peer>(n: u64) {
    let peer: P = plain(n);
    let before = process_cpu();
    report("w1.1t", per(cpu(|| fill(&peer, 0..n)), n));
    report("w1.all", per(process_cpu() - before, n));
    assert_eq!(peer.len(), n, "every key is there");

    let mut rng = Rng::new();
    let draws = draws(n);
    let keep = cpu(|| (0..draws).for_each(|_| owned(&peer, rng.below(n))));
    report("w2.owned", per(keep, draws));
    let look = cpu(|| (0..draws).for_each(|_| _ = lent(&peer, rng.below(n))));
    report("w2.lent", per(look, draws));
    // Each key follows from the outcome before it: no two replays overlap.
    let mut next = 0;
    let chain = cpu(|| {
        for _ in 0..draws {
            next = (rng.below(n) + lent(&peer, next)) % n;
        }
    });
    report("w2.chained", per(chain, draws));
    for (row, claim) in [("w2.many", false), ("w2.claims", true)] {
        let mut has = true;
        let batches = draws.div_ceil(16);
        let took = cpu(|| {
            for _ in 0..batches {
                has &= peer.batches(&std::array::from_fn(|_| id(rng.below(n))), claim);
            }
        });
        if has {
            report(row, per(took, 16 * batches));
        }
    }
}

/// Repeats enough for a mean.
fn draws(n: u64) -> u64 {
    n.min(500_000)
}

fn two_threads<P: Peer>(n: u64) {
    let peer: P = plain(n);
    let half = n / 2;
    let took = together(2, |t| fill(&peer, half * t as u64..half * (t as u64 + 1)));
    report("w1.2t", rate(took, 2 * half) / 1e6);
    let draws = draws(half);
    let repeat = |op: &(dyn Fn(u64) + Sync)| {
        let took = together(2, |_| {
            let mut rng = Rng::new();
            (0..draws).for_each(|_| op(rng.below(2 * half)));
        });
        rate(took, 2 * draws) / 1e6
    };
    report("w2.owned.2t", repeat(&|n| owned(&peer, n)));
    report("w2.lent.2t", repeat(&|n| _ = lent(&peer, n)));
}

/// One thread's part of W3.
struct Stream<'p, P> {
    peer: &'p P,
    hands: &'p Hands,
    /// Keys that live at a time, over all threads.
    n: u64,
    first: u64,
    made: u64,
    /// What a peer that does not expire keys is reminded of: deadlines and numbers, in order.
    due: VecDeque<(u64, u64)>,
    /// Milliseconds the clock was moved, over all threads.
    moved: &'p AtomicU64,
}

impl<P: Peer> Stream<'_, P> {
    fn run(&mut self, ops: u64, rng: &mut Rng, threads: u64) {
        let recent = self.n / threads / 2;
        for _ in 0..ops {
            if self.made > recent && rng.below(10) == 0 {
                // Where the other thread ran far ahead, this one may have expired: then it is new.
                self.peer
                    .cycle(&id(self.first + self.made - 1 - rng.below(recent)));
                continue;
            }
            let answer = self.peer.cycle(&id(self.first + self.made));
            assert_eq!(answer, Cycle::Won, "the key is new");
            self.made += 1;
            if self.made.is_multiple_of((self.n / TTL).max(1)) {
                self.hands.advance(1);
                self.moved.fetch_add(1, Ordering::Relaxed);
            }
            if !P::EXPIRES {
                self.expire();
            }
        }
    }

    /// Notes the newest key, and removes up to two that are due.
    fn expire(&mut self) {
        let now = self.moved.load(Ordering::Relaxed);
        self.due.push_back((now + TTL, self.first + self.made - 1));
        for _ in 0..2 {
            match self.due.front() {
                Some((until, n)) if *until < now => {
                    self.peer.remove_expired(&id(*n));
                    self.due.pop_front();
                }
                _ => return,
            }
        }
    }
}

/// W3: as many keys live as are made in one ttl; each new key lets an old one expire, and one claim
/// in ten repeats a key made a short while ago.
fn steady<P: Peer>(n: u64, threads: usize) {
    let hands = Hands::default();
    let moved = AtomicU64::new(0);
    let peer = P::new(Setting {
        keys: 2 * n,
        hands: Some(hands.clone()),
        helper: true,
    });
    let streams: Vec<_> = (0..threads as u64)
        .map(|t| Stream {
            peer: &peer,
            hands: &hands,
            n,
            first: t << 40,
            made: 0,
            due: VecDeque::new(),
            moved: &moved,
        })
        .map(parking_lot::Mutex::new)
        .collect();
    let each = n / threads as u64;
    let go = |ops| {
        together(threads, |t| {
            streams[t].lock().run(ops, &mut Rng::new(), threads as u64);
        })
    };
    // Twice around, until the number that live is steady.
    go(2 * each);
    if threads == 1 {
        report("w3.1t", per(cpu(|| _ = go(each)), each));
    } else {
        report("w3.2t", rate(go(each), each * threads as u64) / 1e6);
    }
    let live = peer.len();
    assert!(live <= 2 * n + 100, "expired keys go, yet {live} are here");
}

/// W4: all threads want the same new keys in the same order; exactly one wins each.
fn storm<P: Peer>(n: u64, threads: usize) {
    let n = n / 10;
    let peer: P = plain(n);
    let wins: Vec<AtomicU32> = (0..n).map(|_| AtomicU32::new(0)).collect();
    let took = together(threads, |_| {
        for (n, wins) in (0..).zip(&wins) {
            if peer.cycle(&id(n)) == Cycle::Won {
                wins.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let once = wins.iter().all(|wins| wins.load(Ordering::Relaxed) == 1);
    assert!(once, "every key has one winner");
    let row = if threads == 2 { "w4.2t" } else { "w4.8t" };
    report(row, rate(took, n * threads as u64) / 1e6);
}

/// W4: two threads read one completed key.
fn hot_key<P: Peer>(n: u64) {
    let peer: P = plain(1_000);
    fill(&peer, 0..1_000);
    let took = together(2, |_| (0..n).for_each(|_| _ = lent(&peer, black_box(7))));
    report("w4.hot", per(took, n));
}

/// W5: how long the longest cycles take while the peer grows.
fn tail<P: Peer>(n: u64) {
    let peer: P = plain(n);
    let mut times = histogram();
    for n in 0..n {
        let id = id(n);
        let began = Instant::now();
        let answer = peer.cycle(&id);
        times.saturating_record(began.elapsed().as_nanos() as u64);
        assert_eq!(answer, Cycle::Won, "the key is new");
    }
    report_tail(&times);
}

pub(crate) fn report_tail(times: &Histogram<u64>) {
    report("w5.p50", times.value_at_quantile(0.5) as f64);
    report("w5.p99", times.value_at_quantile(0.99) as f64);
    report("w5.p999", times.value_at_quantile(0.999) as f64);
    report("w5.max", times.max() as f64 / 1e3);
}

/// W6: what the process has more than before, over key and outcome.
fn bytes<P: Peer>(n: u64) {
    let before = resident("VmRSS:");
    let peer: P = plain(n);
    fill(&peer, 0..n);
    let now = resident("VmRSS:");
    let peak = resident("VmHWM:");
    assert_eq!(peer.len(), n, "every key is there");
    let over = |bytes: u64| bytes.saturating_sub(before) as f64 / n as f64 - crate::common::PAYLOAD as f64;
    report("w6.bytes", over(now));
    report("w6.peak", over(peak));
}

/// A line of /proc/self/status, in bytes.
fn resident(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this is Linux");
    let value = status.lines().find_map(|l| l.strip_prefix(line));
    let kib = value.and_then(|v| v.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.expect("the line says kB") * 1024
}

/// W6: everything expires in one tick, and is removed.
fn expiry<P: Peer>(n: u64) {
    let hands = Hands::default();
    let peer = P::new(Setting {
        keys: n,
        hands: Some(hands.clone()),
        helper: false,
    });
    fill(&peer, 0..n);
    hands.advance(2 * TTL);
    report("w6.expiry", per(cpu(|| peer.sweep()), n));
    assert_eq!(peer.len(), 0, "nothing is left");
    assert!(peer.owned(&id(n / 2)).is_none(), "nothing is found");
}
