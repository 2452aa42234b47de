//! What the planner of voters says: one command and its reason.

use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize};
use swarmer_model::NodeId;

use crate::input::NodeRef;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VoterCommand {
    /// Finish the change that was left half done: these become the only voters.
    Finish {
        /// The voters afterwards.
        voters: BTreeSet<NodeId>,
    },
    /// Let a node have the log, without a vote.
    AddLearner {
        /// Which.
        node: NodeRef,
    },
    /// Give learners a vote.
    Promote {
        /// Who gets one.
        nodes: Vec<NodeRef>,
        /// The voters afterwards.
        voters: BTreeSet<NodeId>,
    },
    /// Give a learner the vote of another node.
    Replace {
        /// Whose vote goes.
        out: NodeRef,
        /// Who gets it.
        with: NodeRef,
        /// The voters afterwards.
        voters: BTreeSet<NodeId>,
    },
    /// Take votes away.
    Remove {
        /// Whose votes go.
        nodes: Vec<NodeRef>,
        /// The voters afterwards.
        voters: BTreeSet<NodeId>,
    },
    /// A learner gets the log no longer.
    DropLearner {
        /// Which.
        node: NodeRef,
    },
    /// Let another voter lead: this leader's vote is about to go, the node is emptied, or another region
    /// was chosen.
    HandOver {
        /// Who.
        to: NodeRef,
    },
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VoterReason {
    /// A change was left half done.
    HalfDone,
    /// There are fewer voters than wanted, and nodes that can vote.
    Few {
        /// How many there are.
        have: usize,
        /// How many are wanted.
        wanted: usize,
    },
    /// There are more voters than wanted.
    Many {
        /// How many there are.
        have: usize,
        /// How many are wanted.
        wanted: usize,
    },
    /// A voter has been dead for longer than the grace time.
    Dead {
        /// Which.
        node: NodeRef,
        /// The grace time, in milliseconds.
        grace_ms: u64,
    },
    /// A voter cannot hold its vote.
    Barred {
        /// Which.
        node: NodeRef,
        /// Why not.
        why: String,
    },
    /// A voter is to leave the cluster, or left it.
    Leaving {
        /// Which.
        node: NodeRef,
    },
    /// A voter's region is drained, and another node can have its vote.
    RegionDrained {
        /// Which node that is.
        node: NodeRef,
        /// The region.
        region: String,
    },
    /// A voter should not vote, and another node can have its vote.
    Abstains {
        /// Which.
        node: NodeRef,
    },
    /// Votes are crowded into one region, and one that was drained takes work again.
    Returning {
        /// The region that gets one.
        region: String,
    },
    /// A majority of the votes stands in one region or zone, and they can stand so that the loss of any
    /// one leaves a quorum.
    Crowded {
        /// The region.
        region: String,
        /// The zone, where it is about zones.
        zone: Option<String>,
    },
    /// The leader is to stand in this region: somebody said so.
    Chosen {
        /// The region.
        region: String,
    },
    /// The leader is being emptied.
    Draining {
        /// Which node that is.
        node: NodeRef,
    },
    /// The learner is not needed, or died before it was.
    NotNeeded,
}

/// A command with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoterStep {
    /// What to do.
    pub command: VoterCommand,
    /// Why.
    pub reason: VoterReason,
}

fn counted(voters: usize) -> String {
    if voters == 1 { "1 voter".to_owned() } else { format!("{voters} voters") }
}

fn listed(nodes: &[NodeRef]) -> String {
    nodes.iter().map(NodeRef::to_string).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for VoterCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finish { voters } => write!(f, "finish the change to {}", counted(voters.len())),
            Self::AddLearner { node } => write!(f, "add learner {node}"),
            Self::Promote { nodes, voters } => {
                write!(f, "give {} a vote: {}", listed(nodes), counted(voters.len()))
            }
            Self::Replace { out, with, voters } => {
                write!(f, "give the vote of {out} to {with}: {}", counted(voters.len()))
            }
            Self::Remove { nodes, voters } => {
                write!(f, "take the vote of {}: {}", listed(nodes), counted(voters.len()))
            }
            Self::DropLearner { node } => write!(f, "drop learner {node}"),
            Self::HandOver { to } => write!(f, "let {to} lead"),
        }
    }
}

impl fmt::Display for VoterReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HalfDone => f.write_str("a change was left half done"),
            Self::Few { have, wanted } => write!(f, "{have} of {wanted} voters"),
            Self::Many { have, wanted } => write!(f, "{}, {wanted} wanted", counted(*have)),
            Self::Dead { node, grace_ms } => {
                write!(f, "voter {node} is dead for longer than the grace of {grace_ms} ms")
            }
            Self::Barred { node, why } => write!(f, "voter {node} cannot vote: {why}"),
            Self::Leaving { node } => write!(f, "voter {node} leaves the cluster"),
            Self::RegionDrained { node, region } => {
                write!(f, "region {region} of voter {node} is drained")
            }
            Self::Abstains { node } => write!(f, "voter {node} is labelled not to vote"),
            Self::Returning { region } => write!(f, "region {region} takes work again"),
            Self::Crowded { region, zone } => {
                match zone {
                    Some(zone) => write!(f, "zone {zone} of region {region}")?,
                    None => write!(f, "region {region}")?,
                }
                f.write_str(" has a majority of the votes, and need not")
            }
            Self::Chosen { region } => write!(f, "region {region} was chosen to lead"),
            Self::Draining { node } => write!(f, "{node} is being emptied"),
            Self::NotNeeded => f.write_str("it is not needed"),
        }
    }
}

impl fmt::Display for VoterStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.command, self.reason)
    }
}
