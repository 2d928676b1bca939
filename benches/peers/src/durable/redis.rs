//! Redis on loopback: `SET .. NX` claims, `SET` completes, each a round trip; a connection for each
//! thread that is at it. With an append-only file it survives its own end: every write is the
//! system's before it is answered (`appendfsync no`), or the device's (`always`). Outcomes alone
//! cannot be synced.
//!
//! The server is started by the measurement and killed with it. Without `redis-server` it is left
//! out, and the results say so.

use super::{Mode, Op, Peer};
use crate::common::{Hands, Id, outcome};
use ::redis::{Client, Commands, Connection};
use parking_lot::Mutex;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) struct Redis {
    server: Server,
    client: Client,
    idle: Mutex<Vec<Connection>>,
}

/// Killed when it is dropped: what it wrote is what counts.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path, mode: Mode, port: u16) -> Server {
    let fsync = if mode == Mode::Both { "always" } else { "no" };
    let child = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string()])
        .args(["--appendonly", "yes", "--appendfsync", fsync, "--save", ""])
        .arg("--dir")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    Server(child.expect("redis-server starts"))
}

/// Waits until it listens and has read its file.
fn connect(client: &Client) -> Connection {
    let until = Instant::now() + Duration::from_secs(120);
    loop {
        let connection = client.get_connection();
        let ready = connection.and_then(|mut c| c.ping::<String>().map(|_| c));
        match ready {
            Ok(connection) => return connection,
            Err(error) if Instant::now() > until => panic!("redis-server does not answer: {error}"),
            // It tells nobody when it is ready. Short, for reopening is measured with it.
            Err(_) => thread::sleep(Duration::from_micros(500)),
        }
    }
}

impl Redis {
    fn with<R>(&self, work: impl FnOnce(&mut Connection) -> R) -> R {
        let connection = self.idle.lock().pop();
        let mut connection = connection.unwrap_or_else(|| connect(&self.client));
        let result = work(&mut connection);
        self.idle.lock().push(connection);
        result
    }
}

/// Adds a change to a pipeline.
fn command<'p>(pipe: &'p mut ::redis::Pipeline, op: &Op) -> &'p mut ::redis::Pipeline {
    match op {
        Op::Claim(id) => pipe
            .cmd("SET")
            .arg(id)
            .arg("P")
            .arg("NX")
            .arg("PX")
            .arg(super::TTL),
        Op::Complete(id) => pipe
            .cmd("SET")
            .arg(id)
            .arg(&outcome(id))
            .arg("PX")
            .arg(super::TTL),
    }
}

impl Peer for Redis {
    const NAME: &'static str = "Redis";
    /// It syncs once for all that came meanwhile.
    const WANTS_BATCHING: bool = false;

    fn able(mode: Mode) -> Result<(), String> {
        if mode == Mode::Outcomes {
            return Err("it syncs all or nothing".into());
        }
        let version = Command::new("redis-server").arg("--version").output();
        version
            .map(|_| ())
            .map_err(|error| format!("redis-server is not installed ({error})"))
    }

    fn open(dir: &Path, mode: Mode, _keys: u64, _clock: Option<Hands>) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = port.expect("a port is free").port();
        let server = start(dir, mode, port);
        let client = Client::open(format!("redis://127.0.0.1:{port}/")).expect("an address");
        let first = connect(&client);
        Redis {
            server,
            client,
            idle: Mutex::new(vec![first]),
        }
    }

    fn apply(&self, ops: &[Op]) -> Vec<bool> {
        let mut pipe = ::redis::pipe();
        ops.iter().for_each(|op| {
            command(&mut pipe, op);
        });
        let answers: Vec<Option<String>> = self.with(|c| pipe.query(c)).expect("it answers");
        answers.iter().map(Option::is_some).collect()
    }

    fn replay<R>(&self, id: &Id, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let bytes: Option<Vec<u8>> = self.with(|c| c.get(id)).expect("it answers");
        bytes.filter(|bytes| *bytes != b"P").map(|bytes| read(&bytes))
    }

    fn sync(&self) {
        // There is no such call; what is in the file is what is measured.
    }

    fn sweep(&self, _now: u64) -> bool {
        false
    }

    fn writer(&self) -> u32 {
        self.server.0.id()
    }

    fn crash(self) -> ! {
        drop(self);
        std::process::exit(0)
    }
}
