//! Real threads at real speed: one owner, one answer, nothing lost.

use crate::support::*;
use onceonly::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

#[test]
fn of_racing_claims_exactly_one_wins() {
    let store = Store::in_memory().unwrap();
    let wins: Vec<AtomicU64> = (0..20_000).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for (i, wins) in wins.iter().enumerate() {
                    let id = i.to_le_bytes();
                    if let Claim::Acquired(guard) = claim(&store, Key::new("race", &id)) {
                        wins.fetch_add(1, Ordering::Relaxed);
                        guard.complete(&id).unwrap();
                    }
                }
            });
        }
    });
    assert!(wins.iter().all(|w| w.load(Ordering::Relaxed) == 1));
    for i in 0..wins.len() {
        let Claim::Completed(outcome) = claim(&store, Key::new("race", &i.to_le_bytes())) else {
            panic!()
        };
        assert_eq!(&*outcome, i.to_le_bytes());
    }
}

/// Readers without a lock while the index grows, segments roll and die, and keys come and go:
/// a completed key that is not touched is found by everyone all the time.
#[test]
fn what_is_completed_is_found_through_growth_and_expiry() {
    let store = Store::builder().shards(4).in_memory().unwrap();
    let long = CompleteOptions::new().ttl(Duration::from_secs(3_600));
    let short = CompleteOptions::new().ttl(Duration::from_millis(1));
    let kept: Vec<[u8; 8]> = (0..500_u64).map(u64::to_le_bytes).collect();
    for id in &kept {
        acquire(&store, Key::new("kept", id))
            .complete_with(id, long)
            .unwrap();
    }
    let done = AtomicBool::new(false);
    let read = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    for id in &kept {
                        let hit = store.replay(Key::new("kept", id), Fingerprint::NONE, |s| s.bytes() == id);
                        assert_eq!(hit.unwrap(), Replay::Hit(true));
                    }
                    read.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for i in 0..150_000_u64 {
            let id = i.to_le_bytes();
            let options = if i % 3 == 0 { long } else { short };
            acquire(&store, Key::new("new", &id))
                .complete_with(&[1; 100], options)
                .unwrap();
            if i % 5 == 0 {
                store.forget(Key::new("new", &id)).unwrap();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(read.load(Ordering::Relaxed) > 0);
    assert!(store.stats().index_rebuilds > 10);
}

/// Generations of a key only grow, whoever holds it and however it ends.
#[test]
fn generations_of_a_key_strictly_increase() {
    let store = Store::in_memory().unwrap();
    let last = AtomicU64::new(0);
    thread::scope(|scope| {
        for t in 0..4 {
            let (store, last) = (&store, &last);
            scope.spawn(move || {
                for i in 0..2_000 {
                    let guard = match store
                        .claim_wait(key(), Fingerprint::NONE, Deadline::NEVER)
                        .unwrap()
                    {
                        Claim::Acquired(guard) => guard,
                        Claim::Interrupted(left) => match left.resume().unwrap() {
                            Claim::Acquired(guard) => guard,
                            _ => continue,
                        },
                        Claim::Completed(_) => continue,
                        other => panic!("{other:?}"),
                    };
                    let before = last.swap(guard.generation(), Ordering::SeqCst);
                    assert!(before < guard.generation());
                    match (i + t) % 3 {
                        0 => guard.release().unwrap(),
                        1 => drop(guard),
                        _ => {
                            let soon = CompleteOptions::new().ttl(Duration::from_micros(1));
                            guard.complete_with(b"", soon).unwrap();
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn the_store_goes_away_with_its_last_handle() {
    for _ in 0..200 {
        let store = Store::in_memory().unwrap();
        let guard = acquire(&store, key()).into_owned();
        drop(store);
        guard.complete(b"the guard kept it alive").unwrap();
    }
}

#[test]
fn threads_that_end_while_holding_a_guard_leave_it_interrupted() {
    thread_local! {
        static KEPT: std::cell::RefCell<Option<ClaimGuard<'static>>> = const { std::cell::RefCell::new(None) };
    }
    let store = Store::in_memory().unwrap();
    let handle = store.clone();
    // The guard is dropped by the thread's destructors, when its own places may be gone.
    thread::spawn(move || KEPT.set(Some(acquire(&handle, key()).into_owned())))
        .join()
        .unwrap();
    assert!(matches!(claim(&store, key()), Claim::Interrupted(_)));
}
