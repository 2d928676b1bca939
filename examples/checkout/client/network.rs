//! HTTP over a network that loses things.
//!
//! A lost request never leaves; its sender waits in vain. A lost response is worse: the request
//! arrives, the server does the work and answers, and the answer reaches nobody. Neither sender
//! can tell which of the two it was.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{self, Body};
use axum::http::{HeaderMap, Request, StatusCode, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rand::RngExt;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::tally::Tally;
use crate::plan::Luck;
use crate::wire::{ChargeRequest, Figures, ProblemBody, Receipt};

/// No answer of this server is longer.
const LONGEST_ANSWER: usize = 64 * 1024;

/// One `POST /charges`.
pub(crate) struct Call<'a> {
    pub(crate) customer: &'a str,
    pub(crate) key: &'a str,
    pub(crate) request: ChargeRequest,
}

/// An answer that arrived.
pub(crate) enum Answer {
    Paid(Receipt),
    /// `retry_after` is in seconds.
    Refused {
        problem: ProblemBody,
        retry_after: Option<u32>,
    },
}

/// The way to the server.
pub(crate) struct Network {
    http: Client<HttpConnector, Body>,
    server: SocketAddr,
    loss: f64,
    tally: Arc<Tally>,
}

impl Network {
    pub(crate) fn new(server: SocketAddr, loss: f64, tally: Arc<Tally>) -> Network {
        let http = Client::builder(TokioExecutor::new()).build_http();
        Network {
            http,
            server,
            loss,
            tally,
        }
    }

    /// Sends `call` and waits for an answer, for as long as `patience` lasts.
    pub(crate) async fn send(&self, call: &Call<'_>, patience: Duration, luck: &mut Luck) -> Option<Answer> {
        let give_up = Instant::now() + patience;
        // Both are drawn each time, so that the next draw does not depend on this one's fate.
        let [lose_request, lose_response] = [(); 2].map(|()| luck.random_bool(self.loss));
        self.tally.sent.add();
        if lose_request {
            self.tally.requests_lost.add();
            sleep_until(give_up).await;
            return None;
        }
        // An exchange that is dropped by the timeout closes its connection: the client hangs up.
        let answer = match timeout_at(give_up, self.exchange(call)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => {
                self.tally.broken_connections.add();
                return None;
            }
            Err(_) => {
                self.tally.hung_up.add();
                return None;
            }
        };
        if lose_response {
            self.tally.responses_lost.add();
            sleep_until(give_up).await;
            return None;
        }
        Some(answer)
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<Answer, Box<dyn Error + Send + Sync>> {
        let request = Request::post(format!("http://{}/charges", self.server))
            .header(header::AUTHORIZATION, format!("Bearer {}", call.customer))
            .header(header::CONTENT_TYPE, "application/json")
            .header("idempotency-key", format!("\"{}\"", call.key))
            .body(Body::from(serde_json::to_vec(&call.request)?))?;
        let (head, body) = self.http.request(request).await?.into_parts();
        let body = body::to_bytes(Body::new(body), LONGEST_ANSWER).await?;
        if head.status == StatusCode::CREATED {
            if head.headers.contains_key("idempotent-replayed") {
                self.tally.replays.add();
            }
            return Ok(Answer::Paid(serde_json::from_slice(&body)?));
        }
        let problem: ProblemBody = serde_json::from_slice(&body)?;
        self.tally.problem(&problem.code);
        Ok(Answer::Refused {
            problem,
            retry_after: retry_after(&head.headers),
        })
    }

    /// `GET /figures`, once the day is over and the network is quiet.
    pub(crate) async fn figures(&self) -> Option<Figures> {
        let uri = format!("http://{}/figures", self.server).parse().ok()?;
        let response = self.http.get(uri).await.ok()?;
        let body = body::to_bytes(Body::new(response.into_body()), LONGEST_ANSWER)
            .await
            .ok()?;
        serde_json::from_slice(&body).ok()
    }
}

fn retry_after(headers: &HeaderMap) -> Option<u32> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()
}
