//! The only door to locks, condition variables and atomics.
//!
//! Everything that can be raced over comes through here, so that a model checker's
//! primitives can stand in for the real ones without another file noticing: unit tests built
//! with `--cfg onceonly_loom` or `--cfg onceonly_shuttle` get those of loom or shuttle.

#[cfg(all(test, any(onceonly_loom, onceonly_shuttle)))]
mod checked;

#[cfg(not(all(test, any(onceonly_loom, onceonly_shuttle))))]
pub(crate) use self::real::*;
#[cfg(all(test, any(onceonly_loom, onceonly_shuttle)))]
pub(crate) use checked::*;
pub(crate) use std::sync::atomic::Ordering;
pub(crate) use std::sync::{Arc, Weak};

/// The real one, also in a checked build: words of mapped memory have to be eight bytes and no
/// more, and what is `static` outlives a checker's run.
pub(crate) use std::sync::atomic::AtomicU64 as Word;

#[cfg(not(all(test, any(onceonly_loom, onceonly_shuttle))))]
mod real {
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU64};
    pub(crate) use std::thread::yield_now;
}
