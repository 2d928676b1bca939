//! What the ledger was asked about interrupted claims, and what it said: a file with a line per
//! answer that was acted on.
//!
//! It is there to be counted at the end. The server's own counters die with it, this file does not.
//! A line is written before the claim is taken, so that no kill comes between a settlement and its
//! line. Whoever asks again after that, or at the same time, writes a second line; a claim is one
//! order at one generation, and is counted once.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::io;
use std::path::Path;

use crate::files::{Lines, read_lines};

/// One line: what was found out about one interrupted claim.
#[derive(Clone, Copy)]
pub(crate) struct Settlement {
    pub(crate) order: u64,
    pub(crate) generation: u64,
    /// The holder died with its process.
    pub(crate) crashed: bool,
    /// The ledger had the charge.
    pub(crate) charged: bool,
}

/// The file, open for noting.
pub(crate) struct Settlements(Lines);

impl Settlements {
    pub(crate) fn open(path: &Path) -> io::Result<Settlements> {
        Lines::open(path).map(Settlements)
    }

    pub(crate) fn note(&self, settlement: Settlement) -> io::Result<()> {
        self.0.add(settlement)
    }
}

/// The file, counted: claims, over all the lives of the server.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) total: u64,
    /// Of those, the ones that a kill interrupted: after they were charged, and before.
    pub(crate) killed_charged: u64,
    pub(crate) killed_uncharged: u64,
}

/// Counts the file at `path`.
pub(crate) fn count(path: &Path) -> io::Result<Settled> {
    let mut claims = HashMap::new();
    for line in read_lines(path, parse)? {
        claims.entry((line.order, line.generation)).or_insert(line);
    }
    let mut settled = Settled::default();
    for claim in claims.values() {
        settled.total += 1;
        settled.killed_charged += u64::from(claim.crashed && claim.charged);
        settled.killed_uncharged += u64::from(claim.crashed && !claim.charged);
    }
    Ok(settled)
}

impl Settled {
    /// Claims that a kill interrupted.
    pub(crate) fn killed(&self) -> u64 {
        self.killed_charged + self.killed_uncharged
    }
}

impl Display for Settlement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settlement {
            order,
            generation,
            crashed,
            charged,
        } = self;
        write!(out, "{order} {generation} {crashed} {charged}")
    }
}

fn parse(line: &str) -> Option<Settlement> {
    let mut fields = line.split(' ');
    let settlement = Settlement {
        order: fields.next()?.parse().ok()?,
        generation: fields.next()?.parse().ok()?,
        crashed: fields.next()?.parse().ok()?,
        charged: fields.next()?.parse().ok()?,
    };
    fields.next().is_none().then_some(settlement)
}
