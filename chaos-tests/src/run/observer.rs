//! Looks at every node all the time: who leads, in which term.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use http::Method;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    cluster::{Cluster, Port},
    history::Recorder,
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
    now: watch::Sender<Option<usize>>,
}

impl Observer {
    /// Saw nothing yet.
    pub fn new() -> Self {
        Self { leaders: Arc::default(), now: watch::Sender::new(None) }
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

    fn saw(&self, leader: Leader) {
        let mut leaders = self.leaders.lock();
        let newest = leaders.last_key_value().is_none_or(|(term, _)| leader.term >= *term);
        if newest {
            self.now.send_replace(Some(leader.node));
        }
        leaders.entry(leader.term).or_insert(leader);
    }

    /// Looks at one node, until it is dropped.
    pub async fn look_at(self, cluster: Arc<Cluster>, recorder: Recorder, node: usize) {
        let mut gateway = cluster.gateway(node, Port::Api);
        loop {
            tokio::time::sleep(PERIOD).await;
            let reply = gateway.send(Method::GET, "/v1/status", &[], "", LOOK).await;
            let Ok(reply) = reply else { continue };
            let status = reply.json();
            let leader = status["leader"]["name"].as_str();
            let leader = (0..cluster.count()).find(|i| leader == Some(cluster.name(*i)));
            if let (Some(node), Some(term)) = (leader, status["term"].as_u64()) {
                self.saw(Leader { from_ns: recorder.now(), term, node });
            }
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
    fn an_old_leader_that_still_believes_is_not_the_leader() {
        let observer = Observer::new();
        let saw = |term, node| observer.saw(Leader { from_ns: term, term, node });
        saw(3, 0);
        saw(5, 1);
        saw(3, 0);
        assert_eq!(*observer.now().borrow(), Some(1));
        assert_eq!((observer.changes(), observer.leaders().len()), (1, 2));
    }
}
