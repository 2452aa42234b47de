//! Known bugs that a test build has on demand, so that chaos-tests can show that it would find
//! them: a run that cannot fail proves nothing.
//!
//! Without the feature `planted` there is nothing of it: [`is_on`] is `false` when it is compiled,
//! and what stands behind it is not built. Each bug is one `if` in the very place of the guard that
//! it takes away.

use std::{fmt, str::FromStr, sync::OnceLock};

#[cfg(all(feature = "planted", not(debug_assertions)))]
compile_error!("the feature `planted` is for tests: no release can be built with it");

/// Whether this build can be told to have a bug.
pub const BUILT_IN: bool = cfg!(feature = "planted");

/// The environment variable by which the binary of such a build is told which.
pub const VARIABLE: &str = "SWARMER_PLANTED";

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident = $name:literal,)*) => {
        /// A bug that can be switched on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bug {
            $($(#[$doc])* $bug,)*
        }

        impl Bug {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$bug,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$bug => $name,)*
                }
            }
        }
    };
}

bugs! {
    /// The log says that entries are durable before their fsync.
    AckBeforeFsync = "ack-before-fsync",
    /// The log says that a vote is durable, without an fsync.
    VoteWithoutFsync = "vote-without-fsync",
    /// What an opened log read is acted on before it is synced.
    OpenWithoutSync = "open-without-sync",
    /// A leader answers read barriers by its own copy, without asking a quorum.
    ReadWithoutIndex = "read-without-index",
    /// A request that was answered before is applied again.
    ForgetRequests = "forget-requests",
    /// The log is purged further than the snapshot reaches.
    PurgePastSnapshot = "purge-past-snapshot",
    /// A voter that lost its log comes back under its old id.
    ReuseNodeId = "reuse-node-id",
    /// A watch that is taken up again leaves out the first event.
    SkipWatchEvent = "skip-watch-event",
    /// The window against replays lets everything pass.
    AcceptReplay = "accept-replay",
    /// Who is no member is welcomed on a connection for members, and not told to go.
    WelcomeStranger = "welcome-stranger",
    /// A removed node is a member for ever.
    ServeRemovedNode = "serve-removed-node",
    /// A request goes to the version before the one that has a share of them.
    RouteToRemovedVersion = "route-to-removed-version",
    /// A request that may not run twice is sent again.
    RetrySentPost = "retry-sent-post",
    /// A node gets copies that it has no room for.
    OverfillNode = "overfill-node",
    /// A function goes to nodes that its rule does not allow.
    ForgetConstraint = "forget-constraint",
    /// A large plan gives room that another part of it has not taken yet.
    PlaceOutOfTurn = "place-out-of-turn",
    /// Votes are given without a look at regions.
    VotersInOneRegion = "voters-in-one-region",
    /// A request goes to any copy, whatever region it stands in.
    RouteFar = "route-far",
    /// A function whose copies are lost with their region is started nowhere else.
    ForgetRegion = "forget-region",
    /// Heartbeats and elections do not follow the round trips.
    LanClock = "lan-clock",
    /// A node that starts leaves out what became of its functions while it was away.
    KeepOldState = "keep-old-state",
    /// Leases age by the leader's wall clock.
    LeaseByClock = "lease-by-clock",
    /// A drained region gets copies as any other one.
    FillDrainedRegion = "fill-drained-region",
    /// Copies are placed without a look at zones.
    ForgetSpread = "forget-spread",
    /// Copies are placed without a look at what they are to be near to, or apart from.
    ForgetAffinity = "forget-affinity",
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Bug {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let names: Vec<&str> = Self::ALL.iter().map(|bug| bug.name()).collect();
        let known = Self::ALL.iter().copied().find(|bug| bug.name() == name);
        known.ok_or_else(|| format!("there is no bug {name:?}; there are {}", names.join(", ")))
    }
}

static CHOSEN: OnceLock<Bug> = OnceLock::new();

/// Switches a bug on, for the life of the process. The first call counts; of a build without the
/// feature none does.
pub fn choose(bug: Bug) {
    let _ = CHOSEN.set(bug);
}

/// Whether the bug is switched on.
#[inline]
pub fn is_on(bug: Bug) -> bool {
    BUILT_IN && CHOSEN.get() == Some(&bug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found_again() {
        for (i, bug) in Bug::ALL.iter().enumerate() {
            assert_eq!(bug.name().parse(), Ok(*bug));
            assert_eq!(Bug::ALL.iter().position(|other| other.name() == bug.name()), Some(i));
        }
        assert!("sleep-late".parse::<Bug>().unwrap_err().contains("forget-requests"));
    }

    #[test]
    fn a_bug_is_on_only_where_it_is_built_in_and_chosen() {
        assert!(!Bug::ALL.iter().any(|bug| is_on(*bug)), "nothing is chosen");
        choose(Bug::ForgetRequests);
        choose(Bug::AcceptReplay);
        assert_eq!(is_on(Bug::ForgetRequests), BUILT_IN);
        assert!(!is_on(Bug::AcceptReplay));
    }
}
