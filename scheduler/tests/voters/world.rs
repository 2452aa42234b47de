//! A cluster whose leader does what the planner says.

use std::collections::BTreeSet;

use swarmer_model::NodeId;
use swarmer_scheduler::{
    Membership, VoterCommand, VoterInput, VoterNode, VoterPolicy, VoterStep, plan_voters,
};

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) input: VoterInput,
    pub(crate) now_ms: u64,
    /// How many nodes there ever were: an id is never used again.
    pub(crate) made: u64,
}

pub(crate) fn node(id: u64, name: &str, region: &str, zone: &str) -> VoterNode {
    VoterNode {
        id: NodeId(id),
        name: name.to_owned(),
        region: region.to_owned(),
        zone: zone.to_owned(),
        ..VoterNode::default()
    }
}

impl Default for World {
    fn default() -> Self {
        let input = VoterInput {
            nodes: Vec::new(),
            membership: Membership { settled: true, ..Membership::default() },
            policy: VoterPolicy { wanted: 3, grace_ms: 60_000 },
            lead_region: None,
        };
        Self { input, now_ms: 0, made: 0 }
    }
}

impl World {
    pub(crate) fn voters(&self) -> &BTreeSet<NodeId> {
        self.input.membership.configs.last().unwrap()
    }

    pub(crate) fn lives(&self, id: NodeId) -> bool {
        self.input
            .nodes
            .iter()
            .any(|node| node.id == id && node.dead_since_ms.is_none() && node.barred.is_none())
    }

    pub(crate) fn living(&self, of: &BTreeSet<NodeId>) -> usize {
        of.iter().filter(|id| self.lives(**id)).count()
    }

    pub(crate) fn step(&self) -> Option<VoterStep> {
        plan_voters(&self.input, self.now_ms)
    }

    /// Carries a command out, as far as the engine and the nodes can: it refuses what it would.
    pub(crate) fn carry_out(&mut self, command: &VoterCommand) {
        let membership = &mut self.input.membership;
        assert!(membership.settled, "a change on top of a change");
        match command {
            VoterCommand::AddLearner { node } => {
                membership.learners.insert(node.id, true);
            }
            VoterCommand::DropLearner { node } => {
                assert!(membership.learners.remove(&node.id).is_some(), "no learner: {node}");
            }
            VoterCommand::HandOver { to } => {
                assert!(membership.configs.last().unwrap().contains(&to.id), "no voter: {to}");
                membership.leader = to.id;
            }
            VoterCommand::Finish { voters }
            | VoterCommand::Promote { voters, .. }
            | VoterCommand::Replace { voters, .. }
            | VoterCommand::Remove { voters, .. } => {
                let before = membership.configs.last().unwrap().clone();
                for new in voters.difference(&before) {
                    assert_eq!(membership.learners.remove(new), Some(true), "{new} is not ready");
                }
                membership.configs = vec![voters.clone()];
                assert!(voters.contains(&membership.leader), "the leader lost its vote");
            }
        }
    }
}
