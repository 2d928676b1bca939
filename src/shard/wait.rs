//! Those who wait for a holder: threads and futures alike.
//!
//! A [`Waiter`] stands in its key's queue from the moment it decides to wait until it has its
//! answer or gives up. What it is sent is one of two things: the outcome itself, which is final
//! (all waiters share one copy), or a nudge to look again. A nudge carries no right: whoever
//! looks decides under the shard's lock, like any other caller, so a nudge too many is harmless
//! and a woken future that is never polled holds nothing up. What must never happen is a nudge
//! too few: whenever a key can be had (it is absent, or interrupted and nobody was asked), some
//! waiter has been nudged or has timed itself.

use crate::answer::Outcome;
use crate::clock::Tick;
use crate::fingerprint::Fingerprint;
use crate::key::{CheckedKey, KeyBuf, KeyHash};
use crate::sync::{Arc, Condvar, Mutex};
use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

/// What a waiter has been sent.
pub(crate) enum Mail {
    Nothing,
    /// Something changed: look again.
    Look,
    /// The holder completed.
    Outcome(Outcome),
}

struct Inner {
    mail: Mail,
    waker: Option<Waker>,
}

/// One thread or future that waits.
pub(crate) struct Waiter {
    fingerprint: Fingerprint,
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Waiter {
    pub(crate) fn new(fingerprint: Fingerprint) -> Arc<Self> {
        Arc::new(Waiter {
            fingerprint,
            inner: Mutex::new(Inner {
                mail: Mail::Nothing,
                waker: None,
            }),
            changed: Condvar::new(),
        })
    }

    /// Bytes of the budget a waiter takes: its own, its place, and a queue of its own at worst.
    pub(crate) const BYTES: u64 = (size_of::<Waiter>() + 2 * size_of::<Place>() + size_of::<Queue>()) as u64;

    /// Leaves a message. The wake-up itself comes later, outside the shard's lock.
    fn send(&self, mail: Mail) {
        let mut inner = self.inner.lock();
        if !matches!(inner.mail, Mail::Outcome(_)) {
            inner.mail = mail;
        }
    }

    fn wake(&self) {
        if cfg!(onceonly_sabotage = "lose_wakeup") {
            return;
        }
        let waker = self.inner.lock().waker.take();
        self.changed.notify_one();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the message.
    pub(crate) fn take(&self) -> Mail {
        std::mem::replace(&mut self.inner.lock().mail, Mail::Nothing)
    }

    /// Sleeps until there is a message, at most for this long.
    pub(crate) fn sleep(&self, at_most: Duration) {
        let mut inner = self.inner.lock();
        if matches!(inner.mail, Mail::Nothing) {
            self.changed.wait_for(&mut inner, at_most);
        }
    }

    /// Says whom to wake.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        // A waker's clone and drop are code of the caller's: neither runs under the lock.
        let new = Some(waker.clone());
        let old = std::mem::replace(&mut self.inner.lock().waker, new);
        drop(old);
    }
}

/// Those an outcome has been stored for, out of the queue already.
#[derive(Default)]
pub(crate) struct Served(Vec<Arc<Waiter>>);

impl Served {
    pub(crate) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// Sends everyone the outcome, which is made if there is anyone. Outside the shard's lock.
    pub(crate) fn send(self, outcome: impl FnOnce() -> Outcome) {
        if self.0.is_empty() {
            return;
        }
        let outcome = outcome();
        for waiter in self.0 {
            waiter.send(Mail::Outcome(outcome.clone()));
            waiter.wake();
        }
    }
}

/// Wake-ups to give once the shard is unlocked: dropping this gives them. Nearly always there is
/// nobody to wake, and then this costs a comparison.
#[derive(Default)]
#[allow(clippy::box_collection)] // one word to look at, on every way out of a lock
pub(crate) struct Wakes(Option<Box<Vec<Arc<Waiter>>>>);

impl Wakes {
    fn push(&mut self, waiter: &Arc<Waiter>) {
        self.0.get_or_insert_default().push(waiter.clone());
    }
}

impl Drop for Wakes {
    #[inline]
    fn drop(&mut self) {
        if let Some(waiters) = &self.0 {
            waiters.iter().for_each(|waiter| waiter.wake());
        }
    }
}

struct Place {
    waiter: Arc<Waiter>,
    /// It was nudged and has not looked since.
    nudged: bool,
}

/// Those who wait for one key, in the order they came.
struct Queue {
    hash: KeyHash,
    key: KeyBuf,
    places: VecDeque<Place>,
    /// When the last nudge was given; if nothing came of it, another waiter gets one.
    nudged_at: Tick,
    /// The latest tick at which any of them looks again by itself.
    latest: Tick,
}

/// The queues of one shard. There are few at any time, so they are a plain list.
#[derive(Default)]
pub(crate) struct Queues {
    queues: Vec<Queue>,
}

/// The queue is as long as the limit allows.
pub(crate) struct QueueFull;

impl Queues {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    pub(crate) fn waiters(&self) -> u64 {
        self.queues.iter().map(|q| q.places.len() as u64).sum()
    }

    fn position(&self, hash: KeyHash, key: CheckedKey<'_>) -> Option<usize> {
        self.queues
            .iter()
            .position(|q| q.hash == hash && q.key.as_checked() == key)
    }

    /// Puts a waiter at the end of its key's queue.
    pub(crate) fn join(
        &mut self,
        hash: KeyHash,
        key: CheckedKey<'_>,
        waiter: &Arc<Waiter>,
        limit: usize,
    ) -> Result<(), QueueFull> {
        let at = match self.position(hash, key) {
            Some(at) => at,
            None => {
                self.queues.push(Queue {
                    hash,
                    key: key.to_buf(),
                    places: VecDeque::new(),
                    nudged_at: Tick::NEVER,
                    latest: Tick(0),
                });
                self.queues.len() - 1
            }
        };
        let places = &mut self.queues[at].places;
        if places.len() >= limit {
            self.drop_if_empty(at);
            return Err(QueueFull);
        }
        places.push_back(Place {
            waiter: waiter.clone(),
            nudged: false,
        });
        Ok(())
    }

    /// Takes a waiter out, if it still stands in the queue.
    pub(crate) fn leave(&mut self, hash: KeyHash, key: CheckedKey<'_>, waiter: &Arc<Waiter>) -> bool {
        let Some(at) = self.position(hash, key) else {
            return false;
        };
        let places = &mut self.queues[at].places;
        let Some(i) = places.iter().position(|p| Arc::ptr_eq(&p.waiter, waiter)) else {
            return false;
        };
        places.remove(i);
        self.drop_if_empty(at);
        true
    }

    /// Notes that a waiter has looked and waits on, until that tick unless it is nudged.
    pub(crate) fn looked(&mut self, hash: KeyHash, key: CheckedKey<'_>, waiter: &Arc<Waiter>, until: Tick) {
        if let Some(at) = self.position(hash, key) {
            let queue = &mut self.queues[at];
            queue.latest = queue.latest.max(until);
            // From the end: who looks first of all has just joined.
            let mut places = queue.places.iter_mut().rev();
            if let Some(place) = places.find(|p| Arc::ptr_eq(&p.waiter, waiter)) {
                place.nudged = false;
            }
        }
    }

    fn drop_if_empty(&mut self, at: usize) {
        if self.queues[at].places.is_empty() {
            self.queues.swap_remove(at);
        }
    }

    /// The key can be had: nudges the first waiter that was not nudged yet. True if it did.
    pub(crate) fn nudge_one(
        &mut self,
        hash: KeyHash,
        key: CheckedKey<'_>,
        now: Tick,
        wakes: &mut Wakes,
    ) -> bool {
        let Some(at) = self.position(hash, key) else {
            return false;
        };
        self.queues[at].nudge_one(now, wakes)
    }

    /// Nudges those whose fingerprint is another: they have a mismatch to learn of.
    pub(crate) fn nudge_others(
        &mut self,
        hash: KeyHash,
        key: CheckedKey<'_>,
        fingerprint: Fingerprint,
        wakes: &mut Wakes,
    ) {
        if let Some(at) = self.position(hash, key) {
            for place in &mut self.queues[at].places {
                if place.waiter.fingerprint != fingerprint {
                    place.nudge(wakes);
                }
            }
        }
    }

    /// Takes out everyone whose fingerprint an outcome answers, and nudges the others.
    pub(crate) fn finish(
        &mut self,
        hash: KeyHash,
        key: CheckedKey<'_>,
        fingerprint: Fingerprint,
        wakes: &mut Wakes,
    ) -> Served {
        let mut served = Served::default();
        let Some(at) = self.position(hash, key) else {
            return served;
        };
        let places = &mut self.queues[at].places;
        places.retain_mut(|place| {
            let answers = place.waiter.fingerprint == fingerprint;
            if answers {
                served.0.push(place.waiter.clone());
            } else {
                place.nudge(wakes);
            }
            !answers
        });
        self.drop_if_empty(at);
        served
    }

    /// The lease ends at this tick: if some sleep for longer, everyone is nudged to look again.
    pub(crate) fn retime(&mut self, hash: KeyHash, key: CheckedKey<'_>, until: Tick, wakes: &mut Wakes) {
        if let Some(at) = self.position(hash, key)
            && until < self.queues[at].latest
        {
            let queue = &mut self.queues[at];
            queue.latest = until;
            queue.places.iter_mut().for_each(|place| place.nudge(wakes));
        }
    }

    /// Nudges everyone: time has jumped, or the store closes.
    pub(crate) fn nudge_all(&mut self, wakes: &mut Wakes) {
        for queue in &mut self.queues {
            for place in &mut queue.places {
                place.nudge(wakes);
            }
        }
    }

    /// Keys whose last nudge is older than `patience`: nothing may have come of it.
    pub(crate) fn stalled(&self, now: Tick, patience: Duration) -> Vec<(KeyHash, KeyBuf)> {
        let stalled = |q: &&Queue| q.nudged_at < now && now.since(q.nudged_at) >= patience;
        let found = self.queues.iter().filter(stalled).take(16);
        found.map(|q| (q.hash, q.key.clone())).collect()
    }

    /// Is any nudge out that may have to be repeated?
    pub(crate) fn has_nudges(&self) -> bool {
        self.queues.iter().any(|q| q.nudged_at != Tick::NEVER)
    }

    /// The key was looked at and cannot be had: no nudge is owed.
    pub(crate) fn settle(&mut self, hash: KeyHash, key: CheckedKey<'_>) {
        if let Some(at) = self.position(hash, key) {
            self.queues[at].nudged_at = Tick::NEVER;
        }
    }
}

impl Queue {
    fn nudge_one(&mut self, now: Tick, wakes: &mut Wakes) -> bool {
        let Some(place) = self.places.iter_mut().find(|p| !p.nudged) else {
            // Everyone has been told; whoever leaves or looks takes it from there.
            self.nudged_at = Tick::NEVER;
            return false;
        };
        place.nudge(wakes);
        self.nudged_at = now;
        true
    }
}

impl Place {
    fn nudge(&mut self, wakes: &mut Wakes) {
        self.nudged = true;
        self.waiter.send(Mail::Look);
        wakes.push(&self.waiter);
    }
}
