//! Those who wait: threads by a deadline, futures without a runtime.

use crate::support::*;
use onceonly::*;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

/// Counts its wake-ups.
#[derive(Default)]
struct Counter(AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Counter {
    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// A watch and the counter its waker feeds, polled once.
fn watch(store: &Store) -> (Watch, Arc<Counter>) {
    let Claim::InFlight(other) = claim(store, key()) else {
        panic!("the key is in flight")
    };
    let counter = Arc::new(Counter::default());
    let mut watch = other.watch();
    assert!(poll(&mut watch, &counter).is_pending());
    (watch, counter)
}

fn poll(watch: &mut Watch, counter: &Arc<Counter>) -> Poll<Result<Claim<'static>>> {
    let waker = Waker::from(counter.clone());
    Pin::new(watch).poll(&mut Context::from_waker(&waker))
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..10_000_000 {
        if done() {
            return;
        }
        thread::yield_now();
    }
    panic!("never happened: {what}");
}

#[test]
fn all_who_wait_share_the_outcome() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    let (mut future, counter) = watch(&store);
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    store
                        .claim_wait(key(), Fingerprint::NONE, Deadline::NEVER)
                        .unwrap()
                })
            })
            .collect();
        until("four threads and a future wait", || store.stats().waiters == 5);
        guard.complete(b"shared").unwrap();
        for waiter in waiting {
            let Claim::Completed(outcome) = waiter.join().unwrap() else {
                panic!()
            };
            assert_eq!(&*outcome, b"shared");
        }
    });
    assert_eq!(counter.count(), 1);
    assert!(matches!(poll(&mut future, &counter), Poll::Ready(Ok(Claim::Completed(o))) if &*o == b"shared"));
    assert_eq!(store.stats().waiters, 0);
}

#[test]
fn after_a_release_exactly_one_acquires() {
    let (store, _) = store();
    let mut holder = acquire(&store, key()).into_owned();
    let acquired = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                match store
                    .claim_wait(key(), Fingerprint::NONE, Deadline::NEVER)
                    .unwrap()
                {
                    Claim::Acquired(guard) => {
                        acquired.fetch_add(1, Ordering::SeqCst);
                        until("the others wait on", || {
                            store.stats().waiters + acquired.load(Ordering::SeqCst) as u64 == 4
                        });
                        guard.release().unwrap();
                    }
                    other => panic!("{other:?}"),
                }
            });
        }
        until("all wait", || store.stats().waiters == 4);
        holder.release().unwrap();
        holder = acquire_when_free(&store);
    });
    assert_eq!(acquired.load(Ordering::SeqCst), 4, "each in turn");
    holder.complete(b"").unwrap();

    fn acquire_when_free(store: &Store) -> ClaimGuard<'static> {
        loop {
            if store.stats().waiters == 0
                && let Claim::Acquired(guard) = claim(store, key())
            {
                return guard.into_owned();
            }
            thread::yield_now();
        }
    }
}

#[test]
fn on_interruption_one_is_asked_and_the_question_passes_on() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    let (mut first, first_woken) = watch(&store);
    let (mut second, second_woken) = watch(&store);
    drop(guard);
    assert_eq!((first_woken.count(), second_woken.count()), (1, 0), "one is told");
    let Poll::Ready(Ok(Claim::Interrupted(left))) = poll(&mut first, &first_woken) else {
        panic!()
    };
    assert!(
        poll(&mut second, &second_woken).is_pending(),
        "the others wait on"
    );
    drop(left);
    assert_eq!(second_woken.count(), 1, "dropped undecided");
    let Poll::Ready(Ok(Claim::Interrupted(left))) = poll(&mut second, &second_woken) else {
        panic!()
    };
    assert!(matches!(left.resume().unwrap(), Claim::Acquired(_)));
}

#[test]
fn a_question_answered_serves_those_who_wait_on() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    let (mut first, woken) = watch(&store);
    let (mut second, second_woken) = watch(&store);
    drop(guard);
    let Poll::Ready(Ok(Claim::Interrupted(left))) = poll(&mut first, &woken) else {
        panic!()
    };
    let _ = left.resolve(b"it happened", CompleteOptions::new()).unwrap();
    assert!(
        matches!(poll(&mut second, &second_woken), Poll::Ready(Ok(Claim::Completed(o))) if &*o == b"it happened")
    );
}

#[test]
fn the_baton_passes_when_a_woken_future_is_dropped() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    let (first, first_woken) = watch(&store);
    let (mut second, second_woken) = watch(&store);
    guard.release().unwrap();
    assert_eq!((first_woken.count(), second_woken.count()), (1, 0));
    drop(first);
    assert_eq!(second_woken.count(), 1);
    assert!(matches!(
        poll(&mut second, &second_woken),
        Poll::Ready(Ok(Claim::Acquired(_)))
    ));
}

#[test]
fn a_woken_future_that_is_not_polled_holds_no_right() {
    let (store, clock) = store();
    let guard = acquire(&store, key());
    let (mut first, first_woken) = watch(&store);
    let (mut second, second_woken) = watch(&store);
    guard.release().unwrap();
    // A newcomer may have the key.
    let newcomer = acquire(&store, key());
    newcomer.release().unwrap();
    // The first is still asleep at the wheel: the next in line was told.
    assert_eq!((first_woken.count(), second_woken.count()), (1, 1));
    let (mut third, third_woken) = {
        let holder = acquire(&store, key());
        let third = watch(&store);
        assert!(poll(&mut second, &second_woken).is_pending());
        holder.release().unwrap();
        third
    };
    // Nobody looks; a tick later somebody else is told.
    clock.advance(Duration::from_millis(50));
    store.maintain(Duration::from_secs(1)).unwrap();
    assert!(second_woken.count() + third_woken.count() >= 3);
    assert!(matches!(
        poll(&mut third, &third_woken),
        Poll::Ready(Ok(Claim::Acquired(_)))
    ));
    assert!(
        poll(&mut first, &first_woken).is_ready(),
        "dropped guard above: interrupted"
    );
}

#[test]
fn the_end_of_a_lease_wakes_a_future_through_maintain() {
    let (store, clock) = store();
    let _guard = acquire(&store, key());
    let (mut future, woken) = watch(&store);
    clock.advance(LEASE - Duration::from_secs(1));
    store.maintain(Duration::from_secs(1)).unwrap();
    assert!(poll(&mut future, &woken).is_pending());
    let before = woken.count();
    clock.advance(Duration::from_secs(1) + TICKS);
    store.maintain(Duration::from_secs(1)).unwrap();
    assert!(woken.count() > before);
    assert!(
        matches!(poll(&mut future, &woken), Poll::Ready(Ok(Claim::Interrupted(l))) if l.cause() == Cause::Lapsed)
    );
}

#[test]
fn the_helper_thread_wakes_a_future_at_the_end_of_a_lease() {
    let store = Store::builder()
        .lease(Duration::from_millis(30))
        .in_memory()
        .unwrap();
    let _guard = acquire(&store, key());
    let (mut future, woken) = watch(&store);
    until("the helper wakes it", || woken.count() > 0);
    until("it is told", || {
        matches!(poll(&mut future, &woken), Poll::Ready(Ok(Claim::Interrupted(_))))
    });
}

#[test]
fn a_thread_times_itself_without_a_helper() {
    let store = Store::builder()
        .lease(Duration::from_millis(20))
        .helper_thread(false)
        .in_memory()
        .unwrap();
    let _guard = acquire(&store, key());
    let told = store
        .claim_wait(key(), Fingerprint::NONE, Deadline::NEVER)
        .unwrap();
    assert!(matches!(told, Claim::Interrupted(left) if left.cause() == Cause::Lapsed));
}

#[test]
fn waiting_ends_at_the_deadline_and_disturbs_nobody() {
    let (store, clock) = store();
    let guard = acquire(&store, key());
    assert!(matches!(
        store.claim_wait(key(), Fingerprint::NONE, Deadline::NOW).unwrap(),
        Claim::InFlight(_)
    ));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            store
                .claim_wait(key(), Fingerprint::NONE, Duration::from_secs(5))
                .unwrap()
        });
        until("it waits", || store.stats().waiters == 1);
        clock.advance(Duration::from_secs(5) + TICKS);
        assert!(matches!(waiter.join().unwrap(), Claim::InFlight(_)));
    });
    assert_eq!(store.stats().waiters, 0);
    guard.complete(b"x").unwrap();
}

#[test]
fn a_jump_of_the_clock_ends_the_wait_for_a_lease() {
    let (store, clock) = store();
    let _guard = acquire(&store, key());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            store
                .claim_wait(key(), Fingerprint::NONE, Deadline::NEVER)
                .unwrap()
        });
        until("it waits", || store.stats().waiters == 1);
        clock.advance(LEASE + TICKS);
        assert!(matches!(waiter.join().unwrap(), Claim::Interrupted(_)));
    });
}

#[test]
fn waiters_beyond_the_limit_are_told_at_once() {
    let clock = ManualClock::new();
    let store = Store::builder()
        .clock(clock)
        .max_waiters(2)
        .helper_thread(false)
        .in_memory()
        .unwrap();
    let _guard = acquire(&store, key());
    let _waiting = (watch(&store), watch(&store));
    let told = store
        .claim_wait(key(), Fingerprint::NONE, Deadline::NEVER)
        .unwrap();
    assert!(matches!(told, Claim::InFlight(_)));
    let Claim::InFlight(other) = claim(&store, key()) else {
        panic!()
    };
    let mut third = other.watch();
    let counter = Arc::new(Counter::default());
    assert!(matches!(
        poll(&mut third, &counter),
        Poll::Ready(Ok(Claim::InFlight(_)))
    ));
}

#[test]
fn a_newcomer_with_another_request_is_a_mismatch_for_those_who_wait() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    let (mut first, first_woken) = watch(&store);
    guard.release().unwrap();
    let other = Fingerprint::from_bytes([5; 16]);
    let Claim::Acquired(newcomer) = store.claim(key(), other).unwrap() else {
        panic!()
    };
    assert!(matches!(
        poll(&mut first, &first_woken),
        Poll::Ready(Ok(Claim::Mismatch(_)))
    ));
    newcomer.complete(b"").unwrap();
}

#[test]
fn forgetting_a_claim_lets_one_waiter_acquire() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    let (mut first, woken) = watch(&store);
    store.forget(key()).unwrap();
    assert_eq!(woken.count(), 1);
    assert!(matches!(
        poll(&mut first, &woken),
        Poll::Ready(Ok(Claim::Acquired(_)))
    ));
    drop(guard);
}

#[test]
fn closing_ends_every_wait() {
    let (store, _) = store();
    let _guard = acquire(&store, key()).into_owned();
    let (mut future, woken) = watch(&store);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            store
                .claim_wait(key(), Fingerprint::NONE, Deadline::NEVER)
                .map(|_| ())
        });
        until("both wait", || store.stats().waiters == 2);
        store.clone().close().unwrap();
        assert!(matches!(waiter.join().unwrap(), Err(Error::Closed)));
    });
    assert!(matches!(
        poll(&mut future, &woken),
        Poll::Ready(Err(Error::Closed))
    ));
}

#[test]
fn a_watch_turns_back_into_the_claim_it_watches() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    let (future, woken) = watch(&store);
    let other = future.into_in_flight();
    assert_eq!(other.generation(), guard.generation());
    assert_eq!(store.stats().waiters, 0);
    guard.complete(b"x").unwrap();
    assert_eq!(woken.count(), 0);
    assert!(matches!(other.wait(Deadline::NOW).unwrap(), Claim::Completed(_)));
}

#[test]
fn racing_first_seen_calls_agree_on_one() {
    let store = Store::in_memory().unwrap();
    for round in 0..2_000 {
        let id = format!("{round}");
        let firsts: usize = thread::scope(|scope| {
            let racers: Vec<_> = (0..2)
                .map(|_| scope.spawn(|| usize::from(store.first_seen(Key::new("race", &id)).unwrap())))
                .collect();
            racers.into_iter().map(|r| r.join().unwrap()).sum()
        });
        assert_eq!(firsts, 1);
    }
}

/// Those who waited while another was asked slept until the claim would be forgotten, and did
/// not notice that it had been resumed for a lease.
#[test]
fn who_waits_is_timed_by_the_lease_in_force() {
    let (store, clock) = store();
    let guard = acquire(&store, key());
    let (mut first, woken) = watch(&store);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            store
                .claim_wait(key(), Fingerprint::NONE, Deadline::NEVER)
                .map(|claim| matches!(claim, Claim::Interrupted(_)))
        });
        until("both wait", || store.stats().waiters == 2);
        drop(guard);
        let question = match poll(&mut first, &woken) {
            Poll::Ready(Ok(Claim::Interrupted(left))) => left,
            // The thread was quicker to look; then it is asked, and this test has no case.
            _ => return assert!(waiter.join().unwrap().unwrap()),
        };
        let Claim::Acquired(second) = question.resume().unwrap() else {
            panic!()
        };
        second.renew(Duration::from_secs(1)).unwrap();
        clock.advance(Duration::from_secs(1) + TICKS);
        assert!(waiter.join().unwrap().unwrap());
    });
}

/// Sixteen keys whose only waiter had been woken and did not look kept the seventeenth from
/// its second try.
#[test]
fn sleepers_of_other_keys_hold_nobody_up() {
    let clock = ManualClock::new();
    let builder = Store::builder().clock(clock.clone()).helper_thread(false);
    let store = builder.shards(1).in_memory().unwrap();
    let ids: Vec<String> = (0..40).map(|i| format!("key-{i}")).collect();
    let counter = Arc::new(Counter::default());
    let mut watches = Vec::new();
    let guards: Vec<_> = ids.iter().map(|id| acquire(&store, Key::unscoped(id))).collect();
    for (i, id) in ids.iter().enumerate() {
        for nth in 0..if i == 39 { 2 } else { 1 } {
            let Claim::InFlight(other) = claim(&store, Key::unscoped(id)) else {
                panic!()
            };
            let mut watch = other.watch();
            let waker = if nth == 1 {
                Waker::from(counter.clone())
            } else {
                Waker::noop().clone()
            };
            assert!(
                Pin::new(&mut watch)
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
            watches.push(watch);
        }
    }
    for guard in guards {
        guard.release().unwrap();
    }
    for _ in 0..10 {
        clock.advance(Duration::from_millis(20));
        store.maintain(Duration::from_secs(1)).unwrap();
    }
    assert!(counter.count() > 0);
}

/// A waker was replaced under the waiter's lock, and its drop is the caller's code: here it
/// ends a claim that the same waiter waits for.
#[test]
fn a_waker_may_do_anything_when_it_is_dropped() {
    struct Holds(#[expect(dead_code, reason = "its drop is what matters")] ClaimGuard<'static>);
    impl Wake for Holds {
        fn wake(self: Arc<Self>) {}
    }
    let (store, _) = store();
    let guard = acquire(&store, key()).into_owned();
    let Claim::InFlight(other) = claim(&store, key()) else {
        panic!()
    };
    let mut watch = other.watch();
    let waker = Waker::from(Arc::new(Holds(guard)));
    assert!(
        Pin::new(&mut watch)
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    drop(waker);
    let counter = Arc::new(Counter::default());
    let polled = poll(&mut watch, &counter);
    assert!(polled.is_pending() || polled.is_ready());
    assert!(matches!(store.status(key()).unwrap(), Status::Interrupted { .. }));
}

/// A refused claim searched for room with a lock held while it woke waiters; a waker that runs
/// its task at once met the same lock.
#[test]
fn a_waker_may_call_the_store() {
    struct Inline(Store, AtomicUsize);
    impl Wake for Inline {
        fn wake(self: Arc<Self>) {
            self.1.fetch_add(1, Ordering::SeqCst);
            let _ = self.0.first_seen(Key::unscoped("by the waker"));
        }
    }
    let clock = ManualClock::new();
    let builder = Store::builder()
        .clock(clock.clone())
        .helper_thread(false)
        .lease(LEASE);
    let store = builder.max_keys(2).in_memory().unwrap();
    let _guard = acquire(&store, key());
    store.first_seen(Key::unscoped("other")).unwrap();
    let Claim::InFlight(other) = claim(&store, key()) else {
        panic!()
    };
    let mut watch = other.watch();
    let inline = Arc::new(Inline(store.clone(), AtomicUsize::new(0)));
    let waker = Waker::from(inline.clone());
    assert!(
        Pin::new(&mut watch)
            .poll(&mut Context::from_waker(&waker))
            .is_pending()
    );
    clock.advance(LEASE + TICKS);
    assert!(matches!(
        store.first_seen(Key::unscoped("new")),
        Err(Error::AtCapacity { .. })
    ));
    assert!(inline.1.load(Ordering::SeqCst) > 0);
}
