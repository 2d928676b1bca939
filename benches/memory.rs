//! The store in memory: time per operation.
//!
//! Every number is wall time per operation: with two threads, the time until both are done
//! divided by the operations of both. `ONCEONLY_BENCH_10M=1` adds ten million keys.

mod common;

use common::*;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode};
use onceonly::{Claim, Fingerprint, Key, Replay, Store};
use std::hint::black_box;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

fn main() {
    let mut c = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(1_200))
        .configure_from_args();
    new_keys(&mut c);
    for n in sizes() {
        let known = Known::new(n);
        replay_hits(&mut c, &known);
        misses(&mut c, &known);
        batches(&mut c, &known);
    }
    storm(&mut c);
    hot_key(&mut c);
    expiry(&mut c);
    steady(&mut c);
    c.final_summary();
}

fn group<'c>(c: &'c mut Criterion, name: &str) -> BenchmarkGroup<'c, WallTime> {
    let mut group = c.benchmark_group(name);
    group.sampling_mode(SamplingMode::Flat);
    group
}

/// What `iters` operations would have taken, if `ops` took that long: for rounds whose length
/// is not criterion's to choose.
fn scaled(iters: u64, ops: u64, took: Duration) -> Duration {
    let nanos = took.as_nanos() * u128::from(iters) / u128::from(ops);
    Duration::from_nanos(nanos as u64)
}

/// A store of completed keys, made when it is first used.
struct Known {
    n: u64,
    store: LazyLock<Store, Box<dyn FnOnce() -> Store + Send>>,
}

impl Known {
    fn new(n: u64) -> Self {
        let filled = move || {
            let store = store(n);
            fill(&store, 0..n);
            store
        };
        Known {
            n,
            store: LazyLock::new(Box::new(filled)),
        }
    }
}

/// Fills a new store, its growth and page faults included.
fn new_keys(c: &mut Criterion) {
    let mut group = group(c, "new_keys");
    for n in sizes() {
        for (kind, fill) in [
            ("plain", fill as fn(&Store, std::ops::Range<u64>)),
            ("fingerprint", fill_with_fingerprints),
        ] {
            for threads in [1, 2] {
                group.bench_function(format!("{kind}/{}/{threads}t", short(n)), |b| {
                    b.iter_custom(|iters| {
                        let store = store(n);
                        let each = n / threads as u64;
                        let took = together(threads, |t| {
                            let from = each * t as u64;
                            fill(&store, from..from + each);
                        });
                        let stats = store.stats();
                        assert_eq!((stats.acquired, stats.completed), (n, n));
                        scaled(iters, n, took)
                    });
                });
            }
        }
    }
}

/// Measures an operation on so many threads.
fn drawn(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    known: &Known,
    threads: usize,
    op: impl Fn(&Store, &mut Rng) + Sync,
) {
    group.bench_function(format!("{name}/{}/{threads}t", short(known.n)), |b| {
        let store = &*known.store;
        b.iter_custom(|iters| {
            let each = iters.div_ceil(threads as u64);
            let took = together(threads, |_| {
                let mut rng = Rng::new();
                for _ in 0..each {
                    op(store, &mut rng);
                }
            });
            scaled(iters, each * threads as u64, took)
        });
    });
}

/// Lends a known key's outcome to `read`.
#[inline]
fn replay_known<R>(store: &Store, id: &Id, read: impl FnOnce(&[u8]) -> R) -> R {
    match store.replay(Key::unscoped(id), Fingerprint::NONE, |stored| {
        read(stored.bytes())
    }) {
        Ok(Replay::Hit(result)) => result,
        _ => panic!("the key is completed"),
    }
}

fn replay_hits(c: &mut Criterion, known: &Known) {
    let n = known.n;
    let mut group = group(c, "replay_hit");
    for threads in [1, 2] {
        drawn(&mut group, "claim", known, threads, |store, rng| {
            claim_known(store, &id(rng.below(n)));
        });
        drawn(&mut group, "zero_copy", known, threads, |store, rng| {
            let id = id(rng.below(n));
            replay_known(store, &id, |bytes| check(bytes, &id));
        });
    }
    drawn(&mut group, "copied_out", known, 1, |store, rng| {
        let id = id(rng.below(n));
        let copy = replay_known(store, &id, <[u8]>::to_vec);
        check(&copy, &id);
    });
    // Each key follows from the outcome before it: no two replays overlap.
    group.bench_function(format!("chained/{}/1t", short(n)), |b| {
        let store = &*known.store;
        let mut rng = Rng::new();
        let mut next = 0;
        b.iter(|| {
            let id = id(next);
            let last = replay_known(store, &id, |bytes| {
                check(bytes, &id);
                u64::from(bytes[OUTCOME - 1])
            });
            next = (rng.below(n) + last) % n;
        });
    });
}

fn misses(c: &mut Criterion, known: &Known) {
    let mut group = group(c, "miss");
    for threads in [1, 2] {
        drawn(&mut group, "replay", known, threads, |store, rng| {
            let id = id(ABSENT + rng.below(1 << 40));
            let answer = store.replay(Key::unscoped(&id), Fingerprint::NONE, |_| ());
            assert!(matches!(answer, Ok(Replay::Miss)));
        });
    }
}

const BATCH: usize = 16;

/// Known keys, 16 at a time; time per key.
fn batches(c: &mut Criterion, known: &Known) {
    let n = known.n;
    let mut group = group(c, "batch_of_16");
    group.bench_function(format!("replay_many/{}", short(n)), |b| {
        let store = &*known.store;
        b.iter_custom(|iters| {
            time_batches(iters, n, |items, ids| {
                let hits = store.replay_many(items, |i, stored| check(stored.bytes(), &ids[i]));
                assert!(matches!(hits, Ok(BATCH)));
            })
        });
    });
    group.bench_function(format!("claim_many/{}", short(n)), |b| {
        let store = &*known.store;
        let mut answers = Vec::new();
        b.iter_custom(|iters| {
            time_batches(iters, n, |items, ids| {
                store.claim_many(items, &mut answers).expect("the store is open");
                for (answer, id) in answers.iter().zip(ids) {
                    match answer {
                        Ok(Claim::Completed(outcome)) => check(outcome, id),
                        other => panic!("the key is completed: {other:?}"),
                    }
                }
            })
        });
    });
}

fn time_batches(iters: u64, n: u64, mut op: impl FnMut(&[(Key<'_>, Fingerprint)], &[Id])) -> Duration {
    let mut rng = Rng::new();
    let batches = iters.div_ceil(BATCH as u64);
    let began = Instant::now();
    for _ in 0..batches {
        let ids: [Id; BATCH] = std::array::from_fn(|_| id(rng.below(n)));
        let items = ids.each_ref().map(|id| (Key::unscoped(id), Fingerprint::NONE));
        op(&items, &ids);
    }
    scaled(iters, batches * BATCH as u64, began.elapsed())
}

/// All threads want the same new keys, in the same order. Exactly one wins each.
fn storm(c: &mut Criterion) {
    let n = keys(100_000);
    let mut group = group(c, "storm");
    for waiting in [false, true] {
        for threads in [2, 8] {
            let name = if waiting { "claim_wait" } else { "claim" };
            group.bench_function(format!("{name}/{threads}t"), |b| {
                b.iter_custom(|iters| {
                    let store = store(n);
                    let wins: Vec<AtomicU32> = (0..n).map(|_| AtomicU32::new(0)).collect();
                    let took = together(threads, |_| {
                        for (n, wins) in (0..).zip(&wins) {
                            if want(&store, &id(n), waiting) {
                                wins.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                    assert!(
                        wins.iter().all(|w| w.load(Ordering::Relaxed) == 1),
                        "one winner a key"
                    );
                    scaled(iters, n * threads as u64, took)
                });
            });
        }
    }
}

/// Claims a key others want too; true for its winner, who completes it.
fn want(store: &Store, id: &Id, waiting: bool) -> bool {
    let key = Key::unscoped(id);
    let claim = if waiting {
        store.claim_wait(key, Fingerprint::NONE, Duration::from_secs(60))
    } else {
        store.claim(key, Fingerprint::NONE)
    };
    match claim {
        Ok(Claim::Acquired(guard)) => {
            guard.complete(&outcome(id)).expect("there is room");
            true
        }
        Ok(Claim::Completed(outcome)) => {
            check(&outcome, id);
            false
        }
        Ok(Claim::InFlight(_)) if !waiting => false,
        other => panic!("acquired, completed or in flight: {other:?}"),
    }
}

/// Everybody asks for one completed key.
fn hot_key(c: &mut Criterion) {
    let known = Known::new(keys(1_000));
    let id = id(7);
    let mut group = group(c, "hot_key");
    for threads in [1, 2] {
        drawn(&mut group, "claim", &known, threads, |store, _| {
            claim_known(store, black_box(&id));
        });
        drawn(&mut group, "zero_copy", &known, threads, |store, _| {
            replay_known(store, black_box(&id), |bytes| check(bytes, &id));
        });
    }
}

/// Everything expires in one tick.
fn expiry(c: &mut Criterion) {
    let n = keys(1_000_000);
    let mut group = group(c, "expiry");
    group.bench_function(format!("maintain_per_key/{}", short(n)), |b| {
        b.iter_custom(|iters| {
            let store = expired(n);
            let began = Instant::now();
            while store.maintain(Duration::from_secs(1)).expect("the store is open") {}
            let took = began.elapsed();
            assert_eq!(store.stats().keys_live, 0);
            scaled(iters, n, took)
        });
    });
    group.bench_function(format!("longest_claim_alone/{}", short(n)), |b| {
        b.iter_custom(|iters| longest_claim(&expired(n), n) * iters as u32);
    });
    group.bench_function(format!("longest_claim_beside_maintain/{}", short(n)), |b| {
        b.iter_custom(|iters| {
            let store = expired(n);
            let done = AtomicBool::new(false);
            let longest = thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        store.maintain(Duration::from_secs(1)).expect("the store is open");
                    }
                });
                let longest = longest_claim(&store, n);
                done.store(true, Ordering::Relaxed);
                longest
            });
            longest * iters as u32
        });
    });
}

/// The longest of many calls of `claim` while the store's old keys are on their way out.
fn longest_claim(store: &Store, n: u64) -> Duration {
    let mut longest = Duration::ZERO;
    for n in n..n + n / 4 {
        let id = id(n);
        let began = Instant::now();
        let guard = acquire(store, &id, Fingerprint::NONE);
        longest = longest.max(began.elapsed());
        guard.complete(&outcome(&id)).expect("there is room");
    }
    longest
}

/// As many keys live as are made in one ttl: each new key lets an old one expire. One claim in
/// ten repeats a key made a short while ago.
fn steady(c: &mut Criterion) {
    let n = keys(1_000_000);
    let mut group = group(c, "steady");
    for threads in [1, 2] {
        let stream = LazyLock::new(|| Stream::new(n, threads));
        group.bench_function(format!("new_and_repeated/{}/{threads}t", short(n)), |b| {
            let stream = &*stream;
            b.iter_custom(|iters| {
                let each = iters.div_ceil(threads as u64);
                let took = together(threads, |t| stream.run(t, each));
                let live = stream.store.stats().keys_live;
                assert!(live <= 2 * n, "expired keys go, yet {live} are here");
                scaled(iters, each * threads as u64, took)
            });
        });
    }
}

/// A stream of keys that moves the clock: after `n` new keys the first of them expires.
struct Stream {
    store: Store,
    hands: Hands,
    n: u64,
    /// How many keys each thread has made.
    made: Vec<AtomicU64>,
}

impl Stream {
    /// The stream once it has come around twice.
    fn new(n: u64, threads: usize) -> Self {
        let (store, hands) = short_lived(2 * n, true);
        let stream = Stream {
            store,
            hands,
            n,
            made: (0..threads).map(|_| AtomicU64::new(0)).collect(),
        };
        together(threads, |t| stream.run(t, 2 * n / threads as u64));
        stream
    }

    fn run(&self, thread: usize, ops: u64) {
        let mut rng = Rng::new();
        let first = (thread as u64) << 40;
        let mut made = self.made[thread].load(Ordering::Relaxed);
        let recent = self.n / self.made.len() as u64 / 2;
        for _ in 0..ops {
            if made > recent && rng.below(10) == 0 {
                self.once(&id(first + made - 1 - rng.below(recent)));
            } else {
                self.once(&id(first + made));
                made += 1;
                if made.is_multiple_of(self.n / TTL) {
                    self.hands.advance(1);
                }
            }
        }
        self.made[thread].store(made, Ordering::Relaxed);
    }

    /// Claims and completes a key, or checks its replay. (Where one thread stood still for
    /// long, the keys it made last may have expired.)
    fn once(&self, id: &Id) {
        match self.store.claim(Key::unscoped(id), Fingerprint::NONE) {
            Ok(Claim::Acquired(guard)) => guard.complete(&outcome(id)).expect("there is room"),
            Ok(Claim::Completed(outcome)) => check(&outcome, id),
            other => panic!("acquired or completed: {other:?}"),
        }
    }
}
