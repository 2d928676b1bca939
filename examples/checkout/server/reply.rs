//! The answer to a charge: what is sent, what is kept for repeats, and the way back.

use axum::body::Bytes;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use onceonly::Outcome;

use super::problem::Problem;
use crate::wire::Receipt;

/// A status and a JSON body. The store keeps the body as the outcome and the status as its tag.
pub(crate) struct Reply {
    status: StatusCode,
    body: Bytes,
    replayed: bool,
}

impl Reply {
    /// The answer to a charge that was made.
    pub(crate) fn created(receipt: &Receipt) -> Result<Reply, Problem> {
        let body = serde_json::to_vec(receipt).map_err(|_| Problem::broken())?;
        Ok(Reply {
            status: StatusCode::CREATED,
            body: body.into(),
            replayed: false,
        })
    }

    /// The answer somebody got before, byte for byte and under the same status.
    pub(crate) fn replayed(outcome: &Outcome) -> Result<Reply, Problem> {
        let status = StatusCode::from_u16(outcome.tag()).map_err(|_| Problem::broken())?;
        Ok(Reply {
            status,
            body: Bytes::copy_from_slice(outcome),
            replayed: true,
        })
    }

    pub(crate) fn status(&self) -> u16 {
        self.status.as_u16()
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let kind = [(CONTENT_TYPE, "application/json")];
        let marker = self.replayed.then_some([("idempotent-replayed", "true")]);
        match marker {
            Some(marker) => (self.status, kind, marker, self.body).into_response(),
            None => (self.status, kind, self.body).into_response(),
        }
    }
}
