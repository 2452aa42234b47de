//! Membership: after healing all that run see just each other alive, each by its newest start.

use std::sync::Arc;

use swarmer_gossip::MemberState;

use crate::node::Node;

pub(crate) fn agreed(nodes: &[Arc<Node>]) -> Result<(), String> {
    for node in nodes {
        let members = node.gossip.members();
        let seen = members.iter().filter(|m| m.state == MemberState::Alive);
        let seen: Vec<(u64, u64)> = seen.map(|m| (m.node.0, m.boot)).collect();
        let there: Vec<(u64, u64)> = nodes.iter().map(|n| (n.id.0, n.boot)).collect();
        if seen != there {
            let held: Vec<String> = members
                .iter()
                .filter(|m| m.state != MemberState::Alive)
                .map(|m| format!("{} ({}) {:?}: {}", m.node.0, m.boot, m.state, m.reason))
                .collect();
            return Err(format!(
                "node {} sees {seen:?} alive (node, start), and {there:?} are; it holds [{}]",
                node.id.0,
                held.join("; ")
            ));
        }
        if let Some(unknown) =
            members.iter().find(|m| m.record.as_ref().is_none_or(|record| record.boot != m.boot))
        {
            return Err(format!("node {} has no record of {}", node.id.0, unknown.node.0));
        }
    }
    Ok(())
}
