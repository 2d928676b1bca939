//! What a caller is told of a key: its outcome, its status, or how its request differs.

use crate::clock::Tick;
use crate::fingerprint::Fingerprint;
use crate::segment::Record;
use crate::shard::state::Cause;
use crate::sync::Arc;
use std::fmt;
use std::ops::Deref;
use std::time::Duration;

/// The bytes stored by `complete`, with what is known about them.
///
/// A cheap handle on shared bytes: cloning copies no payload. Dereferences to the bytes.
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
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    bytes: &'a [u8],
    tag: u16,
    age: Duration,
    generation: u64,
}

impl<'a> Stored<'a> {
    #[inline]
    pub(crate) fn of_record(record: &Record<'a>, now: Tick) -> Self {
        Stored {
            bytes: record.outcome(),
            tag: record.tag(),
            age: now.since(record.written()),
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
        self.age
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
            .field("age", &self.age)
            .field("generation", &self.generation)
            .finish()
    }
}

/// What a key is, as [`Store::status`](crate::Store::status) and errors tell it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Status {
    /// Nothing is known of the key, or what was known has expired.
    Absent,
    /// Somebody holds the claim.
    #[non_exhaustive]
    InFlight {
        /// The claim's generation.
        generation: u64,
        /// Takeovers since the key was absent.
        attempt: u32,
        /// How long this generation has held the claim.
        age: Duration,
        /// What is left of the lease.
        lease_left: Duration,
    },
    /// The holder is gone and nobody knows whether the effect happened.
    #[non_exhaustive]
    Interrupted {
        /// The claim's generation.
        generation: u64,
        /// Takeovers since the key was absent.
        attempt: u32,
        /// How long ago this generation began.
        age: Duration,
        /// What is known of the holder.
        cause: Cause,
    },
    /// The outcome is stored.
    #[non_exhaustive]
    Completed {
        /// The generation that completed.
        generation: u64,
        /// See [`Outcome::tag`].
        tag: u16,
        /// How long ago it was completed.
        age: Duration,
        /// How much longer it will be replayed.
        ttl_left: Duration,
        /// The outcome's length in bytes.
        len: usize,
    },
}

impl Status {
    pub(crate) fn of_record(record: &Record<'_>, now: Tick) -> Self {
        Status::Completed {
            generation: record.generation(),
            tag: record.tag(),
            age: now.since(record.written()),
            ttl_left: record.deadline().since(now),
            len: record.outcome().len(),
        }
    }

    /// The generation, unless the key is absent.
    pub fn generation(&self) -> Option<u64> {
        match *self {
            Status::Absent => None,
            Status::InFlight { generation, .. }
            | Status::Interrupted { generation, .. }
            | Status::Completed { generation, .. } => Some(generation),
        }
    }

    pub(crate) fn lease_left(&self) -> Option<Duration> {
        match *self {
            Status::InFlight { lease_left, .. } => Some(lease_left),
            _ => None,
        }
    }

    /// How long ago the state began; zero for an absent key.
    pub fn age(&self) -> Duration {
        match *self {
            Status::Absent => Duration::ZERO,
            Status::InFlight { age, .. }
            | Status::Interrupted { age, .. }
            | Status::Completed { age, .. } => age,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Absent => f.write_str("absent"),
            Status::InFlight {
                generation,
                attempt,
                age,
                lease_left,
            } => write!(
                f,
                "in flight at generation {generation} for {age:?} (takeovers {attempt}, lease left {lease_left:?})"
            ),
            Status::Interrupted {
                generation,
                attempt,
                age,
                cause,
            } => write!(
                f,
                "interrupted at generation {generation}, begun {age:?} ago (takeovers {attempt}, cause {cause:?})"
            ),
            Status::Completed {
                generation,
                age,
                ttl_left,
                len,
                ..
            } => write!(
                f,
                "completed at generation {generation} {age:?} ago ({len} bytes, kept for {ttl_left:?} more)"
            ),
        }
    }
}

/// The key is known with another fingerprint: the request differs from the first one.
///
/// Says what the stored claim looks like, never its payload.
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
