//! fjall: a log-structured tree. Each write is in the system's hands when it returns; syncs are
//! asked for. A claim must read before it writes: a stripe of locks makes that atomic at less cost
//! than its transactions.

use super::{Mode, Op, Peer, Record, now};
use crate::common::{Hands, Id};
use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use parking_lot::{Mutex, MutexGuard};
use std::path::Path;

const STRIPES: usize = 256;

pub(crate) struct Fjall {
    db: Database,
    table: Keyspace,
    stripes: Vec<Mutex<()>>,
    mode: Mode,
}

impl Fjall {
    fn lock(&self, id: &Id) -> MutexGuard<'_, ()> {
        self.stripes[id[0] as usize % STRIPES].lock()
    }

    /// Is nobody at the key, and no outcome there?
    fn free(&self, id: &Id) -> bool {
        let held = self.table.get(id).expect("it reads");
        held.is_none_or(|record| Record::until(&record) <= now())
    }

    fn one(&self, op: &Op) -> bool {
        match op {
            Op::Claim(id) => {
                let _lock = self.lock(id);
                let free = self.free(id);
                if free {
                    self.table.insert(id, Record::pending()).expect("it writes");
                }
                free
            }
            Op::Complete(id) => {
                let _lock = self.lock(id);
                self.table.insert(id, Record::done(id)).expect("it writes");
                true
            }
        }
    }

    /// One batch; only one caller at a time makes batches, and nobody makes single changes then.
    fn many(&self, ops: &[Op]) -> Vec<bool> {
        let mut batch = self.db.batch();
        let won = ops
            .iter()
            .map(|op| match op {
                Op::Claim(id) => {
                    let free = self.free(id);
                    if free {
                        batch.insert(&self.table, *id, Record::pending());
                    }
                    free
                }
                Op::Complete(id) => {
                    batch.insert(&self.table, *id, Record::done(id));
                    true
                }
            })
            .collect();
        batch.commit().expect("it commits");
        won
    }
}

impl Peer for Fjall {
    const NAME: &'static str = "fjall";

    fn open(dir: &Path, mode: Mode, _keys: u64, _clock: Option<Hands>) -> Self {
        // The cache holds what the workloads hold, as the page cache does for the others.
        let db = Database::builder(dir)
            .cache_size(1 << 30)
            .open()
            .expect("the directory is ours");
        let table = db
            .keyspace("keys", KeyspaceCreateOptions::default)
            .expect("a table");
        Fjall {
            db,
            table,
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            mode,
        }
    }

    fn apply(&self, ops: &[Op]) -> Vec<bool> {
        let won = match ops {
            [op] => vec![self.one(op)],
            _ => self.many(ops),
        };
        if ops.iter().any(|op| self.mode.syncs(op)) {
            self.sync();
        }
        won
    }

    fn replay<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let record = self.table.get(id).expect("it reads")?;
        Record::outcome(&record, now()).map(read)
    }

    fn sync(&self) {
        self.db.persist(PersistMode::SyncData).expect("the disk syncs");
    }

    fn sweep(&self, now: u64) -> bool {
        let mut batch = self.db.batch();
        for entry in self.table.iter() {
            let (key, record) = entry.into_inner().expect("it reads");
            if Record::until(&record) <= now {
                batch.remove(&self.table, key);
            }
            if batch.len() == 10_000 {
                std::mem::replace(&mut batch, self.db.batch())
                    .commit()
                    .expect("it commits");
            }
        }
        batch.commit().expect("it commits");
        true
    }
}
