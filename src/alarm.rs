//! Where the helper thread sleeps, and how anyone says when it is wanted.

use crate::clock::Tick;
use crate::sync::{Condvar, Mutex};

struct Wish {
    /// The earliest tick somebody wants the helper at.
    at: Tick,
    rung: bool,
    /// When the helper looks again by itself.
    asleep_until: Tick,
}

pub(crate) struct Alarm {
    wish: Mutex<Wish>,
    changed: Condvar,
}

impl Alarm {
    pub(crate) fn new() -> Self {
        Alarm {
            wish: Mutex::new(Wish {
                at: Tick::NEVER,
                rung: false,
                asleep_until: Tick(0),
            }),
            changed: Condvar::new(),
        }
    }

    /// The helper is wanted at this tick. It is woken only if it would sleep for longer: to wake a
    /// thread can take 20 µs.
    pub(crate) fn wake_by(&self, tick: Tick) {
        let mut wish = self.wish.lock();
        if tick < wish.at {
            wish.at = tick;
            if tick < wish.asleep_until {
                self.changed.notify_one();
            }
        }
    }

    /// The helper is wanted now.
    pub(crate) fn ring(&self) {
        self.wish.lock().rung = true;
        self.changed.notify_one();
    }

    /// The helper begins to see to what was wished for by now. What is wished for from here on is
    /// there when it goes to sleep.
    pub(crate) fn attend(&self, now: Tick) {
        let mut wish = self.wish.lock();
        if wish.at <= now {
            wish.at = Tick::NEVER;
        }
    }

    /// Sleeps until rung or wanted, or until `until` at the latest. May return early.
    pub(crate) fn sleep(&self, now: Tick, until: Tick) {
        let mut wish = self.wish.lock();
        let until = until.min(wish.at);
        wish.asleep_until = until;
        if !wish.rung && until > now {
            self.changed.wait_for(&mut wish, until.since(now));
        }
        wish.rung = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_that_comes_while_the_helper_works_is_there_when_it_goes_to_sleep() {
        let alarm = Alarm::new();
        alarm.wake_by(Tick(5));
        alarm.attend(Tick(6));
        alarm.wake_by(Tick(7));
        assert_eq!(alarm.wish.lock().at, Tick(7));
        // Its time has come: this returns at once. An earlier wish stays until it is attended to.
        alarm.sleep(Tick(7), Tick::NEVER);
        assert_eq!(alarm.wish.lock().asleep_until, Tick(7));
        alarm.wake_by(Tick(9));
        assert_eq!(alarm.wish.lock().at, Tick(7));
    }
}
