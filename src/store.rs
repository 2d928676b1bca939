//! The public handle.

use crate::answer::{Outcome, Stored};
use crate::builder::Builder;
use crate::claim::{Claim, ClaimGuard, EngineRef, Pending, RunError};
use crate::clock::{Deadline, Span};
use crate::engine::{Engine, Lookup, NewOutcome, RecoveryReport, ScanItem, run_helper};
use crate::epoch::Guard;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::key::{Key, KeyBuf};
use crate::options::{ClaimOptions, CompleteOptions, Durability, Resolution, ScanFilter};
use crate::shard::Keyed;
use crate::shard::change::{Attached, Wish};
use crate::shard::state::Command;
use crate::stats::Stats;
use crate::status::Status;
use crate::sync::Arc;
use crate::token::ClaimToken;
use std::fmt;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

/// A store of idempotency keys. A cheap handle: clones share one store.
///
/// # Examples
///
/// ```
/// use onceonly::{Claim, Fingerprint, Key, Store};
///
/// let store = Store::in_memory()?;
/// let mut charges = 0;
/// for _retry in 0..3 {
///     if let Claim::Acquired(guard) = store.claim(Key::new("acme", "order-1"), Fingerprint::NONE)? {
///         charges += 1;
///         guard.complete(b"charged")?;
///     }
/// }
/// assert_eq!(charges, 1);
/// # Ok::<(), onceonly::Error>(())
/// ```
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// Ends the helper thread with the last handle.
struct Inner {
    engine: Arc<Engine>,
    helper: Option<JoinHandle<()>>,
    /// Called by clocks that jump; kept alive as long as the store.
    _on_jump: Arc<dyn Fn() + Send + Sync>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.engine.retire();
        // It ends within milliseconds, and what it was doing with the engine is over: whoever
        // opens the directory next finds it free. A waker that drops the last handle may run on
        // the helper itself; and a forked child has none.
        if let Some(helper) = self.helper.take()
            && self.engine.is_ours()
            && helper.thread().id() != std::thread::current().id()
        {
            let _ = helper.join();
        }
        self.engine.go_without_helper();
        // Guards may live on; what was submitted is finished now.
        if self.engine.is_ours() && !self.engine.is_closed() {
            let _ = self.engine.drive();
        }
    }
}

/// Keys looked at together in the batch calls: enough to overlap their cache misses.
const BATCH: usize = 16;

/// The keys of a batch, checked and hashed.
type Batch<'k> = std::iter::Flatten<std::array::IntoIter<Option<Result<Keyed<'k>>>, BATCH>>;

impl Store {
    /// A builder with the default options.
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// A store that lives in memory alone, with the default options.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidOptions`] if a quarter of the machine's memory is too little to start.
    pub fn in_memory() -> Result<Store> {
        Self::builder().in_memory()
    }

    /// Opens the store in a directory, with the default options: what it acknowledges survives
    /// crashes and power cuts. The directory is made if it is missing; one store at a time may
    /// have it open. See [`Builder::open`].
    ///
    /// # Errors
    ///
    /// Those of [`Builder::open`].
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::{Claim, Fingerprint, Key, Store};
    /// # let dir = std::env::temp_dir().join(format!("onceonly-doc-open-{}", std::process::id()));
    /// # let _ = std::fs::remove_dir_all(&dir);
    /// let key = Key::new("acme", "order-1");
    /// let store = Store::open(&dir)?;
    /// if let Claim::Acquired(guard) = store.claim(key, Fingerprint::NONE)? {
    ///     guard.complete(b"charged")?; // on the device when this returns
    /// }
    /// store.close()?;
    ///
    /// let store = Store::open(&dir)?;
    /// assert_eq!(store.recovery().completed, 1);
    /// assert!(matches!(store.claim(key, Fingerprint::NONE)?, Claim::Completed(o) if &*o == b"charged"));
    /// # drop(store);
    /// # let _ = std::fs::remove_dir_all(&dir);
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn open(dir: impl AsRef<Path>) -> Result<Store> {
        Self::builder().open(dir)
    }

    pub(crate) fn start(engine: Arc<Engine>, helper: bool) -> Result<Store> {
        let weak = Arc::downgrade(&engine);
        // Without the thread everything is as correct, only later; so a machine that has no
        // thread left is no reason to refuse.
        let helper = helper
            .then(|| {
                let thread = std::thread::Builder::new().name("onceonly".into());
                thread.spawn(move || run_helper(weak)).ok()
            })
            .flatten();
        if helper.is_none() {
            engine.go_without_helper();
        }
        let weak = Arc::downgrade(&engine);
        let on_jump: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            if let Some(engine) = weak.upgrade() {
                engine.nudge_everyone();
            }
        });
        engine.clock().on_jump(Arc::downgrade(&on_jump));
        let inner = Inner {
            engine,
            helper,
            _on_jump: on_jump,
        };
        Ok(Store {
            inner: Arc::new(inner),
        })
    }

    fn engine(&self) -> &Arc<Engine> {
        &self.inner.engine
    }

    fn wish(&self, fingerprint: Fingerprint) -> Wish {
        Wish {
            fingerprint,
            lease: self.engine().lease,
            passing: false,
            durability: self.engine().claim_durability,
        }
    }

    /// Claims a key. Of all who ask for an absent key exactly one acquires it; the others are
    /// told what became of it. Never waits for another holder.
    ///
    /// A completed key is answered without a lock, in some 100 to 300 ns (two cache misses);
    /// the outcome is copied.
    ///
    /// # Errors
    ///
    /// [`Error::AtCapacity`] for a new key at a limit; [`Error::InvalidInput`] or
    /// [`Error::TooLarge`] for a key outside its limits; [`Error::Closed`]; [`Error::Forked`].
    pub fn claim<'k>(&self, key: impl Into<Key<'k>>, fingerprint: Fingerprint) -> Result<Claim<'_>> {
        let k = self.engine().keyed(key.into())?;
        self.claim_keyed(k, self.wish(fingerprint))
    }

    /// [`claim`](Self::claim) with a lease of its own.
    ///
    /// # Errors
    ///
    /// As `claim`; [`Error::InvalidInput`] for a lease of zero or over a hundred years.
    pub fn claim_with<'k>(
        &self,
        key: impl Into<Key<'k>>,
        fingerprint: Fingerprint,
        options: ClaimOptions,
    ) -> Result<Claim<'_>> {
        let mut wish = self.wish(fingerprint);
        wish.lease = options.lease_or(wish.lease)?;
        wish.durability = self.allowed(options.durability_or(wish.durability))?;
        let k = self.engine().keyed(key.into())?;
        self.claim_keyed(k, wish)
    }

    /// Intervals need the helper thread.
    fn allowed(&self, durability: Durability) -> Result<Durability> {
        self.engine().allowed(durability)
    }

    fn claim_keyed(&self, k: Keyed<'_>, wish: Wish) -> Result<Claim<'_>> {
        let engine = self.engine();
        match engine.claim(k, wish) {
            Ok(verdict) => Ok(Claim::new(EngineRef::Borrowed(engine), k, wish, verdict)),
            Err(error) => Err(error),
        }
    }

    /// [`claim`](Self::claim), and if somebody holds the key, waits for them, at most until the
    /// deadline.
    ///
    /// On completion all who wait get the outcome (one shared copy). After a release exactly
    /// one caller acquires the key. At the end of a lease or on interruption one of those who
    /// wait is told `Interrupted`; the others wait on.
    ///
    /// # Errors
    ///
    /// As `claim`. Reaching the deadline is no error: the answer is then what `claim` says.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use onceonly::{Claim, Fingerprint, Key, Store};
    /// let store = Store::in_memory()?;
    /// let key = Key::unscoped("job");
    /// let Claim::Acquired(guard) = store.claim(key, Fingerprint::NONE)? else { unreachable!() };
    /// std::thread::scope(|scope| {
    ///     let waiter = scope.spawn(|| store.claim_wait(key, Fingerprint::NONE, Duration::from_secs(5)));
    ///     guard.complete(b"42")?;
    ///     let answer = waiter.join().expect("it waits and returns")?;
    ///     assert!(matches!(answer, Claim::Completed(outcome) if &*outcome == b"42"));
    ///     Ok::<(), onceonly::Error>(())
    /// })?;
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn claim_wait<'k>(
        &self,
        key: impl Into<Key<'k>>,
        fingerprint: Fingerprint,
        deadline: impl Into<Deadline>,
    ) -> Result<Claim<'_>> {
        match self.claim(key, fingerprint)? {
            Claim::InFlight(other) => other.wait(deadline),
            claim => Ok(claim),
        }
    }

    /// [`claim_with`](Self::claim_with) without waiting for the claim to be durable: the result
    /// comes through the [`Pending`], with the next sync of the log. In memory it is there at once.
    pub fn submit_claim<'k>(
        &self,
        key: impl Into<Key<'k>>,
        fingerprint: Fingerprint,
        options: ClaimOptions,
    ) -> Pending<Claim<'static>> {
        let mut wish = self.wish(fingerprint);
        let checked = options.lease_or(wish.lease).and_then(|lease| {
            wish.lease = lease;
            wish.durability = self.allowed(options.durability_or(wish.durability))?;
            self.engine().keyed(key.into())
        });
        match checked {
            Ok(k) => Claim::submit(self.engine(), k, wish),
            Err(error) => Pending::ready(Err(error)),
        }
    }

    /// Claims many keys, as if one by one in this order: result `i` answers item `i`. `out` is
    /// cleared first; its capacity is reused. A repeat inside the batch meets the claim before
    /// it: `InFlight`, or `Mismatch` for another fingerprint.
    ///
    /// Cache misses of up to 16 keys overlap, and the clock is read once for each 16.
    ///
    /// # Errors
    ///
    /// Those of single items are in `out`; the call itself fails with [`Error::Closed`] or
    /// [`Error::Forked`] before any.
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::{Claim, CompleteOptions, Fingerprint, Key, Store};
    /// let store = Store::in_memory()?;
    /// let ids = ["m-1", "m-2", "m-1"];
    /// let items = ids.map(|id| (Key::new("topic", id), Fingerprint::NONE));
    /// let mut claims = Vec::new();
    /// store.claim_many(&items, &mut claims)?;
    /// let mut guards = Vec::new();
    /// for claim in claims {
    ///     if let Claim::Acquired(guard) = claim? {
    ///         guards.push(guard);
    ///     }
    /// }
    /// assert_eq!(guards.len(), 2, "the third is a repeat");
    ///
    /// let mut done = Vec::new();
    /// store.complete_many(guards.iter().map(|g| (g, b"handled", CompleteOptions::new())), &mut done)?;
    /// assert!(done.iter().all(|result| result.is_ok()));
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn claim_many<'s>(
        &'s self,
        items: &[(Key<'_>, Fingerprint)],
        out: &mut Vec<Result<Claim<'s>>>,
    ) -> Result<()> {
        out.clear();
        let engine = self.engine();
        engine.enter()?;
        out.reserve(items.len());
        let mut begun = Vec::with_capacity(items.len());
        for batch in items.chunks(BATCH) {
            // Closed in the middle, what was begun is still finished.
            let now = match engine.enter() {
                Ok(now) => now,
                Err(error) => {
                    begun.extend(batch.iter().map(|_| Err(error.clone())));
                    continue;
                }
            };
            let mut pin = engine.pin();
            for (k, (_, fingerprint)) in self.in_batch(batch, |(key, _)| *key, &pin).zip(batch) {
                let wish = self.wish(*fingerprint);
                begun
                    .push(k.and_then(|k| Ok((k, wish, now, engine.begin_claim_at(k, wish, now, &mut pin)?))));
            }
            engine.tend_a_little(now, &pin);
        }
        // One wait for the disk: the first makes all durable.
        for item in begun {
            out.push(item.and_then(|(k, wish, now, begun)| {
                let verdict = engine.end_claim_at(k, wish, begun, now)?;
                Ok(Claim::new(EngineRef::Borrowed(engine), k, wish, verdict))
            }));
        }
        Ok(())
    }

    /// Hashes a batch and asks for its cache lines.
    fn in_batch<'k, T>(&self, batch: &'k [T], key: impl Fn(&'k T) -> Key<'k>, pin: &Guard) -> Batch<'k> {
        let mut keyed: [Option<Result<Keyed<'k>>>; BATCH] = [const { None }; BATCH];
        for (slot, item) in keyed.iter_mut().zip(batch) {
            *slot = Some(self.engine().keyed(key(item)));
        }
        let good = keyed.iter().flatten().filter_map(|k| k.as_ref().ok().copied());
        self.engine().prefetch(good, pin);
        keyed.into_iter().flatten()
    }

    /// Completes many claims: result `i` answers item `i`. `out` is cleared first.
    ///
    /// # Errors
    ///
    /// Those of single items, as [`ClaimGuard::complete_with`] gives them, are in `out`; the
    /// call itself fails with [`Error::Closed`] or [`Error::Forked`] before any.
    pub fn complete_many<'g, 's: 'g, B: AsRef<[u8]> + 'g>(
        &self,
        done: impl IntoIterator<Item = (&'g ClaimGuard<'s>, B, CompleteOptions)>,
        out: &mut Vec<Result<()>>,
    ) -> Result<()> {
        out.clear();
        self.engine().enter()?;
        let done: Vec<_> = done.into_iter().collect();
        let items = done
            .iter()
            .map(|(guard, outcome, options)| guard.completion(outcome.as_ref(), *options));
        self.engine().complete_batch(items, |result| out.push(result));
        for ((guard, ..), result) in done.iter().zip(out.iter()) {
            if result.is_ok() {
                guard.end();
            }
        }
        Ok(())
    }

    /// Does the work once: claims the key, runs `work`, stores what it returns; or gives back
    /// what was stored before. A duplicate waits for the first, at most one lease.
    ///
    /// # Errors
    ///
    /// [`RunError::Work`] if the work fails (the key is then interrupted, unless the work called
    /// [`release`](ClaimGuard::release) or set [`OnDrop::Release`](crate::OnDrop::Release); a
    /// panic does the same), [`RunError::InFlight`] at the deadline, [`RunError::Interrupted`],
    /// [`RunError::Mismatch`], or [`RunError::Store`].
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::{Fingerprint, Key, Store};
    ///
    /// let store = Store::in_memory()?;
    /// let mut sent = 0;
    /// for _retry in 0..3 {
    ///     let receipt = store.run(Key::new("acme", "mail-1"), Fingerprint::NONE, |_guard| {
    ///         sent += 1;
    ///         Ok::<_, std::io::Error>(format!("message {sent}"))
    ///     })?;
    ///     assert_eq!(&*receipt, b"message 1");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[expect(
        clippy::result_large_err,
        reason = "the error carries the claim the caller goes on with"
    )]
    pub fn run<'k, B: AsRef<[u8]>, E>(
        &self,
        key: impl Into<Key<'k>>,
        fingerprint: Fingerprint,
        work: impl FnOnce(&ClaimGuard<'_>) -> Result<B, E>,
    ) -> Result<Outcome, RunError<E>> {
        let lease = Duration::from_millis(self.engine().lease.millis());
        self.run_until(key, fingerprint, lease, work)
    }

    /// [`run`](Self::run) with a deadline of its own for duplicates.
    ///
    /// # Errors
    ///
    /// As `run`.
    #[expect(
        clippy::result_large_err,
        reason = "the error carries the claim the caller goes on with"
    )]
    pub fn run_until<'k, B: AsRef<[u8]>, E>(
        &self,
        key: impl Into<Key<'k>>,
        fingerprint: Fingerprint,
        deadline: impl Into<Deadline>,
        work: impl FnOnce(&ClaimGuard<'_>) -> Result<B, E>,
    ) -> Result<Outcome, RunError<E>> {
        match self.claim_wait(key, fingerprint, deadline)? {
            Claim::Acquired(guard) => {
                let outcome = work(&guard).map_err(RunError::Work)?;
                guard.complete(outcome.as_ref())?;
                Ok(Outcome::fresh(outcome.as_ref(), 0, guard.generation(), false))
            }
            Claim::Completed(outcome) => Ok(outcome),
            Claim::InFlight(other) => Err(RunError::InFlight(other.into_owned())),
            Claim::Interrupted(left) => Err(RunError::Interrupted(left.into_owned())),
            Claim::Mismatch(mismatch) => Err(RunError::Mismatch(mismatch)),
        }
    }

    /// Takes up a detached claim, in flight or interrupted, under a larger generation and with
    /// the store's lease. A token works once.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`] if it was attached before, or taken over, released or forgotten, or if
    /// the key has been completed since for another request;
    /// [`Error::InvalidInput`] for a token of another store. A finished claim is no error but
    /// [`Claim::Completed`].
    pub fn attach(&self, token: &ClaimToken) -> Result<Claim<'_>> {
        let engine = self.engine();
        if token.store() != engine.store_id() {
            return Err(Error::InvalidInput {
                what: "token",
                why: "it was made by another store",
            });
        }
        let k = engine.keyed(token.key())?;
        let command = Command::Attach(token.generation(), token.fingerprint());
        match engine.attach(k, command)? {
            Attached::Claim(ticket, fingerprint) => {
                let verdict = crate::shard::Verdict::Acquired(ticket);
                Ok(Claim::new(
                    EngineRef::Borrowed(engine),
                    k,
                    self.wish(fingerprint),
                    verdict,
                ))
            }
            Attached::Completed(outcome) => Ok(Claim::Completed(outcome)),
            Attached::Lost(current) => Err(Error::LeaseLost { current }),
        }
    }

    /// True if the key was never seen within the store's ttl; from then on it is. At most once:
    /// whoever crashes after a `true` has lost the message; use [`claim`](Self::claim) where
    /// that matters.
    ///
    /// # Errors
    ///
    /// [`Error::InUse`] for a key that is claimed and not completed; otherwise those of `claim`.
    /// While it runs, a `claim` of the same key is told `InFlight`.
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::{Key, Store};
    /// let store = Store::in_memory()?;
    /// assert!(store.first_seen(Key::new("mails", "m-1"))?);
    /// assert!(!store.first_seen(Key::new("mails", "m-1"))?);
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn first_seen<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool> {
        let k = self.engine().keyed(key.into())?;
        self.engine().first_seen(k, None)
    }

    /// [`first_seen`](Self::first_seen) with a ttl of its own.
    ///
    /// # Errors
    ///
    /// As `first_seen`; [`Error::InvalidInput`] for a ttl of zero or over a hundred years.
    pub fn first_seen_for<'k>(&self, key: impl Into<Key<'k>>, ttl: Duration) -> Result<bool> {
        let ttl = Span::checked("ttl", ttl)?;
        let k = self.engine().keyed(key.into())?;
        self.engine().first_seen(k, Some(ttl))
    }

    /// [`first_seen`](Self::first_seen) for many keys, as if one by one in this order: of
    /// repeats inside the batch the first is `true`. `out` is cleared first.
    ///
    /// # Errors
    ///
    /// Those of single keys are in `out`; the call itself fails with [`Error::Closed`] or
    /// [`Error::Forked`] before any.
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::{Key, Store};
    /// let store = Store::in_memory()?;
    /// let keys = ["a", "b", "a"].map(|id| Key::new("mails", id));
    /// let mut fresh = Vec::new();
    /// store.first_seen_many(&keys, &mut fresh)?;
    /// assert!(matches!(fresh[..], [Ok(true), Ok(true), Ok(false)]));
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn first_seen_many(&self, keys: &[Key<'_>], out: &mut Vec<Result<bool>>) -> Result<()> {
        out.clear();
        self.engine().enter()?;
        out.reserve(keys.len());
        let batches = keys.chunks(BATCH);
        let keyed = batches.flat_map(|batch| self.in_batch(batch, |key| *key, &self.engine().pin()));
        self.engine().first_seen_batch(keyed, |seen| out.push(seen));
        Ok(())
    }

    /// Reads the outcome of a completed key where it lies, without copying it and without a
    /// lock. Claims nothing.
    ///
    /// The closure runs under an epoch pin: keep it short and wait for nothing in it. What is
    /// retired while it runs counts against `max_bytes`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidInput`] or [`Error::TooLarge`] for a key outside its limits;
    /// [`Error::Closed`].
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::{Fingerprint, Key, Replay, Store};
    /// let store = Store::in_memory()?;
    /// let key = Key::new("acme", "order-1");
    /// let body = Fingerprint::from_bytes([1; 16]);
    /// assert!(matches!(store.replay(key, body, |_| ())?, Replay::Miss));
    /// store.run(key, body, |_| Ok::<_, std::fmt::Error>("charged")).ok();
    /// let len = store.replay(key, body, |stored| stored.bytes().len())?;
    /// assert!(matches!(len, Replay::Hit(7)));
    /// assert!(matches!(store.replay(key, Fingerprint::NONE, |_| ())?, Replay::Mismatch));
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn replay<'k, R>(
        &self,
        key: impl Into<Key<'k>>,
        fingerprint: Fingerprint,
        read: impl FnOnce(Stored<'_>) -> R,
    ) -> Result<Replay<R>> {
        let k = self.engine().keyed(key.into())?;
        Ok(match self.engine().read(k, Some(fingerprint), read)? {
            Lookup::Hit(result) => Replay::Hit(result),
            Lookup::Miss => Replay::Miss,
            Lookup::Mismatch => Replay::Mismatch,
        })
    }

    /// Reads many outcomes where they lie: `read(i, stored)` for each key that is completed
    /// with its fingerprint, in order. Returns how many there were. The cache misses of up to
    /// 16 keys overlap. Keys outside their limits count as not completed.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::{Fingerprint, Key, Store};
    /// let store = Store::in_memory()?;
    /// store.first_seen(Key::new("mails", "b"))?;
    /// let items = ["a", "b"].map(|id| (Key::new("mails", id), Fingerprint::NONE));
    /// let hits = store.replay_many(&items, |i, _stored| assert_eq!(i, 1))?;
    /// assert_eq!(hits, 1);
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn replay_many(
        &self,
        items: &[(Key<'_>, Fingerprint)],
        mut read: impl FnMut(usize, Stored<'_>),
    ) -> Result<usize> {
        let engine = self.engine();
        let mut hits = 0;
        for (n, batch) in items.chunks(BATCH).enumerate() {
            let now = engine.enter_reading()?;
            let pin = engine.pin();
            let keyed = self.in_batch(batch, |(key, _)| *key, &pin);
            for (i, (k, (_, fingerprint))) in keyed.zip(batch).enumerate() {
                let Ok(k) = k else { continue };
                let read = |stored: Stored<'_>| read(n * BATCH + i, stored);
                if let Lookup::Hit(()) = engine.read_at(k, Some(*fingerprint), now, &pin, read) {
                    hits += 1;
                }
            }
        }
        Ok(hits)
    }

    /// Reads a completed key whatever its fingerprint, for operators. Counts as no replay.
    ///
    /// # Errors
    ///
    /// As [`replay`](Self::replay).
    pub fn peek<'k, R>(
        &self,
        key: impl Into<Key<'k>>,
        read: impl FnOnce(Stored<'_>) -> R,
    ) -> Result<Option<R>> {
        let k = self.engine().keyed(key.into())?;
        Ok(match self.engine().read(k, None, read)? {
            Lookup::Hit(result) => Some(result),
            Lookup::Miss | Lookup::Mismatch => None,
        })
    }

    /// What a key is now, without its outcome.
    ///
    /// # Errors
    ///
    /// As [`replay`](Self::replay).
    pub fn status<'k>(&self, key: impl Into<Key<'k>>) -> Result<Status> {
        let k = self.engine().keyed(key.into())?;
        self.engine().status(k)
    }

    /// Goes through all keys the filter wants, shard by shard. A key that is there all the time
    /// is given exactly once, one that comes or goes meanwhile at most once. A shard is locked
    /// only to copy its slots; its keys (some thousands) are buffered.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], here or from the iterator.
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::{Fingerprint, Key, ScanFilter, StateKind, Store};
    /// let store = Store::in_memory()?;
    /// store.first_seen(Key::new("acme", "m-1"))?;
    /// drop(store.claim(Key::new("acme", "m-2"), Fingerprint::NONE)?);
    /// for found in store.scan(ScanFilter::new().state(StateKind::Interrupted))? {
    ///     let (key, status) = found?;
    ///     assert_eq!(key.as_key(), Key::new("acme", "m-2"));
    ///     println!("{key:?} is {status}");
    /// }
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn scan(&self, filter: ScanFilter) -> Result<Scan<'_>> {
        if self.engine().is_closed() {
            return Err(Error::Closed);
        }
        Ok(Scan {
            engine: self.engine(),
            filter,
            shard: 0,
            buffered: Vec::new().into_iter(),
        })
    }

    /// Settles an unfinished claim in its holder's place, on what the operator saw: the claim
    /// must still be at this generation. The holder, should it come back, has lost.
    ///
    /// # Errors
    ///
    /// [`Error::LeaseLost`] if the generation is another or the key is completed or absent;
    /// [`Error::TooLarge`], [`Error::AtCapacity`] or [`Error::InvalidInput`] for an outcome that
    /// cannot be stored.
    pub fn resolve<'k>(&self, key: impl Into<Key<'k>>, generation: u64, to: Resolution<'_>) -> Result<()> {
        let k = self.engine().keyed(key.into())?;
        match to {
            Resolution::Release => self.engine().resolve_release(k, generation),
            Resolution::Complete(outcome, options) => {
                let outcome = NewOutcome::new(outcome, options.checked()?);
                self.engine().resolve_complete(k, generation, outcome)
            }
        }
    }

    /// Makes a key absent, whatever it was; a holder has then lost its claim. True if there was
    /// something to forget. The bytes of an outcome come back with its segment.
    ///
    /// # Errors
    ///
    /// Those of a key outside its limits, [`Error::Closed`], [`Error::Forked`].
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::{Key, Store};
    /// let store = Store::in_memory()?;
    /// store.first_seen(Key::unscoped("m-1"))?;
    /// assert!(store.forget(Key::unscoped("m-1"))?);
    /// assert!(!store.forget(Key::unscoped("m-1"))?, "nothing left to forget");
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn forget<'k>(&self, key: impl Into<Key<'k>>) -> Result<bool> {
        let k = self.engine().keyed(key.into())?;
        self.engine().forget(k)
    }

    /// What was found when the store was opened. Empty for a store in memory.
    pub fn recovery(&self) -> &RecoveryReport {
        self.engine().recovery()
    }

    /// Makes everything durable that was recorded before this call. In memory it does nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the disk failed just now, [`Error::Poisoned`] if it failed before;
    /// [`Error::Closed`]; [`Error::Forked`].
    pub fn sync(&self) -> Result<()> {
        self.engine().enter()?;
        self.engine().sync()
    }

    /// What the store has done and holds.
    pub fn stats(&self) -> Stats {
        self.engine().stats()
    }

    /// Does housekeeping on this thread, for about `budget`: gives back the memory of what has
    /// expired, wakes those whose lease has ended. True if there is more to do. For stores
    /// without a helper thread; with one it does no harm.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::Forked`].
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::Store;
    /// use std::time::Duration;
    /// let store = Store::builder().helper_thread(false).in_memory()?;
    /// // From a timer, every second or so:
    /// while store.maintain(Duration::from_millis(1))? {}
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn maintain(&self, budget: Duration) -> Result<bool> {
        let now = self.engine().enter()?;
        Ok(self.engine().maintain(now, budget))
    }

    /// Closes the store: every other handle, guard and waiter gets [`Error::Closed`] from now
    /// on. With a log everything recorded is durable when this returns, unfinished claims will
    /// be interrupted at the next open, and the directory may be opened again. What lives in
    /// memory is gone when the last handle is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Forked`] in a forked child, where it does nothing; [`Error::Io`] if the last sync
    /// failed. The store is closed then too.
    ///
    /// # Examples
    ///
    /// ```
    /// use onceonly::{Error, Key, Store};
    /// let store = Store::in_memory()?;
    /// let other = store.clone();
    /// store.close()?;
    /// assert!(matches!(other.first_seen(Key::unscoped("m-1")), Err(Error::Closed)));
    /// # Ok::<(), onceonly::Error>(())
    /// ```
    pub fn close(self) -> Result<()> {
        self.engine().close()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("keys", &self.stats().keys_live)
            .finish_non_exhaustive()
    }
}

/// What [`Store::replay`] found.
///
/// # Examples
///
/// ```
/// use onceonly::{Fingerprint, Key, Replay, Store};
/// let store = Store::in_memory()?;
/// let found = store.replay(Key::unscoped("job"), Fingerprint::NONE, |stored| stored.bytes().to_vec())?;
/// assert_eq!(found, Replay::Miss);
/// # Ok::<(), onceonly::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replay<R> {
    /// The key is completed: what the closure returned.
    Hit(R),
    /// The key is absent, in flight or interrupted.
    Miss,
    /// The key is completed with another fingerprint.
    Mismatch,
}

/// The keys of a store, one after another. See [`Store::scan`].
///
/// # Examples
///
/// ```
/// use onceonly::{Key, ScanFilter, Store};
/// let store = Store::in_memory()?;
/// store.first_seen(Key::unscoped("m-1"))?;
/// let keys: Vec<_> = store.scan(ScanFilter::new())?.collect::<Result<_, _>>()?;
/// assert_eq!(keys[0].0.as_key(), Key::unscoped("m-1"));
/// # Ok::<(), onceonly::Error>(())
/// ```
#[must_use = "iterators do nothing unless used"]
pub struct Scan<'s> {
    engine: &'s Engine,
    filter: ScanFilter,
    shard: usize,
    buffered: std::vec::IntoIter<ScanItem>,
}

impl Iterator for Scan<'_> {
    type Item = Result<(KeyBuf, Status)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(item) = self.buffered.next() {
                return Some(Ok(item));
            }
            if self.shard == self.engine.shard_count() {
                return None;
            }
            let mut found = Vec::new();
            let wanted = |key: crate::key::CheckedKey<'_>, status: &Status| self.filter.wants(key, status);
            let scanned = self.engine.scan_shard(self.shard, wanted, &mut found);
            self.shard += 1;
            if let Err(error) = scanned {
                self.shard = self.engine.shard_count();
                return Some(Err(error));
            }
            self.buffered = found.into_iter();
        }
    }
}

impl fmt::Debug for Scan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").finish_non_exhaustive()
    }
}
