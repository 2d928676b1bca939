//! Group commit in front of a database: changes that come while a transaction runs share the next.

use super::{Op, Peer};
use crate::common::Id;
use parking_lot::{Condvar, Mutex};

pub(crate) struct Batching<'p, P> {
    peer: &'p P,
    queue: Mutex<Queue>,
    turn: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Op>,
    /// The number of the batch that is being gathered; the ones before it have begun.
    gathering: u64,
    /// Batches below this are done.
    done: u64,
    leading: bool,
}

impl<'p, P: Peer> Batching<'p, P> {
    pub(crate) fn new(peer: &'p P) -> Self {
        Batching {
            peer,
            queue: Mutex::default(),
            turn: Condvar::new(),
        }
    }

    pub(crate) fn cycle(&self, id: &Id) {
        self.change(Op::Claim(*id));
        self.change(Op::Complete(*id));
    }

    /// Returns when the change is done. All changes in these workloads win; one that does not
    /// panics in whoever leads, and nothing is measured.
    fn change(&self, op: Op) {
        let mut queue = self.queue.lock();
        queue.waiting.push(op);
        let mine = queue.gathering;
        while queue.done <= mine {
            if queue.leading {
                self.turn.wait(&mut queue);
                continue;
            }
            queue.leading = true;
            queue.gathering += 1;
            let batch = std::mem::take(&mut queue.waiting);
            let upto = queue.gathering;
            drop(queue);
            let won = self.peer.apply(&batch);
            assert!(won.iter().all(|won| *won), "the keys are new");
            queue = self.queue.lock();
            queue.leading = false;
            queue.done = upto;
            self.turn.notify_all();
        }
    }
}
