//! Answers of a store in the words of the model.

use super::*;

pub(super) fn place(slot: u8) -> usize {
    usize::from(slot) % SLOTS
}

pub(super) fn differ(what: &str, expected: &str, seen: &dyn Debug) -> Disagreement {
    Disagreement {
        what: what.into(),
        expected: expected.into(),
        seen: format!("{seen:?}"),
    }
}

pub(super) fn expect_refusal(got: &Result<()>, part: &str) -> Verdict {
    match got {
        Err(Error::InvalidInput { what, .. } | Error::TooLarge { what, .. }) if *what == part => Ok(()),
        other => Err(differ(
            "input outside its limits",
            &format!("a refusal of the {part}"),
            other,
        )),
    }
}

pub(super) fn is_a(kind: StateKind, status: &Status) -> bool {
    match status {
        Status::Absent => false,
        Status::InFlight { .. } => kind == StateKind::InFlight,
        Status::Interrupted { .. } => kind == StateKind::Interrupted,
        Status::Completed { .. } => kind == StateKind::Completed,
    }
}

pub(super) fn acquired(guard: &ClaimGuard<'_>) -> Answer {
    Answer::Acquired {
        generation: guard.generation(),
        attempt: guard.attempt(),
        checkpoint: guard.last_checkpoint().map(Bytes::from),
    }
}

pub(super) fn completed(outcome: &Outcome) -> Answer {
    Answer::Completed {
        outcome: Told {
            bytes: outcome.bytes().into(),
            tag: outcome.tag(),
            age: outcome.age(),
            generation: outcome.generation(),
        },
        replayed: outcome.replayed(),
    }
}

pub(super) fn told_in_place(stored: Stored<'_>) -> Told {
    Told {
        bytes: stored.bytes().into(),
        tag: stored.tag(),
        age: stored.age(),
        generation: stored.generation(),
    }
}

/// A claim's answer in the model's words.
pub fn answer_to_claim(claim: &Result<Claim<'_>>) -> Answer {
    match claim {
        Ok(Claim::Acquired(guard)) => acquired(guard),
        Ok(Claim::Completed(outcome)) => completed(outcome),
        Ok(Claim::InFlight(other)) => Answer::InFlight {
            generation: other.generation(),
            retry_after: other.retry_after(),
        },
        Ok(Claim::Interrupted(left)) => Answer::Interrupted {
            generation: left.generation(),
            attempt: left.attempt(),
            cause: left.cause(),
            checkpoint: left.last_checkpoint().map(Bytes::from),
        },
        Ok(Claim::Mismatch(mismatch)) => Answer::Mismatch {
            fingerprint: mismatch.fingerprint(),
            status: mismatch.state(),
        },
        Err(error) => answer_to_error(error),
    }
}

/// The answer of a call that returns nothing, in the model's words.
pub fn answer_to_unit(done: &Result<()>) -> Answer {
    match done {
        Ok(()) => Answer::Done,
        Err(error) => answer_to_error(error),
    }
}

/// The answer of `first_seen` and `forget`, in the model's words.
pub fn answer_to_bool(was: &Result<bool>) -> Answer {
    match was {
        Ok(was) => Answer::Was(*was),
        Err(error) => answer_to_error(error),
    }
}

/// The answer of `status`, in the model's words.
pub fn answer_to_status(status: &Result<Status>) -> Answer {
    match status {
        Ok(status) => Answer::Status(*status),
        Err(error) => answer_to_error(error),
    }
}

/// An error in the model's words.
pub fn answer_to_error(error: &Error) -> Answer {
    match error {
        Error::AtCapacity { .. } => Answer::AtCapacity,
        Error::TooLarge { what, .. } => Answer::TooLarge(what),
        Error::LeaseLost { current } => Answer::Lost(*current),
        Error::InUse { status } => Answer::InUse(*status),
        other => Answer::Unexpected(other.to_string()),
    }
}
