//! A checkout that charges every order once, over a network that loses things.
//!
//! A real HTTP server takes `POST /charges`; a crowd of customers pays through it. Requests and
//! responses vanish, fingers click twice, clients hang up on work that is still running, and some
//! send another amount under a key they have used. The ledger, which knows nothing of keys, is read
//! at the end to see what was really charged.
//!
//! The part to copy is `server/once.rs`: it holds every call to `onceonly`. The server and its
//! customers speak HTTP only and share no memory.
//!
//! ```text
//! cargo run --release --example checkout
//! cargo run --release --example checkout -- --without-onceonly
//! ```

mod args;
mod client;
mod ledger;
mod plan;
mod report;
mod server;
mod wire;

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use args::{Args, Wish};
use client::Crowd;
use report::{Audit, Report};
use server::Server;

fn main() -> ExitCode {
    let args = match args::read() {
        Ok(Wish::Run(args)) => args,
        Ok(Wish::Help) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Err(complaint) => {
            eprintln!("checkout: {complaint} (--help lists the options)");
            return ExitCode::from(2);
        }
    };
    match run(&args) {
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
    let ledger = scratch.path().join("ledger");
    let server = Server::start(args.protected, &ledger).await?;

    let orders = plan::draw(args.seed, args.orders);
    let crowd = Crowd::new(server.address(), args.loss_percent / 100.0, orders);
    let started = Instant::now();
    let tally = tokio::select! {
        tally = crowd.pay_everything() => tally?,
        // Returning, not dying, removes the scratch directory.
        _ = tokio::signal::ctrl_c() => return Err("stopped before every order was paid".into()),
    };
    let took = started.elapsed();
    let figures = crowd.ask_for_figures().await;
    server.stop().await?;

    let audit = Audit::of(crowd.orders(), &ledger::read(&ledger)?);
    let report = Report {
        args,
        took,
        tally,
        figures,
        audit,
    };
    std::io::stdout().write_all(report.to_string().as_bytes())?;
    Ok(!args.protected || report.is_flawless())
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
