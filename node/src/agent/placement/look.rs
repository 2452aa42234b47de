//! One look at the cluster: what the planner is told, and the placements that follow from what it
//! says. No I/O in here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use swarmer_gossip::Members;
use swarmer_model::{
    Coded as _, NodeId, Placement, PlacementReason, RegionState,
    planted::{self, Bug},
};
use swarmer_scheduler::{
    Capacity, Conflict, CopyState, Decision, Demand, Desired as Wishes, FunctionNeed, NodeFacts,
    Observed, Plan, Policy, Record, Spread, misfit,
};

use super::candidates::Candidates;
use crate::{
    agent::{
        capacity::of_placement,
        troubles::{Failure, Troubles},
    },
    config::DEFAULT_CAPACITY_FUNCTIONS,
    desired::{Desired, FunctionEntry, serving},
    dispatch::Index,
};

/// The most reasons that a placement keeps.
const MAX_REASONS: usize = 8;
/// The longest text of a reason and of a conflict, in bytes: a placement is one value of at most
/// 8 KiB.
const MAX_REASON_BYTES: usize = 256;
const MAX_CONFLICT_BYTES: usize = 2048;

/// A placement that is to be committed, and the function that it is of.
pub(super) type Change = (Arc<FunctionEntry>, Placement);

/// What there is to see, and when.
pub(super) struct Seen {
    pub(super) desired: Arc<Desired>,
    pub(super) index: Arc<Index>,
    pub(super) members: Arc<Members>,
    /// On this leader's own clock.
    pub(super) now_ms: u64,
}

/// Of a node that does not say what it can hold where no other one does.
const UNTOLD: Capacity =
    Capacity { functions: DEFAULT_CAPACITY_FUNCTIONS, memory_bytes: u64::MAX, concurrency: None };

impl Seen {
    /// What the nodes say that they can hold.
    fn capacities(&self) -> impl Iterator<Item = (NodeId, Capacity)> {
        self.members.iter().filter_map(|member| {
            let told = member.record.as_ref()?.facts.capacity;
            (told.functions > 0).then_some((member.node, of_placement(told)))
        })
    }

    fn alive(&self) -> BTreeSet<NodeId> {
        let active = self.members.iter().filter(|member| member.state.is_active());
        active.map(|member| member.node).collect()
    }
}

/// What a leader remembers from look to look.
#[derive(Default)]
pub(super) struct Looker {
    /// Since when each admitted node that is dead is so, on this leader's clock: a new leader
    /// gives the grace time anew.
    dead: BTreeMap<NodeId, u64>,
    troubles: Troubles,
    /// What each node said last that it can hold.
    capacities: BTreeMap<NodeId, Capacity>,
    candidates: Candidates,
}

impl Looker {
    /// Takes what a node told of functions that do not come up there.
    pub(super) fn told(&mut self, node: NodeId, failures: Vec<Failure>, now_ms: u64) {
        self.troubles.told(node, failures, now_ms);
    }

    /// The living nodes that are to be asked why something that is placed there is not ready.
    pub(super) fn unready(&mut self, seen: &Seen) -> Vec<NodeId> {
        let mut unready = BTreeSet::new();
        for entry in seen.desired.functions.values() {
            let coming = entry.coming();
            for version in entry.weights.iter().map(|(version, _)| *version).chain(coming) {
                let ready = seen.index.answering(&entry.id, version);
                let missing = entry.placement.nodes.iter().copied();
                unready.extend(missing.filter(|node| ready.iter().all(|at| at.node != *node)));
            }
        }
        let alive = seen.alive();
        unready.retain(|node| alive.contains(node));
        self.troubles.due(unready, seen.now_ms)
    }

    /// What the planner is told.
    pub(super) fn observe(&mut self, seen: &Seen) -> (Wishes, Observed) {
        let Seen { desired, index, now_ms, .. } = seen;
        let (dead, alive) = (&mut self.dead, seen.alive());
        dead.retain(|node, _| !alive.contains(node) && desired.nodes.contains_key(node));
        for node in desired.nodes.keys().filter(|node| !alive.contains(node)) {
            dead.entry(*node).or_insert(*now_ms);
        }
        self.capacities.retain(|node, _| desired.nodes.contains_key(node));
        self.capacities.extend(seen.capacities());
        // One that does not say, as it is too old to or was not heard of yet: no more than others.
        let least = self.capacities.values().map(|told| told.memory_bytes).min();
        let concurrency = self.capacities.values().filter_map(|told| told.concurrency).min();
        let untold = Capacity { memory_bytes: least.unwrap_or(u64::MAX), concurrency, ..UNTOLD };
        let capacities = &self.capacities;
        let capacity = |node: NodeId| capacities.get(&node).copied().unwrap_or(untold);
        let mut observed = observed(desired, dead, capacity, |function, version, node| {
            index.answering(function, version).iter().any(|endpoint| endpoint.node == node)
        });
        self.troubles.tell(&mut observed, *now_ms);
        (wishes(desired), observed)
    }

    /// What follows from a plan: the placements that are not as they should be.
    pub(super) fn changes(&mut self, seen: &Seen, record: &Record) -> Vec<Change> {
        let planned = Planned::new(record);
        self.candidates.look(record);
        let mut changes = Vec::new();
        for need in &record.desired.functions {
            let Some(entry) = seen.desired.functions.get(need.key.as_str()) else { continue };
            let before = &entry.placement.candidates;
            let candidates = self.candidates.of(record, need, before);
            let ready = |version, node| {
                let ready = seen.index.ready(&need.key, version);
                ready.iter().any(|endpoint| endpoint.node == node)
            };
            let next = planned.next_placement(entry, need, candidates, ready);
            if differs(&entry.placement, &next) {
                changes.push((Arc::clone(entry), next));
            }
        }
        changes
    }
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

fn wishes(desired: &Desired) -> Wishes {
    let functions = desired.functions.values().map(|entry| {
        let spec = &entry.function.spec;
        let Demand { memory_bytes, concurrency } = entry.demand();
        let keys = |names: &[String]| -> Vec<String> {
            names.iter().map(|name| format!("{}/{name}", entry.namespace)).collect()
        };
        FunctionNeed {
            key: entry.id.to_string(),
            revision: entry.revision,
            replicas: spec.placement.replicas,
            memory_bytes,
            concurrency,
            priority: spec.placement.priority,
            min_available: spec.placement.min_available,
            regions: spec.placement.regions.clone(),
            zones: spec.placement.zones.clone(),
            labels: spec.placement.labels.clone(),
            spread: Spread::Zone,
            near: keys(&spec.placement.near),
            apart: keys(&spec.placement.apart),
        }
    });
    Wishes { functions: functions.collect(), policy: Policy::default() }
}

fn observed(
    desired: &Desired,
    dead: &BTreeMap<NodeId, u64>,
    capacity: impl Fn(NodeId) -> Capacity,
    ready: impl Fn(&str, u32, NodeId) -> bool,
) -> Observed {
    let nodes = desired.nodes.iter().map(|(id, node)| NodeFacts {
        id: *id,
        name: node.metadata.name.clone(),
        region: node.spec.region.clone(),
        zone: node.spec.zone.clone(),
        labels: node.spec.labels.clone(),
        draining: node.spec.draining,
        region_state: match planted::is_on(Bug::FillDrainedRegion) {
            true => RegionState::default(),
            false => desired.region_state(&node.spec.region),
        },
        dead_since_ms: dead.get(id).copied(),
        trouble: None,
        capacity: capacity(*id),
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

/// A plan, by node and function.
struct Planned<'a> {
    plan: &'a Plan,
    nodes: BTreeMap<NodeId, &'a NodeFacts>,
    conflicts: BTreeMap<&'a str, Vec<&'a Conflict>>,
    decisions: BTreeMap<&'a str, Vec<&'a Decision>>,
}

impl<'a> Planned<'a> {
    fn new(record: &'a Record) -> Self {
        let plan = &record.plan;
        let nodes = record.observed.nodes.iter().map(|node| (node.id, node)).collect();
        let mut conflicts: BTreeMap<&str, Vec<&Conflict>> = BTreeMap::new();
        for conflict in &plan.conflicts {
            if let Conflict::Short { function, .. } = conflict {
                conflicts.entry(function).or_default().push(conflict);
            }
        }
        let mut decisions: BTreeMap<&str, Vec<&Decision>> = BTreeMap::new();
        for decision in &plan.decisions {
            decisions.entry(&decision.function).or_default().push(decision);
        }
        Self { plan, nodes, conflicts, decisions }
    }

    /// Why the function, as it is wanted now, stands nowhere.
    fn refusal(&self, key: &str) -> Option<&'a Conflict> {
        let own = self.conflicts.get(key).into_iter().flatten().copied();
        let all = self.plan.conflicts.iter().take(1);
        own.chain(all).find(|conflict| conflict.leaves_none(key))
    }

    /// The placement that follows. `ready` tells whether a version answers on a node; where that
    /// node breaks a constraint it goes on with what was served before, until its replacement
    /// answers, and that it has the new version too brings that no traffic.
    fn next_placement(
        &self,
        entry: &FunctionEntry,
        need: &FunctionNeed,
        candidates: Vec<NodeId>,
        ready: impl Fn(u32, NodeId) -> bool,
    ) -> Placement {
        let nodes: Vec<NodeId> =
            self.plan.placements.get(&need.key).into_iter().flatten().copied().collect();
        let conflict = self.refusal(&need.key);
        let lawful =
            |node: &NodeId| self.nodes.get(node).is_some_and(|facts| misfit(need, facts).is_none());
        // A version takes its share when it answers somewhere; what it takes it from serves until
        // then. What was never served has nothing to wait for.
        let wanted = entry.function.weights();
        let answers = |number: u32| {
            let version = entry.function.version(number);
            let off = version.is_some_and(|version| version.template.limits.concurrency == 0);
            off || nodes.iter().any(|node| lawful(node) && ready(number, *node))
        };
        let shifts = conflict.is_none() && wanted.iter().all(|target| answers(target.version));
        let traffic = if shifts { wanted } else { serving(&entry.function, &entry.placement) };
        Placement {
            revision: need.revision,
            candidates,
            traffic,
            conflict: conflict.map(|conflict| {
                cut(format!("{}: {conflict}", conflict.code()), MAX_CONFLICT_BYTES)
            }),
            reasons: self.reasons(entry, &nodes),
            nodes,
        }
    }

    /// Shortages first, then what was decided now, then why the other nodes were chosen before.
    fn reasons(&self, entry: &FunctionEntry, nodes: &[NodeId]) -> Vec<PlacementReason> {
        let key = &*entry.id;
        let short = self.conflicts.get(key).into_iter().flatten();
        let short =
            short.map(|conflict| PlacementReason { node: None, text: conflict.to_string() });
        let decided = self.decisions.get(key).into_iter().flatten();
        let decided = decided.map(|decision| PlacementReason {
            node: Some(decision.node.id),
            text: decision.to_string(),
        });
        let mut reasons: Vec<PlacementReason> = short.chain(decided).take(MAX_REASONS).collect();
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

    fn node(id: u64, region: &str) -> NodeFacts {
        NodeFacts {
            id: NodeId(id),
            name: format!("n{id}"),
            region: region.to_owned(),
            capacity: Capacity { functions: 10, memory_bytes: u64::MAX, ..Capacity::default() },
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
        let mut observed = observed(
            desired,
            &BTreeMap::new(),
            |_| UNTOLD,
            |_, version, node| ready(version, node),
        );
        observed.nodes = vec![node(1, "eu"), node(2, "us")];
        let record = Record::new(wishes, observed, 0);
        let entry = desired.function("default", "f").unwrap();
        let need = &record.desired.functions[0];
        let mut candidates = Candidates::default();
        candidates.look(&record);
        let candidates = candidates.of(&record, need, &entry.placement.candidates);
        Planned::new(&record).next_placement(entry, need, candidates, ready)
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
            let mut observed = observed(&desired, &dead, |_| UNTOLD, |_, _, _| false);
            observed.nodes = vec![node(1, "eu"), node(2, "us")];
            for node in &mut observed.nodes {
                node.dead_since_ms = Some(0);
            }
            let record = Record::new(wishes.clone(), observed, now_ms);
            let entry = desired.function("default", "f").unwrap();
            let need = &record.desired.functions[0];
            Planned::new(&record).next_placement(entry, need, Vec::new(), |_, _| false)
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
