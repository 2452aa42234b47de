//! The scenarios: which clients, which faults, and what a run must have gone through.

use super::{coverage::Needs, placement, regions};
use crate::{
    cluster::Regions,
    nemesis::{CALM_MS, Kind, Mark},
    workload::{Jobs, Placements, Registers, Traffic},
};

/// One scenario.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// Nodes; those that found the cluster are its voters.
    pub nodes: usize,
    /// Where they stand; none: all in one place.
    pub regions: Option<Regions>,
    /// So many of them, the last ones, do not found the cluster but join it, and have no vote at first.
    pub joiners: usize,
    /// So many of them begin as of an older binary, which speaks only the oldest version of the wire.
    pub old: usize,
    /// The faults that may strike.
    pub kinds: &'static [Kind],
    /// The least and the most milliseconds between two of them.
    pub calm_ms: (u64, u64),
    /// How many seconds faults strike, unless something else is asked for.
    pub lasts_s: u64,
    /// Faults that the machine cannot make are left out, with the reason; otherwise it is not run.
    pub as_able: bool,
    /// Clients of registers.
    pub registers: Option<Registers>,
    /// How many clients of the set.
    pub set: usize,
    /// How many clients of lists: transactions over several functions.
    pub lists: usize,
    /// Callers of a function.
    pub traffic: Option<Traffic>,
    /// Callers of a function that may not run twice for one request.
    pub jobs: Option<Jobs>,
    /// Clients of functions that are placed by rules that change.
    pub placements: Option<Placements>,
    /// How many clients of leases.
    pub leases: usize,
    /// How many clients of artifacts.
    pub artifacts: usize,
    /// Whether somebody sends datagrams again, and a node that was removed goes on.
    pub admission: bool,
    /// Whether somebody who is no member sends to every node.
    pub stranger: bool,
    /// What the nodes are told by their environment.
    pub environment: &'static [(&'static str, &'static str)],
    /// The least that it must go through.
    pub needs: Needs,
}

const EVERY: &[Kind] =
    &[Kind::Kill, Kind::Pause, Kind::Storm, Kind::Partition, Kind::Flapping, Kind::Loss];
pub(super) const DEATH: &[Kind] = &[Kind::Kill, Kind::Storm];
/// Kills too: what was not synced outlives them, and is lost by the next cut.
const POWER: &[Kind] = &[Kind::Power, Kind::Power, Kind::Brownout, Kind::Relapse, Kind::Kill];
const DISK: &[Kind] = &[Kind::Full, Kind::Pull, Kind::Eio, Kind::Eio, Kind::SlowDisk];
const WIRES: &[Kind] = &[Kind::Delay, Kind::Jumble, Kind::Throttle];
const CLOCKS: &[Kind] = &[Kind::Clock, Kind::Strobe];
/// All that there is.
const ALL: &[Kind] = &[
    Kind::Kill,
    Kind::Pause,
    Kind::Storm,
    Kind::Outage,
    Kind::Partition,
    Kind::Flapping,
    Kind::Loss,
    Kind::Power,
    Kind::Brownout,
    Kind::Relapse,
    Kind::Full,
    Kind::Pull,
    Kind::Eio,
    Kind::SlowDisk,
    Kind::Delay,
    Kind::Jumble,
    Kind::Throttle,
    Kind::Clock,
    Kind::Strobe,
    Kind::Rolling,
    Kind::Upgrade,
];
/// Each of them once in a round.
const MEMBERSHIP: &[(Mark, u64)] = &[
    (Mark::Grow, 1),
    (Mark::Shrink, 1),
    (Mark::Replace, 1),
    (Mark::Refuse, 2),
    (Mark::Unseat, 1),
    (Mark::Trespass, 2),
];
/// Just long enough to serve again, as a rule.
const SOON_MS: (u64, u64) = (300, 4_000);
const NETWORK: &[Kind] = &[Kind::Partition, Kind::Flapping, Kind::Loss];

const REGISTERS: Registers = Registers { clients: 8, keys: 12, values: None, repeated: 20 };
/// Three values for two registers: the same is written again and again.
const FEW: Registers = Registers { clients: 8, keys: 2, values: Some(3), repeated: 0 };
pub(super) const LIGHT: Registers = Registers { clients: 3, keys: 4, values: None, repeated: 20 };
/// One write at a time: none waits behind another one.
const SINGLE: Registers = Registers { clients: 1, keys: 4, values: None, repeated: 0 };
/// Callers at every ingress.
pub(super) const CALLERS: Traffic = Traffic { clients: 2, replicas: 2, versions: true };
pub(super) const NEEDS: Needs = Needs {
    ok: 500,
    txns: 0,
    leaders: 1,
    struck: &[],
    reconnects: 6,
    snapshots: 0,
    sent: 0,
    mixed: 0,
    strange: 0,
    placed: 0,
    short: 0,
    near: 0,
    returned: 0,
    leases: 0,
    chosen: 0,
    pace: 0,
    faults: 2,
};

pub(super) const BASE: Scenario = Scenario {
    name: "",
    about: "",
    nodes: 3,
    regions: None,
    joiners: 0,
    old: 0,
    kinds: EVERY,
    calm_ms: CALM_MS,
    lasts_s: 60,
    as_able: false,
    registers: None,
    set: 0,
    lists: 0,
    traffic: None,
    jobs: None,
    placements: None,
    leases: 0,
    artifacts: 0,
    admission: false,
    stranger: false,
    environment: &[],
    needs: NEEDS,
};

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "calm",
        about: "every client, no fault: whether the harness itself is sound",
        kinds: &[],
        registers: Some(LIGHT),
        set: 2,
        lists: 2,
        traffic: Some(CALLERS),
        needs: Needs { txns: 20, leaders: 0, faults: 0, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "register",
        about: "registers, watches and repeated requests under every fault",
        registers: Some(REGISTERS),
        ..BASE
    },
    Scenario {
        name: "register-few",
        about: "the same few values written again and again, under every fault",
        registers: Some(FEW),
        ..BASE
    },
    Scenario {
        name: "register-kill",
        about: "registers while nodes are killed: one, the leader, all, in storms",
        kinds: DEATH,
        registers: Some(REGISTERS),
        needs: Needs { struck: &[(Mark::Kill, 2)], ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "register-outage",
        about: "registers while all nodes are killed at once, again and again",
        kinds: &[Kind::Outage],
        registers: Some(REGISTERS),
        // Who led may well be the first to be elected again.
        needs: Needs { struck: &[(Mark::Kill, 6)], leaders: 0, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "register-power",
        about: "registers while one node, the leader or all lose power",
        kinds: POWER,
        calm_ms: SOON_MS,
        registers: Some(REGISTERS),
        // Most of the time nobody serves.
        needs: Needs { ok: 200, struck: &[(Mark::Power, 6)], leaders: 0, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "transactions-power",
        about: "transactions over lists while one node, the leader or all lose power",
        kinds: POWER,
        calm_ms: SOON_MS,
        lists: 6,
        needs: Needs { ok: 60, txns: 20, struck: &[(Mark::Power, 6)], leaders: 0, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "register-disk",
        about: "registers while disks are full, fail, are slow, or go away below a running node",
        kinds: DISK,
        registers: Some(REGISTERS),
        // A disk that is slow, or has room enough to go on for a while, changes no leader.
        needs: Needs { ok: 200, leaders: 0, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "register-wires",
        about: "registers while packets come late, out of order, twice, or slowly",
        kinds: WIRES,
        registers: Some(REGISTERS),
        needs: Needs { ok: 200, struck: &[(Mark::Wire, 2)], leaders: 0, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "register-clock",
        about: "registers and deployments while wall clocks are wrong by up to an hour and jump",
        kinds: CLOCKS,
        registers: Some(REGISTERS),
        traffic: Some(CALLERS),
        leases: 3,
        needs: Needs { struck: &[(Mark::Clock, 2)], leaders: 0, leases: 10, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "rolling",
        about: "requests through every ingress while node after node is restarted by SIGTERM: none fails",
        kinds: &[Kind::Rolling],
        registers: Some(LIGHT),
        traffic: Some(Traffic { clients: 4, ..CALLERS }),
        needs: Needs { struck: &[(Mark::Restart, 3)], ok: 300, reconnects: 3, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "upgrade",
        about: "requests and writes while node after node becomes one of a newer wire, then of the older: none fails",
        old: 3,
        kinds: &[Kind::Upgrade],
        registers: Some(LIGHT),
        lists: 3,
        traffic: Some(Traffic { clients: 4, ..CALLERS }),
        needs: Needs {
            struck: &[(Mark::Upgrade, 3)],
            ok: 300,
            txns: 5,
            reconnects: 3,
            sent: 10,
            mixed: 3,
            ..NEEDS
        },
        ..BASE
    },
    Scenario {
        name: "register-versions",
        about: "registers while nodes of two versions of the wire are killed, cut off and exchanged",
        old: 1,
        kinds: &[Kind::Upgrade, Kind::Kill, Kind::Kill, Kind::Partition],
        registers: Some(REGISTERS),
        // It is mixed all the time, also if no exchange fits into a short run.
        needs: Needs { ok: 100, leaders: 0, sent: 10, mixed: 3, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "register-pause",
        about: "registers while nodes stand still for 0.1 to 30 s",
        kinds: &[Kind::Pause],
        registers: Some(REGISTERS),
        // A pause shorter than an election changes no leader.
        needs: Needs { struck: &[(Mark::Pause, 2)], leaders: 0, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "register-partition",
        about: "registers under partitions of every shape, flapping ones, and loss",
        kinds: NETWORK,
        registers: Some(REGISTERS),
        needs: Needs { struck: &[(Mark::Cut, 2)], ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "register-isolated",
        about: "a few registers under partitions: who is alone must not answer by what it knows",
        kinds: &[Kind::Partition],
        registers: Some(LIGHT),
        needs: Needs {
            ok: 50,
            leaders: 0,
            struck: &[(Mark::Cut, 1)],
            reconnects: 3,
            faults: 1,
            ..NEEDS
        },
        ..BASE
    },
    Scenario {
        name: "register-five",
        about: "registers on five nodes: bridges and rings too",
        nodes: 5,
        registers: Some(REGISTERS),
        ..BASE
    },
    Scenario {
        name: "register-snapshots",
        about: "registers while nodes are killed and the log is purged below snapshots all the time",
        kinds: DEATH,
        registers: Some(REGISTERS),
        environment: &[("SWARMER_SNAPSHOT_LOG", "64KiB"), ("SWARMER_LOG_KEEP", "50")],
        needs: Needs { ok: 100, struck: &[(Mark::Kill, 2)], leaders: 0, snapshots: 3, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "register-amnesia",
        about: "registers while a follower's power is cut just when its memory decides what is kept",
        kinds: &[Kind::Amnesia],
        registers: Some(LIGHT),
        needs: Needs { ok: 50, struck: &[(Mark::Power, 1)], reconnects: 3, faults: 1, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "register-wipe",
        about: "registers while a follower loses its log for good, just when that decides what is kept",
        kinds: &[Kind::Wipe],
        // One at most, in a run of less than a minute: of three nodes no second one can be spared.
        calm_ms: (60_000, 60_000),
        registers: Some(LIGHT),
        needs: Needs {
            ok: 50,
            leaders: 0,
            struck: &[(Mark::Kill, 1)],
            reconnects: 3,
            faults: 1,
            ..NEEDS
        },
        ..BASE
    },
    Scenario {
        name: "register-reopen",
        about: "registers while a follower is killed before a sync, comes back, and loses its power",
        kinds: &[Kind::Reopen],
        calm_ms: SOON_MS,
        registers: Some(SINGLE),
        needs: Needs {
            ok: 30,
            struck: &[(Mark::Power, 1)],
            leaders: 0,
            reconnects: 3,
            faults: 1,
            ..NEEDS
        },
        ..BASE
    },
    Scenario {
        name: "register-revote",
        about: "registers while a follower's power is cut right after it gave its vote",
        kinds: &[Kind::Revote],
        calm_ms: SOON_MS,
        registers: Some(LIGHT),
        needs: Needs {
            ok: 50,
            struck: &[(Mark::Power, 1)],
            leaders: 0,
            reconnects: 3,
            faults: 1,
            ..NEEDS
        },
        ..BASE
    },
    Scenario {
        name: "set",
        about: "resources made and deleted, listed at the end, under every fault",
        set: 6,
        needs: Needs { ok: 100, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "transactions",
        about: "lists appended to and read, several in one transaction, under every fault",
        lists: 6,
        needs: Needs { ok: 100, txns: 50, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "transactions-outage",
        about: "the same while all nodes are killed at once, again and again",
        kinds: &[Kind::Outage],
        lists: 6,
        needs: Needs { ok: 100, txns: 50, struck: &[(Mark::Kill, 6)], leaders: 0, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "traffic",
        about: "requests through every ingress while versions change, under every fault",
        registers: Some(LIGHT),
        traffic: Some(Traffic { clients: 4, ..CALLERS }),
        ..BASE
    },
    Scenario {
        name: "jobs",
        about: "requests that may not run twice, while the nodes that run them are killed and cut off",
        kinds: &[Kind::Kill, Kind::Storm, Kind::Partition],
        jobs: Some(Jobs { clients: 3, replicas: 2 }),
        // Nothing changes that a follower would be told of.
        needs: Needs { ok: 50, leaders: 0, reconnects: 0, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "artifacts",
        about: "artifacts handed over and read back where they should be, while nodes die and are cut off",
        kinds: &[Kind::Kill, Kind::Storm, Kind::Partition],
        artifacts: 2,
        // Nothing changes that a follower would be told of.
        needs: Needs { ok: 10, leaders: 0, reconnects: 0, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "artifacts-power",
        about: "the same while power is cut",
        kinds: POWER,
        calm_ms: SOON_MS,
        artifacts: 2,
        needs: Needs { ok: 10, leaders: 0, reconnects: 0, struck: &[(Mark::Power, 2)], ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "admission",
        about: "datagrams sent again, and a node that is removed and goes on",
        kinds: &[],
        registers: Some(LIGHT),
        admission: true,
        needs: Needs { ok: 50, leaders: 0, faults: 0, reconnects: 3, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "stranger",
        about: "noise, damaged and borrowed packets, handshakes of nobody, and another cluster's node",
        kinds: &[],
        registers: Some(LIGHT),
        set: 1,
        traffic: Some(CALLERS),
        stranger: true,
        needs: Needs { leaders: 0, faults: 0, reconnects: 0, strange: 15, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "membership",
        about: "registers and transactions while nodes come, go, are replaced and come back wiped",
        kinds: &[Kind::Membership],
        registers: Some(LIGHT),
        lists: 3,
        needs: Needs { ok: 200, txns: 20, struck: MEMBERSHIP, leaders: 1, ..NEEDS },
        ..BASE
    },
    placement::PLACEMENT,
    placement::CHOICE,
    regions::CALM,
    regions::NEAR,
    regions::KILL,
    regions::LOSS,
    regions::PAIRS,
    regions::CLOCK,
    regions::SLOW,
    regions::FLAP,
    regions::LINK,
    regions::AWAY,
    regions::BACK,
    regions::STRETCH,
    Scenario {
        name: "mixed",
        about: "every client under every fault",
        registers: Some(REGISTERS),
        set: 3,
        lists: 3,
        traffic: Some(Traffic { clients: 3, ..CALLERS }),
        needs: Needs { txns: 20, ..NEEDS },
        ..BASE
    },
    Scenario {
        name: "everything",
        about: "every client under every fault that there is: power, disks, wires and clocks too",
        old: 1,
        kinds: ALL,
        as_able: true,
        registers: Some(REGISTERS),
        set: 3,
        lists: 3,
        traffic: Some(Traffic { clients: 3, ..CALLERS }),
        needs: Needs { ok: 300, txns: 5, ..NEEDS },
        ..BASE
    },
];

impl Scenario {
    /// By its name.
    pub fn named(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_scenario_does_something() {
        for (i, scenario) in SCENARIOS.iter().enumerate() {
            assert!(!scenario.name.is_empty() && !scenario.about.is_empty());
            assert_eq!(SCENARIOS.iter().position(|s| s.name == scenario.name), Some(i));
            let idle = scenario.registers.is_none() && scenario.traffic.is_none();
            let idle = idle
                && scenario.placements.is_none()
                && scenario.jobs.is_none()
                && scenario.artifacts == 0;
            assert!(!idle || scenario.set + scenario.lists > 0, "{}", scenario.name);
            assert!(scenario.needs.ok > 0, "{}", scenario.name);
        }
    }
}
