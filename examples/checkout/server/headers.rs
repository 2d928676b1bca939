//! Who is asking, and under which key.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;

use super::problem::Problem;

/// The longest key, and the longest name of a customer, that is taken.
const MAX_LEN: usize = 255;

/// The customer, and so the scope of the key.
///
/// It stands for whatever authenticates your users. It must not come from the body: whoever could
/// choose a scope could read the replies to somebody else.
pub(crate) fn customer(headers: &HeaderMap) -> Result<&str, Problem> {
    let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    match authorization.and_then(|value| value.strip_prefix("Bearer ")) {
        Some(customer) if (1..=MAX_LEN).contains(&customer.len()) => Ok(customer),
        _ => Err(Problem::no_customer()),
    }
}

/// The `Idempotency-Key`: a Structured Field String (`"…"`) as of draft-07, or the same without
/// quotes, as most clients send it.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<String, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value.as_bytes(),
        (None, _) => return Err(Problem::bad_key("send an Idempotency-Key")),
        (Some(_), Some(_)) => return Err(Problem::bad_key("send one Idempotency-Key, not two")),
    };
    let key = match value {
        [b'"', quoted @ .., b'"'] => unescape(quoted),
        // A bare comma would stand between two keys.
        bare if bare.iter().any(|byte| b"\"\\,".contains(byte)) => None,
        bare => Some(bare.to_vec()),
    };
    key.filter(|key| (1..=MAX_LEN).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic))
        .and_then(|key| String::from_utf8(key).ok())
        .ok_or(Problem::bad_key(
            "an Idempotency-Key is 1 to 255 visible ASCII characters",
        ))
}

/// The inside of a quoted string: a backslash stands before each quote and backslash.
fn unescape(quoted: &[u8]) -> Option<Vec<u8>> {
    let mut plain = Vec::with_capacity(quoted.len());
    let mut bytes = quoted.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'"' => return None,
            b'\\' => plain.push(*bytes.next().filter(|next| matches!(next, b'"' | b'\\'))?),
            _ => plain.push(byte),
        }
    }
    Some(plain)
}
