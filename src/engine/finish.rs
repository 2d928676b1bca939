//! What a holder does with its claim, and what others do with an interrupted one.

use super::Engine;
use crate::answer::{Outcome, Status};
use crate::clock::{Span, Tick};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::segment::{Address, Completed, NoRoom};
use crate::shard::change::{Attached, Held, Wish};
use crate::shard::state::Command;
use crate::shard::{Found, Keyed, Lost, Refused, Ticket};
use crate::sync::Arc;

/// The longest checkpoint, in bytes.
pub(crate) const MAX_CHECKPOINT: usize = 64 << 10;

/// What names a claim to the engine: the key, the fingerprint it was claimed with, and the
/// entry and generation in the shard's slab.
#[derive(Clone, Copy)]
pub(crate) struct Grip<'k> {
    pub(crate) k: Keyed<'k>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) held: Held,
}

impl Engine {
    pub(crate) fn check_outcome(&self, outcome: &[u8]) -> Result<()> {
        Error::check_len("outcome", outcome.len(), self.max_outcome)
    }

    /// Stores the outcome of a claim held at `grip`'s generation.
    pub(crate) fn complete(&self, grip: Grip<'_>, outcome: &[u8], ttl: Option<Span>, tag: u16) -> Result<()> {
        let now = self.enter()?;
        self.check_outcome(outcome)?;
        let command = Command::Complete(grip.held.generation);
        let done = self.append_and_publish(grip, command, grip.held.generation, outcome, ttl, tag, now)?;
        done.or_else(|Lost| self.repeated(grip, outcome, tag, now))
    }

    /// Stores an outcome in the name of a claim seen at `grip`'s generation. `command` says by
    /// what right.
    pub(crate) fn settle(
        &self,
        grip: Grip<'_>,
        command: Command,
        outcome: &[u8],
        ttl: Option<Span>,
        tag: u16,
    ) -> Result<Result<u64, Lost>> {
        let now = self.enter()?;
        self.check_outcome(outcome)?;
        let generation = self.shard(grip.k).lock().reserve_generation();
        let done = self.append_and_publish(grip, command, generation, outcome, ttl, tag, now)?;
        Ok(done.map(|()| generation))
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the record's parts, each of its own type"
    )]
    fn append_and_publish(
        &self,
        grip: Grip<'_>,
        command: Command,
        generation: u64,
        outcome: &[u8],
        ttl: Option<Span>,
        tag: u16,
        now: Tick,
    ) -> Result<Result<(), Lost>> {
        let c = &self.commons;
        // Pinned before the append: until the address is in a slot, the pin alone keeps the
        // segment's id from being issued again.
        let pin = c.pins.pin();
        let record = Completed {
            key: grip.k.key,
            fingerprint: grip.fingerprint,
            generation,
            tag,
            written: now,
            ttl: ttl.unwrap_or(c.ttl),
            outcome,
        };
        let at = self.append(&record, now)?;
        let result = {
            let mut shard = self.shard(grip.k).lock();
            shard.tend_own(c, now, &pin);
            let fresh = || Outcome::fresh(outcome, tag, generation, true);
            shard.complete(c, grip.k, grip.held, command, at, fresh, now)
        };
        self.tend_a_little(now, &pin);
        Ok(result)
    }

    fn append(&self, record: &Completed<'_>, now: Tick) -> Result<Address> {
        self.commons
            .segments
            .append(record, record.is_covered(), &self.commons.bytes)
            .map_err(|NoRoom| self.at_capacity(now))
    }

    /// Stores nothing: says whether the claim was completed with just this.
    pub(crate) fn complete_again(&self, grip: Grip<'_>, outcome: &[u8], tag: u16) -> Result<()> {
        let now = self.enter()?;
        self.repeated(grip, outcome, tag, now)
    }

    /// A completion that came too late is fine if it says what is stored, by the same holder.
    fn repeated(&self, grip: Grip<'_>, outcome: &[u8], tag: u16, now: Tick) -> Result<()> {
        let pin = self.commons.pins.pin();
        let shard = self.shard(grip.k).lock();
        let found = shard.find(grip.k, &self.commons, &pin);
        if let Found::Record { record, .. } = &found
            && record.generation() == grip.held.generation
            && record.deadline() > now
            && record.tag() == tag
            && record.outcome() == outcome
        {
            return Ok(());
        }
        let current = shard.status(&found, now);
        Err(Error::LeaseLost { current })
    }

    /// The error for a holder whose generation is gone.
    fn lease_lost(&self, k: Keyed<'_>, now: Tick) -> Error {
        let pin = self.commons.pins.pin();
        let shard = self.shard(k).lock();
        let found = shard.find(k, &self.commons, &pin);
        Error::LeaseLost {
            current: shard.status(&found, now),
        }
    }

    pub(crate) fn release(&self, k: Keyed<'_>, held: Held, command: Command) -> Result<()> {
        let now = self.enter()?;
        let released = self.shard(k).lock().release(&self.commons, k, held, command, now);
        released.map_err(|Lost| self.lease_lost(k, now))
    }

    pub(crate) fn checkpoint(&self, k: Keyed<'_>, held: Held, note: &[u8]) -> Result<()> {
        let now = self.enter()?;
        Error::check_len("checkpoint", note.len(), MAX_CHECKPOINT)?;
        let note: Arc<[u8]> = note.into();
        let pin = self.commons.pins.pin();
        self.with_room(k, now, &pin, |shard| {
            match shard.checkpoint(&self.commons, held, &note, now) {
                Ok(Ok(())) => Ok(Ok(())),
                Ok(Err(Refused)) => Err(Refused),
                Err(Lost) => Ok(Err(Lost)),
            }
        })?
        .map_err(|Lost| self.lease_lost(k, now))
    }

    pub(crate) fn renew(&self, k: Keyed<'_>, held: Held, lease: Span) -> Result<()> {
        let now = self.enter()?;
        let renewed = self.shard(k).lock().renew(&self.commons, k, held, lease, now);
        renewed.map_err(|Lost| self.lease_lost(k, now))
    }

    /// A guard was dropped; in a forked child, after closing or without a holder this does
    /// nothing.
    pub(crate) fn guard_dropped(&self, k: Keyed<'_>, held: Held, release: bool) {
        let Ok(now) = self.enter() else { return };
        let mut shard = self.shard(k).lock();
        if release {
            let _ = shard.release(&self.commons, k, held, Command::Release(held.generation), now);
        } else {
            shard.interrupt(&self.commons, k, held, now);
        }
    }

    /// Takes an interrupted claim over.
    pub(crate) fn resume(&self, k: Keyed<'_>, seen: Held, lease: Span) -> Result<Result<Ticket, Lost>> {
        let now = self.enter()?;
        Ok(self.shard(k).lock().resume(&self.commons, k, seen, lease, now))
    }

    /// An asked waiter dropped the question undecided.
    pub(crate) fn pass_on(&self, k: Keyed<'_>, seen: Held) {
        if let Ok(now) = self.enter() {
            self.shard(k).lock().pass_on(&self.commons, k, seen, now);
        }
    }

    /// Puts a detached claim into new hands.
    pub(crate) fn attach(&self, k: Keyed<'_>, generation: u64) -> Result<Attached> {
        let now = self.enter()?;
        let pin = self.commons.pins.pin();
        let mut shard = self.shard(k).lock();
        Ok(shard.attach(&self.commons, k, generation, self.lease, now, &pin))
    }

    /// True if the key was absent; then it is completed, without an outcome.
    pub(crate) fn first_seen(&self, k: Keyed<'_>, ttl: Option<Span>) -> Result<bool> {
        use crate::shard::Verdict;
        let wish = Wish {
            fingerprint: Fingerprint::NONE,
            lease: self.lease,
            passing: true,
        };
        let mut verdict = self.claim(k, wish)?;
        // Another `first_seen` is just about to finish: its answer decides ours.
        if let Verdict::InFlight(flight) = &verdict
            && flight.passing
        {
            verdict = self.wait(k, wish, Tick::NEVER)?;
        }
        match verdict {
            Verdict::Acquired(ticket) => {
                let held = Held {
                    lease: ticket.lease,
                    generation: ticket.generation,
                };
                let grip = Grip {
                    k,
                    fingerprint: Fingerprint::NONE,
                    held,
                };
                let stored = self.complete(grip, &[], ttl, 0);
                if stored.is_err() {
                    self.guard_dropped(k, held, true);
                }
                stored.map(|()| true)
            }
            Verdict::Completed(_) | Verdict::Mismatch(_) => Ok(false),
            Verdict::InFlight(_) | Verdict::Interrupted(_) => {
                let status = self.status(k)?;
                match status {
                    Status::Completed { .. } => Ok(false),
                    _ => Err(Error::InUse { status }),
                }
            }
        }
    }
}
