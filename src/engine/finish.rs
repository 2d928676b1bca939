//! What a holder does with its claim, and what others do with an interrupted one.

use super::Engine;
use super::logged::Completing;
use crate::answer::Outcome;
use crate::clock::{Span, Tick};
use crate::epoch::Guard;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::log::Log;
use crate::options::{CheckedOptions, Durability};
use crate::segment::{Address, Draft, NoRoom};
use crate::shard::change::{Attached, Held, Publish, Wish};
use crate::shard::state::Command;
use crate::shard::{Found, Keyed, Lost, Refused, Ticket, Verdict};
use crate::status::Status;
use crate::sync::{Arc, yield_now};

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

/// An outcome about to be stored; without a ttl, for the store's.
#[derive(Clone, Copy)]
pub(crate) struct NewOutcome<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) ttl: Option<Span>,
    pub(crate) tag: u16,
    /// None: the store's.
    pub(crate) durability: Option<Durability>,
}

impl<'a> NewOutcome<'a> {
    /// What `first_seen` stores.
    fn nothing(ttl: Option<Span>) -> Self {
        NewOutcome {
            bytes: &[],
            ttl,
            tag: 0,
            durability: None,
        }
    }

    pub(crate) fn new(bytes: &'a [u8], options: CheckedOptions) -> Self {
        NewOutcome {
            bytes,
            ttl: options.ttl,
            tag: options.tag,
            durability: options.durability,
        }
    }
}

impl Engine {
    /// Stores the outcome of a claim held at `grip`'s generation.
    pub(crate) fn complete(&self, grip: Grip<'_>, outcome: NewOutcome<'_>) -> Result<()> {
        let now = self.enter()?;
        let generation = grip.held.generation;
        let command = Command::Complete(generation);
        let done = match &self.log {
            Some(log) => {
                let done = self.complete_logged(log, grip, command, outcome, now)?.map(drop);
                self.tend_a_little(now, &self.commons.pins.pin());
                done
            }
            None => self.append_and_publish(grip, command, generation, outcome, now)?,
        };
        done.or_else(|Lost| self.repeated(grip, outcome, now))
    }

    /// Completes many claims: `each` is given the answers in order. One wait for all of them.
    pub(crate) fn complete_batch<'a>(
        &self,
        batch: impl Iterator<Item = Result<(Grip<'a>, NewOutcome<'a>)>>,
        mut each: impl FnMut(Result<()>),
    ) {
        let Some(log) = &self.log else {
            return batch
                .for_each(|item| each(item.and_then(|(grip, outcome)| self.complete(grip, outcome))));
        };
        let end = |item: Batched<'a>| {
            let Some((grip, outcome, now, completing)) = item else {
                return Ok(());
            };
            let done = self.finish_complete(log, grip.k, completing, outcome, now);
            done.map(drop)
        };
        let mut begun: Vec<Result<Batched<'a>>> = Vec::new();
        for item in batch {
            let item = item.and_then(|(grip, outcome)| {
                let now = self.enter()?;
                let command = Command::Complete(grip.held.generation);
                let first = self.try_begin_complete(log, grip, command, outcome, now, false)?;
                let completing = match first {
                    Some(completing) => completing,
                    None => {
                        // Somebody changes that key just now, perhaps this very batch. Who holds
                        // keys busy must not wait for others: what was begun is finished first.
                        for item in &mut begun {
                            let waiting = std::mem::replace(item, Ok(None));
                            *item = waiting.and_then(end).map(|()| None);
                        }
                        self.begin_complete(log, grip, command, outcome, now)?
                    }
                };
                match completing {
                    Ok(completing) => Ok(Some((grip, outcome, now, completing))),
                    Err(Lost) => self.repeated(grip, outcome, now).map(|()| None),
                }
            });
            begun.push(item);
        }
        begun.into_iter().for_each(|item| each(item.and_then(end)));
    }

    /// Stores an outcome and leaves the wait to whoever syncs next.
    pub(crate) fn submit_complete(
        &self,
        grip: Grip<'_>,
        outcome: NewOutcome<'_>,
        then: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Result<()> {
        let durability = outcome.durability.unwrap_or(self.durability);
        let log = match &self.log {
            Some(log) if durability == Durability::Sync => log,
            _ => {
                then(self.complete(grip, outcome));
                return Ok(());
            }
        };
        let now = self.enter()?;
        let command = Command::Complete(grip.held.generation);
        match self.begin_complete(log, grip, command, outcome, now)? {
            Ok(completing) => self.submit_completing(grip.k, completing, outcome, now, then),
            Err(Lost) => then(self.repeated(grip, outcome, now)),
        }
        Ok(())
    }

    /// Stores an outcome in the name of a claim seen at `grip`'s generation, under a larger one
    /// that is returned. `command` says by what right.
    pub(crate) fn settle(
        &self,
        grip: Grip<'_>,
        command: Command,
        outcome: NewOutcome<'_>,
    ) -> Result<Result<u64, Lost>> {
        let now = self.enter()?;
        if let Some(log) = &self.log {
            return self.complete_logged(log, grip, command, outcome, now);
        }
        let generation = self.shard(grip.k).lock().reserve_generation();
        let done = self.append_and_publish(grip, command, generation, outcome, now)?;
        Ok(done.map(|()| generation))
    }

    fn append_and_publish(
        &self,
        grip: Grip<'_>,
        command: Command,
        generation: u64,
        outcome: NewOutcome<'_>,
        now: Tick,
    ) -> Result<Result<(), Lost>> {
        Error::check_len("outcome", outcome.bytes.len(), self.max_outcome)?;
        let c = &self.commons;
        let ttl = outcome.ttl.unwrap_or(c.ttl);
        let record = Draft {
            tag: outcome.tag,
            body: outcome.bytes,
            ..Draft::completed(grip.k.key, grip.fingerprint, generation, now, ttl)
        };
        let mut pin = c.pins.pin();
        let at = self.append(&record, grip, now, &mut pin)?;
        // From the append on the guard stays pinned: until the address is in a slot, the pin
        // alone keeps the segment's id from being issued again.
        let publish = Publish {
            held: grip.held,
            command,
            at,
        };
        let result = {
            let mut shard = self.shard(grip.k).lock();
            shard.complete(c, grip.k, publish, now)
        };
        self.tend_a_little(now, &pin);
        let fresh = || Outcome::fresh(outcome.bytes, outcome.tag, generation, true);
        Ok(result.map(|served| served.send(fresh)))
    }

    fn append(&self, record: &Draft<'_>, grip: Grip<'_>, now: Tick, pin: &mut Guard) -> Result<Address> {
        let c = &self.commons;
        let first = c.segments.append(record, &c.bytes);
        first
            .or_else(|NoRoom| {
                self.search_room(Refused::Bytes, now, pin);
                c.segments.append(record, &c.bytes)
            })
            .or_else(|NoRoom| self.append_covered(record, grip))
            .map_err(|NoRoom| self.at_capacity(now))
    }

    /// Writes a record its claim has set room aside for.
    #[cold]
    fn append_covered(&self, record: &Draft<'_>, grip: Grip<'_>) -> Result<Address, NoRoom> {
        /// Others that write at the same time are about to free more than they took.
        const TRIES: usize = 1_000;
        let c = &self.commons;
        for _ in 0..TRIES {
            // Only who still holds the claim has room set aside.
            let is_held = self.shard(grip.k).lock().held(grip.held).is_some();
            if !is_held || !record.is_covered() {
                break;
            }
            if let Ok(at) = c.segments.append_somehow(record, &c.bytes) {
                return Ok(at);
            }
            yield_now();
        }
        Err(NoRoom)
    }

    /// Stores nothing: says whether the claim was completed with just this.
    pub(crate) fn complete_again(&self, grip: Grip<'_>, outcome: NewOutcome<'_>) -> Result<()> {
        let now = self.enter()?;
        self.repeated(grip, outcome, now)
    }

    /// A completion that came too late is fine if it says what is stored, by the same holder.
    fn repeated(&self, grip: Grip<'_>, outcome: NewOutcome<'_>, now: Tick) -> Result<()> {
        let pin = self.commons.pins.pin();
        let shard = self.shard(grip.k).lock();
        let found = shard.find(grip.k, &self.commons, &pin);
        if let Found::Record { record, .. } = &found
            && record.generation() == grip.held.generation
            && record.deadline() > now
            && record.tag() == outcome.tag
            && record.outcome() == outcome.bytes
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
        let released = match &self.log {
            Some(log) => self.release_logged(log, k, held, command, self.durability, now)?,
            None => self.shard(k).lock().release(&self.commons, k, held, command, now),
        };
        released.map_err(|Lost| self.lease_lost(k, now))
    }

    pub(crate) fn checkpoint(&self, k: Keyed<'_>, held: Held, note: &[u8]) -> Result<()> {
        let now = self.enter()?;
        Error::check_len("checkpoint", note.len(), MAX_CHECKPOINT)?;
        if let Some(log) = &self.log {
            let noted = self.checkpoint_logged(log, k, held, note, now)?;
            return noted.map_err(|Lost| self.lease_lost(k, now));
        }
        let note: Arc<[u8]> = note.into();
        let mut pin = self.commons.pins.pin();
        self.with_room(k, now, &mut pin, |shard, _| {
            match shard.checkpoint(&self.commons, held, &note, now) {
                Ok(stored) => stored.map(Ok),
                Err(Lost) => Ok(Err(Lost)),
            }
        })?
        .map_err(|Lost| self.lease_lost(k, now))
    }

    pub(crate) fn renew(&self, k: Keyed<'_>, held: Held, lease: Span) -> Result<()> {
        let now = self.enter()?;
        let renewed = match &self.log {
            Some(log) => self.renew_logged(log, k, held, lease, now)?,
            None => self.shard(k).lock().renew(&self.commons, k, held, lease, now),
        };
        self.settle_debt();
        renewed.map_err(|Lost| self.lease_lost(k, now))
    }

    /// A guard was dropped; in a forked child, after closing or without a holder this does
    /// nothing.
    pub(crate) fn guard_dropped(&self, k: Keyed<'_>, held: Held, release: bool) {
        let Ok(now) = self.enter() else { return };
        let command = Command::Release(held.generation);
        let mut release = release;
        if let (true, Some(log)) = (release, &self.log) {
            // Nobody is told that it succeeded, so nobody waits for the disk.
            let released = self.release_logged(log, k, held, command, Durability::Process, now);
            if released.is_ok() {
                return;
            }
            release = false;
        }
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
        let resumed = match &self.log {
            Some(log) => {
                let command = Command::TakeOver(seen.generation);
                self.take_over_logged(log, k, seen, command, lease, now)?
            }
            None => self.shard(k).lock().resume(&self.commons, k, seen, lease, now),
        };
        self.settle_debt();
        Ok(resumed)
    }

    /// An asked waiter dropped the question undecided.
    pub(crate) fn pass_on(&self, k: Keyed<'_>, seen: Held) {
        if let Ok(now) = self.enter() {
            self.shard(k).lock().pass_on(&self.commons, k, seen, now);
        }
    }

    /// Puts a detached claim into new hands.
    pub(crate) fn attach(&self, k: Keyed<'_>, command: Command) -> Result<Attached> {
        let now = self.enter()?;
        let pin = self.commons.pins.pin();
        let attached = match &self.log {
            Some(log) => {
                drop(pin);
                self.attach_logged(log, k, command, now)?
            }
            None => {
                let mut shard = self.shard(k).lock();
                shard.attach(&self.commons, k, command, self.lease, now, &pin)
            }
        };
        self.settle_debt();
        Ok(attached)
    }

    /// True if the key was absent; then it is completed, without an outcome.
    pub(crate) fn first_seen(&self, k: Keyed<'_>, ttl: Option<Span>) -> Result<bool> {
        let wish = self.passing_wish();
        let mut verdict = self.claim(k, wish)?;
        // Another `first_seen` is just about to finish: its answer decides ours.
        while let Verdict::InFlight(_) = verdict {
            yield_now();
            verdict = self.wait(k, wish, Tick::NEVER)?;
        }
        match Self::seen_first(verdict)? {
            Seen::Answer(is_first) => Ok(is_first),
            Seen::First(ticket) => {
                let stored = self.complete(self.passing_grip(k, &ticket), NewOutcome::nothing(ttl));
                self.end_first_seen(k, &ticket, stored)
            }
        }
    }

    /// The same for many keys, with one wait for all: `each` is given the answers in order.
    pub(crate) fn first_seen_batch<'k>(
        &self,
        batch: impl Iterator<Item = Result<Keyed<'k>>>,
        mut each: impl FnMut(Result<bool>),
    ) {
        let Some(log) = &self.log else {
            return batch.for_each(|k| each(k.and_then(|k| self.first_seen(k, None))));
        };
        let nothing = NewOutcome::nothing(None);
        let mut begun: Vec<Result<FirstSeen<'k>>> = Vec::new();
        let end = |item: FirstSeen<'k>| match item {
            FirstSeen::Answer(is_first) => Ok(is_first),
            FirstSeen::Storing(k, ticket, completing, now) => {
                let stored = self.finish_complete(log, k, completing, nothing, now);
                self.end_first_seen(k, &ticket, stored.map(drop))
            }
        };
        for k in batch {
            let item = k.and_then(|k| {
                let mut first = self.begin_first_seen(log, k, nothing)?;
                if first.is_none() {
                    // Met in flight: perhaps by a repeat in this very batch, which is let finish.
                    for item in &mut begun {
                        let waiting = std::mem::replace(item, Ok(FirstSeen::Answer(false)));
                        *item = waiting.and_then(end).map(FirstSeen::Answer);
                    }
                    first = Some(FirstSeen::Answer(self.first_seen(k, None)?));
                }
                Ok(first.unwrap_or(FirstSeen::Answer(false)))
            });
            begun.push(item);
        }
        begun.into_iter().for_each(|item| each(item.and_then(end)));
    }

    /// Up to the wait; `None` if another `first_seen` of the key is under way.
    fn begin_first_seen<'k>(
        &self,
        log: &Log,
        k: Keyed<'k>,
        nothing: NewOutcome<'_>,
    ) -> Result<Option<FirstSeen<'k>>> {
        let verdict = self.claim(k, self.passing_wish())?;
        if let Verdict::InFlight(_) = verdict {
            return Ok(None);
        }
        let ticket = match Self::seen_first(verdict)? {
            Seen::Answer(is_first) => return Ok(Some(FirstSeen::Answer(is_first))),
            Seen::First(ticket) => ticket,
        };
        let now = self.enter()?;
        let grip = self.passing_grip(k, &ticket);
        let command = Command::Complete(ticket.generation);
        let begun = self.begin_complete(log, grip, command, nothing, now);
        Ok(Some(match begun {
            Ok(Ok(completing)) => FirstSeen::Storing(k, ticket, completing, now),
            Ok(Err(Lost)) => {
                let stored = Err(self.lease_lost(k, now));
                FirstSeen::Answer(self.end_first_seen(k, &ticket, stored)?)
            }
            Err(error) => FirstSeen::Answer(self.end_first_seen(k, &ticket, Err(error))?),
        }))
    }

    fn passing_wish(&self) -> Wish {
        Wish {
            fingerprint: Fingerprint::NONE,
            lease: self.lease,
            passing: true,
            durability: self.durability,
        }
    }

    fn passing_grip<'k>(&self, k: Keyed<'k>, ticket: &Ticket) -> Grip<'k> {
        let held = Held {
            lease: ticket.lease,
            generation: ticket.generation,
        };
        Grip {
            k,
            fingerprint: Fingerprint::NONE,
            held,
        }
    }

    /// What the answer to a passing claim means.
    fn seen_first(verdict: Verdict) -> Result<Seen> {
        match verdict {
            Verdict::Acquired(ticket) => Ok(Seen::First(ticket)),
            Verdict::InUse(status) => Err(Error::InUse { status }),
            // Completed, with whatever fingerprint.
            _ => Ok(Seen::Answer(false)),
        }
    }

    /// The second half of `first_seen`: the key was claimed, and its completion was tried.
    fn end_first_seen(&self, k: Keyed<'_>, ticket: &Ticket, stored: Result<()>) -> Result<bool> {
        match stored {
            Ok(()) => Ok(true),
            // Within the lease nobody can have taken it over. Somebody has forgotten the key in
            // between, or settled it: it was seen first.
            Err(Error::LeaseLost { .. }) if self.now() < ticket.lease_end => Ok(true),
            // This thread slept for longer than a lease, and others have gone on without it.
            Err(Error::LeaseLost { current }) => match current {
                Status::Absent => Ok(true),
                Status::Completed { .. } => Ok(false),
                status => Err(Error::InUse { status }),
            },
            Err(error) => {
                self.guard_dropped(k, self.passing_grip(k, ticket).held, true);
                Err(error)
            }
        }
    }
}

/// One of a batch of completions; `None` once it is done.
type Batched<'a> = Option<(Grip<'a>, NewOutcome<'a>, Tick, Completing)>;

/// What a passing claim comes to.
enum Seen {
    Answer(bool),
    First(Ticket),
}

/// One of a batch of `first_seen`.
enum FirstSeen<'k> {
    Answer(bool),
    Storing(Keyed<'k>, Ticket, Completing, Tick),
}
