//! The engine itself, through its public calls.

use super::{Cycle, Peer, Setting};
use crate::common::{Id, TTL, builder, check, outcome};
use onceonly::{Claim, Fingerprint, Key, Outcome, Replay, Store};
use std::time::Duration;

pub(crate) struct Onceonly(Store);

impl Peer for Onceonly {
    const NAME: &'static str = "onceonly";
    const EXPIRES: bool = true;
    type Owned = Outcome;

    fn new(setting: Setting) -> Self {
        let mut options = builder(setting.keys).helper_thread(setting.helper);
        if let Some(hands) = setting.hands {
            options = options.clock(hands).ttl(Duration::from_millis(TTL));
        }
        Onceonly(options.in_memory().expect("the options are good"))
    }

    #[inline]
    fn cycle(&self, id: &Id) -> Cycle {
        match self.0.claim(Key::unscoped(id), Fingerprint::NONE) {
            Ok(Claim::Acquired(guard)) => {
                guard.complete(&outcome(id)).expect("there is room");
                Cycle::Won
            }
            Ok(Claim::Completed(outcome)) => {
                check(&outcome, id);
                Cycle::Replayed
            }
            Ok(Claim::InFlight(_)) => Cycle::InFlight,
            other => panic!("acquired, completed or in flight: {other:?}"),
        }
    }

    #[inline]
    fn owned(&self, id: &Id) -> Option<Outcome> {
        match self.0.claim(Key::unscoped(id), Fingerprint::NONE) {
            Ok(Claim::Completed(outcome)) => Some(outcome),
            _ => None,
        }
    }

    #[inline]
    fn lent<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let key = Key::unscoped(id);
        match self
            .0
            .replay(key, Fingerprint::NONE, |stored| read(stored.bytes()))
        {
            Ok(Replay::Hit(result)) => Some(result),
            _ => None,
        }
    }

    fn remove_expired(&self, _id: &Id) {}

    fn sweep(&self) {
        while self
            .0
            .maintain(Duration::from_secs(1))
            .expect("the store is open")
        {}
    }

    fn len(&self) -> u64 {
        self.0.stats().keys_live
    }

    fn batches(&self, ids: &[Id; 16], claim: bool) -> bool {
        let items = ids.each_ref().map(|id| (Key::unscoped(id), Fingerprint::NONE));
        if !claim {
            let hits = self
                .0
                .replay_many(&items, |i, stored| check(stored.bytes(), &ids[i]));
            assert!(matches!(hits, Ok(16)), "all are known");
            return true;
        }
        let mut answers = Vec::with_capacity(ids.len());
        self.0
            .claim_many(&items, &mut answers)
            .expect("the store is open");
        for (answer, id) in answers.iter().zip(ids) {
            match answer {
                Ok(Claim::Completed(outcome)) => check(outcome, id),
                other => panic!("the key is completed: {other:?}"),
            }
        }
        true
    }
}
