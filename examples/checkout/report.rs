//! What is printed at the end: the traffic, the engine, and what the ledger says.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::args::Args;
use crate::client::Tally;
use crate::host::Restart;
use crate::ledger::Entry;
use crate::plan::Order;
use crate::settlements::Settled;
use crate::wire::{Figures, Timing};

/// The ledger held against the list of orders. No engine is asked.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    charged_twice: u64,
    never_charged: u64,
    wrong_amounts: u64,
    /// Cents taken beyond the first charge of each order.
    overcharged: u64,
}

impl Audit {
    pub(crate) fn of(orders: &[Order], ledger: &[Entry]) -> Audit {
        let mut charges: HashMap<u64, Vec<u64>> = HashMap::new();
        for entry in ledger {
            charges.entry(entry.order).or_default().push(entry.amount);
        }
        let mut audit = Audit::default();
        for order in orders {
            let booked = charges.remove(&order.request.order).unwrap_or_default();
            match booked.as_slice() {
                [] => audit.never_charged += 1,
                [first, more @ ..] => {
                    audit.wrong_amounts += u64::from(*first != order.request.amount);
                    audit.charged_twice += u64::from(!more.is_empty());
                    audit.overcharged += more.iter().sum::<u64>();
                }
            }
        }
        audit
    }
}

/// Everything there is to tell.
pub(crate) struct Report<'a> {
    pub(crate) args: &'a Args,
    pub(crate) took: Duration,
    pub(crate) tally: Arc<Tally>,
    pub(crate) figures: Option<Figures>,
    pub(crate) settled: Option<Settled>,
    /// One for each kill.
    pub(crate) restarts: Vec<Restart>,
    pub(crate) audit: Audit,
}

impl Report<'_> {
    /// Whether every order was charged once, for the right amount and under the right receipt.
    pub(crate) fn is_flawless(&self) -> bool {
        let (audit, tally) = (&self.audit, &self.tally);
        let wrong = audit.charged_twice + audit.never_charged + audit.wrong_amounts;
        wrong + tally.mismatches_accepted.get() + tally.wrong_receipts.get() == 0
    }

    fn traffic(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        row(out, "orders", self.args.orders)?;
        row(out, "requests sent", tally.sent.get())?;
        row(out, "requests lost", tally.requests_lost.get())?;
        row(out, "responses lost", tally.responses_lost.get())?;
        row(out, "clients that hung up", tally.hung_up.get())?;
        row(out, "retries", tally.retries.get())?;
        row(out, "double clicks", tally.double_clicks.get())?;
        row(out, "late returns", tally.late_returns.get())?;
        writeln!(out)?;
        row(out, "replays", tally.replays.get())?;
        row(out, "in-flight answers", tally.in_flight.get())?;
        row(out, "interrupted answers", tally.interrupted.get())?;
        row(out, "mismatches refused", tally.mismatches_refused.get())?;
        row(out, "card refused", tally.card_refused.get())?;
        row(out, "card silent", tally.card_silent.get())
    }

    /// Rows that are only there when something went wrong.
    fn mistakes(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tally = &self.tally;
        let rows = [
            ("mismatches charged", tally.mismatches_accepted.get()),
            ("wrong receipts", tally.wrong_receipts.get()),
            ("wrong amounts", self.audit.wrong_amounts),
            ("store errors", tally.store_errors.get()),
            ("other problems", tally.other_problems.get()),
            ("broken connections", tally.broken_connections.get()),
            ("customers turned away", tally.turned_away.get()),
            ("customers who gave up", tally.gave_up.get()),
        ];
        rows.iter()
            .filter(|(_, n)| *n > 0)
            .try_for_each(|(label, n)| row(out, label, *n))
    }

    /// What the kills left behind, and how it was cleared up.
    fn kills(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        row(out, "server killed", self.restarts.len() as u64)?;
        if let Some(settled) = &self.settled {
            let [all, charged, not] =
                [settled.killed(), settled.killed_charged, settled.killed_uncharged].map(thousands);
            let label = "interrupted by a kill";
            let answer = format!("settled by the ledger: {charged} were charged, {not} were not");
            writeln!(out, "  {label:<24}{all:>10}, {answer}")?;
        }
        self.restarts.iter().flatten().enumerate().try_for_each(|(n, found)| {
            let took = readable(u64::try_from(found.took.as_nanos()).unwrap_or(u64::MAX));
            let (completed, interrupted) = (thousands(found.completed), thousands(found.interrupted));
            let restart = n + 1;
            writeln!(
                out,
                "  restart {restart}: {completed} keys completed, {interrupted} interrupted, read in {took}"
            )
        })
    }

    /// The server's own view.
    fn engine(&self, out: &mut fmt::Formatter<'_>, figures: &Figures) -> fmt::Result {
        if !self.restarts.is_empty() {
            writeln!(out, "  since the last restart:")?;
        }
        timing(out, "claim", &figures.claim)?;
        timing(out, "complete", &figures.complete)?;
        writeln!(out, "\n{}", figures.store.trim_end())
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (args, took) = (self.args, self.took.as_secs_f64());
        let mode = if args.protected { "with" } else { "without" };
        let (loss, seed) = (args.loss_percent, args.seed);
        writeln!(
            out,
            "{mode} onceonly, {loss} % lost each way, seed {seed}, {took:.1} s\n"
        )?;
        self.traffic(out)?;
        self.mistakes(out)?;
        if let Some(settled) = &self.settled {
            row(out, "settled by the ledger", settled.total)?;
        }
        if self.args.kills > 0 {
            writeln!(out)?;
            self.kills(out)?;
        }
        if let Some(figures) = &self.figures {
            writeln!(out)?;
            self.engine(out, figures)?;
        }
        writeln!(out)?;
        let overcharged = self.audit.overcharged;
        if overcharged > 0 {
            let (whole, cents) = (overcharged / 100, overcharged % 100);
            writeln!(out, "taken twice: {}.{cents:02}", thousands(whole))?;
        }
        writeln!(out, "charged twice: {}", self.audit.charged_twice)?;
        writeln!(out, "never charged: {}", self.audit.never_charged)
    }
}

fn row(out: &mut fmt::Formatter<'_>, label: &str, number: u64) -> fmt::Result {
    writeln!(out, "  {label:<24}{:>10}", thousands(number))
}

fn timing(out: &mut fmt::Formatter<'_>, call: &str, timing: &Timing) -> fmt::Result {
    let (p50, p99) = (readable(timing.p50), readable(timing.p99));
    let calls = thousands(timing.calls);
    writeln!(out, "  {call:<10} p50 {p50:>8}  p99 {p99:>8} {calls:>12} calls")
}

fn readable(nanoseconds: u64) -> String {
    match nanoseconds {
        0..1_000 => format!("{nanoseconds} ns"),
        1_000..1_000_000 => format!("{:.1} µs", nanoseconds as f64 / 1e3),
        _ => format!("{:.1} ms", nanoseconds as f64 / 1e6),
    }
}

/// 1234567 as 1,234,567.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
