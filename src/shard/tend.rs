//! Housekeeping of one shard, in bounded steps: ends of leases, stale slots, growth.
//!
//! None of it decides an answer. A lease that has ended is interrupted for the next caller
//! whether or not the wheel has noticed, and a slot whose segment is gone reads as vacant.

use super::index::{Table, Target};
use super::state::Phase;
use super::{Commons, Inner, Keyed, Locked};
use crate::clock::{Span, Tick};
use crate::epoch::Guard;
use crate::segment::Address;
use crate::status::Cause;
use crate::sync::{AtomicU64, Ordering};
use crate::wheel::{Advance, Wheel};

/// How long a nudged waiter may take to look before another one is nudged as well.
pub(crate) const PATIENCE: Span = Span::from_millis(10);

/// Rounds in which all shards clear slots whose segment is gone. A shard takes part when its
/// turn comes or its index is rebuilt; ids retired before a round began are free after it.
///
/// Rounds are started, and their ids freed, by whoever holds the housekeeping's lock.
pub(crate) struct Sweep {
    round: AtomicU64,
    /// Shards that have not finished this round.
    left: AtomicU64,
    /// Slots that have become stale since the round began, and those it was begun for.
    stale: AtomicU64,
    in_round: AtomicU64,
}

impl Sweep {
    pub(crate) fn new() -> Self {
        Sweep {
            round: AtomicU64::new(0),
            left: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            in_round: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.left.load(Ordering::Acquire) > 0
    }

    /// Starts a round; none is running.
    pub(crate) fn start(&self, shards: usize) {
        // Whatever is stale now is gone at the end of the round, however often it was counted.
        let stale = self.stale.swap(0, Ordering::Relaxed);
        self.in_round.store(stale, Ordering::Relaxed);
        self.left.store(shards as u64, Ordering::Relaxed);
        // Release: a shard that sees the round sees the segments retired before it.
        self.round.fetch_add(1, Ordering::Release);
    }

    fn round(&self) -> u64 {
        self.round.load(Ordering::Acquire)
    }

    /// A shard has finished.
    fn finish_one(&self) {
        // Release: who sees the round ended sees all slots cleared.
        self.left.fetch_sub(1, Ordering::AcqRel);
    }

    pub(crate) fn add_stale(&self, slots: u64) {
        self.stale.fetch_add(slots, Ordering::Relaxed);
    }

    /// Slots that became stale and wait for a round to begin.
    pub(crate) fn stale(&self) -> u64 {
        self.stale.load(Ordering::Relaxed)
    }

    /// About how many slots are stale, those of the round under way among them.
    pub(crate) fn all_stale(&self) -> u64 {
        let in_round = if self.is_running() {
            self.in_round.load(Ordering::Relaxed)
        } else {
            0
        };
        self.stale() + in_round
    }
}

/// What tending found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tended {
    Done,
    More,
}

fn is_kept(c: &Commons, target: Target) -> bool {
    match target {
        Target::Record(at) => c.segments.table.is_open(at),
        Target::Lease(_) => true,
    }
}

impl Locked<'_> {
    /// Sets the timer of a claim to its next deadline, if it is not early enough already.
    pub(super) fn arm(&mut self, index: u32, now: Tick) {
        let Some(due) = self.slab.get(index).map(|l| l.due()) else {
            return;
        };
        if due == Tick::NEVER {
            // Busy: whoever finishes sets it.
            return;
        }
        let inner = &mut *self.inner;
        let wheel = inner.wheel.get_or_insert_with(|| Box::new(Wheel::new(now.0)));
        let timer = inner.slab.timer_mut(index);
        match timer {
            Some((_, at)) if *at <= due => return,
            Some((id, at)) => {
                wheel.reset(*id, due.0);
                *at = due;
            }
            None => *timer = Some((wheel.insert(due.0, index), due)),
        }
        self.wake_shard_by(due);
    }

    /// The shard wants to be tended at this tick.
    pub(super) fn wake_shard_by(&self, due: Tick) {
        // Stored only under the lock; readers take it as a hint.
        if due.0 < self.shard.due.load(Ordering::Relaxed) {
            self.shard.due.store(due.0, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_due(&self, now: Tick) -> bool {
        self.shard.is_due(now)
    }

    /// Does what time asks for, in at most `steps` steps of the wheel.
    pub(crate) fn tick(&mut self, c: &Commons, now: Tick, mut steps: usize, pin: &Guard) -> Tended {
        if !self.queues.is_empty() {
            self.nudge_again(c, now, pin);
        }
        while steps > 0 {
            let Some(wheel) = &mut self.inner.wheel else { break };
            // One step at a time: what a firing leads to may set timers.
            let mut step = 1;
            let mut fired = None;
            let result = wheel.advance(now.0, &mut step, |index| fired = Some(index));
            steps -= 1;
            match fired {
                Some(index) => self.on_timer(c, index, now),
                None if result == Advance::Done => break,
                None => {}
            }
        }
        self.count_change();
        let next = self.wheel.as_ref().and_then(|w| w.next_due());
        self.shard.due.store(next.unwrap_or(u64::MAX), Ordering::Relaxed);
        if self.queues.has_nudges() {
            self.wake_shard_by(now.after(PATIENCE));
        }
        if self.shard.is_due(now) {
            Tended::More
        } else {
            Tended::Done
        }
    }

    fn on_timer(&mut self, c: &Commons, index: u32, now: Tick) {
        *self.slab.timer_mut(index) = None;
        let Some(lease) = self.slab.get(index) else { return };
        if lease.due() > now {
            // Busy, or the entry has been claimed anew since its timer was set.
            return self.arm(index, now);
        }
        let key = lease.key.clone();
        let hash = lease.hash;
        let k = Keyed {
            key: key.as_checked(),
            hash,
        };
        match lease.state().phase(now) {
            Phase::Absent => {
                self.end(c, index);
                self.nudge(c, k, now);
            }
            Phase::Interrupted { cause, .. } => {
                if cause == Cause::Lapsed {
                    self.lapse(c, index);
                    self.nudge(c, k, now);
                }
                self.arm(index, now);
            }
            Phase::InFlight { .. } | Phase::Completed { .. } => self.arm(index, now),
        }
    }

    /// Notices that a lease has ended: the claim no longer counts as in flight.
    fn lapse(&mut self, c: &Commons, index: u32) {
        let inner = &mut *self.inner;
        let Some(lease) = inner.slab.get_mut(index) else {
            return;
        };
        lease.lapse_told = true;
        if std::mem::take(&mut lease.counted) {
            c.flights.give(1, &mut inner.flights);
        }
        inner.tally.lapsed += 1;
    }

    /// Where a nudge came to nothing and the key can still be had, nudges another waiter.
    fn nudge_again(&mut self, c: &Commons, now: Tick, pin: &Guard) {
        let patience = std::time::Duration::from_millis(PATIENCE.millis());
        for (hash, key) in self.queues.stalled(now, patience) {
            let k = Keyed {
                key: key.as_checked(),
                hash,
            };
            if self.can_be_had(c, k, now, pin) {
                self.nudge(c, k, now);
            } else {
                self.queues.settle(hash, k.key);
            }
        }
    }

    /// Takes part in the round of sweeping under way: up to `buckets` buckets. At its end the
    /// index gets the size it needs, and unused units go back.
    pub(crate) fn sweep(&mut self, c: &Commons, buckets: u32, pin: &Guard) -> Tended {
        let round = c.sweep.round();
        if self.swept_round == round {
            return Tended::Done;
        }
        if self.sweeping_round != round {
            self.sweeping_round = round;
            self.index.rewind_sweep();
        }
        let inner = &mut *self.inner;
        if !inner.index.sweep(buckets, |target| is_kept(c, target)) {
            return Tended::More;
        }
        self.finish_round(c, round);
        self.shrink(c, pin);
        self.return_credits(c);
        Tended::Done
    }

    fn finish_round(&mut self, c: &Commons, round: u64) {
        self.swept_round = round;
        self.sweeping_round = round;
        c.sweep.finish_one();
    }

    /// Builds a table of the right size without the stale slots. False if the budget has no
    /// room for it.
    pub(super) fn rebuild(&mut self, c: &Commons, pin: &Guard) -> bool {
        // Read before the slots are: what a later round has retired may still be kept.
        let round = c.sweep.round();
        // Where nothing has been retired there is nothing to leave out, and nothing to look up.
        let none_stale = c.sweep.all_stale() == 0;
        let keep = |target| none_stale || is_kept(c, target);
        let plan = match none_stale {
            true => self.index.plan_for(0),
            false => self.index.plan(keep),
        };
        let table = match c.stock.take(plan) {
            Some(table) => table,
            None if c.bytes.take_direct(plan.bytes()) => Table::of(plan),
            None => return false,
        };
        let inner = &mut *self.inner;
        let slab = &mut inner.slab;
        inner
            .index
            .rebuild_into(table, &self.shard.table, &c.tables, pin, keep, |lease, place| {
                if let Some(lease) = slab.get_mut(lease) {
                    lease.place = place;
                }
            });
        inner.tally.rebuilds += 1;
        if self.swept_round != round {
            self.finish_round(c, round);
        }
        true
    }

    /// Builds a table with room for so many keys more, whatever the budget says: recovery does
    /// not fail for want of it.
    pub(super) fn rebuild_for(&mut self, c: &Commons, keys: u64, pin: &Guard) {
        let plan = self.index.plan_for(keys);
        c.bytes.force_direct(plan.bytes());
        let inner = &mut *self.inner;
        let keep = |_| true;
        inner
            .index
            .rebuild(plan, &self.shard.table, &c.tables, pin, keep, |_, _| {});
    }

    /// Removes records that have expired before their segment; for
    /// when a limit is reached.
    pub(crate) fn expire(&mut self, c: &Commons, now: Tick, pin: &Guard) {
        let mut freed = Vec::new();
        let inner = &mut *self.inner;
        inner.index.retain(|target| match target {
            Target::Lease(_) => true,
            Target::Record(at) if !c.segments.table.may_hold_expired(at, now) => true,
            Target::Record(at) => match c.segments.table.record(at, pin) {
                Some(record) if record.deadline() <= now => {
                    freed.push(at);
                    false
                }
                _ => true,
            },
        });
        for at in freed {
            let record = c.segments.table.record(at, pin);
            let Some(key) = record.and_then(|r| r.key()) else {
                continue;
            };
            self.drop_record(c, key, at);
        }
    }

    /// Unlinks one record of a segment that is about to be retired, if a slot still leads to it.
    pub(crate) fn unlink(&mut self, c: &Commons, k: Keyed<'_>, at: Address, pin: &Guard) {
        if let super::Found::Record { place, at: found, .. } = self.find(k, c, pin)
            && found == at
        {
            self.inner.index.remove(place);
            self.drop_record(c, k.key, at);
        }
    }

    /// Gives memory back that the shard no longer needs, and its unused units.
    pub(crate) fn shrink(&mut self, c: &Commons, pin: &Guard) {
        if self.index.is_sparse() {
            self.rebuild(c, pin);
        }
        let inner = &mut *self.inner;
        let slab = inner.slab.shrink_if_idle();
        if slab > 0 {
            c.bytes.give_direct(slab);
            inner.wheel = None;
            if !inner.queues.has_nudges() {
                self.shard.due.store(u64::MAX, Ordering::Relaxed);
            }
        }
    }

    /// Hands unused units back to the limits all shards share.
    pub(crate) fn return_credits(&mut self, c: &Commons) {
        let inner: &mut Inner = &mut self.inner;
        c.keys.collect(&mut inner.keys);
        c.flights.collect(&mut inner.flights);
        c.bytes.collect(&mut inner.bytes);
    }

    /// Tells everyone who waits to look again.
    pub(crate) fn nudge_all(&mut self) {
        let Locked { inner, wakes, .. } = self;
        inner.queues.nudge_all(wakes);
    }
}
