//! The peers with a disk, and what is asked of them.
//!
//! A cycle is two changes, each in a transaction of its own, because work happens between them:
//! claim (absent or expired → pending) and complete (pending → outcome). Every record has a deadline
//! that is checked on read. For many callers with syncs the transactions of a database are shared:
//! [`Batching`] stands in front, as the engine's own group commit does.

mod batching;
mod fjall;
mod lmdb;
mod ours;
mod redb;
mod redis;
mod sqlite;

pub(crate) use batching::Batching;
pub(crate) use fjall::Fjall;
pub(crate) use lmdb::Lmdb;
pub(crate) use ours::Onceonly;
pub(crate) use redb::Redb;
pub(crate) use redis::Redis;
pub(crate) use sqlite::Sqlite;

use crate::common::{Hands, Id, OUTCOME, outcome};
use std::path::Path;
use std::time::SystemTime;

/// What survives what, when a call has returned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// All survives the end of the process; nothing is synced.
    Process,
    /// Outcomes are on the device; claims survive the process.
    Outcomes,
    /// Both are on the device.
    Both,
}

impl Mode {
    /// Is this change to be on the device?
    pub(crate) fn syncs(self, op: &Op) -> bool {
        match op {
            Op::Claim(_) => self == Mode::Both,
            Op::Complete(_) => self != Mode::Process,
        }
    }
}

/// A change. The outcome follows from the key, as everywhere in these benchmarks.
#[derive(Clone, Copy)]
pub(crate) enum Op {
    Claim(Id),
    Complete(Id),
}

/// What is stored for a key: when it ends, and the outcome unless it is pending.
pub(crate) struct Record;

/// Deadlines are a day away, as with the engine's default.
pub(crate) const TTL: u64 = 24 * 60 * 60 * 1000;

impl Record {
    pub(crate) const LEN: usize = 8 + OUTCOME;

    pub(crate) fn pending() -> [u8; 8] {
        (now() + TTL).to_le_bytes()
    }

    pub(crate) fn done(id: &Id) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&(now() + TTL).to_le_bytes());
        bytes[8..].copy_from_slice(&outcome(id));
        bytes
    }

    pub(crate) fn until(bytes: &[u8]) -> u64 {
        bytes
            .first_chunk()
            .map_or(0, |deadline| u64::from_le_bytes(*deadline))
    }

    /// The outcome, if there is one that has not expired.
    pub(crate) fn outcome(bytes: &[u8], now: u64) -> Option<&[u8]> {
        let alive = Self::until(bytes) > now && bytes.len() == Self::LEN;
        alive.then(|| &bytes[8..])
    }
}

/// Milliseconds of the wall clock, which a restart does not change.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("it is later than 1970").as_millis() as u64
}

pub(crate) trait Peer: Sync + Sized {
    const NAME: &'static str;
    /// Is something of ours to stand in front of it where many callers sync?
    const WANTS_BATCHING: bool = true;

    /// Can it do this, here? If not, it says why.
    fn able(_mode: Mode) -> Result<(), String> {
        Ok(())
    }

    /// `keys` is how many there will be at most; the clock is for the engine alone.
    fn open(dir: &Path, mode: Mode, keys: u64, clock: Option<Hands>) -> Self;

    /// Makes changes, in one transaction; for each whether it won. Returns when they are as durable
    /// as the mode says.
    fn apply(&self, ops: &[Op]) -> Vec<bool>;

    /// Claims a key, says so, and completes it. Panics if the key was not new.
    fn cycle(&self, id: &Id, between: impl FnOnce()) {
        assert!(self.apply(&[Op::Claim(*id)])[0], "the key is new");
        between();
        assert!(self.apply(&[Op::Complete(*id)])[0], "it is still ours");
    }

    /// Claims and completes many keys as fast as can be.
    fn fill(&self, ids: &[Id]) {
        let all = |op: fn(Id) -> Op| {
            let ops: Vec<Op> = ids.iter().map(|id| op(*id)).collect();
            assert!(self.apply(&ops).iter().all(|won| *won), "the keys are new");
        };
        all(Op::Claim);
        all(Op::Complete);
    }

    fn replay<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R>;

    /// Puts all on the device.
    fn sync(&self);

    /// Removes what has expired by this time; whether the peer has a way to.
    fn sweep(&self, now: u64) -> bool;

    /// The process that writes the files.
    fn writer(&self) -> u32 {
        std::process::id()
    }

    /// Ends like `kill -9`, with everything as it is.
    fn crash(self) -> ! {
        // SAFETY: it sends a signal to this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        unreachable!("nobody survives that")
    }
}

pub(crate) const NAMES: [&str; 6] = [
    Onceonly::NAME,
    Lmdb::NAME,
    Fjall::NAME,
    Sqlite::NAME,
    Redb::NAME,
    Redis::NAME,
];

/// Runs an expression for the peer with this name.
macro_rules! each {
    ($name:expr, $P:ident => $body:expr) => {{
        use crate::durable::*;
        match $name {
            Onceonly::NAME => {
                type $P = Onceonly;
                $body
            }
            Lmdb::NAME => {
                type $P = Lmdb;
                $body
            }
            Fjall::NAME => {
                type $P = Fjall;
                $body
            }
            Sqlite::NAME => {
                type $P = Sqlite;
                $body
            }
            Redb::NAME => {
                type $P = Redb;
                $body
            }
            Redis::NAME => {
                type $P = Redis;
                $body
            }
            other => panic!("no peer is called {other}"),
        }
    }};
}
pub(crate) use each;
