//! How close the copies of a function get to those of others: what users call affinity.
//!
//! It only chooses among nodes that fit, and among copies of which one has to go. Nothing moves for
//! its sake, so that it cannot keep a plan from its end, whatever is asked for: functions that are
//! to be near each other in a circle, or apart where there is one node, included.

use std::collections::{BTreeMap, BTreeSet};

use swarmer_model::planted::{self, Bug};

use super::state::{NeedAt, NodeAt, Placed, State};
use crate::{
    input::FunctionNeed,
    reason::{Affinity, Nearest, Pull},
};

/// The most affinities that a reason lists: what the functions' own rules may have.
const MAX_TOLD: usize = 16;

/// Which functions are to be near to which, and which apart; empty where none asks for it.
#[derive(Debug, Default)]
pub(super) struct Ties {
    near: BTreeMap<NeedAt, BTreeSet<NeedAt>>,
    /// Both ways: it does not matter which of the two was placed first.
    apart: BTreeMap<NeedAt, BTreeSet<NeedAt>>,
}

impl Ties {
    /// `named` finds a function; what it does not find, and a function itself, is no tie.
    pub(super) fn of<'a>(
        needs: impl Iterator<Item = (NeedAt, &'a FunctionNeed)>,
        named: impl Fn(&str) -> Option<NeedAt>,
    ) -> Self {
        let mut ties = Self::default();
        for (at, need) in needs.filter(|(_, need)| need.has_affinity()) {
            let others = |names: &[String]| -> BTreeSet<NeedAt> {
                let others = names.iter().filter_map(|name| named(name));
                others.filter(|other| *other != at).collect()
            };
            let near = others(&need.near);
            if !near.is_empty() {
                ties.near.insert(at, near);
            }
            for other in others(&need.apart) {
                ties.apart.entry(at).or_default().insert(other);
                ties.apart.entry(other).or_default().insert(at);
            }
        }
        ties
    }

    /// Those that others are to be near to come before these, as far as `equal` says that the two
    /// are equally important: what is placed first is not placed again for what comes later.
    pub(super) fn ordered(
        &self,
        functions: Vec<NeedAt>,
        equal: impl Fn(NeedAt, NeedAt) -> bool,
    ) -> Vec<NeedAt> {
        if self.near.is_empty() {
            return functions;
        }
        let mut ordered = Vec::with_capacity(functions.len());
        let mut begun = BTreeSet::new();
        for at in functions {
            if !begun.insert(at) {
                continue;
            }
            // Without recursion: a chain may be as long as there are functions. What was begun is
            // not begun again, so that a circle is left where it closes.
            let mut path = vec![at];
            while let Some(last) = path.last() {
                let mut first = self.near.get(last).into_iter().flatten();
                match first.find(|other| equal(**other, at) && !begun.contains(*other)) {
                    Some(other) => {
                        begun.insert(*other);
                        path.push(*other);
                    }
                    None => ordered.extend(path.pop()),
                }
            }
        }
        ordered
    }

    fn near(&self, at: NeedAt) -> impl Iterator<Item = NeedAt> {
        self.near.get(&at).into_iter().flatten().copied()
    }

    fn apart(&self, at: NeedAt) -> impl Iterator<Item = NeedAt> {
        self.apart.get(&at).into_iter().flatten().copied()
    }
}

/// How well a place suits a function by its affinity: less is better. That a failure takes both of
/// two that are to be apart weighs more than a longer way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Closeness {
    /// How many of those to be apart from stand on the node.
    on_node: u32,
    /// How many of them stand in its zone.
    in_zone: u32,
    /// How far those to be near to are, in sum: 0 on the node, 1 in its zone, 2 in its region, 3
    /// elsewhere. One that stands nowhere is equally far from all.
    away: u32,
}

/// Where the others stand that one function is to be near to, or apart from.
pub(super) struct Company {
    zones: Vec<Closeness>,
    /// By how much less those to be near to are away on a node than in its zone.
    nodes: BTreeMap<NodeAt, Closeness>,
}

impl Company {
    /// `None`: the function has no affinity, and all places are equal.
    pub(super) fn of(state: &State<'_>, at: NeedAt) -> Option<Self> {
        let ties = state.ties();
        if !ties.near.contains_key(&at) && !ties.apart.contains_key(&at) {
            return None;
        }
        if planted::is_on(Bug::ForgetAffinity) {
            return None;
        }
        let mut company =
            Self { zones: vec![Closeness::default(); state.zones()], nodes: BTreeMap::new() };
        for other in ties.apart(at) {
            let mut zones = BTreeSet::new();
            for node in settled(state, other) {
                company.nodes.entry(node).or_default().on_node += 1;
                zones.insert(state.zone(node));
            }
            zones.into_iter().for_each(|zone| company.zones[zone].in_zone += 1);
        }
        for other in ties.near(at) {
            let (mut zones, mut regions) = (BTreeSet::new(), BTreeSet::new());
            for node in settled(state, other) {
                company.nodes.entry(node).or_default().away += 1;
                zones.insert(state.zone(node));
                regions.insert(state.region_of(state.zone(node)));
            }
            for (zone, closeness) in company.zones.iter_mut().enumerate() {
                closeness.away += if zones.contains(&zone) {
                    1
                } else if regions.contains(&state.region_of(zone)) {
                    2
                } else {
                    3
                };
            }
        }
        Some(company)
    }

    pub(super) fn closeness(&self, zone: usize, node: NodeAt) -> Closeness {
        let zone = self.zones.get(zone).copied().unwrap_or_default();
        let here = self.nodes.get(&node).copied().unwrap_or_default();
        Closeness {
            on_node: here.on_node,
            in_zone: zone.in_zone,
            away: zone.away.saturating_sub(here.away),
        }
    }
}

/// Where copies of a function stand that are there to stay: not those on nodes that are dead or
/// being emptied.
fn settled(state: &State<'_>, at: NeedAt) -> impl Iterator<Item = NodeAt> {
    let stays = |node: &NodeAt| {
        let facts = state.node(*node);
        facts.dead_since_ms.is_none() && !facts.is_emptied()
    };
    state.copies(at).iter().map(|Placed { node, .. }| *node).filter(stays)
}

/// How a node stands to all that the function is to be near to, or apart from; of those whose own
/// rule keeps them apart from it so many that the list stays short.
pub(crate) fn affinities(state: &State<'_>, at: NeedAt, node: NodeAt) -> Vec<Affinity> {
    let need = state.need(at);
    let own = |pull: Pull, names: &[String]| -> Vec<(String, Pull)> {
        names.iter().map(|name| (name.clone(), pull)).collect()
    };
    let mut others = own(Pull::Near, &need.near);
    others.extend(own(Pull::Apart, &need.apart));
    for other in state.ties().apart(at).take(MAX_TOLD) {
        let key = &state.need(other).key;
        if !need.apart.contains(key) {
            others.push((key.clone(), Pull::Apart));
        }
    }
    others.truncate(MAX_TOLD);
    let nearest = |name: &str| {
        let Some(other) = state.named(name) else { return Nearest::Unknown };
        let zone = |of: NodeAt| state.zone(of);
        let region = |of: NodeAt| state.region_of(state.zone(of));
        let each = settled(state, other).map(|copy| {
            if copy == node {
                Nearest::Node
            } else if zone(copy) == zone(node) {
                Nearest::Zone
            } else if region(copy) == region(node) {
                Nearest::Region
            } else {
                Nearest::Elsewhere
            }
        });
        each.min().unwrap_or(Nearest::Nowhere)
    };
    let told = |(to, pull): (String, Pull)| {
        let nearest = nearest(&to);
        Affinity { pull, to, nearest }
    };
    others.into_iter().map(told).collect()
}
