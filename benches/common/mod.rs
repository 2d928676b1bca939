//! What the benchmarks share: keys, stores, threads, times.
//!
//! Keys and outcomes are computed from a number, never stored, so every cache miss in a
//! measurement is the store's own. Keys are drawn in random order. Every answer is checked: an
//! outcome is its key, eight times over.
#![allow(dead_code, reason = "each benchmark uses its part")]

use onceonly::{Claim, Clock, Fingerprint, Key, Store};
use std::hint::black_box;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// The key: 16 bytes that look random.
pub(crate) type Id = [u8; 16];

pub(crate) const OUTCOME: usize = 128;
/// Key and outcome.
pub(crate) const PAYLOAD: u64 = (size_of::<Id>() + OUTCOME) as u64;

/// Numbers from here on are never stored: keys to miss.
pub(crate) const ABSENT: u64 = 1 << 60;

/// Is this a test whether the benchmarks work, rather than a measurement?
pub(crate) fn testing() -> bool {
    let has = |flag: &str| std::env::args().any(|arg| arg == flag);
    has("--test") || !has("--bench")
}

/// So many keys, or few when testing.
pub(crate) fn keys(n: u64) -> u64 {
    if testing() { n.min(2_000) } else { n }
}

/// The numbers of keys to measure at; ten million on demand.
pub(crate) fn sizes() -> Vec<u64> {
    if testing() {
        return vec![keys(u64::MAX)];
    }
    let mut sizes = vec![100_000, 1_000_000];
    if std::env::var_os("ONCEONLY_BENCH_10M").is_some_and(|v| v == "1") {
        sizes.push(10_000_000);
    }
    sizes
}

/// 100000 as "100k", 1000000 as "1M".
pub(crate) fn short(n: u64) -> String {
    match n {
        n if n >= 1_000_000 && n % 1_000_000 == 0 => format!("{}M", n / 1_000_000),
        n if n >= 1_000 && n % 1_000 == 0 => format!("{}k", n / 1_000),
        n => n.to_string(),
    }
}

/// Scatters the bits of a number (the finisher of splitmix64, a bijection).
fn scatter(n: u64) -> u64 {
    let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

/// The key with this number.
#[inline]
pub(crate) fn id(n: u64) -> Id {
    let (high, low) = (scatter(n), scatter(!n));
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

/// The outcome that belongs to a key.
#[inline]
pub(crate) fn outcome(id: &Id) -> [u8; OUTCOME] {
    let mut bytes = [0; OUTCOME];
    let (parts, _) = bytes.as_chunks_mut();
    parts.fill(*id);
    bytes
}

/// The fingerprint that belongs to a key.
#[inline]
pub(crate) fn fingerprint(id: &Id) -> Fingerprint {
    Fingerprint::from_bytes((!u128::from_le_bytes(*id)).to_le_bytes())
}

/// The bytes a replay gave must be those stored for the key.
#[inline]
pub(crate) fn check(bytes: &[u8], id: &Id) {
    assert!(
        bytes == outcome(id),
        "the replay gave other bytes than were stored"
    );
}

/// A xorshift generator: fast, and good enough to draw keys.
pub(crate) struct Rng(u64);

impl Rng {
    /// A generator that draws other numbers than those made before it.
    pub(crate) fn new() -> Self {
        static SEED: AtomicU64 = AtomicU64::new(1);
        Rng(scatter(SEED.fetch_add(1, Ordering::Relaxed)))
    }

    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `n`.
    #[inline]
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(n)) >> 64) as u64
    }
}

/// Hands that are moved by the benchmark, read at the price of the machine's clock.
#[derive(Clone, Default)]
pub(crate) struct Hands(Arc<AtomicU64>);

impl Hands {
    pub(crate) fn advance(&self, millis: u64) {
        self.0.fetch_add(millis, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn monotonic(&self) -> Duration {
        black_box(Instant::now());
        Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

/// A store made for so many keys.
pub(crate) fn builder(keys: u64) -> onceonly::Builder {
    Store::builder().max_keys(keys + keys / 4).max_bytes(8 << 30)
}

pub(crate) fn store(keys: u64) -> Store {
    builder(keys).in_memory().expect("the options are good")
}

/// The ttl of stores whose keys are to expire, in milliseconds.
pub(crate) const TTL: u64 = 1_000;

/// A store whose keys live for [`TTL`] by a clock that is moved by hand.
pub(crate) fn short_lived(keys: u64, helper: bool) -> (Store, Hands) {
    let hands = Hands::default();
    let store = builder(keys)
        .ttl(Duration::from_millis(TTL))
        .clock(hands.clone())
        .helper_thread(helper)
        .in_memory()
        .expect("the options are good");
    (store, hands)
}

/// A store whose `n` keys have all expired just now, with room for as many more, and without a
/// helper to see to it.
pub(crate) fn expired(n: u64) -> Store {
    let (store, hands) = short_lived(2 * n, false);
    fill(&store, 0..n);
    hands.advance(2 * TTL);
    store
}

/// Claims a new key.
#[inline]
pub(crate) fn acquire<'s>(store: &'s Store, id: &Id, fingerprint: Fingerprint) -> onceonly::ClaimGuard<'s> {
    match store.claim(Key::unscoped(id), fingerprint) {
        Ok(Claim::Acquired(guard)) => guard,
        other => panic!("the key is new: {other:?}"),
    }
}

/// Claims and completes one new key.
#[inline]
pub(crate) fn claim_and_complete(store: &Store, id: &Id, fingerprint: Fingerprint) {
    let guard = acquire(store, id, fingerprint);
    guard.complete(&outcome(id)).expect("there is room");
}

/// Claims and completes all of these keys, in order.
pub(crate) fn fill(store: &Store, numbers: Range<u64>) {
    for n in numbers {
        claim_and_complete(store, &id(n), Fingerprint::NONE);
    }
}

/// The same with a fingerprint for each key.
pub(crate) fn fill_with_fingerprints(store: &Store, numbers: Range<u64>) {
    for n in numbers {
        let id = id(n);
        claim_and_complete(store, &id, fingerprint(&id));
    }
}

/// Replays a known key by claiming it.
#[inline]
pub(crate) fn claim_known(store: &Store, id: &Id) {
    match store.claim(Key::unscoped(id), Fingerprint::NONE) {
        Ok(Claim::Completed(outcome)) => check(&outcome, id),
        other => panic!("the key is completed: {other:?}"),
    }
}

/// Runs `work(0)`, `work(1)`, … at the same time; from their common start to the last end.
/// Work for one is done on this thread.
pub(crate) fn together(threads: usize, work: impl Fn(usize) + Sync) -> Duration {
    if threads == 1 {
        let began = Instant::now();
        work(0);
        return began.elapsed();
    }
    let line = Barrier::new(threads);
    let run = |thread| {
        line.wait();
        let began = Instant::now();
        work(thread);
        (began, Instant::now())
    };
    thread::scope(|scope| {
        let runs: Vec<_> = (0..threads).map(|t| scope.spawn(move || run(t))).collect();
        let spans = runs
            .into_iter()
            .map(|r| r.join().expect("the work does not panic"));
        let (began, ended) = spans
            .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
            .expect("there is at least one thread");
        ended - began
    })
}

/// The middle one.
pub(crate) fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

/// A line of /proc/self/status, in bytes, where there is such a thing.
pub(crate) fn memory(line: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|l| l.strip_prefix(line))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
