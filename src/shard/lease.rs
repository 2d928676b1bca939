//! The slab of unfinished claims: those in flight, and those interrupted and not yet settled.
//!
//! An interrupted claim stays where it is, with its checkpoint, and only stops counting as in
//! flight. Entries keep their index while they live; an index slot and a guard both lead here
//! by it, and a guard's generation tells whether the entry is still its own.
//!
//! Each entry keeps its timer from one claim to the next: a claim that is finished in time
//! leaves it alone, and when it fires for a later claim it is set to that claim's deadline. So
//! claiming and completing cost no work on the wheel.

use super::index::Place;
use super::state::State;
use crate::clock::Tick;
use crate::fingerprint::Fingerprint;
use crate::key::{CheckedKey, KeyBuf, KeyHash};
use crate::segment::Address;
use crate::status::Cause;
use crate::sync::Arc;
use crate::wheel::{TimerId, Wheel};
use std::ops::{Deref, DerefMut};

/// Is a change of the claim being recorded?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Busy {
    No,
    /// By a thread that will finish it.
    Yes,
    /// Housekeeping writes the record again: nothing about the claim changes.
    Copied,
    /// It was submitted: whoever makes the log durable up to here (a position) finishes it.
    Submitted(u64),
}

/// An unfinished claim.
pub(crate) struct Lease {
    pub(crate) key: KeyBuf,
    pub(crate) checkpoint: Option<Arc<[u8]>>,
    terms: Terms,
}

/// What of a claim is small, and written as a whole when it begins.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) hash: KeyHash,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) generation: u64,
    /// When this generation began.
    pub(crate) started: Tick,
    pub(crate) lease_end: Tick,
    pub(crate) forget_at: Tick,
    pub(crate) attempt: u32,
    /// Where the index slot is that leads here.
    pub(crate) place: Place,
    pub(crate) cause: Option<Cause>,
    /// It holds a unit of `max_in_flight`.
    pub(crate) counted: bool,
    /// Its end has been noticed: waiters were told.
    pub(crate) lapse_told: bool,
    /// A waiter holds the question what became of it; the others wait on.
    pub(crate) asked: bool,
    /// It comes from a `first_seen` that is about to finish.
    pub(crate) passing: bool,
    /// Bytes of the budget set aside for its completion and taken by its key and checkpoint.
    pub(crate) bytes: u64,
    /// Room in the log promised for the record that ends it.
    pub(crate) promised: u64,
    /// Its last record in the log, and how often it was written.
    pub(crate) at: Option<Address>,
    pub(crate) revision: u32,
    pub(crate) busy: Busy,
}

impl Deref for Lease {
    type Target = Terms;
    fn deref(&self) -> &Terms {
        &self.terms
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Terms {
        &mut self.terms
    }
}

impl Lease {
    /// While a change is being recorded the claim is in flight, whatever the time: nobody else
    /// may take it.
    pub(crate) fn state(&self) -> State {
        let (lease_end, forget_at, cause) = match self.busy {
            Busy::No => (self.lease_end, self.forget_at, self.cause),
            // Not forgotten before the copy is there.
            Busy::Copied => (self.lease_end, Tick::NEVER, self.cause),
            Busy::Yes | Busy::Submitted(_) => (Tick::NEVER, Tick::NEVER, None),
        };
        State::Open {
            generation: self.generation,
            fingerprint: self.fingerprint,
            lease_end,
            forget_at,
            cause,
        }
    }

    /// The next moment at which time changes this claim.
    pub(crate) fn due(&self) -> Tick {
        if self.busy != Busy::No {
            Tick::NEVER
        } else if self.lapse_told || self.cause.is_some() {
            self.forget_at
        } else {
            self.lease_end
        }
    }
}

struct Entry {
    taken: bool,
    lease: Lease,
    timer: Option<(TimerId, Tick)>,
}

#[derive(Default)]
pub(crate) struct Slab {
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// Bytes of the budget taken for both lists and the timers.
    charged: u64,
}

impl Slab {
    /// Bytes of the budget the next insertion needs; zero if there is room.
    pub(crate) fn growth_bytes(&self) -> u64 {
        if !self.free.is_empty() || self.entries.len() < self.entries.capacity() {
            return 0;
        }
        let first = if self.entries.capacity() == 0 {
            Wheel::BYTES
        } else {
            0
        };
        first + (self.next_capacity() - self.entries.capacity()) as u64 * Self::ENTRY
    }

    /// Bytes an entry takes: here, in the list of free ones, and in the wheel.
    const ENTRY: u64 = (size_of::<Entry>() + size_of::<u32>()) as u64 + Wheel::NODE_BYTES;

    fn next_capacity(&self) -> usize {
        (self.entries.capacity() * 3 / 2).max(2)
    }

    /// Makes room for the next insertions. The caller has taken `growth_bytes`.
    pub(crate) fn grow(&mut self) {
        self.charged += self.growth_bytes();
        let more = self.next_capacity() - self.entries.len();
        self.entries.reserve_exact(more);
        self.free.reserve_exact(self.entries.capacity() - self.free.len());
    }

    /// Writes a claim into a free entry, where it lies: moved about it would cost more than all else
    /// done with it.
    #[inline]
    pub(crate) fn insert(&mut self, key: CheckedKey<'_>, terms: Terms) -> u32 {
        let Some(index) = self.free.pop() else {
            return self.push(key, terms);
        };
        let entry = &mut self.entries[index as usize];
        entry.taken = true;
        entry.lease.key.set(key);
        entry.lease.terms = terms;
        index
    }

    #[cold]
    fn push(&mut self, key: CheckedKey<'_>, terms: Terms) -> u32 {
        self.entries.push(Entry {
            taken: true,
            lease: Lease {
                key: key.to_buf(),
                checkpoint: None,
                terms,
            },
            timer: None,
        });
        (self.entries.len() - 1) as u32
    }

    /// Frees an entry that is in use.
    pub(crate) fn remove(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        debug_assert!(entry.taken);
        entry.taken = false;
        entry.lease.key.clear();
        entry.lease.checkpoint = None;
        self.free.push(index);
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&Lease> {
        let entry = self.entries.get(index as usize)?;
        entry.taken.then_some(&entry.lease)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut Lease> {
        let entry = self.entries.get_mut(index as usize)?;
        entry.taken.then_some(&mut entry.lease)
    }

    pub(crate) fn timer_mut(&mut self, index: u32) -> &mut Option<(TimerId, Tick)> {
        &mut self.entries[index as usize].timer
    }

    /// (in flight, interrupted) as counted against the limits.
    pub(crate) fn counts(&self, now: Tick) -> (u64, u64) {
        use super::state::Phase;
        let mut counts = (0, 0);
        for entry in self.entries.iter().filter(|e| e.taken) {
            match entry.lease.state().phase(now) {
                Phase::InFlight { .. } => counts.0 += 1,
                Phase::Interrupted { .. } => counts.1 += 1,
                Phase::Absent | Phase::Completed { .. } => {}
            }
        }
        counts
    }

    /// Gives memory back if no claim is open; returns the bytes freed.
    pub(crate) fn shrink_if_idle(&mut self) -> u64 {
        let idle = self.free.len() == self.entries.len() && self.entries.iter().all(|e| e.timer.is_none());
        if !idle || self.entries.capacity() == 0 {
            return 0;
        }
        std::mem::take(self).charged
    }
}
