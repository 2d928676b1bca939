//! The peers in memory, and what is asked of them.
//!
//! Each is used as a competent user would use it for idempotency keys: look the key up; if it is
//! absent put a marker that somebody is at it; do the work; put the outcome in the marker's place.
//! Every entry has a deadline, which each read compares with the clock. None of the peers removes
//! what has expired unless it is told to; see [`Peer::remove_expired`].
//!
//! What they leave out, to their advantage: fingerprints, leases that end in a question rather than
//! a second winner, limits, and any bookkeeping for expiry except where expiry is what is measured.

mod caches;
mod maps;
mod ours;
mod sharded;

pub(crate) use caches::{Moka, QuickCache};
pub(crate) use maps::{DashMap, Papaya, Scc};
pub(crate) use ours::Onceonly;
pub(crate) use sharded::Sharded;

use crate::common::{Hands, Id, TTL};
use onceonly::Clock;
use std::hint::black_box;
use std::ops::Deref;

/// How a claim ended; in the first case the outcome was stored too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cycle {
    Won,
    /// The stored outcome was given, and was the right one.
    Replayed,
    InFlight,
}

/// What a peer is made for.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) keys: u64,
    /// A clock that is moved by hand, where keys are to expire.
    pub(crate) hands: Option<Hands>,
    /// May it use a thread of its own?
    pub(crate) helper: bool,
}

pub(crate) trait Peer: Sync + Sized {
    const NAME: &'static str;
    /// Does it remove what has expired by itself?
    const EXPIRES: bool = false;
    /// An outcome that outlives the call.
    type Owned: Deref<Target = [u8]>;

    fn new(setting: Setting) -> Self;

    /// Claims a key and completes it, or checks the outcome that is there.
    fn cycle(&self, id: &Id) -> Cycle;

    /// The outcome to keep.
    fn owned(&self, id: &Id) -> Option<Self::Owned>;

    /// The outcome to look at.
    fn lent<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R>;

    /// Removes one key if it has expired.
    fn remove_expired(&self, id: &Id);

    /// Removes all that has expired.
    fn sweep(&self);

    /// Keys that are there; may be slow.
    fn len(&self) -> u64;

    /// Replays known keys in batches, where the peer has such a call. Whether it has.
    fn batches(&self, _ids: &[Id; 16], _claim: bool) -> bool {
        false
    }
}

/// The clock of the peers: the machine's, at its price, plus what it was moved by hand.
#[derive(Clone, Default)]
struct Time(Hands);

impl Time {
    fn of(setting: &Setting) -> Self {
        Time(setting.hands.clone().unwrap_or_default())
    }

    /// Milliseconds.
    #[inline]
    fn now(&self) -> u64 {
        self.0.monotonic().as_millis() as u64
    }

    /// When a claim made now lapses; costs no look at the clock.
    #[inline]
    fn deadline_from(&self, now: u64) -> u64 {
        now + TTL
    }

    /// When what is stored now expires.
    #[inline]
    fn deadline(&self) -> u64 {
        self.now() + TTL
    }
}

/// An entry of the maps that change their values in place.
enum Entry {
    /// Somebody is at it, until then at most.
    Pending(u64),
    Done(u64, Box<[u8]>),
}

impl Entry {
    #[inline]
    fn expired(&self, now: u64) -> bool {
        let (Entry::Pending(until) | Entry::Done(until, _)) = self;
        *until <= now
    }

    #[inline]
    fn outcome(&self, now: u64) -> Option<&[u8]> {
        match self {
            Entry::Done(until, outcome) if *until > now => Some(outcome),
            _ => None,
        }
    }

    /// What a claim is told that finds this entry alive.
    #[inline]
    fn answer(&self, id: &Id) -> Cycle {
        match self {
            Entry::Pending(_) => Cycle::InFlight,
            Entry::Done(_, outcome) => {
                // A claim hands the outcome on to its caller.
                crate::common::check(&black_box(outcome.clone()), id);
                Cycle::Replayed
            }
        }
    }

    #[inline]
    fn done(id: &Id, until: u64) -> Self {
        Entry::Done(until, Box::new(crate::common::outcome(id)))
    }
}

pub(crate) const NAMES: [&str; 7] = [
    Onceonly::NAME,
    Moka::NAME,
    QuickCache::NAME,
    DashMap::NAME,
    Papaya::NAME,
    Scc::NAME,
    Sharded::NAME,
];

/// Runs an expression for the peer with this name.
macro_rules! each {
    ($name:expr, $P:ident => $body:expr) => {{
        use crate::memory::*;
        match $name {
            Onceonly::NAME => {
                type $P = Onceonly;
                $body
            }
            Moka::NAME => {
                type $P = Moka;
                $body
            }
            QuickCache::NAME => {
                type $P = QuickCache;
                $body
            }
            DashMap::NAME => {
                type $P = DashMap;
                $body
            }
            Papaya::NAME => {
                type $P = Papaya;
                $body
            }
            Scc::NAME => {
                type $P = Scc;
                $body
            }
            Sharded::NAME => {
                type $P = Sharded;
                $body
            }
            other => panic!("no peer is called {other}"),
        }
    }};
}
pub(crate) use each;
