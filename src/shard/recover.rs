//! Filling a shard from what was found in the log.
//!
//! First every record is offered, in any order and by several threads: the slot of a key leads
//! to the one that counts. Then [`settle_recovered`](Locked::settle_recovered) turns what the
//! slots lead to into what the key is: an outcome stays, an unfinished claim becomes an
//! interrupted one in the slab, whatever has ended or expired goes.

use super::change::bytes_for_key;
use super::index::{Slot, Target};
use super::lease::{Busy, Terms};
use super::{Commons, Found, Keyed, Locked};
use crate::clock::Tick;
use crate::epoch::Guard;
use crate::key::KeyHasher;
use crate::segment::Address;
use crate::segment::record::Kind;
use crate::status::Cause;

/// What was found.
#[derive(Clone, Copy, Default)]
pub(crate) struct Recovered {
    pub(crate) completed: u64,
    pub(crate) interrupted: u64,
}

impl Locked<'_> {
    /// Starts generations above those of earlier lives.
    pub(crate) fn start_generations(&mut self, first: u64) {
        self.next_generation = first;
    }

    /// Makes room for about so many keys.
    pub(crate) fn expect_keys(&mut self, c: &Commons, keys: u64, pin: &Guard) {
        self.rebuild_for(c, keys, pin);
    }

    /// Offers a record that was found at `at`.
    pub(crate) fn recover(&mut self, c: &Commons, k: Keyed<'_>, at: Address, order: (u64, u64), pin: &Guard) {
        match self.find(k, c, pin) {
            Found::Record {
                place,
                at: other,
                record,
            } => {
                // A record that was written again is there twice; the later copy stays.
                let newer = order > record.order()
                    || (order == record.order() && c.segments.table.is_later(at, other));
                if newer {
                    self.index.set(place, Slot::new(k.hash.tag(), Target::Record(at)));
                }
            }
            Found::Nothing { vacant } => {
                let vacant = if self.index.is_full() {
                    self.rebuild_for(c, 0, pin);
                    match self.find(k, c, pin) {
                        Found::Nothing { vacant } => vacant,
                        _ => None,
                    }
                } else {
                    vacant
                };
                if let Some(place) = vacant {
                    self.index
                        .insert(place, Slot::new(k.hash.tag(), Target::Record(at)));
                }
            }
            Found::Lease { .. } => {}
        }
    }

    /// Everything has been offered.
    pub(crate) fn settle_recovered(
        &mut self,
        c: &Commons,
        hasher: &KeyHasher,
        now: Tick,
        pin: &Guard,
    ) -> Recovered {
        let mut found = Recovered::default();
        let mut open: Vec<Address> = Vec::new();
        let inner = &mut *self.inner;
        inner.index.retain(|target| {
            let Target::Record(at) = target else { return true };
            let Some(record) = c.segments.table.record(at, pin) else {
                return false;
            };
            if record.deadline() <= now {
                return false;
            }
            match record.kind() {
                Kind::Completed => {
                    found.completed += 1;
                    c.segments.table.add_live(at);
                    if let (Some(scopes), Some(key)) = (&c.scopes, record.key()) {
                        scopes.force(key.scope(), &c.bytes);
                    }
                    true
                }
                Kind::Claimed => {
                    open.push(at);
                    true
                }
                Kind::Released | Kind::Forgotten => false,
            }
        });
        found.interrupted = open.len() as u64;
        c.keys.force_direct(found.completed + found.interrupted);
        for at in open {
            self.interrupt_recovered(c, hasher, at, now, pin);
        }
        found
    }

    /// Puts an unfinished claim into the slab: its process ended.
    fn interrupt_recovered(&mut self, c: &Commons, hasher: &KeyHasher, at: Address, now: Tick, pin: &Guard) {
        let Some(record) = c.segments.table.record(at, pin) else {
            return;
        };
        let Some(key) = record.key() else { return };
        let k = Keyed {
            key,
            hash: hasher.hash(key),
        };
        let Found::Record { place, .. } = self.find(k, c, pin) else {
            return;
        };
        let checkpoint = record.checkpoint();
        let bytes = (key.len() + checkpoint.map_or(0, <[u8]>::len)) as u64;
        let promised = bytes_for_key(key);
        let slab = self.slab.growth_bytes();
        if slab > 0 {
            self.slab.grow();
        }
        c.bytes.force_direct(bytes + slab);
        if let Some(room) = &c.room {
            room.owe(promised);
        }
        if let Some(scopes) = &c.scopes {
            scopes.force(key.scope(), &c.bytes);
        }
        let terms = Terms {
            hash: k.hash,
            fingerprint: record.fingerprint(),
            generation: record.generation(),
            started: record.written(),
            lease_end: now,
            forget_at: record.deadline(),
            attempt: record.attempt(),
            place,
            cause: Some(Cause::Crashed),
            counted: false,
            lapse_told: true,
            asked: false,
            passing: false,
            bytes,
            promised,
            at: Some(at),
            revision: record.revision(),
            busy: Busy::No,
        };
        let index = self.slab.insert(key, terms);
        if let Some(lease) = self.slab.get_mut(index) {
            lease.checkpoint = checkpoint.map(Into::into);
        }
        self.index
            .set(place, Slot::new(k.hash.tag(), Target::Lease(index)));
        self.arm(index, now);
    }
}
