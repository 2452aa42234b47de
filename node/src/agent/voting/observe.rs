//! What the planner of voters is told, from what this node knows.

use std::collections::{BTreeMap, BTreeSet};

use swarmer_model::{Key, NodeId};
use swarmer_raft::View;
use swarmer_scheduler::{Membership, Stuck, VoterInput, VoterNode, VoterPolicy, odd_size};

use crate::{agent::Context, desired::Desired};

/// The fewest voters that a cluster of enough nodes has.
const FEWEST: usize = 3;

/// Names a node that is to leave, in the desired state.
pub(crate) fn leaving_key(node: NodeId) -> Key {
    Key::cluster(&format!("leaving/{node}"))
}

/// Names the log that a node has, in the desired state: with another one it cannot vote.
pub(crate) fn log_key(node: NodeId) -> Key {
    Key::cluster(&format!("logs/{node}"))
}

/// Holds the name of the region that was chosen to lead, in the desired state.
pub(crate) fn lead_region_key() -> Key {
    Key::cluster("lead-region")
}

/// The region that was chosen to lead.
pub(crate) fn lead_region(view: &View) -> Option<String> {
    let entry = view.get(lead_region_key().as_str())?;
    String::from_utf8(entry.value.to_vec()).ok()
}

/// The founders, where that is known.
fn founders(view: &View) -> Option<Vec<NodeId>> {
    let info = view.get(Key::cluster("info").as_str())?;
    let info: serde_json::Value = serde_json::from_slice(&info.value).ok()?;
    serde_json::from_value(info["founders"].clone()).ok()
}

/// How many voters there should be: as many as founded the cluster, at least three.
pub(super) fn wanted(view: &View) -> usize {
    let founders = founders(view).map(|founders| founders.len());
    odd_size(founders.unwrap_or(FEWEST).max(FEWEST))
}

/// Whether a node may know the key of the authority: it has the log, or had it once.
pub(crate) fn has_held_authority(context: &Context, node: NodeId) -> bool {
    let (status, view) = (context.control.status(), context.control.view());
    status.voters.contains(&node)
        || status.learners.contains(&node)
        || view.get(log_key(node).as_str()).is_some()
        // The log of one that died early may have no name.
        || founders(&view).is_some_and(|founders| founders.contains(&node))
}

/// The nodes that were asked to leave.
pub(super) fn leaving(view: &View) -> BTreeSet<NodeId> {
    let prefix = Key::cluster("leaving/");
    let (_, entries) = view.list(prefix.as_str());
    let ids = entries.iter().filter_map(|(key, _)| key.strip_prefix(prefix.as_str())?.parse().ok());
    ids.collect()
}

/// What was noticed of a node, with times on the clock of who noticed it.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) dead_since_ms: Option<u64>,
    pub(super) alive_since_ms: Option<u64>,
    pub(super) behind: bool,
    pub(super) barred: Option<String>,
}

/// The admitted nodes as the planner takes them.
pub(super) fn nodes(
    desired: &Desired,
    leaving: &BTreeSet<NodeId>,
    seen: impl Fn(NodeId) -> Seen,
) -> Vec<VoterNode> {
    let nodes = desired.nodes.iter().map(|(id, node)| {
        let Seen { dead_since_ms, alive_since_ms, behind, barred } = seen(*id);
        VoterNode {
            id: *id,
            name: node.metadata.name.clone(),
            region: node.spec.region.clone(),
            zone: node.spec.zone.clone(),
            draining: node.spec.draining,
            region_state: desired.region_state(&node.spec.region),
            leaving: leaving.contains(id),
            abstains: node.spec.abstains(),
            dead_since_ms,
            alive_since_ms,
            behind,
            barred,
        }
    });
    nodes.collect()
}

/// Whether a node can give up its vote, by what this node knows.
pub(crate) fn may_leave(context: &Context, node: NodeId) -> Result<(), Stuck> {
    let status = context.control.status();
    let members = context.gossip.members();
    let desired = context.desired.current();
    let alive = |node: &NodeId| {
        *node == context.node || members.iter().any(|m| m.node == *node && m.state.is_active())
    };
    let seen = |node| Seen { dead_since_ms: (!alive(&node)).then_some(0), ..Seen::default() };
    let view = context.control.view();
    let membership = Membership {
        configs: vec![status.voters],
        learners: BTreeMap::new(),
        settled: true,
        leader: status.leader.unwrap_or(node),
    };
    let input = VoterInput {
        nodes: nodes(&desired, &leaving(&view), seen),
        membership,
        policy: VoterPolicy { wanted: wanted(&view), grace_ms: 0 },
        lead_region: None,
    };
    swarmer_scheduler::may_leave(&input, node, 0)
}
