//! A segment's file: made ahead, then begun.

use super::format::{Header, SEAL_WORDS, UNFINISHED, What, segment_name};
use super::{MAX_SPARE_AGE, Place, recover};
use crate::clock::{Span, Tick};
use crate::disk::{DiskFile, Memory};
use crate::error::Result;
use crate::segment::record::{Stamp, TimeBase};
use crate::segment::words::{Mapping, WORD};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use std::io;
use std::path::{Path, PathBuf};

/// A file that is ready to be begun: zero-filled, durable, mapped, under its name.
pub(super) struct Spare {
    pub(super) memory: Memory,
    pub(super) base: Tick,
    file: Box<dyn DiskFile>,
    path: PathBuf,
    stamp: Stamp,
}

impl Spare {
    /// Makes the file. What fails leaves at most a name that the next recovery removes.
    pub(super) fn make(
        place: &Place,
        store: u64,
        serial: u32,
        base: Tick,
        ttl: Span,
        (size, touched): (usize, bool),
    ) -> Result<Spare> {
        let name = segment_name(serial);
        let path = place.path(&name);
        let unfinished = place.path(&format!("{name}{UNFINISHED}"));
        let file = place.disk.create(&unfinished, size as u64);
        let file = file.map_err(place.failed("create", &unfinished))?;
        let ready = || -> io::Result<Spare> {
            let memory = file.map()?;
            let header = Header {
                what: What::Segment,
                store,
                serial,
                life: random(),
                base,
                ttl,
                words: size / WORD,
            };
            header.write(memory.mapping.words());
            file.sync()?;
            place.disk.rename(&unfinished, &path)?;
            place.disk.sync_dir(&place.dir)?;
            memory.mapping.populate_file(touched);
            Ok(Spare {
                memory,
                base,
                stamp: header.stamp(),
                path: path.clone(),
                file: place.disk.open(&path)?,
            })
        };
        ready().map_err(|error| {
            let _ = place.disk.remove(&unfinished);
            let _ = place.disk.remove(&path);
            place.failed("prepare", &path)(error)
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Words for records.
    pub(super) fn room(&self) -> usize {
        let taken = super::HEADER_BYTES / WORD + 2 * super::MARK_WORDS + SEAL_WORDS;
        self.memory.mapping.words().len().saturating_sub(taken)
    }

    /// Can a segment of so many words be begun in it now?
    pub(super) fn is_fit(&self, words: usize, now: Tick) -> bool {
        self.memory.mapping.words().len() >= words && now.0 < self.base.after(MAX_SPARE_AGE).0
    }

    pub(super) fn begin(self, id: u32, turn: u32, time: TimeBase) -> Extent {
        Extent {
            id,
            turn,
            time,
            stamp: self.stamp,
            mapping: self.memory.mapping,
            path: self.path,
            file: Mutex::new(Some(self.file)),
            pending: AtomicU64::new(0),
        }
    }
}

/// A random number. The standard library's hash seeds are, and every state has its own.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0)
}

/// A segment's file in use.
pub(crate) struct Extent {
    /// Its id in the segment table.
    pub(crate) id: u32,
    pub(crate) turn: u32,
    pub(crate) time: TimeBase,
    pub(super) stamp: Stamp,
    pub(crate) mapping: Arc<Mapping>,
    pub(super) path: PathBuf,
    /// Until it is sealed and durable: a store of many segments would use up the handles a
    /// process may have.
    file: Mutex<Option<Box<dyn DiskFile>>>,
    /// Records appended and not yet published.
    pending: AtomicU64,
}

impl Extent {
    pub(super) fn recovered(found: &recover::Segment, id: u32) -> Extent {
        Extent {
            id,
            turn: found.turn,
            time: found.time(),
            stamp: found.stamp,
            mapping: found.memory.mapping.clone(),
            path: found.path.clone(),
            file: Mutex::new(None),
            pending: AtomicU64::new(0),
        }
    }

    /// The word behind the last one a record may take.
    pub(super) fn end(&self) -> usize {
        self.end_of_marks() - super::MARK_WORDS
    }

    /// The same for the MARK by which the oldest segment is let go: where there is no room for
    /// more, that is how some is made.
    pub(super) fn end_of_marks(&self) -> usize {
        self.size() - SEAL_WORDS
    }

    pub(super) fn size(&self) -> usize {
        self.mapping.words().len()
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        match &*self.file.lock() {
            Some(file) => file.sync(),
            None => Ok(()),
        }
    }

    pub(super) fn close_file(&self) {
        self.file.lock().take();
    }

    pub(super) fn pend(&self) {
        self.pending.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn unpend(&self) {
        self.pending.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire) > 0
    }
}
