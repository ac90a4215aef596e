//! Measures the allocator beside its predecessor (0.3.0) and its peers.
//!
//! A [workload](workloads) is a name and a piece of work that any [engine](engines) can do; a
//! [run] lets the engines take turns, round by round, and takes medians, so that what disturbs
//! the machine disturbs all of them. Read the ratios.
//!
//! `cargo xtask bench` runs the program of this package; `README.md` beside it says how.

pub mod aims;
pub mod cycles;
pub mod engines;
pub mod histogram;
pub mod machine;
pub mod platforms;
pub mod plot;
pub mod record;
pub mod reports;
pub mod ring;
pub mod run;
pub mod stats;
pub mod table;
pub mod team;
pub mod workloads;
