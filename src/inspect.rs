//! Looking at a store's files from outside: the [`Inspector`].
//!
//! What is read and by which rules is in `log::inspect`; here is which record of a key counts,
//! and what is said of it. That rule is recovery's: the larger [`Record::order`], of equals the
//! later copy. What is absent: anything that changes a file, and all that only the memory of a
//! running store knows (leases, guards, waiters).

use crate::clock::{AnyClock, Clock, Resumed, Span, Tick, resume_time, wall_tick};
use crate::disk::{Disk, MmapDisk};
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::key::{Key, KeyBuf};
use crate::log::format::Pos;
use crate::log::inspect::{Files, Survey};
use crate::options::{ScanFilter, StateKind};
use crate::segment::Record;
use crate::segment::record::Kind;
use crate::sync::Arc;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Reads the files of a store that may be open elsewhere.
///
/// It takes no lock, maps nothing and writes nothing, so it works beside a live store, on a
/// copy, and on a read-only file system. It never answers [`Error::Locked`]. Each call reads the
/// files anew and answers for the moment at which it looked; what is appended meanwhile may be
/// missing, and with a durability below `Sync` it may see what a power cut would still take away.
///
/// # Costs
///
/// Every call reads the whole log: [`stat`](Self::stat), [`get`](Self::get) and
/// [`scan`](Self::scan) twice, [`verify`](Self::verify) once; and once or twice more where the log
/// has a torn end, which beside a busy writer may only be the record it is writing. One segment
/// (4 MiB, or one outcome) is in memory at a time. A live store keeps its speed but for the disk and
/// the page cache it shares. For a look at one key [`Store::status`](crate::Store::status) costs a
/// microsecond; use it where the store is at hand.
///
/// # Examples
///
/// ```
/// use onceonly::{Claim, Fingerprint, Inspector, Key, Recorded, Store};
/// # let dir = std::env::temp_dir().join(format!("onceonly-doc-inspect-{}", std::process::id()));
/// # let _ = std::fs::remove_dir_all(&dir);
/// let store = Store::open(&dir)?;
/// let key = Key::new("acme", "order-1");
/// let Claim::Acquired(guard) = store.claim(key, Fingerprint::NONE)? else { unreachable!("a new key") };
///
/// let inspector = Inspector::open(&dir)?; // while the store is open
/// let found = inspector.get(key)?.expect("it is claimed");
/// assert!(matches!(found.recorded, Recorded::Unfinished { attempt: 0, .. }));
///
/// guard.complete(b"charged")?;
/// let found = inspector.get(key)?.expect("it is completed");
/// assert!(matches!(found.recorded, Recorded::Completed { outcome, .. } if outcome == b"charged"));
/// inspector.verify()?;
/// println!("{}", inspector.stat()?); // store 1f0c…: format 1, 1 segments ...
/// # drop(guard);
/// # drop(store);
/// # let _ = std::fs::remove_dir_all(&dir);
/// # Ok::<(), onceonly::Error>(())
/// ```
pub struct Inspector {
    files: Files,
    dir: PathBuf,
    clock: AnyClock,
}

impl Inspector {
    /// An inspector of the store in a directory.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] if there is no store, [`Error::Corrupt`] if its `STORE` file is
    /// missing or damaged, [`Error::UnsupportedFormat`], [`Error::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Inspector> {
        Self::on_disk(MmapDisk, dir)
    }

    /// The same on another disk than the machine's.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    pub fn on_disk(disk: impl Disk, dir: impl AsRef<Path>) -> Result<Inspector> {
        let dir = dir.as_ref();
        Ok(Inspector {
            files: Files::of(Arc::new(disk), dir)?,
            dir: dir.to_path_buf(),
            clock: AnyClock::machine(),
        })
    }

    /// The same with another clock, which says what has expired. For stores that have one.
    pub fn with_clock(self, clock: impl Clock) -> Inspector {
        Inspector {
            clock: clock.into(),
            ..self
        }
    }

    /// Counts what is in the log. Damage is no error here but part of the answer, and what
    /// lies before it is counted.
    ///
    /// Holds each key in memory while it counts, about a hundred bytes and the longer ones'
    /// length.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::{Inspector, Key, Store};
    /// # let dir = std::env::temp_dir().join(format!("onceonly-doc-stat-{}", std::process::id()));
    /// # let _ = std::fs::remove_dir_all(&dir);
    /// let store = Store::open(&dir)?;
    /// store.first_seen(Key::new("mails", "m-1"))?;
    /// let stat = Inspector::open(&dir)?.stat()?;
    /// assert_eq!((stat.keys_completed, stat.records_completed), (1, 1));
    /// assert!(stat.damage.is_none());
    /// # drop(store);
    /// # let _ = std::fs::remove_dir_all(&dir);
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn stat(&self) -> Result<InspectorStat> {
        let (survey, now, (stat, keys)) = self.read(false, |(stat, keys): &mut Counting, record, now| {
            *stat.records_of(record.kind()) += 1;
            stat.generation = stat.generation.max(record.generation());
            let state = match record.kind() {
                _ if record.deadline() <= now => Counted::Ended,
                Kind::Completed => Counted::Completed,
                Kind::Claimed => Counted::Unfinished,
                Kind::Released | Kind::Forgotten => Counted::Ended,
            };
            keep_larger(keys, record, |_| state);
        })?;
        let keys_in = |state| keys.values().filter(|(_, of)| *of == state).count() as u64;
        let stream = &survey.stream;
        Ok(InspectorStat {
            store_id: survey.store,
            format: survey.format,
            segments: stream.segments.len() as u64,
            bytes: survey.bytes,
            keys_completed: keys_in(Counted::Completed),
            keys_unfinished: keys_in(Counted::Unfinished),
            keys_ended: keys_in(Counted::Ended),
            ceiling: stream.ceiling,
            first_turn: stream.first,
            end: stream.end.into(),
            vouched: stream.vouched.into(),
            noted: stream.time.map(|(tick, _)| wall_time(tick, &now)),
            torn: survey.torn(),
            damage: survey.damage.clone(),
            ..stat
        })
    }

    /// What the record that counts says of a key: `None` if there is none. Keys that were
    /// released or forgotten and outcomes that have expired may still have one, until their
    /// segment is let go.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] as [`verify`](Self::verify) says it: the record that counts may be in
    /// what was lost. [`Error::InvalidInput`] and [`Error::TooLarge`] for a key outside its limits;
    /// those of [`open`](Self::open).
    pub fn get<'k>(&self, key: impl Into<Key<'k>>) -> Result<Option<Inspected>> {
        let key = key.into().check()?;
        let (_, now, found) = self.read(true, |best: &mut Option<Candidate>, record, now| {
            if record.key() != Some(key) {
                return;
            }
            let order = record.order();
            if best.as_ref().is_none_or(|(before, _)| order >= *before) {
                *best = Some((order, Found::of(record, now)));
            }
        })?;
        Ok(found.map(|(_, found)| found.told(&now)))
    }

    /// The keys that are claimed or completed and have not expired, in no particular order.
    ///
    /// A file does not tell a claim that is in flight from an interrupted one: filters for
    /// either state give both.
    ///
    /// The keys of the filter's scope are held in memory with what is recorded of them, outcomes
    /// included: as much as is live, not as much as the log is long.
    ///
    /// # Errors
    ///
    /// Those of [`get`](Self::get).
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::{Inspector, Key, ScanFilter, Store};
    /// # let dir = std::env::temp_dir().join(format!("onceonly-doc-iscan-{}", std::process::id()));
    /// # let _ = std::fs::remove_dir_all(&dir);
    /// let store = Store::open(&dir)?;
    /// store.first_seen(Key::new("mails", "m-1"))?;
    /// store.first_seen(Key::new("orders", "o-1"))?;
    /// for found in Inspector::open(&dir)?.scan(ScanFilter::new().scope("mails"))? {
    ///     let (key, found) = found?;
    ///     assert_eq!(key.as_key(), Key::new("mails", "m-1"));
    ///     println!("{found}"); // completed at generation 1 (0 bytes, tag 0)
    /// }
    /// # drop(store);
    /// # let _ = std::fs::remove_dir_all(&dir);
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn scan(&self, filter: ScanFilter) -> Result<InspectorScan> {
        let (_, now, keys) = self.read(true, |keys: &mut Winners<Found>, record, now| {
            if record.key().is_some_and(|key| filter.wants_scope(key)) {
                keep_larger(keys, record, |record| Found::of(record, now));
            }
        })?;
        let mut found = Vec::new();
        for (key, (_, item)) in keys {
            let kinds: &[StateKind] = match item.recorded {
                Recorded::Completed { .. } => &[StateKind::Completed],
                Recorded::Unfinished { .. } => &[StateKind::InFlight, StateKind::Interrupted],
                Recorded::Released | Recorded::Forgotten => continue,
            };
            let age = item.since.map_or(Duration::ZERO, |since| now.now.since(since));
            if !item.expired && filter.wants_any_of(kinds, age) {
                found.push((key, item.told(&now)));
            }
        }
        Ok(InspectorScan {
            found: found.into_iter(),
        })
    }

    /// Reads every segment and says whether the store would be opened. A torn tail is fine.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] with file and byte, and whatever else keeps a
    /// [`Store::open`](crate::Store::open) from opening these files.
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::{Error, Inspector, Store};
    /// # let dir = std::env::temp_dir().join(format!("onceonly-doc-verify-{}", std::process::id()));
    /// # let _ = std::fs::remove_dir_all(&dir);
    /// # drop(Store::open(&dir)?);
    /// match Inspector::open(&dir)?.verify() {
    ///     Ok(()) => println!("fine"),
    ///     Err(Error::Corrupt { segment, offset, .. }) => println!("look at {segment:?}, byte {offset}"),
    ///     Err(other) => return Err(other),
    /// }
    /// # let _ = std::fs::remove_dir_all(&dir);
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn verify(&self) -> Result<()> {
        self.files.survey()?.check()
    }

    /// Shows every record to `each`, with the store's time now; begins anew with an empty `T`
    /// if a file is let go in between.
    fn read<T: Default>(
        &self,
        only_whole: bool,
        each: impl Fn(&mut T, &Record<'_>, Tick),
    ) -> Result<(Survey, Resumed, T)> {
        self.files.steadily(|| {
            let survey = self.files.survey()?;
            if only_whole {
                survey.check()?;
            }
            let (wall, _) = wall_tick(self.clock.wall());
            let now = resume_time(survey.stream.time, wall, Span::from_millis(u64::MAX));
            let mut sum = T::default();
            self.files
                .visit(&survey, |record| each(&mut sum, record, now.now))?;
            Ok((survey, now, sum))
        })
    }
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// Of each key what counts, with the order that made it so.
type Winners<T> = HashMap<KeyBuf, ((u64, u64), T)>;
type Candidate = ((u64, u64), Found);
type Counting = (InspectorStat, Winners<Counted>);

/// Records come in the log's order: of equals the later one counts.
fn keep_larger<T>(keys: &mut Winners<T>, record: &Record<'_>, take: impl Fn(&Record<'_>) -> T) {
    let Some(key) = record.key() else { return };
    let order = record.order();
    match keys.entry(key.to_buf()) {
        Entry::Vacant(place) => {
            place.insert((order, take(record)));
        }
        Entry::Occupied(mut place) if order >= place.get().0 => {
            place.insert((order, take(record)));
        }
        Entry::Occupied(_) => {}
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Completed,
    Unfinished,
    Ended,
}

/// The wall clock's time at a moment of store time; the furthest there is if it is beyond.
fn wall_time(tick: Tick, now: &Resumed) -> SystemTime {
    let millis = tick.0.saturating_add_signed(now.offset.saturating_neg());
    let furthest = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(u32::MAX) * 64);
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    at.unwrap_or(furthest)
}

/// An [`Inspected`] in the store's time.
struct Found {
    recorded: Recorded,
    generation: u64,
    fingerprint: Fingerprint,
    since: Option<Tick>,
    kept_until: Tick,
    expired: bool,
}

impl Found {
    fn of(record: &Record<'_>, now: Tick) -> Found {
        let recorded = match record.kind() {
            Kind::Completed => Recorded::Completed {
                outcome: record.outcome().to_vec(),
                tag: record.tag(),
            },
            Kind::Claimed => Recorded::Unfinished {
                attempt: record.attempt(),
                checkpoint: record.checkpoint().map(<[u8]>::to_vec),
            },
            Kind::Released => Recorded::Released,
            Kind::Forgotten => Recorded::Forgotten,
        };
        let is_dated = matches!(record.kind(), Kind::Completed | Kind::Claimed);
        Found {
            recorded,
            generation: record.generation(),
            fingerprint: record.fingerprint(),
            since: is_dated.then(|| record.written()),
            kept_until: record.deadline(),
            expired: record.deadline() <= now,
        }
    }

    fn told(self, now: &Resumed) -> Inspected {
        Inspected {
            recorded: self.recorded,
            generation: self.generation,
            fingerprint: self.fingerprint,
            since: self.since.map(|tick| wall_time(tick, now)),
            kept_until: wall_time(self.kept_until, now),
            expired: self.expired,
        }
    }
}

/// What the record of a key that counts says. See [`Inspector::get`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Inspected {
    /// The state it leaves the key in.
    pub recorded: Recorded,
    /// The generation that recorded it.
    pub generation: u64,
    /// What the key was claimed with; [`Fingerprint::NONE`] for a key that was released or
    /// forgotten.
    pub fingerprint: Fingerprint,
    /// When it was completed, or this generation's claim began. Not recorded of keys that were
    /// released or forgotten.
    pub since: Option<SystemTime>,
    /// When the record stops counting: the end of the outcome's ttl; for a claim its lease's end
    /// as it was last recorded, and a ttl after it.
    pub kept_until: SystemTime,
    /// Is that past, by the wall clock and the time last noted in the log? Then the key is
    /// absent. An open store may see it expire a little later.
    pub expired: bool,
}

impl fmt::Display for Inspected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.recorded {
            Recorded::Completed { outcome, tag } => write!(
                f,
                "completed at generation {} ({} bytes, tag {tag})",
                self.generation,
                outcome.len()
            )?,
            Recorded::Unfinished { attempt, checkpoint } => {
                write!(
                    f,
                    "unfinished at generation {} (takeovers {attempt}",
                    self.generation
                )?;
                if let Some(note) = checkpoint {
                    write!(f, ", a checkpoint of {} bytes", note.len())?;
                }
                f.write_str(")")?;
            }
            Recorded::Released => write!(f, "released at generation {}", self.generation)?,
            Recorded::Forgotten => write!(f, "forgotten at generation {}", self.generation)?,
        }
        if self.expired {
            f.write_str(", expired")?;
        }
        Ok(())
    }
}

/// The state a record leaves its key in.
///
/// # Examples
///
/// ```
/// use onceonly::Recorded;
/// fn is_settled(recorded: &Recorded) -> bool {
///     !matches!(recorded, Recorded::Unfinished { .. })
/// }
/// # assert!(is_settled(&Recorded::Released));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Recorded {
    /// The outcome is stored.
    #[non_exhaustive]
    Completed {
        /// The outcome.
        outcome: Vec<u8>,
        /// See [`Outcome::tag`](crate::Outcome::tag).
        tag: u16,
    },
    /// Claimed, and neither completed nor given back. In a store that is open the claim is in
    /// flight or interrupted: the file does not say. A store that is opened now finds it
    /// interrupted.
    #[non_exhaustive]
    Unfinished {
        /// Takeovers since the key was absent.
        attempt: u32,
        /// What the holder left.
        checkpoint: Option<Vec<u8>>,
    },
    /// The claim was given back: the key is absent.
    Released,
    /// An operator has forgotten the key: it is absent.
    Forgotten,
}

/// A place in a log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
#[non_exhaustive]
pub struct LogPosition {
    /// The segment's place in the log, counted from 1.
    pub turn: u32,
    /// The byte in it.
    pub byte: u64,
}

impl From<Pos> for LogPosition {
    fn from(pos: Pos) -> Self {
        LogPosition {
            turn: pos.turn(),
            byte: pos.byte(),
        }
    }
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "turn {}, byte {}", self.turn, self.byte)
    }
}

/// What is in a log. See [`Inspector::stat`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct InspectorStat {
    /// The store's number: tokens carry it.
    pub store_id: u64,
    /// The version of the files' format.
    pub format: u32,
    /// Segments that count.
    pub segments: u64,
    /// Bytes that all segments' files take, prepared ones and leftovers included.
    pub bytes: u64,
    /// Records of outcomes, of live keys and others.
    pub records_completed: u64,
    /// Records of claims, checkpoints, renewals and takeovers.
    pub records_claimed: u64,
    /// Records of claims given back.
    pub records_released: u64,
    /// Records of keys forgotten.
    pub records_forgotten: u64,
    /// Keys with an outcome that has not expired.
    pub keys_completed: u64,
    /// Keys that are claimed and not completed.
    pub keys_unfinished: u64,
    /// Keys of which there is only history: released, forgotten or expired.
    pub keys_ended: u64,
    /// The largest generation found.
    pub generation: u64,
    /// No generation this large has been given out.
    pub ceiling: u64,
    /// The first segment that counts.
    pub first_turn: u32,
    /// Where the log ends.
    pub end: LogPosition,
    /// Everything before it was durable once, as later data says. Damage is what is missing
    /// before it.
    pub vouched: LogPosition,
    /// The latest time noted in the log, as the wall clock of then said it.
    pub noted: Option<SystemTime>,
    /// Where something follows the end that is no record: what a power cut left of records
    /// nobody was promised, or, beside a writer, the record it is writing. File and byte.
    pub torn: Option<(PathBuf, u64)>,
    /// Why the store would not be opened. What was counted lies before it.
    pub damage: Option<Error>,
}

impl InspectorStat {
    fn records_of(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Completed => &mut self.records_completed,
            Kind::Claimed => &mut self.records_claimed,
            Kind::Released => &mut self.records_released,
            Kind::Forgotten => &mut self.records_forgotten,
        }
    }
}

impl Default for InspectorStat {
    /// A log in which nothing was found.
    fn default() -> Self {
        InspectorStat {
            store_id: 0,
            format: 0,
            segments: 0,
            bytes: 0,
            records_completed: 0,
            records_claimed: 0,
            records_released: 0,
            records_forgotten: 0,
            keys_completed: 0,
            keys_unfinished: 0,
            keys_ended: 0,
            generation: 0,
            ceiling: 0,
            first_turn: 0,
            end: Pos::START.into(),
            vouched: Pos::START.into(),
            noted: None,
            torn: None,
            damage: None,
        }
    }
}

impl fmt::Display for InspectorStat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "store {:016x}: format {}, {} segments from turn {} on, {} bytes on disk",
            self.store_id, self.format, self.segments, self.first_turn, self.bytes
        )?;
        writeln!(
            f,
            "keys: {} completed, {} unfinished, {} ended",
            self.keys_completed, self.keys_unfinished, self.keys_ended
        )?;
        writeln!(
            f,
            "records: {} completed, {} claimed, {} released, {} forgotten",
            self.records_completed, self.records_claimed, self.records_released, self.records_forgotten
        )?;
        writeln!(
            f,
            "generations: up to {}, none from {} on",
            self.generation, self.ceiling
        )?;
        write!(
            f,
            "log: ends at {}; everything before {} was durable",
            self.end, self.vouched
        )?;
        if let Some(noted) = self.noted {
            let since = noted.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            write!(f, "; last noted {} s after 1970", since.as_secs())?;
        }
        if let Some((segment, offset)) = &self.torn {
            write!(
                f,
                "; a torn tail, or a record being written, in {} at byte {offset}",
                segment.display()
            )?;
        }
        match &self.damage {
            Some(damage) => write!(f, "; damaged: {damage}"),
            None => f.write_str("; no damage"),
        }
    }
}

/// The keys found by [`Inspector::scan`].
///
/// # Examples
///
/// ```
/// use onceonly::{Inspector, InspectorScan, Result};
/// fn print(scan: InspectorScan) -> Result<()> {
///     for found in scan {
///         let (key, inspected) = found?;
///         println!("{key:?} {inspected}");
///     }
///     Ok(())
/// }
/// ```
pub struct InspectorScan {
    found: std::vec::IntoIter<(KeyBuf, Inspected)>,
}

impl Iterator for InspectorScan {
    type Item = Result<(KeyBuf, Inspected)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.found.next().map(Ok)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.found.size_hint()
    }
}

impl fmt::Debug for InspectorScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InspectorScan").finish_non_exhaustive()
    }
}
