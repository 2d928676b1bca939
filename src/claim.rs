//! What a claim comes to, and the guards that go with it.
//!
//! Each of them borrows the store, so that claiming touches no shared reference count;
//! `into_owned` makes any of them `'static`, to carry it into another thread or task.

use crate::answer::{Mismatch, Outcome};
use crate::clock::{Deadline, Span};
use crate::engine::{Engine, Grip, NewOutcome, WaitTurn};
use crate::error::{Error, Result};
use crate::key::{Key, KeyBuf, KeyHash};
use crate::options::CompleteOptions;
use crate::shard::change::{Held, Wish};
use crate::shard::state::Command;
use crate::shard::wait::Waiter;
use crate::shard::{Flight, Keyed, Lost, Question, Ticket, Verdict};
use crate::status::Cause;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::token::ClaimToken;
use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// A borrowed or owned engine.
pub(crate) enum EngineRef<'s> {
    Borrowed(&'s Arc<Engine>),
    Owned(Arc<Engine>),
}

impl Deref for EngineRef<'_> {
    type Target = Arc<Engine>;
    fn deref(&self) -> &Arc<Engine> {
        match self {
            EngineRef::Borrowed(engine) => engine,
            EngineRef::Owned(engine) => engine,
        }
    }
}

impl EngineRef<'_> {
    fn owned(&self) -> EngineRef<'static> {
        EngineRef::Owned(Arc::clone(self))
    }
}

/// What every answer about a key carries along: who asked for what.
struct Subject<'s> {
    engine: EngineRef<'s>,
    key: KeyBuf,
    hash: KeyHash,
    wish: Wish,
}

impl<'s> Subject<'s> {
    fn k(&self) -> Keyed<'_> {
        Keyed {
            key: self.key.as_checked(),
            hash: self.hash,
        }
    }

    fn owned(&self) -> Subject<'static> {
        Subject {
            engine: self.engine.owned(),
            key: self.key.clone(),
            hash: self.hash,
            wish: self.wish,
        }
    }

    fn grip(&self, held: Held) -> Grip<'_> {
        Grip {
            k: self.k(),
            fingerprint: self.wish.fingerprint,
            held,
        }
    }

    /// Claims again, as if for the first time.
    fn claim_again(self) -> Result<Claim<'s>> {
        let verdict = self.engine.claim(self.k(), self.wish)?;
        Ok(Claim::wrap(self, verdict))
    }
}

/// What the store answers to a claim.
///
/// # Examples
///
/// ```
/// use onceonly::{Claim, Fingerprint, Key, Store};
///
/// let store = Store::in_memory()?;
/// let key = Key::new("acme", "order-1");
/// let body = Fingerprint::from_bytes([1; 16]);
/// match store.claim(key, body)? {
///     Claim::Acquired(guard) => guard.complete(b"charged")?, // the work is ours
///     Claim::Completed(outcome) => println!("done before: {outcome:?}"),
///     Claim::InFlight(other) => println!("somebody works on it, ask again in {:?}", other.retry_after()),
///     Claim::Interrupted(left) => println!("nobody knows whether it happened: {:?}", left.cause()),
///     Claim::Mismatch(first) => println!("the key was used for another request: {first}"),
/// }
/// assert!(matches!(store.claim(key, body)?, Claim::Completed(outcome) if &*outcome == b"charged"));
/// # Ok::<(), onceonly::Error>(())
/// ```
#[must_use = "a claim that is dropped leaves its key interrupted"]
#[derive(Debug)]
pub enum Claim<'s> {
    /// The key was absent: the caller does the work.
    Acquired(ClaimGuard<'s>),
    /// The work was done: this is its outcome.
    Completed(Outcome),
    /// Somebody else holds the claim.
    InFlight(InFlight<'s>),
    /// The holder is gone, and nobody knows whether the effect happened. The caller chooses.
    Interrupted(Interrupted<'s>),
    /// The key is known with another fingerprint.
    Mismatch(Mismatch),
}

impl<'s> Claim<'s> {
    pub(crate) fn new(engine: EngineRef<'s>, k: Keyed<'_>, wish: Wish, verdict: Verdict) -> Self {
        // The answers that carry nothing along are the most frequent: no key is copied for them.
        match verdict {
            Verdict::Completed(outcome) => Claim::Completed(outcome),
            Verdict::Mismatch(mismatch) => Claim::Mismatch(mismatch),
            verdict => {
                let subject = Subject {
                    engine,
                    key: k.key.to_buf(),
                    hash: k.hash,
                    wish,
                };
                Self::wrap(subject, verdict)
            }
        }
    }

    fn wrap(subject: Subject<'s>, verdict: Verdict) -> Self {
        match verdict {
            Verdict::Acquired(ticket) => Claim::Acquired(ClaimGuard::new(subject, ticket)),
            Verdict::Completed(outcome) => Claim::Completed(outcome),
            Verdict::InFlight(flight) => Claim::InFlight(InFlight { subject, flight }),
            Verdict::Interrupted(question) => Claim::Interrupted(Interrupted {
                subject,
                question,
                decided: false,
            }),
            Verdict::Mismatch(mismatch) => Claim::Mismatch(mismatch),
            Verdict::InUse(_) => unreachable!("only `first_seen` is told so, and it makes no Claim"),
        }
    }

    /// The same, borrowing nothing. Costs a reference count, and for long keys an allocation.
    pub fn into_owned(self) -> Claim<'static> {
        match self {
            Claim::Acquired(guard) => Claim::Acquired(guard.into_owned()),
            Claim::Completed(outcome) => Claim::Completed(outcome),
            Claim::InFlight(other) => Claim::InFlight(other.into_owned()),
            Claim::Interrupted(left) => Claim::Interrupted(left.into_owned()),
            Claim::Mismatch(mismatch) => Claim::Mismatch(mismatch),
        }
    }
}

/// What dropping a guard without a word means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnDrop {
    /// The effect may have happened: the key becomes interrupted. The default.
    #[default]
    Interrupt,
    /// The effect has not begun: the key becomes absent, and the next caller may have it.
    Release,
}

/// The right, and the duty, to do the work for a key.
///
/// All methods take `&self`: an error keeps the claim, and a heartbeat thread may share the
/// guard. Dropping it without [`complete`](Self::complete) or [`release`](Self::release)
/// leaves the key interrupted (see [`on_drop`](Self::on_drop)).
///
/// The lease does not end the claim by itself. A holder whose lease has lapsed may still
/// complete until somebody took over; from then on its calls say
/// [`Error::LeaseLost`] and change nothing. To fence the effect itself, pass
/// [`generation`](Self::generation) along with it.
///
/// # Async
///
/// A borrowed guard cannot leave `spawn_blocking` or enter `spawn`; make it owned inside:
///
/// ```
/// # use onceonly::{Claim, ClaimGuard, Fingerprint, Key, Store};
/// # let store = Store::in_memory()?;
/// let handle = store.clone();
/// let worker = std::thread::spawn(move || {
///     handle.claim(Key::unscoped("job"), Fingerprint::NONE).map(Claim::into_owned)
/// });
/// if let Claim::Acquired(guard) = worker.join().expect("the worker ends")? {
///     guard.complete(b"done elsewhere")?;
/// }
/// # Ok::<(), onceonly::Error>(())
/// ```
#[must_use = "a guard that is dropped leaves its key interrupted"]
pub struct ClaimGuard<'s> {
    subject: Subject<'s>,
    held: Held,
    attempt: u32,
    checkpoint: Option<Arc<[u8]>>,
    release_on_drop: AtomicBool,
    /// Completed, released or handed on: dropping has nothing to say.
    ended: AtomicBool,
}

impl<'s> ClaimGuard<'s> {
    fn new(subject: Subject<'s>, ticket: Ticket) -> Self {
        ClaimGuard {
            subject,
            held: Held {
                lease: ticket.lease,
                generation: ticket.generation,
            },
            attempt: ticket.attempt,
            checkpoint: ticket.checkpoint,
            release_on_drop: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// Stores the outcome, for the store's ttl. Every claim with this key and fingerprint gets
    /// exactly these bytes from now on, and all who wait get them at once.
    ///
    /// Completing twice with equal bytes is fine. Takes some 100 ns in memory and copies the
    /// bytes once.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`] and [`Error::AtCapacity`] wrote nothing and leave the claim held:
    /// complete with something smaller. There is always room for an empty outcome.
    /// [`Error::LeaseLost`]: somebody took over, resolved or forgot the key.
    pub fn complete(&self, outcome: &[u8]) -> Result<()> {
        self.complete_with(outcome, CompleteOptions::new())
    }

    /// [`complete`](Self::complete) with a ttl and a tag.
    ///
    /// # Errors
    ///
    /// As `complete`; [`Error::InvalidInput`] if the ttl is zero or over a hundred years.
    pub fn complete_with(&self, outcome: &[u8], options: CompleteOptions) -> Result<()> {
        let (ttl, tag) = options.checked()?;
        let engine = &self.subject.engine;
        let grip = self.subject.grip(self.held);
        let outcome = NewOutcome {
            bytes: outcome,
            ttl,
            tag,
        };
        if self.ended.load(Ordering::Acquire) {
            return engine.complete_again(grip, outcome);
        }
        engine.complete(grip, outcome)?;
        self.ended.store(true, Ordering::Release);
        Ok(())
    }

    /// Stores the outcome without waiting for it to be durable. In memory it is done when this
    /// returns.
    ///
    /// # Errors
    ///
    /// Those of [`complete_with`](Self::complete_with), from the [`Pending`].
    pub fn submit(&self, outcome: &[u8], options: CompleteOptions) -> Pending<()> {
        Pending::ready(self.complete_with(outcome, options))
    }

    /// Gives the claim back: the effect did not happen. The key is absent, and one of those who
    /// wait, or the next to come, acquires it.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`] if the claim is no longer held.
    pub fn release(&self) -> Result<()> {
        let command = Command::Release(self.held.generation);
        self.subject
            .engine
            .release(self.subject.k(), self.held, command)?;
        self.ended.store(true, Ordering::Release);
        Ok(())
    }

    /// Leaves a note for whoever continues, should this holder not come back: up to 64 KiB,
    /// replacing the one before.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::AtCapacity`] (both keep the claim and the old note), or
    /// [`Error::LeaseLost`].
    pub fn checkpoint(&self, note: &[u8]) -> Result<()> {
        self.subject.engine.checkpoint(self.subject.k(), self.held, note)
    }

    /// Starts a new lease of this length from now, also after the old one lapsed.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`] if somebody took over; [`Error::InvalidInput`] for a lease of zero
    /// or over a hundred years.
    pub fn renew(&self, lease: Duration) -> Result<()> {
        let lease = Span::checked("lease", lease)?;
        self.subject.engine.renew(self.subject.k(), self.held, lease)
    }

    /// Says what dropping the guard means from now on: [`OnDrop::Release`] until the effect
    /// starts, [`OnDrop::Interrupt`] after.
    pub fn on_drop(&self, then: OnDrop) {
        self.release_on_drop
            .store(then == OnDrop::Release, Ordering::Release);
    }

    /// The key claimed.
    pub fn key(&self) -> Key<'_> {
        self.subject.key.as_key()
    }

    /// The fencing token: larger than that of every earlier claim of this key.
    pub fn generation(&self) -> u64 {
        self.held.generation
    }

    /// How often the claim was taken over since the key was absent; 0 for the first holder.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The last note of the holder before, if there was one.
    pub fn last_checkpoint(&self) -> Option<&[u8]> {
        self.checkpoint.as_deref()
    }

    /// Lets go of the claim without ending it, to be taken up elsewhere with
    /// [`Store::attach`](crate::Store::attach). The lease runs on.
    pub fn detach(self) -> ClaimToken {
        self.ended.store(true, Ordering::Release);
        let store = self.subject.engine.store_id();
        let key = self.subject.key.clone();
        ClaimToken::new(store, self.held.generation, self.subject.wish.fingerprint, key)
    }

    /// The same guard, borrowing nothing.
    pub fn into_owned(self) -> ClaimGuard<'static> {
        // The claim passes to the new guard; a guard that has ended stays ended.
        let ended = self.ended.swap(true, Ordering::AcqRel);
        ClaimGuard {
            subject: self.subject.owned(),
            held: self.held,
            attempt: self.attempt,
            checkpoint: self.checkpoint.clone(),
            release_on_drop: AtomicBool::new(self.release_on_drop.load(Ordering::Acquire)),
            ended: AtomicBool::new(ended),
        }
    }
}

impl Drop for ClaimGuard<'_> {
    fn drop(&mut self) {
        if !*self.ended.get_mut() {
            let release = *self.release_on_drop.get_mut();
            self.subject
                .engine
                .guard_dropped(self.subject.k(), self.held, release);
        }
    }
}

impl fmt::Debug for ClaimGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClaimGuard")
            .field("key", &self.key())
            .field("generation", &self.generation())
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Somebody else's claim, still running.
#[must_use]
pub struct InFlight<'s> {
    subject: Subject<'s>,
    flight: Flight,
}

impl<'s> InFlight<'s> {
    /// The holder's generation.
    pub fn generation(&self) -> u64 {
        self.flight.generation
    }

    /// When asking again makes sense at the latest: what is left of the holder's lease, now.
    pub fn retry_after(&self) -> Duration {
        self.flight.lease_end.since(self.subject.engine.now())
    }

    /// The same, borrowing nothing.
    pub fn into_owned(self) -> InFlight<'static> {
        InFlight {
            subject: self.subject.owned(),
            flight: self.flight,
        }
    }

    /// Blocks until the holder completes, releases or is interrupted, at most until the
    /// deadline; then says what a claim that does not wait would say.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] if the store is closed meanwhile; [`Error::AtCapacity`] if the key
    /// became absent and there is no room to claim it.
    pub fn wait(self, deadline: impl Into<Deadline>) -> Result<Claim<'s>> {
        let engine = &self.subject.engine;
        let deadline = deadline.into().tick(engine.now());
        let verdict = engine.wait(self.subject.k(), self.subject.wish, deadline)?;
        Ok(Claim::wrap(self.subject, verdict))
    }

    /// The same as a future that needs no runtime: it is woken by whoever ends the claim, and
    /// at the end of the lease by the helper thread (without one, by the next call on the key
    /// or [`Store::maintain`](crate::Store::maintain)). To bound it, race it against a timer.
    pub fn watch(self) -> Watch {
        Watch::new(self.into_owned())
    }
}

impl fmt::Debug for InFlight<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight")
            .field("key", &self.subject.key)
            .field("generation", &self.generation())
            .finish_non_exhaustive()
    }
}

/// Waits for a holder as a future. See [`InFlight::watch`].
///
/// ```
/// # use onceonly::{Claim, Fingerprint, Key, Store};
/// # use std::{pin::pin, task::{Context, Poll, Waker}, future::Future};
/// let store = Store::in_memory()?;
/// let key = Key::new("acme", "order-1");
/// let Claim::Acquired(guard) = store.claim(key, Fingerprint::NONE)? else { unreachable!() };
/// let Claim::InFlight(other) = store.claim(key, Fingerprint::NONE)? else { unreachable!() };
/// let mut watch = pin!(other.watch());
/// let mut cx = Context::from_waker(Waker::noop());
/// assert!(watch.as_mut().poll(&mut cx).is_pending());
/// guard.complete(b"42")?;
/// assert!(matches!(watch.as_mut().poll(&mut cx), Poll::Ready(Ok(Claim::Completed(o))) if &*o == b"42"));
/// # Ok::<(), onceonly::Error>(())
/// ```
#[must_use = "futures do nothing unless polled"]
pub struct Watch {
    subject: Subject<'static>,
    flight: Flight,
    waiting: Waiting,
}

enum Waiting {
    InQueue(Arc<Waiter>),
    /// The limits had no room for another waiter: answered at the first poll.
    NoPlace,
    Failed(Error),
    Over,
}

impl Watch {
    fn new(other: InFlight<'static>) -> Self {
        let InFlight { subject, flight } = other;
        let waiter = Waiter::new(subject.wish.fingerprint);
        let waiting = match subject.engine.join(subject.k(), &waiter) {
            Ok(true) => Waiting::InQueue(waiter),
            Ok(false) => Waiting::NoPlace,
            Err(error) => Waiting::Failed(error),
        };
        Watch {
            subject,
            flight,
            waiting,
        }
    }

    /// Stops watching, to do something else about the claim.
    pub fn into_in_flight(self) -> InFlight<'static> {
        InFlight {
            subject: self.subject.owned(),
            flight: self.flight,
        }
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<Verdict>> {
        let (engine, k, wish) = (&self.subject.engine, self.subject.k(), self.subject.wish);
        match std::mem::replace(&mut self.waiting, Waiting::Over) {
            Waiting::Over => Poll::Pending,
            Waiting::Failed(error) => Poll::Ready(Err(error)),
            Waiting::NoPlace => Poll::Ready(engine.claim(k, wish)),
            Waiting::InQueue(waiter) => {
                // The waker first: what happens after the look will find it.
                waiter.set_waker(cx.waker());
                match engine.look(k, wish, &waiter) {
                    Err(error) => Poll::Ready(Err(error)),
                    Ok(WaitTurn::Answer(verdict)) => Poll::Ready(Ok(verdict)),
                    Ok(WaitTurn::Sleep(until)) => {
                        engine.commons.alarm.wake_by(until);
                        self.waiting = Waiting::InQueue(waiter);
                        Poll::Pending
                    }
                }
            }
        }
    }
}

impl Future for Watch {
    type Output = Result<Claim<'static>>;

    /// Polling again after the answer stays pending.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let watch = &mut *self;
        watch
            .turn(cx)
            .map(|turn| turn.map(|verdict| Claim::wrap(watch.subject.owned(), verdict)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Waiting::InQueue(waiter) = &self.waiting {
            self.subject.engine.give_up(self.subject.k(), waiter);
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("key", &self.subject.key)
            .field("generation", &self.flight.generation)
            .finish_non_exhaustive()
    }
}

/// A claim whose holder is gone: a question, not yet a right.
///
/// Whether the effect happened, only the application can find out (look into the ledger, ask
/// the provider). Then it chooses:
///
/// - it happened: [`resolve`](Self::resolve) with the outcome;
/// - it did not, and this caller does it: [`resume`](Self::resume);
/// - it did not, and whoever comes next may do it: [`release`](Self::release).
///
/// Each is a compare-and-set on the generation and on still being interrupted. Dropped
/// undecided, the question passes to the next who waits.
///
/// # Examples
///
/// ```
/// use onceonly::{Claim, Fingerprint, Key, Store};
///
/// let store = Store::in_memory()?;
/// let key = Key::new("acme", "order-1");
/// let Claim::Acquired(guard) = store.claim(key, Fingerprint::NONE)? else { unreachable!() };
/// guard.checkpoint(b"sent to the bank as ref 77")?;
/// drop(guard); // an early return, a panic
///
/// let Claim::Interrupted(left) = store.claim(key, Fingerprint::NONE)? else { unreachable!() };
/// assert_eq!(left.last_checkpoint(), Some(&b"sent to the bank as ref 77"[..]));
/// // The bank says that ref 77 was executed:
/// let Claim::Completed(outcome) = left.resolve(b"paid", Default::default())? else { unreachable!() };
/// assert_eq!(&*outcome, b"paid");
/// # Ok::<(), onceonly::Error>(())
/// ```
#[must_use = "a question that is dropped passes to the next who waits"]
pub struct Interrupted<'s> {
    subject: Subject<'s>,
    question: Question,
    decided: bool,
}

impl<'s> Interrupted<'s> {
    /// The generation of the claim that was interrupted.
    pub fn generation(&self) -> u64 {
        self.question.generation
    }

    /// How often it had been taken over before.
    pub fn attempt(&self) -> u32 {
        self.question.attempt
    }

    /// What is known of the holder.
    pub fn cause(&self) -> Cause {
        self.question.cause
    }

    /// The last note the holder left.
    pub fn last_checkpoint(&self) -> Option<&[u8]> {
        self.question.checkpoint.as_deref()
    }

    fn seen(&self) -> Held {
        Held {
            lease: self.question.lease,
            generation: self.question.generation,
        }
    }

    /// Takes the claim over: [`Claim::Acquired`] with a larger generation, the checkpoint and
    /// the count of attempts. If somebody was faster: what they made of it.
    ///
    /// # Errors
    ///
    /// Those of [`Store::claim`](crate::Store::claim).
    pub fn resume(mut self) -> Result<Claim<'s>> {
        let lease = self.subject.wish.lease;
        let taken = self.subject.engine.resume(self.subject.k(), self.seen(), lease)?;
        let subject = self.decide();
        match taken {
            Ok(ticket) => Ok(Claim::Acquired(ClaimGuard::new(subject, ticket))),
            Err(Lost) => subject.claim_again(),
        }
    }

    /// Stores the outcome the application found out: [`Claim::Completed`] with it. If somebody
    /// was faster: what they made of it.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], [`Error::AtCapacity`], [`Error::InvalidInput`]: nothing was written
    /// and the key is still interrupted.
    pub fn resolve(mut self, outcome: &[u8], options: CompleteOptions) -> Result<Claim<'s>> {
        let (ttl, tag) = options.checked()?;
        let grip = self.subject.grip(self.seen());
        let command = Command::TakeOver(self.question.generation);
        let new = NewOutcome {
            bytes: outcome,
            ttl,
            tag,
        };
        let settled = self.subject.engine.settle(grip, command, new)?;
        let subject = self.decide();
        match settled {
            Ok(generation) => Ok(Claim::Completed(Outcome::fresh(outcome, tag, generation, false))),
            Err(Lost) => subject.claim_again(),
        }
    }

    /// The effect did not happen: the key is absent, and the next caller may have it.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`] if somebody was faster; it says what they made of it.
    pub fn release(mut self) -> Result<()> {
        let command = Command::TakeOver(self.question.generation);
        self.subject
            .engine
            .release(self.subject.k(), self.seen(), command)?;
        self.decided = true;
        Ok(())
    }

    /// The question is answered: nothing is passed on.
    fn decide(&mut self) -> Subject<'s> {
        self.decided = true;
        Subject {
            engine: match &self.subject.engine {
                EngineRef::Borrowed(engine) => EngineRef::Borrowed(engine),
                EngineRef::Owned(engine) => EngineRef::Owned(engine.clone()),
            },
            key: self.subject.key.clone(),
            ..self.subject
        }
    }

    /// The same, borrowing nothing.
    pub fn into_owned(mut self) -> Interrupted<'static> {
        let decided = std::mem::replace(&mut self.decided, true);
        Interrupted {
            subject: self.subject.owned(),
            question: Question {
                checkpoint: self.question.checkpoint.clone(),
                ..self.question
            },
            decided,
        }
    }
}

impl Drop for Interrupted<'_> {
    fn drop(&mut self) {
        if !self.decided && self.question.exclusive {
            self.subject.engine.pass_on(self.subject.k(), self.seen());
        }
    }
}

impl fmt::Debug for Interrupted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupted")
            .field("key", &self.subject.key)
            .field("generation", &self.generation())
            .field("attempt", &self.attempt())
            .field("cause", &self.cause())
            .finish_non_exhaustive()
    }
}

/// The result of a submitted call: a future, and a thread may [`wait`](Self::wait) for it.
///
/// In memory the result is there at once.
///
/// ```
/// # use onceonly::{Claim, CompleteOptions, Fingerprint, Key, Store};
/// # let store = Store::in_memory()?;
/// let pending = store.submit_claim(Key::unscoped("job"), Fingerprint::NONE, Default::default());
/// if let Claim::Acquired(guard) = pending.wait()? {
///     guard.submit(b"done", CompleteOptions::new()).wait()?;
/// }
/// # Ok::<(), onceonly::Error>(())
/// ```
#[must_use = "the result says whether the call succeeded"]
pub struct Pending<T> {
    result: Option<Result<T>>,
}

impl<T> Pending<T> {
    pub(crate) fn ready(result: Result<T>) -> Self {
        Pending { result: Some(result) }
    }

    /// Blocks until the result is there.
    ///
    /// # Errors
    ///
    /// Those of the call that was submitted.
    pub fn wait(self) -> Result<T> {
        // Taken out only by a poll that gave it away.
        self.result.unwrap_or(Err(Error::Closed))
    }
}

/// Nothing in it is ever pinned.
impl<T> Unpin for Pending<T> {}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    /// Polling again after the answer stays pending.
    fn poll(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.result.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

/// Why [`Store::run`](crate::Store::run) gave no outcome.
#[derive(Debug)]
pub enum RunError<E> {
    /// The work failed. The key is interrupted, unless the work released it.
    Work(E),
    /// The store failed.
    Store(Error),
    /// Somebody else was still at it at the deadline.
    InFlight(InFlight<'static>),
    /// An earlier holder is gone: find out what happened and choose.
    Interrupted(Interrupted<'static>),
    /// The key is known with another fingerprint.
    Mismatch(Mismatch),
}

impl<E> From<Error> for RunError<E> {
    fn from(error: Error) -> Self {
        RunError::Store(error)
    }
}

impl<E: fmt::Display> fmt::Display for RunError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Work(error) => write!(f, "the work failed: {error}"),
            RunError::Store(error) => error.fmt(f),
            RunError::InFlight(other) => {
                write!(f, "the key is in flight, retry in {:?}", other.retry_after())
            }
            RunError::Interrupted(left) => write!(
                f,
                "an earlier attempt was interrupted ({:?}): find out whether it happened, then resume, resolve or release",
                left.cause()
            ),
            RunError::Mismatch(mismatch) => mismatch.fmt(f),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for RunError<E> {}

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<ClaimGuard<'static>>();
    shared::<Interrupted<'static>>();
    shared::<InFlight<'static>>();
    shared::<Watch>();
    shared::<Claim<'static>>();
};
