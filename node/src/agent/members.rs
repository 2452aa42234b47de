//! Keeps the committed list of members and the network in step.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use swarmer_mesh::{
    codes::REVOKED,
    transport::{self, Refused, RefusedBy},
};
use swarmer_model::{Key, Node, NodeId, NodeSpec, Place};
use swarmer_raft::Txn;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{Context, TxnExt as _, admission::PeerBook, control::unchanged},
    api::OnceContext,
    codes,
    problem::{Outcome, Problem},
};

/// When a node tries again whose address could not be written down.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// Who was removed is cut off, and this node's own entry is corrected when it moved. Runs until
/// `shutdown`.
pub(crate) async fn run(context: Arc<Context>, book: PeerBook, shutdown: CancellationToken) {
    // Beside each other: a write that waits for a quorum holds up no revocation.
    tokio::join!(cut_off(&context, &book, &shutdown), keep_address(&context, &shutdown));
}

/// Cuts off whoever is no longer in the committed state.
async fn cut_off(context: &Context, book: &PeerBook, shutdown: &CancellationToken) {
    let mut states = context.desired.subscribe();
    let mut known: BTreeSet<NodeId> = BTreeSet::new();
    let mut told = false;
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
        if !told && let Some(node) = states.borrow().nodes.get(&context.node) {
            told = true;
            tell_foreign_claim(&context.claim, &node.spec);
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
        }
    }
}

async fn keep_address(context: &Context, shutdown: &CancellationToken) {
    let mut states = context.desired.subscribe();
    let mut unreached = false;
    loop {
        states.borrow_and_update();
        let outcome = correct_address(context).await;
        let before = unreached;
        unreached = outcome.as_ref().is_err_and(|problem| problem.code == codes::ADVERTISE);
        if let Err(problem) = &outcome {
            match unreached && !before {
                true => tracing::error!(target: "swarmer::node", code = problem.code.name,
                    detail = %problem.detail, remedy = problem.code.remedy,
                    "the other members do not reach this node"),
                false => tracing::debug!(target: "swarmer::node", detail = %problem.detail,
                    "address not corrected"),
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_AGAIN), if outcome.is_err() => {}
            // The state has no say in who reaches it.
            changed = states.changed(), if !unreached => if changed.is_err() { return },
        }
    }
}

/// Says it once when the others say that this node was removed, and gives up its readiness: what it
/// knows of the cluster grows old, and nobody takes anything from it any more.
pub(crate) async fn notice_removal(
    transport: transport::Handle,
    api: Arc<OnceContext>,
    shutdown: CancellationToken,
) {
    let mut refusals = transport.refusals();
    loop {
        let told = tokio::select! {
            () = shutdown.cancelled() => return,
            told = refusals.recv() => told,
        };
        match told {
            Ok(Refused { by: RefusedBy::Peer, code, peer, reason, .. }) if code == REVOKED => {
                tracing::error!(target: "swarmer::node", code = code.name, %peer, reason,
                    remedy = code.remedy, "this node was removed from the cluster");
                let stage = format!("{}: {peer} says that this node was removed", code.name);
                return api.set_stage(stage);
            }
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

/// Says that what this node is told of itself is not what the cluster knows: that one counts.
fn tell_foreign_claim(claim: &Place, committed: &NodeSpec) {
    let beyond = committed.place().beyond(claim);
    if !beyond.is_empty() {
        tracing::warn!(target: "swarmer::node", claimed = %beyond, committed = %committed.place(),
            "this node is told that it stands where the cluster does not know it to stand; what was \
             committed when it was admitted holds. To change it, remove the node (swarmer delete \
             node NAME) and join it anew with an empty data directory and a token for that place \
             (swarmer token create {})", committed.place().with(claim).flags());
    }
}

/// Writes down where this node is now, if it moved and a voter reaches it there: an address at which
/// nobody is to be found replaces none that was good.
async fn correct_address(context: &Context) -> Outcome<()> {
    let key = Key::node(context.node);
    let Some(entry) = context.control.view().get(key.as_str()) else { return Ok(()) };
    let mut node: Node = serde_json::from_slice(&entry.value)
        .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
    if node.spec.address == context.advertise {
        return Ok(());
    }
    if let Some(why) = context.unreached_at(context.advertise).await {
        return Err(Problem::new(codes::ADVERTISE, why));
    }
    node.spec.address = context.advertise;
    let value = serde_json::to_vec(&node)
        .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
    let txn = Txn::new().check(key.as_str(), unchanged(Some(&entry))).put(key.as_str(), value);
    context.control.write(txn).await?.committed("correcting the address").map(|_| ())
}
