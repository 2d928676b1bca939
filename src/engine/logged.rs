//! Changes in a store with a log: decide and mark, append and sync, carry out.
//!
//! Each function here is one change whole. In the middle no lock is held, and what a record
//! says is not visible to anybody before it is as durable as was asked for. A claim is recorded
//! before it is handed out.
//!
//! A change that was *submitted* stops in the middle: its second half is a job that whoever makes
//! the log durable up to its record runs ([`Jobs`]).

use super::{Engine, Grip, NewOutcome};
use crate::answer::Outcome;
use crate::clock::{Span, Tick};
use crate::error::{Error, Result};
use crate::log::format::Pos;
use crate::log::{Appended, Log, Means, Unwritten};
use crate::options::Durability;
use crate::quota::Share;
use crate::segment::Draft;
use crate::segment::record::Kind;
use crate::shard::change::{Attached, Held, Wish};
use crate::shard::halves::{Begun, Forgettable, Recorded};
use crate::shard::lease::Busy;
use crate::shard::state::Command;
use crate::shard::{Keyed, Locked, Lost, Refused, Ticket, Verdict};
use crate::sync::{Arc, Mutex, Ordering};

/// The second half of a change that was submitted.
type Job = Box<dyn FnOnce(&Engine, Result<()>) + Send>;

/// Second halves that wait for the log.
#[derive(Default)]
pub(super) struct Jobs {
    waiting: Mutex<Vec<(Pos, Job)>>,
}

/// A claim whose record was appended.
pub(crate) struct Recording {
    pub(crate) ticket: Ticket,
    appended: Appended,
}

/// A completion whose record was appended.
pub(crate) struct Completing {
    begun: Begun,
    appended: Appended,
}

/// Where a claim's record is.
pub(super) fn there(appended: &Appended) -> Recorded {
    Recorded {
        at: appended.at,
        forget_at: appended.deadline,
    }
}

/// Generations made durable at a time.
pub(super) const GENERATIONS: u64 = 1 << 20;

impl Engine {
    pub(super) fn means(&self, now: Tick) -> Means<'_> {
        Means {
            segments: &self.commons.segments,
            bytes: &self.commons.bytes,
            now,
        }
    }

    /// Locks a key's shard when no change of the key is being recorded.
    fn lock_settled(&self, log: &Log, k: Keyed<'_>, now: Tick) -> Result<Locked<'_>> {
        let locked = self.lock_unless_busy(log, k, now, true)?;
        locked.ok_or(Error::Closed)
    }

    /// The same; `None` if it would have to wait and may not.
    fn lock_unless_busy(
        &self,
        log: &Log,
        k: Keyed<'_>,
        now: Tick,
        may_wait: bool,
    ) -> Result<Option<Locked<'_>>> {
        loop {
            let mut shard = self.shard(k).lock();
            if shard.wants_generations(&self.commons) {
                let so_far = shard.generation_so_far();
                drop(shard);
                self.raise_ceiling(log, so_far, now)?;
                continue;
            }
            let busy = shard.busy(&self.commons, k, &self.commons.pins.pin());
            match busy {
                Busy::No => return Ok(Some(shard)),
                _ if !may_wait => return Ok(None),
                Busy::Yes | Busy::Copied => shard.wait_settled(),
                Busy::Submitted(_) => {
                    drop(shard);
                    // Its second half is run by whoever syncs.
                    self.commit_all(log)?;
                }
            }
        }
    }

    pub(super) fn raise_ceiling(&self, log: &Log, so_far: u64, now: Tick) -> Result<()> {
        let ceiling = so_far + GENERATIONS;
        if log.ceiling() < ceiling {
            log.raise_ceiling(ceiling, self.means(now))?;
        }
        self.commons.ceiling.fetch_max(log.ceiling(), Ordering::AcqRel);
        Ok(())
    }

    /// Appends a record; where there is no room, looks for some and tries again.
    fn record(&self, log: &Log, draft: &Draft<'_>, takes: Share, now: Tick) -> Result<Appended> {
        log.check()?;
        let first = log.append(draft, takes, self.means(now));
        let written = first.or_else(|unwritten| match unwritten {
            Unwritten::NoRoom => {
                self.search_room(Refused::Room, now, &mut self.commons.pins.pin());
                log.append(draft, takes, self.means(now))
            }
            failed => Err(failed),
        });
        let appended = written.map_err(|unwritten| match unwritten {
            Unwritten::NoRoom => self.at_capacity(now),
            Unwritten::Failed(error) => error,
        })?;
        if log.is_hungry() {
            self.commons.alarm.ring();
        }
        Ok(appended)
    }

    /// Waits until a record is as durable as it is to be.
    fn wait_durable(&self, log: &Log, pos: Pos, durability: Durability, now: Tick) -> Result<()> {
        match durability {
            Durability::Sync => self.commit(log, pos),
            // Its thread ended with the last handle: nobody would sync it in time.
            Durability::Interval(_) if !self.has_helper() => self.commit(log, pos),
            Durability::Interval(within) => {
                log.sync_by(now.after(Span::rounded_up(within)));
                self.commons.alarm.wake_by(log.next_sync());
                self.sync_sealed(log)
            }
            Durability::Process => self.sync_sealed(log),
        }
    }

    /// A sealed segment is durable soon: by the helper, without one at once.
    fn sync_sealed(&self, log: &Log) -> Result<()> {
        if !self.has_helper()
            && let Some(end) = log.sealed_end()
        {
            return self.commit(log, end);
        }
        Ok(())
    }

    pub(super) fn commit(&self, log: &Log, pos: Pos) -> Result<()> {
        let done = log.commit(pos);
        self.run_jobs(log, &done);
        done
    }

    /// Makes everything appended so far durable.
    pub(super) fn commit_all(&self, log: &Log) -> Result<()> {
        self.commit(log, log.end())
    }

    /// Runs the second halves of what is durable now, or of everything if nothing will be.
    pub(super) fn run_jobs(&self, log: &Log, done: &Result<()>) {
        loop {
            let durable = log.durable();
            let job = {
                let mut waiting = self.jobs.waiting.lock();
                let at = waiting
                    .iter()
                    .position(|(pos, _)| done.is_err() || *pos <= durable);
                at.map(|at| waiting.swap_remove(at).1)
            };
            let Some(job) = job else { return };
            job(self, done.clone());
        }
    }

    /// Does somebody wait for the next sync without leading it?
    pub(super) fn has_jobs(&self) -> bool {
        !self.jobs.waiting.lock().is_empty()
    }

    fn submit(&self, pos: Pos, job: Job) {
        self.jobs.waiting.lock().push((pos, job));
        self.commons.alarm.ring();
        if let Some(log) = &self.log
            && (self.is_closed() || log.check().is_err())
        {
            // Whoever closed it, or saw it fail, has run what was there by then.
            self.run_jobs(log, &log.commit(pos));
        }
    }

    /// Records a claim that has just been made, up to the wait.
    pub(super) fn begin_claim(
        &self,
        log: &Log,
        k: Keyed<'_>,
        wish: Wish,
        ticket: Ticket,
        now: Tick,
    ) -> Result<Recording> {
        let forget_at = ticket.lease_end.after(self.commons.ttl);
        let draft = Draft::claimed(
            k.key,
            wish.fingerprint,
            ticket.generation,
            [now, forget_at],
            [0, 0],
            None,
        );
        match self.record(log, &draft, Share::Promised, now) {
            Ok(appended) => Ok(Recording { ticket, appended }),
            Err(error) => {
                self.shard(k).lock().abort_claim(&self.commons, k, &ticket, now);
                Err(error)
            }
        }
    }

    /// Waits, and hands the claim out.
    pub(super) fn finish_claim(
        &self,
        log: &Log,
        k: Keyed<'_>,
        recording: Recording,
        durability: Durability,
        now: Tick,
    ) -> Result<Ticket> {
        let durable = self.wait_durable(log, recording.appended.end, durability, now);
        self.end_claim(k, recording, durable, now)
    }

    /// The second half of a claim.
    fn end_claim(
        &self,
        k: Keyed<'_>,
        recording: Recording,
        durable: Result<()>,
        now: Tick,
    ) -> Result<Ticket> {
        let Recording { ticket, appended } = recording;
        let mut shard = self.shard(k).lock();
        match durable {
            Ok(()) => {
                shard.finish_claim(&self.commons, &ticket, there(&appended), now);
                Ok(ticket)
            }
            Err(error) => {
                shard.abort_claim(&self.commons, k, &ticket, now);
                Err(error)
            }
        }
    }

    /// A claim that was appended is handed out by whoever syncs next.
    pub(super) fn submit_recording(
        &self,
        k: Keyed<'_>,
        recording: Recording,
        now: Tick,
        then: impl FnOnce(&Engine, Result<Verdict>) + Send + 'static,
    ) {
        let (key, hash, pos) = (k.key.to_buf(), k.hash, recording.appended.end);
        let held = Held {
            lease: recording.ticket.lease,
            generation: recording.ticket.generation,
        };
        self.shard(k).lock().submit(held, 0);
        self.submit(
            pos,
            Box::new(move |engine, durable| {
                let key = key.as_checked();
                let ticket = engine.end_claim(Keyed { key, hash }, recording, durable, now);
                then(engine, ticket.map(Verdict::Acquired));
            }),
        );
    }

    /// Decides a completion and appends its record.
    pub(super) fn begin_complete(
        &self,
        log: &Log,
        grip: Grip<'_>,
        command: Command,
        outcome: NewOutcome<'_>,
        now: Tick,
    ) -> Result<Result<Completing, Lost>> {
        let begun = self.try_begin_complete(log, grip, command, outcome, now, true)?;
        begun.ok_or(Error::Closed)
    }

    /// The same, for who holds other keys busy and so must not wait for this one: `None` if it
    /// would have to.
    pub(super) fn try_begin_complete(
        &self,
        log: &Log,
        grip: Grip<'_>,
        command: Command,
        outcome: NewOutcome<'_>,
        now: Tick,
        may_wait: bool,
    ) -> Result<Option<Result<Completing, Lost>>> {
        let k = grip.k;
        Error::check_len("outcome", outcome.bytes.len(), self.max_outcome)?;
        if let Some(durability) = outcome.durability {
            self.allowed(durability)?;
        }
        let begun = {
            let locked = self.lock_unless_busy(log, k, now, may_wait)?;
            let Some(mut shard) = locked else { return Ok(None) };
            match command {
                Command::Complete(_) => shard.begin(grip.held, command, now),
                _ => shard.begin_anew(grip.held, command, now),
            }
        };
        let begun = match begun {
            Ok(begun) => begun,
            Err(Lost) => return Ok(Some(Err(Lost))),
        };
        let ttl = outcome.ttl.unwrap_or(self.commons.ttl);
        let draft = Draft {
            tag: outcome.tag,
            body: outcome.bytes,
            ..Draft::completed(k.key, begun.fingerprint, begun.generation, now, ttl)
        };
        let takes = match draft.is_covered() {
            true => Share::Promised,
            false => Share::Rest,
        };
        match self.record(log, &draft, takes, now) {
            Ok(appended) => Ok(Some(Ok(Completing { begun, appended }))),
            Err(error) => {
                self.abort(k, begun.held, now);
                Err(error)
            }
        }
    }

    /// Waits, and shows the outcome.
    pub(super) fn finish_complete(
        &self,
        log: &Log,
        k: Keyed<'_>,
        completing: Completing,
        outcome: NewOutcome<'_>,
        now: Tick,
    ) -> Result<u64> {
        let durability = outcome.durability.unwrap_or(self.durability);
        if cfg!(onceonly_sabotage = "publish_early") {
            let pos = completing.appended.end;
            let shown = self.end_complete(k, completing, outcome, Ok(()), now);
            self.wait_durable(log, pos, durability, now)?;
            return shown;
        }
        let durable = self.wait_durable(log, completing.appended.end, durability, now);
        self.end_complete(k, completing, outcome, durable, now)
    }

    /// The second half of a completion.
    fn end_complete(
        &self,
        k: Keyed<'_>,
        completing: Completing,
        outcome: NewOutcome<'_>,
        durable: Result<()>,
        now: Tick,
    ) -> Result<u64> {
        let Completing { begun, appended } = completing;
        if let Err(error) = durable {
            self.abort(k, begun.held, now);
            return Err(error);
        }
        let served = {
            let mut shard = self.shard(k).lock();
            shard.finish_complete(&self.commons, k, begun.held, appended.at)
        };
        served.send(|| Outcome::fresh(outcome.bytes, outcome.tag, begun.generation, true));
        Ok(begun.generation)
    }

    /// A completion that was appended is shown by whoever syncs next.
    pub(super) fn submit_completing(
        &self,
        k: Keyed<'_>,
        completing: Completing,
        outcome: NewOutcome<'_>,
        now: Tick,
        then: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let (key, hash, pos) = (k.key.to_buf(), k.hash, completing.appended.end);
        let bytes: Arc<[u8]> = outcome.bytes.into();
        let (ttl, tag, durability) = (outcome.ttl, outcome.tag, outcome.durability);
        self.shard(k).lock().submit(completing.begun.held, 0);
        self.submit(
            pos,
            Box::new(move |engine, durable| {
                let key = key.as_checked();
                let outcome = NewOutcome {
                    bytes: &bytes,
                    ttl,
                    tag,
                    durability,
                };
                let shown = engine.end_complete(Keyed { key, hash }, completing, outcome, durable, now);
                then(shown.map(drop));
            }),
        );
    }

    pub(super) fn complete_logged(
        &self,
        log: &Log,
        grip: Grip<'_>,
        command: Command,
        outcome: NewOutcome<'_>,
        now: Tick,
    ) -> Result<Result<u64, Lost>> {
        match self.begin_complete(log, grip, command, outcome, now)? {
            Ok(completing) => self
                .finish_complete(log, grip.k, completing, outcome, now)
                .map(Ok),
            Err(Lost) => Ok(Err(Lost)),
        }
    }

    fn abort(&self, k: Keyed<'_>, held: Held, now: Tick) {
        let pin = self.commons.pins.pin();
        self.shard(k).lock().abort(&self.commons, k, held, now, &pin);
    }

    /// Records the change of a claim in one record; `Err` has put the claim back.
    fn record_change(
        &self,
        log: &Log,
        k: Keyed<'_>,
        begun: &Begun,
        draft: &Draft<'_>,
        durability: Durability,
        now: Tick,
    ) -> Result<Appended> {
        let takes = match draft.kind {
            // A claim in new hands; others, with a checkpoint, can wait for room.
            Kind::Claimed if draft.revision == 0 => Share::Reserve,
            Kind::Claimed => Share::Rest,
            // What ends a claim was promised to it.
            _ => Share::Promised,
        };
        let recorded = self.record(log, draft, takes, now);
        let durable = recorded.and_then(|appended| {
            self.wait_durable(log, appended.end, durability, now)?;
            Ok(appended)
        });
        if durable.is_err() {
            self.abort(k, begun.held, now);
        }
        durable
    }

    pub(super) fn release_logged(
        &self,
        log: &Log,
        k: Keyed<'_>,
        held: Held,
        command: Command,
        durability: Durability,
        now: Tick,
    ) -> Result<Result<(), Lost>> {
        let begun = self.lock_settled(log, k, now)?.begin(held, command, now);
        let begun = match begun {
            Ok(begun) => begun,
            Err(Lost) => return Ok(Err(Lost)),
        };
        let draft = Draft::ended(Kind::Released, k.key, begun.generation, begun.forget_at);
        let appended = self.record_change(log, k, &begun, &draft, durability, now)?;
        self.shard(k)
            .lock()
            .finish_release(&self.commons, k, begun.held, now);
        drop(appended);
        Ok(Ok(()))
    }

    pub(super) fn checkpoint_logged(
        &self,
        log: &Log,
        k: Keyed<'_>,
        held: Held,
        note: &[u8],
        now: Tick,
    ) -> Result<Result<(), Lost>> {
        let begun = self
            .lock_settled(log, k, now)?
            .begin(held, Command::Checkpoint(held.generation), now);
        let mut begun = match begun {
            Ok(begun) => begun,
            Err(Lost) => return Ok(Err(Lost)),
        };
        let admit = || self.shard(k).lock().admit_note(&self.commons, held, note.len());
        let admitted = admit().or_else(|refused| {
            self.search_room(refused, now, &mut self.commons.pins.pin());
            admit()
        });
        let Ok(taken) = admitted else {
            self.abort(k, held, now);
            return Err(self.at_capacity(now));
        };
        begun.checkpoint = Some(note.into());
        begun.revision += 1;
        let draft = begun.claimed(k);
        match self.record_change(log, k, &begun, &draft, self.claim_durability, now) {
            Ok(appended) => {
                let mut shard = self.shard(k).lock();
                shard.finish_note(&self.commons, &begun, there(&appended), now);
                Ok(Ok(()))
            }
            Err(error) => {
                self.shard(k).lock().unadmit_note(&self.commons, taken);
                Err(error)
            }
        }
    }

    /// Renewals are recorded so that an interrupted claim is not forgotten before its time; that
    /// nobody waits for the disk, and none is refused where there is no room for it.
    pub(super) fn renew_logged(
        &self,
        log: &Log,
        k: Keyed<'_>,
        held: Held,
        lease: Span,
        now: Tick,
    ) -> Result<Result<(), Lost>> {
        let begun = self
            .lock_settled(log, k, now)?
            .begin(held, Command::Renew(held.generation), now);
        let mut begun = match begun {
            Ok(begun) => begun,
            Err(Lost) => return Ok(Err(Lost)),
        };
        begun.revision += 1;
        begun.forget_at = now.after(lease).after(self.commons.ttl);
        let recorded =
            log.check().and_then(
                |()| match log.append(&begun.claimed(k), Share::Rest, self.means(now)) {
                    Ok(appended) => Ok(Some(appended)),
                    Err(Unwritten::NoRoom) => Ok(None),
                    Err(Unwritten::Failed(error)) => Err(error),
                },
            );
        match recorded {
            Ok(appended) => {
                let at = appended.as_ref().map(there);
                let mut shard = self.shard(k).lock();
                shard.finish_renew(&self.commons, k, &begun, at, lease, now);
                Ok(Ok(()))
            }
            Err(error) => {
                self.abort(k, held, now);
                Err(error)
            }
        }
    }

    /// Puts a claim into new hands, under a new generation that is recorded first.
    pub(super) fn take_over_logged(
        &self,
        log: &Log,
        k: Keyed<'_>,
        seen: Held,
        command: Command,
        lease: Span,
        now: Tick,
    ) -> Result<Result<Ticket, Lost>> {
        let begun = self.lock_settled(log, k, now)?.begin_anew(seen, command, now);
        let mut begun = match begun {
            Ok(begun) => begun,
            Err(Lost) => return Ok(Err(Lost)),
        };
        // A hand-over is no failure.
        let attempts = u32::from(!matches!(command, Command::Attach(..)));
        begun.attempt = begun.attempt.saturating_add(attempts);
        begun.revision = 0;
        begun.started = now;
        begun.forget_at = now.after(lease).after(self.commons.ttl);
        let draft = begun.claimed(k);
        let appended = self.record_change(log, k, &begun, &draft, self.claim_durability, now)?;
        let mut shard = self.shard(k).lock();
        Ok(shard.finish_takeover(&self.commons, k, (&begun, there(&appended)), lease, now))
    }

    pub(super) fn attach_logged(
        &self,
        log: &Log,
        k: Keyed<'_>,
        command: Command,
        now: Tick,
    ) -> Result<Attached> {
        loop {
            let seen = {
                let shard = self.lock_settled(log, k, now)?;
                shard.seen_by_token(&self.commons, k, command, now, &self.commons.pins.pin())
            };
            let (held, fingerprint) = match seen {
                Ok(seen) => seen,
                Err(answer) => return Ok(answer),
            };
            let taken = self.take_over_logged(log, k, held, command, self.lease, now)?;
            // Somebody was faster: what they made of it is the answer.
            if let Ok(ticket) = taken {
                return Ok(Attached::Claim(ticket, fingerprint));
            }
        }
    }

    pub(super) fn forget_logged(&self, log: &Log, k: Keyed<'_>, now: Tick) -> Result<bool> {
        let begun = {
            let mut shard = self.lock_settled(log, k, now)?;
            shard.begin_forget(&self.commons, k, now, &self.commons.pins.pin())
        };
        match begun {
            Forgettable::Nothing => Ok(false),
            Forgettable::Claim(begun) => {
                let draft = Draft::ended(Kind::Forgotten, k.key, begun.generation, begun.forget_at);
                let _appended = self.record_change(log, k, &begun, &draft, self.durability, now)?;
                let mut shard = self.shard(k).lock();
                shard.finish_forget_claim(&self.commons, k, begun.held, now);
                Ok(true)
            }
            Forgettable::Outcome {
                generation,
                deadline,
                was,
            } => {
                let draft = Draft::ended(Kind::Forgotten, k.key, generation, deadline);
                let recorded = self
                    .record(log, &draft, Share::Reserve, now)
                    .and_then(|appended| {
                        self.wait_durable(log, appended.end, self.durability, now)?;
                        Ok(appended)
                    });
                let mut shard = self.shard(k).lock();
                match recorded {
                    Ok(_appended) => {
                        let pin = self.commons.pins.pin();
                        shard.finish_forget_outcome(&self.commons, k, was, &pin);
                        Ok(true)
                    }
                    Err(error) => {
                        shard.disengage(k);
                        Err(error)
                    }
                }
            }
        }
    }
}
