//! A checkout that charges every order once, over a network that loses things.
//!
//! A real HTTP server takes `POST /charges`; a crowd of customers pays through it. Requests and
//! responses vanish, fingers click twice, clients hang up on work that is still running, and some
//! send another amount under a key they have used. The ledger, which knows nothing of keys, is read
//! at the end to see what was really charged.
//!
//! The part to copy is `server/once.rs`: it holds every call to `onceonly`. The server and its
//! customers speak HTTP only and share no memory. With `--kill` they share no process either: the
//! server keeps a log, is killed in mid-traffic, and takes up its work again.
//!
//! ```text
//! cargo run --release --example checkout
//! cargo run --release --example checkout -- --kill 5
//! cargo run --release --example checkout -- --without-onceonly
//! ```

mod args;
mod client;
mod files;
mod host;
mod ledger;
mod plan;
mod process;
mod report;
mod server;
mod settlements;
mod wire;

use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use args::{Args, Wish};
use client::Crowd;
use files::Files;
use host::Host;
use report::{Audit, Report};
use settlements::Settled;

fn main() -> ExitCode {
    let ended = match args::read() {
        Ok(Wish::Run(args)) => run(&args),
        Ok(Wish::Serve(setup)) => process::serve(&setup).map(|()| true),
        Ok(Wish::Help) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(complaint) => {
            eprintln!("checkout: {complaint} (--help lists the options)");
            return ExitCode::from(2);
        }
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("checkout: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Serves, sells, counts. True if every order was charged once, or if nobody promised it.
#[tokio::main]
async fn run(args: &Args) -> Result<bool, Box<dyn Error>> {
    let scratch = Scratch::create()?;
    let files = Files::within(scratch.path());
    let mut host = Host::start(args, files.clone()).await?;

    let orders = plan::draw(args.seed, args.orders);
    let kills = plan::draw_kills(args.seed, args.orders, args.kills);
    let crowd = Crowd::new(host.address(), args.loss_percent / 100.0, orders);
    let started = Instant::now();
    let day = async { tokio::try_join!(crowd.pay_everything(), host.attend(&crowd, &kills)) };
    let tally = tokio::select! {
        ended = day => ended?.0,
        // Returning, not dying, ends a server apart and removes the scratch directory.
        _ = tokio::signal::ctrl_c() => return Err("stopped before every order was paid".into()),
    };
    let took = started.elapsed();
    let figures = crowd.ask_for_figures().await;
    let restarts = host.stop().await?;

    let audit = Audit::of(crowd.orders(), &ledger::read(&files.ledger())?);
    let report = Report {
        args,
        took,
        tally,
        figures,
        settled: settled(args, &files)?,
        restarts,
        audit,
    };
    io::stdout().write_all(report.to_string().as_bytes())?;
    Ok(!args.protected || report.is_flawless())
}

/// What a protected server settled.
fn settled(args: &Args, files: &Files) -> io::Result<Option<Settled>> {
    let count = || settlements::count(&files.settlements());
    args.protected.then(count).transpose()
}

/// A directory of our own in the system's place for such things, gone when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn create() -> Result<Scratch, String> {
        let path = std::env::temp_dir().join(format!("onceonly-checkout-{}", std::process::id()));
        match std::fs::create_dir(&path) {
            Ok(()) => Ok(Scratch(path)),
            Err(error) => Err(format!("cannot create {}: {error}", path.display())),
        }
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
