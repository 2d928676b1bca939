//! The fuzz targets' bodies (`tests/fuzz/`) without a fuzzer: over the committed seeds, and over
//! mutations of them that chance makes. What coverage leads to is for `.ci/fuzz`.
//!
//! `ONCEONLY_CASES` is the number of mutations of each target, `ONCEONLY_SEED` runs one. The seeds in
//! `tests/fuzz/seeds/` are written by `ONCEONLY_WRITE_SEEDS=1 cargo test --test it fuzz::`.

#[path = "../fuzz/mod.rs"]
mod bodies;

use crate::support::{Rng, run_case, scaled};
use bodies::seeds::{self, Seeds};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The longest input, as long as libFuzzer's.
const LONGEST: usize = 4_096;

/// One of the targets.
struct Target {
    name: &'static str,
    run: fn(&[u8]) -> bool,
    seeds: Seeds,
}

impl Target {
    /// The seeds as they are committed, which are those the code makes.
    fn check_seeds(&self) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fuzz/seeds")
            .join(self.name);
        if std::env::var_os("ONCEONLY_WRITE_SEEDS").is_some() {
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(&dir).unwrap();
            for (name, bytes) in &self.seeds {
                fs::write(dir.join(name), bytes).unwrap();
            }
        }
        let found: BTreeMap<String, Vec<u8>> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (
                    entry.file_name().into_string().unwrap(),
                    fs::read(entry.path()).unwrap(),
                )
            })
            .collect();
        assert_eq!(found, self.seeds.iter().cloned().collect());
    }

    fn run(&self, cases: u64) {
        self.check_seeds();
        for (name, bytes) in &self.seeds {
            eprintln!("{}: seed {name}", self.name);
            (self.run)(bytes);
        }
        let case = |seed| (self.run)(&self.mutation(&mut Rng(seed)));
        let test = format!("fuzz {}", self.name);
        if std::env::var_os("ONCEONLY_SEED").is_some() {
            run_case(&test, scaled("ONCEONLY_SEED", 0), 0, case);
            return;
        }
        let first = scaled("ONCEONLY_FIRST_SEED", 0);
        let cases = scaled("ONCEONLY_CASES", cases);
        let led = (0..cases)
            .filter(|n| run_case(&test, first + n, *n, case))
            .count() as u64;
        eprintln!("{test}: {cases} mutations with seeds from {first}, {led} led somewhere");
        // Else the checks behind it prove nothing.
        assert!(cases < 100 || led * 10 > cases, "hardly any led anywhere");
    }

    /// A seed with some of its bytes changed, moved, or taken from another.
    fn mutation(&self, rng: &mut Rng) -> Vec<u8> {
        let one = |rng: &mut Rng| self.seeds[rng.below(self.seeds.len() as u64) as usize].1.clone();
        let mut bytes = one(rng);
        for _ in 0..=rng.below(6) {
            let at = rng.below(bytes.len() as u64 + 1) as usize;
            let end = (at + 1 + rng.below(8) as usize).min(bytes.len());
            match rng.below(7) {
                0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
                1 if at < bytes.len() => bytes[at] = rng.next() as u8,
                2 if at < bytes.len() => bytes[at] = rng.pick(&[0, 1, 127, 128, 255]),
                3 => drop(bytes.drain(at..end)),
                4 => drop(bytes.splice(at..at, rng.bytes(end - at + 1))),
                5 => {
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                _ => {
                    let other = one(rng);
                    let from = rng.below(other.len() as u64 + 1) as usize;
                    bytes.truncate(at);
                    bytes.extend(&other[from..]);
                }
            }
        }
        bytes.truncate(LONGEST);
        bytes
    }
}

#[test]
fn records_and_tokens_are_read_or_refused() {
    let target = Target {
        name: "record",
        run: bodies::record::run,
        seeds: seeds::record(),
    };
    target.run(5_000);
}

#[test]
fn directories_are_opened_or_refused() {
    let target = Target {
        name: "directory",
        run: bodies::directory::run,
        seeds: seeds::directory(),
    };
    target.run(3_000);
}

#[test]
fn streams_agree_with_the_model() {
    let target = Target {
        name: "streams",
        run: bodies::streams::run,
        seeds: seeds::streams(),
    };
    target.run(4_000);
}
