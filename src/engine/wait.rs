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
