//! The bodies of the fuzz targets: each takes any bytes, panics if something is wrong, and says
//! whether the bytes led anywhere: to a store that opened, a token, a step.
//!
//! They are here and not in `fuzz/` so that `cargo test` runs them too (`tests/it/fuzz.rs`), over
//! the committed seeds and mutations of them, and so that the package holds all its tests need.
//! The crate in `fuzz/` gives the same functions to libFuzzer.
//!
//! A fuzzer does not get past a checksum by luck, so the targets that make files put right what a
//! store would have put right, as far as the input wants it: headers, places, sums ([`forge`]).
#![allow(dead_code, reason = "the fuzz crate and the tests each use a part")]

pub(crate) mod directory;
pub(crate) mod forge;
pub(crate) mod input;
pub(crate) mod look;
pub(crate) mod record;
pub(crate) mod seeds;
pub(crate) mod streams;
