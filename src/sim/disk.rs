//! A disk in memory that loses power, fails and forgets when a test wants it to.
//!
//! [`SimDisk`] is a [`Disk`] that keeps what was *written* apart from what is *durable*. A test
//! runs a store on it, ends the run with [`kill`](SimDisk::kill) or [`cut`](SimDisk::cut), opens a
//! store on the disk that comes out, and asks whether every promise was kept.
//!
//! # The fault model
//!
//! **A file's bytes.** What is written through a mapping is visible to everybody at once and
//! becomes durable when a sync of the file returns. In a power cut each sector of 512 bytes that
//! differs from its durable bytes is kept, lost or *torn*, independently of all others. Of a torn
//! sector some words of eight bytes are new and the others old: a prefix, a suffix or any subset.
//! A word is never torn. How much is kept and torn is drawn anew for each cut: nearly all, half,
//! nearly nothing. The durable bytes of a file that was never synced are zeros, and it has its
//! whole length unless [`short_files`](SimDisk::short_files) says otherwise.
//!
//! **Names.** A creation, a rename and a removal is visible at once and becomes durable with a sync
//! of its directory; syncing the file does not do it. In a power cut any subset of the changes
//! since then has happened, whatever their order. A rename is one change: the file is under its new
//! name and not under the old one, or the rename has not happened at all and what was under the new
//! name is still there. A file has one name at most. So a file whose creation was lost and whose
//! rename was kept is found under the second name. Directories are durable as soon as they are made.
//!
//! **A killed process.** The machine goes on: all that was written is there, and what was not
//! durable is still not. Locks are free again.
//!
//! **Failing calls.** [`fail_nth`](SimDisk::fail_nth) makes a call fail. A rename or a removal that
//! fails with [`Fault::Eio`] has happened all the same in half of the cases. Of the sectors a failed
//! sync should have made durable, some are, some are not yet, and some are *dropped*, as Linux does
//! it: they stay visible, but are held for clean and no later sync writes them, though it reports
//! success. They are lost with the next power cut, even with [`Cut::KeepAll`]. A dropped sector is
//! written again once its bytes have changed.
//!
//! **What is absent.** Writing a dropped sector again with the very same bytes goes unnoticed here
//! (a real page would be dirty again). Synced bytes never rot by themselves; damage is done by the
//! test ([`overwrite`](SimDisk::overwrite) and its neighbours). Sectors are never swapped or written
//! to a wrong place, calls are never slow, and the mapping of a truncated file raises no signal.
//!
//! All of it follows from the seed and the order of the calls.
//!
//! ```
//! use onceonly::{Disk, sim::disk::{Cut, SimDisk}};
//! use std::path::Path;
//!
//! let disk = SimDisk::new(7);
//! disk.create_dir(Path::new("/data"))?;
//! let file = disk.create(Path::new("/data/log"), 4096)?;
//! disk.sync_dir(Path::new("/data"))?;
//! let memory = file.map()?;
//! memory.write(0, b"synced");
//! file.sync()?;
//! memory.write(1024, b"written");
//!
//! let after = disk.cut(Cut::LoseAll);
//! let bytes = after.bytes(Path::new("/data/log")).unwrap();
//! assert_eq!(&bytes[..6], b"synced");
//! assert_eq!(&bytes[1024..1031], [0; 7]);
//! assert!(file.sync().is_err(), "the old disk has no power any more");
//! # Ok::<(), std::io::Error>(())
//! ```

use crate::disk::{Disk, DiskFile, Memory};
use crate::sync::{Arc, Mutex, MutexGuard, Ordering, Word};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

const WORD: usize = size_of::<u64>();
/// A sector has as many words as a `u64` has bits, so that one `u64` says which of them are new.
const SECTOR: usize = u64::BITS as usize;
const _: () = assert!(SECTOR * WORD == 512);

/// A wild length is refused like on a full disk, not allocated.
const CAPACITY: u64 = 16 << 30;

const POWER_IS_CUT: &str = "the power is cut";
const KILLED: &str = "the process is killed";

/// How much of what was not durable a power cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Each sector and each name by itself is kept or lost, and some sectors are torn.
    Random,
    /// Exactly what is durable.
    LoseAll,
    /// Everything that was written, but for what a failed sync has dropped.
    KeepAll,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An input/output error.
    Eio,
    /// No room on the disk (kind `StorageFull`).
    Enospc,
    /// A creation fails (kind `WriteZero`) and leaves a file of half the length under its name.
    /// Any other call fails as with [`Eio`](Self::Eio).
    ShortWrite,
}

/// What happens after the first call that was made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The calls after it work.
    Once,
    /// All calls after it fail too.
    FromThenOn,
}

/// A simulated disk. A cheap handle: clones share the disk.
///
/// The [module](self) says what it does to data.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk::of(State {
            rng: Rng(seed),
            directories: BTreeSet::new(),
            live: Names::new(),
            durable: Names::new(),
            pending: Vec::new(),
            locked: BTreeSet::new(),
            files_made: 0,
            capacity: CAPACITY,
            ignore_syncs: false,
            short_files: false,
            calls: 0,
            changes: 0,
            cut_at: None,
            faults: Vec::new(),
            dead: None,
        })
    }

    fn of(state: State) -> SimDisk {
        SimDisk {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// Kills the process: a disk with all that was written. Nothing becomes durable by it.
    ///
    /// This disk and its files fail from now on, and what is written into their [`Memory`]
    /// does not reach the new one. Counters, planned faults and locks are not carried over,
    /// capacity and switches are.
    pub fn kill(&self) -> SimDisk {
        let mut state = self.state.lock();
        state.dead.get_or_insert(KILLED);
        SimDisk::of(state.copy())
    }

    /// A second disk like this one, which goes on. The same as [`kill`](Self::kill) otherwise.
    ///
    /// Each copy draws other random numbers; [`reseed`](Self::reseed) chooses them.
    pub fn copy(&self) -> SimDisk {
        SimDisk::of(self.state.lock().copy())
    }

    /// Cuts the power: the disk as it is found afterwards, all of it durable.
    ///
    /// This disk and its files fail from now on. Cut again, it gives another image of the
    /// same moment.
    pub fn cut(&self, style: Cut) -> SimDisk {
        let mut state = self.state.lock();
        state.dead.get_or_insert(POWER_IS_CUT);
        SimDisk::of(state.after_cut(style))
    }

    /// Cuts the power inside the `n`-th call from now that changes the disk (1 is the next):
    /// create, rename, remove, sync or sync_dir. That call and all later ones fail with an
    /// error of kind `Other` and have no effect; [`cut`](Self::cut) gives the image.
    pub fn cut_after(&self, n: u64) {
        let mut state = self.state.lock();
        state.cut_at = Some(state.changes.saturating_add(n.max(1)));
    }

    /// Does every call fail, because of a kill or a power cut?
    pub fn is_dead(&self) -> bool {
        self.state.lock().dead.is_some()
    }

    /// The calls so far, of every kind, those of its files included. For a run that makes each
    /// of them fail in turn.
    pub fn calls(&self) -> u64 {
        self.state.lock().calls
    }

    /// The calls so far that [`cut_after`](Self::cut_after) counts.
    pub fn changes(&self) -> u64 {
        self.state.lock().changes
    }

    /// Makes the `n`-th call from now fail (1 is the next), whatever kind it is. Several may be
    /// planned.
    pub fn fail_nth(&self, n: u64, fault: Fault, then: Then) {
        let mut state = self.state.lock();
        let call = state.calls.saturating_add(n.max(1));
        state.faults.push(Planned { call, fault, then });
    }

    /// Takes back all planned faults and a planned cut.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.faults.clear();
        state.cut_at = None;
    }

    /// Makes creations fail that would bring the lengths of all files above this.
    pub fn set_capacity(&self, bytes: u64) {
        self.state.lock().capacity = bytes;
    }

    /// From now on, do syncs of files and directories report success and do nothing? For showing
    /// that a test would notice.
    pub fn ignore_syncs(&self, ignore: bool) {
        self.state.lock().ignore_syncs = ignore;
    }

    /// From now on, may [`Cut::Random`] leave files that were never synced shorter, by whole
    /// blocks of 4 KiB? Real file systems do.
    pub fn short_files(&self, short: bool) {
        self.state.lock().short_files = short;
    }

    /// Chooses the random numbers from now on.
    pub fn reseed(&self, seed: u64) {
        self.state.lock().rng = Rng(seed);
    }

    /// The files there are, in order.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.state.lock().live.keys().cloned().collect()
    }

    /// What is written in a file.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state.lock();
        let file = state.live.get(path)?;
        let bytes = file.content.lock().bytes();
        Some(bytes)
    }

    /// Damages a file, in its written and its durable bytes.
    ///
    /// # Errors
    ///
    /// If there is no such file, or if the range does not lie in it.
    pub fn overwrite(&self, path: &Path, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.state
            .lock()
            .file(path)?
            .content
            .lock()
            .overwrite(at, bytes)
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the range lies outside the file"))
    }

    /// Gives a file another length, with zeros at the end if it grows. Mappings of it keep what
    /// they had and have nothing to do with it any more.
    ///
    /// # Errors
    ///
    /// If there is no such file, or if the length is beyond the capacity.
    pub fn truncate(&self, path: &Path, len: u64) -> io::Result<()> {
        let state = self.state.lock();
        let file = state.file(path)?;
        if len > state.capacity {
            return Err(full());
        }
        let len = usize::try_from(len).map_err(|_| full())?;
        file.content.lock().truncate(len);
        Ok(())
    }

    /// Makes a file vanish, durably, and all names in its directory durable.
    ///
    /// # Errors
    ///
    /// If there is no such file.
    pub fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.file(path)?;
        state.change(Change::Remove(path.into()));
        state.settle(parent(path));
        Ok(())
    }

    /// Puts a durable file under a name, in place of what was there, and makes all names in its
    /// directory durable. The directory is made if it is missing.
    pub fn put(&self, path: &Path, bytes: Vec<u8>) {
        let mut state = self.state.lock();
        state.make_directories(parent(path));
        state.add(path, Content::durable(&bytes));
        state.settle(parent(path));
    }

    /// Enters a call that changes nothing.
    fn look(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state.lock();
        match state.begin(Call::Look)? {
            None => Ok(state),
            Some(fault) => Err(fault.error()),
        }
    }

    fn handle(&self, file: Arc<File>, writable: bool) -> Box<dyn DiskFile> {
        Box::new(SimFile {
            disk: self.clone(),
            file,
            writable,
        })
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("SimDisk")
            .field("files", &state.live.keys())
            .field("calls", &state.calls)
            .field("dead", &state.dead)
            .finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.look()?;
        if dir.ancestors().any(|part| state.live.contains_key(part)) {
            return Err(ErrorKind::NotADirectory.into());
        }
        state.make_directories(dir);
        Ok(())
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let mut state = self.look()?;
        let file = match state.live.get(path) {
            Some(file) => file.id,
            None => {
                state.check_directory(parent(path))?;
                state.add(path, Content::zeroed(0)).id
            }
        };
        if !state.locked.insert(file) {
            return Ok(None);
        }
        let disk = self.clone();
        Ok(Some(Box::new(SimLock { disk, file })))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let state = self.look()?;
        state.check_directory(dir)?;
        let paths = state.live.keys().chain(&state.directories);
        let inside = paths.filter(|path| path.parent() == Some(dir));
        let names = inside.filter_map(|path| path.file_name()?.to_str());
        Ok(names.map(String::from).collect())
    }

    fn create(&self, path: &Path, len: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state.lock();
        let fault = state.begin(Call::Change)?;
        if state.live.contains_key(path) || state.directories.contains(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.check_directory(parent(path))?;
        let len = state.length(len)?;
        match fault {
            None => {
                let file = state.add(path, Content::zeroed(len));
                Ok(self.handle(file, true))
            }
            Some(Fault::ShortWrite) => {
                state.add(path, Content::zeroed(len / 2));
                let why = "the simulated disk took half of the file";
                Err(io::Error::new(ErrorKind::WriteZero, why))
            }
            Some(fault) => Err(fault.error()),
        }
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.look()?.file(path)?;
        Ok(self.handle(file, true))
    }

    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.look()?.file(path)?;
        Ok(self.handle(file, false))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let fault = state.begin(Call::Change)?;
        let file = state.file(from)?;
        if from.parent() != to.parent() {
            return Err(ErrorKind::InvalidInput.into());
        }
        state.change_unless(fault, Change::Set(to.into(), file))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let fault = state.begin(Call::Change)?;
        state.file(path)?;
        state.change_unless(fault, Change::Remove(path.into()))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some(fault) = state.begin(Call::Change)? {
            return Err(fault.error());
        }
        state.check_directory(dir)?;
        if !state.ignore_syncs {
            state.settle(dir);
        }
        Ok(())
    }
}

struct SimFile {
    disk: SimDisk,
    file: Arc<File>,
    writable: bool,
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        let _state = self.disk.look()?;
        Ok(self.file.content.lock().len() as u64)
    }

    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        let _state = self.disk.look()?;
        let read = self.file.content.lock().read(at, into);
        read.ok_or_else(|| ErrorKind::UnexpectedEof.into())
    }

    fn map(&self) -> io::Result<Memory> {
        let _state = self.disk.look()?;
        if !self.writable {
            let why = "a file that was opened to be read only is not mapped";
            return Err(io::Error::new(ErrorKind::Unsupported, why));
        }
        Ok(self.file.content.lock().live.clone())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state.lock();
        let fault = state.begin(Call::Change)?;
        let mut content = self.file.content.lock();
        if let Some(fault) = fault {
            content.fail_sync(&mut state.rng);
            return Err(fault.error());
        }
        if !state.ignore_syncs {
            content.sync();
        }
        Ok(())
    }
}

struct SimLock {
    disk: SimDisk,
    file: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.state.lock().locked.remove(&self.file);
    }
}

impl Fault {
    fn error(self) -> io::Error {
        match self {
            Fault::Eio | Fault::ShortWrite => io::Error::other("input/output error of the simulated disk"),
            Fault::Enospc => full(),
        }
    }
}

fn full() -> io::Error {
    io::Error::new(ErrorKind::StorageFull, "no room on the simulated disk")
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

type Names = BTreeMap<PathBuf, Arc<File>>;

struct File {
    id: u64,
    /// Locked after the disk's state, or alone.
    content: Mutex<Content>,
}

/// A change of names. Any subset of changes can be applied in order: each leaves every file with
/// one name at most.
#[derive(Clone)]
enum Change {
    /// The file is under this name and under no other: a creation or a rename.
    Set(PathBuf, Arc<File>),
    Remove(PathBuf),
}

impl Change {
    fn path(&self) -> &Path {
        match self {
            Change::Set(path, _) | Change::Remove(path) => path,
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Change::Set(path, file) => {
                names.retain(|_, other| other.id != file.id);
                names.insert(path.clone(), Arc::clone(file));
            }
            Change::Remove(path) => {
                names.remove(path);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Look,
    Change,
}

struct Planned {
    call: u64,
    fault: Fault,
    then: Then,
}

impl Planned {
    fn strikes(&self, call: u64) -> bool {
        match self.then {
            Then::Once => call == self.call,
            Then::FromThenOn => call >= self.call,
        }
    }
}

struct State {
    rng: Rng,
    directories: BTreeSet<PathBuf>,
    live: Names,
    /// What a power cut cannot take.
    durable: Names,
    /// The changes that lead from `durable` to `live`, in order.
    pending: Vec<Change>,
    /// The ids of the files somebody has the lock of.
    locked: BTreeSet<u64>,
    files_made: u64,
    capacity: u64,
    ignore_syncs: bool,
    short_files: bool,
    calls: u64,
    changes: u64,
    /// In `changes`.
    cut_at: Option<u64>,
    faults: Vec<Planned>,
    /// Why every call fails.
    dead: Option<&'static str>,
}

impl State {
    /// Counts a call and says whether it is to fail.
    fn begin(&mut self, call: Call) -> io::Result<Option<Fault>> {
        if let Some(why) = self.dead {
            return Err(io::Error::other(why));
        }
        self.calls += 1;
        if call == Call::Change {
            self.changes += 1;
            if self.cut_at == Some(self.changes) {
                self.dead = Some(POWER_IS_CUT);
                return Err(io::Error::other(POWER_IS_CUT));
            }
        }
        let planned = self.faults.iter().find(|planned| planned.strikes(self.calls));
        Ok(planned.map(|planned| planned.fault))
    }

    fn file(&self, path: &Path) -> io::Result<Arc<File>> {
        let file = self.live.get(path).cloned();
        file.ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// The root and the current directory are always there.
    fn check_directory(&self, dir: &Path) -> io::Result<()> {
        if dir.file_name().is_none() || self.directories.contains(dir) {
            return Ok(());
        }
        Err(ErrorKind::NotFound.into())
    }

    fn make_directories(&mut self, dir: &Path) {
        let named = dir.ancestors().filter(|part| part.file_name().is_some());
        self.directories.extend(named.map(PathBuf::from));
    }

    /// Is there room for so many bytes more?
    fn length(&self, len: u64) -> io::Result<usize> {
        let lengths = self.live.values().map(|file| file.content.lock().len() as u64);
        let total = lengths.fold(len, u64::saturating_add);
        if total > self.capacity {
            return Err(full());
        }
        usize::try_from(len).map_err(|_| full())
    }

    fn add(&mut self, path: &Path, content: Content) -> Arc<File> {
        self.files_made += 1;
        let file = Arc::new(File {
            id: self.files_made,
            content: Mutex::new(content),
        });
        self.change(Change::Set(path.into(), Arc::clone(&file)));
        file
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.live);
        self.pending.push(change);
    }

    fn change_unless(&mut self, fault: Option<Fault>, change: Change) -> io::Result<()> {
        let Some(fault) = fault else {
            self.change(change);
            return Ok(());
        };
        // Who hears of an error does not know whether it happened.
        if fault == Fault::Eio && self.rng.coin() {
            self.change(change);
        }
        Err(fault.error())
    }

    /// Makes the names in a directory durable.
    fn settle(&mut self, dir: &Path) {
        let durable = &mut self.durable;
        self.pending.retain(|change| {
            let here = parent(change.path()) == dir;
            if here {
                change.apply(durable);
            }
            !here
        });
    }

    /// The same bytes and names, written and durable, in memory of their own.
    fn copy(&mut self) -> State {
        let mut copies: BTreeMap<u64, Arc<File>> = BTreeMap::new();
        let mut copy = |file: &Arc<File>| {
            let copied = copies.entry(file.id).or_insert_with(|| {
                let content = Mutex::new(file.content.lock().copy());
                Arc::new(File { id: file.id, content })
            });
            Arc::clone(copied)
        };
        let mut copy_names = |names: &Names| names.iter().map(|(path, f)| (path.clone(), copy(f))).collect();
        let live = copy_names(&self.live);
        let durable = copy_names(&self.durable);
        let pending = self.pending.iter().map(|change| match change {
            Change::Set(path, file) => Change::Set(path.clone(), copy(file)),
            Change::Remove(path) => Change::Remove(path.clone()),
        });
        let pending = pending.collect();
        State {
            pending,
            ..self.successor(live, durable)
        }
    }

    fn after_cut(&mut self, style: Cut) -> State {
        let mut rng = self.rng.fork();
        let odds = Odds::draw(&mut rng);
        let mut names = self.durable.clone();
        for change in &self.pending {
            let kept = match style {
                Cut::Random => odds.keeps(&mut rng),
                Cut::LoseAll => false,
                Cut::KeepAll => true,
            };
            if kept {
                change.apply(&mut names);
            }
        }
        let odds = Odds::draw(&mut rng);
        for file in names.values_mut() {
            let mut content = file.content.lock().after_cut(style, odds, &mut rng);
            if self.short_files && style == Cut::Random && !content.synced {
                content.shorten(&mut rng);
            }
            content.synced = true;
            *file = Arc::new(File {
                id: file.id,
                content: Mutex::new(content),
            });
        }
        self.successor(names.clone(), names)
    }

    /// A disk that takes this one's place.
    fn successor(&mut self, live: Names, durable: Names) -> State {
        State {
            rng: self.rng.fork(),
            directories: self.directories.clone(),
            live,
            durable,
            pending: Vec::new(),
            locked: BTreeSet::new(),
            files_made: self.files_made,
            capacity: self.capacity,
            ignore_syncs: self.ignore_syncs,
            short_files: self.short_files,
            calls: 0,
            changes: 0,
            cut_at: None,
            faults: Vec::new(),
            dead: None,
        }
    }
}

/// A file's bytes. Sector `i` of `live` and of `durable` are words `i * SECTOR` and following; the
/// last one may be shorter.
struct Content {
    /// What is written: the memory that stores map.
    live: Memory,
    /// Shared with the disks before and after as long as it does not change.
    durable: Arc<Vec<u64>>,
    /// The bytes after the last whole word, which no mapping reaches.
    tail: Vec<u8>,
    /// Was it ever?
    synced: bool,
    /// What a failed sync has dropped: the sector and what was written there then.
    dropped: BTreeMap<usize, Vec<u64>>,
}

impl Content {
    fn zeroed(len: usize) -> Self {
        Content {
            live: Memory::on_heap(len / WORD * WORD),
            durable: Arc::new(vec![0; len / WORD]),
            tail: vec![0; len % WORD],
            synced: false,
            dropped: BTreeMap::new(),
        }
    }

    /// Written and durable alike.
    fn durable(bytes: &[u8]) -> Self {
        let (words, tail) = bytes.as_chunks::<WORD>();
        let words = words.iter().map(|word| u64::from_ne_bytes(*word)).collect();
        Content {
            live: memory(&words),
            durable: Arc::new(words),
            tail: tail.to_vec(),
            synced: true,
            dropped: BTreeMap::new(),
        }
    }

    fn copy(&self) -> Self {
        Content {
            live: memory(&load(self.words())),
            durable: Arc::clone(&self.durable),
            tail: self.tail.clone(),
            synced: self.synced,
            dropped: self.dropped.clone(),
        }
    }

    /// Others write them while they are read here. Relaxed suffices: what a thread wrote before
    /// it asked for a sync is seen by whoever carries the sync out, and of what is written
    /// meanwhile any part may be seen.
    fn words(&self) -> &[Word] {
        self.live.mapping.words()
    }

    fn len(&self) -> usize {
        self.live.size() + self.tail.len()
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.live.size()];
        self.live.read(0, &mut bytes);
        bytes.extend(&self.tail);
        bytes
    }

    /// `None` if the range lies outside.
    fn read(&self, at: u64, into: &mut [u8]) -> Option<()> {
        let at = self.checked(at, into.len())?;
        let (words, tail) = into.split_at_mut(self.in_words(at, into.len()));
        self.live.read(at, words);
        let from = at.saturating_sub(self.live.size());
        tail.copy_from_slice(&self.tail[from..][..tail.len()]);
        Some(())
    }

    /// `None` if the range lies outside.
    fn overwrite(&mut self, at: u64, bytes: &[u8]) -> Option<()> {
        let at = self.checked(at, bytes.len())?;
        let (words, tail) = bytes.split_at(self.in_words(at, bytes.len()));
        let durable = memory(&self.durable);
        for memory in [&self.live, &durable] {
            memory.write(at, words);
        }
        self.durable = Arc::new(load(durable.mapping.words()));
        let from = at.saturating_sub(self.live.size());
        self.tail[from..][..tail.len()].copy_from_slice(tail);
        Some(())
    }

    fn checked(&self, at: u64, len: usize) -> Option<usize> {
        let at = usize::try_from(at).ok()?;
        (at.checked_add(len)? <= self.len()).then_some(at)
    }

    /// How many of `len` bytes from `at` on lie before the tail.
    fn in_words(&self, at: usize, len: usize) -> usize {
        self.live.size().saturating_sub(at).min(len)
    }

    fn truncate(&mut self, len: usize) {
        let cut = |mut bytes: Vec<u8>| {
            bytes.resize(len, 0);
            Content::durable(&bytes)
        };
        let mut durable: Vec<u8> = self.durable.iter().flat_map(|word| word.to_ne_bytes()).collect();
        durable.extend(&self.tail);
        *self = Content {
            durable: cut(durable).durable,
            synced: self.synced,
            dropped: std::mem::take(&mut self.dropped),
            ..cut(self.bytes())
        };
    }

    /// Leaves any number of its blocks.
    fn shorten(&mut self, rng: &mut Rng) {
        let blocks = self.len().div_ceil(4096) as u64;
        let left = 4096 * rng.below(blocks + 1) as usize;
        if left < self.len() {
            self.truncate(left);
        }
    }

    fn sync(&mut self) {
        self.synced = true;
        let live = self.live.mapping.words().chunks(SECTOR);
        let durable = Arc::make_mut(&mut self.durable).chunks_mut(SECTOR);
        if self.dropped.is_empty() {
            live.zip(durable).for_each(|(live, durable)| keep(live, durable));
            return;
        }
        for (sector, (live, durable)) in live.zip(durable).enumerate() {
            if !is_dropped(&self.dropped, sector, &load(live)) {
                self.dropped.remove(&sector);
                keep(live, durable);
            }
        }
    }

    fn fail_sync(&mut self, rng: &mut Rng) {
        let odds = Odds::draw(rng);
        let live = self.live.mapping.words().chunks(SECTOR);
        let durable = Arc::make_mut(&mut self.durable).chunks_mut(SECTOR);
        for (sector, (live, durable)) in live.zip(durable).enumerate() {
            let live = load(live);
            if live == durable || is_dropped(&self.dropped, sector, &live) {
                continue;
            }
            // Dirty again: the older loss is history.
            self.dropped.remove(&sector);
            if !odds.keeps(rng) {
                self.dropped.insert(sector, live);
            } else if rng.coin() {
                durable.copy_from_slice(&live);
            }
        }
    }

    /// The file after a power cut, written and durable alike; `synced` as before.
    fn after_cut(&self, style: Cut, odds: Odds, rng: &mut Rng) -> Content {
        let mut durable = Arc::clone(&self.durable);
        if style != Cut::LoseAll {
            let live = load(self.words());
            if live != *durable {
                self.keep_some(
                    style,
                    odds,
                    rng,
                    &live,
                    Arc::make_mut(&mut durable).as_mut_slice(),
                );
            }
        }
        Content {
            live: memory(&durable),
            durable,
            tail: self.tail.clone(),
            synced: self.synced,
            dropped: BTreeMap::new(),
        }
    }

    fn keep_some(&self, style: Cut, odds: Odds, rng: &mut Rng, live: &[u64], durable: &mut [u64]) {
        let sectors = live.chunks(SECTOR).zip(durable.chunks_mut(SECTOR));
        for (sector, (live, durable)) in sectors.enumerate() {
            if live == durable || is_dropped(&self.dropped, sector, live) {
                continue;
            }
            let new = match style {
                Cut::Random => odds.new_words(rng),
                Cut::LoseAll => 0,
                Cut::KeepAll => u64::MAX,
            };
            for (i, (live, durable)) in live.iter().zip(durable).enumerate() {
                if new >> i & 1 == 1 {
                    *durable = *live;
                }
            }
        }
    }
}

/// Is this sector still what a failed sync has dropped?
fn is_dropped(dropped: &BTreeMap<usize, Vec<u64>>, sector: usize, live: &[u64]) -> bool {
    dropped.get(&sector).is_some_and(|then| then == live)
}

fn load(words: &[Word]) -> Vec<u64> {
    words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
}

fn keep(live: &[Word], durable: &mut [u64]) {
    for (live, durable) in live.iter().zip(durable) {
        *durable = live.load(Ordering::Relaxed);
    }
}

fn memory(words: &Vec<u64>) -> Memory {
    let memory = Memory::on_heap(words.len() * WORD);
    for (to, from) in memory.mapping.words().iter().zip(words) {
        // Relaxed: nobody else has the memory yet.
        to.store(*from, Ordering::Relaxed);
    }
    memory
}

/// What one cut or one failed sync is like, in 256ths.
#[derive(Clone, Copy)]
struct Odds {
    kept: u64,
    torn: u64,
}

impl Odds {
    fn draw(rng: &mut Rng) -> Self {
        let kept = match rng.below(5) {
            0 => 0,
            1 => 8,
            2 => 248,
            3 => rng.below(256),
            _ => 128,
        };
        let torn = match rng.below(3) {
            0 => 0,
            1 => 16,
            _ => 64,
        };
        Odds { kept, torn }
    }

    fn keeps(self, rng: &mut Rng) -> bool {
        rng.below(256) < self.kept
    }

    /// Which words of a sector are new, a bit each.
    fn new_words(self, rng: &mut Rng) -> u64 {
        if rng.below(256) >= self.torn {
            return if self.keeps(rng) { u64::MAX } else { 0 };
        }
        let prefix = (1 << (1 + rng.below(63))) - 1;
        match rng.below(3) {
            0 => prefix,
            1 => !prefix,
            _ => rng.next(),
        }
    }
}

/// SplitMix64: small, seeded, the same everywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`, which is not zero; not quite even, which is good enough here.
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 1
    }

    /// Numbers of their own for somebody else.
    fn fork(&mut self) -> Rng {
        Rng(self.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: std::ops::Range<u64> = 0..300;

    fn path(name: &str) -> PathBuf {
        Path::new("/d").join(name)
    }

    fn new_disk(seed: u64) -> SimDisk {
        let disk = SimDisk::new(seed);
        disk.create_dir(Path::new("/d")).unwrap();
        disk
    }

    fn sync_names(disk: &SimDisk) {
        disk.sync_dir(Path::new("/d")).unwrap();
    }

    /// A file of sectors, each filled with the byte, written but not synced.
    fn new_file(disk: &SimDisk, name: &str, sectors: usize, byte: u8) -> (Box<dyn DiskFile>, Memory) {
        let file = disk.create(&path(name), 512 * sectors as u64).unwrap();
        let memory = file.map().unwrap();
        memory.write(0, &vec![byte; 512 * sectors]);
        (file, memory)
    }

    fn byte_of(disk: &SimDisk, name: &str) -> Option<u8> {
        disk.bytes(&path(name)).map(|bytes| bytes[0])
    }

    fn kind<T>(result: io::Result<T>) -> ErrorKind {
        result.err().unwrap().kind()
    }

    #[test]
    fn unsynced_sectors_are_kept_lost_or_torn_and_synced_ones_stay() {
        let (mut kept, mut lost, mut prefixes, mut suffixes, mut mixed) = (0, 0, 0, 0, 0);
        for seed in SEEDS {
            let disk = new_disk(seed);
            let (file, memory) = new_file(&disk, "f", 16, 1);
            sync_names(&disk);
            file.sync().unwrap();
            memory.write(8 * 512, &[2; 8 * 512]);
            let bytes = disk.cut(Cut::Random).bytes(&path("f")).unwrap();
            assert!(bytes[..8 * 512].iter().all(|b| *b == 1));
            for sector in bytes[8 * 512..].as_chunks::<512>().0 {
                for word in sector.as_chunks::<WORD>().0 {
                    assert!(*word == [1; WORD] || *word == [2; WORD]);
                }
                let turns = sector.windows(2).filter(|pair| pair[0] != pair[1]).count();
                match (sector[0], turns) {
                    (2, 0) => kept += 1,
                    (_, 0) => lost += 1,
                    (2, 1) => prefixes += 1,
                    (_, 1) => suffixes += 1,
                    _ => mixed += 1,
                }
            }
        }
        assert!(kept > 500 && lost > 500, "{kept} {lost}");
        assert!(
            prefixes > 50 && suffixes > 50 && mixed > 50,
            "{prefixes} {suffixes} {mixed}"
        );
    }

    #[test]
    fn lose_all_leaves_what_is_durable_and_keep_all_what_is_written() {
        let disk = new_disk(1);
        let (file, memory) = new_file(&disk, "f", 4, 1);
        sync_names(&disk);
        file.sync().unwrap();
        memory.write(512, &[2; 512]);
        new_file(&disk, "g", 1, 3);
        let least = disk.cut(Cut::LoseAll);
        assert_eq!(least.paths(), [path("f")]);
        assert_eq!(least.bytes(&path("f")).unwrap(), [1; 4 * 512]);
        let most = disk.cut(Cut::KeepAll);
        assert_eq!(most.paths(), [path("f"), path("g")]);
        assert_eq!(most.bytes(&path("f")).unwrap()[512..1024], [2; 512]);
        // What a cut has left stays.
        assert_eq!(most.cut(Cut::LoseAll).bytes(&path("g")).unwrap(), [3; 512]);
    }

    #[test]
    fn a_file_never_synced_comes_back_as_a_mix_of_zeros_and_data() {
        let mut mixes = 0;
        for seed in SEEDS {
            let disk = new_disk(seed);
            new_file(&disk, "f", 8, 1);
            sync_names(&disk);
            let bytes = disk.cut(Cut::Random).bytes(&path("f")).unwrap();
            assert_eq!(bytes.len(), 8 * 512);
            mixes += u32::from(bytes.contains(&0) && bytes.contains(&1));
        }
        assert!(mixes > 100, "{mixes}");
    }

    #[test]
    fn short_files_are_only_those_never_synced() {
        let mut lengths = BTreeSet::new();
        for seed in SEEDS {
            let disk = new_disk(seed);
            disk.short_files(true);
            new_file(&disk, "f", 20, 1);
            new_file(&disk, "g", 20, 1).0.sync().unwrap();
            sync_names(&disk);
            let after = disk.cut(Cut::Random);
            lengths.insert(after.bytes(&path("f")).unwrap().len());
            assert_eq!(after.bytes(&path("g")).unwrap().len(), 20 * 512);
        }
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [0, 4096, 8192, 10240]);
    }

    #[test]
    fn names_are_lost_or_kept_until_their_directory_is_synced() {
        let mut seen = BTreeSet::new();
        for seed in SEEDS {
            let disk = new_disk(seed);
            for name in ["a", "gone"] {
                new_file(&disk, name, 1, 1).0.sync().unwrap();
            }
            sync_names(&disk);
            new_file(&disk, "b", 1, 1).0.sync().unwrap();
            disk.remove(&path("gone")).unwrap();
            let after = disk.cut(Cut::Random);
            assert_eq!(byte_of(&after, "a"), Some(1));
            seen.insert((byte_of(&after, "b"), byte_of(&after, "gone")));
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[test]
    fn syncing_a_directory_leaves_the_names_of_others_open() {
        let disk = new_disk(1);
        disk.create_dir(Path::new("/d/e")).unwrap();
        disk.create(Path::new("/d/e/f"), 8).unwrap();
        sync_names(&disk);
        assert_eq!(disk.list(Path::new("/d")).unwrap(), ["e"]);
        assert_eq!(disk.list(Path::new("/d/e")).unwrap(), ["f"]);
        assert!(disk.cut(Cut::LoseAll).list(Path::new("/d/e")).unwrap().is_empty());
    }

    #[test]
    fn a_rename_happens_as_a_whole_or_not_at_all() {
        let mut seen = BTreeSet::new();
        for seed in SEEDS {
            let disk = new_disk(seed);
            new_file(&disk, "name", 1, 1).0.sync().unwrap();
            new_file(&disk, "new", 1, 2).0.sync().unwrap();
            sync_names(&disk);
            disk.rename(&path("new"), &path("name")).unwrap();
            assert_eq!((byte_of(&disk, "name"), byte_of(&disk, "new")), (Some(2), None));
            let after = disk.cut(Cut::Random);
            seen.insert((byte_of(&after, "name"), byte_of(&after, "new")));
        }
        let expected = BTreeSet::from([(Some(1), Some(2)), (Some(2), None)]);
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_file_has_one_name_at_most_after_any_subset_of_renames() {
        let mut seen = BTreeSet::new();
        for seed in SEEDS {
            let disk = new_disk(seed);
            new_file(&disk, "a", 1, 1).0.sync().unwrap();
            disk.rename(&path("a"), &path("b")).unwrap();
            disk.rename(&path("b"), &path("c")).unwrap();
            seen.insert(disk.cut(Cut::Random).paths());
        }
        let expected = [vec![], vec![path("a")], vec![path("b")], vec![path("c")]];
        assert_eq!(seen, BTreeSet::from(expected));
    }

    #[test]
    fn a_kill_keeps_all_that_is_written_and_makes_nothing_durable() {
        let disk = new_disk(1);
        let (_, memory) = new_file(&disk, "f", 2, 1);
        let lock = disk.lock(&path("LOCK")).unwrap();
        assert!(lock.is_some() && disk.lock(&path("LOCK")).unwrap().is_none());
        let after = disk.kill();
        memory.write(0, &[9; 512]);
        assert_eq!(after.bytes(&path("f")).unwrap(), [1; 1024]);
        assert!(after.lock(&path("LOCK")).unwrap().is_some());
        assert!(after.cut(Cut::LoseAll).paths().is_empty());
    }

    #[test]
    fn a_dead_disk_answers_nothing_but_errors() {
        for end in [
            |disk: &SimDisk| disk.kill(),
            |disk: &SimDisk| disk.cut(Cut::KeepAll),
        ] {
            let disk = new_disk(1);
            let (file, _) = new_file(&disk, "f", 1, 1);
            assert!(!disk.is_dead());
            let after = end(&disk);
            assert!(disk.is_dead() && !after.is_dead());
            let f = &path("f");
            let errors = [
                kind(disk.create_dir(&path("e"))),
                kind(disk.lock(f)),
                kind(disk.list(Path::new("/d"))),
                kind(disk.create(&path("g"), 8)),
                kind(disk.open(f)),
                kind(disk.open_to_read(f)),
                kind(disk.rename(f, &path("g"))),
                kind(disk.remove(f)),
                kind(disk.sync_dir(Path::new("/d"))),
                kind(file.size()),
                kind(file.read_at(0, &mut [0])),
                kind(file.map()),
                kind(file.sync()),
            ];
            assert_eq!(errors, [ErrorKind::Other; 13]);
            assert!(after.open(f).is_ok());
        }
    }

    #[test]
    fn a_copy_shares_nothing_with_a_disk_that_goes_on() {
        let disk = new_disk(1);
        let (file, memory) = new_file(&disk, "f", 1, 1);
        let copy = disk.copy();
        memory.write(0, &[2; 512]);
        file.sync().unwrap();
        disk.create(&path("g"), 8).unwrap();
        assert_eq!(copy.paths(), [path("f")]);
        assert_eq!(byte_of(&copy, "f"), Some(1));
        assert_eq!(byte_of(&copy.cut(Cut::KeepAll), "f"), Some(1));
    }

    #[test]
    fn the_power_goes_inside_the_nth_change() {
        let disk = new_disk(1);
        disk.cut_after(3);
        let (file, _) = new_file(&disk, "f", 1, 1);
        sync_names(&disk);
        disk.list(Path::new("/d")).unwrap();
        let error = file.sync().unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Other, POWER_IS_CUT)
        );
        assert!(disk.is_dead());
        assert_eq!(disk.changes(), 3);
        assert_eq!(kind(disk.open(&path("f"))), ErrorKind::Other);
        assert_eq!(byte_of(&disk.cut(Cut::LoseAll), "f"), Some(0));
        assert_eq!(byte_of(&disk.cut(Cut::KeepAll), "f"), Some(1));
    }

    /// One call of each kind; which of them failed?
    fn failing(disk: &SimDisk) -> Vec<usize> {
        let memory = Memory::on_heap(8);
        let file = disk.open(&path("f"));
        let on_file = |call: &dyn Fn(&dyn DiskFile) -> bool| file.as_deref().is_ok_and(call);
        let works = [
            file.is_ok(),
            disk.create_dir(Path::new("/e")).is_ok(),
            disk.lock(&path("LOCK")).is_ok(),
            disk.list(Path::new("/d")).is_ok(),
            disk.create(&path("g"), 8).is_ok(),
            disk.open_to_read(&path("f")).is_ok(),
            on_file(&|file| file.size().is_ok()),
            on_file(&|file| file.read_at(0, &mut [0]).is_ok()),
            on_file(&|file| file.map().unwrap_or(memory.clone()).size() == 512),
            on_file(&|file| file.sync().is_ok()),
            disk.sync_dir(Path::new("/d")).is_ok(),
            disk.rename(&path("h"), &path("i")).is_ok(),
            disk.remove(&path("j")).is_ok(),
        ];
        (1..)
            .zip(works)
            .filter(|(_, works)| !works)
            .map(|(n, _)| n)
            .collect()
    }

    #[test]
    fn every_kind_of_call_is_counted_and_can_be_made_to_fail() {
        for n in 2..=14 {
            for then in [Then::Once, Then::FromThenOn] {
                let disk = new_disk(n);
                for name in ["f", "h", "j"] {
                    new_file(&disk, name, 1, 1);
                }
                let before = disk.calls();
                disk.fail_nth(n, Fault::Eio, then);
                let last = if then == Then::Once { n } else { 13 };
                let expected: Vec<usize> = (n as usize..=last.min(13) as usize).collect();
                assert_eq!(failing(&disk), expected);
                assert_eq!(disk.calls() - before, 13);
            }
        }
    }

    #[test]
    fn each_fault_has_its_error_and_its_traces() {
        let disk = new_disk(1);
        let create = |fault| {
            disk.fail_nth(1, fault, Then::Once);
            kind(disk.create(&path("f"), 1024))
        };
        assert_eq!(create(Fault::Eio), ErrorKind::Other);
        assert_eq!(create(Fault::Enospc), ErrorKind::StorageFull);
        assert!(disk.paths().is_empty());
        assert_eq!(create(Fault::ShortWrite), ErrorKind::WriteZero);
        assert_eq!(disk.bytes(&path("f")).unwrap().len(), 512);
        disk.fail_nth(1, Fault::Eio, Then::FromThenOn);
        assert!(disk.open(&path("f")).is_err() && disk.open(&path("f")).is_err());
        disk.heal();
        assert!(disk.open(&path("f")).is_ok());
    }

    #[test]
    fn a_removal_that_fails_may_have_happened() {
        let happened = SEEDS.filter(|seed| {
            let disk = new_disk(*seed);
            new_file(&disk, "f", 1, 1);
            disk.fail_nth(1, Fault::Eio, Then::Once);
            assert!(disk.remove(&path("f")).is_err());
            disk.paths().is_empty()
        });
        assert!((50..250).contains(&happened.count()));
    }

    #[test]
    fn what_a_failed_sync_dropped_no_later_sync_makes_durable() {
        let (mut dropped, mut whole) = (0, 0);
        for seed in SEEDS {
            let disk = new_disk(seed);
            let (file, memory) = new_file(&disk, "f", 8, 1);
            sync_names(&disk);
            disk.fail_nth(1, Fault::Eio, Then::Once);
            assert!(file.sync().is_err());
            file.sync().unwrap();
            // The drop outlives the process, whose successor sees the bytes as well.
            let next = disk.copy();
            assert_eq!(next.bytes(&path("f")).unwrap(), [1; 8 * 512]);
            next.open(&path("f")).unwrap().sync().unwrap();
            let after = next.cut(Cut::KeepAll).bytes(&path("f")).unwrap();
            let lost = after.iter().filter(|b| **b == 0).count() / 512;
            dropped += lost;
            whole += u32::from(lost == 0);

            // Other bytes make the sector dirty again.
            memory.write(0, &[2; 8 * 512]);
            file.sync().unwrap();
            assert_eq!(disk.cut(Cut::LoseAll).bytes(&path("f")).unwrap(), [2; 8 * 512]);
        }
        assert!(dropped > 800 && whole > 10, "{dropped} {whole}");
    }

    #[test]
    fn a_full_disk_refuses_a_file_until_another_is_removed() {
        let disk = new_disk(1);
        disk.set_capacity(1024);
        disk.create(&path("f"), 1000).unwrap();
        assert_eq!(kind(disk.create(&path("g"), 25)), ErrorKind::StorageFull);
        disk.create(&path("g"), 24).unwrap();
        disk.remove(&path("f")).unwrap();
        disk.create(&path("h"), 1000).unwrap();
        assert_eq!(
            kind(new_disk(1).create(&path("f"), u64::MAX)),
            ErrorKind::StorageFull
        );
    }

    #[test]
    fn ignored_syncs_lie() {
        let disk = new_disk(1);
        disk.ignore_syncs(true);
        new_file(&disk, "f", 1, 1).0.sync().unwrap();
        sync_names(&disk);
        assert!(disk.cut(Cut::LoseAll).paths().is_empty());
    }

    #[test]
    fn seed_and_calls_determine_everything() {
        let run = |seed| {
            let disk = new_disk(seed);
            for name in ["a", "b", "c", "d"] {
                new_file(&disk, name, 8, 1);
            }
            disk.fail_nth(2, Fault::Eio, Then::Once);
            assert!(disk.open(&path("a")).unwrap().sync().is_err());
            let after = disk.kill().cut(Cut::Random);
            let bytes = |path: &PathBuf| after.bytes(path).unwrap();
            after
                .paths()
                .iter()
                .map(|path| (path.clone(), bytes(path)))
                .collect::<Vec<_>>()
        };
        let outcomes: BTreeSet<_> = SEEDS
            .map(|seed| {
                assert_eq!(run(seed), run(seed));
                run(seed)
            })
            .collect();
        assert!(outcomes.len() > 100, "{}", outcomes.len());
    }

    #[test]
    fn damage_is_written_and_durable() {
        let disk = new_disk(1);
        disk.put(&path("f"), (0..21).collect());
        disk.put(&path("g"), vec![7]);
        disk.overwrite(&path("f"), 7, &[0xff; 13]).unwrap();
        assert_eq!(
            kind(disk.overwrite(&path("f"), 20, &[0; 2])),
            ErrorKind::InvalidInput
        );
        assert_eq!(kind(disk.overwrite(&path("h"), 0, &[])), ErrorKind::NotFound);
        let mut expected: Vec<u8> = (0..21).collect();
        expected[7..20].fill(0xff);
        let disk = disk.cut(Cut::LoseAll);
        assert_eq!(disk.bytes(&path("f")).unwrap(), expected);
        for len in [19, 10, 3, 12] {
            disk.truncate(&path("f"), len).unwrap();
            expected.resize(len as usize, 0);
            assert_eq!(disk.bytes(&path("f")).unwrap(), expected);
            assert_eq!(disk.copy().cut(Cut::LoseAll).bytes(&path("f")).unwrap(), expected);
        }
        disk.remove_file(&path("f")).unwrap();
        assert_eq!(disk.cut(Cut::LoseAll).paths(), [path("g")]);
    }

    #[test]
    fn a_file_is_read_at_any_place_and_mapped_to_its_last_whole_word() {
        let disk = new_disk(1);
        let bytes: Vec<u8> = (0..21).collect();
        disk.put(&path("f"), bytes.clone());
        let file = disk.open(&path("f")).unwrap();
        assert_eq!((file.size().unwrap(), file.map().unwrap().size()), (21, 16));
        for at in 0..=21 {
            for len in 0..=21 - at {
                let mut part = vec![0; len];
                file.read_at(at as u64, &mut part).unwrap();
                assert_eq!(part, bytes[at..at + len]);
            }
        }
        assert_eq!(kind(file.read_at(20, &mut [0; 2])), ErrorKind::UnexpectedEof);
        assert_eq!(
            kind(file.read_at(u64::MAX, &mut [0; 2])),
            ErrorKind::UnexpectedEof
        );
        assert_eq!(
            kind(disk.open_to_read(&path("f")).unwrap().map()),
            ErrorKind::Unsupported
        );
    }

    #[test]
    fn names_obey_the_rules_of_a_file_system() {
        let disk = new_disk(1);
        let (file, memory) = new_file(&disk, "f", 1, 1);
        assert_eq!(kind(disk.create(&path("f"), 8)), ErrorKind::AlreadyExists);
        assert_eq!(kind(disk.create(Path::new("/e/f"), 8)), ErrorKind::NotFound);
        assert_eq!(kind(disk.lock(Path::new("/e/LOCK"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.list(Path::new("/e"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.sync_dir(Path::new("/e"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.open(&path("g"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.rename(&path("g"), &path("h"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.remove(&path("g"))), ErrorKind::NotFound);
        assert_eq!(kind(disk.create_dir(&path("f/e"))), ErrorKind::NotADirectory);
        disk.rename(&path("f"), &path("f")).unwrap();
        disk.remove(&path("f")).unwrap();
        // Who has it open keeps it.
        memory.write(0, b"still");
        let mut bytes = [0; 5];
        file.read_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"still");
    }
}
