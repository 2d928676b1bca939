//! Streams of operations: a store, in memory or with a log whose power fails, does what the
//! sequential model says. The first bytes choose the store, each six that follow an operation.

use super::input::Input;
use onceonly::Durability;
use onceonly::sim::driver::{Driver, Setup};
use onceonly::sim::model::Rules;
use onceonly::sim::ops::Op;
use std::time::Duration;

/// The longest stream, in operations: what a longer one finds is better found by a short one.
const STEPS: usize = 200;

pub(crate) fn run(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    let setup = setup(&mut input);
    let ops: Vec<Op> = Op::decode_all(input.rest()).take(STEPS).collect();
    if let Err(found) = Driver::run(&setup, &ops) {
        panic!("{setup:?}: {found}");
    }
    !ops.is_empty()
}

fn setup(input: &mut Input<'_>) -> Setup {
    let plain = Setup::default();
    let store = input.byte();
    let [ttl, lease] = times(input);
    let limits = input.byte();
    let limit = |bits: u8, most: u64| match limits >> bits & 3 {
        0 => None,
        n => Some(u64::from(n).min(most)),
    };
    let keys = limit(0, 3).map(|n| n + 1);
    Setup {
        rules: Rules {
            ttl,
            lease,
            max_keys: keys.unwrap_or(plain.rules.max_keys),
            max_keys_per_scope: limit(2, keys.unwrap_or(3)),
            max_in_flight: limit(4, 3).unwrap_or(plain.rules.max_in_flight),
            ..plain.rules
        },
        shards: Some([1, 2, 4, 1][usize::from(store >> 2 & 3)]),
        constant_hash: store & 16 != 0,
        log: match store & 3 {
            0 => None,
            1 => Some((Durability::Process, u64::from(store >> 5))),
            _ => Some((Durability::Sync, u64::from(store >> 5))),
        },
        ..plain
    }
}

/// Ttl and lease.
fn times(input: &mut Input<'_>) -> [Duration; 2] {
    const DAY: u64 = 86_400_000;
    let millis = [[50, 10], [3, 40], [1, 1], [DAY, 60_000], [30 * DAY, DAY]];
    input.pick(&millis).map(Duration::from_millis)
}
