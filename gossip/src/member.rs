//! What this node thinks of a member, and why.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use swarmer_model::NodeId;

use crate::Record;

/// What this node thinks of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It answers.
    Alive,
    /// It did not answer a probe and has not refuted that yet; still counted as a member.
    Suspect,
    /// It is taken for dead.
    Down,
    /// It said that it leaves.
    Left,
}

impl MemberState {
    /// Whether calls may still be sent to it.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Down => "dead",
            Self::Left => "left",
        })
    }
}

/// One member as this node sees it; this node itself is in the list too.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Its id, the same for its whole life.
    pub node: NodeId,
    /// Its name by its record; the id as text until the record is here.
    pub name: Arc<str>,
    /// Where its UDP port is.
    pub addr: SocketAddr,
    /// What we think of it.
    pub state: MemberState,
    /// Whether it says that it is draining: it takes no new work.
    pub draining: bool,
    /// Why we think so, for people: "probe unanswered for 0.5 s, reported by …".
    pub reason: Arc<str>,
    /// Its start counter.
    pub boot: u64,
    /// When the state began, as time since this node's start.
    pub since: Duration,
    /// Its signed record, once it is here.
    pub record: Option<Arc<Record>>,
}

/// All members that this node knows of, sorted by id.
pub type Members = Vec<Member>;
