//! Options of single calls.

use crate::clock::Span;
use crate::error::Result;
use crate::key::CheckedKey;
use crate::status::Status;
use std::time::Duration;

/// How a claim is to be held.
///
/// ```
/// use onceonly::ClaimOptions;
/// use std::time::Duration;
/// let patient = ClaimOptions::new().lease(Duration::from_secs(300));
/// # let _ = patient;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ClaimOptions {
    lease: Option<Duration>,
}

impl ClaimOptions {
    /// The store's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the claim is held before others may ask what became of it. Above zero and at
    /// most a hundred years; rounded up to a millisecond.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    pub(crate) fn lease_or(self, default: Span) -> Result<Span> {
        self.lease
            .map_or(Ok(default), |lease| Span::checked("lease", lease))
    }
}

/// How an outcome is to be kept.
///
/// ```
/// use onceonly::CompleteOptions;
/// use std::time::Duration;
/// let kept = CompleteOptions::new().ttl(Duration::from_secs(7 * 24 * 3600)).tag(201);
/// # let _ = kept;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct CompleteOptions {
    ttl: Option<Duration>,
    tag: u16,
}

impl CompleteOptions {
    /// The store's ttl, tag 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the outcome is replayed, counted from now. Above zero and at most a hundred
    /// years; rounded up to a millisecond. For ttls of more than 24 days, and for outcomes
    /// stored when the byte budget is used up, to a second.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// A small number stored with the outcome and given back by
    /// [`Outcome::tag`](crate::Outcome::tag): an HTTP status, a content kind.
    pub fn tag(mut self, tag: u16) -> Self {
        self.tag = tag;
        self
    }

    pub(crate) fn checked(self) -> Result<(Option<Span>, u16)> {
        let ttl = self.ttl.map(|ttl| Span::checked("ttl", ttl)).transpose()?;
        Ok((ttl, self.tag))
    }
}

/// How an operator settles a claim with [`Store::resolve`](crate::Store::resolve).
///
/// # Examples
///
/// ```
/// use onceonly::{CompleteOptions, Fingerprint, Key, Resolution, Store};
/// let store = Store::in_memory()?;
/// let key = Key::new("acme", "order-1");
/// drop(store.claim(key, Fingerprint::NONE)?); // a handler that crashed
/// if let Some(generation) = store.status(key)?.generation() {
///     // The ledger says that it was charged.
///     store.resolve(key, generation, Resolution::Complete(b"charged", CompleteOptions::new()))?;
/// }
/// assert_eq!(store.peek(key, |stored| stored.bytes() == b"charged")?, Some(true));
/// # Ok::<(), onceonly::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Resolution<'a> {
    /// The effect happened: this is its outcome.
    Complete(&'a [u8], CompleteOptions),
    /// The effect did not happen: the key is absent again.
    Release,
}

/// A state without its details, to filter a scan by.
///
/// # Examples
///
/// ```
/// use onceonly::{Fingerprint, Key, ScanFilter, StateKind, Store};
/// let store = Store::in_memory()?;
/// let _guard = store.claim(Key::unscoped("job"), Fingerprint::NONE)?;
/// let running = store.scan(ScanFilter::new().state(StateKind::InFlight))?;
/// assert_eq!(running.count(), 1);
/// # Ok::<(), onceonly::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum StateKind {
    /// See [`Status::InFlight`].
    InFlight,
    /// See [`Status::Interrupted`].
    Interrupted,
    /// See [`Status::Completed`].
    Completed,
}

/// Which keys a scan is to give.
///
/// ```
/// use onceonly::{ScanFilter, StateKind};
/// use std::time::Duration;
/// let stuck = ScanFilter::new().scope("acme").state(StateKind::Interrupted).older_than(Duration::from_secs(600));
/// # let _ = stuck;
/// ```
#[derive(Clone, Debug, Default)]
pub struct ScanFilter {
    scope: Option<Vec<u8>>,
    state: Option<StateKind>,
    older_than: Duration,
}

impl ScanFilter {
    /// Every key that is not absent.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only keys of this scope; an empty one means unscoped keys.
    pub fn scope(mut self, scope: impl AsRef<[u8]>) -> Self {
        self.scope = Some(scope.as_ref().to_vec());
        self
    }

    /// Only keys in this state.
    pub fn state(mut self, state: StateKind) -> Self {
        self.state = Some(state);
        self
    }

    /// Only keys whose state began at least this long ago.
    pub fn older_than(mut self, age: Duration) -> Self {
        self.older_than = age;
        self
    }

    pub(crate) fn wants(&self, key: CheckedKey<'_>, status: &Status) -> bool {
        let kind = match status {
            Status::Absent => return false,
            Status::InFlight { .. } => StateKind::InFlight,
            Status::Interrupted { .. } => StateKind::Interrupted,
            Status::Completed { .. } => StateKind::Completed,
        };
        self.scope.as_ref().is_none_or(|scope| scope == key.scope())
            && self.state.is_none_or(|state| state == kind)
            && status.age() >= self.older_than
    }
}
