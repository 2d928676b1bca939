//! Results that come later, and why `run` gave none.

use super::{InFlight, Interrupted};
use crate::answer::Mismatch;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::sync::{Arc, Condvar, Mutex};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// The result of a submitted call: a future, and a thread may [`wait`](Self::wait) for it.
///
/// In memory the result is there at once. With a log it comes with the next sync, which the
/// helper thread leads if nobody else does; in a store without a helper, waiting or polling leads
/// it on this thread. Dropping it changes nothing about the call.
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
    result: Eventual<T>,
}

enum Eventual<T> {
    /// `None` once it was given away.
    Now(Option<Result<T>>),
    Later(Arc<Slot<T>>, Arc<Engine>),
}

/// Where the result of a submitted call is put.
pub(super) struct Slot<T> {
    inner: Mutex<Place<T>>,
    filled: Condvar,
}

struct Place<T> {
    result: Option<Result<T>>,
    waker: Option<Waker>,
}

impl<T> Slot<T> {
    pub(super) fn put(&self, result: Result<T>) {
        let waker = {
            let mut place = self.inner.lock();
            place.result = Some(result);
            place.waker.take()
        };
        self.filled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Pending<T> {
    pub(crate) fn ready(result: Result<T>) -> Self {
        Pending {
            result: Eventual::Now(Some(result)),
        }
    }

    /// One that is ready when its slot is filled, by someone who syncs the engine's log.
    pub(super) fn later(engine: Arc<Engine>) -> (Self, Arc<Slot<T>>) {
        let slot = Arc::new(Slot {
            inner: Mutex::new(Place {
                result: None,
                waker: None,
            }),
            filled: Condvar::new(),
        });
        let pending = Pending {
            result: Eventual::Later(slot.clone(), engine),
        };
        (pending, slot)
    }

    /// Blocks until the result is there.
    ///
    /// # Errors
    ///
    /// Those of the call that was submitted.
    pub fn wait(self) -> Result<T> {
        let (slot, engine) = match self.result {
            // Taken out only by a poll that gave it away.
            Eventual::Now(result) => return result.unwrap_or(Err(Error::Closed)),
            Eventual::Later(slot, engine) => (slot, engine),
        };
        // What was weaker than `Sync`, or recorded nothing, is there at once and costs no sync.
        if let Some(result) = slot.inner.lock().result.take() {
            return result;
        }
        // What fails here fails the call too, and is told by it.
        let _ = engine.drive();
        let mut place = slot.inner.lock();
        loop {
            if let Some(result) = place.result.take() {
                return result;
            }
            slot.filled.wait(&mut place);
        }
    }
}

/// Nothing in it is ever pinned.
impl<T> Unpin for Pending<T> {}

impl<T> Future for Pending<T> {
    type Output = Result<T>;

    /// Polling again after the answer stays pending.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match &mut self.result {
            Eventual::Now(result) => return result.take().map_or(Poll::Pending, Poll::Ready),
            Eventual::Later(slot, engine) => {
                // A waker's clone and drop are code of the caller's: neither runs under the lock.
                let new = Some(cx.waker().clone());
                let old = std::mem::replace(&mut slot.inner.lock().waker, new);
                drop(old);
                let ready = slot.inner.lock().result.take();
                if ready.is_none() && !engine.has_helper() {
                    let _ = engine.drive();
                }
                ready.or_else(|| slot.inner.lock().result.take())
            }
        };
        match result {
            None => Poll::Pending,
            Some(result) => {
                self.result = Eventual::Now(None);
                Poll::Ready(result)
            }
        }
    }
}

impl<T> fmt::Debug for Pending<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").finish_non_exhaustive()
    }
}

/// Why [`Store::run`](crate::Store::run) gave no outcome.
///
/// # Examples
///
/// ```
/// use onceonly::{Fingerprint, Key, RunError, Store};
/// let store = Store::in_memory()?;
/// let declined = store.run(Key::unscoped("job"), Fingerprint::NONE, |guard| {
///     guard.release().map_err(|_| "lost")?; // the effect certainly did not happen
///     Err::<Vec<u8>, _>("the card was declined")
/// });
/// assert!(matches!(declined, Err(RunError::Work("the card was declined"))));
/// # Ok::<(), onceonly::Error>(())
/// ```
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
