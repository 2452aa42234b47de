//! Scenarios of a cluster in three regions.

use super::{
    coverage::Needs,
    scenario::{BASE, CALLERS, DEATH, LIGHT, NEEDS, Scenario},
};
use crate::{
    cluster::{Quality, Regions},
    nemesis::{Kind, Mark},
    workload::Traffic,
};

/// A round trip between two regions takes twice this many milliseconds.
const EU_US_MS: u32 = 40;
const US_AP_MS: u32 = 75;
const EU_AP_MS: u32 = 125;
/// Of what goes over an ocean that is slow and lossy.
const OCEAN_LOSS: u8 = 5;
const OCEAN_KBIT: u32 = 10_000;

/// No region has a majority of the five, and any two have one.
pub const THREE: Regions = regions(&[
    (0, 1, Quality { delay_ms: EU_US_MS, ..Quality::PERFECT }),
    (1, 2, Quality { delay_ms: US_AP_MS, ..Quality::PERFECT }),
    (0, 2, Quality { delay_ms: EU_AP_MS, ..Quality::PERFECT }),
]);
const OCEAN: Regions =
    regions(&[(0, 1, ocean(EU_US_MS)), (1, 2, ocean(US_AP_MS)), (0, 2, ocean(EU_AP_MS))]);
/// The three that found the cluster stand in a region each.
const ONE_EACH: Regions = Regions { of: &[0, 1, 2, 0, 1], ..THREE };

const fn ocean(delay_ms: u32) -> Quality {
    Quality { delay_ms, loss: OCEAN_LOSS, kbit: OCEAN_KBIT, ..Quality::PERFECT }
}

const fn regions(between: &'static [(usize, usize, Quality)]) -> Regions {
    // About a millisecond there and back.
    let within = Quality { jitter_ms: 1, ..Quality::PERFECT };
    Regions { names: &["eu", "us", "ap"], of: &[0, 0, 1, 1, 2], between, within }
}

/// A write takes a round trip to another region at least.
const FAR: Needs = Needs { ok: 100, leaders: 0, reconnects: 0, faults: 1, ..NEEDS };

const AFAR: Scenario = Scenario {
    nodes: 5,
    regions: Some(THREE),
    registers: Some(LIGHT),
    set: 1,
    traffic: Some(CALLERS),
    needs: FAR,
    ..BASE
};

pub(super) const CALM: Scenario = Scenario {
    name: "regions",
    about: "three regions, 80 to 250 ms apart, and no fault: what distance alone costs",
    kinds: &[],
    needs: Needs { faults: 0, ..FAR },
    ..AFAR
};

pub(super) const NEAR: Scenario = Scenario {
    name: "region-near",
    about: "the same without new versions: a request stays in its region where a copy is ready there",
    traffic: Some(Traffic { versions: false, ..CALLERS }),
    needs: Needs { near: 100, ..CALM.needs },
    ..CALM
};

pub(super) const KILL: Scenario = Scenario {
    name: "region-kill",
    about: "the same while nodes are killed, the leader first of all: elections over oceans",
    kinds: DEATH,
    needs: Needs { struck: &[(Mark::Kill, 2)], leaders: 1, ..FAR },
    ..AFAR
};

pub(super) const LOSS: Scenario = Scenario {
    name: "region-loss",
    about: "the same while a whole region is killed and comes back with its old state",
    kinds: &[Kind::Blackout],
    needs: Needs { struck: &[(Mark::Kill, 2)], ..FAR },
    ..AFAR
};

pub(super) const PAIRS: Scenario = Scenario {
    name: "region-pairs",
    about: "the same while each pair of regions in turn is cut off from each other",
    kinds: &[Kind::Pairs],
    needs: Needs { struck: &[(Mark::Cut, 3)], ..FAR },
    ..AFAR
};

pub(super) const CLOCK: Scenario = Scenario {
    name: "region-clock",
    about: "the same while the clocks of the regions are an hour apart, ahead and behind",
    kinds: &[Kind::Apart],
    leases: 3,
    needs: Needs { struck: &[(Mark::Clock, 2)], leases: 10, ..FAR },
    ..AFAR
};

pub(super) const SLOW: Scenario = Scenario {
    name: "ocean",
    about: "three regions; between them 5 % of packets are lost, and 10 Mbit/s are all there is",
    kinds: &[],
    regions: Some(OCEAN),
    needs: Needs { ok: 50, faults: 0, ..FAR },
    ..AFAR
};

pub(super) const FLAP: Scenario = Scenario {
    name: "ocean-flap",
    about: "the same while what is between two regions comes and goes",
    kinds: &[Kind::Flap],
    regions: Some(OCEAN),
    needs: Needs { ok: 50, struck: &[(Mark::Cut, 3)], ..FAR },
    ..AFAR
};

pub(super) const LINK: Scenario = Scenario {
    name: "link-flap",
    about: "one link between two regions comes and goes for ten minutes: it costs no leader, and calls go on",
    kinds: &[Kind::Flaps],
    lasts_s: 600,
    regions: Some(OCEAN),
    needs: Needs { ok: 50, struck: &[(Mark::Cut, 3)], pace: 8, ..FAR },
    ..AFAR
};

pub(super) const AWAY: Scenario = Scenario {
    name: "region-away",
    about: "a voter is removed, then each region is lost for a while: writes and answers go on",
    kinds: &[Kind::Turns],
    regions: Some(ONE_EACH),
    joiners: 2,
    traffic: Some(Traffic { replicas: 1, ..CALLERS }),
    needs: Needs { ok: 50, struck: &[(Mark::Shrink, 1), (Mark::Kill, 4)], ..FAR },
    ..AFAR
};

pub(super) const BACK: Scenario = Scenario {
    name: "region-back",
    about: "regions are killed or cut off while versions change: who comes back serves nothing of before",
    kinds: &[Kind::Return],
    // Long enough to see what it does before the next one goes.
    calm_ms: (9_000, 11_000),
    needs: Needs { ok: 50, returned: 20, ..FAR },
    ..AFAR
};

pub(super) const STRETCH: Scenario = Scenario {
    name: "far-apart",
    about: "registers while all nodes are an ocean apart from each other: distance costs no leader",
    kinds: &[Kind::Stretch],
    registers: Some(LIGHT),
    needs: Needs {
        ok: 50,
        leaders: 0,
        struck: &[(Mark::Wire, 1)],
        faults: 1,
        reconnects: 0,
        ..NEEDS
    },
    ..BASE
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_votes_of_three_founders_outlive_each_region_and_the_joiners_change_nothing_of_it() {
        let founders = AWAY.nodes - AWAY.joiners;
        let mut of: Vec<usize> = ONE_EACH.of[..founders].to_vec();
        of.dedup();
        assert_eq!((founders, of.len()), (3, 3));
        assert_eq!(ONE_EACH.of.len(), AWAY.nodes);
    }

    #[test]
    fn no_region_has_a_majority_and_any_two_have_one() {
        let groups = THREE.groups();
        assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), AFAR.nodes);
        let majority = AFAR.nodes / 2 + 1;
        for group in &groups {
            assert!(group.len() < majority && AFAR.nodes - group.len() >= majority);
        }
    }
}
