//! The card processor: a party of its own, slow at times, that takes the money and keeps the
//! ledger. It knows orders and nothing of keys.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::ledger::{Entry, Ledger};
use crate::wire::{Card, ChargeRequest, Receipt};

/// A charge that takes longer is given up and ends as `Silent`.
pub(crate) const TIME_LIMIT: Duration = Duration::from_secs(5);

/// Every so many questions about the past, the line is busy.
const BUSY_EVERY: u64 = 3;

/// Why there is no receipt. The two must not be confused.
#[derive(Debug)]
pub(crate) enum ChargeError {
    /// The connection was refused: certainly not charged.
    Refused,
    /// The connection broke: perhaps charged, perhaps not.
    Silent,
}

/// The line to the card processor.
pub(crate) struct Processor {
    ledger: Ledger,
    /// Orders tried before: test cards misbehave on the first try only, and on the first after a
    /// restart.
    tried: Mutex<HashSet<u64>>,
    questions: AtomicU64,
}

impl Processor {
    pub(crate) fn new(ledger: Ledger) -> Processor {
        Processor {
            ledger,
            tried: Mutex::default(),
            questions: AtomicU64::new(0),
        }
    }

    /// Charges the card. Asked twice, it charges twice.
    pub(crate) async fn charge(&self, request: &ChargeRequest) -> Result<Receipt, ChargeError> {
        timeout(TIME_LIMIT, self.call(request))
            .await
            .unwrap_or(Err(ChargeError::Silent))
    }

    async fn call(&self, request: &ChargeRequest) -> Result<Receipt, ChargeError> {
        let trouble = self.is_first_try(request.order).then_some(request.card);
        if trouble == Some(Card::Refuses) {
            return Err(ChargeError::Refused);
        }
        sleep(half_of_the_way(request.card)).await;
        if trouble == Some(Card::BreaksBefore) {
            return Err(ChargeError::Silent);
        }
        // A short write to a file in memory: not worth a thread of its own.
        let booked = self.ledger.append(request.order, request.amount);
        if trouble == Some(Card::BreaksAfter) {
            return Err(ChargeError::Silent);
        }
        sleep(half_of_the_way(request.card)).await;
        booked.map(receipt).map_err(|_| ChargeError::Silent)
    }

    /// The receipt for an order that was charged before, if it was.
    pub(crate) async fn find(&self, order: u64) -> Result<Option<Receipt>, ChargeError> {
        sleep(half_of_the_way(Card::Quick)).await;
        let question = self.questions.fetch_add(1, Ordering::Relaxed);
        if question.is_multiple_of(BUSY_EVERY) {
            return Err(ChargeError::Refused);
        }
        Ok(self.ledger.find(order).map(receipt))
    }

    fn is_first_try(&self, order: u64) -> bool {
        self.tried
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(order)
    }
}

fn half_of_the_way(card: Card) -> Duration {
    match card {
        Card::Slow => Duration::from_millis(40),
        _ => Duration::from_millis(2),
    }
}

fn receipt(entry: Entry) -> Receipt {
    let Entry {
        charge,
        order,
        amount,
    } = entry;
    Receipt {
        charge: format!("ch_{charge}"),
        order,
        amount,
    }
}
