//! Bugs that were found in stores with a log, each as the shortest story that shows it.

use crate::support::{LEASE, TTL, acquire, key};
use onceonly::sim::disk::{Cut, Fault, SimDisk, Then};
use onceonly::*;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime};

const DIR: &str = "/store";

fn builder(disk: impl Disk, clock: &ManualClock) -> Builder {
    let builder = Store::builder().clock(clock.clone()).disk(disk);
    let builder = builder.helper_thread(false).ttl(TTL).lease(LEASE);
    builder.shards(2).max_bytes(16 << 20).segment_bytes(4_096)
}

fn segment_bytes(disk: &SimDisk) -> u64 {
    let paths = disk.paths().into_iter();
    let segments = paths.filter(|p| p.extension().is_some_and(|e| e == "seg"));
    segments
        .map(|p| disk.bytes(&p).map_or(0, |b| b.len() as u64))
        .sum()
}

/// Completes new keys until the store is full; how many there are.
fn fill(store: &Store) -> usize {
    for i in 0.. {
        match store.claim(Key::unscoped(&format!("k{i}")), Fingerprint::NONE) {
            Ok(Claim::Acquired(guard)) => guard.complete(b"").unwrap(),
            Err(Error::AtCapacity { .. }) => return i,
            other => panic!("{other:?}"),
        }
    }
    unreachable!("it is full at some time")
}

/// A segment made for one long outcome took records behind it, at words no address can name.
#[test]
fn nothing_is_written_behind_an_outcome_beyond_what_addresses_name() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let open = |disk: &SimDisk| {
        let builder = builder(disk.clone(), &clock).max_outcome(16 << 20);
        builder.max_bytes(256 << 20).open(DIR).unwrap()
    };
    let store = open(&disk);
    let long = vec![7; (4 << 20) + 100];
    acquire(&store, Key::unscoped("long")).complete(&long).unwrap();
    for i in 0..50 {
        let id = format!("after-{i}");
        acquire(&store, Key::unscoped(&id)).complete(b"short").unwrap();
    }
    for store in [store, open(&disk.kill())] {
        for i in 0..50 {
            let id = format!("after-{i}");
            let again = store.claim(Key::unscoped(&id), Fingerprint::NONE).unwrap();
            assert!(matches!(again, Claim::Completed(o) if &*o == b"short"), "{id}");
        }
        let again = store.claim(Key::unscoped("long"), Fingerprint::NONE).unwrap();
        assert!(matches!(again, Claim::Completed(o) if *o == *long));
    }
}

/// Each failed checkpoint kept the bytes it had taken, and a shorter one gave some back twice.
#[test]
fn a_failed_checkpoint_changes_no_count() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = builder(disk.clone(), &clock).open(DIR).unwrap();
    let guard = acquire(&store, key());
    guard.checkpoint(&[1; 100]).unwrap();
    let before = store.stats().bytes_reserved;
    disk.fail_nth(1, Fault::Eio, Then::Once);
    for len in [1, 1, 1, 5_000, 5_000] {
        guard.checkpoint(&vec![2; len]).unwrap_err();
        assert_eq!(store.stats().bytes_reserved, before);
    }
}

/// Heartbeats used up the room promised to those who were to complete.
#[test]
fn renewals_leave_the_room_that_completions_were_promised() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = builder(disk, &clock).max_disk_bytes(64 << 10).open(DIR).unwrap();
    let mut guards = Vec::new();
    for i in 0.. {
        match store.claim(Key::unscoped(&format!("k{i}")), Fingerprint::NONE) {
            Ok(Claim::Acquired(guard)) => guards.push(guard),
            Err(Error::AtCapacity { .. }) => break,
            other => panic!("{other:?}"),
        }
    }
    for _ in 0..1_000 {
        guards[0].renew(LEASE).unwrap();
    }
    for (i, guard) in guards.iter().enumerate() {
        let done = guard.complete(b"");
        assert!(done.is_ok(), "{i} of {}: {done:?}", guards.len());
    }
}

/// A log that was full, and in which much was forgotten, never got a segment free again.
#[test]
fn a_full_log_is_usable_again_when_everything_has_expired() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = builder(disk, &clock).max_disk_bytes(64 << 10).open(DIR).unwrap();
    let known = fill(&store);
    let forgotten = (0..known).filter(|i| store.forget(Key::unscoped(&format!("k{i}"))).is_ok());
    let forgotten = forgotten.count();
    clock.advance(3 * TTL);
    for _ in 0..100 {
        store.maintain(Duration::from_millis(10)).unwrap();
        clock.advance(Duration::from_millis(10));
    }
    let claim = store.claim(Key::unscoped("new"), Fingerprint::NONE);
    let stats = store.stats();
    assert!(
        matches!(claim, Ok(Claim::Acquired(_))),
        "{forgotten} of {known} forgotten; {claim:?} {stats}"
    );
}

/// At its limit a store worked on, but could not be opened again.
#[test]
fn a_store_at_its_limits_can_be_opened() {
    for wait in [Duration::ZERO, 3 * TTL] {
        for limit in [64 << 10, 32 << 10] {
            let clock = ManualClock::new();
            let disk = SimDisk::new(1);
            let open = |disk: SimDisk, bytes| builder(disk, &clock).max_disk_bytes(bytes).open(DIR);
            let store = open(disk.clone(), 64 << 10).unwrap();
            fill(&store);
            clock.advance(wait);
            let again = open(disk.kill(), limit);
            assert!(again.is_ok(), "limit {limit}, after {wait:?}: {again:?}");
        }
    }
}

/// A clean close noted no time: after more than `max_clock_jump` in one segment the clock was not
/// believed, time ran back, and what had expired was there again.
#[test]
fn time_does_not_run_back_over_a_clean_close() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = builder(disk.clone(), &clock).open(DIR).unwrap();
    clock.advance(Duration::from_secs(30 * 3_600));
    acquire(&store, key()).complete(b"old").unwrap();
    clock.advance(TTL + Duration::from_secs(1));
    let miss = store.replay(key(), Fingerprint::NONE, |_| ()).unwrap();
    assert_eq!(miss, Replay::Miss);
    store.close().unwrap();
    let store = builder(disk, &clock).open(DIR).unwrap();
    let miss = store.replay(key(), Fingerprint::NONE, |_| ()).unwrap();
    assert_eq!((miss, store.recovery().clock_disbelieved), (Replay::Miss, None));
}

/// A clock that jumped ahead stays disbelieved when it steps back by a little: else time leaps.
#[test]
fn a_small_step_back_does_not_make_time_leap() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let ttl = Duration::from_secs(12 * 3_600);
    let open = |disk: &SimDisk| builder(disk.clone(), &clock).ttl(ttl).open(DIR).unwrap();
    open(&disk).close().unwrap();
    clock.set_wall(clock.wall() + Duration::from_secs(10 * 86_400));
    let store = open(&disk);
    assert!(store.recovery().clock_disbelieved.is_some());
    acquire(&store, key()).complete(b"paid").unwrap();
    let disk = disk.kill();
    clock.set_wall(clock.wall() - Duration::from_millis(5));
    let store = open(&disk);
    let again = store.claim(key(), Fingerprint::NONE).unwrap();
    assert!(matches!(again, Claim::Completed(_)), "charged twice: {again:?}");
}

/// Awaits on this thread; `None` if its waker is not woken in time.
fn await_for<F: Future>(future: F, most: Duration) -> Option<F::Output> {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let until = Instant::now() + most;
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        let left = until.checked_duration_since(Instant::now())?;
        std::thread::park_timeout(left);
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The helper ends with the last handle, but guards live on.
#[test]
fn what_is_submitted_when_the_helper_has_ended_gets_its_answer() {
    let builder = Store::builder().disk(SimDisk::new(1)).segment_bytes(4_096);
    let store = builder.max_bytes(16 << 20).open(DIR).unwrap();
    let guard = acquire(&store, key()).into_owned();
    drop(store);
    let pending = guard.submit(b"x", CompleteOptions::new());
    let done = await_for(pending, Duration::from_secs(2));
    assert!(matches!(done, Some(Ok(()))), "{done:?}");
}

/// Counts how often it is read.
#[derive(Clone)]
struct Counting(Instant, Arc<AtomicU64>);

impl Clock for Counting {
    fn monotonic(&self) -> Duration {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.elapsed()
    }
    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// An interval that ended when everything was durable already was never over.
#[test]
fn the_helper_rests_when_an_interval_has_nothing_to_sync() {
    let clock = Counting(Instant::now(), Arc::default());
    let builder = Store::builder().clock(clock.clone()).disk(SimDisk::new(1));
    let store = builder
        .segment_bytes(4_096)
        .max_bytes(16 << 20)
        .open(DIR)
        .unwrap();
    let (a, b) = (
        acquire(&store, Key::unscoped("a")),
        acquire(&store, Key::unscoped("b")),
    );
    let interval = CompleteOptions::new().durability(Durability::Interval(Duration::from_millis(5)));
    let mut done = Vec::new();
    let both = [(&a, b"x", CompleteOptions::new()), (&b, b"x", interval)];
    store.complete_many(both, &mut done).unwrap();
    assert!(done.iter().all(Result::is_ok));
    // Rest is what the helper's own thread does not do for a while, so a while has to pass. A busy
    // one reads the clock a million times in it.
    std::thread::sleep(Duration::from_millis(100));
    let before = clock.1.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(300));
    let reads = clock.1.load(Ordering::Relaxed) - before;
    assert!(reads < 1_000, "{reads} in 300 ms");
}

/// A clock that closes a store at its n-th reading.
#[derive(Clone)]
struct Closing(ManualClock, Arc<Mutex<Option<(u32, Store)>>>);

impl Clock for Closing {
    fn monotonic(&self) -> Duration {
        let due = {
            let mut plan = self.1.lock().unwrap();
            if let Some((left, _)) = &mut *plan {
                *left -= 1;
            }
            plan.take_if(|(left, _)| *left == 0)
        };
        if let Some((_, store)) = due {
            store.close().unwrap();
        }
        self.0.monotonic()
    }
    fn wall(&self) -> SystemTime {
        self.0.wall()
    }
}

/// Closed in the middle of a batch: what was begun is ended all the same, or those who wait for it
/// would wait for ever.
#[test]
fn a_batch_that_meets_a_close_ends_what_it_began() {
    let clock = Closing(ManualClock::new(), Arc::default());
    let builder = Store::builder().clock(clock.clone()).disk(SimDisk::new(1));
    let builder = builder.helper_thread(false).max_bytes(16 << 20);
    let store = builder.open(DIR).unwrap();
    let ids: Vec<_> = (0..64).map(|i| i.to_string()).collect();
    let items: Vec<_> = ids
        .iter()
        .map(|id| (Key::unscoped(id), Fingerprint::NONE))
        .collect();
    *clock.1.lock().unwrap() = Some((3, store.clone()));
    let mut out = Vec::new();
    let done = store.claim_many(&items, &mut out);
    assert!(done.is_ok(), "{done:?}");
    assert_eq!(out.len(), 64);
}

/// A disk that holds creations up while its gate is shut.
#[derive(Clone)]
struct Gated(SimDisk, Arc<(Mutex<(bool, u32)>, Condvar)>);

impl Gated {
    fn shut(&self, shut: bool) {
        self.1.0.lock().unwrap().0 = shut;
        self.1.1.notify_all();
    }
    fn held(&self) -> u32 {
        self.1.0.lock().unwrap().1
    }
}

impl Disk for Gated {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.0.lock(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn create(&self, path: &Path, len: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut gate = self.1.0.lock().unwrap();
        gate.1 += 1;
        while gate.0 {
            gate = self.1.1.wait(gate).unwrap();
        }
        gate.1 -= 1;
        drop(gate);
        self.0.create(path, len)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.open(path)
    }
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.open_to_read(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
}

/// A segment that went while a file was being made was counted for ever.
#[test]
fn bytes_on_disk_are_counted_while_a_file_is_being_made() {
    let clock = ManualClock::new();
    let disk = Gated(SimDisk::new(1), Arc::default());
    let store = builder(disk.clone(), &clock).open(DIR).unwrap();
    for i in 0..60 {
        acquire(&store, Key::unscoped(&i.to_string()))
            .complete(b"0123456789")
            .unwrap();
    }
    disk.shut(true);
    let until = Instant::now() + Duration::from_secs(5);
    let (mut held, mut went) = (false, false);
    std::thread::scope(|scope| {
        scope.spawn(|| store.maintain(Duration::from_secs(1)));
        while !held && Instant::now() < until {
            held = disk.held() > 0;
        }
        let before = segment_bytes(&disk.0);
        clock.advance(3 * TTL);
        scope.spawn(|| store.maintain(Duration::from_secs(1)));
        while !went && Instant::now() < until {
            went = segment_bytes(&disk.0) < before;
        }
        // What is wrong is done after the file has gone, by a thread that tells nobody: give it time.
        // With less the test would only miss more.
        std::thread::sleep(Duration::from_millis(50));
        disk.shut(false);
    });
    assert!(held && went, "the test met no such moment");
    assert_eq!(store.stats().bytes_disk, segment_bytes(&disk.0));
}

/// Intervals are kept by the helper; where there is none, by whoever records.
#[test]
fn an_interval_is_kept_without_a_helper() {
    let interval = Durability::Interval(Duration::from_millis(5));
    for with_helper in [true, false] {
        let disk = SimDisk::new(1);
        let builder = Store::builder().disk(disk.clone()).segment_bytes(4_096);
        let store = builder
            .max_bytes(16 << 20)
            .helper_thread(with_helper)
            .open(DIR)
            .unwrap();
        let guard = acquire(&store, key()).into_owned();
        if with_helper {
            drop(store);
        }
        let done = guard.complete_with(b"x", CompleteOptions::new().durability(interval));
        if !with_helper {
            assert!(
                matches!(
                    done,
                    Err(Error::InvalidInput {
                        what: "durability",
                        ..
                    })
                ),
                "{done:?}"
            );
            continue;
        }
        // Nobody is left to sync later.
        done.unwrap();
        let store = Store::builder().disk(disk.cut(Cut::LoseAll)).open(DIR).unwrap();
        let again = store.claim(key(), Fingerprint::NONE).unwrap();
        assert!(
            matches!(again, Claim::Completed(_)),
            "helper: {with_helper}, {again:?}"
        );
    }
}

/// A disk whose syncs of files can be held up, and fail afterwards.
#[derive(Clone)]
struct Failing(SimDisk, Arc<(Mutex<(bool, bool)>, Condvar)>);

struct FailingFile(Box<dyn DiskFile>, Failing);

impl DiskFile for FailingFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_at(at, into)
    }
    fn map(&self) -> io::Result<Memory> {
        self.0.map()
    }
    fn sync(&self) -> io::Result<()> {
        let (gate, changed) = &*self.1.1;
        let mut gate = gate.lock().unwrap();
        if gate.0 {
            gate.1 = true;
            changed.notify_all();
            while gate.0 {
                gate = changed.wait(gate).unwrap();
            }
            return Err(io::Error::other("the disk is gone"));
        }
        self.0.sync()
    }
}

impl Failing {
    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(FailingFile(file, self.clone()))
    }
}

impl Disk for Failing {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.0.lock(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn create(&self, path: &Path, len: u64) -> io::Result<Box<dyn DiskFile>> {
        self.0.create(path, len).map(|file| self.file(file))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.open(path).map(|file| self.file(file))
    }
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.open_to_read(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
}

/// The helper's own sync, of an idle store's time, failed: what was submitted meanwhile was told
/// nothing.
#[test]
fn what_is_submitted_is_answered_when_the_helpers_own_sync_fails() {
    let disk = Failing(SimDisk::new(1), Arc::default());
    let builder = Store::builder().disk(disk.clone()).segment_bytes(4_096);
    let store = builder.max_bytes(16 << 20).open(DIR).unwrap();
    let guard = acquire(&store, key());
    let (gate, changed) = &*disk.1;
    gate.lock().unwrap().0 = true;
    // The helper notes the time when it has seen the store idle twice.
    drop(changed.wait_while(gate.lock().unwrap(), |gate| !gate.1).unwrap());
    let pending = guard.submit(b"x", CompleteOptions::new());
    gate.lock().unwrap().0 = false;
    changed.notify_all();
    let done = await_for(pending, Duration::from_secs(4));
    assert!(matches!(done, Some(Err(_))), "{done:?}");
}
