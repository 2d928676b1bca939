//! A model checker's primitives behind the faces of the real ones.
//!
//! Time is not modelled. A wait with a deadline of the wall clock may time out at any moment, so
//! it does so as soon as others have had a turn; a wait for a span of the store's own time lasts
//! until it is notified, for that time stands still unless a scenario moves it, and moving it
//! notifies.

#[cfg(onceonly_loom)]
use loom as checker;
#[cfg(onceonly_shuttle)]
use shuttle as checker;

pub(crate) use checker::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU64};
pub(crate) use checker::thread::yield_now;
use std::ops::{Deref, DerefMut};
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(crate) struct Mutex<T: ?Sized>(checker::sync::Mutex<T>);

pub(crate) struct MutexGuard<'m, T: ?Sized> {
    mutex: &'m Mutex<T>,
    /// `None` only inside a wait.
    held: Option<checker::sync::MutexGuard<'m, T>>,
}

/// No run goes on after a panic, so no lock is ever poisoned.
const POISONED: &str = "a panic ends the run";
const HELD: &str = "only a wait takes the guard, and gives it back";

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Mutex(checker::sync::Mutex::new(value))
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().expect(POISONED)
    }
}

impl<T: ?Sized> Mutex<T> {
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let held = Some(self.0.lock().expect(POISONED));
        MutexGuard { mutex: self, held }
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = Some(self.0.try_lock().ok()?);
        Some(MutexGuard { mutex: self, held })
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.as_ref().expect(HELD)
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect(HELD)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Condvar(checker::sync::Condvar);

pub(crate) struct TimedOut;

impl TimedOut {
    pub(crate) fn timed_out(&self) -> bool {
        true
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Condvar(checker::sync::Condvar::new())
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect(HELD);
        guard.held = Some(self.0.wait(held).expect(POISONED));
    }

    pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, at_most: Duration) {
        if !at_most.is_zero() {
            self.wait(guard);
        }
    }

    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _until: Instant) -> TimedOut {
        drop(guard.held.take());
        yield_now();
        guard.held = guard.mutex.lock().held;
        TimedOut
    }

    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// Runs a scenario in every order of its threads' steps that has at most so many preemptions, and
/// with every value weak memory allows. `LOOM_MAX_PREEMPTIONS` raises the bound.
#[cfg(onceonly_loom)]
pub(crate) fn explore(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    use std::sync::Arc;
    let runs = Arc::new(super::Word::new(0));
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    let bound = *builder.preemption_bound.get_or_insert(preemptions);
    let counted = runs.clone();
    let scenario = Arc::new(scenario);
    builder.check(move || {
        counted.fetch_add(1, super::Ordering::Relaxed);
        let scenario = scenario.clone();
        spawn(move || scenario()).join().expect("the panic was shown");
    });
    let runs = runs.load(super::Ordering::Relaxed);
    eprintln!("all {runs} orders with up to {bound} preemptions");
}

/// A thread with a stack that a whole store fits on.
#[cfg(onceonly_loom)]
pub(crate) fn spawn<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> loom::thread::JoinHandle<T> {
    let thread = loom::thread::Builder::new().stack_size(1 << 17);
    thread.spawn(work).expect("loom always can")
}
