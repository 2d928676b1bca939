//! One customer with one order: asks, waits, asks again with the same key, until there is an
//! answer that asking again would not change.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use super::network::{Answer, Call, Network};
use super::tally::Tally;
use crate::plan::{Habit, Luck, Order};
use crate::wire::{ProblemBody, Receipt};

/// The second of these customers, who live a hundred times faster than the rest of us.
/// `Retry-After` counts in it.
const SECOND: Duration = Duration::from_millis(10);

/// How long a client waits for an answer before it takes the request for lost.
const TIMEOUT: Duration = Duration::from_millis(120);

/// How long one waits that is about to hang up, and how long it then stays away.
const IMPATIENCE: Duration = Duration::from_millis(15);
const ABSENCE: Duration = Duration::from_millis(300);

/// Bounds of the pause before a retry: full jitter under a doubling ceiling.
const FIRST_PAUSE: Duration = Duration::from_millis(4);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// Retries before a customer gives up. Even at the worst loss nobody should get that far.
const MAX_TRIES: u32 = 400;

/// Pays for `order` in the way of its customer.
pub(crate) async fn pay(order: &Order, network: &Network, tally: &Tally) {
    let mut luck = Luck::seed_from_u64(order.luck);
    let call = Call {
        customer: &order.customer,
        key: &order.key,
        request: order.request.clone(),
    };
    let customer = Customer { network, tally };
    match order.habit {
        Habit::Patient => {
            customer.buy(&call, &mut luck).await;
        }
        Habit::DoubleClicks => customer.click_twice(&call, &mut luck).await,
        Habit::HangsUp => customer.hang_up_and_return(&call, &mut luck).await,
        Habit::ReusesKey => customer.reuse_key(call, &mut luck).await,
    }
}

struct Customer<'a> {
    network: &'a Network,
    tally: &'a Tally,
}

/// What came of asking until the answer was final.
enum Final {
    Paid(Receipt),
    Refused(ProblemBody),
    GaveUp,
}

impl Customer<'_> {
    /// Pays, and wants to see a receipt.
    async fn buy(&self, call: &Call<'_>, luck: &mut Luck) -> Option<Receipt> {
        match self.insist(call, luck).await {
            Final::Paid(receipt) => {
                let asked = (call.request.order, call.request.amount);
                if (receipt.order, receipt.amount) != asked {
                    self.tally.wrong_receipts.add();
                }
                Some(receipt)
            }
            Final::Refused(_) => {
                self.tally.turned_away.add();
                None
            }
            Final::GaveUp => None,
        }
    }

    /// Two requests leave at the same moment. Both have to get the same receipt.
    async fn click_twice(&self, call: &Call<'_>, luck: &mut Luck) {
        self.tally.double_clicks.add();
        let mut other_luck = Luck::seed_from_u64(luck.random());
        let (one, other) = tokio::join!(self.buy(call, luck), self.buy(call, &mut other_luck));
        if let (Some(one), Some(other)) = (one, other)
            && one != other
        {
            self.tally.wrong_receipts.add();
        }
    }

    /// The connection is closed while the server is at work. Much later the customer is back.
    async fn hang_up_and_return(&self, call: &Call<'_>, luck: &mut Luck) {
        let answer = self.network.send(call, IMPATIENCE, luck).await;
        if answer.is_none() {
            sleep(ABSENCE).await;
            self.tally.late_returns.add();
        }
        self.buy(call, luck).await;
    }

    /// Pays, then asks for another amount under the same key. That has to be refused.
    async fn reuse_key(&self, mut call: Call<'_>, luck: &mut Luck) {
        if self.buy(&call, luck).await.is_none() {
            return;
        }
        call.request.amount += 1;
        match self.insist(&call, luck).await {
            Final::Refused(problem) if problem.code == "mismatch" => {
                self.tally.mismatches_refused.add();
            }
            Final::Refused(_) => self.tally.turned_away.add(),
            Final::Paid(_) => self.tally.mismatches_accepted.add(),
            Final::GaveUp => {}
        }
    }

    /// Sends the same request under the same key until the answer is final.
    async fn insist(&self, call: &Call<'_>, luck: &mut Luck) -> Final {
        for tries in 0..MAX_TRIES {
            if tries > 0 {
                self.tally.retries.add();
            }
            let at_least = match self.network.send(call, TIMEOUT, luck).await {
                Some(Answer::Paid(receipt)) => return Final::Paid(receipt),
                Some(Answer::Refused { problem, .. }) if !problem.retryable => {
                    return Final::Refused(problem);
                }
                Some(Answer::Refused { retry_after, .. }) => SECOND * retry_after.unwrap_or(0),
                None => Duration::ZERO,
            };
            sleep(at_least + jitter(tries, luck)).await;
        }
        self.tally.gave_up.add();
        Final::GaveUp
    }
}

/// A random pause under a ceiling that doubles with each try. Random, because clients that failed
/// together and pause alike come back together.
fn jitter(tries: u32, luck: &mut Luck) -> Duration {
    let ceiling = FIRST_PAUSE
        .saturating_mul(2_u32.saturating_pow(tries))
        .min(LONGEST_PAUSE);
    ceiling.mul_f64(luck.random())
}
