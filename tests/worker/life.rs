//! One life of the program: started, listened to, killed.

use super::{CHILD, Line, Setup};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

type Raw = Vec<(Instant, Vec<u8>)>;

pub(crate) struct Life {
    child: Child,
    first_line: Receiver<()>,
    listener: Option<JoinHandle<Raw>>,
}

impl Life {
    pub(crate) fn start(setup: &Setup) -> Self {
        let setup = serde_json::to_string(setup).expect("a setup is plain data");
        let this = std::env::current_exe().expect("this program has a path");
        let mut child = Command::new(this)
            .args([CHILD, &setup])
            // Open as long as this process lives: the program ends with it.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program can be started again");
        let output = child.stdout.take().expect("it is piped");
        let (told, first_line) = sync_channel(1);
        let listener = std::thread::spawn(move || {
            let mut output = BufReader::with_capacity(1 << 16, output);
            let mut lines = Raw::new();
            let mut line = Vec::new();
            while output.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                lines.push((Instant::now(), std::mem::take(&mut line)));
                let _ = told.try_send(());
            }
            lines
        });
        Life {
            child,
            first_line,
            listener: Some(listener),
        }
    }

    /// Waits until the program has opened the store or failed to, for some seconds.
    pub(crate) fn wait_open(&self) {
        let _ = self.first_line.recv_timeout(Duration::from_secs(20));
    }

    /// Kills the program and gives what it said. `may_fault`: the disk below it is gone, and with
    /// it pages it had mapped.
    pub(crate) fn kill(mut self, may_fault: bool) -> Result<Vec<(Instant, Line)>, String> {
        let _ = self.child.kill();
        let ended = self.child.wait().map_err(|error| error.to_string())?;
        let fits = match ended.signal() {
            Some(libc::SIGKILL) => true,
            Some(libc::SIGBUS) => may_fault,
            _ => false,
        };
        if !fits {
            return Err(format!("the program was not killed but ended by itself: {ended}"));
        }
        let listener = self.listener.take().expect("a life is killed once");
        let raw = listener.join().expect("the listener ends with the pipe");
        let parse = |(at, line): (Instant, Vec<u8>)| {
            let parsed = serde_json::from_slice(&line);
            let torn = |error| format!("a torn line, {error}: {}", line.escape_ascii());
            parsed.map(|line| (at, line)).map_err(torn)
        };
        raw.into_iter().map(parse).collect()
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory of the test's own, removed with all that is in it unless the test fails.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("onceonly-{name}-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("the directory for temporary files takes another");
        TempDir(dir)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// What is in it is wanted to find out what went wrong.
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Copies a store as it is now, to look at should the next open be wrong.
pub(crate) fn copy_store(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let _ = std::fs::create_dir_all(to);
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        let _ = std::fs::copy(entry.path(), to.join(entry.file_name()));
    }
}

/// Waits until the directory of a store that was just let go may be opened again. Its helper may
/// not have ended yet; and a program that is being started, for another directory, holds a copy
/// of everything this process has open, for a moment.
pub(crate) fn wait_unlocked(dir: &Path) -> Result<(), String> {
    let lock = std::fs::File::open(dir.join("LOCK")).map_err(|error| error.to_string())?;
    let until = Instant::now() + Duration::from_secs(20);
    while lock.try_lock().is_err() {
        if Instant::now() > until {
            return Err("the directory stays locked by a store that is gone".into());
        }
        std::thread::yield_now();
    }
    Ok(())
}
