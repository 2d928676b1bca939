//! Memory goes back to the system. A program of its own: what the system counts is the whole
//! process, and tests that run beside this one would be counted too.

use onceonly::{Key, ManualClock, Store};
use std::time::Duration;

#[test]
fn resident_bytes_fall_when_everything_has_expired() {
    let Some(before) = resident_bytes() else {
        eprintln!("skipped: this system does not tell how much of a process is in memory");
        return;
    };
    let clock = ManualClock::new();
    let store = Store::builder()
        .clock(clock.clone())
        .helper_thread(false)
        .ttl(Duration::from_secs(3_600))
        .in_memory()
        .expect("the defaults fit");
    for i in 0..1_000_000_u64 {
        store
            .first_seen(Key::new("a scope of some length", &i.to_le_bytes()))
            .expect("there is room");
    }
    let full = resident_bytes().unwrap_or(0);
    assert!(full > before + (50 << 20), "{before} before, {full} full");
    // The heads are closed after a sixteenth of their ttl; spare mappings go when they idle.
    for later in [3_600 + 400, 60] {
        clock.advance(Duration::from_secs(later));
        while store.maintain(Duration::from_secs(1)).expect("it is open") {}
    }
    let stats = store.stats();
    assert!(stats.bytes_reserved + stats.bytes_index < 8 << 20, "{stats:?}");
    // The mappings of segments go straight back. Freed tables are the allocator's, and how many
    // of them it keeps for later is its own affair: the segments alone are over half of the rise.
    let after = resident_bytes().unwrap_or(0);
    assert!(
        after < before + (full - before) / 2,
        "{before} before, {full} full, {after} after"
    );
}

/// Bytes of this process in memory, where the system tells.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
