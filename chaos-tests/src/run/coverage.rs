//! What a run went through. Too little of it proves nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    history::{Operation, Outcome},
    nemesis::Done,
};

/// What happened in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Coverage {
    /// Operations that were ok.
    pub ok: u64,
    /// Operations that failed.
    pub failed: u64,
    /// Operations of which nobody knows.
    pub unknown: u64,
    /// Changes of the leader.
    pub leaders: u64,
    /// Processes killed.
    pub kills: u64,
    /// Processes paused.
    pub pauses: u64,
    /// Times that the network was cut.
    pub cuts: u64,
    /// Times that packets were lost at random.
    pub losses: u64,
    /// Connections of followers after their first.
    pub reconnects: u64,
}

/// The least that a scenario demands, in every run of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Operations that were ok.
    pub ok: u64,
    /// Changes of the leader.
    pub leaders: u64,
    /// Processes killed.
    pub kills: u64,
    /// Processes paused.
    pub pauses: u64,
    /// Times that the network was cut.
    pub cuts: u64,
    /// Connections of followers after their first.
    pub reconnects: u64,
    /// Faults of any kind.
    pub faults: u64,
}

impl Coverage {
    /// From what was taken down.
    pub fn of(history: &[Operation], done: &[Done], leaders: u64, reconnects: u64) -> Self {
        let count = |wanted: fn(&Outcome) -> bool| {
            history.iter().filter(|operation| wanted(&operation.outcome)).count() as u64
        };
        let faults = |kind: &'static str| done.iter().filter(move |done| done.kind == kind);
        let struck = |kind: &'static str| faults(kind).map(|done| done.nodes.len() as u64).sum();
        Self {
            ok: count(|outcome| matches!(outcome, Outcome::Ok { .. })),
            failed: count(|outcome| matches!(outcome, Outcome::Failed { .. })),
            unknown: count(|outcome| matches!(outcome, Outcome::Unknown { .. })),
            leaders,
            kills: struck("kill"),
            pauses: struck("pause"),
            cuts: faults("cut").count() as u64,
            losses: faults("loss").count() as u64,
            reconnects,
        }
    }

    /// What is missing; empty if it is enough.
    pub fn missing(&self, needs: &Needs) -> Vec<String> {
        let faults = self.kills + self.pauses + self.cuts + self.losses;
        [
            ("operations that were ok", self.ok, needs.ok),
            ("changes of the leader", self.leaders, needs.leaders),
            ("kills", self.kills, needs.kills),
            ("pauses", self.pauses, needs.pauses),
            ("cuts", self.cuts, needs.cuts),
            ("reconnects", self.reconnects, needs.reconnects),
            ("faults", faults, needs.faults),
        ]
        .into_iter()
        .filter(|(_, have, need)| have < need)
        .map(|(what, have, need)| format!("{have} {what}, {need} are needed"))
        .collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ok, {} failed, {} unknown; {} leader changes, {} kills, {} pauses, {} cuts, \
             {} times loss, {} reconnects",
            self.ok,
            self.failed,
            self.unknown,
            self.leaders,
            self.kills,
            self.pauses,
            self.cuts,
            self.losses,
            self.reconnects
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_is_told() {
        let done = |kind: &'static str, nodes: &[usize]| Done {
            from_ns: 0,
            to_ns: 1,
            what: String::new(),
            nodes: nodes.to_vec(),
            kind: kind.into(),
        };
        let coverage = Coverage::of(&[], &[done("kill", &[0, 1]), done("cut", &[])], 1, 4);
        assert_eq!((coverage.kills, coverage.cuts, coverage.pauses), (2, 1, 0));
        let needs =
            Needs { kills: 2, cuts: 1, leaders: 1, reconnects: 4, faults: 3, ..Needs::default() };
        assert!(coverage.missing(&needs).is_empty());
        let missing = coverage.missing(&Needs { ok: 1, pauses: 2, ..needs });
        assert_eq!(missing.len(), 2, "{missing:?}");
    }
}
