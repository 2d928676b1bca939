//! Tools for testing a store, this crate's own tests and yours (feature `sim`).
//!
//! - [`model`]: the contract as a small sequential program. It knows one key's states and what
//!   each call answers in each of them; it shares no code with the store.
//! - [`ops`]: streams of operations, decoded from plain bytes.
//! - [`driver`]: applies each to a store and to the model and compares the answers.
//!
//! ```
//! use onceonly::sim::{driver::{Driver, Setup}, ops::Op};
//!
//! // Any bytes make a stream: from a property test, a fuzzer, a file.
//! let words = [[7, 1, 0, 3, 200, 9], [90, 1, 0, 4, 4, 0], [7, 1, 1, 3, 0, 0]];
//! let mut driver = Driver::new(&Setup::default())?;
//! for word in words {
//!     driver.apply(&Op::decode(word)).expect("store and model agree");
//! }
//! driver.finish().expect("store and model agree");
//! # Ok::<(), onceonly::Error>(())
//! ```

pub mod disk;
pub mod driver;
pub mod model;
pub mod ops;
