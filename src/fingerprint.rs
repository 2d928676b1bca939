//! The fingerprint: 16 bytes that stand for the request's payload.

use std::fmt;

/// Sixteen bytes that stand for the payload of a request.
///
/// A repeat that carries the same key but another fingerprint is a caller's mistake
/// and gets [`Claim::Mismatch`](crate::Claim::Mismatch), even while the first request
/// still runs. Fingerprints are compared in full and stored with the outcome, so use a
/// function whose result does not change between releases of your program.
///
/// # Examples
///
/// ```
/// use onceonly::Fingerprint;
///
/// // Digests of your own go in as they are.
/// let own = Fingerprint::from_bytes([7; 16]);
/// assert_eq!(own.to_bytes(), [7; 16]);
///
/// # #[cfg(feature = "sha2")] {
/// // With the feature `sha2`, any bytes will do.
/// let body = Fingerprint::of(br#"{"amount":4200}"#);
/// assert_ne!(body, Fingerprint::of(br#"{"amount":4300}"#));
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 16]);

impl Fingerprint {
    /// "The id is the whole identity": every repeat of the key matches.
    pub const NONE: Fingerprint = Fingerprint([0; 16]);

    /// Takes sixteen bytes as they are; all zeros are [`Fingerprint::NONE`].
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Fingerprint(bytes)
    }

    /// The sixteen bytes.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// The first half of the payload's SHA-256 (FIPS 180-4).
    ///
    /// Costs about 2 ns a byte without, 0.5 ns with the processor's SHA instructions.
    #[cfg(feature = "sha2")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sha2")))]
    pub fn of(payload: impl AsRef<[u8]>) -> Self {
        use sha2::Digest;
        Self::truncated(sha2::Sha256::new().chain_update(payload.as_ref()))
    }

    /// The first half of the SHA-256 of several parts, each preceded by its length as eight
    /// little-endian bytes, so that `["ab", "c"]` and `["a", "bc"]` differ.
    ///
    /// ```
    /// use onceonly::Fingerprint;
    /// let a = Fingerprint::of_parts(["POST", "/charges", "body"]);
    /// let b = Fingerprint::of_parts(["POST", "/charge", "sbody"]);
    /// assert_ne!(a, b);
    /// ```
    #[cfg(feature = "sha2")]
    #[cfg_attr(docsrs, doc(cfg(feature = "sha2")))]
    pub fn of_parts<P: AsRef<[u8]>>(parts: impl IntoIterator<Item = P>) -> Self {
        use sha2::Digest;
        let mut hasher = sha2::Sha256::new();
        for part in parts {
            let part = part.as_ref();
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self::truncated(hasher)
    }

    #[cfg(feature = "sha2")]
    fn truncated(hasher: sha2::Sha256) -> Self {
        use sha2::Digest;
        let digest: [u8; 32] = hasher.finalize().into();
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Fingerprint(half)
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::NONE
    }

    pub(crate) fn to_words(self) -> [u64; 2] {
        let n = u128::from_le_bytes(self.0);
        [n as u64, (n >> 64) as u64]
    }

    pub(crate) fn from_words(words: [u64; 2]) -> Self {
        Fingerprint((u128::from(words[1]) << 64 | u128::from(words[0])).to_le_bytes())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("Fingerprint::NONE");
        }
        f.write_str("Fingerprint(")?;
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        let fp = Fingerprint::from_bytes(std::array::from_fn(|i| i as u8));
        assert_eq!(Fingerprint::from_words(fp.to_words()), fp);
    }

    #[cfg(feature = "sha2")]
    #[test]
    fn of_is_the_first_half_of_sha_256() {
        // FIPS 180-4 test vector for "abc".
        assert_eq!(
            format!("{:?}", Fingerprint::of("abc")),
            "Fingerprint(ba7816bf8f01cfea414140de5dae2223)"
        );
    }
}
