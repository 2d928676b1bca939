//! SQLite by rusqlite, bundled: write-ahead log, a connection for each thread that is at it.
//!
//! `synchronous=OFF` where nothing is to be synced (it survives the process; a power cut may damage
//! the file), `FULL` where it is. Where outcomes alone are synced each thread has a connection of
//! both kinds: a `FULL` commit syncs the log with all that lies before it.

use super::{Mode, Op, Peer, now};
use crate::common::{Hands, Id};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) struct Sqlite {
    file: PathBuf,
    mode: Mode,
    /// Connections nobody is using: without syncs, and with.
    idle: [Mutex<Vec<Connection>>; 2],
}

impl Sqlite {
    fn connect(&self, syncs: bool) -> Connection {
        let db = Connection::open(&self.file).expect("the file is ours");
        db.busy_timeout(Duration::from_secs(60)).expect("an option");
        db.set_prepared_statement_cache_capacity(16);
        let level = if syncs { "FULL" } else { "OFF" };
        let options = format!(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous={level}; PRAGMA cache_size=-262144; PRAGMA mmap_size=2147483648;"
        );
        db.execute_batch(&options).expect("the options are good");
        db
    }

    fn with<R>(&self, syncs: bool, work: impl FnOnce(&mut Connection) -> R) -> R {
        let idle = &self.idle[usize::from(syncs)];
        let connection = idle.lock().pop();
        let mut connection = connection.unwrap_or_else(|| self.connect(syncs));
        let result = work(&mut connection);
        idle.lock().push(connection);
        result
    }
}

/// One change in whatever transaction is open, or in its own.
fn change(db: &Connection, op: &Op) -> bool {
    const CLAIM: &str = "INSERT INTO keys VALUES (?1, ?2, NULL) ON CONFLICT DO UPDATE \
        SET until = excluded.until, record = NULL WHERE until <= ?3";
    const COMPLETE: &str = "UPDATE keys SET until = ?2, record = ?3 WHERE id = ?1";
    let changed = match op {
        Op::Claim(id) => {
            let now = now();
            let mut claim = db.prepare_cached(CLAIM).expect("a statement");
            claim.execute(params![id, (now + super::TTL) as i64, now as i64])
        }
        Op::Complete(id) => {
            let until = (now() + super::TTL) as i64;
            let mut complete = db.prepare_cached(COMPLETE).expect("a statement");
            complete.execute(params![id, until, crate::common::outcome(id)])
        }
    };
    changed.expect("it writes") == 1
}

impl Peer for Sqlite {
    const NAME: &'static str = "SQLite";

    fn open(dir: &Path, mode: Mode, _keys: u64, _clock: Option<Hands>) -> Self {
        let this = Sqlite {
            file: dir.join("keys.sqlite"),
            mode,
            idle: Default::default(),
        };
        this.with(mode != Mode::Process, |db| {
            db.execute_batch(
                "CREATE TABLE IF NOT EXISTS keys \
                 (id BLOB PRIMARY KEY, until INTEGER NOT NULL, record BLOB) WITHOUT ROWID",
            )
        })
        .expect("a table");
        this
    }

    fn apply(&self, ops: &[Op]) -> Vec<bool> {
        self.with(ops.iter().any(|op| self.mode.syncs(op)), |db| match ops {
            [op] => vec![change(db, op)],
            _ => {
                let txn = db
                    .transaction_with_behavior(TransactionBehavior::Immediate)
                    .expect("a transaction");
                let won = ops.iter().map(|op| change(&txn, op)).collect();
                txn.commit().expect("it commits");
                won
            }
        })
    }

    fn replay<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        self.with(self.mode != Mode::Process, |db| {
            let mut find = db
                .prepare_cached("SELECT record FROM keys WHERE id = ?1 AND until > ?2 AND record NOT NULL")
                .expect("a statement");
            find.query_row(params![id, now() as i64], |row| {
                Ok(read(row.get_ref(0)?.as_blob().expect("a blob")))
            })
            .optional()
            .expect("it reads")
        })
    }

    fn sync(&self) {
        // Moves the log into the table, and syncs both.
        self.with(true, |db| {
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0))
        })
        .map(|busy| assert_eq!(busy, 0, "nobody else is at it"))
        .expect("the disk syncs");
    }

    fn sweep(&self, now: u64) -> bool {
        self.with(false, |db| {
            db.execute("DELETE FROM keys WHERE until <= ?1", [now as i64])
        })
        .expect("it deletes");
        true
    }
}
