//! The server as a process of its own: the same program, started with another first argument.
//!
//! The two processes share the files and nothing else. The server says hello with one line on its
//! stdout. Its stdin is a pipe that is never written to: when the other end is closed, by a wish to
//! stop or because whoever held it is dead, the server finishes its work and ends. Whatever becomes
//! of this process, that one is not left behind.

use std::env;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use crate::args;
use crate::server::{Server, Setup};
use crate::wire::Hello;

/// How often a process that should end is looked at.
const TICK: Duration = Duration::from_millis(1);

/// How long a server may take to stop. Its own time limits are shorter.
const PATIENCE: Duration = Duration::from_secs(15);

/// A server in a process of its own. Dropped, it is killed.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a server and waits until it listens.
    pub(crate) async fn start(setup: &Setup) -> Result<(Process, Hello), Box<dyn Error>> {
        let child = Command::new(env::current_exe()?)
            .args(args::to_serve(setup))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut process = Process(child.map_err(|error| format!("cannot start a server: {error}"))?);
        let stdout = process.0.stdout.take();
        let hello = spawn_blocking(|| stdout.and_then(listen_for_hello)).await?;
        match hello {
            Some(hello) => Ok((process, hello)),
            // It has said why, on the stderr of both.
            None => Err("the server did not start".into()),
        }
    }

    /// Ends it with SIGKILL, and returns when it is gone.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.0.kill()?;
        self.ended().await.map(drop)
    }

    /// An error if it ended without being asked to.
    pub(crate) fn must_be_alive(&mut self) -> Result<(), Box<dyn Error>> {
        match self.0.try_wait()? {
            Some(status) => Err(format!("the server ended by itself: {status}").into()),
            None => Ok(()),
        }
    }

    /// Lets it finish its work, and returns when it is gone.
    pub(crate) async fn stop(mut self) -> Result<(), Box<dyn Error>> {
        drop(self.0.stdin.take());
        let ended = timeout(PATIENCE, self.ended()).await;
        match ended.map_err(|_elapsed| "the server did not stop")??.success() {
            true => Ok(()),
            // It has said why, on the stderr of both.
            false => Err("the server did not stop in order".into()),
        }
    }

    async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            match self.0.try_wait()? {
                Some(status) => return Ok(status),
                None => sleep(TICK).await,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both do nothing to a process that has ended and was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The first line, if it comes: a process that ends closes its stdout.
fn listen_for_hello(stdout: ChildStdout) -> Option<Hello> {
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

/// The other side: serves until stdin is closed.
#[tokio::main]
pub(crate) async fn serve(setup: &Setup) -> Result<(), Box<dyn Error>> {
    // Ctrl-C reaches every process at the terminal. This one waits for what the other makes of it.
    tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
    let server = Server::start(setup).await?;
    say_hello(&server)?;
    spawn_blocking(|| io::copy(&mut io::stdin(), &mut io::sink())).await??;
    server.stop().await
}

fn say_hello(server: &Server) -> Result<(), Box<dyn Error>> {
    let hello = Hello {
        address: server.address(),
        recovered: server.recovered(),
    };
    let mut stdout = io::stdout();
    writeln!(stdout, "{}", serde_json::to_string(&hello)?)?;
    Ok(stdout.flush()?)
}
