//! The guard: the right, and the duty, to do the work for a key.

use super::{Pending, Subject};
use crate::clock::Span;
use crate::engine::{Grip, NewOutcome};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::key::Key;
use crate::options::CompleteOptions;
use crate::shard::Ticket;
use crate::shard::change::Held;
use crate::shard::state::Command;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::token::ClaimToken;
use std::fmt;
use std::time::Duration;

/// What dropping a guard without a word means.
///
/// # Examples
///
/// ```
/// use onceonly::{Claim, Fingerprint, Key, OnDrop, Store};
/// let store = Store::in_memory()?;
/// if let Claim::Acquired(guard) = store.claim(Key::unscoped("job"), Fingerprint::NONE)? {
///     guard.on_drop(OnDrop::Release); // preparations: nothing has happened yet
///     guard.on_drop(OnDrop::Interrupt); // from here on something may have
///     guard.complete(b"done")?;
/// }
/// # Ok::<(), onceonly::Error>(())
/// ```
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
    pub(super) fn new(subject: Subject<'s>, ticket: Ticket) -> Self {
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
        let outcome = NewOutcome::new(outcome, options.checked()?);
        let engine = &self.subject.engine;
        let grip = self.subject.grip(self.held);
        if self.ended.load(Ordering::Acquire) {
            return engine.complete_again(grip, outcome);
        }
        engine.complete(grip, outcome)?;
        self.ended.store(true, Ordering::Release);
        Ok(())
    }

    /// A completion for a batch.
    pub(crate) fn completion<'a>(
        &'a self,
        outcome: &'a [u8],
        options: CompleteOptions,
    ) -> Result<(Grip<'a>, NewOutcome<'a>)> {
        let outcome = NewOutcome::new(outcome, options.checked()?);
        Ok((self.subject.grip(self.held), outcome))
    }

    /// It was completed: dropping has nothing to say.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Stores the outcome without waiting for it to be durable. It is appended when this returns,
    /// and visible, to everybody, once the [`Pending`] is ready: whoever leads the next sync sees
    /// to that (the helper thread, if nobody else does). In memory it is done at once.
    ///
    /// From here on the guard has nothing to say when it is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`complete_with`](Self::complete_with), from the [`Pending`].
    pub fn submit(&self, outcome: &[u8], options: CompleteOptions) -> Pending<()> {
        let options = match options.checked() {
            Ok(options) => options,
            Err(error) => return Pending::ready(Err(error)),
        };
        let outcome = NewOutcome::new(outcome, options);
        let engine = &self.subject.engine;
        let grip = self.subject.grip(self.held);
        if self.ended.load(Ordering::Acquire) {
            return Pending::ready(engine.complete_again(grip, outcome));
        }
        let (pending, slot) = Pending::later(Arc::clone(engine));
        let submitted = engine.submit_complete(grip, outcome, move |done| slot.put(done));
        if let Err(error) = submitted {
            return Pending::ready(Err(error));
        }
        self.ended.store(true, Ordering::Release);
        pending
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
        if !self.ended.load(Ordering::Relaxed) {
            let release = self.release_on_drop.load(Ordering::Relaxed);
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
