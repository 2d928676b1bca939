//! Append cursors. A thread writes through the lane its stripe names, so that two threads
//! rarely meet; a lane has one open segment, a *head*, for each ttl class it has seen.
//!
//! Records are copied under the lane's lock: nothing is reserved that might stay unwritten, so
//! there are no holes below a cursor. No lane lock is ever taken under a shard's lock.

use super::record::{Draft, Fit, TimeBase};
use super::table::{Address, HEADER_WORDS, SegmentTable};
use super::words::{Mapping, WORD};
use crate::clock::{Span, Tick};
use crate::sync::Arc;

/// Heads a lane keeps. Beyond it a class shares the head of the next longer one that has room.
const MAX_HEADS: usize = 16;
/// The size of a class's first segment; each full one doubles the next, up to the store's
/// segment size. A class that is rarely used stays small.
pub(crate) const FIRST_BYTES: usize = 256 << 10;
/// A head is sealed at the latest this long after it was opened, or after a sixteenth of its
/// ttl if that is longer: what a segment keeps beyond its records' time stays small.
const MIN_OPEN: Span = Span::from_millis(1_000);

/// Ttls that share a segment: equal in their three bits after the leading one, so that records
/// of one class die within an eighth of their ttl of each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Class(u16);

impl Class {
    pub(crate) fn of(ttl: Span) -> Self {
        let ms = ttl.millis();
        match ms.checked_ilog2() {
            Some(bits @ 3..) => Class((bits * 8) as u16 + (ms >> (bits - 3) & 7) as u16),
            _ => Class(ms as u16),
        }
    }
}

/// The ttl that chooses a record's class.
pub(crate) fn ttl_of(record: &Draft<'_>) -> Span {
    let span = record.deadline.0.saturating_sub(record.written.0);
    record.ttl.unwrap_or(Span::from_millis(span))
}

/// A segment being written.
pub(crate) struct Open {
    pub(crate) id: u32,
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) time: TimeBase,
    /// The next word to write.
    pub(crate) cursor: usize,
    /// The latest deadline written.
    pub(crate) latest: Tick,
}

impl Open {
    pub(crate) fn new(id: u32, mapping: Arc<Mapping>, time: TimeBase) -> Self {
        Open {
            id,
            mapping,
            time,
            cursor: HEADER_WORDS,
            latest: Tick(0),
        }
    }

    /// Appends the record if it fits, in space and in the range of the deadline.
    #[inline]
    pub(crate) fn put(&mut self, record: &Draft<'_>, table: &SegmentTable) -> Option<Address> {
        let fit = record.fit(&self.time).filter(|fit| !fit.stretched)?;
        self.put_as(record, &fit, table)
    }

    /// The same, with a deadline up to a second later if the segment is too old to say it exactly.
    pub(crate) fn put_stretched(&mut self, record: &Draft<'_>, table: &SegmentTable) -> Option<Address> {
        let fit = record.fit(&self.time)?;
        self.put_as(record, &fit, table)
    }

    fn put_as(&mut self, record: &Draft<'_>, fit: &Fit, table: &SegmentTable) -> Option<Address> {
        let end = self.cursor + fit.words;
        let to = self.mapping.words().get(self.cursor..end)?;
        record.write(&self.time, fit, to);
        table.note_deadline(self.id, fit.deadline);
        self.latest = self.latest.max(fit.deadline);
        let at = Address::new(self.id, self.cursor);
        self.cursor = end;
        Some(at)
    }

    /// Is it time to seal it, full or not?
    pub(crate) fn is_over(&self, now: Tick) -> bool {
        self.seal_at() <= now || self.latest <= now
    }

    /// Bytes written in it.
    pub(crate) fn used_bytes(&self) -> u64 {
        (self.cursor * WORD) as u64
    }

    fn seal_at(&self) -> Tick {
        let open = Span::from_millis(self.time.ttl.millis() / 16).max(MIN_OPEN);
        self.time.base.after(open)
    }
}

struct Head {
    class: Class,
    open: Option<Open>,
    next_bytes: usize,
}

/// One lane's heads; the lock around it is the caller's.
pub(crate) struct Lane {
    heads: Vec<Head>,
    max_bytes: usize,
}

impl Lane {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Lane {
            heads: Vec::new(),
            max_bytes,
        }
    }

    /// Appends to the head of the record's class, if it is open and has room.
    #[inline]
    pub(crate) fn put(&mut self, record: &Draft<'_>, table: &SegmentTable) -> Option<Address> {
        let class = Class::of(ttl_of(record));
        let head = self.heads.iter_mut().find(|h| h.class == class)?;
        head.open.as_mut()?.put(record, table)
    }

    /// Appends to any open head that has room, the least longer class first.
    pub(crate) fn put_anywhere(&mut self, record: &Draft<'_>, table: &SegmentTable) -> Option<Address> {
        let class = Class::of(ttl_of(record));
        self.heads.sort_by_key(|h| (h.class < class, h.class));
        self.heads
            .iter_mut()
            .filter_map(|h| h.open.as_mut())
            .find_map(|open| open.put(record, table))
    }

    /// Would this ttl need a head beyond those a lane keeps?
    pub(crate) fn is_full_of_heads(&self, ttl: Span) -> bool {
        let class = Class::of(ttl);
        self.heads.len() >= MAX_HEADS && self.heads.iter().all(|h| h.class != class)
    }

    /// The size the next segment of this ttl's class should have.
    pub(crate) fn next_bytes(&self, ttl: Span) -> usize {
        let class = Class::of(ttl);
        self.heads
            .iter()
            .find(|h| h.class == class)
            .map_or(FIRST_BYTES.min(self.max_bytes), |h| h.next_bytes)
    }

    /// Makes `open` the head of its ttl's class and returns the one it replaces.
    pub(crate) fn replace(&mut self, open: Open) -> Option<Open> {
        let class = Class::of(open.time.ttl);
        let next_bytes = (2 * open.mapping.bytes()).min(self.max_bytes);
        match self.heads.iter_mut().find(|h| h.class == class) {
            Some(head) => {
                head.next_bytes = next_bytes;
                head.open.replace(open)
            }
            None => {
                self.heads.push(Head {
                    class,
                    open: Some(open),
                    next_bytes,
                });
                None
            }
        }
    }

    /// Takes out a head whose time is over. Its class starts small again.
    pub(crate) fn take_idle(&mut self, now: Tick) -> Option<Open> {
        let at = self
            .heads
            .iter()
            .position(|h| h.open.as_ref().is_some_and(|open| open.is_over(now)))?;
        self.heads.swap_remove(at).open
    }

    /// The next moment at which `take_idle` may find something.
    pub(crate) fn next_idle(&self) -> Option<Tick> {
        let open = self.heads.iter().filter_map(|h| h.open.as_ref());
        open.map(|o| o.seal_at().min(o.latest)).min()
    }

    /// Bytes written in the heads.
    pub(crate) fn used_bytes(&self) -> u64 {
        let open = self.heads.iter().filter_map(|h| h.open.as_ref());
        open.map(Open::used_bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_class_spans_at_most_an_eighth_of_its_ttl() {
        let mut ranges: HashMap<u16, (u64, u64)> = HashMap::new();
        for ms in (1..200_000u64).chain((1..400).map(|i| i * 9_000_000)) {
            let class = Class::of(Span::from_millis(ms)).0;
            let range = ranges.entry(class).or_insert((ms, ms));
            *range = (range.0.min(ms), range.1.max(ms));
        }
        assert!(ranges.values().all(|(min, max)| max - min <= min / 8));
    }

    #[test]
    fn classes_are_ordered_like_ttls() {
        let class = |ms| Class::of(Span::from_millis(ms));
        assert!((1..5_000u64).all(|ms| class(ms) <= class(ms + 1)));
        assert!(class(7) < class(8));
    }
}
