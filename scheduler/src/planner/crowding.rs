//! How crowded a function's copies stand.

use swarmer_model::planted::{self, Bug};

use super::{
    state::{NeedAt, State},
    trouble::Standee,
};
use crate::input::Spread;

/// How many copies of a function a place has: what its region has counts first, then what its zone
/// has. So the loss of a region takes as few copies as it can, and of a zone likewise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Crowd {
    pub(super) in_region: u32,
    pub(super) in_zone: u32,
}

/// How many good copies of one function stand in each region and zone; none are counted where it is
/// spread over nodes only.
#[derive(Debug)]
pub(super) struct Crowding {
    /// By region and by zone, as [`State`] numbers them.
    regions: Vec<u32>,
    zones: Vec<u32>,
}

impl Crowding {
    pub(super) fn of(state: &State<'_>, at: NeedAt, good: &[Standee]) -> Self {
        let counted = state.need(at).spread == Spread::Zone && !planted::is_on(Bug::ForgetSpread);
        // Of regions there are no more than zones.
        let len = if counted { state.zones() } else { 0 };
        let mut crowding = Self { regions: vec![0; len], zones: vec![0; len] };
        good.iter().for_each(|copy| crowding.put(state, state.zone(copy.node)));
        crowding
    }

    /// One more copy in the zone.
    pub(super) fn put(&mut self, state: &State<'_>, zone: usize) {
        let counts = [self.regions.get_mut(state.region_of(zone)), self.zones.get_mut(zone)];
        counts.into_iter().flatten().for_each(|copies| *copies += 1);
    }

    /// One less.
    pub(super) fn take(&mut self, state: &State<'_>, zone: usize) {
        let counts = [self.regions.get_mut(state.region_of(zone)), self.zones.get_mut(zone)];
        counts.into_iter().flatten().for_each(|copies| *copies = copies.saturating_sub(1));
    }

    #[inline]
    pub(super) fn at(&self, state: &State<'_>, zone: usize) -> Crowd {
        let count = |counts: &[u32], at: usize| counts.get(at).copied().unwrap_or_default();
        Crowd {
            in_region: count(&self.regions, state.region_of(zone)),
            in_zone: count(&self.zones, zone),
        }
    }
    /// Whether a copy that goes from one zone to another leaves the function better spread. Never true
    /// there and back: the sum of the squares of what regions have becomes less with each such move,
    /// or stays while that of zones becomes less.
    pub(super) fn is_better(&self, state: &State<'_>, to: usize, from: usize) -> bool {
        let gains = |there: u32, here: u32| there.saturating_add(2) <= here;
        let (there, here) = (self.at(state, to), self.at(state, from));
        let within = state.region_of(to) == state.region_of(from);
        // One more there and one fewer here is the same the other way round.
        let as_good = within || there.in_region.saturating_add(1) == here.in_region;
        !within && gains(there.in_region, here.in_region)
            || as_good && gains(there.in_zone, here.in_zone)
    }
}
