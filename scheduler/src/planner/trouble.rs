//! Which copies of a function stand well, and which are in trouble.

use std::collections::BTreeSet;

use swarmer_model::RegionState;

use super::{
    home::send_home,
    state::{NeedAt, NodeAt, Placed, State},
};
use crate::{eligibility::misfit, reason::Trouble};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standee {
    pub(super) node: NodeAt,
    pub(super) ready: bool,
    pub(super) dead: bool,
}

impl Standee {
    pub(super) fn new(state: &State<'_>, Placed { node, ready }: Placed) -> Self {
        Self { node, ready, dead: state.node(node).dead_since_ms.is_some() }
    }

    /// It answers calls right now.
    pub(super) fn serves(&self) -> bool {
        self.ready && !self.dead
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) copy: Standee,
    pub(super) trouble: Trouble,
}

/// The copies of one function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// Those that count. A copy on a node that is dead within its grace time does.
    pub(super) good: Vec<Standee>,
    /// Those that another one is to take the place of.
    pub(super) bad: Vec<Bad>,
}

impl Standing {
    pub(super) fn of(state: &State<'_>, at: NeedAt) -> Self {
        let mut standing = Self::default();
        for placed in state.copies(at) {
            let copy = Standee::new(state, *placed);
            match trouble(state, at, *placed) {
                Some(trouble) => standing.bad.push(Bad { copy, trouble }),
                None => standing.good.push(copy),
            }
        }
        send_home(state, at, &mut standing);
        standing
    }

    /// The copies in trouble that stay for now.
    ///
    /// Drained, failing and overfull ones stay until as many good copies serve as are wanted, so that a
    /// drain never lowers the number that serves. Misplaced ones stay for a replacement that is
    /// starting, or where no lawful copy lives: a wish that no node can meet must not end what was
    /// served before it. Dead ones serve nobody: they stay only where
    /// there is no replacement at all, for the node may come back.
    pub(super) fn kept_bad(&self, wanted: u32) -> BTreeSet<NodeAt> {
        let wanted = wanted as usize;
        let serving = self.good.iter().filter(|copy| copy.serves()).count();
        let starting = self.good.iter().filter(|copy| !copy.ready && !copy.dead).count();
        let lawful = |bad: &Bad| !matches!(bad.trouble, Trouble::Misplaced(_));
        let nothing_else = self.good.iter().all(|copy| copy.dead)
            && !self.bad.iter().any(|bad| lawful(bad) && !bad.copy.dead);
        let mut room = wanted.saturating_sub(serving);
        let mut room_misplaced = if nothing_else { room } else { starting.min(room) };
        let mut kept = BTreeSet::new();
        let mut living: Vec<&Bad> = self.bad.iter().filter(|bad| !bad.copy.dead).collect();
        // Lawful ones first, and among them those that serve.
        living.sort_by_key(|bad| (!lawful(bad), !bad.copy.ready, bad.copy.node));
        for bad in living {
            if room == 0 || (!lawful(bad) && room_misplaced == 0) {
                continue;
            }
            room -= 1;
            room_misplaced -= usize::from(!lawful(bad));
            kept.insert(bad.copy.node);
        }
        let mut room_dead = wanted.saturating_sub(self.good.len() + kept.len());
        for bad in self.bad.iter().filter(|bad| bad.copy.dead) {
            if room_dead > 0 && (lawful(bad) || nothing_else) {
                room_dead -= 1;
                kept.insert(bad.copy.node);
            }
        }
        kept
    }
}

/// What is wrong with the function's copy on the node.
fn trouble(state: &State<'_>, at: NeedAt, copy: Placed) -> Option<Trouble> {
    let (need, node) = (state.need(at), state.node(copy.node));
    if let Some(reason) = misfit(need, node) {
        return Some(Trouble::Misplaced(Box::new(reason)));
    }
    if let Some(for_ms) = state.dead_for_ms(node)
        && for_ms >= state.grace_ms()
    {
        return Some(Trouble::Dead { for_ms, grace_ms: state.grace_ms() });
    }
    if node.region_state == RegionState::Drained {
        return Some(Trouble::RegionDrained { region: node.region.clone() });
    }
    if node.draining {
        return Some(Trouble::Draining);
    }
    // What answers there is well, whatever the node has.
    if !copy.ready
        && let Some(why) = state.avoided(at, copy.node)
    {
        return Some(Trouble::Failing { why: why.to_owned() });
    }
    state.has_to_go(at, copy.node).then_some(Trouble::Overfull)
}
