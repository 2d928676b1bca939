//! Floods against a store with a log: budgets hold, refusals are typed, whoever is known goes on,
//! and when time has passed everything works again.
//!
//! `ONCEONLY_FLOOD` scales the number of keys.

use crate::support::{LEASE, Rng, TTL, scaled};
use onceonly::sim::disk::SimDisk;
use onceonly::*;
use std::time::Duration;

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
