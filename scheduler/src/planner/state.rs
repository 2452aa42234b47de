//! The copy of the placements that a plan is worked out on.
//!
//! Functions and nodes are numbered, by key and by id: what a plan looks at again and again lies
//! in vectors, and one for a thousand nodes and fifty thousand functions takes no second. What is
//! asked of every node for every addition is marked to be inlined: with a loop for functions that
//! have affinity and one for those that have none, the compiler does it in neither by itself.

use std::{
    cell::OnceCell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use swarmer_model::{
    Labels, NodeId, RegionState,
    planted::{self, Bug},
};

use super::{company::Ties, refusal::Refusal};
use crate::{
    candidates::Liking,
    eligibility::{self, enough_sound, misfit, trouble_of},
    input::{
        Capacity, CopyState, Desired, FunctionKey, FunctionNeed, NodeFacts, NodeRef, Observed,
    },
    reason::Reason,
    room::{Demand, Used},
};

/// A function, by its place in the order of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NeedAt(usize);

/// A node, by its place in the order of ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeAt(usize);

/// A difference to what was observed.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Add(Reason),
    Remove(Reason),
}

/// A copy of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) node: NodeAt,
    pub(super) ready: bool,
}

/// A function with what is worked out of it once.
#[derive(Debug)]
struct Wish<'a> {
    need: &'a FunctionNeed,
    /// Those with the same constraints share it.
    class: usize,
    failing: Option<&'a BTreeMap<NodeId, String>>,
    /// Whether enough other nodes may hold it, so that those in trouble need not.
    elsewhere: OnceCell<bool>,
    /// As observed, and as planned; by node.
    before: Vec<Placed>,
    copies: Vec<Placed>,
}

/// What all functions with the same constraints have in common.
#[derive(Debug)]
struct Class<'a> {
    example: &'a FunctionNeed,
    lawful: OnceCell<Vec<NodeAt>>,
    hint: OnceCell<Option<String>>,
}

/// A node, and of it what each addition of each function looks at: close together, as there are
/// many.
#[derive(Debug)]
struct Place<'a> {
    node: &'a NodeFacts,
    used: Used,
    capacity: Capacity,
    /// Zones of two regions are never the same.
    zone: usize,
    dead: bool,
    draining: bool,
    troubled: bool,
}

/// What stands on a node.
#[derive(Debug, Default)]
struct Holding {
    functions: Vec<NeedAt>,
    /// Those that have to leave; forgotten when anything comes or goes.
    to_go: OnceCell<BTreeSet<NeedAt>>,
    /// All of them with their priorities, in the order in which they make room; forgotten likewise.
    in_order: OnceCell<Vec<(i32, NeedAt)>>,
}

impl Holding {
    fn forget(&mut self) {
        self.to_go.take();
        self.in_order.take();
    }
}

#[derive(Debug)]
pub(crate) struct State<'a> {
    wishes: Vec<Wish<'a>>,
    places: Vec<Place<'a>>,
    holdings: Vec<Holding>,
    classes: Vec<Class<'a>>,
    by_priority: Vec<NeedAt>,
    least_priority: Option<i32>,
    /// The region of each zone, by its number.
    regions: Vec<usize>,
    ties: Ties,
    /// Whether there is a node in a region that was drained and takes work again.
    resumed: bool,
    grace_ms: u64,
    now_ms: u64,
    /// Copies of deleted functions, and those on nodes that are no members: gone before all else.
    gone: Vec<(&'a str, NodeId, Reason)>,
    changes: BTreeMap<(NeedAt, NodeAt), Change>,
}

impl<'a> State<'a> {
    pub(crate) fn new(desired: &'a Desired, observed: &'a Observed, now_ms: u64) -> Self {
        let places = places(observed);
        let regions = regions(&places);
        let resumed = |place: &Place<'_>| place.node.region_state == RegionState::Resumed;
        let resumed = places.iter().any(resumed);
        let (wishes, classes) = wishes(desired, observed);
        let mut by_priority: Vec<NeedAt> = (0..wishes.len()).map(NeedAt).collect();
        let priority = |at: NeedAt| wishes[at.0].need.priority;
        by_priority.sort_by_key(|at| Reverse(priority(*at)));
        let needs = wishes.iter().enumerate().map(|(at, wish)| (NeedAt(at), wish.need));
        let ties = Ties::of(needs, |name| named(&wishes, name));
        let by_priority = ties.ordered(by_priority, |a, b| priority(a) == priority(b));
        let least_priority = wishes.iter().map(|wish| wish.need.priority).min();
        let holdings = places.iter().map(|_| Holding::default()).collect();
        let mut state = Self {
            wishes,
            places,
            holdings,
            classes,
            by_priority,
            least_priority,
            regions,
            ties,
            resumed,
            grace_ms: desired.policy.dead_grace_ms,
            now_ms,
            gone: Vec::new(),
            changes: BTreeMap::new(),
        };
        for (key, copies) in &observed.placements {
            state.observe(key, copies);
        }
        state
    }

    fn observe(&mut self, key: &'a str, copies: &[CopyState]) {
        let Some(at) = self.named(key) else {
            let nodes: BTreeSet<NodeId> = copies.iter().map(|copy| copy.node).collect();
            self.gone.extend(nodes.into_iter().map(|node| (key, node, Reason::Deleted)));
            return;
        };
        let by_node: BTreeMap<NodeId, bool> =
            copies.iter().map(|copy| (copy.node, copy.ready)).collect();
        let need = self.wishes[at.0].need;
        for (id, ready) in by_node {
            let Some(node) = self.find_node(id) else {
                self.gone.push((key, id, Reason::NotMember));
                continue;
            };
            let placed = Placed { node, ready };
            self.wishes[at.0].before.push(placed);
            self.wishes[at.0].copies.push(placed);
            self.places[node.0].used.put(need.demand());
            self.holdings[node.0].functions.push(at);
        }
    }

    /// The function of this name.
    pub(crate) fn named(&self, function: &str) -> Option<NeedAt> {
        named(&self.wishes, function)
    }

    fn find_node(&self, id: NodeId) -> Option<NodeAt> {
        self.places.binary_search_by_key(&id, |place| place.node.id).ok().map(NodeAt)
    }

    pub(crate) fn need(&self, at: NeedAt) -> &'a FunctionNeed {
        self.wishes[at.0].need
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeAt> + Clone + use<> {
        (0..self.places.len()).map(NodeAt)
    }

    pub(crate) fn node(&self, at: NodeAt) -> &'a NodeFacts {
        self.places[at.0].node
    }

    pub(crate) fn node_ref(&self, at: NodeAt) -> NodeRef {
        self.node(at).into()
    }

    /// The node of this id as reasons name it; without a name if it is no member.
    pub(super) fn node_of(&self, id: NodeId) -> NodeRef {
        let unknown = NodeRef { id, name: String::new() };
        self.find_node(id).map_or(unknown, |node| self.node_ref(node))
    }

    fn all_nodes(&self) -> impl Iterator<Item = &'a NodeFacts> + Clone {
        self.places.iter().map(|place| place.node)
    }

    /// Functions, those first that get scarce capacity first.
    pub(super) fn by_priority(&self) -> Vec<NeedAt> {
        self.by_priority.clone()
    }

    /// Whether any function is less important.
    pub(super) fn outranks_any(&self, at: NeedAt) -> bool {
        self.least_priority.is_some_and(|least| least < self.need(at).priority)
    }

    /// Whether all are equally important.
    pub(super) fn one_priority(&self) -> bool {
        self.by_priority.first().is_none_or(|most| !self.outranks_any(*most))
    }

    fn class(&self, at: NeedAt) -> &Class<'a> {
        &self.classes[self.wishes[at.0].class]
    }

    /// The nodes that break no constraint of the function.
    pub(super) fn lawful(&self, at: NeedAt) -> &[NodeAt] {
        let class = self.class(at);
        class.lawful.get_or_init(|| {
            let fits = |node: &NodeAt| {
                misfit(class.example, self.node(*node)).is_none()
                    || planted::is_on(Bug::ForgetConstraint)
            };
            self.nodes().filter(fits).collect()
        })
    }

    /// What the user may have meant by a constraint that not one node meets.
    pub(super) fn hint(&self, at: NeedAt) -> Option<String> {
        let class = self.class(at);
        let hint = || eligibility::hint(class.example, self.all_nodes());
        class.hint.get_or_init(hint).clone()
    }

    /// Why the function is kept away from the node; `None`: it is not.
    #[inline]
    pub(super) fn avoided(&self, at: NeedAt, node: NodeAt) -> Option<&'a str> {
        let why = self.known_trouble(at, node)?;
        let wish = &self.wishes[at.0];
        let elsewhere = || {
            let lawful = self.lawful(at).iter().map(|node| self.node(*node));
            enough_sound(lawful, wish.failing, wish.need)
        };
        wish.elsewhere.get_or_init(elsewhere).then_some(why)
    }

    /// What is known to be wrong with the node, for this function or all.
    #[inline]
    pub(super) fn known_trouble(&self, at: NeedAt, node: NodeAt) -> Option<&'a str> {
        let (failing, place) = (self.wishes[at.0].failing, &self.places[node.0]);
        if failing.is_none() && !place.troubled { None } else { trouble_of(failing, place.node) }
    }

    #[inline]
    pub(super) fn zone(&self, node: NodeAt) -> usize {
        self.places[node.0].zone
    }

    /// How many zones there are.
    pub(super) fn zones(&self) -> usize {
        self.regions.len()
    }

    /// The region of a zone.
    pub(super) fn region_of(&self, zone: usize) -> usize {
        self.regions[zone]
    }

    pub(super) fn ties(&self) -> &Ties {
        &self.ties
    }

    /// Whether any region was drained and takes work again.
    pub(super) fn any_resumed(&self) -> bool {
        self.resumed
    }

    #[inline]
    pub(crate) fn holds(&self, at: NeedAt, node: NodeAt) -> bool {
        self.wishes[at.0].copies.binary_search_by_key(&node, |copy| copy.node).is_ok()
    }

    pub(super) fn copies(&self, at: NeedAt) -> &[Placed] {
        &self.wishes[at.0].copies
    }

    pub(super) fn used(&self, node: NodeAt) -> Used {
        self.places[node.0].used
    }

    /// The node holds more than it can.
    pub(super) fn overfull(&self, node: NodeAt) -> bool {
        let place = &self.places[node.0];
        place.used.over(place.capacity).is_some()
    }

    /// Whether the function is one of those that have to leave an overfull node: the shortest run of
    /// them, least important first, without which the rest fits. When a copy leaves the node, what still has to go is
    /// always part of what had to go before.
    pub(super) fn has_to_go(&self, at: NeedAt, node: NodeAt) -> bool {
        let to_go = || {
            let place = &self.places[node.0];
            let mut functions = self.holdings[node.0].functions.clone();
            functions.sort_by_cached_key(|at| {
                let need = self.need(*at);
                let liking = Liking::of(&need.key).score(place.node.id);
                (need.priority, Reverse(need.memory_bytes), liking, *at)
            });
            let mut used = place.used;
            let mut go = BTreeSet::new();
            for at in functions {
                if used.over(place.capacity).is_none() {
                    break;
                }
                used.take(self.need(at).demand());
                go.insert(at);
            }
            go
        };
        self.overfull(node) && self.holdings[node.0].to_go.get_or_init(to_go).contains(&at)
    }

    /// The node's load in thousandths, with one more function on top if one is given: the fullest
    /// of its capacities.
    #[inline]
    pub(super) fn load_permille(&self, node: NodeAt, more: Option<&FunctionNeed>) -> u32 {
        let Place { mut used, capacity, .. } = self.places[node.0];
        if let Some(need) = more {
            used.put(need.demand());
        }
        used.permille(capacity)
    }

    /// For how long the node has been dead; `None`: it is alive.
    pub(super) fn dead_for_ms(&self, node: &NodeFacts) -> Option<u64> {
        node.dead_since_ms.map(|since| self.now_ms.saturating_sub(since))
    }

    pub(super) fn grace_ms(&self) -> u64 {
        self.grace_ms
    }

    /// When the node's grace time ends; `u64::MAX` if it is alive.
    pub(super) fn grace_ends_ms(&self, node: NodeAt) -> u64 {
        let since = self.node(node).dead_since_ms;
        since.map_or(u64::MAX, |since| since.saturating_add(self.grace_ms))
    }

    /// The next end of a grace time that work waits for.
    pub(super) fn replan_at_ms(&self) -> Option<u64> {
        self.nodes()
            .filter(|node| !self.holdings[node.0].functions.is_empty())
            .map(|node| self.grace_ends_ms(node))
            .filter(|at| *at > self.now_ms && *at < u64::MAX)
            .min()
    }

    pub(super) fn add(&mut self, at: NeedAt, node: NodeAt, reason: Reason) -> Placed {
        let wish = &mut self.wishes[at.0];
        let before = wish.before.iter().find(|copy| copy.node == node);
        match before {
            // It stood there, and was taken away earlier in this plan.
            Some(_) => self.changes.remove(&(at, node)),
            None => self.changes.insert((at, node), Change::Add(reason)),
        };
        let placed = Placed { node, ready: before.is_some_and(|copy| copy.ready) };
        if let Err(to) = wish.copies.binary_search_by_key(&node, |copy| copy.node) {
            wish.copies.insert(to, placed);
        }
        self.places[node.0].used.put(wish.need.demand());
        let holding = &mut self.holdings[node.0];
        if let Err(to) = holding.functions.binary_search(&at) {
            holding.functions.insert(to, at);
        }
        holding.forget();
        placed
    }

    pub(super) fn remove(&mut self, at: NeedAt, node: NodeAt, reason: Reason) {
        let wish = &mut self.wishes[at.0];
        if let Ok(from) = wish.copies.binary_search_by_key(&node, |copy| copy.node) {
            wish.copies.remove(from);
        }
        if wish.before.iter().any(|copy| copy.node == node) {
            self.changes.insert((at, node), Change::Remove(reason));
        } else {
            self.changes.remove(&(at, node));
        }
        self.places[node.0].used.take(wish.need.demand());
        let holding = &mut self.holdings[node.0];
        if let Ok(from) = holding.functions.binary_search(&at) {
            holding.functions.remove(from);
        }
        holding.forget();
    }

    /// Why the node gets no further copy of the function; `None`: it fits.
    pub(crate) fn refuse(&self, at: NeedAt, node: NodeAt) -> Option<Refusal<'a>> {
        if self.lawful(at).binary_search(&node).is_err() {
            return Some(Refusal::Misfit);
        }
        self.no_room(at, node)
    }

    /// The same of a node that breaks no constraint.
    #[inline]
    pub(super) fn no_room(&self, at: NeedAt, node: NodeAt) -> Option<Refusal<'a>> {
        let Place { used, capacity, dead, draining, .. } = self.places[node.0];
        if self.holds(at, node) {
            return Some(Refusal::AlreadyHere);
        }
        if dead {
            return Some(Refusal::Dead);
        }
        if draining {
            return Some(Refusal::Draining);
        }
        if let Some(why) = self.avoided(at, node) {
            return Some(Refusal::Failing(why));
        }
        used.lacks(self.need(at).demand(), capacity).map(Refusal::Full)
    }

    /// Whether the function would fit on the node if so much of it were taken.
    pub(super) fn would_fit(&self, at: NeedAt, node: NodeAt, used: Used) -> bool {
        used.lacks(self.need(at).demand(), self.places[node.0].capacity).is_none()
    }

    /// What stands on the node with its priority, in the order in which it makes room: the least
    /// important first, of those large ones before small ones.
    fn in_order(&self, node: NodeAt) -> &[(i32, NeedAt)] {
        let holding = &self.holdings[node.0];
        holding.in_order.get_or_init(|| {
            let mut functions: Vec<(i32, NeedAt)> =
                holding.functions.iter().map(|at| (self.need(*at).priority, *at)).collect();
            functions.sort_by_cached_key(|(priority, at)| {
                let Demand { memory_bytes, concurrency } = self.need(*at).demand();
                (*priority, Reverse(memory_bytes), Reverse(concurrency), *at)
            });
            functions
        })
    }

    /// The least priority of all that stands on the node.
    #[inline]
    pub(super) fn least_priority_on(&self, node: NodeAt) -> Option<i32> {
        self.in_order(node).first().map(|(priority, _)| *priority)
    }

    /// What on the node is less important than that, in the order in which it makes room.
    pub(super) fn less_important_on(
        &self,
        node: NodeAt,
        than: i32,
    ) -> impl Iterator<Item = NeedAt> + Clone {
        let all = self.in_order(node).iter();
        all.take_while(move |(priority, _)| *priority < than).map(|(_, at)| *at)
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = (NeedAt, NodeAt, &Change)> {
        self.changes.iter().map(|((at, node), change)| (*at, *node, change))
    }

    pub(super) fn gone(&self) -> &[(&'a str, NodeId, Reason)] {
        &self.gone
    }

    pub(super) fn placements(&self) -> BTreeMap<FunctionKey, BTreeSet<NodeId>> {
        self.wishes
            .iter()
            .filter(|wish| !wish.copies.is_empty())
            .map(|wish| {
                let nodes = wish.copies.iter().map(|copy| self.node(copy.node).id);
                (wish.need.key.clone(), nodes.collect())
            })
            .collect()
    }
}

fn places(observed: &Observed) -> Vec<Place<'_>> {
    let nodes: BTreeMap<NodeId, &NodeFacts> =
        observed.nodes.iter().map(|node| (node.id, node)).collect();
    let mut zones: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    nodes
        .into_values()
        .map(|node| {
            let next = zones.len();
            let zone = *zones.entry((&node.region, &node.zone)).or_insert(next);
            Place {
                node,
                used: Used::default(),
                capacity: node.capacity,
                zone,
                dead: node.dead_since_ms.is_some(),
                draining: node.is_emptied(),
                troubled: node.trouble.is_some(),
            }
        })
        .collect()
}

/// The region of each zone, both by their numbers.
fn regions(places: &[Place<'_>]) -> Vec<usize> {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    // Zones are numbered in the order of the places.
    let mut regions = Vec::new();
    for place in places.iter() {
        let next = names.len();
        let region = *names.entry(&place.node.region).or_insert(next);
        if place.zone == regions.len() {
            regions.push(region);
        }
    }
    regions
}

fn named(wishes: &[Wish<'_>], function: &str) -> Option<NeedAt> {
    wishes.binary_search_by(|wish| wish.need.key.as_str().cmp(function)).ok().map(NeedAt)
}

fn wishes<'a>(desired: &'a Desired, observed: &'a Observed) -> (Vec<Wish<'a>>, Vec<Class<'a>>) {
    let needs: BTreeMap<&str, &FunctionNeed> =
        desired.functions.iter().map(|need| (need.key.as_str(), need)).collect();
    let mut numbers: BTreeMap<(&[String], &[String], &Labels), usize> = BTreeMap::new();
    let mut classes = Vec::new();
    let wishes = needs
        .into_values()
        .map(|need| {
            let constraints = (&*need.regions, &*need.zones, &need.labels);
            let class = *numbers.entry(constraints).or_insert_with(|| {
                let (lawful, hint) = (OnceCell::new(), OnceCell::new());
                classes.push(Class { example: need, lawful, hint });
                classes.len() - 1
            });
            Wish {
                need,
                class,
                failing: observed.failing.get(&need.key),
                elsewhere: OnceCell::new(),
                before: Vec::new(),
                copies: Vec::new(),
            }
        })
        .collect();
    (wishes, classes)
}
