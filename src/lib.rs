//! **Do the work for a key once, and give every repeat the same answer.**
//!
//! A client that hears nothing back must retry, and a retry must not charge the card twice. The
//! tool is the idempotency key: the client sends one key per logical operation, the server does
//! the work once and replays the stored outcome to every repeat. `onceonly` is the engine for
//! that, linked as a library: an atomic claim per key, outcomes cached for a time, and honest
//! answers when a holder is gone, behind a synchronous API that any server can wrap.
//!
//! ```
//! use onceonly::{Claim, Error, Fingerprint, Key, Store};
//!
//! /// Charges an order once, however often it is asked for.
//! fn pay(store: &Store, account: &str, order: &str, body: Fingerprint) -> Result<String, Error> {
//!     let mut claim = store.claim(Key::new(account, order), body)?;
//!     loop {
//!         claim = match claim {
//!             Claim::Acquired(guard) => {
//!                 let receipt = charge(order); // dropped here, the guard would say "interrupted"
//!                 guard.complete(receipt.as_bytes())?;
//!                 return Ok(receipt);
//!             }
//!             Claim::Completed(outcome) => return Ok(String::from_utf8_lossy(&outcome).into()),
//!             Claim::InFlight(other) => return Ok(format!("busy, ask again in {:?}", other.retry_after())),
//!             Claim::Mismatch(_) => return Ok("refused: the key was used for another request".into()),
//!             // The holder is gone. Did it charge? The ledger knows.
//!             Claim::Interrupted(left) => match find_charge(order) {
//!                 Some(receipt) => left.resolve(receipt.as_bytes(), Default::default())?,
//!                 None => left.resume()?,
//!             },
//!         };
//!     }
//! }
//! # fn charge(order: &str) -> String { format!("receipt for {order}") }
//! # fn find_charge(_: &str) -> Option<String> { None }
//!
//! let store = Store::in_memory()?;
//! let body = Fingerprint::from_bytes(*b"sixteen bytes!!!");
//! for _retry in 0..3 {
//!     assert_eq!(pay(&store, "account-17", "order-4711", body)?, "receipt for order-4711");
//! }
//! assert_eq!(store.stats().acquired, 1);
//! # Ok::<(), Error>(())
//! ```
//!
//! # The states of a key
//!
//! | state | `claim` with the same fingerprint | what ends it |
//! |---|---|---|
//! | absent | [`Claim::Acquired`]: do the work | |
//! | in flight | [`Claim::InFlight`]: somebody does it; wait or come back | complete, release, a dropped guard, the end of the lease |
//! | interrupted | [`Claim::Interrupted`]: the holder is gone, nobody knows whether it happened; resume, resolve or release | any of these; the old holder completing after all |
//! | completed | [`Claim::Completed`]: the stored outcome | the end of its ttl |
//!
//! With another fingerprint every state but absent answers [`Claim::Mismatch`].
//!
//! # What is promised
//!
//! - **One owner.** Of claims racing for an absent key exactly one is acquired. A generation, a
//!   number that only grows, fences every holder that was superseded.
//! - **Same answer.** After a completion every claim within the ttl gives exactly those bytes.
//! - **Never early.** No key is forgotten before its time, and none is evicted to make room: at a
//!   limit *new* keys get [`Error::AtCapacity`], the others go on working.
//! - **Apart.** No call with one scope sees or changes a key of another.
//! - **Bounded.** Memory stays inside [`Builder::max_bytes`] for any input.
//! - **Crash safe**, with a log ([`Store::open`]): what was acknowledged survives the process, and by
//!   default a power cut; an unfinished claim comes back interrupted ([`Durability`]).
//!
//! What is not: that the *effect* happens exactly once. Between the effect and `complete` a crash
//! can always fall; then the key is interrupted, and the application finds out
//! ([`Interrupted`]). A store made with [`Store::in_memory`] forgets everything with its process.
//!
//! # Costs
//!
//! A replay takes no lock and some two cache misses; a claim with its completion some three locks
//! that rarely meet. The overhead over key and outcome is about 40 bytes per key, 16 more with a
//! fingerprint. `benches/` measures both.
//!
//! # Where to go next
//!
//! [`guide`] has pages on wrapping a server, on what a crash leaves, on choosing ttl and lease, and on
//! operating a store.
//! [`Store`] lists the calls, [`Builder`] the options.
//!
//! # Features
//!
//! None is on by default. `sha2`: [`Fingerprint::of`] and `of_parts`. `sim`: the sequential model
//! of the contract and operation streams, for tests.
#![deny(unsafe_code)]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(not(target_pointer_width = "64"))]
compile_error!("onceonly needs a 64-bit target: slots and addresses are packed into 64-bit words");

mod alarm;
mod answer;
mod builder;
mod claim;
mod clock;
mod disk;
mod engine;
mod epoch;
mod error;
mod fingerprint;
pub mod guide;
mod inspect;
mod key;
mod log;
mod options;
mod quota;
#[cfg(all(test, onceonly_shuttle))]
mod schedules;
mod segment;
mod shard;
#[cfg(feature = "sim")]
#[cfg_attr(docsrs, doc(cfg(feature = "sim")))]
pub mod sim;
mod stats;
mod status;
mod store;
mod sync;
mod token;
mod wheel;

pub use answer::{Mismatch, Outcome, Stored};
pub use builder::Builder;
pub use claim::{Claim, ClaimGuard, InFlight, Interrupted, OnDrop, Pending, RunError, Watch};
pub use clock::{Clock, Deadline, ManualClock};
pub use disk::{Disk, DiskFile, Memory, MmapDisk};
pub use engine::RecoveryReport;
pub use error::{Error, Result};
pub use fingerprint::Fingerprint;
pub use inspect::{Inspected, Inspector, InspectorScan, InspectorStat, LogPosition, Recorded};
pub use key::{Key, KeyBuf};
pub use log::salvage::{SalvageReport, salvage, salvage_on};
pub use options::{ClaimOptions, CompleteOptions, Durability, Resolution, ScanFilter, StateKind};
pub use stats::{ReplayAges, Stats};
pub use status::{Cause, Status};
pub use store::{Replay, Scan, Store};
pub use token::ClaimToken;

/// The README's examples are tests too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
