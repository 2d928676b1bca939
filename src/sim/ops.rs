//! Streams of operations; [`driver`](super::driver) applies them to a store and to the model.
//!
//! Guards, tokens and questions are kept in a few numbered slots that later operations refer
//! to; an operation on an empty slot does nothing, so that any part of a stream is a stream.
//! What a slot held before is dropped when it is filled anew.

use super::model::{Bytes, Finding};
use crate::{CompleteOptions, Fingerprint, Key, StateKind};
use std::fmt::Debug;
use std::time::Duration;

/// How many slots there are for guards, and as many for tokens and for questions.
pub const SLOTS: usize = 4;

const LONG_ID: [u8; 1_024] = [b'i'; 1_024];
const LONG_SCOPE: [u8; 255] = [b's'; 255];

/// The keys the streams are about: chosen so that scope and id, put end to end, are alike.
pub const KEYS: usize = 8;

/// The key of this number, counted round.
pub fn key(number: u8) -> Key<'static> {
    match usize::from(number) % KEYS {
        0 => Key::new("a", "bc"),
        1 => Key::new("ab", "c"),
        2 => Key::unscoped("abc"),
        3 => Key::new("a", "b"),
        4 => Key::new(&LONG_SCOPE, &LONG_ID),
        5 => Key::unscoped("a"),
        6 => Key::new("a", "a"),
        _ => Key::new("ab", &[0]),
    }
}

/// The fingerprint of this number, counted round.
pub fn fingerprint(number: u8) -> Fingerprint {
    let mut bytes = [0; 16];
    match number % 3 {
        0 => {}
        1 => bytes[15] = 1,
        _ => bytes[0] = 1,
    }
    Fingerprint::from_bytes(bytes)
}

/// Bytes to store, described: `len` times `byte`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Payload {
    /// What it is made of.
    pub byte: u8,
    /// Its length.
    pub len: usize,
}

impl Payload {
    pub(super) fn bytes(self) -> Bytes {
        vec![self.byte; self.len].into()
    }
}

/// What is stored, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ending {
    /// The outcome.
    pub outcome: Payload,
    /// The tag.
    pub tag: u16,
    /// A ttl other than the store's.
    pub ttl: Option<Duration>,
}

impl Ending {
    pub(super) fn options(self) -> CompleteOptions {
        let options = CompleteOptions::new().tag(self.tag);
        self.ttl.map_or(options, |ttl| options.ttl(ttl))
    }

    pub(super) fn finding(self) -> Finding {
        Finding {
            bytes: self.outcome.bytes(),
            tag: self.tag,
            ttl: self.ttl,
        }
    }
}

/// What the closure given to `run` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Succeeds.
    Succeed,
    /// Fails without a word.
    Fail,
    /// Releases the claim and fails.
    ReleaseAndFail,
}

/// How the life of a store with a log ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// `close`.
    Close,
    /// The process is killed.
    Kill,
    /// The power fails; nothing that was not synced survives.
    CutAll,
    /// The power fails; any part of what was not synced survives.
    Cut,
}

/// One step of a stream. Numbers of keys, fingerprints and slots count round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    missing_docs,
    reason = "the fields are the arguments of the calls the variants name"
)]
pub enum Op {
    /// `claim`, `claim_with` if there is a lease, `claim_wait` until now if `wait`. A guard or
    /// a question goes into the slot.
    Claim {
        key: u8,
        fingerprint: u8,
        lease: Option<Duration>,
        wait: bool,
        slot: u8,
    },
    /// `claim_many`; the first guard and the first question go into the slot.
    ClaimMany {
        keys: [u8; 3],
        fingerprints: [u8; 3],
        slot: u8,
    },
    /// `run_until` now.
    Run {
        key: u8,
        fingerprint: u8,
        work: Work,
        outcome: Payload,
    },
    /// `ClaimGuard::complete_with`.
    Complete { slot: u8, ending: Ending },
    /// `complete_many`.
    CompleteMany { slots: [u8; 3], ending: Ending },
    /// `ClaimGuard::release`.
    Release { slot: u8 },
    /// `ClaimGuard::checkpoint`.
    Checkpoint { slot: u8, note: Payload },
    /// `ClaimGuard::renew`.
    Renew { slot: u8, lease: Duration },
    /// `ClaimGuard::on_drop`.
    OnDrop { slot: u8, release: bool },
    /// Drops a guard.
    DropGuard { slot: u8 },
    /// `ClaimGuard::detach`; the token goes into the other slot.
    Detach { slot: u8, token: u8 },
    /// `attach`, with the token as bytes and back; the token is kept. A guard goes into the slot.
    Attach { token: u8, slot: u8 },
    /// `Interrupted::resume`; a guard goes into the slot.
    Resume { question: u8, slot: u8 },
    /// `Interrupted::resolve`.
    Resolve { question: u8, ending: Ending },
    /// `Interrupted::release`.
    GiveUp { question: u8 },
    /// Drops a question undecided.
    DropQuestion { question: u8 },
    /// `forget`.
    Forget { key: u8 },
    /// `Store::resolve` on the generation the key has, plus `off`.
    OperatorComplete { key: u8, off: i8, ending: Ending },
    /// The same, with `Release`.
    OperatorRelease { key: u8, off: i8 },
    /// `first_seen`, or `first_seen_for` if there is a ttl.
    FirstSeen { key: u8, ttl: Option<Duration> },
    /// `first_seen_many`.
    FirstSeenMany { keys: [u8; 3] },
    /// `replay`.
    Replay { key: u8, fingerprint: u8 },
    /// `replay_many`.
    ReplayMany { keys: [u8; 3], fingerprints: [u8; 3] },
    /// `peek`.
    Peek { key: u8 },
    /// `status` of all keys.
    Status,
    /// `scan`.
    Scan {
        scope_of: Option<u8>,
        state: Option<StateKind>,
        older_than: Duration,
    },
    /// `maintain`.
    Maintain,
    /// `stats`.
    Stats,
    /// Lets time pass.
    Advance { by: Duration },
    /// Lets time pass until something ends, the `nth` next, and `off` half milliseconds more.
    ToEdge { nth: u8, off: i8 },
    /// Sets the wall clock, so many seconds from where it is: nothing may change.
    SetWall { off: i32 },
    /// Calls that are refused at the door.
    Refused { slot: u8 },
    /// The store ends and is opened again. Without a log this does nothing.
    Restart { how: End },
}

/// Turns the bytes of a word into small choices.
struct Word([u8; 6]);

impl Word {
    fn pick<T: Copy>(byte: u8, from: &[T]) -> T {
        from[usize::from(byte) % from.len()]
    }

    fn lease(&self, at: usize) -> Option<Duration> {
        const LEASES: [u64; 8] = [0, 1_000, 5_000, 20_000, 100, 1_700, 60_000_000, 86_400_000_000];
        Some(Self::pick(self.0[at], &LEASES))
            .filter(|us| *us > 0)
            .map(Duration::from_micros)
    }

    fn ttl(&self, at: usize) -> Option<Duration> {
        const DAY: u64 = 86_400_000_000;
        const TTLS: [u64; 13] = [
            0,
            1_000,
            2_000,
            5_000,
            300,
            1_500,
            60_000_000,
            3_600_000_000,
            20 * DAY,
            24 * DAY,
            24 * DAY + 1_000,
            25 * DAY,
            30 * DAY,
        ];
        Some(Self::pick(self.0[at], &TTLS))
            .filter(|us| *us > 0)
            .map(Duration::from_micros)
    }

    fn payload(&self, at: usize) -> Payload {
        const LENS: [usize; 16] = [
            0, 1, 2, 7, 8, 9, 16, 31, 100, 250, 251, 600, 3_999, 4_000, 4_001, 70_000,
        ];
        let byte = self.0[at];
        Payload {
            byte: byte & 1,
            len: Self::pick(byte >> 4, &LENS),
        }
    }

    fn note(&self, at: usize) -> Payload {
        const LENS: [usize; 8] = [0, 1, 8, 30, 300, 5_000, 65_536, 65_537];
        let byte = self.0[at];
        // The two longest are rare: they cost as much as the rest of a stream.
        let len = if byte < 250 {
            LENS[usize::from(byte) % 6]
        } else {
            LENS[6 + usize::from(byte) % 2]
        };
        Payload { byte: byte & 1, len }
    }

    fn ending(&self, at: usize) -> Ending {
        Ending {
            outcome: self.payload(at),
            tag: u16::from(self.0[at] >> 1 & 1) * 500,
            ttl: self.ttl(at + 1),
        }
    }

    fn span(&self, at: usize) -> Duration {
        const SPANS: [u64; 16] = [
            0,
            300,
            999,
            1_000,
            1_001,
            2_000,
            3_000,
            5_000,
            20_000,
            100_000,
            60_000_000,
            60_001_000,
            3_600_000_000,
            86_400_000_000,
            24 * 86_400_000_000,
            31 * 86_400_000_000,
        ];
        Duration::from_micros(Self::pick(self.0[at], &SPANS))
    }

    fn three(&self) -> [u8; 3] {
        [self.0[1], self.0[2], self.0[3]]
    }

    fn wide_fingerprint(&self, at: usize) -> u8 {
        // Mostly the same one, or hardly any stream would get far.
        if self.0[at] < 200 { 0 } else { self.0[at] % 3 }
    }
}

impl Op {
    /// Makes an operation of any six bytes; the first says which. Zeros are the plainest claim.
    pub fn decode(word: [u8; 6]) -> Op {
        let [kind, a, b, c, d, _] = word;
        let w = Word(word);
        match kind {
            0..64 => Op::Claim {
                key: a % KEYS as u8,
                fingerprint: w.wide_fingerprint(4),
                lease: w.lease(3),
                wait: kind % 8 == 7,
                slot: b % SLOTS as u8,
            },
            64..72 => Op::ClaimMany {
                keys: w.three().map(|k| k % KEYS as u8),
                fingerprints: w.three().map(|k| u8::from(k > 220)),
                slot: d % SLOTS as u8,
            },
            72..78 => Op::Run {
                key: a % KEYS as u8,
                fingerprint: w.wide_fingerprint(4),
                work: Word::pick(b, &[Work::Succeed, Work::Fail, Work::ReleaseAndFail]),
                outcome: w.payload(3),
            },
            78..100 => Op::Complete {
                slot: a % SLOTS as u8,
                ending: w.ending(2),
            },
            100..104 => Op::CompleteMany {
                slots: w.three().map(|s| s % SLOTS as u8),
                ending: w.ending(4),
            },
            104..110 => Op::Release {
                slot: a % SLOTS as u8,
            },
            110..116 => Op::Checkpoint {
                slot: a % SLOTS as u8,
                note: w.note(2),
            },
            116..122 => Op::Renew {
                slot: a % SLOTS as u8,
                lease: w.lease(2).unwrap_or(Duration::from_millis(2)),
            },
            122..126 => Op::OnDrop {
                slot: a % SLOTS as u8,
                release: b & 1 == 0,
            },
            126..138 => Op::DropGuard {
                slot: a % SLOTS as u8,
            },
            138..143 => Op::Detach {
                slot: a % SLOTS as u8,
                token: b % SLOTS as u8,
            },
            143..149 => Op::Attach {
                token: a % SLOTS as u8,
                slot: b % SLOTS as u8,
            },
            149..158 => Op::Resume {
                question: a % SLOTS as u8,
                slot: b % SLOTS as u8,
            },
            158..163 => Op::Resolve {
                question: a % SLOTS as u8,
                ending: w.ending(2),
            },
            163..167 => Op::GiveUp {
                question: a % SLOTS as u8,
            },
            167..169 => Op::DropQuestion {
                question: a % SLOTS as u8,
            },
            169..174 => Op::Forget { key: a % KEYS as u8 },
            174..179 => Op::OperatorComplete {
                key: a % KEYS as u8,
                off: Word::pick(b, &[0, 0, 0, 1, -1]),
                ending: w.ending(2),
            },
            179..183 => Op::OperatorRelease {
                key: a % KEYS as u8,
                off: Word::pick(b, &[0, 0, 0, 1, -1]),
            },
            183..191 => Op::FirstSeen {
                key: a % KEYS as u8,
                ttl: w.ttl(2),
            },
            191..194 => Op::FirstSeenMany {
                keys: w.three().map(|k| k % KEYS as u8),
            },
            194..199 => Op::Replay {
                key: a % KEYS as u8,
                fingerprint: w.wide_fingerprint(2),
            },
            199..202 => Op::ReplayMany {
                keys: w.three().map(|k| k % KEYS as u8),
                fingerprints: w.three().map(|k| u8::from(k > 220)),
            },
            202..205 => Op::Peek { key: a % KEYS as u8 },
            205..208 => Op::Status,
            208..212 => Op::Scan {
                scope_of: (a % 2 == 1).then_some(b % KEYS as u8),
                state: Word::pick(
                    c,
                    &[
                        None,
                        Some(StateKind::InFlight),
                        Some(StateKind::Interrupted),
                        Some(StateKind::Completed),
                    ],
                ),
                older_than: if d % 2 == 0 { Duration::ZERO } else { w.span(4) },
            },
            212..215 => Op::Maintain,
            215..218 => Op::Stats,
            218..228 => Op::Advance { by: w.span(1) },
            228..249 => Op::ToEdge {
                nth: a % 4,
                off: (b % 11) as i8 - 4,
            },
            249..252 => Op::SetWall {
                off: i32::from(a) * 7_000_000 * if b % 2 == 0 { 1 } else { -1 },
            },
            252..254 => Op::Refused {
                slot: a % SLOTS as u8,
            },
            254..=255 => Op::Restart {
                how: Word::pick(a, &[End::Cut, End::Kill, End::CutAll, End::Close]),
            },
        }
    }

    /// Reads a stream from any bytes, six a step; what is left over is left out.
    pub fn decode_all(bytes: &[u8]) -> impl Iterator<Item = Op> {
        bytes.as_chunks::<6>().0.iter().map(|word| Op::decode(*word))
    }
}
