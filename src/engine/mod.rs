//! The engine: brings key, time, shards and segments together. One function a call; the
//! decisions are in `shard::state`, the bytes in `segment`.
//!
//! A call goes through the same door ([`Engine::enter`]): is the store open, is this the process
//! that made it, what time is it. It looks without a lock first; only what that cannot answer
//! takes the shard's lock. Records are appended before the lock is taken; with a log, between
//! two takings of it ([`logged`]).

mod finish;
mod logged;
mod open;
mod operate;
mod tend;
mod wait;

pub(crate) use finish::{Grip, NewOutcome};
pub(crate) use open::LogOptions;
pub use open::RecoveryReport;
pub(crate) use operate::ScanItem;
pub(crate) use tend::run_helper;
pub(crate) use wait::WaitTurn;

use crate::alarm::Alarm;
use crate::answer::{Mismatch, Outcome, Stored, record_status};
use crate::clock::{AnyClock, Span, Tick, Timeline};
use crate::epoch::{Guard, Limbo, Pins};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::key::{Key, KeyHasher};
use crate::log::Log;
use crate::options::Durability;
use crate::quota::Quota;
use crate::segment::words::ForkMark;
use crate::segment::{Record, Segments, space};
use crate::shard::change::Wish;
use crate::shard::scopes::Scopes;
use crate::shard::state::{Command, Decision, decide};
use crate::shard::stock::Stock;
use crate::shard::tend::Sweep;
use crate::shard::{Absence, Commons, Glimpse, Keyed, Locked, Refused, Shard, Verdict, completed_state};
use crate::stats::{Replays, Stats, Tally};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};

/// What a builder has checked.
pub(crate) struct Settings {
    pub(crate) ttl: Span,
    pub(crate) lease: Span,
    pub(crate) max_keys: u64,
    pub(crate) max_keys_per_scope: Option<u64>,
    pub(crate) max_bytes: u64,
    pub(crate) max_in_flight: u64,
    pub(crate) max_waiters: usize,
    pub(crate) max_outcome: usize,
    pub(crate) shards: usize,
    pub(crate) lanes: usize,
    pub(crate) clock: AnyClock,
    pub(crate) constant_hash: bool,
    pub(crate) durability: Durability,
    pub(crate) claim_durability: Durability,
    pub(crate) helper_thread: bool,
}

pub(crate) struct Engine {
    pub(crate) commons: Commons,
    shards: Box<[Shard]>,
    hasher: KeyHasher,
    timeline: Timeline,
    fork: ForkMark,
    closed: AtomicBool,
    /// The last handle is gone; guards may be left.
    retired: AtomicBool,
    pub(crate) lease: Span,
    max_outcome: usize,
    store_id: u64,
    /// The log, in a store that has one.
    log: Option<Log>,
    jobs: logged::Jobs,
    pub(crate) durability: Durability,
    pub(crate) claim_durability: Durability,
    /// The store was made with a helper thread, and it runs.
    with_helper: bool,
    helped: AtomicBool,
    recovery: RecoveryReport,
    housekeeping: Mutex<tend::Housekeeping>,
    /// When a refused claim may look for expired keys again.
    next_search: AtomicU64,
}

/// Blocks in which shards take units: keys and claims one by one, bytes in small pages.
const UNIT_BLOCK: u64 = 64;
const BYTE_BLOCK: u64 = 8 << 10;

/// Bytes for growth beyond the fixed parts, without which a budget makes no sense.
const GROWTH_BYTES: u64 = 64 << 10;

impl Settings {
    /// The least `max_bytes` these settings can work with, in memory.
    pub(crate) fn min_bytes(&self) -> u64 {
        self.fixed_bytes() + space::min_bytes(self.lanes)
    }

    /// The same for what does not depend on where records lie.
    fn fixed_bytes(&self) -> u64 {
        self.shards as u64 * Shard::new_bytes() + GROWTH_BYTES
    }
}

impl Engine {
    /// Makes an engine in memory; the caller has checked that the budget is at least
    /// `min_bytes`.
    pub(crate) fn new(settings: Settings) -> Option<Arc<Self>> {
        let timeline = Timeline::new(settings.clock.clone());
        Self::assemble(settings, timeline, None, 0).map(Arc::new)
    }

    /// Puts the parts together; the log has so many segments already.
    fn assemble(settings: Settings, timeline: Timeline, log: Option<Log>, found: usize) -> Option<Self> {
        let Settings {
            ttl,
            lease,
            max_keys,
            max_keys_per_scope,
            max_bytes,
            max_in_flight,
            max_waiters,
            max_outcome,
            shards,
            lanes,
            constant_hash,
            durability,
            claim_durability,
            helper_thread,
            ..
        } = settings;
        let now = timeline.now();
        let bytes = Quota::new(max_bytes, shards, BYTE_BLOCK);
        if !bytes.take_direct(shards as u64 * Shard::new_bytes()) {
            return None;
        }
        let segments = match &log {
            Some(_) => Segments::without_lanes(&bytes, now, found),
            None => Segments::new(space::segment_bytes(max_bytes), lanes, &bytes, now)?,
        };
        let hasher = KeyHasher::new(constant_hash);
        Some(Engine {
            commons: Commons {
                segments,
                pins: Pins::new(),
                tables: Limbo::new(),
                stock: Stock::default(),
                keys: Quota::new(max_keys, shards, UNIT_BLOCK),
                flights: Quota::new(max_in_flight, shards, UNIT_BLOCK),
                bytes,
                scopes: max_keys_per_scope.map(Scopes::new),
                sweep: Sweep::new(),
                ttl,
                max_waiters,
                alarm: Arc::new(Alarm::new()),
                replays: Replays::default(),
                room: log.as_ref().map(|log| log.room.clone()),
                ceiling: AtomicU64::new(u64::MAX),
            },
            shards: (0..shards).map(Shard::new).collect(),
            store_id: log.as_ref().map_or_else(|| hasher.store_id(), Log::store),
            hasher,
            timeline,
            fork: ForkMark::new(),
            closed: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            lease,
            max_outcome,
            log,
            jobs: logged::Jobs::default(),
            durability,
            claim_durability,
            with_helper: helper_thread,
            helped: AtomicBool::new(helper_thread),
            recovery: RecoveryReport::default(),
            housekeeping: Mutex::new(tend::Housekeeping::default()),
            next_search: AtomicU64::new(0),
        })
    }

    pub(crate) fn recovery(&self) -> &RecoveryReport {
        &self.recovery
    }

    pub(crate) fn store_id(&self) -> u64 {
        self.store_id
    }

    pub(crate) fn clock(&self) -> &AnyClock {
        self.timeline.clock()
    }

    /// The door of calls that only read.
    #[inline]
    pub(crate) fn enter_reading(&self) -> Result<Tick> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        Ok(self.timeline.now())
    }

    /// The door of calls that may change something.
    #[inline]
    pub(crate) fn enter(&self) -> Result<Tick> {
        if !self.fork.is_ours() {
            return Err(Error::Forked);
        }
        self.enter_reading()
    }

    /// The store's time, for answers that only tell it.
    pub(crate) fn now(&self) -> Tick {
        self.timeline.now()
    }

    /// Does a helper thread do the housekeeping?
    pub(crate) fn has_helper(&self) -> bool {
        self.helped.load(Ordering::Relaxed)
    }

    /// There is no helper, or no more: whoever waits does what it would have done.
    pub(crate) fn go_without_helper(&self) {
        self.helped.store(false, Ordering::Relaxed);
    }

    /// The last handle is gone: the helper ends.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
        self.commons.alarm.ring();
    }

    /// Has the helper anything left to do?
    fn is_over(&self) -> bool {
        self.is_closed() || self.retired.load(Ordering::SeqCst)
    }

    /// Pins the epoch for several calls in a row.
    pub(crate) fn pin(&self) -> Guard {
        self.commons.pins.pin()
    }

    /// Is this the process that made the store?
    pub(crate) fn is_ours(&self) -> bool {
        self.fork.is_ours()
    }

    pub(crate) fn keyed<'k>(&self, key: Key<'k>) -> Result<Keyed<'k>> {
        let key = key.check()?;
        Ok(Keyed {
            key,
            hash: self.hasher.hash(key),
        })
    }

    #[inline]
    fn shard(&self, k: Keyed<'_>) -> &Shard {
        &self.shards[k.hash.shard(self.shards.len())]
    }

    /// Asks for the key's bucket, and goes through the door while it comes: the clock takes about
    /// half as long as a line from memory.
    #[inline]
    fn approach(&self, k: Keyed<'_>, door: impl FnOnce(&Self) -> Result<Tick>) -> Result<(Tick, Guard)> {
        let pin = self.commons.pins.pin();
        self.shard(k).buckets(&pin).prefetch(k.hash.tag());
        Ok((door(self)?, pin))
    }

    /// Claims a key; never waits for another holder.
    #[inline]
    pub(crate) fn claim(&self, k: Keyed<'_>, wish: Wish) -> Result<Verdict> {
        let (now, mut pin) = self.approach(k, Self::enter)?;
        let verdict = match self.glimpse_claim(k, wish, now, &pin) {
            Glimpsed::Answer(verdict) => Ok(verdict),
            Glimpsed::Unsure(absence) => self.claim_under_lock(k, wish, absence, now, &mut pin),
        };
        self.tend_a_little(now, &pin);
        verdict
    }

    /// What the glimpse could not answer.
    fn claim_under_lock(
        &self,
        k: Keyed<'_>,
        wish: Wish,
        absence: Option<Absence>,
        now: Tick,
        pin: &mut Guard,
    ) -> Result<Verdict> {
        let verdict = self.claim_locked(k, wish, absence, now, pin)?;
        if self.log.is_none() {
            return Ok(verdict);
        }
        match self.begin_record(k, wish, verdict, now)? {
            Begun::Answer(verdict) => Ok(verdict),
            // Not pinned while waiting for the disk.
            recording => pin.repin_after(|| self.end_claim_at(k, wish, recording, now)),
        }
    }

    /// Claims a key, up to the wait for the claim's record.
    pub(crate) fn begin_claim_at(
        &self,
        k: Keyed<'_>,
        wish: Wish,
        now: Tick,
        pin: &mut Guard,
    ) -> Result<Begun> {
        match self.glimpse_claim(k, wish, now, pin) {
            Glimpsed::Answer(answer) => Ok(Begun::Answer(answer)),
            Glimpsed::Unsure(absence) => {
                let verdict = self.claim_locked(k, wish, absence, now, pin)?;
                self.begin_record(k, wish, verdict, now)
            }
        }
    }

    #[inline]
    fn claim_locked(
        &self,
        k: Keyed<'_>,
        wish: Wish,
        absence: Option<Absence>,
        now: Tick,
        pin: &mut Guard,
    ) -> Result<Verdict> {
        if let Some(log) = &self.log {
            log.check()?;
        }
        self.with_room(k, now, pin, |shard, pin| {
            // What has expired may be just being written again.
            while shard.is_engaged(k) {
                shard.wait_settled();
            }
            shard.claim(&self.commons, k, wish, absence, now, pin)
        })
    }

    /// A new claim's record is appended, if there is a log.
    fn begin_record(&self, k: Keyed<'_>, wish: Wish, verdict: Verdict, now: Tick) -> Result<Begun> {
        match (verdict, &self.log) {
            (Verdict::Acquired(ticket), Some(log)) if !wish.passing => {
                let recording = self.begin_claim(log, k, wish, ticket, now)?;
                Ok(Begun::Recording(recording))
            }
            (verdict, _) => Ok(Begun::Answer(verdict)),
        }
    }

    /// Records a claim that a waiter got.
    pub(super) fn record_verdict(&self, k: Keyed<'_>, wish: Wish, verdict: Verdict) -> Result<Verdict> {
        let now = self.timeline.now();
        let begun = self.begin_record(k, wish, verdict, now)?;
        self.end_claim_at(k, wish, begun, now)
    }

    /// Waits for the record, if there is one, and hands the claim out.
    pub(crate) fn end_claim_at(&self, k: Keyed<'_>, wish: Wish, begun: Begun, now: Tick) -> Result<Verdict> {
        match (begun, &self.log) {
            (Begun::Answer(verdict), _) => Ok(verdict),
            (Begun::Recording(recording), Some(log)) => {
                let ticket = self.finish_claim(log, k, recording, wish.durability, now);
                ticket.map(Verdict::Acquired)
            }
            (Begun::Recording(_), None) => unreachable!("only a log records claims"),
        }
    }

    /// Claims a key and leaves the wait to whoever syncs next.
    pub(crate) fn submit_claim(
        &self,
        k: Keyed<'_>,
        wish: Wish,
        then: impl FnOnce(&Engine, Result<Verdict>) + Send + 'static,
    ) -> Result<()> {
        let now = self.enter()?;
        let pin = &mut self.commons.pins.pin();
        match self.begin_claim_at(k, wish, now, pin)? {
            Begun::Recording(recording) if wish.durability == Durability::Sync => {
                self.submit_recording(k, recording, now, then);
            }
            begun => then(self, self.end_claim_at(k, wish, begun, now)),
        }
        Ok(())
    }

    /// Runs what was submitted, on this thread: for stores without a helper.
    pub(crate) fn drive(&self) -> Result<()> {
        match &self.log {
            Some(log) => self.commit_all(log),
            None => Ok(()),
        }
    }

    /// Answers a claim of a completed key without the lock.
    #[inline]
    fn glimpse_claim(&self, k: Keyed<'_>, wish: Wish, now: Tick, pin: &Guard) -> Glimpsed {
        let record = match self.shard(k).glimpse::<true>(k, &self.commons, pin) {
            Glimpse::Record(record) => record,
            Glimpse::Nothing(absence) => return Glimpsed::Unsure(Some(absence)),
            Glimpse::Perhaps => return Glimpsed::Unsure(None),
        };
        let command = if wish.passing {
            Command::FirstSeen
        } else {
            Command::Claim(wish.fingerprint)
        };
        match decide(&completed_state(&record), command, now) {
            Decision::Replay => {
                self.commons.replays.count(now.millis_since(record.written()));
                Glimpsed::Answer(Verdict::Completed(Outcome::of_record(&record, now)))
            }
            Decision::Mismatch => {
                self.commons.replays.count_mismatch();
                Glimpsed::Answer(Verdict::Mismatch(Mismatch {
                    fingerprint: record.fingerprint(),
                    status: record_status(&record, now),
                }))
            }
            _ => Glimpsed::Unsure(None),
        }
    }

    /// Runs something that may need room for a new key. Where a limit refuses, looks for what
    /// has expired and tries again, once for each limit.
    fn with_room<R>(
        &self,
        k: Keyed<'_>,
        now: Tick,
        pin: &mut Guard,
        mut attempt: impl FnMut(&mut Locked<'_>, &Guard) -> Result<R, Refused>,
    ) -> Result<R> {
        // Unlocked again before anything else.
        let first = attempt(&mut self.lock_tended(k, now, pin), pin);
        match first {
            Ok(done) => Ok(done),
            Err(refused) => self.after_refusal(k, now, pin, refused, &mut attempt),
        }
    }

    /// Locks the key's shard; what is due there is seen to first.
    #[inline]
    fn lock_tended(&self, k: Keyed<'_>, now: Tick, pin: &Guard) -> Locked<'_> {
        let mut shard = self.shard(k).lock();
        if shard.is_due(now) {
            shard.tick(&self.commons, now, tend::OWN_STEPS, pin);
        }
        shard
    }

    #[cold]
    fn after_refusal<R>(
        &self,
        k: Keyed<'_>,
        now: Tick,
        pin: &mut Guard,
        mut refused: Refused,
        attempt: &mut dyn FnMut(&mut Locked<'_>, &Guard) -> Result<R, Refused>,
    ) -> Result<R> {
        let mut again = |pin: &Guard| attempt(&mut self.lock_tended(k, now, pin), pin);
        let mut searched = None;
        for _ in 0..=Refused::ALL.len() {
            // What the log makes others may take first, again and again, but then they get on.
            while let Some(log) = &self.log
                && self.make_room_in(log, refused, Locked::promise(k), now)
            {
                match again(pin) {
                    Ok(done) => return Ok(done),
                    Err(still) => refused = still,
                }
            }
            if searched.replace(refused) == Some(refused) {
                break;
            }
            self.search_room(refused, now, pin);
            match again(pin) {
                Ok(done) => return Ok(done),
                Err(still) => refused = still,
            }
        }
        Err(self.at_capacity(now))
    }

    /// Reads a completed key's record without a lock; the closure runs under the epoch pin.
    pub(crate) fn read<R>(
        &self,
        k: Keyed<'_>,
        fingerprint: Option<Fingerprint>,
        read: impl FnOnce(Stored<'_>) -> R,
    ) -> Result<Lookup<R>> {
        let (now, pin) = self.approach(k, Self::enter_reading)?;
        Ok(self.read_at(k, fingerprint, now, &pin, read))
    }

    /// The same under a pin and at a time the caller has.
    pub(crate) fn read_at<R>(
        &self,
        k: Keyed<'_>,
        fingerprint: Option<Fingerprint>,
        now: Tick,
        pin: &Guard,
        read: impl FnOnce(Stored<'_>) -> R,
    ) -> Lookup<R> {
        let shard = self.shard(k);
        let record = match shard.glimpse::<false>(k, &self.commons, pin) {
            Glimpse::Record(record) => record,
            Glimpse::Nothing(_) => return Lookup::Miss,
            Glimpse::Perhaps => match shard.lock().find_record(k, &self.commons, pin) {
                Some(record) => record,
                None => return Lookup::Miss,
            },
        };
        self.lend(&record, fingerprint, now, read)
    }

    #[inline]
    fn lend<R>(
        &self,
        record: &Record<'_>,
        fingerprint: Option<Fingerprint>,
        now: Tick,
        read: impl FnOnce(Stored<'_>) -> R,
    ) -> Lookup<R> {
        if record.deadline() <= now {
            return Lookup::Miss;
        }
        if fingerprint.is_some_and(|f| f != record.fingerprint()) {
            self.commons.replays.count_mismatch();
            return Lookup::Mismatch;
        }
        let age = now.millis_since(record.written());
        if fingerprint.is_some() {
            self.commons.replays.count(age);
        }
        Lookup::Hit(read(Stored::of_record(record, age)))
    }

    /// Asks for what a batch will touch: first the buckets of all keys, then their records.
    pub(crate) fn prefetch<'k>(&self, batch: impl Iterator<Item = Keyed<'k>> + Clone, pin: &Guard) {
        self.prefetch_buckets(batch.clone(), pin);
        for k in batch {
            self.shard(k).prefetch_record(k, &self.commons, pin);
        }
    }

    fn prefetch_buckets<'k>(&self, batch: impl Iterator<Item = Keyed<'k>>, pin: &Guard) {
        for k in batch {
            self.shard(k).buckets(pin).prefetch(k.hash.tag());
        }
    }

    /// Intervals are kept by the helper thread.
    pub(crate) fn allowed(&self, durability: Durability) -> Result<Durability> {
        match durability {
            Durability::Interval(_) if !self.with_helper && self.log.is_some() => Err(Error::InvalidInput {
                what: "durability",
                why: "an interval needs the helper thread; switch it on, or use Process and Store::sync",
            }),
            durability => Ok(durability),
        }
    }

    fn at_capacity(&self, now: Tick) -> Error {
        self.commons.replays.count_at_capacity();
        Error::AtCapacity {
            retry_after: self.retry_after(now),
        }
    }

    /// Adds up what the shards have counted.
    pub(crate) fn stats(&self) -> Stats {
        let now = self.timeline.now();
        let c = &self.commons;
        let mut sum = Tally::default();
        let (mut flying, mut interrupted, mut waiters, mut index) = (0, 0, 0, 0);
        let mut idle = [0; 3];
        for shard in &self.shards {
            let shard = shard.lock();
            sum.add(&shard.tally);
            let open = shard.open_claims(now);
            flying += open.0;
            interrupted += open.1;
            waiters += shard.waiters();
            index += shard.index_bytes();
            for (total, units) in idle.iter_mut().zip(shard.credits()) {
                *total += units;
            }
        }
        let (segments, used) = self.log.as_ref().map_or_else(|| c.segments.used(), Log::used);
        let (syncs, synced_calls) = self.log.as_ref().map_or((0, 0), Log::commits);
        let of_log = |get: fn(&Log) -> u64| self.log.as_ref().map_or(0, get);
        Stats {
            acquired: sum.acquired,
            completed: sum.completed,
            first_seen: sum.first_seen,
            released: sum.released,
            replays: c.replays.ages().total(),
            in_flight_answers: sum.in_flight,
            interrupted_answers: sum.interrupted,
            mismatches: sum.mismatches + c.replays.mismatches(),
            at_capacity: c.replays.at_capacity(),
            stale_completes: sum.stale_completes,
            stale_others: sum.stale_others,
            takeovers: sum.takeovers,
            guards_dropped: sum.guards_dropped,
            leases_lapsed: sum.lapsed,
            forgotten: sum.forgotten,
            keys_live: c.keys.taken().saturating_sub(idle[0]),
            keys_in_flight: flying,
            keys_interrupted: interrupted,
            expired_unreclaimed: c.sweep.all_stale(),
            waiters,
            bytes_reserved: c.bytes.taken().saturating_sub(idle[2]),
            bytes_used: used,
            bytes_index: index,
            bytes_epoch_pending: c.segments.pending_bytes() + c.tables.bytes(),
            bytes_limit: c.bytes.limit(),
            segments,
            index_rebuilds: sum.rebuilds,
            bytes_disk: of_log(Log::disk_bytes),
            syncs,
            synced_calls,
            records_carried: of_log(|log| log.carried.load(Ordering::Relaxed)),
            prepare_failures: of_log(|log| log.prepare_failures.load(Ordering::Relaxed)),
            replay_ages: c.replays.ages(),
        }
    }
}

/// What a look without the lock says to a claim.
enum Glimpsed {
    Answer(Verdict),
    /// The lock has to tell; if the key was seen to be absent, it can do so faster.
    Unsure(Option<Absence>),
}

/// What a claim comes to before its record is durable.
pub(crate) enum Begun {
    Answer(Verdict),
    Recording(logged::Recording),
}

impl Drop for Engine {
    /// The last handle is gone: what was recorded is made durable, as well as it can be.
    fn drop(&mut self) {
        let Some(log) = &self.log else { return };
        if self.is_ours() {
            let _ = log.close(self.timeline.now());
        } else {
            log.abandon();
        }
    }
}

/// What reading a key comes to.
pub(crate) enum Lookup<R> {
    Hit(R),
    Miss,
    Mismatch,
}
