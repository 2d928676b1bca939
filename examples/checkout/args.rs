//! The command line. Every mistake gets one line that says what was expected.

use std::fmt::{self, Display};
use std::num::ParseFloatError;
use std::ops::RangeInclusive;
use std::str::FromStr;

use pico_args::Arguments;

pub(crate) const HELP: &str = "\
Pays for orders over a bad network and counts what the ledger was really charged.

Usage: checkout [OPTIONS]

Options:
  --orders N          orders to pay for, 1 to 1000000 (default 10000)
  --loss PERCENT      how many of the requests, and again of the responses, vanish:
                      a percentage from 0 to 80, as 10, 10% or 0.5 (default 10)
  --seed N            draws the traffic; the same seed draws the same (default 1)
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
    pub(crate) protected: bool,
}

/// What the command line asks for.
pub(crate) enum Wish {
    Run(Args),
    Help,
}

/// Reads the command line of this process.
pub(crate) fn read() -> Result<Wish, String> {
    let mut given = Arguments::from_env();
    if given.contains(["-h", "--help"]) {
        return Ok(Wish::Help);
    }
    let orders = number(&mut given, "--orders", 1..=1_000_000)?.unwrap_or(10_000);
    let Percent(loss_percent) =
        number(&mut given, "--loss", Percent(0.0)..=Percent(80.0))?.unwrap_or(Percent(10.0));
    let seed = number(&mut given, "--seed", 0..=u64::MAX)?.unwrap_or(1);
    let protected = !given.contains("--without-onceonly");
    match given.finish().first() {
        Some(stray) => Err(format!("unexpected argument `{}`", stray.to_string_lossy())),
        None => Ok(Wish::Run(Args {
            orders,
            loss_percent,
            seed,
            protected,
        })),
    }
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
