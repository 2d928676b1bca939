//! What needs no claim: operators, readers, time.

use super::*;

impl Driver {
    pub(super) fn forget(&mut self, number: u8) -> Verdict {
        let seen = answer_to_bool(&self.store.forget(key(number)));
        self.check(key(number), &Call::Forget, &seen)
    }

    /// The key's generation plus `off`, as an operator would have read it.
    pub(super) fn operators_view(&mut self, number: u8, off: i8) -> Result<u64, Disagreement> {
        let status = answer_to_status(&self.store.status(key(number)));
        let generation = status.generation().unwrap_or(0);
        self.check(key(number), &Call::Status, &status)?;
        Ok(generation.saturating_add_signed(off.into()))
    }

    pub(super) fn operator_complete(&mut self, number: u8, off: i8, ending: Ending) -> Verdict {
        let generation = self.operators_view(number, off)?;
        let bytes = ending.outcome.bytes();
        let to = Resolution::Complete(&bytes, ending.options());
        let seen = answer_to_unit(&self.store.resolve(key(number), generation, to));
        let call = Call::OperatorComplete {
            generation,
            outcome: ending.finding(),
        };
        self.check(key(number), &call, &seen)
    }

    pub(super) fn operator_release(&mut self, number: u8, off: i8) -> Verdict {
        let generation = self.operators_view(number, off)?;
        let seen = answer_to_unit(&self.store.resolve(key(number), generation, Resolution::Release));
        self.check(key(number), &Call::OperatorRelease { generation }, &seen)
    }

    pub(super) fn first_seen(&mut self, number: u8, ttl: Option<Duration>) -> Verdict {
        let seen = match ttl {
            None => self.store.first_seen(key(number)),
            Some(ttl) => self.store.first_seen_for(key(number), ttl),
        };
        self.check(key(number), &Call::FirstSeen { ttl }, &answer_to_bool(&seen))
    }

    pub(super) fn first_seen_many(&mut self, numbers: [u8; 3]) -> Verdict {
        let mut out = Vec::new();
        self.store
            .first_seen_many(&numbers.map(key), &mut out)
            .map_err(|error| differ("first_seen_many", "Ok", &error))?;
        if out.len() != numbers.len() {
            return Err(differ("first_seen_many", "an answer for each key", &out.len()));
        }
        let call = Call::FirstSeen { ttl: None };
        numbers
            .iter()
            .zip(&out)
            .try_for_each(|(number, seen)| self.check(key(*number), &call, &answer_to_bool(seen)))
    }

    pub(super) fn replay(&mut self, number: u8, print: u8) -> Verdict {
        let fingerprint = fingerprint(print);
        let seen = match self.store.replay(key(number), fingerprint, told_in_place) {
            Ok(Replay::Hit(told)) => Answer::Stored(told),
            Ok(Replay::Miss) => Answer::Miss,
            Ok(Replay::Mismatch) => Answer::OtherRequest,
            Err(error) => answer_to_error(&error),
        };
        self.check(key(number), &Call::Replay { fingerprint }, &seen)
    }

    pub(super) fn replay_many(&mut self, numbers: [u8; 3], prints: [u8; 3]) -> Verdict {
        let items = [0, 1, 2].map(|i| (key(numbers[i]), fingerprint(prints[i])));
        let mut found = Vec::new();
        let hits = self
            .store
            .replay_many(&items, |i, stored| found.push((i, told_in_place(stored))))
            .map_err(|error| differ("replay_many", "Ok", &error))?;
        if hits != found.len() || !found.is_sorted_by_key(|(i, _)| *i) {
            return Err(differ(
                "replay_many",
                "a call for each hit, in order",
                &(hits, found),
            ));
        }
        for (i, (key, fingerprint)) in items.into_iter().enumerate() {
            let hit = found
                .iter()
                .find(|(at, _)| *at == i)
                .map(|(_, told)| told.clone());
            let seen = match hit {
                Some(told) => Answer::Stored(told),
                None if self.is_for_another_request(key, fingerprint) => Answer::OtherRequest,
                None => Answer::Miss,
            };
            self.check(key, &Call::Replay { fingerprint }, &seen)?;
        }
        Ok(())
    }

    /// `replay_many` does not tell a miss from a mismatch; the model may.
    pub(super) fn is_for_another_request(&self, key: Key<'_>, fingerprint: Fingerprint) -> bool {
        matches!(self.model.status(key), Status::Completed { .. })
            && self.model.fingerprint(key) != Some(fingerprint)
    }

    pub(super) fn peek(&mut self, number: u8) -> Verdict {
        let seen = match self.store.peek(key(number), told_in_place) {
            Ok(Some(told)) => Answer::Stored(told),
            Ok(None) => Answer::Miss,
            Err(error) => answer_to_error(&error),
        };
        self.check(key(number), &Call::Peek, &seen)
    }

    pub(super) fn status(&mut self) -> Verdict {
        (0..KEYS as u8).try_for_each(|number| {
            let seen = answer_to_status(&self.store.status(key(number)));
            self.check(key(number), &Call::Status, &seen)
        })
    }

    pub(super) fn scan(
        &mut self,
        scope_of: Option<u8>,
        state: Option<StateKind>,
        older_than: Duration,
    ) -> Verdict {
        let scope = scope_of.map(|number| key(number).scope());
        let mut filter = ScanFilter::new().older_than(older_than);
        if let Some(scope) = scope {
            filter = filter.scope(scope);
        }
        if let Some(state) = state {
            filter = filter.state(state);
        }
        let mut found: Vec<(KeyBuf, Status)> = self
            .store
            .scan(filter)
            .and_then(Iterator::collect)
            .map_err(|error| differ("scan", "Ok", &error))?;
        // Hidden generations are told by the scan too.
        for (key, status) in &found {
            self.model
                .check(key.as_key(), &Call::Status, &Answer::Status(*status))?;
        }
        for (key, status, slack) in self.model.live() {
            let wanted = scope.is_none_or(|scope| scope == key.scope())
                && state.is_none_or(|kind| is_a(kind, &status));
            let old_enough = status.age() >= older_than + slack;
            let too_young = status.age() + slack < older_than;
            let position = found.iter().position(|(k, _)| k.as_key() == key);
            match position {
                Some(at) if wanted && !too_young => {
                    found.swap_remove(at);
                }
                Some(_) => return Err(differ("scan", &format!("not {key:?}: {status:?}"), &found)),
                None if wanted && old_enough => {
                    return Err(differ("scan", &format!("also {key:?}: {status:?}"), &found));
                }
                None => {}
            }
        }
        match found.is_empty() {
            true => Ok(()),
            false => Err(differ(
                "scan",
                "nothing that is not there, and nothing twice",
                &found,
            )),
        }
    }

    pub(super) fn maintain(&mut self) -> Verdict {
        match self.store.maintain(Duration::from_millis(1)) {
            Ok(_) => Ok(()),
            Err(error) => Err(differ("maintain", "Ok", &error)),
        }
    }

    pub(super) fn stats(&mut self) -> Verdict {
        let stats = self.store.stats();
        let seen = Counts {
            acquired: stats.acquired,
            completed: stats.completed,
            first_seen: stats.first_seen,
            replays: stats.replays,
            released: stats.released,
            interrupted_answers: stats.interrupted_answers,
            mismatches: stats.mismatches,
            at_capacity: stats.at_capacity,
            takeovers: stats.takeovers,
            forgotten: stats.forgotten,
        };
        if seen != self.counts {
            return Err(differ("stats, counters", &format!("{:?}", self.counts), &seen));
        }
        self.gauges(&stats)
    }

    /// Numbers of keys may still include expired ones that were not met, never leave out a
    /// live one; beside a helper thread they are not of one instant.
    pub(super) fn gauges(&self, stats: &Stats) -> Verdict {
        let live = self.model.live().count() as u64;
        let unfinished = self
            .model
            .live()
            .filter(|(_, s, _)| !is_a(StateKind::Completed, s))
            .count() as u64;
        let is_of_one_instant = !self.has_helper;
        let keys_agree = (live..=KEYS as u64).contains(&stats.keys_live)
            && stats.keys_in_flight + stats.keys_interrupted >= unfinished
            && stats.keys_in_flight + stats.keys_interrupted <= stats.keys_live;
        let is_right = (keys_agree || !is_of_one_instant)
            && stats.waiters == 0
            && stats.bytes_reserved <= stats.bytes_limit;
        match is_right {
            true => Ok(()),
            false => Err(differ(
                "stats, gauges",
                &format!("{live} keys, {unfinished} unfinished"),
                stats,
            )),
        }
    }

    pub(super) fn advance(&mut self, by: Duration) -> Verdict {
        self.clock.advance(by);
        self.model.advance(by);
        for key in self.model.unsettled() {
            match self.store.status(&key) {
                Ok(status) => self.model.settle(key.as_key(), &status),
                Err(error) => return Err(differ("status", "Ok", &error)),
            }
        }
        Ok(())
    }

    pub(super) fn advance_to_edge(&mut self, nth: u8, off: i8) -> Verdict {
        let edges = self.model.edges();
        let Some(edge) = edges.get(usize::from(nth) % edges.len().max(1)) else {
            return Ok(());
        };
        let to = edge.saturating_add_signed(i64::from(off) * 500);
        self.advance(Duration::from_micros(to.saturating_sub(self.model.now())))
    }

    pub(super) fn set_wall(&mut self, off: i32) -> Verdict {
        // With a log the wall clock says how long the store was closed.
        if self.setup.log.is_some() {
            return Ok(());
        }
        let wall = crate::Clock::wall(&self.clock);
        let by = Duration::from_secs(off.unsigned_abs().into());
        let to = if off < 0 {
            wall.checked_sub(by)
        } else {
            wall.checked_add(by)
        };
        self.clock.set_wall(to.unwrap_or(SystemTime::UNIX_EPOCH));
        Ok(())
    }

    /// Input outside the limits is refused by name and changes nothing.
    pub(super) fn refused(&mut self, slot: u8) -> Verdict {
        let long = [b'x'; 1_025];
        let none = Fingerprint::NONE;
        let store = &self.store;
        let day = Duration::from_secs(86_400);
        let too_long = 36_526 * day;
        let claim = |key: Key<'_>| store.claim(key, none).map(drop);
        let lease = |lease| {
            store
                .claim_with(key(0), none, ClaimOptions::new().lease(lease))
                .map(drop)
        };
        expect_refusal(&claim(Key::new("", "x")), "scope")?;
        expect_refusal(&claim(Key::new("a", "")), "id")?;
        expect_refusal(&claim(Key::unscoped("")), "id")?;
        expect_refusal(&claim(Key::new("a", &long)), "id")?;
        expect_refusal(&claim(Key::new(&long[..256], "x")), "scope")?;
        expect_refusal(&store.first_seen(Key::unscoped("")).map(drop), "id")?;
        expect_refusal(&store.forget(Key::unscoped(&long)).map(drop), "id")?;
        expect_refusal(&store.status(Key::new("", "x")).map(drop), "scope")?;
        expect_refusal(&lease(Duration::ZERO), "lease")?;
        expect_refusal(&lease(too_long), "lease")?;
        expect_refusal(&store.first_seen_for(key(0), Duration::ZERO).map(drop), "ttl")?;
        expect_refusal(&store.first_seen_for(key(0), Duration::MAX).map(drop), "ttl")?;
        if let Some(held) = &self.held[place(slot)] {
            let guard = &held.guard;
            expect_refusal(&guard.renew(Duration::ZERO), "lease")?;
            expect_refusal(
                &guard.complete_with(b"x", CompleteOptions::new().ttl(too_long)),
                "ttl",
            )?;
            expect_refusal(
                &guard.complete_with(b"x", CompleteOptions::new().ttl(Duration::ZERO)),
                "ttl",
            )?;
        }
        Ok(())
    }
}
