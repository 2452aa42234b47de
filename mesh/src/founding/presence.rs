//! Members that meet where they do not know each other: on `swarmer-found/1`, which every member
//! serves to anybody who proves a key.

use serde::{Deserialize, Serialize};
use swarmer_model::{ClusterId, Code, NodeId};

use super::message::Message;
use crate::codes;

/// Who a member is, by its own word; only its key is proven, by TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// Its cluster.
    pub cluster: ClusterId,
    /// The fingerprint of its cluster's authority.
    pub authority: [u8; 32],
    /// Its id.
    pub node: NodeId,
    /// A random number of this run of it.
    pub run: [u8; 16],
}

/// What a member makes of another one that it met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// It is of this cluster, or this very node.
    Ours,
    /// Another process with the id and key of this node.
    Twin,
    /// It is of another cluster.
    OtherCluster(ClusterId),
    /// It is of a cluster with the same id, which another authority stands for.
    OtherAuthority,
}

impl Meeting {
    /// The stable code of what is wrong; none if nothing is.
    pub fn code(self) -> Option<Code> {
        match self {
            Self::Ours => None,
            Self::Twin => Some(codes::TWIN),
            Self::OtherCluster(_) => Some(codes::OTHER_CLUSTER),
            Self::OtherAuthority => Some(codes::FOREIGN_CA),
        }
    }
}

impl std::fmt::Display for Meeting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ours => f.write_str("a member of this cluster"),
            Self::Twin => f.write_str("another process with this node's id and key"),
            Self::OtherCluster(cluster) => write!(f, "a member of another cluster, {cluster}"),
            Self::OtherAuthority => f.write_str(
                "a member of a cluster with the id of this one and another authority: two \
                 clusters were founded with one founding token",
            ),
        }
    }
}

impl Presence {
    /// The question who is there.
    pub fn ask(&self) -> Vec<u8> {
        Message::Ask(*self).encode()
    }

    /// The answer to it.
    pub fn answer(&self) -> Vec<u8> {
        Message::Present(*self).encode()
    }

    /// Who asks, if a first message asks.
    pub fn asking(first: &[u8]) -> Option<Self> {
        match Message::decode(first)? {
            Message::Ask(presence) => Some(presence),
            _ => None,
        }
    }

    /// Who answers.
    pub fn answering(answer: &[u8]) -> Option<Self> {
        match Message::decode(answer)? {
            Message::Present(presence) => Some(presence),
            _ => None,
        }
    }

    /// What this member makes of another one. `same_key`: its connection proved this node's key.
    pub fn meets(&self, other: &Self, same_key: bool) -> Meeting {
        if same_key && other.run != self.run {
            Meeting::Twin
        } else if other.cluster != self.cluster {
            Meeting::OtherCluster(other.cluster)
        } else if other.authority != self.authority {
            Meeting::OtherAuthority
        } else {
            Meeting::Ours
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_meet_know_what_they_are_to_each_other() {
        let own =
            Presence { cluster: ClusterId(1), authority: [1; 32], node: NodeId(1), run: [1; 16] };
        let fellow = Presence { node: NodeId(2), run: [2; 16], ..own };
        let foreign = Presence { cluster: ClusterId(2), ..fellow };
        let again = Presence { authority: [2; 32], ..fellow };
        let copy = Presence { run: [3; 16], ..own };
        for (other, same_key, meeting) in [
            (own, true, Meeting::Ours),
            (fellow, false, Meeting::Ours),
            (foreign, false, Meeting::OtherCluster(ClusterId(2))),
            (again, false, Meeting::OtherAuthority),
            (copy, true, Meeting::Twin),
            // It says that it is this node and cannot show it.
            (copy, false, Meeting::Ours),
        ] {
            assert_eq!(own.meets(&other, same_key), meeting, "{other:?}");
            assert_eq!(Presence::asking(&other.ask()), Some(other));
            assert_eq!(Presence::answering(&other.answer()), Some(other));
            assert_eq!(Presence::asking(&other.answer()), None);
        }
    }
}
