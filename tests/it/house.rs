//! The house rules a compiler does not know: imports go down only, each package has its doors,
//! and `unsafe` its rooms.

use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up: a file may import from the layers before its own.
const LAYERS: &[&[&str]] = &[
    &["sync", "status"],
    &["error"],
    &["clock", "fingerprint", "key", "quota", "wheel"],
    &["alarm", "epoch"],
    &["segment"],
    &["disk"],
    &["log"],
    &["answer", "options", "stats", "token"],
    &["inspect"],
    &["shard"],
    &["engine"],
    &["claim"],
    // The handle gives out builders, and a builder makes a handle.
    &["builder", "store"],
];

/// Where a package may be named, and `unsafe` used.
const DOORS: &[(&str, &[&str])] = &[
    ("parking_lot::", &["sync/mod.rs"]),
    ("crossbeam_epoch::", &["epoch/real.rs"]),
    ("ahash::", &["key.rs", "shard/scopes.rs"]),
    ("memmap2::", &["segment/words.rs", "disk/mmap.rs"]),
    ("crc32fast::", &["token.rs", "segment/record.rs", "log/format.rs"]),
    ("sha2::", &["fingerprint.rs"]),
    (
        "unsafe {",
        &["segment/words.rs", "segment/table.rs", "shard/index.rs"],
    ),
];

fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    let name = |p: &Path| {
        p.strip_prefix(&root)
            .unwrap()
            .to_string_lossy()
            .replace('\\', "/")
    };
    let mut files: Vec<_> = found
        .iter()
        .map(|p| (name(p), fs::read_to_string(p).unwrap()))
        .collect();
    files.sort();
    // Tests inside a file may reach further than the file.
    for (_, text) in &mut files {
        for tests in [
            "#[cfg(test)]\nmod tests",
            "#[cfg(all(test, onceonly_loom))]\nmod loom",
        ] {
            text.truncate(text.find(tests).unwrap_or(text.len()));
        }
    }
    files
}

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

fn room(file: &str) -> &str {
    file.split(['/', '.']).next().unwrap()
}

#[test]
fn imports_go_down_only() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let mine = room(&file);
        if ["lib", "guide", "schedules", "sim"].contains(&mine) {
            continue;
        }
        let own = layer(mine).unwrap_or_else(|| panic!("{file} has no layer"));
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        for target in code.flat_map(|line| line.split("crate::").skip(1)) {
            let target = target
                .split(|c: char| !c.is_alphanumeric() && c != '_')
                .next()
                .unwrap();
            match layer(target) {
                Some(theirs) if theirs < own || target == mine => {}
                Some(theirs) if theirs == own && own == LAYERS.len() - 1 => {}
                _ => wrong.push(format!("{file} imports crate::{target}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn packages_and_unsafe_come_in_by_their_doors() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (what, doors) in DOORS {
            let mut code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let named = code.any(|line| line.contains(what));
            if named && !doors.contains(&file.as_str()) {
                wrong.push(format!("{file} names {what}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
