//! Looking at a store's files from outside, and rescuing what damage has left of them.

use crate::support::{LEASE, TTL};
use onceonly::sim::disk::{Cut, Fault, SimDisk, Then};
use onceonly::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DIR: &str = "/store";
const INTO: &str = "/mended";

fn open_in(dir: &str, disk: &SimDisk, clock: &ManualClock) -> Result<Store> {
    Store::builder()
        .clock(clock.clone())
        .disk(disk.clone())
        .helper_thread(false)
        .ttl(TTL)
        .lease(LEASE)
        .shards(2)
        .max_bytes(16 << 20)
        .segment_bytes(4_096)
        .open(dir)
}

fn open(disk: &SimDisk, clock: &ManualClock) -> Store {
    open_in(DIR, disk, clock).unwrap()
}

fn inspector(disk: &SimDisk, clock: &ManualClock) -> Inspector {
    Inspector::on_disk(disk.clone(), DIR)
        .unwrap()
        .with_clock(clock.clone())
}

fn rescued(disk: &SimDisk, clock: &ManualClock) -> Result<SalvageReport> {
    salvage_on(disk.clone(), clock.clone(), DIR, INTO)
}

fn acquire<'s>(store: &'s Store, key: Key<'_>) -> ClaimGuard<'s> {
    match store.claim(key, Fingerprint::NONE).unwrap() {
        Claim::Acquired(guard) => guard,
        other => panic!("{key:?} should be absent: {other:?}"),
    }
}

fn complete(store: &Store, id: &str, outcome: &[u8]) {
    acquire(store, Key::new("acme", id)).complete(outcome).unwrap();
}

fn outcome_of(found: Option<Inspected>) -> Option<Vec<u8>> {
    match found?.recorded {
        Recorded::Completed { outcome, .. } => Some(outcome),
        _ => None,
    }
}

fn replayed(store: &Store, id: &str) -> Option<Vec<u8>> {
    store
        .peek(Key::new("acme", id), |stored| stored.bytes().to_vec())
        .unwrap()
}

/// The segments' files, oldest first.
fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let in_dir = |path: &PathBuf| path.starts_with(DIR) && path.extension().is_some_and(|e| e == "seg");
    disk.paths().into_iter().filter(in_dir).collect()
}

fn image(disk: &SimDisk, dir: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let paths = disk.paths().into_iter().filter(|path| path.starts_with(dir));
    paths
        .map(|path| (path.clone(), disk.bytes(&path).unwrap()))
        .collect()
}

fn position(disk: &SimDisk, path: &Path, of: &[u8]) -> Option<usize> {
    let bytes = disk.bytes(path)?;
    bytes.windows(of.len()).position(|window| window == of)
}

/// Flips a byte of this outcome where it lies, and says in which file and where.
fn hit(disk: &SimDisk, outcome: &[u8]) -> (PathBuf, u64) {
    let mut places = segments(disk).into_iter();
    let (path, at) = places
        .find_map(|path| position(disk, &path, outcome).map(|at| (path, at)))
        .expect("it is stored");
    disk.overwrite(&path, at as u64, &[outcome[0] ^ 1]).unwrap();
    (path, at as u64)
}

/// A store of several segments, closed.
fn filled(disk: &SimDisk, clock: &ManualClock, keys: usize) {
    let store = open(disk, clock);
    for i in 0..keys {
        complete(&store, &format!("k{i}"), outcome(i).as_bytes());
    }
    store.close().unwrap();
}

fn outcome(i: usize) -> String {
    format!("<outcome {i}>").repeat(5)
}

#[test]
fn an_inspector_beside_a_live_store_sees_what_was_recorded_so_far() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    let inspector = inspector(&disk, &clock);
    let key = Key::new("acme", "order-1");
    assert_eq!(inspector.get(key).unwrap(), None);

    let print = Fingerprint::from_bytes([7; 16]);
    let Claim::Acquired(guard) = store.claim(key, print).unwrap() else {
        panic!("a new key")
    };
    guard.checkpoint(b"sent as ref 7").unwrap();
    let found = inspector.get(key).unwrap().unwrap();
    let Recorded::Unfinished {
        attempt, checkpoint, ..
    } = &found.recorded
    else {
        panic!("{found}")
    };
    assert_eq!(
        (*attempt, checkpoint.as_deref()),
        (0, Some(&b"sent as ref 7"[..]))
    );
    assert_eq!((found.generation, found.fingerprint), (guard.generation(), print));
    assert_eq!(found.since, Some(clock.wall()));
    assert!(found.kept_until > clock.wall() + TTL + LEASE - Duration::from_secs(1));

    clock.advance(Duration::from_secs(5));
    let tagged = CompleteOptions::new().tag(201);
    guard.complete_with(b"charged", tagged).unwrap();
    let found = inspector.get(key).unwrap().unwrap();
    let Recorded::Completed { outcome, tag, .. } = &found.recorded else {
        panic!("{found}")
    };
    assert_eq!((&outcome[..], *tag, found.expired), (&b"charged"[..], 201, false));
    assert_eq!(found.since, Some(clock.wall()));
    assert!(found.kept_until.duration_since(clock.wall()).unwrap() >= TTL);

    assert!(store.forget(key).unwrap());
    assert_eq!(inspector.get(key).unwrap().unwrap().recorded, Recorded::Forgotten);
    acquire(&store, key).release().unwrap();
    assert_eq!(inspector.get(key).unwrap().unwrap().recorded, Recorded::Released);
    inspector.verify().unwrap();
}

#[test]
fn an_inspector_needs_no_lock_and_writes_nothing() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    complete(&store, "a", b"one");
    let before = (image(&disk, DIR), disk.changes());
    let inspector = inspector(&disk, &clock);
    inspector.verify().unwrap();
    inspector.stat().unwrap();
    assert_eq!(
        outcome_of(inspector.get(Key::new("acme", "a")).unwrap()).unwrap(),
        b"one"
    );
    assert_eq!(inspector.scan(ScanFilter::new()).unwrap().count(), 1);
    assert_eq!((image(&disk, DIR), disk.changes()), before);
    complete(&store, "b", b"two");
}

#[test]
fn a_scan_gives_what_the_stores_own_gives() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    for i in 0..100 {
        complete(&store, &format!("k{i}"), outcome(i).as_bytes());
    }
    clock.advance(Duration::from_secs(60));
    let _held = acquire(&store, Key::new("other", "held"));
    drop(acquire(&store, Key::new("other", "dropped")));
    acquire(&store, Key::new("other", "released")).release().unwrap();
    let brief = CompleteOptions::new().ttl(Duration::from_secs(1));
    acquire(&store, Key::new("other", "brief"))
        .complete_with(b"x", brief)
        .unwrap();
    clock.advance(Duration::from_secs(2));

    let inspector = inspector(&disk, &clock);
    let filters = [
        ScanFilter::new(),
        ScanFilter::new().scope("acme"),
        ScanFilter::new().scope("other"),
        ScanFilter::new().state(StateKind::Completed),
        ScanFilter::new().older_than(Duration::from_secs(30)),
        ScanFilter::new().scope("nobody"),
    ];
    for filter in filters {
        let ours = store.scan(filter.clone()).unwrap().map(|found| found.unwrap());
        let mut ours: Vec<_> = ours
            .map(|(key, s)| (format!("{key:?}"), s.generation()))
            .collect();
        let theirs = inspector.scan(filter).unwrap().map(|found| found.unwrap());
        let mut theirs: Vec<_> = theirs
            .map(|(key, found)| (format!("{key:?}"), Some(found.generation)))
            .collect();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs);
    }
    for state in [StateKind::InFlight, StateKind::Interrupted] {
        let unfinished = inspector.scan(ScanFilter::new().state(state)).unwrap();
        assert_eq!(unfinished.count(), 2, "the file does not say which is which");
    }
    let brief = inspector.get(Key::new("other", "brief")).unwrap().unwrap();
    assert!(brief.expired);

    let stat = inspector.stat().unwrap();
    assert_eq!(
        (stat.keys_completed, stat.keys_unfinished, stat.keys_ended),
        (100, 2, 2)
    );
    assert_eq!((stat.records_completed, stat.records_released), (101, 1));
    assert!(stat.segments > 3 && stat.records_claimed >= 104);
    assert!(stat.ceiling > stat.generation);
    assert!(stat.vouched <= stat.end && stat.damage.is_none() && stat.torn.is_none());
    assert!(stat.noted.unwrap() <= clock.wall());
    assert!(stat.to_string().ends_with("no damage"), "{stat}");
}

#[test]
fn of_two_records_the_one_that_recovery_takes_counts() {
    // Takeovers, leftovers written again, and overwritten history, against the reopened store.
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    let long = CompleteOptions::new().ttl(Duration::from_secs(30 * 86_400));
    for round in 0..20u32 {
        for i in 0..40 {
            let id = format!("{}", (round * 7 + i) % 60);
            let key = Key::new("acme", &id);
            match store.claim(key, Fingerprint::NONE).unwrap() {
                Claim::Acquired(guard) if i % 5 == 0 => drop(guard),
                Claim::Acquired(guard) if i % 5 == 1 => guard.release().unwrap(),
                Claim::Acquired(guard) => {
                    let options = if i % 3 == 0 { long } else { CompleteOptions::new() };
                    guard
                        .complete_with(format!("{round}-{i}").repeat(9).as_bytes(), options)
                        .unwrap();
                }
                Claim::Interrupted(left) if i % 2 == 0 => drop(left.resume().unwrap()),
                Claim::Completed(_) if i % 4 == 0 => drop(store.forget(key).unwrap()),
                _ => {}
            }
        }
        clock.advance(Duration::from_secs(900));
        while store.maintain(Duration::from_secs(1)).unwrap() {}
    }
    let killed = disk.kill();
    let inspector = inspector(&killed, &clock);
    let seen: Vec<_> = inspector
        .scan(ScanFilter::new())
        .unwrap()
        .map(|f| f.unwrap())
        .collect();
    assert!(seen.len() > 10, "{}", inspector.stat().unwrap());
    let store = open(&killed.copy(), &clock);
    assert_eq!(seen.len() as u64, store.stats().keys_live);
    for (key, found) in seen {
        let status = store.status(&key).unwrap();
        assert_eq!(status.generation(), Some(found.generation), "{key:?}");
        if let Recorded::Completed { outcome, .. } = found.recorded {
            let peeked = store.peek(&key, |stored| stored.bytes().to_vec()).unwrap();
            assert_eq!(peeked.unwrap(), outcome);
        }
    }
}

#[test]
fn a_segment_let_go_between_list_and_open_is_no_error() {
    /// A disk on which a file vanishes when somebody is about to read it.
    struct Vanishing(SimDisk, std::sync::Mutex<Vec<PathBuf>>);

    impl Disk for Vanishing {
        fn open_to_read(&self, path: &Path) -> std::io::Result<Box<dyn DiskFile>> {
            let mut doomed = self.1.lock().unwrap();
            if doomed.last().is_some_and(|doomed| doomed == path) {
                doomed.pop();
                self.0.remove_file(path)?;
            }
            self.0.open_to_read(path)
        }
        fn create_dir(&self, dir: &Path) -> std::io::Result<()> {
            self.0.create_dir(dir)
        }
        fn lock(&self, _: &Path) -> std::io::Result<Option<Box<dyn Send + Sync>>> {
            unreachable!("an inspector takes no lock")
        }
        fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
            self.0.list(dir)
        }
        fn create(&self, _: &Path, _: u64) -> std::io::Result<Box<dyn DiskFile>> {
            unreachable!("an inspector makes nothing")
        }
        fn open(&self, _: &Path) -> std::io::Result<Box<dyn DiskFile>> {
            unreachable!("an inspector only reads")
        }
        fn rename(&self, _: &Path, _: &Path) -> std::io::Result<()> {
            unreachable!("an inspector changes nothing")
        }
        fn remove(&self, _: &Path) -> std::io::Result<()> {
            unreachable!("an inspector changes nothing")
        }
        fn sync_dir(&self, _: &Path) -> std::io::Result<()> {
            unreachable!("an inspector writes nothing")
        }
    }

    // Two segments that were let go and whose names a power cut brought back: they may vanish.
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    filled(&disk, &clock, 100);
    let before = image(&disk, DIR);
    let store = open(&disk, &clock);
    complete(&store, "later", b"still there");
    clock.advance(TTL + LEASE + Duration::from_secs(1));
    for _ in 0..3 {
        while store.maintain(Duration::from_secs(1)).unwrap() {}
        clock.advance(Duration::from_secs(1));
    }
    complete(&store, "later", b"still there");
    store.close().unwrap();
    let gone: Vec<_> = before
        .keys()
        .filter(|path| disk.bytes(path).is_none())
        .take(2)
        .cloned()
        .collect();
    assert_eq!(gone.len(), 2);
    for path in &gone {
        disk.put(path, before[path].clone());
    }
    let vanishing = Vanishing(disk, std::sync::Mutex::new(gone));
    let inspector = Inspector::on_disk(vanishing, DIR).unwrap().with_clock(clock);
    let found = inspector.get(Key::new("acme", "later")).unwrap();
    assert_eq!(outcome_of(found).unwrap(), b"still there");
    assert_eq!(inspector.stat().unwrap().keys_completed, 1);
}

#[test]
fn damage_is_told_with_file_and_byte_as_recovery_tells_it() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    filled(&disk, &clock, 60);
    for i in [0, 1, 17, 30, 58, 59] {
        let disk = disk.copy();
        let (path, at) = hit(&disk, outcome(i).as_bytes());
        let Err(Error::Corrupt {
            segment,
            offset,
            what,
        }) = inspector(&disk, &clock).verify()
        else {
            panic!("record {i} is damaged")
        };
        assert_eq!(segment, path);
        assert!(offset <= at && at - offset < 64, "{offset} {at}");
        let refused = open_in(DIR, &disk, &clock).unwrap_err();
        let expected = Error::Corrupt {
            segment,
            offset,
            what,
        };
        assert_eq!(refused.to_string(), expected.to_string());
        for asked in [
            inspector(&disk, &clock).get(Key::new("acme", "k0")).unwrap_err(),
            inspector(&disk, &clock).scan(ScanFilter::new()).unwrap_err(),
        ] {
            assert_eq!(asked.to_string(), expected.to_string());
        }
        let stat = inspector(&disk, &clock).stat().unwrap();
        assert_eq!(stat.damage.unwrap().to_string(), expected.to_string());
        assert_eq!(stat.keys_completed, i as u64, "those before it");
    }
}

#[test]
fn every_refusal_of_recovery_is_the_inspectors_too() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(3);
    filled(&disk, &clock, 60);
    let files = segments(&disk);
    let store = Path::new(DIR).join("STORE");
    type Damage = Box<dyn Fn(&SimDisk)>;
    let of = |damage: fn(&SimDisk, &Path), path: &Path| -> Damage {
        let path = path.to_path_buf();
        Box::new(move |disk| damage(disk, &path))
    };
    let damages: Vec<Damage> = vec![
        of(|disk, path| disk.overwrite(path, 20, b"??").unwrap(), &files[1]),
        of(|disk, path| disk.overwrite(path, 0, b"??").unwrap(), &files[2]),
        of(|disk, path| disk.overwrite(path, 8, &[9]).unwrap(), &files[0]),
        of(|disk, path| disk.truncate(path, 100).unwrap(), &files[1]),
        of(|disk, path| disk.truncate(path, 20).unwrap(), &files[1]),
        of(|disk, path| disk.remove_file(path).unwrap(), &files[1]),
        of(|disk, path| disk.remove_file(path).unwrap(), &files[0]),
        of(
            |disk, path| disk.overwrite(path, 64, &[0; 200]).unwrap(),
            &files[1],
        ),
        of(|disk, path| disk.remove_file(path).unwrap(), &store),
        of(|disk, path| disk.overwrite(path, 16, b"??").unwrap(), &store),
        of(
            |disk, path| disk.put(&path.with_file_name("notes.txt"), b"hello".to_vec()),
            &store,
        ),
        of(
            |disk, path| disk.put(&path.with_file_name("0000ffff.seg"), disk.bytes(path).unwrap()),
            &files[1],
        ),
    ];
    for (i, damage) in damages.iter().enumerate() {
        let disk = disk.copy();
        damage(&disk);
        let verified = Inspector::on_disk(disk.clone(), DIR).and_then(|inspector| inspector.verify());
        let opened = open_in(DIR, &disk, &clock).map(drop);
        let (verified, opened) = (verified.unwrap_err(), opened.unwrap_err());
        assert_eq!(verified.to_string(), opened.to_string(), "damage {i}");
    }
}

#[test]
fn a_torn_tail_is_told_and_is_no_damage() {
    let clock = ManualClock::new();
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let store = open(&disk, &clock);
        complete(&store, "safe", b"synced");
        let unsynced = CompleteOptions::new().durability(Durability::Process);
        for i in 0..4 {
            let id = format!("k{i}");
            let options = ClaimOptions::new().durability(Durability::Process);
            if let Claim::Acquired(guard) = store
                .claim_with(Key::new("acme", &id), Fingerprint::NONE, options)
                .unwrap()
            {
                guard
                    .complete_with(outcome(i).repeat(10).as_bytes(), unsynced)
                    .unwrap();
            }
        }
        let disk = disk.cut(Cut::Random);
        let inspector = inspector(&disk, &clock);
        inspector.verify().unwrap();
        let stat = inspector.stat().unwrap();
        let found = inspector.get(Key::new("acme", "safe")).unwrap();
        assert_eq!(outcome_of(found).unwrap(), b"synced");
        let store = open(&disk, &clock);
        assert_eq!(store.recovery().torn, stat.torn, "seed {seed}");
        assert_eq!(store.recovery().completed, stat.keys_completed);
    }
}

#[test]
fn a_directory_without_a_store_has_none_to_inspect_or_to_rescue() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let refused = |result: Result<()>| {
        matches!(
            result,
            Err(Error::InvalidInput {
                what: "directory",
                ..
            })
        )
    };
    disk.create_dir(Path::new(DIR)).unwrap();
    assert!(refused(Inspector::on_disk(disk.clone(), DIR).map(drop)));
    assert!(refused(rescued(&disk, &clock).map(drop)));
    assert!(disk.paths().is_empty(), "and none is made by asking");
    let missing = Inspector::on_disk(disk.clone(), "/nowhere");
    assert!(matches!(missing, Err(Error::Io { .. })));
}

#[test]
fn salvage_rescues_all_but_the_damaged_record() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    filled(&disk, &clock, 60);
    let store = open(&disk, &clock);
    let print = Fingerprint::from_bytes([9; 16]);
    let Claim::Acquired(guard) = store.claim(Key::new("acme", "begun"), print).unwrap() else {
        panic!("a new key")
    };
    guard.checkpoint(b"half way").unwrap();
    let (generation, token) = (guard.generation(), guard.detach());
    acquire(&store, Key::new("acme", "released")).release().unwrap();
    complete(&store, "forgotten", b"secret");
    store.forget(Key::new("acme", "forgotten")).unwrap();
    let tagged = CompleteOptions::new()
        .tag(404)
        .ttl(Duration::from_secs(40 * 86_400));
    acquire(&store, Key::new("acme", "long"))
        .complete_with(b"kept", tagged)
        .unwrap();
    store.close().unwrap();
    let stat = inspector(&disk, &clock).stat().unwrap();
    let long = inspector(&disk, &clock).get(Key::new("acme", "long")).unwrap();

    let (path, at) = hit(&disk, outcome(33).as_bytes());
    assert!(matches!(open_in(DIR, &disk, &clock), Err(Error::Corrupt { .. })));
    let before = image(&disk, DIR);
    let report = rescued(&disk, &clock).unwrap();
    assert_eq!(image(&disk, DIR), before, "the old files are as they were");
    // The claim of the damaged completion is there: nobody knows whether it was done.
    assert_eq!((report.completed, report.interrupted), (60, 2), "{report}");
    assert_eq!(report.left_out, 2);
    assert!(report.unreadable.is_empty() && report.missing == 0);
    let [(segment, from, to)] = &report.damaged[..] else {
        panic!("{report}")
    };
    assert_eq!(segment, &path);
    assert!((*from..*to).contains(&at) && to - from < 200);

    let disk = disk.cut(Cut::LoseAll);
    let there = Inspector::on_disk(disk.clone(), INTO)
        .unwrap()
        .with_clock(clock.clone());
    there.verify().unwrap();
    assert_eq!(there.stat().unwrap().store_id, stat.store_id);
    assert!(there.stat().unwrap().ceiling > stat.ceiling);
    assert!(there.stat().unwrap().noted >= stat.noted);
    assert_eq!(
        there.get(Key::new("acme", "long")).unwrap(),
        long,
        "to the last field"
    );
    let store = open_in(INTO, &disk, &clock).unwrap();
    assert_eq!(
        (store.recovery().completed, store.recovery().interrupted),
        (60, 2)
    );
    for i in (0..60).filter(|i| *i != 33) {
        assert_eq!(replayed(&store, &format!("k{i}")).unwrap(), outcome(i).as_bytes());
    }
    let status = |id: &str| store.status(Key::new("acme", id)).unwrap();
    assert!(matches!(status("k33"), Status::Interrupted { .. }));
    assert!(matches!(status("long"), Status::Completed { tag: 404, .. }));
    assert_eq!(
        (status("released"), status("forgotten")),
        (Status::Absent, Status::Absent)
    );
    let Claim::Interrupted(left) = store.claim(Key::new("acme", "begun"), print).unwrap() else {
        panic!("it was not finished")
    };
    assert_eq!(
        (left.generation(), left.last_checkpoint()),
        (generation, Some(&b"half way"[..]))
    );
    drop(left);
    let Claim::Acquired(guard) = store.attach(&token).unwrap() else {
        panic!("the token is of this store")
    };
    assert!(
        guard.generation() >= stat.ceiling,
        "larger than any the old store gave out"
    );
    guard.complete(b"done").unwrap();
}

#[test]
fn attempts_and_revisions_survive_a_salvage() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    let key = Key::new("acme", "job");
    drop(acquire(&store, key));
    for note in [&b"one"[..], b"two"] {
        let Claim::Interrupted(left) = store.claim(key, Fingerprint::NONE).unwrap() else {
            panic!("it was dropped")
        };
        let Claim::Acquired(guard) = left.resume().unwrap() else {
            panic!("nobody else is there")
        };
        guard.checkpoint(note).unwrap();
    }
    store.close().unwrap();
    rescued(&disk, &clock).unwrap();
    let store = open_in(INTO, &disk, &clock).unwrap();
    let Claim::Interrupted(left) = store.claim(key, Fingerprint::NONE).unwrap() else {
        panic!("it was not finished")
    };
    assert_eq!((left.attempt(), left.last_checkpoint()), (2, Some(&b"two"[..])));
}

#[test]
fn salvage_refuses_what_it_would_spoil() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    complete(&store, "a", b"one");
    let locked = rescued(&disk, &clock);
    assert!(matches!(locked, Err(Error::Locked { .. })), "{locked:?}");
    store.close().unwrap();
    let into =
        |result: Result<SalvageReport>| matches!(result, Err(Error::InvalidInput { what: "into", .. }));
    disk.put(&Path::new(INTO).join("letter.txt"), b"dear".to_vec());
    assert!(into(rescued(&disk, &clock)));
    for inside in [DIR, "/store/mended"] {
        assert!(into(salvage_on(disk.clone(), clock.clone(), DIR, inside)));
    }
    assert_eq!(image(&disk, INTO).len(), 1);
    open(&disk, &clock).close().unwrap();
}

#[test]
fn lost_files_are_told_and_the_others_are_rescued() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    filled(&disk, &clock, 160);
    let files = segments(&disk);
    disk.overwrite(&files[1], 30, b"damage").unwrap();
    disk.remove_file(&files[2]).unwrap();
    disk.truncate(&files[4], 1_001).unwrap();
    disk.remove_file(&Path::new(DIR).join("STORE")).unwrap();
    let report = rescued(&disk, &clock).unwrap();
    assert_eq!(
        report.unreadable,
        [Path::new(DIR).join("STORE"), files[1].clone()]
    );
    assert_eq!(report.missing, 2, "{report}");
    assert!(report.damaged.iter().any(|(path, ..)| *path == files[4]));
    let store = open_in(INTO, &disk, &clock).unwrap();
    let rescued = (0..160).filter(|i| replayed(&store, &format!("k{i}")) == Some(outcome(*i).into_bytes()));
    let rescued = rescued.count() as u64;
    assert_eq!(rescued, report.completed);
    assert!(rescued >= 60, "{report}");
}

#[test]
fn what_was_let_go_does_not_come_back() {
    // A power cut brings the name of a segment back that was let go; then the log is damaged.
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    let store = open(&disk, &clock);
    let long = CompleteOptions::new().ttl(Duration::from_secs(86_400));
    for i in 0..30 {
        let id = format!("k{i}");
        acquire(&store, Key::new("acme", &id))
            .complete_with(outcome(i).as_bytes(), long)
            .unwrap();
        assert!(store.forget(Key::new("acme", &id)).unwrap());
    }
    let first = segments(&disk)[0].clone();
    let bytes = disk.bytes(&first).unwrap();
    for i in 0..500 {
        complete(&store, &format!("n{i}"), outcome(i).as_bytes());
    }
    for _ in 0..40 {
        clock.advance(Duration::from_secs(600));
        while store.maintain(Duration::from_secs(1)).unwrap() {}
        for i in 0..20 {
            let id = format!("{i}");
            acquire(&store, Key::new("other", &id)).release().unwrap();
        }
    }
    complete(&store, "last", outcome(7_777).as_bytes());
    for i in 0..50 {
        complete(&store, &format!("after {i}"), outcome(i).as_bytes());
    }
    complete(&store, "very last", b"x");
    store.close().unwrap();
    assert!(disk.bytes(&first).is_none(), "it was let go");
    disk.put(&first, bytes);
    hit(&disk, outcome(7_777).as_bytes());
    assert!(matches!(
        inspector(&disk, &clock).verify(),
        Err(Error::Corrupt { .. })
    ));
    let report = rescued(&disk, &clock).unwrap();
    assert_eq!((report.completed, report.interrupted), (51, 1), "{report}");
    let store = open_in(INTO, &disk, &clock).unwrap();
    assert_eq!(replayed(&store, "k0"), None);
    assert_eq!(replayed(&store, "very last").unwrap(), b"x");
}

#[test]
fn what_was_given_up_behind_a_seal_does_not_come_back() {
    let clock = ManualClock::new();
    let unsynced = CompleteOptions::new().durability(Durability::Process);
    for seed in 0..60 {
        let disk = SimDisk::new(seed);
        let store = open(&disk, &clock);
        for i in 0..6 {
            let id = format!("k{i}");
            let options = ClaimOptions::new().durability(Durability::Process);
            if let Claim::Acquired(guard) = store
                .claim_with(Key::new("acme", &id), Fingerprint::NONE, options)
                .unwrap()
            {
                guard
                    .complete_with(outcome(i).repeat(6).as_bytes(), unsynced)
                    .unwrap();
            }
        }
        let disk = disk.cut(Cut::Random);
        let store = open(&disk, &clock);
        let known: Vec<_> = (0..6)
            .map(|i| store.status(Key::new("acme", &format!("k{i}"))).unwrap())
            .collect();
        store.close().unwrap();
        rescued(&disk, &clock).unwrap();
        let store = open_in(INTO, &disk, &clock).unwrap();
        for (i, was) in known.into_iter().enumerate() {
            let now = store.status(Key::new("acme", &format!("k{i}"))).unwrap();
            assert_eq!(now.generation(), was.generation(), "seed {seed}, {was} {now}");
        }
    }
}

#[test]
fn blocks_that_cannot_be_read_are_skipped() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    filled(&disk, &clock, 60);
    let calls = {
        let disk = disk.copy();
        rescued(&disk, &clock).unwrap();
        disk.calls()
    };
    for nth in 1..=calls {
        let disk = disk.copy();
        disk.fail_nth(nth, Fault::Eio, Then::Once);
        let before = image(&disk, DIR);
        let tried = rescued(&disk, &clock);
        disk.heal();
        assert_eq!(image(&disk, DIR), before);
        match tried {
            Err(Error::Io { .. }) => {
                let half = image(&disk, INTO);
                let opens = open_in(INTO, &disk, &clock).is_ok_and(|s| s.recovery().completed == 60);
                let is_new = !half
                    .keys()
                    .any(|path| path.extension().is_some_and(|e| e == "seg"));
                assert!(
                    opens || is_new || open_in(INTO, &disk, &clock).is_err(),
                    "call {nth}"
                );
            }
            Err(other) => panic!("call {nth}: {other}"),
            Ok(report) => {
                let store = open_in(INTO, &disk, &clock).unwrap();
                assert_eq!(store.recovery().completed, report.completed);
                assert!(
                    report.completed == 60 || !report.unreadable.is_empty(),
                    "{report}"
                );
            }
        }
    }
}

#[test]
fn time_and_generations_go_on_where_the_marks_are_lost() {
    let clock = ManualClock::new();
    let disk = SimDisk::new(1);
    filled(&disk, &clock, 10);
    let largest = inspector(&disk, &clock).stat().unwrap().generation;
    for path in segments(&disk) {
        disk.overwrite(&path, 64 + 16, &[0xee; 8]).unwrap();
    }
    clock.set_wall(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    let report = rescued(&disk, &clock).unwrap();
    assert_eq!(report.completed, 10, "{report}");
    let store = open_in(INTO, &disk, &clock).unwrap();
    assert_eq!(replayed(&store, "k3").unwrap(), outcome(3).as_bytes());
    assert!(acquire(&store, Key::unscoped("new")).generation() > largest + (1 << 31));
}

#[test]
fn on_the_machines_disk_too() {
    let base = std::env::temp_dir().join(format!("onceonly-it-inspect-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&base);
    let (dir, into) = (base.join("store"), base.join("mended"));
    let store = Store::open(&dir).unwrap();
    let inspector = Inspector::open(&dir).unwrap();
    let writing = std::thread::spawn({
        let store = store.clone();
        move || {
            let options = CompleteOptions::new().durability(Durability::Process);
            for i in 0..20_000 {
                let id = format!("k{i}");
                let Claim::Acquired(guard) = store
                    .claim_with(
                        Key::new("acme", &id),
                        Fingerprint::NONE,
                        ClaimOptions::new().durability(Durability::Process),
                    )
                    .unwrap()
                else {
                    panic!("a new key")
                };
                guard.complete_with(outcome(i).as_bytes(), options).unwrap();
            }
        }
    });
    let mut last = 0;
    while !writing.is_finished() {
        inspector.verify().unwrap();
        let stat = inspector.stat().unwrap();
        assert!(stat.damage.is_none() && stat.keys_completed >= last, "{stat}");
        last = stat.keys_completed;
    }
    writing.join().unwrap();
    assert_eq!(inspector.stat().unwrap().keys_completed, 20_000);
    assert!(matches!(salvage(&dir, &into), Err(Error::Locked { .. })));
    store.close().unwrap();
    let report = salvage(&dir, &into).unwrap();
    assert_eq!((report.completed, report.damaged.len()), (20_000, 0), "{report}");
    let store = Store::open(&into).unwrap();
    assert_eq!(replayed(&store, "k19999").unwrap(), outcome(19_999).as_bytes());
    drop(store);
    let _ = std::fs::remove_dir_all(&base);
}

/// What to do to a file.
#[derive(Clone, Debug)]
enum Blow {
    Overwrite(usize, Vec<u8>),
    Flip(usize, u8),
    Zero(usize, usize),
    Truncate(usize),
    Remove,
    /// Bytes of one place in another.
    Move(usize, usize, usize),
}

fn blow() -> impl Strategy<Value = Blow> {
    let at = 0..4_096usize;
    prop_oneof![
        (at.clone(), prop::collection::vec(any::<u8>(), 1..300))
            .prop_map(|(at, bytes)| Blow::Overwrite(at, bytes)),
        (at.clone(), 0..8u8).prop_map(|(at, bit)| Blow::Flip(at, bit)),
        (at.clone(), 1..2_000usize).prop_map(|(at, len)| Blow::Zero(at, len)),
        at.clone().prop_map(Blow::Truncate),
        Just(Blow::Remove),
        (at.clone(), at, 8..500usize).prop_map(|(from, to, len)| Blow::Move(from, to, len)),
    ]
}

fn strike(disk: &SimDisk, path: &Path, blow: &Blow) {
    let Some(mut bytes) = disk.bytes(path) else { return };
    let len = bytes.len();
    let end = |at: usize, of: usize| (at + of).min(len);
    match blow {
        Blow::Overwrite(at, with) if *at < len => {
            let end = end(*at, with.len());
            bytes[*at..end].copy_from_slice(&with[..end - at]);
        }
        Blow::Flip(at, bit) if *at < len => bytes[*at] ^= 1 << bit,
        Blow::Zero(at, of) if *at < len => bytes[*at..end(*at, *of)].fill(0),
        Blow::Truncate(to) if *to < len => bytes.truncate(*to),
        Blow::Move(from, to, of) if *from < len && *to < len => {
            let of = (*of).min(len - from).min(len - to);
            bytes.copy_within(*from..from + of, *to);
        }
        Blow::Remove => return disk.remove_file(path).unwrap(),
        _ => return,
    }
    disk.put(path, bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever happened to the files, nothing panics, no outcome is given that was not stored,
    /// the old files stay, and generations grow.
    #[test]
    fn no_damage_makes_salvage_panic_or_lie(
        blows in prop::collection::vec((any::<prop::sample::Index>(), blow()), 1..12), seed in any::<u64>(),
    ) {
        let clock = ManualClock::new();
        let disk = SimDisk::new(seed);
        filled(&disk, &clock, 40);
        let files: Vec<_> = image(&disk, DIR).into_keys().collect();
        let largest = inspector(&disk, &clock).stat().unwrap().generation;
        for (file, blow) in &blows {
            let path: &PathBuf = file.get(&files);
            strike(&disk, path, blow);
        }
        let before = image(&disk, DIR);
        if let Ok(inspector) = Inspector::on_disk(disk.clone(), DIR) {
            let inspector = inspector.with_clock(clock.clone());
            let verified = inspector.verify();
            let opened = open_in(DIR, &disk.copy(), &clock);
            prop_assert_eq!(verified.err().map(|e| e.to_string()), opened.err().map(|e| e.to_string()));
            let _ = (inspector.stat(), inspector.scan(ScanFilter::new()).map(Iterator::count));
        }
        prop_assert_eq!(&image(&disk, DIR), &before);
        let rescue = rescued(&disk, &clock);
        let mut after = image(&disk, DIR);
        // A lost LOCK is made again.
        after.retain(|path, _| before.contains_key(path) || !path.ends_with("LOCK"));
        prop_assert_eq!(after, before);
        if let Ok(report) = rescue {
            let store = open_in(INTO, &disk.cut(Cut::LoseAll), &clock).unwrap();
            prop_assert_eq!(store.recovery().completed, report.completed);
            prop_assert_eq!(store.recovery().interrupted, report.interrupted);
            for found in store.scan(ScanFilter::new()).unwrap() {
                let (key, _) = found.unwrap();
                let id = String::from_utf8(key.as_key().id().to_vec()).unwrap();
                let i: usize = id[1..].parse().unwrap();
                if let Some(bytes) = replayed(&store, &id) {
                    prop_assert_eq!(bytes, outcome(i).into_bytes());
                }
            }
            let new = acquire(&store, Key::unscoped("new"));
            prop_assert!(new.generation() > largest);
        }
    }
}
