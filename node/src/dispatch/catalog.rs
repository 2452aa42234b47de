//! What the members say they serve, indexed by function.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use swarmer_gossip::{EndpointState, MemberState, Members};
use swarmer_mesh::routing::Endpoint;
use swarmer_model::{EndpointHealth, NodeId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::desired::{Desired, DesiredStore};

/// How often the ways between members are looked at when nothing else changes.
const WAYS_TICK: Duration = Duration::from_secs(10);

/// The catalog at one moment.
#[derive(Debug, Default)]
pub(crate) struct Index {
    /// Endpoints that take calls on members that live, by function.
    serving: HashMap<Box<str>, Vec<Serving>>,
    /// The nodes that are being emptied, alone or with their region.
    emptied: HashSet<NodeId>,
    /// Nodes that say of an endpoint of theirs that it does not do well.
    unwell: HashSet<NodeId>,
    alive: HashSet<NodeId>,
    /// The round trip from here to each region, as far as any is known.
    ways: HashMap<String, Duration>,
    /// Endpoints told by nodes that may not serve the function.
    not_entitled: usize,
}

/// Where one version of a function answers.
#[derive(Debug)]
struct Serving {
    version: u32,
    /// Those that are ready, and behind them those on nodes that are being emptied: they answer,
    /// and are asked where no other one is.
    all: Vec<Endpoint>,
    /// How many are ready.
    ready: usize,
}

impl Index {
    /// Builds the index. Region and zone come from the committed state: what a node says of
    /// itself is no authority.
    ///
    /// Nor is it authority for what a node serves: an endpoint that, by this node's copy of the
    /// desired state, is not that node's is left out, so that no request is ever sent there.
    pub(crate) fn build(
        members: &Members,
        desired: &Desired,
        way: impl Fn(NodeId) -> Option<Duration>,
        now: Instant,
    ) -> Self {
        let mut index = Self { ways: ways(members, desired, way), ..Self::default() };
        let emptied = desired.nodes.values().filter(|node| desired.is_emptied(node));
        index.emptied = emptied.map(|node| node.spec.id).collect();
        for member in members {
            if !member.state.is_active() {
                continue;
            }
            index.alive.insert(member.node);
            let Some(record) = &member.record else { continue };
            if member.draining {
                continue;
            }
            let committed = desired.nodes.get(&member.node).map(|node| &node.spec);
            let emptied = index.emptied.contains(&member.node);
            for endpoint in &record.facts.endpoints {
                if endpoint.state != EndpointState::Ready {
                    continue;
                }
                let standing = desired.standings.get(endpoint.function.as_str());
                if !standing.is_some_and(|standing| standing.may_serve(member.node, now)) {
                    index.not_entitled += 1;
                    continue;
                }
                let region = committed.map(|spec| spec.region.clone()).unwrap_or_default();
                let ready = Endpoint {
                    node: member.node,
                    way: index.ways.get(&region).copied(),
                    region,
                    zone: committed.map(|spec| spec.zone.clone()).unwrap_or_default(),
                    load: endpoint.in_flight,
                    has_room: endpoint.in_flight < endpoint.concurrency,
                    // A suspect did not answer somebody; if it lives it says so soon.
                    health: match member.state {
                        MemberState::Suspect => EndpointHealth::Failing,
                        _ => endpoint.health,
                    },
                };
                if ready.health != EndpointHealth::Good {
                    index.unwell.insert(member.node);
                }
                let of_function =
                    index.serving.entry(endpoint.function.as_str().into()).or_default();
                let at = of_function.iter().position(|s| s.version == endpoint.version);
                let at = at.unwrap_or_else(|| {
                    let version = endpoint.version;
                    of_function.push(Serving { version, all: Vec::new(), ready: 0 });
                    of_function.len() - 1
                });
                let serving = &mut of_function[at];
                if emptied {
                    serving.all.push(ready);
                } else {
                    serving.all.insert(serving.ready, ready);
                    serving.ready += 1;
                }
            }
        }
        index
    }

    /// The round trip from this node's region to another one: nothing within it, and for ever
    /// where it is not known.
    pub(crate) fn way_between(&self, own: Option<&str>, other: Option<&str>) -> Duration {
        if own == other {
            return Duration::ZERO;
        }
        let way = other.and_then(|region| self.ways.get(region));
        way.copied().unwrap_or(Duration::MAX)
    }

    /// Where a version of a function is ready and takes calls.
    pub(crate) fn ready(&self, function: &str, version: u32) -> &[Endpoint] {
        self.of(function, version).map_or(&[], |serving| &serving.all[..serving.ready])
    }

    /// Where it answers: there, and on nodes that are being emptied.
    pub(crate) fn answering(&self, function: &str, version: u32) -> &[Endpoint] {
        self.of(function, version).map_or(&[], |serving| &serving.all)
    }

    /// Whether a node that has a copy leaves the choice to who chooses among all: one that is being
    /// emptied does where another is ready, and one whose copy does not do well where another's
    /// does.
    pub(crate) fn leaves_to_others(&self, node: NodeId, function: &str, version: u32) -> bool {
        let ready = || self.ready(function, version);
        if self.emptied.contains(&node) {
            return !ready().is_empty();
        }
        // Asked of each call that could stay here: most of the time nobody is unwell.
        self.unwell.contains(&node)
            && ready().iter().any(|e| e.node == node && e.health != EndpointHealth::Good)
            && ready().iter().any(|e| e.node != node && e.health == EndpointHealth::Good)
    }

    fn of(&self, function: &str, version: u32) -> Option<&Serving> {
        self.serving.get(function)?.iter().find(|serving| serving.version == version)
    }

    /// How many endpoints were left out because the nodes that tell of them may not serve the
    /// function. For a moment that may be a node which has seen a newer placement than this one.
    pub(crate) fn not_entitled(&self) -> usize {
        self.not_entitled
    }

    /// Whether a member lives, as far as this node knows.
    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        self.alive.contains(&node)
    }
}

/// The median of the ways to the members of each region: one that is told or measured wrong moves
/// no traffic.
fn ways(
    members: &Members,
    desired: &Desired,
    way: impl Fn(NodeId) -> Option<Duration>,
) -> HashMap<String, Duration> {
    let mut all: HashMap<&str, Vec<Duration>> = HashMap::new();
    for member in members.iter().filter(|member| member.state.is_active()) {
        let Some(node) = desired.nodes.get(&member.node) else { continue };
        if let Some(way) = way(member.node) {
            all.entry(&node.spec.region).or_default().push(way);
        }
    }
    let median = |mut ways: Vec<Duration>| {
        let middle = ways.len() / 2;
        *ways.select_nth_unstable(middle).1
    };
    all.into_iter().map(|(region, ways)| (region.to_owned(), median(ways))).collect()
}

/// Where a catalog gets what it shows.
struct Sources {
    gossip: swarmer_gossip::Handle,
    members: watch::Receiver<Arc<Members>>,
    states: watch::Receiver<Arc<Desired>>,
}

impl Sources {
    fn index(&mut self) -> Index {
        // Cloned, not held: a distance looks at the members too, and would wait for ever behind
        // whoever waits to write them.
        let members = Arc::clone(&self.members.borrow_and_update());
        let states = Arc::clone(&self.states.borrow_and_update());
        let way = |node: NodeId| self.gossip.distance(node);
        Index::build(&members, &states, way, Instant::now())
    }
}

/// Follows membership, committed state and the ways between the members.
#[derive(Debug, Clone)]
pub(crate) struct Catalog {
    current: watch::Receiver<Arc<Index>>,
}

impl Catalog {
    /// Starts following on the current runtime, until `shutdown`.
    pub(crate) fn follow(
        gossip: swarmer_gossip::Handle,
        desired: &DesiredStore,
        shutdown: CancellationToken,
    ) -> Self {
        let members = gossip.subscribe();
        let mut sources = Sources { gossip, members, states: desired.subscribe() };
        let (sender, current) = watch::channel(Arc::new(sources.index()));
        tokio::spawn(async move {
            loop {
                let changed = tokio::select! {
                    () = shutdown.cancelled() => return,
                    changed = sources.members.changed() => changed,
                    changed = sources.states.changed() => changed,
                    () = tokio::time::sleep(WAYS_TICK) => Ok(()),
                };
                if changed.is_err() {
                    return;
                }
                sender.send_replace(Arc::new(sources.index()));
            }
        });
        Self { current }
    }

    /// The catalog now and every later one (the newest, not each).
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Index>> {
        self.current.clone()
    }

    /// The catalog now.
    pub(crate) fn current(&self) -> Arc<Index> {
        Arc::clone(&self.current.borrow())
    }
}

#[cfg(test)]
mod tests {
    use swarmer_gossip::{Endpoint as Told, Facts, Member, Record};
    use swarmer_mesh::identity::FINISH;
    use swarmer_model::{Digest, Function, Labels, Metadata, Node, NodeSpec, Placement};

    use super::*;

    fn member(node: u64, functions: &[&str]) -> Member {
        let told = functions.iter().map(|function| Told {
            function: (*function).to_owned(),
            version: 1,
            state: EndpointState::Ready,
            in_flight: 0,
            concurrency: 10,
            health: EndpointHealth::Good,
        });
        let facts = Facts { endpoints: told.collect(), ..Facts::default() };
        let node = NodeId(node);
        Member {
            node,
            name: "n".into(),
            addr: ([127, 0, 0, 1], 7400).into(),
            state: MemberState::Alive,
            draining: false,
            reason: "".into(),
            boot: 1,
            since: Duration::ZERO,
            record: Some(Arc::new(Record { node, boot: 1, version: 1, left: false, facts })),
        }
    }

    /// The next state, in which `default/f` is placed there.
    fn placed(before: &Desired, nodes: &[u64], candidates: &[u64], now: Instant) -> Desired {
        let mut function = Function::new(Metadata::named("f"), Digest::of(b"component"));
        function.succeed(None, &[], 0);
        let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect();
        let placement =
            Placement { nodes: ids(nodes), candidates: ids(candidates), ..Placement::default() };
        let (function, placement) =
            (serde_json::to_vec(&function).unwrap(), serde_json::to_vec(&placement).unwrap());
        let at = before.revision + 1;
        let mut next = before.apply(
            at,
            [
                ("functions/default/f", at, Some(&function[..])),
                ("placements/default/f", at, Some(&placement[..])),
            ],
        );
        next.stand(before, now);
        next
    }

    #[test]
    fn one_that_is_emptied_is_told_apart_and_leaves_calls_to_others_while_there_are_any() {
        let now = Instant::now();
        let members = vec![member(1, &["default/f"]), member(2, &["default/f"])];
        let mut desired = placed(&Desired::default(), &[1, 2], &[], now);
        for (id, region) in [(1, "eu"), (2, "us")] {
            let spec = NodeSpec {
                id: NodeId(id),
                public_key: "00".into(),
                address: ([127, 0, 0, 1], 7400).into(),
                region: region.into(),
                zone: String::new(),
                labels: Labels::new(),
                draining: false,
                token: None,
            };
            let node = serde_json::to_vec(&Node::new("n", spec)).unwrap();
            let key = swarmer_model::Key::node(NodeId(id));
            desired = desired.apply(9, [(key.as_str(), 9, Some(&node[..]))]);
        }
        desired.stand(&placed(&Desired::default(), &[1, 2], &[], now), now);
        let ids = |endpoints: &[Endpoint]| -> Vec<u64> {
            endpoints.iter().map(|endpoint| endpoint.node.0).collect()
        };
        let drained = |desired: &Desired, region: &str| {
            let spec =
                swarmer_model::RegionSpec { drained: true, ..swarmer_model::RegionSpec::default() };
            let said = serde_json::to_vec(&swarmer_model::Region::new(region, spec)).unwrap();
            let key = swarmer_model::Key::region(region);
            let mut next = desired.apply(10, [(key.as_str(), 10, Some(&said[..]))]);
            next.stand(desired, now);
            next
        };
        let index = Index::build(&members, &desired, |_| None, now);
        assert_eq!(ids(index.ready("default/f", 1)), [1, 2]);
        assert!(!index.leaves_to_others(NodeId(2), "default/f", 1));
        let one = drained(&desired, "us");
        let index = Index::build(&members, &one, |_| None, now);
        assert_eq!(ids(index.ready("default/f", 1)), [1]);
        assert_eq!(ids(index.answering("default/f", 1)), [1, 2]);
        assert!(index.leaves_to_others(NodeId(2), "default/f", 1));
        assert!(!index.leaves_to_others(NodeId(1), "default/f", 1));
        assert!(!index.leaves_to_others(NodeId(2), "default/f", 2), "nobody else has that one");
        let both = drained(&one, "eu");
        let index = Index::build(&members, &both, |_| None, now);
        assert!(ids(index.ready("default/f", 1)).is_empty());
        assert_eq!(ids(index.answering("default/f", 1)), [1, 2]);
        assert!(!index.leaves_to_others(NodeId(2), "default/f", 1), "then it serves itself");
    }

    #[test]
    fn one_whose_copy_fails_leaves_calls_to_others_whose_copies_do_not() {
        let now = Instant::now();
        let desired = placed(&Desired::default(), &[1, 2], &[], now);
        let does = |each: [EndpointHealth; 2]| {
            let members: Vec<Member> = [1, 2].map(|node| member(node, &["default/f"])).into();
            let told = |mut member: Member, health| {
                let record = Arc::make_mut(member.record.as_mut().unwrap());
                record.facts.endpoints[0].health = health;
                member
            };
            let members = members.into_iter().zip(each).map(|(m, s)| told(m, s)).collect();
            Index::build(&members, &desired, |_| None, now)
        };
        let leaves = |index: &Index| index.leaves_to_others(NodeId(1), "default/f", 1);
        use EndpointHealth::{Failing, Good, Trial};
        for (own, other, expected) in [
            (Good, Good, false),
            (Good, Failing, false),
            (Failing, Good, true),
            (Trial, Good, true),
            (Failing, Failing, false),
            (Failing, Trial, false),
        ] {
            let index = does([own, other]);
            assert_eq!(leaves(&index), expected, "{own:?}, {other:?}");
            let failing = index.ready("default/f", 1).iter();
            let failing = failing.filter(|e| e.health == Failing).count();
            let told = [own, other].into_iter().filter(|health| *health == Failing).count();
            assert_eq!(failing, told);
        }
    }

    #[test]
    fn what_a_node_may_not_serve_is_never_chosen_whatever_it_says() {
        let now = Instant::now();
        let members = vec![
            member(1, &["default/f"]),
            member(2, &["default/f"]),
            member(3, &["default/f", "default/unknown"]),
        ];
        let ready = |desired: &Desired, at| -> (Vec<u64>, usize) {
            let index = Index::build(&members, desired, |_| None, at);
            assert!(index.ready("default/unknown", 1).is_empty());
            let nodes = index.ready("default/f", 1).iter().map(|e| e.node.0).collect();
            (nodes, index.not_entitled())
        };
        let first = placed(&Desired::default(), &[1], &[1, 2], now);
        assert_eq!(ready(&first, now), (vec![1, 2], 2));
        // Moved from 1 to 3: 1 still serves until it has heard of it and has ended its calls.
        let moved = placed(&first, &[3], &[2], now);
        assert_eq!(ready(&moved, now), (vec![1, 2, 3], 1));
        assert_eq!(ready(&moved, now + FINISH), (vec![2, 3], 2));
        // A copy of the whole state in place of changes forgets nothing of that.
        let mut copy = placed(&Desired::default(), &[3], &[2], now);
        copy.stand(&moved, now);
        assert_eq!(ready(&copy, now), (vec![1, 2, 3], 1));
    }

    #[test]
    fn the_way_to_a_region_is_the_median_of_those_to_its_members() {
        let mut desired = Desired::default();
        for (id, region) in [(1, "east"), (2, "east"), (3, "east"), (4, "west"), (5, "south")] {
            let spec = NodeSpec {
                id: NodeId(id),
                public_key: String::new(),
                address: ([127, 0, 0, 1], 7400).into(),
                region: region.to_owned(),
                zone: String::new(),
                labels: Labels::new(),
                draining: false,
                token: None,
            };
            desired.nodes.insert(NodeId(id), Node::new("n", spec).into());
        }
        let mut members: Vec<Member> = (1..=6).map(|node| member(node, &[])).collect();
        members[4].state = MemberState::Down;
        let way = |NodeId(id)| Some(Duration::from_millis([0, 80, 1, 82, 250, 9, 9][id as usize]));
        let index = Index::build(&members, &desired, way, Instant::now());
        let between = |other| index.way_between(Some("east"), Some(other));
        assert_eq!(index.ways["east"], Duration::from_millis(80));
        assert_eq!(between("west"), Duration::from_millis(250));
        assert_eq!((between("south"), between("east")), (Duration::MAX, Duration::ZERO));
    }
}
