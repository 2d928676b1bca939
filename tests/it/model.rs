//! Random streams of operations: the store answers as the model does.
//!
//! `ONCEONLY_CASES` is the number of streams in all (50,000 unless set). A failure prints the
//! shortest stream that still fails, and its seed goes into `proptest-regressions/model.txt`,
//! which is run first from then on.

use onceonly::Durability;
use onceonly::sim::driver::{Driver, Setup};
use onceonly::sim::model::Rules;
use onceonly::sim::ops::Op;
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestCaseError, TestRunner};
use std::time::Duration;

const SEEDS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/it/proptest-regressions/model.txt"
);
/// The longest stream.
const STEPS: usize = 60;

/// How many cases a test of this weight (in percent of all) runs.
fn cases(percent: u32) -> u32 {
    let all = std::env::var("ONCEONLY_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(50_000u32);
    (all / 100).max(1).saturating_mul(percent)
}

/// Streams that favour a few keys, so that operations meet.
fn stream() -> impl Strategy<Value = Vec<Op>> {
    let word = any::<[u8; 6]>();
    let keys = prop_oneof![Just(1u8), Just(2), Just(8)];
    (keys, proptest::collection::vec(word, 1..STEPS)).prop_map(|(keys, words)| {
        let narrow = |[kind, a, rest @ ..]: [u8; 6]| {
            let [b, c, d, e] = rest;
            Op::decode([kind, a % keys, b, c, d, e])
        };
        words.into_iter().map(narrow).collect()
    })
}

/// Short and long ttls and leases, in both orders.
fn times() -> impl Strategy<Value = (Duration, Duration)> {
    let ms = Duration::from_millis;
    let day = Duration::from_secs(86_400);
    prop_oneof![
        4 => Just((ms(50), ms(10))),
        1 => Just((ms(3), ms(40))),
        1 => Just((ms(1), ms(1))),
        1 => Just((day, ms(60_000))),
        1 => Just((30 * day, day)),
    ]
}

fn with_times(setup: Setup, (ttl, lease): (Duration, Duration)) -> Setup {
    let rules = Rules {
        ttl,
        lease,
        ..setup.rules
    };
    Setup { rules, ..setup }
}

fn check(percent: u32, setup: impl Strategy<Value = Setup>) {
    let given = Config::default();
    // What the environment says of either goes first: planted faults leave no seeds behind.
    let config = Config {
        cases: cases(percent),
        failure_persistence: given
            .failure_persistence
            .as_ref()
            .map(|_| Box::new(FileFailurePersistence::Direct(SEEDS)) as _),
        max_shrink_iters: given.max_shrink_iters.min(20_000),
        ..given
    };
    let mut runner = TestRunner::new(config);
    let streams = (setup, times(), stream());
    let outcome = runner.run(&streams, |(setup, times, ops)| {
        Driver::run(&with_times(setup, times), &ops).map_err(|found| TestCaseError::fail(found.to_string()))
    });
    if let Err(found) = outcome {
        panic!("{found}\nthe seed is in {SEEDS}");
    }
}

fn limited(max_keys: u64, per_scope: Option<u64>, max_in_flight: u64) -> Setup {
    let plain = Setup::default();
    let rules = Rules {
        max_keys,
        max_keys_per_scope: per_scope,
        max_in_flight,
        ..plain.rules
    };
    Setup { rules, ..plain }
}

#[test]
fn a_store_without_a_helper_agrees_with_the_model() {
    check(35, Just(Setup::default()));
}

#[test]
fn a_store_with_a_helper_agrees_with_the_model() {
    let setup = Setup {
        helper_thread: true,
        ..Setup::default()
    };
    check(10, Just(setup));
}

#[test]
fn a_store_whose_keys_hash_alike_agrees_with_the_model() {
    let setup = Setup {
        constant_hash: true,
        ..Setup::default()
    };
    check(15, Just(setup));
}

#[test]
fn a_store_of_one_shard_agrees_with_the_model() {
    let setup = Setup {
        shards: Some(1),
        ..Setup::default()
    };
    check(15, Just(setup));
}

#[test]
fn a_store_at_its_limits_agrees_with_the_model() {
    let limits = (1u64..5, proptest::option::of(1u64..3), 1u64..4, any::<bool>());
    let setups = limits.prop_map(|(keys, scope, held, helper)| Setup {
        helper_thread: helper,
        ..limited(keys, scope.map(|n| n.min(keys)), held)
    });
    check(25, setups);
}

fn with_log(durability: Durability) -> impl Strategy<Value = Setup> {
    any::<u64>().prop_map(move |seed| Setup {
        log: Some((durability, seed)),
        shards: Some(2),
        ..Setup::default()
    })
}

#[test]
fn a_store_with_a_log_agrees_with_the_model_through_kills_and_power_cuts() {
    check(20, with_log(Durability::Sync));
}

#[test]
fn a_store_with_a_log_in_the_page_cache_agrees_with_the_model_through_kills() {
    check(10, with_log(Durability::Process));
}

#[test]
fn a_store_with_a_log_at_its_limits_agrees_with_the_model() {
    let limits = (with_log(Durability::Sync), 1u64..5, 1u64..4, any::<bool>());
    let setups = limits.prop_map(|(setup, keys, held, helper)| Setup {
        log: setup.log,
        helper_thread: helper,
        ..limited(keys, None, held)
    });
    check(10, setups);
}
