//! What the targets share: their bodies, which are also tests of the main crate (`tests/fuzz/`),
//! and a ceiling over every allocation.
//!
//! The ceiling is how a length that is believed too early shows: no input is larger than a few
//! hundred KiB, no store here may take more than a few MiB, so whoever asks for more at once has
//! asked for what some bytes said. It gets none, and the process ends.

#[path = "../../tests/fuzz/mod.rs"]
mod fuzz;

/// One segment's records, and tokens.
pub fn record(bytes: &[u8]) {
    fuzz::record::run(bytes);
}

/// A whole directory.
pub fn directory(bytes: &[u8]) {
    fuzz::directory::run(bytes);
}

/// A stream of operations.
pub fn streams(bytes: &[u8]) {
    fuzz::streams::run(bytes);
}

use std::alloc::{GlobalAlloc, Layout, System};

/// The most bytes anybody gets at once.
const CEILING: usize = 4 << 20;

struct Ceiling;

#[global_allocator]
static MEMORY: Ceiling = Ceiling;

fn is_refused(size: usize) -> bool {
    // Telling of a panic reads the whole binary's symbols.
    size > CEILING && !std::thread::panicking()
}

// SAFETY: all is left to the system's allocator but for what is refused, and null is how an
// allocator refuses. Each function has the duties the trait gives it, and hands them on.
unsafe impl GlobalAlloc for Ceiling {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_refused(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the duties of `alloc`, which are the same there.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if is_refused(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if is_refused(size) {
            return std::ptr::null_mut();
        }
        // SAFETY: `old` came from the same allocator, by one of these three.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(old, layout) }
    }
}
