//! Skips that say why, and that are found out.
//!
//! A test that needs what a machine may lack asks for it first:
//!
//! ```
//! use swarmer_testkit::{Capability, require};
//!
//! fn partition_heals() {
//!     if !require(Capability::NetNamespaces) {
//!         return;
//!     }
//!     // …
//! }
//! # partition_heals();
//! ```
//!
//! Where the machine lacks it, a line `SKIPPED <test>: needs <capability>` goes to standard output
//! and, if [`SKIP_LOG`] names a file, to that file. `.ci/run` lists these lines and probes the
//! machine itself: a skip for something that is there is an error.

#![forbid(unsafe_code)]

mod capability;
mod skip;

pub use capability::Capability;
pub use skip::{SKIP_LOG, Skip, WITHOUT, require, skip};
