//! Files of a store, made by hand after the format's description (`src/log/format.rs`,
//! `src/segment/record.rs`) and not with the crate's code: sums that verify over contents no
//! store would write, and a reading of them to compare the store's with.

use std::collections::BTreeMap;

pub(crate) const HEADER_WORDS: usize = 8;
pub(crate) const MARK_WORDS: usize = 7;
/// The store every forged file belongs to, unless an input wants another.
pub(crate) const STORE: u64 = 0x5e_ed0f_5707;
/// When every segment begins: what the wall clock of a `ManualClock` says at first.
pub(crate) const BASE: u64 = 1_704_067_200_000;
pub(crate) const TTL: u64 = 3_600_000;
/// No generation so large was given out, says a MARK.
pub(crate) const CEILING: u64 = 1_000;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) what: u32,
    pub(crate) store: u64,
    pub(crate) serial: u64,
    pub(crate) life: u64,
    pub(crate) base: u64,
    pub(crate) ttl: u64,
    pub(crate) words: u32,
}

impl Header {
    pub(crate) fn segment(serial: u32, words: usize) -> Header {
        Header {
            version: 1,
            what: 2,
            store: STORE,
            serial: u64::from(serial),
            life: 7 * u64::from(serial),
            base: BASE,
            ttl: TTL,
            words: words as u32,
        }
    }

    pub(crate) fn store() -> Header {
        Header {
            what: 1,
            ttl: 0,
            life: 0,
            ..Header::segment(0, 512)
        }
    }

    pub(crate) fn to_words(self) -> [u64; HEADER_WORDS] {
        let mut words = [
            u64::from_le_bytes(*b"onceonly"),
            u64::from(self.version) | u64::from(self.what) << 32,
            self.store,
            self.serial,
            self.life,
            self.base,
            self.ttl,
            u64::from(self.words) << 32,
        ];
        words[7] |= u64::from(crc(0, &words));
        words
    }

    /// What goes into the sum of every record of the segment.
    pub(crate) fn stamp(self) -> u32 {
        crc(0, &[self.store, self.serial, self.life])
    }
}

fn crc(initial: u32, words: &[u64]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(initial);
    words.iter().for_each(|word| hasher.update(&word.to_le_bytes()));
    hasher.finalize()
}

/// The sum of a record that starts at this word of its segment.
fn sum(record: &[u64], at: usize, stamp: u32) -> u32 {
    let expires = (record[1] >> 32) as u32;
    let mut body = crc32fast::Hasher::new_with_initial(crc(0, &record[..1]));
    record[2..]
        .iter()
        .for_each(|word| body.update(&word.to_le_bytes()));
    let mut sum = crc32fast::Hasher::new_with_initial(stamp);
    sum.update(&(at as u64).to_le_bytes());
    sum.update(&expires.to_le_bytes());
    sum.update(&body.finalize().to_le_bytes());
    sum.finalize()
}

/// How many words a record that starts so says it has, if there are as many.
fn length(words: &[u64], at: usize) -> Option<usize> {
    let len = (words.get(at)? & 0xff_ffff) as usize;
    (len >= 3 && at + len <= words.len()).then_some(len)
}

/// Gives everything from this word on the sum it should have, as far as one record leads to the
/// next. `spare(n)` leaves the n-th as it is.
pub(crate) fn seal(words: &mut [u64], mut at: usize, stamp: u32, spare: impl Fn(usize) -> bool) {
    let mut n = 0;
    while let Some(len) = length(words, at) {
        let record = &mut words[at..at + len];
        if !spare(n) {
            record[1] = record[1] >> 32 << 32 | u64::from(sum(record, at, stamp));
        }
        at += len;
        n += 1;
    }
}

/// A record that has no key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Note {
    Mark {
        ceiling: u64,
        turn: u32,
        first: u32,
        now: u64,
        offset: u64,
        vouched: u64,
    },
    Vouch(u64),
    Seal,
}

impl Note {
    /// The MARK of a segment that begins like most.
    pub(crate) fn mark(turn: u32, first: u32, vouched: u64) -> Note {
        Note::Mark {
            ceiling: CEILING,
            turn,
            first,
            now: BASE,
            offset: 0,
            vouched,
        }
    }

    pub(crate) fn to_words(self) -> Vec<u64> {
        let (kind, rest) = match self {
            Note::Mark {
                ceiling,
                turn,
                first,
                now,
                offset,
                vouched,
            } => {
                let turns = u64::from(turn) << 32 | u64::from(first);
                (8, vec![ceiling, turns, now, offset, vouched])
            }
            Note::Vouch(position) => (9, vec![position]),
            Note::Seal => (10, vec![0]),
        };
        let mut words = vec![(rest.len() + 2) as u64 | kind << 24, 0];
        words.extend(rest);
        words
    }
}

/// A place in the log.
pub(crate) fn position(turn: u32, word: usize) -> u64 {
    u64::from(turn) << 32 | (8 * word) as u64
}

/// A record with a key.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub(crate) struct Keyed {
    /// 1 completed, 2 claimed, 3 released, 4 forgotten.
    pub(crate) kind: u64,
    pub(crate) scope: Vec<u8>,
    pub(crate) id: Vec<u8>,
    pub(crate) generation: u64,
    /// The caller's, or a claim's flags.
    pub(crate) tag: u16,
    pub(crate) fingerprint: Option<[u64; 2]>,
    pub(crate) written: Option<u64>,
    /// Attempt and revision.
    pub(crate) counts: Option<u64>,
    pub(crate) expires: u32,
    pub(crate) coarse: bool,
    pub(crate) body: Vec<u8>,
}

/// In the tag of a claim: what follows the key is a checkpoint; there are counts.
pub(crate) const NOTED: u16 = 1;
pub(crate) const COUNTED: u16 = 2;

impl Keyed {
    pub(crate) fn to_words(&self) -> Vec<u64> {
        let mut words = vec![0, u64::from(self.expires) << 32];
        words.push(self.generation << 16 | u64::from(self.tag));
        words.extend(self.fingerprint.into_iter().flatten());
        words.extend(self.written);
        words.extend(self.counts);
        let mut bytes = [&self.scope[..], &self.id, &self.body].concat();
        let pad = bytes.len().next_multiple_of(8) - bytes.len();
        bytes.resize(bytes.len() + pad, 0);
        words.extend(bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes)));
        let flags = u64::from(self.fingerprint.is_some())
            | u64::from(self.written.is_some()) << 1
            | u64::from(self.coarse) << 2;
        words[0] = words.len() as u64
            | self.kind << 24
            | flags << 28
            | (self.scope.len() as u64) << 31
            | (self.id.len() as u64) << 39
            | (pad as u64) << 50;
        words
    }

    /// Reads a record whose sum has verified, if its lengths add up.
    fn read(words: &[u64]) -> Option<Keyed> {
        let w0 = words[0];
        let bits = |from: u32, to: u32| (w0 >> from & ((1 << (to - from)) - 1)) as usize;
        let (kind, flags) = (bits(24, 28) as u64, bits(28, 31));
        if !(1..=4).contains(&kind) || w0 >> 53 != 0 {
            return None;
        }
        let tag = words[2] as u16;
        let mut rest = &words[3..];
        let mut take = |n: usize| {
            let (taken, left) = rest.split_at_checked(n)?;
            rest = left;
            Some(taken.to_vec())
        };
        let fingerprint = take(if flags & 1 != 0 { 2 } else { 0 })?;
        let written = take(flags >> 1 & 1)?;
        let counts = take(usize::from(kind == 2 && tag & COUNTED != 0))?;
        let bytes: Vec<u8> = rest.iter().flat_map(|word| word.to_le_bytes()).collect();
        let (scope, id, pad) = (bits(31, 39), bits(39, 50), bits(50, 53));
        let body = bytes.get(scope + id..bytes.len().checked_sub(pad)?)?;
        Some(Keyed {
            kind,
            scope: bytes[..scope].to_vec(),
            id: bytes[scope..scope + id].to_vec(),
            generation: words[2] >> 16,
            tag,
            fingerprint: (flags & 1 != 0).then(|| [fingerprint[0], fingerprint[1]]),
            written: written.first().copied(),
            counts: counts.first().copied(),
            expires: (words[1] >> 32) as u32,
            coarse: flags & 4 != 0,
            body: body.to_vec(),
        })
    }

    fn is_of_a_key(&self) -> bool {
        (1..=1_024).contains(&self.id.len())
    }

    /// Which of two records of a key counts: the larger, of equals the later one.
    fn order(&self) -> (u64, u64) {
        let revision = self.counts.unwrap_or(0) & 0xffff_ffff;
        (self.generation, if self.kind == 2 { revision } else { u64::MAX })
    }

    pub(crate) fn deadline(&self, base: u64) -> u64 {
        base.saturating_add(u64::from(self.expires) * if self.coarse { 1_000 } else { 1 })
    }
}

/// Are the numbers of a MARK in their limits?
fn is_sane(mark: &[u64]) -> bool {
    mark[2] <= 1 << 48 && mark[3] >> 32 < 1 << 31 && mark[4] <= u64::MAX - (1 << 60)
}

/// What stands in a segment that begins with a MARK, up to its end.
#[derive(Default)]
pub(crate) struct Reading {
    pub(crate) records: Vec<Keyed>,
    /// No moment that anything in it names as past is later.
    pub(crate) latest: u64,
}

impl Reading {
    pub(crate) fn of(words: &[u64], header: Header) -> Reading {
        let mut found = Reading::default();
        let mut at = HEADER_WORDS;
        while let Some(len) = length(words, at) {
            let record = &words[at..at + len];
            if record[1] as u32 != sum(record, at, header.stamp()) {
                break;
            }
            // The end of a segment is the SEAL's.
            let fits = at + len + 3 <= words.len();
            match (record[0] >> 24 & 15, len) {
                (1..=4, _) if fits => found.add(Keyed::read(record), header),
                (8, MARK_WORDS) if fits && is_sane(record) => found.latest = found.latest.max(record[4]),
                (9, 3) => {}
                _ => break,
            }
            at += len;
        }
        found
    }

    fn add(&mut self, record: Option<Keyed>, header: Header) {
        let Some(record) = record else { return };
        let by_ttl = record.deadline(header.base).saturating_sub(header.ttl);
        self.latest = self.latest.max(record.written.unwrap_or(by_ttl));
        self.records.push(record);
    }
}

/// Of each key, scope and id, the record that counts.
pub(crate) fn winners(records: Vec<Keyed>) -> BTreeMap<(Vec<u8>, Vec<u8>), Keyed> {
    let mut winners = BTreeMap::new();
    for record in records.into_iter().filter(Keyed::is_of_a_key) {
        let key = (record.scope.clone(), record.id.clone());
        let best = winners.entry(key).or_insert_with(|| record.clone());
        if record.order() >= best.order() {
            *best = record;
        }
    }
    winners
}

pub(crate) fn to_bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(crate) fn to_words(bytes: &[u8]) -> Vec<u64> {
    let (whole, rest) = bytes.as_chunks();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let last = (!rest.is_empty()).then_some(last);
    whole
        .iter()
        .chain(&last)
        .map(|bytes| u64::from_le_bytes(*bytes))
        .collect()
}
