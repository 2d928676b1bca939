//! Reading a store's files without owning them: no lock, no mapping, no write.
//!
//! The rules are those of [`recover`](super::recover), and so is the code: what a segment says and
//! where the log ends is found by the same functions, on copies of the bytes. A writer may be at
//! work meanwhile; three things keep its traces from looking like damage.
//!
//! - Segments are read last turn first. A record vouches only for what was there before it was
//!   written, so what it vouches for is there when it is looked at later.
//! - A segment that is begun after the others were looked at is left out, as if the look had
//!   been a moment earlier.
//! - A file that is gone when it is to be read was let go: everything is looked at anew. So is a
//!   log with a torn end or a damaged one, until two looks agree.
//!
//! Only one segment's bytes are held at a time. What is absent: keys and which record of a key
//! counts; that is for whoever visits the records, which come in the log's order.

use super::Place;
use super::format::{Entry, VERSION, entry_at, serial_of};
use super::recover::{self, Names, Segment, Stream, copy_segment};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::segment::Record;
use crate::segment::record::{Stamp, TimeBase};
use crate::segment::table::HEADER_WORDS;
use crate::segment::words::Copied;
use crate::sync::{Arc, Word};
use std::cmp::Reverse;
use std::io;
use std::path::{Path, PathBuf};

/// How often everything is looked at anew because a file was let go meanwhile.
const TRIES: usize = 16;
/// How often, until two looks see the log end in the same way.
const LOOKS: usize = 3;

/// The files of a store.
pub(crate) struct Files {
    place: Place,
}

/// What a look at all segments has found. It holds none of their bytes.
pub(crate) struct Survey {
    pub(crate) store: u64,
    pub(crate) format: u32,
    /// The sizes of all segments' files.
    pub(crate) bytes: u64,
    /// Why the store would not be opened.
    pub(crate) damage: Option<Error>,
    pub(crate) stream: Stream,
}

impl Survey {
    /// # Errors
    ///
    /// What opening the store would say.
    pub(crate) fn check(&self) -> Result<()> {
        self.damage.clone().map_or(Ok(()), Err)
    }

    /// Where the log ends otherwise than with the last record.
    fn ending(&self) -> Option<(PathBuf, u64)> {
        match &self.damage {
            Some(Error::Corrupt { segment, offset, .. }) => Some((segment.clone(), *offset)),
            Some(_) => None,
            None => self.torn(),
        }
    }

    pub(crate) fn torn(&self) -> Option<(PathBuf, u64)> {
        let torn = self.stream.torn.as_ref()?;
        Some((torn.segment.clone(), torn.offset))
    }
}

impl Files {
    /// Makes sure that there is a store.
    pub(crate) fn of(disk: Arc<dyn Disk>, dir: &Path) -> Result<Files> {
        let place = Place {
            disk,
            dir: dir.to_path_buf(),
        };
        look_for_store(&place)?;
        Ok(Files { place })
    }

    /// Does something again as long as files it needs are let go.
    pub(crate) fn steadily<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        let mut tried = attempt();
        for _ in 1..TRIES {
            match &tried {
                Err(error) if is_let_go(error) => tried = attempt(),
                _ => break,
            }
        }
        tried
    }

    /// Looks at all segments.
    pub(crate) fn survey(&self) -> Result<Survey> {
        let look = || self.steadily(|| self.look());
        let mut survey = look()?;
        for _ in 1..LOOKS {
            let ending = survey.ending();
            if ending.is_none() {
                break;
            }
            survey = look()?;
            if survey.ending() == ending {
                break;
            }
        }
        Ok(survey)
    }

    fn look(&self) -> Result<Survey> {
        let place = &self.place;
        let (names, store) = look_for_store(place)?;
        let mut damage = names.has_others.then(recover::others_files);
        let mut bytes = 0;
        let mut readable = Vec::new();
        for &serial in &names.serials {
            match begun_at(place, store, serial) {
                Ok((turn, size)) => {
                    bytes += size;
                    readable.push((turn, serial));
                }
                Err(error @ (Error::Corrupt { .. } | Error::UnsupportedFormat { .. })) => {
                    damage.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        readable.sort_by_key(|(turn, _)| Reverse(turn.unwrap_or(u32::MAX)));
        let mut segments = Vec::new();
        for (turn, serial) in readable {
            let mut segment = copy_segment(place, store, serial)?;
            segment.read();
            segment.give_bytes_back();
            if turn.is_some() || !segment.is_begun() {
                segments.push(segment);
            }
        }
        let mut stream = Stream::of(segments);
        let cut = stream.damage.take();
        Ok(Survey {
            store,
            // The only one there is.
            format: VERSION,
            bytes,
            damage: damage.or(cut),
            stream,
        })
    }

    /// Shows every record of the log with a key, in the log's order.
    pub(crate) fn visit(&self, survey: &Survey, mut each: impl FnMut(&Record<'_>)) -> Result<()> {
        let mut copied = Copied::default();
        for seen in &survey.stream.segments {
            let segment = self.again(survey.store, seen)?;
            let words = segment.words();
            let mut at = HEADER_WORDS;
            while at < seen.end {
                let (entry, record) = record_at(words, at, segment.stamp, segment.time(), &mut copied);
                if let Some(record) = record {
                    each(&record);
                }
                if entry == Entry::Nothing {
                    return Err(let_go(&seen.path));
                }
                at += entry.words();
            }
        }
        Ok(())
    }

    /// The bytes of a segment that was seen before.
    fn again(&self, store: u64, seen: &Segment) -> Result<Segment> {
        let name = seen.path.file_name().and_then(|name| name.to_str());
        let serial = name.and_then(serial_of).ok_or_else(|| let_go(&seen.path))?;
        let segment = copy_segment(&self.place, store, serial)?;
        // A number that was the last one may be given out again, by a later life of the store.
        if segment.stamp != seen.stamp {
            return Err(let_go(&seen.path));
        }
        Ok(segment)
    }
}

fn look_for_store(place: &Place) -> Result<(Names, u64)> {
    let names = Names::read(place)?;
    if names.is_empty() {
        return Err(recover::no_store());
    }
    names.check(place)?;
    let store = recover::read_store(place)?;
    Ok((names, store))
}

/// A segment's place in the log, if it has one yet, and its size.
fn begun_at(place: &Place, store: u64, serial: u32) -> Result<(Option<u32>, u64)> {
    let (mut start, size) = recover::copy_start(place, store, serial)?;
    start.read();
    Ok((start.is_begun().then_some(start.turn), size))
}

/// What stands at a word of a segment, and the record if it is one with a key.
pub(super) fn record_at<'s>(
    words: &[Word],
    at: usize,
    stamp: Stamp,
    time: TimeBase,
    copied: &'s mut Copied,
) -> (Entry, Option<Record<'s>>) {
    let entry = entry_at(words, at, stamp);
    let record = match entry {
        Entry::Keyed(len) => words
            .get(at..at + len)
            .and_then(|own| Record::read(copied.of(own), time)),
        _ => None,
    };
    (entry, record)
}

fn let_go(path: &Path) -> Error {
    Error::Io {
        op: "read again",
        path: path.to_path_buf(),
        source: Arc::new(io::ErrorKind::NotFound.into()),
    }
}

fn is_let_go(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
}
