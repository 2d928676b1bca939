//! Where the server runs: in this process, or in one of its own that is killed now and then.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::sleep;

use crate::args::Args;
use crate::client::Crowd;
use crate::files::Files;
use crate::process::Process;
use crate::server::{Server, Setup};
use crate::wire::Recovered;

/// How often the crowd and the server are looked at.
const TICK: Duration = Duration::from_millis(1);

/// A running server, wherever it is.
pub(crate) enum Host {
    Here(Server),
    Apart(Apart),
}

/// A server in a process of its own, and in another each time it was killed.
pub(crate) struct Apart {
    /// The port is the one it had from the first: customers know no other.
    setup: Setup,
    process: Process,
    address: SocketAddr,
    restarts: Vec<Restart>,
}

/// A kill survived: what the next process found in the log, if the server keeps one.
pub(crate) type Restart = Option<Recovered>;

impl Host {
    /// Starts a server. One that is going to be killed keeps a log.
    pub(crate) async fn start(args: &Args, files: Files) -> Result<Host, Box<dyn Error>> {
        let killed = args.kills > 0;
        let setup = Setup {
            files,
            log: killed,
            port: 0,
            protected: args.protected,
        };
        match killed {
            true => Apart::start(setup).await.map(Host::Apart),
            false => Server::start(&setup).await.map(Host::Here),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        match self {
            Host::Here(server) => server.address(),
            Host::Apart(server) => server.address,
        }
    }

    /// Watches over the server until the crowd has paid, and kills it each time that so many
    /// orders are done with as `kills` says.
    pub(crate) async fn attend(&mut self, crowd: &Crowd, kills: &[u64]) -> Result<(), Box<dyn Error>> {
        match self {
            Host::Here(_) => Ok(()),
            Host::Apart(server) => server.attend(crowd, kills).await,
        }
    }

    /// Stops the server for good, and tells how it came back each time it was killed.
    pub(crate) async fn stop(self) -> Result<Vec<Restart>, Box<dyn Error>> {
        match self {
            Host::Here(server) => server.stop().await.map(|()| Vec::new()),
            Host::Apart(server) => {
                server.process.stop().await?;
                Ok(server.restarts)
            }
        }
    }
}

impl Apart {
    async fn start(mut setup: Setup) -> Result<Apart, Box<dyn Error>> {
        let (process, hello) = Process::start(&setup).await?;
        setup.port = hello.address.port();
        Ok(Apart {
            setup,
            process,
            address: hello.address,
            restarts: Vec::new(),
        })
    }

    async fn attend(&mut self, crowd: &Crowd, kills: &[u64]) -> Result<(), Box<dyn Error>> {
        let mut kills = kills.iter().peekable();
        while crowd.is_paying() {
            self.process.must_be_alive()?;
            if kills.next_if(|&&at| at <= crowd.done()).is_some() {
                self.kill_and_restart().await?;
            }
            sleep(TICK).await;
        }
        Ok(())
    }

    async fn kill_and_restart(&mut self) -> Result<(), Box<dyn Error>> {
        self.process.kill().await?;
        let (process, hello) = Process::start(&self.setup).await?;
        self.process = process;
        self.restarts.push(hello.recovered);
        Ok(())
    }
}
