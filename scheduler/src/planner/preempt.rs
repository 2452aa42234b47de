//! Which less important copies make room for a function that fits nowhere.

use std::cmp::Reverse;

use super::{
    closeness,
    company::Company,
    crowding::Crowding,
    refusal::Refusal,
    state::{NeedAt, NodeAt, Placed, State},
};
use crate::candidates::Liking;

/// A node that would have room if some copies left it.
#[derive(Debug)]
pub(super) struct Preemption {
    pub(super) node: NodeAt,
    /// Whose copies leave, the least important first.
    pub(super) victims: Vec<NeedAt>,
}

impl Preemption {
    /// The node without known trouble where the least important copies have to leave; of such nodes
    /// the one whose region and zone have the fewest copies, where the fewest leave, and that suits
    /// best by affinity. Only copies of lower priority leave, and of no function so many that fewer
    /// serve than it says ([`crate::FunctionNeed::min_available`]).
    pub(super) fn of(state: &State<'_>, at: NeedAt, crowding: &Crowding) -> Option<Self> {
        if !state.outranks_any(at) {
            return None;
        }
        let priority = state.need(at).priority;
        let liking = Liking::of(&state.need(at).key);
        let company = Company::of(state, at);
        let mut best = None;
        for node in state.lawful(at) {
            let Some(least) = state.least_priority_on(*node).filter(|least| *least < priority)
            else {
                continue;
            };
            if !matches!(state.no_room(at, *node), Some(Refusal::Full(_))) {
                continue;
            }
            let rank = |least_important: i32, victims: usize| {
                (
                    state.known_trouble(at, *node).is_some(),
                    least_important,
                    crowding.at(state, state.zone(*node)),
                    victims,
                    closeness(state, company.as_ref(), *node),
                    Reverse(liking.score(state.node(*node).id)),
                    *node,
                )
            };
            // Nothing is better than that the least important copy alone leaves. Who leaves takes longest
            // to work out.
            let bound = rank(least, 1);
            if best.as_ref().is_some_and(|(held, _)| bound >= *held) {
                continue;
            }
            let Some(victims) = victims(state, at, *node) else { continue };
            let Some(most) = victims.iter().map(|other| state.need(*other).priority).max() else {
                continue;
            };
            let rank = rank(most, victims.len());
            if best.as_ref().is_none_or(|(held, _)| rank < *held) {
                best = Some((rank, Self { node: *node, victims }));
            }
        }
        best.map(|(_, preemption)| preemption)
    }
}

/// The functions whose copies on the node would make room for this one, if not just as many had to go
/// on serving as serve now; none if it would not fit without them either.
pub(super) fn kept_by_budget(state: &State<'_>, at: NeedAt, node: NodeAt) -> Vec<NeedAt> {
    if !state.outranks_any(at) {
        return Vec::new();
    }
    let mut lower: Vec<NeedAt> = state.less_important_on(node, state.need(at).priority).collect();
    // As it is told, by name.
    lower.sort_unstable();
    let (spared, kept): (Vec<_>, Vec<_>) =
        lower.into_iter().partition(|other| can_be_spared(state, *other, node));
    let mut used = state.used(node);
    let mut fits_without = |leave: &[NeedAt]| {
        leave.iter().for_each(|other| used.take(state.need(*other).demand()));
        state.would_fit(at, node, used)
    };
    if fits_without(&spared) || !fits_without(&kept) { Vec::new() } else { kept }
}

/// The copies that have to leave the node so that the function fits: the least important first,
/// large ones before small ones, and none that need not. `None`: it does not fit all the same.
fn victims(state: &State<'_>, at: NeedAt, node: NodeAt) -> Option<Vec<NeedAt>> {
    let may_leave = state.less_important_on(node, state.need(at).priority);
    let mut used = state.used(node);
    may_leave.clone().for_each(|other| used.take(state.need(other).demand()));
    if !state.would_fit(at, node, used) {
        return None;
    }
    let mut used = state.used(node);
    let mut victims = Vec::new();
    for other in may_leave {
        if state.would_fit(at, node, used) {
            break;
        }
        if can_be_spared(state, other, node) {
            used.take(state.need(other).demand());
            victims.push(other);
        }
    }
    if !state.would_fit(at, node, used) {
        return None;
    }
    // What was taken before a larger one may stay after all; the most important are asked first.
    for i in (0..victims.len()).rev() {
        let mut with = used;
        with.put(state.need(victims[i]).demand());
        if state.would_fit(at, node, with) {
            used = with;
            victims.remove(i);
        }
    }
    Some(victims)
}

/// Whether the function goes on as it says without its copy there. Where a copy breaks no
/// constraint, those that do are no stand-in for it.
fn can_be_spared(state: &State<'_>, at: NeedAt, node: NodeAt) -> bool {
    let lawful = |copy: &Placed| state.lawful(at).binary_search(&copy.node).is_ok();
    let serves = |copy: &&Placed| copy.ready && state.node(copy.node).dead_since_ms.is_none();
    let serving = || state.copies(at).iter().filter(serves);
    let Some(own) = serving().find(|copy| copy.node == node) else { return true };
    let count = serving().filter(|copy| !lawful(own) || lawful(copy)).count();
    count > state.need(at).min_available as usize
}
