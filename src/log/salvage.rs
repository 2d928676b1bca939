//! What can be read of a damaged store, written into a new one.
//!
//! Recovery believes a log up to its first word that does not verify, and refuses it if something
//! durable lies behind. Salvage goes on behind it: on the next words until a record verifies again.
//! A record's sum depends on the store, the file, its life and the place in it, so that bytes which
//! only look like a record pass once in four thousand million tries.
//!
//! What always holds: nothing is written into the old directory (its lock is taken, which makes
//! the LOCK file if there is none); what is written was read and has verified; a SEAL is believed,
//! for what lies behind it was given up once and answered otherwise since. The STORE file of the new
//! directory is made last, after all else is durable: until then no store opens it.
//!
//! Three readings: what verifies where; which record of each key counts; and its copy. One segment's
//! bytes are held at a time.
//!
//! What cannot be had: a record in a segment whose header is gone, for the header says what its sums
//! start from; and the knowledge that a lost record had overridden one that is left.

use super::format::{Entry, GENERATIONS, HEADER_BYTES, Header, LOCK, Mark, Note, Pos, SEAL_WORDS, STORE};
use super::format::{Unreadable, VERSION, What, next_entry, segment_name};
use super::inspect::record_at;
use super::recover::{self, Found, MAX_WORDS, Names, PIECE, Stream, damaged};
use super::{Limits, Log, Means, Place, Unwritten};
use crate::clock::{Clock, LATEST, Resumed, Span, Tick, resume_time, wall_tick};
use crate::disk::{Disk, Memory, MmapDisk};
use crate::error::{Error, Result};
use crate::key::KeyBuf;
use crate::quota::{Quota, Share};
use crate::segment::record::{Draft, Kind, TimeBase};
use crate::segment::space::MAX_SEGMENT_BYTES;
use crate::segment::table::HEADER_WORDS;
use crate::segment::words::{Copied, WORD};
use crate::segment::{Record, Segments};
use crate::sync::{Arc, Ordering};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How far ahead of the last time noted the wall clock is believed: as far as a store that is opened
/// with the default options believes it.
const MAX_CLOCK_JUMP: Span = Span::from_millis(24 * 3_600 * 1_000);
/// Generations left out: the MARK that gave out more of them may be what was lost.
const LEAP: u64 = 1 << 32;
/// The ttl of segments where no old one says.
const USUAL_TTL: Span = Span::from_millis(24 * 3_600 * 1_000);
/// What cannot be read is skipped by as much.
const BLOCK: usize = 4_096;

/// Writes what can be read of the store in `dir` into a new store in `into`.
///
/// For a store that cannot be opened because it is damaged ([`Error::Corrupt`]). It works on any,
/// but where [`Store::open`](crate::Store::open) works nothing is gained. `into` must be empty or
/// missing; it becomes a store when everything in it is durable, so an interrupted salvage is no
/// store: remove it and start again. Nothing in `dir` is changed; its lock is held, so that no
/// store has it open. Move the directories when you are content with the report.
///
/// Each key gets what the record that counts among all readable ones says:
///
/// - completed keys keep outcome, tag, fingerprint, generation, and the times of their completion
///   and of their end;
/// - unfinished claims keep fingerprint, generation, attempt and checkpoint, and are
///   [interrupted](crate::Claim::Interrupted) when the new store is opened;
/// - what was released or forgotten, or has expired, is left out.
///
/// The new store has the old one's number, so that [tokens](crate::ClaimToken) stay valid: do not
/// run both. It gives out larger generations than the old one ever has, and its time goes on from the
/// latest time noted.
///
/// **What was lost stays lost**, and may have changed what is left. Where the record of a completion
/// was lost, the key is interrupted if that of its claim was not; where a release or a forgetting
/// was lost, what it ended is back; where both records of a key were lost, the key is absent, and
/// the next claim is `Acquired` although the work was done. The report says where something was
/// lost.
///
/// # Costs
///
/// Reads the store three times, and holds some 150 bytes a key and one segment in memory. Where a
/// long stretch is damaged each of its words is tried as the start of a record.
///
/// # Errors
///
/// [`Error::Locked`] if a store has `dir` open; [`Error::InvalidInput`] if there is no store in it, or
/// `into` is not empty, lies in `dir`, or is on a network file system; [`Error::Corrupt`] if neither
/// the STORE file nor any segment can be read; [`Error::UnsupportedFormat`] if a newer version wrote
/// all that can; [`Error::Io`] if `into` cannot be written.
///
/// # Examples
///
/// ```
/// use onceonly::{Claim, Error, Fingerprint, Key, Store};
/// # let base = std::env::temp_dir().join(format!("onceonly-doc-salvage-{}", std::process::id()));
/// # let _ = std::fs::remove_dir_all(&base);
/// # let (dir, mended) = (base.join("store"), base.join("mended"));
/// let store = Store::open(&dir)?;
/// store.first_seen(Key::new("mails", "m-1"))?;
/// store.close()?;
/// std::fs::write(dir.join("STORE"), b"something else")?; // an accident
/// assert!(matches!(Store::open(&dir), Err(Error::Corrupt { .. })));
///
/// let report = onceonly::salvage(&dir, &mended)?;
/// println!("{report}"); // 1 completed and 0 interrupted keys written, 0 left out, of 1 records in 1 segments; ...
/// assert_eq!(report.completed, 1);
/// assert_eq!(report.unreadable, [dir.join("STORE")]);
///
/// let store = Store::open(&mended)?;
/// assert!(!store.first_seen(Key::new("mails", "m-1"))?, "it is known");
/// # drop(store);
/// # let _ = std::fs::remove_dir_all(&base);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn salvage(dir: impl AsRef<Path>, into: impl AsRef<Path>) -> Result<SalvageReport> {
    salvage_at(MmapDisk, SystemTime::now(), dir.as_ref(), into.as_ref())
}

/// The same as [`salvage`] for a store on another disk or with another clock.
///
/// # Errors
///
/// Those of [`salvage`].
pub fn salvage_on(
    disk: impl Disk,
    clock: impl Clock,
    dir: impl AsRef<Path>,
    into: impl AsRef<Path>,
) -> Result<SalvageReport> {
    salvage_at(disk, clock.wall(), dir.as_ref(), into.as_ref())
}

fn salvage_at(disk: impl Disk, wall: SystemTime, dir: &Path, into: &Path) -> Result<SalvageReport> {
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let place = |dir: &Path| Place {
        disk: disk.clone(),
        dir: dir.to_path_buf(),
    };
    rescue(&place(dir), place(into), wall_tick(wall).0)
}

/// What [`salvage`] found and wrote.
///
/// # Examples
///
/// ```
/// fn is_complete(report: &onceonly::SalvageReport) -> bool {
///     report.damaged.is_empty() && report.unreadable.is_empty() && report.missing == 0
/// }
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SalvageReport {
    /// Keys written with their outcome.
    pub completed: u64,
    /// Keys written as unfinished: they are interrupted when the new store is opened.
    pub interrupted: u64,
    /// Keys found and left out: released, forgotten or expired.
    pub left_out: u64,
    /// Records of keys read.
    pub records: u64,
    /// Segments read.
    pub segments: u64,
    /// What was skipped: file, first byte, and the byte behind the last. The torn tail of a log
    /// is among it: it cannot be told from damage.
    pub damaged: Vec<(PathBuf, u64, u64)>,
    /// Files that say nothing: they cannot be opened, have no header that verifies, or belong to
    /// another store. Records in them are lost.
    pub unreadable: Vec<PathBuf>,
    /// Segments that should be there and were not among those read.
    pub missing: u64,
}

impl fmt::Display for SalvageReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} completed and {} interrupted keys written, {} left out, of {} records in {} segments",
            self.completed, self.interrupted, self.left_out, self.records, self.segments
        )?;
        for (segment, from, to) in &self.damaged {
            write!(f, "; {} is damaged from byte {from} to {to}", segment.display())?;
        }
        for path in &self.unreadable {
            write!(f, "; {} cannot be read", path.display())?;
        }
        if self.missing > 0 {
            write!(f, "; {} segments are missing", self.missing)?;
        }
        Ok(())
    }
}

/// A segment whose header verifies.
struct Source {
    path: PathBuf,
    header: Header,
    size: u64,
    /// What its MARKs say.
    turn: Option<u32>,
    /// The largest first turn a MARK before the first damage says.
    first: u32,
    end: usize,
    sealed: bool,
    damage: Vec<Range<usize>>,
    /// Where there are records with a key.
    records: Vec<u32>,
}

/// What the MARKs and VOUCHes of all segments come to.
struct Said {
    ceiling: u64,
    vouched: Pos,
    time: Option<(Tick, i64)>,
}

fn rescue(from: &Place, to: Place, wall: Tick) -> Result<SalvageReport> {
    if Names::read(from)?.is_empty() {
        return Err(recover::no_store());
    }
    let _lock = lock_old(from)?;
    let names = Names::read(from)?;
    check_target(from, &to)?;
    let mut report = SalvageReport::default();
    let (store, mut sources) = open_sources(from, &names, &mut report)?;
    let mut said = Said {
        ceiling: 1,
        vouched: Pos::START,
        time: None,
    };
    for source in &mut sources {
        source.survey(from, &mut said)?;
    }
    for source in &sources {
        // A file is prepared at a moment that has been reached.
        let offset = said.time.map_or(0, |(_, offset)| offset);
        said.note_time(source.header.base, offset);
    }
    leave_stale(&mut sources);
    report_losses(&sources, &said, &mut report);
    let time = resume_time(said.time, wall, MAX_CLOCK_JUMP);
    let (wanted, largest) = choose(from, &sources, time.now, &mut report)?;
    let known = said.ceiling.max(largest.saturating_add(1));
    let ceiling = known.saturating_add(LEAP).min(GENERATIONS - LEAP);
    let writer = Writer::open(to, store, &sources, &time)?;
    writer.write(from, &sources, &wanted, ceiling.max(known.min(GENERATIONS)))?;
    Ok(report)
}

fn lock_old(from: &Place) -> Result<Option<Box<dyn Send + Sync>>> {
    let path = from.path(LOCK);
    match from.disk.lock(&path) {
        Ok(Some(lock)) => Ok(Some(lock)),
        Ok(None) => Err(Error::Locked { path }),
        // A damaged disk is often mounted so, and then nobody writes there.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(None),
        Err(error) => Err(from.failed("lock", &path)(error)),
    }
}

fn check_target(from: &Place, to: &Place) -> Result<()> {
    let refused = |why| Err(Error::InvalidInput { what: "into", why });
    if to.dir.starts_with(&from.dir) {
        return refused("it lies in the damaged store's directory; give a directory elsewhere");
    }
    recover::refuse_network(&to.dir)?;
    let names = match to.disk.list(&to.dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(to.failed("list", &to.dir))?,
    };
    if names.is_empty() {
        return Ok(());
    }
    refused("it is not empty; give an empty directory, or one that is not there yet")
}

/// Opens what has a header, and finds out which store it is.
fn open_sources(from: &Place, names: &Names, report: &mut SalvageReport) -> Result<(u64, Vec<Source>)> {
    let mut newer = None;
    let mut sources = Vec::new();
    let store = match open_file(from, STORE, &mut newer)? {
        Some((header, _)) if header.what == What::Store => Some(header.store),
        _ => {
            report.unreadable.push(from.path(STORE));
            None
        }
    };
    for &serial in &names.serials {
        let name = segment_name(serial);
        match open_file(from, &name, &mut newer)? {
            Some((header, size)) if header.what == What::Segment && header.words <= MAX_WORDS => {
                sources.push(Source::new(from.path(&name), header, size));
            }
            _ => report.unreadable.push(from.path(&name)),
        }
    }
    let Some(store) = store.or_else(|| most_common(&sources)) else {
        let unknown = "neither it nor any segment has a header that verifies";
        return Err(match newer {
            Some(found) => Error::UnsupportedFormat {
                found,
                newest: VERSION,
            },
            None => damaged(&from.path(STORE), 0, unknown),
        });
    };
    sources.retain(|source| {
        let is_ours = source.header.store == store;
        if !is_ours {
            report.unreadable.push(source.path.clone());
        }
        is_ours
    });
    Ok((store, sources))
}

/// A file's header, if it verifies, and the file's size. A file that may not be read is an error,
/// one that cannot be is lost.
fn open_file(from: &Place, name: &str, newer: &mut Option<u32>) -> Result<Option<(Header, u64)>> {
    let path = from.path(name);
    let read = || -> io::Result<_> {
        let file = from.disk.open_to_read(&path)?;
        let mut bytes = [0; HEADER_BYTES];
        file.read_at(0, &mut bytes)?;
        Ok((Header::read(&bytes), file.size()?))
    };
    match read() {
        Ok((Ok(header), size)) => Ok(Some((header, size))),
        Ok((Err(Unreadable::Newer(version)), _)) => {
            newer.get_or_insert(version);
            Ok(None)
        }
        Ok((Err(Unreadable::Foreign | Unreadable::Damaged), _)) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(from.failed("read", &path)(error))
        }
        Err(_) => Ok(None),
    }
}

/// The store most segments say they belong to, of equals the one whose segment comes first.
fn most_common(sources: &[Source]) -> Option<u64> {
    let count = |store| sources.iter().filter(|s| s.header.store == store).count();
    let stores = sources.iter().rev().map(|s| s.header.store);
    stores.max_by_key(|store| count(*store))
}

impl Source {
    fn new(path: PathBuf, header: Header, size: u64) -> Source {
        Source {
            path,
            header,
            size,
            turn: None,
            first: 0,
            end: HEADER_WORDS,
            sealed: false,
            damage: Vec::new(),
            records: Vec::new(),
        }
    }

    fn time(&self) -> TimeBase {
        TimeBase::new(self.header.base, self.header.ttl)
    }

    /// Its words, as many as there are, and room for a SEAL behind those of a file that was cut
    /// short. Blocks that cannot be read are all ones, which is no record.
    fn words(&self, from: &Place) -> Result<Memory> {
        let file = from.disk.open_to_read(&self.path);
        let file = file.map_err(from.failed("open", &self.path))?;
        let there = usize::try_from(self.size / WORD as u64).unwrap_or(usize::MAX);
        let bytes = self.header.words.min(there) * WORD;
        let memory = Memory::on_heap(self.header.words.min(there.saturating_add(SEAL_WORDS)) * WORD);
        let mut buffer = vec![0; PIECE.min(bytes)];
        for at in (0..bytes).step_by(PIECE) {
            let piece = &mut buffer[..PIECE.min(bytes - at)];
            if file.read_at(at as u64, piece).is_err() {
                for (i, block) in piece.chunks_mut(BLOCK).enumerate() {
                    if file.read_at((at + i * BLOCK) as u64, block).is_err() {
                        block.fill(0xff);
                    }
                }
            }
            memory.write(at, piece);
        }
        Ok(memory)
    }

    /// Finds everything that verifies.
    fn survey(&mut self, from: &Place, said: &mut Said) -> Result<()> {
        let memory = self.words(from)?;
        let words = memory.mapping.words();
        let stamp = self.header.stamp();
        let mut at = HEADER_WORDS;
        while let Some((found, entry)) = next_entry(words, at, stamp) {
            if found > at {
                self.damage.push(at..found);
            }
            match entry {
                Entry::Keyed(_) => self.records.push(found as u32),
                Entry::Note(Note::Mark(mark)) => self.hear(&mark, said),
                Entry::Note(Note::Vouch(pos)) => said.vouched = said.vouched.max(pos),
                Entry::Note(Note::Seal) => self.sealed = true,
                Entry::Nothing => {}
            }
            at = found + entry.words();
            if self.sealed {
                break;
            }
        }
        self.end = at;
        // Zeros behind the end are no damage.
        let behind = words.get(at..).filter(|_| !self.sealed).unwrap_or_default();
        if let Some(last) = behind.iter().rposition(|word| word.load(Ordering::Relaxed) != 0) {
            self.damage.push(self.end..self.end + last + 1);
        }
        Ok(())
    }

    fn hear(&mut self, mark: &Mark, said: &mut Said) {
        self.turn.get_or_insert(mark.turn);
        if self.damage.is_empty() {
            self.first = self.first.max(mark.first);
        }
        said.ceiling = said.ceiling.max(mark.ceiling);
        said.vouched = said.vouched.max(mark.vouched);
        said.note_time(mark.now, mark.offset);
    }

    /// Shows the records at these words, as far as they are still there.
    fn visit(
        &self,
        from: &Place,
        at: &[u32],
        mut each: impl FnMut(u32, &Record<'_>) -> Result<()>,
    ) -> Result<()> {
        let memory = self.words(from)?;
        let mut copied = Copied::default();
        let (stamp, time) = (self.header.stamp(), self.time());
        for &at in at {
            let words = memory.mapping.words();
            match record_at(words, at as usize, stamp, time, &mut copied) {
                (Entry::Keyed(_), Some(record)) => each(at, &record)?,
                // Its sum verifies and its lengths do not: no record of ours.
                (Entry::Keyed(_), None) => {}
                _ => {
                    let offset = u64::from(at) * WORD as u64;
                    return Err(damaged(
                        &self.path,
                        offset,
                        "it could be read before and cannot now",
                    ));
                }
            }
        }
        Ok(())
    }
}

impl Said {
    fn note_time(&mut self, now: Tick, offset: i64) {
        let now = now.min(LATEST);
        if self.time.is_none_or(|(latest, _)| latest <= now) {
            self.time = Some((now, offset));
        }
    }
}

/// Brings the segments into the log's order, and leaves out those that were let go: what overrode
/// their records may be gone with the ones after them. A MARK that says so is believed if all that
/// repeats their records is there, which is what came between.
fn leave_stale(sources: &mut Vec<Source>) {
    sources.sort_by_key(|source| (source.turn.unwrap_or(0), source.header.serial));
    let turns: Vec<_> = sources.iter().filter(|s| s.turn.is_some()).collect();
    let is_backed = |at: usize| {
        let source = turns[at];
        let before = turns[..at].iter().filter(|s| s.turn >= Some(source.first));
        let (mut there, mut whole) = (0, true);
        for segment in before {
            there += 1;
            whole &= segment.sealed && segment.damage.is_empty();
        }
        whole
            && source
                .turn
                .is_some_and(|turn| turn.checked_sub(source.first) == Some(there))
    };
    let backed = (0..turns.len()).rev().find(|at| is_backed(*at));
    let first = backed.map_or(0, |at| turns[at].first);
    sources.retain(|source| source.turn.is_none_or(|turn| turn >= first));
}

fn report_losses(sources: &[Source], said: &Said, report: &mut SalvageReport) {
    let last = sources.iter().filter_map(|s| s.turn).max();
    for source in sources {
        report.segments += u64::from(source.turn.is_some() || !source.records.is_empty());
        let bytes = |words: usize| (words * WORD) as u64;
        let skip = |words: &Range<usize>| (source.path.clone(), bytes(words.start), bytes(words.end));
        report.records += source.records.len() as u64;
        report.damaged.extend(source.damage.iter().map(skip));
        // What later data vouches for was there, even where nothing is left of it; and every
        // segment but the last was sealed.
        let whole = bytes(source.header.words);
        let was_written = match source.turn {
            Some(turn) if said.vouched.turn() == turn => said.vouched.byte().min(whole),
            Some(turn) if Some(turn) < last => whole,
            _ => 0,
        };
        let known = source.damage.last().map_or(source.end, |range| range.end);
        if !source.sealed && bytes(known) < was_written {
            report
                .damaged
                .push((source.path.clone(), bytes(known), was_written));
        }
    }
    let first = sources.iter().map(|s| s.first).max().unwrap_or(0);
    let mut turns: Vec<u32> = sources.iter().filter_map(|s| s.turn).collect();
    turns.dedup();
    turns.retain(|turn| *turn >= first);
    let last = last.unwrap_or(0).max(said.vouched.turn());
    if last >= first && last > 0 {
        let expected = u64::from(last - first.max(1)) + 1;
        report.missing = expected.saturating_sub(turns.len() as u64);
    }
}

/// What counts of a key.
#[derive(Clone, Copy)]
struct Winner {
    order: (u64, u64),
    source: u32,
    at: u32,
    is_completed: bool,
    is_wanted: bool,
}

/// The records to be written, by segment, and the largest generation there is.
fn choose(
    from: &Place,
    sources: &[Source],
    now: Tick,
    report: &mut SalvageReport,
) -> Result<(Vec<Vec<u32>>, u64)> {
    // What no segment can say will not be said: records of ours never last so long.
    let time = TimeBase::new(now, USUAL_TTL);
    let is_live = |record: &Record<'_>| {
        let can_be_said = record.draft().is_some_and(|draft| draft.fit(&time).is_some());
        matches!(record.kind(), Kind::Completed | Kind::Claimed) && record.deadline() > now && can_be_said
    };
    let mut winners: HashMap<KeyBuf, Winner> = HashMap::new();
    let mut largest = 0;
    for (number, source) in sources.iter().enumerate() {
        source.visit(from, &source.records, |at, record| {
            let Some(key) = record.key() else { return Ok(()) };
            let winner = Winner {
                order: record.order(),
                source: number as u32,
                at,
                is_completed: record.kind() == Kind::Completed,
                is_wanted: is_live(record),
            };
            largest = largest.max(record.generation());
            let place = winners.entry(key.to_buf());
            // In the log's order: of equals the later one counts.
            let best = place.or_insert(winner);
            if winner.order >= best.order {
                *best = winner;
            }
            Ok(())
        })?;
    }
    let mut wanted: Vec<Vec<u32>> = sources.iter().map(|_| Vec::new()).collect();
    for winner in winners.into_values() {
        match (winner.is_wanted, winner.is_completed) {
            (false, _) => report.left_out += 1,
            (true, true) => report.completed += 1,
            (true, false) => report.interrupted += 1,
        }
        if winner.is_wanted {
            wanted[winner.source as usize].push(winner.at);
        }
    }
    wanted.iter_mut().for_each(|records| records.sort_unstable());
    Ok((wanted, largest))
}

/// The new store.
struct Writer {
    log: Log,
    segments: Segments,
    bytes: Quota,
    now: Tick,
}

impl Writer {
    fn open(to: Place, store: u64, sources: &[Source], time: &Resumed) -> Result<Writer> {
        let made = to.disk.create_dir(&to.dir);
        made.map_err(to.failed("create directory", &to.dir))?;
        let path = to.path(LOCK);
        let lock = to.disk.lock(&path).map_err(to.failed("lock", &path))?;
        let lock = lock.ok_or(Error::Locked { path })?;
        let sizes = sources.iter().map(|s| s.header.words * WORD);
        let limits = Limits {
            segment_bytes: sizes.max().unwrap_or(0).clamp(BLOCK, MAX_SEGMENT_BYTES),
            max_disk_bytes: u64::MAX,
            touched: true,
        };
        let ttl = sources.last().map_or(USUAL_TTL, |source| source.header.ttl);
        let bytes = Quota::new(i64::MAX as u64, 1, 0);
        let found = Found::new(to, store, lock, Stream::of(Vec::new()), 1);
        Ok(Writer {
            segments: Segments::without_lanes(&bytes, time.now, 0),
            log: Log {
                offset: time.offset,
                ..Log::new(found, ttl, limits)
            },
            bytes,
            now: time.now,
        })
    }

    fn means(&self) -> Means<'_> {
        Means {
            segments: &self.segments,
            bytes: &self.bytes,
            now: self.now,
        }
    }

    fn write(&self, from: &Place, sources: &[Source], wanted: &[Vec<u32>], ceiling: u64) -> Result<()> {
        self.log.begin(ceiling, self.means())?;
        for (source, wanted) in sources.iter().zip(wanted) {
            if wanted.is_empty() {
                continue;
            }
            source.visit(from, wanted, |_, record| match record.draft() {
                Some(draft) => self.append(&draft),
                None => Ok(()),
            })?;
            // Now and then, so that few files wait to be synced.
            self.log.commit(self.log.end())?;
        }
        self.log.close(self.now)?;
        recover::make_store(&self.log.place, self.log.store(), self.now)
    }

    fn append(&self, draft: &Draft<'_>) -> Result<()> {
        for _ in 0..2 {
            match self.log.append(draft, Share::Promised, self.means()) {
                Ok(_) => return Ok(()),
                Err(Unwritten::Failed(error)) => return Err(error),
                // Why there is none is told to who asks for some.
                Err(Unwritten::NoRoom) => {
                    let words = HEADER_WORDS + draft.words(self.log.ttl) + BLOCK / WORD;
                    self.log
                        .add_spare(&mut self.log.lane.lock(), words, self.means())?;
                }
            }
        }
        Err(Error::InvalidInput {
            what: "directory",
            why: "a record in it fits into no segment",
        })
    }
}
