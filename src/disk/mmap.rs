//! The real disk: files of the operating system, mapped as a whole.
//!
//! Always so: a file that [`create`](Disk::create) hands out has every block written, so that a
//! store into its mapping never meets a full disk; files and directories are for their owner only.
//!
//! Not here: any decision about when to sync, and what a failed call means for the store.

use super::{Disk, DiskFile, Memory};
use crate::segment::words::Mapping;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::Path;

/// Zeros are written in pieces of this size, a page.
///
/// In one big write the page cache takes the file in folios of up to 2 MiB and writes such a
/// folio whole: every small sync would write 2 MiB.
const PIECE: usize = 4096;

/// The disk of the machine: files that are mapped into memory.
///
/// For Unix. Elsewhere a mapping is refused, since syncing a file does not take along there what
/// was written through one.
#[derive(Clone, Copy, Debug, Default)]
pub struct MmapDisk;

struct MmapFile {
    file: File,
    writable: bool,
}

impl Disk for MmapDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = dir.ancestors().take_while(|dir| !is_there(dir)).collect();
        let mut builder = DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(dir)?;
        // A directory whose own name is lost takes all that was synced inside with it.
        missing
            .into_iter()
            .filter_map(Path::parent)
            .try_for_each(|parent| self.sync_dir(if is_here(parent) { Path::new(".") } else { parent }))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut options = read_write();
        let file = options.create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            // A name that is no text is none the store has given.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut file = read_write().create_new(true).open(path)?;
        if let Err(error) = fill_with_zeros(&mut file, len) {
            drop(file);
            // Best effort: the first error says more than a second one.
            let _ = fs::remove_file(path);
            return Err(error);
        }
        Ok(Box::new(MmapFile { file, writable: true }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = read_write().open(path)?;
        Ok(Box::new(MmapFile { file, writable: true }))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = File::open(path)?;
        Ok(Box::new(MmapFile {
            file,
            writable: false,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    /// Does nothing where directories cannot be opened, as on Windows: there names need no sync.
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        if cfg!(unix) {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }
}

impl DiskFile for MmapFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        read_exact_at(&self.file, at, into)
    }

    fn map(&self) -> io::Result<Memory> {
        if !self.writable {
            return Err(unsupported(
                "a file that was opened to be read only is not mapped",
            ));
        }
        if cfg!(not(unix)) {
            return Err(unsupported("durable mappings are for Unix only"));
        }
        let map = memmap2::MmapOptions::new().map_raw(&self.file)?;
        Ok(Memory::of(Mapping::of_map(map)))
    }

    /// The length never changes after `create`, so the data and what is needed to find it will do.
    /// On Unix what is written through the mapping is in the page cache like any other write.
    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn read_write() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Real zeros: `set_len` leaves a hole, and a store into one raises SIGBUS when the disk is full;
/// `fallocate` leaves blocks marked unwritten, and what is pushed out into such a block is not
/// found after a power cut until the file was synced.
fn fill_with_zeros(file: &mut File, len: u64) -> io::Result<()> {
    let piece = [0; PIECE];
    let mut left = len;
    while left > 0 {
        let now = left.min(PIECE as u64);
        file.write_all(&piece[..now as usize])?;
        left -= now;
    }
    Ok(())
}

fn unsupported(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, why)
}

fn is_there(dir: &Path) -> bool {
    is_here(dir) || dir.exists()
}

/// The parent of a relative path with one part.
fn is_here(dir: &Path) -> bool {
    dir.as_os_str().is_empty()
}

#[cfg(unix)]
fn read_exact_at(file: &File, at: u64, into: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, at)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, at: u64, into: &mut [u8]) -> io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    /// A file has one cursor for all threads.
    static CURSOR: crate::sync::Mutex<()> = crate::sync::Mutex::new(());
    let _mine = CURSOR.lock();
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A directory of the test's own, removed with all that is in it.
    struct TempDir(PathBuf);

    impl TempDir {
        fn new() -> Self {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("onceonly-mmap-{}-{number}", std::process::id());
            let dir = std::env::temp_dir().join(name);
            MmapDisk.create_dir(&dir).unwrap();
            TempDir(dir)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[cfg(unix)]
    fn mode(path: &Path) -> u32 {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_use_what_is_made() {
        let dir = TempDir::new();
        let deep = dir.path("a/b");
        MmapDisk.create_dir(&deep).unwrap();
        MmapDisk.create_dir(&deep).unwrap();
        MmapDisk.create(&deep.join("file"), 8).unwrap();
        let _lock = MmapDisk.lock(&deep.join("LOCK")).unwrap().unwrap();
        assert_eq!((mode(&dir.path("a")), mode(&deep)), (0o700, 0o700));
        assert_eq!(
            (mode(&deep.join("file")), mode(&deep.join("LOCK"))),
            (0o600, 0o600)
        );
    }

    #[test]
    fn a_new_file_is_all_zeros_and_has_its_blocks() {
        let dir = TempDir::new();
        let file = MmapDisk.create(&dir.path("file"), 10_000).unwrap();
        assert_eq!(file.size().unwrap(), 10_000);
        let mut bytes = vec![1; 10_000];
        file.read_at(0, &mut bytes).unwrap();
        assert!(bytes.iter().all(|b| *b == 0));
        file.sync().unwrap();
        #[cfg(unix)]
        {
            use std::os::unix::fs::MetadataExt;
            assert!(fs::metadata(dir.path("file")).unwrap().blocks() * 512 >= 10_000);
        }
    }

    #[test]
    fn create_refuses_a_name_that_is_taken() {
        let dir = TempDir::new();
        fs::write(dir.path("file"), b"mine").unwrap();
        let error = MmapDisk.create(&dir.path("file"), 8).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(dir.path("file")).unwrap(), b"mine");
    }

    #[test]
    fn a_lock_excludes_this_process_too_until_it_is_dropped() {
        let dir = TempDir::new();
        let lock = MmapDisk.lock(&dir.path("LOCK")).unwrap();
        assert!(lock.is_some());
        assert!(MmapDisk.lock(&dir.path("LOCK")).unwrap().is_none());
        drop(lock);
        assert!(MmapDisk.lock(&dir.path("LOCK")).unwrap().is_some());
    }

    #[test]
    fn what_is_written_into_the_mapping_is_in_the_file() {
        let dir = TempDir::new();
        let file = MmapDisk.create(&dir.path("file"), 4096).unwrap();
        let memory = file.map().unwrap();
        memory.write(1003, b"through the mapping");
        file.sync().unwrap();
        for reader in [file, MmapDisk.open_to_read(&dir.path("file")).unwrap()] {
            let mut bytes = [0; 19];
            reader.read_at(1003, &mut bytes).unwrap();
            assert_eq!(&bytes, b"through the mapping");
        }
        let mut bytes = [0; 19];
        let again = MmapDisk.open(&dir.path("file")).unwrap().map().unwrap();
        again.read(1003, &mut bytes);
        assert_eq!(&bytes, b"through the mapping");
    }

    #[test]
    fn memory_takes_and_gives_bytes_at_any_place() {
        let memory = Memory::on_heap(32);
        let mut expected = [0; 32];
        for at in 0..=32 {
            for len in 0..=32 - at {
                let bytes: Vec<u8> = (0..len).map(|i| (7 * at + 31 * len + i + 1) as u8).collect();
                memory.write(at, &bytes);
                expected[at..at + len].copy_from_slice(&bytes);
                let mut part = vec![0; len];
                memory.read(at, &mut part);
                assert_eq!(part, bytes);
                let mut all = [0; 32];
                memory.read(0, &mut all);
                assert_eq!(all, expected);
            }
        }
    }

    #[test]
    fn a_file_that_is_only_read_is_not_mapped() {
        let dir = TempDir::new();
        MmapDisk.create(&dir.path("file"), 64).unwrap();
        let file = MmapDisk.open_to_read(&dir.path("file")).unwrap();
        assert_eq!(file.map().unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[test]
    fn the_mapping_of_an_odd_file_ends_at_its_last_whole_word() {
        let dir = TempDir::new();
        for len in [0, 13] {
            let path = dir.path(&len.to_string());
            let memory = MmapDisk.create(&path, len).unwrap().map().unwrap();
            assert_eq!(memory.size() as u64, len / 8 * 8);
        }
    }

    #[test]
    fn reading_past_the_end_is_an_error() {
        let dir = TempDir::new();
        let file = MmapDisk.create(&dir.path("file"), 64).unwrap();
        let error = file.read_at(60, &mut [0; 5]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn what_is_missing_is_not_found() {
        let dir = TempDir::new();
        let (gone, other) = (dir.path("gone"), dir.path("other"));
        let errors = [
            MmapDisk.open(&gone).err(),
            MmapDisk.open_to_read(&gone).err(),
            MmapDisk.rename(&gone, &other).err(),
            MmapDisk.remove(&gone).err(),
            MmapDisk.list(&gone).err(),
            MmapDisk.create(&gone.join("file"), 8).err(),
            MmapDisk.lock(&gone.join("LOCK")).err(),
        ];
        for error in errors {
            assert_eq!(error.unwrap().kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn names_are_listed_renamed_and_removed() {
        let dir = TempDir::new();
        for name in ["a", "b"] {
            MmapDisk.create(&dir.path(name), 8).unwrap();
        }
        MmapDisk.rename(&dir.path("a"), &dir.path("c")).unwrap();
        MmapDisk.remove(&dir.path("b")).unwrap();
        MmapDisk.sync_dir(&dir.0).unwrap();
        assert_eq!(MmapDisk.list(&dir.0).unwrap(), ["c"]);
    }
}
