//! A whole directory: a log built step by step as a store builds it, and then whatever the input
//! does to it. It opens, is inspected, is salvaged.
//!
//! - It opens, or is refused with an error that names what is wrong; an [`Inspector`] says the
//!   same, and a refusal changes nothing.
//! - What was opened shows the same when it is opened again: after a close, a kill, a power cut.
//! - What could be salvaged opens; of a log without a scratch it shows what the log shows.

use super::forge::{self, BASE, Header, Keyed, Note, TTL};
use super::input::Input;
use super::look::{self, Contents, DIR, Seen, contents, open};
use onceonly::sim::disk::{Cut, SimDisk};
use onceonly::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const STEPS: usize = 64;
/// Segments a case begins.
const MOST: usize = 8;
const MENDED: &str = "/mended";

pub(crate) fn run(bytes: &[u8]) -> bool {
    let mut input = Input::new(bytes);
    let clock = ManualClock::new();
    // Less than a day, so that all who read believe it.
    clock.advance(Duration::from_millis(input.number().min(80_000_000)));
    let mut directory = Directory::new();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        directory.step(&mut input);
    }
    let disk = directory.on_disk();
    let salvaged = salvage_of(&disk.copy(), &clock);
    let inspected = inspect(&disk, &clock);
    let before = look::files(&disk, DIR);
    match open(&disk, &clock, DIR) {
        Ok(store) => {
            let first = contents(&store);
            if before.contains_key("STORE") {
                let told = inspected.expect("it opens");
                assert_told(&first, &told);
            }
            let recovery = store.recovery().clone();
            if !is_at_the_end_of_the_numbers(&disk) {
                opens_again(&disk, &clock, &first, store);
            }
            // Salvage may find more than an open believes: behind a cut, without a MARK, or because
            // it goes by the time noted in the log and an open by that of each record too.
            if let Some((mended, report)) = salvaged
                && recovery.torn.is_none()
                && recovery.clock_disbelieved.is_none()
                && is_whole(&report)
                && recovery.segments == report.segments
            {
                let same = without_generations(first.clone()) == without_generations(mended.clone());
                assert!(same, "{recovery}: {first:?}; salvaged {report}: {mended:?}");
            }
            true
        }
        Err(error) => {
            assert!(look::is_a_refusal(&error), "{error:?}");
            // Of several reasons each names the one it meets first.
            let told = inspected.expect_err("it is refused");
            assert!(look::is_a_refusal(&told), "{told:?}");
            assert_eq!(before, look::files(&disk, DIR), "a refused store was changed");
            let again = open(&disk, &clock, DIR).map(|_| ()).unwrap_err();
            assert_eq!(again.to_string(), error.to_string());
            false
        }
    }
}

/// What an inspector shows, or why the store would not be opened.
fn inspect(disk: &SimDisk, clock: &ManualClock) -> Result<Contents> {
    let inspector = Inspector::on_disk(disk.clone(), DIR)?.with_clock(clock.clone());
    let verdict = inspector.verify();
    let stat = inspector.stat()?;
    assert_eq!(
        stat.damage.map(|e| e.to_string()),
        verdict.as_ref().err().map(Error::to_string)
    );
    verdict?;
    inspector
        .scan(ScanFilter::new())?
        .map(|found| found.map(|(key, found)| (look::name(key.as_key()), Seen::told(&found))))
        .collect()
}

/// The store's time may be later than what an inspector knows of, so that less is left.
fn assert_told(opened: &Contents, told: &Contents) {
    for (name, seen) in opened {
        assert_eq!(told.get(name), Some(seen), "{name:?}");
    }
}

fn opens_again(disk: &SimDisk, clock: &ManualClock, first: &Contents, store: Store) {
    for (how, disk) in [
        ("kill", disk.copy().kill()),
        ("cut", disk.copy().cut(Cut::LoseAll)),
        ("torn", disk.copy().cut(Cut::Random)),
    ] {
        let again = open(&disk, clock, DIR).unwrap_or_else(|e| panic!("after a {how}: {e}"));
        assert_eq!(*first, contents(&again), "after a {how}");
    }
    store.close().expect("the disk works");
    let again = open(disk, clock, DIR).unwrap_or_else(|e| panic!("after a close: {e}"));
    assert_eq!(*first, contents(&again), "after a close");
}

/// Is a turn or a serial so near its limit that another life of the store has none left? Limits
/// that no store comes to, however long it lives, but inputs do.
fn is_at_the_end_of_the_numbers(disk: &SimDisk) -> bool {
    const NEAR: u64 = (1 << 31) - 64;
    let inspector = Inspector::on_disk(disk.clone(), DIR).expect("it is open");
    let stat = inspector.stat().expect("it is open");
    let names = look::files(disk, DIR);
    let serials = names
        .keys()
        .filter_map(|name| u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok());
    u64::from(stat.end.turn) >= NEAR || serials.max() >= Some(NEAR)
}

fn is_whole(report: &SalvageReport) -> bool {
    report.damaged.is_empty() && report.unreadable.is_empty() && report.missing == 0
}

/// What is in the salvaged store.
fn salvage_of(disk: &SimDisk, clock: &ManualClock) -> Option<(Contents, SalvageReport)> {
    let before = look::files(disk, DIR);
    let salvaged = salvage_on(disk.clone(), clock.clone(), DIR, MENDED);
    assert_eq!(before, look::files(disk, DIR), "salvage changed what it read");
    match salvaged {
        Ok(report) => {
            let store = open(disk, clock, MENDED).unwrap_or_else(|e| panic!("{report:?}: {e}"));
            let mended = contents(&store);
            assert!(report.completed + report.interrupted >= mended.len() as u64);
            drop(store);
            Some((mended, report))
        }
        Err(error) => {
            assert!(look::is_a_refusal(&error), "{error:?}");
            None
        }
    }
}

/// A salvaged claim is another generation's, and nothing else.
fn without_generations(mut contents: Contents) -> Contents {
    for seen in contents.values_mut() {
        match seen {
            Seen::Completed { generation, .. } | Seen::Unfinished { generation, .. } => *generation = 0,
        }
    }
    contents
}

/// A segment as it is being made.
#[derive(Clone)]
struct Segment {
    header: Header,
    turn: u32,
    words: Vec<u64>,
    /// Where the next record goes.
    end: usize,
}

impl Segment {
    fn append(&mut self, record: &[u64]) {
        let from = self.end;
        if from + record.len() > self.words.len() {
            return;
        }
        self.words[from..from + record.len()].copy_from_slice(record);
        self.end += record.len();
        // What lies behind is no part of it, and keeps the sum it has.
        let stamp = self.header.stamp();
        forge::seal(&mut self.words[..self.end], from, stamp, |_| false);
    }

    fn seal_again(&mut self) {
        let stamp = self.header.stamp();
        forge::seal(&mut self.words, forge::HEADER_WORDS, stamp, |_| false);
    }

    fn to_file(&self) -> Vec<u8> {
        let header = self.header.to_words();
        forge::to_bytes(&[&header, &self.words[forge::HEADER_WORDS..]].concat())
    }
}

/// The directory as it is being made.
struct Directory {
    store: Option<Vec<u8>>,
    segments: Vec<Segment>,
    /// Files as bytes, made by the last steps; they take the place of segments of their name.
    others: BTreeMap<String, Vec<u8>>,
    gone: Vec<String>,
    generation: u64,
}

fn file_name(serial: u64) -> String {
    format!("{serial:08x}.seg")
}

impl Directory {
    fn new() -> Directory {
        let mut store = forge::to_bytes(&Header::store().to_words());
        store.resize(4_096, 0);
        Directory {
            store: Some(store),
            segments: Vec::new(),
            others: BTreeMap::new(),
            gone: Vec::new(),
            generation: 1,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() {
            0..24 => self.begin_segment(input),
            24..110 => self.append_keyed(input),
            110..130 => self.vouch(input),
            130..138 => self.note(input),
            138..146 => self.append_raw(input),
            146..154 => self.damage(input, true),
            154..170 => self.damage(input, false),
            170..186 => self.poke_header(input),
            186..196 => self.copy_segment(input),
            196..206 => self.remove_segment(input),
            206..216 => self.resize_file(input),
            216..226 => self.other_file(input),
            226..232 => self.damage_store(input),
            // Tears the tail off: what was written last is not there.
            232..240 => {
                if let Some(last) = self.segments.last_mut() {
                    let keep = usize::from(input.byte()).min(last.end);
                    last.words[keep.max(forge::HEADER_WORDS)..].fill(0);
                }
            }
            240.. => self.append_keyed(input),
        }
    }

    /// As a store does it: seals the last one, goes on in the next, vouches for what is behind.
    fn begin_segment(&mut self, input: &mut Input<'_>) {
        if self.segments.len() == MOST {
            return;
        }
        let wishes = input.byte();
        let mut vouched = 0;
        let mut turn = 1;
        if let Some(last) = self.segments.last_mut() {
            if wishes & 1 == 0 {
                last.append(&Note::Seal.to_words());
            }
            vouched = forge::position(last.turn, last.end);
            turn = last.turn.saturating_add(1);
        }
        if wishes & 0x18 == 0x18 {
            turn = input.number() as u32;
        }
        let first = if wishes & 6 == 6 { input.number() as u32 } else { 1 };
        let vouched = if wishes & 0x20 == 0 { vouched } else { 0 };
        let serial = self.segments.len() as u32 + 1;
        let words = input.pick(&[128, 64, 16, 512]);
        let header = Header::segment(serial, words);
        let mut segment = Segment {
            header,
            turn,
            words: vec![0; words],
            end: forge::HEADER_WORDS,
        };
        if wishes & 0xc0 != 0xc0 {
            segment.append(&Note::mark(turn, first, vouched).to_words());
        }
        self.segments.push(segment);
    }

    fn append_keyed(&mut self, input: &mut Input<'_>) {
        let what = input.byte();
        self.generation = match what >> 6 {
            0 | 1 => (self.generation + 1) & 0xffff_ffff_ffff,
            2 => self.generation,
            _ => input.number() & 0xffff_ffff_ffff,
        };
        let kind = [1, 2, 2, 1, 3, 1, 4, 2][usize::from(what & 7)];
        let id = input.byte();
        let shape = input.byte();
        let body = vec![id ^ shape; input.pick(&[5, 0, 8, 40, 300])];
        let is_claim = kind == 2;
        let counts = (is_claim && shape & 1 != 0).then(|| u64::from(input.byte()) << 28 | input.number());
        let noted = is_claim && shape & 2 != 0;
        let claim_flags =
            if noted { forge::NOTED } else { 0 } | if counts.is_some() { forge::COUNTED } else { 0 };
        let tells = is_claim || shape & 4 != 0;
        let record = Keyed {
            kind,
            scope: if what & 8 == 0 {
                b"acme".to_vec()
            } else {
                Vec::new()
            },
            id: vec![b'a' + id % 6],
            generation: self.generation,
            tag: if is_claim { claim_flags } else { u16::from(shape) },
            fingerprint: (shape & 8 != 0).then_some([u64::from(id & 1), 2]),
            written: tells.then(|| BASE.wrapping_add(if shape & 16 == 0 { 0 } else { input.number() })),
            counts,
            expires: (TTL as u32).wrapping_add(if shape & 32 == 0 { 0 } else { input.number() as u32 }),
            coarse: shape & 64 != 0,
            body: if is_claim && !noted || kind > 2 {
                Vec::new()
            } else {
                body
            },
        };
        if let Some(last) = self.segments.last_mut() {
            last.append(&record.to_words());
        }
    }

    fn vouch(&mut self, input: &mut Input<'_>) {
        let wishes = input.byte();
        let Some(last) = self.segments.last_mut() else {
            return;
        };
        let position = match wishes {
            0..192 => forge::position(last.turn, last.end),
            192..224 => forge::position(last.turn, usize::from(input.byte())),
            _ => input.number(),
        };
        last.append(&Note::Vouch(position).to_words());
    }

    fn note(&mut self, input: &mut Input<'_>) {
        let mark = Note::Mark {
            ceiling: input.number(),
            turn: input.number() as u32,
            first: input.number() as u32,
            now: BASE.wrapping_add(input.number()),
            offset: input.number(),
            vouched: input.number(),
        };
        let note = if input.byte() < 16 { Note::Seal } else { mark };
        if let Some(last) = self.segments.last_mut() {
            last.append(&note.to_words());
        }
    }

    fn append_raw(&mut self, input: &mut Input<'_>) {
        let sealed = input.byte() & 1 == 0;
        let words = forge::to_words(input.bytes(64));
        let Some(last) = self.segments.last_mut() else {
            return;
        };
        let (end, sum) = (last.end, words.get(1).copied());
        last.append(&words);
        if let (false, Some(sum), true) = (sealed, sum, last.end > end) {
            last.words[end + 1] = sum;
        }
    }

    fn one(&mut self, input: &mut Input<'_>) -> Option<&mut Segment> {
        let number = usize::from(input.byte());
        let count = self.segments.len().max(1);
        self.segments.get_mut(number % count)
    }

    fn damage(&mut self, input: &mut Input<'_>, seals: bool) {
        let (how, at, by) = (input.byte(), input.number() as usize, input.number());
        let Some(segment) = self.one(input) else { return };
        let at = at % segment.words.len();
        match how {
            0..128 => segment.words[at] ^= by,
            128..200 => segment.words[at] = 0,
            // A sector.
            _ => segment.words[at & !63..]
                .iter_mut()
                .take(64)
                .for_each(|word| *word = 0),
        }
        if seals {
            segment.seal_again();
        }
    }

    fn poke_header(&mut self, input: &mut Input<'_>) {
        let (field, value) = (input.byte(), input.number());
        let Some(segment) = self.one(input) else { return };
        let header = &mut segment.header;
        match field % 8 {
            0 => header.version = value as u32,
            1 => header.what = value as u32,
            2 => header.store = value,
            3 => header.serial = value,
            4 => header.life = value,
            5 => header.base = value,
            6 => header.ttl = value,
            _ => header.words = value as u32,
        }
        if field & 8 != 0 {
            segment.seal_again();
        }
    }

    /// The same bytes under another name, and perhaps with the header that belongs to it.
    fn copy_segment(&mut self, input: &mut Input<'_>) {
        let (wishes, serial) = (input.byte(), u64::from(input.byte()));
        let Some(segment) = self.one(input) else { return };
        let mut copy = segment.clone();
        if wishes & 1 != 0 {
            copy.header.serial = serial;
        }
        if wishes & 2 != 0 {
            copy.seal_again();
        }
        self.others.insert(file_name(serial), copy.to_file());
    }

    fn remove_segment(&mut self, input: &mut Input<'_>) {
        if let Some(segment) = self.one(input) {
            let name = file_name(segment.header.serial);
            self.gone.push(name);
        }
    }

    fn resize_file(&mut self, input: &mut Input<'_>) {
        let len = input.number() as usize % 8_192;
        let Some(segment) = self.one(input) else { return };
        let mut bytes = segment.to_file();
        bytes.resize(len, 0);
        let name = file_name(segment.header.serial);
        self.others.insert(name, bytes);
    }

    fn other_file(&mut self, input: &mut Input<'_>) {
        const NAMES: [&str; 8] = [
            "00000009.seg.new",
            "STORE.new",
            "LOCK",
            ".hidden",
            "0000000A.seg",
            "ffffffff.seg",
            "0000000a.seg",
            "notes.txt",
        ];
        let name = input.pick(&NAMES);
        let bytes = input.bytes(128).to_vec();
        self.others.insert(name.into(), bytes);
    }

    fn damage_store(&mut self, input: &mut Input<'_>) {
        let (how, value) = (input.byte(), input.number());
        let mut header = Header::store();
        match how % 6 {
            0 => header.version = value as u32,
            1 => header.what = value as u32,
            2 => header.store = value,
            3 => header.serial = value,
            4 => {
                self.store = None;
                return;
            }
            _ => {
                let store = self.store.get_or_insert_default();
                store.truncate(value as usize % 128);
                return;
            }
        }
        self.store = Some(forge::to_bytes(&header.to_words()));
    }

    fn on_disk(self) -> SimDisk {
        let disk = look::disk();
        disk.create_dir(Path::new(DIR)).expect("an empty disk takes it");
        let put = |name: &str, bytes: Vec<u8>| disk.put(&Path::new(DIR).join(name), bytes);
        if let Some(store) = self.store {
            put("STORE", store);
        }
        for segment in &self.segments {
            put(
                &file_name(u64::from(segment.header.serial as u32)),
                segment.to_file(),
            );
        }
        for (name, bytes) in self.others {
            put(&name, bytes);
        }
        for name in self.gone {
            // It may have another name by now.
            let _ = disk.remove_file(&Path::new(DIR).join(name));
        }
        disk
    }
}
