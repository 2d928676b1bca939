//! The bytes of one record, in memory and on disk alike. This page is the specification of the
//! format.
//!
//! A record is written once and never changed. It is a run of 8-byte little-endian words:
//!
//! ```text
//!        63        53 52 50 49     39 38    31 30  28 27  24 23                0
//!       +------------+-----+---------+--------+------+------+-------------------+
//!  w0   |     0      | pad | id_len  |scope_ln| flags| kind |     len_words     |
//!       +------------+-----+---------+--------+------+------+-------------------+
//!  w1   |  expires, in units after the base   |    sum (0 in memory)            |
//!       +-------------------------------------+---------------------------------+
//!  w2   |              generation (48)                      |      tag (16)     |
//!       +---------------------------------------------------+-------------------+
//!  [fingerprint, 2 words, if FINGERPRINT]     none: Fingerprint::NONE
//!  [written, 1 word, if WRITTEN]              none: expires - 1 - the segment's ttl
//!  [attempt (32) | revision (32), 1 word]     claims whose tag has COUNTED
//!  scope, id, outcome or checkpoint, end to end, then `pad` (0..=7) zero bytes
//! ```
//!
//! - `len_words` counts the whole record. Zero means that nothing is written here.
//! - `kind`: 1 completed, 2 claimed, 3 released, 4 forgotten. Zero is reserved, so that zeroed
//!   memory is never a record; the log has more, without a key, in `log::format`.
//! - `expires` and the base: a segment has a base tick; the deadline in ticks is
//!   `base + expires * unit`, rounded up when written. The unit is a tick, or 1,000 if COARSE.
//!   A claim's is the moment it is forgotten, a release's that of the claim it ends.
//! - `written` is the tick of completion, or at which the claim's generation began; completed
//!   records whose ttl is the segment's own leave it out.
//! - `tag`: the caller's, in a completed record; in a claim, flags (NOTED: what follows the key
//!   is a checkpoint; COUNTED).
//! - `revision` orders what is written of one claim: each checkpoint or renewal repeats the
//!   whole claim with the next revision.
//! - `sum`: see [`Stamp`]. Only the log fills it.
//!
//! Of the records of one key the one with the largest generation counts; among those of one
//! generation the claim with the largest revision comes after the others, and whatever ends the
//! claim after all of them ([`Record::order`]).
//!
//! Overhead over key and outcome: 24 bytes and 3.5 of padding on average, 16 more with a
//! fingerprint, 8 more with a ttl of its own.

use super::words::{Published, WORD, WordWriter, same_bytes};
use crate::clock::{Span, Tick};
use crate::fingerprint::Fingerprint;
use crate::key::{CheckedKey, MAX_ID, MAX_SCOPE};
use crate::sync::{Ordering, Word};

/// The largest outcome the builder may allow. With the longest key it stays far below what
/// `len_words` can say.
pub(crate) const MAX_OUTCOME: usize = 64 << 20;

const LEN_BITS: u32 = 24;
const KIND_AT: u32 = 24;
const FLAGS_AT: u32 = 28;
const SCOPE_AT: u32 = 31;
const ID_AT: u32 = 39;
const PAD_AT: u32 = 50;
const END_AT: u32 = 53;

const FINGERPRINT: u64 = 1;
const WRITTEN: u64 = 2;
const COARSE: u64 = 4;

/// Flags in the tag of a claim.
const NOTED: u16 = 1;
const COUNTED: u16 = 2;

/// Words before the optional ones.
pub(crate) const FIXED: usize = 3;

const _: () = assert!(MAX_SCOPE < 1 << (ID_AT - SCOPE_AT));
const _: () = assert!(MAX_ID < 1 << (PAD_AT - ID_AT));
const _: () = assert!((MAX_OUTCOME + MAX_SCOPE + MAX_ID) / WORD + FIXED + 4 < 1 << LEN_BITS);

/// What a record says of its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Completed = 1,
    Claimed = 2,
    Released = 3,
    Forgotten = 4,
}

impl Kind {
    fn of(w0: u64) -> Option<Kind> {
        match kind_bits(w0) {
            1 => Some(Kind::Completed),
            2 => Some(Kind::Claimed),
            3 => Some(Kind::Released),
            4 => Some(Kind::Forgotten),
            _ => None,
        }
    }
}

/// The kind a first word names, keyed or not.
pub(crate) fn kind_bits(w0: u64) -> u64 {
    field(w0, KIND_AT, FLAGS_AT)
}

/// Can a record start with this word? For a quick look at words that may be anything.
pub(crate) fn is_first_word(w0: u64) -> bool {
    kind_bits(w0) != 0 && len_bits(w0) >= FIXED && w0 >> END_AT == 0
}

/// The length a first word claims.
pub(crate) fn len_bits(w0: u64) -> usize {
    field(w0, 0, LEN_BITS) as usize
}

/// The first word of a record without a key.
pub(crate) fn bare_word(kind: u64, len: usize) -> u64 {
    len as u64 | kind << KIND_AT
}

/// What makes a segment's records its own: goes into every sum, so that bytes written under
/// another name (another store, another segment, an earlier life of the file, another place in
/// it) never verify.
///
/// `sum = crc32(identity; offset, expires, crc32(w0, w2 ..))`, the outer one started from the
/// CRC of the identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stamp(u32);

impl Stamp {
    pub(crate) fn new(store: u64, sequence: u64, life: u64) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        for word in [store, sequence, life] {
            hasher.update(&word.to_le_bytes());
        }
        Stamp(hasher.finalize())
    }

    /// The sum of a record with first word `w0` whose words from w2 on are `rest`.
    fn sum(self, w0: u64, expires: u32, rest: &[Word], word: usize) -> u32 {
        // By way of a small buffer: one call a word would cost more than the copy.
        let mut buffer = [0; 64 * WORD];
        let mut body = crc32fast::Hasher::new();
        buffer[..WORD].copy_from_slice(&w0.to_le_bytes());
        let mut filled = WORD;
        for words in rest.chunks(63) {
            let to = &mut buffer[filled..][..words.len() * WORD];
            for (to, from) in to.as_chunks_mut().0.iter_mut().zip(words) {
                // The bytes as they lie in memory, which are little-endian.
                *to = from.load(Ordering::Relaxed).to_ne_bytes();
            }
            filled += words.len() * WORD;
            body.update(&buffer[..filled]);
            filled = 0;
        }
        body.update(&buffer[..filled]);
        if cfg!(onceonly_sabotage = "identity") {
            return body.finalize();
        }
        let place = u128::from(word as u64) | u128::from(expires) << 64 | u128::from(body.finalize()) << 96;
        let mut sum = crc32fast::Hasher::new_with_initial(self.0);
        sum.update(&place.to_le_bytes());
        sum.finalize()
    }

    /// Ends a record whose words from w2 on are written: the sum, then the first word, which
    /// makes it one.
    pub(crate) fn seal(self, w0: u64, expires: u32, to: &[Word], word: usize) {
        let sum = self.sum(w0, expires, &to[2..], word);
        let w1 = u64::from(expires) << 32 | u64::from(sum);
        to[1].store(w1.to_le(), Ordering::Relaxed);
        // Release: whoever finds the first word finds the others, should the process be killed
        // (the words go to the page cache in this order on every machine that has one).
        to[0].store(w0.to_le(), Ordering::Release);
    }

    /// Does the record that starts at `words` and ends with them verify?
    pub(crate) fn holds(self, words: &[Word], word: usize) -> bool {
        let load = |at: usize| u64::from_le(words[at].load(Ordering::Relaxed));
        words.len() >= FIXED && {
            let (w0, w1) = (load(0), load(1));
            self.sum(w0, (w1 >> 32) as u32, &words[2..], word) == w1 as u32
        }
    }
}

/// How a segment tells time: where its deadlines count from, and the ttl most of its records
/// have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimeBase {
    pub(crate) base: Tick,
    pub(crate) ttl: Span,
}

/// A span up to which deadlines are kept in ticks: 24 days, so that a segment may be filled for
/// as long again before they leave 32 bits.
const FINE: Span = Span::from_millis(24 * 24 * 3_600 * 1_000);
/// Ticks in a coarse unit.
pub(crate) const COARSE_UNIT: u64 = 1_000;

impl TimeBase {
    pub(crate) fn new(base: Tick, ttl: Span) -> Self {
        TimeBase { base, ttl }
    }

    /// The deadline as a record states it, rounded up; `None` if it is out of range here.
    fn expires(&self, deadline: Tick, coarse: bool) -> Option<u32> {
        let after = deadline.0.checked_sub(self.base.0)?;
        // A branch rather than a division by one.
        let units = if coarse {
            after.div_ceil(COARSE_UNIT)
        } else {
            after
        };
        u32::try_from(units).ok()
    }

    fn deadline(&self, expires: u32, coarse: bool) -> Tick {
        Tick(self.base.0 + u64::from(expires) * unit(coarse))
    }
}

fn unit(coarse: bool) -> u64 {
    if coarse { COARSE_UNIT } else { 1 }
}

/// A record about to be written.
#[derive(Clone, Copy)]
pub(crate) struct Draft<'a> {
    pub(crate) kind: Kind,
    pub(crate) key: CheckedKey<'a>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) generation: u64,
    pub(crate) tag: u16,
    /// When it was completed, or its generation began.
    pub(crate) written: Tick,
    pub(crate) deadline: Tick,
    /// How long it is kept after `written`, where the deadline says no more than that.
    pub(crate) ttl: Option<Span>,
    /// The deadline was rounded to coarse units where it stood before, and stays in them.
    pub(crate) coarse: bool,
    pub(crate) attempt: u32,
    pub(crate) revision: u32,
    /// The outcome, or the checkpoint.
    pub(crate) body: &'a [u8],
}

/// Where a draft is to be written: how much room, and how its deadline is put.
pub(crate) struct Fit {
    pub(crate) words: usize,
    expires: u32,
    coarse: bool,
    /// It is put in coarse units only because the segment is too old for others.
    pub(crate) stretched: bool,
    /// The deadline as the record will say it, which may be a little later.
    pub(crate) deadline: Tick,
}

impl<'a> Draft<'a> {
    /// A finished claim.
    pub(crate) fn completed(
        key: CheckedKey<'a>,
        fingerprint: Fingerprint,
        generation: u64,
        written: Tick,
        ttl: Span,
    ) -> Self {
        Draft {
            kind: Kind::Completed,
            key,
            fingerprint,
            generation,
            tag: 0,
            written,
            deadline: written.after(ttl),
            ttl: Some(ttl),
            coarse: false,
            attempt: 0,
            revision: 0,
            body: &[],
        }
    }

    /// An unfinished claim, as it is now.
    pub(crate) fn claimed(
        key: CheckedKey<'a>,
        fingerprint: Fingerprint,
        generation: u64,
        [started, forget_at]: [Tick; 2],
        [attempt, revision]: [u32; 2],
        checkpoint: Option<&'a [u8]>,
    ) -> Self {
        let mut tag = 0;
        if checkpoint.is_some() {
            tag |= NOTED;
        }
        if attempt != 0 || revision != 0 {
            tag |= COUNTED;
        }
        Draft {
            kind: Kind::Claimed,
            key,
            fingerprint,
            generation,
            tag,
            written: started,
            deadline: forget_at,
            ttl: None,
            coarse: false,
            attempt,
            revision,
            body: checkpoint.unwrap_or_default(),
        }
    }

    /// The end of a key without an outcome; kept until `deadline`, that of what it ends.
    pub(crate) fn ended(kind: Kind, key: CheckedKey<'a>, generation: u64, deadline: Tick) -> Self {
        Draft {
            kind,
            key,
            fingerprint: Fingerprint::NONE,
            generation,
            tag: 0,
            written: Tick(0),
            deadline,
            ttl: None,
            coarse: false,
            attempt: 0,
            revision: 0,
            body: &[],
        }
    }

    fn says_written(&self, segment_ttl: Span) -> bool {
        match self.kind {
            Kind::Completed => self.ttl != Some(segment_ttl),
            Kind::Claimed => true,
            Kind::Released | Kind::Forgotten => false,
        }
    }

    fn is_counted(&self) -> bool {
        self.kind == Kind::Claimed && self.tag & COUNTED != 0
    }

    /// Words this record takes in a segment with that ttl.
    pub(crate) fn words(&self, segment_ttl: Span) -> usize {
        FIXED
            + if self.fingerprint.is_none() { 0 } else { 2 }
            + usize::from(self.says_written(segment_ttl))
            + usize::from(self.is_counted())
            + (self.key.len() + self.body.len()).div_ceil(WORD)
    }

    /// Does it fit into the room a claim on its key sets aside?
    pub(crate) fn is_covered(&self) -> bool {
        let ttl = self.ttl.unwrap_or(Span::from_millis(0));
        (self.words(ttl) + 1) * WORD <= room_for_empty(self.key)
    }

    /// How it is written in a segment that tells time like this; `None` if its deadline is out
    /// of range there.
    pub(crate) fn fit(&self, time: &TimeBase) -> Option<Fit> {
        let span = Span::from_millis(self.deadline.0.saturating_sub(self.written.0));
        let long = self.coarse || self.ttl.unwrap_or(span) > FINE;
        let (coarse, expires) = match time.expires(self.deadline, long) {
            Some(expires) => (long, expires),
            None => (true, time.expires(self.deadline, true)?),
        };
        Some(Fit {
            words: self.words(time.ttl),
            expires,
            coarse,
            stretched: coarse && !long,
            deadline: time.deadline(expires, coarse),
        })
    }

    /// Writes the record to `to`, whose length is `fit.words`, but for its first two words,
    /// which are returned.
    fn write_rest(&self, time: &TimeBase, fit: &Fit, to: &[Word]) -> [u64; 2] {
        debug_assert_eq!(to.len(), fit.words);
        let bytes = self.key.len() + self.body.len();
        let mut flags = 0;
        if !self.fingerprint.is_none() {
            flags |= FINGERPRINT;
        }
        if self.says_written(time.ttl) {
            flags |= WRITTEN;
        }
        if fit.coarse {
            flags |= COARSE;
        }
        let pad = bytes.next_multiple_of(WORD) - bytes;
        let mut out = WordWriter::new(&to[2..]);
        out.word(self.generation << 16 | u64::from(self.tag));
        if flags & FINGERPRINT != 0 {
            self.fingerprint.to_words().into_iter().for_each(|w| out.word(w));
        }
        if flags & WRITTEN != 0 {
            out.word(self.written.0);
        }
        if self.is_counted() {
            out.word(u64::from(self.attempt) << 32 | u64::from(self.revision));
        }
        out.bytes(self.key.scope());
        out.bytes(self.key.id());
        out.bytes(self.body);
        out.finish();
        let w0 = to.len() as u64
            | (self.kind as u64) << KIND_AT
            | flags << FLAGS_AT
            | (self.key.scope().len() as u64) << SCOPE_AT
            | (self.key.id().len() as u64) << ID_AT
            | (pad as u64) << PAD_AT;
        [w0, u64::from(fit.expires) << 32]
    }

    /// Writes the record where nothing is recovered from: without a sum.
    pub(crate) fn write(&self, time: &TimeBase, fit: &Fit, to: &[Word]) {
        for (word, to) in self.write_rest(time, fit, to).into_iter().zip(to) {
            to.store(word.to_le(), Ordering::Relaxed);
        }
    }

    /// Writes the record as the log wants it, at this word of its segment.
    pub(crate) fn write_summed(&self, time: &TimeBase, fit: &Fit, to: &[Word], stamp: Stamp, word: usize) {
        let [w0, _] = self.write_rest(time, fit, to);
        stamp.seal(w0, fit.expires, to, word);
    }
}

/// The largest number of bytes a record without an outcome can take for this key: what a claim
/// sets aside so that it can always be completed.
pub(crate) fn room_for_empty(key: CheckedKey<'_>) -> usize {
    (FIXED + 2 + 1 + key.len().div_ceil(WORD)) * WORD
}

/// A record where it lies.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    words: Published<'a>,
    w0: u64,
    time: TimeBase,
    /// Scope, id and outcome, without the padding.
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads the record at the start of `words`; `None` if there is none or its lengths do not
    /// add up. No length is believed before it was compared with the room there is.
    #[inline]
    pub(crate) fn read(words: Published<'a>, time: TimeBase) -> Option<Self> {
        let w0 = words.word(0);
        let len = field(w0, 0, LEN_BITS) as usize;
        let words = words.first(len)?;
        let is_keyed = kind_bits(w0).wrapping_sub(1) < 4;
        if len < FIXED || !is_keyed || w0 >> END_AT != 0 {
            return None;
        }
        let mut record = Record {
            words,
            w0,
            time,
            bytes: &[],
        };
        let bytes = words.bytes_from(FIXED + record.optional_words());
        let len = bytes.len().checked_sub(field(w0, PAD_AT, END_AT) as usize)?;
        record.bytes = &bytes[..len];
        (record.key_len() <= len).then_some(record)
    }

    pub(crate) fn len_words(&self) -> usize {
        self.words.len()
    }

    pub(crate) fn kind(&self) -> Kind {
        // `read` lets no other kind through.
        Kind::of(self.w0).unwrap_or(Kind::Completed)
    }

    /// Which of two records of one key counts: the larger.
    pub(crate) fn order(&self) -> (u64, u64) {
        let rank = match self.kind() {
            Kind::Claimed => u64::from(self.revision()),
            Kind::Completed | Kind::Released | Kind::Forgotten => u64::MAX,
        };
        (self.generation(), rank)
    }

    #[inline]
    pub(crate) fn deadline(&self) -> Tick {
        let early = u32::from(cfg!(onceonly_sabotage = "expire_early"));
        let expires = (self.words.word(1) >> 32) as u32;
        self.time
            .deadline(expires.saturating_sub(early), self.flag(COARSE))
    }

    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.words.word(2) >> 16
    }

    #[inline]
    pub(crate) fn tag(&self) -> u16 {
        self.words.word(2) as u16
    }

    #[inline]
    pub(crate) fn fingerprint(&self) -> Fingerprint {
        if self.flag(FINGERPRINT) {
            Fingerprint::from_words([self.words.word(FIXED), self.words.word(FIXED + 1)])
        } else {
            Fingerprint::NONE
        }
    }

    /// When it was completed, or its generation began.
    pub(crate) fn written(&self) -> Tick {
        if self.flag(WRITTEN) {
            Tick(self.words.word(self.written_at()))
        } else {
            Tick(self.deadline().0.saturating_sub(1 + self.time.ttl.millis()))
        }
    }

    /// A moment that had come when this was written, as far as the record says one exactly.
    pub(crate) fn moment(&self) -> Tick {
        match self.kind() {
            _ if self.flag(WRITTEN) => self.written(),
            Kind::Completed if !self.flag(COARSE) => self.written(),
            _ => Tick(0),
        }
    }

    fn written_at(&self) -> usize {
        FIXED + if self.flag(FINGERPRINT) { 2 } else { 0 }
    }

    /// Takeovers, and how often the claim was written again; zero in other kinds.
    fn counts(&self) -> u64 {
        if self.is_counted() {
            self.words
                .word(self.written_at() + usize::from(self.flag(WRITTEN)))
        } else {
            0
        }
    }

    pub(crate) fn attempt(&self) -> u32 {
        (self.counts() >> 32) as u32
    }

    pub(crate) fn revision(&self) -> u32 {
        self.counts() as u32
    }

    /// The note of an unfinished claim.
    pub(crate) fn checkpoint(&self) -> Option<&'a [u8]> {
        (self.kind() == Kind::Claimed && self.tag() & NOTED != 0).then(|| self.outcome())
    }

    /// The same record, to be written elsewhere.
    pub(crate) fn draft(&self) -> Option<Draft<'a>> {
        // Said by its absence.
        let by_ttl = self.kind() == Kind::Completed && !self.flag(WRITTEN);
        let ttl = by_ttl.then_some(self.time.ttl);
        // It was rounded up with the deadline, and where it is spelled out it is taken for exact.
        let rounded = if by_ttl && self.flag(COARSE) {
            COARSE_UNIT - 1
        } else {
            0
        };
        Some(Draft {
            kind: self.kind(),
            key: self.key()?,
            fingerprint: self.fingerprint(),
            generation: self.generation(),
            tag: self.tag(),
            written: Tick(self.written().0.saturating_sub(rounded)),
            deadline: self.deadline(),
            ttl,
            coarse: self.flag(COARSE),
            attempt: self.attempt(),
            revision: self.revision(),
            body: self.outcome(),
        })
    }

    #[inline]
    pub(crate) fn is_for(&self, key: CheckedKey<'_>) -> bool {
        if cfg!(onceonly_sabotage = "swap_scope") {
            return self.bytes[..self.key_len()] == [key.scope(), key.id()].concat();
        }
        self.scope_len() == key.scope().len() && self.id_len() == key.id().len() && {
            let (scope, rest) = self.bytes.split_at(self.scope_len());
            same_bytes(scope, key.scope()) && same_bytes(&rest[..key.id().len()], key.id())
        }
    }

    pub(crate) fn key(&self) -> Option<CheckedKey<'a>> {
        let (scope, id) = self.bytes[..self.key_len()].split_at(self.scope_len());
        CheckedKey::from_parts(scope, id)
    }

    /// What follows the key.
    #[inline]
    pub(crate) fn outcome(&self) -> &'a [u8] {
        &self.bytes[self.key_len()..]
    }

    #[inline]
    fn optional_words(&self) -> usize {
        (if self.flag(FINGERPRINT) { 2 } else { 0 })
            + usize::from(self.flag(WRITTEN))
            + usize::from(self.is_counted())
    }

    #[inline]
    fn is_counted(&self) -> bool {
        kind_bits(self.w0) == Kind::Claimed as u64 && self.tag() & COUNTED != 0
    }

    #[inline]
    fn flag(&self, flag: u64) -> bool {
        field(self.w0, FLAGS_AT, SCOPE_AT) & flag != 0
    }

    #[inline]
    fn scope_len(&self) -> usize {
        field(self.w0, SCOPE_AT, ID_AT) as usize
    }

    #[inline]
    fn id_len(&self) -> usize {
        field(self.w0, ID_AT, PAD_AT) as usize
    }

    #[inline]
    fn key_len(&self) -> usize {
        self.scope_len() + self.id_len()
    }
}

/// Bits `from..to` of a word.
#[inline]
fn field(word: u64, from: u32, to: u32) -> u64 {
    word >> from & ((1 << (to - from)) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;
    use proptest::prelude::*;

    fn memory(words: usize) -> Vec<Word> {
        (0..words).map(|_| Word::new(0)).collect()
    }

    fn read(words: &[Word], time: TimeBase) -> Option<Record<'_>> {
        // SAFETY: the tests write before they read, on one thread.
        #[allow(unsafe_code)]
        Record::read(unsafe { Published::new(words) }, time)
    }

    fn time() -> TimeBase {
        TimeBase::new(Tick(1_000), Span::from_millis(60_000))
    }

    #[test]
    fn golden_bytes() {
        let key = Key::new("acme", "order-1").check().unwrap();
        let fingerprint = Fingerprint::from_bytes(*b"0123456789abcdef");
        let record = Draft {
            tag: 201,
            body: b"paid",
            ..Draft::completed(key, fingerprint, 7, Tick(1_500), Span::from_millis(60_000))
        };
        let fit = record.fit(&time()).unwrap();
        let to = memory(fit.words);
        record.write(&time(), &fit, &to);
        // SAFETY: written above, on this thread.
        #[allow(unsafe_code)]
        let bytes = unsafe { Published::new(&to) }.bytes_from(0);
        #[rustfmt::skip]
        let golden: &[u8] = &[
            // 7 words, kind 1, flags FINGERPRINT, scope 4, id 7, pad 1
            0x07, 0x00, 0x00, 0x11, 0x82, 0x03, 0x04, 0x00,
            // crc 0, expires 60,501
            0x00, 0x00, 0x00, 0x00, 0x55, 0xec, 0x00, 0x00,
            // tag 201, generation 7
            0xc9, 0x00, 0x07, 0x00, 0x00, 0x00, 0x00, 0x00,
        ];
        assert_eq!(&bytes[..24], golden);
        assert_eq!(&bytes[24..], b"0123456789abcdefacmeorder-1paid\0");
    }

    #[test]
    fn a_first_word_is_known_at_a_glance() {
        assert!(is_first_word(bare_word(1, FIXED)) && is_first_word(bare_word(15, 1 << 20)));
        assert!(!is_first_word(0) && !is_first_word(bare_word(0, FIXED)));
        assert!(!is_first_word(bare_word(1, FIXED - 1)));
        assert!(!is_first_word(bare_word(1, FIXED) | 1 << END_AT));
        assert!(!is_first_word(u64::MAX));
    }

    #[test]
    fn zeroed_memory_is_no_record() {
        assert!(read(&memory(64), time()).is_none());
        assert!(read(&[], time()).is_none());
    }

    #[test]
    fn deadlines_round_up_and_stay_in_range() {
        let time = time();
        let expires = time.expires(Tick(1_001), true).unwrap();
        assert_eq!(time.deadline(expires, true), Tick(2_000));
        assert_eq!(time.expires(Tick(999), false), None);
        assert_eq!(time.expires(Tick(1_000 + (1 << 32)), false), None);
        let key = Key::unscoped("k").check().unwrap();
        let fit = |ttl| {
            let draft = Draft::completed(key, Fingerprint::NONE, 1, Tick(1_000), Span::from_millis(ttl));
            draft.fit(&time).map(|fit| fit.deadline)
        };
        assert_eq!(fit(5), Some(Tick(1_006)), "exact");
        assert_eq!(fit(FINE.millis() + 1), Some(Tick(1_000 + FINE.millis() + 1_000)));
    }

    /// A record in an old segment has its deadline in whole seconds, and its moment with it. Written
    /// again in a new segment it said them in ticks: exactly, so it seemed, and the store's time
    /// began up to a second late, past the deadlines of others.
    #[test]
    fn what_was_rounded_is_not_taken_for_exact_when_it_is_written_again() {
        let ttl = Span::from_millis(60_000);
        let old = TimeBase::new(Tick(1_000), ttl);
        let completed = Tick(old.base.0 + (1 << 32) + 1);
        let key = Key::unscoped("k").check().unwrap();
        let draft = Draft::completed(key, Fingerprint::NONE, 1, completed, ttl);
        let write = |draft: &Draft<'_>, time: &TimeBase| {
            let fit = draft.fit(time).unwrap();
            let to = memory(fit.words);
            draft.write(time, &fit, &to);
            to
        };
        let first = write(&draft, &old);
        let first = read(&first, old).unwrap();
        assert!(first.deadline() > draft.deadline, "it was rounded");
        let base = Tick(completed.0 - completed.0 % COARSE_UNIT);
        for ttl in [ttl, Span::from_millis(5_000)] {
            let new = TimeBase::new(base, ttl);
            let again = write(&first.draft().unwrap(), &new);
            let again = read(&again, new).unwrap();
            assert_eq!(again.deadline(), first.deadline());
            assert!(again.moment() <= completed, "{:?} {completed:?}", again.moment());
        }
    }

    fn written(record: &Draft<'_>, time: TimeBase) -> Vec<Word> {
        let fit = record.fit(&time).unwrap();
        let to = memory(fit.words);
        record.write(&time, &fit, &to);
        to
    }

    fn draft(scope: &'static str, id: &'static str) -> Draft<'static> {
        let key = match scope {
            "" => Key::unscoped(id),
            _ => Key::new(scope, id),
        };
        let ttl = Span::from_millis(60_000);
        Draft::completed(key.check().unwrap(), Fingerprint::NONE, 7, Tick(1_500), ttl)
    }

    /// The sum as this page draws it, over a record longer than any buffer.
    #[test]
    fn golden_sum() {
        let body = [0xa5; 1_500];
        let record = Draft {
            body: &body,
            ..draft("acme", "order-1")
        };
        let fit = record.fit(&time()).unwrap();
        let to = memory(fit.words);
        record.write_summed(&time(), &fit, &to, Stamp::new(11, 12, 13), 99);
        let word = |at: usize| u64::from_le(to[at].load(Ordering::Relaxed));
        let bytes: Vec<u8> = (0..to.len()).flat_map(|at| word(at).to_le_bytes()).collect();
        let identity: Vec<u8> = [11u64, 12, 13].iter().flat_map(|w| w.to_le_bytes()).collect();
        let own = crc32fast::hash(&[&bytes[..8], &bytes[16..]].concat());
        let expires = (word(1) >> 32) as u32;
        assert_eq!(expires, 60_501);
        let rest = [
            &99u64.to_le_bytes()[..],
            &expires.to_le_bytes(),
            &own.to_le_bytes(),
        ]
        .concat();
        assert_eq!(word(1) as u32, crc32fast::hash(&[identity, rest].concat()));
        // Two words hold no record, whatever they say.
        assert!(!Stamp::new(11, 12, 13).holds(&to[..2], 99));
    }

    #[test]
    fn a_record_is_for_its_key_alone() {
        let to = written(&draft("ab", "cd"), time());
        let found = read(&to, time()).unwrap();
        let is_for = |scope, id| found.is_for(draft(scope, id).key);
        assert!(is_for("ab", "cd"));
        for (scope, id) in [
            ("a", "bcd"),
            ("abc", "d"),
            ("", "abcd"),
            ("ab", "cde"),
            ("ab", "c"),
        ] {
            assert!(!is_for(scope, id), "{scope}/{id}");
        }
        for (scope, id) in [("ab", "ce"), ("ax", "cd"), ("xb", "ed")] {
            assert!(!is_for(scope, id), "{scope}/{id}");
        }
    }

    /// Generations first; then whatever ended the claim comes after the claim.
    #[test]
    fn of_two_records_of_a_key_the_later_counts() {
        let key = draft("a", "b").key;
        let claim = |generation, revision| {
            let times = [Tick(1_500), Tick(9_000)];
            Draft::claimed(key, Fingerprint::NONE, generation, times, [0, revision], None)
        };
        let ended = |kind, generation| Draft::ended(kind, key, generation, Tick(9_000));
        let rising = [
            claim(1, 0),
            claim(1, 1),
            claim(1, u32::MAX),
            ended(Kind::Released, 1),
            claim(2, 0),
            Draft {
                generation: 2,
                ..draft("a", "b")
            },
            claim(3, 5),
            ended(Kind::Forgotten, 3),
        ];
        let orders: Vec<_> = rising
            .iter()
            .map(|record| {
                let to = written(record, time());
                let found = read(&to, time()).unwrap();
                assert_eq!(found.kind(), record.kind);
                assert_eq!(found.generation(), record.generation);
                found.order()
            })
            .collect();
        assert!(orders.windows(2).all(|two| two[0] < two[1]), "{orders:?}");
    }

    #[test]
    fn only_a_claim_has_a_checkpoint() {
        let noted = |kind| {
            let record = Draft {
                kind,
                tag: NOTED,
                body: b"half way",
                ..draft("a", "b")
            };
            let to = written(&record, time());
            read(&to, time()).unwrap().checkpoint().map(<[u8]>::to_vec)
        };
        assert_eq!(noted(Kind::Claimed).unwrap(), b"half way");
        assert_eq!(noted(Kind::Completed), None, "the tag is the caller's");
    }

    /// Restarted clocks go on from the latest moment a record knows of, so it must not be later than
    /// the record was written.
    #[test]
    fn a_record_knows_the_moment_it_was_written_or_says_none() {
        let key = draft("a", "b").key;
        let moment = |record: &Draft<'_>, time| {
            let to = written(record, time);
            read(&to, time).unwrap().moment()
        };
        assert_eq!(moment(&draft("a", "b"), time()), Tick(1_500), "by its deadline");
        let own_ttl = Draft::completed(key, Fingerprint::NONE, 7, Tick(1_500), Span::from_millis(5));
        assert_eq!(moment(&own_ttl, time()), Tick(1_500), "in its own word");
        let long = Span::from_millis(30 * 24 * 3_600_000);
        let coarse = Draft::completed(key, Fingerprint::NONE, 7, Tick(1_500), long);
        assert_eq!(
            moment(&coarse, TimeBase::new(Tick(1_000), long)),
            Tick(0),
            "rounded"
        );
        assert_eq!(
            moment(&coarse, time()),
            Tick(1_500),
            "rounded, and in its own word"
        );
        let ended = Draft::ended(Kind::Released, key, 7, Tick(9_000));
        assert_eq!(moment(&ended, time()), Tick(0));
    }

    /// So that a segment may be filled for as long again before its deadlines leave 32 bits.
    #[test]
    fn ttls_up_to_24_days_are_kept_to_the_tick() {
        let days = |days: u64| Span::from_millis(days * 24 * 3_600_000);
        let fits_exactly = |ttl: Span, written: u64| {
            let record = Draft::completed(draft("a", "b").key, Fingerprint::NONE, 7, Tick(written), ttl);
            record.fit(&time()).unwrap().deadline == record.deadline
        };
        assert!(fits_exactly(days(24), 1_234) && fits_exactly(days(24), 1_234 + days(24).millis()));
        assert!(!fits_exactly(Span::from_millis(days(24).millis() + 1), 1_234));
        assert_eq!((COARSE_UNIT, MAX_OUTCOME), (1_000, 67_108_864));
    }

    #[test]
    fn a_claim_sets_aside_room_for_any_completion_without_an_outcome() {
        let key = draft("acme", "order-1").key;
        // Three words, a fingerprint, a ttl of its own, 11 bytes of key.
        assert_eq!(room_for_empty(key), 64);
        let fingerprint = Fingerprint::from_bytes([1; 16]);
        let empty = Draft::completed(key, fingerprint, 7, Tick(1_500), Span::from_millis(5));
        assert_eq!(empty.words(Span::from_millis(60_000)), 8);
        assert!(empty.is_covered());
        let filled = |len| Draft {
            body: &[1; 100][..len],
            ..empty
        };
        // The key leaves five bytes of its last word.
        assert!(filled(5).is_covered() && !filled(6).is_covered());
        let bare = Draft {
            fingerprint: Fingerprint::NONE,
            ..filled(21)
        };
        assert!(bare.is_covered(), "in the fingerprint's place");
    }

    #[test]
    fn lengths_that_do_not_add_up_are_no_record() {
        let record = Draft {
            body: b"paid",
            fingerprint: Fingerprint::from_bytes([1; 16]),
            ..draft("acme", "order-1")
        };
        let to = written(&record, time());
        assert!(read(&to, time()).is_some());
        let w0 = u64::from_le(to[0].load(Ordering::Relaxed));
        let says = |w0: u64| {
            to[0].store(w0.to_le(), Ordering::Relaxed);
            read(&to, time()).is_some()
        };
        for len in 0..to.len() as u64 {
            assert!(!says(w0 >> LEN_BITS << LEN_BITS | len), "{len} words");
        }
        assert!(!says(w0 + 1), "more than there are");
        for kind in 0..16 {
            let other = w0 & !(15 << KIND_AT) | kind << KIND_AT;
            assert_eq!(says(other), (1..=4).contains(&kind), "kind {kind}");
        }
        for bit in END_AT..64 {
            assert!(!says(w0 | 1 << bit), "bit {bit}");
        }
        // 15 bytes and a pad of one fill their words: every byte more is one too many.
        assert!(!says(w0 + (8 << ID_AT)) && !says(w0 + (8 << SCOPE_AT)));
        assert!(!says(w0 | WRITTEN << FLAGS_AT | 7 << PAD_AT));
        assert!(says(w0));
    }

    /// A claim's flags in the tag of another kind mean nothing.
    #[test]
    fn only_claims_are_counted() {
        let record = Draft {
            tag: COUNTED | NOTED,
            body: b"paid",
            ..draft("acme", "order-1")
        };
        let to = written(&record, time());
        let found = read(&to, time()).unwrap();
        assert_eq!((found.attempt(), found.revision()), (0, 0));
        assert_eq!(found.outcome(), b"paid");
        for counts in [[0, 0], [0, 1], [1, 0]] {
            let times = [Tick(1_500), Tick(9_000)];
            let claim = Draft::claimed(record.key, Fingerprint::NONE, 7, times, counts, Some(b"note"));
            let counted = usize::from(counts != [0, 0]);
            // Fixed, written, the counts, 15 bytes.
            assert_eq!(claim.words(Span::from_millis(1)), 3 + 1 + counted + 2);
            let to = written(&claim, time());
            let found = read(&to, time()).unwrap();
            assert_eq!([found.attempt(), found.revision()], counts);
            assert_eq!(found.checkpoint(), Some(&b"note"[..]));
        }
    }

    fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(any::<u8>(), 0..max)
    }

    proptest! {
        #[test]
        fn every_field_round_trips(
            scope in bytes(256), id in prop::collection::vec(any::<u8>(), 1..1_025), outcome in bytes(300),
            fp in any::<[u8; 16]>(), use_fp in any::<bool>(), generation in 0..1u64 << 48,
            tag in any::<u16>(), written in 1_000u64..1 << 30, ttl in prop_oneof![Just(60_000u64), 1..1u64 << 31],
        ) {
            let key = if scope.is_empty() { Key::unscoped(&id) } else { Key::new(&scope, &id) };
            let fingerprint = if use_fp { Fingerprint::from_bytes(fp) } else { Fingerprint::NONE };
            let record = Draft {
                tag,
                body: &outcome,
                ..Draft::completed(key.check().unwrap(), fingerprint, generation, Tick(written), Span::from_millis(ttl))
            };
            let fit = record.fit(&time()).unwrap();
            let to = memory(fit.words);
            prop_assert!(to.len() * WORD <= room_for_empty(record.key) + outcome.len() + WORD);
            let stamp = Stamp::new(1, 2, 3);
            record.write_summed(&time(), &fit, &to, stamp, 9);
            prop_assert!(stamp.holds(&to, 9));
            prop_assert!(!stamp.holds(&to, 10) && !Stamp::new(1, 2, 4).holds(&to, 9));
            let found = read(&to, time()).unwrap();
            prop_assert_eq!(found.len_words(), to.len());
            prop_assert!(found.is_for(record.key));
            prop_assert!(found.key() == Some(record.key));
            prop_assert_eq!(found.fingerprint(), record.fingerprint);
            prop_assert_eq!(found.generation(), generation);
            prop_assert_eq!(found.tag(), tag);
            prop_assert_eq!(found.written(), record.written);
            prop_assert_eq!(found.deadline(), fit.deadline);
            prop_assert_eq!(found.outcome(), &outcome[..]);
            let copy = found.draft().unwrap();
            prop_assert_eq!(copy.fit(&time()).map(|f| (f.words, f.deadline)), Some((fit.words, fit.deadline)));
        }

        #[test]
        fn claims_round_trip(
            id in prop::collection::vec(any::<u8>(), 1..100), note in prop::option::of(bytes(100)),
            attempt in any::<u32>(), revision in any::<u32>(), started in 1_000u64..1 << 30, kept in 1..1u64 << 31,
        ) {
            let key = Key::unscoped(&id).check().unwrap();
            let times = [Tick(started), Tick(started + kept)];
            let claim = Draft::claimed(key, Fingerprint::NONE, 5, times, [attempt, revision], note.as_deref());
            let fit = claim.fit(&time()).unwrap();
            let to = memory(fit.words);
            claim.write(&time(), &fit, &to);
            let found = read(&to, time()).unwrap();
            prop_assert_eq!(found.kind(), Kind::Claimed);
            prop_assert_eq!((found.attempt(), found.revision()), (attempt, revision));
            prop_assert_eq!((found.written(), found.deadline()), (times[0], fit.deadline));
            prop_assert_eq!(found.checkpoint(), note.as_deref());
            prop_assert!(found.key() == Some(key));
            prop_assert_eq!(found.order(), (5, u64::from(revision)));
        }

        /// Whatever the words say, reading stays inside them and does not panic.
        #[test]
        fn arbitrary_words_are_read_or_refused(words in prop::collection::vec(any::<u64>(), 1..40), len in 0u64..50) {
            let words: Vec<_> = words
                .into_iter()
                .enumerate()
                .map(|(i, w)| Word::new(if i == 0 { (w & !0xff_ffff & ((1 << END_AT) - 1)) | len } else { w }))
                .collect();
            if let Some(record) = read(&words, time()) {
                let _ = (record.draft().is_some(), record.checkpoint(), record.key(), record.outcome(), record.written(), record.fingerprint(), record.deadline());
            }
        }
    }
}
