//! A store whose files were damaged: it is refused, or it gives exactly what was stored.
//!
//! A small store of several segments is closed cleanly. What its log vouches for is computed here
//! from the bytes alone, by the format's description: a damage below the highest position that
//! still stands written must be refused with the file and the byte; a damage elsewhere must not
//! keep the store from opening. In neither case may a wrong outcome be served.
//!
//! `ONCEONLY_DAMAGE=all` tries every bit, every sector and every length; a number, so many.

use crate::support::{LEASE, Rng, TTL, acquire, run_case, scaled};
use onceonly::sim::disk::SimDisk;
use onceonly::*;
use std::path::{Path, PathBuf};
use std::time::Duration;

const DIR: &str = "/store";

fn builder(disk: &SimDisk, clock: &ManualClock) -> Builder {
    Store::builder()
        .clock(clock.clone())
        .disk(disk.clone())
        .helper_thread(false)
        .ttl(TTL)
        .lease(LEASE)
        .shards(1)
        .max_keys(1_000)
        .max_bytes(16 << 20)
        .segment_bytes(4_096)
}

/// What was stored for a key.
#[derive(Debug, PartialEq)]
enum Stored {
    Absent,
    Unfinished(Vec<u8>),
    Completed(Vec<u8>, u16),
}

/// A position in the log: turn and byte.
type Pos = (u32, u32);

/// What stands in a file, by the format's description.
struct Parsed {
    turn: Option<u32>,
    /// The byte behind the last record.
    end: usize,
    /// Where something is vouched for, and what.
    vouches: Vec<(std::ops::Range<usize>, Pos)>,
}

const HEADER: usize = 64;

impl Parsed {
    fn of(bytes: &[u8]) -> Parsed {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        let pos = |word: u64| ((word >> 32) as u32, word as u32);
        let mut parsed = Parsed {
            turn: None,
            end: HEADER,
            vouches: Vec::new(),
        };
        while parsed.end + 8 <= bytes.len() {
            let at = parsed.end;
            let len = 8 * (word(at) & 0xff_ffff) as usize;
            if len == 0 {
                break;
            }
            match word(at) >> 24 & 15 {
                8 => {
                    parsed.turn = Some((word(at + 24) >> 32) as u32);
                    parsed.vouches.push((at..at + len, pos(word(at + 48))));
                }
                9 => parsed.vouches.push((at..at + len, pos(word(at + 16)))),
                _ => {}
            }
            parsed.end += len;
        }
        parsed
    }
}

/// A store that was closed.
struct Intact {
    clock: ManualClock,
    files: Vec<(PathBuf, Vec<u8>)>,
    keys: Vec<(String, Stored)>,
}

impl Intact {
    fn new(vouch_at_the_end: bool) -> Intact {
        let clock = ManualClock::new();
        let disk = SimDisk::new(1);
        let store = builder(&disk, &clock).open(DIR).unwrap();
        let mut keys = Vec::new();
        let long = Duration::from_secs(30 * 86_400);
        for i in 0..24u16 {
            let id = format!("key-{i}");
            let guard = acquire(&store, Key::new("acme", &id));
            let body = format!("outcome {i} ")
                .repeat(usize::from(i % 7) * 14 + 1)
                .into_bytes();
            let stored = match i {
                4 | 13 => {
                    guard.release().unwrap();
                    Stored::Absent
                }
                8 | 21 => {
                    let note = format!("note {i}").into_bytes();
                    guard.checkpoint(&note).unwrap();
                    Stored::Unfinished(note)
                }
                _ => {
                    let options = CompleteOptions::new().tag(i);
                    let options = if i % 5 == 0 { options.ttl(long) } else { options };
                    guard.complete_with(&body, options).unwrap();
                    Stored::Completed(body, i)
                }
            };
            keys.push((id, stored));
        }
        assert!(store.forget(Key::new("acme", "key-3")).unwrap());
        keys[3].1 = Stored::Absent;
        if vouch_at_the_end {
            store.close().unwrap();
        } else {
            drop(store);
        }
        let bytes = |path: PathBuf| {
            let bytes = disk.bytes(&path).unwrap();
            (path, bytes)
        };
        Intact {
            clock,
            files: disk.paths().into_iter().map(bytes).collect(),
            keys,
        }
    }

    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.files.clone()
    }

    fn disk(files: Vec<(PathBuf, Vec<u8>)>) -> SimDisk {
        let disk = SimDisk::new(1);
        for (path, bytes) in files {
            disk.put(&path, bytes);
        }
        disk
    }

    /// Opens what is given; an error if it is refused.
    fn open(&self, files: Vec<(PathBuf, Vec<u8>)>) -> Result<Store> {
        builder(&Self::disk(files), &self.clock).open(DIR)
    }

    /// Every key shows what was stored, or less of it. True if nothing is missing.
    fn compare(&self, store: &Store) -> bool {
        let mut whole = true;
        for (id, stored) in &self.keys {
            let key = Key::new("acme", id);
            let read = |found: onceonly::Stored<'_>| {
                let body = found.bytes().to_vec();
                Stored::Completed(body, found.tag())
            };
            let found = match store.replay(key, Fingerprint::NONE, read).unwrap() {
                Replay::Hit(found) => {
                    // Forgotten later, in a part of the log that was cut off.
                    let forgotten = id == "key-3"
                        && matches!(&found, Stored::Completed(b, 3) if b.starts_with(b"outcome 3 "));
                    assert!(
                        found == *stored || forgotten,
                        "{id}: {found:?}, stored {stored:?}"
                    );
                    found
                }
                _ => match store.status(key).unwrap() {
                    Status::Absent => Stored::Absent,
                    Status::Interrupted { .. } => {
                        let Claim::Interrupted(left) = store.claim(key, Fingerprint::NONE).unwrap() else {
                            panic!("{id} is interrupted")
                        };
                        let note = left.last_checkpoint().unwrap_or_default().to_vec();
                        let right = note.is_empty() || matches!(stored, Stored::Unfinished(n) if *n == note);
                        assert!(right, "{id}: {note:?}");
                        Stored::Unfinished(note)
                    }
                    other => panic!("{id}: {other}"),
                },
            };
            whole &= found == *stored;
        }
        whole
    }

    /// What the log's bytes say of a damage.
    fn verdict(&self, files: &[(PathBuf, Vec<u8>)]) -> Verdict {
        // What still vouches: the notes no byte of which has changed.
        let mut vouched = (0, 0);
        let mut hurt: Vec<Pos> = Vec::new();
        let mut verdict = Verdict::Opens;
        for (path, bytes) in &self.files {
            let found = files.iter().find(|(p, _)| p == path).map(|(_, bytes)| bytes);
            let same = |at: usize| found.is_some_and(|found| found.get(at) == Some(&bytes[at]));
            let is_segment = path.extension().is_some_and(|e| e == "seg");
            if !is_segment {
                let is_store = path.ends_with("STORE");
                if is_store && !(0..HEADER).all(same) {
                    return Verdict::Refused;
                }
                continue;
            }
            let parsed = Parsed::of(bytes);
            let Some(turn) = parsed.turn else {
                // Prepared, and never begun. Its header was durable all the same.
                if found.is_some_and(|found| found.len() != bytes.len())
                    || (found.is_some() && !(0..HEADER).all(same))
                {
                    verdict = Verdict::Either;
                }
                continue;
            };
            if found.is_some_and(|found| found.len() != bytes.len() || !(0..HEADER).all(same)) {
                // A file that is there has its header and its length.
                return Verdict::Refused;
            }
            for (range, pos) in &parsed.vouches {
                if range.clone().all(same) {
                    vouched = vouched.max(*pos);
                }
            }
            if let Some(at) = (HEADER..parsed.end).find(|at| !same(*at)) {
                hurt.push((turn, at as u32));
            }
        }
        if hurt.iter().any(|pos| *pos < vouched) {
            return Verdict::Refused;
        }
        verdict
    }

    /// Opens the damaged files and judges what comes.
    fn check(&self, what: &str, files: Vec<(PathBuf, Vec<u8>)>) -> Verdict {
        let verdict = self.verdict(&files);
        let lengths: Vec<(PathBuf, usize)> = files.iter().map(|(p, b)| (p.clone(), b.len())).collect();
        let untouched = (self.files.iter()).all(|(path, bytes)| {
            let same = files.iter().find(|(p, _)| p == path);
            let used = Parsed::of(bytes).end.min(bytes.len());
            same.is_some_and(|(_, found)| found.get(..used) == Some(&bytes[..used]))
        });
        match (self.open(files), verdict) {
            (Ok(store), Verdict::Opens | Verdict::Either) => {
                let whole = self.compare(&store);
                assert!(whole || !untouched, "{what}: something is missing that is there");
                acquire(&store, Key::unscoped("after"))
                    .complete(b"works")
                    .unwrap();
            }
            (Err(Error::Corrupt { segment, offset, .. }), Verdict::Refused | Verdict::Either) => {
                let len = lengths
                    .iter()
                    .find(|(path, _)| *path == segment)
                    .map(|(_, len)| *len);
                let named = segment.starts_with(DIR) && offset <= len.unwrap_or(0) as u64;
                assert!(named, "{what}: damage reported at {segment:?}, byte {offset}");
            }
            // The version is the one field that is believed before its sum.
            (Err(Error::UnsupportedFormat { .. }), Verdict::Refused | Verdict::Either) => {}
            (Ok(store), Verdict::Refused) => {
                let whole = self.compare(&store);
                panic!("{what}: opened, though it is damaged below what is vouched for; all there: {whole}");
            }
            (Err(error), _) => panic!("{what}: {error:?}, but {verdict:?}"),
        }
        verdict
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    Opens,
    Refused,
    /// The header of a file that holds nothing.
    Either,
}

/// One damage to one file.
#[derive(Clone, Debug)]
enum Damage {
    Flip(usize, u8),
    Zero(usize, usize),
    Noise(usize, usize, u64),
    Cut(usize),
}

impl Damage {
    fn random(rng: &mut Rng, file: &[u8]) -> Damage {
        let used = Parsed::of(file).end.min(file.len());
        // Half of them where something stands.
        let within = if rng.once_in(2) { used } else { file.len() };
        let at = rng.below(within as u64) as usize;
        match rng.below(8) {
            0..=3 => Damage::Flip(at, rng.below(8) as u8),
            4 => Damage::Zero(at / 512 * 512, 512),
            5 => Damage::Zero(at, 1 + rng.below(600) as usize),
            6 => Damage::Noise(at, 1 + rng.below(600) as usize, rng.next()),
            _ => Damage::Cut(at),
        }
    }

    fn apply(&self, file: &mut Vec<u8>) {
        let len = file.len();
        match *self {
            Damage::Flip(at, bit) => file[at] ^= 1 << bit,
            Damage::Zero(at, n) => file[at..(at + n).min(len)].fill(0),
            Damage::Noise(at, n, seed) => {
                let noise = Rng(seed).bytes(n);
                let to = (at + n).min(len);
                file[at..to].copy_from_slice(&noise[..to - at]);
            }
            Damage::Cut(at) => file.truncate(at),
        }
    }
}

fn every_damage(file: &[u8]) -> impl Iterator<Item = Damage> {
    let len = file.len();
    let flips = (0..len * 8).map(|bit| Damage::Flip(bit / 8, (bit % 8) as u8));
    let zeros = (0..len).step_by(512).map(|at| Damage::Zero(at, 512));
    flips.chain(zeros).chain((0..len).map(Damage::Cut))
}

#[test]
fn a_clean_close_vouches_for_everything_before_it() {
    let mut full = 0;
    for len in (2_000..3_900).step_by(8) {
        let clock = ManualClock::new();
        let disk = SimDisk::new(1);
        let store = builder(&disk, &clock).open(DIR).unwrap();
        acquire(&store, Key::unscoped("k"))
            .complete(&vec![1; len])
            .unwrap();
        store.close().unwrap();
        let segments = disk.paths().into_iter().filter(|p| p.extension().is_some());
        let parsed = segments.map(|path| Parsed::of(&disk.bytes(&path).unwrap()));
        let last = parsed
            .filter(|p| p.turn.is_some())
            .max_by_key(|p| p.turn)
            .unwrap();
        let (at, vouched) = last.vouches.last().unwrap();
        assert_eq!((at.end, vouched.1 as usize), (last.end, at.start), "length {len}");
        full += u64::from(last.end > 4_072);
        let store = builder(&disk, &clock).open(DIR).unwrap();
        let read = |stored: onceonly::Stored<'_>| stored.bytes().len();
        assert_eq!(store.recovery().torn, None, "length {len}");
        assert_eq!(store.peek(Key::unscoped("k"), read).unwrap(), Some(len));
        // In the room of its seal, where it is cut off now.
        let store = builder(&disk.kill(), &clock).open(DIR).unwrap();
        assert_eq!(store.peek(Key::unscoped("k"), read).unwrap(), Some(len));
    }
    assert!(full > 0);
}

#[test]
fn damage_is_refused_or_harmless() {
    let intact = Intact::new(true);
    let segments = intact.files.iter().filter(|(p, _)| p.extension().is_some());
    assert!(segments.count() >= 4, "{}", intact.files.len());
    assert_eq!(intact.check("nothing", intact.files()), Verdict::Opens);
    // By far the most of what stands there is vouched for.
    let all = std::env::var("ONCEONLY_DAMAGE").is_ok_and(|v| v == "all");
    let count = if all { 0 } else { scaled("ONCEONLY_DAMAGE", 20_000) };
    let numbered: Vec<usize> = (0..intact.files.len())
        .filter(|n| !intact.files[*n].1.is_empty())
        .collect();
    let mut refused = 0;
    let mut judge = |what: &str, n: usize, damage: &Damage| {
        let mut files = intact.files();
        damage.apply(&mut files[n].1);
        refused += u64::from(intact.check(what, files) == Verdict::Refused);
    };
    let mut tried = 0;
    if all {
        for n in &numbered {
            for damage in every_damage(&intact.files[*n].1) {
                judge(&format!("{:?} {damage:?}", intact.files[*n].0), *n, &damage);
                tried += 1;
            }
        }
    }
    for seed in 0..count {
        let mut rng = Rng(seed);
        let n = rng.pick(&numbered);
        let damage = Damage::random(&mut rng, &intact.files[n].1);
        judge(
            &format!("seed {seed}: {:?} {damage:?}", intact.files[n].0),
            n,
            &damage,
        );
        tried += 1;
    }
    eprintln!("{tried} damages, {refused} refused");
    assert!(refused * 4 > tried, "{refused} of {tried}");
}

#[test]
fn several_damages_at_once_are_refused_or_harmless() {
    let intact = Intact::new(false);
    let numbered: Vec<usize> = (0..intact.files.len())
        .filter(|n| !intact.files[*n].1.is_empty())
        .collect();
    for seed in 0..scaled("ONCEONLY_DAMAGE_PAIRS", 3_000) {
        let mut rng = Rng(!seed);
        let mut files = intact.files();
        let mut what = format!("seed {seed}:");
        for _ in 0..2 + rng.below(3) {
            let n = rng.pick(&numbered);
            let damage = Damage::random(&mut rng, &intact.files[n].1);
            if files[n].1.len() == intact.files[n].1.len() {
                damage.apply(&mut files[n].1);
                what += &format!(" {:?} {damage:?}", intact.files[n].0);
            }
        }
        run_case("several damages", seed, seed, |_| intact.check(&what, files));
    }
}

#[test]
fn a_missing_swapped_or_copied_segment_is_noticed() {
    let intact = Intact::new(true);
    let is_segment = |n: &usize| intact.files[*n].0.extension().is_some();
    let segments: Vec<usize> = (0..intact.files.len()).filter(is_segment).collect();
    let begun: Vec<usize> = (segments.iter().copied())
        .filter(|n| Parsed::of(&intact.files[*n].1).turn.is_some())
        .collect();
    let (last, older) = begun.split_last().unwrap();
    for n in &segments {
        let mut files = intact.files();
        let (path, bytes) = files.remove(*n);
        // Nothing that is left vouches for the last one.
        let verdict = intact.check(&format!("{path:?} is missing"), files);
        assert_eq!(verdict == Verdict::Refused, older.contains(n), "{path:?}");
        // The same bytes under another name.
        let mut files = intact.files();
        files.push((PathBuf::from("/store/000000ff.seg"), bytes.clone()));
        let copied = intact.open(files);
        assert!(matches!(copied, Err(Error::Corrupt { .. })), "{copied:?}");
        for m in segments.iter().filter(|m| *m != n) {
            let mut files = intact.files();
            files[*m].1 = bytes.clone();
            let replaced = intact.open(files);
            assert!(matches!(replaced, Err(Error::Corrupt { .. })), "{replaced:?}");
            let mut files = intact.files();
            files[*n].1 = files[*m].1.clone();
            files[*m].1 = bytes.clone();
            let swapped = intact.open(files);
            assert!(matches!(swapped, Err(Error::Corrupt { .. })), "{swapped:?}");
        }
    }
    assert!(older.len() >= 2 && !older.contains(last));
}

#[test]
fn a_segment_of_another_store_is_refused() {
    let (one, other) = (Intact::new(true), Intact::new(true));
    let foreign = other.files.iter().filter(|(p, _)| p.extension().is_some());
    for (path, bytes) in foreign {
        for name in [path.clone(), PathBuf::from("/store/000000ff.seg")] {
            let mut files = one.files();
            files.retain(|(path, _)| *path != name);
            let mut bytes = bytes.clone();
            if name != *path {
                // Even if somebody fits its header to the name, and leaves the sum.
                bytes[24] = 0xff;
            }
            files.push((name, bytes));
            let opened = one.open(files);
            assert!(matches!(opened, Err(Error::Corrupt { .. })), "{opened:?}");
        }
    }
    // The other way round: its STORE file.
    let mut files = one.files();
    let store = |files: &[(PathBuf, Vec<u8>)]| files.iter().position(|(p, _)| p.ends_with("STORE")).unwrap();
    let at = store(&files);
    files[at].1 = other.files[store(&other.files)].1.clone();
    let opened = one.open(files);
    assert!(matches!(opened, Err(Error::Corrupt { .. })), "{opened:?}");
}

#[test]
fn a_file_that_is_another_than_its_name_says_is_refused() {
    let intact = Intact::new(true);
    let at = |named: fn(&Path) -> bool| intact.files.iter().position(|(p, _)| named(p)).unwrap();
    let store = at(|p| p.ends_with("STORE"));
    let segment = at(|p| p.extension().is_some());
    for (n, from, expected) in [
        (store, segment, "it is not the STORE file"),
        (segment, store, "it is not the segment its name says"),
    ] {
        let mut files = intact.files();
        files[n].1 = intact.files[from].1.clone();
        match intact.open(files) {
            Err(Error::Corrupt { segment, what, .. }) => {
                assert_eq!((segment, what), (intact.files[n].0.clone(), expected));
            }
            opened => panic!("{opened:?}"),
        }
    }
}

#[test]
fn what_does_not_belong_into_the_directory_is_named() {
    let intact = Intact::new(true);
    let with = |name: &str| {
        let mut files = intact.files();
        files.push((Path::new(DIR).join(name), b"something".to_vec()));
        intact.open(files)
    };
    for name in ["notes.txt", "00000001.SEG", "1.seg", "STORE.bak"] {
        let opened = with(name);
        assert!(
            matches!(
                opened,
                Err(Error::InvalidInput {
                    what: "directory",
                    ..
                })
            ),
            "{name}: {opened:?}"
        );
    }
    for name in [".nfs0001", "lost+found", "00000063.seg.new", "STORE.new"] {
        let store = with(name).unwrap();
        assert!(intact.compare(&store), "{name}");
    }
    // Somebody's file that only looks like a segment is not touched.
    assert!(matches!(with("00000099.seg"), Err(Error::Corrupt { .. })));
}

#[test]
fn the_store_file_is_missed_and_a_newer_format_is_named() {
    let intact = Intact::new(true);
    let at = intact
        .files
        .iter()
        .position(|(p, _)| p.ends_with("STORE"))
        .unwrap();
    let mut files = intact.files();
    files.remove(at);
    let opened = intact.open(files);
    assert!(
        matches!(&opened, Err(Error::Corrupt { segment, .. }) if segment.ends_with("STORE")),
        "{opened:?}"
    );
    for n in (0..intact.files.len()).filter(|n| !intact.files[*n].1.is_empty()) {
        let mut files = intact.files();
        crate::format::be_of_version(&mut files[n].1, 2);
        let opened = intact.open(files);
        assert!(
            matches!(opened, Err(Error::UnsupportedFormat { found: 2, newest: 1 })),
            "{opened:?}"
        );
    }
    // A directory with a lock and nothing else is a new store.
    let empty = vec![(Path::new(DIR).join("LOCK"), Vec::new())];
    assert_eq!(intact.open(empty).unwrap().recovery().records, 0);
}

/// A directory of this test's own on the real disk.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("onceonly-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_directory_that_is_a_file_is_an_error_that_names_it() {
    let scratch = Scratch::new("file");
    let file = scratch.0.join("store");
    std::fs::write(&file, b"not a directory").unwrap();
    let opened = Store::open(&file);
    let Err(Error::Io { path, source, .. }) = opened else {
        panic!("{opened:?}")
    };
    assert!(path.starts_with(&file), "{path:?}: {source}");
    assert_eq!(std::fs::read(&file).unwrap(), b"not a directory");
    let below = Store::open(file.join("deeper"));
    assert!(matches!(below, Err(Error::Io { .. })), "{below:?}");
}

#[test]
#[cfg(unix)]
fn a_directory_that_may_not_be_written_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    // SAFETY of the claim, not of memory: root may write everywhere.
    let scratch = Scratch::new("read-only");
    let dir = scratch.0.join("store");
    Store::open(&dir).unwrap().close().unwrap();
    let mode = |mode| std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o500);
    if std::fs::write(dir.join(".probe"), b"").is_ok() {
        eprintln!("SKIPPED: a_directory_that_may_not_be_written_is_an_error: root may write everywhere");
        mode(0o700);
        return;
    }
    let opened = Store::open(&dir);
    mode(0o700);
    assert!(
        matches!(&opened, Err(Error::Io { path, .. }) if path.starts_with(&dir)),
        "{opened:?}"
    );
    Store::open(&dir).unwrap();
}
