//! Claiming: one key, many, and by `run`.

use super::*;

impl Driver {
    pub(super) fn claim(
        &mut self,
        number: u8,
        print: u8,
        lease: Option<Duration>,
        wait: bool,
        slot: u8,
    ) -> Verdict {
        self.drop_guard(slot)?;
        let (key, fingerprint) = (key(number), fingerprint(print));
        let claim = match lease {
            _ if wait => self.store.claim_wait(key, fingerprint, Deadline::NOW),
            Some(lease) => self
                .store
                .claim_with(key, fingerprint, ClaimOptions::new().lease(lease)),
            None => self.store.claim(key, fingerprint),
        };
        let claim = claim.map(Claim::into_owned);
        let lease = lease.filter(|_| !wait).unwrap_or(self.model.rules().lease);
        let call = Call::Claim { fingerprint, lease };
        let claimed = Claimed {
            key,
            fingerprint,
            lease,
        };
        self.take(claimed, &call, claim, slot)
    }

    pub(super) fn claim_many(&mut self, keys: [u8; 3], prints: [u8; 3], slot: u8) -> Verdict {
        self.drop_guard(slot)?;
        let items = [0, 1, 2].map(|i| (key(keys[i]), fingerprint(prints[i])));
        let mut out = Vec::new();
        self.store
            .claim_many(&items, &mut out)
            .map_err(|error| differ("claim_many", "Ok", &error))?;
        let claims: Vec<_> = out
            .into_iter()
            .map(|claim| claim.map(Claim::into_owned))
            .collect();
        if claims.len() != items.len() {
            return Err(differ("claim_many", "an answer for each item", &claims.len()));
        }
        let lease = self.model.rules().lease;
        for ((key, fingerprint), claim) in items.iter().zip(&claims) {
            let call = Call::Claim {
                fingerprint: *fingerprint,
                lease,
            };
            self.check(*key, &call, &answer_to_claim(claim))?;
        }
        for ((key, fingerprint), claim) in items.into_iter().zip(claims) {
            self.keep_or_drop(key, fingerprint, claim, slot)?;
        }
        Ok(())
    }

    /// What a batch gave: the slot takes one guard and one question, the rest are dropped.
    pub(super) fn keep_or_drop(
        &mut self,
        key: Key<'_>,
        print: Fingerprint,
        claim: Result<Claim<'static>>,
        slot: u8,
    ) -> Verdict {
        match claim {
            Ok(Claim::Acquired(guard)) => {
                let held = Held {
                    guard,
                    release: false,
                    ended: false,
                };
                match &mut self.held[place(slot)] {
                    empty @ None => *empty = Some(held),
                    Some(_) => self.let_go(held)?,
                }
            }
            Ok(Claim::Interrupted(question)) => {
                self.asked[place(slot)].get_or_insert(Asked {
                    question,
                    key: key.to_owned(),
                    fingerprint: print,
                    lease: self.model.rules().lease,
                });
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn run_once(&mut self, number: u8, print: u8, work: Work, outcome: Payload) -> Verdict {
        let (key, fingerprint) = (key(number), fingerprint(print));
        let mut begun = None;
        let ran = self.store.run_until(key, fingerprint, Deadline::NOW, |guard| {
            begun = Some(acquired(guard));
            match work {
                Work::Succeed => Ok(outcome.bytes().to_vec()),
                Work::Fail => Err(false),
                Work::ReleaseAndFail => Err(guard.release().is_ok()),
            }
        });
        let claim = Call::Claim {
            fingerprint,
            lease: self.model.rules().lease,
        };
        let Some(begun) = begun else {
            let seen = match ran {
                Ok(outcome) => completed(&outcome),
                Err(RunError::Store(error)) => answer_to_error(&error),
                Err(RunError::InFlight(other)) => answer_to_claim(&Ok(Claim::InFlight(other))),
                Err(RunError::Interrupted(left)) => answer_to_claim(&Ok(Claim::Interrupted(left))),
                Err(RunError::Mismatch(mismatch)) => answer_to_claim(&Ok(Claim::Mismatch(mismatch))),
                Err(RunError::Work(_)) => Answer::Unexpected("a failure of work that was not begun".into()),
            };
            return self.check(key, &claim, &seen);
        };
        self.check(key, &claim, &begun)?;
        self.ran(key, begun.generation().unwrap_or(0), outcome, ran)
    }

    /// The work of `run` was begun at this generation: how did it end?
    pub(super) fn ran(&mut self, key: Key<'_>, generation: u64, outcome: Payload, ran: Ran) -> Verdict {
        let complete = Call::Complete {
            generation,
            outcome: Finding {
                bytes: outcome.bytes(),
                tag: 0,
                ttl: None,
            },
        };
        let drop = Call::Drop {
            generation,
            release: false,
        };
        match ran {
            Ok(stored) if stored.replayed() || *stored != *outcome.bytes() => {
                Err(differ("run", "the outcome of the work, not replayed", &stored))
            }
            Ok(_) => self.check(key, &complete, &Answer::Done),
            Err(RunError::Work(true)) => self.check(key, &Call::Release { generation }, &Answer::Done),
            Err(RunError::Work(false)) => self.check(key, &drop, &Answer::Done),
            Err(RunError::Store(error)) => {
                self.check(key, &complete, &answer_to_error(&error))?;
                self.check(key, &drop, &Answer::Done)
            }
            Err(other) => Err(differ("run", "nobody else at work", &other)),
        }
    }
}
