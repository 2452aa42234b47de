//! A member as SWIM names it.

use std::net::SocketAddr;

use foca::Identity;
use serde::{Deserialize, Serialize};
use swarmer_model::NodeId;

use crate::catalog::mark;

/// One start of a node, or one return of it after it was wrongly declared down. The node is what
/// stays; the greater (boot, renewal) is the newer one, and no clock is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) addr: SocketAddr,
    pub(crate) boot: u64,
    pub(crate) renewal: u32,
}

impl Peer {
    /// Which of a node's identities this is.
    pub(crate) fn stamp(&self) -> (u64, u32) {
        (self.boot, self.renewal)
    }

    /// A number of identity and incarnation, for fingerprints of many.
    pub(crate) fn mark(&self, incarnation: u16) -> u64 {
        let renewal = u64::from(self.renewal) << 16 | u64::from(incarnation);
        mark([self.node.0, self.boot, renewal])
    }
}

impl Identity for Peer {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        Some(Self { renewal: self.renewal.checked_add(1)?, ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.stamp() > adversary.stamp()
    }
}
