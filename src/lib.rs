#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]
//! onceonly

#[cfg(not(target_pointer_width = "64"))]
compile_error!("onceonly needs a 64-bit target: slots and addresses are packed into 64-bit words");

mod alarm;
mod answer;
mod builder;
mod claim;
mod clock;
mod engine;
mod epoch;
mod error;
mod fingerprint;
mod key;
mod options;
mod quota;
mod segment;
mod shard;
mod stats;
mod store;
mod sync;
mod token;
mod wheel;

pub use answer::{Mismatch, Outcome, Status, Stored};
pub use builder::Builder;
pub use claim::{Claim, ClaimGuard, InFlight, Interrupted, OnDrop, Pending, RunError, Watch};
pub use clock::{Clock, Deadline, ManualClock};
pub use error::{Error, Result};
pub use fingerprint::Fingerprint;
pub use key::{Key, KeyBuf};
pub use options::{ClaimOptions, CompleteOptions, Resolution, ScanFilter, StateKind};
pub use shard::state::Cause;
pub use stats::{ReplayAges, Stats};
pub use store::{Replay, Scan, Store};
pub use token::ClaimToken;
