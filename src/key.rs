//! The key, (scope, id): two byte strings compared exactly, and how they are hashed.
//!
//! A [`Key`] as the caller makes it may be wrong (an empty id, a scope too long). The store
//! checks it once, at the door, and from there on only a [`CheckedKey`] travels.

use crate::error::{Error, Result};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher};

/// The longest scope, in bytes.
pub(crate) const MAX_SCOPE: usize = 255;
/// The longest id, in bytes.
pub(crate) const MAX_ID: usize = 1_024;

/// What one logical operation is known by: a scope and an id, both opaque bytes.
///
/// The scope is the tenant, account or topic. It is mandatory, because two tenants who happen
/// to choose the same id must never see each other's outcomes; where there truly is only one,
/// say [`Key::unscoped`].
///
/// Making a key costs nothing and cannot fail; the call that uses it checks the limits
/// (scope 1 to 255 bytes, id 1 to 1,024 bytes).
///
/// # Examples
///
/// ```
/// use onceonly::Key;
///
/// let key = Key::new("account-17", "order-4711");
/// assert_eq!(key.scope(), b"account-17");
/// assert_eq!(key.id(), b"order-4711");
/// assert_ne!(key, Key::unscoped("order-4711"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key<'k> {
    scope: &'k [u8],
    id: &'k [u8],
    scoped: bool,
}

impl<'k> Key<'k> {
    /// A key inside a scope. An empty scope is refused by the call that uses the key.
    pub fn new<S: AsRef<[u8]> + ?Sized, I: AsRef<[u8]> + ?Sized>(scope: &'k S, id: &'k I) -> Self {
        Key {
            scope: scope.as_ref(),
            id: id.as_ref(),
            scoped: true,
        }
    }

    /// A key that belongs to nobody in particular: all unscoped keys share one namespace.
    pub fn unscoped<I: AsRef<[u8]> + ?Sized>(id: &'k I) -> Self {
        Key {
            scope: &[],
            id: id.as_ref(),
            scoped: false,
        }
    }

    /// The scope; empty for an unscoped key.
    pub fn scope(self) -> &'k [u8] {
        self.scope
    }

    /// The id.
    pub fn id(self) -> &'k [u8] {
        self.id
    }

    /// A copy that borrows nothing. Keys of up to 54 bytes are kept without an allocation.
    pub fn to_owned(self) -> KeyBuf {
        KeyBuf::new(self)
    }

    pub(crate) fn check(self) -> Result<CheckedKey<'k>> {
        let empty = |what| Error::InvalidInput {
            what,
            why: "it is empty; give at least one byte",
        };
        if self.scoped && self.scope.is_empty() {
            return Err(Error::InvalidInput {
                what: "scope",
                why: "it is empty; name the tenant, account or topic, or use Key::unscoped",
            });
        }
        if self.id.is_empty() {
            return Err(empty("id"));
        }
        Error::check_len("scope", self.scope.len(), MAX_SCOPE)?;
        Error::check_len("id", self.id.len(), MAX_ID)?;
        Ok(CheckedKey {
            scope: self.scope,
            id: self.id,
        })
    }
}

impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(")?;
        if self.scoped {
            write!(f, "\"{}\" / ", self.scope.escape_ascii())?;
        }
        write!(f, "\"{}\")", self.id.escape_ascii())
    }
}

/// Bytes kept inside the `KeyBuf` itself; chosen so that a `KeyBuf` is one cache line.
const INLINE: usize = 54;

#[derive(Clone)]
enum Bytes {
    Inline { len: u8, bytes: [u8; INLINE] },
    Heap(Box<[u8]>),
}

/// Copies both, end to end.
#[inline]
fn put_together(to: &mut [u8], scope: &[u8], id: &[u8]) {
    if scope.is_empty() {
        // Most often: a copy of nothing is a call all the same.
        return to.copy_from_slice(id);
    }
    let (first, second) = to.split_at_mut(scope.len());
    first.copy_from_slice(scope);
    second.copy_from_slice(id);
}

/// A [`Key`] that owns its bytes.
///
/// ```
/// use onceonly::{Key, KeyBuf};
/// let kept: KeyBuf = Key::new("acme", "42").to_owned();
/// assert_eq!(kept.as_key(), Key::new("acme", "42"));
/// ```
#[derive(Clone)]
pub struct KeyBuf {
    /// Scope and id, end to end.
    bytes: Bytes,
    /// Scopes longer than the limit are kept whole on the heap, so that the call that
    /// refuses the key can still say what was given.
    scope_len: u16,
    scoped: bool,
}

impl KeyBuf {
    fn new(key: Key<'_>) -> Self {
        // A scope of 64 KiB or more cannot be told apart by a u16; it is far beyond the limit,
        // and cutting it to the largest length still leaves it beyond the limit.
        let scope = &key.scope[..key.scope.len().min(usize::from(u16::MAX))];
        let len = scope.len() + key.id.len();
        let bytes = if len <= INLINE {
            let mut bytes = [0; INLINE];
            put_together(&mut bytes[..len], scope, key.id);
            Bytes::Inline {
                len: len as u8,
                bytes,
            }
        } else {
            Bytes::Heap([scope, key.id].concat().into_boxed_slice())
        };
        KeyBuf {
            bytes,
            scope_len: scope.len() as u16,
            scoped: key.scoped,
        }
    }

    /// Becomes this key, in place if both are short.
    pub(crate) fn set(&mut self, key: CheckedKey<'_>) {
        let len = key.len();
        match &mut self.bytes {
            Bytes::Inline { len: kept, bytes } if len <= INLINE => {
                *kept = len as u8;
                put_together(&mut bytes[..len], key.scope, key.id);
                self.scope_len = key.scope.len() as u16;
                self.scoped = !key.scope.is_empty();
            }
            _ => *self = key.to_buf(),
        }
    }

    /// Gives back what lies outside of the buffer itself.
    pub(crate) fn clear(&mut self) {
        if let Bytes::Heap(_) = self.bytes {
            self.bytes = Bytes::Inline {
                len: 0,
                bytes: [0; INLINE],
            };
            self.scope_len = 0;
        }
    }

    /// The borrowed form.
    pub fn as_key(&self) -> Key<'_> {
        let (scope, id) = self.split();
        Key {
            scope,
            id,
            scoped: self.scoped,
        }
    }

    fn split(&self) -> (&[u8], &[u8]) {
        let bytes = match &self.bytes {
            Bytes::Inline { len, bytes } => &bytes[..usize::from(*len)],
            Bytes::Heap(bytes) => bytes,
        };
        bytes.split_at(usize::from(self.scope_len))
    }

    /// For keys that were checked before they were kept.
    pub(crate) fn as_checked(&self) -> CheckedKey<'_> {
        let (scope, id) = self.split();
        CheckedKey { scope, id }
    }
}

impl PartialEq for KeyBuf {
    fn eq(&self, other: &Self) -> bool {
        self.as_key() == other.as_key()
    }
}

impl Eq for KeyBuf {}

impl Hash for KeyBuf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_key().hash(state);
    }
}

impl fmt::Debug for KeyBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.as_key(), f)
    }
}

impl<'k> From<&'k KeyBuf> for Key<'k> {
    fn from(key: &'k KeyBuf) -> Self {
        key.as_key()
    }
}

/// A key inside its limits. An empty scope means unscoped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct CheckedKey<'k> {
    scope: &'k [u8],
    id: &'k [u8],
}

impl<'k> CheckedKey<'k> {
    pub(crate) fn scope(self) -> &'k [u8] {
        self.scope
    }

    pub(crate) fn id(self) -> &'k [u8] {
        self.id
    }

    pub(crate) fn len(self) -> usize {
        self.scope.len() + self.id.len()
    }

    /// Puts a stored key back together; `None` if the lengths are outside the limits.
    pub(crate) fn from_parts(scope: &'k [u8], id: &'k [u8]) -> Option<Self> {
        (scope.len() <= MAX_SCOPE && (1..=MAX_ID).contains(&id.len())).then_some(CheckedKey { scope, id })
    }

    pub(crate) fn to_buf(self) -> KeyBuf {
        KeyBuf::new(Key {
            scope: self.scope,
            id: self.id,
            scoped: !self.scope.is_empty(),
        })
    }
}

/// The 64-bit hash of a key within one store. It is never written down: the seeds are random
/// per store, so that nobody can choose keys that collide.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KeyHash(u64);

/// Bits of the hash an index slot keeps.
pub(crate) const TAG_BITS: u32 = 23;

impl KeyHash {
    /// The shard, for a power-of-two number of shards: the top bits.
    #[inline]
    pub(crate) fn shard(self, shards: usize) -> usize {
        debug_assert!(shards.is_power_of_two());
        // Rotating instead of shifting keeps one shard (a shift by 64) well defined.
        (self.0.rotate_left(shards.trailing_zeros()) as usize) & (shards - 1)
    }

    /// What an index slot keeps of the hash: the low bits, disjoint from the shard's.
    #[inline]
    pub(crate) fn tag(self) -> u32 {
        (self.0 & ((1 << TAG_BITS) - 1)) as u32
    }
}

/// Random seeds, so that nobody outside can choose keys that collide; under a model checker, whose
/// runs have to be repeatable, always the same.
pub(crate) fn seeds() -> ahash::RandomState {
    if cfg!(all(test, any(onceonly_loom, onceonly_shuttle))) {
        return ahash::RandomState::with_seeds(1, 2, 3, 4);
    }
    ahash::RandomState::new()
}

/// Hashes keys under seeds of its own.
pub(crate) struct KeyHasher {
    seeds: ahash::RandomState,
    /// Every key hashes alike: the worst an attacker could achieve, for tests.
    constant: bool,
}

impl KeyHasher {
    pub(crate) fn new(constant: bool) -> Self {
        KeyHasher {
            seeds: seeds(),
            constant,
        }
    }

    #[inline]
    pub(crate) fn hash(&self, key: CheckedKey<'_>) -> KeyHash {
        if self.constant {
            return KeyHash(0);
        }
        let mut hasher = self.seeds.build_hasher();
        // The length keeps ("ab", "c") and ("a", "bc") apart; equality is decided on the
        // bytes anyway, this only saves a comparison.
        hasher.write_u8(key.scope.len() as u8);
        hasher.write(key.scope);
        hasher.write(key.id);
        KeyHash(hasher.finish())
    }

    /// A random number that identifies the store.
    pub(crate) fn store_id(&self) -> u64 {
        self.seeds.hash_one(0x6f6e_6365_6f6e_6c79_u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_buf_is_one_cache_line() {
        assert_eq!(std::mem::size_of::<KeyBuf>(), 64);
    }

    #[test]
    fn round_trips_at_every_length_around_the_inline_limit() {
        for scope_len in [1, 20, 54, 55, 255] {
            for id_len in [1, 34, 35, 53, 54, 1_024] {
                let scope = vec![b's'; scope_len];
                let id = vec![b'i'; id_len];
                let key = Key::new(&scope, &id);
                assert_eq!(key.to_owned().as_key(), key);
                assert_eq!(key.check().unwrap().to_buf().as_key(), key);
            }
        }
    }

    #[test]
    fn nothing_of_an_earlier_key_stays_in_a_buffer_that_is_set_anew() {
        let (long, short) = ([b'l'; 200], [b's'; 54]);
        let keys = [
            Key::new("acme", "order-1"),
            Key::unscoped("x"),
            Key::unscoped(&short),
            Key::unscoped(&long),
            Key::new(&long, "id"),
        ];
        for before in keys {
            for after in keys {
                let mut kept = before.to_owned();
                kept.set(after.check().unwrap());
                assert_eq!(kept.as_key(), after);
                kept.clear();
                kept.set(before.check().unwrap());
                assert_eq!(kept.as_key(), before);
            }
        }
    }

    #[test]
    fn a_scope_beyond_every_limit_stays_refused_when_owned() {
        let scope = vec![0; 100_000];
        let kept = Key::new(&scope, "x").to_owned();
        assert!(kept.as_key().check().is_err());
    }

    #[test]
    fn unscoped_and_empty_scope_are_different_things() {
        assert!(Key::unscoped("x").check().is_ok());
        assert!(Key::new("", "x").check().is_err());
        assert!(Key::new("", "x").to_owned().as_key().check().is_err());
    }

    #[test]
    fn shard_and_tag_come_from_disjoint_bits() {
        assert_eq!(KeyHash(u64::MAX << 32).tag(), 0);
        assert_eq!(KeyHash(0xffff_ffff).shard(4096), 0);
        assert_eq!(KeyHash(u64::MAX).shard(1), 0);
        assert_eq!(KeyHash(1 << 63).shard(2), 1);
    }

    #[test]
    fn two_stores_hash_differently() {
        let key = Key::new("a", "b").check().unwrap();
        assert_ne!(KeyHasher::new(false).hash(key), KeyHasher::new(false).hash(key));
    }
}
