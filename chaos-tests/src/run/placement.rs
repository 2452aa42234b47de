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
