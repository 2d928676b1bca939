//! Keys counted by scope, for `max_keys_per_scope`.

use super::Refused;
use crate::quota::Quota;
use crate::sync::Mutex;
use std::collections::HashMap;

/// Parts the counts are spread over, each with a lock of its own.
const PARTS: usize = 16;

type Counts = HashMap<Box<[u8]>, u64, ahash::RandomState>;

pub(crate) struct Scopes {
    limit: u64,
    hasher: ahash::RandomState,
    parts: [Mutex<Counts>; PARTS],
}

impl Scopes {
    pub(crate) fn new(limit: u64) -> Self {
        let hasher = crate::key::seeds();
        Scopes {
            limit,
            parts: std::array::from_fn(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))),
            hasher,
        }
    }

    fn part(&self, scope: &[u8]) -> &Mutex<Counts> {
        &self.parts[self.hasher.hash_one(scope) as usize % PARTS]
    }

    /// Bytes a scope takes: its own, and a place in a map that is about half full.
    fn bytes(scope: &[u8]) -> u64 {
        (scope.len() + 64) as u64
    }

    /// Counts a key, unless the scope or the byte budget has no room.
    pub(crate) fn take(&self, scope: &[u8], bytes: &Quota) -> Result<(), Refused> {
        let mut part = self.part(scope).lock();
        if let Some(count) = part.get_mut(scope) {
            if *count >= self.limit {
                return Err(Refused::Scope);
            }
            *count += 1;
            return Ok(());
        }
        if !bytes.take_direct(Self::bytes(scope)) {
            return Err(Refused::Bytes);
        }
        part.insert(scope.into(), 1);
        Ok(())
    }

    /// Counts a key that was there before this store was opened.
    pub(crate) fn force(&self, scope: &[u8], bytes: &Quota) {
        let mut part = self.part(scope).lock();
        if let Some(count) = part.get_mut(scope) {
            *count += 1;
        } else {
            bytes.force_direct(Self::bytes(scope));
            part.insert(scope.into(), 1);
        }
    }

    /// Uncounts a key.
    pub(crate) fn give(&self, scope: &[u8], bytes: &Quota) {
        let mut part = self.part(scope).lock();
        let Some(count) = part.get_mut(scope) else { return };
        *count -= 1;
        if *count == 0 {
            part.remove(scope);
            bytes.give_direct(Self::bytes(scope));
        }
    }
}
