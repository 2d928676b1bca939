//! From files to a stream again: which segments there are, how far each is whole, and where the
//! log ends.
//!
//! Every segment is read to its end: its SEAL, or the first word at which no record verifies.
//! The stream goes on as long as each segment in turn is sealed; the first that is not is where
//! the log ends, *the cut*. Everything before the highest position anything vouches for was
//! durable once, so a cut below it is damage, and refused. A cut at or above it is a torn tail:
//! what a power cut left of records nobody was promised. What lies behind is given up.
//!
//! Before the store is served the cut is made final: later segments go first, then the cut is
//! sealed, then all of it is synced (again: a sync that failed before may have left pages the
//! system takes for clean). A crash in between finds the same cut.
//!
//! What is absent: keys. Which record of a key counts is for the engine, which has the index.

use super::Place;
use super::extent::random;
use super::format::{
    Entry, HEADER_BYTES, Header, LOCK, MARK_WORDS, Mark, Note, Pos, SEAL_WORDS, STORE, UNFINISHED,
    Unreadable, VERSION, What, entry_at, next_entry, segment_name, serial_of,
};
use crate::clock::{Span, Tick};
use crate::disk::{Disk, DiskFile, Memory};
use crate::error::{Error, Result};
use crate::segment::record::{Stamp, TimeBase};
use crate::segment::table::HEADER_WORDS;
use crate::segment::words::WORD;
use crate::sync::{Arc, Ordering, Word};
use std::path::{Path, PathBuf};

/// A segment as it was found.
pub(crate) struct Segment {
    pub(crate) path: PathBuf,
    pub(crate) turn: u32,
    pub(crate) memory: Memory,
    pub(crate) stamp: Stamp,
    base: Tick,
    ttl: Span,
    /// The word behind the last record.
    pub(crate) end: usize,
    sealed: bool,
    /// Records with a key.
    pub(crate) records: u64,
    /// The highest position it vouches for, the largest ceiling, the latest time.
    said: Option<Mark>,
    /// It has no SEAL, and behind its end something is written.
    has_tail: bool,
    /// The highest position vouched for behind the end.
    heard: Pos,
}

impl Segment {
    fn unread(path: PathBuf, header: &Header, memory: Memory) -> Segment {
        Segment {
            turn: 0,
            stamp: header.stamp(),
            base: header.base,
            ttl: header.ttl,
            memory,
            end: HEADER_WORDS,
            sealed: false,
            records: 0,
            said: None,
            has_tail: false,
            heard: Pos::START,
            path,
        }
    }

    pub(crate) fn time(&self) -> TimeBase {
        TimeBase::new(self.base, self.ttl)
    }

    pub(crate) fn words(&self) -> &[Word] {
        self.memory.mapping.words()
    }

    /// Reads the records up to the end.
    pub(super) fn read(&mut self) {
        let mut at = HEADER_WORDS;
        let mut closing = 0;
        let words = self.memory.mapping.words();
        loop {
            let entry = entry_at(words, at, self.stamp);
            match entry {
                Entry::Nothing => break,
                Entry::Keyed(_) => self.records += 1,
                Entry::Note(Note::Seal) => {
                    self.sealed = true;
                    break;
                }
                Entry::Note(Note::Mark(mark)) => {
                    let said = self.said.get_or_insert(mark);
                    said.ceiling = said.ceiling.max(mark.ceiling);
                    said.first = said.first.max(mark.first);
                    said.vouched = said.vouched.max(mark.vouched);
                    if mark.now >= said.now {
                        (said.now, said.offset) = (mark.now, mark.offset);
                    }
                }
                Entry::Note(Note::Vouch(pos)) => {
                    if at + entry.words() + SEAL_WORDS > words.len() {
                        // That of a clean close, in the room of the SEAL, which takes its place.
                        self.heard = pos;
                        closing = entry.words();
                        break;
                    }
                    if let Some(said) = &mut self.said {
                        said.vouched = said.vouched.max(pos);
                    }
                }
            }
            // A segment begins with a MARK, or with nothing.
            if self.said.is_none() {
                break;
            }
            at += entry.words();
        }
        let behind = words.get(at + closing..).unwrap_or_default();
        self.has_tail = !self.sealed && behind.iter().any(|word| word.load(Ordering::Relaxed) != 0);
        self.end = at;
        self.turn = self.said.map_or(0, |said| said.turn);
        if self.has_tail {
            self.listen_behind();
        }
    }

    /// Hears what vouches from behind the end. Such a record was written when all before its
    /// position was durable: if it is there and that is not, that was damaged. A power cut leaves
    /// no such picture.
    fn listen_behind(&mut self) {
        let words = self.memory.mapping.words();
        let mut from = self.end;
        while let Some((at, entry)) = next_entry(words, from, self.stamp) {
            match entry {
                Entry::Note(Note::Vouch(pos)) => self.heard = self.heard.max(pos),
                Entry::Note(Note::Mark(mark)) => self.heard = self.heard.max(mark.vouched),
                // What is behind a SEAL was given up before.
                Entry::Note(Note::Seal) => return,
                Entry::Keyed(_) | Entry::Nothing => {}
            }
            from = at + entry.words();
        }
    }

    /// Does it have a place in the log?
    pub(super) fn is_begun(&self) -> bool {
        self.said.is_some()
    }

    /// Keeps what was learned and gives the bytes back, for those who only want to know.
    pub(super) fn give_bytes_back(&mut self) {
        self.memory = Memory::on_heap(0);
    }

    fn is_blank(&self) -> bool {
        self.said.is_none() && !self.has_tail
    }

    fn cut(&self) -> Pos {
        Pos::new(self.turn, self.end)
    }

    /// Up to where it is whole: the SEAL is vouched for too.
    fn whole(&self) -> Pos {
        let seal = if self.sealed { SEAL_WORDS } else { 0 };
        Pos::new(self.turn, self.end + seal)
    }
}

/// A torn tail that was given up.
#[derive(Clone, Debug)]
pub(crate) struct TornTail {
    pub(crate) segment: PathBuf,
    pub(crate) offset: u64,
}

/// A directory whose lock we have, and what is in it.
pub(crate) struct Found {
    pub(crate) place: Place,
    pub(crate) store: u64,
    pub(crate) lock: Box<dyn Send + Sync>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) next_serial: u32,
    pub(crate) next_turn: u32,
    pub(crate) first: u32,
    /// Where the log ends.
    pub(crate) end: Pos,
    pub(crate) ceiling: u64,
    /// The latest store time that was noted, with its offset from the wall clock; `None` in a
    /// new store.
    pub(crate) time: Option<(Tick, i64)>,
    pub(crate) torn: Option<TornTail>,
}

pub(super) fn damaged(segment: &Path, offset: u64, what: &'static str) -> Error {
    Error::Corrupt {
        segment: segment.to_path_buf(),
        offset,
        what,
    }
}

/// Takes the directory's lock and reads everything in it; makes a new store in an empty one.
pub(crate) fn open(disk: Arc<dyn Disk>, dir: &Path, now: Tick) -> Result<Found> {
    refuse_network(dir)?;
    let place = Place {
        disk,
        dir: dir.to_path_buf(),
    };
    let made = place.disk.create_dir(dir);
    made.map_err(place.failed("create directory", dir))?;
    let lock_path = place.path(LOCK);
    let locked = place.disk.lock(&lock_path);
    let Some(lock) = locked.map_err(place.failed("lock", &lock_path))? else {
        return Err(Error::Locked { path: lock_path });
    };
    let names = Names::read(&place)?;
    if names.has_others {
        return Err(others_files());
    }
    for name in &names.unfinished {
        let path = place.path(name);
        let removed = place.disk.remove(&path);
        removed.map_err(place.failed("remove", &path))?;
    }
    names.check(&place)?;
    let store = if names.has_store {
        read_store(&place)?
    } else {
        let store = random();
        make_store(&place, store, now)?;
        store
    };
    let mut segments = Vec::new();
    for &serial in &names.serials {
        segments.push(open_segment(&place, store, serial)?);
    }
    read_all(&mut segments);
    let stream = Stream::of(segments);
    if let Some(damage) = stream.damage {
        return Err(damage);
    }
    stream.repair(&place)?;
    Ok(Found::new(place, store, lock, stream, names.next_serial()))
}

impl Found {
    pub(super) fn new(
        place: Place,
        store: u64,
        lock: Box<dyn Send + Sync>,
        stream: Stream,
        next_serial: u32,
    ) -> Found {
        Found {
            place,
            store,
            lock,
            next_serial,
            next_turn: stream.end.turn().saturating_add(1),
            first: stream.first,
            end: stream.end,
            ceiling: stream.ceiling,
            time: stream.time,
            torn: stream.torn,
            segments: stream.segments,
        }
    }
}

/// What the names in a directory say.
#[derive(Default)]
pub(super) struct Names {
    pub(super) has_store: bool,
    /// Of the segments, in order.
    pub(super) serials: Vec<u32>,
    /// Of files that were being made.
    pub(super) unfinished: Vec<String>,
    /// Names that are no store's.
    pub(super) has_others: bool,
}

impl Names {
    pub(super) fn read(place: &Place) -> Result<Names> {
        let listed = place.disk.list(&place.dir);
        let mut names = Names::default();
        for name in listed.map_err(place.failed("list", &place.dir))? {
            if let Some(serial) = serial_of(&name) {
                names.serials.push(serial);
            } else if name == STORE {
                names.has_store = true;
            } else if name.ends_with(UNFINISHED) {
                names.unfinished.push(name);
            } else if name != LOCK && !is_hidden(&name) {
                names.has_others = true;
            }
        }
        names.serials.sort_unstable();
        Ok(names)
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.has_store && self.serials.is_empty()
    }

    /// Segments without the STORE file are not taken for a new store.
    pub(super) fn check(&self, place: &Place) -> Result<()> {
        if self.has_store || self.serials.is_empty() {
            return Ok(());
        }
        let why = "the STORE file is missing, but there are segments";
        Err(damaged(&place.path(STORE), 0, why))
    }

    fn next_serial(&self) -> u32 {
        self.serials.last().map_or(1, |last| last.saturating_add(1))
    }
}

pub(super) fn others_files() -> Error {
    Error::InvalidInput {
        what: "directory",
        why: "it holds files that are not a store's; give the store a directory of its own",
    }
}

pub(super) fn no_store() -> Error {
    Error::InvalidInput {
        what: "directory",
        why: "there is no store in it; name the directory that was given to `open`",
    }
}

/// What other programs leave in any directory.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') || name == "lost+found"
}

/// A lock or a mapping over a network is not what it seems.
pub(super) fn refuse_network(dir: &Path) -> Result<()> {
    const REMOTE: [&str; 12] = [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "lustre",
        "glusterfs",
        "fuse.sshfs",
        "fuse.glusterfs",
    ];
    let Ok(mounts) = std::fs::read_to_string("/proc/self/mounts") else {
        return Ok(());
    };
    let Some(dir) = dir.ancestors().find_map(|dir| dir.canonicalize().ok()) else {
        return Ok(());
    };
    if REMOTE.contains(&file_system(&mounts, &dir)) {
        return Err(Error::InvalidInput {
            what: "directory",
            why: "it is on a network file system, where locks and syncs do not hold; use a local disk",
        });
    }
    Ok(())
}

/// The type of the file system a path is on: that of the longest mount point above it.
fn file_system<'m>(mounts: &'m str, path: &Path) -> &'m str {
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let point = fields.nth(1)?.replace("\\040", " ");
        path.starts_with(&point).then_some((point.len(), fields.next()?))
    });
    // The last of equals covers those before it.
    mounts.max_by_key(|(len, _)| *len).map_or("", |(_, kind)| kind)
}

pub(super) fn read_header(file: &dyn DiskFile, path: &Path, size: u64, place: &Place) -> Result<Header> {
    let mut bytes = [0; HEADER_BYTES];
    if size < HEADER_BYTES as u64 {
        return Err(damaged(path, size, "the file is shorter than its header"));
    }
    file.read_at(0, &mut bytes).map_err(place.failed("read", path))?;
    Header::read(&bytes).map_err(|found| match found {
        Unreadable::Newer(found) => Error::UnsupportedFormat {
            found,
            newest: VERSION,
        },
        Unreadable::Foreign => damaged(path, 0, "it is no file of a store"),
        Unreadable::Damaged => damaged(path, 0, "the header does not verify"),
    })
}

pub(super) fn read_store(place: &Place) -> Result<u64> {
    let path = place.path(STORE);
    let file = place.disk.open_to_read(&path);
    let file = file.map_err(place.failed("open", &path))?;
    let size = file.size().map_err(place.failed("read", &path))?;
    let header = read_header(&*file, &path, size, place)?;
    if header.what != What::Store {
        return Err(damaged(&path, 0, "it is not the STORE file"));
    }
    Ok(header.store)
}

pub(super) fn make_store(place: &Place, store: u64, now: Tick) -> Result<()> {
    const SIZE: usize = 4096;
    let path = place.path(STORE);
    let unfinished = place.path(&format!("{STORE}{UNFINISHED}"));
    let make = || {
        let file = place.disk.create(&unfinished, SIZE as u64)?;
        let header = Header {
            what: What::Store,
            store,
            serial: 0,
            life: 0,
            base: now,
            ttl: Span::from_millis(0),
            words: SIZE / WORD,
        };
        header.write(file.map()?.mapping.words());
        file.sync()?;
        place.disk.rename(&unfinished, &path)?;
        place.disk.sync_dir(&place.dir)?;
        // The directory itself may be new.
        match place.dir.parent() {
            Some(parent) if parent.as_os_str().is_empty() => place.disk.sync_dir(Path::new(".")),
            Some(parent) => place.disk.sync_dir(parent),
            None => Ok(()),
        }
    };
    make().map_err(place.failed("create", &path))
}

/// No segment has more words: the largest holds one record, and no record is as long.
pub(super) const MAX_WORDS: usize = 1 << 24;

fn open_segment(place: &Place, store: u64, serial: u32) -> Result<Segment> {
    let path = place.path(&segment_name(serial));
    let file = place.disk.open(&path).map_err(place.failed("open", &path))?;
    let header = examine(&*file, &path, store, serial, place)?;
    let memory = file.map().map_err(place.failed("map", &path))?;
    Ok(Segment::unread(path, &header, memory))
}

/// The same for those who must not map it: with a copy of the bytes.
pub(super) fn copy_segment(place: &Place, store: u64, serial: u32) -> Result<Segment> {
    copy_words(place, store, serial, MAX_WORDS).map(|(segment, _)| segment)
}

/// A copy of a segment's start, enough to see whether it is begun, and the file's size.
pub(super) fn copy_start(place: &Place, store: u64, serial: u32) -> Result<(Segment, u64)> {
    copy_words(place, store, serial, HEADER_WORDS + MARK_WORDS + SEAL_WORDS)
}

fn copy_words(place: &Place, store: u64, serial: u32, most: usize) -> Result<(Segment, u64)> {
    let path = place.path(&segment_name(serial));
    let file = place.disk.open_to_read(&path);
    let file = file.map_err(place.failed("open", &path))?;
    let header = examine(&*file, &path, store, serial, place)?;
    let memory = copy(&*file, header.words.min(most)).map_err(place.failed("read", &path))?;
    let size = (header.words * WORD) as u64;
    Ok((Segment::unread(path, &header, memory), size))
}

/// Bytes read at a time.
pub(super) const PIECE: usize = 256 << 10;

/// A copy of a file's first words. The end comes first: beside a writer what is found there is
/// older than what comes before it, so that the records lead up to where nothing was yet.
fn copy(file: &dyn DiskFile, words: usize) -> std::io::Result<Memory> {
    let memory = Memory::on_heap(words * WORD);
    let mut piece = vec![0; PIECE.min(words * WORD)];
    for at in (0..words * WORD).step_by(PIECE).rev() {
        let bytes = piece.len().min(words * WORD - at);
        file.read_at(at as u64, &mut piece[..bytes])?;
        memory.write(at, &piece[..bytes]);
    }
    Ok(memory)
}

/// Reads a segment's header and compares it with what it should be.
fn examine(file: &dyn DiskFile, path: &Path, store: u64, serial: u32, place: &Place) -> Result<Header> {
    let size = file.size().map_err(place.failed("read", path))?;
    let header = read_header(file, path, size, place)?;
    if (header.what, header.serial) != (What::Segment, serial) {
        return Err(damaged(path, 0, "it is not the segment its name says"));
    }
    if header.store != store {
        return Err(damaged(path, 0, "it belongs to another store"));
    }
    if size != (header.words * WORD) as u64 || header.words < 2 * HEADER_WORDS {
        return Err(damaged(
            path,
            size,
            "the file has not the length it was made with",
        ));
    }
    if header.words > MAX_WORDS {
        return Err(damaged(path, 0, "it is longer than any segment"));
    }
    Ok(header)
}

/// Reads every segment, by several threads where it pays.
fn read_all(segments: &mut [Segment]) {
    let bytes = segments.iter().map(|s| s.memory.size()).sum();
    in_parallel(bytes, segments, |segment| segment.read());
}

/// Does something to each item, by as many threads as there are cores if that many bytes are worth
/// it.
pub(crate) fn in_parallel<T: Send>(bytes: usize, items: &mut [T], work: impl Fn(&mut T) + Sync) {
    /// Fewer are read before a thread has started.
    const WORTH: usize = 256 << 10;
    let cores = crate::epoch::cores();
    if bytes < WORTH || cores == 1 {
        return items.iter_mut().for_each(work);
    }
    let left = crate::sync::Mutex::new(items.iter_mut());
    let next = || left.lock().next();
    let run = || {
        while let Some(item) = next() {
            work(item);
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..cores.min(8))
            .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, run).ok())
            .collect();
        run();
        drop(others);
    });
}

/// The turn the log begins with. A segment that says that earlier ones no longer count is
/// believed if all from there up to itself is whole: what made them superfluous lies in between,
/// and a power cut may have taken some of it.
fn first_turn(begun: &[Segment]) -> Option<u32> {
    if begun.is_empty() {
        return Some(1);
    }
    // Of each segment: the first turn of the whole run that ends with it.
    let mut run: Option<(u32, bool, u32)> = None;
    let mut first = None;
    for segment in begun {
        let start = match run {
            Some((turn, true, start)) if turn.checked_add(1) == Some(segment.turn) => start,
            _ => segment.turn,
        };
        run = Some((segment.turn, segment.sealed, start));
        let says = segment.said.map_or(0, |said| said.first);
        if (start..=segment.turn).contains(&says) {
            first = first.max(Some(says));
        }
    }
    first
}

/// The segments in order, and where they end.
pub(crate) struct Stream {
    pub(crate) segments: Vec<Segment>,
    /// Not part of it: to be removed.
    others: Vec<Segment>,
    pub(crate) first: u32,
    pub(crate) end: Pos,
    pub(crate) ceiling: u64,
    pub(crate) time: Option<(Tick, i64)>,
    pub(crate) torn: Option<TornTail>,
    /// The last segment wants a SEAL.
    unsealed: bool,
    pub(crate) vouched: Pos,
    /// It ends before something that was durable: it is not to be served.
    pub(crate) damage: Option<Error>,
}

impl Stream {
    /// Of segments that have been read.
    pub(super) fn of(found: Vec<Segment>) -> Stream {
        let (mut begun, mut others): (Vec<_>, Vec<_>) = found.into_iter().partition(|s| s.said.is_some());
        begun.sort_by_key(|s| s.turn);
        let said = || begun.iter().filter_map(|s| s.said);
        let heard = begun.iter().chain(&others).map(|s| s.heard);
        let vouched = said().map(|m| m.vouched).chain(heard).max();
        let vouched = vouched.unwrap_or(Pos::START);
        let ceiling = said().map(|m| m.ceiling).max().unwrap_or(1);
        let time = said().map(|m| (m.now, m.offset)).max_by_key(|(now, _)| *now);
        let twice = begun.windows(2).find(|two| two[0].turn == two[1].turn);
        let mut damage = twice.map(|twice| {
            let what = "two segments claim the same place in the log";
            damaged(&twice[1].path, 0, what)
        });
        let first = first_turn(&begun);
        if let (None, Some(earliest)) = (first, begun.first()) {
            let what = "the segment before this one is missing";
            damage.get_or_insert_with(|| damaged(&earliest.path, 0, what));
        }
        let first = first.unwrap_or(begun.first().map_or(1, |s| s.turn));
        let mut segments: Vec<Segment> = Vec::new();
        let mut ended = false;
        for segment in begun {
            let next = segments.last().map_or(first, |last| last.turn.saturating_add(1));
            if segment.turn < first || ended || segment.turn != next {
                // An earlier one was let go and its name stayed behind; a later one lies behind
                // a hole.
                ended |= segment.turn >= first;
                others.push(segment);
                continue;
            }
            ended = !segment.sealed;
            segments.push(segment);
        }
        let end = segments
            .last()
            .map_or(Pos::new(first.saturating_sub(1), 0), Segment::cut);
        let whole = segments.last().map_or(end, Segment::whole);
        if vouched > whole && vouched.turn() >= first {
            // The segment that should go on there, whatever is left of it.
            let culprit = segments
                .last()
                .filter(|s| !s.sealed)
                .or(others.iter().find(|s| !s.is_blank()));
            let culprit = culprit.or(segments.last());
            let path = culprit.map_or(PathBuf::from(STORE), |s| s.path.clone());
            let offset = culprit.map_or(0, |s| (s.end * WORD) as u64);
            let what = match culprit {
                Some(s) if s.sealed => "the segment that follows this one is missing",
                _ => "no record verifies here, but later data says that this was durable",
            };
            damage.get_or_insert_with(|| damaged(&path, offset, what));
        }
        let unsealed = segments.last().is_some_and(|s| !s.sealed);
        let has_tail = segments.last().is_some_and(|s| s.has_tail);
        // Without its MARK nobody knows a segment's turn; but it had one if anything follows.
        let lost = others
            .iter()
            .any(|s| (s.said.is_none() || s.turn >= first) && !s.is_blank());
        let torn = segments.last().filter(|_| has_tail || lost).map(|s| TornTail {
            segment: s.path.clone(),
            offset: (s.end * WORD) as u64,
        });
        Stream {
            segments,
            others,
            first,
            end,
            ceiling,
            time,
            torn,
            unsealed,
            vouched,
            damage,
        }
    }

    /// Makes the end final. What lies behind it goes first, what no longer counts last: when all
    /// that makes it superfluous is durable.
    fn repair(&self, place: &Place) -> Result<()> {
        let (behind, before): (Vec<_>, Vec<_>) = self
            .others
            .iter()
            .partition(|other| other.turn >= self.first || !other.is_begun());
        let remove = |others: &[&Segment]| {
            others.iter().try_for_each(|other| {
                let removed = place.disk.remove(&other.path);
                removed.map_err(place.failed("remove", &other.path))
            })
        };
        remove(&behind)?;
        if !behind.is_empty() {
            place.sync_dir()?;
        }
        if self.unsealed
            && let Some(last) = self.segments.last()
        {
            let to = last.end.min(last.words().len() - SEAL_WORDS);
            Note::Seal.write(&last.words()[to..], last.stamp, to);
        }
        for segment in self.segments.iter().filter(|s| s.turn >= self.vouched.turn()) {
            // A store to each page makes the system write it, even if it believes it has.
            segment.memory.mapping.touch();
            let failed = |op| place.failed(op, &segment.path);
            let file = place.disk.open(&segment.path).map_err(failed("open"))?;
            file.sync().map_err(failed("sync"))?;
        }
        remove(&before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::disk::{Cut, Fault, SimDisk, Then};

    const ANY_LENGTH: usize = 512;

    /// What a segment of a small log says.
    #[derive(Clone, Copy)]
    struct Says {
        turn: u32,
        first: u32,
        vouched: Pos,
        sealed: bool,
    }

    const fn sealed(turn: u32) -> Says {
        Says {
            turn,
            first: 1,
            vouched: Pos::START,
            sealed: true,
        }
    }

    const fn open_at(turn: u32) -> Says {
        Says {
            sealed: false,
            ..sealed(turn)
        }
    }

    fn name(turn: u32) -> PathBuf {
        PathBuf::from(segment_name(turn))
    }

    fn blank(turn: u32) -> Segment {
        let header = Header {
            what: What::Segment,
            store: 7,
            serial: turn,
            life: 9,
            base: Tick(1_000),
            ttl: Span::from_millis(60_000),
            words: ANY_LENGTH,
        };
        let memory = Memory::on_heap(ANY_LENGTH * WORD);
        header.write(memory.mapping.words());
        Segment::unread(name(turn), &header, memory)
    }

    fn write(segment: &Segment, note: Note, at: usize) -> usize {
        note.write(&segment.words()[at..], segment.stamp, at);
        at + note.words()
    }

    fn mark(says: Says) -> Mark {
        Mark {
            ceiling: 100 * u64::from(says.turn),
            turn: says.turn,
            first: says.first,
            now: Tick(2_000 + u64::from(says.turn)),
            offset: -i64::from(says.turn),
            vouched: says.vouched,
        }
    }

    /// A segment on a disk, with nothing in it but that.
    fn unread(says: Says) -> Segment {
        let segment = blank(says.turn);
        let at = write(&segment, Note::Mark(mark(says)), HEADER_WORDS);
        if says.sealed {
            write(&segment, Note::Seal, at);
        }
        segment
    }

    fn segment(says: Says) -> Segment {
        let mut segment = unread(says);
        segment.read();
        segment
    }

    fn stream(says: &[Says]) -> Stream {
        Stream::of(says.iter().map(|says| segment(*says)).collect())
    }

    fn turns(segments: &[Segment]) -> Vec<u32> {
        segments.iter().map(|s| s.turn).collect()
    }

    /// What is damaged, and where.
    fn damage(stream: &Stream) -> (PathBuf, u64, &'static str) {
        match &stream.damage {
            Some(Error::Corrupt {
                segment,
                offset,
                what,
            }) => (segment.clone(), *offset, what),
            other => panic!("{other:?}"),
        }
    }

    const MARKED: usize = HEADER_WORDS + MARK_WORDS;

    #[test]
    fn a_segment_is_read_to_its_seal_and_says_the_most_it_was_told() {
        let mut s = blank(3);
        let said = |ceiling, first, now, vouched| {
            Note::Mark(Mark {
                ceiling,
                first,
                now: Tick(now),
                offset: now as i64,
                vouched: Pos::new(vouched, 8),
                ..mark(sealed(3))
            })
        };
        let at = write(&s, said(50, 1, 2_000, 1), HEADER_WORDS);
        let at = write(&s, said(40, 2, 2_500, 2), at);
        let at = write(&s, said(60, 1, 2_400, 1), at);
        let end = write(&s, Note::Vouch(Pos::new(3, 20)), at);
        write(&s, Note::Seal, end);
        s.read();
        let expected = Mark {
            ceiling: 60,
            turn: 3,
            first: 2,
            now: Tick(2_500),
            offset: 2_500,
            vouched: Pos::new(3, 20),
        };
        assert_eq!(s.said, Some(expected));
        assert_eq!((s.turn, s.end, s.sealed, s.has_tail), (3, end, true, false));
        assert!(s.is_begun() && !s.is_blank());
        assert_eq!(s.cut(), Pos::new(3, end));
    }

    #[test]
    fn what_does_not_begin_with_a_mark_is_not_begun() {
        let mut s = blank(1);
        s.read();
        assert!(s.is_blank() && !s.is_begun() && !s.sealed);
        assert_eq!((s.turn, s.end), (0, HEADER_WORDS));
        let mut s = blank(1);
        write(&s, Note::Vouch(Pos::new(1, 9)), HEADER_WORDS);
        s.read();
        assert!(!s.is_begun() && s.has_tail && !s.is_blank());
        assert_eq!(s.heard, Pos::new(1, 9), "it speaks all the same");
    }

    /// Behind a hole what vouches is heard; behind a seal it was given up before.
    #[test]
    fn vouches_are_heard_behind_the_end_up_to_a_seal() {
        let mut s = unread(open_at(1));
        assert!(!{
            s.read();
            s.has_tail
        });
        write(&s, Note::Vouch(Pos::new(1, 30)), 40);
        write(&s, Note::Vouch(Pos::new(1, 25)), 50);
        s.read();
        assert_eq!((s.end, s.has_tail, s.heard), (MARKED, true, Pos::new(1, 30)));
        let later = Says {
            vouched: Pos::new(1, 35),
            ..open_at(1)
        };
        write(&s, Note::Mark(mark(later)), 60);
        write(&s, Note::Seal, 70);
        write(&s, Note::Vouch(Pos::new(1, 90)), 80);
        s.read();
        assert_eq!(s.heard, Pos::new(1, 35));
    }

    /// The vouch of a clean close stands where a seal would no longer fit behind it.
    #[test]
    fn the_vouch_of_a_clean_close_may_be_written_over_by_the_seal() {
        let at = ANY_LENGTH - SEAL_WORDS;
        let record = |s: &Segment, from: usize, to: usize| {
            let words = &s.words()[from..to];
            let w0 = crate::segment::record::bare_word(1, to - from);
            s.stamp.seal(w0, 0, words, from);
        };
        let mut s = unread(open_at(1));
        record(&s, MARKED, at);
        write(&s, Note::Vouch(Pos::new(1, at)), at);
        s.read();
        assert_eq!((s.end, s.heard, s.has_tail), (at, Pos::new(1, at), false));
        assert_eq!(s.records, 1);
        // One word earlier it could not be written over, but the room is not there either.
        let mut s = unread(open_at(1));
        record(&s, MARKED, at - 3);
        write(&s, Note::Vouch(Pos::new(1, at - 3)), at - 3);
        s.read();
        assert_eq!((s.end, s.heard), (at, Pos::START));
        assert_eq!(s.said.unwrap().vouched, Pos::new(1, at - 3));
    }

    #[test]
    fn the_stream_goes_on_through_sealed_segments() {
        let s = stream(&[open_at(3), sealed(1), sealed(2)]);
        assert_eq!((turns(&s.segments), s.first), (vec![1, 2, 3], 1));
        assert_eq!(s.end, Pos::new(3, MARKED));
        assert!(s.damage.is_none() && s.torn.is_none() && s.unsealed);
        assert_eq!(s.ceiling, 300);
        assert_eq!(s.time, Some((Tick(2_003), -3)));
        let s = stream(&[sealed(1), sealed(2)]);
        assert!(!s.unsealed && s.torn.is_none());
        let s = stream(&[]);
        assert_eq!((s.first, s.end, s.ceiling, s.time), (1, Pos::new(0, 0), 1, None));
        assert!(s.damage.is_none() && s.torn.is_none() && !s.unsealed);
    }

    #[test]
    fn what_lies_behind_an_open_end_is_given_up_and_reported() {
        for says in [
            [sealed(1), open_at(2), sealed(3)],
            [sealed(1), open_at(2), open_at(4)],
        ] {
            let s = stream(&says);
            assert_eq!(
                (turns(&s.segments), turns(&s.others)),
                (vec![1, 2], vec![says[2].turn])
            );
            let torn = s.torn.unwrap();
            assert_eq!((torn.segment, torn.offset), (name(2), (MARKED * WORD) as u64));
            assert!(s.damage.is_none());
        }
        // A blank file is not a loss, one without its mark is.
        let with = |other: Segment| Stream::of(vec![segment(sealed(1)), other]);
        let mut spare = blank(2);
        spare.read();
        assert!(with(spare).torn.is_none());
        let mut unmarked = blank(2);
        write(&unmarked, Note::Seal, 100);
        unmarked.read();
        assert!(with(unmarked).torn.is_some());
    }

    #[test]
    fn a_cut_below_what_was_vouched_for_is_damage() {
        let vouching = |turn, word| Says {
            vouched: Pos::new(turn, word),
            ..open_at(3)
        };
        // Up to the cut itself it is a torn tail, if anything.
        assert!(
            stream(&[sealed(1), sealed(2), vouching(3, MARKED)])
                .damage
                .is_none()
        );
        let s = stream(&[sealed(1), sealed(2), vouching(3, MARKED + 1)]);
        let what = "no record verifies here, but later data says that this was durable";
        assert_eq!(damage(&s), (name(3), (MARKED * WORD) as u64, what));
        // The second segment has lost its seal.
        let s = stream(&[sealed(1), open_at(2), vouching(2, MARKED + SEAL_WORDS)]);
        assert_eq!(damage(&s), (name(2), (MARKED * WORD) as u64, what));
        // It is gone altogether.
        let s = stream(&[sealed(1), vouching(2, MARKED)]);
        assert_eq!(damage(&s), (name(3), (MARKED * WORD) as u64, what));
        let s = stream(&[Says {
            vouched: Pos::new(2, 10),
            ..sealed(1)
        }]);
        let missing = "the segment that follows this one is missing";
        assert_eq!(damage(&s), (name(1), (MARKED * WORD) as u64, missing));
        // Heard from behind a hole.
        let mut torn = unread(open_at(1));
        write(&torn, Note::Vouch(Pos::new(1, 60)), 60);
        torn.read();
        assert_eq!(damage(&Stream::of(vec![torn])).2, what);
    }

    #[test]
    fn segments_before_the_first_no_longer_count_if_the_first_is_whole() {
        let from = |first, says| Says { first, ..says };
        // What the last one says is believed: all from turn 2 up to itself is there.
        let s = stream(&[sealed(1), sealed(2), from(2, open_at(3))]);
        assert_eq!(
            (s.first, turns(&s.segments), turns(&s.others)),
            (2, vec![2, 3], vec![1])
        );
        assert!(s.damage.is_none() && s.torn.is_none());
        // And its own turn, where nothing else is there.
        let s = stream(&[from(3, open_at(3))]);
        assert_eq!((s.first, turns(&s.segments)), (3, vec![3]));
        assert!(s.damage.is_none());
        // The second has lost its end, with what made the first superfluous.
        let s = stream(&[sealed(1), open_at(2), from(2, open_at(3))]);
        assert_eq!((s.first, turns(&s.segments)), (1, vec![1, 2]));
        assert!(s.damage.is_none() && s.torn.is_some());
        // The second is gone.
        let s = stream(&[sealed(1), from(2, open_at(3))]);
        assert_eq!(
            (s.first, turns(&s.segments), turns(&s.others)),
            (1, vec![1], vec![3])
        );
        // Later than its own turn is nonsense; the largest of several counts.
        let s = stream(&[sealed(1), from(3, sealed(2))]);
        assert_eq!(s.first, 1);
        let s = stream(&[
            sealed(1),
            from(2, sealed(2)),
            from(3, sealed(3)),
            from(2, open_at(4)),
        ]);
        assert_eq!((s.first, turns(&s.others)), (3, vec![1, 2]));
        let vouched_before = Says {
            vouched: Pos::new(1, 400),
            ..from(2, open_at(2))
        };
        let s = stream(&[vouched_before]);
        assert!(s.damage.is_none(), "what it vouches for no longer counts");
    }

    #[test]
    fn a_log_without_its_beginning_is_damaged() {
        let s = stream(&[sealed(2), open_at(3)]);
        let what = "the segment before this one is missing";
        assert_eq!(damage(&s), (name(2), 0, what));
        assert_eq!(first_turn(&[]), Some(1));
        assert_eq!(first_turn(&[segment(open_at(2))]), None);
        // The last turn there can be is followed by none.
        const LAST: u32 = (1 << 31) - 1;
        let last = Says {
            first: LAST,
            ..sealed(LAST)
        };
        assert_eq!(stream(&[last]).first, LAST);
    }

    #[test]
    fn two_segments_of_one_turn_are_damage() {
        let mut double = blank(9);
        write(&double, Note::Mark(mark(sealed(1))), HEADER_WORDS);
        double.read();
        let s = Stream::of(vec![segment(sealed(1)), double]);
        let what = "two segments claim the same place in the log";
        assert_eq!(damage(&s), (name(9), 0, what));
    }

    fn place(disk: &SimDisk) -> Place {
        let dir = PathBuf::from("/store");
        disk.create_dir(&dir).unwrap();
        Place {
            disk: Arc::new(disk.clone()),
            dir,
        }
    }

    #[test]
    fn names_say_what_is_in_a_directory() {
        let disk = SimDisk::new(1);
        let place = place(&disk);
        let names = || Names::read(&place).unwrap();
        let put = |name: &str| disk.put(&place.dir.join(name), Vec::new());
        assert!(names().is_empty() && names().next_serial() == 1);
        [LOCK, ".hidden", "lost+found", "00000007.seg.new"]
            .iter()
            .for_each(|name| put(name));
        let found = names();
        assert!(found.is_empty() && !found.has_others && found.check(&place).is_ok());
        assert_eq!(found.unfinished, ["00000007.seg.new"]);
        ["0000000a.seg", "00000002.seg"].iter().for_each(|name| put(name));
        let found = names();
        assert_eq!((&found.serials[..], found.next_serial()), (&[2, 10][..], 11));
        assert!(!found.is_empty() && !found.has_store);
        assert!(found.check(&place).is_err(), "segments, and no STORE");
        put(STORE);
        let found = names();
        assert!(found.has_store && !found.has_others && found.check(&place).is_ok());
        put("notes.txt");
        assert!(names().has_others);
        let alone = Names {
            has_store: true,
            ..Names::default()
        };
        assert!(!alone.is_empty());
    }

    #[test]
    fn a_file_is_as_long_as_its_header_at_least() {
        let disk = SimDisk::new(1);
        let place = place(&disk);
        let (segment, path) = (unread(open_at(2)), place.dir.join(name(2)));
        put(&disk, &place, &segment, HEADER_WORDS);
        let file = disk.open_to_read(&path).unwrap();
        assert!(read_header(&*file, &path, 64, &place).is_ok());
        assert!(read_header(&*file, &path, 63, &place).is_err());
    }

    #[test]
    fn the_start_of_a_segment_says_its_turn_and_the_size_of_it_all() {
        let disk = SimDisk::new(1);
        let place = place(&disk);
        put(&disk, &place, &unread(open_at(2)), ANY_LENGTH);
        let (mut start, size) = copy_start(&place, 7, 2).unwrap();
        start.read();
        assert_eq!((start.turn, size), (2, (ANY_LENGTH * WORD) as u64));
        assert_eq!(
            start.words().len(),
            MARKED + SEAL_WORDS,
            "and no more is read than that"
        );
        let whole = copy_segment(&place, 7, 2).unwrap();
        assert_eq!(whole.words().len(), ANY_LENGTH);
    }

    /// Puts a segment's words into its file.
    fn put(disk: &SimDisk, place: &Place, segment: &Segment, words: usize) {
        let words = segment.words()[..words].iter();
        let bytes = words.flat_map(|w| w.load(Ordering::Relaxed).to_ne_bytes());
        disk.put(&place.dir.join(&segment.path), bytes.collect());
    }

    /// What was given up never comes back, wherever the power fails while the cut is made final: the
    /// segments behind it go before it is sealed.
    #[test]
    fn a_power_cut_while_the_end_is_made_final_finds_the_same_end() {
        let disk = SimDisk::new(1);
        let place = place(&disk);
        make_store(&place, 7, Tick(1_000)).unwrap();
        for says in [sealed(1), open_at(2), sealed(3)] {
            put(&disk, &place, &unread(says), ANY_LENGTH);
        }
        let opened = |disk: &SimDisk| {
            let found = open(Arc::new(disk.clone()), &place.dir, Tick(5_000));
            found.map(|found| (turns(&found.segments), found.end))
        };
        let mut cuts = 0;
        loop {
            let disk = disk.copy();
            disk.cut_after(cuts + 1);
            let was = opened(&disk);
            for style in [Cut::LoseAll, Cut::KeepAll, Cut::Random, Cut::Random] {
                let (turns, end) = opened(&disk.cut(style)).unwrap();
                assert_eq!(
                    (turns, end.turn()),
                    (vec![1, 2], 2),
                    "{style:?} in call {}",
                    cuts + 1
                );
            }
            if was.is_ok() {
                break;
            }
            cuts += 1;
        }
        assert!(cuts >= 4, "a removal, a sync of it, two of what is kept");
    }

    /// What makes a segment superfluous may itself not be durable yet. So whichever call of a repair
    /// fails, the names of what no longer counts are all still there.
    #[test]
    fn what_no_longer_counts_goes_when_what_overrides_it_is_durable() {
        let says = Says {
            first: 2,
            ..open_at(3)
        };
        // Two files are opened and synced; with no call failing it goes.
        for nth in 1..=5 {
            let disk = SimDisk::new(1);
            let place = place(&disk);
            let segments = [sealed(1), sealed(2), says].map(|says| {
                let mut segment = segment(says);
                put(&disk, &place, &segment, ANY_LENGTH);
                segment.path = place.dir.join(&segment.path);
                segment
            });
            let stream = Stream::of(segments.into());
            assert_eq!(
                (turns(&stream.segments), turns(&stream.others)),
                (vec![2, 3], vec![1])
            );
            if nth <= 4 {
                disk.fail_nth(nth, Fault::Eio, Then::Once);
            }
            let done = stream.repair(&place);
            let is_there = disk.paths().contains(&place.dir.join(name(1)));
            assert_eq!(
                (done.is_err(), is_there),
                (nth <= 4, nth <= 4),
                "call {nth} failed"
            );
        }
    }

    #[test]
    fn a_segment_that_is_not_what_its_header_says_is_refused() {
        let disk = SimDisk::new(1);
        let place = place(&disk);
        let (segment, path) = (unread(open_at(2)), place.dir.join(name(2)));
        let examined = |words: usize, says: usize, store: u64, serial: u32| {
            let header = Header {
                what: What::Segment,
                store: 7,
                serial: 2,
                life: 9,
                base: Tick(1_000),
                ttl: Span::from_millis(60_000),
                words: says,
            };
            header.write(segment.words());
            put(&disk, &place, &segment, words);
            let file = disk.open_to_read(&path).unwrap();
            examine(&*file, &path, store, serial, &place).is_ok()
        };
        let least = 2 * HEADER_WORDS;
        assert!(examined(512, 512, 7, 2) && examined(least, least, 7, 2));
        assert!(!examined(512, 512, 8, 2), "another store's");
        assert!(!examined(512, 512, 7, 3), "another's name");
        for words in [HEADER_WORDS, least - 1] {
            assert!(!examined(words, words, 7, 2), "no room for a log");
        }
        for (words, says) in [(511, 512), (512, 511), (512, 0)] {
            assert!(!examined(words, says, 7, 2), "{words} words, not {says}");
        }
    }

    #[test]
    fn a_new_store_is_one_file_that_says_how_long_it_is() {
        let place = place(&SimDisk::new(1));
        make_store(&place, 7, Tick(1_000)).unwrap();
        assert_eq!(read_store(&place).unwrap(), 7);
        let path = place.path(STORE);
        let file = place.disk.open_to_read(&path).unwrap();
        let size = file.size().unwrap();
        let header = read_header(&*file, &path, size, &place).unwrap();
        assert_eq!((header.what, header.base), (What::Store, Tick(1_000)));
        assert_eq!((size, (header.words * WORD) as u64), (4_096, 4_096));
    }

    #[test]
    fn copies_are_whole_at_any_length() {
        let disk = SimDisk::new(1);
        let path = Path::new("/copied");
        for words in [
            1,
            PIECE / WORD - 1,
            PIECE / WORD,
            PIECE / WORD + 1,
            3 * PIECE / WORD + 7,
        ] {
            let file = disk.create(path, (words * WORD) as u64).unwrap();
            let memory = file.map().unwrap();
            for (at, word) in memory.mapping.words().iter().enumerate().take(words) {
                word.store(at as u64 + 1, Ordering::Relaxed);
            }
            let copied = copy(&*file, words).unwrap();
            let found = copied.mapping.words()[..words].iter().enumerate();
            assert!(
                found
                    .into_iter()
                    .all(|(at, w)| w.load(Ordering::Relaxed) == at as u64 + 1)
            );
            drop(file);
            disk.remove(path).unwrap();
        }
    }

    #[test]
    fn every_item_is_worked_on_once_whether_or_not_by_several_threads() {
        for bytes in [0, 1 << 20] {
            let mut items = vec![0u32; 1_000];
            in_parallel(bytes, &mut items, |item| *item += 1);
            assert!(items.iter().all(|item| *item == 1));
        }
    }

    #[test]
    fn the_file_system_of_a_path_is_that_of_the_nearest_mount() {
        let mounts =
            "/dev/vda / ext4 rw 0 0\nserver:/x /srv/data nfs4 rw 0 0\ntmpfs /srv/data/local tmpfs rw 0 0\n";
        let of = |path: &str| file_system(mounts, Path::new(path));
        assert_eq!(of("/var/lib"), "ext4");
        assert_eq!(of("/srv/data/store"), "nfs4");
        assert_eq!(of("/srv/data/local/store"), "tmpfs");
        assert_eq!(of("/srv/database"), "ext4");
    }
}
