//! Group commit: many callers wait for one sync.
//!
//! Whoever finds no sync under way leads the next one; the others wait for it, and if it did not come
//! as far as they need, one of them leads another. Without a pause the callers would fall into
//! two groups that take turns, each batch holding half of them; so a leader waits until as many
//! have come as the last batch had, for at most half a sync and never more than a millisecond,
//! and not at all if the last batch was its leader alone. (PostgreSQL's `commit_delay` is the
//! same idea with a fixed time.)
//!
//! The first sync that fails ends it: Linux may have dropped the unwritten pages and report
//! success the next time, so nothing is called durable from then on.

use super::format::Pos;
use crate::error::{Error, Result};
use crate::sync::{AtomicBool, Condvar, Mutex, Ordering};
use std::time::{Duration, Instant};

/// The longest a leader waits for company.
const MAX_PAUSE: Duration = Duration::from_millis(1);

struct State {
    durable: Pos,
    syncing: bool,
    /// What those who wait are waiting for.
    waiters: Vec<Pos>,
    last_batch: usize,
    /// How long a sync takes, about.
    pace: Duration,
    /// What the first failed sync said.
    failure: Option<Error>,
    syncs: u64,
    served: u64,
}

pub(super) struct Committer {
    state: Mutex<State>,
    /// There is a failure; asked by every call that records something.
    failed: AtomicBool,
    /// A sync has ended.
    changed: Condvar,
    /// Somebody has come while a leader waits for company.
    arrived: Condvar,
}

impl Committer {
    /// Everything before `durable` is.
    pub(super) fn new(durable: Pos) -> Self {
        Committer {
            state: Mutex::new(State {
                durable,
                syncing: false,
                waiters: Vec::new(),
                last_batch: 0,
                pace: Duration::ZERO,
                failure: None,
                syncs: 0,
                served: 0,
            }),
            failed: AtomicBool::new(false),
            changed: Condvar::new(),
            arrived: Condvar::new(),
        }
    }

    /// Has a sync failed?
    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    pub(super) fn durable(&self) -> Pos {
        self.state.lock().durable
    }

    /// (syncs, calls that waited for one).
    pub(super) fn counts(&self) -> (u64, u64) {
        let state = self.state.lock();
        (state.syncs, state.served)
    }

    /// Waits until everything before `pos` is durable; `sync` makes at least that durable,
    /// or as much as has been appended, and says how far it came.
    pub(super) fn wait(&self, pos: Pos, sync: impl Fn() -> Result<Pos>) -> Result<()> {
        let mut state = self.state.lock();
        if state.durable >= pos {
            return Ok(());
        }
        state.waiters.push(pos);
        state.served += 1;
        if state.syncing {
            self.arrived.notify_one();
        }
        loop {
            if state.durable >= pos {
                return Ok(());
            }
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            if state.syncing {
                self.changed.wait(&mut state);
                continue;
            }
            state.syncing = true;
            let until = Instant::now() + (state.pace / 2).min(MAX_PAUSE);
            while state.last_batch > 1 && state.waiters.len() < state.last_batch {
                if self.arrived.wait_until(&mut state, until).timed_out() {
                    break;
                }
            }
            state.last_batch = state.waiters.len();
            drop(state);
            let began = Instant::now();
            let synced = sync();
            let took = began.elapsed();
            state = self.state.lock();
            state.syncing = false;
            state.syncs += 1;
            // A moving average over some eight syncs.
            state.pace = (state.pace * 7 + took) / 8;
            match synced {
                Ok(durable) => {
                    state.durable = state.durable.max(durable);
                    let durable = state.durable;
                    state.waiters.retain(|pos| *pos > durable);
                }
                Err(failure) => {
                    state.failure.get_or_insert(failure);
                    self.failed.store(true, Ordering::Release);
                }
            }
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::AtomicU64;

    #[test]
    fn one_sync_serves_all_who_wait() {
        let committer = Committer::new(Pos::START);
        let end = AtomicU64::new(0);
        let syncs = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mine = end.fetch_add(1, Ordering::SeqCst) + 1;
                        let sync = || {
                            syncs.fetch_add(1, Ordering::SeqCst);
                            Ok(Pos::new(0, end.load(Ordering::SeqCst) as usize))
                        };
                        committer.wait(Pos::new(0, mine as usize), sync).unwrap();
                        assert!(committer.durable() >= Pos::new(0, mine as usize));
                    }
                });
            }
        });
        assert!(syncs.into_inner() <= 1_600);
        assert!(committer.state.lock().waiters.is_empty());
    }

    #[test]
    fn after_a_failure_nothing_becomes_durable() {
        let committer = Committer::new(Pos::START);
        let fail = || Err(Error::Closed);
        assert!(committer.wait(Pos::new(0, 1), fail).is_err());
        let well = || Ok(Pos::new(9, 9));
        assert!(committer.wait(Pos::new(0, 1), well).is_err());
        assert!(committer.wait(Pos::START, well).is_ok(), "it was durable before");
    }
}

#[cfg(all(test, onceonly_loom))]
mod loom {
    use super::*;
    use crate::sync::{Arc, AtomicU64, explore, spawn};

    /// What has been appended, and a sync of all of it.
    struct Device {
        committer: Committer,
        end: AtomicU64,
    }

    impl Device {
        fn new() -> Arc<Self> {
            Arc::new(Device {
                committer: Committer::new(Pos::START),
                end: AtomicU64::new(0),
            })
        }

        fn commit(&self) -> Result<()> {
            let mine = self.end.fetch_add(1, Ordering::AcqRel) + 1;
            let end = || Pos::new(0, self.end.load(Ordering::Acquire) as usize);
            self.committer.wait(Pos::new(0, mine as usize), || Ok(end()))?;
            assert!(self.committer.durable() >= Pos::new(0, mine as usize));
            Ok(())
        }
    }

    #[test]
    fn the_lead_is_handed_on_and_nobody_is_left_waiting() {
        explore(3, || {
            let device = Device::new();
            let others = [1, 2].map(|rounds| {
                let device = device.clone();
                spawn(move || (0..rounds).for_each(|_| device.commit().unwrap()))
            });
            device.commit().unwrap();
            others.into_iter().for_each(|t| t.join().unwrap());
            assert!(device.committer.state.lock().waiters.is_empty());
        });
    }

    #[test]
    fn a_failed_sync_fails_all_who_wait() {
        explore(3, || {
            let device = Device::new();
            let other = {
                let device = device.clone();
                spawn(move || device.commit().is_ok())
            };
            let failed = device.committer.wait(Pos::new(0, 9), || Err(Error::Closed));
            assert!(failed.is_err() && device.committer.has_failed());
            let before = other.join().unwrap();
            assert_eq!(device.committer.durable() > Pos::START, before);
            assert!(device.commit().is_err());
        });
    }
}
