//! What functions used.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counters of one version of a function on this node since it was loaded. They only grow,
/// except for the last two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Calls that were started: each attempt counts.
    pub requests: u64,
    /// Calls that were refused before they started.
    pub refused: u64,
    /// Calls that ended without a whole answer for a reason of the guest: trap, limit, silence.
    pub failed: u64,
    /// Calls that the guest answered with a status of 500 or above.
    pub errors: u64,
    /// Calls whose caller went away.
    pub cancelled: u64,
    /// CPU time of guests, in nanoseconds.
    pub cpu_ns: u64,
    /// Wall clock of guests from start to end, in nanoseconds.
    pub wall_ns: u64,
    /// Bytes of request bodies that guests read.
    pub bytes_in: u64,
    /// Bytes of answer bodies that left.
    pub bytes_out: u64,
    /// Requests that guests sent.
    pub outgoing: u64,
    /// Log lines written, and those dropped for their rate.
    pub log_lines: u64,
    /// Log lines dropped for their rate.
    pub log_dropped: u64,
    /// Instances made.
    pub instances: u64,
    /// Largest memory of one instance, in bytes.
    pub memory_peak_bytes: u64,
    /// Calls that run now.
    pub running: u64,
    /// Calls that wait for a slot now.
    pub waiting: u64,
}

macro_rules! meter {
    ($($field:ident),* $(,)?) => {
        /// The counters behind a [`Usage`].
        #[derive(Debug, Default)]
        pub(crate) struct Meter {
            $(pub(crate) $field: AtomicU64,)*
        }

        impl Meter {
            /// All counters; `waiting` is known elsewhere.
            pub(crate) fn snapshot(&self, waiting: u64) -> Usage {
                Usage { waiting, $($field: self.$field.load(Relaxed),)* }
            }
        }
    };
}

meter!(
    requests,
    refused,
    failed,
    errors,
    cancelled,
    cpu_ns,
    wall_ns,
    bytes_in,
    bytes_out,
    outgoing,
    log_lines,
    log_dropped,
    instances,
    memory_peak_bytes,
    running,
);

/// Adds to a counter.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Relaxed);
}
