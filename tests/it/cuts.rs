//! Power cuts on a simulated disk, judged by an oracle outside the store.
//!
//! A *case* is one disk and several *lives* of a store on it. In each life random calls are made;
//! it ends with a power cut inside a disk call or between two, a kill, or a close. Then the store
//! is opened on what is left (where the power may go again), and what it holds is compared with
//! what the oracle knows.
//!
//! The oracle counts the records that calls have written, in order. The store promises that what
//! survives is a prefix of them: there must be *one* position, not before the last record that
//! was acknowledged as durable, at which every key was in the state it is found in now. One
//! segment is 4 KiB here, so that segments fill, are let go and have their leftovers written
//! again all the time.
//!
//! `ONCEONLY_CUTS` scales it, `ONCEONLY_SEED` runs one case, `ONCEONLY_TRACE` prints its calls.

use crate::support::{LEASE, Rng, TTL, run_case, scaled};
use onceonly::sim::disk::{Cut, SimDisk};
use onceonly::*;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

const DIR: &str = "/store";
const KEYS: usize = 7;
const DAY: u64 = 86_400_000;
/// Later than a deadline by so many milliseconds something may still be there: each sum of a
/// moment and a span rounds up by one tick.
const LATE: u64 = 4;
/// The same where deadlines are whole seconds.
const COARSE: u64 = 1_000;

const CUTS: [Cut; 6] = [
    Cut::Random,
    Cut::Random,
    Cut::Random,
    Cut::Random,
    Cut::LoseAll,
    Cut::KeepAll,
];

/// How the stores of a case are opened.
#[derive(Clone, Copy)]
struct Setup {
    durability: Durability,
    claims: Durability,
    shards: usize,
    /// Some calls choose another durability.
    own_durability: bool,
    /// Shown that the oracle notices: the disk's syncs do nothing.
    lying: bool,
}

impl Setup {
    fn open(&self, disk: &SimDisk, clock: &ManualClock) -> Result<Store> {
        Store::builder()
            .clock(clock.clone())
            .disk(disk.clone())
            .helper_thread(false)
            .ttl(TTL)
            .lease(LEASE)
            .shards(self.shards)
            .max_keys(1_000)
            .max_bytes(16 << 20)
            .segment_bytes(4_096)
            .durability(self.durability)
            .claim_durability(self.claims)
            // The oracle's time is the wall clock's.
            .max_clock_jump(Duration::from_secs(50 * 365 * 86_400))
            .open(DIR)
    }
}

fn id(k: usize) -> Vec<u8> {
    match k {
        0 => b"a".to_vec(),
        1 => vec![b'l'; 300],
        _ => format!("order-{k}").into_bytes(),
    }
}

/// Keys without a fingerprint are those `first_seen` may meet.
fn fingerprint(k: usize) -> Fingerprint {
    match k {
        0..=2 => Fingerprint::NONE,
        _ => Fingerprint::from_bytes([k as u8; 16]),
    }
}

/// When something may be noticed to be over: not before `from`, from `to` on for certain.
#[derive(Clone, Copy, Debug)]
struct Until {
    from: u64,
    to: u64,
}

#[derive(Clone)]
enum State {
    Absent,
    Claimed(Claimed),
    Completed(Completed),
}

#[derive(Clone)]
struct Claimed {
    /// Unknown while the call that gives it is under way.
    generation: Option<u64>,
    attempt: u32,
    note: Option<Arc<[u8]>>,
    until: Until,
}

#[derive(Clone)]
struct Completed {
    generation: Option<u64>,
    body: Arc<[u8]>,
    tag: u16,
    until: Until,
}

impl State {
    fn until(&self) -> Until {
        match self {
            State::Absent => Until { from: 0, to: 0 },
            State::Claimed(c) => c.until,
            State::Completed(c) => c.until,
        }
    }

    fn is_certain(&self, now: u64) -> bool {
        let until = self.until();
        now < until.from || until.to <= now
    }

    /// Is the key surely absent now?
    fn is_absent(&self, now: u64) -> bool {
        self.until().to <= now
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Absent => f.write_str("absent"),
            State::Claimed(c) => write!(
                f,
                "claimed at {:?}, attempt {}, note {:?}, until {:?}",
                c.generation,
                c.attempt,
                c.note.as_deref().map(brief),
                c.until
            ),
            State::Completed(c) => write!(
                f,
                "completed at {:?} with {}, tag {}, until {:?}",
                c.generation,
                brief(&c.body),
                c.tag,
                c.until
            ),
        }
    }
}

/// Bytes in a few letters.
fn brief(bytes: &[u8]) -> String {
    let first = bytes.iter().take(4).map(|byte| format!("{byte:02x}"));
    format!("{}..{}", first.collect::<String>(), bytes.len())
}

/// What a store shows of a key.
enum View {
    Absent,
    Interrupted {
        generation: u64,
        attempt: u32,
        note: Option<Vec<u8>>,
    },
    Completed {
        generation: u64,
        body: Vec<u8>,
        tag: u16,
    },
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            View::Absent => f.write_str("absent"),
            View::Interrupted {
                generation,
                attempt,
                note,
            } => write!(
                f,
                "interrupted at {generation}, attempt {attempt}, note {:?}",
                note.as_deref().map(brief)
            ),
            View::Completed {
                generation,
                body,
                tag,
            } => {
                write!(f, "completed at {generation} with {}, tag {tag}", brief(body))
            }
        }
    }
}

impl View {
    fn of(store: &Store, k: usize) -> View {
        let id = id(k);
        let key = Key::new("scope", &id);
        match store.status(key).unwrap() {
            Status::Absent => View::Absent,
            Status::Interrupted { .. } => match store.claim(key, fingerprint(k)).unwrap() {
                Claim::Interrupted(left) => {
                    assert_eq!(left.cause(), Cause::Crashed, "key {k}");
                    View::Interrupted {
                        generation: left.generation(),
                        attempt: left.attempt(),
                        note: left.last_checkpoint().map(<[u8]>::to_vec),
                    }
                }
                other => panic!("key {k} is interrupted, but a claim is told {other:?}"),
            },
            Status::Completed { .. } => {
                let read = |stored: Stored<'_>| View::Completed {
                    generation: stored.generation(),
                    body: stored.bytes().to_vec(),
                    tag: stored.tag(),
                };
                match store.replay(key, fingerprint(k), read).unwrap() {
                    Replay::Hit(view) => view,
                    other => panic!("key {k} is completed, but replay says {other:?}"),
                }
            }
            other => panic!("key {k} was just recovered and is {other}"),
        }
    }

    /// Can a key that was in this state look like this now?
    fn shows(&self, state: &State, now: u64) -> bool {
        let until = state.until();
        match (self, state) {
            (View::Absent, _) => until.from <= now,
            (
                View::Interrupted {
                    generation,
                    attempt,
                    note,
                },
                State::Claimed(c),
            ) => {
                now < until.to
                    && c.generation.is_none_or(|g| g == *generation)
                    && c.attempt == *attempt
                    && c.note.as_deref() == note.as_deref()
            }
            (
                View::Completed {
                    generation,
                    body,
                    tag,
                },
                State::Completed(c),
            ) => {
                now < until.to
                    && c.generation.is_none_or(|g| g == *generation)
                    && c.tag == *tag
                    && *c.body == **body
            }
            _ => false,
        }
    }

    fn generation(&self) -> Option<u64> {
        match self {
            View::Absent => None,
            View::Interrupted { generation, .. } | View::Completed { generation, .. } => Some(*generation),
        }
    }
}

/// What is known of one key.
#[derive(Clone)]
struct History {
    /// What it was after the record of this number, in order; the first is what was found.
    states: Vec<(u64, State)>,
    /// The largest generation seen.
    highest: u64,
    /// While the process lives: when the holder's lease ends.
    lease: Until,
    dropped: bool,
}

#[derive(Clone)]
struct Oracle {
    now: u64,
    /// Deadlines may be in whole seconds: a segment may be old.
    old: bool,
    keys: Vec<History>,
    /// The number of the last record.
    last: u64,
    /// All up to this one were acknowledged as durable.
    durable: u64,
}

impl Oracle {
    fn new() -> Oracle {
        let key = History {
            states: vec![(0, State::Absent)],
            highest: 0,
            lease: Until { from: 0, to: 0 },
            dropped: false,
        };
        Oracle {
            now: 0,
            old: false,
            keys: vec![key; KEYS],
            last: 0,
            durable: 0,
        }
    }

    fn after(&self, span: u64) -> Until {
        let from = self.now + span;
        let coarse = if self.old || span >= 10 * DAY { COARSE } else { 0 };
        Until {
            from,
            to: from + LATE + coarse,
        }
    }

    fn state(&self, k: usize) -> &State {
        &self.keys[k].states[self.keys[k].states.len() - 1].1
    }

    /// A call is about to write a record.
    fn push(&mut self, k: usize, state: State) -> u64 {
        self.last += 1;
        self.keys[k].states.push((self.last, state));
        self.last
    }

    /// It said that there is no room for the record, so none was written.
    fn withdraw(&mut self, record: u64) {
        for history in &mut self.keys {
            history.states.retain(|(number, _)| *number != record);
        }
    }

    fn acknowledge(&mut self, record: u64, durability: Durability) {
        if durability == Durability::Sync {
            self.durable = self.durable.max(record);
        }
    }

    /// The generation a call was given, which wrote this record.
    fn learn(&mut self, k: usize, record: u64, given: u64) {
        let history = &mut self.keys[k];
        assert!(
            given > history.highest,
            "key {k}: generation {given} after {}",
            history.highest
        );
        history.highest = given;
        for (number, state) in &mut history.states {
            match state {
                State::Claimed(c) if *number >= record => c.generation = Some(given),
                State::Completed(c) if *number >= record => c.generation = Some(given),
                _ => {}
            }
        }
    }

    fn is_certain(&self, k: usize) -> bool {
        self.state(k).is_certain(self.now)
    }

    /// Is the key claimed, at this generation, and not yet forgotten?
    fn is_held(&self, k: usize, generation: u64) -> bool {
        matches!(self.state(k), State::Claimed(c) if c.generation == Some(generation))
            && !self.state(k).is_absent(self.now)
    }

    fn state_at(&self, k: usize, position: u64) -> &State {
        let states = &self.keys[k].states;
        let at = states.iter().rposition(|(number, _)| *number <= position);
        &states[at.unwrap_or(0)].1
    }

    /// Finds the position at which the log was cut, and goes on from there. True if records were
    /// lost.
    fn settle(&mut self, views: &[View], from: u64) -> bool {
        let explains = |p: &u64| (0..KEYS).all(|k| views[k].shows(self.state_at(k, *p), self.now));
        let positions: Vec<u64> = (from..=self.last).filter(explains).collect();
        let Some(position) = positions.last().copied() else {
            for (k, (history, view)) in self.keys.iter().zip(views).enumerate() {
                eprintln!("key {k} is {view:?}");
                for (record, state) in &history.states {
                    eprintln!("    {record}: {state:?}");
                }
            }
            panic!(
                "no position from {from} to {} explains what was found at {} ms",
                self.last, self.now
            );
        };
        let lost = position < self.last;
        for (k, view) in views.iter().enumerate() {
            // Records that differ in their deadline alone cannot be told apart.
            let untils = positions.iter().map(|p| self.state_at(k, *p).until());
            let (from, to) = untils.fold((u64::MAX, 0), |(from, to), u| (from.min(u.from), to.max(u.to)));
            let mut state = self.state_at(k, position).clone();
            match (&mut state, view) {
                (state, View::Absent) => *state = State::Absent,
                (State::Claimed(c), _) => {
                    c.until = Until { from, to };
                    c.generation = view.generation();
                }
                (State::Completed(c), _) => c.generation = view.generation(),
                (State::Absent, _) => unreachable!("it was compared"),
            }
            let history = &mut self.keys[k];
            history.states = vec![(position, state)];
            history.highest = history.highest.max(view.generation().unwrap_or(0));
            history.dropped = true;
        }
        self.last = position;
        self.durable = position;
        self.old = false;
        lost
    }
}

/// What was done, to show that it was worth it.
#[derive(Clone, Copy, Default, Debug)]
struct Tally {
    cases: u64,
    calls: u64,
    cuts: u64,
    in_recovery: u64,
    lost_something: u64,
    torn: u64,
    kills: u64,
    carried: u64,
    most_segments: u64,
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.cases += 1;
        self.calls += other.calls;
        self.cuts += other.cuts;
        self.in_recovery += other.in_recovery;
        self.lost_something += other.lost_something;
        self.torn += other.torn;
        self.kills += other.kills;
        self.carried += other.carried;
        self.most_segments = self.most_segments.max(other.most_segments);
    }
}

/// The power is cut.
struct Dead;

struct Held {
    k: usize,
    guard: ClaimGuard<'static>,
}

enum Submitted {
    Claim(Pending<Claim<'static>>),
    Outcome(Pending<()>),
}

struct Waiting {
    k: usize,
    record: u64,
    what: Submitted,
}

struct Case {
    rng: Rng,
    clock: ManualClock,
    setup: Setup,
    oracle: Oracle,
    tally: Tally,
    /// All outcomes are: many fit into a segment.
    small: bool,
    trace: bool,
}

/// One opening of the store.
struct Life<'c> {
    case: &'c mut Case,
    disk: SimDisk,
    store: Store,
    held: Vec<Held>,
    waiting: Vec<Waiting>,
}

macro_rules! trace {
    ($case:expr, $($arg:tt)*) => {
        if $case.trace {
            eprintln!("{:>8} {}", $case.oracle.now, format_args!($($arg)*));
        }
    };
}

impl Case {
    fn new(seed: u64, setup: Setup) -> Case {
        Case {
            small: seed.is_multiple_of(3),
            rng: Rng(seed),
            clock: ManualClock::new(),
            setup,
            oracle: Oracle::new(),
            tally: Tally::default(),
            trace: std::env::var_os("ONCEONLY_TRACE").is_some(),
        }
    }

    fn run(mut self) -> Tally {
        let mut disk = SimDisk::new(self.rng.next());
        disk.short_files(self.rng.once_in(2));
        disk.ignore_syncs(self.setup.lying);
        let mut cut_since = true;
        for _ in 0..3 + self.rng.below(6) {
            let (found, store) = self.reopen(disk, !cut_since);
            (disk, cut_since) = self.live(found, store);
        }
        self.tally
    }

    fn cut(&mut self, disk: &SimDisk) -> SimDisk {
        let style = self.rng.pick(&CUTS);
        self.tally.cuts += 1;
        trace!(self, "-- cut {style:?}");
        disk.cut(style)
    }

    /// Opens the store, perhaps with power cuts in the middle of it, and compares.
    fn reopen(&mut self, mut disk: SimDisk, mut all_is_there: bool) -> (SimDisk, Store) {
        let store = loop {
            if self.rng.once_in(3) {
                disk.cut_after(1 + self.rng.below(9));
            }
            match self.setup.open(&disk, &self.clock) {
                Ok(store) => break store,
                Err(Error::Io { .. } | Error::AtCapacity { .. }) if disk.is_dead() => {
                    self.tally.in_recovery += 1;
                    all_is_there = false;
                    disk = self.cut(&disk);
                }
                Err(error) => panic!("an undamaged log is refused: {error:?}"),
            }
        };
        disk.heal();
        let report = store.recovery();
        trace!(self, "-- open: {report}");
        let views: Vec<View> = (0..KEYS).map(|k| View::of(&store, k)).collect();
        let completed = views.iter().filter(|v| matches!(v, View::Completed { .. }));
        let interrupted = views.iter().filter(|v| matches!(v, View::Interrupted { .. }));
        assert_eq!(
            (report.completed, report.interrupted),
            (completed.count() as u64, interrupted.count() as u64),
            "keys the oracle does not know"
        );
        self.tally.torn += u64::from(report.torn.is_some());
        self.tally.most_segments = self.tally.most_segments.max(report.segments);
        let from = if all_is_there {
            self.oracle.last
        } else {
            self.oracle.durable
        };
        self.tally.lost_something += u64::from(self.oracle.settle(&views, from));
        (disk, store)
    }

    /// Makes calls, and ends somehow. The disk as it is found then, and whether it was cut.
    fn live(&mut self, disk: SimDisk, store: Store) -> (SimDisk, bool) {
        if self.rng.once_in(2) {
            disk.cut_after(1 + self.rng.below(40));
        }
        let mut life = Life {
            case: self,
            disk,
            store,
            held: Vec::new(),
            waiting: Vec::new(),
        };
        for _ in 0..8 + life.case.rng.below(23) {
            if life.call().is_err() || life.disk.is_dead() {
                break;
            }
        }
        life.end()
    }

    /// Opens another image of the same moment, looks at it and throws it away.
    fn probe(&mut self, disk: &SimDisk) {
        let oracle = self.oracle.clone();
        let image = self.cut(disk);
        let (disk, store) = self.reopen(image, false);
        if self.rng.once_in(8) {
            let key = Key::new("scope", "fresh");
            match store.claim(key, Fingerprint::NONE).unwrap() {
                Claim::Acquired(guard) => guard
                    .complete_with(b"fresh", CompleteOptions::new().durability(Durability::Sync))
                    .unwrap(),
                other => panic!("nobody has claimed it: {other:?}"),
            }
            let disk = disk.cut(Cut::LoseAll);
            self.tally.cuts += 1;
            let store = self.setup.open(&disk, &self.clock).unwrap();
            let read = |stored: Stored<'_>| stored.bytes() == b"fresh";
            assert_eq!(
                store.replay(key, Fingerprint::NONE, read).unwrap(),
                Replay::Hit(true)
            );
        }
        self.oracle = oracle;
    }
}

impl Life<'_> {
    /// What a call gave; `Err` if the power went.
    fn check<T>(&self, result: Result<T>) -> Result<T, Dead> {
        match result {
            Ok(value) => Ok(value),
            Err(Error::Io { .. } | Error::Poisoned | Error::AtCapacity { .. }) if self.disk.is_dead() => {
                Err(Dead)
            }
            Err(error) => panic!("{error:?}"),
        }
    }

    fn durability(&mut self) -> Option<Durability> {
        let own = self.case.setup.own_durability && self.case.rng.once_in(3);
        own.then(|| self.case.rng.pick(&[Durability::Process, Durability::Sync]))
    }

    fn body(&mut self) -> Arc<[u8]> {
        let rng = &mut self.case.rng;
        let len = match rng.below(16) {
            _ if self.case.small => rng.below(100),
            0..=8 => rng.below(64),
            9..=14 => rng.below(3_000),
            _ => 3_000 + rng.below(6_000),
        };
        rng.bytes(len as usize).into()
    }

    fn ending(&mut self) -> (CompleteOptions, Completed, Durability) {
        let own = self.durability();
        let rng = &mut self.case.rng;
        let ttl = match rng.below(10) {
            0..=3 => None,
            4 => Some(1),
            5 => Some(20),
            6 => Some(5_000),
            7 => Some(90_000),
            8 => Some(DAY),
            _ => Some(30 * DAY),
        };
        let tag = rng.below(1_000) as u16;
        let mut options = CompleteOptions::new().tag(tag);
        if let Some(ttl) = ttl {
            options = options.ttl(Duration::from_millis(ttl));
        }
        if let Some(durability) = own {
            options = options.durability(durability);
        }
        let completed = Completed {
            generation: None,
            body: self.body(),
            tag,
            until: self.case.oracle.after(ttl.unwrap_or(TTL.as_millis() as u64)),
        };
        (options, completed, own.unwrap_or(self.case.setup.durability))
    }

    /// A claim as it is recorded, with the end of its lease.
    fn claim_for(&self, lease: u64) -> (Claimed, Until) {
        let oracle = &self.case.oracle;
        let claimed = Claimed {
            generation: None,
            attempt: 0,
            note: None,
            until: oracle.after(lease + TTL.as_millis() as u64),
        };
        (claimed, oracle.after(lease))
    }

    fn hold(&mut self, k: usize, record: u64, guard: ClaimGuard<'static>, lease: Until) {
        let oracle = &mut self.case.oracle;
        oracle.learn(k, record, guard.generation());
        oracle.keys[k].lease = lease;
        oracle.keys[k].dropped = false;
        self.held.push(Held { k, guard });
    }

    /// Waits for what was submitted for a key, or for everything.
    fn wait(&mut self, which: Option<usize>) -> Result<(), Dead> {
        while let Some(at) = self.waiting.iter().position(|w| which.is_none_or(|k| k == w.k)) {
            let Waiting { k, record, what } = self.waiting.remove(at);
            match what {
                Submitted::Claim(pending) => {
                    let claim = self.check(pending.wait())?;
                    let Claim::Acquired(guard) = claim else {
                        panic!("key {k} was absent: {claim:?}")
                    };
                    let lease = self.case.oracle.keys[k].lease;
                    self.hold(k, record, guard, lease);
                }
                Submitted::Outcome(pending) => self.check(pending.wait())?,
            }
            self.case.oracle.acknowledge(record, Durability::Sync);
        }
        Ok(())
    }

    fn call(&mut self) -> Result<(), Dead> {
        self.case.tally.calls += 1;
        let k = self.case.rng.below(KEYS as u64) as usize;
        let which = self.case.rng.below(100);
        if which < 78 {
            self.wait(Some(k))?;
            if !self.case.oracle.is_certain(k) {
                return Ok(());
            }
        }
        match which {
            0..=21 => self.claim(k),
            22..=25 => self.submit_claim(k),
            26..=29 => self.first_seen(k),
            30..=32 => self.forget(k),
            33..=35 => self.resolve(k),
            36..=38 => self.look(k),
            39..=77 => self.with_guard(),
            78..=81 => self.claim_many(),
            82..=85 => self.complete_many(),
            86..=88 => self.sync(),
            89 | 90 => self.wait(None),
            91..=94 => self.maintain(),
            _ => {
                self.advance();
                Ok(())
            }
        }
    }

    fn advance(&mut self) {
        let spans = [
            1, 1, 3, 7, 25, 1_000, 6_000, 31_000, 95_000, 1_900_000, 3_700_000, 9_000_000,
        ];
        let mut by = self.case.rng.pick(&spans);
        if self.case.rng.once_in(8) {
            by = self.case.rng.pick(&[2 * DAY, 9 * DAY, 31 * DAY]);
        }
        trace!(self.case, "advance {by}");
        self.case.clock.advance(Duration::from_millis(by));
        self.case.oracle.now += by;
        self.case.oracle.old |= by > DAY;
    }

    fn maintain(&mut self) -> Result<(), Dead> {
        trace!(self.case, "maintain");
        if self.case.rng.once_in(3) {
            self.disk.cut_after(1 + self.case.rng.below(6));
        }
        for _ in 0..8 {
            let more = self.store.maintain(Duration::from_secs(1));
            if !self.check(more)? {
                break;
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Dead> {
        trace!(self.case, "sync");
        let synced = self.store.sync();
        self.check(synced)?;
        let last = self.case.oracle.last;
        self.case.oracle.acknowledge(last, Durability::Sync);
        Ok(())
    }

    /// What a live key looks like, whoever holds it.
    fn look(&mut self, k: usize) -> Result<(), Dead> {
        let id = id(k);
        let key = Key::new("scope", &id);
        let status = self.store.status(key).unwrap();
        let now = self.case.oracle.now;
        match (status, self.case.oracle.state(k)) {
            (Status::Absent, state) => assert!(state.is_absent(now), "{state:?} at {now}"),
            (
                Status::InFlight { generation, .. } | Status::Interrupted { generation, .. },
                State::Claimed(c),
            ) => {
                assert_eq!(c.generation, Some(generation));
            }
            (Status::Completed { .. }, state @ State::Completed(_)) => {
                let view = View::of(&self.store, k);
                assert!(view.shows(state, now), "{view:?}, not {state:?}");
            }
            (status, state) => panic!("key {k} is {status}, not {state:?}"),
        }
        Ok(())
    }

    fn claim(&mut self, k: usize) -> Result<(), Dead> {
        let id = id(k);
        let key = Key::new("scope", &id);
        let own = self.durability();
        let durability = own.unwrap_or(self.case.setup.claims);
        let lease = self.case.rng.pick(&[None, None, Some(1_000), Some(600_000)]);
        let mut options = ClaimOptions::new();
        if let Some(lease) = lease {
            options = options.lease(Duration::from_millis(lease));
        }
        if let Some(own) = own {
            options = options.durability(own);
        }
        let lease = lease.unwrap_or(LEASE.as_millis() as u64);
        let (claimed, lease_end) = self.claim_for(lease);
        let absent = self.case.oracle.state(k).is_absent(self.case.oracle.now);
        trace!(self.case, "claim {k} {durability:?}, absent: {absent}");
        if absent {
            let record = self.case.oracle.push(k, State::Claimed(claimed));
            let claim = self.store.claim_with(key, fingerprint(k), options);
            let claim = self.check(claim.map(Claim::into_owned))?;
            let Claim::Acquired(guard) = claim else {
                panic!("key {k} is absent: {claim:?}")
            };
            self.hold(k, record, guard, lease_end);
            self.case.oracle.acknowledge(record, durability);
            return Ok(());
        }
        let claim = self.store.claim_with(key, fingerprint(k), options);
        let claim = self.check(claim.map(Claim::into_owned))?;
        let oracle = &self.case.oracle;
        let history = &oracle.keys[k];
        match (claim, oracle.state(k)) {
            (Claim::Completed(outcome), State::Completed(c)) => {
                assert_eq!(outcome.bytes(), &*c.body);
                assert_eq!((Some(outcome.generation()), outcome.tag()), (c.generation, c.tag));
                Ok(())
            }
            (Claim::InFlight(other), State::Claimed(c)) => {
                assert_eq!(Some(other.generation()), c.generation);
                assert!(!history.dropped && oracle.now < history.lease.to);
                Ok(())
            }
            (Claim::Interrupted(left), State::Claimed(c)) => {
                assert_eq!(
                    (Some(left.generation()), left.attempt()),
                    (c.generation, c.attempt)
                );
                assert_eq!(left.last_checkpoint(), c.note.as_deref());
                assert!(history.dropped || oracle.now >= history.lease.from);
                let seen = c.clone();
                self.decide(k, left, seen, lease)
            }
            (claim, state) => panic!("key {k}: {claim:?} of {state:?}"),
        }
    }

    /// Answers the question what shall become of an interrupted key.
    fn decide(
        &mut self,
        k: usize,
        left: Interrupted<'static>,
        seen: Claimed,
        lease: u64,
    ) -> Result<(), Dead> {
        let (claims, outcomes) = (self.case.setup.claims, self.case.setup.durability);
        match self.case.rng.below(6) {
            0..=2 => {
                trace!(self.case, "  resume");
                let (mut claimed, lease_end) = self.claim_for(lease);
                claimed.attempt = seen.attempt + 1;
                claimed.note = seen.note;
                let record = self.case.oracle.push(k, State::Claimed(claimed));
                let claim = self.check(left.resume())?;
                let Claim::Acquired(guard) = claim else {
                    panic!("nobody else is there: {claim:?}")
                };
                self.hold(k, record, guard, lease_end);
                self.case.oracle.acknowledge(record, claims);
            }
            3 => {
                let (options, completed, durability) = self.ending();
                trace!(self.case, "  resolve {} bytes", completed.body.len());
                let body = completed.body.clone();
                let record = self.case.oracle.push(k, State::Completed(completed));
                let claim = self.check(left.resolve(&body, options))?;
                let Claim::Completed(outcome) = claim else {
                    panic!("nobody else is there: {claim:?}")
                };
                self.case.oracle.learn(k, record, outcome.generation());
                self.case.oracle.acknowledge(record, durability);
            }
            4 => {
                trace!(self.case, "  release");
                let record = self.case.oracle.push(k, State::Absent);
                self.check(left.release())?;
                self.case.oracle.acknowledge(record, outcomes);
            }
            _ => drop(left),
        }
        Ok(())
    }

    fn submit_claim(&mut self, k: usize) -> Result<(), Dead> {
        if !self.case.oracle.state(k).is_absent(self.case.oracle.now) {
            return Ok(());
        }
        trace!(self.case, "submit claim {k}");
        let id = id(k);
        let (claimed, lease) = self.claim_for(LEASE.as_millis() as u64);
        let record = self.case.oracle.push(k, State::Claimed(claimed));
        self.case.oracle.keys[k].lease = lease;
        self.case.oracle.keys[k].dropped = false;
        let options = ClaimOptions::new().durability(Durability::Sync);
        let pending = self
            .store
            .submit_claim(Key::new("scope", &id), fingerprint(k), options);
        let what = Submitted::Claim(pending);
        self.waiting.push(Waiting { k, record, what });
        Ok(())
    }

    fn first_seen(&mut self, k: usize) -> Result<(), Dead> {
        let k = k % 3;
        self.wait(Some(k))?;
        if !self.case.oracle.is_certain(k) {
            return Ok(());
        }
        trace!(self.case, "first seen {k}");
        let id = id(k);
        let key = Key::new("scope", &id);
        let oracle = &mut self.case.oracle;
        if oracle.state(k).is_absent(oracle.now) {
            let ttl = self.case.rng.pick(&[20, 3_600_000, 30 * DAY]);
            let completed = Completed {
                generation: None,
                body: Arc::new([]),
                tag: 0,
                until: oracle.after(ttl),
            };
            let record = oracle.push(k, State::Completed(completed));
            let first = self.store.first_seen_for(key, Duration::from_millis(ttl));
            assert!(self.check(first)?, "key {k} is absent");
            let generation = self.store.status(key).unwrap().generation().unwrap();
            self.case.oracle.learn(k, record, generation);
            let durability = self.case.setup.durability;
            self.case.oracle.acknowledge(record, durability);
            return Ok(());
        }
        match (self.store.first_seen(key), oracle.state(k)) {
            (Ok(false), State::Completed(_)) | (Err(Error::InUse { .. }), State::Claimed(_)) => Ok(()),
            (Err(error), _) => self.check(Err(error)),
            (answer, state) => panic!("key {k}: {answer:?} of {state:?}"),
        }
    }

    fn forget(&mut self, k: usize) -> Result<(), Dead> {
        trace!(self.case, "forget {k}");
        let id = id(k);
        let key = Key::new("scope", &id);
        if self.case.oracle.state(k).is_absent(self.case.oracle.now) {
            let forgotten = self.store.forget(key);
            assert!(!self.check(forgotten)?);
            return Ok(());
        }
        let record = self.case.oracle.push(k, State::Absent);
        let forgotten = self.store.forget(key);
        assert!(self.check(forgotten)?);
        let durability = self.case.setup.durability;
        self.case.oracle.acknowledge(record, durability);
        Ok(())
    }

    /// An operator settles a claim.
    fn resolve(&mut self, k: usize) -> Result<(), Dead> {
        let now = self.case.oracle.now;
        let generation = match self.case.oracle.state(k) {
            State::Claimed(c) if now < c.until.from => c.generation.unwrap(),
            _ => return Ok(()),
        };
        let id = id(k);
        let key = Key::new("scope", &id);
        if self.case.rng.once_in(3) {
            trace!(self.case, "operator releases {k}");
            let record = self.case.oracle.push(k, State::Absent);
            let done = self.store.resolve(key, generation, Resolution::Release);
            self.check(done)?;
            let durability = self.case.setup.durability;
            self.case.oracle.acknowledge(record, durability);
            return Ok(());
        }
        let (options, completed, durability) = self.ending();
        trace!(
            self.case,
            "operator completes {k}: {} bytes",
            completed.body.len()
        );
        let body = completed.body.clone();
        let record = self.case.oracle.push(k, State::Completed(completed));
        let done = self
            .store
            .resolve(key, generation, Resolution::Complete(&body, options));
        self.check(done)?;
        let given = self.store.status(key).unwrap().generation().unwrap();
        self.case.oracle.learn(k, record, given);
        self.case.oracle.acknowledge(record, durability);
        Ok(())
    }

    /// Something a holder does.
    fn with_guard(&mut self) -> Result<(), Dead> {
        if self.held.is_empty() {
            return Ok(());
        }
        let at = self.case.rng.below(self.held.len() as u64) as usize;
        let k = self.held[at].k;
        self.wait(Some(k))?;
        if !self.case.oracle.is_certain(k) {
            return Ok(());
        }
        let Held { guard, .. } = self.held.swap_remove(at);
        let generation = guard.generation();
        if !self.case.oracle.is_held(k, generation) {
            trace!(self.case, "late complete {k}");
            let late = guard.complete(b"too late");
            match late {
                Err(Error::LeaseLost { .. }) => {}
                late => self.check(late)?,
            }
            return Ok(());
        }
        let State::Claimed(now) = self.case.oracle.state(k).clone() else {
            unreachable!("it is held")
        };
        let (claims, outcomes) = (self.case.setup.claims, self.case.setup.durability);
        match self.case.rng.below(20) {
            0..=8 => {
                let (options, mut completed, durability) = self.ending();
                trace!(
                    self.case,
                    "complete {k}: {} bytes until {:?} {durability:?}",
                    completed.body.len(),
                    completed.until
                );
                completed.generation = Some(generation);
                let body = completed.body.clone();
                let record = self.case.oracle.push(k, State::Completed(completed));
                let done = guard.complete_with(&body, options);
                self.check(done)?;
                self.case.oracle.acknowledge(record, durability);
            }
            9 | 10 => {
                let (options, mut completed, _) = self.ending();
                trace!(self.case, "submit complete {k}: {} bytes", completed.body.len());
                completed.generation = Some(generation);
                let body = completed.body.clone();
                let record = self.case.oracle.push(k, State::Completed(completed));
                let options = options.durability(Durability::Sync);
                let what = Submitted::Outcome(guard.submit(&body, options));
                self.waiting.push(Waiting { k, record, what });
            }
            11..=13 => {
                let len = self.case.rng.pick(&[0, 10, 100, 1_000, 5_000]);
                trace!(self.case, "checkpoint {k}: {len} bytes");
                let note: Arc<[u8]> = self.case.rng.bytes(len).into();
                let noted = Claimed {
                    note: Some(note.clone()),
                    ..now
                };
                let record = self.case.oracle.push(k, State::Claimed(noted));
                let done = guard.checkpoint(&note);
                self.check(done)?;
                self.case.oracle.acknowledge(record, claims);
                self.held.push(Held { k, guard });
            }
            14 | 15 => {
                let lease = self.case.rng.pick(&[1_000, 30_000, 3_600_000]);
                trace!(self.case, "renew {k} by {lease}");
                let (renewed, lease_end) = self.claim_for(lease);
                let renewed = Claimed {
                    until: renewed.until,
                    ..now
                };
                self.case.oracle.push(k, State::Claimed(renewed));
                // A renewal waits for no disk.
                let done = guard.renew(Duration::from_millis(lease));
                self.check(done)?;
                let history = &mut self.case.oracle.keys[k];
                history.lease = lease_end;
                history.dropped = false;
                self.held.push(Held { k, guard });
            }
            16 => {
                trace!(self.case, "release {k}");
                let record = self.case.oracle.push(k, State::Absent);
                let done = guard.release();
                self.check(done)?;
                self.case.oracle.acknowledge(record, outcomes);
            }
            17 => {
                trace!(self.case, "drop {k}");
                drop(guard);
                self.case.oracle.keys[k].dropped = true;
            }
            18 => {
                trace!(self.case, "drop {k}, releasing");
                guard.on_drop(OnDrop::Release);
                self.case.oracle.push(k, State::Absent);
                drop(guard);
            }
            _ => {
                trace!(self.case, "detach and attach {k}");
                let (mut attached, lease) = self.claim_for(LEASE.as_millis() as u64);
                attached.attempt = now.attempt;
                attached.note = now.note;
                let token = guard.detach();
                let record = self.case.oracle.push(k, State::Claimed(attached));
                let claim = self.store.attach(&token).map(Claim::into_owned);
                let claim = self.check(claim)?;
                let Claim::Acquired(guard) = claim else {
                    panic!("the token is fresh: {claim:?}")
                };
                self.hold(k, record, guard, lease);
                self.case.oracle.acknowledge(record, claims);
            }
        }
        Ok(())
    }

    fn claim_many(&mut self) -> Result<(), Dead> {
        self.wait(None)?;
        let first = self.case.rng.below(KEYS as u64) as usize;
        let chosen: Vec<usize> = (first..KEYS)
            .filter(|k| self.case.oracle.is_certain(*k))
            .collect();
        trace!(self.case, "claim many {chosen:?}");
        let ids: Vec<Vec<u8>> = chosen.iter().map(|k| id(*k)).collect();
        let items: Vec<_> = chosen
            .iter()
            .zip(&ids)
            .map(|(k, id)| (Key::new("scope", id), fingerprint(*k)))
            .collect();
        let mut records = Vec::new();
        for k in &chosen {
            let oracle = &mut self.case.oracle;
            let absent = oracle.state(*k).is_absent(oracle.now);
            let (claimed, lease) = self.claim_for(LEASE.as_millis() as u64);
            records.push(absent.then(|| (self.case.oracle.push(*k, State::Claimed(claimed)), lease)));
        }
        let mut claims = Vec::new();
        let called = self.store.claim_many(&items, &mut claims);
        let claims: Vec<_> = claims
            .into_iter()
            .map(|claim| claim.map(Claim::into_owned))
            .collect();
        self.check(called)?;
        let mut dead = Ok(());
        for ((k, record), claim) in chosen.into_iter().zip(records).zip(claims) {
            if let (Err(Error::AtCapacity { .. }), Some((record, _))) = (&claim, record) {
                self.case.oracle.withdraw(record);
            }
            let claim = match self.check(claim) {
                Ok(claim) => claim,
                Err(Dead) => {
                    dead = Err(Dead);
                    continue;
                }
            };
            match (claim, record) {
                (Claim::Acquired(guard), Some((record, lease))) => {
                    self.hold(k, record, guard, lease);
                    let durability = self.case.setup.claims;
                    self.case.oracle.acknowledge(record, durability);
                }
                (Claim::Completed(_) | Claim::InFlight(_) | Claim::Interrupted(_), None) => {}
                (claim, _) => panic!("key {k}: {claim:?}"),
            }
        }
        dead
    }

    fn complete_many(&mut self) -> Result<(), Dead> {
        self.wait(None)?;
        let oracle = &self.case.oracle;
        if !self.held.iter().all(|h| oracle.is_certain(h.k)) {
            return Ok(());
        }
        trace!(self.case, "complete {} claims", self.held.len());
        let held = std::mem::take(&mut self.held);
        let mut items = Vec::new();
        for Held { k, guard } in &held {
            let (options, mut completed, durability) = self.ending();
            completed.generation = Some(guard.generation());
            let body = completed.body.clone();
            let is_held = self.case.oracle.is_held(*k, guard.generation());
            let record = is_held.then(|| self.case.oracle.push(*k, State::Completed(completed)));
            items.push((body, options, record, durability));
        }
        let done = held.iter().zip(&items).map(|(h, i)| (&h.guard, &*i.0, i.1));
        let mut results = Vec::new();
        let called = self.store.complete_many(done, &mut results);
        self.check(called)?;
        let mut dead = Ok(());
        for ((_, _, record, durability), result) in items.into_iter().zip(results) {
            if let (Err(Error::AtCapacity { .. }), Some(record)) = (&result, record) {
                self.case.oracle.withdraw(record);
            }
            match (record, result) {
                (Some(record), Ok(())) => self.case.oracle.acknowledge(record, durability),
                (None, Err(Error::LeaseLost { .. })) => {}
                (None, Ok(())) => panic!("it was lost"),
                (_, Err(error)) => {
                    if self.check::<()>(Err(error)).is_err() {
                        dead = Err(Dead);
                    }
                }
            }
        }
        dead
    }

    /// Ends the life. The disk for the next one, and whether its power was cut.
    fn end(self) -> (SimDisk, bool) {
        let Life {
            case,
            disk,
            store,
            held,
            waiting,
        } = self;
        case.tally.carried += store.stats().records_carried;
        let ending = case.rng.below(8);
        if disk.is_dead() || ending < 4 {
            let next = case.cut(&disk);
            for _ in 0..case.rng.below(3) {
                case.probe(&disk);
            }
            return (next, true);
        }
        if ending < 6 {
            trace!(case, "-- kill");
            case.tally.kills += 1;
            return (disk.kill(), false);
        }
        trace!(case, "-- close");
        disk.heal();
        // In the memory of this process all of it is there, and it is made durable now.
        case.oracle.durable = case.oracle.last;
        if ending == 6 {
            store.close().unwrap();
        } else {
            drop((held, waiting, store));
        }
        (disk, false)
    }
}

/// Runs cases until there were so many cuts, and says how fast.
fn run(test: &str, setup: impl Fn(&mut Rng) -> Setup + Sync, cuts: u64) -> Tally {
    let began = Instant::now();
    let mut sum = Tally::default();
    let case = |seed| Case::new(seed, setup(&mut Rng(!seed))).run();
    if std::env::var_os("ONCEONLY_SEED").is_some() {
        sum.add(&run_case(test, scaled("ONCEONLY_SEED", 0), 0, case));
        eprintln!("{test}: {sum:?}");
        return sum;
    }
    let first = scaled("ONCEONLY_FIRST_SEED", 0);
    while sum.cuts < cuts {
        let tally = run_case(test, first + sum.cases, sum.cases, case);
        sum.add(&tally);
    }
    let took = began.elapsed();
    let pace = sum.cuts as f64 / took.as_secs_f64();
    eprintln!("{test}: seeds from {first}, {sum:?}, {took:.1?}, {pace:.0} cuts/s");
    // Else the test proves nothing.
    assert!(sum.torn * 200 > sum.cuts && sum.in_recovery * 20 > sum.cuts);
    assert!(sum.carried > sum.cases / 10 && sum.most_segments > 8);
    sum
}

fn cuts() -> u64 {
    scaled("ONCEONLY_CUTS", 200_000)
}

#[test]
fn with_sync_a_power_cut_loses_nothing_acknowledged() {
    let setup = |rng: &mut Rng| Setup {
        durability: Durability::Sync,
        claims: Durability::Sync,
        shards: 1 + rng.below(2) as usize,
        own_durability: false,
        lying: false,
    };
    run("sync", setup, cuts() / 2);
}

#[test]
fn with_process_a_power_cut_loses_the_end_and_no_more() {
    let setup = |rng: &mut Rng| Setup {
        durability: Durability::Process,
        claims: Durability::Process,
        shards: 1 + rng.below(2) as usize,
        own_durability: false,
        lying: false,
    };
    let tally = run("process", setup, cuts() / 4);
    assert!(tally.lost_something * 5 > tally.cuts, "{tally:?}");
}

#[test]
fn with_mixed_durability_what_was_promised_is_kept() {
    let setup = |rng: &mut Rng| {
        let both = [Durability::Process, Durability::Sync];
        Setup {
            durability: rng.pick(&both),
            claims: rng.pick(&both),
            shards: 1 + rng.below(2) as usize,
            own_durability: true,
            lying: false,
        }
    };
    run("mixed", setup, cuts() / 4);
}

#[test]
fn a_disk_that_lies_is_noticed() {
    let caught = (0..50).map(|seed| {
        let setup = Setup {
            durability: Durability::Sync,
            claims: Durability::Sync,
            shards: 1,
            own_durability: false,
            lying: true,
        };
        let case = std::thread::Builder::new().spawn(move || Case::new(seed, setup).run());
        case.unwrap().join().is_err()
    });
    assert!(caught.filter(|caught| *caught).count() > 25);
}
