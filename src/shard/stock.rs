//! Tables made ahead. A shard that outgrows its table needs a larger one at once, and to have fresh
//! memory for it takes longer than to move the slots; so the helper thread keeps a few ready.
//!
//! Shards fill up at about the same time, each to a load of its own, so at any moment they want one
//! of two sizes. What is not there a shard makes itself: the stock decides nothing.
//!
//! Nobody wakes the helper for it. To wake a thread takes a caller 10 to 20 µs on a virtual machine,
//! more than is to be saved; while tables are replaced the helper looks every millisecond anyway, for
//! the old ones wait to be freed.

use super::index::{Rebuild, Table};
use crate::clock::{Span, Tick};
use crate::quota::Quota;
use crate::sync::Mutex;

/// Tables of a size that are kept: about what a fast caller takes in a millisecond.
const READY: usize = 16;
/// Smaller ones are made as fast as taken from here.
const LEAST_BYTES: u64 = 4 << 10;
/// No more bytes of a size are kept, so that large ones are not kept at all: a store with few shards
/// replaces its tables rarely, and each is large.
const MOST_BYTES: u64 = 1 << 20;
/// The stock is cleared when nothing was taken for this long.
const IDLE: Span = Span::from_millis(5_000);

#[derive(Default)]
pub(crate) struct Stock {
    shelves: Mutex<Shelves>,
}

#[derive(Default)]
struct Shelves {
    /// The two sizes last asked for, the last one first.
    sizes: [Option<Rebuild>; 2],
    ready: Vec<Table>,
    /// When one was last made.
    made: Option<Tick>,
}

impl Shelves {
    fn count(&self, size: Rebuild) -> usize {
        self.ready.iter().filter(|table| table.is_of(size)).count()
    }

    /// Is one more of that size wanted?
    fn wants(&self, size: Rebuild) -> bool {
        let count = self.count(size);
        self.sizes.contains(&Some(size)) && count < READY && (count as u64 + 1) * size.bytes() <= MOST_BYTES
    }

    fn note(&mut self, size: Rebuild) {
        if self.sizes[0] != Some(size) {
            self.sizes = [Some(size), self.sizes[0]];
        }
    }
}

impl Stock {
    /// An empty table of that size, if one is ready. Its bytes are in the budget already.
    pub(crate) fn take(&self, size: Rebuild) -> Option<Table> {
        if size.bytes() < LEAST_BYTES {
            return None;
        }
        let mut shelves = self.shelves.lock();
        shelves.note(size);
        let at = shelves.ready.iter().position(|table| table.is_of(size))?;
        Some(shelves.ready.swap_remove(at))
    }

    /// Makes what is missing of the sizes last asked for, while it `may` and the budget allows.
    pub(crate) fn fill(&self, now: Tick, bytes: &Quota, may: impl Fn() -> bool) {
        for size in self.drop_others(bytes) {
            // Asked each time: somebody may have cleared the stock meanwhile, for want of room.
            while may() && self.shelves.lock().wants(size) && bytes.take_direct(size.bytes()) {
                // Not under the lock: this is what takes long.
                let table = Table::of(size);
                let mut shelves = self.shelves.lock();
                if !shelves.wants(size) {
                    drop(shelves);
                    return Self::give_back(vec![table], bytes);
                }
                shelves.ready.push(table);
                shelves.made = Some(now);
            }
        }
    }

    /// Lets tables go of sizes that nobody asks for any more; returns the others.
    fn drop_others(&self, bytes: &Quota) -> impl Iterator<Item = Rebuild> {
        let mut shelves = self.shelves.lock();
        let sizes = shelves.sizes;
        let wanted = |table: &mut Table| !sizes.iter().flatten().any(|size| table.is_of(*size));
        let gone: Vec<_> = shelves.ready.extract_if(.., wanted).collect();
        drop(shelves);
        Self::give_back(gone, bytes);
        sizes.into_iter().flatten()
    }

    /// Lets all go if nothing was taken for a while; true if there was any.
    pub(crate) fn trim(&self, now: Tick, bytes: &Quota) -> bool {
        let made = self.shelves.lock().made;
        made.is_some_and(|at| at.after(IDLE) <= now) && self.clear(bytes)
    }

    /// Lets all go; true if there was any.
    pub(crate) fn clear(&self, bytes: &Quota) -> bool {
        // The sizes asked for go as well: until the next is asked for none is made.
        let gone = std::mem::take(&mut *self.shelves.lock()).ready;
        let any = !gone.is_empty();
        Self::give_back(gone, bytes);
        any
    }

    fn give_back(tables: Vec<Table>, bytes: &Quota) {
        for table in tables {
            let size = table.bytes();
            drop(table);
            bytes.give_direct(size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::index::Index;

    /// The size of a table for so many slots more.
    fn size(slots: u64) -> Rebuild {
        Index::new(0).0.plan_for(slots)
    }

    #[test]
    fn what_was_asked_for_is_there_the_next_time() {
        let (stock, bytes) = (Stock::default(), Quota::new(1 << 30, 1, 0));
        let wanted = size(1_000);
        assert!(stock.take(wanted).is_none());
        stock.fill(Tick(1), &bytes, || true);
        assert_eq!(bytes.taken(), READY as u64 * wanted.bytes());
        let table = stock.take(wanted).expect("it was made");
        assert_eq!(table.bytes(), wanted.bytes());
        stock.fill(Tick(1), &bytes, || true);
        assert_eq!(
            bytes.taken(),
            (READY as u64 + 1) * wanted.bytes(),
            "the taken one and as many as before"
        );
        assert!(!stock.trim(Tick(5_001), &bytes), "not idle for long enough");
        assert!(stock.trim(Tick(5_002), &bytes) && !stock.clear(&bytes));
        assert_eq!(bytes.taken(), wanted.bytes(), "that of the taken one");
    }

    #[test]
    fn two_sizes_are_kept_and_older_ones_go() {
        let (stock, bytes) = (Stock::default(), Quota::new(1 << 30, 1, 0));
        let sizes = [1_000, 2_000, 3_000].map(size);
        for size in sizes {
            assert!(stock.take(size).is_none());
            stock.fill(Tick(1), &bytes, || true);
        }
        let kept = sizes[1].bytes() + sizes[2].bytes();
        assert_eq!(bytes.taken(), READY as u64 * kept);
        assert!(stock.take(sizes[0]).is_none());
        assert!(stock.take(sizes[2]).is_some());
    }

    #[test]
    fn without_room_in_the_budget_nothing_is_made() {
        let wanted = size(1_000);
        let (stock, bytes) = (Stock::default(), Quota::new(2 * wanted.bytes() + 1, 1, 0));
        assert!(stock.take(wanted).is_none());
        stock.fill(Tick(1), &bytes, || true);
        assert_eq!(bytes.taken(), 2 * wanted.bytes());
    }

    #[test]
    fn nothing_is_made_after_a_clear_or_where_it_may_not_be() {
        let (stock, bytes) = (Stock::default(), Quota::new(1 << 30, 1, 0));
        assert!(stock.take(size(1_000)).is_none());
        stock.fill(Tick(1), &bytes, || false);
        assert_eq!(bytes.taken(), 0);
        // Cleared in the middle of it.
        stock.fill(Tick(1), &bytes, || {
            if bytes.taken() > 3 * size(1_000).bytes() {
                stock.clear(&bytes);
            }
            true
        });
        assert_eq!(bytes.taken(), 0);
    }

    #[test]
    fn large_tables_are_few_or_none() {
        let (stock, bytes) = (Stock::default(), Quota::new(1 << 30, 1, 0));
        assert!(stock.take(size(20_000)).is_none());
        stock.fill(Tick(1), &bytes, || true);
        assert!((MOST_BYTES / 2..=MOST_BYTES).contains(&bytes.taken()));
        stock.clear(&bytes);
        assert!(stock.take(size(200_000)).is_none());
        stock.fill(Tick(1), &bytes, || true);
        assert_eq!(bytes.taken(), 0);
    }

    #[test]
    fn small_tables_are_not_worth_it() {
        let (stock, bytes) = (Stock::default(), Quota::new(1 << 30, 1, 0));
        assert!(stock.take(size(10)).is_none());
        stock.fill(Tick(1), &bytes, || true);
        assert_eq!(bytes.taken(), 0);
    }
}
