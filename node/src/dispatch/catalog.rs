//! What the members say they serve, indexed by function.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use swarmer_gossip::{EndpointState, Members};
use swarmer_mesh::routing::Endpoint;
use swarmer_model::NodeId;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::desired::{Desired, DesiredStore};

/// The catalog at one moment.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Endpoints that take calls on members that live, by function.
    ready: HashMap<Box<str>, Vec<(u32, Endpoint)>>,
    alive: HashSet<NodeId>,
}

impl Index {
    /// Builds the index. Region and zone come from the committed state: what a node says of
    /// itself is no authority.
    pub(crate) fn build(members: &Members, desired: &Desired) -> Self {
        let mut index = Self::default();
        for member in members {
            if !member.state.is_active() {
                continue;
            }
            index.alive.insert(member.node);
            let Some(record) = &member.record else { continue };
            if member.draining {
                continue;
            }
            let committed = desired.nodes.get(&member.node).map(|node| &node.spec);
            if committed.is_some_and(|spec| spec.draining) {
                continue;
            }
            for endpoint in &record.facts.endpoints {
                if endpoint.state != EndpointState::Ready {
                    continue;
                }
                let ready = Endpoint {
                    node: member.node,
                    region: committed.map(|spec| spec.region.clone()).unwrap_or_default(),
                    zone: committed.map(|spec| spec.zone.clone()).unwrap_or_default(),
                    load: endpoint.in_flight,
                    has_room: endpoint.in_flight < endpoint.concurrency,
                };
                let list = index.ready.entry(endpoint.function.as_str().into()).or_default();
                list.push((endpoint.version, ready));
            }
        }
        index
    }

    /// Where a version of a function is ready.
    pub(crate) fn ready(&self, function: &str, version: u32) -> Vec<Endpoint> {
        let all = self.ready.get(function).into_iter().flatten();
        all.filter(|(v, _)| *v == version).map(|(_, endpoint)| endpoint.clone()).collect()
    }

    /// Whether a member lives, as far as this node knows.
    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        self.alive.contains(&node)
    }
}

/// Follows membership and committed state.
#[derive(Debug, Clone)]
pub(crate) struct Catalog {
    current: watch::Receiver<Arc<Index>>,
}

impl Catalog {
    /// Starts following on the current runtime, until `shutdown`.
    pub(crate) fn follow(
        mut members: watch::Receiver<Arc<Members>>,
        desired: &DesiredStore,
        shutdown: CancellationToken,
    ) -> Self {
        let mut states = desired.subscribe();
        let first = Index::build(&members.borrow_and_update(), &states.borrow_and_update());
        let (sender, current) = watch::channel(Arc::new(first));
        tokio::spawn(async move {
            loop {
                let changed = tokio::select! {
                    () = shutdown.cancelled() => return,
                    changed = members.changed() => changed,
                    changed = states.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
                let index = Index::build(&members.borrow_and_update(), &states.borrow_and_update());
                sender.send_replace(Arc::new(index));
            }
        });
        Self { current }
    }

    /// The catalog now and every later one (the newest, not each).
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Index>> {
        self.current.clone()
    }

    /// The catalog now.
    pub(crate) fn current(&self) -> Arc<Index> {
        Arc::clone(&self.current.borrow())
    }
}
