//! What it was measured on.

use serde::{Deserialize, Serialize};
use std::fs;
use std::process::Command;

#[derive(Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) rustc: String,
    /// Of the directory the durable peers write to.
    pub(crate) filesystem: String,
    /// Of one minute, before the first measurement: what else was going on.
    pub(crate) load: String,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let dir = std::env::var_os("ONCEONLY_BENCH_DIR").unwrap_or_else(|| std::env::temp_dir().into());
        let dir = dir.to_string_lossy();
        Machine {
            cpu: line_of("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: memory(),
            kernel: said_by("uname", &["-sr"]),
            rustc: said_by("rustc", &["--version"]),
            filesystem: said_by("findmnt", &["-n", "-o", "FSTYPE", "--target", &dir]),
            load: word_of("/proc/loadavg"),
        }
    }
}

fn memory() -> u64 {
    let line = line_of("/proc/meminfo", "MemTotal");
    let kib = line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0).div_ceil(1 << 20)
}

fn line_of(file: &str, key: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.map_or("unknown".into(), |line| {
        line.trim_start_matches([' ', '\t', ':']).to_string()
    })
}

fn word_of(file: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").into()
}

fn said_by(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output();
    output.map_or("unknown".into(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    })
}
