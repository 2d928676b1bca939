//! redb: a copy-on-write tree, one writer at a time.
//!
//! Its `Durability::None` does not survive the process. What does, and syncs nothing, is an ordinary
//! commit on a file whose sync does nothing: the pages are the system's by then. So the file here
//! can be told not to sync.

use super::{Mode, Op, Peer, Record, now};
use crate::common::{Hands, Id};
use ::redb::backends::FileBackend;
use ::redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction};
use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const TABLE: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("keys");

pub(crate) struct Redb {
    db: Database,
    mode: Mode,
    /// Changed inside a write transaction only, of which there is one at a time.
    syncing: Arc<AtomicBool>,
}

/// A file that syncs when it is told to.
#[derive(Debug)]
struct Lenient {
    file: FileBackend,
    syncing: Arc<AtomicBool>,
}

impl StorageBackend for Lenient {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.syncing.load(Ordering::Relaxed) {
            self.file.sync_data()?;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

impl Redb {
    fn begin(&self, syncing: bool) -> WriteTransaction {
        let txn = self.db.begin_write().expect("a transaction");
        self.syncing.store(syncing, Ordering::Relaxed);
        txn
    }
}

impl Peer for Redb {
    const NAME: &'static str = "redb";

    fn open(dir: &Path, mode: Mode, _keys: u64, _clock: Option<Hands>) -> Self {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(dir.join("keys.redb"))
            .expect("the directory is ours");
        let syncing = Arc::new(AtomicBool::new(mode != Mode::Process));
        let file = Lenient {
            file: FileBackend::new(file).expect("the file is ours"),
            syncing: syncing.clone(),
        };
        let db = Database::builder()
            .set_cache_size(1 << 30)
            .create_with_backend(file)
            .expect("the file is ours");
        let this = Redb { db, mode, syncing };
        let txn = this.begin(mode != Mode::Process);
        txn.open_table(TABLE).expect("a table");
        txn.commit().expect("it commits");
        this
    }

    fn apply(&self, ops: &[Op]) -> Vec<bool> {
        let txn = self.begin(ops.iter().any(|op| self.mode.syncs(op)));
        let mut table = txn.open_table(TABLE).expect("a table");
        let won = ops
            .iter()
            .map(|op| match op {
                Op::Claim(id) => {
                    let held = table.get(id).expect("it reads");
                    let free = held.is_none_or(|record| Record::until(record.value()) <= now());
                    if free {
                        table.insert(id, &Record::pending()[..]).expect("it writes");
                    }
                    free
                }
                Op::Complete(id) => {
                    table.insert(id, &Record::done(id)[..]).expect("it writes");
                    true
                }
            })
            .collect();
        drop(table);
        txn.commit().expect("it commits");
        won
    }

    fn replay<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let txn = self.db.begin_read().expect("a transaction");
        let table = txn.open_table(TABLE).expect("a table");
        let record = table.get(id).expect("it reads")?;
        Record::outcome(record.value(), now()).map(read)
    }

    fn sync(&self) {
        let txn = self.begin(true);
        txn.commit().expect("it commits");
    }

    fn sweep(&self, now: u64) -> bool {
        let txn = self.begin(false);
        let mut table = txn.open_table(TABLE).expect("a table");
        table
            .retain(|_, record| Record::until(record) > now)
            .expect("it deletes");
        drop(table);
        txn.commit().expect("it commits");
        true
    }
}
