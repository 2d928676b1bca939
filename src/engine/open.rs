//! Opening a store: from what the log's files say to shards that answer.

use super::{Engine, Settings};
use crate::clock::{LATEST, Span, Tick, Timeline, resume_time, wall_tick};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::log::format::{Entry, GENERATIONS, Note, known_entry_at};
use crate::log::recover::{self, Segment, in_parallel};
use crate::log::{Holds, Limits, Log};
use crate::options::Durability;
use crate::segment::Address;
use crate::segment::table::HEADER_WORDS;
use crate::shard::recover::Recovered;
use crate::shard::{Keyed, Shard};
use crate::sync::{Arc, Mutex, Ordering};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a builder has checked for a store with a log.
pub(crate) struct LogOptions {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) max_clock_jump: Span,
    pub(crate) max_disk_bytes: u64,
    pub(crate) segment_bytes: usize,
}

/// What was found when a store was opened. See [`Store::recovery`](crate::Store::recovery).
///
/// # Examples
///
/// ```
/// use onceonly::{Key, Store};
/// # let dir = std::env::temp_dir().join(format!("onceonly-doc-report-{}", std::process::id()));
/// # let _ = std::fs::remove_dir_all(&dir);
/// let store = Store::open(&dir)?;
/// store.first_seen(Key::new("mails", "m-1"))?;
/// drop(store);
/// let store = Store::open(&dir)?;
/// println!("{}", store.recovery()); // 1 completed and 0 interrupted keys in 1 segment ...
/// assert_eq!(store.recovery().completed, 1);
/// # drop(store);
/// # let _ = std::fs::remove_dir_all(&dir);
/// # Ok::<(), onceonly::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RecoveryReport {
    /// Keys with an outcome.
    pub completed: u64,
    /// Keys that were claimed and not finished: each is interrupted now, with
    /// [`Cause::Crashed`](crate::Cause::Crashed).
    pub interrupted: u64,
    /// Records read, of live keys and others.
    pub records: u64,
    /// Segments read.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Where a torn tail was cut off: file and byte. It was never acknowledged as durable.
    pub torn: Option<(PathBuf, u64)>,
    /// By how much the wall clock was not believed: it stepped back, or was further ahead than
    /// [`Builder::max_clock_jump`](crate::Builder::max_clock_jump).
    pub clock_disbelieved: Option<Duration>,
    /// How long it took, on the store's clock.
    pub took: Duration,
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} completed and {} interrupted keys in {} segments, {} records and {} bytes read in {:?}",
            self.completed, self.interrupted, self.segments, self.records, self.bytes, self.took
        )?;
        if let Some((segment, offset)) = &self.torn {
            write!(
                f,
                "; a torn tail was cut off {} at byte {offset}",
                segment.display()
            )?;
        }
        if let Some(by) = self.clock_disbelieved {
            write!(f, "; the wall clock was off by {by:?} and not believed")?;
        }
        Ok(())
    }
}

impl Engine {
    /// Opens the store in a directory, or makes one there.
    pub(crate) fn open(settings: Settings, options: LogOptions, dir: &Path) -> Result<Arc<Engine>> {
        let clock = settings.clock.clone();
        let began = clock.monotonic();
        if settings.max_bytes < settings.fixed_bytes() {
            return Err(too_small());
        }
        let (wall, passed) = wall_tick(clock.wall());
        let mut found = recover::open(options.disk.clone(), dir, wall)?;
        let segments = std::mem::take(&mut found.segments);
        let (ceiling, torn, noted) = (found.ceiling, found.torn.take(), found.time);
        let limits = Limits {
            segment_bytes: options.segment_bytes,
            max_disk_bytes: options.max_disk_bytes,
            touched: [settings.durability, settings.claim_durability] == [Durability::Process; 2],
        };
        let log = Log::new(found, settings.ttl, limits);
        let timeline = Timeline::starting_at(clock.clone(), wall, Duration::ZERO);
        let mut engine = Self::assemble(settings, timeline, Some(log), segments.len()).ok_or(too_small())?;
        let latest = engine.offer_all(&segments, ceiling);
        // Time has come as far as the log notes, and as far as any record was written at.
        let last = noted.map(|(noted, offset)| (noted.max(latest), offset));
        let time = resume_time(last, wall, options.max_clock_jump);
        // Whole ticks begin together in every life, as long as the clock is believed.
        let passed = if time.now == wall { passed } else { Duration::ZERO };
        engine.timeline = Timeline::starting_at(clock, time.now, passed);
        if let Some(log) = &mut engine.log {
            log.offset = time.offset;
        }
        let recovered = engine.settle_all(&segments, time.now);
        engine.recovery = RecoveryReport {
            completed: recovered.completed,
            interrupted: recovered.interrupted,
            records: segments.iter().map(|s| s.records).sum(),
            segments: segments.len() as u64,
            bytes: segments.iter().map(|s| (s.end * 8) as u64).sum(),
            torn: torn.map(|torn| (torn.segment, torn.offset)),
            clock_disbelieved: time.disbelieved.map(|said| {
                let apart = said.since(time.now).max(time.now.since(said));
                apart.max(Duration::from_millis(1))
            }),
            took: Duration::ZERO,
        };
        if let Some(log) = &engine.log {
            log.begin(
                (ceiling + super::logged::GENERATIONS).min(GENERATIONS),
                engine.means(time.now),
            )?;
            engine.commons.ceiling.store(log.ceiling(), Ordering::Release);
        }
        engine.recovery.took = engine.clock().monotonic().saturating_sub(began);
        Ok(Arc::new(engine))
    }

    /// Offers every record to its shard; returns the latest moment any of them knows of.
    fn offer_all(&self, segments: &[Segment], ceiling: u64) -> Tick {
        let Some(log) = &self.log else { return Tick(0) };
        let c = &self.commons;
        let records: u64 = segments.iter().map(|s| s.records).sum();
        let each = records / self.shards.len() as u64;
        let mut shards: Vec<&Shard> = self.shards.iter().collect();
        in_parallel(bytes_of(segments), &mut shards, |shard| {
            let mut shard = shard.lock();
            shard.start_generations(ceiling.max(1));
            if records > 0 {
                // A claim and an outcome to a key, most often: half of the records are keys.
                shard.expect_keys(c, each / 2, &c.pins.pin());
            }
        });
        // Ids in the log's order: the later copy of a record is told by its address.
        let mut ids = Vec::new();
        for segment in segments {
            let id = c.segments.issue(&segment.memory.mapping, &segment.time());
            ids.extend(id.map(|id| (segment, id, Offered::default())));
        }
        in_parallel(bytes_of(segments), &mut ids, |(segment, id, offered)| {
            *offered = self.offer(segment, *id)
        });
        for (segment, id, offered) in &ids {
            log.adopt(segment, *id, offered.holds, &c.bytes);
        }
        let moments = ids.iter().map(|(_, _, offered)| offered.latest);
        moments.max().unwrap_or(Tick(0))
    }

    /// Everything has been offered: what are the keys now?
    fn settle_all(&self, segments: &[Segment], now: Tick) -> Recovered {
        let c = &self.commons;
        let sum = Mutex::new(Recovered::default());
        let mut shards: Vec<&Shard> = self.shards.iter().collect();
        in_parallel(bytes_of(segments), &mut shards, |shard| {
            let pin = c.pins.pin();
            let settled = shard.lock().settle_recovered(c, &self.hasher, now, &pin);
            let mut sum = sum.lock();
            sum.completed += settled.completed;
            sum.interrupted += settled.interrupted;
        });
        sum.into_inner()
    }

    /// Offers a segment's records, some at a time so that their cache misses overlap.
    fn offer(&self, segment: &Segment, id: u32) -> Offered {
        const BATCH: usize = 32;
        let c = &self.commons;
        let pin = c.pins.pin();
        let words = segment.words();
        let mut batch = Vec::with_capacity(BATCH);
        let flush = |batch: &mut Vec<(Keyed<'_>, Address, (u64, u64))>| {
            self.prefetch_buckets(batch.iter().map(|(k, ..)| *k), &pin);
            for (k, at, order) in batch.drain(..) {
                self.shard(k).lock().recover(c, k, at, order, &pin);
            }
        };
        let mut word = HEADER_WORDS;
        let mut offered = Offered::default();
        while word < segment.end {
            let entry = known_entry_at(words, word);
            if let Entry::Keyed(_) = entry {
                let at = Address::new(id, word);
                if let Some(record) = c.segments.table.record(at, &pin)
                    && let Some(key) = record.key()
                {
                    let deadline = record.deadline();
                    offered.holds.add(record.kind(), record.len_words(), deadline);
                    let moment = record.moment();
                    if moment <= LATEST {
                        offered.latest = offered.latest.max(moment);
                    }
                    c.segments.table.note_deadline(id, deadline);
                    let hash = self.hasher.hash(key);
                    batch.push((Keyed { key, hash }, at, record.order()));
                    if batch.len() == BATCH {
                        flush(&mut batch);
                    }
                }
            }
            if matches!(entry, Entry::Nothing | Entry::Note(Note::Seal)) {
                break;
            }
            word += entry.words();
        }
        flush(&mut batch);
        offered
    }

    /// Makes everything recorded so far durable.
    pub(crate) fn sync(&self) -> Result<()> {
        match &self.log {
            Some(log) => {
                log.check()?;
                self.commit_all(log)
            }
            None => Ok(()),
        }
    }
}

/// What a segment's records come to.
struct Offered {
    holds: Holds,
    /// The latest moment any of them knows of.
    latest: Tick,
}

impl Default for Offered {
    fn default() -> Self {
        Offered {
            holds: Holds::NOTHING,
            latest: Tick(0),
        }
    }
}

fn bytes_of(segments: &[Segment]) -> usize {
    segments.iter().map(|s| s.memory.size()).sum()
}

fn too_small() -> Error {
    Error::InvalidOptions {
        field: "max_bytes",
        why: "it is less than the store needs to start; raise it, or lower max_keys or shards",
    }
}
