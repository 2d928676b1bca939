//! What changes a key: each function asks [`decide`] and carries out its decision. All run
//! under the shard's lock and do nothing that waits.

use super::index::{Place, Slot, Target};
use super::lease::{Busy, Lease, Terms};
use super::state::{Command, Decision, Phase, decide};
use super::wait::{Mail, Served, Waiter};
use super::{
    Absence, Commons, Flight, Found, Inner, Keyed, Locked, Lost, Question, Refused, Ticket, Verdict,
};
use crate::answer::Outcome;
use crate::clock::{Span, Tick};
use crate::epoch::Guard;
use crate::error::Result;
use crate::fingerprint::Fingerprint;
use crate::key::CheckedKey;
use crate::options::Durability;
use crate::segment::Address;
use crate::segment::record::room_for_empty;
use crate::status::Cause;
use crate::status::Status;
use crate::sync::{Arc, Ordering};

/// How long a waiter sleeps at most while a change is being recorded.
const BUSY_PATIENCE: Span = Span::from_millis(100);

/// What a new claim is to be.
#[derive(Clone, Copy)]
pub(crate) struct Wish {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) lease: Span,
    /// It comes from `first_seen`.
    pub(crate) passing: bool,
    /// How durable it is to be before it is handed out.
    pub(crate) durability: Durability,
}

/// What a waiter finds when it looks.
pub(crate) enum Look {
    Answer(Verdict),
    /// Not yet. Look again at this tick, or when there is mail.
    Wait(Tick),
}

/// What an attach comes to.
pub(crate) enum Attached {
    Claim(Ticket, Fingerprint),
    Completed(Outcome),
    Lost(Status),
}

/// Names a claim in the slab: its entry, and the generation that entry must still have.
#[derive(Clone, Copy)]
pub(crate) struct Held {
    pub(crate) lease: u32,
    pub(crate) generation: u64,
}

/// An appended record, and by what right it is published.
#[derive(Clone, Copy)]
pub(crate) struct Publish {
    pub(crate) held: Held,
    pub(crate) command: Command,
    pub(crate) at: Address,
}

/// What a claim sets aside for its completion: the record without an outcome, and a sixteenth
/// for what is left over at the end of a segment.
fn bytes_for(k: Keyed<'_>) -> u64 {
    bytes_for_key(k.key)
}

pub(super) fn bytes_for_key(key: CheckedKey<'_>) -> u64 {
    let record = room_for_empty(key) as u64;
    record + record / 16
}

impl Locked<'_> {
    /// Claims a key, or says why not.
    #[inline]
    pub(crate) fn claim(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        wish: Wish,
        absence: Option<Absence>,
        now: Tick,
        pin: &Guard,
    ) -> Result<Verdict, Refused> {
        let found = self.find_unless(absence, k, c, pin);
        let command = if wish.passing {
            Command::FirstSeen
        } else {
            Command::Claim(wish.fingerprint)
        };
        Ok(match decide(&found.state(self), command, now) {
            Decision::Acquire => {
                let ticket = match self.acquire(c, k, wish, found, now, pin) {
                    Ok(ticket) => ticket,
                    Err(refused) => {
                        // What had expired there is gone all the same.
                        self.nudge(c, k, now);
                        return Err(refused);
                    }
                };
                self.tally.acquired += u64::from(!wish.passing);
                Verdict::Acquired(ticket)
            }
            Decision::Replay => self.replay(c, &found, now),
            Decision::Mismatch => {
                self.tally.mismatches += 1;
                Verdict::Mismatch(self.mismatch(&found, now))
            }
            Decision::Interrupted(_) => {
                self.tally.interrupted += 1;
                self.unfinished(&found, now)
            }
            Decision::InUse => match self.unfinished(&found, now) {
                // Another `first_seen`, about to finish: worth waiting for.
                Verdict::InFlight(flight) if flight.passing => Verdict::InFlight(flight),
                _ => Verdict::InUse(self.status(&found, now)),
            },
            _ => {
                self.tally.in_flight += 1;
                self.unfinished(&found, now)
            }
        })
    }

    fn replay(&self, c: &Commons, found: &Found<'_>, now: Tick) -> Verdict {
        let Found::Record { record, .. } = found else {
            unreachable!("only a record is completed")
        };
        c.replays.count(now.millis_since(record.written()));
        Verdict::Completed(Outcome::of_record(record, now))
    }

    fn lease_of(&self, found: &Found<'_>) -> Option<(u32, &Lease)> {
        match found {
            Found::Lease { index, .. } => Some((*index, self.slab.get(*index)?)),
            _ => None,
        }
    }

    fn unfinished(&self, found: &Found<'_>, now: Tick) -> Verdict {
        let Some((index, lease)) = self.lease_of(found) else {
            unreachable!("only an entry of the slab is unfinished")
        };
        match lease.state().phase(now) {
            Phase::Interrupted { cause, .. } => Verdict::Interrupted(lease.question(index, cause)),
            _ => Verdict::InFlight(Flight {
                generation: lease.generation,
                lease_end: lease.lease_end,
                passing: lease.passing,
            }),
        }
    }

    /// Makes a claim on an absent key.
    fn acquire(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        wish: Wish,
        found: Found<'_>,
        now: Tick,
        pin: &Guard,
    ) -> Result<Ticket, Refused> {
        // What is left of an earlier life goes first; its units are then there for this one.
        let vacant = match found {
            Found::Nothing { vacant } => vacant,
            Found::Lease { place, index } => {
                self.end(c, index);
                Some(place)
            }
            Found::Record { place, at, .. } => {
                self.index.remove(place);
                self.drop_record(c, k.key, at);
                Some(place)
            }
        };
        if self.next_generation >= c.ceiling.load(Ordering::Acquire) {
            return Err(Refused::Generations);
        }
        // What `first_seen` does is over before anyone could hold it.
        let counted = !wish.passing;
        let bytes = self.admit(c, k, counted)?;
        let vacant = if self.index.is_full() {
            if !self.rebuild(c, pin) {
                self.unadmit(c, k, bytes, counted);
                return Err(Refused::Bytes);
            }
            None
        } else {
            vacant
        };
        let place = match vacant {
            Some(place) => place,
            None => match self.find(k, c, pin) {
                Found::Nothing { vacant: Some(place) } => place,
                _ => {
                    self.unadmit(c, k, bytes, counted);
                    return Err(Refused::Bytes);
                }
            },
        };
        let generation = self.next_generation();
        let lease_end = now.after(wish.lease);
        let terms = Terms {
            hash: k.hash,
            fingerprint: wish.fingerprint,
            generation,
            started: now,
            lease_end,
            forget_at: lease_end.after(c.ttl),
            attempt: 0,
            place,
            cause: None,
            counted,
            lapse_told: false,
            asked: false,
            passing: wish.passing,
            bytes,
            promised: if c.is_logged() { Self::promise(k) } else { 0 },
            at: None,
            revision: 0,
            // A `first_seen` records its completion and nothing before.
            busy: match c.is_logged() && !wish.passing {
                true => Busy::Yes,
                false => Busy::No,
            },
        };
        let index = self.inner.slab.insert(k.key, terms);
        self.index
            .insert(place, Slot::new(k.hash.tag(), Target::Lease(index)));
        self.arm(index, now);
        if !self.queues.is_empty() {
            self.queues.settle(k.hash, k.key);
            let Locked { inner, wakes, .. } = self;
            inner.queues.nudge_others(k.hash, k.key, wish.fingerprint, wakes);
        }
        Ok(Ticket {
            lease: index,
            generation,
            lease_end,
            attempt: 0,
            checkpoint: None,
        })
    }

    /// Takes everything a new key needs from the limits, or nothing. Returns the bytes.
    fn admit(&mut self, c: &Commons, k: Keyed<'_>, counted: bool) -> Result<u64, Refused> {
        if !c.segments.has_reserve(&c.bytes) {
            return Err(Refused::Bytes);
        }
        // With a log the room for its end is set aside there.
        let end = if c.is_logged() { 0 } else { bytes_for(k) };
        let bytes = end + k.key.len() as u64;
        let inner = &mut *self.inner;
        let taken = c.keys.take(1, &mut inner.keys);
        if !taken && (!cfg!(onceonly_sabotage = "evict") || !inner.evict(c)) {
            return Err(Refused::Keys);
        }
        let flights = u64::from(counted);
        if !c.flights.take(flights, &mut inner.flights) {
            c.keys.give(1, &mut inner.keys);
            return Err(Refused::Flights);
        }
        let refused = if !inner.take_bytes(c, bytes) {
            Some(Refused::Bytes)
        } else {
            let taken = c.scopes.as_ref().map(|s| s.take(k.key.scope(), &c.bytes));
            let refused = taken.and_then(Result::err);
            if refused.is_some() {
                c.bytes.give(bytes, &mut inner.bytes);
            }
            refused
        };
        let refused = refused.or_else(|| {
            let room = c.room.as_ref()?;
            if room.promise(Self::promise(k)) {
                return None;
            }
            c.bytes.give(bytes, &mut inner.bytes);
            if let Some(scopes) = &c.scopes {
                scopes.give(k.key.scope(), &c.bytes);
            }
            Some(Refused::Room)
        });
        if let Some(refused) = refused {
            c.keys.give(1, &mut inner.keys);
            c.flights.give(flights, &mut inner.flights);
            return Err(refused);
        }
        Ok(bytes)
    }

    fn unadmit(&mut self, c: &Commons, k: Keyed<'_>, bytes: u64, counted: bool) {
        let inner = &mut *self.inner;
        c.keys.give(1, &mut inner.keys);
        c.flights.give(u64::from(counted), &mut inner.flights);
        c.bytes.give(bytes, &mut inner.bytes);
        if let Some(scopes) = &c.scopes {
            scopes.give(k.key.scope(), &c.bytes);
        }
        if let Some(room) = &c.room {
            room.settle(Self::promise(k));
        }
    }

    /// Room in the log for a claim's record and for the one that ends it.
    pub(crate) fn promise(k: Keyed<'_>) -> u64 {
        2 * bytes_for(k)
    }

    pub(super) fn next_generation(&mut self) -> u64 {
        let generation = self.next_generation;
        self.next_generation += 1;
        generation
    }

    /// Ends an unfinished claim: its slot becomes vacant and everything it held goes back.
    pub(super) fn end(&mut self, c: &Commons, index: u32) {
        if let (Some(scopes), Some(lease)) = (&c.scopes, self.slab.get(index)) {
            scopes.give(lease.key.as_checked().scope(), &c.bytes);
        }
        if let Some(place) = self.close(c, index) {
            self.index.remove(place);
            c.keys.give(1, &mut self.inner.keys);
        }
    }

    /// Takes a claim out of the slab and gives back what it held beside the key itself; says
    /// which slot leads to it.
    fn close(&mut self, c: &Commons, index: u32) -> Option<Place> {
        let inner = &mut *self.inner;
        let lease = inner.slab.get(index)?;
        let (place, counted, bytes) = (lease.place, lease.counted, lease.bytes);
        if let Some(room) = &c.room {
            room.settle(lease.promised);
        }
        inner.slab.remove(index);
        if counted {
            c.flights.give(1, &mut inner.flights);
        }
        c.bytes.give(bytes, &mut inner.bytes);
        Some(place)
    }

    /// Takes the slot's reference to a record back, and with it the key's unit.
    pub(super) fn drop_record(&mut self, c: &Commons, key: CheckedKey<'_>, at: Address) {
        // A segment that was closed meanwhile has given the key's unit back itself. The scope's
        // unit goes with the slot.
        if c.segments.table.sub_live(at) {
            c.keys.give(1, &mut self.inner.keys);
        }
        if let Some(scopes) = &c.scopes {
            scopes.give(key.scope(), &c.bytes);
        }
    }

    /// The claim in that entry, if it is still of that generation.
    pub(crate) fn held(&self, held: Held) -> Option<&Lease> {
        self.slab
            .get(held.lease)
            .filter(|l| cfg!(onceonly_sabotage = "skip_generation") || l.generation == held.generation)
    }

    /// Asks the state machine about a claim in the slab.
    pub(super) fn decide_held(&self, held: Held, command: Command, now: Tick) -> Decision {
        self.held(held)
            .map_or(Decision::Lost, |l| decide(&l.state(), command, now))
    }

    /// A generation for a record that is about to be appended by someone who is not the holder.
    pub(crate) fn reserve_generation(&mut self) -> u64 {
        self.next_generation()
    }

    /// Publishes an appended record, if the publisher still may. Returns those who waited for
    /// it: they have left the queue, and are sent the outcome once the shard is unlocked.
    pub(crate) fn complete(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        publish: Publish,
        now: Tick,
    ) -> Result<Served, Lost> {
        let Publish { held, command, at } = publish;
        let decision = self.decide_held(held, command, now);
        if !matches!(decision, Decision::Finish | Decision::Succeed) {
            return Err(self.lost(command));
        }
        Ok(self.publish(c, k, held, at))
    }

    /// Lets the key lead to its outcome's record, and takes out those who waited for it.
    pub(super) fn publish(&mut self, c: &Commons, k: Keyed<'_>, held: Held, at: Address) -> Served {
        let (fingerprint, passing) = self
            .held(held)
            .map_or((Fingerprint::NONE, false), |l| (l.fingerprint, l.passing));
        if c.segments.table.add_live(at) {
            if let Some(place) = self.close(c, held.lease) {
                self.index.set(place, Slot::new(k.hash.tag(), Target::Record(at)));
            }
        } else {
            // The ttl was so short that the segment has died since the record was appended:
            // the outcome has been stored and has expired.
            self.end(c, held.lease);
        }
        if passing {
            self.tally.first_seen += 1;
        } else {
            self.tally.completed += 1;
        }
        if self.queues.is_empty() {
            return Served::default();
        }
        let Locked { inner, wakes, .. } = self;
        let served = inner.queues.finish(k.hash, k.key, fingerprint, wakes);
        c.bytes.give(served.len() * Waiter::BYTES, &mut inner.bytes);
        served
    }

    /// Counts what a fenced caller wished.
    pub(super) fn lost(&mut self, command: Command) -> Lost {
        match command {
            Command::Complete(_) => self.tally.stale_completes += 1,
            _ => self.tally.stale_others += 1,
        }
        Lost
    }

    /// Gives a claim back: the key is absent, and one of those who wait may have it.
    pub(crate) fn release(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        held: Held,
        command: Command,
        now: Tick,
    ) -> Result<(), Lost> {
        let decision = self.decide_held(held, command, now);
        if !matches!(decision, Decision::Vacate | Decision::Succeed) {
            return Err(self.lost(command));
        }
        self.tally.released += 1;
        self.vacate(c, k, held.lease, now);
        Ok(())
    }

    pub(super) fn vacate(&mut self, c: &Commons, k: Keyed<'_>, lease: u32, now: Tick) {
        self.end(c, lease);
        self.nudge(c, k, now);
    }

    /// The key can be had: tells one of those who wait.
    pub(super) fn nudge(&mut self, c: &Commons, k: Keyed<'_>, now: Tick) {
        if self.queues.is_empty() {
            return;
        }
        let Locked { inner, wakes, .. } = self;
        if inner.queues.nudge_one(k.hash, k.key, now, wakes) {
            let again = now.after(super::tend::PATIENCE);
            self.wake_shard_by(again);
            c.alarm.wake_by(again);
        }
    }

    /// Stores a checkpoint.
    pub(crate) fn checkpoint(
        &mut self,
        c: &Commons,
        held: Held,
        note: &Arc<[u8]>,
        now: Tick,
    ) -> Result<Result<(), Refused>, Lost> {
        let command = Command::Checkpoint(held.generation);
        if self.decide_held(held, command, now) != Decision::Note {
            return Err(self.lost(command));
        }
        let inner = &mut *self.inner;
        if !inner.bytes_for_note(c, held, note.len() as u64) {
            return Ok(Err(Refused::Bytes));
        }
        if let Some(lease) = inner.slab.get_mut(held.lease) {
            lease.checkpoint = Some(note.clone());
        }
        Ok(Ok(()))
    }

    /// Starts a new lease for the holder.
    pub(crate) fn renew(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        held: Held,
        lease: Span,
        now: Tick,
    ) -> Result<(), Lost> {
        let command = Command::Renew(held.generation);
        if self.decide_held(held, command, now) != Decision::Extend {
            return Err(self.lost(command));
        }
        self.extend(c, held.lease, lease, now);
        self.queues.settle(k.hash, k.key);
        Ok(())
    }

    /// In flight again, from now on.
    pub(super) fn extend(&mut self, c: &Commons, index: u32, lease: Span, now: Tick) {
        let inner = &mut *self.inner;
        let Some(entry) = inner.slab.get_mut(index) else {
            return;
        };
        entry.lease_end = now.after(lease);
        entry.forget_at = entry.lease_end.after(c.ttl);
        entry.cause = None;
        entry.lapse_told = false;
        entry.asked = false;
        // A key the store knows keeps working at the limit, and counts beyond it.
        if !std::mem::replace(&mut entry.counted, true) {
            c.flights.force(1, &mut inner.flights);
        }
        let (key, hash, lease_end) = (&entry.key, entry.hash, entry.lease_end);
        inner
            .queues
            .retime(hash, key.as_checked(), lease_end, &mut self.wakes);
        self.arm(index, now);
    }

    /// The guard was dropped without a word.
    pub(crate) fn interrupt(&mut self, c: &Commons, k: Keyed<'_>, held: Held, now: Tick) {
        let dropped = Command::GuardDropped(held.generation);
        if self.decide_held(held, dropped, now) != Decision::Interrupt {
            return;
        }
        let inner = &mut *self.inner;
        if let Some(lease) = inner.slab.get_mut(held.lease) {
            lease.cause = Some(Cause::Dropped);
            lease.asked = false;
            if std::mem::take(&mut lease.counted) {
                c.flights.give(1, &mut inner.flights);
            }
        }
        self.tally.guards_dropped += 1;
        self.arm(held.lease, now);
        self.nudge(c, k, now);
    }

    /// Takes an interrupted claim over under a larger generation.
    pub(crate) fn resume(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        seen: Held,
        lease: Span,
        now: Tick,
    ) -> Result<Ticket, Lost> {
        if self.decide_held(seen, Command::TakeOver(seen.generation), now) != Decision::Succeed {
            return Err(Lost);
        }
        self.tally.takeovers += 1;
        self.queues.settle(k.hash, k.key);
        let generation = self.next_generation();
        self.succeed(c, seen.lease, generation, 1, lease, now)
    }

    /// Gives an unfinished claim a new generation and a new lease.
    pub(super) fn succeed(
        &mut self,
        c: &Commons,
        index: u32,
        generation: u64,
        attempts: u32,
        span: Span,
        now: Tick,
    ) -> Result<Ticket, Lost> {
        let lease = self.slab.get_mut(index).ok_or(Lost)?;
        lease.generation = generation;
        lease.started = now;
        lease.passing = false;
        lease.attempt = lease.attempt.saturating_add(attempts);
        let ticket = Ticket {
            lease: index,
            generation,
            lease_end: now.after(span),
            attempt: lease.attempt,
            checkpoint: lease.checkpoint.clone(),
        };
        self.extend(c, index, span, now);
        Ok(ticket)
    }

    /// Gives up a question undecided: the next waiter is asked.
    pub(crate) fn pass_on(&mut self, c: &Commons, k: Keyed<'_>, seen: Held, now: Tick) {
        let Some(lease) = self.slab.get_mut(seen.lease) else {
            return;
        };
        if lease.generation == seen.generation && std::mem::take(&mut lease.asked) {
            self.nudge(c, k, now);
        }
    }

    /// Puts a detached claim into new hands.
    pub(crate) fn attach(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        command: Command,
        lease: Span,
        now: Tick,
        pin: &Guard,
    ) -> Attached {
        let found = self.find(k, c, pin);
        match decide(&found.state(self), command, now) {
            Decision::Replay => match self.replay(c, &found, now) {
                Verdict::Completed(outcome) => Attached::Completed(outcome),
                _ => Attached::Lost(self.status(&found, now)),
            },
            Decision::Succeed => {
                let Some((index, old)) = self.lease_of(&found) else {
                    return Attached::Lost(Status::Absent);
                };
                let fingerprint = old.fingerprint;
                self.queues.settle(k.hash, k.key);
                let generation = self.next_generation();
                let ticket = self.succeed(c, index, generation, 0, lease, now);
                ticket.map_or(Attached::Lost(Status::Absent), |t| {
                    Attached::Claim(t, fingerprint)
                })
            }
            _ => {
                self.lost(command);
                Attached::Lost(self.status(&found, now))
            }
        }
    }

    /// Makes a key absent, whatever it was; true if there was something to forget.
    pub(crate) fn forget(&mut self, c: &Commons, k: Keyed<'_>, now: Tick, pin: &Guard) -> bool {
        let found = self.find(k, c, pin);
        if decide(&found.state(self), Command::Forget, now) != Decision::Vacate {
            return false;
        }
        match found {
            Found::Nothing { .. } => return false,
            Found::Lease { index, .. } => self.vacate(c, k, index, now),
            Found::Record { place, at, .. } => {
                self.index.remove(place);
                self.drop_record(c, k.key, at);
            }
        }
        self.tally.forgotten += 1;
        true
    }

    /// Enters a waiter into its key's queue; false if the limits have no room for it.
    pub(crate) fn join(&mut self, c: &Commons, k: Keyed<'_>, waiter: &Arc<Waiter>) -> bool {
        let inner = &mut *self.inner;
        if !c.segments.has_reserve(&c.bytes) || !c.bytes.take(Waiter::BYTES, &mut inner.bytes) {
            return false;
        }
        let joined = inner.queues.join(k.hash, k.key, waiter, c.max_waiters).is_ok();
        if !joined {
            c.bytes.give(Waiter::BYTES, &mut inner.bytes);
        }
        joined
    }

    /// A waiter looks: it gets the claim, an answer, or waits on.
    pub(crate) fn look(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        wish: Wish,
        waiter: &Arc<Waiter>,
        now: Tick,
        pin: &Guard,
    ) -> Result<Look, Refused> {
        // An outcome that was sent is final, and the waiter has left the queue with it.
        if let Mail::Outcome(outcome) = waiter.take() {
            c.replays.count(outcome.age().as_millis() as u64);
            return Ok(Look::Answer(Verdict::Completed(outcome)));
        }
        let found = self.find(k, c, pin);
        let decision = decide(&found.state(self), Command::Claim(wish.fingerprint), now);
        if let Some((_, lease)) = self.lease_of(&found) {
            let until = match decision {
                // A `first_seen` waits for others of its kind only.
                _ if wish.passing && !lease.passing => None,
                // Whoever finishes the change tells; until then its lease says nothing.
                Decision::InFlight if lease.busy != Busy::No => {
                    Some(lease.lease_end.max(now.after(BUSY_PATIENCE)))
                }
                Decision::InFlight => Some(lease.lease_end),
                Decision::Interrupted(_) if lease.asked => Some(lease.forget_at),
                _ => None,
            };
            if let Some(until) = until {
                self.queues.looked(k.hash, k.key, waiter, until);
                return Ok(Look::Wait(until));
            }
        }
        let mut verdict = self.claim(c, k, wish, None, now, pin)?;
        self.leave(c, k, waiter);
        match &mut verdict {
            // A `first_seen` only wants to know; the question goes to the next who waits.
            Verdict::InUse(_) => self.nudge(c, k, now),
            Verdict::Interrupted(question) => {
                question.exclusive = true;
                if let Some(lease) = self.slab.get_mut(question.lease) {
                    lease.asked = true;
                }
                self.queues.settle(k.hash, k.key);
            }
            _ => {}
        }
        Ok(Look::Answer(verdict))
    }

    /// Takes a waiter out of its queue.
    fn leave(&mut self, c: &Commons, k: Keyed<'_>, waiter: &Arc<Waiter>) {
        let inner = &mut *self.inner;
        if inner.queues.leave(k.hash, k.key, waiter) {
            c.bytes.give(Waiter::BYTES, &mut inner.bytes);
        }
    }

    /// A waiter gives up. If the key can be had, the nudge it may have got goes to another.
    pub(crate) fn give_up(
        &mut self,
        c: &Commons,
        k: Keyed<'_>,
        waiter: &Arc<Waiter>,
        now: Tick,
        pin: &Guard,
    ) {
        self.leave(c, k, waiter);
        if self.queues.is_empty() {
            return;
        }
        if self.can_be_had(c, k, now, pin) {
            self.nudge(c, k, now);
        }
    }

    /// Is the key absent, or interrupted with nobody asked?
    pub(super) fn can_be_had(&self, c: &Commons, k: Keyed<'_>, now: Tick, pin: &Guard) -> bool {
        let found = self.find(k, c, pin);
        match found.state(self).phase(now) {
            Phase::Absent => true,
            Phase::Interrupted { .. } => self.lease_of(&found).is_some_and(|(_, l)| !l.asked),
            Phase::InFlight { .. } | Phase::Completed { .. } => false,
        }
    }
}

impl Inner {
    /// Takes the bytes of a checkpoint in place of those of the one before.
    pub(super) fn bytes_for_note(&mut self, c: &Commons, held: Held, new: u64) -> bool {
        let Some(lease) = self.slab.get_mut(held.lease) else {
            return false;
        };
        let old = lease.checkpoint.as_ref().map_or(0, |n| n.len() as u64);
        if new > old && !(c.segments.has_reserve(&c.bytes) && c.bytes.take(new - old, &mut self.bytes)) {
            return false;
        }
        if old > new {
            c.bytes.give(old - new, &mut self.bytes);
        }
        lease.bytes = lease.bytes + new - old;
        true
    }

    /// What must never be done, for `.ci/sabotage`: some completed key goes, and its unit is there
    /// for another.
    fn evict(&mut self, c: &Commons) -> bool {
        let mut evicted = false;
        self.index.retain(|target| {
            let Target::Record(at) = target else { return true };
            let goes = !evicted && c.segments.table.sub_live(at);
            evicted |= goes;
            !goes
        });
        evicted
    }

    /// Takes the bytes of a claim, and those of a larger slab if it needs one.
    fn take_bytes(&mut self, c: &Commons, bytes: u64) -> bool {
        if !c.bytes.take(bytes, &mut self.bytes) {
            return false;
        }
        let slab = self.slab.growth_bytes();
        if slab > 0 {
            if !c.bytes.take_direct(slab) {
                c.bytes.give(bytes, &mut self.bytes);
                return false;
            }
            self.slab.grow();
        }
        true
    }
}

impl Lease {
    fn question(&self, index: u32, cause: Cause) -> Question {
        Question {
            lease: index,
            generation: self.generation,
            attempt: self.attempt,
            cause,
            checkpoint: self.checkpoint.clone(),
            exclusive: false,
        }
    }
}
