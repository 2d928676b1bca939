//! The two halves of a change in a store with a log.
//!
//! The first half decides under the lock and marks the key busy; then the record is appended and
//! made durable, with no lock held; the second half carries the decision out and wakes those who
//! wanted to change the key meanwhile. While a key is busy, claimers are told it is in flight,
//! readers see what it was, and nobody else may change it: so what the log says last of a key is
//! what was decided last.
//!
//! A claim is busy in its slab entry. A completed key has none, so its hash is noted in the
//! shard's short list of *engaged* ones.

use super::lease::{Busy, Lease};
use super::state::{Command, Decision};
use super::wait::Served;
use super::{Commons, Found, Keyed, Locked, Lost, Refused, Ticket};
use crate::answer::Outcome;
use crate::clock::{Span, Tick};
use crate::epoch::Guard;
use crate::fingerprint::Fingerprint;
use crate::segment::{Address, Draft};
use crate::shard::change::{Attached, Held};
use crate::sync::Arc;

/// A claim as it was when a change of it began, to write its record from.
#[derive(Clone)]
pub(crate) struct Begun {
    pub(crate) held: Held,
    /// The generation the record is written under.
    pub(crate) generation: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) started: Tick,
    pub(crate) forget_at: Tick,
    pub(crate) attempt: u32,
    pub(crate) revision: u32,
    pub(crate) checkpoint: Option<Arc<[u8]>>,
}

impl Begun {
    fn of(lease: &Lease, held: Held) -> Self {
        Begun {
            held,
            generation: held.generation,
            fingerprint: lease.fingerprint,
            started: lease.started,
            forget_at: lease.forget_at,
            attempt: lease.attempt,
            revision: lease.revision,
            checkpoint: lease.checkpoint.clone(),
        }
    }

    /// The claim's record.
    pub(crate) fn claimed<'a>(&'a self, k: Keyed<'a>) -> Draft<'a> {
        Draft::claimed(
            k.key,
            self.fingerprint,
            self.generation,
            [self.started, self.forget_at],
            [self.attempt, self.revision],
            self.checkpoint.as_deref(),
        )
    }
}

/// Bytes of the budget taken for a checkpoint that is being recorded.
#[derive(Clone, Copy)]
pub(crate) struct NoteBytes(u64);

/// Where a claim is recorded, and until when its record counts.
#[derive(Clone, Copy)]
pub(crate) struct Recorded {
    pub(crate) at: Address,
    pub(crate) forget_at: Tick,
}

/// What a key is to `forget`.
pub(crate) enum Forgettable {
    Nothing,
    Claim(Begun),
    /// The generation to forget it under, and how long its outcome would have been kept.
    Outcome {
        generation: u64,
        deadline: Tick,
        was: u64,
    },
}

/// What is to be written again of a record in a segment that is to go.
pub(crate) enum Carried {
    /// It does not count.
    Dead,
    /// It counts, but is being changed just now.
    Busy,
    Claim(Begun),
    /// The record itself.
    Outcome,
}

impl Locked<'_> {
    /// Is a change of this key being recorded?
    pub(crate) fn busy(&self, c: &Commons, k: Keyed<'_>, pin: &Guard) -> Busy {
        if self.engaged.contains(&k.hash) {
            return Busy::Yes;
        }
        match self.find(k, c, pin) {
            Found::Lease { index, .. } => self.slab.get(index).map_or(Busy::No, |lease| lease.busy),
            _ => Busy::No,
        }
    }

    /// Is a completed key of this hash being written again or forgotten?
    pub(crate) fn is_engaged(&self, k: Keyed<'_>) -> bool {
        self.engaged.contains(&k.hash)
    }

    /// Gives the lock up until some key is no longer busy.
    pub(crate) fn wait_settled(&mut self) {
        self.count_change();
        self.shard.settled.wait(&mut self.inner);
    }

    /// Have generations nearly run up to what is durable?
    pub(crate) fn wants_generations(&self, c: &Commons) -> bool {
        /// More than calls take while one of them sees to it.
        const MARGIN: u64 = 1 << 12;
        self.next_generation + MARGIN >= c.ceiling.load(crate::sync::Ordering::Acquire)
    }

    pub(crate) fn generation_so_far(&self) -> u64 {
        self.next_generation
    }

    fn settle(&mut self) {
        self.shard.settled.notify_all();
    }

    /// The first half: decides, and if something is to change marks the claim busy.
    pub(crate) fn begin(&mut self, held: Held, command: Command, now: Tick) -> Result<Begun, Lost> {
        let decision = self.decide_held(held, command, now);
        let begins = matches!(
            decision,
            Decision::Finish | Decision::Succeed | Decision::Vacate | Decision::Note | Decision::Extend
        );
        let inner = &mut *self.inner;
        match inner.slab.get_mut(held.lease) {
            Some(lease) if begins => {
                lease.busy = Busy::Yes;
                Ok(Begun::of(lease, held))
            }
            _ => Err(self.lost(command)),
        }
    }

    /// The same for a change by somebody else than the holder: under a new generation.
    pub(crate) fn begin_anew(&mut self, held: Held, command: Command, now: Tick) -> Result<Begun, Lost> {
        let begun = self.begin(held, command, now)?;
        let generation = self.next_generation();
        Ok(Begun { generation, ..begun })
    }

    /// A busy claim waits for a position of the log instead of a thread.
    pub(crate) fn submit(&mut self, held: Held, pos: u64) {
        if let Some(lease) = self.slab.get_mut(held.lease) {
            lease.busy = Busy::Submitted(pos);
        }
        self.settle();
    }

    /// Nothing came of it: the claim is what it was.
    pub(crate) fn abort(&mut self, c: &Commons, k: Keyed<'_>, held: Held, now: Tick, pin: &Guard) {
        if let Some(lease) = self.slab.get_mut(held.lease) {
            lease.busy = Busy::No;
        }
        self.arm(held.lease, now);
        // Its lease may have ended meanwhile.
        if self.can_be_had(c, k, now, pin) {
            self.nudge(c, k, now);
        }
        self.settle();
    }

    /// The claim is recorded there.
    fn recorded(&mut self, c: &Commons, index: u32, there: Recorded, now: Tick) {
        let Some(lease) = self.slab.get_mut(index) else {
            return;
        };
        lease.busy = Busy::No;
        lease.at = Some(there.at);
        // To the tick what a recovery would find, so that nothing forgotten comes back.
        lease.forget_at = there.forget_at;
        let (promised, left) = (
            lease.promised,
            lease
                .promised
                .min(super::change::bytes_for_key(lease.key.as_checked())),
        );
        lease.promised = left;
        if let Some(room) = &c.room {
            room.settle(promised - left);
        }
        self.arm(index, now);
        self.settle();
    }

    /// The second half of a claim.
    pub(crate) fn finish_claim(&mut self, c: &Commons, ticket: &Ticket, there: Recorded, now: Tick) {
        self.recorded(c, ticket.lease, there, now);
    }

    /// A claim could not be recorded: the key is absent.
    pub(crate) fn abort_claim(&mut self, c: &Commons, k: Keyed<'_>, ticket: &Ticket, now: Tick) {
        self.vacate(c, k, ticket.lease, now);
        self.settle();
    }

    /// The second half of `complete` and `resolve`.
    pub(crate) fn finish_complete(&mut self, c: &Commons, k: Keyed<'_>, held: Held, at: Address) -> Served {
        let served = self.publish(c, k, held, at);
        self.settle();
        served
    }

    /// The second half of `release`.
    pub(crate) fn finish_release(&mut self, c: &Commons, k: Keyed<'_>, held: Held, now: Tick) {
        self.tally.released += 1;
        self.vacate(c, k, held.lease, now);
        self.settle();
    }

    /// Takes what a longer checkpoint needs of the budget; the claim is busy.
    pub(crate) fn admit_note(&mut self, c: &Commons, held: Held, len: usize) -> Result<NoteBytes, Refused> {
        let inner = &mut *self.inner;
        let lease = inner.slab.get(held.lease);
        let old = lease
            .and_then(|lease| lease.checkpoint.as_ref())
            .map_or(0, |note| note.len());
        let more = len.saturating_sub(old) as u64;
        if more > 0 && !(c.segments.has_reserve(&c.bytes) && c.bytes.take(more, &mut inner.bytes)) {
            return Err(Refused::Bytes);
        }
        Ok(NoteBytes(more))
    }

    /// Nothing came of the checkpoint.
    pub(crate) fn unadmit_note(&mut self, c: &Commons, taken: NoteBytes) {
        c.bytes.give(taken.0, &mut self.inner.bytes);
    }

    /// The second half of `checkpoint`.
    pub(crate) fn finish_note(&mut self, c: &Commons, begun: &Begun, there: Recorded, now: Tick) {
        let inner = &mut *self.inner;
        if let Some(lease) = inner.slab.get_mut(begun.held.lease) {
            let len = |note: &Option<Arc<[u8]>>| note.as_ref().map_or(0, |note| note.len() as u64);
            let (old, new) = (len(&lease.checkpoint), len(&begun.checkpoint));
            // What it is longer by was taken; what it is shorter by goes back.
            c.bytes.give(old.saturating_sub(new), &mut inner.bytes);
            lease.bytes = lease.bytes + new - old;
            lease.checkpoint = begun.checkpoint.clone();
            lease.revision = begun.revision;
        }
        self.recorded(c, begun.held.lease, there, now);
    }

    /// The second half of `renew`; it need not have been recorded.
    pub(crate) fn finish_renew(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        begun: &Begun,
        there: Option<Recorded>,
        lease: Span,
        now: Tick,
    ) {
        let index = begun.held.lease;
        if let Some(entry) = self.slab.get_mut(index) {
            entry.busy = Busy::No;
            entry.revision = begun.revision;
        }
        self.extend(c, index, lease, now);
        self.queues.settle(k.hash, k.key);
        match there {
            Some(there) => self.recorded(c, index, there, now),
            None => self.settle(),
        }
    }

    /// The second half of `resume` and `attach`.
    pub(crate) fn finish_takeover(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        (begun, there): (&Begun, Recorded),
        lease: Span,
        now: Tick,
    ) -> Result<Ticket, Lost> {
        let index = begun.held.lease;
        let before = self.slab.get(index).map_or(0, |entry| entry.attempt);
        let attempts = begun.attempt.saturating_sub(before);
        self.tally.takeovers += u64::from(attempts);
        self.queues.settle(k.hash, k.key);
        if let Some(entry) = self.slab.get_mut(index) {
            entry.busy = Busy::No;
            entry.revision = 0;
        }
        let ticket = self.succeed(c, index, begun.generation, attempts, lease, now);
        self.recorded(c, index, there, now);
        ticket
    }

    /// The claim a token names, or what became of it.
    pub(crate) fn seen_by_token(
        &self,
        c: &Commons,
        k: Keyed<'_>,
        command: Command,
        now: Tick,
        pin: &Guard,
    ) -> Result<(Held, Fingerprint), Attached> {
        let found = self.find(k, c, pin);
        let decision = super::state::decide(&found.state(self), command, now);
        if let (Decision::Replay, Found::Record { record, .. }) = (decision, &found) {
            c.replays.count(now.millis_since(record.written()));
            return Err(Attached::Completed(Outcome::of_record(record, now)));
        }
        let lease = match &found {
            Found::Lease { index, .. } => self.slab.get(*index).map(|lease| (*index, lease)),
            _ => None,
        };
        match (command, lease) {
            (Command::Attach(generation, _), Some((index, lease))) if decision == Decision::Succeed => {
                let held = Held {
                    lease: index,
                    generation,
                };
                Ok((held, lease.fingerprint))
            }
            _ => Err(Attached::Lost(self.status(&found, now))),
        }
    }

    /// The first half of `forget`.
    pub(crate) fn begin_forget(&mut self, c: &Commons, k: Keyed<'_>, now: Tick, pin: &Guard) -> Forgettable {
        let found = self.find(k, c, pin);
        if super::state::decide(&found.state(self), Command::Forget, now) != Decision::Vacate {
            return Forgettable::Nothing;
        }
        match found {
            Found::Nothing { .. } => Forgettable::Nothing,
            Found::Lease { index, .. } => {
                let generation = self.next_generation();
                let Some(lease) = self.slab.get_mut(index) else {
                    return Forgettable::Nothing;
                };
                lease.busy = Busy::Yes;
                let held = Held {
                    lease: index,
                    generation: lease.generation,
                };
                Forgettable::Claim(Begun {
                    generation,
                    ..Begun::of(lease, held)
                })
            }
            Found::Record { record, .. } => {
                let (deadline, was) = (record.deadline(), record.generation());
                self.engaged.push(k.hash);
                Forgettable::Outcome {
                    generation: self.next_generation(),
                    deadline,
                    was,
                }
            }
        }
    }

    /// The second half, for a claim.
    pub(crate) fn finish_forget_claim(&mut self, c: &Commons, k: Keyed<'_>, held: Held, now: Tick) {
        self.tally.forgotten += 1;
        self.vacate(c, k, held.lease, now);
        self.settle();
    }

    /// The second half, for an outcome of that generation.
    pub(crate) fn finish_forget_outcome(&mut self, c: &Commons, k: Keyed<'_>, was: u64, pin: &Guard) {
        if let Found::Record { place, at, record } = self.find(k, c, pin)
            && record.generation() == was
        {
            self.tally.forgotten += 1;
            self.index.remove(place);
            self.drop_record(c, k.key, at);
        }
        self.disengage(k);
    }

    /// Nothing is being written of this completed key any more.
    pub(crate) fn disengage(&mut self, k: Keyed<'_>) {
        if let Some(at) = self.engaged.iter().position(|hash| *hash == k.hash) {
            self.engaged.swap_remove(at);
        }
        self.settle();
    }

    /// Is the record at this address what counts for its key? If so it is busy until it has been
    /// written again.
    pub(crate) fn begin_carry(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        at: Address,
        now: Tick,
        pin: &Guard,
    ) -> Carried {
        match self.find(k, c, pin) {
            Found::Record {
                at: found, record, ..
            } if found == at && record.deadline() > now => {
                if self.engaged.contains(&k.hash) {
                    return Carried::Busy;
                }
                self.engaged.push(k.hash);
                Carried::Outcome
            }
            Found::Lease { index, .. } => match self.slab.get_mut(index) {
                Some(lease) if lease.at == Some(at) && lease.forget_at > now => {
                    if lease.busy != Busy::No {
                        return Carried::Busy;
                    }
                    lease.busy = Busy::Copied;
                    let held = Held {
                        lease: index,
                        generation: lease.generation,
                    };
                    Carried::Claim(Begun::of(lease, held))
                }
                _ => Carried::Dead,
            },
            _ => Carried::Dead,
        }
    }

    /// The record was written again there.
    pub(crate) fn finish_carry(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        from: Address,
        to: Address,
        pin: &Guard,
    ) {
        if let Found::Record { place, at, .. } = self.find(k, c, pin)
            && at == from
            && c.segments.table.add_live(to)
        {
            let slot = super::Slot::new(k.hash.tag(), super::Target::Record(to));
            self.index.set(place, slot);
            c.segments.table.sub_live(from);
        }
        self.disengage(k);
    }

    /// The claim was written again there.
    pub(crate) fn finish_carry_claim(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        (begun, there): (&Begun, Recorded),
        now: Tick,
        pin: &Guard,
    ) {
        self.recorded(c, begun.held.lease, there, now);
        // Its guard may have been dropped meanwhile, and nobody was told while it was busy.
        if self.can_be_had(c, k, now, pin) {
            self.nudge(c, k, now);
        }
    }
}
