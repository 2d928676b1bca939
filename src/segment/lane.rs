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
    /// The earliest deadline written, and the latest.
    earliest: Tick,
    pub(crate) latest: Tick,
}

impl Open {
    pub(crate) fn new(id: u32, mapping: Arc<Mapping>, time: TimeBase) -> Self {
        Open {
            id,
            mapping,
            time,
            cursor: HEADER_WORDS,
            earliest: Tick::NEVER,
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
        if fit.deadline < self.earliest {
            self.earliest = fit.deadline;
            table.note_deadline(self.id, fit.deadline);
        }
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
    use crate::epoch::Pins;
    use crate::fingerprint::Fingerprint;
    use crate::key::Key;
    use std::collections::HashMap;

    const NOW: Tick = Tick(1_000_000);
    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;

    /// A lane and the segments shown under the ids it was given.
    struct Fixture {
        lane: Lane,
        table: SegmentTable,
    }

    fn fixture(max_bytes: usize) -> Fixture {
        Fixture {
            lane: Lane::new(max_bytes),
            table: SegmentTable::new(64),
        }
    }

    fn record(ttl: u64, body: &[u8]) -> Draft<'_> {
        let key = Key::new("acme", "order-1").check().unwrap();
        let ttl = Span::from_millis(ttl);
        Draft {
            body,
            ..Draft::completed(key, Fingerprint::NONE, 7, NOW, ttl)
        }
    }

    impl Fixture {
        fn segment(&self, id: u32, ttl: u64, bytes: usize) -> Open {
            let mapping = Arc::new(Mapping::anonymous(bytes).unwrap());
            let time = TimeBase::new(NOW, Span::from_millis(ttl));
            self.table.open(id, &mapping, &time);
            Open::new(id, mapping, time)
        }

        /// A head for that ttl; says which one it replaced.
        fn open(&mut self, id: u32, ttl: u64, bytes: usize) -> Option<u32> {
            let open = self.segment(id, ttl, bytes);
            self.lane.replace(open).map(|old| old.id)
        }

        fn put(&mut self, ttl: u64, body: &[u8]) -> Option<Address> {
            self.lane.put(&record(ttl, body), &self.table)
        }

        fn put_anywhere(&mut self, ttl: u64, body: &[u8]) -> Option<u32> {
            let at = self.lane.put_anywhere(&record(ttl, body), &self.table);
            at.map(Address::segment)
        }
    }

    #[test]
    fn records_go_one_behind_the_other_into_the_head_of_their_class() {
        let mut f = fixture(1 << 20);
        f.open(1, MINUTE, 1 << 16);
        f.open(2, HOUR, 1 << 16);
        let words = record(MINUTE, b"paid").words(Span::from_millis(MINUTE));
        assert_eq!(f.put(MINUTE, b"paid"), Some(Address::new(1, HEADER_WORDS)));
        assert_eq!(f.put(HOUR, b"paid"), Some(Address::new(2, HEADER_WORDS)));
        let second = f.put(MINUTE, b"sent").unwrap();
        assert_eq!(second, Address::new(1, HEADER_WORDS + words));
        assert_eq!(f.put(1, b""), None, "its class has no head");
        assert_eq!(
            f.lane.used_bytes(),
            ((2 * HEADER_WORDS + 3 * words) * WORD) as u64
        );
        let pin = Pins::new().pin();
        let found = f.table.record(second, &pin).unwrap();
        assert_eq!(found.outcome(), b"sent");
        // Its deadline is known to sweeps and to the head.
        let deadline = NOW.after(Span::from_millis(MINUTE));
        assert!(f.table.may_hold_expired(second, found.deadline()));
        assert!(!f.table.may_hold_expired(second, Tick(deadline.0 - 1)));
    }

    #[test]
    fn a_record_that_does_not_fit_leaves_the_head_as_it_was() {
        let mut f = fixture(1 << 20);
        f.open(1, MINUTE, 4_096);
        assert_eq!(f.put(MINUTE, &[1; 4_096]), None);
        assert_eq!(f.put(MINUTE, b""), Some(Address::new(1, HEADER_WORDS)));
        let left = 4_096 / WORD - HEADER_WORDS - record(MINUTE, b"").words(Span::from_millis(MINUTE));
        let fixed = record(MINUTE, b"").words(Span::from_millis(MINUTE)) * WORD;
        // To the last word, and not one further. The key leaves five bytes of its last word.
        let exact = vec![1; left * WORD - fixed + 5];
        assert_eq!(f.put(MINUTE, &[&exact[..], b"x"].concat()), None);
        assert!(f.put(MINUTE, &exact).is_some());
        assert_eq!(f.lane.used_bytes(), 4_096);
    }

    #[test]
    fn without_room_in_its_class_the_least_longer_one_is_asked_first() {
        let mut f = fixture(1 << 20);
        f.open(1, 10_000, 4_096);
        f.open(2, HOUR, 4_096);
        f.open(3, 2 * MINUTE, 4_096);
        f.open(4, 20_000, 4_096);
        let full = [1; 3_000];
        let order: Vec<_> = (0..5).map(|_| f.put_anywhere(MINUTE, &full)).collect();
        assert_eq!(order, [Some(3), Some(2), Some(1), Some(4), None]);
        assert_eq!(f.put_anywhere(MINUTE, b""), Some(3), "something small");
        f.open(5, MINUTE, 4_096);
        assert_eq!(f.put_anywhere(MINUTE, b""), Some(5), "its own before all");
    }

    #[test]
    fn segments_of_a_class_double_up_to_the_largest() {
        let mut f = fixture(3 * FIRST_BYTES);
        let ttl = Span::from_millis(HOUR);
        assert_eq!(f.lane.next_bytes(ttl), FIRST_BYTES);
        assert_eq!(f.open(1, HOUR, FIRST_BYTES), None);
        assert_eq!(f.lane.next_bytes(ttl), 2 * FIRST_BYTES);
        assert_eq!(f.lane.next_bytes(Span::from_millis(MINUTE)), FIRST_BYTES);
        assert_eq!(f.open(2, HOUR, 2 * FIRST_BYTES), Some(1), "the head before");
        assert_eq!(f.lane.next_bytes(ttl), 3 * FIRST_BYTES);
        assert_eq!(Lane::new(4_096).next_bytes(ttl), 4_096);
    }

    #[test]
    fn a_lane_keeps_so_many_heads() {
        let mut f = fixture(1 << 20);
        for i in 0..MAX_HEADS as u32 {
            assert!(!f.lane.is_full_of_heads(Span::from_millis(1 << 20)));
            f.open(i, 1 << i, 4_096);
        }
        assert!(f.lane.is_full_of_heads(Span::from_millis(1 << 20)));
        assert!(!f.lane.is_full_of_heads(Span::from_millis(1 << 3)), "it has one");
    }

    #[test]
    fn a_head_is_taken_out_when_its_time_is_over_and_not_before() {
        let mut f = fixture(1 << 20);
        assert_eq!(f.lane.next_idle(), None);
        f.open(1, HOUR, FIRST_BYTES);
        // Empty: there is nothing to keep it for.
        assert_eq!(f.lane.next_idle(), Some(Tick(0)));
        f.put(HOUR, b"x").unwrap();
        let over = NOW.after(Span::from_millis(HOUR / 16));
        assert_eq!(f.lane.next_idle(), Some(over));
        assert!(f.lane.take_idle(Tick(over.0 - 1)).is_none());
        assert_eq!(f.lane.take_idle(over).map(|open| open.id), Some(1));
        assert_eq!(
            f.lane.next_bytes(Span::from_millis(HOUR)),
            FIRST_BYTES,
            "small again"
        );
        // A short ttl: a second, or until all of it has expired.
        f.open(2, 5_000, FIRST_BYTES);
        f.put(5_000, b"x").unwrap();
        assert_eq!(f.lane.next_idle(), Some(NOW.after(MIN_OPEN)));
    }

    #[test]
    fn a_head_whose_records_have_all_expired_is_over() {
        let f = fixture(1 << 20);
        let mut open = f.segment(1, 10, 4_096);
        open.put(&record(10, b""), &f.table).unwrap();
        let mut later = record(5, b"");
        later.deadline = Tick(NOW.0 + 5);
        open.put(&later, &f.table).unwrap();
        assert_eq!(open.latest, NOW.after(Span::from_millis(10)), "the latest stays");
        assert!(!open.is_over(Tick(open.latest.0 - 1)) && open.is_over(open.latest));
    }

    /// A segment so old that deadlines leave 32 bits of ticks takes only what must be written,
    /// rounded up to a second.
    #[test]
    fn an_old_segment_is_left_unless_there_is_no_other() {
        let f = fixture(1 << 20);
        let mut open = f.segment(1, MINUTE, 4_096);
        let mut late = record(MINUTE, b"x");
        late.written = Tick(NOW.0 + (1 << 32));
        late.deadline = late.written.after(Span::from_millis(MINUTE));
        assert_eq!(open.put(&late, &f.table), None);
        let at = open.put_stretched(&late, &f.table).unwrap();
        let pin = Pins::new().pin();
        let deadline = f.table.record(at, &pin).unwrap().deadline();
        assert!((late.deadline.0..late.deadline.0 + 1_000).contains(&deadline.0));
        assert_eq!(open.latest, deadline);
    }

    #[test]
    fn a_record_without_a_ttl_is_classed_by_its_deadline() {
        let mut claim = record(MINUTE, b"");
        assert_eq!(ttl_of(&claim).millis(), MINUTE);
        claim.ttl = None;
        claim.deadline = Tick(NOW.0 + 500);
        assert_eq!(ttl_of(&claim).millis(), 500);
    }

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
