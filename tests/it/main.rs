//! The tests of the whole library, through its public face.

mod contract;
mod input;
mod limits;
mod support;
mod threads;
mod waiting;
