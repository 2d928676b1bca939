//! A claim whose holder is gone.

use super::{Claim, ClaimGuard, EngineRef, Subject};
use crate::answer::Outcome;
use crate::engine::NewOutcome;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::options::CompleteOptions;
use crate::shard::change::Held;
use crate::shard::state::Command;
use crate::shard::{Lost, Question};
use crate::status::Cause;
use std::fmt;

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
    pub(super) fn new(subject: Subject<'s>, question: Question) -> Self {
        Interrupted {
            subject,
            question,
            decided: false,
        }
    }

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
    /// After [`Cause::Lapsed`] the old holder may still be at it: taking over is safe only if
    /// its effect is bounded well inside the lease, or fenced by the generation.
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
        let new = NewOutcome::new(outcome, options.checked()?);
        let grip = self.subject.grip(self.seen());
        let command = Command::TakeOver(self.question.generation);
        let settled = self.subject.engine.settle(grip, command, new)?;
        let subject = self.decide();
        match settled {
            Ok(generation) => Ok(Claim::Completed(Outcome::fresh(
                outcome, new.tag, generation, false,
            ))),
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
