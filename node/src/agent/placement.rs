//! On the leader: asks the planner where functions belong and commits what it says.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use swarmer_model::{Key, NodeId, Placement, PlacementReason};
use swarmer_raft::{Role, Txn};
use swarmer_scheduler::{
    CANDIDATES, CandidateNode, Capacity, CopyState, Desired as Wishes, FunctionNeed, NodeFacts,
    Observed, Plan, Policy, Spread, candidates, misfit, plan,
};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{Context, TxnExt as _, control::unchanged},
    codes,
    desired::Desired,
    problem::{Outcome, Problem},
};

/// How often it looks without a change: dead nodes' grace ends by time alone.
const TICK: Duration = Duration::from_secs(1);
/// Functions that one node holds at most: what its pool and memory bound long before.
const NODE_FUNCTIONS: u32 = 10_000;
/// The most reasons that a placement keeps.
const MAX_REASONS: usize = 8;
/// The most placements that one transaction writes.
const MAX_BATCH: usize = 32;

/// Runs until `shutdown`; does nothing while another node leads.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let mut states = context.desired.subscribe();
    let mut members = context.gossip.subscribe();
    let mut status = context.control.subscribe_status();
    let start = Instant::now();
    let mut dead: BTreeMap<NodeId, u64> = BTreeMap::new();
    loop {
        if status.borrow_and_update().role == Role::Leader {
            states.mark_unchanged();
            members.mark_unchanged();
            let now_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            note_dead(&context, &mut dead, now_ms);
            if let Err(problem) = place(&context, &dead, now_ms).await
                && problem.code != codes::CONFLICT
            {
                tracing::warn!(target: "swarmer::placement", code = problem.code.name,
                    detail = %problem.detail, "placements are not committed yet");
            }
        } else {
            dead.clear();
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
            changed = status.changed() => if changed.is_err() { return },
            changed = members.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// Keeps since when each admitted node is dead, on this leader's clock: a new leader gives the
/// grace time anew.
fn note_dead(context: &Context, dead: &mut BTreeMap<NodeId, u64>, now_ms: u64) {
    let members = context.gossip.members();
    let alive = |node: &NodeId| {
        members.iter().any(|member| member.node == *node && member.state.is_active())
    };
    let desired = context.desired.current();
    dead.retain(|node, _| !alive(node) && desired.nodes.contains_key(node));
    for node in desired.nodes.keys().filter(|node| !alive(node)) {
        dead.entry(*node).or_insert(now_ms);
    }
}

async fn place(context: &Context, dead: &BTreeMap<NodeId, u64>, now_ms: u64) -> Outcome<()> {
    let desired = context.desired.current();
    let wishes = wishes(&desired);
    let index = context.catalog.current();
    let observed = observed(&desired, dead, |function, version, node| {
        index.ready(function, version).iter().any(|endpoint| endpoint.node == node)
    });
    let plan = plan(&wishes, &observed, now_ms);
    let mut changes = Vec::new();
    for need in &wishes.functions {
        let next = next_placement(need, &observed, &plan);
        let now = desired.functions.get(need.key.as_str()).map(|entry| &entry.placement);
        if now.is_none_or(|now| now.nodes != next.nodes || now.candidates != next.candidates) {
            changes.push((need.key.clone(), next));
        }
    }
    for batch in changes.chunks(MAX_BATCH) {
        commit(context, &desired, batch).await?;
    }
    Ok(())
}

async fn commit(
    context: &Context,
    desired: &Desired,
    batch: &[(String, Placement)],
) -> Outcome<()> {
    let view = context.control.view();
    let mut txn = Txn::new();
    for (id, placement) in batch {
        let Some((namespace, name)) = id.split_once('/') else { continue };
        let key = Key::placement(namespace, name);
        let function = Key::function(namespace, name);
        let Some(entry) = view.get(function.as_str()) else { continue };
        if !desired.functions.contains_key(id.as_str()) {
            continue;
        }
        let value = serde_json::to_vec(placement)
            .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
        txn = txn
            // A plan for a function that changed meanwhile is not committed: it is made anew.
            .check(function.as_str(), unchanged(Some(&entry)))
            .check(key.as_str(), unchanged(view.get(key.as_str()).as_ref()))
            .put(key.as_str(), value);
    }
    if txn.ops.is_empty() {
        return Ok(());
    }
    context.control.write(txn).await?.committed("placing functions").map(|_| ())
}

fn wishes(desired: &Desired) -> Wishes {
    let functions = desired.functions.values().map(|entry| {
        let spec = &entry.function.spec;
        FunctionNeed {
            key: entry.id.to_string(),
            revision: entry.function.metadata.revision.unwrap_or(0),
            replicas: spec.placement.replicas,
            memory_bytes: 0,
            priority: 0,
            regions: spec.placement.regions.clone(),
            zones: spec.placement.zones.clone(),
            labels: spec.placement.labels.clone(),
            spread: Spread::Zone,
        }
    });
    Wishes { functions: functions.collect(), policy: Policy::default() }
}

fn observed(
    desired: &Desired,
    dead: &BTreeMap<NodeId, u64>,
    ready: impl Fn(&str, u32, NodeId) -> bool,
) -> Observed {
    let nodes = desired.nodes.iter().map(|(id, node)| NodeFacts {
        id: *id,
        name: node.metadata.name.clone(),
        region: node.spec.region.clone(),
        zone: node.spec.zone.clone(),
        labels: node.spec.labels.clone(),
        draining: node.spec.draining,
        dead_since_ms: dead.get(id).copied(),
        capacity: Capacity { functions: NODE_FUNCTIONS, memory_bytes: u64::MAX },
    });
    let placements = desired.functions.values().map(|entry| {
        let serving = entry.weights.iter().map(|(version, _)| *version).max().unwrap_or(0);
        let copies = entry
            .placement
            .nodes
            .iter()
            .map(|node| CopyState { node: *node, ready: ready(&entry.id, serving, *node) });
        (entry.id.to_string(), copies.collect())
    });
    Observed { nodes: nodes.collect(), placements: placements.collect() }
}

fn next_placement(need: &FunctionNeed, observed: &Observed, plan: &Plan) -> Placement {
    let eligible: Vec<CandidateNode> = observed
        .nodes
        .iter()
        .filter(|node| misfit(need, node).is_none())
        .map(|node| CandidateNode { id: node.id, region: node.region.clone() })
        .collect();
    let nodes = plan.placements.get(&need.key).into_iter().flatten().copied().collect();
    let decisions = plan.decisions.iter().filter(|decision| decision.function == need.key);
    let reasons = decisions.map(|decision| PlacementReason {
        node: Some(decision.node.id),
        text: decision.to_string(),
    });
    let conflicts = plan
        .conflicts
        .iter()
        .map(|conflict| PlacementReason { node: None, text: conflict.to_string() });
    let conflicts = conflicts.filter(|reason| reason.text.contains(&need.key));
    Placement {
        nodes,
        candidates: candidates(&need.key, &need.regions, &eligible, CANDIDATES),
        reasons: conflicts.chain(reasons).take(MAX_REASONS).collect(),
    }
}
