//! What a claim comes to, and the guards that go with it.
//!
//! Each of them borrows the store, so that claiming touches no shared reference count;
//! `into_owned` makes any of them `'static`, to carry it into another thread or task.

mod guard;
mod in_flight;
mod interrupted;
mod pending;

pub use guard::{ClaimGuard, OnDrop};
pub use in_flight::{InFlight, Watch};
pub use interrupted::Interrupted;
pub use pending::{Pending, RunError};

use crate::answer::{Mismatch, Outcome};
use crate::engine::{Engine, Grip};
use crate::error::{Error, Result};
use crate::key::{KeyBuf, KeyHash};
use crate::shard::change::{Held, Wish};
use crate::shard::{Keyed, Verdict};
use crate::sync::Arc;
use std::ops::Deref;

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
    // Always inlined: where the verdict is known an outcome is moved less, and a hot replay takes
    // 150 ns instead of 166. Left alone the compiler keeps the call.
    #[inline(always)]
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

    #[inline(always)]
    fn wrap(subject: Subject<'s>, verdict: Verdict) -> Self {
        match verdict {
            Verdict::Acquired(ticket) => Claim::Acquired(ClaimGuard::new(subject, ticket)),
            Verdict::Completed(outcome) => Claim::Completed(outcome),
            Verdict::InFlight(flight) => Claim::InFlight(InFlight::new(subject, flight)),
            Verdict::Interrupted(question) => Claim::Interrupted(Interrupted::new(subject, question)),
            Verdict::Mismatch(mismatch) => Claim::Mismatch(mismatch),
            Verdict::InUse(_) => unreachable!("only `first_seen` is told so, and it makes no Claim"),
        }
    }

    /// A claim handed out by whoever syncs the log next.
    pub(crate) fn submit(engine: &Arc<Engine>, k: Keyed<'_>, wish: Wish) -> Pending<Claim<'static>> {
        let (pending, slot) = Pending::later(Arc::clone(engine));
        let (key, hash, weak) = (k.key.to_buf(), k.hash, Arc::downgrade(engine));
        let submitted = engine.submit_claim(k, wish, move |_, verdict| {
            // Gone only while its last handle is being dropped.
            let Some(engine) = weak.upgrade() else {
                return slot.put(Err(Error::Closed));
            };
            let k = Keyed {
                key: key.as_checked(),
                hash,
            };
            slot.put(verdict.map(|verdict| Claim::new(EngineRef::Owned(engine), k, wish, verdict)));
        });
        submitted.map_or_else(|error| Pending::ready(Err(error)), |()| pending)
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

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<ClaimGuard<'static>>();
    shared::<Interrupted<'static>>();
    shared::<InFlight<'static>>();
    shared::<Watch>();
    shared::<Claim<'static>>();
};
