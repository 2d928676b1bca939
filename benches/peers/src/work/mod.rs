//! The workloads, each written once for all peers.

pub(crate) mod durable;
pub(crate) mod floor;
pub(crate) mod memory;

use hdrhistogram::Histogram;

pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are good")
}
