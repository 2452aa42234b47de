//! Looks at every node all the time: who leads, in which term, and the hash of its state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use http::Method;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    check::MAX_EXPLANATIONS,
    cluster::{Cluster, Gateway, Port},
    history::{Action, Recorder},
};

/// Between two looks at a node.
const PERIOD: Duration = Duration::from_millis(100);
/// How long a look may take.
const LOOK: Duration = Duration::from_secs(1);

/// A term.
pub type Term = u64;

/// Who led since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// On the clock of the history.
    pub from_ns: u64,
    /// The term.
    pub term: Term,
    /// The node.
    pub node: usize,
}

/// What was seen. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Observer {
    leaders: Arc<Mutex<BTreeMap<Term, Leader>>>,
    states: Arc<Mutex<States>>,
    /// Node and file of each snapshot.
    snapshots: Arc<Mutex<BTreeSet<(usize, String)>>>,
    now: watch::Sender<Option<usize>>,
}

/// Who first showed which hash at a revision, and who showed another one.
#[derive(Debug, Default)]
struct States {
    first: BTreeMap<u64, State>,
    /// Looks at a revision that another node had shown before.
    compared: usize,
    differences: Vec<String>,
}

/// The state of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct State {
    pub(super) node: Arc<str>,
    pub(super) revision: u64,
    /// Of all changes up to the revision; it must be the same on all nodes.
    pub(super) hash: String,
}

impl Observer {
    /// Saw nothing yet.
    pub fn new() -> Self {
        Self {
            leaders: Arc::default(),
            states: Arc::default(),
            snapshots: Arc::default(),
            now: watch::Sender::new(None),
        }
    }

    /// The leader of the highest term that was seen.
    pub fn now(&self) -> watch::Receiver<Option<usize>> {
        self.now.subscribe()
    }

    /// One leader for each term in which one was seen.
    pub fn leaders(&self) -> Vec<Leader> {
        self.leaders.lock().values().cloned().collect()
    }

    /// How often another node came to lead, or the same one in a new term.
    pub fn changes(&self) -> u64 {
        (self.leaders.lock().len() as u64).saturating_sub(1)
    }

    /// How many snapshots were seen.
    pub fn snapshots(&self) -> u64 {
        self.snapshots.lock().len() as u64
    }

    /// How many looks met a revision that another node had shown, and those of them that found
    /// another hash, or that one node changed its own.
    pub fn states(&self) -> (usize, Vec<String>) {
        let states = self.states.lock();
        (states.compared, states.differences.clone())
    }

    fn saw_state(&self, seen: &State) {
        let mut states = self.states.lock();
        let Some(first) = states.first.get(&seen.revision).cloned() else {
            states.first.insert(seen.revision, seen.clone());
            return;
        };
        states.compared += usize::from(first.node != seen.node);
        if first.hash != seen.hash && states.differences.len() < MAX_EXPLANATIONS {
            states.differences.push(format!(
                "at revision {} the state of {} has the hash {} and that of {} {}",
                seen.revision, first.node, first.hash, seen.node, seen.hash
            ));
        }
    }

    /// Looks at a node once; none if it does not answer, or tells no hash.
    pub(super) async fn look(
        &self,
        cluster: &Cluster,
        recorder: &Recorder,
        gateway: &mut Gateway,
    ) -> Option<State> {
        let reply = gateway.send(Method::GET, "/v1/status", &[], "", LOOK).await.ok()?;
        let status = reply.json();
        let leader = status["leader"]["name"].as_str();
        // The guest too, while it is a member.
        let leader = (0..=cluster.guest()).find(|i| leader == Some(cluster.name(*i)));
        if let (Some(node), Some(term)) = (leader, status["term"].as_u64()) {
            let from_ns = recorder.now();
            if self.saw(Leader { from_ns, term, node }) {
                let action = Action::Leads { term };
                recorder.note(cluster.name(node), action, (from_ns, from_ns));
            }
        }
        let state = State {
            node: Arc::clone(gateway.node()),
            revision: status["revision"].as_u64()?,
            hash: status["stateHash"].as_str()?.to_owned(),
        };
        self.saw_state(&state);
        Some(state)
    }

    /// Gives whether it is the first of its term.
    fn saw(&self, leader: Leader) -> bool {
        let mut leaders = self.leaders.lock();
        let newest = leaders.last_key_value().is_none_or(|(term, _)| leader.term >= *term);
        if newest {
            self.now.send_replace(Some(leader.node));
        }
        let first = !leaders.contains_key(&leader.term);
        leaders.entry(leader.term).or_insert(leader);
        first
    }

    /// Looks at one node again and again, until it is dropped.
    pub async fn look_at(self, cluster: Arc<Cluster>, recorder: Recorder, node: usize) {
        let mut gateway = cluster.gateway(node, Port::Api);
        loop {
            tokio::time::sleep(PERIOD).await;
            self.look(&cluster, &recorder, &mut gateway).await;
            let files = cluster.snapshots(node).into_iter().map(|file| (node, file));
            self.snapshots.lock().extend(files);
        }
    }
}

impl Default for Observer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_hash_at_the_same_revision_is_told() {
        let observer = Observer::new();
        let saw = |node: &str, revision, hash: &str| {
            observer.saw_state(&State { node: node.into(), revision, hash: hash.into() });
        };
        saw("n1", 4, "a");
        saw("n1", 4, "a");
        saw("n2", 5, "b");
        assert_eq!(observer.states(), (0, Vec::new()), "there was nothing to compare");
        saw("n2", 4, "a");
        assert_eq!(observer.states(), (1, Vec::new()));
        saw("n1", 5, "c");
        saw("n1", 4, "c");
        let (compared, differences) = observer.states();
        assert_eq!((compared, differences.len()), (2, 2), "{differences:?}");
        assert!(differences[0].contains("at revision 5"), "{differences:?}");
    }

    #[test]
    fn an_old_leader_that_still_believes_is_not_the_leader() {
        let observer = Observer::new();
        let saw = |term, node| observer.saw(Leader { from_ns: term, term, node });
        assert_eq!([saw(3, 0), saw(5, 1), saw(3, 0)], [true, true, false]);
        assert_eq!(*observer.now().borrow(), Some(1));
        assert_eq!((observer.changes(), observer.leaders().len()), (1, 2));
    }
}
