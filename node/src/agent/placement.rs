//! On the leader: asks the planner where functions belong and commits what it says.

mod candidates;
mod look;
mod turns;

use std::{
    panic::resume_unwind,
    sync::Arc,
    time::{Duration, Instant},
};

use swarmer_model::{Key, NodeId, Revision};
use swarmer_raft::{Expect, Leadership, Role, Txn};
use swarmer_scheduler::{Conflict, Record};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::{
    look::{Change, Looker, Seen},
    turns::in_turn,
};
use crate::{
    agent::{Context, TxnExt as _, context::now_ms as clock_ms, troubles::MAX_ASKED},
    codes,
    desired::plans_key,
    problem::{Outcome, Problem},
};

/// How often it looks without a change: dead nodes' grace ends by time alone.
const TICK: Duration = Duration::from_secs(1);
/// So many times as long as a look took, it looks at nothing: a cluster in which something always
/// changes must not keep a core of its leader busy.
const REST: u32 = 3;
/// The longest of these rests.
const MAX_REST: Duration = Duration::from_secs(5);

/// Runs until `shutdown`; does nothing while another node leads.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let mut states = context.desired.subscribe();
    // Which also follows the members.
    let mut catalog = context.catalog.subscribe();
    let mut leadership = context.control.subscribe_leadership();
    let start = Instant::now();
    let mut looker = Looker::default();
    let mut term = None;
    let (tell, mut told) = mpsc::channel(MAX_ASKED);
    let now_ms = move || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    loop {
        let leading = leads(&leadership.borrow_and_update());
        if leading != term {
            // A new leader gives every grace time anew.
            looker = Looker::default();
            context.decisions.clear();
            term = leading;
        }
        let mut took = Duration::ZERO;
        if let Some(term) = term {
            while let Ok((node, failures)) = told.try_recv() {
                looker.told(node, failures, now_ms());
            }
            states.mark_unchanged();
            catalog.mark_unchanged();
            let seen = Seen {
                desired: context.desired.current(),
                index: context.catalog.current(),
                members: context.gossip.members(),
                now_ms: now_ms(),
            };
            let planned_at = seen.desired.planned_at;
            let begin = Instant::now();
            let Some((back, found)) = look(&context, looker, seen).await else { return };
            looker = back;
            took = begin.elapsed();
            for node in found.to_ask {
                let (context, tell) = (Arc::clone(&context), tell.clone());
                tokio::spawn(async move {
                    let failures = context.ask_failures(node).await;
                    // Nobody waits for it when the node stops.
                    let _ = tell.send((node, failures)).await;
                });
            }
            let still = || leads(&leadership.borrow()) == Some(term);
            if let Err(problem) = commit_all(&context, &found.changes, planned_at, still).await
                && problem.code != codes::CONFLICT
            {
                tracing::warn!(target: "swarmer::placement", code = problem.code.name,
                    detail = %problem.detail, "placements are not committed yet");
            }
        }
        let rest = tokio::time::sleep((took * REST).min(MAX_REST));
        tokio::pin!(rest);
        let rested = loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = leadership.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    break false;
                }
                Some((node, failures)) = told.recv() => looker.told(node, failures, now_ms()),
                () = &mut rest => break true,
            }
        };
        if !rested {
            continue;
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            changed = catalog.changed() => if changed.is_err() { return },
            Some((node, failures)) = told.recv() => looker.told(node, failures, now_ms()),
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// What the planner, asked here and now with what this node knows, says that cannot be had of the
/// functions that have copies in a region. On a thread of its own, as every look.
///
/// # Errors
/// [`codes::INTERNAL`] if the planner did not come to an end.
pub(crate) async fn shortages_in(context: &Context, region: &str) -> Outcome<Vec<Conflict>> {
    let seen = Seen {
        desired: context.desired.current(),
        index: context.catalog.current(),
        members: context.gossip.members(),
        now_ms: 0,
    };
    let region = region.to_owned();
    let looking = tokio::task::spawn_blocking(move || {
        let (wishes, observed) = Looker::default().observe(&seen);
        let mut conflicts = swarmer_scheduler::plan(&wishes, &observed, seen.now_ms).conflicts;
        conflicts.retain(|conflict| match conflict {
            Conflict::Short { function, .. } => seen
                .desired
                .functions
                .get(function.as_str())
                .is_some_and(|entry| seen.desired.stands_in(entry, &region)),
            _ => false,
        });
        conflicts
    });
    looking.await.map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))
}

/// The term in which this node leads, if it does.
fn leads(leadership: &Leadership) -> Option<u64> {
    (leadership.role == Role::Leader).then_some(leadership.term)
}

/// What a look brought.
struct Found {
    /// Who is to be asked what does not come up there.
    to_ask: Vec<NodeId>,
    /// By transaction, in their order.
    changes: Vec<Vec<Change>>,
}

/// On a thread of its own: for thousands of functions it takes a while, and whoever shares a thread
/// with Raft must not. `None` when the node stops.
async fn look(context: &Arc<Context>, mut looker: Looker, seen: Seen) -> Option<(Looker, Found)> {
    let context = Arc::clone(context);
    let looking = tokio::task::spawn_blocking(move || {
        let to_ask = looker.unready(&seen);
        let (wishes, observed) = looker.observe(&seen);
        let record = Record::new(wishes, observed, seen.now_ms);
        let made = context.decisions.note(clock_ms(), record);
        let changes = looker.changes(&seen, &made.record);
        let changes = in_turn(changes, &made.record);
        (looker, Found { to_ask, changes })
    });
    match looking.await {
        Ok(found) => Some(found),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_) => None,
        },
    }
}

/// As long as this node leads in the term that it looked in: another leader has looked anew.
async fn commit_all(
    context: &Context,
    changes: &[Vec<Change>],
    mut planned_at: Option<Revision>,
    leads: impl Fn() -> bool,
) -> Outcome<()> {
    for batch in changes {
        if !leads() {
            return Ok(());
        }
        let txn = transaction(batch, planned_at)?;
        let outcome = context.control.write(txn).await?;
        planned_at = Some(outcome.committed("placing functions")?);
    }
    Ok(())
}

/// `planned_at` is when a plan was committed last, as it was seen when this one was made.
fn transaction(batch: &[Change], planned_at: Option<Revision>) -> Outcome<Txn> {
    let fence = plans_key();
    // Another leader's plan, one of this node's own that it has not seen yet, a node that is emptied:
    // on all of these a plan is made anew.
    let mut txn = Txn::new()
        .check(fence.as_str(), planned_at.map_or(Expect::Absent, Expect::At))
        .put(fence.as_str(), "");
    for (entry, placement) in batch {
        let key = Key::placement(&entry.namespace, &entry.name);
        let function = Key::function(&entry.namespace, &entry.name);
        let value = serde_json::to_vec(placement)
            .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
        txn = txn
            // A plan for what changed meanwhile is not committed: it is made anew.
            .check(function.as_str(), Expect::At(entry.revision))
            .check(key.as_str(), entry.placed_at.map_or(Expect::Absent, Expect::At))
            .put(key.as_str(), value);
    }
    Ok(txn)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Desired;
    use swarmer_model::{Digest, Function, Metadata, Placement};
    use swarmer_raft::Check;

    #[test]
    fn a_plan_is_committed_on_the_very_state_that_it_was_made_on() {
        let function = Function::new(Metadata::named("f"), Digest::of(b"1"));
        let function = serde_json::to_vec(&function).unwrap();
        let state = Desired::default().apply(3, [("functions/default/f", 3, Some(&function[..]))]);
        let batch = [(Arc::clone(state.function("default", "f").unwrap()), Placement::default())];
        let first = transaction(&batch, None).unwrap();
        let check = |key: &str, revision| Check { key: key.to_owned(), revision };
        let own = [
            check("functions/default/f", Expect::At(3)),
            check("placements/default/f", Expect::Absent),
        ];
        assert_eq!(first.checks[0], check("cluster/plans", Expect::Absent));
        assert_eq!(first.checks[1..], own);
        let later = transaction(&batch, Some(9)).unwrap();
        assert_eq!(later.checks[0], check("cluster/plans", Expect::At(9)));
        assert_eq!(later.ops.len(), 2, "the next plan finds it changed");
    }
}
