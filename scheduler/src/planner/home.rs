//! Copies that go back to a region that takes work again.
//!
//! Nothing moves without need, and a region that is back is none by itself: an operator who lets it
//! take work again wants back in it what its drain took away. Where a function's copies would be
//! better spread with one of them in such a region, which has room for it, that one makes place.

use std::{cmp::Reverse, collections::BTreeSet};

use swarmer_model::RegionState;

use super::{
    crowding::Crowding,
    state::{NeedAt, NodeAt, State},
    trouble::{Bad, Standee, Standing},
};
use crate::{candidates::Liking, input::Spread, reason::Trouble};

/// Counts those copies as in trouble that another one is to take the place of, in a region that
/// takes work again. Each of them leaves the function better spread ([`Crowding::is_better`]), so
/// none ever goes back and forth; and none goes while not all others serve.
pub(super) fn send_home(state: &State<'_>, at: NeedAt, standing: &mut Standing) {
    let need = state.need(at);
    let wanted = need.replicas as usize;
    if !state.any_resumed() || need.spread != Spread::Zone || standing.good.len() < wanted {
        return;
    }
    let mut crowding = Crowding::of(state, at, &standing.good);
    // What takes a place stands already, and does not answer yet.
    while standing.good.len() > wanted {
        let Some(most) = most(state, &crowding, standing) else { break };
        let starting = standing.good.iter().find(|copy| {
            let less = || crowding.at(state, state.zone(copy.node)) < crowding.at(state, most);
            !copy.ready && !copy.dead && less()
        });
        let Some(region) = starting.map(|copy| state.node(copy.node).region.clone()) else { break };
        if !make_place(state, at, standing, &mut crowding, (most, region)) {
            break;
        }
    }
    if standing.good.len() != wanted || !standing.good.iter().all(Standee::serves) {
        return;
    }
    let mut taken = BTreeSet::new();
    for _ in 0..wanted {
        let Some(most) = most(state, &crowding, standing) else { break };
        let Some(node) = free(state, at, &crowding, most, &taken) else { break };
        taken.insert(node);
        let region = state.node(node).region.clone();
        if !make_place(state, at, standing, &mut crowding, (most, region)) {
            break;
        }
        crowding.put(state, state.zone(node));
    }
}

/// The most crowded zone.
fn most(state: &State<'_>, crowding: &Crowding, standing: &Standing) -> Option<usize> {
    let zones = standing.good.iter().map(|copy| state.zone(copy.node));
    zones.max_by_key(|zone| (crowding.at(state, *zone), *zone))
}

/// A node of a region that takes work again, with room, where one of the most crowded copies would
/// be better.
fn free(
    state: &State<'_>,
    at: NeedAt,
    crowding: &Crowding,
    most: usize,
    taken: &BTreeSet<NodeAt>,
) -> Option<NodeAt> {
    let fits = |node: &NodeAt| {
        state.node(*node).region_state == RegionState::Resumed
            && !taken.contains(node)
            && crowding.is_better(state, state.zone(*node), most)
            && state.known_trouble(at, *node).is_none()
            && state.no_room(at, *node).is_none()
    };
    state.lawful(at).iter().copied().find(fits)
}

/// One of the copies in the most crowded zone is to be replaced by one in the region.
fn make_place(
    state: &State<'_>,
    at: NeedAt,
    standing: &mut Standing,
    crowding: &mut Crowding,
    (most, region): (usize, String),
) -> bool {
    let liking = Liking::of(&state.need(at).key);
    let there = standing.good.iter().enumerate();
    let there = there.filter(|(_, copy)| state.zone(copy.node) == most);
    let first = there.max_by_key(|(_, copy)| {
        let last = Reverse(liking.score(state.node(copy.node).id));
        (copy.dead, !copy.ready, last, copy.node)
    });
    let Some(index) = first.map(|(index, _)| index) else { return false };
    let copy = standing.good.remove(index);
    crowding.take(state, state.zone(copy.node));
    standing.bad.push(Bad { copy, trouble: Trouble::Returning { region } });
    true
}
