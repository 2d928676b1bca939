//! The contract as a small sequential program.
//!
//! [`KeyModel`] is one key: a state, and for each [`Call`] the [`Answer`] the contract wants.
//! [`Model`] is a store: many of them, a clock, and the limits on how many there may be.
//!
//! The model leaves two things to the store, checks that they are allowed, and adopts them:
//!
//! - **generations**: any number larger than all before it for the key;
//! - **the last two ticks**: a deadline may be noticed up to two milliseconds late (outcomes
//!   kept for 24 days or more: one second more), never early. A key whose deadline lies in
//!   that [`Window`] is *unsettled*: ask the store for its status and [`settle`](Model::settle)
//!   on it. Outside of windows the model is exact.
//!
//! It knows nothing of waiting, threads or bytes of memory.

use crate::{Cause, Fingerprint, Key, KeyBuf, Status};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How late a deadline may be noticed: two ticks of one millisecond.
const LATE: u64 = 2_000;
/// Outcomes kept for so many microseconds or more may have deadlines in whole seconds.
const COARSE_FROM: u64 = 24 * 24 * 3_600 * 1_000_000;
/// How much later a coarse deadline may be.
const COARSE: u64 = 1_000_000;
/// The longest checkpoint, in bytes.
const MAX_CHECKPOINT: usize = 64 * 1024;

/// A moment, in microseconds since the model began.
pub type Micros = u64;

fn micros(span: Duration) -> Micros {
    u64::try_from(span.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX)
}

/// When a deadline may be noticed: not before `from`, and from `to` on for certain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Window {
    from: Micros,
    to: Micros,
}

impl Window {
    fn at(now: Micros) -> Self {
        Window { from: now, to: now }
    }

    fn after(self, span: Duration) -> Self {
        let span = micros(span);
        Window {
            from: self.from.saturating_add(span),
            to: self.to.saturating_add(span).saturating_add(LATE),
        }
    }

    /// The deadline of an outcome.
    fn of_outcome(now: Micros, ttl: Duration) -> Self {
        let exact = Window::at(now).after(ttl);
        let extra = if is_coarse(ttl) { COARSE } else { 0 };
        Window {
            to: exact.to.saturating_add(extra),
            ..exact
        }
    }

    fn contains(self, now: Micros) -> bool {
        (self.from..self.to).contains(&now)
    }

    /// It was noticed that the deadline has passed.
    fn passed(&mut self, now: Micros) {
        self.to = self.to.min(now);
        self.from = self.from.min(now);
    }

    /// It was noticed that the deadline has not passed.
    fn not_yet(&mut self, now: Micros) {
        self.from = self.from.max(now + 1);
        self.to = self.to.max(self.from);
    }
}

fn is_coarse(ttl: Duration) -> bool {
    micros(ttl) >= COARSE_FROM
}

/// What the model has to know of a store's options.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    /// The store's ttl.
    pub ttl: Duration,
    /// The store's lease.
    pub lease: Duration,
    /// Keys that may be not absent.
    pub max_keys: u64,
    /// The same for each scope.
    pub max_keys_per_scope: Option<u64>,
    /// Claims that may be held.
    pub max_in_flight: u64,
    /// The longest outcome.
    pub max_outcome: usize,
}

/// Bytes that print short.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Bytes(Vec<u8>);

impl<B: AsRef<[u8]>> From<B> for Bytes {
    fn from(bytes: B) -> Self {
        Bytes(bytes.as_ref().to_vec())
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.get(..16) {
            Some(start) => write!(f, "\"{}..\" ({} bytes)", start.escape_ascii(), self.0.len()),
            None => write!(f, "\"{}\"", self.0.escape_ascii()),
        }
    }
}

/// One call on one key. A `generation` is that of the guard, token or question the call is
/// made with, or the one an operator saw.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Call {
    /// `Store::claim`.
    Claim {
        /// The request.
        fingerprint: Fingerprint,
        /// The lease asked for.
        lease: Duration,
    },
    /// `ClaimGuard::complete_with`.
    Complete {
        /// The guard's.
        generation: u64,
        /// What to store.
        outcome: Finding,
    },
    /// `ClaimGuard::release`.
    Release {
        /// The guard's.
        generation: u64,
    },
    /// `ClaimGuard::checkpoint`.
    Checkpoint {
        /// The guard's.
        generation: u64,
        /// The bytes left.
        note: Bytes,
    },
    /// `ClaimGuard::renew`.
    Renew {
        /// The guard's.
        generation: u64,
        /// The new lease.
        lease: Duration,
    },
    /// A guard is dropped without `complete` or `release`. Always answered [`Answer::Done`].
    Drop {
        /// The guard's.
        generation: u64,
        /// Whether it was told to release.
        release: bool,
    },
    /// `Store::attach`.
    Attach {
        /// The token's.
        generation: u64,
        /// The token's.
        fingerprint: Fingerprint,
    },
    /// `Interrupted::resume`.
    Resume {
        /// The question's.
        generation: u64,
        /// Of the claim that was asked the question.
        fingerprint: Fingerprint,
        /// Of the claim that was asked the question.
        lease: Duration,
    },
    /// `Interrupted::resolve`.
    Resolve {
        /// The question's.
        generation: u64,
        /// Of the claim that was asked the question.
        fingerprint: Fingerprint,
        /// Of the claim that was asked the question.
        lease: Duration,
        /// What to store.
        outcome: Finding,
    },
    /// `Interrupted::release`.
    GiveUp {
        /// The question's.
        generation: u64,
    },
    /// `Store::resolve` with `Resolution::Complete`.
    OperatorComplete {
        /// What the operator saw.
        generation: u64,
        /// What to store.
        outcome: Finding,
    },
    /// `Store::resolve` with `Resolution::Release`.
    OperatorRelease {
        /// What the operator saw.
        generation: u64,
    },
    /// `Store::forget`.
    Forget,
    /// `Store::first_seen` and `first_seen_for`.
    FirstSeen {
        /// A ttl other than the store's.
        ttl: Option<Duration>,
    },
    /// The first half of a `first_seen` that says `true`. To other threads it looks like a
    /// claim that is completed at once: they may meet it in flight.
    FirstSeenBegins,
    /// The second half.
    FirstSeenEnds,
    /// `Store::replay`.
    Replay {
        /// The request.
        fingerprint: Fingerprint,
    },
    /// `Store::peek`.
    Peek,
    /// `Store::status`.
    Status,
}

/// An outcome to store.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Finding {
    /// The bytes.
    pub bytes: Bytes,
    /// The tag.
    pub tag: u16,
    /// A ttl other than the store's.
    pub ttl: Option<Duration>,
}

/// What a call says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// `Claim::Acquired`.
    Acquired {
        /// The guard's generation.
        generation: u64,
        /// Takeovers so far.
        attempt: u32,
        /// The note of the holder before.
        checkpoint: Option<Bytes>,
    },
    /// `Claim::Completed`.
    Completed {
        /// The outcome.
        outcome: Told,
        /// False if this very call stored it.
        replayed: bool,
    },
    /// `Claim::InFlight`.
    InFlight {
        /// The holder's generation.
        generation: u64,
        /// What is left of its lease.
        retry_after: Duration,
    },
    /// `Claim::Interrupted`.
    Interrupted {
        /// The generation that was interrupted.
        generation: u64,
        /// Takeovers so far.
        attempt: u32,
        /// What is known of the holder.
        cause: Cause,
        /// The holder's last note.
        checkpoint: Option<Bytes>,
    },
    /// `Claim::Mismatch`.
    Mismatch {
        /// The one the key is known with.
        fingerprint: Fingerprint,
        /// The stored claim.
        status: Status,
    },
    /// The call did what it was asked to do.
    Done,
    /// `Error::LeaseLost`.
    Lost(Status),
    /// `Error::InUse`.
    InUse(Status),
    /// `Error::AtCapacity`.
    AtCapacity,
    /// `Error::TooLarge`.
    TooLarge(&'static str),
    /// `first_seen` and `forget`.
    Was(bool),
    /// A hit of `replay` or `peek`.
    Stored(Told),
    /// `Replay::Miss`, or `peek` without a result.
    Miss,
    /// `Replay::Mismatch`.
    OtherRequest,
    /// `status`.
    Status(Status),
    /// Anything else: never what the model says.
    Unexpected(String),
}

/// An outcome as the store tells it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Told {
    /// The bytes.
    pub bytes: Bytes,
    /// The tag.
    pub tag: u16,
    /// How long ago it was stored.
    pub age: Duration,
    /// The generation that stored it.
    pub generation: u64,
}

impl Answer {
    /// The generation the answer speaks of.
    pub fn generation(&self) -> Option<u64> {
        match self {
            Answer::Acquired { generation, .. }
            | Answer::InFlight { generation, .. }
            | Answer::Interrupted { generation, .. } => Some(*generation),
            Answer::Completed { outcome, .. } | Answer::Stored(outcome) => Some(outcome.generation),
            Answer::Mismatch { status, .. } => status.generation(),
            Answer::Lost(status) | Answer::InUse(status) | Answer::Status(status) => status.generation(),
            _ => None,
        }
    }

    /// Equal, but for ages and times left, which may differ by `slack`.
    fn agrees(&self, other: &Answer, slack: Duration) -> bool {
        fn aged(told: &Told, by: &Told, slack: Duration) -> Told {
            Told {
                age: near(told.age, by.age, slack),
                ..told.clone()
            }
        }
        let told = match (self, other) {
            (Answer::Completed { outcome, replayed }, Answer::Completed { outcome: by, .. }) => {
                Answer::Completed {
                    outcome: aged(outcome, by, slack),
                    replayed: *replayed,
                }
            }
            (Answer::Stored(outcome), Answer::Stored(by)) => Answer::Stored(aged(outcome, by, slack)),
            (
                Answer::InFlight {
                    generation,
                    retry_after,
                },
                Answer::InFlight { retry_after: by, .. },
            ) => Answer::InFlight {
                generation: *generation,
                retry_after: near(*retry_after, *by, slack),
            },
            (Answer::Mismatch { fingerprint, status }, Answer::Mismatch { status: by, .. }) => {
                Answer::Mismatch {
                    fingerprint: *fingerprint,
                    status: near_status(*status, *by, slack),
                }
            }
            (Answer::Lost(status), Answer::Lost(by)) => Answer::Lost(near_status(*status, *by, slack)),
            (Answer::InUse(status), Answer::InUse(by)) => Answer::InUse(near_status(*status, *by, slack)),
            (Answer::Status(status), Answer::Status(by)) => Answer::Status(near_status(*status, *by, slack)),
            _ => self.clone(),
        };
        told == *other
    }
}

/// `by` if it is near enough, otherwise `span` unchanged.
fn near(span: Duration, by: Duration, slack: Duration) -> Duration {
    if span.abs_diff(by) <= slack { by } else { span }
}

fn near_status(status: Status, to: Status, slack: Duration) -> Status {
    let mut status = status;
    match (&mut status, to) {
        (
            Status::InFlight { age, lease_left, .. },
            Status::InFlight {
                age: by,
                lease_left: left,
                ..
            },
        ) => (*age, *lease_left) = (near(*age, by, slack), near(*lease_left, left, slack)),
        (Status::Interrupted { age, .. }, Status::Interrupted { age: by, .. }) => {
            *age = near(*age, by, slack)
        }
        (
            Status::Completed { age, ttl_left, .. },
            Status::Completed {
                age: by,
                ttl_left: left,
                ..
            },
        ) => (*age, *ttl_left) = (near(*age, by, slack), near(*ttl_left, left, slack)),
        _ => {}
    }
    status
}

/// Where store and model differ.
#[derive(Clone, Debug)]
pub struct Disagreement {
    /// The call.
    pub what: String,
    /// What the contract wants.
    pub expected: String,
    /// What the store did.
    pub seen: String,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}\n  contract: {}\n  store:    {}",
            self.what, self.expected, self.seen
        )
    }
}

impl std::error::Error for Disagreement {}

/// Whether a new key may come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Room {
    /// The limits are not reached.
    Free,
    /// The limits are reached.
    Full,
    /// A key that expired within the last two ticks decides it: either answer is right.
    Either,
}

/// A generation the store took. Some calls take one without telling it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Generation {
    /// The generation, or the smallest it can be.
    least: u64,
    known: bool,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Unfinished {
    generation: Generation,
    fingerprint: Fingerprint,
    attempt: u32,
    began: Micros,
    /// When the lease ends.
    lease: Window,
    /// The holder let go, or its process ended: interrupted whatever the lease says.
    gone: Option<Cause>,
    checkpoint: Option<Bytes>,
    /// Between the halves of a `first_seen`.
    passing: bool,
    /// When it is forgotten: the store's ttl after the end of the lease.
    kept: Window,
}

impl Unfinished {
    fn is_interrupted(&self, now: Micros) -> bool {
        self.gone.is_some() || now >= self.lease.to
    }

    fn cause(&self) -> Cause {
        self.gone.unwrap_or(Cause::Lapsed)
    }

    fn hold(&mut self, at: &Moment<'_>, lease: Duration) {
        self.gone = None;
        self.lease = Window::at(at.now).after(lease);
        self.kept = self.lease.after(at.rules.ttl);
        // A log may record it in whole seconds.
        if is_coarse(lease.saturating_add(at.rules.ttl)) {
            self.kept.to = self.kept.to.saturating_add(COARSE);
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Finished {
    generation: Generation,
    fingerprint: Fingerprint,
    bytes: Bytes,
    tag: u16,
    since: Micros,
    coarse: bool,
    kept: Window,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum State {
    Absent,
    Unfinished(Unfinished),
    Completed(Finished),
}

/// Circumstances of one call.
#[derive(Clone, Copy, Debug)]
pub struct Moment<'a> {
    /// The store's options.
    pub rules: &'a Rules,
    /// The time of the call.
    pub now: Micros,
    /// Whether a new key may come in.
    pub room: Room,
    /// What the store answered: the model takes over the choices it leaves to the store.
    pub seen: &'a Answer,
}

/// One key.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KeyModel {
    state: State,
    /// No later generation may be as small as this.
    last: u64,
    /// Until when what expired may still take up room.
    lingers: Micros,
}

impl Default for KeyModel {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyModel {
    /// A key that was never seen.
    pub fn new() -> Self {
        KeyModel {
            state: State::Absent,
            last: 0,
            lingers: 0,
        }
    }

    /// Applies a call. `Ok` if the store's answer is one the contract allows, and then the
    /// state is what the call made of it; otherwise what the contract wants.
    pub fn check(&mut self, at: &Moment<'_>, call: &Call) -> Result<(), Answer> {
        let slack = self.slack();
        let wanted = self.apply(at, call);
        if wanted.agrees(at.seen, slack) {
            Ok(())
        } else {
            Err(wanted)
        }
    }

    /// How far ages and times left may differ: two ticks and the fraction of one.
    fn slack(&self) -> Duration {
        match &self.state {
            State::Completed(done) if done.coarse => Duration::from_millis(1_003),
            _ => Duration::from_millis(3),
        }
    }

    fn apply(&mut self, at: &Moment<'_>, call: &Call) -> Answer {
        self.pass(at.now);
        self.adopt(at.seen);
        match refused_at_the_door(at.rules, call) {
            // Of two good reasons to refuse, the store may name either.
            Some(_) if matches!(at.seen, Answer::Lost(_)) => match self.clone().answer(at, call) {
                Answer::Lost(status) => Answer::Lost(status),
                _ => Answer::Unexpected("the call is refused at the door".into()),
            },
            Some(refusal) => refusal,
            None => self.answer(at, call),
        }
    }

    fn answer(&mut self, at: &Moment<'_>, call: &Call) -> Answer {
        match call {
            Call::Claim { fingerprint, lease } => self.claim(at, *fingerprint, *lease),
            Call::Complete { generation, outcome } => self.complete(at, *generation, outcome),
            Call::Release { generation } | Call::OperatorRelease { generation } => {
                self.release(at, *generation)
            }
            Call::Checkpoint { generation, note } => self.checkpoint(at, *generation, note),
            Call::Renew { generation, lease } => self.renew(at, *generation, *lease),
            Call::Drop { generation, release } => self.drop_guard(*generation, *release),
            Call::Attach {
                generation,
                fingerprint,
            } => self.attach(at, *generation, *fingerprint),
            Call::Resume {
                generation,
                fingerprint,
                lease,
            } => match self.interrupted_at(at.now, *generation) {
                Some(_) => self.take_over(at, *lease, 1),
                None => self.claim(at, *fingerprint, *lease),
            },
            Call::Resolve {
                generation,
                fingerprint,
                lease,
                outcome,
            } => match self.interrupted_at(at.now, *generation) {
                Some(_) => self.resolve(at, outcome),
                None => self.claim(at, *fingerprint, *lease),
            },
            Call::GiveUp { generation } => match self.interrupted_at(at.now, *generation) {
                Some(_) => self.vanish(),
                None => self.lost(at.now),
            },
            Call::OperatorComplete { generation, outcome } => match self.unfinished_at(*generation) {
                Some(_) => {
                    let _told = self.resolve(at, outcome);
                    Answer::Done
                }
                None => self.lost(at.now),
            },
            Call::Forget => {
                let was = self.state != State::Absent;
                self.state = State::Absent;
                Answer::Was(was)
            }
            Call::FirstSeen { ttl } => self.first_seen(at, *ttl),
            Call::FirstSeenBegins => self.first_seen_begins(at),
            Call::FirstSeenEnds => self.first_seen_ends(at),
            Call::Replay { fingerprint } => match &self.state {
                State::Completed(done) if done.fingerprint != *fingerprint => Answer::OtherRequest,
                _ => self.peek(at.now),
            },
            Call::Peek => self.peek(at.now),
            Call::Status => Answer::Status(self.status(at.now)),
        }
    }

    /// What has expired for certain is gone.
    fn pass(&mut self, now: Micros) {
        if self.kept().is_some_and(|kept| now >= kept.to) {
            self.state = State::Absent;
        }
    }

    /// When the key is forgotten.
    fn kept(&self) -> Option<Window> {
        match &self.state {
            State::Absent => None,
            State::Unfinished(held) => Some(held.kept),
            State::Completed(done) => Some(done.kept),
        }
    }

    fn generation_mut(&mut self) -> Option<&mut Generation> {
        match &mut self.state {
            State::Absent => None,
            State::Unfinished(held) => Some(&mut held.generation),
            State::Completed(done) => Some(&mut done.generation),
        }
    }

    /// Learns a generation that the store took without telling it.
    fn adopt(&mut self, seen: &Answer) {
        let Some(told) = seen.generation() else { return };
        if let Some(own) = self.generation_mut()
            && !own.known
            && told >= own.least
        {
            *own = Generation {
                least: told,
                known: true,
            };
            self.last = told;
        }
    }

    /// A new generation: the one the store chose, if it is larger than all before.
    fn take_told(&mut self, seen: &Answer) -> Generation {
        self.last = seen.generation().unwrap_or(0).max(self.last + 1);
        Generation {
            least: self.last,
            known: true,
        }
    }

    /// A new generation the store will tell later.
    fn take_silently(&mut self) -> Generation {
        self.last += 1;
        Generation {
            least: self.last,
            known: false,
        }
    }

    fn unfinished_at(&mut self, generation: u64) -> Option<&mut Unfinished> {
        match &mut self.state {
            State::Unfinished(held) if held.generation.known && held.generation.least == generation => {
                Some(held)
            }
            _ => None,
        }
    }

    fn interrupted_at(&mut self, now: Micros, generation: u64) -> Option<&mut Unfinished> {
        self.unfinished_at(generation)
            .filter(|held| held.is_interrupted(now))
    }

    fn lost(&self, now: Micros) -> Answer {
        Answer::Lost(self.status(now))
    }

    fn vanish(&mut self) -> Answer {
        self.state = State::Absent;
        Answer::Done
    }

    /// What [`Store::status`](crate::Store::status) says.
    pub fn status(&self, now: Micros) -> Status {
        let since = |then| Duration::from_micros(now.saturating_sub(then));
        let until = |window: Window| Duration::from_micros(window.from.saturating_sub(now));
        match &self.state {
            State::Absent => Status::Absent,
            State::Unfinished(held) if held.is_interrupted(now) => Status::Interrupted {
                generation: held.generation.least,
                attempt: held.attempt,
                age: since(held.began),
                cause: held.cause(),
            },
            State::Unfinished(held) => Status::InFlight {
                generation: held.generation.least,
                attempt: held.attempt,
                age: since(held.began),
                lease_left: until(held.lease),
            },
            State::Completed(done) => Status::Completed {
                generation: done.generation.least,
                tag: done.tag,
                age: since(done.since),
                ttl_left: until(done.kept),
                len: done.bytes.len(),
            },
        }
    }

    fn told(&self, now: Micros) -> Option<Told> {
        match &self.state {
            State::Completed(done) => Some(Told {
                bytes: done.bytes.clone(),
                tag: done.tag,
                age: Duration::from_micros(now - done.since),
                generation: done.generation.least,
            }),
            _ => None,
        }
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        match &self.state {
            State::Absent => None,
            State::Unfinished(held) => Some(held.fingerprint),
            State::Completed(done) => Some(done.fingerprint),
        }
    }

    fn claim(&mut self, at: &Moment<'_>, fingerprint: Fingerprint, lease: Duration) -> Answer {
        if let Some(stored) = self.fingerprint()
            && stored != fingerprint
        {
            return Answer::Mismatch {
                fingerprint: stored,
                status: self.status(at.now),
            };
        }
        match &self.state {
            State::Absent if at.refuses() => Answer::AtCapacity,
            State::Absent => self.acquire(at, fingerprint, lease),
            State::Completed(_) => self.replayed(at.now),
            State::Unfinished(held) if held.is_interrupted(at.now) => Answer::Interrupted {
                generation: held.generation.least,
                attempt: held.attempt,
                cause: held.cause(),
                checkpoint: held.checkpoint.clone(),
            },
            State::Unfinished(held) => Answer::InFlight {
                generation: held.generation.least,
                retry_after: Duration::from_micros(held.lease.from.saturating_sub(at.now)),
            },
        }
    }

    fn acquire(&mut self, at: &Moment<'_>, fingerprint: Fingerprint, lease: Duration) -> Answer {
        let generation = self.take_told(at.seen);
        self.open(at, generation, fingerprint, lease);
        Answer::Acquired {
            generation: generation.least,
            attempt: 0,
            checkpoint: None,
        }
    }

    /// The key is in flight for the first time.
    fn open(
        &mut self,
        at: &Moment<'_>,
        generation: Generation,
        fingerprint: Fingerprint,
        lease: Duration,
    ) -> &mut Unfinished {
        let mut held = Unfinished {
            generation,
            fingerprint,
            attempt: 0,
            began: at.now,
            lease: Window::at(at.now),
            gone: None,
            checkpoint: None,
            passing: false,
            kept: Window::at(at.now),
        };
        held.hold(at, lease);
        self.state = State::Unfinished(held);
        match &mut self.state {
            State::Unfinished(held) => held,
            _ => unreachable!("it was put there a line ago"),
        }
    }

    /// A new holder under a new generation; the state must be unfinished.
    fn take_over(&mut self, at: &Moment<'_>, lease: Duration, attempts: u32) -> Answer {
        let generation = self.take_told(at.seen);
        let State::Unfinished(held) = &mut self.state else {
            return Answer::Unexpected("there is nothing to take over".into());
        };
        held.generation = generation;
        held.passing = false;
        held.attempt += attempts;
        held.began = at.now;
        held.hold(at, lease);
        Answer::Acquired {
            generation: generation.least,
            attempt: held.attempt,
            checkpoint: held.checkpoint.clone(),
        }
    }

    fn complete(&mut self, at: &Moment<'_>, generation: u64, outcome: &Finding) -> Answer {
        if let Some(held) = self.unfinished_at(generation) {
            let (generation, fingerprint) = (held.generation, held.fingerprint);
            self.finish(at, generation, fingerprint, outcome);
            return Answer::Done;
        }
        match &self.state {
            State::Completed(done)
                if done.generation.known
                    && done.generation.least == generation
                    && done.bytes == outcome.bytes
                    && done.tag == outcome.tag =>
            {
                Answer::Done
            }
            _ => self.lost(at.now),
        }
    }

    fn finish(
        &mut self,
        at: &Moment<'_>,
        generation: Generation,
        fingerprint: Fingerprint,
        outcome: &Finding,
    ) {
        let ttl = outcome.ttl.unwrap_or(at.rules.ttl);
        self.state = State::Completed(Finished {
            generation,
            fingerprint,
            bytes: outcome.bytes.clone(),
            tag: outcome.tag,
            since: at.now,
            coarse: is_coarse(ttl),
            kept: Window::of_outcome(at.now, ttl),
        });
    }

    /// Finishes under a new generation in the holder's place; the state must be unfinished.
    fn resolve(&mut self, at: &Moment<'_>, outcome: &Finding) -> Answer {
        let generation = match at.seen.generation() {
            Some(_) => self.take_told(at.seen),
            None => self.take_silently(),
        };
        let fingerprint = self.fingerprint().unwrap_or(Fingerprint::NONE);
        self.finish(at, generation, fingerprint, outcome);
        Answer::Completed {
            outcome: Told {
                bytes: outcome.bytes.clone(),
                tag: outcome.tag,
                age: Duration::ZERO,
                generation: generation.least,
            },
            replayed: false,
        }
    }

    fn release(&mut self, at: &Moment<'_>, generation: u64) -> Answer {
        match self.unfinished_at(generation) {
            Some(_) => self.vanish(),
            None => self.lost(at.now),
        }
    }

    fn checkpoint(&mut self, at: &Moment<'_>, generation: u64, note: &Bytes) -> Answer {
        match self.unfinished_at(generation) {
            Some(held) => {
                held.checkpoint = Some(note.clone());
                Answer::Done
            }
            None => self.lost(at.now),
        }
    }

    fn renew(&mut self, at: &Moment<'_>, generation: u64, lease: Duration) -> Answer {
        match self.unfinished_at(generation) {
            Some(held) => {
                held.hold(at, lease);
                Answer::Done
            }
            None => self.lost(at.now),
        }
    }

    /// A guard dropped after its lease ended does what it was told to; the key is interrupted
    /// already, only the cause is better known.
    fn drop_guard(&mut self, generation: u64, release: bool) -> Answer {
        match self.unfinished_at(generation) {
            Some(_) if release => self.state = State::Absent,
            Some(held) => held.gone = Some(Cause::Dropped),
            None => {}
        }
        Answer::Done
    }

    fn attach(&mut self, at: &Moment<'_>, generation: u64, fingerprint: Fingerprint) -> Answer {
        if self.unfinished_at(generation).is_some() {
            return self.take_over(at, at.rules.lease, 0);
        }
        match &self.state {
            State::Completed(done) if done.fingerprint == fingerprint => self.replayed(at.now),
            _ => self.lost(at.now),
        }
    }

    fn replayed(&self, now: Micros) -> Answer {
        self.told(now).map_or(Answer::Miss, |outcome| Answer::Completed {
            outcome,
            replayed: true,
        })
    }

    fn peek(&self, now: Micros) -> Answer {
        self.told(now).map_or(Answer::Miss, Answer::Stored)
    }

    fn first_seen(&mut self, at: &Moment<'_>, ttl: Option<Duration>) -> Answer {
        match &self.state {
            State::Completed(_) => Answer::Was(false),
            State::Unfinished(_) => Answer::InUse(self.status(at.now)),
            State::Absent if at.refuses() => Answer::AtCapacity,
            State::Absent => {
                let generation = self.take_silently();
                let nothing = Finding {
                    bytes: Bytes::from([]),
                    tag: 0,
                    ttl,
                };
                self.finish(at, generation, Fingerprint::NONE, &nothing);
                Answer::Was(true)
            }
        }
    }

    fn first_seen_begins(&mut self, at: &Moment<'_>) -> Answer {
        if self.state != State::Absent {
            return Answer::Was(false);
        }
        let generation = self.take_silently();
        self.open(at, generation, Fingerprint::NONE, at.rules.lease)
            .passing = true;
        Answer::Was(true)
    }

    /// Whoever made the key absent or took it over in between has the last word.
    fn first_seen_ends(&mut self, at: &Moment<'_>) -> Answer {
        if let State::Unfinished(held) = &self.state
            && held.passing
        {
            let generation = held.generation;
            let nothing = Finding {
                bytes: Bytes::from([]),
                tag: 0,
                ttl: None,
            };
            self.finish(at, generation, Fingerprint::NONE, &nothing);
        }
        Answer::Was(true)
    }

    /// Whether a deadline lies in its window, so that only the store knows the state.
    pub fn is_unsettled(&self, now: Micros) -> bool {
        let lease = match &self.state {
            State::Unfinished(held) => held.gone.is_none() && held.lease.contains(now),
            _ => false,
        };
        lease || self.kept().is_some_and(|kept| kept.contains(now))
    }

    /// Takes the store's word on the deadlines that lie in their windows.
    pub fn settle(&mut self, now: Micros, status: &Status) {
        let lingers = self.kept().map_or(0, |kept| kept.to);
        match (&mut self.state, status) {
            (State::Absent, _) => {}
            (State::Unfinished(held), Status::Absent) if held.kept.contains(now) => {
                (self.state, self.lingers) = (State::Absent, lingers);
            }
            (State::Completed(done), Status::Absent) if done.kept.contains(now) => {
                (self.state, self.lingers) = (State::Absent, lingers);
            }
            (State::Completed(done), _) if done.kept.contains(now) => done.kept.not_yet(now),
            (State::Unfinished(held), seen) => {
                if held.kept.contains(now) {
                    held.kept.not_yet(now);
                }
                if held.gone.is_none() && held.lease.contains(now) {
                    match seen {
                        Status::InFlight { .. } => held.lease.not_yet(now),
                        _ => held.lease.passed(now),
                    }
                }
            }
            _ => {}
        }
    }

    /// Whether the key takes up room for certain, and whether it may.
    fn takes_room(&self, now: Micros) -> (bool, bool) {
        let live = self.state != State::Absent && self.kept().is_none_or(|kept| now < kept.to);
        (
            live,
            live || now < self.lingers.max(self.kept().map_or(0, |kept| kept.to)),
        )
    }

    /// Whether the key is held for certain, and whether it may count as held.
    fn is_held(&self, now: Micros) -> (bool, bool) {
        match &self.state {
            State::Unfinished(held) => {
                let surely = !held.is_interrupted(now);
                (
                    surely,
                    surely || (held.gone.is_none() && now < held.lease.to.saturating_add(LATE)),
                )
            }
            _ => (false, false),
        }
    }

    /// Moments at which something ends, the earliest allowed.
    fn edges(&self) -> impl Iterator<Item = Micros> + use<> {
        let lease = match &self.state {
            State::Unfinished(held) if held.gone.is_none() => Some(held.lease.from),
            _ => None,
        };
        lease.into_iter().chain(self.kept().map(|kept| kept.from))
    }
}

impl Moment<'_> {
    fn refuses(&self) -> bool {
        match self.room {
            Room::Free => false,
            Room::Full => true,
            Room::Either => *self.seen == Answer::AtCapacity,
        }
    }
}

/// Sizes are checked before anything else.
fn refused_at_the_door(rules: &Rules, call: &Call) -> Option<Answer> {
    match call {
        Call::Complete { outcome, .. }
        | Call::Resolve { outcome, .. }
        | Call::OperatorComplete { outcome, .. }
            if outcome.bytes.len() > rules.max_outcome =>
        {
            Some(Answer::TooLarge("outcome"))
        }
        Call::Checkpoint { note, .. } if note.len() > MAX_CHECKPOINT => Some(Answer::TooLarge("checkpoint")),
        _ => None,
    }
}

/// A store: keys, a clock, and limits.
#[derive(Clone, Debug)]
pub struct Model {
    rules: Rules,
    now: Micros,
    /// By scope (empty: unscoped) and id.
    keys: BTreeMap<(Vec<u8>, Vec<u8>), KeyModel>,
}

impl Model {
    /// An empty store.
    pub fn new(rules: Rules) -> Self {
        Model {
            rules,
            now: 0,
            keys: BTreeMap::new(),
        }
    }

    /// The options.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The time.
    pub fn now(&self) -> Micros {
        self.now
    }

    /// Lets time pass. Then [`settle`](Self::settle) what is [`unsettled`](Self::unsettled).
    pub fn advance(&mut self, by: Duration) {
        self.now = self.now.saturating_add(micros(by));
        for key in self.keys.values_mut() {
            key.pass(self.now);
        }
    }

    /// The store ended, in whatever way, and was opened again: who held a claim is gone.
    pub fn restart(&mut self) {
        for key in self.keys.values_mut() {
            if let State::Unfinished(held) = &mut key.state {
                held.gone = Some(Cause::Crashed);
                held.passing = false;
            }
        }
    }

    /// Compares the store's answer with the contract, and goes along with the call.
    pub fn check(&mut self, key: Key<'_>, call: &Call, seen: &Answer) -> Result<(), Disagreement> {
        let room = self.room(key, call);
        let now = self.now;
        let own = self
            .keys
            .entry((key.scope().to_vec(), key.id().to_vec()))
            .or_default();
        let at = Moment {
            rules: &self.rules,
            now,
            room,
            seen,
        };
        own.check(&at, call).map_err(|wanted| Disagreement {
            what: format!(
                "{call:?} on {:?} at {now} us",
                (Bytes::from(key.scope()), Bytes::from(key.id()))
            ),
            expected: format!("{wanted:?}"),
            seen: format!("{seen:?}"),
        })
    }

    /// Whether the limits let a new key in.
    fn room(&self, key: Key<'_>, call: &Call) -> Room {
        let per_scope = self.rules.max_keys_per_scope.unwrap_or(u64::MAX);
        let mut rooms = vec![
            self.room_for(self.rules.max_keys, |_, k| k.takes_room(self.now)),
            self.room_for(per_scope, |scope, k| {
                if scope == key.scope() {
                    k.takes_room(self.now)
                } else {
                    (false, false)
                }
            }),
        ];
        if !matches!(call, Call::FirstSeen { .. }) {
            rooms.push(self.room_for(self.rules.max_in_flight, |_, k| k.is_held(self.now)));
        }
        let any = |room| rooms.contains(&room);
        match (any(Room::Full), any(Room::Either)) {
            (true, _) => Room::Full,
            (false, true) => Room::Either,
            (false, false) => Room::Free,
        }
    }

    fn room_for(&self, limit: u64, takes: impl Fn(&[u8], &KeyModel) -> (bool, bool)) -> Room {
        let (mut surely, mut perhaps) = (0, 0);
        for ((scope, _), key) in &self.keys {
            let (now, maybe) = takes(scope, key);
            surely += u64::from(now);
            perhaps += u64::from(maybe);
        }
        match (surely >= limit, perhaps >= limit) {
            (true, _) => Room::Full,
            (false, true) => Room::Either,
            (false, false) => Room::Free,
        }
    }

    /// Keys whose state only the store knows.
    pub fn unsettled(&self) -> Vec<KeyBuf> {
        let unsettled = |(_, key): &(_, &KeyModel)| key.is_unsettled(self.now);
        self.keys
            .iter()
            .filter(unsettled)
            .map(|(name, _)| name_of(name).to_owned())
            .collect()
    }

    /// Takes the store's word on a key whose deadline lies in its window.
    pub fn settle(&mut self, key: Key<'_>, status: &Status) {
        let name = (key.scope().to_vec(), key.id().to_vec());
        if let Some(own) = self.keys.get_mut(&name) {
            own.settle(self.now, status);
        }
    }

    /// What a key is.
    pub fn status(&self, key: Key<'_>) -> Status {
        let name = (key.scope().to_vec(), key.id().to_vec());
        self.keys
            .get(&name)
            .map_or(Status::Absent, |own| own.status(self.now))
    }

    /// The fingerprint a key is known with.
    pub fn fingerprint(&self, key: Key<'_>) -> Option<Fingerprint> {
        let name = (key.scope().to_vec(), key.id().to_vec());
        self.keys.get(&name).and_then(KeyModel::fingerprint)
    }

    /// The keys that are not absent, with how far their ages may differ.
    pub fn live(&self) -> impl Iterator<Item = (Key<'_>, Status, Duration)> {
        self.keys
            .iter()
            .filter(|(_, key)| key.state != State::Absent)
            .map(|(name, key)| (name_of(name), key.status(self.now), key.slack()))
    }

    /// Moments to come at which a lease or a retention may end, the next first.
    pub fn edges(&self) -> Vec<Micros> {
        let mut edges: Vec<_> = self.keys.values().flat_map(KeyModel::edges).collect();
        edges.retain(|edge| *edge > self.now);
        edges.sort_unstable();
        edges
    }
}

fn name_of(name: &(Vec<u8>, Vec<u8>)) -> Key<'_> {
    match name.0.is_empty() {
        true => Key::unscoped(&name.1),
        false => Key::new(&name.0, &name.1),
    }
}
