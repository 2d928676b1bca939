//! The bytes of one record. This page is the specification of the format.
//!
//! A record is written once and never changed. It is a run of 8-byte little-endian words:
//!
//! ```text
//!        63        53 52 50 49     39 38    31 30  28 27  24 23                0
//!       +------------+-----+---------+--------+------+------+-------------------+
//!  w0   |     0      | pad | id_len  |scope_ln| flags| kind |     len_words     |
//!       +------------+-----+---------+--------+------+------+-------------------+
//!  w1   |  expires, in units after the base   |    crc (0 in memory)            |
//!       +-------------------------------------+---------------------------------+
//!  w2   |              generation (48)                      |      tag (16)     |
//!       +---------------------------------------------------+-------------------+
//!  [fingerprint, 2 words, if FINGERPRINT]     none: Fingerprint::NONE
//!  [written, 1 word, if WRITTEN]              none: expires - 1 - the segment's ttl
//!  scope, id, outcome, end to end, then `pad` (0..=7) zero bytes
//! ```
//!
//! - `len_words` counts the whole record. Zero means that nothing is written here.
//! - `kind` zero is reserved, so that zeroed memory is never a record.
//! - `expires` and the base: a segment has a base tick and a unit (1 or 1,000 ticks); the
//!   deadline in ticks is `base + expires * unit`, rounded up when written.
//! - `written` is the tick of completion; records whose ttl is the segment's own leave it out.
//!
//! Overhead over key and outcome: 24 bytes and 3.5 of padding on average, 16 more with a
//! fingerprint, 8 more with a ttl of its own.

use super::words::{Published, WORD, WordWriter};
use crate::clock::{Span, Tick};
use crate::fingerprint::Fingerprint;
use crate::key::{CheckedKey, MAX_ID, MAX_SCOPE};
use crate::sync::AtomicU64;

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

/// Words before the optional ones.
const FIXED: usize = 3;

const _: () = assert!(MAX_SCOPE < 1 << (ID_AT - SCOPE_AT));
const _: () = assert!(MAX_ID < 1 << (PAD_AT - ID_AT));
const _: () = assert!((MAX_OUTCOME + MAX_SCOPE + MAX_ID) / WORD + FIXED + 4 < 1 << LEN_BITS);

/// The word 0 kind of a completed record.
const COMPLETED: u64 = 1;

/// How a segment tells time: where its deadlines count from, in which unit, and the ttl most of
/// its records have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimeBase {
    pub(crate) base: Tick,
    /// Ticks per unit of `expires`.
    pub(crate) unit: u64,
    pub(crate) ttl: Span,
}

/// A ttl up to which deadlines are kept in ticks: 24 days, so that a segment of that class can
/// stay open for as long again before its deadlines leave 32 bits.
const FINE: Span = Span::from_millis(24 * 24 * 3_600 * 1_000);

impl TimeBase {
    pub(crate) fn new(base: Tick, ttl: Span) -> Self {
        if ttl > FINE {
            return Self::coarse(base, ttl);
        }
        TimeBase { base, unit: 1, ttl }
    }

    /// A base whose deadlines are kept in whole seconds, whatever the ttl.
    pub(crate) fn coarse(base: Tick, ttl: Span) -> Self {
        TimeBase {
            base,
            unit: 1_000,
            ttl,
        }
    }

    /// The deadline as a record states it, rounded up; `None` if it is out of range here.
    pub(crate) fn expires(&self, deadline: Tick) -> Option<u32> {
        let after = deadline.0.checked_sub(self.base.0)?;
        u32::try_from(after.div_ceil(self.unit)).ok()
    }

    pub(crate) fn deadline(&self, expires: u32) -> Tick {
        Tick(self.base.0 + u64::from(expires) * self.unit)
    }
}

/// A completed record about to be written.
#[derive(Clone, Copy)]
pub(crate) struct Completed<'a> {
    pub(crate) key: CheckedKey<'a>,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) generation: u64,
    pub(crate) tag: u16,
    pub(crate) written: Tick,
    pub(crate) ttl: Span,
    pub(crate) outcome: &'a [u8],
}

impl Completed<'_> {
    pub(crate) fn deadline(&self) -> Tick {
        self.written.after(self.ttl)
    }

    /// Words this record takes in a segment with that ttl.
    pub(crate) fn words(&self, segment_ttl: Span) -> usize {
        FIXED
            + if self.fingerprint.is_none() { 0 } else { 2 }
            + usize::from(self.ttl != segment_ttl)
            + (self.key.len() + self.outcome.len()).div_ceil(WORD)
    }

    /// Does it fit into the room a claim on its key sets aside?
    pub(crate) fn is_covered(&self) -> bool {
        (self.words(self.ttl) + 1) * WORD <= room_for_empty(self.key)
    }

    /// Writes the record to the start of `to`, whose length is `self.words(time.ttl)`.
    pub(crate) fn write(&self, time: &TimeBase, expires: u32, to: &[AtomicU64]) {
        debug_assert_eq!(to.len(), self.words(time.ttl));
        let bytes = self.key.len() + self.outcome.len();
        let mut flags = 0;
        if !self.fingerprint.is_none() {
            flags |= FINGERPRINT;
        }
        if self.ttl != time.ttl {
            flags |= WRITTEN;
        }
        let pad = bytes.next_multiple_of(WORD) - bytes;
        let mut out = WordWriter::new(to);
        out.word(
            to.len() as u64
                | COMPLETED << KIND_AT
                | flags << FLAGS_AT
                | (self.key.scope().len() as u64) << SCOPE_AT
                | (self.key.id().len() as u64) << ID_AT
                | (pad as u64) << PAD_AT,
        );
        out.word(u64::from(expires) << 32);
        out.word(self.generation << 16 | u64::from(self.tag));
        if flags & FINGERPRINT != 0 {
            self.fingerprint.to_words().into_iter().for_each(|w| out.word(w));
        }
        if flags & WRITTEN != 0 {
            out.word(self.written.0);
        }
        out.bytes(self.key.scope());
        out.bytes(self.key.id());
        out.bytes(self.outcome);
        let written = out.finish();
        debug_assert_eq!(written, to.len());
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
}

impl<'a> Record<'a> {
    /// Reads the record at the start of `words`; `None` if there is none or its lengths do not
    /// add up. No length is believed before it was compared with the room there is.
    #[inline]
    pub(crate) fn read(words: Published<'a>, time: TimeBase) -> Option<Self> {
        let w0 = words.word(0);
        let len = field(w0, 0, LEN_BITS) as usize;
        let words = words.first(len)?;
        let record = Record { words, w0, time };
        let end = record.key_len() + field(w0, PAD_AT, END_AT) as usize;
        let fits = len >= FIXED && (len - FIXED) * WORD >= end + record.optional_words() * WORD;
        (fits && field(w0, KIND_AT, FLAGS_AT) == COMPLETED && w0 >> END_AT == 0).then_some(record)
    }

    pub(crate) fn len_words(&self) -> usize {
        self.words.len()
    }

    #[inline]
    pub(crate) fn deadline(&self) -> Tick {
        self.time.deadline((self.words.word(1) >> 32) as u32)
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

    /// When it was completed.
    pub(crate) fn written(&self) -> Tick {
        if self.flag(WRITTEN) {
            let at = FIXED + if self.flag(FINGERPRINT) { 2 } else { 0 };
            Tick(self.words.word(at))
        } else {
            Tick(self.deadline().0.saturating_sub(1 + self.time.ttl.millis()))
        }
    }

    #[inline]
    pub(crate) fn is_for(&self, key: CheckedKey<'_>) -> bool {
        self.scope_len() == key.scope().len() && self.id_len() == key.id().len() && {
            let (stored, _) = self.bytes().split_at(self.key_len());
            let (scope, id) = stored.split_at(self.scope_len());
            scope == key.scope() && id == key.id()
        }
    }

    pub(crate) fn key(&self) -> Option<CheckedKey<'a>> {
        let (scope, id) = self.bytes()[..self.key_len()].split_at(self.scope_len());
        CheckedKey::from_parts(scope, id)
    }

    #[inline]
    pub(crate) fn outcome(&self) -> &'a [u8] {
        &self.bytes()[self.key_len()..]
    }

    /// Scope, id and outcome, without the padding.
    #[inline]
    fn bytes(&self) -> &'a [u8] {
        let bytes = self.words.bytes_from(FIXED + self.optional_words());
        &bytes[..bytes.len() - field(self.w0, PAD_AT, END_AT) as usize]
    }

    #[inline]
    fn optional_words(&self) -> usize {
        (if self.flag(FINGERPRINT) { 2 } else { 0 }) + usize::from(self.flag(WRITTEN))
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

    fn memory(words: usize) -> Vec<AtomicU64> {
        (0..words).map(|_| AtomicU64::new(0)).collect()
    }

    fn read(words: &[AtomicU64], time: TimeBase) -> Option<Record<'_>> {
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
        let record = Completed {
            key,
            fingerprint: Fingerprint::from_bytes(*b"0123456789abcdef"),
            generation: 7,
            tag: 201,
            written: Tick(1_500),
            ttl: Span::from_millis(60_000),
            outcome: b"paid",
        };
        let to = memory(record.words(time().ttl));
        let expires = time().expires(record.deadline()).unwrap();
        record.write(&time(), expires, &to);
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
    fn zeroed_memory_is_no_record() {
        assert!(read(&memory(64), time()).is_none());
        assert!(read(&[], time()).is_none());
    }

    #[test]
    fn deadlines_round_up_and_stay_in_range() {
        let coarse = TimeBase::new(Tick(5), Span::from_millis(30 * 24 * 3_600_000));
        assert_eq!(coarse.unit, 1_000);
        let expires = coarse.expires(Tick(5 + 1)).unwrap();
        assert_eq!(coarse.deadline(expires), Tick(5 + 1_000));
        assert_eq!(coarse.expires(Tick(4)), None);
        assert_eq!(time().expires(Tick(1_000 + (1 << 32))), None);
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
            let record = Completed {
                key: key.check().unwrap(),
                fingerprint: if use_fp { Fingerprint::from_bytes(fp) } else { Fingerprint::NONE },
                generation, tag, written: Tick(written), ttl: Span::from_millis(ttl), outcome: &outcome,
            };
            let to = memory(record.words(time().ttl));
            prop_assert!(to.len() * WORD <= room_for_empty(record.key) + outcome.len() + WORD);
            record.write(&time(), time().expires(record.deadline()).unwrap(), &to);
            let found = read(&to, time()).unwrap();
            prop_assert_eq!(found.len_words(), to.len());
            prop_assert!(found.is_for(record.key));
            prop_assert!(found.key() == Some(record.key));
            prop_assert_eq!(found.fingerprint(), record.fingerprint);
            prop_assert_eq!(found.generation(), generation);
            prop_assert_eq!(found.tag(), tag);
            prop_assert_eq!(found.written(), record.written);
            prop_assert_eq!(found.deadline(), record.deadline());
            prop_assert_eq!(found.outcome(), &outcome[..]);
        }

        /// Whatever the words say, reading stays inside them and does not panic.
        #[test]
        fn arbitrary_words_are_read_or_refused(words in prop::collection::vec(any::<u64>(), 1..40), len in 0u64..50) {
            let words: Vec<_> = words
                .into_iter()
                .enumerate()
                .map(|(i, w)| AtomicU64::new(if i == 0 { (w & !0xff_ffff & ((1 << END_AT) - 1)) | len } else { w }))
                .collect();
            if let Some(record) = read(&words, time()) {
                let _ = (record.key(), record.outcome(), record.written(), record.fingerprint(), record.deadline());
            }
        }
    }
}
