//! Waiting for a holder: one turn of looking, shared by threads and futures.

use super::Engine;
use crate::clock::Tick;
use crate::error::{Error, Result};
use crate::shard::change::{Look, Wish};
use crate::shard::wait::Waiter;
use crate::shard::{Keyed, Verdict};
use crate::sync::Arc;

/// What one turn comes to.
pub(crate) enum WaitTurn {
    Answer(Verdict),
    /// Sleep until there is mail, at the latest until this tick.
    Sleep(Tick),
}

impl Engine {
    /// Enters a waiter into the queue; false if the limits leave no room for it.
    pub(crate) fn join(&self, k: Keyed<'_>, waiter: &Arc<Waiter>) -> Result<bool> {
        self.enter()?;
        Ok(self.shard(k).lock().join(&self.commons, k, waiter))
    }

    /// Lets a waiter in the queue look once. After an answer or an error it has left the queue.
    pub(crate) fn look(&self, k: Keyed<'_>, wish: Wish, waiter: &Arc<Waiter>) -> Result<WaitTurn> {
        let turn = self.enter().and_then(|now| {
            let mut pin = self.commons.pins.pin();
            self.with_room(k, now, &mut pin, |shard, pin| {
                shard.look(&self.commons, k, wish, waiter, now, pin)
            })
        });
        match turn {
            Ok(Look::Answer(verdict)) => self.record_verdict(k, wish, verdict).map(WaitTurn::Answer),
            // The nudge of a close that came since `enter` was taken by this look.
            Ok(Look::Wait(_)) if self.is_closed() => {
                self.give_up(k, waiter);
                Err(Error::Closed)
            }
            Ok(Look::Wait(until)) => Ok(WaitTurn::Sleep(until)),
            Err(error) => {
                self.give_up(k, waiter);
                Err(error)
            }
        }
    }

    /// Takes a waiter out of the queue before it has its answer.
    pub(crate) fn give_up(&self, k: Keyed<'_>, waiter: &Arc<Waiter>) {
        if !self.is_ours() {
            return;
        }
        let now = self.timeline.now();
        let pin = self.commons.pins.pin();
        self.shard(k).lock().give_up(&self.commons, k, waiter, now, &pin);
    }

    /// Blocks until the key can be answered for, at most until the deadline; then says what a
    /// claim that does not wait would say.
    pub(crate) fn wait(&self, k: Keyed<'_>, wish: Wish, deadline: Tick) -> Result<Verdict> {
        let waiter = Waiter::new(wish.fingerprint);
        if !self.join(k, &waiter)? {
            return self.claim(k, wish);
        }
        loop {
            let until = match self.look(k, wish, &waiter)? {
                WaitTurn::Answer(verdict) => return Ok(verdict),
                WaitTurn::Sleep(until) => until.min(deadline),
            };
            let now = self.timeline.now();
            if now >= deadline {
                self.give_up(k, &waiter);
                return self.claim(k, wish);
            }
            waiter.sleep(until.since(now));
        }
    }

    /// Ends all calls from now on, and all waits.
    pub(crate) fn close(&self) -> Result<()> {
        if !self.is_ours() {
            return Err(Error::Forked);
        }
        self.closed.store(true, crate::sync::Ordering::SeqCst);
        let closed = match &self.log {
            Some(log) => {
                let done = log.close(self.timeline.now());
                self.run_jobs(log, &done);
                done
            }
            None => Ok(()),
        };
        self.nudge_everyone();
        closed
    }

    /// Tells everyone who waits to look again: the store closed, or time has jumped.
    pub(crate) fn nudge_everyone(&self) {
        for shard in &self.shards {
            shard.lock().nudge_all();
        }
        self.commons.alarm.ring();
    }
}

#[cfg(all(test, onceonly_loom))]
mod loom {
    use crate::sync::{explore, spawn};
    use crate::*;
    use std::time::Duration;

    fn key() -> Key<'static> {
        Key::unscoped("k")
    }

    fn store() -> Store {
        Store::builder()
            .clock(ManualClock::new())
            .helper_thread(false)
            .shards(1)
            .max_keys(8)
            .max_in_flight(4)
            .max_bytes(1 << 20)
            .ttl(Duration::from_secs(60))
            .in_memory()
            .unwrap()
    }

    fn acquire(store: &Store) -> ClaimGuard<'static> {
        match store.claim(key(), Fingerprint::NONE).unwrap() {
            Claim::Acquired(guard) => guard.into_owned(),
            other => panic!("{other:?}"),
        }
    }

    /// Claims, waiting if it has to; true if it acquired, and then it completes.
    fn work_or_wait(store: &Store) -> Result<bool> {
        match store.claim_wait(key(), Fingerprint::NONE, Deadline::NEVER)? {
            Claim::Acquired(guard) => guard.complete(b"done").map(|()| true),
            Claim::Completed(outcome) => {
                assert_eq!(&*outcome, b"done");
                Ok(false)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn of_two_who_claim_one_wins_and_the_other_gets_its_outcome() {
        explore(4, || {
            let store = store();
            let other = {
                let store = store.clone();
                spawn(move || work_or_wait(&store).unwrap())
            };
            let won = work_or_wait(&store).unwrap();
            assert!(won != other.join().unwrap());
        });
    }

    #[test]
    fn a_released_claim_goes_to_one_of_those_who_wait() {
        explore(3, || {
            let store = store();
            let holder = acquire(&store);
            let waiting = [(); 2].map(|()| {
                let store = store.clone();
                spawn(move || work_or_wait(&store).unwrap())
            });
            holder.release().unwrap();
            let won = waiting.map(|t| t.join().unwrap());
            assert!(won[0] != won[1]);
        });
    }

    /// A waiter whose look had begun before the close once took the close's nudge with that look,
    /// and slept on until the lease ended.
    #[test]
    fn a_close_ends_every_wait() {
        explore(4, || {
            let store = store();
            let _holder = acquire(&store);
            let waiting = {
                let store = store.clone();
                spawn(move || work_or_wait(&store))
            };
            store.close().unwrap();
            assert!(matches!(waiting.join().unwrap(), Err(Error::Closed)));
        });
    }
}
