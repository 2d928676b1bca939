//! What the server says to its customers and to whoever started it, and they to it, as JSON.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The body of `POST /charges`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ChargeRequest {
    pub(crate) order: u64,
    /// In cents.
    pub(crate) amount: u64,
    pub(crate) card: Card,
}

/// Test cards, as payment processors offer them: the number decides what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Card {
    /// Charged at once.
    Quick,
    /// Charged, but only after longer than most like to wait.
    Slow,
    /// The processor refuses the first connection: certainly not charged.
    Refuses,
    /// The connection breaks on the first try, before the charge is booked.
    BreaksBefore,
    /// The connection breaks on the first try, after the charge is booked.
    BreaksAfter,
}

/// The body of a 201: proof of one charge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) charge: String,
    pub(crate) order: u64,
    pub(crate) amount: u64,
}

/// The body of every error: `application/problem+json`, RFC 9457.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProblemBody {
    pub(crate) title: String,
    pub(crate) status: u16,
    pub(crate) code: String,
    /// Whether sending the same request again, with the same key, makes sense.
    pub(crate) retryable: bool,
}

/// The first line that a server prints when it is a process of its own. It listens by then.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) address: SocketAddr,
    /// What was in the log, if it keeps one.
    pub(crate) recovered: Option<Recovered>,
}

/// What a store found in its log when it was opened.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Recovered {
    /// Keys with an outcome, and keys that somebody was at work on.
    pub(crate) completed: u64,
    pub(crate) interrupted: u64,
    pub(crate) took: Duration,
}

/// The body of `GET /figures`: the server's own view of the day, from its last start on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Time spent inside the engine, per call.
    pub(crate) claim: Timing,
    pub(crate) complete: Timing,
    /// The store's statistics in its own words.
    pub(crate) store: String,
}

/// How long calls took, in nanoseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Timing {
    pub(crate) calls: u64,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
}
