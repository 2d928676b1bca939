//! The contract's table and its bullets, as a caller meets them.

use crate::support::*;
use onceonly::*;
use std::time::Duration;

#[test]
fn one_acquires_and_repeats_are_replayed() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    assert!(matches!(claim(&store, key()), Claim::InFlight(_)));
    guard
        .complete_with(b"paid", CompleteOptions::new().tag(201))
        .unwrap();
    for _ in 0..3 {
        let Claim::Completed(outcome) = claim(&store, key()) else {
            panic!()
        };
        assert_eq!(&*outcome, b"paid");
        assert_eq!(outcome.tag(), 201);
        assert_eq!(outcome.generation(), guard.generation());
        assert!(outcome.replayed());
    }
}

#[test]
fn another_fingerprint_is_a_mismatch_in_every_state() {
    let (store, _) = store();
    let other = Fingerprint::from_bytes([9; 16]);
    let mismatch = |store: &Store| match store.claim(key(), other).unwrap() {
        Claim::Mismatch(m) => m,
        claim => panic!("{claim:?}"),
    };
    let guard = acquire(&store, key());
    let seen = mismatch(&store);
    assert_eq!(seen.generation(), guard.generation());
    assert_eq!(seen.fingerprint(), Fingerprint::NONE);
    assert!(matches!(seen.state(), Status::InFlight { .. }));
    drop(guard);
    assert!(matches!(mismatch(&store).state(), Status::Interrupted { .. }));
    resume(&store, key()).complete(b"x").unwrap();
    assert!(matches!(mismatch(&store).state(), Status::Completed { .. }));
}

#[test]
fn scopes_are_worlds_of_their_own() {
    // Whether or not the hash tells them apart.
    for builder in [Store::builder(), Store::builder().constant_hash()] {
        let store = builder.in_memory().unwrap();
        acquire(&store, Key::new("a", "1")).complete(b"a").unwrap();
        acquire(&store, Key::new("b", "1")).complete(b"b").unwrap();
        acquire(&store, Key::unscoped("1")).complete(b"c").unwrap();
        acquire(&store, Key::new("a1", "x")).complete(b"d").unwrap();
        acquire(&store, Key::new("a", "1x")).complete(b"e").unwrap();
        let held = acquire(&store, Key::new("h", "1x"));
        assert!(matches!(claim(&store, Key::new("h1", "x")), Claim::Acquired(_)));
        held.complete(b"f").unwrap();
        assert!(store.forget(Key::new("a", "1")).unwrap());
        assert!(matches!(claim(&store, Key::new("b", "1")), Claim::Completed(o) if &*o == b"b"));
        assert!(matches!(claim(&store, Key::new("a", "1x")), Claim::Completed(o) if &*o == b"e"));
        assert!(matches!(claim(&store, Key::new("a1", "x")), Claim::Completed(o) if &*o == b"d"));
    }
}

#[test]
fn a_dropped_guard_is_interrupted_at_once_and_release_is_explicit() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    guard.checkpoint(b"half way").unwrap();
    let first = guard.generation();
    drop(guard);
    let Claim::Interrupted(left) = claim(&store, key()) else {
        panic!()
    };
    assert_eq!(
        (left.generation(), left.attempt(), left.cause()),
        (first, 0, Cause::Dropped)
    );
    assert_eq!(left.last_checkpoint(), Some(&b"half way"[..]));
    let Claim::Acquired(second) = left.resume().unwrap() else {
        panic!()
    };
    assert!(second.generation() > first);
    assert_eq!(second.attempt(), 1);
    assert_eq!(second.last_checkpoint(), Some(&b"half way"[..]));
    second.release().unwrap();
    let third = acquire(&store, key());
    assert!(third.generation() > second.generation());
    assert_eq!(third.attempt(), 0, "counted since the key was absent");
}

#[test]
fn on_drop_release_makes_the_key_absent() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    guard.on_drop(OnDrop::Release);
    drop(guard);
    let guard = acquire(&store, key());
    guard.on_drop(OnDrop::Release);
    guard.on_drop(OnDrop::Interrupt);
    drop(guard);
    assert!(matches!(claim(&store, key()), Claim::Interrupted(_)));
}

#[test]
fn a_panic_in_the_work_interrupts() {
    let (store, _) = store();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = store.run(key(), Fingerprint::NONE, |_| -> Result<&str, Error> {
            panic!("in the work")
        });
    }));
    assert!(caught.is_err());
    assert!(matches!(claim(&store, key()), Claim::Interrupted(left) if left.cause() == Cause::Dropped));
}

#[test]
fn a_lapsed_holder_may_complete_until_taken_over() {
    let (store, clock) = store();
    let guard = acquire(&store, key());
    clock.advance(LEASE + TICKS);
    assert!(matches!(claim(&store, key()), Claim::Interrupted(left) if left.cause() == Cause::Lapsed));
    guard.complete(b"late, but done").unwrap();
    assert!(matches!(claim(&store, key()), Claim::Completed(_)));
}

#[test]
fn after_a_takeover_the_old_holder_changes_nothing() {
    let (store, clock) = store();
    let old = acquire(&store, key());
    clock.advance(LEASE + TICKS);
    let new = resume(&store, key());
    for lost in [
        old.complete(b"old"),
        old.release(),
        old.checkpoint(b"old"),
        old.renew(LEASE),
    ] {
        let Err(Error::LeaseLost { current }) = lost else {
            panic!("{lost:?}")
        };
        assert_eq!(current.generation(), Some(new.generation()));
    }
    drop(old);
    assert!(
        matches!(claim(&store, key()), Claim::InFlight(_)),
        "not interrupted by the old guard"
    );
    new.complete(b"new").unwrap();
    assert_eq!(store.stats().stale_completes, 1);
}

#[test]
fn completing_twice_is_fine_only_with_the_same_bytes_and_tag() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    guard.complete(b"one").unwrap();
    guard.complete(b"one").unwrap();
    assert!(matches!(guard.complete(b"two"), Err(Error::LeaseLost { .. })));
    let tagged = guard.complete_with(b"one", CompleteOptions::new().tag(1));
    assert!(matches!(tagged, Err(Error::LeaseLost { .. })));
    assert!(matches!(guard.release(), Err(Error::LeaseLost { .. })));
    drop(guard);
    assert!(matches!(claim(&store, key()), Claim::Completed(o) if &*o == b"one"));
}

#[test]
fn renewing_brings_a_lapsed_claim_back_in_flight() {
    let (store, clock) = store();
    let guard = acquire(&store, key());
    clock.advance(LEASE + TICKS);
    assert!(matches!(store.status(key()).unwrap(), Status::Interrupted { .. }));
    guard.checkpoint(b"still here").unwrap();
    assert!(
        matches!(store.status(key()).unwrap(), Status::Interrupted { .. }),
        "a note renews nothing"
    );
    guard.renew(LEASE).unwrap();
    clock.advance(LEASE);
    assert!(matches!(claim(&store, key()), Claim::InFlight(_)));
}

#[test]
fn a_loser_of_a_takeover_is_told_what_the_winner_made_of_it() {
    let (store, _) = store();
    drop(acquire(&store, key()));
    let ask = || match claim(&store, key()) {
        Claim::Interrupted(left) => left,
        other => panic!("{other:?}"),
    };
    let (first, second, third, fourth) = (ask(), ask(), ask(), ask());
    let Claim::Acquired(winner) = first.resume().unwrap() else {
        panic!()
    };
    assert!(matches!(second.resume().unwrap(), Claim::InFlight(o) if o.generation() == winner.generation()));
    winner.complete(b"done").unwrap();
    assert!(
        matches!(third.resolve(b"other", CompleteOptions::new()).unwrap(), Claim::Completed(o) if &*o == b"done")
    );
    assert!(matches!(fourth.release(), Err(Error::LeaseLost { .. })));
}

#[test]
fn resolving_stores_the_outcome_under_a_new_generation() {
    let (store, clock) = store();
    let holder = acquire(&store, key());
    clock.advance(LEASE + TICKS);
    let Claim::Interrupted(left) = claim(&store, key()) else {
        panic!()
    };
    let resolved = left
        .resolve(b"found in the ledger", CompleteOptions::new().tag(7))
        .unwrap();
    let Claim::Completed(outcome) = resolved else {
        panic!()
    };
    assert!(outcome.generation() > holder.generation());
    assert!(matches!(holder.complete(b"mine"), Err(Error::LeaseLost { .. })));
    assert!(
        matches!(claim(&store, key()), Claim::Completed(o) if o.tag() == 7 && &*o == b"found in the ledger")
    );
}

#[test]
fn operators_settle_what_they_saw() {
    let (store, _) = store();
    let holder = acquire(&store, key());
    let generation = holder.generation();
    let wrong = store.resolve(key(), generation + 1, Resolution::Release);
    assert!(matches!(wrong, Err(Error::LeaseLost { .. })));
    store
        .resolve(
            key(),
            generation,
            Resolution::Complete(b"by hand", CompleteOptions::new()),
        )
        .unwrap();
    assert!(matches!(holder.complete(b"mine"), Err(Error::LeaseLost { .. })));
    let again = store.resolve(key(), generation, Resolution::Release);
    assert!(
        matches!(again, Err(Error::LeaseLost { .. })),
        "completed is refused"
    );
    assert!(matches!(claim(&store, key()), Claim::Completed(o) if &*o == b"by hand"));

    let other = Key::unscoped("other");
    let holder = acquire(&store, other);
    store
        .resolve(other, holder.generation(), Resolution::Release)
        .unwrap();
    assert_eq!(store.status(other).unwrap(), Status::Absent);
    drop(holder);
    assert_eq!(store.status(other).unwrap(), Status::Absent);
}

#[test]
fn forgetting_makes_any_state_absent_and_the_holder_loses() {
    let (store, _) = store();
    assert!(!store.forget(key()).unwrap());
    let guard = acquire(&store, key());
    assert!(store.forget(key()).unwrap());
    assert!(matches!(
        guard.complete(b"x"),
        Err(Error::LeaseLost {
            current: Status::Absent
        })
    ));
    let next = acquire(&store, key());
    assert!(next.generation() > guard.generation());
    next.complete(b"y").unwrap();
    assert!(store.forget(key()).unwrap());
    let last = acquire(&store, key());
    assert!(
        last.generation() > next.generation(),
        "generations never come back"
    );
}

#[test]
fn a_token_works_once() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    guard.checkpoint(b"note").unwrap();
    let before = guard.generation();
    let token: ClaimToken = guard.detach().to_string().parse().unwrap();
    assert!(
        matches!(claim(&store, key()), Claim::InFlight(_)),
        "still held while queued"
    );
    let Claim::Acquired(worker) = store.attach(&token).unwrap() else {
        panic!()
    };
    assert!(worker.generation() > before);
    assert_eq!(worker.last_checkpoint(), Some(&b"note"[..]));
    assert!(matches!(store.attach(&token), Err(Error::LeaseLost { .. })));
    worker.complete(b"done").unwrap();
    assert!(matches!(store.attach(&token).unwrap(), Claim::Completed(o) if &*o == b"done"));
}

#[test]
fn a_token_of_a_lapsed_claim_still_attaches() {
    let (store, clock) = store();
    let token = acquire(&store, key()).detach();
    clock.advance(LEASE + TICKS);
    let Claim::Acquired(worker) = store.attach(&token).unwrap() else {
        panic!()
    };
    assert_eq!(worker.attempt(), 0, "handed on, not taken over");
    assert!(matches!(claim(&store, key()), Claim::InFlight(_)));
    worker.release().unwrap();
    assert!(matches!(store.attach(&token), Err(Error::LeaseLost { .. })));
}

#[test]
fn run_does_the_work_once_and_replays() {
    let (store, _) = store();
    let mut runs = 0;
    for expected in [false, true, true] {
        let outcome = store
            .run(key(), Fingerprint::NONE, |_| {
                runs += 1;
                Ok::<_, Error>("done")
            })
            .unwrap();
        assert_eq!(&*outcome, b"done");
        assert_eq!(outcome.replayed(), expected);
    }
    assert_eq!(runs, 1);
}

#[test]
fn failed_work_interrupts_unless_it_released() {
    let (store, _) = store();
    let failed = store.run(key(), Fingerprint::NONE, |_| Err::<&str, _>("no bank"));
    assert!(matches!(failed, Err(RunError::Work("no bank"))));
    let again = store.run(key(), Fingerprint::NONE, |_| Ok::<_, &str>("never called"));
    let Err(RunError::Interrupted(left)) = again else {
        panic!("{again:?}")
    };
    left.release().unwrap();
    let failed = store.run(key(), Fingerprint::NONE, |guard| {
        guard.release().map_err(|_| "lost")?;
        Err::<&str, _>("declined")
    });
    assert!(matches!(failed, Err(RunError::Work("declined"))));
    let done = store
        .run(key(), Fingerprint::NONE, |_| Ok::<_, &str>("second try"))
        .unwrap();
    assert_eq!(&*done, b"second try");
}

#[test]
fn first_seen_is_true_once_within_its_ttl() {
    let (store, clock) = store();
    assert!(store.first_seen(key()).unwrap());
    assert!(!store.first_seen(key()).unwrap());
    clock.advance(TTL + TICKS);
    assert!(store.first_seen_for(key(), Duration::from_millis(5)).unwrap());
    clock.advance(Duration::from_millis(5) + TICKS);
    assert!(store.first_seen(key()).unwrap());

    let claimed = Key::unscoped("claimed");
    let guard = acquire(&store, claimed);
    assert!(matches!(
        store.first_seen(claimed),
        Err(Error::InUse {
            status: Status::InFlight { .. }
        })
    ));
    drop(guard);
    assert!(matches!(
        store.first_seen(claimed),
        Err(Error::InUse {
            status: Status::Interrupted { .. }
        })
    ));
    resume(&store, claimed).complete(b"x").unwrap();
    assert!(!store.first_seen(claimed).unwrap());
}

#[test]
fn batches_answer_as_if_one_by_one() {
    let (store, _) = store();
    let other = Fingerprint::from_bytes([3; 16]);
    let known = Key::unscoped("known");
    acquire(&store, known).complete(b"known").unwrap();
    let empty = Key::unscoped("");
    let items = [
        (key(), Fingerprint::NONE),
        (known, Fingerprint::NONE),
        (key(), Fingerprint::NONE),
        (key(), other),
        (empty, other),
        (Key::new("s", "new"), other),
    ];
    let mut out = vec![Err(Error::Closed)];
    store.claim_many(&items, &mut out).unwrap();
    assert_eq!(out.len(), items.len());
    assert!(matches!(&out[0], Ok(Claim::Acquired(_))));
    assert!(matches!(&out[1], Ok(Claim::Completed(o)) if &**o == b"known"));
    assert!(matches!(&out[2], Ok(Claim::InFlight(_))));
    assert!(matches!(&out[3], Ok(Claim::Mismatch(_))));
    assert!(matches!(&out[4], Err(Error::InvalidInput { what: "id", .. })));
    let guards: Vec<_> = out
        .into_iter()
        .filter_map(|claim| match claim {
            Ok(Claim::Acquired(guard)) => Some(guard),
            _ => None,
        })
        .collect();
    let mut done = Vec::new();
    let lots = guards.iter().map(|g| (g, "batch", CompleteOptions::new().tag(4)));
    store.complete_many(lots, &mut done).unwrap();
    assert!(done.len() == 2 && done.iter().all(Result::is_ok));
    let mut read = Vec::new();
    let hits = store
        .replay_many(&items, |i, stored| read.push((i, stored.tag())))
        .unwrap();
    assert_eq!((hits, read), (4, vec![(0, 4), (1, 0), (2, 4), (5, 4)]));
}

#[test]
fn first_seen_many_says_true_to_the_first() {
    let (store, _) = store();
    let ids: Vec<String> = (0..40).map(|i| format!("m-{}", i % 30)).collect();
    let keys: Vec<Key<'_>> = ids.iter().map(|id| Key::new("topic", id)).collect();
    let mut out = Vec::new();
    store.first_seen_many(&keys, &mut out).unwrap();
    let seen: Vec<bool> = out.into_iter().map(Result::unwrap).collect();
    assert!(seen[..30].iter().all(|s| *s) && seen[30..].iter().all(|s| !*s));
}

#[test]
fn a_scan_finds_each_key_once_and_filters() {
    let (store, clock) = store();
    for i in 0..1_000 {
        acquire(&store, Key::new("done", &format!("{i}")))
            .complete(b"x")
            .unwrap();
    }
    let _held: Vec<_> = (0..10)
        .map(|i| acquire(&store, Key::new("held", &format!("{i}"))).into_owned())
        .collect();
    clock.advance(Duration::from_secs(1));
    drop(acquire(&store, Key::new("held", "dropped")));
    let all: Vec<_> = store
        .scan(ScanFilter::new())
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let names: std::collections::HashSet<_> = all.iter().map(|(key, _)| key.clone()).collect();
    assert_eq!((all.len(), names.len()), (1_011, 1_011));
    let count = |filter| store.scan(filter).unwrap().count();
    assert_eq!(count(ScanFilter::new().scope("held")), 11);
    assert_eq!(count(ScanFilter::new().state(StateKind::Interrupted)), 1);
    assert_eq!(
        count(
            ScanFilter::new()
                .scope("held")
                .older_than(Duration::from_millis(500))
        ),
        10
    );
}

#[test]
fn peek_needs_no_fingerprint_and_counts_as_no_replay() {
    let (store, _) = store();
    let body = Fingerprint::from_bytes([1; 16]);
    let Claim::Acquired(guard) = store.claim(key(), body).unwrap() else {
        panic!()
    };
    assert_eq!(store.peek(key(), |_| ()).unwrap(), None);
    guard.complete(b"seen").unwrap();
    assert_eq!(
        store.peek(key(), |stored| stored.bytes().to_vec()).unwrap(),
        Some(b"seen".to_vec())
    );
    assert_eq!(store.stats().replays, 0);
}

#[test]
fn outcomes_of_every_size_come_back_as_they_were() {
    let store = Store::builder().max_outcome(64 << 20).in_memory().unwrap();
    for len in [
        0,
        1,
        7,
        8,
        9,
        1_000,
        65_536,
        262_144,
        1 << 20,
        (4 << 20) - 64,
        4 << 20,
        64 << 20,
    ] {
        let bytes: Vec<u8> = (0..len).map(|i| (i * 31 + i / 255) as u8).collect();
        let id = format!("{len}");
        let key = Key::new("sizes", &id);
        acquire(&store, key).complete(&bytes).unwrap();
        let Claim::Completed(outcome) = claim(&store, key) else {
            panic!()
        };
        assert!(*outcome == *bytes, "{len}");
    }
}

#[test]
fn a_closed_store_says_so_everywhere() {
    let (store, _) = store();
    let guard = acquire(&store, key()).into_owned();
    store.clone().close().unwrap();
    assert!(matches!(
        store.claim(key(), Fingerprint::NONE),
        Err(Error::Closed)
    ));
    assert!(matches!(
        store.replay(key(), Fingerprint::NONE, |_| ()),
        Err(Error::Closed)
    ));
    assert!(matches!(store.first_seen(key()), Err(Error::Closed)));
    assert!(matches!(store.status(key()), Err(Error::Closed)));
    assert!(matches!(store.maintain(Duration::ZERO), Err(Error::Closed)));
    assert!(matches!(store.scan(ScanFilter::new()).err(), Some(Error::Closed)));
    assert!(matches!(guard.complete(b"x"), Err(Error::Closed)));
    drop(guard);
}

#[test]
fn a_constant_hash_makes_everything_slower_and_nothing_wrong() {
    let store = Store::builder().constant_hash().in_memory().unwrap();
    let keys: Vec<String> = (0..2_000).map(|i| format!("key-{i}")).collect();
    for id in &keys {
        acquire(&store, Key::new("s", id))
            .complete(id.as_bytes())
            .unwrap();
    }
    for id in keys.iter().step_by(3) {
        assert!(store.forget(Key::new("s", id)).unwrap());
    }
    for (i, id) in keys.iter().enumerate() {
        match claim(&store, Key::new("s", id)) {
            Claim::Completed(outcome) if i % 3 != 0 => assert_eq!(&*outcome, id.as_bytes()),
            Claim::Acquired(guard) if i % 3 == 0 => guard.release().unwrap(),
            other => panic!("{i}: {other:?}"),
        }
    }
}

#[test]
fn stats_tell_what_happened() {
    let (store, clock) = store();
    let guard = acquire(&store, key());
    let _ = claim(&store, key());
    let _ = store.claim(key(), Fingerprint::from_bytes([1; 16])).unwrap();
    guard.complete(b"x").unwrap();
    clock.advance(Duration::from_secs(10));
    let _ = claim(&store, key());
    drop(acquire(&store, Key::unscoped("dropped")));
    let _held = acquire(&store, Key::unscoped("held"));
    let stats = store.stats();
    assert_eq!((stats.acquired, stats.completed, stats.replays), (3, 1, 1));
    assert_eq!(
        (stats.in_flight_answers, stats.mismatches, stats.guards_dropped),
        (1, 1, 1)
    );
    assert_eq!(
        (stats.keys_live, stats.keys_in_flight, stats.keys_interrupted),
        (3, 1, 1)
    );
    assert_eq!(stats.replay_ages.quantile(1.0), Some(Duration::from_secs(16)));
    assert!(stats.bytes_reserved > 0 && stats.bytes_reserved <= stats.bytes_limit);
    let text = stats.to_string();
    assert!(text.contains("acquired 3") && text.contains("live 3"), "{text}");
}
