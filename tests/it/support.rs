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
