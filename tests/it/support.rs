//! What many tests begin with.

use onceonly::*;
use std::time::Duration;

pub(crate) const TTL: Duration = Duration::from_secs(3_600);
pub(crate) const LEASE: Duration = Duration::from_secs(30);
/// How late time may take effect.
pub(crate) const TICKS: Duration = Duration::from_millis(2);

pub(crate) fn key() -> Key<'static> {
    Key::unscoped("order-1")
}

/// A store on a clock that stands still, without a helper thread.
pub(crate) fn store() -> (Store, ManualClock) {
    let clock = ManualClock::new();
    let builder = Store::builder().clock(clock.clone()).helper_thread(false);
    (builder.ttl(TTL).lease(LEASE).in_memory().unwrap(), clock)
}

pub(crate) fn claim<'s>(store: &'s Store, key: Key<'_>) -> Claim<'s> {
    store.claim(key, Fingerprint::NONE).unwrap()
}

pub(crate) fn acquire<'s>(store: &'s Store, key: Key<'_>) -> ClaimGuard<'s> {
    match claim(store, key) {
        Claim::Acquired(guard) => guard,
        other => panic!("{key:?} should be absent: {other:?}"),
    }
}

/// Takes an interrupted claim over.
pub(crate) fn resume<'s>(store: &'s Store, key: Key<'_>) -> ClaimGuard<'s> {
    let Claim::Interrupted(left) = claim(store, key) else {
        panic!("{key:?} should be interrupted")
    };
    match left.resume().unwrap() {
        Claim::Acquired(guard) => guard,
        other => panic!("{other:?}"),
    }
}

/// Random numbers from a seed (splitmix64), so that a failing case can be run again.
#[derive(Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = len.div_ceil(8);
        let mut bytes: Vec<u8> = (0..words).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }
}

/// A number from the environment, to scale a test.
pub(crate) fn scaled(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
        Err(_) => default,
    }
}

/// Runs `case(seed)` on a thread of its own, so that nothing of other cases is in its
/// thread-locals; says how to run it again if it panics.
pub(crate) fn run_case<T: Send>(test: &str, seed: u64, done: u64, case: impl FnOnce(u64) -> T + Send) -> T {
    let joined = std::thread::scope(|scope| scope.spawn(|| case(seed)).join());
    joined.unwrap_or_else(|panic| {
        eprintln!("{test}: seed {seed} fails, after {done} that did not; again: ONCEONLY_SEED={seed}");
        std::panic::resume_unwind(panic)
    })
}
