//! One shard's index: buckets of eight slots, one cache line each.
//!
//! ```text
//!  slot   63           41 40  39                                  0
//!        +---------------+---+-------------------------------------+
//!        |  tag (23)     | L |  address of the record, or lease    |
//!        +---------------+---+-------------------------------------+
//!         0: empty       1: tombstone        L = 1: claim in flight
//! ```
//!
//! A key's home bucket is `tag * buckets >> 23`, so any number of buckets works, and a rebuild
//! needs the slots alone. Probing goes on to the next bucket until one shows an empty slot.
//!
//! What always holds:
//!
//! 1. Slots change only under the shard's lock; readers load them without.
//! 2. A slot that holds an address was stored with Release after the record was written.
//! 3. A bucket that was once full shows no empty slot until the next rebuild: a removal leaves
//!    a tombstone unless its bucket has an empty slot anyway. So "stop at the first bucket with
//!    an empty slot" is right for every reader at any time.
//!    An insertion takes the first vacant slot of a bucket, so the last slot is the last to be
//!    filled: it alone says whether there is an empty one.
//! 4. A key never moves while it is present, except by a rebuild, which leaves the old array
//!    as it was for those who still read it. A lookup can therefore miss a key only if the key
//!    was absent at some moment during the lookup.
//!
//! The layout (a cache line of slots with partial hashes, probed before any record is touched)
//! follows FASTER's hash buckets (Chandramouli et al., SIGMOD 2018) and Segcache (Yang et al.,
//! NSDI 2021).
#![allow(unsafe_code)] // one dereference, see `SharedTable::load`

use crate::epoch::{Guard, Limbo};
use crate::key::TAG_BITS;
use crate::segment::Address;
use crate::segment::words::prefetch;
use crate::sync::{AtomicPtr, AtomicU64, Ordering};

/// A slot's contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot(u64);

const TAG_AT: u32 = 41;
const LEASE: u64 = 1 << 40;
const REF: u64 = LEASE - 1;

const _: () = assert!(TAG_AT + TAG_BITS == u64::BITS);
const _: () = assert!(crate::segment::table::ADDRESS_BITS == 40);

/// What a slot leads to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    Record(Address),
    Lease(u32),
}

impl Slot {
    const EMPTY: Slot = Slot(0);
    const TOMB: Slot = Slot(1);

    pub(crate) fn new(tag: u32, target: Target) -> Self {
        debug_assert!(tag < 1 << TAG_BITS);
        let tag = u64::from(tag) << TAG_AT;
        match target {
            Target::Record(at) => Slot(tag | at.to_bits()),
            Target::Lease(index) => Slot(tag | LEASE | u64::from(index)),
        }
    }

    fn tag(self) -> u32 {
        (self.0 >> TAG_AT) as u32
    }

    fn is_vacant(self) -> bool {
        self.0 <= Self::TOMB.0
    }

    pub(crate) fn target(self) -> Option<Target> {
        if self.is_vacant() {
            None
        } else if self.0 & LEASE != 0 {
            Some(Target::Lease((self.0 & REF) as u32))
        } else {
            Some(Target::Record(Address::from_bits(self.0 & REF)))
        }
    }
}

const SLOTS: usize = 8;

#[derive(Default)]
#[repr(align(64))]
struct Bucket([AtomicU64; SLOTS]);

/// Sizes grow by 1.3, so that a table is never much emptier than it has to be; the class fits
/// into the alignment bits of a pointer.
const CLASSES: usize = 64;
const SIZES: [u32; CLASSES] = {
    let mut sizes = [0; CLASSES];
    let mut size = 2u64;
    let mut i = 0;
    while i < CLASSES {
        sizes[i] = size as u32;
        let grown = size * 13 / 10;
        size = if grown == size { size + 1 } else { grown };
        i += 1;
    }
    sizes
};
const _: () = assert!(SIZES[CLASSES - 1] as u64 * (SLOTS as u64) < 1 << 32);
const _: () = assert!(SIZES[CLASSES - 1] > 1 << 21);

/// Slots below which a table grows by doubling.
const SMALL: u64 = 1_024;

/// An array of buckets.
pub(crate) struct Table {
    /// A vector, not a box: readers keep a pointer into it while it moves.
    buckets: Vec<Bucket>,
    class: u8,
}

impl Table {
    /// An empty table of that size.
    pub(crate) fn of(size: Rebuild) -> Self {
        Self::new(size.0)
    }

    pub(crate) fn is_of(&self, size: Rebuild) -> bool {
        self.class == size.0
    }

    fn new(class: u8) -> Self {
        let len = SIZES[usize::from(class)] as usize;
        Table {
            buckets: std::iter::repeat_with(Bucket::default).take(len).collect(),
            class,
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        Self::bytes_of(self.class)
    }

    fn bytes_of(class: u8) -> u64 {
        u64::from(SIZES[usize::from(class)]) * size_of::<Bucket>() as u64
    }

    fn view(&self) -> Buckets<'_> {
        Buckets(&self.buckets)
    }
}

/// Where readers find the table: the pointer and, in the bits its alignment leaves free, the
/// size class. One load gives both, and no header has to be fetched.
pub(crate) struct SharedTable(AtomicPtr<Bucket>);

const CLASS_MASK: usize = align_of::<Bucket>() - 1;
const _: () = assert!(CLASS_MASK + 1 == CLASSES);

impl SharedTable {
    fn new(table: &Table) -> Self {
        SharedTable(AtomicPtr::new(Self::tagged(table)))
    }

    fn tagged(table: &Table) -> *mut Bucket {
        let base = table.buckets.as_ptr().cast_mut();
        base.map_addr(|addr| addr | usize::from(table.class))
    }

    /// Shows another table to readers that come from now on.
    fn store(&self, table: &Table) {
        // Release: pairs with the Acquire in `load`; the new table is filled.
        self.0.store(Self::tagged(table), Ordering::Release);
    }

    /// The table as a reader may see it.
    #[inline]
    pub(crate) fn load<'g>(&self, _pin: &'g Guard) -> Buckets<'g> {
        let tagged = self.0.load(Ordering::Acquire);
        let len = SIZES[tagged.addr() & CLASS_MASK] as usize;
        let base = tagged.map_addr(|addr| addr & !CLASS_MASK);
        // SAFETY: pointer and class were stored together from one `Table`, whose vector
        // has exactly `SIZES[class]` buckets. It is alive while `_pin` is: the newest table belongs
        // to the `Index` that stands beside this in the shard and goes with it, and the only
        // way to replace one, `Index::rebuild_into`, puts the old table into the limbo under the
        // store's own epoch, where it waits for every guard pinned before.
        Buckets(unsafe { std::slice::from_raw_parts(base, len) })
    }
}

/// A slot's place in its table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(u32);

/// A borrowed table.
#[derive(Clone, Copy)]
pub(crate) struct Buckets<'t>(&'t [Bucket]);

impl Buckets<'_> {
    fn home(self, tag: u32) -> usize {
        ((u64::from(tag) * self.0.len() as u64) >> TAG_BITS) as usize
    }

    /// Shows `visit` every slot with this tag, until it has an answer.
    #[inline]
    pub(crate) fn probe<R>(self, tag: u32, visit: impl FnMut(Place, Slot) -> Option<R>) -> Option<R> {
        self.walk::<false, R>(tag, &mut None, visit)
    }

    /// The same, noting the first place on the way that a new key could take.
    #[inline]
    pub(crate) fn probe_for_insert<R>(
        self,
        tag: u32,
        vacant: &mut Option<Place>,
        visit: impl FnMut(Place, Slot) -> Option<R>,
    ) -> Option<R> {
        self.walk::<true, R>(tag, vacant, visit)
    }

    #[inline]
    fn walk<const INSERTING: bool, R>(
        self,
        tag: u32,
        vacant: &mut Option<Place>,
        mut visit: impl FnMut(Place, Slot) -> Option<R>,
    ) -> Option<R> {
        let wanted = u64::from(tag) << TAG_AT;
        let mut at = self.home(tag);
        for _ in 0..self.0.len() {
            let bucket = &self.0[at].0;
            // First which slots matter, without a branch for each: rarely more than one does. The
            // last slot comes first, so that the first one ends up in the lowest bit.
            // Acquire: the record a slot leads to was written before the slot.
            let last = bucket[SLOTS - 1].load(Ordering::Acquire);
            let mut candidates = 0u32;
            for slot in bucket.iter().rev() {
                let slot = slot.load(Ordering::Acquire);
                candidates = candidates << 1 | u32::from(slot ^ wanted < 1 << TAG_AT);
            }
            let place = |i: u32| Place((at * SLOTS) as u32 + i);
            while candidates != 0 {
                let i = candidates.trailing_zeros();
                candidates &= candidates - 1;
                // Loaded again: it may have changed, and whatever it is now is as good. Vacant
                // slots look like those of tag 0.
                let slot = Slot(bucket[i as usize].load(Ordering::Acquire));
                if slot.tag() == tag && !slot.is_vacant() {
                    let answer = visit(place(i), slot);
                    if answer.is_some() {
                        return answer;
                    }
                }
            }
            if INSERTING && vacant.is_none() {
                // Relaxed: it is taken under the lock, and by then nothing may have changed.
                let vacants = bucket.iter().rev().fold(0u32, |vacants, slot| {
                    vacants << 1 | u32::from(Slot(slot.load(Ordering::Relaxed)).is_vacant())
                });
                if vacants != 0 {
                    *vacant = Some(place(vacants.trailing_zeros()));
                }
            }
            if last == Slot::EMPTY.0 {
                return None;
            }
            at += 1;
            if at == self.0.len() {
                at = 0;
            }
        }
        None
    }

    #[inline]
    pub(crate) fn prefetch(self, tag: u32) {
        prefetch(&self.0[self.home(tag)]);
    }
}

/// A new table being filled, one that has room for all that comes. What is taken of a bucket is
/// counted beside it: to look for its first empty slot would cost as much as all the rest.
struct Filling {
    table: Table,
    taken: Vec<u8>,
}

impl Filling {
    fn of(table: Table) -> Self {
        let taken = vec![0; table.buckets.len()];
        Filling { table, taken }
    }

    fn put(&mut self, slot: Slot) -> Place {
        let mut at = self.table.view().home(slot.tag());
        while usize::from(self.taken[at]) == SLOTS {
            at = (at + 1) % self.taken.len();
        }
        let i = usize::from(self.taken[at]);
        self.taken[at] += 1;
        // Relaxed: nobody sees the table yet.
        self.table.buckets[at].0[i % SLOTS].store(slot.0, Ordering::Relaxed);
        Place((at * SLOTS + i) as u32)
    }
}

/// The index as the holder of the shard's lock sees it.
pub(crate) struct Index {
    table: Table,
    /// Slots that are neither empty nor tombs.
    used: u32,
    tombs: u32,
    /// Out of 256 slots, how many may be taken before a rebuild. It differs between shards, so
    /// that they do not all rebuild in the same instant.
    load: u32,
    sweep_at: u32,
}

/// A rebuild that would have room: the class to build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rebuild(u8);

impl Rebuild {
    pub(crate) fn bytes(self) -> u64 {
        Table::bytes_of(self.0)
    }
}

impl Index {
    /// An index for the shard with this number, and how readers see it.
    pub(crate) fn new(shard: usize) -> (Self, SharedTable) {
        let table = Table::new(0);
        let shared = SharedTable::new(&table);
        // 70 to 86 %, spread by the golden ratio.
        let jitter = (shard as u32).wrapping_mul(0x9e37_79b9) >> 26;
        let index = Index {
            table,
            used: 0,
            tombs: 0,
            load: 180 + jitter * 40 / 64,
            sweep_at: 0,
        };
        (index, shared)
    }

    /// Bytes of the smallest table.
    pub(crate) fn min_bytes() -> u64 {
        Table::bytes_of(0)
    }

    pub(crate) fn buckets(&self) -> Buckets<'_> {
        self.table.view()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.table.bytes()
    }

    fn capacity(&self) -> u32 {
        (self.table.buckets.len() * SLOTS) as u32
    }

    fn slot(&self, place: Place) -> &AtomicU64 {
        &self.table.buckets[place.0 as usize / SLOTS].0[place.0 as usize % SLOTS]
    }

    fn load_slot(&self, place: Place) -> Slot {
        // Relaxed: slots change only under the lock the caller holds.
        Slot(self.slot(place).load(Ordering::Relaxed))
    }

    /// Puts a slot where none was.
    pub(crate) fn insert(&mut self, place: Place, slot: Slot) {
        let old = self.load_slot(place);
        debug_assert!(old.is_vacant());
        self.tombs -= u32::from(old == Slot::TOMB);
        self.used += 1;
        self.set(place, slot);
    }

    /// Lets a taken slot lead elsewhere.
    pub(crate) fn set(&self, place: Place, slot: Slot) {
        // Release: what the slot leads to has been written.
        self.slot(place).store(slot.0, Ordering::Release);
    }

    /// Makes a slot vacant.
    pub(crate) fn remove(&mut self, place: Place) {
        debug_assert!(!self.load_slot(place).is_vacant());
        self.used -= 1;
        let bucket = &self.table.buckets[place.0 as usize / SLOTS];
        let has_empty = bucket
            .0
            .iter()
            .any(|s| s.load(Ordering::Relaxed) == Slot::EMPTY.0);
        let vacant = if has_empty { Slot::EMPTY } else { Slot::TOMB };
        self.tombs += u32::from(vacant == Slot::TOMB);
        self.set(place, vacant);
    }

    /// Must a rebuild come before the next insertion?
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        u64::from(self.used + self.tombs + 1) * 256 > u64::from(self.capacity()) * u64::from(self.load)
    }

    /// Is it worth building a smaller one?
    pub(crate) fn is_sparse(&self) -> bool {
        self.table.class > 0 && self.used < self.capacity() / 5
    }

    /// The rebuild that would leave room for growth over the slots worth keeping.
    pub(crate) fn plan(&self, keep: impl Fn(Target) -> bool) -> Rebuild {
        let all = self.table.buckets.iter().flat_map(|b| &b.0);
        let kept = all
            .filter_map(|s| Slot(s.load(Ordering::Relaxed)).target())
            .filter(|t| keep(*t))
            .count() as u64;
        self.plan_of(kept)
    }

    /// A rebuild that leaves room for so many slots more.
    pub(crate) fn plan_for(&self, more: u64) -> Rebuild {
        self.plan_of(u64::from(self.used) + more)
    }

    fn plan_of(&self, kept: u64) -> Rebuild {
        // To at most 77 % of what the load allows, one size class of room; small tables double,
        // for what they waste is little and they would be rebuilt often.
        let room = if kept < SMALL { 20 } else { 13 };
        let want = (kept + 1) * 256 * room / (u64::from(self.load) * 10);
        let class = SIZES.partition_point(|size| u64::from(*size) * (SLOTS as u64) < want);
        Rebuild(class.min(CLASSES - 1) as u8)
    }

    /// Builds the new table, shows it and puts the old one into the limbo, for readers may still
    /// see it. `moved` is told the new place of every lease; slots `keep` does not want are left
    /// out.
    pub(crate) fn rebuild(
        &mut self,
        plan: Rebuild,
        shared: &SharedTable,
        limbo: &Limbo<Table>,
        pin: &Guard,
        keep: impl Fn(Target) -> bool,
        moved: impl FnMut(u32, Place),
    ) {
        self.rebuild_into(Table::of(plan), shared, limbo, pin, keep, moved);
    }

    /// The same into a table that is there, empty and of the size that was planned.
    pub(crate) fn rebuild_into(
        &mut self,
        table: Table,
        shared: &SharedTable,
        limbo: &Limbo<Table>,
        pin: &Guard,
        keep: impl Fn(Target) -> bool,
        mut moved: impl FnMut(u32, Place),
    ) {
        let mut filling = Filling::of(table);
        let mut used = 0;
        for old in self.table.buckets.iter().flat_map(|b| &b.0) {
            let slot = Slot(old.load(Ordering::Relaxed));
            let Some(target) = slot.target() else { continue };
            if !keep(target) {
                continue;
            }
            let place = filling.put(slot);
            used += 1;
            if let Target::Lease(lease) = target {
                moved(lease, place);
            }
        }
        let table = filling.table;
        shared.store(&table);
        self.used = used;
        self.tombs = 0;
        self.sweep_at = 0;
        let old = std::mem::replace(&mut self.table, table);
        let bytes = old.bytes();
        limbo.put(pin, old, bytes);
    }

    /// Looks at the slots of up to `buckets` buckets from where the last sweep stopped and
    /// removes those that are not worth keeping. True at the end of the table.
    pub(crate) fn sweep(&mut self, buckets: u32, mut keep: impl FnMut(Target) -> bool) -> bool {
        let len = self.table.buckets.len() as u32;
        let end = self.sweep_at.saturating_add(buckets).min(len);
        self.retain_in(self.sweep_at..end, &mut keep);
        self.sweep_at = if end == len { 0 } else { end };
        end == len
    }

    /// Removes every slot that is not worth keeping.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Target) -> bool) {
        self.retain_in(0..self.table.buckets.len() as u32, &mut keep);
    }

    fn retain_in(&mut self, buckets: std::ops::Range<u32>, keep: &mut impl FnMut(Target) -> bool) {
        for place in buckets.start * SLOTS as u32..buckets.end * SLOTS as u32 {
            let place = Place(place);
            if let Some(target) = self.load_slot(place).target()
                && !keep(target)
            {
                self.remove(place);
            }
        }
    }

    /// Starts the next sweep at the first bucket.
    pub(crate) fn rewind_sweep(&mut self) {
        self.sweep_at = 0;
    }

    /// What every taken slot leads to, copied.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let all = self.table.buckets.iter().flat_map(|b| &b.0);
        all.filter_map(|s| Slot(s.load(Ordering::Relaxed)).target())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::epoch::Pins;
    use crate::segment::table::HEADER_WORDS;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn record(n: usize) -> Target {
        Target::Record(Address::new(0, HEADER_WORDS + n))
    }

    /// Finds by tag and target, as a caller finds by tag and key.
    fn find(buckets: Buckets<'_>, tag: u32, wanted: Target) -> Option<Place> {
        buckets.probe(tag, |place, slot| {
            (slot.target() == Some(wanted)).then_some(place)
        })
    }

    struct Fixture {
        index: Index,
        shared: SharedTable,
        pins: Pins,
        limbo: Limbo<Table>,
        moved: HashMap<u32, Place>,
    }

    impl Fixture {
        fn new() -> Self {
            let (index, shared) = Index::new(0);
            Fixture {
                index,
                shared,
                pins: Pins::new(),
                limbo: Limbo::new(),
                moved: HashMap::new(),
            }
        }

        fn insert(&mut self, tag: u32, target: Target) {
            if self.index.is_full() {
                self.rebuild(|_| true);
            }
            let mut vacant = None;
            self.index
                .buckets()
                .probe_for_insert(tag, &mut vacant, |_, _| None::<()>);
            self.index
                .insert(vacant.expect("there is room"), Slot::new(tag, target));
        }

        fn rebuild(&mut self, keep: impl Fn(Target) -> bool + Copy) {
            let plan = self.index.plan(keep);
            let moved = &mut self.moved;
            let pin = self.pins.pin();
            self.index
                .rebuild(plan, &self.shared, &self.limbo, &pin, keep, |lease, place| {
                    moved.insert(lease, place);
                });
        }
    }

    #[test]
    fn slots_keep_what_is_put_into_them() {
        for tag in [0, 1, (1 << TAG_BITS) - 1] {
            for target in [record(0), record(99), Target::Lease(0), Target::Lease(u32::MAX)] {
                let slot = Slot::new(tag, target);
                assert_eq!((slot.tag(), slot.target()), (tag, Some(target)));
            }
        }
        assert_eq!((Slot::EMPTY.target(), Slot::TOMB.target()), (None, None));
    }

    #[test]
    fn sizes_grow_by_less_than_half() {
        assert!(
            SIZES
                .windows(2)
                .all(|w| w[0] < w[1] && (w[0] < 4 || w[1] * 2 <= w[0] * 3))
        );
    }

    #[test]
    fn a_rebuild_tells_leases_their_new_place_and_leaves_the_old_table_to_its_readers() {
        let mut f = Fixture::new();
        f.insert(5, Target::Lease(7));
        f.insert(6, record(1));
        let pin = f.pins.pin();
        let before = f.shared.load(&pin);
        f.rebuild(|target| target == Target::Lease(7));
        assert_eq!(
            find(f.index.buckets(), 5, Target::Lease(7)),
            f.moved.get(&7).copied()
        );
        assert!(find(f.index.buckets(), 6, record(1)).is_none());
        assert!(
            find(before, 6, record(1)).is_some(),
            "who looked before still sees it"
        );
    }

    #[test]
    fn homes_are_spread_evenly_and_in_order() {
        let table = Table::new(12);
        let buckets = table.view();
        let len = buckets.0.len();
        let mut tags = vec![0; len];
        let step = 8;
        let homes = (0..1 << TAG_BITS).step_by(step).map(|tag| buckets.home(tag));
        let mut last = 0;
        for home in homes {
            assert!(last <= home && home < len);
            last = home;
            tags[home] += 1;
        }
        let fair = (1 << TAG_BITS) / step / len;
        assert!(tags.iter().all(|tags| fair.abs_diff(*tags) <= 1), "{tags:?}");
    }

    /// What the byte budget is told, by the table, by a plan, and by the limbo.
    #[test]
    fn the_bytes_of_a_table_are_those_of_its_buckets() {
        let mut f = Fixture::new();
        assert_eq!((Index::min_bytes(), f.index.bytes()), (128, 128));
        let plan = f.index.plan_for(1_000);
        let pin = f.pins.pin();
        f.index
            .rebuild(plan, &f.shared, &f.limbo, &pin, |_| true, |_, _| {});
        assert_eq!(plan.bytes(), f.index.bytes());
        assert_eq!(f.index.bytes(), f.index.buckets().0.len() as u64 * 64);
        assert_eq!(f.limbo.bytes(), 128, "the table before");
    }

    /// Slots and tombs count alike: probes pass over both.
    #[test]
    fn an_index_is_full_when_its_load_is_reached() {
        let mut f = Fixture::new();
        let pin = f.pins.pin();
        let plan = f.index.plan_for(500);
        f.index
            .rebuild(plan, &f.shared, &f.limbo, &pin, |_| true, |_, _| {});
        let capacity = f.index.buckets().0.len() as u32 * 8;
        let most = capacity * f.index.load / 256;
        assert!(!f.index.is_full());
        for n in 0..most {
            assert!(!f.index.is_full(), "{n} of {most}");
            // One home for all: every bucket on the way is full, and removals leave tombs.
            let mut vacant = None;
            f.index
                .buckets()
                .probe_for_insert(n % 64, &mut vacant, |_, _| None::<()>);
            f.index
                .insert(vacant.unwrap(), Slot::new(n % 64, Target::Lease(n)));
        }
        assert!(f.index.is_full());
        let fourth = find(f.index.buckets(), 3, Target::Lease(3)).unwrap();
        f.index.remove(fourth);
        assert!(f.index.is_full(), "a tomb is as good as a slot");
        assert_eq!((f.index.used, f.index.tombs), (most - 1, 1));
        let mut vacant = None;
        let buckets = f.index.buckets();
        let found = buckets.probe_for_insert(3, &mut vacant, |_, _| None::<()>);
        assert_eq!(
            (found, vacant),
            (None, Some(fourth)),
            "the first place on the way"
        );
        f.index.insert(fourth, Slot::new(3, Target::Lease(3)));
        assert_eq!((f.index.used, f.index.tombs), (most, 0));
        f.rebuild(|_| true);
        assert!(!f.index.is_full());
    }

    #[test]
    fn shards_fill_to_loads_of_their_own() {
        let loads: Vec<u32> = (0..64).map(|shard| Index::new(shard).0.load).collect();
        assert!(loads.iter().all(|load| (180..220).contains(load)), "{loads:?}");
        let different: std::collections::HashSet<_> = loads.iter().collect();
        assert!(different.len() > 30, "{loads:?}");
        // 70 to 86 %: the whole range is used.
        assert!(loads.iter().any(|load| *load < 185) && loads.iter().any(|load| *load > 214));
    }

    #[test]
    fn a_rebuild_leaves_room_by_a_size_or_two_and_small_ones_double() {
        let (index, _) = Index::new(3);
        for kept in [0, 1, 7, 50, 255, SMALL - 1, SMALL, 100_000, 5_000_000] {
            let plan = index.plan_of(kept);
            let slots = plan.bytes() / 8;
            let most = slots * u64::from(index.load) / 256;
            let room = if kept < SMALL { 20 } else { 13 };
            let wanted = (kept + 1) * room / 10;
            assert!(most + 1 >= wanted, "{kept}: {most}");
            // The next smaller size would not have done.
            let smaller = plan.0.checked_sub(1).map(|class| Rebuild(class).bytes() / 8);
            assert!(
                smaller.is_none_or(|slots| slots * u64::from(index.load) / 256 < wanted),
                "{kept}: {most}"
            );
        }
        let largest = index.plan_of(u64::from(u32::MAX));
        assert_eq!(usize::from(largest.0), CLASSES - 1);
    }

    #[test]
    fn an_index_is_sparse_below_a_fifth_unless_it_is_the_smallest() {
        let mut f = Fixture::new();
        assert!(!f.index.is_sparse(), "there is no smaller one");
        let pin = f.pins.pin();
        let plan = f.index.plan_for(100);
        f.index
            .rebuild(plan, &f.shared, &f.limbo, &pin, |_| true, |_, _| {});
        let fifth = f.index.buckets().0.len() as u32 * 8 / 5;
        for n in 0..fifth {
            assert!(f.index.is_sparse(), "{n} of {fifth}");
            f.insert(n * 50_000, record(n as usize));
        }
        assert!(!f.index.is_sparse());
    }

    #[test]
    fn a_sweep_visits_every_bucket_once_and_begins_again() {
        let mut f = Fixture::new();
        (0..100).for_each(|n| f.insert(n * 80_000, record(n as usize)));
        let buckets = f.index.buckets().0.len() as u32;
        let sweep = |f: &mut Fixture, count: u32| {
            let mut seen = 0;
            let ended = f.index.sweep(count, |_| {
                seen += 1;
                true
            });
            (ended, seen)
        };
        for _ in 0..2 {
            let mut seen = 0;
            for at in 0..buckets {
                let (ended, found) = sweep(&mut f, 1);
                assert_eq!(ended, at + 1 == buckets);
                seen += found;
            }
            assert_eq!(seen, 100);
        }
        sweep(&mut f, 3);
        f.index.rewind_sweep();
        assert_eq!(sweep(&mut f, u32::MAX), (true, 100));
        f.index.retain(|target| target == record(7));
        assert_eq!(f.index.targets(), [record(7)]);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Insert(u32),
        Remove(usize),
        Sweep(u32, u8),
        Rebuild(u8),
    }

    fn op() -> impl Strategy<Value = Op> {
        // Few tags, so that buckets overflow; or all of them.
        let tag = prop_oneof![0..4u32, 0..1u32 << TAG_BITS, Just((1 << TAG_BITS) - 1)];
        prop_oneof![
            8 => tag.prop_map(Op::Insert),
            4 => any::<usize>().prop_map(Op::Remove),
            1 => (1..4u32, 2..9u8).prop_map(|(buckets, one_in)| Op::Sweep(buckets, one_in)),
            1 => (2..9u8).prop_map(Op::Rebuild),
        ]
    }

    proptest! {
        /// Whatever happens, each slot is found by readers with and without the lock, and what
        /// was removed is not.
        #[test]
        fn everything_inserted_is_found_until_it_is_removed(ops in prop::collection::vec(op(), 1..400)) {
            let mut f = Fixture::new();
            let mut model: Vec<(u32, Target)> = Vec::new();
            let dies = |target: Target, one_in: u8| match target {
                Target::Record(at) => at.to_bits().is_multiple_of(u64::from(one_in)),
                Target::Lease(_) => false,
            };
            for (n, op) in ops.into_iter().enumerate() {
                match op {
                    Op::Insert(tag) => {
                        let target = if n % 5 == 0 { Target::Lease(n as u32) } else { record(n) };
                        f.insert(tag, target);
                        model.push((tag, target));
                    }
                    Op::Remove(i) if !model.is_empty() => {
                        let (tag, target) = model.swap_remove(i % model.len());
                        let place = find(f.index.buckets(), tag, target).unwrap();
                        f.index.remove(place);
                        prop_assert!(find(f.index.buckets(), tag, target).is_none());
                    }
                    Op::Remove(_) => {}
                    Op::Sweep(buckets, one_in) => {
                        let mut gone = Vec::new();
                        f.index.sweep(buckets, |target| {
                            let keep = !dies(target, one_in);
                            if !keep {
                                gone.push(target);
                            }
                            keep
                        });
                        model.retain(|(_, target)| !gone.contains(target));
                    }
                    Op::Rebuild(one_in) => {
                        f.rebuild(|target| !dies(target, one_in));
                        model.retain(|(_, target)| !dies(*target, one_in));
                    }
                }
                prop_assert_eq!(f.index.targets().len(), model.len());
                prop_assert_eq!(f.index.used as usize, model.len());
                let pin = f.pins.pin();
                for (tag, target) in &model {
                    prop_assert!(find(f.index.buckets(), *tag, *target).is_some());
                    prop_assert!(find(f.shared.load(&pin), *tag, *target).is_some());
                }
            }
        }
    }
}

#[cfg(all(test, onceonly_loom))]
mod loom {
    use super::*;
    use crate::epoch::Pins;
    use crate::segment::table::HEADER_WORDS;
    use crate::sync::{Arc, Mutex, explore, spawn};
    use ::loom::cell::UnsafeCell;

    const TAG: u32 = 5;

    fn record(n: usize) -> Target {
        Target::Record(Address::new(0, HEADER_WORDS + n))
    }

    /// One shard's index, and what its records hold: loom complains of a read that is not ordered
    /// after the write.
    struct Fixture {
        index: Mutex<Index>,
        shared: SharedTable,
        pins: Pins,
        limbo: Limbo<Table>,
        records: [UnsafeCell<u32>; 2],
        /// The memory of the first table, as far as loom is concerned.
        first_table: UnsafeCell<()>,
    }

    // SAFETY: all its parts are safe to share but for the cells, and loom checks every access to
    // those.
    unsafe impl Sync for Fixture {}

    impl Fixture {
        fn new() -> Arc<Self> {
            let (index, shared) = Index::new(0);
            Arc::new(Fixture {
                index: Mutex::new(index),
                shared,
                pins: Pins::new(),
                limbo: Limbo::new(),
                records: [UnsafeCell::new(0), UnsafeCell::new(0)],
                first_table: UnsafeCell::new(()),
            })
        }

        fn insert(&self, n: usize) {
            // SAFETY: nobody knows of the record yet; loom checks it.
            self.records[n].with_mut(|record| unsafe { *record = n as u32 + 1 });
            let mut index = self.index.lock();
            let mut vacant = None;
            let buckets = index.buckets();
            buckets.probe_for_insert(TAG, &mut vacant, |_, _| None::<()>);
            index.insert(vacant.expect("there is room"), Slot::new(TAG, record(n)));
        }

        fn rebuild(&self) {
            let pin = self.pins.pin();
            let mut index = self.index.lock();
            let plan = index.plan_for(14);
            index.rebuild(plan, &self.shared, &self.limbo, &pin, |_| true, |_, _| ());
        }

        /// Frees what nobody can see any more.
        fn reap(&self) {
            if let Some(table) = self.limbo.take() {
                self.first_table.with_mut(|_| ());
                drop(table);
            }
        }

        /// Looks record `n` up as a reader does.
        fn finds(&self, n: usize) -> bool {
            let pin = self.pins.pin();
            let buckets = self.shared.load(&pin);
            let touch = || {
                if buckets.0.len() == SIZES[0] as usize {
                    self.first_table.with(|_| ());
                }
            };
            touch();
            let found = buckets.probe(TAG, |_, slot| (slot.target() == Some(record(n))).then_some(()));
            if found.is_some() {
                // SAFETY: the record was written before its slot; loom checks it.
                let holds = self.records[n].with(|record| unsafe { *record });
                assert_eq!(holds, n as u32 + 1);
            }
            touch();
            found.is_some()
        }
    }

    #[test]
    fn a_slot_is_seen_after_its_record() {
        explore(4, || {
            let f = Fixture::new();
            let reader = {
                let f = f.clone();
                spawn(move || f.finds(0) && f.finds(0))
            };
            f.insert(0);
            reader.join().unwrap();
            assert!(f.finds(0));
        });
    }

    #[test]
    fn readers_find_what_stays_through_a_rebuild_and_the_old_table_outlives_them() {
        explore(3, || {
            let f = Fixture::new();
            f.insert(0);
            let readers = [(); 2].map(|()| {
                let f = f.clone();
                spawn(move || assert!(f.finds(0)))
            });
            f.rebuild();
            f.insert(1);
            f.reap();
            readers.into_iter().for_each(|t| t.join().unwrap());
            f.reap();
            assert!(f.finds(0) && f.finds(1));
            assert_eq!(f.limbo.bytes(), 0);
        });
    }

    #[test]
    fn what_is_removed_is_missed_and_its_neighbours_are_found() {
        explore(3, || {
            let f = Fixture::new();
            f.insert(0);
            f.insert(1);
            let reader = {
                let f = f.clone();
                spawn(move || {
                    f.finds(0);
                    assert!(f.finds(1));
                })
            };
            let mut index = f.index.lock();
            let found = |place, slot: Slot| (slot.target() == Some(record(0))).then_some(place);
            let place = index.buckets().probe(TAG, found).expect("it was inserted");
            index.remove(place);
            drop(index);
            reader.join().unwrap();
            assert!(!f.finds(0));
        });
    }
}
