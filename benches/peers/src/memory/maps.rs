//! Concurrent hash maps: dashmap, papaya, scc.

use super::{Cycle, Entry, Peer, Setting, Time};
use crate::common::Id;
use ahash::RandomState;

/// Locked stripes around hashbrown tables.
pub(crate) struct DashMap {
    map: dashmap::DashMap<Id, Entry, RandomState>,
    time: Time,
}

impl Peer for DashMap {
    const NAME: &'static str = "dashmap";
    type Owned = Vec<u8>;

    fn new(setting: Setting) -> Self {
        DashMap {
            map: dashmap::DashMap::with_hasher(RandomState::new()),
            time: Time::of(&setting),
        }
    }

    #[inline]
    fn cycle(&self, id: &Id) -> Cycle {
        use dashmap::Entry::{Occupied, Vacant};
        let now = self.time.now();
        let pending = Entry::Pending(self.time.deadline_from(now));
        match self.map.entry(*id) {
            Vacant(place) => drop(place.insert(pending)),
            Occupied(mut place) if place.get().expired(now) => drop(place.insert(pending)),
            Occupied(place) => return place.get().answer(id),
        }
        self.map.insert(*id, Entry::done(id, self.time.deadline()));
        Cycle::Won
    }

    #[inline]
    fn owned(&self, id: &Id) -> Option<Vec<u8>> {
        self.lent(id, <[u8]>::to_vec)
    }

    #[inline]
    fn lent<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let now = self.time.now();
        self.map.get(id)?.outcome(now).map(read)
    }

    fn remove_expired(&self, id: &Id) {
        let now = self.time.now();
        self.map.remove_if(id, |_, entry| entry.expired(now));
    }

    fn sweep(&self) {
        let now = self.time.now();
        self.map.retain(|_, entry| !entry.expired(now));
    }

    fn len(&self) -> u64 {
        self.map.len() as u64
    }
}

/// Lock-free; values are never changed in place, a new one takes the old one's.
pub(crate) struct Papaya {
    map: papaya::HashMap<Id, Entry, RandomState>,
    time: Time,
}

impl Peer for Papaya {
    const NAME: &'static str = "papaya";
    type Owned = Vec<u8>;

    fn new(setting: Setting) -> Self {
        Papaya {
            map: papaya::HashMap::with_hasher(RandomState::new()),
            time: Time::of(&setting),
        }
    }

    #[inline]
    fn cycle(&self, id: &Id) -> Cycle {
        let map = self.map.pin();
        let now = self.time.now();
        let pending = Entry::Pending(self.time.deadline_from(now));
        if let Err(taken) = map.try_insert(*id, pending) {
            if !taken.current.expired(now) {
                return taken.current.answer(id);
            }
            // It has expired: whoever replaces it wins.
            let answer = map.compute(*id, |entry| match entry {
                Some((_, entry)) if !entry.expired(now) => papaya::Operation::Abort(entry.answer(id)),
                _ => papaya::Operation::Insert(Entry::Pending(self.time.deadline_from(now))),
            });
            if let papaya::Compute::Aborted(answer) = answer {
                return answer;
            }
        }
        map.insert(*id, Entry::done(id, self.time.deadline()));
        Cycle::Won
    }

    #[inline]
    fn owned(&self, id: &Id) -> Option<Vec<u8>> {
        self.lent(id, <[u8]>::to_vec)
    }

    #[inline]
    fn lent<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let now = self.time.now();
        self.map.pin().get(id)?.outcome(now).map(read)
    }

    fn remove_expired(&self, id: &Id) {
        let now = self.time.now();
        let _ = self.map.pin().remove_if(id, |_, entry| entry.expired(now));
    }

    fn sweep(&self) {
        let now = self.time.now();
        self.map.pin().retain(|_, entry| !entry.expired(now));
    }

    fn len(&self) -> u64 {
        self.map.len() as u64
    }
}

/// A lock for each bucket.
pub(crate) struct Scc {
    map: scc::HashMap<Id, Entry, RandomState>,
    time: Time,
}

impl Peer for Scc {
    const NAME: &'static str = "scc";
    type Owned = Vec<u8>;

    fn new(setting: Setting) -> Self {
        Scc {
            map: scc::HashMap::with_hasher(RandomState::new()),
            time: Time::of(&setting),
        }
    }

    #[inline]
    fn cycle(&self, id: &Id) -> Cycle {
        use scc::hash_map::Entry::{Occupied, Vacant};
        let now = self.time.now();
        let pending = Entry::Pending(self.time.deadline_from(now));
        match self.map.entry_sync(*id) {
            Vacant(place) => drop(place.insert_entry(pending)),
            Occupied(mut place) if place.get().expired(now) => drop(place.insert(pending)),
            Occupied(place) => return place.get().answer(id),
        }
        self.map.upsert_sync(*id, Entry::done(id, self.time.deadline()));
        Cycle::Won
    }

    #[inline]
    fn owned(&self, id: &Id) -> Option<Vec<u8>> {
        self.lent(id, <[u8]>::to_vec)
    }

    #[inline]
    fn lent<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let now = self.time.now();
        self.map.read_sync(id, |_, entry| entry.outcome(now).map(read))?
    }

    fn remove_expired(&self, id: &Id) {
        let now = self.time.now();
        self.map.remove_if_sync(id, |entry| entry.expired(now));
    }

    fn sweep(&self) {
        let now = self.time.now();
        self.map.retain_sync(|_, entry| !entry.expired(now));
    }

    fn len(&self) -> u64 {
        self.map.len() as u64
    }
}
