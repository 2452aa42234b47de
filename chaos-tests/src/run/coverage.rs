//! What a run went through. Too little of it proves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use swarmer_model::wire;

use crate::{
    check::{back, choice, lease, near, placement},
    history::{Action, Answer, Operation, Outcome, Step, Strange},
    nemesis::{Done, Mark},
};

/// What happened in a run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// Operations that were ok.
    pub ok: u64,
    /// Operations that failed.
    pub failed: u64,
    /// Operations of which nobody knows.
    pub unknown: u64,
    /// Of those that were ok: transactions that changed something, over several functions.
    #[serde(default)]
    pub txns: u64,
    /// Changes of the leader.
    pub leaders: u64,
    /// How often each fault struck: once for each node, or once if it is the network.
    #[serde(default)]
    pub struck: BTreeMap<Mark, u64>,
    /// Connections of followers after their first.
    pub reconnects: u64,
    /// Snapshots that nodes made or were sent.
    #[serde(default)]
    pub snapshots: u64,
    /// Messages with writes from node to node, by the version of the wire.
    #[serde(default)]
    pub sent: BTreeMap<u8, u64>,
    /// Looks at a node whose connections were of several versions of the wire.
    #[serde(default)]
    pub mixed: u64,
    /// Packets of a stranger, and how many of that kind were refused.
    #[serde(default)]
    pub strange: BTreeMap<Strange, (u64, u64)>,
    /// Copies that were placed.
    #[serde(default)]
    pub placed: u64,
    /// Plans of functions for which there was too little room.
    #[serde(default)]
    pub short: u64,
    /// Calls that had to be answered in their own region.
    #[serde(default)]
    pub near: u64,
    /// Calls at nodes that were back and had missed a change of the version.
    #[serde(default)]
    pub returned: u64,
    /// Renewals of leases that were ok.
    #[serde(default)]
    pub leases: u64,
    /// Copies of which is known that they stand where they should rather.
    #[serde(default)]
    pub chosen: u64,
}

/// The least that a scenario demands, in every run of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Operations that were ok.
    pub ok: u64,
    /// Transactions that changed something, over several functions.
    pub txns: u64,
    /// Changes of the leader.
    pub leaders: u64,
    /// How often these faults struck, counted as in [`Coverage::struck`].
    pub struck: &'static [(Mark, u64)],
    /// Connections of followers after their first.
    pub reconnects: u64,
    /// Snapshots that nodes made or were sent.
    pub snapshots: u64,
    /// Messages with writes from node to node, of each version of the wire.
    pub sent: u64,
    /// Looks at a node whose connections were of several versions of the wire.
    pub mixed: u64,
    /// Packets of a stranger, of each kind; and at least one of each was refused. Of another cluster's
    /// node, which says little, one.
    pub strange: u64,
    /// Copies that were placed.
    pub placed: u64,
    /// Plans of functions for which there was too little room.
    pub short: u64,
    /// Calls that had to be answered in their own region.
    pub near: u64,
    /// Calls at nodes that were back and had missed a change of the version.
    pub returned: u64,
    /// Renewals of leases that were ok.
    pub leases: u64,
    /// Copies of which is known that they stand where they should rather.
    pub chosen: u64,
    /// Cuts of the network in each minute of faults.
    pub pace: u64,
    /// Faults of any kind.
    pub faults: u64,
}

impl Coverage {
    /// From what was taken down.
    pub fn of(history: &[Operation], done: &[Done], leaders: u64, reconnects: u64) -> Self {
        let count = |wanted: fn(&Outcome) -> bool| {
            let told = history.iter().filter(|op| !op.is_note() && !op.is_strange());
            told.filter(|operation| wanted(&operation.outcome)).count() as u64
        };
        let mut struck = BTreeMap::new();
        for fault in done {
            let times = if fault.kind.is_network() { 1 } else { fault.nodes.len() as u64 };
            *struck.entry(fault.kind).or_default() += times;
        }
        let (placed, short) = placement::seen(history);
        Self {
            ok: count(|outcome| matches!(outcome, Outcome::Ok { .. })),
            failed: count(|outcome| matches!(outcome, Outcome::Failed { .. })),
            unknown: count(|outcome| matches!(outcome, Outcome::Unknown { .. })),
            txns: history.iter().filter(|operation| spans_lists(operation)).count() as u64,
            leaders,
            struck,
            reconnects,
            snapshots: 0,
            sent: BTreeMap::new(),
            mixed: 0,
            strange: strange(history),
            placed,
            short,
            near: near::seen(history),
            returned: back::seen(history),
            leases: lease::seen(history),
            chosen: choice::seen(history),
        }
    }

    /// What is missing; empty if it is enough.
    pub fn missing(&self, needs: &Needs) -> Vec<String> {
        let faults: u64 = self.struck.values().sum();
        let rows = [
            ("operations that were ok", self.ok, needs.ok),
            ("transactions over several functions", self.txns, needs.txns),
            ("changes of the leader", self.leaders, needs.leaders),
            ("reconnects", self.reconnects, needs.reconnects),
            ("snapshots", self.snapshots, needs.snapshots),
            ("looks at a mixed cluster", self.mixed, needs.mixed),
            ("copies placed", self.placed, needs.placed),
            ("plans without room", self.short, needs.short),
            ("calls that had to stay in their region", self.near, needs.near),
            ("calls at nodes that were back", self.returned, needs.returned),
            ("renewals of leases", self.leases, needs.leases),
            ("copies whose place was judged", self.chosen, needs.chosen),
            ("faults", faults, needs.faults),
        ];
        // Since these, writes are sent in another way.
        let versions = [wire::OLDEST, wire::MANY_WRITES]
            .map(|version| (of_version(version), self.of_version(version), needs.sent));
        let marks =
            needs.struck.iter().map(|(mark, need)| (mark.counted(), self.of_mark(*mark), *need));
        let rows =
            rows.into_iter().chain(marks).map(|(what, have, need)| (what.to_owned(), have, need));
        // Who was not heard proves nothing.
        let strange = Strange::ALL.into_iter().filter(|_| needs.strange > 0).flat_map(|what| {
            let (packets, refused) = self.of_stranger(what);
            let need = if what == Strange::Foreign { 1 } else { needs.strange };
            let told = what.counted();
            [(told.to_owned(), packets, need), (format!("refusals of {told}"), refused, 1)]
        });
        rows.chain(versions)
            .chain(strange)
            .filter(|(_, have, need)| have < need)
            .map(|(what, have, need)| format!("{have} {what}, {need} are needed"))
            .collect()
    }

    /// The same of what a longer run must have more of.
    pub fn too_slow(&self, needs: &Needs, lasts: Duration) -> Option<String> {
        let (have, need) = (self.of_mark(Mark::Cut), needs.pace * lasts.as_secs() / 60);
        let what = Mark::Cut.counted();
        (have < need).then(|| format!("{have} {what} in {lasts:?}, {need} are needed"))
    }

    /// How many messages with writes were of this version of the wire.
    pub fn of_version(&self, version: u8) -> u64 {
        self.sent.get(&version).copied().unwrap_or(0)
    }

    /// How many packets of this kind a stranger sent, and how many of them were refused.
    pub fn of_stranger(&self, what: Strange) -> (u64, u64) {
        self.strange.get(&what).copied().unwrap_or_default()
    }

    /// How often such a fault struck.
    pub fn of_mark(&self, mark: Mark) -> u64 {
        self.struck.get(&mark).copied().unwrap_or(0)
    }
}

/// What a stranger sent, by kind, and what was refused of it.
fn strange(history: &[Operation]) -> BTreeMap<Strange, (u64, u64)> {
    let mut strange = BTreeMap::new();
    for operation in history {
        if let (Action::Strange { what }, Some(Answer::Heard { packets, refused, .. })) =
            (&operation.action, operation.answer())
        {
            let (sent, told): &mut (u64, u64) = strange.entry(*what).or_default();
            *sent += packets;
            *told += refused;
        }
    }
    strange
}

/// What messages of a version are called when they are counted.
pub fn of_version(version: u8) -> String {
    format!("messages with writes of version {version} of the wire")
}

/// Whether it is a transaction that changed something, over more than one list, and was ok.
fn spans_lists(operation: &Operation) -> bool {
    let Action::Txn { steps } = &operation.action else { return false };
    let lists: BTreeSet<u64> = steps.iter().map(Step::list).collect();
    let changes = steps.iter().any(|step| matches!(step, Step::Append(..)));
    operation.is_ok() && changes && lists.len() > 1
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ok ({} transactions over several functions), {} failed, {} unknown; {} leader \
             changes, {} snapshots, {} reconnects",
            self.ok,
            self.txns,
            self.failed,
            self.unknown,
            self.leaders,
            self.snapshots,
            self.reconnects
        )?;
        self.struck
            .iter()
            .try_for_each(|(mark, times)| write!(f, ", {times} {}", mark.counted()))?;
        for (what, (packets, refused)) in &self.strange {
            write!(f, "; {packets} {}, {refused} refusals", what.counted())?;
        }
        if self.placed > 0 {
            write!(f, "; {} copies placed, {} plans without room", self.placed, self.short)?;
        }
        if self.near > 0 {
            write!(f, "; {} calls that had to stay in their region", self.near)?;
        }
        if self.returned > 0 {
            write!(f, "; {} calls at nodes that were back", self.returned)?;
        }
        if self.leases > 0 {
            write!(f, "; {} renewals of leases", self.leases)?;
        }
        if self.chosen > 0 {
            write!(f, "; {} copies whose place was judged", self.chosen)?;
        }
        if self.mixed > 0 {
            write!(f, "; {} looks at a mixed cluster", self.mixed)?;
            let mut sent = self.sent.iter();
            sent.try_for_each(|(version, times)| write!(f, ", {times} {}", of_version(*version)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Answer;

    #[test]
    fn only_transactions_over_several_lists_that_changed_something_count() {
        let ok = |steps: &[Step]| Operation {
            id: 1,
            client: 1,
            node: "n1".into(),
            invoked_ns: 0,
            completed_ns: 1,
            action: Action::Txn { steps: steps.to_vec() },
            outcome: Outcome::Ok { answer: Answer::Steps { steps: steps.to_vec() } },
        };
        let (append, read) = (Step::Append(1, 1), Step::Read(2, None));
        let unknown = Outcome::Unknown { why: String::new() };
        let history = [
            ok(&[append.clone(), read.clone()]),
            ok(&[Step::Read(1, None), append.clone()]),
            ok(&[Step::Read(1, None), read.clone()]),
            Operation { outcome: unknown, ..ok(&[append, read]) },
        ];
        assert_eq!(Coverage::of(&history, &[], 0, 0).txns, 1);
    }

    #[test]
    fn a_stranger_that_was_not_heard_proves_nothing() {
        let burst = |what, packets, refused| Operation {
            id: 1,
            client: 1,
            node: "n1".into(),
            invoked_ns: 0,
            completed_ns: 1,
            action: Action::Strange { what },
            outcome: Outcome::Ok { answer: Answer::Heard { packets, came: 0, refused, served: 0 } },
        };
        let needs = Needs { strange: 10, ..Needs::default() };
        let of = |history: &[Operation]| Coverage::of(history, &[], 0, 0);
        let all: Vec<Operation> = Strange::ALL
            .into_iter()
            .flat_map(|what| [burst(what, 6, 0), burst(what, 4, 1)])
            .collect();
        assert_eq!(of(&all).of_stranger(Strange::Noise), (10, 1));
        assert!(of(&all).missing(&needs).is_empty());
        let told = of(&all[2..]).missing(&needs);
        assert_eq!(told.len(), 2, "neither sent nor refused: {told:?}");
        let mut deaf = all;
        deaf[1] = burst(Strange::Noise, 4, 0);
        assert_eq!(of(&deaf).missing(&needs).len(), 1, "sent, and heard by nobody");
        assert!(Coverage::default().missing(&Needs::default()).is_empty());
    }

    #[test]
    fn too_little_is_told() {
        let done = |kind: Mark, nodes: &[usize]| Done {
            from_ns: 0,
            to_ns: 1,
            what: String::new(),
            nodes: nodes.to_vec(),
            kind,
        };
        let coverage = Coverage::of(&[], &[done(Mark::Kill, &[0, 1]), done(Mark::Cut, &[])], 1, 4);
        assert_eq!(coverage.struck, BTreeMap::from([(Mark::Kill, 2), (Mark::Cut, 1)]));
        let struck = &[(Mark::Kill, 2), (Mark::Cut, 1)];
        let needs = Needs { struck, leaders: 1, reconnects: 4, faults: 3, ..Needs::default() };
        assert!(coverage.missing(&needs).is_empty());
        let missing = coverage.missing(&Needs { ok: 1, struck: &[(Mark::Pause, 2)], ..needs });
        assert_eq!(missing.len(), 2, "{missing:?}");
        let flaps = Needs { pace: 8, ..Needs::default() };
        let cuts = |cuts| Coverage { struck: [(Mark::Cut, cuts)].into(), ..Coverage::default() };
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        assert_eq!(cuts(80).too_slow(&flaps, minutes(10)), None);
        assert!(
            cuts(79).too_slow(&flaps, minutes(10)).is_some(),
            "enough for less than ten minutes"
        );
        assert_eq!(cuts(0).too_slow(&Needs::default(), minutes(10)), None);
        let mixed = Needs { sent: 2, mixed: 1, ..Needs::default() };
        let one = Coverage { sent: [(1, 5), (2, 1)].into(), mixed: 1, ..Coverage::default() };
        assert_eq!(one.missing(&mixed).len(), 1, "of version 2 there was too little");
        let both = Coverage { sent: [(1, 2), (2, 2)].into(), ..one };
        assert!(both.missing(&mixed).is_empty());
        let apart = Coverage { mixed: 0, ..both };
        assert_eq!(apart.missing(&mixed).len(), 1, "never at the same time");
    }
}
