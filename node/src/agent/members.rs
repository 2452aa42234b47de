//! Keeps the committed list of members and the network in step.

use std::{collections::BTreeSet, sync::Arc};

use swarmer_model::{Key, Node, NodeId};
use swarmer_raft::Txn;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{Context, TxnExt as _, admission::PeerBook, control::unchanged},
    codes,
    problem::{Outcome, Problem},
};

/// Who was removed is cut off, and this node's own entry is corrected when it moved. Runs until
/// `shutdown`.
pub(crate) async fn run(context: Arc<Context>, book: PeerBook, shutdown: CancellationToken) {
    let mut states = context.desired.subscribe();
    let mut known: BTreeSet<NodeId> = BTreeSet::new();
    loop {
        let now: BTreeSet<NodeId> = states.borrow_and_update().nodes.keys().copied().collect();
        for gone in known.difference(&now) {
            book.revoke(*gone);
            context.transport.disconnect(*gone, "the node was removed from the cluster");
            tracing::info!(target: "swarmer::node", node = %gone, "a member was removed");
        }
        if known != now {
            let _ = context.gossip.admission_changed().await;
        }
        known = now;
        if let Err(problem) = correct_address(&context).await {
            tracing::debug!(target: "swarmer::node", detail = %problem.detail, "address not corrected");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
        }
    }
}

async fn correct_address(context: &Context) -> Outcome<()> {
    let key = Key::node(context.node);
    let Some(entry) = context.control.view().get(key.as_str()) else { return Ok(()) };
    let mut node: Node = serde_json::from_slice(&entry.value)
        .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
    // A founder's labels could not be told while there was no cluster; who holds the founding
    // secret may say them, once.
    let founder = node.spec.token.is_none() && entry.revision == entry.created;
    let labels = if founder { context.labels.clone() } else { node.spec.labels.clone() };
    if node.spec.address == context.advertise && node.spec.labels == labels {
        return Ok(());
    }
    node.spec.address = context.advertise;
    node.spec.labels = labels;
    let value = serde_json::to_vec(&node)
        .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
    let txn = Txn::new().check(key.as_str(), unchanged(Some(&entry))).put(key.as_str(), value);
    context.control.write(txn).await?.committed("correcting the address").map(|_| ())
}
