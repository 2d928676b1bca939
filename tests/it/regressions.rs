//! Bugs that were found, each as the shortest story that shows it.

use onceonly::{Claim, ClaimOptions, Error, Fingerprint, Key, ManualClock, Status, Store};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const ANY: Fingerprint = Fingerprint::NONE;

/// A key that expired kept its room when it lay in another shard than the new key, so a store
/// with one live key of two said `AtCapacity`. Which keys share a shard is drawn by lot for
/// each store.
#[test]
fn an_expired_key_makes_room_wherever_it_lies() -> onceonly::Result<()> {
    for round in 0..200 {
        let clock = ManualClock::new();
        let ms = Duration::from_millis;
        let store = Store::builder()
            .clock(clock.clone())
            .ttl(ms(3))
            .max_keys(2)
            .shards(4)
            .helper_thread(false)
            .in_memory()?;
        let lease = |lease| ClaimOptions::new().lease(lease);
        let day = Duration::from_secs(86_400);
        let _short = store.claim_with(Key::unscoped("short"), ANY, lease(ms(1)))?;
        let _long = store.claim_with(Key::unscoped("long"), ANY, lease(day))?;
        clock.advance(ms(20));
        let new = store.claim(Key::unscoped("new"), ANY);
        assert!(matches!(new, Ok(Claim::Acquired(_))), "round {round}: {new:?}");
    }
    Ok(())
}

/// A claim resumed while `max_in_flight` was reached was not counted, so that later one more
/// was given out than the limit allows.
#[test]
fn a_claim_resumed_beyond_the_limit_is_counted() -> onceonly::Result<()> {
    let store = Store::builder()
        .max_in_flight(1)
        .helper_thread(false)
        .in_memory()?;
    let [a, b, c] = [Key::unscoped("a"), Key::unscoped("b"), Key::unscoped("c")];
    drop(store.claim(a, ANY)?);
    let _b = store.claim(b, ANY)?;
    let Claim::Interrupted(left) = store.claim(a, ANY)? else {
        panic!("its guard was dropped")
    };
    let _a = left.resume()?;
    assert!(store.forget(b)?);
    let third = store.claim(c, ANY);
    assert!(
        matches!(third, Err(Error::AtCapacity { .. })),
        "a is held: {third:?}"
    );
    Ok(())
}

/// A claim resumed while `max_in_flight` was reached gave back room it had not taken when its
/// guard was dropped.
#[test]
fn a_claim_resumed_beyond_the_limit_gives_back_only_its_own_room() -> onceonly::Result<()> {
    let store = Store::builder()
        .max_in_flight(1)
        .helper_thread(false)
        .in_memory()?;
    let [a, b, c] = [Key::unscoped("a"), Key::unscoped("b"), Key::unscoped("c")];
    drop(store.claim(a, ANY)?);
    let _b = store.claim(b, ANY)?;
    let Claim::Interrupted(left) = store.claim(a, ANY)? else {
        panic!("its guard was dropped")
    };
    drop(left.resume()?);
    let third = store.claim(c, ANY);
    assert!(
        matches!(third, Err(Error::AtCapacity { .. })),
        "b is held: {third:?}"
    );
    Ok(())
}

/// `first_seen` holds no claim, and was refused while `max_in_flight` was reached.
#[test]
fn first_seen_needs_no_room_for_a_claim() -> onceonly::Result<()> {
    let store = Store::builder()
        .max_in_flight(1)
        .helper_thread(false)
        .in_memory()?;
    let _held = store.claim(Key::unscoped("a"), ANY)?;
    assert!(store.first_seen(Key::unscoped("b"))?);
    Ok(())
}

/// A claim whose lease had ended went on taking up room in `max_in_flight` when it lay in
/// another shard than the new key.
#[test]
fn a_lapsed_claim_takes_up_no_room_wherever_it_lies() -> onceonly::Result<()> {
    for round in 0..200 {
        let clock = ManualClock::new();
        let store = Store::builder()
            .clock(clock.clone())
            .max_in_flight(2)
            .shards(4)
            .helper_thread(false)
            .in_memory()?;
        let lease = |seconds| ClaimOptions::new().lease(Duration::from_secs(seconds));
        let _long = store.claim_with(Key::unscoped("long"), ANY, lease(3_600))?;
        let _short = store.claim_with(Key::unscoped("short"), ANY, lease(1))?;
        clock.advance(Duration::from_secs(20));
        let new = store.claim(Key::unscoped("new"), ANY);
        assert!(matches!(new, Ok(Claim::Acquired(_))), "round {round}: {new:?}");
    }
    Ok(())
}

/// Where two limits were reached at once, only one of them was looked after: an expired claim
/// in another shard went on taking up room.
#[test]
fn an_expired_claim_makes_room_in_every_limit() -> onceonly::Result<()> {
    for round in 0..200 {
        let clock = ManualClock::new();
        let ms = Duration::from_millis;
        let builder = Store::builder()
            .clock(clock.clone())
            .ttl(ms(50))
            .lease(ms(10))
            .shards(4)
            .helper_thread(false);
        let store = builder.max_keys(2).max_in_flight(2).in_memory()?;
        let _a = store.claim(Key::unscoped("a"), ANY)?;
        let _b = store.claim(Key::unscoped("b"), ANY)?;
        clock.advance(ms(200));
        let new = store.claim(Key::unscoped("new"), ANY);
        assert!(matches!(new, Ok(Claim::Acquired(_))), "round {round}: {new:?}");
    }
    Ok(())
}

/// Calls `first_seen` while another thread does its worst to the key, and gives what each
/// refusal said.
fn refusals_of_first_seen(worst: impl Fn(&Store, Key<'_>) + Sync) -> onceonly::Result<Vec<Error>> {
    let store = Store::in_memory()?;
    let key = Key::unscoped("contested");
    let over = AtomicBool::new(false);
    let mut refusals = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                worst(&store, key);
            }
        });
        for _ in 0..200_000 {
            refusals.extend(store.first_seen(key).err());
        }
        over.store(true, Ordering::Relaxed);
    });
    Ok(refusals)
}

/// `first_seen` saw a claim, let go of the lock, and looked again to say what the claim was
/// like: by then the key could be absent, and the error contradicted itself.
#[test]
fn in_use_tells_of_the_claim_that_was_in_the_way() -> onceonly::Result<()> {
    let worst = |store: &Store, key: Key<'_>| {
        if let Ok(Claim::Acquired(guard)) = store.claim(key, ANY) {
            let _ = guard.release();
        }
        let _ = store.forget(key);
    };
    for refusal in refusals_of_first_seen(worst)? {
        if let Error::InUse { status } = refusal {
            assert!(matches!(status, Status::InFlight { .. }), "in use, and {status}");
        }
    }
    Ok(())
}

/// A key forgotten between the halves of `first_seen` (a claim, completed at once) made it
/// fail with `LeaseLost`, an error of holders.
#[test]
fn first_seen_does_not_lose_a_lease() -> onceonly::Result<()> {
    let worst = |store: &Store, key: Key<'_>| {
        let _ = store.forget(key);
    };
    for refusal in refusals_of_first_seen(worst)? {
        assert!(matches!(refusal, Error::InUse { .. }), "{refusal:?}");
    }
    Ok(())
}
