//! Around the planner: an operator who changes functions and nodes, the leader who asks the
//! planner and commits what it says, and nodes that make what is placed on them ready.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rand::{RngExt as _, rngs::StdRng};
use serde::{Deserialize, Serialize};
use swarmer_gossip::{Endpoint, EndpointState};
use swarmer_model::{EndpointHealth, NodeId, Revision};
use swarmer_raft::{Expect, Role, Txn, Update, View};
use swarmer_scheduler::{
    Capacity, CopyState, Desired, FunctionNeed, NodeFacts, Observed, Plan, Policy, Spread, plan,
};
use tokio::time::{Instant, sleep};

use crate::{bug::Bug, node::Node, world::World};

/// How often a leader looks.
const TICK: Duration = Duration::from_millis(500);
/// How long a node may be dead before its work is moved.
const DEAD_GRACE_MS: u64 = 2_000;
/// How long a node takes to make a function ready, in milliseconds.
const LOADING_MS: (u64, u64) = (20, 400);
/// Functions of the cluster.
const FUNCTIONS: u64 = 5;
/// What a node holds at most.
const NODE_FUNCTIONS: u32 = 4;
const DEADLINE: Duration = Duration::from_secs(2);
const REGIONS: [&str; 2] = ["east", "west"];

pub(crate) const FUNCTION: &str = "functions/";
pub(crate) const NODE: &str = "nodes/";
pub(crate) const PLACEMENT: &str = "placements/";

/// A committed placement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Placed {
    /// The revision of the state that it was planned by.
    pub(crate) at: Revision,
    pub(crate) nodes: BTreeSet<NodeId>,
}

/// Where a node stands, for ever the same.
pub(crate) fn facts(id: NodeId) -> NodeFacts {
    NodeFacts {
        id,
        name: format!("n{}", id.0),
        region: REGIONS[id.0 as usize % REGIONS.len()].to_owned(),
        zone: format!("z{}", id.0 % 3),
        capacity: Capacity {
            functions: NODE_FUNCTIONS,
            memory_bytes: u64::MAX,
            ..Capacity::default()
        },
        ..NodeFacts::default()
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("it has no maps with odd keys")
}

/// What the keys under a prefix say, by the rest of the key.
pub(crate) fn read<T: for<'a> Deserialize<'a>>(
    view: &View,
    prefix: &str,
) -> BTreeMap<String, (Revision, T)> {
    let (_, entries) = view.list(prefix);
    let parsed = entries.into_iter().filter_map(|(key, entry)| {
        let value = serde_json::from_slice(&entry.value).ok()?;
        Some((key[prefix.len()..].to_owned(), (entry.revision, value)))
    });
    parsed.collect()
}

/// Changes functions and drains nodes until the world is calm.
pub(crate) async fn operate(world: Arc<World>, mut dice: StdRng) {
    let mut nodes = world.ids().into_iter().map(facts).collect::<Vec<_>>();
    let all = nodes
        .iter()
        .fold(Txn::new(), |txn, node| txn.put(format!("{NODE}{}", node.id.0), json(node)));
    write(&world, all).await;
    while !world.calm.is_cancelled() {
        sleep(Duration::from_millis(dice.random_range(200..2000))).await;
        if dice.random_ratio(1, 4) {
            let at = dice.random_range(0..nodes.len());
            // One at a time, so that there is a place for everything.
            let draining = !nodes[at].draining;
            nodes.iter_mut().for_each(|node| node.draining = false);
            nodes[at].draining = draining;
            let txn = nodes
                .iter()
                .fold(Txn::new(), |txn, node| txn.put(format!("{NODE}{}", node.id.0), json(node)));
            write(&world, txn).await;
        } else {
            let name = format!("f{}", dice.random_range(0..FUNCTIONS));
            let region = dice.random_range(0..=REGIONS.len());
            let need = FunctionNeed {
                key: name.clone(),
                replicas: dice.random_range(0..3),
                regions: REGIONS.get(region).map(|r| vec![(*r).to_owned()]).unwrap_or_default(),
                spread: if dice.random() { Spread::Zone } else { Spread::Node },
                ..FunctionNeed::default()
            };
            write(&world, Txn::new().put(format!("{FUNCTION}{name}"), json(&need))).await;
        }
    }
}

/// Written by some node or other, again and again until it is known to be made.
async fn write(world: &World, txn: Txn) {
    let mut turn = 0;
    loop {
        let nodes = world.net.nodes();
        if let Some(node) = nodes.get(turn % nodes.len().max(1))
            && let Some(Ok(_)) = node.write(txn.clone(), DEADLINE).await
        {
            return;
        }
        turn += 1;
        sleep(TICK).await;
    }
}

/// Asks the planner while this node leads.
pub(crate) async fn run(world: Arc<World>, node: Arc<Node>) {
    let mut dead: BTreeMap<NodeId, u64> = BTreeMap::new();
    while !node.dead.is_cancelled() {
        sleep(TICK).await;
        if node.raft().is_none() || node.status().role != Role::Leader {
            dead.clear();
            continue;
        }
        let view = node.view();
        let (plan, desired) = decide(&node, &mut dead, world.settings.bug);
        let mut txn = Txn::new();
        let placed: BTreeMap<String, (Revision, Placed)> = read(&view, PLACEMENT);
        let at = view.revision();
        for need in &desired.functions {
            let nodes = plan.placements.get(&need.key).cloned().unwrap_or_default();
            let before = placed.get(&need.key);
            if before.is_some_and(|(_, placed)| placed.nodes == nodes) {
                continue;
            }
            let key = format!("{PLACEMENT}{}", need.key);
            let expect = before.map_or(Expect::Absent, |(revision, _)| Expect::At(*revision));
            txn = txn
                .check(format!("{FUNCTION}{}", need.key), Expect::At(need.revision))
                .check(&*key, expect)
                .put(key, json(&Placed { at, nodes }));
        }
        if !txn.ops.is_empty() {
            let written = node.write(txn, DEADLINE).await;
            let made = matches!(written, Some(Ok(swarmer_raft::Outcome::Committed { .. })));
            world.oracle.lock().counts.placements += u64::from(made);
        }
    }
}

/// What a node would have the placements be, by what it sees.
fn decide(node: &Node, dead: &mut BTreeMap<NodeId, u64>, bug: Option<Bug>) -> (Plan, Desired) {
    let view = node.view();
    let functions: BTreeMap<String, (Revision, FunctionNeed)> = read(&view, FUNCTION);
    let functions = functions.into_values().map(|(revision, need)| {
        let regions = if bug == Some(Bug::PlannerBlind) { Vec::new() } else { need.regions };
        FunctionNeed { revision, regions, ..need }
    });
    let desired =
        Desired { functions: functions.collect(), policy: Policy { dead_grace_ms: DEAD_GRACE_MS } };
    let now_ms = node.gossip.now().as_millis() as u64;
    let members = node.gossip.members();
    let member = |id: NodeId| members.iter().find(|m| m.node == id && m.state.is_active());
    let nodes: BTreeMap<String, (Revision, NodeFacts)> = read(&view, NODE);
    let nodes = nodes.into_values().map(|(_, facts)| {
        if member(facts.id).is_some() {
            dead.remove(&facts.id);
        } else {
            dead.entry(facts.id).or_insert(now_ms);
        }
        NodeFacts { dead_since_ms: dead.get(&facts.id).copied(), ..facts }
    });
    let nodes = nodes.collect();
    let placed: BTreeMap<String, (Revision, Placed)> = read(&view, PLACEMENT);
    let ready = |function: &str, id: NodeId| {
        member(id).and_then(|m| m.record.as_ref()).is_some_and(|record| {
            record.facts.endpoints.iter().any(|endpoint| endpoint.function == function)
        })
    };
    let copies = placed.into_iter().map(|(function, (_, placed))| {
        let copy = |id: &NodeId| CopyState { node: *id, ready: ready(&function, *id) };
        let copies = placed.nodes.iter().map(copy).collect();
        (function, copies)
    });
    let observed = Observed { nodes, placements: copies.collect(), failing: BTreeMap::new() };
    (plan(&desired, &observed, now_ms), desired)
}

/// Whether the leader's planner has nothing to change, and what it says of it.
pub(crate) fn settled(node: &Node) -> Result<(), String> {
    // Who is dead now counts as dead for long.
    let (plan, desired) = decide(node, &mut BTreeMap::new(), None);
    if let Some(command) = plan.commands.first() {
        return Err(format!("the planner still wants: {command}"));
    }
    for need in &desired.functions {
        let count = plan.placements.get(&need.key).map_or(0, BTreeSet::len);
        let told = plan.conflicts.iter().any(|conflict| conflict.is_about(&need.key));
        if count != need.replicas as usize && !told {
            return Err(format!("{}: {count} of {} copies, and no word", need.key, need.replicas));
        }
    }
    Ok(())
}

/// Makes ready what is placed on a node, and says so.
pub(crate) async fn hold(world: Arc<World>, node: Arc<Node>) {
    let mut dice = world.dice();
    let mut updates = node.view().list_and_watch(PLACEMENT);
    loop {
        let update: Option<Update> = tokio::select! {
            biased;
            () = node.dead.cancelled() => return,
            update = updates.next() => update,
        };
        if update.is_none() {
            return;
        }
        let loaded =
            Instant::now() + Duration::from_millis(dice.random_range(LOADING_MS.0..LOADING_MS.1));
        tokio::time::sleep_until(loaded).await;
        let placed: BTreeMap<String, (Revision, Placed)> = read(&node.view(), PLACEMENT);
        let here = placed.into_iter().filter(|(_, (_, placed))| placed.nodes.contains(&node.id));
        let endpoint = |(function, _)| Endpoint {
            function,
            version: 1,
            state: EndpointState::Ready,
            in_flight: 0,
            concurrency: 1,
            health: EndpointHealth::Good,
        };
        node.gossip.offer(here.map(endpoint).collect());
    }
}
