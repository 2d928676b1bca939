//! Every option, validated once, when the store is made.

use crate::clock::{AnyClock, Clock, Span};
use crate::disk::{Disk, MmapDisk};
use crate::engine::{Engine, LogOptions, Settings};
use crate::epoch;
use crate::error::{Error, Result};
use crate::options::Durability;
use crate::segment::record::MAX_OUTCOME;
use crate::segment::space;
#[cfg(any(test, feature = "sim"))]
use crate::segment::space::MAX_SEGMENT_BYTES;
use crate::store::Store;
use crate::sync::Arc;
use std::path::Path;
use std::time::Duration;

/// Makes a [`Store`] with other than the default options.
///
/// Setters never fail; [`open`](Self::open) and [`in_memory`](Self::in_memory) check everything.
///
/// | option | default | meaning |
/// |---|---|---|
/// | [`ttl`](Self::ttl) | 24 h | how long outcomes are replayed |
/// | [`lease`](Self::lease) | 60 s | how long a claim is held before others may ask |
/// | [`max_keys`](Self::max_keys) | 16,000,000 | keys that are not absent |
/// | [`max_keys_per_scope`](Self::max_keys_per_scope) | none | the same, for each scope |
/// | [`max_bytes`](Self::max_bytes) | a quarter of the machine's memory | everything the store holds |
/// | [`max_in_flight`](Self::max_in_flight) | 65,536 | claims held at once |
/// | [`max_waiters`](Self::max_waiters) | 1,024 | threads and futures waiting for one key |
/// | [`max_outcome`](Self::max_outcome) | 1 MiB | one outcome |
/// | [`shards`](Self::shards) | one for 8,192 keys | stripes of the table |
/// | [`helper_thread`](Self::helper_thread) | on | a thread for housekeeping |
/// | [`durability`](Self::durability) | `Sync` | with a log: when a call may say `Ok` |
/// | [`claim_durability`](Self::claim_durability) | as `durability` | the same for claims |
/// | [`max_disk_bytes`](Self::max_disk_bytes) | none | the log's files |
/// | [`max_clock_jump`](Self::max_clock_jump) | 24 h | how far a clock is believed after a restart |
/// | [`disk`](Self::disk) | the machine's | where the log's files are |
/// | [`clock`](Self::clock) | the machine's | where time comes from |
///
/// # Examples
///
/// ```
/// use onceonly::Store;
/// use std::time::Duration;
///
/// let store = Store::builder()
///     .ttl(Duration::from_secs(7 * 24 * 3600))
///     .max_keys(1_000_000)
///     .max_bytes(512 << 20)
///     .in_memory()?;
/// # Ok::<(), onceonly::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder does nothing until `open` or `in_memory` is called"]
pub struct Builder {
    ttl: Duration,
    lease: Duration,
    max_keys: u64,
    max_keys_per_scope: Option<u64>,
    max_bytes: Option<u64>,
    max_in_flight: u64,
    max_waiters: usize,
    max_outcome: usize,
    shards: Option<usize>,
    helper_thread: bool,
    clock: Option<AnyClock>,
    constant_hash: bool,
    durability: Durability,
    claim_durability: Option<Durability>,
    max_disk_bytes: Option<u64>,
    max_clock_jump: Duration,
    disk: Option<Arc<dyn Disk>>,
    segment_bytes: Option<usize>,
}

/// Keys a shard is made for: small enough that a rebuild stops its writers for tens of microseconds only.
const KEYS_PER_SHARD: u64 = 8_192;
const MIN_SHARDS: usize = 16;
const MAX_SHARDS: usize = 4_096;
/// Lanes beyond this many do not help: two threads rarely meet in one.
const MAX_LANES: usize = 8;
/// The budget where the machine's memory is unknown.
const UNKNOWN_MEMORY_BUDGET: u64 = 1 << 30;

impl Builder {
    pub(crate) fn new() -> Self {
        Builder {
            ttl: Duration::from_secs(24 * 3_600),
            lease: Duration::from_secs(60),
            max_keys: 16_000_000,
            max_keys_per_scope: None,
            max_bytes: None,
            max_in_flight: 65_536,
            max_waiters: 1_024,
            max_outcome: 1 << 20,
            shards: None,
            helper_thread: true,
            clock: None,
            constant_hash: false,
            durability: Durability::Sync,
            claim_durability: None,
            max_disk_bytes: None,
            max_clock_jump: Duration::from_secs(24 * 3_600),
            disk: None,
            segment_bytes: None,
        }
    }

    /// How long outcomes are replayed, counted from completion, unless
    /// [`CompleteOptions::ttl`](crate::CompleteOptions::ttl) says otherwise; and how long an
    /// interrupted claim is remembered after its lease ended. Choose it longer than the longest
    /// retry; [`Stats::replay_ages`](crate::Stats::replay_ages) tells how late retries come.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long a claim is held before others may ask what became of it, unless
    /// [`ClaimOptions::lease`](crate::ClaimOptions::lease) says otherwise.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// How many keys may be not absent at once. At the limit new keys get
    /// [`Error::AtCapacity`]; expired ones make room first, live ones never do.
    pub fn max_keys(mut self, keys: u64) -> Self {
        self.max_keys = keys;
        self
    }

    /// The same for the keys of each scope, so that one tenant cannot use up the room of all.
    /// Unscoped keys count as one scope. Costs a counter per scope, a hash-map step per new key,
    /// and some 50 ns per key when it expires.
    pub fn max_keys_per_scope(mut self, keys: u64) -> Self {
        self.max_keys_per_scope = Some(keys);
        self
    }

    /// How many bytes the store may hold: index, claims, waiters, whole segments with the spare
    /// ones, and what was retired and some reader may still see. Claims set room aside for
    /// their completion. The default is a quarter of the machine's memory, or of the control
    /// group's limit on Linux; 1 GiB where neither can be read.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// How many claims may be held at once. Interrupted ones do not count.
    pub fn max_in_flight(mut self, claims: u64) -> Self {
        self.max_in_flight = claims;
        self
    }

    /// How many threads and futures may wait for one key; those beyond it are told `InFlight`
    /// at once. Zero means that nobody ever waits.
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.max_waiters = waiters;
        self
    }

    /// The longest outcome in bytes, at most 64 MiB.
    pub fn max_outcome(mut self, bytes: usize) -> Self {
        self.max_outcome = bytes;
        self
    }

    /// Stripes of the table: a power of two from 1 to 65,536. The default, one for 8,192 keys
    /// (16 to 4,096 in all), keeps each rebuild short; there is rarely a reason to choose.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Whether a thread named `onceonly` does the housekeeping. Without it every guarantee
    /// holds; memory comes back, and watches are woken at the end of a lease, with later calls
    /// or [`Store::maintain`].
    pub fn helper_thread(mut self, on: bool) -> Self {
        self.helper_thread = on;
        self
    }

    /// Where time comes from. For tests: [`ManualClock`](crate::ManualClock).
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(clock.into());
        self
    }

    /// With a log: how much has to fail before what a call acknowledged is forgotten, unless the
    /// call says otherwise. The default is [`Durability::Sync`].
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The same for claims (and checkpoints, and takeovers), which may be weaker than outcomes.
    /// With outcomes `Sync` and claims `Process` a power cut may forget that a key was claimed,
    /// so that whoever retries is told `Acquired` and not `Interrupted` although the effect may
    /// have happened: choose that only where the effect itself is idempotent.
    pub fn claim_durability(mut self, durability: Durability) -> Self {
        self.claim_durability = Some(durability);
        self
    }

    /// How many bytes the log's files may take, prepared ones included. At the limit new keys get
    /// [`Error::AtCapacity`]; those the store knows are finished. Files are mapped, so
    /// [`max_bytes`](Self::max_bytes) bounds them too.
    pub fn max_disk_bytes(mut self, bytes: u64) -> Self {
        self.max_disk_bytes = Some(bytes);
        self
    }

    /// How far ahead of the last time it noted an opened store believes the wall clock. A clock
    /// that jumped further while the store was closed would otherwise let everything expire at
    /// once. Beyond it keys live longer; [`RecoveryReport`](crate::RecoveryReport) says so.
    pub fn max_clock_jump(mut self, jump: Duration) -> Self {
        self.max_clock_jump = jump;
        self
    }

    /// Where the log's files are. For tests: a simulated disk (feature `sim`).
    pub fn disk(mut self, disk: impl Disk) -> Self {
        self.disk = Some(Arc::new(disk));
        self
    }

    /// The size of the log's segments, so that small tests meet every edge.
    #[cfg(any(test, feature = "sim"))]
    #[cfg_attr(docsrs, doc(cfg(feature = "sim")))]
    pub fn segment_bytes(mut self, bytes: usize) -> Self {
        self.segment_bytes = Some(bytes.clamp(4_096, MAX_SEGMENT_BYTES).next_multiple_of(4_096));
        self
    }

    /// Lets every key hash alike: the worst an attacker could achieve. For tests.
    #[cfg(any(test, feature = "sim"))]
    #[cfg_attr(docsrs, doc(cfg(feature = "sim")))]
    pub fn constant_hash(mut self) -> Self {
        self.constant_hash = true;
        self
    }

    /// Makes a store that lives in memory alone.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOptions`] names the option that is out of its limits or contradicts
    /// another, and says what to do.
    pub fn in_memory(self) -> Result<Store> {
        let helper = self.helper_thread;
        let settings = self.validated()?;
        let too_small = Error::InvalidOptions {
            field: "max_bytes",
            why: "it is less than the store needs to start; raise it, or lower max_keys or shards",
        };
        if settings.max_bytes < settings.min_bytes() {
            return Err(too_small);
        }
        let engine = Engine::new(settings).ok_or(too_small)?;
        Store::start(engine, helper)
    }

    /// Opens the store in this directory, which is made if it is missing (its parents too, 0700,
    /// its files 0600). Reads its log, about a second for ten million keys; what was found is in
    /// [`Store::recovery`].
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] if a store, here or in another process, has it open;
    /// [`Error::InvalidInput`] if it holds other files or is on a network file system;
    /// [`Error::Corrupt`] if what was durable is damaged; [`Error::UnsupportedFormat`] if a newer
    /// version wrote it; [`Error::Io`] if the disk fails or is full; [`Error::AtCapacity`] if
    /// `max_bytes` or `max_disk_bytes` has no room for a new segment; [`Error::InvalidOptions`].
    ///
    /// A failed open changes nothing the next one would not find.
    pub fn open(self, dir: impl AsRef<Path>) -> Result<Store> {
        let helper = self.helper_thread;
        let jump = Span::in_limits(self.max_clock_jump).map_err(|why| Error::InvalidOptions {
            field: "max_clock_jump",
            why,
        })?;
        let disk = self.disk.clone().unwrap_or_else(|| Arc::new(MmapDisk));
        let (disk_bytes, segment_bytes) = (self.max_disk_bytes, self.segment_bytes);
        let settings = self.validated()?;
        let options = LogOptions {
            disk,
            max_clock_jump: jump,
            max_disk_bytes: disk_bytes.unwrap_or(u64::MAX),
            segment_bytes: segment_bytes.unwrap_or_else(|| space::segment_bytes(settings.max_bytes)),
        };
        Store::start(Engine::open(settings, options, dir.as_ref())?, helper)
    }

    fn validated(self) -> Result<Settings> {
        let bad = |field, why| Err(Error::InvalidOptions { field, why });
        let span = |field, span| Span::in_limits(span).map_err(|why| Error::InvalidOptions { field, why });
        let ttl = span("ttl", self.ttl)?;
        let lease = span("lease", self.lease)?;
        if self.max_keys == 0 {
            return bad("max_keys", "it is zero; a store without keys can do nothing");
        }
        if self.max_keys_per_scope == Some(0) {
            return bad("max_keys_per_scope", "it is zero; leave it out for no limit");
        }
        if self.max_keys_per_scope.is_some_and(|keys| keys > self.max_keys) {
            return bad(
                "max_keys_per_scope",
                "it is more than max_keys; lower it or leave it out",
            );
        }
        if self.max_in_flight == 0 {
            return bad("max_in_flight", "it is zero; then no claim could be held");
        }
        if self.max_outcome > MAX_OUTCOME {
            return bad(
                "max_outcome",
                "it is more than 64 MiB; store a reference to the outcome instead",
            );
        }
        let claim_durability = self.claim_durability.unwrap_or(self.durability);
        for (field, durability) in [
            ("durability", self.durability),
            ("claim_durability", claim_durability),
        ] {
            if let Durability::Interval(within) = durability {
                if !self.helper_thread {
                    return bad(
                        field,
                        "an interval needs the helper thread; switch it on, or use Process and Store::sync",
                    );
                }
                span(field, within)?;
            }
        }
        let max_bytes = self.max_bytes.unwrap_or_else(|| machine_memory() / 4);
        let shards = match self.shards {
            Some(shards) if !shards.is_power_of_two() => {
                return bad("shards", "it is not a power of two");
            }
            Some(shards) if shards > 1 << 16 => return bad("shards", "it is more than 65,536"),
            Some(shards) => shards,
            None => default_shards(self.max_keys, max_bytes),
        };
        let cores = epoch::cores();
        Ok(Settings {
            ttl,
            lease,
            max_keys: self.max_keys,
            max_keys_per_scope: self.max_keys_per_scope,
            max_bytes,
            max_in_flight: self.max_in_flight,
            max_waiters: self.max_waiters,
            max_outcome: self.max_outcome,
            shards,
            lanes: cores.min(MAX_LANES),
            clock: self.clock.unwrap_or_else(AnyClock::machine),
            constant_hash: self.constant_hash,
            durability: self.durability,
            claim_durability,
            helper_thread: self.helper_thread,
        })
    }
}

/// One shard for so many keys, but no more of them than a small budget can bear.
fn default_shards(max_keys: u64, max_bytes: u64) -> usize {
    let wanted = usize::try_from(max_keys / KEYS_PER_SHARD).unwrap_or(MAX_SHARDS);
    let bearable = usize::try_from(max_bytes / (32 * crate::shard::Shard::new_bytes())).unwrap_or(MAX_SHARDS);
    let shards = wanted.clamp(MIN_SHARDS, MAX_SHARDS).next_power_of_two();
    shards.min(1 << bearable.max(1).ilog2())
}

/// The machine's memory in bytes, or what this process may use of it.
fn machine_memory() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| memory_in_meminfo(&text));
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    match (machine, group) {
        (Some(machine), Some(group)) => machine.min(group),
        (Some(bytes), None) | (None, Some(bytes)) => bytes,
        (None, None) => 4 * UNKNOWN_MEMORY_BUDGET,
    }
}

fn memory_in_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1_024)
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder")
            .field("ttl", &self.ttl)
            .field("lease", &self.lease)
            .field("max_keys", &self.max_keys)
            .field("max_keys_per_scope", &self.max_keys_per_scope)
            .field("max_bytes", &self.max_bytes)
            .field("max_in_flight", &self.max_in_flight)
            .field("max_waiters", &self.max_waiters)
            .field("max_outcome", &self.max_outcome)
            .field("shards", &self.shards)
            .field("helper_thread", &self.helper_thread)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        let text = "MemTotal:       24576000 kB\nMemFree:  1 kB\n";
        assert_eq!(memory_in_meminfo(text), Some(24_576_000 * 1_024));
        assert_eq!(memory_in_meminfo("nothing"), None);
    }

    #[test]
    fn shards_follow_keys_and_budget() {
        assert_eq!(default_shards(100, 1 << 30), 16);
        assert_eq!(default_shards(16_000_000, 8 << 30), 2_048);
        assert_eq!(default_shards(u64::MAX, u64::MAX), 4_096);
        assert!(default_shards(16_000_000, 1 << 20) <= 64);
        assert!(default_shards(16_000_000, 1).is_power_of_two());
    }
}
