//! Opening what an input has made, and looking at all that is in it.

use super::forge::Keyed;
use onceonly::sim::disk::SimDisk;
use onceonly::*;
use std::collections::BTreeMap;
use std::path::Path;

pub(crate) const DIR: &str = "/store";
/// More than all stores of a case may take.
const CAPACITY: u64 = 32 << 20;

/// Scope and id.
pub(crate) type Name = (Vec<u8>, Vec<u8>);
pub(crate) type Contents = BTreeMap<Name, Seen>;

/// What a key is, without what depends on the moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    Completed {
        generation: u64,
        tag: u16,
        fingerprint: Fingerprint,
        outcome: Vec<u8>,
    },
    Unfinished {
        generation: u64,
        attempt: u32,
        fingerprint: Fingerprint,
        checkpoint: Option<Vec<u8>>,
    },
}

impl Seen {
    /// What a record says, if it says that the key is there.
    pub(crate) fn of(record: &Keyed) -> Option<Seen> {
        let fingerprint = record.fingerprint.map_or(Fingerprint::NONE, |words| {
            let mut bytes = [0; 16];
            let from = words.into_iter().flat_map(u64::to_le_bytes);
            bytes.iter_mut().zip(from).for_each(|(to, byte)| *to = byte);
            Fingerprint::from_bytes(bytes)
        });
        let (generation, tag) = (record.generation, record.tag);
        match record.kind {
            1 => Some(Seen::Completed {
                generation,
                tag,
                fingerprint,
                outcome: record.body.clone(),
            }),
            2 => Some(Seen::Unfinished {
                generation,
                attempt: (record.counts.unwrap_or(0) >> 32) as u32,
                fingerprint,
                checkpoint: (tag & super::forge::NOTED != 0).then(|| record.body.clone()),
            }),
            _ => None,
        }
    }

    pub(crate) fn told(found: &Inspected) -> Seen {
        let (generation, fingerprint) = (found.generation, found.fingerprint);
        match &found.recorded {
            Recorded::Completed { outcome, tag, .. } => Seen::Completed {
                generation,
                tag: *tag,
                fingerprint,
                outcome: outcome.clone(),
            },
            Recorded::Unfinished {
                attempt, checkpoint, ..
            } => Seen::Unfinished {
                generation,
                attempt: *attempt,
                fingerprint,
                checkpoint: checkpoint.clone(),
            },
            other => panic!("a scan shows {other:?}"),
        }
    }
}

pub(crate) fn disk() -> SimDisk {
    let disk = SimDisk::new(1);
    disk.set_capacity(CAPACITY);
    disk
}

pub(crate) fn open(disk: &SimDisk, clock: &ManualClock, dir: &str) -> Result<Store> {
    Store::builder()
        .clock(clock.clone())
        .disk(disk.clone())
        .helper_thread(false)
        .shards(2)
        .max_keys(1_000)
        .max_bytes(16 << 20)
        .segment_bytes(4_096)
        .open(dir)
}

pub(crate) fn key(name: &Name) -> Key<'_> {
    match name {
        (scope, id) if scope.is_empty() => Key::unscoped(id),
        (scope, id) => Key::new(scope, id),
    }
}

pub(crate) fn name(key: Key<'_>) -> Name {
    (key.scope().to_vec(), key.id().to_vec())
}

/// Everything in a store that was just opened.
pub(crate) fn contents(store: &Store) -> Contents {
    let scan = store.scan(ScanFilter::new()).expect("it is open");
    let found: Vec<_> = scan.map(|found| found.expect("it is open")).collect();
    let see = |(key, status): (KeyBuf, Status)| {
        let seen = see(store, key.as_key(), &status);
        (name(key.as_key()), seen)
    };
    found.into_iter().map(see).collect()
}

fn see(store: &Store, key: Key<'_>, status: &Status) -> Seen {
    let claim = |fingerprint| store.claim(key, fingerprint).expect("the key is known");
    // No request has this one, so the answer says which the key has.
    let odd = Fingerprint::from_bytes([0x5a; 16]);
    let (claim, fingerprint) = match claim(odd) {
        Claim::Mismatch(other) => (claim(other.fingerprint()), other.fingerprint()),
        claim => (claim, odd),
    };
    match (claim, status) {
        (Claim::Completed(outcome), Status::Completed { generation, tag, .. }) => {
            assert_eq!((outcome.generation(), outcome.tag()), (*generation, *tag));
            Seen::Completed {
                generation: *generation,
                tag: *tag,
                fingerprint,
                outcome: outcome.into_vec(),
            }
        }
        (
            Claim::Interrupted(left),
            Status::Interrupted {
                generation, attempt, ..
            },
        ) => Seen::Unfinished {
            generation: *generation,
            attempt: *attempt,
            fingerprint,
            checkpoint: left.last_checkpoint().map(<[u8]>::to_vec),
        },
        (claim, status) => panic!("{key:?} is {status}, and a claim gets {claim:?}"),
    }
}

/// What a file of any bytes may be refused with.
pub(crate) fn is_a_refusal(error: &Error) -> bool {
    matches!(
        error,
        Error::Corrupt { .. } | Error::UnsupportedFormat { .. } | Error::InvalidInput { .. }
    )
}

/// All files, but for what every open may make or remove.
pub(crate) fn files(disk: &SimDisk, dir: &str) -> BTreeMap<String, Vec<u8>> {
    let inside = disk.paths().into_iter().filter(|path| path.starts_with(dir));
    let named = inside.filter_map(|path| {
        let name = path.file_name()?.to_str()?.to_string();
        let bytes = disk.bytes(Path::new(&path))?;
        (name != "LOCK" && !name.ends_with(".new")).then_some((name, bytes))
    });
    named.collect()
}
