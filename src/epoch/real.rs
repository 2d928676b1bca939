//! The real epoch: crossbeam's, one collector a store.

use crate::sync::{Arc, Ordering, Weak, Word};
use crossbeam_epoch::{Collector, LocalHandle};
use std::cell::RefCell;

pub(crate) use crossbeam_epoch::Guard;

/// A collector of the store's own, so that nobody else's pins can hold its memory.
pub(crate) struct Pins {
    collector: Collector,
    id: u64,
    /// Handles of stores that are gone are dropped by this.
    alive: Arc<()>,
}

struct Local {
    store: u64,
    alive: Weak<()>,
    handle: LocalHandle,
}

thread_local! {
    static LOCALS: RefCell<Vec<Local>> = const { RefCell::new(Vec::new()) };
}

impl Pins {
    pub(crate) fn new() -> Self {
        static NEXT: Word = Word::new(0);
        Pins {
            collector: Collector::new(),
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            alive: Arc::new(()),
        }
    }

    /// Pins the epoch: what can be reached now stays until the guard is dropped.
    #[inline]
    pub(crate) fn pin(&self) -> Guard {
        let known = LOCALS.try_with(|locals| {
            let locals = locals.try_borrow().ok()?;
            let local = locals.iter().find(|l| l.store == self.id)?;
            Some(local.handle.pin())
        });
        match known {
            Ok(Some(guard)) => guard,
            _ => self.pin_first(),
        }
    }

    /// The first pin of this thread; also the way of a thread that is just ending and has no
    /// place of its own left to keep a handle.
    #[cold]
    fn pin_first(&self) -> Guard {
        let handle = self.collector.register();
        let guard = handle.pin();
        let _ = LOCALS.try_with(|locals| {
            if let Ok(mut locals) = locals.try_borrow_mut() {
                locals.retain(|l| l.alive.strong_count() > 0);
                locals.push(Local {
                    store: self.id,
                    alive: Arc::downgrade(&self.alive),
                    handle,
                });
            }
        });
        guard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_of_dropped_stores_are_forgotten() {
        for _ in 0..100 {
            drop(Pins::new().pin());
        }
        let pins = Pins::new();
        drop(pins.pin());
        LOCALS.with(|l| assert!(l.borrow().len() <= 2));
    }
}
