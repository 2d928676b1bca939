//! What operators ask and do: look at keys, and settle or forget them.

use super::{Engine, Grip, NewOutcome};
use crate::answer::record_status;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::key::{CheckedKey, KeyBuf};
use crate::shard::change::Held;
use crate::shard::state::Command;
use crate::shard::{Found, Keyed, Lost};
use crate::status::Status;
use crate::sync::Ordering;

/// A key as a scan finds it.
pub(crate) type ScanItem = (KeyBuf, Status);

impl Engine {
    pub(crate) fn status(&self, k: Keyed<'_>) -> Result<Status> {
        let now = self.enter_reading()?;
        let pin = self.commons.pins.pin();
        let shard = self.shard(k).lock();
        let found = shard.find(k, &self.commons, &pin);
        Ok(shard.status(&found, now))
    }

    pub(crate) fn forget(&self, k: Keyed<'_>) -> Result<bool> {
        let now = self.enter()?;
        if let Some(log) = &self.log {
            return self.forget_logged(log, k, now);
        }
        let pin = self.commons.pins.pin();
        let forgot = self.shard(k).lock().forget(&self.commons, k, now, &pin);
        Ok(forgot)
    }

    /// Finds the unfinished claim of that generation.
    fn seen(&self, k: Keyed<'_>, generation: u64) -> Result<(Held, Fingerprint)> {
        let now = self.enter()?;
        let pin = self.commons.pins.pin();
        let shard = self.shard(k).lock();
        let found = shard.find(k, &self.commons, &pin);
        if let Found::Lease { index, .. } = found
            && let Some(lease) = shard.lease(index)
            && lease.generation == generation
        {
            let held = Held {
                lease: index,
                generation,
            };
            return Ok((held, lease.fingerprint));
        }
        Err(Error::LeaseLost {
            current: shard.status(&found, now),
        })
    }

    /// Completes a claim in its holder's place.
    pub(crate) fn resolve_complete(
        &self,
        k: Keyed<'_>,
        generation: u64,
        outcome: NewOutcome<'_>,
    ) -> Result<()> {
        let (held, fingerprint) = self.seen(k, generation)?;
        let grip = Grip { k, fingerprint, held };
        match self.settle(grip, Command::Settle(generation), outcome)? {
            Ok(_) => Ok(()),
            Err(Lost) => Err(Error::LeaseLost {
                current: self.status(k)?,
            }),
        }
    }

    /// Gives a claim back in its holder's place.
    pub(crate) fn resolve_release(&self, k: Keyed<'_>, generation: u64) -> Result<()> {
        let (held, _) = self.seen(k, generation)?;
        self.release(k, held, Command::Settle(generation))
    }

    pub(crate) fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Everything one shard knows, as far as `wanted` says. The lock is held only to copy the
    /// slots and the unfinished claims; records are read after it, under the pin.
    pub(crate) fn scan_shard(
        &self,
        number: usize,
        wanted: impl Fn(CheckedKey<'_>, &Status) -> bool,
        out: &mut Vec<ScanItem>,
    ) -> Result<()> {
        let now = self.enter_reading()?;
        let Some(shard) = self.shards.get(number) else {
            return Ok(());
        };
        let pin = self.commons.pins.pin();
        let mut keep = |key: CheckedKey<'_>, status: Status| {
            if status != Status::Absent && wanted(key, &status) {
                out.push((key.to_buf(), status));
            }
        };
        let records = {
            let shard = shard.lock();
            let (leases, records) = shard.snapshot();
            for lease in leases.into_iter().filter_map(|index| shard.lease(index)) {
                keep(lease.key.as_checked(), lease.status(now));
            }
            records
        };
        for at in records {
            if let Some(record) = self.commons.segments.table.record(at, &pin)
                && record.deadline() > now
                && let Some(key) = record.key()
            {
                keep(key, record_status(&record, now));
            }
        }
        Ok(())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}
