//! Who leads, and what only the leader does.

use std::sync::Arc;

use swarmer_raft::{Handle, Leadership, Role};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::agent::{Context, Control};

/// Logs who leads whenever that changes, until `shutdown`: an election that nobody wanted is seen.
pub(crate) async fn tell(context: Arc<Context>, shutdown: CancellationToken) {
    let mut leadership = context.control.subscribe_leadership();
    let mut told = None;
    loop {
        let now = leadership.borrow_and_update().clone();
        if let Some(leader) = now.leader
            && told != Some((leader, now.term))
        {
            told = Some((leader, now.term));
            tracing::info!(target: "swarmer::control", leader = context.node_name(leader),
                term = now.term, "a leader is known");
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}

/// Lets `serve` work in each term that this node leads, until `shutdown`. It begins anew in each of
/// them, and what it is at is dropped when its term is over: it may stop at any point.
pub(crate) async fn in_each_term<F: Future<Output = ()>>(
    control: &Control,
    shutdown: &CancellationToken,
    mut serve: impl FnMut(Handle, u64) -> F,
) {
    let mut leadership = control.subscribe_leadership();
    loop {
        let now = leadership.borrow_and_update().clone();
        if now.role == Role::Leader
            && let Some(handle) = control.raft()
        {
            let term = now.term;
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = other_than(leadership.clone(), term) => {}
                // With a log that has ended: what this node is next is told.
                () = serve(handle, term) => {}
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}

fn leads(leadership: &Leadership, term: u64) -> bool {
    leadership.role == Role::Leader && leadership.term == term
}

/// Waits until this node does not lead in this term any more.
async fn other_than(mut leadership: watch::Receiver<Leadership>, term: u64) {
    // If the node stops, `shutdown` says so.
    if leadership.wait_for(|now| !leads(now, term)).await.is_err() {
        std::future::pending().await
    }
}
