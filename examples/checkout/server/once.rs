//! Every call to `onceonly`: a charge is made once per key, and repeats get the first answer.
//!
//! What always holds:
//! - Only the holder of a claim talks to the card processor.
//! - The holder's work runs in a task of its own. A client that hangs up ends neither the charge
//!   nor the recording of its outcome.
//! - A claim ends in one of three ways. **Completed**: charged, and the reply is kept for repeats.
//!   **Released**: certainly not charged, the next request may begin afresh. Or the guard is
//!   dropped, by an early return or a panic: nobody knows, and the next request is asked to find
//!   out before anything is charged again.
//! - The same is asked after a kill about every claim that was held at that moment, provided the
//!   store keeps a log.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, Uri};
use onceonly::{Cause, Claim, ClaimGuard, CompleteOptions, Fingerprint, InFlight, Interrupted, Key, Store};
use tokio::task::block_in_place;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::Setup;
use super::problem::Problem;
use super::processor::{ChargeError, Processor, TIME_LIMIT};
use super::reply::Reply;
use super::stopwatch::Stopwatch;
use crate::settlements::{Settlement, Settlements};
use crate::wire::{ChargeRequest, Figures, Recovered};

/// How long a claim is held before others may ask what became of it.
const LEASE: Duration = Duration::from_secs(30);

/// How long replies are kept for repeats, from completion.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a repeat waits for the first request before it is told to come back.
const WAIT: Duration = Duration::from_millis(40);

// A charge still on its way when another caller asks the ledger and finds nothing would be made
// twice. So a holder that is alive gives up its charge before its lease ends. One that was killed
// has nothing on its way: it does the booking itself, in one write, and cannot any more. A processor
// across a network could book even so; then wait out `TIME_LIMIT` after a restart before asking.
const _: () = assert!(TIME_LIMIT.as_millis() < LEASE.as_millis());

/// Charges through a store.
pub(crate) struct Once {
    store: Store,
    /// Whether calls into the store may wait for the disk.
    log: bool,
    processor: Arc<Processor>,
    tasks: TaskTracker,
    settlements: Settlements,
    claims: Stopwatch,
    completes: Stopwatch,
}

/// The store: in memory, or with a log in a directory that the next process opens again.
fn open(setup: &Setup) -> onceonly::Result<Store> {
    let builder = Store::builder().lease(LEASE).ttl(TTL);
    match setup.log {
        true => builder.open(setup.files.store()),
        false => builder.in_memory(),
    }
}

/// What makes two requests the same: everything that could change the effect.
pub(crate) fn fingerprint(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Fingerprint {
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    Fingerprint::of_parts([method.as_str().as_bytes(), target.as_bytes(), kind, body])
}

impl Once {
    pub(crate) fn new(
        setup: &Setup,
        processor: Arc<Processor>,
        tasks: TaskTracker,
    ) -> Result<Once, Box<dyn Error>> {
        Ok(Once {
            store: open(setup)?,
            log: setup.log,
            processor,
            tasks,
            settlements: Settlements::open(&setup.files.settlements())?,
            claims: Stopwatch::new(),
            completes: Stopwatch::new(),
        })
    }

    /// Makes a call into the store.
    ///
    /// None waits for another holder, but with a log most of them wait for the disk. Meanwhile
    /// tokio moves everything else this thread would have done to another thread; and the more
    /// calls wait at the same time, the more share one sync. In memory there is nothing to wait
    /// for, and moving would cost more than the call.
    fn call<T>(&self, call: impl FnOnce() -> T) -> T {
        match self.log {
            true => block_in_place(call),
            false => call(),
        }
    }

    /// Charges, unless this key has been here before.
    pub(crate) async fn charge(
        self: &Arc<Self>,
        key: Key<'_>,
        fingerprint: Fingerprint,
        request: ChargeRequest,
    ) -> Result<Reply, Problem> {
        let patience = Instant::now() + WAIT;
        let mut claim = self.call(|| self.claims.time(|| self.store.claim(key, fingerprint)))?;
        // Whoever loses a race is told what the winner made of it, and so goes round again.
        loop {
            claim = match claim {
                Claim::Acquired(guard) => return self.work(guard.into_owned(), request).await,
                Claim::Completed(outcome) => return Reply::replayed(&outcome),
                Claim::Mismatch(_) => return Err(Problem::mismatch()),
                Claim::InFlight(holder) => wait(holder, patience).await?,
                Claim::Interrupted(question) => self.settle(question, &request).await?,
            };
        }
    }

    /// Does the holder's work where a client that hangs up cannot reach it.
    ///
    /// axum drops a handler whose client is gone, at its next `await`. There is none between the
    /// claim and this `spawn`, and the owned guard moves into the task.
    async fn work(
        self: &Arc<Self>,
        guard: ClaimGuard<'static>,
        request: ChargeRequest,
    ) -> Result<Reply, Problem> {
        let once = self.clone();
        let work = self
            .tasks
            .spawn(async move { once.charge_and_record(guard, &request).await });
        work.await.unwrap_or_else(|_panicked| Err(Problem::broken()))
    }

    async fn charge_and_record(
        &self,
        guard: ClaimGuard<'static>,
        request: &ChargeRequest,
    ) -> Result<Reply, Problem> {
        match self.processor.charge(request).await {
            Ok(receipt) => {
                let reply = Reply::created(&receipt)?;
                let options = CompleteOptions::new().tag(reply.status());
                let complete = || guard.complete_with(reply.body(), options);
                self.call(|| self.completes.time(complete))?;
                Ok(reply)
            }
            Err(refused @ ChargeError::Refused) => {
                self.call(|| guard.release())?;
                Err(refused.into())
            }
            // Perhaps charged, perhaps not. The guard is dropped, and that says so.
            Err(silent @ ChargeError::Silent) => {
                self.call(|| drop(guard));
                Err(silent.into())
            }
        }
    }

    /// Finds out what became of a charge whose holder is gone.
    ///
    /// `resume` and `resolve` take the claim only if nobody else has in the meantime. A question
    /// that is dropped unanswered is put to the next who asks.
    async fn settle<'s>(
        &self,
        question: Interrupted<'s>,
        request: &ChargeRequest,
    ) -> Result<Claim<'s>, Problem> {
        let found = self.processor.find(request.order).await;
        let booked = found.map_err(|_| Problem::interrupted())?;
        self.note(&question, request.order, booked.is_some())?;
        match booked {
            Some(receipt) => {
                let reply = Reply::created(&receipt)?;
                let options = CompleteOptions::new().tag(reply.status());
                Ok(self.call(|| question.resolve(reply.body(), options))?)
            }
            None => Ok(self.call(|| question.resume())?),
        }
    }

    /// Notes, for the report at the end, what the ledger said.
    fn note(&self, question: &Interrupted<'_>, order: u64, charged: bool) -> Result<(), Problem> {
        let settlement = Settlement {
            order,
            generation: question.generation(),
            crashed: question.cause() == Cause::Crashed,
            charged,
        };
        let noted = self.settlements.note(settlement);
        noted.map_err(|_| Problem::broken())
    }

    /// What was in the log, if there is one.
    pub(crate) fn recovered(&self) -> Option<Recovered> {
        self.log.then(|| {
            let report = self.store.recovery();
            Recovered {
                completed: report.completed,
                interrupted: report.interrupted,
                took: report.took,
            }
        })
    }

    /// How the day went, as seen from here.
    pub(crate) fn figures(&self) -> Figures {
        Figures {
            claim: self.claims.timing(),
            complete: self.completes.timing(),
            store: self.store.stats().to_string(),
        }
    }
}

/// Waits for the holder, but no longer than `patience`: then the client is told to come back.
async fn wait(holder: InFlight<'_>, patience: Instant) -> Result<Claim<'static>, Problem> {
    let mut watch = holder.watch();
    match timeout_at(patience, &mut watch).await {
        // So many wait for this key that there is no place for one more.
        Ok(Ok(Claim::InFlight(holder))) => Err(Problem::in_flight(holder.retry_after())),
        Ok(claim) => Ok(claim?),
        Err(_elapsed) => Err(Problem::in_flight(watch.into_in_flight().retry_after())),
    }
}
