//! Black-box chaos tests: real `swarmer` processes, real faults, histories of what clients saw, and
//! checkers that read nothing but these histories.
//!
//! | folder | what it is |
//! |---|---|
//! | `history` | what clients did and were told, as a file |
//! | `check` | one checker per invariant: history in, verdict out |
//! | `cluster` | nodes as processes, one network namespace each |
//! | `nemesis` | seed → faults; and the hands that carry them out |
//! | `workload` | the clients |
//! | `run` | scenarios, one run from start to verdict, coverage |
//! | `report` | the page about a run |
//! | `failover` | a region is lost, and how long its functions are: measured |
//! | `planted` | known bugs, and the scenarios that must find them |
//!
//! `SEMANTICS.md`, beside this crate's manifest, says what counts as ok, failed and unknown.

// Not `forbid`: one request to the kernel, in `cluster/tun.rs`, has no safe function.
#![deny(unsafe_code)]

pub mod check;
pub mod cluster;
pub mod failover;
pub mod history;
pub mod nemesis;
pub mod planted;
pub mod report;
pub mod run;
pub mod seed;
pub mod workload;
