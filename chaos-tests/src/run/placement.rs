//! The scenario of placement: nodes that differ, and too little room.

use super::{
    coverage::Needs,
    scenario::{BASE, NEEDS, Scenario},
};
use crate::{cluster::Site, nemesis::Kind, workload::Placements};

const MIB: u64 = 1 << 20;
const SSD: (&str, &str) = ("disk", "ssd");
const HDD: (&str, &str) = ("disk", "hdd");

/// Some are short of memory first, some of functions. There are some more of these: those by which
/// the end of a run is told.
const SITES: &[Site] = &[
    site("eu", "a", SSD, 24, 512),
    site("eu", "b", HDD, 12, 256),
    site("us", "a", SSD, 10, 384),
    site("us", "b", HDD, 16, 192),
    site("ap", "c", SSD, 14, 256),
];

/// More of them in a zone, and room for all that is asked for.
const ROOMY: &[Site] = &[
    site("eu", "a", SSD, 64, 4_096),
    site("eu", "a", HDD, 64, 4_096),
    site("eu", "b", SSD, 64, 4_096),
    site("us", "a", SSD, 64, 4_096),
    site("us", "a", HDD, 64, 4_096),
];

const fn site(
    region: &'static str,
    zone: &'static str,
    label: (&'static str, &'static str),
    functions: u32,
    memory_mib: u64,
) -> Site {
    Site { region, zone, label, functions, memory: memory_mib * MIB }
}

pub(super) const PLACEMENT: Scenario = Scenario {
    name: "placement",
    about: "functions on nodes that differ and have too little room, while leaders die and are cut off",
    nodes: SITES.len(),
    kinds: &[Kind::Kill, Kind::Kill, Kind::Storm, Kind::Partition, Kind::Pause, Kind::Rolling],
    placements: Some(Placements { clients: 4, functions: 48, sites: SITES }),
    needs: Needs { ok: 100, placed: 50, short: 10, leaders: 2, ..NEEDS },
    ..BASE
};

pub(super) const CHOICE: Scenario = Scenario {
    name: "placement-choice",
    about: "the same with room for all and no fault: copies spread over regions and zones, near to and apart from others",
    nodes: ROOMY.len(),
    kinds: &[],
    placements: Some(Placements { clients: 2, functions: 10, sites: ROOMY }),
    needs: Needs { ok: 50, placed: 30, chosen: 20, leaders: 0, reconnects: 0, faults: 0, ..NEEDS },
    ..BASE
};
