//! One stripe of the table: a lock, and behind it the index, the unfinished claims and those
//! who wait. What is completed can be found without the lock.
//!
//! What always holds: a key has at most one slot, in the shard its hash names. A slot leads to a
//! record in a segment, to an entry of the slab, or (harmlessly, until it is swept) to a segment
//! that is gone. Each key that is not absent holds one unit of `max_keys`: an unfinished claim
//! holds it itself, a completed one through its segment's count of references.
//!
//! What is absent: I/O, the log, allocation of segments. Records are appended while no shard is
//! locked and published under the lock; wake-ups are given after it ([`wait::Wakes`]). With a log
//! a change has two halves, and in between the key is busy ([`halves`]).

pub(crate) mod change;
pub(crate) mod halves;
pub(crate) mod index;
pub(crate) mod lease;
pub(crate) mod recover;
pub(crate) mod scopes;
pub(crate) mod state;
pub(crate) mod stock;
pub(crate) mod tend;
pub(crate) mod wait;

use crate::alarm::Alarm;
use crate::answer::{Mismatch, Outcome, record_status};
use crate::clock::{Span, Tick};
use crate::epoch::{Guard, Limbo, Pins};
use crate::fingerprint::Fingerprint;
use crate::key::{CheckedKey, KeyHash};
use crate::quota::{Credit, Quota, Room};
use crate::segment::{Address, Record, Segments};
use crate::stats::{Replays, Tally};
use crate::status::Cause;
use crate::status::Status;
use crate::sync::{Arc, AtomicU64, Condvar, Mutex, MutexGuard, Ordering};
use crate::wheel::Wheel;
use index::{Buckets, Index, Place, SharedTable, Slot, Table, Target};
use lease::{Lease, Slab};
use scopes::Scopes;
use state::{Phase, State};
use std::ops::{Deref, DerefMut};
use stock::Stock;
use tend::Sweep;
use wait::{Queues, Wakes};

/// A checked key and its hash in this store.
#[derive(Clone, Copy)]
pub(crate) struct Keyed<'k> {
    pub(crate) key: CheckedKey<'k>,
    pub(crate) hash: KeyHash,
}

/// What all shards of a store share.
pub(crate) struct Commons {
    pub(crate) segments: Segments,
    pub(crate) pins: Pins,
    /// Replaced bucket arrays some reader may still see.
    pub(crate) tables: Limbo<Table>,
    /// Larger ones that are ready.
    pub(crate) stock: Stock,
    pub(crate) keys: Quota,
    pub(crate) flights: Quota,
    pub(crate) bytes: Quota,
    pub(crate) scopes: Option<Scopes>,
    pub(crate) sweep: Sweep,
    /// How long outcomes are kept unless said otherwise, and interrupted claims always.
    pub(crate) ttl: Span,
    pub(crate) max_waiters: usize,
    /// Where the helper thread sleeps.
    pub(crate) alarm: Arc<Alarm>,
    pub(crate) replays: Replays,
    /// Room in the log, if there is one: then claims are recorded.
    pub(crate) room: Option<Arc<Room>>,
    /// No generation so large may be given out yet.
    pub(crate) ceiling: AtomicU64,
}

impl Commons {
    pub(crate) fn is_logged(&self) -> bool {
        self.room.is_some()
    }
}

/// 128 bytes apart, for processors that fetch lines in pairs: what readers load is not on a
/// line another shard's writers own.
#[repr(align(128))]
pub(crate) struct Shard {
    table: SharedTable,
    /// The next tick at which the lease wheel has something to do.
    due: AtomicU64,
    /// How many times the shard may have been changed, each under the lock.
    changes: AtomicU64,
    inner: Mutex<Inner>,
    /// A key is no longer busy.
    settled: Condvar,
}

pub(crate) struct Inner {
    index: Index,
    slab: Slab,
    /// Ends of leases and of interrupted claims; made with the first one.
    wheel: Option<Box<Wheel>>,
    queues: Queues,
    next_generation: u64,
    /// Completed keys a change of which is being recorded.
    engaged: Vec<KeyHash>,
    keys: Credit,
    flights: Credit,
    bytes: Credit,
    /// The last round of sweeping this shard has finished, and the one it is in.
    swept_round: u64,
    sweeping_round: u64,
    pub(crate) tally: Tally,
}

/// A shard whose lock is held. What was changed counts as one change when it is dropped. Fields drop
/// in order: the lock first, then the wake-ups.
pub(crate) struct Locked<'s> {
    inner: MutexGuard<'s, Inner>,
    shard: &'s Shard,
    wakes: Wakes,
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        self.count_change();
    }
}

impl Deref for Locked<'_> {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.inner
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Inner {
        &mut self.inner
    }
}

/// A new holder's claim, before it is wrapped into a guard.
pub(crate) struct Ticket {
    pub(crate) lease: u32,
    pub(crate) generation: u64,
    pub(crate) lease_end: Tick,
    pub(crate) attempt: u32,
    pub(crate) checkpoint: Option<Arc<[u8]>>,
}

/// Somebody else's claim.
#[derive(Clone, Copy)]
pub(crate) struct Flight {
    pub(crate) generation: u64,
    pub(crate) lease_end: Tick,
    /// Held by a `first_seen` that is about to finish.
    pub(crate) passing: bool,
}

/// An interrupted claim, and who is asked what became of it.
pub(crate) struct Question {
    pub(crate) lease: u32,
    pub(crate) generation: u64,
    pub(crate) attempt: u32,
    pub(crate) cause: Cause,
    pub(crate) checkpoint: Option<Arc<[u8]>>,
    /// It was given to a waiter: dropped undecided, it passes to the next.
    pub(crate) exclusive: bool,
}

/// What a claim comes to.
pub(crate) enum Verdict {
    Acquired(Ticket),
    Completed(Outcome),
    InFlight(Flight),
    Interrupted(Question),
    Mismatch(Mismatch),
    /// Said to `first_seen` alone: the key is claimed and not completed.
    InUse(Status),
}

/// No room: which limit said so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    Keys,
    Flights,
    Bytes,
    Scope,
    /// The log has no room for the claim's records.
    Room,
    /// Generations have run up to what is durable.
    Generations,
}

impl Refused {
    pub(crate) const ALL: [Refused; 6] = [
        Refused::Keys,
        Refused::Flights,
        Refused::Bytes,
        Refused::Scope,
        Refused::Room,
        Refused::Generations,
    ];
}

/// The caller's generation holds nothing any more.
pub(crate) struct Lost;

/// What a key's slot leads to.
pub(crate) enum Found<'g> {
    Nothing {
        vacant: Option<Place>,
    },
    Lease {
        place: Place,
        index: u32,
    },
    Record {
        place: Place,
        at: Address,
        record: Record<'g>,
    },
}

/// What a lookup without the lock can say.
pub(crate) enum Glimpse<'g> {
    Record(Record<'g>),
    /// No slot leads to such a key.
    Nothing(Absence),
    /// An unfinished claim may be the key's: ask under the lock.
    Perhaps,
}

/// That no slot led to a key, seen without the lock: it holds for as long as nothing has changed.
#[derive(Clone, Copy)]
pub(crate) struct Absence {
    changes: u64,
    /// Where the key could go, if that was looked for.
    vacant: Option<Place>,
}

impl Shard {
    /// The shard with this number; its first table's bytes are the caller's to count.
    pub(crate) fn new(number: usize) -> Self {
        let (index, table) = Index::new(number);
        Shard {
            table,
            due: AtomicU64::new(u64::MAX),
            changes: AtomicU64::new(0),
            inner: Mutex::new(Inner {
                index,
                slab: Slab::default(),
                wheel: None,
                queues: Queues::default(),
                next_generation: 1,
                engaged: Vec::new(),
                keys: Credit::default(),
                flights: Credit::default(),
                bytes: Credit::default(),
                swept_round: 0,
                sweeping_round: 0,
                tally: Tally::default(),
            }),
            settled: Condvar::new(),
        }
    }

    /// Bytes of a new shard.
    pub(crate) fn new_bytes() -> u64 {
        size_of::<Shard>() as u64 + Index::min_bytes()
    }

    pub(crate) fn lock(&self) -> Locked<'_> {
        Locked {
            inner: self.inner.lock(),
            shard: self,
            wakes: Wakes::default(),
        }
    }

    /// Has the lease wheel something to do?
    pub(crate) fn is_due(&self, now: Tick) -> bool {
        self.due() <= now.0
    }

    pub(crate) fn due(&self) -> u64 {
        self.due.load(Ordering::Relaxed)
    }

    /// The buckets as a reader without the lock may see them.
    #[inline]
    pub(crate) fn buckets<'g>(&self, pin: &'g Guard) -> Buckets<'g> {
        self.table.load(pin)
    }

    /// Asks for the records a lookup of this key will read.
    pub(crate) fn prefetch_record(&self, k: Keyed<'_>, commons: &Commons, pin: &Guard) {
        self.buckets(pin).probe(k.hash.tag(), |_, slot| {
            if let Some(Target::Record(at)) = slot.target() {
                commons.segments.table.prefetch(at, pin);
            }
            None::<()>
        });
    }

    /// Looks a key up without the lock, for a claim also a place where it could go. The record may
    /// have expired.
    #[inline]
    pub(crate) fn glimpse<'g, const TO_CLAIM: bool>(
        &self,
        k: Keyed<'_>,
        commons: &Commons,
        pin: &'g Guard,
    ) -> Glimpse<'g> {
        // Acquire, and before any slot is loaded: the slots are at least as new as this count.
        let changes = if TO_CLAIM {
            self.changes.load(Ordering::Acquire)
        } else {
            0
        };
        let mut perhaps = false;
        let visit = |_, slot: Slot| match slot.target()? {
            Target::Record(at) => match commons.segments.table.record(at, pin) {
                Some(record) => record.is_for(k.key).then_some(record),
                // Its segment went while we looked, or long ago. If the slot has been
                // taken for something new meanwhile, the lock will tell.
                None => {
                    perhaps = true;
                    None
                }
            },
            Target::Lease(_) => {
                perhaps = true;
                None
            }
        };
        let mut vacant = None;
        let buckets = self.buckets(pin);
        let record = if TO_CLAIM {
            buckets.probe_for_insert(k.hash.tag(), &mut vacant, visit)
        } else {
            buckets.probe(k.hash.tag(), visit)
        };
        match record {
            Some(record) => Glimpse::Record(record),
            None if perhaps => Glimpse::Perhaps,
            None => Glimpse::Nothing(Absence { changes, vacant }),
        }
    }
}

impl Locked<'_> {
    /// Until here the shard may have been changed: what was seen before without the lock does not
    /// hold any more.
    fn count_change(&self) {
        if cfg!(onceonly_sabotage = "stale_glimpse") {
            return;
        }
        // Written only under the lock. Release: who sees the count sees what was changed.
        let changes = self.shard.changes.load(Ordering::Relaxed);
        self.shard.changes.store(changes + 1, Ordering::Release);
    }

    /// Looks a key up that was perhaps just seen to be absent.
    fn find_unless<'g>(
        &self,
        absence: Option<Absence>,
        k: Keyed<'_>,
        commons: &Commons,
        pin: &'g Guard,
    ) -> Found<'g> {
        match absence {
            // Relaxed: the lock is held, and so the count stands still. Equal, it says that nothing
            // has changed since before the slots were looked at.
            Some(Absence { changes, vacant }) if changes == self.shard.changes.load(Ordering::Relaxed) => {
                Found::Nothing { vacant }
            }
            _ => self.find(k, commons, pin),
        }
    }
}

impl Found<'_> {
    #[inline]
    fn state(&self, inner: &Inner) -> State {
        match self {
            Found::Nothing { .. } => State::Absent,
            Found::Lease { index, .. } => inner.slab.get(*index).map_or(State::Absent, Lease::state),
            Found::Record { record, .. } => completed_state(record),
        }
    }
}

/// The state a record stands for.
pub(crate) fn completed_state(record: &Record<'_>) -> State {
    State::Completed {
        generation: record.generation(),
        fingerprint: record.fingerprint(),
        deadline: record.deadline(),
    }
}

impl Inner {
    /// Looks a key up under the lock.
    pub(crate) fn find<'g>(&self, k: Keyed<'_>, commons: &Commons, pin: &'g Guard) -> Found<'g> {
        let mut vacant = None;
        let visit = |place, slot: Slot| match slot.target()? {
            Target::Record(at) => {
                let record = commons.segments.table.record(at, pin)?;
                record
                    .is_for(k.key)
                    .then_some(Found::Record { place, at, record })
            }
            Target::Lease(index) => {
                let lease = self.slab.get(index)?;
                (lease.key.as_checked() == k.key).then_some(Found::Lease { place, index })
            }
        };
        let found = self
            .index
            .buckets()
            .probe_for_insert(k.hash.tag(), &mut vacant, visit);
        found.unwrap_or(Found::Nothing { vacant })
    }

    /// The key's record, if it is completed (or was, and has expired).
    pub(crate) fn find_record<'g>(
        &self,
        k: Keyed<'_>,
        commons: &Commons,
        pin: &'g Guard,
    ) -> Option<Record<'g>> {
        match self.find(k, commons, pin) {
            Found::Record { record, .. } => Some(record),
            _ => None,
        }
    }

    /// What the key is, for the caller's eyes.
    pub(crate) fn status(&self, found: &Found<'_>, now: Tick) -> Status {
        match found {
            Found::Nothing { .. } => Status::Absent,
            Found::Record { record, .. } if record.deadline() <= now => Status::Absent,
            Found::Record { record, .. } => record_status(record, now),
            Found::Lease { index, .. } => self
                .slab
                .get(*index)
                .map_or(Status::Absent, |lease| lease.status(now)),
        }
    }

    fn mismatch(&self, found: &Found<'_>, now: Tick) -> Mismatch {
        let fingerprint = match found {
            Found::Nothing { .. } => None,
            Found::Record { record, .. } => Some(record.fingerprint()),
            Found::Lease { index, .. } => self.slab.get(*index).map(|l| l.fingerprint),
        };
        Mismatch {
            fingerprint: fingerprint.unwrap_or(Fingerprint::NONE),
            status: self.status(found, now),
        }
    }

    /// (in flight, interrupted) right now.
    pub(crate) fn open_claims(&self, now: Tick) -> (u64, u64) {
        self.slab.counts(now)
    }

    pub(crate) fn waiters(&self) -> u64 {
        self.queues.waiters()
    }

    /// (units of keys, of flights, of bytes) taken by this shard and not used.
    pub(crate) fn credits(&self) -> [u64; 3] {
        [self.keys.units(), self.flights.units(), self.bytes.units()]
    }

    pub(crate) fn index_bytes(&self) -> u64 {
        self.index.bytes()
    }

    /// Unfinished claims and the addresses of everything else, copied for a scan.
    pub(crate) fn snapshot(&self) -> (Vec<u32>, Vec<Address>) {
        let mut leases = Vec::new();
        let mut records = Vec::new();
        for target in self.index.targets() {
            match target {
                Target::Lease(index) => leases.push(index),
                Target::Record(at) => records.push(at),
            }
        }
        (leases, records)
    }

    pub(crate) fn lease(&self, index: u32) -> Option<&Lease> {
        self.slab.get(index)
    }
}

impl Lease {
    pub(crate) fn status(&self, now: Tick) -> Status {
        let age = now.since(self.started);
        match self.state().phase(now) {
            Phase::InFlight { generation } => Status::InFlight {
                generation,
                attempt: self.attempt,
                age,
                lease_left: self.lease_end.since(now),
            },
            Phase::Interrupted { generation, cause } => Status::Interrupted {
                generation,
                attempt: self.attempt,
                age,
                cause,
            },
            Phase::Absent | Phase::Completed { .. } => Status::Absent,
        }
    }
}
