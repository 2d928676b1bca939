//! Housekeeping of the whole store: a little with every change, the rest when asked or by the
//! helper thread, which does nothing else.
//!
//! Every step is bounded, and none decides an answer: without any of it the store answers the
//! same, only its memory comes back later.

use super::Engine;
use crate::clock::Tick;
use crate::epoch::is_nth_call;
use crate::quota::Quota;
use crate::segment::space::Doomed;
use crate::shard::tend::Tended;
use crate::shard::{Keyed, Refused};
use crate::sync::{Arc, Ordering, Weak};
use crossbeam_epoch::Guard;
use std::time::Duration;

/// Steps of its shard's lease wheel that a call takes along.
pub(super) const OWN_STEPS: usize = 4;
/// The same for each visit of the helper and of `maintain`.
const VISIT_STEPS: usize = 256;

/// How much of a sweep somebody takes on.
#[derive(Clone, Copy)]
struct Effort {
    /// Buckets swept in one step.
    buckets: u32,
    /// Stale slots worth starting a sweep for, if they are a twentieth of all.
    worth: u64,
}

/// What a call takes along.
const PASSING: Effort = Effort {
    buckets: 64,
    worth: 1_024,
};
/// What the helper and `maintain` do.
const TENDING: Effort = Effort {
    buckets: 512,
    worth: 1,
};
/// A call in so many looks after what waits for readers, and frees one segment and so many
/// replaced tables: more than that many calls retire.
const REAP_CALLS: u32 = 32;
const REAPED_TABLES: usize = 16;
/// Records unlinked in one step from a segment about to be retired.
const WALK_RECORDS: usize = 256;
/// How long one refused claim may search for expired keys, looked at after so many shards.
const SEARCH_TIME: Duration = Duration::from_millis(2);
const SEARCH_SHARDS: usize = 16;
/// The longest time no other claim searches after it.
const SEARCH_PAUSE: Duration = Duration::from_secs(1);
/// Segments it may retire.
const SEARCH_SEGMENTS: usize = 4;
/// Pins after which something unlinked is free, if no reader holds it up.
const EPOCHS: usize = 4;
/// A sweep starts when more than one slot in so many is stale ...
const SWEEP_SHARE: u64 = 20;
/// ... or when this many segment ids wait for one.
const SWEEP_IDS: usize = 256;

/// What is under way; whoever holds the lock goes on with it.
#[derive(Default)]
pub(super) struct Housekeeping {
    /// A segment whose records are being unlinked one by one, and the next word to look at.
    walk: Option<(Doomed, usize)>,
    /// The next shard to search for expired keys, and to sweep.
    search_at: usize,
    sweep_at: usize,
}

impl Engine {
    /// What a call does for the store: at most one segment retired, and some memory given back
    /// and some buckets swept.
    #[inline]
    pub(super) fn tend_a_little(&self, now: Tick, pin: &Guard) {
        let c = &self.commons;
        let is_due = c.segments.next_due() <= now.0 || c.sweep.is_running();
        // What waits for readers is asked for now and then: most of the time it still waits.
        let waits = || c.segments.pending_bytes() > 0 || c.tables.bytes() > 0;
        if is_due || (is_nth_call(REAP_CALLS) && waits()) {
            self.tend_store(now, PASSING, pin);
        }
        if c.segments.wants_spare() {
            c.alarm.ring();
        }
    }

    /// One step of everything that is not a single shard's; true if there may be more to do now.
    /// Whoever comes while another is at it passes by.
    #[cold]
    fn tend_store(&self, now: Tick, effort: Effort, pin: &Guard) -> bool {
        let Some(mut keeping) = self.housekeeping.try_lock() else {
            return false;
        };
        let c = &self.commons;
        c.segments.seal_idle(now);
        let retired = self.retire_one(&mut keeping, now, pin);
        // One: unmapping a segment of small pages was seen to take 50 to 200 µs.
        let mut freed = c.segments.reap(now, &c.bytes);
        for _ in 0..REAPED_TABLES {
            freed |= self.reap_table();
        }
        if !c.sweep.is_running() {
            c.segments.sweep_done(pin);
            self.start_sweep(&mut keeping, effort.worth);
        }
        let swept = c.sweep.is_running();
        if swept {
            self.sweep_on(&mut keeping, effort.buckets, pin);
        }
        retired | freed | swept
    }

    /// Sweeps some buckets of the shard whose turn it is.
    fn sweep_on(&self, keeping: &mut Housekeeping, buckets: u32, pin: &Guard) {
        let Some(shard) = self.shards.get(keeping.sweep_at) else {
            return;
        };
        if shard.lock().sweep(&self.commons, buckets, pin) == Tended::Done {
            keeping.sweep_at += 1;
        }
    }

    /// Retires one segment that is due, or goes on unlinking its records.
    fn retire_one(&self, keeping: &mut Housekeeping, now: Tick, pin: &Guard) -> bool {
        let c = &self.commons;
        let next = keeping.walk.take().or_else(|| {
            let doomed = c.segments.take_doomed(now)?;
            if doomed.live() > 0 {
                c.keys.give_direct(doomed.live());
            }
            let from = doomed.words().start;
            Some((doomed, from))
        });
        let Some((doomed, from)) = next else { return false };
        // Only counts by scope need to know whose records these are.
        if c.scopes.is_some()
            && let Some(at) = self.unlink_some(&doomed, from, pin)
        {
            keeping.walk = Some((doomed, at));
            return true;
        }
        if c.scopes.is_none() {
            c.sweep.add_stale(doomed.live());
        }
        c.segments.retire(doomed, pin);
        true
    }

    /// Unlinks the next records of a segment; returns where to go on, unless it is done.
    fn unlink_some(&self, doomed: &Doomed, from: usize, pin: &Guard) -> Option<usize> {
        let c = &self.commons;
        let mut word = from;
        for _ in 0..WALK_RECORDS {
            if word >= doomed.words().end {
                return None;
            }
            let at = doomed.address(word);
            let record = c.segments.table.record(at, pin)?;
            let key = record.key()?;
            let k = Keyed {
                key,
                hash: self.hasher.hash(key),
            };
            self.shard(k).lock().unlink(c, k, at, pin);
            word += record.len_words();
        }
        Some(word)
    }

    fn reap_table(&self) -> bool {
        let Some(table) = self.commons.tables.take() else {
            return false;
        };
        let bytes = table.bytes();
        drop(table);
        self.commons.bytes.give_direct(bytes);
        true
    }

    /// Starts a round of sweeping if enough has become stale; none is running.
    fn start_sweep(&self, keeping: &mut Housekeeping, worth: u64) {
        let c = &self.commons;
        let stale = c.sweep.stale();
        let many = stale >= worth && stale >= c.keys.taken() / SWEEP_SHARE;
        if many || c.segments.unswept_ids() >= SWEEP_IDS {
            c.segments.sweep_started();
            c.sweep.start(self.shards.len());
            keeping.sweep_at = 0;
        }
    }

    /// Turns a limit tight: what the shards hold unused is collected, unless it was before.
    #[cold]
    fn collect_credits(&self, quota: &Quota) {
        if quota.tighten() {
            for shard in &self.shards {
                shard.lock().return_credits(&self.commons);
            }
        }
    }

    /// After a claim was taken beyond `max_in_flight`: what the shards hold unused pays for it.
    #[inline]
    pub(super) fn settle_debt(&self) {
        if self.commons.flights.is_overdrawn() {
            self.collect_credits(&self.commons.flights);
        }
    }

    /// Something was refused for want of room: collects what the shards hold unused of it, and
    /// looks for what has expired.
    #[cold]
    pub(super) fn search_room(&self, refused: Refused, now: Tick, pin: &mut Guard) {
        let c = &self.commons;
        let quota = match refused {
            Refused::Keys => Some(&c.keys),
            Refused::Flights => Some(&c.flights),
            Refused::Bytes => Some(&c.bytes),
            Refused::Scope => None,
        };
        if let Some(quota) = quota {
            self.collect_credits(quota);
        }
        if refused == Refused::Bytes {
            self.give_back_all(now, pin);
        }
        // Nothing expires within a tick; and in a flood of refused claims the search takes at
        // most an eighth of the time.
        // The lock comes first: whoever has it may be about to give room back, having
        // closed a segment whose records no longer count.
        let mut keeping = self.housekeeping.lock();
        if now.0 < self.next_search.load(Ordering::Relaxed) {
            return;
        }
        let began = self.clock().monotonic();
        c.segments.seal_idle(now);
        for _ in 0..SEARCH_SEGMENTS {
            self.retire_one(&mut keeping, now, pin);
        }
        self.give_back_all(now, pin);
        for n in 1..=self.shards.len() {
            keeping.search_at = (keeping.search_at + 1) % self.shards.len();
            self.shards[keeping.search_at].lock().expire(c, now, pin);
            let spent = self.clock().monotonic().saturating_sub(began);
            if n % SEARCH_SHARDS == 0 && spent >= SEARCH_TIME {
                break;
            }
        }
        let cost = self.clock().monotonic().saturating_sub(began);
        let pause = cost
            .saturating_mul(8)
            .clamp(Duration::from_millis(1), SEARCH_PAUSE);
        let next = now.0 + pause.as_millis() as u64;
        self.next_search.store(next, Ordering::Relaxed);
        // Wake-ups run code of the callers': no lock may be held by now.
        drop(keeping);
        for shard in self.shards.iter().filter(|s| s.is_due(now)) {
            shard.lock().tick(c, now, VISIT_STEPS, pin);
        }
    }

    /// Gives back all memory that no reader holds up: the caller's own pin moves on with the
    /// epoch, and spare mappings go too.
    fn give_back_all(&self, now: Tick, pin: &mut Guard) {
        let c = &self.commons;
        for _ in 0..EPOCHS {
            pin.flush();
            pin.repin();
        }
        while c.segments.reap(now, &c.bytes) | self.reap_table() {}
        while c.segments.drop_spare(&c.bytes) {}
    }

    /// When a refused claim may be tried again: when the next segment is due, but soon, for
    /// claims end and keys are forgotten at any time.
    pub(super) fn retry_after(&self, now: Tick) -> Duration {
        let due = Tick(self.commons.segments.next_due());
        due.since(now)
            .clamp(Duration::from_millis(10), Duration::from_secs(1))
    }

    /// Does housekeeping for about `budget`; true if there is more to do now.
    pub(crate) fn maintain(&self, now: Tick, budget: Duration) -> bool {
        let c = &self.commons;
        let began = self.clock().monotonic();
        let in_time = || self.clock().monotonic().saturating_sub(began) < budget;
        // What is unlinked gets free as the epoch advances, which takes a few pins.
        let mut idle_turns = 0;
        while idle_turns < EPOCHS {
            if !in_time() {
                return true;
            }
            let pin = c.pins.pin();
            pin.flush();
            let mut busy = self.tend_store(now, TENDING, &pin);
            busy |= c.segments.trim_pool(now, &c.bytes);
            idle_turns = if busy { 0 } else { idle_turns + 1 };
        }
        for shard in self.shards.iter().filter(|s| s.is_due(now)) {
            let pin = c.pins.pin();
            loop {
                if !in_time() {
                    return true;
                }
                let mut shard = shard.lock();
                if shard.tick(c, now, VISIT_STEPS, &pin) == Tended::Done {
                    shard.shrink(c, &pin);
                    break;
                }
            }
        }
        c.segments.pending_bytes() > 0 || c.tables.bytes() > 0
    }

    /// When the helper has something to do next.
    fn next_due(&self, now: Tick) -> Tick {
        /// An idle store is looked at this often.
        const IDLE: u64 = 1_000;
        let shards = self.shards.iter().map(|s| s.due()).min().unwrap_or(u64::MAX);
        let due = shards.min(self.commons.segments.next_due());
        Tick(due.max(now.0 + 1).min(now.0 + IDLE))
    }
}

/// The helper thread: does what `maintain` does, until the engine is gone or closed.
pub(crate) fn run_helper(engine: Weak<Engine>) {
    /// What one turn may take before others get the locks again.
    const TURN: Duration = Duration::from_millis(5);
    loop {
        let Some(strong) = engine.upgrade() else { return };
        if strong.is_closed() {
            return;
        }
        let Ok(now) = strong.enter() else { return };
        let more = strong.maintain(now, TURN);
        strong.commons.segments.prepare(now, &strong.commons.bytes);
        let now = strong.timeline.now();
        let until = if more {
            Tick(now.0 + 1)
        } else {
            strong.next_due(now)
        };
        let alarm: Arc<_> = strong.commons.alarm.clone();
        // Not held while asleep: the last handle's drop must end the engine at once.
        drop(strong);
        alarm.sleep(now, until);
    }
}
