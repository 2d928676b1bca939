//! What can keep the store from doing its work.
//!
//! Answers a server gives on purpose (in flight, mismatch, replay, interrupted) are values of
//! [`Claim`](crate::Claim); an [`Error`] means that the store could not do what was asked, or
//! can no longer keep what the caller was promised.

use crate::status::Status;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call could not be carried out.
///
/// Nothing has changed when a call returns an error, unless its docs say otherwise.
///
/// ```
/// use onceonly::{Error, Fingerprint, Key, Store};
///
/// let store = Store::in_memory()?;
/// let refused = store.claim(Key::new("acme", ""), Fingerprint::NONE).unwrap_err();
/// assert!(matches!(refused, Error::InvalidInput { what: "id", .. }));
/// assert_eq!(refused.to_string(), "invalid id: it is empty; give at least one byte");
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// A limit set with the [`Builder`](crate::Builder) is reached. New keys are refused, keys
    /// the store already knows keep working, and nothing live was evicted.
    AtCapacity {
        /// When trying again may succeed.
        retry_after: Duration,
    },
    /// A part of the input is longer than its limit.
    TooLarge {
        /// Which part: `scope`, `id`, `checkpoint` or `outcome`.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// A part of the input makes no sense.
    InvalidInput {
        /// Which part.
        what: &'static str,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
    /// `first_seen` met a key that is claimed and not completed.
    InUse {
        /// What the key looks like now.
        status: Status,
    },
    /// The claim is no longer held at this generation: someone took it over, resolved or forgot
    /// it, or it was finished before. Nothing was changed.
    LeaseLost {
        /// What became of the key.
        current: Status,
    },
    /// The disk failed. If it failed to write or sync what was recorded, the store is poisoned:
    /// later calls that would record something say [`Error::Poisoned`]. If it failed while a
    /// store was being opened, nothing was changed that the next open would not find.
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A file of the store is damaged where later data says that it was whole and durable.
    /// Nothing was changed. Restore the directory, or let [`salvage`](crate::salvage) write what
    /// can be read into a new store.
    Corrupt {
        /// The file.
        segment: PathBuf,
        /// The byte in it.
        offset: u64,
        /// What was found there.
        what: &'static str,
    },
    /// The disk failed before; since then nothing can be recorded. What was visible is still
    /// replayed. Open the store anew: it will find everything that was acknowledged.
    Poisoned,
    /// Another store, in this process or another, has the directory open.
    Locked {
        /// The lock's file.
        path: PathBuf,
    },
    /// The files were written by a newer version of this crate; use that one.
    UnsupportedFormat {
        /// The version found.
        found: u32,
        /// The newest version this one reads.
        newest: u32,
    },
    /// The store was closed.
    Closed,
    /// This process is a fork of the one that made the store; only that one may change it.
    Forked,
    /// The builder's settings contradict each other or lie outside their limits.
    InvalidOptions {
        /// The setting.
        field: &'static str,
        /// What is wrong with it, and what to do.
        why: &'static str,
    },
}

impl Error {
    /// When trying the same call again may succeed, if waiting helps at all.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::AtCapacity { retry_after } => Some(*retry_after),
            Error::InUse { status } => status.lease_left(),
            _ => None,
        }
    }

    pub(crate) fn check_len(what: &'static str, len: usize, max: usize) -> Result<()> {
        if len > max {
            return Err(Error::TooLarge { what, len, max });
        }
        Ok(())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::AtCapacity { retry_after } => write!(
                f,
                "at capacity: new keys are refused, retry in {retry_after:?} or raise the limit"
            ),
            Error::TooLarge { what, len, max } => {
                write!(f, "{what} of {len} bytes exceeds its limit of {max} bytes")
            }
            Error::InvalidInput { what, why } => write!(f, "invalid {what}: {why}"),
            Error::InUse { status } => write!(f, "the key is claimed and not completed: {status}"),
            Error::LeaseLost { current } => {
                write!(f, "the claim is no longer held, the key is now {current}")
            }
            Error::Io { op, path, source } => write!(f, "cannot {op} {}: {source}", path.display()),
            Error::Corrupt {
                segment,
                offset,
                what,
            } => write!(
                f,
                "{} is damaged at byte {offset}: {what}; restore it, or salvage what can be read into a new store",
                segment.display()
            ),
            Error::Poisoned => f.write_str(
                "the disk failed before, so nothing can be recorded any more: mend it and open the store anew",
            ),
            Error::Locked { path } => write!(
                f,
                "{} is locked: another store has this directory open, close that one first",
                path.display()
            ),
            Error::UnsupportedFormat { found, newest } => write!(
                f,
                "the files have format {found}, this version reads up to {newest}: use a newer one"
            ),
            Error::Closed => f.write_str("the store is closed"),
            Error::Forked => f.write_str(
                "this process is a fork of the one that made the store: make a store after forking",
            ),
            Error::InvalidOptions { field, why } => write!(f, "invalid option {field}: {why}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(&**source),
            _ => None,
        }
    }
}
