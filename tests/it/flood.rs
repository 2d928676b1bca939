//! Floods: budgets hold, refusals are typed, whoever is known goes on, and when time has passed
//! everything works again.
//!
//! `ONCEONLY_FLOOD` scales the number of keys.

use crate::support::{LEASE, Rng, TTL, acquire, scaled};
use onceonly::sim::disk::SimDisk;
use onceonly::*;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

const DIR: &str = "/store";
const MINUTE: Duration = Duration::from_secs(60);

fn builder(disk: &SimDisk, clock: &ManualClock) -> Builder {
    Store::builder()
        .clock(clock.clone())
        .disk(disk.clone())
        .helper_thread(false)
        .durability(Durability::Process)
        .ttl(TTL)
        .lease(LEASE)
        .shards(2)
        .segment_bytes(16 << 10)
}

/// What the log's files take, as the disk sees it.
fn on_disk(disk: &SimDisk) -> u64 {
    let paths = disk.paths();
    let sizes = paths.iter().filter(|path| !path.ends_with("STORE"));
    sizes.map(|path| disk.bytes(path).unwrap().len() as u64).sum()
}

fn tend(store: &Store) {
    for _ in 0..1_000 {
        if !store.maintain(Duration::from_secs(1)).unwrap() {
            return;
        }
    }
    panic!("there is always more to do");
}

/// Claims a key; `None` if there is no room for it.
fn try_claim<'s>(store: &'s Store, key: Key<'_>) -> Option<ClaimGuard<'s>> {
    match store.claim(key, Fingerprint::NONE) {
        Ok(Claim::Acquired(guard)) => Some(guard),
        Err(Error::AtCapacity { retry_after }) => {
            assert!(!retry_after.is_zero());
            None
        }
        other => panic!("{key:?}: {other:?}"),
    }
}

/// Claims and completes a key; false if there is no room for it.
fn try_complete(store: &Store, key: Key<'_>, outcome: &[u8]) -> bool {
    let Some(guard) = try_claim(store, key) else {
        return false;
    };
    match guard.complete(outcome) {
        Ok(()) => true,
        Err(Error::AtCapacity { .. }) => {
            // A held claim can always be finished with nothing.
            guard.complete(b"").unwrap();
            true
        }
        Err(error) => panic!("{key:?}: {error:?}"),
    }
}

/// Everything has expired and was tended. What the segment being written holds keeps its slots
/// until somebody meets them or it is full.
fn only_the_head_is_left(store: &Store) {
    let stats = store.stats();
    assert!(stats.segments <= 1 && stats.keys_in_flight == 0, "{stats}");
    assert!(stats.bytes_used <= 64 << 10, "{stats}");
}

fn is_kept(store: &Store, key: Key<'_>, outcome: &[u8]) -> bool {
    let read = |stored: Stored<'_>| stored.bytes() == outcome;
    store.replay(key, Fingerprint::NONE, read).unwrap() == Replay::Hit(true)
}

#[test]
fn a_scope_that_floods_is_refused_alone() {
    const OWN: u64 = 1_000;
    const DISK: u64 = 2 << 20;
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = builder(&disk, &clock)
        .max_keys_per_scope(OWN)
        .max_disk_bytes(DISK)
        .max_bytes(16 << 20)
        .open(DIR)
        .unwrap();
    let (mut let_in, mut refused) = (0, 0);
    let count = scaled("ONCEONLY_FLOOD", 100_000);
    for i in 0..count {
        let id = i.to_le_bytes();
        match try_complete(&store, Key::new("flood", &id), &[1; 64]) {
            true => let_in += 1,
            false => refused += 1,
        }
        if i % 1_000 == 0 {
            let own = Key::new("others", &id);
            assert!(try_complete(&store, own, b"mine"), "{}", store.stats());
            assert!(is_kept(&store, own, b"mine"));
            clock.advance(Duration::from_millis(5));
            assert!(on_disk(&disk) <= DISK && store.stats().bytes_disk <= DISK);
        }
    }
    assert_eq!(let_in, OWN, "{refused} refused");
    assert_eq!(store.stats().at_capacity, refused);
    // Who is known is served from what is stored.
    for i in 0..OWN {
        assert!(is_kept(&store, Key::new("flood", &i.to_le_bytes()), &[1; 64]));
    }
    clock.advance(TTL + MINUTE);
    tend(&store);
    only_the_head_is_left(&store);
    assert!(try_complete(&store, Key::new("flood", "again"), b"fine"));
}

#[test]
fn a_full_log_refuses_new_keys_and_works_again_when_they_expire() {
    for disk_bytes in [256 << 10, 1 << 20] {
        let clock = ManualClock::new();
        let disk = SimDisk::new(1);
        let store = builder(&disk, &clock)
            .max_disk_bytes(disk_bytes)
            .max_bytes(64 << 20)
            .open(DIR)
            .unwrap();
        let mut rng = Rng(disk_bytes);
        let mut levels = Vec::new();
        for round in 0..20u32 {
            let mut stored: Vec<(u32, usize)> = Vec::new();
            let mut refused = 0;
            for i in 0..20_000u32 {
                let len = rng.below(300) as usize;
                let id = [round.to_le_bytes(), i.to_le_bytes()].concat();
                let Some(guard) = try_claim(&store, Key::new("acme", &id)) else {
                    refused += 1;
                    if refused == 50 {
                        break;
                    }
                    continue;
                };
                match guard.complete(&vec![7; len]) {
                    Ok(()) => stored.push((i, len)),
                    Err(Error::AtCapacity { .. }) => {
                        guard.complete(b"").unwrap();
                        stored.push((i, 0));
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
            assert_eq!(refused, 50, "the log never gets full: {}", store.stats());
            assert!(on_disk(&disk) <= disk_bytes, "{} of {disk_bytes}", on_disk(&disk));
            for (i, len) in &stored {
                let id = [round.to_le_bytes(), i.to_le_bytes()].concat();
                assert!(is_kept(&store, Key::new("acme", &id), &vec![7; *len]));
            }
            levels.push(stored.len());
            clock.advance(TTL + MINUTE);
            tend(&store);
            only_the_head_is_left(&store);
        }
        // As much fits every time.
        let (least, most) = (levels.iter().min().unwrap(), levels.iter().max().unwrap());
        assert!(least * 3 > most * 2, "{levels:?}");
    }
}

#[test]
fn claims_never_completed_fill_the_log_and_can_all_be_finished() {
    for seed in 0..12 {
        let mut rng = Rng(seed);
        let disk_bytes = (128 << 10) + rng.below(4) * (64 << 10);
        let clock = ManualClock::new();
        let disk = SimDisk::new(seed);
        let store = builder(&disk, &clock)
            .max_disk_bytes(disk_bytes)
            .max_bytes(64 << 20)
            .open(DIR)
            .unwrap();
        let long = "x".repeat(rng.pick(&[0, 30, 200, 1_000]));
        let mut held = Vec::new();
        for i in 0..100_000 {
            let id = format!("{i}-{long}");
            match try_claim(&store, Key::new("acme", &id)) {
                Some(guard) => held.push(guard),
                None => break,
            }
        }
        assert!(on_disk(&disk) <= disk_bytes && held.len() > 10, "{}", held.len());
        // A third is finished, a third given back; the rest is never heard of again.
        let most = held.len();
        let mut left = Vec::new();
        for (i, guard) in held.into_iter().enumerate() {
            let what = format!("seed {seed}, claim {i} of {most}");
            match i % 3 {
                0 => guard.complete(b"").expect(&what),
                1 => guard.release().expect(&what),
                _ => left.push(guard),
            }
        }
        assert!(on_disk(&disk) <= disk_bytes);
        clock.advance(LEASE + MINUTE);
        for guard in left.iter().take(left.len() / 2) {
            guard.complete(b"").expect("late, but nobody took it over");
        }
        drop(left);
        clock.advance(TTL + MINUTE);
        tend(&store);
        only_the_head_is_left(&store);
        // As many fit again.
        let mut again = 0;
        for i in 0..most {
            let id = format!("again-{i}-{long}");
            again += usize::from(try_complete(&store, Key::new("acme", &id), b""));
        }
        assert!(
            again * 4 > most * 3,
            "seed {seed}: {again} of {most}: {}",
            store.stats()
        );
        assert!(on_disk(&disk) <= disk_bytes);
    }
}

#[test]
fn the_memory_budget_bounds_the_log_too() {
    const BYTES: u64 = 1 << 20;
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = builder(&disk, &clock).max_bytes(BYTES).open(DIR).unwrap();
    for round in 0..10u32 {
        let (mut fit, mut refused) = (0, 0);
        for i in 0..scaled("ONCEONLY_FLOOD", 20_000) {
            let id = [u64::from(round), i].map(u64::to_le_bytes).concat();
            match try_complete(&store, Key::new("acme", &id), &[3; 100]) {
                true => fit += 1,
                false => refused += 1,
            }
            if i % 500 == 0 {
                let stats = store.stats();
                assert!(stats.bytes_reserved <= stats.bytes_limit, "{stats}");
                assert!(on_disk(&disk) <= BYTES);
            }
            if refused == 100 {
                break;
            }
        }
        assert!(
            fit > 2_000 && refused == 100,
            "round {round}: {fit}, {refused}: {}",
            store.stats()
        );
        clock.advance(TTL + MINUTE);
        tend(&store);
        only_the_head_is_left(&store);
    }
}

#[test]
fn a_week_of_keys_of_a_day_is_a_flat_line() {
    /// In six hours.
    const KEYS: u32 = 3_000;
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = builder(&disk, &clock)
        .ttl(Duration::from_secs(86_400))
        .max_bytes(64 << 20)
        .segment_bytes(64 << 10)
        .open(DIR)
        .unwrap();
    let mut rng = Rng(7);
    let mut line = Vec::new();
    for quarter in 0..4 * 8u32 {
        for i in 0..KEYS {
            let id = [quarter.to_le_bytes(), i.to_le_bytes()].concat();
            let key = Key::new("acme", &id);
            let guard = try_claim(&store, key).unwrap();
            match rng.below(20) {
                0 => guard.release().unwrap(),
                1 => drop(guard),
                _ => guard.complete(&vec![5; rng.below(200) as usize]).unwrap(),
            }
            clock.advance(Duration::from_millis(7_200));
        }
        tend(&store);
        let stats = store.stats();
        line.push((
            stats.bytes_disk,
            stats.bytes_reserved,
            stats.keys_live,
            stats.bytes_index,
        ));
        assert_eq!(stats.bytes_disk, on_disk(&disk), "{stats}");
    }
    // The first day fills it; from the second on it stays as it is.
    let (first, rest) = (line[5], &line[6..]);
    for (i, now) in rest.iter().enumerate() {
        let flat = [(now.0, first.0), (now.1, first.1), (now.2, first.2)];
        // A table's size goes in steps, up before down.
        let any = flat.iter().any(|(now, then)| *now > then + then / 6) || now.3 > first.3 * 3 / 2;
        assert!(!any, "after {} h: {now:?}, was {first:?}: {line:?}", 6 * (i + 7));
    }
    eprintln!("{line:?}");
}

fn in_memory(clock: &ManualClock) -> Builder {
    Store::builder()
        .clock(clock.clone())
        .helper_thread(false)
        .ttl(TTL)
        .lease(LEASE)
}

fn is_within_budget(store: &Store) {
    let stats = store.stats();
    assert!(stats.bytes_reserved <= stats.bytes_limit, "{stats}");
}

/// Does so many cycles of a scope that minds its own business, and then as many between calls of
/// `flood`, and prints how long those took: how long is up to the machine, so nothing is asserted.
fn bystander(name: &str, store: &Store, rounds: u64, mut flood: impl FnMut(u64)) {
    let cycle = |id: u64| {
        let id = id.to_le_bytes();
        let began = Instant::now();
        assert!(try_complete(store, Key::new("bystander", &id), b"mine"));
        let took = began.elapsed();
        assert!(is_kept(store, Key::new("bystander", &id), b"mine"));
        took
    };
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        took[0].push(cycle(round));
    }
    for round in 0..rounds {
        flood(round);
        is_within_budget(store);
        took[1].push(cycle(rounds + round));
    }
    for (took, when) in took.iter_mut().zip(["before", "in the flood"]) {
        took.sort_unstable();
        let [p50, p99, most] = [took.len() / 2, took.len() * 99 / 100, took.len() - 1].map(|i| took[i]);
        eprintln!("{name}: a bystander's cycle {when}: p50 {p50:?}, p99 {p99:?}, longest {most:?}");
    }
}

#[test]
fn a_scope_that_mints_keys_leaves_the_others_their_room() {
    const ROUNDS: u64 = 1_000;
    let clock = ManualClock::new();
    let own = scaled("ONCEONLY_FLOOD", 1_000_000) / 2;
    let store = in_memory(&clock)
        .max_keys(own + 100_000)
        .max_keys_per_scope(own)
        .in_memory()
        .unwrap();
    let mut let_in = 0;
    bystander("minting", &store, ROUNDS, |round| {
        for i in 0..2 * own / ROUNDS {
            let id = [round, i].map(u64::to_le_bytes).concat();
            let_in += u64::from(try_complete(&store, Key::new("flood", &id), b"some outcome"));
        }
    });
    assert_eq!(let_in, own);
    clock.advance(TTL + MINUTE);
    tend(&store);
    assert!(try_complete(&store, Key::new("flood", "again"), b"fine"));
}

/// Held, then left: a claim that is left still takes its key and its place in memory.
#[test]
fn claims_never_completed_stop_at_the_limits_and_end_with_their_ttl() {
    const ROUNDS: u64 = 50;
    let clock = ManualClock::new();
    let own = scaled("ONCEONLY_FLOOD", 1_000_000) / 5;
    let store = in_memory(&clock)
        .max_keys_per_scope(own)
        .max_in_flight(10_000)
        .in_memory()
        .unwrap();
    let (mut left, mut refused) = (0, 0);
    bystander("leaving claims", &store, ROUNDS, |round| {
        let mut held = Vec::new();
        for i in 0..9_000 {
            let id = [round, i].map(u64::to_le_bytes).concat();
            match try_claim(&store, Key::new("flood", &id)) {
                Some(guard) => held.push(guard),
                None => refused += 1,
            }
        }
        left += held.len() as u64;
    });
    assert_eq!(left, own.min(ROUNDS * 9_000));
    assert_eq!(left + refused, ROUNDS * 9_000);
    assert_eq!(store.stats().keys_interrupted, left);
    // What is held at the limit refuses the next claim, whoever asks.
    let ids: Vec<_> = (0..10_000_u64).map(u64::to_le_bytes).collect();
    let held: Vec<_> = ids
        .iter()
        .map(|id| acquire(&store, Key::new("holding", id)))
        .collect();
    assert!(try_claim(&store, Key::new("bystander", "new")).is_none());
    drop(held);
    clock.advance(LEASE + TTL + MINUTE);
    tend(&store);
    let stats = store.stats();
    assert_eq!((stats.keys_interrupted, stats.keys_in_flight), (0, 0), "{stats}");
    assert!(try_complete(&store, Key::new("flood", "again"), b"fine"));
}

#[test]
fn a_crowd_at_one_key_is_let_in_up_to_the_limit() {
    let clock = ManualClock::new();
    let store = in_memory(&clock).in_memory().unwrap();
    let crowd = scaled("ONCEONLY_FLOOD", 1_000_000);
    let guard = acquire(&store, Key::new("flood", "hot"));
    let mut cx = Context::from_waker(Waker::noop());
    let mut waiting = Vec::new();
    let mut turned_away = 0;
    bystander("crowding", &store, 1_000, |_| {
        for _ in 0..crowd / 1_000 {
            let Ok(Claim::InFlight(other)) = store.claim(Key::new("flood", "hot"), Fingerprint::NONE) else {
                panic!("it is held");
            };
            let mut watch = Box::pin(other.watch());
            match watch.as_mut().poll(&mut cx) {
                Poll::Pending => waiting.push(watch),
                Poll::Ready(Ok(Claim::InFlight(_))) => turned_away += 1,
                Poll::Ready(other) => panic!("{other:?}"),
            }
        }
    });
    assert_eq!(waiting.len(), 1_024, "the default");
    assert_eq!(turned_away, crowd / 1_000 * 1_000 - 1_024);
    guard.complete(b"done").unwrap();
    for watch in waiting {
        let Poll::Ready(Ok(Claim::Completed(outcome))) = pin!(watch).poll(&mut cx) else {
            panic!("all who wait share the outcome");
        };
        assert_eq!(&*outcome, b"done");
    }
    assert_eq!(store.stats().waiters, 0);
}

#[test]
fn the_largest_outcomes_stop_at_the_budget() {
    const LARGEST: usize = 64 << 20;
    let clock = ManualClock::new();
    let store = in_memory(&clock)
        .max_outcome(LARGEST)
        .max_bytes(300 << 20)
        .in_memory()
        .unwrap();
    let outcome = vec![9; LARGEST];
    let mut stored = 0_u64;
    bystander("large outcomes", &store, 10, |round| {
        let id = round.to_le_bytes();
        let guard = acquire(&store, Key::new("flood", &id));
        match guard.complete(&outcome) {
            Ok(()) => stored += 1,
            Err(Error::AtCapacity { .. }) => guard.complete(b"").unwrap(),
            Err(error) => panic!("{error}"),
        }
    });
    assert!((3..=4).contains(&stored), "{stored}");
    for round in 0..stored {
        assert!(is_kept(&store, Key::new("flood", &round.to_le_bytes()), &outcome));
    }
    clock.advance(TTL + MINUTE);
    tend(&store);
    assert!(try_complete(&store, Key::new("flood", "again"), &outcome));
}

/// The worst an attacker could achieve who knew the seeds: every key has the same hash, so each
/// call looks at all of them. Slow, and right.
#[test]
fn keys_that_all_hash_alike_are_told_apart() {
    let clock = ManualClock::new();
    let store = in_memory(&clock)
        .constant_hash()
        .max_keys_per_scope(2_000)
        .in_memory()
        .unwrap();
    let mut let_in = 0;
    bystander("hashing alike", &store, 300, |round| {
        for i in 0..10_u64 {
            let id = [round, i].map(u64::to_le_bytes).concat();
            let_in += u64::from(try_complete(&store, Key::new("flood", &id), &id));
        }
    });
    assert_eq!(let_in, 2_000);
    for n in 0..2_000_u64 {
        let id = [n / 10, n % 10].map(u64::to_le_bytes).concat();
        assert!(is_kept(&store, Key::new("flood", &id), &id));
    }
}
