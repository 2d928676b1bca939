//! The ledger: an append-only file with a line per charge, the truth that is counted at the end.
//!
//! It knows orders and amounts and nothing of keys, and books whatever it is told to, twice if it
//! is told twice. What was booked stays booked when the server dies.

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::files::{Lines, read_lines};

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) charge: u64,
    pub(crate) order: u64,
    pub(crate) amount: u64,
}

/// The ledger, open for booking.
pub(crate) struct Ledger(Mutex<Book>);

struct Book {
    lines: Lines,
    charges: u64,
    first_by_order: HashMap<u64, Entry>,
}

impl Ledger {
    /// Opens the ledger at `path`, with what is already in it, or begins it.
    pub(crate) fn open(path: &Path) -> io::Result<Ledger> {
        let mut book = Book {
            lines: Lines::open(path)?,
            charges: 0,
            first_by_order: HashMap::new(),
        };
        for entry in read(path)? {
            book.remember(entry);
        }
        Ok(Ledger(Mutex::new(book)))
    }

    /// Books a charge.
    pub(crate) fn append(&self, order: u64, amount: u64) -> io::Result<Entry> {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Entry {
            charge: book.charges + 1,
            order,
            amount,
        };
        book.lines.add(&entry)?;
        book.remember(entry.clone());
        Ok(entry)
    }

    /// The first charge booked for `order`.
    pub(crate) fn find(&self, order: u64) -> Option<Entry> {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        book.first_by_order.get(&order).cloned()
    }
}

impl Book {
    fn remember(&mut self, entry: Entry) {
        self.charges += 1;
        self.first_by_order.entry(entry.order).or_insert(entry);
    }
}

/// Every line of the ledger at `path`, in the order of booking.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Entry>> {
    read_lines(path, parse)
}

impl Display for Entry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ch_{} {} {}", self.charge, self.order, self.amount)
    }
}

fn parse(line: &str) -> Option<Entry> {
    let mut fields = line.split(' ');
    let charge = fields.next()?.strip_prefix("ch_")?.parse().ok()?;
    let order = fields.next()?.parse().ok()?;
    let amount = fields.next()?.parse().ok()?;
    fields.next().is_none().then_some(Entry {
        charge,
        order,
        amount,
    })
}
