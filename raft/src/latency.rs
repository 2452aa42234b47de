//! How long other nodes take to answer AppendEntries.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use swarmer_model::NodeId;

/// Upper bounds of the histogram's buckets, in milliseconds: finest below a heartbeat interval on
/// a LAN, and up to where the connection is given up.
pub const APPEND_BOUNDS_MS: [f64; 16] =
    [0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0, 250.0, 500.0, 1000.0];
const BUCKETS: usize = APPEND_BOUNDS_MS.len();

/// Round trips of AppendEntries to one node, from the hand-over to the network to the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendLatency {
    /// Answers within each of [`APPEND_BOUNDS_MS`] and above the bound before; one more for all
    /// that took longer.
    pub buckets: [u64; BUCKETS + 1],
    /// The sum of all round trips.
    pub sum: Duration,
    /// Requests whose answer never came: the channel broke, or nobody waited any more.
    pub unanswered: u64,
}

/// Counts while it is in use.
#[derive(Debug, Default)]
pub(crate) struct Latency {
    buckets: [AtomicU64; BUCKETS + 1],
    sum_ns: AtomicU64,
    unanswered: AtomicU64,
}

impl Latency {
    pub(crate) fn answered(&self, took: Duration) {
        let ms = took.as_secs_f64() * 1e3;
        let bucket = APPEND_BOUNDS_MS.partition_point(|bound| *bound < ms);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    pub(crate) fn unanswered(&self, count: usize) {
        self.unanswered.fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> AppendLatency {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        AppendLatency {
            buckets: std::array::from_fn(|i| get(&self.buckets[i])),
            sum: Duration::from_nanos(get(&self.sum_ns)),
            unanswered: get(&self.unanswered),
        }
    }
}

/// One for each node that this one sent entries or heartbeats to: voters and learners, few.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Mutex<BTreeMap<NodeId, Arc<Latency>>>);

impl Latencies {
    pub(crate) fn of(&self, node: NodeId) -> Arc<Latency> {
        self.0.lock().entry(node).or_default().clone()
    }

    pub(crate) fn all(&self) -> Vec<(NodeId, AppendLatency)> {
        self.0.lock().iter().map(|(node, latency)| (*node, latency.read())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_trip_is_in_the_bucket_of_its_bound() {
        let latency = Latency::default();
        for micros in [250, 251, 50_000, 50_001, 2_000_000] {
            latency.answered(Duration::from_micros(micros));
        }
        latency.unanswered(3);
        let read = latency.read();
        let filled: Vec<_> = (0..=BUCKETS).filter(|i| read.buckets[*i] > 0).collect();
        assert_eq!(filled, [0, 1, 11, 12, 16]);
        assert_eq!(read.sum, Duration::from_micros(2_100_502));
        assert_eq!(read.unanswered, 3);
    }
}
