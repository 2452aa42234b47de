//! Copies that go back to a region that takes work again.
//!
//! Nothing moves without need, and a region that is back is none by itself: an operator who lets it
//! take work again wants back in it what its drain took away. Where a function's copies are crowded
//! into one zone while a zone of such a region has room for one, the crowded one makes place.

use std::{cmp::Reverse, collections::BTreeSet};

use swarmer_model::RegionState;

use super::{
    Zones,
    state::{NeedAt, NodeAt, State},
    trouble::{Bad, Standee, Standing},
};
use crate::{candidates::Liking, input::Spread, reason::Trouble};

/// Counts those copies as in trouble that another one is to take the place of, in a zone of a
/// region that takes work again. Each of them leaves its zone with at least as many copies as the
/// other one has then, so none ever goes back and forth; and none goes while not all others serve.
pub(super) fn send_home(state: &State<'_>, at: NeedAt, standing: &mut Standing) {
    let need = state.need(at);
    let wanted = need.replicas as usize;
    if !state.any_resumed() || need.spread != Spread::Zone || standing.good.len() < wanted {
        return;
    }
    let mut zones = Zones::of(state, at, &standing.good);
    // What takes a place stands already, and does not answer yet.
    while standing.good.len() > wanted {
        let Some(most) = most(state, &zones, standing) else { break };
        let starting = standing
            .good
            .iter()
            .find(|copy| !copy.ready && !copy.dead && zones.copies(state.zone(copy.node)) < most);
        let Some(region) = starting.map(|copy| state.node(copy.node).region.clone()) else { break };
        if !make_place(state, at, standing, &mut zones, region) {
            break;
        }
    }
    if standing.good.len() != wanted || !standing.good.iter().all(Standee::serves) {
        return;
    }
    let mut taken = BTreeSet::new();
    for _ in 0..wanted {
        let Some(most) = most(state, &zones, standing) else { break };
        let Some(node) = free(state, at, &zones, most, &taken) else { break };
        taken.insert(node);
        let region = state.node(node).region.clone();
        if !make_place(state, at, standing, &mut zones, region) {
            break;
        }
        zones.put(state.zone(node));
    }
}

/// How many copies stand in the fullest zone.
fn most(state: &State<'_>, zones: &Zones, standing: &Standing) -> Option<u32> {
    standing.good.iter().map(|copy| zones.copies(state.zone(copy.node))).max()
}

/// A node of a region that takes work again, with room, in a zone that would not be fuller with one
/// more than the fullest with one less.
fn free(
    state: &State<'_>,
    at: NeedAt,
    zones: &Zones,
    most: u32,
    taken: &BTreeSet<NodeAt>,
) -> Option<NodeAt> {
    let fits = |node: &NodeAt| {
        state.node(*node).region_state == RegionState::Resumed
            && !taken.contains(node)
            && zones.copies(state.zone(*node)).saturating_add(2) <= most
            && state.known_trouble(at, *node).is_none()
            && state.no_room(at, *node).is_none()
    };
    state.lawful(at).iter().copied().find(fits)
}

/// One copy of the fullest zone is to be replaced.
fn make_place(
    state: &State<'_>,
    at: NeedAt,
    standing: &mut Standing,
    zones: &mut Zones,
    region: String,
) -> bool {
    let liking = Liking::of(&state.need(at).key);
    let fullest = standing.good.iter().enumerate().max_by_key(|(_, copy)| {
        let last = Reverse(liking.score(state.node(copy.node).id));
        (zones.copies(state.zone(copy.node)), copy.dead, !copy.ready, last, copy.node)
    });
    let Some(index) = fullest.map(|(index, _)| index) else { return false };
    let copy = standing.good.remove(index);
    zones.take(state.zone(copy.node));
    standing.bad.push(Bad { copy, trouble: Trouble::Returning { region } });
    true
}
