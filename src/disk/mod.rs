//! What the log needs of a disk: a few calls with stated duties, so that the real one
//! ([`MmapDisk`]) and a simulated one (`sim::disk::SimDisk`) are interchangeable.
//!
//! Data is written through [`Memory`], a shared mapping of a whole file; nothing is ever
//! truncated, and no file grows. What is durable is said by two calls only:
//! [`DiskFile::sync`] for a file's bytes and [`Disk::sync_dir`] for names.

mod mmap;

pub use mmap::MmapDisk;

use crate::segment::words::{Mapping, WORD};
use crate::sync::{Arc, Ordering, Word};
use std::fmt;
use std::io;
use std::path::Path;

/// Where a store with a log keeps its files.
///
/// The default is [`MmapDisk`]. Tests pass a simulated disk (feature `sim`).
///
/// # Duties of an implementer
///
/// - An error means that the call may or may not have had its effect; the store never repeats a
///   failed [`DiskFile::sync`].
/// - Until `sync` of a file has returned, any subset of the sectors written since its last sync
///   may survive a power cut. Until `sync_dir` has returned, so may any subset of the creations,
///   renames and removals in that directory.
/// - A rename replaces its target as a whole: after a power cut the name leads to the old file or
///   to the new one.
/// - All calls may come from several threads at once.
pub trait Disk: Send + Sync + 'static {
    /// Makes a directory that only its owner may use (0700), with its missing parents, and makes
    /// their names durable. Fine if it is there.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Takes the exclusive lock on a file, which is made if it is missing. `None` if somebody
    /// else has it, in this process or another. Dropping the result gives it back; so does the
    /// end of the process.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>>;

    /// The names in a directory, in any order.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;

    /// Makes a file of `len` zero bytes that only its owner may use (0600). Each of its blocks
    /// is written, so that a store into its mapping never needs room. Fails if the name is taken.
    fn create(&self, path: &Path, len: u64) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file to read it and write it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file to read it.
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Gives a file another name in the same directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a name. Who has the file open or mapped keeps it.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file of a [`Disk`].
pub trait DiskFile: Send + Sync {
    /// Its length in bytes.
    fn size(&self) -> io::Result<u64>;

    /// Reads exactly `into.len()` bytes from `at` on.
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()>;

    /// The whole file as memory: what is written there is in the file as soon as the process
    /// may be killed, and durable once [`sync`](Self::sync) has returned.
    fn map(&self) -> io::Result<Memory>;

    /// Makes everything durable that was written into the file before.
    fn sync(&self) -> io::Result<()>;
}

/// A file's bytes in memory. A cheap handle: clones share the bytes.
#[derive(Clone)]
pub struct Memory {
    pub(crate) mapping: Arc<Mapping>,
}

impl Memory {
    /// Zeroed memory that belongs to no file, for simulated disks.
    pub fn on_heap(bytes: usize) -> Memory {
        Memory {
            mapping: Arc::new(Mapping::on_heap(bytes)),
        }
    }

    pub(crate) fn of(mapping: Mapping) -> Memory {
        Memory {
            mapping: Arc::new(mapping),
        }
    }

    /// Its length in bytes, a multiple of eight. The last bytes of a file with another length are
    /// not part of it.
    pub fn size(&self) -> usize {
        self.mapping.words().len() * WORD
    }

    /// Copies bytes out, from `at` on.
    ///
    /// # Panics
    ///
    /// If the range lies outside.
    pub fn read(&self, at: usize, into: &mut [u8]) {
        let words = self.mapping.words();
        let load = |index: usize| words[index].load(Ordering::Relaxed).to_ne_bytes();
        let (head, rest) = into.split_at_mut(into.len().min(to_next_word(at)));
        if !head.is_empty() {
            head.copy_from_slice(&load(at / WORD)[at % WORD..][..head.len()]);
        }
        let first = at.div_ceil(WORD);
        let (whole, tail) = rest.as_chunks_mut::<WORD>();
        let after = first + whole.len();
        if !whole.is_empty() {
            for (bytes, word) in whole.iter_mut().zip(&words[first..after]) {
                *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
            }
        }
        if !tail.is_empty() {
            tail.copy_from_slice(&load(after)[..tail.len()]);
        }
    }

    /// Copies bytes in, from `at` on. Others must not write the same words meanwhile.
    ///
    /// # Panics
    ///
    /// If the range lies outside.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let words: &[Word] = self.mapping.words();
        let patch = |index: usize, from: usize, part: &[u8]| {
            let mut word = words[index].load(Ordering::Relaxed).to_ne_bytes();
            word[from..][..part.len()].copy_from_slice(part);
            words[index].store(u64::from_ne_bytes(word), Ordering::Relaxed);
        };
        let (head, rest) = bytes.split_at(bytes.len().min(to_next_word(at)));
        if !head.is_empty() {
            patch(at / WORD, at % WORD, head);
        }
        let first = at.div_ceil(WORD);
        let (whole, tail) = rest.as_chunks::<WORD>();
        let after = first + whole.len();
        if !whole.is_empty() {
            for (bytes, word) in whole.iter().zip(&words[first..after]) {
                word.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
            }
        }
        if !tail.is_empty() {
            patch(after, 0, tail);
        }
    }
}

/// Bytes from `at` to the next start of a word: none if one starts there.
fn to_next_word(at: usize) -> usize {
    at.next_multiple_of(WORD) - at
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}
