//! LMDB by heed: one writer at a time, readers see the map.
//!
//! Without syncs it writes through its map (`WRITE_MAP` and `NO_SYNC`), which survives the process;
//! after a power cut the file may be damaged. Where outcomes alone are synced, claims commit with
//! `NO_SYNC` and each outcome is followed by a sync of the whole file.

use super::{Mode, Op, Peer, Record, now};
use crate::common::{Hands, Id};
use heed::types::Bytes;
use heed::{CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions};
use std::path::Path;

pub(crate) struct Lmdb {
    env: Env,
    table: Database<'static, Bytes, Bytes>,
    mode: Mode,
}

impl Peer for Lmdb {
    const NAME: &'static str = "LMDB";

    fn open(dir: &Path, mode: Mode, keys: u64, _clock: Option<Hands>) -> Self {
        let mut options = EnvOpenOptions::new();
        // It is to be a multiple of a page.
        let room = (1 << 30) + keys as usize * 1_024;
        options.map_size(room.next_multiple_of(1 << 16)).max_readers(128);
        let flags = match mode {
            Mode::Process => EnvFlags::NO_SYNC | EnvFlags::WRITE_MAP,
            Mode::Outcomes => EnvFlags::NO_SYNC,
            Mode::Both => EnvFlags::empty(),
        };
        // SAFETY: the file is this process's alone; nobody else maps or cuts it. What NO_SYNC risks
        // at a power cut does not happen here.
        let env = unsafe { options.flags(flags).open(dir) }.expect("the directory is ours");
        let txn = env.write_txn().expect("a transaction");
        let table = env
            .create_databases_and_commit(txn, |opener, txn| {
                let table = opener.create_database::<Bytes, Bytes>(txn, None);
                table.map(CommitOrAbort::<_, ()>::Commit)
            })
            .expect("a table")
            .unwrap_commit();
        Lmdb { env, table, mode }
    }

    fn apply(&self, ops: &[Op]) -> Vec<bool> {
        let mut txn = self.env.write_txn().expect("a transaction");
        let won = ops
            .iter()
            .map(|op| match op {
                Op::Claim(id) => {
                    let held = self.table.get(&txn, id).expect("it reads");
                    let free = held.is_none_or(|record| Record::until(record) <= now());
                    if free {
                        self.table
                            .put(&mut txn, id, &Record::pending())
                            .expect("it writes");
                    }
                    free
                }
                Op::Complete(id) => {
                    self.table
                        .put(&mut txn, id, &Record::done(id))
                        .expect("it writes");
                    true
                }
            })
            .collect();
        txn.commit().expect("it commits");
        if self.mode == Mode::Outcomes && ops.iter().any(|op| self.mode.syncs(op)) {
            self.sync();
        }
        won
    }

    fn replay<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let txn = self.env.read_txn().expect("a transaction");
        let record = self.table.get(&txn, id).expect("it reads")?;
        Record::outcome(record, now()).map(read)
    }

    fn sync(&self) {
        self.env.force_sync().expect("the disk syncs");
    }

    fn sweep(&self, now: u64) -> bool {
        let mut txn = self.env.write_txn().expect("a transaction");
        let mut all = self.table.iter_mut(&mut txn).expect("a cursor");
        while let Some(entry) = all.next() {
            let (_, record) = entry.expect("it reads");
            if Record::until(record) <= now {
                // SAFETY: nothing read from the table is kept.
                unsafe { all.del_current() }.expect("it deletes");
            }
        }
        drop(all);
        txn.commit().expect("it commits");
        true
    }
}
