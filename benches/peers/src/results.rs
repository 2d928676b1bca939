//! Rows and figures: what each row is, what was measured, and what follows from it.

use crate::machine::Machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const OURS: &str = "onceonly";

/// What a row measures.
pub(crate) struct Row {
    pub(crate) id: &'static str,
    /// The workload's letter and number.
    pub(crate) group: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) more_is_better: bool,
}

const fn less(id: &'static str, group: &'static str, title: &'static str, unit: &'static str) -> Row {
    Row {
        id,
        group,
        title,
        unit,
        more_is_better: false,
    }
}

const fn more(id: &'static str, group: &'static str, title: &'static str, unit: &'static str) -> Row {
    Row {
        more_is_better: true,
        ..less(id, group, title, unit)
    }
}

/// All rows, in the order they are shown.
pub(crate) const ROWS: &[Row] = &[
    less("w1.1t", "W1", "new key: claim and complete", "ns CPU"),
    less("w1.all", "W1", "the same, helper threads' CPU too", "ns CPU"),
    more("w1.2t", "W1", "the same, 2 threads", "M/s"),
    less("w2.owned", "W2", "repeat: outcome to keep", "ns CPU"),
    less("w2.lent", "W2", "repeat: outcome read in place", "ns CPU"),
    less(
        "w2.chained",
        "W2",
        "repeat: each key from the last answer",
        "ns CPU",
    ),
    less("w2.many", "W2", "repeat: 16 at a time, in place", "ns CPU"),
    less("w2.claims", "W2", "repeat: 16 at a time, to keep", "ns CPU"),
    more("w2.owned.2t", "W2", "repeat: to keep, 2 threads", "M/s"),
    more("w2.lent.2t", "W2", "repeat: in place, 2 threads", "M/s"),
    less("w3.1t", "W3", "steady: each new key expires an old one", "ns CPU"),
    more("w3.2t", "W3", "the same, 2 threads", "M/s"),
    more("w4.2t", "W4", "2 threads want the same new keys", "M/s"),
    more("w4.8t", "W4", "8 threads want the same new keys", "M/s"),
    less("w4.hot", "W4", "2 threads read one key, each read", "ns"),
    less("w5.p50", "W5", "cycle while growing, p50", "ns"),
    less("w5.p99", "W5", "cycle while growing, p99", "ns"),
    less("w5.p999", "W5", "cycle while growing, p99.9", "ns"),
    less("w5.max", "W5", "cycle while growing, longest", "us"),
    less("w6.bytes", "W6", "resident bytes a key over the payload", "B"),
    less("w6.peak", "W6", "the same at its peak", "B"),
    less("w6.expiry", "W6", "all expire: removal of each", "ns CPU"),
    more("d1.1t", "D1", "cycles that survive kill -9", "/s"),
    more("d1.2t", "D1", "the same, 2 callers", "/s"),
    more("d2.both.1", "D2", "cycles, claim and outcome synced", "/s"),
    more("d2.both.64", "D2", "the same, 64 callers", "/s"),
    more("d2.outcome.1", "D2", "cycles, outcome synced", "/s"),
    more("d2.outcome.64", "D2", "the same, 64 callers", "/s"),
    more("d3.1t", "D3", "repeat: outcome read in place", "M/s"),
    more("d3.2t", "D3", "the same, 2 threads", "M/s"),
    less("d4", "D4", "kill -9, reopen, first replay", "ms"),
    less("d5.disk", "D5", "disk bytes a key (payload 144)", "B"),
    less("d5.device", "D5", "bytes written for each of payload", "B"),
    less("d6", "D6", "all expire: removal of each", "ns"),
    less(
        "d7.p999",
        "D7",
        "survives kill -9, 2 callers, worse call, p99.9",
        "us",
    ),
    less("d7.max", "D7", "the same, longest", "us"),
];

/// A run: by the number of keys, row and peer, a figure of each round.
#[derive(Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    pub(crate) command: String,
    pub(crate) rounds: usize,
    pub(crate) figures: BTreeMap<u64, BTreeMap<String, BTreeMap<String, Vec<f64>>>>,
    /// Peers that could not take part, or failed, and why.
    pub(crate) remarks: Vec<String>,
}

/// The middle of some figures, the least and the most.
#[derive(Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) middle: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        Some(Spread {
            middle: *figures.get(figures.len() / 2)?,
            least: *figures.first()?,
            most: *figures.last()?,
        })
    }
}

/// A row that was measured.
pub(crate) struct Measured<'r> {
    pub(crate) row: &'static Row,
    pub(crate) keys: u64,
    pub(crate) peers: &'r BTreeMap<String, Vec<f64>>,
}

impl Results {
    /// The rows that have figures, in order; smaller numbers of keys first.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Measured<'_>> {
        self.figures.iter().flat_map(|(keys, rows)| {
            ROWS.iter().filter_map(|row| {
                rows.get(row.id).map(|peers| Measured {
                    row,
                    keys: *keys,
                    peers,
                })
            })
        })
    }
}

impl Measured<'_> {
    pub(crate) fn spread(&self, peer: &str) -> Option<Spread> {
        Spread::of(self.peers.get(peer)?.iter().copied())
    }

    /// The peers but us and the machine itself, best first.
    pub(crate) fn others(&self) -> Vec<(&str, Spread)> {
        let mut others: Vec<_> = self
            .peers
            .keys()
            .filter(|peer| ![OURS, crate::cell::FLOOR].contains(&peer.as_str()))
            .filter_map(|peer| Some((peer.as_str(), self.spread(peer)?)))
            .collect();
        others.sort_by(|a, b| a.1.middle.total_cmp(&b.1.middle));
        if self.row.more_is_better {
            others.reverse();
        }
        others
    }

    /// How many times better we are than a peer, round by round: below one, it is better.
    pub(crate) fn times_better_than(&self, peer: &str) -> Option<Spread> {
        let ours = self.peers.get(OURS)?;
        let pairs = ours.iter().zip(self.peers.get(peer)?);
        Spread::of(pairs.map(|(ours, theirs)| match self.row.more_is_better {
            true => ours / theirs,
            false => theirs / ours,
        }))
    }
}
