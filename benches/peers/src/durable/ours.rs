//! The engine itself, through its public calls.

use super::{Mode, Op, Peer};
use crate::common::{Hands, Id, acquire, builder, claim_and_complete, outcome};
use onceonly::{Durability, Fingerprint, Key, Replay, Store};
use std::path::Path;
use std::time::Duration;

pub(crate) struct Onceonly {
    store: Store,
    clock: Option<Hands>,
}

impl Peer for Onceonly {
    const NAME: &'static str = "onceonly";
    const WANTS_BATCHING: bool = false;

    fn open(dir: &Path, mode: Mode, keys: u64, clock: Option<Hands>) -> Self {
        let level = |syncs| {
            if syncs {
                Durability::Sync
            } else {
                Durability::Process
            }
        };
        let mut options = builder(keys)
            .durability(level(mode != Mode::Process))
            .claim_durability(level(mode == Mode::Both));
        if let Some(hands) = &clock {
            // Without the helper, so that the sweep does all the work.
            options = options.clock(hands.clone()).helper_thread(false);
        }
        let store = options.open(dir).expect("the directory is ours");
        Onceonly { store, clock }
    }

    fn apply(&self, _ops: &[Op]) -> Vec<bool> {
        unreachable!("it has guards, and its own group commit")
    }

    fn cycle(&self, id: &Id, between: impl FnOnce()) {
        let guard = acquire(&self.store, id, Fingerprint::NONE);
        between();
        guard.complete(&outcome(id)).expect("there is room");
    }

    fn fill(&self, ids: &[Id]) {
        for id in ids {
            claim_and_complete(&self.store, id, Fingerprint::NONE);
        }
    }

    #[inline]
    fn replay<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let key = Key::unscoped(id);
        match self
            .store
            .replay(key, Fingerprint::NONE, |stored| read(stored.bytes()))
        {
            Ok(Replay::Hit(result)) => Some(result),
            _ => None,
        }
    }

    fn sync(&self) {
        self.store.sync().expect("the disk syncs");
    }

    fn sweep(&self, _now: u64) -> bool {
        let hands = self.clock.as_ref().expect("a clock that can be moved");
        hands.advance(2 * super::TTL);
        while self
            .store
            .maintain(Duration::from_secs(1))
            .expect("the store is open")
        {}
        // What lies in the segment that is being written to is counted until it is sealed.
        let left = self.store.stats();
        assert!(left.keys_live < 50_000, "segments go: {left}");
        true
    }
}
