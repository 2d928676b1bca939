//! Caches: moka and quick_cache. Both have an atomic "get or compute", which is their way to claim:
//! the one who computes is the holder, and the others wait for it or are told.
//!
//! They are made so large that they evict nothing. Their values are shared: handing one out is a
//! reference count and no copy, in their favour. moka could expire entries itself, by the machine's
//! clock alone; it is left off, which makes its reads cheaper, and deadlines are ours as with the
//! others.

use super::{Cycle, Peer, Setting, Time};
use crate::common::{Id, check, outcome};
use ahash::RandomState;
use quick_cache::sync::{DefaultLifecycle, GuardResult};
use quick_cache::{OptionsBuilder, UnitWeighter};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone)]
struct Shared {
    until: u64,
    outcome: Arc<[u8]>,
}

impl Shared {
    fn done(id: &Id, time: &Time) -> Self {
        Shared {
            until: time.deadline(),
            outcome: Arc::new(outcome(id)),
        }
    }
}

pub(crate) struct Moka {
    cache: moka::sync::Cache<Id, Shared, RandomState>,
    time: Time,
}

impl Peer for Moka {
    const NAME: &'static str = "moka";
    type Owned = Arc<[u8]>;

    fn new(setting: Setting) -> Self {
        let cache = moka::sync::Cache::builder().build_with_hasher(RandomState::new());
        Moka {
            cache,
            time: Time::of(&setting),
        }
    }

    #[inline]
    fn cycle(&self, id: &Id) -> Cycle {
        let now = self.time.now();
        let entry = self
            .cache
            .entry_by_ref(id)
            .or_insert_with_if(|| Shared::done(id, &self.time), |old| old.until <= now);
        if entry.is_fresh() {
            return Cycle::Won;
        }
        check(&entry.into_value().outcome, id);
        Cycle::Replayed
    }

    #[inline]
    fn owned(&self, id: &Id) -> Option<Arc<[u8]>> {
        let now = self.time.now();
        self.cache
            .get(id)
            .filter(|value| value.until > now)
            .map(|value| value.outcome)
    }

    #[inline]
    fn lent<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.owned(id).map(|outcome| read(&outcome))
    }

    fn remove_expired(&self, id: &Id) {
        // Nobody has made it anew in these workloads.
        self.cache.invalidate(id);
    }

    fn sweep(&self) {
        let now = self.time.now();
        for (id, value) in &self.cache {
            if value.until <= now {
                self.cache.invalidate(&*id);
            }
        }
        self.cache.run_pending_tasks();
    }

    fn len(&self) -> u64 {
        self.cache.run_pending_tasks();
        self.cache.entry_count()
    }
}

type Quick = quick_cache::sync::Cache<Id, Shared, UnitWeighter, RandomState>;

pub(crate) struct QuickCache {
    cache: Quick,
    time: Time,
}

impl Peer for QuickCache {
    const NAME: &'static str = "quick_cache";
    type Owned = Arc<[u8]>;

    fn new(setting: Setting) -> Self {
        // It evicts by shard: twice the room, so that no shard is ever full.
        let options = OptionsBuilder::new()
            .estimated_items_capacity(setting.keys as usize)
            .weight_capacity(2 * setting.keys.max(1_000))
            .build()
            .expect("the options are good");
        let cache = Quick::with_options(
            options,
            UnitWeighter,
            RandomState::new(),
            DefaultLifecycle::default(),
        );
        QuickCache {
            cache,
            time: Time::of(&setting),
        }
    }

    #[inline]
    fn cycle(&self, id: &Id) -> Cycle {
        let now = self.time.now();
        loop {
            match self.cache.get_value_or_guard(id, Some(Duration::ZERO)) {
                GuardResult::Guard(guard) => {
                    // Refused only if the key was removed meanwhile; nobody does.
                    let stored = guard.insert(Shared::done(id, &self.time));
                    assert!(stored.is_ok(), "the outcome is stored");
                    return Cycle::Won;
                }
                GuardResult::Value(value) if value.until > now => {
                    check(&value.outcome, id);
                    return Cycle::Replayed;
                }
                GuardResult::Value(_) => self.remove_expired(id),
                GuardResult::Timeout => return Cycle::InFlight,
            }
        }
    }

    #[inline]
    fn owned(&self, id: &Id) -> Option<Arc<[u8]>> {
        let now = self.time.now();
        self.cache
            .get(id)
            .filter(|value| value.until > now)
            .map(|value| value.outcome)
    }

    #[inline]
    fn lent<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.owned(id).map(|outcome| read(&outcome))
    }

    fn remove_expired(&self, id: &Id) {
        let now = self.time.now();
        self.cache.remove_if(id, |value| value.until <= now);
    }

    fn sweep(&self) {
        let now = self.time.now();
        self.cache.retain(|_, value| value.until > now);
    }

    fn len(&self) -> u64 {
        self.cache.len() as u64
    }
}
