//! The engine beside its peers, on the same work, in one run.
//!
//! Every measurement is a *cell*: one workload, one peer, one size, in a process of its own, so
//! that no peer inherits another's heap, threads or page tables, and resident bytes mean
//! something. Cells of one workload alternate between the peers, round after round. Every answer
//! is checked; a cell whose peer gives a wrong one fails, and its row says so.
//!
//! `--test` runs every cell once and small. `--only W2,D` takes the workloads whose names begin
//! so. `--rounds 7` instead of five. `--render` makes `results.md` and `results.svg` of the last
//! run's figures. `ONCEONLY_BENCH_10M=1` adds ten million keys.

#[path = "../../common/mod.rs"]
mod common;

mod cell;
mod durable;
mod machine;
mod memory;
mod plan;
mod render;
mod results;
mod work;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let after = |flag: &str| args.iter().position(|arg| arg == flag).map(|at| &args[at + 1..]);
    if let Some([workload, peer, n, ..]) = after("--cell") {
        let n = n.parse().expect("a number of keys");
        cell::run(workload, peer, n, after("--dir").and_then(<[String]>::first));
        return ExitCode::SUCCESS;
    }
    if after("--render").is_some() {
        return render::publish();
    }
    let rounds = after("--rounds").and_then(|rest| rest.first()?.parse().ok());
    let only = after("--only")
        .and_then(<[String]>::first)
        .map_or("", String::as_str);
    plan::run(rounds, only)
}
