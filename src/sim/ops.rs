//! Streams of operations, and the driver that applies them to a store and to the model.
//!
//! Guards, tokens and questions are kept in a few numbered slots that later operations refer
//! to; an operation on an empty slot does nothing, so that any part of a stream is a stream.
//! What a slot held before is dropped when it is filled anew.

use super::model::{Answer, Bytes, Call, Disagreement, Finding, Model, Rules, Told};
use crate::{
    Claim, ClaimGuard, ClaimOptions, ClaimToken, CompleteOptions, Deadline, Error, Fingerprint, Interrupted,
    Key, KeyBuf, ManualClock, OnDrop, Outcome, Replay, Resolution, Result, RunError, ScanFilter, StateKind,
    Stats, Status, Store, Stored,
};
use std::fmt::Debug;
use std::time::{Duration, SystemTime};

/// How many slots there are for guards, and as many for tokens and for questions.
pub const SLOTS: usize = 4;

const LONG_ID: [u8; 1_024] = [b'i'; 1_024];
const LONG_SCOPE: [u8; 255] = [b's'; 255];

/// The keys the streams are about: chosen so that scope and id, put end to end, are alike.
pub const KEYS: usize = 8;

/// The key of this number, counted round.
pub fn key(number: u8) -> Key<'static> {
    match usize::from(number) % KEYS {
        0 => Key::new("a", "bc"),
        1 => Key::new("ab", "c"),
        2 => Key::unscoped("abc"),
        3 => Key::new("a", "b"),
        4 => Key::new(&LONG_SCOPE, &LONG_ID),
        5 => Key::unscoped("a"),
        6 => Key::new("a", "a"),
        _ => Key::new("ab", &[0]),
    }
}

/// The fingerprint of this number, counted round.
pub fn fingerprint(number: u8) -> Fingerprint {
    let mut bytes = [0; 16];
    match number % 3 {
        0 => {}
        1 => bytes[15] = 1,
        _ => bytes[0] = 1,
    }
    Fingerprint::from_bytes(bytes)
}

/// Bytes to store, described: `len` times `byte`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Payload {
    /// What it is made of.
    pub byte: u8,
    /// Its length.
    pub len: usize,
}

impl Payload {
    fn bytes(self) -> Bytes {
        vec![self.byte; self.len].into()
    }
}

/// What is stored, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ending {
    /// The outcome.
    pub outcome: Payload,
    /// The tag.
    pub tag: u16,
    /// A ttl other than the store's.
    pub ttl: Option<Duration>,
}

impl Ending {
    fn options(self) -> CompleteOptions {
        let options = CompleteOptions::new().tag(self.tag);
        self.ttl.map_or(options, |ttl| options.ttl(ttl))
    }

    fn finding(self) -> Finding {
        Finding {
            bytes: self.outcome.bytes(),
            tag: self.tag,
            ttl: self.ttl,
        }
    }
}

/// What the closure given to `run` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Succeeds.
    Succeed,
    /// Fails without a word.
    Fail,
    /// Releases the claim and fails.
    ReleaseAndFail,
}

/// One step of a stream. Numbers of keys, fingerprints and slots count round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are the arguments of the calls the variants name"
)]
pub enum Op {
    /// `claim`, `claim_with` if there is a lease, `claim_wait` until now if `wait`. A guard or
    /// a question goes into the slot.
    Claim {
        key: u8,
        fingerprint: u8,
        lease: Option<Duration>,
        wait: bool,
        slot: u8,
    },
    /// `claim_many`; the first guard and the first question go into the slot.
    ClaimMany {
        keys: [u8; 3],
        fingerprints: [u8; 3],
        slot: u8,
    },
    /// `run_until` now.
    Run {
        key: u8,
        fingerprint: u8,
        work: Work,
        outcome: Payload,
    },
    /// `ClaimGuard::complete_with`.
    Complete { slot: u8, ending: Ending },
    /// `complete_many`.
    CompleteMany { slots: [u8; 3], ending: Ending },
    /// `ClaimGuard::release`.
    Release { slot: u8 },
    /// `ClaimGuard::checkpoint`.
    Checkpoint { slot: u8, note: Payload },
    /// `ClaimGuard::renew`.
    Renew { slot: u8, lease: Duration },
    /// `ClaimGuard::on_drop`.
    OnDrop { slot: u8, release: bool },
    /// Drops a guard.
    DropGuard { slot: u8 },
    /// `ClaimGuard::detach`; the token goes into the other slot.
    Detach { slot: u8, token: u8 },
    /// `attach`, with the token as bytes and back; the token is kept. A guard goes into the slot.
    Attach { token: u8, slot: u8 },
    /// `Interrupted::resume`; a guard goes into the slot.
    Resume { question: u8, slot: u8 },
    /// `Interrupted::resolve`.
    Resolve { question: u8, ending: Ending },
    /// `Interrupted::release`.
    GiveUp { question: u8 },
    /// Drops a question undecided.
    DropQuestion { question: u8 },
    /// `forget`.
    Forget { key: u8 },
    /// `Store::resolve` on the generation the key has, plus `off`.
    OperatorComplete { key: u8, off: i8, ending: Ending },
    /// The same, with `Release`.
    OperatorRelease { key: u8, off: i8 },
    /// `first_seen`, or `first_seen_for` if there is a ttl.
    FirstSeen { key: u8, ttl: Option<Duration> },
    /// `first_seen_many`.
    FirstSeenMany { keys: [u8; 3] },
    /// `replay`.
    Replay { key: u8, fingerprint: u8 },
    /// `replay_many`.
    ReplayMany { keys: [u8; 3], fingerprints: [u8; 3] },
    /// `peek`.
    Peek { key: u8 },
    /// `status` of all keys.
    Status,
    /// `scan`.
    Scan {
        scope_of: Option<u8>,
        state: Option<StateKind>,
        older_than: Duration,
    },
    /// `maintain`.
    Maintain,
    /// `stats`.
    Stats,
    /// Lets time pass.
    Advance { by: Duration },
    /// Lets time pass until something ends, the `nth` next, and `off` half milliseconds more.
    ToEdge { nth: u8, off: i8 },
    /// Sets the wall clock, so many seconds from where it is: nothing may change.
    SetWall { off: i32 },
    /// Calls that are refused at the door.
    Refused { slot: u8 },
}

/// Turns the bytes of a word into small choices.
struct Word([u8; 6]);

impl Word {
    fn pick<T: Copy>(byte: u8, from: &[T]) -> T {
        from[usize::from(byte) % from.len()]
    }

    fn lease(&self, at: usize) -> Option<Duration> {
        const LEASES: [u64; 8] = [0, 1_000, 5_000, 20_000, 100, 1_700, 60_000_000, 86_400_000_000];
        Some(Self::pick(self.0[at], &LEASES))
            .filter(|us| *us > 0)
            .map(Duration::from_micros)
    }

    fn ttl(&self, at: usize) -> Option<Duration> {
        const DAY: u64 = 86_400_000_000;
        const TTLS: [u64; 13] = [
            0,
            1_000,
            2_000,
            5_000,
            300,
            1_500,
            60_000_000,
            3_600_000_000,
            20 * DAY,
            24 * DAY,
            24 * DAY + 1_000,
            25 * DAY,
            30 * DAY,
        ];
        Some(Self::pick(self.0[at], &TTLS))
            .filter(|us| *us > 0)
            .map(Duration::from_micros)
    }

    fn payload(&self, at: usize) -> Payload {
        const LENS: [usize; 16] = [
            0, 1, 2, 7, 8, 9, 16, 31, 100, 250, 251, 600, 3_999, 4_000, 4_001, 70_000,
        ];
        let byte = self.0[at];
        Payload {
            byte: byte & 1,
            len: Self::pick(byte >> 4, &LENS),
        }
    }

    fn note(&self, at: usize) -> Payload {
        const LENS: [usize; 8] = [0, 1, 8, 30, 300, 5_000, 65_536, 65_537];
        let byte = self.0[at];
        // The two longest are rare: they cost as much as the rest of a stream.
        let len = if byte < 250 {
            LENS[usize::from(byte) % 6]
        } else {
            LENS[6 + usize::from(byte) % 2]
        };
        Payload { byte: byte & 1, len }
    }

    fn ending(&self, at: usize) -> Ending {
        Ending {
            outcome: self.payload(at),
            tag: u16::from(self.0[at] >> 1 & 1) * 500,
            ttl: self.ttl(at + 1),
        }
    }

    fn span(&self, at: usize) -> Duration {
        const SPANS: [u64; 16] = [
            0,
            300,
            999,
            1_000,
            1_001,
            2_000,
            3_000,
            5_000,
            20_000,
            100_000,
            60_000_000,
            60_001_000,
            3_600_000_000,
            86_400_000_000,
            24 * 86_400_000_000,
            31 * 86_400_000_000,
        ];
        Duration::from_micros(Self::pick(self.0[at], &SPANS))
    }

    fn three(&self) -> [u8; 3] {
        [self.0[1], self.0[2], self.0[3]]
    }

    fn wide_fingerprint(&self, at: usize) -> u8 {
        // Mostly the same one, or hardly any stream would get far.
        if self.0[at] < 200 { 0 } else { self.0[at] % 3 }
    }
}

impl Op {
    /// Makes an operation of any six bytes; the first says which. Zeros are the plainest claim.
    pub fn decode(word: [u8; 6]) -> Op {
        let [kind, a, b, c, d, _] = word;
        let w = Word(word);
        match kind {
            0..64 => Op::Claim {
                key: a % KEYS as u8,
                fingerprint: w.wide_fingerprint(4),
                lease: w.lease(3),
                wait: kind % 8 == 7,
                slot: b % SLOTS as u8,
            },
            64..72 => Op::ClaimMany {
                keys: w.three().map(|k| k % KEYS as u8),
                fingerprints: w.three().map(|k| u8::from(k > 220)),
                slot: d % SLOTS as u8,
            },
            72..78 => Op::Run {
                key: a % KEYS as u8,
                fingerprint: w.wide_fingerprint(4),
                work: Word::pick(b, &[Work::Succeed, Work::Fail, Work::ReleaseAndFail]),
                outcome: w.payload(3),
            },
            78..100 => Op::Complete {
                slot: a % SLOTS as u8,
                ending: w.ending(2),
            },
            100..104 => Op::CompleteMany {
                slots: w.three().map(|s| s % SLOTS as u8),
                ending: w.ending(4),
            },
            104..110 => Op::Release {
                slot: a % SLOTS as u8,
            },
            110..116 => Op::Checkpoint {
                slot: a % SLOTS as u8,
                note: w.note(2),
            },
            116..122 => Op::Renew {
                slot: a % SLOTS as u8,
                lease: w.lease(2).unwrap_or(Duration::from_millis(2)),
            },
            122..126 => Op::OnDrop {
                slot: a % SLOTS as u8,
                release: b & 1 == 0,
            },
            126..138 => Op::DropGuard {
                slot: a % SLOTS as u8,
            },
            138..143 => Op::Detach {
                slot: a % SLOTS as u8,
                token: b % SLOTS as u8,
            },
            143..149 => Op::Attach {
                token: a % SLOTS as u8,
                slot: b % SLOTS as u8,
            },
            149..158 => Op::Resume {
                question: a % SLOTS as u8,
                slot: b % SLOTS as u8,
            },
            158..163 => Op::Resolve {
                question: a % SLOTS as u8,
                ending: w.ending(2),
            },
            163..167 => Op::GiveUp {
                question: a % SLOTS as u8,
            },
            167..169 => Op::DropQuestion {
                question: a % SLOTS as u8,
            },
            169..174 => Op::Forget { key: a % KEYS as u8 },
            174..179 => Op::OperatorComplete {
                key: a % KEYS as u8,
                off: Word::pick(b, &[0, 0, 0, 1, -1]),
                ending: w.ending(2),
            },
            179..183 => Op::OperatorRelease {
                key: a % KEYS as u8,
                off: Word::pick(b, &[0, 0, 0, 1, -1]),
            },
            183..191 => Op::FirstSeen {
                key: a % KEYS as u8,
                ttl: w.ttl(2),
            },
            191..194 => Op::FirstSeenMany {
                keys: w.three().map(|k| k % KEYS as u8),
            },
            194..199 => Op::Replay {
                key: a % KEYS as u8,
                fingerprint: w.wide_fingerprint(2),
            },
            199..202 => Op::ReplayMany {
                keys: w.three().map(|k| k % KEYS as u8),
                fingerprints: w.three().map(|k| u8::from(k > 220)),
            },
            202..205 => Op::Peek { key: a % KEYS as u8 },
            205..208 => Op::Status,
            208..212 => Op::Scan {
                scope_of: (a % 2 == 1).then_some(b % KEYS as u8),
                state: Word::pick(
                    c,
                    &[
                        None,
                        Some(StateKind::InFlight),
                        Some(StateKind::Interrupted),
                        Some(StateKind::Completed),
                    ],
                ),
                older_than: if d % 2 == 0 { Duration::ZERO } else { w.span(4) },
            },
            212..215 => Op::Maintain,
            215..218 => Op::Stats,
            218..228 => Op::Advance { by: w.span(1) },
            228..249 => Op::ToEdge {
                nth: a % 4,
                off: (b % 11) as i8 - 4,
            },
            249..252 => Op::SetWall {
                off: i32::from(a) * 7_000_000 * if b % 2 == 0 { 1 } else { -1 },
            },
            252..=255 => Op::Refused {
                slot: a % SLOTS as u8,
            },
        }
    }

    /// Reads a stream from any bytes, six a step; what is left over is left out.
    pub fn decode_all(bytes: &[u8]) -> impl Iterator<Item = Op> {
        bytes.as_chunks::<6>().0.iter().map(|word| Op::decode(*word))
    }
}

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
        }
    }
}

impl Setup {
    /// Makes the store.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::in_memory`](crate::Builder::in_memory).
    pub fn open(&self, clock: ManualClock) -> Result<Store> {
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
        builder.in_memory()
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
    store: Store,
    clock: ManualClock,
    model: Model,
    held: [Option<Held>; SLOTS],
    tokens: [Option<ClaimToken>; SLOTS],
    asked: [Option<Asked>; SLOTS],
    counts: Counts,
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
        Ok(Driver {
            store: setup.open(clock.clone())?,
            clock,
            model: Model::new(setup.rules.clone()),
            held: Default::default(),
            tokens: Default::default(),
            asked: Default::default(),
            counts: Counts::default(),
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

    fn claim(&mut self, number: u8, print: u8, lease: Option<Duration>, wait: bool, slot: u8) -> Verdict {
        self.drop_guard(slot)?;
        let (key, fingerprint) = (key(number), fingerprint(print));
        let claim = match lease {
            _ if wait => self.store.claim_wait(key, fingerprint, Deadline::NOW),
            Some(lease) => self
                .store
                .claim_with(key, fingerprint, ClaimOptions::new().lease(lease)),
            None => self.store.claim(key, fingerprint),
        };
        let claim = claim.map(Claim::into_owned);
        let lease = lease.filter(|_| !wait).unwrap_or(self.model.rules().lease);
        let call = Call::Claim { fingerprint, lease };
        let claimed = Claimed {
            key,
            fingerprint,
            lease,
        };
        self.take(claimed, &call, claim, slot)
    }

    fn claim_many(&mut self, keys: [u8; 3], prints: [u8; 3], slot: u8) -> Verdict {
        self.drop_guard(slot)?;
        let items = [0, 1, 2].map(|i| (key(keys[i]), fingerprint(prints[i])));
        let mut out = Vec::new();
        self.store
            .claim_many(&items, &mut out)
            .map_err(|error| differ("claim_many", "Ok", &error))?;
        let claims: Vec<_> = out
            .into_iter()
            .map(|claim| claim.map(Claim::into_owned))
            .collect();
        if claims.len() != items.len() {
            return Err(differ("claim_many", "an answer for each item", &claims.len()));
        }
        let lease = self.model.rules().lease;
        for ((key, fingerprint), claim) in items.iter().zip(&claims) {
            let call = Call::Claim {
                fingerprint: *fingerprint,
                lease,
            };
            self.check(*key, &call, &answer_to_claim(claim))?;
        }
        for ((key, fingerprint), claim) in items.into_iter().zip(claims) {
            self.keep_or_drop(key, fingerprint, claim, slot)?;
        }
        Ok(())
    }

    /// What a batch gave: the slot takes one guard and one question, the rest are dropped.
    fn keep_or_drop(
        &mut self,
        key: Key<'_>,
        print: Fingerprint,
        claim: Result<Claim<'static>>,
        slot: u8,
    ) -> Verdict {
        match claim {
            Ok(Claim::Acquired(guard)) => {
                let held = Held {
                    guard,
                    release: false,
                    ended: false,
                };
                match &mut self.held[place(slot)] {
                    empty @ None => *empty = Some(held),
                    Some(_) => self.let_go(held)?,
                }
            }
            Ok(Claim::Interrupted(question)) => {
                self.asked[place(slot)].get_or_insert(Asked {
                    question,
                    key: key.to_owned(),
                    fingerprint: print,
                    lease: self.model.rules().lease,
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn run_once(&mut self, number: u8, print: u8, work: Work, outcome: Payload) -> Verdict {
        let (key, fingerprint) = (key(number), fingerprint(print));
        let mut begun = None;
        let ran = self.store.run_until(key, fingerprint, Deadline::NOW, |guard| {
            begun = Some(acquired(guard));
            match work {
                Work::Succeed => Ok(outcome.bytes().to_vec()),
                Work::Fail => Err(false),
                Work::ReleaseAndFail => Err(guard.release().is_ok()),
            }
        });
        let claim = Call::Claim {
            fingerprint,
            lease: self.model.rules().lease,
        };
        let Some(begun) = begun else {
            let seen = match ran {
                Ok(outcome) => completed(&outcome),
                Err(RunError::Store(error)) => answer_to_error(&error),
                Err(RunError::InFlight(other)) => answer_to_claim(&Ok(Claim::InFlight(other))),
                Err(RunError::Interrupted(left)) => answer_to_claim(&Ok(Claim::Interrupted(left))),
                Err(RunError::Mismatch(mismatch)) => answer_to_claim(&Ok(Claim::Mismatch(mismatch))),
                Err(RunError::Work(_)) => Answer::Unexpected("a failure of work that was not begun".into()),
            };
            return self.check(key, &claim, &seen);
        };
        self.check(key, &claim, &begun)?;
        self.ran(key, begun.generation().unwrap_or(0), outcome, ran)
    }

    /// The work of `run` was begun at this generation: how did it end?
    fn ran(&mut self, key: Key<'_>, generation: u64, outcome: Payload, ran: Ran) -> Verdict {
        let complete = Call::Complete {
            generation,
            outcome: Finding {
                bytes: outcome.bytes(),
                tag: 0,
                ttl: None,
            },
        };
        let drop = Call::Drop {
            generation,
            release: false,
        };
        match ran {
            Ok(stored) if stored.replayed() || *stored != *outcome.bytes() => {
                Err(differ("run", "the outcome of the work, not replayed", &stored))
            }
            Ok(_) => self.check(key, &complete, &Answer::Done),
            Err(RunError::Work(true)) => self.check(key, &Call::Release { generation }, &Answer::Done),
            Err(RunError::Work(false)) => self.check(key, &drop, &Answer::Done),
            Err(RunError::Store(error)) => {
                self.check(key, &complete, &answer_to_error(&error))?;
                self.check(key, &drop, &Answer::Done)
            }
            Err(other) => Err(differ("run", "nobody else at work", &other)),
        }
    }

    fn complete(&mut self, slot: u8, ending: Ending) -> Verdict {
        let Some(held) = &self.held[place(slot)] else {
            return Ok(());
        };
        let done = held
            .guard
            .complete_with(&ending.outcome.bytes(), ending.options());
        self.completed(slot, ending, &done)
    }

    fn completed(&mut self, slot: u8, ending: Ending, done: &Result<()>) -> Verdict {
        let Some(held) = &mut self.held[place(slot)] else {
            return Ok(());
        };
        held.ended |= done.is_ok();
        let call = Call::Complete {
            generation: held.guard.generation(),
            outcome: ending.finding(),
        };
        let key = held.guard.key().to_owned();
        self.check(key.as_key(), &call, &answer_to_unit(done))
    }

    fn complete_many(&mut self, slots: [u8; 3], ending: Ending) -> Verdict {
        let bytes = ending.outcome.bytes();
        let full: Vec<u8> = slots
            .into_iter()
            .filter(|slot| self.held[place(*slot)].is_some())
            .collect();
        let mut out = Vec::new();
        let guards = full.iter().filter_map(|slot| self.held[place(*slot)].as_ref());
        self.store
            .complete_many(
                guards.map(|held| (&held.guard, &*bytes, ending.options())),
                &mut out,
            )
            .map_err(|error| differ("complete_many", "Ok", &error))?;
        if out.len() != full.len() {
            return Err(differ("complete_many", "an answer for each guard", &out.len()));
        }
        full.iter()
            .zip(&out)
            .try_for_each(|(slot, done)| self.completed(*slot, ending, done))
    }

    fn release(&mut self, slot: u8) -> Verdict {
        let Some(held) = &mut self.held[place(slot)] else {
            return Ok(());
        };
        let done = held.guard.release();
        held.ended |= done.is_ok();
        let (key, generation) = held.identity();
        self.check(
            key.as_key(),
            &Call::Release { generation },
            &answer_to_unit(&done),
        )
    }

    fn checkpoint(&mut self, slot: u8, note: Payload) -> Verdict {
        let Some(held) = &self.held[place(slot)] else {
            return Ok(());
        };
        let note = note.bytes();
        let done = held.guard.checkpoint(&note);
        let (key, generation) = held.identity();
        self.check(
            key.as_key(),
            &Call::Checkpoint { generation, note },
            &answer_to_unit(&done),
        )
    }

    fn renew(&mut self, slot: u8, lease: Duration) -> Verdict {
        let Some(held) = &self.held[place(slot)] else {
            return Ok(());
        };
        let done = held.guard.renew(lease);
        let (key, generation) = held.identity();
        self.check(
            key.as_key(),
            &Call::Renew { generation, lease },
            &answer_to_unit(&done),
        )
    }

    fn on_drop(&mut self, slot: u8, release: bool) -> Verdict {
        if let Some(held) = &mut self.held[place(slot)] {
            held.guard.on_drop(if release {
                OnDrop::Release
            } else {
                OnDrop::Interrupt
            });
            held.release = release;
        }
        Ok(())
    }

    fn drop_guard(&mut self, slot: u8) -> Verdict {
        match self.held[place(slot)].take() {
            Some(held) => self.let_go(held),
            None => Ok(()),
        }
    }

    fn let_go(&mut self, held: Held) -> Verdict {
        let (key, generation) = held.identity();
        let (ended, release) = (held.ended, held.release);
        drop(held);
        match ended {
            true => Ok(()),
            false => self.check(key.as_key(), &Call::Drop { generation, release }, &Answer::Done),
        }
    }

    fn detach(&mut self, slot: u8, token: u8) -> Verdict {
        if let Some(held) = self.held[place(slot)].take() {
            let (key, generation) = held.identity();
            let made = held.guard.detach();
            if made.key() != key.as_key() || made.generation() != generation {
                return Err(differ("detach", &format!("{key:?} at {generation}"), &made));
            }
            self.tokens[place(token)] = Some(made);
        }
        Ok(())
    }

    fn attach(&mut self, token: u8, slot: u8) -> Verdict {
        if self.tokens[place(token)].is_none() {
            return Ok(());
        }
        self.drop_guard(slot)?;
        let Some(token) = &self.tokens[place(token)] else {
            return Ok(());
        };
        let read =
            ClaimToken::from_bytes(&token.to_bytes()).map_err(|error| differ("a token", "itself", &error))?;
        let key = token.key().to_owned();
        let call = Call::Attach {
            generation: token.generation(),
            fingerprint: token.fingerprint(),
        };
        let claim = self.store.attach(&read).map(Claim::into_owned);
        let claimed = Claimed {
            key: key.as_key(),
            fingerprint: Fingerprint::NONE,
            lease: self.model.rules().lease,
        };
        self.take(claimed, &call, claim, slot)
    }

    fn resume(&mut self, question: u8, slot: u8) -> Verdict {
        let Some(asked) = self.asked[place(question)].take() else {
            return Ok(());
        };
        self.drop_guard(slot)?;
        let call = Call::Resume {
            generation: asked.question.generation(),
            fingerprint: asked.fingerprint,
            lease: asked.lease,
        };
        let claim = asked.question.resume();
        let claimed = Claimed {
            key: asked.key.as_key(),
            fingerprint: asked.fingerprint,
            lease: asked.lease,
        };
        self.take(claimed, &call, claim, slot)
    }

    fn resolve(&mut self, question: u8, ending: Ending) -> Verdict {
        let Some(asked) = self.asked[place(question)].take() else {
            return Ok(());
        };
        self.drop_guard(question)?;
        let call = Call::Resolve {
            generation: asked.question.generation(),
            fingerprint: asked.fingerprint,
            lease: asked.lease,
            outcome: ending.finding(),
        };
        let claim = asked.question.resolve(&ending.outcome.bytes(), ending.options());
        let claimed = Claimed {
            key: asked.key.as_key(),
            fingerprint: asked.fingerprint,
            lease: asked.lease,
        };
        self.take(claimed, &call, claim, question)
    }

    fn give_up(&mut self, question: u8) -> Verdict {
        let Some(asked) = self.asked[place(question)].take() else {
            return Ok(());
        };
        let generation = asked.question.generation();
        let done = asked.question.release();
        self.check(
            asked.key.as_key(),
            &Call::GiveUp { generation },
            &answer_to_unit(&done),
        )
    }

    fn forget(&mut self, number: u8) -> Verdict {
        let seen = answer_to_bool(&self.store.forget(key(number)));
        self.check(key(number), &Call::Forget, &seen)
    }

    /// The key's generation plus `off`, as an operator would have read it.
    fn operators_view(&mut self, number: u8, off: i8) -> Result<u64, Disagreement> {
        let status = answer_to_status(&self.store.status(key(number)));
        let generation = status.generation().unwrap_or(0);
        self.check(key(number), &Call::Status, &status)?;
        Ok(generation.saturating_add_signed(off.into()))
    }

    fn operator_complete(&mut self, number: u8, off: i8, ending: Ending) -> Verdict {
        let generation = self.operators_view(number, off)?;
        let bytes = ending.outcome.bytes();
        let to = Resolution::Complete(&bytes, ending.options());
        let seen = answer_to_unit(&self.store.resolve(key(number), generation, to));
        let call = Call::OperatorComplete {
            generation,
            outcome: ending.finding(),
        };
        self.check(key(number), &call, &seen)
    }

    fn operator_release(&mut self, number: u8, off: i8) -> Verdict {
        let generation = self.operators_view(number, off)?;
        let seen = answer_to_unit(&self.store.resolve(key(number), generation, Resolution::Release));
        self.check(key(number), &Call::OperatorRelease { generation }, &seen)
    }

    fn first_seen(&mut self, number: u8, ttl: Option<Duration>) -> Verdict {
        let seen = match ttl {
            None => self.store.first_seen(key(number)),
            Some(ttl) => self.store.first_seen_for(key(number), ttl),
        };
        self.check(key(number), &Call::FirstSeen { ttl }, &answer_to_bool(&seen))
    }

    fn first_seen_many(&mut self, numbers: [u8; 3]) -> Verdict {
        let mut out = Vec::new();
        self.store
            .first_seen_many(&numbers.map(key), &mut out)
            .map_err(|error| differ("first_seen_many", "Ok", &error))?;
        if out.len() != numbers.len() {
            return Err(differ("first_seen_many", "an answer for each key", &out.len()));
        }
        let call = Call::FirstSeen { ttl: None };
        numbers
            .iter()
            .zip(&out)
            .try_for_each(|(number, seen)| self.check(key(*number), &call, &answer_to_bool(seen)))
    }

    fn replay(&mut self, number: u8, print: u8) -> Verdict {
        let fingerprint = fingerprint(print);
        let seen = match self.store.replay(key(number), fingerprint, told_in_place) {
            Ok(Replay::Hit(told)) => Answer::Stored(told),
            Ok(Replay::Miss) => Answer::Miss,
            Ok(Replay::Mismatch) => Answer::OtherRequest,
            Err(error) => answer_to_error(&error),
        };
        self.check(key(number), &Call::Replay { fingerprint }, &seen)
    }

    fn replay_many(&mut self, numbers: [u8; 3], prints: [u8; 3]) -> Verdict {
        let items = [0, 1, 2].map(|i| (key(numbers[i]), fingerprint(prints[i])));
        let mut found = Vec::new();
        let hits = self
            .store
            .replay_many(&items, |i, stored| found.push((i, told_in_place(stored))))
            .map_err(|error| differ("replay_many", "Ok", &error))?;
        if hits != found.len() || !found.is_sorted_by_key(|(i, _)| *i) {
            return Err(differ(
                "replay_many",
                "a call for each hit, in order",
                &(hits, found),
            ));
        }
        for (i, (key, fingerprint)) in items.into_iter().enumerate() {
            let hit = found
                .iter()
                .find(|(at, _)| *at == i)
                .map(|(_, told)| told.clone());
            let seen = match hit {
                Some(told) => Answer::Stored(told),
                None if self.is_for_another_request(key, fingerprint) => Answer::OtherRequest,
                None => Answer::Miss,
            };
            self.check(key, &Call::Replay { fingerprint }, &seen)?;
        }
        Ok(())
    }

    /// `replay_many` does not tell a miss from a mismatch; the model may.
    fn is_for_another_request(&self, key: Key<'_>, fingerprint: Fingerprint) -> bool {
        matches!(self.model.status(key), Status::Completed { .. })
            && self.model.fingerprint(key) != Some(fingerprint)
    }

    fn peek(&mut self, number: u8) -> Verdict {
        let seen = match self.store.peek(key(number), told_in_place) {
            Ok(Some(told)) => Answer::Stored(told),
            Ok(None) => Answer::Miss,
            Err(error) => answer_to_error(&error),
        };
        self.check(key(number), &Call::Peek, &seen)
    }

    fn status(&mut self) -> Verdict {
        (0..KEYS as u8).try_for_each(|number| {
            let seen = answer_to_status(&self.store.status(key(number)));
            self.check(key(number), &Call::Status, &seen)
        })
    }

    fn scan(&mut self, scope_of: Option<u8>, state: Option<StateKind>, older_than: Duration) -> Verdict {
        let scope = scope_of.map(|number| key(number).scope());
        let mut filter = ScanFilter::new().older_than(older_than);
        if let Some(scope) = scope {
            filter = filter.scope(scope);
        }
        if let Some(state) = state {
            filter = filter.state(state);
        }
        let mut found: Vec<(KeyBuf, Status)> = self
            .store
            .scan(filter)
            .and_then(Iterator::collect)
            .map_err(|error| differ("scan", "Ok", &error))?;
        // Hidden generations are told by the scan too.
        for (key, status) in &found {
            self.model
                .check(key.as_key(), &Call::Status, &Answer::Status(*status))?;
        }
        for (key, status, slack) in self.model.live() {
            let wanted = scope.is_none_or(|scope| scope == key.scope())
                && state.is_none_or(|kind| is_a(kind, &status));
            let old_enough = status.age() >= older_than + slack;
            let too_young = status.age() + slack < older_than;
            let position = found.iter().position(|(k, _)| k.as_key() == key);
            match position {
                Some(at) if wanted && !too_young => {
                    found.swap_remove(at);
                }
                Some(_) => return Err(differ("scan", &format!("not {key:?}: {status:?}"), &found)),
                None if wanted && old_enough => {
                    return Err(differ("scan", &format!("also {key:?}: {status:?}"), &found));
                }
                None => {}
            }
        }
        match found.is_empty() {
            true => Ok(()),
            false => Err(differ(
                "scan",
                "nothing that is not there, and nothing twice",
                &found,
            )),
        }
    }

    fn maintain(&mut self) -> Verdict {
        match self.store.maintain(Duration::from_millis(1)) {
            Ok(_) => Ok(()),
            Err(error) => Err(differ("maintain", "Ok", &error)),
        }
    }

    fn stats(&mut self) -> Verdict {
        let stats = self.store.stats();
        let seen = Counts {
            acquired: stats.acquired,
            completed: stats.completed,
            first_seen: stats.first_seen,
            replays: stats.replays,
            released: stats.released,
            interrupted_answers: stats.interrupted_answers,
            mismatches: stats.mismatches,
            at_capacity: stats.at_capacity,
            takeovers: stats.takeovers,
            forgotten: stats.forgotten,
        };
        if seen != self.counts {
            return Err(differ("stats, counters", &format!("{:?}", self.counts), &seen));
        }
        self.gauges(&stats)
    }

    /// Numbers of keys may still include expired ones that were not met, never leave out a
    /// live one.
    fn gauges(&self, stats: &Stats) -> Verdict {
        let live = self.model.live().count() as u64;
        let unfinished = self
            .model
            .live()
            .filter(|(_, s, _)| !is_a(StateKind::Completed, s))
            .count() as u64;
        let is_right = (live..=KEYS as u64).contains(&stats.keys_live)
            && stats.keys_in_flight + stats.keys_interrupted >= unfinished
            && stats.keys_in_flight + stats.keys_interrupted <= stats.keys_live
            && stats.waiters == 0
            && stats.bytes_reserved <= stats.bytes_limit;
        match is_right {
            true => Ok(()),
            false => Err(differ(
                "stats, gauges",
                &format!("{live} keys, {unfinished} unfinished"),
                stats,
            )),
        }
    }

    fn advance(&mut self, by: Duration) -> Verdict {
        self.clock.advance(by);
        self.model.advance(by);
        for key in self.model.unsettled() {
            match self.store.status(&key) {
                Ok(status) => self.model.settle(key.as_key(), &status),
                Err(error) => return Err(differ("status", "Ok", &error)),
            }
        }
        Ok(())
    }

    fn advance_to_edge(&mut self, nth: u8, off: i8) -> Verdict {
        let edges = self.model.edges();
        let Some(edge) = edges.get(usize::from(nth) % edges.len().max(1)) else {
            return Ok(());
        };
        let to = edge.saturating_add_signed(i64::from(off) * 500);
        self.advance(Duration::from_micros(to.saturating_sub(self.model.now())))
    }

    fn set_wall(&mut self, off: i32) -> Verdict {
        let wall = crate::Clock::wall(&self.clock);
        let by = Duration::from_secs(off.unsigned_abs().into());
        let to = if off < 0 {
            wall.checked_sub(by)
        } else {
            wall.checked_add(by)
        };
        self.clock.set_wall(to.unwrap_or(SystemTime::UNIX_EPOCH));
        Ok(())
    }

    /// Input outside the limits is refused by name and changes nothing.
    fn refused(&mut self, slot: u8) -> Verdict {
        let long = [b'x'; 1_025];
        let none = Fingerprint::NONE;
        let store = &self.store;
        let day = Duration::from_secs(86_400);
        let too_long = 36_526 * day;
        let claim = |key: Key<'_>| store.claim(key, none).map(drop);
        let lease = |lease| {
            store
                .claim_with(key(0), none, ClaimOptions::new().lease(lease))
                .map(drop)
        };
        expect_refusal(&claim(Key::new("", "x")), "scope")?;
        expect_refusal(&claim(Key::new("a", "")), "id")?;
        expect_refusal(&claim(Key::unscoped("")), "id")?;
        expect_refusal(&claim(Key::new("a", &long)), "id")?;
        expect_refusal(&claim(Key::new(&long[..256], "x")), "scope")?;
        expect_refusal(&store.first_seen(Key::unscoped("")).map(drop), "id")?;
        expect_refusal(&store.forget(Key::unscoped(&long)).map(drop), "id")?;
        expect_refusal(&store.status(Key::new("", "x")).map(drop), "scope")?;
        expect_refusal(&lease(Duration::ZERO), "lease")?;
        expect_refusal(&lease(too_long), "lease")?;
        expect_refusal(&store.first_seen_for(key(0), Duration::ZERO).map(drop), "ttl")?;
        expect_refusal(&store.first_seen_for(key(0), Duration::MAX).map(drop), "ttl")?;
        if let Some(held) = &self.held[place(slot)] {
            let guard = &held.guard;
            expect_refusal(&guard.renew(Duration::ZERO), "lease")?;
            expect_refusal(
                &guard.complete_with(b"x", CompleteOptions::new().ttl(too_long)),
                "ttl",
            )?;
            expect_refusal(
                &guard.complete_with(b"x", CompleteOptions::new().ttl(Duration::ZERO)),
                "ttl",
            )?;
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

fn place(slot: u8) -> usize {
    usize::from(slot) % SLOTS
}

fn differ(what: &str, expected: &str, seen: &dyn Debug) -> Disagreement {
    Disagreement {
        what: what.into(),
        expected: expected.into(),
        seen: format!("{seen:?}"),
    }
}

fn expect_refusal(got: &Result<()>, part: &str) -> Verdict {
    match got {
        Err(Error::InvalidInput { what, .. } | Error::TooLarge { what, .. }) if *what == part => Ok(()),
        other => Err(differ(
            "input outside its limits",
            &format!("a refusal of the {part}"),
            other,
        )),
    }
}

fn is_a(kind: StateKind, status: &Status) -> bool {
    match status {
        Status::Absent => false,
        Status::InFlight { .. } => kind == StateKind::InFlight,
        Status::Interrupted { .. } => kind == StateKind::Interrupted,
        Status::Completed { .. } => kind == StateKind::Completed,
    }
}

fn acquired(guard: &ClaimGuard<'_>) -> Answer {
    Answer::Acquired {
        generation: guard.generation(),
        attempt: guard.attempt(),
        checkpoint: guard.last_checkpoint().map(Bytes::from),
    }
}

fn completed(outcome: &Outcome) -> Answer {
    Answer::Completed {
        outcome: Told {
            bytes: outcome.bytes().into(),
            tag: outcome.tag(),
            age: outcome.age(),
            generation: outcome.generation(),
        },
        replayed: outcome.replayed(),
    }
}

fn told_in_place(stored: Stored<'_>) -> Told {
    Told {
        bytes: stored.bytes().into(),
        tag: stored.tag(),
        age: stored.age(),
        generation: stored.generation(),
    }
}

/// A claim's answer in the model's words.
pub fn answer_to_claim(claim: &Result<Claim<'_>>) -> Answer {
    match claim {
        Ok(Claim::Acquired(guard)) => acquired(guard),
        Ok(Claim::Completed(outcome)) => completed(outcome),
        Ok(Claim::InFlight(other)) => Answer::InFlight {
            generation: other.generation(),
            retry_after: other.retry_after(),
        },
        Ok(Claim::Interrupted(left)) => Answer::Interrupted {
            generation: left.generation(),
            attempt: left.attempt(),
            cause: left.cause(),
            checkpoint: left.last_checkpoint().map(Bytes::from),
        },
        Ok(Claim::Mismatch(mismatch)) => Answer::Mismatch {
            fingerprint: mismatch.fingerprint(),
            status: mismatch.state(),
        },
        Err(error) => answer_to_error(error),
    }
}

/// The answer of a call that returns nothing, in the model's words.
pub fn answer_to_unit(done: &Result<()>) -> Answer {
    match done {
        Ok(()) => Answer::Done,
        Err(error) => answer_to_error(error),
    }
}

/// The answer of `first_seen` and `forget`, in the model's words.
pub fn answer_to_bool(was: &Result<bool>) -> Answer {
    match was {
        Ok(was) => Answer::Was(*was),
        Err(error) => answer_to_error(error),
    }
}

/// The answer of `status`, in the model's words.
pub fn answer_to_status(status: &Result<Status>) -> Answer {
    match status {
        Ok(status) => Answer::Status(*status),
        Err(error) => answer_to_error(error),
    }
}

/// An error in the model's words.
pub fn answer_to_error(error: &Error) -> Answer {
    match error {
        Error::AtCapacity { .. } => Answer::AtCapacity,
        Error::TooLarge { what, .. } => Answer::TooLarge(what),
        Error::LeaseLost { current } => Answer::Lost(*current),
        Error::InUse { status } => Answer::InUse(*status),
        other => Answer::Unexpected(other.to_string()),
    }
}
