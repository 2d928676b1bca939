//! The only door to locks, condition variables and atomics.
//!
//! Everything that can be raced over comes through here, so that a model checker's
//! primitives can stand in for the real ones without another file noticing.

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU64, Ordering};
pub(crate) use std::sync::{Arc, Weak};
