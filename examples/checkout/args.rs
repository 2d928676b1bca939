//! The command line. Every mistake gets one line that says what was expected.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display};
use std::num::ParseFloatError;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use pico_args::Arguments;

use crate::files::Files;
use crate::server::Setup;

pub(crate) const HELP: &str = "\
Pays for orders over a bad network and counts what the ledger was really charged.

Usage: checkout [OPTIONS]

Options:
  --orders N          orders to pay for, 1 to 1000000 (default 10000)
  --loss PERCENT      how many of the requests, and again of the responses, vanish:
                      a percentage from 0 to 80, as 10, 10% or 0.5 (default 10)
  --seed N            draws the traffic; the same seed draws the same (default 1)
  --kill N            the server is a process of its own with a log on disk, killed with
                      SIGKILL in mid-traffic and started again, 0 to 100 times (default 0)
  --without-onceonly  the same traffic with nothing to stop a second charge
  -h, --help          this text

With onceonly the exit code is 0 only if every order was charged once.
";

/// What to run. Ranges are checked.
pub(crate) struct Args {
    pub(crate) orders: u64,
    /// How many of a hundred requests are lost, and how many of a hundred responses: 0 to 80.
    pub(crate) loss_percent: f64,
    pub(crate) seed: u64,
    /// How often the server is killed. Zero: it stays in this process, and in memory.
    pub(crate) kills: u32,
    pub(crate) protected: bool,
}

/// The first argument of a process that is nothing but the server. It is not for people, and not
/// in the help.
const SERVE: &str = "serve";
const PORT: &str = "--port";
const DIR: &str = "--dir";

const WITHOUT: &str = "--without-onceonly";

/// What the command line asks for.
pub(crate) enum Wish {
    Run(Args),
    Serve(Setup),
    Help,
}

/// Reads the command line of this process.
pub(crate) fn read() -> Result<Wish, String> {
    let mut given = Arguments::from_env();
    if given.contains(["-h", "--help"]) {
        return Ok(Wish::Help);
    }
    match given.subcommand().map_err(|e| e.to_string())?.as_deref() {
        Some(SERVE) => read_setup(given).map(Wish::Serve),
        Some(stray) => Err(unexpected(OsStr::new(stray))),
        None => read_args(given).map(Wish::Run),
    }
}

fn read_args(mut given: Arguments) -> Result<Args, String> {
    let orders = number(&mut given, "--orders", 1..=1_000_000)?.unwrap_or(10_000);
    let Percent(loss_percent) =
        number(&mut given, "--loss", Percent(0.0)..=Percent(80.0))?.unwrap_or(Percent(10.0));
    let seed = number(&mut given, "--seed", 0..=u64::MAX)?.unwrap_or(1);
    let kills = number(&mut given, "--kill", 0..=100)?.unwrap_or(0);
    let protected = !given.contains(WITHOUT);
    finish(given)?;
    Ok(Args {
        orders,
        loss_percent,
        seed,
        kills,
        protected,
    })
}

/// The arguments that make this program the server of `setup`, with a log.
pub(crate) fn to_serve(setup: &Setup) -> Vec<OsString> {
    let port = setup.port.to_string();
    let mut arguments: Vec<OsString> = vec![SERVE.into(), PORT.into(), port.into(), DIR.into()];
    arguments.push(setup.files.dir().into());
    arguments.extend((!setup.protected).then(|| WITHOUT.into()));
    arguments
}

fn read_setup(mut given: Arguments) -> Result<Setup, String> {
    let port = number(&mut given, PORT, 0..=u16::MAX)?.unwrap_or(0);
    let dir = given.value_from_os_str(DIR, |dir| Ok::<_, Infallible>(PathBuf::from(dir)));
    let files = Files::within(dir.map_err(|e| e.to_string())?);
    let protected = !given.contains(WITHOUT);
    finish(given)?;
    Ok(Setup {
        files,
        log: true,
        port,
        protected,
    })
}

/// Nothing may be left over.
fn finish(given: Arguments) -> Result<(), String> {
    given
        .finish()
        .first()
        .map_or(Ok(()), |stray| Err(unexpected(stray)))
}

fn unexpected(stray: &OsStr) -> String {
    format!("unexpected argument `{}`", stray.to_string_lossy())
}

/// The value of `option`, if it was given: a number within `range`.
fn number<N: FromStr + PartialOrd + Display>(
    given: &mut Arguments,
    option: &'static str,
    range: RangeInclusive<N>,
) -> Result<Option<N>, String> {
    let text: Option<String> = given.opt_value_from_str(option).map_err(|e| e.to_string())?;
    let Some(text) = text else { return Ok(None) };
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(Some(number)),
        _ => {
            let (least, most) = range.into_inner();
            Err(format!(
                "{option} wants a number from {least} to {most}, not `{text}`"
            ))
        }
    }
}

/// A percentage, its sign optional.
#[derive(PartialEq, PartialOrd)]
struct Percent(f64);

impl FromStr for Percent {
    type Err = ParseFloatError;

    fn from_str(text: &str) -> Result<Percent, ParseFloatError> {
        text.strip_suffix('%').unwrap_or(text).parse().map(Percent)
    }
}

impl Display for Percent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} %", self.0)
    }
}
