//! Real threads on one key at a time: whatever they saw, some order of their calls explains it.
//!
//! Threads write down every call with a number drawn before and one drawn after it from a
//! common counter. A history is linearizable if its calls can be put in an order that the
//! model allows, in which no call comes before another that had ended when it began
//! (Wing and Gong's search, remembering where it has been).
//!
//! The clock stands still while the threads run: time is the model test's business.

use onceonly::sim::disk::SimDisk;
use onceonly::sim::driver::{answer_to_bool, answer_to_claim, answer_to_error, answer_to_unit};
use onceonly::sim::model::{Answer, Bytes, Call, Finding, KeyModel, Moment, Room, Rules, Told};
use onceonly::*;
use std::collections::HashSet;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const LEASE: Duration = Duration::from_millis(10);

/// One call and its answer.
#[derive(Clone, Debug)]
struct Event {
    began: u64,
    ended: u64,
    /// The time of the store, in microseconds.
    now: u64,
    call: Call,
    answer: Answer,
}

fn rules() -> Rules {
    Rules {
        ttl: Duration::from_secs(3_600),
        lease: LEASE,
        max_keys: 1_000_000,
        max_keys_per_scope: None,
        max_in_flight: 1_000_000,
        max_outcome: 1_000,
    }
}

// ---------------------------------------------------------------------------------------------
// The checker.

/// A search for an order that explains a history.
struct Search<'h> {
    history: &'h [Event],
    rules: Rules,
    /// Sets of placed calls with the state they lead to, known to be dead ends.
    dead: HashSet<(u64, KeyModel)>,
}

/// True if some order of the calls explains the answers.
fn is_linearizable(history: &[Event]) -> bool {
    assert!(history.len() <= 64, "the set of placed calls is one word");
    let mut search = Search {
        history,
        rules: rules(),
        dead: HashSet::new(),
    };
    search.goes_on(0, &KeyModel::new())
}

impl Search<'_> {
    /// Whether the calls that are not placed yet can follow in this state.
    fn goes_on(&mut self, placed: u64, state: &KeyModel) -> bool {
        let open: Vec<usize> = (0..self.history.len())
            .filter(|i| placed & (1 << i) == 0)
            .collect();
        // The first end of an open call: what began later cannot come before it.
        let Some(first_end) = open.iter().map(|i| self.history[*i].ended).min() else {
            return true;
        };
        if !self.dead.insert((placed, state.clone())) {
            return false;
        }
        open.into_iter()
            .filter(|i| self.history[*i].began < first_end && self.may_follow(placed, *i))
            .collect::<Vec<_>>()
            .into_iter()
            .any(|i| match self.after(state, i) {
                Some(next) => self.goes_on(placed | 1 << i, &next),
                None => false,
            })
    }

    /// A second half comes after the first, which stands before it in the history.
    fn may_follow(&self, placed: u64, i: usize) -> bool {
        self.history[i].call != Call::FirstSeenEnds || placed & (1 << i >> 1) != 0
    }

    /// The state after this call, if the model allows its answer.
    fn after(&self, state: &KeyModel, i: usize) -> Option<KeyModel> {
        let event = &self.history[i];
        let mut next = state.clone();
        let at = Moment {
            rules: &self.rules,
            now: event.now,
            room: Room::Free,
            seen: &event.answer,
        };
        next.check(&at, &event.call).ok().map(|()| next)
    }
}

// ---------------------------------------------------------------------------------------------
// The threads.

/// A small generator of random numbers (xorshift).
struct Lots(u64);

impl Lots {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// Lets all threads begin a round at once.
struct Gate {
    arrived: AtomicUsize,
    threads: usize,
}

impl Gate {
    fn pass(&self, round: usize) {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let mut spins = 0;
        while self.arrived.load(Ordering::SeqCst) < self.threads * (round + 1) {
            spins += 1;
            if spins % 4_096 == 0 {
                thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// How a key is left before the threads begin.
#[derive(Clone, Copy, Debug)]
enum Start {
    Fresh,
    Held,
    Dropped,
    Lapsed,
    Done,
    Expired,
    Detached,
}

const STARTS: [Start; 7] = [
    Start::Fresh,
    Start::Held,
    Start::Dropped,
    Start::Lapsed,
    Start::Done,
    Start::Expired,
    Start::Detached,
];

fn print(other: bool) -> Fingerprint {
    if other {
        Fingerprint::from_bytes([1; 16])
    } else {
        Fingerprint::NONE
    }
}

fn finding(bytes: &[u8], ttl: Option<Duration>) -> Finding {
    Finding {
        bytes: Bytes::from(bytes),
        tag: 0,
        ttl,
    }
}

/// Writes a history down.
struct Scribe<'s> {
    store: &'s Store,
    counter: &'s AtomicU64,
    now: u64,
    events: Vec<Event>,
}

impl<'s> Scribe<'s> {
    fn new(store: &'s Store, counter: &'s AtomicU64, now: u64) -> Self {
        Scribe {
            store,
            counter,
            now,
            events: Vec::new(),
        }
    }

    fn tick(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::SeqCst)
    }

    /// Makes a call and writes down what it said.
    fn call<R>(
        &mut self,
        call: Call,
        make: impl FnOnce(&'s Store) -> R,
        answer: impl FnOnce(&R) -> Answer,
    ) -> R {
        let began = self.tick();
        let result = make(self.store);
        let ended = self.tick();
        self.events.push(Event {
            began,
            ended,
            now: self.now,
            call,
            answer: answer(&result),
        });
        result
    }

    fn claim(&mut self, key: Key<'_>, other: bool) -> Option<Claim<'s>> {
        let fingerprint = print(other);
        let call = Call::Claim {
            fingerprint,
            lease: LEASE,
        };
        self.call(call, |store| store.claim(key, fingerprint), answer_to_claim)
            .ok()
    }

    fn complete(&mut self, guard: &ClaimGuard<'_>, bytes: &[u8], ttl: Option<Duration>) {
        let call = Call::Complete {
            generation: guard.generation(),
            outcome: finding(bytes, ttl),
        };
        let options = ttl.map_or(CompleteOptions::new(), |ttl| CompleteOptions::new().ttl(ttl));
        let _ = self.call(call, |_| guard.complete_with(bytes, options), answer_to_unit);
    }

    /// One that says `true` is written down in halves, which others may come between.
    fn first_seen(&mut self, key: Key<'_>) {
        let call = Call::FirstSeen { ttl: None };
        let seen = self.call(call, |store| store.first_seen(key), answer_to_bool);
        if let (Ok(true), Some(event)) = (seen, self.events.last_mut()) {
            event.call = Call::FirstSeenBegins;
            let ends = Event {
                call: Call::FirstSeenEnds,
                ..event.clone()
            };
            self.events.push(ends);
        }
    }

    fn drop_guard(&mut self, guard: ClaimGuard<'_>) {
        let call = Call::Drop {
            generation: guard.generation(),
            release: false,
        };
        self.call(call, |_| drop(guard), |()| Answer::Done);
    }
}

/// What a thread has in its hands.
struct Hands<'s> {
    guard: Option<(ClaimGuard<'s>, bool)>,
    question: Option<Interrupted<'s>>,
}

impl<'s> Hands<'s> {
    fn take(&mut self, claim: Option<Claim<'s>>) {
        match claim {
            Some(Claim::Acquired(guard)) => self.guard = Some((guard, false)),
            Some(Claim::Interrupted(question)) => self.question = Some(question),
            _ => {}
        }
    }
}

/// One step of a thread.
fn step<'s>(
    scribe: &mut Scribe<'s>,
    hands: &mut Hands<'s>,
    key: Key<'_>,
    token: Option<&ClaimToken>,
    lots: &mut Lots,
) {
    let choice = lots.below(16);
    if let Some(question) = hands.question.take() {
        return answer_question(scribe, hands, key, question, choice);
    }
    if let Some((guard, ended)) = hands.guard.take() {
        let bytes = scribe.tick().to_le_bytes();
        return match choice {
            0..7 => {
                scribe.complete(&guard, &bytes, None);
                // The guard is kept a while: completing again, or dropping it, must do no harm.
                hands.guard = Some((guard, true));
            }
            7..10 => {
                let call = Call::Release {
                    generation: guard.generation(),
                };
                let released = scribe.call(call, |_| guard.release(), answer_to_unit).is_ok();
                hands.guard = Some((guard, ended || released));
            }
            10..12 => {
                let call = Call::Checkpoint {
                    generation: guard.generation(),
                    note: Bytes::from(bytes),
                };
                let _ = scribe.call(call, |_| guard.checkpoint(&bytes), answer_to_unit);
                hands.guard = Some((guard, ended));
            }
            // Whether dropping it says something is not known after an attempt that lost; then
            // the generation is an old one and the model says that nothing happens.
            _ => scribe.drop_guard_unless(guard, ended),
        };
    }
    without_claim(scribe, hands, key, token, choice);
}

impl Scribe<'_> {
    fn drop_guard_unless(&mut self, guard: ClaimGuard<'_>, ended: bool) {
        match ended {
            true => drop(guard),
            false => self.drop_guard(guard),
        }
    }
}

fn answer_question<'s>(
    scribe: &mut Scribe<'s>,
    hands: &mut Hands<'s>,
    key: Key<'_>,
    question: Interrupted<'s>,
    choice: u64,
) {
    let generation = question.generation();
    let fingerprint = Fingerprint::NONE;
    let bytes = scribe.tick().to_le_bytes();
    match choice {
        0..8 => {
            let call = Call::Resume {
                generation,
                fingerprint,
                lease: LEASE,
            };
            let claim = scribe.call(call, |_| question.resume(), answer_to_claim);
            hands.take(claim.ok());
        }
        8..11 => {
            let call = Call::Resolve {
                generation,
                fingerprint,
                lease: LEASE,
                outcome: finding(&bytes, None),
            };
            let claim = scribe.call(
                call,
                |_| question.resolve(&bytes, CompleteOptions::new()),
                answer_to_claim,
            );
            hands.take(claim.ok());
        }
        11..13 => {
            let _ = scribe.call(
                Call::GiveUp { generation },
                |_| question.release(),
                answer_to_unit,
            );
        }
        13 => {
            let call = Call::OperatorRelease { generation };
            let _ = scribe.call(
                call,
                |store| store.resolve(key, generation, Resolution::Release),
                answer_to_unit,
            );
        }
        _ => drop(question),
    }
}

fn without_claim<'s>(
    scribe: &mut Scribe<'s>,
    hands: &mut Hands<'s>,
    key: Key<'_>,
    token: Option<&ClaimToken>,
    choice: u64,
) {
    match (choice, token) {
        (0..4, Some(token)) => {
            let call = Call::Attach {
                generation: token.generation(),
                fingerprint: token.fingerprint(),
            };
            let claim = scribe.call(call, |store| store.attach(token), answer_to_claim);
            hands.take(claim.ok());
        }
        (0..8, _) => {
            let claim = scribe.claim(key, false);
            hands.take(claim);
        }
        (8, _) => {
            // Acquired under the other fingerprint it would only be in the way.
            if let Some(Claim::Acquired(guard)) = scribe.claim(key, true) {
                scribe.drop_guard(guard);
            }
        }
        (9..11, _) => {
            scribe.first_seen(key);
        }
        (11, _) => {
            let _ = scribe.call(Call::Forget, |store| store.forget(key), answer_to_bool);
        }
        _ => {
            let fingerprint = Fingerprint::NONE;
            let read = |store: &Store| store.replay(key, fingerprint, told);
            let _ = scribe.call(Call::Replay { fingerprint }, read, |replay| match replay {
                Ok(Replay::Hit(told)) => Answer::Stored(told.clone()),
                Ok(Replay::Miss) => Answer::Miss,
                Ok(Replay::Mismatch) => Answer::OtherRequest,
                Err(error) => answer_to_error(error),
            });
        }
    }
}

fn told(stored: Stored<'_>) -> Told {
    Told {
        bytes: stored.bytes().into(),
        tag: stored.tag(),
        age: stored.age(),
        generation: stored.generation(),
    }
}

/// What a round begins with.
struct Round<'s> {
    start: Start,
    before: Vec<Event>,
    /// Held by the first thread.
    guard: Option<ClaimGuard<'s>>,
    /// Known to all threads.
    token: Option<ClaimToken>,
}

fn id(round: usize) -> [u8; 8] {
    (round as u64).to_le_bytes()
}

fn prepare<'s>(store: &'s Store, counter: &'s AtomicU64, round: usize, start: Start) -> Round<'s> {
    let mut scribe = Scribe::new(store, counter, 0);
    let name = id(round);
    let key = Key::new("linear", &name);
    let (mut guard, mut token) = (None, None);
    if !matches!(start, Start::Fresh) {
        let Some(Claim::Acquired(first)) = scribe.claim(key, false) else {
            panic!("a new key is acquired")
        };
        match start {
            Start::Fresh | Start::Held | Start::Lapsed => guard = Some(first),
            Start::Dropped => scribe.drop_guard(first),
            Start::Done => scribe.complete(&first, b"before", None),
            Start::Expired => scribe.complete(&first, b"before", Some(Duration::from_millis(1))),
            Start::Detached => token = Some(first.detach()),
        }
    }
    if let (Start::Held, Some(guard)) = (start, &guard) {
        let lease = Duration::from_secs(60);
        let call = Call::Renew {
            generation: guard.generation(),
            lease,
        };
        let _ = scribe.call(call, |_| guard.renew(lease), answer_to_unit);
    }
    Round {
        start,
        before: scribe.events,
        guard,
        token,
    }
}

/// Lets threads loose on `rounds` keys, one after another, and judges each key's history.
/// Gives the number of histories in which calls overlapped.
fn batch(setup: &Batch) -> usize {
    let clock = ManualClock::new();
    let mut builder = Store::builder()
        .clock(clock.clone())
        .lease(LEASE)
        .ttl(rules().ttl)
        .max_keys(100_000);
    builder = builder
        .helper_thread(setup.helper)
        .max_outcome(rules().max_outcome);
    if setup.constant_hash {
        builder = builder.constant_hash();
    }
    let store = match setup.log {
        None => builder.in_memory(),
        Some(durability) => builder
            .durability(durability)
            .disk(SimDisk::new(setup.seed))
            .segment_bytes(16 << 10)
            .open("/store"),
    };
    let store = store.unwrap();
    let counter = AtomicU64::new(0);
    let mut rounds: Vec<_> = (0..setup.rounds)
        .map(|round| prepare(&store, &counter, round, STARTS[round % STARTS.len()]))
        .collect();
    // Past every lease of ten milliseconds and every ttl of one.
    clock.advance(Duration::from_millis(100));

    let tokens: Vec<Option<ClaimToken>> = rounds.iter_mut().map(|round| round.token.take()).collect();
    let mut guards: Vec<Option<ClaimGuard<'_>>> = rounds.iter_mut().map(|round| round.guard.take()).collect();
    let gate = Gate {
        arrived: AtomicUsize::new(0),
        threads: setup.threads,
    };
    let seen: Vec<Vec<Vec<Event>>> = thread::scope(|scope| {
        let workers: Vec<_> = (0..setup.threads)
            .map(|number| {
                let mine = if number == 0 {
                    std::mem::take(&mut guards)
                } else {
                    Vec::new()
                };
                let (store, counter, gate, tokens) = (&store, &counter, &gate, &tokens);
                let lots = Lots(setup.seed.wrapping_mul(2 * number as u64 + 1) | 1);
                scope.spawn(move || work(store, counter, gate, tokens, mine, lots))
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let mut overlapped = 0;
    for (number, round) in rounds.into_iter().enumerate() {
        let mut history = round.before;
        seen.iter()
            .for_each(|thread| history.extend(thread[number].iter().cloned()));
        if setup.log.is_some() {
            history = without_sightings_of_changes(&history);
        }
        assert!(
            is_linearizable(&history),
            "no order explains round {number} of {setup:?}, which began {:?}:\n{}",
            round.start,
            drawn(&history)
        );
        overlapped += usize::from(has_overlap(&history));
    }
    overlapped
}

/// With a log a change takes a while to be recorded, and meanwhile the key is in flight for all
/// others, even if its lease has ended or its guard was dropped. Answers that say no more than that, during a call
/// that changes the key, are taken out: the model knows no such moment.
fn without_sightings_of_changes(history: &[Event]) -> Vec<Event> {
    let is_sighting = |event: &Event| match &event.answer {
        Answer::InFlight { .. } => true,
        Answer::InUse(status)
        | Answer::Status(status)
        | Answer::Lost(status)
        | Answer::Mismatch { status, .. } => {
            matches!(status, Status::InFlight { .. })
        }
        _ => false,
    };
    let changes = |event: &Event| {
        let looks = matches!(
            event.call,
            Call::Claim { .. } | Call::FirstSeen { .. } | Call::Replay { .. } | Call::Peek | Call::Status
        );
        !looks && !is_sighting(event)
    };
    let overlaps = |a: &Event, b: &Event| a.began < b.ended && b.began < a.ended;
    let kept = history.iter().filter(|event| {
        let meanwhile = history
            .iter()
            .any(|other| changes(other) && overlaps(event, other));
        !(is_sighting(event) && meanwhile)
    });
    kept.cloned().collect()
}

/// Whether any call began before another had ended. Halves of one call do not count.
fn has_overlap(history: &[Event]) -> bool {
    let mut calls: Vec<_> = history.iter().filter(|e| e.call != Call::FirstSeenEnds).collect();
    calls.sort_by_key(|event| event.began);
    calls.windows(2).any(|pair| pair[1].began < pair[0].ended)
}

/// What one thread does in all rounds.
fn work(
    store: &Store,
    counter: &AtomicU64,
    gate: &Gate,
    tokens: &[Option<ClaimToken>],
    mut guards: Vec<Option<ClaimGuard<'_>>>,
    mut lots: Lots,
) -> Vec<Vec<Event>> {
    let each = |(round, token): (usize, &Option<ClaimToken>)| {
        let mut scribe = Scribe::new(store, counter, 100_000);
        let given = guards.get_mut(round).and_then(Option::take);
        let mut hands = Hands {
            guard: given.map(|guard| (guard, false)),
            question: None,
        };
        let name = id(round);
        let steps = 2 + lots.below(4);
        gate.pass(round);
        for _ in 0..steps {
            step(
                &mut scribe,
                &mut hands,
                Key::new("linear", &name),
                token.as_ref(),
                &mut lots,
            );
            (0..lots.below(40)).for_each(|_| std::hint::spin_loop());
        }
        if let Some((guard, ended)) = hands.guard {
            scribe.drop_guard_unless(guard, ended);
        }
        scribe.events
    };
    tokens.iter().enumerate().map(each).collect()
}

/// A history a person can follow: in the order in which the calls began.
fn drawn(history: &[Event]) -> String {
    let mut sorted = history.to_vec();
    sorted.sort_by_key(|event| event.began);
    let mut text = String::new();
    for event in sorted {
        let _ = writeln!(
            text,
            "{:>8}-{:<8} {:?} -> {:?}",
            event.began, event.ended, event.call, event.answer
        );
    }
    text
}

#[derive(Debug)]
struct Batch {
    seed: u64,
    rounds: usize,
    threads: usize,
    helper: bool,
    constant_hash: bool,
    log: Option<Durability>,
}

/// `ONCEONLY_CASES` scales it as it does the model's streams: 20,000 histories for 50,000.
#[test]
fn every_history_of_real_threads_is_linearizable() {
    let cases = std::env::var("ONCEONLY_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(50_000_usize);
    let rounds = 250;
    let chosen: Option<u64> = std::env::var("ONCEONLY_SEED").ok().and_then(|n| n.parse().ok());
    let seed = chosen.unwrap_or_else(|| std::process::id().into());
    let batches = (cases * 2 / 5).div_ceil(rounds);
    let mut overlapped = 0;
    for number in 0..batches as u64 {
        overlapped += batch(&Batch {
            seed: (seed + number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            rounds,
            threads: [2, 2, 3, 2, 2, 4][(number % 6) as usize],
            helper: number % 2 == 1,
            constant_hash: number % 5 == 4,
            log: [None, Some(Durability::Process), Some(Durability::Sync)][(number % 3) as usize],
        });
    }
    // Where nothing overlaps nothing is shown; a single busy core still switches now and then.
    println!(
        "{overlapped} of {} histories had calls that overlapped",
        batches * rounds
    );
    assert!(overlapped > 0, "the threads never met");
}

// ---------------------------------------------------------------------------------------------
// The checker checked: it accepts what is right and rejects planted faults.

#[derive(Default)]
struct Story(Vec<Event>);

impl Story {
    /// A call that overlaps everything from `began` to `ended`.
    fn over(mut self, began: u64, ended: u64, call: Call, answer: Answer) -> Self {
        self.0.push(Event {
            began,
            ended,
            now: 0,
            call,
            answer,
        });
        self
    }

    /// A call after all before.
    fn then(self, call: Call, answer: Answer) -> Self {
        let at = self.0.iter().map(|event| event.ended).max().unwrap_or(0);
        self.over(at + 1, at + 2, call, answer)
    }

    fn holds(&self) -> bool {
        is_linearizable(&self.0)
    }
}

fn claim() -> Call {
    Call::Claim {
        fingerprint: Fingerprint::NONE,
        lease: LEASE,
    }
}

fn acquired(generation: u64, attempt: u32) -> Answer {
    Answer::Acquired {
        generation,
        attempt,
        checkpoint: None,
    }
}

fn complete(generation: u64, bytes: &[u8]) -> Call {
    Call::Complete {
        generation,
        outcome: finding(bytes, None),
    }
}

fn replay() -> Call {
    Call::Replay {
        fingerprint: Fingerprint::NONE,
    }
}

fn outcome(generation: u64, bytes: &[u8]) -> Told {
    Told {
        bytes: Bytes::from(bytes),
        tag: 0,
        age: Duration::ZERO,
        generation,
    }
}

fn completed(generation: u64, bytes: &[u8]) -> Answer {
    Answer::Completed {
        outcome: outcome(generation, bytes),
        replayed: true,
    }
}

fn in_flight(generation: u64) -> Answer {
    Answer::InFlight {
        generation,
        retry_after: LEASE,
    }
}

fn interrupted(generation: u64) -> Answer {
    Answer::Interrupted {
        generation,
        attempt: 0,
        cause: Cause::Dropped,
        checkpoint: None,
    }
}

fn resume(generation: u64) -> Call {
    Call::Resume {
        generation,
        fingerprint: Fingerprint::NONE,
        lease: LEASE,
    }
}

fn let_go(generation: u64) -> Call {
    Call::Drop {
        generation,
        release: false,
    }
}

/// A key that was claimed at generation 1, and its guard dropped.
fn dropped() -> Story {
    Story::default()
        .then(claim(), acquired(1, 0))
        .then(let_go(1), Answer::Done)
}

#[test]
fn the_checker_accepts_what_an_order_explains() {
    let stories = [
        // The later of two overlapping calls took effect first.
        Story::default()
            .over(1, 9, claim(), in_flight(4))
            .over(2, 8, claim(), acquired(4, 0)),
        Story::default()
            .then(claim(), acquired(1, 0))
            .over(10, 20, complete(1, b"x"), Answer::Done)
            .over(11, 12, replay(), Answer::Miss)
            .over(13, 14, replay(), Answer::Stored(outcome(1, b"x"))),
        // One of two who were asked goes on; the other is told so.
        dropped()
            .over(10, 20, resume(1), in_flight(2))
            .over(11, 21, resume(1), acquired(2, 1)),
        // A generation that is told only later.
        Story::default()
            .then(Call::FirstSeen { ttl: None }, Answer::Was(true))
            .then(claim(), completed(7, b""))
            .then(Call::Forget, Answer::Was(true))
            .then(claim(), acquired(8, 0)),
    ];
    for (number, story) in stories.iter().enumerate() {
        assert!(story.holds(), "story {number}:\n{}", drawn(&story.0));
    }
}

#[test]
fn the_checker_rejects_planted_faults() {
    let done = || {
        Story::default()
            .then(claim(), acquired(1, 0))
            .then(complete(1, b"x"), Answer::Done)
    };
    let attach = Call::Attach {
        generation: 1,
        fingerprint: Fingerprint::NONE,
    };
    let other = Call::Claim {
        fingerprint: print(true),
        lease: LEASE,
    };
    let faults = [
        (
            "two owners",
            Story::default()
                .over(1, 9, claim(), acquired(1, 0))
                .over(2, 8, claim(), acquired(2, 0)),
        ),
        (
            "other bytes",
            done().then(replay(), Answer::Stored(outcome(1, b"y"))),
        ),
        ("work handed out again", done().then(claim(), acquired(2, 0))),
        ("an outcome not found", done().then(replay(), Answer::Miss)),
        (
            "an outcome before its time",
            Story::default()
                .then(replay(), Answer::Stored(outcome(1, b"x")))
                .then(claim(), acquired(1, 0))
                .then(complete(1, b"x"), Answer::Done),
        ),
        (
            "an outcome seen, then not",
            Story::default()
                .then(claim(), acquired(1, 0))
                .over(10, 20, complete(1, b"x"), Answer::Done)
                .over(11, 12, replay(), Answer::Stored(outcome(1, b"x")))
                .over(13, 14, replay(), Answer::Miss),
        ),
        (
            "nobody holds it",
            Story::default()
                .then(claim(), acquired(1, 0))
                .then(Call::Release { generation: 1 }, Answer::Done)
                .then(claim(), in_flight(1)),
        ),
        (
            "two take over",
            dropped()
                .over(10, 20, resume(1), acquired(2, 1))
                .over(11, 21, resume(1), acquired(3, 2)),
        ),
        (
            "a takeover not counted",
            dropped().then(resume(1), acquired(2, 0)),
        ),
        (
            "an old generation completes",
            dropped()
                .then(resume(1), acquired(2, 1))
                .then(complete(1, b"x"), Answer::Done),
        ),
        (
            "a generation twice",
            Story::default()
                .then(claim(), acquired(1, 0))
                .then(Call::Release { generation: 1 }, Answer::Done)
                .then(claim(), acquired(1, 0)),
        ),
        (
            "first seen twice",
            Story::default()
                .over(1, 9, Call::FirstSeen { ttl: None }, Answer::Was(true))
                .over(2, 8, Call::FirstSeen { ttl: None }, Answer::Was(true)),
        ),
        (
            "forgotten twice",
            done().over(10, 20, Call::Forget, Answer::Was(true)).over(
                11,
                21,
                Call::Forget,
                Answer::Was(true),
            ),
        ),
        (
            "another request let in",
            Story::default()
                .then(claim(), acquired(1, 0))
                .then(other, in_flight(1)),
        ),
        (
            "interrupted without a reason",
            Story::default()
                .then(claim(), acquired(1, 0))
                .then(claim(), interrupted(1)),
        ),
        (
            "a token works twice",
            Story::default()
                .then(claim(), acquired(1, 0))
                .over(10, 20, attach.clone(), acquired(2, 0))
                .over(11, 21, attach, acquired(3, 0)),
        ),
        (
            "a forgotten holder is let on",
            Story::default()
                .then(claim(), acquired(1, 0))
                .then(Call::Forget, Answer::Was(true))
                .then(Call::Release { generation: 1 }, Answer::Done),
        ),
        (
            "back from the dead",
            done()
                .then(Call::Forget, Answer::Was(true))
                .then(claim(), completed(1, b"x")),
        ),
    ];
    for (fault, story) in faults {
        assert!(!story.holds(), "{fault}:\n{}", drawn(&story.0));
    }
}
