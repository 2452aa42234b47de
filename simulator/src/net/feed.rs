//! The feed that nodes follow by, over the simulated network.

use std::sync::Arc;

use bytes::Bytes;
use swarmer_model::{ClusterId, Digest, NodeId, Revision, wire};
use swarmer_raft::{ChainHash, FeedKey, FeedSigner, FeedTrust, VoterKeys};
use tokio::sync::mpsc;

use super::Net;
use crate::node::Node;

/// The one cluster there is.
pub(crate) const CLUSTER: ClusterId = ClusterId(0x5eed);
/// Frames on their way at most: as much as a stream's window takes.
const FRAMES: usize = 16;

/// A keyed hash in place of a signature: nobody forges here.
struct Key(NodeId);

impl FeedKey for Key {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        Digest::of(&[&self.0.0.to_le_bytes(), message].concat()).0.to_vec()
    }
}

struct Voters(u64);

impl VoterKeys for Voters {
    fn signed_by_voter(&self, node: NodeId, message: &[u8], signature: &[u8]) -> bool {
        node.0 <= self.0 && Key(node).sign(message) == signature
    }
}

/// Nodes 1 to `voters` vote.
pub(crate) fn trust(voters: u64) -> FeedTrust {
    FeedTrust { cluster: CLUSTER, voters: Arc::new(Voters(voters)) }
}

impl Net {
    /// A feed of a voter from a position on; none if it cannot be had. Ends when either dies.
    pub(crate) async fn feed(
        &self,
        follower: &Arc<Node>,
        voter: NodeId,
        from: Option<(Revision, ChainHash)>,
    ) -> Option<mpsc::Receiver<Bytes>> {
        if !self.travel(follower.id, voter).await {
            return None;
        }
        let node = self.node(voter)?;
        let key = Arc::new(Key(voter));
        let signer = FeedSigner { cluster: CLUSTER, node: voter, boot: node.boot, key };
        // No connection tells of a lost peer here, so that the feed's own words must, as of old.
        let mut feed = node.raft()?.feed(from, signer, wire::RESTING - 1);
        let (sender, receiver) = mpsc::channel(FRAMES);
        let (net, dead, to) = (self.clone(), follower.dead.clone(), follower.id);
        tokio::spawn(async move {
            let carry = async {
                while let Some(frame) = feed.next().await {
                    if !net.travel(voter, to).await || sender.send(frame).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                biased;
                () = node.dead.cancelled() => {}
                () = dead.cancelled() => {}
                () = sender.closed() => {}
                () = carry => {}
            }
        });
        Some(receiver)
    }
}
