//! Capacity and expiry: what is refused, what makes room, what comes back.

use crate::support::*;
use onceonly::*;
use std::time::Duration;

fn refused<T: std::fmt::Debug>(result: Result<T>) {
    match result {
        Err(error @ Error::AtCapacity { .. }) => assert!(error.retry_after().is_some_and(|d| !d.is_zero())),
        other => panic!("should be refused: {other:?}"),
    }
}

fn builder(clock: &ManualClock) -> Builder {
    Store::builder()
        .clock(clock.clone())
        .helper_thread(false)
        .ttl(TTL)
        .lease(LEASE)
}

fn id(i: usize) -> String {
    format!("key-{i}")
}

#[test]
fn at_max_keys_new_keys_are_refused_and_old_ones_work() {
    for limit in [1, 7, 100, 5_000] {
        let clock = ManualClock::new();
        let store = builder(&clock).max_keys(limit).in_memory().unwrap();
        let mut held = Vec::new();
        for i in 0..limit as usize {
            held.push(acquire(&store, Key::new("s", &id(i))));
        }
        refused(store.claim(Key::new("s", "one more"), Fingerprint::NONE));
        refused(store.first_seen(Key::new("s", "one more")));
        for guard in &held {
            guard.complete(b"still works").unwrap();
        }
        refused(store.claim(Key::new("s", "one more"), Fingerprint::NONE));
        for i in 0..limit as usize {
            assert!(
                matches!(claim(&store, Key::new("s", &id(i))), Claim::Completed(_)),
                "never evicted"
            );
        }
        assert_eq!(store.stats().keys_live, limit);
        assert!(store.forget(Key::new("s", &id(0))).unwrap());
        acquire(&store, Key::new("s", "one more")).complete(b"").unwrap();
        refused(store.claim(Key::new("s", "yet another"), Fingerprint::NONE));
    }
}

#[test]
fn expired_keys_make_room_first() {
    let clock = ManualClock::new();
    let store = builder(&clock).max_keys(100).in_memory().unwrap();
    let short = CompleteOptions::new().ttl(Duration::from_millis(10));
    let long = CompleteOptions::new().ttl(Duration::from_secs(60));
    for i in 0..100 {
        // One of them expires early; its segment lives on for the others.
        let options = if i == 50 { short } else { long };
        acquire(&store, Key::new("s", &id(i)))
            .complete_with(b"x", options)
            .unwrap();
    }
    refused(store.claim(Key::new("s", "new"), Fingerprint::NONE));
    clock.advance(Duration::from_millis(10) + TICKS);
    acquire(&store, Key::new("s", "new"))
        .complete_with(b"x", long)
        .unwrap();
    refused(store.claim(Key::new("s", "newer"), Fingerprint::NONE));
    clock.advance(Duration::from_secs(61));
    for i in 200..300 {
        acquire(&store, Key::new("s", &id(i))).complete(b"x").unwrap();
    }
}

#[test]
fn max_in_flight_counts_only_what_is_held() {
    let clock = ManualClock::new();
    let store = builder(&clock).max_in_flight(3).in_memory().unwrap();
    let first = acquire(&store, Key::unscoped("1"));
    let second = acquire(&store, Key::unscoped("2"));
    let _third = acquire(&store, Key::unscoped("3"));
    refused(store.claim(Key::unscoped("4"), Fingerprint::NONE));
    first.complete(b"").unwrap();
    let _fourth = acquire(&store, Key::unscoped("4"));
    refused(store.claim(Key::unscoped("5"), Fingerprint::NONE));
    drop(second);
    let _fifth = acquire(&store, Key::unscoped("5"));
    // A key the store knows works at the limit.
    resume(&store, Key::unscoped("2")).complete(b"").unwrap();
    refused(store.claim(Key::unscoped("6"), Fingerprint::NONE));
    // Leases that end count no more.
    clock.advance(LEASE + TICKS);
    let _sixth = acquire(&store, Key::unscoped("6"));
}

#[test]
fn one_scope_cannot_use_up_the_room_of_others() {
    let clock = ManualClock::new();
    let store = builder(&clock).max_keys_per_scope(5).in_memory().unwrap();
    for i in 0..5 {
        acquire(&store, Key::new("greedy", &id(i))).complete(b"").unwrap();
    }
    refused(store.claim(Key::new("greedy", "more"), Fingerprint::NONE));
    for i in 0..5 {
        acquire(&store, Key::new("modest", &id(i))).release().unwrap();
        acquire(&store, Key::unscoped(&id(i))).complete(b"").unwrap();
    }
    refused(store.claim(Key::unscoped("more"), Fingerprint::NONE));
    store.forget(Key::new("greedy", &id(0))).unwrap();
    acquire(&store, Key::new("greedy", "more")).complete(b"").unwrap();
    // A whole segment of them dies, and each scope has its room back.
    clock.advance(TTL + Duration::from_secs(400));
    while store.maintain(Duration::from_secs(1)).unwrap() {}
    for round in 0..3 {
        for i in 0..5 {
            acquire(&store, Key::new("greedy", &format!("{round}-{i}")))
                .complete(b"")
                .unwrap();
        }
        refused(store.claim(Key::new("greedy", "more"), Fingerprint::NONE));
        clock.advance(TTL + TICKS);
    }
}

/// Unlinking went on behind the last record of a segment, where a large one's addresses end.
#[test]
fn scopes_get_their_room_back_from_large_outcomes_too() {
    let clock = ManualClock::new();
    let large = builder(&clock).max_keys_per_scope(2).max_outcome(16 << 20);
    let store = large.in_memory().unwrap();
    for round in 0..3 {
        for i in 0..2 {
            let name = format!("{round}-{i}");
            acquire(&store, Key::new("s", &name))
                .complete(&vec![1; 5 << 20])
                .unwrap();
        }
        refused(store.claim(Key::new("s", "more"), Fingerprint::NONE));
        clock.advance(TTL + Duration::from_secs(1));
        while store.maintain(Duration::from_secs(1)).unwrap() {}
        assert_eq!(store.stats().keys_live, 0);
    }
}

#[test]
fn the_byte_budget_holds_and_every_claim_can_be_finished() {
    let clock = ManualClock::new();
    let budget = 4 << 20;
    let store = builder(&clock).max_bytes(budget).in_memory().unwrap();
    let mut held = Vec::new();
    let more = loop {
        let claimed = store.claim(Key::new("s", &id(held.len())), Fingerprint::from_bytes([1; 16]));
        match claimed {
            Ok(Claim::Acquired(guard)) => held.push(guard),
            other => break other,
        }
        assert!(store.stats().bytes_reserved <= budget);
    };
    refused(more);
    assert!(held.len() > 1_000, "{}", held.len());
    // Whatever the ttl, there is room for the outcomes that claims have set room aside for.
    let ttls = [1, 50, 3_000, 86_400_000, 40 * 86_400_000, 9_000_000_000];
    for (i, guard) in held.iter().enumerate() {
        let options = CompleteOptions::new().ttl(Duration::from_millis(ttls[i % ttls.len()]));
        guard.complete_with(b"", options).unwrap();
        assert!(store.stats().bytes_reserved <= budget);
    }
    assert_eq!(store.stats().completed, held.len() as u64);
}

#[test]
fn an_outcome_without_room_leaves_the_claim_held() {
    let clock = ManualClock::new();
    let store = builder(&clock)
        .max_bytes(4 << 20)
        .max_outcome(8 << 20)
        .in_memory()
        .unwrap();
    let guard = acquire(&store, key());
    refused(guard.complete(&vec![1; 6 << 20]));
    assert!(matches!(claim(&store, key()), Claim::InFlight(_)));
    refused(guard.checkpoint(&vec![1; 60 << 10]).and_then(|()| {
        // However many notes fit: some claim's note does not.
        let held: Vec<_> = (0..200).map(|i| acquire(&store, Key::new("n", &id(i)))).collect();
        held.iter().try_for_each(|g| g.checkpoint(&vec![1; 60 << 10]))
    }));
    guard.complete(b"too large to keep").unwrap();
    assert!(matches!(claim(&store, key()), Claim::Completed(_)));
}

#[test]
fn ttls_from_a_millisecond_to_thirty_days_are_exact() {
    let (store, clock) = store();
    let day = 86_400_000;
    let ttls = [1, 9, 1_000, 61_000, 3_600_000, day, 23 * day, 30 * day];
    for ttl in ttls {
        let options = CompleteOptions::new().ttl(Duration::from_millis(ttl));
        acquire(&store, Key::new("ttl", &id(ttl as usize)))
            .complete_with(b"x", options)
            .unwrap();
    }
    let mut now = 0;
    for ttl in ttls {
        let name = id(ttl as usize);
        let key = Key::new("ttl", &name);
        clock.advance(Duration::from_millis(ttl - now));
        now = ttl;
        assert!(matches!(claim(&store, key), Claim::Completed(_)), "early: {ttl}");
        // A tick of the clock, or of the record's unit.
        let late = if ttl > 24 * day { 1_001 } else { 2 };
        clock.advance(Duration::from_millis(late));
        now += late;
        assert_eq!(store.status(key).unwrap(), Status::Absent, "late: {ttl}");
    }
}

#[test]
fn memory_comes_back_when_everything_has_expired() {
    let clock = ManualClock::new();
    let store = builder(&clock).in_memory().unwrap();
    let before = store.stats();
    for i in 0..200_000 {
        acquire(&store, Key::new("s", &id(i)))
            .complete(&[7; 200])
            .unwrap();
    }
    let full = store.stats();
    assert!(full.segments > 5 && full.bytes_used > 200_000 * 200);
    // The heads are closed when a sixteenth of their ttl has passed.
    clock.advance(TTL + TTL / 8);
    while store.maintain(Duration::from_secs(1)).unwrap() {}
    // Mappings kept for the next segments go when there are none for a while.
    clock.advance(Duration::from_secs(60));
    while store.maintain(Duration::from_secs(1)).unwrap() {}
    let after = store.stats();
    assert_eq!(
        (after.keys_live, after.segments, after.bytes_used),
        (0, 0, 0),
        "{after}"
    );
    assert_eq!(
        (after.expired_unreclaimed, after.bytes_epoch_pending),
        (0, 0),
        "{after}"
    );
    assert!(
        after.bytes_reserved < before.bytes_reserved + (1 << 20),
        "{before}\n{after}"
    );
}

#[test]
fn a_store_at_steady_state_stays_as_large_as_it_is() {
    let clock = ManualClock::new();
    let store = builder(&clock).ttl(Duration::from_secs(10)).in_memory().unwrap();
    let mut sizes = Vec::new();
    for second in 0..100 {
        for i in 0..2_000 {
            let name = format!("{second}-{i}");
            acquire(&store, Key::new("s", &name)).complete(&[1; 100]).unwrap();
        }
        clock.advance(Duration::from_secs(1));
        if second % 20 == 19 {
            sizes.push(store.stats().bytes_reserved);
        }
    }
    let stats = store.stats();
    assert!(stats.keys_live < 40_000, "{stats}");
    assert!(sizes[4] <= sizes[1] + sizes[1] / 10, "{sizes:?}");
}

#[test]
fn interrupted_claims_are_forgotten_a_ttl_after_their_lease() {
    let (store, clock) = store();
    drop(acquire(&store, key()));
    clock.advance(LEASE + TTL);
    assert!(matches!(claim(&store, key()), Claim::Interrupted(_)));
    clock.advance(TICKS);
    assert_eq!(store.status(key()).unwrap(), Status::Absent);
    while store.maintain(Duration::from_secs(1)).unwrap() {}
    assert_eq!(store.stats().keys_live, 0);
}

#[test]
fn a_million_keys_due_in_one_tick_stall_nobody() {
    let clock = ManualClock::new();
    let store = builder(&clock).ttl(Duration::from_secs(5)).in_memory().unwrap();
    for i in 0..1_000_000_u64 {
        store.first_seen(Key::unscoped(&i.to_le_bytes())).unwrap();
    }
    clock.advance(Duration::from_secs(6));
    // Each call does a bounded part of the work: counted, not timed.
    let mut freed_at_most = 0;
    let mut live = store.stats().keys_live;
    for i in 0..200_u64 {
        acquire(&store, Key::new("new", &i.to_le_bytes()))
            .release()
            .unwrap();
        let now = store.stats().keys_live;
        freed_at_most = freed_at_most.max(live - now);
        live = now;
    }
    assert!(live < 1_000_000 / 2, "calls alone give memory back");
    let segment = (4 << 20) / 32;
    assert!(
        freed_at_most <= 3 * segment,
        "at most a few segments a call: {freed_at_most}"
    );
    while store.maintain(Duration::from_secs(1)).unwrap() {}
    assert_eq!(store.stats().keys_live, 0);
}

#[test]
fn a_stalled_reader_is_counted_and_never_overtaken() {
    let clock = ManualClock::new();
    let store = builder(&clock).ttl(Duration::from_secs(5)).in_memory().unwrap();
    acquire(&store, key()).complete(b"read slowly").unwrap();
    let kept = store
        .replay(key(), Fingerprint::NONE, |stored| {
            clock.advance(Duration::from_secs(60));
            for _ in 0..10 {
                store.maintain(Duration::from_secs(1)).unwrap();
            }
            assert_eq!(store.status(key()).unwrap(), Status::Absent);
            assert!(store.stats().bytes_epoch_pending > 0);
            stored.bytes().to_vec()
        })
        .unwrap();
    assert_eq!(kept, Replay::Hit(b"read slowly".to_vec()));
    for _ in 0..10 {
        store.maintain(Duration::from_secs(1)).unwrap();
    }
    assert_eq!(store.stats().bytes_epoch_pending, 0);
}

/// The reserve's segment was closed for its age, and ordinary outcomes were written to it: then
/// claims that had room set aside could not be completed.
#[test]
fn the_reserve_serves_every_claim_however_long_it_takes() {
    let clock = ManualClock::new();
    let store = builder(&clock)
        .ttl(Duration::from_secs(86_400))
        .shards(1)
        .max_bytes(2 << 20)
        .in_memory()
        .unwrap();
    let held: Vec<_> = (0..300)
        .map(|i| acquire(&store, Key::new("held", &id(i))))
        .collect();
    let mut size = 30_000;
    for i in 0.. {
        let guard = match store.claim(Key::new("fill", &id(i)), Fingerprint::NONE) {
            Ok(Claim::Acquired(guard)) => guard,
            _ => break,
        };
        while size > 0 && guard.complete(&vec![7; size]).is_err() {
            size /= 2;
        }
    }
    for (i, guard) in held.iter().enumerate() {
        match i % 4 {
            // Whatever has room may use it, but not the room of others.
            0 => drop(guard.complete(&vec![1; 8_000])),
            1 => clock.advance(Duration::from_secs(600)),
            _ => {}
        }
        guard
            .complete(b"")
            .or_else(|error| match error {
                Error::LeaseLost { .. } if i % 4 == 0 => Ok(()),
                error => Err(error),
            })
            .unwrap();
    }
}

/// Keys that expire while others take their places, from several threads: when all is quiet
/// nothing is left over, and the housekeeping comes to an end.
#[test]
fn churn_leaves_nothing_behind() {
    let clock = ManualClock::new();
    let store = builder(&clock).shards(1).max_bytes(64 << 20).in_memory().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let (store, clock) = (&store, &clock);
            scope.spawn(move || {
                for i in 0..30_000_u64 {
                    let id = (if i % 2 == 0 { i % 8 } else { i * 4 + thread }).to_le_bytes();
                    let ttl = Duration::from_millis(1 + i % 3);
                    // A thread that is suspended holds up what the others retire, and all of that
                    // counts; and minutes go by for it, so that its own claim lapses. Being refused
                    // is then the right answer.
                    let seen = store.first_seen_for(Key::unscoped(&id), ttl);
                    assert!(
                        matches!(seen, Ok(_) | Err(Error::AtCapacity { .. } | Error::InUse { .. })),
                        "{seen:?}"
                    );
                    if i % 50 == 0 {
                        clock.advance(Duration::from_millis(700));
                    }
                }
            });
        }
    });
    clock.advance(Duration::from_secs(60));
    while store.maintain(Duration::from_secs(1)).unwrap() {}
    clock.advance(Duration::from_secs(60));
    while store.maintain(Duration::from_secs(1)).unwrap() {}
    let stats = store.stats();
    assert_eq!(
        (stats.keys_live, stats.expired_unreclaimed, stats.segments),
        (0, 0, 0),
        "{stats}"
    );
}

#[test]
fn a_clock_at_the_end_of_time_is_no_reason_to_panic() {
    for jump in [
        Duration::MAX,
        Duration::from_millis(u64::MAX - 5),
        Duration::from_secs(1 << 52),
    ] {
        let clock = ManualClock::new();
        let store = builder(&clock).in_memory().unwrap();
        assert!(store.first_seen(Key::unscoped("before")).unwrap());
        clock.advance(jump);
        assert!(store.first_seen(Key::unscoped("before")).unwrap());
        let forty_days = Duration::from_secs(40 * 86_400);
        assert!(store.first_seen_for(Key::unscoped("after"), forty_days).unwrap());
        assert!(!store.first_seen(Key::unscoped("after")).unwrap());
        let _guard = acquire(&store, key());
        while store.maintain(Duration::from_secs(1)).unwrap() {}
    }
}
