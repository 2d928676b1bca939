//! The life of segments: opened for a lane, sealed when full or old, retired at the latest
//! deadline inside, given back after the last reader, and the id reissued after the last slot.
//!
//! ```text
//!   free id --open--> head --seal--> sealed --due--> retired --grace--> mapping reused or unmapped
//!      ^                                                |
//!      +------------- grace <-- swept <-- in a sweep <--+-- unswept id
//! ```
//!
//! Retiring looks at no record: each one in the segment has expired already, lookups say so
//! without help, so only memory changes hands. Slots that still point there are cleared by the
//! sweep (see `shard`).
//!
//! Room that must not fail: one segment's bytes are always set aside, *the reserve*. Only
//! completions that a claim has set room aside for may use it, in a segment of their own that no
//! lane writes to. Until the reserve is restored no new key is admitted, no other segment opened
//! and no spare prepared; each completion written there frees a little more than it takes, so by
//! the time that segment is full the reserve is back.

use super::lane::{FIRST_BYTES, Lane, Open, ttl_of};
use super::pages::PageChoice;
use super::record::{Draft, TimeBase};
use super::table::{Address, HEADER_WORDS, MAX_SEGMENTS, SegmentTable};
use super::words::{Mapping, WORD};
use crate::clock::{Span, Tick};
use crate::epoch::{Guard, Limbo, thread_stripe};
use crate::quota::Quota;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};
use crate::wheel::{Advance, Wheel};
use std::collections::HashMap;
use std::time::Instant;

/// The largest segment that holds more than one record.
pub(crate) const MAX_SEGMENT_BYTES: usize = 4 << 20;
/// The smallest; used when the budget is small.
pub(crate) const MIN_SEGMENT_BYTES: usize = 64 << 10;
/// Mappings kept for the next segment instead of unmapped.
const POOL: usize = 4;
/// How often the reserve's segment is looked at while it is open.
const RESERVE_PAUSE: Span = Span::from_millis(1_000);
/// Mappings that nothing was opened from for this long are unmapped.
const POOL_IDLE: Span = Span::from_millis(5_000);

/// The budget has no room for another segment.
#[derive(Debug)]
pub(crate) struct NoRoom;

/// A segment nobody writes to any more.
struct Sealed {
    mapping: Arc<Mapping>,
    used: u64,
}

/// A segment whose every record has expired, about to be retired.
pub(crate) struct Doomed {
    id: u32,
    mapping: Arc<Mapping>,
    used: u64,
    live: u64,
}

/// What waits for the last reader.
enum Remains {
    Mapping(Arc<Mapping>),
    Ids(Vec<u32>),
}

struct Space {
    /// Sealed segments by their latest deadline; the payload is the id.
    wheel: Wheel,
    sealed: HashMap<u32, Sealed>,
    next_id: u32,
    free_ids: Vec<u32>,
    /// Retired, and a sweep that starts now would clear their slots.
    unswept: Vec<u32>,
    /// Waiting for the sweep under way.
    sweeping: Vec<u32>,
    pool: Vec<Arc<Mapping>>,
    pages: PageChoice,
    /// When a segment beyond a class's first was last opened; `None` if never.
    last_open: Option<Tick>,
    used_sealed: u64,
}

impl Space {
    /// Were segments being filled lately?
    fn is_growing(&self, now: Tick) -> bool {
        self.last_open.is_some_and(|at| at.after(POOL_IDLE) > now)
    }
}

pub(crate) struct Segments {
    pub(crate) table: SegmentTable,
    lanes: Box<[Mutex<Lane>]>,
    space: Mutex<Space>,
    limbo: Limbo<Remains>,
    segment_bytes: usize,
    /// The segment opened from the reserve, if it is in use.
    last_resort: Mutex<Option<Open>>,
    /// One segment's bytes are set aside. Changed under the lock of `last_resort`.
    set_aside: AtomicBool,
    /// Segments are being filled and a spare one is wanted.
    hungry: AtomicBool,
    /// No head has to be sealed before this.
    next_idle: AtomicU64,
    /// No sealed segment is due before this.
    next_due: AtomicU64,
}

impl Segments {
    /// Takes the reserve out of `bytes`; `None` if it does not fit.
    pub(crate) fn new(segment_bytes: usize, lanes: usize, bytes: &Quota, now: Tick) -> Option<Self> {
        debug_assert!((MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment_bytes));
        if !bytes.take_direct(segment_bytes as u64) {
            return None;
        }
        Some(Self::with(segment_bytes, lanes, bytes, now, 0))
    }

    fn with(segment_bytes: usize, lanes: usize, bytes: &Quota, now: Tick, more: u64) -> Self {
        // Ids wait for sweeps, so there are more of them than segments fit into the budget.
        let fit = bytes.limit() / MIN_SEGMENT_BYTES as u64;
        let ids = fit
            .saturating_mul(4)
            .saturating_add(256 + more)
            .min(u64::from(MAX_SEGMENTS));
        Segments {
            table: SegmentTable::new(ids as u32),
            lanes: (0..lanes).map(|_| Mutex::new(Lane::new(segment_bytes))).collect(),
            space: Mutex::new(Space {
                wheel: Wheel::new(now.0),
                sealed: HashMap::new(),
                next_id: 0,
                free_ids: Vec::new(),
                unswept: Vec::new(),
                sweeping: Vec::new(),
                pool: Vec::new(),
                pages: PageChoice::default(),
                last_open: None,
                used_sealed: 0,
            }),
            limbo: Limbo::new(),
            segment_bytes,
            last_resort: Mutex::new(None),
            set_aside: AtomicBool::new(true),
            hungry: AtomicBool::new(false),
            next_idle: AtomicU64::new(u64::MAX),
            next_due: AtomicU64::new(u64::MAX),
        }
    }

    /// For a store whose segments are a log's, which has so many already: no lanes, and nothing
    /// set aside here.
    pub(crate) fn without_lanes(bytes: &Quota, now: Tick, found: usize) -> Self {
        Self::with(MIN_SEGMENT_BYTES, 0, bytes, now, found as u64)
    }

    /// Writes a record and says where. It is not published yet: the caller stores the address
    /// in a slot, under an epoch pinned before this call.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] if the budget has none.
    #[inline]
    pub(crate) fn append(&self, record: &Draft<'_>, bytes: &Quota) -> Result<Address, NoRoom> {
        let mut lane = self.lanes[thread_stripe() % self.lanes.len()].lock();
        if let Some(at) = lane.put(record, &self.table) {
            return Ok(at);
        }
        self.append_to_new(&mut lane, record, bytes).ok_or(NoRoom)
    }

    #[cold]
    fn append_to_new(&self, lane: &mut Lane, record: &Draft<'_>, bytes: &Quota) -> Option<Address> {
        if lane.is_full_of_heads(ttl_of(record))
            && let Some(at) = lane.put_anywhere(record, &self.table)
        {
            return Some(at);
        }
        let need = (HEADER_WORDS + record.words(ttl_of(record))) * WORD;
        if need > self.segment_bytes {
            let mut own = self.open(need.next_multiple_of(MIN_SEGMENT_BYTES), record, bytes)?;
            let at = own.put(record, &self.table);
            self.seal(own);
            return at;
        }
        let wish = lane
            .next_bytes(ttl_of(record))
            .max(need.next_multiple_of(MIN_SEGMENT_BYTES));
        let open = self
            .open(wish.min(self.segment_bytes), record, bytes)
            .or_else(|| self.open(need.next_multiple_of(MIN_SEGMENT_BYTES), record, bytes))?;
        self.put_first(lane, open, record)
    }

    fn put_first(&self, lane: &mut Lane, mut open: Open, record: &Draft<'_>) -> Option<Address> {
        let at = open.put(record, &self.table);
        if let Some(full) = lane.replace(open) {
            self.seal(full);
        }
        if let Some(idle) = lane.next_idle() {
            self.next_idle.fetch_min(idle.0, Ordering::Relaxed);
        }
        at
    }

    /// For a record its claim has set room aside for, when there is no other place.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] never while every claim keeps what it set aside, but for a moment when many
    /// completions are written at once and none has freed its room yet: try again.
    #[cold]
    pub(crate) fn append_somehow(&self, record: &Draft<'_>, bytes: &Quota) -> Result<Address, NoRoom> {
        let mut last = self.last_resort.lock();
        if let Some(at) = last
            .as_mut()
            .and_then(|open| open.put_stretched(record, &self.table))
        {
            return Ok(at);
        }
        self.set_aside_again(bytes);
        if !self.set_aside.load(Ordering::Relaxed) {
            return Err(NoRoom);
        }
        let time = TimeBase::new(record.written, ttl_of(record));
        let mut open = self.open_counted(self.segment_bytes, time).ok_or(NoRoom)?;
        self.set_aside.store(false, Ordering::Relaxed);
        bytes.tighten();
        let at = open.put_stretched(record, &self.table);
        if let Some(full) = last.replace(open) {
            self.seal(full);
        }
        at.ok_or(NoRoom)
    }

    /// Is the reserve there? If not, tries to take it from what has become free.
    #[inline]
    pub(crate) fn has_reserve(&self, bytes: &Quota) -> bool {
        self.set_aside.load(Ordering::Relaxed) || self.restore_reserve(bytes)
    }

    #[cold]
    fn restore_reserve(&self, bytes: &Quota) -> bool {
        let _last = self.last_resort.lock();
        self.set_aside_again(bytes);
        self.set_aside.load(Ordering::Relaxed)
    }

    /// Sets the reserve's bytes aside if there are as many. Under the lock of `last_resort`.
    fn set_aside_again(&self, bytes: &Quota) {
        if self.set_aside.load(Ordering::Relaxed) {
            return;
        }
        // A spare mapping is worth as much; its bytes stay taken.
        let spare = self.space.lock().pool.pop().is_some();
        let taken = spare || bytes.take_direct(self.segment_bytes as u64);
        self.set_aside.store(taken, Ordering::Relaxed);
    }

    /// Opens a segment of `size` bytes if the budget has room for it.
    fn open(&self, size: usize, record: &Draft<'_>, bytes: &Quota) -> Option<Open> {
        let time = TimeBase::new(record.written, ttl_of(record));
        // While the reserve is gone, what becomes free restores it and is used for nothing else.
        if !self.has_reserve(bytes) {
            return None;
        }
        if size > FIRST_BYTES {
            self.note_growth(record.written);
        }
        if size == self.segment_bytes
            && let Some(mapping) = self.take_pooled()
        {
            return self.open_mapping(mapping, time);
        }
        if !bytes.take_direct(size as u64) {
            return None;
        }
        let open = self.open_counted(size, time);
        if open.is_none() {
            bytes.give_direct(size as u64);
        }
        open
    }

    /// Segments are being filled: the helper shall keep one ready.
    fn note_growth(&self, now: Tick) {
        self.space.lock().last_open = Some(now);
        self.hungry.store(true, Ordering::Relaxed);
    }

    fn take_pooled(&self) -> Option<Arc<Mapping>> {
        self.space.lock().pool.pop()
    }

    /// Should the helper prepare a mapping now?
    #[inline]
    pub(crate) fn wants_spare(&self) -> bool {
        self.hungry.load(Ordering::Relaxed) && self.hungry.swap(false, Ordering::Relaxed)
    }

    /// Opens a segment whose bytes are in the budget already.
    fn open_counted(&self, size: usize, time: TimeBase) -> Option<Open> {
        let mapping = Mapping::anonymous(size).ok()?;
        self.open_mapping(Arc::new(mapping), time)
    }

    fn open_mapping(&self, mapping: Arc<Mapping>, time: TimeBase) -> Option<Open> {
        let id = self.issue(&mapping, &time)?;
        Some(Open::new(id, mapping, time))
    }

    /// Shows a mapping to readers, under an id nobody holds an address of.
    pub(crate) fn issue(&self, mapping: &Mapping, time: &TimeBase) -> Option<u32> {
        let id = {
            let mut space = self.space.lock();
            match space.free_ids.pop() {
                Some(id) => id,
                None if space.next_id < self.table.ids() => {
                    space.next_id += 1;
                    space.next_id - 1
                }
                None => return None,
            }
        };
        self.table.open(id, mapping, time);
        Some(id)
    }

    fn seal(&self, open: Open) {
        let used = (open.cursor * WORD) as u64;
        let mut space = self.space.lock();
        space.wheel.insert(open.latest.0, open.id);
        space.used_sealed += used;
        let mapping = open.mapping;
        space.sealed.insert(open.id, Sealed { mapping, used });
        self.next_due.fetch_min(open.latest.0, Ordering::Relaxed);
    }

    /// Seals heads whose time is over. Cheap when there are none.
    pub(crate) fn seal_idle(&self, now: Tick) {
        if self.next_idle.load(Ordering::Relaxed) > now.0 {
            return;
        }
        // Reset first: a head opened from here on lowers it again.
        self.next_idle.store(u64::MAX, Ordering::Relaxed);
        self.seal_last_resort(now);
        for lane in &self.lanes {
            let mut lane = lane.lock();
            while let Some(open) = lane.take_idle(now) {
                self.seal(open);
            }
            if let Some(idle) = lane.next_idle() {
                self.next_idle.fetch_min(idle.0, Ordering::Relaxed);
            }
        }
    }

    /// Seals the reserve's segment when its time is over and the reserve is back.
    fn seal_last_resort(&self, now: Tick) {
        let mut last = self.last_resort.lock();
        let Some(open) = last.take_if(|open| open.is_over(now) && self.set_aside.load(Ordering::Relaxed))
        else {
            if last.is_some() {
                self.next_idle
                    .fetch_min(now.after(RESERVE_PAUSE).0, Ordering::Relaxed);
            }
            return;
        };
        self.seal(open);
    }

    /// Takes one segment that is due: its latest deadline has passed.
    pub(crate) fn take_doomed(&self, now: Tick) -> Option<Doomed> {
        if self.next_due.load(Ordering::Relaxed) > now.0 {
            return None;
        }
        let mut space = self.space.lock();
        let mut due = None;
        // One firing at a time; cascades are bounded too.
        for _ in 0..64 {
            let mut steps = 1;
            let more = space.wheel.advance(now.0, &mut steps, |id| due = Some(id));
            if due.is_some() || more == Advance::Done {
                break;
            }
        }
        let next = space.wheel.next_due().unwrap_or(u64::MAX);
        self.next_due.store(next, Ordering::Relaxed);
        let id = due?;
        let Sealed { mapping, used } = space.sealed.remove(&id)?;
        space.used_sealed -= used;
        drop(space);
        Some(self.close(Doomed::new(id, mapping, used)))
    }

    /// From here on no record of the segment can be published.
    pub(crate) fn close(&self, doomed: Doomed) -> Doomed {
        let live = self.table.close(doomed.id);
        Doomed { live, ..doomed }
    }

    /// Retires a segment: readers find it no more, and its memory comes back after the last.
    pub(crate) fn retire(&self, doomed: Doomed, pin: &Guard) {
        self.table.hide(doomed.id);
        let size = doomed.mapping.bytes() as u64;
        // The mapping enters the limbo after it was hidden, the id after that: `Entry::words`
        // relies on both.
        self.limbo.put(pin, Remains::Mapping(doomed.mapping), size);
        self.space.lock().unswept.push(doomed.id);
    }

    /// Gives back what no reader sees any more; true if there was something.
    pub(crate) fn reap(&self, now: Tick, bytes: &Quota) -> bool {
        match self.limbo.take() {
            None => return false,
            Some(Remains::Ids(ids)) => self.space.lock().free_ids.extend(ids),
            Some(Remains::Mapping(mapping)) => {
                let size = mapping.bytes() as u64;
                let unmap = {
                    let mut space = self.space.lock();
                    let useful = mapping.bytes() == self.segment_bytes
                        && space.pool.len() < POOL
                        && space.is_growing(now);
                    if useful {
                        space.pool.push(mapping);
                        None
                    } else {
                        Some(mapping)
                    }
                };
                if unmap.is_some() {
                    drop(unmap);
                    bytes.give_direct(size);
                }
            }
        }
        true
    }

    /// Unmaps pooled mappings nothing was opened from for a while; true if there was one.
    pub(crate) fn trim_pool(&self, now: Tick, bytes: &Quota) -> bool {
        !self.space.lock().is_growing(now) && self.drop_spare(bytes)
    }

    /// Unmaps one pooled mapping; true if there was one.
    pub(crate) fn drop_spare(&self, bytes: &Quota) -> bool {
        let Some(mapping) = self.space.lock().pool.pop() else {
            return false;
        };
        bytes.give_direct(mapping.bytes() as u64);
        true
    }

    /// Prepares a mapping for the next segment, every page touched, if segments are being
    /// filled and none is ready. For the helper thread: it may take milliseconds.
    pub(crate) fn prepare(&self, now: Tick, bytes: &Quota) {
        let wanted = {
            let space = self.space.lock();
            space.pool.is_empty() && space.is_growing(now)
        };
        if !wanted || !self.has_reserve(bytes) || !bytes.take_direct(self.segment_bytes as u64) {
            return;
        }
        let pages = self.space.lock().pages.choose();
        match Mapping::anonymous(self.segment_bytes) {
            Ok(mapping) => {
                // The machine's time, whatever the store's clock says: what is timed is the machine.
                let began = Instant::now();
                mapping.populate(pages);
                let took = began.elapsed();
                let mut space = self.space.lock();
                space.pages.learn(pages, mapping.bytes(), took);
                space.pool.push(Arc::new(mapping));
            }
            Err(_) => bytes.give_direct(self.segment_bytes as u64),
        }
    }

    /// Retired ids a sweep that starts now would free.
    pub(crate) fn unswept_ids(&self) -> usize {
        self.space.lock().unswept.len()
    }

    /// A sweep starts: it will clear every slot that points to the ids retired so far.
    pub(crate) fn sweep_started(&self) {
        let mut space = self.space.lock();
        debug_assert!(space.sweeping.is_empty());
        space.sweeping = std::mem::take(&mut space.unswept);
    }

    /// Every shard has been swept. Readers may hold addresses they loaded before, so the ids
    /// wait for them too.
    pub(crate) fn sweep_done(&self, pin: &Guard) {
        let ids = std::mem::take(&mut self.space.lock().sweeping);
        if !ids.is_empty() {
            // A byte each, so that the limbo's count is not zero.
            let count = ids.len() as u64;
            self.limbo.put(pin, Remains::Ids(ids), count);
        }
    }

    /// The next moment at which a head or a sealed segment wants attention.
    pub(crate) fn next_due(&self) -> u64 {
        self.next_due
            .load(Ordering::Relaxed)
            .min(self.next_idle.load(Ordering::Relaxed))
    }

    /// Bytes of segments retired and not yet free.
    pub(crate) fn pending_bytes(&self) -> u64 {
        self.limbo.bytes()
    }

    /// (segments, bytes written in them).
    pub(crate) fn used(&self) -> (u64, u64) {
        let mut heads: u64 = self.lanes.iter().map(|l| l.lock().used_bytes()).sum();
        if let Some(open) = &*self.last_resort.lock() {
            heads += open.used_bytes();
        }
        let space = self.space.lock();
        let issued = u64::from(space.next_id);
        let idle = space.free_ids.len() + space.unswept.len() + space.sweeping.len();
        (issued.saturating_sub(idle as u64), heads + space.used_sealed)
    }
}

impl Doomed {
    /// A segment in which nothing counts any more, once it is closed.
    pub(crate) fn new(id: u32, mapping: Arc<Mapping>, used: u64) -> Self {
        Doomed {
            id,
            mapping,
            used,
            live: 0,
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// How many slots led to its records when its time came.
    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    /// The words of the segment in which records were written. What lies behind them may be left
    /// over from the mapping's earlier life, or beyond what an address can name.
    pub(crate) fn words(&self) -> std::ops::Range<usize> {
        HEADER_WORDS..self.used as usize / WORD
    }

    pub(crate) fn address(&self, word: usize) -> Address {
        Address::new(self.id, word)
    }
}

/// The smallest budget a store with this many lanes can keep its promises in: a head for each
/// lane, and the reserve.
pub(crate) fn min_bytes(lanes: usize) -> u64 {
    ((lanes + 1) * MIN_SEGMENT_BYTES) as u64
}

/// The segment size for a budget: a sixty-fourth of it, inside the limits.
pub(crate) fn segment_bytes(budget: u64) -> usize {
    let share = usize::try_from(budget / 64).unwrap_or(usize::MAX);
    let clamped = share.clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES);
    1 << clamped.ilog2()
}

const _: () = assert!(FIRST_BYTES >= MIN_SEGMENT_BYTES && FIRST_BYTES <= MAX_SEGMENT_BYTES);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Pins;
    use crate::fingerprint::Fingerprint;
    use crate::key::Key;

    const BUDGET: u64 = 64 << 20;

    struct Fixture {
        bytes: Quota,
        segments: Segments,
        pins: Pins,
    }

    impl Fixture {
        fn new(budget: u64) -> Self {
            let bytes = Quota::new(budget, 1, 0);
            let segments = Segments::new(segment_bytes(budget), 1, &bytes, Tick(1)).unwrap();
            let pins = Pins::new();
            Fixture {
                bytes,
                segments,
                pins,
            }
        }

        fn append(&self, now: u64, ttl: u64, outcome: &[u8]) -> Result<Address, NoRoom> {
            self.segments.append(&record(now, ttl, outcome), &self.bytes)
        }

        fn read(&self, at: Address) -> Option<Vec<u8>> {
            let pin = self.pins.pin();
            self.segments.table.record(at, &pin).map(|r| r.outcome().to_vec())
        }

        fn retire_all(&self, now: u64) -> usize {
            self.segments.seal_idle(Tick(now));
            let mut retired = 0;
            while let Some(doomed) = self.segments.take_doomed(Tick(now)) {
                self.segments.retire(doomed, &self.pins.pin());
                retired += 1;
            }
            retired
        }

        fn pass_epochs(&self) {
            for _ in 0..4 {
                self.pins.pin().flush();
            }
        }
    }

    fn record(now: u64, ttl: u64, outcome: &[u8]) -> Draft<'_> {
        let key = Key::unscoped("key").check().unwrap();
        Draft {
            body: outcome,
            ..Draft::completed(key, Fingerprint::NONE, 1, Tick(now), Span::from_millis(ttl))
        }
    }

    #[test]
    fn records_are_read_where_they_were_written() {
        let f = Fixture::new(BUDGET);
        let small: Vec<_> = (0..20_000u32)
            .map(|i| (f.append(1, 60_000, &i.to_le_bytes()).unwrap(), i))
            .collect();
        let large = f.append(1, 60_000, &[7; 5 << 20]).unwrap();
        for (at, i) in small {
            assert_eq!(f.read(at).unwrap(), i.to_le_bytes());
        }
        assert_eq!(f.read(large).unwrap().len(), 5 << 20);
    }

    #[test]
    fn a_segment_dies_at_its_latest_deadline_and_not_before() {
        let f = Fixture::new(BUDGET);
        let at = f.append(1, 64_000, b"long").unwrap();
        let last = f.append(3_000, 64_000, b"longer").unwrap();
        let other = f.append(3_000, 5_000, b"another class").unwrap();
        assert_eq!(f.retire_all(8_000), 0, "no head is old enough, no segment due");
        assert_eq!(f.retire_all(8_001), 1);
        assert!(f.read(other).is_none());
        assert_eq!(f.retire_all(67_000), 0);
        assert!(f.read(at).is_some() && f.read(last).is_some());
        assert_eq!(f.retire_all(67_001), 1);
        assert!(f.read(at).is_none());
    }

    #[test]
    fn an_id_comes_back_only_after_a_sweep_and_its_readers() {
        let f = Fixture::new(BUDGET);
        let first = f.append(1, 10, b"x").unwrap();
        assert_eq!(f.retire_all(5_000), 1);
        f.pass_epochs();
        let second = f.append(5_000, 10, b"x").unwrap();
        assert_ne!(second.segment(), first.segment(), "slots may still point there");
        assert_eq!(f.segments.unswept_ids(), 1);
        f.segments.sweep_started();
        let reader = f.pins.pin();
        f.segments.sweep_done(&f.pins.pin());
        f.pass_epochs();
        while f.segments.reap(Tick(5_000), &f.bytes) {}
        f.segments.seal_idle(Tick(10_000));
        let third = f.append(10_000, 10, b"x").unwrap();
        assert_ne!(
            third.segment(),
            first.segment(),
            "a reader may still hold an address"
        );
        drop(reader);
        f.pass_epochs();
        while f.segments.reap(Tick(10_000), &f.bytes) {}
        f.segments.seal_idle(Tick(20_000));
        assert_eq!(f.append(20_000, 10, b"x").unwrap().segment(), first.segment());
    }

    #[test]
    fn bytes_come_back_with_the_mapping() {
        let f = Fixture::new(BUDGET);
        let idle = f.bytes.taken();
        for _ in 0..3_000 {
            f.append(1, 10, &[1; 1_000]).unwrap();
        }
        assert!(f.bytes.taken() > idle + 3_000_000);
        f.retire_all(5_000);
        f.pass_epochs();
        while f.segments.reap(Tick(5_000), &f.bytes) {}
        while f.segments.trim_pool(Tick(60_000), &f.bytes) {}
        assert_eq!(f.bytes.taken(), idle);
        assert_eq!(f.segments.pending_bytes(), 0);
    }

    #[test]
    fn the_reserve_is_for_covered_records_and_is_restored_first() {
        let f = Fixture::new(1 << 20);
        while f.append(1, 60_000, &[1; 1_000]).is_ok() {}
        assert!(f.segments.has_reserve(&f.bytes));
        // What is left in the budget goes to nobody, so that the reserve is all there is.
        while f.bytes.take_direct(1_024) {}
        let put = |i: usize| {
            let ttl = [1, 60_000, 40 * 86_400_000][i % 3];
            f.segments.append_somehow(&record(1, ttl, b""), &f.bytes)
        };
        put(0).unwrap();
        assert!(!f.segments.has_reserve(&f.bytes), "in use");
        assert!(f.append(1, 60_000, &[1; 1_000]).is_err(), "not for everyone");
        f.segments.seal_idle(Tick(1 << 40));
        let room = MIN_SEGMENT_BYTES / 64;
        assert!(
            (0..room).all(|i| put(i).is_ok()),
            "neither filled by others nor closed for age"
        );
        f.bytes.give_direct(70 << 10);
        assert!(f.segments.has_reserve(&f.bytes));
    }

    #[test]
    fn segment_sizes_follow_the_budget() {
        assert_eq!(segment_bytes(0), MIN_SEGMENT_BYTES);
        assert_eq!(segment_bytes(64 << 20), 1 << 20);
        assert_eq!(segment_bytes(u64::MAX), MAX_SEGMENT_BYTES);
    }

    /// Readers that come while a segment is retired, and its id taken for another: they find the old
    /// record or none. Memory that was given back too early is unmapped: reading it is a crash.
    #[cfg(onceonly_loom)]
    mod loom {
        use super::*;
        use crate::sync::{AtomicU64, explore, spawn};

        #[test]
        fn readers_of_a_retired_segment_find_the_old_record_or_none() {
            explore(3, || {
                let f = Arc::new(Fixture::new(BUDGET));
                let at = f.append(1, 10, b"old").expect("there is room");
                // As the index has it.
                let slot = Arc::new(AtomicU64::new(at.to_bits()));
                let reader = {
                    let (f, slot) = (f.clone(), slot.clone());
                    spawn(move || {
                        let pin = f.pins.pin();
                        let bits = slot.load(Ordering::Acquire);
                        if bits != 0 {
                            let record = f.segments.table.record(Address::from_bits(bits), &pin);
                            assert!(record.is_none_or(|record| record.outcome() == b"old"));
                        }
                    })
                };
                let now = Tick(100_000);
                assert_eq!(f.retire_all(now.0), 1);
                while f.segments.reap(now, &f.bytes) {}
                f.segments.sweep_started();
                slot.store(0, Ordering::Release);
                f.segments.sweep_done(&f.pins.pin());
                while f.segments.reap(now, &f.bytes) {}
                f.append(now.0, 10, b"new").expect("there is room");
                reader.join().expect("it reads");
            });
        }
    }
}
