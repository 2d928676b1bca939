//! One segment whose records are the input, and tokens: the two decoders of bytes from outside.
//!
//! The segment's header and its MARK are fine, and the sums of its records are put right if the
//! input wants it. What an [`Inspector`] and a [`Store`] then show is what a reading by the
//! format's description shows ([`forge::Reading`]): the same keys, the same bytes, the same record
//! of each key.

use super::forge::{self, BASE, Header, Keyed, MARK_WORDS, Note, Reading, TTL};
use super::input::Input;
use super::look::{self, DIR, Name, Seen, contents, key, name, open};
use onceonly::sim::disk::SimDisk;
use onceonly::*;
use std::collections::BTreeMap;
use std::path::Path;

/// Bytes of records; more show nothing that fewer do not.
const MOST: usize = 16 << 10;

pub(crate) fn run(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    match input.byte() {
        0..192 => segment(&mut input),
        _ => token(&mut input),
    }
}

fn segment(input: &mut Input<'_>) -> bool {
    let (header, words) = forged(input);
    let disk = look::disk();
    let put = |name: &str, words: &[u64]| disk.put(&Path::new(DIR).join(name), forge::to_bytes(words));
    put("STORE", &Header::store().to_words());
    put("00000001.seg", &words);
    let clock = ManualClock::new();
    let inspector = Inspector::on_disk(disk.clone(), DIR).expect("the STORE file is fine");
    let inspector = inspector.with_clock(clock.clone());
    let stat = inspector.stat().expect("damage is told, not an error");
    let verdict = inspector.verify();
    assert_eq!(stat.damage.is_none(), verdict.is_ok());
    let before = look::files(&disk, DIR);
    match open(&disk, &clock, DIR) {
        Ok(store) => {
            verdict.expect("it opens");
            let reading = Reading::of(&words, header);
            let latest = reading.latest.max(BASE);
            let expected = forge::winners(reading.records);
            compare(&expected, header, latest, &contents(&store));
            attach_any(&store, &expected);
            drop(store);
            let untouched = look::disk();
            for (name, bytes) in before {
                untouched.put(&Path::new(DIR).join(name), bytes);
            }
            inspect(untouched, &clock, &expected, header, latest);
            true
        }
        Err(error) => {
            assert!(look::is_a_refusal(&error), "{error:?}");
            assert_eq!(verdict.unwrap_err().to_string(), error.to_string());
            assert_eq!(before, look::files(&disk, DIR), "a refused store was changed");
            false
        }
    }
}

/// A segment that begins well and goes on as the input says.
fn forged(input: &mut Input<'_>) -> (Header, Vec<u64>) {
    let (wishes, spare) = (input.byte(), usize::from(input.byte()));
    let room = input.pick(&[0, 1, 2, 3, 9, 64, 300]);
    let body = forge::to_words(input.bytes(MOST));
    let header = Header {
        base: [BASE, BASE - TTL, 0, u64::MAX - (1 << 60)][usize::from(wishes & 3)],
        ttl: [TTL, 1, 40 * 86_400_000, 1 << 60][usize::from(wishes >> 2 & 3)],
        ..Header::segment(1, (forge::HEADER_WORDS + MARK_WORDS + body.len() + room).max(16))
    };
    let mut words = header.to_words().to_vec();
    words.extend(Note::mark(1, 1, 0).to_words());
    words.extend(body);
    words.resize(header.words as usize, 0);
    let sealed = wishes & 0x80 == 0;
    // The MARK's sum is always right; of the others, `spare` numbers one that is not.
    forge::seal(&mut words, forge::HEADER_WORDS, header.stamp(), |n| {
        n > 0 && (!sealed || n == spare)
    });
    (header, words)
}

fn compare(expected: &BTreeMap<Name, Keyed>, header: Header, latest: u64, found: &look::Contents) {
    for (name, seen) in found {
        let record = expected
            .get(name)
            .unwrap_or_else(|| panic!("{name:?}: nobody wrote {seen:?}"));
        assert_eq!(Seen::of(record).as_ref(), Some(seen), "{name:?}");
    }
    for (name, record) in expected {
        let is_live = Seen::of(record).is_some() && record.deadline(header.base) > latest;
        assert!(
            !is_live || found.contains_key(name),
            "{name:?} is missing: {record:?}"
        );
    }
}

fn inspect(
    disk: SimDisk,
    clock: &ManualClock,
    expected: &BTreeMap<Name, Keyed>,
    header: Header,
    latest: u64,
) {
    let inspector = Inspector::on_disk(disk, DIR).expect("it was opened");
    let inspector = inspector.with_clock(clock.clone());
    let scan = inspector.scan(ScanFilter::new()).expect("it was opened");
    let told = scan.map(|found| {
        let (key, found) = found.expect("it was opened");
        (name(key.as_key()), Seen::told(&found))
    });
    compare(expected, header, latest, &told.collect());
    for (name, record) in expected.iter().take(4) {
        let found = inspector.get(key(name)).expect("it was opened");
        let found = found.unwrap_or_else(|| panic!("{name:?} has a record: {record:?}"));
        assert_eq!(found.generation, record.generation);
    }
}

/// A token of a key that is there and of one that is not: taken up or refused, and never twice.
fn attach_any(store: &Store, expected: &BTreeMap<Name, Keyed>) {
    let nobody = Keyed {
        id: b"nobody".to_vec(),
        ..Keyed::default()
    };
    for record in expected.values().take(3).chain([&nobody]) {
        let token = ClaimToken::from_bytes(&token_of(record)).expect("it is whole");
        let taken = store.attach(&token).map(|claim| match claim {
            Claim::Acquired(guard) => Some(guard.generation()),
            _ => None,
        });
        match taken {
            // Where the log's own word on generations does not hold, none is larger than all.
            Ok(Some(_)) if token.generation() >= forge::CEILING => {}
            Ok(Some(generation)) => {
                assert!(generation > token.generation());
                assert!(matches!(store.attach(&token), Err(Error::LeaseLost { .. })));
            }
            Ok(None) | Err(Error::LeaseLost { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// By the description in `src/token.rs`.
fn token_of(record: &Keyed) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend(forge::STORE.to_le_bytes());
    bytes.extend(record.generation.to_le_bytes());
    let fingerprint = record.fingerprint.unwrap_or_default();
    bytes.extend(fingerprint.into_iter().flat_map(u64::to_le_bytes));
    bytes.push(record.scope.len() as u8);
    bytes.extend((record.id.len() as u16).to_le_bytes());
    bytes.extend(record.scope.iter().chain(&record.id));
    sealed(bytes)
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32fast::hash(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// Any bytes and any string: a token comes back as it was, whatever else is refused.
fn token(input: &mut Input<'_>) -> bool {
    let wish = input.byte();
    let given = input.rest();
    if let Ok(text) = std::str::from_utf8(given)
        && let Ok(token) = text.parse::<ClaimToken>()
    {
        assert_eq!(token.to_string(), text.to_lowercase());
    }
    let bytes = if wish & 1 == 0 {
        sealed(given.to_vec())
    } else {
        given.to_vec()
    };
    let Ok(token) = ClaimToken::from_bytes(&bytes) else {
        return false;
    };
    assert_eq!(token.to_bytes(), bytes);
    assert_eq!(token.to_string().parse::<ClaimToken>().expect("it is one"), token);
    let store = Store::builder()
        .shards(1)
        .helper_thread(false)
        .max_keys(64)
        .max_bytes(8 << 20);
    let store = store.in_memory().expect("the options fit");
    let refused = store.attach(&token).map(|_| ());
    assert!(refused.is_err(), "a token of another store was taken up");
    true
}
