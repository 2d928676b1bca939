//! The log: the store's records as files, in one stream.
//!
//! A segment of a store with a log is a mapped file, an *extent*, and the record written there
//! is the one that replays read. All records, of claims and of outcomes, go through one cursor
//! into one stream of segments. That makes three hard things easy:
//!
//! - what is durable is always a prefix of the stream, made so by syncing one file, rarely two;
//! - segments go oldest first, so whatever overrides a record outlives it, for it comes later;
//! - a hole below a position that later data vouches for is damage, any other is a torn tail.
//!
//! What of the oldest segment is still wanted when it is mostly waste is written again at the
//! end ([`Log::leftover`]). Files are made ahead ([`Log::prepare`]), zero-filled and synced before
//! they are mapped, so that no append waits for the disk or needs room on it.
//!
//! What is absent: keys and their states. The log never sees a shard.

mod commit;
mod extent;
pub(crate) mod format;
pub(crate) mod inspect;
pub(crate) mod recover;
pub(crate) mod salvage;

use crate::clock::{Span, Tick};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::quota::{Quota, Room, Share};
use crate::segment::record::{COARSE_UNIT, Kind, TimeBase};
use crate::segment::space::Doomed;
use crate::segment::table::WORD_BITS;
use crate::segment::words::WORD;
use crate::segment::{Address, Draft, Segments};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};
use commit::Committer;
use extent::{Extent, Spare};
use format::{HEADER_BYTES, MARK_WORDS, Mark, Note, Pos, SEAL_WORDS};
use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

/// A disk and the directory of one store on it.
pub(crate) struct Place {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) dir: PathBuf,
}

impl Place {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn failed(&self, op: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
        let path = path.to_path_buf();
        move |source| Error::Io {
            op,
            path: path.clone(),
            source: Arc::new(source),
        }
    }

    pub(crate) fn sync_dir(&self) -> Result<()> {
        let done = self.disk.sync_dir(&self.dir);
        done.map_err(self.failed("sync directory", &self.dir))
    }
}

/// What the log needs of the store around it, for one call.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) segments: &'a Segments,
    pub(crate) bytes: &'a Quota,
    pub(crate) now: Tick,
}

/// Options of a log.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// The largest segment that holds more than one record, in bytes.
    pub(crate) segment_bytes: usize,
    pub(crate) max_disk_bytes: u64,
    /// Files are made ready to be written page by page: for stores that sync whole segments. With
    /// a sync a call, each would take the rest of the file along.
    pub(crate) touched: bool,
}

/// The size of the first segment after an open; each full one doubles the next.
const FIRST_BYTES: usize = 256 << 10;
/// Room kept for records nobody has promised and that must not be refused: of forgetting, of
/// taking over.
const RESERVE: usize = 16 << 10;
/// How far what the log says of the time may be behind it while records are written: a restart
/// believes the clock only so far.
const NOTE_TIME: Span = Span::from_millis(3_600_000);
/// Synced bytes that may stay without a vouch while others are being written. Damage in what
/// nothing vouches for cannot be told from a torn tail.
const VOUCH_EVERY: u64 = 4 << 10;
/// A file prepared so long ago is not begun any more: its deadlines would leave 32 bits.
const MAX_SPARE_AGE: Span = Span::from_millis(8 * 24 * 3_600 * 1_000);
/// Segments that may hold more waste than they hold records wanted.
const WASTE_SEGMENTS: u64 = 4;

/// Why a record was not appended.
#[derive(Debug)]
pub(crate) enum Unwritten {
    /// There is no prepared room and none could be prepared. Nothing is lost.
    NoRoom,
    Failed(Error),
}

struct Head {
    extent: Arc<Extent>,
    /// The next word to write.
    cursor: usize,
    holds: Holds,
}

/// What the records of a segment come to.
#[derive(Clone, Copy)]
pub(crate) struct Holds {
    /// The latest deadline.
    pub(crate) latest: Tick,
    /// Outcomes, and the words they take. Nothing else is wanted for long.
    pub(crate) outcomes: u64,
    pub(crate) outcome_words: u64,
}

impl Holds {
    pub(crate) const NOTHING: Holds = Holds {
        latest: Tick(0),
        outcomes: 0,
        outcome_words: 0,
    };

    pub(crate) fn add(&mut self, kind: Kind, words: usize, deadline: Tick) {
        self.latest = self.latest.max(deadline);
        if kind == Kind::Completed {
            self.outcomes += 1;
            self.outcome_words += words as u64;
        }
    }
}

/// A segment nobody writes to any more.
pub(crate) struct Sealed {
    pub(crate) extent: Arc<Extent>,
    /// Words written.
    pub(crate) used: usize,
    pub(crate) holds: Holds,
}

/// What the lane's lock guards.
struct Stream {
    head: Option<Head>,
    spares: VecDeque<Spare>,
    /// Oldest first.
    sealed: VecDeque<Sealed>,
    /// Sealed and not known to be durable.
    unsynced: Vec<Arc<Extent>>,
    next_turn: u32,
    /// The first turn that counts.
    first: u32,
    vouched: Pos,
    /// The latest time a MARK has said.
    noted: Tick,
    closed: bool,
}

impl Stream {
    fn end(&self) -> Pos {
        let head = self.head.as_ref();
        head.map_or(Pos::START, |h| Pos::new(h.extent.turn, h.cursor))
    }

    /// The end of the sealed segments that are not known to be durable.
    fn sealed_end(&self) -> Option<Pos> {
        let last = self.unsynced.last()?;
        let sealed = self.sealed.iter().rfind(|s| s.extent.turn == last.turn)?;
        Some(Pos::new(last.turn, sealed.used))
    }

    /// Room for records: in the head, and in what is prepared.
    fn free(&self) -> u64 {
        let usable = |words: usize| {
            let bytes = (words * WORD) as u64;
            // Vouches take a little of it.
            bytes.saturating_sub(bytes / 64 + 48)
        };
        let head = self.head.as_ref();
        head.map_or(0, |h| usable(h.left())) + self.spares.iter().map(|s| usable(s.room())).sum::<u64>()
    }
}

pub(crate) struct Log {
    place: Place,
    store: u64,
    ttl: Span,
    limits: Limits,
    lane: Mutex<Stream>,
    /// The serial of the next file; held while one is made.
    serials: Mutex<u32>,
    /// The size of the next file; changed under the lane's lock.
    next_bytes: AtomicU64,
    /// Held by who makes room for a refused call.
    makers: Mutex<()>,
    committer: Committer,
    pub(crate) room: Arc<Room>,
    /// No generation so large may be given out: what is durable of it, and what MARKs say.
    ceiling: AtomicU64,
    announced: AtomicU64,
    /// Store time less the wall clock's, to be kept.
    pub(crate) offset: i64,
    disk_bytes: AtomicU64,
    /// When the helper shall sync at the latest.
    sync_by: AtomicU64,
    lock: Mutex<Option<Box<dyn Send + Sync>>>,
    /// No file is made any more.
    closing: AtomicBool,
    /// The helper knows that room is wanted.
    told: AtomicBool,
    /// Files that could not be prepared, and records written again from leftovers.
    pub(crate) prepare_failures: AtomicU64,
    pub(crate) carried: AtomicU64,
}

/// A record that was appended and is not yet published: while this lives its segment stays.
pub(crate) struct Appended {
    pub(crate) at: Address,
    /// The deadline as the record says it, which may be rounded up to a second.
    pub(crate) deadline: Tick,
    pub(crate) end: Pos,
    extent: Arc<Extent>,
}

impl Drop for Appended {
    fn drop(&mut self) {
        self.extent.unpend();
    }
}

fn at_capacity() -> Error {
    Error::AtCapacity {
        retry_after: std::time::Duration::from_secs(1),
    }
}

enum Put {
    Done(Appended),
    /// It does not fit into what is left of the head; a segment for it has so many words.
    Full(usize),
    /// What is left is promised to others.
    Promised,
}

impl Log {
    /// A log that goes on after what was recovered. Nothing can be appended before
    /// [`begin`](Self::begin).
    pub(crate) fn new(found: recover::Found, ttl: Span, limits: Limits) -> Self {
        let recover::Found {
            place,
            store,
            lock,
            next_serial,
            next_turn,
            first,
            end,
            ceiling,
            ..
        } = found;
        Log {
            place,
            store,
            ttl,
            limits,
            lane: Mutex::new(Stream {
                head: None,
                spares: VecDeque::new(),
                sealed: VecDeque::new(),
                unsynced: Vec::new(),
                next_turn,
                first,
                vouched: end,
                noted: Tick(0),
                closed: false,
            }),
            next_bytes: AtomicU64::new(FIRST_BYTES.min(limits.segment_bytes) as u64),
            serials: Mutex::new(next_serial),
            makers: Mutex::new(()),
            committer: Committer::new(end),
            room: Arc::new(Room::new((limits.segment_bytes / 8).min(RESERVE) as u64)),
            ceiling: AtomicU64::new(ceiling),
            announced: AtomicU64::new(ceiling),
            offset: 0,
            disk_bytes: AtomicU64::new(0),
            sync_by: AtomicU64::new(u64::MAX),
            lock: Mutex::new(Some(lock)),
            closing: AtomicBool::new(false),
            told: AtomicBool::new(false),
            prepare_failures: AtomicU64::new(0),
            carried: AtomicU64::new(0),
        }
    }

    /// Takes over a segment that was recovered, the oldest first.
    pub(crate) fn adopt(&self, found: &recover::Segment, id: u32, holds: Holds, bytes: &Quota) {
        let size = found.memory.size() as u64;
        bytes.force_direct(size);
        self.disk_bytes.fetch_add(size, Ordering::Relaxed);
        let extent = Arc::new(Extent::recovered(found, id));
        self.lane.lock().sealed.push_back(Sealed {
            extent,
            used: found.end,
            holds,
        });
    }

    /// Begins a segment of its own for this life of the store, and makes durable that
    /// generations below `ceiling` may be given out.
    pub(crate) fn begin(&self, ceiling: u64, means: Means<'_>) -> Result<()> {
        let mut s = self.lane.lock();
        // Whatever the limits say: a store that is over them can still be opened.
        let spare = self.make_spare(0, true, means)?;
        self.take_spare(&mut s, spare);
        self.announced.store(ceiling, Ordering::Relaxed);
        if !self.turn_over(&mut s, means) {
            return Err(at_capacity());
        }
        let end = s.end();
        drop(s);
        self.commit(end)?;
        self.ceiling.store(ceiling, Ordering::Release);
        // Where there is no room for a second one new keys are refused, for now.
        match self.add_spare(&mut self.lane.lock(), 0, means) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::StorageFull => Ok(()),
            Err(Error::AtCapacity { .. }) => Ok(()),
            made => made,
        }
    }

    /// Writes a record at the end of the stream.
    pub(crate) fn append(
        &self,
        draft: &Draft<'_>,
        takes: Share,
        means: Means<'_>,
    ) -> Result<Appended, Unwritten> {
        let mut s = self.lane.lock();
        if s.closed {
            return Err(Unwritten::Failed(Error::Closed));
        }
        if s.noted.after(NOTE_TIME) < means.now {
            let turn = s.end().turn();
            let mark = self.mark(&s, turn, means.now);
            self.put_note(&mut s, mark);
        }
        // A segment that fits, and room for what is promised: each takes a turn or two.
        for _ in 0..6 {
            match self.put(&mut s, draft, takes, false, means.segments) {
                Put::Done(appended) => return Ok(appended),
                Put::Promised => self.more_room(&mut s, 0, means)?,
                Put::Full(words) => {
                    self.discard_old(&mut s, means);
                    let at = s.spares.iter().position(|spare| spare.is_fit(words, means.now));
                    let at = match at {
                        Some(at) => at,
                        None => {
                            if let Err(unwritten) = self.more_room(&mut s, words, means) {
                                // A second late is better than not at all.
                                let stretch = takes != Share::Rest;
                                return match self.put(&mut s, draft, takes, stretch, means.segments) {
                                    Put::Done(appended) => Ok(appended),
                                    _ => Err(unwritten),
                                };
                            }
                            s.spares.len() - 1
                        }
                    };
                    s.spares.swap(0, at);
                    let left = s.head.as_ref().map_or(0, Head::left);
                    let after = s.free().saturating_sub(((left + words) * WORD) as u64);
                    if after < self.room.must_stay(takes) {
                        self.more_room(&mut s, 0, means)?;
                    }
                    if !self.turn_over(&mut s, means) {
                        return Err(Unwritten::NoRoom);
                    }
                }
            }
        }
        Err(Unwritten::NoRoom)
    }

    /// Lets go of spares nothing may be begun in any more.
    fn discard_old(&self, s: &mut Stream, means: Means<'_>) {
        let Some(at) = s.spares.iter().position(|spare| !spare.is_fit(0, means.now)) else {
            return;
        };
        if let Some(spare) = s.spares.remove(at) {
            let size = spare.memory.size() as u64;
            // A name that stays behind is that of a blank file, which a recovery removes.
            let _ = self.place.disk.remove(spare.path());
            self.disk_bytes.fetch_sub(size, Ordering::Relaxed);
            means.bytes.give_direct(size);
            self.room.set_free(s.free());
        }
    }

    /// Writes a record into the head; `stretch` lets one in whose deadline the head is too old to
    /// say exactly.
    fn put(
        &self,
        s: &mut Stream,
        draft: &Draft<'_>,
        takes: Share,
        stretch: bool,
        segments: &Segments,
    ) -> Put {
        let need = |words: usize| HEADER_BYTES / WORD + 2 * MARK_WORDS + words + SEAL_WORDS;
        let Some(head) = &mut s.head else {
            return Put::Full(need(draft.words(self.ttl)));
        };
        let extent = head.extent.clone();
        let fit = match draft.fit(&extent.time) {
            Some(fit) if fit.words <= head.left() && (stretch || !fit.stretched) => fit,
            _ => return Put::Full(need(draft.words(self.ttl))),
        };
        let word = head.cursor;
        head.cursor += fit.words;
        if !self.room.use_down_to(s.free(), takes) {
            if let Some(head) = &mut s.head {
                head.cursor = word;
            }
            return Put::Promised;
        }
        extent.pend();
        let to = &extent.mapping.words()[word..word + fit.words];
        draft.write_summed(&extent.time, &fit, to, extent.stamp, word);
        segments.table.note_deadline(extent.id, fit.deadline);
        let end = Pos::new(extent.turn, word + fit.words);
        if let Some(head) = &mut s.head {
            head.holds.add(draft.kind, fit.words, fit.deadline);
        }
        Put::Done(Appended {
            at: Address::new(extent.id, word),
            deadline: fit.deadline,
            end,
            extent,
        })
    }

    /// Writes a record without a key, if it fits.
    fn put_note(&self, s: &mut Stream, note: Note) -> bool {
        self.put_note_up_to(s, note, Extent::end)
    }

    /// The same, up to there.
    fn put_note_up_to(&self, s: &mut Stream, note: Note, end: fn(&Extent) -> usize) -> bool {
        let Some(head) = &mut s.head else { return false };
        let word = head.cursor;
        if word + note.words() > end(&head.extent) {
            return false;
        }
        if let Note::Mark(mark) = note {
            s.noted = s.noted.max(mark.now);
        }
        note.write(&head.extent.mapping.words()[word..], head.extent.stamp, word);
        head.cursor += note.words();
        self.room.set_free(s.free());
        true
    }

    fn mark(&self, s: &Stream, turn: u32, now: Tick) -> Note {
        Note::Mark(Mark {
            ceiling: self.announced.load(Ordering::Relaxed),
            turn,
            first: s.first,
            now,
            offset: self.offset,
            vouched: s.vouched,
        })
    }

    /// Seals the head and begins the first spare.
    fn turn_over(&self, s: &mut Stream, means: Means<'_>) -> bool {
        let Some(spare) = s.spares.pop_front() else {
            return false;
        };
        let time = TimeBase::new(spare.base, self.ttl);
        let Some(id) = means.segments.issue(&spare.memory.mapping, &time) else {
            s.spares.push_front(spare);
            return false;
        };
        self.put_note_up_to(s, Note::Seal, Extent::size);
        if let Some(head) = s.head.take() {
            s.unsynced.push(head.extent.clone());
            s.sealed.push_back(Sealed {
                extent: head.extent,
                used: head.cursor,
                holds: head.holds,
            });
        }
        let turn = s.next_turn;
        s.next_turn += 1;
        s.head = Some(Head {
            extent: Arc::new(spare.begin(id, turn, time)),
            cursor: HEADER_BYTES / WORD,
            holds: Holds::NOTHING,
        });
        let mark = self.mark(s, turn, means.now);
        self.put_note(s, mark);
        true
    }

    fn more_room(&self, s: &mut Stream, words: usize, means: Means<'_>) -> Result<(), Unwritten> {
        self.add_spare(s, words, means).map_err(|_| Unwritten::NoRoom)
    }

    fn add_spare(&self, s: &mut Stream, words: usize, means: Means<'_>) -> Result<()> {
        let spare = self.make_spare(words, false, means)?;
        self.take_spare(s, spare);
        Ok(())
    }

    fn take_spare(&self, s: &mut Stream, spare: Spare) {
        let next = 2 * self.next_bytes.load(Ordering::Relaxed);
        let next = next.min(self.limits.segment_bytes as u64);
        self.next_bytes.store(next, Ordering::Relaxed);
        s.spares.push_back(spare);
        self.room.set_free(s.free());
    }

    /// Makes a file in which a segment of that many words fits, beyond the limits if it must be.
    fn make_spare(&self, words: usize, forced: bool, means: Means<'_>) -> Result<Spare> {
        let next = self.next_bytes.load(Ordering::Relaxed) as usize;
        let size = next.max((words * WORD).next_multiple_of(4096));
        let mut serial = self.serials.lock();
        if self.closing.load(Ordering::SeqCst) {
            return Err(Error::Closed);
        }
        let before = self.disk_bytes.fetch_add(size as u64, Ordering::Relaxed);
        let fits = before + size as u64 <= self.limits.max_disk_bytes;
        if forced {
            means.bytes.force_direct(size as u64);
        } else if !fits || !means.bytes.take_direct(size as u64) {
            self.disk_bytes.fetch_sub(size as u64, Ordering::Relaxed);
            return Err(at_capacity());
        }
        // Bases are whole coarse units, so that a coarse deadline stays what it is when it is
        // written again elsewhere.
        let base = Tick(means.now.0 - means.now.0 % COARSE_UNIT);
        let made = Spare::make(
            &self.place,
            self.store,
            *serial,
            base,
            self.ttl,
            (size, self.limits.touched),
        );
        if made.is_err() {
            means.bytes.give_direct(size as u64);
            self.disk_bytes.fetch_sub(size as u64, Ordering::Relaxed);
            self.prepare_failures.fetch_add(1, Ordering::Relaxed);
        }
        *serial += 1;
        made
    }

    /// Is less prepared than calls may need until more is? Making a file takes as long as it
    /// takes them to fill one.
    fn wants_room(&self) -> bool {
        let next = self.next_bytes.load(Ordering::Relaxed);
        self.room.free() < self.room.promised() + next + next / 2
    }

    /// Has something come up for the helper since it was last told? True once.
    pub(crate) fn is_hungry(&self) -> bool {
        self.wants_room() && !self.told.swap(true, Ordering::Relaxed)
    }

    /// Makes the next file ahead, if one is wanted; for the helper thread, and for calls that
    /// were refused. True if one was made.
    pub(crate) fn prepare(&self, means: Means<'_>) -> bool {
        self.told.store(false, Ordering::Relaxed);
        let wanted = {
            let s = self.lane.lock();
            !s.closed && (s.spares.is_empty() || self.wants_room())
        };
        if !wanted || self.committer.has_failed() {
            return false;
        }
        let Ok(spare) = self.make_spare(0, false, means) else {
            return false;
        };
        self.take_spare(&mut self.lane.lock(), spare);
        true
    }

    /// For a call that was refused and needs so many bytes: are they there now, or could more be
    /// made?
    pub(crate) fn make_room(&self, need: u64, means: Means<'_>) -> bool {
        let enough = || self.room.free() >= self.room.promised() + need;
        // One at a time: the others find what the first has made.
        let _turn = self.makers.lock();
        if enough() {
            return true;
        }
        if self.lane.lock().closed {
            return false;
        }
        let Ok(spare) = self.make_spare(0, false, means) else {
            return false;
        };
        self.take_spare(&mut self.lane.lock(), spare);
        true
    }

    /// Waits until everything before `pos` is durable.
    ///
    /// # Errors
    ///
    /// What the first failed sync said; from then on the store is poisoned.
    pub(crate) fn commit(&self, pos: Pos) -> Result<()> {
        self.committer.wait(pos, || self.sync_up(pos))
    }

    /// Everything appended so far.
    pub(crate) fn end(&self) -> Pos {
        self.lane.lock().end()
    }

    pub(crate) fn durable(&self) -> Pos {
        self.committer.durable()
    }

    /// Has a sync failed?
    pub(crate) fn check(&self) -> Result<()> {
        match self.committer.has_failed() {
            true => Err(Error::Poisoned),
            false => Ok(()),
        }
    }

    /// Makes durable what has been appended so far; where sealed segments reach up to `pos`, only
    /// those. A head that is synced too early is written out twice.
    fn sync_up(&self, pos: Pos) -> Result<Pos> {
        let (target, sealed, head) = {
            let s = self.lane.lock();
            let sealed = s.unsynced.clone();
            match s.sealed_end() {
                Some(end) if pos <= end => (end, sealed, None),
                _ => {
                    // Under the lock: a wish that is noted later may be for a later record.
                    self.sync_by.store(u64::MAX, Ordering::Relaxed);
                    (s.end(), sealed, s.head.as_ref().map(|h| h.extent.clone()))
                }
            }
        };
        if !cfg!(onceonly_sabotage = "skip_sync") {
            sealed.iter().for_each(|extent| extent.mapping.take_pages_out());
            for extent in sealed.iter().chain(&head) {
                let first = extent.sync();
                let synced = match first {
                    Err(_) if cfg!(onceonly_sabotage = "retry_sync") => extent.sync(),
                    synced => synced,
                };
                synced.map_err(self.place.failed("sync", &extent.path))?;
            }
        }
        for extent in &sealed {
            extent.close_file();
            extent.mapping.populate_file(false);
        }
        let mut s = self.lane.lock();
        let last = sealed.last().map(|extent| extent.turn);
        s.unsynced.retain(|extent| Some(extent.turn) > last);
        let unvouched = if target.turn() == s.vouched.turn() {
            target.byte().saturating_sub(s.vouched.byte())
        } else {
            u64::MAX
        };
        if unvouched >= VOUCH_EVERY && !s.closed {
            self.vouch(&mut s, target);
        }
        Ok(target)
    }

    /// Notes that everything before `pos` is durable.
    fn vouch(&self, s: &mut Stream, pos: Pos) {
        if s.vouched < pos {
            s.vouched = pos;
            self.put_note(s, Note::Vouch(pos));
        }
    }

    /// Lets the last batch be vouched for, when there is nothing else to do. True if it did.
    pub(crate) fn vouch_idle(&self) -> Result<bool> {
        let end = {
            let mut s = self.lane.lock();
            let durable = self.committer.durable();
            // A vouch alone needs none. (Whoever syncs vouches before it says how far it came.)
            let bare = s.end().turn() == durable.turn()
                && s.vouched.turn() == durable.turn()
                && durable.byte().saturating_sub(s.vouched.byte()) <= (format::VOUCH_WORDS * WORD) as u64;
            if s.closed || durable != s.end() || bare {
                return Ok(false);
            }
            self.vouch(&mut s, durable);
            s.end()
        };
        self.commit(end)?;
        Ok(true)
    }

    /// Notes a moment of store time, and what is vouched for, once in a while.
    pub(crate) fn note_time(&self, now: Tick) -> Result<()> {
        let end = {
            let mut s = self.lane.lock();
            if s.closed {
                return Ok(());
            }
            let turn = s.end().turn();
            let mark = self.mark(&s, turn, now);
            self.put_note(&mut s, mark);
            s.end()
        };
        self.commit(end)
    }

    pub(crate) fn ceiling(&self) -> u64 {
        self.ceiling.load(Ordering::Acquire)
    }

    /// Makes durable that generations below `ceiling` may be given out.
    pub(crate) fn raise_ceiling(&self, ceiling: u64, means: Means<'_>) -> Result<()> {
        let end = {
            let mut s = self.lane.lock();
            if s.closed {
                return Err(Error::Closed);
            }
            let turn = s.end().turn();
            self.announced.fetch_max(ceiling, Ordering::Relaxed);
            let mark = self.mark(&s, turn, means.now);
            // If there is no room for it, the MARK of the next segment says it.
            if !self.put_note(&mut s, mark) && !self.turn_over(&mut s, means) {
                return Err(at_capacity());
            }
            s.end()
        };
        self.commit(end)?;
        self.ceiling.fetch_max(ceiling, Ordering::AcqRel);
        Ok(())
    }

    /// The helper shall sync by then.
    pub(crate) fn sync_by(&self, tick: Tick) {
        self.sync_by.fetch_min(tick.0, Ordering::Relaxed);
    }

    /// Takes the wish, to be fulfilled after: whoever wishes from now on is not forgotten.
    pub(crate) fn take_sync_by(&self) {
        self.sync_by.store(u64::MAX, Ordering::Relaxed);
    }

    pub(crate) fn next_sync(&self) -> Tick {
        Tick(self.sync_by.load(Ordering::Relaxed))
    }

    /// Has a segment been sealed that is not yet durable? How far to sync, then.
    pub(crate) fn sealed_end(&self) -> Option<Pos> {
        self.lane.lock().sealed_end()
    }

    /// The moment at which the oldest segment has expired.
    pub(crate) fn next_due(&self) -> Tick {
        let s = self.lane.lock();
        s.sealed.front().map_or(Tick::NEVER, |front| front.holds.latest)
    }

    /// The oldest segment, if everything in it has expired.
    pub(crate) fn expired(&self, now: Tick) -> Option<Doomed> {
        let s = self.lane.lock();
        let front = s.sealed.front().filter(|f| f.holds.latest <= now)?;
        front.doomed()
    }

    /// The oldest segment, if the log holds so much waste that what is wanted of it should be
    /// written again. `live` counts the records of a segment that are wanted.
    pub(crate) fn leftover(&self, live: impl Fn(u32) -> u64, now: Tick, urgent: bool) -> Option<Doomed> {
        let s = self.lane.lock();
        let (mut total, mut wanted) = (0, 0);
        for sealed in &s.sealed {
            let bytes = sealed.extent.mapping.bytes() as u64;
            let Holds {
                outcomes,
                outcome_words,
                ..
            } = sealed.holds;
            total += bytes;
            // What has expired keeps its slot until its segment goes or somebody meets it.
            if sealed.holds.latest <= now {
                continue;
            }
            let live = live(sealed.extent.id).min(outcomes);
            wanted += outcome_words * WORD as u64 * live / outcomes.max(1);
        }
        let waste = total - wanted.min(total);
        let allowed = wanted.max(WASTE_SEGMENTS * self.limits.segment_bytes as u64);
        if waste <= allowed && !(urgent && waste > self.limits.segment_bytes as u64) {
            return None;
        }
        s.sealed.front()?.doomed()
    }

    /// The length of the record without a key at this word of the oldest segment.
    pub(crate) fn note_words(&self, doomed: &Doomed, word: usize) -> usize {
        let s = self.lane.lock();
        let front = s.sealed.front().filter(|front| front.extent.id == doomed.id());
        let words = front.map_or(0, |front| {
            let words = front.extent.mapping.words();
            format::entry_at(words, word, front.extent.stamp).words()
        });
        // Behind the last one there is nothing.
        if words == 0 { usize::MAX / 2 } else { words }
    }

    /// Lets the oldest segment go: nothing in it counts any more. What has overridden its
    /// records, or repeats them, is made durable first, and that it does not count; then its
    /// name is removed. False if there is no room to say so now.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub(crate) fn drop_front(&self, means: Means<'_>) -> Result<bool> {
        let (front, end) = {
            let mut s = self.lane.lock();
            if s.closed {
                return Err(Error::Closed);
            }
            let Some(front) = s.sealed.pop_front() else {
                return Ok(true);
            };
            s.first = front.extent.turn + 1;
            let turn = s.end().turn();
            let mark = self.mark(&s, turn, means.now);
            // Room is kept for it; where that is used up, the segment that is begun instead says
            // the same.
            let said = self.put_note_up_to(&mut s, mark, Extent::end_of_marks);
            if !said && !self.turn_over(&mut s, means) {
                s.first = front.extent.turn;
                s.sealed.push_front(front);
                return Ok(false);
            }
            // It is synced once more with the others, if it has not been: a commit that leaves the
            // head alone must not pass over it, for the MARK may not be durable by then.
            (front, s.end())
        };
        self.commit(end)?;
        let size = front.extent.mapping.bytes() as u64;
        // A name that stays behind is removed by the next recovery: its turn does not count.
        let _ = self.place.disk.remove(&front.extent.path);
        self.disk_bytes.fetch_sub(size, Ordering::Relaxed);
        Ok(true)
    }

    /// The store's number.
    pub(crate) fn store(&self) -> u64 {
        self.store
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn commits(&self) -> (u64, u64) {
        self.committer.counts()
    }

    /// (segments that hold records, bytes written in them).
    pub(crate) fn used(&self) -> (u64, u64) {
        let s = self.lane.lock();
        let head = s.head.as_ref().map_or(0, |h| h.cursor);
        let words: usize = s.sealed.iter().map(|f| f.used).sum::<usize>() + head;
        (s.sealed.len() as u64 + 1, (words * WORD) as u64)
    }

    /// Ends the log: everything is durable and vouched for, nothing is written any more, and
    /// another may open the directory.
    pub(crate) fn close(&self, now: Tick) -> Result<()> {
        let end = {
            let mut s = self.lane.lock();
            if std::mem::replace(&mut s.closed, true) {
                return Ok(());
            }
            // The next open goes on from here, however long this one has lasted.
            let turn = s.end().turn();
            let mark = self.mark(&s, turn, now);
            self.put_note_up_to(&mut s, mark, Extent::end_of_marks);
            s.end()
        };
        // Whoever makes a file finishes first, and nobody begins.
        self.closing.store(true, Ordering::SeqCst);
        drop(self.serials.lock());
        let closed = self.commit(end).and_then(|()| {
            let end = {
                let mut s = self.lane.lock();
                s.vouched = end;
                // It may stand where the next open seals the segment.
                self.put_note_up_to(&mut s, Note::Vouch(end), Extent::size);
                s.end()
            };
            self.commit(end)
        });
        drop(self.lock.lock().take());
        closed
    }

    /// In a forked child: the lock belongs to the parent.
    pub(crate) fn abandon(&self) {
        std::mem::forget(self.lock.lock().take());
    }
}

impl Head {
    /// Words left for records. Behind the one record that made a segment large there are none:
    /// no address leads there.
    fn left(&self) -> usize {
        match self.cursor < 1 << WORD_BITS {
            true => self.extent.end().saturating_sub(self.cursor),
            false => 0,
        }
    }
}

impl Sealed {
    /// Unless somebody is about to publish a record of it.
    fn doomed(&self) -> Option<Doomed> {
        (!self.extent.is_pending()).then(|| {
            Doomed::new(
                self.extent.id,
                self.extent.mapping.clone(),
                (self.used * WORD) as u64,
            )
        })
    }
}
