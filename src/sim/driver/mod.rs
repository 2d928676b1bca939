//! Applies operations to a store and to the model, and compares every answer.

mod claims;
mod compare;
mod holders;
mod operators;
mod restart;

pub use compare::{answer_to_bool, answer_to_claim, answer_to_error, answer_to_status, answer_to_unit};

use super::disk::SimDisk;
use super::model::{Answer, Bytes, Call, Disagreement, Finding, Model, Rules, Told};
use super::ops::{End, Ending, KEYS, Op, Payload, SLOTS, Work, fingerprint, key};
use crate::{
    Claim, ClaimGuard, ClaimOptions, ClaimToken, CompleteOptions, Deadline, Durability, Error, Fingerprint,
    Interrupted, Key, KeyBuf, ManualClock, OnDrop, Outcome, Replay, Resolution, Result, RunError, ScanFilter,
    StateKind, Stats, Status, Store, Stored,
};
use compare::{acquired, completed, differ, expect_refusal, is_a, place, told_in_place};
use std::fmt::Debug;
use std::time::{Duration, SystemTime};

/// A store to run streams on.
#[derive(Clone, Debug)]
pub struct Setup {
    /// What the model has to know.
    pub rules: Rules,
    /// See [`Builder::shards`](crate::Builder::shards).
    pub shards: Option<usize>,
    /// See [`Builder::helper_thread`](crate::Builder::helper_thread).
    pub helper_thread: bool,
    /// See [`Builder::constant_hash`](crate::Builder::constant_hash).
    pub constant_hash: bool,
    /// With a log on a simulated disk: how durable calls are, and the disk's seed.
    pub log: Option<(Durability, u64)>,
}

impl Default for Setup {
    /// No limit near, no helper thread.
    fn default() -> Self {
        Setup {
            rules: Rules {
                ttl: Duration::from_millis(50),
                lease: Duration::from_millis(10),
                max_keys: 1_000,
                max_keys_per_scope: None,
                max_in_flight: 1_000,
                max_outcome: 4_000,
            },
            shards: Some(4),
            helper_thread: false,
            constant_hash: false,
            log: None,
        }
    }
}

impl Setup {
    /// Makes the store, in memory or on that disk.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::in_memory`](crate::Builder::in_memory) and
    /// [`Builder::open`](crate::Builder::open).
    pub fn open(&self, clock: ManualClock, disk: &SimDisk) -> Result<Store> {
        let rules = &self.rules;
        let mut builder = Store::builder()
            .ttl(rules.ttl)
            .lease(rules.lease)
            .max_keys(rules.max_keys)
            .max_in_flight(rules.max_in_flight)
            .max_outcome(rules.max_outcome)
            .max_bytes(64 << 20)
            .helper_thread(self.helper_thread)
            .clock(clock);
        if let Some(keys) = rules.max_keys_per_scope {
            builder = builder.max_keys_per_scope(keys);
        }
        if let Some(shards) = self.shards {
            builder = builder.shards(shards);
        }
        if self.constant_hash {
            builder = builder.constant_hash();
        }
        match self.log {
            None => builder.in_memory(),
            // Small segments, so that streams meet their ends; and whatever a stream lets pass
            // while the store is closed is believed.
            Some((durability, _)) => builder
                .durability(durability)
                .disk(disk.clone())
                .segment_bytes(4_096)
                .max_clock_jump(Duration::from_secs(36_525 * 86_400))
                .open("/store"),
        }
    }
}

struct Held {
    guard: ClaimGuard<'static>,
    release: bool,
    /// Completed, released or detached by us: dropping the guard says nothing.
    ended: bool,
}

struct Asked {
    question: Interrupted<'static>,
    key: KeyBuf,
    fingerprint: Fingerprint,
    lease: Duration,
}

/// Who claimed what: a question remembers it.
#[derive(Clone, Copy)]
struct Claimed<'k> {
    key: Key<'k>,
    fingerprint: Fingerprint,
    lease: Duration,
}

/// What the store counts and its docs define to the letter.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Counts {
    acquired: u64,
    completed: u64,
    first_seen: u64,
    replays: u64,
    released: u64,
    interrupted_answers: u64,
    mismatches: u64,
    at_capacity: u64,
    takeovers: u64,
    forgotten: u64,
}

impl Counts {
    /// Counts a call that turned the first status into the second.
    fn count(&mut self, call: &Call, seen: &Answer, [before, after]: [Status; 2]) {
        match (call, seen) {
            (Call::Attach { .. }, Answer::Acquired { .. }) => {}
            (_, Answer::Acquired { attempt: 0, .. }) => self.acquired += 1,
            (_, Answer::Acquired { .. }) => self.takeovers += 1,
            (_, Answer::Completed { replayed: true, .. }) => self.replays += 1,
            (_, Answer::Completed { replayed: false, .. }) => self.completed += 1,
            (Call::Replay { .. }, Answer::Stored(_)) | (Call::FirstSeen { .. }, Answer::Was(false)) => {
                self.replays += 1;
            }
            (Call::FirstSeen { .. }, Answer::Was(true)) => self.first_seen += 1,
            (Call::Complete { .. } | Call::OperatorComplete { .. }, Answer::Done) => {
                self.completed += u64::from(!is_a(StateKind::Completed, &before));
            }
            // A claim is given back by whoever may say so: holder, operator, or who was asked.
            (Call::Release { .. } | Call::OperatorRelease { .. } | Call::GiveUp { .. }, Answer::Done) => {
                self.released += 1;
            }
            (Call::Drop { release: true, .. }, _) if before != Status::Absent && after == Status::Absent => {
                self.released += 1;
            }
            (_, Answer::Interrupted { .. }) => self.interrupted_answers += 1,
            (_, Answer::Mismatch { .. } | Answer::OtherRequest) => self.mismatches += 1,
            (_, Answer::AtCapacity) => self.at_capacity += 1,
            (Call::Forget, Answer::Was(true)) => self.forgotten += 1,
            _ => {}
        }
    }
}

/// A store and the model, side by side.
pub struct Driver {
    setup: Setup,
    store: Store,
    disk: SimDisk,
    clock: ManualClock,
    model: Model,
    held: [Option<Held>; SLOTS],
    tokens: [Option<ClaimToken>; SLOTS],
    asked: [Option<Asked>; SLOTS],
    counts: Counts,
    /// The store's housekeeping goes on beside the stream.
    has_helper: bool,
    /// Something was recorded that nobody waited for.
    unsynced: bool,
}

/// Whether store and model agreed.
pub type Verdict = Result<(), Disagreement>;

impl Driver {
    /// A new store.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::in_memory`](crate::Builder::in_memory).
    pub fn new(setup: &Setup) -> Result<Self> {
        let clock = ManualClock::new();
        let disk = SimDisk::new(setup.log.map_or(0, |(_, seed)| seed));
        Ok(Driver {
            setup: setup.clone(),
            store: setup.open(clock.clone(), &disk)?,
            disk,
            clock,
            model: Model::new(setup.rules.clone()),
            held: Default::default(),
            tokens: Default::default(),
            asked: Default::default(),
            counts: Counts::default(),
            has_helper: setup.helper_thread,
            unsynced: false,
        })
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Applies a whole stream and looks at everything once more at the end.
    ///
    /// # Errors
    ///
    /// The first disagreement, with the number of its step.
    pub fn run(setup: &Setup, ops: &[Op]) -> Verdict {
        let mut driver = Driver::new(setup).map_err(|error| differ("opening", "a store", &error))?;
        for (step, op) in ops.iter().enumerate() {
            driver.apply(op).map_err(|mut found| {
                found.what = format!("step {step}, {op:?}: {}", found.what);
                found
            })?;
        }
        driver.finish()
    }

    /// Applies one operation to both.
    ///
    /// # Errors
    ///
    /// Where they differ.
    pub fn apply(&mut self, op: &Op) -> Verdict {
        match *op {
            Op::Claim {
                key,
                fingerprint,
                lease,
                wait,
                slot,
            } => self.claim(key, fingerprint, lease, wait, slot),
            Op::ClaimMany {
                keys,
                fingerprints,
                slot,
            } => self.claim_many(keys, fingerprints, slot),
            Op::Run {
                key,
                fingerprint,
                work,
                outcome,
            } => self.run_once(key, fingerprint, work, outcome),
            Op::Complete { slot, ending } => self.complete(slot, ending),
            Op::CompleteMany { slots, ending } => self.complete_many(slots, ending),
            Op::Release { slot } => self.release(slot),
            Op::Checkpoint { slot, note } => self.checkpoint(slot, note),
            Op::Renew { slot, lease } => self.renew(slot, lease),
            Op::OnDrop { slot, release } => self.on_drop(slot, release),
            Op::DropGuard { slot } => self.drop_guard(slot),
            Op::Detach { slot, token } => self.detach(slot, token),
            Op::Attach { token, slot } => self.attach(token, slot),
            Op::Resume { question, slot } => self.resume(question, slot),
            Op::Resolve { question, ending } => self.resolve(question, ending),
            Op::GiveUp { question } => self.give_up(question),
            Op::DropQuestion { question } => {
                self.asked[place(question)] = None;
                Ok(())
            }
            Op::Forget { key } => self.forget(key),
            Op::OperatorComplete { key, off, ending } => self.operator_complete(key, off, ending),
            Op::OperatorRelease { key, off } => self.operator_release(key, off),
            Op::FirstSeen { key, ttl } => self.first_seen(key, ttl),
            Op::FirstSeenMany { keys } => self.first_seen_many(keys),
            Op::Replay { key, fingerprint } => self.replay(key, fingerprint),
            Op::ReplayMany { keys, fingerprints } => self.replay_many(keys, fingerprints),
            Op::Peek { key } => self.peek(key),
            Op::Status => self.status(),
            Op::Scan {
                scope_of,
                state,
                older_than,
            } => self.scan(scope_of, state, older_than),
            Op::Maintain => self.maintain(),
            Op::Stats => self.stats(),
            Op::Advance { by } => self.advance(by),
            Op::ToEdge { nth, off } => self.advance_to_edge(nth, off),
            Op::SetWall { off } => self.set_wall(off),
            Op::Refused { slot } => self.refused(slot),
            Op::Restart { how } => self.restart(how),
        }
    }

    /// Looks at every key and at the counters.
    ///
    /// # Errors
    ///
    /// Where store and model differ.
    pub fn finish(mut self) -> Verdict {
        self.status()?;
        for number in 0..KEYS as u8 {
            self.peek(number)?;
        }
        self.scan(None, None, Duration::ZERO)?;
        self.stats()
    }

    fn check(&mut self, key: Key<'_>, call: &Call, seen: &Answer) -> Verdict {
        let before = self.model.status(key);
        self.model.check(key, call, seen)?;
        self.counts.count(call, seen, [before, self.model.status(key)]);
        Ok(())
    }

    /// Compares the answer to a claim and keeps what it gave.
    fn take(
        &mut self,
        claimed: Claimed<'_>,
        call: &Call,
        claim: Result<Claim<'static>>,
        slot: u8,
    ) -> Verdict {
        self.check(claimed.key, call, &answer_to_claim(&claim))?;
        match claim {
            Ok(Claim::Acquired(guard)) => {
                // Filling the slot drops nothing: it was emptied before the call.
                self.held[place(slot)] = Some(Held {
                    guard,
                    release: false,
                    ended: false,
                });
            }
            Ok(Claim::Interrupted(question)) => {
                self.asked[place(slot)] = Some(Asked {
                    question,
                    key: claimed.key.to_owned(),
                    fingerprint: claimed.fingerprint,
                    lease: claimed.lease,
                });
            }
            _ => {}
        }
        Ok(())
    }
}

/// What `run` gives in these streams; a failure of the work says whether it released.
type Ran = Result<Outcome, RunError<bool>>;

impl Held {
    fn identity(&self) -> (KeyBuf, u64) {
        (self.guard.key().to_owned(), self.guard.generation())
    }
}
