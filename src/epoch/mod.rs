//! Who may still be reading: pins, and the limbo of what has been unlinked.
//!
//! Readers take no lock; they pin the store's epoch while they look. What a reader might still
//! see is unlinked first and waits in the [`Limbo`] until every pin of that time is gone. Only
//! few and big things go this way (segments, bucket arrays), never single records.
//!
//! The limbo owns what waits in it; the epoch only raises a flag. So the store knows how many
//! bytes are held up, and when it is dropped everything goes at once instead of lingering in
//! the bags of idle threads.

#[cfg(all(test, any(onceonly_loom, onceonly_shuttle)))]
mod checked;
#[cfg(not(all(test, any(onceonly_loom, onceonly_shuttle))))]
mod real;

#[cfg(all(test, any(onceonly_loom, onceonly_shuttle)))]
pub(crate) use checked::{Guard, Pins};
#[cfg(not(all(test, any(onceonly_loom, onceonly_shuttle))))]
pub(crate) use real::{Guard, Pins};

use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering, Word};
use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::OnceLock;

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

/// How many threads run at once here. Asking costs reading some files, so it is asked once.
pub(crate) fn cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, |n| n.get()))
}

/// A small number that differs between threads, to spread them over lanes and counters.
#[inline]
pub(crate) fn thread_stripe() -> usize {
    static NEXT: Word = Word::new(0);
    STRIPE
        .try_with(|stripe| {
            if stripe.get() == usize::MAX {
                stripe.set(NEXT.fetch_add(1, Ordering::Relaxed) as usize);
            }
            stripe.get()
        })
        .unwrap_or(0)
}

/// True on every `n`th call of this thread.
#[inline]
pub(crate) fn is_nth_call(n: u32) -> bool {
    // A model checker's threads share one of the system's, and its runs have to be repeatable.
    if cfg!(all(test, any(onceonly_loom, onceonly_shuttle))) {
        return true;
    }
    CALLS
        .try_with(|calls| {
            calls.set(calls.get().wrapping_add(1));
            calls.get() % n == 0
        })
        .unwrap_or(true)
}

struct Waiting<T> {
    /// Raised by the epoch when nobody can see the item any more.
    free: Arc<AtomicBool>,
    bytes: u64,
    item: T,
}

/// Things unlinked, until the last reader that may have seen them is gone.
pub(crate) struct Limbo<T> {
    items: Mutex<VecDeque<Waiting<T>>>,
    bytes: AtomicU64,
}

impl<T> Limbo<T> {
    pub(crate) fn new() -> Self {
        Limbo {
            items: Mutex::new(VecDeque::new()),
            bytes: AtomicU64::new(0),
        }
    }

    /// Takes an item that new readers can no longer reach.
    pub(crate) fn put(&self, pin: &Guard, item: T, bytes: u64) {
        let free = Arc::new(AtomicBool::new(false));
        let raise = free.clone();
        if cfg!(onceonly_sabotage = "no_epoch") {
            raise.store(true, Ordering::Release);
        }
        // Release and, in `take`, Acquire: what readers did before they unpinned happens
        // before the item is reused.
        pin.defer(move || raise.store(true, Ordering::Release));
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.items.lock().push_back(Waiting { free, bytes, item });
        // Bags are handed over when full or flushed; ours hold one item.
        pin.flush();
    }

    /// Takes out one item nobody sees any more, oldest first.
    pub(crate) fn take(&self) -> Option<T> {
        if self.bytes.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut items = self.items.lock();
        if !items.front()?.free.load(Ordering::Acquire) {
            return None;
        }
        let waiting = items.pop_front()?;
        self.bytes.fetch_sub(waiting.bytes, Ordering::Relaxed);
        Some(waiting.item)
    }

    /// Bytes unlinked and not yet free.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push_on(pins: &Pins) {
        for _ in 0..4 {
            pins.pin().flush();
        }
    }

    #[test]
    fn an_item_leaves_the_limbo_only_after_the_pins_of_its_time() {
        let pins = Pins::new();
        let limbo = Limbo::new();
        let reader = pins.pin();
        limbo.put(&pins.pin(), "item", 8);
        push_on(&pins);
        assert_eq!(limbo.take(), None);
        assert_eq!(limbo.bytes(), 8);
        drop(reader);
        push_on(&pins);
        assert_eq!(limbo.take(), Some("item"));
        assert_eq!(limbo.bytes(), 0);
    }

    #[test]
    fn another_stores_pins_hold_nothing_up() {
        let (pins, other) = (Pins::new(), Pins::new());
        let limbo = Limbo::new();
        let _foreign = other.pin();
        limbo.put(&pins.pin(), (), 1);
        push_on(&pins);
        assert!(limbo.take().is_some());
    }
}
