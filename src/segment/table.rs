//! From a record's address to its words, without a lock.
//!
//! An address is a segment id and a word inside the segment. Each id has an entry here; an
//! entry shows a mapping while its segment lives. The description beside it (base tick, unit,
//! ttl) is written before the mapping is shown and not again until the id is reissued, which
//! the store does only when no slot and no reader can hold an address with that id.
#![allow(unsafe_code)] // one dereference, see `Entry::words`

use super::record::{Record, TimeBase};
use super::words::{Mapping, Published, SharedWords, prefetch};
use crate::clock::{Span, Tick};
use crate::epoch::Guard;
use crate::sync::{AtomicU64, Ordering, Word};
use std::sync::OnceLock;

/// Bits of an address that name the word; the rest of the 40 name the segment.
pub(crate) const WORD_BITS: u32 = 19;
pub(crate) const ADDRESS_BITS: u32 = 40;
/// Segment ids there can be.
pub(crate) const MAX_SEGMENTS: u32 = 1 << (ADDRESS_BITS - WORD_BITS);
/// Words at the start of a segment that hold no record, so that no address is 0 or 1.
pub(crate) const HEADER_WORDS: usize = 8;

/// Where a record lies: 40 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Address(u64);

impl Address {
    pub(crate) fn new(segment: u32, word: usize) -> Self {
        debug_assert!(segment < MAX_SEGMENTS && (HEADER_WORDS..1 << WORD_BITS).contains(&word));
        Address(u64::from(segment) << WORD_BITS | word as u64)
    }

    pub(crate) fn from_bits(bits: u64) -> Self {
        debug_assert!(bits < 1 << ADDRESS_BITS);
        Address(bits)
    }

    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) fn segment(self) -> u32 {
        (self.0 >> WORD_BITS) as u32
    }

    fn word(self) -> usize {
        (self.0 & ((1 << WORD_BITS) - 1)) as usize
    }
}

/// Set in `Entry::live` from a segment's retirement to the id's next issue.
const CLOSED: u64 = 1 << 63;

/// What readers need is on the first line and is not written while the segment lives; what
/// writers count is on the second.
#[repr(align(128))]
struct Entry {
    words: SharedWords,
    base: AtomicU64,
    /// The ttl in milliseconds.
    ttl: AtomicU64,
    counts: Counts,
}

#[repr(align(64))]
struct Counts {
    /// Records an index slot points to. A reference here is what holds the key's unit of
    /// `max_keys`.
    live: AtomicU64,
    /// The earliest deadline of any record, so that a sweep for expired keys can pass over
    /// segments that have none.
    earliest: AtomicU64,
}

impl Entry {
    fn vacant() -> Self {
        Entry {
            words: SharedWords::default(),
            base: AtomicU64::new(0),
            ttl: AtomicU64::new(0),
            counts: Counts {
                live: AtomicU64::new(CLOSED),
                earliest: AtomicU64::new(0),
            },
        }
    }

    fn time(&self) -> TimeBase {
        // Relaxed: ordered by the Acquire load of the words.
        let ttl = self.ttl.load(Ordering::Relaxed);
        TimeBase {
            base: Tick(self.base.load(Ordering::Relaxed)),
            ttl: Span::from_millis(ttl),
        }
    }
}

/// Entries come in chunks, made when their first id is issued. A model checker has few.
const CHUNK: usize = if cfg!(all(test, onceonly_loom)) { 4 } else { 64 };

pub(crate) struct SegmentTable {
    chunks: Box<[OnceLock<Box<[Entry; CHUNK]>>]>,
}

impl SegmentTable {
    pub(crate) fn new(ids: u32) -> Self {
        let chunks = (ids.min(MAX_SEGMENTS) as usize).div_ceil(CHUNK);
        SegmentTable {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
        }
    }

    /// How many ids the table has room for.
    pub(crate) fn ids(&self) -> u32 {
        (self.chunks.len() * CHUNK) as u32
    }

    #[inline]
    fn entry(&self, id: u32) -> Option<&Entry> {
        let chunk = self.chunks.get(id as usize / CHUNK)?.get()?;
        Some(&chunk[id as usize % CHUNK])
    }

    /// Shows a new segment's mapping under an id nobody holds an address of.
    pub(crate) fn open(&self, id: u32, mapping: &Mapping, time: &TimeBase) {
        let chunk = self.chunks[id as usize / CHUNK]
            .get_or_init(|| Box::new(std::array::from_fn(|_| Entry::vacant())));
        let entry = &chunk[id as usize % CHUNK];
        debug_assert!(!entry.words.is_shown());
        entry.base.store(time.base.0, Ordering::Relaxed);
        entry.ttl.store(time.ttl.millis(), Ordering::Relaxed);
        entry.counts.earliest.store(u64::MAX, Ordering::Relaxed);
        entry.counts.live.store(0, Ordering::Relaxed);
        entry.words.show(mapping);
    }

    /// Notes the deadline of a record being appended. Only the segment's lane calls this.
    pub(crate) fn note_deadline(&self, id: u32, deadline: Tick) {
        if let Some(entry) = self.entry(id)
            && deadline.0 < entry.counts.earliest.load(Ordering::Relaxed)
        {
            entry.counts.earliest.store(deadline.0, Ordering::Relaxed);
        }
    }

    /// Counts a reference to a record about to be published in a slot. False if the segment
    /// has been retired meanwhile: then the record has expired and must not be published.
    pub(crate) fn add_live(&self, at: Address) -> bool {
        self.entry(at.segment()).is_some_and(|entry| {
            entry
                .counts
                .live
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |live| {
                    (live & CLOSED == 0).then_some(live + 1)
                })
                .is_ok()
        })
    }

    /// Takes a reference back. False if the segment was retired before, which took them all.
    pub(crate) fn sub_live(&self, at: Address) -> bool {
        self.entry(at.segment()).is_some_and(|entry| {
            entry
                .counts
                .live
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |live| {
                    (live & CLOSED == 0).then(|| live.saturating_sub(1))
                })
                .is_ok()
        })
    }

    /// How many records of a segment slots lead to.
    pub(crate) fn live(&self, id: u32) -> u64 {
        self.entry(id)
            .map_or(0, |e| e.counts.live.load(Ordering::Acquire) & !CLOSED)
    }

    /// Ends the counting of references and returns how many there were: from here on no record
    /// of the segment can be published.
    pub(crate) fn close(&self, id: u32) -> u64 {
        self.entry(id)
            .map_or(0, |e| e.counts.live.swap(CLOSED, Ordering::AcqRel) & !CLOSED)
    }

    /// Hides a closed segment from readers that come from now on.
    pub(crate) fn hide(&self, id: u32) {
        if let Some(entry) = self.entry(id) {
            entry.words.hide();
        }
    }

    /// Does the address point into a segment that is still there?
    pub(crate) fn is_open(&self, at: Address) -> bool {
        self.entry(at.segment()).is_some_and(|e| e.words.is_shown())
    }

    /// Of two places in the log, is the first one later? Recovery issues ids in the log's order.
    pub(crate) fn is_later(&self, at: Address, than: Address) -> bool {
        at.to_bits() > than.to_bits()
    }

    /// May the segment hold a record that has expired?
    pub(crate) fn may_hold_expired(&self, at: Address, now: Tick) -> bool {
        self.entry(at.segment())
            .is_some_and(|e| e.counts.earliest.load(Ordering::Relaxed) <= now.0)
    }

    /// The record at an address taken from a slot; `None` if its segment is gone.
    #[inline]
    pub(crate) fn record<'g>(&self, at: Address, pin: &'g Guard) -> Option<Record<'g>> {
        let entry = self.entry(at.segment())?;
        let words = entry.words(pin)?;
        let from = words.get(at.word()..)?;
        // How long the record is stands in its first line; the next two come along meanwhile.
        if let [_, second, third, ..] = from.as_chunks::<8>().0 {
            prefetch(second);
            prefetch(third);
        }
        // SAFETY: slots hold addresses of records that were written in full before the slot was
        // stored with Release and loaded with Acquire (or under the shard's lock); lanes never
        // write below their cursor again, and the mapping is not reused while `pin` lives.
        let published = unsafe { Published::new(from) };
        Record::read(published, entry.time())
    }

    /// Asks for the first lines of a record.
    #[inline]
    pub(crate) fn prefetch(&self, at: Address, pin: &Guard) {
        if let Some(words) = self.entry(at.segment()).and_then(|e| e.words(pin)) {
            for line in 0..3 {
                if let Some(word) = words.get(at.word() + 8 * line) {
                    prefetch(word);
                }
            }
        }
    }
}

impl Entry {
    #[inline]
    fn words<'g>(&self, pin: &'g Guard) -> Option<&'g [Word]> {
        // SAFETY: the only place that hides mappings is `Space::retire`, which puts them into
        // the limbo of the same collector `pin` belongs to; and ids come back for `open` only
        // after the sweep that follows and another grace period (`Space::sweep_done`).
        unsafe { self.words.load(pin) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retired_segment_takes_its_references_with_it_once() {
        let table = SegmentTable::new(8);
        let mapping = Mapping::anonymous(1 << 16).unwrap();
        table.open(3, &mapping, &TimeBase::new(Tick(1), Span::from_millis(10)));
        let at = Address::new(3, HEADER_WORDS);
        assert!(table.add_live(at) && table.add_live(at) && table.sub_live(at));
        assert!(table.is_open(at));
        assert_eq!(table.close(3), 1);
        assert!(!table.add_live(at) && !table.sub_live(at));
        assert!(table.is_open(at), "still there for those who look");
        table.hide(3);
        assert!(!table.is_open(at));
        assert_eq!(table.close(3), 0);
    }

    #[test]
    fn ids_never_issued_are_absent() {
        let table = SegmentTable::new(1);
        assert_eq!(table.ids(), 64);
        let at = Address::new(70, HEADER_WORDS);
        assert!(!table.is_open(at) && !table.add_live(at));
    }
}

#[cfg(all(test, onceonly_loom))]
mod loom {
    use super::*;
    use crate::epoch::{Limbo, Pins};
    use crate::sync::{Arc, explore, spawn};
    use ::loom::cell::UnsafeCell;

    const ID: u32 = 1;

    /// A mapping whose memory loom watches: it complains of a read that is not ordered before the
    /// unmapping.
    struct Watched {
        mapping: Mapping,
        memory: Arc<UnsafeCell<()>>,
    }

    struct Fixture {
        table: SegmentTable,
        pins: Pins,
        limbo: Limbo<Watched>,
        memory: [Arc<UnsafeCell<()>>; 2],
    }

    // SAFETY: all its parts are safe to share but for the cells, which hold nothing and which loom
    // checks every access to.
    unsafe impl Sync for Fixture {}
    // SAFETY: as above.
    unsafe impl Send for Fixture {}

    impl Fixture {
        /// Mapping `n`, which has `n + 1` pages.
        fn open(&self, n: usize) -> Watched {
            let mapping = Mapping::on_heap(4_096 * (n + 1));
            self.table.open(
                ID,
                &mapping,
                &TimeBase::new(Tick(n as u64), Span::from_millis(10)),
            );
            let memory = self.memory[n].clone();
            Watched { mapping, memory }
        }

        fn retire(&self, watched: Watched) {
            let pin = self.pins.pin();
            self.table.close(ID);
            self.table.hide(ID);
            let bytes = watched.mapping.bytes() as u64;
            self.limbo.put(&pin, watched, bytes);
        }

        fn reap(&self) -> bool {
            let Some(watched) = self.limbo.take() else {
                return false;
            };
            watched.memory.with_mut(|_| ());
            drop(watched);
            true
        }

        /// Reads as a reader does: what is shown is whole and stays.
        fn read(&self) {
            let pin = self.pins.pin();
            let Some(entry) = self.table.entry(ID) else { return };
            let Some(words) = entry.words(&pin) else { return };
            let n = words.len() / (4_096 / size_of::<u64>()) - 1;
            self.memory[n].with(|_| ());
            assert_eq!(words[words.len() - 1].load(Ordering::Relaxed), 0);
            assert_eq!(entry.time().base, Tick(n as u64), "described before it was shown");
            self.memory[n].with(|_| ());
        }
    }

    #[test]
    fn a_retired_segment_outlives_its_readers_and_its_id_comes_back_whole() {
        explore(3, || {
            let f = Arc::new(Fixture {
                table: SegmentTable::new(4),
                pins: Pins::new(),
                limbo: Limbo::new(),
                memory: [(); 2].map(|()| Arc::new(UnsafeCell::new(()))),
            });
            let first = f.open(0);
            let readers = [(); 2].map(|()| {
                let f = f.clone();
                spawn(move || f.read())
            });
            f.retire(first);
            // The id is issued again only when nobody can have seen the old mapping.
            let second = f.reap().then(|| f.open(1));
            f.read();
            readers.into_iter().for_each(|t| t.join().unwrap());
            assert!(second.is_some() || f.reap());
        });
    }
}
