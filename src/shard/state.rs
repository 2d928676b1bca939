//! The states of a key and what each call does to them: one pure function, [`decide`], that
//! reads like the table in the contract.
//!
//! | state \ call | claim, same fingerprint | claim, other | complete(g) | release(g) | checkpoint(g) | renew(g) | guard dropped |
//! |---|---|---|---|---|---|---|---|
//! | absent | acquire | – | lost | lost | lost | lost | nothing |
//! | in flight {g} | in flight | mismatch | finish | vacate | note | extend | interrupt |
//! | interrupted {g} | interrupted | mismatch | finish | vacate | note | extend | interrupt |
//! | completed {g} | replay | mismatch | repeat | lost | lost | lost | nothing |
//!
//! Time moves a key by itself: in flight becomes interrupted when the lease ends, interrupted
//! becomes absent `ttl` after that, completed becomes absent at its deadline. [`State::phase`]
//! says so by comparing deadlines with `now`; no timer is needed for any answer.

use crate::clock::Tick;
use crate::fingerprint::Fingerprint;
use crate::status::Cause;

/// What the store holds under a key, as it was last written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Absent,
    /// Claimed and not finished.
    Open {
        generation: u64,
        fingerprint: Fingerprint,
        lease_end: Tick,
        /// When an unfinished claim is forgotten.
        forget_at: Tick,
        /// Set when something other than time interrupted the claim.
        cause: Option<Cause>,
    },
    Completed {
        generation: u64,
        fingerprint: Fingerprint,
        deadline: Tick,
    },
}

/// What a key is at a given time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    Absent,
    InFlight { generation: u64 },
    Interrupted { generation: u64, cause: Cause },
    Completed { generation: u64 },
}

impl State {
    #[inline(always)]
    pub(crate) fn phase(&self, now: Tick) -> Phase {
        match *self {
            State::Absent => Phase::Absent,
            State::Open { forget_at, .. } if now >= forget_at => Phase::Absent,
            State::Open {
                generation,
                cause: Some(cause),
                ..
            } => Phase::Interrupted { generation, cause },
            State::Open {
                generation,
                lease_end,
                ..
            } if now >= lease_end => Phase::Interrupted {
                generation,
                cause: Cause::Lapsed,
            },
            State::Open { generation, .. } => Phase::InFlight { generation },
            State::Completed { deadline, .. } if now >= deadline => Phase::Absent,
            State::Completed { generation, .. } => Phase::Completed { generation },
        }
    }

    fn fingerprint(&self) -> Option<Fingerprint> {
        match *self {
            State::Absent => None,
            State::Open { fingerprint, .. } | State::Completed { fingerprint, .. } => Some(fingerprint),
        }
    }
}

/// What a caller wishes. A number is the generation the caller holds or has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Command {
    Claim(Fingerprint),
    FirstSeen,
    /// By the holder of the guard.
    Complete(u64),
    Release(u64),
    Checkpoint(u64),
    Renew(u64),
    GuardDropped(u64),
    /// By someone who was told `Interrupted`: resume, resolve or release.
    TakeOver(u64),
    /// By a token: the claim goes on under a new generation. The fingerprint makes sure that a
    /// key completed since for another request is not taken for this one.
    Attach(u64, Fingerprint),
    /// By an operator who saw that generation.
    Settle(u64),
    Forget,
}

/// What happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Decision {
    /// A new claim under a new generation.
    Acquire,
    InFlight,
    Interrupted(Cause),
    Mismatch,
    /// The stored outcome is given back.
    Replay,
    /// The outcome is stored.
    Finish,
    /// The same holder completed before: fine if bytes and tag are equal.
    Repeat,
    /// The key becomes absent.
    Vacate,
    /// The checkpoint is stored; the state stays.
    Note,
    /// A new lease; the key is in flight.
    Extend,
    /// The key is interrupted.
    Interrupt,
    /// The asker gets the claim under a larger generation.
    Succeed,
    /// `first_seen` has nothing to say about a claimed key.
    InUse,
    /// The caller's generation holds nothing; nothing changes.
    Lost,
    /// There is nothing to do.
    Nothing,
}

/// The state machine. Pure: what it is, what is wished, and the time.
// Always inlined: where the state or the command is known, most of it goes.
#[inline(always)]
pub(crate) fn decide(state: &State, command: Command, now: Tick) -> Decision {
    use Decision as D;
    let phase = state.phase(now);
    match command {
        // The fingerprint is checked before the state: another body is a mismatch even while
        // the first one runs.
        Command::Claim(theirs) => match phase {
            Phase::Absent => D::Acquire,
            _ if state.fingerprint() != Some(theirs) => D::Mismatch,
            Phase::InFlight { .. } => D::InFlight,
            Phase::Interrupted { cause, .. } => D::Interrupted(cause),
            Phase::Completed { .. } => D::Replay,
        },
        Command::FirstSeen => match phase {
            Phase::Absent => D::Acquire,
            Phase::InFlight { .. } | Phase::Interrupted { .. } => D::InUse,
            Phase::Completed { .. } => D::Replay,
        },
        Command::Complete(mine) => match phase {
            Phase::Completed { generation } if generation == mine => D::Repeat,
            _ => if_held(phase, mine, D::Finish),
        },
        Command::Release(mine) => if_held(phase, mine, D::Vacate),
        Command::Checkpoint(mine) => if_held(phase, mine, D::Note),
        Command::Renew(mine) => if_held(phase, mine, D::Extend),
        Command::GuardDropped(mine) => match if_held(phase, mine, D::Interrupt) {
            D::Lost => D::Nothing,
            decision => decision,
        },
        // A compare-and-set on the generation and on still being interrupted.
        Command::TakeOver(seen) => match phase {
            Phase::Interrupted { generation, .. } if generation == seen => D::Succeed,
            _ => D::Lost,
        },
        Command::Attach(mine, theirs) => match phase {
            Phase::Completed { .. } if state.fingerprint() == Some(theirs) => D::Replay,
            _ => if_held(phase, mine, D::Succeed),
        },
        Command::Settle(seen) => if_held(phase, seen, D::Succeed),
        Command::Forget => match phase {
            Phase::Absent => D::Nothing,
            _ => D::Vacate,
        },
    }
}

/// `then`, if the claim is unfinished and still at this generation.
fn if_held(phase: Phase, mine: u64, then: Decision) -> Decision {
    match phase {
        Phase::InFlight { generation } | Phase::Interrupted { generation, .. }
            if generation == mine || cfg!(onceonly_sabotage = "skip_generation") =>
        {
            then
        }
        _ => Decision::Lost,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Tick = Tick(100);
    const MINE: Fingerprint = Fingerprint::NONE;
    const OTHER: Fingerprint = Fingerprint::from_bytes([1; 16]);
    const G: u64 = 7;

    fn open(lease_end: u64, cause: Option<Cause>) -> State {
        State::Open {
            generation: G,
            fingerprint: MINE,
            lease_end: Tick(lease_end),
            forget_at: Tick(1_000),
            cause,
        }
    }

    fn completed(deadline: u64) -> State {
        State::Completed {
            generation: G,
            fingerprint: MINE,
            deadline: Tick(deadline),
        }
    }

    /// The contract's table, row by row.
    #[test]
    fn decides_as_the_table_says() {
        use Command as C;
        use Decision as D;
        let absent = State::Absent;
        let in_flight = open(200, None);
        let dropped = open(200, Some(Cause::Dropped));
        let lapsed = open(100, None);
        let done = completed(200);
        let row = |state: State| {
            [
                C::Claim(MINE),
                C::Claim(OTHER),
                C::Complete(G),
                C::Release(G),
                C::Checkpoint(G),
                C::Renew(G),
                C::GuardDropped(G),
                C::TakeOver(G),
                C::Attach(G, MINE),
                C::Settle(G),
                C::Forget,
                C::FirstSeen,
            ]
            .map(|command| decide(&state, command, NOW))
        };
        use D::*;
        #[rustfmt::skip]
        let table = [
            (absent,    [Acquire, Acquire, Lost, Lost, Lost, Lost, Nothing, Lost, Lost, Lost, Nothing, Acquire]),
            (in_flight, [InFlight, Mismatch, Finish, Vacate, Note, Extend, Interrupt, Lost, Succeed, Succeed, Vacate, InUse]),
            (dropped,   [Interrupted(Cause::Dropped), Mismatch, Finish, Vacate, Note, Extend, Interrupt, Succeed, Succeed, Succeed, Vacate, InUse]),
            (lapsed,    [Interrupted(Cause::Lapsed), Mismatch, Finish, Vacate, Note, Extend, Interrupt, Succeed, Succeed, Succeed, Vacate, InUse]),
            (done,      [Replay, Mismatch, Repeat, Lost, Lost, Lost, Nothing, Lost, Replay, Lost, Vacate, Replay]),
        ];
        for (state, expected) in table {
            assert_eq!(row(state), expected, "{state:?}");
        }
    }

    /// Fencing: at any other generation, nothing a holder says has an effect.
    #[test]
    fn an_old_generation_changes_nothing() {
        use Command as C;
        for state in [State::Absent, open(200, None), open(1, None), completed(200)] {
            for g in [G - 1, G + 1] {
                for command in [
                    C::Complete(g),
                    C::Release(g),
                    C::Checkpoint(g),
                    C::Renew(g),
                    C::TakeOver(g),
                    C::Attach(g, OTHER),
                    C::Settle(g),
                ] {
                    assert_eq!(
                        decide(&state, command, NOW),
                        Decision::Lost,
                        "{state:?} {command:?}"
                    );
                }
                assert_eq!(decide(&state, C::GuardDropped(g), NOW), Decision::Nothing);
            }
        }
    }

    #[test]
    fn deadlines_are_exact() {
        assert_eq!(completed(101).phase(NOW), Phase::Completed { generation: G });
        assert_eq!(completed(100).phase(NOW), Phase::Absent);
        assert_eq!(open(101, None).phase(NOW), Phase::InFlight { generation: G });
        assert!(matches!(open(100, None).phase(NOW), Phase::Interrupted { .. }));
        assert_eq!(open(5, None).phase(Tick(1_000)), Phase::Absent);
        assert_eq!(open(5, Some(Cause::Dropped)).phase(Tick(1_000)), Phase::Absent);
    }

    /// An expired outcome does not answer, whatever the fingerprint.
    #[test]
    fn what_is_past_its_time_counts_as_absent() {
        assert_eq!(
            decide(&completed(100), Command::Claim(OTHER), NOW),
            Decision::Acquire
        );
        assert_eq!(decide(&completed(100), Command::Complete(G), NOW), Decision::Lost);
        assert_eq!(decide(&completed(100), Command::Forget, NOW), Decision::Nothing);
    }
}
