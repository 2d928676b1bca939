//! The day's traffic, drawn from a seed before it begins.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::wire::{Card, ChargeRequest};

/// The generator behind every draw. Named, so that a seed means the same on every machine.
pub(crate) type Luck = Xoshiro256PlusPlus;

/// How many customers share the orders among them.
const CUSTOMERS: u64 = 500;

/// One order, and how its customer goes about paying for it.
pub(crate) struct Order {
    pub(crate) customer: String,
    /// The idempotency key. Real clients send something random; these count, so that many
    /// customers send the same key and only the scope tells them apart.
    pub(crate) key: String,
    pub(crate) request: ChargeRequest,
    pub(crate) habit: Habit,
    /// Seeds what the network does to this order, whatever the threads do to the others.
    pub(crate) luck: u64,
}

/// What a customer does besides trying again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Habit {
    /// Nothing.
    Patient,
    /// Sends the request twice at the same moment.
    DoubleClicks,
    /// Hangs up while the server is still at work, and comes back much later.
    HangsUp,
    /// Pays, then sends another amount under the key of the first.
    ReusesKey,
}

/// The orders of a day.
pub(crate) fn draw(seed: u64, orders: u64) -> Vec<Order> {
    let mut luck = Luck::seed_from_u64(seed);
    (0..orders).map(|number| draw_order(number, &mut luck)).collect()
}

/// After how many paid orders the server is killed, each time: spread over the day, and never on
/// the dot.
pub(crate) fn draw_kills(seed: u64, orders: u64, kills: u32) -> Vec<u64> {
    // A generator of its own: the traffic is the same with kills and without.
    let mut luck = Luck::seed_from_u64(!seed);
    let stretch = orders as f64 / f64::from(kills + 1);
    let moments = (1..=kills).map(f64::from);
    moments
        .map(|moment| ((moment + luck.random_range(-0.25..0.25)) * stretch) as u64)
        .collect()
}

fn draw_order(number: u64, luck: &mut Luck) -> Order {
    let habit = draw_habit(luck);
    let card = match habit {
        // Hanging up on work in progress takes work that is still in progress.
        Habit::HangsUp => Card::Slow,
        _ => draw_card(luck),
    };
    Order {
        customer: format!("customer-{}", number % CUSTOMERS),
        key: format!("payment-{}", number / CUSTOMERS),
        request: ChargeRequest {
            order: number,
            amount: luck.random_range(100..50_000),
            card,
        },
        habit,
        luck: luck.random(),
    }
}

fn draw_habit(luck: &mut Luck) -> Habit {
    match luck.random_range(0..100) {
        0..10 => Habit::DoubleClicks,
        10..13 => Habit::HangsUp,
        13..16 => Habit::ReusesKey,
        _ => Habit::Patient,
    }
}

fn draw_card(luck: &mut Luck) -> Card {
    match luck.random_range(0..100) {
        0..5 => Card::Slow,
        5..9 => Card::Refuses,
        9..11 => Card::BreaksBefore,
        11..13 => Card::BreaksAfter,
        _ => Card::Quick,
    }
}
