//! Directories written by released formats, kept as bytes: every later version reads them.
//!
//! `tests/fixtures/v1` was written by [`write`], by
//! `ONCEONLY_WRITE_FIXTURES=1 cargo test --test it format::`. A format that was released is never
//! written again: a new one gets a directory of its own.

use onceonly::sim::disk::SimDisk;
use onceonly::*;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);
const DIR: &str = "/store";
/// How many keys fill the segments.
const FILLERS: u32 = 60;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

fn key(id: &str) -> Key<'_> {
    Key::new("acme", id)
}

fn body() -> Fingerprint {
    Fingerprint::from_bytes(*b"0123456789abcdef")
}

fn open(disk: &SimDisk, clock: &ManualClock) -> Result<Store> {
    Store::builder()
        .clock(clock.clone())
        .disk(disk.clone())
        .helper_thread(false)
        .shards(2)
        .max_bytes(16 << 20)
        .segment_bytes(4_096)
        .open(DIR)
}

fn acquire(store: &Store, id: &str, fingerprint: Fingerprint) -> ClaimGuard<'static> {
    match store.claim(key(id), fingerprint).unwrap().into_owned() {
        Claim::Acquired(guard) => guard,
        other => panic!("{other:?}"),
    }
}

fn filler(n: u32) -> (String, Vec<u8>) {
    (format!("filler {n}"), n.to_le_bytes().repeat(n as usize % 60))
}

/// One of everything, in several segments.
fn write(store: &Store) {
    let options = CompleteOptions::new();
    acquire(store, "plain", Fingerprint::NONE)
        .complete(b"paid")
        .unwrap();
    let tagged = acquire(store, "tagged", body());
    tagged.complete_with(b"created", options.tag(201)).unwrap();
    let empty = acquire(store, "empty", Fingerprint::NONE);
    empty.complete_with(b"", options.ttl(10 * DAY)).unwrap();
    let long = acquire(store, "long", Fingerprint::NONE);
    long.complete_with(&[7; 5_000], options.ttl(30 * DAY)).unwrap();
    assert!(store.first_seen(key("seen")).unwrap());
    acquire(store, "released", Fingerprint::NONE).release().unwrap();
    acquire(store, "forgotten", Fingerprint::NONE)
        .complete(b"x")
        .unwrap();
    assert!(store.forget(key("forgotten")).unwrap());
    acquire(store, "open", Fingerprint::NONE).detach();
    let first = acquire(store, "noted", body());
    first.checkpoint(b"ref 7").unwrap();
    drop(first);
    let Ok(Claim::Interrupted(left)) = store.claim(key("noted"), body()) else {
        panic!("it was dropped")
    };
    let Ok(Claim::Acquired(second)) = left.resume() else {
        panic!("nobody else is there")
    };
    second.renew(Duration::from_secs(600)).unwrap();
    second.checkpoint(b"ref 8").unwrap();
    second.detach();
    for n in 0..FILLERS {
        let (id, outcome) = filler(n);
        acquire(store, &id, Fingerprint::NONE).complete(&outcome).unwrap();
    }
}

/// What is to be found there, a minute later.
fn check(store: &Store) {
    let peek = |id: &str| {
        let read = |stored: Stored<'_>| (stored.bytes().to_vec(), stored.tag());
        store.peek(key(id), read).unwrap()
    };
    assert_eq!(peek("plain"), Some((b"paid".to_vec(), 0)));
    assert_eq!(peek("tagged"), Some((b"created".to_vec(), 201)));
    assert_eq!(peek("empty"), Some((Vec::new(), 0)));
    assert_eq!(peek("long"), Some((vec![7; 5_000], 0)));
    for n in 0..FILLERS {
        let (id, outcome) = filler(n);
        assert_eq!(peek(&id), Some((outcome, 0)), "{id}");
    }
    assert!(!store.first_seen(key("seen")).unwrap());
    for id in ["released", "forgotten", "never"] {
        assert_eq!(store.status(key(id)).unwrap(), Status::Absent, "{id}");
    }
    assert!(matches!(
        store.replay(key("tagged"), Fingerprint::NONE, |_| ()),
        Ok(Replay::Mismatch)
    ));
    let left_of = |id, days: u32| match store.status(key(id)).unwrap() {
        Status::Completed { ttl_left, .. } => {
            let full = days * DAY;
            assert!(
                ttl_left < full && ttl_left > full - Duration::from_secs(120),
                "{ttl_left:?}"
            );
        }
        other => panic!("{other}"),
    };
    left_of("plain", 1);
    left_of("empty", 10);
    left_of("long", 30);
    let Ok(Claim::Interrupted(left)) = store.claim(key("noted"), body()) else {
        panic!("its process ended")
    };
    assert_eq!((left.attempt(), left.cause()), (1, Cause::Crashed));
    assert_eq!(left.last_checkpoint(), Some(&b"ref 8"[..]));
    let Ok(Claim::Interrupted(open)) = store.claim(key("open"), Fingerprint::NONE) else {
        panic!("its process ended")
    };
    assert_eq!((open.attempt(), open.last_checkpoint()), (0, None));
    assert_eq!(store.recovery().interrupted, 2);
    assert_eq!(store.recovery().completed, u64::from(FILLERS) + 5);
}

/// The fixture on a disk of its own, and a clock a minute after it was written.
fn stored() -> (SimDisk, ManualClock) {
    let disk = SimDisk::new(1);
    for entry in fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        disk.put(&Path::new(DIR).join(name), fs::read(&path).unwrap());
    }
    let clock = ManualClock::new();
    clock.advance(Duration::from_secs(60));
    (disk, clock)
}

fn segments(disk: &SimDisk) -> Vec<PathBuf> {
    let mut paths = disk.paths();
    paths.retain(|path| path.extension().is_some_and(|e| e == "seg"));
    paths.sort();
    paths
}

#[test]
fn the_first_format_is_read() {
    if std::env::var_os("ONCEONLY_WRITE_FIXTURES").is_some() {
        let (disk, clock) = (SimDisk::new(1), ManualClock::new());
        let store = open(&disk, &clock).unwrap();
        write(&store);
        store.close().unwrap();
        let _ = fs::remove_dir_all(fixtures());
        fs::create_dir_all(fixtures()).unwrap();
        for path in disk.paths() {
            let bytes = disk.bytes(&path).unwrap();
            // Files made ahead and not begun say nothing.
            let is_spare = bytes.len() > 64 && bytes[64..].iter().all(|byte| *byte == 0);
            let says_nothing = bytes.is_empty() || is_spare && path.extension().is_some();
            if !says_nothing {
                fs::write(fixtures().join(path.file_name().unwrap()), bytes).unwrap();
            }
        }
    }
    let (disk, clock) = stored();
    assert!(segments(&disk).len() > 3);
    let store = open(&disk, &clock).unwrap();
    check(&store);
    // And written on by this version.
    acquire(&store, "new", Fingerprint::NONE)
        .complete(b"new")
        .unwrap();
    store.close().unwrap();
    let store = open(&disk, &clock).unwrap();
    assert_eq!(
        store.peek(key("new"), |s| s.bytes() == b"new").unwrap(),
        Some(true)
    );
    check_inspected(&disk);
}

fn check_inspected(disk: &SimDisk) {
    let inspector = Inspector::on_disk(disk.clone(), DIR).unwrap();
    inspector.verify().unwrap();
    assert!(inspector.get(key("tagged")).unwrap().is_some());
}

/// Lets a file say that another version wrote it.
pub(crate) fn be_of_version(file: &mut [u8], version: u8) {
    file[8] = version;
    file[56..60].fill(0);
    let sum = crc32fast::hash(&file[..64]);
    file[56..60].copy_from_slice(&sum.to_le_bytes());
}

#[test]
fn damaged_variants_of_it_are_refused_by_name() {
    // A record of the first segment: bytes of its key.
    let (disk, clock) = stored();
    let first = segments(&disk)[0].clone();
    let bytes = disk.bytes(&first).unwrap();
    let at = bytes.windows(5).position(|w| w == b"plain").unwrap() as u64;
    disk.overwrite(&first, at, b"P").unwrap();
    match open(&disk, &clock) {
        Err(Error::Corrupt { segment, offset, .. }) => {
            assert_eq!(segment, first);
            assert!(offset <= at && offset + 64 > at, "{offset} {at}");
        }
        other => panic!("{other:?}"),
    }
    // A segment is missing.
    let (disk, clock) = stored();
    disk.remove_file(&segments(&disk)[1]).unwrap();
    assert!(matches!(open(&disk, &clock), Err(Error::Corrupt { .. })));
    // Its header.
    let (disk, clock) = stored();
    disk.overwrite(&segments(&disk)[1], 20, &[0xff]).unwrap();
    assert!(matches!(
        open(&disk, &clock),
        Err(Error::Corrupt { offset: 0, .. })
    ));
    // A newer format, in any of its files.
    for name in ["STORE".into(), segments(&disk)[0].clone()] {
        let (disk, clock) = stored();
        let path = Path::new(DIR).join(name);
        let mut header = disk.bytes(&path).unwrap()[..64].to_vec();
        be_of_version(&mut header, 2);
        disk.overwrite(&path, 0, &header).unwrap();
        let opened = open(&disk, &clock);
        assert!(
            matches!(opened, Err(Error::UnsupportedFormat { found: 2, newest: 1 })),
            "{opened:?}"
        );
    }
}
