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

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, Uri};
use onceonly::{Claim, ClaimGuard, CompleteOptions, Fingerprint, InFlight, Interrupted, Key, Store};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use super::problem::Problem;
use super::processor::{ChargeError, Processor, TIME_LIMIT};
use super::reply::Reply;
use super::stopwatch::Stopwatch;
use crate::wire::{ChargeRequest, Figures};

/// How long a claim is held before others may ask what became of it.
const LEASE: Duration = Duration::from_secs(30);

/// How long replies are kept for repeats, from completion.
const TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a repeat waits for the first request before it is told to come back.
const WAIT: Duration = Duration::from_millis(40);

// A charge is given up before the lease of its holder ends. A charge still on its way when another
// caller asks the ledger and finds nothing would be made twice.
const _: () = assert!(TIME_LIMIT.as_millis() < LEASE.as_millis());

/// Charges through a store.
pub(crate) struct Once {
    store: Store,
    processor: Arc<Processor>,
    tasks: TaskTracker,
    claims: Stopwatch,
    completes: Stopwatch,
    settled: AtomicU64,
}

/// What makes two requests the same: everything that could change the effect.
pub(crate) fn fingerprint(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Fingerprint {
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], |kind| kind.as_bytes());
    Fingerprint::of_parts([method.as_str().as_bytes(), target.as_bytes(), kind, body])
}

impl Once {
    pub(crate) fn new(processor: Arc<Processor>, tasks: TaskTracker) -> onceonly::Result<Once> {
        Ok(Once {
            store: Store::builder().lease(LEASE).ttl(TTL).in_memory()?,
            processor,
            tasks,
            claims: Stopwatch::new(),
            completes: Stopwatch::new(),
            settled: AtomicU64::new(0),
        })
    }

    /// Charges, unless this key has been here before.
    pub(crate) async fn charge(
        self: &Arc<Self>,
        key: Key<'_>,
        fingerprint: Fingerprint,
        request: ChargeRequest,
    ) -> Result<Reply, Problem> {
        let patience = Instant::now() + WAIT;
        // A claim waits for no other holder, and in memory for no disk, so it may be made on this
        // thread. With a log that syncs, `submit_claim(..).await` keeps the thread free.
        let mut claim = self.claims.time(|| self.store.claim(key, fingerprint))?;
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
                self.completes
                    .time(|| guard.complete_with(reply.body(), options))?;
                Ok(reply)
            }
            Err(refused @ ChargeError::Refused) => {
                guard.release()?;
                Err(refused.into())
            }
            // Perhaps charged, perhaps not. The guard is dropped, and that says so.
            Err(silent @ ChargeError::Silent) => Err(silent.into()),
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
        self.settled.fetch_add(1, Ordering::Relaxed);
        match booked {
            Some(receipt) => {
                let reply = Reply::created(&receipt)?;
                let options = CompleteOptions::new().tag(reply.status());
                Ok(question.resolve(reply.body(), options)?)
            }
            None => Ok(question.resume()?),
        }
    }

    /// How the day went, as seen from here.
    pub(crate) fn figures(&self) -> Figures {
        Figures {
            claim: self.claims.timing(),
            complete: self.completes.timing(),
            settled: self.settled.load(Ordering::Relaxed),
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
