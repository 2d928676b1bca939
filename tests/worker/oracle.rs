//! The oracle: what each key may be, from what the program said.
//!
//! For a key whose calls do not overlap (`e`) it keeps the states the key went through in this
//! life: a set for each call, for what a call did that was never answered is not known. A kill
//! leaves the last answered state or that of the call under way. A power cut leaves one of the
//! states since the last one that is known to be on the device, and of all keys together a
//! beginning of what was recorded: if a call has survived, so has every call that was answered
//! before it began.
//!
//! For a key many ask for at once it keeps facts: who acquired it, what it was completed with,
//! and that it was seen.

use super::{Answer, Blob, Line, Op, SCOPE, print, print_number};
use onceonly::{Cause, Claim, Key, Replay, ScanFilter, Status, Store};
use std::collections::HashMap;
use std::time::Instant;

/// The number of a line in this life.
type At = u64;

/// A generation, or what one that was never told is larger than.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Generation {
    Is(u64),
    Above(u64),
}

impl Generation {
    fn may_be(self, n: u64) -> bool {
        match self {
            Generation::Is(known) => n == known,
            Generation::Above(floor) => n > floor,
        }
    }
}

#[derive(Clone, PartialEq, Debug)]
enum State {
    Absent,
    Held {
        generation: Generation,
        print: u8,
        attempt: u32,
        note: Option<Blob>,
        /// The life of the program its holder belongs to.
        life: u32,
    },
    Done {
        generation: Generation,
        print: u8,
        outcome: Blob,
        tag: u16,
    },
}

/// What a call made of a key.
#[derive(Clone, Debug)]
struct Step {
    may_be: Vec<State>,
    began: At,
    /// When the answer was read, unless there was none.
    answered: Option<(At, Instant)>,
    lasts: bool,
}

struct Exact {
    /// The first is what the key was when this life began.
    steps: Vec<Step>,
    /// The states from this step on are possible after this life.
    from: usize,
    largest: u64,
}

impl Exact {
    fn new() -> Self {
        Exact {
            steps: vec![Step::start(vec![State::Absent])],
            from: 0,
            largest: 0,
        }
    }

    fn now(&self) -> &[State] {
        self.steps.last().map_or(&[], |step| &step.may_be)
    }
}

impl Step {
    fn start(may_be: Vec<State>) -> Self {
        Step {
            may_be,
            began: 0,
            answered: None,
            lasts: true,
        }
    }
}

/// Something that was said, and whether it is on the device.
#[derive(Clone, Copy, Debug)]
struct Fact<T> {
    what: T,
    at: At,
    lasts: bool,
}

#[derive(Default)]
struct Contested {
    /// Something was told that may be lost by now: up to which state.
    doubtful: Option<(Option<u64>, bool)>,
    /// The largest generation that was acquired since the key was absent.
    acquired: Option<Fact<u64>>,
    done: Option<Fact<(Blob, u16)>>,
    /// Somebody was told that it was seen first.
    was_first: bool,
    /// Outcomes somebody tried to store, and if they are on the device once they are seen.
    intended: HashMap<(Blob, u16), bool>,
    largest: Option<Fact<u64>>,
}

/// How a life ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Killed,
    /// What was answered before the moment must be on the device, if one is given.
    PowerCut {
        kept_before: Option<Instant>,
    },
}

/// What an examination found.
#[derive(Default, Clone, Copy, Debug)]
pub(crate) struct Found {
    /// Something answered and not promised to be on the device was lost.
    pub(crate) lost: bool,
    /// Something was answered and not promised to be on the device.
    pub(crate) could_lose: bool,
    /// Calls never answered that have happened, and that have not.
    pub(crate) in_doubt_done: u64,
    pub(crate) in_doubt_undone: u64,
    pub(crate) keys: u64,
}

struct Asked {
    key: String,
    op: Op,
    lasts: bool,
    at: At,
}

#[derive(Default)]
pub(crate) struct Oracle {
    exact: HashMap<String, Exact>,
    contested: HashMap<String, Contested>,
    life: u32,
    next: At,
    /// What was answered before this line is on the device.
    covered: At,
    asked: HashMap<u64, Asked>,
    end: Option<End>,
    /// Outcomes of `e` keys that were seen in this life.
    seen: Vec<(String, Blob, u16)>,
    /// Every line about every key, for the report of a failure.
    history: HashMap<String, Vec<String>>,
    pub(crate) is_open: bool,
    pub(crate) answers: u64,
    pub(crate) segments: u64,
    pub(crate) carried: u64,
}

impl Oracle {
    /// The history of a key, for people.
    fn accuse(&self, key: &str, why: &str) -> String {
        let history = self.history.get(key).map(Vec::as_slice).unwrap_or_default();
        let shown = &history[history.len().saturating_sub(80)..];
        let known = match (self.exact.get(key), self.contested.get(key)) {
            (Some(exact), _) => format!("{:#?}", &exact.steps[exact.from.min(exact.steps.len() - 1)..]),
            (_, Some(c)) => format!("acquired {:?}, done {:?}", c.acquired, c.done),
            _ => "nothing".into(),
        };
        format!(
            "key {key}: {why}\n  known: {known}\n  covered up to line {}; history:\n    {}",
            self.covered,
            shown.join("\n    ")
        )
    }

    fn remember(&mut self, key: &str, text: String) {
        let entry = self.history.entry(key.to_owned()).or_default();
        entry.push(format!("life {} line {}: {text}", self.life, self.next));
    }

    /// Takes in what the program said in one life, and how that ended.
    pub(crate) fn hear(&mut self, lines: Vec<(Instant, Line)>, end: End) -> Result<(), String> {
        self.begin();
        for (when, line) in lines {
            self.next += 1;
            match line {
                Line::Open => self.is_open = true,
                Line::NotOpen { by_disk, why } => {
                    if !(by_disk && matches!(end, End::PowerCut { .. })) {
                        return Err(format!("the program could not open the store: {why}"));
                    }
                }
                Line::Panicked { why } => return Err(format!("a thread of the program {why}")),
                Line::Seen { key, outcome, tag } => {
                    self.remember(&key, format!("seen: {outcome:?} {tag}"));
                    // Shorter ones may be alike.
                    if outcome.len >= 8 {
                        self.seen.push((key, outcome, tag));
                    }
                }
                Line::Counts { segments, carried } => {
                    self.segments = self.segments.max(segments);
                    self.carried = self.carried.max(carried);
                }
                Line::Intent { call, key, op, lasts } => {
                    self.remember(&key, format!("intends #{call} {op:?} lasts {lasts}"));
                    self.intend(&key, op, lasts);
                    let at = self.next;
                    self.asked.insert(call, Asked { key, op, lasts, at });
                }
                Line::Ack { call, answer } => {
                    let asked = self.asked.remove(&call).ok_or("an answer without a question")?;
                    self.answers += 1;
                    self.remember(&asked.key, format!("answer to #{call}: {answer:?}"));
                    self.answered(&asked, &answer, when).map_err(|why| {
                        self.accuse(&asked.key, &format!("{why}: {:?} gave {answer:?}", asked.op))
                    })?;
                }
            }
        }
        self.end(end);
        Ok(())
    }

    fn begin(&mut self) {
        if self.end.take().is_some() {
            for exact in self.exact.values_mut() {
                let mut may_be: Vec<State> = Vec::new();
                for state in exact
                    .steps
                    .drain(..)
                    .skip(exact.from)
                    .flat_map(|step| step.may_be)
                {
                    if !may_be.contains(&state) {
                        may_be.push(state);
                    }
                }
                exact.steps.push(Step::start(may_be));
                exact.from = 0;
            }
        }
        self.life += 1;
        (self.next, self.covered) = (0, 0);
        (self.is_open, self.segments, self.carried) = (false, 0, 0);
        self.asked.clear();
        self.seen.clear();
    }

    fn intend(&mut self, key: &str, op: Op, lasts: bool) {
        match kind(key) {
            'e' => {
                self.exact.entry(key.to_owned()).or_insert_with(Exact::new);
            }
            '-' => {}
            _ => {
                let contested = self.contested.entry(key.to_owned()).or_default();
                if let Op::Complete { outcome, tag, .. } = op {
                    contested.intended.insert((outcome, tag), lasts);
                }
                if op == Op::FirstSeen {
                    contested.intended.insert((Blob::of(b""), 0), lasts);
                }
            }
        }
    }

    fn answered(&mut self, asked: &Asked, answer: &Answer, when: Instant) -> Result<(), String> {
        if let Answer::Unexpected(why) = answer {
            return Err(format!("an error nobody expects, {why}"));
        }
        if asked.lasts && has_recorded(asked.op, answer) {
            self.covered = self.covered.max(asked.at);
        }
        match kind(&asked.key) {
            'e' => self.exact_answered(asked, answer, when),
            '-' => Ok(()),
            kind => self.contested_answered(kind, asked, answer),
        }
    }

    fn exact_answered(&mut self, asked: &Asked, answer: &Answer, when: Instant) -> Result<(), String> {
        let (life, at) = (self.life, self.next);
        let Some(exact) = self.exact.get_mut(&asked.key) else {
            return Err("no such key".into());
        };
        let largest = exact.largest;
        let was = exact.now().to_vec();
        let mut may_be = Vec::new();
        for state in &was {
            if let Some(next) = after(state, asked.op, answer, largest, life)
                && !may_be.contains(&next)
            {
                may_be.push(next);
            }
        }
        if may_be.is_empty() {
            return Err("no state the key may be in answers so".into());
        }
        if let Some(generation) = told_generation(answer) {
            exact.largest = largest.max(generation);
        }
        let recorded = has_recorded(asked.op, answer);
        let refused_half_way = asked.op == Op::FirstSeen && *answer == Answer::AtCapacity;
        if asked.op == Op::FirstSeen && (recorded || refused_half_way) {
            // It claims first, and a power cut may leave that alone.
            let half: Vec<_> = was
                .iter()
                .flat_map(|s| begun(s, asked.op, largest, life))
                .collect();
            if refused_half_way {
                may_be.extend(half.iter().cloned());
            }
            exact.steps.push(Step {
                may_be: half,
                began: asked.at,
                answered: None,
                lasts: false,
            });
        }
        if recorded || refused_half_way {
            exact.steps.push(Step {
                may_be,
                began: asked.at,
                answered: Some((at, when)),
                lasts: asked.lasts && recorded,
            });
        } else if let Some(step) = exact.steps.last_mut() {
            // It tells which of the states it was.
            step.may_be = may_be;
        }
        Ok(())
    }

    fn contested_answered(&mut self, kind: char, asked: &Asked, answer: &Answer) -> Result<(), String> {
        let at = self.next;
        let Some(key) = self.contested.get_mut(&asked.key) else {
            return Err("no such key".into());
        };
        let known = |at: At| at < asked.at;
        if let Answer::Acquired { generation, .. } = answer {
            let generation = *generation;
            if let Some(largest) = key.largest
                && (generation == largest.what || known(largest.at) && generation < largest.what)
            {
                return Err(format!("generation {generation} after {}", largest.what));
            }
            if key.largest.is_none_or(|largest| generation > largest.what) {
                let what = generation;
                key.largest = Some(Fact {
                    what,
                    at,
                    lasts: true,
                });
            }
        }
        if let Answer::Completed { outcome, tag, .. } = answer
            && !key.intended.contains_key(&(*outcome, *tag))
        {
            return Err("bytes nobody has stored".into());
        }
        match (kind, answer) {
            ('s', _) => {}
            (_, Answer::Acquired { generation, .. }) => {
                if let Some(done) = key.done.filter(|done| known(done.at)) {
                    return Err(format!("acquired although done: {done:?}"));
                }
                let is_claim = matches!(asked.op, Op::Claim { .. });
                if let Some(holder) = key.acquired.filter(|_| is_claim) {
                    return Err(format!("acquired twice without an interruption: {holder:?}"));
                }
                if key.acquired.is_none_or(|held| held.what < *generation) {
                    let (what, lasts) = (*generation, asked.lasts);
                    key.acquired = Some(Fact { what, at, lasts });
                }
            }
            (_, Answer::Completed { outcome, tag, .. }) => {
                let what = (*outcome, *tag);
                if let Some(done) = key.done.filter(|done| done.what != what) {
                    return Err(format!("another outcome than {done:?}"));
                }
                let lasts = key.intended.get(&what).copied().unwrap_or_default();
                key.done.get_or_insert(Fact { what, at, lasts });
            }
            (_, Answer::Interrupted { .. } | Answer::InFlight | Answer::Miss) => {
                if let Some(done) = key.done.filter(|done| known(done.at)) {
                    return Err(format!("it is done: {done:?}"));
                }
            }
            (_, Answer::Ok) => {
                if let Op::Complete { outcome, tag, .. } = asked.op {
                    let (what, lasts) = ((outcome, tag), asked.lasts);
                    if let Some(done) = key.done.filter(|done| done.what != what) {
                        return Err(format!("completed twice: {done:?}"));
                    }
                    key.done.get_or_insert(Fact { what, at, lasts }).lasts |= lasts;
                }
            }
            ('f', Answer::Yes | Answer::No) => {
                let what = (Blob::of(b""), 0);
                let seen = key.done.filter(|done| known(done.at) || key.was_first);
                if let (Answer::Yes, Some(seen)) = (answer, seen) {
                    return Err(format!("seen first twice: {seen:?}"));
                }
                key.was_first |= *answer == Answer::Yes;
                key.done.get_or_insert(Fact {
                    what,
                    at,
                    lasts: asked.lasts,
                });
            }
            // A crash between the claim and the completion of a `first_seen`.
            ('f', Answer::InUse) => {
                if let Some(done) = key.done.filter(|done| known(done.at)) {
                    return Err(format!("it is done: {done:?}"));
                }
            }
            (_, Answer::LeaseLost | Answer::AtCapacity) => {}
            _ => return Err("that is no answer".into()),
        }
        Ok(())
    }

    fn end(&mut self, end: End) {
        let mut open: Vec<_> = self.asked.drain().collect();
        open.sort_by_key(|(call, _)| *call);
        for (_, asked) in open {
            if let Some(exact) = self.exact.get_mut(&asked.key) {
                let (largest, life) = (exact.largest, self.life);
                let was = exact.now().to_vec();
                let may_be: Vec<_> = was
                    .iter()
                    .flat_map(|s| begun(s, asked.op, largest, life))
                    .collect();
                exact.steps.push(Step {
                    may_be,
                    began: asked.at,
                    answered: None,
                    lasts: asked.lasts,
                });
            }
        }
        let covered = self.covered;
        for exact in self.exact.values_mut() {
            let kept = |step: &Step| match (step.answered, end) {
                (None, _) => false,
                (Some(_), End::Killed) => true,
                (Some((at, when)), End::PowerCut { kept_before }) => {
                    step.lasts || at < covered || kept_before.is_some_and(|moment| when < moment)
                }
            };
            exact.from = exact.steps.iter().rposition(kept).unwrap_or(0);
        }
        for (id, outcome, tag) in self.seen.drain(..) {
            let Some(exact) = self.exact.get_mut(&id) else {
                continue;
            };
            let shows = |state: &State| matches!(state, State::Done { outcome: o, tag: t, .. } if (*o, *t) == (outcome, tag));
            let is_kept = |step: &Step| step.lasts || matches!(end, End::Killed);
            let shown = |step: &Step| is_kept(step) && step.may_be.iter().any(shows);
            // What somebody has seen is there whether or not its call was answered.
            exact.from = exact.from.max(exact.steps.iter().position(shown).unwrap_or(0));
        }
        for key in self.contested.values_mut() {
            key.doubtful = None;
            if let End::PowerCut { .. } = end {
                let before = (key.acquired.map(|held| held.what), key.done.is_some());
                key.acquired = key.acquired.filter(|fact| fact.lasts || fact.at < covered);
                key.done = key.done.filter(|done| done.lasts || done.at < covered);
                key.was_first &= key.done.is_some();
                let after = (key.acquired.map(|held| held.what), key.done.is_some());
                key.doubtful = (before != after).then_some(before);
            }
            // From the next life on it was known from the first line.
            for fact in [&mut key.acquired, &mut key.largest].into_iter().flatten() {
                (fact.at, fact.lasts) = (0, true);
            }
            if let Some(done) = &mut key.done {
                (done.at, done.lasts) = (0, true);
            }
        }
        self.end = Some(end);
    }

    /// Compares what a store that was opened now answers with what it may.
    pub(crate) fn examine(&mut self, store: &Store) -> Result<Found, String> {
        let mut found = Found::default();
        let mut seen = HashMap::new();
        for item in store.scan(ScanFilter::new()).map_err(|error| error.to_string())? {
            let (key, status) = item.map_err(|error| error.to_string())?;
            let id = String::from_utf8_lossy(key.as_key().id()).into_owned();
            if seen.insert(id.clone(), status).is_some() {
                return Err(self.accuse(&id, "the scan gives it twice"));
            }
            if !self.exact.contains_key(&id) && !self.contested.contains_key(&id) {
                return Err(self.accuse(&id, &format!("nobody asked for it, and it is {status}")));
            }
        }
        let mut exact = std::mem::take(&mut self.exact);
        let mut judged = Ok(());
        let mut matches = Vec::new();
        for (id, key) in &mut exact {
            let judgement = observe(store, id, seen.contains_key(id)).and_then(|state| {
                let (first, last) = judge(key, &state)?;
                matches.push((id.clone(), first, last, state));
                Ok(())
            });
            if let Err(why) = judgement {
                judged = Err((id.clone(), why));
                break;
            }
        }
        self.exact = exact;
        judged.map_err(|(id, why)| self.accuse(&id, &why))?;
        if let Some(End::PowerCut { .. }) = self.end {
            found.lost = self.judge_together(&matches)?;
            let unsynced = |key: &Exact| {
                key.steps[key.from + 1..]
                    .iter()
                    .any(|step| step.answered.is_some())
            };
            found.could_lose = self.exact.values().any(unsynced);
        }
        for (id, first, last, state) in matches {
            if let Some(key) = self.exact.get_mut(&id) {
                let newest = key.steps.len() - 1;
                if key.steps[newest].answered.is_none() && key.steps[newest].began > 0 {
                    found.in_doubt_done += u64::from(first == newest);
                    found.in_doubt_undone += u64::from(last < newest);
                }
                if let State::Held { generation, .. } | State::Done { generation, .. } = &state
                    && let Generation::Is(n) = generation
                {
                    key.largest = key.largest.max(*n);
                }
                key.steps = vec![Step::start(vec![state])];
                key.from = 0;
            }
        }
        let ids: Vec<String> = self.contested.keys().cloned().collect();
        for id in ids {
            let observed = observe(store, &id, seen.contains_key(&id));
            let judged = observed.and_then(|state| {
                self.note_loss(&id, &state, &mut found);
                self.judge_contested(&id, &state)
            });
            judged.map_err(|why| self.accuse(&id, &why))?;
        }
        found.keys = seen.len() as u64;
        self.end = None;
        Ok(found)
    }

    /// What has survived is a beginning of what was recorded. True if something was lost.
    fn judge_together(&self, matches: &[(String, usize, usize, State)]) -> Result<bool, String> {
        let began = |(id, first, ..): &(String, usize, usize, State)| {
            (self.exact[id].steps[*first].began, id.clone())
        };
        let (survived, witness) = matches.iter().map(began).max().unwrap_or_default();
        let mut lost = false;
        for (id, _, last, state) in matches {
            for step in &self.exact[id].steps[last + 1..] {
                let Some((answered, _)) = step.answered else {
                    continue;
                };
                lost = true;
                if answered < survived {
                    let why = format!(
                        "it is {state:?}: what was answered in line {answered} is lost, but what began in line {survived} has survived"
                    );
                    return Err(format!(
                        "{}\nand {}",
                        self.accuse(id, &why),
                        self.accuse(&witness, "it has survived")
                    ));
                }
            }
        }
        Ok(lost)
    }

    fn note_loss(&self, id: &str, state: &State, found: &mut Found) {
        let Some((acquired, done)) = self.contested.get(id).and_then(|key| key.doubtful) else {
            return;
        };
        found.could_lose = true;
        found.lost |= match state {
            State::Absent => true,
            State::Held { generation, .. } => {
                done || matches!((generation, acquired), (Generation::Is(is), Some(was)) if *is < was)
            }
            State::Done { .. } => false,
        };
    }

    fn judge_contested(&mut self, id: &str, state: &State) -> Result<(), String> {
        let Some(key) = self.contested.get_mut(id) else {
            return Ok(());
        };
        if let State::Done { outcome, tag, .. } = state
            && !key.intended.contains_key(&(*outcome, *tag))
        {
            return Err("it has bytes nobody has stored".into());
        }
        if kind(id) == 's' {
            return Ok(());
        }
        let fits = match (state, key.done, key.acquired) {
            (State::Done { outcome, tag, .. }, Some(done), _) => done.what == (*outcome, *tag),
            (_, Some(_), _) => false,
            (State::Held { generation, .. }, None, Some(held)) => {
                // Of takeovers that were told the last may be lost.
                generation.may_be(held.what) || matches!(generation, Generation::Is(n) if *n > held.what)
            }
            (State::Absent, None, Some(_)) => false,
            _ => true,
        };
        if !fits {
            return Err(format!("it is {state:?}"));
        }
        let (at, lasts) = (0, true);
        match state {
            State::Done { outcome, tag, .. } => {
                let what = (*outcome, *tag);
                key.done = Some(Fact { what, at, lasts });
            }
            State::Held {
                generation: Generation::Is(what),
                ..
            } => {
                let what = *what;
                key.acquired = Some(Fact { what, at, lasts });
                if key.largest.is_none_or(|largest| largest.what < what) {
                    key.largest = Some(Fact { what, at, lasts });
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn kind(key: &str) -> char {
    key.chars().next().unwrap_or('-')
}

/// Does this answer say that something was recorded?
fn has_recorded(op: Op, answer: &Answer) -> bool {
    match (op, answer) {
        (Op::Resolve { .. }, Answer::Completed { .. }) => true,
        (Op::Renew { .. } | Op::Drop { .. } | Op::Late { .. }, _) => false,
        (_, Answer::Acquired { .. } | Answer::Ok | Answer::Yes) => true,
        _ => false,
    }
}

fn told_generation(answer: &Answer) -> Option<u64> {
    match answer {
        Answer::Acquired { generation, .. }
        | Answer::Completed { generation, .. }
        | Answer::Interrupted { generation, .. } => Some(*generation),
        _ => None,
    }
}

/// The state after a call that was answered so; `None` if the state does not answer so.
fn after(state: &State, op: Op, answer: &Answer, largest: u64, life: u32) -> Option<State> {
    let same = || Some(state.clone());
    if *answer == Answer::AtCapacity {
        return same();
    }
    let replayed = |print: u8| match (state, answer) {
        (State::Done { print: p, .. }, Answer::Mismatch) if *p != print => same(),
        (
            State::Done {
                generation: g,
                print: p,
                outcome: o,
                tag: t,
            },
            Answer::Completed {
                generation,
                outcome,
                tag,
            },
        ) if (p, o, t) == (&print, outcome, tag) && g.may_be(*generation) => Some(State::Done {
            generation: Generation::Is(*generation),
            print,
            outcome: *outcome,
            tag: *tag,
        }),
        _ => None,
    };
    match (op, state, answer) {
        (
            Op::Claim { print },
            State::Absent,
            Answer::Acquired {
                generation,
                attempt: 0,
                note: None,
            },
        ) if *generation > largest => Some(State::Held {
            generation: Generation::Is(*generation),
            print,
            attempt: 0,
            note: None,
            life,
        }),
        (Op::Claim { print }, State::Held { print: p, .. }, Answer::Mismatch) if *p != print => same(),
        // Detached, and attaching it was refused.
        (
            Op::Claim { print },
            State::Held {
                print: p, life: l, ..
            },
            Answer::InFlight,
        ) if (*p, *l) == (print, life) => same(),
        (
            Op::Claim { print },
            State::Held {
                generation: g,
                print: p,
                attempt: a,
                note: n,
                life: l,
            },
            Answer::Interrupted {
                generation,
                attempt,
                note,
                crashed,
            },
        ) if (*p, a, n) == (print, attempt, note) && g.may_be(*generation) && *crashed == (*l != life) => {
            Some(State::Held {
                generation: Generation::Is(*generation),
                print,
                attempt: *attempt,
                note: *note,
                life: *l,
            })
        }
        (Op::Claim { print } | Op::Replay { print }, State::Done { .. }, _) => replayed(print),
        (Op::Replay { .. }, State::Absent | State::Held { .. }, Answer::Miss) => same(),
        (
            Op::Resume { generation: seen } | Op::Attach { generation: seen },
            State::Held {
                generation: g,
                print,
                attempt: a,
                note: n,
                ..
            },
            Answer::Acquired {
                generation,
                attempt,
                note,
            },
        ) => {
            let more = u32::from(matches!(op, Op::Resume { .. }));
            let fits = g.may_be(seen) && *generation > largest && *attempt == a + more && note == n;
            fits.then_some(State::Held {
                generation: Generation::Is(*generation),
                print: *print,
                attempt: *attempt,
                note: *note,
                life,
            })
        }
        (
            Op::Resolve {
                generation: seen,
                outcome: o,
                tag: t,
            },
            State::Held {
                generation: g, print, ..
            },
            Answer::Completed {
                generation,
                outcome,
                tag,
            },
        ) if g.may_be(seen) && *generation > largest && (o, t) == (*outcome, *tag) => Some(State::Done {
            generation: Generation::Is(*generation),
            print: *print,
            outcome: o,
            tag: t,
        }),
        (
            Op::Complete {
                generation: mine,
                outcome,
                tag,
                ..
            },
            State::Held {
                generation: g, print, ..
            },
            Answer::Ok,
        ) if g.may_be(mine) => Some(State::Done {
            generation: Generation::Is(mine),
            print: *print,
            outcome,
            tag,
        }),
        (
            Op::Checkpoint {
                generation: mine,
                note,
            },
            State::Held { generation: g, .. },
            Answer::Ok,
        ) if g.may_be(mine) => Some(noted(state, note)),
        (Op::Renew { generation: mine }, State::Held { generation: g, .. }, Answer::Ok) if g.may_be(mine) => {
            same()
        }
        (Op::Drop { generation: mine }, State::Held { generation: g, .. }, Answer::Ok) if g.may_be(mine) => {
            same()
        }
        (Op::Release { generation: mine }, State::Held { generation: g, .. }, Answer::Ok)
            if g.may_be(mine) =>
        {
            Some(State::Absent)
        }
        (Op::Late { .. }, _, Answer::LeaseLost) => same(),
        (Op::Forget, State::Absent, Answer::No) => same(),
        (Op::Forget, State::Held { .. } | State::Done { .. }, Answer::Yes) => Some(State::Absent),
        (Op::FirstSeen, State::Absent, Answer::Yes) => Some(seen_first(largest)),
        (Op::FirstSeen, State::Held { .. }, Answer::InUse) => same(),
        (Op::FirstSeen, State::Done { .. }, Answer::No) => same(),
        _ => None,
    }
}

fn noted(state: &State, new: Blob) -> State {
    let mut state = state.clone();
    if let State::Held { note, .. } = &mut state {
        *note = Some(new);
    }
    state
}

fn seen_first(largest: u64) -> State {
    State::Done {
        generation: Generation::Above(largest),
        print: 0,
        outcome: Blob::of(b""),
        tag: 0,
    }
}

/// The states a call may have made of this one without an answer.
fn begun(state: &State, op: Op, largest: u64, life: u32) -> Vec<State> {
    let above = Generation::Above(largest);
    let held = |print: u8, attempt: u32, note: Option<Blob>| State::Held {
        generation: above,
        print,
        attempt,
        note,
        life,
    };
    let done = |generation, print, outcome, tag| State::Done {
        generation,
        print,
        outcome,
        tag,
    };
    match (op, state) {
        (Op::Claim { print }, State::Absent) => vec![held(print, 0, None)],
        (Op::FirstSeen, State::Absent) => vec![held(0, 0, None), seen_first(largest)],
        (Op::Forget, State::Held { .. } | State::Done { .. }) => vec![State::Absent],
        (_, State::Absent | State::Done { .. }) => vec![],
        (
            _,
            State::Held {
                generation,
                print,
                attempt,
                note,
                ..
            },
        ) => match op {
            Op::Resume { .. } => vec![held(*print, attempt + 1, *note)],
            Op::Attach { .. } => vec![held(*print, *attempt, *note)],
            Op::Resolve { outcome, tag, .. } => vec![done(above, *print, outcome, tag)],
            Op::Complete { outcome, tag, .. } => vec![done(*generation, *print, outcome, tag)],
            Op::Checkpoint { note, .. } => vec![noted(state, note)],
            Op::Release { .. } => vec![State::Absent],
            _ => vec![],
        },
    }
}

/// What a key is in a store that has just been opened, asked in every way that changes nothing.
fn observe(store: &Store, id: &str, scanned: bool) -> Result<State, String> {
    let key = Key::new(SCOPE, id);
    let failed = |error: onceonly::Error| format!("an error: {error}");
    let status = store.status(key).map_err(failed)?;
    if scanned && status == Status::Absent && kind(id) != 's' {
        return Err("it is absent, but the scan gives it".into());
    }
    if !scanned && status != Status::Absent {
        return Err(format!("the scan does not give it, but it is {status}"));
    }
    if status == Status::Absent {
        return match store.replay(key, print(0), |_| ()).map_err(failed)? {
            Replay::Miss => Ok(State::Absent),
            found => Err(format!("absent, but a replay gives {found:?}")),
        };
    }
    // A claim of what is not absent changes nothing, and tells the fingerprint.
    let first = store.claim(key, print(0)).map_err(failed)?;
    let number = match &first {
        Claim::Mismatch(mismatch) => print_number(mismatch.fingerprint()),
        _ => 0,
    };
    let claim = store.claim(key, print(number)).map_err(failed)?;
    match (&claim, status) {
        (
            Claim::Interrupted(left),
            Status::Interrupted {
                generation,
                attempt,
                cause: Cause::Crashed,
                ..
            },
        ) if (left.generation(), left.attempt(), left.cause()) == (generation, attempt, Cause::Crashed) => {
            Ok(State::Held {
                generation: Generation::Is(generation),
                print: number,
                attempt,
                note: left.last_checkpoint().map(Blob::of),
                life: 0,
            })
        }
        (
            Claim::Completed(outcome),
            Status::Completed {
                generation, tag, len, ..
            },
        ) if (outcome.generation(), outcome.tag(), outcome.len()) == (generation, tag, len) => {
            let outcome = Blob::of(outcome);
            let peeked = store
                .peek(key, |stored| Blob::of(stored.bytes()))
                .map_err(failed)?;
            if peeked != Some(outcome) && kind(id) != 's' {
                return Err(format!("a claim gives {outcome:?}, a peek {peeked:?}"));
            }
            Ok(State::Done {
                generation: Generation::Is(generation),
                print: number,
                outcome,
                tag,
            })
        }
        // It may expire at any moment; then this one has claimed it.
        _ if kind(id) == 's' => Ok(State::Absent),
        _ => Err(format!("its status is {status}, and a claim gives {claim:?}")),
    }
}

/// The first and the last step that may have left the key so.
fn judge(key: &Exact, state: &State) -> Result<(usize, usize), String> {
    let fits = |may: &State| match (may, state) {
        (State::Absent, State::Absent) => true,
        (
            State::Held {
                generation: g,
                print: p,
                attempt: a,
                note: n,
                ..
            },
            State::Held {
                generation: Generation::Is(is),
                print,
                attempt,
                note,
                ..
            },
        ) => g.may_be(*is) && (p, a, n) == (print, attempt, note),
        (
            State::Done {
                generation: g,
                print: p,
                outcome: o,
                tag: t,
            },
            State::Done {
                generation: Generation::Is(is),
                print,
                outcome,
                tag,
            },
        ) => g.may_be(*is) && (p, o, t) == (print, outcome, tag),
        _ => false,
    };
    let mut fitting = (key.from..key.steps.len()).filter(|i| key.steps[*i].may_be.iter().any(fits));
    let first = fitting.next().ok_or_else(|| format!("it is {state:?}"))?;
    Ok((first, fitting.next_back().unwrap_or(first)))
}
