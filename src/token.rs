//! A claim as a string or bytes, to hand it through a queue.
//!
//! ```text
//!  0        1          9            17            33          34       36            n-4     n
//!  +--------+----------+------------+-------------+-----------+--------+-------------+-------+
//!  |version | store id | generation | fingerprint | scope len | id len | scope, id   | crc32 |
//!  +--------+----------+------------+-------------+-----------+--------+-------------+-------+
//! ```
//!
//! Numbers are little-endian; the checksum covers everything before it. As a string: the bytes
//! in lower-case hexadecimal.

use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::key::{CheckedKey, Key, KeyBuf};
use std::fmt;
use std::str::FromStr;

const VERSION: u8 = 1;
const HEAD: usize = 36;
const CRC: usize = 4;

/// A claim detached from its guard, to be taken up elsewhere with
/// [`Store::attach`](crate::Store::attach).
///
/// A token works once: attaching it takes a new generation, so a queue that delivers it twice
/// leads to one holder. While it is queued the lease runs on; `renew` before detaching if the
/// queue may be long. Tokens are meant for the same store; another one refuses them.
///
/// # Examples
///
/// ```
/// use onceonly::{Claim, ClaimToken, Error, Fingerprint, Key, Store};
///
/// let store = Store::in_memory()?;
/// let Claim::Acquired(guard) = store.claim(Key::new("acme", "job-1"), Fingerprint::NONE)? else {
///     unreachable!("a new key")
/// };
/// let message = guard.detach().to_string();
///
/// // Elsewhere, later:
/// let token: ClaimToken = message.parse()?;
/// let Claim::Acquired(guard) = store.attach(&token)? else { unreachable!("first delivery") };
/// assert!(matches!(store.attach(&token), Err(Error::LeaseLost { .. })), "second delivery");
/// guard.complete(b"done")?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimToken {
    store: u64,
    generation: u64,
    fingerprint: Fingerprint,
    key: KeyBuf,
}

impl ClaimToken {
    pub(crate) fn new(store: u64, generation: u64, fingerprint: Fingerprint, key: KeyBuf) -> Self {
        ClaimToken {
            store,
            generation,
            fingerprint,
            key,
        }
    }

    /// The fingerprint the key was claimed with.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The key claimed.
    pub fn key(&self) -> Key<'_> {
        self.key.as_key()
    }

    /// The claim's generation.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn store(&self) -> u64 {
        self.store
    }

    /// The token as bytes; 40 more than the key.
    pub fn to_bytes(&self) -> Vec<u8> {
        let key = self.key.as_checked();
        let mut bytes = Vec::with_capacity(HEAD + key.len() + CRC);
        bytes.push(VERSION);
        bytes.extend(self.store.to_le_bytes());
        bytes.extend(self.generation.to_le_bytes());
        bytes.extend(self.fingerprint.to_bytes());
        bytes.push(key.scope().len() as u8);
        bytes.extend((key.id().len() as u16).to_le_bytes());
        bytes.extend(key.scope());
        bytes.extend(key.id());
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, here or by any earlier version.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if the bytes are no token, were damaged, or come from a newer
    /// version.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let invalid = |why| Error::InvalidInput { what: "token", why };
        let damaged = || invalid("it is no claim token, or was damaged on the way");
        let (body, crc) = bytes.split_last_chunk::<CRC>().ok_or_else(damaged)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return Err(damaged());
        }
        let (head, key) = body.split_first_chunk::<HEAD>().ok_or_else(damaged)?;
        if head[0] != VERSION {
            return Err(invalid("it was made by a newer version"));
        }
        let number = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| head[at + i]));
        let scope_len = usize::from(head[33]);
        let id_len = usize::from(u16::from_le_bytes([head[34], head[35]]));
        if key.len() != scope_len + id_len {
            return Err(damaged());
        }
        let (scope, id) = key.split_at(scope_len);
        let key = CheckedKey::from_parts(scope, id).ok_or_else(damaged)?;
        Ok(ClaimToken {
            store: number(1),
            generation: number(9),
            fingerprint: Fingerprint::from_bytes(std::array::from_fn(|i| head[17 + i])),
            key: key.to_buf(),
        })
    }
}

impl fmt::Display for ClaimToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ClaimToken {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let invalid = Error::InvalidInput {
            what: "token",
            why: "it is not hexadecimal",
        };
        let digit = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
        let (pairs, rest) = s.as_bytes().as_chunks::<2>();
        let bytes: Option<Vec<u8>> = pairs
            .iter()
            .map(|[hi, lo]| Some(digit(*hi)? << 4 | digit(*lo)?))
            .collect();
        match bytes {
            Some(bytes) if rest.is_empty() => Self::from_bytes(&bytes),
            _ => Err(invalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(scope: &[u8], id: &[u8]) -> ClaimToken {
        let key = CheckedKey::from_parts(scope, id).unwrap();
        ClaimToken::new(
            0x0123_4567_89ab_cdef,
            42,
            Fingerprint::from_bytes([0xfe; 16]),
            key.to_buf(),
        )
    }

    #[test]
    fn golden_string() {
        let golden = format!(
            "01{}{}{}{}{}{}",
            "efcdab8967452301", // store
            "2a00000000000000", // generation
            "fe".repeat(16),    // fingerprint
            "04",               // length of the scope
            "0700",             // length of the id
            "61636d656f726465722d31",
        );
        assert!(token(b"acme", b"order-1").to_string().starts_with(&golden));
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let mut bytes = token(b"a", b"b").to_bytes();
        bytes[0] = 2;
        let end = bytes.len() - CRC;
        let crc = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&crc);
        let error = ClaimToken::from_bytes(&bytes).unwrap_err();
        assert!(error.to_string().contains("newer"), "{error}");
    }

    proptest! {
        #[test]
        fn round_trips(scope in prop::collection::vec(any::<u8>(), 0..256), id in prop::collection::vec(any::<u8>(), 1..1_025)) {
            let token = token(&scope, &id);
            prop_assert_eq!(&ClaimToken::from_bytes(&token.to_bytes()).unwrap(), &token);
            prop_assert_eq!(token.to_string().parse::<ClaimToken>().unwrap(), token);
        }

        #[test]
        fn one_flipped_bit_is_noticed(at in 0usize..51, bit in 0u8..8) {
            let mut bytes = token(b"acme", b"order-1").to_bytes();
            prop_assume!(at < bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(ClaimToken::from_bytes(&bytes).is_err());
        }

        #[test]
        fn arbitrary_input_is_refused(text in ".{0,80}", bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            prop_assert!(text.parse::<ClaimToken>().is_err());
            prop_assert!(ClaimToken::from_bytes(&bytes).is_err());
        }
    }
}
