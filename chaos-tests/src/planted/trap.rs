//! Which scenario finds which bug.

use std::time::Duration;

use swarmer_model::planted::Bug;

/// A bug and the shortest way to find it.
#[derive(Debug, Clone, Copy)]
pub struct Trap {
    /// The bug.
    pub bug: Bug,
    /// The scenario.
    pub scenario: &'static str,
    /// How long its faults strike.
    pub lasts: Duration,
}

const fn trap(bug: Bug, scenario: &'static str, secs: u64) -> Trap {
    Trap { bug, scenario, lasts: Duration::from_secs(secs) }
}

/// One at least for each bug that is looked for.
pub const TRAPS: &[Trap] = &[
    trap(Bug::AckBeforeFsync, "register-amnesia", 14),
    trap(Bug::VoteWithoutFsync, "register-revote", 24),
    trap(Bug::OpenWithoutSync, "register-reopen", 24),
    trap(Bug::ReuseNodeId, "register-wipe", 14),
    trap(Bug::ReadWithoutIndex, "register-isolated", 20),
    trap(Bug::ForgetRequests, "calm", 20),
    trap(Bug::PurgePastSnapshot, "register-snapshots", 20),
    trap(Bug::SkipWatchEvent, "calm", 20),
    trap(Bug::AcceptReplay, "admission", 12),
    trap(Bug::AcceptReplay, "stranger", 20),
    trap(Bug::WelcomeStranger, "stranger", 20),
    trap(Bug::ServeRemovedNode, "admission", 12),
    trap(Bug::RouteToRemovedVersion, "calm", 20),
    trap(Bug::RetrySentPost, "jobs", 20),
    trap(Bug::OverfillNode, "placement", 20),
    trap(Bug::ForgetConstraint, "placement", 20),
    trap(Bug::PlaceOutOfTurn, "placement", 20),
    trap(Bug::VotersInOneRegion, "region-away", 110),
    trap(Bug::RouteFar, "region-near", 20),
    trap(Bug::ForgetRegion, "region-away", 110),
    trap(Bug::FillDrainedRegion, "placement", 20),
    trap(Bug::ForgetSpread, "placement-choice", 30),
    trap(Bug::ForgetAffinity, "placement-choice", 30),
    trap(Bug::LanClock, "far-apart", 36),
    trap(Bug::KeepOldState, "region-back", 50),
    trap(Bug::LeaseByClock, "region-clock", 30),
];

impl Trap {
    /// All for the bug of this name.
    ///
    /// # Errors
    /// There is no such bug, or no scenario that looks for it.
    pub fn named(name: &str) -> Result<Vec<&'static Self>, String> {
        let bug: Bug = name.parse()?;
        let found: Vec<_> = TRAPS.iter().filter(|trap| trap.bug == bug).collect();
        if found.is_empty() { Err(format!("no scenario looks for {bug}")) } else { Ok(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Scenario;

    #[test]
    fn every_trap_is_a_scenario_and_every_bug_has_one() {
        for (i, trap) in TRAPS.iter().enumerate() {
            assert!(Scenario::named(trap.scenario).is_some(), "{}", trap.scenario);
            let same = |other: &Trap| (other.bug, other.scenario) == (trap.bug, trap.scenario);
            assert_eq!(TRAPS.iter().position(same), Some(i), "the same twice");
        }
        for bug in Bug::ALL {
            assert!(Trap::named(bug.name()).is_ok(), "nothing looks for {bug}");
        }
        assert!(Trap::named("no-such-bug").is_err());
    }
}
