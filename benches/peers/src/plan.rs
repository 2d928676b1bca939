//! Which cells there are, in which order, and how they are started.

use crate::cell::FLOOR;
use crate::common::{keys, short, testing};
use crate::machine::Machine;
use crate::results::Results;
use crate::{durable, memory, render};
use std::collections::BTreeMap;
use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
/// Longer than any cell takes; what hangs is killed.
const PATIENCE: Duration = Duration::from_secs(600);

struct Workload {
    name: &'static str,
    peers: Vec<&'static str>,
    n: u64,
}

fn workloads() -> Vec<Workload> {
    let million = keys(1_000_000);
    let with_floor = |peers: &[&'static str]| peers.iter().copied().chain([FLOOR]).collect();
    let mut all = Vec::new();
    let mut add = |name, peers: &[&'static str], n| {
        all.push(Workload {
            name,
            peers: peers.to_vec(),
            n,
        });
    };
    for name in ["W1+W2", "W1+W2 2t", "W3", "W4", "W6 bytes", "W6 expiry"] {
        add(name, &memory::NAMES, million);
    }
    let floored: Vec<_> = with_floor(&memory::NAMES);
    add("W5", &floored, keys(2_000_000));
    for name in ["D1", "D3+D5", "D4", "D5", "D6", "D7"] {
        add(name, &durable::NAMES, million);
    }
    let floored: Vec<_> = with_floor(&durable::NAMES);
    add("D2", &floored, million);
    if !testing() && std::env::var_os("ONCEONLY_BENCH_10M").is_some_and(|v| v == "1") {
        for name in ["W1+W2", "W5", "W6 bytes"] {
            add(name, &memory::NAMES, 10_000_000);
        }
        for name in ["D3+D5", "D4"] {
            add(name, &durable::NAMES, 10_000_000);
        }
    }
    all.sort_by_key(|w| (w.name.starts_with('D'), w.name));
    all
}

/// Measures and prints. Fails if a peer gave a wrong answer.
pub(crate) fn run(rounds: Option<usize>, only: &str) -> ExitCode {
    let rounds = rounds.unwrap_or(if testing() { 1 } else { ROUNDS });
    let mut results = Results {
        machine: Machine::this(),
        command: command(),
        rounds,
        figures: BTreeMap::new(),
        remarks: Vec::new(),
    };
    let chosen = |name: &str| only.is_empty() || only.split(',').any(|only| name.starts_with(only));
    let mut failed = false;
    let mut saved = render::save(&results);
    for workload in workloads().iter().filter(|w| chosen(w.name)) {
        for round in 0..rounds {
            let peers = workload.peers.len();
            // Everybody is first once: what the one before left behind hits each alike.
            for at in 0..peers {
                let peer = workload.peers[(at + round) % peers];
                failed |= !measure(&mut results, workload, peer, round);
            }
        }
        // Whoever ends a long run early keeps what was measured.
        saved = render::save(&results);
    }
    print!("{}", render::table(&results));
    match saved {
        Ok(path) => println!("\nfigures: {}", path.display()),
        Err(error) => println!("\nthe figures could not be saved: {error}"),
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

/// How this run was asked for.
fn command() -> String {
    let mut command = String::from("cargo bench --bench peers");
    for (at, arg) in std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .enumerate()
    {
        command += if at == 0 { " -- " } else { " " };
        command += &arg;
    }
    command
}

/// One cell. What it says goes into the results; whether it did all it should.
fn measure(results: &mut Results, workload: &Workload, peer: &str, round: usize) -> bool {
    if let Some(why) = absent(workload, peer) {
        if round == 0 {
            let remark = format!("{peer} is not in {}: {why}", workload.name);
            eprintln!("LEFT OUT: {remark}");
            results.remarks.push(remark);
        }
        return true;
    }
    let began = Instant::now();
    let answer = cell(workload, peer);
    eprintln!(
        "{:<10} {:<12} {:>4} keys, round {}: {:.1} s",
        workload.name,
        peer,
        short(workload.n),
        round + 1,
        began.elapsed().as_secs_f64()
    );
    let text = match answer {
        Ok(text) => text,
        Err(why) => {
            let remark = format!("{peer} failed in {}, round {}: {why}", workload.name, round + 1);
            eprintln!("FAILED: {remark}");
            results.remarks.push(remark);
            return false;
        }
    };
    let rows = results.figures.entry(workload.n).or_default();
    for (row, value) in text.lines().filter_map(|line| line.split_once('\t')) {
        let value = value.parse().expect("a cell prints numbers");
        let peers = rows.entry(row.into()).or_default();
        peers.entry(peer.into()).or_default().push(value);
    }
    true
}

/// Why a peer cannot take part, if so.
fn absent(workload: &Workload, peer: &str) -> Option<String> {
    if !workload.name.starts_with('D') || peer == FLOOR {
        return None;
    }
    durable::each!(peer, P => P::able(durable::Mode::Process).err())
}

/// Starts this program again to measure one cell; what it printed, or what went wrong.
fn cell(workload: &Workload, peer: &str) -> Result<String, String> {
    let this = std::env::current_exe().expect("the benchmark knows itself");
    let mode = if testing() { "--test" } else { "--bench" };
    let child = Command::new(this)
        .args(["--cell", workload.name, peer, &workload.n.to_string(), mode])
        .env("RUST_BACKTRACE", "0")
        .stdout(Stdio::piped())
        .spawn();
    let mut child = child.map_err(|error| error.to_string())?;
    let status = patiently(&mut child)?;
    let mut text = String::new();
    let mut said = child.stdout.take().expect("it was asked for");
    said.read_to_string(&mut text)
        .map_err(|error| error.to_string())?;
    if status.success() {
        Ok(text)
    } else {
        Err(status.to_string())
    }
}

fn patiently(child: &mut Child) -> Result<std::process::ExitStatus, String> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
            return Ok(status);
        }
        // Waiting for a child has no time limit of its own; this process has nothing else to do.
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(format!("it took longer than {PATIENCE:?}"))
}
