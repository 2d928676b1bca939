//! Every answer that is not a receipt, as `application/problem+json`.

use std::time::Duration;

use axum::Json;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};

use super::processor::ChargeError;
use crate::wire::ProblemBody;

/// Why a request got no receipt, and whether sending it again can help.
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    retryable: bool,
    retry_after: Option<Duration>,
}

impl Problem {
    const fn new(status: StatusCode, code: &'static str, title: &'static str) -> Problem {
        Problem {
            status,
            code,
            title,
            retryable: false,
            retry_after: None,
        }
    }

    const fn retryable(self) -> Problem {
        Problem {
            retryable: true,
            ..self
        }
    }

    pub(crate) fn no_customer() -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "no_customer", "say who you are")
    }

    pub(crate) fn bad_key(title: &'static str) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad_key", title)
    }

    pub(crate) fn unreadable(status: StatusCode) -> Problem {
        Problem::new(status, "unreadable", "the body could not be read")
    }

    pub(crate) fn not_a_charge() -> Problem {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "not_a_charge",
            "the body is not a charge",
        )
    }

    pub(crate) fn no_figures() -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "no_figures", "this server counts nothing")
    }

    /// The key was used for another request. Trying again cannot help; a new key can.
    pub(crate) fn mismatch() -> Problem {
        let title = "this key was used for another request";
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "mismatch", title)
    }

    /// Somebody is at it. `left` is what remains of the lease.
    pub(crate) fn in_flight(left: Duration) -> Problem {
        let title = "this request is being worked on";
        let problem = Problem::new(StatusCode::CONFLICT, "in_flight", title).retryable();
        Problem {
            retry_after: Some(left),
            ..problem
        }
    }

    /// A first request ended in the middle, and what it did cannot be found out just now.
    pub(crate) fn interrupted() -> Problem {
        let title = "an earlier attempt broke off and is not settled yet";
        Problem::new(StatusCode::CONFLICT, "interrupted", title).retryable()
    }

    /// A mistake of ours.
    pub(crate) fn broken() -> Problem {
        let title = "something went wrong here";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "broken", title).retryable()
    }
}

/// The store cannot keep its promise now: nothing is charged without it.
impl From<onceonly::Error> for Problem {
    fn from(error: onceonly::Error) -> Problem {
        // To be full is an answer. Anything else is for whoever runs the server to look into.
        if error.retry_after().is_none() {
            eprintln!("checkout: {error}");
        }
        let title = "payments cannot be recorded at the moment";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "store", title).retryable();
        let retry_after = error.retry_after().unwrap_or(Duration::from_secs(1));
        Problem {
            retry_after: Some(retry_after),
            ..problem
        }
    }
}

impl From<ChargeError> for Problem {
    fn from(error: ChargeError) -> Problem {
        let (status, code, title) = match error {
            ChargeError::Refused => (
                StatusCode::BAD_GATEWAY,
                "refused",
                "the card processor takes no calls",
            ),
            ChargeError::Silent => (
                StatusCode::GATEWAY_TIMEOUT,
                "silent",
                "the card processor did not answer",
            ),
        };
        Problem::new(status, code, title).retryable()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = ProblemBody {
            title: self.title.to_owned(),
            status: self.status.as_u16(),
            code: self.code.to_owned(),
            retryable: self.retryable,
        };
        let kind = [(CONTENT_TYPE, "application/problem+json")];
        let response = (self.status, kind, Json(body));
        match self.retry_after {
            Some(wait) => ([(RETRY_AFTER, whole_seconds(wait).to_string())], response).into_response(),
            None => response.into_response(),
        }
    }
}

/// `Retry-After` knows whole seconds only. Rounded up: coming back early is of no use.
fn whole_seconds(wait: Duration) -> u64 {
    let rounded_up = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
    rounded_up.max(1)
}
