//! Bad input: a typed error that says what to do, and nothing changed.

use crate::support::*;
use onceonly::*;
use std::time::Duration;

fn invalid<T: std::fmt::Debug>(result: Result<T>, expected: &str) {
    match result {
        Err(Error::InvalidInput { what, why }) => {
            assert_eq!(what, expected);
            assert!(!why.is_empty());
        }
        other => panic!("{expected}: {other:?}"),
    }
}

fn too_large<T: std::fmt::Debug>(result: Result<T>, expected: &str, limit: usize) {
    match result {
        Err(Error::TooLarge { what, len, max }) => {
            assert_eq!((what, max), (expected, limit));
            assert!(len > max);
        }
        other => panic!("{expected}: {other:?}"),
    }
}

#[test]
fn keys_outside_their_limits_are_refused_by_every_call() {
    let (store, _) = store();
    let (long_scope, long_id) = (vec![b's'; 256], vec![b'i'; 1_025]);
    let calls: [fn(&Store, Key<'_>) -> Result<()>; 9] = [
        |s, k| s.claim(k, Fingerprint::NONE).map(drop),
        |s, k| s.claim_wait(k, Fingerprint::NONE, Deadline::NOW).map(drop),
        |s, k| {
            s.submit_claim(k, Fingerprint::NONE, ClaimOptions::new())
                .wait()
                .map(drop)
        },
        |s, k| s.first_seen(k).map(drop),
        |s, k| s.replay(k, Fingerprint::NONE, |_| ()).map(drop),
        |s, k| s.peek(k, |_| ()).map(drop),
        |s, k| s.status(k).map(drop),
        |s, k| s.forget(k).map(drop),
        |s, k| s.resolve(k, 1, Resolution::Release),
    ];
    for call in calls {
        invalid(call(&store, Key::new("", "id")), "scope");
        invalid(call(&store, Key::new("scope", "")), "id");
        invalid(call(&store, Key::unscoped("")), "id");
        too_large(call(&store, Key::new(&long_scope, "id")), "scope", 255);
        too_large(call(&store, Key::new("scope", &long_id)), "id", 1_024);
    }
    assert_eq!(store.stats().keys_live, 0);
    let key = Key::new(&long_scope[..255], &long_id[..1_024]);
    acquire(&store, key).complete(b"the longest key").unwrap();
    assert!(matches!(claim(&store, key), Claim::Completed(_)));
}

#[test]
fn outcomes_and_checkpoints_have_limits() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    too_large(guard.complete(&vec![0; (1 << 20) + 1]), "outcome", 1 << 20);
    too_large(guard.checkpoint(&vec![0; (64 << 10) + 1]), "checkpoint", 64 << 10);
    guard.checkpoint(&vec![1; 64 << 10]).unwrap();
    guard.complete(&vec![1; 1 << 20]).unwrap();
}

#[test]
fn spans_of_zero_or_beyond_a_hundred_years_are_refused() {
    let (store, _) = store();
    for span in [
        Duration::ZERO,
        Duration::MAX,
        Duration::from_secs(200 * 365 * 86_400),
    ] {
        invalid(
            store
                .claim_with(key(), Fingerprint::NONE, ClaimOptions::new().lease(span))
                .map(drop),
            "lease",
        );
        invalid(store.first_seen_for(key(), span), "ttl");
        let guard = acquire(&store, key());
        invalid(guard.complete_with(b"", CompleteOptions::new().ttl(span)), "ttl");
        invalid(guard.renew(span), "lease");
        guard.release().unwrap();
        let options = |field| match field {
            "ttl" => Store::builder().ttl(span),
            _ => Store::builder().lease(span),
        };
        for expected in ["ttl", "lease"] {
            let refused = options(expected).in_memory();
            assert!(matches!(refused, Err(Error::InvalidOptions { field, .. }) if field == expected));
        }
    }
    let longest = Duration::from_secs(100 * 365 * 86_400);
    acquire(&store, key())
        .complete_with(b"", CompleteOptions::new().ttl(longest))
        .unwrap();
}

#[test]
fn options_that_contradict_each_other_name_the_field() {
    let field = |builder: Builder| match builder.in_memory() {
        Err(Error::InvalidOptions { field, why }) => {
            assert!(!why.is_empty());
            field
        }
        other => panic!("{other:?}"),
    };
    let new = Store::builder;
    assert_eq!(field(new().max_keys(0)), "max_keys");
    assert_eq!(field(new().max_in_flight(0)), "max_in_flight");
    assert_eq!(field(new().max_keys_per_scope(0)), "max_keys_per_scope");
    assert_eq!(
        field(new().max_keys(10).max_keys_per_scope(11)),
        "max_keys_per_scope"
    );
    assert_eq!(field(new().max_outcome((64 << 20) + 1)), "max_outcome");
    assert_eq!(field(new().shards(3)), "shards");
    assert_eq!(field(new().shards(0)), "shards");
    assert_eq!(field(new().shards(1 << 20)), "shards");
    assert_eq!(field(new().max_bytes(0)), "max_bytes");
    assert_eq!(field(new().max_bytes(100_000)), "max_bytes");
    assert_eq!(field(new().shards(65_536).max_bytes(1 << 20)), "max_bytes");
    new().max_bytes(1 << 20).in_memory().unwrap();
    new()
        .max_keys(u64::MAX)
        .max_in_flight(u64::MAX)
        .max_bytes(u64::MAX)
        .in_memory()
        .unwrap();
}

#[test]
fn a_token_of_another_store_or_damaged_is_refused() {
    let (mine, _) = store();
    let (other, _) = store();
    let token = acquire(&other, key()).detach();
    invalid(mine.attach(&token).map(drop), "token");
    for text in ["", "x", "00", "zz00", &token.to_string()[2..]] {
        invalid(text.parse::<ClaimToken>().map(drop), "token");
    }
    assert!(other.attach(&token).is_ok());
}

/// A forked child gets a copy of the memory: what it changed there would be known to nobody.
#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_is_refused_and_its_guards_do_nothing() {
    let (store, _) = store();
    let guard = acquire(&store, key());
    // SAFETY: the child calls nothing that needs another thread, and leaves by `_exit`.
    #[allow(unsafe_code)]
    let child = unsafe { libc::fork() };
    if child == 0 {
        let refused = matches!(store.claim(key(), Fingerprint::NONE), Err(Error::Forked))
            && matches!(guard.complete(b"x"), Err(Error::Forked))
            && matches!(store.clone().close(), Err(Error::Forked));
        drop(guard);
        // SAFETY: ends the child at once.
        #[allow(unsafe_code)]
        unsafe {
            libc::_exit(if refused { 0 } else { 1 })
        }
    }
    let mut status = 0;
    // SAFETY: waits for the child just made.
    #[allow(unsafe_code)]
    let waited = unsafe { libc::waitpid(child, &mut status, 0) };
    assert_eq!((waited, status), (child, 0), "the child saw Forked everywhere");
    guard.complete(b"the parent goes on").unwrap();
}
