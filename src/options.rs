//! Options of single calls.

use crate::clock::Span;
use crate::error::Result;
use crate::key::CheckedKey;
use crate::status::Status;
use std::time::Duration;

/// When a call that records something may say `Ok`: how much has to fail before it is forgotten.
///
/// | durability | `Ok` means | process killed | power cut |
/// |---|---|---|---|
/// | `Process` | it is in the mapped log | nothing lost | what came after the last sync may be lost |
/// | `Interval(d)` | the same, and it is on the device within `d` plus one sync | nothing lost | nothing older than that is lost |
/// | `Sync` | it is on the device; many callers share one sync | nothing lost | nothing lost |
///
/// Set it with [`Builder::durability`](crate::Builder::durability) or for one call. A store in
/// memory takes any and forgets everything with its process.
///
/// What is lost is lost from the end: never a call without all that came after it.
///
/// # Examples
///
/// ```
/// use onceonly::{CompleteOptions, Durability};
/// let careful = CompleteOptions::new().durability(Durability::Sync);
/// # let _ = careful;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Durability {
    /// The process may be killed.
    Process,
    /// As `Process`, and the helper thread syncs at least this often.
    Interval(Duration),
    /// The power may fail.
    Sync,
}

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
    durability: Option<Durability>,
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

    /// How durable the claim is before it is handed out; unless said,
    /// [`Builder::claim_durability`](crate::Builder::claim_durability).
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    pub(crate) fn durability_or(self, default: Durability) -> Durability {
        self.durability.unwrap_or(default)
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
    durability: Option<Durability>,
}

impl CompleteOptions {
    /// The store's ttl, tag 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// How long the outcome is replayed, counted from now. Above zero and at most a hundred
    /// years; rounded up to a millisecond, for ttls of more than 24 days to a second.
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

    /// How durable the outcome is before anyone sees it; unless said,
    /// [`Builder::durability`](crate::Builder::durability).
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    pub(crate) fn checked(self) -> Result<CheckedOptions> {
        let ttl = self.ttl.map(|ttl| Span::checked("ttl", ttl)).transpose()?;
        Ok(CheckedOptions {
            ttl,
            tag: self.tag,
            durability: self.durability,
        })
    }
}

/// Options inside their limits.
#[derive(Clone, Copy)]
pub(crate) struct CheckedOptions {
    pub(crate) ttl: Option<Span>,
    pub(crate) tag: u16,
    pub(crate) durability: Option<Durability>,
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
        self.wants_scope(key)
            && self.state.is_none_or(|state| state == kind)
            && status.age() >= self.older_than
    }

    pub(crate) fn wants_scope(&self, key: CheckedKey<'_>) -> bool {
        self.scope.as_ref().is_none_or(|scope| scope == key.scope())
    }

    /// Is the state one of `kinds`, and old enough? For who cannot tell which of them it is.
    pub(crate) fn wants_any_of(&self, kinds: &[StateKind], age: Duration) -> bool {
        self.state.is_none_or(|state| kinds.contains(&state)) && age >= self.older_than
    }
}
