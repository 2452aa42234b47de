//! On the leader: asks the planner where functions belong and commits what it says.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use swarmer_model::{Coded as _, Key, NodeId, Placement, PlacementReason};
use swarmer_raft::{Expect, Role, Txn};
use swarmer_scheduler::{
    CANDIDATES, CandidateNode, Capacity, CopyState, Desired as Wishes, FunctionNeed, NodeFacts,
    Observed, Plan, Policy, Record, Spread, candidate_misfit, candidates, misfit,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{
        Context, TxnExt as _,
        context::now_ms as clock_ms,
        troubles::{MAX_ASKED, Troubles},
    },
    codes,
    desired::{Desired, FunctionEntry, serving},
    problem::{Outcome, Problem},
};

/// How often it looks without a change: dead nodes' grace ends by time alone.
const TICK: Duration = Duration::from_secs(1);
/// Functions that one node holds at most: what its pool and memory bound long before.
const NODE_FUNCTIONS: u32 = 10_000;
/// The most reasons that a placement keeps.
const MAX_REASONS: usize = 8;
/// The longest text of a reason and of a conflict, in bytes: a placement is one value of at most
/// 8 KiB.
const MAX_REASON_BYTES: usize = 256;
const MAX_CONFLICT_BYTES: usize = 2048;
/// The most placements that one transaction writes.
const MAX_BATCH: usize = 32;

/// Runs until `shutdown`; does nothing while another node leads.
pub(crate) async fn run(context: Arc<Context>, shutdown: CancellationToken) {
    let mut states = context.desired.subscribe();
    // Which also follows the members.
    let mut catalog = context.catalog.subscribe();
    let mut leadership = context.control.subscribe_leadership();
    let start = Instant::now();
    let mut dead: BTreeMap<NodeId, u64> = BTreeMap::new();
    let mut troubles = Troubles::default();
    let (tell, mut told) = mpsc::channel(MAX_ASKED);
    let now_ms = move || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    loop {
        if leadership.borrow_and_update().role == Role::Leader {
            states.mark_unchanged();
            catalog.mark_unchanged();
            let now_ms = now_ms();
            note_dead(&context, &mut dead, now_ms);
            for node in troubles.due(unready(&context), now_ms) {
                let (context, tell) = (Arc::clone(&context), tell.clone());
                tokio::spawn(async move {
                    let failures = context.ask_failures(node).await;
                    // Nobody waits for it when the node stops.
                    let _ = tell.send((node, failures)).await;
                });
            }
            if let Err(problem) = place(&context, &dead, &mut troubles, now_ms).await
                && problem.code != codes::CONFLICT
            {
                tracing::warn!(target: "swarmer::placement", code = problem.code.name,
                    detail = %problem.detail, "placements are not committed yet");
            }
        } else {
            dead.clear();
            troubles.clear();
            context.decisions.clear();
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = states.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
            changed = catalog.changed() => if changed.is_err() { return },
            Some((node, failures)) = told.recv() => troubles.told(node, failures, now_ms()),
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

/// The living nodes where something is placed that they have not ready.
fn unready(context: &Context) -> BTreeSet<NodeId> {
    let desired = context.desired.current();
    let index = context.catalog.current();
    let members = context.gossip.members();
    let mut unready = BTreeSet::new();
    for entry in desired.functions.values() {
        let coming = entry.coming();
        for version in entry.weights.iter().map(|(version, _)| *version).chain(coming) {
            let ready = index.ready(&entry.id, version);
            let missing = entry.placement.nodes.iter().copied();
            unready.extend(missing.filter(|node| ready.iter().all(|at| at.node != *node)));
        }
    }
    unready.retain(|node| members.iter().any(|m| m.node == *node && m.state.is_active()));
    unready
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

async fn place(
    context: &Context,
    dead: &BTreeMap<NodeId, u64>,
    troubles: &mut Troubles,
    now_ms: u64,
) -> Outcome<()> {
    let desired = context.desired.current();
    let wishes = wishes(&desired);
    let index = context.catalog.current();
    let mut observed = observed(&desired, dead, |function, version, node| {
        index.ready(function, version).iter().any(|endpoint| endpoint.node == node)
    });
    troubles.tell(&mut observed, now_ms);
    let made = context.decisions.note(clock_ms(), Record::new(wishes, observed, now_ms));
    let Record { desired: wishes, observed, plan, .. } = &made.record;
    let mut changes = Vec::new();
    for need in &wishes.functions {
        let Some(entry) = desired.functions.get(need.key.as_str()) else { continue };
        let candidates = candidates_of(wishes, need, observed, now_ms, entry);
        let ready = |version, node| {
            index.ready(&need.key, version).iter().any(|endpoint| endpoint.node == node)
        };
        let next = next_placement(entry, need, candidates, plan, lawful(need, observed, ready));
        if differs(&entry.placement, &next) {
            changes.push((Arc::clone(entry), next));
        }
    }
    for batch in changes.chunks(MAX_BATCH) {
        commit(context, batch).await?;
    }
    Ok(())
}

/// Whether it must be committed. Reasons alone are no cause: they carry times that pass, which the
/// text of a conflict does not.
fn differs(now: &Placement, next: &Placement) -> bool {
    now.revision != next.revision
        || now.nodes != next.nodes
        || now.candidates != next.candidates
        || now.traffic != next.traffic
        || now.conflict != next.conflict
}

async fn commit(context: &Context, batch: &[(Arc<FunctionEntry>, Placement)]) -> Outcome<()> {
    let mut txn = Txn::new();
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
    context.control.write(txn).await?.committed("placing functions").map(|_| ())
}

fn wishes(desired: &Desired) -> Wishes {
    let functions = desired.functions.values().map(|entry| {
        let spec = &entry.function.spec;
        FunctionNeed {
            key: entry.id.to_string(),
            revision: entry.revision,
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
        trouble: None,
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
    let placements = placements.collect();
    Observed { nodes: nodes.collect(), placements, failing: BTreeMap::new() }
}

/// Who starts the function where it runs nowhere.
fn candidates_of(
    wishes: &Wishes,
    need: &FunctionNeed,
    observed: &Observed,
    now_ms: u64,
    entry: &FunctionEntry,
) -> Vec<NodeId> {
    let before = &entry.placement.candidates;
    let fits = |node: &&NodeFacts| {
        candidate_misfit(wishes, observed, now_ms, (need, *node), before).is_none()
    };
    let eligible = observed.nodes.iter().filter(fits);
    let eligible: Vec<CandidateNode> =
        eligible.map(|node| CandidateNode { id: node.id, region: node.region.clone() }).collect();
    candidates(&need.key, &need.regions, &eligible, CANDIDATES)
}

/// Where a version counts as ready. A node that breaks a constraint goes on with what was served
/// before, until its replacement answers; that it has the new version too brings that no traffic.
fn lawful(
    need: &FunctionNeed,
    observed: &Observed,
    ready: impl Fn(u32, NodeId) -> bool,
) -> impl Fn(u32, NodeId) -> bool {
    move |version, node| {
        let facts = observed.nodes.iter().find(|facts| facts.id == node);
        facts.is_some_and(|facts| misfit(need, facts).is_none()) && ready(version, node)
    }
}

/// The placement that follows from the plan. `ready` tells whether a version answers on a node.
fn next_placement(
    entry: &FunctionEntry,
    need: &FunctionNeed,
    candidates: Vec<NodeId>,
    plan: &Plan,
    ready: impl Fn(u32, NodeId) -> bool,
) -> Placement {
    let nodes: Vec<NodeId> =
        plan.placements.get(&need.key).into_iter().flatten().copied().collect();
    let conflict = plan.conflicts.iter().find(|conflict| conflict.leaves_none(&need.key));
    // A version takes its share when it answers somewhere; what it takes it from serves until
    // then. What was never served has nothing to wait for.
    let wanted = entry.function.weights();
    let answers = |number: u32| {
        let version = entry.function.version(number);
        let off = version.is_some_and(|version| version.template.limits.concurrency == 0);
        off || nodes.iter().any(|node| ready(number, *node))
    };
    let shifts = conflict.is_none() && wanted.iter().all(|target| answers(target.version));
    let traffic = if shifts { wanted } else { serving(&entry.function, &entry.placement) };
    Placement {
        revision: need.revision,
        candidates,
        traffic,
        conflict: conflict
            .map(|conflict| cut(format!("{}: {conflict}", conflict.code()), MAX_CONFLICT_BYTES)),
        reasons: reasons(entry, need, plan, &nodes),
        nodes,
    }
}

/// Shortages first, then what was decided now, then why the other nodes were chosen before.
fn reasons(
    entry: &FunctionEntry,
    need: &FunctionNeed,
    plan: &Plan,
    nodes: &[NodeId],
) -> Vec<PlacementReason> {
    let short = plan.conflicts.iter().filter(|conflict| conflict.is_about(&need.key));
    let short = short.map(|conflict| PlacementReason { node: None, text: conflict.to_string() });
    let decisions = plan.decisions.iter().filter(|decision| decision.function == need.key);
    let decided = decisions.map(|decision| PlacementReason {
        node: Some(decision.node.id),
        text: decision.to_string(),
    });
    let mut reasons: Vec<PlacementReason> = short.chain(decided).collect();
    for before in &entry.placement.reasons {
        let Some(node) = before.node.filter(|node| nodes.contains(node)) else { continue };
        if !reasons.iter().any(|reason| reason.node == Some(node)) {
            reasons.push(before.clone());
        }
    }
    reasons.truncate(MAX_REASONS);
    for reason in &mut reasons {
        reason.text = cut(std::mem::take(&mut reason.text), MAX_REASON_BYTES);
    }
    reasons
}

/// A text of at most so many bytes.
fn cut(mut text: String, max: usize) -> String {
    const MARK: &str = "…";
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max - MARK.len()));
        text.push_str(MARK);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_model::{Digest, Function, Metadata, TrafficTarget};
    use swarmer_scheduler::plan;

    fn node(id: u64, region: &str) -> NodeFacts {
        NodeFacts {
            id: NodeId(id),
            name: format!("n{id}"),
            region: region.to_owned(),
            capacity: Capacity { functions: 10, memory_bytes: u64::MAX },
            ..NodeFacts::default()
        }
    }

    /// Version 1 serves on n1, planned at revision 5; version 2 is wanted since revision 7.
    fn redeployed(regions: &[&str]) -> Desired {
        let mut first = Function::new(Metadata::named("f"), Digest::of(b"1"));
        first.succeed(None, &[], 0);
        let mut second = Function::new(Metadata::named("f"), Digest::of(b"2"));
        second.spec.placement.replicas = 1;
        second.spec.placement.regions = regions.iter().map(|name| (*name).to_owned()).collect();
        second.succeed(Some(&first), &[1], 6);
        let placement = Placement {
            revision: 5,
            nodes: vec![NodeId(1)],
            traffic: vec![TrafficTarget { version: 1, weight: 1 }],
            reasons: vec![PlacementReason { node: Some(NodeId(1)), text: "chosen".into() }],
            ..Placement::default()
        };
        let (function, placement) =
            (serde_json::to_vec(&second).unwrap(), serde_json::to_vec(&placement).unwrap());
        Desired::default().apply(
            7,
            [
                ("functions/default/f", 7, Some(function.as_slice())),
                ("placements/default/f", 5, Some(placement.as_slice())),
            ],
        )
    }

    fn placed(desired: &Desired, ready: impl Fn(u32, NodeId) -> bool) -> Placement {
        let wishes = wishes(desired);
        let mut observed =
            observed(desired, &BTreeMap::new(), |_, version, node| ready(version, node));
        observed.nodes = vec![node(1, "eu"), node(2, "us")];
        let plan = plan(&wishes, &observed, 0);
        let entry = desired.function("default", "f").unwrap();
        let need = &wishes.functions[0];
        let candidates = candidates_of(&wishes, need, &observed, 0, entry);
        next_placement(entry, need, candidates, &plan, lawful(need, &observed, ready))
    }

    fn versions(placement: &Placement) -> Vec<u32> {
        placement.traffic.iter().map(|target| target.version).collect()
    }

    #[test]
    fn what_cannot_be_placed_is_told_at_its_revision_and_what_served_goes_on() {
        let placement = placed(&redeployed(&["mars"]), |version, _| version == 1);
        assert_eq!(placement.revision, 7);
        assert_eq!(placement.nodes, [NodeId(1)]);
        assert_eq!(versions(&placement), [1]);
        let conflict = placement.conflict.unwrap();
        assert!(conflict.contains("SW-SCHEDULER-SHORT") && conflict.contains("mars"), "{conflict}");
        assert!(placement.candidates.is_empty());
    }

    #[test]
    fn the_next_version_takes_its_share_when_it_answers_somewhere() {
        let desired = redeployed(&[]);
        let waiting = placed(&desired, |version, _| version == 1);
        assert_eq!((waiting.revision, versions(&waiting)), (7, vec![1]));
        assert_eq!(waiting.conflict, None);
        assert_eq!(waiting.reasons[0].text, "chosen", "why it stands there is not forgotten");
        let elsewhere = placed(&desired, |version, node| version == 1 || node == NodeId(2));
        assert_eq!(versions(&elsewhere), [1], "a node that it is not placed on does not count");
        let shifted = placed(&desired, |_, node| node == NodeId(1));
        assert_eq!(versions(&shifted), [2]);
        assert!(differs(&waiting, &shifted));
    }

    #[test]
    fn a_node_that_breaks_a_constraint_brings_the_next_version_no_traffic() {
        // Version 1 serves on n1 in eu; version 2 may be in us only.
        let desired = redeployed(&["us"]);
        let starting = placed(&desired, |version, node| version == 1 || node == NodeId(1));
        assert_eq!(versions(&starting), [1], "ready where it may not be");
        assert!(starting.nodes.contains(&NodeId(2)), "{:?}", starting.nodes);
        let shifted = placed(&desired, |_, _| true);
        assert_eq!(versions(&shifted), [2]);
    }

    #[test]
    fn another_conflict_is_told_and_the_same_one_is_not_committed_again() {
        let placement = placed(&redeployed(&["mars"]), |version, _| version == 1);
        assert!(!differs(&placement, &placement.clone()));
        let other = Placement { conflict: Some("another".to_owned()), ..placement.clone() };
        assert!(differs(&placement, &other), "the text is what the user reads");
        // Time alone changes nothing: a node that is dead is dead.
        let desired = redeployed(&[]);
        let wishes = wishes(&desired);
        let at = |now_ms: u64| {
            let dead = BTreeMap::from([(NodeId(1), 0), (NodeId(2), 0)]);
            let mut observed = observed(&desired, &dead, |_, _, _| false);
            observed.nodes = vec![node(1, "eu"), node(2, "us")];
            for node in &mut observed.nodes {
                node.dead_since_ms = Some(0);
            }
            let plan = plan(&wishes, &observed, now_ms);
            let entry = desired.function("default", "f").unwrap();
            next_placement(entry, &wishes.functions[0], Vec::new(), &plan, |_, _| false)
        };
        let (early, late) = (at(40_000), at(50_000));
        assert!(early.conflict.is_some());
        assert!(!differs(&early, &late), "{:?} {:?}", early.conflict, late.conflict);
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("ääää".into(), 8), "ääää");
        assert_eq!(cut("äääää".into(), 8), "ää…");
    }
}
