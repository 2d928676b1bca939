//! Every call to the disk is made to fail in turn.
//!
//! A scripted run makes a store, fills and rolls segments, lets some expire, has leftovers
//! written again, closes and opens again. A first run writes down which calls it makes; then it
//! is run again for each of them, with that one failing, once or from then on, in each way there
//! is. Whatever happens: no panic, errors that say what happened, and after it a store that has
//! everything that was acknowledged.
//!
//! `ONCEONLY_FAULT_PAIRS` scales the runs with two faults, `ONCEONLY_SEED` runs one of them.

use crate::support::{LEASE, Rng, TTL, acquire, run_case, scaled};
use onceonly::sim::disk::{Cut, Fault, SimDisk, Then};
use onceonly::*;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const DIR: &str = "/store";
const LONG: Duration = Duration::from_secs(30 * 86_400);

fn builder(disk: impl Disk, clock: &ManualClock) -> Builder {
    Store::builder()
        .clock(clock.clone())
        .disk(disk)
        .helper_thread(false)
        .ttl(TTL)
        .lease(LEASE)
        .shards(1)
        .max_keys(1_000)
        .max_bytes(16 << 20)
        .max_clock_jump(LONG)
        .segment_bytes(4_096)
}

/// A disk that writes down which calls are made, with the name of the file.
#[derive(Clone)]
struct Recorder {
    disk: SimDisk,
    calls: Arc<Mutex<Vec<(&'static str, String)>>>,
}

struct RecordedFile {
    file: Box<dyn DiskFile>,
    name: String,
    recorder: Recorder,
}

impl Recorder {
    fn new(disk: &SimDisk) -> Recorder {
        Recorder {
            disk: disk.clone(),
            calls: Arc::default(),
        }
    }

    fn note(&self, call: &'static str, name: &str) {
        self.calls.lock().unwrap().push((call, name.into()));
    }

    fn note_path(&self, call: &'static str, path: &Path) -> &SimDisk {
        self.note(call, &path.file_name().unwrap_or_default().to_string_lossy());
        &self.disk
    }

    fn wrap(&self, path: &Path, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(RecordedFile {
            file,
            name: path.file_name().unwrap_or_default().to_string_lossy().into(),
            recorder: self.clone(),
        })
    }
}

impl Disk for Recorder {
    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        self.note_path("create_dir", dir).create_dir(dir)
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        self.note_path("lock", path).lock(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.note_path("list", dir).list(dir)
    }
    fn create(&self, path: &Path, len: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = self.note_path("create", path).create(path, len)?;
        Ok(self.wrap(path, file))
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.note_path("open", path).open(path)?;
        Ok(self.wrap(path, file))
    }
    fn open_to_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.note_path("open_to_read", path).open_to_read(path)?;
        Ok(self.wrap(path, file))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note_path("rename", from).rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.note_path("remove", path).remove(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.note_path("sync_dir", dir).sync_dir(dir)
    }
}

impl DiskFile for RecordedFile {
    fn size(&self) -> io::Result<u64> {
        self.recorder.note("size", &self.name);
        self.file.size()
    }
    fn read_at(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.recorder.note("read_at", &self.name);
        self.file.read_at(at, into)
    }
    fn map(&self) -> io::Result<Memory> {
        self.recorder.note("map", &self.name);
        self.file.map()
    }
    fn sync(&self) -> io::Result<()> {
        self.recorder.note("sync", &self.name);
        self.file.sync()
    }
}

/// What a key shows.
#[derive(Clone, Debug, PartialEq)]
enum Shown {
    Absent,
    Unfinished(Option<Vec<u8>>),
    Completed(Vec<u8>),
}

impl Shown {
    fn of(store: &Store, id: &str) -> Shown {
        let key = Key::new("acme", id);
        match store.status(key).unwrap() {
            Status::Absent => Shown::Absent,
            Status::Completed { .. } => {
                let read = |stored: Stored<'_>| stored.bytes().to_vec();
                Shown::Completed(store.peek(key, read).unwrap().unwrap())
            }
            _ => match store.claim(key, Fingerprint::NONE).unwrap() {
                Claim::Interrupted(left) => Shown::Unfinished(left.last_checkpoint().map(<[u8]>::to_vec)),
                other => panic!("{id}: {other:?}"),
            },
        }
    }
}

struct Book {
    id: String,
    /// What was intended, in order, and when it ends.
    states: Vec<(Shown, Duration)>,
    acknowledged: usize,
}

/// A run of the script.
struct Run<D> {
    disk: D,
    clock: ManualClock,
    now: Duration,
    books: Vec<Book>,
    /// A sync has failed: nothing may be recorded any more in this store.
    poisoned: bool,
    /// Reopened after that: what the failed sync dropped the simulated disk never writes.
    mended: bool,
    refused: u32,
    ended: bool,
}

impl<D: Disk + Clone> Run<D> {
    fn new(disk: D) -> Run<D> {
        Run {
            disk,
            clock: ManualClock::new(),
            now: Duration::ZERO,
            books: Vec::new(),
            poisoned: false,
            mended: false,
            refused: 0,
            ended: false,
        }
    }

    fn open(&mut self) -> Option<Store> {
        if self.ended {
            return None;
        }
        // A failed open changes nothing the next one would not find.
        for _ in 0..3 {
            match builder(self.disk.clone(), &self.clock).open(DIR) {
                Ok(store) => {
                    self.mended |= self.poisoned;
                    self.poisoned = false;
                    return Some(store);
                }
                Err(error) => {
                    check_io(&error);
                    self.mended |= matches!(error, Error::Io { op: "sync", .. });
                }
            }
        }
        self.ended = true;
        None
    }

    /// A call that records what a key is to be.
    fn call<T>(
        &mut self,
        book: usize,
        shown: Shown,
        ttl: Duration,
        call: impl FnOnce() -> Result<T>,
    ) -> Option<T> {
        let until = self.now + ttl;
        self.books[book].states.push((shown, until));
        match call() {
            Ok(value) => {
                assert!(!self.poisoned, "acknowledged after a failed sync");
                self.books[book].acknowledged = self.books[book].states.len() - 1;
                Some(value)
            }
            Err(error) => {
                self.failed(&error);
                if matches!(error, Error::AtCapacity { .. }) {
                    self.books[book].states.pop();
                }
                None
            }
        }
    }

    fn failed(&mut self, error: &Error) {
        match error {
            Error::AtCapacity { .. } if !self.poisoned => self.refused += 1,
            Error::Io { op: "sync", .. } if !self.poisoned => {
                check_io(error);
                self.poisoned = true;
            }
            // Housekeeping may have met the fault before.
            Error::Poisoned => self.poisoned = true,
            error => panic!("{error:?}, poisoned: {}", self.poisoned),
        }
    }

    fn book(&mut self, id: String) -> usize {
        self.books.push(Book {
            id,
            states: vec![(Shown::Absent, Duration::ZERO)],
            acknowledged: 0,
        });
        self.books.len() - 1
    }

    fn claim<'s>(&mut self, store: &'s Store, id: String) -> Option<(usize, ClaimGuard<'s>)> {
        let book = self.book(id.clone());
        let claim = || store.claim(Key::new("acme", &id), Fingerprint::NONE);
        match self.call(book, Shown::Unfinished(None), LEASE + TTL, claim)? {
            Claim::Acquired(guard) => Some((book, guard)),
            other => panic!("{id} is new: {other:?}"),
        }
    }

    fn complete(&mut self, (book, guard): (usize, ClaimGuard<'_>), len: usize, ttl: Duration) -> bool {
        let body = format!("{book} ").repeat(len).into_bytes();
        let shown = Shown::Completed(body.clone());
        let options = CompleteOptions::new().ttl(ttl);
        let done = self.call(book, shown, ttl, || guard.complete_with(&body, options));
        if done.is_none() && !self.poisoned {
            // There was no room for it; for something smaller there is.
            let shown = Shown::Completed(Vec::new());
            let done = self.call(book, shown, ttl, || guard.complete_with(b"", options));
            assert!(done.is_some() || self.poisoned, "a held claim cannot be finished");
        }
        done.is_some()
    }

    fn advance(&mut self, by: Duration) {
        self.clock.advance(by);
        self.now += by;
    }

    fn maintain(&mut self, store: &Store) {
        for _ in 0..20 {
            if !store.maintain(Duration::from_secs(1)).unwrap() {
                break;
            }
        }
    }

    /// What was visible is still replayed, whatever the disk does.
    fn replay(&self, store: &Store) {
        for book in &self.books {
            if let (Shown::Completed(body), until) = &book.states[book.acknowledged]
                && book.states.len() - 1 == book.acknowledged
                && self.now < *until
            {
                let is_right = store.peek(Key::new("acme", &book.id), |stored| stored.bytes() == body);
                assert_eq!(is_right.unwrap(), Some(true), "{}", book.id);
            }
        }
    }

    /// A life of the store.
    fn live(&mut self, life: u32) -> Option<()> {
        let store = self.open()?;
        self.replay(&store);
        // One in flight all the time, one with a ttl that keeps its segment from going.
        let kept = self.claim(&store, format!("{life}-kept"));
        for i in 0..9 {
            let Some(held) = self.claim(&store, format!("{life}-{i}")) else {
                continue;
            };
            let ttl = if i % 4 == 0 { LONG } else { TTL };
            match i {
                3 => {
                    let (book, guard) = held;
                    self.call(book, Shown::Absent, LONG, || guard.release());
                }
                5 => {
                    let (book, guard) = held;
                    let note = vec![7; 200];
                    let shown = Shown::Unfinished(Some(note.clone()));
                    self.call(book, shown, LEASE + TTL, || guard.checkpoint(&note));
                    self.complete((book, guard), 10, ttl);
                }
                6 => drop(held),
                7 => _ = self.complete(held, 2_000, ttl),
                _ => _ = self.complete(held, 200, ttl),
            }
            self.replay(&store);
        }
        if let Some((book, guard)) = kept {
            let note = vec![8; 20];
            let shown = Shown::Unfinished(Some(note.clone()));
            self.call(book, shown, LEASE + TTL, || guard.checkpoint(&note));
            drop(guard);
        }
        let forgotten = self.books.len() - 2;
        let id = self.books[forgotten].id.clone();
        if self.books[forgotten].acknowledged + 1 == self.books[forgotten].states.len() {
            self.call(forgotten, Shown::Absent, LONG, || {
                store.forget(Key::new("acme", &id))
            });
        }
        if let Err(error) = store.sync() {
            self.failed(&error);
        }
        self.maintain(&store);
        self.advance(TTL + LEASE + Duration::from_secs(10));
        self.maintain(&store);
        self.replay(&store);
        for i in 0..4 {
            if let Some(held) = self.claim(&store, format!("{life}-late-{i}")) {
                self.complete(held, 100, TTL);
            }
        }
        self.maintain(&store);
        self.replay(&store);
        match store.clone().close() {
            Ok(()) | Err(Error::Poisoned) => {}
            Err(error) => {
                check_io(&error);
                self.poisoned = true;
            }
        }
        Some(())
    }

    fn run(&mut self) {
        for life in 0..6 {
            if self.live(life).is_none() {
                break;
            }
        }
    }

    /// Everything acknowledged is there, and what else there is was intended.
    fn check(&self, disk: SimDisk) {
        let store = builder(disk.clone(), &self.clock).open(DIR).unwrap();
        for book in &self.books {
            let found = Shown::of(&store, &book.id);
            let allowed = &book.states[book.acknowledged..];
            let may_be = |(shown, until): &(Shown, Duration)| match *until <= self.now {
                true => found == Shown::Absent,
                false => *shown == found,
            };
            assert!(
                allowed.iter().any(may_be),
                "{} is {found:?}, not one of {allowed:?}",
                book.id
            );
        }
        // It works again.
        acquire(&store, Key::unscoped("after all"))
            .complete(b"done")
            .unwrap();
        store.close().unwrap();
        let store = builder(disk, &self.clock).open(DIR).unwrap();
        let read = |stored: Stored<'_>| stored.bytes() == b"done";
        assert_eq!(store.peek(Key::unscoped("after all"), read).unwrap(), Some(true));
    }
}

/// An error of the disk says what was tried on what.
fn check_io(error: &Error) {
    let Error::Io { op, path, source } = error else {
        panic!("not an error of the disk: {error:?}");
    };
    let here = path.starts_with(DIR) || path == Path::new("/");
    assert!(!op.is_empty() && here, "{error:?}");
    assert!(!source.to_string().is_empty());
}

/// The calls the script makes on a disk that works.
fn calls() -> Vec<(&'static str, String)> {
    let recorder = Recorder::new(&SimDisk::new(1));
    let mut run = Run::new(recorder.clone());
    run.run();
    assert_eq!(run.refused, 0);
    run.check(recorder.disk.kill());
    let calls = recorder.calls.lock().unwrap().clone();
    assert_eq!(calls.len() as u64, recorder.disk.calls());
    calls
}

fn run_with(seed: u64, faults: &[(u64, Fault, Then)]) -> Run<SimDisk> {
    let disk = SimDisk::new(seed);
    for (n, fault, then) in faults {
        disk.fail_nth(*n, *fault, *then);
    }
    let mut run = Run::new(disk);
    run.run();
    run.disk.heal();
    if !run.mended {
        run.check(run.disk.copy().cut(Cut::Random));
        run.check(run.disk.copy().cut(Cut::LoseAll));
    }
    run.check(run.disk.kill());
    run
}

const FAULTS: [Fault; 3] = [Fault::Eio, Fault::Enospc, Fault::ShortWrite];

#[test]
fn whatever_call_fails_what_was_acknowledged_is_kept() {
    let calls = run_case("probe", 0, 0, |_| calls());
    let kinds = |kind: &str| calls.iter().filter(|(call, _)| *call == kind).count();
    assert!(calls.len() > 500, "{}", calls.len());
    assert!(
        kinds("remove") > 8 && kinds("sync") > 60,
        "segments are let go, and opened: {calls:?}"
    );
    let mut poisoned = 0;
    for (n, call) in (1..).zip(&calls) {
        for fault in FAULTS {
            for then in [Then::Once, Then::FromThenOn] {
                let test = format!("call {n} {call:?} {fault:?} {then:?}");
                let run = run_case(&test, n, n, |seed| run_with(seed, &[(n, fault, then)]));
                let of_records = call.0 == "sync" && !call.1.ends_with(".new");
                if then == Then::Once && !of_records {
                    assert!(!run.poisoned && !run.mended, "{test} poisons");
                    assert!(run.refused <= 2, "{test} refuses {}", run.refused);
                }
                poisoned += u32::from(run.poisoned || run.mended);
            }
        }
    }
    eprintln!(
        "{} calls, 6 faults each; {poisoned} runs were poisoned",
        calls.len()
    );
    assert!(poisoned > 100);
}

#[test]
fn whatever_two_calls_fail_what_was_acknowledged_is_kept() {
    let calls = run_case("probe", 0, 0, |_| calls()).len() as u64;
    let one = std::env::var_os("ONCEONLY_SEED").is_some();
    let first = scaled("ONCEONLY_SEED", 0);
    let count = if one {
        1
    } else {
        scaled("ONCEONLY_FAULT_PAIRS", 2_000)
    };
    for seed in first..first + count {
        run_case("two faults", seed, seed - first, |seed| {
            let mut rng = Rng(seed);
            let mut fault = || (1 + rng.below(calls), rng.pick(&FAULTS), Then::Once);
            let faults = [fault(), fault()];
            run_with(seed, &faults)
        });
    }
    eprintln!("{count} pairs of faults, seeds from {first}");
}

/// Claims new keys until one is refused.
fn claim_until_full<'s>(store: &'s Store, prefix: &str, len: usize) -> Vec<ClaimGuard<'s>> {
    let mut held = Vec::new();
    for i in 0..10_000 {
        let id = format!("{prefix}-{i}-{}", "x".repeat(len));
        match store.claim(Key::new("acme", &id), Fingerprint::NONE) {
            Ok(Claim::Acquired(guard)) => held.push(guard),
            Ok(other) => panic!("{other:?}"),
            Err(Error::AtCapacity { retry_after }) => {
                assert!(!retry_after.is_zero());
                return held;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
    panic!("the disk never gets full");
}

#[test]
fn on_a_full_disk_held_claims_are_finished_and_new_ones_refused() {
    for len in [1, 20, 100, 300, 900] {
        for seed in 0..20 {
            let mut rng = Rng(seed);
            let clock = ManualClock::new();
            let disk = SimDisk::new(seed);
            let store = builder(disk.clone(), &clock).open(DIR).unwrap();
            acquire(&store, Key::unscoped("before"))
                .complete(b"kept")
                .unwrap();
            disk.set_capacity((5 + rng.below(8)) * 4_096);
            let held = claim_until_full(&store, "a", len);
            assert!(!held.is_empty());
            let mut ids = Vec::new();
            for (i, guard) in held.iter().enumerate() {
                let what = format!("length {len}, seed {seed}, claim {i} of {}", held.len());
                match rng.below(4) {
                    0 => guard.release().expect(&what),
                    1 => {
                        // Something larger may be refused, and leaves the claim as it was.
                        match guard.complete(&[1; 600]) {
                            Ok(()) => continue,
                            Err(Error::AtCapacity { .. }) => {}
                            Err(error) => panic!("{what}: {error:?}"),
                        }
                        guard.complete(b"").expect(&what);
                    }
                    2 => {
                        guard.renew(LEASE).expect(&what);
                        guard.complete(b"").expect(&what);
                    }
                    _ => guard.complete(b"").expect(&what),
                }
                ids.push(guard.key().to_owned());
            }
            assert!(store.stats().prepare_failures > 0);
            drop(held);
            // What is there goes on being replayed, and comes back.
            let before = store.peek(Key::unscoped("before"), |stored| stored.bytes().to_vec());
            assert_eq!(before.unwrap().unwrap(), b"kept");
            // Room comes back: by others, or by what expires.
            if rng.once_in(2) {
                disk.set_capacity(1 << 20);
            } else {
                clock.advance(TTL + LEASE + LEASE);
                while store.maintain(Duration::from_secs(1)).unwrap() {}
            }
            let more = claim_until_full(&store, "b", len);
            assert!(!more.is_empty(), "length {len}, seed {seed}");
            for guard in &more {
                guard.complete(b"").unwrap();
            }
            let completed: Vec<KeyBuf> = more.iter().map(|guard| guard.key().to_owned()).collect();
            drop(more);
            drop(store);
            let disk = disk.cut(Cut::LoseAll);
            disk.set_capacity(1 << 20);
            let store = builder(disk, &clock).open(DIR).unwrap();
            for key in &completed {
                assert!(
                    matches!(store.status(key), Ok(Status::Completed { .. })),
                    "{key:?}"
                );
            }
        }
    }
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_but_all_is_replayed() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = builder(disk.clone(), &clock).open(DIR).unwrap();
    let seen = Key::unscoped("seen");
    acquire(&store, seen).complete(b"before").unwrap();
    let held = acquire(&store, Key::unscoped("held"));
    disk.fail_nth(1, Fault::Eio, Then::Once);
    let error = held.complete(b"lost").unwrap_err();
    assert!(matches!(error, Error::Io { op: "sync", .. }), "{error:?}");
    // The disk works again; the store does not believe it.
    let calls: [&dyn Fn() -> Result<()>; 9] = [
        &|| held.complete(b"again"),
        &|| held.release(),
        &|| held.checkpoint(b"note"),
        &|| held.renew(LEASE),
        &|| store.claim(Key::unscoped("new"), Fingerprint::NONE).map(drop),
        &|| store.first_seen(Key::unscoped("newer")).map(drop),
        &|| store.forget(seen).map(drop),
        &|| store.sync(),
        &|| held.submit(b"later", CompleteOptions::new()).wait(),
    ];
    for (i, call) in calls.iter().enumerate() {
        assert!(matches!(call(), Err(Error::Poisoned)), "call {i}: {:?}", call());
    }
    let read = |stored: Stored<'_>| stored.bytes() == b"before";
    assert_eq!(
        store.replay(seen, Fingerprint::NONE, read).unwrap(),
        Replay::Hit(true)
    );
    assert!(matches!(store.claim(seen, Fingerprint::NONE), Ok(Claim::Completed(o)) if &*o == b"before"));
    assert!(!store.first_seen(seen).unwrap());
    assert!(store.maintain(Duration::from_secs(1)).is_ok());
    let image = disk.kill();

    let store = builder(image, &clock).open(DIR).unwrap();
    assert_eq!(
        store.replay(seen, Fingerprint::NONE, read).unwrap(),
        Replay::Hit(true)
    );
}
