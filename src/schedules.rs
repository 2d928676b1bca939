//! Whole stores under a model checker: each scenario runs again and again, every time with the
//! threads' steps in another order.
//!
//! Shuttle draws the orders at random, half of the runs with few switches in unlucky places (PCT,
//! Burckhardt et al., ASPLOS 2010); it takes all memory to be sequentially consistent. Loom goes
//! through all orders within a bound and knows weak memory, but is for small things: its scenarios
//! stand beside the code they are of.
//!
//! ```text
//! RUSTFLAGS="--cfg onceonly_shuttle" cargo test --release --lib schedules
//! ```
//!
//! `ONCEONLY_SCHEDULES` is the number of runs of each scenario. A failure prints a schedule, and
//! `ONCEONLY_REPLAY` set to it runs just that.

use crate::sim::disk::{Cut, SimDisk};
use crate::*;
use shuttle::thread;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const FP: Fingerprint = Fingerprint::NONE;
const TTL: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_millis(500);
const DIR: &str = "store";

fn explore(scenario: fn()) {
    if let Ok(schedule) = std::env::var("ONCEONLY_REPLAY") {
        return shuttle::replay(scenario, &schedule);
    }
    let runs = std::env::var("ONCEONLY_SCHEDULES").map_or(20_000, |n| n.parse().expect("a number"));
    // Steps of one run; more mean that threads wait for each other for ever.
    let mut config = shuttle::Config::new();
    config.max_steps = shuttle::MaxSteps::FailAfter(200_000);
    config.stack_size = 1 << 20;
    let random = shuttle::scheduler::RandomScheduler::new(runs / 2);
    shuttle::Runner::new(random, config.clone()).run(scenario);
    let unlucky = shuttle::scheduler::PctScheduler::new(3, runs - runs / 2);
    shuttle::Runner::new(unlucky, config).run(scenario);
    eprintln!("{runs} schedules");
}

fn options(clock: &ManualClock) -> Builder {
    Store::builder()
        .clock(clock.clone())
        .helper_thread(false)
        .shards(1)
        .max_keys(64)
        .max_in_flight(8)
        .max_bytes(4 << 20)
        .max_outcome(1 << 10)
        .segment_bytes(1 << 16)
        .ttl(TTL)
        .lease(LEASE)
}

fn store() -> (Store, ManualClock) {
    let clock = ManualClock::new();
    (options(&clock).in_memory().unwrap(), clock)
}

fn on_disk(disk: &SimDisk, clock: &ManualClock) -> Store {
    options(clock).disk(disk.clone()).open(DIR).unwrap()
}

fn claim<'s>(store: &'s Store, id: &str) -> Claim<'s> {
    store.claim(Key::unscoped(id), FP).unwrap()
}

fn acquire(store: &Store, id: &str) -> ClaimGuard<'static> {
    match claim(store, id) {
        Claim::Acquired(guard) => guard.into_owned(),
        other => panic!("{id} should be absent: {other:?}"),
    }
}

fn outcome_of(store: &Store, id: &str) -> Vec<u8> {
    match claim(store, id) {
        Claim::Completed(outcome) => outcome.into_vec(),
        other => panic!("{id} should be completed: {other:?}"),
    }
}

/// Runs each on a thread of its own, to its end.
fn together(work: impl IntoIterator<Item = Box<dyn FnOnce() + Send>>) {
    let threads: Vec<_> = work.into_iter().map(thread::spawn).collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

fn boxed(work: impl FnOnce() + Send + 'static) -> Box<dyn FnOnce() + Send> {
    Box::new(work)
}

/// Claims until there is an outcome; completes with its own bytes if it may.
fn work_or_wait(store: &Store, id: &str, mine: &[u8]) -> (Vec<u8>, bool) {
    match store.claim_wait(Key::unscoped(id), FP, Deadline::NEVER).unwrap() {
        Claim::Acquired(guard) => {
            guard.complete(mine).unwrap();
            (mine.to_vec(), true)
        }
        Claim::Completed(outcome) => (outcome.into_vec(), false),
        other => panic!("nobody left it: {other:?}"),
    }
}

fn claim_race(store: Store) {
    let wins = Arc::new(AtomicU64::new(0));
    let seen = Arc::new(Mutex::new(Vec::new()));
    together((0..3_u8).map(|me| {
        let (store, wins, seen) = (store.clone(), wins.clone(), seen.clone());
        boxed(move || {
            let (outcome, won) = work_or_wait(&store, "k", &[me]);
            wins.fetch_add(u64::from(won), Ordering::Relaxed);
            seen.lock().unwrap().push(outcome);
        })
    }));
    assert_eq!(wins.load(Ordering::Relaxed), 1);
    let outcome = outcome_of(&store, "k");
    assert!(seen.lock().unwrap().iter().all(|seen| *seen == outcome));
}

#[test]
fn of_racing_claims_one_wins_and_all_get_its_outcome() {
    explore(|| claim_race(store().0));
}

#[test]
fn of_racing_claims_on_a_log_one_wins_and_all_get_its_outcome() {
    explore(|| claim_race(on_disk(&SimDisk::new(1), &ManualClock::new())));
}

/// The holder releases, and later whoever got the claim by waiting does; each time one of those
/// who wait acquires, until the last one completes.
#[test]
fn a_released_claim_is_handed_from_waiter_to_waiter() {
    explore(|| {
        let (store, _clock) = store();
        let first = acquire(&store, "k");
        let acquired = Arc::new(AtomicU64::new(0));
        let waiters = (0..3_u64).map(|_| {
            let (store, acquired) = (store.clone(), acquired.clone());
            boxed(move || {
                let key = Key::unscoped("k");
                match store.claim_wait(key, FP, Deadline::NEVER).unwrap() {
                    Claim::Acquired(guard) if acquired.fetch_add(1, Ordering::Relaxed) < 2 => {
                        guard.release().unwrap();
                    }
                    Claim::Acquired(guard) => guard.complete(b"done").unwrap(),
                    other => panic!("nobody completes before all have had it: {other:?}"),
                }
            })
        });
        let releasing = boxed(move || first.release().unwrap());
        together(waiters.chain([releasing]));
        assert_eq!(outcome_of(&store, "k"), b"done");
        assert_eq!(store.stats().waiters, 0);
    });
}

/// The lease ends while the holder completes and others take the claim over.
#[test]
fn a_late_completion_and_a_takeover_leave_one_outcome() {
    explore(|| {
        let (store, clock) = store();
        let holder = acquire(&store, "k");
        let completed = Arc::new(Mutex::new(Vec::new()));
        let late = {
            let completed = completed.clone();
            boxed(move || match holder.complete(b"late") {
                Ok(()) => completed.lock().unwrap().push(b"late".to_vec()),
                Err(error) => assert!(matches!(error, Error::LeaseLost { .. }), "{error}"),
            })
        };
        let taking = (0..2_u8).map(|me| {
            let (store, completed) = (store.clone(), completed.clone());
            boxed(move || {
                let mut answer = store.claim_wait(Key::unscoped("k"), FP, Deadline::NEVER).unwrap();
                loop {
                    answer = match answer {
                        Claim::Interrupted(left) => left.resume().unwrap(),
                        Claim::InFlight(other) => other.wait(Deadline::NEVER).unwrap(),
                        Claim::Acquired(guard) => {
                            guard.complete(&[me]).unwrap();
                            completed.lock().unwrap().push(vec![me]);
                            return;
                        }
                        Claim::Completed(_) => return,
                        Claim::Mismatch(_) => panic!("there is one fingerprint"),
                    };
                }
            })
        });
        let passing = boxed(move || clock.advance(LEASE));
        together(taking.chain([late, passing]));
        let completed = completed.lock().unwrap();
        assert_eq!(completed.len(), 1, "{completed:?}");
        assert_eq!(outcome_of(&store, "k"), completed[0]);
    });
}

/// The index grows and is swept, segments die and come back, while others read.
#[test]
fn what_is_completed_is_found_through_growth_and_expiry() {
    explore(|| {
        let (store, clock) = store();
        acquire(&store, "kept").complete(b"kept").unwrap();
        let growing = {
            let store = store.clone();
            boxed(move || {
                for id in 0..14_u64 {
                    let short = Duration::from_millis(20);
                    store
                        .first_seen_for(Key::new("short", &id.to_le_bytes()), short)
                        .unwrap();
                }
            })
        };
        let passing = {
            let store = store.clone();
            boxed(move || {
                for _ in 0..3 {
                    clock.advance(Duration::from_millis(30));
                    store.maintain(Duration::from_secs(1)).unwrap();
                }
            })
        };
        let reading = {
            let store = store.clone();
            boxed(move || {
                for _ in 0..3 {
                    let kept = store.replay(Key::unscoped("kept"), FP, |s| s.bytes() == b"kept");
                    assert_eq!(kept.unwrap(), Replay::Hit(true));
                    // One that may just be dying is there with nothing, or absent.
                    let dying =
                        store.replay(Key::new("short", &0_u64.to_le_bytes()), FP, |s| s.bytes().len());
                    assert!(matches!(dying, Ok(Replay::Hit(0) | Replay::Miss)), "{dying:?}");
                }
            })
        };
        together([growing, passing, reading]);
    });
}

/// Every caller's claim and outcome is durable when it is told so, however they shared the syncs.
#[test]
fn what_a_group_commit_acknowledged_survives_a_power_cut() {
    explore(|| {
        let (disk, clock) = (SimDisk::new(1), ManualClock::new());
        let store = on_disk(&disk, &clock);
        together((0..3_u8).map(|me| {
            let (store, disk, clock) = (store.clone(), disk.clone(), clock.clone());
            boxed(move || {
                let id = me.to_string();
                let guard = acquire(&store, &id);
                match me {
                    0 => guard.submit(&[me], CompleteOptions::new()).wait().unwrap(),
                    _ => guard.complete(&[me]).unwrap(),
                }
                let left = on_disk(&disk.copy().cut(Cut::LoseAll), &clock);
                assert_eq!(outcome_of(&left, &id), [me]);
            })
        }));
    });
}

/// Who is told of an outcome is told of one that lasts, also by a sync of somebody else.
#[test]
fn nobody_sees_an_outcome_that_a_power_cut_can_take() {
    explore(|| {
        let (disk, clock) = (SimDisk::new(1), ManualClock::new());
        let store = on_disk(&disk, &clock);
        let holder = acquire(&store, "k");
        let completing = boxed(move || holder.complete(b"done").unwrap());
        let looking = (0..2).map(|_| {
            let (store, disk, clock) = (store.clone(), disk.clone(), clock.clone());
            boxed(move || match claim(&store, "k") {
                Claim::Completed(seen) => {
                    let left = on_disk(&disk.copy().cut(Cut::LoseAll), &clock);
                    assert_eq!(outcome_of(&left, "k"), seen.into_vec());
                }
                Claim::InFlight(_) => {}
                other => panic!("{other:?}"),
            })
        });
        together(looking.chain([completing]));
    });
}

/// Batches over the same keys in opposite orders.
#[test]
fn batches_that_cross_do_not_wait_for_each_other() {
    explore(|| {
        let store = on_disk(&SimDisk::new(1), &ManualClock::new());
        let won = Arc::new(AtomicU64::new(0));
        together([["a", "b", "c"], ["c", "b", "a"]].map(|ids| {
            let (store, won) = (store.clone(), won.clone());
            boxed(move || {
                let keys = ids.map(|id| (Key::unscoped(id), FP));
                let mut answers = Vec::new();
                store.claim_many(&keys, &mut answers).unwrap();
                let guards: Vec<_> = answers
                    .into_iter()
                    .filter_map(|answer| match answer.unwrap() {
                        Claim::Acquired(guard) => Some(guard),
                        _ => None,
                    })
                    .collect();
                won.fetch_add(guards.len() as u64, Ordering::Relaxed);
                let mut done = Vec::new();
                let all = guards
                    .iter()
                    .map(|guard| (guard, b"done", CompleteOptions::new()));
                store.complete_many(all, &mut done).unwrap();
                assert!(done.iter().all(Result::is_ok));
            })
        }));
        assert_eq!(won.load(Ordering::Relaxed), 3);
    });
}

/// A store is closed under its callers: each call is done wholly or says so, nobody waits for ever,
/// and the next open finds what was acknowledged.
///
/// Once a waiter whose look had begun before the close took the close's nudge with that look, and
/// slept on until the lease ended.
#[test]
fn closing_ends_every_wait_and_keeps_what_was_acknowledged() {
    explore(|| {
        let (disk, clock) = (SimDisk::new(1), ManualClock::new());
        let store = on_disk(&disk, &clock);
        let holder = acquire(&store, "held");
        let done = Arc::new(AtomicU64::new(0));
        let waiting = {
            let store = store.clone();
            boxed(
                move || match store.claim_wait(Key::unscoped("held"), FP, Deadline::NEVER) {
                    Ok(Claim::Completed(_)) | Err(Error::Closed) => {}
                    other => panic!("{other:?}"),
                },
            )
        };
        let completing = {
            let done = done.clone();
            boxed(move || match holder.complete(b"done") {
                Ok(()) => done.store(1, Ordering::Relaxed),
                Err(error) => assert!(matches!(error, Error::Closed), "{error}"),
            })
        };
        let closing = boxed(move || store.close().unwrap());
        together([waiting, completing, closing]);
        let store = on_disk(&disk.copy().cut(Cut::LoseAll), &clock);
        match claim(&store, "held") {
            Claim::Completed(outcome) => assert_eq!(&*outcome, b"done"),
            Claim::Interrupted(_) => assert_eq!(done.load(Ordering::Relaxed), 0),
            other => panic!("{other:?}"),
        }
    });
}
