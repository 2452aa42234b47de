//! Looks at every node: which versions of the wire are spoken, and how much was said in each.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::Method;
use parking_lot::Mutex;

use crate::cluster::{Cluster, Port};

/// Between two looks at a node.
const PERIOD: Duration = Duration::from_millis(300);
/// How long a look may take.
const LOOK: Duration = Duration::from_secs(1);

/// What was seen. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Versions(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// Messages with writes, by version.
    sent: BTreeMap<u8, u64>,
    /// Looks at a node whose connections were of several versions.
    mixed: u64,
}

/// What a node tells of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    /// Messages with writes since its start, by version.
    sent: BTreeMap<u8, u64>,
    /// Connections that stand, by version.
    connections: BTreeMap<u8, u64>,
}

impl Versions {
    /// Messages with writes from node to node, by version.
    pub(super) fn sent(&self) -> BTreeMap<u8, u64> {
        self.0.lock().sent.clone()
    }

    /// Looks at a node whose connections were of several versions.
    pub(super) fn mixed(&self) -> u64 {
        self.0.lock().mixed
    }

    /// Looks at one node again and again, until it is dropped.
    pub(super) async fn look_at(self, cluster: Arc<Cluster>, node: usize) {
        let mut gateway = cluster.gateway(node, Port::Api);
        let mut before = Told::default();
        loop {
            tokio::time::sleep(PERIOD).await;
            let Ok(reply) = gateway.send(Method::GET, "/metrics", &[], "", LOOK).await else {
                continue;
            };
            let told = Told::of(&String::from_utf8_lossy(&reply.body));
            self.saw(&before, &told);
            before = told;
        }
    }

    fn saw(&self, before: &Told, told: &Told) {
        let mut seen = self.0.lock();
        for (version, count) in &told.sent {
            let counted = before.sent.get(version).copied().unwrap_or(0);
            // It counts from the start on: less than before is another life of the node.
            let more = count.checked_sub(counted).unwrap_or(*count);
            *seen.sent.entry(*version).or_default() += more;
        }
        seen.mixed += u64::from(told.connections.len() > 1);
    }
}

impl Told {
    /// By its metrics.
    fn of(text: &str) -> Self {
        let mut told = Self::default();
        for line in text.lines() {
            let labelled = |name: &str| -> Option<(u8, u64)> {
                let rest = line.strip_prefix(name)?.strip_prefix("{version=\"")?;
                let (version, value) = rest.split_once("\"} ")?;
                // Whole numbers, which the format writes as floats.
                let value = value.split('.').next()?.parse().ok()?;
                Some((version.parse().ok()?, value))
            };
            told.sent.extend(labelled("swarmer_raft_sent_writes_messages_total"));
            told.connections.extend(labelled("swarmer_transport_version_connections"));
        }
        told.connections.retain(|_, count| *count > 0);
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sent: &[(u8, u64)], connections: &[(u8, u64)]) -> Told {
        let map = |pairs: &[(u8, u64)]| pairs.iter().copied().collect();
        Told { sent: map(sent), connections: map(connections) }
    }

    #[test]
    fn a_node_tells_by_its_metrics() {
        let text = "# TYPE swarmer_transport_version_connections gauge\n\
                    swarmer_transport_version_connections{version=\"1\"} 2\n\
                    swarmer_transport_version_connections{version=\"2\"} 1.0\n\
                    swarmer_raft_sent_writes_messages_total{version=\"1\"} 7\n\
                    swarmer_raft_append_seconds_sum{peer=\"n2\"} 3.5\n";
        assert_eq!(Told::of(text), told(&[(1, 7)], &[(1, 2), (2, 1)]));
    }

    #[test]
    fn what_a_node_counted_in_each_of_its_lives_is_added_up() {
        let versions = Versions::default();
        let lives = [
            told(&[], &[]),
            told(&[(1, 4), (2, 0)], &[(1, 2)]),
            told(&[(1, 9), (2, 0)], &[(1, 1), (2, 1)]),
            told(&[(1, 2), (2, 3)], &[(2, 2)]),
        ];
        lives.windows(2).for_each(|two| versions.saw(&two[0], &two[1]));
        assert_eq!(versions.sent(), BTreeMap::from([(1, 11), (2, 3)]));
        assert_eq!(versions.mixed(), 1);
    }
}
