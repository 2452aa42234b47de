//! The crash harness of the write-ahead log: killed processes, power cuts, damaged files.
//!
//! `SWARMER_CRASH_SEED=<n>` runs a single seed of the power cuts again; a failing run prints its
//! seed.

#![expect(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod damage;
mod faults;
mod history;
mod kill;
mod power;
mod random;
