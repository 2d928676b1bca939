//! What a key is, in words for callers and errors; plain data.

use std::fmt;
use std::time::Duration;

/// Why a claim was interrupted: what is known of its holder.
///
/// # Examples
///
/// ```
/// use onceonly::{Cause, Claim, Fingerprint, Key, Store};
/// let store = Store::in_memory()?;
/// let key = Key::unscoped("job");
/// drop(store.claim(key, Fingerprint::NONE)?);
/// if let Claim::Interrupted(left) = store.claim(key, Fingerprint::NONE)? {
///     assert_eq!(left.cause(), Cause::Dropped);
/// }
/// # Ok::<(), onceonly::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// The guard was dropped without `complete` or `release`: by an early return, an error or
    /// a panic. The holder is gone.
    Dropped,
    /// The lease ran out. The holder may still be alive, and may still complete until someone
    /// takes over.
    Lapsed,
    /// The process ended. Seen only by stores with a log, after they were reopened.
    Crashed,
}

/// What a key is, as [`Store::status`](crate::Store::status) and errors tell it.
///
/// # Examples
///
/// ```
/// use onceonly::{Key, Status, Store};
/// let store = Store::in_memory()?;
/// let key = Key::unscoped("m-1");
/// assert_eq!(store.status(key)?, Status::Absent);
/// store.first_seen(key)?;
/// let status = store.status(key)?;
/// assert!(matches!(status, Status::Completed { len: 0, .. }));
/// println!("{status}"); // completed at generation 1 0ns ago (0 bytes, kept for 86400.001s more)
/// # Ok::<(), onceonly::Error>(())
/// ```
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
        /// See [`Outcome::tag`](crate::Outcome::tag).
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
