//! The tests of the whole library, through its public face.

mod contract;
mod cuts;
mod damage;
mod faults;
mod flood;
mod format;
mod fuzz;
mod house;
mod input;
mod inspect;
mod limits;
mod linear;
mod log;
mod log_regressions;
mod model;
mod regressions;
mod support;
mod threads;
mod waiting;
