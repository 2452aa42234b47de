//! The merged records of all nodes.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use swarmer_model::{ClusterId, NodeId};

use crate::{Admission, Facts, MAX_MEMBERS, Record, Refusal, SignedRecord, Verifier};

/// Which record of a node is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Whose.
    pub node: NodeId,
    /// The start of the node that made it.
    pub boot: u64,
    /// Its version within that start.
    pub version: u64,
}

/// A record that replaced an older one, or was the first.
#[derive(Debug, Clone, PartialEq)]
pub struct Merge {
    /// The new record.
    pub record: Arc<Record>,
    /// The one before.
    pub before: Option<Arc<Record>>,
}

impl Merge {
    /// Whether more is new than how busy the node is and where it stands: what others decide by, and
    /// must not hear of late.
    pub(crate) fn is_urgent(&self) -> bool {
        let Some(before) = &self.before else { return true };
        let (old, new) = (&before.facts, &self.record.facts);
        let mut same = Facts { load: new.load, coordinate: new.coordinate, ..old.clone() };
        for (endpoint, now) in same.endpoints.iter_mut().zip(&new.endpoints) {
            endpoint.in_flight = now.in_flight;
        }
        self.record.left != before.left || self.record.boot != before.boot || same != *new
    }
}

struct Entry {
    record: Arc<Record>,
    signed: Arc<SignedRecord>,
    /// Of node and stamp, for fingerprints.
    mark: u64,
}

/// A number of these three, the same on every build.
pub(crate) fn mark(of: [u64; 3]) -> u64 {
    let bytes = of.map(u64::to_le_bytes).concat();
    let [a, b, c, d, e, f, g, h, ..] = swarmer_model::Digest::of(&bytes).0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The newest good record of each node. Merging is idempotent, commutative and associative:
/// the order of arrival does not matter.
#[derive(Clone)]
pub struct Catalog {
    cluster: ClusterId,
    /// Behind a pointer: those who hold the same may share it.
    entries: BTreeMap<NodeId, Arc<Entry>>,
    /// The sum of all marks.
    fingerprint: u64,
}

impl Catalog {
    /// An empty catalog of this cluster.
    pub fn new(cluster: ClusterId) -> Self {
        Self { cluster, entries: BTreeMap::new(), fingerprint: 0 }
    }

    /// Merges a record of another node. `Ok(None)` is the very record that is held already.
    ///
    /// # Errors
    /// The reason, and whose record it says it is; nothing changed then.
    pub fn merge(
        &mut self,
        signed: SignedRecord,
        admission: &dyn Admission,
        verifier: &dyn Verifier,
    ) -> Result<Option<Merge>, (Refusal, Option<NodeId>)> {
        let (node, stamp) = signed.head().map_err(|reason| (reason, None))?;
        if let Some(held) = self.entries.get(&node) {
            if stamp == held.record.stamp() && *held.signed == signed {
                return Ok(None);
            }
            if stamp <= held.record.stamp() {
                return Err((Refusal::StaleRecord, Some(node)));
            }
        } else if self.entries.len() >= MAX_MEMBERS {
            return Err((Refusal::TooManySenders, Some(node)));
        }
        if !admission.admitted(node) {
            return Err((Refusal::NotAdmitted, Some(node)));
        }
        if !signed.is_by(node, self.cluster, verifier) {
            return Err((Refusal::ForgedRecord, Some(node)));
        }
        let record = signed.read().map_err(|reason| (reason, Some(node)))?;
        Ok(Some(self.put(record, signed)))
    }

    /// Takes a record of this node itself.
    pub(crate) fn put(&mut self, record: Record, signed: SignedRecord) -> Merge {
        let record = Arc::new(record);
        let mark = mark([record.node.0, record.boot, record.version]);
        let entry = Entry { record: record.clone(), signed: Arc::new(signed), mark };
        let before = self.entries.insert(record.node, Arc::new(entry));
        let old = before.as_ref().map_or(0, |old| old.mark);
        self.fingerprint = self.fingerprint.wrapping_add(mark).wrapping_sub(old);
        Merge { record, before: before.map(|old| old.record.clone()) }
    }

    /// The one record of each of these, which must be of different nodes of one cluster.
    #[cfg(feature = "formed")]
    pub(crate) fn of_each<'a>(cluster: ClusterId, own: impl Iterator<Item = &'a Self>) -> Self {
        let entries: BTreeMap<NodeId, Arc<Entry>> =
            own.flat_map(|catalog| catalog.entries.clone()).collect();
        let fingerprint = entries.values().map(|entry| entry.mark).fold(0, u64::wrapping_add);
        Self { cluster, entries, fingerprint }
    }

    /// Drops the record of a node that is no longer admitted.
    pub(crate) fn remove(&mut self, node: NodeId) -> bool {
        let Some(old) = self.entries.remove(&node) else { return false };
        self.fingerprint = self.fingerprint.wrapping_sub(old.mark);
        true
    }

    /// The record of a node.
    pub fn get(&self, node: NodeId) -> Option<&Arc<Record>> {
        self.entries.get(&node).map(|entry| &entry.record)
    }

    /// The record of a node as it travels.
    pub fn signed(&self, node: NodeId) -> Option<&Arc<SignedRecord>> {
        self.entries.get(&node).map(|entry| &entry.signed)
    }

    /// How many records are held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A number that two catalogs have in common if they hold the same records.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// The same of the records of the nodes `from..=to`, which must not be turned round.
    pub(crate) fn fingerprint_of(&self, from: NodeId, to: NodeId) -> u64 {
        let marks = self.entries.range(from..=to).map(|(_, entry)| entry.mark);
        marks.fold(0, u64::wrapping_add)
    }

    /// Whose records are held.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.entries.keys().copied()
    }

    /// What is held, of the nodes from `from` on, ascending.
    pub fn digests(&self, from: NodeId) -> impl Iterator<Item = Digest> + '_ {
        self.entries.range(from..).map(|(node, entry)| Digest {
            node: *node,
            boot: entry.record.boot,
            version: entry.record.version,
        })
    }

    /// Compares what another node holds of the nodes `from..=to` with what is held here:
    /// (nodes whose record is newer here, nodes whose record is newer there).
    pub fn compare(
        &self,
        from: NodeId,
        to: NodeId,
        theirs: &[Digest],
    ) -> (Vec<NodeId>, Vec<NodeId>) {
        let there: BTreeMap<NodeId, (u64, u64)> =
            theirs.iter().map(|d| (d.node, (d.boot, d.version))).collect();
        let mut newer_here = Vec::new();
        if from <= to {
            for (node, entry) in self.entries.range(from..=to) {
                if there.get(node).is_none_or(|stamp| *stamp < entry.record.stamp()) {
                    newer_here.push(*node);
                }
            }
        }
        let newer_there = there
            .iter()
            .filter(|(node, stamp)| self.is_newer(**node, **stamp))
            .map(|(node, _)| *node)
            .collect();
        (newer_here, newer_there)
    }

    /// Whether a record with this stamp is newer than the one held.
    pub(crate) fn is_newer(&self, node: NodeId, stamp: (u64, u64)) -> bool {
        self.entries.get(&node).is_none_or(|held| held.record.stamp() < stamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Coordinate, Endpoint, EndpointState, Load};
    use swarmer_model::EndpointHealth;

    fn record(version: u64, facts: Facts) -> Arc<Record> {
        Arc::new(Record { node: NodeId(1), boot: 1, version, left: false, facts })
    }

    #[test]
    fn where_a_member_stands_and_how_busy_it_is_can_wait_and_all_else_cannot() {
        let endpoint = Endpoint {
            function: "default/f".into(),
            version: 1,
            state: EndpointState::Ready,
            in_flight: 1,
            concurrency: 10,
            health: EndpointHealth::Good,
        };
        let facts = Facts { name: "a".into(), endpoints: vec![endpoint], ..Facts::default() };
        let before = record(1, facts.clone());
        let urgent = |change: fn(&mut Facts)| {
            let mut facts = facts.clone();
            change(&mut facts);
            Merge { record: record(2, facts), before: Some(before.clone()) }.is_urgent()
        };
        assert!(!urgent(|_| ()));
        assert!(!urgent(|facts| {
            let (position, height) = ([5; crate::DIMENSIONS], 1);
            facts.coordinate = Some(Coordinate { position, height, adjustment: 0, error: 9 });
            facts.load = Load { in_flight: 7, ..Load::default() };
            facts.endpoints[0].in_flight = 7;
        }));
        assert!(urgent(|facts| facts.endpoints[0].health = EndpointHealth::Failing));
        assert!(urgent(|facts| facts.endpoints.clear()));
        assert!(urgent(|facts| facts.draining = true));
        assert!(Merge { record: before.clone(), before: None }.is_urgent());
        let left = Record { left: true, version: 2, ..(*before).clone() };
        assert!(Merge { record: Arc::new(left), before: Some(before.clone()) }.is_urgent());
    }
}
