//! The bytes of the log's files, but for those of keyed records, which `segment::record` draws.
//!
//! ```text
//!  LOCK            empty; whoever has its lock has the store
//!  STORE           a header and nothing else: this directory is that store
//!  0000002a.seg    a segment: header, records, zeros
//!  *.new           half-made, removed at the next open
//!
//!  header, 64 bytes
//!       +-----------+---------------------+----------+--------+------+------+-----+------------+
//!       | magic (8) | version 4 | what 4  | store id | serial | life | base | ttl | crc4 | len4|
//!       +-----------+---------------------+----------+--------+------+------+-----+------------+
//!  segment
//!       +--------+------+-----+-----+-------+-----+-----+------+----------------------+
//!       | header | MARK | rec | rec | VOUCH | rec | ... | SEAL | zeros or left-overs  |
//!       +--------+------+-----+-----+-------+-----+-----+------+----------------------+
//! ```
//!
//! - Words are little-endian. `what`: 1 the STORE file, 2 a segment. `serial` names the file and
//!   is never given to another one; `life` is a random number, new each time a file is begun.
//!   Both and the store id go into every record's sum ([`Stamp`](crate::segment::record::Stamp)).
//!   `len` is the file's length in words, `ttl` and `base` are explained at the record.
//! - A segment's header is durable before the file gets its name.
//! - The log is one stream of records. A segment's place in it, its *turn*, stands in the MARK
//!   it begins with: turns count up by one. A position is (turn, byte).
//! - A segment ends at its SEAL, or at the first word that is no record whose sum verifies. The
//!   last words of a file are kept for the SEAL: of the others only a VOUCH, the one of a clean
//!   close, reaches into them.
//!
//! Records without a key: the first two words are those of any record (no key, expires 0), then
//!
//! ```text
//!  MARK   8   ceiling, turn (32) | first (32), now, offset, vouched
//!  VOUCH  9   vouched
//!  SEAL  10   0
//! ```
//!
//! - `ceiling`: no generation so large has been given out; at most 2^48. Turns and serials stay
//!   below 2^31.
//! - `first`: segments of earlier turns hold nothing that counts.
//! - `now`: a moment of store time that has been reached. `offset`: store time less the wall
//!   clock's, in ticks, as far as it is to be kept ([`Timeline`](crate::clock::Timeline)).
//! - `vouched`: everything before that position was durable when this was written, so that
//!   whatever is missing there was damaged.

use crate::clock::{Span, Tick};
use crate::segment::record::{Stamp, bare_word, is_first_word, kind_bits, len_bits};
use crate::segment::table::HEADER_WORDS;
use crate::segment::words::WORD;
use crate::sync::{Ordering, Word};

/// The format written, and the newest read.
pub(crate) const VERSION: u32 = 1;

/// A generation has so many bits.
pub(crate) const GENERATIONS: u64 = 1 << 48;
/// More segments than any store begins, or makes files for.
const TURNS: u32 = 1 << 31;

/// More ticks than any ttl has, or any deadline lies after its segment's base.
const FAR: u64 = 1 << 60;

const MAGIC: u64 = u64::from_le_bytes(*b"onceonly");
pub(crate) const HEADER_BYTES: usize = HEADER_WORDS * WORD;

pub(crate) const LOCK: &str = "LOCK";
pub(crate) const STORE: &str = "STORE";
/// What a file is called until it is whole.
pub(crate) const UNFINISHED: &str = ".new";
const SEGMENT: &str = ".seg";

/// The name of a segment's file.
pub(crate) fn segment_name(serial: u32) -> String {
    format!("{serial:08x}{SEGMENT}")
}

/// The serial a name stands for, if it is a segment's.
pub(crate) fn serial_of(name: &str) -> Option<u32> {
    let serial = name.strip_suffix(SEGMENT)?;
    let serial = u32::from_str_radix(serial, 16).ok()?;
    (serial < TURNS && segment_name(serial) == name).then_some(serial)
}

/// A place in the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) struct Pos(u64);

impl Pos {
    pub(crate) const START: Pos = Pos(0);

    pub(crate) fn new(turn: u32, word: usize) -> Self {
        Pos(u64::from(turn) << 32 | (word * WORD) as u64)
    }

    pub(crate) fn turn(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Bytes from the segment's start.
    pub(crate) fn byte(self) -> u64 {
        self.0 & u64::from(u32::MAX)
    }
}

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Store = 1,
    Segment = 2,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    pub(crate) what: What,
    pub(crate) store: u64,
    pub(crate) serial: u32,
    pub(crate) life: u64,
    pub(crate) base: Tick,
    pub(crate) ttl: Span,
    /// Of the file.
    pub(crate) words: usize,
}

/// Why a header cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unreadable {
    /// No file of ours.
    Foreign,
    /// Written by a newer version.
    Newer(u32),
    Damaged,
}

impl Header {
    pub(crate) fn stamp(&self) -> Stamp {
        Stamp::new(self.store, u64::from(self.serial), self.life)
    }

    fn words(&self) -> [u64; HEADER_WORDS] {
        let mut words = [
            MAGIC,
            u64::from(VERSION) | (self.what as u64) << 32,
            self.store,
            u64::from(self.serial),
            self.life,
            self.base.0,
            self.ttl.millis(),
            (self.words as u64) << 32,
        ];
        words[7] |= u64::from(crc(&words));
        words
    }

    pub(crate) fn write(&self, to: &[Word]) {
        for (word, to) in self.words().into_iter().zip(to) {
            to.store(word.to_le(), Ordering::Relaxed);
        }
    }

    pub(crate) fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Header, Unreadable> {
        let mut words = [0; HEADER_WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        if words[0] != MAGIC {
            return Err(Unreadable::Foreign);
        }
        // Every version begins its files like this, with a sum over these words.
        let version = words[1] as u32;
        let sum = words[7] as u32;
        words[7] &= !u64::from(u32::MAX);
        if sum != crc(&words) {
            return Err(Unreadable::Damaged);
        }
        if version > VERSION {
            return Err(Unreadable::Newer(version));
        }
        let what = match words[1] >> 32 {
            1 => What::Store,
            2 => What::Segment,
            _ => return Err(Unreadable::Damaged),
        };
        // So far from the end of the numbers that no deadline in the segment overflows.
        let sane = words[5] <= u64::MAX - FAR && words[6] <= FAR;
        if version == 0 || !sane {
            return Err(Unreadable::Damaged);
        }
        Ok(Header {
            what,
            store: words[2],
            serial: u32::try_from(words[3]).map_err(|_| Unreadable::Damaged)?,
            life: words[4],
            base: Tick(words[5]),
            ttl: Span::from_millis(words[6]),
            words: (words[7] >> 32) as usize,
        })
    }
}

fn crc(words: &[u64; HEADER_WORDS]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for word in words {
        hasher.update(&word.to_le_bytes());
    }
    hasher.finalize()
}

/// What the log knows of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub(crate) ceiling: u64,
    pub(crate) turn: u32,
    pub(crate) first: u32,
    pub(crate) now: Tick,
    pub(crate) offset: i64,
    pub(crate) vouched: Pos,
}

/// A record without a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Note {
    Mark(Mark),
    Vouch(Pos),
    Seal,
}

const MARK: u64 = 8;
const VOUCH: u64 = 9;
const SEAL: u64 = 10;

pub(crate) const MARK_WORDS: usize = 7;
pub(crate) const VOUCH_WORDS: usize = 3;
pub(crate) const SEAL_WORDS: usize = 3;

impl Mark {
    /// Are its numbers any that a store comes to? What counts up from others would overflow.
    fn is_sane(&self) -> bool {
        self.ceiling <= GENERATIONS && self.turn < TURNS && self.now.0 <= u64::MAX - FAR
    }
}

impl Note {
    pub(crate) fn words(self) -> usize {
        match self {
            Note::Mark(_) => MARK_WORDS,
            Note::Vouch(_) => VOUCH_WORDS,
            Note::Seal => SEAL_WORDS,
        }
    }

    /// Writes it at this word of its segment.
    pub(crate) fn write(self, to: &[Word], stamp: Stamp, word: usize) {
        let (kind, rest) = match self {
            Note::Mark(mark) => {
                let turns = u64::from(mark.turn) << 32 | u64::from(mark.first);
                let rest = [
                    mark.ceiling,
                    turns,
                    mark.now.0,
                    mark.offset as u64,
                    mark.vouched.0,
                ];
                (MARK, rest)
            }
            Note::Vouch(pos) => (VOUCH, [pos.0, 0, 0, 0, 0]),
            Note::Seal => (SEAL, [0; 5]),
        };
        for (word, to) in rest.into_iter().zip(&to[2..self.words()]) {
            to.store(word.to_le(), Ordering::Relaxed);
        }
        stamp.seal(bare_word(kind, self.words()), 0, &to[..self.words()], word);
    }

    /// Reads a record whose sum has verified; `None` if it is none of these.
    fn read(words: &[Word]) -> Option<Note> {
        let word = |at: usize| {
            words
                .get(at)
                .map_or(0, |w| u64::from_le(w.load(Ordering::Relaxed)))
        };
        let note = match kind_bits(word(0)) {
            MARK => Note::Mark(Mark {
                ceiling: word(2),
                turn: (word(3) >> 32) as u32,
                first: word(3) as u32,
                now: Tick(word(4)),
                offset: word(5) as i64,
                vouched: Pos(word(6)),
            }),
            VOUCH => Note::Vouch(Pos(word(2))),
            SEAL => Note::Seal,
            _ => return None,
        };
        let is_sane = match note {
            Note::Mark(mark) => mark.is_sane(),
            Note::Vouch(_) | Note::Seal => true,
        };
        (is_sane && words.len() == note.words()).then_some(note)
    }
}

/// What stands at a word of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Entry {
    /// A record with a key, of so many words.
    Keyed(usize),
    Note(Note),
    /// Nothing that verifies.
    Nothing,
}

impl Entry {
    pub(crate) fn words(self) -> usize {
        match self {
            Entry::Keyed(words) => words,
            Entry::Note(note) => note.words(),
            Entry::Nothing => 0,
        }
    }
}

/// The same for what has been looked at before: lengths are checked, sums are not.
pub(crate) fn known_entry_at(words: &[Word], at: usize) -> Entry {
    let rest = words.get(at..).unwrap_or_default();
    let w0 = rest
        .first()
        .map_or(0, |w| u64::from_le(w.load(Ordering::Relaxed)));
    match rest.get(..len_bits(w0)) {
        Some(own) if !own.is_empty() => match Note::read(own) {
            Some(note) => Entry::Note(note),
            None => Entry::Keyed(own.len()),
        },
        _ => Entry::Nothing,
    }
}

/// Looks at the word `at` of a segment's words. No length is believed before it was compared
/// with the room there is, and nothing before its sum has verified.
pub(crate) fn entry_at(words: &[Word], at: usize, stamp: Stamp) -> Entry {
    let Some(rest) = words.get(at..) else {
        return Entry::Nothing;
    };
    let w0 = rest
        .first()
        .map_or(0, |w| u64::from_le(w.load(Ordering::Relaxed)));
    let Some(own) = rest.get(..len_bits(w0)) else {
        return Entry::Nothing;
    };
    if kind_bits(w0) == 0 || !stamp.holds(own, at) {
        return Entry::Nothing;
    }
    let is_in_the_way = at + own.len() + SEAL_WORDS > words.len();
    match Note::read(own) {
        Some(note @ (Note::Seal | Note::Vouch(_))) => Entry::Note(note),
        // It would be lost when the segment is sealed.
        _ if is_in_the_way => Entry::Nothing,
        Some(note) => Entry::Note(note),
        None if kind_bits(w0) <= 4 => Entry::Keyed(own.len()),
        None => Entry::Nothing,
    }
}

/// The first thing at this word or behind it that verifies, past whatever does not.
pub(crate) fn next_entry(words: &[Word], from: usize, stamp: Stamp) -> Option<(usize, Entry)> {
    (from..words.len()).find_map(|at| {
        let first = u64::from_le(words[at].load(Ordering::Relaxed));
        let entry = if is_first_word(first) {
            entry_at(words, at, stamp)
        } else {
            Entry::Nothing
        };
        (entry != Entry::Nothing).then_some((at, entry))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(words: usize) -> Vec<Word> {
        (0..words).map(|_| Word::new(0)).collect()
    }

    fn bytes(words: &[Word]) -> Vec<u8> {
        let load = |w: &Word| w.load(Ordering::Relaxed).to_ne_bytes();
        words.iter().flat_map(load).collect()
    }

    fn header() -> Header {
        Header {
            what: What::Segment,
            store: 0x0123_4567_89ab_cdef,
            serial: 42,
            life: 7,
            base: Tick(1_704_067_200_000),
            ttl: Span::from_millis(86_400_000),
            words: 512,
        }
    }

    #[test]
    fn golden_header() {
        let to = memory(HEADER_WORDS);
        header().write(&to);
        let bytes = bytes(&to);
        #[rustfmt::skip]
        let golden: [u8; 56] = [
            b'o', b'n', b'c', b'e', b'o', b'n', b'l', b'y',
            1, 0, 0, 0, 2, 0, 0, 0,
            0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01,
            42, 0, 0, 0, 0, 0, 0, 0,
            7, 0, 0, 0, 0, 0, 0, 0,
            0x00, 0xf4, 0x51, 0xc2, 0x8c, 0x01, 0, 0,
            0x00, 0x5c, 0x26, 0x05, 0, 0, 0, 0,
        ];
        assert_eq!(bytes[..56], golden);
        assert_eq!(bytes[60..], [0, 2, 0, 0]);
        let whole: [u8; 64] = bytes.try_into().unwrap();
        assert_eq!(Header::read(&whole), Ok(header()));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let to = memory(HEADER_WORDS);
        header().write(&to);
        let whole: [u8; 64] = bytes(&to).try_into().unwrap();
        for bit in 0..512 {
            let mut bad = whole;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read(&bad).is_err(), "bit {bit}");
        }
        let mut newer = whole;
        newer[8] = 2;
        newer[56..60].fill(0);
        let sum = crc32fast::hash(&newer);
        newer[56..60].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Header::read(&newer), Err(Unreadable::Newer(2)));
        assert_eq!(Header::read(&[0; 64]), Err(Unreadable::Foreign));
    }

    /// A header with these words in place of its own, and a sum that verifies.
    fn forged(words: &[(usize, u64)]) -> Result<Header, Unreadable> {
        let mut all = header().words();
        for &(at, word) in words {
            all[at] = word;
        }
        all[7] &= !u64::from(u32::MAX);
        all[7] |= u64::from(crc(&all));
        let bytes: Vec<u8> = all.iter().flat_map(|w| w.to_le_bytes()).collect();
        Header::read(&bytes.try_into().unwrap())
    }

    #[test]
    fn a_header_that_verifies_and_makes_no_sense_is_damaged() {
        assert_eq!(forged(&[]), Ok(header()));
        assert_eq!(forged(&[(1, 1 | 1 << 32)]).unwrap().what, What::Store);
        for what in [0, 3, 1 << 31] {
            assert_eq!(forged(&[(1, 1 | what << 32)]), Err(Unreadable::Damaged));
        }
        assert_eq!(forged(&[(1, 2 << 32)]), Err(Unreadable::Damaged), "version 0");
        assert_eq!(forged(&[(3, 1 << 32)]), Err(Unreadable::Damaged), "a serial");
        // As far as deadlines can be counted from there, and no further.
        assert!(forged(&[(5, u64::MAX - FAR), (6, FAR)]).is_ok());
        assert_eq!(forged(&[(5, u64::MAX - FAR + 1)]), Err(Unreadable::Damaged));
        assert_eq!(forged(&[(6, FAR + 1)]), Err(Unreadable::Damaged));
        assert_eq!(FAR, 1_152_921_504_606_846_976);
    }

    #[test]
    fn kinds_nobody_knows_are_nothing() {
        let stamp = header().stamp();
        for kind in 1..16 {
            let words = memory(20);
            stamp.seal(bare_word(kind, 4), 0, &words[3..7], 3);
            let expected = match kind {
                1..=4 => Entry::Keyed(4),
                _ => Entry::Nothing,
            };
            // Those of notes have lengths of their own.
            assert_eq!(entry_at(&words, 3, stamp), expected, "kind {kind}");
        }
    }

    #[test]
    fn what_verifies_is_found_behind_what_does_not() {
        let stamp = header().stamp();
        let words = memory(40);
        assert_eq!(next_entry(&words, 0, stamp), None);
        let seal = Entry::Note(Note::Seal);
        Note::Seal.write(&words[11..], stamp, 11);
        words[5].store(bare_word(9, 20).to_le(), Ordering::Relaxed);
        assert_eq!(next_entry(&words, 0, stamp), Some((11, seal)));
        assert_eq!(next_entry(&words, 11, stamp), Some((11, seal)));
        assert_eq!(next_entry(&words, 12, stamp), None);
    }

    #[test]
    fn what_was_looked_at_before_is_known_without_its_sum() {
        let words = memory(20);
        let vouch = Note::Vouch(Pos::new(3, 8));
        vouch.write(&words[4..], header().stamp(), 4);
        words[5].store(0, Ordering::Relaxed);
        assert_eq!(known_entry_at(&words, 4), Entry::Note(vouch));
        words[7].store(bare_word(2, 9).to_le(), Ordering::Relaxed);
        assert_eq!(known_entry_at(&words, 7), Entry::Keyed(9));
        // Nothing, more than there is, and beyond the end.
        words[16].store(bare_word(2, 5).to_le(), Ordering::Relaxed);
        for at in [0, 16, 19, 20, 99] {
            assert_eq!(known_entry_at(&words, at), Entry::Nothing, "at {at}");
        }
        assert_eq!(Entry::Nothing.words(), 0);
        assert_eq!((Entry::Keyed(9).words(), Entry::Note(vouch).words()), (9, 3));
    }

    #[test]
    fn positions_are_ordered_like_the_stream() {
        let pos = Pos::new(2, 100);
        assert_eq!((pos.turn(), pos.byte()), (2, 800));
        assert!(Pos::START < Pos::new(0, 1) && Pos::new(0, 1) < Pos::new(0, 2));
        assert!(Pos::new(1, 1 << 24) < Pos::new(2, 0));
    }

    #[test]
    fn notes_round_trip_where_they_were_written_and_nowhere_else() {
        let stamp = header().stamp();
        let mark = Mark {
            ceiling: 1 << 20,
            turn: 3,
            first: 2,
            now: Tick(77),
            offset: -5,
            vouched: Pos::new(2, 100),
        };
        for note in [Note::Mark(mark), Note::Vouch(Pos::new(9, 8)), Note::Seal] {
            let words = memory(30);
            note.write(&words[11..], stamp, 11);
            assert_eq!(entry_at(&words, 11, stamp), Entry::Note(note));
            let moved = memory(30);
            for (from, to) in words[11..].iter().zip(&moved[12..]) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            assert_eq!(entry_at(&moved, 12, stamp), Entry::Nothing);
            let other = Header { life: 8, ..header() }.stamp();
            assert_eq!(entry_at(&words, 11, other), Entry::Nothing);
        }
    }

    /// Found by a fuzzer: a MARK with the last turn there is verified, and the next segment's turn
    /// overflowed.
    #[test]
    fn a_mark_with_numbers_that_no_store_comes_to_is_none() {
        let stamp = header().stamp();
        let mark = Mark {
            ceiling: GENERATIONS,
            turn: TURNS - 1,
            first: 1,
            now: Tick(u64::MAX - FAR),
            offset: 0,
            vouched: Pos::START,
        };
        let read = |mark| {
            let words = memory(20);
            Note::Mark(mark).write(&words[8..], stamp, 8);
            entry_at(&words, 8, stamp)
        };
        assert_eq!(read(mark), Entry::Note(Note::Mark(mark)));
        let wild = [
            Mark { turn: TURNS, ..mark },
            Mark {
                ceiling: GENERATIONS + 1,
                ..mark
            },
            Mark {
                now: Tick(mark.now.0 + 1),
                ..mark
            },
        ];
        for mark in wild {
            assert_eq!(read(mark), Entry::Nothing, "{mark:?}");
        }
        assert_eq!(serial_of("7fffffff.seg"), Some(TURNS - 1));
        assert_eq!(serial_of("80000000.seg"), None);
    }

    /// Found by a fuzzer: a record that reached into the room of the SEAL was there until the
    /// segment was sealed over it, at the next open.
    #[test]
    fn what_stands_in_the_way_of_the_seal_is_no_entry() {
        let stamp = header().stamp();
        let mark = Mark {
            ceiling: 1,
            turn: 1,
            first: 1,
            now: Tick(1),
            offset: 0,
            vouched: Pos::START,
        };
        let words = memory(8 + MARK_WORDS + SEAL_WORDS);
        Note::Mark(mark).write(&words[8..], stamp, 8);
        assert_eq!(entry_at(&words, 8, stamp), Entry::Note(Note::Mark(mark)));
        assert_eq!(entry_at(&words[..words.len() - 1], 8, stamp), Entry::Nothing);
    }

    #[test]
    fn nothing_is_no_entry() {
        let words = memory(20);
        let stamp = header().stamp();
        assert_eq!(entry_at(&words, 0, stamp), Entry::Nothing);
        assert_eq!(entry_at(&words, 20, stamp), Entry::Nothing);
        assert_eq!(entry_at(&words, 99, stamp), Entry::Nothing);
        words[5].store(u64::MAX, Ordering::Relaxed);
        assert_eq!(entry_at(&words, 5, stamp), Entry::Nothing);
    }

    #[test]
    fn names_are_recognised_only_as_they_are_written() {
        assert_eq!(segment_name(42), "0000002a.seg");
        assert_eq!(serial_of("0000002a.seg"), Some(42));
        for other in ["2a.seg", "0000002A.seg", "0000002a.new", "+000002a.seg", "LOCK"] {
            assert_eq!(serial_of(other), None, "{other}");
        }
    }
}
