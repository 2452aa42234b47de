//! One state of the cluster's wishes, and how changes make the next one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use http::HeaderValue;
use swarmer_mesh::{
    identity::Standing,
    routing::{RegionRules, RouteRule, RouteTable, RouteTarget},
};
use swarmer_model::{
    Function, Key, Kind, Node, NodeId, Placement, Region, RegionState, Revision, TrafficTarget,
    Version,
};
use swarmer_scheduler::Demand;

/// What [`plans_key`] is called.
const PLANS: &str = "plans";

/// Written by whoever commits a plan of placements, or changes what plans are made on besides functions:
/// who empties or removes a node. A plan is committed only if nobody did since the state that it was
/// made on: what one plan gives to a function is room that another one may not give again.
pub(crate) fn plans_key() -> Key {
    Key::cluster(PLANS)
}

/// A function with everything that serving it needs.
#[derive(Debug, Clone)]
pub(crate) struct FunctionEntry {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    /// `namespace/name`.
    pub(crate) id: Arc<str>,
    pub(crate) function: Function,
    /// The revision of `function`.
    pub(crate) revision: Revision,
    pub(crate) placement: Placement,
    /// The revision of the entry of `placement`; none if there is none yet.
    pub(crate) placed_at: Option<Revision>,
    /// Version and weight by which requests are sent, weights above zero.
    pub(crate) weights: Vec<(u32, u32)>,
    /// What an answer of each version is marked with.
    labels: Vec<(u32, HeaderValue)>,
    /// The revision at which function or placement changed last: who is asked to serve it must
    /// have seen that much.
    pub(crate) changed: Revision,
}

/// One change: key, the revision of the change, the new value (`None` for a deleted key).
pub(crate) type Change<'a> = (&'a str, Revision, Option<&'a [u8]>);

/// What changes in place bear on.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// Functions that changed, or their placements did.
    pub(super) functions: Vec<Arc<str>>,
    pub(super) routes: bool,
}

/// The shares by which requests are sent: those that the placement says, as far as their versions
/// are still kept; before the first placement those of the function.
pub(crate) fn serving(function: &Function, placement: &Placement) -> Vec<TrafficTarget> {
    let kept = |target: &&TrafficTarget| function.version(target.version).is_some();
    let serving: Vec<TrafficTarget> = placement.traffic.iter().filter(kept).copied().collect();
    if serving.is_empty() { function.weights() } else { serving }
}

impl FunctionEntry {
    /// What a copy takes of its node.
    pub(crate) fn demand(&self) -> Demand {
        let spec = &self.function.spec;
        // Of the versions that serve, too: each has its own limit.
        let serving = self.weights.iter().filter_map(|(number, _)| self.function.version(*number));
        let serving = serving.map(|version| version.template.limits.concurrency);
        let concurrency = serving.chain([spec.template.limits.concurrency]).max();
        Demand {
            memory_bytes: spec.placement.memory.0,
            concurrency: concurrency.unwrap_or_default(),
        }
    }

    /// What an answer of this version is marked with.
    pub(crate) fn label(&self, version: u32) -> Option<&HeaderValue> {
        self.labels.iter().find(|(number, _)| *number == version).map(|(_, label)| label)
    }

    /// Versions that do not serve yet and that the nodes of the placement get ready, so that they
    /// can. None before the placement of this very revision, and none if no node may have them.
    pub(crate) fn coming(&self) -> Vec<u32> {
        let planned = self.placement.revision == self.revision && self.placement.conflict.is_none();
        let targets = self.function.weights().into_iter().map(|target| target.version);
        let serves = |version: &u32| self.weights.iter().any(|(serving, _)| serving == version);
        targets.filter(|version| planned && !serves(version)).collect()
    }

    /// Who may speak for it and serve it, and, of those of before, who may finish what it began.
    fn standing(&self, before: &Standing, now: Instant) -> Standing {
        let nodes = self.placement.nodes.iter().chain(&self.placement.candidates).copied();
        let versions = self.function.status.versions.iter();
        before.next(nodes, versions.map(|version| version.template.component), now)
    }

    fn weigh(&mut self) {
        let serving = serving(&self.function, &self.placement);
        self.weights = serving.iter().map(|target| (target.version, target.weight)).collect();
    }
}

/// All of it at one revision. Parts that did not change are shared with the state before.
#[derive(Debug, Clone, Default)]
pub(crate) struct Desired {
    pub(crate) revision: Revision,
    /// By `namespace/name`.
    pub(crate) functions: HashMap<Arc<str>, Arc<FunctionEntry>>,
    pub(crate) nodes: BTreeMap<NodeId, Arc<Node>>,
    /// What was said of regions, by name.
    pub(crate) regions: BTreeMap<String, Arc<Region>>,
    /// The revision of [`plans_key`]; none if it was never written.
    pub(crate) planned_at: Option<Revision>,
    placements: HashMap<Arc<str>, (Revision, Arc<Placement>)>,
    /// Who may speak for and serve what, by function; see [`Desired::stand`].
    pub(crate) standings: HashMap<Arc<str>, Arc<Standing>>,
    pub(crate) routes: Arc<RouteTable>,
}

impl Desired {
    /// The function of this namespace and name.
    pub(crate) fn function(&self, namespace: &str, name: &str) -> Option<&Arc<FunctionEntry>> {
        by_name(&self.functions, namespace, name)
    }

    /// Who may speak for and serve the function of this namespace and name.
    pub(crate) fn standing(&self, namespace: &str, name: &str) -> Option<&Standing> {
        by_name(&self.standings, namespace, name).map(Arc::as_ref)
    }

    /// What the nodes of a region are asked to do.
    pub(crate) fn region_state(&self, region: &str) -> RegionState {
        self.regions.get(region).map(|region| region.state()).unwrap_or_default()
    }

    /// Whether a node is to be emptied: alone, or with its whole region.
    pub(crate) fn is_emptied(&self, node: &Node) -> bool {
        node.spec.draining || self.region_state(&node.spec.region) == RegionState::Drained
    }

    /// Whether a function has a copy in a region.
    pub(crate) fn stands_in(&self, entry: &FunctionEntry, region: &str) -> bool {
        let mut copies = entry.placement.nodes.iter().filter_map(|node| self.nodes.get(node));
        copies.any(|node| node.spec.region == region)
    }

    /// Notes who may speak for and serve what, and, from the state before, who may finish what it
    /// began: of all functions.
    pub(crate) fn stand(&mut self, before: &Self, now: Instant) {
        let mut standings = HashMap::with_capacity(self.functions.len());
        for (id, entry) in &self.functions {
            let old = before.standings.get(id);
            let unchanged =
                before.functions.get(id).is_some_and(|before| Arc::ptr_eq(before, entry));
            let next = match old {
                Some(old) if unchanged => Arc::clone(old),
                old => Arc::new(
                    entry.standing(&old.map(Arc::as_ref).cloned().unwrap_or_default(), now),
                ),
            };
            standings.insert(Arc::clone(id), next);
        }
        for (id, old) in &before.standings {
            if !self.functions.contains_key(id) {
                let next = old.next([], [], now);
                if !next.is_empty() {
                    standings.insert(Arc::clone(id), Arc::new(next));
                }
            }
        }
        self.standings = standings;
    }

    /// The same of these functions alone, after a change of them in place.
    pub(super) fn stand_again(
        &mut self,
        changed: impl IntoIterator<Item = Arc<str>>,
        now: Instant,
    ) {
        for id in changed {
            let old = self.standings.get(&id).map(Arc::as_ref).cloned().unwrap_or_default();
            let next = match self.functions.get(&id) {
                Some(entry) => entry.standing(&old, now),
                None => old.next([], [], now),
            };
            self.standings.insert(id, Arc::new(next));
        }
    }

    /// Forgets functions that are no more once nobody has anything to finish for them.
    pub(super) fn forget(&mut self, now: Instant) {
        let functions = &self.functions;
        self.standings
            .retain(|id, old| functions.contains_key(id) || !old.next([], [], now).is_empty());
    }

    /// The function that has a route for this host and path, and what that route says of regions.
    pub(crate) fn route(
        &self,
        host: &str,
        path: &str,
    ) -> Option<(&Arc<FunctionEntry>, Option<&Arc<RegionRules>>)> {
        let routed = self.routes.find(host, path)?;
        let entry = self.function(&routed.target.namespace, &routed.target.name)?;
        Some((entry, routed.regions))
    }

    /// Whether a change of this key changes more than the revision.
    pub(crate) fn types(key: &str) -> bool {
        let typed = [Kind::Function, Kind::Placement, Kind::Node, Kind::Region];
        typed.iter().any(|kind| key.starts_with(kind.prefix()))
    }

    /// The state at `revision`, after these changes.
    #[must_use]
    pub(crate) fn apply<'a>(
        &self,
        revision: Revision,
        changes: impl IntoIterator<Item = Change<'a>>,
    ) -> Self {
        let mut next = self.clone();
        if next.change(revision, changes).routes {
            next.build_routes();
        }
        next
    }

    /// Makes these changes in place, but for routes and standings.
    pub(super) fn change<'a>(
        &mut self,
        revision: Revision,
        changes: impl IntoIterator<Item = Change<'a>>,
    ) -> Changed {
        self.revision = revision;
        let mut changed = Changed::default();
        for (key, at, value) in changes {
            if let Some(id) = key.strip_prefix(Kind::Function.prefix()) {
                self.set_function(id, at, value.and_then(|value| read_json(key, value)));
                changed.functions.push(id.into());
                changed.routes = true;
            } else if let Some(id) = key.strip_prefix(Kind::Placement.prefix()) {
                self.set_placement(id, at, value.and_then(|value| read_json(key, value)));
                changed.functions.push(id.into());
            } else if let Some(id) = key.strip_prefix(Kind::Node.prefix()) {
                self.set_node(id, key, value);
            } else if let Some(name) = key.strip_prefix(Kind::Region.prefix()) {
                self.set_region(name, key, value);
            } else if key.strip_prefix(Kind::Cluster.prefix()) == Some(PLANS) {
                // Never alone: a placement, a node or a region changes with it.
                self.planned_at = value.is_some().then_some(at);
            }
        }
        changed
    }

    fn set_function(&mut self, id: &str, at: Revision, function: Option<Function>) {
        let Some(function) = function else {
            self.functions.remove(id);
            return;
        };
        let (placed_at, placement) = self.placements.get(id).cloned().unzip();
        let label = |v: &Version| HeaderValue::from_str(&v.label()).map(|l| (v.number, l));
        let labels = function.status.versions.iter().filter_map(|v| label(v).ok()).collect();
        let mut entry = FunctionEntry {
            namespace: function.metadata.namespace.as_str().into(),
            name: function.metadata.name.as_str().into(),
            id: id.into(),
            function,
            revision: at,
            placement: placement.as_deref().cloned().unwrap_or_default(),
            placed_at,
            weights: Vec::new(),
            labels,
            changed: self.revision,
        };
        entry.weigh();
        self.functions.insert(Arc::clone(&entry.id), Arc::new(entry));
    }

    fn set_placement(&mut self, id: &str, at: Revision, placement: Option<Placement>) {
        if let Some(entry) = self.functions.get_mut(id) {
            let entry = Arc::make_mut(entry);
            entry.placed_at = placement.is_some().then_some(at);
            entry.placement = placement.clone().unwrap_or_default();
            entry.changed = self.revision;
            entry.weigh();
        }
        match placement {
            Some(placement) => self.placements.insert(id.into(), (at, Arc::new(placement))),
            None => self.placements.remove(id),
        };
    }

    fn set_node(&mut self, id: &str, key: &str, value: Option<&[u8]>) {
        let Ok(id) = id.parse::<NodeId>() else { return };
        match value.and_then(|value| read_json::<Node>(key, value)) {
            Some(node) => {
                self.nodes.insert(id, Arc::new(node));
            }
            None => {
                self.nodes.remove(&id);
            }
        }
    }

    fn set_region(&mut self, name: &str, key: &str, value: Option<&[u8]>) {
        match value.and_then(|value| read_json::<Region>(key, value)) {
            Some(region) => {
                self.regions.insert(name.to_owned(), Arc::new(region));
            }
            None => {
                self.regions.remove(name);
            }
        }
    }

    pub(super) fn build_routes(&mut self) {
        let mut entries: Vec<&Arc<FunctionEntry>> = self.functions.values().collect();
        // Claims keep two functions from having one route; should it be so all the same, every
        // node must decide alike.
        entries.sort_by(|a, b| a.id.cmp(&b.id));
        let rules: Vec<RouteRule> =
            entries.iter().flat_map(|entry| rules_of(&entry.function)).collect();
        let (table, errors) = RouteTable::build(&rules);
        for error in errors {
            tracing::warn!(target: "swarmer::routes", %error, "a route is left out");
        }
        self.routes = Arc::new(table);
    }
}

/// What stands under `namespace/name`. Names are at most 63 bytes each, so the key fits a small
/// buffer: no allocation here.
fn by_name<'a, T>(all: &'a HashMap<Arc<str>, T>, namespace: &str, name: &str) -> Option<&'a T> {
    let mut buffer = [0_u8; 128];
    let length = namespace.len() + 1 + name.len();
    let key = buffer.get_mut(..length)?;
    key[..namespace.len()].copy_from_slice(namespace.as_bytes());
    key[namespace.len()] = b'/';
    key[namespace.len() + 1..].copy_from_slice(name.as_bytes());
    all.get(std::str::from_utf8(key).ok()?)
}

/// The routes of a function as the mesh takes them.
pub(crate) fn rules_of(function: &Function) -> Vec<RouteRule> {
    let target = RouteTarget {
        namespace: function.metadata.namespace.clone(),
        name: function.metadata.name.clone(),
    };
    let routes = function.spec.routes.iter();
    routes
        .map(|route| RouteRule {
            target: target.clone(),
            hosts: route.hosts.clone(),
            prefixes: vec![route.path.clone()],
            regions: RegionRules::new(&route.failover, &route.distribute).map(Arc::new),
        })
        .collect()
}

fn read_json<T: serde::de::DeserializeOwned>(key: &str, value: &[u8]) -> Option<T> {
    // What a newer version wrote and this one cannot read is left out, and said.
    serde_json::from_slice(value)
        .inspect_err(|error| {
            tracing::error!(target: "swarmer::desired", key, %error, "an entry cannot be read");
        })
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use swarmer_model::{Digest, Metadata};

    fn function(name: &str, component: &[u8]) -> Vec<u8> {
        let mut function = Function::new(Metadata::named(name), Digest::of(component));
        function.succeed(None, &[], 0);
        serde_json::to_vec(&function).unwrap()
    }

    #[test]
    fn changes_make_the_next_state_and_leave_the_one_before_alone() {
        let empty = Desired::default();
        let value = function("hello", b"1");
        let one = empty.apply(5, [("functions/default/hello", 3, Some(value.as_slice()))]);
        assert!(empty.functions.is_empty());
        let (entry, regions) = one.route("example", "/hello/x?y").unwrap();
        assert!(regions.is_none());
        assert_eq!(&*entry.id, "default/hello");
        assert_eq!(entry.weights, [(1, 1)]);
        assert_eq!((entry.revision, entry.placed_at), (3, None));
        assert_eq!(one.revision, 5);
        assert!(one.function("default", "hello").is_some());
        assert!(one.function("default", &"x".repeat(300)).is_none());
        let placement = Placement { nodes: vec![NodeId(7)], ..Placement::default() };
        let placement = serde_json::to_vec(&placement).unwrap();
        let two = one.apply(6, [("placements/default/hello", 6, Some(placement.as_slice()))]);
        assert_eq!(two.function("default", "hello").unwrap().placement.nodes, [NodeId(7)]);
        assert_eq!(two.function("default", "hello").unwrap().changed, 6);
        assert_eq!(two.function("default", "hello").unwrap().placed_at, Some(6));
        let again = two.apply(7, [("functions/default/hello", 7, Some(value.as_slice()))]);
        assert_eq!(again.function("default", "hello").unwrap().placement.nodes, [NodeId(7)]);
        let gone = again.apply(8, [("functions/default/hello", 8, None)]);
        assert!(gone.route("example", "/hello").is_none());
    }

    #[test]
    fn requests_go_by_the_placement_and_the_next_version_waits_for_its_own() {
        let mut first = Function::new(Metadata::named("f"), Digest::of(b"1"));
        first.succeed(None, &[], 0);
        let mut second = Function::new(Metadata::named("f"), Digest::of(b"2"));
        second.succeed(Some(&first), &[1], 1);
        let second = serde_json::to_vec(&second).unwrap();
        let placed = |revision, version, conflict: Option<&str>| {
            let placement = Placement {
                revision,
                nodes: vec![NodeId(1)],
                traffic: vec![TrafficTarget { version, weight: 1 }],
                conflict: conflict.map(str::to_owned),
                ..Placement::default()
            };
            let value = serde_json::to_vec(&placement).unwrap();
            let state = Desired::default().apply(
                9,
                [
                    ("functions/default/f", 7, Some(second.as_slice())),
                    ("placements/default/f", 8, Some(value.as_slice())),
                ],
            );
            let entry = state.function("default", "f").unwrap();
            (entry.weights.clone(), entry.coming())
        };
        assert_eq!(placed(5, 1, None), (vec![(1, 1)], vec![]), "planned for what was before");
        assert_eq!(placed(7, 1, None), (vec![(1, 1)], vec![2]), "gets ready");
        assert_eq!(placed(7, 1, Some("no node")), (vec![(1, 1)], vec![]), "nowhere");
        assert_eq!(placed(7, 2, None), (vec![(2, 1)], vec![]), "serves");
        assert_eq!(placed(7, 9, None), (vec![(2, 1)], vec![]), "a version that is forgotten");
    }

    #[test]
    fn a_state_knows_when_a_plan_was_committed_last() {
        let placement = serde_json::to_vec(&Placement::default()).unwrap();
        let state = Desired::default();
        assert_eq!(state.planned_at, None);
        let planned = state.apply(
            7,
            [
                ("placements/default/f", 7, Some(placement.as_slice())),
                (plans_key().as_str(), 7, Some(&b""[..])),
            ],
        );
        assert_eq!(planned.planned_at, Some(7));
        assert_eq!(planned.apply(8, [("nodes/1", 8, None)]).planned_at, Some(7));
    }

    #[test]
    fn leases_and_the_like_change_the_revision_alone() {
        for key in ["functions/a/f", "placements/a/f", "nodes/1", "regions/eu"] {
            assert!(Desired::types(key), "{key}");
        }
        for key in ["leases/a/l", "tokens/x", "cluster/ca", "claims/*/f"] {
            assert!(!Desired::types(key), "{key}");
        }
    }

    #[test]
    fn a_region_empties_its_nodes_those_of_later_too_until_it_takes_work_again() {
        let node = |id: u64, region: &str| {
            let spec = swarmer_model::NodeSpec {
                id: NodeId(id),
                public_key: "00".into(),
                address: ([127, 0, 0, 1], 7400).into(),
                region: region.into(),
                zone: String::new(),
                labels: swarmer_model::Labels::new(),
                draining: false,
                token: None,
            };
            serde_json::to_vec(&Node::new(format!("n{id}"), spec)).unwrap()
        };
        let said = |drained| {
            let spec =
                swarmer_model::RegionSpec { drained, ..swarmer_model::RegionSpec::default() };
            serde_json::to_vec(&Region::new("us", spec)).unwrap()
        };
        let emptied = |state: &Desired| -> Vec<u64> {
            let nodes = state.nodes.values().filter(|node| state.is_emptied(node));
            nodes.map(|node| node.spec.id.0).collect()
        };
        let key = |id| String::from(Key::node(NodeId(id)));
        let (one, two, three) = (node(1, "eu"), node(2, "us"), node(3, "us"));
        let first = Desired::default()
            .apply(1, [(&*key(1), 1, Some(&one[..])), (&*key(2), 1, Some(&two[..]))]);
        assert!(emptied(&first).is_empty());
        let drained = first.apply(2, [("regions/us", 2, Some(&said(true)[..]))]);
        assert_eq!(emptied(&drained), [2]);
        let joined = drained.apply(3, [(&*key(3), 3, Some(&three[..]))]);
        assert_eq!(emptied(&joined), [2, 3]);
        let resumed = joined.apply(4, [("regions/us", 4, Some(&said(false)[..]))]);
        assert!(emptied(&resumed).is_empty());
        assert_eq!(resumed.region_state("us"), RegionState::Resumed);
        assert_eq!(resumed.region_state("eu"), RegionState::Open);
    }

    #[test]
    fn an_entry_that_cannot_be_read_harms_no_other() {
        let good = function("hello", b"1");
        let state = Desired::default().apply(
            1,
            [
                ("functions/default/bad", 1, Some(&b"{"[..])),
                ("functions/default/hello", 1, Some(good.as_slice())),
                ("tokens/x", 1, Some(&b"?"[..])),
            ],
        );
        assert_eq!(state.functions.len(), 1);
    }
}
