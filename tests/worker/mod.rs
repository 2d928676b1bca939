//! What `tests/kill.rs` and `tests/power.rs` share: a program that works on a store until it is
//! killed ([`child`]), the process around it ([`life`]), and an oracle outside of it that knows
//! from what the program said before and after each call what the store may answer afterwards
//! ([`oracle`]).
//!
//! The program is the test's own binary, started again. It tells each call on its standard
//! output, a pipe, twice: what it is about to ask ([`Line::Intent`]) and what it was told
//! ([`Line::Ack`]). A line is one `write` shorter than `PIPE_BUF`: it is there whole or not at
//! all, and outlives its writer. Of two lines the earlier was written first, so that an answer
//! read before an intent came before that call began.
#![allow(dead_code, reason = "each of the two tests uses a part")]

pub(crate) mod child;
pub(crate) mod life;
pub(crate) mod oracle;

use onceonly::{Builder, Durability, Fingerprint, Store};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// The first argument of the program.
pub(crate) const CHILD: &str = "work-until-killed";
/// How soon `Interval` stores are to be on the device.
pub(crate) const INTERVAL: Duration = Duration::from_millis(5);
/// The scope of all keys.
pub(crate) const SCOPE: &str = "acme";
/// Keys whose calls do not overlap: what they are is known exactly.
pub(crate) const EXACT_KEYS: usize = 48;

/// What a store is opened with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Lasting {
    Process,
    Interval,
    Sync,
}

impl Lasting {
    pub(crate) fn durability(self) -> Durability {
        match self {
            Lasting::Process => Durability::Process,
            Lasting::Interval => Durability::Interval(INTERVAL),
            Lasting::Sync => Durability::Sync,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Mode {
    pub(crate) outcomes: Lasting,
    pub(crate) claims: Lasting,
    pub(crate) helper: bool,
}

/// Every durability, with claims as durable and weaker, with a helper and without.
pub(crate) const MODES: [Mode; 8] = {
    use Lasting::{Interval, Process, Sync};
    const fn mode(outcomes: Lasting, claims: Lasting, helper: bool) -> Mode {
        Mode {
            outcomes,
            claims,
            helper,
        }
    }
    [
        mode(Sync, Sync, true),
        mode(Process, Process, true),
        mode(Sync, Process, true),
        mode(Interval, Interval, true),
        mode(Sync, Sync, false),
        mode(Process, Process, false),
        mode(Sync, Process, false),
        mode(Interval, Process, true),
    ]
};

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let helper = if self.helper { "helper" } else { "no helper" };
        write!(f, "{:?}, claims {:?}, {helper}", self.outcomes, self.claims)
    }
}

/// What one life of the program is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) dir: PathBuf,
    pub(crate) seed: u64,
    pub(crate) mode: Mode,
    pub(crate) segment_bytes: usize,
    pub(crate) threads: u64,
    /// The usual size of outcomes and notes.
    pub(crate) bytes: u64,
    /// Few calls sync that need not.
    pub(crate) rarely_synced: bool,
    /// Closes the store after so long, in the middle of everything.
    pub(crate) close_after: Option<Duration>,
    /// Stops working after so long.
    pub(crate) quiet_after: Option<Duration>,
}

impl Setup {
    pub(crate) fn builder(&self) -> Builder {
        Store::builder()
            .durability(self.mode.outcomes.durability())
            .claim_durability(self.mode.claims.durability())
            .helper_thread(self.mode.helper)
            .segment_bytes(self.segment_bytes)
            .max_keys(100_000)
            .max_bytes(256 << 20)
    }
}

/// Bytes, by length and hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub(crate) len: usize,
    pub(crate) hash: u64,
}

impl Blob {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            hash = mix(hash ^ u64::from_le_bytes(word));
        }
        Blob {
            len: bytes.len(),
            hash,
        }
    }
}

/// What a call asks for. Generations are those the caller holds or was told.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Op {
    Claim {
        print: u8,
    },
    Resume {
        generation: u64,
    },
    Resolve {
        generation: u64,
        outcome: Blob,
        tag: u16,
    },
    Complete {
        generation: u64,
        outcome: Blob,
        tag: u16,
        by: By,
    },
    Checkpoint {
        generation: u64,
        note: Blob,
    },
    Renew {
        generation: u64,
    },
    Release {
        generation: u64,
    },
    /// Lets go of the guard without a word.
    Drop {
        generation: u64,
    },
    /// Detaches the claim and attaches it again.
    Attach {
        generation: u64,
    },
    /// Completes a claim that was forgotten.
    Late {
        generation: u64,
    },
    Forget,
    FirstSeen,
    Replay {
        print: u8,
    },
    Sync,
}

#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum By {
    One,
    Many,
    Submit,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Acquired {
        generation: u64,
        attempt: u32,
        note: Option<Blob>,
    },
    Completed {
        generation: u64,
        outcome: Blob,
        tag: u16,
    },
    Interrupted {
        generation: u64,
        attempt: u32,
        note: Option<Blob>,
        crashed: bool,
    },
    InFlight,
    Mismatch,
    Ok,
    Yes,
    No,
    Miss,
    InUse,
    LeaseLost,
    AtCapacity,
    Unexpected(String),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Line {
    /// The store is open.
    Open,
    /// It is not. `by_disk`: the disk failed.
    NotOpen {
        by_disk: bool,
        why: String,
    },
    /// `lasts`: an answer that says that something was recorded says that it is on the device.
    Intent {
        call: u64,
        key: String,
        op: Op,
        lasts: bool,
    },
    Ack {
        call: u64,
        answer: Answer,
    },
    /// Somebody has seen this outcome of an `e` key, perhaps before its call was answered.
    Seen {
        key: String,
        outcome: Blob,
        tag: u16,
    },
    /// A thread of the program or of the store has panicked.
    Panicked {
        why: String,
    },
    Counts {
        segments: u64,
        carried: u64,
    },
}

/// Fingerprints by number.
pub(crate) fn print(number: u8) -> Fingerprint {
    Fingerprint::from_bytes([number; 16])
}

pub(crate) fn print_number(print: Fingerprint) -> u8 {
    print.to_bytes()[0]
}

/// SplitMix64: small, seeded, the same everywhere.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Rng(mix(seed))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number from the environment.
pub(crate) fn from_env(name: &str, otherwise: u64) -> u64 {
    let Ok(text) = std::env::var(name) else {
        return otherwise;
    };
    text.parse()
        .unwrap_or_else(|_| panic!("{name}={text} is no number"))
}

/// A seed from the environment, or a new one.
pub(crate) fn seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    from_env(
        "ONCEONLY_SEED",
        mix(now.map_or(1, |now| now.as_nanos() as u64)) >> 16,
    )
}

/// Is the test of this name to run? Knows what test runners ask of a test binary.
pub(crate) fn is_wanted(name: &str) -> bool {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    if has("--list") {
        println!("{name}: test");
        return false;
    }
    let mut filters = args.iter().filter(|arg| !arg.starts_with('-')).peekable();
    let filtered = filters.peek().is_some() && !filters.any(|filter| name.contains(filter.as_str()));
    !filtered
        && !has("--ignored")
        && !args
            .windows(2)
            .any(|two| two[0] == "--skip" && name.contains(&two[1]))
}
