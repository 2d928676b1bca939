//! Memory as atomic words.
//!
//! Segments are written by one thread while others read what was published before, so all
//! access goes through atomic [`Word`]s: a data race cannot be expressed. Bytes are handed out as
//! `&[u8]` only from a [`Published`] range, which nobody writes again.
//!
//! This is one of the rooms where `unsafe` is allowed; its duties are few:
//! a [`Mapping`] is valid for its whole length while it lives, a [`SharedWords`] is only loaded
//! while the mapping behind it cannot go, and a [`Published`] range is never written.
#![allow(unsafe_code)]

use crate::epoch::Guard;
use crate::sync::{AtomicPtr, AtomicU64, Ordering, Word};
use std::io;

/// Bytes in a word.
pub(crate) const WORD: usize = size_of::<u64>();

/// What pages memory is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pages {
    /// Of 2 MiB, where the system has them: a record costs one table walk less.
    Huge,
    Small,
}

/// Memory of a segment: anonymous and zeroed, or a whole file. Given back on drop.
pub(crate) struct Mapping {
    memory: Backing,
}

enum Backing {
    Anonymous(memmap2::MmapRaw),
    /// Shared, not a private copy.
    File(memmap2::MmapRaw),
    /// For simulated disks: thousands of small ones would cost two system calls each.
    Heap(Box<[Word]>),
}

impl Mapping {
    /// Maps at least `bytes` bytes, a multiple of the page size. The memory is not touched.
    ///
    /// # Errors
    ///
    /// Whatever the system says, usually that memory is exhausted.
    pub(crate) fn anonymous(bytes: usize) -> io::Result<Self> {
        let map = memmap2::MmapRaw::from(memmap2::MmapMut::map_anon(bytes)?);
        Ok(Mapping {
            memory: Backing::Anonymous(map),
        })
    }

    /// A shared mapping of a file nobody truncates and nobody else writes while it lives.
    pub(crate) fn of_map(map: memmap2::MmapRaw) -> Self {
        Mapping {
            memory: Backing::File(map),
        }
    }

    pub(crate) fn on_heap(bytes: usize) -> Self {
        let words = (0..bytes.div_ceil(WORD)).map(|_| Word::new(0)).collect();
        Mapping {
            memory: Backing::Heap(words),
        }
    }

    /// Faults every page in now, so that no caller has to. Best effort.
    pub(crate) fn populate(&self, pages: Pages) {
        #[cfg(target_os = "linux")]
        if let Backing::Anonymous(map) = &self.memory {
            match pages {
                // Touched rather than populated: a fault holds a lock on this mapping alone, and
                // clearing a huge page takes long.
                Pages::Huge => _ = map.advise(memmap2::Advice::HugePage),
                Pages::Small => {
                    let _ = map.advise(memmap2::Advice::NoHugePage);
                    if self.populate_in_pieces(map) {
                        return;
                    }
                }
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = pages;
        // Before Linux 5.14 and elsewhere too.
        self.touch();
    }

    /// One call for many small pages costs half of what touching each does. While it runs nobody can
    /// map or unmap anything, so it is asked for in small pieces.
    #[cfg(target_os = "linux")]
    fn populate_in_pieces(&self, map: &memmap2::MmapRaw) -> bool {
        const PIECE: usize = 64 << 10;
        (0..map.len()).step_by(PIECE).all(|at| {
            let len = PIECE.min(map.len() - at);
            map.advise_range(memmap2::Advice::PopulateWrite, at, len).is_ok()
        })
    }

    /// Stores into each page what is there. While nobody else writes.
    pub(crate) fn touch(&self) {
        for word in self.words().iter().step_by(4096 / WORD) {
            // Not `fetch_add(0)`: the compiler makes that a load, and then nothing.
            let same = std::hint::black_box(word.load(Ordering::Relaxed));
            word.store(same, Ordering::Relaxed);
        }
    }

    /// Maps a file's pages in, ready to be written or only to be read. Best effort. What is ready
    /// to be written counts as written: the next sync of the file takes all of it along.
    pub(crate) fn populate_file(&self, to_write: bool) {
        #[cfg(target_os = "linux")]
        if let Backing::File(map) = &self.memory {
            let _ = map.advise(match to_write {
                true => memmap2::Advice::PopulateWrite,
                false => memmap2::Advice::PopulateRead,
            });
        }
        #[cfg(not(target_os = "linux"))]
        let _ = to_write;
    }

    /// Lets a file's pages be mapped in anew when they are next touched; nothing is lost, the file
    /// has them. Best effort, and only for speed: before each page that was stored to can be written
    /// out, it is protected again, and every processor that runs this process is interrupted for it,
    /// a thousand times for a segment of 4 MiB. Taken out together they cost one interruption.
    pub(crate) fn take_pages_out(&self) {
        #[cfg(target_os = "linux")]
        if let Backing::File(map) = &self.memory {
            // SAFETY: the advice throws bytes away that only this mapping has; a shared mapping of a
            // file has none (`of_map` is given no other). Stores that were made stay in the file's
            // pages, and loads and stores to come, also those under way in other threads, find the
            // same bytes there.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match &self.memory {
            Backing::Anonymous(map) | Backing::File(map) => map.len(),
            Backing::Heap(words) => words.len() * WORD,
        }
    }

    pub(crate) fn words(&self) -> &[Word] {
        let map = match &self.memory {
            Backing::Anonymous(map) | Backing::File(map) => map,
            Backing::Heap(words) => return words,
        };
        // SAFETY: the mapping is page-aligned, at least `len` bytes long, initialised (zeros or
        // the file's bytes), and unmapped only on drop, which the borrow of `self` outlasts.
        // Inside the process nothing accesses it but through these atomics or through
        // `Published`, which only reads. A file is made by us with its whole length written, is
        // never truncated, and is guarded against other processes by the directory's lock and
        // its mode; a program that writes it all the same is outside what is promised.
        unsafe { std::slice::from_raw_parts(map.as_mut_ptr().cast(), map.len() / WORD) }
    }
}

/// A page that reads as zero in a forked child: the cheapest way to notice a fork.
pub(crate) struct ForkMark {
    #[cfg(target_os = "linux")]
    page: Option<Mapping>,
    pid: u32,
}

impl ForkMark {
    pub(crate) fn new() -> Self {
        ForkMark {
            #[cfg(target_os = "linux")]
            page: Self::wiped_on_fork(),
            pid: std::process::id(),
        }
    }

    #[cfg(target_os = "linux")]
    fn wiped_on_fork() -> Option<Mapping> {
        use std::ffi::{c_int, c_void};
        // memmap2 does not know this advice (Linux 4.14), so it is given to the C library that
        // the standard library links anyway.
        const MADV_WIPEONFORK: c_int = 18;
        unsafe extern "C" {
            fn madvise(addr: *mut c_void, len: usize, advice: c_int) -> c_int;
        }
        let page = Mapping::anonymous(4096).ok()?;
        // SAFETY: the range is exactly one mapping of ours, private and anonymous as the advice
        // demands; in this process it changes nothing, and in a child the page reads as zeros.
        let wiped = unsafe {
            madvise(
                page.words().as_ptr().cast_mut().cast(),
                page.bytes(),
                MADV_WIPEONFORK,
            )
        };
        page.words()[0].store(1, Ordering::Relaxed);
        (wiped == 0).then_some(page)
    }

    /// Is this still the process that made the mark? One load of a line nobody writes; where
    /// the system cannot wipe pages, the process id is asked for.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        #[cfg(target_os = "linux")]
        if let Some(page) = &self.page {
            return page.words()[0].load(Ordering::Relaxed) == 1;
        }
        !cfg!(unix) || self.pid == std::process::id()
    }
}

/// Where readers find a mapping's words without a lock.
#[derive(Default)]
pub(crate) struct SharedWords {
    base: AtomicPtr<Word>,
    len: AtomicU64,
}

impl SharedWords {
    /// Shows a mapping to readers. What describes it must have been stored before.
    pub(crate) fn show(&self, mapping: &Mapping) {
        let words = mapping.words();
        // Relaxed: ordered by the store of `base`.
        self.len.store(words.len() as u64, Ordering::Relaxed);
        // Release: a reader that sees the base sees the length and the segment's description.
        self.base.store(words.as_ptr().cast_mut(), Ordering::Release);
    }

    /// Hides it from readers that come from now on.
    pub(crate) fn hide(&self) {
        // Release: a reader that sees null from here on sees all that was done to the slots
        // before (nothing depends on it today; it costs nothing).
        self.base.store(std::ptr::null_mut(), Ordering::Release);
    }

    pub(crate) fn is_shown(&self) -> bool {
        !self.base.load(Ordering::Acquire).is_null()
    }

    /// The words, if a mapping is shown.
    ///
    /// # Safety
    ///
    /// Whoever hides a mapping must keep it alive until every guard pinned at that time is
    /// dropped, and the entry must not be shown again (with another length) before that.
    #[inline]
    pub(crate) unsafe fn load<'g>(&self, _pin: &'g Guard) -> Option<&'g [Word]> {
        // Acquire: pairs with the Release in `show`.
        let base = self.base.load(Ordering::Acquire);
        if base.is_null() {
            return None;
        }
        let len = self.len.load(Ordering::Relaxed) as usize;
        // SAFETY: `base` and `len` describe a live mapping (see `show`): the base was not null
        // after `_pin` was taken, so by the caller's duty the mapping outlives the guard, and
        // the length is the one that was stored with it.
        Some(unsafe { std::slice::from_raw_parts(base, len) })
    }
}

/// Words nobody will write again during `'a`.
#[derive(Clone, Copy)]
pub(crate) struct Published<'a>(&'a [Word]);

impl<'a> Published<'a> {
    /// # Safety
    ///
    /// The words were fully written before this thread learned of them (by an Acquire load or
    /// a lock), and nothing writes them during `'a`.
    pub(crate) unsafe fn new(words: &'a [Word]) -> Self {
        Published(words)
    }

    pub(crate) fn len(self) -> usize {
        self.0.len()
    }

    /// Word `index`, or zero beyond the end (a record starts with a word that is not zero, and
    /// its length is checked before anything else is read).
    #[inline]
    pub(crate) fn word(self, index: usize) -> u64 {
        self.0
            .get(index)
            .map_or(0, |w| u64::from_le(w.load(Ordering::Relaxed)))
    }

    /// The first `len` words, if there are as many.
    #[inline]
    pub(crate) fn first(self, len: usize) -> Option<Self> {
        self.0.get(..len).map(Published)
    }

    /// The bytes from word `from` to the end.
    #[inline]
    pub(crate) fn bytes_from(self, from: usize) -> &'a [u8] {
        let words = self.0.get(from..).unwrap_or_default();
        // SAFETY: the slice covers exactly `words`, which outlive `'a`; bytes have no alignment
        // or validity needs; and by the duty of `new` nobody writes them during `'a`, so a
        // plain shared slice over them holds. Atomic and plain reads may overlap freely.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), words.len() * WORD) }
    }
}

/// Words copied out of memory that others may write, so that they can be read as bytes. Room for
/// one copy at a time.
#[derive(Default)]
pub(crate) struct Copied(Vec<Word>);

impl Copied {
    pub(crate) fn of<'s>(&'s mut self, words: &[Word]) -> Published<'s> {
        let load = |word: &Word| Word::new(word.load(Ordering::Relaxed));
        self.0.clear();
        self.0.extend(words.iter().map(load));
        // SAFETY: written above, on this thread. Nobody else can get at these words, and `self`
        // stays borrowed for `'s`, so nobody writes them during it.
        unsafe { Published::new(&self.0) }
    }
}

/// Writes byte strings end to end into words, the last one padded with zeros. The bytes lie in
/// memory in their own order on every machine.
pub(crate) struct WordWriter<'a> {
    left: &'a [Word],
    /// Bytes waiting for a full word, in the low end.
    held: u64,
    held_bytes: usize,
}

impl<'a> WordWriter<'a> {
    pub(crate) fn new(words: &'a [Word]) -> Self {
        WordWriter {
            left: words,
            held: 0,
            held_bytes: 0,
        }
    }

    #[inline]
    pub(crate) fn word(&mut self, word: u64) {
        debug_assert_eq!(self.held_bytes, 0);
        self.emit(word);
    }

    #[inline]
    fn emit(&mut self, word: u64) {
        let (first, left) = self
            .left
            .split_first()
            .expect("there is room for what was measured");
        put(first, word);
        self.left = left;
    }

    #[inline]
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let (chunks, rest) = bytes.as_chunks::<WORD>();
        let shift = 8 * self.held_bytes as u32;
        // Taken at once, so that nothing is checked word by word.
        let (whole, left) = self.left.split_at(chunks.len());
        self.left = left;
        if shift == 0 {
            for (to, chunk) in whole.iter().zip(chunks) {
                put(to, u64::from_le_bytes(*chunk));
            }
        } else {
            let mut held = self.held;
            for (to, chunk) in whole.iter().zip(chunks) {
                let word = u64::from_le_bytes(*chunk);
                put(to, held | word << shift);
                held = word >> (u64::BITS - shift);
            }
            self.held = held;
        }
        let word = short(rest);
        self.held |= word << shift;
        self.held_bytes += rest.len();
        if self.held_bytes >= WORD {
            let held = self.held;
            self.emit(held);
            self.held = word.checked_shr(u64::BITS - shift).unwrap_or(0);
            self.held_bytes -= WORD;
        }
    }

    /// Writes what is held, padded with zeros; nothing is left of what was measured.
    pub(crate) fn finish(mut self) {
        if self.held_bytes > 0 {
            let held = self.held;
            self.emit(held);
        }
        debug_assert!(self.left.is_empty());
    }
}

#[inline]
fn put(to: &Word, word: u64) {
    // Relaxed: the slot that leads here is stored later, with Release.
    to.store(word.to_le(), Ordering::Relaxed);
}

/// Fewer bytes than a word has, in the low end. Without a loop or a call: keys are short, and
/// their rests are what this is for.
#[inline]
fn short(bytes: &[u8]) -> u64 {
    let byte = |i: usize| u64::from(bytes[i]);
    match (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        // The two may overlap: then they agree.
        (Some(first), Some(last)) => {
            let last = u64::from(u32::from_le_bytes(*last)) << (8 * (bytes.len() - 4));
            u64::from(u32::from_le_bytes(*first)) | last
        }
        _ => match bytes.len() {
            0 => 0,
            1 => byte(0),
            2 => byte(0) | byte(1) << 8,
            _ => byte(0) | byte(1) << 8 | byte(2) << 16,
        },
    }
}

/// Are two byte strings of one length the same? Word by word, and without a call: keys are short.
#[inline]
pub(crate) fn same_bytes(one: &[u8], other: &[u8]) -> bool {
    let ((a, a_rest), (b, b_rest)) = (one.as_chunks::<WORD>(), other.as_chunks::<WORD>());
    let words = a.iter().zip(b);
    let differ = words.fold(short(a_rest) ^ short(b_rest), |differ, (a, b)| {
        differ | (u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b))
    });
    one.len() == other.len() && differ == 0
}

/// Asks the processor to bring a cache line near. Does nothing where there is no such wish.
#[inline]
pub(crate) fn prefetch<T>(at: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch is a hint; it reads nothing and cannot fault, for any address, and SSE
    // is part of every x86_64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(at).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(parts: &[Vec<u8>]) -> Vec<u8> {
        let len = parts.iter().map(Vec::len).sum::<usize>().div_ceil(WORD);
        let words: Vec<Word> = (0..len).map(|_| Word::new(u64::MAX)).collect();
        let mut writer = WordWriter::new(&words);
        for part in parts {
            writer.bytes(part);
        }
        writer.finish();
        // SAFETY: nothing writes the words any more.
        let published = unsafe { Published::new(&words) };
        published.bytes_from(0).to_vec()
    }

    proptest! {
        #[test]
        fn parts_lie_end_to_end_and_the_padding_is_zero(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)
        ) {
            let mut flat = parts.concat();
            flat.resize(flat.len().next_multiple_of(WORD), 0);
            prop_assert_eq!(written(&parts), flat);
        }
    }

    proptest! {
        #[test]
        fn byte_strings_are_the_same_if_every_byte_is(
            one in prop::collection::vec(any::<u8>(), 0..40),
            at in any::<prop::sample::Index>(),
            with in 1_u8..,
        ) {
            prop_assert!(same_bytes(&one, &one.clone()));
            prop_assert!(!same_bytes(&one, &[&one[..], &[0]].concat()));
            if !one.is_empty() {
                let mut other = one.clone();
                other[at.index(one.len())] ^= with;
                prop_assert!(!same_bytes(&one, &other));
            }
        }
    }

    #[test]
    fn a_mapping_is_zeroed_and_whole() {
        let mapping = Mapping::anonymous(1 << 16).unwrap();
        mapping.populate(Pages::Small);
        assert_eq!(mapping.words().len(), (1 << 16) / WORD);
        assert!(mapping.words().iter().all(|w| w.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn reading_past_the_end_reads_nothing() {
        let words = [Word::new(7)];
        // SAFETY: nothing writes the word.
        let published = unsafe { Published::new(&words) };
        assert_eq!(published.word(5), 0);
        assert!(published.first(2).is_none());
        assert!(published.bytes_from(9).is_empty());
    }
}
