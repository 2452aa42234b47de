//! Nodes that just failed calls are left out for a short time, by this node's own experience.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use swarmer_model::NodeId;

/// When a node is left out, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierConfig {
    /// So many failures in a row leave a node out.
    pub failures: u32,
    /// For how long, the first time; doubled each time it fails again at once.
    pub ejection: Duration,
    /// Never longer than this.
    pub max_ejection: Duration,
}

impl Default for OutlierConfig {
    /// Two failures in a row, half a second: the membership notices a dead node within a second
    /// or two, so this only has to bridge that.
    fn default() -> Self {
        Self {
            failures: 2,
            ejection: Duration::from_millis(500),
            max_ejection: Duration::from_secs(10),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Record {
    in_a_row: u32,
    ejections: u32,
    until: Option<Instant>,
}

/// Who failed lately. Holds only nodes whose last call failed, at most [`Outlier::MAX_NODES`].
#[derive(Debug)]
pub struct Outlier {
    config: OutlierConfig,
    nodes: HashMap<NodeId, Record>,
}

impl Outlier {
    /// The most nodes that are remembered; beyond it, a further failing node is not left out.
    pub const MAX_NODES: usize = 4096;

    /// Nobody has failed yet.
    pub fn new(config: OutlierConfig) -> Self {
        Self { config, nodes: HashMap::new() }
    }

    /// A call to the node was answered.
    pub fn succeeded(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// A call to the node failed for a reason that lies with the node (unreachable, broken off).
    pub fn failed(&mut self, node: NodeId, now: Instant) {
        if self.nodes.len() >= Self::MAX_NODES && !self.nodes.contains_key(&node) {
            return;
        }
        let record =
            self.nodes.entry(node).or_insert(Record { in_a_row: 0, ejections: 0, until: None });
        record.in_a_row += 1;
        let out_now = record.until.is_some_and(|until| now < until);
        if record.in_a_row >= self.config.failures && !out_now {
            let factor = 1u32 << record.ejections.min(16);
            let time = self.config.ejection.saturating_mul(factor).min(self.config.max_ejection);
            record.until = Some(now + time);
            record.ejections += 1;
        }
    }

    /// Whether the node is left out now.
    pub fn is_ejected(&self, node: NodeId, now: Instant) -> bool {
        self.nodes.get(&node).and_then(|record| record.until).is_some_and(|until| now < until)
    }

    /// Forgets nodes that are no members any more.
    pub fn retain(&mut self, is_member: impl Fn(NodeId) -> bool) {
        self.nodes.retain(|node, _| is_member(*node));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_node_is_left_out_and_comes_back() {
        let config = OutlierConfig::default();
        let mut outlier = Outlier::new(config);
        let (node, start) = (NodeId(1), Instant::now());
        outlier.failed(node, start);
        assert!(!outlier.is_ejected(node, start));
        outlier.failed(node, start);
        assert!(outlier.is_ejected(node, start));
        let back = start + config.ejection;
        assert!(!outlier.is_ejected(node, back));
        outlier.failed(node, back);
        assert!(outlier.is_ejected(node, back + config.ejection));
        assert!(!outlier.is_ejected(node, back + config.ejection * 2));
        outlier.succeeded(node);
        outlier.failed(node, back);
        assert!(!outlier.is_ejected(node, back));
    }

    #[test]
    fn the_time_is_bounded() {
        let config = OutlierConfig::default();
        let mut outlier = Outlier::new(config);
        let mut now = Instant::now();
        for _ in 0..100 {
            outlier.failed(NodeId(1), now);
            now += config.max_ejection;
            assert!(!outlier.is_ejected(NodeId(1), now));
        }
    }
}
