//! What happened on the customers' side of the wire, counted.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One day of traffic.
#[derive(Default)]
pub(crate) struct Tally {
    /// Orders whose customers went home, with a receipt unless they gave up.
    pub(crate) done: Count,

    pub(crate) sent: Count,
    pub(crate) requests_lost: Count,
    pub(crate) responses_lost: Count,
    /// Connections closed by a client that had waited long enough.
    pub(crate) hung_up: Count,
    /// Connections that the server refused or broke off.
    pub(crate) broken_connections: Count,
    pub(crate) retries: Count,

    pub(crate) double_clicks: Count,
    pub(crate) late_returns: Count,

    /// Answers, as the server sent them, whether or not they were lost on the way.
    pub(crate) replays: Count,
    pub(crate) in_flight: Count,
    pub(crate) interrupted: Count,
    pub(crate) card_refused: Count,
    pub(crate) card_silent: Count,
    pub(crate) store_errors: Count,
    pub(crate) other_problems: Count,

    pub(crate) mismatches_refused: Count,
    /// Another body under a used key that was charged all the same.
    pub(crate) mismatches_accepted: Count,
    /// Receipts for something else than was asked, or two different ones for one key.
    pub(crate) wrong_receipts: Count,
    /// Customers who were told for good that they may not pay.
    pub(crate) turned_away: Count,
    pub(crate) gave_up: Count,
}

impl Tally {
    /// Counts an answer by the code of its problem.
    pub(crate) fn problem(&self, code: &str) {
        let count = match code {
            "in_flight" => &self.in_flight,
            "interrupted" => &self.interrupted,
            "refused" => &self.card_refused,
            "silent" => &self.card_silent,
            "store" => &self.store_errors,
            // Counted by the customer who provoked it.
            "mismatch" => return,
            _ => &self.other_problems,
        };
        count.add();
    }
}
