//! The files of a run, all in one directory, and how those are written that consist of lines.
//!
//! A line that was added stays when the process dies, and it stays whole.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Names within one directory.
#[derive(Clone)]
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn within(dir: impl Into<PathBuf>) -> Files {
        Files(dir.into())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    /// The charges that were made.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.0.join("ledger")
    }

    /// The claims that were settled by the ledger.
    pub(crate) fn settlements(&self) -> PathBuf {
        self.0.join("settlements")
    }

    /// A directory for the store, should it keep a log.
    pub(crate) fn store(&self) -> PathBuf {
        self.0.join("store")
    }
}

/// Lines are filled up with spaces to this length. A kill may cut a write in two where it crosses
/// a page of the file; a line of this length crosses none.
const LENGTH: usize = 64;

/// A file of lines, open for adding to it.
pub(crate) struct Lines(File);

impl Lines {
    pub(crate) fn open(path: &Path) -> io::Result<Lines> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.map(Lines).map_err(|error| at(path, error))
    }

    /// Adds a line, in one write.
    pub(crate) fn add(&self, line: impl Display) -> io::Result<()> {
        let line = format!("{:<width$}\n", line.to_string(), width = LENGTH - 1);
        (&self.0).write_all(line.as_bytes())
    }
}

/// Every line of the file at `path`, from the first to the last.
pub(crate) fn read_lines<T>(path: &Path, parse: impl Fn(&str) -> Option<T>) -> io::Result<Vec<T>> {
    let text = std::fs::read_to_string(path).map_err(|error| at(path, error))?;
    let lines = text.lines().map(|line| {
        parse(line.trim_end()).ok_or_else(|| {
            let complaint = format!("{}: not a line of this file: {line}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, complaint)
        })
    });
    lines.collect()
}

fn at(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
