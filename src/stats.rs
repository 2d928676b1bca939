//! What the store has done and holds: counted where it happens, added up when asked.
//!
//! Calls that lock a shard count in the shard ([`Tally`], plain numbers under the lock);
//! replays, which lock nothing, count in one of several stripes ([`Replays`]), each on a cache
//! line of its own.

use crate::epoch::thread_stripe;
use crate::sync::{AtomicU64, Ordering};
use std::fmt;
use std::time::Duration;

/// Counted by one shard, under its lock.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) acquired: u64,
    pub(crate) completed: u64,
    pub(crate) first_seen: u64,
    pub(crate) released: u64,
    pub(crate) in_flight: u64,
    pub(crate) interrupted: u64,
    pub(crate) mismatches: u64,
    pub(crate) stale_completes: u64,
    pub(crate) stale_others: u64,
    pub(crate) takeovers: u64,
    pub(crate) forgotten: u64,
    pub(crate) guards_dropped: u64,
    pub(crate) lapsed: u64,
    pub(crate) rebuilds: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Tally) {
        self.acquired += other.acquired;
        self.completed += other.completed;
        self.first_seen += other.first_seen;
        self.released += other.released;
        self.in_flight += other.in_flight;
        self.interrupted += other.interrupted;
        self.mismatches += other.mismatches;
        self.stale_completes += other.stale_completes;
        self.stale_others += other.stale_others;
        self.takeovers += other.takeovers;
        self.forgotten += other.forgotten;
        self.guards_dropped += other.guards_dropped;
        self.lapsed += other.lapsed;
        self.rebuilds += other.rebuilds;
    }
}

/// Buckets of the replay-age histogram.
pub(crate) const AGE_BUCKETS: usize = 32;

#[derive(Default)]
#[repr(align(128))]
struct Stripe {
    ages: [AtomicU64; AGE_BUCKETS],
    mismatches: AtomicU64,
    at_capacity: AtomicU64,
}

const STRIPES: usize = 16;

/// Counted without a lock.
#[derive(Default)]
pub(crate) struct Replays {
    stripes: [Stripe; STRIPES],
}

impl Replays {
    fn stripe(&self) -> &Stripe {
        &self.stripes[thread_stripe() % STRIPES]
    }

    /// Counts a replay of an outcome of this age in milliseconds.
    #[inline]
    pub(crate) fn count(&self, age: u64) {
        let seconds = age / 1_000;
        let bucket = seconds.checked_ilog2().map_or(0, |b| b as usize + 1);
        self.stripe().ages[bucket.min(AGE_BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_mismatch(&self) {
        self.stripe().mismatches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_at_capacity(&self) {
        self.stripe().at_capacity.fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self, of: impl Fn(&Stripe) -> &AtomicU64) -> u64 {
        self.stripes.iter().map(|s| of(s).load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn mismatches(&self) -> u64 {
        self.sum(|s| &s.mismatches)
    }

    pub(crate) fn at_capacity(&self) -> u64 {
        self.sum(|s| &s.at_capacity)
    }

    pub(crate) fn ages(&self) -> ReplayAges {
        ReplayAges {
            buckets: std::array::from_fn(|i| self.sum(|s| &s.ages[i])),
        }
    }
}

/// How old outcomes were when they were replayed: how late retries come, and so how long the
/// ttl has to be.
///
/// ```
/// # use onceonly::{Fingerprint, Key, Store};
/// let store = Store::in_memory()?;
/// store.first_seen(Key::unscoped("m-1"))?;
/// store.first_seen(Key::unscoped("m-1"))?;
/// let ages = store.stats().replay_ages;
/// assert_eq!(ages.total(), 1);
/// assert_eq!(ages.buckets().next(), Some((std::time::Duration::from_secs(1), 1)));
/// # Ok::<(), onceonly::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplayAges {
    buckets: [u64; AGE_BUCKETS],
}

impl ReplayAges {
    /// (upper bound, replays younger than it and not younger than the bound before), the bounds
    /// doubling from one second. The last bucket holds everything older too.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        let bound = |i: usize| Duration::from_secs(1 << i);
        let buckets = self.buckets;
        (0..AGE_BUCKETS).map(move |i| (bound(i), buckets[i]))
    }

    /// All replays.
    pub fn total(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The bound below which this share (0 to 1) of the replays lies, exact to a factor of two;
    /// `None` if there was none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total = self.total();
        let rank = (total as f64 * share.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.buckets()
            .find(|(_, count)| {
                seen += count;
                seen >= rank
            })
            .filter(|_| total > 0)
            .map(|(bound, _)| bound)
    }
}

/// What a store has done since it was made, and what it holds now.
///
/// Taking it locks one shard after another, some 50 to 100 µs in all; counters are always on.
/// The numbers are each exact, but not of one common instant while others work.
///
/// # Examples
///
/// ```
/// use onceonly::{Key, Store};
/// let store = Store::in_memory()?;
/// store.first_seen(Key::unscoped("m-1"))?;
/// let stats = store.stats();
/// assert_eq!((stats.first_seen, stats.keys_live), (1, 1));
/// println!("{stats}");
/// # Ok::<(), onceonly::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Claims answered `Acquired`: times the work was handed out (takeovers not included).
    pub acquired: u64,
    /// Outcomes stored, by holders or in their place.
    pub completed: u64,
    /// Times `first_seen` said `true`.
    pub first_seen: u64,
    /// Claims given back: by `release`, by an operator, or by a guard set to release on drop.
    pub released: u64,
    /// Outcomes given back: claims answered `Completed`, hits of `replay`, waiters served,
    /// `first_seen` saying `false`. What `resolve` hands out is no replay.
    pub replays: u64,
    /// Claims answered `InFlight`.
    pub in_flight_answers: u64,
    /// Claims answered `Interrupted`.
    pub interrupted_answers: u64,
    /// Calls answered `Mismatch`: a key reused for another request.
    pub mismatches: u64,
    /// Calls refused with `AtCapacity`.
    pub at_capacity: u64,
    /// Completions refused because the claim had been taken over, finished or forgotten.
    pub stale_completes: u64,
    /// Other calls of holders refused for the same reason.
    pub stale_others: u64,
    /// Interrupted claims resumed by a new holder.
    pub takeovers: u64,
    /// Guards dropped without `complete` or `release`.
    pub guards_dropped: u64,
    /// Leases noticed to have run out while held.
    pub leases_lapsed: u64,
    /// Keys made absent by `forget`.
    pub forgotten: u64,

    /// Keys that are not absent: claimed, interrupted or completed. Expired ones count until
    /// their segment is retired, or until they are met.
    pub keys_live: u64,
    /// Keys in flight now.
    pub keys_in_flight: u64,
    /// Keys interrupted now.
    pub keys_interrupted: u64,
    /// Index slots of expired keys whose memory is back and which wait for a sweep.
    pub expired_unreclaimed: u64,
    /// Threads and futures waiting for a holder now.
    pub waiters: u64,

    /// Bytes counted against `max_bytes` now, everything included.
    pub bytes_reserved: u64,
    /// Bytes written in segments: records, live and expired.
    pub bytes_used: u64,
    /// Bytes of the index.
    pub bytes_index: u64,
    /// Bytes unlinked that some reader may still see.
    pub bytes_epoch_pending: u64,
    /// The budget, `max_bytes`.
    pub bytes_limit: u64,
    /// Segments that hold records.
    pub segments: u64,
    /// Times a shard's index was rebuilt, to grow or to shrink.
    pub index_rebuilds: u64,

    /// Bytes of the log's files, prepared ones included. This and what follows is zero in memory.
    pub bytes_disk: u64,
    /// Times the log was synced.
    pub syncs: u64,
    /// Calls that waited for a sync: over `syncs`, how many shared one.
    pub synced_calls: u64,
    /// Records written again because the oldest segment was mostly waste.
    pub records_carried: u64,
    /// Times a file for the log could not be made: no room on the disk, or it failed.
    pub prepare_failures: u64,

    /// How late the repeats come.
    pub replay_ages: ReplayAges,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, items: &[(&str, u64)]| {
            write!(f, "{name:<9}")?;
            for (i, (what, count)) in items.iter().enumerate() {
                let comma = if i == 0 { "" } else { ", " };
                write!(f, "{comma}{what} {count}")?;
            }
            writeln!(f)
        };
        row(
            f,
            "claims",
            &[
                ("acquired", self.acquired),
                ("replayed", self.replays),
                ("in flight", self.in_flight_answers),
                ("interrupted", self.interrupted_answers),
                ("mismatched", self.mismatches),
                ("at capacity", self.at_capacity),
            ],
        )?;
        row(
            f,
            "holders",
            &[
                ("completed", self.completed),
                ("first seen", self.first_seen),
                ("released", self.released),
                ("dropped", self.guards_dropped),
                ("lapsed", self.leases_lapsed),
                ("takeovers", self.takeovers),
                ("stale completes refused", self.stale_completes),
                ("other stale calls", self.stale_others),
            ],
        )?;
        row(
            f,
            "keys",
            &[
                ("live", self.keys_live),
                ("in flight", self.keys_in_flight),
                ("interrupted", self.keys_interrupted),
                ("expired, unreclaimed", self.expired_unreclaimed),
                ("waiters", self.waiters),
                ("forgotten", self.forgotten),
            ],
        )?;
        writeln!(
            f,
            "memory   {} of {}: used {} in {} segments, index {}, epoch-pending {}",
            Size(self.bytes_reserved),
            Size(self.bytes_limit),
            Size(self.bytes_used),
            self.segments,
            Size(self.bytes_index),
            Size(self.bytes_epoch_pending),
        )?;
        if self.bytes_disk > 0 {
            let (bytes, shared) = (Size(self.bytes_disk), self.synced_calls);
            let (syncs, carried) = (self.syncs, self.records_carried);
            writeln!(
                f,
                "disk     {bytes}, syncs {syncs} for {shared} calls, records carried {carried}"
            )?;
        }
        match (self.replay_ages.quantile(0.5), self.replay_ages.quantile(0.99)) {
            (Some(half), Some(most)) => write!(f, "replays  half within {half:?}, 99 % within {most:?}"),
            _ => f.write_str("replays  none yet"),
        }
    }
}

/// Bytes as a person reads them.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let unit = (self.0.checked_ilog2().unwrap_or(0) / 10).min(4);
        if unit == 0 {
            return write!(f, "{} B", self.0);
        }
        let scaled = self.0 as f64 / (1u64 << (10 * unit)) as f64;
        write!(f, "{scaled:.1} {}", UNITS[unit as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_fall_into_doubling_buckets() {
        let replays = Replays::default();
        for seconds in [0, 1, 2, 3, 4, 86_400] {
            replays.count(1_000 * seconds);
        }
        let ages = replays.ages();
        let filled: Vec<_> = ages
            .buckets()
            .filter(|b| b.1 > 0)
            .map(|b| (b.0.as_secs(), b.1))
            .collect();
        assert_eq!(filled, [(1, 1), (2, 1), (4, 2), (8, 1), (131_072, 1)]);
        assert_eq!(ages.total(), 6);
        assert_eq!(ages.quantile(0.5), Some(Duration::from_secs(4)));
        assert_eq!(ages.quantile(1.0), Some(Duration::from_secs(131_072)));
        assert_eq!(Replays::default().ages().quantile(0.5), None);
    }

    #[test]
    fn sizes_read_well() {
        let show = |n| Size(n).to_string();
        assert_eq!(
            [show(0), show(1023), show(1536), show(5 << 30)],
            ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]
        );
    }
}
