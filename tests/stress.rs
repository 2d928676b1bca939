//! The whole engine under threads at once, for the sanitizers: what they look for they find only
//! where the code runs.
//!
//! A round is one store, in memory or with a log in a directory of its own, and some threads that
//! make calls of every kind on few keys: single, waiting, batched, submitted, by token; with guards
//! that are completed, released, dropped; with outcomes that expire at once; with new keys that make
//! the index grow. What is checked holds whatever the order of things:
//!
//! - nobody holds a key that somebody else holds, and its generations only grow;
//! - a key that keeps its outcome is completed once, a message is first seen once;
//! - an outcome is, byte for byte, what its generation stored, for as long as a reader looks at it;
//! - with a log, all of that is there when the store is opened again.
//!
//! It has a `main` of its own and uses threads, atomics and joins alone: ThreadSanitizer does not see
//! into the standard library's locks and scopes, which are not built with it. `.ci/deep` runs it so
//! (`.ci/stress`). `ONCEONLY_STRESS_SECONDS` is how long, `ONCEONLY_SEED` makes the same choices.

mod worker;

use onceonly::*;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};
use worker::Rng;
use worker::life::TempDir;

const THREADS: u64 = 4;
/// Keys whose outcomes stay.
const KEPT: u64 = 512;
/// Keys whose outcomes expire at once, and whose claims may be forgotten.
const FLEETING: u64 = 32;
const MESSAGES: u64 = 512;
const ROUND: Duration = Duration::from_millis(500);
/// Longer than any round, however slow.
const LONG: Duration = Duration::from_secs(24 * 3_600);

fn main() {
    if !worker::is_wanted("stress") {
        return;
    }
    let seconds = worker::from_env("ONCEONLY_STRESS_SECONDS", 2);
    let seed = worker::seed();
    println!("stress: {seconds} s with ONCEONLY_SEED={seed}");
    let until = Instant::now() + Duration::from_secs(seconds);
    let (mut rounds, mut calls, mut replays) = (0, 0, 0);
    // One of each kind at least.
    while rounds < KINDS.len() as u64 || Instant::now() < until {
        let kind = KINDS[rounds as usize % KINDS.len()];
        let round = Round::run(kind, seed.wrapping_add(rounds << 8));
        calls += round.calls.load(Ordering::Relaxed);
        replays += round.replays.load(Ordering::Relaxed);
        rounds += 1;
    }
    println!("stress: {rounds} rounds, {calls} calls, {replays} outcomes compared");
    assert!(
        calls > rounds * 100 && replays > rounds * 10,
        "too little was done"
    );
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    log: Option<Durability>,
    helper: bool,
}

const KINDS: [Kind; 5] = [
    Kind {
        log: None,
        helper: true,
    },
    Kind {
        log: Some(Durability::Process),
        helper: true,
    },
    Kind {
        log: None,
        helper: false,
    },
    Kind {
        log: Some(Durability::Sync),
        helper: true,
    },
    Kind {
        log: Some(Durability::Sync),
        helper: false,
    },
];

impl Kind {
    fn open(self, dir: &Path) -> Store {
        let builder = Store::builder()
            .ttl(LONG)
            .lease(LONG)
            .shards(4)
            .helper_thread(self.helper)
            .max_bytes(512 << 20);
        let store = match self.log {
            None => builder.in_memory(),
            Some(durability) => builder.durability(durability).segment_bytes(64 << 10).open(dir),
        };
        store.expect("the store opens")
    }
}

/// What is known of a key beside the store.
#[derive(Default)]
struct Known {
    /// The generation that holds it, or 0.
    holder: AtomicU64,
    /// The largest generation anybody has held.
    largest: AtomicU64,
    /// The generation that completed it.
    completed: AtomicU64,
}

struct Round {
    store: Store,
    kept: Vec<Known>,
    /// How often each message was seen first.
    first: Vec<AtomicU64>,
    calls: AtomicU64,
    replays: AtomicU64,
}

fn counters(n: u64) -> Vec<AtomicU64> {
    (0..n).map(|_| AtomicU64::new(0)).collect()
}

fn body(id: u64, generation: u64) -> Vec<u8> {
    let len = (id * 31 + generation) % 300;
    [generation, id]
        .map(u64::to_le_bytes)
        .concat()
        .repeat(1 + len as usize / 16)
}

fn is_body(id: u64, stored: Stored<'_>) -> bool {
    stored.bytes() == body(id, stored.generation())
}

impl Round {
    fn run(kind: Kind, seed: u64) -> Arc<Round> {
        let temp = TempDir::new("stress");
        let dir = temp.path().join("store");
        let round = Arc::new(Round {
            store: kind.open(&dir),
            kept: (0..KEPT).map(|_| Known::default()).collect(),
            first: counters(MESSAGES),
            calls: AtomicU64::new(0),
            replays: AtomicU64::new(0),
        });
        let until = Instant::now() + ROUND;
        let start = |number| {
            let round = round.clone();
            thread::spawn(move || Worker::new(&round, number, seed).work(until))
        };
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        for thread in threads {
            thread
                .join()
                .unwrap_or_else(|_| panic!("{kind:?}, ONCEONLY_SEED={seed}: see above"));
        }
        round.check(&round.store);
        round.store.clone().close().expect("the store closes");
        if kind.log.is_some() {
            let again = kind.open(&dir);
            round.check(&again);
        }
        round
    }

    /// Everything that was acknowledged is there.
    fn check(&self, store: &Store) {
        for (id, known) in (0..).zip(&self.kept) {
            let completed = known.completed.load(Ordering::Relaxed);
            let name = u64::to_le_bytes(id);
            let found = store.replay(Key::new("kept", &name), Fingerprint::NONE, |stored| {
                (stored.generation(), is_body(id, stored))
            });
            match (completed, found.expect("it is open")) {
                (0, Replay::Hit(_)) => panic!("kept {id}: nobody completed it"),
                (0, _) => {}
                (generation, Replay::Hit(found)) => assert_eq!(found, (generation, true), "kept {id}"),
                (generation, other) => panic!("kept {id}, completed by {generation}: {other:?}"),
            }
        }
        for (id, first) in (0u64..).zip(&self.first) {
            let seen = first.load(Ordering::Relaxed);
            assert!(seen <= 1, "message {id} was new {seen} times");
            let status = store.status(Key::new("messages", &id.to_le_bytes()));
            let is_there = matches!(status, Ok(Status::Completed { .. }));
            assert_eq!(seen == 1, is_there, "message {id}: {status:?}");
        }
    }
}

struct Worker<'r> {
    round: &'r Round,
    rng: Rng,
    number: u64,
    /// New keys so far.
    new: u64,
}

impl<'r> Worker<'r> {
    fn new(round: &'r Round, number: u64, seed: u64) -> Worker<'r> {
        Worker {
            round,
            rng: Rng::new(seed ^ number << 56),
            number,
            new: 0,
        }
    }

    fn work(&mut self, until: Instant) {
        let mut calls = 0;
        while Instant::now() < until {
            for _ in 0..16 {
                self.step();
            }
            calls += 16;
        }
        self.round.calls.fetch_add(calls, Ordering::Relaxed);
    }

    fn step(&mut self) {
        match self.rng.below(20) {
            0..5 => self.claim_kept(),
            5 => self.claim_many(),
            6..8 => self.first_seen(),
            8..12 => self.replay(),
            12..15 => self.fleeting(),
            15..18 => self.grow(),
            18 => self.look_around(),
            _ => self.maintain(),
        }
    }

    fn claim_kept(&mut self) {
        let store = &self.round.store;
        let id = self.rng.below(KEPT);
        let name = id.to_le_bytes();
        let key = Key::new("kept", &name);
        let claim = match self.rng.below(4) {
            0 => store.claim_wait(key, Fingerprint::NONE, Duration::from_millis(2)),
            1 => store
                .submit_claim(key, Fingerprint::NONE, ClaimOptions::new())
                .wait(),
            _ => store.claim(key, Fingerprint::NONE),
        };
        let claim = claim.expect("there is room");
        self.go_on(id, claim);
    }

    /// Does with a kept key what the answer allows.
    fn go_on(&mut self, id: u64, claim: Claim<'_>) {
        match claim {
            Claim::Acquired(guard) => self.hold(id, guard),
            Claim::Completed(outcome) => {
                assert_eq!(&*outcome, body(id, outcome.generation()), "kept {id}");
                self.round.replays.fetch_add(1, Ordering::Relaxed);
            }
            Claim::InFlight(other) => self.watch(other),
            Claim::Interrupted(left) => {
                // Who loses the race for it is told what the winner made of it.
                let taken = left.resume().expect("a known key needs no room");
                if let Claim::Acquired(guard) = taken {
                    self.hold(id, guard);
                }
            }
            Claim::Mismatch(other) => panic!("kept {id}: {other:?}"),
        }
    }

    /// Holds a kept key: nobody else does, until it is let go here.
    fn hold(&mut self, id: u64, guard: ClaimGuard<'_>) {
        let known = &self.round.kept[id as usize];
        let generation = guard.generation();
        let holder = known.holder.swap(generation, Ordering::AcqRel);
        assert_eq!(holder, 0, "kept {id} is held by {holder} and by {generation}");
        let before = known.largest.swap(generation, Ordering::AcqRel);
        assert!(before < generation, "kept {id}: {generation} after {before}");
        assert_eq!(
            known.completed.load(Ordering::Acquire),
            0,
            "kept {id} was completed"
        );
        match self.rng.below(8) {
            0 => {
                guard
                    .checkpoint(&generation.to_le_bytes())
                    .expect("a checkpoint fits");
                thread::yield_now();
            }
            1 => guard.renew(LONG).expect("nobody took it"),
            _ => {}
        }
        let let_go = || known.holder.store(0, Ordering::Release);
        match self.rng.below(6) {
            0 => {
                let_go();
                guard.release().expect("it is held");
            }
            1 => {
                let_go();
                drop(guard);
            }
            2 => {
                let_go();
                let token = guard.detach();
                let claim = self.round.store.attach(&token);
                match claim {
                    Ok(Claim::Acquired(guard)) => self.hold(id, guard),
                    Ok(_) | Err(Error::LeaseLost { .. }) => {}
                    Err(error) => panic!("kept {id}: {error}"),
                }
            }
            _ => self.complete(id, guard),
        }
    }

    fn complete(&mut self, id: u64, guard: ClaimGuard<'_>) {
        let known = &self.round.kept[id as usize];
        let generation = guard.generation();
        known.completed.store(generation, Ordering::Release);
        let outcome = body(id, generation);
        let done = match self.rng.below(3) {
            0 => guard.submit(&outcome, CompleteOptions::new()).wait(),
            1 => guard.complete_with(&outcome, CompleteOptions::new().tag(7)),
            _ => guard.complete(&outcome),
        };
        done.expect("a claim has room set aside, and there is plenty");
        known.holder.store(0, Ordering::Release);
    }

    /// Waits as a future would, for a few polls, and gives up.
    fn watch(&mut self, other: InFlight<'_>) {
        let mut watch = other.watch();
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..self.rng.below(4) {
            if let Poll::Ready(claim) = Pin::new(&mut watch).poll(&mut context) {
                drop(claim);
                return;
            }
            thread::yield_now();
        }
    }

    fn claim_many(&mut self) {
        let store = &self.round.store;
        let ids: Vec<u64> = (0..8).map(|_| self.rng.below(KEPT)).collect();
        let names: Vec<_> = ids.iter().map(|id| id.to_le_bytes()).collect();
        let items: Vec<_> = names
            .iter()
            .map(|name| (Key::new("kept", name), Fingerprint::NONE))
            .collect();
        let mut claims = Vec::new();
        store.claim_many(&items, &mut claims).expect("it is open");
        let mut held = Vec::new();
        for (id, claim) in ids.into_iter().zip(claims) {
            match claim.expect("there is room") {
                Claim::Acquired(guard) => held.push((id, guard)),
                // A repeat in the batch may wait for ourselves.
                other => drop(other),
            }
        }
        for (id, guard) in &held {
            let known = &self.round.kept[*id as usize];
            let holder = known.holder.swap(guard.generation(), Ordering::AcqRel);
            assert_eq!(holder, 0, "kept {id} is held by {holder}");
            known.largest.fetch_max(guard.generation(), Ordering::AcqRel);
            known.completed.store(guard.generation(), Ordering::Release);
        }
        let outcomes = held
            .iter()
            .map(|(id, guard)| (guard, body(*id, guard.generation()), CompleteOptions::new()));
        let mut done = Vec::new();
        store.complete_many(outcomes, &mut done).expect("it is open");
        for ((id, _), done) in held.iter().zip(done) {
            done.expect("a claim has room set aside, and there is plenty");
            self.round.kept[*id as usize].holder.store(0, Ordering::Release);
        }
    }

    fn first_seen(&mut self) {
        let store = &self.round.store;
        let ids: Vec<u64> = (0..4).map(|_| self.rng.below(MESSAGES)).collect();
        let names: Vec<_> = ids.iter().map(|id| id.to_le_bytes()).collect();
        let keys: Vec<_> = names.iter().map(|name| Key::new("messages", name)).collect();
        let mut seen = Vec::new();
        if self.rng.below(2) == 0 {
            store.first_seen_many(&keys, &mut seen).expect("it is open");
        } else {
            seen.push(store.first_seen(keys[0]));
        }
        for (id, seen) in ids.into_iter().zip(seen) {
            if seen.expect("there is room, and no claim on it") {
                let before = self.round.first[id as usize].fetch_add(1, Ordering::AcqRel);
                assert_eq!(before, 0, "message {id} is new again");
            }
        }
    }

    fn replay(&mut self) {
        let store = &self.round.store;
        let id = self.rng.below(KEPT);
        let name = id.to_le_bytes();
        let key = Key::new("kept", &name);
        let known = self.round.kept[id as usize].completed.load(Ordering::Acquire);
        let found = store.replay(key, Fingerprint::NONE, |stored| {
            let before = is_body(id, stored);
            // What is retired meanwhile stays where it is.
            thread::yield_now();
            before && is_body(id, stored) && stored.generation() == known.max(stored.generation())
        });
        if let Replay::Hit(same) = found.expect("it is open") {
            assert!(same, "kept {id}");
            self.round.replays.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A key that ends soon whatever becomes of it: by its lease, its ttl, or an operator.
    fn fleeting(&mut self) {
        let store = &self.round.store;
        let id = self.rng.below(FLEETING);
        let name = id.to_le_bytes();
        let key = Key::new("fleeting", &name);
        let lease = ClaimOptions::new().lease(Duration::from_millis(1 + self.rng.below(3)));
        match store
            .claim_with(key, Fingerprint::NONE, lease)
            .expect("there is room")
        {
            Claim::Acquired(guard) => self.end_fleeting(id, guard),
            Claim::Completed(outcome) => assert_eq!(&*outcome, body(id, outcome.generation())),
            Claim::InFlight(other) => {
                let until = Duration::from_millis(self.rng.below(4));
                drop(other.wait(until).expect("it is open"));
            }
            Claim::Interrupted(left) => match self.rng.below(3) {
                0 => drop(left),
                1 => drop(left.release()),
                _ => {
                    if let Ok(Claim::Acquired(guard)) = left.resume() {
                        self.end_fleeting(id, guard);
                    }
                }
            },
            Claim::Mismatch(other) => panic!("fleeting {id}: {other:?}"),
        }
        let read = |stored: Stored<'_>| is_body(id, stored);
        assert_ne!(
            store.peek(key, read).expect("it is open"),
            Some(false),
            "fleeting {id}"
        );
    }

    fn end_fleeting(&mut self, id: u64, guard: ClaimGuard<'_>) {
        let outcome = body(id, guard.generation());
        let ttl = Duration::from_micros(300 * (1 + self.rng.below(10)));
        match self.rng.below(5) {
            0 => drop(guard),
            1 => {
                let key = guard.key().to_owned();
                self.round.store.forget(key.as_key()).expect("it is open");
                assert!(matches!(guard.complete(&outcome), Err(Error::LeaseLost { .. })));
            }
            _ => match guard.complete_with(&outcome, CompleteOptions::new().ttl(ttl)) {
                Ok(()) | Err(Error::LeaseLost { .. }) => {}
                Err(error) => panic!("fleeting {id}: {error}"),
            },
        }
    }

    /// Keys of our own, most of which expire soon: the index grows, segments fill and die.
    fn grow(&mut self) {
        for _ in 0..4 {
            let id = self.number << 48 | self.new;
            self.new += 1;
            let name = id.to_le_bytes();
            let key = Key::new("new", &name);
            let claim = self.round.store.claim(key, Fingerprint::NONE);
            match claim {
                Ok(Claim::Acquired(guard)) => {
                    let ttl = Duration::from_millis(1 + self.rng.below(200));
                    let options = CompleteOptions::new().ttl(ttl);
                    guard
                        .complete_with(&body(id, guard.generation()), options)
                        .expect("it is held");
                }
                // Of our own keys no other comes back.
                Ok(other) => panic!("new {id}: {other:?}"),
                Err(Error::AtCapacity { .. }) => {}
                Err(error) => panic!("new {id}: {error}"),
            }
        }
    }

    fn look_around(&mut self) {
        let store = &self.round.store;
        let stats = store.stats();
        let counted = [
            stats.keys_live,
            stats.keys_in_flight,
            stats.waiters,
            stats.bytes_used,
        ];
        // None goes below zero and comes round.
        assert!(counted.iter().all(|n| *n < 1 << 40), "{stats:?}");
        let id = self.rng.below(KEPT).to_le_bytes();
        store.status(Key::new("kept", &id)).expect("it is open");
        if self.rng.below(32) == 0 {
            let scan = store.scan(ScanFilter::new().scope("kept")).expect("it is open");
            assert!(scan.take(100).all(|found| found.is_ok()));
        }
    }

    fn maintain(&mut self) {
        self.round
            .store
            .maintain(Duration::from_micros(200))
            .expect("it is open");
    }
}
