//! The epoch as a model checker sees it: what was deferred runs when the last pin of its time is
//! gone, on the thread that gives that pin up.
//!
//! The real one may run it later, never earlier. Pins and unpins are ordered by a lock here, which
//! is more than the real one promises; a scenario whose threads pin before they share anything
//! still shows every missing order.

use crate::sync::{Arc, Mutex};
use std::collections::VecDeque;

type Deferred = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    next: u64,
    pinned: Vec<u64>,
    /// With the number of the first pin that came too late to matter.
    deferred: VecDeque<(u64, Deferred)>,
}

#[derive(Clone, Default)]
pub(crate) struct Pins(Arc<Mutex<State>>);

pub(crate) struct Guard {
    pins: Pins,
    pin: u64,
}

impl Pins {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn pin(&self) -> Guard {
        Guard {
            pins: self.clone(),
            pin: self.enter(),
        }
    }

    fn enter(&self) -> u64 {
        let mut state = self.0.lock();
        let pin = state.next;
        state.next += 1;
        state.pinned.push(pin);
        pin
    }

    fn leave(&self, pin: u64) {
        let due: Vec<_> = {
            let mut state = self.0.lock();
            state.pinned.retain(|p| *p != pin);
            let oldest = state.pinned.iter().copied().min().unwrap_or(u64::MAX);
            let count = state
                .deferred
                .iter()
                .take_while(|(until, _)| *until <= oldest)
                .count();
            state.deferred.drain(..count).collect()
        };
        due.into_iter().for_each(|(_, run)| run());
    }
}

impl Guard {
    pub(crate) fn defer(&self, run: impl FnOnce() + Send + 'static) {
        let mut state = self.pins.0.lock();
        let until = state.next;
        state.deferred.push_back((until, Box::new(run)));
    }

    /// Nothing lingers in bags here.
    pub(crate) fn flush(&self) {}

    pub(crate) fn repin(&mut self) {
        self.repin_after(|| ());
    }

    pub(crate) fn repin_after<R>(&mut self, run: impl FnOnce() -> R) -> R {
        self.pins.leave(self.pin);
        let result = run();
        self.pin = self.pins.enter();
        result
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.pins.leave(self.pin);
    }
}
