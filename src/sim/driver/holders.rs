//! What holders do, and those who were told `Interrupted`.

use super::*;

impl Driver {
    pub(super) fn complete(&mut self, slot: u8, ending: Ending) -> Verdict {
        let Some(held) = &self.held[place(slot)] else {
            return Ok(());
        };
        let done = held
            .guard
            .complete_with(&ending.outcome.bytes(), ending.options());
        self.completed(slot, ending, &done)
    }

    pub(super) fn completed(&mut self, slot: u8, ending: Ending, done: &Result<()>) -> Verdict {
        let Some(held) = &mut self.held[place(slot)] else {
            return Ok(());
        };
        held.ended |= done.is_ok();
        let call = Call::Complete {
            generation: held.guard.generation(),
            outcome: ending.finding(),
        };
        let key = held.guard.key().to_owned();
        self.check(key.as_key(), &call, &answer_to_unit(done))
    }

    pub(super) fn complete_many(&mut self, slots: [u8; 3], ending: Ending) -> Verdict {
        let bytes = ending.outcome.bytes();
        let full: Vec<u8> = slots
            .into_iter()
            .filter(|slot| self.held[place(*slot)].is_some())
            .collect();
        let mut out = Vec::new();
        let guards = full.iter().filter_map(|slot| self.held[place(*slot)].as_ref());
        self.store
            .complete_many(
                guards.map(|held| (&held.guard, &*bytes, ending.options())),
                &mut out,
            )
            .map_err(|error| differ("complete_many", "Ok", &error))?;
        if out.len() != full.len() {
            return Err(differ("complete_many", "an answer for each guard", &out.len()));
        }
        full.iter()
            .zip(&out)
            .try_for_each(|(slot, done)| self.completed(*slot, ending, done))
    }

    pub(super) fn release(&mut self, slot: u8) -> Verdict {
        let Some(held) = &mut self.held[place(slot)] else {
            return Ok(());
        };
        let done = held.guard.release();
        held.ended |= done.is_ok();
        let (key, generation) = held.identity();
        self.check(
            key.as_key(),
            &Call::Release { generation },
            &answer_to_unit(&done),
        )
    }

    pub(super) fn checkpoint(&mut self, slot: u8, note: Payload) -> Verdict {
        let Some(held) = &self.held[place(slot)] else {
            return Ok(());
        };
        let note = note.bytes();
        let done = held.guard.checkpoint(&note);
        let (key, generation) = held.identity();
        self.check(
            key.as_key(),
            &Call::Checkpoint { generation, note },
            &answer_to_unit(&done),
        )
    }

    pub(super) fn renew(&mut self, slot: u8, lease: Duration) -> Verdict {
        let Some(held) = &self.held[place(slot)] else {
            return Ok(());
        };
        let done = held.guard.renew(lease);
        self.unsynced = true;
        let (key, generation) = held.identity();
        self.check(
            key.as_key(),
            &Call::Renew { generation, lease },
            &answer_to_unit(&done),
        )
    }

    pub(super) fn on_drop(&mut self, slot: u8, release: bool) -> Verdict {
        if let Some(held) = &mut self.held[place(slot)] {
            held.guard.on_drop(if release {
                OnDrop::Release
            } else {
                OnDrop::Interrupt
            });
            held.release = release;
        }
        Ok(())
    }

    pub(super) fn drop_guard(&mut self, slot: u8) -> Verdict {
        match self.held[place(slot)].take() {
            Some(held) => self.let_go(held),
            None => Ok(()),
        }
    }

    pub(super) fn let_go(&mut self, held: Held) -> Verdict {
        let (key, generation) = held.identity();
        let (ended, release) = (held.ended, held.release);
        self.unsynced |= release;
        drop(held);
        match ended {
            true => Ok(()),
            false => self.check(key.as_key(), &Call::Drop { generation, release }, &Answer::Done),
        }
    }

    pub(super) fn detach(&mut self, slot: u8, token: u8) -> Verdict {
        if let Some(held) = self.held[place(slot)].take() {
            let (key, generation) = held.identity();
            let made = held.guard.detach();
            if made.key() != key.as_key() || made.generation() != generation {
                return Err(differ("detach", &format!("{key:?} at {generation}"), &made));
            }
            self.tokens[place(token)] = Some(made);
        }
        Ok(())
    }

    pub(super) fn attach(&mut self, token: u8, slot: u8) -> Verdict {
        if self.tokens[place(token)].is_none() {
            return Ok(());
        }
        self.drop_guard(slot)?;
        let Some(token) = &self.tokens[place(token)] else {
            return Ok(());
        };
        let read =
            ClaimToken::from_bytes(&token.to_bytes()).map_err(|error| differ("a token", "itself", &error))?;
        let key = token.key().to_owned();
        let call = Call::Attach {
            generation: token.generation(),
            fingerprint: token.fingerprint(),
        };
        let claim = self.store.attach(&read).map(Claim::into_owned);
        let claimed = Claimed {
            key: key.as_key(),
            fingerprint: Fingerprint::NONE,
            lease: self.model.rules().lease,
        };
        self.take(claimed, &call, claim, slot)
    }

    pub(super) fn resume(&mut self, question: u8, slot: u8) -> Verdict {
        let Some(asked) = self.asked[place(question)].take() else {
            return Ok(());
        };
        self.drop_guard(slot)?;
        let call = Call::Resume {
            generation: asked.question.generation(),
            fingerprint: asked.fingerprint,
            lease: asked.lease,
        };
        let claim = asked.question.resume();
        let claimed = Claimed {
            key: asked.key.as_key(),
            fingerprint: asked.fingerprint,
            lease: asked.lease,
        };
        self.take(claimed, &call, claim, slot)
    }

    pub(super) fn resolve(&mut self, question: u8, ending: Ending) -> Verdict {
        let Some(asked) = self.asked[place(question)].take() else {
            return Ok(());
        };
        self.drop_guard(question)?;
        let call = Call::Resolve {
            generation: asked.question.generation(),
            fingerprint: asked.fingerprint,
            lease: asked.lease,
            outcome: ending.finding(),
        };
        let claim = asked.question.resolve(&ending.outcome.bytes(), ending.options());
        let claimed = Claimed {
            key: asked.key.as_key(),
            fingerprint: asked.fingerprint,
            lease: asked.lease,
        };
        self.take(claimed, &call, claim, question)
    }

    pub(super) fn give_up(&mut self, question: u8) -> Verdict {
        let Some(asked) = self.asked[place(question)].take() else {
            return Ok(());
        };
        let generation = asked.question.generation();
        let done = asked.question.release();
        self.check(
            asked.key.as_key(),
            &Call::GiveUp { generation },
            &answer_to_unit(&done),
        )
    }
}
