//! The program that is killed: some threads work on one store and tell every call.
//!
//! Keys come in four kinds, by their first letter:
//!
//! - `e`: calls do not overlap, for a thread locks the key's slot around them. A claim may stay
//!   in the slot, and another thread goes on with it.
//! - `r`: claimed by several threads at once and completed by whoever acquires them.
//! - `f`: asked by several threads at once whether they were seen first.
//! - `s`: completed for some milliseconds.
//!
//! A thread that is told that the disk failed or the store is closed never moves again, and
//! keeps the slots it has locked: nobody knows what became of that call.

use super::{Answer, Blob, By, EXACT_KEYS, Line, Mode, Op, Rng, SCOPE, Setup, print};
use super::{CHILD, Lasting};
use onceonly::{
    Cause, Claim, ClaimGuard, ClaimOptions, CompleteOptions, Error, Interrupted, Key, Pending, Replay, Store,
    Stored,
};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Never returns in the program that is to be killed.
pub(crate) fn run_if_child() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some(CHILD) {
        let setup = args.next().expect("a setup follows");
        run(serde_json::from_str(&setup).expect("a setup follows"));
    }
}

fn run(setup: Setup) -> ! {
    // With the parent this ends too.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let out = std::io::stdout().as_fd().try_clone_to_owned();
    let say = Say(File::from(out.expect("standard output is open")));
    tell_panics(&say);
    let store = match setup.builder().open(&setup.dir) {
        Ok(store) => store,
        Err(error) => {
            let by_disk = matches!(error, Error::Io { .. } | Error::Poisoned);
            let why = error.to_string();
            say.line(&Line::NotOpen { by_disk, why });
            wait_for_the_end()
        }
    };
    say.line(&Line::Open);
    let slots = (0..EXACT_KEYS).map(|i| Mutex::new(Slot::new(i)));
    let shared: &'static Shared = Box::leak(Box::new(Shared {
        store,
        say,
        began: Instant::now(),
        slots: slots.collect(),
        calls: AtomicU64::new(0),
        races: AtomicU64::new(0),
        setup,
    }));
    for thread in 0..shared.setup.threads {
        std::thread::spawn(move || Worker::new(shared, thread).work());
    }
    std::thread::spawn(move || Worker::new(shared, u64::MAX).look());
    if let Some(after) = shared.setup.close_after {
        std::thread::sleep(after);
        let call = Worker::new(shared, 0).intend("-", Op::Sync, true);
        if shared.store.clone().close().is_ok() {
            let answer = Answer::Ok;
            shared.say.line(&Line::Ack { call, answer });
        }
    }
    wait_for_the_end()
}

/// A store goes on without a thread that panicked, but not as promised.
fn tell_panics(say: &Say) {
    let say = Say(say.0.try_clone().expect("standard output is open"));
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let why: String = panic.to_string().chars().take(1_000).collect();
        say.line(&Line::Panicked { why });
        report(panic);
    }));
}

fn wait_for_the_end() -> ! {
    loop {
        std::thread::park();
    }
}

struct Say(File);

impl Say {
    fn line(&self, line: &Line) {
        let mut text = serde_json::to_vec(line).expect("a line is plain data");
        text.push(b'\n');
        assert!(text.len() <= 4_096, "a longer line could be torn");
        // Without a reader the parent is gone, and this program is about to end.
        let _ = (&self.0).write_all(&text);
    }
}

struct Shared {
    store: Store,
    say: Say,
    began: Instant,
    setup: Setup,
    slots: Vec<Mutex<Slot>>,
    calls: AtomicU64,
    races: AtomicU64,
}

/// A key whose calls do not overlap, and its claim.
struct Slot {
    id: String,
    print: u8,
    held: Option<ClaimGuard<'static>>,
    /// A completion that was submitted: the number of its call.
    submitted: Option<(u64, Pending<()>)>,
}

impl Slot {
    fn new(number: usize) -> Self {
        Slot {
            id: format!("e{number}"),
            print: (number % 3) as u8,
            held: None,
            submitted: None,
        }
    }
}

type Slots = Vec<MutexGuard<'static, Slot>>;

/// The call's answer was an error that leaves everything as it was, and has been told.
struct Refused;
type Told<T> = Result<T, Refused>;

struct Worker {
    shared: &'static Shared,
    rng: Rng,
}

fn key(id: &str) -> Key<'_> {
    Key::new(SCOPE, id)
}

fn of_claim(claim: &Claim<'_>) -> Answer {
    let note = |note: Option<&[u8]>| note.map(Blob::of);
    match claim {
        Claim::Acquired(guard) => Answer::Acquired {
            generation: guard.generation(),
            attempt: guard.attempt(),
            note: note(guard.last_checkpoint()),
        },
        Claim::Completed(outcome) => Answer::Completed {
            generation: outcome.generation(),
            outcome: Blob::of(outcome),
            tag: outcome.tag(),
        },
        Claim::InFlight(_) => Answer::InFlight,
        Claim::Interrupted(left) => Answer::Interrupted {
            generation: left.generation(),
            attempt: left.attempt(),
            note: note(left.last_checkpoint()),
            crashed: left.cause() == Cause::Crashed,
        },
        Claim::Mismatch(_) => Answer::Mismatch,
    }
}

fn of_bool(yes: &bool) -> Answer {
    if *yes { Answer::Yes } else { Answer::No }
}

impl Worker {
    fn new(shared: &'static Shared, thread: u64) -> Self {
        Worker {
            shared,
            rng: Rng::new(shared.setup.seed.wrapping_mul(31).wrapping_add(thread)),
        }
    }

    fn mode(&self) -> Mode {
        self.shared.setup.mode
    }

    fn outcomes_last(&self) -> bool {
        self.mode().outcomes == Lasting::Sync
    }

    fn claims_last(&self) -> bool {
        self.mode().claims == Lasting::Sync
    }

    fn work(mut self) {
        loop {
            let quiet = self.shared.setup.quiet_after;
            if quiet.is_some_and(|after| self.shared.began.elapsed() >= after) {
                wait_for_the_end()
            }
            // What was refused was told, and is tried again some time.
            let _: Told<()> = match self.rng.below(100) {
                0..50 => self.one_key(),
                50..58 => self.claim_many(),
                58..66 => self.complete_many(),
                66..68 => self.first_seen_many(),
                68..84 => self.race(),
                84..90 => self.race_first_seen(),
                90..94 => self.short(),
                94..95 => self.sync(),
                95..98 => self.tend(),
                _ => self.tell_counts(),
            };
        }
    }

    fn intend(&self, id: &str, op: Op, lasts: bool) -> u64 {
        let call = self.shared.calls.fetch_add(1, Ordering::Relaxed);
        let key = id.to_owned();
        self.shared.say.line(&Line::Intent { call, key, op, lasts });
        call
    }

    /// Tells the answer.
    fn heard<T>(&self, call: u64, result: Result<T, Error>, answer: impl FnOnce(&T) -> Answer) -> Told<T> {
        let said = match &result {
            Ok(value) => answer(value),
            Err(Error::AtCapacity { .. }) => Answer::AtCapacity,
            Err(Error::LeaseLost { .. }) => Answer::LeaseLost,
            Err(Error::InUse { .. }) => Answer::InUse,
            Err(Error::Io { .. } | Error::Poisoned | Error::Closed) => wait_for_the_end(),
            Err(error) => Answer::Unexpected(error.to_string()),
        };
        self.shared.say.line(&Line::Ack { call, answer: said });
        result.map_err(|_| Refused)
    }

    fn call<T>(
        &self,
        id: &str,
        op: Op,
        lasts: bool,
        call: impl FnOnce(&'static Store) -> Result<T, Error>,
        answer: impl FnOnce(&T) -> Answer,
    ) -> Told<T> {
        let number = self.intend(id, op, lasts);
        self.heard(number, call(&self.shared.store), answer)
    }

    /// Locks up to `many` slots that `want` accepts; what was submitted there is waited for.
    fn lock(&mut self, many: usize, want: impl Fn(&Slot) -> bool) -> Slots {
        let from = self.rng.below(EXACT_KEYS as u64) as usize;
        let mut found = Vec::new();
        for i in 0..EXACT_KEYS {
            let Ok(slot) = self.shared.slots[(from + i) % EXACT_KEYS].try_lock() else {
                continue;
            };
            if slot.submitted.is_some() || want(&slot) {
                found.push(slot);
            }
            if found.len() == many {
                break;
            }
        }
        for slot in &mut found {
            if let Some((call, pending)) = slot.submitted.take() {
                let _: Told<()> = self.heard(call, pending.wait(), |()| Answer::Ok);
            }
        }
        found.retain(|slot| want(slot));
        found
    }

    /// Sizes up to beyond a segment.
    fn size(&mut self) -> usize {
        let most = self.shared.setup.segment_bytes as u64;
        let below = match self.rng.below(200) {
            0..20 => 1,
            20..150 => self.shared.setup.bytes,
            150..190 => 800,
            190..198 => most / 4,
            198 => most,
            _ => 2 * most,
        };
        // A note may not be longer.
        self.rng.below(below.min(64 << 10)) as usize
    }

    fn one_key(&mut self) -> Told<()> {
        let Some(mut slot) = self.lock(1, |_| true).pop() else {
            std::thread::yield_now();
            return Ok(());
        };
        match slot.held.take() {
            Some(guard) => self.with_guard(&mut slot, guard),
            None => self.without_guard(&mut slot),
        }
    }

    /// Is this call to be as durable as the store says, or otherwise?
    fn is_odd(&mut self) -> bool {
        let calls = if self.shared.setup.rarely_synced {
            10_000
        } else {
            12
        };
        self.rng.one_in(calls)
    }

    /// Options and tag; at `true` the device has it before the answer.
    fn completing(&mut self) -> (CompleteOptions, u16, bool) {
        let mut lasts = self.outcomes_last();
        let tag = self.rng.below(3) as u16 * 200;
        let hours = [1, 24, 24, 24 * 30][self.rng.below(4) as usize];
        let mut options = CompleteOptions::new()
            .tag(tag)
            .ttl(Duration::from_secs(hours * 3_600));
        if self.is_odd() {
            lasts = !lasts;
            let other = if lasts { Lasting::Sync } else { Lasting::Process };
            options = options.durability(other.durability());
        }
        (options, tag, lasts)
    }

    fn with_guard(&mut self, slot: &mut Slot, guard: ClaimGuard<'static>) -> Told<()> {
        let generation = guard.generation();
        let id = slot.id.as_str();
        let done = match self.rng.below(100) {
            0..45 => {
                let size = self.size();
                let bytes = self.rng.bytes(size);
                let outcome = Blob::of(&bytes);
                let (options, tag, lasts) = self.completing();
                if self.rng.below(3) > 0 {
                    let by = By::One;
                    let op = Op::Complete {
                        generation,
                        outcome,
                        tag,
                        by,
                    };
                    self.call(
                        id,
                        op,
                        lasts,
                        |_| guard.complete_with(&bytes, options),
                        |()| Answer::Ok,
                    )
                } else {
                    let by = By::Submit;
                    let op = Op::Complete {
                        generation,
                        outcome,
                        tag,
                        by,
                    };
                    let call = self.intend(id, op, lasts);
                    slot.submitted = Some((call, guard.submit(&bytes, options)));
                    return Ok(());
                }
            }
            45..65 => {
                let size = self.size();
                let bytes = self.rng.bytes(size);
                let note = Blob::of(&bytes);
                let op = Op::Checkpoint { generation, note };
                let lasts = self.claims_last();
                let _ = self.call(id, op, lasts, |_| guard.checkpoint(&bytes), |()| Answer::Ok);
                Err(Refused)
            }
            65..72 => {
                let op = Op::Renew { generation };
                let lease = Duration::from_secs(600);
                let _ = self.call(id, op, false, |_| guard.renew(lease), |()| Answer::Ok);
                Err(Refused)
            }
            72..84 => {
                let op = Op::Release { generation };
                self.call(id, op, self.outcomes_last(), |_| guard.release(), |()| Answer::Ok)
            }
            84..88 => {
                let call = self.intend(id, Op::Drop { generation }, false);
                drop(guard);
                return self.heard(call, Ok(()), |()| Answer::Ok);
            }
            88..93 => {
                self.forget(id)?;
                let late = Op::Late { generation };
                let _ = self.call(id, late, false, |_| guard.complete(b"late"), |()| Answer::Ok);
                return Ok(());
            }
            _ => {
                let token = guard.detach();
                let op = Op::Attach { generation };
                let lasts = self.claims_last();
                let claim = self.call(id, op, lasts, |store| store.attach(&token), of_claim)?;
                if let Claim::Acquired(guard) = claim {
                    slot.held = Some(guard);
                }
                return Ok(());
            }
        };
        if done.is_err() {
            slot.held = Some(guard);
        }
        Ok(())
    }

    fn without_guard(&mut self, slot: &mut Slot) -> Told<()> {
        let id = slot.id.as_str();
        let other = self.rng.one_in(16);
        let print_here = if other { slot.print + 1 } else { slot.print };
        let op = Op::Claim { print: print_here };
        let print = print(print_here);
        match self.rng.below(100) {
            0..60 => {
                let mut lasts = self.claims_last();
                let mut options = ClaimOptions::new().lease(Duration::from_secs(600));
                if self.is_odd() {
                    lasts = !lasts;
                    let other = if lasts { Lasting::Sync } else { Lasting::Process };
                    options = options.durability(other.durability());
                }
                let asked = if self.rng.one_in(4) {
                    let wait = |store: &'static Store| store.submit_claim(key(id), print, options).wait();
                    self.call(id, op, lasts, wait, of_claim)
                } else {
                    let ask = |store: &'static Store| store.claim_with(key(id), print, options);
                    self.call(id, op, lasts, ask, of_claim)
                };
                match asked? {
                    Claim::Acquired(guard) => slot.held = Some(guard),
                    Claim::Interrupted(left) => slot.held = self.settle(&slot.id, left)?,
                    // Else most keys would soon be completed, and little recorded.
                    _ if self.rng.below(3) > 0 => self.forget(&slot.id)?,
                    _ => {}
                }
                Ok(())
            }
            60..80 => self.forget(id),
            80..88 => {
                let lasts = self.outcomes_last();
                self.call(
                    id,
                    Op::FirstSeen,
                    lasts,
                    |store| store.first_seen(key(id)),
                    of_bool,
                )
                .map(drop)
            }
            _ => self.replay(id, print_here),
        }
    }

    fn forget(&self, id: &str) -> Told<()> {
        let lasts = self.outcomes_last();
        self.call(id, Op::Forget, lasts, |store| store.forget(key(id)), of_bool)
            .map(drop)
    }

    fn replay(&self, id: &str, number: u8) -> Told<()> {
        let read = |store: &'static Store| {
            store.replay(key(id), print(number), |stored| Answer::Completed {
                generation: stored.generation(),
                outcome: Blob::of(stored.bytes()),
                tag: stored.tag(),
            })
        };
        let answer = |found: &Replay<Answer>| match found {
            Replay::Hit(answer) => answer.clone(),
            Replay::Miss => Answer::Miss,
            Replay::Mismatch => Answer::Mismatch,
        };
        self.call(id, Op::Replay { print: number }, false, read, answer)
            .map(drop)
    }

    /// Decides what becomes of a claim whose holder is gone.
    fn settle(&mut self, id: &str, left: Interrupted<'static>) -> Told<Option<ClaimGuard<'static>>> {
        let generation = left.generation();
        match self.rng.below(100) {
            0..60 => {
                let op = Op::Resume { generation };
                let claim = self.call(id, op, self.claims_last(), |_| left.resume(), of_claim)?;
                let Claim::Acquired(guard) = claim else {
                    return Ok(None);
                };
                Ok(Some(guard))
            }
            60..80 => {
                let size = self.size();
                let bytes = self.rng.bytes(size);
                let (options, tag, lasts) = self.completing();
                let outcome = Blob::of(&bytes);
                let op = Op::Resolve {
                    generation,
                    outcome,
                    tag,
                };
                let _ = self.call(id, op, lasts, |_| left.resolve(&bytes, options), of_claim)?;
                Ok(None)
            }
            80..92 => {
                let op = Op::Release { generation };
                self.call(id, op, self.outcomes_last(), |_| left.release(), |()| Answer::Ok)?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Looks at the keys others are just working on: an outcome that can be seen has to last.
    fn look(self) {
        let mut seen = vec![None; EXACT_KEYS];
        loop {
            std::thread::sleep(Duration::from_micros(50));
            for (number, seen) in seen.iter_mut().enumerate() {
                if self.shared.slots[number].try_lock().is_ok() {
                    continue;
                }
                let Slot {
                    id, print: number, ..
                } = Slot::new(number);
                let read = |stored: Stored<'_>| (Blob::of(stored.bytes()), stored.tag());
                match self.shared.store.replay(key(&id), print(number), read) {
                    Ok(Replay::Hit((outcome, tag))) if seen.replace(outcome) != Some(outcome) => {
                        self.shared.say.line(&Line::Seen {
                            key: id,
                            outcome,
                            tag,
                        });
                    }
                    Ok(_) => {}
                    Err(_) => wait_for_the_end(),
                }
            }
        }
    }

    fn claim_many(&mut self) -> Told<()> {
        let mut slots = self.lock(6, |slot| slot.held.is_none());
        let items: Vec<_> = slots.iter().map(|s| (s.id.clone(), s.print)).collect();
        let calls: Vec<u64> = items
            .iter()
            .map(|(id, print)| self.intend(id, Op::Claim { print: *print }, self.claims_last()))
            .collect();
        let asked: Vec<_> = items
            .iter()
            .map(|(id, number)| (key(id), print(*number)))
            .collect();
        let mut claims = Vec::new();
        if self.shared.store.claim_many(&asked, &mut claims).is_err() {
            wait_for_the_end()
        }
        let all: Vec<_> = claims.into_iter().zip(calls).collect();
        let told: Vec<_> = all
            .into_iter()
            .map(|(claim, call)| self.heard(call, claim, of_claim))
            .collect();
        for (claim, slot) in told.into_iter().zip(&mut slots) {
            match claim {
                Ok(Claim::Acquired(guard)) => slot.held = Some(guard),
                Ok(Claim::Interrupted(left)) => {
                    let id = slot.id.clone();
                    slot.held = self.settle(&id, left).unwrap_or(None);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn complete_many(&mut self) -> Told<()> {
        let mut slots = self.lock(8, |slot| slot.held.is_some());
        let mut items = Vec::new();
        for _ in &slots {
            let size = self.size();
            items.push((self.rng.bytes(size), self.completing()));
        }
        let mut calls = Vec::new();
        for (slot, (bytes, (_, tag, lasts))) in slots.iter().zip(&items) {
            let Some(guard) = &slot.held else { continue };
            let op = Op::Complete {
                generation: guard.generation(),
                outcome: Blob::of(bytes),
                tag: *tag,
                by: By::Many,
            };
            calls.push(self.intend(&slot.id, op, *lasts));
        }
        let held = slots.iter().filter_map(|slot| slot.held.as_ref());
        let batch = held
            .zip(&items)
            .map(|(guard, (bytes, (options, ..)))| (guard, bytes, *options));
        let mut done = Vec::new();
        if self.shared.store.complete_many(batch, &mut done).is_err() {
            wait_for_the_end()
        }
        for ((result, call), slot) in done.into_iter().zip(calls).zip(&mut slots) {
            if self.heard(call, result, |()| Answer::Ok).is_ok() {
                slot.held = None;
            }
        }
        Ok(())
    }

    fn first_seen_many(&mut self) -> Told<()> {
        let slots = self.lock(6, |slot| slot.held.is_none());
        let lasts = self.outcomes_last();
        let calls: Vec<u64> = slots
            .iter()
            .map(|slot| self.intend(&slot.id, Op::FirstSeen, lasts))
            .collect();
        let keys: Vec<_> = slots.iter().map(|slot| key(&slot.id)).collect();
        let mut seen = Vec::new();
        if self.shared.store.first_seen_many(&keys, &mut seen).is_err() {
            wait_for_the_end()
        }
        for (result, call) in seen.into_iter().zip(calls) {
            let _ = self.heard(call, result, of_bool);
        }
        Ok(())
    }

    /// A key others ask for at this moment, or an old one.
    fn contested(&mut self, kind: char, each: u64) -> String {
        let so_far = self.shared.races.fetch_add(1, Ordering::Relaxed) / each;
        let number = if self.rng.one_in(4) {
            self.rng.below(so_far + 1)
        } else {
            so_far
        };
        // Some of them from one life to the next.
        let life = if self.rng.one_in(2) {
            0
        } else {
            self.shared.setup.seed
        };
        format!("{kind}{life:x}-{number}")
    }

    fn race(&mut self) -> Told<()> {
        let id = &self.contested('r', 5);
        if self.rng.one_in(4) {
            return self.replay(id, 0);
        }
        let op = Op::Claim { print: 0 };
        let lasts = self.claims_last();
        let claim = self.call(id, op, lasts, |store| store.claim(key(id), print(0)), of_claim)?;
        let guard = match claim {
            Claim::Acquired(guard) => guard,
            Claim::Interrupted(left) => {
                let op = Op::Resume {
                    generation: left.generation(),
                };
                match self.call(id, op, lasts, |_| left.resume(), of_claim)? {
                    Claim::Acquired(guard) => guard,
                    _ => return Ok(()),
                }
            }
            // Whoever waits is told the outcome as soon as anybody may see it.
            Claim::InFlight(other) => {
                let wait = |_| other.wait(Duration::from_millis(20));
                return self.call(id, op, lasts, wait, of_claim).map(drop);
            }
            _ => return Ok(()),
        };
        let generation = guard.generation();
        if self.rng.one_in(5) {
            let call = self.intend(id, Op::Drop { generation }, false);
            drop(guard);
            return self.heard(call, Ok(()), |()| Answer::Ok);
        }
        let bytes = self.rng.bytes(40);
        let outcome = Blob::of(&bytes);
        let (tag, by) = (7, By::One);
        let op = Op::Complete {
            generation,
            outcome,
            tag,
            by,
        };
        let options = CompleteOptions::new().tag(tag);
        let lasts = self.outcomes_last();
        let complete = |_| guard.complete_with(&bytes, options);
        self.call(id, op, lasts, complete, |()| Answer::Ok)
    }

    fn race_first_seen(&mut self) -> Told<()> {
        let id = &self.contested('f', 12);
        let lasts = self.outcomes_last();
        self.call(
            id,
            Op::FirstSeen,
            lasts,
            |store| store.first_seen(key(id)),
            of_bool,
        )
        .map(drop)
    }

    fn short(&mut self) -> Told<()> {
        let id = &format!("s{}", self.rng.below(8));
        let op = Op::Claim { print: 0 };
        let lasts = self.claims_last();
        let claim = self.call(id, op, lasts, |store| store.claim(key(id), print(0)), of_claim)?;
        let guard = match claim {
            Claim::Acquired(guard) => guard,
            Claim::Interrupted(left) => {
                let op = Op::Release {
                    generation: left.generation(),
                };
                return self.call(id, op, self.outcomes_last(), |_| left.release(), |()| Answer::Ok);
            }
            _ => return Ok(()),
        };
        let generation = guard.generation();
        let bytes = self.rng.bytes(100);
        let outcome = Blob::of(&bytes);
        let (tag, by) = (9, By::One);
        let op = Op::Complete {
            generation,
            outcome,
            tag,
            by,
        };
        let ttl = Duration::from_millis(1 + self.rng.below(30));
        let options = CompleteOptions::new().tag(tag).ttl(ttl);
        let lasts = self.outcomes_last();
        let complete = |_| guard.complete_with(&bytes, options);
        self.call(id, op, lasts, complete, |()| Answer::Ok)
    }

    fn sync(&mut self) -> Told<()> {
        if self.shared.setup.rarely_synced && !self.rng.one_in(100) {
            return Ok(());
        }
        self.call("-", Op::Sync, true, |store| store.sync(), |()| Answer::Ok)
    }

    fn tend(&mut self) -> Told<()> {
        if !self.mode().helper && self.shared.store.maintain(Duration::from_millis(1)).is_err() {
            wait_for_the_end()
        }
        Ok(())
    }

    fn tell_counts(&mut self) -> Told<()> {
        let stats = self.shared.store.stats();
        self.shared.say.line(&Line::Counts {
            segments: stats.segments,
            carried: stats.records_carried,
        });
        Ok(())
    }
}
