//! Somebody else's claim, and waiting for it: on a thread or as a future.

use super::{Claim, Subject};
use crate::clock::Deadline;
use crate::engine::WaitTurn;
use crate::error::{Error, Result};
use crate::shard::wait::Waiter;
use crate::shard::{Flight, Verdict};
use crate::sync::Arc;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Somebody else's claim, still running.
///
/// # Examples
///
/// ```
/// use onceonly::{Claim, Fingerprint, Key, Store};
/// let store = Store::in_memory()?;
/// let _holder = store.claim(Key::unscoped("job"), Fingerprint::NONE)?;
/// if let Claim::InFlight(other) = store.claim(Key::unscoped("job"), Fingerprint::NONE)? {
///     println!("409, retry in {:?}", other.retry_after());
///     // Or wait for a moment: most work is soon over.
///     let after = other.wait(std::time::Duration::from_millis(20))?;
///     assert!(matches!(after, Claim::InFlight(_)));
/// }
/// # Ok::<(), onceonly::Error>(())
/// ```
#[must_use]
pub struct InFlight<'s> {
    subject: Subject<'s>,
    flight: Flight,
}

impl<'s> InFlight<'s> {
    pub(super) fn new(subject: Subject<'s>, flight: Flight) -> Self {
        InFlight { subject, flight }
    }

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
    ///
    /// Where the limits have no room for another waiter it answers `InFlight` at its first poll;
    /// take that as the final answer, for watching again would not sleep either.
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
