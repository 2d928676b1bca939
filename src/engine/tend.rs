//! Housekeeping of the whole store: a little with every change, the rest when asked or by the
//! helper thread, which does nothing else.
//!
//! Every step is bounded, and none decides an answer: without any of it the store answers the
//! same, only its memory comes back later.

use super::Engine;
use crate::clock::{Span, Tick};
use crate::epoch::{Guard, is_nth_call};
use crate::log::Log;
use crate::log::format::Pos;
use crate::quota::{Quota, Share};
use crate::segment::space::Doomed;
use crate::shard::halves::Carried;
use crate::shard::tend::Tended;
use crate::shard::{Keyed, Refused};
use crate::sync::{Arc, Ordering, Weak};
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
    /// A call with somebody waiting for its answer: what takes long is left to the helper.
    passing: bool,
}

/// What a call takes along.
const PASSING: Effort = Effort {
    buckets: 64,
    worth: 1_024,
    passing: true,
};
/// What the helper and `maintain` do.
const TENDING: Effort = Effort {
    buckets: 512,
    worth: 1,
    passing: false,
};
/// A call in so many looks after what waits for readers, and frees one segment and so many
/// replaced tables: more than that many calls retire.
const REAP_CALLS: u32 = 32;
/// The same for a log without a helper.
const LOG_CALLS: u32 = 64;
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
/// Records of the oldest segment looked at in one step.
const CARRY_RECORDS: usize = 128;
/// Room made in the log when a call has found none: more than any record without an outcome takes.
const ROOM: u64 = 4 << 10;
/// An idle store notes the time this often, so that a restart believes the clock.
const NOTE_TIME: Span = Span::from_millis(3_600_000);
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
    /// How far the oldest segment of the log has been written again.
    carry: Option<Carry>,
}

struct Carry {
    id: u32,
    /// The next word to look at.
    word: usize,
    /// Something wanted was being changed, and is still there.
    skipped: bool,
}

/// What the helper saw of the log when it last looked.
#[derive(Default)]
pub(super) struct Idle {
    end: Option<Pos>,
    noted: Option<Tick>,
}

impl Engine {
    /// What a call does for the store: at most one segment retired, and some memory given back
    /// and some buckets swept.
    #[inline]
    pub(crate) fn tend_a_little(&self, now: Tick, pin: &Guard) {
        let c = &self.commons;
        let is_due = c.segments.next_due() <= now.0 || c.sweep.is_running() || self.is_log_due(now);
        // What waits for readers is asked for now and then: most of the time it still waits.
        let waits = || c.segments.pending_bytes() > 0 || c.tables.bytes() > 0;
        if is_due || (is_nth_call(REAP_CALLS) && waits()) {
            self.tend_store(now, PASSING, pin);
        }
        if c.segments.wants_spare() {
            c.alarm.wake_by(Tick(now.0 + 1));
        }
    }

    /// Without a helper the calls look after the log, now and then: it may wait for the disk.
    #[inline]
    fn is_log_due(&self, now: Tick) -> bool {
        match &self.log {
            Some(log) if !self.has_helper() => is_nth_call(LOG_CALLS) && log.next_due() <= now,
            _ => false,
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
        let retired = self.retire_one(&mut keeping, now, pin) || self.carry_some(&mut keeping, now, false);
        // One: to unmap a segment of small pages takes some 300 µs, and 3 ms if it is the last of a
        // file.
        let may_unmap = !effort.passing || !self.has_helper();
        let mut freed = may_unmap && c.segments.reap(now, &c.bytes);
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
        let next = keeping
            .walk
            .take()
            .or_else(|| Some(self.doom(self.take_doomed(now)?)));
        let Some((doomed, from)) = next else { return false };
        // Only counts by scope need to know whose records these are.
        if c.scopes.is_some()
            && let Some(at) = self.unlink_some(&doomed, from, pin)
        {
            keeping.walk = Some((doomed, at));
            return true;
        }
        // What fails here has poisoned the log, and the next open finds the segment.
        if let Some(log) = &self.log
            && matches!(log.drop_front(self.means(now)), Ok(false))
        {
            let end = doomed.words().end;
            keeping.walk = Some((doomed, end));
            return false;
        }
        if c.scopes.is_none() {
            c.sweep.add_stale(doomed.live());
        }
        c.segments.retire(doomed, pin);
        true
    }

    /// A segment in which everything has expired. It is closed: nothing in it is published any
    /// more.
    fn take_doomed(&self, now: Tick) -> Option<Doomed> {
        let c = &self.commons;
        match &self.log {
            None => c.segments.take_doomed(now),
            Some(log) if log.check().is_err() || self.is_closed() => None,
            Some(log) => Some(c.segments.close(log.expired(now)?)),
        }
    }

    /// A claim was refused for something the log can see to at once. True if it has.
    pub(super) fn make_room_in(&self, log: &Log, refused: Refused, need: u64, now: Tick) -> bool {
        match refused {
            Refused::Room => log.make_room(need, self.means(now)),
            Refused::Generations => {
                let so_far = self.shards.iter().map(|s| s.lock().generation_so_far()).max();
                self.raise_ceiling(log, so_far.unwrap_or(1), now).is_ok()
            }
            _ => false,
        }
    }

    /// Writes some records of the oldest segment again, if it is mostly waste, and lets it go
    /// when it holds nothing that is wanted. True if there was something to do.
    fn carry_some(&self, keeping: &mut Housekeeping, now: Tick, urgent: bool) -> bool {
        let c = &self.commons;
        let Some(log) = &self.log else { return false };
        if log.check().is_err() || self.is_closed() || keeping.walk.is_some() {
            return false;
        }
        let Some(front) = log.leftover(|id| c.segments.table.live(id), now, urgent) else {
            return false;
        };
        let begun = keeping.carry.take().filter(|carry| carry.id == front.id());
        let mut carry = begun.unwrap_or(Carry {
            id: front.id(),
            word: front.words().start,
            skipped: false,
        });
        for _ in 0..CARRY_RECORDS {
            if carry.word >= front.words().end {
                // What was being changed when its turn came is looked at once more.
                if !carry.skipped {
                    keeping.walk = Some(self.doom(c.segments.close(front)));
                }
                return true;
            }
            match self.carry_one(log, &front, &mut carry, now) {
                Some(words) => carry.word += words,
                None => {
                    // There is no room to write it; later there may be.
                    keeping.carry = Some(carry);
                    return false;
                }
            }
        }
        keeping.carry = Some(carry);
        true
    }

    /// A segment is closed: the keys it still held are given back, as far as nobody counts them
    /// by scope.
    fn doom(&self, doomed: Doomed) -> (Doomed, usize) {
        if doomed.live() > 0 {
            self.commons.keys.give_direct(doomed.live());
        }
        let from = doomed.words().start;
        (doomed, from)
    }

    /// Writes one record again, if it counts; its length, or `None` if that has to wait.
    fn carry_one(&self, log: &Log, front: &Doomed, carry: &mut Carry, now: Tick) -> Option<usize> {
        let c = &self.commons;
        let pin = c.pins.pin();
        let word = carry.word;
        let at = front.address(word);
        let Some(record) = c.segments.table.record(at, &pin) else {
            // A note without a key.
            return Some(log.note_words(front, word));
        };
        let words = record.len_words();
        let (Some(key), Some(draft)) = (record.key(), record.draft()) else {
            return Some(words);
        };
        let k = Keyed {
            key,
            hash: self.hasher.hash(key),
        };
        let carried = self.shard(k).lock().begin_carry(c, k, at, now, &pin);
        let means = self.means(now);
        match carried {
            Carried::Dead => return Some(words),
            Carried::Busy => {
                carry.skipped = true;
                return Some(words);
            }
            Carried::Outcome => match log.append(&draft, Share::Rest, means) {
                Ok(appended) => {
                    self.shard(k).lock().finish_carry(c, k, at, appended.at, &pin);
                }
                Err(_) => {
                    self.shard(k).lock().disengage(k);
                    return None;
                }
            },
            Carried::Claim(begun) => match log.append(&begun.claimed(k), Share::Rest, means) {
                Ok(appended) => {
                    let there = super::logged::there(&appended);
                    self.shard(k)
                        .lock()
                        .finish_carry_claim(c, k, (&begun, there), now, &pin);
                }
                Err(_) => {
                    self.shard(k).lock().abort(c, k, begun.held, now, &pin);
                    return None;
                }
            },
        }
        log.carried.fetch_add(1, Ordering::Relaxed);
        Some(words)
    }

    /// What the log wants done by itself: files made ahead, sealed segments synced, intervals
    /// kept, the last batch vouched for. True if there was something to do.
    pub(super) fn tend_log(&self, now: Tick) -> bool {
        let Some(log) = &self.log else { return false };
        if self.is_closed() {
            return false;
        }
        if let Err(poisoned) = log.check() {
            // A sync that nobody had submitted to may have been the one that failed.
            self.run_jobs(log, &Err(poisoned));
            return false;
        }
        let mut busy = false;
        if self.has_jobs() || log.next_sync() <= now {
            log.take_sync_by();
            busy |= self.commit_all(log).is_ok();
        }
        if let Some(end) = log.sealed_end() {
            busy |= self.commit(log, end).is_ok();
        }
        busy | log.prepare(self.means(now))
    }

    /// When nothing else was to do for a while: the last batch is vouched for, the time noted.
    pub(super) fn tend_idle_log(&self, now: Tick, keeping: &mut Idle) {
        let Some(log) = &self.log else { return };
        if log.check().is_err() || self.is_closed() {
            return;
        }
        let end = log.end();
        if keeping.end.replace(end) != Some(end) {
            return;
        }
        if keeping.noted.is_none_or(|at| at.after(NOTE_TIME) <= now) {
            keeping.noted = Some(now);
            let _ = log.note_time(now);
        } else {
            let _ = log.vouch_idle();
        }
        keeping.end = Some(log.end());
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
            let Some(record) = c.segments.table.record(at, pin) else {
                // Between the log's records with a key there are others.
                word += self.log.as_ref()?.note_words(doomed, word);
                continue;
            };
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
            Refused::Scope | Refused::Room | Refused::Generations => None,
        };
        if let Some(quota) = quota {
            self.collect_credits(quota);
        }
        // Files are made of the budget's bytes too.
        if matches!(refused, Refused::Bytes | Refused::Room) {
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
            if refused == Refused::Room || refused == Refused::Bytes {
                self.carry_some(&mut keeping, now, true);
            }
        }
        self.give_back_all(now, pin);
        if refused == Refused::Room
            && let Some(log) = &self.log
        {
            log.make_room(ROOM, self.means(now));
        }
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
        c.stock.clear(&c.bytes);
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
            let mut busy = self.tend_store(now, TENDING, &pin) | self.tend_log(now);
            busy |= c.segments.trim_pool(now, &c.bytes) | c.stock.trim(now, &c.bytes);
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

    /// Makes ready what growing callers are about to need, off their path. May take milliseconds.
    fn prepare(&self, now: Tick) {
        let c = &self.commons;
        c.stock.fill(now, &c.bytes, || c.segments.has_reserve(&c.bytes));
        if self.log.is_none() {
            c.segments.prepare(now, &c.bytes);
        }
    }

    /// When the helper has something to do next.
    fn next_due(&self, now: Tick) -> Tick {
        /// An idle store is looked at this often.
        const IDLE: u64 = 1_000;
        let shards = self.shards.iter().map(|s| s.due()).min().unwrap_or(u64::MAX);
        let log = self.log.as_ref().filter(|log| log.check().is_ok());
        let log = log.map_or(u64::MAX, |log| log.next_sync().min(log.next_due()).0);
        let due = shards.min(self.commons.segments.next_due()).min(log);
        Tick(due.max(now.0 + 1).min(now.0 + IDLE))
    }
}

/// The helper thread: does what `maintain` does, until the engine is gone or closed.
pub(crate) fn run_helper(engine: Weak<Engine>) {
    /// What one turn may take before others get the locks again.
    const TURN: Duration = Duration::from_millis(5);
    // A waker of a caller's that panics ends this thread: from then on the calls do its work.
    let _end = OnEnd(engine.clone());
    let mut idle = Idle::default();
    loop {
        let Some(strong) = engine.upgrade() else { return };
        if strong.is_over() {
            return;
        }
        let Ok(now) = strong.enter() else { return };
        strong.commons.alarm.attend(now);
        let more = strong.maintain(now, TURN);
        strong.prepare(now);
        let now = strong.timeline.now();
        if !more {
            strong.tend_idle_log(now, &mut idle);
        }
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

/// Says that there is no helper any more.
struct OnEnd(Weak<Engine>);

impl Drop for OnEnd {
    fn drop(&mut self) {
        if let Some(engine) = self.0.upgrade() {
            engine.go_without_helper();
        }
    }
}
