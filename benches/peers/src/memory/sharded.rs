//! Stripes made by hand: a mutex around a hashbrown table each. What one writes without a crate
//! for it, and hard to beat.

use super::{Cycle, Entry, Peer, Setting, Time};
use crate::common::Id;
use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry::{Occupied, Vacant};
use parking_lot::{Mutex, MutexGuard};

const SHARDS: usize = 256;

/// Alone on its cache lines.
#[repr(align(128))]
struct Shard(Mutex<HashTable<(Id, Entry)>>);

pub(crate) struct Sharded {
    shards: Box<[Shard]>,
    hasher: RandomState,
    time: Time,
}

impl Sharded {
    /// The key's shard, locked, and its hash, computed once.
    #[inline]
    fn shard(&self, id: &Id) -> (MutexGuard<'_, HashTable<(Id, Entry)>>, u64) {
        let hash = self.hasher.hash_one(id);
        // The table takes its tag from the highest bits and its place from the lowest.
        let shard = (hash >> 40) as usize % SHARDS;
        (self.shards[shard].0.lock(), hash)
    }
}

impl Peer for Sharded {
    const NAME: &'static str = "mutexes";
    type Owned = Vec<u8>;

    fn new(setting: Setting) -> Self {
        Sharded {
            shards: (0..SHARDS).map(|_| Shard(Mutex::default())).collect(),
            hasher: RandomState::new(),
            time: Time::of(&setting),
        }
    }

    #[inline]
    fn cycle(&self, id: &Id) -> Cycle {
        let now = self.time.now();
        let pending = Entry::Pending(self.time.deadline_from(now));
        {
            let (mut table, hash) = self.shard(id);
            match table.entry(hash, |(key, _)| key == id, |(key, _)| self.hasher.hash_one(key)) {
                Vacant(place) => drop(place.insert((*id, pending))),
                Occupied(mut place) if place.get().1.expired(now) => place.get_mut().1 = pending,
                Occupied(place) => return place.get().1.answer(id),
            }
        }
        let done = Entry::done(id, self.time.deadline());
        let (mut table, hash) = self.shard(id);
        match table.entry(hash, |(key, _)| key == id, |(key, _)| self.hasher.hash_one(key)) {
            Vacant(place) => drop(place.insert((*id, done))),
            Occupied(mut place) => place.get_mut().1 = done,
        }
        Cycle::Won
    }

    #[inline]
    fn owned(&self, id: &Id) -> Option<Vec<u8>> {
        self.lent(id, <[u8]>::to_vec)
    }

    #[inline]
    fn lent<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let now = self.time.now();
        let (table, hash) = self.shard(id);
        let (_, entry) = table.find(hash, |(key, _)| key == id)?;
        entry.outcome(now).map(read)
    }

    fn remove_expired(&self, id: &Id) {
        let now = self.time.now();
        let (mut table, hash) = self.shard(id);
        let found = table.find_entry(hash, |(key, entry)| key == id && entry.expired(now));
        if let Ok(place) = found {
            place.remove();
        }
    }

    fn sweep(&self) {
        let now = self.time.now();
        for shard in &self.shards {
            shard.0.lock().retain(|(_, entry)| !entry.expired(now));
        }
    }

    fn len(&self) -> u64 {
        self.shards.iter().map(|shard| shard.0.lock().len() as u64).sum()
    }
}
