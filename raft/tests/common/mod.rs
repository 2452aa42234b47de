//! A cluster in one process: real disks, and a network that can be cut.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use swarmer_model::NodeId;
use swarmer_raft::{Config, Handle, Outcome, Raft, Transport, TransportError, Txn, disk::RealDisk};

pub const SOON: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Links {
    nodes: BTreeMap<NodeId, Handle>,
    /// Directed pairs that are cut.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// Answers of proposals that are still to be lost.
    lose_answers: usize,
}

/// The network: which handles there are, and who cannot reach whom.
#[derive(Default, Clone)]
pub struct Net(Arc<Mutex<Links>>);

struct Port {
    net: Net,
    node: NodeId,
}

impl Net {
    pub fn port(&self, node: NodeId) -> Arc<dyn Transport> {
        Arc::new(Port { net: self.clone(), node })
    }

    pub fn cut(&self, a: NodeId, b: NodeId) {
        self.0.lock().unwrap().cut.extend([(a, b), (b, a)]);
    }

    pub fn isolate(&self, node: NodeId) {
        let others: Vec<NodeId> = self.0.lock().unwrap().nodes.keys().copied().collect();
        for other in others.into_iter().filter(|other| *other != node) {
            self.cut(node, other);
        }
    }

    pub fn heal(&self) {
        self.0.lock().unwrap().cut.clear();
    }

    pub fn lose_answers(&self, count: usize) {
        self.0.lock().unwrap().lose_answers = count;
    }
}

#[async_trait]
impl Transport for Port {
    async fn call(
        &self,
        target: NodeId,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, TransportError> {
        let find = || {
            let links = self.net.0.lock().unwrap();
            if links.cut.contains(&(self.node, target)) {
                return None;
            }
            links.nodes.get(&target).cloned()
        };
        let Some(handle) = find() else {
            return Err(TransportError::Unreachable("cut".to_owned()));
        };
        // The sixth variant after version and the intended node: a proposal.
        let proposal = {
            let mut rest = &body[1..];
            while rest[0] & 0x80 != 0 {
                rest = &rest[1..];
            }
            rest[1] == 5
        };
        let answer = tokio::time::timeout(deadline, handle.handle_message(self.node, body));
        let answer = match answer.await {
            Err(_) => return Err(TransportError::Timeout),
            Ok(Err(error)) => return Err(TransportError::Failed(error.to_string())),
            Ok(Ok(answer)) => answer,
        };
        let mut links = self.net.0.lock().unwrap();
        if links.cut.contains(&(target, self.node)) {
            return Err(TransportError::Timeout);
        }
        if proposal && links.lose_answers > 0 {
            links.lose_answers -= 1;
            return Err(TransportError::Failed("the answer was lost".to_owned()));
        }
        Ok(answer)
    }
}

pub struct Cluster {
    pub net: Net,
    pub dir: tempfile::TempDir,
    pub nodes: BTreeMap<NodeId, Raft>,
    pub tune: fn(&mut Config),
}

impl Cluster {
    /// So many voters, with a leader.
    pub async fn start(count: u64) -> Self {
        Self::tuned(count, |_| {}).await
    }

    pub async fn tuned(count: u64, tune: fn(&mut Config)) -> Self {
        let mut cluster = Self {
            net: Net::default(),
            dir: tempfile::tempdir().unwrap(),
            nodes: BTreeMap::new(),
            tune,
        };
        for id in 1..=count {
            cluster.open(NodeId(id)).await;
        }
        let voters: BTreeSet<NodeId> = cluster.nodes.keys().copied().collect();
        cluster.handle(1).initialize(voters.clone()).await.unwrap();
        cluster.handle(1).initialize(voters).await.unwrap();
        cluster.leader().await;
        cluster
    }

    pub fn path(&self, node: NodeId) -> PathBuf {
        self.dir.path().join(node.to_string())
    }

    pub async fn open(&mut self, node: NodeId) {
        let mut config = Config::new(node, self.path(node));
        (self.tune)(&mut config);
        let disk = Arc::new(RealDisk::new());
        let raft = Raft::open(config, disk, self.net.port(node)).await.unwrap();
        self.net.0.lock().unwrap().nodes.insert(node, raft.handle());
        self.nodes.insert(node, raft);
    }

    /// Stops a node; its data stays.
    pub async fn stop(&mut self, node: NodeId) {
        self.net.0.lock().unwrap().nodes.remove(&node);
        let raft = self.nodes.remove(&node).unwrap();
        raft.handle().shutdown().await.unwrap();
    }

    pub fn handle(&self, node: u64) -> Handle {
        self.nodes[&NodeId(node)].handle()
    }

    /// The leader that a majority follows.
    pub async fn leader(&self) -> NodeId {
        self.leader_of(&self.nodes.keys().copied().collect::<Vec<_>>()).await
    }

    /// Waits until all of these agree on one of them.
    pub async fn leader_of(&self, nodes: &[NodeId]) -> NodeId {
        let agreed = async {
            let mut watch = self.nodes[&nodes[0]].handle().subscribe_status();
            loop {
                let first = self.nodes[&nodes[0]].handle().status().leader;
                if let Some(leader) = first
                    && nodes.contains(&leader)
                    && nodes.iter().all(|n| self.nodes[n].handle().status().leader == first)
                {
                    return leader;
                }
                let _ = tokio::time::timeout(Duration::from_millis(20), watch.changed()).await;
            }
        };
        tokio::time::timeout(SOON, agreed).await.expect("a leader")
    }

    pub async fn put(&self, node: u64, key: &str, value: &str) -> u64 {
        let txn = Txn::new().put(key, value.to_owned());
        match self.handle(node).write(txn, SOON).await {
            Ok(Outcome::Committed { revision }) => revision,
            other => panic!("{key}: {other:?}"),
        }
    }

    /// Waits until all nodes are at a revision; they must then have the same chain.
    pub async fn settle(&self, revision: u64) {
        let mut chains = BTreeSet::new();
        for raft in self.nodes.values() {
            raft.view().wait_for(revision, SOON).await.unwrap();
            let (at, chain) = raft.view().position();
            assert_eq!(at, revision);
            chains.insert(chain.0);
        }
        assert_eq!(chains.len(), 1, "the states differ");
    }

    pub async fn stop_all(&mut self) {
        for node in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop(node).await;
        }
    }
}
