//! What a caller is told of a key: its outcome, or how its request differs.

use crate::clock::Tick;
use crate::fingerprint::Fingerprint;
use crate::segment::Record;
use crate::status::Status;
use crate::sync::Arc;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

/// The bytes stored by `complete`, with what is known about them.
///
/// A cheap handle on shared bytes: cloning copies no payload. Dereferences to the bytes.
///
/// # Examples
///
/// ```
/// use onceonly::{Fingerprint, Key, Store};
/// let store = Store::in_memory()?;
/// let outcome = store.run(Key::unscoped("job"), Fingerprint::NONE, |_| Ok::<_, ()>("42")).expect("it works");
/// assert_eq!(&*outcome, b"42");
/// assert_eq!((outcome.tag(), outcome.replayed()), (0, false));
/// # Ok::<(), onceonly::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Outcome {
    bytes: Arc<[u8]>,
    tag: u16,
    replayed: bool,
    age: Duration,
    generation: u64,
}

impl Outcome {
    pub(crate) fn of_record(record: &Record<'_>, now: Tick) -> Self {
        Outcome {
            bytes: record.outcome().into(),
            tag: record.tag(),
            replayed: true,
            age: now.since(record.written()),
            generation: record.generation(),
        }
    }

    /// An outcome that has just been stored.
    pub(crate) fn fresh(bytes: &[u8], tag: u16, generation: u64, replayed: bool) -> Self {
        Outcome {
            bytes: bytes.into(),
            tag,
            replayed,
            age: Duration::ZERO,
            generation,
        }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The small number given with [`CompleteOptions::tag`](crate::CompleteOptions::tag), for
    /// instance an HTTP status; 0 if none was given.
    pub fn tag(&self) -> u16 {
        self.tag
    }

    /// How long ago it was completed, to the millisecond (to the second for ttls over 24 days).
    pub fn age(&self) -> Duration {
        self.age
    }

    /// The generation of the claim that stored it.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// True if the work was done by somebody else or earlier; false if this call did it.
    pub fn replayed(&self) -> bool {
        self.replayed
    }

    /// The bytes, copied.
    pub fn into_vec(self) -> Vec<u8> {
        self.bytes.to_vec()
    }
}

impl Deref for Outcome {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Outcome {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome")
            .field("bytes", &format_args!("\"{}\"", self.bytes.escape_ascii()))
            .field("tag", &self.tag)
            .field("age", &self.age)
            .field("generation", &self.generation)
            .field("replayed", &self.replayed)
            .finish()
    }
}

/// A stored outcome where it lies, lent to a closure.
///
/// # Examples
///
/// ```
/// use onceonly::{Key, Store};
/// let store = Store::in_memory()?;
/// store.first_seen(Key::unscoped("m-1"))?;
/// let seen = store.peek(Key::unscoped("m-1"), |stored| (stored.bytes().len(), stored.tag()))?;
/// assert_eq!(seen, Some((0, 0)));
/// # Ok::<(), onceonly::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    bytes: &'a [u8],
    tag: u16,
    /// In milliseconds: most readers do not ask, and to make a `Duration` takes a division.
    age: u64,
    generation: u64,
}

impl<'a> Stored<'a> {
    #[inline]
    pub(crate) fn of_record(record: &Record<'a>, age: u64) -> Self {
        Stored {
            bytes: record.outcome(),
            tag: record.tag(),
            age,
            generation: record.generation(),
        }
    }

    /// The bytes, not copied.
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// See [`Outcome::tag`].
    pub fn tag(self) -> u16 {
        self.tag
    }

    /// See [`Outcome::age`].
    pub fn age(self) -> Duration {
        Duration::from_millis(self.age)
    }

    /// See [`Outcome::generation`].
    pub fn generation(self) -> u64 {
        self.generation
    }
}

impl fmt::Debug for Stored<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stored")
            .field("len", &self.bytes.len())
            .field("tag", &self.tag)
            .field("age", &self.age())
            .field("generation", &self.generation)
            .finish()
    }
}

/// The status a record stands for.
pub(crate) fn record_status(record: &Record<'_>, now: Tick) -> Status {
    Status::Completed {
        generation: record.generation(),
        tag: record.tag(),
        age: now.since(record.written()),
        ttl_left: record.deadline().since(now),
        len: record.outcome().len(),
    }
}

/// The key is known with another fingerprint: the request differs from the first one.
///
/// Says what the stored claim looks like, never its payload.
///
/// # Examples
///
/// ```
/// use onceonly::{Claim, Fingerprint, Key, Store};
/// let store = Store::in_memory()?;
/// let (first, other) = (Fingerprint::from_bytes([1; 16]), Fingerprint::from_bytes([2; 16]));
/// let _guard = store.claim(Key::unscoped("order-1"), first)?;
/// if let Claim::Mismatch(mismatch) = store.claim(Key::unscoped("order-1"), other)? {
///     assert_eq!(mismatch.fingerprint(), first);
///     println!("422: {mismatch}"); // the key is in use for another request, which is in flight ...
/// }
/// # Ok::<(), onceonly::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    pub(crate) fingerprint: Fingerprint,
    pub(crate) status: Status,
}

impl Mismatch {
    /// The fingerprint the key is known with.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The generation of the stored claim.
    pub fn generation(&self) -> u64 {
        self.status.generation().unwrap_or(0)
    }

    /// The state of the stored claim.
    pub fn state(&self) -> Status {
        self.status
    }

    /// How long ago that state began.
    pub fn age(&self) -> Duration {
        self.status.age()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the key is in use for another request, which is {}",
            self.status
        )
    }
}
