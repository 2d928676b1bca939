//! The results as a table for the terminal, as Markdown, and as a picture.

mod picture;

use crate::common::short;
use crate::results::{Measured, OURS, Results, Spread};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the figures of the last run lie, for whoever renders them.
fn saved() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.join("../../target/peers/results.json")
}

pub(crate) fn save(results: &Results) -> io::Result<PathBuf> {
    let path = saved();
    fs::create_dir_all(path.parent().expect("it has one"))?;
    fs::write(&path, serde_json::to_string_pretty(results)?)?;
    path.canonicalize()
}

/// Writes `results.md` and `results.svg` beside the package's manifest.
pub(crate) fn publish() -> ExitCode {
    let write = || -> io::Result<()> {
        let results: Results = serde_json::from_str(&fs::read_to_string(saved())?)?;
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        fs::write(package.join("results.md"), markdown(&results))?;
        fs::write(package.join("results.svg"), picture::draw(&results))
    };
    match write() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", saved().display());
            ExitCode::FAILURE
        }
    }
}

/// Three digits, or whole numbers with groups.
fn number(value: f64) -> String {
    match value.abs() {
        v if v < 10.0 => format!("{value:.2}"),
        v if v < 100.0 => format!("{value:.1}"),
        _ => {
            let digits = format!("{:.0}", value.abs());
            let mut out = String::from(if value < 0.0 { "-" } else { "" });
            for (at, digit) in digits.char_indices() {
                if at > 0 && (digits.len() - at) % 3 == 0 {
                    out.push(',');
                }
                out.push(digit);
            }
            out
        }
    }
}

fn range(spread: Spread) -> String {
    format!("{}–{}", number(spread.least), number(spread.most))
}

/// The cells of a row: ours, the best of the others, how they compare, and the rest.
struct Cells {
    what: String,
    ours: String,
    ours_range: String,
    best: String,
    best_range: String,
    ratio: String,
    rest: String,
}

fn cells(measured: &Measured<'_>) -> Cells {
    let row = measured.row;
    let ours = measured.spread(OURS);
    let others = measured.others();
    let best = others.first();
    let ratio = best.and_then(|(peer, _)| measured.times_better_than(peer));
    let mut rest: Vec<_> = others
        .iter()
        .skip(1)
        .map(|(peer, spread)| format!("{peer} {}", number(spread.middle)))
        .collect();
    if let Some(floor) = measured.spread(crate::cell::FLOOR) {
        rest.push(format!("[machine alone {}]", number(floor.middle)));
    }
    let text = |spread: Option<Spread>, of: fn(Spread) -> String| spread.map_or("–".into(), of);
    Cells {
        what: format!("{} ({}, {})", row.title, short(measured.keys), row.unit),
        ours: text(ours, |s| number(s.middle)),
        ours_range: text(ours, range),
        best: best.map_or("–".into(), |(peer, s)| format!("{peer} {}", number(s.middle))),
        best_range: text(best.map(|(_, s)| *s), range),
        ratio: text(ratio, |s| {
            format!("{:.2} ({:.2}–{:.2})", s.middle, s.least, s.most)
        }),
        rest: rest.join(", "),
    }
}

/// For the terminal.
pub(crate) fn table(results: &Results) -> String {
    let mut out = format!(
        "\n{:<3} {:<62} {:>10} {:>19} {:>22} {:>19} {:>22}   the others\n",
        "", "", OURS, "least–most", "best peer", "least–most", "times better"
    );
    for measured in results.rows() {
        let c = cells(&measured);
        let _ = writeln!(
            out,
            "{:<3} {:<62} {:>10} {:>19} {:>22} {:>19} {:>22}   {}",
            measured.row.group, c.what, c.ours, c.ours_range, c.best, c.best_range, c.ratio, c.rest
        );
    }
    for remark in &results.remarks {
        let _ = writeln!(out, "note: {remark}");
    }
    out
}

fn markdown(results: &Results) -> String {
    let mut out = String::from("# Results\n\n");
    let m = &results.machine;
    let _ = writeln!(
        out,
        "`{}` on {} ({} cores, {} GiB), {}, {}, {}; load {} before it began. Medians of {} rounds, least and most in \
         brackets. *Times better* compares with the best of the others round by round: below 1 it is better \
         than `onceonly`. What each row is and how each peer is used is in the [README](README.md).\n",
        results.command,
        m.cpu,
        m.cores,
        m.memory_gib,
        m.kernel,
        m.rustc,
        m.filesystem,
        m.load,
        results.rounds
    );
    out.push_str("![Every peer beside onceonly](results.svg)\n\n");
    out.push_str("| | workload | `onceonly` | best of the others | times better | the others |\n");
    out.push_str("|---|---|---|---|---|---|\n");
    for measured in results.rows() {
        let c = cells(&measured);
        let _ = writeln!(
            out,
            "| {} | {} | {} ({}) | {} ({}) | {} | {} |",
            measured.row.group, c.what, c.ours, c.ours_range, c.best, c.best_range, c.ratio, c.rest
        );
    }
    if !results.remarks.is_empty() {
        out.push('\n');
    }
    for remark in &results.remarks {
        let _ = writeln!(out, "- {remark}");
    }
    out
}
