//! Stores with a log, on a simulated disk: what comes back after a kill, a power cut, a close.

use crate::support::{LEASE, TTL, key};
use onceonly::sim::disk::{Cut, SimDisk};
use onceonly::*;
use std::time::Duration;

const DIR: &str = "/store";

fn builder(disk: &SimDisk, clock: &ManualClock) -> Builder {
    Store::builder()
        .clock(clock.clone())
        .disk(disk.clone())
        .helper_thread(false)
        .ttl(TTL)
        .lease(LEASE)
        .shards(2)
        .max_bytes(16 << 20)
        .segment_bytes(4_096)
}

fn open(disk: &SimDisk, clock: &ManualClock) -> Store {
    builder(disk, clock).open(DIR).unwrap()
}

fn acquire<'s>(store: &'s Store, key: Key<'_>) -> ClaimGuard<'s> {
    match store.claim(key, Fingerprint::NONE).unwrap() {
        Claim::Acquired(guard) => guard,
        other => panic!("{key:?} should be absent: {other:?}"),
    }
}

fn complete(store: &Store, id: &str, outcome: &[u8]) {
    acquire(store, Key::new("acme", id)).complete(outcome).unwrap();
}

fn replayed(store: &Store, id: &str) -> Option<Vec<u8>> {
    let read = |stored: Stored<'_>| stored.bytes().to_vec();
    match store
        .replay(Key::new("acme", id), Fingerprint::NONE, read)
        .unwrap()
    {
        Replay::Hit(bytes) => Some(bytes),
        _ => None,
    }
}

#[test]
fn an_outcome_survives_close_kill_and_power_cut() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    complete(&store, "a", b"one");
    store.close().unwrap();
    let store = open(&disk, &clock);
    assert_eq!(replayed(&store, "a").unwrap(), b"one");
    complete(&store, "b", b"two");
    let disk = disk.kill();
    let store = open(&disk, &clock);
    assert_eq!(replayed(&store, "b").unwrap(), b"two");
    complete(&store, "c", b"three");
    let disk = disk.cut(Cut::LoseAll);
    let store = open(&disk, &clock);
    for (id, outcome) in [("a", &b"one"[..]), ("b", b"two"), ("c", b"three")] {
        assert_eq!(replayed(&store, id).unwrap(), outcome);
    }
    assert_eq!(store.recovery().completed, 3);
}

#[test]
fn an_unfinished_claim_comes_back_interrupted_with_its_checkpoint_and_attempts() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    let guard = acquire(&store, key());
    guard.checkpoint(b"sent as ref 7").unwrap();
    let first = guard.generation();
    let disk = disk.cut(Cut::LoseAll);
    let store = open(&disk, &clock);
    assert_eq!(store.recovery().interrupted, 1);
    let Claim::Interrupted(left) = store.claim(key(), Fingerprint::NONE).unwrap() else {
        panic!("nobody knows what became of it");
    };
    assert_eq!((left.cause(), left.attempt()), (Cause::Crashed, 0));
    assert_eq!(left.last_checkpoint(), Some(&b"sent as ref 7"[..]));
    assert_eq!(left.generation(), first);
    let Claim::Acquired(guard) = left.resume().unwrap() else {
        panic!("nobody else is there");
    };
    assert!(guard.generation() > first);
    let second = guard.generation();
    let disk = disk.cut(Cut::LoseAll);
    let store = open(&disk, &clock);
    let Claim::Interrupted(left) = store.claim(key(), Fingerprint::NONE).unwrap() else {
        panic!("nobody knows what became of it");
    };
    assert_eq!((left.attempt(), left.generation()), (1, second));
    assert_eq!(left.last_checkpoint(), Some(&b"sent as ref 7"[..]));
    let Claim::Completed(outcome) = left.resolve(b"done", CompleteOptions::new()).unwrap() else {
        panic!("it was interrupted");
    };
    assert_eq!(&*outcome, b"done");
    let store = open(&disk.cut(Cut::LoseAll), &clock);
    assert!(matches!(store.claim(key(), Fingerprint::NONE), Ok(Claim::Completed(o)) if &*o == b"done"));
}

#[test]
fn what_was_released_or_forgotten_does_not_come_back() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    acquire(&store, Key::unscoped("released")).release().unwrap();
    complete(&store, "forgotten", b"x");
    assert!(store.forget(Key::new("acme", "forgotten")).unwrap());
    let _held = acquire(&store, Key::unscoped("held"));
    assert!(store.forget(Key::unscoped("held")).unwrap());
    let store = open(&disk.cut(Cut::LoseAll), &clock);
    assert_eq!((store.recovery().completed, store.recovery().interrupted), (0, 0));
    assert_eq!(store.stats().keys_live, 0);
}

#[test]
fn many_segments_come_back_whole_and_go_when_they_have_expired() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    for i in 0..500 {
        complete(
            &store,
            &format!("k{i}"),
            format!("outcome {i}").repeat(5).as_bytes(),
        );
    }
    let disk = disk.kill();
    let store = open(&disk, &clock);
    assert_eq!(store.recovery().completed, 500);
    assert!(store.recovery().segments > 15, "{}", store.recovery());
    for i in 0..500 {
        let outcome = format!("outcome {i}").repeat(5);
        assert_eq!(replayed(&store, &format!("k{i}")).unwrap(), outcome.as_bytes());
    }
    clock.advance(TTL + LEASE + Duration::from_secs(1));
    while store.maintain(Duration::from_secs(1)).unwrap() {}
    clock.advance(Duration::from_secs(1));
    while store.maintain(Duration::from_secs(1)).unwrap() {}
    let stats = store.stats();
    assert_eq!(stats.keys_live, 0, "{stats}");
    assert!(stats.bytes_disk < 64 << 10, "{stats}");
    let store = open(&disk.kill(), &clock);
    assert_eq!(store.stats().keys_live, 0);
    complete(&store, "new", b"new");
}

#[test]
fn generations_grow_across_restarts() {
    let clock = ManualClock::new();
    let mut disk = SimDisk::new(1);
    let mut last = 0;
    for _ in 0..5 {
        let store = builder(&disk, &clock)
            .durability(Durability::Process)
            .open(DIR)
            .unwrap();
        let guard = acquire(&store, key());
        assert!(guard.generation() > last);
        last = guard.generation();
        guard.release().unwrap();
        disk = disk.cut(Cut::LoseAll);
    }
}

#[test]
fn a_directory_is_open_once() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    let second = builder(&disk, &clock).open(DIR);
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    let held = acquire(&store, key()).into_owned();
    store.close().unwrap();
    let store = open(&disk, &clock);
    drop(held);
    assert!(matches!(
        store.claim(key(), Fingerprint::NONE),
        Ok(Claim::Interrupted(_))
    ));
}

#[test]
fn mixed_ttls_do_not_keep_the_log_from_shrinking() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    let long = CompleteOptions::new().ttl(Duration::from_secs(30 * 86_400));
    let mut sizes = Vec::new();
    for day in 0..60u32 {
        for i in 0..100 {
            let id = format!("{day}-{i}");
            let guard = acquire(&store, Key::new("acme", &id));
            let options = if day == 0 && i % 10 == 0 {
                long
            } else {
                CompleteOptions::new()
            };
            guard
                .complete_with(b"0123456789".repeat(10).as_slice(), options)
                .unwrap();
        }
        clock.advance(Duration::from_secs(3_600));
        while store.maintain(Duration::from_secs(1)).unwrap() {}
        sizes.push(store.stats().bytes_disk);
        assert_eq!(replayed(&store, "0-0").unwrap().len(), 100, "day {day}");
    }
    assert!(sizes[59] < 2 * sizes[5], "{sizes:?}");
    let store = open(&disk.cut(Cut::LoseAll), &clock);
    assert_eq!(replayed(&store, "0-90").unwrap().len(), 100);
}

/// A waiter that got a released key held a claim that no log knew of, and nobody could change the
/// key any more.
#[test]
fn a_claim_that_was_waited_for_is_recorded() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    let first = acquire(&store, key());
    let Claim::InFlight(other) = store.claim(key(), Fingerprint::NONE).unwrap() else {
        panic!("it is held");
    };
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| other.wait(Duration::from_secs(60)));
        while store.stats().waiters == 0 {
            std::thread::yield_now();
        }
        first.release().unwrap();
        let Claim::Acquired(second) = waiter.join().unwrap().unwrap() else {
            panic!("it was released");
        };
        second.checkpoint(b"mine").unwrap();
        let again = open(&disk.copy(), &clock);
        assert_eq!(again.recovery().interrupted, 1);
    });
}

/// Records behind an outcome that made its segment longer than an address can say got addresses
/// of other segments.
#[test]
fn keys_behind_a_very_large_outcome_keep_their_own_outcomes() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let large = || {
        let builder = Store::builder().clock(clock.clone()).helper_thread(false);
        builder
            .max_outcome(64 << 20)
            .max_bytes(512 << 20)
            .disk(disk.clone())
    };
    let store = large().open(DIR).unwrap();
    complete(&store, "large", &vec![7; 5 << 20]);
    for i in 0..100 {
        complete(&store, &format!("k{i}"), format!("outcome {i}").as_bytes());
    }
    let check = |store: &Store| {
        assert_eq!(replayed(store, "large").unwrap(), vec![7; 5 << 20]);
        for i in 0..100 {
            let outcome = format!("outcome {i}");
            assert_eq!(replayed(store, &format!("k{i}")).unwrap(), outcome.as_bytes());
        }
    };
    check(&store);
    store.close().unwrap();
    check(&large().open(DIR).unwrap());
}

/// A checkpoint that could not be recorded kept what it had taken of the budget, and a shorter one
/// gave back what it had not taken.
#[test]
fn a_checkpoint_that_fails_takes_and_gives_nothing() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    let guard = acquire(&store, key());
    guard.checkpoint(&[1; 900]).unwrap();
    while store.maintain(Duration::from_secs(1)).unwrap() {}
    disk.set_capacity(0);
    let taken = store.stats().bytes_reserved;
    let mut failed = 0;
    for len in [3_000, 10, 60_000, 1].into_iter().cycle().take(40) {
        failed += u32::from(guard.checkpoint(&vec![2; len]).is_err());
    }
    assert!(failed > 10, "{failed}");
    let note_at_most = 3_000;
    assert!(store.stats().bytes_reserved <= taken + note_at_most);
    guard.complete(b"").unwrap();
    assert!(store.stats().bytes_reserved <= taken);
}

#[test]
fn a_submitted_outcome_is_stored_although_the_last_handle_goes() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    for helper in [true, false] {
        let store = builder(&disk, &clock).helper_thread(helper).open(DIR).unwrap();
        let id = if helper { "helped" } else { "alone" };
        let guard = acquire(&store, Key::new("acme", id)).into_owned();
        let pending = guard.submit(b"done", CompleteOptions::new());
        drop(store);
        pending.wait().unwrap();
        drop(guard);
        let store = open(&disk, &clock);
        assert_eq!(replayed(&store, id).unwrap(), b"done");
    }
}

#[test]
fn a_submitted_claim_is_handed_out_by_the_next_sync() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    let pending = store.submit_claim(key(), Fingerprint::NONE, ClaimOptions::new());
    let status = store.status(key()).unwrap();
    assert!(matches!(status, Status::InFlight { .. }), "{status}");
    // Whoever syncs finishes it: here a call on the key itself.
    assert!(store.forget(key()).unwrap());
    let Claim::Acquired(guard) = pending.wait().unwrap() else {
        panic!("it was absent")
    };
    assert!(matches!(guard.complete(b"late"), Err(Error::LeaseLost { .. })));
    // A pending claim that is dropped is an interrupted one.
    drop(store.submit_claim(key(), Fingerprint::NONE, ClaimOptions::new()));
    store.sync().unwrap();
    assert!(matches!(
        store.claim(key(), Fingerprint::NONE),
        Ok(Claim::Interrupted(_))
    ));
}

/// One scope fills the log; then nothing expires for a while, and then everything.
#[test]
fn at_max_disk_bytes_new_keys_are_refused_and_old_ones_finish() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    const LIMIT: u64 = 64 << 10;
    let limited = || builder(&disk, &clock).max_disk_bytes(LIMIT);
    let store = limited().open(DIR).unwrap();
    let mut held = Vec::new();
    let mut done = 0;
    let refused = loop {
        let id = format!("k{done}");
        let claim = store.claim(Key::new("acme", &id), Fingerprint::NONE);
        match claim.map(Claim::into_owned) {
            Ok(Claim::Acquired(guard)) if done % 4 == 0 => held.push((done, guard)),
            Ok(Claim::Acquired(guard)) => drop(guard.complete(&[1; 300])),
            Ok(other) => panic!("{other:?}"),
            Err(error) => break error,
        }
        done += 1;
    };
    assert!(matches!(refused, Error::AtCapacity { .. }), "{refused}");
    assert!(done > 50);
    for (n, guard) in held.drain(..) {
        match n % 8 {
            0 => guard.complete(b"").unwrap(),
            _ => guard.release().unwrap(),
        }
    }
    assert_eq!(replayed(&store, "k0").unwrap(), b"");
    assert!(store.stats().bytes_disk <= LIMIT);
    drop(store);
    // Full or not, it can be opened.
    let store = limited().open(DIR).unwrap();
    assert_eq!(replayed(&store, "k0").unwrap(), b"");
    clock.advance(TTL + LEASE + Duration::from_secs(2));
    for n in 0..50 {
        complete(&store, &format!("new{n}"), b"new");
    }
    assert!(store.stats().bytes_disk <= LIMIT + 4_096, "{}", store.stats());
}

/// A week of keys that live a day: the files take no more on the last day than on the second.
#[test]
fn at_a_steady_rate_of_keys_the_log_has_a_steady_size() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let day = Duration::from_secs(86_400);
    let store = builder(&disk, &clock).ttl(day).open(DIR).unwrap();
    let mut sizes = Vec::new();
    for hour in 0..8 * 24 {
        for n in 0..40 {
            complete(&store, &format!("{hour}-{n}"), &[3; 128]);
        }
        clock.advance(Duration::from_secs(3_600));
        while store.maintain(Duration::from_secs(1)).unwrap() {}
        sizes.push((store.stats().bytes_disk, store.stats().keys_live));
    }
    let (second, last) = (&sizes[24..48], &sizes[sizes.len() - 24..]);
    let most = |days: &[(u64, u64)]| days.iter().map(|(bytes, _)| *bytes).max().unwrap();
    assert!(most(last) <= most(second) + 8_192, "{sizes:?}");
    assert!(last.iter().all(|(_, keys)| *keys < 25 * 40 + 80), "{sizes:?}");
    assert_eq!(store.stats().records_carried, 0, "one ttl leaves nothing over");
}

/// The wall clock steps back, again and again, while the store is closed: keys live longer, never
/// shorter, and no longer than the steps explain. One step far ahead is believed for a day.
#[test]
fn a_wall_clock_that_steps_never_lets_a_key_go_early() {
    let second = Duration::from_secs(1);
    for seed in 0..300u64 {
        let mut rng = crate::support::Rng(seed);
        let clock = ManualClock::new();
        let mut disk = SimDisk::new(seed);
        let mut store = open(&disk, &clock);
        // (id, when it was completed), in seconds that have really passed.
        let mut stored: Vec<(String, u64)> = Vec::new();
        let mut gone: Vec<String> = Vec::new();
        let (mut real, mut back) = (0, 0);
        for step in 0..40 {
            let id = format!("{seed}-{step}");
            complete(&store, &id, b"x");
            stored.push((id.clone(), real));
            let pass = rng.below(900);
            real += pass;
            clock.advance(pass as u32 * second);
            if rng.once_in(3) {
                disk = disk.cut(Cut::Random);
                let by = rng.below(2_000);
                back += by;
                clock.set_wall(Clock::wall(&clock) - by as u32 * second);
                store = open(&disk, &clock);
            }
            for (id, since) in &stored {
                let kept = replayed(&store, id).is_some();
                let age = real - since;
                assert!(
                    kept || age >= TTL.as_secs(),
                    "seed {seed}: {id} went after {age} s"
                );
                let most = TTL.as_secs() + back + 1;
                assert!(
                    !kept || age <= most,
                    "seed {seed}: {id} is still there after {age} s"
                );
                if !kept && !gone.contains(id) {
                    gone.push(id.clone());
                }
            }
            // Whoever records something notes that time has come so far.
            complete(&store, &format!("{id}-now"), b"");
            for id in &gone {
                assert_eq!(replayed(&store, id), None, "seed {seed}: {id} came back");
            }
        }
    }
}
